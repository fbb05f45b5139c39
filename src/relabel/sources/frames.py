"""Publishers' tables as frames: schemas, numbers with their marks, and a cache of what was read once."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pandas as pd
import pyarrow
import pyarrow.parquet as pq

from relabel.errors import DataError
from relabel.files import make_private_dir, replacing
from relabel.settings import settings
from relabel.sources import tables
from relabel.sources.fetch import locate_role, sha256_of
from relabel.sources.registry import get_source
from relabel.sources.tables import text_columns

if TYPE_CHECKING:
    import pandera.errors
    import pandera.pandas as pa

P = ParamSpec("P")
T = TypeVar("T")


def _later(make: Callable[P, T]) -> Callable[P, Callable[[], T]]:
    """Schemas are made when a table is checked: pandera takes long to load, and what the cache has was checked."""
    return lambda *args, **kwargs: cache(partial(make, *args, **kwargs))


@_later
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
    import pandera.pandas as pa

    checks = [] if pattern is None else [pa.Check.str_matches(pattern, error=f"a value like {pattern}")]
    if among is not None:
        allowed = list(among)
        checks.append(pa.Check.isin(allowed, error=f"one of {', '.join(allowed)}"))
    return pa.Column("str", checks, nullable=nullable, unique=unique)


@_later
def number(
    low: float | None = None, high: float | None = None, *, nullable: bool = True, dtype: str = "float64"
) -> pa.Column:
    """A schema column of numbers, by default with gaps, within bounds that are themselves allowed."""
    import pandera.pandas as pa

    checks = [] if low is None else [pa.Check.ge(low, error=f"at least {low:g}")]
    if high is not None:
        checks.append(pa.Check.le(high, error=f"at most {high:g}"))
    return pa.Column(dtype, checks, nullable=nullable)


@_later
def schema(columns: Mapping[str, Callable[[], pa.Column]], *, unique: list[str] | None = None) -> pa.DataFrameSchema:
    """A schema that allows these columns only, in this order, and at least one row."""
    import pandera.pandas as pa

    filled = pa.Check(lambda frame: len(frame) > 0, error="at least one row")
    made = {name: column() for name, column in columns.items()}
    return pa.DataFrameSchema(made, checks=filled, strict=True, ordered=True, unique=unique)


def missing(frame: pd.DataFrame, columns: Sequence[str], marks: Iterable[str] = ("",)) -> pd.DataFrame:
    """A copy in which these marks in these columns are missing values."""
    gaps = list(marks)
    return frame.assign(**{column: frame[column].mask(frame[column].isin(gaps)) for column in columns})


_THOUSANDS = r"-?\d{1,3}(,\d{3})+(\.\d+)?"


def numbers(path: Path, series: pd.Series, column: str, marks: Iterable[str] = ("",)) -> pd.Series:
    """Text as float64; the marks become gaps. Commas between thousands are read over.

    Args:
        path: The file, for the message.
        series: Text.
        column: Name of the column in the file, for the message.
        marks: Texts that mean missing.

    Raises:
        DataError: A text is neither a number nor a mark; the message names file, column and value.
    """
    marked = series.isin(list(marks)) | series.isna()
    plain = series.mask(marked).astype("str")
    thousands = plain.str.fullmatch(_THOUSANDS).eq(True)
    parsed = pd.to_numeric(plain.mask(thousands, plain.str.replace(",", "")), errors="coerce").astype("float64")
    if (bad := parsed.isna() & ~marked).any():
        raise DataError(
            f"{path}, column {column!r}: {series[bad].iloc[0]!r} is not a number; check that it is the right file"
        )
    return parsed


def plain_task_id(series: pd.Series) -> pd.Series:
    """Task ids without the `.0` that a column with gaps leaves behind."""
    return series.str.replace(r"\.0+$", "", regex=True)


def validated(path: Path, frame: pd.DataFrame, at_the_door: Callable[[], pa.DataFrameSchema]) -> pd.DataFrame:
    """The frame if it keeps its schema.

    Raises:
        ColumnError: A column is missing.
        DataError: A value breaks the schema; the message names file, column, first bad value and row.
    """
    import pandera.errors

    try:
        return at_the_door().validate(frame)
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
    reason = getattr(getattr(error, "reason_code", None), "name", "")
    if reason == "SERIES_CONTAINS_NULLS":
        return f", column {column!r}: a value is missing{at}"
    if "DUPLICATES" in reason:
        return f", column {column!r}: {shown} occurs more than once{at and ', first' + at}"
    return f", column {column!r}: {shown}{at} is not {expected}"


def read_columns(
    path: Path, columns: Mapping[str, str], *, sheet: str | None = None, optional: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """One `str` column a name and no missing values, see `relabel.sources.tables.text_columns`."""
    return pd.DataFrame(text_columns(path, columns, sheet=sheet, optional=optional), dtype="str")


def keep(path: Path, table: pyarrow.Table) -> None:
    """Keep a table in the download cache; where that cannot be written, the next command takes the time again."""
    with contextlib.suppress(pyarrow.ArrowException, OSError):
        make_private_dir(path.parent)
        with replacing(path) as temporary:
            temporary.touch(mode=0o600)
            pq.write_table(table, temporary, write_page_checksum=True)


_CACHE = ".tables"


def cached(*roles: str, source: str | None = None) -> Callable[[Callable[P, pd.DataFrame]], Callable[P, pd.DataFrame]]:
    """Keep what a reader makes of a source as parquet in the download cache: the next command reads that instead.

    It is found by the checksums of the files, the source's entry and the reader's own code, so that none of them can change
    unnoticed. One that cannot be read is made again; where none can be written, the next reader takes the time again.

    Args:
        roles: Roles of the files that the reader reads; one that the source has not is left out.
        source: Id of the source; by default the reader's argument `release`.
    """

    def decorate(read: Callable[P, pd.DataFrame]) -> Callable[P, pd.DataFrame]:
        signature = inspect.signature(read)

        @wraps(read)
        def once(*args: P.args, **kwargs: P.kwargs) -> pd.DataFrame:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            entry = get_source(source or bound.arguments["release"])
            files = [sha256_of(locate_role(entry.id, role)) for role in roles if entry.find_role(role) is not None]
            asked = json.dumps([entry.model_dump_json(), files, _code(read.__module__)])
            name = f"{read.__module__.rpartition('.')[2]}.{read.__name__}.{entry.id}"
            path = settings().download_dir / _CACHE / f"{name}.{hashlib.sha256(asked.encode()).hexdigest()}.parquet"
            with contextlib.suppress(pyarrow.ArrowException, OSError):
                return pq.read_table(path, page_checksum_verification=True).to_pandas()
            frame = read(*args, **kwargs).reset_index(drop=True)
            with contextlib.suppress(OSError):
                keep(path, pyarrow.Table.from_pandas(frame, preserve_index=False))
                for old in path.parent.glob(f"{name}.*.parquet"):
                    if old != path:
                        old.unlink(missing_ok=True)
            return frame

        return once

    return decorate


@cache
def _code(module: str) -> str:
    """Checksum of the code of a reader's module, and of what all readers share."""
    files = (sys.modules[module].__file__, __file__, tables.__file__)
    return hashlib.sha256(b"".join(Path(str(file)).read_bytes() for file in files)).hexdigest()
