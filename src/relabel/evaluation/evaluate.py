"""Evaluates a run against a gold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from relabel.errors import DataError
from relabel.evaluation import document as doc
from relabel.evaluation import statistics as metrics
from relabel.evaluation.alignment import MAIN, MANY, AlignedLabels, Pair, match
from relabel.evaluation.document import SettingName
from relabel.evaluation.gold import Gold, asked, default_gold, incoherent_pairs, load_gold, missing_in_words
from relabel.evaluation.ppi import debiased
from relabel.evaluation.statistics import CORRELATION, DRAWS, Sums, drawn_ranks, with_ci95
from relabel.evaluation.yardsticks import all_yardsticks, calibration, mean_of
from relabel.rubric import Measure
from relabel.run import Run, changed_rubrics
from relabel.sources.tables import plain_name
from relabel.tabular import counted, figure
from relabel.task import TASK_KEY, local_tasks

# With fewer tasks, the verdict calls the figures rough.
FEW_TASKS = 400
# Highest kappa that counts as no agreement beyond chance.
NO_AGREEMENT = 0.05

_STRENGTH = ((0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))
# Release whose importance ratings are used for lists without any.
RATED_BY = "onet-30.2"
_IMPORTANCE = (3.0, 3.5, 4.0, 4.5)
_LENGTH = (60, 100, 150)
# Number of blocks in which draws are ranked, so that each fits in the processor's cache.
_BLOCKS = 8


def evaluate(
    run: Run,
    gold: Gold | Run | str | Path | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    yardsticks: bool = True,
    by_model: bool = False,
) -> doc.EvalDocument:
    """Evaluate a run, with a gold as the truth; shares are 0-1, unrounded.

    Args:
        run: The run; for several samples of a task, the most frequent label is used.
        gold: The gold, another run, or a name or path as for `load_gold`; by default the gold for the run's tasks.
        draws: Number of bootstrap draws; 0 for no intervals.
        seed: Seed of the draws, and of the text classifier.
        yardsticks: False for no baselines except the majority class.
        by_model: Whether to evaluate the labels of each model that answered separately.

    Raises:
        DataError: Run and gold share no label, or use different ids, or a task of the gold is an example in the prompt.
    """
    if not isinstance(gold, Gold):
        gold = load_gold(default_gold(run) if gold is None else gold.ref if isinstance(gold, Run) else gold)
    refuse_worked_examples(run, gold)
    aligned = match(run, gold).with_draws(draws, seed)
    pairs: dict[SettingName, Pair] = {s: aligned.pair(s) for s in aligned.labels}
    values: dict[Measure, Pair] = {m: aligned.pair(m) for m in aligned.values}
    settings: dict[SettingName, doc.SettingMetrics] = {s: _setting_metrics(pair) for s, pair in pairs.items()}
    facts = task_facts(run, gold, aligned)
    texts = facts.get("text", pd.Series(dtype="str", index=facts.index))
    baselines = all_yardsticks(run, gold, aligned, pairs, texts, seed=seed, majority_only=not yardsticks)
    total, unanswered = asked(run)
    incoherent, answered = (0, 0) if run.rubric.incoherent is None else incoherent_pairs(run)
    same = [] if gold.is_run(run) else aligned.pair(aligned.main).same_labels(run.ref, gold.name)
    caveats = (*changed_rubrics(gold.run, run), *same, *_doubtful_ids(gold, aligned))
    document = doc.EvalDocument(
        run=run.ref,
        gold=gold.name,
        gold_sha256=gold.sha256,
        gold_by=gold.made_by,
        matched=len(aligned.index().unique()),
        unmatched=aligned.unmatched or {},
        asked=total,
        unanswered=unanswered,
        text_changed=aligned.text_changed,
        texts_replaced=aligned.texts_replaced,
        settings=settings,
        measures={
            m: doc.MeasureAgreement(n=pair.n, **pair.with_ci95(metrics.VALUE_FIGURES)) for m, pair in values.items()
        },
        occupations=doc.Occupations.model_validate(
            {"n": aligned.occupations}
            | {m: _occupation_agreement(aligned.index()[pair.tasks], pair) for m, pair in values.items()}
        ),
        coherence=doc.Coherence(incoherent=incoherent, of=answered),
        yardsticks=baselines,
        model=run.manifest.model,
        weighted=gold.weighted,
        selected=gold.selected,
        intervals=doc.IntervalMethod(draws=draws, seed=seed, units=aligned.occupations, note=aligned.few_occupations)
        if draws
        else None,
        slices=slices(facts, pairs, values),
        debiased=debiased(run, gold, aligned),
        calibration=calibration(run, aligned),
        sources=doc.Sources(run=run.manifest.sources, gold=(gold.source,)),
        warnings=(*gold.caveats, *caveats, *aligned.warnings, *run.warnings(), *run.ties_in_words()),
        models=run.models(),
        by_model=_by_model(run, gold, draws, seed) if by_model else None,
        repeats_from_cache=run.repeats_from_cache,
        verdict="",
    )
    return document.model_copy(update={"verdict": verdict(document, is_gold=gold.is_run(run))})


def refuse_worked_examples(run: Run, gold: Gold) -> None:
    """Refuse a gold with a task that is a worked example of the run's rubric, because the model was shown its label.

    Tasks are compared by their texts, ignoring blanks, case and punctuation. A gold without texts has those of the task
    list that its ids belong to.

    Raises:
        DataError: A task of the gold is a worked example.
    """
    examples = {plain_name(example.task) for example in run.rubric.examples if example.task}
    if not examples:
        return
    texts = gold.table["text"]
    if texts.isna().all() and (tasks := local_tasks(gold.task_list(run))) is not None:
        by_id = tasks.drop_duplicates("task_id").set_index("task_id")["text"]
        texts = gold.table["task_id"].map(by_id)
    texts = texts.dropna()
    shown = (row for row, text in zip(texts.index, texts.tolist(), strict=True) if plain_name(text) in examples)
    if (first := next(shown, None)) is not None:
        raise DataError(
            f"the task {gold.table['task_id'][first]!r} of the gold {gold.name} is a worked example of the rubric "
            f"{run.rubric.id}, so the model was shown its label; take it out of the gold, or label with another rubric"
        )


def _doubtful_ids(gold: Gold, aligned: AlignedLabels) -> list[str]:
    """A warning if ids were matched without codes and the labels agree only by chance: the ids may be row numbers."""
    main = aligned.pair(aligned.main)
    if len(main) < MANY or gold.table[["onet_soc_code", "text"]].notna().any(axis=None):
        return []
    if (kappa := main.figure("kappa").value) > NO_AGREEMENT:
        return []
    return [
        f"The gold has no occupation codes, and its labels agree with the run's by chance only (kappa {kappa:.2f}): check "
        "that its task_id holds the ids of these tasks."
    ]


def _by_model(run: Run, gold: Gold, draws: int, seed: int) -> dict[str, dict[SettingName, doc.SliceFigures]]:
    figures: dict[str, dict[SettingName, doc.SliceFigures]] = {}
    for model in run.models():
        part = replace(run, labels=run.labels[run.labels["model_returned"].fillna("unknown") == model])
        try:
            aligned = match(part, gold).with_draws(draws, seed)
        except DataError:
            continue  # none of this model's labels has a counterpart in the gold
        pairs: dict[SettingName, Pair] = {s: aligned.pair(s) for s in aligned.labels}
        figures[model] = {s: doc.SliceFigures(n=p.n, **p.with_ci95(metrics.FIGURES)) for s, p in pairs.items()}
    return figures


def _setting_metrics(pair: Pair) -> doc.SettingMetrics:
    """Figures of one setting with their intervals."""
    names = [*metrics.FIGURES, *(f"{kind}:{label}" for kind in ("f1", "gold", "run") for label in pair.scale)]
    counts = metrics.pairs(pair.gold, pair.run, len(pair.scale)).sum(axis=0)
    bounds = pair.with_ci95(names)["ci95"]
    figures = metrics.setting_metrics(counts, pair.scale, weighted=pair.sums.total[0], ci95=bounds)
    return figures.model_copy(update={"n": pair.n})


def _occupation_agreement(tasks: pd.Index, pair: Pair) -> doc.OccupationAgreement:
    values = pd.DataFrame({"gold": pair.gold, "run": pair.run}, index=tasks)
    # The gold may have several labels of a task; each task counts once in the mean of its occupation.
    means = values.groupby(level=TASK_KEY, sort=False).mean().groupby(level=0).mean()
    gold, run = means["gold"].to_numpy(), means["run"].to_numpy()
    # The draws of the occupations in `means` only, which has those with values; both are in the order of codes.
    draws = None if pair.draws is None else replace(pair.draws, occupation=np.unique(pair.draws.occupation))
    figures = {"pearson": Sums(metrics.task_values(gold, run), draws).figure(metrics.correlation, CORRELATION)}
    ranks = means.rank() - (len(means) + 1) / 2
    spearman = Sums(metrics.moments(ranks["gold"], ranks["run"]), draws).figure(metrics.correlation, CORRELATION)
    if draws is not None:
        parts: list[np.ndarray] = []
        for counts in np.array_split(draws.counts.T[draws.occupation], _BLOCKS, axis=1):
            x, y = (drawn_ranks(counts.T, side).T for side in (gold, run))
            # Each draw has ranks of its own, whose mean is 0.
            products = [np.einsum("id,id,id->d", counts, *sides) for sides in ((x, x), (y, y), (x, y))]
            parts.append(np.stack([counts.sum(axis=0), *[np.zeros(counts.shape[1])] * 2, *products], axis=1))
        spearman = replace(spearman, draws=metrics.correlation(np.concatenate(parts)))
    figures["spearman"] = spearman
    apart = np.stack([np.abs(run - gold), np.ones(len(means))], axis=1)
    figures["mean_abs_difference"] = Sums(apart, draws).figure(mean_of)
    if len(means) < 3:
        figures |= {name: replace(figures[name], value=math.nan) for name in ("pearson", "spearman")}
    return doc.OccupationAgreement(**with_ci95(figures, draws))


def task_facts(run: Run, gold: Gold, aligned: AlignedLabels) -> pd.DataFrame:
    """Facts about the compared tasks, from files on this machine.

    Returns:
        Columns `onet_soc_code`, `major_group` and `task` (its number), and where a task list is on this machine `text`, `task_type` and
        `importance` (1-5; from `RATED_BY` if the list has no ratings); rows as in the alignment.
    """
    codes = aligned.tasks["onet_soc_code"]
    facts = pd.DataFrame({"onet_soc_code": codes, "major_group": codes.str[:2], "task": aligned.numbers})
    lists = map(local_tasks, (run.manifest.tasks, gold.task_list(run)))
    if (tasks := next((table for table in lists if table is not None), None)) is None:
        return facts
    details = tasks.set_index(TASK_KEY).reindex(aligned.index())
    if tasks["importance"].isna().all() and (rated := local_tasks(RATED_BY)) is not None:
        details["importance"] = rated.set_index(TASK_KEY)["importance"].reindex(details.index)
    return facts.assign(**{column: details[column].to_numpy() for column in ("text", "task_type", "importance")})


def slices(
    facts: pd.DataFrame, settings: Mapping[SettingName, Pair], values: Mapping[Measure, Pair]
) -> dict[doc.SliceBy, tuple[doc.Slice, ...]]:
    """Figures by slice, for each way of slicing for which `task_facts` has a column."""
    groups: dict[doc.SliceBy, tuple[pd.Series, Mapping[str, str]]] = {
        "major-group": (facts["major_group"], doc.MAJOR_GROUPS),
    }
    if "text" in facts:
        kinds = facts["task_type"].str.lower().fillna("none")
        groups["task-type"] = (kinds, {"core": "Core", "supplemental": "Supplemental", "none": "Without a type"})
        if facts["importance"].notna().any():
            groups["importance"] = _banded(facts["importance"], _IMPORTANCE, "importance {}", "Unrated")
        groups["text-length"] = _banded(facts["text"].str.len().astype("float64"), _LENGTH, "{} characters", "No text")
    result: dict[doc.SliceBy, tuple[doc.Slice, ...]] = {}
    for slicing, (band, titles) in groups.items():
        present = set(band)
        order = [*(value for value in titles if value in present), *sorted(present - set(titles))]
        group = pd.Categorical(band, order).codes.astype(np.intp)
        figures = {
            about: pair.with_ci95_by_group(
                group[pair.tasks], len(order), metrics.FIGURES if pair.scale else ("mean", "gold_mean")
            )
            for about, pair in {**settings, **values}.items()
        }
        result[slicing] = tuple(
            doc.Slice(
                value=value,
                title=titles.get(value, value),
                n=n,
                occupations=occupations,
                settings={s: doc.SliceFigures(n=row[0], **row[1]) for s in settings if (row := figures[s][index])[0]},
                measures={m: doc.SliceMeans(**row[1]) for m in values if (row := figures[m][index])[0]},
            )
            for index, (value, n, occupations) in enumerate(
                zip(order, *(facts[name].groupby(group).nunique() for name in ("task", "onet_soc_code")), strict=True)
            )
        )
    return result


def _banded(
    numbers: pd.Series, bounds: tuple[float, ...], title: str, missing_title: str
) -> tuple[pd.Series, Mapping[str, str]]:
    """The band of each number, and the titles of the bands in order; a number equal to a bound is in the band above it."""
    names = [f"under-{bounds[0]:g}", *(f"{low:g}-{high:g}" for low, high in pairwise(bounds))]
    names.append(f"from-{bounds[-1]:g}")
    band = pd.cut(numbers, [-np.inf, *bounds, np.inf], right=False, labels=names).astype("object")
    titles = {name: title.format(name.replace("-", " ") if name[0] in "uf" else name) for name in names}
    return band.fillna("none"), {name: t[0].upper() + t[1:] for name, t in titles.items()} | {"none": missing_title}


def strength(kappa: float) -> str:
    """A word for a kappa above 0, after Landis and Koch 1977 (doi:10.2307/2529310)."""
    return next((word for bound, word in _STRENGTH if kappa <= bound), "almost perfect")


def verdict(document: doc.EvalDocument, *, is_gold: bool = False) -> str:
    """Say what the figures of a document mean, one sentence a line.

    Args:
        document: The evaluation.
        is_gold: True when the run is the gold itself.
    """
    if is_gold:
        return "\n".join([*document.warnings, "The run is the gold itself: full agreement says nothing about it."])
    settings, majority = document.settings, document.yardsticks.majority
    lines = [*document.warnings, *missing_in_words(document.asked, document.unanswered)]
    lines += [f"{name}: {_setting(figures, majority[name])}." for name, figures in settings.items()]
    lines += _yardstick_sentences(settings, document.yardsticks)
    if document.coherence.incoherent:
        count, answered = document.coherence.incoherent, document.coherence.of
        lines.append(
            f"The two settings contradict each other on {count:,} of {answered:,} tasks ({100 * count / answered:.1f}%)."
        )
    fewest = min(figures.n for figures in settings.values())
    if fewest < FEW_TASKS:
        lines.append(f"The figures are rough: they rest on {counted(fewest, 'task')}.")
    return "\n".join(lines)


def _yardstick_sentences(settings: Mapping[SettingName, doc.SettingMetrics], yardsticks: doc.Yardsticks) -> list[str]:
    """Sentences that compare the run with the yardsticks, in the main setting."""
    main: SettingName = next(name for name in MAIN if name in settings)
    sentences: list[str] = []
    classifier = yardsticks.text_classifier
    floor = 0 if classifier is None else classifier.trained_on
    for group, to, labelling, labels in (
        (classifier, "the gold", f"a word count trained on {floor:,} gold labels of other occupations", floor),
        (yardsticks.raters, "the gold", "the annotators and GPT-4 of 2023 are to each other", 0),
        (yardsticks.annotators, "a single annotator", "the gold's annotators are to each other", 0),
    ):
        if group is not None and main in group.settings:
            sentences.append(_yardstick_sentence(main, to, labelling, group.settings[main], labels))
    same_text = yardsticks.consistency.settings.get(main) if yardsticks.consistency is not None else None
    if same_text is not None and same_text.run is not None:
        gold = "" if same_text.gold is None else f", in the gold {100 * same_text.gold:.0f}%"
        pairs = counted(same_text.pairs, "pair")
        sentences.append(f"Tasks with one text get one label in {100 * same_text.run:.0f}% of {pairs}{gold}.")
    repeated_questions = {} if yardsticks.self_agreement is None else yardsticks.self_agreement.settings
    shares = [f"{100 * x.run:.0f}% ({s})" for s, x in repeated_questions.items() if x.run is not None]
    if shares:
        sentences.append(f"Asked again, the model gives the same label in {', '.join(shares)} of pairs of answers.")
    return sentences


def _yardstick_sentence(setting: SettingName, to: str, labelling: str, yardstick: doc.Yardstick, floor: int) -> str:
    """One sentence on the difference in kappa, judged by its interval.

    `to` is what run and yardstick are compared with; `floor` is the number of training labels of a yardstick that a run must beat; 0 for a yardstick for comparison only.
    """
    reached = f"kappa {figure(yardstick.kappa)}, accuracy {figure(yardstick.accuracy)}"
    difference = yardstick.kappa_difference
    nothing = ": it is not shown to add anything" if floor else ""
    if difference == yardstick.accuracy_difference == 0:
        return f"{setting}: exactly as close to {to} as {labelling} ({reached}){nothing}."
    bounds = yardstick.ci95.get("kappa_difference")
    if bounds is None or difference is None:
        reason = "kappa is undefined where only one label is used" if difference is None else "it has no interval"
        return f"{setting}: whether it is closer to {to} than {labelling} ({reached}) cannot be said: {reason}."
    closeness, (low, high) = f"about as close to {to} as", bounds
    if low > 0:
        closeness, nothing = f"closer to {to} than", ""
    elif high < 0:
        closeness = f"further from {to} than"
        nothing = f": by this gold, the run adds nothing to {floor:,} gold labels and a word count" if floor else ""
    difference_words = f"difference in kappa {figure(difference)}, 95% {figure(low)} to {figure(high)}"
    return f"{setting}: {closeness} {labelling} ({reached}; {difference_words}){nothing}."


def _setting(figures: doc.SettingMetrics, majority: doc.MajorityClass) -> str:
    accuracy, kappa, n = figures.accuracy or 0.0, figures.kappa, f"n={figures.n:,}"
    always, against = f"always answering {majority.label}", f"{figure(accuracy)} against {figure(majority.accuracy)}"
    if majority.accuracy == 1:
        reached = f"accuracy {figure(accuracy)}, {n}"
        return f"the gold says {majority.label} throughout, so this cannot be distinguished from {always} ({reached})"
    if kappa is None or kappa <= NO_AGREEMENT:
        beyond = f"no agreement beyond chance (kappa {figure(kappa)}, {n})"
    else:
        beyond = f"agreement beyond chance is {strength(kappa)} (kappa {figure(kappa)}, {n})"
    bounds = majority.ci95.get("difference")
    if bounds is None:
        return f"not shown to differ from {always} (accuracy {against}, without an interval); {beyond}"
    if bounds[0] > 0:
        return f"better than {always} (accuracy {against}); {beyond}"
    if bounds[1] < 0:
        return f"in accuracy worse than {always} ({against}); {beyond}"
    return f"cannot be distinguished from {always} on {counted(figures.n, 'task')} (accuracy {against}); {beyond}"
