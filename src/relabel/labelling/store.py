"""The store: a durable folder of answers by request key. What is in it has been paid for.

It is a diskcache folder (SQLite), with two of that library's habits taken away: nothing is ever evicted, and nothing is
ever pickled. A row that claims to be a pickle is refused, because reading one can run code. Do not put it on a network
file system: SQLite's locks do not hold there.

Rows, each one JSON document:

    KEY                  the answer to the request with that key, with the request
    KEY/rejected/WHEN    an answer that was paid for and is no label: kept as evidence, never served
    text/SHA256          a system message, kept once for all requests that share it
    note/NAME            something found out about a server that requests depend on
    aside/KEY/WHEN       the text of a row that was damaged: kept as evidence, never read again

A row is served only if it is what its key says: the key is computed anew at each read from the request in the row. An answer
of a pack carries its `origin`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sqlite3
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import diskcache
from diskcache.core import MODE_PICKLE
from pydantic import ConfigDict, Field, ValidationError

from relabel.errors import StoreError, first_error
from relabel.files import make_private_dir
from relabel.label import Answer
from relabel.labelling.request import Request
from relabel.labelling.wire import FORMS, Api, messages_of, with_messages
from relabel.settings import Frozen

_NEVER_FULL = 2**62
_NEVER_A_FILE = 2**30
"""Bytes; smaller values lie in the database itself, where none can get lost on its own."""
_SPELLING = json.JSONEncoder(separators=(",", ":"))
REJECTED = "/rejected/"
TEXT = "text/"
NOTE = "note/"
ASIDE = "aside/"
_KEY = re.compile(r"[0-9a-f]{64}(/rejected/[0-9T:.+-]{1,40})?")
_NOTE = re.compile(r"note/form/(chat|responses)/[^\x00-\x1f]{1,500}")
"""The one kind of note: the form in which a server takes requests."""


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
        if filename:  # relabel writes none, and the name may be any
            raise ValueError("a row names a file")
        return super().fetch(mode, filename, value, read)


class DamagedRowError(StoreError):
    """A row cannot be understood. It is never served."""


class _Wire(Frozen):
    """A request as a row keeps it. There is no place for a key: it is always computed."""

    model_config = ConfigDict(strict=True)

    api: Api
    host: str
    body: dict[str, Any]
    sample: int = Field(ge=0)


class _Why(Frozen):
    model_config = ConfigDict(strict=True)

    kind: str
    reason: str


class AnswerRow(Frozen):
    """A row of an answer, checked for its form. That it is what its key says, `key_of` tells."""

    format: int = Field(ge=1, le=1)
    request: _Wire
    answer: Answer
    origin: str | None = Field(default=None, max_length=200)
    rejected: _Why | None = None

    def whole_request(self, texts: Mapping[str, str]) -> Request:
        """The request as it went over the wire.

        Raises:
            DamagedRowError: It lacks a message.
        """
        try:
            messages = [
                {"role": m["role"], "content": texts[m["sha256"]]} if "sha256" in m else m
                for m in messages_of(self.request.body)
            ]
            body = with_messages(self.request.body, messages)
            return Request(self.request.host, body, self.request.sample, self.request.api)
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise DamagedRowError(f"its request cannot be read ({type(error).__name__}: {error})") from error


def checked_answer(key: str, row: object, texts: Mapping[str, str]) -> AnswerRow:
    """A row of an answer that is what its key says.

    Args:
        key: The row's key.
        row: What the row holds.
        texts: The shared messages, by hash.

    Raises:
        DamagedRowError: It is something else.
    """
    if not _KEY.fullmatch(key):
        raise DamagedRowError(f"the row {_brief(key)} has no key of relabel's")
    try:
        found = AnswerRow.model_validate(row)
        request_key = found.whole_request(texts).key
    except ValidationError as error:
        raise DamagedRowError(f"the answer {key} is damaged ({first_error(error)})") from error
    except DamagedRowError as error:
        raise DamagedRowError(f"the answer {key} is damaged: {error}") from error
    asked = key.split("/", maxsplit=1)[0]
    if request_key != asked:
        raise DamagedRowError(f"the answer {key} belongs to a request with the key {request_key}")
    if found.answer.request_key != asked:
        raise DamagedRowError(f"the answer {key} was given to the request {_brief(found.answer.request_key)}")
    if (REJECTED in key) != (found.rejected is not None):
        raise DamagedRowError(f"the answer {key} is not marked as its key says")
    return found


def checked_text(key: str, row: object) -> str:
    """A shared message that is what its key says.

    Raises:
        DamagedRowError: It is something else.
    """
    content = row.get("content") if isinstance(row, dict) and len(row) == 1 else None
    if not isinstance(content, str) or TEXT + _sha256(content) != key:
        raise DamagedRowError(f"the message {_brief(key)} is not what its key says")
    return content


def checked_note(key: str, row: object) -> str:
    """The value of a note of a kind that relabel writes.

    Raises:
        DamagedRowError: It is something else.
    """
    value = row.get("value") if isinstance(row, dict) else None
    if not _NOTE.fullmatch(key) or value not in FORMS:
        raise DamagedRowError(f"the note {_brief(key)} is not one that relabel writes")
    return str(value)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _brief(text: str) -> str:
    return repr(text[:100])


class StoreStats(Frozen):
    """What a store holds.

    Attributes:
        from_packs: Answers and rejected ones that were unpacked, by pack.
        damaged: Rows that are not what their key says.
        aside: Damaged rows that were set aside.
        cost_usd: Known costs of all answers, rejected ones included and those of packs left out: somebody else paid for them.
        cost_unknown: Answers of unknown cost, those of packs left out.
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
        self._texts: dict[str, str] = {}
        self._written: set[str] = set()
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
            row = self.checked(key)
        except DamagedRowError:
            self.damaged.add(key)
            return None
        return None if row is None else _answer_of(row)

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
            self.set_aside(request.key)
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

    def note(self, name: str) -> str | None:
        """What was noted under a name; None when nothing was, or nothing that relabel notes."""
        try:
            document = self._load(NOTE + name)
            return None if document is None else checked_note(NOTE + name, document)
        except DamagedRowError:
            self.damaged.add(NOTE + name)
            return None

    def put_note(self, name: str, value: str) -> None:
        """Note something that requests depend on and that only asking can tell."""
        self._save(NOTE + name, {"value": value})

    def notes(self) -> Iterator[str]:
        """Every note: its name, with its value where it is one that relabel writes."""
        for key in self._keys():
            if key.startswith(NOTE):
                value = self.note(key.removeprefix(NOTE))
                yield key.removeprefix(NOTE) + (" is not a note of relabel's" if value is None else f" = {value}")

    def drop_notes(self) -> int:
        """Forget every note: what it said is found out anew. Returns their number."""
        keys = [key for key in self._keys() if key.startswith(NOTE)]
        for key in keys:
            self._delete(key)
        return len(keys)

    def request(self, key: str) -> dict[str, Any] | None:
        """The request behind an answer, whole, as it went over the wire; None when the key is unknown."""
        row = self.checked(key)
        if row is None:
            return None
        wire = row.request
        whole = row.whole_request(self._texts)
        return {"api": wire.api, "host": wire.host, "body": dict(whole.body), "sample": wire.sample}

    def keys(self) -> Iterator[str]:
        """Every key, in the order in which rows came."""
        yield from self._keys()

    def newest(self, most: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows that came last, answers alone, the newest first; no more than so many rows are looked at."""
        for key in islice(reversed(self._cache), most):
            if (
                not str(key).startswith((TEXT, NOTE, ASIDE))
                and REJECTED not in str(key)
                and (row := self.row(str(key)))
            ):
                yield str(key), row

    def rejected_keys(self, of: Container[str]) -> list[str]:
        """Keys of answers to these requests that were paid for and are not labels."""
        return [key for key in self._keys() if REJECTED in key and key.partition(REJECTED)[0] in of]

    def row(self, key: str) -> dict[str, Any] | None:
        """A row as it is kept, of an answer with its shared messages by hash; None when it is not there, or not what its key says."""
        try:
            whole = key.startswith((TEXT, NOTE, ASIDE)) or self.checked(key) is not None
            return self._load(key) if whole else None
        except DamagedRowError:
            self.damaged.add(key)
            return None

    def checked(self, key: str) -> AnswerRow | None:
        """The row of an answer; None when there is none.

        Raises:
            DamagedRowError: It is not what its key says.
            StoreError: The row is a pickle, or the store cannot be read.
        """
        document = self._load(key)
        if document is None:
            return None
        for digest in digests_of(document):
            self._text(digest)
        return checked_answer(key, document, self._texts)

    def text(self, digest: str) -> str | None:
        """A shared message; None when there is none, or it is not what its key says."""
        self._text(digest)
        return self._texts.get(digest)

    def add_row(self, key: str, row: dict[str, Any]) -> bool:
        """Add a row of a pack that has been checked; False when there is one already, which stands unless it is damaged."""
        if key.startswith(TEXT):
            self._save(key, row)
            return True
        if key.startswith(NOTE):
            return self._add(key, row)
        if self._add(key, row):
            return True
        if self.get(key) is not None or key not in self.damaged:
            return False
        self.set_aside(key)
        return self._add(key, row)

    def set_aside(self, key: str) -> None:
        """Move a damaged row out of the way: its text is kept as evidence, under a key that nothing reads."""
        try:
            text = self._cache.get(key)
        except (_PickleRefusedError, ValueError):
            text = None
        if isinstance(text, str):
            when = datetime.now(UTC).isoformat(timespec="microseconds")
            self._put_text(f"{ASIDE}{key[:200]}/{when}", text)
        self._delete(key)
        self.damaged.discard(key)

    def set_pickles_aside(self) -> int:
        """Delete, unread, rows that are pickled or name a file: reading one could run code. Returns their number."""
        try:
            unread = "DELETE FROM Cache WHERE raw = 0 OR mode = ? OR filename IS NOT NULL"
            gone = self._cache._sql(unread, (MODE_PICKLE,))  # pyright: ignore[reportPrivateUsage]  diskcache would read them
            return int(gone.rowcount)
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._fail(error)

    def stats(self) -> StoreStats:
        """Count what is there. Reads every row."""
        models: Counter[str] = Counter()
        packs: Counter[str] = Counter()
        answers = rejected = unknown = aside = 0
        cost = 0.0
        for key in self._keys():
            aside += key.startswith(ASIDE)
            if key.startswith((TEXT, NOTE, ASIDE)):
                continue
            try:
                row = self.checked(key)
            except DamagedRowError:
                self.damaged.add(key)
                continue
            if row is None:
                continue
            answer = _answer_of(row)
            if row.rejected:
                rejected += 1
            else:
                answers += 1
                models[answer.model_returned or "unknown"] += 1
            if row.origin is not None:
                packs[row.origin] += 1
            elif answer.cost_usd is None:
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
            from_packs=dict(packs.most_common()),
            damaged=len(self.damaged),
            aside=aside,
        )

    def verify(self) -> Iterator[str]:
        """Read everything and say, a sentence each, what is wrong. Rows that are not what their key says go into `damaged`."""
        try:
            for row in self._cache._sql("PRAGMA integrity_check").fetchall():  # pyright: ignore[reportPrivateUsage]  diskcache's check() would also repair
                if row[0] != "ok":
                    yield f"SQLite: {row[0]}"
        except sqlite3.Error as error:
            yield f"SQLite: {error}"
            return
        for key in self._keys():
            try:
                if key.startswith(ASIDE):
                    continue
                if (document := self._load(key)) is None:
                    raise DamagedRowError(f"the row {_brief(key)} has lost its value")
                if key.startswith(TEXT):
                    checked_text(key, document)
                elif key.startswith(NOTE):
                    checked_note(key, document)
                else:
                    self.checked(key)
            except DamagedRowError as error:
                self.damaged.add(key)
                yield str(error)
            except StoreError as error:
                yield f"the row {_brief(key)}: {error}"

    def _keys(self) -> Iterator[str]:
        try:
            for key in self._cache.iterkeys():
                yield str(key)
        except _PickleRefusedError as error:
            raise StoreError(self._pickle_message(error)) from error
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._fail(error)

    def _document(self, request: Request, answer: Answer) -> dict[str, Any]:
        slim: list[dict[str, str]] = []
        for message in messages_of(request.body):
            if message["role"] != "system":
                slim.append(message)
                continue
            digest = _sha256(message["content"])
            if digest not in self._written:
                self._save(TEXT + digest, {"content": message["content"]})
                self._written.add(digest)
            slim.append({"role": "system", "sha256": digest})
        body = with_messages(request.body, slim)
        wire = {"api": request.api, "host": request.host, "body": body, "sample": request.sample}
        return {"format": 1, "request": wire, "answer": answer.model_dump()}

    def _text(self, digest: str) -> None:
        if digest not in self._texts:
            try:
                document = self._load(TEXT + digest)
                if document is not None:
                    self._texts[digest] = checked_text(TEXT + digest, document)
            except DamagedRowError:
                self.damaged.add(TEXT + digest)

    def _load(self, key: str) -> Any:
        try:
            text = self._cache.get(key)
            return None if text is None else json.loads(str(text))
        except _PickleRefusedError as error:
            raise StoreError(self._pickle_message(error)) from error
        except (ValueError, RecursionError) as error:
            raise DamagedRowError(f"the row {_brief(key)} is no JSON") from error
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._fail(error)

    def _save(self, key: str, document: dict[str, Any]) -> None:
        self._put_text(key, _SPELLING.encode(document))

    def _put_text(self, key: str, text: str) -> None:
        try:
            self._cache.set(key, text)
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._fail(error)

    def _delete(self, key: str) -> None:
        try:
            self._cache.delete(key)
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


def digests_of(document: Any) -> list[str]:
    """Hashes of the shared messages that a row of an answer refers to; empty where it is damaged."""
    try:
        return [m["sha256"] for m in messages_of(document["request"]["body"]) if isinstance(m.get("sha256"), str)]
    except (KeyError, TypeError, AttributeError):
        return []


def _answer_of(row: AnswerRow) -> Answer:
    changes: dict[str, Any] = {} if row.origin is None else {"origin": row.origin}
    cost = row.answer.cost_usd
    if cost is not None and not (math.isfinite(cost) and cost >= 0):  # a sum must not be spoilt by one row
        changes["cost_usd"] = None
    return row.answer.model_copy(update=changes) if changes else row.answer
