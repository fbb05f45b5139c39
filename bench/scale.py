"""Benchmarks of scale, as ratios and megabytes: `python bench/scale.py [--million]`.

Throughput on Ray with 1, 2 and 4 workers, as shares of ideal, against a mock server that has room; memory at 10,000 and 1,000,000
planned requests; processor time an answer. Each measurement is a process of its own. `--million` also answers a million requests to the
end: by answers made up in the driver, and on Ray by a mock server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from labelling import Mock, cpu, job, measured
from relabel.labelling.engine import Engine, OnInFlight, OnlineEngine
from relabel.labelling.estimate import estimate
from relabel.labelling.job import Job, Stop
from relabel.labelling.limits import Budget, Limiter
from relabel.labelling.ray import ClusterOptions, RayEngine
from relabel.labelling.request import Request
from relabel.labelling.runner import run_job
from relabel.labelling.store import Store
from relabel.labelling.transport import Connection
from relabel.labels import Answer, Usage

HERE = Path(__file__).parent
EACH = 16
"""Requests that each worker may have in flight."""
LATENCY_S = 0.5
SECONDS = 12
"""How long a measured run takes at best."""
TASKS = 10_000
LOOK_EVERY = 2_500
"""Requests between two looks at Ray's object store."""
SIZES = (10_000, 100_000)
MILLION = 1_000_000


class Simulated(Engine):
    """Answers at once, with as much text as usual."""

    name = "online"

    async def ask(
        self, request: Request, repair: Mapping[str, Any] | None = None, *, on_in_flight: OnInFlight | None = None
    ) -> Answer:
        del repair
        if on_in_flight is not None:
            on_in_flight(True)
        await asyncio.sleep(0)
        if on_in_flight is not None:
            on_in_flight(False)
        words = f"A chat window halves the time, checking included: {request.key[:12]}."
        return Answer(
            request_key=request.key,
            content=json.dumps({"rationale": words, "label": "exposed"}),
            finish_reason="stop",
            model_returned="mock-2026",
            usage=Usage(prompt=500, completion=40),
            attempts=1,
            latency_s=0.2,
            created_at="2026-01-01T00:00:00+00:00",
            cost_usd=None,
            raw={"id": request.key[:12]},
        )


