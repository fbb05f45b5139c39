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
from relabel.labelling.engine import Engine, repaired
from relabel.labelling.job import Job, Stop, response_format_note, with_known_format
from relabel.labelling.provider_errors import NoAnswerError
from relabel.labelling.request import UNPLANNED, WorkItem
from relabel.labelling.session import Outcome, RunSession, labels_there
from relabel.labelling.store import Store
from relabel.labelling.wire import FORMS, messages_of
from relabel.labels import InvalidAnswerError
from relabel.manifest import parquet_schema

# When so many first requests of a run all fail the same way, the rest would too.
CIRCUIT_BREAKER_FAILURES = 10
# Seconds that answers from the store may keep everything else waiting.
MAX_BLOCKING_S = 0.02
# One worker in so many more than requests may be in flight.
PREFETCH_SHARE = 8
# Work items that are planned and looked up in the store together.
READ_AT_ONCE = 128
# Seconds after the first request: loading must not keep it from being sent.
LOAD_WRITER_S = 0.01
# Seconds for which missing labels are still recorded after a second Ctrl-C.
LEAVE_S = 2.0
# Requests that show whether a run has come to a stop: when nearly all of the last ones failed with the same error, it pauses and tries one.
LAST = 20
NEARLY_ALL = 18
PAUSE_S = 30.0
# Seconds for which the requests of a setting wait for the first one, which fills the provider's prefix cache.
FIRST_S = 60.0
# Number of first requests that may fail before the others are sent anyway.
FIRST_TRIES = 3
# Minimum characters of a prefix (about 680 tokens) to wait for the cache.
_SHORTEST_CACHED = 3000
_NAMED_AT_ONCE = 64
# Number of tasks to try in a response format before giving it up, if the server's refusal does not mention the format.
_PROBE_TASKS = 3
_FORMAT_STATUS = {400, 415, 422, 501}
_REPAIRABLE = {"invalid-json", "schema"}
_ABOUT_THE_TASK = {"budget", "refusal", "content-filter"}
_OF_THE_SERVER = ("status 0", "status 403", "status 404", "status 429", "status 5", "timeout", "provider")
_NOT_ASKED = "the run was stopped before this was sent"


def in_a_batch(run: str) -> str:
    """The message for a request that is not sent because a batch run has it in flight."""
    return (
        f"the batch run {run} has this in flight: `relabel batch resume {run}` collects its answer, "
        f"`relabel batch cancel {run}` releases it"
    )


