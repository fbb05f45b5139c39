"""The comparison document: what `relabel compare --json` writes for two runs.

Shares are 0-1 and unrounded. Differences are the second run less the first. A figure that the data cannot give is null.
Intervals are 95 % by bootstrap over occupations, paired by task.
"""

from __future__ import annotations

from collections.abc import Mapping

from relabel.evaluation.comparison.transitions import McNemar, StuartMaxwell
from relabel.evaluation.document import SettingName
from relabel.evaluation.frozen import Frozen
from relabel.rubric import Measure

Interval = tuple[float, float] | None


class Difference(Frozen):
    """A figure of both runs, and its paired change."""

    first: float | None
    second: float | None
    difference: float | None
    ci95: Interval


class SettingComparison(Frozen):
    """How the labels of one setting changed.

    Attributes:
        n: Tasks with a label in both runs.
        changed: Tasks whose label changed.
        agreement: Share of equal labels.
        agreement_ci95: Its interval.
        kappa: Cohen's kappa between the runs.
        kappa_ci95: Its interval.
        transitions: Counts by label of the first run, then by label of the second.
        prevalence: Share of each label, by run.
        mcnemar: For two labels; takes tasks as independent.
        stuart_maxwell: For all labels; takes tasks as independent. Null when nothing changed.
    """

    n: int
    changed: int
    agreement: float | None
    agreement_ci95: Interval
    kappa: float | None
    kappa_ci95: Interval
    transitions: Mapping[str, Mapping[str, int]]
    prevalence: Mapping[str, Difference]
    mcnemar: McNemar | None
    stuart_maxwell: StuartMaxwell | None


class GoldComparison(Frozen):
    """Both runs against a gold, on the tasks that all three have a label for.

    Attributes:
        n: Those tasks.
        metrics: Each figure of agreement with the gold.
        mended: Tasks that the first run has wrong and the second right.
        broken: Tasks that the first run has right and the second wrong.
        mcnemar: McNemar's test of right against wrong; takes tasks as independent.
    """

    n: int
    metrics: Mapping[str, Difference]
    mended: int
    broken: int
    mcnemar: McNemar


class MeasureComparison(Difference):
    """Mean of a measure over tasks, each weighing the same.

    Attributes:
        n: Tasks with a value in both runs.
    """

    n: int


class Flip(Frozen):
    """A task whose measure changed.

    Attributes:
        onet_soc_code: Occupation.
        task_id: Task.
        first: Labels of the first run by setting.
        second: Labels of the second run by setting.
        change: Change of the task's value, by measure.
        effect: Change of the occupation's mean that this flip alone makes, in the main measure.
    """

    onet_soc_code: str
    task_id: str
    first: Mapping[SettingName, str | None]
    second: Mapping[SettingName, str | None]
    change: Mapping[Measure, float]
    effect: float


class OccupationMove(Frozen):
    """Mean of the measures over an occupation's common tasks, each weighing the same."""

    onet_soc_code: str
    tasks: int
    flips: int
    measures: Mapping[Measure, tuple[float, float]]
    move: float


class SliceAgreement(Frozen):
    """Agreement of the runs on some of the tasks."""

    n: int
    occupations: int
    agreement: float | None
    agreement_ci95: Interval
    kappa: float | None
    difference: float | None
    difference_ci95: Interval


class Bootstrap(Frozen):
    """How intervals were made."""

    unit: str = "occupation"
    draws: int
    seed: int
    level: float = 0.95


class CompareDocument(Frozen):
    """Two runs, paired by task.

    Attributes:
        runs: First and second run, as the user named them.
        models: Models asked.
        common: Tasks that both hold.
        only: Tasks that only the first, and only the second holds.
        settings: Changes by setting.
        measures: Changes of means by measure.
        gold: Name of the gold; null without one.
        against_gold: Both runs against the gold, by setting.
        main_setting: Setting of the slices.
        main_measure: Measure of flips' effects, occupations' moves and slices' differences.
        flips: Tasks whose value changed in any measure, largest effect first.
        occupations: Occupations that moved, largest move first.
        slices: Agreement by slice: `soc_major` by two digits, `task_type` where the task list is at hand.
        bootstrap: How intervals were made.
        verdict: The result in words, one sentence a line.
    """

    kind: str = "pair"
    runs: tuple[str, str]
    models: tuple[str, str]
    common: int
    only: tuple[int, int]
    settings: Mapping[SettingName, SettingComparison]
    measures: Mapping[Measure, MeasureComparison]
    gold: str | None
    against_gold: Mapping[SettingName, GoldComparison]
    main_setting: SettingName
    main_measure: Measure | None
    flips: tuple[Flip, ...]
    occupations: tuple[OccupationMove, ...]
    slices: Mapping[str, Mapping[str, SliceAgreement]]
    bootstrap: Bootstrap
    verdict: str
