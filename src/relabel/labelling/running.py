"""Running a job: plan the labels, take what the store knows, ask an engine for the rest, and write the run folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from relabel.errors import DataError, RelabelError
from relabel.files import require_writable, writing
from relabel.label import Answer, InvalidAnswerError
from relabel.labelling.budget import Budget
from relabel.labelling.engines.engine import Engine
from relabel.labelling.form import settle_unless_stopped
from relabel.labelling.job import Job, Stop
from relabel.labelling.leases import Leases
from relabel.labelling.ledger import Ledger
from relabel.labelling.outcome import NOTHING_UNSURE, Outcome, finish, labels_there, manifest_of, out_is_free
from relabel.labelling.progress import Progress
from relabel.labelling.store import Store
from relabel.labelling.workers import Workers
from relabel.run import write_manifest


async def run_job(
    job: Job,
    engine: Engine,
    store: Store,
    out: Path,
    *,
    concurrency: int,
    budget: Budget | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Outcome:
    """Label all tasks of a job and write its run folder.

    Every answer is in the store before it counts. A fatal refusal by the provider, Ctrl-C or a crash loses nothing that
    was paid for: the same job started again takes it from the store.

    Args:
        job: What to label.
        engine: Turns requests into answers.
        store: Keeps answers.
        out: The run folder.
        concurrency: Requests in flight at once.
        budget: The engine's, which knows what may have been charged without an answer.
        progress: Counted up as the job goes on.
        stop: Called to stop the job early.
        clock: Seconds on a clock that never runs back.
        now: The time of day.

    Raises:
        ProviderError: The provider refused for good; what had come in is stored, and the run folder says what is missing.
        DataError: The run folder holds another run or cannot be written.
        StoreError: The store failed.
        RubricError: The prompt fails for a task. Then, too, what was on the wire is stored and the run folder written.
    """
    require_writable(out)
    with writing(out):
        return await _run_job(job, engine, store, out, concurrency, budget, progress, stop or Stop(), clock, now)


async def _run_job(
    job: Job,
    engine: Engine,
    store: Store,
    out: Path,
    concurrency: int,
    budget: Budget | None,
    progress: Progress | None,
    stop: Stop,
    clock: Callable[[], float],
    now: Callable[[], datetime],
) -> Outcome:
    progress = progress or Progress(asked=job.size)
    bought: set[str] = set()
    invalid: dict[str, tuple[Answer, InvalidAnswerError]] = {}
    refused: RelabelError | None = None
    if job.probe:
        try:
            job = await settle_unless_stopped(job, engine, store, progress, bought, invalid, stop)
        except (
            RelabelError
        ) as error:  # what ends a run at its first question leaves the folder that a later one would leave
            refused, job = error, replace(job, probe=False)
    try:
        out_is_free(out, job)
    except DataError:
        if refused is None:
            raise
        raise refused from None  # in which form the server is asked is not known, and the folder may be this run's
    started = now()
    manifest = manifest_of(job, engine.name, started)
    if not (out / "manifest.json").exists():
        write_manifest(out, manifest)
    ledger = Ledger(
        job.rubric,
        store,
        progress,
        api=job.endpoint.api,
        decide=job.decide,
        alone=job.alone,
        logprobs="logprobs" in job.endpoint.params,
        twice=job.asks_twice,
    )
    ledger.bought_before_the_plan = bought
    leases = Leases(store.folder)
    try:
        worker = Workers(job, engine, ledger, leases, stop, clock, invalid)
        worker.seasoned = labels_there(out) > 0
        if refused is not None:
            worker.end(refused)
        fatal = await worker.work(concurrency)
    finally:
        leases.close()
    ledger.close(job.samples, len(job.orders) or 1)
    manifest = manifest.model_copy(update={"history": engine.history()})
    unsure = NOTHING_UNSURE if budget is None else budget.perhaps_charged
    progress.doing = "writing"
    # Beside the loop, so that a display moves on: a million labels take a while.
    outcome = await asyncio.to_thread(
        finish,
        job,
        out,
        manifest,
        ledger,
        interrupted=worker.interrupted,
        fatal=fatal,
        perhaps_charged=unsure,
        now=now,
    )
    if fatal is not None:
        raise fatal
    return outcome
