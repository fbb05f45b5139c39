"""What the tests of labelling make their jobs from."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from relabel.labelling.engine import OnlineEngine
from relabel.labelling.job import Job, Stop
from relabel.labelling.limits import Budget, Limiter
from relabel.labelling.request import Endpoint, host_of, load_prompt
from relabel.labelling.runner import run_job
from relabel.labelling.session import Outcome
from relabel.labelling.store import Store
from relabel.labelling.transport import Connection, Timeouts
from relabel.rubric import load_rubric
from relabel.task import Task

prompt_of = cache(load_prompt)  # compiled once for all tests
KEY = "sk-planted-0123456789abcdef"


def make_tasks(count: int) -> list[Task]:
    return [
        Task(
            task_id=str(n),
            onet_soc_code=f"11-{1000 + n // 10}.00",
            title=f"Title {n // 10}",
            text=f"Do the thing number {n}.",
            importance=3.0,
        )
        for n in range(count)
    ]


def make_job(base_url: str, count: int = 5, **changes: Any) -> Job:
    rubric = load_rubric(changes.pop("rubric", "exposure"))
    values: dict[str, Any] = {
        "tasks": make_tasks(count),
        "tasks_ref": "made-up",
        "sources": (),
        "rubric": rubric,
        "prompt": prompt_of(rubric.prompt),
        "settings": tuple(rubric.settings),
        "endpoint": Endpoint(host=host_of(base_url), model="test-model"),
        "model": "test-model",
        "base_url": base_url,
        "price": None,
    }
    return Job(**{**values, **changes})


class FakeTime:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


async def no_sleep(seconds: float) -> None:
    del seconds


async def label_all(
    job: Job,
    store: Store,
    out: Path,
    *,
    concurrency: int = 4,
    stop: Stop | None = None,
    key: str = KEY,
    timeouts: Timeouts | None = None,
    budget: Budget | None = None,
) -> Outcome:
    assert job.base_url is not None
    engine = OnlineEngine(
        Connection(job.base_url, SecretStr(key), job.price, timeouts or Timeouts()),
        limiter=Limiter(concurrency),
        budget=budget,
        sleep=no_sleep,
        jitter=lambda: 0.0,
    )
    return await run_job(job, engine, store, out, stop=stop)
