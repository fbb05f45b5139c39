"""What a worker of a cluster does: it posts what the driver hands it, with the online engine's own HTTP, and gives replies back.

The driver keeps everything else: plan, limits, budget, retries, validation and store. A worker holds nothing that cannot be
lost: what it had in flight counts as a broken connection and is asked again by the same rules.

This module knows nothing of Ray, so that it can be tried without a cluster.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import time
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import openai

from relabel import __version__
from relabel.errors import DataError, RelabelError
from relabel.labelling.engines.local import LocalServer, find_weights, local_endpoint
from relabel.labelling.engines.transport import HttpTransport, Transport, UnreachableError
from relabel.labelling.request import KEY_VERSION
from relabel.labelling.wire import Api
from relabel.redaction import masked, may_hold_secret
from relabel.settings import settings

BLOCK_BYTES = 64_000
"""Most that goes over the cluster in one message, unless one document alone is larger. Ray sends what is below 100 kB straight from
process to process; only larger messages pass through its object store."""
BLOCK = 64
"""Most documents in one message."""
HEARD_S = 5.0
"""A worker with nothing to give back says so after this long."""
_REMEMBERED = 10_000
_LINGER_S = 0.003
"""Replies that come together travel together."""


class LocalModel(NamedTuple):
    """A model that each worker serves for itself.

    Attributes:
        model: As the user named it.
        alias: Its name on the wire, which says which weights are meant.
        threads: Processor threads of the server; None takes the node's, up to 8.
    """

    model: str
    alias: str
    threads: int | None


class Hello(NamedTuple):
    """Who a worker is.

    Attributes:
        incarnation: Differs after each start of the worker's process.
        node: The node's host name.
        version: relabel's version there.
        key_version: The version of its request keys.
        python: Python's version there.
        has_key: Whether the node's environment holds a provider's key.
    """

    incarnation: str
    node: str
    version: str
    key_version: int
    python: str
    has_key: bool


class Posting(NamedTuple):
    """A document to post.

    Attributes:
        number: Tells it from others of the same driver.
        api: The dialect.
        content: The document.
        attempt_s: Seconds that the driver waits for its reply.
    """

    number: int
    api: Api
    content: bytes
    attempt_s: float


class Back(NamedTuple):
    """What came of a posting: a reply, or the kind of fault and its words.

    Attributes:
        serial: Counts up with each that a worker has to give back.
        number: The posting's number.
        status: HTTP status; 0 when there is no reply.
        headers: The headers that matter.
        content: The reply's body.
        seconds: From sending to the reply's end.
        fault: `unreachable`, `timeout` or `broken` when there is no reply.
        words: What is known of the fault.
    """

    serial: int
    number: int
    status: int
    headers: list[tuple[str, str]]
    content: bytes
    seconds: float
    fault: str
    words: str


class Sender:
    """One worker.

    Args:
        local: The model to serve here; None when requests go to an address that all workers share.
    """

    def __init__(self, local: LocalModel | None) -> None:
        self._local = local
        self._incarnation = uuid.uuid4().hex
        self._transport: Transport | None = None
        self._open = ExitStack()
        self._flying: dict[int, asyncio.Task[None]] = {}
        self._seen: set[int] = set()
        self._kept: deque[Back] = deque()
        self._count = 0
        self._ready = asyncio.Event()

    async def hello(self) -> Hello:
        """Say who this is."""
        there = settings().openai_api_key
        has_key = there is not None and bool(there.get_secret_value())
        return Hello(
            self._incarnation, socket.gethostname(), __version__, KEY_VERSION, platform.python_version(), has_key
        )

    async def open(self, base_url: str | None, secret: str) -> tuple[str, str] | None:
        """Get ready to send. The key comes here and not into the constructor, whose arguments a cluster keeps.

        Args:
            base_url: The address; None for OpenAI's own, or when this worker serves the model itself.
            secret: The provider's key; when empty, the one in this node's environment, if any.

        Returns:
            None, or what is wrong: `data` or `provider`, and a sentence.
        """
        if self._transport is not None:
            return None
        if not secret and self._local is None and (own := settings().openai_api_key) is not None:
            secret = own.get_secret_value()
        try:
            if self._local is not None:
                base_url = await asyncio.to_thread(self._serve, self._local)
        except RelabelError as error:
            return "data" if isinstance(error, DataError) else "provider", str(error)
        self._transport = HttpTransport(base_url, secret)
        return None

    def _serve(self, local: LocalModel) -> str:
        weights = find_weights(local.model, settings().models_dir)
        found = local_endpoint(local.model).model
        if found != local.alias:
            raise DataError(
                f"{weights} on the node {socket.gethostname()} is {found}, and the run asks {local.alias}; put the same file on each node"
            )
        return self._open.enter_context(LocalServer(weights, local.alias, threads=local.threads)).base_url

    async def take(self, block: Sequence[Posting], oldest: int) -> None:
        """Post documents. What was handed over before is not posted again: a driver that lost a call repeats it.

        Args:
            block: The documents.
            oldest: The lowest number that the driver still waits for; lower ones need not be remembered.
        """
        if len(self._seen) > _REMEMBERED:
            self._seen = {number for number in self._seen if number >= oldest}
        for posting in block:
            if posting.number not in self._seen:
                self._seen.add(posting.number)
                self._flying[posting.number] = asyncio.create_task(self._post(posting))

    async def drop(self, numbers: Iterable[int]) -> None:
        """Let go of documents whose replies nobody waits for any more."""
        for number in numbers:
            if (task := self._flying.pop(number, None)) is not None:
                task.cancel()

    async def give(self, after: int) -> list[Back]:
        """Give replies back, as soon as there are some; none when nothing came for a while.

        A reply is kept until the driver has asked for what came after it: a call that is lost loses no reply.

        Args:
            after: The last serial number that the driver has.
        """
        while self._kept and self._kept[0].serial <= after:
            self._kept.popleft()
        if not self._kept:
            self._ready.clear()
            try:
                async with asyncio.timeout(HEARD_S):
                    await self._ready.wait()
            except TimeoutError:
                return []
            await asyncio.sleep(_LINGER_S)
        backs: list[Back] = []
        size = 0
        for back in self._kept:
            size += len(back.content)
            if backs and (size > BLOCK_BYTES or len(backs) == BLOCK):
                break
            backs.append(back)
        return backs

    async def close(self) -> None:
        """Stop the model's server."""
        await asyncio.to_thread(self._open.close)

    async def _post(self, posting: Posting) -> None:
        status, headers, content, fault, words = 0, list[tuple[str, str]](), b"", "", ""
        assert self._transport is not None
        started = time.monotonic()
        try:
            # The driver lets go earlier; this is for the one whose word did not arrive.
            async with asyncio.timeout(posting.attempt_s + HEARD_S):
                response = await self._transport.send(posting.api, posting.content)
            status, content = response.status_code, response.content
            headers = list(response.headers.items())
        except UnreachableError as error:
            fault, words = "unreachable", str(error)
            if self._local is not None:
                os._exit(1)  # its own server is gone: a new process, which the cluster starts, begins with a new one
        except (openai.APITimeoutError, TimeoutError):
            fault = "timeout"
        except openai.APIConnectionError as error:
            fault, words = "broken", str(error.__cause__ or error) or type(error.__cause__).__name__
        seconds = time.monotonic() - started
        # A key from this node's environment must not leave it.
        if may_hold_secret(text := content.decode("utf-8", "replace")):
            content = masked(text).encode()
        words = masked(words)
        if self._flying.pop(posting.number, None) is None:
            return
        self._count += 1
        self._kept.append(Back(self._count, posting.number, status, headers, content, seconds, fault, words))
        self._ready.set()
