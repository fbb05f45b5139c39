"""US Bureau of Labor Statistics: crosswalks, employment projections, wages."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from relabel.errors import DataError, UsageError
from relabel.settings import settings
from relabel.sources.fetch import cached
from relabel.sources.registry import Source, load_registry
from relabel.sources.tables import SOC, Column, Schema, cell_text, header_names, read_columns, read_rows, validated

_CAP = re.compile(r"equal to or greater than .*\$([\d,]+) per year")
# The BLS appends this mark to titles of groups without a counterpart of their own in 2018.
_TITLE_MARK = r"\s*\(##\)$"

ISCO08_SOC2010: Schema = {
    "isco08": Column(r"^\d{3,4}$", header="ISCO-08 Code"),
    "isco08_title": Column(r"\S", header="ISCO-08 Title EN"),
    "soc2010": Column(SOC, header="2010 SOC Code"),
    "soc2010_title": Column(r"\S", header="2010 SOC Title"),
}
SOC2010_SOC2018: Schema = {
    "soc2010": Column(SOC, header="2010 SOC Code"),
    "soc2010_title": Column(r"\S", header="2010 SOC Title"),
    "soc2018": Column(SOC, header="2018 SOC Code"),
    "soc2018_title": Column(r"\S", header="2018 SOC Title"),
}


def _figure(header: str, gaps: Collection[str]) -> Column:
    return Column(bounds=(0, math.inf), nullable=True, header=header, gaps=gaps)


# Pay figures in OEWS: the mean, the median, and percentiles.
RATES = ("mean", "p10", "p25", "median", "p75", "p90")
_FLAGS = {"*": "not-available", "**": "not-available", "#": "top-coded"}
WAGES: Schema = {
    "soc2018": Column(SOC, header="OCC_CODE"),
    "title": Column(r"\S", header="OCC_TITLE"),
    "group": Column(among=("total", "major", "minor", "broad", "detailed"), header="O_GROUP|OCC_GROUP"),
    "employment": _figure("TOT_EMP", ("", "*", "**")),
    **{
        name: column
        for rate in RATES
        for name, column in (
            (f"annual_{rate}_usd", _figure(f"A_{rate.upper().replace('P', 'PCT')}", ("", *_FLAGS))),
            (f"annual_{rate}_flag", Column(among=("top-coded", "not-available"), nullable=True)),
        )
    },
    "hourly_only": Column(header="HOURLY"),
}


@dataclass(frozen=True)
class WageRelease:
    """A release of OEWS.

    Attributes:
        source: Its source id, such as `bls-oews-2024`.
        period: For example `May 2024`.
        suffix: Suffix of its columns, such as `_2023`; empty for the release in use, which is the latest or the one named
            in `RELABEL_US_RELEASES`.
    """

    source: str
    period: str
    suffix: str


@dataclass(frozen=True)
class ProjectionRelease:
    """A release of the employment projections: its source id, and the first and last year."""

    source: str
    start: int
    end: int


def wage_releases() -> tuple[WageRelease, ...]:
    """Registered releases of OEWS, including the user's: the one in use, then the others, latest first.

    Of several releases for one year, the last registered is used.

    Raises:
        DataError: An entry does not give its year.
        UsageError: `RELABEL_US_RELEASES` names an unknown source, or several.
    """
    entries = _registered("wages", r"(?<!\d)((?:19|20)\d\d)(?!\d)")
    by_year = {years[0]: (chosen, source) for chosen, source, years in sorted(entries, key=lambda entry: entry[0])}
    years = sorted(by_year, key=lambda year: (by_year[year][0], year), reverse=True)
    return tuple(
        WageRelease(by_year[year][1].id, by_year[year][1].release, f"_{year}" if rank else "")
        for rank, year in enumerate(years)
    )


def projection_release() -> ProjectionRelease:
    """The employment projections in use: those named in `RELABEL_US_RELEASES`, or the latest registered.

    Raises:
        DataError: An entry does not give its years.
        UsageError: `RELABEL_US_RELEASES` names an unknown source, or several.
    """
    return max(_projections(), key=lambda entry: (entry[0], entry[1].start))[1]


def _projections() -> list[tuple[bool, ProjectionRelease]]:
    """Registered projections, and whether they are chosen."""
    entries = _registered("projections", r"(?<!\d)((?:19|20)\d\d)\D+(\d\d(?:\d\d)?)(?!\d)")
    return [
        (chosen, ProjectionRelease(source.id, int(start), int(start[: 4 - len(end)] + end)))
        for chosen, source, (start, end) in entries
    ]


def _registered(role: str, years: str) -> list[tuple[bool, Source, Sequence[str]]]:
    """Sources with a role: whether `RELABEL_US_RELEASES` names them, and the years in their release or, if it has none, their id."""
    sources = load_registry()
    usable = [name for name, source in sources.items() if source.find_role("wages") or source.find_role("projections")]
    named = [name.strip() for name in settings().us_releases.split(",") if name.strip()]
    if unknown := [name for name in named if name not in usable]:
        raise UsageError(
            f"RELABEL_US_RELEASES names {unknown[0]!r}, which has no US jobs or projections; choose from {', '.join(usable)}, or "
            "register it in your RELABEL_SOURCES file with the role wages or projections"
        )
    entries: list[tuple[bool, Source, Sequence[str]]] = []
    for source in sources.values():
        if source.find_role(role) is None:
            continue
        match = re.search(years, source.release) or re.search(years, source.id)
        if match is None:
            raise DataError(
                f"the source {source.id} has the role {role} but names no year; write its release like 'May 2025' or '2025-35'"
            )
        entries.append((source.id in named, source, match.groups()))
    if sum(chosen for chosen, *_ in entries) > 1:
        raise UsageError(f"RELABEL_US_RELEASES names several sources of {role}; name one of them")
    return entries


@cached("crosswalk", source="bls-isco08-soc2010")
def read_isco08_soc2010(path: Path) -> pd.DataFrame:
    """The crosswalk between ISCO-08 and SOC 2010.

    Returns:
        One row per pair of codes, many-to-many, in the order of ISCO-08: `isco08, isco08_title, soc2010, soc2010_title`;
        1,125 rows. Two of them have a three-digit ISCO-08 group, 211 and 315.
    """
    frame = read_columns(path, header_names(ISCO08_SOC2010), sheet="ISCO-08 to 2010 SOC")
    return validated(path, frame, ISCO08_SOC2010, unique=["isco08", "soc2010"])


@cached("crosswalk", source="bls-soc2010-soc2018")
def read_soc2010_soc2018(path: Path) -> pd.DataFrame:
    """The crosswalk between SOC 2010 and SOC 2018.

    Returns:
        One row per pair of codes, many-to-many: `soc2010, soc2010_title, soc2018, soc2018_title`; 900 rows. The mark
        `(##)` after some titles is removed.
    """
    frame = read_columns(path, header_names(SOC2010_SOC2018), sheet="Sorted by 2010")
    titles = {name: frame[name].str.replace(_TITLE_MARK, "", regex=True) for name in ("soc2010_title", "soc2018_title")}
    return validated(path, frame.assign(**titles), SOC2010_SOC2018, unique=["soc2010", "soc2018"])


@cached("projections", source="bls-ep-2024-34")
def read_projections(path: Path, release: str) -> pd.DataFrame:
    """Employment projections by occupation: table 1.2.

    Returns:
        One row per code and kind, 1,113 for 2024-34 (832 line items, 281 summaries): `soc2018, title, kind` (`line-item`
        or `summary`), `employment_2024_thousands, employment_2034_thousands` (jobs), `change_percent,
        openings_thousands` (annual average), `education, experience, training` (text; the publisher writes `None` if none
        is needed).
    """
    start, end = next((entry.start, entry.end) for _, entry in _projections() if entry.source == release)
    span, dash = f"{start}–{end % 100:02}", ("", "—")
    needs = {
        "education": "Typical education needed for entry",
        "experience": "Work experience in a related occupation",
        "training": "Typical on-the-job training needed to attain competency in the occupation",
    }
    schema: Schema = {
        "soc2018": Column(SOC, header=f"{start} National Employment Matrix code"),
        "title": Column(r"\S", header=f"{start} National Employment Matrix title"),
        "kind": Column(among=("line-item", "summary"), header="Occupation type"),
        f"employment_{start}_thousands": _figure(f"Employment, {start}", dash),
        f"employment_{end}_thousands": _figure(f"Employment, {end}", dash),
        "change_percent": replace(_figure(f"Employment change, percent, {span}", dash), bounds=(-math.inf, math.inf)),
        "openings_thousands": _figure(f"Occupational openings, {span} annual average", dash),
        **{need: Column(r"\S", nullable=True, header=header, gaps=dash) for need, header in needs.items()},
    }
    frame = read_columns(path, header_names(schema), sheet="Table 1.2")
    # Skip the footnotes below the table, which fill only the first column.
    frame = frame[frame["kind"] != ""].reset_index(drop=True)
    frame["kind"] = frame["kind"].str.lower().str.replace(" ", "-")
    return validated(path, frame, schema, unique=["soc2018", "kind"])


@cached("wages", source="bls-oews-2024")
def read_wages(path: Path) -> pd.DataFrame:
    """National wages by occupation (OEWS).

    Returns:
        One row per code and group, 1,403: `soc2018` (or an OEWS code for several SOC codes combined), `title`, `group`
        (`total`, `major`, `minor`, `broad`, `detailed`), `employment` (jobs); for each of `RATES` a wage
        `annual_..._usd` and an `annual_..._flag`; `hourly_only` (bool). A flag is `top-coded` if the publisher gives only
        a lower bound, `not-available` if it gives nothing; the wage is then missing.
    """
    frame = read_columns(path, header_names(WAGES))
    frame["hourly_only"] = frame["hourly_only"].str.upper() == "TRUE"
    for rate in RATES:
        frame[f"annual_{rate}_flag"] = frame[f"annual_{rate}_usd"].map(_FLAGS).astype("str")
    return validated(path, frame, WAGES, unique=["soc2018", "group"])


@cached("wages", source="bls-oews-2024")
def read_wage_cap(path: Path) -> pd.DataFrame:
    """The top code of OEWS: higher annual wages are published only as at least this.

    Returns:
        One row: `annual_usd`, from the workbook's field descriptions; 239,200 in May 2023 and May 2024, missing if the file
        has none, as releases before 2019 and CSV files.
    """
    text = ""
    with suppress(DataError):
        text = "\n".join(cell_text(cell) for row in read_rows(path, "Field Descriptions") for cell in row)
    match = _CAP.search(text)
    return pd.DataFrame({"annual_usd": [float(match[1].replace(",", "")) if match else math.nan]})


def match_codes(codes: Sequence[str], rows: Mapping[str, str], soc2018: frozenset[str]) -> dict[str, tuple[str, str]]:
    """Find the code under which the BLS publishes each SOC 2018 code.

    This is its own row, if there is one; otherwise the only row of its broad group (first six characters) whose code is not
    in SOC 2018 and therefore combines several. If there is none, or more than one, the code has no figures.

    Args:
        codes: SOC 2018 codes.
        rows: Titles by code of the BLS table, detailed rows only.
        soc2018: All SOC 2018 codes.

    Returns:
        BLS code and status in words, by SOC 2018 code; codes without figures are left out.
    """
    combined: dict[str, list[str]] = {}
    for row in rows:
        if row not in soc2018:
            combined.setdefault(row[:6], []).append(row)
    result: dict[str, tuple[str, str]] = {}
    for code in dict.fromkeys(codes):
        within = combined.get(code[:6], [])
        if code in rows:
            result[code] = code, f"figures of SOC {code}"
        elif len(within) == 1:
            members = sorted(other for other in soc2018 if other[:6] == code[:6] and other not in rows)
            result[code] = within[0], f"combined code {within[0]} ({rows[within[0]]}) for {', '.join(members)} together"
    return result
