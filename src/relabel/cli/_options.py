"""Options and arguments that several commands share, and what goes with them: checks, and the files that options name.

`--json` prints one JSON document and nothing else on standard output; `--out` writes a file; both mean so everywhere.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from relabel.errors import DataError, NotAtHandError, UsageError
from relabel.scoring.options import Links, Method, Repeats, Taxonomy, Unrated, Wage, Weights

if TYPE_CHECKING:
    import pandas as pd

    from relabel.cli._render import Table


def finite(value: float | None) -> float | None:
    """Callback of an option that takes a number: `nan` and `inf` are read as numbers, and every limit lets them pass."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


RUN_HELP = "A run folder, a name under runs/, or a published set such as eloundou-2023:gpt4."
RunArg = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)]

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
OutJson = Annotated[Path | None, typer.Option("--out", metavar="F", help="Write the JSON document to this file.")]
OutTable = Annotated[Path | None, typer.Option("--out", metavar="F", help="Write to a .csv, .parquet or .json file.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="F", help="Write a report as one HTML file.")]
Latex = Annotated[
    Path | None,
    typer.Option("--latex", metavar="F", help="Write the tables as LaTeX, for the package booktabs; - prints them."),
]
Markdown = Annotated[
    Path | None, typer.Option("--markdown", metavar="F", help="Write the tables as Markdown; - prints them.")
]
Csv = Annotated[
    Path | None, typer.Option("--csv", metavar="F", help="Write the tables' figures as CSV, unrounded; - prints them.")
]
Figures = Annotated[
    Path | None, typer.Option("--figures", metavar="DIR", help="Write the report's charts as SVG and PDF files.")
]
Draws = Annotated[int, typer.Option(min=200, max=100_000, help="Bootstrap draws behind the intervals.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
LogJson = Annotated[
    bool, typer.Option("--log-json", help="Write progress as JSON events, one a line, to standard error.")
]

ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        help="A model's name at the provider; `local` for the embedded one; `local:FILE.gguf` for your own weights.",
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", help="Address of an OpenAI-compatible API. By default OPENAI_BASE_URL, else OpenAI."),
]
Provider = Annotated[
    str | None,
    typer.Option(
        "--provider", help="The provider's name, if the address does not tell it; `relabel providers` lists them."
    ),
]
KeyEnv = Annotated[
    str | None,
    typer.Option(
        "--key-env",
        help="Environment variable that holds the key. By default the provider's own; OPENAI_API_KEY at unknown addresses.",
    ),
]
RubricRef = Annotated[str, typer.Option("--rubric", help="A rubric's name, or the path of a YAML file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--setting", help="A setting of the rubric; may be given more than once. By default all."),
]
TaskList = Annotated[
    str, typer.Option("--tasks", help="onet-30.2, onet-29.1, eloundou-2023, sample, or the path of a CSV file.")
]
Sample = Annotated[int | None, typer.Option("--sample", min=1, help="Draw this many tasks at random.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the draw.")]
Occupation = Annotated[
    list[str] | None,
    typer.Option("--occupation", help="Only tasks of this O*NET-SOC code; may be given more than once."),
]
Samples = Annotated[int, typer.Option("--samples", min=1, help="Times that each question is asked.")]
Variants = Annotated[
    int,
    typer.Option(
        "--variants",
        min=1,
        max=100,
        help="Orders of labels and examples that each question is asked in; drawn with --seed.",
    ),
]
Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        help="A sampling parameter as NAME=VALUE, passed to the API unchanged. By default none is sent.",
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        min=1,
        help="Most tokens of one answer; sent under the provider's name for it, such as max_completion_tokens.",
    ),
]
Concurrency = Annotated[
    str,
    typer.Option("--concurrency", help="Requests in flight, or auto to adapt to the provider. Local models: 4."),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=1,
        max=3600,
        callback=finite,
        help="Seconds to wait for one answer before the request is repeated. By default 90; 900 for local models. An abandoned request may be charged: raise it for models that think long.",
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", help="Start runs of over $100, or of 100,000 labels, without confirmation.")
]
MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", min=0, callback=finite, help="Most that a run may cost, in USD; needs --max-tokens."),
]
Price = Annotated[
    str | None,
    typer.Option("--price", help="The model's price as IN/OUT or IN/OUT/CACHED, in USD per million tokens."),
]

