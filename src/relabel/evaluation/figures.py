"""A figure with its bootstrap draws, and what may be said of it and of a paired change.

The same draws of occupations applied to two runs on the same tasks give a paired change: what both runs have in common
cancels out of it.

Draws of tasks that are all alike are all alike, too: 15 right answers of 15 give an accuracy of 1 in each. That is no
certainty. The share of occupations that may be otherwise though none was seen has an exact binomial bound, and the interval
is what the figure could be if as large a share of the tasks were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from relabel.evaluation import metrics
from relabel.evaluation.bootstrap import FEWEST_OCCUPATIONS, MOST_UNDEFINED, Array, Draws, interval, means, pearson

Bounds = tuple[float, float]

_BY_LABEL = {"f1": metrics.f1, "precision": metrics.precision, "recall": metrics.recall}


@dataclass(frozen=True)
class Figure:
    """A figure and its draws.

    Attributes:
        value: The figure; NaN where the data cannot give it.
        draws: The figure by bootstrap draw, shape (draws,).
        n: Tasks behind it.
        occupations: Occupations that say something about its spread: those with tasks; for a change, those with a task
            that changed.
        otherwise: The least and the most that the figure could be if a share (0-1) of the tasks were otherwise; None for a
            change, and for what is known and no sample: there, what no draw shows is not there.
    """

    value: float
    draws: Array
    n: int
    occupations: int
    otherwise: Callable[[float], Bounds] | None = None

    def bounds(self, level: float = 0.95) -> Bounds | None:
        """Interval of the figure by percentiles; Student's t for fewer than ten occupations.

        Of a figure that is the same in each draw, the bounds are those of `wald`. None where there is too little to go by.
        """
        found = interval(self.draws, level, occupations=self.occupations) if self.occupations >= 2 else None
        if found is not None:
            return found
        if self.occupations >= FEWEST_OCCUPATIONS and not self._steady:
            return None
        return self.wald(level)

    def wald(self, level: float = 0.95) -> Bounds | None:
        """Interval from the draws' spread and Student's t, which holds at any level however few the draws.

        Of a figure that is the same in each draw, it is what the figure could be if occupations were otherwise that the
        sample misses, as many as an exact binomial bound allows; of a change that is the same, it has no width.

        Source: Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404: of n units, none otherwise.
        """
        if self._steady:
            if self.otherwise is None or self.occupations < 1:
                return self.value, self.value
            return self.otherwise(1 - ((1 - level) / 2) ** (1 / self.occupations))
        error = self._error
        if error is None:
            return None
        reach = float(stats.t.ppf((1 + level) / 2, self.occupations - 1)) * error
        return self.value - reach, self.value + reach

    def p_below(self, bound: float) -> float:
        """p-value, one-sided, of the claim that the figure is below a bound; 1 where there is too little to go by."""
        if self._steady:
            return 0.0 if self.value < bound else 1.0
        error = self._error
        return 1.0 if error is None else float(stats.t.cdf((self.value - bound) / error, self.occupations - 1))

    @property
    def _steady(self) -> bool:
        # Draws of a single occupation are all alike, which says nothing about its spread.
        if self.occupations == 1 or not math.isfinite(self.value):
            return False
        defined = self.draws[np.isfinite(self.draws)]
        # An exact bound does not hang on the draws; a few of them may hold one label only, and so no kappa.
        least = len(self.draws) * (1.0 if self.otherwise is None else 1 - MOST_UNDEFINED)
        return len(defined) > 0 and len(defined) >= least and float(np.ptp(defined)) <= 1e-12

    @property
    def _error(self) -> float | None:
        """Standard error; the factor undoes the bootstrap's shrinkage for few clusters."""
        defined = self.draws[np.isfinite(self.draws)]
        enough = len(defined) >= 0.95 * len(self.draws) and len(defined)
        if not enough or self.occupations < 2 or not math.isfinite(self.value):
            return None
        return float(defined.std(ddof=1)) * math.sqrt(self.occupations / (self.occupations - 1))


