"""Jobs and pay by UK unit group: from ASHE, from the sample, or from a user's own file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from relabel.errors import ColumnError, DataError, UsageError
from relabel.run import SourceUse
from relabel.scoring.options import PAY_SOURCES, SAMPLE
from relabel.settings import asset_dir
from relabel.sources import fetch, ons, registry

PAY = pa.DataFrameSchema(
    {
        "code": pa.Column("str", pa.Check.str_matches(r"^\d{4}$"), unique=True),
        "employees": pa.Column("Int64", pa.Check.ge(0), nullable=True),
        "median_pay_gbp": pa.Column("float64", pa.Check.ge(0), nullable=True),
        "pay_source": pa.Column("str"),
    },
    strict=True,
    ordered=True,
)
"""Jobs (persons) and median gross pay (pounds a year) by UK unit group; what is suppressed or unknown is missing."""

_ASHE_2024 = "ASHE 2024 (provisional)"
_MEDIANS_2025 = "median of ASHE 2025 (provisional), jobs of ASHE 2024: the 2025 extract has no job counts"


@dataclass(frozen=True)
class Pay:
    """Pay by UK unit group.

    Attributes:
        name: How it was asked for; of a user's file the name without its folder.
        frame: Table of schema `PAY`.
        sources: The files that it was read from.
    """

    name: str
    frame: pd.DataFrame
    sources: tuple[SourceUse, ...]


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
        return Pay(ref, PAY.validate(_ashe_2024()), _uses((ref, "pay"), (ref, "pay-quality")))
    if ref == "ons-ashe-2025-medians":
        uses = _uses((ref, "quartiles"), ("ons-ashe-2024", "pay"), ("ons-ashe-2024", "pay-quality"))
        return Pay(ref, PAY.validate(_medians_2025()), uses)
    if ref == SAMPLE:
        path = asset_dir("data") / SAMPLE / "pay.csv"
        return Pay(ref, _read_file(path, known, "SAMPLE: invented"), (file_use(path, SAMPLE),))
    path = Path(ref)
    if path.suffix.lower() != ".csv":
        known_names = ", ".join(PAY_SOURCES)
        raise UsageError(f"there is no source of pay {ref!r}; use one of {known_names}, or the path of a CSV file")
    return Pay(path.name, _read_file(path, known, f"file {path.name}"), (file_use(path, "pay-file"),))


def _ashe_2024() -> pd.DataFrame:
    ashe = ons.read_ashe("ons-ashe-2024")
    ashe = ashe[ashe["level"] == "unit"]
    frame = pd.DataFrame(
        {
            "code": ashe["code"],
            "employees": ashe["jobs"].round().astype("Int64"),
            "median_pay_gbp": ashe["median_pay_gbp"],
        }
    )
    return frame.assign(pay_source=_text(_ASHE_2024, frame)).reset_index(drop=True)


def _medians_2025() -> pd.DataFrame:
    newer = ons.read_ashe_2025_medians().set_index("soc2020")["median_pay_gbp"]
    frame = _ashe_2024()
    median = frame["code"].map(newer).astype("float64")
    renewed = median.notna()
    frame["median_pay_gbp"] = median.where(renewed, frame["median_pay_gbp"])
    frame["pay_source"] = _text(_MEDIANS_2025, frame).where(renewed, frame["pay_source"])
    return frame


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
    if not path.is_file():
        raise DataError(f"there is no pay file {path}; give a CSV file with columns code, employees, median_pay_gbp")
    try:
        table = pd.read_csv(path, dtype="str", keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}); save it again as one") from error
    table = table.rename(columns=lambda name: str(name).strip())
    key = "code" if "code" in table.columns else "uk_soc2020"
    for column in (key, "employees", "median_pay_gbp"):
        if column not in table.columns:
            wanted = "code" if column == "uk_soc2020" else column
            raise ColumnError(path, wanted, [str(name) for name in table.columns])
    codes = table[key].str.strip()
    seen: set[str] = set()
    for line, code in enumerate(codes, start=2):
        if code not in known:
            raise DataError(f"{path} line {line}, column {key}: {code!r} is no known group of UK SOC 2020; correct it")
        if code in seen:
            raise DataError(f"{path} line {line}, column {key}: {code} is given twice; keep one line a group")
        seen.add(code)
    employees = [_number(path, line, "employees", cell, whole=True) for line, cell in enumerate(table["employees"], 2)]
    median = [_number(path, line, "median_pay_gbp", cell) for line, cell in enumerate(table["median_pay_gbp"], 2)]
    frame = pd.DataFrame(
        {
            "code": codes.astype("str"),
            "employees": pd.array([None if n is None else int(n) for n in employees], dtype="Int64"),
            "median_pay_gbp": pd.Series(median, dtype="float64"),
        }
    )
    return PAY.validate(frame.assign(pay_source=_text(origin, frame)))


def _number(path: Path, line: int, column: str, cell: str, *, whole: bool = False) -> float | None:
    text = str(cell).strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0 or (whole and not number.is_integer()):
        kind = "a whole number of jobs" if whole else "a number of pounds a year"
        raise DataError(
            f"{path} line {line}, column {column}: {text!r} is not {kind}, 0 or more; "
            "write plain digits, or leave the cell empty where it is not known"
        )
    return number
