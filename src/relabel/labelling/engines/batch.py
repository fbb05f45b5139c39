"""The batch engine: the whole of a job in a few files, for half the price, some time within a day.

It is no `Engine`: there is nobody to wait for a single answer. It walks the same plan as an online run, takes the same answers
from the same store under the same keys, and writes the same run folder; only the way there is another. A run begun with one
goes on with the other.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import openai

from relabel.errors import ProviderError, StoreError
from relabel.files import require_writable, writing
from relabel.label import FailureKind
from relabel.labelling.budget import Budget
from relabel.labelling.engines.batch_provider import BatchProvider
from relabel.labelling.engines.batch_queue import Queue, StoppedError
from relabel.labelling.engines.batch_results import Results
from relabel.labelling.engines.batch_state import (
    MAX_BYTES,
    MAX_REQUESTS,
    BatchFolder,
    BatchState,
    run_id,
)
from relabel.labelling.form import with_known_form
from relabel.labelling.job import Job, Stop
from relabel.labelling.leases import LEASE_S, Leases
from relabel.labelling.ledger import Ledger
from relabel.labelling.outcome import Outcome, finish, manifest_of, out_is_free
from relabel.labelling.progress import Progress
from relabel.labelling.request import Planned, Request, public_url
from relabel.labelling.store import Store
from relabel.labelling.wire import PATHS
from relabel.labelling.workers import DRAIN_S, in_a_batch
from relabel.run import write_manifest

POLL_S = 10.0
"""Seconds between the first looks at a batch; they grow."""
TRIES = 3
"""Times that one request goes into a batch, when batches end without having answered it."""
_TURN = 64


async def run_batch(
    job: Job,
    store: Store,
    out: Path,
    *,
    client: openai.AsyncOpenAI,
    batches: Path,
    command: Sequence[str] = (),
    submit: bool = True,
    max_cost: float | None = None,
    poll_s: float = POLL_S,
    max_requests: int = MAX_REQUESTS,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
    stop: Stop | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    jitter: Callable[[], float] = random.random,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    step: Callable[[str], None] = lambda name: None,
) -> Outcome:
    """Label all tasks of a job by batches and write its run folder.

    Every answer is in the store before it counts, and each step is noted in a state file, so that a process killed at any moment
    loses nothing and buys nothing twice: the same job started again goes on. Stopping leaves the batches at the provider.

    Args:
        job: What to label.
        store: Keeps answers.
        out: The run folder.
        client: An openai client without retries of its own; the caller closes it.
        batches: The folder of all batch jobs.
        command: The words after `relabel` that make this job again; no key among them.
        submit: False takes what batches have, stops those that go on, and asks for nothing more.
        max_cost: Cap of the cost in USD over one attempt, whatever the number of processes; the job's endpoint must bound answers.
        poll_s: Seconds between the first looks at a batch.
        max_requests: Lines of one input file.
        max_bytes: Bytes of one input file.
        progress: Counted up as the job goes on; what flies are batches.
        stop: Called to stop the job early.
        clock: Seconds on a clock that never runs back.
        sleep: Waits for some seconds.
        jitter: A random number in 0-1.
        now: The time of day.
        step: Told the name of each step after it is done; tests kill the process there.

    Raises:
        ProviderError: The provider refused for good or cannot be reached; what had come in is stored.
        DataError: The run folder holds another run, the state cannot be read or written, or another process works on the job.
        StoreError: The store failed.
    """
    require_writable(out)
    folder = BatchFolder(batches, run_id(job))
    with writing(out), folder.locked():
        before = folder.load()
        job = _settled(job, store, before)
        out_is_free(out, job)
        state, begun = _open_state(folder, before, job, out, command, now)
        manifest = manifest_of(job, "batch", now())
        if not (out / "manifest.json").exists():
            write_manifest(out, manifest)
        ledger = Ledger(
            job.rubric,
            store,
            progress or Progress(asked=job.size),
            api=job.endpoint.api,
            decide=job.decide,
            alone=job.alone,
            logprobs="logprobs" in job.endpoint.params,
            calibrate=job.calibrate,
            twice=job.asks_twice,
            folder=out,
        )
        results = Results(job, store, ledger, folder, secret=client.api_key, now=now, step=step)
        stop = stop or Stop()
        leases = Leases(store.folder)
        queue = Queue(
            job,
            folder,
            state,
            BatchProvider(client, job.endpoint.model, sleep=sleep, jitter=jitter),
            results,
            leases,
            ledger.progress,
            stop,
            begun=begun,
            submit=submit,
            poll_s=poll_s,
            clock=clock,
            sleep=sleep,
            now=now,
            step=step,
        )
        work = _Batches(
            job,
            ledger,
            leases,
            folder,
            state,
            results,
            queue,
            stop,
            max_cost=max_cost,
            max_requests=max_requests,
            max_bytes=max_bytes,
            step=step,
        )
        try:
            fatal = await work.work()
            work.hold()
        finally:
            leases.close()
        ledger.close(job.samples)
        outcome = finish(job, out, manifest, ledger, interrupted=work.interrupted, fatal=fatal, now=now)
        if not state.open and not work.interrupted:
            state.ended_at = now().isoformat(timespec="seconds")
            for chunk in state.chunks:
                chunk.failed = {}
            folder.save(state)
    if fatal is not None:
        raise fatal
    return outcome


def _settled(job: Job, store: Store, state: BatchState | None) -> Job:
    """The job at half the price, with the form that its server is known to take, else the strictest: a batch is no place to try.

    Batches that wait keep the job to the form that they ask in: another would be other requests, bought once more.
    """
    known = with_known_form(job, store)
    if job.probe and state is not None and state.open and state.form is not None:
        known = replace(job, endpoint=job.endpoint.model_copy(update={"form": state.form}))
    return replace(known, probe=False, price=job.price.halved() if job.price else None)


def _open_state(
    folder: BatchFolder,
    state: BatchState | None,
    job: Job,
    out: Path,
    command: Sequence[str],
    now: Callable[[], datetime],
) -> tuple[BatchState, bool]:
    """The job's state, and whether it is new."""
    started = now().isoformat(timespec="seconds")
    if state is None:
        address = public_url(job.base_url) if job.base_url else None
        state = BatchState(
            run_id=folder.name, out=str(out.resolve()), model=job.model, base_url=address, started_at=started
        )
        begun = True
    else:
        begun = False
        if state.ended_at is not None:
            state.attempt += 1
            state.started_at, state.ended_at, state.max_requests = started, None, None
    if not state.open:
        state.form = job.endpoint.form
    state.out, state.cwd = str(out.resolve()), str(Path.cwd())
    state.command = tuple(command) or state.command
    folder.save(state)
    return state, begun


