"""Figures of agreement between two sets of labels or values, and the one rule that makes an interval of them.

Figures are formulas of sums over tasks: confusion matrices of shape (..., k, k), rows gold, columns run, both in order of
exposure, or moments of values, shape (..., 7). They are written out for whole arrays, so that thousands of bootstrap draws cost
no more than a few matrix operations; tests compare each with scikit-learn and the library `krippendorff`. Sums may be weighted.
What the sums cannot give is NaN, and null in a document. When both sides use one and the same label only, there is nothing to
tell apart: then each figure but accuracy is undefined, also those whose formula would yield a flattering 1.

Labels of one occupation go right or wrong together, so whole occupations are drawn, each with all of its tasks. One set of
draws serves all figures of an evaluation; the same draws applied to two runs on the same tasks give a paired change, in
which what both runs share cancels out.
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

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
Formula = Callable[[Array], Array]
"""Makes a figure of sums, shape (..., m) or (..., k, k) to (...)."""


def pairs(gold: npt.ArrayLike, run: npt.ArrayLike, size: int) -> Array:
    """The pair of labels of each task as a matrix with a single 1; their sum is the confusion matrix.

    Args:
        gold: Places of the gold's labels on the scale, shape (n,).
        run: Places of the run's, shape (n,).
        size: Labels on the scale, k.

    Returns:
        Shape (n, k, k), rows gold, columns run.
    """
    one_hot = np.eye(size)
    return one_hot[np.asarray(gold, dtype=np.intp), :, None] * one_hot[np.asarray(run, dtype=np.intp), None, :]


def accuracy(counts: Array) -> Array:
    """Share of equal labels, 0-1, shape (...); NaN without tasks."""
    return ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def kappa(counts: Array) -> Array:
    """Cohen's kappa: agreement beyond what the two sides' own label shares would give by chance.

    Args:
        counts: Confusion matrices, shape (..., k, k).

    Returns:
        Shape (...), at most 1; 0 at chance, also when one side is constant and the other is not. NaN without tasks, or
        when both sides use one label only.

    Source: Cohen 1960, doi:10.1177/001316446002000104.
    """
    return _beyond_chance(counts, 1 - np.eye(counts.shape[-1]))


def kappa_quadratic(counts: Array) -> Array:
    """Cohen's kappa, a disagreement weighing the square of its distance on the scale; shapes as for `kappa`.

    Source: Cohen 1968, doi:10.1037/h0026256.
    """
    steps = np.arange(counts.shape[-1], dtype=np.float64)
    return _beyond_chance(counts, (steps[:, None] - steps) ** 2)


def krippendorff_nominal(counts: Array) -> Array:
    """Krippendorff's alpha for two coders without missing labels, labels unordered; shapes as for `kappa`.

    Source: Krippendorff 2004, Content Analysis, ch. 11.
    """
    return _beyond_chance(counts, 1 - np.eye(counts.shape[-1]), pooled=True)


def krippendorff_ordinal(counts: Array) -> Array:
    """Krippendorff's alpha, labels in the order of the scale; shapes and source as for `krippendorff_nominal`.

    The distance of two labels is the number of values between them, so it follows from each matrix' own label shares.
    """
    used = counts.sum(axis=-1) + counts.sum(axis=-2)
    middle = np.cumsum(used, axis=-1) - used / 2
    return _beyond_chance(counts, (middle[..., :, None] - middle[..., None, :]) ** 2, pooled=True)


def ac1(counts: Array) -> Array:
    """Gwet's AC1: agreement beyond chance, steady where one label is rare; shapes as for `kappa`, k at least 2.

    Chance is taken as the sum of p (1 - p) over the k labels, divided by k - 1, where p is the mean of a label's two
    shares.

    Source: Gwet 2008, doi:10.1348/000711006X126600.
    """
    shares = (BY_LABEL["gold"](counts) + BY_LABEL["run"](counts)) / 2
    chance = (shares * (1 - shares)).sum(axis=-1) / (counts.shape[-1] - 1)
    return _where_several_labels(counts, ratio(accuracy(counts) - chance, 1 - chance))


def macro_f1(counts: Array) -> Array:
    """Plain mean of F1 over the labels that either side uses, shape (...); NaN when both use one label only."""
    found = BY_LABEL["f1"](counts)
    mean = ratio(np.nansum(found, axis=-1), np.isfinite(found).sum(axis=-1))
    return _where_several_labels(counts, mean)


def _beyond_chance(counts: Array, cost: Array, *, pooled: bool = False) -> Array:
    """1 less the cost of the disagreements seen over that expected by chance; pooled, both sides have the same shares."""
    rows, columns = counts.sum(axis=-1), counts.sum(axis=-2)
    size = rows.sum(axis=-1)
    if pooled:
        # Each pair stands in the table of coincidences in both orders; a distance is the same in both.
        rows = columns = rows + columns
        size = 2 * (2 * size - 1)
    by_chance = (rows[..., :, None] * columns[..., None, :] * cost).sum(axis=(-2, -1))
    return _where_several_labels(counts, 1 - size * ratio((counts * cost).sum(axis=(-2, -1)), by_chance))


def _where_several_labels(counts: Array, figure: Array) -> Array:
    used = (counts.sum(axis=-1) + counts.sum(axis=-2) > 0).sum(axis=-1)
    return np.where(used > 1, figure, np.nan)


def _right(counts: Array) -> Array:
    return np.diagonal(counts, axis1=-2, axis2=-1)


FIGURES: Mapping[str, Formula] = {
    formula.__name__: formula
    for formula in (accuracy, kappa, kappa_quadratic, krippendorff_nominal, krippendorff_ordinal, ac1, macro_f1)
}
"""Figures of a setting by their names in the eval document; each takes (..., k, k) and gives (...)."""

BY_LABEL: Mapping[str, Formula] = {
    "f1": lambda counts: ratio(2 * _right(counts), counts.sum(axis=-1) + counts.sum(axis=-2)),
    "precision": lambda counts: ratio(_right(counts), counts.sum(axis=-2)),
    "recall": lambda counts: ratio(_right(counts), counts.sum(axis=-1)),
    "gold": lambda counts: ratio(counts.sum(axis=-1), counts.sum(axis=(-2, -1))[..., None]),
    "run": lambda counts: ratio(counts.sum(axis=-2), counts.sum(axis=(-2, -1))[..., None]),
}
"""Figures of each label, `gold` and `run` being its share; each takes (..., k, k) and gives (..., k), NaN where it is undefined."""


def krippendorff_several(votes: npt.NDArray[np.integer], level: Literal["nominal", "ordinal"]) -> float | None:
    """Krippendorff's alpha of any number of coders.

    Args:
        votes: By unit, how many coders gave each label, shape (n, k).
        level: Whether the labels are in order.

    Returns:
        The figure; None where one label only is used.
    """
    import krippendorff

    if (votes.sum(axis=0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=votes, level_of_measurement=level))


def moments(first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    """What the figures of two sets of values are summed from: 1, x, y, xx, yy, xy and x = y of each unit, shape (n, 7)."""
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y, x == y], axis=1)


def task_values(gold: npt.ArrayLike, run: npt.ArrayLike) -> Array:
    """`moments` of values on 0-1, less a half: near the middle of their range sums of squares keep their digits."""
    return moments(np.asarray(gold) - 0.5, np.asarray(run) - 0.5)


def correlation(sums: Array) -> Array:
    """Pearson's correlation from sums of `moments`, shape (..., 7) to (...); NaN where a side is constant."""
    n, x, y, xx, yy, xy = (sums[..., place] for place in range(6))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_x, spread_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
        found = (xy / n - x * y / n**2) / np.sqrt(spread_x * spread_y)
        # Sums of a constant leave a trace of rounding that is not spread.
        flat = (spread_x <= 1e-12 * (1 + xx / n)) | (spread_y <= 1e-12 * (1 + yy / n))
    return np.where(flat, np.nan, np.clip(found, -1, 1))


