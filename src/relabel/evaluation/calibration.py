"""Whether a run's probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from relabel.evaluation import bootstrap
from relabel.evaluation.bootstrap import Draws, occupation_draws
from relabel.evaluation.document import Calibration, ReliabilityBin, SettingName
from relabel.evaluation.matching import sides
from relabel.evaluation.sides import even, intervals
from relabel.run import Run
from relabel.task import TASK_KEY

BINS = 10
"""Bins of equal width from 0 to 1."""


def calibration(
    run: Run, table: pd.DataFrame, settings: tuple[SettingName, ...], *, draws: int | None, seed: int
) -> dict[SettingName, Calibration] | None:
    """Reliability of the probabilities that a run gives for its labels, the gold taken as the truth.

    Of several samples of a task each label counts.

    Args:
        run: The run.
        table: As `Match.table`.
        settings: Settings that are compared.
        draws: Bootstrap draws; None leaves the intervals out.
        seed: Seed of the draws.

    Returns:
        Figures by setting that the rubric asks about; None when the run has no probabilities for compared tasks.

    Source: Brier 1950; expected calibration error as in Naeini, Cooper and Hauskrecht 2015, with bins of equal width.
    """
    labels = run.labels[run.labels["probability"].notna()] if "probability" in run.labels else run.labels.iloc[:0]
    found: dict[SettingName, Calibration] = {}
    for setting in settings:
        asked = labels[labels["setting"] == setting]
        if asked.empty:
            continue
        truth = sides(table, setting)["gold"]
        known = table.loc[truth.index, [*TASK_KEY, "weight"]].assign(truth=truth)
        rows = asked.merge(known, on=TASK_KEY)
        if len(rows):
            found[setting] = reliability(
                rows["probability"].to_numpy(dtype=np.float64),
                (rows["label"] == rows["truth"]).to_numpy(),
                rows["weight"].to_numpy(dtype=np.float64),
                None if draws is None else occupation_draws(rows["onet_soc_code"].to_numpy(), draws, seed),
            )
    return found or None


def reliability(
    probability: bootstrap.Array, right: np.ndarray, weight: bootstrap.Array, drawn: Draws | None
) -> Calibration:
    """Figures of a set of labels.

    Args:
        probability: Probability of each label, 0-1, shape (n,), n at least 1.
        right: Whether it is right, shape (n,).
        weight: Weight of each label, shape (n,).
        drawn: Draws for the labels; None leaves the intervals out.
    """
    weight, hit = even(weight), right.astype(np.float64)
    # The upper bound belongs to a bin, so that a probability of 1 falls into the last one.
    bin_of = np.clip(np.ceil(probability * BINS).astype(int) - 1, 0, BINS - 1)
    member = np.zeros((len(hit), BINS))
    member[np.arange(len(hit)), bin_of] = weight
    # By bin: weight, probability, hits; then the squared error of all.
    sums = np.stack([member, member * probability[:, None], member * hit[:, None]], axis=2)
    squared = weight * (probability - hit) ** 2

    def figures(by_bin: bootstrap.Array, error: bootstrap.Array) -> dict[str, bootstrap.Array]:
        total, said, hits = (by_bin[..., i].sum(axis=-1) for i in range(3))
        gaps = np.abs(by_bin[..., 1] - by_bin[..., 2]).sum(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"brier": error / total, "ece": gaps / total, "probability": said / total, "accuracy": hits / total}

    whole = sums.sum(axis=0)
    found = {name: float(x) for name, x in figures(whole, squared.sum()).items()}
    curve: list[ReliabilityBin] = []
    for place in range(BINS):
        here = bin_of == place
        if here.any():
            of, inside = None if drawn is None else drawn.of(here), weight[here]
            curve.append(
                ReliabilityBin(
                    low=place / BINS,
                    high=(place + 1) / BINS,
                    n=int(here.sum()),
                    probability=float(whole[place, 1] / whole[place, 0]),
                    accuracy=float(whole[place, 2] / whole[place, 0]),
                    ci95=intervals(of, _accuracy_of(hit[here], inside)),
                )
            )
    ci95 = intervals(drawn, lambda of: figures(of.sum(sums), of.sum(squared)))
    return Calibration(n=len(hit), **found, bins=tuple(curve), ci95=ci95)


def _accuracy_of(hit: bootstrap.Array, weight: bootstrap.Array) -> Callable[[Draws], Mapping[str, bootstrap.Array]]:
    return lambda of: {"accuracy": bootstrap.means(of, hit, weight)}
