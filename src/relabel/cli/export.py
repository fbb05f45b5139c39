"""`relabel export`: tables for a site, from a run's labels; `relabel site`: pages from an export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import relabel
from relabel.cli import _options
from relabel.cli.terminal import say, say_next, serve
from relabel.errors import UsageError
from relabel.publishing import export as exporting
from relabel.publishing.site import build
from relabel.scoring.options import Choices
from relabel.sources import tables

app = _options.Commands()


@app.command()
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
    from relabel.cli.score import headline

    if not families:
        _options.reject_ineffective_options(ctx, "has no effect with --no-families; remove one of them", "epoch")
    elif choices.tasks is not None and tables.is_table_file(choices.tasks):
        _options.reject_ineffective_options(
            ctx, "needs a task list of O*NET; remove it or --tasks", "families", "epoch"
        )
    opened = relabel.open_run(run)
    sample = (choices.tasks or opened.manifest.tasks) == "sample"
    with _options.suggest_onet_soc(choices.taxonomy, "--taxonomy onet-soc"):
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
    say(headline(done.table))
    if done.table.note:
        say(done.table.note)
    typer.echo(f"start with {out / 'datapackage.json'} and {out / 'occupations.csv'}")
    say_next(f"relabel site {out} --out DIR makes pages of it")


@app.command()
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
    done = build.build_site(Path(export), out, base_url=base_url, theme=theme, pictures=pictures)
    typer.echo(f"{done.pages:,} pages, {done.files:,} files ({done.size / 1e6:.1f} MB) in {out}")
    typer.echo(f"open {out / 'index.html'}, or look at it with: relabel site serve {out}")


def _serve(folder: Path, port: int) -> None:
    with build.site_server(folder, port) as server:
        typer.echo(f"http://127.0.0.1:{server.server_port}/ shows {folder}; stop with Ctrl-C")
        serve(server)
