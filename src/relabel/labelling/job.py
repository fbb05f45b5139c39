"""A job: plan the labels, take what the store knows, ask an engine for the rest, and write the run folder."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from relabel import __version__
from relabel.errors import DataError, ProviderError, StoreError
from relabel.files import require_writable, writing
from relabel.label import Answer, Failure, InvalidAnswerError, Label
from relabel.labelling.engines.engine import Engine, Flies, NoAnswerError, Repair
from relabel.labelling.leases import LEASE_S, Leases
from relabel.labelling.ledger import Ledger
from relabel.labelling.pricing import Price
from relabel.labelling.progress import Progress
from relabel.labelling.prompt import Prompt
from relabel.labelling.request import Decide, Endpoint, Planned, Planner, canonical_json, public_url
from relabel.labelling.store import Store
from relabel.labelling.wire import FORMS
from relabel.manifest import Counts, Manifest, Session, SourceUse, Tokens
from relabel.rubric import Rubric
from relabel.run import read_manifest, write_manifest, write_run
from relabel.task import Task

DRAIN_S = 30.0
"""Seconds that an interrupted job waits for the answers in flight: they are paid for."""
ALIKE = 10
"""When so many first requests of a run all fail the same way, the rest would too."""
LOOK_AGAIN_S = 0.5
"""Pause between looks at an answer that another process is waiting for."""
_NO_SUCH_FORM = {400, 415, 422, 501}
_REPAIRABLE = {"invalid-json", "schema"}
_ABOUT_THE_TASK = {"budget", "refusal", "content-filter"}
LONGEST_HOLD_S = 0.02
"""Seconds that answers from the store may keep everything else waiting."""
_FATAL = (ProviderError, StoreError)
"""What ends a run: nothing more is sent, what is in flight is awaited, and the run folder says what is missing."""


@dataclass(frozen=True)
class Job:
    """What is to be labelled, and how.

    Attributes:
        tasks_ref: The task list as the user named it.
        sources: The files that the tasks come from.
        settings: Settings of the rubric to ask.
        samples: Times that each question is asked.
        examples: Whether worked examples are shown.
        decide: `json`, or `logprob` for an answer of one token.
        calibrate: Whether labels decided by log probability are calibrated over the run.
        pack: Tasks in one request.
        probe: Whether to find out how the server can be held to the answer's shape; else the endpoint's form stands.
        model: The model as the user named it.
        base_url: The server's address without credentials; None for OpenAI's own.
        parameters: Options that shape the run, for the manifest.
    """

    tasks: Sequence[Task]
    tasks_ref: str
    sources: tuple[SourceUse, ...]
    rubric: Rubric
    prompt: Prompt
    settings: tuple[str, ...]
    endpoint: Endpoint
    model: str
    base_url: str | None
    price: Price | None
    samples: int = 1
    examples: bool = True
    decide: Decide = "json"
    calibrate: bool = True
    pack: int = 1
    probe: bool = False
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def size(self) -> int:
        """Labels wanted."""
        return len(self.tasks) * len(self.settings) * self.samples

    @property
    def all_parameters(self) -> dict[str, Any]:
        """Options that shape the run, with those that every job has."""
        own = {"samples": self.samples, "examples": self.examples, "pack": self.pack, "decide": self.decide}
        if self.decide == "logprob":
            own["calibrate"] = self.calibrate
        return {**self.parameters, **own, "params": dict(self.endpoint.params)}

    @cached_property
    def planner(self) -> Planner:
        """Makes the requests."""
        return Planner(self.rubric, self.prompt, self.endpoint, examples=self.examples, decide=self.decide)

    def plan(self) -> Iterator[Planned]:
        """Yield every wanted label with its request."""
        return self.planner.plan(self.tasks, settings=self.settings, samples=self.samples, pack=self.pack)

    def alone(self, task: Task, setting: str, sample: int) -> Planned:
        """The plan entry that asks about one task by itself."""
        return Planned((task,), setting, sample, self.planner.request((task,), setting, sample))


@dataclass
class Outcome:
    """What a job came to."""

    labels: list[Label]
    failures: list[Failure]
    interrupted: bool
    manifest: Manifest

    @property
    def complete(self) -> bool:
        """Whether every wanted label is there."""
        return self.manifest.status == "complete"


class Stop:
    """Tells a job to stop: once to send no more and wait for what is in flight, twice to leave at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()

    def __call__(self) -> None:
        """Ask to stop; a second call means at once."""
        (self.at_once if self.asked.is_set() else self.asked).set()


