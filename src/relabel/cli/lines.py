"""Lines that fit the terminal: sentences are wrapped, titles at the end of a row are cut."""

from __future__ import annotations

import shutil
import textwrap

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


def row(cells: str, title: str) -> str:
    """A row of a table whose last cell is a title, cut to what is left of the line."""
    room = max(8, width() - len(cells))
    return cells + (title if len(title) <= room else title[: room - 3].rstrip() + "...")
