"""Uncertainty by resampling occupations, and the one rule that makes an interval of it.

Labels of one occupation go right or wrong together, so whole occupations are drawn, each with all of its tasks. One set of
draws serves all figures of an evaluation; the same draws applied to two runs on the same tasks give a paired change, in
which what both runs share cancels out.

A figure is made of sums over tasks (a confusion matrix, a mean, a correlation), so it is resampled by occupation: sums by
occupation times the number of times that a draw holds each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
Bounds = tuple[float, float]
Formula = Callable[[Array], Array]
"""Makes a figure of sums, shape (..., m) or (..., k, k) to (...)."""

DRAWS = 2000
"""Draws by default; two seeds then differ by about a twentieth of an interval's width."""
FEW_OCCUPATIONS = 10
"""Below this number of occupations intervals come with a warning: they cover what they say, but are wide."""
MOST_UNDEFINED = 0.05
"""Share of draws without the figure above which there is no interval."""

SHARE: Bounds = (0, 1)
CORRELATION: Bounds = (-1, 1)


def few_occupations(count: int) -> str | None:
    """The warning that goes with intervals over few occupations; None where there are enough."""
    if count >= FEW_OCCUPATIONS:
        return None
    tasks = f"the tasks belong to {count} occupation{'' if count == 1 else 's'} only"
    return f"{tasks}: intervals are wide, and say little" if count > 1 else f"{tasks}, so there are no intervals"


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
    _parts: dict[bytes, Array] = field(default_factory=dict[bytes, Array], repr=False, compare=False)

    @cached_property
    def held(self) -> npt.NDArray[np.bool_]:
        """Occupations that have tasks, shape (n_occupations,)."""
        return np.bincount(self.place, minlength=self.counts.shape[1]) > 0

    @cached_property
    def occupations(self) -> int:
        """Number of occupations that the tasks belong to."""
        return int(self.held.sum())

    def of(self, tasks: npt.ArrayLike) -> Draws:
        """The same draws for some of the tasks, by mask or positions over (n_tasks,)."""
        return Draws(self.counts, self.place[np.asarray(tasks)], self.seed, self._parts)

    def by_occupation(self, values: npt.ArrayLike) -> Array:
        """Sums by occupation, shape (n_occupations, ...), of task values, shape (n_tasks, ...)."""
        values = np.asarray(values, dtype=np.float64)
        flat, size = values.reshape(len(values), -1), self.counts.shape[1]
        summed = np.empty((size, flat.shape[1]))
        for column in range(flat.shape[1]):
            summed[:, column] = np.bincount(self.place, weights=flat[:, column], minlength=size)
        return summed.reshape(size, *values.shape[1:])

    def sum(self, values: npt.ArrayLike) -> Array:
        """Resampled sums, shape (draws, ...), of task values; one-hot pairs of labels give a confusion matrix a draw."""
        summed = self.by_occupation(values)
        flat, counts = summed.reshape(len(summed), -1), self.counts
        if self.occupations < len(self.held) / 2:
            key = self.held.tobytes()
            if key not in self._parts:
                self._parts[key] = np.ascontiguousarray(counts.T[self.held])
            flat, counts = flat[self.held], self._parts[key].T
        # Draws lie side by side in memory, as what is made of them runs over the draws.
        return (flat.T @ counts.T).T.reshape(len(counts), *summed.shape[1:])


def occupation_draws(codes: npt.ArrayLike, draws: int = DRAWS, seed: int = 0) -> Draws:
    """Draw occupations with replacement, as many as there are.

    Args:
        codes: O*NET-SOC code of each task, shape (n_tasks,).
        draws: Number of draws.
        seed: Seed; the draws depend on it and on the set of codes, not on the order of the tasks.
    """
    names, place = np.unique(np.asarray(codes, dtype=str), return_inverse=True)
    if not len(names):
        return Draws(np.zeros((draws, 0)), place, seed)
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return Draws(counts.astype(np.float64), place, seed)


