"""Jobs and pay by UK unit group: from ASHE, from the sample, or from a user's own file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from relabel.errors import ColumnError, DataError, UsageError
from relabel.rubric import MEASURES
from relabel.scoring.options import SAMPLE
from relabel.settings import asset_dir
from relabel.sources import fetch, ons, registry
from relabel.sources.fetch import SourceUse, file_use
from relabel.sources.registry import Source
from relabel.sources.tables import Table, is_table_file, plain_id, read_table
from relabel.tabular import listed_names
from relabel.task import is_other_title

# Jobs (persons), median and mean gross pay (pounds a year) by UK unit group. Suppressed or unknown figures are missing;
# `pay_status` gives the reason for jobs and median pay. `..._cv` is the publisher's coefficient of variation in percent,
# `..._quality` its quality rating; both are missing if the publisher gives none.
PAY = pa.DataFrameSchema(
    {
        "code": pa.Column("str", pa.Check.str_matches(r"^\d{4}$"), unique=True),
        "employees": pa.Column("Int64", pa.Check.ge(0), nullable=True),
        "median_pay_gbp": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "mean_pay_gbp": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "employees_cv": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "employees_quality": pa.Column("str", nullable=True),
        "median_pay_cv": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "median_pay_quality": pa.Column("str", nullable=True),
        "pay_source": pa.Column("str"),
        "pay_status": pa.Column("str", nullable=True),
    },
    strict=True,
    ordered=True,
)

# The publisher's measures of precision for jobs and median pay.
QUALITY = ("employees_cv", "employees_quality", "median_pay_cv", "median_pay_quality")

# ASHE's flags in words.
_FLAGS = {
    "unreliable": "withheld as unreliable",
    "disclosive": "withheld as disclosive",
    "not-applicable": "not applicable",
    "nil-or-negligible": "nil or negligible",
    "unavailable": "not available",
}

_ASHE_COLUMNS = {
    "jobs": "employees",
    "jobs_cv": "employees_cv",
    "jobs_quality": "employees_quality",
    "median_cv": "median_pay_cv",
    "median_quality": "median_pay_quality",
}

# The default source of pay, and the source of job counts for an extract without them.
ASHE = "ons-ashe-2024"
# The population that ASHE table 14.7 covers.
ASHE_POPULATION = "employees on adult rates of pay who have been in the same job for more than a year; the self-employed are not counted"


@dataclass(frozen=True)
class Pay:
    """Pay by UK unit group.

    Attributes:
        name: The `ref` given to `read_pay`; for a user's file, the file name.
        frame: Table of schema `PAY`.
        sources: The files that it was read from.
        workforce: All jobs (persons), including those of withheld groups; None if the source does not say.
        population: Whose jobs and pay these are, in words; None if the source does not say.
    """

    name: str
    frame: pd.DataFrame
    sources: tuple[SourceUse, ...]
    workforce: int | None = None
    population: str | None = None


def read_pay(ref: str, titles: Mapping[str, str]) -> Pay:
    """Read jobs and pay.

    Args:
        ref: A source with the role `pay` (ASHE table 14.7 of some year), such as `ons-ashe-2024`; one with the role
            `quartiles`, `ons-ashe-2025-medians` (medians of 2025 where the extract has one, otherwise of 2024, with the
            jobs of 2024); `sample`; or the path of a table with the columns `code` (or `uk_soc2020`), `employees`,
            `median_pay_gbp` and optionally `mean_pay_gbp`, or with column names that declare their units (see `_COLUMNS`). Groups
            missing from a user's file have no pay.
        titles: Titles of the unit groups by code; a user's file may contain no other codes.

    Raises:
        UsageError: There is no such source of pay.
        DataError: A file is missing or malformed; for a user's file, the message names line and column.
    """
    known_sources = registry.load_registry()
    source = known_sources.get(ref)
    if source is not None and (source.find_role("pay") or source.find_role("quartiles")):
        newer = source.find_role("pay") is None
        frame, workforce = _newer_medians(source) if newer else _ashe(source)
        files = [(ref, role) for role in ("quartiles", "pay", "pay-quality") if source.find_role(role) is not None]
        files += [(ASHE, "pay"), (ASHE, "pay-quality")] if newer else []
        uses = tuple(fetch.source_use(*file) for file in files)
        return Pay(ref, PAY.validate(frame), uses, workforce, ASHE_POPULATION)
    if ref == SAMPLE:
        path = asset_dir("data") / SAMPLE / "pay.csv"
        return Pay(ref, _read_file(path, titles, "SAMPLE: invented"), (file_use(path, SAMPLE),))
    path = Path(ref)
    if not is_table_file(path):
        pay_sources = [s.id for s in known_sources.values() if s.find_role("pay") or s.find_role("quartiles")]
        raise UsageError(
            f"unknown source of pay {ref!r}; use one of {', '.join(pay_sources)}, or the path of a CSV or Excel file; another year of "
            "ASHE table 14.7 is an entry with the roles pay and pay-quality in your RELABEL_SOURCES file"
        )
    return Pay(path.name, _read_file(path, titles, f"file {path.name}"), (file_use(path, "pay-file"),))


def _release(source: Source) -> str:
    """The release as shown in each row: `2024 (provisional)` for `2024 provisional`."""
    return re.sub(r"^(\d{4}) ([^(].*)$", r"\1 (\2)", source.release)


def _ashe(source: Source) -> tuple[pd.DataFrame, int | None]:
    """Pay by unit group, and the jobs of all employees.

    Raises:
        DataError: The pay is not a year's, or by another classification, in which a code may mean another group.
    """
    ashe = ons.read_ashe(source.id)
    everyone = ashe.loc[ashe["level"] == "all", "jobs"].dropna()
    workforce = None if everyone.empty else round(float(everyone.iloc[0]))
    frame = ashe[ashe["level"] == "unit"].rename(columns=_ASHE_COLUMNS)
    unknown, middle = sorted({*frame["code"]} - {*ons.read_unit_groups()["soc2020"]}), frame["median_pay_gbp"].median()
    if unknown or middle < _PAY.middle[0]:
        odd = f"the group {unknown[0]}" if unknown else f"{middle:,.0f} pounds as the middle group's median pay"
        raise DataError(
            f"{source.id} has {odd}, so it is not annual pay by UK SOC 2020; register table 14.7a, of 2021 or later"
        )
    frame["employees"] = frame["employees"].round().astype("Int64")
    reasons = {
        "jobs": frame["jobs_flag"].map(_FLAGS).where(frame["employees"].isna()),
        "median pay": frame["median_flag"].map(_FLAGS).where(frame["median_pay_gbp"].isna()),
    }
    frame = frame.assign(pay_source=f"ASHE {_release(source)}", pay_status=_reasons(reasons))
    return frame[list(PAY.columns)].reset_index(drop=True), workforce


def _newer_medians(source: Source) -> tuple[pd.DataFrame, int | None]:
    newer = ons.read_ashe_medians(source.id).set_index("soc2020")["median_pay_gbp"]
    jobs = registry.get_source(ASHE)
    frame, workforce = _ashe(jobs)
    year, jobs_year = (s.release.split()[0] for s in (source, jobs))
    origin = f"median of ASHE {_release(source)}, jobs of ASHE {jobs_year}: the {year} extract has no job counts"
    median = frame["code"].map(newer).astype("float64")
    renewed = median.notna()
    frame["median_pay_gbp"] = median.where(renewed, frame["median_pay_gbp"])
    # The extract comes without coefficients of variation.
    frame["median_pay_cv"] = frame["median_pay_cv"].mask(renewed)
    frame["median_pay_quality"] = frame["median_pay_quality"].mask(renewed)
    frame["pay_source"] = frame["pay_source"].mask(renewed, origin)
    # Drop the reason for a withheld median that a newer one replaces; the reason for jobs, of the older release, stays.
    only_jobs = frame["pay_status"].str.replace(r"(^|; )median pay: .*$", "", regex=True)
    frame["pay_status"] = frame["pay_status"].mask(renewed, only_jobs.where(only_jobs != ""))
    return frame, workforce


def _reasons(by_figure: dict[str, pd.Series]) -> pd.Series:
    """Missing figures with the reason, such as `jobs: withheld as unreliable; median pay: withheld as disclosive`."""
    frame = pd.DataFrame(by_figure)
    texts = [
        "; ".join(f"{figure}: {reason}" for figure, reason in row.items() if isinstance(reason, str)) or None
        for row in frame.to_dict("records")
    ]
    return pd.Series(texts, index=frame.index, dtype="str")


def _read_file(path: Path, titles: Mapping[str, str], origin: str) -> pd.DataFrame:
    advice = "give a CSV or Excel file with columns code, employees, median_pay_gbp"
    file = read_table(path, rows_are="each group", advice=advice)
    key = file.find("code", "uk_soc2020") or file.columns("code")["code"]
    title = file.find("title", "uk_title", "uk_soc2020_title", "group")
    found = {figure: _find_column(file, figure) for figure in _COLUMNS}
    columns = {figure: column for figure, column in found.items() if column is not None}
    seen: dict[str, int] = {}
    rows: list[Mapping[str, object]] = []
    for line, cells in file.rows:
        code = plain_id(cells[key])
        if code not in titles:
            raise file.fault(line, f": {code!r} is not a group of UK SOC 2020; correct it", key)
        if (first := seen.setdefault(code, line)) != line:
            raise file.fault(line, f": {code} is given twice, first in line {first}; keep one line a group", key)
        rows.append(
            {"code": code}
            | {
                figure: _number(file, line, column, cells[column], whole=figure == "employees" and (factor or 1) == 1)
                for figure, (column, factor) in columns.items()
            }
        )
    named = {plain_id(cells[key]): cells[title] for _, cells in file.rows} if title else {}
    wrong = [code for code, given in named.items() if is_other_title(given, titles[code])]
    if 2 * len(wrong) > len(rows):  # a spreadsheet was probably sorted by some of its columns
        raise DataError(
            f"{path}: the titles of {len(wrong)} of {len(rows)} groups are not those of their codes, such as {named[wrong[0]]!r} "
            f"for {wrong[0]} ({titles[wrong[0]]}); correct the rows, or remove the column {title}"
        )
    frame = pd.DataFrame(rows, columns=["code", *_COLUMNS]).astype(
        {"code": "str", **dict.fromkeys(_COLUMNS, "float64")}
    )
    for figure, (column, factor) in columns.items():
        frame[figure] *= factor or 1
        _require_plausible(path, column, frame.set_index("code")[figure], figure, declared=factor is not None)
    frame["employees"] = frame["employees"].round().astype("Int64")
    converted = [f"{column} x {factor}" for column, factor in columns.values() if (factor or 1) != 1]
    origin += f" ({', '.join(converted)})" if converted else ""
    empty = {
        name: pd.Series("left empty in the file", index=frame.index, dtype="str").where(frame[column].isna())
        for name, column in (("jobs", "employees"), ("median pay", "median_pay_gbp"))
    }
    for name in QUALITY:
        frame[name] = pd.Series(None, index=frame.index, dtype="float64" if name.endswith("_cv") else "str")
    return PAY.validate(frame.assign(pay_source=origin, pay_status=_reasons(empty)))


# Columns of a pay file by figure, with the factor that makes persons or pounds a year of them; None: no unit declared.
_COLUMNS: Mapping[str, Mapping[str, int | None]] = {
    "employees": {
        **dict.fromkeys(("employees", "jobs", "number_of_jobs")),
        "employees_persons": 1,
        **dict.fromkeys(("employees_thousands", "jobs_thousands", "jobs_thousand", "number_of_jobs_thousand"), 1000),
    },
    **{
        f"{kind}_pay_gbp": {
            **dict.fromkeys((f"{kind}_pay_gbp", kind, f"{kind}_pay")),
            **{f"{kind}_{unit}_pay_gbp": factor for unit, factor in (("annual", 1), ("monthly", 12), ("weekly", 52))},
        }
        for kind in ("median", "mean")
    },
}


def _find_column(file: Table, figure: str) -> tuple[str, int | None] | None:
    """The column of a file that holds jobs or pay, with its factor; None if the file has no mean pay.

    Raises:
        ColumnError: There is no such column; the message names those that declare a unit.
        DataError: There are several, or the column is in another currency.
    """
    found = [(name, factor) for known, factor in _COLUMNS[figure].items() if (name := file.find(known)) is not None]
    if len(found) > 1:
        names = " and ".join(name for name, _ in found)
        raise DataError(f"{file.path} has the columns {names}, which both are {figure}; keep one")
    if not found and figure == "mean_pay_gbp":
        return None
    if not found:
        raise ColumnError(file.path, figure, file.header, advice=_name_by_unit(figure))
    if foreign := re.search(r"[$€¥]|\b(usd|eur)\b", found[0][0], re.IGNORECASE):
        raise DataError(f"{file.path}: the column {found[0][0]!r} is in {foreign[0]}; convert it to pounds a year")
    return found[0]


def _name_by_unit(figure: str) -> str:
    of_figure = figure.partition("_")[0]
    names = ", ".join(name for name, factor in _COLUMNS[figure].items() if factor and name.startswith(of_figure))
    return f"name the column by its unit: {names}; convert other units and currencies first"


@dataclass(frozen=True)
class _Plausible:
    """Plausible range of a figure, used to detect values in another unit.

    Attributes:
        bounds: Lowest and highest value of a group.
        middle: Lowest and highest median over groups.
        unit: The unit in words.
    """

    bounds: tuple[int, int]
    middle: tuple[int, int]
    unit: str


# In ASHE 2024 groups have 4,000 to 814,000 jobs, with a median of 36,000: figures under 2,000 are probably thousands.
_JOBS = _Plausible((2_000, 2_000_000), (5_000, 200_000), "persons in the UK")
# In ASHE 2024, median pay of groups is 10,322 to 96,415 pounds a year, with a median of 32,127, except in `_FEW_HOURS`.
# No monthly pay reaches 10,000.
_PAY = _Plausible((10_000, 200_000), (15_000, 80_000), "pounds a year")
# Groups with short hours, such as midday supervisors and cleaners: 1,902 to 12,000 pounds a year in ASHE 2024 and 2025.
_FEW_HOURS = ("6117", "6137", "7112", "9223", "9232", "9233", "9263", "9264", "9265", "9267")
_FEW_HOURS_LOW = 1_500
_MAX_TOTAL_JOBS = 50_000_000
# With at least this many groups, their median must be plausible too.
_MIN_GROUPS_FOR_MEDIAN = 10


def _require_plausible(path: Path, column: str, figures: pd.Series, figure: str, *, declared: bool) -> None:
    """Refuse figures that cannot be persons or pounds a year.

    Figures are refused if they are too large, or too small in a column whose name declares no unit.

    Args:
        path: The file.
        column: Its column, for the message.
        figures: Figures by code, in persons or pounds a year.
        figure: Which figure, a key of `_COLUMNS`.
        declared: Whether the column name declares the unit.

    Raises:
        DataError: Figures are outside the plausible range; the message gives the range and the groups.
    """
    figures = figures.dropna().astype("float64")
    limits = _JOBS if figure == "employees" else _PAY
    low, high = limits.bounds
    lowest = pd.Series(low, index=figures.index)
    if limits is _PAY:
        lowest[figures.index.isin(_FEW_HOURS)] = _FEW_HOURS_LOW
    implausible = figures[(figures > high) | ((figures > 0) & (figures < lowest) & (not declared))]
    middle, total = float(figures.median()), float(figures.sum())
    problem = ""
    if len(implausible):
        named = listed_names([f"{code}: {figure:,.0f}" for code, figure in implausible.items()], 3)
        problem = f"{named} cannot be {limits.unit} (plausible: {low:,} to {high:,} for each group)"
    elif not declared and len(figures) >= _MIN_GROUPS_FOR_MEDIAN and not limits.middle[0] <= middle <= limits.middle[1]:
        plausible = "{:,} to {:,}".format(*limits.middle)
        problem = f"{middle:,.0f} for the middle group cannot be {limits.unit} (plausible: {plausible})"
    elif limits is _JOBS and total > _MAX_TOTAL_JOBS:
        problem = f"{total:,.0f} in all cannot be {limits.unit} (plausible: {_MAX_TOTAL_JOBS:,} or less)"
    if problem:
        raise DataError(f"{path}, column {column}: {problem}; {_name_by_unit(figure)}")


def wage_totals(frame: pd.DataFrame, workforce: int | None) -> dict[str, float | int | None]:
    """Sums over groups with a score, jobs and pay; groups with thin scores are excluded.

    Args:
        frame: A score table.
        workforce: As `Pay.workforce`.

    Returns:
        `wage_exposure_alpha_gbp`, `..._beta_gbp`, `..._gamma_gbp` (pounds a year; None if no group has the measure),
        `pay_at_median_gbp` and `pay_at_mean_gbp` (jobs x median or mean pay; None if one of the groups lacks it), `groups`
        and `employees` in the sums, `thin_groups` (number excluded), `workforce`, and `coverage`: jobs in the sums as a
        share (0-1) of the workforce, None if that is unknown.
    """
    exposures = [f"wage_exposure_{measure}_gbp" for measure in MEASURES]
    paid = frame[frame[exposures].notna().any(axis=1)]
    thin = paid["status"].str.startswith("thin")
    paid = paid[~thin]
    jobs = paid["employees"].astype("float64")
    employees = int(jobs.sum())
    sums = {name: paid[name].sum(min_count=1) for name in exposures}
    # A sum over fewer groups would seem to be lower pay.
    sums |= {f"pay_at_{p}_gbp": (jobs * paid[f"{p}_pay_gbp"]).sum(skipna=False) for p in ("median", "mean")}
    return {name: None if pd.isna(total) else round(float(total), 2) for name, total in sums.items()} | {
        "groups": len(paid),
        "thin_groups": int(thin.sum()),
        "employees": employees,
        "workforce": workforce,
        "coverage": employees / workforce if workforce else None,
    }


def _number(file: Table, line: int, column: str, cell: str, *, whole: bool) -> float | None:
    text = cell.strip()
    if not text:
        return None
    number = file.number(text)
    if number is None or (whole and not number.is_integer()):
        kind = "a whole number of jobs" if whole else "a number"
        advice = "write plain digits without commas or signs, or leave the cell empty where it is not known"
        raise file.fault(line, f": {text[:40]!r} is not {kind}, 0 or more; {advice}", column)
    return number