class _Batches:
    """A running batch job: walks the plan, writes what is missing into chunks, and has the queue do the rest."""

    def __init__(
        self,
        job: Job,
        ledger: Ledger,
        leases: Leases,
        folder: BatchFolder,
        state: BatchState,
        results: Results,
        queue: Queue,
        stop: Stop,
        *,
        max_cost: float | None,
        max_requests: int,
        max_bytes: int,
        step: Callable[[str], None],
    ) -> None:
        self.job, self.ledger, self.folder, self.state = job, ledger, folder, state
        self.results, self.queue, self.stop = results, queue, stop
        self.interrupted = False
        self._max_cost, self._budget = max_cost, Budget(max_cost, job.price)
        self._max_requests, self._max_bytes, self._step = max_requests, max_bytes, step
        self._tries = results.tries
        self._no_money = ""
        self._leases = leases
        self._elsewhere: dict[str, str] = {}

    def hold(self) -> None:
        """Let other runs on the store know what batches have in flight, whatever becomes of this process."""
        sent: set[str] = set()
        written: set[str] = set()
        for chunk in self.state.open:
            keys = self.folder.keys(chunk)
            if keys is None:
                return  # what this batch asks for is held from before, and nobody can tell it from what is not in flight
            (written if chunk.batch_id is None else sent).update(keys)
        self._leases.hold(self.state.run_id, sent, still=written)

    async def work(self) -> ProviderError | None:
        """Do all there is to do; return what ended it early for good."""
        fatal: ProviderError | None = None
        working = asyncio.create_task(self._work())
        asked = asyncio.create_task(self.stop.asked.wait())
        leave = asyncio.create_task(self.stop.at_once.wait())
        renewing = asyncio.create_task(self._renew())
        try:
            await asyncio.wait({working, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                # What is being sent is let finish: a reply in hand spares looking for its batch later.
                await asyncio.wait({working, leave}, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, asked, leave, renewing):
                task.cancel()
            await asyncio.wait({working, asked, leave, renewing})
        error = None if working.cancelled() else working.exception()
        if working.cancelled() or isinstance(error, StoppedError):
            self.interrupted = True
        elif isinstance(error, ProviderError):
            fatal = error
        elif error is not None:
            raise error
        fatal = fatal or self.results.fatal
        if fatal is None and self.queue.refused and not self.ledger.progress.fresh:
            fatal = ProviderError(
                f"the provider refused the batch: {self.queue.refused}; mend that, then start the same run again"
            )
        self.ledger.progress.flying.clear()
        self._name_missing(fatal)
        return fatal

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with suppress(StoreError):  # the next time may be in time still
                self._leases.renew()

    async def _work(self) -> None:
        await self._take_known()
        for chunk in self.state.chunks:
            if chunk.attempt == self.state.attempt:
                self.results.failed |= chunk.failed
        while True:
            changed = await self._write() if self.queue.submit else 0
            self.hold()
            if not changed and not self.state.open:
                return
            await self.queue.settle()
            if self.results.fatal:
                return

    async def _take_known(self) -> None:
        for turn, planned in enumerate(self.job.plan()):
            self.results.take_or_want(planned)
            if turn % _TURN == 0:
                await self._breathe()
        self._step("planned")

    async def _write(self) -> int:
        """Write chunks of all that is wanted and neither in flight nor failed.

        A request is leased, then looked for in the store, then written, and what a chunk asks is held from the moment that the
        chunk is noted: no other run on the store may ask it from the first look on.

        Returns:
            How many requests were written, or found to be answered by now.
        """
        self.hold()  # what was given up may be asked again
        in_flight: set[str] = set()
        for chunk in self.state.open:
            keys = self.folder.keys(chunk)
            if keys is None:
                return 0  # what this batch asks for is known once its results are here
            in_flight.update(keys)
        limit = min(self._max_requests, self.state.max_requests or self._max_requests)
        writer = self.folder.writer(self.state, limit, self._max_bytes)
        room = self._room()
        changed, self._no_money = 0, ""
        unnoted: list[str] = []
        for turn, key in enumerate(list(self.results.wants)):
            if turn % _TURN == 0:
                await self._breathe()
            if key in in_flight or key in self.results.failed or self._tries[key] >= TRIES:
                continue
            leased = self._leases.take(key)
            if self.results.is_here(key):
                self._leases.give_back(key)
                changed += 1
                continue
            if not leased:
                self._elsewhere[key] = self._said_of(key)
                continue
            request = self.results.planned(key).request
            worst = self._budget.worst_case(request.body)
            if worst > room:
                self._leases.give_back(key)
                self._no_money = (
                    f"this request may cost up to {worst:.4f} USD, and of the cap of {self._max_cost:.4f} USD "
                    f"only {max(0.0, room):.4f} are left"
                )
                break
            room -= worst
            # Not in the spelling that is hashed: a model writes its answer in the order of the schema.
            line = {
                "custom_id": key,
                "method": "POST",
                "url": "/v1" + PATHS[request.api],
                "body": request.body,
            }
            self._tries[key] += 1
            changed += 1
            if (
                writer.add(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n", worst)
                is not None
            ):
                self._noted(unnoted)
            unnoted.append(key)
        if writer.close() is not None:
            self._noted(unnoted)
        return changed

    def _noted(self, keys: list[str]) -> None:
        """Hold what a chunk asks that has just been noted. Whether all of it was still leased is seen before it is sent."""
        self._leases.pass_on(self.state.run_id, keys)
        keys.clear()
        self._step("chunk")

    def _said_of(self, key: str) -> str:
        """Who else has a request in flight, in words."""
        run = self._leases.batch_of(key)
        return "another run is asking this; start the same run again" if run is None else in_a_batch(run)

    def _room(self) -> float:
        """What the cap leaves, when all that is in flight costs its worst."""
        if self._max_cost is None:
            return float("inf")
        mine = [chunk for chunk in self.state.chunks if chunk.attempt == self.state.attempt]
        return self._max_cost - sum(c.cost_usd if c.cost_usd is not None else c.worst_usd for c in mine)

    def _name_missing(self, fatal: ProviderError | None) -> None:
        """Enter all that is still wanted as missing, each with its reason."""
        for key in self._elsewhere:  # its answer may be here by now
            for want in self.results.wants.pop(key, ()):
                self.results.take_or_want(self.results.whole(want))
        waiting: dict[str, str] = {}
        for chunk in self.state.open:
            said = (
                f"it is in the batch {chunk.batch_id or 'to come'}; `relabel batch resume {self.state.run_id}` goes on"
            )
            waiting |= dict.fromkeys(self.folder.keys(chunk) or (), said)
        for key, wanted in self.results.wants.items():
            kind: FailureKind = "provider"
            attempts = self._tries[key]
            if key in self.results.failed:
                kind, said, attempts = self.results.failed[key]
            elif key in waiting:
                said = waiting[key]
            elif key in self.results.unanswered:
                said = self.results.unanswered[key]
            elif key in self._elsewhere:
                said = self._elsewhere[key]
                if (run := self._leases.batch_of(key)) is not None:
                    self.ledger.held[run] += sum(len(tasks) for tasks, _, _ in wanted)
            elif fatal is not None:
                said = str(fatal)
            elif self._no_money and not self.interrupted:
                kind, said = "budget", self._no_money
            else:
                said = "the run was stopped before this was asked"
            for tasks, setting, sample in wanted:
                bare = Request(self.job.endpoint.host, {}, sample, self.job.endpoint.api, key)
                self.ledger.fail(Planned(tasks, setting, sample, bare), kind, said, attempts)

    async def _breathe(self) -> None:
        await asyncio.sleep(0)  # long stretches of work never wait: let the display and Ctrl-C have their turn
        if self.stop.asked.is_set():
            raise StoppedError
