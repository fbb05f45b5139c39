"""The eval document as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from relabel.evaluation.document.agreement import (
    Coherence,
    MeasureAgreement,
    Occupations,
    SettingMetrics,
    SettingName,
    SliceBy,
    UnmatchedReason,
)
from relabel.evaluation.document.parts import Calibration, Debiased, Slice
from relabel.evaluation.document.yardsticks import Yardsticks
from relabel.evaluation.frozen import Frozen
from relabel.manifest import SourceUse
from relabel.rubric import Measure


class IntervalMethod(Frozen):
    """How the intervals were made.

    Attributes:
        level: Nominal coverage.
        draws: Bootstrap draws.
        seed: Their seed.
        unit: What was drawn.
        units: How many there are.
        method: How bounds follow from the draws.
        note: Why there are none, where there are none.
    """

    level: float = 0.95
    draws: int
    seed: int
    unit: Literal["occupation"] = "occupation"
    units: int
    method: str = "expanded percentile"
    note: str | None = None


class Sources(Frozen):
    """Files that the two sides come from, with their hashes."""

    run: tuple[SourceUse, ...]
    gold: tuple[SourceUse, ...]


class EvalDocument(Frozen):
    """The result of an evaluation.

    Attributes:
        run: The run, as the user named it.
        gold: The gold's name.
        gold_sha256: Hash of the gold's labels.
        matched: Tasks with a label on both sides in at least one setting.
        unmatched: All other tasks of either side, by reason.
        asked: Tasks that the run was asked to label.
        unanswered: Those of them without a label, by setting; three-way counts tasks without a code.
        text_changed: Matched tasks whose text in the run's list is not the gold's; null where the texts are not at hand.
        settings: Agreement by setting.
        measures: Agreement by measure.
        occupations: Agreement on occupation means.
        coherence: Contradictions within the run.
        yardsticks: What a run must beat.
        model: The model that the run's labels are by.
        weighted: Whether the gold gives its tasks weights; they count in all figures but counts.
        selected: Whether the gold's tasks were chosen because they were doubtful (`relabel review`): then all figures
            and intervals are of such tasks, and say nothing about the run as a whole.
        intervals: How the intervals were made; null when none were asked for.
        slices: Figures by parts of the tasks; a way of slicing that the data cannot give is absent.
        debiased: Mean exposure with the run's errors taken out; null where the gold is not people's, or is `selected`.
        calibration: Reliability of the run's probabilities by setting; null when it has none.
        sources: Files behind run and gold.
        verdict: The result in words, one sentence a line.
    """

    run: str
    gold: str
    gold_sha256: str
    matched: int
    unmatched: Mapping[UnmatchedReason, int]
    asked: int
    unanswered: Mapping[SettingName, int]
    text_changed: int | None
    settings: Mapping[SettingName, SettingMetrics]
    measures: Mapping[Measure, MeasureAgreement]
    occupations: Occupations
    coherence: Coherence
    yardsticks: Yardsticks
    model: str = ""
    weighted: bool = False
    selected: bool = False
    intervals: IntervalMethod | None = None
    slices: Mapping[SliceBy, tuple[Slice, ...]] = {}
    debiased: Debiased | None = None
    calibration: Mapping[SettingName, Calibration] | None = None
    sources: Sources
    verdict: str
