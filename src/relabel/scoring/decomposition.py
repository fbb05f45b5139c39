"""What moved: the change of each score between two tables, split exactly into labels, task list, weights and bridge.

Two tables may differ in four ways at once. Each way is turned from the first table's to the second's, one after the
other, and what a turn does depends on the turns before it; so its part is the average over all 24 orders (the Shapley
value). The parts add up to the change. Between the two tables lie 14 hybrids, defined so:

`labels`: which labels the tasks have. A task that both lists hold has the label of the table that the labels come from,
    or none. A task that one list alone holds keeps the label that it has there: its coming or going is the list's doing.
`tasks`: which tasks are listed, with their types and importance ratings.
`weights`: the rule that makes weights of types and ratings, that for tasks without a rating included. Under a list
    without any ratings, importance weighs all tasks alike (or none, where the unrated are dropped).
`bridge`: the links and their weights. As in any table, only labelled occupations count on the way.

A group may have no score in some hybrid (labels of one table can all be on tasks that weigh nothing in the other): then the average
is over the orders that pass no such hybrid. Where every order does, the change cannot be told apart, and stands whole
under `undivided`. Scores of the method `site-2026` are rounded; the split is that of the exact scores, and what rounding
adds to the change is a part of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd
import pandera.pandas as pa

from relabel.errors import UsageError
from relabel.rubric import MEASURES, Measure
from relabel.scoring.measures import Floats, ScoreMap, counted, score_map, task_weights
from relabel.scoring.table import ScoreTable
from relabel.task import TASK_KEY

State = tuple[int, ...]
"""For each way in which tables differ, the table that it is taken from, 0 before and 1 after; four numbers."""

WAYS = ("labels", "tasks", "weights", "bridge")
PARTS = (*WAYS, "rounding", "undivided")
_BEFORE: State = (0, 0, 0, 0)
_AFTER: State = (1, 1, 1, 1)
_ORDERS = tuple(itertools.permutations(range(len(WAYS))))
_CLOSE = 1e-9

MOVED = pa.DataFrameSchema(
    {
        "code": pa.Column("str"),
        "title": pa.Column("str"),
        "measure": pa.Column("str", pa.Check.isin(MEASURES)),
        "before": pa.Column("float64", pa.Check.in_range(0, 1 + _CLOSE)),
        "after": pa.Column("float64", pa.Check.in_range(0, 1 + _CLOSE)),
        "change": pa.Column("float64", pa.Check.in_range(-1 - _CLOSE, 1 + _CLOSE)),
        **{part: pa.Column("float64") for part in PARTS},
    },
    checks=pa.Check(
        lambda frame: bool(((frame[list(PARTS)].sum(axis=1) - frame["change"]).abs() < _CLOSE).all()),
        error="the parts add up to the change",
    ),
    unique=["code", "measure"],
    strict=True,
    ordered=True,
)
"""The change of each score that both tables have, in shares (0-1), and its parts, which add up to it."""

_OF_LABELS = ("labelled", *MEASURES, "code")


@dataclass(frozen=True)
class Moved:
    """What moved between two score tables.

    Attributes:
        frame: Table of schema `MOVED`, by code and measure.
        appeared: Groups with a score after and none before: `code, title, reason` (why they had none).
        disappeared: Groups with a score before and none after: `code, title, reason` (why they have none).
        missing: Measures that cannot be compared, with the reason.
    """

    frame: pd.DataFrame
    appeared: pd.DataFrame
    disappeared: pd.DataFrame
    missing: Mapping[Measure, str]
    _hybrids: _Hybrids = field(repr=False)

    def carriers(self, code: str, measure: Measure) -> pd.DataFrame:
        """The tasks that carry the change of a score, those that carry most first.

        A task's part is what it adds to the score beyond a task of average value (the mean of the scores before and
        after), so that a new task of average value carries nothing. The parts of all tasks add up to the change of the
        exact score.

        Args:
            code: A group with a score in both tables.
            measure: A measure that both have.

        Returns:
            Columns `onet_soc_code, task_id, text, label_before, label_after`, `part_before, part_after` (the part of the score
            that the task stands for, 0-1), `change, labels, tasks, weights, bridge`; tasks that carry nothing are left out.
            Where the change could not be told apart, the four ways are missing.

        Raises:
            UsageError: There is no change to carry: the code or the measure is not in both tables.
        """
        if not ((self.frame["code"] == code) & (self.frame["measure"] == measure)).any():
            raise UsageError(
                f"{code} has no change of {measure} between the tables; see which codes both of them score"
            )
        return self._hybrids.carriers(code, measure)


class _Hybrids:
    """The two tables and the 14 hybrids between them."""

    def __init__(self, before: ScoreTable, after: ScoreTable) -> None:
        self._tables = (before, after)
        self._keys = pd.concat([table.task_values[TASK_KEY] for table in self._tables]).drop_duplicates(
            ignore_index=True
        )
        self.codes = pd.Index(sorted(set(before.frame["code"]) | set(after.frame["code"])))
        first, second = (self._side(table) for table in self._tables)
        self._text = first["text"].where(first["listed"], second["text"])
        # A task that one list alone holds has the label of that list.
        self._sides = [
            own.assign(**{name: own[name].where(own["listed"], other[name]) for name in _OF_LABELS})
            for own, other in ((first, second), (second, first))
        ]
        self.scores = cache(self._scores)
        self._map = cache(self._map_of)

    def _side(self, table: ScoreTable) -> pd.DataFrame:
        """A table's tasks among those of both, and whether it has them listed."""
        own = self._keys.merge(table.task_values, how="left", on=TASK_KEY)
        code = own["code"].astype(object).where(own["code"].notna(), None)
        return own.assign(listed=own["weight"].notna(), labelled=own["labelled"].eq(True), code=code)

    def _map_of(self, labels: int, tasks: int, weights: int, bridge: int) -> ScoreMap:
        """The map of one state; tasks that its list does not hold weigh 0."""
        listed, rule = self._sides[tasks], self._tables[weights]
        listed = listed[listed["listed"]]
        weight = task_weights(listed, rule.weights, unrated=rule.unrated or "mean")
        own = self._keys.assign(
            weight=weight.reindex(self._keys.index, fill_value=0.0), labelled=self._sides[labels]["labelled"]
        )
        return score_map(own, self._tables[bridge].bridge.shares(counted(own)), self.codes)

    def _scores(self, state: State) -> Floats:
        """Exact scores of one state, groups by measures; missing where there is none."""
        return self._map(*state).scores(self._sides[state[0]]).T

    def carriers(self, code: str, measure: Measure) -> pd.DataFrame:
        row, column = self.codes.get_loc(code), MEASURES.index(measure)
        states = list(itertools.product((0, 1), repeat=len(WAYS)))
        owed: dict[State, Floats] = {state: self._map(*state).row(code) for state in states}
        # Only tasks that the group draws on in some state can carry anything.
        at = np.flatnonzero(np.any([parts > 0 for parts in owed.values()], axis=0))
        reference = np.mean([self.scores(state)[row, column] for state in (_BEFORE, _AFTER)])
        carried: dict[State, Floats] = {}
        for state in states:
            values = self._sides[state[0]][measure].to_numpy(dtype="float64")[at]
            worth = owed[state][at] * (np.nan_to_num(values) - reference)
            carried[state] = np.where(np.isnan(self.scores(state)[row, column]), np.nan, worth)
        before, after = self._sides
        frame = self._keys.iloc[at].assign(
            text=self._text,
            label_before=before["code"].where(before["listed"]),
            label_after=after["code"].where(after["listed"]),
            part_before=owed[_BEFORE][at],
            part_after=owed[_AFTER][at],
            change=carried[_AFTER] - carried[_BEFORE],
            **dict(zip(WAYS, split_by_order(carried), strict=True)),
        )
        moved = (frame[["change", *WAYS]].abs() > _CLOSE / 1000).any(axis=1)
        frame = frame[moved].assign(size=lambda rows: rows["change"].abs())
        order = ["size", *TASK_KEY]
        return frame.sort_values(order, ascending=[False, True, True], ignore_index=True).drop(columns="size")