VALUE_FIGURES: Mapping[str, Formula] = {
    "agreement": lambda sums: ratio(sums[..., 6], sums[..., 0]),
    "pearson": correlation,
    "mean": lambda sums: ratio(sums[..., 2], sums[..., 0]) + 0.5,
    "gold_mean": lambda sums: ratio(sums[..., 1], sums[..., 0]) + 0.5,
    "difference": lambda sums: ratio(sums[..., 2] - sums[..., 1], sums[..., 0]),
}
"""Figures of two sets of task values (0-1) from sums of `task_values`, (..., 7) to (...); `mean` is the run's."""


def figure_formula(name: str, scale: Sequence[str]) -> Formula:
    """What makes a figure of sums.

    Args:
        name: One of `FIGURES`, or of `BY_LABEL` with a label such as `f1:E2`; without a scale one of `VALUE_FIGURES`.
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
        weighted: The same with each task counted by its weight; by default all weigh the same.
        ci95: Intervals of the figures by name.
    """
    used = counts if weighted is None else weighted
    told = {kind: dict(zip(scale, map(known, formula(used)), strict=True)) for kind, formula in BY_LABEL.items()}
    support = dict(zip(scale, counts.sum(axis=1).astype(int).tolist(), strict=True))
    by_label = {
        n: {kind: told[kind][n] for kind in ("precision", "recall", "f1")} | {"support": support[n]} for n in scale
    }
    shares = {side: {n: x for n, x in told[side].items() if x is not None} for side in ("gold", "run")}
    figures = {name: known(formula(used)) for name, formula in FIGURES.items()}
    about = {"labels": by_label, "confusion": cross_table(counts, scale), "prevalence": shares, "ci95": ci95 or {}}
    return SettingMetrics.model_validate({"n": int(counts.sum()), **figures, **about})


