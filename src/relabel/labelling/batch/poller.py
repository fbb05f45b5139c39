"""Submits the chunks of a batch job, polls their batches, and collects the results."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relabel.errors import ProviderError
from relabel.labelling.batch.provider import (
    FINAL,
    BatchProvider,
    FileNotReadyError,
    GoneError,
    RemoteBatch,
    Result,
    UnavailableError,
)
from relabel.labelling.batch.state import BatchFolder, BatchOptions, BatchState, Chunk
from relabel.labelling.collector import LabelCollector
from relabel.labelling.engine import answer_to
from relabel.labelling.job import Stop
from relabel.labelling.provider_errors import RefusedError, read_error
from relabel.labelling.request import WorkItem
from relabel.labelling.session import RunSession
from relabel.labelling.wire import PATHS, NotAReplyError
from relabel.labels import Answer, FailureKind, InvalidAnswerError
from relabel.redaction import clean

LONGEST_POLL_S = 60.0
# Maximum number of consecutive failed polls: a temporary loss of the network must not end the job.
MAX_FAILED_POLLS = 30
# Number of polls after the end of a batch until its files must be complete.
FILE_POLLS = 10
# Number of polls after which a batch or file that is not found counts as gone; before, it may be too new to be visible.
NOT_FOUND_POLLS = 4
# Number of attempts to create a batch: over about a day while other jobs fill the queue, and an hour while its file is processed.
CREATE_TRIES, READY_TRIES = 300, 14
# Maximum number of polls between two of these attempts.
_LONGEST_WAIT = 5
_QUEUE_FULL = re.compile(r"token_limit_exceeded|enqueued", re.IGNORECASE)
# Words with which a provider refuses an input file because of its size.
_TOO_LARGE = re.compile(
    r"HTTP 413|too (large|big|many (lines|tasks))|too_many_tasks|file size|size limit|maximum (allowed )?(file )?size",
    re.IGNORECASE,
)
_QUEUE_LIMIT = re.compile(r"limit:\s*([\d,]+)", re.IGNORECASE)
_BYTES_A_TOKEN = 4
# Maximum age in seconds of batches to search for if the state is lost; the provider keeps results no longer.
REMEMBERED_S = 30 * 86400.0
# Number of requests or lines to process before yielding to the event loop, for the display and Ctrl-C.
TURN = 64
# Error codes of requests that were never processed.
_NOT_PROCESSED = {"batch_expired", "batch_cancelled"}


@dataclass
class OpenRequest:
    """A request without an answer.

    Attributes:
        wanted: The work items that wait for its answer.
        tries: Number of chunks that contained it.
        failed: Why it will have no answer: kind of failure, message and number of requests sent.
        unanswered: Why it was not answered; it may be sent again.
        elsewhere: The batch run that has it in flight, or "" for another process; None if only this run may send it.
    """

    wanted: list[WorkItem] = field(default_factory=list[WorkItem])
    tries: int = 0
    failed: tuple[FailureKind, str, int] | None = None
    unanswered: str = ""
    elsewhere: str | None = None


class OpenRequests(dict[str, OpenRequest]):
    """All requests of a job that have no answer yet, by key.

    Args:
        collector: Collects the labels.
        provider: Interprets errors in the results.

    Attributes:
        fatal: An error of the provider that holds for all requests.
        split: Shared requests whose tasks are now asked alone, by key: why they had no answer, as in `OpenRequest.failed`.
    """

    def __init__(self, collector: LabelCollector, provider: BatchProvider) -> None:
        super().__init__()
        self.fatal: ProviderError | None = None
        self.split: dict[str, tuple[FailureKind, str, int]] = {}
        self._job, self._store = collector.job, collector.store
        self._collector, self._provider = collector, provider

    def add(self, planned: WorkItem) -> None:
        """Take the labels of a work item from the store, and add requests for missing ones."""
        for item in self._collector.wanted(planned):
            bare = WorkItem(item.tasks, item.setting, item.sample)
            self.setdefault(item.request.key, OpenRequest()).wanted.append(bare)

    def planned(self, key: str) -> WorkItem:
        """The work item of a request, as planned."""
        return self._job.planner.planned(self[key].wanted[0])

    def take_from_store(self, key: str) -> bool:
        """Take an answer that another run may have stored in the meantime; returns whether there was one."""
        remaining = self._collector.take(self.planned(key))
        if remaining is not None:
            self._close(key, remaining)
        return remaining is not None

    def _close(self, key: str, remaining: list[WorkItem]) -> None:
        """Remove an answered request; its other work items get the stored answer, and work items to send separately are added."""
        for other in self.pop(key).wanted[1:]:
            self.add(self._job.planner.planned(other))
        for single in remaining:
            self.add(single)

    def fail(self, key: str, kind: FailureKind, message: str, tries: int = 0) -> None:
        """Record that a request will have no answer; `tries` is the number of requests sent, if an earlier process sent them."""
        if key not in self:
            return
        failed = kind, message, tries or max(1, self[key].tries)
        if singles := self._collector.split(self.planned(key), kind):
            self.split[key] = failed
            self._close(key, singles)
        else:
            self[key].failed = failed

    def enter(self, chunk: Chunk, result: Result, number: int) -> tuple[bool, float | None]:
        """Enter one result of a chunk. Entering the same result again changes nothing.

        Args:
            chunk: The chunk.
            result: The result.
            number: Number of its line, from 1.

        Returns:
            Whether everything that was paid for is in the store; and the cost of the answer in USD, None if unknown.
        """
        key = result.key
        if result.error is not None:
            self._enter_error(key, result.error)
            return True, None if result.error.used else 0.0
        try:
            answer = self._answer(chunk, result, number)
        except NotAReplyError as error:
            text = clean(str(result.body))[:200]
            self.fail(key, error.kind, f"the batch's reply is not a completion: {text!r}")
            return False, None
        if key in self:
            self._buy(key, answer)
            return True, answer.cost_usd
        return self._store.get(key) is not None, answer.cost_usd

    def _answer(self, chunk: Chunk, result: Result, number: int) -> Answer:
        # As the time, use the end of the batch plus a microsecond per line: reading a line again then gives the same answer, and
        # several answers to one request have different times.
        assert chunk.ended_at is not None
        ended = datetime.fromisoformat(chunk.ended_at)
        seconds = (ended - datetime.fromisoformat(chunk.submitted_at)).total_seconds() if chunk.submitted_at else 0.0
        return answer_to(
            result.key,
            self._job.endpoint.api,
            result.body,
            self._job.price,
            attempts=max(1, self[result.key].tries if result.key in self else 0),
            latency_s=round(max(0.0, seconds), 1),
            received_at=ended + timedelta(microseconds=number),
        )

    def _buy(self, key: str, answer: Answer) -> None:
        try:
            self._close(key, self._collector.buy(self.planned(key), answer))
        except InvalidAnswerError as error:
            if not self.take_from_store(key):  # another run may have bought one in the meantime
                self.fail(key, error.kind, error.reason)

    def _enter_error(self, key: str, error: RefusedError) -> None:
        message = error.with_status
        if error.used:  # it may have been charged
            self._collector.progress.cost_usd = None
        if error.code not in _NOT_PROCESSED and error.meaning not in {"passing", "wait", "quota"}:
            self.fail(key, error.kind, message)
        elif key in self:
            self[key].unanswered = message
        # Transient errors concern this line only, and a new batch comes later than any wait that they ask for.
        if error.meaning not in {"passing", "wait"}:
            self.fatal = self.fatal or self._provider.fatal(error, PATHS[self._job.endpoint.api])


class BatchPoller:
    """Submits chunks to the provider, polls their batches, and stores their answers.

    Attributes:
        lost: Whether the state was lost: the provider has batches of this run, although the state is new.
        refused: Why a batch was refused; empty if none was.
        spent_usd: Known cost of the run in USD, over all its starts.
    """

    def __init__(
        self,
        session: RunSession,
        folder: BatchFolder,
        state: BatchState,
        provider: BatchProvider,
        options: BatchOptions,
        stop: Stop,
    ) -> None:
        self.lost, self.refused, self.spent_usd = False, "", session.spent_before
        self._requests = OpenRequests(session.collector, provider)
        self._job, self._folder, self._state = session.collector.job, folder, state
        self._collector, self._leases, self._journal = session.collector, session.leases, session.journal
        self._provider, self._options, self._stop = provider, options, stop
        self._in_flight = session.collector.progress.in_flight
        self._failed_polls = 0
        self._file_polls: Counter[int] = Counter()
        self._not_found: Counter[int] = Counter()
        # For chunks whose batches have ended with unusable results: why. They are not sent again, which would have to be paid again.
        self._unusable: dict[int, str] = {}
        # For chunks that the provider could not take yet: number of attempts, and of polls to wait before the next; infinite if
        # another of our batches must end first.
        self._attempts: Counter[int] = Counter()
        self._waits: defaultdict[int, float] = defaultdict(float)

    async def settle(self) -> None:
        """Send every open chunk, wait for its batch and collect the results."""
        wait_s = self._options.poll_s
        while True:
            for chunk in self._state.open:
                if self._requests.fatal is None and chunk.batch_id is None:
                    await self._send(chunk)
            in_flight = self._state.at_provider
            for chunk in in_flight:
                await self._poll(chunk)
            if not self._state.open or (self._requests.fatal is not None and not self._state.at_provider):
                return
            if all(chunk.number in self._unusable for chunk in self._state.open):
                first = self._state.open[0]
                self._collector.progress.cost_usd = None
                raise ProviderError(
                    f"the batch {first.batch_id} has ended ({first.status}) and {self._unusable[first.number]}; nothing is asked "
                    f"again: `relabel batch resume {self._state.run_id}` looks for its answers once more, `relabel batch cancel "
                    f"{self._state.run_id}` gives them up"
                )
            await self.pause(wait_s)
            wait_s = min(wait_s * 1.5, max(self._options.poll_s, LONGEST_POLL_S))
            if any(chunk.taken for chunk in in_flight):
                wait_s = self._options.poll_s
                self._waits.clear()

    async def _send(self, chunk: Chunk) -> None:
        """Submit a chunk, unless it has to wait."""
        if self._options.submit and self._waits[chunk.number] > 0:
            self._waits[chunk.number] -= 1
            return
        if self._stop.asked.is_set():
            raise asyncio.CancelledError
        mark = {
            "relabel_run": self._state.run_id,
            "relabel_chunk": f"{chunk.number}.{chunk.tries + 1}",
            "relabel_sha256": chunk.sha256,
        }
        if not self._options.submit or not self._is_ours(chunk):
            # The chunk must not be sent, or not again: only search for a batch that may have been created from it.
            batch = None
            if chunk.creating_since is not None:
                try:
                    batch = await self._provider.find(mark, chunk.file_id, chunk.creating_since)
                except ProviderError as error:  # a provider without a Batch API has no batch of ours
                    if self._options.submit or isinstance(error, UnavailableError):
                        raise
            if batch is None:
                await self._drop(chunk, "not sent")
                return
        else:
            batch = await self._create(chunk, mark)
            if batch is None:
                return
        chunk.batch_id, chunk.tries, chunk.note = batch.id, chunk.tries + 1, None
        chunk.submitted_at = datetime.fromtimestamp(batch.created_at, UTC).isoformat(timespec="seconds")
        self._update(chunk, batch)
        self._journal.note("=", batch.id)
        self.save("batch noted")

    async def _create(self, chunk: Chunk, mark: dict[str, str]) -> RemoteBatch | None:
        """Upload a chunk and create a batch from it; None if the provider cannot take it yet, or not at this size."""
        uploaded = chunk.file_id is None
        if chunk.file_id is None:
            try:
                chunk.file_id = await self._provider.upload(self._folder.path_of(chunk))
            except ProviderError as error:
                if chunk.requests == 1 or not _TOO_LARGE.search(str(error)):
                    raise
                await self._halve(chunk, "too large for an upload")
                return None
            self._options.step("uploaded")
            self.save("file noted")
        attempted, since = chunk.creating_since is not None, chunk.creating_since or self._options.now().timestamp()
        if not attempted:
            chunk.creating_since = since
            self.save("intent noted")
        if self.lost:
            chunk.adopted = attempted = True
            since -= REMEMBERED_S
        try:
            batch = await self._provider.create(chunk.file_id, self._job.endpoint.api, mark, since, find=attempted)
        except UnavailableError:
            raise
        except ProviderError as error:
            chunk.creating_since = None
            full, not_ready = _QUEUE_FULL.search(str(error)), isinstance(error, FileNotReadyError)
            missing = not_ready and "pending" not in str(error).lower() and not self._attempts[chunk.number]
            # Upload the file again if an earlier process uploaded it and it is gone, or if it may be what is refused.
            if (missing and not uploaded) or not (full or not_ready):
                await self._forget_file(chunk)
            self.save("refusal noted")
            if not (full or not_ready):
                raise
            await self._wait(chunk, str(error))
            return None
        self._options.step("created")
        return batch

    def _is_ours(self, chunk: Chunk) -> bool:
        """Whether every request of a chunk is still needed, and no other run may have sent one since the chunk was written."""
        keys = self._folder.keys(chunk)
        return not self._leases.transfer(self._state.run_id, keys) and keys <= self._requests.keys()

    async def _wait(self, chunk: Chunk, message: str) -> None:
        """Handle a chunk that the provider cannot take yet: halve it if it is too large for the queue, otherwise wait."""
        limit = _QUEUE_LIMIT.search(message)
        tokens = int(limit[1].replace(",", "")) if limit else math.inf
        others = any(other is not chunk for other in self._state.at_provider)
        if not others and chunk.requests > 1 and chunk.bytes / _BYTES_A_TOKEN > tokens / 4:
            await self._halve(chunk, "too large for the queue")
            return
        chunk.batch_id = chunk.ended_at = chunk.creating_since = None
        attempts, full = self._attempts[chunk.number], _QUEUE_FULL.search(message)
        if attempts >= (CREATE_TRIES if full else READY_TRIES):
            raise ProviderError(
                f"the provider still does not take batch {chunk.number} ({message}); run `relabel batch resume "
                f"{self._state.run_id}` later"
            )
        self._attempts[chunk.number] = attempts + 1
        self._waits[chunk.number] = math.inf if others and full else min(_LONGEST_WAIT, attempts)
        chunk.status, chunk.note = "waits for the provider", message
        self._show(chunk, chunk.status)
        self.save("wait noted")

    async def _poll(self, chunk: Chunk) -> None:
        """Query a batch and, if it has ended, collect its results."""
        assert chunk.batch_id is not None
        try:
            if chunk.ended_at is None or self._file_polls[chunk.number]:
                if not self._options.submit and chunk.status not in FINAL | {"cancelling", "finalizing"}:
                    await self._provider.cancel(chunk.batch_id)
                    self._options.step("cancelled")
                batch = await self._provider.retrieve(chunk.batch_id)
                before = chunk.status
                self._update(chunk, batch)
                if chunk.status in FINAL and chunk.ended_at is None:
                    chunk.ended_at = self._options.now().isoformat(timespec="microseconds")
                if chunk.status != before or chunk.ended_at is not None:
                    self.save("status noted")
            self._failed_polls = 0
            if chunk.ended_at is not None:
                await self._collect(chunk)
            del self._not_found[chunk.number]
        except GoneError as error:
            self._not_found[chunk.number] += 1
            if self._not_found[chunk.number] < NOT_FOUND_POLLS:
                return
            if not chunk.adopted:
                self._collector.progress.cost_usd = None  # its answers may have been made, and charged
            if self._options.submit and not chunk.adopted:
                raise ProviderError(
                    f"the provider has no batch {chunk.batch_id} or no results of it ({error}); check that the key is that of the project "
                    f"that made it, or give it up with `relabel batch cancel {self._state.run_id}`"
                ) from error
            await self._drop(chunk, "gone", 0.0 if chunk.adopted else None)
        except UnavailableError:
            self._failed_polls += 1
            if self._failed_polls >= MAX_FAILED_POLLS:
                raise

    def _update(self, chunk: Chunk, batch: RemoteBatch) -> None:
        chunk.status, chunk.answered = batch.status, batch.answered
        chunk.checked_at = self._options.now().isoformat(timespec="seconds")
        chunk.output_file_id, chunk.error_file_id = batch.output_file_id, batch.error_file_id
        if batch.error is not None:
            chunk.note = clean(": ".join(batch.error))
        self._show(chunk, f"{chunk.status} {chunk.answered}/{chunk.requests}")

    def _show(self, chunk: Chunk, doing: str) -> None:
        key = f"chunk {chunk.number}"
        _, since = self._in_flight.get(key, ("", time.monotonic()))
        self._in_flight[key] = (f"batch {chunk.number} {doing}", since)

    # Results.

    async def _collect(self, chunk: Chunk) -> None:
        """Collect the results of a batch that has ended, unless its files are incomplete or unusable."""
        remote = {"output": chunk.output_file_id, "errors": chunk.error_file_id}
        if chunk.status == "failed" and not any(remote.values()):
            await self._refuse(chunk)
            return
        files: list[Path] = []
        for kind, file_id in remote.items():
            if file_id is not None:
                files.append(self._folder.path / f"{self._folder.path_of(chunk).stem}.{kind}.jsonl")
                await self._provider.download(file_id, files[-1])
        # Invalid lines count as complete: only a truncated file is waited for.
        complete = sum(line.endswith((b"\n", b"}")) for line in _lines(files))
        if complete < min(chunk.answered, chunk.requests) or (not files and chunk.status == "completed"):
            self._file_polls[chunk.number] += 1
            if not files and self._options.submit and self._file_polls[chunk.number] >= FILE_POLLS:
                self._unusable[chunk.number] = "its results are not available yet"
            if self._file_polls[chunk.number] < FILE_POLLS or chunk.number in self._unusable:
                return  # by the provider's count, there are more results
        if files and self._options.submit and not self._has_our_results(chunk, files):
            names = " and ".join(file_id for file_id in remote.values() if file_id is not None)
            self._unusable[chunk.number] = f"none of the {complete:,} line(s) in {names} answers a request of this run"
            return
        self._options.step("downloaded")
        all_stored = await self._enter(chunk, files)
        chunk.taken = True
        self.save("taken")
        self._in_flight.pop(f"chunk {chunk.number}", None)
        self._folder.tidy(self._state)
        for file_id in (chunk.file_id, *remote.values()):
            if all_stored and file_id is not None:
                await self._provider.delete(file_id)
        self._options.step("forgotten")

    def _has_our_results(self, chunk: Chunk, files: list[Path]) -> bool:
        """Whether any line is a result of a request of the chunk."""
        keys = self._folder.keys(chunk)
        results = map(self._provider.result, _lines(files))
        return any(result is not None and result.key in keys for result in results)

    async def _enter(self, chunk: Chunk, files: list[Path]) -> bool:
        """Enter all lines of a batch's results; returns whether everything that was paid for is in the store."""
        keys = self._folder.keys(chunk)
        number, lost, costs, answered = 0, 0, list[float | None](), set[str]()
        for number, line in enumerate(_lines(files), 1):
            result = self._provider.result(line)
            if result is None or result.key not in keys:
                lost += 1
            elif result.key not in answered:  # a request that is answered twice is paid for once
                if result.key in self._requests:  # lets the next start count the answer if this process is killed
                    self._journal.note("<", result.key)
                stored, cost_usd = self._requests.enter(chunk, result, number)
                lost += not stored
                costs.append(cost_usd)
                answered |= {result.key} if stored and result.error is None else set()
            self._options.step("entered")
            if number % TURN == 0:
                await asyncio.sleep(0)
        lost += max(0, min(chunk.answered, chunk.requests) - number)
        chunk.failed = {}
        for key in keys:
            request = self._requests.get(key)
            if (failed := self._requests.split.get(key) if request is None else request.failed) is not None:
                chunk.failed[key] = failed
            elif request is not None and not request.unanswered:
                request.unanswered = f"the batch {chunk.batch_id} ended ({chunk.status}) before this was answered"
        chunk.cost_usd = None if None in costs or lost else sum(cost or 0.0 for cost in costs)
        self.spent_usd += chunk.cost_usd or 0.0
        if lost:
            file_ids = ", ".join(x for x in (chunk.output_file_id, chunk.error_file_id) if x is not None)
            chunk.note = f"of the batch {chunk.batch_id} {lost} line(s) are missing or could not be parsed" + (
                f"; the provider keeps them in {file_ids}" if file_ids else ""
            )
            self._collector.notes.append(chunk.note)
            self._collector.progress.cost_usd = None  # these lines may have cost something
        return not lost

    async def _refuse(self, chunk: Chunk) -> None:
        """Handle a batch that failed before any request was processed, and therefore cost nothing."""
        if _QUEUE_FULL.search(chunk.note or ""):
            await self._wait(chunk, chunk.note or "")
            return
        if chunk.requests > 1 and _TOO_LARGE.search(chunk.note or ""):
            await self._halve(chunk, "too large for a batch")
            return
        code, _, message = (chunk.note or "").partition(": ")
        error = read_error(400, {}, json.dumps({"error": {"code": code, "message": message}}))
        self.refused = chunk.note or "no reason given"
        for key in self._folder.keys(chunk):
            if key in self._requests:
                failed = self._requests[key].failed = ("provider", f"the batch was refused: {self.refused}", 1)
                chunk.failed[key] = failed
        self._requests.fatal = self._requests.fatal or (self._provider.fatal(error, "/batches") if error else None)
        await self._close(chunk, "refusal noted")

    async def _halve(self, chunk: Chunk, status: str) -> None:
        """Drop a chunk that the provider cannot take; from now on, chunks are half as large."""
        self._state.max_requests = max(1, chunk.requests // 2)
        await self._drop(chunk, status)

    async def _drop(self, chunk: Chunk, status: str, cost_usd: float | None = 0.0) -> None:
        """Drop a chunk that has no batch, or whose batch is gone; its requests may be sent in another chunk."""
        for key in self._folder.keys(chunk):
            if key in self._requests and self._requests[key].tries:  # 0 if an earlier process wrote the chunk
                self._requests[key].tries -= 1
        chunk.status = status
        await self._close(chunk, "dropped", cost_usd)

    async def _close(self, chunk: Chunk, step: str, cost_usd: float | None = 0.0) -> None:
        """Close a chunk without answers; its cost is None if it is unknown."""
        chunk.taken, chunk.cost_usd = True, cost_usd
        self._in_flight.pop(f"chunk {chunk.number}", None)
        self.save(step)
        self._folder.tidy(self._state)
        await self._forget_file(chunk)

    async def _forget_file(self, chunk: Chunk) -> None:
        if chunk.file_id is not None:
            await self._provider.delete(chunk.file_id)
            chunk.file_id = None

    def save(self, step: str) -> None:
        """Save the state after a step."""
        self._folder.save(self._state)
        self._options.step(step)

    async def pause(self, seconds: float) -> None:
        """Wait for some seconds, or until the job is stopped, which raises `CancelledError`."""
        await self._stop.supervise([asyncio.ensure_future(self._options.sleep(seconds))], drain=False)
        if self._stop.asked.is_set():
            raise asyncio.CancelledError


def _lines(files: list[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    yield line
