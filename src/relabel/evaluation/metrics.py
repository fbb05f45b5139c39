"""Agreement between two sets of labels, from their confusion matrix.

All functions on a confusion matrix take counts of shape (..., k, k), rows gold, columns run, both in order of exposure: one
matrix, or one a bootstrap draw. They are written out for whole arrays, so that thousands of draws cost no more than a few
matrix operations; tests hold each of them to scikit-learn and to the library `krippendorff`. Counts may be sums of weights.

What a matrix cannot give is NaN, and None in the eval document. When both sides use one and the same label only, there is
nothing to tell apart: then each figure but accuracy is undefined, also those whose formula would yield a flattering 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from relabel.evaluation.document import Intervals95, LabelMetrics, Prevalence, SettingMetrics

Values = npt.NDArray[np.float64]


def pairs(gold: npt.ArrayLike, run: npt.ArrayLike, size: int) -> Values:
    """The pair of labels of each task as a matrix with a single 1; their sum is the confusion matrix.

    Args:
        gold: Places of the gold's labels on the scale, shape (n,).
        run: Places of the run's, shape (n,).
        size: Labels on the scale, k.

    Returns:
        Shape (n, k, k), rows gold, columns run.
    """
    rows, columns = np.asarray(gold, dtype=np.intp), np.asarray(run, dtype=np.intp)
    found = np.zeros((len(rows), size, size))
    found[np.arange(len(rows)), rows, columns] = 1
    return found


def accuracy(counts: npt.ArrayLike) -> Values:
    """Share of equal labels, 0-1, shape (...); NaN without tasks."""
    counts = np.asarray(counts, dtype=np.float64)
    return ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def kappa(counts: npt.ArrayLike) -> Values:
    """Cohen's kappa: agreement beyond what the two sides' own label shares would give by chance.

    Args:
        counts: Confusion matrices, shape (..., k, k).

    Returns:
        Shape (...), at most 1; 0 at chance, also when one side is constant and the other is not. NaN without tasks, or
        when both sides use one label only.

    Source: Cohen 1960, doi:10.1177/001316446002000104.
    """
    counts = np.asarray(counts, dtype=np.float64)
    return _weighted_kappa(counts, 1 - np.eye(counts.shape[-1]))


def kappa_quadratic(counts: npt.ArrayLike) -> Values:
    """Cohen's kappa, a disagreement weighing the square of its distance on the scale; shapes as for `kappa`.

    Source: Cohen 1968, doi:10.1037/h0026256.
    """
    counts = np.asarray(counts, dtype=np.float64)
    steps = np.arange(counts.shape[-1])
    return _weighted_kappa(counts, (steps[:, None] - steps[None, :]).astype(np.float64) ** 2)


def krippendorff_nominal(counts: npt.ArrayLike) -> Values:
    """Krippendorff's alpha for two coders without missing labels, labels unordered.

    Args:
        counts: Confusion matrices, shape (..., k, k).

    Returns:
        Shape (...), at most 1; NaN without tasks, or when both sides use one label only.

    Source: Krippendorff 2004, Content Analysis, ch. 11.
    """
    counts = np.asarray(counts, dtype=np.float64)
    return _krippendorff(counts, 1 - np.eye(counts.shape[-1]))


def krippendorff_ordinal(counts: npt.ArrayLike) -> Values:
    """Krippendorff's alpha, labels in the order of the scale; shapes and source as for `krippendorff_nominal`.

    The distance of two labels is the number of values between them, so it follows from each matrix' own label shares.
    """
    counts = np.asarray(counts, dtype=np.float64)
    used = counts.sum(axis=-1) + counts.sum(axis=-2)
    middle = np.cumsum(used, axis=-1) - used / 2
    return _krippendorff(counts, (middle[..., :, None] - middle[..., None, :]) ** 2)


def ac1(counts: npt.ArrayLike) -> Values:
    """Gwet's AC1: agreement beyond chance, steady where one label is rare.

    Chance is taken as the sum of p (1 - p) over the k labels, divided by k - 1, where p is the mean of a label's two
    shares.

    Args:
        counts: Confusion matrices, shape (..., k, k), k at least 2.

    Returns:
        Shape (...), at most 1; NaN without tasks, or when both sides use one label only.

    Source: Gwet 2008, doi:10.1348/000711006X126600.
    """
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum(axis=(-2, -1))
    shares = ratio(counts.sum(axis=-1) + counts.sum(axis=-2), 2 * total[..., None])
    chance = (shares * (1 - shares)).sum(axis=-1) / (counts.shape[-1] - 1)
    return _where_told_apart(counts, ratio(accuracy(counts) - chance, 1 - chance))


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


def precision(counts: npt.ArrayLike) -> Values:
    """Share of the run's uses of each label that the gold confirms, shape (..., k); NaN where the run never uses it."""
    counts = np.asarray(counts, dtype=np.float64)
    return ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-2))