def cross_table(counts: Array, scale: Sequence[str]) -> dict[str, dict[str, int]]:
    """A matrix of counts by label of its rows, then of its columns."""
    return {
        row: dict(zip(scale, line, strict=True)) for row, line in zip(scale, counts.astype(int).tolist(), strict=True)
    }


def clustered_se(values: Array, clusters: npt.ArrayLike) -> float | None:
    """Standard error of a mean when values of one cluster are not independent.

    Args:
        values: Array, shape (n,).
        clusters: Cluster of each value, shape (n,), such as its occupation.

    Returns:
        The error; None for fewer than two clusters.

    Source: Liang and Zeger 1986, doi:10.1093/biomet/73.1.13, with the factor G / (G - 1) for G clusters.
    """
    names, places = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    if len(names) < 2:
        return None
    summed = np.bincount(places, weights=values - values.mean())
    return known(np.sqrt(len(names) / (len(names) - 1) * (summed**2).sum()) / len(values))


def known(value: float | np.floating | Array) -> float | None:
    """A single figure for the eval document: None where it is undefined."""
    value = float(value)
    return value if math.isfinite(value) else None


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Array:
    """A quotient, NaN where it is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.asarray(above, dtype=np.float64) / np.asarray(below, dtype=np.float64)
    return np.where(np.isfinite(found), found, np.nan)


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

    @property
    def occupations(self) -> int:
        """Number of occupations that the tasks belong to."""
        return len(np.unique(self.place))

    def of(self, tasks: npt.ArrayLike) -> Draws:
        """The same draws for some of the tasks, by mask or positions over (n_tasks,)."""
        return Draws(self.counts, self.place[np.asarray(tasks)], self.seed)

    def by_occupation(self, values: npt.ArrayLike) -> Array:
        """Sums by occupation, shape (n_occupations, ...), of task values, shape (n_tasks, ...)."""
        return summed(values, self.place, self.counts.shape[1])

    def sum(self, values: npt.ArrayLike, group: Places | int = 0, groups: int = 1) -> Array:
        """Resampled sums of task values by group of the tasks, shape (groups, draws, ...), in one product for all.

        One-hot pairs of labels give a confusion matrix a draw.
        """
        size = self.counts.shape[1]
        by = summed(values, self.place * groups + group, size * groups)
        drawn = by.reshape(size, math.prod(by.shape) // max(size, 1)).T @ self.counts.T
        return np.moveaxis(drawn.reshape(groups, *by.shape[1:], len(self.counts)), -1, 1)


def summed(values: npt.ArrayLike, place: Places, size: int) -> Array:
    """Sums of values, shape (n, ...), by their places, shape (n,), out of so many: shape (size, ...)."""
    values = np.asarray(values, dtype=np.float64)
    columns = values.reshape(len(values), math.prod(values.shape[1:])).T
    found = [np.bincount(place, weights=column, minlength=size) for column in columns]
    return np.stack(found, axis=1, dtype=np.float64).reshape(size, *values.shape[1:])


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
    # Draws lie side by side in memory, as what is made of them runs over the draws.
    return Draws(counts.T.astype(np.float64, order="C").T, place, seed)


@dataclass(frozen=True)
class Figure:
    """A figure and its bootstrap draws.

    Attributes:
        value: The figure; NaN where the data cannot give it.
        draws: The figure by draw, shape (draws,), NaN where a draw cannot give it; empty for a share that was counted
            over all tasks, not estimated.
        n: Tasks behind it.
        occupations: Occupations that say something about its spread: those with tasks; for a change, those in which
            something changed.
        span: Least and largest value that the figure can take.
        extremes: Least and largest value that the figure would have if the share of the tasks that `unseen` gives for a tail
            were otherwise; None where the span says it.
        change: Whether it is a paired change, which is known to be 0 where nothing changed.
        exact: Whether it is known and not an estimate: a gold against itself.
    """

    value: float
    draws: Array
    n: int
    occupations: int = 0
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
        if (self.exact and len(self.draws)) or (self.change and not self.occupations):
            return self.value, self.value
        reach = self._reach(level)
        if reach is None:
            return None
        return on_scale(self.value, reach, self.span) if reach else self._without_spread((1 - level) / 2)

    def is_uninformative(self, level: float = 0.95) -> bool:
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
        if self.extremes is not None:
            return self.extremes(tail)
        share = unseen(tail, self.occupations)
        return tuple((1 - share) * self.value + share * end for end in self.span)  # pyright: ignore[reportReturnType]  two ends


def unseen(tail: float, occupations: int) -> float:
    """Share of occupations that may be otherwise though none of so many was: its exact bound."""
    return 1 - tail ** (1 / occupations)


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
    draws = second.draws - first.draws
    return Figure(second.value - first.value, draws, second.n, occupations, (-reach, reach), change=True)


@dataclass(frozen=True)
class Sums:
    """What figures are made of: values of the tasks, by group summed over all of them and over those of each draw.

    Attributes:
        each: Values, shape (n, m) or (n, k, k), times the task's weight, which is 1 on average within its group.
        draws: Draws for these tasks; None where no intervals are wanted.
        corners: Values that a task has at the extremes, shape (c, ...); None where the range of a figure says it.
        group: Group of each task, shape (n,), out of `groups`; by default all are one.
    """

    each: Array
    draws: Draws | None
    corners: Array | None = None
    group: Places | None = None
    groups: int = 1

    @cached_property
    def total(self) -> Array:
        """Sums over all tasks, shape (groups, ...)."""
        return self.each.sum(axis=0)[None] if self.group is None else summed(self.each, self.group, self.groups)

    @cached_property
    def drawn(self) -> Array:
        """Sums by draw, shape (groups, draws, ...)."""
        if self.draws is None:
            return np.zeros((self.groups, 0, *self.each.shape[1:]))
        return self.draws.sum(self.each, 0 if self.group is None else self.group, self.groups)

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Tasks and occupations of each group, no occupations without draws."""
        group = np.zeros(len(self.each), dtype=np.intp) if self.group is None else self.group
        place = np.zeros(0, dtype=np.intp) if self.draws is None else self.draws.place * self.groups + group
        held, tasks = np.unique(place) % self.groups, np.bincount(group, minlength=self.groups)
        return list(zip(tasks.tolist(), np.bincount(held, minlength=self.groups).tolist(), strict=True))

    def figures(self, formula: Formula, span: Bounds = SHARE) -> list[Figure]:
        """A figure of each group; with draws it has an interval."""
        values, drawn = formula(self.total), formula(self.drawn)

        @cache
        def ends(tail: float) -> tuple[Array, Array]:
            # All that is otherwise falls on one corner, whichever moves the figure most.
            assert self.corners is not None
            tasks, shares = np.array([(n, unseen(tail, max(units, 1))) for n, units in self.sizes]).T
            share, most = (x.reshape(-1, *[1] * self.corners.ndim) for x in (shares, shares * tasks))
            found = formula((1 - share) * self.total[:, None] + most * self.corners)
            return np.fmin(values, np.fmin.reduce(found, axis=1)), np.fmax(values, np.fmax.reduce(found, axis=1))

        def extremes(at: int, tail: float) -> Bounds:
            low, high = ends(tail)
            return float(low[at]), float(high[at])

        bent = [None if self.corners is None else partial(extremes, at) for at in range(self.groups)]
        return [
            Figure(float(values[at]), drawn[at], n, units, span, bent[at]) for at, (n, units) in enumerate(self.sizes)
        ]

    def figure(self, formula: Formula, span: Bounds = SHARE) -> Figure:
        """The figure of all tasks, where they are one group."""
        return self.figures(formula, span)[0]


def stated(figures: Mapping[str, Figure], draws: Draws | None) -> dict[str, Any]:
    """Figures as a document states them: their values, None where they are undefined, and their intervals as `ci95`."""
    return {**{name: known(figure.value) for name, figure in figures.items()}, "ci95": ci95(figures, draws)}


def ci95(figures: Mapping[str, Figure], draws: Draws | None) -> dict[str, Bounds | None]:
    """95% intervals of figures; none without draws or tasks."""
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
    held = np.add.reduceat(counts.T[order], starts)
    middle = np.cumsum(held, axis=0)
    middle -= held / 2
    middle -= counts.sum(axis=1) / 2
    group = np.empty(len(values), dtype=np.intp)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    return middle[group].T
