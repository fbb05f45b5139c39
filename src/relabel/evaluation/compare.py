"""Compares runs on the same tasks: changes between two runs, or agreement among several.

Shares are 0-1 and unrounded. Differences are the second run minus the first, paired by task. Undefined figures are null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.evaluation import statistics as metrics
from relabel.evaluation.alignment import GOLD, AlignedLabels, Pair, TaskTexts, align
from relabel.evaluation.document import SCALES, Bootstrap, Bounds, NamedTask, SettingName
from relabel.evaluation.gold import Gold, asked, missing_in_words
from relabel.evaluation.statistics import DRAWS, Figure, Ints, change, or_none
from relabel.rubric import Measure
from relabel.run import Run, changed_rubrics
from relabel.settings import Frozen
from relabel.tabular import counted
from relabel.tabular import figure as shown
from relabel.task import TASK_KEY


class Difference(Frozen):
    """A figure of both runs, and its paired change."""

    first: float | None
    second: float | None
    difference: float | None
    ci95: Bounds | None


class Agreement(Frozen):
    """Share of equal labels, and Cohen's kappa between two runs, on n tasks with a label of both."""

    n: int
    agreement: float | None
    agreement_ci95: Bounds | None
    kappa: float | None


class SettingComparison(Agreement):
    """Changes of the labels in one setting.

    Attributes:
        changed: Number of tasks whose label changed.
        transitions: Counts by label of the first run, then by label of the second.
        prevalence: Share of each label, by run.
    """

    changed: int
    kappa_ci95: Bounds | None
    transitions: Mapping[str, Mapping[str, int]]
    prevalence: Mapping[str, Difference]


class GoldComparison(Frozen):
    """Both runs against a gold, on the n tasks with a label of all three.

    Attributes:
        metrics: Each figure of agreement with the gold.
        better, worse: Number of tasks that only the second run has right, and that only the first has right.
    """

    n: int
    metrics: Mapping[str, Difference]
    better: int
    worse: int


class MeasureComparison(Difference):
    """Unweighted mean of a measure over the n tasks with a value in both runs."""

    n: int


class Flip(NamedTask):
    """A task whose measure changed.

    Attributes:
        first, second: Labels of the first and of the second run by setting.
        change: Change of the task's value, by measure.
        effect: Change of the occupation's mean of the main measure due to this task alone.
    """

    first: Mapping[SettingName, str | None]
    second: Mapping[SettingName, str | None]
    change: Mapping[Measure, float]
    effect: float


class OccupationMove(Frozen):
    """Unweighted means of the measures over an occupation's common tasks, by the first and the second run."""

    onet_soc_code: str
    title: str = ""
    tasks: int
    flips: int
    measures: Mapping[Measure, tuple[float, float]]
    move: float


class SliceAgreement(Agreement):
    """Agreement of the runs on some of the tasks."""

    occupations: int
    difference: float | None
    difference_ci95: Bounds | None


class Comparison(Frozen):
    """Fields that all comparisons share.

    Attributes:
        runs, models: The runs, as the user named them, and the models asked.
        common: Number of tasks in all runs.
        gold: Name of the gold; null without one.
        main_setting: Setting of slices, and of disputed tasks' labels.
        bootstrap: How intervals were computed.
        verdict: The result in words, one sentence per line.
    """

    kind: str
    runs: tuple[str, ...]
    models: tuple[str, ...]
    common: int
    gold: str | None
    main_setting: SettingName
    bootstrap: Bootstrap
    verdict: str


class CompareDocument(Comparison):
    """Two runs, paired by task.

    Attributes:
        only: Number of tasks that are only in the first, and only in the second run.
        settings: Changes by setting.
        measures: Changes of means by measure.
        against_gold: Both runs against the gold, by setting.
        main_measure: Measure used for effects of flips, and changes of occupations and slices.
        flips: Tasks whose value changed in any measure, largest effect first.
        occupations: Occupations whose mean changed, largest change first.
        slices: Agreement by slice: `soc_major` by two digits, `task_type` if the task list is on this machine.
    """

    kind: str = "pair"
    only: tuple[int, int]
    settings: Mapping[SettingName, SettingComparison]
    measures: Mapping[Measure, MeasureComparison]
    against_gold: Mapping[SettingName, GoldComparison]
    main_measure: Measure | None
    flips: tuple[Flip, ...]
    occupations: tuple[OccupationMove, ...]
    slices: Mapping[str, Mapping[str, SliceAgreement]]


