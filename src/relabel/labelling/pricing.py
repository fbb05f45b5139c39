"""What tokens cost: from the price table that ships with genai-prices, or by the user's word. Nothing is fetched."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from genai_prices import Usage as PriceUsage
from genai_prices import calc_price
from pydantic import Field, ValidationError

from relabel.errors import DataError, UsageError, first_error
from relabel.label import Usage
from relabel.labelling.providers import provider_of
from relabel.settings import Frozen, asset_dir, settings

OPENAI_URL = "https://api.openai.com/v1"


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

    @property
    def dearest_input(self) -> float:
        """The most that a prompt token can cost."""
        return max(self.input, self.cached, self.written or 0.0)

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

    def manifest_entry(self) -> Mapping[str, Any]:
        """The price as a manifest records it."""
        return self.model_dump()


FREE = Price(input=0, cached=0, output=0, source="runs on this machine")
"""The price of a model that the user runs."""


class _Override(Frozen):
    model: str
    host: str | None = None
    input: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)
    output: float = Field(ge=0)
    written: float | None = Field(default=None, ge=0)
    as_of: str
    source: str


def _override(model: str, host: str | None) -> Price | None:
    own = settings().prices
    for path in ([own] if own else []) + [asset_dir("data") / "prices.toml"]:
        try:
            entries = tomllib.loads(path.read_text(encoding="utf-8")).get("price", [])
            prices = [_Override.model_validate(entry) for entry in entries]
        except (OSError, ValueError, TypeError) as error:
            why = first_error(error) if isinstance(error, ValidationError) else str(error).splitlines()[0]
            raise DataError(f"the price file {path} cannot be used ({why}); data/prices.toml shows the form") from error
        for price in prices:
            if price.model == model and price.host in {None, host}:
                cached = price.input if price.cached is None else price.cached
                return Price(**price.model_dump(exclude={"model", "host", "cached"}), cached=cached)
    return None


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
    if known is not None:
        return known
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
