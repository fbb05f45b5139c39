"""How a request gets to the provider: by HTTP from this process, or from another one that does the same."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import select
import ssl
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from multidict import CIMultiDict
from yarl import URL

from relabel import __version__
from relabel.errors import UsageError
from relabel.labelling.providers import COST_HEADERS, OPENAI_URL, UNKNOWN, UPSTREAM_HEADERS, Provider, provider_of
from relabel.labelling.wire import PATHS, Api
from relabel.redaction import clean, guard, guard_address, masked, public_url

if TYPE_CHECKING:
    import aiohttp

CONNECT_TIMEOUT_S = 20.0


LARGEST_REPLY = 16 * 2**20
"""Bytes; what is longer is not an answer about a task, and is not read to its end."""
_WORTH_KEEPING = ("x-ratelimit-", "retry-after", "location", "content-type", *UPSTREAM_HEADERS)
"""Beginnings of names of headers that are read."""


@cache
def certificates() -> ssl.SSLContext:
    """Whom to trust: `SSL_CERT_FILE` and `SSL_CERT_DIR`, else certifi's list. Read once: that takes longer than a hundred requests.

    Raises:
        UsageError: What a variable names is not there, or holds no certificates.
    """
    import certifi

    named = {name: os.environ[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)}
    try:
        if not named:
            return ssl.create_default_context(cafile=certifi.where())
        if missing := {name: path for name, path in named.items() if not Path(path).exists()}:
            named = missing
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return ssl.create_default_context(cafile=named.get("SSL_CERT_FILE"), capath=named.get("SSL_CERT_DIR"))
    except OSError as error:  # ssl.SSLError is one
        what = " and ".join(f"{name}={path}" for name, path in named.items())
        raise UsageError(
            f"no certificates can be read from {what} ({error.strerror or error}); name a PEM file, or unset the variable"
        ) from None


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for an answer.

    Attributes:
        attempt_s: Seconds for one attempt.
        deadline_s: Seconds for one request, all attempts and pauses included; waiting for a turn is not.
    """

    attempt_s: float = 90.0
    deadline_s: float = 300.0

    @classmethod
    def of(cls, attempt_s: float) -> Timeouts:
        """So many seconds for an attempt, and time for three of them."""
        return cls(attempt_s, max(cls.deadline_s, 3 * attempt_s))


LOCAL_TIMEOUTS = Timeouts.of(900.0)
"""For a model served on this machine: it costs nothing, and where much else runs it is slow and not dead."""


class UnreachableError(Exception):
    """Nothing was sent, because there is nobody to send to.

    Attributes:
        lasting: Whether trying again is of no use: the certificate is not trusted, or the proxy refuses.
    """

    def __init__(self, why: str, *, lasting: bool = False) -> None:
        super().__init__(clean(why))
        self.lasting = lasting


class BrokenError(Exception):
    """The connection broke; the provider may have the request."""

    def __init__(self, why: str) -> None:
        super().__init__(clean(why))


class UnreadableError(Exception):
    """A reply came in an encoding that was not offered, or is not in the one that it names; the message is its name."""


_connection: ContextVar[int] = ContextVar("_connection", default=0)


@cache
def _connector_class() -> type[aiohttp.TCPConnector]:
    import aiohttp

    class Connector(aiohttp.TCPConnector):
        """Connections on which nothing came unasked: what lies on an idle one would be taken for the next answer."""

        async def _get(self, key: Any, traces: Any) -> Any:
            while (found := await super()._get(key, traces)) is not None:
                protocol = found.protocol
                if protocol is not None and not protocol.should_close and not _is_readable(protocol.transport):
                    break
                found.close()
            return found

        async def connect(self, *args: Any, **options: Any) -> Any:
            connection = await super().connect(*args, **options)
            _connection.set(id(connection.protocol))
            return connection

    return Connector


