"""The Frictionless data package of an export: what each file holds, column by column, and under which licence."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import pandas as pd
import yaml

from relabel.rubric import MEASURES
from relabel.scoring.uncertainty import BOUNDED, ESTIMATED

_MEDIA = {"csv": "text/csv", "json": "application/json", "parquet": "application/vnd.apache.parquet"}


Column = Mapping[str, Any]
"""A field of a Table Schema but for its name: type, title, description, perhaps unit and constraints; see `columns.toml`."""
_HERE = resources.files("relabel.publishing")
_COLUMNS: Mapping[str, Mapping[str, Column]] = tomllib.loads(_HERE.joinpath("columns.toml").read_text(encoding="utf-8"))
WORDS: Mapping[str, Any] = yaml.safe_load(_HERE.joinpath("words.yaml").read_text(encoding="utf-8"))
"""Texts of exports and pages, see `words.yaml`."""
_WITH_INTERVALS = {"bounded": BOUNDED, "measures": MEASURES, "estimated": ESTIMATED}


def _bounds() -> dict[str, Column]:
    """Columns of intervals; methodology.json says what they are intervals for."""
    found: dict[str, Column] = {}
    for name, column in _COLUMNS["occupations"].items():
        for suffix, told in _COLUMNS["intervals"].items():
            if name in _WITH_INTERVALS[told["of"]]:
                text = {
                    "title": f"{column['title']}, {told['title']}",
                    "description": told["description"].format(name=name),
                }
                found[f"{name}_{suffix}"] = {**column, **text}
    return found


OCCUPATION_COLUMNS: Mapping[str, Column] = {**_COLUMNS["occupations"], **_bounds()}
"""What the columns of a score table mean, those of its intervals included."""
TASK_COLUMNS: Mapping[str, Column] = _COLUMNS["tasks"]
CHANGE_COLUMNS: Mapping[str, Column] = {
    **{name: OCCUPATION_COLUMNS[name] for name in ("code", "title")},
    **_COLUMNS["changes"],
}
"""What the columns of the changes against a baseline mean; the parts add up to the change."""
FAMILY_COLUMNS: Mapping[str, Column] = _COLUMNS["families"]
"""What the columns of the table of job families mean."""


def table_schema(frame: pd.DataFrame, columns: Mapping[str, Column], key: Sequence[str]) -> dict[str, Any]:
    """The Table Schema of a frame.

    Args:
        frame: The table; every column of it must be described.
        columns: What the columns mean.
        key: Columns that identify a row.
    """
    fields = [{"name": str(name), **columns[str(name)]} for name in frame.columns]
    return {"fields": fields, "primaryKey": list(key), "missingValues": [""]}


def package_name(name: str) -> str:
    """A name of the letters that a data package allows."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower())


def resource(path: str, content: bytes, title: str, schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The entry of one file.

    Args:
        path: Path inside the export, with forward slashes.
        content: The file.
        title: What it is, in a line.
        schema: Its Table Schema, where it is a table; a JSON or Parquet table points to the CSV file of the same name.
    """
    stem, kind = path.rsplit(".", 1)
    entry: dict[str, Any] = {
        "name": package_name(f"{stem}-{kind}"),
        "path": path,
        "title": title,
        "format": kind,
        "mediatype": _MEDIA[kind],
        "encoding": "utf-8",
        "bytes": len(content),
        "hash": f"sha256:{hashlib.sha256(content).hexdigest()}",
    }
    # Only CSV has readers of Table Schema that agree with each other: what the columns of the others mean is said once,
    # there, because a validator takes an empty cell of a Parquet file for a number out of bounds.
    if kind == "parquet":
        del entry["encoding"]
        entry["type"] = "file"
    elif kind == "json":
        entry["type"] = "json"
    if schema is not None and kind == "csv":
        entry |= {"type": "table", "schema": dict(schema)}
    elif schema is not None:
        entry["columnsAsIn"] = f"{stem}.csv"
    return entry


def licence(text: str) -> dict[str, str]:
    """A registry's licence as the data package wants it: a name, and a path where the licence has one."""
    for known, entry in WORDS["licences"].items():
        if text.startswith(known):
            return dict(entry)
    return {"name": re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-") or "unknown", "title": text}
