"""Mean exposure corrected for the run's errors, by power-tuned prediction-powered inference (PPI++).

A run labels all N tasks with errors; a gold has labels of some of them, which are taken as right. The target is the mean over
these N tasks by the labels of the gold's makers, for example people. It is estimated by the run's mean over all tasks plus its
mean error on the gold: the difference estimator of survey sampling, which is PPI for a finite population.

The estimate is unbiased, whatever the run's errors are, if every task could be sampled into the gold with a known probability:
equal for all, or one over its weight. It is not valid for a gold whose tasks were selected on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.evaluation.alignment import GOLD, AlignedLabels, mean_one
from relabel.evaluation.document import MAJOR_GROUPS, Bounds, Debiased, Estimate
from relabel.evaluation.gold import Gold
from relabel.evaluation.statistics import SHARE, Array, few_occupations, on_scale, student_t
from relabel.rubric import MEASURES, Measure
from relabel.run import Run, mean_measures
from relabel.task import TASK_KEY

# Minimum number of gold labels in a group for an estimate.
FEWEST_LABELS = 20

# Variance at or below which it is only floating-point noise.
_NO_SPREAD = 1e-20


@dataclass(frozen=True)
class Powered:
    """A prediction-powered mean.

    Attributes:
        mean: The estimate.
        power: Lambda, from 0 (only the gold) to 1 (full use of the run).
        variance: Variance due to the sampling of the gold; None for fewer than two clusters.
        clusters: Number of clusters for the variance.
        degrees: Its degrees of freedom: clusters minus strata, or fewer if a few clusters dominate the variance.
    """

    mean: float
    power: float
    variance: float | None
    clusters: int
    degrees: float

    def bounds(self, level: float = 0.95) -> Bounds | None:
        """Interval by Student's t, on a scale that stays within 0-1.

        None for fewer than two clusters, or if gold and run differ by a constant: the variance is then 0, but the estimate is
        not certain.
        """
        if self.variance is None or self.variance <= _NO_SPREAD:
            return None
        half_width = student_t(level, max(self.degrees, 1)) * math.sqrt(self.variance)
        return on_scale(self.mean, half_width, SHARE)


def powered_mean(
    gold: Array,
    predicted: Array,
    all_predictions: Array,
    *,
    weight: Array | None = None,
    clusters: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    power: float | None = None,
) -> Powered:
    """Estimate the mean of all units from few gold values and predictions for all of them.

    Args:
        gold: Gold values, shape (n,), n at least 2.
        predicted: Predictions for the same units, shape (n,).
        all_predictions: Predictions for all units, those with a gold value among them, shape (N,).
        weight: Sampling weight of each gold unit, shape (n,): one over its inclusion probability, on any scale; by default all
            are equal.
        clusters: Cluster of each gold unit, shape (n,), within which errors may be correlated; by default each is its own.
        strata: Stratum of each gold unit, shape (n,), for stratified samples: differences between strata are no sampling error.
        power: Lambda; by default the one with the smallest variance, as in PPI++, limited to 0-1.

    Returns:
        The estimate. With equal probabilities it equals that of the library ppi-python, given the other N - n predictions, whose
        lambda is smaller by the factor (N - n) / N. The library's variance is larger by the variance of gold values over N,
        because it treats the N units as a sample from an infinite population; here they are the whole population.

    Source: Angelopoulos, Duchi and Zrnic 2023, arXiv:2311.01453, section 6; Särndal, Swensson and Wretman 1992, Model Assisted
    Survey Sampling, sections 6.3 (difference estimator) and 5.7 (weights scaled to N); variance by sums over clusters with
    the factor G / (G - 1) for the G clusters of a stratum, its degrees of freedom after Satterthwaite 1946 (doi:10.2307/3002019)
    from the clusters' own fourth moments.
    """
    n = len(gold)
    weights = np.ones(n) if weight is None else mean_one(np.asarray(weight, dtype=np.float64))
    chance = np.minimum(n / (len(all_predictions) * weights), 1)
    # Influence of each unit's error on the estimate; 0 for units that are included with certainty.
    influence = weights * np.sqrt(1 - chance) / n
    design = _Design.build(weights, influence, clusters, strata)
    if power is None:
        power = _least_variance(gold, predicted, all_predictions, weights, influence, design)
    error = gold - power * predicted
    mean = float(power * all_predictions.mean() + np.average(error, weights=weights))
    squares = design.squares(influence, error)
    if len(squares) < 2:
        return Powered(mean, power, None, len(squares), 0)
    variance, spread = float(squares.sum()), float(((squares - squares.mean()) ** 2).sum())
    # If errors are rare, the variance itself is uncertain; fewer degrees of freedom account for that.
    degrees = min(design.degrees, 2 * variance**2 / spread) if spread > 0 else design.degrees
    return Powered(mean, power, variance, len(squares), degrees)


@dataclass(frozen=True)
class _Design:
    """Sampling design of the gold, for the variance.

    Attributes:
        weight: Weight of each unit, shape (n,).
        cluster: Index of each unit's cluster, shape (n,).
        stratum: Index of each unit's stratum, shape (n,).
        lone: Whether the unit's stratum has only one cluster, so that its variance cannot be estimated, shape (n,).
        growth: G / (G - 1) for the G clusters of each unit's stratum, shape (n,).
        sampled: Whether the unit was included at random, and not with certainty, shape (n,).
    """

    weight: Array
    cluster: npt.NDArray[np.intp]
    stratum: npt.NDArray[np.intp]
    lone: npt.NDArray[np.bool_]
    growth: Array
    sampled: npt.NDArray[np.bool_]

    @classmethod
    def build(
        cls, weight: Array, influence: Array, clusters: npt.ArrayLike | None, strata: npt.ArrayLike | None
    ) -> _Design:
        n = len(weight)
        cluster = np.arange(n) if clusters is None else _places(clusters)
        stratum = np.zeros(n, dtype=np.intp) if strata is None else _places(strata)
        pairs = np.unique(np.stack([stratum, cluster]), axis=1)
        within = np.bincount(pairs[0])[stratum]
        lone = (within < 2) & (strata is not None)
        size = np.where(lone, len(np.unique(cluster)), within)
        return cls(weight, cluster, stratum, lone, size / np.maximum(size - 1.0, 1.0), influence > 0)

    @property
    def degrees(self) -> int:
        """Number of randomly included clusters minus number of their strata; lone clusters together form one stratum."""
        clusters = len(np.unique(self.cluster[self.sampled]))
        strata = len(np.unique(self.stratum[self.sampled & ~self.lone])) + bool((self.sampled & self.lone).any())
        return clusters - strata

    def centred(self, values: Array) -> Array:
        """Values minus the mean of their stratum; for a lone cluster, minus the overall mean."""
        by_stratum = np.bincount(self.stratum, weights=self.weight * values)
        middle = (by_stratum / np.bincount(self.stratum, weights=self.weight))[self.stratum]
        return values - np.where(self.lone, np.average(values, weights=self.weight), middle)

    def squares(self, influence: Array, error: Array) -> Array:
        """Contribution of each randomly included cluster to the variance, shape (clusters,)."""
        summed = np.bincount(self.cluster, weights=influence * np.sqrt(self.growth) * self.centred(error))
        return np.square(summed[np.unique(self.cluster[self.sampled])], dtype=np.float64)


def _places(names: npt.ArrayLike) -> npt.NDArray[np.intp]:
    return np.unique(np.asarray(names, dtype=str), return_inverse=True)[1]


def _least_variance(
    gold: Array, predicted: Array, all_predictions: Array, weights: Array, influence: Array, design: _Design
) -> float:
    """Lambda: the slope of gold on predictions, weighted as in the variance."""
    actual, guessed = design.centred(gold), design.centred(predicted)
    own_variance, variance = float((influence**2 * guessed**2).sum()), float(np.var(all_predictions, ddof=1))
    if own_variance <= 0 or variance <= 0:
        return 0.0
    slope = float((influence**2 * actual * guessed).sum()) / own_variance
    # As in PPI++, replace the variance of the predictions in the gold by that of all predictions, which is known.
    variance_in_gold = float(np.average((predicted - np.average(predicted, weights=weights)) ** 2, weights=weights))
    return float(np.clip(slope * variance_in_gold / variance, 0, 1))


def debiased(run: Run, gold: Gold, aligned: AlignedLabels) -> Debiased | None:
    """Mean exposure of all tasks and of each major group: naive, by the gold alone, and prediction-powered.

    Args:
        run: The run.
        gold: The gold.
        aligned: Both, aligned.

    Returns:
        The estimates; None if a model made the gold, or its tasks were selected as doubtful.
    """
    if gold.made_by == "model" or gold.selected or gold.is_run(run):
        return None
    gold_values = pd.DataFrame({f"{m}_gold": table[:, GOLD] for m, table in aligned.values.items()})
    matched = aligned.tasks.join(gold_values)
    if matched.duplicated(TASK_KEY).any():  # a gold with several labels of a task: use their weighted mean
        parts = {str(column): matched[column] * matched["weight"] for column in gold_values}
        summed = matched.assign(**parts).groupby(TASK_KEY)[[*gold_values, "weight"]].sum(min_count=1)
        means = summed[list(gold_values)].div(summed["weight"], axis=0).reset_index()
        matched = means.merge(matched.drop_duplicates(TASK_KEY)[[*TASK_KEY, "stratum"]], on=TASK_KEY).assign(weight=1.0)
    table = mean_measures(run).reset_index().merge(matched, on=TASK_KEY, how="left", validate="one_to_one")
    table["group"] = table["onet_soc_code"].str[:2]
    estimates: dict[Measure, tuple[Estimate, ...]] = {}
    for measure in MEASURES:
        rows = table[table[measure].notna()]
        if measure not in aligned.values or not rows[f"{measure}_gold"].notna().any():
            continue
        groups = [("all", "All tasks", rows)]
        groups += [(str(g), MAJOR_GROUPS.get(str(g), str(g)), part) for g, part in rows.groupby("group")]
        estimates[measure] = tuple(_estimate(g, title, part, measure) for g, title, part in groups)
    if not estimates:
        return None
    unlike = matched["weight"].nunique() > 1
    chances = "with chances of one over their weights" if unlike else "with equal chances"
    basis = (
        "The estimates are means of people's labels."
        if gold.human
        else "The estimates are means of labels like the gold's; its maker is unknown, so they do not count as people's."
    )
    note = (
        f"{basis} The gold's tasks are taken as drawn {chances} from all tasks of the run, and the means are those of these very "
        "tasks, each weighing the same; errors are clustered by occupation. The run's own mean is counted, not estimated: "
        "its error is that of its labels."
    )
    return Debiased(measures=estimates, note=note)


def _estimate(group: str, title: str, rows: pd.DataFrame, measure: Measure) -> Estimate:
    labelled = rows[rows[f"{measure}_gold"].notna()]
    everything = rows[measure].to_numpy(dtype=np.float64)
    # The run's own mean covers all tasks: it may be biased, but has no sampling error.
    figures: dict[str, Any] = {"gold": None, "ppi": None, "power": None, "ci95": {"naive": None}}
    gold = labelled[f"{measure}_gold"].to_numpy(dtype=np.float64)
    if len(labelled) < FEWEST_LABELS:
        figures["note"] = f"fewer than {FEWEST_LABELS} tasks of the group have a gold label"
    elif len(labelled) == len(rows):
        figures |= {"gold": float(gold.mean()), "ci95": dict.fromkeys(("naive", "gold", "ppi"))}
        figures["note"] = "the gold holds every task of the run: its mean is the answer"
    else:
        figures |= _powered(labelled, gold, labelled[measure].to_numpy(dtype=np.float64), everything)
    about = {"group": group, "title": title, "n_gold": len(labelled), "n_run": len(rows)}
    return Estimate.model_validate(about | {"naive": float(everything.mean())} | figures)


def _powered(labelled: pd.DataFrame, gold: Array, predicted: Array, everything: Array) -> dict[str, Any]:
    """The gold's mean and the prediction-powered one, with their intervals."""
    strata = labelled["stratum"]
    design = {
        "weight": labelled["weight"].to_numpy(dtype=np.float64),
        "clusters": labelled["onet_soc_code"].to_numpy(),
        "strata": strata.to_numpy(dtype=object) if strata.notna().all() else None,
    }
    alone, powered = (powered_mean(gold, predicted, everything, **design, power=power) for power in (0.0, None))
    few = few_occupations(powered.clusters)
    if powered.clusters >= 2 and powered.bounds() is None:
        few = "the gold differs from the run by a constant, which gives no interval"
    bounds = {"naive": None, "gold": alone.bounds(), "ppi": powered.bounds()}
    return {"gold": alone.mean, "ppi": powered.mean, "power": powered.power, "ci95": bounds, "note": few}
