"""`relabel bridge`: the path of one code over the bridge, with its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from relabel.cli._render import row, wrapped
from relabel.scoring.options import Links, Method, Taxonomy

if TYPE_CHECKING:
    from relabel.scoring.paths import Path

_SHOWN = 3
_WIDTH = 44


def register(app: typer.Typer) -> None:
    """Add `bridge` to the command line."""
    app.command("bridge")(bridge)


def bridge(
    unit: Annotated[str, typer.Argument(metavar="UNIT", help="A group, such as 1121, or an O*NET-SOC code.")],
    *,
    method: Annotated[Method, typer.Option(help="Whose bridge; see `relabel score`.")] = "bridge",
    taxonomy: Annotated[Taxonomy, typer.Option(help="Classification that the bridge leads to.")] = "uk-soc2020",
    links: Annotated[
        Links | None, typer.Option(help="How the bridge weighs the sources of a code. By default index.")
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="Task list that says which O*NET-SOC codes have task statements.")
    ] = "onet-30.2",
    as_json: Annotated[bool, typer.Option("--json", help="Print the path as one JSON document.")] = False,
) -> None:
    """Show which O*NET-SOC codes stand for a group and by which way, or where an O*NET-SOC code leads."""
    from relabel.errors import UsageError
    from relabel.scoring.files import json_bytes
    from relabel.scoring.options import ONE_WAY, SAMPLE
    from relabel.scoring.paths import find_path

    if method == "site-2026" and (taxonomy in ONE_WAY or tasks == SAMPLE):
        where = "over the sample" if tasks == SAMPLE else f"to {taxonomy}"
        raise UsageError(f"there is one way only {where}, the same by every method; leave --method out")
    path = find_path(unit, method=method, taxonomy=taxonomy, links=links, tasks=tasks)
    if as_json:
        typer.echo(json_bytes(path.describe()), nl=False)
        return
    from relabel.scoring.options import SYSTEM_NAMES

    typer.echo(wrapped(f"{SYSTEM_NAMES[path.system]} {path.code} {path.title}"))
    if path.system == path.bridge.target:
        _show_back(path)
        _show_others(path)
    else:
        _show_forward(path)


def _show_back(path: Path) -> None:
    from relabel.scoring.options import SYSTEM_NAMES

    if path.borrowed:
        typer.echo(wrapped("no task statements lead here; it borrows from the other codes of the same SOC broad group"))
    for step in reversed(path.bridge.steps):
        links = path.back[path.back["system"] == step.source]
        typer.echo("\n" + wrapped(f"back to {SYSTEM_NAMES[step.source]}: {step.origin}"))
        typer.echo(f"{'code':<11}{'share':>8}  {'for':<11}{'weight':>10}{'part':>8}  title")
        for link in links.to_dict("records"):
            part = f"{link['part']:.1%}" if link["with_tasks"] else "-"
            share = f"{link['share']:.1%}" if link["with_tasks"] else "no tasks"
            cells = f"{link['code']:<11}{share:>8}  {link['target']:<11}{link['weight']:>10,.4g}{part:>8}  "
            typer.echo(row(cells, str(link["title"])))


def _show_others(path: Path) -> None:
    typer.echo("\nforward: what its O*NET-SOC codes count here, and most elsewhere")
    for code, rows in sorted(path.forward.groupby("onet_soc_code"), key=lambda x: -float(x[1]["share"].iloc[0])):
        others = [f"{other['code']} {other['share']:.0%}" for other in rows.iloc[1 : 1 + _SHOWN].to_dict("records")]
        more = f" and {len(rows) - 1 - _SHOWN} more" if len(rows) - 1 > _SHOWN else ""
        first = rows.iloc[0]
        elsewhere = f"; in {', '.join(others)}{more}" if others else ""
        said = wrapped(f"{str(first['onet_soc_title'])[:_WIDTH]}{elsewhere}", indent=21, hang=2).lstrip()
        typer.echo(f"{code:<11}{first['share']:>8.1%}  {said}")


def _show_forward(path: Path) -> None:
    from relabel.scoring.options import SYSTEM_NAMES

    if path.forward.empty:
        typer.echo("it has no task statements, or leads nowhere")
    for step in path.bridge.steps:
        rows = path.forward[path.forward["system"] == step.target]
        typer.echo(f"\nforward to {SYSTEM_NAMES[step.target]}")
        for led in rows.sort_values(["share", "code"], ascending=[False, True]).to_dict("records"):
            typer.echo(row(f"{led['code']:<11}{led['share']:>8.1%}  ", str(led["title"])))
