"""A task: one O*NET task statement, or for rubrics that rate occupations one occupation, and the lists of them."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import pandera.pandas as pa

from relabel.errors import DataError
from relabel.rubric import Unit
from relabel.settings import Frozen, asset_dir
from relabel.sources import eloundou, fetch, onet, registry
from relabel.sources.tables import ONET_SOC, TASK_TYPES, is_table_file, read_table

TASK_KEY = ["onet_soc_code", "task_id"]
"""Columns that name a task together: one id may stand for tasks of several occupations. A list, as pandas takes no other."""

TASK_COLUMNS = ("task_id", "onet_soc_code", "title", "text", "task_type", "importance")
"""Columns of a task table; `importance` is IM on 1-5, missing where a task is unrated."""

OCCUPATION_COLUMNS = ("onet_soc_code", "title", "description")
"""Columns of a list of occupations."""

TASK_LISTS = ("onet-30.2", "onet-29.1", "eloundou-2023", "sample")
"""Task lists that go by name; a release of O*NET in a user's own registry joins them."""

_IM = (1, 5)

TASKS = pa.DataFrameSchema(
    {
        "task_id": pa.Column("str", pa.Check.str_matches(r"\S")),
        "onet_soc_code": pa.Column("str", pa.Check.str_matches(ONET_SOC)),
        "title": pa.Column("str"),
        "text": pa.Column("str"),
        "task_type": pa.Column("str", nullable=True),
        "importance": pa.Column("float64", pa.Check.in_range(*_IM), nullable=True),
    },
    checks=pa.Check(lambda table: len(table) > 0, error="at least one task"),
    unique=TASK_KEY,
    strict=True,
    ordered=True,
)
"""A task list as a table."""


class Task(Frozen):
    """One task statement of one occupation; where occupations are rated, the occupation itself.

    An occupation goes by its O*NET-SOC code as `task_id`, with its description as `text`.

    Attributes:
        task_id: Identifier within its list, a string without a decimal part.
        onet_soc_code: O*NET-SOC code of the occupation, such as `11-3051.00`.
        title: Title of the occupation.
        text: The statement.
        task_type: `Core` or `Supplemental`; None where the source has none.
        importance: Mean importance rating (IM), 1-5; None where unrated.
    """

    task_id: str
    onet_soc_code: str
    title: str
    text: str
    task_type: str | None = None
    importance: float | None = None


def task_table(ref: str) -> pd.DataFrame:
    """Read a task list as a table.

    Args:
        ref: A name from `TASK_LISTS`, or the path of a CSV file with the columns of `TASK_COLUMNS`
            (`task_type` and `importance` may be left out).

    Returns:
        One row a task, schema `TASKS`, in the order of the source.

    Raises:
        DataError: The list is unknown, or its file is missing or malformed.
    """
    if ref == "sample":
        table = _read_tasks(asset_dir("data") / "sample" / "tasks.csv")
    elif is_table_file(ref):
        table = _read_tasks(Path(ref))
    elif ref == "eloundou-2023":
        table = eloundou.read_labels().assign(importance=float("nan"))
    elif is_onet_release(ref):
        table = onet.read_tasks(ref)
    else:
        near = difflib.get_close_matches(ref, TASK_LISTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(TASK_LISTS)}, or the path of a CSV file"
        raise DataError(f"there is no task list {ref!r}; {hint}")
    return TASKS.validate(table.loc[:, list(TASK_COLUMNS)])


def occupation_table(ref: str) -> pd.DataFrame:
    """Read a list of occupations as a table of items to label: for rubrics of the unit `occupation`.

    Args:
        ref: A release of O*NET, `sample`, or the path of a CSV file with the columns of `OCCUPATION_COLUMNS`.

    Returns:
        One row an occupation, schema `TASKS`, in the order of the source: its code as `task_id`, its description as
        `text`.

    Raises:
        DataError: The list is unknown or has no descriptions, or its file is missing or malformed.
    """
    if ref == "sample":
        table = _read_occupations(asset_dir("data") / "sample" / "occupations.csv")
    elif is_table_file(ref):
        table = _read_occupations(Path(ref))
    elif is_onet_release(ref):
        table = onet.read_occupations(ref)
    else:
        why = "has no descriptions of occupations" if ref in TASK_LISTS else "is unknown"
        raise DataError(
            f"the list {ref!r} {why}; give a release of O*NET such as onet-30.2, sample, or a CSV file with the columns "
            f"{', '.join(OCCUPATION_COLUMNS)}"
        )
    table = table.rename(columns={"description": "text"}).assign(
        task_id=table["onet_soc_code"], importance=float("nan")
    )
    table["task_type"] = pd.Series(None, index=table.index, dtype="str")
    return TASKS.validate(table.loc[:, list(TASK_COLUMNS)])


