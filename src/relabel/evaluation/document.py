"""The eval document, as `relabel eval --json` writes it. Names and shapes are a contract with its readers.

Shares are 0-1 and unrounded. Undefined figures are null; settings and measures that the run or the gold lacks are absent.
Intervals are in `ci95` by name of the figure, null if undefined; without `intervals` in the document, `ci95` is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from relabel.rubric import CODES, Measure
from relabel.settings import Frozen
from relabel.sources.fetch import SourceUse
from relabel.tabular import cell_text

SettingName = Literal["strict", "with-tools", "three-way", "automation"]
UnmatchedReason = Literal["not-in-gold", "not-in-run", "no-label-in-run", "no-label-in-gold", "other-text"]

# Labels of each setting, in order of exposure; ordinal figures depend on this order.
SCALES: Mapping[SettingName, tuple[str, ...]] = {
    "strict": ("not-exposed", "exposed"),
    "with-tools": ("not-exposed", "exposed"),
    "three-way": CODES,
    "automation": ("T0", "T1", "T2", "T3", "T4"),
}

SliceBy = Literal["major-group", "task-type", "importance", "text-length"]
GoldRule = Literal["majority", "distribution"]
Maker = Literal["people", "model", "unknown"]
# Short names of SOC major groups.
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

Bounds = tuple[float, float]
# 95% intervals, low and high, by name of the figure.
Intervals95 = Mapping[str, Bounds | None]


def label_in_words(labels: Mapping[SettingName, str | None]) -> str:
    """A task's labels in a few words: the code if there is one, otherwise the label of each setting."""
    code = labels.get("three-way")
    return code or ", ".join(f"{setting}: {label or '-'}" for setting, label in labels.items())


class NamedTask(Frozen):
    """A task with its statement and the title of its occupation; both are empty if the task list is not on this machine."""

    onet_soc_code: str
    task_id: str
    title: str = ""
    text: str = ""


class Bounded(Frozen):
    """Figures with their 95% intervals."""

    ci95: Intervals95 = Field(default_factory=dict)


class LabelMetrics(Frozen):
    """Agreement on one label, with the gold as the truth.

    Attributes:
        precision: Share of the run's uses of the label that are right; null if the run never uses it.
        recall: Share of the gold's uses of the label that the run finds; null if the gold never uses it.
        f1: Their harmonic mean; null if neither uses the label.
        support: Number of tasks with this label in the gold.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class Prevalence(Frozen):
    """Share of each label, by side."""

    gold: Mapping[str, float]
    run: Mapping[str, float]


class SliceFigures(Bounded):
    """Figures of one setting, on all or some of the compared tasks; see `SettingMetrics`."""

    n: int
    accuracy: float | None
    kappa: float | None
    kappa_quadratic: float | None
    krippendorff_nominal: float | None
    krippendorff_ordinal: float | None
    ac1: float | None
    macro_f1: float | None


class SettingMetrics(SliceFigures):
    """Agreement of run and gold in one setting; formulas and their sources are in `relabel.evaluation.statistics`.

    Attributes:
        n: Number of tasks with a label on both sides.
        accuracy: Share of equal labels.
        kappa: Cohen's kappa.
        kappa_quadratic: Cohen's kappa with quadratic weights over the order of exposure.
        krippendorff_nominal: Krippendorff's alpha for nominal data.
        krippendorff_ordinal: Krippendorff's alpha for ordinal data, in order of exposure.
        ac1: Gwet's AC1.
        macro_f1: Unweighted mean of F1 over the labels in use.
        labels: Figures by label.
        confusion: Counts by label of the gold, then by label of the run.
        prevalence: Share of each label, by side.
        ci95: Intervals of the figures, of F1 by label as `f1:LABEL`, of the shares as `gold:LABEL` and `run:LABEL`.
    """

    labels: Mapping[str, LabelMetrics]
    confusion: Mapping[str, Mapping[str, int]]
    prevalence: Prevalence


class SliceMeans(Bounded):
    """Means of a measure."""

    mean: float | None
    gold_mean: float | None


class MeasureAgreement(SliceMeans):
    """Agreement on a measure's task values (0-1).

    The values of both sides are computed from their codes by the run's rubric, as in a score: an incoherent pair is E1.

    Attributes:
        n: Number of tasks.
        agreement: Share of tasks with equal values.
        pearson: Pearson correlation over tasks; null for fewer than three tasks or if a side is constant.
        mean: Mean of the run's values over the compared tasks.
        gold_mean: The same for the gold.
        difference: `mean` minus `gold_mean`.
        ci95: Intervals of these.
    """

    n: int | None = None
    agreement: float | None
    pearson: float | None
    difference: float | None = None


class OccupationAgreement(Bounded):
    """Agreement on a measure's occupation means.

    Attributes:
        pearson: Pearson correlation over occupations; null for fewer than three or if a side is constant.
        spearman: Spearman's rank correlation; null under the same conditions.
        mean_abs_difference: Mean absolute difference between run and gold, 0-1.
        ci95: Intervals of these.
    """

    pearson: float | None
    spearman: float | None
    mean_abs_difference: float | None


class Occupations(Frozen):
    """Agreement on occupations: means of the compared tasks, by O*NET-SOC code.

    Attributes:
        n: Number of occupations of all compared tasks; a measure without labels of some tasks may have fewer.
        weights: Weights of tasks within an occupation, and of occupations.
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
    """Contradictory pairs of answers: exposed without tools, but not with them.

    Attributes:
        incoherent: Number of tasks of the run with such a pair.
        of: Number of tasks of the run with both answers; 0 if its rubric has only one question.
    """

    incoherent: int
    of: int


