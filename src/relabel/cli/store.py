"""`relabel store`: look after the answers that were paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    if found.damaged:
        typer.echo(f"{found.damaged} rows are damaged and never served; `relabel store verify` names them")
    typer.echo(f"they cost {found.cost_usd:.4f} USD{unknown}")


@app.command()
def verify() -> None:
    """Read every answer and check it against the request that it belongs to."""
    from relabel.errors import StoreError
    from relabel.labelling.store import Store
    from relabel.settings import settings

    with Store(settings().store_dir) as store:
        faults = list(dict.fromkeys(store.verify()))
        for fault in faults:
            typer.echo(fault)
        if faults:
            raise StoreError(
                f"the store {store.folder} has {len(faults)} faults, listed above; restore it from a copy, or go on: a damaged row is never served, its question is asked again"
            )
        typer.echo(f"the store {store.folder} is whole")


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
    typer.echo(f"{added:,} answers added, {known:,} were there already")
