"""How a request gets to the provider: by HTTP from this process, or from another one that does the same."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
import openai
from multidict import CIMultiDict
from yarl import URL

from relabel.labelling.pricing import OPENAI_URL
from relabel.labelling.wire import PATHS, Api
from relabel.redaction import guard, guard_address, public_url

CONNECT_TIMEOUT_S = 20.0


LARGEST_REPLY = 16 * 2**20
"""Bytes; what is longer is no answer about a task, and is not read to its end."""
_WORTH_KEEPING = ("x-ratelimit-", "retry-after", "location", "content-type")


@cache
def certificates() -> ssl.SSLContext:
    """Whom to trust, as the openai client does it; read once, because that takes longer than a hundred requests."""
    return httpx2.create_ssl_context()


@dataclass(frozen=True)
class Patience:
    """How long to wait for an answer.

    Attributes:
        attempt_s: Seconds for one attempt.
        deadline_s: Seconds for one request, all attempts and pauses included; waiting for a turn is not.
    """

    attempt_s: float = 90.0
    deadline_s: float = 300.0

    @classmethod
    def of(cls, attempt_s: float) -> Patience:
        """So many seconds for an attempt, and time for three of them."""
        return cls(attempt_s, max(cls.deadline_s, 3 * attempt_s))


PATIENCE_AT_HOME = Patience.of(900.0)
"""For a model served on this machine: it costs nothing, and where much else runs it is slow and not dead."""


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


class Http:
    """One provider's address over aiohttp: who is trusted, which proxy, which headers. Redirects are never followed.

    They would carry tasks, and perhaps the key, to where the user did not send them. Headers are the openai client's, which reads
    organisation and project from the environment; going through the client itself would take three times the processor time.

    Args:
        base_url: Address of the API; None for OpenAI's own.
        secret: The provider's key; empty for servers that need none.
    """

    def __init__(self, base_url: str | None, secret: str) -> None:
        guard(secret)
        guard_address(base_url)
        self.address = public_url((base_url or OPENAI_URL).partition("?")[0]).rstrip("/")
        backend = httpx2.AsyncClient(verify=certificates())  # sends nothing: the client is asked for its headers alone
        client = openai.AsyncOpenAI(api_key=secret or "none", base_url=self.address, http_client=backend)
        said = {name: value for name, value in client.default_headers.items() if isinstance(value, str)}
        said |= {"Authorization": f"Bearer {secret}"} if secret else {}
        self.headers = CIMultiDict({**said, "Content-Type": "application/json"})
        self.query = urlsplit(base_url or "").query
        self._proxy = _proxy_of(self.address)
        self._session: aiohttp.ClientSession | None = None

    def url(self, path: str) -> URL:
        """The full URL of a path below the address, with the address's own query."""
        joint = "&" if "?" in path else "?"
        return URL(f"{self.address}{path}{joint + self.query if self.query else ''}")

    def request(
        self, method: str, url: URL, data: Any = None, headers: CIMultiDict[str] | None = None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send a request; `headers` replace the usual ones."""
        session = self._session = self._session or self._opened()
        return session.request(
            method, url, data=data, headers=headers or self.headers, allow_redirects=False, proxy=self._proxy
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        # How long all of it may take is the caller's business.
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ssl=certificates()),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )


class HttpTransport:
    """Posts over HTTP from this process; see `Http` for the arguments."""

    def __init__(self, base_url: str | None, secret: str) -> None:
        self._http = Http(base_url, secret)
        self._urls: Mapping[Api, URL] = {api: self._http.url(path) for api, path in PATHS.items()}
        # Errors name the request that they are about; its headers stay out of them.
        self._named = {api: httpx2.Request("POST", str(url)) for api, url in self._urls.items()}

    async def send(self, api: Api, content: bytes) -> httpx2.Response:
        """Post a document; see `Transport.send`."""
        try:
            async with self._http.request("POST", self._urls[api], content) as reply:
                pieces: list[bytes] = []
                size = 0
                async for piece in reply.content.iter_any():
                    pieces.append(piece)
                    size += len(piece)
                    if size > LARGEST_REPLY:
                        break
                said = [(k, v) for k, v in reply.headers.items() if k.lower().startswith(_WORTH_KEEPING)]
                return httpx2.Response(reply.status, headers=said, content=b"".join(pieces), request=self._named[api])
        except aiohttp.ClientConnectorError as error:
            raise UnreachableError(connection_problem(error)) from error
        except TimeoutError as error:
            raise openai.APITimeoutError(request=self._named[api]) from error
        except (aiohttp.ClientError, OSError) as error:
            raise openai.APIConnectionError(request=self._named[api]) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()


def connection_problem(error: aiohttp.ClientConnectorError) -> str:
    """Why there is no connection, in the system's words: without address, which is said already, and numbers."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no such host"
    number = error.errno
    # A certificate's fault has a number that means something else.
    if number is None or number <= 0 or isinstance(error, aiohttp.ClientSSLError):
        return str(error)
    return os.strerror(number).lower()


def _proxy_of(address: str) -> str | None:
    """The proxy that the environment names for an address."""
    parts = urlsplit(address)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
