"""Figures of agreement between two sets of labels or values, and the single rule for their intervals.

Figures are functions of sums over tasks: confusion matrices of shape (..., k, k), rows gold, columns run, both in order of
exposure, or moments of values, shape (..., 7). They are vectorised, so that thousands of bootstrap draws cost only a few
matrix operations; tests compare each with scikit-learn and the library `krippendorff`. Sums may be weighted. Undefined figures
are NaN, and null in a document. If both sides use only one, the same, label, all figures except accuracy are undefined, even
those whose formula would give 1.

Errors within an occupation are correlated, so whole occupations are resampled, each with all its tasks. One set of draws is
used for all figures of an evaluation; the same draws applied to two runs on the same tasks give a paired change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from relabel.evaluation.document import Bounds, Intervals95, SettingMetrics
from relabel.tabular import counted

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
# Computes a figure from sums: shape (..., m) or (..., k, k) to (...).
Formula = Callable[[Array], Array]


def pairs(gold: npt.ArrayLike, run: npt.ArrayLike, size: int) -> Array:
    """One-hot matrices of each task's pair of labels; their sum is the confusion matrix.

    Args:
        gold: The gold's labels as positions on the scale, shape (n,).
        run: The run's labels, shape (n,).
        size: Number of labels on the scale, k.

    Returns:
        Shape (n, k, k), rows gold, columns run.
    """
    one_hot = np.eye(size)
    return one_hot[np.asarray(gold, dtype=np.intp), :, None] * one_hot[np.asarray(run, dtype=np.intp), None, :]


def accuracy(counts: Array) -> Array:
    """Share of equal labels, 0-1, shape (...); NaN without tasks."""
    return ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def kappa(counts: Array) -> Array:
    """Cohen's kappa: agreement beyond chance, given the label shares of both sides.

    Args:
        counts: Confusion matrices, shape (..., k, k).

    Returns:
        Shape (...), at most 1; 0 at chance, also if one side is constant and the other is not. NaN without tasks, or if both
        sides use only one label.

    Source: Cohen 1960, doi:10.1177/001316446002000104.
    """
    return _beyond_chance(counts, 1 - np.eye(counts.shape[-1]))


def kappa_quadratic(counts: Array) -> Array:
    """Cohen's kappa with quadratic weights; shapes as for `kappa`.

    Source: Cohen 1968, doi:10.1037/h0026256.
    """
    steps = np.arange(counts.shape[-1], dtype=np.float64)
    return _beyond_chance(counts, (steps[:, None] - steps) ** 2)


def krippendorff_nominal(counts: Array) -> Array:
    """Krippendorff's alpha for nominal data, two coders, and no missing labels; shapes as for `kappa`.

    Source: Krippendorff 2004, Content Analysis, ch. 11.
    """
    return _beyond_chance(counts, 1 - np.eye(counts.shape[-1]), pooled=True)


def krippendorff_ordinal(counts: Array) -> Array:
    """Krippendorff's alpha for ordinal data; shapes and source as for `krippendorff_nominal`.

    The distance of two labels is the number of values between their middle ranks, from the label counts of each matrix.
    """
    used = counts.sum(axis=-1) + counts.sum(axis=-2)
    middle = np.cumsum(used, axis=-1) - used / 2
    return _beyond_chance(counts, (middle[..., :, None] - middle[..., None, :]) ** 2, pooled=True)


def ac1(counts: Array) -> Array:
    """Gwet's AC1: agreement beyond chance, robust to rare labels; shapes as for `kappa`, k at least 2.

    Chance agreement is the sum of p (1 - p) over the k labels, divided by k - 1, where p is the mean of a label's shares on
    both sides.

    Source: Gwet 2008, doi:10.1348/000711006X126600.
    """
    shares = (BY_LABEL["gold"](counts) + BY_LABEL["run"](counts)) / 2
    chance = (shares * (1 - shares)).sum(axis=-1) / (counts.shape[-1] - 1)
    return _where_several_labels(counts, ratio(accuracy(counts) - chance, 1 - chance))


def macro_f1(counts: Array) -> Array:
    """Unweighted mean of F1 over the labels in use, shape (...); NaN if both sides use only one label."""
    f1 = BY_LABEL["f1"](counts)
    mean = ratio(np.nansum(f1, axis=-1), np.isfinite(f1).sum(axis=-1))
    return _where_several_labels(counts, mean)


def _beyond_chance(counts: Array, cost: Array, *, pooled: bool = False) -> Array:
    """1 - observed / expected disagreement; if `pooled`, label shares are pooled over both sides, as in Krippendorff's alpha."""
    rows, columns = counts.sum(axis=-1), counts.sum(axis=-2)
    size = rows.sum(axis=-1)
    if pooled:
        # Krippendorff's coincidence table counts each pair in both orders.
        rows = columns = rows + columns
        size = 2 * (2 * size - 1)
    by_chance = (rows[..., :, None] * columns[..., None, :] * cost).sum(axis=(-2, -1))
    return _where_several_labels(counts, 1 - size * ratio((counts * cost).sum(axis=(-2, -1)), by_chance))


