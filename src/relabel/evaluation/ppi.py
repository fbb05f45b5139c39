"""Mean exposure with the run's errors taken out: prediction-powered inference, power-tuned (PPI++).

A run labels many tasks and errs; people label few and are taken as right. The run's mean over the tasks that no one else
labelled, plus the mean error where both did, is right on average whatever the run's errors are, and closer than the few
labels alone as far as the run agrees with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from relabel.evaluation.bootstrap import FEWEST_OCCUPATIONS, Array
from relabel.evaluation.document import Bounds, Debiased, Estimate, SettingName
from relabel.evaluation.gold import Gold
from relabel.evaluation.sides import NEEDS, even
from relabel.evaluation.slices import MAJOR_GROUPS
from relabel.rubric import MEASURES, Measure
from relabel.run import Run, measures_of

FEWEST_LABELS = 20
"""Fewer gold labels in a group are not extrapolated from."""

_KEYS = ["onet_soc_code", "task_id"]


@dataclass(frozen=True)
class Powered:
    """A prediction-powered mean.

    Attributes:
        mean: The estimate.
        power: Lambda, from 0 (the gold alone) to 1 (the run at full weight).
        variance: Its variance; None for fewer than two clusters.
        clusters: Clusters that the variance rests on.
    """

    mean: float
    power: float
    variance: float | None
    clusters: int

    def bounds(self, level: float = 0.95) -> Bounds | None:
        """Interval by Student's t; None for fewer than `FEWEST_OCCUPATIONS` clusters."""
        if self.variance is None or self.clusters < FEWEST_OCCUPATIONS:
            return None
        reach = float(stats.t.ppf((1 + level) / 2, self.clusters - 1)) * math.sqrt(self.variance)
        return self.mean - reach, self.mean + reach


def powered_mean(
    gold: Array,
    predicted: Array,
    unlabelled: Array,
    *,
    weight: Array | None = None,
    clusters: npt.ArrayLike | None = None,
    unlabelled_clusters: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    power: float | None = None,
) -> Powered:
    """Estimate a mean from few gold values and many predictions.

    Args:
        gold: Gold values, shape (n,), n at least 2.
        predicted: Predictions for the same units, shape (n,).
        unlabelled: Predictions for units without a gold value, shape (m,), m at least 1.
        weight: Weight of each gold unit, shape (n,); by default all weigh the same.
        clusters: Cluster of each gold unit, shape (n,); by default each is its own.
        unlabelled_clusters: Cluster of each other unit, shape (m,), of the same names.
        strata: Stratum of each gold unit, shape (n,): where units were drawn by stratum, differences between strata are no
            sampling error.
        power: Lambda; by default the one of least variance, as in PPI++, kept within 0 and 1.

    Returns:
        The estimate.

    Source: Angelopoulos, Duchi and Zrnic 2023, arXiv:2311.01453, section 6; variance by sums over clusters with the factor
    G / (G - 1) for G clusters.
    """
    n, m = len(gold), len(unlabelled)
    w = np.ones(n) if weight is None else even(np.asarray(weight, dtype=np.float64))
    if power is None:
        # Centred on the estimate at full power, as weights would otherwise add a spread of their own.
        centre = unlabelled.mean() + np.average(gold - predicted, weights=w)
        told, guessed = w * (gold - centre), w * (predicted - centre)
        together = float(np.mean((told - told.mean()) * (guessed - guessed.mean())))
        spread = float(np.var(np.concatenate([guessed, unlabelled - centre]), ddof=1))
        power = float(np.clip(together / ((1 + n / m) * spread), 0, 1)) if spread > 0 else 0.0
    error = gold - power * predicted
    mean = float(power * unlabelled.mean() + np.average(error, weights=w))
    names, place = _clusters(clusters, unlabelled_clusters, n, m)
    middle = np.full(n, np.average(error, weights=w))
    if strata is not None:
        groups = np.unique(np.asarray(strata, dtype=str), return_inverse=True)[1]
        middle = (np.bincount(groups, weights=w * error) / np.bincount(groups, weights=w))[groups]
    pull = np.concatenate([w * (error - middle) / n, power * (unlabelled - unlabelled.mean()) / m])
    summed = np.bincount(place, weights=pull, minlength=names)
    variance = float((summed**2).sum() * names / (names - 1)) if names > 1 else None
    labelled_clusters = len(np.unique(place[:n]))
    return Powered(mean, power, variance, labelled_clusters)


