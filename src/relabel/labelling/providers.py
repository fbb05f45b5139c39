"""Providers: entries in `data/providers.toml`, their effect on requests, and token prices."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from relabel.errors import UsageError, model_errors
from relabel.files import read_user_toml
from relabel.labelling.wire import Api, Form, messages_of, object_of, with_messages
from relabel.labels import Usage
from relabel.redaction import public_url
from relabel.settings import Frozen, asset_dir, settings

OPENAI_URL = "https://api.openai.com/v1"


class PrefixCache(Frozen):
    """Properties of a provider's prefix cache, for some models.

    Attributes:
        models: Shell patterns of model names, with or without the vendor prefix.
        least: Minimum length of a cached prefix in tokens; None if not documented.
        read: Price of a cached token as a share of the input price, if the price table has none.
        write: The same for a token written to the cache.
        key: Body field that groups requests with the same prefix.
        key_apis: Dialects that have this field.
        mark: How the end of the prefix is marked, if the cache requires it.
    """

    models: tuple[str, ...]
    least: int | None = Field(default=None, ge=0)
    read: float | None = Field(default=None, ge=0)
    write: float = Field(default=1.0, ge=0)
    key: str | None = None
    key_apis: tuple[Api, ...] = ("chat", "responses")
    mark: Literal["prompt_cache_breakpoint", "cache_control"] | None = None

    def in_words(self) -> str:
        """The properties in words."""
        least = f"from {self.least:,} tokens" if self.least else "from any length"
        price = None if self.read is None else f"at {self.read:.0%} of the price of input"
        return f"{', '.join(self.models)}: {', '.join(filter(None, (least, price, self.key, self.mark)))}"


class TokenRatio(Frozen):
    """Number of tokens in a text, for some models: `factor` times its pieces (see `estimate.pieces`), plus or minus a share `spread`."""

    models: tuple[str, ...]
    factor: float = Field(gt=0)
    spread: float = Field(ge=0, lt=1)
    source: str


# The property `batch` in words.
_BATCH = {
    None: "unknown; relabel looks for OpenAI's Files and Batch API before it uploads anything",
    "openai": "OpenAI's Files and Batch API",
    "none": "none that relabel supports",
}


class Provider(Frozen):
    """Properties of a provider that affect requests and replies.

    Attributes:
        hosts: Shell patterns of its host names, with or without a port.
        shared_domain: Whether any customer gets a host of such a name, so that a name alone does not earn trust.
        path: Part of its path, by which it is recognised behind a gateway.
        base_url: Address of its API.
        key_env: Environment variables that may have its key; the first one set is used. Empty if it needs no key.
        key_header: Header for the key; in `Authorization`, the key follows the word `Bearer`.
        forms: Structured response formats that it supports, strictest first.
        bound: Name of the parameter for the maximum number of output tokens, in the chat dialect.
        thinking: How its usage counts hidden thinking; both ways are understood at every address.
        notes: Other peculiarities.
        cache: Its prefix caches; the first one that matches a model is used.
        batch: The type of its Files and Batch API, or `none`; if unset, OpenAI's type is probed.
        batch_price: Price of batches, as a share of the usual one.
        as_of: When the sources were read.
        sources: Sources of this information.
    """

    id: str
    name: str
    hosts: tuple[str, ...] = ()
    shared_domain: bool = False
    path: str | None = None
    base_url: str | None = None
    key_env: tuple[str, ...] = ()
    key_header: str = "Authorization"
    forms: tuple[Form, ...] = ("json_schema", "json_object")
    bound: str = "max_completion_tokens"
    thinking: Literal["in completion_tokens", "only in total_tokens"] = "in completion_tokens"
    notes: tuple[str, ...] = ()
    cache: tuple[PrefixCache, ...] = ()
    batch: Literal["openai", "azure", "groq", "mistral", "together", "none"] | None = None
    batch_price: float = Field(default=0.5, ge=0)
    as_of: str | None = None
    sources: tuple[str, ...] = ()

    def in_words(self) -> dict[str, str]:
        """The properties in words, by name."""
        return {
            "name": f"{self.name} ({self.id})",
            "address": self.base_url or "of your own",
            "known by": ", ".join([*self.hosts, *([self.path] if self.path else [])]) or f"--provider {self.id}",
            "key": f"{' or '.join(self.key_env)}, sent in {self.key_header}" if self.key_env else "not needed",
            "answers": ", ".join((*self.forms, "text")),
            "bound": f"--max-tokens is sent as {self.bound}",
            "thinking": f"hidden tokens are counted {self.thinking}",
            "batch": _BATCH.get(self.batch, f"the Batch API of {str(self.batch).title()}"),
            "cache": "; ".join(rule.in_words() for rule in self.cache) or "none known",
            "notes": "; ".join(self.notes) or "none",
            "sources": f"{', '.join(self.sources) or 'none'} (as of {self.as_of or 'an unknown day'})",
        }

    def headers(self, secret: str) -> dict[str, str]:
        """Headers with the key and, for OpenAI, with organisation and project from the environment."""
        bearer = self.key_header == "Authorization" or secret.startswith("eyJ")  # a JSON Web Token instead of a key
        auth = {"Authorization": f"Bearer {secret}"} if bearer else {self.key_header: secret}
        own = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
        ids = {header: os.environ.get(name, "").strip() for header, name in own.items() if self.id == "openai"}
        return {**(auth if secret else {}), **{header: value for header, value in ids.items() if value}}

    def prefix_cache(self, model: str) -> PrefixCache | None:
        """The prefix cache for a model; None if unknown."""
        return next((rule for rule in self.cache if _fits(model, rule.models)), None)

    def posted(self, api: Api, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """A request's body as it is sent, with fields that control a prefix cache.

        These affect the cost of a request but not its content, so they are not part of its key.
        """
        rule = self.prefix_cache(str(body.get("model", "")))
        if rule is None or len(messages := messages_of(body)) < 2:
            return body
        *fixed, last = messages
        if rule.mark is not None:
            end = {**fixed[-1], "content": [_marked(api, fixed[-1]["content"], rule.mark)]}
            body = with_messages(body, [*fixed[:-1], end, last])
            if rule.mark == "prompt_cache_breakpoint":
                body = {"prompt_cache_options": {"mode": "explicit"}, **body}
        if rule.key is not None and api in rule.key_apis:
            prefix = f"{body.get('model')}\0{fixed[-1]['content']}"
            body = {rule.key: "relabel-" + hashlib.sha256(prefix.encode()).hexdigest()[:32], **body}
        return body


class _File(Frozen):
    reasoning: tuple[str, ...] = ()
    tokens: tuple[TokenRatio, ...] = ()
    provider: tuple[Provider, ...] = ()


M = TypeVar("M", bound=Frozen)
# The assumed properties of an unknown address.
UNKNOWN = Provider(id="unknown", name="an unknown provider")


def provider_of(base_url: str, name: str | None = None) -> Provider:
    """The provider of an address, or the one that the user names.

    Raises:
        UsageError: There is no provider of this name.
        DataError: The user's file is malformed.
    """
    all_providers = _properties().provider
    if name is not None:
        if named := [provider for provider in all_providers if provider.id == name]:
            return named[0]
        raise UsageError(f"unknown provider {name!r}; use one of {', '.join(sorted({p.id for p in all_providers}))}")
    try:
        parts = urlsplit(base_url)
        names = ((parts.hostname or "").lower(), f"{parts.hostname}:{parts.port}".lower())
    except ValueError:  # sending to a malformed address raises a better error
        return UNKNOWN
    by_host = (p for p in all_providers if any(fnmatchcase(name, pattern) for name in names for pattern in p.hosts))
    by_path = (p for p in all_providers if p.path is not None and p.path in parts.path)  # behind a gateway
    return next(by_host, None) or next(by_path, UNKNOWN)


def providers() -> tuple[Provider, ...]:
    """All known providers, the user's first."""
    return _properties().provider


