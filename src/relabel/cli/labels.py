"""`relabel labels`: a run's labels as a file for another program; `relabel cite`: what to cite of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from relabel.cli import _options as o
from relabel.cli.terminal import say

if TYPE_CHECKING:
    import pandas as pd

    from relabel.run import Run

Format = Literal["csv", "dta", "parquet"]


def register(app: typer.Typer) -> None:
    """Add `labels` and `cite`."""
    app.command("labels")(labels)
    app.command("cite")(cite)


def labels(
    run: o.RunArg,
    *,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="CSV, Stata or Parquet. By default what --out ends in, else CSV."),
    ] = None,
    wide: Annotated[
        bool,
        typer.Option(
            "--wide", help="One row a task, with a column for each setting and sample, and the published code."
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="F", help="The file to write. By default CSV is printed.")] = None,
) -> None:
    """Write the labels of a run as CSV, Stata or Parquet: one row a task, setting and sample, or one row a task."""
    from relabel.errors import UsageError
    from relabel.run import open_run

    ending = "" if out is None else out.suffix.lower().removeprefix(".")
    chosen = form or (ending if ending in ("csv", "dta", "parquet") else "csv")
    if out is None and chosen != "csv":
        raise UsageError(f"--format {chosen} cannot be printed; name a file with --out")
    o.require_file(out, "--out")
    opened = open_run(run)
    table = _wide(opened) if wide else opened.labels.reset_index(drop=True)
    content = _as_bytes(table, chosen, opened)
    if out is None:
        typer.echo(content.decode("utf-8"), nl=False)
    else:
        o.write(out, content, "--out", more=f" ({len(table):,} rows)")


def _wide(run: Run) -> pd.DataFrame:
    """One row a task: the labels by setting and sample, what they come to, and for rubrics of tasks the published code."""
    import pandas as pd

    keys = ["onet_soc_code", "task_id"]
    answers = run.answers()
    several = answers["sample"].nunique() > 1
    names = answers["setting"].str.replace("-", "_")
    if several:
        names += "_" + (answers["sample"] + 1).astype(str)
    each = answers.assign(column=names).pivot(index=keys, columns="column", values="label")
    decided = run.decided().set_index(keys).rename(columns=lambda name: str(name).replace("-", "_"))
    parts = [decided, each] if several else [decided]
    if run.rubric.unit == "task":
        parts.append(run.coded().set_index(keys)[["code", "incoherent"]])
    return pd.concat(parts, axis=1).sort_index().reset_index()


def _as_bytes(table: pd.DataFrame, form: str, run: Run) -> bytes:
    import io

    from relabel.tabular import spreadsheet_safe

    buffer = io.BytesIO()
    if form == "parquet":
        table.to_parquet(buffer, index=False)
    elif form == "csv":
        safe = table.copy()
        for name in safe.select_dtypes(exclude=["number", "bool"]).columns:
            safe[name] = [spreadsheet_safe(cell) if isinstance(cell, str) else cell for cell in safe[name]]
        safe.to_csv(buffer, index=False, lineterminator="\n")
    else:
        plain = table.astype(dict.fromkeys(table.select_dtypes("bool").columns, "int8"))
        for name in plain.select_dtypes(exclude="number").columns:  # Stata's missing text is the empty one
            plain[name] = [cell if isinstance(cell, str) else "" for cell in plain[name]]
        long = [name for name in plain.select_dtypes(exclude="number").columns if plain[name].str.len().max() > 2000]
        plain.to_stata(
            buffer,
            write_index=False,
            version=118,
            convert_strl=long,
            data_label=f"Labels of {run.name} by {run.manifest.model}"[:80],
        )
    return buffer.getvalue()


def cite(run: o.RunArg, as_json: o.AsJson = False) -> None:
    """Print what to cite of a run: its data with their licences, the model, the rubric and the software."""
    from relabel import __version__
    from relabel.manifest import PUBLISHED, find_run, read_manifest
    from relabel.sources.registry import load_registry

    if run in PUBLISHED or run == "sample":
        from relabel.run import open_run

        manifest = open_run(run).manifest
    else:
        manifest = read_manifest(find_run(run))
    registry = load_registry()
    used = [registry[name] for name in dict.fromkeys(use.source for use in manifest.sources) if name in registry]
    own = [use for use in manifest.sources if use.source not in registry]
    rubric, answered = manifest.rubric, ", ".join(manifest.models_returned) or "no model named"
    about = {
        "data": [
            {"id": s.id, "citation": s.citation, "release": s.release, "licence": s.licence, "homepage": s.homepage}
            for s in used
        ],
        "files": [{"file": use.file, "sha256": use.sha256} for use in own],
        "model": {"asked": manifest.model, "answered": list(manifest.models_returned), "date": manifest.ended_at},
        "rubric": {"id": rubric.id, "version": rubric.version, "sha256": manifest.rubric_sha256},
        "software": {"name": "relabel", "version": manifest.package_version, "cited_with": __version__},
    }
    if o.give_json(about, as_json=as_json):
        return
    typer.echo("Data")
    for source in used:
        say(f"{source.citation} Release: {source.release}. Licence: {source.licence}. {source.homepage}", indent=2)
    for use in own:
        say(f"{use.file}, sha256 {use.sha256}", indent=2)
    if not used and not own:
        say("none is named in the manifest", indent=2)
    dated = "" if manifest.ended_at is None else f", {manifest.ended_at[:10]}"
    typer.echo("Model")
    say(f"{manifest.model}, answered as {answered}{dated}", indent=2)
    typer.echo("Rubric")
    say(f"{rubric.title} ({rubric.id}, version {rubric.version}, sha256 {manifest.rubric_sha256[:16]})", indent=2)
    typer.echo("Software")
    say(f"relabel, version {manifest.package_version}; CITATION.cff of its repository has its authors", indent=2)
