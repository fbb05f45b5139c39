"""Tables of figures as LaTeX, Markdown and CSV text; figures, changes and intervals as text.

Also data frames as CSV, JSON, Parquet and Stata files; only the functions for these load pandas.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from relabel.errors import UsageError
from relabel.redaction import printable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

# A spreadsheet may run a cell that begins with one of these as a formula. Full-width forms are included.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def spreadsheet_safe(text: str) -> str:
    """A cell that no spreadsheet runs as a formula, even after leading spaces: prefixed with an apostrophe."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


# Decimal places beyond which a binary fraction is noise.
CLEAN = 12


def half_up(value: float, places: int) -> float:
    """Round half up; binary noise beyond twelve decimal places is ignored.

    Args:
        value: A finite number.
        places: Decimal places to keep.
    """
    scale = 10.0**places
    return math.copysign(math.floor(round(abs(value) * scale, CLEAN - places) + 0.5) / scale, value)


def half_up_all(values: npt.NDArray[np.float64], places: int) -> npt.NDArray[np.float64]:
    """`half_up` of many numbers; missing ones stay missing."""
    import numpy as np

    scale = 10.0**places
    return np.floor(np.round(values * scale, CLEAN - places) + 0.5) / scale


def listed_names(names: Sequence[str], most: int) -> str:
    """Names for a sentence: the first `most` of them, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(count: int, noun: str) -> str:
    """A count with its noun, in the plural unless it is 1: `1 task`, `2,400 tasks`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Signed(float):
    """A change, shown with its sign."""


class Change(NamedTuple):
    """The interval of a change: both ends are shown with their signs."""

    low: float
    high: float


# A text, a count, a figure, an interval, or nothing.
Cell = str | int | float | tuple[float, float] | None


def change(value: float | None, interval: tuple[float, float] | None) -> tuple[Cell, Cell]:
    """A change and its interval, as cells that are shown with their signs."""
    return None if value is None else Signed(value), None if interval is None else Change(*interval)


@dataclass(frozen=True)
class Table:
    """Figures with their heading, for a terminal, a paper or another program.

    Attributes:
        title: What the table shows, and for which labels.
        columns: Their names; the column of an interval follows that of its figure.
        rows: Cells, unrounded.
        left: Number of first columns that are aligned left: names, not figures.
        notes: Sentences below it.
        key: Identifier of the table on a page.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: int = 1
    notes: Sequence[str] = ()
    key: str = ""

    def ranges(self, column: int = 2) -> list[tuple[str, float, tuple[float, float] | None]]:
        """Name, figure and interval of each row, for a column followed by its intervals; rows without the figure are omitted."""
        cells = [(str(row[0]), row[column], row[column + 1]) for row in self.rows]
        return [(n, x, ci if isinstance(ci, tuple) else None) for n, x, ci in cells if isinstance(x, float)]

    def on_page(self) -> list[list[list[str]]]:
        """The lines of each cell, first the row of column names; an interval is a further line of its figure's cell."""
        rows: list[list[list[str]]] = []
        for cells in (self.columns, *self.rows):
            rows.append([])
            for name, cell in zip(self.columns, cells, strict=True):
                if not name.startswith("95%"):
                    rows[-1].append(cell_text(cell).split("\n"))
                elif cell is not None:
                    rows[-1][-1].append(cell_text(cell))
        return rows


TableForm = Literal["latex", "markdown", "csv"]
# Rows that fit on a page of a paper, and characters on a line of it.
_PAGE, _LINE = 40, 75


def table_text(tables: Sequence[Table], form: TableForm) -> str:
    """Write tables for a paper, a page or another program.

    Args:
        tables: One or several.
        form: `latex` gives `table` environments for the package booktabs, or `longtable` if there are many rows; `markdown`
            gives pipe tables as GitHub reads them; `csv` gives one line per figure, `table, row, figure, value, low, high`,
            unrounded.
    """
    if form == "csv":
        rows = (row for table in tables for row in _tidy(table))
        return _csv(("table", "row", "figure", "value", "low", "high"), rows)
    return "\n".join((_latex if form == "latex" else _markdown)(table) for table in tables)


