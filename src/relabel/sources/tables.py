"""Strict readers of tables (CSV, tab-separated, Excel), from users and publishers, with line numbers in error messages.

pandas would silently accept a short row, a duplicate column or `479_000`, and a figure would be wrong without notice. All
tables share the same rules for names of columns, task ids, codes, categories and numbers.
"""

from __future__ import annotations

import csv
import datetime
import io
import math
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from relabel.errors import ColumnError, DataError
from relabel.files import opened, os_errors
from relabel.tabular import counted

if TYPE_CHECKING:  # importing a reader must not import it
    import pandas as pd

# Accepted names of columns that have several, by content. Case, blanks and punctuation are ignored, so that O*NET's `Task ID`,
# `O*NET-SOC Code` and `Task` match.
COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "task_id": ("task_id", "id"),
    "onet_soc_code": ("onet_soc_code", "soc_code", "onet_soc_2019_code"),
    "title": ("title", "occupation_title", "occupation"),
    "text": ("text", "task", "task_statement", "task_text", "task_title", "statement"),
}

TASK_TYPES = ("Core", "Supplemental")
# Texts, in lower case, that O*NET, pandas and spreadsheets write for a missing value; not `NA` and `None`, which may be words.
MISSING_MARKS = ("", "n/a", "nan", "<na>", "#n/a", "#ref!", "#name?", "#value!", "#div/0!")

ONET_SOC = r"^\d{2}-\d{4}\.\d{2}$"

# Pattern of an occupation code in any classification.
OCCUPATION_CODE = r"^[A-Za-z0-9][A-Za-z0-9.-]{0,29}$"

_CODE = re.compile(ONET_SOC, re.ASCII)
_ANY_CODE = re.compile(OCCUPATION_CODE, re.ASCII)
_PLAIN_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"0,[0-9]+|[0-9]+,([0-9]{1,2}|[0-9]{4,})")
_MONTH = "(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
# Numbers and dates that spreadsheets make of ids and codes, such as `Nov-11` of the code `11-2011`.
_REWRITTEN = re.compile(
    r"[0-9.,]+[eE][+-]?[0-9]+|[0-9]{1,3}([,\s'\u2019][0-9]{3})+"
    rf"|{_MONTH}-[0-9]{{2,4}}|[0-9]{{1,2}}-{_MONTH}(-[0-9]{{2,4}})?|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}"
)
_THOUSANDS = r"-?\d{1,3}(,\d{3})+(\.\d+)?"
_WHOLE_NUMBER = re.compile(r"([0-9]+)\.0+", re.ASCII)
_SIGNS = re.compile(r"[\W_]+")
# Characters that cannot be seen.
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
_MAX_NUMBER = 1e15
_MIN_ROWS = 10

Rows = list[list[Any]]
# Most bytes of an unpacked workbook, and cells of a sheet, empty ones included.
_MOST_BYTES, _MOST_CELLS = 1_000_000_000, 50_000_000
# A cell in the XML of a sheet whose formula has no stored result, as openpyxl writes it; an empty text is a result.
_UNCALCULATED = re.compile(
    rb'<c (?![^>]*\bt="str")[^>]*?\br="(\w+)"[^>]*><f\b(?:[^>]*/>|[^>]*>[^<]*</f>)(?:<v ?/>|<v></v>)?</c>'
)


def is_table_file(ref: str | Path) -> bool:
    """Whether a reference is a table file, by its suffix, and not the name of a source or list."""
    return Path(ref).suffix.lower() in (".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xls")


def plain_name(column: str) -> str:
    """A column name without case, blanks and punctuation, so that `O*NET-SOC Code` and `onet_soc_code` are equal."""
    return _SIGNS.sub("", column).casefold()


