"""A packed store: the answers of one run, or of all, in one portable file.

A gzipped text file. The first line says what it is; each further line is one row of the store, as JSON with its key, the
shared messages before the answers that refer to them. The same rows give the same bytes. A reader of a paper unpacks it
and rebuilds every table without a key.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import re
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.errors import DataError
from relabel.files import replacing
from relabel.labelling.rows import (
    ASIDE,
    NOTE,
    TEXT,
    DamagedRowError,
    checked_answer,
    checked_note,
    checked_text,
    digests_of,
    is_answer,
)
from relabel.labelling.store import Store

if TYPE_CHECKING:
    from relabel.run import Run

FORMAT = "relabel store"
VERSION = 1
_KEY = re.compile(r"[0-9a-f]{64}")
"""A request's key."""
_AT_ONCE = 500
"""Rows that are written in one go; other processes wait meanwhile."""
_PLAIN = re.compile(r"[^\w.-]")
_LONGEST = 32_000_000
"""Characters of a line: a few times what the longest answer takes."""
_MOST_TEXT = 64_000_000
"""Characters of all shared messages together."""


def pack(store: Store, target: Path, run: Run | None = None) -> int:
    """Write rows of a store into one file.

    Args:
        store: The store.
        target: The file; replaced at once or not at all.
        run: Take the answers of this run, its rejected ones included; by default all.

    Returns:
        Number of answers, rejected ones not counted.

    Raises:
        DataError: The run's labels come from no store, or this store lacks one of its answers, or the file cannot be
            written.
    """
    wanted = None if run is None else _keys_of(run, store)
    count = 0
    head = {"format": FORMAT, "version": VERSION, "model": None if run is None else run.manifest.model}
    try:
        with (
            replacing(target) as temporary,
            temporary.open("wb") as raw,
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as out,
        ):
            out.write(_line(head))
            for key, row in _chosen(store, wanted):
                count += is_answer(key)
                out.write(_line({"key": key, "row": row}))
    except OSError as error:
        raise DataError(f"cannot write {target} ({error.strerror}); name another file") from error
    return count


def unpack(store: Store, source: Path) -> tuple[int, int]:
    """Add the rows of a packed file to a store, marked with the pack that they came from. Answers that are there stand.

    The whole file is checked before the first row is written: every key is computed anew from what the row holds. That an
    answer is what a model said, nobody can check but who made the pack.

    Args:
        store: The store.
        source: The file.

    Returns:
        Number of answers added, and of those that were there already.

    Raises:
        DataError: The file is damaged, is no packed store, or holds a row that is not what its key says.
    """
    for _ in _checked(source):
        pass
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = f"{_PLAIN.sub('_', source.name)[:80]} (sha256 {digest[:16]})"
    added = known = 0
    rows = _checked(source)
    while some := list(itertools.islice(rows, _AT_ONCE)):
        with store.writing_at_once():
            for key, row in some:
                new = store.add_row(key, row if key.startswith((TEXT, NOTE)) else row | {"origin": origin})
                if is_answer(key):
                    added, known = (added + 1, known) if new else (added, known + 1)
    return added, known


def _keys_of(run: Run, store: Store) -> set[str]:
    keys = list(run.labels["request_key"])
    # Published and imported labels have no key, or one that leads to a line of a file.
    elsewhere = sum(not (isinstance(key, str) and _KEY.fullmatch(key)) for key in keys)
    if elsewhere:
        raise DataError(
            f"{run.name} has no answers in a store: {elsewhere:,} of its {len(keys):,} labels were made elsewhere; "
            "give a run that `relabel run` made"
        )
    answered = set(keys)
    for key in sorted(answered):
        if not store.has(key):
            raise DataError(
                f"the store {store.folder} lacks the answer {key} of the run; use the store that the run was made with"
            )
    return answered | {failure.request_key for failure in run.failures()}


def _chosen(store: Store, wanted: set[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows by key, a shared message before the first that refers to it; a row that is damaged is left out."""
    for key in store.keys(NOTE):
        if (value := store.note(key.removeprefix(NOTE))) is not None:
            yield key, {"value": value}
    told: set[str] = set()
    for key in store.keys(by_key=True):
        if key.startswith((TEXT, NOTE, ASIDE)) or not (wanted is None or key.partition("/")[0] in wanted):
            continue
        if (row := store.row(key)) is None:
            continue
        for digest in digests_of(row):
            if digest not in told and (content := store.text(digest)) is not None:
                yield TEXT + digest, {"content": content}
            told.add(digest)
        yield key, row


def _line(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _checked(source: Path) -> Generator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a packed file, each checked against its own key."""
    texts: dict[str, str] = {}
    try:
        with gzip.open(source, "rt", encoding="utf-8") as lines:
            head = json.loads(lines.readline(_LONGEST) or "null")
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise DataError(f"{source} is no packed store; give a file that `relabel store pack` wrote")
            if head.get("version") != VERSION:
                raise DataError(
                    f"{source} was packed by another relabel (version {head.get('version')}); update relabel"
                )
            for number in itertools.count(2):
                if not (line := lines.readline(_LONGEST)):
                    return
                if len(line) == _LONGEST:
                    raise DataError(
                        f"{source} line {number} is longer than {_LONGEST:,} characters; get the file again"
                    )
                entry = json.loads(line)
                key, row = entry["key"], entry["row"]
                try:
                    if key.startswith(TEXT):
                        texts[key.removeprefix(TEXT)] = checked_text(key, row)
                        if sum(map(len, texts.values())) > _MOST_TEXT:
                            raise DataError(f"{source} holds too many shared messages; get the file again")
                    elif key.startswith(NOTE):
                        checked_note(key, row)
                    else:
                        _ = [texts[digest] for digest in digests_of(row)]  # they come before what refers to them
                        checked_answer(key, row, texts)
                except DamagedRowError as error:
                    raise DataError(
                        f"{source} line {number}: the row {key[:100]!r} is not what its key says: {error}; get the file again"
                    ) from error
                yield key, row
    except FileNotFoundError as error:
        raise DataError(f"there is no file {source}; give a file that `relabel store pack` wrote") from error
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{source} is damaged or no packed store ({error}); get the file again") from error
