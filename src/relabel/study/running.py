"""Makes the runs of a study. Each rater has its own limits, all share one budget, and complete runs are not repeated."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from relabel.errors import DataError, IncompleteRunError, ProviderError, RelabelError, RunInterruptedError, UsageError
from relabel.evaluation.gold import load_gold
from relabel.evaluation.suite import load_suite
from relabel.files import entries, require_own, writing
from relabel.importing import import_labels
from relabel.labelling.batch.provider import batch_provider
from relabel.labelling.batch.runner import run_batch
from relabel.labelling.batch.state import BatchFolder, BatchOptions, run_id, unaccounted_usd
from relabel.labelling.collector import Progress
from relabel.labelling.estimate import BATCH_WINDOW_H, Estimate, Limit, estimate, limits
from relabel.labelling.job import Job, Stop, stored_elsewhere, with_known_format
from relabel.labelling.limits import Budget
from relabel.labelling.local import is_local
from relabel.labelling.options import Prepared, RunOptions, checked_parameters, default_name
from relabel.labelling.providers import UNKNOWN, Price, given_price, provider_of
from relabel.labelling.runner import run_job
from relabel.labelling.session import Outcome, count_labels, existing_manifest, spent_before, unfinished
from relabel.labelling.store import Store, store_so_far
from relabel.rubric import Rubric, load_rubric
from relabel.run import Run, open_run
from relabel.settings import Settings, settings
from relabel.sources.fetch import sha256_of
from relabel.study.file import Rater, Study, read_study
from relabel.task import Task, load_tasks

# Keys of a study file whose values may name a file.
_FILES = {"list", "rubric", "prompt", "run", "labels", "golds", "suite", "pay", "bridge"}
State = Literal["complete", "incomplete", "interrupted", "failed", "not started", "running", "in batches", "damaged"]


@dataclass(frozen=True)
class OpenStudy:
    """A study file that has been read.

    Attributes:
        file: Its path; the results are in the same folder.
        study: Its content.
        environment: Settings from the environment.
    """

    file: Path
    study: Study
    environment: Settings

    @property
    def results(self) -> Path:
        """The folder of all output."""
        return self.file.parent / f"{self.file.stem}-results"

    @property
    def runs(self) -> Path:
        """The raters' run folders."""
        return self.results / "runs"

    def path(self, ref: str) -> str:
        """Resolve a path relative to the study file; names that are not paths are unchanged."""
        beside = self.file.parent / ref
        return str(beside) if beside.exists() else ref

    def content(self, of_file: Callable[[str], str]) -> dict[str, Any]:
        """What the study file says, with the result of `of_file` in place of each name of a file or folder beside it."""

        def changed(value: Any, key: str = "") -> Any:
            if isinstance(value, dict):
                return {name: changed(item, name) for name, item in value.items()}
            if isinstance(value, list):
                return [changed(item, key) for item in value]
            names_file = key in _FILES and isinstance(value, str) and value
            return of_file(value) if names_file and (self.file.parent / value).exists() else value

        return changed(self.study.model_dump(mode="json", exclude_unset=True))


def open_study(file: Path) -> OpenStudy:
    """Read a study file, see `read_study`."""
    return OpenStudy(file, read_study(file), settings())


class SharedBudget(Budget):
    """A rater's budget within the study's: a request must fit in both.

    Args:
        own: The rater's budget, with its own cap, if it has one.
        price: The model's price.
        total: The study's budget.
    """

    def __init__(self, own: Budget, price: Price | None, total: Budget) -> None:
        super().__init__(total.cap_usd if own.cap_usd is None else own.cap_usd, price, before_usd=own.before_usd)
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
    """Stops all raters; each also has its own stop, because a rater that fails must not stop the others."""

    def __init__(self) -> None:
        super().__init__()
        self.stops: list[Stop] = []

    def __call__(self) -> None:
        """See `Stop`."""
        super().__call__()
        for stop in self.stops:
            stop()


