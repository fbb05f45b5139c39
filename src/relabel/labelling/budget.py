"""Money: what a request may cost at worst is reserved before it leaves, and settled when its answer is there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from relabel.errors import ProviderError
from relabel.label import Usage
from relabel.labelling.pricing import Price
from relabel.labelling.request import canonical_json
from relabel.labelling.wire import output_bound
from relabel.run import PerhapsCharged


class NoBudgetError(Exception):
    """The cap leaves no room for another request."""


class Budget:
    """Keeps a run's cost below a cap.

    Args:
        cap_usd: The cap; None keeps no cap.
        price: The model's price; needed for a cap.
        before_usd: What earlier starts of the run spent, or may have: the cap is of the run.
    """

    def __init__(self, cap_usd: float | None, price: Price | None, *, before_usd: float = 0.0) -> None:
        self.cap_usd = cap_usd
        self._before_usd = before_usd
        self.spent_usd = 0.0
        self.unsure_usd = 0.0
        self.unsure_requests = 0
        self._bounded = True
        self._price = price
        self._reserved = 0.0
        self._open = 0
        self._settled = asyncio.Event()
        self._hidden = 0
        self._ignored = ""

    @property
    def perhaps_charged(self) -> PerhapsCharged:
        """What was sent and never answered."""
        return PerhapsCharged(requests=self.unsure_requests, usd=self.unsure_usd if self._bounded else None)

    @property
    def _left_usd(self) -> float:
        return (self.cap_usd or 0.0) - self._before_usd - self.spent_usd - self.unsure_usd

    def unsure(self, body: Mapping[str, Any], worst_usd: float) -> None:
        """A request is over, and nobody knows whether it was charged: the worst counts.

        Args:
            body: What was posted.
            worst_usd: What was reserved for it.
        """
        self.unsure_requests += 1
        if self.cap_usd is not None:
            self.settle(worst_usd, None)
        elif self._price is None or (output_bound(body) is None and self._price.output > 0):
            self._bounded = False
        else:
            self.unsure_usd += self._worst_case(body, self._price)

    def worst_case(self, body: Mapping[str, Any]) -> float:
        """What to reserve for a request, in USD: the most that it can cost; nothing where there is no cap."""
        if self.cap_usd is None or self._price is None:
            return 0.0
        return self._worst_case(body, self._price)

    def _worst_case(self, body: Mapping[str, Any], price: Price) -> float:
        # A token is at least a byte of the posted document.
        prompt = len(canonical_json(body)) + 64
        return (prompt * price.dearest_input + ((output_bound(body) or 0) + self._hidden) * price.output) / 1e6

    def heed(self, body: Mapping[str, Any], usage: Usage) -> None:
        """Learn from an answer whether the bound of answers holds.

        Thinking beyond it is reserved for from then on. Where the server does not know the bound, no cap can be kept, and nothing
        more is sent.
        """
        bound = output_bound(body)
        if self.cap_usd is None or bound is None or usage.completion <= bound:
            return
        if usage.completion - usage.reasoning <= bound:
            self._hidden = max(self._hidden, 2 * (usage.completion - bound))
        else:
            self._ignored = (
                f"the server wrote {usage.completion:,} tokens where at most {bound:,} were asked for, so that --max-cost cannot be kept and "
                "the run stops; give the bound by the name that this server knows, such as --param max_tokens=N"
            )

    async def reserve(self, worst_usd: float) -> None:
        """Set money aside, waiting for requests in flight to settle where they might leave room.

        Raises:
            NoBudgetError: There is no room, and nothing in flight could make some.
            ProviderError: The server does not heed the bound that the reserve rests on.
        """
        if self.cap_usd is None:
            return
        while not self._ignored and self._left_usd - self._reserved < worst_usd:
            if not self._open:
                earlier = f", after {self._before_usd:.4f} in earlier starts of this run" if self._before_usd else ""
                raise NoBudgetError(
                    f"the next request may cost up to {worst_usd:.4f} USD, and of the cap of {self.cap_usd:.4f} USD "
                    f"only {max(0.0, self._left_usd):.4f} are left{earlier}"
                )
            self._settled.clear()
            await self._settled.wait()
        if self._ignored:
            raise ProviderError(self._ignored)
        self._reserved += worst_usd
        self._open += 1

    def settle(self, worst_usd: float, cost_usd: float | None) -> None:
        """A request is over. `cost_usd` is None where it is unknown whether it was charged: then the worst counts."""
        if self.cap_usd is None:
            self.spent_usd += cost_usd or 0.0
            return
        self._open -= 1
        self._reserved = max(0.0, self._reserved - worst_usd) if self._open else 0.0
        if cost_usd is None:
            self.unsure_usd += worst_usd
        else:
            self.spent_usd += cost_usd
        self._settled.set()
