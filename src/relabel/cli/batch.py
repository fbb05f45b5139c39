"""`relabel batch`: the jobs that wait in a provider's queue, and the way from `relabel run --engine batch` into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relabel.cli._options import AsJson, Commands, LogJson, ManifestJson, Quiet, give_json, progress_style
from relabel.errors import DataError, IncompleteRunError, UsageError

if TYPE_CHECKING:
    from relabel.cli.display import Look
    from relabel.labelling.batch.state import BatchOptions, BatchState
    from relabel.labelling.job import Job
    from relabel.labelling.session import Outcome
    from relabel.settings import Settings

app = Commands()
batch_app = Commands(name="batch", help="Manage runs that use the Batch API.", no_args_is_help=True)
app.add_typer(batch_app)

_Ref = Annotated[str, typer.Argument(metavar="RUN", help="A run id, its first characters, or a run folder.")]


@batch_app.command("list")
def list_batches(refresh: bool = False, as_json: AsJson = False) -> None:
    """List the batch jobs of this machine, newest first, with the last known state of their batches.

    Args:
        refresh: Ask the provider for the state of open batches; needs the key.
    """
    import asyncio

    from relabel.labelling.batch.state import known_states
    from relabel.settings import settings

    environment = settings()
    states, damaged = known_states(_home(environment))
    if refresh:
        asyncio.run(_refresh(states, environment))
    broken = [{"run_id": run, "problem": problem} for run, problem in damaged.items()]
    if give_json({"runs": [_document(state) for state in states], "damaged": broken}, as_json=as_json):
        return
    if not states and not damaged:
        typer.echo("no batch jobs; `relabel run --engine batch` starts one")
    for state in states:
        typer.echo(_line(state))
    for run, problem in damaged.items():
        typer.echo(f"{run}  damaged  {problem}")


@batch_app.command()
def resume(ref: _Ref, quiet: Quiet = False, log_json: LogJson = False, as_json: ManifestJson = False) -> None:
    """Resume a batch job: wait for its batches, collect their answers, and request again what is missing.

    The job is stored with its batches: neither its files nor its start folder are needed, and nothing that a batch
    has is requested again.
    """
    _resume(_state(ref), submit=True, look=progress_style(quiet=quiet, log_json=log_json), as_json=as_json)


@batch_app.command()
def cancel(ref: _Ref, quiet: Quiet = False, log_json: LogJson = False, as_json: ManifestJson = False) -> None:
    """Cancel the batches of a job at the provider, and collect the answers that are ready: they are paid for.

    The run folder is written with these answers. The command of the run requests the rest, if you want it after all.
    """
    state = _find(ref)
    if state is None and (released := _release_reserved(ref)):
        typer.echo(f"this machine has no batch of run {ref}; released its {released:,} reserved requests", err=True)
        return
    state = state or _state(ref)
    if not state.open:
        typer.echo(f"run {state.run_id} has no open batch; nothing to cancel", err=True)
        return
    many = len(state.open)
    try:
        _resume(state, submit=False, look=progress_style(quiet=quiet, log_json=log_json), as_json=as_json)
    except IncompleteRunError as error:
        typer.echo(f"cancelled {many} batch(es) of run {state.run_id} and collected their answers; {error}", err=True)
    else:
        typer.echo(f"run {state.run_id} was already complete; nothing to cancel", err=True)


def label_by_batch(
    job: Job,
    folder: Path,
    environment: Settings,
    *,
    options: BatchOptions,
    base_url: str | None,
    headers: Mapping[str, str] | None = None,
    look: Look,
) -> tuple[Outcome, str]:
    """Run a job by batches to its end.

    Args:
        job: What to label.
        folder: The run folder.
        environment: Settings from the environment.
        options: How the job is worked on; without `submit` batches are cancelled, and what they have is taken.
        base_url: The provider's address.
        headers: Headers that the user adds to each request; by default those that the job was started with, credentials left out.
        look: How progress looks.

    Returns:
        The outcome, and how to resume if it was interrupted.
    """
    from relabel.cli._labelling import run_until_stopped
    from relabel.cli.display import shown
    from relabel.labelling.batch import state
    from relabel.labelling.batch.provider import batch_provider
    from relabel.labelling.batch.runner import run_batch
    from relabel.labelling.collector import Progress
    from relabel.labelling.job import Stop
    from relabel.labelling.store import Store

    provider = batch_provider(job, base_url, environment, options.key_env, headers)
    name, home = state.run_id(job), _home(environment)
    go_on = f"submitted batches continue at the provider; `relabel batch resume {name}` collects their answers"
    if look == "people" and options.submit:
        typer.echo(f"batch run {name}, state in {home / name}; after a stop, {go_on}", err=True)

    stop, progress = Stop(), Progress(asked=job.size)

    async def work(store: Store) -> Outcome:
        async with shown(progress, None, look=look):  # the provider's queue bounds the batches in flight
            return await run_batch(job, store, folder, provider, home, options=options, progress=progress, stop=stop)

    with Store(environment.store_dir) as store:
        return run_until_stopped(work(store), stop, "uploads in progress", look=look), go_on


def _resume(state: BatchState, *, submit: bool, look: Look, as_json: bool) -> None:
    """Go on with a stored job."""
    import shlex

    from relabel.cli._labelling import report
    from relabel.labelling.batch.state import BatchFolder, BatchOptions
    from relabel.settings import settings

    environment = settings()
    job = BatchFolder(_home(environment), state.run_id).load_job()
    if job is None:
        command = f"`relabel {shlex.join(state.command)}`" if state.command else "the command of the run"
        raise DataError(
            f"run {state.run_id} was started by an earlier version of relabel, which did not store the job; run {command} again: it "
            f"continues with the existing batches, and `relabel batch` works from then on"
        )
    folder, options = Path(state.out), BatchOptions(submit=submit, max_cost=state.max_cost, key_env=state.key_env)
    outcome, go_on = label_by_batch(job, folder, environment, options=options, base_url=state.base_url, look=look)
    report(outcome, folder, job.model, go_on, as_json=as_json)


async def _refresh(states: list[BatchState], environment: Settings) -> None:
    """Ask how open batches do. It is only shown: the state belongs to the process that works on the job."""
    from datetime import UTC, datetime

    from relabel.labelling.batch.provider import GoneError, batch_provider
    from relabel.labelling.batch.state import BatchFolder

    for state in states:
        job = BatchFolder(_home(environment), state.run_id).load_job()
        if job is None or not any(chunk.batch_id for chunk in state.open):
            continue
        provider = batch_provider(job, state.base_url, environment, state.key_env)
        try:
            for chunk in state.open:
                if chunk.batch_id is None:
                    continue
                try:
                    batch = await provider.retrieve(chunk.batch_id)
                    chunk.status, chunk.answered = batch.status, batch.answered
                    chunk.checked_at = datetime.now(UTC).isoformat(timespec="seconds")
                except GoneError:
                    chunk.status = "gone"
        finally:
            await provider.close()


def _find(ref: str) -> BatchState | None:
    from relabel.labelling.batch.state import find_state
    from relabel.settings import settings

    return find_state(_home(settings()), ref)


def _state(ref: str) -> BatchState:
    if (state := _find(ref)) is None:
        raise UsageError(f"unknown batch job {ref!r}; `relabel batch list` lists the jobs of this machine")
    return state


def _release_reserved(ref: str) -> int:
    """Release the requests of a batch run whose state was lost; returns their number."""
    from relabel.labelling.leases import Leases
    from relabel.settings import settings

    folder = settings().store_dir
    if not folder.is_dir():
        return 0
    leases = Leases(folder)
    held = leases.reserve(ref, ())
    leases.close()
    return held


def _home(environment: Settings) -> Path:
    return environment.home / "batches"


def _document(state: BatchState) -> dict[str, Any]:
    hidden = {"failed", "creating_since"}
    chunks = [{**chunk.model_dump(exclude=hidden), "failed": len(chunk.failed)} for chunk in state.current]
    return {
        "run_id": state.run_id,
        "state": _status(state),
        "model": state.model,
        "base_url": state.base_url,
        "folder": state.out,
        "started_at": state.started_at,
        "ended_at": state.ended_at,
        "requests": sum(chunk["requests"] for chunk in chunks),
        "open": len(state.open),
        "chunks": chunks,
    }


def _status(state: BatchState) -> str:
    return "ended" if state.ended_at is not None else "open"


def _line(state: BatchState) -> str:
    from collections import Counter

    mine = state.current
    statuses = Counter("taken" if chunk.taken else chunk.status for chunk in mine)
    said = ", ".join(f"{count} {status}" for status, count in statuses.items()) or "nothing sent"
    requests = sum(chunk.requests for chunk in mine)
    answered = sum(chunk.requests if chunk.taken else chunk.answered for chunk in mine)
    checked = max((chunk.checked_at for chunk in mine if chunk.checked_at), default=None)
    seen = f", last checked {checked}" if checked and state.open else ""
    notes = "".join(f"; {chunk.note}" for chunk in mine if chunk.note)
    return (
        f"{state.run_id}  {_status(state):<5}  {len(mine)} chunk(s): {said}; {answered:,} of {requests:,} requests done; "
        f"since {state.started_at}{seen}; {state.model}; {state.out}{notes}"
    )
