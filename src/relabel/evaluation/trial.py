"""Trials of rubrics: compares labels under one or several rubrics with reference labels and with each other, by task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from relabel.errors import DataError
from relabel.evaluation import statistics as metrics
from relabel.evaluation.alignment import MAIN, AlignedLabels, align_all
from relabel.evaluation.document import SCALES, Intervals95, Maker, SettingName
from relabel.evaluation.gold import UNKNOWN_MAKER, Gold
from relabel.evaluation.statistics import Figure, change, with_ci95
from relabel.run import Run
from relabel.settings import Frozen
from relabel.tabular import counted
from relabel.tabular import figure as shown
from relabel.task import TASK_KEY

Half = Literal["development", "final"]
_GOLD_NAMES: Mapping[str, str] = {"eloundou-2023:human": "people", "eloundou-2023:gpt4": "GPT-4"}


def half_of(task_id: str) -> Half:
    """The half that a task always belongs to: wordings are tuned on one half, and tested once on the other."""
    return "development" if hashlib.sha256(f"rubric-try|{task_id}".encode()).digest()[0] < 128 else "final"


# Minimum share of common tasks, in the smaller of two sets, for a paired comparison on the common tasks only.
_MOSTLY = 0.5


_ORDERS_AND_REPEATS = "between orders and repeats together (--samples 2 tells them apart)"


class Variance(Frozen):
    """Variance components of labels, as shares (0-1) that add up to 1.

    Labels are 0 or 1 (exposed), or positions in the order of exposure.

    Attributes:
        tasks: Number of tasks with all variants and repeats.
        variants: Number of orders of labels and examples.
        repeats: Number of repeats of each order.
        task: Share between tasks.
        order: Share between orders, including their interaction with tasks; null with only one order.
        repeat: Share within a task and order; null without repeats, and then included in `order`.
    """

    tasks: int
    variants: int
    repeats: int
    task: float
    order: float | None
    repeat: float | None

    def in_words(self) -> str:
        """The shares in one line."""
        orders = "between orders" if self.repeat is not None else _ORDERS_AND_REPEATS
        parts = [(self.task, "between tasks"), (self.order, orders), (self.repeat, "between repeats")]
        shares = ", ".join(f"{share:.1%} {words}" for share, words in parts if share is not None)
        sizes = counted(self.tasks, "task"), counted(self.variants, "order"), counted(self.repeats, "repeat")
        asked = f"{', '.join(sizes)} of each"
        return f"variance of a label: {shares} ({asked})"


class TriedRubric(Frozen):
    """One rubric of a trial.

    Attributes:
        name: Its name in the document.
        wording: Hash of what the model was shown; see `relabel.rubric.Rubric.wording`.
        labels: Folder of its run, as given.
        raters: The model, or who labelled.
        tasks: Number of tasks with a label in at least one setting.
        halves: Number of these in each half.
        rates: Share labelled exposed (0-1) by setting; `E0`, `E1`, `E2` are the shares of codes.
        ci95: Their intervals.
        missing: Number of missing labels, of those in `asked`.
        tied: Number of labels that are ties between orders and repeats, and count as the less exposed label.
        cost_usd: Cost of its labels, including those from the store and rejected answers; null if unknown.
        variance: Variance components by setting; empty without variants or repeats.
    """

    name: str
    id: str
    version: int
    sha256: str
    wording: str
    labels: str
    raters: str
    tasks: int
    halves: Mapping[Half, int]
    rates: Mapping[str, float]
    ci95: Intervals95
    asked: int = 0
    missing: int = 0
    tied: int = 0
    cost_usd: float | None = None
    variance: Mapping[str, Variance] = {}


class TriedGold(Frozen):
    """Reference labels of a trial; those by an unknown maker do not count as human labels."""

    name: str
    made_by: Maker
    people: bool
    sha256: str


class Closeness(Frozen):
    """Agreement of two labellings in one setting, on their common tasks.

    Attributes:
        first, second: Names of rubrics or golds.
        on: The rubric whose tasks are used.
        first_rate, second_rate: Share labelled exposed on these tasks; null for settings with more than two labels.
        ci95: Intervals of the figures.
    """

    first: str
    second: str
    on: str
    setting: SettingName
    n: int
    occupations: int
    first_rate: float | None = None
    second_rate: float | None = None
    accuracy: float | None
    kappa: float | None
    ci95: Intervals95


class TrialDifference(Frozen):
    """Which of two rubrics agrees better with a gold.

    Attributes:
        paired: Whether both are compared on the same tasks; otherwise each on its own, because they have few in common.
        n: Number of tasks of the first and of the second rubric.
        kappa: Kappa of the first and of the second rubric with the gold.
        difference: Second minus first.
        ci95: Its interval.
        closer: The rubric closer to the gold; null if they cannot be distinguished.
    """

    first: str
    second: str
    gold: str
    people: bool
    setting: SettingName
    paired: bool
    n: tuple[int, int]
    kappa: tuple[float | None, float | None]
    difference: float | None
    ci95: tuple[float, float] | None
    closer: str | None


class TrialTasks(Frozen):
    """The tasks of a trial.

    Attributes:
        tasks: The list that they come from.
        half: The half that they were drawn from; null if given labels were used.
        sample: Number of tasks drawn.
        seed: Seed of the draw and of the intervals.
        draws: Number of bootstrap draws.
        started_at: When the trial began.
    """

    tasks: str
    half: Half | None
    sample: int | None
    seed: int
    draws: int
    started_at: str


class TrialDocument(TrialTasks):
    """The result of a trial of rubrics.

    Attributes:
        final: Whether the tasks are from the half reserved for the final test.
        look: Number of this test on the reserved half, counted on this machine by rubric ids; only the first has unseen tasks.
        note: Caveats about the tasks.
        agreements: Each rubric with each gold, golds with each other, rubrics with each other.
        differences: Each pair of rubrics with each gold.
        validity: Blocks for the rubric files, by rubric.
        verdict: The result in words, one sentence per line.
    """

    rubrics: tuple[TriedRubric, ...]
    golds: tuple[TriedGold, ...]
    final: bool
    look: int | None = None
    note: str | None = None
    agreements: tuple[Closeness, ...]
    differences: tuple[TrialDifference, ...]
    validity: Mapping[str, Mapping[str, Any]]
    verdict: str


class Look(NamedTuple):
    """Number of this test on the final half, by rubric ids, and when and where earlier wordings were tested on it."""

    number: int
    earlier: str


FIRST_LOOK = Look(1, "")


def trial(
    runs: Mapping[str, Run],
    golds: Sequence[Gold],
    drawn: TrialTasks,
    *,
    rejected: Mapping[str, float | None],
    look: Look,
) -> TrialDocument:
    """Compare labels under one or several rubrics with reference labels and with each other.

    Two rubrics are compared by their kappa with each gold, in each setting that both rubrics and the gold have: on the tasks
    that both rubrics labelled or, if these are few, each on its own tasks. Intervals resample whole occupations, with the same
    draws for all figures.

    Args:
        runs: Labels by the name of their rubric.
        golds: Reference labels.
        drawn: Which tasks were labelled.
        rejected: Cost of rejected answers in USD, None if unknown, by the name of the rubric.
        look: How often the rubrics have been tested on the final half.

    Raises:
        DataError: A rubric and the golds share no task with a label on both sides.
    """
    aligned = align_all(runs, golds).with_draws(drawn.draws, drawn.seed)
    agreements = list(_agreements(aligned, len(runs)))
    names = [gold.name for gold in golds]
    for name in runs:
        if golds and not any(a.first == name and a.second in names for a in agreements):
            raise DataError(
                f"no task has a label both under {name} and in {', '.join(names)}; give --gold reference labels of the same "
                "tasks and settings"
            )
    differences = tuple(
        difference
        for first, second in combinations(range(len(runs)), 2)
        for column, gold in enumerate(golds, len(runs))
        for setting in MAIN
        if (difference := _difference(aligned, first, second, column, setting, people=gold.human)) is not None
    )
    document = TrialDocument(
        **drawn.model_dump(),
        rubrics=tuple(_tried(run, aligned, n, rejected.get(name, 0.0)) for n, (name, run) in enumerate(runs.items())),
        golds=tuple(TriedGold(name=g.name, made_by=g.made_by, people=g.human, sha256=g.sha256) for g in golds),
        final=drawn.half == "final",
        look=look.number if drawn.half == "final" else None,
        agreements=tuple(agreements),
        differences=differences,
        validity={},
        verdict="",
    )
    validity = {rubric.name: _validity(rubric, document, look) for rubric in document.rubrics}
    words = {"note": _note(document, look), "verdict": "\n".join(_verdict(document))}
    return document.model_copy(update={**words, "validity": validity})


def variance(run: Run) -> dict[str, Variance]:
    """Shares of the variance of labels between tasks, between orders, and between repeats.

    A balanced analysis of variance over the tasks that have a label in each order and repeat: task and order are crossed, and
    repeats are nested in both. The interaction of task and order counts as order.

    Returns:
        Shares by setting. A setting is left out if each task has one label, or fewer than two tasks have all their labels.
    """
    position_of = {label: rank for rank, label in enumerate(reversed(list(run.rubric.labels)))}
    components: dict[str, Variance] = {}
    for setting, part in run.labels.groupby("setting"):
        wide = part.assign(y=part["label"].map(position_of).astype(float)).pivot_table(
            index=TASK_KEY, columns=["variant", "sample"], values="y"
        )
        variants = wide.columns.get_level_values(0).nunique()
        repeats = len(wide.columns) // variants
        whole = wide.dropna()
        if variants * repeats < 2 or len(wide.columns) != variants * repeats or len(whole) < 2:
            continue
        components[str(setting)] = _components(whole.to_numpy().reshape(len(whole), variants, repeats))
    return components


def _components(y: npt.NDArray[np.float64]) -> Variance:
    """Variance components from the mean squares of a table of tasks x orders x repeats; negative ones become 0."""
    tasks, orders, repeats = y.shape
    mean, by_task, by_order, cells = y.mean(), y.mean(axis=(1, 2)), y.mean(axis=(0, 2)), y.mean(axis=2)
    ms_task = orders * repeats * ((by_task - mean) ** 2).sum() / (tasks - 1)
    within = residual = ((y - cells[:, :, None]) ** 2).sum() / (tasks * orders * (repeats - 1)) if repeats > 1 else 0.0
    order = 0.0
    if orders > 1:
        interaction = cells - by_task[:, None] - by_order[None, :] + mean
        residual = repeats * (interaction**2).sum() / ((tasks - 1) * (orders - 1))
        ms_order = tasks * repeats * ((by_order - mean) ** 2).sum() / (orders - 1)
        order = max((ms_order - residual) / (tasks * repeats), 0) + max((residual - within) / repeats, 0)
    parts = {"task": max((ms_task - residual) / (orders * repeats), 0), "order": order, "repeat": within}
    total = sum(parts.values())
    shares = (
        {name: part / total for name, part in parts.items()} if total else {"task": 1.0, "order": 0.0, "repeat": 0.0}
    )
    shares |= ({} if orders > 1 else {"order": None}) | ({} if repeats > 1 else {"repeat": None})
    return Variance.model_validate({"tasks": tasks, "variants": orders, "repeats": repeats, **shares})


def _agreements(aligned: AlignedLabels, rubrics: int) -> Iterator[Closeness]:
    golds = range(rubrics, len(aligned.names))
    compared = [
        (first, second, rubric)
        for rubric in range(rubrics)
        for first, second in [*((rubric, gold) for gold in golds), *combinations(golds, 2)]
    ]
    compared += [(first, second, first) for first, second in combinations(range(rubrics), 2)]
    for (first, second, rubric), setting in product(compared, SCALES):
        keep = aligned.labelled(setting, first, second, rubric)
        if not keep.any():
            continue
        pair = aligned.pair(setting, first, second, keep=keep)
        figures = {"accuracy": pair.figure("accuracy"), "kappa": pair.figure("kappa")}
        if len(pair.scale) == 2:
            figures |= {"first_rate": pair.figure("run:exposed"), "second_rate": pair.figure("gold:exposed")}
        names = {"first": aligned.names[first], "second": aligned.names[second], "on": aligned.names[rubric]}
        sizes = {"n": len(pair), "occupations": figures["kappa"].occupations}
        yield Closeness(**names, setting=setting, **sizes, **with_ci95(figures, pair.draws))


def _difference(
    aligned: AlignedLabels, first: int, second: int, gold: int, setting: SettingName, *, people: bool
) -> TrialDifference | None:
    masks = [aligned.labelled(setting, rubric, gold) for rubric in (first, second)]
    common = masks[0] & masks[1]
    least = min(int(mask.sum()) for mask in masks)
    if not least:
        return None
    if paired := int(common.sum()) >= _MOSTLY * least:
        masks = [common, common]
    raters = zip((first, second), masks, strict=True)
    kappas = [aligned.pair(setting, rubric, gold, keep=mask).figure("kappa") for rubric, mask in raters]
    moved, labels = masks[0] | masks[1], aligned.labels[setting]
    if paired:
        moved &= labels[:, first] != labels[:, second]
    difference = change(kappas[0], kappas[1], len(np.unique(aligned.codes[moved])))
    bounds, names = difference.interval(), (aligned.names[first], aligned.names[second])
    return TrialDifference(
        first=names[0],
        second=names[1],
        gold=aligned.names[gold],
        people=people,
        setting=setting,
        paired=paired,
        n=(int(masks[0].sum()), int(masks[1].sum())),
        kappa=(metrics.or_none(kappas[0].value), metrics.or_none(kappas[1].value)),
        difference=metrics.or_none(difference.value),
        ci95=bounds,
        closer=None if bounds is None else names[0] if bounds[1] < 0 else names[1] if bounds[0] > 0 else None,
    )


def _tried(run: Run, aligned: AlignedLabels, rater: int, rejected: float | None) -> TriedRubric:
    manifest = run.manifest
    answered = np.any([aligned.labelled(s, rater) for s in SCALES], axis=0)
    in_half = [half_of(str(task)) for task in aligned.tasks["task_id"][answered]]
    figures: dict[str, Figure] = {}
    for setting in SCALES:
        pair = aligned.pair(setting, rater, rater)
        if len(pair):
            used = {setting: "exposed"} if len(pair.scale) == 2 else dict(zip(pair.scale, pair.scale, strict=True))
            figures |= {name: pair.figure(f"run:{label}") for name, label in used.items()}
    cost = None if rejected is None else rejected + float(run.labels["cost_usd"].sum(skipna=False))
    return TriedRubric(
        name=aligned.names[rater],
        id=run.rubric.id,
        version=run.rubric.version,
        sha256=manifest.rubric_sha256,
        wording=run.rubric.wording,
        labels=run.ref,
        raters=manifest.model,
        tasks=int(answered.sum()),
        halves={half: in_half.count(half) for half in ("development", "final")},
        rates={name: float(figure.value) for name, figure in figures.items()},
        ci95={name: figure.interval() for name, figure in figures.items()},
        asked=manifest.counts.asked,
        missing=manifest.counts.failed,
        tied=run.tied,
        cost_usd=None if cost is None else metrics.or_none(cost),
        variance=variance(run),
    )


def _note(document: TrialDocument, look: Look) -> str | None:
    notes = [
        text for rubric in document.rubrics for text in (_missing_in_words(rubric), _tied_in_words(rubric)) if text
    ]
    unknown = [gold.name for gold in document.golds if gold.made_by == "unknown" and gold.name != "sample"]
    notes += [UNKNOWN_MAKER.format(name=name) for name in unknown]
    if document.final:
        notes.append(
            "these tasks belong to the half kept for the end: this is its only look, and a wording changed afterwards needs "
            "other tasks"
            if look.number == 1
            else f"{_look_in_words(look)}: other wordings were tried on it {look.earlier}, so that its tasks are no longer unseen"
        )
    if document.half is None and (kept := max(rubric.halves["final"] for rubric in document.rubrics)):
        notes.append(
            f"all given labels were used: {kept:,} of the tasks belong to the half kept for --final, so a wording tuned on "
            "them has no unseen tasks left there"
        )
    return "; ".join(notes) or None


def _look_in_words(look: Look) -> str:
    return f"this is look {look.number} at the half kept for the end"


def _missing_in_words(rubric: TriedRubric) -> str:
    if not rubric.missing:
        return ""
    return (
        f"{rubric.missing:,} of {rubric.asked:,} labels under {rubric.name} are missing "
        f"({rubric.missing / rubric.asked:.0%}); its figures cover only the others"
    )


def _tied_in_words(rubric: TriedRubric) -> str:
    ties = f"{rubric.tied:,} labels under {rubric.name} are ties between orders and repeats"
    effect = "count as the less exposed label, so its rates are too low"
    return f"{ties} and {effect}; an odd number of answers has fewer ties" if rubric.tied else ""


def _validity(rubric: TriedRubric, document: TrialDocument, look: Look) -> dict[str, Any]:
    """A block for the rubric's file, with figures rounded to three decimals; see `relabel.rubric.Study`."""
    compared: dict[str, dict[str, Any]] = {}
    for gold in document.golds:
        agreements = [a for a in document.agreements if a.first == rubric.name and a.second == gold.name]
        least = min((a.n for a in agreements), default=rubric.tasks)
        compared[gold.name] = {
            "people": gold.people,
            **({"n": least} if least != rubric.tasks else {}),
            "rates": {str(a.setting): _round(a.second_rate) for a in agreements if a.second_rate is not None},
            "kappa": {str(a.setting): _round(a.kappa) for a in agreements if a.kappa is not None},
        }
    again = _look_in_words(look) if look.number > 1 else ""
    limits = "; ".join(filter(None, (again, _missing_in_words(rubric), _tied_in_words(rubric))))
    drawn = {"development": ", the half for tuning", "final": ", the half kept for the end", None: ""}[document.half]
    when = document.started_at[:10]
    return {
        "study": f"relabel rubric try, {when}",
        "raters": rubric.raters,
        "when": when,
        "tasks": f"tasks of {document.tasks}{drawn}",
        "n": rubric.tasks,
        "labels": rubric.labels,
        "wording": rubric.wording,
        "rates": {name: _round(rubric.rates[name]) for name in ("strict", "with-tools") if name in rubric.rates},
        "golds": compared,
        **({"limits": limits} if limits else {}),
    }


