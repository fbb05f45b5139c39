"""The driver's side of a cluster: which worker posts what, and what becomes of it when a worker dies.

To the online engine this is a transport like any other. A request comes here with its permit: one limiter, in the driver, keeps all
workers together to one rate and one concurrency, and the permits travel to the workers in the same blocks as the requests. A worker
that dies takes no permit with it, because the driver knows which requests it held; to the engine they are broken connections.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai

from relabel import __version__
from relabel.errors import DataError, ProviderError
from relabel.labelling.engines.ray_sender import BLOCK, BLOCK_BYTES, Back, Hello, Posting
from relabel.labelling.engines.transport import SECONDS, Patience, UnreachableError
from relabel.labelling.request import KEY_VERSION
from relabel.labelling.wire import Api

NOBODY_S = 30.0
"""Seconds that a request waits for a worker when none is up."""
SILENT_S = 30.0
"""A worker that says nothing for so long is taken for lost; one that has nothing to say speaks every few seconds."""
MISSED_S = 10.0
"""Seconds in which a worker that cannot be reached may come back with all that it held."""
_AGAIN_S = 0.25

Call = Callable[..., Awaitable[Any]]
"""Calls a worker's method by name, with its arguments."""


class WorkerLostError(Exception):
    """A worker cannot be reached, now or ever.

    Attributes:
        forever: Whether the cluster will not start it again.
    """

    def __init__(self, message: str, *, forever: bool = False) -> None:
        super().__init__(message)
        self.forever = forever


@dataclass
class _Peer:
    """A worker as the driver sees it."""

    name: str
    call: Call
    room: float
    node: str = ""
    incarnation: str = ""
    up: bool = False
    gone: str = ""
    after: int = 0
    flying: dict[int, _Flight] = field(default_factory=dict[int, "_Flight"])
    outbox: deque[int] = field(default_factory=deque[int])
    dropped: list[int] = field(default_factory=list[int])
    wake: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Flight:
    posting: Posting
    future: asyncio.Future[Back]


