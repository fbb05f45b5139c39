"""The data package of an export (Frictionless): written whole or not at all, described column by column, and read again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from relabel.errors import DataError, UsageError
from relabel.files import inside, os_errors
from relabel.rubric import MEASURES
from relabel.scoring.uncertainty import BOUNDED, ESTIMATED
from relabel.tabular import records

Row = dict[str, Any]

PACKAGE = "datapackage.json"
EXPORT_FORMAT = 7
"""Counts up when the layout of an export changes."""

FilesOf = Callable[[Path], Set[str] | None]
"""Names the files that an earlier writing left in a folder; None when the folder is something else."""


@contextmanager
def written_whole(out: Path, kind: str, files_of: FilesOf) -> Generator[Path]:
    """Hand out a folder beside the one wanted, and move it into place when all went well.

    An earlier folder in its place is moved aside first and deleted last, so a machine that fails between the two moves
    leaves it beside, as `.NAME.NUMBER.old`.

    Args:
        out: Folder to write: new, empty, or an earlier one of the same kind without other files.
        kind: What is written, in a word, for messages: `export`, `site`.
        files_of: Tells what an earlier one consists of.

    Raises:
        UsageError: The folder is in use for something else.
        DataError: The folder cannot be written.
    """
    folder = out.resolve()
    if not folder.name:
        raise UsageError(f"{out} is the root of the file system; give a folder of its own to --out")
    building = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    with os_errors(f"cannot write the {kind} to {out}", "free space or give another folder to --out"):
        _require_free(folder, out, kind, files_of)
        building.mkdir(parents=True)
        try:
            yield building
            _move_into_place(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def files_of_export(folder: Path) -> set[str] | None:
    """Files that the data package of an earlier export names; None when there is none.

    Raises:
        DataError: It names a file outside the folder, or one that is a symbolic link.
    """
    try:
        package = json.loads(inside(folder, PACKAGE).read_text(encoding="utf-8"))
        if "export_format" not in package["relabel"]:
            return None
        names = [entry["path"] for entry in package["resources"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    for name in names:
        inside(folder, name)
    return {PACKAGE, *names}


def _require_free(folder: Path, shown: Path, kind: str, files_of: FilesOf) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{shown} is a file; give a folder to --out")
    if not any(folder.iterdir()):
        return
    known = files_of(folder)
    if known is None:
        raise UsageError(f"{shown} holds files other than an earlier {kind}; give an empty or new folder to --out")
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    if strange := sorted(there - known):
        raise UsageError(
            f"{shown} is an earlier {kind} but also holds {strange[0]}, which writing it again would delete; "
            "move that file away or give another folder to --out"
        )


def _move_into_place(building: Path, folder: Path) -> None:
    if not folder.exists():
        building.replace(folder)
        return
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    folder.replace(aside)
    try:
        building.replace(folder)
    except OSError:
        aside.replace(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


# Only CSV has readers of Table Schema that agree with each other: what the columns of the others mean is said once,
# there, because a validator takes an empty cell of a Parquet file for a number out of bounds.
_FORMATS = {
    "csv": {"mediatype": "text/csv", "encoding": "utf-8"},
    "json": {"mediatype": "application/json", "encoding": "utf-8", "type": "json"},
    "parquet": {"mediatype": "application/vnd.apache.parquet", "type": "file"},
}

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
        **_FORMATS[kind],
        "bytes": len(content),
        "hash": f"sha256:{hashlib.sha256(content).hexdigest()}",
    }
    if schema is not None:
        entry |= {"type": "table", "schema": dict(schema)} if kind == "csv" else {"columnsAsIn": f"{stem}.csv"}
    return entry


def licence(text: str) -> dict[str, str]:
    """A registry's licence as the data package wants it: a name, and a path where the licence has one."""
    for known, entry in WORDS["licences"].items():
        if text.startswith(known):
            return dict(entry)
    return {"name": re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-") or "unknown", "title": text}


_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
"""What names a page: it becomes a file's name and a link."""


class ExportBundle:
    """An export in memory.

    Args:
        folder: A folder that `relabel export` wrote.

    Attributes:
        package: `datapackage.json`.
        method: `methodology.json`.
        sources: Entries of `sources.json`.
        occupations: Pages of the groups, in the order of the codes.
        changes: Rows of `changes.csv`, numbers as numbers; None where the export has no baseline.
        families: Pages of the job families; empty where the export has none.
        files: All files of the export, paths relative to it.

    Raises:
        DataError: The folder holds none, it was written by another version, or a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        named = files_of_export(folder)
        if named is None:
            raise DataError(f"{folder} holds no export; give the folder that `relabel export --out` wrote")
        self.folder, self.files = folder, sorted(named)
        self.package: Row = _json(folder / PACKAGE)
        if (found := self.package["relabel"]["export_format"]) != EXPORT_FORMAT:
            raise DataError(
                f"{folder} was written by another version of relabel (export format {found}, this one reads {EXPORT_FORMAT}); "
                "run `relabel export` again"
            )
        self.method: Row = _json(inside(folder, "methodology.json"))
        self.sources: list[Row] = _json(inside(folder, "sources.json"))["sources"]
        self.occupations = self._pages("occupations", "code")
        self.changes = _changes(inside(folder, "changes.csv")) if "changes.csv" in named else None
        self.families = self._pages("families", "id")

    def _pages(self, kind: str, key: str) -> list[Row]:
        pages = {path: _json(inside(self.folder, path)) for path in self.files if path.startswith(f"{kind}/")}
        for path, page in pages.items():
            if not isinstance(page, dict) or not isinstance(page.get(key), str) or not _CODE.fullmatch(page[key]):
                raise DataError(
                    f"{self.folder / path} does not name its page by a plain {key}; run `relabel export` again"
                )
        return list(pages.values())

    @cached_property
    def onet(self) -> dict[str, Row]:
        """Pages of the O*NET-SOC codes by code."""
        pages = self._pages("onet", "code")
        for page in pages:
            page["tasks"] = [{"incoherent": False, "answers": []} | task for task in page["tasks"]]
        return {page["code"]: page for page in pages}

    def content(self, path: str) -> bytes:
        """A file of the export, as it is.

        Raises:
            DataError: It cannot be read.
        """
        with os_errors(f"{self.folder / path} cannot be read", "run `relabel export` again"):
            return inside(self.folder, path).read_bytes()

    @property
    def date(self) -> str | None:
        """Day on which the labels were made (`YYYY-MM-DD`); None where the run does not say."""
        created = self.package.get("created")
        return created[:10] if isinstance(created, str) else None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is missing or damaged ({type(error).__name__}); run `relabel export` again") from error


def _changes(path: Path) -> list[Row]:
    try:
        frame = pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""])
        numbers = frame.columns.difference(["code", "title", "measure", "reason", "note"])
        return records(frame.astype(dict.fromkeys(numbers, "float64")))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or damaged ({error}); run `relabel export` again") from error
