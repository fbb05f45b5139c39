"""Maintenance of a store: packing it into one portable file, setting damaged data aside, and removing unwanted answers.

A packed store is a gzipped text file. The first line describes the file; each further line is one row of the store as JSON with its
key. Shared messages come before the answers that refer to them. The same rows give the same bytes. A reader of a paper can unpack
the file and rebuild every table without an API key.

From a damaged database, SQLite still reads the rows of intact pages. Only the first page, which holds header and schema, is needed
for all of them. It is the same in all stores, so that of a new one replaces it if it is damaged.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import re
import shutil
import sqlite3
import zlib
from collections import Counter, deque
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diskcache.core import MODE_PICKLE

from relabel.errors import DataError, StoreError, UsageError
from relabel.files import entries, locked, make_private_dir, os_errors, replacing
from relabel.labelling import rows
from relabel.labelling.store import ROW, PickleRefusedError, Store, integrity, text_of

if TYPE_CHECKING:
    from relabel.run import Run

_DATABASE = "cache.db"
# Suffixes of the files that SQLite keeps beside a database.
_BESIDE = ("-wal", "-shm")
# Size of a page of a database, and about the smallest size of an answer's row there, in bytes.
_PAGE, _SMALLEST = 4096, 500


def set_damage_aside(folder: Path) -> Iterator[str]:
    """Make a damaged store usable again: save what can be read, and keep copies of the damaged files in a subfolder.

    Args:
        folder: The store.

    Yields:
        What was done, one sentence each; nothing if the folder does not exist.

    Raises:
        StoreError: Another process uses the store, or the folder cannot be written.
    """
    if not folder.is_dir():
        return
    _require_alone(folder)
    try:
        database, leases = folder / _DATABASE, folder / "leases.db"
        if leases.exists() and not (database.exists() and _is_intact(leases)):
            for name in ("", *_BESIDE):
                leases.with_name(leases.name + name).unlink(missing_ok=True)
            yield f"{leases.name} was deleted, because it or the database was unusable"
        if database.exists() and not _is_intact(database):
            aside = folder / f"damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
            make_private_dir(aside)
            for name in ("", *_BESIDE):
                if (file := database.with_name(database.name + name)).exists():
                    shutil.copyfile(file, aside / file.name)
            yield f"{database.name} was damaged and is kept in {aside}{_rebuild(folder, aside)}"
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(
            f"cannot set aside the damaged files in {folder} ({reason}); free space or correct the permissions"
        ) from error
    with Store(folder) as store:
        deleted = _delete_unread(folder)
        deque(store.verify(), maxlen=0)
        damaged = sorted(store.damaged)
        for key in damaged:
            store.set_aside(key)
    yield f"{len(damaged) + deleted:,} damaged rows set aside"


def _require_alone(folder: Path) -> None:
    """Check that no process uses a store, and remove the lock files of dead ones."""
    busy = f"another process is using the store {folder}; wait until it ends, or stop it"
    for path in entries(folder / "processes"):
        with locked(path, busy, refuse=StoreError), suppress(OSError):  # Windows cannot delete an open file
            path.unlink()


def _is_intact(path: Path) -> bool:
    if not path.stat().st_size:
        return path.name != _DATABASE  # an empty lease file was never used
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        try:
            db.execute(f"SELECT {ROW} FROM Cache LIMIT 1" if path.name == _DATABASE else "SELECT 1").fetchone()  # noqa: S608  a fixed text
        except sqlite3.Error:
            return False
        return not integrity(db)


def _rebuild(folder: Path, aside: Path) -> str:
    """Replace a damaged database, of which there is a copy in `aside`, with a new one that holds all rows that can be read."""
    database, work = folder / _DATABASE, aside / "rebuilt"
    Store(work).close()
    first_page = (work / _DATABASE).read_bytes()[:_PAGE]
    if not (saved := _save_rows(database, work)):
        with database.open("r+b") as file:  # without a number of pages in the header, SQLite takes the size of the file
            file.write(first_page[:28] + bytes(4) + first_page[32:])
        saved = _save_rows(database, work)
    for beside in _BESIDE:  # the old write-ahead log must not be applied to the new database
        (folder / (_DATABASE + beside)).unlink(missing_ok=True)
    (work / _DATABASE).replace(database)
    shutil.rmtree(work)
    return f"; {saved:,} rows that can be read were saved into a new one"


def _save_rows(database: Path, work: Path) -> int:
    """Copy all rows that can be read into the store in `work`. Returns their number."""
    saved: set[str] = set()
    with Store(work) as new, new.writing_at_once():
        for row in _readable_rows(database):
            with suppress(rows.DamagedRowError, PickleRefusedError):
                key, text = text_of(row)
                rows.document_of(key, text)
                new.put_text(key, text)
                saved.add(key)
    return len(saved)


def _readable_rows(database: Path) -> Iterator[tuple[Any, ...]]:
    """Read a table from both ends up to the damage, and between them row by row; yields the columns of `ROW`."""
    query = f"SELECT rowid, {ROW} FROM Cache NOT INDEXED WHERE rowid"  # noqa: S608  a fixed text
    with closing(sqlite3.connect(database)) as db:
        db.text_factory = bytes
        first = 0
        with suppress(sqlite3.Error):
            db.execute("PRAGMA writable_schema = ON")  # otherwise a truncated database cannot be opened
            for number, *row in db.execute(f"{query} > 0 ORDER BY rowid"):
                first = number
                yield tuple(row)
            return
        last = first + database.stat().st_size // _SMALLEST
        with suppress(sqlite3.Error):
            for number, *row in db.execute(f"{query} > ? ORDER BY rowid DESC", (first,)):
                last = number
                yield tuple(row)
        for number in range(first + 1, last):
            with suppress(sqlite3.Error):
                for _, *row in db.execute(f"{query} = ?", (number,)):
                    yield tuple(row)


def _delete_unread(folder: Path) -> int:
    """Delete rows that are pickled or that name a file, because reading one could run code. Returns their number."""
    with closing(sqlite3.connect(folder / _DATABASE, timeout=60)) as db, db:
        unread = "DELETE FROM Cache WHERE raw = 0 OR mode = ? OR filename IS NOT NULL OR typeof(value) = 'blob'"
        return db.execute(unread, (MODE_PICKLE,)).rowcount


@dataclass(frozen=True)
class Pruned:
    """What `prune` removed, or would remove.

    Attributes:
        answers: Number of answers, without rejected ones.
        rejected: Number of rejected answers, which were kept as evidence.
        by_model: Number of both by the model that gave them.
        cost_usd: What both cost in USD, as far as known.
    """

    answers: int
    rejected: int
    by_model: dict[str, int]
    cost_usd: float


def prune(store: Store, *, model: str | None, before: datetime | None, rejected: bool, dry_run: bool) -> Pruned:
    """Remove permanently the answers to which all criteria apply, and shared messages that no other answer refers to.

    Args:
        store: The store.
        model: Name of the model, as requested or as returned.
        before: Only answers from before this day, UTC.
        rejected: Only rejected answers.
        dry_run: Whether to count only, and remove nothing.

    Raises:
        UsageError: No criterion is given.
        StoreError: Another process uses the store.
    """
    if model is before is None and not rejected:
        raise UsageError("choose the answers to remove with --model, --before or --rejected")
    if not dry_run:  # a running process writes each shared message once, and expects to find it later
        _require_alone(store.folder)
    keys: list[str] = []
    by_model: Counter[str] = Counter()
    rejections, cost = 0, 0.0
    needed: set[str] = set()
    for key, row in store.answers():
        unwanted = (
            (model is None or model in (row.request.body.get("model"), row.answer.model_returned))
            and (before is None or row.answer.created_at < before.date().isoformat())
            and (row.rejected is not None or not rejected)
        )
        if not unwanted:
            needed.update(rows.digests_of({"request": {"body": row.request.body}}))
            continue
        keys.append(key)
        rejections += row.rejected is not None
        by_model[row.answer.model_returned or "unknown"] += 1
        cost += row.answer.cost_usd or 0.0
    answers = len(keys) - rejections
    keys += [key for key in store.keys(rows.TEXT) if keys and key.removeprefix(rows.TEXT) not in needed]
    if not dry_run:
        with store.writing_at_once():
            for key in keys:
                store.delete(key)
        with suppress(sqlite3.Error), closing(sqlite3.connect(store.folder / _DATABASE, timeout=60)) as db:
            db.execute("VACUUM")  # may fail on a full disk; later answers then use the freed space
    return Pruned(answers, rejections, dict(by_model), cost)


# Packed stores.

FORMAT = "relabel store"
VERSION = 1
# Number of rows written in one transaction, during which other processes wait.
_AT_ONCE = 500
# Characters that are replaced in the name of a pack.
_SPECIAL = re.compile(r"[^\w.-]")
# Maximum number of characters of a line: a few times those of the longest answer.
_LONGEST = 32_000_000
# Maximum number of characters of all shared messages together.
_MOST_TEXT = 64_000_000


def pack(store: Store, target: Path, *runs: Run) -> int:
    """Write rows of a store into one file.

    Args:
        store: The store.
        target: The file; written whole or not at all.
        *runs: Runs whose answers to take, rejected ones included; by default, all answers of the store.

    Returns:
        Number of answers, without rejected ones.

    Raises:
        DataError: A run's labels do not come from a store, this store lacks one of its answers, or the file cannot be
            written.
    """
    wanted = {key for run in runs for key in _keys_of(run, store)} if runs else None
    count = 0
    head = {"format": FORMAT, "version": VERSION, "model": runs[0].manifest.model if len(runs) == 1 else None}
    with (
        os_errors(f"cannot write {target}", "name another file"),
        replacing(target) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as out,
    ):
        out.write(_line(head))
        for key, row in _chosen(store, wanted):
            count += rows.is_answer(key)
            out.write(_line({"key": key, "row": row}))
    return count


def unpack(store: Store, source: Path) -> tuple[int, int]:
    """Add the rows of a packed file to a store. Answers already there are kept; added ones record which pack they came from.

    The whole file is checked before the first row is written: every key is recomputed from the content of its row. This
    does not show that an answer came from a model; for that, the maker of the pack must be trusted.

    Args:
        store: The store.
        source: The file.

    Returns:
        Number of answers added, and number of answers that were already there.

    Raises:
        DataError: The file is damaged, is not a packed store, or holds a row that does not match its key.
    """
    deque(_checked(source), maxlen=0)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = f"{_SPECIAL.sub('_', source.name)[:80]} (sha256 {digest[:16]})"
    added = existing = 0
    packed = _checked(source)
    while group := list(itertools.islice(packed, _AT_ONCE)):
        with store.writing_at_once():
            for key, row in group:
                new = store.add_row(key, row if key.startswith((rows.TEXT, rows.NOTE)) else row | {"origin": origin})
                if rows.is_answer(key):
                    added, existing = (added + 1, existing) if new else (added, existing + 1)
    return added, existing


def _keys_of(run: Run, store: Store) -> set[str]:
    keys = [str(key) for key in run.labels["request_key"]]
    if lacking := sum(not store.has(key) for key in keys):
        raise DataError(
            f"the store {store.folder} lacks the answers to {lacking:,} of {len(keys):,} labels of {run.name}; use the store that it was made "
            "with; labels made elsewhere have no answers"
        )
    return {*keys, *(failure.request_key for failure in run.failures())}


def _chosen(store: Store, wanted: set[str] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows in the order of their keys, each shared message before the first row that needs it; damaged rows are left out."""
    # A run is packed without notes, which contain server addresses and are valid for a day only.
    notes = store.keys(rows.NOTE) if wanted is None else ()
    answers = (key for key in store.keys(by_key=True) if not key.startswith((rows.TEXT, rows.NOTE, rows.ASIDE)))
    seen_digests: set[str] = set()
    for key in (*notes, *(key for key in answers if wanted is None or key.partition("/")[0] in wanted)):
        if (row := store.row(key)) is None:
            continue
        for digest in rows.digests_of(row):
            if digest not in seen_digests and (content := store.text(digest)) is not None:
                yield rows.TEXT + digest, {"content": content}
            seen_digests.add(digest)
        yield key, row


def _line(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _checked(source: Path) -> Generator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a packed file, each checked against its key."""
    texts: dict[str, str] = {}
    size = 0
    if not source.is_file():
        raise DataError(f"{source} was not found, or is not a file; give one that `relabel store pack` wrote")
    try:
        with gzip.open(source, "rt", encoding="utf-8") as lines:
            head = json.loads(lines.readline(_LONGEST) or "null")
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise DataError(f"{source} is not a packed store; give a file that `relabel store pack` wrote")
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
                # A KeyError here means that a shared message does not come before this row.
                _ = [texts[digest] for digest in rows.digests_of(row)]
                try:
                    verified = rows.checked(key, row, texts.get)
                except rows.DamagedRowError as error:
                    raise DataError(
                        f"{source} line {number}: the row {key[:100]!r} does not match its key: {error}; get the file again"
                    ) from error
                if key.startswith(rows.TEXT):
                    texts[key.removeprefix(rows.TEXT)] = text = str(verified)
                    if (size := size + len(text)) > _MOST_TEXT:
                        raise DataError(f"{source} holds too many shared messages; get the file again")
                yield key, row
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{source} is damaged or not a packed store ({error}); get the file again") from error
