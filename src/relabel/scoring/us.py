"""US figures by occupation: jobs and pay from OEWS, projections from the BLS, joined to O*NET-SOC or SOC 2018 codes.

The BLS publishes some SOC 2018 codes only as part of a combined code. Such a code gets the figures of the combined code, and
a status column says so. Another column gives the number of rows of the table with the same figures, so that a sum over rows
can count each job once: `(frame.employment_us / frame.wage_shared_by).sum()`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from relabel.errors import UsageError
from relabel.scoring.options import SAMPLE, Taxonomy
from relabel.scoring.table import ScoreTable
from relabel.sources import bls
from relabel.sources.bls import RATES, match_codes
from relabel.sources.fetch import source_use

# Taxonomies with BLS figures, because their codes map to SOC 2018.
TAXONOMIES: tuple[Taxonomy, ...] = ("onet-soc", "soc2018")

_MILITARY = "55-"
_ENTRY_NEEDS = ("education", "experience", "training")
_NUMBER = pa.Column("float64", pa.Check.ge(0), nullable=True)
_TEXT = pa.Column("str", nullable=True)
_COUNT = pa.Column("int64", pa.Check.ge(0))


# Columns of an OEWS release; those of an earlier release have a suffix.
_WAGES: Mapping[str, pa.Column] = {
    "employment_us": _NUMBER,
    **{f"{rate}_wage_usd": _NUMBER for rate in RATES},
    "wage_cap_usd": _NUMBER,
    **dict.fromkeys(("capped_wages", "wage_code", "wage_source"), _TEXT),
    "wage_shared_by": _COUNT,
    "wage_status": pa.Column("str"),
}


def us_schema() -> pa.DataFrameSchema:
    """US figures by code, for the registered releases.

    Columns without a suffix are from the latest OEWS, by default of May 2024, those that end in `_2023` from May 2023;
    `wage_source` says which. `employment_us` counts jobs of employees (OEWS); `projected_employment_*` counts all jobs,
    including self-employment (National Employment Matrix). Both refer to the BLS code in `wage_code` or `projection_code`.
    Wages are in US dollars a year; those named in `capped_wages` are missing, because the publisher only says that they
    are at least `wage_cap_usd`. `education, experience, training` are what the BLS calls typical for entry; its `None`
    becomes `none needed`, so that it is not read as missing. `..._shared_by` is the number of rows of the table with the
    same figures, 0 if there are none. A status says where figures come from, and why some are missing.
    """
    projection = bls.projection_release()
    return pa.DataFrameSchema(
        {
            "code": pa.Column("str", unique=True),
            "soc2018": pa.Column("str", pa.Check.str_matches(r"^\d{2}-\d{4}$")),
            **{f"{name}{r.suffix}": column for r in bls.wage_releases() for name, column in _WAGES.items()},
            f"projected_employment_{projection.start}": _NUMBER,
            f"projected_employment_{projection.end}": _NUMBER,
            "projected_change_percent": pa.Column("float64", nullable=True),
            "projected_openings_a_year": _NUMBER,
            **dict.fromkeys((*_ENTRY_NEEDS, "projection_code"), _TEXT),
            "projection_shared_by": _COUNT,
            "projection_status": pa.Column("str"),
        },
        strict=True,
        ordered=True,
    )


def us_files() -> tuple[tuple[str, str], ...]:
    """Source files of the figures, as pairs of source id and role; the last one lists the codes of SOC 2018."""
    wages = ((release.source, "wages") for release in bls.wage_releases())
    return (*wages, (bls.projection_release().source, "projections"), ("bls-soc2010-soc2018", "crosswalk"))


def us_figures(codes: Sequence[str]) -> pd.DataFrame:
    """BLS figures for some codes.

    Args:
        codes: Distinct O*NET-SOC 2019 or SOC 2018 codes; the first six digits of the former are a SOC 2018 code.

    Returns:
        One row per code, in the order given, schema `us_schema`.

    Raises:
        DataError: A source file cannot be obtained or is malformed.
    """
    frame = pd.DataFrame({"code": list(codes)}, dtype="str")
    frame["soc2018"] = frame["code"].str[:7]
    soc2018 = frozenset(bls.read_soc2010_soc2018()["soc2018"])
    projection = bls.projection_release()
    name = f"the BLS projections {projection.start}-{projection.end % 100:02}"
    parts = [
        _join_figures(frame["soc2018"], _wages(release), soc2018, f"OEWS ({release.period})", "wage").add_suffix(
            release.suffix
        )
        for release in bls.wage_releases()
    ]
    parts.append(_join_figures(frame["soc2018"], _projections(projection), soc2018, name, "projection"))
    schema = us_schema()
    return schema.validate(pd.concat([frame, *parts], axis=1)[list(schema.columns)])


def has_us_figures(table: ScoreTable) -> bool:
    """Whether there are BLS figures for a table: not for UK groups, nor for the invented sample."""
    return not table.has_own_codes and table.taxonomy in TAXONOMIES and table.tasks != SAMPLE


def with_us_figures(table: ScoreTable) -> ScoreTable:
    """Append the columns of `us_schema` to a score table by O*NET-SOC or SOC 2018.

    Raises:
        UsageError: There are no BLS figures for the taxonomy, or the table is of the invented sample.
        SourceMissingError: A source file cannot be obtained.
        DataError: A source file is damaged or malformed.
    """
    if not has_us_figures(table):
        raise UsageError(
            f"US figures exist for {' and '.join(TAXONOMIES)} only, not for other classifications and the invented sample; remove "
            "--us"
        )
    figures = us_figures([str(code) for code in table.frame["code"]])
    frame = table.frame.merge(figures, how="left", on="code", validate="1:1")
    return replace(table, frame=frame, sources=(*table.sources, *(source_use(*file) for file in us_files())))


def us_summary(frame: pd.DataFrame) -> str:
    """One line on how many rows of a table have figures of their own.

    Args:
        frame: A table with the columns of `us_schema`.
    """
    parts: list[str] = []
    for subject, status in (("jobs and pay", "wage_status"), ("projections", "projection_status")):
        kinds = frame[status].str.split().str[0].value_counts()
        own, combined, none = (int(kinds.get(kind, 0)) for kind in ("figures", "combined", "none:"))
        parts.append(f"{subject} of {own:,} codes by themselves, {combined:,} within combined codes, {none:,} missing")
    return f"US {'; '.join(parts)} (the columns wage_status and projection_status say which)"


def _join_figures(
    codes: pd.Series, figures: pd.DataFrame, soc2018: frozenset[str], name: str, kind: str
) -> pd.DataFrame:
    """Join the figures of a BLS table to SOC 2018 codes, with the BLS code and the status of each."""
    matches = match_codes(codes.tolist(), dict(zip(figures["row"], figures["title"], strict=True)), soc2018)
    rows = codes.map({code: row for code, (row, _) in matches.items()}).astype("str")
    joined = figures.set_index("row").drop(columns="title").reindex(rows).set_axis(codes.index)
    # The O*NET-SOC codes of one SOC code share its figures, and so do the SOC codes of a combined code.
    shared = rows.map(rows.value_counts()).fillna(0).astype("int64")
    found = codes.map({code: text for code, (_, text) in matches.items()}).astype("str")
    found = found.mask(shared > 1, found + "; shared by " + shared.astype("str") + " rows of this table")
    missing = "none: no row for " + codes + f" in {name}, and none that combines it with others"
    missing = missing.mask(codes.str.startswith(_MILITARY), f"none: the armed forces are outside of {name}")
    gaps = joined.pop("gaps").fillna("")
    status = found.where(rows.notna(), missing) + gaps.where(gaps == "", "; " + gaps)
    return joined.assign(**{f"{kind}_code": rows, f"{kind}_shared_by": shared, f"{kind}_status": status.astype("str")})


def _wages(release: bls.WageRelease) -> pd.DataFrame:
    table = bls.read_wages(release.source)
    table = table[table["group"] == "detailed"].reset_index(drop=True)
    cap = float(bls.read_wage_cap(release.source)["annual_usd"].iloc[0])
    flags = table[[f"annual_{rate}_flag" for rate in RATES]].set_axis(list(RATES), axis=1)
    capped = (flags == "top-coded").dot(pd.Series({rate: f"{rate} " for rate in RATES})).str.strip()
    rows = zip(flags.to_dict("records"), table["hourly_only"].tolist(), strict=True)
    gaps = [_wage_gaps(flagged, cap, hourly_only=hourly) for flagged, hourly in rows]
    return pd.DataFrame(
        {
            "row": table["soc2018"],
            "title": table["title"],
            "employment_us": table["employment"],
            "wage_source": f"OEWS {release.period}",
            **{f"{rate}_wage_usd": table[f"annual_{rate}_usd"] for rate in RATES},
            "capped_wages": capped.where(capped != "").astype("str"),
            "wage_cap_usd": np.where(capped != "", cap, np.nan),
            "gaps": pd.Series(gaps, index=table.index, dtype="str"),
        }
    )


def _wage_gaps(flags: Mapping[Any, object], cap: float, *, hourly_only: bool) -> str:
    gaps: list[str] = []
    if capped := [rate for rate, flag in flags.items() if flag == "top-coded"]:
        bound = "the highest wage that is published" if math.isnan(cap) else f"{cap:,.0f}"
        gaps.append(f"{', '.join(capped)} published only as at least {bound}")
    if without := [rate for rate, flag in flags.items() if flag == "not-available"]:
        reason = "the publisher gives hourly pay only" if hourly_only else "not published"
        gaps.append(f"{', '.join(without)} a year: {reason}")
    return "; ".join(gaps)


def _projections(release: bls.ProjectionRelease) -> pd.DataFrame:
    table = bls.read_projections(release.source)
    table = table[table["kind"] == "line-item"].reset_index(drop=True)
    return pd.DataFrame(
        {
            "row": table["soc2018"],
            "title": table["title"],
            # Published in thousands with one decimal; rounding removes floating-point noise.
            f"projected_employment_{release.start}": (1000 * table[f"employment_{release.start}_thousands"]).round(),
            f"projected_employment_{release.end}": (1000 * table[f"employment_{release.end}_thousands"]).round(),
            "projected_change_percent": table["change_percent"],
            "projected_openings_a_year": (1000 * table["openings_thousands"]).round(),
            **{need: table[need].replace("None", "none needed") for need in _ENTRY_NEEDS},
            "gaps": pd.Series("", index=table.index, dtype="str"),
        }
    )
