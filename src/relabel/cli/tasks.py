"""`relabel tasks`: what changed between two task lists, and a run carried from one to the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relabel.cli._options import AsJson, OutJson, give_json, require_file

if TYPE_CHECKING:
    from relabel.task import TaskDiff

app = typer.Typer(no_args_is_help=True, help="Compare task lists; carry a run from one list to another.")

_SHOWN = 5
_WIDTH = 100


@app.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="onet-29.1, eloundou-2023 or FILE.csv.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="onet-30.2 or FILE.csv.")],
    *,
    as_json: AsJson = False,
    out: OutJson = None,
) -> None:
    """Compare two task lists by id and text: unchanged, reworded, moved, new, dropped."""
    from relabel.scoring.files import json_bytes
    from relabel.task import diff_tasks

    require_file(out, "--out", make_folder=True)
    found = diff_tasks(old, new)
    if not give_json(json_bytes(found.describe()), out=out, as_json=as_json):
        _show(found)


@app.command()
def carry(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a name under runs/, or a published set.")],
    *,
    to: Annotated[str, typer.Option("--to", metavar="TASKS", help="The newer task list: onet-30.2 or FILE.csv.")],
    out: Annotated[Path, typer.Option(help="Folder of the carried run.")],
    old: Annotated[
        str | None, typer.Option("--from", metavar="TASKS", help="The list that the run labelled, if it moved.")
    ] = None,
    fill: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="A run under the same rubric that labelled the tasks to be asked again."),
    ] = None,
) -> None:
    """Carry a run to a newer task list: labels of unchanged tasks are kept, to-ask.csv lists the others.

    Answers of a run that is still in the store need no carrying: `relabel run --tasks` on the newer list finds them.
    """
    from relabel.importing import TO_ASK, carry_run
    from relabel.run import open_run

    done = carry_run(open_run(run), to, out, old=old, fill=None if fill is None else open_run(fill))
    for sentence in done.warnings:
        typer.echo(f"WARNING: {sentence}", err=True)
    _show(done.diff, examples=False)
    filled = f", {done.filled:,} filled from {fill}" if fill is not None else ""
    typer.echo(f"{done.carried:,} labels carried{filled}; {done.to_ask:,} of {done.tasks:,} tasks are to be asked")
    typer.echo(f"written: {out}")
    if done.to_ask:
        repeats = f" --samples {done.samples}" if done.samples > 1 else ""
        typer.echo(f"next: relabel run --tasks {out / TO_ASK}{repeats} --out ASKED, then carry again with --fill ASKED")


def _show(found: TaskDiff, *, examples: bool = True) -> None:
    from relabel.task import CHANGE_NOTES

    typer.echo(f"{found.old} -> {found.new}")
    for change, count in found.counts.items():
        typer.echo(f"{change:<10}{count:>8,}  {CHANGE_NOTES[change]}")
    if found.retitled:
        typer.echo(f"{found.retitled:,} of the unchanged tasks belong to an occupation with another title")
    if not examples:
        return
    for change in ("reworded", "moved", "new", "dropped"):
        rows = found.rows(change)
        if rows.empty:
            continue
        typer.echo(f"\n{change}:")
        for row in rows.head(_SHOWN).to_dict("records"):
            sides = ["new"] if change == "new" else ["old"] if change == "dropped" else ["old", "new"]
            for side in sides:
                mark = {"old": "-", "new": "+"}[side]
                typer.echo(
                    f"{mark} {row[f'onet_soc_code_{side}']} {row[f'task_id_{side}']:>6} {_cut(row[f'text_{side}'])}"
                )
        if len(rows) > _SHOWN:
            typer.echo(f"... and {len(rows) - _SHOWN:,} more (--json has all)")


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."
