"""A job: plan the labels, take what the store knows, ask an engine for the rest, and write the run folder."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from relabel import __version__
from relabel.errors import DataError, ProviderError
from relabel.label import Answer, Failure, FailureKind, InvalidAnswerError, Label, read_answer
from relabel.labelling.engines.engine import Engine, NoAnswerError
from relabel.labelling.pricing import Price
from relabel.labelling.progress import Progress
from relabel.labelling.prompt import Prompt
from relabel.labelling.request import Endpoint, Planned, canonical_json, plan, public_url, response_format
from relabel.labelling.store import Store
from relabel.rubric import Rubric
from relabel.run import Counts, Manifest, SourceUse, Tokens, read_manifest, require_writable, write_manifest, write_run
from relabel.task import Task

DRAIN_S = 30.0
"""Seconds that an interrupted job waits for the answers in flight: they are paid for."""
ALIKE = 10
"""A server that cannot be reached for this many requests, and for all so far, is down."""


@dataclass(frozen=True)
class Job:
    """What is to be labelled, and how.

    Attributes:
        tasks_ref: The task list as the user named it.
        sources: The files that the tasks come from.
        settings: Settings of the rubric to ask.
        samples: Times that each question is asked.
        examples: Whether worked examples are shown.
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
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def size(self) -> int:
        """Labels wanted."""
        return len(self.tasks) * len(self.settings) * self.samples

    def plan(self) -> Iterator[Planned]:
        """Yield every wanted label with its request."""
        return plan(
            self.tasks,
            self.rubric,
            self.prompt,
            self.endpoint,
            settings=self.settings,
            samples=self.samples,
            examples=self.examples,
        )


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
    out_is_free(out, job)
    progress = progress or Progress(asked=job.size)
    started = now()
    manifest = _manifest(job, engine.name, started)
    if not (out / "manifest.json").exists():
        write_manifest(out, manifest)
    worker = _Worker(job, engine, store, progress, stop or Stop(), clock)
    fatal = await worker.work(concurrency)
    ended = manifest.model_copy(
        update={
            "status": worker.status(fatal),
            "models_returned": tuple(sorted({x.model_returned for x in worker.labels if x.model_returned})),
            "counts": Counts(
                asked=job.size, from_store=progress.from_store, fresh=progress.fresh, failed=len(worker.failures)
            ),
            "tokens": Tokens(
                prompt=progress.prompt_tokens, cached=progress.cached_tokens, completion=progress.completion_tokens
            ),
            "cost_usd": progress.cost_usd,
            "ended_at": now().isoformat(timespec="seconds"),
        }
    )
    fuller = _labels_there(out)
    if fuller <= len(worker.labels):
        write_run(out, ended, worker.labels, worker.failures)
    if fatal is not None:
        raise fatal
    if fuller > len(worker.labels):
        raise DataError(
            f"{out} already holds {fuller} labels of this run and this attempt found {len(worker.labels)}, so the folder is left "
            "as it is; use the store that the run was made with, or give another --out"
        )
    return Outcome(worker.labels, worker.failures, worker.interrupted, ended)


def out_is_free(out: Path, job: Job) -> None:
    """Make sure that a run folder is new, or holds the same run.

    Raises:
        DataError: It holds another run, or cannot be written.
        UsageError: It is a file.
    """
    require_writable(out)
    if not (out / "manifest.json").exists():
        return
    there, new = read_manifest(out), _manifest(job, "", datetime.now(UTC))
    for name in (
        "model",
        "tasks",
        "rubric_sha256",
        "prompt_sha256",
        "schema_sha256",
        "settings",
        "parameters",
        "base_url",
    ):
        before, after = getattr(there, name), getattr(new, name)
        if before != after:
            shown = "" if name.endswith("sha256") else f": {before!r} there, {after!r} now"
            raise DataError(
                f"{out} holds another run ({name.replace('_sha256', '')} differs{shown}); give another folder to --out"
            )


def _labels_there(out: Path) -> int:
    if not (out / "labels.parquet").exists():
        return 0
    counts = read_manifest(out).counts
    return counts.from_store + counts.fresh


