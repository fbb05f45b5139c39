"""Batch runs: all requests of a job in a few files, at half the price, within a day.

This is not an `Engine`, because single answers cannot be awaited. Plan, keys, store and run folder are those of an online run,
so a run started with one engine can be continued with the other.
"""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from relabel.errors import ProviderError
from relabel.labelling.batch.poller import REMEMBERED_S, TURN, BatchPoller
from relabel.labelling.batch.provider import BatchProvider, UnavailableError
from relabel.labelling.batch.state import BatchFolder, BatchOptions, BatchState, run_id
from relabel.labelling.collector import Progress
from relabel.labelling.job import Job, Stop, with_known_format
from relabel.labelling.leases import BEAT_S, GONE_BEATS
from relabel.labelling.limits import Budget
from relabel.labelling.runner import in_a_batch
from relabel.labelling.session import Outcome, RunSession
from relabel.labelling.store import Store
from relabel.labels import FailureKind

# Maximum number of chunks for one request, if their batches end without an answer to it.
MAX_TRIES = 3


async def run_batch(
    job: Job,
    store: Store,
    out: Path,
    provider: BatchProvider,
    batches: Path,
    *,
    options: BatchOptions | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Outcome:
    """Label all tasks of a job by batches and write its run folder.

    Every answer is stored before it counts, and each step is saved, so that a process killed at any time loses nothing and pays
    for nothing twice: the same job, started again, continues. If the job is stopped, its batches continue at the provider.

    Args:
        job: What to label.
        store: Keeps answers.
        out: The run folder.
        provider: Client of the Batch API; closed at the end.
        batches: The folder of all batch jobs.
        options: How to work on the job.
        progress: Updated by the job; batches count as in flight.
        stop: Called to stop the job early.

    Raises:
        ProviderError: The provider refused all further requests or cannot be reached; answers so far are stored.
        DataError: The run folder holds another run, the state cannot be read or written, or another process is working on the job.
        StoreError: The store failed.
    """
    options = options or BatchOptions()
    folder = BatchFolder(batches, run_id(job))
    async with AsyncExitStack() as at_end:
        at_end.push_async_callback(provider.close)
        session = at_end.enter_context(RunSession(job, store, out, "batch", progress=progress, now=options.now))
        at_end.enter_context(folder.locked())
        before = folder.load()
        folder.save_job(job)
        job = _final_job(session.job, store, before)
        session.begin(job)
        state = _open_state(folder, before, job, out, provider.address, options)
        runner = BatchRunner(session, folder, state, provider, options, stop or Stop())
        fatal = await runner.run(new=before is None)
        outcome = session.finish(interrupted=runner.interrupted, fatal=fatal)
        if not state.open and not runner.interrupted:
            state.ended_at = options.now().isoformat(timespec="seconds")
            for chunk in state.chunks:
                chunk.failed = {}
            folder.save(state)
    if fatal is not None:
        raise fatal
    return outcome


def _final_job(job: Job, store: Store, state: BatchState | None) -> Job:
    """The job at half the price and without a probe, in a known response format of the server, or else in the strictest one.

    The format of batches in flight is kept: with another format, their requests would have other keys and be paid for again.
    """
    settled = with_known_format(job, store)
    if job.probe and state is not None and state.open and state.form is not None:
        settled = job.in_form(state.form)
    return replace(settled.in_batches, probe=False)


def _open_state(
    folder: BatchFolder, state: BatchState | None, job: Job, out: Path, address: str, options: BatchOptions
) -> BatchState:
    started = options.now().isoformat(timespec="seconds")
    if state is None:
        state = BatchState(run_id=folder.name, out="", model=job.model, base_url=address, started_at=started)
    elif state.ended_at is not None:
        state.started_at, state.ended_at, state.max_requests = started, None, None
    if not state.open:
        state.form = job.endpoint.form
    state.out, state.max_cost, state.key_env = str(out.resolve()), options.max_cost, options.key_env
    folder.save(state)
    return state


class BatchRunner(BatchPoller):
    """A running batch job: writes chunks, and has them submitted and collected.

    Attributes:
        interrupted: Whether it was stopped before its end.
    """

    interrupted = False
    _budget_message = ""

    async def run(self, *, new: bool) -> ProviderError | None:
        """Run the job to its end; return the error that ended it early, if any.

        Args:
            new: Whether the job's state is new.
        """
        fatal: ProviderError | None = None
        self._plan = self._job.plan()
        self._budget = Budget(self._options.max_cost, self._job.price)
        working = asyncio.create_task(self._work(new=new))
        # Let requests in progress finish, so that their batches need not be searched for later.
        await self._stop.supervise([working])
        try:
            working.result()
        except asyncio.CancelledError:
            self.interrupted = True
        except ProviderError as error:
            fatal = error
        fatal = fatal or self._requests.fatal
        if fatal is None and self.refused and not self._collector.progress.fresh:
            fatal = ProviderError(
                f"the provider refused the batch: {self.refused}; correct that, then start the same run again"
            )
        self._in_flight.clear()
        for turn, planned in enumerate(self._plan):  # those that the job did not reach before it was stopped
            self._requests.add(planned)
            if turn % TURN == 0:
                await asyncio.sleep(0)
                if self._stop.at_once.is_set():
                    break
        self._name_missing(fatal)
        if unnamed := self._job.size - self._collector.progress.done:
            self._collector.leave_unnamed(unnamed)
        await self._release_unsent(fatal)
        return fatal

    async def _work(self, *, new: bool) -> None:
        for turn, planned in enumerate(self._plan):
            self._requests.add(planned)
            await self._take_turn(turn)
        self._options.step("planned")
        for chunk in self._state.chunks:
            for key, failed in chunk.failed.items():
                self._requests.fail(key, *failed)
        checked = any(chunk.batch_id for chunk in self._state.chunks)
        waits = GONE_BEATS + 2
        while True:
            if not checked and self._options.submit and (self._state.open or any(map(self._is_due, self._requests))):
                # Before any upload: does this address have a batch API, and does it have batches of this job?
                mark, since = {"relabel_run": self._state.run_id}, self._options.now().timestamp() - REMEMBERED_S
                self.lost = await self._provider.find(mark, None, since) is not None and new
                checked = True
            changed = await self._write()
            self._hold()
            if not changed and not self._state.open:
                # For a few heartbeats, a dead process cannot be distinguished from a live one.
                if not waits or all(request.elsewhere != "" for request in self._requests.values()):
                    return
                waits -= 1
                await self.pause(BEAT_S)
                continue
            await self.settle()
            if self._requests.fatal:
                return

    # Writing chunks.

    def _is_due(self, key: str) -> bool:
        request = self._requests[key]
        return request.failed is None and request.tries < MAX_TRIES

    async def _write(self) -> int:
        """Write chunks of all requests that are neither in flight nor failed.

        A request is first leased, then looked up in the store, then written; once its chunk is saved, the batch run holds it. From
        the lease on, no other run on the store can send it.

        Returns:
            Number of requests that were written, or have been answered in the meantime.
        """
        if not self._options.submit:
            return 0
        self._hold()  # requests of dropped chunks may be sent again
        in_flight = self._folder.open_requests(self._state)
        limit = min(self._options.max_requests, self._state.max_requests or self._options.max_requests)
        self._folder.tidy(self._state)
        # The budget that is left after all starts of the run, if all requests in flight cost their maximum.
        cap, changed, self._budget_message = self._options.max_cost, 0, ""
        left_usd = math.inf if cap is None else cap - self.spent_usd - self._state.unaccounted_usd
        lines: dict[str, bytes] = {}
        size, worst_usd = 0, 0.0
        for turn, key in enumerate(list(self._requests)):
            await self._take_turn(turn)
            if key in in_flight or not self._is_due(key):
                continue
            leased = self._leases.acquire(key)
            if self._requests.take_from_store(key):
                self._leases.release(key)
                changed += 1
                continue
            self._requests[key].elsewhere = None if leased else self._leases.batch_of(key) or ""
            if not leased:
                continue
            request = self._requests.planned(key).request
            worst = self._budget.most(request.body) or 0.0
            if worst > left_usd:
                self._leases.release(key)
                self._budget_message = (
                    f"this request may cost up to {worst:.4f} USD, and only {max(0.0, left_usd):.4f} USD "
                    f"of the cap of {cap:.4f} USD are left, after {self.spent_usd:.4f} USD spent so far"
                )
                break
            left_usd -= worst
            self._requests[key].tries += 1
            changed += 1
            # Not canonical JSON, because a model follows the order of keys in the schema.
            line = json.dumps(self._provider.line(request), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            if len(lines) >= limit or (lines and size + len(line) > self._options.max_bytes):
                self._save_chunk(lines, worst_usd)
                size, worst_usd = 0, 0.0
            lines[key] = line
            size += len(line)
            worst_usd += worst
        if lines:
            self._save_chunk(lines, worst_usd)
        return changed

    def _save_chunk(self, lines: dict[str, bytes], worst_usd: float) -> None:
        """Save a chunk, and hold its requests. Before it is sent, `_is_ours` checks that they were all still leased."""
        self._folder.add(self._state, [*lines.values()], worst_usd)
        self._leases.transfer(self._state.run_id, lines)
        lines.clear()
        self._options.step("chunk")

    def _hold(self, *, leaving: bool = False) -> None:
        """Hold the requests of all open chunks, so that other runs on the store do not send them; when leaving, release unsent ones."""
        in_flight = self._folder.open_requests(self._state)
        sent = {key for key, chunk in in_flight.items() if chunk.batch_id is not None}
        kept = {key for key, chunk in in_flight.items() if not leaving or chunk.creating_since is not None}
        self._leases.reserve(self._state.run_id, sent, still=kept)

    async def _release_unsent(self, fatal: ProviderError | None) -> None:
        """Release requests that were never sent; after a refusal, delete files that were uploaded but not used."""
        self._hold(leaving=True)
        for chunk in self._state.open if fatal is not None and not isinstance(fatal, UnavailableError) else ():
            if chunk.file_id is not None and chunk.creating_since is None:
                await self._forget_file(chunk)
                self.save("file deleted")

    # Missing labels.

    def _name_missing(self, fatal: ProviderError | None) -> None:
        """Record all labels that are still wanted as missing, each with its reason."""
        for key in [key for key, request in self._requests.items() if request.elsewhere is not None]:
            self._requests.take_from_store(key)  # the other run may have stored an answer by now
        in_flight = self._folder.open_requests(self._state)
        for key, request in self._requests.items():
            kind: FailureKind = "provider"
            attempts = request.tries
            if request.failed is not None:
                kind, message, attempts = request.failed
            elif (chunk := in_flight.get(key)) is not None:
                message = f"it is in the batch {chunk.batch_id or '(not sent yet)'}; `relabel batch resume {self._state.run_id}` continues"
                # A request counts once its batch exists, which an earlier process may have created.
                attempts = max(1, attempts) if chunk.batch_id is not None else max(0, attempts - 1)
            elif request.unanswered:
                message = request.unanswered
            elif request.elsewhere is not None:
                run = request.elsewhere
                message = in_a_batch(run) if run else "another run has sent this request; start the same run again"
                if run:
                    self._collector.progress.held_by_run[run] += sum(len(wanted.tasks) for wanted in request.wanted)
            elif fatal is not None:
                message = str(fatal)
            elif self._budget_message and not self.interrupted:
                kind, message = "budget", self._budget_message
            else:
                message, attempts = "the run was stopped before this was sent", 0
            for wanted in request.wanted:
                self._collector.fail(wanted, kind, message, attempts, key)

    async def _take_turn(self, turn: int) -> None:
        """Yield to the event loop regularly in long computations, for the display and Ctrl-C."""
        if turn % TURN == 0:
            await asyncio.sleep(0)
            if self._stop.asked.is_set():
                raise asyncio.CancelledError
