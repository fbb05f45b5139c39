"""Making a study's runs: each rater under its own limits, all of them under one budget, and nothing made twice."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from relabel.errors import DataError, IncompleteRunError, ProviderError, RelabelError, RunInterruptedError, UsageError
from relabel.files import require_own
from relabel.importing import import_labels
from relabel.labelling.collector import Progress
from relabel.labelling.connection import Connection
from relabel.labelling.estimate import Estimate, Limit, estimate, limits
from relabel.labelling.job import Job, Stop
from relabel.labelling.options import RunOptions, checked_parameters, default_name, make_engine
from relabel.labelling.pricing import Budget, Price, given_price
from relabel.labelling.providers import UNKNOWN, provider_of
from relabel.labelling.runner import run_job
from relabel.labelling.session import spent_before
from relabel.labelling.store import Store
from relabel.manifest import read_manifest
from relabel.rubric import load_rubric
from relabel.run import Run, open_run
from relabel.settings import Settings
from relabel.sources.fetch import sha256_of
from relabel.study.file import Rater, Study
from relabel.task import Task, load_tasks

State = Literal["complete", "incomplete", "interrupted", "failed", "not started", "running"]


@dataclass(frozen=True)
class Place:
    """Where a study lies: its file, and the folder of what is made of it."""

    file: Path

    @property
    def results(self) -> Path:
        """Everything that the study makes."""
        return self.file.parent / f"{self.file.stem}-results"

    @property
    def runs(self) -> Path:
        """The raters' run folders."""
        return self.results / "runs"

    def at(self, ref: str) -> str:
        """A path of the study file as seen from here; a name of relabel's own stays as it is."""
        beside = self.file.parent / ref
        return str(beside) if beside.exists() else ref


class SharedBudget(Budget):
    """A rater's budget within that of the study: a request needs room in both.

    Args:
        cap_usd: The rater's own cap; None for the study's alone.
        price: The model's price.
        total: The study's budget.
    """

    def __init__(self, cap_usd: float | None, price: Price | None, total: Budget) -> None:
        super().__init__(total.cap_usd if cap_usd is None else cap_usd, price)
        self._total = total

    async def reserve(self, worst_usd: float) -> None:
        """See `Budget.reserve`."""
        await self._total.reserve(worst_usd)
        try:
            await super().reserve(worst_usd)
        except BaseException:
            self._total.settle(worst_usd, 0.0)
            raise

    def settle(self, worst_usd: float, cost_usd: float | None) -> None:
        """See `Budget.settle`."""
        super().settle(worst_usd, cost_usd)
        self._total.settle(worst_usd, cost_usd)


class StopAll(Stop):
    """Stops all raters; each has a stop of its own, for one that fails for good stops itself alone."""

    def __init__(self) -> None:
        super().__init__()
        self.each: list[Stop] = []

    def __call__(self) -> None:
        """See `Stop`."""
        super().__call__()
        for stop in self.each:
            stop()


@dataclass
class RaterRun:
    """A rater on the way from its lines in the study file to a run.

    Attributes:
        options, connection, job: For a model: which model is asked which questions.
        ref: The run: a folder, or the name of a published set.
        progress: Of a model that is being asked.
        state: Where it stands.
        error: Why it is not complete.
    """

    rater: Rater
    ref: str
    options: RunOptions | None = None
    connection: Connection | None = None
    job: Job | None = None
    progress: Progress = field(default_factory=lambda: Progress(asked=0))
    state: State = "not started"
    error: RelabelError | None = None

    @property
    def asked(self) -> int:
        """Labels wanted; 0 where that is not known before."""
        return 0 if self.job is None else self.job.size

    def labels(self) -> int:
        """Labels that its folder holds."""
        manifest = _manifest(self.ref)
        return 0 if manifest is None else manifest.counts.from_store + manifest.counts.fresh

    def hours_left(self) -> float | None:
        """Hours for the missing labels at the pace of the last session; None where that has none."""
        manifest, missing = _manifest(self.ref), self.asked - self.labels()
        if (
            manifest is None
            or missing <= 0
            or not manifest.counts.fresh
            or None in (manifest.started_at, manifest.ended_at)
        ):
            return None
        start, end = (datetime.fromisoformat(at) for at in (manifest.started_at, manifest.ended_at))
        return missing / manifest.counts.fresh * (end - start).total_seconds() / 3600

    def cost_usd(self) -> float:
        """What all its starts took, in USD, with what may have been charged."""
        return spent_before(Path(self.ref)) if self.job is not None else 0.0


def _manifest(ref: str) -> Any:
    return read_manifest(Path(ref)) if (Path(ref) / "manifest.json").exists() else None


