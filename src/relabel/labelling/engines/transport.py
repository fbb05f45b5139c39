"""How a request gets to the provider: by HTTP from this process, or from another one that does the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai

from relabel.labelling.pricing import OPENAI_URL
from relabel.labelling.request import public_url
from relabel.labelling.wire import PATHS, Api

ATTEMPT_TIMEOUT_S = 90.0
CONNECT_TIMEOUT_S = 20.0
SECONDS = "relabel_seconds"
"""Extension of a response: seconds that the exchange took where it was sent from, when that is not this process."""


class UnreachableError(Exception):
    """Nothing was sent, because there is nobody to send to."""


class Transport(Protocol):
    """Carries one request to the provider and brings the reply back."""

    async def send(self, api: Api, content: bytes) -> httpx2.Response:
        """Post a document.

        Args:
            api: The dialect, which decides the path.
            content: The JSON document.

        Returns:
            The reply, whatever its status.

        Raises:
            UnreachableError: Nothing was sent.
            openai.APITimeoutError: It took too long.
            openai.APIConnectionError: The connection broke; the provider may have the request.
            ProviderError: Nothing can be sent any more.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class HttpTransport:
    """Posts over HTTP, through the openai client's own backend.

    Args:
        base_url: Address of the API; None for OpenAI's own.
        secret: The provider's key; empty for servers that need none.
    """

    def __init__(self, base_url: str | None, secret: str) -> None:
        address = public_url(base_url) if base_url else OPENAI_URL
        self._http = openai.DefaultAioHttpClient(
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30)
        )
        client = openai.AsyncOpenAI(api_key=secret or "none", base_url=address, max_retries=0, http_client=self._http)
        # Requests differ only in their body. Making headers and address once, and sending over the client's own aiohttp
        # backend, takes half of the processor time of its `create`, which also parses replies that are kept raw here.
        said = {name: value for name, value in client.default_headers.items() if isinstance(value, str)}
        said |= {"Authorization": f"Bearer {secret}"} if secret else {}
        self._headers = httpx2.Headers({**said, "Content-Type": "application/json"})
        query = urlsplit(base_url or "").query
        self._urls: Mapping[Api, httpx2.URL] = {
            api: httpx2.URL(f"{address.rstrip('/')}{path}{'?' + query if query else ''}") for api, path in PATHS.items()
        }

    async def send(self, api: Api, content: bytes) -> httpx2.Response:
        """Post a document; see `Transport.send`."""
        timeout: dict[str, Any] = {
            "connect": CONNECT_TIMEOUT_S,
            "read": ATTEMPT_TIMEOUT_S,
            "write": ATTEMPT_TIMEOUT_S,
            "pool": None,
        }
        request = httpx2.Request(
            "POST", self._urls[api], content=content, headers=self._headers, extensions={"timeout": timeout}
        )
        try:
            return await self._http.send(request)
        except httpx2.TimeoutException as error:
            # The client's backend calls a refused and a broken connection a timeout, too; they are not.
            if isinstance(error.__cause__, aiohttp.ClientConnectorError):
                raise UnreachableError(str(error)) from error
            if isinstance(error.__cause__, aiohttp.ClientConnectionError) and not isinstance(
                error.__cause__, TimeoutError
            ):
                raise openai.APIConnectionError(request=request) from error
            raise openai.APITimeoutError(request=request) from error
        except httpx2.HTTPError as error:
            raise openai.APIConnectionError(request=request) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
