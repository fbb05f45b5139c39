"""A figure with its bootstrap draws, and what may be said of it and of a paired change.

The same draws of occupations applied to two runs on the same tasks give a paired change: what both runs have in common
cancels out of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from relabel.evaluation import metrics
from relabel.evaluation.bootstrap import FEWEST_OCCUPATIONS, Array, Draws, interval, means, pearson

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
    """

    value: float
    draws: Array
    n: int
    occupations: int

    def bounds(self, level: float = 0.95) -> Bounds | None:
        """Interval of the figure by percentiles; Student's t for fewer than ten occupations.

        A figure that is the same in each draw has an interval of no width. None where there is too little to go by.
        """
        found = interval(self.draws, level, occupations=self.occupations) if self.occupations >= 2 else None
        if found is not None:
            return found
        if self.occupations >= FEWEST_OCCUPATIONS and not self._steady:
            return None
        return self.wald(level)

    def wald(self, level: float = 0.95) -> Bounds | None:
        """Interval from the draws' spread and Student's t, which holds at any level however few the draws."""
        if self._steady:
            return self.value, self.value
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
        return self.occupations != 1 and bool(
            math.isfinite(self.value) and np.isfinite(self.draws).all() and np.ptp(self.draws) <= 1e-12
        )

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

    return Figure(float(formula(pairs.sum(axis=0))), formula(drawn), len(pairs), occupations)


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
    weight = None if weight is None else np.asarray(weight, dtype=np.float64)
    if metric == "pearson":
        found = metrics.pearson(x, y, weight)
        return Figure(math.nan if found is None else found, pearson(draws, x, y, weight), len(x), draws.occupations)
    values = {"agreement": (x == y).astype(np.float64), "mean": y, "mean_difference": y - x}[metric]
    value = float(np.average(values, weights=weight)) if len(values) else math.nan
    return Figure(value, means(draws, values, weight), len(x), draws.occupations)


def changed_occupations(first: pd.Series, second: pd.Series) -> int:
    """Occupations with a task that changed; both series have the index (`onet_soc_code`, `task_id`)."""
    moved = first.index[(first != second).to_numpy()]
    return moved.get_level_values(0).nunique()
