"""Reading an export: everything that the pages are made from."""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from relabel.errors import DataError
from relabel.files import inside
from relabel.publishing.folder import EXPORT_FORMAT, PACKAGE, files_of_export
from relabel.scoring.files import records

Row = dict[str, Any]

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
