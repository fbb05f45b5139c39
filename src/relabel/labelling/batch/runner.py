"""The batch engine: all requests of a job in a few files, at half the price, within a day.

There is nobody to wait for a single answer, so it is not an `Engine`: it walks the same plan as an online run, takes the same answers
from the same store under the same keys, and writes the same run folder. A run begun with one goes on with the other.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from relabel.errors import ProviderError
from relabel.labelling.batch.provider import (
    FINAL,
    BatchProvider,
    FileNotReadyError,
    GoneError,
    RemoteBatch,
    UnavailableError,
)
from relabel.labelling.batch.requests import OpenRequests
from relabel.labelling.batch.state import BatchFolder, BatchOptions, BatchState, Chunk, run_id
from relabel.labelling.job import Job, Stop, with_known_format
from relabel.labelling.leases import BEAT_S, GONE_BEATS
from relabel.labelling.pricing import Budget
from relabel.labelling.progress import Progress
from relabel.labelling.request import Request, WorkItem
from relabel.labelling.runner import DRAIN_S, in_a_batch
from relabel.labelling.session import Outcome, RunSession, open_session
from relabel.labelling.store import Store
from relabel.labels import FailureKind

LONGEST_POLL_S = 60.0
MAX_FAILED_POLLS = 30
"""Polls in a row that may fail before the job gives up: a network that is away for a while loses nothing."""
MAX_TRIES = 3
"""Times that one request goes into a batch, when batches end without having answered it."""
FILE_LOOKS = 10
"""Polls of a batch that has ended until its files must be complete."""
READY_LOOKS = 40
"""Polls, half an hour of them, until an uploaded file must be processed."""
QUEUE_TRIES = 300
"""Batches tried, one every few minutes and so for about a day, while other jobs fill the provider's queue."""
REMEMBERED_S = 30 * 86400.0
"""How far back a batch is looked for when the state is lost: the provider keeps results no longer."""
_TURN = 64
"""Requests or lines that are worked through before the display and Ctrl-C have their turn."""
_QUEUE_FULL = re.compile(r"token_limit_exceeded|enqueued", re.IGNORECASE)
_QUEUE_LIMIT = re.compile(r"limit:\s*([\d,]+)", re.IGNORECASE)
_BYTES_A_TOKEN = 4