class Slice(Frozen):
    """A subset of the compared tasks.

    Attributes:
        value: The slice: a major group such as `11`, a task type, a band such as `3.5-4.0`.
        title: The same in words.
        n: Number of compared tasks; a setting without labels of some has its own `n`.
        occupations: Number of occupations of these `n` tasks.
        settings: Figures by setting.
        measures: Means by measure.
    """

    value: str
    title: str
    n: int
    occupations: int
    settings: Mapping[SettingName, SliceFigures]
    measures: Mapping[Measure, SliceMeans]


class Estimate(Bounded):
    """Mean exposure of a group of tasks, estimated in three ways.

    Attributes:
        group: `all`, or a SOC major group such as `11`.
        title: The same in words.
        n_gold: Number of tasks with a gold label.
        n_run: Number of tasks with a label of the run.
        naive: Mean of the run's values over all its tasks.
        gold: Mean of the gold's values.
        ppi: Prediction-powered estimate: the run's mean, corrected by its errors on the gold.
        power: Weight of the run's predictions (lambda of PPI++): 0 is the gold's mean, 1 full use of the predictions.
        ci95: Intervals of `gold` and `ppi`, for the sampling of the gold; `naive` covers all tasks and has none.
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
    note: str | None = None


class Debiased(Frozen):
    """Mean exposure corrected for the run's errors (PPI++), unless a model made the gold.

    Attributes:
        measures: Estimates by measure: first for all tasks, then for major groups.
        note: The basis of the estimates, or why there are none.
    """

    measures: Mapping[Measure, tuple[Estimate, ...]]
    note: str


class ReliabilityBin(Bounded):
    """Labels with a probability above `low` and up to `high`."""

    low: float
    high: float
    n: int
    probability: float
    accuracy: float


class Calibration(Bounded):
    """Calibration of the run's probabilities, with the gold as the truth.

    Attributes:
        n: Number of labels with a probability.
        brier: Mean squared difference between the label's probability and whether it is right.
        ece: Expected calibration error: mean gap between probability and accuracy over the bins, weighted by size.
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


class MajorityClass(Bounded):
    """The baseline of always giving the gold's most frequent label.

    Attributes:
        label: That label; among ties, the one with the lowest exposure.
        accuracy: Its share in the gold.
        kappa: 0, or null if the gold has only one label.
        difference: The run's accuracy minus this one.
        ci95: Interval of `difference`, paired.
    """

    label: str
    accuracy: float
    kappa: float | None
    difference: float


class Yardstick(Bounded):
    """Agreement of another labelling of the same tasks, for comparison.

    Attributes:
        n: Number of tasks compared.
        accuracy: Its share of equal labels.
        kappa: Its Cohen's kappa.
        accuracy_difference: The run's accuracy on these tasks minus this one.
        kappa_difference: The run's kappa on these tasks minus this one.
        ci95: Intervals of these; those of the differences are paired.
    """

    n: int
    accuracy: float | None
    kappa: float | None
    accuracy_difference: float | None
    kappa_difference: float | None


class Raters(Frozen):
    """How far the annotators of 2023 agree with GPT-4's labels of 2023 on the compared tasks.

    Attributes:
        settings: Their agreement by setting, compared with that of run and gold.
    """

    settings: Mapping[SettingName, Yardstick]


class TextClassifier(Raters):
    """A simple text classifier, cross-validated by occupation.

    Attributes:
        trained_on: Number of tasks in each training set, capped so that golds can be compared.
        folds: Number of groups of occupations, each labelled by a classifier trained on the others.
        seed: Seed of folds and training sets.
        settings: Its agreement with the gold, by setting.
    """

    trained_on: int
    folds: int
    seed: int


