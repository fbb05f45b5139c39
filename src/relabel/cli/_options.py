"""Options that several commands share, in groups; checks of options; and writing of the files that options name.

A command takes a group as one parameter. In every command, `--json` prints one JSON document and nothing else on standard
output, and `--out` writes a file.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

import relabel
from relabel import files
from relabel.cli.terminal import Look, Table, doing, say_written
from relabel.errors import SourceMissingError, UsageError
from relabel.labelling import options, providers
from relabel.tabular import TableForm, csv_bytes, json_bytes, parquet_bytes, require_suffix, table_text

if TYPE_CHECKING:
    import pandas as pd

    from relabel.evaluation.report import Charts


Command = TypeVar("Command", bound=Callable[..., None])
# Start of an option in a docstring: its name and, in brackets, the name of its value in the help.
_ENTRY = re.compile(r"^    (\w+)(?: \((.+?)\))?: ", re.MULTILINE)


class Commands(typer.Typer):
    """Commands whose docstrings hold the help of their options and arguments, under `Args:`.

    Keyword-only parameters and those with a default are options; others are arguments. A data class among the parameters is a
    group of options, with their help under its `Attributes:`.
    """

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Command], Command]:
        """See `typer.Typer.command`."""

        def add(function: Command) -> Command:
            super(Commands, self).command(name, **settings)(_with_options(function))
            return function

        return add


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Convert a command for typer: each field of its option groups becomes an option."""
    about, texts = _described(command)
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            own = get_type_hints(groups[name], include_extras=True)
            of_group = {k: v for part in groups[name].__mro__ for k, v in _described(part)[1].items()}
            parameters += [
                _option(field.name, own[field.name], field.default, of_group) for field in fields(groups[name])
            ]
        else:
            argument = parameter.kind is not parameter.KEYWORD_ONLY and parameter.default is parameter.empty
            parameters.append(_option(name, hints[name], parameter.default, texts, argument=argument))

    @wraps(command)
    def with_groups(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    with_groups.__doc__ = about
    with_groups.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]  what typer reads
    with_groups.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_groups


def _described(target: Any) -> tuple[str, Mapping[str, tuple[str | None, str]]]:
    """Parse a docstring: the help of the command, and the name of the value and the help of each parameter."""
    text = inspect.cleandoc(target.__doc__ or "").replace("\nAttributes:\n", "\nArgs:\n")
    about, _, listed = text.partition("\n\nArgs:\n")
    _, *parts = _ENTRY.split(listed)
    entries = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return about, {name: (metavar, " ".join(text.split())) for name, metavar, text in entries}


def _option(
    name: str, hint: Any, default: Any, texts: Mapping[str, tuple[str | None, str]], *, argument: bool = False
) -> inspect.Parameter:
    kind, metadata = inspect.Parameter.KEYWORD_ONLY, getattr(hint, "__metadata__", ())
    if hint is not typer.Context:
        flag = () if default is not False else (f"--{name.replace('_', '-')}",)  # no `--no-NAME`
        info = copy(metadata[0]) if metadata else typer.Argument() if argument else typer.Option(*flag)
        metavar, text = texts.get(name, (None, None))
        info.metavar, info.help = info.metavar or metavar, info.help or text
        hint = Annotated[hint.__origin__ if metadata else hint, info]
    return inspect.Parameter(name, kind, default=default, annotation=hint)


