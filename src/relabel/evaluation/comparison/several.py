"""More than two runs on the same tasks: who agrees with whom, what the majority says, where they differ most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import krippendorff
import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.evaluation import figures, metrics
from relabel.evaluation.bootstrap import DRAWS, Draws, occupation_draws
from relabel.evaluation.comparison.document import Bootstrap, Interval
from relabel.evaluation.document import SCALES, SettingName
from relabel.evaluation.frozen import Frozen
from relabel.evaluation.gold import Gold
from relabel.evaluation.metrics import known
from relabel.evaluation.side_by_side import GOLD, Raters, occupations_of, side_by_side
from relabel.evaluation.verdict import caveat
from relabel.evaluation.verdict import figure as shown
from relabel.rubric import Measure
from relabel.run import Run

Votes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Gold:
    """What the gold says of n tasks: place of its label on the scale, NaN where it has none, and the task's weight."""

    places: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64]

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        return np.isfinite(self.places)


class Pair(Frozen):
    """Agreement of two raters; `first` and `second` count the runs from 0."""

    first: int
    second: int
    n: int
    agreement: float | None
    agreement_ci95: Interval
    kappa: float | None
    kappa_ci95: Interval
    kappa_quadratic: float | None


class Standing(Frozen):
    """Where one run stands among the others.

    Attributes:
        prevalence: Share of each of its labels.
        with_others: Share of its labels that are the majority of the other runs; ties among these are left out.
        with_others_n: Tasks behind it.
        gold_accuracy: Accuracy against the gold on tasks that all runs and the gold have a label for, each counting by
            the weight that the gold gives it.
        gold_kappa: Kappa on the same.
    """

    prevalence: Mapping[str, float]
    with_others: float | None
    with_others_n: int
    gold_accuracy: float | None
    gold_kappa: float | None


class Majority(Frozen):
    """The label that most runs give.

    Attributes:
        labels: Tasks by their majority label.
        tied: Tasks without one.
        unanimous: Share of tasks on which all runs agree.
        gold_accuracy: Accuracy of the majority against the gold, tied tasks counting as wrong; same tasks and weights as
            the runs'.
    """

    labels: Mapping[str, int]
    tied: int
    unanimous: float
    gold_accuracy: float | None


class SettingPairs(Frozen):
    """Agreement among all runs in one setting, on tasks that all of them have a label for."""

    n: int
    krippendorff_nominal: float | None
    krippendorff_ordinal: float | None
    pairs: tuple[Pair, ...]
    runs: tuple[Standing, ...]
    majority: Majority


class Disputed(Frozen):
    """A task that the runs differ on.

    Attributes:
        labels: Label by run, in the runs' order, in the main setting.
        spread: Standard deviation (0-0.5) of the main measure's values over the runs.
    """

    onet_soc_code: str
    task_id: str
    labels: tuple[str | None, ...]
    spread: float


class PairwiseDocument(Frozen):
    """What `relabel compare --json` writes for more than two runs.

    Attributes:
        runs: The runs, as the user named them.
        models: Models asked.
        common: Tasks that all hold.
        alone: By run, tasks that not all others hold.
        settings: Agreement by setting.
        means: Mean of each measure by run, over tasks with a value in all.
        gold: Name of the gold; null without one.
        main_setting: Setting of the disputed tasks' labels.
        disputed: Tasks that the runs differ on, largest spread first.
        bootstrap: How intervals were made.
        verdict: The result in words, one sentence a line.
    """

    kind: str = "several"
    runs: tuple[str, ...]
    models: tuple[str, ...]
    common: int
    alone: tuple[int, ...]
    settings: Mapping[SettingName, SettingPairs]
    means: Mapping[Measure, tuple[float, ...]]
    gold: str | None
    main_setting: SettingName
    disputed: tuple[Disputed, ...]
    bootstrap: Bootstrap
    verdict: str


