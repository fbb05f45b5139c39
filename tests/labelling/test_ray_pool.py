"""What the driver makes of its workers, without a cluster: workers here are the real thing, called in this process."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from relabel.errors import DataError, ProviderError
from relabel.labelling import ray
from relabel.labelling.providers import provider_of
from relabel.labelling.ray import Call, RayTransport, Sender, WorkerGoneError, WorkerLostError
from relabel.labelling.request import Endpoint
from relabel.labelling.transport import BrokenError, Connection, HttpReply, UnreachableError
from relabel.labelling.wire import Api
from server import Reply, provider


class Provider:
    """Answers with the document that was posted, once it is let to."""

    def __init__(self) -> None:
        self.posted: Counter[bytes] = Counter()
        self.free = asyncio.Event()
        self.free.set()
        self.error: Exception | None = None

    async def send(self, api: Api, content: bytes) -> HttpReply:
        del api
        self.posted[content] += 1
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return HttpReply(200, {"x-ratelimit-remaining-requests": "7"}, content)

    async def close(self) -> None:
        return


class Worker:
    """A worker that can die, and come back."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.posts = 0
        self.dead: WorkerLostError | None = None
        self.hello: tuple[str, str] | DataError | None = None
        self.restart()

    def restart(self) -> None:
        self.sender = Sender()
        self.sender._transport = self.provider  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]  in the place of HTTP
        self.dead = None

    async def __call__(self, method: str, *arguments: Any) -> Any:
        if self.dead is not None:
            raise self.dead
        if method == "hello" and isinstance(self.hello, DataError):
            raise self.hello
        if method == "hello" and self.hello is not None:
            return self.hello
        self.posts += method == "post"
        sender = self.sender
        answer = await getattr(sender, method)(*arguments)
        if self.dead is not None or sender is not self.sender:
            raise self.dead or WorkerLostError("gone")
        return answer


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "_RETRY_S", 0.0)
    monkeypatch.setattr(ray, "NO_WORKER_S", 0.05)


class Pool:
    """A transport over some workers, open for as long as the block lasts."""

    def __init__(self, *workers: Worker, url: str = "http://x/v1", key: str = "") -> None:
        calls: list[Call] = list(workers)
        endpoint = Endpoint(host="x", model="m")
        self.transport = RayTransport(
            calls, Connection(url, SecretStr(key), provider=provider_of(url), endpoint=endpoint)
        )

    async def __aenter__(self) -> RayTransport:
        await self.transport.open(5)
        return self.transport

    async def __aexit__(self, *_: object) -> None:
        await self.transport.close()


def send(transport: RayTransport, count: int) -> list[asyncio.Task[HttpReply]]:
    return [asyncio.create_task(transport.send("chat", json.dumps(n).encode())) for n in range(count)]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  what is waited for raises no event
            await asyncio.sleep(0.01)


async def got(tasks: list[asyncio.Task[HttpReply]]) -> list[object]:
    found: list[HttpReply | BaseException] = await asyncio.gather(*tasks, return_exceptions=True)
    return [json.loads(x.content) if isinstance(x, HttpReply) else type(x) for x in found]


async def test_replies_reach_those_who_asked_and_say_what_the_limiter_needs() -> None:
    provider = Provider()
    async with Pool(Worker(provider), Worker(provider)) as transport:
        tasks = send(transport, 200)
        assert await got(tasks) == list(range(200))
        reply = tasks[0].result()
    assert reply.headers["x-ratelimit-remaining-requests"] == "7"
    assert set(provider.posted.values()) == {1}


async def test_work_is_shared() -> None:
    provider = Provider()
    workers = [Worker(provider) for _ in range(4)]
    async with Pool(*workers) as transport:
        provider.free.clear()
        tasks = send(transport, 200)
        await until(lambda: sum(worker.posts for worker in workers) == 200)
        provider.free.set()
        await got(tasks)
    assert [worker.posts for worker in workers] == [50] * 4


async def test_a_worker_that_dies_breaks_the_connections_that_it_held_and_no_other() -> None:
    provider = Provider()
    one, other = Worker(provider), Worker(provider)
    async with Pool(one, other) as transport:
        provider.free.clear()
        tasks = send(transport, 10)
        await until(lambda: provider.posted.total() == 10)
        one.dead = WorkerLostError("its node is gone")
        provider.free.set()
        found = await got(tasks)
        assert await got(send(transport, 4)) == [0, 1, 2, 3]  # what comes meanwhile goes to the other
        assert one.posts == 5
        one.restart()
        await until(lambda: all(worker.up for worker in transport._workers))  # pyright: ignore[reportPrivateUsage]  shows nowhere else
        await got(send(transport, 4))
    assert one.posts > 5
    assert found.count(BrokenError) == 5
    assert sorted(x for x in found if isinstance(x, int)) == [1, 3, 5, 7, 9]


async def test_without_any_worker_nothing_was_sent() -> None:
    worker = Worker(Provider())
    async with Pool(worker) as transport:
        worker.dead = WorkerLostError("away")
        assert await got(send(transport, 1)) == [BrokenError]
        with pytest.raises(UnreachableError, match="no worker of the cluster is up"):
            await transport.send("chat", b"{}")


async def test_when_all_workers_are_gone_for_good_the_run_ends() -> None:
    workers = [Worker(Provider()) for _ in range(2)]
    async with Pool(*workers) as transport:
        for worker in workers:
            worker.dead = WorkerGoneError("killed")
        await got(send(transport, 2))
        with pytest.raises(ProviderError, match=r"all workers of the cluster were lost .*start the same run again"):
            await transport.send("chat", b"{}")


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (UnreachableError("refused"), UnreachableError),
        (TimeoutError(), TimeoutError),
        (BrokenError("reset"), BrokenError),
    ],
)
async def test_faults_keep_their_kind(raised: Exception, seen: type[Exception]) -> None:
    provider = Provider()
    provider.error = raised
    async with Pool(Worker(provider)) as transport:
        with pytest.raises(seen) as caught:
            await transport.send("chat", b"{}")
    assert type(caught.value) is seen


async def test_other_versions_and_missing_files_end_the_start() -> None:
    async def start(worker: Worker) -> None:
        async with Pool(worker):
            pass

    worker = Worker(Provider())
    worker.hello = ("far", "0.0.1")
    with pytest.raises(ProviderError, match=r"the node far runs relabel 0\.0\.1 and this machine .* on every node"):
        await start(worker)
    worker.hello = DataError("model file x.gguf was not found")
    with pytest.raises(DataError, match=r"model file x\.gguf was not found"):
        await start(worker)


async def test_a_nodes_own_key_does_not_leave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-of-the-node-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with provider(lambda seen: Reply(body={"echo": seen.headers["authorization"]})) as fake:
        back = await Sender().post("chat", b"{}", Connection(fake.base_url, headers={"X-Route": "eu"}))
        assert fake.seen[0].headers["x-route"] == "eu"
    assert not isinstance(back, Exception)
    assert back.content == b'{"echo": "Bearer [key]"}'
