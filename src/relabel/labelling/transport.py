"""HTTP transport to the provider: addresses, keys, certificates, proxies and timeouts."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import select
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from multidict import CIMultiDict
from pydantic import SecretStr
from yarl import URL

from relabel import __version__
from relabel.errors import ProviderError, UsageError
from relabel.files import os_errors
from relabel.labelling.local import is_local
from relabel.labelling.providers import (
    COST_HEADERS,
    OPENAI_URL,
    TIER_HEADER,
    UNKNOWN,
    UPSTREAM_HEADERS,
    Price,
    Provider,
    provider_of,
)
from relabel.labelling.request import Endpoint
from relabel.labelling.wire import PATHS, Api
from relabel.redaction import clean, guard, guard_address, guard_headers, is_secret_header, masked, public_url
from relabel.settings import Settings

if TYPE_CHECKING:
    import aiohttp

CONNECT_TIMEOUT_S = 20.0
# More than the maximum number of requests in flight, and less than macOS grants.
MOST_OPEN_FILES = 8192
# Maximum number of bytes read of a reply; an answer about a task is never longer.
LARGEST_REPLY = 16 * 2**20
# Maximum number of bytes of a header: gateways send lists of allowed sources that are longer than aiohttp's 8,190.
LARGEST_HEADER = 2**16
# Parts of an event stream around a reply that is none: comments before it, with which OpenRouter keeps connections alive, and
# the mark of the end after it, as some gateways send it.
_STREAM_PARTS = re.compile(rb"\A\s*(?::[^\n]*\n\s*)+|data:\s*\[DONE\]\s*\Z")
# Prefixes of the names of headers that are used; the others are dropped.
_USED_HEADERS = ("x-ratelimit-", "retry-after", "location", "content-type", TIER_HEADER, *UPSTREAM_HEADERS)
_TRANSPORT_HEADERS = {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


@cache
def certificates() -> ssl.SSLContext:
    """Trusted certificates, from `SSL_CERT_FILE` and `SSL_CERT_DIR`, otherwise from certifi; cached, because reading them is slow.

    Raises:
        UsageError: The file does not exist, or has no certificates.
    """
    import certifi

    file, folder = (os.environ.get(name) or None for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    problem = f"no certificates can be read from SSL_CERT_FILE={file}"
    with os_errors(problem, "name a PEM file, or unset the variable", refuse=UsageError):  # ssl.SSLError is an OSError
        return ssl.create_default_context(cafile=file or (None if folder else certifi.where()), capath=folder)


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for an answer.

    Attributes:
        attempt_s: Seconds for one attempt.
        deadline_s: Seconds for one request with all attempts and pauses, not counting the wait for a slot.
    """

    attempt_s: float = 90.0
    deadline_s: float = 300.0

    @classmethod
    def for_attempt(cls, attempt_s: float) -> Timeouts:
        """Timeouts with a given number of seconds per attempt, and time for three attempts."""
        return cls(attempt_s, max(cls.deadline_s, 3 * attempt_s))


# For a model served on this machine: retries cost nothing, and a busy machine may be slow.
LOCAL_TIMEOUTS = Timeouts.for_attempt(900.0)


