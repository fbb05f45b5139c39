"""Standard output and standard error, and how results look there: sentences that fit the line, headings, tables.

Secrets are removed from everything printed. A reader may close the pipe at any time, which does not change the exit code.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from relabel import tabular
from relabel.redaction import masked, printable

if TYPE_CHECKING:
    from http.server import HTTPServer

    from rich.console import Console, RenderableType
    from rich.text import Text

# Maximum width in columns, also used for pipes and files.
WIDTH = 100
_COMMAND = re.compile(r"^(\s*)(::|##\[)", re.MULTILINE)
_READER_GONE = {errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN}


class _Raw(io.FileIO):
    """A stream that discards output once it can no longer be written."""

    # Why output was lost; None if the reader closed the pipe.
    failed: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            hung_up = error.errno == errno.EIO and os.isatty(self.fileno())
            if error.errno not in _READER_GONE and not hung_up:
                self.failed = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


class _Stream(io.TextIOWrapper):
    """A wrapper of an output stream: removes secrets, escapes control characters and text that a CI runner takes for commands."""

    def write(self, text: str) -> int:
        return self.write_rendered(printable(masked(text)))

    def write_rendered(self, text: str) -> int:
        clear_spinner()
        return super().write(_COMMAND.sub(r"\1\\\2", text))

    write_command = io.TextIOWrapper.write


class _Rendered:
    """A `_Stream` for our own console, which has cleaned its text before it adds colours and cursor moves."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return getattr(self._stream, "write_rendered", self._stream.write)(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_streams() -> None:
    """Wrap standard output and standard error of this process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  for as long as the process lives
        elif type(raw := _raw_of(stream)) is io.FileIO:
            stream.flush()
            ours: Any = _Raw(raw.fileno(), "w", closefd=False)
            opened = _Stream(
                ours if stream.write_through else io.BufferedWriter(ours),
                stream.encoding,
                "backslashreplace",  # an encoding that lacks a character must not make a command fail
                line_buffering=stream.line_buffering or name == "stderr",
                write_through=stream.write_through,
            )
            setattr(sys, name, opened)


def _raw_of(stream: Any) -> Any:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def lost_output() -> str:
    """Why printed output was lost, in a few words; empty if none was, or if the reader closed the pipe."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(raw := _raw_of(stream), _Raw):
            stream.flush()
            if raw.failed is not None:
                return os.strerror(raw.failed.errno or 0)
    return ""


class _Spinner:
    """Shows on a terminal what a command is doing after a second of silence; any output removes the line."""

    def __init__(self, text: str) -> None:
        self._text, self._began = text, time.monotonic()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._shown, self._wait = False, SILENT_S
        threading.Thread(target=self._turn, daemon=True).start()

    def _turn(self) -> None:
        for sign in itertools.cycle("|/-\\"):
            wait, self._wait = self._wait, _TURN_S
            if self._ended.wait(wait):
                return
            with self._lock:
                if self._wait == _TURN_S and not self._ended.is_set():  # nothing was printed meanwhile
                    self._shown = True
                    os.write(2, f"\r{sign} {self._text} ({time.monotonic() - self._began:.0f} s)\x1b[K".encode())

    def clear(self) -> None:
        """Remove the line for output; it returns after another second of silence."""
        with self._lock:
            self._wait = SILENT_S
            if self._shown:
                self._shown = False
                os.write(2, b"\r\x1b[K")

    def end(self) -> None:
        self._ended.set()
        self.clear()


SILENT_S = 1.0
_TURN_S = 0.2
_spinners: list[_Spinner] = []


@contextmanager
def doing(text: str) -> Generator[None]:
    """Show what is being done, on standard error and only on a terminal, when it takes more than a second.

    Args:
        text: In words, such as `scoring runs/a`. A nested block replaces the text of the outer one until it ends.
    """
    if not sys.stderr.isatty():
        yield
        return
    clear_spinner()
    spinner = _Spinner(printable(masked(text)))
    _spinners.append(spinner)
    try:
        yield
    finally:
        _spinners.remove(spinner)
        spinner.end()


def clear_spinner() -> None:
    """Remove the status line, so that further output starts on an empty line."""
    if _spinners:
        _spinners[-1].clear()


def workflow_command(line: str) -> None:
    """Print a GitHub workflow command on standard error; no other output may look like one."""
    getattr(sys.stderr, "write_command", sys.stderr.write)(f"{printable(masked(line))}\n")


