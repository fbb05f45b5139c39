"""How results look on a terminal: tables, headings, figures, sentences that fit the line."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import typer

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

WIDEST = 100
"""Columns that a line takes at most, also where the terminal has more; a file or a pipe gets as many."""


def width() -> int:
    """Columns of a line: those of the terminal, `WIDEST` at most."""
    return min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)


def wrapped(text: str, *, indent: int = 0, hang: int = 2) -> str:
    """A sentence over as many lines as it takes; words, paths and codes stay whole.

    Args:
        text: The sentence.
        indent: Columns in front of the first line.
        hang: Columns more in front of each further line.
    """
    return textwrap.fill(
        " ".join(text.split()),
        width(),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hang),
        break_long_words=False,
        break_on_hyphens=False,
    )


def say(text: str, *, indent: int = 0, hang: int = 2) -> None:
    """Print a sentence, wrapped."""
    typer.echo(wrapped(text, indent=indent, hang=hang))


def row(cells: str, title: str) -> str:
    """A row of a table whose last cell is a title, cut to what is left of the line."""
    return cells + cut(title, max(8, width() - len(cells)))


def cut(text: str, most: int) -> str:
    """A text of so many characters at most; what is cut off is shown as dots."""
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."


def heading(text: str) -> None:
    """Print a heading after an empty line."""
    typer.echo()
    typer.echo(typer.style(text, bold=True))


class Signed(float):
    """A change: shown with its sign."""


class Change(NamedTuple):
    """The interval of a change: both ends are shown with their signs."""

    low: float
    high: float


Cell = str | int | float | tuple[float, float] | None
"""A text, a count, a figure, an interval, or nothing."""


@dataclass(frozen=True)
class Table:
    """Figures with their heading, for a terminal, a paper or another program.

    Attributes:
        title: What the table shows; it names the set that the figures are of.
        columns: Names; an interval stands behind the figure that it belongs to.
        rows: Cells, unrounded.
        left: Columns flush left: names, not figures.
        notes: Sentences below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: int = 1
    notes: Sequence[str] = ()

    def show(self) -> None:
        """Print it."""
        if self.title:
            heading(self.title)
        table(self.columns, ([cell_text(cell) for cell in row] for row in self.rows), left=self.left)
        for note in self.notes:
            say(note, indent=2, hang=0)


TableForm = Literal["latex", "markdown", "csv"]


def table_text(what: pd.DataFrame | Table | Sequence[Table], form: TableForm, *, title: str = "") -> str:
    """Write tables for a paper, a page or another program.

    Args:
        what: A frame, one table or several.
        form: `latex` gives `table` environments for the package booktabs, `markdown` pipe tables as GitHub reads them. `csv`
            gives a frame as it is; of tables a line a figure, `table, row, figure, value, low, high`, unrounded.
        title: The title of a frame.
    """
    import pandas as pd

    if isinstance(what, pd.DataFrame):
        if form == "csv":
            return _csv(list(what.columns), what.itertuples(index=False))
        cells = what.astype(object).where(what.notna(), None)
        what = Table(title, [str(name) for name in what.columns], cells.to_numpy().tolist())
    tables = [what] if isinstance(what, Table) else what
    if form == "csv":
        return _csv(("table", "row", "figure", "value", "low", "high"), (row for of in tables for row in _tidy(of)))
    write = _latex if form == "latex" else _markdown
    return "\n".join(write(of) for of in tables)


def _tidy(of: Table) -> Iterator[Sequence[Cell]]:
    for cells in of.rows:
        name = ", ".join(str(cell) for cell in cells[: of.left])
        pairs = list(zip(of.columns, cells, strict=True))[of.left :]
        for place, (column, cell) in enumerate(pairs):
            if isinstance(cell, tuple) or column.startswith("95 %"):
                continue
            after = pairs[place + 1][1] if place + 1 < len(pairs) else None
            yield of.title, name, column, cell, *(after if isinstance(after, tuple) else (None, None))


def _csv(header: Sequence[object], rows: Iterable[Iterable[object]]) -> str:
    import csv
    import io

    from relabel.scoring.files import FORMULA

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        # An apostrophe in front of what a spreadsheet would run as a formula.
        cells = ("" if cell is None or cell != cell else cell for cell in row)  # noqa: PLR0124  NaN is not itself
        writer.writerow([f"'{c}" if isinstance(c, str) and c.startswith(FORMULA) else c for c in cells])
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
    {**{char: f"\\{char}" for char in "\\`*_[]|#"}, "<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "&#64;"}
)


def _latex(of: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return " & ".join(cells) + r" \\"

    def text(cell: Cell) -> str:
        shown = cell_text(cell)
        if isinstance(cell, str):
            return shown.translate(_LATEX)
        if isinstance(cell, tuple) and " to " not in shown:
            return shown.replace("-", "--")
        return re.sub(r"(?<![\w.])([-+])(?=[\d.])", r"$\1$", shown)

    width = "l" * of.left + "r" * (len(of.columns) - of.left)
    notes = (
        [rf"\par\smallskip\footnotesize {' '.join(note.translate(_LATEX) for note in of.notes)}"] if of.notes else []
    )
    lines = [
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{of.title.translate(_LATEX)}}}"] if of.title else []),
        rf"\begin{{tabular}}{{{width}}}",
        r"\toprule",
        line(name.translate(_LATEX) for name in of.columns),
        r"\midrule",
        *(line(text(cell) for cell in cells) for cells in of.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *notes,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _markdown(of: Table) -> str:
    rule = ["---"] * of.left + ["---:"] * (len(of.columns) - of.left)
    head = [f"### {of.title.translate(_MARKDOWN)}", ""] if of.title else []
    body = [[cell_text(cell).translate(_MARKDOWN) for cell in cells] for cells in of.rows]
    rows = [[name.translate(_MARKDOWN) for name in of.columns], rule, *body]
    notes = ["", *(note.translate(_MARKDOWN) for note in of.notes)] if of.notes else []
    return "\n".join([*head, *(f"| {' | '.join(cells)} |" for cells in rows), *notes]) + "\n"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, console: Console | None = None
) -> None:
    """Print a table, the first columns flush left and the others, figures, flush right.

    Args:
        columns: Their names.
        rows: Cells as text.
        left: Columns flush left.
        console: Where it goes; by default standard output.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from relabel.cli.terminal import make_console

    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for place, name in enumerate(columns):
        made.add_column(name, justify="left" if place < left else "right", no_wrap=place == 0)
    for cells in rows:
        made.add_row(*(Text(cell) for cell in cells))
    (console or make_console()).print(made)


def cell_text(cell: Cell) -> str:
    """A cell as people read it: a count with thousands, a figure with three decimals, an interval from low to high."""
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
    from relabel.evaluation.verdict import figure as shown

    return shown(value)


def signed(value: float | None) -> str:
    """A change, with its sign."""
    return "-" if value is None else f"{value:+.3f}"


def bounds(value: tuple[float, float] | None, *, change: bool = False, to: bool = False) -> str:
    """An interval, of a change with signs, or with `to` between its ends; `-` where there is none."""
    if value is None:
        return "-"
    if change:
        return " to ".join(signed(x) for x in value)
    # A dash before a minus would be misread; without one it lets seven intervals stand side by side.
    return (" to " if to or value[0] < 0 else "-").join(figure(x) for x in value)
