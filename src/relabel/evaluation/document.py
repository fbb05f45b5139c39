"""The eval document: what `relabel eval --json` writes. Names and shapes are a contract with its readers.

Shares are 0-1 and unrounded. A figure that the data cannot give is null; a setting or measure that the run or the gold
lacks is absent. Intervals are in `ci95` under the figures' names; one that the data cannot give is null, and without
`intervals` in the document `ci95` is empty throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from relabel.rubric import CODES, Measure
from relabel.settings import Frozen
from relabel.sources.fetch import SourceUse
from relabel.tabular import cell_text

SettingName = Literal["strict", "with-tools", "three-way", "automation"]
UnmatchedReason = Literal["not-in-gold", "not-in-run", "no-label-in-run", "no-label-in-gold", "other-text"]

SCALES: Mapping[SettingName, tuple[str, ...]] = {
    "strict": ("not-exposed", "exposed"),
    "with-tools": ("not-exposed", "exposed"),
    "three-way": CODES,
    "automation": ("T0", "T1", "T2", "T3", "T4"),
}
"""Labels of each setting, in order of exposure; ordinal figures depend on this order."""

SliceBy = Literal["major-group", "task-type", "importance", "text-length"]
GoldRule = Literal["majority", "distribution"]
Maker = Literal["people", "model", "unknown"]
MAJOR_GROUPS: Mapping[str, str] = {
    "11": "Management",
    "13": "Business and finance",
    "15": "Computing and mathematics",
    "17": "Architecture and engineering",
    "19": "Science",
    "21": "Community and social service",
    "23": "Law",
    "25": "Education and libraries",
    "27": "Arts, sport and media",
    "29": "Health care, professional",
    "31": "Health care, support",
    "33": "Protective service",
    "35": "Food preparation and serving",
    "37": "Cleaning and grounds",
    "39": "Personal care and service",
    "41": "Sales",
    "43": "Office support",
    "45": "Farming, fishing, forestry",
    "47": "Construction and extraction",
    "49": "Installation and repair",
    "51": "Production",
    "53": "Transport",
    "55": "Military",
}
"""Major groups of the SOC in short words."""

Bounds = tuple[float, float]
Intervals95 = Mapping[str, Bounds | None]
"""95% intervals, low and high, by name of the figure."""
NO_INTERVALS: Intervals95 = {}


def label_in_words(labels: Mapping[SettingName, str | None]) -> str:
    """A task's label by setting in few words: the code alone where there is one."""
    code = labels.get("three-way")
    return code or ", ".join(f"{setting}: {label or '-'}" for setting, label in labels.items())


class NamedTask(Frozen):
    """A task with its statement and the title of its occupation; both are empty where the task list is not on this machine."""

    onet_soc_code: str
    task_id: str
    title: str = ""
    text: str = ""


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


class SliceFigures(Frozen):
    """Figures of one setting, on all compared tasks or a part; see `SettingMetrics`."""

    n: int
    accuracy: float | None
    kappa: float | None
    kappa_quadratic: float | None
    krippendorff_nominal: float | None
    krippendorff_ordinal: float | None
    ac1: float | None
    macro_f1: float | None
    ci95: Intervals95 = NO_INTERVALS


class SettingMetrics(SliceFigures):
    """Agreement of run and gold in one setting; formulas and their sources are in `relabel.evaluation.statistics`.

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

    labels: Mapping[str, LabelMetrics]
    confusion: Mapping[str, Mapping[str, int]]
    prevalence: Prevalence


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
        ppi: Prediction-powered estimate: the run's mean, corrected by its errors on the gold.
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
    """Mean exposure corrected for the run's errors (PPI++), where the gold is not a model's.

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


class MajorityClass(Frozen):
    """What always answering the gold's most frequent label would reach on the compared tasks.

    Attributes:
        label: That label; of several, the one of lowest exposure.
        accuracy: Its share in the gold.
        kappa: 0, or null where the gold holds one label only.
        difference: The run's accuracy less this one.
        difference_se: Standard error of the difference, paired by task and clustered by occupation; null for fewer than
            two occupations.
        ci95: Interval of `difference`, paired.
    """

    label: str
    accuracy: float
    kappa: float | None
    difference: float
    difference_se: float | None
    ci95: Intervals95 = NO_INTERVALS


class Yardstick(Frozen):
    """What another labelling of the same tasks reaches.

    Attributes:
        n: Tasks compared.
        accuracy: Its share of equal labels.
        kappa: Its Cohen's kappa.
        accuracy_difference: The run's accuracy on these tasks less this one.
        kappa_difference: The run's kappa on these tasks less this one.
        ci95: Intervals of these; those of the differences are paired.
    """

    n: int
    accuracy: float | None
    kappa: float | None
    accuracy_difference: float | None
    kappa_difference: float | None
    ci95: Intervals95 = NO_INTERVALS


class TextClassifier(Frozen):
    """A plain classifier of task texts, trained on gold of other occupations than those it labels.

    Attributes:
        trained_on: Tasks in each training set; the cap is what makes the yardstick comparable between golds.
        folds: Groups of occupations, each labelled by a classifier that saw none of them.
        seed: Seed of folds and training sets.
        settings: What it reaches, by setting.
        note: Why there is none, where there is none.
    """

    trained_on: int
    folds: int
    seed: int
    settings: Mapping[SettingName, Yardstick]
    note: str | None = None


class Raters(Frozen):
    """How far the annotators of 2023 agree with GPT-4's labels of 2023 on the compared tasks.

    Attributes:
        settings: Their agreement, by setting, beside that of run and gold.
        note: Why there is none, where there is none.
    """

    settings: Mapping[SettingName, Yardstick]
    note: str | None = None


