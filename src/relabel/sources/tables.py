"""Tables that users give: CSV, tab-separated or Excel files, read strictly, so that each fault is named with its line.

pandas would take a short row, a doubled column or `479_000` without a word, and a figure would then be wrong in silence.
Everything that a user's table may hold is understood here alike: names of columns, task ids, codes, categories, numbers.
"""

from __future__ import annotations

import csv
import datetime
import io
import math
import re
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from relabel.errors import ColumnError, DataError
from relabel.files import os_errors

if TYPE_CHECKING:
    from openpyxl import Workbook

COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "task_id": ("task_id", "id"),
    "onet_soc_code": ("onet_soc_code", "soc_code", "onet_soc_2019_code"),
    "title": ("title", "occupation_title", "occupation"),
    "text": ("text", "task", "task_statement", "task_text", "task_title", "statement"),
}
"""Names that a column may have, by what it holds, where it has several; O*NET's own `Task ID`, `O*NET-SOC Code` and `Task` are spelled like these."""

TASK_TYPES = ("Core", "Supplemental")
NOT_GIVEN = ("", "n/a")
"""What O*NET writes where it has no value."""

ONET_SOC = r"^\d{2}-\d{4}\.\d{2}$"

OCCUPATION_CODE = r"^[A-Za-z0-9][A-Za-z0-9.-]{0,29}$"
"""A code of any classification."""

_CODE = re.compile(ONET_SOC, re.ASCII)
_CUT_CODE = re.compile(r"\d{2}-\d{4}", re.ASCII)
_FREE_CODE = re.compile(OCCUPATION_CODE, re.ASCII)
_PLAIN = re.compile(r"[0-9]+(\.[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[0-9]+,([0-9]{1,2}|[0-9]{4,})")
_REWRITTEN = re.compile(r"[0-9.,]+[eE][+-]?[0-9]+|[0-9]{1,3}(,[0-9]{3})+", re.ASCII)
_WHOLE = re.compile(r"([0-9]+)\.0+", re.ASCII)
_ASCII_SIGNS = {place: None for place in range(128) if not chr(place).isalnum()}
_LARGEST = 1e15
_ROW_NUMBERS = 10

Rows = list[list[Any]]


def is_table_file(ref: str | Path) -> bool:
    """Whether a word names a file with a table, by its ending, and not a source or list."""
    return Path(ref).suffix.lower() in (".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xls")


def plain_name(column: str) -> str:
    """A column's name without case, blanks and signs: `O*NET-SOC Code` and `onet_soc_code` are one."""
    plain = column.translate(_ASCII_SIGNS)
    return (plain if plain.isascii() else re.sub(r"[\W_]+", "", plain)).casefold()


def find_column(names: Sequence[str], header: Iterable[str], path: Path) -> str | None:
    """The column of one of some names: spelled exactly so, else but for case, blanks and signs.

    Args:
        names: The names, the best first.
        header: Columns of the file.
        path: The file, for the message.

    Raises:
        DataError: Two columns are spelled alike but for these.
    """
    columns = list(header)
    for name in names:
        if name in columns:
            return name
        alike = [column for column in columns if plain_name(column) and plain_name(column) == plain_name(name)]
        if len(alike) > 1:
            raise DataError(
                f"{path} has the columns {' and '.join(map(repr, alike))}, which could both be {name!r}; rename one"
            )
        if alike:
            return alike[0]
    return None


def category(written: str, among: Iterable[str]) -> str | None:
    """The value of a closed list that a cell means, whatever its case, blanks and signs; None for any other."""
    known = list(among)
    if written in known:
        return written
    alike = [value for value in known if plain_name(value) == plain_name(written)]
    return alike[0] if len(alike) == 1 else None


def plain_id(written: str) -> str:
    """An id without the `.0` that a column with gaps leaves behind."""
    return match[1] if (match := _WHOLE.fullmatch(written.strip())) else written.strip()


def plain_number(text: str) -> float | None:
    """A number written in plain digits, such as `479000` or `35092.5`; None for anything else, signs included."""
    if not _PLAIN.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) and number < _LARGEST else None


