"""Shapley decomposition of the change of each score between two tables, by labels, task list, weights and bridge.

Two tables may differ in all four factors. Switching the factors one by one from the first table to the second changes the
score step by step, and each step depends on the order; the part of a factor is its mean over all 24 orders (the Shapley
value). The parts add up to the change. In the 14 states between the two tables (hybrids), each factor is taken from one table:

`labels`: the labels of the tasks. A task in both lists has its label, if any, from the table that this factor selects. A task
    in only one list keeps its label from there: its effect belongs to the task list.
`tasks`: which tasks are listed, with their types and importance ratings.
`weights`: the rule that turns types and ratings into weights, including the rule for tasks without a rating. In a list
    without any ratings, importance gives all tasks the same weight (or none, if unrated tasks are dropped).
`bridge`: the links and their weights. As in any table, only labelled occupations count.

A group may lack a score in a hybrid, if all labelled tasks have no weight there. The mean is then over the orders that
avoid such hybrids. If there is no such order, the change cannot be separated and is reported whole as `undivided`. Scores of
the method `site-2026` are rounded: the exact scores are decomposed, and the effect of rounding is a separate part.
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
from relabel.scoring.measures import Floats, ScoreMap, score_map, scored_codes, task_weights
from relabel.scoring.table import ScoreTable
from relabel.task import TASK_KEY

# The table that each factor is taken from, in the order of `FACTORS`: 0 before, 1 after.
State = tuple[int, ...]

FACTORS = ("labels", "tasks", "weights", "bridge")
PARTS = (*FACTORS, "rounding", "undivided")
_BEFORE: State = (0, 0, 0, 0)
_AFTER: State = (1, 1, 1, 1)
_STATES: tuple[State, ...] = tuple(itertools.product((0, 1), repeat=len(FACTORS)))
_ORDERS = tuple(itertools.permutations(range(len(FACTORS))))
_CLOSE = 1e-9

# The change of each score that both tables have, on the 0-1 scale, and its parts, which add up to it.
CHANGES = pa.DataFrameSchema(
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

_LABEL_COLUMNS = ("labelled", *MEASURES, "code")


@dataclass(frozen=True)
class Decomposition:
    """The changes between two score tables.

    Attributes:
        frame: Table of schema `CHANGES`, by code and measure.
        appeared: Groups scored after but not before: `code, title, reason` (why not before).
        disappeared: Groups scored before but not after: `code, title, reason` (why not after).
        missing: Measures that cannot be compared, with the reason.
    """

    frame: pd.DataFrame
    appeared: pd.DataFrame
    disappeared: pd.DataFrame
    missing: Mapping[Measure, str]
    _hybrids: _Hybrids = field(repr=False)

    def task_contributions(self, code: str, measure: Measure) -> pd.DataFrame:
        """How much each task contributes to the change of a score, largest first.

        A task is measured against one of average value (the mean of the scores before and after), so a new task of average
        value contributes nothing. The contributions add up to the change of the exact score.

        Args:
            code: A group with a score in both tables.
            measure: A measure of both tables.

        Returns:
            Columns `onet_soc_code, task_id, text, label_before, label_after`, `part_before, part_after` (weight of the task
            in the score, 0-1), `change, labels, tasks, weights, bridge`, without tasks that contribute nothing. The four
            factors are missing where the change cannot be separated.

        Raises:
            UsageError: The code or the measure is not in both tables.
        """
        if not ((self.frame["code"] == code) & (self.frame["measure"] == measure)).any():
            raise UsageError(
                f"{code} has no change of {measure} between the tables; see which codes both of them score"
            )
        return self._hybrids.task_contributions(code, measure)


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
        # A task in only one list has its label from there.
        self._sides = [
            own.assign(**{name: own[name].where(own["listed"], other[name]) for name in _LABEL_COLUMNS})
            for own, other in ((first, second), (second, first))
        ]
        self.scores = cache(self._scores)
        self._map = cache(self._map_of)

    def _side(self, table: ScoreTable) -> pd.DataFrame:
        """The tasks of both tables with the values from one of them, and whether that table lists them."""
        own = self._keys.merge(table.task_values, how="left", on=TASK_KEY)
        code = own["code"].astype(object).where(own["code"].notna(), None)
        return own.assign(listed=own["weight"].notna(), labelled=own["labelled"].eq(True), code=code)

    def _map_of(self, labels: int, tasks: int, weights: int, bridge: int) -> ScoreMap:
        """The score map of one state; tasks outside its list have weight 0."""
        listed, rule = self._sides[tasks], self._tables[weights]
        listed = listed[listed["listed"]]
        weight = task_weights(listed, rule.weights, unrated=rule.unrated or "mean")
        own = self._keys.assign(
            weight=weight.reindex(self._keys.index, fill_value=0.0), labelled=self._sides[labels]["labelled"]
        )
        return score_map(own, self._tables[bridge].bridge.shares(scored_codes(own)), self.codes)

    def _scores(self, state: State) -> Floats:
        """Exact scores in one state, groups x measures; NaN without a score."""
        return self._map(*state).scores(self._sides[state[0]]).T

    def task_contributions(self, code: str, measure: Measure) -> pd.DataFrame:
        row, column = self.codes.get_loc(code), MEASURES.index(measure)
        parts: dict[State, Floats] = {state: self._map(*state).task_parts(code) for state in _STATES}
        # Only tasks with weight in some state can contribute.
        weighted = np.flatnonzero(np.any([part > 0 for part in parts.values()], axis=0))
        reference = np.mean([self.scores(state)[row, column] for state in (_BEFORE, _AFTER)])
        contributions: dict[State, Floats] = {}
        for state in _STATES:
            values = self._sides[state[0]][measure].to_numpy(dtype="float64")[weighted]
            contribution = parts[state][weighted] * (np.nan_to_num(values) - reference)
            contributions[state] = np.where(np.isnan(self.scores(state)[row, column]), np.nan, contribution)
        before, after = self._sides
        frame = self._keys.iloc[weighted].assign(
            text=self._text,
            label_before=before["code"].where(before["listed"]),
            label_after=after["code"].where(after["listed"]),
            part_before=parts[_BEFORE][weighted],
            part_after=parts[_AFTER][weighted],
            change=contributions[_AFTER] - contributions[_BEFORE],
            **dict(zip(FACTORS, split_by_order(contributions), strict=True)),
        )
        moved = (frame[["change", *FACTORS]].abs() > _CLOSE / 1000).any(axis=1)
        frame = frame[moved].assign(size=lambda rows: rows["change"].abs())
        order = ["size", *TASK_KEY]
        return frame.sort_values(order, ascending=[False, True, True], ignore_index=True).drop(columns="size")


def split_by_order(values: Mapping[State, Floats]) -> Floats:
    """Split the change from the first state to the last among the factors, by averaging over orders.

    Args:
        values: Values by state, all of one shape; NaN if missing.

    Returns:
        Factors x shape of the values: means over the orders without a missing value; NaN if there is no such order.
    """
    total = np.zeros((len(FACTORS), *values[_BEFORE].shape))
    orders = np.zeros(values[_BEFORE].shape)
    for order in _ORDERS:
        state = list(_BEFORE)
        steps = np.zeros_like(total)
        for factor in order:
            before = values[tuple(state)]
            state[factor] = 1
            steps[factor] = values[tuple(state)] - before
        complete = ~np.isnan(steps).any(axis=0)
        orders += complete
        total += np.where(complete, steps, 0.0)
    return np.divide(total, orders, out=np.full_like(total, np.nan), where=orders > 0)


def decompose(before: ScoreTable, after: ScoreTable) -> Decomposition:
    """Decompose the change of each score between two tables.

    Args:
        before: The first table.
        after: The second table, of the same taxonomy; run, task list, weights and bridge may differ.

    Returns:
        The changes with their parts, and the groups that appeared or disappeared.

    Raises:
        UsageError: The tables have different taxonomies, or only one is of the sample.
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
    states: dict[State, Floats] = {state: hybrids.scores(state) for state in _STATES}
    split = split_by_order(states)
    missing: dict[Measure, str] = {**before.missing_measures, **after.missing_measures}
    codes = hybrids.codes
    titles = pd.concat([after.frame, before.frame]).drop_duplicates("code").set_index("code")["title"].reindex(codes)
    parts: list[pd.DataFrame] = []
    for column, measure in enumerate(MEASURES):
        if measure in missing:
            continue
        scores = [
            table.frame.set_index("code")[measure].reindex(codes).to_numpy(dtype="float64") for table in (before, after)
        ]
        exact = [states[state][:, column] for state in (_BEFORE, _AFTER)]
        separable = ~np.isnan(split[:, :, column]).any(axis=0)
        rounding = (scores[1] - exact[1]) - (scores[0] - exact[0])
        changes = {
            "code": codes.astype("str"),
            "title": titles.to_numpy(),
            "measure": measure,
            "before": scores[0],
            "after": scores[1],
            "change": scores[1] - scores[0],
            **{factor: np.where(separable, split[number, :, column], 0.0) for number, factor in enumerate(FACTORS)},
            # Differences this small are floating-point noise.
            "rounding": np.where(np.abs(rounding) > _CLOSE / 1000, rounding, 0.0),
            "undivided": np.where(separable, 0.0, exact[1] - exact[0]),
        }
        parts.append(pd.DataFrame(changes)[np.isfinite(scores[0]) & np.isfinite(scores[1])])
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(CHANGES.columns))
    frame = frame.astype({"code": "str", "title": "str", "measure": "str"})
    return Decomposition(
        frame=CHANGES.validate(frame.sort_values(["code", "measure"], ignore_index=True)),
        appeared=_scored_only_in(after, before),
        disappeared=_scored_only_in(before, after),
        missing=missing,
        _hybrids=hybrids,
    )


def _scored_only_in(table: ScoreTable, other: ScoreTable) -> pd.DataFrame:
    """Groups scored in a table but not in the other, with the other's reason."""
    scored = table.frame[~table.frame["status"].str.startswith("unscored")]
    status = other.frame.set_index("code")["status"]
    reason = scored["code"].map(status).fillna("unscored: not a code of the other table").astype("str")
    alone = scored.assign(reason=reason.str.removeprefix("unscored: "))[reason.str.startswith("unscored")]
    return alone[["code", "title", "reason"]].reset_index(drop=True)