@dataclass(frozen=True)
class Connection:
    """A model and how to reach it.

    Attributes:
        base_url: The address of the API; None for OpenAI's, and for a local server, which gets one when it starts.
        key: The provider's key; None for servers that need none.
        price: The model's price; None if unknown.
        timeouts: How long to wait for an answer.
        provider: The provider at this address.
        headers: Headers that the user adds to each request.
        model: The model as the user named it.
        endpoint: What the answers depend on.
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
        """The address for manifests and messages, without credentials."""
        return "local" if is_local(self.model) else public_url(self.base_url or OPENAI_URL)

    @property
    def secret(self) -> str:
        """The key in plain text; empty if there is none."""
        return self.key.get_secret_value() if self.key else ""


def parse_headers(items: Sequence[str]) -> dict[str, str]:
    """Parse the user's headers; credentials in them are registered for redaction.

    Args:
        items: Headers as `NAME=VALUE`.

    Raises:
        UsageError: An item is not a valid header, or relabel sets it itself.
    """
    headers: dict[str, str] = {}
    for item in items:
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not _HEADER_NAME.fullmatch(name) or not value.isprintable() or not value.isascii():
            shown = name if _HEADER_NAME.fullmatch(name) else "(its name)"
            raise UsageError(f"--header {shown} must be NAME=VALUE, the name and value of an HTTP header")
        if name.lower() in _TRANSPORT_HEADERS:
            raise UsageError(f"--header {name} cannot be set: relabel sets it for each request; remove the option")
        headers[name] = value
    guard_headers(headers)
    return headers


def public_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers without credentials, by lower-case name; these are recorded, and are part of the request key."""
    return {name.lower(): value for name, value in sorted(headers.items()) if not is_secret_header(name, value)}


def key_for(provider: Provider, environment: Settings, key_env: str | None = None) -> SecretStr | None:
    """The key for a provider: from the variable that the user names, otherwise from the provider's own.

    `OPENAI_API_KEY` is sent to OpenAI and to unknown addresses, and to other known providers only if it is named.

    Raises:
        UsageError: The variable that the user names is not set.
    """
    if key_env is not None:
        if not (value := os.environ.get(key_env, "").strip()):
            raise UsageError(
                f"--key-env names {key_env if key_env.isupper() else 'a variable'}, which is not set; export it, or remove --key-env"
            )
        return SecretStr(value)
    if not provider.key_env:
        return environment.openai_api_key
    key = next((value for name in provider.key_env if (value := os.environ.get(name, "").strip())), None)
    return SecretStr(key) if key else None


def require_key(provider: Provider, key: SecretStr | None) -> None:
    """Check that there is a key if the provider requires one.

    Raises:
        ProviderError: There is none.
    """
    if provider.key_env and not (key and key.get_secret_value().strip()):
        raise ProviderError(
            f"no key for {provider.name}: set {provider.key_env[0]}, or name the variable that holds it with --key-env, or try "
            "--model local"
        )


class TransportError(Exception):
    """There is no reply, or it cannot be read."""


class UnreachableError(TransportError):
    """Nothing was sent, because the server cannot be reached.

    Attributes:
        lasting: Whether a retry is pointless, because the certificate is not trusted or the proxy refuses.
    """

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(clean(reason))
        self.lasting = lasting


class BrokenError(TransportError):
    """The connection broke; the provider may have received the request."""


class UnreadableError(TransportError):
    """The content encoding of a reply is unknown or wrong."""


_connection: ContextVar[int] = ContextVar("_connection", default=0)


# Whether nothing else in this process uses aiohttp; commands set it.
alone = False


def _load_aiohttp() -> None:
    """Import aiohttp, in a process of our own without the machine's certificates.

    It reads them twice, which takes a tenth of a second, and relabel hands it those of `certificates`.
    """
    if alone and "aiohttp" not in sys.modules:
        ssl.SSLContext.set_default_verify_paths = lambda _: None  # pyright: ignore[reportAttributeAccessIssue]  # hides the inherited method
        try:
            import_module("aiohttp")
        finally:
            del ssl.SSLContext.set_default_verify_paths


@cache
def _connector_class() -> type[aiohttp.TCPConnector]:
    _load_aiohttp()
    import aiohttp

    class Connector(aiohttp.TCPConnector):
        """Drops connections with unread data, which would be taken for the next answer."""

        async def _get(self, key: Any, traces: Any) -> Any:
            while (connection := await super()._get(key, traces)) is not None:
                protocol = connection.protocol
                if protocol is not None and not protocol.should_close and not _is_readable(protocol.transport):
                    break
                connection.close()
            return connection

        async def connect(self, *args: Any, **options: Any) -> Any:
            connection = await super().connect(*args, **options)
            _connection.set(id(connection.protocol))
            return connection

    return Connector