def find_column(names: Sequence[str], header: Iterable[str], path: Path) -> str | None:
    """Find a column by one of several names, exactly or ignoring case, blanks and punctuation.

    Args:
        names: The names, preferred first.
        header: Columns of the file.
        path: The file, for the message.

    Raises:
        DataError: Two columns match a name.
    """
    columns = list(header)
    for name in names:
        if name in columns:
            return name
        matches = [column for column in columns if plain_name(column) == plain_name(name)]
        if len(matches) > 1:
            raise DataError(
                f"{path} has the columns {' and '.join(map(repr, matches))}, which could both be {name!r}; rename one"
            )
        if matches:
            return matches[0]
    return None


def category(written: str, among: Iterable[str]) -> str | None:
    """The value in a closed list that a cell matches, ignoring case, blanks and punctuation; None if there is none."""
    choices = list(among)
    if written in choices:
        return written
    matches = [value for value in choices if plain_name(value) == plain_name(written)]
    return matches[0] if len(matches) == 1 else None


def plain_id(written: str) -> str:
    """An id without the `.0` that spreadsheets and pandas add in columns with missing values, and without unseen characters."""
    text = written.translate(_UNSEEN).strip()
    return match[1] if (match := _WHOLE_NUMBER.fullmatch(text)) else text


def plain_number(text: str) -> float | None:
    """A number in plain digits, such as `479000` or `35092.5`; None for anything else, including signed numbers."""
    if not _PLAIN_NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) and number < _MAX_NUMBER else None


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        path: The file.
        header: Names of the columns.
        rows: At least one row: the number of its first line, and its unmodified cells by column.
        decimal_comma: Whether a comma may be a decimal mark, as in files separated by semicolons.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, str]], ...]
    decimal_comma: bool = False

    def find(self, *names: str) -> str | None:
        """Find a column by one of several names, see `find_column`.

        Raises:
            DataError: Two columns match.
        """
        return find_column(names, self.header, self.path)

    def column(self, content: str) -> str | None:
        """Find a column by its content: a key of `COLUMN_NAMES`, or a name; None if there is none."""
        return self.find(*COLUMN_NAMES.get(content, (content,)))

    def columns(self, *needed: str, optional: Sequence[str] = ()) -> dict[str, str]:
        """Names of columns by their content, see `column`.

        Raises:
            ColumnError: Needed columns are missing; the message lists these, and all that are needed.
            DataError: Two columns match.
        """
        columns = {content: self.column(content) for content in (*needed, *optional)}
        if lacking := [content for content in needed if columns[content] is None]:
            advice = f"its first line must name {', '.join(needed)}"
            raise ColumnError(self.path, lacking[0], self.header, others=lacking[1:], advice=advice)
        return {content: column for content, column in columns.items() if column is not None}

    def fault(self, line: int, problem: str, column: str | None = None) -> DataError:
        """The error for a line, and perhaps for its cell in a column."""
        return DataError(f"{self.path} line {line}{'' if column is None else f', column {column}'}{problem}")

    def task_id(self, line: int, written: str) -> str:
        """Parse a task id; a trailing `.0` is removed.

        Raises:
            DataError: It is missing, a formula, or a number reformatted by a spreadsheet.
        """
        # Files written for spreadsheets have an apostrophe before an id that looks like a formula.
        value = plain_id(written)
        if not value:
            raise self.fault(line, " has no task_id; fill it or remove the line")
        if value[0] in "=+@-" or _REWRITTEN.fullmatch(value):
            what = "is a formula or was rewritten by a spreadsheet"
            raise self.fault(line, f": task_id {value[:40]!r} {what}; save plain ids")
        return value[1:] if value.startswith("'-") else value

    def onet_soc_code(self, line: int, written: str) -> str:
        """Parse an O*NET-SOC code.

        Raises:
            DataError: The cell does not hold such a code.
        """
        value = plain_id(written)
        if not _CODE.fullmatch(value):
            raise self.fault(line, f": {value[:40]!r} is not an O*NET-SOC code; write it in full, like 11-3051.00")
        return value

    def occupation_code(self, line: int, written: str) -> str:
        """Parse a code of another classification. Only characters that are safe in the names of exported files are allowed.

        Raises:
            DataError: The cell does not hold such a code.
        """
        value = plain_id(written)
        if _REWRITTEN.fullmatch(value) or not _ANY_CODE.fullmatch(value):
            advice = "write letters, digits, dots and hyphens, such as 2512, as text and not as a date or number"
            raise self.fault(line, f": {value[:40]!r} is not a code; {advice}")
        return value

    def category(self, line: int, column: str, written: str, among: Sequence[str]) -> str | None:
        """Parse a value of a closed list, see `category`; None if the cell says that it is missing.

        Raises:
            DataError: The cell matches no value.
        """
        if written.strip().lower() in MISSING_MARKS:
            return None
        if (value := category(written, among)) is None:
            advice = f"one of {', '.join(among)}; correct it, or leave the cell empty"
            raise self.fault(line, f": {column} {written.strip()[:40]!r} is not {advice}")
        return value

    def number(self, written: str) -> float | None:
        """Parse a number in plain digits, or with a decimal comma in files separated by semicolons; None for anything else.

        `35,125` is refused, because its comma may mark decimals or thousands.
        """
        text = written.strip()
        if self.decimal_comma and _DECIMAL_COMMA.fullmatch(text):
            text = text.replace(",", ".")
        return plain_number(text)

    def refuse_row_numbers(self, ids: Sequence[str], advice: str) -> None:
        """Refuse ids that are row numbers, which may coincide with ids of other tasks.

        Args:
            ids: Ids in the order of the rows.
            advice: What to do instead, for the message.

        Raises:
            DataError: They count up from 0 or 1 without a gap.
        """
        counted = [[str(number + start) for number in range(len(ids))] for start in (0, 1)]
        if len(ids) >= _MIN_ROWS and list(ids) in counted:
            raise DataError(
                f"{self.path}: the task ids count from {ids[0]} to {ids[-1]} like row numbers, and the file has no "
                f"O*NET-SOC codes that could confirm them; {advice}"
            )


