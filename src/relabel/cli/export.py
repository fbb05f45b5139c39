"""`relabel export`: tables and pages for a site, from a run's labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relabel.cli._render import wrapped
from relabel.scoring.options import Links, Method, Repeats, Taxonomy, Unrated, Wage, Weights


def register(app: typer.Typer) -> None:
    """Add `export` to the command line."""
    app.command("export")(export)


def export(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a name under runs/, or a published set.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder to write: new, empty, or an earlier export.")],
    method: Annotated[Method, typer.Option(help="How occupations are scored; see `relabel score`.")] = "bridge",
    taxonomy: Annotated[Taxonomy, typer.Option(help="Classification of the pages.")] = "uk-soc2020",
    weights: Annotated[Weights, typer.Option(help="How tasks weigh within their occupation.")] = "importance",
    links: Annotated[
        Links | None, typer.Option(help="How the bridge weighs the sources of a code. By default index.")
    ] = None,
    unrated: Annotated[
        Unrated | None,
        typer.Option(help="Weight of a task without importance rating: 1, its occupation's mean, or left out."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Task list for texts, types and importance. By default what fits.")
    ] = None,
    pay: Annotated[
        str | None,
        typer.Option(
            help="ons-ashe-2024 (the default), ons-ashe-2025-medians, a source of your own with the role pay, or FILE.csv; uk-soc2020 only."
        ),
    ] = None,
    bridge: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Your own mapping of O*NET-SOC to UK SOC 2020 (CSV or Excel: codes, perhaps weights)."
        ),
    ] = None,
    repeats: Annotated[
        Repeats, typer.Option(help="Value of a task with several samples: their mean, or the most frequent label's.")
    ] = "mean",
    wage: Annotated[Wage, typer.Option(help="Pay that wage exposure is made of; uk-soc2020 only.")] = "median",
    spread: Annotated[
        bool,
        typer.Option(
            "--spread", help="Add the lowest and highest score over several bridges, and add that to the intervals."
        ),
    ] = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Export a run that labelled a part only; every file says so.")
    ] = False,
    draws: Annotated[
        int, typer.Option(help="Draws of label noise behind the intervals, 100 or more; 0 for no intervals.", min=0)
    ] = 1000,
    baseline: Annotated[
        str | None, typer.Option(metavar="RUN", help="An earlier run: list what moved since, and what moved it.")
    ] = None,
    epoch: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="A run of the rubric epoch: ratings for the pages of job families."),
    ] = None,
    families: Annotated[
        bool, typer.Option(help="Make pages of US job families; they need the files of the BLS.")
    ] = True,
) -> None:
    """Write score tables, a page a group, tasks, sources, methodology and a data package into a folder."""
    from relabel.cli._options import reject_ineffective_options, suggest_onet_soc
    from relabel.publishing.export import export_run
    from relabel.run import open_run
    from relabel.scoring.options import SYSTEM_NAMES, Choices
    from relabel.sources.tables import is_table_file

    if not families:
        reject_ineffective_options(ctx, "rates the pages of job families; leave --no-families or this out", "epoch")
    elif tasks is not None and is_table_file(tasks):
        reject_ineffective_options(
            ctx, "needs a task list of O*NET, not a file; leave it or --tasks out", "families", "epoch"
        )
    choices = Choices(
        method=method,
        taxonomy=taxonomy,
        weights=weights,
        links=links,
        unrated=unrated,
        tasks=tasks,
        pay=pay,
        bridge=bridge,
        repeats=repeats,
        wage=wage,
    )
    with suggest_onet_soc(taxonomy, "--taxonomy onet-soc"):
        done = export_run(
            open_run(run),
            out,
            choices,
            allow_partial=allow_partial,
            draws=draws,
            spread=spread,
            baseline=None if baseline is None else open_run(baseline),
            families=families,
            epoch_run=None if epoch is None else open_run(epoch),
        )
    table = done.table
    counts = table.describe()["counts"]
    typer.echo(f"{done.files:,} files ({done.size / 1e6:.1f} MB) in {out}")
    thin = f" and {counts['thin']:,} thin" if counts["thin"] else ""
    headline = (
        f"{table.run}, method {table.method}, {SYSTEM_NAMES[table.taxonomy]}: {counts['scored']:,} of "
        f"{counts['groups']:,} codes scored{thin} from {counts['tasks_labelled']:,} of {counts['tasks_listed']:,} tasks"
    )
    typer.echo(wrapped(headline))
    if table.note:
        typer.echo(wrapped(table.note))
    typer.echo(f"start with {out / 'datapackage.json'} and {out / 'occupations.csv'}")
