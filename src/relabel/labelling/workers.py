"""A fixed pool of workers that pull from one plan: what each request goes through until it is a label or a failure."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from relabel.errors import ProviderError, RelabelError, RubricError
from relabel.label import Answer, InvalidAnswerError
from relabel.labelling.collector import LabelCollector
from relabel.labelling.engine import Engine, Repair
from relabel.labelling.job import Job, Stop
from relabel.labelling.leases import Leases
from relabel.labelling.refusals import NoAnswerError
from relabel.labelling.request import WorkItem
from relabel.labelling.wire import messages_of

DRAIN_S = 30.0
"""Seconds that an interrupted job waits for the answers in flight: they are paid for."""
CIRCUIT_BREAKER_FAILURES = 10
"""When so many first requests of a run all fail the same way, the rest would too."""
MAX_BLOCKING_S = 0.02
"""Seconds that answers from the store may keep everything else waiting."""
PREFETCH_SHARE = 8
"""One worker in so many more than requests may be in flight."""
LEAVE_S = 2.0
"""Seconds for which missing labels are still named when the user wants to leave at once."""
LAST = 20
"""Requests that show whether a run has come to a stop: when nearly all of the last ones failed alike, it pauses and tries one."""
NEARLY_ALL = 18
PAUSE_S = 30.0
FIRST_S = 60.0
"""Seconds for which the requests of one setting wait for the first of them, which fills the provider's prefix cache."""
FIRST_TRIES = 3
"""Requests that may fail as the first before all others are sent anyway."""
_SHORTEST_CACHED = 3000
"""Characters, some 680 tokens: shorter prefixes have nothing to wait for."""
_NAMED_AT_ONCE = 64
_KEYS_HELD = 500_000
"""Keys of the store in memory at most: some 60 MB."""
_REPAIRABLE = {"invalid-json", "schema"}
_ABOUT_THE_TASK = {"budget", "refusal", "content-filter"}
_OF_THE_SERVER = ("status 0", "status 429", "status 5", "timeout", "provider")
_NOT_ASKED = "the run was stopped before this was asked"


def in_a_batch(run: str) -> str:
    """Why something is not asked that a batch run has in flight."""
    return (
        f"the batch run {run} has this in flight: `relabel batch resume {run}` takes its answer, "
        f"`relabel batch cancel {run}` lets others ask"
    )


class CircuitOpenError(ProviderError):
    """The first requests all failed alike. The one that shows it is entered already."""


