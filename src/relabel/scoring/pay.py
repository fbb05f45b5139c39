"""Jobs and pay by UK unit group: from ASHE, from the sample, or from a user's own file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from relabel.errors import ColumnError, DataError, UsageError
from relabel.manifest import SourceUse
from relabel.rubric import MEASURES
from relabel.scoring.options import SAMPLE
from relabel.settings import asset_dir
from relabel.sources import fetch, ons, registry
from relabel.sources.registry import Source
from relabel.sources.tables import Table, is_table_file, plain_id, read_table

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
"""Jobs (persons), median and mean gross pay (pounds a year) by UK unit group; what is suppressed or unknown is missing, and
`pay_status` says why for jobs and median. `..._cv` is the publisher's coefficient of variation in percent, `..._quality` its word for it; both
are missing where the publisher gives none."""

_QUALITY = ("employees_cv", "employees_quality", "median_pay_cv", "median_pay_quality")

_FLAGS = {
    "unreliable": "withheld as unreliable",
    "disclosive": "withheld as disclosive",
    "not-applicable": "not applicable",
    "nil-or-negligible": "nil or negligible",
    "unavailable": "not available",
}
"""Flags of ASHE in words."""

ASHE = "ons-ashe-2024"
"""The source of pay when none is named, and of the jobs beside an extract that has none."""
ASHE_POPULATION = "employees on adult rates of pay who have been in the same job for more than a year; the self-employed are not counted"
"""Whose jobs and pay table 14.7 of ASHE gives."""


@dataclass(frozen=True)
class Pay:
    """Pay by UK unit group.

    Attributes:
        name: How it was asked for; of a user's file the name without its folder.
        frame: Table of schema `PAY`.
        sources: The files that it was read from.
        workforce: All jobs (persons) that the groups are a part of, those of withheld groups included; None where the
            source does not say.
        population: Whose jobs and pay these are; None where the source does not say.
    """

    name: str
    frame: pd.DataFrame
    sources: tuple[SourceUse, ...]
    workforce: int | None = None
    population: str | None = None


def read_pay(ref: str, known: Collection[str]) -> Pay:
    """Read jobs and pay.

    Args:
        ref: A source with the role `pay`, which is ASHE table 14.7 of some year, such as `ons-ashe-2024`; one with the role
            `quartiles`, `ons-ashe-2025-medians` (medians of 2025 where the extract has one, 2024 otherwise, with the jobs
            of 2024); `sample`; or the path of a table with the columns `code` (or `uk_soc2020`), `employees` and
            `median_pay_gbp`, or names that declare other units, and perhaps `mean_pay_gbp` (pounds a year). A user's file stands alone: a group that it does not
            name has no pay.
        known: Codes of the unit groups; a user's file may name no others.

    Raises:
        UsageError: There is no such source of pay.
        DataError: A file is missing or malformed; of a user's file the message names line and column.
    """
    source = registry.load_registry().get(ref)
    if source is not None and source.find_role("pay") is not None:
        frame, workforce = _ashe(source)
        quality = [(ref, "pay-quality")] if source.find_role("pay-quality") else []
        return Pay(ref, PAY.validate(frame), _uses((ref, "pay"), *quality), workforce, ASHE_POPULATION)
    if source is not None and source.find_role("quartiles") is not None:
        uses = _uses((ref, "quartiles"), (ASHE, "pay"), (ASHE, "pay-quality"))
        frame, workforce = _newer_medians(source)
        return Pay(ref, PAY.validate(frame), uses, workforce, ASHE_POPULATION)
    if ref == SAMPLE:
        path = asset_dir("data") / SAMPLE / "pay.csv"
        return Pay(ref, _read_file(path, known, "SAMPLE: invented"), (file_use(path, SAMPLE),))
    path = Path(ref)
    if not is_table_file(path):
        known_names = ", ".join(
            s.id for s in registry.load_registry().values() if s.find_role("pay") or s.find_role("quartiles")
        )
        raise UsageError(
            f"there is no source of pay {ref!r}; use one of {known_names}, or the path of a CSV or Excel file; another year of "
            "ASHE table 14.7 is an entry with the roles pay and pay-quality in your RELABEL_SOURCES file"
        )
    return Pay(path.name, _read_file(path, known, f"file {path.name}"), (file_use(path, "pay-file"),))


def _release(source: Source) -> str:
    """A release as every row names it: `2024 (provisional)` for `2024 provisional`."""
    return re.sub(r"^(\d{4}) ([^(].*)$", r"\1 (\2)", source.release)


def _ashe(source: Source) -> tuple[pd.DataFrame, int | None]:
    """Pay by unit group, and the jobs of all employees."""
    ashe = ons.read_ashe(source.id)
    everyone = ashe.loc[ashe["level"] == "all", "jobs"].dropna()
    workforce = None if everyone.empty else round(float(everyone.iloc[0]))
    ashe = ashe[ashe["level"] == "unit"]
    frame = pd.DataFrame(
        {
            "code": ashe["code"],
            "employees": ashe["jobs"].round().astype("Int64"),
            "median_pay_gbp": ashe["median_pay_gbp"],
            "mean_pay_gbp": ashe["mean_pay_gbp"],
            "employees_cv": ashe["jobs_cv"],
            "employees_quality": ashe["jobs_quality"],
            "median_pay_cv": ashe["median_cv"],
            "median_pay_quality": ashe["median_quality"],
        }
    )
    reasons = {
        "jobs": ashe["jobs_flag"].map(_FLAGS).where(frame["employees"].isna()),
        "median pay": ashe["median_flag"].map(_FLAGS).where(frame["median_pay_gbp"].isna()),
    }
    frame = frame.assign(pay_source=_text(f"ASHE {_release(source)}", frame), pay_status=_reasons(reasons))
    return frame.reset_index(drop=True), workforce


def _newer_medians(source: Source) -> tuple[pd.DataFrame, int | None]:
    newer = ons.read_ashe_medians(source.id).set_index("soc2020")["median_pay_gbp"]
    jobs = registry.get_source(ASHE)
    frame, workforce = _ashe(jobs)
    year, jobs_year = (s.release.split()[0] for s in (source, jobs))
    said = f"median of ASHE {_release(source)}, jobs of ASHE {jobs_year}: the {year} extract has no job counts"
    median = frame["code"].map(newer).astype("float64")
    renewed = median.notna()
    frame["median_pay_gbp"] = median.where(renewed, frame["median_pay_gbp"])
    # The extract comes without coefficients of variation.
    frame["median_pay_cv"] = frame["median_pay_cv"].mask(renewed)
    frame["median_pay_quality"] = frame["median_pay_quality"].mask(renewed)
    frame["pay_source"] = _text(said, frame).where(renewed, frame["pay_source"])
    # A newer median stands in for one that was withheld; the jobs stay those of the older release.
    only_jobs = frame["pay_status"].str.replace(r"(^|; )median pay: .*$", "", regex=True)
    frame["pay_status"] = frame["pay_status"].mask(renewed, only_jobs.where(only_jobs != ""))
    return frame, workforce


def _reasons(by_figure: dict[str, pd.Series]) -> pd.Series:
    """What is missing and why, such as `jobs: withheld as unreliable; median pay: withheld as disclosive`."""
    rows = zip(*by_figure.values(), strict=True)
    said = [
        "; ".join(f"{n}: {why}" for n, why in zip(by_figure, row, strict=True) if isinstance(why, str)) for row in rows
    ]
    first = next(iter(by_figure.values()))
    return pd.Series([text or None for text in said], index=first.index, dtype="str")


def _text(value: str, frame: pd.DataFrame) -> pd.Series:
    return pd.Series(value, index=frame.index, dtype="str")


def _uses(*files: tuple[str, str]) -> tuple[SourceUse, ...]:
    return tuple(source_use(source, role) for source, role in files)


def source_use(source_id: str, role: str) -> SourceUse:
    """The file that plays a role in a source, with the checksum and the kind of this machine's copy.

    Raises:
        DataError: The file cannot be obtained.
    """
    known = fetch.provenance(source_id, registry.get_source(source_id).with_role(role).name)
    return SourceUse(source=source_id, file=known.file, sha256=known.sha256, copy_status=known.copy_status)


def file_use(path: Path, source: str) -> SourceUse:
    """A file outside the registry, by its name without the folder, with its checksum."""
    return SourceUse(source=source, file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _read_file(path: Path, known: Collection[str], origin: str) -> pd.DataFrame:
    advice = "give a CSV or Excel file with columns code, employees, median_pay_gbp"
    if not path.is_file():
        raise DataError(f"there is no pay file {path}; {advice}")
    file = read_table(path, rows_are="each group", advice=advice)
    key = file.find("uk_soc2020") if file.find("code") is None else None
    key = key or file.columns("code")["code"]
    jobs_unit, jobs_column = _unit(file, "employees", _JOBS_UNITS)
    pay_unit, pay_column = _unit(file, "median_pay_gbp", _PAY_UNITS)
    mean_column = file.find("mean_pay_gbp")
    seen: dict[str, int] = {}
    rows: list[dict[str, object]] = []
    for line, cells in file.rows:
        code = plain_id(cells[key])
        if code not in known:
            raise DataError(f"{path} line {line}, column {key}: {code!r} is not a group of UK SOC 2020; correct it")
        if (first := seen.setdefault(code, line)) != line:
            raise DataError(
                f"{path} line {line}, column {key}: {code} is given twice, first in line {first}; keep one line a group"
            )
        jobs = _number(file, line, jobs_column, cells[jobs_column], whole=jobs_unit.factor == 1)
        median = _number(file, line, pay_column, cells[pay_column])
        mean = None if mean_column is None else _number(file, line, mean_column, cells[mean_column])
        rows.append({"code": code, "employees": jobs, "median_pay_gbp": median, "mean_pay_gbp": mean})
    frame = pd.DataFrame(rows, columns=["code", "employees", "median_pay_gbp", "mean_pay_gbp"]).astype(
        {"code": "str", "employees": "float64", "median_pay_gbp": "float64", "mean_pay_gbp": "float64"}
    )
    frame["employees"] = (frame["employees"] * jobs_unit.factor).round().astype("Int64")
    frame["median_pay_gbp"] *= pay_unit.factor
    _check_ranges(path, frame, jobs=not jobs_unit.declared, pay=not pay_unit.declared)
    empty = {
        name: pd.Series("left empty in the file", index=frame.index, dtype="str").where(frame[column].isna())
        for name, column in (("jobs", "employees"), ("median pay", "median_pay_gbp"))
    }
    for name in _QUALITY:
        frame[name] = pd.Series(None, index=frame.index, dtype="float64" if name.endswith("_cv") else "str")
    origin += f" ({pay_unit.note})" if pay_unit.note else ""
    return PAY.validate(frame.assign(pay_source=_text(origin, frame), pay_status=_reasons(empty)))


@dataclass(frozen=True)
class _Unit:
    """What names of a column say of its unit, and the factor that makes jobs or pounds a year of it."""

    names: tuple[str, ...]
    factor: int
    declared: bool = True
    note: str = ""


_JOBS_UNITS = (
    _Unit(("employees", "jobs", "number_of_jobs"), 1, declared=False),
    _Unit(("employees_persons", "jobs_persons"), 1),
    _Unit(("employees_thousands", "jobs_thousands", "employees_thousand", "jobs_thousand", "thousand"), 1000),
)
_PAY_UNITS = (
    _Unit(("median_pay_gbp", "median", "median_pay"), 1, declared=False),
    _Unit(("median_annual_pay_gbp", "annual_pay_gbp"), 1),
    _Unit(("median_monthly_pay_gbp", "monthly_pay_gbp"), 12, note="monthly pay x 12"),
    _Unit(("median_weekly_pay_gbp", "weekly_pay_gbp"), 52, note="weekly pay x 52"),
)
_LARGEST_GROUP, _ALL_JOBS = 1_000, 50_000_000
_PAY_RANGE, _MIDDLE_RANGE = (2_000, 300_000), (8_000, 200_000)


def _unit(file: Table, column: str, units: Sequence[_Unit]) -> tuple[_Unit, str]:
    """The one column of a file that holds jobs or pay, and its unit.

    Raises:
        ColumnError: There is none; the message says which names declare which unit.
        DataError: There are several.
    """
    found = [(unit, name) for unit in units if (name := file.find(*unit.names)) is not None]
    if len(found) > 1:
        both = " and ".join(name for _, name in found)
        raise DataError(f"{file.path} has the columns {both}, which both are {column}; keep one")
    if not found:
        names = ", ".join(unit.names[0] for unit in units)
        advice = f"name it by its unit: {names}; convert other units and currencies first"
        raise ColumnError(file.path, column, file.header, advice=advice)
    if foreign := re.search(r"[$€¥]|\b(usd|eur)\b", found[0][1], re.IGNORECASE):
        raise DataError(f"{file.path}: the column {found[0][1]!r} is in {foreign[0]}; convert it to pounds a year")
    return found[0]


def _check_ranges(path: Path, frame: pd.DataFrame, *, jobs: bool, pay: bool) -> None:
    """Refuse jobs and pay whose unit no column name declares and that cannot be persons or pounds a year.

    The smallest unit group of ASHE 2024 has 4,000 jobs and the largest 814,000; medians are 2,393 to 96,415 pounds a year,
    and half of them under 32,127.

    Raises:
        DataError: They lie outside the plausible range, which the message names.
    """
    employees, medians = frame["employees"].dropna(), frame["median_pay_gbp"].dropna()
    if jobs and len(employees) and (employees.max() < _LARGEST_GROUP or employees.sum() > _ALL_JOBS):
        raise DataError(
            f"{path}: the most jobs of a group are {employees.max():,} and all together {employees.sum():,}, which cannot be "
            f"persons in the UK (plausible: a largest group of {_LARGEST_GROUP:,} or more, {_ALL_JOBS:,} or less in all); "
            "name the column employees_thousands if it is in thousands, employees_persons if these are persons"
        )
    low, high = _PAY_RANGE
    odd = medians[(medians < low) | (medians > high)]
    middle = float(medians.median()) if len(medians) else _MIDDLE_RANGE[0]
    if pay and (len(odd) or not _MIDDLE_RANGE[0] <= middle <= _MIDDLE_RANGE[1]):
        what = (
            f"a median pay of {odd.iloc[0]:,.0f} (group {frame.loc[odd.index[0], 'code']})"
            if len(odd)
            else (f"half of the groups with pay under {middle:,.0f}")
        )
        raise DataError(
            f"{path}: {what} cannot be pounds a year (plausible: {low:,} to {high:,} for each group, "
            f"{_MIDDLE_RANGE[0]:,} to {_MIDDLE_RANGE[1]:,} for the middle one); name the column median_weekly_pay_gbp or "
            "median_monthly_pay_gbp if it is that, median_annual_pay_gbp if these are pounds a year, and convert other currencies"
        )


def wage_totals(frame: pd.DataFrame, workforce: int | None) -> dict[str, float | int | None]:
    """Sums over the groups that are scored and have jobs and pay. Thin scores say too little to be part of a total.

    Args:
        frame: A score table.
        workforce: All jobs that the groups are a part of, as `Pay.workforce`.

    Returns:
        `wage_exposure_alpha_gbp`, `..._beta_gbp`, `..._gamma_gbp` (pounds a year; None where no group gives the measure),
        `pay_at_median_gbp` and `pay_at_mean_gbp` (jobs x median or mean pay of the same groups), `groups` and `employees` in
        the sums, `thin_groups` (left out because their score is thin), `workforce`, and `coverage`: the jobs in the sums as a
        share (0-1) of the workforce, None where that is not known.
    """
    exposures = [f"wage_exposure_{measure}_gbp" for measure in MEASURES]
    paid = frame[frame[exposures].notna().any(axis=1)]
    thin = paid["status"].str.startswith("thin")
    paid = paid[~thin]
    jobs = paid["employees"].astype("float64")
    employees = int(jobs.sum())
    totals: dict[str, float | int | None] = {
        name: round(float(paid[name].sum()), 2) if paid[name].notna().any() else None for name in exposures
    }
    return totals | {
        "pay_at_median_gbp": round(float((jobs * paid["median_pay_gbp"]).sum()), 2),
        "pay_at_mean_gbp": round(float((jobs * paid["mean_pay_gbp"]).sum()), 2)
        if paid["mean_pay_gbp"].notna().any()
        else None,
        "groups": len(paid),
        "thin_groups": int(thin.sum()),
        "employees": employees,
        "workforce": workforce,
        "coverage": employees / workforce if workforce else None,
    }


def _number(file: Table, line: int, column: str, cell: str, *, whole: bool = False) -> float | None:
    text = cell.strip()
    if not text:
        return None
    number = file.number(text)
    if number is None or (whole and not number.is_integer()):
        kind = "a whole number of jobs" if whole else "a number"
        raise DataError(
            f"{file.path} line {line}, column {column}: {text[:40]!r} is not {kind}, 0 or more; "
            "write plain digits without commas or signs, or leave the cell empty where it is not known"
        )
    return number
