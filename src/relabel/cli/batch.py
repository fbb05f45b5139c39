"""`relabel batch`: the jobs that wait in a provider's queue, and the way from `relabel run --engine batch` into it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from relabel.cli.display import Look
    from relabel.labelling.connection import Connection
    from relabel.labelling.engines.batch_state import BatchState
    from relabel.labelling.job import Job
    from relabel.labelling.outcome import Outcome
    from relabel.settings import Settings

app = typer.Typer(help="Look after runs that wait for the Batch API.", no_args_is_help=True)

_NOT_KEPT = {"base_url", "out", "dry_run", "quiet", "log_json", "as_json"}
"""Options of `relabel run` that are said anew, or left out, when a job is taken up again."""

_Ref = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the beginning of one, or a run folder.")]
_Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
_LogJson = Annotated[
    bool, typer.Option("--log-json", help="Write progress as JSON events, one a line, to standard error.")
]
_ManifestJson = Annotated[bool, typer.Option("--json", help="Print the manifest as one JSON document.")]


@dataclass(frozen=True)
class TakenUp:
    """Tells `relabel run` that it takes a known job up again.

    Attributes:
        run_id: The job.
        submit: Whether what is missing is asked for; else batches are stopped and what they have is taken.
    """

    run_id: str
    submit: bool


@app.command("list")
def list_batches(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask the provider how the open batches do; needs the key.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the batch jobs of this machine, the newest first, with what the provider last said of their batches."""
    import asyncio
    import json

    from relabel.labelling.engines.batch_state import known_states
    from relabel.settings import settings

    environment = settings()
    states, damaged = known_states(_home(environment))
    if refresh:
        asyncio.run(_refresh(states, environment))
    if as_json:
        broken = [{"run_id": state.run_id, "problem": state.problem} for state in damaged]
        typer.echo(json.dumps({"runs": [_document(state) for state in states], "damaged": broken}, indent=2))
        return
    if not states and not damaged:
        typer.echo("no batch jobs; `relabel run --engine batch` makes one")
    for state in states:
        typer.echo(_line(state))
    for state in damaged:
        typer.echo(f"{state.run_id}  damaged  {state.problem}")


@app.command()
def resume(
    ref: _Ref,
    quiet: _Quiet = False,
    log_json: _LogJson = False,
    as_json: _ManifestJson = False,
) -> None:
    """Go on with a batch job: wait for its batches, take their answers, ask again for what is missing.

    It is the command of the run once more, in the folder that it ran in; nothing that a batch has is asked for again.
    """
    state = _state(ref)
    _take_up(state, submit=True, flags=_flags(quiet, log_json, as_json))


@app.command()
def cancel(
    ref: _Ref,
    quiet: _Quiet = False,
    log_json: _LogJson = False,
    as_json: _ManifestJson = False,
) -> None:
    """Stop the batches of a job at the provider, and take the answers that they have: those are paid for.

    The run folder is written with what there is. The command of the run asks for the rest, should you want it after all.
    """
    import asyncio

    from relabel.errors import IncompleteRunError
    from relabel.labelling.engines.batch_state import OtherJobError
    from relabel.settings import settings

    state = _state(ref)
    if not state.open:
        typer.echo(f"run {state.run_id} has no open batch; nothing to cancel", err=True)
        return
    many = len(state.open)
    try:
        _take_up(state, submit=False, flags=_flags(quiet, log_json, as_json))
    except IncompleteRunError as error:
        typer.echo(f"cancelled {many} batch(es) of run {state.run_id}, their answers are taken; {error}", err=True)
    except OtherJobError as error:
        asyncio.run(_stop_only(state, settings()))
        raise OtherJobError(f"{error}; its batches are stopped at the provider, their answers wait there") from error
    else:
        typer.echo(f"run {state.run_id} was complete: there was nothing left to cancel", err=True)