def _where_several_labels(counts: Array, figure: Array) -> Array:
    used = (counts.sum(axis=-1) + counts.sum(axis=-2) > 0).sum(axis=-1)
    return np.where(used > 1, figure, np.nan)


def _right(counts: Array) -> Array:
    return np.diagonal(counts, axis1=-2, axis2=-1)


# Figures of a setting by their names in the eval document: (..., k, k) to (...).
FIGURES: Mapping[str, Formula] = {
    formula.__name__: formula
    for formula in (accuracy, kappa, kappa_quadratic, krippendorff_nominal, krippendorff_ordinal, ac1, macro_f1)
}

# Figures of each label, where `gold` and `run` are its shares: (..., k, k) to (..., k), NaN if undefined.
BY_LABEL: Mapping[str, Formula] = {
    "f1": lambda counts: ratio(2 * _right(counts), counts.sum(axis=-1) + counts.sum(axis=-2)),
    "precision": lambda counts: ratio(_right(counts), counts.sum(axis=-2)),
    "recall": lambda counts: ratio(_right(counts), counts.sum(axis=-1)),
    "gold": lambda counts: ratio(counts.sum(axis=-1), counts.sum(axis=(-2, -1))[..., None]),
    "run": lambda counts: ratio(counts.sum(axis=-2), counts.sum(axis=(-2, -1))[..., None]),
}


def krippendorff_several(votes: npt.NDArray[np.integer], level: Literal["nominal", "ordinal"]) -> float | None:
    """Krippendorff's alpha for any number of coders.

    Args:
        votes: Number of coders by unit and label, shape (n, k).
        level: Level of measurement.

    Returns:
        The figure; None if only one label is used.
    """
    import krippendorff

    if (votes.sum(axis=0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=votes, level_of_measurement=level))


def moments(first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    """Terms for figures of two sets of values: 1, x, y, xx, yy, xy and x = y of each unit, shape (n, 7)."""
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y, x == y], axis=1)


def task_values(gold: npt.ArrayLike, run: npt.ArrayLike) -> Array:
    """`moments` of values (0-1) minus one half; centring preserves precision in sums of squares."""
    return moments(np.asarray(gold) - 0.5, np.asarray(run) - 0.5)


def correlation(sums: Array) -> Array:
    """Pearson's correlation from sums of `moments`, shape (..., 7) to (...); NaN if a side is constant."""
    n, x, y, xx, yy, xy = (sums[..., place] for place in range(6))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_x, spread_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
        coefficient = (xy / n - x * y / n**2) / np.sqrt(spread_x * spread_y)
        # The variance of a constant may not be exactly 0, because of rounding.
        flat = (spread_x <= 1e-12 * (1 + xx / n)) | (spread_y <= 1e-12 * (1 + yy / n))
    return np.where(flat, np.nan, np.clip(coefficient, -1, 1))


