"""Metrics: hand-computed tables, undefined cases, and agreement with the libraries."""

from __future__ import annotations

import math
from typing import Any

import krippendorff
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from relabel.evaluation import statistics as metrics
from relabel.evaluation.alignment import Pair

# Rows gold, columns run: 35 of 50 equal.
TABLE = np.array([[20.0, 5.0], [10.0, 15.0]])

ANY_NAN: Any = np.nan  # scikit-learn types the argument by its default, "warn"

two_labels = hnp.arrays(np.int64, (2, 2), elements=st.integers(0, 40))
three_labels = hnp.arrays(np.int64, (3, 3), elements=st.integers(0, 40))


def test_figures_of_a_two_by_two_table_match_those_worked_out_by_hand() -> None:
    assert metrics.accuracy(TABLE) == pytest.approx(0.7)
    # Chance: .5 x .6 + .5 x .4 = .5.
    assert metrics.kappa(TABLE) == pytest.approx(0.4)
    # Pooled shares .55 and .45; chance 2 x .55 x .45 = .495.
    assert metrics.ac1(TABLE) == pytest.approx((0.7 - 0.495) / (1 - 0.495))
    # 100 values, 55 and 45: observed .3, expected 2 x 55 x 45 / (100 x 99) = .5.
    assert metrics.krippendorff_nominal(TABLE) == pytest.approx(0.4)
    labels = metrics.setting_metrics(TABLE, ["not-exposed", "exposed"]).labels
    assert labels["not-exposed"].precision == pytest.approx(20 / 30)
    assert labels["not-exposed"].recall == pytest.approx(20 / 25)
    assert labels["exposed"].f1 == pytest.approx(2 * 15 / (2 * 15 + 5 + 10))
    assert labels["exposed"].support == 25
    assert metrics.macro_f1(TABLE) == pytest.approx((40 / 55 + 30 / 45) / 2)


def test_rows_are_the_gold_and_columns_the_run() -> None:
    assert metrics.pairs([0, 0, 1], [1, 1, 1], 2).sum(axis=0).tolist() == [[0, 2], [0, 1]]


def test_weighted_figures_punish_a_far_miss_more_than_a_near_one() -> None:
    near = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 10]])
    far = np.array([[8, 0, 2], [0, 10, 0], [0, 0, 10]])
    for ordered in (metrics.kappa_quadratic, metrics.krippendorff_ordinal):
        assert ordered(near) > ordered(far)
    assert metrics.accuracy(near) == metrics.accuracy(far)


@pytest.mark.parametrize("counts", [[[7, 0], [0, 0]], [[0, 0], [0, 3]], [[0, 0], [0, 0]]])
def test_one_label_on_both_sides_leaves_chance_corrected_figures_undefined(counts: list[list[int]]) -> None:
    found = metrics.setting_metrics(np.array(counts), ("not-exposed", "exposed"))
    assert found.kappa is None
    assert found.kappa_quadratic is None
    assert found.krippendorff_nominal is None
    assert found.krippendorff_ordinal is None
    assert found.ac1 is None
    assert found.macro_f1 is None
    assert found.accuracy == (1.0 if found.n else None)


def test_a_constant_run_against_a_varied_gold_has_kappa_zero_and_no_precision_for_the_unused_label() -> None:
    found = metrics.setting_metrics(np.array([[60, 0], [40, 0]]), ("not-exposed", "exposed"))
    assert found.kappa == 0.0
    assert found.kappa_quadratic == 0.0
    assert found.accuracy == pytest.approx(0.6)
    assert found.labels["exposed"].precision is None
    assert found.labels["exposed"].recall == 0.0
    assert found.labels["exposed"].f1 == 0.0
    assert found.macro_f1 == pytest.approx((2 * 60 / (2 * 60 + 40)) / 2)


def test_a_label_that_neither_side_uses_has_no_figures_and_does_not_lower_macro_f1() -> None:
    found = metrics.setting_metrics(np.array([[5, 0, 1], [0, 0, 0], [1, 0, 5]]), ("E0", "E2", "E1"))
    assert found.labels["E2"].model_dump() == {"precision": None, "recall": None, "f1": None, "support": 0}
    assert found.macro_f1 == pytest.approx(10 / 12)


