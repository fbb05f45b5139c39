"""Pooling several raters: majority and mean, a latent-class model of raters, variance components, ranges without each rater.

Labels are codes from the lowest exposure to the highest, as in `relabel.evaluation.document.SCALES`; -1 where a rater has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.errors import DataError
from relabel.evaluation.alignment import AlignedLabels, align_all
from relabel.evaluation.document import SCALES, Bounds, SettingName
from relabel.evaluation.gold import COLUMNS, run_settings
from relabel.evaluation.statistics import SHARE, Sums, occupation_draws, on_scale, ratio, student_t
from relabel.rubric import MEASURES, Measure
from relabel.run import Run
from relabel.scoring.measures import by_sample, class_values
from relabel.task import TASK_KEY

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.int_]

MIN_RATERS = 3
"""Raters that a latent-class model needs: two cannot tell who of them errs."""
_OVERALL = 20.0
"""Tasks that the shares of all tasks count as beside those of a cluster."""
_RIGHT, _WRONG = 3.0, 1.0
"""Labels that each rater is taken to have given rightly and wrongly before any is seen, for each pair of codes."""


@dataclass(frozen=True, kw_only=True)
class Votes(AlignedLabels):
    """Labels of n tasks by R raters, tasks sorted; a task is here when at least one of them labelled it.

    Its values are means over a rater's samples.

    Attributes:
        setting: What the labels answer: `three-way` where all raters have codes, else the one setting that all share.
        scatter: Variance of those means by the scatter of the samples, by measure, shape (n, R); NaN where there is one sample.
        worth: Value by measure of each label of the scale; measures that the labels settle.
    """

    setting: SettingName
    scatter: Mapping[Measure, Array]
    worth: Mapping[Measure, Array]

    @property
    def given(self) -> Places:
        """Place of each label on the setting's scale, shape (n, R), -1 where there is none."""
        return self.labels[self.setting]

    @property
    def scale(self) -> tuple[str, ...]:
        """Labels in order of exposure."""
        return SCALES[self.setting]

    def counts(self) -> Array:
        """Votes by task and label, shape (n, K)."""
        return (self.given[:, :, None] == np.arange(len(self.scale))).sum(axis=1).astype(np.float64)

    def majority(self) -> Places:
        """The label that most raters give, the less exposed where several are as frequent; -1 where there is none."""
        counts = self.counts()
        return np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), -1)


def votes(runs: Mapping[str, Run]) -> Votes:
    """Line raters up on all tasks that any of them labelled.

    Args:
        runs: The raters' runs, by name.

    Raises:
        DataError: The raters share no setting, or none labelled a task of the study.
    """
    aligned = align_all(runs)
    if not len(aligned):
        raise DataError("no rater has a label for a task of the study; check the task list and the raters' files")
    index = aligned.index()
    order: tuple[SettingName, ...] = ("three-way", "with-tools", "strict")
    setting: SettingName | None = next((s for s in order if all(s in run_settings(run) for run in runs.values())), None)
    if setting is None:
        asked = "; ".join(f"{name}: {', '.join(run_settings(run))}" for name, run in runs.items())
        raise DataError(f"the raters share no setting ({asked}); give raters that answered the same settings")
    readings = ("strict", "with_tools") if setting == "three-way" else (COLUMNS[setting],)
    values = class_values(next(iter(runs.values())).rubric, readings)
    worth: dict[Measure, Array] = {m: v for m, v in zip(MEASURES, values.T, strict=True) if np.isfinite(v).all()}
    samples = {name: by_sample(run).groupby(TASK_KEY)[list(worth)] for name, run in runs.items()}
    means = [grouped.mean().reindex(index) for grouped in samples.values()]
    scatter = [(grouped.var(ddof=1) / grouped.count()).reindex(index) for grouped in samples.values()]
    return Votes(
        aligned.names,
        aligned.tasks,
        aligned.labels,
        {m: np.stack([table[m].to_numpy(np.float64) for table in means], axis=1) for m in worth},
        weights=aligned.weights,
        setting=setting,
        scatter={m: np.stack([table[m].to_numpy(np.float64) for table in scatter], axis=1) for m in worth},
        worth=worth,
    )


@dataclass(frozen=True)
class LatentClasses:
    """What a latent-class model says of tasks and raters (Dawid and Skene 1979, with shares by cluster of tasks).

    Attributes:
        posterior: Chance of each label being the true one, shape (n, K).
        shares: Share of each label among the tasks of a cluster, shape (C, K).
        confusion: Chance that a rater gives a label where another is true, shape (R, K true, K given).
        converged: Whether the algorithm converged.
    """

    posterior: Array
    shares: Array
    confusion: Array
    converged: bool