def compare_several(
    runs: Sequence[Run], gold: Gold | None = None, *, draws: int = DRAWS, seed: int = 0
) -> PairwiseDocument:
    """Compare several runs on the tasks that all of them hold.

    Args:
        runs: Three or more runs.
        gold: A gold that each, and their majority, is held against.
        draws: Draws of the bootstrap over occupations.
        seed: Its seed.

    Raises:
        DataError: The runs share no task or no setting, or the first shares no task with the gold.
    """
    raters = side_by_side(runs, gold)
    index = next(iter(raters.labels.values())).index
    drawn = occupation_draws(occupations_of(index).to_numpy(), draws, seed)
    settings: dict[SettingName, SettingPairs] = {
        s: _setting(table, s, len(runs), raters.weight, drawn) for s, table in raters.labels.items()
    }
    places = list(range(len(runs)))
    told: dict[Measure, pd.DataFrame] = {m: table[places].dropna() for m, table in raters.values.items()}
    means: dict[Measure, tuple[float, ...]] = {
        m: tuple(float(x) for x in table.mean()) for m, table in told.items() if len(table)
    }
    return PairwiseDocument(
        runs=raters.names,
        models=tuple(run.manifest.model for run in runs),
        common=raters.common,
        alone=raters.alone,
        settings=settings,
        means=means,
        gold=None if gold is None else gold.name,
        main_setting=raters.main,
        disputed=_disputed(raters, len(runs)),
        bootstrap=Bootstrap(draws=draws, seed=seed),
        verdict="\n".join([*caveat(gold), *_verdict(raters, settings[raters.main], means)]),
    )


def _setting(
    table: pd.DataFrame, setting: SettingName, raters: int, weight: npt.NDArray[np.float64], draws: Draws
) -> SettingPairs:
    scale, places = SCALES[setting], list(range(raters))
    whole = table[places].notna().all(axis=1)
    told, weight, draws = table[whole], weight[whole.to_numpy()], draws.of(whole.to_numpy())
    # Labels by place on the scale, and votes by task and label.
    rank = {label: i for i, label in enumerate(scale)}
    ranks = np.stack([told[place].map(rank).to_numpy() for place in places], axis=1).astype(np.int64)
    votes = (ranks[:, :, None] == np.arange(len(scale))).sum(axis=1)
    judged = np.asarray(told[GOLD].map(rank) if GOLD in told else np.full(len(told), np.nan), dtype=np.float64)
    gold = _Gold(judged, weight)
    pairs = [_pair(told, a, b, scale, draws) for a in places for b in places if a < b]
    several = len(told) > 0 and int((votes.sum(axis=0) > 0).sum()) > 1
    alpha = {
        level: float(krippendorff.alpha(value_counts=votes, level_of_measurement=level)) if several else None
        for level in ("nominal", "ordinal")
    }
    return SettingPairs(
        n=len(told),
        krippendorff_nominal=alpha["nominal"],
        krippendorff_ordinal=alpha["ordinal"],
        pairs=tuple(pairs),
        runs=tuple(_standing(ranks, votes, place, gold, scale) for place in places),
        majority=_majority(votes, gold, scale),
    )


def _pair(told: pd.DataFrame, first: int, second: int, scale: Sequence[str], draws: Draws) -> Pair:
    pairs = metrics.pairs(told[first].to_numpy(), told[second].to_numpy(), scale)
    resampled = draws.sum(pairs)
    agreement, kappa, quadratic = (
        figures.of_pairs(m, pairs, resampled, scale, draws.occupations)
        for m in ("accuracy", "kappa", "kappa_quadratic")
    )
    return Pair(
        first=first,
        second=second,
        n=len(told),
        agreement=known(agreement.value),
        agreement_ci95=agreement.bounds() if len(told) else None,
        kappa=known(kappa.value),
        kappa_ci95=kappa.bounds() if math.isfinite(kappa.value) else None,
        kappa_quadratic=known(quadratic.value),
    )


