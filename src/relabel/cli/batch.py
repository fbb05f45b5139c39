"""`relabel batch`: the jobs that wait in a provider's queue."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from relabel import settings
from relabel.cli import _labelling
from relabel.cli._options import AsJson, Commands, LogJson, ManifestJson, Quiet, give_json, progress_style
from relabel.errors import IncompleteRunError, UsageError
from relabel.labelling import leases
from relabel.labelling.batch import state as batches

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
    environment = settings.settings()
    states, damaged = batches.known_states(environment.home / "batches")
    if refresh:
        import asyncio

        asyncio.run(_labelling.refresh_batches(states, environment))
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
    state, environment = _find(ref)
    look = progress_style(quiet=quiet, log_json=log_json)
    _labelling.resume_batches(_require_state(state, ref), environment, submit=True, look=look, as_json=as_json)


@batch_app.command()
def cancel(ref: _Ref, quiet: Quiet = False, log_json: LogJson = False, as_json: ManifestJson = False) -> None:
    """Cancel the batches of a job at the provider, and collect the answers that are ready: they are paid for.

    The run folder is written with these answers. The command of the run requests the rest, if you want it after all.
    """
    state, environment = _find(ref)
    if state is None and (released := _release_reserved(ref, environment)):
        typer.echo(f"this machine has no batch of run {ref}; released its {released:,} reserved requests", err=True)
        return
    state = _require_state(state, ref)
    if not state.open:
        typer.echo(f"run {state.run_id} has no open batch; nothing to cancel", err=True)
        return
    many = len(state.open)
    try:
        look = progress_style(quiet=quiet, log_json=log_json)
        _labelling.resume_batches(state, environment, submit=False, look=look, as_json=as_json)
    except IncompleteRunError as error:
        typer.echo(f"cancelled {many} batch(es) of run {state.run_id} and collected their answers; {error}", err=True)
    else:
        typer.echo(f"run {state.run_id} was already complete; nothing to cancel", err=True)


def _find(ref: str) -> tuple[batches.BatchState | None, settings.Settings]:
    environment = settings.settings()
    return batches.find_state(environment.home / "batches", ref), environment


def _require_state(state: batches.BatchState | None, ref: str) -> batches.BatchState:
    if state is None:
        raise UsageError(f"unknown batch job {ref!r}; `relabel batch list` lists the jobs of this machine")
    return state


def _release_reserved(ref: str, environment: settings.Settings) -> int:
    """Release the requests of a batch run whose state was lost; returns their number."""
    if not environment.store_dir.is_dir():
        return 0
    reserved = leases.Leases(environment.store_dir)
    released = reserved.reserve(ref, ())
    reserved.close()
    return released


def _document(state: batches.BatchState) -> dict[str, Any]:
    hidden = {"failed", "creating_since"}
    chunks = [{**chunk.model_dump(exclude=hidden), "failed": len(chunk.failed)} for chunk in state.current]
    same = {"run_id", "model", "base_url", "started_at", "ended_at"}
    status = {"state": _status(state), "folder": state.out, "open": len(state.open), "chunks": chunks}
    return state.model_dump(include=same) | status | {"requests": sum(chunk["requests"] for chunk in chunks)}


def _status(state: batches.BatchState) -> str:
    return "ended" if state.ended_at is not None else "open"


def _line(state: batches.BatchState) -> str:
    chunks = state.current
    statuses = Counter("taken" if chunk.taken else chunk.status for chunk in chunks)
    counts_text = ", ".join(f"{count} {status}" for status, count in statuses.items()) or "nothing sent"
    requests = sum(chunk.requests for chunk in chunks)
    answered = sum(chunk.requests if chunk.taken else chunk.answered for chunk in chunks)
    checked = max((chunk.checked_at for chunk in chunks if chunk.checked_at), default=None)
    seen = f", last checked {checked}" if checked and state.open else ""
    notes = "".join(f"; {chunk.note}" for chunk in chunks if chunk.note)
    return (
        f"{state.run_id}  {_status(state):<5}  {len(chunks)} chunk(s): {counts_text}; {answered:,} of {requests:,} requests done; "
        f"since {state.started_at}{seen}; {state.model}; {state.out}{notes}"
    )
