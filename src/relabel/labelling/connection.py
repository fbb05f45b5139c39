"""From the name of a model to something that can be asked: endpoint, address, key and price."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from relabel.errors import ProviderError, RelabelError, UsageError
from relabel.label import Answer
from relabel.labelling.engine import OnInFlight, OnlineEngine, Repair
from relabel.labelling.limiter import Limiter
from relabel.labelling.local import LocalServer, find_weights, is_local, local_endpoint
from relabel.labelling.pricing import FREE, Budget, Price, find_price
from relabel.labelling.providers import OPENAI_URL, UNKNOWN, Provider, provider_of
from relabel.labelling.request import Endpoint, Request, host_of
from relabel.labelling.transport import LOCAL_TIMEOUTS, Timeouts, Transport
from relabel.labelling.wire import Api
from relabel.redaction import guard_address, public_url
from relabel.settings import Settings


@dataclass(frozen=True)
class Connection:
    """A model that can be asked.

    Attributes:
        endpoint: What answers depend on.
        base_url: The address to send to; None for a local server, which gets one when it starts.
        shown_url: The address as manifests and messages show it.
        key: The provider's key; None for servers that need none.
        price: The model's price; None when unknown.
        patience: How long to wait for an answer.
        provider: Whose address it is.
    """

    endpoint: Endpoint
    base_url: str | None
    shown_url: str
    key: SecretStr | None
    price: Price | None
    timeouts: Timeouts = field(default_factory=Timeouts)
    provider: Provider = UNKNOWN


def describe(
    model: str,
    base_url: str | None,
    environment: Settings,
    params: Mapping[str, Any],
    *,
    api: Api = "chat",
    price: Price | None = None,
    timeout: float | None = None,
    provider: str | None = None,
    key_env: str | None = None,
) -> Connection:
    """Say what a model is, without starting or asking anything.

    Args:
        model: `local`, `local:FILE.gguf`, or a model's name at the provider.
        base_url: Address of the API; by default `OPENAI_BASE_URL`, else OpenAI's own.
        environment: Settings from the environment.
        params: Sampling parameters that the user asked for; they go before those that the embedded model needs.
        api: The dialect to speak.
        price: The user's word on the price; by default the table's.
        timeout: Seconds to wait for one answer; by default longer for a model on this machine.
        provider: Name of the provider; by default told by the address.
        key_env: Environment variable that holds the key; by default the provider's own.

    Raises:
        DataError: The user's own weights are missing.
        UsageError: The address is not valid, there is no such provider, or the variable is not set.
    """
    timeouts = None if timeout is None else Timeouts.of(timeout)
    if is_local(model):
        endpoint = local_endpoint(model)
        endpoint = endpoint.model_copy(update={"api": api, "params": {**endpoint.params, **params}})
        return Connection(endpoint, None, "local", None, FREE, timeouts or LOCAL_TIMEOUTS)
    named = None if provider is None else provider_of("", provider)
    url = base_url or (named.base_url if named else environment.openai_base_url) or OPENAI_URL
    guard_address(url)
    endpoint = Endpoint(host=host_of(url), model=model, api=api, params=dict(params))
    found = price or find_price(model, url)
    known = named or provider_of(url)
    key = key_for(known, environment, key_env)
    return Connection(endpoint, url, public_url(url), key, found, timeouts or Timeouts(), known)


def key_for(provider: Provider, environment: Settings, key_env: str | None = None) -> SecretStr | None:
    """The key for a provider: from the variable that the user names, else from the provider's own.

    `OPENAI_API_KEY` goes to OpenAI and to addresses that relabel knows nothing of, and to other providers only where it is named.

    Raises:
        UsageError: The variable that the user names is not set.
    """
    if key_env is not None:
        if not (value := os.environ.get(key_env, "").strip()):
            raise UsageError(f"--key-env names {key_env}, which is not set; export it, or leave --key-env out")
        return SecretStr(value)
    own = environment.openai_api_key
    found = provider.key(own.get_secret_value() if own else None)
    return SecretStr(found) if found else None


def require_key(provider: Provider, key: SecretStr | None) -> None:
    """Make sure that there is a key where the provider wants one.

    Raises:
        ProviderError: There is none.
    """
    if provider.key_env and not (key and key.get_secret_value().strip()):
        raise ProviderError(
            f"there is no key for {provider.name}; set {provider.key_env[0]}, or name the variable that holds it with --key-env, or try "
            "--model local"
        )


class LazyEngine:
    """The online engine, made ready at the first question: a run that the store answers needs no server and no key.

    Args:
        model: The model as the user named it.
        described: What `describe` said of it.
        environment: Settings from the environment.
        limiter: How fast to ask.
        budget: Cap of the cost.
    """

    name = "online"

    def __init__(
        self, model: str, described: Connection, environment: Settings, limiter: Limiter, budget: Budget
    ) -> None:
        self._model, self._described, self._environment = model, described, environment
        self.limiter, self.budget = limiter, budget
        self._open = ExitStack()
        self._engine: OnlineEngine | None = None
        self._failed: RelabelError | None = None
        self._starting = asyncio.Lock()

    async def ask(
        self, request: Request, repair: Repair | None = None, *, on_in_flight: OnInFlight | None = None
    ) -> Answer:
        """Get the answer to one request; see `Engine.ask`.

        Raises:
            DataError: The embedded model's weights cannot be fetched.
        """
        if self._engine is None:
            async with self._starting:
                if self._failed is not None:  # those who waited for the start have no better luck
                    raise self._failed
                if self._engine is None:
                    try:
                        self._engine = await self._connect()
                    except RelabelError as error:
                        self._failed = error
                        raise
        return await self._engine.ask(request, repair, on_in_flight=on_in_flight)

    def history(self) -> tuple[tuple[float, int, str], ...]:
        """See `Engine.history`."""
        return tuple(self.limiter.history)

    async def close(self) -> None:
        """Close the connections and stop the local server."""
        try:
            if self._engine is not None:
                await self._engine.close()
        finally:
            await asyncio.to_thread(self._open.close)

    async def _connect(self) -> OnlineEngine:
        return await asyncio.to_thread(self._start)

    def _start(self) -> OnlineEngine:
        described = self._described
        base_url = described.base_url
        if is_local(self._model):
            weights = find_weights(self._model, self._environment.models_dir)
            base_url = self._open.enter_context(LocalServer(weights, described.endpoint.model)).base_url
        else:
            require_key(described.provider, described.key)
        return self._made(base_url)

    def _made(self, base_url: str | None, transport: Transport | None = None) -> OnlineEngine:
        described = self._described
        return OnlineEngine(
            base_url,
            described.key,
            described.price,
            limiter=self.limiter,
            budget=self.budget,
            transport=transport,
            timeouts=described.timeouts,
            provider=described.provider,
        )