class RayTransport:
    """Sends through the workers of a cluster.

    Args:
        calls: One for each worker.
        base_url: The address that workers post to; None for OpenAI's own, or when each serves the model itself.
        secret: The provider's key.
        patience: How long to wait for an answer.
        room: Requests that one worker may hold at once; None sets no bound but the limiter's.
        needs_key: Whether nothing is answered without a key.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        base_url: str | None,
        secret: str,
        *,
        patience: Patience | None = None,
        room: int | None = None,
        needs_key: bool = False,
    ) -> None:
        self._base_url, self._secret, self._needs_key = base_url, secret, needs_key
        self._attempt_s = (patience or Patience()).attempt_s
        self._peers = [_Peer(f"worker {n}", call, room or math.inf) for n, call in enumerate(calls, start=1)]
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self._fatal: ProviderError | DataError | None = None
        self._serving: list[asyncio.Task[None]] = []

    async def open(self, wait_s: float) -> None:
        """Start to serve, and wait until every worker is up; those that take longer join later.

        Args:
            wait_s: Seconds to wait at most, once one worker is up; as long again for the first.

        Raises:
            ProviderError: No worker came up, or one is of another version.
            DataError: A worker lacks the model's file.
        """
        self._serving = [asyncio.create_task(self._serve(peer)) for peer in self._peers]
        for wanted in (len(self._peers), 1):
            try:
                async with asyncio.timeout(wait_s):
                    while sum(peer.up for peer in self._peers) < wanted:
                        if self._fatal is not None:
                            raise self._fatal
                        await self._change()
                return
            except TimeoutError:
                continue
        raise ProviderError(
            f"no worker of the cluster came up within {2 * wait_s:.0f} s; `ray status` says whether there is room for them, and fewer --workers or --worker-cpus may help"
        )

    async def send(self, api: Api, content: bytes) -> httpx2.Response:
        """Post a document through the worker that has the least to do; see `Transport.send`."""
        peer = await self._choose()
        posting = Posting(next(self._numbers), api, content, self._attempt_s)
        flight = _Flight(posting, asyncio.get_running_loop().create_future())
        peer.flying[posting.number] = flight
        peer.outbox.append(posting.number)
        peer.wake.set()
        try:
            back = await flight.future
        finally:
            if peer.flying.pop(posting.number, None) is not None and flight.future.cancelled():
                peer.dropped.append(posting.number)  # nobody waits for it any more
                peer.wake.set()
            if peer.room != math.inf:
                self._changed.set()
        request = httpx2.Request("POST", f"http://{peer.node or 'worker'}/")
        if back.fault == "unreachable":
            raise UnreachableError(back.words)
        if back.fault == "timeout":
            raise openai.APITimeoutError(request=request)
        if back.fault:
            raise openai.APIConnectionError(request=request) from ConnectionError(back.words)
        return httpx2.Response(
            back.status, headers=back.headers, content=back.content, request=request, extensions={SECONDS: back.seconds}
        )

    async def close(self) -> None:
        """Stop serving. The workers themselves are the cluster's to end."""
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        for peer in self._peers:
            self._lose(peer, "the run is over")

    async def _choose(self) -> _Peer:
        loop = asyncio.get_running_loop()
        seen = loop.time()
        while True:
            if self._fatal is not None:
                raise self._fatal
            up = [peer for peer in self._peers if peer.up]
            if up:
                seen = loop.time()
                peer = min(up, key=lambda peer: len(peer.flying))
                if len(peer.flying) < peer.room:
                    return peer
            elif loop.time() - seen >= NOBODY_S:
                raise UnreachableError("no worker of the cluster is up")
            try:
                async with asyncio.timeout(NOBODY_S):
                    await self._change()
            except TimeoutError:
                continue

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _serve(self, peer: _Peer) -> None:
        """Keep one worker busy for as long as the run lasts, whatever happens to it."""
        missed_since: float | None = None
        loop = asyncio.get_running_loop()
        while self._fatal is None:
            try:
                await self._greet(peer)
                missed_since = None
                peer.up = True
                self._changed.set()
                await self._talk(peer)
            except WorkerLostError as error:
                peer.up = False
                missed_since = loop.time() if missed_since is None else missed_since
                if error.forever or loop.time() - missed_since >= MISSED_S:
                    self._lose(peer, str(error))
                if error.forever:
                    peer.gone = str(error)
                    if all(other.gone for other in self._peers):
                        self._fail(
                            ProviderError(
                                f"all workers of the cluster are gone ({peer.gone}); start the same run again, answers come from the store"
                            )
                        )
                    return
                await asyncio.sleep(_AGAIN_S)
            except (ProviderError, DataError) as error:
                self._fail(error)

    async def _greet(self, peer: _Peer) -> None:
        hello: Hello = await _soon(peer.call("hello"))
        if hello.incarnation != peer.incarnation:
            if peer.incarnation:
                self._lose(peer, f"the {peer.name} on the node {peer.node} died")
            self._check(hello)
            peer.incarnation, peer.node, peer.after = hello.incarnation, hello.node, 0
            wrong = await peer.call("open", self._base_url, self._secret)
            if wrong is not None:
                raise (DataError if wrong[0] == "data" else ProviderError)(wrong[1])
        # What it may have missed; it posts nothing twice that it has.
        peer.outbox = deque(sorted(peer.flying))
        peer.wake.set()

    async def _talk(self, peer: _Peer) -> None:
        tasks = [asyncio.create_task(self._hand_out(peer)), asyncio.create_task(self._collect(peer))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _hand_out(self, peer: _Peer) -> None:
        while True:
            await peer.wake.wait()
            await asyncio.sleep(0)  # what is asked at the same moment travels in the same block
            peer.wake.clear()
            if peer.dropped:
                dropped, peer.dropped = peer.dropped, []
                await peer.call("drop", dropped)
            while block := _block(peer):
                await peer.call("take", block, next(iter(peer.flying), block[0].number))

    async def _collect(self, peer: _Peer) -> None:
        while True:
            backs: list[Back] = await _soon(peer.call("give", peer.after))
            for back in backs:
                peer.after = back.serial
                flight = peer.flying.get(back.number)
                if flight is not None and not flight.future.done():
                    flight.future.set_result(back)

    def _check(self, hello: Hello) -> None:
        if (hello.version, hello.key_version) != (__version__, KEY_VERSION):
            raise ProviderError(
                f"the node {hello.node} runs relabel {hello.version} and this machine {__version__}; install the same version on every node"
            )
        if self._needs_key and not self._secret and not hello.has_key:
            raise ProviderError(
                f"there is no key for OpenAI, here or on the node {hello.node}; set OPENAI_API_KEY, or name another server with --base-url"
            )

    def _lose(self, peer: _Peer, why: str) -> None:
        for number, flight in list(peer.flying.items()):
            del peer.flying[number]
            if not flight.future.done():
                flight.future.set_result(Back(0, number, 0, [], b"", 0.0, "broken", why))
        peer.outbox.clear()
        peer.dropped.clear()
        self._changed.set()

    def _fail(self, error: ProviderError | DataError) -> None:
        self._fatal = self._fatal or error
        for peer in self._peers:
            self._lose(peer, str(error))


def _block(peer: _Peer) -> list[Posting]:
    block: list[Posting] = []
    size = 0
    while peer.outbox and len(block) < BLOCK:
        flight = peer.flying.get(peer.outbox[0])
        if flight is not None and not flight.future.done():
            size += len(flight.posting.content)
            if block and size > BLOCK_BYTES:
                break
            block.append(flight.posting)
        peer.outbox.popleft()
    return block


async def _soon(answer: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(SILENT_S):
            return await answer
    except TimeoutError as error:
        raise WorkerLostError(f"a worker said nothing for {SILENT_S:.0f} s") from error
