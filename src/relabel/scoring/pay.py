"""Jobs and pay by UK unit group: from ASHE, from the sample, or from a user's own file."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from relabel.errors import DataError, UsageError
from relabel.manifest import SourceUse
from relabel.rubric import MEASURES
from relabel.scoring.options import PAY_SOURCES, SAMPLE
from relabel.settings import asset_dir
from relabel.sources import fetch, ons, registry
from relabel.sources.user_csv import plain_number, read_user_csv

PAY = pa.DataFrameSchema(
    {
        "code": pa.Column("str", pa.Check.str_matches(r"^\d{4}$"), unique=True),
        "employees": pa.Column("Int64", pa.Check.ge(0), nullable=True),
        "median_pay_gbp": pa.Column("float64", pa.Check.ge(0), nullable=True),
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
"""Jobs (persons) and median gross pay (pounds a year) by UK unit group; what is suppressed or unknown is missing, and
`pay_status` says why. `..._cv` is the publisher's coefficient of variation in percent, `..._quality` its word for it; both
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

_ASHE_2024 = "ASHE 2024 (provisional)"
_MEDIANS_2025 = "median of ASHE 2025 (provisional), jobs of ASHE 2024: the 2025 extract has no job counts"


@dataclass(frozen=True)
class Pay:
    """Pay by UK unit group.

    Attributes:
        name: How it was asked for; of a user's file the name without its folder.
        frame: Table of schema `PAY`.
        sources: The files that it was read from.
        workforce: All jobs (persons) that the groups are a part of, those of withheld groups included; None where the
            source does not say.
    """

    name: str
    frame: pd.DataFrame
    sources: tuple[SourceUse, ...]
    workforce: int | None = None


def read_pay(ref: str, known: Collection[str]) -> Pay:
    """Read jobs and pay.

    Args:
        ref: `ons-ashe-2024`; `ons-ashe-2025-medians` (medians of 2025 where the extract has one, 2024 otherwise, with
            the jobs of 2024); `sample`; or the path of a CSV file with the columns `code` (or `uk_soc2020`),
            `employees` and `median_pay_gbp`. A user's file stands alone: a group that it does not name has no pay.
        known: Codes of the unit groups; a user's file may name no others.

    Raises:
        UsageError: There is no such source of pay.
        DataError: A file is missing or malformed; of a user's file the message names line and column.
    """
    if ref == "ons-ashe-2024":
        frame, workforce = _ashe_2024()
        return Pay(ref, PAY.validate(frame), _uses((ref, "pay"), (ref, "pay-quality")), workforce)
    if ref == "ons-ashe-2025-medians":
        uses = _uses((ref, "quartiles"), ("ons-ashe-2024", "pay"), ("ons-ashe-2024", "pay-quality"))
        frame, workforce = _medians_2025()
        return Pay(ref, PAY.validate(frame), uses, workforce)
    if ref == SAMPLE:
        path = asset_dir("data") / SAMPLE / "pay.csv"
        return Pay(ref, _read_file(path, known, "SAMPLE: invented"), (file_use(path, SAMPLE),))
    path = Path(ref)
    if path.suffix.lower() != ".csv":
        known_names = ", ".join(PAY_SOURCES)
        raise UsageError(f"there is no source of pay {ref!r}; use one of {known_names}, or the path of a CSV file")
    return Pay(path.name, _read_file(path, known, f"file {path.name}"), (file_use(path, "pay-file"),))


