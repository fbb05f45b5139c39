"""Money: what tokens cost, and a cap that is kept by reserving the worst case of each request before it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib.metadata import version
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from relabel.errors import ProviderError, UsageError
from relabel.labelling.providers import OPENAI_URL, provider_of, read_entries
from relabel.labelling.request import canonical_json
from relabel.labelling.wire import output_bound
from relabel.labels import Usage
from relabel.manifest import PerhapsCharged
from relabel.settings import Frozen, asset_dir, settings


class Price(Frozen):
    """The price of a model's tokens, in USD per million.

    Attributes:
        input: Of a prompt token.
        cached: Of a prompt token that was read from the provider's prefix cache.
        written: Of a prompt token that was written to it; None where that costs no more than `input`.
        output: Of a token of the answer.
        source: Where the figures come from.
        as_of: When they were last checked, as the source says; None where it does not say.
    """

    input: float = Field(ge=0)
    cached: float = Field(ge=0)
    output: float = Field(ge=0)
    written: float | None = Field(default=None, ge=0)
    source: str
    as_of: str | None = None

    def cost(self, usage: Usage) -> float:
        """Cost of an answer in USD."""
        fresh = max(0, usage.prompt - usage.cached - usage.written)
        written = usage.written * (self.input if self.written is None else self.written)
        return (fresh * self.input + usage.cached * self.cached + written + usage.completion * self.output) / 1e6

    def halved(self) -> Price:
        """The price of the Batch API."""
        fields = {"input": self.input, "cached": self.cached, "written": self.written, "output": self.output}
        half = {name: None if value is None else value / 2 for name, value in fields.items()}
        return self.model_copy(update={**half, "source": f"{self.source}, half for batch"})


FREE = Price(input=0, cached=0, output=0, source="runs on this machine")
"""The price of a model that the user runs."""


class _Override(Price):
    model: str
    host: str | None = None
    as_of: str | None = Field(...)

    @model_validator(mode="before")
    @classmethod
    def _cached_as_input(cls, given: Any) -> Any:
        return {"cached": given.get("input"), **given} if isinstance(given, dict) else given


class _Overrides(Frozen):
    price: tuple[_Override, ...] = ()


def _override(model: str, host: str | None) -> Price | None:
    own = settings().prices
    for path in ([own] if own else []) + [asset_dir("data") / "prices.toml"]:
        for price in read_entries(path, "data/prices.toml", _Overrides).price:
            if price.model == model and price.host in {None, host}:
                return Price.model_validate(price.model_dump(exclude={"model", "host"}))
    return None


def _is_own_server(host: str | None) -> bool:
    """Whether an address is on this machine or in a private network: no public table has its prices."""
    try:
        return host == "localhost" or not ip_address(host or "").is_global
    except ValueError:
        return False


def find_price(model: str, base_url: str | None) -> Price | None:
    """Look a model's price up: in the override file, then in the table of genai-prices.

    Args:
        model: Name on the wire.
        base_url: Address of the API; None for OpenAI's own.

    Returns:
        The price, or None where neither holds this model at this provider: then the cost is unknown.

    Raises:
        DataError: The override file is malformed.
    """
    known = _override(model, urlsplit(base_url or OPENAI_URL).hostname)
    if known is not None or _is_own_server(urlsplit(base_url or OPENAI_URL).hostname):
        return known
    from genai_prices import Usage as PriceUsage
    from genai_prices import calc_price

    million = 1_000_000

    def of(**tokens: int) -> tuple[float, Any]:
        found = calc_price(PriceUsage(**tokens), model_ref=model, provider_api_url=base_url or OPENAI_URL)
        return float(found.total_price), found

    try:
        fresh, found = of(input_tokens=million)
        cached, _ = of(input_tokens=million, cache_read_tokens=million)
        written, _ = of(input_tokens=million, cache_write_tokens=million)
        output, _ = of(output_tokens=million)
    except (LookupError, ValueError):
        return None
    # A table of tiers has other prices for long prompts; a labelling prompt is short, so the price of one is what counts.
    short, _ = of(input_tokens=1000)
    scale = short * 1000 / fresh if fresh else 1.0
    # The table carries no date of its own; its version is what dates it.
    source = f"genai-prices {version('genai-prices')}, {found.provider.name} {found.model.name or found.model.id}"
    rule = provider_of(base_url or OPENAI_URL).prefix_cache(model)
    if rule is not None and rule.read is not None and cached == fresh:
        cached = fresh * rule.read
    return Price(
        input=fresh * scale,
        cached=cached * scale,
        written=written * scale if written > fresh else None,
        output=output,
        source=source,
    )


def given_price(text: str) -> Price:
    """The price by the user's word.

    Args:
        text: `IN/OUT` or `IN/OUT/CACHED` in USD per million tokens; without the third, cached tokens cost as much as
            others.

    Raises:
        UsageError: It is none of these.
    """
    try:
        numbers = [float(part) for part in text.split("/")]
        if len(numbers) not in {2, 3} or any(not 0 <= number < 1e6 for number in numbers):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--price {text!r} is not IN/OUT or IN/OUT/CACHED in USD per million tokens, such as 0.15/0.60"
        ) from None
    cached = numbers[2] if len(numbers) == 3 else numbers[0]
    return Price(input=numbers[0], cached=cached, output=numbers[1], source="given with --price")


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
        self.before_usd = before_usd
        self.spent_usd = 0.0
        self.unconfirmed_usd = 0.0
        self.unconfirmed_requests = 0
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
        return PerhapsCharged(requests=self.unconfirmed_requests, usd=self.unconfirmed_usd if self._bounded else None)

    @property
    def _left_usd(self) -> float:
        return (self.cap_usd or 0.0) - self.before_usd - self.spent_usd - self.unconfirmed_usd

    def unconfirmed(self, body: Mapping[str, Any], worst_usd: float) -> None:
        """A request is over, and whether it was charged is not known: the worst counts.

        Args:
            body: What was posted.
            worst_usd: What was reserved for it.
        """
        self.unconfirmed_requests += 1
        if self.cap_usd is not None:
            self.settle(worst_usd, None)
        elif (most := self.most(body)) is None:
            self._bounded = False
        else:
            self.unconfirmed_usd += most

    def dropped(self, cost_usd: float | None) -> None:
        """An answer came second to a request that was sent twice: it was charged all the same."""
        self.unconfirmed_requests += 1
        self.spent_usd -= cost_usd or 0.0
        self.unconfirmed_usd += cost_usd or 0.0
        self._bounded = self._bounded and (cost_usd is not None or self.cap_usd is not None)

    def most(self, body: Mapping[str, Any]) -> float | None:
        """The most that a request can cost, in USD; None where no bound of it is known."""
        if self._price is None or (output_bound(body) is None and self._price.output > 0):
            return None
        return self._worst_case(body)

    def worst_case(self, body: Mapping[str, Any]) -> float:
        """What to reserve for a request, in USD: the most that it can cost; nothing where there is no cap."""
        return 0.0 if self.cap_usd is None else self._worst_case(body)

    def _worst_case(self, body: Mapping[str, Any]) -> float:
        price = self._price or FREE
        prompt = len(canonical_json(body)) + 64  # a token is at least a byte of what is posted
        dearest = max(price.input, price.cached, price.written or 0.0)
        return (prompt * dearest + ((output_bound(body) or 0) + self._hidden) * price.output) / 1e6

    def check_bound(self, body: Mapping[str, Any], usage: Usage) -> None:
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
                f"the server wrote {usage.completion:,} tokens although at most {bound:,} were allowed, so --max-cost cannot be "
                "guaranteed and the run stops; set the limit by the name that this server uses, such as --param max_tokens=N"
            )

    async def reserve(self, worst_usd: float) -> None:
        """Set money aside, waiting for requests in flight to settle where they might leave room.

        Raises:
            NoBudgetError: The cap leaves too little for this request, and no request in flight can free any of it.
            ProviderError: The server does not keep to the bound on which the reserve rests.
        """
        if self.cap_usd is None:
            return
        while not self._ignored and self._left_usd - self._reserved < worst_usd:
            if not self._open:
                earlier = f", after {self.before_usd:.4f} in earlier starts of this run" if self.before_usd else ""
                raise NoBudgetError(
                    f"the next request may cost up to {worst_usd:.4f} USD, and only {max(0.0, self._left_usd):.4f} USD "
                    f"of the cap of {self.cap_usd:.4f} USD are left{earlier}"
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
            self.unconfirmed_usd += worst_usd
        else:
            self.spent_usd += cost_usd
        self._settled.set()
