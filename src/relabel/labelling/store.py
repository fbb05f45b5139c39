"""The store: a durable folder of paid answers by request key.

It is a diskcache folder (SQLite) in which nothing is ever evicted or pickled. A row marked as a pickle is refused, because
reading it could run code. Do not put the store on a network file system, where SQLite's locks are unreliable. The content
of rows is described in `rows`.

diskcache is used for writing only, because it cannot open a read-only folder.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import diskcache
from diskcache.core import MODE_PICKLE

from relabel.errors import DataError, StoreError
from relabel.files import make_private_dir
from relabel.labelling import rows
from relabel.labelling.request import Request
from relabel.labelling.wire import messages_of, with_messages
from relabel.labels import Answer
from relabel.settings import Frozen

# Size limit in bytes for diskcache: none.
_NEVER_FULL = 2**62
# Size in bytes from which diskcache writes a value to a file of its own: never, because single files can get lost.
_NEVER_A_FILE = 2**30
# Cache of the writing connection, in pages of 4 kB; diskcache's default is up to 96 MB.
_PAGES = 1024
# Pages of SQLite's log after which a writer empties the log itself. `Any`, because diskcache's type for it is wrong.
_LOG_PAGES: Any = 10_000
# Columns that `text_of` reads.
ROW = "key, raw, mode, filename, typeof(value), value"
_ONE = f"SELECT {ROW} FROM Cache WHERE key=? AND raw=1"  # noqa: S608  a fixed text


class PickleRefusedError(Exception):
    """A row is a pickle, or would be one."""


class _PlainDisk(diskcache.Disk):
    """A diskcache Disk that only writes text under text keys; `text_of` reads it."""

    def put(self, key: Any) -> Any:
        if not isinstance(key, str):
            raise PickleRefusedError(f"a key must be text, not {type(key).__name__}")
        return super().put(key)

    def store(self, value: Any, read: Any, key: Any = diskcache.UNKNOWN) -> Any:
        if not isinstance(value, str):
            raise PickleRefusedError(f"a value must be text, not {type(value).__name__}")
        return super().store(value, read, key)


class StoreStats(Frozen):
    """What a store holds.

    Attributes:
        from_packs: Number of answers, valid or rejected, from packs, by pack.
        damaged: Number of rows that do not match their key.
        aside: Number of damaged rows that were set aside.
        cost_usd: Known costs of all answers, including rejected ones, but not those from packs, which others paid for.
        cost_unknown: Number of answers of unknown cost, not counting those from packs.
    """

    folder: str
    answers: int
    rejected: int
    by_model: dict[str, int]
    bytes: int
    cost_usd: float
    cost_unknown: int
    from_packs: dict[str, int]
    damaged: int
    aside: int


def text_of(row: tuple[Any, ...]) -> tuple[str, str]:
    """Key and text of a row that was read with the columns of `ROW`.

    Raises:
        DamagedRowError: It is not text.
        PickleRefusedError: It is a pickle.
    """
    key, raw, mode, filename, kind, value = row
    if not raw or mode == MODE_PICKLE or kind == b"blob":
        raise PickleRefusedError("a row has a pickled key" if not raw else "a row holds a pickled value")
    try:
        if filename is not None:  # relabel writes none, and it could be any file
            raise rows.DamagedRowError(f"the row {rows.brief(_key_text(key))} names a file")
        return key.decode(), value.decode()
    except (ValueError, AttributeError) as error:
        raise rows.DamagedRowError(f"the row {rows.brief(_key_text(key))} is not text") from error


class Store:
    """A folder of answers by request key.

    Args:
        folder: The folder; created, private to the user, if missing.
        read_only: Write nothing. The folder may then be write-protected, and a missing one is an empty store.

    Raises:
        StoreError: The folder cannot be read or written, is not a store, or has lost its database.

    Attributes:
        damaged: Keys of damaged rows met so far.
        replaced: Number of damaged answers that were set aside for new ones.
        from_packs: Number of answers from packs, counted by `verify`.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder, self.read_only = folder, read_only
        self.damaged: set[str] = set()
        self.from_packs = self.replaced = 0
        self._texts: dict[str, str] = {}
        self._written: set[str] = set()
        self._ahead: dict[str, str | None] = {}
        self._open = ExitStack()
        database = folder / "cache.db"
        try:
            with suppress(FileNotFoundError):
                database.stat()  # a file in its path is an error, not an empty store
            if (folder / "leases.db").exists() and not (database.exists() and database.stat().st_size):
                raise StoreError(
                    f"the store {folder} has been used before and its database is {'empty' if database.exists() else 'missing'}; "
                    "restore it from a copy, or start a new one with `relabel store verify --set-aside`"
                )
            if os.path.expandvars(folder) != str(folder):  # diskcache would write elsewhere
                raise StoreError(f"the store {folder} has a variable in its path; write the path in full")
            if not read_only:
                make_private_dir(folder)
                self._cache = self._open.enter_context(
                    diskcache.Cache(
                        str(folder),
                        disk=_PlainDisk,
                        eviction_policy="none",
                        size_limit=_NEVER_FULL,
                        cull_limit=0,
                        statistics=0,
                        tag_index=0,
                        disk_min_file_size=_NEVER_A_FILE,
                        sqlite_cache_size=_PAGES,
                        sqlite_mmap_size=0,
                    )
                )
                # Usually `sync` empties the log, in another thread, so that answers need not wait for it.
                self._cache.reset("sqlite_wal_autocheckpoint", _LOG_PAGES, update=False)
                (folder / "leases.db").touch(mode=0o600)
            self._db = self._open.enter_context(_reading(database, writable=not read_only))
            self._db.text_factory = bytes
        except (OSError, sqlite3.Error, diskcache.Timeout, ValueError, TypeError, KeyError, AttributeError) as error:
            self._open.close()
            raise unusable(folder, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store's files, after flushing all writes to disk."""
        if not self.read_only:
            self.sync()
        self._open.close()

    def sync(self) -> None:
        """Flush writes to disk, so that they survive a power cut, and empty SQLite's log. A run does so every second."""
        database = self.folder / "cache.db"
        with suppress(OSError, sqlite3.Error), database.with_name("cache.db-wal").open("rb+") as log:
            os.fsync(log.fileno())  # the log is missing if nothing was written; Windows syncs only writable files
            with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)) as db:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextmanager
    def _guarded(self) -> Generator[None]:
        """Convert errors of the database to a `StoreError`."""
        try:
            yield
        except PickleRefusedError as error:
            raise StoreError(
                f"{error} in the store {self.folder}: relabel never writes one, and reading it could run code; "
                "`relabel store verify --set-aside` deletes it unread"
            ) from error
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            raise unusable(self.folder, error) from error

    @contextmanager
    def writing_at_once(self) -> Generator[None]:
        """Run the block as one transaction."""
        with self._guarded(), self._cache.transact(retry=True):
            yield

    def get(self, key: str, request: Request | None = None) -> Answer | None:
        """The answer to the request with this key, or None if there is none; faster if the request is given too.

        A damaged row counts as missing, and its key is added to `damaged`.

        Raises:
            StoreError: The row is a pickle, or the store cannot be read.
        """
        try:
            row = self.checked(key, request)
        except rows.DamagedRowError:
            self.damaged.add(key)
            return None
        return None if row is None else row.answer

    def has(self, key: str) -> bool:
        """Whether there is an answer under this key; does not verify it."""
        with self._guarded():
            return self._db.execute("SELECT 1 FROM Cache WHERE key=? AND raw=1", (key,)).fetchone() is not None

    def put(self, request: Request, answer: Answer) -> bool:
        """Store an answer. After this returns, it survives a crash of the process, and after `sync` also a power cut.

        Returns:
            False if there is already an answer to the request, which is kept; this one is stored as evidence.
        """
        document = self._document(request, answer)
        if request.key in self.damaged:
            self.set_aside(request.key)
            self.replaced += 1
        if self._add(request.key, document):
            return True
        self.put_rejected(request, answer, "duplicate", "another answer to this request was stored first")
        return False

    def replace(self, request: Request, answer: Answer) -> None:
        """Replace an invalid answer, which is kept as evidence."""
        before = self.get(request.key)
        if before is not None:
            self.put_rejected(request, before, "outdated", "it no longer passes as a label")
        self.put_text(request.key, rows.sealed(self._document(request, answer)))

    def put_rejected(self, request: Request, answer: Answer, kind: str, reason: str) -> None:
        """Store an invalid answer as evidence, with the reason."""
        document = self._document(request, answer) | {"rejected": {"kind": kind, "reason": reason}}
        self.put_text(f"{request.key}{rows.REJECTED}{answer.created_at}", rows.sealed(document))

    def note(self, name: str) -> str | None:
        """The note under a name; None if there is none, or it is not one that relabel writes."""
        try:
            document = self._load(rows.NOTE + name)
            return None if document is None else rows.checked_note(rows.NOTE + name, document)
        except rows.DamagedRowError:
            self.damaged.add(rows.NOTE + name)
            return None

    def put_note(self, name: str, value: str) -> None:
        """Write a note: a fact that requests depend on, and that can only be found by asking the server."""
        self.put_text(rows.NOTE + name, rows.sealed({"value": value}))

    def notes(self) -> Iterator[str]:
        """All notes in words: the name and, if it is a note that relabel writes, the value."""
        for key in self.keys(rows.NOTE):
            value = self.note(key.removeprefix(rows.NOTE))
            yield key.removeprefix(rows.NOTE) + (
                " is not a note that relabel writes" if value is None else f" = {value}"
            )

    def drop_notes(self) -> int:
        """Delete all notes, so that servers are probed again. Returns their number."""
        keys = list(self.keys(rows.NOTE))
        for key in keys:
            self.delete(key)
        return len(keys)

    def request(self, key: str) -> dict[str, Any] | None:
        """The complete request of an answer, as it was sent; None if the key is unknown."""
        row = self.checked(key)
        return None if row is None else row.request_document(self.text)

    def keys(self, prefix: str = "", *, by_key: bool = False) -> Iterator[str]:
        """All keys, optionally with a prefix, in order of insertion or sorted."""
        order = "key" if by_key or prefix else "rowid"
        query = f"SELECT key FROM Cache WHERE raw = 1 AND key >= ? AND key < ? ORDER BY {order}"  # noqa: S608  a fixed text
        with self._guarded():
            for (key,) in self._db.execute(query, (prefix, f"{prefix}\U0010ffff")):
                yield _key_text(key)

    def newest(self, count: int) -> Iterator[tuple[str, rows.AnswerRow]]:
        """The newest answers, newest first, followed by about as many older ones, evenly spaced."""
        keys = [key for key in self.keys() if rows.is_answer(key)][::-1]
        for key in keys[:count] + keys[count :: max(1, (len(keys) - count) // count)]:
            with suppress(rows.DamagedRowError):
                if (row := self.checked(key)) is not None:
                    yield key, row

    def was_rejected(self, key: str) -> bool:
        """Whether an answer to this request was paid for and rejected."""
        return next(self.keys(key + rows.REJECTED), None) is not None

    def rejected_keys(self, request_keys: Container[str]) -> list[str]:
        """Keys of the invalid answers to these requests."""
        return [key for key in self.keys() if rows.REJECTED in key and key.partition(rows.REJECTED)[0] in request_keys]

    def row(self, key: str) -> dict[str, Any] | None:
        """A row as stored, with shared messages as hashes; None if it does not match its key."""
        try:
            document = self._load(key)
            rows.checked(key, document, self.text)
        except rows.DamagedRowError:
            self.damaged.add(key)
            return None
        return document

    def checked(self, key: str, request: Request | None = None) -> rows.AnswerRow | None:
        """The row of an answer, verified; None if there is none. `request` is the one with this key, if known, which is faster.

        Raises:
            DamagedRowError: It does not match its key.
            StoreError: The row is a pickle, or the store cannot be read.
        """
        row = self._load(key, rows.parsed)
        return None if row is None else rows.checked_answer(key, row, self.text, request)

    def text(self, digest: str) -> str | None:
        """A shared message by hash; None if it is missing or does not match its hash."""
        if digest not in self._texts:
            try:
                document = self._load(rows.TEXT + digest)
                if document is not None:
                    self._texts[digest] = rows.checked_text(rows.TEXT + digest, document)
            except rows.DamagedRowError:
                self.damaged.add(rows.TEXT + digest)
        return self._texts.get(digest)

    def add_row(self, key: str, row: dict[str, Any]) -> bool:
        """Add a verified row from a pack; False if there already is one, which is kept unless it is damaged."""
        if key.startswith(rows.TEXT):
            self.put_text(key, rows.sealed(row))
            return True
        if self._add(key, row):
            return True
        if key.startswith(rows.NOTE) or self.get(key) is not None or key not in self.damaged:
            return False
        self.set_aside(key)
        return self._add(key, row)

    def set_aside(self, key: str) -> None:
        """Set a damaged row aside: its text is kept as evidence, under a key that is never read."""
        for _, raw, _, _, kind, value in self._rows("key = ?", key):
            if raw and kind != b"blob" and isinstance(value, bytes):
                time = datetime.now(UTC).isoformat(timespec="microseconds")
                self.put_text(f"{rows.ASIDE}{key[:200]}/{time}", value.decode("utf-8", "replace"))
        self.delete(key)
        self.damaged.discard(key)

    def stats(self) -> StoreStats:
        """Count the content of the store; reads every row."""
        models, packs = Counter[str](), Counter[str]()
        costs: list[float | None] = []
        rejected = 0
        for _, row in self.answers():
            rejected += row.rejected is not None
            models[row.answer.model_returned or "unknown"] += row.rejected is None
            packs[row.origin or ""] += 1
            costs += [row.answer.cost_usd] if row.origin is None else []
        del packs[""]
        return StoreStats(
            folder=str(self.folder),
            answers=models.total(),
            rejected=rejected,
            by_model=dict((+models).most_common()),
            bytes=sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file()),
            cost_usd=sum(cost or 0.0 for cost in costs),
            cost_unknown=costs.count(None),
            from_packs=dict(packs.most_common()),
            damaged=len(self.damaged),
            aside=sum(1 for _ in self.keys(rows.ASIDE)),
        )

    def answers(self) -> Iterator[tuple[str, rows.AnswerRow]]:
        """All answers, including rejected ones, with their keys; damaged ones are skipped and added to `damaged`."""
        for key, row in self._checked_rows():
            if isinstance(row, rows.AnswerRow):
                yield key, row
            elif not isinstance(row, rows.DamagedRowError):
                raise row

    def verify(self) -> Iterator[str]:
        """Read the whole store, and yield a description of each problem.

        Rows that do not match their key are added to `damaged`; `from_packs` is set to the number of rows from packs.
        """
        self.from_packs = 0
        if damage := integrity(self._db):
            yield f"the database is damaged ({damage})"
            return
        for key, row in self._checked_rows():
            if isinstance(row, rows.AnswerRow):
                self.from_packs += row.origin is not None
            else:
                yield str(row) if isinstance(row, rows.DamagedRowError) else f"the row {rows.brief(key)}: {row}"

    def _checked_rows(self) -> Iterator[tuple[str, rows.AnswerRow | StoreError]]:
        """All answers, and the errors of damaged rows of any kind, with their keys."""
        for cells in self._rows("1 ORDER BY rowid"):
            key = _key_text(cells[0])
            try:
                with self._guarded():
                    key, text = text_of(cells)
                if key.startswith(rows.ASIDE):
                    continue
                row = rows.checked(key, rows.document_of(key, text), self.text)
                if isinstance(row, rows.AnswerRow):
                    yield key, row
            except StoreError as error:
                if isinstance(error, rows.DamagedRowError):
                    self.damaged.add(key)
                yield key, error

    def _rows(self, condition: str, *values: str) -> Iterator[tuple[Any, ...]]:
        with self._guarded():
            yield from self._db.execute(f"SELECT {ROW} FROM Cache WHERE {condition}", values)  # noqa: S608  a fixed text

    def _document(self, request: Request, answer: Answer) -> dict[str, Any]:
        """The document of an answer's row, with system messages replaced by their hashes, and stored if new."""
        messages: list[dict[str, str]] = []
        for message in messages_of(request.body):
            if message["role"] != "system":
                messages.append(message)
                continue
            digest = rows.sha256_of(message["content"])
            if digest not in self._written:
                self.put_text(rows.TEXT + digest, rows.sealed({"content": message["content"]}))
                self._written.add(digest)
            messages.append({"role": "system", "sha256": digest})
        body = with_messages(request.body, messages)
        origin = {} if answer.origin is None else {"origin": answer.origin}
        return {"format": 1, "request": {**request.document, "body": body}, "answer": answer, **origin}

    def _load(self, key: str, parse: Callable[[str, str], Any] = rows.document_of) -> Any:
        text = self._ahead.pop(key) if key in self._ahead else self._text_of(key)
        return None if text is None else parse(key, text)

    def _text_of(self, key: str) -> str | None:
        with self._guarded():
            row = self._db.execute(_ONE, (key,)).fetchone()
            return None if row is None else text_of(row)[1]

    def read_ahead(self, keys: Sequence[str]) -> None:
        """Read several answers in one query, for the next `get` of each, which also knows then that there is none."""
        marks = ", ".join("?" * len(keys))
        with self._guarded():
            self._ahead = dict.fromkeys(keys) | dict(map(text_of, self._rows(f"raw = 1 AND key IN ({marks})", *keys)))

    def put_text(self, key: str, text: str) -> None:
        """Write a row with this text."""
        with self._guarded():
            self._cache.set(key, text)

    def delete(self, key: str) -> None:
        """Delete a row."""
        with self._guarded():
            self._cache.delete(key)

    def _add(self, key: str, document: dict[str, Any]) -> bool:
        with self._guarded():
            return bool(self._cache.add(key, rows.sealed(document)))


def unusable(folder: Path | None, error: Exception) -> StoreError:
    """The error for a store whose files cannot be used."""
    advice = "free space, correct the permissions or the limit `ulimit -f`, or name another folder with RELABEL_STORE"
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, diskcache.Timeout):
        reason, advice = "another program has locked it", "wait for that program or stop it"
    elif _is_damage(error):
        advice = "it is damaged: `relabel store verify --set-aside` saves what can be read, and keeps the damaged database beside it"
    return StoreError(f"cannot use the store {folder} ({reason}); {advice}")


