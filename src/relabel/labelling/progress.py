"""How far a job has come: plain numbers that a display can read at any time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from relabel.label import Answer, FailureKind


@dataclass
class Progress:
    """Counts of a running job. The job writes them, a display reads them.

    Attributes:
        asked: Labels wanted.
        from_store: Labels that the store answered.
        fresh: Labels bought by this run.
        failed: Missing labels by kind.
        flying: Requests on the wire, by key: what is asked, and since when on the job's clock.
        prompt_tokens: Tokens bought by this run; `cached_tokens` of them at the provider's cache price.
        cost_usd: Cost of this run; None once an answer's price is unknown.
        fresh_seconds: Seconds on the job's clock from the first request to the last answer.
    """

    asked: int
    from_store: int = 0
    fresh: int = 0
    failed: Counter[FailureKind] = field(default_factory=Counter[FailureKind])
    flying: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    fresh_seconds: float = 0.0

    @property
    def done(self) -> int:
        """Labels that are decided one way or the other."""
        return self.from_store + self.fresh + self.failed.total()

    @property
    def rate(self) -> float | None:
        """Fresh outcomes a second; None before the first."""
        outcomes = self.fresh + self.failed.total()
        return outcomes / self.fresh_seconds if outcomes and self.fresh_seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time to the end, as if none of the rest were in the store."""
        return (self.asked - self.done) / self.rate if self.rate else None

    @property
    def cost_at_end(self) -> float | None:
        """Estimate of the run's whole cost, as if none of the rest were in the store; None before the first answer."""
        if self.cost_usd is None or not self.fresh:
            return None
        return self.cost_usd / self.fresh * (self.asked - self.from_store - self.failed.total())

    def bought(self, answer: Answer) -> None:
        """Count an answer that this run paid for."""
        self.prompt_tokens += answer.usage.prompt
        self.cached_tokens += answer.usage.cached
        self.completion_tokens += answer.usage.completion
        if self.cost_usd is not None:
            self.cost_usd = None if answer.cost_usd is None else self.cost_usd + answer.cost_usd