GoldRule = Annotated[
    Literal["majority", "distribution"],
    typer.Option(
        "--gold-rule",
        help="What several annotators' labels of a task become: their majority, or all of them, each with its share as weight.",
    ),
]

GoldBy = Annotated[
    Literal["people", "model"] | None,
    typer.Option(
        "--gold-by",
        help="Who made the reference labels, where they do not say so (column made_by). Unknown, they do not count as people's.",
    ),
]

ScoreMethod = Annotated[
    Method,
    typer.Option("--method", help="bridge, or site-2026: the older published method, kept for comparison."),
]
ScoreTaxonomy = Annotated[Taxonomy, typer.Option("--taxonomy", help="Classification of the scored codes.")]
TaskWeights = Annotated[Weights, typer.Option("--weights", help="How tasks weigh within their occupation.")]
BridgeLinks = Annotated[
    Links | None,
    typer.Option(
        "--links",
        help="How the bridge weighs the sources of a code. By default index. employment takes the latest US jobs (OEWS), or those of RELABEL_US_RELEASES.",
    ),
]
UnratedTasks = Annotated[
    Unrated | None,
    typer.Option(
        "--unrated",
        help="How to weigh tasks that lack an importance rating: one (1.0), mean (of their occupation), or drop.",
    ),
]
ScoreTasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        help="Task list for types and importance: onet-30.2, eloundou-2023 or FILE.csv. By default what fits.",
    ),
]
Pay = Annotated[
    str | None,
    typer.Option(
        "--pay",
        help="ons-ashe-2024 (the default), ons-ashe-2025-medians, a source of your own with the role pay, or FILE.csv; uk-soc2020 only.",
    ),
]


OwnBridge = Annotated[
    str | None,
    typer.Option(
        "--bridge",
        metavar="FILE",
        help="Your own mapping of O*NET-SOC to UK SOC 2020 (CSV or Excel: codes, perhaps weights).",
    ),
]
RepeatsRule = Annotated[
    Repeats,
    typer.Option("--repeats", help="Value of a task with several samples: their mean, or the most frequent label's."),
]
WageOf = Annotated[Wage, typer.Option("--wage", help="Pay that wage exposure is made of; uk-soc2020 only.")]
Spread = Annotated[
    bool,
    typer.Option(
        "--spread", help="Add the lowest and highest score over several bridges, and add that to the intervals."
    ),
]
GoldRun = Annotated[
    str | None,
    typer.Option("--gold", metavar="RUN", help="Estimate what these labels would give, with intervals."),
]


def reject_ineffective_options(ctx: typer.Context, why: str, *names: str) -> None:
    """Refuse options that cannot have an effect beside the others of the command, so that no figure is misread.

    Args:
        ctx: The command's context.
        why: Why they cannot, and what to do, in words that follow the option's name.
        names: Names of the parameters; those that were left at their default pass.

    Raises:
        UsageError: One of them was given.
    """
    for option in ctx.command.params:
        source = ctx.get_parameter_source(option.name or "")
        if option.name in names and source is not None and source.name != "DEFAULT":
            raise UsageError(f"{option.opts[0]} {why}")


@contextmanager
def suggest_onet_soc(taxonomy: str, options: str) -> Generator[None]:
    """Say of scores that need a file from a publisher's page that those by O*NET code need none.

    Args:
        taxonomy: The taxonomy of the scores.
        options: The options that ask for O*NET codes instead.

    Raises:
        NotAtHandError: As it was raised within, with that advice where it helps.
    """
    try:
        yield
    except NotAtHandError as error:
        if error.why or taxonomy == "onet-soc":  # a file that can be fetched, and could not be
            raise
        raise NotAtHandError(f"{error}; or score by O*NET code, which needs no such file: {options}") from error


_EXAMPLES = {"--html": "report.html", "--junit": "gates.xml", "--markdown": "gates.md"}