# Figures of two sets of task values (0-1) from sums of `task_values`, (..., 7) to (...); `mean` is the run's.
VALUE_FIGURES: Mapping[str, Formula] = {
    "agreement": lambda sums: ratio(sums[..., 6], sums[..., 0]),
    "pearson": correlation,
    "mean": lambda sums: ratio(sums[..., 2], sums[..., 0]) + 0.5,
    "gold_mean": lambda sums: ratio(sums[..., 1], sums[..., 0]) + 0.5,
    "difference": lambda sums: ratio(sums[..., 2] - sums[..., 1], sums[..., 0]),
}


def figure_formula(name: str, scale: Sequence[str]) -> Formula:
    """The formula of a figure.

    Args:
        name: A key of `FIGURES`, or of `BY_LABEL` with a label, such as `f1:E2`; without a scale, a key of `VALUE_FIGURES`.
        scale: The k labels, in order of exposure; empty for values.
    """
    if not scale:
        return VALUE_FIGURES[name]
    kind, _, label = name.partition(":")
    if not label:
        return FIGURES[kind]
    place = list(scale).index(label)
    return lambda counts: BY_LABEL[kind](counts)[..., place]


def setting_metrics(
    counts: Array, scale: Sequence[str], *, weighted: Array | None = None, ci95: Intervals95 | None = None
) -> SettingMetrics:
    """All figures of one setting.

    Args:
        counts: Confusion matrix, shape (k, k), rows gold, columns run.
        scale: The k labels, in order of exposure.
        weighted: The same with task weights; by default unweighted.
        ci95: Intervals of the figures by name.
    """
    used = counts if weighted is None else weighted
    by_kind = {kind: dict(zip(scale, map(or_none, formula(used)), strict=True)) for kind, formula in BY_LABEL.items()}
    support = dict(zip(scale, counts.sum(axis=1).astype(int).tolist(), strict=True))
    by_label = {
        n: {kind: by_kind[kind][n] for kind in ("precision", "recall", "f1")} | {"support": support[n]} for n in scale
    }
    shares = {side: {n: x for n, x in by_kind[side].items() if x is not None} for side in ("gold", "run")}
    figures = {name: or_none(formula(used)) for name, formula in FIGURES.items()}
    about = {"labels": by_label, "confusion": cross_table(counts, scale), "prevalence": shares, "ci95": ci95 or {}}
    return SettingMetrics.model_validate({"n": int(counts.sum()), **figures, **about})


def cross_table(counts: Array, scale: Sequence[str]) -> dict[str, dict[str, int]]:
    """A matrix of counts as nested dicts: by label of the row, then of the column."""
    return {
        row: dict(zip(scale, line, strict=True)) for row, line in zip(scale, counts.astype(int).tolist(), strict=True)
    }


