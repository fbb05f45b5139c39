"""Providers: what is known of each, as data in `data/providers.toml`, and what that means for a request."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from relabel.errors import DataError, UsageError
from relabel.labelling.wire import Api, messages_of, with_messages
from relabel.settings import asset_dir, settings


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PrefixCache(_Data):
    """What a provider's prefix cache does for some models.

    Attributes:
        models: Shell patterns of their names, with or without the vendor in front.
        least: Tokens of the shared beginning from which the cache acts; None where no minimum is documented.
        read: Price of a cached token as a share of the price of input, where the price table has none.
        write: Likewise of a token that is written to the cache.
        key: Body field that keeps requests with the same prefix together.
        key_apis: Dialects that have this field.
        mark: How the end of the prefix is marked, where the cache needs a mark.
    """

    models: tuple[str, ...]
    least: int | None = Field(default=None, ge=0)
    read: float | None = Field(default=None, ge=0)
    write: float = Field(default=1.0, ge=0)
    key: str | None = None
    key_apis: tuple[Api, ...] = ("chat", "responses")
    mark: Literal["prompt_cache_breakpoint", "cache_control"] | None = None


class TokenRatio(_Data):
    """How many tokens some models make of a text: `factor` times its pieces (see `estimate`), give or take `spread`."""

    models: tuple[str, ...]
    factor: float = Field(gt=0)
    spread: float = Field(ge=0, lt=1)
    source: str


class Provider(_Data):
    """A provider, as far as requests and replies depend on it.

    Attributes:
        hosts: Shell patterns of its host names; an address that matches none belongs to an unknown provider.
        base_url: Address of its API.
        cache: Its prefix caches; the first that fits a model counts.
        as_of: The day on which the sources were read.
        sources: Where this comes from.
    """

    id: str
    name: str
    hosts: tuple[str, ...] = ()
    base_url: str | None = None
    cache: tuple[PrefixCache, ...] = ()
    as_of: str | None = None
    sources: tuple[str, ...] = ()

    def prefix_cache(self, model: str) -> PrefixCache | None:
        """The prefix cache for a model; None where none is known."""
        return next((rule for rule in self.cache if _fits(model, rule.models)), None)

    def posted(self, api: Api, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """A request's body as it is sent: with the fields that steer a prefix cache.

        They change what a request costs and never what it asks, so that they are no part of its key.
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
            body = {rule.key: _cache_key(str(body.get("model")), fixed[-1]["content"]), **body}
        return body


class _File(_Data):
    reasoning: tuple[str, ...] = ()
    tokens: tuple[TokenRatio, ...] = ()
    provider: tuple[Provider, ...] = ()


_KEY_PREFIX = "relabel-"
UNKNOWN = Provider(id="unknown", name="an unknown provider")
"""What is taken for granted at an address that no entry names."""


def provider_of(base_url: str, name: str | None = None) -> Provider:
    """The provider behind an address, or the one that the user names.

    Raises:
        UsageError: There is no provider of this name.
        DataError: The user's file is malformed.
    """
    known = _known().provider
    if name is not None:
        for provider in known:
            if provider.id == name:
                return provider
        raise UsageError(f"there is no provider {name!r}; use one of {', '.join(sorted({p.id for p in known}))}")
    host = (urlsplit(base_url).hostname or "").lower()
    return next((p for p in known if any(fnmatchcase(host, pattern) for pattern in p.hosts)), UNKNOWN)


def without_cache_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """A posted body without what `Provider.posted` put in: what the request's key is the hash of."""
    ours = {name for name, value in body.items() if isinstance(value, str) and value.startswith(_KEY_PREFIX)}
    plain = {name: value for name, value in body.items() if name not in ours}
    messages = [dict(message) for message in messages_of(body)]
    for message in messages:
        match message.get("content"):
            case [{"prompt_cache_breakpoint": _, "text": str(text)}]:
                plain.pop("prompt_cache_options", None)
                message["content"] = text
            case [{"cache_control": _, "text": str(text)}]:
                message["content"] = text
            case _:
                pass
    return with_messages(plain, messages)


def token_ratio(model: str) -> TokenRatio:
    """How many tokens a model makes of a text."""
    return next(ratio for ratio in _known().tokens if _fits(model, ratio.models))


def reasons(model: str) -> bool:
    """Whether a model is known to think before it answers."""
    return _fits(model, _known().reasoning)


def _known() -> _File:
    own = settings().providers
    shipped = _read(asset_dir("data") / "providers.toml")
    if own is None:
        return shipped
    mine = _read(own)
    return _File(
        reasoning=(*mine.reasoning, *shipped.reasoning),
        tokens=(*mine.tokens, *shipped.tokens),
        provider=(*mine.provider, *shipped.provider),
    )


@cache
def _read(path: Path) -> _File:
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"the provider file {path} cannot be used ({' '.join(str(error).split())[:200]}); data/providers.toml shows the form"
        ) from error


def _fits(model: str, patterns: Sequence[str]) -> bool:
    whole = model.lower()
    return any(fnmatchcase(name, pattern) for name in (whole, whole.rpartition("/")[2]) for pattern in patterns)


def _marked(api: Api, text: str, mark: str) -> dict[str, Any]:
    how = {"mode": "explicit"} if mark == "prompt_cache_breakpoint" else {"type": "ephemeral"}
    return {"type": "input_text" if api == "responses" else "text", "text": text, mark: how}


@cache
def _cache_key(model: str, prefix: str) -> str:
    return _KEY_PREFIX + hashlib.sha256(f"{model}\0{prefix}".encode()).hexdigest()[:32]