@dataclass(frozen=True)
class Table:
    """A table as it stands in its file.

    Attributes:
        path: The file.
        header: Names of the columns.
        rows: Each row with the number of its first line, cells by column as they are written. At least one.
        decimal_comma: Whether a comma in a number may be a decimal mark, as in files with semicolons.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, str]], ...]
    decimal_comma: bool = False

    def find(self, *names: str) -> str | None:
        """The column of one of some names, see `find_column`.

        Raises:
            DataError: Two columns could both be meant.
        """
        return find_column(names, self.header, self.path)

    def column(self, holds: str) -> str | None:
        """The column that holds what `COLUMN_NAMES` or else the name itself says; None where there is none."""
        return self.find(*COLUMN_NAMES.get(holds, (holds,)))

    def columns(self, *needed: str, optional: Sequence[str] = ()) -> dict[str, str]:
        """Columns by what they hold.

        Raises:
            ColumnError: Some of the needed are missing; the message names them all, and all that are wanted.
            DataError: Two columns could both be meant.
        """
        found = {holds: self.column(holds) for holds in (*needed, *optional)}
        if lacking := [holds for holds in needed if found[holds] is None]:
            advice = f"its first line must name {', '.join(needed)}"
            raise ColumnError(self.path, lacking[0], self.header, others=lacking[1:], advice=advice)
        return {holds: column for holds, column in found.items() if column is not None}

    def task_id(self, line: int, written: str) -> str:
        """A task id, without the `.0` of a column with gaps.

        Raises:
            DataError: It is missing, a formula, or a number that a spreadsheet has rewritten.
        """
        # A spreadsheet-safe file has an apostrophe before an id that looks like a formula.
        value = plain_id(written).removeprefix("'") if written.startswith("'-") else plain_id(written)
        if not value:
            raise DataError(f"{self.path} line {line} has no task_id; fill it or remove the line")
        if value[0] in "=+@" or (value[0] == "-" and not written.startswith("'-")):
            raise DataError(f"{self.path} line {line}: task_id {value[:40]!r} is a formula; save the values instead")
        if _REWRITTEN.fullmatch(value):
            raise DataError(
                f"{self.path} line {line}: task_id {value[:40]!r} was rewritten by a spreadsheet; write it in plain digits"
            )
        return value

    def onet_soc_code(self, line: int, written: str) -> str:
        """An O*NET-SOC code.

        Raises:
            DataError: It is not one.
        """
        value = written.strip()
        if not value:
            raise DataError(f"{self.path} line {line} has no onet_soc_code; fill it or remove the line")
        if not _CODE.fullmatch(value):
            cut = _CUT_CODE.fullmatch(value)
            how = f"a SOC code cut to six digits; write it in full, such as {value}.00" if cut else ""
            raise DataError(
                f"{self.path} line {line}: {value[:40]!r} is {how or 'not an O*NET-SOC code; write it like 11-3051.00'}"
            )
        return value

    def occupation_code(self, line: int, written: str) -> str:
        """A code of another classification than O*NET's: letters, digits, dots and hyphens, as it names files of an export.

        Raises:
            DataError: It is not one.
        """
        value = plain_id(written)
        if not _FREE_CODE.fullmatch(value) or _REWRITTEN.fullmatch(value):
            raise DataError(
                f"{self.path} line {line}: {value[:40]!r} is not a code; write letters, digits, dots and hyphens, such as 2512"
            )
        return value

    def category(self, line: int, column: str, written: str, among: Sequence[str]) -> str | None:
        """The value of a closed list that a cell means; None where the source gives none.

        Raises:
            DataError: The cell holds something else.
        """
        if written.strip().lower() in NOT_GIVEN:
            return None
        if (value := category(written, among)) is None:
            allowed = ", ".join(among)
            raise DataError(
                f"{self.path} line {line}: {column} {written.strip()[:40]!r} is not one of {allowed}; correct it, or leave "
                "the cell empty"
            )
        return value

    def number(self, written: str) -> float | None:
        """A number in plain digits; where semicolons separate cells, `1,5` is one as well. None for anything else.

        `35,125` is none: nothing says whether its comma marks decimals or thousands.
        """
        text = written.strip()
        if self.decimal_comma and _DECIMAL_COMMA.fullmatch(text):
            text = text.replace(",", ".")
        return plain_number(text)

    def refuse_row_numbers(self, ids: Sequence[str], advice: str) -> None:
        """Make sure that ids are not the numbers of the rows, which may happen to be ids of other tasks.

        Args:
            ids: Ids in the order of the rows.
            advice: What to do instead.

        Raises:
            DataError: They count up from 0 or 1 without a gap.
        """
        counted = [[str(number + start) for number in range(len(ids))] for start in (0, 1)]
        if len(ids) >= _ROW_NUMBERS and list(ids) in counted:
            raise DataError(
                f"{self.path}: the task ids count from {ids[0]} to {ids[-1]} like row numbers, and the file has no "
                f"O*NET-SOC codes that could confirm them; {advice}"
            )


def read_table(path: Path, *, rows_are: str, advice: str) -> Table:
    """Read a table with a header: CSV or tab-separated text, or the first sheet of an Excel workbook.

    Text is UTF-8, with or without a byte order mark, or UTF-16 with one; cells are separated by commas, semicolons or tabs,
    whichever the header has most of. Blank lines are left out; a quoted cell may hold line breaks.

    Args:
        path: The file.
        rows_are: What a row is, in words, such as `each task`.
        advice: What to give instead when there is no such file.

    Raises:
        DataError: The file is missing, in another encoding, or no table: a row with other cells than the header, a
            column that is given twice or has blanks around its name, quotes that do not close, no row, or nothing at all.
            The message names the line.
    """
    if path.suffix.lower() in (".xlsx", ".xls") and path.is_file():
        records, separator = _sheet_records(path), ""
    else:
        text = _text(path, advice)
        separator = _separator(text)
        records = _records(path, text, separator)
    top, header = next(records, (1, []))
    if not header:
        raise DataError(
            f"{path} is empty; write a first line with the names of the columns, and one line for {rows_are}"
        )
    for name in header:
        if name != name.strip():
            raise DataError(f"{path} line {top}: the column {name!r} has blanks around its name; remove them")
        if name and header.count(name) > 1:
            raise DataError(f"{path} line {top} has the column {name!r} more than once; remove one")
    rows: list[tuple[int, Mapping[str, str]]] = []
    for line, cells in records:
        if len(cells) != len(header):
            found = f"{len(cells)} cell{'' if len(cells) == 1 else 's'} where the header has {len(header)}"
            quoted = {"\t": "tab", ";": "semicolon"}.get(separator, "comma")
            raise DataError(f"{path} line {line} has {found}; correct the line, a cell with a {quoted} goes in quotes")
        rows.append((line, dict(zip(header, cells, strict=True))))
    if not rows:
        raise DataError(f"{path} has a header but no row below it; write one line for {rows_are}")
    return Table(path, tuple(header), tuple(rows), decimal_comma=separator == ";")


def _text(path: Path, advice: str) -> str:
    with os_errors(f"{path} cannot be read", advice):
        raw = path.read_bytes()
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if wide else "UTF-8"
        raise DataError(f"{path} is not in {kind} (byte {error.start}); save it again as CSV in UTF-8") from error
    if (nul := text.find("\0")) >= 0:
        line = text.count("\n", 0, nul) + 1
        raise DataError(f"{path} line {line} contains a NUL character; save the file again as CSV")
    return text


def _separator(text: str) -> str:
    """Whichever of comma, semicolon and tab the header has most of, outside of quotes."""
    header = next((line for line in io.StringIO(text) if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", header)
    return max(",;\t", key=bare.count)


def _records(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank, each with the number of its first line."""
    # str.splitlines would also break at form feeds and Unicode separators, which are plain characters to CSV.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if separator == "\t" and path.suffix.lower() == ".txt":
        # O*NET's text files use quotes as plain characters.
        yield from ((at, line.split("\t")) for at, line in enumerate(lines, start=1) if line.strip())
        return
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True)
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
        raise DataError(f"{path} line {start} is not CSV ({error}); correct the line") from error


