"""What every engine does: turn a request into an answer, or say why there is none."""

from __future__ import annotations

from typing import Protocol

from relabel.label import Answer, FailureKind
from relabel.labelling.request import Request


class NoAnswerError(Exception):
    """There is no answer to one request; the run goes on.

    Attributes:
        kind: The kind of failure.
        attempts: Requests sent.
        unreachable: True when the server could not be reached at all.
    """

    def __init__(self, kind: FailureKind, message: str, attempts: int, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.attempts = attempts
        self.unreachable = unreachable


class Engine(Protocol):
    """Turns requests into answers."""

    name: str

    async def ask(self, request: Request) -> Answer:
        """Get the answer to one request.

        Raises:
            NoAnswerError: This request has no answer.
            ProviderError: No request will have one: key, quota or model are refused.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
