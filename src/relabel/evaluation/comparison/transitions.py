"""Tests of change between two sets of labels for the same tasks, from their transition matrix.

A transition matrix holds counts of shape (k, k): rows the first run's labels, columns the second's. These tests take
tasks as independent, which tasks of one occupation are not; their p-values are too small by as much. The main evidence
of a comparison is therefore the interval of a difference by bootstrap over occupations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from relabel.evaluation.frozen import Frozen

Counts = npt.NDArray[np.int64]


class McNemar(Frozen):
    """McNemar's test of two labels, or of right against wrong.

    Attributes:
        up: Tasks that moved from the first label to the second.
        down: Tasks that moved back.
        statistic: `(up - down)² / (up + down)`, without continuity correction; null when nothing moved.
        p_exact: Two-sided p of the exact binomial test.
        p_mid: The same with half the weight of the case at hand: less conservative, and right for few moves too.
    """

    up: int
    down: int
    statistic: float | None
    p_exact: float
    p_mid: float


class StuartMaxwell(Frozen):
    """Stuart and Maxwell's test that both runs use the labels equally often.

    Attributes:
        statistic: Chi-squared.
        df: Degrees of freedom: one less than the labels whose shares can differ.
        p: p-value.
    """

    statistic: float
    df: int
    p: float


def mcnemar(up: int, down: int) -> McNemar:
    """McNemar's test.

    Args:
        up: Tasks that moved one way.
        down: Tasks that moved the other way.

    Returns:
        Exact and mid-p values, both two-sided; 1 when nothing moved.

    Source: McNemar 1947, doi:10.1007/BF02295996; mid-p, Fagerland et al. 2013, doi:10.1186/1471-2288-13-91.
    """
    moved = up + down
    if not moved:
        return McNemar(up=0, down=0, statistic=None, p_exact=1.0, p_mid=1.0)
    fewer = min(up, down)
    tail = float(stats.binom.cdf(fewer, moved, 0.5))
    here = float(stats.binom.pmf(fewer, moved, 0.5))
    return McNemar(
        up=up,
        down=down,
        statistic=(up - down) ** 2 / moved,
        p_exact=min(1.0, 2 * tail),
        p_mid=min(1.0, 2 * tail - here),
    )


def stuart_maxwell(counts: Counts) -> StuartMaxwell | None:
    """Stuart and Maxwell's test of marginal homogeneity.

    Args:
        counts: Transition matrix, shape (k, k).

    Returns:
        The test; None when no task moved. Labels between which and all others nothing moved take no part.

    Source: Stuart 1955, doi:10.1093/biomet/42.3-4.412; Maxwell 1970, doi:10.1192/bjp.116.535.651.
    """
    moved = counts.astype(float)
    np.fill_diagonal(moved, 0.0)
    difference = moved.sum(axis=1) - moved.sum(axis=0)
    covariance = np.diag(moved.sum(axis=1) + moved.sum(axis=0)) - moved - moved.T
    # The labels' differences sum to nought within each group of labels that exchange tasks, so the rank is the number
    # of free ones, also where a label is unused or two groups exchange nothing.
    df = int(np.linalg.matrix_rank(covariance))
    if not df:
        return None
    statistic = float(difference @ np.linalg.pinv(covariance, hermitian=True) @ difference)
    return StuartMaxwell(statistic=statistic, df=df, p=float(stats.chi2.sf(statistic, df)))
