"""Runs a job: a fixed pool of workers pulls work items from one plan, and turns each into a label or a failure."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import groupby, islice, takewhile
from pathlib import Path
from typing import Any

from relabel.errors import ProviderError, RelabelError, RubricError, StoreError
from relabel.labelling.collector import Progress
from relabel.labelling.engine import Engine
from relabel.labelling.job import Job, Stop, response_format_note, with_known_format
from relabel.labelling.provider_errors import NoAnswerError
from relabel.labelling.request import UNPLANNED, WorkItem
from relabel.labelling.session import Outcome, RunSession, count_labels
from relabel.labelling.store import Store
from relabel.labelling.wire import FORMS, messages_of, repaired
from relabel.labels import InvalidAnswerError
from relabel.manifest import parquet_schema

# If this many first requests of a run all fail with the same error, the run ends.
CIRCUIT_BREAKER_FAILURES = 10
# Seconds for which answers from the store may block the event loop.
MAX_BLOCKING_S = 0.02
# Requests that may be in flight per extra worker.
PREFETCH_SHARE = 8
# Number of work items that are planned, and looked up in the store, together.
READ_AT_ONCE = 128
# Seconds after the first request until pyarrow is loaded: loading it sooner would delay the request.
LOAD_WRITER_S = 0.01
# If `NEARLY_ALL` of the last `LAST` requests failed with the same error, the run pauses, and then tries a single request.
LAST = 20
NEARLY_ALL = 18
PAUSE_S = 30.0
# Maximum seconds for which the requests of a setting wait for the first one, which fills the provider's prefix cache.
FIRST_S = 60.0
# Number of times that the first request of a setting may fail before the others are sent anyway.
FIRST_TRIES = 3
# Minimum characters of a prefix (about 680 tokens) to wait for the cache.
_SHORTEST_CACHED = 3000
# Number of tasks to try in a response format before giving it up, if the server's refusal does not mention the format.
_PROBE_TASKS = 3
# Statuses with which a server may refuse a response format.
_FORMAT_STATUS = {400, 415, 422, 501}
# Failures after which the model is asked once more.
_REPAIRABLE = {"invalid-json", "schema"}
# Failures that concern one task, and beginnings of those that concern the server.
_TASK_FAILURES = {"budget", "refusal", "content-filter"}
_SERVER_FAILURES = ("status 0", "status 403", "status 404", "status 429", "status 5", "timeout", "provider")
_NOT_ASKED = "the run was stopped before this was sent"


def in_a_batch(run: str) -> str:
    """The message for a request that is not sent because a batch run has it in flight."""
    return (
        f"the batch run {run} has this in flight: `relabel batch resume {run}` collects its answer, "
        f"`relabel batch cancel {run}` releases it"
    )


class CircuitOpenError(ProviderError):
    """The requests of a run all fail with the same error; the failures are already recorded."""


async def run_job(
    job: Job,
    engine: Engine,
    store: Store,
    out: Path,
    *,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Outcome:
    """Label all tasks of a job and write its run folder.

    Every answer is stored before it counts. A fatal refusal by the provider, Ctrl-C or a crash therefore loses no paid
    answer: the same job, started again, takes it from the store.

    Args:
        job: What to label.
        engine: Turns requests into answers; closed at the end.
        store: Keeps answers.
        out: The run folder.
        progress: Updated by the job.
        stop: Called to stop the job early.

    Raises:
        ProviderError: The provider refused all further requests; answers so far are stored, and the run folder lists
            missing labels.
        DataError: The run folder holds another run or cannot be written.
        StoreError: The store failed.
        RubricError: The prompt fails for a task. Answers in flight are still stored, and the run folder is written.
    """
    async with AsyncExitStack() as at_end:
        at_end.push_async_callback(engine.close)
        session = at_end.enter_context(RunSession(job, store, out, engine.name, progress=progress))
        engine.budget.before_usd += session.spent_before
        pool = WorkerPool(session.job, engine, session, stop or Stop())
        session.begin(await pool.probe())
        fatal = await pool.work()
        session.collector.progress.doing = "writing"
        # In a thread, so that the display is updated while many labels are written.
        outcome = await asyncio.to_thread(
            session.finish, interrupted=pool.interrupted, fatal=fatal, record=engine.record()
        )
        if fatal is not None:
            raise fatal
        return outcome


class WorkerPool:
    """The workers of a running job. They pull from one plan, of which few work items are in memory at a time.

    Attributes:
        interrupted: Whether the job was stopped before its end.
        fatal: The error that ended the job, if any.
    """

    def __init__(self, job: Job, engine: Engine, session: RunSession, stop: Stop) -> None:
        self.job, self.engine, self.stop = job, engine, stop
        self.collector, self.leases, self.journal = session.collector, session.leases, session.journal
        self.interrupted = False
        self.fatal: Exception | None = None
        self._progress = session.collector.progress
        self._items = job.items()
        self._probed = -1
        self._asking: dict[str, asyncio.Future[None]] = {}
        engine.answered = count_labels(session.out) > 0
        self._breaker = _CircuitBreaker(has_earlier_labels=engine.answered)
        self._prefixes = _PrefixGate()
        self._last_yield = time.perf_counter()
        self._turn = asyncio.Lock()
        self._sent: Counter[str] = Counter()
        self._unconfirmed = 0
        self._on_wire: Counter[asyncio.Task[Any] | None] = Counter()
        self._writer: asyncio.TimerHandle | None = None

    async def probe(self) -> Job:
        """Process the first work items one at a time, until the response format that the server accepts is known.

        Returns:
            The job in that format; unchanged if the refusals are not about the format, or if the job was stopped.
        """
        if self.job.probe:
            await self._supervise([self._probe()])
            self.job = replace(self.job, probe=False)
            self._items = (item for number, item in enumerate(self.job.items()) if number != self._probed)
        return self.job

    async def work(self) -> Exception | None:
        """Process the plan, until its end or until the job is stopped.

        After any error, even a bug in this program, requests in flight are awaited and recorded, because they are paid for.

        Returns:
            The error that ended the job early, if any.
        """
        # More workers than requests in flight, so that a slot is reused while the previous answer is still being stored.
        largest = self.engine.limiter.largest
        workers = min(largest + largest // PREFETCH_SHARE, max(1, self.job.size))
        self._items = self._read_ahead(_with_prefixes_ahead(self._items, 2 * workers))
        await self._supervise([self._pull() for _ in range(workers)])
        if self.stop.asked.is_set():
            try:
                await self._record_missing(_reason(self.fatal))
            except Exception as error:  # noqa: BLE001  the caller raises it after writing the run folder
                self.fatal = self.fatal or error
        return self.fatal

    def _read_ahead(self, items: Iterator[WorkItem]) -> Iterator[WorkItem]:
        """Plan a number of work items together, and read their answers from the store in one query."""
        while group := list(islice(items, READ_AT_ONCE)):
            # Errors are suppressed here, because each work item meets its own again in `_process`.
            with suppress(RubricError, StoreError):
                for number, item in enumerate(group):
                    group[number] = self.job.planner.planned(item)
                self.collector.store.read_ahead([item.request.key for item in group])
            yield from group

    async def _supervise(self, workers: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Run workers to their end; if the job is stopped, wait only for requests in flight."""
        tasks = [asyncio.create_task(worker) for worker in workers]

        def stopping() -> None:
            self.interrupted = self.fatal is None and self.stop.asked.is_set()
            # Cancel requests that wait for a slot, a pause or another process.
            for task in set(tasks).difference(self._on_wire):
                task.cancel()

        await self.stop.supervise(tasks, stopping=stopping)

    def _abort(self, error: Exception) -> None:
        """Stop the job because of an error: nothing more is sent."""
        self.fatal = self.fatal or error
        self.stop.asked.set()

    async def _probe(self) -> None:
        strictest, accepted_job, name = self.job, None, response_format_note(self.job.endpoint)
        try:
            while not self.leases.acquire(name):  # another process is probing this server
                await self.leases.pause()
            for form in FORMS:
                self.job = self.collector.job = strictest.in_form(form)
                if (accepted_job := await self._try_format(strictest, name)) is not None:
                    break
        except Exception as error:  # noqa: BLE001  the caller raises it after writing the run folder
            self._abort(error)
        finally:
            # If every format was refused, the format is not the problem; the run will report what is.
            self.job = accepted_job or strictest
            self.leases.release(name)

    async def _try_format(self, strictest: Job, name: str) -> Job | None:
        """Process work items of different tasks in the job's format; returns the job in the format to use, or None if it is refused."""
        refusals: list[NoAnswerError] = []
        first_items = (next(items) for _, items in groupby(enumerate(self.job.items()), key=lambda item: item[1].tasks))
        for number, bare in islice(first_items, _PROBE_TASKS):
            item = self.job.planner.planned(bare)
            if not (job := with_known_format(strictest, self.collector.store)).probe:
                return job  # another run has probed the server in the meantime
            try:
                remaining = self.collector.take(item)
                if remaining is None:
                    remaining = await self._buy_once(item, self._buy)
                    self._prefixes.answered(item)
            except NoAnswerError as error:
                if isinstance(error.__cause__, InvalidAnswerError):  # there was an answer, so the format is accepted
                    self.collector.fail(item, error.kind, str(error), error.attempts)
                    remaining = []
                else:
                    refusals.append(error)
                    if error.meaning == "form" or (len(refusals) == 2 and _same_error(*refusals)):
                        return None
                    if error.kind not in {"content-filter", "invalid-json"} and error.status not in _FORMAT_STATUS:
                        break
                    continue  # the refusal may concern only this question: try another one
            self._probed = number
            if self.leases.batch_of(item.request.key) is None:
                self.collector.store.put_note(name, self.job.endpoint.form)
            for single in remaining:
                await self._process(single)
            return self.job
        return strictest

    async def _pull(self) -> None:
        while not self.stop.asked.is_set():
            try:
                item, fresh = next(self._items, None), self._progress.fresh
                if item is None:
                    return
                await self._process(item)
            except Exception as error:  # noqa: BLE001  the caller raises it once requests in flight have ended
                self._abort(error)
                return
            # Yield after each bought answer, so that waiting answers are stored before more requests are made; one worker at a
            # time, so that requests are not sent in bursts. Answers from the store never wait: yield regularly between them, for
            # the display and Ctrl-C.
            if self._progress.fresh > fresh or time.perf_counter() - self._last_yield > MAX_BLOCKING_S:
                async with self._turn:
                    await asyncio.sleep(0)
                self._last_yield = time.perf_counter()

    async def _process(self, item: WorkItem) -> None:
        """Turn a work item into a label or a failure."""
        try:
            if item.request is UNPLANNED:
                item = self.job.planner.planned(item)
            remaining = self.collector.take(item)
            if remaining is None:
                remaining = await self._buy_once(item, self._buy_in_turn)
        except CircuitOpenError:
            raise
        except (asyncio.CancelledError, Exception) as error:
            sent = self._sent.pop(item.request.key, 0)
            stopped = "the run was stopped while this was in flight" if sent else _NOT_ASKED
            self.collector.fail(item, "provider", _reason(error, stopped), sent)
            raise
        for number, single in enumerate(remaining):
            try:
                await self._process(single)
            except (asyncio.CancelledError, Exception) as error:
                self._give_up(remaining[number + 1 :], _reason(error))
                raise

    async def _buy_once(
        self, item: WorkItem, ask: Callable[[WorkItem], Coroutine[Any, Any, list[WorkItem] | None]]
    ) -> list[WorkItem]:
        """Buy an answer unless another worker or run has bought it or is buying it; returns work items to send separately."""
        key = item.request.key
        while key in self._asking:  # the plan has this question twice, and one answer is enough
            await asyncio.wait({self._asking[key]})
            if (remaining := self.collector.take(item)) is not None:
                return remaining
        future = self._asking[key] = asyncio.get_running_loop().create_future()
        try:
            while not self.leases.acquire(key):
                if (remaining := self.collector.take(item)) is not None:
                    return remaining
                if (run := self.leases.batch_of(key)) is not None:
                    self._progress.held_by_run[run] += len(item.tasks)
                    self.collector.fail(item, "provider", in_a_batch(run), 0)
                    return []
                await self.leases.pause()
            bought = False
            try:
                # Another run may have bought it between the first lookup and the lease.
                if (remaining := self.collector.take(item)) is not None:
                    return remaining
                remaining = await ask(item)
                bought = remaining is not None
                return remaining or []
            finally:
                if not bought:
                    self.leases.release(key)
        finally:
            del self._asking[key]
            future.cancel()

    async def _buy_in_turn(self, item: WorkItem) -> list[WorkItem] | None:
        """Buy an answer after waiting for its turn; returns work items to send separately, or None if there is no answer."""
        key = item.request.key
        prefix, answered = await self._prefixes.enter(item), False
        try:
            async with self._breaker.turn() as trial:
                try:
                    remaining = await self._buy(item)
                    answered = True
                    self._breaker.succeeded()
                    return remaining
                except NoAnswerError as error:
                    answered = isinstance(error.__cause__, InvalidAnswerError)
                    if remaining := self.collector.split(item, error.kind):
                        self.leases.release(key)  # there is no answer, so other runs may ask
                        return remaining
                    self.collector.fail(item, error.kind, str(error), error.attempts)
                    # A replay sends nothing, so its failures say nothing about a server.
                    if error.kind != "provider" or error.attempts:
                        self._breaker.failed(error, trial=trial)
                    return None
        finally:
            if prefix is not None:
                self._prefixes.leave(prefix, answered=answered)
            if not self.stop.asked.is_set():
                self._sent.pop(key, None)

    async def _buy(self, item: WorkItem) -> list[WorkItem]:
        """Buy an answer, asking once more if it is invalid.

        Raises:
            NoAnswerError: There is no answer, or no valid one.
        """
        if self.stop.asked.is_set():  # a pending cancellation only takes effect at an await that blocks
            raise asyncio.CancelledError
        on_in_flight = partial(self._track, item, asyncio.current_task())
        attempts = 0
        try:
            answer = await self.engine.ask(item.request, on_in_flight=on_in_flight)
            attempts = answer.attempts
            try:
                return self.collector.buy(item, answer)
            except InvalidAnswerError as error:
                if error.kind not in _REPAIRABLE or self.job.decide == "logprob" or self.stop.asked.is_set():
                    raise
                repair = repaired(item.request.body, answer.content or "", error.reason)
            again = await self.engine.ask(item.request, repair, on_in_flight=on_in_flight)
            attempts += again.attempts
            return self.collector.buy(item, again.model_copy(update={"attempts": attempts}))
        except InvalidAnswerError as error:
            raise NoAnswerError(error.kind, error.reason, attempts) from error
        except NoAnswerError as error:
            error.attempts += attempts
            raise
        except StoreError:
            self.journal.note("?", item.request.key)  # paid for and lost
            raise

    def _track(self, item: WorkItem, task: asyncio.Task[Any] | None, on_wire: bool) -> None:
        """Record that a worker's request is about to be sent, or has ended."""
        key = item.request.key
        if on_wire:
            if self.stop.asked.is_set():
                raise asyncio.CancelledError
            self._sent[key] += 1
            self._progress.in_flight[key] = (f"{item.tasks[0].task_id} {item.setting}", time.monotonic())
            self._on_wire[task] += 1
            self.journal.note(">", key)
            if self._writer is None:  # load pyarrow, which writes the run folder, while waiting for the first answer
                loop = asyncio.get_running_loop()
                self._writer = loop.call_later(LOAD_WRITER_S, loop.run_in_executor, None, parquet_schema)
            return
        if self.engine.budget.unconfirmed_requests > self._unconfirmed:
            self._unconfirmed = self.engine.budget.unconfirmed_requests
            self.journal.note("?", key)
        # Once its answer is stored: a process that is killed in between must not leave it unaccounted for.
        asyncio.get_running_loop().call_soon(self.journal.note, "<", key)
        self._on_wire[task] -= 1
        if self._on_wire[task]:  # the request was sent twice, and the other copy is still in flight
            return
        del self._on_wire[task]
        self._progress.in_flight.pop(key, None)
        if self.stop.asked.is_set() and task is not None:
            task.cancel()  # takes effect only after an answer that has arrived is recorded

    async def _record_missing(self, reason: str) -> None:
        """Label the remaining work items from the store, and record the others as missing; a second Ctrl-C ends this early."""
        self._progress.doing, self._last_yield = "naming", time.perf_counter()
        for item in self._items:
            self._give_up((item,), reason)
            if time.perf_counter() - self._last_yield < MAX_BLOCKING_S:
                continue
            await asyncio.sleep(0)
            self._last_yield = time.perf_counter()
            if self.stop.at_once.is_set():
                self.collector.leave_unnamed(self.job.size - self._progress.done)
                return

    def _give_up(self, items: Iterable[WorkItem], reason: str) -> None:
        """Label work items from the store, and record the others as missing."""
        for item in items:
            try:
                for wanted in self.collector.wanted(self.job.planner.planned(item)):
                    self.collector.fail(wanted, "provider", reason, 0)
            except RubricError as error:  # the prompt fails for this task
                self.collector.fail(item, "provider", str(error), 0)


