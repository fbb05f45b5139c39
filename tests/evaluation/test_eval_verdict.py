"""The verdict says what the figures mean, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from relabel.evaluation.document import (
    Coherence,
    EvalDocument,
    Intervals95,
    MajorityClass,
    SettingMetrics,
    SettingName,
    TextClassifier,
    Yardstick,
    Yardsticks,
)
from relabel.evaluation.evaluate import strength, verdict
from relabel.evaluation.statistics import setting_metrics
from relabel.tabular import figure

SCALE = ("not-exposed", "exposed")


def of_figures(found: SettingMetrics, beside: Yardsticks, **more: Any) -> str:
    """The verdict on an evaluation of one setting."""
    usual: dict[str, Any] = {"model": "model-x", "asked": 1000, "unanswered": {}, "warnings": ()} | more
    coherence = Coherence(incoherent=0, of=0)
    return verdict(
        EvalDocument.model_construct(settings={"strict": found}, yardsticks=beside, coherence=coherence, **usual)
    )


def said(
    counts: list[list[int]],
    model: str = "model-x",
    se: float | None = 0.01,
    unanswered: Mapping[SettingName, int] | None = None,
) -> list[str]:
    found: SettingMetrics = setting_metrics(np.array(counts), SCALE)
    assert found.accuracy is not None
    label = max(SCALE, key=lambda name: found.prevalence.gold[name])
    share = found.prevalence.gold[label]
    majority = MajorityClass(
        label=label,
        accuracy=share,
        kappa=None if share == 1 else 0.0,
        difference=found.accuracy - share,
        ci95={} if se is None else {"difference": (found.accuracy - share - 2 * se, found.accuracy - share + 2 * se)},
    )
    beside = Yardsticks(majority={"strict": majority})
    return of_figures(found, beside, model=model, unanswered=unanswered or {}).splitlines()


def test_a_run_that_always_gives_the_majority_label_cannot_be_told_from_that() -> None:
    assert said([[600, 0], [400, 0]], se=0.0) == [
        "strict: cannot be distinguished from always answering not-exposed on 1,000 tasks (accuracy .600 against .600); "
        "no agreement beyond chance (kappa .000, n=1,000)."
    ]


def test_accuracy_clearly_below_the_majority_label_is_said_although_kappa_is_fair() -> None:
    (line,) = said([[14632, 1771], [1931, 931]])
    assert line == (
        "strict: in accuracy worse than always answering not-exposed (.808 against .851); "
        "agreement beyond chance is fair (kappa .222, n=19,265)."
    )


def test_a_good_run_is_called_better_with_the_strength_of_its_kappa() -> None:
    (line,) = said([[450, 50], [50, 450]])
    assert line == (
        "strict: better than always answering not-exposed (accuracy .900 against .500); "
        "agreement beyond chance is substantial (kappa .800, n=1,000)."
    )


@pytest.mark.parametrize(
    ("se", "words"),
    [
        (0.0199, "better than always answering not-exposed (accuracy .540 against .500)"),
        (0.0201, "cannot be distinguished from always answering not-exposed on 1,000 tasks"),
        (
            None,
            "not shown to differ from always answering not-exposed (accuracy .540 against .500, without an interval)",
        ),
    ],
)
def test_better_means_by_an_interval_above_zero(se: float | None, words: str) -> None:
    (line,) = said([[500, 0], [460, 40]], se=se)
    assert line.startswith(f"strict: {words}")


def test_few_tasks_make_the_figures_rough() -> None:
    assert said([[30, 0], [0, 30]])[-1] == "The figures are rough: they rest on 60 tasks."
    assert len(said([[200, 0], [0, 199]])) == 2
    assert len(said([[200, 0], [0, 200]])) == 1


def test_what_the_run_did_not_answer_is_said_first() -> None:
    lines = said([[450, 50], [50, 450]], unanswered={"strict": 4, "with-tools": 620, "three-way": 624})
    assert lines[0] == (
        "Of the 1,000 tasks asked, 4 (under 1%) have no strict label, 620 (62%) have no with-tools label, 624 (62%) have no "
        "three-way label: the figures describe the rest only."
    )
    assert len(lines) == 2
    assert "tasks asked" not in said([[450, 50], [50, 450]], unanswered={"strict": 0})[0]


def test_a_gold_with_one_label_cannot_tell() -> None:
    assert "the gold says not-exposed throughout" in said([[900, 100], [0, 0]])[0]


@pytest.mark.parametrize(
    ("kappa", "word"),
    [
        (0.06, "slight"),
        (0.2, "slight"),
        (0.21, "fair"),
        (0.5, "moderate"),
        (0.8, "substantial"),
        (0.9, "almost perfect"),
    ],
)
def test_strength_follows_landis_and_koch(kappa: float, word: str) -> None:
    assert strength(kappa) == word


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.6564, ".656"),
        (1.0, "1.000"),
        (0.9999, "1.000"),
        (-0.0124, "-.012"),
        (-0.0001, ".000"),
        (-1.0, "-1.000"),
        (None, "-"),
    ],
)
def test_figures_have_three_decimals(value: float | None, shown: str) -> None:
    assert figure(value) == shown


@pytest.mark.parametrize(
    ("ci95", "words"),
    [
        (
            {"kappa_difference": (-0.3, -0.1)},
            "by this gold, the run adds nothing to 2,000 gold labels and a word count",
        ),
        ({"kappa_difference": None}, "cannot be said: it has no interval"),
        ({}, "cannot be said: it has no interval"),
    ],
)
def test_a_run_below_the_word_count_adds_nothing_only_where_that_is_sure(ci95: Intervals95, words: str) -> None:
    found = setting_metrics(np.array([[400, 100], [100, 400]]), SCALE)
    other = Yardstick(n=1000, accuracy=0.9, kappa=0.8, accuracy_difference=-0.1, kappa_difference=-0.2, ci95=ci95)
    always = MajorityClass(label="exposed", accuracy=0.5, kappa=0.0, difference=0.3)
    classifier = TextClassifier(trained_on=2000, folds=5, seed=0, settings={"strict": other})
    beside = Yardsticks(majority={"strict": always}, text_classifier=classifier)
    assert words in of_figures(found, beside)
