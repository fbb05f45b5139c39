"""The columns of a score table, and what must hold for them."""

from __future__ import annotations

import itertools

import pandas as pd
import pandera.pandas as pa

from relabel.rubric import MEASURES

COLUMNS = (
    "code",
    "title",
    "alpha",
    "beta",
    "gamma",
    "strict_10",
    "with_tools_10",
    "tasks",
    "coverage",
    "status",
    "employees",
    "median_pay_gbp",
    "wage_exposure_alpha_gbp",
    "wage_exposure_gamma_gbp",
    "percentile_alpha",
    "percentile_gamma",
    "rank_alpha",
    "rank_gamma",
    "weight_labelled",
    "wage_exposure_beta_gbp",
    "mean_pay_gbp",
    "employees_cv",
    "employees_quality",
    "median_pay_cv",
    "median_pay_quality",
    "pay_source",
    "pay_status",
    "note",
)
"""Columns of a score table, in order; those after the percentiles are extras beyond the contract."""

ENOUGH = 0.5
"""Least part (0-1) of a group's task weight that must have labels; with less its score is thin: no percentile."""

_TOLERANCE = 1e-9


def _share():
    return pa.Column("float64", pa.Check.in_range(0, 1 + _TOLERANCE), nullable=True)


def _in_order(frame: pd.DataFrame) -> bool:
    values = [frame[measure].dropna() for measure in MEASURES if frame[measure].notna().any()]
    return all(bool((low <= high).all()) for low, high in itertools.pairwise(values))


def _same_gaps(frame: pd.DataFrame) -> bool:
    gaps = [frame[measure].isna() for measure in MEASURES if frame[measure].notna().any()]
    return all(bool((gap == gaps[0]).all()) for gap in gaps)


SCORES = pa.DataFrameSchema(
    {
        "code": pa.Column("str", unique=True),
        "title": pa.Column("str"),
        "alpha": _share(),
        "beta": _share(),
        "gamma": _share(),
        "strict_10": pa.Column("float64", pa.Check.in_range(0, 10), nullable=True),
        "with_tools_10": pa.Column("float64", pa.Check.in_range(0, 10), nullable=True),
        "tasks": pa.Column("int64", pa.Check.ge(0)),
        "coverage": pa.Column("float64", pa.Check.in_range(0, 1 + _TOLERANCE)),
        "status": pa.Column("str", pa.Check.str_matches(r"^(scored|thin: .+|unscored: .+)( \(SAMPLE\))?$")),
        "employees": pa.Column("Int64", pa.Check.ge(0), nullable=True),
        "median_pay_gbp": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "wage_exposure_alpha_gbp": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "wage_exposure_gamma_gbp": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "percentile_alpha": pa.Column("Int64", pa.Check.in_range(0, 100), nullable=True),
        "percentile_gamma": pa.Column("Int64", pa.Check.in_range(0, 100), nullable=True),
        "rank_alpha": pa.Column("Int64", pa.Check.ge(1), nullable=True),
        "rank_gamma": pa.Column("Int64", pa.Check.ge(1), nullable=True),
        "weight_labelled": pa.Column("float64", pa.Check.in_range(0, 1 + _TOLERANCE), nullable=True),
        "wage_exposure_beta_gbp": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "mean_pay_gbp": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "employees_cv": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "employees_quality": pa.Column("str", nullable=True),
        "median_pay_cv": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "median_pay_quality": pa.Column("str", nullable=True),
        "pay_source": pa.Column("str", nullable=True),
        "pay_status": pa.Column("str", nullable=True),
        "note": pa.Column("str", nullable=True),
    },
    checks=[
        pa.Check(_same_gaps, error="a measure for all reached groups or for none"),
        pa.Check(_in_order, error="alpha <= beta <= gamma"),
    ],
    strict=True,
    ordered=True,
)
"""The score table, sorted by code.

`coverage` is the share (0-1) of all that a code stands for which the labels reach. By O*NET-SOC: labelled tasks as a
share of the task weight of the occupation. In every other taxonomy: that share, averaged with the weights of the bridge
over everything that is linked to the code, where a linked code without task statements or without a score counts as 0
(detailed O*NET-SOC codes without task statements are not counted). `weight_labelled` is the share (0-1) of the weight of
those tasks that are linked to the code which has labels, missing where no task is.

`status` is `scored` where the coverage is at least `ENOUGH`. Below that it is `thin` with the reason: the score stands,
but has no percentile and counts as no scored group. The method `site-2026` is judged by labels alone, as a part of what
its bridge reaches: the gaps of that bridge are faults that it was published with.
"""
