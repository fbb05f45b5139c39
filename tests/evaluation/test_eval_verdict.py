"""The verdict says what the figures mean, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from relabel.evaluation.document import MajorityClass, SettingMetrics
from relabel.evaluation.metrics import setting_metrics
from relabel.evaluation.verdict import figure, strength, verdict

SCALE = ("not-exposed", "exposed")


def said(counts: list[list[int]], model: str = "model-x") -> list[str]:
    found: SettingMetrics = setting_metrics(np.array(counts), SCALE)
    if not found.n:
        return verdict({"strict": found}, {}, model=model).splitlines()
    label = max(SCALE, key=lambda name: found.prevalence.gold[name])
    share = found.prevalence.gold[label]
    majority = MajorityClass(label=label, accuracy=share, kappa=None if share == 1 else 0.0)
    return verdict({"strict": found}, {"strict": majority}, model=model).splitlines()


def test_a_run_that_always_gives_the_majority_label_is_no_better_than_that() -> None:
    assert said([[600, 0], [400, 0]]) == [
        "strict: no better than always answering not-exposed (accuracy .600 against .600, kappa .000, n=1,000)."
    ]


def test_chance_agreement_is_no_better_than_the_majority_label() -> None:
    assert said([[300, 300], [200, 200]])[0].startswith("strict: no better than always answering not-exposed")


def test_accuracy_below_the_majority_label_is_said_although_kappa_is_fair() -> None:
    (line,) = said([[14632, 1771], [1931, 931]])
    assert line == (
        "strict: in accuracy no better than always answering not-exposed (.808 against .851), "
        "though agreement beyond chance is fair (kappa .222, n=19,265)."
    )


def test_a_good_run_is_called_better_with_the_strength_of_its_kappa() -> None:
    (line,) = said([[450, 50], [50, 450]])
    assert line == (
        "strict: better than always answering not-exposed (accuracy .900 against .500); "
        "agreement beyond chance is substantial (kappa .800, n=1,000)."
    )


def test_a_hair_above_the_majority_label_is_hardly_better() -> None:
    assert "hardly better than always answering not-exposed" in said([[950, 0], [49, 1]])[0]


def test_few_tasks_make_the_figures_rough() -> None:
    assert said([[30, 0], [0, 30]])[-1] == "The figures are rough: they rest on 60 tasks."
    assert len(said([[50, 0], [0, 50]])) == 1


def test_a_gold_with_one_label_cannot_tell() -> None:
    assert "the gold says not-exposed throughout" in said([[900, 100], [0, 0]])[0]


def test_a_setting_without_a_compared_task_is_said_to_have_none() -> None:
    assert said([[0, 0], [0, 0]])[0] == "strict: no task has a label on both sides."


def test_the_embedded_model_is_called_no_better_than_guessing() -> None:
    assert said([[450, 50], [50, 450]], model="local/smol")[0] == (
        "The embedded model only tries the pipeline: its labels are no better than guessing."
    )


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