def _sheet_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of a workbook's first sheet that are not blank, as wide as its header, each with its number."""
    width = 0
    for at, row in enumerate(read_rows(path), start=1):
        cells = [cell_text(cell) for cell in row]
        while cells and not cells[-1].strip():
            cells.pop()
        if not cells:
            continue
        width = width or len(cells)
        yield at, cells + [""] * (width - len(cells))


def read_rows(path: Path, sheet: str | None = None) -> Rows:
    """The cells of a worksheet as they are stored; by default of the first.

    Raises:
        DataError: The file is not a workbook or has no such sheet.
    """
    from xlrd.biffh import XLRDError

    try:
        return (_rows_of_xls if path.suffix.lower() == ".xls" else _rows_of_xlsx)(path, sheet)
    except (zipfile.BadZipFile, KeyError, ValueError, XLRDError, OSError) as error:
        raise DataError(f"{path} cannot be read as a workbook ({error}); check that it is the right file") from error


def cell_text(cell: object) -> str:
    """A cell as text: empty for an empty cell, `35` and not `35.0` for a whole number."""
    if isinstance(cell, str):
        return cell
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return str(cell.date())
    return str(cell)


def _rows_of_xlsx(path: Path, sheet: str | None) -> Rows:
    with warnings.catch_warnings():
        # Publishers' workbooks carry styles and extensions that openpyxl reports and drops.
        warnings.simplefilter("ignore", UserWarning)
        book = _workbook(path, path.stat().st_mtime_ns)
        if sheet is not None and sheet not in book.sheetnames:
            raise _no_sheet(path, sheet, book.sheetnames)
        leaf = book.worksheets[0] if sheet is None else book[sheet]
        return [list(row) for row in leaf.iter_rows(values_only=True)]


