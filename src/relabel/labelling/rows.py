"""Rows of a run that may be more than memory should hold: labels and failures of a plan of millions.

The newest are held; each time that they are many, they are put in order and written to a file without a name in the run's
folder, which is gone when this process is, however it ends.
"""

from __future__ import annotations

import heapq
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, Generic, NoReturn, TypeVar, overload

from relabel.errors import StoreError
from relabel.label import Failure, Label

HELD = 20_000
"""Rows in memory at most: some 40 MB."""

T = TypeVar("T")
_NAMES = tuple(field.name for field in fields(Label))
_values = attrgetter(*_NAMES)
_SPELLING = json.JSONEncoder(separators=(",", ":"))
in_table_order = attrgetter("onet_soc_code", "task_id", "setting", "sample")
"""What the rows of a run's table are sorted by."""


class Rows(Sequence[T], Generic[T]):
    """A list that only grows, most of it on disk when it is long. One reader at a time.

    Args:
        folder: Where it may write; None holds everything.
        write: A row as one line of text.
        read: The row of a line.
        order: What rows are sorted by; None keeps the order in which they came.
        held: Rows in memory at most.
    """

    def __init__(
        self,
        folder: Path | None,
        write: Callable[[T], str],
        read: Callable[[str], T],
        *,
        order: Callable[[T], Any] | None = None,
        held: int = HELD,
    ) -> None:
        self._folder, self._write, self._read, self._order, self._most = folder, write, read, order, held
        self._held: list[T] = []
        self._raw: list[str] = []
        self._files: list[IO[str]] = []
        self._changes: list[Callable[[T], T]] = []
        self._written = 0

    def append(self, row: T) -> None:
        """Add a row.

        Raises:
            StoreError: The disk is full.
        """
        if self._raw and self._folder is not None:  # they came before
            self._spill(self._folder)
        self._held.append(row)
        if self._folder is not None and len(self._held) >= self._most:
            self._spill(self._folder)

    def append_line(self, line: str) -> None:
        """Add a row as the line of text that it is written as: for rows that come by the million and in no order.

        Raises:
            StoreError: The disk is full.
        """
        if self._folder is None:
            self._held.append(self._read(line))
            return
        if self._held:
            self._spill(self._folder)
        self._raw.append(line)
        if len(self._raw) >= self._most:
            self._spill(self._folder)

    def lines(self) -> Iterator[str]:
        """All rows as they are written, a line each: in the order in which they came, and not changed."""
        for file in self._files:
            file.seek(0)
            yield from file
        yield from (f"{line}\n" for line in (*map(self._write, self._held), *self._raw))

    def change(self, how: Callable[[T], T]) -> None:
        """Have each row changed as it is read, after earlier changes: for what only the whole can tell."""
        self._changes.append(how)

    def __len__(self) -> int:
        return self._written + len(self._held) + len(self._raw)

    def __iter__(self) -> Iterator[T]:
        """All rows: in order where there is one."""
        if self._order is None:
            parts = (*map(self._lines, self._files), self._held, map(self._read, self._raw))
            rows = (row for part in parts for row in part)
        else:
            parts = [*map(self._lines, self._files), iter(sorted(self._held, key=self._order))]
            rows = heapq.merge(*parts, key=self._order)
        for how in self._changes:
            rows = map(how, rows)
        return rows

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  like a list's

    def _spill(self, folder: Path) -> None:
        try:
            if self._order is not None or not self._files:  # what is in order is merged, a file of each stretch
                file = tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder, newline="\n")  # noqa: SIM115  it lives as long as the rows
                self._files.append(file)
            file = self._files[-1]
            file.seek(0, io.SEEK_END)
            rows = sorted(self._held, key=self._order) if self._order else self._held
            file.writelines(f"{line}\n" for line in (*map(self._write, rows), *self._raw))
            file.flush()
        except OSError as error:
            self._fail(folder, error)
        self._written += len(self._held) + len(self._raw)
        self._held.clear()
        self._raw.clear()

    def _lines(self, file: IO[str]) -> Iterator[T]:
        file.seek(0)
        return map(self._read, file)

    def _fail(self, folder: Path, error: OSError) -> NoReturn:
        raise StoreError(
            f"cannot keep labels in {folder} ({error.strerror or error}); the answers are safe in the store: free space, then start the same run again"
        ) from error


def label_rows(folder: Path | None, *, held: int = HELD) -> Rows[Label]:
    """Labels, in the order of a run's table."""
    return Rows(folder, _write_label, _read_label, order=in_table_order, held=held)


def failure_rows(folder: Path | None, *, held: int = HELD) -> Rows[Failure]:
    """Missing labels, in the order in which they came."""
    return Rows(folder, Failure.model_dump_json, Failure.model_validate_json, held=held)


def _write_label(label: Label) -> str:
    return _SPELLING.encode(_values(label))


def _read_label(line: str) -> Label:
    return Label(*json.loads(line))