def finite(value: float | None) -> float | None:
    """Callback of a numeric option: refuses `nan` and `inf`, which pass the checks of minimum and maximum."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


# Options whose file may be `-`, standard output.
_PRINTED = ("--latex", "--markdown", "--csv")


def _writable(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """Callback of an option with an output file: refuses one that cannot be written, before any work."""
    if str(path) == "-" and param.opts[0] not in _PRINTED:
        raise UsageError(f"{param.opts[0]} takes the name of a file, not -; name one")
    require_file(path, param.opts[0])
    return path


def _table_file(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """`_writable` for a table, whose format is given by the suffix."""
    if path is not None:
        require_suffix(path)
    return _writable(param, path)


_RUN = "A run folder, a name under runs/, or a published set such as eloundou-2023:gpt4."
RunArg = Annotated[str, typer.Argument(metavar="RUN", help=_RUN)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
OutFile = Annotated[Path | None, typer.Option(callback=_writable)]
OutJson = Annotated[
    Path | None, typer.Option(metavar="F", callback=_writable, help="Write the JSON document to this file.")
]
OutTable = Annotated[
    Path | None, typer.Option(metavar="F", callback=_table_file, help="Write to a .csv, .parquet or .json file.")
]
ManifestJson = Annotated[bool, typer.Option("--json", help="Print the manifest as one JSON document.")]
Draws = Annotated[int, typer.Option(min=200, max=100_000, help="Bootstrap draws behind the intervals.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Write progress as JSON lines to standard error.")]
# Default folder of ratings, written by `relabel careers rate` and used by `export` and `resilience`.
DEFAULT_RATINGS = Path("runs/epoch")
Epoch = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="A run of the rubric epoch with ratings of human advantage. Default: the ratings of `relabel careers rate`, if any.",
    ),
]

GoldRule = Annotated[
    Literal["majority", "distribution"],
    typer.Option(
        help="How to combine several annotators' labels of a task: take the majority, or weight each label by its share.",
    ),
]
GoldBy = Annotated[
    Literal["people", "model"] | None,
    typer.Option(
        help="Who made the reference labels, if the file does not say (column made_by). Labels of unknown origin do not count as people's.",
    ),
]
GoldRun = Annotated[str | None, typer.Option("--gold", metavar="RUN", help="Estimate the scores of these labels.")]


@dataclass(frozen=True)
class Tables:
    """Where tables are written besides the terminal.

    Attributes:
        latex (F): Write the tables as LaTeX, for the packages booktabs and longtable; - prints them.
        markdown (F): Write the tables as Markdown; - prints them.
        csv (F): Write the tables' figures as CSV, unrounded; - prints them.
    """

    as_json: AsJson = False
    latex: OutFile = None
    markdown: OutFile = None
    csv: OutFile = None

    def __post_init__(self) -> None:
        printed = [f"--{form} -" for form in ("latex", "markdown", "csv") if str(getattr(self, form)) == "-"]
        if len(printed) + self.as_json > 1:
            both = " and ".join(["--json"] * self.as_json + printed)
            raise UsageError(f"{both} print different things; write all but one to a file")

    def give(self, tables: Sequence[Table]) -> bool:
        """Write tables as the options say.

        Returns:
            Whether they were printed, so that nothing else should be.
        """
        forms: dict[TableForm, Path | None] = {"latex": self.latex, "markdown": self.markdown, "csv": self.csv}
        printed = [
            give_text(table_text(tables, form), path, f"--{form}") for form, path in forms.items() if path is not None
        ]
        return any(printed)


@dataclass(frozen=True)
class Results(Tables):
    """Where the results of `eval` and `compare` are written besides the terminal.

    Attributes:
        html (F): Write a report as one HTML file.
        figures (DIR): Write the report's charts as SVG and PDF files.
    """

    out: OutJson = None
    html: OutFile = None
    figures: Path | None = None

    def draw(self, page: Callable[[], tuple[str, Charts]]) -> None:
        """Write the report and its charts, if asked for; `page` makes both."""
        if self.html is None and self.figures is None:
            return
        with doing("drawing the report"):
            text, charts = page()
        if self.html is not None:
            write(self.html, text, "--html")
        if self.figures is not None:
            for name, content in charts.files().items():
                write(self.figures / name, content, "--figures")

    def give_all(self, document: Any, tables: Sequence[Table]) -> bool:
        """Write the document and its tables as the options say.

        Returns:
            Whether something was printed, so that nothing else should be.
        """
        printed = self.give(tables)
        return give_json(document, out=self.out, as_json=self.as_json) or printed


Spread = Annotated[bool, typer.Option("--spread", help="Add the range of scores over bridges, also to the intervals.")]


@dataclass(frozen=True)
class Labelling:
    """How a model is asked.

    Attributes:
        base_url: Address of an OpenAI-compatible API. By default OPENAI_BASE_URL, else OpenAI.
        provider: The provider's name, if the address does not tell it; `relabel providers` lists them.
        key_env: Environment variable that holds the key. By default the provider's own; OPENAI_API_KEY at unknown
            addresses.
        samples: Times that each question is asked.
        variants: Orders of labels and examples that each question is asked in; drawn with --seed.
        param: A sampling parameter as NAME=VALUE, passed to the API unchanged. By default none is sent.
        max_tokens: Most tokens of one answer; sent under the provider's name for it, such as max_completion_tokens.
        concurrency: Requests in flight, or auto to adapt to the provider. Local models: 4.
        timeout: Seconds to wait for one answer before the request is repeated. By default 90; 900 for local models.
            An abandoned request may be charged: raise it for models that think long.
        max_cost: Most that a run may cost, in USD; needs --max-tokens.
        price: The model's price as IN/OUT or IN/OUT/CACHED, in USD per million tokens.
        yes: Start runs of over $100, or of 100,000 labels, without confirmation.
    """

    base_url: str | None = None
    provider: str | None = None
    key_env: str | None = None
    samples: Annotated[int, typer.Option(min=1)] = 1
    variants: Annotated[int, typer.Option(min=1, max=100)] = 1
    param: list[str] | None = None
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None
    concurrency: str = "auto"
    timeout: Annotated[float | None, typer.Option(min=1, max=3600, callback=finite)] = None
    max_cost: Annotated[float | None, typer.Option(min=0, callback=finite)] = None
    price: str | None = None
    yes: bool = False
    quiet: Quiet = False

    def chosen(self) -> dict[str, Any]:
        """The options as fields of `RunOptions`, checked."""
        shared = ("base_url", "provider", "key_env", "samples", "variants", "max_tokens", "timeout", "max_cost")
        return {name: getattr(self, name) for name in shared} | {
            "params": options.read_parameters(self.param or ()),
            "concurrency": options.read_concurrency(self.concurrency),
            "price": providers.given_price(self.price) if self.price else None,
        }


@dataclass(frozen=True)
class Showing:
    """How progress and the outcome of a job are shown."""

    quiet: Quiet = False
    log_json: LogJson = False
    as_json: ManifestJson = False

    @property
    def look(self) -> Look:
        """How progress looks."""
        return "quiet" if self.quiet else "json" if self.log_json else "people"


NEEDS_DRAWS = "has no effect without --draws; add --draws 1000 or remove it"


def epoch_ratings(ref: str | None, *, sample: bool) -> relabel.Run | None:
    """The named run of ratings, or else the one in `DEFAULT_RATINGS` if it fits; the user is told about the latter."""
    if ref is not None:
        return relabel.open_run(ref)
    if not (DEFAULT_RATINGS / "manifest.json").is_file():
        return None
    ratings = relabel.open_run(str(DEFAULT_RATINGS))
    if ratings.manifest.status != "complete" or (ratings.manifest.tasks == "sample") != sample:
        return None
    typer.echo(f"ratings of human advantage: {DEFAULT_RATINGS}, by {ratings.manifest.model}", err=True)
    return ratings


def reject_ineffective_options(ctx: typer.Context, reason: str, *names: str) -> None:
    """Refuse options that have no effect in combination with others, so that no figure is misinterpreted.

    Args:
        ctx: The command's context.
        reason: The message after the option's name: why it has no effect, and what to do.
        names: Names of the parameters; options that the user did not give are not refused.

    Raises:
        UsageError: One of them was given.
    """
    for option in ctx.command.params:
        source = ctx.get_parameter_source(option.name or "")
        if option.name in names and source is not None and source.name != "DEFAULT":
            raise UsageError(f"{option.opts[0]} {reason}")


@contextmanager
def suggest_onet_soc(taxonomy: str, options: str) -> Generator[None]:
    """Advise scores by O*NET code if other scores need a file that must be downloaded by hand.

    Args:
        taxonomy: The taxonomy of the scores.
        options: The options for scores by O*NET code.

    Raises:
        SourceMissingError: The block's error, with this advice if it applies.
    """
    try:
        yield
    except SourceMissingError as error:
        if error.reason or taxonomy == "onet-soc":  # the file can be downloaded, or scores are by O*NET code already
            raise
        raise SourceMissingError(f"{error}; or score by O*NET code, which does not need it: {options}") from error


def require_file(path: Path | str | None, option: str) -> None:
    """Check, before any work, that `write` can write a file.

    Args:
        path: The file; None and `-` need nothing.
        option: The option that named it.

    Raises:
        UsageError: It is a folder.
        DataError: It cannot be written there.
    """
    if path is None or str(path) == "-":
        return
    path = Path(path)
    with files.os_errors(f"cannot write {path}", f"give {option} another path"):
        if path.is_dir():
            raise UsageError(f"{option} {path} is a folder; name a file in it")
        if path.exists() and not path.is_file():  # a device or a pipe
            return
        folder = next((folder for folder in path.parents if folder.exists()), path.parent)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-"):
            pass


def write(path: Path, content: str | bytes, option: str, *, more: str = "") -> None:
    """Write a file atomically, with the folders that it needs, and say so on standard error.

    Args:
        path: The file.
        content: What goes in; text is written as UTF-8.
        option: The option that named it.
        more: Text after the file's name in the message.

    Raises:
        DataError: It cannot be written.
    """
    raw = content.encode("utf-8") if isinstance(content, str) else content
    with files.os_errors(f"cannot write {path}", f"give {option} another path"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():
            with suppress(BrokenPipeError):  # the reader closed the pipe
                path.write_bytes(raw)  # a device or a pipe must not be replaced
            return
        files.write_whole(path, raw)
    say_written(path, more)


def give_text(text: str, path: Path, option: str) -> bool:
    """Write a text to the file of an option, or print it if that is `-`; returns whether it was printed."""
    if str(path) == "-":
        typer.echo(text, nl=False)
        return True
    write(path, text, option)
    return False


def give_json(document: Any, *, out: Path | None = None, as_json: bool = True) -> bool:
    """Write a JSON document to the file of `--out`, and print it if `--json` was given.

    Args:
        document: A pydantic model, plain values, or JSON text as bytes.
        out: The file of `--out`.
        as_json: Whether `--json` was given.

    Returns:
        Whether it was printed, so that nothing else should be.
    """
    if isinstance(document, bytes):
        text = document.decode("utf-8").rstrip("\n")
    elif hasattr(document, "model_dump_json"):
        text = document.model_dump_json(indent=2)
    else:
        text = json.dumps(document, indent=2, ensure_ascii=False)
    if out is not None:
        write(out, text + "\n", "--out")
    if as_json:
        typer.echo(text)
    return as_json


def give_table_or_json(
    document: Mapping[str, object],
    frame: Callable[[], pd.DataFrame],
    *,
    rows: Sequence[str],
    out: Path | None,
    as_json: bool,
) -> bool:
    """Write a document as `.json`, or its table as `.csv` or `.parquet`, to the file of `--out`; print it if `--json` was given.

    Args:
        document: The document.
        frame: Makes its table.
        rows: Keys of the document that hold rows; the others become the metadata of a `.parquet` file.
        out: The file.
        as_json: Whether `--json` was given.

    Returns:
        Whether the document was printed, so that nothing else should be.
    """
    if out is None or (kind := require_suffix(out)) == "json":
        return give_json(json_bytes(document), out=out, as_json=as_json)
    about = {name: value for name, value in document.items() if name not in rows}
    write(out, csv_bytes(frame()) if kind == "csv" else parquet_bytes(frame(), about), "--out")
    return give_json(json_bytes(document), as_json=as_json)