def _is_readable(transport: asyncio.Transport | None) -> bool:
    """Whether something has come on a connection, or it was closed, that the loop has not looked at yet."""
    socket = None if transport is None else transport.get_extra_info("socket")
    if socket is None or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class HttpReply(NamedTuple):
    """What a server sent: status, those of the headers that matter, by lower-case name, the body, and over which connection."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    connection: int = 0


class Transport(Protocol):
    """Carries one request to the provider and brings the reply back."""

    async def send(self, api: Api, content: bytes) -> HttpReply:
        """Post a document.

        Args:
            api: The dialect, which decides the path.
            content: The JSON document.

        Returns:
            The reply, whatever its status.

        Raises:
            UnreachableError: Nothing was sent.
            UnreadableError: The reply cannot be decoded.
            TimeoutError: It took too long.
            BrokenError: The connection broke; the provider may have the request.
            ProviderError: Nothing can be sent any more.
        """
        ...

    def leave_connections(self) -> None:
        """Send what comes next over new connections: one of those that there are brought what was not asked for."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Http:
    """One provider's address over aiohttp: who is trusted, which proxy, which headers. Redirects are never followed.

    They would carry tasks, and perhaps the key, to where the user did not send them.

    Args:
        base_url: Address of the API; None for OpenAI's own.
        secret: The provider's key; empty for servers that need none.
        provider: Whose address it is, which says in which header the key goes; by default told by the address.
        headers: Headers that the user adds; they replace others of the same name.
    """

    def __init__(
        self, base_url: str | None, secret: str, provider: Provider = UNKNOWN, headers: Mapping[str, str] | None = None
    ) -> None:
        guard(secret)
        guard_address(base_url)
        secret = secret.strip(" ")
        require_sendable(secret)
        self.address = public_url((base_url or OPENAI_URL).partition("?")[0]).rstrip("/")
        self.headers = CIMultiDict(
            {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": f"relabel/{__version__}"}
        )
        known = provider_of(base_url or OPENAI_URL) if provider is UNKNOWN else provider
        self.headers.update(known.headers(secret))
        self.headers.update(headers or {})
        self.query = urlsplit(base_url or "").query
        self._proxy = proxy_of(self.address)
        certificates()
        self._session: aiohttp.ClientSession | None = None
        self._left: list[aiohttp.ClientSession] = []

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

    def leave_connections(self) -> None:
        """Send what comes next over new connections; what is in flight stays on those that there are."""
        self._left += [self._session] if self._session else []
        self._session = None

    async def close(self) -> None:
        """Close the connections."""
        self.leave_connections()
        for session in self._left:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        import aiohttp

        # How long all of it may take is the caller's business.
        return aiohttp.ClientSession(
            connector=_connector_class()(limit=0, keepalive_timeout=30, ssl=certificates()),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )


class HttpTransport(Http):
    """Posts over HTTP from this process; see `Http` for the arguments."""

    @cached_property
    def _urls(self) -> Mapping[Api, URL]:
        return {api: self.url(path) for api, path in PATHS.items()}

    async def send(self, api: Api, content: bytes) -> HttpReply:
        """Post a document; see `Transport.send`."""
        import aiohttp

        try:
            async with self.request("POST", self._urls[api], content) as reply:
                pieces: list[bytes] = []
                size = 0
                async for piece in reply.content.iter_any():
                    pieces.append(piece)
                    size += len(piece)
                    if size > LARGEST_REPLY:
                        break
                named = ((name.lower(), value) for name, value in reply.headers.items())
                kept = {
                    name: masked(value)
                    for name, value in named
                    if name.startswith(_WORTH_KEEPING) or name.endswith(COST_HEADERS)
                }
                return HttpReply(reply.status, kept, b"".join(pieces), _connection.get())
        except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError) as error:
            refused = isinstance(error, aiohttp.ClientHttpProxyError) and error.status < 500
            distrusted = isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError))
            raise UnreachableError(connection_problem(error), lasting=refused or distrusted) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise UnreachableError(f"no connection within {CONNECT_TIMEOUT_S:g} s") from error
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            if (encoding := re.search(r"(?i)can not decode content-encoding: ([^.]*)", why)) is not None:
                raise UnreadableError(encoding[1]) from error
            raise BrokenError(why) from error


def connection_problem(error: aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError) -> str:
    """Why there is no connection, in the system's words: without address, which is said already, and numbers."""
    import aiohttp

    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answers HTTP {error.status}; check its address, user and password"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"its proxy {error.host}:{error.port}: {error.strerror or error.os_error}".lower()
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no such host"
    number = error.errno
    # A certificate's fault has a number that means something else.
    if number is None or number <= 0 or isinstance(error, aiohttp.ClientSSLError):
        return str(error)
    return os.strerror(number).lower()


def require_sendable(key: str) -> None:
    """Make sure that a key can stand in a header, before anything is sent.

    Raises:
        UsageError: It holds what no key holds: line breaks, quotes around it, characters beyond ASCII.
    """
    if "\n" in key or "\r" in key:
        wrong = "holds a line break"
    elif key[:1] in {"'", '"', "`"} and key[-1:] == key[:1]:
        wrong = "stands in quotes"
    elif not key.isascii():
        wrong = "holds characters that no key has, such as typographic quotes"
    elif not key.isprintable():
        wrong = "holds control characters"
    else:
        return
    raise UsageError(f"the key {wrong}; set OPENAI_API_KEY again, to the key alone")


def proxy_of(address: str) -> URL | None:
    """The proxy that the environment names for an address; `NO_PROXY` is honoured, with networks and IPv6 addresses too.

    Raises:
        UsageError: The proxy cannot be used.
    """
    parts = urlsplit(address)
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or _in_a_network(parts.hostname or "", proxies.get("no", "")) or proxy_bypass(parts.netloc):
        return None
    guard_address(found)
    name = f"{parts.scheme if parts.scheme in proxies else 'all'}_proxy".upper()
    scheme, joint, _ = found.partition("://")
    shown = public_url(found)
    if not joint:
        raise UsageError(f"{name} has no scheme; write {name}=http://{found.rpartition('@')[2]}")
    if scheme.lower() not in {"http", "https"}:
        raise UsageError(
            f"{name} is {shown}, and relabel sends through HTTP proxies only; name an http:// proxy, or add {parts.hostname} to NO_PROXY"
        )
    try:
        url = URL(found)
        if not url.host or url.port is None:
            raise ValueError("no host")
    except ValueError:
        raise UsageError(
            f"{name} is not a valid address; write http://USER:PASSWORD@HOST:PORT, with special characters of the password as %XX"
        ) from None
    return url


def _in_a_network(host: str, exceptions: str) -> bool:
    """Whether `NO_PROXY` names a network that a host is in, or its domain as `*.NAME`; the library reads all else."""
    for name in (one.strip().strip("[]").lower() for one in exceptions.split(",")):
        if name.startswith("*.") and host.lower().endswith(name[1:]):
            return True
        with suppress(ValueError):
            if ip_address(host) in ip_network(name, strict=False):
                return True
    return False
