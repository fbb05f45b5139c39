"""Files that users write: what is taken, and what is refused with its line."""

from __future__ import annotations

import csv
import os
import zipfile
from pathlib import Path

import openpyxl
import pytest

from relabel.errors import DataError
from relabel.files import read_small
from relabel.sources import tables
from relabel.sources.tables import Table, plain_number, read_table


def read(tmp_path: Path, text: str | bytes) -> Table:
    path = tmp_path / "mine.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(path, rows_are="each thing", advice="give another")


def test_marks_line_ends_blank_lines_and_breaks_in_cells_are_taken(tmp_path: Path) -> None:
    file = read(tmp_path, '\ufeffa,b\r\n"1\r\n2",x\r\n\r\n3,\x0c\u2028y\r')
    assert file.header == ("a", "b")
    assert file.rows == ((2, {"a": "1\n2", "b": "x"}), (5, {"a": "3", "b": "\x0c\u2028y"}))


def test_blanks_around_the_name_of_a_column_do_not_matter(tmp_path: Path) -> None:
    assert read(tmp_path, "a, b \n1,2\n").rows[0][1] == {"a": "1", "b": "2"}


def test_columns_without_a_name_do_not_matter(tmp_path: Path) -> None:
    assert read(tmp_path, "a,,\n1,,\n").rows[0][1]["a"] == "1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1\n", "line 2 has 1 cell where the header has 2"),
        ("a,b\n1,2\n1,\0\n", "contains a NUL character; save it again as CSV in UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "contains a NUL character"),
        ("a,b\n1," + "x" * 200_000 + "\n", "line 2 is not CSV"),
        ("a,b\n1,2\n\n1,2,3\n", "line 4 has 3 cells where the header has 2"),
        ("a,a\n1,2\n", "line 1 has the column 'a' more than once; remove one"),
        ("a,a \n1,2\n", "line 1 has the column 'a' more than once; remove one"),
        ("\n \n", "is empty; write a first line with the names of the columns, and one line for each thing"),
        ("<!DOCTYPE html>\n<p>Sorry, not found", "begins with the single cell '<!DOCTYPE html>'; write a first line"),
        ("Tasks of 2026\na,b\n1,2\n", "begins with the single cell 'Tasks of 2026'"),
        ("a,b\n", "has a header but no row below it; write one line for each thing"),
        ('a,b\n1,"2\n', "line 2 is not CSV"),
        ('a,b\n"1"x,2\n', "line 2 is not CSV"),
        ("a,b\n1,\u6307\u5bfc\u8d22\u52a1\n".encode("gbk"), "is not in UTF-8"),
        ("a,b\n1,r\u00e9sum\u00e9\n".encode("cp1252"), r"is not in UTF-8 \(byte 7\)"),
    ],
)
def test_a_faulty_file_is_refused_with_the_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    csv.field_size_limit(131_072)  # its default, which scipy.io raises for the whole process
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_answered_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read .*; give another"):
        read_table(tmp_path / "none.csv", rows_are="each thing", advice="give another")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("479000", 479000),
        ("35092.5", 35092.5),
        ("007", 7),
        *(
            (bad, None)
            for bad in (
                "479_000",
                "479,000",
                "-1",
                "+1",
                "1e5",
                "inf",
                "nan",
                "",
                " 1",
                "1.",
                ".5",
                "٤",
                "１",
                "9" * 400,
                "0x1F",
            )
        ),
    ],
)
def test_only_plain_digits_are_a_number(text: str, number: float | None) -> None:
    assert plain_number(text) == number


def sheet(path: Path, *rows: list[object]) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue, reportCallIssue]  a new workbook has a plain sheet
    book.save(path)
    return path


def test_separators_encodings_and_workbooks_give_the_same_table(tmp_path: Path) -> None:
    wanted = ((2, {"Task ID": "8823", "label": "E2, so"}),)
    text = 'Task ID,label\n8823,"E2, so"\n'
    assert read(tmp_path, text).rows == wanted
    assert read(tmp_path, "Task ID;label\n8823;E2, so\n").rows == wanted
    assert read(tmp_path, "Task ID\tlabel\n8823\tE2, so\n").rows == wanted
    assert read(tmp_path, "sep=;\r\nTask ID;label\r\n8823;E2, so\r\n").rows == ((3, wanted[0][1]),)
    assert read(tmp_path, text.encode("utf-16")).rows == wanted
    book = sheet(tmp_path / "mine.xlsx", ["Task ID", "label", None], [8823.0, "E2, so"], [None, None])
    assert read_table(book, rows_are="each thing", advice="give another").rows == wanted