def or_none(value: float | np.floating | Array) -> float | None:
    """A figure for the eval document: None if it is undefined (NaN)."""
    value = float(value)
    return value if math.isfinite(value) else None


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Array:
    """A quotient; NaN if undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.asarray(above, dtype=np.float64) / np.asarray(below, dtype=np.float64)
    return np.where(np.isfinite(quotient), quotient, np.nan)


# Default number of draws; bounds then differ between seeds by about a twentieth of an interval's width.
DRAWS = 2000
# With fewer occupations there is a warning: intervals keep their coverage, but are wide.
FEW_OCCUPATIONS = 10
# Maximum share of draws in which the figure is undefined; above it there is no interval.
MOST_UNDEFINED = 0.05

SHARE: Bounds = (0, 1)
CORRELATION: Bounds = (-1, 1)


def few_occupations(count: int) -> str | None:
    """The warning for intervals over few occupations; None if there are enough."""
    if count >= FEW_OCCUPATIONS:
        return None
    tasks = f"the tasks belong to {counted(count, 'occupation')} only"
    return f"{tasks}: intervals are wide, and say little" if count > 1 else f"{tasks}, so there are no intervals"


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws of occupations for a list of tasks.

    Attributes:
        counts: Number of times that each occupation is in each draw, shape (draws, n_occupations).
        occupation: Index of each task's occupation, shape (n_tasks,).
        seed: Seed of the draws.
    """

    counts: Array
    occupation: Ints
    seed: int

    @property
    def occupations(self) -> int:
        """Number of occupations of the tasks."""
        return len(np.unique(self.occupation))

    def of(self, tasks: npt.ArrayLike) -> Draws:
        """The same draws for some of the tasks, by mask or positions."""
        return Draws(self.counts, self.occupation[np.asarray(tasks)], self.seed)

    def by_occupation(self, values: npt.ArrayLike) -> Array:
        """Sums by occupation, shape (n_occupations, ...), of task values, shape (n_tasks, ...)."""
        return summed(values, self.occupation, self.counts.shape[1])

    def sum(self, values: npt.ArrayLike, group: Ints | int = 0, groups: int = 1) -> Array:
        """Sums of task values by group of tasks and draw, shape (groups, draws, ...).

        With one-hot pairs of labels, this gives a confusion matrix for each draw.
        """
        size = self.counts.shape[1]
        totals = summed(values, self.occupation * groups + group, size * groups)
        drawn = totals.reshape(size, math.prod(totals.shape) // max(size, 1)).T @ self.counts.T
        return np.moveaxis(drawn.reshape(groups, *totals.shape[1:], len(self.counts)), -1, 1)


def summed(values: npt.ArrayLike, group: Ints, size: int) -> Array:
    """Sums of values, shape (n, ...), by group, shape (n,) with numbers below `size`; shape (size, ...)."""
    values = np.asarray(values, dtype=np.float64)
    columns = values.reshape(len(values), math.prod(values.shape[1:])).T
    sums = [np.bincount(group, weights=column, minlength=size) for column in columns]
    return np.stack(sums, axis=1, dtype=np.float64).reshape(size, *values.shape[1:])


def occupation_draws(codes: npt.ArrayLike, draws: int = DRAWS, seed: int = 0) -> Draws:
    """Bootstrap draws of occupations, with replacement.

    Args:
        codes: O*NET-SOC code of each task, shape (n_tasks,).
        draws: Number of draws.
        seed: Seed; the draws depend on it and on the set of codes, not on the order of the tasks.
    """
    names, occupation = np.unique(np.asarray(codes, dtype=str), return_inverse=True)
    if not len(names):
        return Draws(np.zeros((draws, 0)), occupation, seed)
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    # Store draws contiguously, because computations run over draws.
    return Draws(counts.T.astype(np.float64, order="C").T, occupation, seed)


@dataclass(frozen=True)
class Figure:
    """A figure and its bootstrap draws.

    Attributes:
        value: The figure; NaN if undefined.
        draws: The figure by draw, shape (draws,), NaN if undefined; empty for one that is known without error, such as a count.
        n: Number of tasks.
        occupations: Number of occupations that determine its variance: those with tasks; for a change, those with a change.
        span: Lowest and highest possible value of the figure.
        extremes: For a tail probability, the lowest and highest value of the figure if the `unseen_share` of the tasks were
            different; None to use the span.
        change: Whether it is a paired change, which is exactly 0 where nothing changed.
    """

    value: float
    draws: Array
    n: int
    occupations: int = 0
    span: Bounds = SHARE
    extremes: Callable[[float], Bounds] | None = None
    change: bool = False

    def interval(self, level: float = 0.95) -> Bounds | None:
        """Interval by Student's t over occupations, on a scale that cannot leave the figure's range.

        The standard error is the standard deviation of the draws, corrected for few clusters; the degrees of freedom are the
        number of occupations minus one; the bounds are computed on the logit of the figure's position in its span (for a
        correlation, this is Fisher's z).

        If all draws are equal (15 of 15 right), the figure is still uncertain. The share of occupations that may be different,
        although none was observed, has an exact binomial bound (Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404); the
        interval is the range of the figure if that share of the tasks were different.

        Returns:
            Low and high bound; None for only one occupation, or if too many draws are undefined.
        """
        if not math.isfinite(self.value):
            return None
        if self.change and not self.occupations:
            return self.value, self.value
        half_width = self._half_width(level)
        if half_width is None:
            return None
        return on_scale(self.value, half_width, self.span) if half_width else self._without_spread((1 - level) / 2)

    def is_uninformative(self, level: float = 0.95) -> bool:
        """Whether its interval, before transformation to the figure's range, is wider than that range."""
        half_width = self._half_width(level) if math.isfinite(self.value) else None
        width = (self.span[1] - self.span[0]) / (2 if self.change else 1)
        return half_width is not None and 2 * half_width >= width

    def _half_width(self, level: float) -> float | None:
        """Half the width of the untransformed interval; 0 if all draws are equal, None if there is no interval."""
        defined = self.draws[np.isfinite(self.draws)]
        if not len(defined) or len(defined) < (1 - MOST_UNDEFINED) * len(self.draws):
            return None
        if float(np.ptp(defined)) <= 1e-12:
            return 0.0
        if self.occupations < 2 and not self.change:
            return None
        # Correct the bootstrap's bias for few clusters.
        error = float(defined.std(ddof=1)) * math.sqrt(self.occupations / max(self.occupations - 1, 1))
        return student_t(level, max(self.occupations - 1, 1)) * error

    def _without_spread(self, tail: float) -> Bounds | None:
        if self.occupations < 2:
            # All draws of a single occupation are equal, which says nothing about the variance.
            return None
        if self.change and self.value == 0:
            return 0.0, 0.0
        if self.extremes is not None:
            return self.extremes(tail)
        share = unseen_share(tail, self.occupations)
        return tuple((1 - share) * self.value + share * end for end in self.span)  # pyright: ignore[reportReturnType]  two ends


def unseen_share(tail: float, occupations: int) -> float:
    """Exact upper bound of the share of occupations that are different, if none of a given number is."""
    return 1 - tail ** (1 / occupations)


@cache
def student_t(level: float, degrees: float) -> float:
    """Quantile of Student's t for a two-sided interval of this level."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def on_scale(value: float, half_width: float, span: Bounds) -> Bounds:
    """Bounds at the distance `half_width` from a value, on the logit of its position in a span, so that they stay inside.

    A value at or beyond an end of the span has no logit: its bounds are clipped.
    """
    low, high = span
    position = (value - low) / (high - low)
    if not 0 < position < 1:
        return min(max(value - half_width, low), high), max(min(value + half_width, high), low)
    centre, step = math.log(position / (1 - position)), half_width / (high - low) / (position * (1 - position))
    ends = (low + (high - low) / (1 + math.exp(-min(max(x, -700), 700))) for x in (centre - step, centre + step))
    below, above = ends
    return min(below, value), max(above, value)


def change(first: Figure, second: Figure, occupations: int) -> Figure:
    """The paired difference second - first; both must be from the same draws of the same tasks.

    Args:
        first: Figure of the first run.
        second: Figure of the second run.
        occupations: Number of occupations with a change. Counting others would make a few changes seem certain.
    """
    width = second.span[1] - second.span[0]
    draws = second.draws - first.draws
    return Figure(second.value - first.value, draws, second.n, occupations, (-width, width), change=True)


@dataclass(frozen=True)
class Sums:
    """Sums of task values, by group, in total and for each draw, from which figures are computed.

    Attributes:
        terms: Values, shape (n, m) or (n, k, k), times the task's weight, whose mean is 1 within each group.
        draws: Draws for these tasks; None for no intervals.
        corners: Extreme values of a task, shape (c, ...); None to use the span of a figure.
        group: Group of each task, shape (n,), below `groups`; by default there is only one.
    """

    terms: Array
    draws: Draws | None
    corners: Array | None = None
    group: Ints | None = None
    groups: int = 1

    @cached_property
    def total(self) -> Array:
        """Sums over all tasks, shape (groups, ...)."""
        return self.terms.sum(axis=0)[None] if self.group is None else summed(self.terms, self.group, self.groups)

    @cached_property
    def drawn(self) -> Array:
        """Sums by draw, shape (groups, draws, ...)."""
        if self.draws is None:
            return np.zeros((self.groups, 0, *self.terms.shape[1:]))
        return self.draws.sum(self.terms, 0 if self.group is None else self.group, self.groups)

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Number of tasks and of occupations in each group; 0 occupations without draws."""
        group = np.zeros(len(self.terms), dtype=np.intp) if self.group is None else self.group
        pair_index = np.zeros(0, dtype=np.intp) if self.draws is None else self.draws.occupation * self.groups + group
        group_of_pair, tasks = np.unique(pair_index) % self.groups, np.bincount(group, minlength=self.groups)
        return list(zip(tasks.tolist(), np.bincount(group_of_pair, minlength=self.groups).tolist(), strict=True))

    def figures(self, formula: Formula, span: Bounds = SHARE) -> list[Figure]:
        """A figure of each group; with draws it has an interval."""
        values, drawn = formula(self.total), formula(self.drawn)

        @cache
        def all_extremes(tail: float) -> tuple[Array, Array]:
            # Assign the whole unseen share to the corner that changes the figure most.
            assert self.corners is not None
            tasks, shares = np.array([(n, unseen_share(tail, max(units, 1))) for n, units in self.sizes]).T
            share, weight = (x.reshape(-1, *[1] * self.corners.ndim) for x in (shares, shares * tasks))
            figures = formula((1 - share) * self.total[:, None] + weight * self.corners)
            return np.fmin(values, np.fmin.reduce(figures, axis=1)), np.fmax(values, np.fmax.reduce(figures, axis=1))

        def extremes(index: int, tail: float) -> Bounds:
            low, high = all_extremes(tail)
            return float(low[index]), float(high[index])

        extremes_by_group = [None if self.corners is None else partial(extremes, index) for index in range(self.groups)]
        return [
            Figure(float(values[index]), drawn[index], n, units, span, extremes_by_group[index])
            for index, (n, units) in enumerate(self.sizes)
        ]

    def figure(self, formula: Formula, span: Bounds = SHARE) -> Figure:
        """The figure of all tasks, if there is only one group."""
        return self.figures(formula, span)[0]


def with_ci95(figures: Mapping[str, Figure], draws: Draws | None) -> dict[str, Any]:
    """Figures for a document: their values, None if undefined, and their intervals as `ci95`."""
    return {**{name: or_none(figure.value) for name, figure in figures.items()}, "ci95": ci95(figures, draws)}


def ci95(figures: Mapping[str, Figure], draws: Draws | None) -> dict[str, Bounds | None]:
    """95% intervals of figures; none without draws or tasks."""
    if draws is None or not len(draws.occupation):
        return {}
    return {name: figure.interval() for name, figure in figures.items()}


def drawn_ranks(counts: Array, values: Array) -> Array:
    """Centred rank of each occupation's value within each draw, with mean ranks for ties; shape (draws, n).

    Args:
        counts: `Draws.counts` of these occupations, shape (draws, n); one drawn twice ties with itself.
        values: Values, shape (n,).
    """
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)
    tied = np.add.reduceat(counts.T[order], starts)
    middle = np.cumsum(tied, axis=0)
    middle -= tied / 2
    middle -= counts.sum(axis=1) / 2
    group = np.empty(len(values), dtype=np.intp)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    return middle[group].T
