"""Reading an export: everything that the pages are made from."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from relabel.errors import DataError
from relabel.files import inside
from relabel.publishing.folder import EXPORT_FORMAT, PACKAGE, files_of_export

Row = dict[str, Any]

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
"""What names a page: it becomes a file's name and a link."""


@dataclass(frozen=True)
class ExportBundle:
    """An export in memory.

    Attributes:
        folder: The export's folder.
        package: `datapackage.json`.
        method: `methodology.json`.
        sources: Entries of `sources.json`.
        occupations: Pages of the groups, in the order of the codes.
        changes: Rows of `changes.csv`, numbers as numbers; None where the export has no baseline.
        families: Pages of the job families; empty where the export has none.
        files: All files of the export, paths relative to it.
    """

    folder: Path
    package: Row
    method: Row
    sources: list[Row]
    occupations: list[Row]
    changes: list[Row] | None
    families: list[Row]
    files: list[str]

    @cached_property
    def onet(self) -> dict[str, Row]:
        """Pages of the O*NET-SOC codes by code."""
        pages = [_page(self.folder, path, "code") for path in self.files if path.startswith("onet/")]
        for page in pages:
            page["tasks"] = [{"incoherent": False, "answers": []} | task for task in page["tasks"]]
        return {page["code"]: page for page in pages}

    def content(self, path: str) -> bytes:
        """A file of the export, as it is.

        Raises:
            DataError: It cannot be read.
        """
        try:
            return inside(self.folder, path).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self.folder / path} cannot be read ({error.strerror}); run `relabel export` again"
            ) from error

    @property
    def date(self) -> str | None:
        """Day on which the labels were made (`YYYY-MM-DD`); None where the run does not say."""
        created = self.package.get("created")
        return created[:10] if isinstance(created, str) else None


def read_bundle(folder: Path) -> ExportBundle:
    """Read an export.

    Args:
        folder: A folder that `relabel export` wrote.

    Raises:
        DataError: It is none, was written by another version, or a file is missing or damaged.
    """
    files = files_of_export(folder)
    if files is None:
        raise DataError(f"{folder} holds no export; give the folder that `relabel export --out` wrote")
    package = _json(folder / PACKAGE)
    if (found := package["relabel"]["export_format"]) != EXPORT_FORMAT:
        raise DataError(
            f"{folder} was written by another version of relabel (export format {found}, this one reads {EXPORT_FORMAT}); "
            "run `relabel export` again"
        )
    ordered = sorted(files)
    return ExportBundle(
        folder=folder,
        package=package,
        method=_json(inside(folder, "methodology.json")),
        sources=_json(inside(folder, "sources.json"))["sources"],
        occupations=[_page(folder, path, "code") for path in ordered if path.startswith("occupations/")],
        changes=_changes(inside(folder, "changes.csv")) if "changes.csv" in files else None,
        families=[_page(folder, path, "id") for path in ordered if path.startswith("families/")],
        files=ordered,
    )


def _page(folder: Path, path: str, key: str) -> Any:
    page = _json(inside(folder, path))
    if not isinstance(page, dict) or not isinstance(page.get(key), str) or not _CODE.fullmatch(page[key]):
        raise DataError(f"{folder / path} does not name its page by a plain {key}; run `relabel export` again")
    return page


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is missing or damaged ({type(error).__name__}); run `relabel export` again") from error


def _changes(path: Path) -> list[Row]:
    words = {"code", "title", "measure"}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {name: cell if name in words else _number(cell) for name, cell in row.items()}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or damaged ({error}); run `relabel export` again") from error
    return rows


def _number(cell: str) -> float | str | None:
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError:
        return cell
