"""CSV files that a user wrote: read strictly, so that each fault is named with its line and what to do about it.

pandas would take a short row, a doubled column or `479_000` without a word, and a figure would then be wrong in silence.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from relabel.errors import ColumnError, DataError

_PLAIN = re.compile(r"[0-9]+(\.[0-9]+)?")
_LARGEST = 1e15
_BETWEEN = re.compile(r"[\s_*-]+")


@dataclass(frozen=True)
class UserCsv:
    """A file as it stands.

    Attributes:
        path: The file.
        header: Names of the columns.
        rows: Each row with the number of its first line, cells by column as they are written. At least one.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, str]], ...]

    def require(self, *columns: str) -> None:
        """Make sure that the file has these columns.

        Raises:
            ColumnError: Some are missing; the message names them all, and all that are wanted.
        """
        lacking = [column for column in columns if column not in self.header]
        if lacking:
            advice = f"its first line must name {', '.join(columns)}"
            raise ColumnError(self.path, lacking[0], self.header, others=lacking[1:], advice=advice)

    def find(self, *names: str) -> str | None:
        """The column of one of some names: spelled exactly so, else but for case, blanks, underscores, hyphens and asterisks.

        Args:
            names: The names, the best first.

        Raises:
            DataError: Two columns are spelled alike but for these.
        """
        if exact := next((name for name in names if name in self.header), None):
            return exact
        for name in names:
            alike = [column for column in self.header if _plain_name(column) == _plain_name(name)]
            if len(alike) > 1:
                raise DataError(
                    f"{self.path} has the columns {' and '.join(map(repr, alike))}, which could both be {name!r}; rename one"
                )
            if alike:
                return alike[0]
        return None


def read_user_csv(path: Path, *, rows_are: str, advice: str) -> UserCsv:
    """Read a CSV file with a header: UTF-8, with or without a byte order mark, commas, any line ends.

    Blank lines are left out; a quoted cell may hold line breaks.

    Args:
        path: The file.
        rows_are: What a row is, in words, such as `a task`.
        advice: What to give instead when there is no such file.

    Raises:
        DataError: The file is missing, in another encoding, or no table: a row with other cells than the header, a
            column that is given twice or has blanks around its name, quotes that do not close, no row, or nothing at all.
            The message names the line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {advice}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8 (byte {error.start}); save it again as CSV in UTF-8") from error
    if (nul := text.find("\0")) >= 0:
        line = text.count("\n", 0, nul) + 1
        raise DataError(f"{path} line {line} holds a NUL character, which no text does; save the file again as CSV")
    records = _records(path, text)
    top, header = next(records, (1, []))
    if not header:
        raise DataError(
            f"{path} is empty; write a first line with the names of the columns, and one line for {rows_are}"
        )
    for name in header:
        if name != name.strip():
            raise DataError(f"{path} line {top}: the column {name!r} has blanks around its name; take them away")
        if name and header.count(name) > 1:
            raise DataError(f"{path} line {top} has the column {name!r} more than once; remove one")
    if len(header) == 1 and (mark := next((mark for mark in ";\t" if mark in header[0]), None)):
        between = "semicolons" if mark == ";" else "tabs"
        raise DataError(f"{path} has {between} between its cells; save it again with commas")
    rows: list[tuple[int, Mapping[str, str]]] = []
    for line, cells in records:
        if len(cells) != len(header):
            found = f"{len(cells)} cell{'' if len(cells) == 1 else 's'} where the header has {len(header)}"
            raise DataError(f"{path} line {line} has {found}; mend the line, a cell with a comma goes in quotes")
        rows.append((line, dict(zip(header, cells, strict=True))))
    if not rows:
        raise DataError(f"{path} has a header but no row below it; write one line for {rows_are}")
    return UserCsv(path, tuple(header), tuple(rows))


def _plain_name(column: str) -> str:
    return _BETWEEN.sub("", column).casefold()


def plain_number(text: str) -> float | None:
    """A number written in plain digits, such as `479000` or `35092.5`; None for anything else, signs included."""
    if not _PLAIN.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) and number < _LARGEST else None


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank, each with the number of its first line."""
    # str.splitlines would also break at form feeds and Unicode separators, which are plain characters to CSV.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        if "field limit" in str(error):
            most = f"{csv.field_size_limit():,} characters"
            raise DataError(
                f"{path} line {start} has a cell of over {most}; shorten it, or close its quotes"
            ) from error
        raise DataError(f"{path} line {start} is not CSV ({error}); mend the line") from error