class _StoppedError(Exception):
    """The job was told to stop."""


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

    Every answer is in the store before it counts, and each step is saved, so that a process killed at any moment loses nothing and
    buys nothing twice: the same job started again goes on. Stopping leaves the batches at the provider.

    Args:
        job: What to label.
        store: Keeps answers.
        out: The run folder.
        provider: Has the files and batches; the caller closes it.
        batches: The folder of all batch jobs.
        options: How the job is worked on.
        progress: Counted up as the job goes on; in flight are batches.
        stop: Called to stop the job early.

    Raises:
        ProviderError: The provider refused for good or cannot be reached; what had come in is stored.
        DataError: The run folder holds another run, the state cannot be read or written, or another process works on the job.
        StoreError: The store failed.
    """
    options = options or BatchOptions()
    folder = BatchFolder(batches, run_id(job))
    with open_session(job, store, out, "batch", progress=progress, now=options.now) as session, folder.locked():
        before = folder.load()
        folder.save_job(job)
        job = _settled(job, store, before)
        session.begin(job)
        state = _open_state(folder, before, job, out, provider.address, options)
        runner = BatchRunner(job, store, session, folder, state, provider, options, stop or Stop())
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


def _settled(job: Job, store: Store, state: BatchState | None) -> Job:
    """The job at half the price, in the form that its server is known to take, else the strictest: a batch is no place to try.

    Batches in flight keep the job to the form that they ask in: another would be other requests, bought once more.
    """
    known = with_known_format(job, store)
    if job.probe and state is not None and state.open and state.form is not None:
        known = replace(job, endpoint=job.endpoint.model_copy(update={"form": state.form}))
    return replace(known, probe=False, price=job.price.halved() if job.price else None)


def _open_state(
    folder: BatchFolder, state: BatchState | None, job: Job, out: Path, address: str, options: BatchOptions
) -> BatchState:
    started = options.now().isoformat(timespec="seconds")
    if state is None:
        state = BatchState(run_id=folder.name, out="", model=job.model, base_url=address, started_at=started)
    elif state.ended_at is not None:
        state.attempt += 1
        state.started_at, state.ended_at, state.max_requests = started, None, None
    if not state.open:
        state.form = job.endpoint.form
    state.out, state.max_cost, state.key_env = str(out.resolve()), options.max_cost, options.key_env
    folder.save(state)
    return state


class BatchRunner:
    """A running batch job: plans chunks, sends them, polls their batches, and takes their results.

    Attributes:
        interrupted: Whether it was told to stop before its end.
    """

    def __init__(
        self,
        job: Job,
        store: Store,
        session: RunSession,
        folder: BatchFolder,
        state: BatchState,
        provider: BatchProvider,
        options: BatchOptions,
        stop: Stop,
    ) -> None:
        self.interrupted = False
        collector = session.collector
        self._job, self._collector, self._folder, self._state = job, collector, folder, state
        self._leases, self._journal, self._spent_usd = session.leases, session.journal, session.spent_before
        self._provider, self._options, self._stop = provider, options, stop
        self._requests = OpenRequests(job, store, collector, folder, provider)
        self._budget = Budget(options.max_cost, job.price)
        self._plan = job.plan()
        self._in_flight = collector.progress.in_flight
        self._no_money = ""
        self._refused = ""
        self._lost = False
        """Whether the provider has batches of this run although the state is new: somebody has removed the state."""
        self._failed_polls = 0
        self._file_looks: Counter[int] = Counter()
        self._room: dict[int, tuple[int, int, int]] = {}
        """Of chunks that found the queue full: our other batches then, refusals, and polls to wait."""

    async def run(self, *, new: bool) -> ProviderError | None:
        """Do all there is to do; return what ended it early for good.

        Args:
            new: Whether the job's state is new.
        """
        fatal: ProviderError | None = None
        working = asyncio.create_task(self._work(new=new))
        asked = asyncio.create_task(self._stop.asked.wait())
        leave = asyncio.create_task(self._stop.at_once.wait())
        try:
            await asyncio.wait({working, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                # What is being sent may finish: a reply that is read spares looking for its batch later.
                await asyncio.wait({working, leave}, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, asked, leave):
                task.cancel()
            await asyncio.wait({working, asked, leave})
        error = None if working.cancelled() else working.exception()
        if working.cancelled() or isinstance(error, _StoppedError):
            self.interrupted = True
        elif isinstance(error, ProviderError):
            fatal = error
        elif error is not None:
            raise error
        fatal = fatal or self._requests.fatal
        if fatal is None and self._refused and not self._collector.progress.fresh:
            fatal = ProviderError(
                f"the provider refused the batch: {self._refused}; correct that, then start the same run again"
            )
        self._in_flight.clear()
        for turn, planned in enumerate(self._plan):  # what a stop has kept from being looked at
            self._requests.add(planned)
            if turn % _TURN == 0:
                await asyncio.sleep(0)
                if self._stop.at_once.is_set():
                    break
        self._name_missing(fatal)
        if left := self._job.size - self._collector.progress.done:
            self._collector.leave_unnamed(left)
        await self._let_go(fatal)
        return fatal

    async def _work(self, *, new: bool) -> None:
        for turn, planned in enumerate(self._plan):
            self._requests.add(planned)
            await self._take_turn(turn)
        self._options.step("planned")
        for chunk in self._state.current:
            for key, failed in chunk.failed.items():
                if key in self._requests:
                    self._requests[key].failed = failed
        checked = any(chunk.batch_id for chunk in self._state.chunks)
        waits = GONE_BEATS + 2
        while True:
            if not checked and self._options.submit and (self._state.open or any(map(self._is_due, self._requests))):
                # Before anything is uploaded: are there batches here at all, and are there some of ours?
                mark, since = {"relabel_run": self._state.run_id}, self._options.now().timestamp() - REMEMBERED_S
                self._lost = await self._provider.find(mark, None, since) is not None and new
                checked = True
            changed = await self._write()
            self._hold()
            if not changed and not self._state.open:
                # A process that has just died looks like one that asks, for a few heartbeats.
                if not waits or all(request.elsewhere != (None,) for request in self._requests.values()):
                    return
                waits -= 1
                await self._pause(BEAT_S)
                continue
            await self._settle()
            if self._requests.fatal:
                return

    # Writing chunks.

    def _is_due(self, key: str) -> bool:
        request = self._requests[key]
        return request.failed is None and request.tries < MAX_TRIES

    async def _write(self) -> int:
        """Write chunks of all that is wanted and neither in flight nor failed.

        A request is leased, then looked for in the store, then written, and what a chunk asks is held from the moment that the
        chunk is saved: no other run on the store may ask it from the first look on.

        Returns:
            How many requests were written, or are answered by now.
        """
        if not self._options.submit:
            return 0
        self._hold()  # what was given up may be asked again
        in_flight: set[str] = set()
        for chunk in self._state.open:
            keys = self._folder.keys(chunk)
            if keys is None:
                return 0  # what this batch asks for is known once its results are here
            in_flight.update(keys)
        limit = min(self._options.max_requests, self._state.max_requests or self._options.max_requests)
        writer = self._folder.writer(self._state, limit, self._options.max_bytes)
        room, changed, self._no_money = self._money(), 0, ""
        unsaved: list[str] = []
        for turn, key in enumerate(list(self._requests)):
            await self._take_turn(turn)
            if key in in_flight or not self._is_due(key):
                continue
            leased = self._leases.take(key)
            if self._requests.is_here(key):
                self._leases.give_back(key)
                changed += 1
                continue
            self._requests[key].elsewhere = None if leased else (self._leases.batch_of(key),)
            if not leased:
                continue
            request = self._requests.planned(key).request
            worst = self._budget.most(request.body) or 0.0
            if worst > room:
                self._leases.give_back(key)
                self._no_money = (
                    f"this request may cost up to {worst:.4f} USD, and of the cap of {self._options.max_cost:.4f} USD "
                    f"only {max(0.0, room):.4f} are left, after {self._spent_usd:.4f} that it has cost"
                )
                break
            room -= worst
            self._requests[key].tries += 1
            changed += 1
            # Not in the spelling that is hashed: a model writes its answer in the order of the schema.
            line = json.dumps(self._provider.line(request), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            if writer.add(line, worst) is not None:
                self._pass_on(unsaved)
            unsaved.append(key)
        if writer.close() is not None:
            self._pass_on(unsaved)
        return changed

    def _pass_on(self, keys: list[str]) -> None:
        """Hold what a chunk asks that has just been saved. Whether all of it was still leased is seen before it is sent."""
        self._leases.pass_on(self._state.run_id, keys)
        keys.clear()
        self._options.step("chunk")

    def _money(self) -> float:
        """What the cap leaves, in USD, after all starts of the run, and when all that is in flight costs its worst."""
        if self._options.max_cost is None:
            return float("inf")
        return self._options.max_cost - self._spent_usd - self._state.unaccounted_usd

    def _hold(self, *, leaving: bool = False) -> None:
        """Let other runs on the store know what batches have in flight; when leaving, what was not sent is let go."""
        sent: set[str] = set()
        written: set[str] = set()
        for chunk in self._state.open:
            keys = self._folder.keys(chunk)
            if keys is None:
                return  # what this batch asks for is held from before, and nobody can tell it from what is not in flight
            if chunk.batch_id is not None:
                sent |= keys
            elif not leaving or chunk.creating_since is not None:
                written |= keys
        self._leases.hold(self._state.run_id, sent, still=written)

    async def _let_go(self, fatal: ProviderError | None) -> None:
        """Keep nobody from asking what was never sent; after a refusal, delete what was uploaded for nothing."""
        self._hold(leaving=True)
        for chunk in self._state.open if fatal is not None and not isinstance(fatal, UnavailableError) else ():
            if chunk.file_id is not None and chunk.creating_since is None:
                await self._provider.delete(chunk.file_id)
                chunk.file_id = None
                self._save("file deleted")

    # Sending and polling.

    async def _settle(self) -> None:
        """Send every open chunk, wait for its batch and take the results."""
        wait_s = self._options.poll_s
        while True:
            for chunk in self._state.open:
                if self._requests.fatal is None and chunk.batch_id is None:
                    await self._send(chunk)
            taken, late = 0, list[Chunk]()
            in_flight = self._at_provider()
            for chunk in in_flight:
                taken += await self._poll(chunk)
                late += [chunk] if self._file_looks[chunk.number] >= FILE_LOOKS and not chunk.taken else []
            if not self._state.open or (self._requests.fatal is not None and taken == len(in_flight)):
                return
            if late and len(late) == len(self._state.open):
                self._collector.progress.cost_usd = None
                raise ProviderError(
                    f"the batch {late[0].batch_id} has ended ({late[0].status}) and its results are not there yet; "
                    f"`relabel batch resume {self._state.run_id}` takes them later, `relabel batch cancel` gives them up"
                )
            await self._pause(wait_s)
            wait_s = self._options.poll_s if taken else min(wait_s * 1.5, max(self._options.poll_s, LONGEST_POLL_S))

    def _at_provider(self) -> list[Chunk]:
        return [chunk for chunk in self._state.open if chunk.batch_id is not None]

    async def _send(self, chunk: Chunk) -> None:
        """Bring a chunk to the provider, unless it is there or the queue has no room."""
        if self._options.submit and self._must_wait_for_room(chunk):
            return
        if self._stop.asked.is_set():
            raise _StoppedError
        mark = {
            "relabel_run": self._state.run_id,
            "relabel_chunk": f"{chunk.number}.{chunk.tries + 1}",
            "relabel_sha256": chunk.sha256,
        }
        if not self._options.submit or not self._folder.path_of(chunk).exists() or not self._is_ours(chunk):
            # Not to be sent, or no longer: all that counts is a batch that was made of it and is not known yet.
            found = None
            if chunk.creating_since is not None:
                try:
                    found = await self._provider.find(mark, chunk.file_id, chunk.creating_since)
                except UnavailableError:
                    raise
                except ProviderError:  # where there are no batches, there is none of ours
                    if self._options.submit:
                        raise
            if found is None:
                await self._drop(chunk, "not sent")
                return
        else:
            found = await self._create(chunk, mark)
            if found is None:
                return
        chunk.batch_id, chunk.tries, chunk.note = found.id, chunk.tries + 1, None
        chunk.submitted_at = datetime.fromtimestamp(found.created_at, UTC).isoformat(timespec="seconds")
        self._update(chunk, found)
        self._save("batch noted")

    async def _create(self, chunk: Chunk, mark: dict[str, str]) -> RemoteBatch | None:
        """Upload a chunk and make a batch of it; None when the queue has no room."""
        for look in range(READY_LOOKS):
            fresh = chunk.file_id is None
            if chunk.file_id is None:
                chunk.file_id = await self._provider.upload(self._folder.path_of(chunk))
                self._options.step("uploaded")
                self._save("file noted")
            known, since = chunk.creating_since is not None, chunk.creating_since or self._options.now().timestamp()
            if not known:
                chunk.creating_since = since
                self._save("intent noted")
            if self._lost:
                chunk.adopted = known = True
                since -= REMEMBERED_S
            try:
                found = await self._provider.create(chunk.file_id, self._job.endpoint.api, mark, since, look=known)
                self._options.step("created")
                return found
            except UnavailableError as error:
                if not error.sent:
                    chunk.creating_since = None
                    self._save("refusal noted")
                raise
            except ProviderError as error:
                chunk.creating_since = None
                full = _QUEUE_FULL.search(str(error)) is not None
                not_ready = isinstance(error, FileNotReadyError) and look + 1 < READY_LOOKS
                if not (full or not_ready):
                    await self._forget_file(chunk)  # it may be the file that is refused
                elif not_ready and not fresh and look == 0 and "pending" not in str(error).lower():
                    await self._forget_file(chunk)  # an earlier process uploaded it, and it is gone
                self._save("refusal noted")
                if full:
                    await self._wait_for_room(chunk, str(error))
                    return None
                if not not_ready:
                    raise
            await self._pause(min(LONGEST_POLL_S, self._options.poll_s * 1.5**look))
        return None

    def _is_ours(self, chunk: Chunk) -> bool:
        """Whether all that a chunk asks is wanted still, and nobody else may have asked it since it was written."""
        keys = self._folder.keys(chunk) or set()
        return not self._leases.pass_on(self._state.run_id, keys) and keys <= self._requests.keys()

    def _must_wait_for_room(self, chunk: Chunk) -> bool:
        ours, refusals, polls = self._room.get(chunk.number, (0, 0, 0))
        if not refusals:
            return False
        if ours and len(self._at_provider()) >= ours:
            return True
        self._room[chunk.number] = ours, refusals, polls - 1
        return not ours and polls > 0

    async def _wait_for_room(self, chunk: Chunk, said: str) -> None:
        """The queue is full: by our own batches, by a chunk that is too large, or by others, who are waited for."""
        ours = len([c for c in self._at_provider() if c is not chunk])
        limit = _QUEUE_LIMIT.search(said)
        tokens = int(limit[1].replace(",", "")) if limit else None
        if not ours and tokens is not None and chunk.requests > 1 and chunk.bytes / _BYTES_A_TOKEN > tokens / 4:
            self._state.max_requests = max(1, chunk.requests // 2)
            await self._drop(chunk, "too large for the queue")
            return
        refusals = self._room.get(chunk.number, (0, 0, 0))[1] + 1
        self._in_flight.pop(chunk.batch_id or "", None)
        chunk.batch_id = chunk.ended_at = chunk.creating_since = None
        if refusals > QUEUE_TRIES:
            raise ProviderError(
                f"the provider's queue of batches has had no room for a day ({said}); once other batches have ended, "
                f"`relabel batch resume {self._state.run_id}`"
            )
        self._room[chunk.number] = ours, refusals, min(5, refusals - 1)
        chunk.status = "waits for room"
        self._in_flight[f"chunk {chunk.number}"] = (
            f"batch {chunk.number} waits: the queue is full",
            self._options.clock(),
        )
        self._save("no room noted")

    async def _poll(self, chunk: Chunk) -> bool:
        """See how a batch does, and take its results when it has ended; whether it has."""
        assert chunk.batch_id is not None
        self._in_flight.pop(f"chunk {chunk.number}", None)
        try:
            if chunk.ended_at is None or self._file_looks[chunk.number]:
                if not self._options.submit and chunk.status not in FINAL | {"cancelling", "finalizing"}:
                    await self._provider.cancel(chunk.batch_id)
                    self._options.step("cancelled")
                batch = await self._provider.retrieve(chunk.batch_id)
                before = chunk.status
                self._update(chunk, batch)
                if chunk.status in FINAL and chunk.ended_at is None:
                    chunk.ended_at = self._options.now().isoformat(timespec="microseconds")
                if chunk.status != before or chunk.ended_at is not None:
                    self._save("status noted")
            self._failed_polls = 0
            return chunk.ended_at is not None and await self._take(chunk)
        except GoneError as error:
            if self._options.submit and not chunk.adopted:
                raise ProviderError(
                    f"the provider has no batch {chunk.batch_id} or no results of it ({error}); check that the key is of the project "
                    f"that made it, or give it up with `relabel batch cancel {self._state.run_id}`"
                ) from error
            await self._drop(chunk, "gone")
            return True
        except UnavailableError:
            self._failed_polls += 1
            if self._failed_polls >= MAX_FAILED_POLLS:
                raise
            return False

    def _update(self, chunk: Chunk, batch: RemoteBatch) -> None:
        chunk.status, chunk.answered = batch.status, batch.answered
        chunk.checked_at = self._options.now().isoformat(timespec="seconds")
        chunk.output_file_id, chunk.error_file_id = batch.output_file_id, batch.error_file_id
        if batch.error is not None:
            chunk.note = self._provider.redact(": ".join(batch.error))
        since = self._in_flight[batch.id][1] if batch.id in self._in_flight else self._options.clock()
        shown = f"batch {chunk.number} {chunk.status} {chunk.answered}/{chunk.requests}"
        self._in_flight[batch.id] = (shown, since)

    # Taking results.

    async def _take(self, chunk: Chunk) -> bool:
        """Take the results of a batch that has ended; False when its files are not complete yet."""
        remote = {"output": chunk.output_file_id, "errors": chunk.error_file_id}
        if chunk.status == "failed" and not any(remote.values()):
            await self._refuse(chunk)
            return True
        files: list[Path] = []
        for kind, file_id in remote.items():
            if file_id is not None:
                files.append(self._folder.path / f"{self._folder.path_of(chunk).stem}.{kind}.jsonl")
                await self._provider.download(file_id, files[-1])
        whole = sum(line.rstrip().endswith(b"}") for line in _lines(files))
        if whole < min(chunk.answered, chunk.requests) or (not files and chunk.status == "completed"):
            self._file_looks[chunk.number] += 1
            if self._file_looks[chunk.number] < FILE_LOOKS or (not files and self._options.submit):
                return False  # the provider says that there is more; without any file, asking again would be paid again
        self._options.step("downloaded")
        understood = await self._enter(chunk, files)
        chunk.taken = True
        self._save("taken")
        self._in_flight.pop(chunk.batch_id or "", None)
        self._folder.remove(chunk)
        for file_id in (chunk.file_id, *remote.values()):
            if understood and file_id is not None:
                await self._provider.delete(file_id)
        self._options.step("forgotten")
        return True

    async def _enter(self, chunk: Chunk, files: list[Path]) -> bool:
        """Enter all lines of a batch's results; whether all that was paid for is in the store."""
        keys = self._folder.keys(chunk)
        number, lost, cost = 0, 0, 0.0
        unpriced = False
        for number, line in enumerate(_lines(files), 1):
            result = self._provider.result(line)
            if result is None or (keys is not None and result.key not in keys):
                lost += 1
            else:
                self._journal.note(
                    "<", result.key
                )  # should this process be killed, the next start counts what it bought
                stored, cost_usd = self._requests.enter(chunk, result, number)
                lost += not stored
                cost += cost_usd or 0.0
                unpriced |= cost_usd is None
            self._options.step("entered")
            if number % _TURN == 0:
                await asyncio.sleep(0)
        lost += max(0, chunk.answered - number)
        chunk.failed = {}
        for key in keys if keys is not None else list(self._requests):
            request = self._requests.get(key)
            if request is not None and request.failed is not None:
                chunk.failed[key] = request.failed
            elif request is not None and not request.unanswered:
                request.unanswered = f"the batch {chunk.batch_id} ended ({chunk.status}) before this was answered"
        chunk.cost_usd = None if unpriced or lost else cost
        self._spent_usd += chunk.cost_usd or 0.0
        if lost:
            where = ", ".join(file for file in (chunk.output_file_id, chunk.error_file_id) if file is not None)
            chunk.note = f"of the batch {chunk.batch_id} {lost} line(s) could not be understood" + (
                f"; the provider keeps them in {where}" if where else ""
            )
            self._collector.notes.append(chunk.note)
            self._collector.progress.cost_usd = None  # what cannot be understood may have cost something all the same
        return not lost

    async def _refuse(self, chunk: Chunk) -> None:
        """A batch failed before anything was asked: nothing was paid."""
        code, _, said = (chunk.note or "").partition(": ")
        self._in_flight.pop(chunk.batch_id or "", None)
        if _QUEUE_FULL.search(chunk.note or ""):
            await self._wait_for_room(chunk, said)
            return
        self._refused = chunk.note or "no reason given"
        for key in self._folder.keys(chunk) or ():
            if key in self._requests:
                failed = self._requests[key].failed = ("provider", f"the batch was refused: {self._refused}", 1)
                chunk.failed[key] = failed
        self._requests.fatal = self._requests.fatal or self._provider.fatal(None, code, said, "/batches")
        chunk.taken, chunk.cost_usd = True, 0.0
        self._save("refusal noted")
        self._folder.remove(chunk)
        await self._forget_file(chunk)

    async def _drop(self, chunk: Chunk, status: str) -> None:
        """Give a chunk up that asks for nothing any more; its requests may go into another."""
        for key in self._folder.keys(chunk) or ():
            if key in self._requests and self._requests[key].tries:  # an earlier process may have written it
                self._requests[key].tries -= 1
        chunk.taken, chunk.status, chunk.cost_usd = True, status, 0.0
        self._save("dropped")
        self._folder.remove(chunk)
        await self._forget_file(chunk)

    async def _forget_file(self, chunk: Chunk) -> None:
        if chunk.file_id is not None:
            await self._provider.delete(chunk.file_id)
            chunk.file_id = None

    # What is left.

    def _name_missing(self, fatal: ProviderError | None) -> None:
        """Enter all that is still wanted as missing, each with its reason."""
        for key in [key for key, request in self._requests.items() if request.elsewhere is not None]:
            self._requests.is_here(key)  # its answer may be here by now
        waiting: dict[str, tuple[str, bool]] = {}
        for chunk in self._state.open:
            said = (
                f"it is in the batch {chunk.batch_id or 'to come'}; `relabel batch resume {self._state.run_id}` goes on"
            )
            waiting |= dict.fromkeys(self._folder.keys(chunk) or (), (said, chunk.batch_id is not None))
        for key, request in self._requests.items():
            kind: FailureKind = "provider"
            attempts = request.tries
            if request.failed is not None:
                kind, said, attempts = request.failed
            elif key in waiting:
                said, sent = waiting[key]
                # It counts once it is sent, and an earlier process may have sent it.
                attempts = max(1, attempts) if sent else max(0, attempts - 1)
            elif request.unanswered:
                said = request.unanswered
            elif request.elsewhere is not None:
                (run,) = request.elsewhere
                said = "another run is asking this; start the same run again" if run is None else in_a_batch(run)
                if run is not None:
                    self._collector.held[run] += sum(len(wanted.tasks) for wanted in request.wanted)
            elif fatal is not None:
                said = str(fatal)
            elif self._no_money and not self.interrupted:
                kind, said = "budget", self._no_money
            else:
                said, attempts = "the run was stopped before this was asked", 0  # written, perhaps, and not sent
            bare = Request(self._job.endpoint.host, {}, 0, self._job.endpoint.api, key)
            for wanted in request.wanted:
                self._collector.fail(WorkItem(wanted.tasks, wanted.setting, wanted.sample, bare), kind, said, attempts)

    def _save(self, step: str) -> None:
        self._folder.save(self._state)
        self._options.step(step)

    async def _take_turn(self, turn: int) -> None:
        """Let the display and Ctrl-C have their turn: long stretches of work never wait."""
        if turn % _TURN == 0:
            await asyncio.sleep(0)
            if self._stop.asked.is_set():
                raise _StoppedError

    async def _pause(self, seconds: float) -> None:
        nap = asyncio.ensure_future(self._options.sleep(seconds))
        asked = asyncio.create_task(self._stop.asked.wait())
        try:
            await asyncio.wait({nap, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (nap, asked):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        if self._stop.asked.is_set():
            raise _StoppedError


def _lines(files: list[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    yield line