class CircuitOpenError(ProviderError):
    """The requests of a run all fail in the same way; the failures are already recorded."""


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
        # In a thread, so that the display keeps updating: a million labels take a while.
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
        engine.answered = labels_there(session.out) > 0
        self._breaker = _CircuitBreaker(has_earlier_labels=engine.answered)
        self._prefixes = _PrefixGate()
        self._last_rest = time.perf_counter()
        self._turn = asyncio.Lock()
        self._sent: Counter[str] = Counter()
        self._unconfirmed = 0
        self._on_wire: Counter[asyncio.Task[Any] | None] = Counter()
        self._writer: asyncio.TimerHandle | None = None

    async def probe(self) -> Job:
        """Process the first work items one at a time, until the response format that the server accepts is known.

        Returns:
            The job in that format; unchanged if refusals are not about the format, or the job was stopped.
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
        # A few more workers than requests in flight, so that a slot is reused while the last answer is still being stored.
        most = self.engine.limiter.largest
        ready = min(most + most // PREFETCH_SHARE, max(1, self.job.size))
        self._items = self._read_ahead(_with_prefixes_ahead(self._items, 2 * ready))
        await self._supervise([self._pull() for _ in range(ready)])
        if self.stop.asked.is_set():
            try:
                await self._name_the_rest(_reason(self.fatal))
            except Exception as error:  # noqa: BLE001  what there is gets written first; the caller raises what ended the run
                self.fatal = self.fatal or error
        return self.fatal

    def _read_ahead(self, items: Iterator[WorkItem]) -> Iterator[WorkItem]:
        """Plan some work items at a time, and read their answers from the store together."""
        while some := list(islice(items, READ_AT_ONCE)):
            for number, item in enumerate(some):
                with suppress(RubricError):  # raised again at its turn, as is an error of the store
                    some[number] = self.job.planner.planned(item)
            with suppress(StoreError):
                self.collector.store.read_ahead([item.request.key for item in some])
            yield from some

    async def _supervise(self, workers: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Run workers to their end; if the job is stopped, wait only for requests in flight."""
        tasks = [asyncio.create_task(worker) for worker in workers]

        def stopping() -> None:
            self.interrupted = self.fatal is None and self.stop.asked.is_set()
            # Cancel requests that wait for a slot, a pause or another process.
            for task in set(tasks).difference(self._on_wire):
                task.cancel()

        await self.stop.supervise(tasks, stopping=stopping)

    def _end(self, error: Exception) -> None:
        """End the job with an error: nothing more is sent."""
        self.fatal = self.fatal or error
        self.stop.asked.set()

    async def _probe(self) -> None:
        strictest, accepted_job, name = self.job, None, response_format_note(self.job.endpoint)
        try:
            while not self.leases.acquire(name):  # no two processes try the same
                await self.leases.pause()
            for form in FORMS:
                self.job = self.collector.job = strictest.in_form(form)
                if (accepted_job := await self._tried(strictest, name)) is not None:
                    break
        except Exception as error:  # noqa: BLE001  the caller raises it once the folder is written
            self._end(error)
        finally:
            # If every format is refused, something else is wrong, and the run will report it.
            self.job = accepted_job or strictest
            self.leases.release(name)

    async def _tried(self, strictest: Job, name: str) -> Job | None:
        """Process work items of different tasks in the job's format; returns the job in the format to use, or None if refused."""
        refusals: list[NoAnswerError] = []
        different = (next(items) for _, items in groupby(enumerate(self.job.items()), key=lambda item: item[1].tasks))
        for number, bare in islice(different, _PROBE_TASKS):
            item = self.job.planner.planned(bare)
            if not (job := with_known_format(strictest, self.collector.store)).probe:
                return job  # another run has tried just this
            try:
                rest = self.collector.take(item)
                if rest is None:
                    rest = await self._once(item, self._bought)
                    self._prefixes.answered(item)
            except NoAnswerError as error:
                if isinstance(error.__cause__, InvalidAnswerError):  # an answer came, and so the format is taken
                    self.collector.fail(item, error.kind, str(error), error.attempts)
                    rest = []
                else:
                    refusals.append(error)
                    if error.meaning == "form" or (len(refusals) == 2 and _alike(*refusals)):
                        return None
                    if error.kind not in {"content-filter", "invalid-json"} and error.status not in _FORMAT_STATUS:
                        break
                    continue  # it may be about the question alone, so that another one must tell
            self._probed = number
            if self.leases.batch_of(item.request.key) is None:
                self.collector.store.put_note(name, self.job.endpoint.form)
            for single in rest:
                await self._one(single)
            return self.job
        return strictest

    async def _pull(self) -> None:
        while not self.stop.asked.is_set():
            try:
                item, fresh = next(self._items, None), self._progress.fresh
                if item is None:
                    return
                await self._one(item)
            except Exception as error:  # noqa: BLE001  kept for the caller, who raises it once what is on the wire is in
                self._end(error)
                return
            # Yield after an answer, so that other answers are stored before the next request is made, one worker at a time, so
            # that requests are not sent in bursts; and regularly, for the display and Ctrl-C, because store hits never wait.
            if self._progress.fresh > fresh or time.perf_counter() - self._last_rest > MAX_BLOCKING_S:
                async with self._turn:
                    await asyncio.sleep(0)
                self._last_rest = time.perf_counter()

    async def _one(self, item: WorkItem) -> None:
        """Turn a work item into a label or a failure."""
        try:
            if item.request is UNPLANNED:
                item = self.job.planner.planned(item)
            rest = self.collector.take(item)
            if rest is None:
                rest = await self._once(item, self._ask)
        except CircuitOpenError:
            raise
        except (asyncio.CancelledError, Exception) as error:
            sent = self._sent.pop(item.request.key, 0)
            left = "the run was stopped while this was in flight" if sent else _NOT_ASKED
            self.collector.fail(item, "provider", _reason(error, left), sent)
            raise
        for number, single in enumerate(rest):
            try:
                await self._one(single)
            except (asyncio.CancelledError, Exception) as error:
                self._give_up(rest[number + 1 :], _reason(error))
                raise

    async def _once(
        self, item: WorkItem, ask: Callable[[WorkItem], Coroutine[Any, Any, list[WorkItem] | None]]
    ) -> list[WorkItem]:
        """Buy an answer that no other run has bought or is buying; returns work items to send separately."""
        key = item.request.key
        while key in self._asking:  # the same question twice in one plan needs only one answer
            await asyncio.wait({self._asking[key]})
            if (rest := self.collector.take(item)) is not None:
                return rest
        future = self._asking[key] = asyncio.get_running_loop().create_future()
        try:
            while not self.leases.acquire(key):
                if (run := self.leases.batch_of(key)) is not None:
                    self._progress.held_by_run[run] += len(item.tasks)
                    self.collector.fail(item, "provider", in_a_batch(run), 0)
                    return []
                await self.leases.pause()
                if (rest := self.collector.take(item)) is not None:
                    return rest
            bought = False
            try:
                # Another run may have bought it between the first look and the lease.
                if (rest := self.collector.take(item)) is not None:
                    return rest
                rest = await ask(item)
                bought = rest is not None
                return rest or []
            finally:
                if not bought:
                    self.leases.release(key)
        finally:
            del self._asking[key]
            future.cancel()

    async def _ask(self, item: WorkItem) -> list[WorkItem] | None:
        """Buy an answer, after waiting for its turn; returns work items to send separately, or None without an answer."""
        key = item.request.key
        prefix, answered = await self._prefixes.enter(item), False
        try:
            async with self._breaker.turn() as trial:
                try:
                    rest = await self._bought(item)
                    answered = True
                    self._breaker.succeeded()
                    return rest
                except NoAnswerError as error:
                    answered = isinstance(error.__cause__, InvalidAnswerError)
                    if rest := self.collector.split(item, error.kind):
                        self.leases.release(key)  # without an answer, other runs may ask
                        return rest
                    self.collector.fail(item, error.kind, str(error), error.attempts)
                    # A replay sends nothing: what it lacks says nothing of a server.
                    if error.kind != "provider" or error.attempts:
                        self._breaker.failed(error, trial=trial)
                    return None
        finally:
            if prefix is not None:
                self._prefixes.leave(prefix, answered=answered)
            if not self.stop.asked.is_set():
                self._sent.pop(key, None)

    async def _bought(self, item: WorkItem) -> list[WorkItem]:
        """Buy an answer, asking once more if it is invalid.

        Raises:
            NoAnswerError: There is no answer, or no valid one.
        """
        if self.stop.asked.is_set():  # a cancellation that is under way is only felt where something is waited for
            raise asyncio.CancelledError
        on_in_flight = partial(self._moved, item, asyncio.current_task())
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

    def _moved(self, item: WorkItem, task: asyncio.Task[Any] | None, on_wire: bool) -> None:
        """Record that a worker's request is sent, or has ended."""
        key = item.request.key
        if on_wire:
            if self.stop.asked.is_set():
                raise asyncio.CancelledError
            self._sent[key] += 1
            self._progress.in_flight[key] = (f"{item.tasks[0].task_id} {item.setting}", time.monotonic())
            self._on_wire[task] += 1
            self.journal.note(">", key)
            if self._writer is None:  # what writes the run folder is loaded while the first answer is awaited
                loop = asyncio.get_running_loop()
                self._writer = loop.call_later(LOAD_WRITER_S, loop.run_in_executor, None, parquet_schema)
            return
        if self.engine.budget.unconfirmed_requests > self._unconfirmed:
            self._unconfirmed = self.engine.budget.unconfirmed_requests
            self.journal.note("?", key)
        self.journal.note("<", key)
        self._on_wire[task] -= 1
        if self._on_wire[task]:  # it was sent twice, and the other one is still out
            return
        del self._on_wire[task]
        self._progress.in_flight.pop(key, None)
        if self.stop.asked.is_set() and task is not None:
            task.cancel()  # an answer that is there gets recorded before this is felt; nothing more is sent

    async def _name_the_rest(self, reason: str) -> None:
        """Label the remaining work items from the store and record the others as missing; a second Ctrl-C ends this early."""
        self._progress.doing = "naming"
        leave_at = None
        for number, item in enumerate(self._items):
            self._give_up((item,), reason)
            now = time.perf_counter()
            if number % _NAMED_AT_ONCE or now - self._last_rest < MAX_BLOCKING_S:
                continue
            await asyncio.sleep(0)
            self._last_rest = time.perf_counter()
            if self.stop.at_once.is_set():
                leave_at = now + LEAVE_S if leave_at is None else leave_at
                if now >= leave_at:
                    self.collector.leave_unnamed(self.job.size - self._progress.done)
                    return

    def _give_up(self, rest: Iterable[WorkItem], reason: str) -> None:
        """Label work items from the store, and record the rest as missing."""
        for item in rest:
            try:
                for wanted in self.collector.wanted(self.job.planner.planned(item)):
                    self.collector.fail(wanted, "provider", reason, 0)
            except RubricError as error:  # what cannot even be asked is recorded as missing
                self.collector.fail(item, "provider", str(error), 0)