def token_ratio(model: str) -> TokenRatio:
    """The token ratio of a model."""
    return next(ratio for ratio in _properties().tokens if _fits(model, ratio.models))


def reasons(model: str) -> bool:
    """Whether a model is known to think before it answers."""
    return _fits(model, _properties().reasoning)


def _properties() -> _File:
    path = settings().providers
    shipped = _read(asset_dir("data") / "providers.toml")
    if path is None:
        return shipped
    own = _read(path)
    return _File(**{name: (*getattr(own, name), *getattr(shipped, name)) for name in _File.model_fields})


@cache
def _read(path: Path) -> _File:
    return read_entries(path, "data/providers.toml", _File)


def read_entries(path: Path, example: str, model: type[M]) -> M:
    """Read and validate a TOML file; error messages name the example.

    Raises:
        DataError: It cannot be read or is invalid.
    """
    with model_errors(f"{path} cannot be used (", f"); {example} shows the form"):
        return model.model_validate(read_user_toml(path, example))


def _fits(model: str, patterns: Sequence[str]) -> bool:
    name = model.lower()
    return any(fnmatchcase(part, pattern) for part in (name, name.rpartition("/")[2]) for pattern in patterns)


def _marked(api: Api, text: str, mark: str) -> dict[str, Any]:
    control = {"mode": "explicit"} if mark == "prompt_cache_breakpoint" else {"type": "ephemeral"}
    return {"type": "input_text" if api == "responses" else "text", "text": text, mark: control}