def _is_readable(transport: asyncio.Transport | None) -> bool:
    """Whether a connection has unread data, or has been closed without the event loop having noticed."""
    socket = None if transport is None else transport.get_extra_info("socket")
    if socket is None or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class HttpReply(NamedTuple):
    """A server's reply: status, relevant headers by lower-case name, body, and an id of the connection."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    connection: int = 0


Reader = Callable[["aiohttp.ClientResponse"], Awaitable[bytes]]


class Http:
    """Client for one provider's address, with aiohttp.

    Redirects are never followed: they would send tasks, and perhaps the key, to an address that the user did not choose.

    Args:
        base_url: Address of the API; None for OpenAI's.
        secret: The provider's key; empty for servers that need none.
        provider: The provider, which determines the header for the key; by default found by the address.
        headers: The user's headers, which replace others of the same name.
    """

    def __init__(
        self, base_url: str | None, secret: str, provider: Provider = UNKNOWN, headers: Mapping[str, str] | None = None
    ) -> None:
        guard(secret)
        guard_address(base_url)
        secret = secret.strip(" ")
        require_sendable("key", secret)
        self.address = public_url((base_url or OPENAI_URL).partition("?")[0]).rstrip("/")
        self.headers = CIMultiDict(
            {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": f"relabel/{__version__}"}
        )
        actual_provider = provider_of(base_url or OPENAI_URL) if provider is UNKNOWN else provider
        for name, value in actual_provider.headers(secret).items():
            require_sendable("id", value)
            self.headers[name] = value
        self.headers.update(headers or {})
        self.query = urlsplit(base_url or "").query
        self._urls = {api: self.url(path) for api, path in PATHS.items()}
        self._proxy = proxy_of(self.address)
        encrypted = "https" in {URL(self.address).scheme, self._proxy and self._proxy.scheme}
        self._trusted = certificates() if encrypted else True
        _connector_class()  # loads aiohttp before a request counts as sent
        self._session: aiohttp.ClientSession | None = None
        self._old_sessions: list[aiohttp.ClientSession] = []

    def url(self, path: str) -> URL:
        """The URL of a path below the address, with the address's query."""
        separator = "&" if "?" in path else "?"
        return URL(f"{self.address}{path}{separator + self.query if self.query else ''}")

    async def send(self, api: Api, content: bytes) -> HttpReply:
        """Post a document and return the reply, whatever its status.

        Args:
            api: The dialect, which determines the path.
            content: The JSON document.

        Raises:
            TransportError: There is no reply, or it cannot be read.
            TimeoutError: It took too long.
        """
        return await self.exchange("POST", self._urls[api], data=content)

    async def exchange(self, method: str, url: URL, *, read: Reader | None = None, **options: Any) -> HttpReply:
        """Send a request and return the reply; for errors see `send`.

        Args:
            method: The HTTP method.
            url: The URL.
            read: Reads the body of a successful reply; by default into memory.
            **options: Arguments for aiohttp: `data`, and `headers` to replace the usual ones.
        """
        import aiohttp

        session = self._session = self._session or self._opened()
        options = {"headers": self.headers, "allow_redirects": False, "proxy": self._proxy, **options}
        try:
            async with session.request(method, url, **options) as reply:
                content = await (_content if read is None or reply.status >= 300 else read)(reply)
                by_name = ((name.lower(), value) for name, value in reply.headers.items())
                used = {
                    name: masked(value)
                    for name, value in by_name
                    if name.startswith(_USED_HEADERS) or name.endswith(COST_HEADERS)
                }
                return HttpReply(reply.status, used, content, _connection.get())
        except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError) as error:
            refused = isinstance(error, aiohttp.ClientHttpProxyError) and error.status < 500
            untrusted = isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError))
            raise UnreachableError(_connection_problem(error), lasting=refused or untrusted) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise UnreachableError(f"no connection within {CONNECT_TIMEOUT_S:g} s") from error
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if (encoding := re.search(r"(?i)can not decode content-encoding: ([^.]*)", reason)) is not None:
                raise UnreadableError(
                    f"its reply cannot be decoded as {encoding[1]}; turn compression off there"
                ) from error
            raise BrokenError(f"the connection broke ({clean(reason)})") from error

    def leave_connections(self) -> None:
        """Use new connections from now on; requests in flight keep theirs."""
        self._old_sessions += [self._session] if self._session else []
        self._session = None

    async def close(self) -> None:
        """Close the connections."""
        self.leave_connections()
        for session in self._old_sessions:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        import aiohttp

        most_connections()
        # The caller limits the total time.
        return aiohttp.ClientSession(
            connector=_connector_class()(limit=0, keepalive_timeout=30, ssl=self._trusted),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            max_field_size=LARGEST_HEADER,
        )


