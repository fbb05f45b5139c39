"""Running a job: find out the response format, plan, take what the store has, ask for the rest, and write the run folder."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from relabel import __version__
from relabel.errors import DataError, RelabelError
from relabel.files import require_writable, writing
from relabel.label import Answer, Failure, FailureKind, InvalidAnswerError, Label
from relabel.labelling.collector import LabelCollector
from relabel.labelling.engine import Engine, OnInFlight
from relabel.labelling.job import Job, Stop, differences
from relabel.labelling.leases import Leases
from relabel.labelling.pricing import Budget
from relabel.labelling.progress import Progress
from relabel.labelling.refusals import NoAnswerError
from relabel.labelling.request import Endpoint, WorkItem, canonical_json
from relabel.labelling.store import Store
from relabel.labelling.wire import FORMS
from relabel.labelling.workers import DRAIN_S, WorkerPool
from relabel.redaction import public_url
from relabel.run import Counts, Manifest, PerhapsCharged, Session, read_manifest, write_manifest, write_run


async def run_job(
    job: Job,
    engine: Engine,
    store: Store,
    out: Path,
    *,
    concurrency: int,
    budget: Budget | None = None,
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
        budget: The engine's, which knows what may have been charged without an answer.
        progress: Counted up as the job goes on.
        stop: Called to stop the job early.
        clock: Seconds on a clock that never runs back.
        now: The time of day.

    Raises:
        ProviderError: The provider refused for good; what had come in is stored, and the run folder says what is missing.
        DataError: The run folder holds another run or cannot be written.
        StoreError: The store failed.
        RubricError: The prompt fails for a task. Then, too, what was on the wire is stored and the run folder written.
    """
    require_writable(out)
    with writing(out):
        return await _run_job(job, engine, store, out, concurrency, budget, progress, stop or Stop(), clock, now)


async def _run_job(
    job: Job,
    engine: Engine,
    store: Store,
    out: Path,
    concurrency: int,
    budget: Budget | None,
    progress: Progress | None,
    stop: Stop,
    clock: Callable[[], float],
    now: Callable[[], datetime],
) -> Outcome:
    progress = progress or Progress(asked=job.size)
    bought: set[str] = set()
    invalid: dict[str, tuple[Answer, InvalidAnswerError]] = {}
    refused: RelabelError | None = None
    if job.probe:
        try:
            job = await settle_unless_stopped(job, engine, store, progress, bought, invalid, stop)
        except (
            RelabelError
        ) as error:  # what ends a run at its first question leaves the folder that a later one would leave
            refused, job = error, replace(job, probe=False)
    try:
        out_is_free(out, job)
    except DataError:
        if refused is None:
            raise
        raise refused from None  # in which form the server is asked is not known, and the folder may be this run's
    started = now()
    manifest = manifest_of(job, engine.name, started)
    if not (out / "manifest.json").exists():
        write_manifest(out, manifest)
    collector = LabelCollector(
        job.rubric,
        store,
        progress,
        api=job.endpoint.api,
        decide=job.decide,
        alone=job.alone,
        logprobs="logprobs" in job.endpoint.params,
        is_duplicate=job.is_duplicate_question,
    )
    collector.bought_before_the_plan = bought
    leases = Leases(store.folder)
    try:
        worker = WorkerPool(job, engine, collector, leases, stop, clock, invalid)
        worker.has_earlier_labels = labels_there(out) > 0
        if refused is not None:
            worker.end(refused)
        fatal = await worker.work(concurrency)
    finally:
        leases.close()
    collector.close(job.samples, len(job.orders) or 1)
    manifest = manifest.model_copy(update={"history": engine.history()})
    unconfirmed = NOTHING_UNSURE if budget is None else budget.perhaps_charged
    progress.doing = "writing"
    # Beside the loop, so that a display moves on: a million labels take a while.
    outcome = await asyncio.to_thread(
        finish,
        job,
        out,
        manifest,
        collector,
        interrupted=worker.interrupted,
        fatal=fatal,
        perhaps_charged=unconfirmed,
        now=now,
    )
    if fatal is not None:
        raise fatal
    return outcome


_NO_SUCH_FORM = {400, 415, 422, 501}
_WITNESSES = 3
"""Questions of different tasks that are put in one form before it is given up, where the server does not speak of the form."""


def form_note(endpoint: Endpoint) -> str:
    """Where the form is noted: for this day, as providers learn and models change."""
    return f"form/{endpoint.api}/{endpoint.host}/{endpoint.model}@{datetime.now(UTC):%Y-%m-%d}"


def with_known_form(job: Job, store: Store) -> Job:
    """The job with the form that its server is known to take: by a note, or by an answer to the first question.

    Where only asking can tell, it still wants its probe.
    """
    if not job.probe:
        return job
    noted = store.note(form_note(job.endpoint))
    for form in FORMS if noted is None else (noted,):
        candidate = replace(job, endpoint=job.endpoint.model_copy(update={"form": form}), probe=False)
        first = next(candidate.plan(), None)
        if noted is not None or (first is not None and store.get(first.request.key) is not None):
            return candidate
    return job


