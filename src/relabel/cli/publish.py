"""`relabel families`, `resilience` and `careers rate`: job families by exposure, demand and human advantage.

`relabel export`: tables for a site, from a run's labels; `relabel site`: pages from an export.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import relabel
from relabel import task
from relabel.careers import families as family_data
from relabel.careers import pages as family_pages
from relabel.cli import _options
from relabel.cli import score as scores
from relabel.cli.terminal import Table, doing, heading, quoted, say, say_next, serve
from relabel.errors import UsageError
from relabel.publishing import export as exporting
from relabel.publishing.site import build
from relabel.scoring.options import Choices, Weights
from relabel.sources import onet, tables

app = _options.Commands()
careers_app = _options.Commands(name="careers", help="Rate occupations for career pages.", no_args_is_help=True)
app.add_typer(careers_app)
export_app = _options.Commands()


@app.command()
def families(
    *, file: Annotated[Path | None, typer.Option("--families")] = None, as_json: _options.AsJson = False
) -> None:
    """List job families: groups of O*NET codes that career pages are made of.

    Args:
        file: A TOML file of your own in the form of data/families.toml.
    """
    job_families = family_pages.load_families(file)
    if _options.give_json([family.model_dump(mode="json") for family in job_families], as_json=as_json):
        return
    width = max(len(family.id) for family in job_families)
    for family in job_families:
        typer.echo(f"{family.id:<{width}}  {len(family.codes):>3}  {family.name}: {family.description}")


@careers_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def rate(
    ctx: typer.Context,
    *,
    model: str,
    tasks: str = "onet-30.2",
    everything: Annotated[bool, typer.Option("--all")] = False,
    out: Path = _options.DEFAULT_RATINGS,
) -> None:
    """Rate occupations on human advantage, the third part of resilience, with five questions per occupation (rubric epoch).

    All other options of `relabel run` can be given too, such as --base-url, --max-cost or --dry-run. Run the same
    command again to continue after a stop.

    Args:
        model: A model's name, as for `relabel run`.
        tasks: onet-30.2, onet-29.1, sample, or the path of a CSV file.
        everything: Rate all occupations of the list, not only those of the job families.
        out: The run folder. Export and resilience use the ratings in the default folder.
    """
    from relabel.cli.app import run_app

    if any(word.partition("=")[0] == "--rubric" for word in ctx.args):
        raise UsageError("these ratings are by the rubric epoch; remove --rubric, or use `relabel run`")
    only: list[str] = []
    if not everything and task.is_onet_release(tasks):
        codes, families = onet.occupation_columns(tasks)["onet_soc_code"], family_pages.load_families()
        only = [word for family in families for code in family.members(codes) for word in ("--occupation", code)]
    words = ["run", "--model", model, "--rubric", "epoch", "--tasks", tasks, "--out", str(out), *only, *ctx.args]
    if code := run_app(words):
        raise typer.Exit(code)
    if "--dry-run" not in ctx.args and out == _options.DEFAULT_RATINGS:
        say_next("relabel resilience RUN, or relabel export RUN --out DIR; both use these ratings")


@app.command()
def resilience(
    run: _options.RunArg,
    family: Annotated[list[str] | None, typer.Argument()] = None,
    *,
    epoch: _options.Epoch = None,
    file: Annotated[Path | None, typer.Option("--families")] = None,
    cuts: Path | None = None,
    weights: Weights = "importance",
    tasks: str | None = None,
    out: _options.OutTable = None,
    as_json: _options.AsJson = False,
) -> None:
    """Score the resilience of job families: low exposure, growing demand, human advantage, 0 to 2 points each.

    Exposure comes from RUN, demand from the projections of the BLS, human advantage from the ratings of `relabel careers rate`, or
    of the run that --epoch names; without ratings that part is missing, and the score is of 4 so far.

    Args:
        family ([FAMILY]...): Ids of families: only these, with their points explained.
        file: A TOML file of your own in the form of data/families.toml.
        cuts: Cut-points of your own in the form of data/resilience.toml.
        weights: How tasks weigh within their occupation.
        tasks: Task list for texts, types and importance. By default the run's own; onet-30.2 if that is outdated or has no
            weights.
    """
    cut_points = family_pages.load_cut_points(cuts)
    chosen = _chosen(family_pages.load_families(file), family or [])
    opened = relabel.open_run(run)
    opened.require_tasks()
    with doing("scoring job families"):
        table = relabel.score_table(opened, taxonomy="onet-soc", weights=weights, tasks=tasks)
    ratings = _options.epoch_ratings(epoch, sample=table.sample)
    pages = family_data.family_pages(table, opened, ratings, families=chosen, cuts=cut_points)
    document = {
        "run": table.run,
        "epoch_run": pages[0].epoch_run if pages else None,
        "tasks": table.tasks,
        "weights": table.weights,
        "cut_points": cut_points.model_dump(mode="json", by_alias=True),
        "families": [page.model_dump(mode="json") for page in pages],
    }
    if _options.give_table_or_json(
        document, lambda: family_pages.family_frame(pages), rows=("families",), out=out, as_json=as_json
    ):
        return
    if not pages:
        typer.echo(f"none of the {len(chosen)} families has an occupation in {table.tasks}")
        return
    _show(pages)
    for page in pages if family else ():
        heading(f"{page.name} ({page.id})")
        for text in (page.description, *(part.words for part in page.resilience.parts)):
            say(text, indent=2, hang=0)


def _chosen(all_families: Sequence[family_pages.Family], wanted: Sequence[str]) -> Sequence[family_pages.Family]:
    by_id = {family.id: family for family in all_families}
    for name in wanted:
        if name not in by_id:
            raise UsageError(f"unknown job family {name!r}; `relabel families` lists them")
    return [by_id[name] for name in dict.fromkeys(wanted)] if wanted else all_families


def _show(pages: Sequence[family_pages.FamilyPage]) -> None:
    first = pages[0]
    say(f"{first.run}, tasks of {first.tasks}: {len(pages)} job families")
    if first.note:
        say(first.note)
    order = sorted(pages, key=lambda page: (*family_pages.resilience_order(page.resilience), page.name))
    rows = [
        [
            page.name,
            page.resilience.brief,
            *(_brief(part) for part in page.resilience.parts),
            "-" if (jobs := page.pay[0].employment) is None else f"{jobs / 1000:,.0f}k",
            _range(page),
        ]
        for page in order
    ]
    columns = ["family", "score", "exposure", "demand", "human", "jobs", "pay, USD"]
    Table("Resilience of job families", columns, rows, left=2).show()
    typer.echo()
    if any(page.resilience.score is None for page in pages):
        say(
            "So far: a part is missing, so the score is out of the points of the known parts; a complete score is out of 6. "
            "Such scores are listed after complete ones and are comparable only with each other."
        )
    say(
        "Each part: its figure, then its points. Exposure is the weighted share of tasks exposed with tools, demand the "
        "projected change of employment, human the sum of five ratings. Jobs are those of employees, pay is the range of the "
        f"occupations' medians in US dollars a year, both of {first.pay[0].period}."
    )
    for place in range(len(first.resilience.parts)):
        if gaps := [page for page in pages if page.resilience.parts[place].points is None]:
            reason = gaps[0].resilience.parts[place].words
            say(f"{reason} ({len(gaps)} of {len(pages)} families, such as {gaps[0].id})")


def _brief(part: family_pages.ResiliencePart) -> str:
    if part.figure is None:
        return "-"
    if part.id == "growing-demand":
        return f"{family_pages.shown_percent(part.figure)}  {part.points}"
    unit = "%" if part.unit == "percent" else ""
    return f"{part.figure:.1f}{unit}  {part.points}"


def _range(page: family_pages.FamilyPage) -> str:
    low, high = page.pay[0].lowest_median, page.pay[0].highest_median
    if low is None:
        return "-"
    return f"{low:,.0f} and more" if high is None else f"{low:,.0f}" if low == high else f"{low:,.0f}-{high:,.0f}"


@export_app.command()
def export(
    ctx: typer.Context,
    run: _options.RunArg,
    choices: Choices,
    *,
    out: Path,
    spread: _options.Spread = False,
    allow_partial: bool = False,
    draws: Annotated[int, typer.Option(min=0)] = 1000,
    baseline: str | None = None,
    epoch: _options.Epoch = None,
    families: bool = True,
) -> None:
    """Write score tables, one page per group, tasks, sources, methodology and a data package into a folder.

    Args:
        out: Folder to write: new, empty, or an earlier export.
        allow_partial: Export an incomplete run; each file is marked as partial.
        draws: Draws of label noise behind the intervals, 100 or more; 0 for no intervals.
        baseline (RUN): An earlier run: list what moved since, and what moved it.
        families: Make pages of US job families; they need the files of the BLS.
    """
    if not families:
        _options.reject_ineffective_options(ctx, "has no effect with --no-families; remove one of them", "epoch")
    elif choices.tasks is not None and tables.is_table_file(choices.tasks):
        _options.reject_ineffective_options(
            ctx, "needs a task list of O*NET; remove it or --tasks", "families", "epoch"
        )
    opened = relabel.open_run(run)
    sample = (choices.tasks or opened.manifest.tasks) == "sample"
    with doing("making the export"), _options.suggest_onet_soc(choices.taxonomy, "--taxonomy onet-soc"):
        done = exporting.export_run(
            opened,
            out,
            choices,
            allow_partial=allow_partial,
            draws=draws,
            spread=spread,
            baseline=None if baseline is None else relabel.open_run(baseline),
            families=families,
            epoch_run=_options.epoch_ratings(epoch, sample=sample) if families else None,
        )
    typer.echo(f"{done.files:,} files ({done.size / 1e6:.1f} MB) in {out}")
    say(scores.headline(done.table))
    if done.table.note:
        say(done.table.note)
    typer.echo(f"start with {out / 'datapackage.json'} and {out / 'occupations.csv'}")
    say_next(f"relabel site {quoted(out)} --out DIR makes pages of it")


@export_app.command()
def site(
    export: str,
    folder: Annotated[Path | None, typer.Argument(show_default=False)] = None,
    *,
    out: Path | None = None,
    base_url: str | None = None,
    theme: Path | None = None,
    pictures: bool = False,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
) -> None:
    """Make static pages from an export; `relabel site serve SITE_DIR` shows them on this machine.

    Args:
        export (EXPORT_DIR | serve): A folder that `relabel export` wrote; or the word serve.
        folder ([SITE_DIR]): After serve: the site to look at.
        out: Folder to write: new, empty, or an earlier site.
        base_url: Address that the site will have; gives canonical addresses and a site map.
        theme: Folder of templates that take the place of the built-in ones. They are run, in a sandbox that is
            given the export alone.
        pictures: Draw a share picture (PNG) of each occupation; takes a while.
        port: After serve: port on this machine; 0 takes a free one.
    """
    # An export in a folder called serve can be given as ./serve.
    if export == "serve":
        if folder is None or out is not None:
            raise UsageError("name the folder of a site: relabel site serve SITE_DIR")
        _serve(folder, port)
        return
    if folder is not None:
        raise UsageError(f"unexpected second folder {folder}; name the output folder with --out")
    if out is None:
        raise UsageError("name the output folder: relabel site EXPORT_DIR --out DIR")
    with doing("making the pages"):
        done = build.build_site(Path(export), out, base_url=base_url, theme=theme, pictures=pictures)
    typer.echo(f"{done.pages:,} pages, {done.files:,} files ({done.size / 1e6:.1f} MB) in {out}")
    typer.echo(f"open {out / 'index.html'}, or look at it with: relabel site serve {quoted(out)}")


def _serve(folder: Path, port: int) -> None:
    with build.site_server(folder, port) as server:
        typer.echo(f"http://127.0.0.1:{server.server_port}/ shows {folder}; stop with Ctrl-C")
        serve(server)
