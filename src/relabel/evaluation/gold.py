"""Gold: a reference label set that a run is held against."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from relabel.errors import ColumnError, DataError
from relabel.manifest import SourceUse
from relabel.rubric import CODES
from relabel.run import PUBLISHED, Run, open_run
from relabel.settings import asset_dir
from relabel.sources.fetch import sha256_of
from relabel.sources.user_csv import read_user_csv

GOLD_NAMES = (*PUBLISHED, "sample")
"""Golds that go by name; any other is the path of a CSV file."""

LABELLED = pa.DataFrameSchema(
    {
        "task_id": pa.Column(str),
        "onet_soc_code": pa.Column(str, nullable=True),
        "code": pa.Column("string", pa.Check.isin(CODES), nullable=True, coerce=True),
        "strict": pa.Column("boolean", nullable=True, coerce=True),
        "with_tools": pa.Column("boolean", nullable=True, coerce=True),
    },
    unique=["onet_soc_code", "task_id"],
    strict="filter",
)
"""One row a task: its code, and whether it is exposed in each setting. A gold's table; `Run.coded()` fits it too."""

_LABEL_COLUMNS = ("code", "strict", "with_tools")
_EXPOSED: Mapping[str, bool | None] = {"exposed": True, "not-exposed": False, "": None}
_BY_CODE: Mapping[str, tuple[bool, bool]] = {"E0": (False, False), "E1": (True, True), "E2": (False, True)}


@dataclass(frozen=True)
class Gold:
    """A reference label set.

    Attributes:
        name: How the user named it.
        table: Schema `LABELLED`: `task_id, onet_soc_code` (missing throughout when the file has no such column),
            `code, strict, with_tools` (missing where the gold has no label).
        sha256: Hash of the table's rows in canonical form, so independent of their order and of the file's layout.
        source: The file that it comes from.
    """

    name: str
    table: pd.DataFrame
    sha256: str
    source: SourceUse


def default_gold(run: Run) -> str:
    """Name of the gold for a run: `sample` for runs on the sample, else GPT-4's labels of 2023."""
    return "sample" if run.manifest.tasks == "sample" else "eloundou-2023:gpt4"


def load_gold(ref: str) -> Gold:
    """Load a gold.

    Args:
        ref: A name from `GOLD_NAMES`, or the path of a CSV file as for `read_gold_csv`.

    Returns:
        The gold, checked against `LABELLED`.

    Raises:
        DataError: There is no such gold, or its file is missing or malformed.
    """
    if ref in GOLD_NAMES:
        run = open_run(ref)
        return make_gold(ref, run.coded(), run.manifest.sources[0] if run.manifest.sources else _sample_source())
    if Path(ref).is_file() or Path(ref).suffix.lower() == ".csv":
        return read_gold_csv(Path(ref))
    raise DataError(f"there is no gold {ref!r}; give one of {', '.join(GOLD_NAMES)}, or the path of a CSV file")


def make_gold(name: str, table: pd.DataFrame, source: SourceUse) -> Gold:
    """Make a gold from a table.

    Args:
        name: How it is named.
        table: One row a task, columns as in `LABELLED`; others are dropped.
        source: The file that it comes from.

    Raises:
        DataError: The table does not fit `LABELLED`.
    """
    table = labelled(table, name)
    return Gold(name, table, _hash(table), source)


