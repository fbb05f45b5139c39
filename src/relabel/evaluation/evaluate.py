"""Evaluating a run against a gold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd

from relabel.errors import DataError
from relabel.evaluation import document as doc
from relabel.evaluation import metrics
from relabel.evaluation.alignment import (
    GOLD,
    MAIN,
    AlignedLabels,
    Pair,
    asked,
    gold_list,
    is_local,
    local_tasks,
    match,
    mean_one,
)
from relabel.evaluation.document import SettingName
from relabel.evaluation.gold import Gold
from relabel.evaluation.intervals import (
    CORRELATION,
    DRAWS,
    Array,
    Draws,
    Sums,
    ci95,
    drawn_ranks,
    few_occupations,
    occupation_draws,
)
from relabel.evaluation.ppi import debiased
from relabel.evaluation.verdict import caveats, verdict
from relabel.evaluation.yardsticks import all_yardsticks, majority_class
from relabel.rubric import Measure
from relabel.run import Run, changed_rubrics
from relabel.task import TASK_KEY

RATED_BY = "onet-30.2"
"""Release whose importance ratings stand in for a list without any."""
BINS = 10
"""Bins of the reliability curve, of equal width from 0 to 1."""
_IMPORTANCE = (3.0, 3.5, 4.0, 4.5)
_LENGTH = (60, 100, 150)
_MEANS = {"brier": -1, "probability": -3, "accuracy": -2}
"""Where the sums of `reliability` hold what these are means of."""
_FEW_IDS = 20
"""Agreement on fewer tasks does not say whether a gold's ids are the run's."""
_CHANCE = 0.05
"""Kappa up to which ids that were matched without codes are suspected to be row numbers."""


def evaluate(
    run: Run,
    gold: Gold,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    yardsticks: bool = True,
    by_model: bool = False,
) -> doc.EvalDocument:
    """Evaluate a run against a gold.

    Args:
        run: The run; of several samples of a task the most frequent label counts.
        gold: The gold, taken as the truth.
        draws: Bootstrap draws behind the intervals; 0 leaves the intervals out.
        seed: Seed of the draws, and of the yardstick that is trained.
        yardsticks: False leaves out all yardsticks but the majority class.
        by_model: Whether to evaluate the labels of each model apart, where several models answered.

    Returns:
        The eval document: shares on 0-1, unrounded.

    Raises:
        DataError: Run and gold share no task, no setting or no label; the gold's ids are not those of the run's tasks; or
            the model was shown a task of the gold as a worked example.
    """
    refuse_worked_examples(run, gold)
    aligned = match(run, gold).with_draws(draws, seed)
    pairs: dict[SettingName, Pair] = {s: aligned.pair(s) for s in aligned.labels}
    filled: dict[SettingName, Pair] = {s: pair for s, pair in pairs.items() if len(pair)}
    values: dict[Measure, Pair] = {m: aligned.pair(m) for m in aligned.values}
    settings: dict[SettingName, doc.SettingMetrics] = {s: setting_metrics(pair) for s, pair in pairs.items()}
    facts = task_facts(run, gold, aligned)
    is_gold = run.folder is None and run.ref == gold.name
    beside = doc.Yardsticks(majority={s: majority_class(pair, aligned.codes) for s, pair in filled.items()})
    if yardsticks:
        texts = facts["text"] if "text" in facts else pd.Series(None, index=aligned.tasks.index, dtype="str")
        held = all_yardsticks(run, gold, aligned, filled, texts, seed=seed, is_gold=is_gold)
        beside = beside.model_copy(update=held)
    total, unanswered = asked(run)
    units = len(np.unique(aligned.codes))
    method = doc.IntervalMethod(draws=draws, seed=seed, units=units, note=few_occupations(units)) if draws else None
    coherence = _coherence(run)
    warnings = (
        *caveats(gold),
        *changed_rubrics(*(each for each in (gold.run, run) if each is not None)),
        *_doubtful_ids(gold, run, pairs),
        *aligned.warnings,
        *run.warnings(),
    )
    words = verdict(
        settings,
        beside,
        model=run.manifest.model,
        is_gold=is_gold,
        unanswered={s: count / total for s, count in unanswered.items() if count},
        coherence=coherence,
        warnings=warnings,
    )
    return doc.EvalDocument(
        run=run.ref,
        gold=gold.name,
        gold_sha256=gold.sha256,
        matched=len(aligned.index().unique()),
        unmatched=aligned.unmatched or {},
        asked=total,
        unanswered=unanswered,
        text_changed=aligned.text_changed,
        texts_replaced=aligned.texts_replaced,
        settings=settings,
        measures={m: _measure_agreement(pair) for m, pair in values.items()},
        occupations=_occupations(aligned, values),
        coherence=coherence,
        yardsticks=beside,
        model=run.manifest.model,
        weighted=gold.weighted,
        selected=gold.selected,
        intervals=method,
        slices=slices(facts, filled, values),
        debiased=debiased(run, gold, aligned),
        calibration=calibration(run, aligned),
        sources=doc.Sources(run=run.manifest.sources, gold=(gold.source,)),
        warnings=warnings,
        models=run.models(),
        by_model=_by_model(run, gold, draws, seed) if by_model else None,
        repeats_from_cache=run.repeats_from_cache,
        verdict=words,
    )


def refuse_worked_examples(run: Run, gold: Gold) -> None:
    """Make sure that no task of the gold is a worked example of the run's rubric: the model was shown its label.

    Tasks are compared by text, blanks, case and punctuation aside: that of the gold's file, or of the task list that its
    ids belong to.

    Raises:
        DataError: One is.
    """
    examples = {_plain(example.task) for example in run.rubric.examples if example.task}
    if not examples:
        return
    texts = gold.table["text"]
    name = gold_list(gold, run)
    if texts.isna().all() and is_local(name):
        by_id = local_tasks(name).drop_duplicates("task_id").set_index("task_id")["text"]
        texts = gold.table["task_id"].map(by_id)
    shown = texts.dropna().map(_plain).isin(examples)
    if shown.any():
        first = shown[shown].index[0]
        raise DataError(
            f"the task {gold.table['task_id'][first]!r} of the gold {gold.name} is a worked example of the rubric "
            f"{run.rubric.id}, so the model was shown its label; take it out of the gold, or label with another rubric"
        )


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def _doubtful_ids(gold: Gold, run: Run, pairs: Mapping[SettingName, Pair]) -> list[str]:
    """What is to be said of ids that were matched without codes and agree by chance only: they may be row numbers.

    Raises:
        DataError: They are 1, 2, 3 and so on, and the run's list is O*NET's.
    """
    table = gold.table
    main = next((pairs[s] for s in MAIN if s in pairs), None)
    if table["onet_soc_code"].notna().any() or table["text"].notna().any() or main is None or len(main) < _FEW_IDS:
        return []
    kappa = main.figure("kappa").value
    if kappa > _CHANCE:
        return []
    ids = sorted(int(x) for x in table["task_id"] if x.isdecimal())
    rows = len(ids) == len(table) and ids == list(range(ids[0], ids[0] + len(ids))) and ids[0] in (0, 1, 2)
    if rows and run.manifest.tasks.startswith(("onet-", "eloundou-")):
        raise DataError(
            f"the ids of the gold {gold.name} run from {ids[0]} to {ids[-1]} like row numbers, and its labels agree with "
            f"the run's by chance only (kappa {kappa:.2f}); give it O*NET task ids, with a column onet_soc_code"
        )
    return [
        f"The gold has no occupation codes, and its labels agree with the run's by chance only (kappa {kappa:.2f}): check "
        "that its task_id holds the ids of these tasks."
    ]


def _by_model(run: Run, gold: Gold, draws: int, seed: int) -> dict[str, dict[SettingName, doc.SliceFigures]]:
    found: dict[str, dict[SettingName, doc.SliceFigures]] = {}
    for model in run.models():
        part = replace(run, labels=run.labels[run.labels["model_returned"].fillna("unknown") == model])
        try:
            aligned = match(part, gold).with_draws(draws, seed)
        except DataError:
            continue  # none of this model's labels has a counterpart in the gold
        found[model] = {s: _figures(pair) for s in aligned.labels if len(pair := aligned.pair(s))}
    return found


def setting_metrics(pair: Pair) -> doc.SettingMetrics:
    """Figures of one setting with their intervals."""
    names = [*metrics.FIGURES, *(f"{kind}:{label}" for kind in ("f1", "gold", "run") for label in pair.scale)]
    counts = metrics.pairs(pair.gold, pair.run, len(pair.scale)).sum(axis=0)
    return metrics.setting_metrics(counts, pair.scale, weighted=pair.sums.total, ci95=pair.intervals(names))


def _measure_agreement(pair: Pair) -> doc.MeasureAgreement:
    found = {name: pair.figure(name) for name in metrics.VALUE_FIGURES}
    values = {name: metrics.known(figure.value) for name, figure in found.items()}
    return doc.MeasureAgreement(**values, ci95=ci95(found, pair.draws))


def _occupations(aligned: AlignedLabels, values: Mapping[Measure, Pair]) -> doc.Occupations:
    found = {measure: _occupation_agreement(aligned.codes[pair.tasks], pair) for measure, pair in values.items()}
    return doc.Occupations.model_validate({"n": len(np.unique(aligned.codes)), **found})


def _occupation_agreement(codes: np.ndarray, pair: Pair) -> doc.OccupationAgreement:
    means = pd.DataFrame({"gold": pair.gold, "run": pair.run}).groupby(codes).mean()
    gold, run = means["gold"].to_numpy(), means["run"].to_numpy()
    # Occupations that a measure knows nothing of drop out; the codes of the rest are sorted as in `means`.
    draws = None if pair.draws is None else replace(pair.draws, place=np.unique(pair.draws.place))
    figures = {"pearson": Sums(metrics.task_values(gold, run), draws).figure(metrics.correlation, CORRELATION)}
    ranks = means.rank() - (len(means) + 1) / 2
    spearman = Sums(metrics.moments(ranks["gold"], ranks["run"]), draws).figure(metrics.correlation, CORRELATION)
    if draws is not None:
        counts = draws.counts[:, draws.place]
        x, y = (drawn_ranks(counts, side) for side in (gold, run))
        # Each draw has ranks of its own.
        parts = [counts.sum(axis=1), *((counts * each).sum(axis=1) for each in (x, y, x * x, y * y, x * y))]
        spearman = replace(spearman, draws=metrics.correlation(np.stack(parts, axis=1)))
    figures["spearman"] = spearman
    apart = np.stack([np.abs(run - gold), np.ones(len(means))], axis=1)
    figures["mean_abs_difference"] = Sums(apart, draws).figure(_mean)
    if len(means) < 3:
        figures |= {name: replace(figures[name], value=math.nan) for name in ("pearson", "spearman")}
    found = {name: metrics.known(figure.value) for name, figure in figures.items()}
    return doc.OccupationAgreement(**found, ci95=ci95(figures, draws))


def _mean(sums: Array) -> Array:
    return metrics.ratio(sums[..., 0], sums[..., 1])


def _coherence(run: Run) -> doc.Coherence:
    if run.rubric.incoherent is None:
        return doc.Coherence(incoherent=0, of=0)
    coded = run.coded()
    both = coded["strict"].notna() & coded["with_tools"].notna()
    return doc.Coherence(incoherent=int((coded["incoherent"] & both).sum()), of=int(both.sum()))


def task_facts(run: Run, gold: Gold, aligned: AlignedLabels) -> pd.DataFrame:
    """What is known of the compared tasks without fetching anything.

    Returns:
        Columns `onet_soc_code` and `major_group`, and where a task list is on this machine `text`, `task_type` and
        `importance` (1-5; of `RATED_BY` where the list itself has no ratings); rows as in the alignment.
    """
    codes = aligned.tasks["onet_soc_code"]
    facts = pd.DataFrame({"onet_soc_code": codes, "major_group": codes.str[:2]})
    name = next((n for n in (run.manifest.tasks, gold_list(gold, run)) if is_local(n)), None)
    if name is None:
        return facts
    tasks = local_tasks(name).set_index(TASK_KEY)
    if tasks["importance"].isna().all() and is_local(RATED_BY):
        tasks["importance"] = local_tasks(RATED_BY).set_index(TASK_KEY)["importance"].reindex(tasks.index)
    known = tasks.reindex(aligned.index())
    return facts.assign(**{column: known[column].to_numpy() for column in ("text", "task_type", "importance")})


def slices(
    facts: pd.DataFrame, settings: Mapping[SettingName, Pair], values: Mapping[Measure, Pair]
) -> dict[doc.SliceBy, tuple[doc.Slice, ...]]:
    """Figures by parts of the tasks, each way of slicing in its own order; a way that `task_facts` does not give is absent."""
    ways: dict[doc.SliceBy, tuple[pd.Series, Mapping[str, str]]] = {
        "major-group": (facts["major_group"], doc.MAJOR_GROUPS),
    }
    if "text" in facts:
        kinds = facts["task_type"].str.lower().fillna("none")
        ways["task-type"] = (kinds, {"core": "Core", "supplemental": "Supplemental", "none": "Without a type"})
        if facts["importance"].notna().any():
            ways["importance"] = _banded(facts["importance"], _IMPORTANCE, "importance {}", "Unrated")
        ways["text-length"] = _banded(facts["text"].str.len().astype("float64"), _LENGTH, "{} characters", "No text")
    found: dict[doc.SliceBy, tuple[doc.Slice, ...]] = {}
    for by, (band, titles) in ways.items():
        order = [*titles, *sorted(set(band) - set(titles))]
        present = [value for value in order if (band == value).any()]
        found[by] = tuple(
            _slice(value, titles.get(value, value), facts[band == value], settings, values) for value in present
        )
    return found


def _slice(
    value: str, title: str, facts: pd.DataFrame, settings: Mapping[SettingName, Pair], values: Mapping[Measure, Pair]
) -> doc.Slice:
    parts: dict[SettingName, Pair] = {s: pair.part(np.isin(pair.tasks, facts.index)) for s, pair in settings.items()}
    known: dict[Measure, Pair] = {m: pair.part(np.isin(pair.tasks, facts.index)) for m, pair in values.items()}
    figures: dict[SettingName, doc.SliceFigures] = {s: _figures(pair) for s, pair in parts.items() if len(pair)}
    means: dict[Measure, doc.SliceMeans] = {m: _means(pair) for m, pair in known.items() if len(pair)}
    return doc.Slice(
        value=value,
        title=title,
        n=len(facts),
        occupations=int(facts["onet_soc_code"].nunique()),
        settings=figures,
        measures=means,
    )


def _means(pair: Pair) -> doc.SliceMeans:
    found = {name: pair.figure(name) for name in ("mean", "gold_mean")}
    return doc.SliceMeans(**{name: of.value for name, of in found.items()}, ci95=ci95(found, pair.draws))


def _figures(pair: Pair) -> doc.SliceFigures:
    found = {name: pair.figure(name) for name in metrics.FIGURES}
    values = {name: metrics.known(of.value) for name, of in found.items()}
    return doc.SliceFigures(n=len(pair), **values, ci95=ci95(found, pair.draws))


def _banded(
    numbers: pd.Series, bounds: tuple[float, ...], words: str, without: str
) -> tuple[pd.Series, Mapping[str, str]]:
    """Each number's band, and the bands' titles in order; a bound belongs to the band above it."""
    names = [f"under-{bounds[0]:g}", *(f"{low:g}-{high:g}" for low, high in pairwise(bounds))]
    names.append(f"from-{bounds[-1]:g}")
    place = np.digitize(numbers.to_numpy(dtype=np.float64), bounds)
    band = pd.Series(np.array(names, dtype=object)[np.minimum(place, len(bounds))], index=numbers.index)
    titles = {name: words.format(name.replace("-", " ") if name[0] in "uf" else name) for name in names}
    return band.where(numbers.notna(), "none"), {name: t[0].upper() + t[1:] for name, t in titles.items()} | {
        "none": without
    }


def calibration(run: Run, aligned: AlignedLabels) -> dict[SettingName, doc.Calibration] | None:
    """Reliability of the probabilities that a run gives for its labels, the gold taken as the truth.

    Of several samples of a task each label counts.

    Args:
        run: The run.
        aligned: The run and its gold.

    Returns:
        Figures by setting that the rubric asks about; None when the run has no probabilities for compared tasks.

    Source: Brier 1950; expected calibration error as in Naeini, Cooper and Hauskrecht 2015, with bins of equal width.
    """
    answers = run.answers()
    labels = answers[answers["probability"].notna()] if "probability" in answers else answers.iloc[:0]
    found: dict[SettingName, doc.Calibration] = {}
    for setting in aligned.labels:
        truth = aligned.tasks.assign(truth=aligned.words(setting, GOLD))[aligned.known(setting)]
        rows = labels[labels["setting"] == setting].merge(truth, on=TASK_KEY)
        if len(rows):
            draws = aligned.draws
            found[setting] = reliability(
                rows["probability"].to_numpy(dtype=np.float64),
                (rows["label"] == rows["truth"]).to_numpy(),
                rows["weight"].to_numpy(dtype=np.float64),
                draws and occupation_draws(rows["onet_soc_code"].to_numpy(), len(draws.counts), draws.seed),
            )
    return found or None


def reliability(probability: Array, right: np.ndarray, weight: Array, draws: Draws | None) -> doc.Calibration:
    """Figures of a set of labels.

    Args:
        probability: Probability of each label, 0-1, shape (n,), n at least 1.
        right: Whether it is right, shape (n,).
        weight: Weight of each label, shape (n,).
        draws: Draws for the labels; None leaves the intervals out.
    """
    weight, hit = mean_one(weight), right.astype(np.float64)
    # The upper bound belongs to a bin, so that a probability of 1 falls into the last one.
    bin_of = np.clip(np.ceil(probability * BINS).astype(int) - 1, 0, BINS - 1)
    member = np.zeros((len(hit), BINS))
    member[np.arange(len(hit)), bin_of] = weight
    squared = weight * (probability - hit) ** 2
    # By task: the weight, the probability and the hit in its bin, then the weight, probability, hit and squared error.
    parts = [member, member * probability[:, None], member * hit[:, None]]
    sums = Sums(np.hstack([*parts, np.stack([weight, weight * probability, weight * hit, squared], axis=1)]), draws)

    def ece(of: Array) -> Array:
        gaps = np.abs(of[..., BINS : 2 * BINS] - of[..., 2 * BINS : 3 * BINS]).sum(axis=-1)
        return metrics.ratio(gaps, of[..., -4])

    figures = {
        name: sums.figure(lambda of, at=at: metrics.ratio(of[..., at], of[..., -4])) for name, at in _MEANS.items()
    }
    figures["ece"] = sums.figure(ece)
    curve: list[doc.ReliabilityBin] = []
    for place in np.unique(bin_of):
        here = bin_of == place
        inside = Sums(np.stack([weight * hit, weight], axis=1)[here], draws and draws.of(here)).figure(_mean)
        curve.append(
            doc.ReliabilityBin(
                low=place / BINS,
                high=(place + 1) / BINS,
                n=int(here.sum()),
                probability=float(np.average(probability[here], weights=weight[here])),
                accuracy=inside.value,
                ci95={} if draws is None else {"accuracy": inside.interval()},
            )
        )
    values = {name: figure.value for name, figure in figures.items()}
    return doc.Calibration(n=len(hit), **values, bins=tuple(curve), ci95=ci95(figures, draws))
