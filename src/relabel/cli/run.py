"""`relabel run`: label tasks with a model."""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from relabel.labelling.connection import Connection
    from relabel.labelling.job import Job, Outcome
    from relabel.settings import Settings


class EngineName(StrEnum):
    """The engines that a run can take."""

    online = "online"
    replay = "replay"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    model: Annotated[
        str,
        typer.Option(
            help="A model's name at the provider; `local` for the embedded one; `local:FILE.gguf` for your own weights."
        ),
    ],
    base_url: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible API. By default OPENAI_BASE_URL, else OpenAI.")
    ] = None,
    rubric: Annotated[str, typer.Option(help="A rubric's name, or the path of a YAML file.")] = "exposure",
    setting: Annotated[
        list[str] | None, typer.Option(help="A setting of the rubric; may be given more than once. By default all.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="A prompt's name, or the path of a .jinja file. By default the rubric's.")
    ] = None,
    examples: Annotated[
        bool, typer.Option("--examples/--no-examples", help="Show the rubric's worked examples to the model.")
    ] = True,
    tasks: Annotated[
        str, typer.Option(help="onet-30.2, onet-29.1, eloundou-2023, sample, or the path of a CSV file.")
    ] = "onet-30.2",
    sample: Annotated[int | None, typer.Option(min=1, help="Draw this many tasks at random.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    occupation: Annotated[
        list[str] | None, typer.Option(help="Only tasks of this O*NET-SOC code; may be given more than once.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Times that each question is asked.")] = 1,
    param: Annotated[
        list[str] | None, typer.Option(help="A sampling parameter as NAME=VALUE, sent as it is. None is sent unasked.")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="online asks the model; replay takes answers from the store alone.")
    ] = EngineName.online,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Requests in flight at once. By default 16, and 4 for local models."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked, and ask nothing.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The run folder. By default a name under runs/ that tells what was asked.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as one JSON document.")] = False,
) -> None:
    """Label tasks with a language model.

    Each task is asked under each setting. Answers go into the store as they come: a run that was stopped, killed or refused goes
    on where it was when the same command is given again, and nothing is paid for twice.
    """
    from relabel.errors import IncompleteRunError, RunInterruptedError, UsageError
    from relabel.labelling.connection import describe
    from relabel.labelling.job import Job
    from relabel.labelling.prompt import load_prompt
    from relabel.rubric import load_rubric
    from relabel.run import task_sources
    from relabel.settings import settings
    from relabel.task import load_tasks

    environment = settings()
    loaded = load_rubric(rubric)
    asked = tuple(dict.fromkeys(setting or loaded.settings))
    for name in asked:
        if name not in loaded.settings:
            raise UsageError(f"the rubric {loaded.id} has no setting {name!r}; use one of {', '.join(loaded.settings)}")
    template = load_prompt(prompt or loaded.prompt)
    chosen = load_tasks(tasks, occupations=occupation or (), sample=sample, seed=seed)
    described = describe(model, base_url, environment, _parameters(param or []))
    job = Job(
        tasks=chosen,
        tasks_ref=tasks,
        sources=task_sources(tasks),
        rubric=loaded,
        prompt=template,
        settings=asked,
        endpoint=described.endpoint,
        model=model,
        base_url=described.shown_url,
        price=described.price,
        samples=samples,
        examples=examples,
        parameters={
            "sample": sample,
            "seed": seed if sample else None,
            "occupations": list(occupation or ()),
            "wire_model": described.endpoint.model,
        },
    )
    folder = out or Path("runs") / default_name(job)
    if dry_run:
        _show_plan(job, environment, as_json=as_json)
        return
    outcome = label(job, folder, model, described, environment, engine=engine, concurrency=concurrency, quiet=quiet)
    if as_json:
        typer.echo(outcome.manifest.model_dump_json(indent=2))
    else:
        _show_outcome(outcome, folder, model)
    missing = len(outcome.failures)
    if outcome.interrupted:
        raise RunInterruptedError(
            f"stopped with {missing} of {job.size} labels missing; the same command goes on where it was"
        )
    if missing:
        raise IncompleteRunError(
            f"{missing} of {job.size} labels are missing, {folder / 'failures.jsonl'} says which and why; the same command asks for them again"
        )