@dataclass
class RaterRun:
    """A rater and the state of its run.

    Attributes:
        rater: Its entry in the study file.
        ref: The run: a folder, or the name of a published label set.
        model: The job of a rater that is asked; None for runs and files of labels.
        progress: Progress of the job.
        state: State of the run.
        error: Why it is not complete.
    """

    rater: Rater
    ref: str
    model: Prepared | None = None
    progress: Progress = field(default_factory=lambda: Progress(asked=0))
    state: State = "not started"
    error: RelabelError | None = None

    @property
    def batched(self) -> bool:
        """Whether it uses the provider's Batch API."""
        return self.rater.engine == "batch"

    @property
    def out(self) -> Path:
        """The run folder."""
        return Path(self.ref)


@dataclass(frozen=True)
class RaterState:
    """Progress of a model, also while it is running, or after its process was killed.

    Attributes:
        state: State of the run.
        asked, labels: Number of labels wanted, and of those present.
        cost_usd: Cost of all starts, including what may have been charged for unanswered requests; None if it is unknown.
        hours_left: Estimated hours for the missing labels: at the rate of the last start, or until the batches expire.
        waiting: Number of requests in batches at the provider, and of those that it reports as done.
    """

    state: State
    asked: int
    labels: int
    cost_usd: float | None
    hours_left: float | None
    waiting: tuple[int, int]


def rater_states(raters: Sequence[RaterRun], opened: OpenStudy) -> dict[str, RaterState]:
    """The state of each model, by name of the rater."""
    with store_so_far(opened.environment.store_dir) as store:
        return {
            one.rater.name: _rater_state(one, one.model.job, store, opened.environment.batches_dir)
            for one in raters
            if one.model
        }


def _rater_state(one: RaterRun, job: Job, store: Store | None, batches: Path) -> RaterState:
    if one.state == "damaged":
        return RaterState(one.state, job.size, 0, None, None, (0, 0))
    state, labels, killed, hours = one.state, count_labels(one.out), None, None
    if state != "complete" and store is not None:
        labels = max(labels, sum(store.has(item.request.key) for item in with_known_format(job, store).plan()))
        killed = unfinished(job, store, one.out)
        if state == "running":
            with suppress(DataError), writing(one.out):  # if the folder can be locked, the process was killed
                state = "interrupted"
    starts = [killed, *reversed(manifest.sessions if (manifest := existing_manifest(one.out)) else ())]
    last = next((start for start in starts if start is not None and start.counts.fresh and start.ended_at), None)
    if labels < job.size and last is not None:
        hours = (job.size - labels) / last.counts.fresh * _hours(last.started_at, last.ended_at)
    in_batches = BatchFolder(batches, run_id(job)).load() if state != "complete" else None
    sent = in_batches.at_provider if in_batches else []
    if sent:
        state = "in batches"
        first = min(str(chunk.submitted_at) for chunk in sent)
        hours = max(0.0, BATCH_WINDOW_H - _hours(first, datetime.now(UTC).isoformat()))
    waiting = sum(chunk.requests for chunk in sent), sum(chunk.answered for chunk in sent)
    unknown = any(start is not None and None in (start.cost_usd, start.perhaps_charged.usd) for start in starts)
    return RaterState(state, job.size, labels, None if unknown else spent_before(one.out, killed), hours, waiting)


def _hours(start: str | None, end: str | None) -> float:
    return (datetime.fromisoformat(str(end)) - datetime.fromisoformat(str(start))).total_seconds() / 3600


def study_tasks(opened: OpenStudy) -> list[Task]:
    """The tasks of a study.

    Raises:
        DataError: The list cannot be read.
    """
    chosen, unit = opened.study.tasks, load_rubric(opened.path(opened.study.rubric)).unit
    ref, drawn = opened.path(chosen.list), chosen.model_dump(exclude={"list"})
    return load_tasks(ref, unit=unit, **drawn)