def latent_classes(
    labels: Places, classes: int, clusters: npt.ArrayLike | None = None, *, most: int = 1000, tolerance: float = 1e-7
) -> LatentClasses:
    """Estimate true labels and each rater's confusion from labels alone.

    Raters are taken to err independently of one another given the truth. Raters who copy each other, or share their errors,
    break this: the model then trusts them too much, which no fit to labels alone can show.

    Args:
        labels: Place of each label, shape (n, R), -1 where there is none.
        classes: Labels on the scale, K.
        clusters: Cluster of each task, shape (n,), whose shares of labels may differ; by default all are one.
        most: Steps of EM at most.
        tolerance: Relative change of the log likelihood at which it stops.

    Raises:
        DataError: There are fewer than three raters.

    Source: Dawid and Skene 1979, Applied Statistics 28, 20-28; with a weak prior that raters are right more often than not,
    which keeps classes from changing places.
    """
    if labels.shape[1] < MIN_RATERS:
        raise DataError(
            f"a latent-class model needs {MIN_RATERS} raters or more, and these are {labels.shape[1]}: two cannot tell who of them errs"
        )
    cluster = np.zeros(len(labels), dtype=np.int_) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    rows, at = np.unique(np.column_stack([cluster, labels]), axis=0, return_inverse=True)
    size = np.bincount(at.ravel()).astype(np.float64)
    where, said = rows[:, 0], rows[:, 1:]
    given = (said[:, :, None] == np.arange(classes)).astype(np.float64)  # patterns x raters x labels
    votes_of = given.sum(axis=1) + 0.1
    post = votes_of / votes_of.sum(axis=1, keepdims=True)
    prior = np.full((classes, classes), _WRONG) + np.eye(classes) * (_RIGHT - _WRONG)
    before, converged = -np.inf, False
    confusion = shares = np.empty(0)
    for _ in range(most):
        weighted = post * size[:, None]
        overall = (weighted.sum(axis=0) + 1) / (size.sum() + classes)
        by_cluster = np.zeros((cluster.max() + 1, classes))
        np.add.at(by_cluster, where, weighted)
        shares = (by_cluster + _OVERALL * overall) / (by_cluster.sum(axis=1, keepdims=True) + _OVERALL)
        confusion = np.einsum("pk,prl->rkl", weighted, given) + prior
        confusion /= confusion.sum(axis=2, keepdims=True)
        log_of = np.log(shares)[where] + np.einsum("prl,rkl->pk", given, np.log(confusion))
        top = log_of.max(axis=1, keepdims=True)
        each = np.exp(log_of - top)
        log_likelihood = float((size * (top[:, 0] + np.log(each.sum(axis=1)))).sum())
        post = each / each.sum(axis=1, keepdims=True)
        if converged := abs(log_likelihood - before) <= tolerance * abs(log_likelihood):
            break
        before = log_likelihood
    return LatentClasses(post[at.ravel()], shares, confusion, converged)


@dataclass(frozen=True)
class Component:
    """One part of the variance of labels: its share of the whole (0-1), and a 95% interval over occupations."""

    source: str
    share: float
    interval: Bounds | None


def components(
    values: Array, within: Array, codes: npt.ArrayLike, *, draws: int = 1000, seed: int = 0
) -> list[Component]:
    """Shares of the variance of labels by task, rater, rater and task together, and repeat.

    A two-way analysis of variance of tasks and raters over tasks that all labelled. Intervals draw occupations and take these
    raters as they are: how much other raters would differ, a handful of raters cannot tell.

    Args:
        values: Value of each task by rater, the mean over samples, shape (n, R); NaN where there is none.
        within: Variance of that mean by scatter over samples, shape (n, R); NaN where a rater gave one sample.
        codes: Occupation of each task, shape (n,).
        draws: Draws of occupations; 0 gives no intervals.
        seed: Their seed.

    Returns:
        The parts, which sum to 1; empty for fewer than two raters or tasks. `repeat` is there where a rater has several samples.
    """
    keep = np.isfinite(values).all(axis=1)
    y, raters = values[keep], values.shape[1]
    if raters < 2 or len(y) < 2:
        return []
    repeated = bool(np.isfinite(within[keep]).any())
    scatter = np.nan_to_num(within[keep]).sum(axis=1) / raters
    # All sums that the mean squares need, task by task, so that draws of occupations are weighted sums.
    parts = np.column_stack([np.ones(len(y)), y, y.mean(axis=1) ** 2, (y**2).sum(axis=1), scatter])
    whole = _shares(parts.sum(axis=0)[None, :], raters, repeated)
    bounds = None
    if draws:
        drawn = occupation_draws(np.asarray(codes)[keep], draws, seed)
        bounds = np.nanquantile(_shares(drawn.sum(parts)[0], raters, repeated), [0.025, 0.975], axis=0)
    names = ["task", "rater", "rater by task", *(["repeat"] if repeated else [])]
    return [
        Component(name, float(whole[0, i]), None if bounds is None else (float(bounds[0, i]), float(bounds[1, i])))
        for i, name in enumerate(names)
    ]


