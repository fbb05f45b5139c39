"""What a run is held against besides the gold."""

from __future__ import annotations

from collections.abc import Mapping

from relabel.evaluation.document.agreement import NO_INTERVALS, Intervals95, SettingName
from relabel.evaluation.frozen import Frozen


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


class Yardsticks(Frozen):
    """What a run must beat, and how steady it is."""

    majority: Mapping[SettingName, MajorityClass]
    text_classifier: TextClassifier | None = None
    raters: Raters | None = None
    consistency: Consistency | None = None
    self_agreement: SelfAgreement | None = None