def plan(opened: OpenStudy, *, keep_damaged: bool = False) -> list[RaterRun]:
    """Prepare the raters of a study, without sending anything.

    Args:
        opened: The study.
        keep_damaged: Whether a run that cannot be read is a state of its rater, in place of an error.

    Raises:
        UsageError: Options of a rater cannot be combined, or a cap cannot be enforced.
        DataError: A file named in the study cannot be used.
    """
    study = opened.study
    for path in (opened.results, *entries(opened.results), *entries(opened.runs)):
        require_own(path)  # a link in a folder from elsewhere could redirect writes
    rater_runs: list[RaterRun] = []
    for rater in study.raters:
        rubric = load_rubric(opened.path(rater.rubric or study.rubric))
        if rater.run is not None:
            rater_runs.append(RaterRun(rater, opened.path(rater.run)))
            continue
        if rater.labels is not None:
            file = Path(opened.path(rater.labels))
            if not file.is_file():
                raise DataError(f"the rater {rater.name}: file {file} was not found; correct `labels`")
            digest = hashlib.sha256(f"{sha256_of(file)} {rubric.sha256}".encode()).hexdigest()[:6]
            rater_runs.append(RaterRun(rater, str(opened.runs / f"{rater.name}-{digest}")))
            continue
        try:
            capped = bool(study.budget_usd or rater.max_cost_usd)
            model = _options(rater, opened, rubric).prepare(opened.environment, capped=capped)
            if rater.engine == "batch" and is_local(model.options.model):
                raise UsageError("the embedded model has no Batch API; remove `engine`")
        except UsageError as error:
            raise UsageError(f"the rater {rater.name}: {_as_keys(str(error), rater)}") from error
        folder = opened.runs / f"{rater.name}-{default_name(model.job).rpartition('-')[2]}"
        rater_runs.append(RaterRun(rater, str(folder), model, Progress(asked=model.job.size)))
    for one in rater_runs:
        try:
            manifest = existing_manifest(one.out)
            if keep_damaged:
                runs_of([one])
        except DataError as error:
            if not keep_damaged:
                raise
            one.state, one.error = "damaged", error
            continue
        has_labels = (one.out / "labels.parquet").exists()  # it may be lost, such as where git ignores it
        if one.model is None:
            one.state = "complete" if one.rater.run is not None or (manifest and has_labels) else "not started"
        elif manifest is not None and manifest.status != "published":
            one.state = manifest.status if has_labels or manifest.status != "complete" else "incomplete"
    return rater_runs


def _as_keys(message: str, rater: Rater) -> str:
    """A message with the options of `relabel run` replaced by keys of a study file; options of other commands remain."""
    keys = {name.replace("_", "-"): name for name in Rater.model_fields}
    keys |= {"max-cost": "max_cost_usd" if rater.max_cost_usd else "budget_usd", "param": "params"}
    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", lambda option: keys.get(option[1], option[0]), message)


def require_readable(opened: OpenStudy) -> None:
    """Check that golds, suite, baseline and existing runs can be read, before any label is paid for.

    Raises:
        DataError: One of them cannot be read.
    """
    golds = [opened.path(ref) for ref in opened.study.golds]
    runs = [opened.path(rater.run) for rater in opened.study.raters if rater.run is not None]
    if opened.study.suite is not None:
        suite = load_suite(opened.path(opened.study.suite))
        golds += [suite.resolve(suite.gold)] if suite.gold else []
        runs += [suite.resolve(suite.baseline.run)] if suite.baseline else []
    for ref in golds:
        load_gold(ref)
    for ref in runs:
        open_run(ref)


def _options(rater: Rater, opened: OpenStudy, rubric: Rubric) -> RunOptions:
    study = opened.study
    shared = {one.name for one in fields(RunOptions)} & set(Rater.model_fields) - {"rubric", "params", "price"}
    return RunOptions(
        rubric=rubric,
        settings=tuple(s for s in study.settings if s in rubric.settings),
        prompt=None if study.prompt is None else opened.path(study.prompt),
        tasks=opened.path(study.tasks.list),
        **study.tasks.model_dump(exclude={"list"}),
        form=None if rater.response_format == "auto" else rater.response_format,
        params=checked_parameters(rater.params),
        price=given_price(rater.price) if rater.price else None,
        max_cost=rater.max_cost_usd,
        **rater.model_dump(include=shared),
    )