def study_tasks(study: Study, place: Place) -> list[Task]:
    """The tasks of a study.

    Raises:
        DataError: The list cannot be read.
    """
    chosen = study.tasks
    unit = load_rubric(place.at(study.rubric)).unit
    return list(
        load_tasks(
            place.at(chosen.list), unit=unit, occupations=chosen.occupations, sample=chosen.sample, seed=chosen.seed
        )
    )


def plan(study: Study, place: Place, environment: Settings) -> list[RaterRun]:
    """What each rater is, without sending anything.

    Raises:
        UsageError: Options of a rater do not go together, or a cap cannot be kept.
        DataError: A file that the study names cannot be used.
    """
    for path in (place.results, *place.results.glob("*"), *place.runs.glob("*")):
        require_own(path)  # a link in a stranger's folder would have files written elsewhere
    found: list[RaterRun] = []
    for rater in study.raters:
        rubric = load_rubric(place.at(rater.rubric or study.rubric))
        if rater.run is not None:
            found.append(RaterRun(rater, place.at(rater.run)))
            continue
        if rater.labels is not None:
            file = Path(place.at(rater.labels))
            if not file.is_file():
                raise DataError(f"the rater {rater.name}: there is no file {file}; correct `labels`")
            digest = hashlib.sha256(f"{sha256_of(file)} {rubric.sha256}".encode()).hexdigest()[:6]
            found.append(RaterRun(rater, str(place.runs / f"{rater.name}-{digest}")))
            continue
        assert rater.model is not None
        if rater.engine == "batch":
            raise UsageError(
                f"the rater {rater.name}: a study asks online only; label with `relabel run --engine batch` first, and name its folder as `run`"
            )
        try:
            options = _options(rater, study, place, model=rater.model)
            connection = options.connection(environment)
            options.require_bounds(connection, capped=bool(study.budget_usd or rater.max_cost_usd))
            job = options.job(connection)
        except UsageError as error:
            raise UsageError(f"the rater {rater.name}: {error}") from error
        folder = place.runs / f"{rater.name}-{default_name(job).rpartition('-')[2]}"
        found.append(RaterRun(rater, str(folder), options, connection, job, Progress(asked=job.size)))
    for one in found:
        manifest = _manifest(one.ref)
        if one.job is None:
            one.state = "complete" if one.rater.run is not None or manifest is not None else "not started"
        elif manifest is not None:
            one.state = manifest.status
    return found


def _options(rater: Rater, study: Study, place: Place, *, model: str) -> RunOptions:
    rubric = load_rubric(place.at(rater.rubric or study.rubric))
    same = {one.name for one in fields(RunOptions)} & set(Rater.model_fields) - {"model", "rubric", "params", "price"}
    return RunOptions(
        model=model,
        rubric=rubric,
        settings=tuple(s for s in study.settings if s in rubric.settings),
        prompt=None if study.prompt is None else place.at(study.prompt),
        tasks=place.at(study.tasks.list),
        sample=study.tasks.sample,
        seed=study.tasks.seed,
        occupations=study.tasks.occupations,
        form=None if rater.response_format == "auto" else rater.response_format,
        params=checked_parameters(rater.params),
        price=given_price(rater.price) if rater.price else None,
        max_cost=rater.max_cost_usd,
        **{name: getattr(rater, name) for name in same},
    )


def require_known_hosts(raters: Sequence[RaterRun], environment: Settings, allow_hosts: Collection[str] = ()) -> None:
    """Make sure that a study file, which may be a stranger's, sends tasks and key only to hosts that its user knows.

    Args:
        raters: From `plan`.
        environment: Settings from the environment; `OPENAI_BASE_URL` is the user's word.
        allow_hosts: Further hosts that the user knows. Providers of `data/providers.toml` and `RELABEL_PROVIDERS` are known over https,
            and so is this machine.

    Raises:
        UsageError: A rater that is not complete would send to another host.
    """
    for one in raters:
        address = one.connection and one.rater.base_url and one.connection.base_url
        if not address or one.state == "complete":
            continue
        parts, own = urlsplit(address), urlsplit(environment.openai_base_url or "")
        host = parts.hostname or ""
        by_user = host in allow_hosts or (parts.scheme, parts.netloc) == (own.scheme, own.netloc)
        provider = parts.scheme == "https" and provider_of(f"https://{parts.netloc}") is not UNKNOWN
        this_machine = host == "localhost"
        with suppress(ValueError):
            this_machine |= ip_address(host).is_loopback
        if not (by_user or provider or this_machine):
            raise UsageError(
                f"the rater {one.rater.name} would send tasks and your key to {host}, which only the study file names; "
                f"if you trust it, add --allow-host {host}"
            )


