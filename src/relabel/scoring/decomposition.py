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
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa

from relabel.errors import UsageError
from relabel.rubric import MEASURES, Measure
from relabel.scoring.measures import ScoreMap, counted, score_map, task_weights
from relabel.scoring.table import ScoreTable

Floats = npt.NDArray[np.float64]
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

CARRIERS = ("onet_soc_code", "task_id", "text", "label_before", "label_after", "part_before", "part_after", "change")
"""Columns of the tasks that carry a change; then come the four ways."""


@dataclass(frozen=True)
class _Side:
    """One table on the tasks of both: arrays by task."""

    table: ScoreTable
    listed: npt.NDArray[np.bool_]
    labelled: npt.NDArray[np.bool_]
    values: Floats
    labels: pd.Series
    attributes: pd.DataFrame


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
            Columns `CARRIERS` (`part_before`, `part_after`: the part of the score that the task stands for, 0-1), then
            `labels, tasks, weights, bridge`; tasks that carry nothing are left out. Where the change could not be told
            apart, the four ways are missing.

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
        tables = (before, after)
        keys = ["onet_soc_code", "task_id"]
        union = pd.concat([table.task_values[keys] for table in tables]).drop_duplicates().reset_index(drop=True)
        self._tasks = pd.MultiIndex.from_frame(union)
        self.codes = pd.Index(sorted(set(before.frame["code"]) | set(after.frame["code"])))
        first, second = (self._side(table) for table in tables)
        self._sides = (_with_labels_of(second, first), _with_labels_of(first, second))
        self._text = first.attributes["text"].where(first.listed, second.attributes["text"]).to_numpy()
        self.scores = cache(self._scores)
        self._weight = cache(self._weights)
        self._shares = cache(self._shares_of)
        self._map = cache(self._map_of)
        self._keys = union

    def _side(self, table: ScoreTable) -> _Side:
        own = table.task_values.set_index(["onet_soc_code", "task_id"]).reindex(self._tasks)
        listed = own["weight"].notna().to_numpy(dtype=bool)
        return _Side(
            table,
            listed,
            own["labelled"].astype("boolean").fillna(False).to_numpy(dtype=bool),
            own[list(MEASURES)].to_numpy(dtype="float64"),
            own["code"].astype(object).where(own["code"].notna(), None),
            own[["title", "text", "task_type", "importance"]],
        )

    def _weights(self, tasks: int, weights: int) -> Floats:
        """Weights of the tasks of one list under the rule of one table; 0 for tasks that are not listed."""
        side, rule = self._sides[tasks], self._sides[weights].table
        own = side.attributes[side.listed].reset_index()
        found = np.zeros(len(self._tasks))
        found[side.listed] = task_weights(own, rule.weights, unrated=rule.unrated or "mean").to_numpy(dtype="float64")
        return found

    def _shares_of(self, bridge: int, labelled: frozenset[str]) -> pd.DataFrame:
        return self._sides[bridge].table.bridge.shares(labelled)

    def _map_of(self, labels: int, tasks: int, weights: int, bridge: int) -> ScoreMap:
        """The map of one state."""
        own = self._keys.assign(weight=self._weight(tasks, weights), labelled=self._sides[labels].labelled)
        return score_map(own, self._shares(bridge, counted(own)), self.codes)

    def _scores(self, state: State) -> Floats:
        """Exact scores of one state, groups by measures; missing where there is none."""
        return self._map(*state).scores(self._sides[state[0]].values).T

    def carriers(self, code: str, measure: Measure) -> pd.DataFrame:
        row, column = self.codes.get_loc(code), MEASURES.index(measure)
        states = list(itertools.product((0, 1), repeat=len(WAYS)))
        owed: dict[State, Floats] = {state: self._map(*state).row(code) for state in states}
        # Only tasks that the group draws on in some state can carry anything.
        at = np.flatnonzero(np.any([parts > 0 for parts in owed.values()], axis=0))
        reference = np.mean([self.scores(state)[row, column] for state in (_BEFORE, _AFTER)])
        standing: dict[State, Floats] = {}
        carried: dict[State, Floats] = {}
        for state in states:
            values = self._sides[state[0]].values
            standing[state] = owed[state][at]
            worth = standing[state] * (np.nan_to_num(values[at, column]) - reference)
            carried[state] = np.where(np.isnan(self.scores(state)[row, column]), np.nan, worth)
        change = carried[_AFTER] - carried[_BEFORE]
        split = split_by_order(carried)
        before, after = self._sides
        frame = pd.DataFrame(
            {
                "onet_soc_code": self._tasks.get_level_values(0)[at],
                "task_id": self._tasks.get_level_values(1)[at],
                "text": self._text[at],
                "label_before": before.labels.where(before.listed).to_numpy()[at],
                "label_after": after.labels.where(after.listed).to_numpy()[at],
                "part_before": standing[_BEFORE],
                "part_after": standing[_AFTER],
                "change": change,
                **dict(zip(WAYS, split, strict=True)),
            }
        )
        moved = (frame[["change", *WAYS]].abs() > _CLOSE / 1000).any(axis=1)
        frame = frame[moved].assign(size=lambda rows: rows["change"].abs())
        order = ["size", "onet_soc_code", "task_id"]
        return frame.sort_values(order, ascending=[False, True, True], ignore_index=True).drop(columns="size")


def _with_labels_of(other: _Side, own: _Side) -> _Side:
    """A side with the labels of the other on the tasks that only the other lists."""
    return replace(
        own,
        labelled=np.where(own.listed, own.labelled, other.labelled),
        values=np.where(own.listed[:, None], own.values, other.values),
        labels=own.labels.where(own.listed, other.labels),
    )


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
