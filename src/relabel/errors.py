"""Every error that a user can meet, with its exit code.

    RelabelError
    |-- UsageError            2   the command or its options are wrong
    |-- DataError             3   a file, a data set, a rubric or a store is bad
    |   |-- ChecksumError         a file is not the one that the registry names
    |   |-- ColumnError           a file lacks a column
    |   |-- SourceMissingError    a source file is not here and could not be fetched
    |   |-- RubricError           a rubric or prompt breaks its own rules
    |   `-- StoreError            the store of answers cannot be read or written
    |-- ProviderError         4   the provider refused or failed permanently
    |-- IncompleteRunError    5   some labels are missing; the run folder says which
    |-- GateError             6   an eval gate failed
    `-- RunInterruptedError 130   stopped by the user; state saved

The message of each is one sentence that says what is wrong and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError

from relabel.redaction import clean

WEB_ADDRESS = r"^https?://[^/\s]"
# What a value that breaks the pattern of a field must be.
_PATTERNS = {
    r"^[a-z0-9][a-z0-9-]*$": "must consist of lower-case letters, digits and hyphens, without a hyphen in front",
    r"^[a-z0-9][a-z0-9._-]*$": "must consist of lower-case letters, digits and . _ -, with a letter or digit in front",
    r"^\d\d$": "must be a SOC major group of two digits, such as 15",
    WEB_ADDRESS: "must be an address that begins with http:// or https://",
    r"^[0-9a-f]{64}$": "must be a sha256 of 64 digits and letters from a to f",
}


def plain_fault(fault: Mapping[str, Any]) -> str:
    """A pydantic error message in plain words: `Input should be 1` becomes `must be 1`."""
    text = (
        str(fault["msg"])
        .removeprefix("Value error, ")
        .replace("a valid tuple", "a list")
        .replace(" after validation", "")
    )
    return _PATTERNS.get(fault.get("ctx", {}).get("pattern", "")) or re.sub(r"^\w+ should ", "must ", text)


def first_error(error: ValidationError, words: Mapping[str, str] | None = None) -> str:
    """The first pydantic error, as `where: what`.

    Args:
        error: The validation error.
        words: For a YAML file, clearer messages by pydantic's type of error.
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")
    messages = {"missing": "is missing", **(words or {})}
    reason = messages.get(first["type"]) or plain_fault(first)
    if words is not None and first["type"] == "string_type" and isinstance(first["input"], int):
        read = "yes, no, on and off as true or false" if isinstance(first["input"], bool) else "digits as a number"
        reason += f" (YAML reads bare {read}: put it in quotes)"
    return f"{where}: {reason}" if where else reason


class RelabelError(Exception):
    """Base of all errors that relabel raises on purpose. Secrets are removed from messages."""

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str = "") -> None:
        super().__init__(clean(message))


class UsageError(RelabelError):
    """The command, an option or an argument is wrong."""

    exit_code = 2


class DataError(RelabelError):
    """Input or data cannot be used as they are."""


@contextmanager
def model_errors(
    before: str,
    after: str = "",
    *,
    words: Mapping[str, str] | None = None,
    refuse: type[DataError] = DataError,
    line_of: Callable[[Sequence[int | str]], int] | None = None,
) -> Generator[None]:
    """Turn pydantic's errors in the block into an error of ours.

    Args:
        before: Words before the first error.
        after: Words after it.
        words: As for `first_error`.
        refuse: Class of the error to raise.
        line_of: Gives the line of a place in the file, which is then named after `before`.
    """
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        if line_of is not None:
            place = error.errors(include_url=False)[0]["loc"]
            before += f" line {line_of(place)}: " if place else ": "
        raise refuse(f"{before}{first_error(error, words)}{after}") from error


class ChecksumError(DataError):
    """A file is not the one that the registry names."""

    def __init__(self, path: Path | str, wanted: str, found: str, advice: str) -> None:
        super().__init__(f"{path} is not the registered file: expected sha256 {wanted}, found {found}; {advice}")
        self.path, self.wanted, self.found = path, wanted, found


class ColumnError(DataError):
    """A file lacks columns that its reader needs.

    Args:
        path: The file.
        column: The first column that it lacks.
        present: Columns that it has.
        others: Further columns that it lacks.
        advice: What to do.
    """

    def __init__(
        self,
        path: Path | str,
        column: str,
        present: Sequence[str],
        *,
        others: Sequence[str] = (),
        advice: str = "check that it is the right file and release",
    ) -> None:
        shown = ", ".join([*map(repr, present[:40]), *(["..."] if len(present) > 40 else [])]) or "none"
        *first, last = map(repr, (column, *others))
        lacking = f"{', '.join(first)} and {last}" if first else last
        super().__init__(f"{path} has no column{'s' if others else ''} {lacking} (it has {shown}); {advice}")
        self.column = column


class SourceMissingError(DataError):
    """A source file is not on this machine, and could not be fetched.

    Args:
        message: What is wrong and what to do.
        reason: Why fetching failed, in a few words; empty where nothing was tried.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class RubricError(DataError):
    """A rubric or a prompt breaks its own rules."""


class StoreError(DataError):
    """The store of answers cannot be read or written."""


class ProviderError(RelabelError):
    """The provider refused or failed permanently: key, quota, model or address."""

    exit_code = 4


class IncompleteRunError(RelabelError):
    """Some labels are missing; the run folder names each of them."""

    exit_code = 5


class GateError(RelabelError):
    """A gate of an eval suite failed."""

    exit_code = 6


class RunInterruptedError(RelabelError):
    """The user stopped the run; what was paid for is saved."""

    exit_code = 130
