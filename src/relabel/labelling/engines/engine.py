"""What every engine does: turn a request into an answer, or say why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from relabel.label import Answer, FailureKind
from relabel.labelling.providers import ErrorMeaning
from relabel.labelling.request import Request
from relabel.redaction import clean


class NoAnswerError(Exception):
    """There is no answer to one request; the run goes on.

    Attributes:
        kind: The kind of failure.
        attempts: Requests sent.
        status: HTTP status of the last reply; 0 when the server could not be reached at all; None when that is not
            what went wrong.
        meaning: What the provider's error is about, where there was one.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        attempts: int,
        *,
        status: int | None = None,
        meaning: ErrorMeaning | None = None,
    ) -> None:
        super().__init__(clean(message))
        self.kind: FailureKind = kind
        self.attempts = attempts
        self.status = status
        self.meaning: ErrorMeaning | None = meaning


@dataclass(frozen=True, slots=True)
class Repair:
    """A second try: the answer that was no label, and why."""

    answer: str
    reason: str


Flies = Callable[[bool], None]
"""Told True when a request goes on the wire, and False when it is off it again, whatever came of it.

What it raises at True keeps the request from being sent."""


class Engine(Protocol):
    """Turns requests into answers."""

    name: str

    async def ask(self, request: Request, repair: Repair | None = None, *, flies: Flies | None = None) -> Answer:
        """Get the answer to one request.

        Args:
            request: What to ask.
            repair: An earlier answer to it that was no label: the model is shown it with the error.
            flies: Told when the request is on the wire: before and between, it waits for its turn and nothing is lost
                by leaving it.

        Raises:
            NoAnswerError: This request has no answer.
            ProviderError: No request will have one: key, quota or model are refused.
        """
        ...

    def history(self) -> tuple[tuple[float, int, str], ...]:
        """How the number of requests in flight was found: seconds from the start, the limit, and why it changed."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