def require_file(path: Path | str | None, option: str, *, make_folder: bool = False) -> None:
    """Make sure, before any work, that a file can be written.

    Args:
        path: The file; None and `-` need nothing.
        option: The option that named it.
        make_folder: Whether `write` will make its folder.

    Raises:
        UsageError: It is a folder.
        DataError: It cannot be written there.
    """
    if path is None or str(path) == "-":
        return
    path = Path(path)
    try:
        if path.is_dir():
            name = _EXAMPLES.get(option, "result.json")
            raise UsageError(f"{option} {path} is a folder; name a file, such as {path / name}")
        if path.exists() and not path.is_file():  # a device or a pipe
            return
        folder = path.parent
        while make_folder and not folder.exists():
            folder = folder.parent
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-"):
            pass
    except OSError as error:
        raise _cannot(path, option, error) from error


def write(path: Path, content: str | bytes, option: str, *, make_folder: bool = False) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file.
        content: What goes in; text is written as UTF-8.
        option: The option that named it.
        make_folder: Whether to make its folder.

    Raises:
        DataError: It cannot be written.
    """
    from relabel.files import replacing

    raw = content.encode("utf-8") if isinstance(content, str) else content
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():
            with suppress(BrokenPipeError):  # the reader has seen enough
                path.write_bytes(raw)  # a device or a pipe must not be replaced
            return
        with replacing(path) as temporary:
            temporary.write_bytes(raw)
    except OSError as error:
        raise _cannot(path, option, error) from error


def _cannot(path: Path, option: str, error: OSError) -> DataError:
    return DataError(
        f"cannot write {path} ({error.strerror or os.strerror(error.errno or 0)}); give {option} another path"
    )


def give_json(document: Any, *, out: Path | None = None, as_json: bool = True) -> bool:
    """Write a JSON document where `--out` says, and print it where `--json` asks for it.

    Args:
        document: A pydantic model, the finished text as bytes, or what JSON can hold.
        out: The file of `--out`.
        as_json: Whether `--json` was given.

    Returns:
        Whether it was printed, and nothing else should be.
    """
    import json

    if isinstance(document, bytes):
        text = document.decode("utf-8").rstrip("\n")
    elif hasattr(document, "model_dump_json"):
        text = document.model_dump_json(indent=2)
    else:
        text = json.dumps(document, indent=2, ensure_ascii=False)
    if out is not None:
        write(out, text + "\n", "--out", make_folder=True)
        typer.echo(f"written: {out}", err=True)
    if as_json:
        typer.echo(text)
    return as_json


def give_tables(
    tables: pd.DataFrame | Sequence[Table],
    *,
    latex: Path | None,
    markdown: Path | None,
    csv: Path | None,
    title: str = "",
) -> bool:
    """Write tables where `--latex`, `--markdown` and `--csv` say; as for `relabel.cli._render.table_text`.

    Returns:
        Whether one of them was printed, and nothing else should be.
    """
    from relabel.cli._render import TableForm, table_text

    asked: dict[TableForm, Path | None] = {"latex": latex, "markdown": markdown, "csv": csv}
    printed = False
    for form, path in asked.items():
        if path is None:
            continue
        text = table_text(tables, form, title=title)
        if str(path) == "-":
            typer.echo(text, nl=False)
            printed = True
        else:
            write(path, text, f"--{form}")
            typer.echo(f"written: {path}", err=True)
    return printed


def write_figures(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the charts of a report into a folder, which is made."""
    for name, content in files.items():
        write(folder / name, content, "--figures", make_folder=True)
    typer.echo(f"written: {len(files)} files in {folder}", err=True)


def write_table_or_json(
    out: Path, document: Mapping[str, object], frame: Callable[[], pd.DataFrame], *, rows: str
) -> None:
    """Write what `--out` asks for by its ending: the whole document as `.json`, its table as `.csv` or `.parquet`.

    Args:
        out: The file.
        document: The whole.
        frame: Makes the table.
        rows: Key of the document that holds the table's rows; the others go with a `.parquet` file as its metadata.
    """
    from relabel.scoring.files import csv_bytes, json_bytes, parquet_bytes, require_suffix

    kind = require_suffix(out)
    if kind == "json":
        content = json_bytes(document)
    elif kind == "csv":
        content = csv_bytes(frame())
    else:
        content = parquet_bytes(frame(), {name: value for name, value in document.items() if name != rows})
    write(out, content, "--out", make_folder=True)
