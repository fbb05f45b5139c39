"""Evaluating a run against a gold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from relabel.errors import DataError
from relabel.evaluation import document as doc
from relabel.evaluation import intervals, metrics
from relabel.evaluation.alignment import (
    GOLD,
    MAIN,
    AlignedLabels,
    Pair,
    asked,
    gold_list,
    is_local,
    match,
    mean_one,
)
from relabel.evaluation.document import SettingName
from relabel.evaluation.gold import Gold
from relabel.evaluation.intervals import CORRELATION, DRAWS, Array, Bounds, Draws, few_occupations, occupation_draws
from relabel.evaluation.ppi import debiased
from relabel.evaluation.verdict import caveats, verdict
from relabel.evaluation.yardsticks import (
    annotators,
    consistency,
    majority_class,
    raters,
    self_agreement,
    text_classifier,
)
from relabel.rubric import Measure
from relabel.run import Run, changed_rubrics
from relabel.task import TASK_KEY, task_table

RATED_BY = "onet-30.2"
"""Release whose importance ratings stand in for a list without any."""
BINS = 10
"""Bins of the reliability curve, of equal width from 0 to 1."""
_IMPORTANCE = (3.0, 3.5, 4.0, 4.5)
_LENGTH = (60, 100, 150)
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
        held = _yardsticks(run, gold, aligned, filled, facts, draws=draws, seed=seed, is_gold=is_gold)
        beside = beside.model_copy(update=held)
    total, unanswered = asked(run)
    units = len(np.unique(aligned.codes))
    coherence = _coherence(run)
    warnings = (
        *caveats(gold),
        *changed_rubrics(*(each for each in (gold.run, run) if each is not None)),
        *_doubtful_ids(gold, run, pairs),
        *run.warnings(),
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
        intervals=doc.IntervalMethod(draws=draws, seed=seed, units=units, note=few_occupations(units))
        if draws
        else None,
        slices=slices(facts, filled, values),
        debiased=debiased(run, gold, aligned),
        calibration=calibration(run, aligned, draws=draws or None, seed=seed),
        sources=doc.Sources(run=run.manifest.sources, gold=(gold.source,)),
        warnings=warnings,
        models=run.models(),
        by_model=_by_model(run, gold, draws, seed) if by_model else None,
        repeats_from_cache=run.repeats_from_cache,
        verdict=verdict(
            settings,
            beside.majority,
            model=run.manifest.model,
            is_gold=is_gold,
            unanswered={s: count / total for s, count in unanswered.items() if count},
            yardsticks=beside,
            coherence=coherence,
            warnings=warnings,
        ),
    )


def _yardsticks(
    run: Run,
    gold: Gold,
    aligned: AlignedLabels,
    pairs: Mapping[SettingName, Pair],
    facts: pd.DataFrame,
    *,
    draws: int,
    seed: int,
    is_gold: bool,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not is_gold:  # full agreement with itself proves nothing that another labelling could be compared with
        texts = facts["text"] if "text" in facts else pd.Series(None, index=aligned.tasks.index, dtype="str")
        found = {
            "text_classifier": text_classifier(run, gold, aligned, pairs, seed=seed),
            "raters": raters(run, gold, aligned, pairs),
            "consistency": consistency(texts, pairs, draws=draws or None, seed=seed),
            "self_agreement": self_agreement(run, draws=draws or None, seed=seed),
        }
    if gold.votes is not None:
        found["annotators"] = annotators(run, gold, gold.votes, draws=draws, seed=seed)
    return found


def refuse_worked_examples(run: Run, gold: Gold) -> None:
    """Make sure that no task of the gold is a worked example of the run's rubric: the model was shown its label.

    Tasks are compared by text, blanks, case and punctuation aside: that of the gold's file, or of the task list that its
    ids belong to.

    Raises:
        DataError: One is.
    """
    examples = {_plain(example.task) for example in run.rubric.examples if example.task}
    texts = gold.table["text"]
    name = gold_list(gold, run)
    if texts.isna().all() and is_local(name):
        by_id = task_table(name).drop_duplicates("task_id").set_index("task_id")["text"]
        texts = gold.table["task_id"].map(by_id)
    shown = texts.dropna().map(_plain).isin(examples)
    if examples and shown.any():
        first = shown[shown].index[0]
        raise DataError(
            f"the task {gold.table['task_id'][first]!r} of the gold {gold.name} is a worked example of the rubric "
            f"{run.rubric.id}, so the model was shown its label; take it out of the gold, or label with another rubric"
        )


def _plain(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


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
    return metrics.setting_metrics(counts, pair.scale, weighted=pair.matrices.sum(axis=0), ci95=pair.intervals(names))


def _measure_agreement(pair: Pair) -> doc.MeasureAgreement:
    names = ("agreement", "pearson", "mean", "gold_mean", "difference")
    found = {name: metrics.known(pair.figure(name).value) for name in names}
    return doc.MeasureAgreement(**found, ci95=pair.intervals(names))


def _occupations(aligned: AlignedLabels, values: Mapping[Measure, Pair]) -> doc.Occupations:
    found = {measure: _occupation_agreement(aligned.codes[pair.tasks], pair) for measure, pair in values.items()}
    return doc.Occupations.model_validate({"n": len(np.unique(aligned.codes)), **found})


def _occupation_agreement(codes: np.ndarray, pair: Pair) -> doc.OccupationAgreement:
    means = pd.DataFrame({"run": pair.run, "gold": pair.gold}).groupby(codes).mean()
    run, gold = means["run"].to_numpy(), means["gold"].to_numpy()
    ranks = means.rank()
    found = {
        "pearson": metrics.pearson(run, gold),
        "spearman": metrics.pearson(ranks["run"].to_numpy(), ranks["gold"].to_numpy()),
        "mean_abs_difference": float(np.abs(run - gold).mean()) if len(means) else None,
    }

    def samples(of: Draws) -> dict[str, Array]:
        # Occupations that a measure knows nothing of drop out; the codes of the rest are sorted as in `means`.
        counts = of.counts[:, np.unique(of.place)]
        return {
            "pearson": intervals.occupation_pearson(counts, run, gold),
            "spearman": intervals.occupation_spearman(counts, run, gold),
            "mean_abs_difference": counts @ np.abs(run - gold) / counts.sum(axis=1),
        }

    spans: dict[str, Bounds] = {"pearson": CORRELATION, "spearman": CORRELATION}
    return doc.OccupationAgreement(**found, ci95=intervals.intervals(pair.draws, found, samples, spans))


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
    tasks = task_table(name).set_index(TASK_KEY)
    if tasks["importance"].isna().all() and is_local(RATED_BY):
        tasks["importance"] = task_table(RATED_BY).set_index(TASK_KEY)["importance"].reindex(tasks.index)
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
    mean, gold_mean = (pair.figure(name).value for name in ("mean", "gold_mean"))
    return doc.SliceMeans(mean=mean, gold_mean=gold_mean, ci95=pair.intervals(("mean", "gold_mean")))


def _figures(pair: Pair) -> doc.SliceFigures:
    found = {name: metrics.known(formula(pair.matrices.sum(axis=0))) for name, formula in metrics.FIGURES.items()}
    return doc.SliceFigures(n=len(pair), **found, ci95=pair.intervals(metrics.FIGURES))


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


def calibration(
    run: Run, aligned: AlignedLabels, *, draws: int | None, seed: int
) -> dict[SettingName, doc.Calibration] | None:
    """Reliability of the probabilities that a run gives for its labels, the gold taken as the truth.

    Of several samples of a task each label counts.

    Args:
        run: The run.
        aligned: The run and its gold.
        draws: Bootstrap draws; None leaves the intervals out.
        seed: Seed of the draws.

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
            found[setting] = reliability(
                rows["probability"].to_numpy(dtype=np.float64),
                (rows["label"] == rows["truth"]).to_numpy(),
                rows["weight"].to_numpy(dtype=np.float64),
                None if draws is None else occupation_draws(rows["onet_soc_code"].to_numpy(), draws, seed),
            )
    return found or None


