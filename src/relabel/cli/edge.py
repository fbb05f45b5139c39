"""The one synchronous edge: from a command into the asynchronous work of labelling, with signals and display, and back."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relabel.cli.display import Look, say, shown
from relabel.files import require_writable
from relabel.labelling.budget import Budget
from relabel.labelling.connection import Connection, LazyEngine
from relabel.labelling.engines.engine import Engine
from relabel.labelling.engines.limits import Limiter
from relabel.labelling.engines.ray import ClusterOptions, RayEngine
from relabel.labelling.engines.replay import ReplayEngine
from relabel.labelling.job import Job, Stop
from relabel.labelling.outcome import Outcome
from relabel.labelling.progress import Progress
from relabel.labelling.running import run_job
from relabel.labelling.store import Store
from relabel.settings import Settings


@dataclass(frozen=True)
class Caps:
    """What a run may not exceed.

    Attributes:
        concurrency: Requests in flight at once; None finds it out.
        rpm: Requests a minute at most.
        tpm: Tokens a minute at most.
        max_cost: Cap of the cost, in USD.
    """

    concurrency: int | None
    rpm: float | None = None
    tpm: float | None = None
    max_cost: float | None = None


def label(
    job: Job,
    folder: Path,
    model: str,
    described: Connection,
    environment: Settings,
    caps: Caps,
    *,
    replay: bool = False,
    cluster: ClusterOptions | None = None,
    look: Look = "people",
) -> Outcome:
    """Run a job to its end.

    Args:
        job: What to label.
        folder: The run folder.
        model: The model as the user named it.
        described: The model.
        environment: Settings from the environment.
        caps: What it may not exceed.
        replay: Whether answers come from the store alone.
        cluster: The Ray cluster whose workers ask; None asks from this process.
        look: How progress looks.
    """
    require_writable(folder)
    limiter = Limiter(caps.concurrency, rpm=caps.rpm, tpm=caps.tpm)
    budget = Budget(caps.max_cost, described.price)
    with Store(environment.store_dir) as store:
        engine: Engine
        if replay:
            engine = ReplayEngine()
        elif cluster is not None:
            engine = RayEngine(model, described, limiter, budget, cluster)
        else:
            engine = LazyEngine(model, described, environment, limiter, budget)
        return asyncio.run(_work(job, engine, store, folder, limiter, budget, look=look))


async def _work(
    job: Job, engine: Engine, store: Store, folder: Path, limiter: Limiter, budget: Budget, *, look: Look
) -> Outcome:
    stop, progress = Stop(), Progress(asked=job.size)
    try:
        with stopping_on_signals(stop, "waiting for the answers in flight", look=look):
            async with shown(progress, limiter, look=look):
                return await run_job(
                    job,
                    engine,
                    store,
                    folder,
                    concurrency=limiter.largest,
                    budget=budget,
                    progress=progress,
                    stop=stop,
                )
    finally:
        await engine.close()


@contextmanager
def stopping_on_signals(stop: Stop, meanwhile: str, *, look: Look) -> Generator[None]:
    """Let Ctrl-C, SIGTERM and a terminal that closes (SIGHUP) stop a job for as long as the block lasts; a second one makes it leave at once.

    Args:
        stop: Stops the job.
        meanwhile: What happens until it has stopped, in words.
        look: How it is said.
    """
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        again = stop.asked.is_set()
        stop()
        if again:
            say("leaving", "leaving at once", look=look)
        else:
            say("stopping", f"stopping: {meanwhile}; once more to leave at once", look=look)

    before: dict[signal.Signals, Any] = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number: signal.Signals | None = getattr(signal, name, None)
        # Under nohup a terminal that closes is no reason to stop.
        if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
            before[number] = signal.signal(number, lambda *_: loop.call_soon_threadsafe(interrupt))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
