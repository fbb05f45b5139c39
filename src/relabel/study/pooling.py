"""Pooling several raters: majority and mean, latent-class model, variance components, leave-one-out means.

Labels are numbers from the lowest exposure to the highest, as in `relabel.evaluation.document.SCALES`; -1 if missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.errors import DataError
from relabel.evaluation.alignment import AlignedLabels, align_all
from relabel.evaluation.document import SCALES, Bounds, SettingName
from relabel.evaluation.gold import COLUMNS, run_settings
from relabel.evaluation.statistics import SHARE, Sums, occupation_draws, on_scale, ratio, student_t
from relabel.rubric import MEASURES, Measure
from relabel.run import Run, by_sample
from relabel.scoring.measures import class_values
from relabel.task import TASK_KEY

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int_]

# Fewest raters for a latent-class model: with two, it is not identified, because either might be the one that errs.
MIN_RATERS = 3
# Weight of the overall label shares when estimating those of a cluster, in tasks.
_SMOOTHING_TASKS = 20.0
# Prior counts in a rater's confusion matrix: on its diagonal, and in each other cell.
_PRIOR_RIGHT, _PRIOR_WRONG = 3.0, 1.0


@dataclass(frozen=True, kw_only=True)
class Votes(AlignedLabels):
    """Labels of n tasks by R raters, for all tasks labelled by at least one of them, sorted.

    Its values are means over a rater's samples.

    Attributes:
        setting: The setting of the labels: `three-way` if all raters have codes, otherwise a setting that all share.
        scatter: Sampling variance of the values, by measure, shape (n, R); NaN with only one sample.
        worth: Value of each label of the scale, by measure; only measures that the labels determine.
    """

    setting: SettingName
    scatter: Mapping[Measure, Array]
    worth: Mapping[Measure, Array]

    @property
    def given(self) -> Codes:
        """Labels as positions on the scale, shape (n, R); -1 if missing."""
        return self.labels[self.setting]

    @property
    def scale(self) -> tuple[str, ...]:
        """The possible labels, lowest exposure first."""
        return SCALES[self.setting]

    def counts(self) -> Array:
        """Votes by task and label, shape (n, K)."""
        return (self.given[:, :, None] == np.arange(len(self.scale))).sum(axis=1).astype(np.float64)

    def majority(self) -> Codes:
        """The most frequent label, among ties the least exposed, shape (n,); -1 without labels."""
        counts = self.counts()
        return np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), -1)


def collect_votes(runs: Mapping[str, Run]) -> Votes:
    """Align raters on all tasks that any of them labelled.

    Args:
        runs: The raters' runs, by name.

    Raises:
        DataError: The raters share no setting, or one has no label.
    """
    aligned = align_all(runs)
    index = aligned.index()
    order: tuple[SettingName, ...] = ("three-way", "with-tools", "strict")
    setting: SettingName | None = next((s for s in order if all(s in run_settings(run) for run in runs.values())), None)
    if setting is None:
        asked = "; ".join(f"{name}: {', '.join(run_settings(run))}" for name, run in runs.items())
        raise DataError(f"the raters share no setting ({asked}); give raters that answered the same settings")
    readings = ("strict", "with_tools") if setting == "three-way" else (COLUMNS[setting],)
    values = class_values(next(iter(runs.values())).rubric, readings)
    worth: dict[Measure, Array] = {m: v for m, v in zip(MEASURES, values.T, strict=True) if np.isfinite(v).all()}
    samples = [by_sample(run).groupby(TASK_KEY)[list(worth)] for run in runs.values()]

    def stacked(tables: Iterable[pd.DataFrame]) -> dict[Measure, Array]:
        parts = [table.reindex(index) for table in tables]
        return {m: np.stack([part[m].to_numpy(np.float64) for part in parts], axis=1) for m in worth}

    shared: dict[str, Any] = vars(aligned) | {"values": stacked(grouped.mean() for grouped in samples)}
    scatter = stacked(grouped.var(ddof=1) / grouped.count() for grouped in samples)
    return Votes(**shared, setting=setting, scatter=scatter, worth=worth)


@dataclass(frozen=True)
class LatentClasses:
    """Estimates of a latent-class model (Dawid and Skene 1979, with label shares by cluster of tasks).

    Attributes:
        posterior: Probability that each label is the true one, shape (n, K).
        shares: Share of each true label in each cluster, shape (C, K).
        confusion: Probability that a rater gives a label, given the true one, shape (R, K true, K given).
        converged: Whether the algorithm converged.
    """

    posterior: Array
    shares: Array
    confusion: Array
    converged: bool


def latent_classes(
    labels: Codes, classes: int, clusters: npt.ArrayLike | None = None, *, steps: int = 1000, tolerance: float = 1e-7
) -> LatentClasses:
    """Estimate true labels and each rater's confusion matrix from labels alone.

    Raters are assumed to err independently, given the true label. If raters copy each other or share errors, the model
    trusts them too much, and the labels alone cannot show this.

    Args:
        labels: Labels as numbers, shape (n, R); -1 if missing.
        classes: Number of possible labels, K.
        clusters: Cluster of each task, shape (n,); label shares may differ between clusters. By default there is only one.
        steps: Maximum number of EM steps.
        tolerance: Relative change of the log likelihood at which to stop.

    Raises:
        DataError: There are fewer than three raters.

    Source: Dawid and Skene 1979, Applied Statistics 28, 20-28; with a weak prior that raters are right more often than
    wrong, which prevents label switching.
    """
    if labels.shape[1] < MIN_RATERS:
        raise DataError(
            f"a latent-class model needs {MIN_RATERS} raters or more, and these are {labels.shape[1]}: two cannot show which of them errs"
        )
    cluster = np.zeros(len(labels), dtype=np.int_) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    patterns, pattern_index = np.unique(np.column_stack([cluster, labels]), axis=0, return_inverse=True)
    size = np.bincount(pattern_index.ravel()).astype(np.float64)
    pattern_cluster, pattern_labels = patterns[:, 0], patterns[:, 1:]
    given = (pattern_labels[:, :, None] == np.arange(classes)).astype(np.float64)  # patterns x raters x labels
    votes = given.sum(axis=1) + 0.1
    post = votes / votes.sum(axis=1, keepdims=True)
    prior = np.full((classes, classes), _PRIOR_WRONG) + np.eye(classes) * (_PRIOR_RIGHT - _PRIOR_WRONG)
    before, converged = -np.inf, False
    confusion = shares = np.empty(0)
    for _ in range(steps):
        weighted = post * size[:, None]
        overall = (weighted.sum(axis=0) + 1) / (size.sum() + classes)
        by_cluster = np.zeros((cluster.max() + 1, classes))
        np.add.at(by_cluster, pattern_cluster, weighted)
        shares = (by_cluster + _SMOOTHING_TASKS * overall) / (by_cluster.sum(axis=1, keepdims=True) + _SMOOTHING_TASKS)
        confusion = np.einsum("pk,prl->rkl", weighted, given) + prior
        confusion /= confusion.sum(axis=2, keepdims=True)
        log_joint = np.log(shares)[pattern_cluster] + np.einsum("prl,rkl->pk", given, np.log(confusion))
        top = log_joint.max(axis=1, keepdims=True)
        joint = np.exp(log_joint - top)
        log_likelihood = float((size * (top[:, 0] + np.log(joint.sum(axis=1)))).sum())
        post = joint / joint.sum(axis=1, keepdims=True)
        if converged := abs(log_likelihood - before) <= tolerance * abs(log_likelihood):
            break
        before = log_likelihood
    return LatentClasses(post[pattern_index.ravel()], shares, confusion, converged)


@dataclass(frozen=True)
class Component:
    """One variance component of labels: its share of the total (0-1), and a 95% interval over occupations."""

    source: str
    share: float
    interval: Bounds | None


def variance_components(
    values: Array, within: Array, codes: npt.ArrayLike, *, draws: int = 1000, seed: int = 0
) -> list[Component]:
    """Shares of the variance of labels due to task, rater, their interaction, and repeated sampling.

    Two-way analysis of variance over the tasks that all raters labelled. Intervals resample occupations, with raters fixed:
    a few raters cannot show how much others would differ.

    Args:
        values: Mean over samples, shape (n, R); NaN if missing.
        within: Sampling variance of that mean, shape (n, R); NaN with only one sample.
        codes: Occupation of each task, shape (n,).
        draws: Number of bootstrap draws of occupations; 0 for no intervals.
        seed: Seed of the draws.

    Returns:
        The components, which sum to 1; empty for fewer than two raters or tasks. `repeat` is present if a rater has several
        samples.
    """
    keep = np.isfinite(values).all(axis=1)
    y, raters = values[keep], values.shape[1]
    if raters < 2 or len(y) < 2:
        return []
    repeated = bool(np.isfinite(within[keep]).any())
    scatter = np.nan_to_num(within[keep]).sum(axis=1) / raters
    # The mean squares depend on sums of these terms over tasks, so a bootstrap draw only needs weighted sums.
    parts = np.column_stack([np.ones(len(y)), y, y.mean(axis=1) ** 2, (y**2).sum(axis=1), scatter])
    whole = _variance_shares(parts.sum(axis=0)[None, :], raters, repeated)
    bounds = None
    if draws:
        drawn = occupation_draws(np.asarray(codes)[keep], draws, seed)
        bounds = np.nanquantile(_variance_shares(drawn.sum(parts)[0], raters, repeated), [0.025, 0.975], axis=0)
    names = ["task", "rater", "rater by task", *(["repeat"] if repeated else [])]
    return [
        Component(name, float(whole[0, i]), None if bounds is None else (float(bounds[0, i]), float(bounds[1, i])))
        for i, name in enumerate(names)
    ]


def _variance_shares(sums: Array, raters: int, repeated: bool) -> Array:
    n, squares, all_squares, scatter = sums[:, [0, 1 + raters, 2 + raters, 3 + raters]].T
    rater_means = sums[:, 1 : 1 + raters] / n[:, None]
    mean = rater_means.mean(axis=1)
    task_ms = raters * (squares - n * mean**2) / (n - 1)
    rater_ms = n * ((rater_means - mean[:, None]) ** 2).sum(axis=1) / (raters - 1)
    residual = all_squares - raters * squares - n * (rater_means**2).sum(axis=1) + n * raters * mean**2
    residual_ms = residual / ((n - 1) * (raters - 1))
    repeat = scatter / n
    interaction = np.maximum(residual_ms - repeat, 0) if repeated else np.maximum(residual_ms, 0)
    parts = [np.maximum((task_ms - residual_ms) / raters, 0), np.maximum((rater_ms - residual_ms) / n, 0), interaction]
    table = np.column_stack([*parts, *([repeat] if repeated else [])])
    total = table.sum(axis=1, keepdims=True)
    return np.divide(table, total, out=np.zeros_like(table), where=total > 0)


@dataclass(frozen=True)
class Mean:
    """A mean over tasks (0-1), its 95% interval (None if it cannot be computed), and the number of tasks."""

    mean: float
    interval: Bounds | None
    tasks: int


def pooled_mean(values: Array, codes: npt.ArrayLike, *, draws: int, seed: int) -> Mean:
    """The mean over raters and over the tasks that all of them labelled, with raters and occupations as random samples.

    Its variance is the variance between the raters' means, divided by R, plus the bootstrap variance over occupations. The
    interval is a t interval with Satterthwaite's degrees of freedom, on a scale that stays within 0 and 1. With one rater, it
    is the interval of `relabel eval`. With only one occupation, there is no interval.

    Args:
        values: Value of each task by each rater, shape (n, R); NaN if missing.
        codes: Occupation of each task, shape (n,).
        draws: Number of bootstrap draws of occupations; 0 for no interval.
        seed: Seed of the draws.
    """
    keep = np.isfinite(values).all(axis=1)
    y, raters = values[keep], values.shape[1]
    if not len(y):
        return Mean(float("nan"), None, 0)
    by_task, interval = y.mean(axis=1), None
    mean = float(by_task.mean())
    if draws:
        drawn = occupation_draws(np.asarray(codes)[keep], draws, seed)
        figure = Sums(np.column_stack([by_task, np.ones(len(y))]), drawn).figure(
            lambda sums: ratio(sums[..., 0], sums[..., 1])
        )
        others = drawn.occupations - 1
        if raters == 1:
            interval = figure.interval()
        elif others:
            between = float(y.mean(axis=0).var(ddof=1)) / raters
            error = float(figure.draws.std(ddof=1)) * math.sqrt(drawn.occupations / others)
            if total := between + error**2:
                degrees = total**2 / (between**2 / (raters - 1) + error**4 / others)
                interval = on_scale(mean, student_t(0.95, max(degrees, 1)) * total**0.5, SHARE)
    return Mean(mean, interval, len(y))


def leave_one_out_means(votes: Votes, measure: Measure) -> dict[str, float]:
    """Mean of a measure over the tasks that all raters labelled, leaving out each rater in turn; by the rater left out."""
    y = pd.DataFrame(votes.values[measure], columns=list(votes.names)).dropna()
    if y.shape[1] < 2 or y.empty:
        return {}
    return {str(name): float(y.drop(columns=name).to_numpy().mean()) for name in y.columns}


def corrected_outcomes(predicted: npt.ArrayLike, gold: npt.ArrayLike, chance: npt.ArrayLike) -> Array:
    """Outcomes for a user's regressions, corrected for a model's errors with a randomly sampled gold.

    Where the gold has a label, its difference from the prediction, divided by the inclusion probability, is added. Means of
    such outcomes, also within groups, and regressions on them are unbiased whatever the errors are; their larger variance is
    covered by robust standard errors.

    Args:
        predicted: The model's value of each task, shape (n,).
        gold: The gold's value, shape (n,); NaN if missing.
        chance: Inclusion probability of each task in the gold (above 0, at most 1), shape (n,).

    Source: Egami, Hinck, Stewart and Wei 2023, arXiv:2306.04746 (design-based supervised learning), equation 4.
    """
    y, reference, p = (np.asarray(x, dtype=np.float64) for x in (predicted, gold, chance))
    return y + np.where(np.isfinite(reference), (np.nan_to_num(reference) - y) / p, 0.0)
