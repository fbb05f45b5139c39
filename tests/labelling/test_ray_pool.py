"""What the driver makes of its workers, without a cluster: workers here are the real thing, called in this process."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from relabel.errors import DataError, ProviderError
from relabel.labelling.engines import ray_pool
from relabel.labelling.engines.ray_pool import Call, RayTransport, WorkerLostError
from relabel.labelling.engines.ray_sender import BLOCK, BLOCK_BYTES, Hello, Posting, Sender
from relabel.labelling.engines.transport import SECONDS, UnreachableError
from relabel.labelling.wire import Api


class Provider:
    """Answers with the document that was posted, once it is let to."""

    def __init__(self) -> None:
        self.posted: Counter[bytes] = Counter()
        self.free = asyncio.Event()
        self.free.set()
        self.error: Exception | None = None

    async def send(self, api: Api, content: bytes) -> httpx2.Response:
        del api
        self.posted[content] += 1
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return httpx2.Response(200, headers={"x-ratelimit-remaining-requests": "7"}, content=content)

    async def close(self) -> None:
        return


class Worker:
    """A worker that can die, fall silent, or lose a call on its way back."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.blocks: list[int] = []
        self.lose_next: set[str] = set()
        self.dead: WorkerLostError | None = None
        self.hello: Hello | None = None
        self.wrong: tuple[str, str] | None = None
        self.sender = self._new()

    def _new(self) -> Sender:
        sender = Sender(None)
        sender._transport = self.provider  # pyright: ignore[reportPrivateUsage]  in the place of HTTP
        return sender

    def restart(self) -> None:
        self.sender = self._new()
        self.dead = None

    async def __call__(self, method: str, *arguments: Any) -> Any:
        if self.dead is not None:
            raise self.dead
        if method == "hello" and self.hello is not None:
            return self.hello
        if method == "open" and self.wrong is not None:
            return self.wrong
        if method == "take":
            self.blocks.append(len(arguments[0]))
        sender = self.sender
        answer = await getattr(sender, method)(*arguments)
        if self.dead is not None or sender is not self.sender:
            raise self.dead or WorkerLostError("gone")
        if method in self.lose_next:
            self.lose_next.discard(method)
            raise WorkerLostError("the line is cut")
        return answer


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "_AGAIN_S", 0.0)
    monkeypatch.setattr(ray_pool, "NOBODY_S", 0.05)
    monkeypatch.setattr(ray_pool, "MISSED_S", 0.2)


class Pool:
    """A transport over some workers, open for as long as the block lasts."""

    def __init__(self, *workers: Worker, room: int | None = None, needs_key: bool = False) -> None:
        calls: list[Call] = list(workers)
        self.transport = RayTransport(calls, "http://x/v1", "", room=room, needs_key=needs_key)

    async def __aenter__(self) -> RayTransport:
        await self.transport.open(5)
        return self.transport

    async def __aexit__(self, *_: object) -> None:
        await self.transport.close()


def send(transport: RayTransport, count: int) -> list[asyncio.Task[httpx2.Response]]:
    return [asyncio.create_task(transport.send("chat", json.dumps(n).encode())) for n in range(count)]


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  what is waited for raises no event
            await asyncio.sleep(0.01)


def workers_up(transport: RayTransport) -> int:
    return sum(peer.up for peer in transport._peers)  # pyright: ignore[reportPrivateUsage]  shows nowhere else


async def got(tasks: list[asyncio.Task[httpx2.Response]]) -> list[object]:
    found: list[httpx2.Response | BaseException] = await asyncio.gather(*tasks, return_exceptions=True)
    return [json.loads(x.content) if isinstance(x, httpx2.Response) else type(x) for x in found]


async def test_replies_reach_those_who_asked_and_say_what_the_limiter_needs() -> None:
    provider = Provider()
    async with Pool(Worker(provider), Worker(provider)) as transport:
        tasks = send(transport, 200)
        assert await got(tasks) == list(range(200))
        reply = tasks[0].result()
    assert reply.headers["x-ratelimit-remaining-requests"] == "7"
    assert reply.extensions[SECONDS] >= 0
    assert set(provider.posted.values()) == {1}


async def test_work_is_shared_and_travels_in_blocks() -> None:
    provider = Provider()
    workers = [Worker(provider) for _ in range(4)]
    async with Pool(*workers) as transport:
        await got(send(transport, 200))
    assert [sum(worker.blocks) for worker in workers] == [50] * 4
    assert max(len(worker.blocks) for worker in workers) < 10


