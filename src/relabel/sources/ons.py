"""UK Office for National Statistics: SOC 2020 and its coding index, pay by occupation with its quality."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from relabel.errors import DataError
from relabel.sources.fetch import cached, locate_role
from relabel.sources.registry import get_source
from relabel.sources.tables import UK_SOC_UNIT, Column, Schema, header_names, numbers, read_columns, validated

_LEVELS = {1: "major", 2: "sub-major", 3: "minor", 4: "unit"}

CODING_INDEX: Schema = {
    "unique_id": Column(r"\S", unique=True, header="UNIQUE ID"),
    "soc2020": Column(UK_SOC_UNIT, nullable=True, header="SOC_2020"),
    "isco08": Column(r"^\d{4}$", nullable=True, header="ISCO-08 code based on SOC2020"),
}
GROUPS: Schema = {
    "soc2020": Column(r"^\d{1,4}$", unique=True),
    "level": Column(among=_LEVELS.values()),
    "title": Column(r"\S", header="SOC 2020 Group Title"),
    "description": Column(r"\S", header="Group Description"),
    "tasks": Column(r"\S", nullable=True, header="Tasks"),
    "job_titles": Column(r"\S", nullable=True, header="Related Job Titles"),
}

# Header in the workbook, value column, and the stem of the columns of its flag, coefficient of variation and quality.
_MEASURES = [("(thousand)", "jobs", "jobs"), ("Median", "median_pay_gbp", "median"), ("Mean", "mean_pay_gbp", "mean")]
_FLAGS = {"x": "unreliable", "..": "disclosive", ":": "not-applicable", "-": "nil-or-negligible", ".": "unavailable"}
_BANDS = ("precise", "reasonably precise", "acceptable", "unreliable")

_FIGURE = Column(bounds=(0, math.inf), nullable=True)
ASHE: Schema = {
    "code": Column(r"^\d{1,4}$", nullable=True, unique=True, gaps=("",)),
    "title": Column(r"\S"),
    "level": Column(among=("all", *_LEVELS.values(), "not-classified")),
} | {
    name: column
    for _, value, stem in _MEASURES
    for name, column in (
        (value, _FIGURE),
        (f"{stem}_flag", Column(among=_FLAGS.values(), nullable=True)),
        (f"{stem}_cv", _FIGURE),
        (f"{stem}_quality", Column(among=_BANDS, nullable=True)),
    )
}
ASHE_MEDIANS: Schema = {
    "soc2020": Column(UK_SOC_UNIT, unique=True),
    "median_pay_gbp": replace(_FIGURE, header="p50", gaps=("",)),
}


@cached("coding-index", source="ons-soc2020")
def read_coding_index(path: Path) -> pd.DataFrame:
    """The index of job titles with their SOC 2020 and ISCO-08 codes (SOC 2020 volume 2).

    Returns:
        One row per index entry, 32,376 in version 13: `unique_id, soc2020, isco08`. Codes are missing if the entry only
        refers to another one (`}}}}`): SOC 2020 in 231 rows, ISCO-08 in 234.
    """
    frame = read_columns(path, header_names(CODING_INDEX), sheet="SOC2020 coding index")
    for name in ("soc2020", "isco08"):
        # Numeric cells have lost the leading zero of the codes of the armed forces.
        padded = frame[name].where(~frame[name].str.fullmatch(r"\d{3}"), "0" + frame[name])
        frame[name] = padded.where(padded.str.fullmatch(r"\d{4}"))
    return validated(path, frame, CODING_INDEX)


@cached("unit-groups", source="ons-soc2020")
def read_groups(path: Path) -> pd.DataFrame:
    """All groups of SOC 2020, from major to unit groups (SOC 2020 volume 1).

    Returns:
        One row per group, 551 (9 major, 26 sub-major, 104 minor, 412 unit): `soc2020` (1 to 4 digits), `level` (`major`,
        `sub-major`, `minor`, `unit`), `title, description, tasks, job_titles` (one item per line; unit groups only).
    """
    codes = {f"SOC 2020 {level.title()} Group": level for level in _LEVELS.values()}
    frame = read_columns(path, codes | header_names(GROUPS), sheet="SOC2020 descriptions")
    frame = frame.mask(frame.isin(["", "<blank>"]))
    code = frame["unit"]
    for name in ("minor", "sub-major", "major"):
        code = code.fillna(frame[name])
    for name in ("tasks", "job_titles"):
        frame[name] = frame[name].str.replace(r"\s*\n\s*", "\n", regex=True).str.replace(r"(?m)^~", "", regex=True)
    frame = frame.assign(soc2020=code, level=code.str.len().map(_LEVELS).astype("str"))
    return validated(path, frame, GROUPS)


def read_unit_groups(release: str = "ons-soc2020") -> pd.DataFrame:
    """The unit groups of SOC 2020.

    Args:
        release: Id of a source with the structure of SOC 2020.

    Returns:
        One row per unit group, 412, sorted by code: `soc2020` (four digits), `title, description, tasks, job_titles` (one
        item per line).
    """
    groups = read_groups(release)
    return groups[groups["level"] == "unit"].drop(columns="level").reset_index(drop=True)


@cached("pay", "pay-quality", source="ons-ashe-2024")
def read_ashe(path: Path, release: str) -> pd.DataFrame:
    """Annual gross pay of employees by occupation, with its quality (ASHE tables 14.7a and 14.7b, sheet All).

    Returns:
        One row per group of SOC 2020 at any level: `code` (missing for the totals), `title`, `level` (`all`, `major`,
        `sub-major`, `minor`, `unit`, `not-classified`). Then four columns for each of jobs, median and mean: the value
        (`jobs` in persons, which the publisher calls indicative; `median_pay_gbp`, `mean_pay_gbp` in pounds a year),
        `STEM_flag` (why a value is missing: `unreliable`, `disclosive`, `not-applicable`, `nil-or-negligible`), `STEM_cv`
        (coefficient of variation in percent) and `STEM_quality` (`precise` up to 5%, `reasonably precise` up to 10%,
        `acceptable` up to 20%, otherwise `unreliable`), where STEM is `jobs`, `median` or `mean`.
    """
    pay = _ashe_table(path)
    # A user may have registered a release without its coefficients of variation.
    rated = get_source(release).find_role("pay-quality") is not None
    quality_path = locate_role(release, "pay-quality") if rated else path
    quality = _ashe_table(quality_path) if rated else pay.assign(**{stem: "" for _, _, stem in _MEASURES})
    if not pay[["title", "code"]].equals(quality[["title", "code"]]):
        raise DataError(f"{path} and {quality_path} do not list the same groups; take both from one release")
    out = pay[["code", "title"]].copy()
    out["level"] = out["code"].str.len().map({0: "all"} | _LEVELS).astype("str")
    out["level"] = out["level"].mask(out["title"].str.casefold() == "not classified", "not-classified")
    for header, value, stem in _MEASURES:
        raw = pay[stem]
        figures = numbers(path, raw, header, ("", *_FLAGS))
        out[value] = figures * 1000 if stem == "jobs" else figures
        flag = raw.map(_FLAGS).astype("str")
        # If a whole row is withheld, only its first cell has the flag, and the others are empty.
        out[f"{stem}_flag"] = flag if stem == "jobs" else flag.mask(raw == "", out["jobs_flag"])
        out[f"{stem}_cv"] = numbers(quality_path, quality[stem], header, ("", *_FLAGS))
        out[f"{stem}_quality"] = _band(out[f"{stem}_cv"], withheld=raw == "x")
    return validated(path, out, ASHE)


@cached("quartiles", source="ons-ashe-2025-medians")
def read_ashe_medians(path: Path) -> pd.DataFrame:
    """Medians of annual gross pay, from a derived extract without job counts or quality.

    Returns:
        One row per unit group of SOC 2020, 412: `soc2020, median_pay_gbp` (pounds a year; missing if withheld, in 49
        rows).
    """
    try:
        groups: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        medians = {code: entry["p50"] for code, entry in groups.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path} is not a JSON object with the median p50 of each group ({error}); check that it is the right file"
        ) from error
    frame = pd.DataFrame({"soc2020": list(medians), "median_pay_gbp": list(medians.values())})
    return validated(path, frame.astype({"soc2020": "str"}), ASHE_MEDIANS)


def _ashe_table(path: Path) -> pd.DataFrame:
    columns = {"Code": "code", "Description": "title"} | {header: stem for header, _, stem in _MEASURES}
    frame = read_columns(path, columns, sheet="All")
    # Skip the footnotes below the table, which fill only the first column.
    return frame[(frame["code"] != "") | (frame["jobs"] != "")].reset_index(drop=True)


def _band(cv: pd.Series, withheld: pd.Series) -> pd.Series:
    """The publisher's quality rating for a coefficient of variation in percent."""
    bands = pd.cut(cv, [0, 5, 10, 20, float("inf")], labels=list(_BANDS), include_lowest=True).astype("str")
    return bands.mask(withheld, _BANDS[-1])