def _ashe_2024() -> tuple[pd.DataFrame, int | None]:
    """Pay by unit group, and the jobs of all employees."""
    ashe = ons.read_ashe("ons-ashe-2024")
    everyone = ashe.loc[ashe["level"] == "all", "jobs"].dropna()
    workforce = None if everyone.empty else round(float(everyone.iloc[0]))
    ashe = ashe[ashe["level"] == "unit"]
    frame = pd.DataFrame(
        {
            "code": ashe["code"],
            "employees": ashe["jobs"].round().astype("Int64"),
            "median_pay_gbp": ashe["median_pay_gbp"],
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
    frame = frame.assign(pay_source=_text(_ASHE_2024, frame), pay_status=_reasons(reasons))
    return frame.reset_index(drop=True), workforce


def _medians_2025() -> tuple[pd.DataFrame, int | None]:
    newer = ons.read_ashe_2025_medians().set_index("soc2020")["median_pay_gbp"]
    frame, workforce = _ashe_2024()
    median = frame["code"].map(newer).astype("float64")
    renewed = median.notna()
    frame["median_pay_gbp"] = median.where(renewed, frame["median_pay_gbp"])
    # The extract of 2025 comes without coefficients of variation.
    frame["median_pay_cv"] = frame["median_pay_cv"].mask(renewed)
    frame["median_pay_quality"] = frame["median_pay_quality"].mask(renewed)
    frame["pay_source"] = _text(_MEDIANS_2025, frame).where(renewed, frame["pay_source"])
    # A median of 2025 stands in for one that was withheld in 2024; the jobs stay those of 2024.
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
    """The file that plays a role in a source, with the checksum of the copy at hand and the kind of copy that it is.

    Raises:
        DataError: The file is not to be had.
    """
    known = fetch.provenance(source_id, registry.get_source(source_id).with_role(role).name)
    return SourceUse(source=source_id, file=known.file, sha256=known.sha256, copy_status=known.copy_status)


def file_use(path: Path, source: str) -> SourceUse:
    """A file outside the registry, by its name without the folder, with its checksum."""
    return SourceUse(source=source, file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _read_file(path: Path, known: Collection[str], origin: str) -> pd.DataFrame:
    advice = "give a CSV file with columns code, employees, median_pay_gbp"
    if not path.is_file():
        raise DataError(f"there is no pay file {path}; {advice}")
    file = read_user_csv(path, rows_are="each group", advice=advice)
    key = "uk_soc2020" if "code" not in file.header and "uk_soc2020" in file.header else "code"
    file.require(key, "employees", "median_pay_gbp")
    seen: dict[str, int] = {}
    rows: list[dict[str, object]] = []
    for line, cells in file.rows:
        code = cells[key].strip()
        if code not in known:
            raise DataError(f"{path} line {line}, column {key}: {code!r} is no known group of UK SOC 2020; correct it")
        if (first := seen.setdefault(code, line)) != line:
            raise DataError(
                f"{path} line {line}, column {key}: {code} is given twice, first in line {first}; keep one line a group"
            )
        jobs = _number(path, line, "employees", cells["employees"], whole=True)
        median = _number(path, line, "median_pay_gbp", cells["median_pay_gbp"])
        rows.append({"code": code, "employees": jobs, "median_pay_gbp": median})
    frame = pd.DataFrame(rows, columns=["code", "employees", "median_pay_gbp"]).astype(
        {"code": "str", "employees": "float64", "median_pay_gbp": "float64"}
    )
    frame["employees"] = frame["employees"].astype("Int64")
    empty = {
        name: pd.Series("left empty in the file", index=frame.index, dtype="str").where(frame[column].isna())
        for name, column in (("jobs", "employees"), ("median pay", "median_pay_gbp"))
    }
    for name in _QUALITY:
        frame[name] = pd.Series(None, index=frame.index, dtype="float64" if name.endswith("_cv") else "str")
    return PAY.validate(frame.assign(pay_source=_text(origin, frame), pay_status=_reasons(empty)))


def wage_totals(frame: pd.DataFrame, workforce: int | None) -> dict[str, float | int | None]:
    """Sums over the groups that have a score, jobs and median pay.

    Args:
        frame: A score table.
        workforce: All jobs that the groups are a part of, as `Pay.workforce`.

    Returns:
        `wage_exposure_alpha_gbp`, `..._beta_gbp`, `..._gamma_gbp` (pounds a year; None where the table does not give the
        measure), `pay_at_median_gbp` (jobs x median pay of the same groups), `groups` and `employees` in the sums,
        `thin_groups` (those of the groups whose score is thin), `workforce`, and `coverage`: their jobs as a share (0-1) of the workforce, None where that is not known.
    """
    exposures = [f"wage_exposure_{measure}_gbp" for measure in MEASURES]
    paid = frame[frame[exposures].notna().any(axis=1)]
    employees = int(paid["employees"].sum())
    totals: dict[str, float | int | None] = {
        name: round(float(paid[name].sum()), 2) if paid[name].notna().any() else None for name in exposures
    }
    return totals | {
        "pay_at_median_gbp": round(float((paid["employees"].astype("float64") * paid["median_pay_gbp"]).sum()), 2),
        "groups": len(paid),
        "thin_groups": int(paid["status"].str.startswith("thin").sum()),
        "employees": employees,
        "workforce": workforce,
        "coverage": employees / workforce if workforce else None,
    }


def _number(path: Path, line: int, column: str, cell: str, *, whole: bool = False) -> float | None:
    text = cell.strip()
    if not text:
        return None
    number = plain_number(text)
    if number is None or (whole and not number.is_integer()):
        kind = "a whole number of jobs" if whole else "a number of pounds a year"
        raise DataError(
            f"{path} line {line}, column {column}: {text[:40]!r} is not {kind}, 0 or more; "
            "write plain digits without commas or signs, or leave the cell empty where it is not known"
        )
    return number
