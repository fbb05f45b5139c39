"""A packed store: the answers of one run, or of all, in one portable file.

A gzipped text file. The first line says what it is; each further line is one row of the store, as JSON with its key, the
shared messages before the answers that refer to them. The same rows give the same bytes. A reader of a paper unpacks it
and rebuilds every table without a key.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from relabel.errors import DataError
from relabel.files import replacing
from relabel.labelling.request import Request
from relabel.labelling.store import NOTE, REJECTED, TEXT, Store
from relabel.labelling.wire import messages_of, with_messages
from relabel.run import Run

FORMAT = "relabel store"
VERSION = 1
_KEY = re.compile(r"[0-9a-f]{64}")
"""A request's key."""


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
                count += _is_answer(key, row)
                out.write(_line({"key": key, "row": row}))
    except OSError as error:
        raise DataError(f"cannot write {target} ({error.strerror}); name another file") from error
    return count


def unpack(store: Store, source: Path) -> tuple[int, int]:
    """Add the rows of a packed file to a store. Answers that are there already stand.

    The whole file is checked before the first row is written.

    Args:
        store: The store.
        source: The file.

    Returns:
        Number of answers added, and of those that were there already.

    Raises:
        DataError: The file is damaged, is no packed store, or holds an answer under a wrong key.
    """
    for _ in _checked(source):
        pass
    added = known = 0
    for key, row in _checked(source):
        new = store.add_row(key, row)
        if _is_answer(key, row):
            added, known = (added + 1, known) if new else (added, known + 1)
    return added, known


def _is_answer(key: str, row: dict[str, Any]) -> bool:
    return "request" in row and REJECTED not in key


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
    keys = sorted(store.keys())
    answers = [k for k in keys if not k.startswith((TEXT, NOTE)) and (wanted is None or k.split(REJECTED)[0] in wanted)]
    used = {digest for key in answers for digest in _digests(store.row(key))}
    for key in keys:
        if key.startswith(NOTE) or (key.startswith(TEXT) and key.removeprefix(TEXT) in used):
            yield from _row(store, key)
    for key in answers:
        yield from _row(store, key)


def _row(store: Store, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    row = store.row(key)
    if row is not None:
        yield key, row


def _digests(row: dict[str, Any] | None) -> set[str]:
    return set() if row is None else {m["sha256"] for m in messages_of(row["request"]["body"]) if "sha256" in m}


def _line(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _checked(source: Path) -> Generator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a packed file, each held against its own key."""
    texts: dict[str, str] = {}
    try:
        with gzip.open(source, "rt", encoding="utf-8") as lines:
            head = json.loads(next(lines, "null"))
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise DataError(f"{source} is no packed store; give a file that `relabel store pack` wrote")
            if head.get("version") != VERSION:
                raise DataError(
                    f"{source} was packed by another relabel (version {head.get('version')}); update relabel"
                )
            for number, line in enumerate(lines, start=2):
                entry = json.loads(line)
                key, row = entry["key"], entry["row"]
                if key.startswith(TEXT):
                    texts[key.removeprefix(TEXT)] = row["content"]
                if _true_key(key, row, texts) != key.split(REJECTED)[0]:
                    raise DataError(
                        f"{source} line {number}: the row {key} is not what its key says; get the file again"
                    )
                yield key, row
    except FileNotFoundError as error:
        raise DataError(f"there is no file {source}; give a file that `relabel store pack` wrote") from error
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{source} is damaged or no packed store ({error}); get the file again") from error


def _true_key(key: str, row: dict[str, Any], texts: dict[str, str]) -> str:
    if key.startswith(TEXT):
        return TEXT + hashlib.sha256(row["content"].encode()).hexdigest()
    if key.startswith(NOTE):
        return key
    request = row["request"]
    messages = [
        {"role": m["role"], "content": texts[m["sha256"]]} if "sha256" in m else m for m in messages_of(request["body"])
    ]
    whole: dict[str, Any] = {**request, "body": with_messages(request["body"], messages)}
    return Request(**whole).key