def _round(value: float | None) -> float | None:
    return None if value is None else float(np.round(value, 3))


def _verdict(document: TrialDocument) -> Iterator[str]:
    golds, agreements = [gold.name for gold in document.golds], document.agreements
    for tried in document.rubrics:
        if missing := _missing_in_words(tried):
            yield f"INCOMPLETE: {missing}."
        own = [a for a in agreements if a.first == tried.name and a.second in golds]
        if not own:
            continue
        main: SettingName = next(s for s in MAIN if any(a.setting == s for a in own))
        for setting in ("strict", "with-tools"):
            if rates := [a for a in own if a.setting == setting]:
                others = ", ".join(f"{_name(a.second)} {rate_in_words(a.second_rate)}" for a in rates)
                yield f"{tried.name} calls {rate_in_words(rates[0].first_rate)} of tasks exposed, {setting} ({others})."
        shown_golds = [
            f"{_name(a.second)} at {shown(a.kappa)} ({counted(a.n, 'task')})" for a in own if a.setting == main
        ]
        beside = "".join(
            f"; {_name(a.first)} and {_name(a.second)} agree with each other at {shown(a.kappa)}"
            for a in agreements
            if a.on == tried.name and a.first in golds and a.setting == main
        )
        yield f"{tried.name} agrees (kappa, {main}) with {' and '.join(shown_golds)}{beside}."
    yield from map(_closer_in_words, document.differences)
    yield "Cost: " + "; ".join(map(_cost_in_words, document.rubrics)) + "."


