"""Tests of change, held to published and independent figures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from relabel.evaluation.comparison.transitions import mcnemar, stuart_maxwell

# Unaided vision of 7,477 women, right eye against left: the example of Stuart's paper.
VISION = np.array([[1520, 266, 124, 66], [234, 1512, 432, 78], [117, 362, 1772, 205], [36, 82, 179, 492]])


def test_stuart_maxwell_gives_the_figure_of_the_paper_that_it_comes_from() -> None:
    found = stuart_maxwell(VISION)
    assert found is not None
    assert found.df == 3
    assert found.statistic == pytest.approx(11.957, abs=0.001)
    assert found.p == pytest.approx(0.00753, abs=0.00001)


def test_for_two_labels_stuart_maxwell_is_mcnemar() -> None:
    found = stuart_maxwell(np.array([[50, 12], [5, 40]]))
    assert found is not None
    assert (found.df, found.statistic) == (1, pytest.approx(mcnemar(12, 5).statistic))


def test_a_label_that_nobody_uses_takes_no_part() -> None:
    wide = np.zeros((3, 3), dtype=np.int64)
    wide[:2, :2] = [[50, 12], [5, 40]]
    assert stuart_maxwell(wide) == stuart_maxwell(np.array([[50, 12], [5, 40]]))


def test_no_change_is_no_test() -> None:
    assert stuart_maxwell(np.diag([3, 4, 5])) is None
    assert mcnemar(0, 0).p_mid == 1


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test_and_mid_p_lies_below_it(up: int, down: int) -> None:
    found = mcnemar(up, down)
    exact = stats.binomtest(up, up + down).pvalue if up + down else 1.0
    assert found.p_exact == pytest.approx(exact)
    assert 0 < found.p_mid <= found.p_exact
    assert mcnemar(down, up).p_mid == pytest.approx(found.p_mid)


def test_few_moves_one_way_are_not_called_sure() -> None:
    assert mcnemar(4, 0).p_mid == pytest.approx(0.0625)
    assert mcnemar(4, 0).p_exact == pytest.approx(0.125)