async def settle_unless_stopped(
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

    def on_in_flight(now: bool) -> None:
        nonlocal on_wire
        on_wire = now
        if now:
            progress.in_flight[""] = ("the first question", time.monotonic())
        else:
            progress.in_flight.pop("", None)
        if stop.asked.is_set() and not now:
            settling.cancel()

    leases = Leases(store.folder)
    settling = asyncio.create_task(
        probe_response_format(job, engine, store, progress, bought, invalid, leases, on_in_flight)
    )
    stopping = asyncio.create_task(stop.asked.wait())
    leaving = asyncio.create_task(stop.at_once.wait())
    try:
        await asyncio.wait({settling, stopping}, return_when=asyncio.FIRST_COMPLETED)
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


async def probe_response_format(
    job: Job,
    engine: Engine,
    store: Store,
    progress: Progress,
    bought: set[str],
    invalid: dict[str, tuple[Answer, InvalidAnswerError]],
    leases: Leases,
    on_in_flight: OnInFlight,
) -> Job:
    """Find out how the server can be held to the answer's shape: by one real question, whose answer is kept.

    The form steps down when the server's refusal speaks of it, or when it refuses two different tasks alike. What was found is remembered in
    the store for a day, because requests are hashed with it: a rerun must not ask again.

    Args:
        job: The job; its endpoint has the strictest form.
        engine: Asks.
        store: Remembers.
        progress: Counted up by what the question cost.
        bought: Gets the key of the question, when its answer was bought here.
        invalid: Gets the answer and what is wrong with it, when it is no label: the question is not asked anew.
        leases: Keeps two processes from finding out the same, and from asking the same question.
        on_in_flight: See `Engine.ask`.

    Returns:
        The job with the form that the server takes.
    """
    name = form_note(job.endpoint)
    while not leases.take(name):
        await leases.pause()
    try:
        for form in FORMS:
            candidate = replace(job, endpoint=job.endpoint.model_copy(update={"form": form}), probe=False)
            failed: list[NoAnswerError] = []
            for planned in _different_tasks(candidate):
                key = planned.request.key
                while not leases.take(key):
                    if leases.batch_of(key) is not None:  # a batch asks in this form, and it is not bought twice
                        return candidate
                    await leases.pause()
                try:
                    if not (known := with_known_form(job, store)).probe:  # another run has asked just this
                        return known
                    answer = await engine.ask(planned.request, on_in_flight=on_in_flight)
                    store.put_note(name, form)
                    progress.bought(answer)
                    _enter(candidate, planned, answer, store, bought, invalid)
                    return candidate
                except NoAnswerError as error:
                    failed.append(error)
                    if error.meaning == "form" or not _says_little(error):
                        break
                finally:
                    leases.give_back(key)
                if len(failed) == 2 and _alike(*failed):
                    break
            if not failed or not (failed[-1].meaning == "form" or (len(failed) == 2 and _alike(*failed))):
                break
        return replace(job, probe=False)  # the fault lies elsewhere, and the run will meet it
    finally:
        leases.give_back(name)


def _different_tasks(job: Job) -> Iterator[WorkItem]:
    """The first questions about different tasks."""
    before: object = None
    left = _WITNESSES
    for planned in job.plan():
        if planned.tasks != before and left:
            before, left = planned.tasks, left - 1
            yield planned
        if not left:
            return


def _says_little(error: NoAnswerError) -> bool:
    """Whether a refusal may be about the question alone, so that another one must tell."""
    return error.kind in {"content-filter", "invalid-json"} or error.status in _NO_SUCH_FORM


def _alike(one: NoAnswerError, other: NoAnswerError) -> bool:
    """Whether two refusals are the same and not about what was asked."""
    about_the_form = {one.kind, other.kind} == {"provider"}
    return about_the_form and (one.status, one.meaning) == (other.status, other.meaning)


def _enter(
    job: Job,
    planned: WorkItem,
    answer: Answer,
    store: Store,
    bought: set[str],
    invalid: dict[str, tuple[Answer, InvalidAnswerError]],
) -> None:
    """Keep the answer to a question that was put to find the form out: it is paid for."""
    collector = LabelCollector(
        job.rubric, store, Progress(asked=1), api=job.endpoint.api, decide=job.decide, alone=job.alone
    )
    try:
        collector.buy(planned, answer)
        bought.add(planned.request.key)
    except InvalidAnswerError as error:
        invalid[planned.request.key] = answer, error


NOTHING_UNSURE = PerhapsCharged()


@dataclass(frozen=True)
class Missing:
    """Why labels are missing, in numbers.

    Attributes:
        kinds: Missing labels by kind, as `failures.jsonl` has them.
        unasked: Those that nobody was asked for, other than for want of money.
        held: Those that a batch run has in flight, by its name.
    """

    kinds: Mapping[FailureKind, int]
    unasked: int
    held: Mapping[str, int]

    @property
    def total(self) -> int:
        """All missing labels."""
        return sum(self.kinds.values())


@dataclass
class Outcome:
    """What a job came to."""

    labels: Sequence[Label]
    failures: Sequence[Failure]
    interrupted: bool
    manifest: Manifest
    missing: Missing

    @property
    def complete(self) -> bool:
        """Whether every wanted label is there."""
        return self.manifest.status == "complete"


def finish(
    job: Job,
    out: Path,
    manifest: Manifest,
    collector: LabelCollector,
    *,
    interrupted: bool,
    fatal: Exception | None,
    perhaps_charged: PerhapsCharged = NOTHING_UNSURE,
    now: Callable[[], datetime],
) -> Outcome:
    """Write a job's run folder; where it already holds more, note only that this attempt took place.

    Raises:
        DataError: The folder holds more labels of this run than this attempt found, or cannot be written.
    """
    progress, labels = collector.progress, collector.labels
    complete = fatal is None and len(labels) == job.size
    origins = Counter(x.origin for x in labels if x.origin)
    for origin, count in sorted(origins.items()):
        collector.notes.append(
            f"{count:,} labels rest on answers of the pack {origin}, for which only its maker can vouch"
        )
    by_model = Counter(label.model_returned for label in labels)
    if progress.uncounted:
        collector.notes.append(
            f"{progress.uncounted:,} answers came without usable token counts: what they cost is unknown"
        )
    ended = manifest.model_copy(
        update={
            "status": "complete" if complete else "interrupted" if interrupted else "incomplete",
            "models_returned": tuple(sorted(model for model in by_model if model)),
            "labels_by_model": {model or "unknown": count for model, count in by_model.most_common()},
            "repeats_from_cache": collector.repeats_from_cache,
            "counts": Counts(
                asked=job.size,
                from_store=progress.from_store,
                fresh=progress.fresh,
                failed=len(collector.failures) + collector.unnamed,
                repaired=progress.repaired,
                unwrapped=progress.unwrapped,
            ),
            "tokens": progress.tokens,
            "upstreams": tuple(sorted({x.upstream for x in labels if x.upstream})),
            "cost_usd": progress.cost_usd,
            "table_cost_usd": None if progress.table_usd == progress.cost_usd else progress.table_usd,
            "note": "; ".join(collector.notes) or None,
            "origins": dict(sorted(origins.items())),
            "perhaps_charged": perhaps_charged,
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
        perhaps_charged=perhaps_charged,
    )
    ended = ended.model_copy(update={"sessions": (*earlier, session)})
    missing = Missing(dict(progress.failed), collector.unasked, dict(collector.held))
    there = labels_there(out)
    if there <= len(labels):
        write_run(out, ended, labels, collector.failures)
        return Outcome(labels, collector.failures, interrupted, ended, missing)
    # What this attempt bought is in the store; that it was paid for is noted, and the labels stand.
    before = read_manifest(out)
    with suppress(OSError):  # what brought us here must not be hidden
        write_manifest(out, before.model_copy(update={"sessions": (*before.sessions, session)}))
    if fatal is None and not interrupted:
        raise DataError(
            f"{out} already holds {there} labels of this run and this attempt found {len(labels)}, so the folder is left "
            "as it is; use the store that the run was made with, or give another --out"
        )
    kept = f"the folder keeps the {there:,} labels that it had"
    ended = ended.model_copy(update={"note": "; ".join([*collector.notes, kept])})
    return Outcome(labels, collector.failures, interrupted, ended, missing)


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
    if there.counts.from_store + there.counts.fresh == 0:
        # It holds nothing, and the form in which its server was asked may have been a guess.
        same = {"schema_sha256": new.schema_sha256, "response_form": new.response_form}
        there = there.model_copy(update=same)
    if found := differences(there, new):
        raise DataError(f"{out} holds another run ({'; '.join(found)}); give another folder to --out")


def spent_before(out: Path) -> float:
    """What earlier starts of a run took, in USD, with what may have been charged for requests that were never answered."""
    if not (out / "manifest.json").exists():
        return 0.0
    return sum((s.cost_usd or 0.0) + (s.perhaps_charged.usd or 0.0) for s in read_manifest(out).sessions)


def labels_there(out: Path) -> int:
    """Labels that a run folder holds; 0 where there is none."""
    if not (out / "labels.parquet").exists():
        return 0
    counts = read_manifest(out).counts
    return counts.from_store + counts.fresh


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
    """The commit of the checkout that this package runs from; None when it is installed, or git is not."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return None
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  a fixed command; git is where PATH says
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