# Ends of the names of headers in which gateways state the cost of an answer, such as LiteLLM's `x-litellm-response-cost`.
COST_HEADERS = ("-response-cost", "-request-cost", "-total-cost", "-usage-cost", "-cost-usd")
# Headers in which gateways name the provider that answered.
UPSTREAM_HEADERS = (
    "x-litellm-model-api-base",
    "x-portkey-provider",
    "helicone-provider",
    "cf-aig-provider",
    "x-upstream",
)
# The header in which Gemini states the service tier.
TIER_HEADER = "x-gemini-service-tier"
_NO_HEADERS: Mapping[str, str] = {}


def stated_cost(reply: Mapping[str, Any], headers: Mapping[str, str] = _NO_HEADERS) -> float | None:
    """The cost stated in a reply's usage or in a gateway's header, in USD; None if there is none."""
    usage = object_of(reply.get("usage"))
    cost = usage.get("cost", usage.get("estimated_cost"))  # OpenRouter's name, and DeepInfra's
    if isinstance(cost, Mapping):
        cost = cost.get("total_cost")  # Perplexity
    cost, ticks = _amount(cost), _amount(f"{usage.get('cost_in_usd_ticks')}e-10")
    cost = ticks if cost is None else cost  # xAI's ticks
    if cost is None:
        amounts = (_amount(value) for name, value in headers.items() if name.lower().endswith(COST_HEADERS))
        return next((amount for amount in amounts if amount), None)  # for gateways, 0 also means unknown
    if not usage.get("is_byok"):
        return cost
    # If a router uses the user's own key, the provider charges its price in addition to the router's fee.
    upstream = _amount(object_of(usage.get("cost_details")).get("upstream_inference_cost"))
    return None if upstream is None else cost + upstream


def _amount(value: Any) -> float | None:
    """An amount in USD, a number or a text; None if it is neither, or impossible."""
    try:
        amount = float(value.strip().removeprefix("$") if isinstance(value, str) else value)
    except (ValueError, TypeError, OverflowError):
        return None
    return amount if 0 <= amount < 1e6 and not isinstance(value, bool) else None


def upstream_of(reply: Mapping[str, Any], headers: Mapping[str, str] = _NO_HEADERS) -> str | None:
    """The provider behind a router or gateway, from its reply or headers."""
    names = [reply.get("provider"), *(headers.get(name) for name in UPSTREAM_HEADERS)]
    return next((public_url(name)[:100] for name in names if isinstance(name, str) and name), None)


def tier_of(reply: Mapping[str, Any], headers: Mapping[str, str] = _NO_HEADERS) -> str | None:
    """The service tier of an answer, from the reply or Gemini's header."""
    tier = reply.get("service_tier") or object_of(reply.get("usage")).get("service_tier") or headers.get(TIER_HEADER)
    return tier[:40] if isinstance(tier, str) and tier else None


