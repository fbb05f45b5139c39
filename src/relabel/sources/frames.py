"""What the readers share: tables as text, columns checked by name, numbers parsed on purpose, schemas at the door.

Everything is read as text, so that codes keep their zeros and hyphens and no title such as `NA` turns into a gap; each
reader then says which marks mean missing.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.errors
import pandera.pandas as pa
import pyarrow as pyarrow_lib
import pyarrow.parquet as pq

from relabel.errors import ColumnError, DataError
from relabel.files import replacing
from relabel.settings import settings
from relabel.sources.fetch import locate, sha256_of
from relabel.sources.registry import get_source
from relabel.sources.tables import Rows, cell_text, find_column, plain_name, read_rows

TASK_ID = r"^\d+$"
SOC = r"^\d{2}-\d{4}$"
UK_SOC_UNIT = r"^\d{4}$"

_KEPT = ".sheets"
_KEPT_VERSION = 1


def text(
    pattern: str | None = None, *, among: Iterable[str] | None = None, nullable: bool = False, unique: bool = False
) -> pa.Column:
    """A schema column of text.

    Args:
        pattern: Regular expression that every value matches.
        among: The only allowed values.
        nullable: Whether values may be missing.
        unique: Whether each value occurs once.

    Returns:
        A pandera column.
    """
    checks: list[pa.Check] = []
    if pattern is not None:
        checks.append(pa.Check.str_matches(pattern, error=f"a value like {pattern}"))
    if among is not None:
        allowed = list(among)
        checks.append(pa.Check.isin(allowed, error=f"one of {', '.join(allowed)}"))
    return pa.Column("str", checks, nullable=nullable, unique=unique)


def number(low: float | None = None, high: float | None = None, *, nullable: bool = True) -> pa.Column:
    """A schema column of float64, by default with gaps, within bounds that are themselves allowed."""
    checks: list[pa.Check] = []
    if low is not None:
        checks.append(pa.Check.ge(low, error=f"at least {low:g}"))
    if high is not None:
        checks.append(pa.Check.le(high, error=f"at most {high:g}"))
    return pa.Column("float64", checks, nullable=nullable)


def schema(columns: Mapping[str, Any], *, unique: list[str] | None = None) -> pa.DataFrameSchema:
    """A schema that allows these columns only, in this order, and at least one row."""
    filled = pa.Check(_has_rows, error="at least one row")
    return pa.DataFrameSchema(dict(columns), checks=filled, strict=True, ordered=True, unique=unique)


def locate_role(source_id: str, role: str) -> Path:
    """The verified path of the file that plays a role in a source.

    Raises:
        DataError: The source or the role is unknown, or the file is not to be had or not the registered one.
    """
    return locate(source_id, get_source(source_id).with_role(role).name)


def read_columns(path: Path, columns: Mapping[str, str], *, optional: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read a publisher's file as text: what it is follows from its ending, columns are found by loose names.

    Args:
        path: A `.txt` file (tabs, quotes are plain characters, as O*NET writes it), a `.tsv` or `.csv` file in UTF-8, or the
            first sheet of a workbook.
        columns: New names by the names in the file, spelled so but for case, blanks and signs; others are dropped.
        optional: Like `columns`, for those that not every file has; where absent, they hold empty strings.

    Returns:
        One `str` column a name, no missing values, stripped of surrounding white space.

    Raises:
        ColumnError: A column is missing.
        DataError: The file is not a table of this kind.
    """
    suffix, optional = path.suffix.lower(), optional or {}
    if suffix in (".xlsx", ".xls"):
        return read_sheet(path, columns, optional=optional)
    try:
        frame = pd.read_csv(
            path,
            sep="," if suffix == ".csv" else "\t",
            dtype="str",
            na_filter=False,
            quoting=csv.QUOTE_NONE if suffix == ".txt" else csv.QUOTE_MINIMAL,
            encoding="utf-8-sig",
            index_col=False,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}; check that it is the right file") from error
    header = [str(name) for name in frame.columns]
    picked: dict[str, pd.Series] = {}
    for wanted, new in {**columns, **optional}.items():
        found = find_column([wanted], header, path)
        if found is None and wanted in columns:
            raise ColumnError(path, wanted, header)
        picked[new] = pd.Series("", index=frame.index, dtype="str") if found is None else frame[found].str.strip()
    return pd.DataFrame(picked)


