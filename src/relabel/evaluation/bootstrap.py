"""Uncertainty by resampling occupations.

Labels of one occupation stand or fall together, so the units drawn are occupations, each with all of its tasks. One set of
draws serves all figures of an evaluation; the same draws on two runs of the same tasks give paired differences.

A figure that is made of sums over tasks (a confusion matrix, a mean, a correlation) is resampled without touching a task
twice: sums by occupation times the number of times that a draw holds each occupation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

DRAWS = 2000
"""Draws by default; two seeds then differ by about a twentieth of an interval's width."""
FEWEST_OCCUPATIONS = 10
"""Below this number of occupations no interval is given: draws of so few repeat each other and look too sure."""
MOST_UNDEFINED = 0.05
"""Share of draws without the figure above which no interval is given."""


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws of occupations for a list of tasks.

    Attributes:
        counts: How often each draw holds each occupation, shape (draws, n_occupations).
        place: Index of each task's occupation, shape (n_tasks,).
        seed: Seed of the draws.
    """

    counts: Array
    place: Places
    seed: int

    @property
    def occupations(self) -> int:
        """Number of occupations that the tasks belong to."""
        return len(np.unique(self.place))

    def of(self, tasks: npt.ArrayLike) -> Draws:
        """The same draws for some of the tasks.

        Args:
            tasks: Mask or positions of the tasks to keep, over (n_tasks,).
        """
        return Draws(self.counts, self.place[np.asarray(tasks)], self.seed)

    def by_occupation(self, values: npt.ArrayLike) -> Array:
        """Sums of task values by occupation.

        Args:
            values: Shape (n_tasks, ...).

        Returns:
            Shape (n_occupations, ...); 0 for an occupation without tasks.
        """
        values = np.asarray(values, dtype=np.float64)
        flat = values.reshape(len(values), -1)
        size = self.counts.shape[1]
        summed = np.zeros((size, flat.shape[1]))
        for i in range(flat.shape[1]):
            summed[:, i] = np.bincount(self.place, weights=flat[:, i], minlength=size)
        return summed.reshape(size, *values.shape[1:])

    def sum(self, values: npt.ArrayLike) -> Array:
        """Resampled sums of task values.

        Args:
            values: Shape (n_tasks, ...); one-hot pairs of labels, shape (n_tasks, k, k), give a confusion matrix a draw.

        Returns:
            Shape (draws, ...).
        """
        summed = self.by_occupation(values)
        drawn = self.counts @ summed.reshape(len(summed), -1)
        return drawn.reshape(len(self.counts), *summed.shape[1:])


def occupation_draws(codes: npt.ArrayLike, draws: int = DRAWS, seed: int = 0) -> Draws:
    """Draw occupations with replacement, as many as there are.

    Args:
        codes: O*NET-SOC code of each task, shape (n_tasks,).
        draws: Number of draws.
        seed: Seed; the draws depend on it and on the set of codes, not on the order of the tasks.

    Returns:
        The draws.
    """
    names, place = np.unique(np.asarray(codes, dtype=str), return_inverse=True)
    if not len(names):
        return Draws(np.zeros((draws, 0)), place, seed)
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return Draws(counts.astype(np.float64), place, seed)


def interval(
    samples: npt.ArrayLike, level: float = 0.95, *, occupations: int | None = None
) -> tuple[float, float] | None:
    """Interval of a figure from its draws, by percentiles.

    Percentiles of few clusters are too narrow: they forget that the spread itself is estimated. With `occupations` given,
    the percentiles move outwards as Student's t does from the normal distribution (the expanded percentile interval). In a
    simulation that drew occupations from those of 2023, nominal 95 % intervals of accuracy, kappa, macro F1 and ordinal
    alpha held the truth in 93 to 96 % of 600 trials with 10 occupations, where plain percentiles did in 88 to 92 % and BCa
    in 90 to 91 %; from 200 occupations on the three agree. So BCa's jackknife is spared.

    Args:
        samples: The figure by draw, shape (draws,), NaN where a draw cannot give it.
        level: Nominal coverage.
        occupations: Number of occupations that were resampled; without it the percentiles are plain.

    Returns:
        Low and high bound. None for fewer than `FEWEST_OCCUPATIONS`, when more than `MOST_UNDEFINED` of the draws lack
        the figure, or when all draws are equal: resampling then shows no spread, which is not the same as certainty.

    Source: Hesterberg 2015, doi:10.1080/00031305.2015.1089789, section 4.2.
    """
    values = np.asarray(samples, dtype=np.float64)
    defined = values[np.isfinite(values)]
    if occupations is not None and occupations < FEWEST_OCCUPATIONS:
        return None
    if len(defined) < (1 - MOST_UNDEFINED) * len(values) or not len(defined):
        return None
    tail = _tail(level, occupations)
    low, high = (float(x) for x in np.quantile(defined, (tail, 1 - tail)))
    spread = float(np.ptp(defined))
    return None if spread <= 1e-12 * max(1.0, abs(low)) else (low, high)


@cache
def _tail(level: float, occupations: int | None) -> float:
    tail = (1 - level) / 2
    if occupations is None:
        return tail
    return float(stats.norm.cdf(math.sqrt(occupations / (occupations - 1)) * stats.t.ppf(tail, occupations - 1)))


def means(draws: Draws, values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Array:
    """Resampled means of task values.

    Args:
        draws: Draws for the tasks.
        values: Shape (n_tasks,) or (n_tasks, m).
        weights: Weight of each task, shape (n_tasks,); by default all weigh the same.

    Returns:
        Shape (draws,) or (draws, m), NaN in a draw without tasks.
    """
    values = np.asarray(values, dtype=np.float64)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = draws.sum(weight)
    summed = draws.sum((values.T * weight).T)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (summed.T / total).T


def pearson(draws: Draws, first: npt.ArrayLike, second: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Array:
    """Resampled Pearson correlation of task values.

    Args:
        draws: Draws for the tasks.
        first: Values, shape (n_tasks,).
        second: Values of the same tasks, shape (n_tasks,).
        weights: Weight of each task, shape (n_tasks,); by default all weigh the same.

    Returns:
        Shape (draws,), NaN where a side is constant in the draw.
    """
    x, y = (np.asarray(side, dtype=np.float64) for side in (first, second))
    weight = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    # Near their means the sums of squares keep their digits.
    x, y = x - x.mean(), y - y.mean()
    moments = draws.sum(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1) * weight[:, None])
    return _correlation(moments)


def occupation_pearson(counts: Array, first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    """Resampled Pearson correlation of occupation values.

    Args:
        counts: `Draws.counts` of these occupations, shape (draws, n).
        first: Values, shape (n,).
        second: Values of the same occupations, shape (n,).

    Returns:
        Shape (draws,), NaN where a side is constant in the draw.
    """
    x, y = (np.asarray(side, dtype=np.float64) for side in (first, second))
    x, y = x - x.mean(), y - y.mean()
    return _correlation(counts @ np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1))


def occupation_spearman(counts: Array, first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    """Resampled Spearman correlation of occupation values, ranked anew in each draw, ties at their mean rank.

    Args:
        counts: `Draws.counts` of these occupations, shape (draws, n).
        first: Values, shape (n,).
        second: Values of the same occupations, shape (n,).

    Returns:
        Shape (draws,), NaN where a side is constant in the draw.
    """
    x, y = (_drawn_ranks(counts, np.asarray(side, dtype=np.float64)) for side in (first, second))
    total = counts.sum(axis=1)
    # The mean rank of any draw is known, so that no draw is centred far from zero.
    x, y = (side - (total[:, None] + 1) / 2 for side in (x, y))
    parts = [counts.sum(axis=1), *((counts * side).sum(axis=1) for side in (x, y, x * x, y * y, x * y))]
    return _correlation(np.stack(parts, axis=1))


def _drawn_ranks(counts: Array, values: Array) -> Array:
    """Rank of each occupation's value within each draw, shape (draws, n); an occupation drawn twice ties with itself."""
    _, place = np.unique(values, return_inverse=True)
    size = int(place.max()) + 1 if len(place) else 0
    same = np.zeros((len(values), size))
    same[np.arange(len(values)), place] = 1
    held = counts @ same
    below = np.cumsum(held, axis=1) - held
    return (below + (held + 1) / 2)[:, place]


def _correlation(moments: Array) -> Array:
    """Correlation from weighted sums of 1, x, y, xx, yy, xy along the last axis."""
    n, x, y, xx, yy, xy = np.moveaxis(moments, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_x, spread_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
        found = (xy / n - x * y / n**2) / np.sqrt(spread_x * spread_y)
        # Sums of a constant leave a trace of rounding that is no spread.
        flat = (spread_x <= 1e-12 * (1 + xx / n)) | (spread_y <= 1e-12 * (1 + yy / n))
    return np.where(flat, np.nan, np.clip(found, -1, 1))
