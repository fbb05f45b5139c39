"""The batch engine: the whole of a job in a few files, for half the price, some time within a day.

It is no `Engine`: there is nobody to wait for a single answer. It walks the same plan as an online run, takes the same answers
from the same store under the same keys, and writes the same run folder; only the way there is another. A run begun with one
goes on with the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import openai

from relabel.errors import ProviderError
from relabel.files import require_writable, writing
from relabel.label import FailureKind
from relabel.labelling.engines.batch_provider import BatchProvider
from relabel.labelling.engines.batch_queue import Queue, StoppedError
from relabel.labelling.engines.batch_results import Results
from relabel.labelling.engines.batch_state import BatchFolder, BatchState, run_id
from relabel.labelling.engines.batch_terms import Terms
from relabel.labelling.engines.batch_writing import TURN, Writing, breathe
from relabel.labelling.form import with_known_form
from relabel.labelling.job import Job, Stop
from relabel.labelling.leases import Leases
from relabel.labelling.ledger import Ledger
from relabel.labelling.outcome import Outcome, finish, manifest_of, out_is_free
from relabel.labelling.progress import Progress
from relabel.labelling.request import Planned, Request, public_url
from relabel.labelling.store import Store
from relabel.labelling.workers import DRAIN_S, in_a_batch
from relabel.run import write_manifest


async def run_batch(
    job: Job,
    store: Store,
    out: Path,
    *,
    client: openai.AsyncOpenAI,
    batches: Path,
    command: Sequence[str] = (),
    progress: Progress | None = None,
    stop: Stop | None = None,
    terms: Terms | None = None,
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
        progress: Counted up as the job goes on; what flies are batches.
        stop: Called to stop the job early.
        terms: What the job may do, how large and how often, and by which clock.

    Raises:
        ProviderError: The provider refused for good or cannot be reached; what had come in is stored.
        DataError: The run folder holds another run, the state cannot be read or written, or another process works on the job.
        StoreError: The store failed.
    """
    terms = terms or Terms()
    require_writable(out)
    folder = BatchFolder(batches, run_id(job))
    with writing(out), folder.locked():
        before = folder.load()
        job = _settled(job, store, before)
        out_is_free(out, job)
        state, begun = _open_state(folder, before, job, out, command, terms.now)
        manifest = manifest_of(job, "batch", terms.now())
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
        stop, leases = stop or Stop(), Leases(store.folder)
        provider = BatchProvider(client, job.endpoint.model, sleep=terms.sleep, jitter=terms.jitter)
        results = Results(job, store, ledger, folder, provider, terms)
        writer = Writing(folder, state, results, leases, job.price, terms)
        queue = Queue(
            folder, state, provider, job.endpoint.api, results, leases, ledger.progress, stop, terms, begun=begun
        )
        work = _Batches(job, folder, state, ledger, results, writer, queue, stop, terms)
        try:
            fatal = await work.work()
            writer.hold()
        finally:
            leases.close()
        ledger.close(job.samples, len(job.orders) or 1)
        outcome = finish(job, out, manifest, ledger, interrupted=work.interrupted, fatal=fatal, now=terms.now)
        if not state.open and not work.interrupted:
            state.ended_at = terms.now().isoformat(timespec="seconds")
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
    """A running batch job: walks the plan, has what is missing written into chunks, and has the queue do the rest."""

    def __init__(
        self,
        job: Job,
        folder: BatchFolder,
        state: BatchState,
        ledger: Ledger,
        results: Results,
        writing: Writing,
        queue: Queue,
        stop: Stop,
        terms: Terms,
    ) -> None:
        self.job, self.folder, self.state, self.ledger = job, folder, state, ledger
        self.results, self.writing, self.queue, self.stop = results, writing, queue, stop
        self.terms, self.interrupted = terms, False
        self._plan = job.plan()

    async def work(self) -> ProviderError | None:
        """Do all there is to do; return what ended it early for good."""
        fatal: ProviderError | None = None
        working = asyncio.create_task(self._work())
        asked = asyncio.create_task(self.stop.asked.wait())
        leave = asyncio.create_task(self.stop.at_once.wait())
        renewing = asyncio.create_task(self.writing.renew())
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
        await self._look_at_the_rest()
        self._name_missing(fatal)
        if left := self.job.size - self.ledger.progress.done:
            self.ledger.leave_unnamed(left)
        return fatal

    async def _work(self) -> None:
        for turn, planned in enumerate(self._plan):
            self.results.take_or_want(planned)
            if turn % TURN == 0:
                await breathe(self.stop)
        self.terms.step("planned")
        for chunk in self.state.chunks:
            if chunk.attempt == self.state.attempt:
                self.results.failed |= chunk.failed
        while True:
            changed = await self.writing.write(self.stop)
            self.writing.hold()
            if not changed and not self.state.open:
                return
            await self.queue.settle()
            if self.results.fatal:
                return

    async def _look_at_the_rest(self) -> None:
        """Take or want what a stop has kept from being looked at, until the user is in a hurry."""
        for turn, planned in enumerate(self._plan):
            self.results.take_or_want(planned)
            if turn % TURN == 0:
                await asyncio.sleep(0)
                if self.stop.at_once.is_set():
                    return

    def _name_missing(self, fatal: ProviderError | None) -> None:
        """Enter all that is still wanted as missing, each with its reason."""
        elsewhere = self.writing.elsewhere
        for key in elsewhere:  # its answer may be here by now
            for want in self.results.wants.pop(key, ()):
                self.results.take_or_want(self.results.whole(want))
        waiting: dict[str, tuple[str, bool]] = {}
        for chunk in self.state.open:
            said = (
                f"it is in the batch {chunk.batch_id or 'to come'}; `relabel batch resume {self.state.run_id}` goes on"
            )
            waiting |= dict.fromkeys(self.folder.keys(chunk) or (), (said, chunk.batch_id is not None))
        for key, wanted in self.results.wants.items():
            kind: FailureKind = "provider"
            attempts = self.results.tries[key]
            if key in self.results.failed:
                kind, said, attempts = self.results.failed[key]
            elif key in waiting:
                said, sent = waiting[key]
                # It counts once it is sent, and an earlier process may have sent it.
                attempts = max(1, attempts) if sent else max(0, attempts - 1)
            elif key in self.results.unanswered:
                said = self.results.unanswered[key]
            elif key in elsewhere:
                run = elsewhere[key]
                said = "another run is asking this; start the same run again" if run is None else in_a_batch(run)
                if run is not None:
                    self.ledger.held[run] += sum(len(tasks) for tasks, _, _ in wanted)
            elif fatal is not None:
                said = str(fatal)
            elif self.writing.no_money and not self.interrupted:
                kind, said = "budget", self.writing.no_money
            else:
                said, attempts = "the run was stopped before this was asked", 0  # written, perhaps, and not sent
            for tasks, setting, sample in wanted:
                bare = Request(self.job.endpoint.host, {}, sample, self.job.endpoint.api, key)
                self.ledger.fail(Planned(tasks, setting, sample, bare), kind, said, attempts)
