"""What the tests of the batch engine run their jobs with."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from batch_server import FakeBatches
from job_builders import KEY, make_job
from relabel.labelling.batch.provider import CLIENTS
from relabel.labelling.batch.runner import run_batch
from relabel.labelling.batch.state import BatchOptions
from relabel.labelling.job import Job
from relabel.labelling.providers import Price
from relabel.labelling.session import Outcome
from relabel.labelling.store import Store
from relabel.labelling.transport import Http, certificates
from server import Reply, Seen, judged

_OPTIONS = {field.name for field in fields(BatchOptions)}
PRICE = Price(input=1.0, cached=1.0, output=4.0, source="test")
certificates()  # read once here, and not in each process that is forked from this one


def by_number(seen: Seen) -> Reply:
    return judged("exposed" if "number 1" in seen.prompt else "not-exposed", f"Of {seen.prompt[-20:]}")


def books_balance(fake: FakeBatches, store: Store) -> None:
    """Every answer that was made is in the store once, and none was made twice."""
    assert sorted(fake.made) == sorted(set(fake.made))
    for key in fake.made:
        assert store.get(key) is not None
    assert list(store.verify()) == []
    assert store.stats().answers == len(fake.made)


async def no_wait(seconds: float) -> None:
    del seconds
    await asyncio.sleep(0)


async def batch(
    job: Job,
    store: Store,
    folder: Path,
    *,
    out: str = "run",
    base_url: str | None = None,
    key: str = KEY,
    way: str = "openai",
    **options: Any,
) -> Outcome:
    given = {name: options.pop(name) for name in _OPTIONS & options.keys()}
    how = replace(BatchOptions(sleep=no_wait, poll_s=0.0), **given)
    provider = CLIENTS[way](Http(base_url or job.base_url, key), job.endpoint.model, sleep=no_wait, jitter=lambda: 0.0)
    try:
        return await run_batch(job, store, folder / out, provider, folder / "batches", options=how, **options)
    finally:
        await provider.close()


def run_and_die(base_url: str, folder: str, count: int, die_at: int) -> None:
    """Run a job in a process of its own, and kill that process with signal 9 after so many steps."""
    steps = 0

    def step(name: str) -> None:
        nonlocal steps
        del name
        steps += 1
        if steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with Store(Path(folder) / "store") as store:
        job = make_job(base_url, count, price=PRICE)
        asyncio.run(batch(job, store, Path(folder), max_requests=4, step=step))
