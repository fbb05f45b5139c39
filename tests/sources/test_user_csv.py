"""Files that users write: what is taken, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from relabel.errors import DataError
from relabel.sources.user_csv import UserCsv, plain_number, read_user_csv


def read(tmp_path: Path, text: str | bytes) -> UserCsv:
    path = tmp_path / "mine.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_user_csv(path, rows_are="each thing", advice="give another")


def test_marks_line_ends_blank_lines_and_breaks_in_cells_are_taken(tmp_path: Path) -> None:
    file = read(tmp_path, '\ufeffa,b\r\n"1\r\n2",x\r\n\r\n3,\x0c\u2028y\r')
    assert file.header == ("a", "b")
    assert file.rows == ((2, {"a": "1\n2", "b": "x"}), (5, {"a": "3", "b": "\x0c\u2028y"}))


def test_columns_without_a_name_do_not_matter(tmp_path: Path) -> None:
    assert read(tmp_path, "a,,\n1,,\n").rows[0][1]["a"] == "1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1\n", "line 2 has 1 cell where the header has 2"),
        ("a;b\n1;2,5\n", "semicolons between its cells; save it again with commas"),
        ("a\tb\n1\t2\n", "tabs between its cells"),
        ("a,b\n1,2\n1,\0\n", "line 3 holds a NUL character"),
        ("a,b\n1," + "x" * 200_000 + "\n", "line 2 has a cell of over 131,072 characters"),
        ("a,b\n1,2\n\n1,2,3\n", "line 4 has 3 cells where the header has 2"),
        ("a,a\n1,2\n", "line 1 has the column 'a' more than once; remove one"),
        ("a,b \n1,2\n", "line 1: the column 'b ' has blanks around its name; take them away"),
        ("\n \n", "is empty; write a first line with the names of the columns, and one line for each thing"),
        ("a,b\n", "has a header but no row below it; write one line for each thing"),
        ('a,b\n1,"2\n', "line 2 is not CSV"),
        ('a,b\n"1"x,2\n', "line 2 is not CSV"),
        ("a,b\n1,2\n".encode("utf-16"), "is not in UTF-8"),
    ],
)
def test_a_faulty_file_is_refused_with_the_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_answered_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read .*; give another"):
        read_user_csv(tmp_path / "none.csv", rows_are="each thing", advice="give another")


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
