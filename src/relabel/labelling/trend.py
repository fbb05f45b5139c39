"""How fast a running job goes, and what is left of it: what a display makes of plain numbers, looked at from time to time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from relabel.labelling.engines.limits import Limiter
from relabel.labelling.progress import Progress

FEWEST = 3
"""Answers before a speed is told."""
ENOUGH = 20
"""Answers that a speed is taken from, where they come fast enough."""
WINDOW_S = 30.0
"""Seconds that it is taken from at least, where answers come faster."""
_BURST = 20


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where a job was at a time.

    Attributes:
        at: Seconds on the clock.
        asked: Labels that somebody was asked for, with or without success.
        free: Labels that were decided without asking anybody: by the store, mostly.
    """

    at: float
    asked: int
    free: int


class Trend:
    """The speed of a job, from its last answers.

    What the store knows comes much faster than an answer, and mostly in one go: while it gives most of the labels nothing is
    foreseen, because nobody knows how much of the rest it has, and the speed is taken from what comes afterwards.

    Args:
        progress: The job's numbers.
        limiter: How fast it may ask; None where nothing of ours bounds that.
        clock: Seconds on a clock that never runs back.
    """

    def __init__(
        self, progress: Progress, limiter: Limiter | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.progress, self.limiter = progress, limiter
        self._clock = clock
        self._marks = deque([self._mark()])

    def look(self) -> None:
        """See how far the job is now."""
        mark, last = self._mark(), self._marks[-1]
        asked, free = mark.asked - last.asked, mark.free - last.free
        nothing_sent = not mark.asked and not self.progress.flying
        if nothing_sent or free > _BURST + 4 * asked:
            self._marks.clear()
        elif not asked and not free:
            return
        self._marks.append(mark)
        marks = self._marks
        while len(marks) > 2 and mark.at - marks[1].at >= WINDOW_S and mark.asked - marks[1].asked >= ENOUGH:
            marks.popleft()

    @property
    def rate(self) -> float | None:
        """Labels a second, of those that are asked for; None until some have come."""
        asked = self._marks[-1].asked - self._marks[0].asked
        seconds = self._marks[-1].at - self._marks[0].at
        rate = asked / seconds if asked >= FEWEST and seconds > 0 else math.inf
        rate = min(rate, self._cap()) if asked else math.inf
        return None if rate == math.inf else rate

    @property
    def fresh_left(self) -> float | None:
        """Labels that are still to be asked for, where the store has as much of the rest as of the last; None while unknown."""
        if self.rate is None:
            return None
        asked, free = (
            self._marks[-1].asked - self._marks[0].asked,
            self._marks[-1].free - self._marks[0].free,
        )
        return (self.progress.asked - self.progress.done) * asked / (asked + free)

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end; None while unknown."""
        if self.rate is None or self.fresh_left is None:
            return None
        return max(self.fresh_left / self.rate, self.limiter.paused_s if self.limiter else 0.0)

    @property
    def cost_at_end(self) -> float | None:
        """The run's whole cost in USD, as far as it can be foreseen; None while unknown."""
        cost, fresh = self.progress.cost_usd, self.progress.fresh
        if cost is None or not fresh or self.fresh_left is None:
            return None
        return cost + cost / fresh * self.fresh_left

    def _mark(self) -> _Mark:
        p = self.progress
        return _Mark(self._clock(), p.fresh + p.failed.total() - p.unasked, p.from_store + p.unasked)

    def _cap(self) -> float:
        """Labels a second that the user's own limits allow."""
        p, limiter = self.progress, self.limiter
        asked = p.fresh + p.failed.total() - p.unasked
        cap = math.inf
        if limiter is None:
            return cap
        if limiter.rpm and limiter.returned:
            cap = limiter.rpm / 60 * asked / limiter.returned  # a request may ask for several, and may be sent again
        tokens = p.prompt_tokens + p.completion_tokens
        if limiter.tpm and tokens and asked:
            cap = min(cap, limiter.tpm / 60 * asked / tokens)
        return cap
