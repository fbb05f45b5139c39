"""How far a job has come: plain numbers that a display can read at any time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from relabel.label import Answer, FailureKind
from relabel.run import Tokens


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
        repaired: Labels from answers that were asked for again; `unwrapped` those that were read from within other text.
        uncounted: Answers bought whose tokens the server did not count, or counted in a way that cannot be true.
        unasked: Those of the missing labels that nobody was asked for.
        doing: What is done once nothing more is asked: `naming` what is missing, `writing` the run folder.
    """

    asked: int
    from_store: int = 0
    fresh: int = 0
    failed: Counter[FailureKind] = field(default_factory=Counter[FailureKind])
    flying: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = 0.0
    table_usd: float | None = 0.0
    repaired: int = 0
    unwrapped: int = 0
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

    def bought(self, answer: Answer) -> None:
        """Count an answer that this run paid for."""
        self.prompt_tokens += answer.usage.prompt
        self.cached_tokens += answer.usage.cached
        self.written_tokens += answer.usage.written
        self.completion_tokens += answer.usage.completion
        self.reasoning_tokens += answer.usage.reasoning
        self.uncounted += answer.usage.prompt + answer.usage.completion == 0
        table = answer.cost_usd if answer.table_usd is None else answer.table_usd
        self.cost_usd = None if self.cost_usd is None or answer.cost_usd is None else self.cost_usd + answer.cost_usd
        self.table_usd = None if self.table_usd is None or table is None else self.table_usd + table
