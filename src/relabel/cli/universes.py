"""`relabel score RUN --multiverse`: how much the scores depend on choices."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from relabel.cli import _render as lines

if TYPE_CHECKING:
    from relabel.run import Run
    from relabel.scoring.multiverse import Multiverse
    from relabel.scoring.table import ScoreTable

_SHOWN = 10


def show_multiverse(table: ScoreTable, run: Run, raters: Sequence[Run], *, out: Path | None, as_json: bool) -> None:
    """Score in all universes and show how far they lie apart.

    Args:
        table: A score table of the run.
        run: The run.
        raters: Other raters; none takes those at hand.
        out: Where to write: the whole as `.json`, the ranges by occupation as `.csv` or `.parquet`.
        as_json: Whether to print the whole as JSON instead.
    """
    from relabel.scoring.files import json_bytes
    from relabel.scoring.multiverse import default_raters, multiverse, multiverse_document

    found = multiverse(table, run, raters or default_raters(run))
    document = {"table": table.describe()} | dict(multiverse_document(found))
    if out is not None:
        _write(found, document, out)
    if as_json:
        typer.echo(json_bytes(document), nl=False)
        return
    _show(found, table)
    if out is not None:
        typer.echo(f"written: {out}")


def _write(found: Multiverse, document: dict[str, object], out: Path) -> None:
    from relabel.cli._options import write
    from relabel.scoring.files import csv_bytes, json_bytes, parquet_bytes, require_suffix

    kind = require_suffix(out)
    if kind == "json":
        content = json_bytes(document)
    elif kind == "csv":
        content = csv_bytes(found.occupations)
    else:
        about = {name: part for name, part in document.items() if name != "occupations"}
        content = parquet_bytes(found.occupations, about)
    write(out, content, "--out", make_folder=True)


def _show(found: Multiverse, table: ScoreTable) -> None:
    from relabel.scoring.multiverse import CHOICES

    universes = found.universes
    typer.echo(
        lines.wrapped(f"{len(universes):,} universes on {table.tasks}, {universes['labels'].nunique()} label sets:")
    )
    for choice in CHOICES:
        levels = "; ".join(str(level) for level in universes[choice].unique())
        typer.echo(f"  {choice:<11}{lines.wrapped(levels, indent=13, hang=0).lstrip()}")
    for why in found.left_out:
        typer.echo(lines.wrapped(f"left out: {why}"))
    typer.echo("\nheadline figures; means and shares are of jobs, wage exposure in GBP billion")
    typer.echo(f"{'':<26}{'chosen':>9}{'min':>9}{'max':>9}  most by")
    for row in found.headline.to_dict("records"):
        money = str(row["outcome"]).startswith("wage")
        numbers = [float(row[name]) for name in ("chosen", "min", "max")]
        shown = [("-" if isnan(x) else f"{x / 1e9:,.1f}" if money else f"{x:.3f}") for x in numbers]
        name = str(row["outcome"]).removesuffix("_gbp").replace("_", " ")
        typer.echo(f"{name:<26}{shown[0]:>9}{shown[1]:>9}{shown[2]:>9}  {row['most'] or 'nothing'}")
    typer.echo("")
    typer.echo(
        lines.wrapped("part of the variance that each choice alone accounts for (labels: rater and rubric together)")
    )
    choices = {choice: max(7, len(choice) + 1) for choice in ("labels", *CHOICES)}
    typer.echo(f"{'':<22}" + "".join(f"{choice:>{wide}}" for choice, wide in choices.items()))
    parts = found.effects.pivot(index="outcome", columns="choice", values="first_order")
    for outcome in dict.fromkeys(found.effects["outcome"]):
        cells = [(float(parts.loc[outcome].get(choice, float("nan"))), wide) for choice, wide in choices.items()]
        name = str(outcome).removesuffix("_gbp").replace("_", " ").replace("wage exposure", "wages")
        typer.echo(f"{name:<22}" + "".join(f"{'-' if isnan(x) else format(x, '.0%'):>{wide}}" for x, wide in cells))
    for measure in ("alpha", "gamma"):
        ranges = found.occupations.dropna(subset=[f"{measure}_range"])
        if ranges.empty:
            continue
        widths = ranges[f"{measure}_range"]
        typer.echo(
            f"\n{measure}: a group's score ranges over {widths.median():.3f} (median), {widths.max():.3f} (most)"
        )
        typer.echo(f"{'code':<11}{'score':>7}{'min':>7}{'max':>7}  {'most by':<9}title")
        wide = ranges.sort_values([f"{measure}_range", "code"], ascending=[False, True]).head(_SHOWN)
        for row in wide.to_dict("records"):
            numbers = [float(row[name]) for name in (measure, f"{measure}_min", f"{measure}_max")]
            shown = "".join(f"{'-' if isnan(x) else format(x, '.3f'):>7}" for x in numbers)
            typer.echo(lines.row(f"{row['code']:<11}{shown}  {row[f'{measure}_most']:<9}", str(row["title"])))