@lru_cache(maxsize=1)  # a reader may want several sheets, and opening reads all texts
def _workbook(path: Path, changed: int) -> Workbook:  # pyright: ignore[reportUnusedParameter]  key of the cache
    import openpyxl

    return openpyxl.load_workbook(path, read_only=True, data_only=True)


def _rows_of_xls(path: Path, sheet: str | None) -> Rows:
    import xlrd

    with xlrd.open_workbook(str(path), on_demand=True) as book:
        if sheet is not None and sheet not in book.sheet_names():
            raise _no_sheet(path, sheet, book.sheet_names())
        leaf = book.sheet_by_index(0) if sheet is None else book.sheet_by_name(sheet)
        return [list(leaf.row_values(row)) for row in range(leaf.nrows)]


def _no_sheet(path: Path, sheet: str, present: Sequence[str]) -> DataError:
    shown = ", ".join(map(repr, present))
    return DataError(f"{path} has no sheet {sheet!r} (it has {shown}); check that it is the right file and release")


TASK_ID = r"^\d+$"
SOC = r"^\d{2}-\d{4}$"
UK_SOC_UNIT = r"^\d{4}$"


def text_columns(
    path: Path, columns: Mapping[str, str], *, sheet: str | None = None, optional: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    """Read a publisher's file as text: what it is follows from its ending, columns are found by loose names.

    Args:
        path: A `.txt` file (tabs, quotes are plain characters, as O*NET writes it), a `.tsv` or `.csv` file in UTF-8, or a
            workbook, whose header is the first row that holds the first of the columns.
        columns: New names by the names in the file, spelled so but for case, blanks and signs; others are dropped.
        sheet: Name of the worksheet; by default the first.
        optional: Like `columns`, for those that not every file has; where absent, they hold empty strings.

    Returns:
        The cells of each column, stripped of surrounding white space; empty cells as empty strings, whole numbers without a
        decimal point.

    Raises:
        ColumnError: A column is missing.
        DataError: The file is not a table of this kind, or has no such sheet.
    """
    if path.suffix.lower() in (".xlsx", ".xls"):
        return pick_columns(path, read_rows(path, sheet), columns, optional=optional)
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    quoting = csv.QUOTE_NONE if path.suffix.lower() == ".txt" else csv.QUOTE_MINIMAL
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _rows_of_one_width(path, csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True))
            return pick_columns(path, rows, columns, optional=optional, header_first=True)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}; check that it is the right file") from error


def _rows_of_one_width(path: Path, rows: Iterable[list[str]]) -> Iterator[list[str]]:
    """The rows, none of which may hold more than the first; there is at least one."""
    width = 0
    for number, row in enumerate(rows, start=1):
        width = width or len(row)
        if len(row) > width and any(row[width:]):
            found = f"row {number} has {len(row)} cells where the header has {width}"
            raise DataError(f"{path} cannot be read as a table: {found}; check that it is the right file")
        yield row
    if not width:
        raise DataError(f"{path} cannot be read as a table: it is empty; check that it is the right file")