def require_known_hosts(raters: Sequence[RaterRun], opened: OpenStudy, allow_hosts: Collection[str] = ()) -> None:
    """Check that a study file, which may come from others, sends tasks and key only to trusted hosts.

    Trusted are this machine, the host in `OPENAI_BASE_URL`, and over https the providers in `data/providers.toml` and
    `RELABEL_PROVIDERS`, except those that give each customer a host, such as Azure, or if the file has them sent a key by a
    variable that does not name them.

    Args:
        raters: From `plan`.
        opened: The study.
        allow_hosts: Further hosts that the user trusts.

    Raises:
        UsageError: A rater that is not complete would send to another host.
    """
    for one in raters:
        key, given = one.rater.key_env, one.rater.base_url
        address = one.model.connection.base_url if one.model and (given or key) else None
        if one.model is None or not address or one.state == "complete":
            continue
        parts, own = urlsplit(address), urlsplit(opened.environment.openai_base_url or "")
        host = parts.hostname or ""
        by_user = host in allow_hosts or (parts.scheme, parts.netloc) == (own.scheme, own.netloc)
        known = provider_of(f"https://{parts.netloc}") if given else one.model.connection.provider
        names = {known.id, *(name.removesuffix("_API_KEY") for name in known.key_env)}
        its_key = key is None or any(name.upper() in key.upper() for name in names)
        its_host = not given or (parts.scheme == "https" and known is not UNKNOWN and not known.shared_domain)
        this_machine = host == "localhost"
        with suppress(ValueError):
            this_machine |= ip_address(host).is_loopback
        if not (by_user or (its_host and its_key) or this_machine):
            raise UsageError(
                f"the rater {one.rater.name} would send tasks and {key or 'your key'} to {host}, as only the study file says; "
                f"if you trust it, add --allow-host {host}"
            )


async def run_raters(
    raters: Sequence[RaterRun],
    opened: OpenStudy,
    *,
    replay: bool = False,
    allow_hosts: Collection[str] = (),
    stop: StopAll | None = None,
) -> None:
    """Make the missing runs in parallel; a rater that fails does not stop the others.

    Args:
        raters: From `plan`; their states and errors are updated.
        opened: The study.
        replay: Whether to take answers only from the store.
        allow_hosts: See `require_known_hosts`.
        stop: Call it to stop all raters.

    Raises:
        UsageError: A rater would send to a host that only the study file names.
    """
    if not replay:
        require_known_hosts(raters, opened, allow_hosts)
    stop = stop or StopAll()
    missing = [one for one in raters if one.state != "complete"]
    await asyncio.gather(*(_track(one, _import(one, opened)) for one in missing if one.model is None))
    asked = [(one, one.model) for one in missing if one.model is not None]
    if not asked:
        return
    with Store(opened.environment.store_dir, read_only=replay) as store:
        stop.stops = [Stop() for _ in asked]
        if stop.asked.is_set():  # while labels were imported
            stop()
        spent = {folder: spent_before(folder) for folder in entries(opened.runs)}
        spent |= {one.out: spent_before(one.out, unfinished(model.job, store, one.out)) for one, model in asked}
        open_usd = {one.rater.name: unaccounted_usd(opened.environment.batches_dir, model.job) for one, model in asked}
        before = sum(spent.values()) + sum(open_usd[one.rater.name] for one, _ in asked if not one.batched)
        total = Budget(opened.study.budget_usd, None, before_usd=before)
        shares: dict[str, float] = {}
        if total.cap_usd is not None and not replay and any(one.batched for one, _ in asked):
            shares = _shares(asked, total.cap_usd - before, open_usd, store)
            total.before_usd += sum(shares.values())
        coroutines: list[Coroutine[Any, Any, None]] = []
        for (one, model), own in zip(asked, stop.stops, strict=True):
            if one.batched and not replay:
                share = shares.get(one.rater.name)
                caps = [model.options.max_cost, None if share is None else spent.get(one.out, 0.0) + share]
                cap = min((cap for cap in caps if cap is not None), default=None)
                work = _by_batch(one, model, cap, store, opened, own)
            else:
                budget = model.options.budget(model.connection, model.job, opened.environment)
                if total.cap_usd is not None:
                    budget = SharedBudget(budget, model.connection.price, total)
                engine = model.options.engine(model.connection, budget, replay=replay)
                work = run_job(model.job, engine, store, one.out, progress=one.progress, stop=own)
            coroutines.append(_track(one, work))
        # Any other error of one rater is raised at the end: cancelled requests of the others would be paid for and lost.
        for error in await asyncio.gather(*coroutines, return_exceptions=True):
            if error is not None:
                raise error
        for one, model in asked if replay else ():
            if one.error is not None and not one.progress.from_store and (advice := stored_elsewhere(model.job, store)):
                one.error = IncompleteRunError(f"{one.error}; {advice}")