async def run_job(
    job: Job,
    engine: Engine,
    store: Store,
    out: Path,
    *,
    concurrency: int,
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
        progress: Counted up as the job goes on.
        stop: Called to stop the job early.
        clock: Seconds on a clock that never runs back.
        now: The time of day.

    Raises:
        ProviderError: The provider refused for good; what had come in is stored, and the run folder says what is missing.
        DataError: The run folder holds another run or cannot be written.
        StoreError: The store failed.
    """
    require_writable(out)
    with writing(out):
        return await _run_job(job, engine, store, out, concurrency, progress, stop or Stop(), clock, now)


async def _run_job(
    job: Job,
    engine: Engine,
    store: Store,
    out: Path,
    concurrency: int,
    progress: Progress | None,
    stop: Stop,
    clock: Callable[[], float],
    now: Callable[[], datetime],
) -> Outcome:
    progress = progress or Progress(asked=job.size)
    bought: set[str] = set()
    invalid: dict[str, tuple[Answer, InvalidAnswerError]] = {}
    if job.probe:
        job = await _settle_unless_stopped(job, engine, store, progress, bought, invalid, stop)
    out_is_free(out, job)
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
        calibrate=job.calibrate,
    )
    ledger.bought_before_the_plan = bought
    leases = Leases(store.folder)
    try:
        worker = _Worker(job, engine, ledger, leases, stop, clock, invalid)
        worker.seasoned = _labels_there(out) > 0
        fatal = await worker.work(concurrency)
    finally:
        leases.close()
    ledger.close(job.samples)
    manifest = manifest.model_copy(update={"history": engine.history()})
    outcome = finish(job, out, manifest, ledger, interrupted=worker.interrupted, fatal=fatal, now=now)
    if fatal is not None:
        raise fatal
    return outcome


def finish(
    job: Job,
    out: Path,
    manifest: Manifest,
    ledger: Ledger,
    *,
    interrupted: bool,
    fatal: ProviderError | StoreError | None,
    now: Callable[[], datetime],
) -> Outcome:
    """Write a job's run folder, unless it already holds more.

    Raises:
        DataError: The folder holds more labels of this run than this attempt found, or cannot be written.
    """
    progress, labels = ledger.progress, ledger.labels
    complete = fatal is None and len(labels) == job.size
    ended = manifest.model_copy(
        update={
            "status": "complete" if complete else "interrupted" if interrupted else "incomplete",
            "models_returned": tuple(sorted({x.model_returned for x in labels if x.model_returned})),
            "counts": Counts(
                asked=job.size, from_store=progress.from_store, fresh=progress.fresh, failed=len(ledger.failures)
            ),
            "tokens": Tokens(
                prompt=progress.prompt_tokens, cached=progress.cached_tokens, completion=progress.completion_tokens
            ),
            "cost_usd": progress.cost_usd,
            "priors": ledger.priors or None,
            "ended_at": now().isoformat(timespec="seconds"),
        }
    )
    earlier = read_manifest(out).sessions if (out / "manifest.json").exists() else ()
    session = Session(
        started_at=ended.started_at or "",
        ended_at=ended.ended_at or "",
        status=ended.status,
        counts=ended.counts,
        tokens=ended.tokens,
        cost_usd=ended.cost_usd,
    )
    ended = ended.model_copy(update={"sessions": (*earlier, session)})
    there = _labels_there(out)
    if there <= len(labels):
        write_run(out, ended, labels, ledger.failures)
    elif fatal is None:
        raise DataError(
            f"{out} already holds {there} labels of this run and this attempt found {len(labels)}, so the folder is left "
            "as it is; use the store that the run was made with, or give another --out"
        )
    return Outcome(labels, ledger.failures, interrupted, ended)


def _form_note(endpoint: Endpoint) -> str:
    return f"form/{endpoint.api}/{endpoint.host}/{endpoint.model}"


def with_known_form(job: Job, store: Store) -> Job:
    """The job with the form that its server is known to take: by a note, or by an answer to the first question.

    Where only asking can tell, it still wants its probe.
    """
    if not job.probe:
        return job
    noted = store.note(_form_note(job.endpoint))
    for form in FORMS if noted is None else (noted,):
        candidate = replace(job, endpoint=job.endpoint.model_copy(update={"form": form}), probe=False)
        first = next(candidate.plan(), None)
        if noted is not None or (first is not None and store.get(first.request.key) is not None):
            return candidate
    return job


async def _settle_unless_stopped(
    job: Job,
    engine: Engine,
    store: Store,
    progress: Progress,
    bought: set[str],
    invalid: dict[str, tuple[Answer, InvalidAnswerError]],
    stop: Stop,
) -> Job:
    """`settle_form`, which leaves when the job is stopped: at once, or when what is on the wire has come back."""
    on_wire = False

    def flies(now: bool) -> None:
        nonlocal on_wire
        on_wire = now
        if stop.asked.is_set() and not now:
            settling.cancel()

    leases = Leases(store.folder)
    settling = asyncio.create_task(settle_form(job, engine, store, progress, bought, invalid, leases, flies))
    stopping = asyncio.create_task(stop.asked.wait())
    leaving = asyncio.create_task(stop.at_once.wait())
    try:
        while not settling.done() and not stopping.done():
            await asyncio.wait({settling, stopping}, timeout=LEASE_S / 3, return_when=asyncio.FIRST_COMPLETED)
            leases.renew()
        if on_wire:
            await asyncio.wait({settling, leaving}, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        if not settling.done():
            settling.cancel()
            await asyncio.wait({settling})
        return replace(job, probe=False) if settling.cancelled() else settling.result()
    finally:
        for task in (settling, stopping, leaving):
            task.cancel()
        await asyncio.wait({settling, stopping, leaving})
        leases.close()


async def settle_form(
    job: Job,
    engine: Engine,
    store: Store,
    progress: Progress,
    bought: set[str],
    invalid: dict[str, tuple[Answer, InvalidAnswerError]],
    leases: Leases,
    flies: Flies,
) -> Job:
    """Find out how the server can be held to the answer's shape: by one real question, whose answer is kept.

    What was found is remembered in the store, because requests are hashed with it: a rerun must not ask again.

    Args:
        job: The job; its endpoint has the strictest form.
        engine: Asks.
        store: Remembers.
        progress: Counted up by what the question cost.
        bought: Gets the key of the question, when its answer was bought here.
        invalid: Gets the answer and what is wrong with it, when it is no label: the question is not asked anew.
        leases: Keeps two processes from finding out the same.
        flies: See `Engine.ask`.

    Returns:
        The job with the form that the server takes.
    """
    name = _form_note(job.endpoint)
    while not leases.take(name):  # noqa: ASYNC110  another process has it: no event reaches this one
        await asyncio.sleep(LOOK_AGAIN_S)
    try:
        if not (known := with_known_form(job, store)).probe:
            return known
        for form in FORMS:
            candidate = replace(job, endpoint=job.endpoint.model_copy(update={"form": form}), probe=False)
            first = next(candidate.plan())
            try:
                answer = await engine.ask(first.request, flies=flies)
            except NoAnswerError as error:
                if error.status in _NO_SUCH_FORM:
                    continue
                break
            store.put_note(name, form)
            ledger = Ledger(
                job.rubric, store, Progress(asked=1), api=job.endpoint.api, decide=job.decide, alone=candidate.alone
            )
            progress.bought(answer)
            try:
                ledger.buy(first, answer)
                bought.add(first.request.key)
            except InvalidAnswerError as error:
                invalid[first.request.key] = answer, error
            return candidate
        return replace(job, probe=False)  # the fault lies elsewhere, and the run will meet it
    finally:
        leases.give_back(name)


def out_is_free(out: Path, job: Job) -> None:
    """Make sure that a run folder is new, or holds the same run.

    Raises:
        DataError: It holds another run, or cannot be written.
        UsageError: It is a file.
    """
    require_writable(out)
    if not (out / "manifest.json").exists():
        return
    there, new = read_manifest(out), manifest_of(job, "", datetime.now(UTC))
    if (
        there.counts.from_store + there.counts.fresh == 0
    ):  # it holds nothing, and its server's form may have been a guess
        there = there.model_copy(update={"schema_sha256": new.schema_sha256})
    for name, before, after in _differences(there, new):
        if before != after:
            shown = "" if name.endswith("sha256") else f": {before!r} there, {after!r} now"
            raise DataError(
                f"{out} holds another run ({name.replace('_sha256', '')} differs{shown}); give another folder to --out"
            )


def _differences(there: Manifest, new: Manifest) -> Iterator[tuple[str, Any, Any]]:
    for name in ("model", "base_url", "tasks", "settings", "rubric_sha256", "prompt_sha256", "schema_sha256"):
        yield name, getattr(there, name), getattr(new, name)
    for name in sorted({*there.parameters, *new.parameters}):
        yield name, there.parameters.get(name), new.parameters.get(name)
    before, after = ({(s.source, s.file): s.sha256 for s in m.sources} for m in (there, new))
    for source in sorted({*before, *after}):
        yield f"{source[1]} sha256", before.get(source), after.get(source)


def _labels_there(out: Path) -> int:
    if not (out / "labels.parquet").exists():
        return 0
    counts = read_manifest(out).counts
    return counts.from_store + counts.fresh


class _AlikeError(ProviderError):
    """The first requests all failed alike. The one that shows it is entered already."""


class _Worker:
    """The state of a running job: workers pull from one plan, so that no more than their number is ever unfolded."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        ledger: Ledger,
        leases: Leases,
        stop: Stop,
        clock: Callable[[], float],
        invalid: dict[str, tuple[Answer, InvalidAnswerError]],
    ) -> None:
        self.job, self.engine, self.ledger, self.leases, self.stop, self.clock = (
            job,
            engine,
            ledger,
            leases,
            stop,
            clock,
        )
        self.interrupted = False
        self.seasoned = False
        self._progress = ledger.progress
        self._plan = job.plan()
        self._asking: dict[str, asyncio.Future[None]] = {}
        self._first_sent: float | None = None
        self._first_ends: Counter[str] = Counter()
        self._last_rest = time.perf_counter()
        self._invalid = invalid
        self._fatal: ProviderError | StoreError | None = None
        self._on_wire: set[asyncio.Task[Any] | None] = set()

    async def work(self, concurrency: int) -> ProviderError | StoreError | None:
        workers = [asyncio.create_task(self._pull()) for _ in range(min(concurrency, max(1, self.job.size)))]
        stopping = asyncio.create_task(self.stop.asked.wait())
        renewing = asyncio.create_task(self._renew())
        pending: set[asyncio.Task[Any]] = set(workers)
        try:
            while pending and not self.stop.asked.is_set():
                done, rest = await asyncio.wait({*pending, stopping}, return_when=asyncio.FIRST_COMPLETED)
                pending = {task for task in rest if task is not stopping}
                for task in done - {stopping}:
                    error = None if task.cancelled() else task.exception()
                    if error is not None and error is not self._fatal and not isinstance(error, _FATAL):
                        raise error
            self.interrupted = self._fatal is None and self.stop.asked.is_set()
            if pending:
                await self._drain(pending)
            for task in workers:
                error = task.exception() if task.done() and not task.cancelled() else None
                if error is not None and not isinstance(error, _FATAL):
                    raise error
        finally:
            for task in (stopping, renewing, *workers):
                task.cancel()
            await asyncio.wait({stopping, renewing, *workers})
        if self.stop.asked.is_set():
            with suppress(StoreError):  # it has been said already
                self._give_up(self._plan, str(self._fatal or "the run was stopped before this was asked"))
        return self._fatal

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

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with suppress(StoreError):  # the next time may be in time still
                self.leases.renew()

    async def _pull(self) -> None:
        while not self.stop.asked.is_set():
            planned = next(self._plan, None)
            if planned is None:
                return
            try:
                await self._one(planned)
            except _FATAL as error:  # nobody sends another request, from this moment on
                self._fatal = self._fatal or error
                self.stop.asked.set()
                raise
            if time.perf_counter() - self._last_rest > LONGEST_HOLD_S:
                await asyncio.sleep(0)  # store hits never wait: let the display and Ctrl-C have their turn
                self._last_rest = time.perf_counter()

    async def _one(self, planned: Planned) -> None:
        try:
            rest = self.ledger.take(planned)
            if rest is None:
                rest = await self._once(planned)
        except _AlikeError:
            raise
        except (asyncio.CancelledError, *_FATAL) as error:
            self.ledger.fail(planned, "provider", str(error) or "the run was stopped while this was in flight", 0)
            raise
        for number, single in enumerate(rest):
            try:
                await self._one(single)
            except (asyncio.CancelledError, *_FATAL) as error:
                self._give_up(rest[number + 1 :], str(error) or "the run was stopped before this was asked")
                raise

    async def _once(self, planned: Planned) -> list[Planned]:
        """Buy an answer that nobody has bought and nobody is buying."""
        key = planned.request.key
        while key in self._asking:  # the same question twice in one plan is one answer
            await asyncio.wait({self._asking[key]})
            if (rest := self.ledger.take(planned)) is not None:
                return rest
        future = self._asking[key] = asyncio.get_running_loop().create_future()
        try:
            while not self.leases.take(key):
                await asyncio.sleep(LOOK_AGAIN_S)
                if (rest := self.ledger.take(planned)) is not None:
                    return rest
            bought = False
            try:
                # Another run may have bought it between the first look and the lease.
                if self.ledger.others_wrote() and (rest := self.ledger.take(planned)) is not None:
                    return rest
                rest = await self._ask(planned)
                bought = rest is not None
                return rest or []
            finally:
                (self.leases.keep if bought else self.leases.give_back)(key)
        finally:
            del self._asking[key]
            future.cancel()

    async def _ask(self, planned: Planned) -> list[Planned] | None:
        """Buy an answer; what is to be asked alone, or None when there is no answer."""
        if self.stop.asked.is_set():  # a cancellation that is under way is only felt where something is waited for
            raise asyncio.CancelledError
        if self._first_sent is None:
            self._first_sent = self.clock()
        key, name, flying = planned.request.key, f"{planned.tasks[0].task_id} {planned.setting}", self._progress.flying

        def flies(now: bool) -> None:
            task = asyncio.current_task()
            if now:
                flying[key] = (name, self.clock())
                self._on_wire.add(task)
                return
            flying.pop(key, None)
            self._on_wire.discard(task)
            if self.stop.asked.is_set() and task is not None:
                task.cancel()  # an answer that is there gets entered before this is felt; nothing more is sent

        attempts = 0
        try:
            answer, wrong = self._invalid.pop(key, (None, None))
            if answer is None:
                answer = await self.engine.ask(planned.request, flies=flies)
            attempts = answer.attempts
            try:
                if wrong is not None:
                    raise wrong
                rest = self.ledger.buy(planned, answer)
            except InvalidAnswerError as error:
                if error.kind not in _REPAIRABLE or self.job.decide == "logprob" or self.stop.asked.is_set():
                    raise
                repair = Repair(answer.content or "", error.reason)
                again = await self.engine.ask(planned.request, repair, flies=flies)
                attempts += again.attempts
                rest = self.ledger.buy(planned, again.model_copy(update={"attempts": attempts}))
            self._ended("")
        except NoAnswerError as error:
            self.ledger.fail(planned, error.kind, str(error), attempts + error.attempts)
            self._ended(error.kind if error.status is None else f"status {error.status}", str(error))
            return None
        except InvalidAnswerError as error:
            self.ledger.fail(planned, error.kind, error.reason, attempts)
            self._ended(error.kind, error.reason)
            return None
        finally:
            self._progress.fresh_seconds = self.clock() - self._first_sent
        return rest

    def _ended(self, how: str, said: str = "") -> None:
        """Count how the first requests ended, and stop when all of them failed alike."""
        # A run that had labels at an earlier start is past that: what it lacks may be what always fails. And a refusal
        # is about a task, not about how the server is asked.
        if self.seasoned or self._first_ends.total() >= ALIKE or how in _ABOUT_THE_TASK:
            return
        self._first_ends[how] += 1
        enough = min(ALIKE, self.job.size) if how == "status 0" else ALIKE
        if how and self._first_ends[how] == self._first_ends.total() == enough:
            advice = (
                "check --base-url and that the server runs"
                if how == "status 0"
                else "mend that and start the same run again"
            )
            raise _AlikeError(f"the first {enough} requests all failed alike: {said}; {advice}")

    def _give_up(self, rest: Iterable[Planned], reason: str) -> None:
        """Take what the store still knows, and name the rest."""
        for planned in rest:
            singles = self.ledger.take(planned)
            if singles is None:
                self.ledger.fail(planned, "provider", reason, 0)
            self._give_up(singles or (), reason)


def manifest_of(job: Job, engine: str, started: datetime) -> Manifest:
    """What a run folder says of a job that begins."""
    return Manifest(
        status="running",
        package_version=__version__,
        git_commit=_git_commit(),
        model=job.model,
        base_url=public_url(job.base_url) if job.base_url else None,
        engine=engine,
        rubric=job.rubric,
        rubric_sha256=job.rubric.sha256,
        prompt_sha256=job.prompt.sha256,
        schema_sha256=hashlib.sha256(canonical_json(job.planner.shape)).hexdigest(),
        response_form=job.endpoint.form if job.decide == "json" else "text",
        api=job.endpoint.api,
        sources=job.sources,
        tasks=job.tasks_ref,
        settings=job.settings,
        parameters=job.all_parameters,
        counts=Counts(asked=job.size),
        price=job.price.manifest_entry() if job.price else None,
        started_at=started.isoformat(timespec="seconds"),
    )


def _git_commit() -> str | None:
    """The commit of the checkout that this package runs from; None when it is installed."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return done.stdout.strip() or None if done.returncode == 0 else None