def pick_columns(
    path: Path,
    rows: Iterable[Sequence[Any]],
    columns: Mapping[str, str],
    *,
    optional: Mapping[str, str] | None = None,
    header_first: bool = False,
) -> dict[str, list[str]]:
    """The cells of some columns among raw rows, see `text_columns`; with `header_first` the first row is the header."""
    first = next(iter(columns))
    header: list[str] | None = None
    skipped: list[Sequence[Any]] = []
    rows = iter(rows)
    for row in rows:
        names = [" ".join(cell_text(cell).split()) for cell in row]
        if plain_name(first) in map(plain_name, names):
            header = names
            break
        skipped.append(row)
        if header_first:
            break
    if header is None:
        widest = max(skipped[:20], key=lambda row: sum(cell is not None and cell != "" for cell in row), default=[])
        raise ColumnError(path, first, [name for name in map(cell_text, widest) if name])
    places: list[int] = []
    for wanted in {**columns, **(optional or {})}:
        found = find_column([wanted], header, path)
        if found is None and wanted in columns:
            raise ColumnError(path, wanted, [name for name in header if name])
        places.append(sys.maxsize if found is None else header.index(found))
    picked: list[list[str]] = [[] for _ in places]
    for row in rows:
        if any(row) or 0 in row:
            for place, cells in zip(places, picked, strict=True):
                cells.append(cell_text(row[place]).strip() if place < len(row) else "")
    return dict(zip([*columns.values(), *(optional or {}).values()], picked, strict=True))


@dataclass(frozen=True)
class Column:
    """What a column of a publisher's table may hold.

    Attributes:
        pattern: Regular expression that every text matches.
        among: The only allowed texts.
        bounds: Of numbers, the least and the largest, both of them allowed.
        nullable: Whether values may be missing.
        unique: Whether each value occurs once.
        head: Its name in the file; empty where it is made of other columns.
        gaps: Texts of the file that mean missing.
    """

    pattern: str = ""
    among: Collection[str] = ()
    bounds: tuple[float, float] | None = None
    nullable: bool = False
    unique: bool = False
    head: str = ""
    gaps: Collection[str] = ()


Schema = Mapping[str, Column]


def heads(schema: Schema) -> dict[str, str]:
    """Names of columns by what the file calls them, as `text_columns` takes them."""
    return {column.head: name for name, column in schema.items() if column.head}


def require_columns(path: Path, table: Mapping[str, Sequence[str | float | None]], schema: Schema) -> None:
    """Check columns of a table, see `require_values`."""
    for name, column in schema.items():
        require_values(path, name, table[name], column)


def require_values(path: Path, name: str, values: Sequence[str | float | None], column: Column) -> None:
    """Check the values of a column.

    Raises:
        DataError: There is no row, or a value is missing, repeated or not of this kind; it names file, column, value and row.
    """
    there = [value for value in values if value is not None]
    different, wrong, expected = set(there), set[str | float](), ""
    if column.among:
        expected, wrong = f"one of {', '.join(column.among)}", different - set(column.among)
    elif column.bounds:
        low, high = column.bounds
        wrong = {value for value in different if not low <= cast("float", value) <= high}
        expected = f"at most {high:g}" if any(cast("float", value) > high for value in wrong) else f"at least {low:g}"
    elif column.pattern:
        fits = re.compile(column.pattern).search
        expected, wrong = f"a value like {column.pattern}", {value for value in different if not fits(str(value))}
    problem = "" if values else ": the table does not have at least one row"
    if len(there) < len(values) and not column.nullable:
        problem = f", column {name!r}: a value is missing in row {values.index(None) + 1} of the table"
    elif column.unique and len(different) < len(there):
        value = Counter(there).most_common(1)[0][0]
        problem = (
            f", column {name!r}: {value!r} occurs more than once, first in row {values.index(value) + 1} of the table"
        )
    elif wrong:
        row, value = next((row, value) for row, value in enumerate(values, start=1) if value in wrong)
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        problem = f", column {name!r}: {shown} in row {row} of the table is not {expected}"
    if problem:
        raise DataError(f"{path}{problem}; check that it is the right file and release")
