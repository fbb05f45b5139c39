"""The eval document: what `relabel eval --json` writes. Names and shapes are a contract with its readers.

Shares are 0-1 and unrounded. A figure that the data cannot give is null; a setting or measure that the run or the gold
lacks is absent. Intervals stand beside the figures, in `ci95`, under the figures' names; one that the data cannot give is null,
and without `intervals` in the document `ci95` is empty throughout.
"""

from __future__ import annotations

from relabel.evaluation.document.agreement import (
    SCALES,
    Bounds,
    Coherence,
    Intervals95,
    LabelMetrics,
    MeasureAgreement,
    OccupationAgreement,
    Occupations,
    Prevalence,
    SettingMetrics,
    SettingName,
    SliceBy,
    UnmatchedReason,
)
from relabel.evaluation.document.parts import (
    Calibration,
    Debiased,
    Estimate,
    ReliabilityBin,
    Slice,
    SliceFigures,
    SliceMeans,
)
from relabel.evaluation.document.whole import EvalDocument, IntervalMethod, Sources
from relabel.evaluation.document.yardsticks import (
    Consistency,
    MajorityClass,
    PairAgreement,
    Raters,
    SelfAgreement,
    TextClassifier,
    Yardstick,
    Yardsticks,
)

__all__ = [
    "SCALES",
    "Bounds",
    "Calibration",
    "Coherence",
    "Consistency",
    "Debiased",
    "Estimate",
    "EvalDocument",
    "IntervalMethod",
    "Intervals95",
    "LabelMetrics",
    "MajorityClass",
    "MeasureAgreement",
    "OccupationAgreement",
    "Occupations",
    "PairAgreement",
    "Prevalence",
    "Raters",
    "ReliabilityBin",
    "SelfAgreement",
    "SettingMetrics",
    "SettingName",
    "Slice",
    "SliceBy",
    "SliceFigures",
    "SliceMeans",
    "Sources",
    "TextClassifier",
    "UnmatchedReason",
    "Yardstick",
    "Yardsticks",
]