def label_by_batch(
    ctx: typer.Context,
    job: Job,
    folder: Path,
    described: Connection,
    environment: Settings,
    max_cost: float | None,
    *,
    look: Look,
) -> tuple[Outcome, str]:
    """Run a job by batches to its end.

    Args:
        ctx: Of `relabel run`; its options are kept for `relabel batch resume`.
        job: What to label.
        folder: The run folder.
        described: The model.
        environment: Settings from the environment.
        max_cost: Cap of the cost, in USD.
        look: How progress looks.

    Returns:
        What it came to, and how to go on if it was interrupted.
    """
    import asyncio

    from relabel.errors import ProviderError
    from relabel.labelling.engines.batch_state import OtherJobError, run_id
    from relabel.labelling.pricing import OPENAI_URL
    from relabel.labelling.store import Store

    if described.key is None and described.shown_url.startswith(OPENAI_URL):
        raise ProviderError("there is no key for OpenAI; set OPENAI_API_KEY, or name another server with --base-url")
    name = run_id(job)
    taken_up = ctx.find_object(TakenUp)
    if taken_up is not None and taken_up.run_id != name:
        raise OtherJobError(
            f"the command of run {taken_up.run_id} now asks something else, because its tasks, rubric or prompt were changed since; "
            "put them back as they were and try again"
        )
    submit = taken_up is None or taken_up.submit
    go_on = f"batches that were sent go on at the provider, `relabel batch resume {name}` takes their answers"
    if look == "people" and submit:
        typer.echo(f"batch run {name}, its state is in {_home(environment) / name}; once stopped, {go_on}", err=True)
    with Store(environment.store_dir) as store:
        work = _work(
            job,
            store,
            folder,
            described,
            _home(environment),
            command=_command(ctx, described, folder),
            submit=submit,
            max_cost=max_cost,
            look=look,
        )
        return asyncio.run(work), go_on


async def _work(
    job: Job,
    store: Any,
    folder: Path,
    described: Connection,
    home: Path,
    *,
    command: list[str],
    submit: bool,
    max_cost: float | None,
    look: Look,
) -> Outcome:
    from relabel.cli.display import shown
    from relabel.cli.edge import stopping_on_signals
    from relabel.labelling.engines import batch_terms
    from relabel.labelling.engines.batch import run_batch
    from relabel.labelling.engines.batch_provider import batch_client
    from relabel.labelling.job import Stop
    from relabel.labelling.progress import Progress

    stop, progress = Stop(), Progress(asked=job.size)
    client = batch_client(described.base_url, described.key)
    try:
        with stopping_on_signals(stop, "what is being sent is let finish", look=look):
            async with shown(progress, None, look=look):  # the provider's queue is what bounds batches in flight
                return await run_batch(
                    job,
                    store,
                    folder,
                    client=client,
                    batches=home,
                    command=command,
                    progress=progress,
                    stop=stop,
                    terms=batch_terms.Terms(submit=submit, max_cost=max_cost, poll_s=batch_terms.POLL_S),
                )
    finally:
        await client.close()


def _command(ctx: typer.Context, described: Connection, folder: Path) -> list[str]:
    """The words that make this run again, from the same folder; address and run folder are said in full, credentials never."""
    words = ["run"]
    for option in ctx.command.params:
        name = option.name or ""
        source = ctx.get_parameter_source(name)
        if name in _NOT_KEPT or source is None or source.name == "DEFAULT":
            continue
        value = ctx.params[name]
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(one, bool):
                words.append(option.opts[0] if one else option.secondary_opts[0])
            else:
                words.append(f"{option.opts[0]}={getattr(one, 'value', one)}")
    return [*words, f"--base-url={described.shown_url}", f"--out={folder.resolve()}"]


def _take_up(state: BatchState, *, submit: bool, flags: list[str]) -> None:
    """Give the command of a job once more."""
    from relabel.cli import app as main
    from relabel.errors import DataError

    if not state.command:
        raise DataError(f"run {state.run_id} was not made by a command; go on with it where it was made")
    try:
        os.chdir(state.cwd)
    except OSError as error:
        raise DataError(
            f"the folder {state.cwd} that run {state.run_id} was started in cannot be entered ({error.strerror}); bring it back, "
            "or give the command of the run again"
        ) from error
    command = typer.main.get_command(main.app)
    command.main(
        args=[*state.command, *flags],
        prog_name="relabel",
        standalone_mode=False,
        obj=TakenUp(state.run_id, submit),
    )