def read_table(path: Path, *, rows_are: str, advice: str) -> Table:
    """Read a table with a header: CSV or tab-separated text, or the first sheet of an Excel workbook.

    Text is UTF-8, with or without a byte order mark, or UTF-16 with one. The separator is the comma, semicolon or tab,
    whichever is most frequent in the header. Blank lines are skipped; a quoted cell may contain line breaks.

    Args:
        path: The file.
        rows_are: What a row is, in words, such as `each task`.
        advice: What to do if there is no such file, for the message.

    Raises:
        DataError: The file is missing or has another encoding, a row has more or fewer cells than the header, a column name
            is repeated, quotes are not closed, or there is no row. The message names the line.
    """
    if path.suffix.lower() in (".xlsx", ".xls") and path.is_file():
        records, separator = _sheet_records(path), ""
    else:
        text = _text(path, advice)
        separator = _separator(text)
        records = _records(path, text, separator)
    top, header = next(records, (1, []))
    if len(header) < 2:
        problem = f"begins with the single cell {header[0].strip()[:60]!r}" if header else "is empty"
        raise DataError(
            f"{path} {problem}; write a first line with the names of the columns, and one line for {rows_are}"
        )
    header = [name.strip() for name in header]
    for name in header:
        if name and header.count(name) > 1:
            raise DataError(f"{path} line {top} has the column {name!r} more than once; remove one")
    rows: list[tuple[int, Mapping[str, str]]] = []
    for line, cells in records:
        if len(cells) != len(header):
            counts = f"{counted(len(cells), 'cell')} where the header has {len(header)}"
            quoted = {"\t": "tab", ";": "semicolon"}.get(separator, "comma")
            raise DataError(f"{path} line {line} has {counts}; correct the line, a cell with a {quoted} goes in quotes")
        rows.append((line, dict(zip(header, cells, strict=True))))
    if not rows:
        raise DataError(f"{path} has a header but no row below it; write one line for {rows_are}")
    return Table(path, tuple(header), tuple(rows), decimal_comma=separator == ";")


