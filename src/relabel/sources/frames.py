"""Publishers' tables as data frames: validation, numbers with marks for missing values, and a cache of parsed tables."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from relabel.errors import DataError
from relabel.files import make_private_dir, replacing
from relabel.settings import settings
from relabel.sources.fetch import locate_role, sha256_of
from relabel.sources.registry import get_source
from relabel.sources.tables import Schema, require_columns, text_columns

if TYPE_CHECKING:  # importing a reader must not import these
    import pandas as pd

P = ParamSpec("P")


_THOUSANDS = r"-?\d{1,3}(,\d{3})+(\.\d+)?"


def numbers(path: Path, series: pd.Series, column: str, marks: Iterable[str] = ("",)) -> pd.Series:
    """Convert text to float64; marks become NaN, thousands separators are ignored.

    Args:
        path: The file, for the message.
        series: Text.
        column: Name of the column in the file, for the message.
        marks: Texts that mean missing.

    Raises:
        DataError: A value is neither a number nor a mark; the message names file, column and value.
    """
    import pandas as pd

    marked = series.isin(list(marks)) | series.isna()
    plain = series.mask(marked).astype("str")
    thousands = plain.str.fullmatch(_THOUSANDS).eq(True)
    parsed = pd.to_numeric(plain.mask(thousands, plain.str.replace(",", "")), errors="coerce").astype("float64")
    if (invalid := parsed.isna() & ~marked).any():
        raise DataError(
            f"{path}, column {column!r}: {series[invalid].iloc[0]!r} is not a number; check that it is the right file"
        )
    return parsed


def validated(path: Path, frame: pd.DataFrame, schema: Schema, unique: Sequence[str] = ()) -> pd.DataFrame:
    """Validate a table, and convert gaps to missing values and numbers to float64.

    Args:
        path: The file, for the message.
        frame: The table; columns are text, or already have the schema's types.
        schema: The schema.
        unique: Columns that together identify a row.

    Returns:
        The columns of the schema, in its order.

    Raises:
        DataError: A value violates the schema; the message names file, column, first bad value and row.
    """
    frame = frame[list(schema)].copy()
    for name, column in schema.items():
        if column.bounds and frame[name].dtype != "float64":
            frame[name] = numbers(path, frame[name], column.header, column.gaps)
        elif column.gaps:
            frame[name] = frame[name].mask(frame[name].isin(list(column.gaps)))
    table = {name: frame[name].astype("object").where(frame[name].notna(), None).tolist() for name in schema}
    if unique and (repeated := frame.duplicated(list(unique), keep=False)).any():
        row, name = int(repeated.argmax()), unique[0]
        raise DataError(
            f"{path}, column {name!r}: {table[name][row]!r} occurs more than once, first in row {row + 1} of the table; "
            "check that it is the right file and release"
        )
    require_columns(path, table, schema)
    return frame


def read_columns(path: Path, columns: Mapping[str, str], *, sheet: str | None = None) -> pd.DataFrame:
    """Like `relabel.sources.tables.text_columns`, as a frame of `str` columns without missing values."""
    import pandas as pd

    return pd.DataFrame(text_columns(path, columns, sheet=sheet), dtype="str")


def cached_frame(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table in the download cache, made if it is missing or damaged; a failure to write it is ignored."""
    import pyarrow
    import pyarrow.parquet as pq

    with contextlib.suppress(pyarrow.ArrowException, OSError):
        return pq.read_table(path, page_checksum_verification=True).to_pandas()
    frame = make().reset_index(drop=True)
    with contextlib.suppress(pyarrow.ArrowException, OSError):
        make_private_dir(path.parent)
        with replacing(path) as temporary:
            temporary.touch(mode=0o600)
            table = pyarrow.Table.from_pandas(frame, preserve_index=False)
            pq.write_table(table, temporary, write_page_checksum=True)
    return frame


_CACHE = ".tables"


def cached(*roles: str, source: str | None = None) -> Callable[[Callable[P, pd.DataFrame]], Callable[P, pd.DataFrame]]:
    """Decorator that caches the result of a reader as parquet in the download cache.

    The cache key covers the checksums of the files, the source's registry entry and the code of the readers. Entries that
    cannot be read are replaced; failure to write one is ignored.

    Args:
        roles: Roles of the files that the reader reads; those that the source lacks are ignored.
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
            key = json.dumps([entry.model_dump_json(), files, _code_checksum()])
            name = f"{read.__module__.rpartition('.')[2]}.{read.__name__}.{entry.id}"
            path = settings().download_dir / _CACHE / f"{name}.{hashlib.sha256(key.encode()).hexdigest()}.parquet"
            was_cached = path.exists()
            frame = cached_frame(path, lambda: read(*args, **kwargs))
            with contextlib.suppress(OSError):
                for old in () if was_cached else path.parent.glob(f"{name}.*.parquet"):
                    if old != path:
                        old.unlink(missing_ok=True)
            return frame

        return once

    return decorate


@cache
def _code_checksum() -> str:
    """Checksum of the code of this package."""
    return hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    ).hexdigest()
