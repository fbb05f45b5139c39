"""Publishers' tables as frames: schemas, numbers with their marks, and a cache of what was read once."""

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

if TYPE_CHECKING:  # a reader's module can be loaded without them
    import pandas as pd
    import pyarrow

P = ParamSpec("P")


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
    import pandas as pd

    marked = series.isin(list(marks)) | series.isna()
    plain = series.mask(marked).astype("str")
    thousands = plain.str.fullmatch(_THOUSANDS).eq(True)
    parsed = pd.to_numeric(plain.mask(thousands, plain.str.replace(",", "")), errors="coerce").astype("float64")
    if (bad := parsed.isna() & ~marked).any():
        raise DataError(
            f"{path}, column {column!r}: {series[bad].iloc[0]!r} is not a number; check that it is the right file"
        )
    return parsed


def validated(path: Path, frame: pd.DataFrame, schema: Schema, unique: Sequence[str] = ()) -> pd.DataFrame:
    """The columns of a schema, in its order, gaps as missing values and numbers as float64, if they keep it.

    Args:
        path: The file, for the message.
        frame: The table, its columns text or already of the schema's types.
        schema: What its columns may hold.
        unique: Columns that identify a row together.

    Raises:
        DataError: A value breaks the schema; the message names file, column, first bad value and row.
    """
    frame = frame[list(schema)].copy()
    for name, column in schema.items():
        if column.bounds and frame[name].dtype != "float64":
            frame[name] = numbers(path, frame[name], column.head, column.gaps)
        elif column.gaps:
            frame[name] = frame[name].mask(frame[name].isin(list(column.gaps)))
    table = {name: frame[name].astype("object").where(frame[name].notna(), None).tolist() for name in schema}
    if unique and (twice := frame.duplicated(list(unique), keep=False)).any():
        row, name = int(twice.argmax()), unique[0]
        raise DataError(
            f"{path}, column {name!r}: {table[name][row]!r} occurs more than once, first in row {row + 1} of the table; "
            "check that it is the right file and release"
        )
    require_columns(path, table, schema)
    return frame


def read_columns(
    path: Path, columns: Mapping[str, str], *, sheet: str | None = None, optional: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """One `str` column a name and no missing values, see `relabel.sources.tables.text_columns`."""
    import pandas as pd

    return pd.DataFrame(text_columns(path, columns, sheet=sheet, optional=optional), dtype="str")


def keep(path: Path, table: pyarrow.Table) -> None:
    """Keep a table in the download cache; where that cannot be written, the next command takes the time again."""
    import pyarrow
    import pyarrow.parquet as pq

    with contextlib.suppress(pyarrow.ArrowException, OSError):
        make_private_dir(path.parent)
        with replacing(path) as temporary:
            temporary.touch(mode=0o600)
            pq.write_table(table, temporary, write_page_checksum=True)


_CACHE = ".tables"


def cached(*roles: str, source: str | None = None) -> Callable[[Callable[P, pd.DataFrame]], Callable[P, pd.DataFrame]]:
    """Keep what a reader makes of a source as parquet in the download cache: the next command reads that instead.

    It is found by the checksums of the files, the source's entry and the code of the readers, so that none of them can change
    unnoticed. One that cannot be read is made again; where none can be written, the next reader takes the time again.

    Args:
        roles: Roles of the files that the reader reads; one that the source has not is left out.
        source: Id of the source; by default the reader's argument `release`.
    """

    def decorate(read: Callable[P, pd.DataFrame]) -> Callable[P, pd.DataFrame]:
        signature = inspect.signature(read)

        @wraps(read)
        def once(*args: P.args, **kwargs: P.kwargs) -> pd.DataFrame:
            import pyarrow
            import pyarrow.parquet as pq

            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            entry = get_source(source or bound.arguments["release"])
            files = [sha256_of(locate_role(entry.id, role)) for role in roles if entry.find_role(role) is not None]
            asked = json.dumps([entry.model_dump_json(), files, _code()])
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
def _code() -> str:
    """Checksum of the code of this room."""
    return hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    ).hexdigest()
