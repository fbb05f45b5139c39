"""The result of an evaluation in words, computed from its figures."""

from __future__ import annotations

from collections.abc import Mapping

from relabel.evaluation.document import MajorityClass, SettingMetrics, SettingName

FEW_TASKS = 400
"""Below this number of tasks the figures are called rough."""
NO_AGREEMENT = 0.05
"""A kappa up to this is taken as no agreement beyond chance."""
CLEAR = 2.0
"""Standard errors by which accuracies must differ to be told apart."""
EMBEDDED = "local"
"""Name of the embedded model."""

_STRENGTH = ((0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))


def strength(kappa: float) -> str:
    """A word for a kappa above 0, after Landis and Koch 1977 (doi:10.2307/2529310)."""
    return next((word for bound, word in _STRENGTH if kappa <= bound), "almost perfect")


def figure(value: float | None) -> str:
    """A figure for people: three decimals without a leading zero, `-` where it is undefined."""
    if value is None:
        return "-"
    shown = f"{abs(value):.3f}".removeprefix("0")
    return f"-{shown}" if value < 0 and shown != ".000" else shown


def verdict(
    settings: Mapping[SettingName, SettingMetrics],
    majority: Mapping[SettingName, MajorityClass],
    *,
    model: str,
    is_gold: bool = False,
    unanswered: Mapping[SettingName, float] | None = None,
) -> str:
    """Say what the figures mean.

    Args:
        settings: Figures by setting.
        majority: The yardstick by setting; absent for a setting without a compared task.
        model: The run's model; `local` is the embedded one.
        is_gold: True when the run is the gold itself.
        unanswered: Share (0-1) of the asked tasks without a label, by setting; settings that lack none may be absent.

    Returns:
        One sentence a line.
    """
    if is_gold:
        return "The run is the gold itself: full agreement says nothing about it."
    said = _gaps(unanswered or {})
    if model == EMBEDDED:
        said.append("The embedded model only tries the pipeline: its labels are no better than guessing.")
    for name, found in settings.items():
        words = _setting(found, majority[name]) if name in majority else "no task has a label on both sides"
        said.append(f"{name}: {words}.")
    few = min((found.n for name, found in settings.items() if name in majority), default=0)
    if few < FEW_TASKS:
        said.append(f"The figures are rough: they rest on {few} task{'' if few == 1 else 's'}.")
    return "\n".join(said)


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
    noise = None if majority.difference_se is None else CLEAR * majority.difference_se
    if noise is not None and majority.difference > noise:
        return f"better than {always} (accuracy {against}); {beyond}"
    if noise is not None and majority.difference < -noise:
        return f"in accuracy worse than {always} ({against}); {beyond}"
    tasks = f"{found.n:,} task{'' if found.n == 1 else 's'}"
    return f"cannot be told from {always} on {tasks} (accuracy {against}); {beyond}"