class WorkerPool:
    """The state of a running job: workers pull from one plan, so that no more than their number is ever unfolded."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        collector: LabelCollector,
        leases: Leases,
        stop: Stop,
        clock: Callable[[], float],
        invalid: dict[str, tuple[Answer, InvalidAnswerError]],
    ) -> None:
        self.job, self.engine, self.collector, self.leases, self.stop, self.clock = (
            job,
            engine,
            collector,
            leases,
            stop,
            clock,
        )
        self.interrupted = False
        self.has_earlier_labels = False
        self._progress = collector.progress
        self._wanted = job.wanted()
        self._asking: dict[str, asyncio.Future[None]] = {}
        self._first_ends: Counter[str] = Counter()
        self._last_rest = time.perf_counter()
        self._invalid = invalid
        self._fatal: Exception | None = None
        self._sent: Counter[str] = Counter()
        self._on_wire: set[asyncio.Task[Any] | None] = set()
        self._first: dict[str, asyncio.Future[None]] = {}
        """By the prefix of a prompt: done once a request that begins with it was answered."""
        self._first_failed: Counter[str] = Counter()
        self._last_ends: deque[str] = deque(maxlen=LAST)
        self._paused: asyncio.Future[None] | None = None
        """Done when the one request that is tried in a pause has come back."""
        self._trying = False

    async def work(self, concurrency: int) -> Exception | None:
        """Work through the plan, until its end or until the job is stopped.

        Whatever goes wrong, a fault of this program too, what is on the wire is awaited and entered: it is paid for.

        Args:
            concurrency: Requests that the engine has in flight at most.

        Returns:
            What ended it early for good, if anything did.
        """
        # Some stand by, so that a request goes out the moment that another comes back, and not when its answer is filed.
        ready = min(concurrency + concurrency // PREFETCH_SHARE, max(1, self.job.size))
        workers = [asyncio.create_task(self._pull()) for _ in range(ready)]
        stopping = asyncio.create_task(self.stop.asked.wait())
        pending: set[asyncio.Task[Any]] = set(workers)
        try:
            while pending and not self.stop.asked.is_set():
                _, rest = await asyncio.wait({*pending, stopping}, return_when=asyncio.FIRST_COMPLETED)
                pending = {task for task in rest if task is not stopping}
            self.interrupted = self._fatal is None and self.stop.asked.is_set()
            if pending:
                await self._drain(pending)
        finally:
            for task in (stopping, *workers):
                task.cancel()
            await asyncio.wait({stopping, *workers})
        if self.stop.asked.is_set():
            try:
                await self._name_the_rest(_said(self._fatal))
            except Exception as error:  # noqa: BLE001  what there is gets written first; the caller raises what ended the run
                self._fatal = self._fatal or error
        return self._fatal

    def end(self, error: Exception) -> None:
        """End the job for good: nothing more is sent."""
        self._fatal = self._fatal or error
        self.stop.asked.set()

    async def _drain(self, pending: set[asyncio.Task[Any]]) -> None:
        """Wait for what is on the wire; what waits for its turn, a pause or another process is not sent any more."""
        for task in pending - self._on_wire:
            task.cancel()
        leave = asyncio.create_task(self.stop.at_once.wait())
        landed = asyncio.create_task(asyncio.wait(pending))
        await asyncio.wait({leave, landed}, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        for task in (leave, landed, *pending):
            task.cancel()
        await asyncio.wait({leave, landed, *pending})

    async def _pull(self) -> None:
        while not self.stop.asked.is_set():
            try:
                wanted = next(self._wanted, None)
                if wanted is None:
                    return
                await self._one(self._planned(wanted))
            except Exception as error:  # noqa: BLE001  kept for the caller, who raises it once what is on the wire is in
                self.end(error)
                return
            if time.perf_counter() - self._last_rest > MAX_BLOCKING_S:
                await asyncio.sleep(0)  # store hits never wait: let the display and Ctrl-C have their turn
                self._last_rest = time.perf_counter()

    def _planned(self, wanted: WorkItem) -> WorkItem:
        try:
            return self.job.planner.planned(wanted)
        except RubricError as error:
            self.collector.fail(wanted, "provider", str(error), 0)
            raise

    async def _one(self, planned: WorkItem) -> None:
        try:
            rest = self.collector.take(planned)
            if rest is None:
                rest = await self._once(planned)
        except CircuitOpenError:
            raise
        except (asyncio.CancelledError, Exception) as error:
            sent = self._sent.pop(planned.request.key, 0)
            left = "the run was stopped while this was in flight" if sent else _NOT_ASKED
            self.collector.fail(planned, "provider", _said(error, left), sent)
            raise
        for number, single in enumerate(rest):
            try:
                await self._one(single)
            except (asyncio.CancelledError, Exception) as error:
                self._give_up(rest[number + 1 :], _said(error))
                raise

    async def _once(self, planned: WorkItem) -> list[WorkItem]:
        """Buy an answer that nobody has bought and nobody is buying."""
        key = planned.request.key
        while key in self._asking:  # the same question twice in one plan is one answer
            await asyncio.wait({self._asking[key]})
            if (rest := self.collector.take(planned)) is not None:
                return rest
        future = self._asking[key] = asyncio.get_running_loop().create_future()
        try:
            while not self.leases.take(key):
                if (run := self.leases.batch_of(key)) is not None:
                    self.collector.held[run] += len(planned.tasks)
                    self.collector.fail(planned, "provider", in_a_batch(run), 0)
                    return []
                await self.leases.pause()
                if (rest := self.collector.take(planned)) is not None:
                    return rest
            bought = False
            try:
                # Another run may have bought it between the first look and the lease.
                if self.collector.others_wrote() and (rest := self.collector.take(planned)) is not None:
                    return rest
                rest = await self._ask(planned)
                bought = rest is not None
                return rest or []
            finally:
                if not bought:
                    self.leases.give_back(key)
        finally:
            del self._asking[key]
            future.cancel()

    async def _ask(self, planned: WorkItem) -> list[WorkItem] | None:
        """Buy an answer; what is to be asked alone, or None when there is no answer."""
        if self.stop.asked.is_set():  # a cancellation that is under way is only felt where something is waited for
            raise asyncio.CancelledError
        key, name, in_flight = (
            planned.request.key,
            f"{planned.tasks[0].task_id} {planned.setting}",
            self._progress.in_flight,
        )

        def on_in_flight(now: bool) -> None:
            task = asyncio.current_task()
            if now and self.stop.asked.is_set():
                raise asyncio.CancelledError
            if now:
                self._sent[key] += 1
                in_flight[key] = (name, self.clock())
                self._on_wire.add(task)
                return
            in_flight.pop(key, None)
            self._on_wire.discard(task)
            if self.stop.asked.is_set() and task is not None:
                task.cancel()  # an answer that is there gets entered before this is felt; nothing more is sent

        attempts = 0
        filling = await self._wait_for_the_first(planned)
        try:
            trying = await self._wait_for_the_end_of_a_pause()
        except asyncio.CancelledError:
            if filling is not None:
                self._first_is_over(filling, answered=False)
            raise
        try:
            answer, wrong = self._invalid.pop(key, (None, None))
            if answer is None:
                answer = await self.engine.ask(planned.request, on_in_flight=on_in_flight)
            attempts = answer.attempts
            try:
                if wrong is not None:
                    raise wrong
                rest = self.collector.buy(planned, answer)
            except InvalidAnswerError as error:
                if error.kind not in _REPAIRABLE or self.job.decide == "logprob" or self.stop.asked.is_set():
                    raise
                repair = Repair(answer.content or "", error.reason)
                again = await self.engine.ask(planned.request, repair, on_in_flight=on_in_flight)
                attempts += again.attempts
                rest = self.collector.buy(planned, again.model_copy(update={"attempts": attempts}))
            self._sent.pop(key, None)
            self._ended("")
        except NoAnswerError as error:
            self._sent.pop(key, None)
            self.collector.fail(planned, error.kind, str(error), attempts + error.attempts)
            if error.kind != "provider" or error.attempts:  # a replay asks no provider: what it lacks is no sign of one
                how = error.kind if error.status is None else f"status {error.status}"
                self._ended(how, str(error), tried=trying)
            return None
        except InvalidAnswerError as error:
            self._sent.pop(key, None)
            self.collector.fail(planned, error.kind, error.reason, attempts)
            self._ended(error.kind, error.reason, tried=trying)
            return None
        finally:
            if filling is not None:
                self._first_is_over(filling, answered=attempts > 0)
            if trying:
                self._trying = False
                self._wake_the_paused()
        return rest

    async def _wait_for_the_end_of_a_pause(self) -> bool:
        """Wait while the run pauses; True for the one request that is to find out whether it can go on."""
        while self._paused is not None:
            if self._trying:
                await asyncio.wait({self._paused})
                continue
            self._trying = True
            try:
                await asyncio.sleep(PAUSE_S)
            except asyncio.CancelledError:
                self._trying = False
                raise
            return True
        return False

    def _wake_the_paused(self, *, over: bool = False) -> None:
        if self._paused is None:
            return
        before, self._paused = self._paused, None if over else asyncio.get_running_loop().create_future()
        before.set_result(None)

    async def _wait_for_the_first(self, planned: WorkItem) -> str | None:
        """Wait until another request with the same prefix was answered: then the provider has the prefix in its cache.

        Returns:
            The prefix, where this request is the first to be sent with it.
        """
        *fixed, _ = messages_of(planned.request.body)
        prefix = fixed[-1]["content"] if fixed else ""
        if len(prefix) < _SHORTEST_CACHED:
            return None
        while (first := self._first.get(prefix)) is not None:
            if first.done():
                return None
            _, late = await asyncio.wait({first}, timeout=FIRST_S)
            if late:
                return None
        self._first[prefix] = asyncio.get_running_loop().create_future()
        return prefix

    def _first_is_over(self, prefix: str, *, answered: bool) -> None:
        first = self._first[prefix]
        self._first_failed[prefix] += not answered
        if not answered and self._first_failed[prefix] < FIRST_TRIES:
            del self._first[prefix]
        first.set_result(None)

    def _ended(self, how: str, said: str = "", *, tried: bool = False) -> None:
        """Count how requests ended. Stop when the first ones all failed alike; pause when nearly all of the last ones did.

        Raises:
            _AlikeError: They did, and for the last ones: the request that was tried in the pause did too.
        """
        # A refusal is about a task, not about how the server is asked.
        if how in _ABOUT_THE_TASK:
            return
        advice = (
            "check --base-url and that the server runs"
            if how == "status 0"
            else "fix the cause and start the same run again"
        )
        # A run that had labels at an earlier start is past its first: what it lacks may be what always fails.
        if not self.has_earlier_labels and self._first_ends.total() < CIRCUIT_BREAKER_FAILURES:
            self._first_ends[how] += 1
            enough = min(CIRCUIT_BREAKER_FAILURES, self.job.size) if how == "status 0" else CIRCUIT_BREAKER_FAILURES
            if how and self._first_ends[how] == self._first_ends.total() == enough:
                raise CircuitOpenError(f"the first {enough} requests all failed alike: {said}; {advice}")
        if not how:
            self._last_ends.append(how)
            self._wake_the_paused(over=True)
            return
        if self.has_earlier_labels and not how.startswith(_OF_THE_SERVER):
            return
        if self._paused is not None:
            if tried and self._last_ends[-1] == how:
                raise CircuitOpenError(
                    f"nearly all of the last {LAST} requests failed alike, and so did one more after a pause: {said}; {advice}"
                )
            return
        self._last_ends.append(how)
        if self._last_ends.count(how) >= NEARLY_ALL:
            self._paused = asyncio.get_running_loop().create_future()

    def _left(self) -> Iterator[WorkItem]:
        """What nobody has pulled; what cannot even be asked is entered as missing."""
        for wanted in self._wanted:
            try:
                planned = self._planned(wanted)
            except RubricError:
                continue
            yield planned

    async def _name_the_rest(self, reason: str) -> None:
        """Take what the store still knows of what nobody has pulled, and name the rest; who is in a hurry need not wait for it."""
        self._progress.doing = "naming"
        known = self.collector.keys_unless_more(min(self.job.size - self._progress.done, _KEYS_HELD))
        leave_at = None
        for number, planned in enumerate(self._left()):
            if known is None or planned.request.key in known:
                self._give_up((planned,), reason)
            else:
                self.collector.fail(planned, "provider", reason, 0)
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
        """Take what the store still knows, and name the rest."""
        for planned in rest:
            try:
                singles = self.collector.take(planned)
            except RubricError as error:
                self.collector.fail(planned, "provider", str(error), 0)
                continue
            if singles is None:
                self.collector.fail(planned, "provider", reason, 0)
            self._give_up(singles or (), reason)


def _said(error: BaseException | None, otherwise: str = _NOT_ASKED) -> str:
    """Why a label is missing, in words; those of a fault of this program are not known to be fit for a file."""
    if error is None or isinstance(error, asyncio.CancelledError):
        return otherwise
    return str(error) if isinstance(error, RelabelError) else f"a fault in relabel itself ({type(error).__name__})"
