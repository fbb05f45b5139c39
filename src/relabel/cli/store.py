"""`relabel store`: look after the answers that were paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relabel.cli import _options as o

app = typer.Typer(help="Look after the store of answers.", no_args_is_help=True)


@app.command()
def stats(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Count the answers, by model, with their cost and size."""
    from relabel.labelling.store import Store
    from relabel.settings import settings

    with Store(settings().store_dir) as store:
        found = store.stats()
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    typer.echo(
        f"{found.answers} answers and {found.rejected} rejected ones in {found.folder} ({found.bytes / 1e6:.1f} MB)"
    )
    for model, count in found.by_model.items():
        typer.echo(f"  {count:>8}  {model}")
    unknown = f", and {found.cost_unknown} answers of unknown price" if found.cost_unknown else ""
    for pack, count in found.from_packs.items():
        typer.echo(f"{count:,} of them came from the pack {pack}, for which only its maker can vouch")
    if found.damaged:
        typer.echo(f"{found.damaged} rows are damaged and never served; `relabel store verify` names them")
    if found.aside:
        typer.echo(f"{found.aside} damaged rows have been set aside")
    typer.echo(f"they cost {found.cost_usd:.4f} USD{unknown}")


@app.command()
def verify(
    set_aside: Annotated[
        bool,
        typer.Option("--set-aside", help="Move damaged rows out of the way, so that their questions are asked again."),
    ] = False,
) -> None:
    """Read every answer and check it against the request that it belongs to."""
    from relabel.errors import StoreError
    from relabel.labelling.store import Store
    from relabel.settings import settings

    with Store(settings().store_dir) as store:
        gone = store.set_pickles_aside() if set_aside else 0
        faults = list(dict.fromkeys(store.verify()))
        for fault in faults:
            typer.echo(fault)
        if set_aside:
            damaged = sorted(store.damaged)
            for key in damaged:
                store.set_aside(key)
            typer.echo(f"{len(damaged) + gone:,} damaged rows set aside")
            faults = list(store.verify())
        if faults:
            raise StoreError(
                f"the store {store.folder} has {len(faults)} faults, listed above; a damaged row is never served and its question is "
                "asked again: `relabel store verify --set-aside` moves such rows out of the way, or restore the store from a copy"
            )
        packs = store.stats().from_packs
        typer.echo(f"the store {store.folder} is whole: every row is what its key says")
        if packs:
            typer.echo(
                f"{sum(packs.values()):,} answers came from packs: that a model gave them, only the makers of the packs can say"
            )


@app.command()
def notes(
    drop: Annotated[bool, typer.Option("--drop", help="Forget them; what they say is found out again.")] = False,
) -> None:
    """List what was noted about servers, such as the form in which one takes requests."""
    from relabel.labelling.store import Store
    from relabel.settings import settings

    with Store(settings().store_dir) as store:
        for line in store.notes():
            typer.echo(line)
        if drop:
            typer.echo(f"{store.drop_notes():,} notes dropped")


@app.command()
def pack(
    file: Annotated[Path, typer.Argument(metavar="F", help="The file to write, such as answers.jsonl.gz.")],
    run: Annotated[
        str | None, typer.Option(help="Only the answers of this run. By default all that the store holds.")
    ] = None,
) -> None:
    """Write answers into one portable file, from which anybody can replay the run without a key."""
    from relabel.labelling.packing import pack as pack_rows
    from relabel.labelling.store import Store
    from relabel.run import open_run
    from relabel.settings import settings

    opened = None if run is None else open_run(run)
    with Store(settings().store_dir) as store:
        count = pack_rows(store, file, opened)
    typer.echo(
        f"{count:,} answers in {file} ({file.stat().st_size / 1e6:.1f} MB); `relabel store unpack {file}` takes them in"
    )


@app.command()
def unpack(file: Annotated[Path, typer.Argument(metavar="F", help="A file that `relabel store pack` wrote.")]) -> None:
    """Add the answers of a packed file to the store; what is there already stands."""
    from relabel.labelling.packing import unpack as unpack_rows
    from relabel.labelling.store import Store
    from relabel.settings import settings

    with Store(settings().store_dir) as store:
        added, known = unpack_rows(store, file)
    typer.echo(f"{added:,} answers added, marked as coming from this pack; {known:,} were there already")


def answers(
    run: o.RunArg,
    task: Annotated[
        list[str] | None, typer.Option(help="Only answers about this task's id; may be given more than once.")
    ] = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Show answers that were paid for and are not labels, with the reason.")
    ] = False,
    as_json: o.AsJson = False,
) -> None:
    """Show a run's raw answers, as the model wrote them."""
    import json

    from relabel.cli._render import wrapped
    from relabel.labelling.store import Store
    from relabel.run import open_run
    from relabel.settings import settings

    opened = open_run(run)
    asked = [
        (str(row["request_key"]), row["task_id"], row["setting"], int(row["sample"]))
        for _, row in opened.labels.iterrows()
    ]
    asked += [(failure.request_key, failure.task_id, failure.setting, failure.sample) for failure in opened.failures()]
    wanted = {key: (task_id, setting, sample) for key, task_id, setting, sample in asked if not task or task_id in task}
    with Store(settings().store_dir) as store:
        keys = store.rejected_keys(wanted) if rejected else [key for key in wanted if store.has(key)]
        rows = [(wanted[key.partition("/")[0]], row) for key in keys if (row := store.checked(key)) is not None]
    if as_json:
        shown = [
            {"task_id": task_id, "setting": setting, "sample": sample, **row.answer.model_dump()}
            | ({"rejected": row.rejected.model_dump()} if row.rejected else {})
            for (task_id, setting, sample), row in rows
        ]
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    for (task_id, setting, sample), row in rows:
        one = row.answer
        typer.echo(
            f"{task_id} {setting} sample {sample}  {one.model_returned}, {one.usage.prompt:,} tokens in, {one.usage.completion:,} out, "
            f"finished by {one.finish_reason}{', repaired' * one.repaired}"
        )
        if row.rejected:
            typer.echo(wrapped(f"rejected as {row.rejected.kind}: {row.rejected.reason}", indent=2))
        typer.echo("  " + (one.content or one.refusal or "(empty)").replace("\n", "\n  "))
    if not rows:
        what = "rejected answers" if rejected else "answers"
        typer.echo(f"the store has no {what} of {run}{' about these tasks' if task else ''}", err=True)
