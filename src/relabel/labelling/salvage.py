"""Reading the rows of a database that SQLite cannot read any more, page by page.

A table's rows lie in leaf pages, and the pages above these only lead to them. So whatever has happened to the header, the schema, an
index or the pages above, each leaf that is whole gives its rows. https://www.sqlite.org/fileformat2.html is what this follows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

PAGE = 4096
_LEAF = 0x0D
_COLUMNS = 12
"""Of diskcache's table, the number, key, ..., mode, file name and value of a row."""
_KEY, _RAW, _FILE, _VALUE = 1, 2, 10, 11
_MOST = PAGE - 35
"""Bytes of a row that lie in its leaf, where all of it fits."""
_LEAST = (PAGE - 12) * 32 // 255 - 23


def readable_rows(database: Path) -> Iterator[tuple[str, str]]:
    """Key and text of every row of text that can be read; of one that was replaced or deleted, what is left of that too.

    Args:
        database: The file of the database; a write-ahead log beside it is heeded.
    """
    log = _logged(database.with_name(database.name + "-wal"))
    with database.open("rb") as file:
        last = max(database.stat().st_size // PAGE, *log, 0)

        def page(number: int) -> bytes:
            if number in log:
                return log[number]
            file.seek((number - 1) * PAGE)
            return file.read(PAGE) if 0 < number <= last else b""

        for number in range(1, last + 1):
            content = page(number)
            if len(content) < PAGE or content[0] != _LEAF:
                continue
            for at in range(8, min(8 + 2 * _u16(content, 3), PAGE - 1), 2):
                try:
                    row = _row(content, _u16(content, at), page)
                except (IndexError, ValueError, struct.error):
                    continue
                if row is not None:
                    yield row


def _logged(log: Path) -> dict[int, bytes]:
    """Pages in a write-ahead log, by number, as they were written last."""
    content = log.read_bytes() if log.exists() else b""
    pages: dict[int, bytes] = {}
    for at in range(32, len(content) - PAGE - 23, PAGE + 24):
        if content[at + 8 : at + 16] != content[16:24]:  # what follows was written before the log was begun anew
            break
        pages[_u32(content, at)] = content[at + 24 : at + 24 + PAGE]
    return pages


def _row(leaf: bytes, at: int, page: Callable[[int], bytes]) -> tuple[str, str] | None:
    size, at = _varint(leaf, at)
    _, at = _varint(leaf, at)
    if size <= _MOST:
        payload = leaf[at : at + size]
    else:
        here = _LEAST + (size - _LEAST) % (PAGE - 4)
        here = here if here <= _MOST else _LEAST
        payload, follows = leaf[at : at + here], _u32(leaf, at + here)
        while len(payload) < size:
            more = page(follows)
            if len(more) < PAGE:
                raise ValueError
            payload += more[4 : 4 + size - len(payload)]
            follows = _u32(more, 0)
    end, at = _varint(payload, 0)
    sizes: list[int] = []
    while at < end:
        kind, at = _varint(payload, at)
        sizes.append((kind - 12) // 2 if kind >= 12 else (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)[kind])
        if len(sizes) - 1 in {_KEY, _VALUE} and not (kind >= 13 and kind % 2):
            return None  # no text
        if (len(sizes) - 1 == _FILE and kind) or (len(sizes) - 1 == _RAW and kind != 9):
            return None  # a pickled key, or a file
    if len(sizes) != _COLUMNS:
        return None
    starts = [end + sum(sizes[:n]) for n in range(_COLUMNS)]
    key, value = (payload[starts[n] : starts[n] + sizes[n]] for n in (_KEY, _VALUE))
    if len(value) != sizes[_VALUE]:
        return None
    return key.decode(), value.decode()


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = 0
    for n in range(9):
        byte = content[at + n]
        if n == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + n + 1
    raise ValueError


def _u16(content: bytes, at: int) -> int:
    return struct.unpack_from(">H", content, at)[0]


def _u32(content: bytes, at: int) -> int:
    return struct.unpack_from(">I", content, at)[0]
