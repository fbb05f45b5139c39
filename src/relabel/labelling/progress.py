"""How far a job has come and how fast it goes: plain numbers that a display can read at any time."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from relabel.labelling.limiter import Limiter
from relabel.labels import Answer, FailureKind, Usage
from relabel.manifest import Tokens


@dataclass
class Progress:
    """Counts of a running job. The job writes them, a display reads them.

    Attributes:
        asked: Labels wanted.
        from_store: Labels that the store answered.
        fresh: Labels bought by this run.
        failed: Missing labels by kind.
        flying: Requests on the wire, by key: what is asked, and since when on the job's clock.
        prompt_tokens: Tokens bought by this run; `cached_tokens` of them were read from the provider's prefix cache and
            `written_tokens` written to it.
        cost_usd: Cost of this run; None once an answer's price is unknown.
        table_usd: The same by the price table, where providers state costs of their own.
        repaired: Labels from answers that were asked for again; `unwrapped` those that were read from within other text, and
            `label_first` those that were written before their reason.
        uncounted: Answers bought whose tokens the server did not count, or counted in a way that cannot be true.
        unasked: Those of the missing labels that nobody was asked for.
        doing: What is done once nothing more is asked: `naming` what is missing, `writing` the run folder.
    """

    asked: int
    from_store: int = 0
    fresh: int = 0
    failed: Counter[FailureKind] = field(default_factory=Counter[FailureKind])
    in_flight: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = 0.0
    table_usd: float | None = 0.0
    repaired: int = 0
    unwrapped: int = 0
    label_first: int = 0
    unasked: int = 0
    uncounted: int = 0
    doing: Literal["", "naming", "writing"] = ""

    @property
    def done(self) -> int:
        """Labels that are decided one way or the other."""
        return self.from_store + self.fresh + self.failed.total()

    @property
    def tokens(self) -> Tokens:
        """Tokens bought by this run, as a manifest has them."""
        share = round(self.cached_tokens / self.prompt_tokens, 4) if self.prompt_tokens else None
        return Tokens(
            prompt=self.prompt_tokens,
            cached=self.cached_tokens,
            written=self.written_tokens,
            completion=self.completion_tokens,
            reasoning=self.reasoning_tokens,
            cached_share=share,
        )

    def used(self, usage: Usage) -> None:
        """Count tokens that were paid for."""
        self.prompt_tokens += usage.prompt
        self.cached_tokens += usage.cached
        self.written_tokens += usage.written
        self.completion_tokens += usage.completion
        self.reasoning_tokens += usage.reasoning

    def bought(self, answer: Answer) -> None:
        """Count an answer that this run paid for."""
        self.used(answer.usage)
        self.uncounted += answer.usage.prompt + answer.usage.completion == 0
        table = answer.cost_usd if answer.table_usd is None else answer.table_usd
        self.cost_usd = None if self.cost_usd is None or answer.cost_usd is None else self.cost_usd + answer.cost_usd
        self.table_usd = None if self.table_usd is None or table is None else self.table_usd + table


FEWEST = 3
"""Answers before a speed is told."""
ENOUGH = 20
"""Answers that a speed is taken from, where they come fast enough."""
WINDOW_S = 30.0
"""Seconds that it is taken from at least, where answers come faster."""
_BURST = 20


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Where a job was at a time.

    Attributes:
        at: Seconds on the clock.
        asked: Labels that somebody was asked for, with or without success.
        free: Labels that were decided without asking anybody: by the store, mostly.
    """

    at: float
    asked: int
    free: int


class RateEstimator:
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
        nothing_sent = not mark.asked and not self.progress.in_flight
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

    def _mark(self) -> _Snapshot:
        p = self.progress
        return _Snapshot(self._clock(), p.fresh + p.failed.total() - p.unasked, p.from_store + p.unasked)

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
