"""Uncertainty by resampling occupations, and the one rule that makes an interval of it.

Labels of one occupation go right or wrong together, so whole occupations are drawn, each with all of its tasks. One set of
draws serves all figures of an evaluation; the same draws applied to two runs on the same tasks give a paired change, in
which what both runs share cancels out.

A figure made of sums over tasks (a confusion matrix, a mean, a correlation) is resampled by occupation: sums by occupation
times the number of times that a draw holds each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import stats

from relabel.evaluation import metrics

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
Bounds = tuple[float, float]

DRAWS = 2000
"""Draws by default; two seeds then differ by about a twentieth of an interval's width."""
FEW_OCCUPATIONS = 10
"""Below this number of occupations intervals come with a warning: they cover what they say, but are wide."""
MOST_UNDEFINED = 0.05
"""Share of draws without the figure above which there is no interval."""

SHARE: Bounds = (0, 1)
CORRELATION: Bounds = (-1, 1)
_DOUBLE: Bounds = (-2, 2)


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
        values = np.asarray(values, dtype=np.float64)
        flat = values.reshape(len(values), -1)
        size = self.counts.shape[1]
        summed = np.zeros((size, flat.shape[1]))
        for i in range(flat.shape[1]):
            summed[:, i] = np.bincount(self.place, weights=flat[:, i], minlength=size)
        return summed.reshape(size, *values.shape[1:])

    def sum(self, values: npt.ArrayLike) -> Array:
        """Resampled sums, shape (draws, ...), of task values; one-hot pairs of labels give a confusion matrix a draw."""
        summed = self.by_occupation(values)
        drawn = self.counts @ summed.reshape(len(summed), -1)
        return drawn.reshape(len(self.counts), *summed.shape[1:])


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
            for a mean over tasks, where the span says it.
        change: Whether it is a paired change, which is known to be 0 where nothing changed.
        exact: Whether it is known and no estimate: a gold against itself.
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

        Draws of a figure that are all alike (15 of 15 right) are no certainty. The share of occupations that may be
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
        defined = self.draws[np.isfinite(self.draws)]
        if len(defined) < (1 - MOST_UNDEFINED) * len(self.draws) or not len(defined):
            return None
        tail = (1 - level) / 2
        if float(np.ptp(defined)) <= 1e-12:
            return self._without_spread(tail)
        if self.occupations < 2 and not self.change:
            return None
        degrees = max(self.occupations - 1, 1)
        return on_scale(self.value, _t(tail, degrees) * _error(defined, self.occupations), self.span)

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


def _error(defined: Array, occupations: int) -> float:
    # The factor undoes the bootstrap's shrinkage for few clusters.
    return float(defined.std(ddof=1)) * math.sqrt(occupations / max(occupations - 1, 1))


@cache
def _t(tail: float, degrees: float) -> float:
    return float(stats.t.ppf(1 - tail, degrees))


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


def setting_figure(metric: str, pairs: Array, drawn: Array, scale: Sequence[str], occupations: int) -> Figure:
    """A figure of agreement between two sets of labels.

    Args:
        metric: A name of `metrics.FIGURES`, or `f1:LABEL`, `precision:LABEL`, `recall:LABEL`, `gold:LABEL`, `run:LABEL`.
        pairs: Pairs of labels as matrices with a single weight, shape (n, k, k), rows gold.
        drawn: Their resampled sums, shape (draws, k, k).
        scale: The k labels, in order of exposure.
        occupations: Occupations that the tasks belong to.
    """
    kind, _, label = metric.partition(":")
    formula = setting_formula(metric, scale)
    counts = pairs.sum(axis=0)
    value = float(formula(counts))

    def extremes(share: float) -> Bounds:
        # All that is otherwise falls on one pair of labels, whichever moves the figure most.
        each = np.eye(counts.size).reshape(-1, *counts.shape) * counts.sum()
        found = formula((1 - share) * counts + share * each)
        return float(np.nanmin([value, *found])), float(np.nanmax([value, *found]))

    span = SHARE if label or kind in {"accuracy", "macro_f1"} else CORRELATION
    return Figure(value, formula(drawn), len(pairs), occupations, span, extremes)


def setting_formula(metric: str, scale: Sequence[str]) -> Callable[[Array], Array]:
    """What makes a figure of `setting_figure` from confusion matrices, shape (..., k, k) to (...)."""
    kind, _, label = metric.partition(":")
    if not label:
        return metrics.FIGURES[kind]
    place = list(scale).index(label)
    return lambda counts: metrics.BY_LABEL[kind](counts)[..., place]


def value_sums(metric: str, gold: Array, run: Array, weight: Array) -> tuple[Array, Callable[[Array], Array]]:
    """What a figure of `value_figure` is summed from by task, shape (n, m), and what makes it of the sums, (..., m) to (...)."""
    if metric == "pearson":
        # Near the middle of their range the sums of squares keep their digits.
        return moments(gold - 0.5, run - 0.5) * weight[:, None], correlation
    each = np.stack([_by_task(metric, gold, run) * weight, weight], axis=1)
    return each, lambda sums: sums[..., 0] / sums[..., 1]