class PairAgreement(Frozen):
    """Agreement within pairs of tasks or of repeats.

    Attributes:
        pairs: Pairs compared.
        run: Share of pairs with one label in the run.
        gold: The same in the gold; null where the pairs are repeats of the run.
        ci95: Intervals of these.
    """

    pairs: int
    run: float | None
    gold: float | None = None
    ci95: Intervals95 = NO_INTERVALS


class Consistency(Frozen):
    """Tasks with one and the same text in several occupations: how often they get one label.

    Attributes:
        texts: Texts that occur more than once among the compared tasks.
        tasks: Tasks with such a text.
        settings: By setting, the share of pairs of tasks with one text that get the same label.
        note: Why there is none, where there is none.
    """

    texts: int
    tasks: int
    settings: Mapping[SettingName, PairAgreement]
    note: str | None = None


class SelfAgreement(Frozen):
    """Repeats of one and the same question (`relabel run --samples K`): how often they agree.

    Attributes:
        samples: Most repeats of a task.
        settings: By setting, the share of pairs of repeats with one label.
        note: Why there is none, where there is none.
    """

    samples: int
    settings: Mapping[str, PairAgreement]
    note: str | None = None


class Annotators(Frozen):
    """How far the annotators of a gold with several of them agree among each other, the limit that a run can reach.

    Attributes:
        count: Annotators.
        tasks: Compared tasks with labels of two annotators or more.
        tied: Tasks that have no majority, and so no label where the gold takes it.
        rule: What the gold makes of several labels: the majority, or all of them, each with its share as a weight.
        settings: By setting, on these tasks: `accuracy` and `kappa` of two annotators drawn at random, and the run's
            against one annotator drawn at random, less these.
        krippendorff_nominal: Krippendorff's alpha among the annotators, by setting; null where it is undefined.
    """

    count: int
    tasks: int
    tied: int
    rule: GoldRule
    settings: Mapping[SettingName, Yardstick]
    krippendorff_nominal: Mapping[SettingName, float | None]


class Yardsticks(Frozen):
    """What a run must beat, and how steady it is."""

    majority: Mapping[SettingName, MajorityClass]
    text_classifier: TextClassifier | None = None
    raters: Raters | None = None
    consistency: Consistency | None = None
    self_agreement: SelfAgreement | None = None
    annotators: Annotators | None = None


class Bootstrap(Frozen):
    """How intervals were made.

    Attributes:
        unit: What was drawn.
        draws: Bootstrap draws.
        seed: Their seed.
        level: Nominal coverage.
        note: A warning where occupations are few.
    """

    unit: Literal["occupation"] = "occupation"
    draws: int
    seed: int
    level: float = 0.95
    note: str | None = None


class IntervalMethod(Bootstrap):
    """How the intervals of an evaluation were made: of how many `units`, and how bounds follow from the draws."""

    units: int
    method: str = "Student's t over occupations, on the logit of the figure's range"


class Sources(Frozen):
    """Files that the two sides come from, with their hashes."""

    run: tuple[SourceUse, ...]
    gold: tuple[SourceUse, ...]


class ReplacedText(Frozen):
    """A task whose id now belongs to another statement; `similarity` is 0-1."""

    task_id: str
    onet_soc_code: str
    similarity: float
    run: str
    gold: str


class EvalDocument(Frozen):
    """The result of an evaluation.

    Attributes:
        run: The run, as the user named it.
        gold: The gold's name.
        gold_sha256: Hash of the gold's labels.
        gold_by: Who made the gold. Labels by an unknown maker do not count as people's.
        matched: Tasks with a label on both sides in at least one setting.
        unmatched: All other tasks of either side, by reason.
        asked: Tasks that the run was asked to label.
        unanswered: Those of them without a label, by setting; three-way counts tasks without a code.
        text_changed: Matched tasks whose text in the run's list is not the gold's; null where the texts are unknown.
        texts_replaced: Those of them whose text has so little in common that it is another task, most changed first.
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
        debiased: Mean exposure corrected for the run's errors; null where the gold is a model's, or is `selected`.
        calibration: Reliability of the run's probabilities by setting; null when it has none.
        sources: Files behind run and gold.
        warnings: What must be known before any figure is read; the verdict begins with them.
        models: Labels by the model that the provider says answered.
        by_model: Figures for the labels of each such model, where `--by-model` asks for them.
        repeats_from_cache: Samples that a gateway's cache answered with an earlier one; they count in no figure.
        verdict: The result in words, one sentence a line.
    """

    run: str
    gold: str
    gold_sha256: str
    gold_by: Maker = "unknown"
    matched: int
    unmatched: Mapping[UnmatchedReason, int]
    asked: int
    unanswered: Mapping[SettingName, int]
    text_changed: int | None
    texts_replaced: tuple[ReplacedText, ...] = ()
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
    warnings: tuple[str, ...] = ()
    models: Mapping[str, int] = {}
    by_model: Mapping[str, Mapping[SettingName, SliceFigures]] | None = None
    repeats_from_cache: int = 0
    verdict: str

    def _repr_html_(self) -> str:
        """For notebooks: the result in words, then the figures by setting with their intervals."""
        import pandas as pd

        names = ("n", "accuracy", "kappa", "krippendorff_nominal", "macro_f1")
        rows = {
            setting: {
                name: cell_text(getattr(of, name)) + (f" ({cell_text(of.ci95[name])})" if of.ci95.get(name) else "")
                for name in names
            }
            for setting, of in self.settings.items()
        }
        said = pd.DataFrame({f"{self.run} against {self.gold}": self.verdict.splitlines()})
        return said.to_html(index=False) + pd.DataFrame(rows).to_html()