async def test_a_block_stays_below_what_a_cluster_sends_directly() -> None:
    provider = Provider()
    worker = Worker(provider)
    large = json.dumps("x" * (BLOCK_BYTES // 3)).encode()
    async with Pool(worker) as transport:
        await asyncio.gather(*(transport.send("chat", large) for _ in range(8)))
    assert max(worker.blocks) == 2
    async with Pool(worker := Worker(provider)) as transport:
        await got(send(transport, 3 * BLOCK))
    assert max(worker.blocks) == BLOCK


async def test_a_worker_that_dies_breaks_the_connections_that_it_held_and_no_other() -> None:
    provider = Provider()
    one, other = Worker(provider), Worker(provider)
    async with Pool(one, other) as transport:
        provider.free.clear()
        tasks = send(transport, 10)
        await turns()
        one.dead = WorkerLostError("its node is gone")
        one.sender = Sender(None)  # what it held is nobody's now
        provider.free.set()
        await until(lambda: all(task.done() for task in tasks))
        found = await got(tasks)
        one.restart()
        await until(lambda: workers_up(transport) == 2)
        assert await got(send(transport, 4)) == [0, 1, 2, 3]
    assert found.count(openai.APIConnectionError) == 5
    assert sorted(x for x in found if isinstance(x, int)) == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("lost", ["give", "take", "hello"])
async def test_a_call_that_is_lost_loses_no_reply_and_posts_nothing_twice(lost: str) -> None:
    provider = Provider()
    worker = Worker(provider)
    async with Pool(worker) as transport:
        worker.lose_next.add("give")
        worker.lose_next.add(lost)
        assert await got(send(transport, 30)) == list(range(30))
        assert await got(send(transport, 30)) == list(range(30))
    assert set(provider.posted.values()) == {2}


async def test_one_who_lets_go_of_a_request_ends_it_at_the_worker() -> None:
    provider = Provider()
    worker = Worker(provider)
    async with Pool(worker) as transport:
        provider.free.clear()
        tasks = send(transport, 3)
        await turns()
        tasks[1].cancel()
        await turns()
        await until(lambda: len(worker.sender._flying) == 2)  # pyright: ignore[reportPrivateUsage]  shows nowhere else
        provider.free.set()
        assert await got([tasks[0], tasks[2]]) == [0, 2]


async def test_without_any_worker_nothing_was_sent() -> None:
    worker = Worker(Provider())
    async with Pool(worker) as transport:
        worker.dead = WorkerLostError("away")
        worker.sender = Sender(None)
        await until(lambda: not workers_up(transport))
        with pytest.raises(UnreachableError, match="no worker of the cluster is up"):
            await transport.send("chat", b"{}")


async def test_when_all_workers_are_gone_for_good_the_run_ends() -> None:
    workers = [Worker(Provider()) for _ in range(2)]
    async with Pool(*workers) as transport:
        for worker in workers:
            worker.dead = WorkerLostError("killed", forever=True)
            worker.sender = Sender(None)
        await until(lambda: not workers_up(transport))
        with pytest.raises(ProviderError, match=r"all workers of the cluster are gone .*start the same run again"):
            await transport.send("chat", b"{}")


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (UnreachableError("refused"), UnreachableError),
        (openai.APITimeoutError(httpx2.Request("POST", "http://x")), openai.APITimeoutError),
        (openai.APIConnectionError(request=httpx2.Request("POST", "http://x")), openai.APIConnectionError),
    ],
)
async def test_faults_keep_their_kind(raised: Exception, seen: type[Exception]) -> None:
    provider = Provider()
    provider.error = raised
    async with Pool(Worker(provider)) as transport:
        with pytest.raises(seen) as caught:
            await transport.send("chat", b"{}")
    assert type(caught.value) is seen


async def test_no_worker_holds_more_than_it_has_room_for() -> None:
    provider = Provider()
    workers = [Worker(provider), Worker(provider)]
    async with Pool(*workers, room=3) as transport:
        provider.free.clear()
        tasks = send(transport, 20)
        await turns()
        await until(lambda: sum(provider.posted.values()) >= 6)
        await turns()
        assert sum(provider.posted.values()) == 6
        provider.free.set()
        assert await got(tasks) == list(range(20))


async def test_other_versions_missing_keys_and_missing_files_end_the_start() -> None:
    async def start(worker: Worker, *, needs_key: bool = False) -> None:
        pool = Pool(worker, needs_key=needs_key)
        try:
            await pool.transport.open(5)
        finally:
            await pool.transport.close()

    worker = Worker(Provider())
    worker.hello = (await worker.sender.hello())._replace(version="0.0.1", node="far")
    with pytest.raises(ProviderError, match=r"the node far runs relabel 0\.0\.1 and this machine"):
        await start(worker)
    worker.hello = (await worker.sender.hello())._replace(key_version=99)
    with pytest.raises(ProviderError, match="install the same version on every node"):
        await start(worker)
    worker.hello = (await worker.sender.hello())._replace(has_key=False)
    with pytest.raises(ProviderError, match="there is no key for OpenAI, here or on the node"):
        await start(worker, needs_key=True)
    worker.wrong = ("data", "there is no model file x.gguf")
    with pytest.raises(DataError, match=r"there is no model file x\.gguf"):
        await start(worker)


async def test_a_nodes_own_key_does_not_leave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-of-the-node-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    sender = Sender(None)
    assert await sender.open("http://127.0.0.1:9/v1", "") is None
    sender._transport = Provider()  # pyright: ignore[reportPrivateUsage]  in the place of HTTP
    await sender.take([Posting(1, "chat", json.dumps({"echo": key}).encode(), 90.0)], 1)
    (back,) = await sender.give(0)
    assert key.encode() not in back.content
    assert b"[key]" in back.content
