"""`relabel site`: pages from an export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `site` to the command line."""
    app.command("site")(site)


def site(
    export: Annotated[
        str,
        typer.Argument(metavar="EXPORT_DIR | serve", help="A folder that `relabel export` wrote; or the word serve."),
    ],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[SITE_DIR]", help="After serve: the site to look at.", show_default=False)
    ] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="Folder to write: new, empty, or an earlier site.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Address that the site will have; gives canonical addresses and a site map.")
    ] = None,
    theme: Annotated[
        Path | None,
        typer.Option(
            help="Folder of templates that take the place of the built-in ones. They are run, in a sandbox that is given the export alone."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(help="After serve: port on this machine; 0 takes a free one.", min=0, max=65535)
    ] = 8000,
) -> None:
    """Make static pages from an export; `relabel site serve SITE_DIR` shows them on this machine."""
    from relabel.errors import UsageError

    # An export in a folder called serve can be given as ./serve.
    if export == "serve":
        if folder is None or out is not None:
            raise UsageError("give the folder of a site to look at: relabel site serve SITE_DIR")
        _serve(folder, port)
        return
    if folder is not None:
        raise UsageError(f"one folder too many ({folder}); give where to write with --out")
    if out is None:
        raise UsageError("say where to write the site: relabel site EXPORT_DIR --out DIR")
    from relabel.publishing.site.build import build_site

    done = build_site(Path(export), out, base_url=base_url, theme=theme)
    typer.echo(f"{done.pages:,} pages, {done.files:,} files ({done.size / 1e6:.1f} MB) in {out}")
    typer.echo(f"open {out / 'index.html'}, or look at it with: relabel site serve {out}")


def _serve(folder: Path, port: int) -> None:
    from relabel.publishing.site.serve import site_server

    with site_server(folder, port) as server:
        typer.echo(f"http://127.0.0.1:{server.server_port}/ shows {folder}; stop with Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("stopped")
