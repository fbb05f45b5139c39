"""The store: a durable folder of answers by request key. What is in it has been paid for.

It is a diskcache folder (SQLite), with two of that library's habits taken away: nothing is ever evicted, and nothing is
ever pickled. A row that claims to be a pickle is refused, because reading one can run code. Do not put it on a network
file system: SQLite's locks do not hold there.

Rows, each one JSON document:

    KEY                  the answer to the request with that key, with the request
    KEY/rejected/WHEN    an answer that was paid for and is no label: kept as evidence, never served
    text/SHA256          a system message, kept once for all requests that share it
    note/NAME            something found out about a server that requests depend on
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import diskcache
from diskcache.core import MODE_PICKLE
from pydantic import BaseModel, ConfigDict, ValidationError

from relabel.errors import StoreError
from relabel.files import make_private_dir
from relabel.label import Answer
from relabel.labelling.request import Request
from relabel.labelling.wire import messages_of, with_messages

_NEVER_FULL = 2**62
_NEVER_A_FILE = 2**30
"""Bytes; smaller values lie in the database itself, where none can get lost on its own."""
_SPELLING = json.JSONEncoder(separators=(",", ":"))
REJECTED = "/rejected/"
TEXT = "text/"
NOTE = "note/"


class _PickleRefusedError(Exception):
    pass


class _PlainDisk(diskcache.Disk):
    """A diskcache Disk that holds text by text and nothing else."""

    def put(self, key: Any) -> Any:
        if not isinstance(key, str):
            raise _PickleRefusedError(f"a key must be text, not {type(key).__name__}")
        return super().put(key)

    def get(self, key: Any, raw: Any) -> Any:
        if not raw or not isinstance(key, str):
            raise _PickleRefusedError("a row has a pickled key")
        return super().get(key, raw)

    def store(self, value: Any, read: Any, key: Any = diskcache.UNKNOWN) -> Any:
        if not isinstance(value, str):
            raise _PickleRefusedError(f"a value must be text, not {type(value).__name__}")
        return super().store(value, read, key)

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> Any:
        if mode == MODE_PICKLE or not (isinstance(value, str) or filename):
            raise _PickleRefusedError("a row holds a pickled value")
        return super().fetch(mode, filename, value, read)


class DamagedRowError(StoreError):
    """A row cannot be understood. It is never served."""


class StoreStats(BaseModel):
    """What a store holds. `damaged` counts rows that cannot be understood. `cost_usd` sums the known costs of all answers, rejected ones included."""

    model_config = ConfigDict(frozen=True)

    folder: str
    answers: int
    rejected: int
    by_model: dict[str, int]
    bytes: int
    cost_usd: float
    cost_unknown: int
    damaged: int


class Store:
    """A folder of answers by request key.

    Args:
        folder: The folder; made, private to the user, when it is missing.

    Raises:
        StoreError: The folder cannot be read or written, or is no store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: set[str] = set()
        self._data_version: int | None = None
        self._texts: set[str] = set()
        try:
            make_private_dir(folder)
            self._cache = diskcache.Cache(
                str(folder),
                disk=_PlainDisk,
                eviction_policy="none",
                size_limit=_NEVER_FULL,
                cull_limit=0,
                statistics=0,
                tag_index=0,
                disk_min_file_size=_NEVER_A_FILE,
            )
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._fail(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store's files."""
        self._cache.close()

    def get(self, key: str) -> Answer | None:
        """The answer to the request with this key, or None.

        A damaged row is never served: it is as good as none, and its key goes into `damaged`.

        Raises:
            StoreError: The row is a pickle, or the store cannot be read.
        """
        try:
            document = self._load(key)
            return None if document is None else self._answer(key, document)
        except DamagedRowError:
            self.damaged.add(key)
            return None

    def others_wrote(self) -> bool:
        """Whether another connection has written since this was last asked. Costs next to nothing."""
        try:
            version = self._cache._sql("PRAGMA data_version").fetchone()[0]  # pyright: ignore[reportPrivateUsage]  diskcache offers no way to ask
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._fail(error)
        before, self._data_version = self._data_version, version
        return version != before

    def has(self, key: str) -> bool:
        """Whether there is an answer under this key. It is not read."""
        try:
            return key in self._cache
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._fail(error)

    def keys_unless_more(self, than: int) -> set[str] | None:
        """Every key, to look many up in no time; None where there are more rows than so many."""
        try:
            found = self._cache._sql("SELECT key FROM Cache LIMIT ?", (than + 1,)).fetchall()  # pyright: ignore[reportPrivateUsage]  diskcache reads them one by one
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._fail(error)
        return None if len(found) > than else {key for (key,) in found}

    def put(self, request: Request, answer: Answer) -> bool:
        """Keep an answer. It is on disk when this returns.

        Returns:
            False when another answer to the request is there already: that one stands, and this one is kept as evidence.
        """
        document = self._document(request, answer)
        if request.key in self.damaged:
            self._save(request.key, document)
            self.damaged.discard(request.key)
            return True
        if self._add(request.key, document):
            return True
        self.put_rejected(request, answer, "duplicate", "another answer to this request was there first")
        return False

    def replace(self, request: Request, answer: Answer) -> None:
        """Let an answer stand in the place of one that is no label; that one is kept as evidence."""
        before = self.get(request.key)
        if before is not None:
            self.put_rejected(request, before, "outdated", "it no longer passes as a label")
        self._save(request.key, self._document(request, answer))

    def put_rejected(self, request: Request, answer: Answer, kind: str, reason: str) -> None:
        """Keep an answer that was paid for and is no label, with the reason."""
        document = self._document(request, answer) | {"rejected": {"kind": kind, "reason": reason}}
        self._save(f"{request.key}{REJECTED}{answer.created_at}", document)

    def note(self, name: str) -> Any:
        """What was noted under a name; None when nothing was."""
        document = self._load(NOTE + name)
        return None if document is None else document["value"]

    def put_note(self, name: str, value: Any) -> None:
        """Note something that requests depend on and that only asking can tell."""
        self._save(NOTE + name, {"value": value})

    def request(self, key: str) -> dict[str, Any] | None:
        """The request behind an answer, whole, as it went over the wire; None when the key is unknown."""
        document = self._load(key)
        if document is None:
            return None
        request = document["request"]
        for message in messages_of(request["body"]):
            if "sha256" in message:
                stored = self._load(TEXT + message.pop("sha256"))
                message["content"] = "" if stored is None else stored["content"]
        return request

    def keys(self) -> Iterator[str]:
        """Every key, in the order in which rows came."""
        yield from self._keys()

    def newest(self, most: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows that came last, answers alone, the newest first; no more than so many rows are looked at."""
        for key in islice(reversed(self._cache), most):
            if not str(key).startswith((TEXT, NOTE)) and REJECTED not in str(key):
                with suppress(DamagedRowError):
                    yield str(key), self._load(str(key)) or {}

    def row(self, key: str) -> dict[str, Any] | None:
        """A row as it is kept, its shared messages by hash; None when there is none."""
        return self._load(key)

    def add_row(self, key: str, row: dict[str, Any]) -> bool:
        """Add a row as it was kept elsewhere; False when there is one already, which stands."""
        return self._add(key, row)

    def stats(self) -> StoreStats:
        """Count what is there. Reads every row."""
        models: Counter[str] = Counter()
        answers = rejected = unknown = 0
        cost = 0.0
        for key, document in self._documents():
            try:
                answer = self._answer(key, document)
            except DamagedRowError:
                self.damaged.add(key)
                continue
            if REJECTED in key:
                rejected += 1
            else:
                answers += 1
                models[answer.model_returned or "unknown"] += 1
            if answer.cost_usd is None:
                unknown += 1
            else:
                cost += answer.cost_usd
        size = sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())
        return StoreStats(
            folder=str(self.folder),
            answers=answers,
            rejected=rejected,
            by_model=dict(models.most_common()),
            bytes=size,
            cost_usd=cost,
            cost_unknown=unknown,
            damaged=len(self.damaged),
        )

    def verify(self) -> Iterator[str]:
        """Read everything and say, a sentence each, what is wrong."""
        try:
            for row in self._cache._sql("PRAGMA integrity_check").fetchall():  # pyright: ignore[reportPrivateUsage]  diskcache's check() would also repair
                if row[0] != "ok":
                    yield f"SQLite: {row[0]}"
        except sqlite3.Error as error:
            yield f"SQLite: {error}"
            return
        for key in self._keys():
            try:
                document = self._load(key)
                if document is None:
                    yield f"the row {key} has lost its value"
                    continue
                if key.startswith((TEXT, NOTE)):
                    continue
                self._answer(key, document)
                whole = self.request(key)
                if whole is not None:
                    found = Request(**whole).key
                    if found != key.split("/")[0]:
                        yield f"the answer {key} belongs to a request with the key {found}"
            except DamagedRowError as error:
                yield str(error)
            except StoreError as error:
                yield f"the row {key}: {error}"
            except (TypeError, KeyError) as error:
                yield f"the request of {key} is damaged: {error}"

    def _keys(self) -> Iterator[str]:
        try:
            for key in self._cache.iterkeys():
                yield str(key)
        except _PickleRefusedError as error:
            raise StoreError(self._pickle_message(error)) from error
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._fail(error)

    def _documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for key in self._keys():
            if key.startswith((TEXT, NOTE)):
                continue
            try:
                document = self._load(key)
            except DamagedRowError:
                self.damaged.add(key)
                continue
            if document is not None:
                yield key, document

    def _document(self, request: Request, answer: Answer) -> dict[str, Any]:
        slim: list[dict[str, str]] = []
        for message in messages_of(request.body):
            if message["role"] != "system":
                slim.append(message)
                continue
            digest = hashlib.sha256(message["content"].encode()).hexdigest()
            if digest not in self._texts:
                self._save(TEXT + digest, {"content": message["content"]})
                self._texts.add(digest)
            slim.append({"role": "system", "sha256": digest})
        body = with_messages(request.body, slim)
        wire = {"api": request.api, "host": request.host, "body": body, "sample": request.sample}
        return {"format": 1, "request": wire, "answer": answer.model_dump()}

    def _answer(self, key: str, document: dict[str, Any]) -> Answer:
        try:
            return Answer.model_validate(document["answer"])
        except (KeyError, ValidationError) as error:
            raise DamagedRowError(f"the answer {key} is damaged") from error

    def _load(self, key: str) -> dict[str, Any] | None:
        try:
            text = self._cache.get(key)
            return None if text is None else json.loads(str(text))
        except _PickleRefusedError as error:
            raise StoreError(self._pickle_message(error)) from error
        except ValueError as error:
            raise DamagedRowError(f"the row {key} is no JSON") from error
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._fail(error)

    def _save(self, key: str, document: dict[str, Any]) -> None:
        try:
            self._cache.set(key, _SPELLING.encode(document))
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._fail(error)

    def _add(self, key: str, document: dict[str, Any]) -> bool:
        try:
            return bool(self._cache.add(key, _SPELLING.encode(document)))
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._fail(error)

    def _pickle_message(self, error: Exception) -> str:
        return (
            f"{error} in the store {self.folder}: relabel never writes one, so somebody else did, and reading it could run code; "
            "move the folder away, or restore it from a copy"
        )

    def _fail(self, error: Exception) -> NoReturn:
        if isinstance(error, diskcache.Timeout):
            reason, advice = "another program has locked it", "wait for that program or stop it"
        elif isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            reason, advice = str(error), "it is damaged or no store; move it away or restore it from a copy"
        else:
            reason = getattr(error, "strerror", None) or str(error)
            advice = "free space, mend the permissions, or name another folder with RELABEL_STORE"
        raise StoreError(f"cannot use the store {self.folder} ({reason}); {advice}") from error
