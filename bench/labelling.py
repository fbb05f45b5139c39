"""Benchmarks of labelling against a mock provider, as ratios measured in one run: `make bench`.

Each measurement is a process of its own, so that none warms up the next and each has its own peak of memory. These
machines are noisy: what is compared is taken in turn, several times, and the median is printed.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from relabel.label import Answer
from relabel.labelling.connection import Connection
from relabel.labelling.engine import OnlineEngine
from relabel.labelling.job import Job
from relabel.labelling.limiter import Limiter
from relabel.labelling.prompt import load_prompt
from relabel.labelling.request import Endpoint
from relabel.labelling.runner import run_job
from relabel.labelling.store import Store
from relabel.rubric import load_rubric
from relabel.task import Task

HERE = Path(__file__).parent
Ask = Callable[[dict[str, Any]], Awaitable[None]]


def tasks(count: int) -> list[Task]:
    """Made-up tasks of usual length."""
    text = "Prepare reports number {} on activities and results for managers, customers or public offices, and keep records of them."
    return [
        Task(
            task_id=str(n),
            onet_soc_code=f"11-{1000 + n // 20}.00",
            title="Managers of Many Things",
            text=text.format(n),
        )
        for n in range(count)
    ]


def job(base_url: str, labels: int) -> Job:
    """A job that wants so many labels, under both settings."""
    rubric = load_rubric("exposure")
    return Job(
        tasks=tasks(labels // 2),
        tasks_ref="bench",
        sources=(),
        rubric=rubric,
        prompt=load_prompt("task"),
        settings=("strict", "with-tools"),
        endpoint=Endpoint(host="bench", model="mock"),
        model="mock",
        base_url=base_url,
        price=None,
    )


class Mock:
    """The mock provider in a process of its own."""

    def __init__(self, latency: float) -> None:
        command = [sys.executable, str(HERE / "mock_server.py"), str(latency)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.base_url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1"

    def __enter__(self) -> Mock:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def cpu() -> float:
    """Seconds of processor time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measured(work: Callable[[], Awaitable[None]]) -> dict[str, float]:
    """Run something; wall and processor seconds, and the peak of memory in MB."""

    async def timed() -> tuple[float, float]:
        wall, used = time.perf_counter(), cpu()
        await work()
        return time.perf_counter() - wall, cpu() - used

    wall, used = asyncio.run(timed())
    return {"wall": wall, "cpu": used, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def label_fresh(labels: int, concurrency: int, latency: float) -> dict[str, float]:
    """The whole job, from an empty store to the run folder."""
    with Mock(latency) as mock, tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store") as store:

        async def work() -> None:
            engine = OnlineEngine(Connection(mock.base_url), limiter=Limiter(concurrency))
            outcome = await run_job(
                job(mock.base_url, labels), engine, store, Path(folder) / "run", concurrency=concurrency
            )
            await engine.close()
            assert outcome.complete

        return measured(work)


def _bodies(base_url: str) -> list[dict[str, Any]]:
    return [dict(planned.request.body) for planned in job(base_url, 200).plan()]


async def _loop(ask: Ask, bodies: Sequence[dict[str, Any]], count: int, concurrency: int) -> None:
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await ask(bodies[number % len(bodies)])

    await asyncio.gather(*(worker() for _ in range(concurrency)))


def bare_openai(count: int, concurrency: int, latency: float) -> dict[str, float]:
    """The plain loop that people write: `client.chat.completions.create`, nothing stored."""
    import openai

    with Mock(latency) as mock:
        bodies = _bodies(mock.base_url)

        async def work() -> None:
            async with openai.AsyncOpenAI(api_key="none", base_url=mock.base_url, max_retries=0) as client:

                async def ask(body: dict[str, Any]) -> None:
                    await client.chat.completions.create(**body)

                await _loop(ask, bodies, count, concurrency)

        return measured(work)


def bare_http(count: int, concurrency: int, latency: float) -> dict[str, float]:
    """A bare HTTP client, JSON parsed, nothing stored."""
    import aiohttp

    with Mock(latency) as mock:
        bodies = _bodies(mock.base_url)

        async def work() -> None:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

                async def ask(body: dict[str, Any]) -> None:
                    async with session.post(f"{mock.base_url}/chat/completions", json=body) as reply:
                        json.loads(await reply.read())

                await _loop(ask, bodies, count, concurrency)

        return measured(work)


def warm(labels: int, folder: str) -> dict[str, float]:
    """A rerun of which the store knows every answer."""

    async def work() -> None:
        from relabel.labelling.engine import ReplayEngine

        with Store(Path(folder) / "store") as store:
            out = Path(folder) / f"again-{time.time_ns()}"
            outcome = await run_job(job("http://bench/v1", labels), ReplayEngine(), store, out, concurrency=16)
            assert outcome.complete

    return measured(work)


def floor(labels: int, folder: str) -> dict[str, float]:
    """The least that a warm rerun must do: read each answer by its key, parse it, write the table."""
    keys = [planned.request.key for planned in job("http://bench/v1", labels).plan()]

    async def work() -> None:
        rows: list[Answer] = []
        with Store(Path(folder) / "store") as store:
            for key in keys:
                answer = store.get(key)
                assert answer is not None
                rows.append(answer)
        columns = {
            name: [getattr(row, name) for row in rows]
            for name in ("request_key", "content", "model_returned", "created_at")
        }
        pq.write_table(pa.table(columns), Path(folder) / "floor.parquet")

    return measured(work)


def fill(labels: int, folder: str) -> dict[str, float]:
    """Fill a store with an answer to each question, without a server."""
    answer = {
        "content": '{"rationale": "A chat window halves the time, checking included.", "label": "exposed"}',
        "finish_reason": "stop",
        "model_returned": "mock-2026",
        "usage": {"prompt": 500, "cached": 448, "completion": 40},
        "attempts": 1,
        "latency_s": 0.2,
        "created_at": "2026-01-01T00:00:00+00:00",
        "cost_usd": None,
        "raw": {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": "mock-2026",
            "choices": [{"index": 0}],
            "usage": {},
        },
    }

    async def work() -> None:
        with Store(Path(folder) / "store") as store:
            for planned in job("http://bench/v1", labels).plan():
                store.put(planned.request, Answer.model_validate({**answer, "request_key": planned.request.key}))

    return measured(work)


WORK: dict[str, Callable[..., dict[str, float]]] = {
    "label_fresh": label_fresh,
    "bare_openai": bare_openai,
    "bare_http": bare_http,
    "warm": warm,
    "floor": floor,
    "fill": fill,
}


def run(name: str, *arguments: object) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, name, *(json.dumps(a) for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def median(results: Sequence[dict[str, float]], figure: str) -> float:
    """The middle of one figure."""
    return statistics.median(result[figure] for result in results)


def main(rounds: int = 3) -> None:
    """Print all ratios."""
    print(f"Labelling against a mock provider; medians of {rounds} rounds, each measurement in its own process.\n")
    print(
        "Throughput: time of the whole job, store and run folder included, over the ideal (labels x latency / concurrency)"
    )
    for concurrency, latency, labels in ((64, 0.2, 6400), (256, 0.05, 10000)):
        turns = [
            (run("label_fresh", labels, concurrency, latency), run("bare_http", labels, concurrency, latency))
            for _ in range(rounds)
        ]
        ideal = labels * latency / concurrency
        ours, bare = ([turn[i]["wall"] / ideal for turn in turns] for i in range(2))
        print(
            f"  {concurrency:>3} x {latency * 1000:.0f} ms  {statistics.median(ours):.3f} x ideal, at best {min(ours):.3f} "
            f"({labels:,} labels); a bare HTTP client that stores nothing {statistics.median(bare):.3f}, at best {min(bare):.3f}"
        )

    print(
        "\nProcessor time an answer, 64 x 200 ms, 6,400 answers; the first is the whole job, the others store nothing"
    )
    turns = [
        (run("label_fresh", 6400, 64, 0.2), run("bare_openai", 6400, 64, 0.2), run("bare_http", 6400, 64, 0.2))
        for _ in range(rounds)
    ]
    ours, openai_loop, http_loop = (median([turn[i] for turn in turns], "cpu") / 6.4 for i in range(3))
    print(
        f"  relabel {ours:.2f} s a thousand answers, bare openai loop {openai_loop:.2f}, bare HTTP client {http_loop:.2f}"
    )
    print(
        f"  relabel / bare openai loop = {ours / openai_loop:.2f}; relabel / bare HTTP client = {ours / http_loop:.2f}"
    )

    with tempfile.TemporaryDirectory() as folder:
        run("fill", 40000, folder)
        turns = [(run("warm", 40000, folder), run("floor", 40000, folder)) for _ in range(rounds)]
        again, least = (median([turn[i] for turn in turns], "wall") for i in range(2))
        print("\nWarm rerun of 40,000 labels, over the floor of reading, parsing and writing them")
        print(f"  {again / least:.2f} x the floor ({again:.1f} s and {least:.1f} s here)")

    print("\nPeak memory of a job, 256 x 50 ms")
    small, large = (run("label_fresh", labels, 256, 0.05)["mb"] for labels in (2000, 40000))
    print(
        f"  2,000 labels {small:.0f} MB; 40,000 labels {large:.0f} MB; {(large - small) * 1024 / 38000:.1f} kB a label more"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(WORK[sys.argv[1]](*(json.loads(a) for a in sys.argv[2:]))))
    else:
        main()