# Prices.

_TABLE = "genai-prices"
# Service tiers that cost more: https://developers.openai.com/api/docs/guides/fast-mode
DEAR_TIERS = ("priority", "fast", "ultrafast")


class Price(Frozen):
    """The price of a model's tokens, in USD per million.

    Attributes:
        input: Prompt tokens.
        cached: Prompt tokens read from the provider's prefix cache.
        written: Prompt tokens written to it; None if the price is that of `input`.
        output: Tokens of the answer.
        source: Source of the prices.
        as_of: When they were last checked, by the source; None if it gives no date.
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

    def holds_in(self, tier: str | None) -> bool:
        """Whether this price covers a service tier; the public table has the standard tier only, and some cost more."""
        return tier not in DEAR_TIERS or not self.source.startswith(_TABLE)

    def halved(self, share: float = 0.5) -> Price:
        """The price of the Batch API: half, or another share of this price."""
        part = {name: value * share for name, value in self if isinstance(value, float)}
        words = "half" if share == 0.5 else f"{share:.0%}"
        return self.model_copy(update={**part, "source": f"{self.source}, {words} for batch"})


# The price of a model that the user runs.
FREE = Price(input=0, cached=0, output=0, source="runs on this machine")


class _Override(Price):
    model: str
    host: str | None = None
    as_of: str | None = Field(...)

    @model_validator(mode="before")
    @classmethod
    def _cached_as_input(cls, data: Any) -> Any:
        return {"cached": data.get("input"), **data} if isinstance(data, dict) else data


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
    """Whether an address is on this machine or in a private network, so that public prices do not apply."""
    try:
        return host == "localhost" or not ip_address(host or "").is_global
    except ValueError:
        return False


def find_price(model: str, base_url: str | None) -> Price | None:
    """Look up a model's price: in the override files, then in the table of genai-prices.

    Args:
        model: Name on the wire.
        base_url: Address of the API; None for OpenAI's own.

    Returns:
        The price. None if it is unknown, or if it includes a fee per request, which a price of tokens cannot express; the cost
        is then unknown, unless the provider states it.

    Raises:
        DataError: The override file is malformed.
    """
    override = _override(model, urlsplit(base_url or OPENAI_URL).hostname)
    if override is not None or _is_own_server(urlsplit(base_url or OPENAI_URL).hostname):
        return override
    from genai_prices import Usage as PriceUsage
    from genai_prices import calc_price
    from genai_prices.types import PriceCalculation

    def at(hour: int) -> PriceCalculation:
        when = datetime.now(UTC).replace(hour=hour)
        url = base_url or OPENAI_URL
        return calc_price(PriceUsage(), model_ref=model, provider_api_url=url, genai_request_timestamp=when)

    def usd(price: Any, otherwise: float) -> float:
        """A price from the table; if it depends on the prompt's length, the price for short prompts."""
        return otherwise if price is None else float(getattr(price, "base", price))

    try:
        by_hour = [at(hour) for hour in range(24)]
    except (LookupError, ValueError):
        return None
    # DeepSeek's prices depend on the hour: the highest is an upper bound.
    calculation = max(by_hour, key=lambda hour: usd(hour.model_price.output_mtok, 0.0))
    prices = calculation.model_price
    peak = ", at peak hours" if any(hour.model_price != prices for hour in by_hour) else ""
    if calculation.total_price:
        return None
    fresh = usd(prices.input_mtok, 0.0)
    cached, written = usd(prices.cache_read_mtok, fresh), usd(prices.cache_write_mtok, fresh)
    rule = provider_of(base_url or OPENAI_URL).prefix_cache(model)
    if rule is not None and rule.read is not None and cached == fresh:
        cached = fresh * rule.read
    return Price(
        input=fresh,
        cached=cached,
        written=written if written > fresh else None,
        output=usd(prices.output_mtok, 0.0),
        # The table has no date, but its version dates it.
        source=f"{_TABLE} {version('genai-prices')}, {calculation.provider.name} {calculation.model.name or calculation.model.id}{peak}",
    )


def given_price(text: str) -> Price:
    """Parse the user's price.

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
