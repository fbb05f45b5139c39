"""How results look on a terminal: tables, headings, figures, sentences that fit the line."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from relabel import tabular
from relabel.tabular import Cell, Change, Signed, TableForm, bounds, cell_text, change, figure, signed, table_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Cell", "Change", "Signed", "TableForm", "bounds", "cell_text", "change", "figure", "signed", "table_text"]
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


@contextmanager
def working(doing: str) -> Generator[None]:
    """Say on a terminal what is being done, until it is done.

    Args:
        doing: What, such as `drawing the report`.
    """
    if not sys.stderr.isatty():
        yield
        return
    from relabel.cli.terminal import make_console

    with make_console(stderr=True).status(doing):
        yield


def say_next(command: str) -> None:
    """Say on standard error which command comes next."""
    typer.echo(f"next: {command}", err=True)


def heading(text: str) -> None:
    """Print a heading after an empty line."""
    typer.echo()
    typer.echo(typer.style(wrapped(text), bold=True))


class Table(tabular.Table):
    """A table that can be printed."""

    def show(self) -> None:
        """Print it."""
        if self.title:
            heading(self.title)
        table(self.columns, ([cell_text(cell) for cell in row] for row in self.rows), left=self.left)
        for note in self.notes:
            say(note, indent=2, hang=0)


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