async def run_raters(
    raters: Sequence[RaterRun],
    study: Study,
    place: Place,
    environment: Settings,
    *,
    replay: bool = False,
    allow_hosts: Collection[str] = (),
    stop: StopAll | None = None,
    changed: Callable[[RaterRun], None] = lambda _: None,
) -> None:
    """Make the runs that are missing, side by side; a rater that fails does not stop the others.

    Args:
        raters: From `plan`; their states and errors are set.
        study: The study.
        place: Where it lies.
        environment: Settings from the environment.
        replay: Whether answers come from the store alone.
        allow_hosts: See `require_known_hosts`.
        stop: Called to stop all of them.
        changed: Called when a rater starts and when it ends.

    Raises:
        UsageError: A rater would send to a host that only the study file names.
    """
    if not replay:
        require_known_hosts(raters, environment, allow_hosts)
    stop = stop or StopAll()
    total = Budget(study.budget_usd, None, before_usd=sum(spent_before(folder) for folder in place.runs.glob("*/")))
    missing = [one for one in raters if one.state != "complete"]
    for one in missing:
        if one.job is None:
            _import(one, study, place)
            changed(one)
    asked = [one for one in missing if one.job is not None]
    if not asked:
        return
    with Store(environment.store_dir, read_only=replay) as store:
        stop.each = [Stop() for _ in asked]
        pairs = zip(asked, stop.each, strict=True)
        await asyncio.gather(
            *(_label(one, total, store, replay=replay, stop=own, changed=changed) for one, own in pairs)
        )


async def _label(
    one: RaterRun,
    total: Budget,
    store: Store,
    *,
    replay: bool,
    stop: Stop,
    changed: Callable[[RaterRun], None],
) -> None:
    assert one.options is not None
    assert one.connection is not None
    assert one.job is not None
    one.state = "running"
    changed(one)
    limiter = one.options.limiter()
    if total.cap_usd is None:
        budget = Budget(one.options.max_cost, one.connection.price)
    else:
        budget = SharedBudget(one.options.max_cost, one.connection.price, total)
    engine = make_engine(one.options, one.connection, limiter, budget, replay=replay)
    try:
        outcome = await run_job(
            one.job,
            engine,
            store,
            Path(one.ref),
            concurrency=limiter.largest,
            budget=budget,
            progress=one.progress,
            stop=stop,
        )
        one.state = "complete" if outcome.complete else "interrupted" if outcome.interrupted else "incomplete"
        if not outcome.complete:
            kind = RunInterruptedError if outcome.interrupted else IncompleteRunError
            one.error = kind(
                f"{outcome.missing.total:,} of {one.job.size:,} labels are missing, {one.ref}/failures.jsonl says which and why"
            )
    except RelabelError as error:
        one.state, one.error = "failed", error
    finally:
        await engine.close()
        changed(one)


def _import(one: RaterRun, study: Study, place: Place) -> None:
    rater = one.rater
    try:
        import_labels(
            Path(place.at(rater.labels or "")),
            model=rater.name,
            rubric=load_rubric(place.at(rater.rubric or study.rubric)),
            out=Path(one.ref),
            tasks=place.at(study.tasks.list),
        )
        one.state = "complete"
    except RelabelError as error:
        one.state, one.error = "failed", error


def raise_first(raters: Sequence[RaterRun]) -> None:
    """End with the gravest failure of the raters, if any failed.

    Raises:
        RelabelError: With the exit code of: interrupted, refused for good, a fault in a file, labels missing.
    """
    failed = [one for one in raters if one.error is not None]
    if not failed:
        return
    order = (RunInterruptedError, ProviderError, UsageError, DataError, IncompleteRunError)
    kind = next((kind for kind in order if any(isinstance(one.error, kind) for one in failed)), DataError)
    told = "; ".join(f"{one.rater.name}: {one.error}" for one in failed)
    raise kind(f"{told}; the same command goes on where it was")


def estimates(raters: Sequence[RaterRun], environment: Settings) -> dict[str, tuple[Estimate, list[Limit]]]:
    """What the models that are not complete would be sent, take and cost."""
    found: dict[str, tuple[Estimate, list[Limit]]] = {}
    exists = environment.store_dir.exists()
    store = Store(environment.store_dir, read_only=True) if exists else None
    try:
        for one in raters:
            if one.job is not None and one.state != "complete":
                told = estimate(one.job, store)
                found[one.rater.name] = told, limits(told, one.rater.engine, rpm=one.rater.rpm, tpm=one.rater.tpm)
    finally:
        if store is not None:
            store.close()
    return found


def runs_of(raters: Sequence[RaterRun]) -> Mapping[str, Run]:
    """The runs that hold labels, by rater."""
    return {
        one.rater.name: open_run(one.ref)
        for one in raters
        if one.rater.run is not None or (_manifest(one.ref) is not None and one.labels())
    }