class _Worker:
    """The state of a running job: workers pull from one plan, so that no more than `concurrency` requests exist."""

    def __init__(
        self, job: Job, engine: Engine, store: Store, progress: Progress, stop: Stop, clock: Callable[[], float]
    ) -> None:
        self.job, self.engine, self.store, self.progress, self.stop, self.clock = (
            job,
            engine,
            store,
            progress,
            stop,
            clock,
        )
        self.labels: list[Label] = []
        self.failures: list[Failure] = []
        self.interrupted = False
        self._plan = job.plan()
        self._asking: dict[str, asyncio.Future[Answer]] = {}
        self._first_sent: float | None = None
        self._reached = False
        self._unreachable = 0

    def status(self, fatal: ProviderError | None) -> str:
        if self.interrupted:
            return "interrupted"
        return "complete" if fatal is None and len(self.labels) == self.job.size else "incomplete"

    async def work(self, concurrency: int) -> ProviderError | None:
        workers = [asyncio.create_task(self._pull()) for _ in range(concurrency)]
        stopping = asyncio.create_task(self.stop.asked.wait())
        fatal: ProviderError | None = None
        pending: set[asyncio.Task[Any]] = set(workers)
        try:
            while pending and not self.stop.asked.is_set():
                done, rest = await asyncio.wait({*pending, stopping}, return_when=asyncio.FIRST_COMPLETED)
                pending = {task for task in rest if task is not stopping}
                for task in done - {stopping}:
                    error = task.exception()
                    if isinstance(error, ProviderError):
                        fatal = fatal or error
                        self.stop.asked.set()
                    elif error is not None:
                        raise error
            if pending:
                await self._drain(pending)
            for task in workers:
                error = task.exception() if task.done() and not task.cancelled() else None
                if error is not None and not isinstance(error, ProviderError):
                    raise error
            self.interrupted = fatal is None and self.stop.asked.is_set()
        finally:
            for task in (stopping, *workers):
                task.cancel()
            await asyncio.wait({stopping, *workers})
        if self.stop.asked.is_set():
            self._give_up_rest(str(fatal) if fatal else "the run was stopped before this was asked")
        return fatal

    async def _drain(self, pending: set[asyncio.Task[Any]]) -> None:
        leave = asyncio.create_task(self.stop.at_once.wait())
        landed = asyncio.create_task(asyncio.wait(pending))
        await asyncio.wait({leave, landed}, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        for task in (leave, landed, *pending):
            task.cancel()
        await asyncio.wait({leave, landed, *pending})

    async def _pull(self) -> None:
        while not self.stop.asked.is_set():
            planned = next(self._plan, None)
            if planned is None:
                return
            try:
                await self._one(planned)
            except (asyncio.CancelledError, ProviderError) as error:
                self._fail(planned, "provider", str(error) or "the run was stopped while this was in flight", 0)
                raise
            if self.progress.done % 64 == 0:
                await asyncio.sleep(0)  # store hits never wait: let the display and Ctrl-C have their turn

    async def _one(self, planned: Planned) -> None:
        request = planned.request
        known = self.store.get(request.key)
        if known is not None and self._accept(planned, known, from_store=True):
            return
        if request.key in self._asking:  # the same question twice in one plan is one answer
            await asyncio.wait({self._asking[request.key]})
            known = self.store.get(request.key)
            if known is not None and self._accept(planned, known, from_store=True):
                return
        future = self._asking[request.key] = asyncio.get_running_loop().create_future()
        try:
            await self._ask(planned)
        finally:
            del self._asking[request.key]
            future.cancel()

    async def _ask(self, planned: Planned) -> None:
        if self._first_sent is None:
            self._first_sent = self.clock()
        self.progress.in_flight += 1
        try:
            answer = await self.engine.ask(planned.request)
        except NoAnswerError as error:
            self._unreachable += error.unreachable
            if error.unreachable and not self._reached and self._unreachable >= min(ALIKE, self.job.size):
                raise ProviderError(
                    f"{error}, {self._unreachable} requests in a row; check --base-url and that the server runs"
                ) from error
            self._fail(planned, error.kind, str(error), error.attempts)
            return
        finally:
            self.progress.in_flight -= 1
            self.progress.fresh_seconds = self.clock() - self._first_sent
        self._reached = True
        self.progress.bought(answer)
        self._accept(planned, answer, from_store=False)

    def _accept(self, planned: Planned, answer: Answer, *, from_store: bool) -> bool:
        """Make a label of an answer; False when one from the store does not pass and must be asked for."""
        try:
            said = read_answer(answer, self.job.rubric)
        except InvalidAnswerError as error:
            if from_store:
                return False
            self.store.put_rejected(planned.request, answer, error.kind, error.reason)
            self._fail(planned, error.kind, error.reason, answer.attempts)
            return True
        if from_store:
            self.progress.from_store += 1
        else:
            self.store.put(planned.request, answer)
            self.progress.fresh += 1
        self.labels.append(_label(planned, answer, said.label, said.rationale, from_store=from_store))
        return True

    def _fail(self, planned: Planned, kind: FailureKind, message: str, attempts: int) -> None:
        self.progress.failed[kind] += 1
        self.failures.append(
            Failure(
                task_id=planned.task.task_id,
                onet_soc_code=planned.task.onet_soc_code,
                setting=planned.setting,
                sample=planned.sample,
                kind=kind,
                message=message,
                attempts=attempts,
                request_key=planned.request.key,
            )
        )

    def _give_up_rest(self, reason: str) -> None:
        """Take what the store still knows, and name the rest."""
        for planned in self._plan:
            known = self.store.get(planned.request.key)
            if known is None or not self._accept(planned, known, from_store=True):
                self._fail(planned, "provider", reason, 0)


def _label(planned: Planned, answer: Answer, label: str, rationale: str, *, from_store: bool) -> Label:
    return Label(
        task_id=planned.task.task_id,
        onet_soc_code=planned.task.onet_soc_code,
        setting=planned.setting,
        sample=planned.sample,
        label=label,
        rationale=rationale,
        probability=None,
        request_key=answer.request_key,
        model_returned=answer.model_returned,
        finish_reason=answer.finish_reason,
        attempts=answer.attempts,
        prompt_tokens=answer.usage.prompt,
        cached_tokens=answer.usage.cached,
        completion_tokens=answer.usage.completion,
        cost_usd=answer.cost_usd,
        latency_s=answer.latency_s,
        created_at=answer.created_at,
        from_store=from_store,
    )


def _manifest(job: Job, engine: str, started: datetime) -> Manifest:
    form = response_format(job.rubric, job.endpoint.rationale_chars)
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
        schema_sha256=hashlib.sha256(canonical_json(form)).hexdigest(),
        sources=job.sources,
        tasks=job.tasks_ref,
        settings=job.settings,
        parameters={
            **job.parameters,
            "samples": job.samples,
            "examples": job.examples,
            "params": dict(job.endpoint.params),
        },
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