def _shares(
    asked: Sequence[tuple[RaterRun, Prepared]], left_usd: float, open_usd: Mapping[str, float], store: Store
) -> dict[str, float]:
    """Budget (USD) reserved for each rater's batches: their maximum cost, scaled down if all raters together exceed it."""
    most: dict[str, float] = {}
    for one, (_, _, job) in asked:
        assert job.price is not None  # a cap needs one
        budget = Budget(None, job.in_batches.price if one.batched else job.price)
        plan = with_known_format(job, store).plan()
        worst = sum(budget.most(item.request.body) or 0.0 for item in plan if not store.has(item.request.key))
        most[one.rater.name] = worst * (1 + 1e-9)
    scale = min(1.0, max(0.0, left_usd) / (sum(most.values()) or 1.0))
    return {name: max(most[name] * scale, open_usd[name]) for name in (o.rater.name for o, _ in asked if o.batched)}


async def _by_batch(
    one: RaterRun, model: Prepared, cap: float | None, store: Store, opened: OpenStudy, stop: Stop
) -> Outcome:
    job, connection, key_env = model.job, model.connection, model.options.key_env
    options = BatchOptions(max_cost=cap, key_env=key_env)
    provider = batch_provider(job, connection.base_url, opened.environment, key_env, connection.headers)
    return await run_batch(
        job, store, one.out, provider, opened.environment.batches_dir, options=options, progress=one.progress, stop=stop
    )


async def _track(one: RaterRun, work: Coroutine[Any, Any, Outcome | None]) -> None:
    one.state = "running"
    try:
        outcome = await work
        if outcome is None or outcome.complete:
            one.state = "complete"
        else:
            one.state = "interrupted" if outcome.interrupted else "incomplete"
            kind = RunInterruptedError if outcome.interrupted else IncompleteRunError
            one.error = kind(
                f"{outcome.missing:,} of {one.progress.asked:,} labels are missing (see {one.ref}/failures.jsonl)"
            )
    except RelabelError as error:
        one.state, one.error = "failed", error


async def _import(one: RaterRun, opened: OpenStudy) -> None:
    rater, study = one.rater, opened.study
    rubric, file = load_rubric(opened.path(rater.rubric or study.rubric)), Path(opened.path(rater.labels or ""))
    import_labels(file, model=rater.name, rubric=rubric, out=one.out, tasks=opened.path(study.tasks.list))


def raise_worst(raters: Sequence[RaterRun]) -> None:
    """Raise the most serious error of the raters, if any.

    Raises:
        RelabelError: Its exit code is that of, in this order: interruption, refusal by the provider, wrong usage, an error
            in a file, missing labels.
    """
    failed = [one for one in raters if one.error is not None]
    if not failed:
        return
    order = (RunInterruptedError, ProviderError, UsageError, DataError, IncompleteRunError)
    kind = next((kind for kind in order if any(isinstance(one.error, kind) for one in failed)), DataError)
    message = "; ".join(f"{one.rater.name}: {_as_keys(str(one.error), one.rater)}" for one in failed)
    raise kind(f"{message}; run the same command again to continue")


def estimates(raters: Sequence[RaterRun], opened: OpenStudy) -> dict[str, tuple[Estimate, list[Limit]]]:
    """Estimates of requests, time and cost for models that are not complete, with the limits that apply."""
    estimate_by_rater: dict[str, tuple[Estimate, list[Limit]]] = {}
    with store_so_far(opened.environment.store_dir) as store:
        for one in raters:
            if one.model is not None and one.state != "complete":
                result = estimate(one.model.job.in_batches if one.batched else one.model.job, store)
                rpm, tpm = one.rater.rpm, one.rater.tpm
                bounds = limits(result, one.rater.engine, rpm=rpm, tpm=tpm) if one.batched or rpm or tpm else []
                estimate_by_rater[one.rater.name] = result, bounds
    return estimate_by_rater


def runs_of(raters: Iterable[RaterRun]) -> Mapping[str, Run]:
    """The runs with labels, by rater."""
    return {
        one.rater.name: open_run(one.ref)
        for one in raters
        if one.rater.run is not None or (count_labels(Path(one.ref)))
    }
