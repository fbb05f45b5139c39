"""`relabel store`: look after the answers that were paid for."""

from __future__ import annotations

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
