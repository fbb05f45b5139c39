"""From the name of a model to something that can be asked: endpoint, address, key and price."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import SecretStr

from relabel.errors import ProviderError, UsageError
from relabel.labelling.local import is_local
from relabel.labelling.pricing import Price
from relabel.labelling.providers import OPENAI_URL, UNKNOWN, Provider
from relabel.labelling.request import Endpoint
from relabel.labelling.transport import Timeouts
from relabel.redaction import guard_headers, is_secret_header, public_url
from relabel.settings import Settings

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_TRANSPORT_HEADERS = {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"}


@dataclass(frozen=True)
class Connection:
    """A model that can be asked.

    Attributes:
        base_url: The address to send to; None for OpenAI's own, and for a local server, which gets one when it starts.
        key: The provider's key; None for servers that need none.
        price: The model's price; None when unknown.
        timeouts: How long to wait for an answer.
        provider: Whose address it is.
        headers: Headers that the user adds to each request.
        model: The model as the user named it.
        endpoint: What answers depend on.
    """

    base_url: str | None
    key: SecretStr | None = None
    price: Price | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    provider: Provider = UNKNOWN
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    model: str = ""
    endpoint: Endpoint = field(default_factory=lambda: Endpoint(host="", model=""))

    @property
    def shown_url(self) -> str:
        """The address as manifests and messages show it."""
        return "local" if is_local(self.model) else public_url(self.base_url or OPENAI_URL)

    @property
    def secret(self) -> str:
        """The key in plain text; empty where there is none."""
        return self.key.get_secret_value() if self.key else ""


def parse_headers(given: Sequence[str]) -> dict[str, str]:
    """Headers by the user's word. What looks like a credential in them is kept from being told.

    Args:
        given: `NAME=VALUE` each.

    Raises:
        UsageError: One is not a header, or belongs to the transport.
    """
    found: dict[str, str] = {}
    for item in given:
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not _HEADER_NAME.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise UsageError(f"--header {_shown(name)} is not NAME=VALUE with the name and value of an HTTP header")
        if name.lower() in _TRANSPORT_HEADERS:
            raise UsageError(f"--header {name} cannot be replaced: relabel sets it for each request; remove the option")
        found[name] = value
    guard_headers(found)
    return found


def public_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of the headers that may be told, and that may change answers: all but credentials, by lower-case name."""
    return {name.lower(): value for name, value in sorted(headers.items()) if not is_secret_header(name, value)}


def _shown(name: str) -> str:
    return name if _HEADER_NAME.fullmatch(name) else "(its name)"


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