def split_by_order(values: Mapping[State, Floats]) -> Floats:
    """Split the change from the first state to the last by averaging over orders.

    Args:
        values: Values by state, all of one shape; missing where a state has none.

    Returns:
        Ways by the shape of the values: the average over the orders that pass no missing value. Missing where every
        order does.
    """
    total = np.zeros((len(WAYS), *values[_BEFORE].shape))
    orders = np.zeros(values[_BEFORE].shape)
    for order in _ORDERS:
        at = list(_BEFORE)
        steps = np.zeros_like(total)
        for way in order:
            last = values[tuple(at)]
            at[way] = 1
            steps[way] = values[tuple(at)] - last
        whole = ~np.isnan(steps).any(axis=0)
        orders += whole
        total += np.where(whole, steps, 0.0)
    return np.divide(total, orders, out=np.full_like(total, np.nan), where=orders > 0)


def what_moved(before: ScoreTable, after: ScoreTable) -> Moved:
    """Split the change of each score between two tables.

    Args:
        before: The first table.
        after: The second table, by the same taxonomy; run, task list, weights and bridge may differ.

    Returns:
        The changes with their parts, and what appeared or disappeared.

    Raises:
        UsageError: The tables are of different taxonomies, or one is of the sample.
    """
    if before.taxonomy != after.taxonomy:
        raise UsageError(
            f"one table is by {before.taxonomy} and the other by {after.taxonomy}; score both with the same --taxonomy"
        )
    if before.sample != after.sample:
        raise UsageError(
            "the sample can be compared with the sample only; score two runs on the same kind of task list"
        )
    hybrids = _Hybrids(before, after)
    states: dict[State, Floats] = {
        state: hybrids.scores(state) for state in itertools.product((0, 1), repeat=len(WAYS))
    }
    split = split_by_order(states)
    missing: dict[Measure, str] = {**before.missing_measures, **after.missing_measures}
    rows = [
        _changes(before, after, measure, hybrids.codes, states, split) for measure in MEASURES if measure not in missing
    ]
    frame = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=list(MOVED.columns))
    return Moved(
        frame=MOVED.validate(frame.sort_values(["code", "measure"], ignore_index=True)),
        appeared=_alone(after, before),
        disappeared=_alone(before, after),
        missing=missing,
        _hybrids=hybrids,
    )


