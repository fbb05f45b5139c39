"""Worksheets are read once: what was read is kept under the checksum of the workbook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest

from relabel.settings import settings
from relabel.sources import tables
from relabel.sources.tables import read_sheet

COLUMNS = {"Code": "code", "Title": "title"}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The workbooks that were opened, in order."""
    paths: list[Path] = []
    read_rows = tables.read_rows

    def watched(path: Path, sheet: str | None = None) -> tables.Rows:
        paths.append(path)
        return read_rows(path, sheet)

    monkeypatch.setattr(tables, "read_rows", watched)
    return paths


def workbook(path: Path, *rows: tuple[Any, ...]) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in [("Code", "Title"), *rows]:
        sheet.append(list(row))
    book.save(path)
    return path


def kept() -> list[Path]:
    return sorted((settings().download_dir / ".sheets").glob("*.parquet"))


def test_a_sheet_is_parsed_once_and_reads_the_same_again(tmp_path: Path, opened: list[Path]) -> None:
    book = workbook(tmp_path / "a.xlsx", ("0110", "NA"), (12, None))
    first, second = read_sheet(book, COLUMNS), read_sheet(book, COLUMNS)
    pd.testing.assert_frame_equal(first, second)
    assert second["code"].tolist() == ["0110", "12"]
    assert second["title"].tolist() == ["NA", ""]
    assert len(opened) == 1


def test_another_content_other_columns_or_another_sheet_are_read_anew(tmp_path: Path, opened: list[Path]) -> None:
    book = workbook(tmp_path / "a.xlsx", (1, "one"))
    read_sheet(book, COLUMNS)
    assert read_sheet(book, {"Title": "name"})["name"].tolist() == ["one"]
    read_sheet(book, COLUMNS, sheet="Sheet")
    assert read_sheet(workbook(book, (1, "uno")), COLUMNS)["title"].tolist() == ["uno"]
    assert len(opened) == 4


def test_the_same_workbook_under_another_name_is_not_parsed_again(tmp_path: Path, opened: list[Path]) -> None:
    book = workbook(tmp_path / "a.xlsx", (1, "one"))
    other = tmp_path / "b.xlsx"
    other.write_bytes(book.read_bytes())
    pd.testing.assert_frame_equal(read_sheet(book, COLUMNS), read_sheet(other, COLUMNS))
    assert opened == [book]


@pytest.mark.parametrize("damage", ["cut", "bit", "junk"])
def test_a_damaged_file_of_the_cache_is_read_anew_and_mended(tmp_path: Path, opened: list[Path], damage: str) -> None:
    book = workbook(tmp_path / "a.xlsx", *((n, f"title {n}") for n in range(500)))
    first = read_sheet(book, COLUMNS)
    (path,) = kept()
    content = path.read_bytes()
    at = 1000  # within the first column's pages
    path.write_bytes(
        {"cut": content[:-20], "junk": b"junk", "bit": content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]}[
            damage
        ]
    )
    pd.testing.assert_frame_equal(read_sheet(book, COLUMNS), first)
    read_sheet(book, COLUMNS)
    assert len(opened) == 2


def test_a_home_that_cannot_be_written_only_costs_time(
    tmp_path: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path / "home"))
    book = workbook(tmp_path / "a.xlsx", (1, "one"))
    for _ in range(2):
        assert read_sheet(book, COLUMNS)["title"].tolist() == ["one"]
    assert len(opened) == 2