def label(
    job: Job,
    folder: Path,
    model: str,
    described: Connection,
    environment: Settings,
    *,
    engine: EngineName = EngineName.online,
    concurrency: int | None = None,
    quiet: bool = False,
) -> Outcome:
    """Run a job to its end: the one place where asynchronous work begins."""
    import asyncio

    from relabel.labelling.connection import LazyEngine
    from relabel.labelling.engines.local import SLOTS, is_local
    from relabel.labelling.engines.replay import ReplayEngine
    from relabel.labelling.job import out_is_free
    from relabel.labelling.store import Store

    out_is_free(folder, job)
    at_once = concurrency or (SLOTS if is_local(model) else 16)
    with Store(environment.store_dir) as store:
        asking = ReplayEngine() if engine is EngineName.replay else LazyEngine(model, described, environment)
        return asyncio.run(_work(job, asking, store, folder, at_once, quiet=quiet))


async def _work(job: Job, engine: Any, store: Any, folder: Path, concurrency: int, *, quiet: bool) -> Outcome:
    import asyncio
    import signal

    from relabel.cli.display import shown
    from relabel.labelling.job import Stop, run_job
    from relabel.labelling.progress import Progress

    stop = Stop()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        stop()
        typer.echo("stopping: waiting for the answers in flight; once more to leave at once", err=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    progress = Progress(asked=job.size)
    try:
        async with shown(progress, quiet=quiet):
            return await run_job(job, engine, store, folder, concurrency=concurrency, progress=progress, stop=stop)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        await engine.close()


def default_name(job: Job) -> str:
    """A name for a run that tells what was asked; the same command gives the same name."""
    from relabel.labelling.request import canonical_json

    parts = [job.model, job.rubric.id, Path(job.tasks_ref).stem if job.tasks_ref.endswith(".csv") else job.tasks_ref]
    if job.parameters["sample"]:
        parts.append(f"n{job.parameters['sample']}-s{job.parameters['seed']}")
    whole: list[Any] = [
        job.endpoint.model_dump(),
        job.rubric.sha256,
        job.prompt.sha256,
        job.settings,
        job.samples,
        job.examples,
        job.parameters,
        [source.sha256 for source in job.sources],
    ]
    digest = hashlib.sha256(canonical_json(whole)).hexdigest()[:6]
    return re.sub(r"[^a-z0-9.]+", "-", "-".join([*parts, digest]).lower()).strip("-")


def _parameters(given: list[str]) -> dict[str, Any]:
    import json

    from relabel.errors import UsageError

    found: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or not name or name in {"model", "messages", "response_format", "stream", "n"}:
            raise UsageError(f"--param {item!r} is not NAME=VALUE with a sampling parameter, such as temperature=0")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _show_plan(job: Job, environment: Settings, *, as_json: bool) -> None:
    import json

    from relabel.labelling.store import Store

    known = 0
    if environment.store_dir.exists():
        with Store(environment.store_dir) as store:
            known = sum(store.get(planned.request.key) is not None for planned in job.plan())
    if as_json:
        typer.echo(json.dumps({"requests": job.size, "in_store": known, "to_ask": job.size - known}, indent=2))
        return
    typer.echo(
        f"{job.size} labels: {len(job.tasks)} tasks x {', '.join(job.settings)} x {job.samples} sample(s); "
        f"{known} are in the store, {job.size - known} would be asked of {job.model} at {job.base_url}"
    )


def _show_outcome(outcome: Outcome, folder: Path, model: str) -> None:
    from relabel.cli.display import money
    from relabel.labelling.engines.local import ADVICE, is_local

    m = outcome.manifest
    if outcome.failures:
        kinds: dict[str, int] = {}
        for failure in outcome.failures:
            kinds[failure.kind] = kinds.get(failure.kind, 0) + 1
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        typer.echo(f"MISSING  {len(outcome.failures)} of {m.counts.asked} labels ({said})")
    typer.echo(
        f"labels   {m.counts.from_store + m.counts.fresh} of {m.counts.asked}: {m.counts.from_store} from the store, {m.counts.fresh} fresh"
    )
    by_setting: dict[str, dict[str, int]] = {}
    for row in outcome.labels:
        counts = by_setting.setdefault(row.setting, {})
        counts[row.label] = counts.get(row.label, 0) + 1
    for setting, counts in by_setting.items():
        typer.echo(f"         {setting}: " + ", ".join(f"{label} {count}" for label, count in sorted(counts.items())))
    typer.echo(f"model    {m.model}, answered as {', '.join(m.models_returned) or 'nothing'}")
    typer.echo(
        f"tokens   {m.tokens.prompt:,} in ({m.tokens.cached:,} cached), {m.tokens.completion:,} out; {money(m.cost_usd)}"
    )
    typer.echo(f"folder   {folder}")
    if is_local(model):
        typer.echo(ADVICE if model == "local" else "Labels of a model of your own: evaluate them before you use them.")