def read_sheet(
    path: Path, columns: Mapping[str, str], *, sheet: str | None = None, optional: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Read a worksheet as text; the header is the first row that holds the first of the columns.

    What was read is kept in the download cache, under the checksum of the workbook: reading the coding index takes
    seconds, reading it from the cache takes none.

    Args:
        path: An `.xlsx` or `.xls` workbook.
        columns: New names by the names in the header, where runs of white space count as one space.
        sheet: Name of the worksheet; by default the first.
        optional: Like `columns`, for those that not every file has; where absent, they hold empty strings.

    Returns:
        One `str` column a name, empty cells as empty strings, whole numbers without a decimal point.

    Raises:
        ColumnError: A column is missing.
        DataError: The file is not a workbook or has no such sheet.
    """
    optional = optional or {}
    kept = _kept_path(path, {**columns, **optional}, sheet)
    if (frame := _kept(kept, [*columns.values(), *optional.values()])) is not None:
        return frame
    frame = frame_from_rows(path, read_rows(path, sheet), columns, optional=optional)
    _keep(kept, frame)
    return frame


def frame_from_rows(
    path: Path, rows: Rows, columns: Mapping[str, str], *, optional: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """A frame of text from raw cells; see `read_sheet`."""
    first, optional = next(iter(columns)), optional or {}
    headers = ([" ".join(cell_text(cell).split()) for cell in row] for row in rows)
    sought = plain_name(first)
    header_at, names = next(
        ((at, names) for at, names in enumerate(headers) if sought in map(plain_name, names)), (None, list[str]())
    )
    if header_at is None:
        widest = max(rows[:20], key=lambda row: sum(cell is not None and cell != "" for cell in row), default=[])
        raise ColumnError(path, first, [name for name in map(cell_text, widest) if name])
    body = [row for row in rows[header_at + 1 :] if any(cell is not None and cell != "" for cell in row)]
    data: dict[str, pd.Series] = {}
    for wanted, new in {**columns, **optional}.items():
        found = find_column([wanted], names, path)
        if found is None and wanted in columns:
            raise ColumnError(path, wanted, [name for name in names if name])
        at = len(names) if found is None else names.index(found)
        data[new] = pd.Series(
            [cell_text(row[at]).strip() if at < len(row) and found else "" for row in body], dtype="str"
        )
    return pd.DataFrame(data)


def missing(frame: pd.DataFrame, columns: Sequence[str], marks: Iterable[str] = ("",)) -> pd.DataFrame:
    """A copy in which these marks in these columns are missing values."""
    gaps = list(marks)
    return frame.assign(**{column: frame[column].mask(frame[column].isin(gaps)) for column in columns})


def numbers(path: Path, series: pd.Series, column: str, marks: Iterable[str] = ("",)) -> pd.Series:
    """Text as float64; the marks become gaps.

    Args:
        path: The file, for the message.
        series: Text.
        column: Name of the column in the file, for the message.
        marks: Texts that mean missing.

    Raises:
        DataError: A text is neither a number nor a mark; the message names file, column and value.
    """
    marked = series.isin(list(marks)) | series.isna()
    parsed = pd.to_numeric(series.mask(marked), errors="coerce").astype("float64")
    if (bad := parsed.isna() & ~marked).any():
        raise DataError(
            f"{path}, column {column!r}: {series[bad].iloc[0]!r} is not a number; check that it is the right file"
        )
    return parsed


def plain_task_id(series: pd.Series) -> pd.Series:
    """Task ids without the `.0` that a column with gaps leaves behind."""
    return series.str.replace(r"\.0+$", "", regex=True)


def validated(path: Path, frame: pd.DataFrame, at_the_door: pa.DataFrameSchema) -> pd.DataFrame:
    """The frame if it keeps its schema.

    Raises:
        ColumnError: A column is missing.
        DataError: A value breaks the schema; the message names file, column, first bad value and row.
    """
    try:
        return at_the_door.validate(frame)
    except pandera.errors.SchemaError as error:
        raise DataError(f"{path}{_complaint(error)}; check that it is the right file and release") from error


def _complaint(error: pandera.errors.SchemaError) -> str:
    column: Any = getattr(error, "column_name", None)
    cases: Any = error.failure_cases
    expected: Any = getattr(error.check, "error", None) or error.check
    if not isinstance(cases, pd.DataFrame) or cases.empty or "failure_case" not in cases:
        return f": the table does not have {expected}"
    first = cases.iloc[0]
    if column is None:
        column = first.get("column")
    value, row = first["failure_case"], first.get("index")
    shown = f"{value:g}" if isinstance(value, float) else repr(value)
    at = "" if row is None or pd.isna(row) else f" in row {int(row) + 1} of the table"
    code: Any = getattr(error, "reason_code", None)
    reason = getattr(code, "name", "")
    if reason == "SERIES_CONTAINS_NULLS":
        return f", column {column!r}: a value is missing{at}"
    if "DUPLICATES" in reason:
        return f", column {column!r}: {shown} occurs more than once{at and ', first' + at}"
    return f", column {column!r}: {shown}{at} is not {expected}"


def _has_rows(frame: pd.DataFrame) -> bool:
    return len(frame) > 0


def _kept_path(path: Path, columns: Mapping[str, str], sheet: str | None) -> Path:
    asked = json.dumps([_KEPT_VERSION, sha256_of(path), sheet, list(columns.items())], ensure_ascii=False)
    return settings().download_dir / _KEPT / f"{hashlib.sha256(asked.encode()).hexdigest()}.parquet"


def _kept(kept: Path, columns: list[str]) -> pd.DataFrame | None:
    """A sheet that was read before; None where it was not, or where its file is damaged."""
    try:
        frame = pq.read_table(kept, page_checksum_verification=True).to_pandas()
    except (pyarrow_lib.ArrowException, OSError):
        return None
    return frame.astype("str") if list(frame.columns) == columns else None


def _keep(kept: Path, frame: pd.DataFrame) -> None:
    # Where the cache cannot be written, the next reader takes the time again.
    with contextlib.suppress(pyarrow_lib.ArrowException, OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary:
            table = pyarrow_lib.Table.from_pandas(frame, preserve_index=False)
            pq.write_table(table, temporary, write_page_checksum=True)