def recall(counts: npt.ArrayLike) -> Values:
    """Share of the gold's uses of each label that the run finds, shape (..., k); NaN where the gold never uses it."""
    counts = np.asarray(counts, dtype=np.float64)
    return ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1))


def f1(counts: npt.ArrayLike) -> Values:
    """Harmonic mean of precision and recall of each label, shape (..., k); NaN where neither side uses the label."""
    counts = np.asarray(counts, dtype=np.float64)
    return ratio(2 * np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1) + counts.sum(axis=-2))


def macro_f1(counts: npt.ArrayLike) -> Values:
    """Plain mean of F1 over the labels that either side uses, shape (...); NaN when both use one label only."""
    counts = np.asarray(counts, dtype=np.float64)
    found = f1(counts)
    mean = ratio(np.nansum(found, axis=-1), np.isfinite(found).sum(axis=-1))
    return _where_told_apart(counts, mean)


def prevalence(counts: npt.ArrayLike) -> tuple[Values, Values]:
    """Share of each label in the gold and in the run, each of shape (..., k); NaN without tasks."""
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum(axis=(-2, -1))[..., None]
    return ratio(counts.sum(axis=-1), total), ratio(counts.sum(axis=-2), total)


FIGURES: Mapping[str, Callable[[npt.ArrayLike], Values]] = {
    "accuracy": accuracy,
    "kappa": kappa,
    "kappa_quadratic": kappa_quadratic,
    "krippendorff_nominal": krippendorff_nominal,
    "krippendorff_ordinal": krippendorff_ordinal,
    "ac1": ac1,
    "macro_f1": macro_f1,
}
"""Figures of a setting by their names in the eval document; each takes (..., k, k) and gives (...)."""

BY_LABEL: Mapping[str, Callable[[npt.ArrayLike], Values]] = {
    "f1": f1,
    "precision": precision,
    "recall": recall,
    "gold": lambda counts: prevalence(counts)[0],
    "run": lambda counts: prevalence(counts)[1],
}
"""Figures of each label, `gold` and `run` being its share; each takes (..., k, k) and gives (..., k)."""


def moments(first: npt.ArrayLike, second: npt.ArrayLike) -> Values:
    """What the figures of two sets of values are summed from: 1, x, y, xx, yy, xy and x = y of each unit, shape (n, 7)."""
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y, x == y], axis=1)


def task_values(gold: npt.ArrayLike, run: npt.ArrayLike) -> Values:
    """`moments` of values on 0-1, less a half: near the middle of their range sums of squares keep their digits."""
    return moments(np.asarray(gold) - 0.5, np.asarray(run) - 0.5)


def correlation(sums: Values) -> Values:
    """Pearson's correlation from sums of `moments`, shape (..., 7) to (...); NaN where a side is constant."""
    n, x, y, xx, yy, xy = (sums[..., place] for place in range(6))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_x, spread_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
        found = (xy / n - x * y / n**2) / np.sqrt(spread_x * spread_y)
        # Sums of a constant leave a trace of rounding that is not spread.
        flat = (spread_x <= 1e-12 * (1 + xx / n)) | (spread_y <= 1e-12 * (1 + yy / n))
    return np.where(flat, np.nan, np.clip(found, -1, 1))