def load_tasks(
    ref: str, *, unit: Unit = "task", occupations: Sequence[str] = (), sample: int | None = None, seed: int = 0
) -> list[Task]:
    """Load the tasks of a run, or the occupations where those are rated.

    A sample is the first `sample` tasks in the order of a hash of seed, code and id. It does not depend on the order
    of the file, and with one seed a smaller sample is part of each larger one: growing it wastes no paid answer.

    Args:
        ref: A list, as for `task_table`, or for the unit `occupation` as for `occupation_table`.
        unit: What the run's rubric labels.
        occupations: O*NET-SOC codes to keep (`11-3051.00`, or `11-3051` for all of its detailed codes); none keeps all.
        sample: Number of tasks to draw, uniformly without replacement.
        seed: Seed of the draw.

    Returns:
        The tasks, in the order of the source.

    Raises:
        DataError: The list cannot be read, an occupation is not in it, or it holds fewer tasks than asked for.
    """
    tasks = list(_from_table(task_table(ref) if unit == "task" else occupation_table(ref)))
    kind = "task" if unit == "task" else "occupation"
    if occupations:
        codes = {t.onet_soc_code for t in tasks}
        keep: set[str] = set()
        for wanted in occupations:
            found = {c for c in codes if c == wanted or c.split(".")[0] == wanted}
            if not found:
                near = difflib.get_close_matches(wanted, sorted(codes), n=3)
                hint = f"nearest: {', '.join(near)}" if near else "codes look like 11-3051.00"
                raise DataError(f"no {kind} of {ref} belongs to the occupation code {wanted!r}; {hint}")
            keep |= found
        tasks = [t for t in tasks if t.onet_soc_code in keep]
    if sample is not None:
        if sample > len(tasks):
            raise DataError(
                f"cannot draw {sample} {kind}s: {ref} holds {len(tasks)} that fit; ask for at most that many"
            )
        tasks = draw_sample(tasks, sample, seed)
    return tasks


def draw_sample(tasks: Sequence[Task], sample: int, seed: int) -> list[Task]:
    """The first `sample` tasks in the order of a hash of seed, code and id; see `load_tasks`."""
    chosen = {id(t) for t in sorted(tasks, key=lambda t: _draw(t, seed))[:sample]}
    return [t for t in tasks if id(t) in chosen]


def is_onet_release(ref: str) -> bool:
    """Whether a name is a registered release of O*NET, a user's own included."""
    source = registry.load_registry().get(ref)
    return source is not None and all(source.find_role(role) is not None for role in ("tasks", "occupations"))


def onet_releases() -> list[str]:
    """All registered releases of O*NET, a user's own last."""
    return [source for source in registry.load_registry() if is_onet_release(source)]


def same_statement(one: str, other: str) -> bool:
    """Whether two statements are the same task, however it was reworded: half of their words are common to both."""
    a, b = (set(re.findall(r"\w+", text.casefold())) for text in (one, other))
    return 2 * len(a & b) >= len(a | b)


