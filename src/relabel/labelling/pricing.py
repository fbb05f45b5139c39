"""What tokens cost, from the price table that ships with genai-prices. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from genai_prices import Usage as PriceUsage
from genai_prices import calc_price
from pydantic import BaseModel, ConfigDict

from relabel.label import Usage


class Price(BaseModel):
    """The price of a model's tokens.

    Attributes:
        model: The model's name in the table.
        provider: The provider's name in the table; `none` for a model on the user's own machine.
        source: Where the figures come from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    provider: str
    source: str

    def cost(self, usage: Usage) -> float:
        """Cost of an answer in USD."""
        if self.provider == "none":
            return 0.0
        return _calculate(usage, self.model, self.provider)

    def manifest_entry(self) -> Mapping[str, Any]:
        """The price as a manifest records it."""
        return self.model_dump()


def find_price(model: str, base_url: str | None) -> Price | None:
    """Look a model's price up.

    Args:
        model: Name on the wire.
        base_url: Address of the API; None for OpenAI's own.

    Returns:
        The price, or None where the table does not hold this model at this provider: then the cost is unknown.
    """
    try:
        found = calc_price(
            PriceUsage(input_tokens=1, output_tokens=1),
            model_ref=model,
            provider_api_url=base_url or "https://api.openai.com/v1",
        )
    except LookupError:
        return None
    return Price(model=model, provider=found.provider.id, source=f"genai-prices {version('genai-prices')}")


FREE = Price(model="local", provider="none", source="runs on this machine")
"""The price of a model that the user runs."""


def _calculate(usage: Usage, model: str, provider: str) -> float:
    tokens = PriceUsage(input_tokens=usage.prompt, cache_read_tokens=usage.cached, output_tokens=usage.completion)
    return float(calc_price(tokens, model_ref=model, provider_id=provider).total_price)