def reliability(probability: Array, right: np.ndarray, weight: Array, drawn: Draws | None) -> doc.Calibration:
    """Figures of a set of labels.

    Args:
        probability: Probability of each label, 0-1, shape (n,), n at least 1.
        right: Whether it is right, shape (n,).
        weight: Weight of each label, shape (n,).
        drawn: Draws for the labels; None leaves the intervals out.
    """
    weight, hit = mean_one(weight), right.astype(np.float64)
    # The upper bound belongs to a bin, so that a probability of 1 falls into the last one.
    bin_of = np.clip(np.ceil(probability * BINS).astype(int) - 1, 0, BINS - 1)
    member = np.zeros((len(hit), BINS))
    member[np.arange(len(hit)), bin_of] = weight
    # By bin: weight, probability, hits; then the squared error of all.
    sums = np.stack([member, member * probability[:, None], member * hit[:, None]], axis=2)
    squared = weight * (probability - hit) ** 2

    def figures(by_bin: Array, error: Array) -> dict[str, Array]:
        total, said, hits = (by_bin[..., i].sum(axis=-1) for i in range(3))
        gaps = np.abs(by_bin[..., 1] - by_bin[..., 2]).sum(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"brier": error / total, "ece": gaps / total, "probability": said / total, "accuracy": hits / total}

    whole = sums.sum(axis=0)
    found = {name: float(x) for name, x in figures(whole, squared.sum()).items()}
    curve: list[doc.ReliabilityBin] = []
    for place in range(BINS):
        here = bin_of == place
        if here.any():
            of, values = None if drawn is None else drawn.of(here), hit[here]
            accuracy = float(whole[place, 2] / whole[place, 0])
            inside = weight[here]
            curve.append(
                doc.ReliabilityBin(
                    low=place / BINS,
                    high=(place + 1) / BINS,
                    n=int(here.sum()),
                    probability=float(whole[place, 1] / whole[place, 0]),
                    accuracy=accuracy,
                    ci95=intervals.intervals(
                        of,
                        {"accuracy": accuracy},
                        lambda of, values=values, inside=inside: {"accuracy": intervals.means(of, values, inside)},
                    ),
                )
            )
    ci95 = intervals.intervals(drawn, found, lambda of: figures(of.sum(sums), of.sum(squared)))
    return doc.Calibration(n=len(hit), **found, bins=tuple(curve), ci95=ci95)