def value_figure(metric: str, gold: npt.ArrayLike, run: npt.ArrayLike, draws: Draws, weight: Array) -> Figure:
    """A figure of two sets of task values.

    Args:
        metric: `agreement`, `pearson`, `mean` (of the run), `gold_mean`, or `difference` (run less gold).
        gold: Values, 0-1, shape (n,).
        run: Values, 0-1, shape (n,).
        draws: Draws for these n tasks.
        weight: Weight of each task, shape (n,).
    """
    x, y = np.asarray(gold, dtype=np.float64), np.asarray(run, dtype=np.float64)
    value = _of_values(metric, x, y, weight)

    def extremes(share: float) -> Bounds:
        mass = weight.sum() * share / (1 - share)
        corners = [
            _of_values(metric, np.append(x, one), np.append(y, other), np.append(weight, mass))
            for one in (0, 1)
            for other in (0, 1)
        ]
        return float(np.nanmin([value, *corners])), float(np.nanmax([value, *corners]))

    by_draw = pearson(draws, x, y, weight) if metric == "pearson" else means(draws, _by_task(metric, x, y), weight)
    span = CORRELATION if metric in {"pearson", "difference"} else SHARE
    return Figure(value, by_draw, len(x), draws.occupations, span, extremes)


def _of_values(metric: str, gold: Array, run: Array, weight: Array) -> float:
    if metric == "pearson":
        found = metrics.pearson(gold, run, weight)
        return math.nan if found is None else found
    return float(np.average(_by_task(metric, gold, run), weights=weight)) if len(gold) else math.nan


def _by_task(metric: str, gold: Array, run: Array) -> Array:
    if metric == "agreement":
        return (gold == run).astype(np.float64)
    return {"mean": run, "gold_mean": gold, "difference": run - gold}[metric]


def intervals(
    draws: Draws | None,
    values: Mapping[str, float | None],
    samples: Callable[[Draws], Mapping[str, Array]],
    spans: Mapping[str, Bounds] | None = None,
    *,
    changed: int | None = None,
) -> dict[str, Bounds | None]:
    """95 % intervals of figures that have draws of their own; none without draws or tasks.

    Args:
        draws: Draws for the tasks.
        values: The figures by name.
        samples: The same by draw, each of shape (draws,).
        spans: Their ranges, 0-1 where none is named.
        changed: For figures whose range holds negative values and that compare two labellings of the same tasks: the
            occupations in which the two differ.
    """
    if draws is None or not len(draws.place):
        return {}
    found: dict[str, Bounds | None] = {}
    for name, drawn in samples(draws).items():
        span = (spans or {}).get(name, SHARE)
        paired = changed is not None and name.endswith("difference")
        value = values[name]
        figure = Figure(
            math.nan if value is None else value,
            drawn,
            len(draws.place),
            changed if paired and changed is not None else draws.occupations,
            span,
            change=paired,
        )
        found[name] = figure.interval()
    return found


def means(draws: Draws, values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Array:
    """Resampled means, shape (draws,) or (draws, m), of task values, shape (n,) or (n, m); NaN in a draw without tasks."""
    values = np.asarray(values, dtype=np.float64)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = draws.sum(weight)
    summed = draws.sum((values.T * weight).T)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (summed.T / total).T


def pearson(draws: Draws, first: npt.ArrayLike, second: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Array:
    """Resampled Pearson correlation of task values, shape (draws,); NaN where a side is constant in the draw."""
    x, y = (np.asarray(side, dtype=np.float64) for side in (first, second))
    weight = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    return correlation(draws.sum(_moments(x, y) * weight[:, None]))


def occupation_pearson(counts: Array, first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    """Resampled Pearson correlation of occupation values, shape (draws,).

    Args:
        counts: `Draws.counts` of these occupations, shape (draws, n).
        first: Values, shape (n,).
        second: Values of the same occupations, shape (n,).
    """
    return correlation(counts @ _moments(*(np.asarray(side, dtype=np.float64) for side in (first, second))))


def occupation_spearman(counts: Array, first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    """Resampled Spearman correlation, ranked anew in each draw, ties at their mean rank; as `occupation_pearson`."""
    x, y = (_drawn_ranks(counts, np.asarray(side, dtype=np.float64)) for side in (first, second))
    total = counts.sum(axis=1)
    # The mean rank of any draw is known, so that no draw is centred far from zero.
    x, y = (side - (total[:, None] + 1) / 2 for side in (x, y))
    parts = [total, *((counts * side).sum(axis=1) for side in (x, y, x * x, y * y, x * y))]
    return correlation(np.stack(parts, axis=1))


def moments(gold: Array, run: Array) -> Array:
    """What a correlation is summed from: 1, x, y, xx, yy, xy of each task, shape (n, 6)."""
    return np.stack([np.ones_like(gold), gold, run, gold * gold, run * run, gold * run], axis=1)


def _moments(x: Array, y: Array) -> Array:
    # Near their means the sums of squares keep their digits.
    return moments(x - x.mean(), y - y.mean()) if len(x) else np.zeros((0, 6))


def _drawn_ranks(counts: Array, values: Array) -> Array:
    """Rank of each occupation's value within each draw, shape (draws, n); an occupation drawn twice ties with itself."""
    _, place = np.unique(values, return_inverse=True)
    size = int(place.max()) + 1 if len(place) else 0
    same = np.zeros((len(values), size))
    same[np.arange(len(values)), place] = 1
    held = counts @ same
    below = np.cumsum(held, axis=1) - held
    return (below + (held + 1) / 2)[:, place]


def correlation(sums: Array) -> Array:
    """Pearson's correlation from weighted sums of 1, x, y, xx, yy, xy along the last axis."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_x, spread_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
        found = (xy / n - x * y / n**2) / np.sqrt(spread_x * spread_y)
        # Sums of a constant leave a trace of rounding that is no spread.
        flat = (spread_x <= 1e-12 * (1 + xx / n)) | (spread_y <= 1e-12 * (1 + yy / n))
    return np.where(flat, np.nan, np.clip(found, -1, 1))