def debiased(run: Run, gold: Gold, matched: pd.DataFrame, settings: tuple[SettingName, ...]) -> Debiased | None:
    """Mean exposure of all tasks and of each major group, naive, by the gold alone, and prediction-powered.

    Args:
        run: The run.
        gold: The gold.
        matched: As `Match.table`.
        settings: Settings that are compared.

    Returns:
        The estimates; None where the gold's labels are not people's.
    """
    if not gold.human or run.ref == gold.name:
        return None
    coded = run.coded()
    values = measures_of(run.rubric, coded)
    theirs = measures_of(
        run.rubric, matched[["strict_gold", "with_tools_gold"]].set_axis(["strict", "with_tools"], axis=1)
    )
    known = matched[[*_KEYS, "weight", "stratum"]].join(theirs.add_suffix("_gold"))
    table = coded[_KEYS].join(values).merge(known, on=_KEYS, how="left", validate="one_to_one")
    table["group"] = table["onet_soc_code"].str[:2]
    found: dict[Measure, tuple[Estimate, ...]] = {}
    for measure in MEASURES:
        rows = table[table[measure].notna()]
        if NEEDS[measure] not in settings or not rows[f"{measure}_gold"].notna().any():
            continue
        groups = [("all", "All tasks", rows)]
        groups += [(str(g), MAJOR_GROUPS.get(str(g), str(g)), part) for g, part in rows.groupby("group")]
        found[measure] = tuple(_estimate(g, title, part, measure) for g, title, part in groups)
    if not found:
        return None
    weights = "weighted by the gold's weights" if gold.weighted else "taken as drawn with equal chances"
    note = (
        f"The gold's tasks are {weights} from all tasks of the run; errors are clustered by occupation. "
        "Each task weighs the same in a mean."
    )
    return Debiased(measures=found, note=note)


def _estimate(group: str, title: str, rows: pd.DataFrame, measure: Measure) -> Estimate:
    labelled = rows[rows[f"{measure}_gold"].notna()]
    rest = rows[rows[f"{measure}_gold"].isna()]
    everything = rows[measure].to_numpy(dtype=np.float64)
    naive = _plain(everything, np.ones(len(rows)), rows["onet_soc_code"])
    estimate = Estimate(
        group=group,
        title=title,
        n_gold=len(labelled),
        n_run=len(rows),
        naive=naive.mean,
        gold=None,
        ppi=None,
        power=None,
        ci95={"naive": naive.bounds()},
    )
    if len(labelled) < FEWEST_LABELS:
        return estimate.model_copy(update={"note": f"fewer than {FEWEST_LABELS} tasks of the group have a gold label"})
    gold = labelled[f"{measure}_gold"].to_numpy(dtype=np.float64)
    weight = labelled["weight"].to_numpy(dtype=np.float64)
    alone = _plain(gold, weight, labelled["onet_soc_code"])
    found: dict[str, float | Mapping[str, Bounds | None] | str | None] = {
        "gold": alone.mean,
        "ci95": {"naive": naive.bounds(), "gold": alone.bounds(), "ppi": None},
    }
    if rest.empty:
        return estimate.model_copy(
            update=found | {"note": "the gold holds every task of the run: its mean is the answer"}
        )
    strata = labelled["stratum"]
    powered = powered_mean(
        gold,
        labelled[measure].to_numpy(dtype=np.float64),
        rest[measure].to_numpy(dtype=np.float64),
        weight=weight,
        clusters=labelled["onet_soc_code"].to_numpy(),
        unlabelled_clusters=rest["onet_soc_code"].to_numpy(),
        strata=strata.to_numpy(dtype=object) if strata.notna().all() else None,
    )
    found |= {
        "ppi": powered.mean,
        "power": powered.power,
        "ci95": {"naive": naive.bounds(), "gold": alone.bounds(), "ppi": powered.bounds()},
    }
    if powered.bounds() is None:
        found["note"] = (
            f"the gold's labels come from fewer than {FEWEST_OCCUPATIONS} occupations, so there is no interval"
        )
    return estimate.model_copy(update=found)


def _plain(values: Array, weight: Array, codes: pd.Series) -> Powered:
    """A weighted mean with the error that clusters give it."""
    w = even(weight)
    mean = float(np.average(values, weights=w))
    places, names = pd.factorize(codes)
    summed = np.bincount(places, weights=w * (values - mean) / len(values))
    count = len(names)
    variance = float((summed**2).sum() * count / (count - 1)) if count > 1 else None
    return Powered(mean, 0.0, variance, count)


def _clusters(
    labelled: npt.ArrayLike | None, unlabelled: npt.ArrayLike | None, n: int, m: int
) -> tuple[int, npt.NDArray[np.intp]]:
    if labelled is None or unlabelled is None:
        return n + m, np.arange(n + m)
    both = np.concatenate([np.asarray(labelled, dtype=str), np.asarray(unlabelled, dtype=str)])
    names, place = np.unique(both, return_inverse=True)
    return len(names), place