def _text(path: Path, advice: str) -> str:
    with os_errors(f"{path} cannot be read", advice), opened(path) as file:
        raw = file.read()
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if wide else "UTF-8"
        raise DataError(f"{path} is not in {kind} (byte {error.start}); save it again as CSV in UTF-8") from error
    if "\0" in text:
        raise DataError(f"{path} contains a NUL character; save it again as CSV in UTF-8")
    # Blank Excel's separator line instead of removing it, so that line numbers stay right.
    return re.sub(r"\Asep=.(?=\r?\n)", "", text)


def _separator(text: str) -> str:
    """The most frequent of comma, semicolon and tab in the header, outside quotes."""
    header = next((line for line in io.StringIO(text) if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", header)
    return max(",;\t", key=bare.count)


def _records(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Non-blank records, each with the number of its first line."""
    # str.splitlines would also split at form feeds and Unicode separators, which are ordinary characters in CSV.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    by_excel = '\t"' in text and re.search(r'\t"[^"]*(?:""[^"]*)*"(?:[\t\r\n]|\Z)', text)
    if separator == "\t" and path.suffix.lower() == ".txt" and not by_excel:
        # Quotes are ordinary characters in O*NET's text files; Excel puts whole cells of its own in quotes.
        yield from ((number, line.split("\t")) for number, line in enumerate(lines, start=1) if line.strip())
        return
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True)
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {start} is not CSV ({error}); correct the line") from error


def _sheet_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Non-blank rows of a workbook's first sheet, padded to the width of its header, each with its number."""
    width = 0
    for number, row in enumerate(read_rows(path), start=1):
        cells = [cell_text(cell) for cell in row]
        while cells and not cells[-1].strip():
            cells.pop()
        if cells:
            width = width or len(cells)
            yield number, cells + [""] * (width - len(cells))


def read_rows(path: Path, sheet: str | None = None) -> Rows:
    """The stored cells of a worksheet, by default the first that is not hidden.

    Raises:
        DataError: The file is not a workbook, has no such sheet, or has another sheet that begins like the first, whose
            rows would be left out.
    """
    try:
        # openpyxl warns about styles and extensions in publishers' workbooks that it ignores.
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file:
            (first, cells), *others = _sheets(file, sheet)
            rows = list(cells)
            header = {*map(cell_text, rows[0])} - {""} if rows else set[str]()
            same = [name for name, more in others if header and header <= {*map(cell_text, next(more, []))}]
    except Exception as error:  # openpyxl and xlrd raise many kinds for a damaged workbook
        raise DataError(f"{path} cannot be read as a workbook ({error}); check that it is the right file") from error
    if same:
        raise DataError(
            f"{path} has the sheets {first!r} and {same[0]!r} with the same columns, but only the first sheet is read; put all "
            "rows into one sheet, or each sheet into a file of its own"
        )
    return rows


def _sheets(file: BinaryIO, sheet: str | None) -> list[tuple[str, Iterator[list[Any]]]]:
    """Names and rows of a workbook's sheets that are not hidden, or of one sheet."""
    if file.read(2) != b"PK":  # the old format
        import pandas as pd

        which = None if sheet is None else [sheet]
        frames = pd.read_excel(file, sheet_name=which, header=None, dtype="object", na_filter=False)
        return [(str(name), iter(frame.to_numpy().tolist())) for name, frame in frames.items()]
    import openpyxl

    if sum(part.file_size for part in zipfile.ZipFile(file).infolist()) > _MOST_BYTES:
        raise ValueError(f"it unpacks to more than {_MOST_BYTES:,} bytes")
    book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
    shown = [s for s in book.worksheets if (s.sheet_state == "visible" if sheet is None else s.title == sheet)]
    if not shown:
        raise ValueError(f"Worksheet named {sheet!r} not found" if sheet else "it shows no worksheet")
    return [(one.title, _stored_cells(one)) for one in shown]


def _stored_cells(sheet: Any) -> Iterator[list[Any]]:
    from openpyxl.cell.cell import ERROR_CODES

    sheet.reset_dimensions()  # the extent that some programs state is wrong
    room = _MOST_CELLS
    for cells in sheet.iter_rows(values_only=True):
        if (room := room - len(cells)) < 0:
            raise ValueError(f"a sheet has more than {_MOST_CELLS:,} cells")
        yield ["#N/A" if cell in ERROR_CODES else cell for cell in cells]
    with sheet._get_source() as xml:
        if formula := _UNCALCULATED.search(xml.read()):
            raise ValueError(
                f"the formula in {formula[1].decode()} has no stored result; open the file in Excel and save it"
            )


def cell_text(cell: object) -> str:
    """A cell as text: `35`, not `35.0`, for a whole number; an empty string for an empty cell."""
    if isinstance(cell, str):
        return cell
    if cell is None:
        return ""
    if cell != cell:  # noqa: PLR0124  pandas reads an error cell of a workbook as NaN, which is not itself
        return "#N/A"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return str(cell.date())
    return str(cell)


TASK_ID = r"^\d+$"
SOC = r"^\d{2}-\d{4}$"
UK_SOC_UNIT = r"^\d{4}$"


def text_columns(path: Path, columns: Mapping[str, str], *, sheet: str | None = None) -> dict[str, list[str]]:
    """Read columns of a publisher's file as text.

    Args:
        path: A `.txt` file (separated by tabs, quotes are ordinary characters, as in O*NET), a `.tsv` or `.csv` file, or a
            workbook. The header is the first row that contains the first of the columns.
        columns: New column names by the names in the file, ignoring case, blanks and punctuation; `|` separates alternative
            names. Other columns are dropped.
        sheet: Name of the worksheet; by default the first.

    Returns:
        The cells of each column, stripped of surrounding white space; empty cells are empty strings, whole numbers have no
        decimal point.

    Raises:
        ColumnError: A column is missing.
        DataError: The file cannot be read as a table, or has no such sheet.
    """
    rows: Rows = read_rows(path, sheet) if path.suffix.lower() in (".xlsx", ".xls") else _publisher_rows(path)
    first = plain_name(next(iter(columns)))
    names_first = (number for number, row in enumerate(rows) if first in map(plain_name, map(cell_text, row)))
    header_row = next(names_first, 0)
    header = [" ".join(cell_text(cell).split()) for cell in (rows[header_row] if rows else ())]
    positions: list[int] = []
    for wanted in columns:
        names = wanted.split("|")
        if (column := find_column(names, header, path)) is None:
            raise ColumnError(path, names[0], [name for name in header if name])
        positions.append(header.index(column))
    filled = [row for row in rows[header_row + 1 :] if any(row) or 0 in row]
    return {
        name: [cell_text(row[position]).strip() if position < len(row) else "" for row in filled]
        for name, position in zip(columns.values(), positions, strict=True)
    }


def _publisher_rows(path: Path) -> Rows:
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    rows = [row for _, row in _records(path, _text(path, "check that it is the right file"), separator)]
    width = len(rows[0]) if rows else 0
    for row in rows:
        if len(row) < width or any(row[width:]):
            counts = f"a row of {len(row)} cells where the header has {width}"
            raise DataError(f"{path} has {counts}; check that it is the right file, whole")
    return rows


@dataclass(frozen=True)
class Column:
    """Validation rules of a column in a publisher's table.

    Attributes:
        pattern: Regular expression that every text matches.
        among: The allowed texts.
        bounds: Lowest and highest number, inclusive.
        nullable: Whether values may be missing.
        unique: Whether each value may occur only once.
        header: Its name in the file, see `text_columns`; empty if it is computed from other columns.
        gaps: Texts in the file that mean missing.
    """

    pattern: str = ""
    among: Collection[str] = ()
    bounds: tuple[float, float] | None = None
    nullable: bool = False
    unique: bool = False
    header: str = ""
    gaps: Collection[str] = ()


Schema = Mapping[str, Column]


def header_names(schema: Schema) -> dict[str, str]:
    """Column names by their names in the file, for `text_columns`."""
    return {column.header: name for name, column in schema.items() if column.header}


def require_columns(path: Path, table: Mapping[str, Sequence[str | float | None]], schema: Schema) -> None:
    """Validate the columns of a table, see `require_values`."""
    for name, column in schema.items():
        require_values(path, name, table[name], column)


def require_values(path: Path, name: str, values: Sequence[str | float | None], column: Column) -> None:
    """Validate the values of a column.

    Raises:
        DataError: There is no row, or a value is missing, repeated or invalid; the message names file, column, value and row.
    """
    distinct = dict.fromkeys(value for value in values if value is not None)
    if column.among:
        expected, invalid = f"one of {', '.join(column.among)}", [v for v in distinct if v not in column.among]
    elif column.bounds:
        low, high = column.bounds
        expected, invalid = f"from {low:g} to {high:g}", [v for v in distinct if not low <= cast("float", v) <= high]
    else:
        fits = re.compile(column.pattern).search
        expected, invalid = f"a value like {column.pattern}", [v for v in distinct if not fits(str(v))]
    problem = "" if values else "the table does not have at least one row"
    if None in values and not column.nullable:
        problem = f"a value is missing in row {values.index(None) + 1} of the table"
    elif column.unique and len(distinct) < len(values) - values.count(None):
        value = next(value for value, count in Counter(values).items() if count > 1 and value is not None)
        problem = f"{value!r} occurs more than once, first in row {values.index(value) + 1} of the table"
    elif invalid:
        problem = f"{invalid[0]!r} in row {values.index(invalid[0]) + 1} of the table is not {expected}"
    if problem:
        raise DataError(f"{path}, column {name!r}: {problem}; check that it is the right file and release")


def numbers(path: Path, series: pd.Series, column: str, marks: Iterable[str] = ("",)) -> pd.Series:
    """Convert text to float64; marks become NaN, thousands separators are ignored.

    Args:
        path: The file, for the message.
        series: Text.
        column: Name of the column in the file, for the message.
        marks: Texts that mean missing.

    Raises:
        DataError: A value is neither a number nor a mark; the message names file, column and value.
    """
    import pandas as pd

    marked = series.isin(list(marks)) | series.isna()
    plain = series.mask(marked).astype("str")
    thousands = plain.str.fullmatch(_THOUSANDS).eq(True)
    parsed = pd.to_numeric(plain.mask(thousands, plain.str.replace(",", "")), errors="coerce").astype("float64")
    if (invalid := parsed.isna() & ~marked).any():
        raise DataError(
            f"{path}, column {column!r}: {series[invalid].iloc[0]!r} is not a number; check that it is the right file"
        )
    return parsed


def validated(path: Path, frame: pd.DataFrame, schema: Schema, unique: Sequence[str] = ()) -> pd.DataFrame:
    """Validate a table, and convert gaps to missing values and numbers to float64.

    Args:
        path: The file, for the message.
        frame: The table; columns are text, or already have the schema's types.
        schema: The schema.
        unique: Columns of text that together identify a row.

    Returns:
        The columns of the schema, in its order.

    Raises:
        DataError: A value violates the schema; the message names file, column, first bad value and row.
    """
    frame = frame[list(schema)].copy()
    for name, column in schema.items():
        if column.bounds and frame[name].dtype != "float64":
            frame[name] = numbers(path, frame[name], column.header, column.gaps)
        elif column.gaps:
            frame[name] = frame[name].mask(frame[name].isin(list(column.gaps)))
    table = {name: frame[name].astype("object").where(frame[name].notna(), None).tolist() for name in schema}
    require_columns(path, table, schema)
    if unique:
        keys = [" ".join(key) for key in zip(*(table[name] for name in unique), strict=True)]
        require_values(path, " ".join(unique), keys, Column(unique=True))
    return frame


def read_columns(path: Path, columns: Mapping[str, str], *, sheet: str | None = None) -> pd.DataFrame:
    """Like `text_columns`, as a frame of `str` columns without missing values."""
    import pandas as pd

    return pd.DataFrame(text_columns(path, columns, sheet=sheet), dtype="str")
