"""The replay engine: answers come from the store alone, nothing is asked."""

from __future__ import annotations

from relabel.label import Answer
from relabel.labelling.engines.engine import Flies, NoAnswerError, Repair
from relabel.labelling.request import Request


class ReplayEngine:
    """Refuses every request that the store does not answer, so that a run needs neither network nor key."""

    name = "replay"

    async def ask(self, request: Request, repair: Repair | None = None, *, flies: Flies | None = None) -> Answer:
        """Refuse: the job asks an engine only for what the store lacks."""
        del repair, flies
        raise NoAnswerError(
            "provider", f"the store has no answer with the key {request.key}, and replay asks nobody", 0
        )

    def history(self) -> tuple[tuple[float, int, str], ...]:
        """None: nothing is asked."""
        return ()

    async def close(self) -> None:
        """Nothing is open."""
