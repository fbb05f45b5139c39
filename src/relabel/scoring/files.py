"""How score tables are written down: plain records, CSV, JSON and Parquet, whole or not at all."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pyarrow_lib
import pyarrow.parquet as pq

from relabel.errors import UsageError
from relabel.scoring.table import ScoreTable
from relabel.tabular import FORMULA, spreadsheet_safe

_UNSAFE = rf"^ *[{re.escape(''.join(FORMULA))}]|\r"

_LONGEST_TEXT = 2045
"""Bytes of a text that Stata can sort and merge by."""


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values that JSON can hold; missing values are None."""
    columns = {name: [_plain(value) for value in frame[name].tolist()] for name in map(str, frame.columns)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def table_json(table: ScoreTable) -> dict[str, Any]:
    """The table as one JSON document.

    Returns:
        `ScoreTable.describe` with the rows under `rows`; with intervals also `intervals` (`Intervals.describe`) and
        `by_rater`: what each rater alone would score, and the mean over them.
    """
    document = table.describe() | {"rows": records(table.frame)}
    if table.intervals is not None:
        document |= {"intervals": table.intervals.describe(), "by_rater": records(table.intervals.by_rater)}
    return document


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A frame as CSV in UTF-8 with LF line ends.

    A text cell that begins with one of `relabel.tabular.FORMULA` gets a leading apostrophe, so that no spreadsheet runs it; carriage
    returns become line feeds. Missing values are empty cells.
    """
    safe = frame.copy()
    for name in map(str, safe.select_dtypes(exclude=["number", "bool"])):
        unsafe = safe[name].astype("str").str.contains(_UNSAFE, na=False)
        safe.loc[unsafe, name] = safe.loc[unsafe, name].map(_safe_cell)
    return safe.to_csv(index=False, lineterminator="\n").encode("utf-8")


def _safe_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # With LF line ends a bare CR would stand unquoted and break the row for some readers.
    return spreadsheet_safe(value).replace("\r\n", "\n").replace("\r", "\n")


def stata_bytes(frame: pd.DataFrame) -> bytes:
    """A frame as a Stata file (.dta, version 118), with names that Stata takes and no date in it."""
    named: dict[str, str] = {}
    for column in map(str, frame.columns):
        name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in column)[:32]
        named[column] = name if name not in named.values() else f"{name[:29]}_{len(named)}"
    plain = frame.rename(columns=named)
    plain = plain.astype(dict.fromkeys(plain.select_dtypes("bool").columns, "int8"))
    texts = list(plain.select_dtypes(exclude="number").columns)
    plain[texts] = plain[texts].map(lambda cell: cell if isinstance(cell, str) else "")  # as Stata marks a missing text
    long = [name for name in texts if max((len(text.encode()) for text in plain[name]), default=0) > _LONGEST_TEXT]
    sink, stamp = io.BytesIO(), pd.Timestamp("2000-01-01").to_pydatetime()
    plain.to_stata(sink, write_index=False, version=118, time_stamp=stamp, convert_strl=long)
    return sink.getvalue()


def json_bytes(document: Any, *, indent: int | None = 2) -> bytes:
    """A document as JSON in UTF-8 with sorted keys, so that the same content is the same bytes."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(
        document, ensure_ascii=False, sort_keys=True, indent=indent, separators=separators, allow_nan=False
    )
    return (text + "\n").encode("utf-8")


def parquet_bytes(frame: pd.DataFrame, about: Mapping[str, Any]) -> bytes:
    """A frame as Parquet; the same frame gives the same bytes as long as pyarrow stays the same.

    Args:
        frame: The table.
        about: What is kept in the file's own metadata, as JSON under the key `relabel`.
    """
    table = pyarrow_lib.Table.from_pandas(frame, preserve_index=False)
    # pandas' own metadata would tie the bytes to its version.
    metadata = {"relabel": json.dumps(about, ensure_ascii=False, sort_keys=True, allow_nan=False)}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(cast("dict[str | bytes, str | bytes]", metadata)), sink)
    return sink.getvalue()


def require_suffix(path: Path) -> str:
    """The kind of table that a file name asks for: `csv`, `parquet` or `json`.

    Raises:
        UsageError: The suffix is none of these.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in {"csv", "parquet", "json"}:
        raise UsageError(f"cannot tell what to write to {path}; end the name of --out in .csv, .parquet or .json")
    return kind