class PairAgreement(Bounded):
    """Agreement within pairs of tasks or of repeats.

    Attributes:
        pairs: Number of pairs compared.
        run: Share of pairs with equal labels in the run.
        gold: The same in the gold; null if the pairs are repeats of the run.
        ci95: Intervals of these.
    """

    pairs: int
    run: float | None
    gold: float | None = None


class Consistency(Frozen):
    """Consistency of labels for tasks with the same text in several occupations.

    Attributes:
        texts: Number of texts that occur more than once among the compared tasks.
        tasks: Number of tasks with such a text.
        settings: By setting, the share of pairs of tasks with the same text that have the same label.
    """

    texts: int
    tasks: int
    settings: Mapping[SettingName, PairAgreement]


class SelfAgreement(Frozen):
    """Agreement between repeats of the same question (`relabel run --samples K`).

    Attributes:
        samples: Highest number of repeats of a task.
        settings: By setting, the share of pairs of repeats with the same label.
    """

    samples: int
    settings: Mapping[str, PairAgreement]


class Annotators(Frozen):
    """Agreement among the annotators of a gold: a ceiling for the agreement of a run.

    Attributes:
        count: Number of annotators.
        tasks: Number of compared tasks with labels of at least two annotators.
        tied: Number of tasks without a majority, which have no label if the gold uses majorities.
        rule: How the gold combines several labels: by majority, or by keeping all of them, weighted by their share.
        settings: By setting, on these tasks: `accuracy` and `kappa` of two random annotators, and the differences between
            the run's agreement with a random annotator and these.
        krippendorff_nominal: Krippendorff's alpha among the annotators, by setting; null where it is undefined.
    """

    count: int
    tasks: int
    tied: int
    rule: GoldRule
    settings: Mapping[SettingName, Yardstick]
    krippendorff_nominal: Mapping[SettingName, float | None]


class Yardsticks(Frozen):
    """Baselines for a run's agreement, and measures of its consistency; null where the data do not allow one."""

    majority: Mapping[SettingName, MajorityClass]
    text_classifier: TextClassifier | None = None
    raters: Raters | None = None
    consistency: Consistency | None = None
    self_agreement: SelfAgreement | None = None
    annotators: Annotators | None = None


class Bootstrap(Frozen):
    """How intervals were computed.

    Attributes:
        unit: The resampling unit.
        draws: Number of bootstrap draws.
        seed: Seed of the draws.
        level: Nominal coverage.
        note: A warning if there are few occupations.
    """

    unit: Literal["occupation"] = "occupation"
    draws: int
    seed: int
    level: float = 0.95
    note: str | None = None


class IntervalMethod(Bootstrap):
    """How the intervals of an evaluation were computed: the number of `units` of all compared tasks, and the `method` for bounds."""

    units: int
    method: str = "Student's t over occupations, on the logit of the figure's range"


class Sources(Frozen):
    """Source files of the two sides, with their hashes."""

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
        gold_by: Who made the gold. Labels by an unknown maker do not count as human labels.
        matched: Number of tasks with a label on both sides in at least one setting.
        unmatched: Number of other tasks of either side, by reason.
        asked: Number of tasks that the run was asked to label.
        unanswered: Number of these without a label, by setting; for three-way, without a code.
        text_changed: Number of matched tasks whose text differs between run and gold; null if the texts are unknown.
        texts_replaced: Tasks whose text differs so much that it is another task, least similar first.
        settings: Agreement by setting.
        measures: Agreement by measure.
        occupations: Agreement on occupation means.
        coherence: Contradictions within the run.
        yardsticks: Baselines for comparison.
        model: The model that made the run's labels.
        weighted: Whether the gold has task weights, which are used in all figures except counts.
        selected: Whether the gold's tasks were selected because they were doubtful (`relabel review`); figures and intervals
            then say nothing about the run as a whole.
        intervals: How the intervals were computed; null without intervals.
        slices: Figures by subsets of the tasks; slicings that the data do not allow are absent.
        debiased: Mean exposure corrected for the run's errors; null if a model made the gold, or it is `selected`.
        calibration: Calibration of the run's probabilities by setting; null if it has none.
        sources: Source files of run and gold.
        warnings: Caveats that apply to all figures; the verdict begins with them.
        models: Number of labels by the model that answered, according to the provider.
        by_model: Figures for the labels of each such model, if requested with `--by-model`.
        repeats_from_cache: Number of samples that a gateway's cache answered with an earlier one; excluded from all figures.
        verdict: The result in words, one sentence per line.
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
                name: cell_text(getattr(metrics, name))
                + (f" ({cell_text(metrics.ci95[name])})" if metrics.ci95.get(name) else "")
                for name in names
            }
            for setting, metrics in self.settings.items()
        }
        verdict = pd.DataFrame({f"{self.run} against {self.gold}": self.verdict.splitlines()})
        return verdict.to_html(index=False) + pd.DataFrame(rows).to_html()
