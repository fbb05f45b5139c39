"""Agreement between two sets of labels, from their confusion matrix.

All functions on a confusion matrix take counts of shape (k, k), rows gold, columns run, both in order of exposure. What
a matrix cannot give is None. When both sides use one and the same label only, there is nothing to tell apart: then each
figure but accuracy is None, also those whose formula would yield a flattering 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import krippendorff
import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from relabel.evaluation.document import LabelMetrics, Prevalence, SettingMetrics

Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def confusion_matrix(gold: npt.ArrayLike, run: npt.ArrayLike, scale: Sequence[str]) -> Counts:
    """Count pairs of labels.

    Args:
        gold: Labels of the gold, shape (n,).
        run: Labels of the run for the same tasks, shape (n,).
        scale: All k labels, in order of exposure.

    Returns:
        Counts of shape (k, k), rows gold, columns run.

    Raises:
        ValueError: The lengths differ, or a label is not on the scale.
    """
    place = {label: index for index, label in enumerate(scale)}
    sides = [np.asarray(side, dtype=object) for side in (gold, run)]
    if sides[0].shape != sides[1].shape:
        raise ValueError(f"gold and run differ in length: {sides[0].shape} and {sides[1].shape}")
    unknown = sorted({str(label) for side in sides for label in side} - set(scale))
    if unknown:
        raise ValueError(f"not on the scale {', '.join(scale)}: {', '.join(unknown)}")
    rows, columns = (np.array([place[label] for label in side], dtype=np.int64) for side in sides)
    counts = np.zeros((len(scale), len(scale)), dtype=np.int64)
    np.add.at(counts, (rows, columns), 1)
    return counts


def accuracy(counts: Counts) -> float | None:
    """Share of equal labels, 0-1; None without tasks."""
    total = int(counts.sum())
    return int(counts.trace()) / total if total else None


def kappa(counts: Counts, weights: Literal["quadratic"] | None = None) -> float | None:
    """Cohen's kappa: agreement beyond what the two sides' own label shares would give by chance.

    Args:
        counts: Confusion matrix, shape (k, k).
        weights: `quadratic` weighs a disagreement by the square of its distance on the scale.

    Returns:
        At most 1; 0 at chance, also when one side is constant and the other is not. None without tasks, or when both
        sides use one label only.

    Source: Cohen 1960, doi:10.1177/001316446002000104; weighted, Cohen 1968, doi:10.1037/h0026256.
    """
    if not _several_labels(counts):
        return None
    gold, run, weight = _cells(counts)
    return _finite(sk.cohen_kappa_score(gold, run, labels=range(len(counts)), weights=weights, sample_weight=weight))


def krippendorff_alpha(counts: Counts, level: Literal["nominal", "ordinal"]) -> float | None:
    """Krippendorff's alpha for two coders without missing labels.

    Args:
        counts: Confusion matrix, shape (k, k).
        level: Level of measurement; `ordinal` takes the order of the scale.

    Returns:
        At most 1; None without tasks, or when both sides use one label only.

    Source: Krippendorff 2004, Content Analysis, ch. 11; the library `krippendorff`.
    """
    if not _several_labels(counts):
        return None
    gold, run, weight = _cells(counts)
    each = np.eye(len(counts), dtype=np.int64)
    units = np.repeat(each[gold] + each[run], weight, axis=0)
    return _finite(krippendorff.alpha(value_counts=units, level_of_measurement=level))


def gwet_ac1(counts: Counts) -> float | None:
    """Gwet's AC1: agreement beyond chance, steady where one label is rare.

    Chance is taken as the sum of p (1 - p) over the k labels, divided by k - 1, where p is the mean of a label's two
    shares.

    Args:
        counts: Confusion matrix, shape (k, k), k at least 2.

    Returns:
        At most 1; None without tasks, or when both sides use one label only.

    Source: Gwet 2008, doi:10.1348/000711006X126600.
    """
    if not _several_labels(counts):
        return None
    total = counts.sum()
    shares = (counts.sum(axis=0) + counts.sum(axis=1)) / (2 * total)
    chance = float((shares * (1 - shares)).sum()) / (len(counts) - 1)
    return (float(counts.trace() / total) - chance) / (1 - chance)


def by_label(counts: Counts, scale: Sequence[str]) -> dict[str, LabelMetrics]:
    """Precision, recall and F1 of each label, the gold taken as the truth.

    Args:
        counts: Confusion matrix, shape (k, k).
        scale: The k labels.

    Returns:
        One entry a label of the scale, in use or not; figures without a denominator are None.
    """
    if not counts.sum():
        return {label: LabelMetrics(precision=None, recall=None, f1=None, support=0) for label in scale}
    gold, run, weight = _cells(counts)
    found: Any = sk.precision_recall_fscore_support(
        gold,
        run,
        labels=range(len(scale)),
        sample_weight=weight,
        zero_division=np.nan,  # pyright: ignore[reportArgumentType]  its type is inferred from the default "warn"
    )
    precision, recall, f1, _ = found
    support = counts.sum(axis=1)
    return {
        label: LabelMetrics(
            precision=_finite(precision[i]), recall=_finite(recall[i]), f1=_finite(f1[i]), support=int(support[i])
        )
        for i, label in enumerate(scale)
    }


def macro_f1(counts: Counts) -> float | None:
    """Plain mean of F1 over the labels that either side uses; None when both use one label only."""
    if not _several_labels(counts):
        return None
    found = [label.f1 for label in by_label(counts, [str(i) for i in range(len(counts))]).values()]
    return float(np.mean([f1 for f1 in found if f1 is not None]))


def setting_metrics(counts: Counts, scale: Sequence[str]) -> SettingMetrics:
    """All figures of one setting.

    Args:
        counts: Confusion matrix, shape (k, k), rows gold, columns run.
        scale: The k labels, in order of exposure.

    Returns:
        The figures; see `SettingMetrics`.
    """
    n = int(counts.sum())
    shares = [counts.sum(axis=axis) / n if n else np.zeros(len(scale)) for axis in (1, 0)]
    gold, run = ({label: float(x) for label, x in zip(scale, side, strict=True)} if n else {} for side in shares)
    return SettingMetrics(
        n=n,
        accuracy=accuracy(counts),
        kappa=kappa(counts),
        kappa_quadratic=kappa(counts, "quadratic"),
        krippendorff_nominal=krippendorff_alpha(counts, "nominal"),
        krippendorff_ordinal=krippendorff_alpha(counts, "ordinal"),
        ac1=gwet_ac1(counts),
        macro_f1=macro_f1(counts),
        labels=by_label(counts, scale),
        confusion={g: {r: int(counts[i, j]) for j, r in enumerate(scale)} for i, g in enumerate(scale)},
        prevalence=Prevalence(gold=gold, run=run),
    )


def pearson(first: Values, second: Values) -> float | None:
    """Pearson's correlation.

    Args:
        first: Values, shape (n,).
        second: Values of the same units, shape (n,).

    Returns:
        From -1 to 1; None when a side is constant, or for fewer than three units, where it would be 1 or -1 whatever
        the values.
    """
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return _finite(np.clip(np.corrcoef(first, second)[0, 1], -1, 1))


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
    return _finite(np.sqrt(len(names) / (len(names) - 1) * (summed**2).sum()) / len(values))


def _several_labels(counts: Counts) -> bool:
    return int((counts.sum(axis=0) + counts.sum(axis=1) > 0).sum()) > 1


def _cells(counts: Counts) -> tuple[Counts, Counts, Counts]:
    """The matrix as weighted pairs: 9 cells instead of 19,265 tasks."""
    gold, run = np.nonzero(counts)
    return gold, run, counts[gold, run]


def _finite(value: float | np.floating) -> float | None:
    return float(value) if math.isfinite(value) else None