def _key_text(key: Any) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def _is_damage(error: Exception) -> bool:
    """Whether an error means that a database is damaged, and not that it is locked, full or inaccessible."""
    if not isinstance(error, sqlite3.Error):
        return not isinstance(error, (OSError, DataError))
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT}


def integrity(db: sqlite3.Connection) -> str:
    """The result of SQLite's integrity check; empty if there is no problem."""
    try:
        result = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        return str(error)
    result = result.decode() if isinstance(result, bytes) else str(result)
    return "" if result == "ok" else " ".join(result.split())


@contextmanager
def _reading(database: Path, *, writable: bool) -> Generator[sqlite3.Connection]:
    """A read-only connection, which also works in a folder without write permission."""
    # Without leases, the store is new, and another process may be about to create its tables: it is read as empty.
    used = database.with_name("leases.db").exists()
    with ExitStack() as opened:
        uri, parameters = "file::memory:", "mode=ro"
        if database.exists():
            if not writable and not os.access(database.parent, os.W_OK):
                log = database.with_name("cache.db-wal")
                if not log.exists() or not log.stat().st_size:  # otherwise SQLite must read the log of another process
                    parameters = "mode=ro&immutable=1"
            uri = f"{database.absolute().as_uri()}?{parameters}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60, check_same_thread=False)
        opened.callback(db.close)
        if not used and not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'Cache'").fetchone():
            db.execute("CREATE TEMP TABLE Cache(key, raw, mode, filename, value)")
        db.execute("SELECT 1 FROM Cache LIMIT 1").fetchone()
        yield db


def store_so_far(folder: Path) -> AbstractContextManager[Store | None]:
    """The store in a folder, read-only; None if it does not exist yet."""
    return Store(folder, read_only=True) if folder.exists() else nullcontext()