def _closer_in_words(pair: TrialDifference) -> str:
    setting = pair.setting
    if pair.difference is None or pair.ci95 is None:
        return f"{pair.first} and {pair.second} cannot be compared with {_name(pair.gold)} ({setting}): too few labels differ."
    basis = f"{counted(pair.n[0], 'task')}, paired" if pair.paired else "not paired: each on its own tasks"
    low, high = pair.ci95
    (farther, low_kappa), (closer, high_kappa) = zip((pair.first, pair.second), pair.kappa, strict=True)
    if pair.difference < 0:
        farther, low_kappa, closer, high_kappa, low, high = closer, high_kappa, farther, low_kappa, -high, -low
    difference = f"difference {abs(pair.difference):+.3f}, 95% interval {low:+.3f} to {high:+.3f}"
    figures = f"kappa {shown(high_kappa)} against {shown(low_kappa)}, {difference}; {setting}, {basis}"
    if pair.closer is None:
        return f"{closer} and {farther} cannot be told apart by their distance to {_name(pair.gold)} ({figures})."
    return f"{closer} is closer to {_name(pair.gold)} than {farther} ({figures})."


def _cost_in_words(rubric: TriedRubric) -> str:
    if rubric.cost_usd is not None:
        rate = f"${1000 * rubric.cost_usd / max(rubric.tasks, 1):.2f} per 1,000"
        return f"{rubric.name} ${rubric.cost_usd:.4f} for {counted(rubric.tasks, 'task')} ({rate})"
    return f"{rubric.name} not known"


def rate_in_words(value: float | None) -> str:
    """A share in words, with three decimals; a half is rounded to the even digit, as in most published tables."""
    return shown(_round(value))


def _name(name: str) -> str:
    return _GOLD_NAMES.get(name, name)