def _shares(sums: Array, raters: int, repeated: bool) -> Array:
    n, squares, all_squares, scatter = sums[:, [0, 1 + raters, 2 + raters, 3 + raters]].T
    of_raters = sums[:, 1 : 1 + raters] / n[:, None]
    mean = of_raters.mean(axis=1)
    task_ms = raters * (squares - n * mean**2) / (n - 1)
    rater_ms = n * ((of_raters - mean[:, None]) ** 2).sum(axis=1) / (raters - 1)
    rest = all_squares - raters * squares - n * (of_raters**2).sum(axis=1) + n * raters * mean**2
    rest_ms = rest / ((n - 1) * (raters - 1))
    repeat = scatter / n
    both = np.maximum(rest_ms - repeat, 0) if repeated else np.maximum(rest_ms, 0)
    parts = [np.maximum((task_ms - rest_ms) / raters, 0), np.maximum((rater_ms - rest_ms) / n, 0), both]
    table = np.column_stack([*parts, *([repeat] if repeated else [])])
    total = table.sum(axis=1, keepdims=True)
    return np.divide(table, total, out=np.zeros_like(table), where=total > 0)


@dataclass(frozen=True)
class Mean:
    """A mean over tasks (0-1) with a 95% interval; `tasks` behind it. None where it cannot be given."""

    rater: str
    mean: float
    interval: Bounds | None
    tasks: int


def mean_of(rater: str, values: Array, codes: npt.ArrayLike, *, draws: int, seed: int) -> Mean:
    """The mean over raters and the tasks that all of them labelled, as one draw of raters and occupations.

    Its variance is that between the raters' means, over R, and that of drawing occupations; a t interval with the degrees of
    freedom of both (Satterthwaite), on a scale that stays within 0 and 1. Of one rater it is the interval of `relabel eval`.
    Tasks of one occupation give none.

    Args:
        rater: What the mean is called.
        values: Values of each task by rater, shape (n, R).
        codes: Occupation of each task, shape (n,).
        draws: Draws of occupations; 0 gives no interval.
        seed: Their seed.
    """
    keep = np.isfinite(values).all(axis=1)
    y, raters = values[keep], values.shape[1]
    if not len(y):
        return Mean(rater, float("nan"), None, 0)
    by_task = y.mean(axis=1)
    mean = float(by_task.mean())
    if not draws:
        return Mean(rater, mean, None, len(y))
    drawn = occupation_draws(np.asarray(codes)[keep], draws, seed)
    figure = Sums(np.column_stack([by_task, np.ones(len(y))]), drawn).figure(lambda of: ratio(of[..., 0], of[..., 1]))
    if raters == 1:
        return Mean(rater, mean, figure.interval(), len(y))
    if (others := drawn.occupations - 1) < 1:
        return Mean(rater, mean, None, len(y))
    apart = float(y.mean(axis=0).var(ddof=1)) / raters
    error = float(figure.draws.std(ddof=1)) * math.sqrt(drawn.occupations / others)
    if not (total := apart + error**2):
        return Mean(rater, mean, None, len(y))
    degrees = total**2 / (apart**2 / (raters - 1) + error**4 / others)
    return Mean(rater, mean, on_scale(mean, student_t(0.95, max(degrees, 1)) * total**0.5, SHARE), len(y))


def without_each(votes_of: Votes, measure: Measure) -> dict[str, float]:
    """Mean of a measure over raters and tasks that all labelled, without each rater in turn."""
    y = pd.DataFrame(votes_of.values[measure], columns=list(votes_of.names)).dropna()
    if y.shape[1] < 2 or y.empty:
        return {}
    return {str(name): float(y.drop(columns=name).to_numpy().mean()) for name in y.columns}


def corrected(predicted: npt.ArrayLike, gold: npt.ArrayLike, chance: npt.ArrayLike) -> Array:
    """Outcomes for regressions of one's own, corrected for a model's errors by a gold drawn at random.

    Where the gold has a label, the difference to the prediction is added, over the chance that the task came into the gold.
    The mean of such an outcome is right on average whatever the errors are, also within any group and as the left side of a
    regression; its scatter is larger, which robust standard errors see.

    Args:
        predicted: The model's value of each task, shape (n,).
        gold: The gold's value, NaN where it has none.
        chance: Chance of each task to come into the gold, above 0 and at most 1.

    Source: Egami, Hinck, Stewart and Wei 2023, arXiv:2306.04746 (design-based supervised learning), equation 4.
    """
    y, known, p = (np.asarray(x, dtype=np.float64) for x in (predicted, gold, chance))
    return y + np.where(np.isfinite(known), (np.nan_to_num(known) - y) / p, 0.0)