def _changes(
    before: ScoreTable,
    after: ScoreTable,
    measure: Measure,
    codes: pd.Index,
    states: Mapping[State, Floats],
    split: Floats,
) -> pd.DataFrame:
    column = MEASURES.index(measure)
    shown = [
        table.frame.set_index("code")[measure].reindex(codes).to_numpy(dtype="float64") for table in (before, after)
    ]
    exact = [states[state][:, column] for state in (_BEFORE, _AFTER)]
    titles = pd.concat([after.frame, before.frame]).drop_duplicates("code").set_index("code")["title"]
    told = ~np.isnan(split[:, :, column]).any(axis=0)
    frame = pd.DataFrame(
        {
            "code": codes.astype("str"),
            "title": titles.reindex(codes).to_numpy(),
            "measure": measure,
            "before": shown[0],
            "after": shown[1],
            "change": shown[1] - shown[0],
            **{way: np.where(told, split[number, :, column], 0.0) for number, way in enumerate(WAYS)},
            "rounding": (shown[1] - exact[1]) - (shown[0] - exact[0]),
            "undivided": np.where(told, 0.0, exact[1] - exact[0]),
        }
    )
    # What binary fractions leave over is not rounding.
    frame["rounding"] = frame["rounding"].where(frame["rounding"].abs() > _CLOSE / 1000, 0.0)
    frame = frame.astype({"code": "str", "title": "str", "measure": "str"})
    return frame[np.isfinite(shown[0]) & np.isfinite(shown[1])]


def _alone(table: ScoreTable, other: ScoreTable) -> pd.DataFrame:
    """Groups that have a score in a table and none in the other, with the other's reason."""
    scored = table.frame[~table.frame["status"].str.startswith("unscored")]
    status = other.frame.set_index("code")["status"]
    reason = scored["code"].map(status).fillna("unscored: not a code of the other table").astype("str")
    alone = scored.assign(reason=reason.str.removeprefix("unscored: "))[reason.str.startswith("unscored")]
    return alone[["code", "title", "reason"]].reset_index(drop=True)