VALUE_FIGURES: Mapping[str, Callable[[Values], Values]] = {
    "agreement": lambda sums: ratio(sums[..., 6], sums[..., 0]),
    "pearson": correlation,
    "mean": lambda sums: ratio(sums[..., 2], sums[..., 0]) + 0.5,
    "gold_mean": lambda sums: ratio(sums[..., 1], sums[..., 0]) + 0.5,
    "difference": lambda sums: ratio(sums[..., 2] - sums[..., 1], sums[..., 0]),
}
"""Figures of two sets of task values (0-1) from sums of `task_values`, (..., 7) to (...); `mean` is the run's."""


def figure_formula(name: str, scale: Sequence[str]) -> Callable[[Values], Values]:
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
    counts: npt.ArrayLike,
    scale: Sequence[str],
    *,
    weighted: npt.ArrayLike | None = None,
    ci95: Intervals95 | None = None,
) -> SettingMetrics:
    """All figures of one setting.

    Args:
        counts: Confusion matrix, shape (k, k), rows gold, columns run.
        scale: The k labels, in order of exposure.
        weighted: The same with each task counted by its weight; by default all weigh the same.
        ci95: Intervals of the figures by name.
    """
    counts = np.asarray(counts)
    used = np.asarray(counts if weighted is None else weighted, dtype=np.float64)
    sides = [[known(x) for x in side] for side in prevalence(used)]
    gold, run = ({label: x for label, x in zip(scale, side, strict=True) if x is not None} for side in sides)
    by_label = zip(precision(used), recall(used), f1(used), counts.sum(axis=1), strict=True)
    return SettingMetrics(
        n=int(counts.sum()),
        **{name: known(formula(used)) for name, formula in FIGURES.items()},
        labels={
            label: LabelMetrics(precision=known(p), recall=known(r), f1=known(f), support=int(n))
            for label, (p, r, f, n) in zip(scale, by_label, strict=True)
        },
        confusion={g: {r: int(counts[i, j]) for j, r in enumerate(scale)} for i, g in enumerate(scale)},
        prevalence=Prevalence(gold=gold, run=run),
        ci95=ci95 or {},
    )


def clustered_se(values: Values, clusters: npt.ArrayLike) -> float | None:
    """Standard error of a mean when values of one cluster are not independent.

    Args:
        values: Values, shape (n,).
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


def known(value: float | np.floating | Values) -> float | None:
    """A single figure for the eval document: None where it is undefined."""
    value = float(value)
    return value if math.isfinite(value) else None


def _weighted_kappa(counts: Values, cost: Values) -> Values:
    total = counts.sum(axis=(-2, -1))
    by_chance = ratio(counts.sum(axis=-1)[..., :, None] * counts.sum(axis=-2)[..., None, :], total[..., None, None])
    apart = ratio((counts * cost).sum(axis=(-2, -1)), (by_chance * cost).sum(axis=(-2, -1)))
    return _where_told_apart(counts, 1 - apart)


def _krippendorff(counts: Values, distance: Values) -> Values:
    used = counts.sum(axis=-1) + counts.sum(axis=-2)
    values = used.sum(axis=-1)
    # Each pair stands in the table of coincidences in both orders; a distance is the same in both.
    observed = (2 * counts * distance).sum(axis=(-2, -1))
    expected = (used[..., :, None] * used[..., None, :] * distance).sum(axis=(-2, -1))
    return _where_told_apart(counts, 1 - (values - 1) * ratio(observed, expected))


def _where_told_apart(counts: Values, figure: Values) -> Values:
    used = (counts.sum(axis=-1) + counts.sum(axis=-2) > 0).sum(axis=-1)
    return np.where(used > 1, figure, np.nan)


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Values:
    """A quotient, NaN where it is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.asarray(above, dtype=np.float64) / np.asarray(below, dtype=np.float64)
    return np.where(np.isfinite(found), found, np.nan)
