"""The data package of an export (Frictionless): atomic writing, column descriptions, and reading it back."""

from __future__ import annotations

import hashlib
import io
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
# Increased when the layout of an export changes.
EXPORT_FORMAT = 7

# Lists the files of an earlier output in a folder; None if the folder is something else.
ListFiles = Callable[[Path], Set[str] | None]


@contextmanager
def written_atomically(out: Path, kind: str, files_of: ListFiles) -> Generator[Path]:
    """Yield a temporary folder, and move it into place if the block succeeds.

    An existing folder is first renamed to `.NAME.NUMBER.old`, and deleted last; it keeps that name if the machine fails
    between the two.

    Args:
        out: Folder to write: new, empty, or an earlier output of the same kind without other files.
        kind: Kind of output, for messages: `export` or `site`.
        files_of: Lists the files of an earlier output.

    Raises:
        UsageError: The folder is used for something else.
        DataError: The folder cannot be written.
    """
    folder = out.resolve()
    if not folder.name:
        raise UsageError(f"{out} is the root of the file system; give a folder of its own to --out")
    building = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    with os_errors(f"cannot write the {kind} to {out}", "free space or give another folder to --out"):
        _require_replaceable(folder, out, kind, files_of)
        building.mkdir(parents=True)
        try:
            yield building
            _move_into_place(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def remove_earlier(folder: Path, kind: str, files_of: ListFiles) -> None:
    """Remove an earlier output, if there is one; arguments and errors are those of `written_atomically`."""
    _require_replaceable(folder, folder, kind, files_of)
    if folder.exists():
        with os_errors(f"cannot remove the earlier {kind} {folder}", "remove it by hand"):
            shutil.rmtree(folder)


def files_of_export(folder: Path) -> set[str] | None:
    """Files of an earlier export, from its data package; None if the folder is not an export.

    Raises:
        DataError: The package names a file outside the folder, or a symbolic link.
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


def _require_replaceable(folder: Path, named: Path, kind: str, files_of: ListFiles) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{named} is a file; give a folder to --out")
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    if foreign := sorted(files - (files_of(folder) or set())):
        raise UsageError(
            f"{named} holds {foreign[0]}, which is not a file of an earlier {kind} and would be deleted; move it away or give an "
            "empty or new folder to --out"
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


# Only CSV files have a description of their columns, to which the other formats refer: implementations of Table Schema disagree
# on other formats, and a validator reports an empty cell of a Parquet file as a number out of bounds.
_FORMATS = {
    "csv": {"mediatype": "text/csv", "encoding": "utf-8"},
    "json": {"mediatype": "application/json", "encoding": "utf-8", "type": "json"},
    "parquet": {"mediatype": "application/vnd.apache.parquet", "type": "file"},
}

# A Table Schema field without its name: type, title, description, optionally unit and constraints; see `columns.toml`.
Column = Mapping[str, Any]
FILES = resources.files("relabel.publishing")
_COLUMNS: Mapping[str, Mapping[str, Column]] = tomllib.loads(FILES.joinpath("columns.toml").read_text(encoding="utf-8"))
# Texts of exports and pages, see `words.yaml`.
WORDS: Mapping[str, Any] = yaml.safe_load(FILES.joinpath("words.yaml").read_text(encoding="utf-8"))
_INTERVAL_SETS = {"bounded": BOUNDED, "measures": MEASURES, "estimated": ESTIMATED}


def _bounds() -> dict[str, Column]:
    """Descriptions of interval columns; `methodology.json` says what the intervals are for."""
    columns: dict[str, Column] = {}
    for name, column in _COLUMNS["occupations"].items():
        for suffix, interval in _COLUMNS["intervals"].items():
            if name in _INTERVAL_SETS[interval["of"]]:
                text = {
                    "title": f"{column['title']}, {interval['title']}",
                    "description": interval["description"].format(name=name),
                }
                columns[f"{name}_{suffix}"] = {**column, **text}
    return columns


# Descriptions of the columns of a score table, including interval columns.
OCCUPATION_COLUMNS: Mapping[str, Column] = {**_COLUMNS["occupations"], **_bounds()}
TASK_COLUMNS: Mapping[str, Column] = _COLUMNS["tasks"]
# Descriptions of the columns of `changes.csv`.
CHANGE_COLUMNS: Mapping[str, Column] = {
    **{name: OCCUPATION_COLUMNS[name] for name in ("code", "title")},
    **_COLUMNS["changes"],
}
# Descriptions of the columns of the table of job families.
FAMILY_COLUMNS: Mapping[str, Column] = _COLUMNS["families"]


def table_schema(frame: pd.DataFrame, columns: Mapping[str, Column], key: Sequence[str]) -> dict[str, Any]:
    """The Table Schema of a frame.

    Args:
        frame: The table; every column must be described.
        columns: Descriptions of columns, by name.
        key: Columns that identify a row.
    """
    fields = [{"name": str(name), **columns[str(name)]} for name in frame.columns]
    return {"fields": fields, "primaryKey": list(key), "missingValues": [""]}


def package_name(name: str) -> str:
    """A name with only the characters that a data package allows."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower())


def resource(path: str, content: bytes, title: str, schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The data package entry of one file.

    Args:
        path: Path inside the export, with forward slashes.
        content: Content of the file.
        title: One-line description.
        schema: Table Schema of a table; the entry of a JSON or Parquet table refers to the CSV file of the same name.
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
    """A licence of the registry as a data package entry: name, title, and path if it has one."""
    for prefix, entry in WORDS["licences"].items():
        if text.startswith(prefix):
            return dict(entry)
    return {"name": re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-") or "unknown", "title": text}


# Valid codes of pages, which are used in file names and links.
PAGE_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")


class ExportBundle:
    """An export read into memory.

    Args:
        folder: A folder that `relabel export` wrote.

    Attributes:
        package: Content of `datapackage.json`.
        method: Content of `methodology.json`.
        sources: Entries of `sources.json`.
        occupations: Pages of the groups, sorted by code.
        changes: Rows of `changes.csv` as dicts; None without a baseline.
        families: Pages of the job families; may be empty.
        files: All files of the export, as relative paths.

    Raises:
        DataError: The folder is not an export, was written by another version, or a file cannot be read.
        ValueError: A file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        named = files_of_export(folder)
        if named is None:
            raise DataError(f"{folder} holds no export; give the folder that `relabel export --out` wrote")
        self.folder, self.files = folder, sorted(named)
        self.package: Row = self._json(PACKAGE)
        if (version := self.package["relabel"]["export_format"]) != EXPORT_FORMAT:
            raise DataError(
                f"{folder} was written by another version of relabel (export format {version}, this one reads {EXPORT_FORMAT}); "
                "run `relabel export` again"
            )
        self._hashes = {file["path"]: file.get("hash") for file in self.package["resources"] if "/" not in file["path"]}
        self.method: Row = self._json("methodology.json")
        self.sources: list[Row] = self._json("sources.json")["sources"]
        self.occupations = self._pages("occupations", "code")
        self.changes = self._changes() if "changes.csv" in named else None
        self.families = self._pages("families", "id")

    def _pages(self, kind: str, key: str) -> list[Row]:
        pages = {path: self._json(path) for path in self.files if path.startswith(f"{kind}/")}
        for path, page in pages.items():
            if not PAGE_CODE.fullmatch(page[key]):
                raise DataError(
                    f"{self.folder / path} does not name its page by a plain {key}; run `relabel export` again"
                )
        return list(pages.values())

    def _changes(self) -> list[Row]:
        frame = pd.read_csv(io.BytesIO(self._read("changes.csv")), dtype="str", keep_default_na=False, na_values=[""])
        numbers = frame.columns.difference(["code", "title", "measure", "reason", "note"])
        return records(frame.astype(dict.fromkeys(numbers, "float64")))

    def _json(self, path: str) -> Any:
        return json.loads(self._read(path))

    def _read(self, path: str) -> bytes:
        with os_errors(f"{self.folder / path} cannot be read", "run `relabel export` again"):
            return inside(self.folder, path).read_bytes()

    @cached_property
    def onet(self) -> dict[str, Row]:
        """Pages of the O*NET-SOC codes, by code."""
        pages = self._pages("onet", "code")
        for page in pages:
            page["tasks"] = [{"incoherent": False, "answers": []} | task for task in page["tasks"]]
        return {page["code"]: page for page in pages}

    def content(self, path: str) -> bytes:
        """The content of a file of the export. Tables are copied unread, so their checksums are verified.

        Raises:
            DataError: The file cannot be read, or is a table that was changed after the export.
        """
        raw = self._read(path)
        if self._hashes.get(path) not in (None, f"sha256:{hashlib.sha256(raw).hexdigest()}"):
            raise DataError(f"{self.folder / path} was changed or cut after the export; run `relabel export` again")
        return raw

    @property
    def date(self) -> str | None:
        """Day of the labels (`YYYY-MM-DD`); None if unknown."""
        created = self.package.get("created")
        return created[:10] if isinstance(created, str) else None
