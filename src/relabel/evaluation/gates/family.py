"""Many gates at once: how sure each must be, so that together they do not fire on noise."""

from __future__ import annotations

from collections.abc import Sequence

from relabel.evaluation.gates.suite import Suite


def family_levels(p_values: Sequence[float], level: float, family: str) -> list[float]:
    """The level of each gate's interval when several gates are judged together.

    Args:
        p_values: One-sided p-values, one a gate.
        level: Level of a single gate's two-sided interval.
        family: `holm`, `bonferroni` or `none`.

    Returns:
        Levels in the order of the p-values. A gate fires when its interval at that level excludes the allowed change,
        which for `holm` is the step-down procedure: the smallest p is held to a level for all gates, the next to one for
        all but one, and after the first that does not fire all others keep its level.

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65-70.
    """
    count, miss = len(p_values), 1 - level
    if family != "holm" or count < 2:
        return [1 - (miss / max(count, 1) if family == "bonferroni" else miss)] * count
    levels, share, stopped = [0.0] * count, miss / count, False
    for done, place in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        if not stopped:
            share = miss / (count - done)
        levels[place] = 1 - share
        stopped = stopped or p_values[place] >= share / 2
    return levels


def in_words(suite: Suite, drops: int) -> str:
    """What a suite does about the number of its gates against the baseline, of which there are `drops`."""
    if not drops:
        return "No gate is against a baseline; gates that ask for evidence need no adjustment for their number."
    noise = 100 * (1 - suite.level) / 2
    if suite.family == "none":
        return f"Each of the {drops} gates against the baseline fires on pure noise in at most {noise:.3g} % of runs."
    if drops == 1:
        return f"The gate against the baseline fires on pure noise in at most {noise:.3g} % of runs."
    rule = {"holm": "Holm's", "bonferroni": "Bonferroni's"}[suite.family]
    return (
        f"The {drops} gates against the baseline are judged by {rule} rule: on pure noise any of them fires in at most "
        f"{noise:.3g} % of runs."
    )