class _CircuitBreaker:
    """Ends a run if its first requests all fail with the same error, or nearly all recent ones do and so does a trial after a pause."""

    def __init__(self, *, has_earlier_labels: bool) -> None:
        self._has_earlier_labels = has_earlier_labels
        self._last: deque[str] = deque(maxlen=LAST)
        self._paused = False
        self._trying = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[bool]:
        """Wait while the run is paused; yields True for the single trial request after the pause, for which the others wait."""
        async with AsyncExitStack() as trying:
            if self._paused:
                await trying.enter_async_context(self._trying)
                if self._paused:
                    await asyncio.sleep(PAUSE_S)
                if not self._paused:  # another request was answered in the meantime
                    await trying.aclose()
            yield self._paused

    def succeeded(self) -> None:
        """Record that a request was answered."""
        self._last.append("")
        self._paused = False

    def failed(self, error: NoAnswerError, *, trial: bool) -> None:
        """Record that a request failed.

        Raises:
            CircuitOpenError: The first requests all failed with the same error; or nearly all recent ones did, and the trial too.
        """
        # Failures that concern one task say nothing about the others.
        kind = error.kind if error.status is None else f"status {error.status}"
        if error.kind in _TASK_FAILURES or (self._has_earlier_labels and not kind.startswith(_SERVER_FAILURES)):
            return
        advice = "fix the cause and start the same run again"
        if not self._paused:
            self._last.append(kind)
            alike = self._last.count(kind)
            # If an earlier start got labels, the missing ones may just be those that always fail.
            if not self._has_earlier_labels and alike == len(self._last) == CIRCUIT_BREAKER_FAILURES:
                raise CircuitOpenError(
                    f"the first {CIRCUIT_BREAKER_FAILURES} requests failed with the same error: {error}; {advice}"
                )
            self._paused = alike >= NEARLY_ALL
        elif trial and self._last[-1] == kind:
            raise CircuitOpenError(
                f"nearly all of the last {LAST} requests failed with the same error, as did another one after a pause: {error}; {advice}"
            )


