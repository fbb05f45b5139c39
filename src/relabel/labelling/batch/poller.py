"""The requests of a batch job that have no answer yet: sending them in chunks, polling their batches, taking the results."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
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
# Number of polls of an ended batch after which its files must be complete.
FILE_LOOKS = 10
# Number of consecutive polls after which a batch or file that is not found is gone; it may have been created just now.
FOUND_LOOKS = 4
# Polls, half an hour of them, until an uploaded file must be processed.
READY_LOOKS = 40
# Batches tried, one every few minutes and so for about a day, while other jobs fill the provider's queue.
QUEUE_TRIES = 300
_QUEUE_FULL = re.compile(r"token_limit_exceeded|enqueued", re.IGNORECASE)
_QUEUE_LIMIT = re.compile(r"limit:\s*([\d,]+)", re.IGNORECASE)
_BYTES_A_TOKEN = 4
# How far back a batch is looked for when the state is lost: the provider keeps results no longer.
REMEMBERED_S = 30 * 86400.0
# Number of requests or lines to process before yielding to the event loop, for the display and Ctrl-C.
TURN = 64


# Error codes of requests that were never processed.
_NOT_ASKED = {"batch_expired", "batch_cancelled"}


@dataclass
class OpenRequest:
    """A request without an answer.

    Attributes:
        wanted: The labels that wait for it.
        tries: Batches that it went into.
        failed: Why it will have no answer: kind, message and number of requests sent.
        unanswered: Why it was not answered, where it may be asked again.
        elsewhere: The batch run that has it in flight, or "" for another process; None where no other has.
    """

    wanted: list[WorkItem] = field(default_factory=list[WorkItem])
    tries: int = 0
    failed: tuple[FailureKind, str, int] | None = None
    unanswered: str = ""
    elsewhere: str | None = None


class OpenRequests(dict[str, OpenRequest]):
    """All requests of a job that have no answer yet, by key.

    Args:
        collector: Gets labels.
        folder: Knows what was sent.
        provider: Sends the results.

    Attributes:
        fatal: What the provider said that holds for all requests.
        split: Why shared requests had no answer whose tasks are asked alone since, as in `OpenRequest.failed`.
    """

    def __init__(self, collector: LabelCollector, folder: BatchFolder, provider: BatchProvider) -> None:
        super().__init__()
        self.fatal: ProviderError | None = None
        self.split: dict[str, tuple[FailureKind, str, int]] = {}
        self._job, self._store = collector.job, collector.store
        self._collector, self._folder, self._provider = collector, folder, provider

    def add(self, planned: WorkItem) -> None:
        """Take an answer from the store, or note that it is wanted."""
        for item in self._collector.wanted(planned):
            bare = WorkItem(item.tasks, item.setting, item.sample)
            self.setdefault(item.request.key, OpenRequest()).wanted.append(bare)

    def planned(self, key: str) -> WorkItem:
        """The plan entry of a request."""
        return self._job.planner.planned(self[key].wanted[0])

    def take_from_store(self, key: str) -> bool:
        """Look again for an answer in the store, where another run may have put one; if so, it is taken."""
        rest = self._collector.take(self.planned(key))
        if rest is not None:
            self._close(key, rest)
        return rest is not None

    def _close(self, key: str, rest: list[WorkItem]) -> None:
        """Close an answered request: other labels that share it get the stored answer, and tasks that it left out are added."""
        for other in self.pop(key).wanted[1:]:
            self.add(self._job.planner.planned(other))
        for single in rest:
            self.add(single)

    def fail(self, key: str, kind: FailureKind, message: str, tries: int = 0) -> None:
        """Record that a request will have no answer; `tries` is the number of requests sent, where an earlier process sent them."""
        if key not in self:
            return
        failed = kind, message, tries or max(1, self[key].tries)
        if rest := self._collector.split(self.planned(key), kind):
            self.split[key] = failed
            self._close(key, rest)
        else:
            self[key].failed = failed

    def enter(self, chunk: Chunk, result: Result, number: int) -> tuple[bool, float | None]:
        """Enter one result of a chunk; the second time, that changes nothing.

        Args:
            chunk: The chunk.
            result: The result.
            number: Of its line, from 1.

        Returns:
            Whether what was paid for is in the store; and the cost of the answer in USD, None where it is unknown.
        """
        key = result.key
        if result.error is not None:
            self._no_answer(key, result.error)
            return True, 0.0
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
        # Use the time at which the batch was seen to have ended, plus a microsecond per line: reading a line again gives the same
        # answer, and all answers to a question have different times.
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

    def _no_answer(self, key: str, error: RefusedError) -> None:
        message = f"HTTP {error.status}: {error.message}" if error.status else error.message
        if error.code not in _NOT_ASKED and error.meaning not in {"passing", "wait", "quota"}:
            self.fail(key, error.kind, message)
        elif key in self:
            self[key].unanswered = message
        # A wait is said of this line alone, and a new batch takes longer.
        if error.meaning not in {"passing", "wait"}:
            self.fatal = self.fatal or self._provider.fatal(error, PATHS[self._job.endpoint.api])


class BatchPoller:
    """Submits chunks to the provider, polls their batches, and stores their answers.

    Attributes:
        lost: Whether the provider has batches of this run although the state is new: somebody has removed the state.
        refused: Why a batch was refused.
        spent_usd: What the run has cost, over all its starts, as far as it is known.
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
        self._requests = OpenRequests(session.collector, folder, provider)
        self._job, self._folder, self._state = session.collector.job, folder, state
        self._collector, self._leases, self._journal = session.collector, session.leases, session.journal
        self._provider, self._options, self._stop = provider, options, stop
        self._in_flight = session.collector.progress.in_flight
        self._failed_polls = 0
        self._file_looks: Counter[int] = Counter()
        self._not_found: Counter[int] = Counter()
        # Chunks whose batches have ended, but whose results have no answer to take, and why. Asking again would be paid again.
        self._useless: dict[int, str] = {}
        # Of chunks that found the queue full: our other batches then, refusals, and polls to wait.
        self._room: dict[int, tuple[int, int, int]] = {}

    async def settle(self) -> None:
        """Send every open chunk, wait for its batch and take the results."""
        wait_s = self._options.poll_s
        while True:
            for chunk in self._state.open:
                if self._requests.fatal is None and chunk.batch_id is None:
                    await self._send(chunk)
            in_flight = self._state.at_provider
            taken = sum([await self._poll(chunk) for chunk in in_flight])
            if not self._state.open or (self._requests.fatal is not None and taken == len(in_flight)):
                return
            if all(chunk.number in self._useless for chunk in self._state.open):
                first = self._state.open[0]
                self._collector.progress.cost_usd = None
                raise ProviderError(
                    f"the batch {first.batch_id} has ended ({first.status}) and {self._useless[first.number]}; nothing is asked "
                    f"again: `relabel batch resume {self._state.run_id}` looks for its answers once more, `relabel batch cancel "
                    f"{self._state.run_id}` gives them up"
                )
            await self.pause(wait_s)
            wait_s = self._options.poll_s if taken else min(wait_s * 1.5, max(self._options.poll_s, LONGEST_POLL_S))

    async def _send(self, chunk: Chunk) -> None:
        """Submit a chunk, unless it is submitted already or the queue is full."""
        if self._options.submit and self._must_wait_for_room(chunk):
            return
        if self._stop.asked.is_set():
            raise asyncio.CancelledError
        mark = {
            "relabel_run": self._state.run_id,
            "relabel_chunk": f"{chunk.number}.{chunk.tries + 1}",
            "relabel_sha256": chunk.sha256,
        }
        if not self._options.submit or not self._folder.path_of(chunk).exists() or not self._is_ours(chunk):
            # The chunk will not be sent (any more): only search for a batch that may have been created from it.
            batch = None
            if chunk.creating_since is not None:
                try:
                    batch = await self._provider.find(mark, chunk.file_id, chunk.creating_since)
                except ProviderError as error:  # where there are no batches, there is none of ours
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
        """Upload a chunk and make a batch of it; None when the queue has no room."""
        for look in range(READY_LOOKS):
            fresh = chunk.file_id is None
            if chunk.file_id is None:
                try:
                    chunk.file_id = await self._provider.upload(self._folder.path_of(chunk))
                except ProviderError as error:
                    if getattr(error.__cause__, "status", 0) != 413 or chunk.requests == 1:
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
                batch = await self._provider.create(chunk.file_id, self._job.endpoint.api, mark, since, look=attempted)
                self._options.step("created")
                return batch
            except UnavailableError as error:
                if not error.sent:
                    chunk.creating_since = None
                    self.save("refusal noted")
                raise
            except ProviderError as error:
                chunk.creating_since = None
                full = _QUEUE_FULL.search(str(error)) is not None
                not_ready = isinstance(error, FileNotReadyError) and look + 1 < READY_LOOKS
                missing = not_ready and not fresh and look == 0 and "pending" not in str(error).lower()
                # An earlier process uploaded it; or it may be what is refused.
                if missing or not (full or not_ready):
                    await self._forget_file(chunk)
                self.save("refusal noted")
                if full:
                    await self._wait_for_room(chunk, str(error))
                    return None
                if not not_ready:
                    raise
            await self.pause(min(LONGEST_POLL_S, self._options.poll_s * 1.5**look))
        return None

    def _is_ours(self, chunk: Chunk) -> bool:
        """Whether every request of a chunk is still needed, and none may have been sent by another run since it was written."""
        keys = self._folder.keys(chunk) or set()
        return not self._leases.transfer(self._state.run_id, keys) and keys <= self._requests.keys()

    def _must_wait_for_room(self, chunk: Chunk) -> bool:
        ours, refusals, polls = self._room.get(chunk.number, (0, 0, 0))
        if not refusals:
            return False
        if ours and len(self._state.at_provider) >= ours:
            return True
        self._room[chunk.number] = ours, refusals, polls - 1
        return not ours and polls > 0

    async def _wait_for_room(self, chunk: Chunk, message: str) -> None:
        """Handle a full queue: full of our own batches, because of a chunk that is too large, or of others, which are waited for."""
        ours = len([c for c in self._state.at_provider if c is not chunk])
        limit = _QUEUE_LIMIT.search(message)
        tokens = int(limit[1].replace(",", "")) if limit else None
        if not ours and tokens is not None and chunk.requests > 1 and chunk.bytes / _BYTES_A_TOKEN > tokens / 4:
            await self._halve(chunk, "too large for the queue")
            return
        refusals = self._room.get(chunk.number, (0, 0, 0))[1] + 1
        chunk.batch_id = chunk.ended_at = chunk.creating_since = None
        if refusals > QUEUE_TRIES:
            raise ProviderError(
                f"the provider's batch queue has been full for a day ({message}); run `relabel batch resume {self._state.run_id}` "
                "once other batches have ended"
            )
        self._room[chunk.number] = ours, refusals, min(5, refusals - 1)
        chunk.status = "waits for room"
        self._show(chunk, "waits: the queue is full")
        self.save("no room noted")

    async def _poll(self, chunk: Chunk) -> bool:
        """Query a batch and, if it has ended, collect its results; returns whether it has ended."""
        assert chunk.batch_id is not None
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
                    self.save("status noted")
            self._failed_polls = 0
            taken = chunk.ended_at is not None and await self._take(chunk)
            del self._not_found[chunk.number]
            return taken
        except GoneError as error:
            self._not_found[chunk.number] += 1
            if self._not_found[chunk.number] < FOUND_LOOKS:
                return False
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
            chunk.note = clean(": ".join(batch.error))
        self._show(chunk, f"{chunk.status} {chunk.answered}/{chunk.requests}")

    def _show(self, chunk: Chunk, doing: str) -> None:
        key = f"chunk {chunk.number}"
        _, since = self._in_flight.get(key, ("", time.monotonic()))
        self._in_flight[key] = (f"batch {chunk.number} {doing}", since)

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
        # Invalid lines count as complete: wait only for a truncated file.
        whole = sum(line.endswith((b"\n", b"}")) for line in _lines(files))
        if whole < min(chunk.answered, chunk.requests) or (not files and chunk.status == "completed"):
            self._file_looks[chunk.number] += 1
            if not files and self._options.submit and self._file_looks[chunk.number] >= FILE_LOOKS:
                self._useless[chunk.number] = "its results are not available yet"
            if self._file_looks[chunk.number] < FILE_LOOKS or chunk.number in self._useless:
                return False  # the provider says that there is more
        if files and self._options.submit and not self._holds_ours(chunk, files):
            where = " and ".join(file for file in remote.values() if file is not None)
            self._useless[chunk.number] = f"none of the {whole:,} line(s) in {where} answers a request of this run"
            return False
        self._options.step("downloaded")
        understood = await self._enter(chunk, files)
        chunk.taken = True
        self.save("taken")
        self._in_flight.pop(f"chunk {chunk.number}", None)
        self._folder.tidy(self._state)
        for file_id in (chunk.file_id, *remote.values()):
            if understood and file_id is not None:
                await self._provider.delete(file_id)
        self._options.step("forgotten")
        return True

    def _holds_ours(self, chunk: Chunk, files: list[Path]) -> bool:
        """Whether any line is a result of a request of a chunk, as far as is known what that asked."""
        keys = self._folder.keys(chunk)
        results = map(self._provider.result, _lines(files))
        return keys is None or any(result is not None and result.key in keys for result in results)

    async def _enter(self, chunk: Chunk, files: list[Path]) -> bool:
        """Enter all lines of a batch's results; whether all that was paid for is in the store."""
        keys = self._folder.keys(chunk)
        number, lost, costs, answered = 0, 0, list[float | None](), set[str]()
        for number, line in enumerate(_lines(files), 1):
            result = self._provider.result(line)
            if result is None or (keys is not None and result.key not in keys):
                lost += 1
            elif result.key not in answered:  # a line that comes twice was paid for once
                if result.key in self._requests:  # should this process be killed, the next start counts what it bought
                    self._journal.note("<", result.key)
                stored, cost_usd = self._requests.enter(chunk, result, number)
                lost += not stored
                costs.append(cost_usd)
                answered |= {result.key} if stored and result.error is None else set()
            self._options.step("entered")
            if number % TURN == 0:
                await asyncio.sleep(0)
        lost += max(0, chunk.answered - number)
        chunk.failed = {}
        for key in keys if keys is not None else [*self._requests, *self._requests.split]:
            request = self._requests.get(key)
            failed = self._requests.split.get(key) if request is None else request.failed
            if failed is not None:
                chunk.failed[key] = failed
            elif request is not None and not request.unanswered:
                request.unanswered = f"the batch {chunk.batch_id} ended ({chunk.status}) before this was answered"
        chunk.cost_usd = None if None in costs or lost else sum(cost or 0.0 for cost in costs)
        self.spent_usd += chunk.cost_usd or 0.0
        if lost:
            where = ", ".join(file for file in (chunk.output_file_id, chunk.error_file_id) if file is not None)
            chunk.note = f"of the batch {chunk.batch_id} {lost} line(s) could not be parsed" + (
                f"; the provider keeps them in {where}" if where else ""
            )
            self._collector.notes.append(chunk.note)
            self._collector.progress.cost_usd = None  # what cannot be understood may have cost something all the same
        return not lost

    async def _refuse(self, chunk: Chunk) -> None:
        """A batch failed before anything was asked: nothing was paid."""
        code, _, message = (chunk.note or "").partition(": ")
        error = read_error(400, {}, json.dumps({"error": {"code": code, "message": message}}))
        if _QUEUE_FULL.search(chunk.note or ""):
            await self._wait_for_room(chunk, message)
            return
        self.refused = chunk.note or "no reason given"
        for key in self._folder.keys(chunk) or ():
            if key in self._requests:
                failed = self._requests[key].failed = ("provider", f"the batch was refused: {self.refused}", 1)
                chunk.failed[key] = failed
        self._requests.fatal = self._requests.fatal or (self._provider.fatal(error, "/batches") if error else None)
        await self._close(chunk, "refusal noted")

    async def _halve(self, chunk: Chunk, status: str) -> None:
        """Drop a chunk that the provider cannot take; its requests, and all others, go into chunks of half the size."""
        self._state.max_requests = max(1, chunk.requests // 2)
        await self._drop(chunk, status)

    async def _drop(self, chunk: Chunk, status: str) -> None:
        """Drop a chunk whose batch will not answer; its requests may be sent in another one."""
        for key in self._folder.keys(chunk) or ():
            if key in self._requests and self._requests[key].tries:  # an earlier process may have written it
                self._requests[key].tries -= 1
        chunk.status = status
        await self._close(chunk, "dropped")

    async def _close(self, chunk: Chunk, step: str) -> None:
        """Close a chunk that cost nothing."""
        chunk.taken, chunk.cost_usd = True, 0.0
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
        """Wait, unless the job is told to stop."""
        await self._stop.supervise([asyncio.ensure_future(self._options.sleep(seconds))], drain=False)
        if self._stop.asked.is_set():
            raise asyncio.CancelledError


def _lines(files: list[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    yield line
