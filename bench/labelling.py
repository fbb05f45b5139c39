"""What benchmarks of the engine share: a job of made-up tasks, a mock provider, seconds and memory of this process."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from relabel.labelling.job import Job
from relabel.labelling.request import Endpoint, load_prompt
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