def make_console(*, stderr: bool = False, wide: bool = False) -> Console:
    """A console for tables and panels of `clean_text`, without markup and without highlighting of numbers.

    Args:
        stderr: Write to standard error.
        wide: Take all columns of the terminal, not `WIDTH` at most.
    """
    from rich.console import Console

    stream: Any = _Rendered(sys.stderr if stderr else sys.stdout)
    return Console(file=stream, highlight=False, markup=False, width=None if wide else _columns())


def clean_text(text: str, style: str = "") -> Text:
    """A text for a console, which bypasses the wrapped streams: without secrets, control characters escaped."""
    from rich.text import Text

    return Text(printable(masked(text)), style)


def _columns() -> int:
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def wrapped(text: str, *, indent: int = 0, hang: int = 2) -> str:
    """Wrap a sentence; words, paths and codes are not split.

    Args:
        text: The sentence.
        indent: Columns in front of the first line.
        hang: Additional columns in front of each further line.
    """
    return textwrap.fill(
        " ".join(text.split()),
        _columns(),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hang),
        break_long_words=False,
        break_on_hyphens=False,
    )


def say(text: str, *, indent: int = 0, hang: int = 2, err: bool = False) -> None:
    """Print a sentence, wrapped."""
    typer.echo(wrapped(text, indent=indent, hang=hang), err=err)


def say_of(label: str, text: str, *, column: int) -> None:
    """Print a sentence after a label, with its lines aligned at a column."""
    typer.echo(f"{label:<{column}}{wrapped(text, indent=column, hang=0)[column:]}")


def say_next(command: str) -> None:
    """Say on standard error which command comes next."""
    typer.echo(f"next: {command}", err=True)


def say_written(path: Path | str, more: str = "") -> None:
    """Say on standard error that a file was written."""
    typer.echo(f"written: {path}{more}", err=True)


def heading(text: str) -> None:
    """Print a heading after an empty line."""
    typer.echo()
    make_console().print(clean_text(wrapped(text), "bold"), soft_wrap=True)


def serve(server: HTTPServer) -> None:
    """Serve until Ctrl-C, the normal way to stop a local server."""
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        typer.echo("stopped")


def cut(text: str, most: int) -> str:
    """A text cut to a maximum length, with an ellipsis."""
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."


# Columns whose texts are cut instead of wrapped, with their minimum width.
_CUT = {"title": 12, "task": 32, "occupation": 12, "group": 12}


class Table(tabular.Table):
    """A printable table: the first `left` columns are aligned left, the others (figures) right."""

    def show(self) -> None:
        """Print it with its title and notes."""
        if self.title:
            heading(self.title)
        console = make_console()
        console.print(self.drawn(console))
        for note in self.notes:
            say(note, indent=2, hang=0)

    def drawn(self, console: Console) -> RenderableType:
        """Its columns and rows for a console, which is widened if a figure would be cut."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
        widths = self._widths(console.width)
        console.width = max(console.width, sum(widths) + 2 * (len(widths) - 1))
        for place, name in enumerate(self.columns):
            table.add_column(clean_text(name), justify="left" if place < self.left else "right", width=widths[place])
        for cells in self.rows:
            texts = [clean_text(tabular.cell_text(cell)) for cell in cells]
            for name, text in zip(self.columns, texts, strict=True):
                text.no_wrap, text.overflow = (True, "ellipsis") if name in _CUT else (None, None)
            table.add_row(*texts)
        return table

    def _widths(self, total: int) -> list[int]:
        """Widths of the columns of a table that is `total` wide, or wider if a figure would be cut."""
        columns = [
            [name, *(tabular.cell_text(cells[place]) for cells in self.rows)] for place, name in enumerate(self.columns)
        ]
        widths = [max(map(len, texts)) for texts in columns]
        least = [_CUT.get(texts[0]) or max(map(len, " ".join(texts).split()), default=0) for texts in columns]
        while sum(widths) + 2 * (len(widths) - 1) > total and any(map(int.__gt__, widths, least)):
            # Narrow the column in which this wraps the fewest texts; of several such columns, the widest.
            shrinkable = [place for place, width in enumerate(widths) if width > least[place]]
            wraps = {place: sum(len(text) >= widths[place] for text in columns[place]) for place in shrinkable}
            widths[min(shrinkable, key=lambda place: (wraps[place], -widths[place]))] -= 1
        return widths


def show_verdict(verdict: str, tables: Iterable[Table]) -> None:
    """Print a verdict, one sentence per line, and its tables."""
    heading("Verdict")
    for sentence in verdict.splitlines():
        say(sentence, indent=2, hang=0)
    for table in tables:
        table.show()
