"""Agreement of run and gold: the labels, what is said of each setting, measure and occupation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from relabel.evaluation.frozen import Frozen
from relabel.rubric import CODES

SettingName = Literal["strict", "with-tools", "three-way", "automation"]
UnmatchedReason = Literal["not-in-gold", "not-in-run", "no-label-in-run", "no-label-in-gold"]

SCALES: Mapping[SettingName, tuple[str, ...]] = {
    "strict": ("not-exposed", "exposed"),
    "with-tools": ("not-exposed", "exposed"),
    "three-way": CODES,
    "automation": ("T0", "T1", "T2", "T3", "T4"),
}
"""Labels of each setting, in order of exposure; ordinal figures depend on this order."""

SliceBy = Literal["major-group", "task-type", "importance", "text-length"]
Bounds = tuple[float, float]
Intervals95 = Mapping[str, Bounds | None]
"""95 % intervals, low and high, by name of the figure."""
NO_INTERVALS: Intervals95 = {}


class LabelMetrics(Frozen):
    """Agreement on one label, the gold taken as the truth.

    Attributes:
        precision: Share of the run's uses of the label that the gold confirms; null when the run never uses it.
        recall: Share of the gold's uses that the run finds; null when the gold never uses it.
        f1: Their harmonic mean; null when neither uses the label.
        support: Tasks with this label in the gold.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class Prevalence(Frozen):
    """Share of each label, by side."""

    gold: Mapping[str, float]
    run: Mapping[str, float]


class SettingMetrics(Frozen):
    """Agreement of run and gold in one setting; formulas and their sources are in `relabel.evaluation.metrics`.

    Attributes:
        n: Tasks with a label on both sides.
        accuracy: Share of equal labels.
        kappa: Cohen's kappa.
        kappa_quadratic: Cohen's kappa with quadratic weights over the order of exposure.
        krippendorff_nominal: Krippendorff's alpha, labels unordered.
        krippendorff_ordinal: Krippendorff's alpha, labels in order of exposure.
        ac1: Gwet's AC1.
        macro_f1: Plain mean of F1 over the labels in use.
        labels: Figures by label.
        confusion: Counts by label of the gold, then by label of the run.
        prevalence: Share of each label, by side.
        ci95: Intervals of the figures, of F1 by label as `f1:LABEL`, of the shares as `gold:LABEL` and `run:LABEL`.
    """

    n: int
    accuracy: float | None
    kappa: float | None
    kappa_quadratic: float | None
    krippendorff_nominal: float | None
    krippendorff_ordinal: float | None
    ac1: float | None
    macro_f1: float | None
    labels: Mapping[str, LabelMetrics]
    confusion: Mapping[str, Mapping[str, int]]
    prevalence: Prevalence
    ci95: Intervals95 = NO_INTERVALS


class MeasureAgreement(Frozen):
    """Agreement on a measure's task values (0-1).

    The values follow from the codes of both sides by the run's rubric, as in a score: an incoherent pair is E1.

    Attributes:
        agreement: Share of tasks with equal values.
        pearson: Pearson correlation over tasks; null for fewer than three tasks or when a side is constant.
        mean: Mean of the run's values over the compared tasks, each weighing the same.
        gold_mean: The same of the gold.
        difference: `mean` less `gold_mean`.
        ci95: Intervals of these.
    """

    agreement: float | None
    pearson: float | None
    mean: float | None
    gold_mean: float | None
    difference: float | None = None
    ci95: Intervals95 = NO_INTERVALS


class OccupationAgreement(Frozen):
    """Agreement on a measure's occupation means.

    Attributes:
        pearson: Pearson correlation over occupations; null for fewer than three or when a side is constant.
        spearman: Spearman's rank correlation, under the same rule.
        mean_abs_difference: Mean of the absolute difference between run and gold, on 0-1.
        ci95: Intervals of these.
    """

    pearson: float | None
    spearman: float | None
    mean_abs_difference: float | None
    ci95: Intervals95 = NO_INTERVALS


class Occupations(Frozen):
    """Agreement on occupations: means of the compared tasks, by O*NET-SOC code.

    Attributes:
        n: Occupations compared.
        weights: How tasks weigh within an occupation, and occupations among each other.
    """

    n: int
    weights: Literal["equal"] = "equal"
    alpha: OccupationAgreement | None = None
    beta: OccupationAgreement | None = None
    gamma: OccupationAgreement | None = None

    @model_serializer(mode="wrap")
    def _leave_out_absent_measures(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class Coherence(Frozen):
    """Pairs of answers that contradict themselves: exposed without tools, but not with them.

    Attributes:
        incoherent: Tasks of the run with such a pair.
        of: Tasks of the run with both answers; 0 when its rubric asks one question only.
    """

    incoherent: int
    of: int
