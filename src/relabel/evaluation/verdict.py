"""The result of an evaluation in words, computed from its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relabel.evaluation.document import Coherence, MajorityClass, SettingMetrics, SettingName, Yardstick, Yardsticks
from relabel.evaluation.gold import Gold
from relabel.tabular import figure

FEW_TASKS = 400
"""Below this number of tasks the figures are called rough."""
NO_AGREEMENT = 0.05
"""A kappa up to this is taken as no agreement beyond chance."""
CLEAR = 2.0
"""Standard errors by which accuracies must differ to be told apart, where there are no intervals."""
EMBEDDED = "local"
"""Name of the embedded model."""
SELECTED = (
    "The gold's tasks were chosen because they were doubtful: agreement on them, with its intervals, says nothing about "
    "the run as a whole."
)
"""What is said first of a gold that `relabel review` chose the tasks of; for the rest of the run, `--random` draws some."""

_TELLING: tuple[SettingName, ...] = ("three-way", "automation", "strict", "with-tools")
_STRENGTH = ((0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))


def caveats(gold: Gold | None) -> list[str]:
    """What must be said first of figures against a gold, if anything."""
    if gold is None:
        return []
    said = [SELECTED] if gold.selected else []
    if gold.table["stratum"].notna().any() and not gold.weighted:
        said.append(
            "The gold has strata but no weights: if some strata were sampled more densely than others, every figure leans "
            "towards them; add a column weight (one over the chance of each task to be drawn)."
        )
    return said


def strength(kappa: float) -> str:
    """A word for a kappa above 0, after Landis and Koch 1977 (doi:10.2307/2529310)."""
    return next((word for bound, word in _STRENGTH if kappa <= bound), "almost perfect")


def verdict(
    settings: Mapping[SettingName, SettingMetrics],
    yardsticks: Yardsticks,
    *,
    model: str,
    is_gold: bool = False,
    unanswered: Mapping[SettingName, float] | None = None,
    coherence: Coherence | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """Say what the figures mean.

    Args:
        settings: Figures by setting.
        yardsticks: What the run must beat, and how steady it is.
        model: The run's model; `local` is the embedded one.
        is_gold: True when the run is the gold itself.
        unanswered: Share (0-1) of the asked tasks without a label, by setting; settings that lack none may be absent.
        coherence: Contradictions within the run.
        warnings: What is said first.

    Returns:
        One sentence a line.
    """
    if is_gold:
        return "The run is the gold itself: full agreement says nothing about it."
    majority = yardsticks.majority
    said = list(warnings)
    said += _gaps(unanswered or {})
    if model == EMBEDDED:
        said.append("The embedded model only tries the pipeline: its labels are no better than guessing.")
    for name, found in settings.items():
        words = _setting(found, majority[name]) if name in majority else "no task has a label on both sides"
        said.append(f"{name}: {words}.")
    said += _among_yardsticks(settings, yardsticks)
    if coherence is not None and coherence.of and coherence.incoherent:
        share = f"{100 * coherence.incoherent / coherence.of:.1f} %"
        said.append(f"The two settings contradict each other on {coherence.incoherent:,} tasks ({share}).")
    few = min((found.n for name, found in settings.items() if name in majority), default=0)
    if few < FEW_TASKS:
        said.append(f"The figures are rough: they rest on {few} task{'' if few == 1 else 's'}.")
    return "\n".join(said)


def _among_yardsticks(settings: Mapping[SettingName, SettingMetrics], yardsticks: Yardsticks) -> list[str]:
    """Where the run stands among the yardsticks, said of the setting that says most."""
    present: list[SettingName] = [name for name in _TELLING if name in settings]
    if not present:
        return []
    main = present[0]
    said: list[str] = []
    classifier = yardsticks.text_classifier
    if classifier is not None and main in classifier.settings:
        words = f"a word count trained on {classifier.trained_on:,} gold labels of other occupations"
        said.append(_against(main, words, classifier.settings[main], floor=classifier.trained_on))
    if yardsticks.raters is not None and main in yardsticks.raters.settings:
        words = "the annotators and GPT-4 of 2023 are to each other"
        said.append(_against(main, words, yardsticks.raters.settings[main]))
    if yardsticks.annotators is not None and main in yardsticks.annotators.settings:
        words = "the gold's annotators are to each other"
        said.append(_against(main, words, yardsticks.annotators.settings[main]))
    repeats = yardsticks.consistency.settings.get(main) if yardsticks.consistency is not None else None
    if repeats is not None and repeats.run is not None:
        gold = "" if repeats.gold is None else f", in the gold {100 * repeats.gold:.0f} %"
        pairs = f"{repeats.pairs:,} pair{'' if repeats.pairs == 1 else 's'}"
        said.append(f"Tasks with one text get one label in {100 * repeats.run:.0f} % of {pairs}{gold}.")
    if yardsticks.self_agreement is not None:
        shares = [
            f"{100 * x.run:.0f} % ({s})" for s, x in yardsticks.self_agreement.settings.items() if x.run is not None
        ]
        if shares:
            said.append(f"Asked again, the model gives the same label in {', '.join(shares)} of pairs of answers.")
    return said


def _against(setting: SettingName, words: str, found: Yardstick, *, floor: int = 0) -> str:
    """One sentence on the difference in kappa: what its interval says, and what to make of it.

    `floor` is the number of labels behind a yardstick that a run must beat; 0 for one that it is only compared with.
    """
    reached = f"kappa {figure(found.kappa)}, accuracy {figure(found.accuracy)}"
    if found.kappa_difference == 0 and found.accuracy_difference == 0:
        if floor:
            return f"{setting}: exactly as good as {words} ({reached}): it is not shown to add anything."
        return f"{setting}: exactly as close to the gold as {words} ({reached})."
    bounds = found.ci95.get("kappa_difference")
    if bounds is None or found.kappa_difference is None:
        why = (
            "kappa is undefined where one label only is used"
            if found.kappa_difference is None
            else "no interval was asked for"
            if not found.ci95
            else "all tasks are of one occupation, which gives no interval"
            if found.ci95.get("accuracy") is None
            else "too many bootstrap draws have no kappa"
        )
        if floor:
            return f"{setting}: {words} reaches {reached}; whether the run beats it cannot be said: {why}."
        return f"{setting}: {words} at {reached}; how the run compares cannot be said: {why}."
    apart = f"difference in kappa {figure(found.kappa_difference)}, 95 % {figure(bounds[0])} to {figure(bounds[1])}"
    if bounds[0] > 0:
        if floor:
            return f"{setting}: better than {words} ({reached}; {apart})."
        return f"{setting}: closer to the gold than {words} ({reached}; {apart})."
    if bounds[1] < 0:
        if floor:
            nothing = f"by this gold, the run adds nothing to {floor:,} gold labels and a word count"
            return f"{setting}: below {words} ({reached}; {apart}): {nothing}."
        return f"{setting}: further from the gold than {words} ({reached}; {apart})."
    if floor:
        return f"{setting}: cannot be told from {words} ({reached}; {apart}): it is not shown to add anything."
    return f"{setting}: about as close to the gold as {words} ({reached}; {apart})."


def _gaps(unanswered: Mapping[SettingName, float]) -> list[str]:
    """What is missing, said of each setting, or once where all settings lack the same."""
    missing = {name: share for name, share in unanswered.items() if share > 0}
    if {"strict", "with-tools"} <= set(missing) and len(set(missing.values())) == 1:
        return [_gap("", next(iter(missing.values())))]
    return [_gap(f"{name} ", share) for name, share in missing.items() if name != "three-way" or len(missing) == 1]


def _gap(setting: str, share: float) -> str:
    shown = f"{100 * share:.0f} %" if share >= 0.01 else "Under 1 %"
    return f"{shown} of the asked tasks have no {setting}label: the figures speak for the rest only."


def _setting(found: SettingMetrics, majority: MajorityClass) -> str:
    accuracy, kappa, n = found.accuracy or 0.0, found.kappa, f"n={found.n:,}"
    always, against = f"always answering {majority.label}", f"{figure(accuracy)} against {figure(majority.accuracy)}"
    if majority.accuracy == 1:
        reached = f"accuracy {figure(accuracy)}, {n}"
        return f"the gold says {majority.label} throughout, so this cannot be told from {always} ({reached})"
    if kappa is None or kappa <= NO_AGREEMENT:
        beyond = f"no agreement beyond chance (kappa {figure(kappa)}, {n})"
    else:
        beyond = f"agreement beyond chance is {strength(kappa)} (kappa {figure(kappa)}, {n})"
    bounds = majority.ci95.get("difference")
    if bounds is None and majority.difference_se is not None:  # no intervals were asked for
        reach = CLEAR * majority.difference_se
        bounds = majority.difference - reach, majority.difference + reach
    if bounds is not None and bounds[0] > 0:
        return f"better than {always} (accuracy {against}); {beyond}"
    if bounds is not None and bounds[1] < 0:
        return f"in accuracy worse than {always} ({against}); {beyond}"
    tasks = f"{found.n:,} task{'' if found.n == 1 else 's'}"
    return f"cannot be told from {always} on {tasks} (accuracy {against}); {beyond}"