async def _stop_only(state: BatchState, environment: Settings) -> None:
    from relabel.labelling.engines.batch_provider import BatchProvider, GoneError, batch_client
    from relabel.labelling.engines.batch_state import BatchFolder

    client = batch_client(state.base_url, environment.openai_api_key)
    provider = BatchProvider(client, state.model)
    try:
        with BatchFolder(_home(environment), state.run_id).locked():
            for chunk in state.open:
                if chunk.batch_id is not None:
                    try:
                        await provider.cancel(chunk.batch_id)
                    except GoneError:
                        continue
    finally:
        await provider.close()


async def _refresh(states: list[BatchState], environment: Settings) -> None:
    """Ask how open batches do. It is only shown: the state belongs to the process that works on the job."""
    from datetime import UTC, datetime

    from relabel.labelling.engines.batch_provider import BatchProvider, GoneError, batch_client

    for state in states:
        provider = BatchProvider(batch_client(state.base_url, environment.openai_api_key), state.model)
        try:
            for chunk in state.open:
                if chunk.batch_id is None:
                    continue
                try:
                    batch = await provider.retrieve(chunk.batch_id)
                except GoneError:
                    chunk.status = "gone"
                    continue
                chunk.status = batch.status
                counts = batch.request_counts
                chunk.answered = (counts.completed + counts.failed) if counts else 0
                chunk.checked_at = datetime.now(UTC).isoformat(timespec="seconds")
        finally:
            await provider.close()


def _state(ref: str) -> BatchState:
    from relabel.errors import UsageError
    from relabel.labelling.engines.batch_state import find_state
    from relabel.settings import settings

    state = find_state(_home(settings()), ref)
    if state is None:
        raise UsageError(f"there is no batch job {ref!r}; `relabel batch list` shows those of this machine")
    return state


def _home(environment: Settings) -> Path:
    return environment.home / "batches"


def _flags(quiet: bool, log_json: bool, as_json: bool) -> list[str]:
    given = {"--quiet": quiet, "--log-json": log_json, "--json": as_json}
    return [flag for flag, wanted in given.items() if wanted]


def _document(state: BatchState) -> dict[str, Any]:
    chunks = [
        {**chunk.model_dump(exclude={"failed", "creating_since", "flying_at_refusal"}), "failed": len(chunk.failed)}
        for chunk in state.chunks
        if chunk.attempt == state.attempt
    ]
    return {
        "run_id": state.run_id,
        "state": _stands(state),
        "model": state.model,
        "base_url": state.base_url,
        "folder": state.out,
        "started_at": state.started_at,
        "ended_at": state.ended_at,
        "requests": sum(chunk["requests"] for chunk in chunks),
        "open": len(state.open),
        "chunks": chunks,
    }


def _stands(state: BatchState) -> str:
    return "ended" if state.ended_at is not None else "open"


def _line(state: BatchState) -> str:
    from collections import Counter

    mine = [chunk for chunk in state.chunks if chunk.attempt == state.attempt]
    statuses = Counter("taken" if chunk.taken else chunk.status for chunk in mine)
    said = ", ".join(f"{count} {status}" for status, count in statuses.items()) or "nothing sent"
    requests = sum(chunk.requests for chunk in mine)
    answered = sum(chunk.requests if chunk.taken else chunk.answered for chunk in mine)
    checked = max((chunk.checked_at for chunk in mine if chunk.checked_at), default=None)
    seen = f", seen {checked}" if checked and state.open else ""
    notes = "".join(f"; {chunk.note}" for chunk in mine if chunk.note)
    return (
        f"{state.run_id}  {_stands(state):<5}  {len(mine)} chunk(s): {said}; {answered:,} of {requests:,} requests done; "
        f"since {state.started_at}{seen}; {state.model}; {state.out}{notes}"
    )