def _tidy(table: Table) -> Iterator[Sequence[Cell]]:
    for cells in table.rows:
        name = ", ".join(str(cell) for cell in cells[: table.left])
        pairs = list(zip(table.columns, cells, strict=True))[table.left :]
        for place, (column, cell) in enumerate(pairs):
            if isinstance(cell, tuple) or column.startswith("95%"):
                continue
            after = pairs[place + 1][1] if place + 1 < len(pairs) else None
            yield table.title, name, column, cell, *(after if isinstance(after, tuple) else (None, None))


def _csv(header: Sequence[object], rows: Iterable[Iterable[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        cells = ("" if cell is None or cell != cell else cell for cell in row)  # noqa: PLR0124  NaN is not itself
        writer.writerow([spreadsheet_safe(cell) if isinstance(cell, str) else cell for cell in cells])
    return out.getvalue()


_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "<": r"$<$",
        ">": r"$>$",
        "|": r"$|$",
    }
)
_MARKDOWN = str.maketrans(
    {**{char: f"\\{char}" for char in "\\`*_[]|#"}, "<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "&#64;", "\n": " "}
)


def _latex(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return " & ".join(cells) + r" \\"

    def text(cell: Cell) -> str:
        shown = cell_text(cell)
        if isinstance(cell, str):
            return shown.translate(_LATEX)
        if isinstance(cell, tuple) and " to " not in shown:
            return shown.replace("-", "--")
        return re.sub(r"(?<![\w.])([-+])(?=[\d.])", r"$\1$", shown)

    width = "l" * table.left + "r" * (len(table.columns) - table.left)
    notes_text = " ".join(note.translate(_LATEX) for note in table.notes)
    notes = [rf"\par\smallskip\footnotesize {notes_text}"] if table.notes else []
    long = len(table.rows) > _PAGE
    wide = sum(2 + max(map(len, map(cell_text, c))) for c in zip(table.columns, *table.rows, strict=True)) > _LINE
    head = [r"\toprule", line(name.translate(_LATEX) for name in table.columns), r"\midrule"]
    body = [*(line(text(cell) for cell in cells) for cells in table.rows), r"\bottomrule"]
    title = [rf"\caption{{{table.title.translate(_LATEX)}}}"] if table.title else []
    size = [r"\footnotesize\setlength{\tabcolsep}{3pt}"] if wide else []
    if long:  # it spans pages, which a float cannot
        lines = ["{", *size, rf"\begin{{longtable}}{{{width}}}", *(f"{part}\\\\" for part in title), *head, r"\endhead"]
        lines += [*body, r"\end{longtable}", *notes, "}"]
    else:
        lines = [r"\begin{table}", r"\centering", *title, *size, rf"\begin{{tabular}}{{{width}}}", *head, *body]
        lines += [r"\end{tabular}", *notes, r"\end{table}"]
    return "\n".join(lines) + "\n"


def markdown_safe(text: str) -> str:
    """A text without markup, line breaks or control characters, for Markdown."""
    return printable(text).translate(_MARKDOWN)


def _markdown(table: Table) -> str:
    rule = ["---"] * table.left + ["---:"] * (len(table.columns) - table.left)
    head = [f"### {markdown_safe(table.title)}", ""] if table.title else []
    body = [[markdown_safe(cell_text(cell)) for cell in cells] for cells in table.rows]
    rows = [[markdown_safe(name) for name in table.columns], rule, *body]
    notes = ["", *(markdown_safe(note) for note in table.notes)] if table.notes else []
    return "\n".join([*head, *(f"| {' | '.join(cells)} |" for cells in rows), *notes]) + "\n"


def cell_text(cell: Cell) -> str:
    """A cell as text: counts with thousands separators, figures with three decimals, intervals from low to high."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, tuple):
        return bounds(cell, change=isinstance(cell, Change))
    if cell is None or cell != cell:  # noqa: PLR0124  NaN is not itself
        return "-"
    if isinstance(cell, Signed):
        return signed(cell)
    return f"{cell:,}" if isinstance(cell, int) else figure(cell)


def figure(value: float | None) -> str:
    """A share or a coefficient: three decimals without a leading zero, `-` where it is undefined."""
    if value is None:
        return "-"
    shown = f"{abs(value):.3f}".removeprefix("0")
    return f"-{shown}" if value < 0 and shown != ".000" else shown


def signed(value: float | None) -> str:
    """A change, with its sign."""
    return "-" if value is None else f"{value:+.3f}"


def bounds(value: tuple[float, float], *, change: bool = False) -> str:
    """An interval; that of a change with signs."""
    if change:
        return " to ".join(signed(x) for x in value)
    # A dash before a minus sign would be misread. Otherwise it is used because it is short: seven intervals fit side by side.
    return (" to " if value[0] < 0 else "-").join(figure(x) for x in value)


_UNSAFE = rf"^ *[{re.escape(''.join(FORMULA))}]|\r"

# Bytes of a text that Stata can sort and merge by.
_LONGEST_TEXT = 2045


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values that JSON can hold; missing values are None."""
    import pandas as pd

    def plain(value: Any) -> Any:
        return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value

    columns = {name: [plain(value) for value in frame[name].tolist()] for name in map(str, frame.columns)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A frame as CSV in UTF-8 with LF line ends.

    A text cell that begins with one of `FORMULA` gets a leading apostrophe, so that no spreadsheet runs it; carriage
    returns become line feeds. Missing values are empty cells.
    """
    safe = frame.copy()
    for name in map(str, safe.select_dtypes(exclude=["number", "bool"])):
        unsafe = safe[name].astype("str").str.contains(_UNSAFE, na=False)
        safe.loc[unsafe, name] = safe.loc[unsafe, name].map(_safe_cell)
    return safe.to_csv(index=False, lineterminator="\n").encode("utf-8")


def _safe_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # With LF line ends, a bare CR is not quoted, and some readers would end the row there.
    return spreadsheet_safe(value).replace("\r\n", "\n").replace("\r", "\n")


def stata_bytes(frame: pd.DataFrame) -> bytes:
    """A frame as a Stata file (.dta, version 118), with valid Stata names and without a time stamp."""
    import pandas as pd

    stata_names: dict[str, str] = {}
    for column in map(str, frame.columns):
        name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in column)[:32]
        stata_names[column] = name if name not in stata_names.values() else f"{name[:29]}_{len(stata_names)}"
    plain = frame.rename(columns=stata_names)
    plain = plain.astype(dict.fromkeys(plain.select_dtypes("bool").columns, "int8"))
    texts = list(plain.select_dtypes(exclude="number").columns)
    plain[texts] = plain[texts].map(lambda cell: cell if isinstance(cell, str) else "")  # Stata's missing text
    long = [name for name in texts if max((len(text.encode()) for text in plain[name]), default=0) > _LONGEST_TEXT]
    sink, stamp = io.BytesIO(), pd.Timestamp("2000-01-01").to_pydatetime()
    plain.to_stata(sink, write_index=False, version=118, time_stamp=stamp, convert_strl=long)
    return sink.getvalue()


def json_bytes(document: Any, *, indent: int | None = 2) -> bytes:
    """A document as JSON in UTF-8 with sorted keys, so that the same content is the same bytes."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(
        document, ensure_ascii=False, sort_keys=True, indent=indent, separators=separators, allow_nan=False
    )
    return (text + "\n").encode("utf-8")


def parquet_bytes(frame: pd.DataFrame, about: Mapping[str, Any]) -> bytes:
    """A frame as Parquet; the same frame gives the same bytes as long as pyarrow stays the same.

    Args:
        frame: The table.
        about: Metadata of the file, stored as JSON under the key `relabel`.
    """
    import pyarrow
    import pyarrow.parquet as pq

    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    # pandas' own metadata would tie the bytes to its version.
    metadata = {"relabel": json.dumps(about, ensure_ascii=False, sort_keys=True, allow_nan=False)}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(cast("dict[str | bytes, str | bytes]", metadata)), sink)
    return sink.getvalue()


def require_suffix(path: Path) -> str:
    """The kind of table that a file name asks for: `csv`, `parquet` or `json`.

    Raises:
        UsageError: The suffix is none of these.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in {"csv", "parquet", "json"}:
        raise UsageError(f"cannot tell what to write to {path}; end the name of --out in .csv, .parquet or .json")
    return kind
