"""`relabel compare A B --scores`: what moved in the scores, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from relabel.cli._options import give_json

if TYPE_CHECKING:
    import pandas as pd

    from relabel.run import Run
    from relabel.scoring.decomposition import Moved
    from relabel.scoring.table import ScoreTable

_SHOWN = 10
_TASKS = 5
_TEXT = 58


def show_scores(
    a: Run, b: Run, *, out: Path | None, as_json: bool, before: Sequence[str] = (), after: Sequence[str] = ()
) -> None:
    """Show how the scores of two runs differ, and write all of it where asked.

    Args:
        a: The first run.
        b: The second run.
        out: Where one JSON document goes.
        as_json: Whether to print it, and nothing else.
        before: Choices of the first table as `NAME=VALUE`, named as the options of `relabel score`; by default its
            defaults.
        after: Choices of the second table.

    Raises:
        UsageError: A choice is not known, or the tables cannot be compared.
    """
    from relabel.cli._options import suggest_onet_soc
    from relabel.scoring.decomposition import what_moved
    from relabel.scoring.files import json_bytes
    from relabel.scoring.options import Choices
    from relabel.scoring.score import score_by

    chosen = Choices.of_words(before), Choices.of_words(after)
    with suggest_onet_soc(chosen[0].taxonomy, "--before taxonomy=onet-soc --after taxonomy=onet-soc"):
        tables = score_by(a, chosen[0]), score_by(b, chosen[1])
    moved = what_moved(*tables)
    if give_json(json_bytes(_document(moved, tables)), out=out, as_json=as_json):
        return
    _show(moved, tables)


def _document(moved: Moved, tables: tuple[ScoreTable, ScoreTable]) -> dict[str, Any]:
    from relabel.scoring.files import records

    return {
        "before": tables[0].describe(),
        "after": tables[1].describe(),
        "changes": [row | {"carriers": _carriers(moved, row)} for row in records(moved.frame)],
        "appeared": records(moved.appeared),
        "disappeared": records(moved.disappeared),
        "missing_measures": dict(moved.missing),
    }


def _carriers(moved: Moved, row: dict[str, Any]) -> list[dict[str, Any]]:
    from relabel.scoring.files import records

    return records(moved.carriers(row["code"], row["measure"]).head(_TASKS)) if row["change"] else []


def _show(moved: Moved, tables: tuple[ScoreTable, ScoreTable]) -> None:
    from relabel.scoring.decomposition import PARTS

    for which, table in zip(("before", "after"), tables, strict=True):
        choices = [f"method {table.method}", f"weights {table.weights}", f"tasks {table.tasks}"]
        choices += [f"{name} {value}" for name, value in (("links", table.links), ("unrated", table.unrated)) if value]
        typer.echo(f"{which + ':':<8}{table.run}: {', '.join(choices)}")
    for why in dict.fromkeys(moved.missing.values()):
        typer.echo(f"not compared: {', '.join(m for m in moved.missing if moved.missing[m] == why)}: {why}")
    if moved.frame.empty:
        typer.echo("no group has a score in both")
    shown = [part for part in PARTS if moved.frame[part].abs().max() > 0] or ["labels"]
    for measure, rows in moved.frame.groupby("measure", sort=False):
        changed = int((rows["change"].abs() > 1e-12).sum())
        typer.echo(f"\n{measure}: {changed:,} of {len(rows):,} groups moved; means over groups")
        typer.echo(f"{'':<9}{'before':>8}{'after':>8}{'change':>8}" + "".join(f"{part:>11}" for part in shown))
        means = rows[["before", "after", "change", *shown]].mean()
        sizes = rows[["change", *shown]].abs().mean()
        typer.echo(f"{'mean':<9}{means['before']:>8.3f}{means['after']:>8.3f}" + _signed(means, ["change", *shown]))
        typer.echo(f"{'size':<9}{'':>16}{sizes['change']:>8.3f}" + "".join(f"{sizes[p]:>11.3f}" for p in shown))
        most = rows.assign(size=rows["change"].abs()).sort_values(["size", "code"], ascending=[False, True])
        for row in most.head(_SHOWN).to_dict("records"):
            if row["size"] <= 1e-12:
                break
            numbers = f"{row['before']:>8.3f}{row['after']:>8.3f}" + _signed(row, ["change", *shown])
            typer.echo(f"{row['code']:<9}{numbers}")
            typer.echo(f"         {row['title'][:80]}")
            top = moved.carriers(str(row["code"]), row["measure"]).head(1)
            for task in top.to_dict("records"):
                labels = f"{task['label_before'] or 'none'} to {task['label_after'] or 'none'}"
                text = str(task["text"])
                short = text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
                typer.echo(f"         most by {task['onet_soc_code']} {task['change']:+.3f} {labels}: {short}")
    for which, alone in (("scored after only", moved.appeared), ("scored before only", moved.disappeared)):
        if len(alone):
            typer.echo(f"\n{which}: {len(alone):,} groups")
            for row in alone.head(_SHOWN).to_dict("records"):
                typer.echo(f"{row['code']:<9}{str(row['title'])[:90]}")
                typer.echo(f"         {str(row['reason'])[:88]}")
            if len(alone) > _SHOWN:
                typer.echo(f"and {len(alone) - _SHOWN:,} more (--json has all)")


def _signed(row: pd.Series | dict[Any, Any], names: Sequence[str]) -> str:
    widths = [8, *[11] * (len(names) - 1)]
    # Adding 0 turns a negative zero into a plain one.
    return "".join(f"{round(float(row[name]), 3) + 0:>+{width}.3f}" for name, width in zip(names, widths, strict=True))