def test_quotes_of_a_text_file_by_excel_are_none_of_its_text_and_those_by_onet_are(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    for written, text in (
        ('"Sort mail, ""urgent"" first"', 'Sort mail, "urgent" first'),
        ('Sort "urgent" mail', 'Sort "urgent" mail'),
        ('Fit 2" pipes', 'Fit 2" pipes'),
    ):
        path.write_text(f"Task ID\tTask\r\n8823\t{written}\r\n", "utf-16", newline="")
        assert read_table(path, rows_are="each task", advice="").rows == ((2, {"Task ID": "8823", "Task": text}),)


@pytest.mark.parametrize(("second", "refused"), [(["code", "jobs"], True), (["code", "title"], False), ([], False)])
def test_rows_on_another_sheet_with_the_same_columns_are_not_left_out(
    tmp_path: Path, second: list[object], refused: bool
) -> None:
    book = openpyxl.load_workbook(sheet(tmp_path / "mine.xlsx", ["code", "jobs"], ["1121", 5]))
    book.create_sheet("2023").append(second)
    book.save(tmp_path / "mine.xlsx")
    if not refused:
        assert len(read_table(tmp_path / "mine.xlsx", rows_are="each group", advice="").rows) == 1
        return
    with pytest.raises(DataError, match="has the sheets 'Sheet' and '2023' with the same columns"):
        read_table(tmp_path / "mine.xlsx", rows_are="each group", advice="")


def test_an_error_cell_of_a_workbook_stays_an_error(tmp_path: Path) -> None:
    book = sheet(tmp_path / "mine.xlsx", ["code", "jobs"], ["1121", "#DIV/0!"])
    assert read_table(book, rows_are="each thing", advice="give another").rows == (
        (2, {"code": "1121", "jobs": "#N/A"}),
    )


def test_a_formula_whose_result_was_not_stored_is_not_an_empty_cell(tmp_path: Path) -> None:
    path = sheet(tmp_path / "mine.xlsx", ["code", "jobs"], ["1121", 5], ["1122", "=B2*2"])
    with pytest.raises(DataError, match="the formula in B3 has no stored result; open the file in Excel and save it"):
        read_table(path, rows_are="each thing", advice="give another")


def test_the_first_sheet_that_a_person_sees_is_read(tmp_path: Path) -> None:
    book = openpyxl.load_workbook(sheet(tmp_path / "mine.xlsx", ["code", "jobs"], ["1121", 5]))
    old = book.create_sheet("old", 0)
    old.append(["code", "jobs", "note"])
    old.append(["1121", 7, "of last year"])
    old.sheet_state = "hidden"
    book.active = 1
    book.save(tmp_path / "mine.xlsx")
    assert read_table(tmp_path / "mine.xlsx", rows_are="each group", advice="").rows == (
        (2, {"code": "1121", "jobs": "5"}),
    )


@pytest.mark.parametrize("limit", ["_MOST_CELLS", "_MOST_BYTES"])
def test_a_workbook_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    book = openpyxl.load_workbook(sheet(tmp_path / "mine.xlsx", ["code", "jobs"]))
    for row in range(3, 9):
        book.active.cell(row, 16_384, 1)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]  see `sheet`
    book.save(tmp_path / "mine.xlsx")
    with zipfile.ZipFile(tmp_path / "mine.xlsx", "a") as packed:
        packed.writestr("xl/media/zeros.bin", bytes(100_000), zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(tables, limit, 90_000)
    with pytest.raises(DataError, match="more than 90,000 "):
        read_table(tmp_path / "mine.xlsx", rows_are="each group", advice="")


def test_a_stray_cell_at_the_far_corner_takes_no_memory(tmp_path: Path) -> None:
    book = openpyxl.load_workbook(sheet(tmp_path / "mine.xlsx", ["code", "jobs"], ["1121", 5]))
    book.active["XFD200000"] = " "  # pyright: ignore[reportOptionalSubscript, reportIndexIssue]  see `sheet`
    book.save(tmp_path / "mine.xlsx")
    assert len(read_table(tmp_path / "mine.xlsx", rows_are="each group", advice="").rows) == 1


@pytest.mark.parametrize("device", [False, True], ids=["a pipe", "a device"])
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path, device: bool) -> None:
    path = tmp_path / "mine.csv"
    if device:
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    with pytest.raises(DataError, match=r"mine.csv cannot be read \(it is a pipe or a device\); give another"):
        read_table(path, rows_are="each thing", advice="give another")
    with pytest.raises(DataError, match="it is a pipe or a device"):
        read_small(path, 10)


