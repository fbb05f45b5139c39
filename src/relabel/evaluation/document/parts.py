"""Parts of the tasks, estimates for groups of them, and the reliability of probabilities."""

from __future__ import annotations

from collections.abc import Mapping

from relabel.evaluation.document.agreement import NO_INTERVALS, Intervals95, SettingName
from relabel.evaluation.frozen import Frozen
from relabel.rubric import Measure


class SliceFigures(Frozen):
    """Figures of one setting within a slice; see `SettingMetrics`."""

    n: int
    accuracy: float | None
    kappa: float | None
    kappa_quadratic: float | None
    krippendorff_nominal: float | None
    krippendorff_ordinal: float | None
    ac1: float | None
    macro_f1: float | None
    ci95: Intervals95 = NO_INTERVALS


class SliceMeans(Frozen):
    """Means of a measure within a slice, each task weighing the same."""

    mean: float | None
    gold_mean: float | None
    ci95: Intervals95 = NO_INTERVALS


class Slice(Frozen):
    """A part of the compared tasks.

    Attributes:
        value: The slice: a major group such as `11`, a task type, a band such as `3.5-4.0`.
        title: The same in words.
        n: Compared tasks.
        occupations: Their occupations.
        settings: Figures by setting.
        measures: Means by measure.
    """

    value: str
    title: str
    n: int
    occupations: int
    settings: Mapping[SettingName, SliceFigures]
    measures: Mapping[Measure, SliceMeans]


class Estimate(Frozen):
    """Mean exposure of a group of tasks, estimated in three ways.

    Attributes:
        group: `all`, or a SOC major group such as `11`.
        title: The same in words.
        n_gold: Tasks with a gold label.
        n_run: Tasks with a label of the run.
        naive: Mean of the run's values over all its tasks.
        gold: Mean of the gold's values.
        ppi: Prediction-powered estimate: the run's mean, put right by what the gold says about its errors.
        power: How far the run is trusted, lambda of PPI++: 0 leaves the gold's mean, 1 takes the run at full weight.
        ci95: Intervals of `gold` and `ppi`, by which another gold drawn alike would differ; `naive` is counted over all
            tasks, not estimated, and has none.
        note: Why a figure is missing.
    """

    group: str
    title: str
    n_gold: int
    n_run: int
    naive: float | None
    gold: float | None
    ppi: float | None
    power: float | None
    ci95: Intervals95 = NO_INTERVALS
    note: str | None = None


class Debiased(Frozen):
    """Mean exposure with the run's errors taken out (PPI++), where the gold is people's labels.

    Attributes:
        measures: Estimates by measure: all tasks first, then the major groups.
        note: What the estimates rest on, or why there are none.
    """

    measures: Mapping[Measure, tuple[Estimate, ...]]
    note: str


class ReliabilityBin(Frozen):
    """Labels whose probability falls between two bounds (the upper one belongs to the bin)."""

    low: float
    high: float
    n: int
    probability: float
    accuracy: float
    ci95: Intervals95 = NO_INTERVALS


class Calibration(Frozen):
    """Whether the run's probabilities mean what they say, the gold taken as the truth.

    Attributes:
        n: Labels with a probability.
        brier: Mean squared difference between the label's probability and whether it is right.
        ece: Expected calibration error: mean gap between probability and accuracy over the bins, by their size.
        probability: Mean probability.
        accuracy: Share of right labels among them.
        bins: The reliability curve; empty bins are left out.
        ci95: Intervals of these.
    """

    n: int
    brier: float
    ece: float
    probability: float
    accuracy: float
    bins: tuple[ReliabilityBin, ...]
    ci95: Intervals95 = NO_INTERVALS