class RaterPair(Agreement):
    """Agreement of two raters; `first` and `second` are the numbers of the runs, from 0."""

    first: int
    second: int
    kappa_ci95: Bounds | None
    kappa_quadratic: float | None


class RankedRun(Frozen):
    """One run compared with the others.

    Attributes:
        prevalence: Share of each of its labels.
        gold_accuracy, gold_kappa: Agreement with the gold on tasks with a label of all runs and the gold, with the gold's
            weights.
    """

    prevalence: Mapping[str, float]
    gold_accuracy: float | None
    gold_kappa: float | None


class Majority(Frozen):
    """The majority label of all runs.

    Attributes:
        labels, tied: Number of tasks by majority label, and of tasks without one.
        unanimous: Share of tasks on which all runs agree.
        gold_accuracy: Accuracy of the majority against the gold, on the same tasks and with the same weights as that of the
            runs; a tie counts as wrong.
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
    pairs: tuple[RaterPair, ...]
    runs: tuple[RankedRun, ...]
    majority: Majority


class Disputed(NamedTask):
    """A task on which the runs differ.

    Attributes:
        labels: Label by run, in the runs' order, in the main setting.
        spread: Standard deviation (0-0.5) of the main measure's values over the runs.
    """

    labels: tuple[str | None, ...]
    spread: float


class PairwiseDocument(Comparison):
    """Three runs or more.

    Attributes:
        alone: By run, number of tasks that are not in all other runs.
        settings: Agreement by setting.
        means: Mean of each measure by run, over tasks with a value in all.
        disputed: Tasks on which the runs differ, largest spread first.
    """

    kind: str = "several"
    alone: tuple[int, ...]
    settings: Mapping[SettingName, SettingPairs]
    means: Mapping[Measure, tuple[float, ...]]
    disputed: tuple[Disputed, ...]


def compare(
    first: Run,
    second: Run,
    gold: Gold | None = None,
    *,
    details: pd.DataFrame | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> CompareDocument:
    """Compare two runs on their common tasks.

    Args:
        first: The first run.
        second: The second run; differences are second minus first.
        gold: A gold that both are compared with.
        details: Task table (`relabel.task.task_schema`) for titles, statements and slices by task type; without it these
            are left out.
        draws: Number of bootstrap draws of occupations.
        seed: Seed of the draws.

    Raises:
        DataError: The runs share no task or no setting, or the first shares no task with the gold.
    """
    with_gold = align((first, second), gold).with_draws(draws, seed)
    aligned = with_gold.unique_tasks
    settings: dict[SettingName, SettingComparison] = {s: _setting(aligned, s) for s in aligned.labels}
    measures: dict[Measure, MeasureComparison] = {m: _measure(aligned, m) for m in aligned.values}
    against = _against_gold(with_gold) if gold is not None else {}
    texts = TaskTexts(details)
    return CompareDocument(
        **_common_fields((first, second), gold, with_gold, _verdict(aligned, settings, measures, against), draws, seed),
        only=(aligned.only[0], aligned.only[1]),
        settings=settings,
        measures=measures,
        against_gold=against,
        main_measure=aligned.main_measure,
        flips=flips_of(aligned, 0, 1, texts),
        occupations=_moves(aligned, texts),
        slices=_slices(aligned, details),
    )


def _common_fields(
    runs: Sequence[Run], gold: Gold | None, aligned: AlignedLabels, verdict: Sequence[str], draws: int, seed: int
) -> dict[str, Any]:
    """Fields that both kinds of document share; the verdict starts with caveats."""
    sentences = [*(gold.caveats if gold else ()), *changed_rubrics(gold and gold.run, *runs)]
    rubrics = {run.ref: f"{run.rubric.id} version {run.rubric.version}" for run in runs}
    if len(set(rubrics.values())) > 1:
        each = ", ".join(f"{rubric} in {ref}" for ref, rubric in rubrics.items())
        sentences.insert(0, f"The rubrics differ: {each}. A difference between labels may be the rubric's.")
    for number, run in enumerate(runs if gold else ()):
        sentences += aligned.pair(aligned.main, number).same_labels(run.ref, gold.name if gold else "")
    aligned = aligned.unique_tasks
    if others := aligned.texts_replaced:
        have = f"{len(others):,} task{' has' if len(others) == 1 else 's have'}"
        sentences.append(f"{have} another statement under the same id, such as {others[0].task_id}: left out.")
    sentences += [f"Few occupations: {aligned.few_occupations}."] if aligned.few_occupations else []
    for run in runs:
        sentences += [*run.warnings(), *run.ties_in_words(), *missing_in_words(*asked(run), run.name)]
    return {
        "runs": aligned.names,
        "models": tuple(run.manifest.model for run in runs),
        "common": len(aligned),
        "gold": None if gold is None else gold.name,
        "main_setting": aligned.main,
        "bootstrap": Bootstrap(draws=draws, seed=seed, note=aligned.few_occupations),
        "verdict": "\n".join([*sentences, *verdict]),
    }


def _difference(first: Figure, second: Figure, occupations: int) -> Difference:
    """A figure of both runs, and its paired change with an interval; arguments as for `statistics.change`."""
    moved = change(first, second, occupations)
    return Difference(
        first=or_none(first.value), second=or_none(second.value), difference=or_none(moved.value), ci95=moved.interval()
    )


def _bounded(pair: Pair, *names: str) -> dict[str, Any]:
    """Figures by their names in the document; all except `kappa_quadratic` have an interval."""
    figures = {"agreement" if name == "accuracy" else name: pair.figure(name) for name in names}
    bounds = {f"{name}_ci95": figure.interval() for name, figure in figures.items() if name != "kappa_quadratic"}
    return {name: or_none(figure.value) for name, figure in figures.items()} | bounds


def _setting(aligned: AlignedLabels, setting: SettingName) -> SettingComparison:
    pair = aligned.pair(setting, 1, 0, weighted=False)
    shares: dict[str, Difference] = {}
    for position, label in enumerate(pair.scale):
        changed = pair.occupations((pair.gold == position) != (pair.run == position))
        shares[label] = _difference(pair.figure(f"gold:{label}"), pair.figure(f"run:{label}"), changed)
    return SettingComparison(
        n=len(pair),
        changed=int((pair.gold != pair.run).sum()),
        **_bounded(pair, "accuracy", "kappa"),
        transitions=metrics.cross_table(pair.sums.total[0], pair.scale),
        prevalence=shares,
    )


def _measure(aligned: AlignedLabels, measure: Measure, keep: npt.NDArray[np.bool_] | None = None) -> MeasureComparison:
    common = aligned.labelled(measure, 0, 1)
    pair = aligned.pair(measure, 1, 0, keep=common if keep is None else common & keep, weighted=False)
    difference = _difference(pair.figure("gold_mean"), pair.figure("mean"), pair.occupations(pair.gold != pair.run))
    return MeasureComparison(n=len(pair), **difference.model_dump())


def _against_gold(aligned: AlignedLabels) -> dict[SettingName, GoldComparison]:
    comparisons: dict[SettingName, GoldComparison] = {}
    for setting in aligned.labels:
        if not (keep := aligned.labelled(setting)).any():
            continue
        first, second = (aligned.pair(setting, rater, GOLD, keep=keep) for rater in (0, 1))
        moved = first.differ(second)
        names = (*metrics.FIGURES, *(f"f1:{label}" for label in first.scale))
        advantage = (second.run == second.gold).astype(int) - (first.run == first.gold)
        advantage = np.bincount(first.task, weights=advantage)
        comparisons[setting] = GoldComparison(
            n=first.n,
            metrics={name: _difference(first.figure(name), second.figure(name), moved) for name in names},
            better=int((advantage > 0).sum()),
            worse=int((advantage < 0).sum()),
        )
    return comparisons


def flips_of(aligned: AlignedLabels, first: int, second: int, texts: TaskTexts) -> tuple[Flip, ...]:
    """Tasks whose value differs between two raters in any measure, largest effect first; empty without a main measure."""
    if aligned.main_measure is None:
        return ()
    once = aligned.unique_tasks
    changes: dict[Measure, Any] = {m: v[:, second] - v[:, first] for m, v in once.values.items()}
    main = pd.Series(changes[aligned.main_measure])
    effects = main.fillna(0.0) / main.notna().groupby(once.codes).transform("sum")
    changed = np.any([np.nan_to_num(v[:, second] - v[:, first]) != 0 for v in once.voted.values()], axis=0)
    keys = once.index()
    labels: list[dict[SettingName, Any]] = [
        {s: once.words(s, n).to_numpy() for s in once.labels} for n in (first, second)
    ]
    return tuple(
        Flip(
            **texts.about(*keys[position]),
            first={s: words[position] for s, words in labels[0].items()},
            second={s: words[position] for s, words in labels[1].items()},
            change={m: difference[position] for m, difference in changes.items() if np.isfinite(difference[position])},
            effect=np.nan_to_num(effects[position]),
        )
        for position in effects[changed].fillna(0.0).sort_values(key=np.abs, ascending=False, kind="stable").index
    )


def _moves(aligned: AlignedLabels, texts: TaskTexts) -> tuple[OccupationMove, ...]:
    if aligned.main_measure is None:
        return ()
    values: dict[Measure, Any] = {
        m: pd.DataFrame(v[:, :2], index=aligned.codes).dropna() for m, v in aligned.values.items()
    }
    means: dict[Measure, Any] = {m: table.groupby(level=0).mean() for m, table in values.items()}
    main, mean = values[aligned.main_measure], means[aligned.main_measure]
    counts = (main[0] != main[1]).groupby(level=0).agg(["size", "sum"])
    move = (mean[1] - mean[0])[counts["sum"] > 0]
    return tuple(
        OccupationMove(
            onet_soc_code=code,
            title=texts.title(code),
            tasks=int(counts["size"][code]),
            flips=int(counts["sum"][code]),
            measures={m: tuple(t.loc[code]) for m, t in means.items() if code in t.index},
            move=move[code],
        )
        for code in move.sort_values(key=np.abs, ascending=False, kind="stable").index
    )


def _slices(aligned: AlignedLabels, details: pd.DataFrame | None) -> dict[str, dict[str, SliceAgreement]]:
    groups = {"soc_major": aligned.tasks["onet_soc_code"].str[:2]}
    if details is not None:
        kinds = details.set_index(TASK_KEY)["task_type"].reindex(aligned.index()).reset_index(drop=True)
        if kinds.notna().any():
            groups["task_type"] = kinds.fillna("not stated")
    return {
        kind: {str(name): _slice(aligned, (group == name).to_numpy()) for name in sorted(group.unique())}
        for kind, group in groups.items()
    }


def _slice(aligned: AlignedLabels, mask: npt.NDArray[np.bool_]) -> SliceAgreement:
    keep = aligned.labelled(aligned.main, 0, 1) & mask
    pair = aligned.pair(aligned.main, 1, 0, keep=keep, weighted=False)
    moved = None if aligned.main_measure is None else _measure(aligned, aligned.main_measure, mask)
    return SliceAgreement(
        n=len(pair),
        occupations=pair.figure("accuracy").occupations,
        **_bounded(pair, "accuracy"),
        kappa=or_none(pair.figure("kappa").value),
        difference=None if moved is None else moved.difference,
        difference_ci95=None if moved is None else moved.ci95,
    )


def _verdict(
    aligned: AlignedLabels,
    settings: Mapping[SettingName, SettingComparison],
    measures: Mapping[Measure, MeasureComparison],
    against: Mapping[SettingName, GoldComparison],
) -> list[str]:
    main = settings[aligned.main]
    if not main.n:
        return ["No task has a label in both runs."]
    tasks = counted(main.n, "task")
    if not any(comparison.changed for comparison in settings.values()):
        return [
            f"The runs are identical: they give all {tasks} the same label{' in every setting' * (len(settings) > 1)}."
        ]
    kappa = "" if main.kappa is None else f" (kappa {shown(main.kappa)})"
    sentences = [
        f"{aligned.main}: the runs agree on {100 * (main.agreement or 0):.1f}% of {tasks}{kappa}; {counted(main.changed, 'label')} changed."
    ]
    for measure, moved in measures.items():
        if moved.difference is None:
            continue
        low, high = moved.ci95 or (0, 0)
        verb = "falls" if high < 0 else "rises" if low > 0 else "goes"
        chance = ", which may be chance" if verb == "goes" and moved.difference else ""
        bounds = f"95% interval {low:+.3f} to {high:+.3f}" if moved.ci95 else "without an interval"
        sentences.append(
            f"Mean {measure} {verb} from {shown(moved.first)} to {shown(moved.second)}{chance} "
            f"({moved.difference:+.3f}, {bounds})."
        )
    if aligned.main in against and (lead := against[aligned.main].metrics["accuracy"]).ci95 is not None:
        low, high = lead.ci95
        outcome = "neither run is shown to be better"
        if high < 0 or low > 0:
            outcome = f"the second run is {'worse' if high < 0 else 'better'} than the first"
        figures = f"accuracy {shown(lead.second)} against {shown(lead.first)}, change {low:+.3f} to {high:+.3f}"
        sentences.append(f"Against the gold {outcome} ({figures}).")
    return sentences


def compare_several(
    runs: Sequence[Run],
    gold: Gold | None = None,
    *,
    details: pd.DataFrame | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> PairwiseDocument:
    """Compare three or more runs on their common tasks; arguments and errors as for `compare`."""
    with_gold = align(runs, gold).with_draws(draws, seed)
    aligned = with_gold.unique_tasks
    settings: dict[SettingName, SettingPairs] = {s: _pairs(with_gold, s, len(runs)) for s in aligned.labels}
    raters = range(len(runs))
    means: dict[Measure, tuple[float, ...]] = {
        m: tuple(table[common][:, raters].mean(axis=0).tolist())
        for m, table in aligned.values.items()
        if (common := aligned.labelled(m, *raters)).any()
    }
    return PairwiseDocument(
        **_common_fields(runs, gold, with_gold, _several_verdict(aligned, settings[aligned.main], means), draws, seed),
        alone=aligned.only,
        settings=settings,
        means=means,
        disputed=_disputed(aligned, len(runs), TaskTexts(details)),
    )


def _pairs(aligned: AlignedLabels, setting: SettingName, count: int) -> SettingPairs:
    scale, raters = SCALES[setting], range(count)
    once = aligned.unique_tasks
    keep = once.labelled(setting, *raters)
    ranks = once.labels[setting][keep, :count]
    votes = _votes(ranks, len(scale))
    # Tasks with a label of all runs and the gold; none without a gold.
    judged = aligned.labelled(setting) & (aligned.labels[setting].shape[1] > count)
    judged_ranks, weight = aligned.labels[setting][judged], aligned.weight[judged]

    def ranked(rater: int) -> RankedRun:
        shares = np.bincount(ranks[:, rater], minlength=len(scale)) / max(len(ranks), 1)
        confusion = metrics.pairs(judged_ranks[:, GOLD], judged_ranks[:, rater], len(scale)) * weight[:, None, None]
        return RankedRun(
            prevalence=dict(zip(scale, shares.tolist(), strict=True)),
            gold_accuracy=or_none(metrics.accuracy(confusion.sum(axis=0))),
            gold_kappa=or_none(metrics.kappa(confusion.sum(axis=0))),
        )

    label, tied = _most_votes(votes)
    gold_label, gold_tied = _most_votes(_votes(judged_ranks[:, :count], len(scale)))
    right = (gold_label == judged_ranks[:, GOLD]) & ~gold_tied
    return SettingPairs(
        n=len(ranks),
        krippendorff_nominal=metrics.krippendorff_several(votes, "nominal"),
        krippendorff_ordinal=metrics.krippendorff_several(votes, "ordinal"),
        pairs=tuple(
            RaterPair(first=a, second=b, n=len(pair), **_bounded(pair, "accuracy", "kappa", "kappa_quadratic"))
            for a, b in combinations(raters, 2)
            for pair in [once.pair(setting, b, a, keep=keep, weighted=False)]
        ),
        runs=tuple(ranked(rater) for rater in raters),
        majority=Majority(
            labels=dict(zip(scale, np.bincount(label[~tied], minlength=len(scale)).tolist(), strict=True)),
            tied=int(tied.sum()),
            unanimous=float(((votes > 0).sum(axis=1) == 1).mean()) if len(votes) else 0.0,
            gold_accuracy=float(np.average(right, weights=weight)) if len(right) else None,
        ),
    )


def _votes(ranks: Ints, size: int) -> Ints:
    """Number of raters by task and label, shape (n, size), from their labels, shape (n, raters)."""
    return (ranks[:, :, None] == np.arange(size)).sum(axis=1)


def _most_votes(votes: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """The label with most votes for each task, and whether it is tied."""
    best = votes.max(axis=1, initial=0)
    return votes.argmax(axis=1), (votes == best[:, None]).sum(axis=1) > 1


def _disputed(aligned: AlignedLabels, count: int, texts: TaskTexts) -> tuple[Disputed, ...]:
    labels = pd.DataFrame({n: aligned.words(aligned.main, n) for n in range(count)})
    main = aligned.main_measure
    values = np.zeros((len(aligned), 1)) if main is None else aligned.values[main][:, :count]
    spread = pd.DataFrame(values).std(axis=1, ddof=0).fillna(0.0)[labels.nunique(axis=1) > 1]
    keys, rows = aligned.index(), labels.astype(object).where(labels.notna(), None).to_numpy()
    return tuple(
        Disputed(**texts.about(*keys[position]), labels=tuple(rows[position]), spread=spread[position])
        for position in spread.sort_values(ascending=False, kind="stable").index
    )


def _several_verdict(
    aligned: AlignedLabels, main: SettingPairs, means: Mapping[Measure, tuple[float, ...]]
) -> list[str]:
    if not main.n:
        return ["No task has a label in all runs."]
    if main.majority.unanimous == 1:
        return [f"{aligned.main}: the runs are identical: they give all {main.n:,} tasks the same label."]
    sentences = [
        f"{aligned.main}: {100 * main.majority.unanimous:.1f}% of {main.n:,} tasks have one label in all "
        f"{len(aligned.names)} runs; Krippendorff's alpha is {shown(main.krippendorff_nominal)}."
    ]
    with_kappa = [pair for pair in main.pairs if pair.kappa is not None]
    if with_kappa:
        best, worst = (pick(with_kappa, key=lambda pair: pair.kappa or 0.0) for pick in (max, min))
        sentences.append(
            f"Closest are {aligned.names[best.first]} and {aligned.names[best.second]} (kappa {shown(best.kappa)}), "
            f"farthest {aligned.names[worst.first]} and {aligned.names[worst.second]} (kappa {shown(worst.kappa)})."
        )
    for measure, by_run in means.items():
        low, high = min(by_run), max(by_run)
        times = f", a factor of {high / low:.1f}" if low > 0 else ""
        sentences.append(
            f"Mean {measure} goes from {shown(low)} ({aligned.names[by_run.index(low)]}) to {shown(high)} "
            f"({aligned.names[by_run.index(high)]}){times}."
        )
    return sentences