def test_two_sides_with_one_label_each_but_not_the_same_agree_in_nothing() -> None:
    found = metrics.setting_metrics(np.array([[0, 9], [0, 0]]), ("not-exposed", "exposed"))
    assert found.accuracy == 0.0
    assert found.kappa == 0.0


def test_pearson_is_undefined_for_constant_values_and_for_fewer_than_three_units() -> None:
    def pearson(gold: list[float], run: list[float]) -> float:
        tasks, weight = np.arange(len(gold)), np.ones(len(gold))
        return Pair(tasks, np.array(gold), np.array(run), weight, None).figure("pearson").value

    assert math.isnan(pearson([1, 1, 1], [0, 1, 0]))
    assert math.isnan(pearson([0, 1], [0, 1]))
    assert pearson([0, 1, 0], [0, 1, 0]) == pytest.approx(1)


@given(three_labels)
def test_figures_do_not_depend_on_who_is_the_gold_and_never_pass_one(counts: np.ndarray) -> None:
    for formula in metrics.FIGURES.values():
        found, turned = formula(counts), formula(counts.T)
        np.testing.assert_allclose(found, turned, rtol=0, atol=1e-9)
        assert math.isnan(found) or -1 - 1e-9 <= found <= 1 + 1e-9 or formula is metrics.krippendorff_ordinal


@given(three_labels)
def test_figures_equal_those_of_scikit_learn_and_the_krippendorff_library(counts: np.ndarray) -> None:
    assume(((counts.sum(axis=0) + counts.sum(axis=1)) > 0).sum() > 1)
    gold, run = (np.repeat(side.ravel(), counts.ravel()) for side in np.indices(counts.shape))
    assert metrics.accuracy(counts) == pytest.approx(sk.accuracy_score(gold, run))
    for formula, weights in ((metrics.kappa, None), (metrics.kappa_quadratic, "quadratic")):
        assert formula(counts) == pytest.approx(sk.cohen_kappa_score(gold, run, weights=weights), abs=1e-9)
    units = np.stack([gold, run])
    nominal, ordinal = (krippendorff.alpha(units, level_of_measurement=level) for level in ("nominal", "ordinal"))
    assert metrics.krippendorff_nominal(counts) == pytest.approx(nominal, abs=1e-9)
    assert metrics.krippendorff_ordinal(counts) == pytest.approx(ordinal, abs=1e-9)
    assert metrics.macro_f1(counts) == pytest.approx(sk.f1_score(gold, run, average="macro"), abs=1e-9)
    by_label: Any = sk.precision_recall_fscore_support(gold, run, labels=[0, 1, 2], zero_division=ANY_NAN)
    for kind, expected in zip(("precision", "recall", "f1"), by_label, strict=False):
        np.testing.assert_allclose(metrics.BY_LABEL[kind](counts), expected, atol=1e-12)


@given(hnp.arrays(np.int64, (4, 3, 3), elements=st.integers(0, 9)))
def test_a_stack_of_matrices_gives_what_each_of_them_gives(stack: np.ndarray) -> None:
    for formula in (*metrics.FIGURES.values(), *metrics.BY_LABEL.values()):
        np.testing.assert_allclose(formula(stack), np.stack([formula(counts) for counts in stack]), atol=1e-12)


@given(st.one_of(two_labels, three_labels))
def test_ac1_is_one_only_for_full_agreement(counts: np.ndarray) -> None:
    found = metrics.ac1(counts)
    if not math.isnan(found):
        assert (found == pytest.approx(1.0)) == (counts.trace() == counts.sum())


@given(st.one_of(two_labels, three_labels))
def test_no_figure_is_ever_nan(counts: np.ndarray) -> None:
    scale = [f"L{i}" for i in range(len(counts))]
    found = metrics.setting_metrics(counts, scale).model_dump()
    flat = [found[k] for k in ("accuracy", "kappa", "kappa_quadratic", "krippendorff_nominal", "ac1", "macro_f1")]
    flat += [value for label in found["labels"].values() for value in label.values()]
    assert all(value is None or math.isfinite(value) for value in flat)
    assert sum(sum(row.values()) for row in found["confusion"].values()) == found["n"]