class _CircuitBreaker:
    """Ends a run whose requests all fail alike: the first ones, or nearly all of the last ones and one more after a pause."""

    def __init__(self, *, has_earlier_labels: bool) -> None:
        self._has_earlier_labels = has_earlier_labels
        self._last: deque[str] = deque(maxlen=LAST)
        self._paused = False
        self._trying = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[bool]:
        """Wait while the run pauses; True for the one trial request of a pause, which the others wait for."""
        async with AsyncExitStack() as trying:
            if self._paused:
                await trying.enter_async_context(self._trying)
                if self._paused:
                    await asyncio.sleep(PAUSE_S)
                if not self._paused:  # another request was answered in the meantime
                    await trying.aclose()
            yield self._paused

    def succeeded(self) -> None:
        """A request was answered."""
        self._last.append("")
        self._paused = False

    def failed(self, error: NoAnswerError, *, trial: bool) -> None:
        """A request failed.

        Raises:
            CircuitOpenError: The first ones all failed alike; or nearly all of the last ones, and the trial did too.
        """
        # A refusal is about a task, not about how the server is asked.
        kind = error.kind if error.status is None else f"status {error.status}"
        if error.kind in _ABOUT_THE_TASK or (self._has_earlier_labels and not kind.startswith(_OF_THE_SERVER)):
            return
        advice = "fix the cause and start the same run again"
        if not self._paused:
            self._last.append(kind)
            alike = self._last.count(kind)
            # A run that had labels at an earlier start is past its first requests: what it lacks may be what always fails.
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
    """Lets one request with a prefix go first: once it is answered, the provider has the prefix in its cache."""

    def __init__(self) -> None:
        self._first: dict[str, asyncio.Future[None]] = {}
        self._failed: Counter[str] = Counter()

    async def enter(self, item: WorkItem) -> str | None:
        """Wait for the first request with the same prefix, and with those before it; the prefix, where this one is the first."""
        if len(prefix := self._prefix(item)) < _SHORTEST_CACHED:
            return None
        if prefix in self._first:  # a setting does not overtake the one before it, which a cap may leave without labels
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
        """A request was answered before the others were made."""
        first = self._first[self._prefix(item)] = asyncio.get_running_loop().create_future()
        first.set_result(None)

    @staticmethod
    def _prefix(item: WorkItem) -> str:
        *fixed, _ = messages_of(item.request.body)
        return fixed[-1]["content"] if fixed else ""

    def leave(self, prefix: str, *, answered: bool) -> None:
        """The first request with a prefix is over; where it failed, another one is the first, up to some tries."""
        first = self._first[prefix]
        self._failed[prefix] += not answered
        if not answered and self._failed[prefix] < FIRST_TRIES:
            del self._first[prefix]
        first.set_result(None)


def _with_prefixes_ahead(items: Iterable[WorkItem], places: int) -> Iterator[WorkItem]:
    """Move the first work item of each later setting up, so that its prefix is in the provider's cache when its setting begins."""
    queue: deque[WorkItem] = deque()
    for number, (_, of_setting) in enumerate(groupby(items, key=lambda item: item.setting)):
        yield from islice(of_setting, 1 if number and len(queue) == places else 0)
        for item in of_setting:
            queue.append(item)
            if len(queue) > places:
                yield queue.popleft()
    yield from queue


def _alike(one: NoAnswerError, other: NoAnswerError) -> bool:
    """Whether two refusals are the same and not about what was asked."""
    return one.kind == other.kind == "provider" and (one.status, one.meaning) == (other.status, other.meaning)


def _reason(error: BaseException | None, otherwise: str = _NOT_ASKED) -> str:
    """Why a label is missing, in words; those of a fault of this program are not known to be fit for a file."""
    if error is None or isinstance(error, asyncio.CancelledError):
        return otherwise
    return str(error) if isinstance(error, RelabelError | OSError) else f"internal error ({type(error).__name__})"