class _PrefixGate:
    """Sends one request of each prefix ahead of the others: once it is answered, the provider has the prefix in its cache."""

    def __init__(self) -> None:
        self._first: dict[str, asyncio.Future[None]] = {}
        self._failed: Counter[str] = Counter()

    async def enter(self, item: WorkItem) -> str | None:
        """Wait for the first requests of this prefix and of earlier ones; returns the prefix if this request is its first, else None."""
        if len(prefix := self._prefix(item)) < _SHORTEST_CACHED:
            return None
        if prefix in self._first:  # with a cost cap, a setting that overtakes an earlier one could use up its budget
            before = takewhile(lambda other: other[0] != prefix, list(self._first.items()))
            for first in [first for _, first in before if not first.done()]:
                await asyncio.wait({first}, timeout=FIRST_S)
        while (first := self._first.get(prefix)) is not None:
            if first.done():
                return None
            _, late = await asyncio.wait({first}, timeout=FIRST_S)
            if late:
                return None
        self._first[prefix] = asyncio.get_running_loop().create_future()
        return prefix

    def answered(self, item: WorkItem) -> None:
        """Record that the prefix of a work item is in the cache, because the probe got an answer with it."""
        first = self._first[self._prefix(item)] = asyncio.get_running_loop().create_future()
        first.set_result(None)

    @staticmethod
    def _prefix(item: WorkItem) -> str:
        *fixed, _ = messages_of(item.request.body)
        return fixed[-1]["content"] if fixed else ""

    def leave(self, prefix: str, *, answered: bool) -> None:
        """Record the end of the first request of a prefix; if it failed, another one goes first, up to `FIRST_TRIES` times."""
        first = self._first[prefix]
        self._failed[prefix] += not answered
        if not answered and self._failed[prefix] < FIRST_TRIES:
            del self._first[prefix]
        first.set_result(None)


def _with_prefixes_ahead(items: Iterable[WorkItem], places: int) -> Iterator[WorkItem]:
    """Move the first work item of each later setting forward by `places`, so that its prefix is cached when the setting begins."""
    queue: deque[WorkItem] = deque()
    for number, (_, of_setting) in enumerate(groupby(items, key=lambda item: item.setting)):
        yield from islice(of_setting, 1 if number and len(queue) == places else 0)
        for item in of_setting:
            queue.append(item)
            if len(queue) > places:
                yield queue.popleft()
    yield from queue


def _same_error(one: NoAnswerError, other: NoAnswerError) -> bool:
    """Whether two refusals are the same error of the provider, and so not about the questions."""
    return one.kind == other.kind == "provider" and (one.status, one.meaning) == (other.status, other.meaning)


def _reason(error: BaseException | None, otherwise: str = _NOT_ASKED) -> str:
    """Why a label is missing; the message of an internal error is left out, because it may hold anything, even a secret."""
    if error is None or isinstance(error, asyncio.CancelledError):
        return otherwise
    return str(error) if isinstance(error, RelabelError | OSError) else f"internal error ({type(error).__name__})"
