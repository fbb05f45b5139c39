"""What changed between two task lists: the same task, other words, another place, new, or gone.

A model is asked about a task by the statement and the title of its occupation. So a task is `unchanged` where the
statement is the same under the same occupation code, and only there can a label be carried over as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal, get_args

import pandas as pd
import pandera.pandas as pa

from relabel.task import task_table

Change = Literal["unchanged", "reworded", "moved", "new", "dropped"]
CHANGES: tuple[Change, ...] = get_args(Change)
CHANGE_NOTES: Mapping[Change, str] = {
    "unchanged": "same id, occupation code and statement",
    "reworded": "same id and occupation code, another statement",
    "moved": "same id under another occupation code, or same statement under another id",
    "new": "in the newer list only",
    "dropped": "in the older list only",
}

_SIDES = ("old", "new")
_TOLD = ("task_id", "onet_soc_code", "title", "text")

DIFF = pa.DataFrameSchema(
    {
        "change": pa.Column("str", pa.Check.isin(CHANGES)),
        **{f"{column}_{side}": pa.Column("str", nullable=True) for side in _SIDES for column in _TOLD},
        "retitled": pa.Column("bool"),
    },
    strict=True,
    ordered=True,
)
"""One row a task of either list. `retitled`: the task is in both, and the title of its occupation differs."""


@dataclass(frozen=True)
class TaskDiff:
    """The difference between two task lists.

    Attributes:
        old: Name of the older list.
        new: Name of the newer list.
        frame: Table of schema `DIFF`, in the order of the newer list, then the dropped tasks.
    """

    old: str
    new: str
    frame: pd.DataFrame

    @property
    def counts(self) -> dict[Change, int]:
        """Number of tasks by change."""
        found = self.frame["change"].value_counts()
        return {change: int(found.get(change, 0)) for change in CHANGES}

    @property
    def retitled(self) -> int:
        """Number of unchanged tasks whose occupation has another title, which the model was told."""
        return int((self.frame["retitled"] & (self.frame["change"] == "unchanged")).sum())

    def rows(self, change: Change) -> pd.DataFrame:
        """The tasks of one kind of change, schema `DIFF`."""
        return self.frame[self.frame["change"] == change].reset_index(drop=True)

    def describe(self) -> dict[str, Any]:
        """Both lists, counts, and every task that is not unchanged, as plain values."""
        changed = self.frame[self.frame["change"] != "unchanged"]
        rows = changed.astype(object).where(changed.notna(), None).to_dict("records")
        return {
            "old": self.old,
            "new": self.new,
            "counts": dict(self.counts),
            "retitled": self.retitled,
            "notes": dict(CHANGE_NOTES),
            "tasks": [{str(key): value for key, value in row.items()} for row in rows],
        }


def diff_tasks(old: str, new: str) -> TaskDiff:
    """Compare two task lists by name or path.

    Args:
        old: The older list, as for `relabel.task.task_table`.
        new: The newer list.

    Returns:
        The difference.

    Raises:
        DataError: A list is unknown, missing or malformed.
    """
    return TaskDiff(old, new, diff_tables(task_table(old), task_table(new)))


def diff_tables(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Compare two task tables.

    Tasks are matched by occupation code and id first; then by id alone; then by equal statements, under the same
    occupation code before any other. Each task is matched at most once, in the order of the lists. In statements runs of
    white space count as one space.

    Args:
        old: The older list, schema `relabel.task.TASKS`.
        new: The newer list.

    Returns:
        Table of schema `DIFF`.
    """
    a, b = _keyed(old), _keyed(new)
    pairs = pd.DataFrame({"row_old": [], "row_new": []}, dtype="Int64")
    for keys in (["onet_soc_code", "task_id"], ["task_id"], ["onet_soc_code", "said"], ["said"]):
        free_old, free_new = _numbered(a, pairs["row_old"], keys), _numbered(b, pairs["row_new"], keys)
        found = free_old.merge(free_new, on=[*keys, "nth"], suffixes=("_old", "_new"))
        pairs = pd.concat([pairs, found[["row_old", "row_new"]].astype("Int64")], ignore_index=True)
    alone = [
        pd.DataFrame({side: table.index[~table.index.isin(pairs[side])]}, dtype="Int64")
        for side, table in (("row_new", b), ("row_old", a))
    ]
    rows = pd.concat([pairs, *alone]).sort_values(["row_new", "row_old"], na_position="last", ignore_index=True)
    sides = [_told(table, rows[f"row_{side}"], side) for side, table in (("old", old), ("new", new))]
    frame = pd.concat(sides, axis=1)
    both = rows.notna().all(axis=1)
    same_place = both & (frame["task_id_old"] == frame["task_id_new"])
    same_place &= frame["onet_soc_code_old"] == frame["onet_soc_code_new"]
    same_words = _plain(frame["text_old"]) == _plain(frame["text_new"])
    change = pd.Series("moved", index=frame.index, dtype="str").mask(same_place, "reworded")
    change = change.mask(same_place & same_words, "unchanged")
    change = change.mask(rows["row_old"].isna(), "new").mask(rows["row_new"].isna(), "dropped")
    frame["change"] = change
    frame["retitled"] = (both & (_plain(frame["title_old"]) != _plain(frame["title_new"]))).astype(bool)
    return DIFF.validate(frame[list(DIFF.columns)])


REPLACED_BELOW = 0.35
"""Similarity below which a statement under an old id is another task. All 58 rewordings from 2023 to O*NET 30.2 lie at .40
or above, 99 of 100 pairs of unrelated statements below .24."""


def text_similarity(old: pd.Series, new: pd.Series) -> pd.Series:
    """How alike statements are, word by word: 1 for equal ones, 0 for those without a common word in order; NaN where unknown.

    Args:
        old: Statements.
        new: Statements of the same tasks, same index.
    """
    both = [side.astype("object").where(side.notna(), "").astype(str).str.casefold().str.split() for side in (old, new)]
    unknown = (old.isna() | new.isna()).to_numpy()
    found = [
        math.nan if gap else 1.0 if a == b else SequenceMatcher(None, a, b, autojunk=False).ratio()
        for a, b, gap in zip(*both, unknown, strict=True)
    ]
    return pd.Series(found, index=old.index, dtype="float64")


def _keyed(table: pd.DataFrame) -> pd.DataFrame:
    keyed = table[["task_id", "onet_soc_code"]].assign(said=_plain(table["text"]))
    return keyed.reset_index(drop=True)


def _plain(text: pd.Series) -> pd.Series:
    return text.str.split().str.join(" ")


def _numbered(table: pd.DataFrame, taken: pd.Series, keys: list[str]) -> pd.DataFrame:
    """Rows that are not taken, numbered within equal keys, so that each is matched at most once."""
    free = table[~table.index.isin(taken)]
    return free[keys].assign(nth=free.groupby(keys).cumcount(), row=free.index)


def _told(table: pd.DataFrame, rows: pd.Series, side: str) -> pd.DataFrame:
    """The columns of a list at these rows, missing where there is none."""
    told = table.reset_index(drop=True)[list(_TOLD)].reindex(rows.astype("float64")).reset_index(drop=True)
    return told.astype("str").add_suffix(f"_{side}")