@dataclass(frozen=True)
class Figure:
    """A figure and its bootstrap draws.

    Attributes:
        value: The figure; NaN where the data cannot give it.
        draws: The figure by draw, shape (draws,), NaN where a draw cannot give it.
        n: Tasks behind it.
        occupations: Occupations that say something about its spread: those with tasks; for a change, those in which
            something changed.
        span: Least and largest value that the figure can take.
        extremes: Least and largest value that the figure would have if a share (0-1) of the tasks were otherwise; None
            where the span says it.
        change: Whether it is a paired change, which is known to be 0 where nothing changed.
        exact: Whether it is known and not an estimate: a gold against itself.
    """

    value: float
    draws: Array
    n: int
    occupations: int
    span: Bounds = SHARE
    extremes: Callable[[float], Bounds] | None = None
    change: bool = False
    exact: bool = False

    def interval(self, level: float = 0.95) -> Bounds | None:
        """Interval by Student's t over occupations, on a scale that cannot leave the figure's range.

        The standard error is the spread of the draws, corrected for few clusters; degrees of freedom are the occupations
        less one; the bounds are made on the logit of the figure's place within its span (for a correlation, Fisher's z).

        Draws of a figure that are all alike (15 of 15 right) are not certainty. The share of occupations that may be
        otherwise though none was seen has an exact binomial bound (Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404),
        and the interval is what the figure could be if as large a share of the tasks were.

        Returns:
            Low and high bound; None where the data cannot give them: one occupation only, or too many draws without the
            figure.
        """
        if not math.isfinite(self.value):
            return None
        if self.exact or (self.change and not self.occupations):
            return self.value, self.value
        reach = self._reach(level)
        if reach is None:
            return None
        return on_scale(self.value, reach, self.span) if reach else self._without_spread((1 - level) / 2)

    def says_nothing(self, level: float = 0.95) -> bool:
        """Whether its interval, before it is bent to stay within the figure's range, is wider than that range."""
        reach = None if self.exact or not math.isfinite(self.value) else self._reach(level)
        width = (self.span[1] - self.span[0]) / (2 if self.change else 1)
        return reach is not None and 2 * reach >= width

    def _reach(self, level: float) -> float | None:
        """Half the width of the plain interval; 0 where draws are all alike, None where they give no interval."""
        defined = self.draws[np.isfinite(self.draws)]
        if not len(defined) or len(defined) < (1 - MOST_UNDEFINED) * len(self.draws):
            return None
        if float(np.ptp(defined)) <= 1e-12:
            return 0.0
        if self.occupations < 2 and not self.change:
            return None
        # The factor undoes the bootstrap's shrinkage for few clusters.
        error = float(defined.std(ddof=1)) * math.sqrt(self.occupations / max(self.occupations - 1, 1))
        return student_t(level, max(self.occupations - 1, 1)) * error

    def _without_spread(self, tail: float) -> Bounds | None:
        if self.change and self.value == 0:
            return 0.0, 0.0
        if self.occupations < 2:
            # All draws of one occupation are alike; that says nothing about its spread.
            return None
        share = 1 - tail ** (1 / self.occupations)
        if self.extremes is not None:
            return self.extremes(share)
        return tuple((1 - share) * self.value + share * end for end in self.span)  # pyright: ignore[reportReturnType]  two ends


@cache
def student_t(level: float, degrees: float) -> float:
    """Quantile of Student's t for a two-sided interval of this level."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def on_scale(value: float, reach: float, span: Bounds) -> Bounds:
    """Bounds `reach` away from a value, made on the logit of its place within a span, so that they never leave it.

    A value at an end of the span or beyond it, as an estimate may be, has no logit: its bounds are cut at the ends.
    """
    low, high = span
    place = (value - low) / (high - low)
    if not 0 < place < 1:
        return min(max(value - reach, low), high), max(min(value + reach, high), low)
    middle, away = math.log(place / (1 - place)), reach / (high - low) / (place * (1 - place))
    ends = (low + (high - low) / (1 + math.exp(-min(max(x, -700), 700))) for x in (middle - away, middle + away))
    below, above = ends
    return min(below, value), max(above, value)


def change(first: Figure, second: Figure, occupations: int) -> Figure:
    """The second figure less the first, paired: both must come from the same draws of the same tasks.

    Args:
        first: Figure of the first run.
        second: Figure of the second run.
        occupations: Occupations with a task that changed. Others say nothing about the spread of the change: counting
            them would make a handful of changes look sure.
    """
    reach = second.span[1] - second.span[0]
    return Figure(
        second.value - first.value, second.draws - first.draws, second.n, occupations, (-reach, reach), change=True
    )


@dataclass(frozen=True)
class Sums:
    """What figures are made of: values of the tasks, summed over all of them and over those of each draw.

    Attributes:
        each: Values, shape (n, m) or (n, k, k), times the task's weight, which is 1 on average.
        draws: Draws for these tasks; None where no intervals are wanted.
        corners: Values that a task has at the extremes, shape (c, ...); None where the range of a figure says it.
    """

    each: Array
    draws: Draws | None
    corners: Array | None = None

    @cached_property
    def total(self) -> Array:
        """Sums over all tasks, shape (...)."""
        return self.each.sum(axis=0)

    @cached_property
    def drawn(self) -> Array:
        """Sums by draw, shape (draws, ...)."""
        return np.zeros((0, *self.each.shape[1:])) if self.draws is None else self.draws.sum(self.each)

    def figure(self, formula: Formula, span: Bounds = SHARE) -> Figure:
        """A figure; with draws it has an interval."""
        value = float(formula(self.total))

        def extremes(share: float) -> Bounds:
            # All that is otherwise falls on one corner, whichever moves the figure most.
            assert self.corners is not None
            found = formula((1 - share) * self.total + share * len(self.each) * self.corners)
            return float(np.nanmin([value, *found])), float(np.nanmax([value, *found]))

        units = 0 if self.draws is None else self.draws.occupations
        bent = extremes if self.corners is not None else None
        return Figure(value, formula(self.drawn), len(self.each), units, span, bent)


def ci95(figures: Mapping[str, Figure], draws: Draws | None) -> dict[str, Bounds | None]:
    """95 % intervals of figures; none without draws or tasks."""
    if draws is None or not len(draws.place):
        return {}
    return {name: figure.interval() for name, figure in figures.items()}


def drawn_ranks(counts: Array, values: Array) -> Array:
    """Rank of each occupation's value within each draw, shape (draws, n), ties at their mean, less the mean of all ranks.

    Args:
        counts: `Draws.counts` of these occupations, shape (draws, n); one drawn twice ties with itself.
        values: Values, shape (n,).
    """
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)
    held = np.add.reduceat(counts[:, order], starts, axis=1)
    middle = np.cumsum(held, axis=1) - held / 2
    group = np.empty(len(values), dtype=np.intp)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    return (middle - counts.sum(axis=1)[:, None] / 2)[:, group]