def change(first: Figure, second: Figure, occupations: int) -> Figure:
    """The second figure less the first, paired: both must come from the same draws of the same tasks.

    Args:
        first: Figure of the first run.
        second: Figure of the second run.
        occupations: Occupations with a task that changed. Others say nothing about the spread of the change: counting
            them would make a handful of changes look sure.
    """
    return Figure(second.value - first.value, second.draws - first.draws, second.n, occupations)


def of_setting(
    metric: str,
    gold: npt.ArrayLike,
    run: npt.ArrayLike,
    scale: Sequence[str],
    draws: Draws,
    weight: npt.ArrayLike | None = None,
) -> Figure:
    """A figure of agreement between two sets of labels.

    Args:
        metric: A name of `metrics.FIGURES`, or `f1:LABEL`, `precision:LABEL`, `recall:LABEL`.
        gold: Labels taken as the truth, shape (n,).
        run: Labels of the run, shape (n,).
        scale: All labels, in order of exposure.
        draws: Draws for these n tasks.
        weight: Weight of each task, shape (n,); by default all weigh the same.
    """
    pairs = metrics.pairs(gold, run, scale)
    if weight is not None:
        pairs = pairs * np.asarray(weight, dtype=np.float64)[:, None, None]
    return of_pairs(metric, pairs, draws.sum(pairs), scale, draws.occupations)


def of_pairs(metric: str, pairs: Array, drawn: Array, scale: Sequence[str], occupations: int) -> Figure:
    """As `of_setting`, from `metrics.pairs` and their resampled sums, which several figures can share."""
    kind, _, label = metric.partition(":")

    def formula(counts: Array) -> Array:
        if label:
            return _BY_LABEL[kind](counts)[..., list(scale).index(label)]
        return metrics.FIGURES[kind](counts)

    counts = pairs.sum(axis=0)
    value = float(formula(counts))

    def otherwise(share: float) -> Bounds:
        # All that is otherwise falls on one pair of labels, whichever moves the figure most.
        each = np.eye(counts.size).reshape(-1, *counts.shape) * counts.sum()
        found = formula((1 - share) * counts + share * each)
        return _around(value, found)

    return Figure(value, formula(drawn), len(pairs), occupations, otherwise)


def of_measure(
    metric: str, gold: npt.ArrayLike, run: npt.ArrayLike, draws: Draws, weight: npt.ArrayLike | None = None
) -> Figure:
    """A figure of two sets of task values.

    Args:
        metric: `agreement`, `pearson`, `mean` (of the run), or `mean_difference` (run less gold).
        gold: Values, 0-1, shape (n,).
        run: Values, 0-1, shape (n,).
        draws: Draws for these n tasks.
        weight: Weight of each task, shape (n,); by default all weigh the same.
    """
    x, y = np.asarray(gold, dtype=np.float64), np.asarray(run, dtype=np.float64)
    w = np.ones(len(x)) if weight is None else np.asarray(weight, dtype=np.float64)
    value = _of_values(metric, x, y, w)

    def otherwise(share: float) -> Bounds:
        mass = w.sum() * share / (1 - share)
        corners = [
            _of_values(metric, np.append(x, gold_value), np.append(y, run_value), np.append(w, mass))
            for gold_value in (0, 1)
            for run_value in (0, 1)
        ]
        return _around(value, np.array(corners))

    by_draw = pearson(draws, x, y, w) if metric == "pearson" else means(draws, _by_task(metric, x, y), w)
    return Figure(value, by_draw, len(x), draws.occupations, otherwise)


def _of_values(metric: str, gold: Array, run: Array, weight: Array) -> float:
    if metric == "pearson":
        found = metrics.pearson(gold, run, weight)
        return math.nan if found is None else found
    return float(np.average(_by_task(metric, gold, run), weights=weight)) if len(gold) else math.nan


def _by_task(metric: str, gold: Array, run: Array) -> Array:
    return {"agreement": (gold == run).astype(np.float64), "mean": run, "mean_difference": run - gold}[metric]


def _around(value: float, found: Array) -> Bounds:
    return float(np.nanmin([value, *found])), float(np.nanmax([value, *found]))


def changed_occupations(first: pd.Series, second: pd.Series) -> int:
    """Occupations with a task that changed; both series have the index (`onet_soc_code`, `task_id`)."""
    moved = first.index[(first != second).to_numpy()]
    return moved.get_level_values(0).nunique()