def planned(requests: int, base_url: str = "http://bench/v1") -> Job:
    """A job of so many requests: many repeats of the tasks of a usual list."""
    count = min(TASKS, requests // 2)
    whole = job(base_url, 2 * count)
    return replace(whole, samples=requests // (2 * count))


def on_ray(base_url: str, workers: int, concurrency: int) -> RayEngine:
    """The ray engine on this machine alone."""
    some = planned(2, base_url)
    connection = Connection(base_url, model="mock", endpoint=some.endpoint)
    return RayEngine(connection, Limiter(concurrency), Budget(None, None), ClusterOptions("local", workers))


def throughput(workers: int) -> dict[str, float]:
    """Seconds of a run over the ideal, workers up before the clock starts; and processor time of the driver an answer."""
    concurrency = EACH * workers
    labels = int(SECONDS * concurrency / LATENCY_S)
    return _timed(lambda url: on_ray(url, workers, concurrency), labels, concurrency, LATENCY_S)


def driver(kind: str) -> dict[str, float]:
    """Processor time of the driver an answer, when it has all that it can do."""

    def make(url: str) -> Engine:
        return on_ray(url, 2, 256) if kind == "ray" else OnlineEngine(Connection(url), limiter=Limiter(256))

    return _timed(make, 10_000, 256, 0.02)


def _timed(make: Callable[[str], Engine], labels: int, concurrency: int, latency: float) -> dict[str, float]:
    with Mock(latency) as mock, tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store") as store:

        async def work() -> dict[str, float]:
            engine = make(mock.base_url)
            try:
                whole = planned(labels, mock.base_url)
                await engine.ask(whole.planner.request(whole.tasks[:1], "strict", 10**6))
                used = cpu()
                outcome = await run_job(whole, engine, store, Path(folder) / "run")
                used = cpu() - used
            finally:
                await engine.close()
            assert outcome.complete
            started, ended = outcome.manifest.started_at or "", outcome.manifest.ended_at or ""
            wall = (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()
            return {"ideal": labels * latency / concurrency, "wall": wall, "ms": 1000 * used / labels}

        return asyncio.run(work())


def dry_run(requests: int) -> dict[str, float]:
    """The plan of so many requests, walked through."""

    async def work() -> None:
        assert estimate(planned(requests), None).requests == requests

    return measured(work)


def simulated(requests: int) -> dict[str, float]:
    """So many requests, all answered, stored and written."""
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store") as store:

        async def work() -> None:
            outcome = await run_job(planned(requests), Simulated(Limiter(256)), store, Path(folder) / "run")
            assert outcome.complete

        return measured(work)


def on_ray_until(requests: int, answers: int) -> dict[str, float]:
    """A plan of so many requests on Ray, stopped after so many answers, the rest written down as missing; 0 goes to the end."""
    stored = [0.0]
    with Mock(0.01) as mock, tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store") as store:

        async def work() -> None:
            engine, stop = on_ray(mock.base_url, 2, 64), Stop()

            class Counting(Engine):
                name = "ray"
                asked = 0

                async def ask(
                    self,
                    request: Request,
                    repair: Mapping[str, Any] | None = None,
                    *,
                    on_in_flight: OnInFlight | None = None,
                ) -> Answer:
                    self.asked += 1
                    if self.asked % LOOK_EVERY == 0:
                        stored.append(_in_object_store())
                    if self.asked == answers:
                        stop()
                    return await engine.ask(request, repair, on_in_flight=on_in_flight)

            try:
                outcome = await run_job(
                    planned(requests, mock.base_url), Counting(engine.limiter), store, Path(folder) / "run", stop=stop
                )
            finally:
                await engine.close()
            assert len(outcome.labels) + len(outcome.failures) == requests
            assert outcome.complete != bool(answers)

        return {**measured(work), "store_mb": max(stored)}


def _in_object_store() -> float:
    """Megabytes in Ray's object store."""
    import ray

    name = "object_store_memory"
    return (ray.cluster_resources()[name] - ray.available_resources().get(name, 0.0)) / 2**20


WORK: dict[str, Callable[..., dict[str, float]]] = {
    "throughput": throughput,
    "driver": driver,
    "dry_run": dry_run,
    "simulated": simulated,
    "on_ray_until": on_ray_until,
}


def run(name: str, *arguments: object) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, name, *(json.dumps(a) for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", action="store_true", help="answer a million requests to the end: an hour at most")
    million = parser.parse_args().million
    print(f"Ray on this machine, {EACH} requests in flight a worker, answers after {LATENCY_S * 1000:.0f} ms")
    for workers in (1, 2, 4):
        found = run("throughput", workers)
        print(f"  {workers} workers  {found['ideal'] / found['wall']:.2f} of ideal, store and run folder included")
    print("Processor time of the driver, an answer: the most that one driver can do")
    for kind in ("online", "ray"):
        found = run("driver", kind)
        print(f"  {kind:<7} {found['ms']:.2f} ms, {1000 / found['ms']:,.0f} answers a second and core")
    print("Peak memory of the driver, MB")
    small, large = (run("dry_run", requests)["mb"] for requests in (10_000, MILLION))
    print(f"  --dry-run of 10,000 planned requests {small:.0f}, of 1,000,000 {large:.0f}")
    few, many = (run("on_ray_until", requests, 5_000) for requests in (10_000, MILLION))
    print(f"  on Ray, stopped after 5,000 answers, of 10,000 planned {few['mb']:.0f}, of 1,000,000 {many['mb']:.0f}")
    print(f"  Ray's object store at most {few['store_mb']:.1f} and {many['store_mb']:.1f}")
    said = ", ".join(f"{size:,} {run('simulated', size)['mb']:.0f}" for size in (*SIZES, *([MILLION] * million)))
    print(f"  all answered, stored and written: {said}")
    for size in (*SIZES, *([MILLION] * million)):
        found = run("on_ray_until", size, 0)
        print(f"  on Ray, {size:,} answered: {found['mb']:.0f}; Ray's object store at most {found['store_mb']:.1f}")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in WORK:
        print(json.dumps(WORK[sys.argv[1]](*(json.loads(a) for a in sys.argv[2:]))))
    else:
        main()