def disputed_titles(given: Iterable[tuple[str, str]], release: str = "onet-30.2") -> str:
    """Say which occupations of a user's list have a title without a word in common with O*NET's title of the code.

    Args:
        given: O*NET-SOC codes with the list's titles.
        release: The release of O*NET that knows the titles; nothing is disputed where its file is not on this machine.

    Returns:
        The first three in a sentence; empty where there are none. Codes that O*NET does not have are left out.
    """
    if not fetch.is_here(release, "occupations"):
        return ""
    occupations = onet.read_occupations(release)
    known = dict(zip(occupations["onet_soc_code"], occupations["title"], strict=True))
    disputed = {
        code: f"{code} is {ours!r} in the list, {known[code]!r} in O*NET"
        for code, ours in dict.fromkeys(given)
        if code in known and _stems(ours) and not _stems(ours) & _stems(known[code])
    }
    if not disputed:
        return ""
    more = f"; and {len(disputed) - 3:,} more" if len(disputed) > 3 else ""
    named = "; ".join(list(disputed.values())[:3])
    return f"titles that disagree with their code, by which jobs and pay are joined: {named}{more}"


def _stems(title: str) -> set[str]:
    """Beginnings of a title's words, by which singular and plural, noun and adjective are one."""
    return {word[:4] for word in re.findall(r"\w{3,}", title.casefold())} - {
        "and",
        "the",
        "all",
        "othe",
        "exce",
        "for",
        "with",
    }


def _draw(task: Task, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}|{task.onet_soc_code}|{task.task_id}".encode()).digest()


def _from_table(table: pd.DataFrame) -> Iterable[Task]:
    columns = [table[column].astype(object).where(table[column].notna(), None) for column in TASK_COLUMNS]
    for values in zip(*columns, strict=True):
        yield Task(**dict(zip(TASK_COLUMNS, values, strict=True)))


def _read_tasks(path: Path) -> pd.DataFrame:
    needed = ", ".join(TASK_COLUMNS[:4])
    if not path.is_file():
        raise DataError(f"there is no task file {path}; give the path of a CSV or Excel file with the columns {needed}")
    file = read_table(path, rows_are="each task", advice=f"give a CSV or Excel file with the columns {needed}")
    columns = file.columns(*TASK_COLUMNS[:4], optional=TASK_COLUMNS[4:])
    seen: dict[tuple[str, str], int] = {}
    rows: list[dict[str, object]] = []
    for line, cells in file.rows:
        row = {holds: cells[column] for holds, column in columns.items()}
        if not row["task_id"].strip() or not row["text"].strip():
            raise DataError(f"{path} line {line} has no task_id or no text; fill both or remove the line")
        task_id = file.task_id(line, row["task_id"])
        # The code names files of an export, so nothing but a code may pass.
        code = file.onet_soc_code(line, row["onet_soc_code"])
        if (first := seen.setdefault((code, task_id), line)) != line:
            raise DataError(
                f"{path} line {line} repeats the task id {task_id!r} of line {first}; ids must be unique within an occupation"
            )
        written = row.get("importance", "").strip()
        importance = file.number(written) if written else math.nan
        if importance is None or importance < _IM[0] or importance > _IM[1]:
            raise DataError(f"{path} line {line}: importance must be a number from 1 to 5 or empty, not {written!r}")
        kind = file.category(line, columns.get("task_type", "task_type"), row.get("task_type", ""), TASK_TYPES)
        rows.append({**row, "task_id": task_id, "onet_soc_code": code, "task_type": kind, "importance": importance})
    return pd.DataFrame(rows, columns=list(TASK_COLUMNS)).astype(
        {column: "float64" if column == "importance" else "str" for column in TASK_COLUMNS}
    )


def _read_occupations(path: Path) -> pd.DataFrame:
    needed = f"give a CSV or Excel file with the columns {', '.join(OCCUPATION_COLUMNS)}"
    file = read_table(path, rows_are="each occupation", advice=needed)
    columns = file.columns(*OCCUPATION_COLUMNS)
    seen: dict[str, int] = {}
    rows: list[dict[str, str]] = []
    for line, cells in file.rows:
        row = {holds: cells[column] for holds, column in columns.items()}
        code = file.onet_soc_code(line, row["onet_soc_code"])
        if (first := seen.setdefault(code, line)) != line:
            raise DataError(f"{path} line {line} repeats the code {code} of line {first}; keep one line an occupation")
        if not row["title"].strip() or not row["description"].strip():
            raise DataError(f"{path} line {line} has no title or no description; fill both or remove the line")
        rows.append(row | {"onet_soc_code": code})
    return pd.DataFrame(rows, columns=list(OCCUPATION_COLUMNS), dtype="str")


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