def labelled(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Check a table against `LABELLED` and drop its other columns.

    Args:
        table: One row a task.
        name: What to call the table in an error.

    Raises:
        DataError: The table does not fit.
    """
    try:
        return LABELLED.validate(table).reset_index(drop=True)
    except (pa.errors.SchemaError, pa.errors.SchemaErrors) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name} is no table of labelled tasks: {reason}; check its labels and ids") from error


def read_gold_csv(path: Path) -> Gold:
    """Read a gold of the user's own.

    The file is UTF-8, with or without a byte order mark, and has a header: `task_id`; `onet_soc_code`, if ids are not
    unique over occupations; and `code` (E0, E1, E2), or `strict` and/or `with_tools` (exposed, not-exposed), or all of
    these. An empty cell means that the gold has no label there. Other columns are left alone.

    Args:
        path: The file.

    Returns:
        The gold. `code` follows from the other two and they from it; with one of the two alone it stays missing.

    Raises:
        DataError: The file cannot be read, or a row is bad; the message names the line and what is wrong.
        ColumnError: A column is missing.
    """
    advice = f"give the path of a CSV file, or one of {', '.join(GOLD_NAMES)}"
    file = read_user_csv(path, rows_are="each labelled task", advice=advice)
    # The setting is called with-tools elsewhere, so the column is taken under both names.
    header = [name.replace("-", "_") for name in file.header]
    _check_header(path, header)
    coded = "onet_soc_code" in header
    advice = "ids must be unique" + (" within an occupation" if coded else ", or the file needs a column onet_soc_code")
    rows: list[tuple[object, ...]] = []
    seen: dict[tuple[str, str], int] = {}
    for number, cells in file.rows:
        row = {name.replace("-", "_"): cell.strip() for name, cell in cells.items()}
        key = (_id(path, number, row, "onet_soc_code") if coded else "", _id(path, number, row, "task_id"))
        if key in seen:
            raise DataError(f"{path} line {number} repeats the task id {key[1]!r} of line {seen[key]}; {advice}")
        seen[key] = number
        rows.append((key[1], key[0] or None, *_labels(path, number, row)))
    table = pd.DataFrame(rows, columns=["task_id", "onet_soc_code", *_LABEL_COLUMNS])
    table = table.astype({"task_id": "str", "onet_soc_code": "str"})
    source = SourceUse(source="file", file=path.name, sha256=sha256_of(path))
    return make_gold(str(path), table, source)


def _check_header(path: Path, header: list[str]) -> None:
    for name in ("task_id", "onet_soc_code", *_LABEL_COLUMNS):
        if header.count(name) > 1:
            raise DataError(f"{path} has the column {name!r} more than once; remove one")
    if "task_id" not in header:
        raise ColumnError(path, "task_id", header)
    if not set(header) & set(_LABEL_COLUMNS):
        wanted = "code (E0, E1, E2), or strict and/or with_tools (exposed, not-exposed)"
        raise DataError(f"{path} has no column of labels; it needs {wanted}")


def _id(path: Path, number: int, row: Mapping[str, str], column: str) -> str:
    value = row[column]
    if not value:
        raise DataError(f"{path} line {number} has no {column}; fill it or remove the line")
    if value[0] in "=+@":
        raise DataError(f"{path} line {number}: {column} {value[:40]!r} is a formula; save the values instead")
    whole, dot, rest = value.partition(".")
    if column == "task_id" and dot and whole.isdecimal() and not rest.strip("0"):
        raise DataError(f"{path} line {number}: task_id {value!r} is a number with a decimal part; write {whole}")
    return value


def _labels(path: Path, number: int, row: Mapping[str, str]) -> tuple[str | None, bool | None, bool | None]:
    said = row.get("code", "")
    if said and said not in _BY_CODE:
        raise DataError(f"{path} line {number}: {said[:40]!r} is no code; use E0, E1 or E2, or leave it empty")
    for setting in ("strict", "with_tools"):
        if row.get(setting, "") not in _EXPOSED:
            found = f"{setting} is {row[setting][:40]!r}"
            raise DataError(f"{path} line {number}: {found}; use exposed or not-exposed, or leave it empty")
    strict, with_tools = (_EXPOSED[row.get(setting, "")] for setting in ("strict", "with_tools"))
    if said:
        implied = _BY_CODE[said]
        strict = implied[0] if strict is None else strict
        with_tools = implied[1] if with_tools is None else with_tools
    if strict is None or with_tools is None:
        return None, strict, with_tools
    code = "E1" if strict else "E2" if with_tools else "E0"
    if said and said != code:
        clash = f"the code {said} contradicts strict and with_tools, which give {code}"
        raise DataError(f"{path} line {number}: {clash}; mend one of them")
    return code, strict, with_tools


def _sample_source() -> SourceUse:
    path = asset_dir("data") / "sample" / "gold.csv"
    return SourceUse(source="sample", file=path.name, sha256=sha256_of(path))


def _hash(table: pd.DataFrame) -> str:
    """Hash of the rows `[onet_soc_code, task_id, code, strict, with_tools]` as sorted lines of JSON."""
    columns = ["onet_soc_code", "task_id", *_LABEL_COLUMNS]
    rows = table[columns].astype(object).where(table[columns].notna(), None).to_numpy().tolist()
    lines = sorted(json.dumps(row, ensure_ascii=True, separators=(",", ":")) for row in rows)
    return hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()