def test_quotes_are_plain_characters_in_the_text_edition_of_onet(tmp_path: Path) -> None:
    path = tmp_path / "Task Statements.txt"
    path.write_text('Task ID\tTask\r\n1\t"Lead" the firm.\r\n', encoding="utf-8")
    assert read_table(path, rows_are="each task", advice="").rows == (
        (2, {"Task ID": "1", "Task": '"Lead" the firm.'}),
    )


def test_onets_own_names_are_found_before_an_index_that_is_called_id(tmp_path: Path) -> None:
    file = read(tmp_path, "id,Task ID,O*NET-SOC Code,Task Statement\n1,8823,11-1011.00,Lead.\n")
    assert file.columns("task_id", "onet_soc_code", "text") == {
        "task_id": "Task ID",
        "onet_soc_code": "O*NET-SOC Code",
        "text": "Task Statement",
    }


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("8823.0", "8823"),
        (" 8823.00 ", "8823"),
        ("8823\u00a0", "8823"),
        ("\u200b8823.0\ufeff", "8823"),
        ("007", "007"),
        ("S001", "S001"),
        ("'-1", "-1"),
        ("1.5", "1.5"),
    ],
)
def test_ids_are_normalised_alike_everywhere(tmp_path: Path, written: str, read_as: str) -> None:
    assert read(tmp_path, "a,b\n1,2\n").task_id(2, written) == read_as


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("8.823E+03", "line 2: task_id '8.823E.03' is a formula or was rewritten by a spreadsheet"),
        ("8,823", "rewritten by a spreadsheet"),
        ("8\u202f823", "rewritten by a spreadsheet"),
        ("8'823", "rewritten by a spreadsheet"),
        ("11-Mar", "rewritten by a spreadsheet"),
        ("2011-11-03", "rewritten by a spreadsheet"),
        ("=A1", "is a formula"),
        ("-1", "is a formula"),
        (" ", "line 2 has no task_id"),
    ],
)
def test_ids_that_a_spreadsheet_spoiled_are_refused(tmp_path: Path, written: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, "a,b\n1,2\n").task_id(2, written)


@pytest.mark.parametrize("written", ["11-1011", "11\u20131011.00", "Nov-11", "11101100", "11-1011.0", "１１-1011.00"])
def test_codes_that_are_none_are_refused_by_line(tmp_path: Path, written: str) -> None:
    with pytest.raises(DataError, match=r"line 2: .* is not an O.NET-SOC code"):
        read(tmp_path, "a,b\n1,2\n").onet_soc_code(2, written)


def test_a_comma_marks_decimals_only_where_it_cannot_mark_thousands(tmp_path: Path) -> None:
    file = read(tmp_path, "a;b\n1;2\n")
    assert [file.number(text) for text in ("1,5", "52885,25", "35,125", "0,711", "1.5")] == [
        1.5,
        52885.25,
        None,
        0.711,
        1.5,
    ]
    assert read(tmp_path, "a,b\n1,2\n").number("1,5") is None


def test_row_numbers_are_not_taken_for_ids(tmp_path: Path) -> None:
    file = read(tmp_path, "a,b\n1,2\n")
    with pytest.raises(DataError, match="count from 0 to 19 like row numbers"):
        file.refuse_row_numbers([str(n) for n in range(20)], "add codes")
    file.refuse_row_numbers([str(n) for n in range(8823, 8843)], "add codes")