def _standing(ranks: Votes, votes: Votes, place: int, gold: _Gold, scale: Sequence[str]) -> Standing:
    own = ranks[:, place]
    others = votes - (own[:, None] == np.arange(len(scale)))
    label, tied = _most(others)
    shares = np.bincount(own, minlength=len(scale)) / max(len(own), 1)
    at = gold.known
    counts = np.zeros((len(scale), len(scale)))
    np.add.at(counts, (gold.places[at].astype(int), own[at]), gold.weight[at])
    return Standing(
        prevalence={name: float(share) for name, share in zip(scale, shares, strict=True)},
        with_others=float((own == label)[~tied].mean()) if (~tied).any() else None,
        with_others_n=int((~tied).sum()),
        gold_accuracy=known(metrics.accuracy(counts)),
        gold_kappa=known(metrics.kappa(counts)),
    )


def _majority(votes: Votes, gold: _Gold, scale: Sequence[str]) -> Majority:
    label, tied = _most(votes)
    at = gold.known
    right = (label == gold.places) & ~tied
    return Majority(
        labels={name: int(((label == i) & ~tied).sum()) for i, name in enumerate(scale)},
        tied=int(tied.sum()),
        unanimous=float(((votes > 0).sum(axis=1) == 1).mean()) if len(votes) else 0.0,
        gold_accuracy=float(np.average(right[at], weights=gold.weight[at])) if at.any() else None,
    )


def _most(votes: Votes) -> tuple[Votes, npt.NDArray[np.bool_]]:
    """The label with most votes by task, and whether another has as many."""
    best = votes.max(axis=1, initial=0)
    return votes.argmax(axis=1), (votes == best[:, None]).sum(axis=1) > 1


def _disputed(raters: Raters, count: int) -> tuple[Disputed, ...]:
    labels = raters.labels[raters.main][list(range(count))]
    differ = labels.nunique(axis=1) > 1
    if raters.main_measure is None:
        spread = labels[differ].nunique(axis=1) * 0.0
    else:
        spread = raters.values[raters.main_measure][list(range(count))][differ].std(axis=1, ddof=0).fillna(0.0)
    order = spread.sort_values(ascending=False, kind="stable").index
    shown_labels = labels.loc[order].astype(object)
    rows = shown_labels.where(shown_labels.notna(), None).to_numpy()
    return tuple(
        Disputed(onet_soc_code=str(code), task_id=str(task), labels=tuple(row), spread=float(by))
        for (code, task), row, by in zip(order, rows, spread.loc[order].to_numpy(), strict=True)
    )


def _verdict(raters: Raters, found: SettingPairs, means: Mapping[Measure, tuple[float, ...]]) -> list[str]:
    if not found.n:
        return ["No task has a label in all runs."]
    said = [
        f"{raters.main}: {100 * found.majority.unanimous:.1f} % of {found.n:,} tasks have one label in all "
        f"{len(raters.names)} runs; Krippendorff's alpha is {shown(found.krippendorff_nominal)}."
    ]
    apart = [pair for pair in found.pairs if pair.kappa is not None]
    if apart:
        best, worst = (pick(apart, key=lambda pair: pair.kappa or 0.0) for pick in (max, min))
        said.append(
            f"Closest are {raters.names[best.first]} and {raters.names[best.second]} (kappa {shown(best.kappa)}), "
            f"farthest {raters.names[worst.first]} and {raters.names[worst.second]} (kappa {shown(worst.kappa)})."
        )
    for measure, by_run in means.items():
        low, high = min(by_run), max(by_run)
        times = f", a factor of {high / low:.1f}" if low > 0 else ""
        said.append(
            f"Mean {measure} goes from {shown(low)} ({raters.names[by_run.index(low)]}) to {shown(high)} "
            f"({raters.names[by_run.index(high)]}){times}."
        )
    return said
