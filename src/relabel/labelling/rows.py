"""Format of the store's rows, and their verification: every row is verified here before it is used.

    KEY                  the answer to the request with that key, with the request
    KEY/rejected/TIME    a paid but invalid answer: kept as evidence, never used
    text/SHA256          a system message, stored once for all requests that share it
    note/NAME            the response format that a server accepts
    aside/KEY/TIME       the text of a damaged row: kept as evidence, never read again

Each is a JSON document with a checksum of its text, which detects damage on the disk. Rows of version 0.1 have no checksum.

A row is used only if it matches its key: on each read, the key is recomputed from the request in the row. An answer from a
pack has an `origin`, which names the pack.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from relabel.errors import StoreError, first_error
from relabel.labelling.request import Request, key_of
from relabel.labelling.wire import FORMS, Api, messages_of, with_messages
from relabel.labels import Answer
from relabel.settings import Frozen, Strict

# Finds a shared message by hash; None if it is missing.
FindText = Callable[[str], str | None]
REJECTED = "/rejected/"
TEXT = "text/"
NOTE = "note/"
ASIDE = "aside/"
_KEY = re.compile(r"[0-9a-f]{64}(/rejected/[0-9T:.+-]{1,40})?")
_SPELLING = json.JSONEncoder(separators=(",", ":"), default=Answer.model_dump)
_WRITER = TypeAdapter(dict[str, Any])
_SEAL = re.compile(r'\{"sum":"([0-9a-f]{16})",')
# The only kind of note: the response format that a server accepts.
_NOTE = re.compile(r"note/form/(chat|responses)/[^\x00-\x1f]{1,500}")


class DamagedRowError(StoreError):
    """A row is damaged, and is never used."""


class _Wire(Strict):
    """The request in a row, without its key, which is always computed."""

    api: Api
    host: str
    body: dict[str, Any]
    sample: int = Field(ge=0)


class _Rejection(Strict):
    kind: str
    reason: str


class AnswerRow(Frozen):
    """An answer's row in a valid format; `checked_answer` also verifies it against its key, and sets the answer's origin."""

    format: int = Field(ge=1, le=1)
    request: _Wire
    answer: Answer
    origin: str | None = Field(default=None, max_length=200)
    rejected: _Rejection | None = None

    def request_document(self, text: FindText) -> dict[str, Any]:
        """The document of the request, as it was sent; in an unverified row, any part may be missing."""
        messages = [
            {"role": m["role"], "content": text(m["sha256"])} if "sha256" in m else m
            for m in messages_of(self.request.body)
        ]
        return {**vars(self.request), "body": with_messages(self.request.body, messages)}


def checked_answer(key: str, row: object, text: FindText, request: Request | None = None) -> AnswerRow:
    """Verify an answer's row against its key.

    Args:
        key: The row's key.
        row: The row: its JSON document, or an `AnswerRow`.
        text: Finds a shared message by hash.
        request: The request with this key, if known: a row with an equal request need not be hashed, which is faster.

    Raises:
        DamagedRowError: The row does not match its key.
    """
    if not _KEY.fullmatch(key):
        raise DamagedRowError(f"the row {brief(key)} has an unknown key")
    try:
        answer_row = AnswerRow.model_validate(row)
        document = answer_row.request_document(text)
        request_key = request.key if request is not None and document == request.document else key_of(document)
    except ValidationError as error:
        raise DamagedRowError(f"the answer {key} is damaged ({first_error(error)})") from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        reason = f"its request cannot be read, {type(error).__name__}: {error}"
        raise DamagedRowError(f"the answer {key} is damaged ({reason})") from error
    if request_key != key.partition("/")[0]:
        raise DamagedRowError(f"the answer {key} belongs to a request with the key {request_key}")
    if answer_row.answer.request_key != request_key:
        raise DamagedRowError(f"the answer {key} was given to the request {brief(answer_row.answer.request_key)}")
    if (REJECTED in key) != (answer_row.rejected is not None):
        raise DamagedRowError(f"the answer {key} is marked as rejected in its key or in its content, but not in both")
    cost = answer_row.answer.cost_usd
    invalid = cost is not None and not (math.isfinite(cost) and cost >= 0)  # would spoil every sum of costs
    if not invalid and answer_row.origin is None:
        return answer_row
    answer = answer_row.answer.model_copy(update={"origin": answer_row.origin, "cost_usd": None if invalid else cost})
    return answer_row.model_copy(update={"answer": answer})


def checked_text(key: str, row: object) -> str:
    """Verify a shared message against its key, and return it.

    Raises:
        DamagedRowError: It does not match its key.
    """
    content = row.get("content") if isinstance(row, dict) and len(row) == 1 else None
    if not isinstance(content, str) or TEXT + sha256_of(content) != key:
        raise DamagedRowError(f"the message {brief(key)} does not match its key")
    return content


def checked_note(key: str, row: object) -> str:
    """Verify a note, and return its value.

    Raises:
        DamagedRowError: It is not a note that relabel writes.
    """
    value = row.get("value") if isinstance(row, dict) and len(row) == 1 else None
    if not _NOTE.fullmatch(key) or value not in FORMS:
        raise DamagedRowError(f"the note {brief(key)} is not one that relabel writes")
    return str(value)


def checked(key: str, row: object, text: FindText) -> AnswerRow | str:
    """Verify a row of any kind against its key; a shared message and a note are returned as text."""
    if key.startswith(TEXT):
        return checked_text(key, row)
    return checked_note(key, row) if key.startswith(NOTE) else checked_answer(key, row, text)


def sha256_of(text: str) -> str:
    """Hash of a shared message, by which it is stored."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def brief(text: str) -> str:
    """A text from outside, quoted and shortened for a message."""
    return repr(text[:100])


def digests_of(document: Any) -> list[str]:
    """Hashes of the shared messages that a row of an answer refers to; empty if it is damaged."""
    try:
        return [m["sha256"] for m in messages_of(document["request"]["body"]) if isinstance(m.get("sha256"), str)]
    except (KeyError, TypeError, AttributeError):
        return []


def sealed(document: dict[str, Any]) -> str:
    """The text of a row: its document as JSON, with a checksum."""
    try:
        text = _WRITER.dump_json(document).decode()[1:]
    except ValueError:  # a lone surrogate, which only Python's writer escapes
        text = _SPELLING.encode(document)[1:]
    return f'{{"sum":"{sha256_of(text)[:16]}",{text}'


def _unsealed(key: str, text: str) -> str:
    if (seal := _SEAL.match(text)) is None:
        return text
    text = text[seal.end() :]
    if sha256_of(text)[:16] != seal[1]:
        raise DamagedRowError(f"the row {brief(key)} has changed since it was written")
    return "{" + text


def document_of(key: str, text: str) -> Any:
    """The document in the text of a row.

    Raises:
        DamagedRowError: The text is not JSON, or differs from its checksum.
    """
    try:
        return json.loads(_unsealed(key, text))
    except (ValueError, RecursionError) as error:
        raise DamagedRowError(f"the row {brief(key)} is not JSON") from error


def parsed(key: str, text: str) -> object:
    """The document in an answer's row, for `checked_answer`, parsed and validated in one step if possible, which is faster."""
    try:
        return AnswerRow.model_validate_json(_unsealed(key, text))
    except ValidationError:  # invalid, or with a lone surrogate, which only Python's parser reads
        return document_of(key, text)


def is_answer(key: str) -> bool:
    """Whether a key is that of an answer, and neither of a rejected one nor of another kind of row."""
    return not key.startswith((TEXT, NOTE, ASIDE)) and REJECTED not in key