def most_connections() -> int:
    """The number of connections that the limit of open files allows, after it is raised as far as the system allows.

    It is 256 on macOS. Some files are kept for the store, the run and modules that load.
    """
    most = MOST_OPEN_FILES
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = hard if 0 <= hard < most else most
        if 0 <= soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(1, most - 40)


async def _content(reply: aiohttp.ClientResponse) -> bytes:
    """The body of a reply; one that is too long is cut, and then cannot be parsed."""
    pieces: list[bytes] = []
    size = 0
    async for piece in reply.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST_REPLY:
            break
    return _STREAM_PARTS.sub(b"", b"".join(pieces))


def _connection_problem(error: aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError) -> str:
    """Why there is no connection, without error numbers."""
    import aiohttp

    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answers HTTP {error.status}; check its address, user and password"
    fault: Any = getattr(error, "certificate_error", None) or error.os_error
    if isinstance(error, aiohttp.ClientSSLError):
        advice = "if the server has no TLS, write http://"
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            advice = "name the PEM file of its authority in SSL_CERT_FILE"
        reason = f"TLS fails: {fault.strerror or fault}; {advice}"
    else:
        reason = os.strerror(fault.errno).lower() if fault.errno in errno.errorcode else fault.strerror or str(fault)
    name = "its proxy " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
    return f"{name}{error.host}:{error.port}: {reason}"


def require_sendable(name: str, value: str) -> None:
    """Check that a key or an id can be sent in a header.

    Raises:
        UsageError: It is in quotes, or contains line breaks, control characters or non-ASCII characters.
    """
    if value != value.strip("\"'`") or not (value.isascii() and value.isprintable()):
        raise UsageError(
            f"the {name} contains quotes, line breaks or other characters that no {name} has; set its environment variable, such as "
            f"OPENAI_API_KEY or OPENAI_ORG_ID, to the {name} only"
        )


def proxy_of(address: str) -> URL | None:
    """The proxy for an address, from the environment; `NO_PROXY` is respected, networks and IPv6 addresses in it included.

    Raises:
        UsageError: The proxy cannot be used.
    """
    parts = urlsplit(address)
    proxies = getproxies()
    proxy = (proxies.get(parts.scheme) or proxies.get("all") or "").strip()
    if not proxy or _in_a_network(parts.hostname or "", proxies.get("no", "")) or proxy_bypass(parts.netloc):
        return None
    guard_address(proxy)
    with suppress(ValueError):
        url = URL(proxy)
        if url.scheme in {"http", "https"} and url.host and url.port is not None:
            return url
    name = f"{parts.scheme if parts.scheme in proxies else 'all'}_proxy".upper()
    raise UsageError(
        f"{name} is not the address of an HTTP proxy; write {name}=http://USER:PASSWORD@HOST:PORT, with special characters of the "
        f"password as %XX, or add {parts.hostname} to NO_PROXY"
    )


def _in_a_network(host: str, exceptions: str) -> bool:
    """Whether `NO_PROXY` contains a network of the host, or its domain as `*.NAME`; the standard library handles other entries."""
    for name in (entry.strip().strip("[]").lower() for entry in exceptions.split(",")):
        if name.startswith("*.") and host.lower().endswith(name[1:]):
            return True
        with suppress(ValueError):
            if ip_address(host) in ip_network(name, strict=False):
                return True
    return False
