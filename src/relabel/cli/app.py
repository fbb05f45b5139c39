"""The command line: registers all commands, and turns errors into a message and an exit code."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from typing import Annotated, Any, NoReturn

import typer

from relabel.cli.terminal import lost_output, open_streams
from relabel.redaction import clean

# Modules of this package and a group of commands in each, with their names, in the order of the help.
_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "run.app": ("demo", "run", "providers"),
    "labels.import_app": ("import",),
    "labels.tasks_app": ("tasks",),
    "eval.app": ("eval",),
    "compare.app": ("compare",),
    "score.app": ("score", "explain"),
    "labels.app": ("review", "labels", "cite", "view"),
    "publish.app": ("families", "resilience", "careers"),
    "publish.export_app": ("export", "site"),
    "data.app": ("answers", "data", "store"),
    "rubric.app": ("rubric",),
    "run.batch_app": ("batch",),
    "study.app": ("study",),
}

# Commands whose --json took the name of a file in version 0.1.
_TOOK_JSON_FILES = {"eval", "compare", "explain", "tasks"}

# typer has its own copy of click, whose classes differ from those of the package click, and whose name varies.
_WrongUsage: type[Exception] = typer.BadParameter.__mro__[1]


class _AtFirstUse:
    """Finder of relabel's modules that runs a module only when something in it is first used.

    Commands import what they call as modules (`from relabel.scoring import table`); their help loads none of these.
    """

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname.startswith("relabel.") else None
        if spec is not None and spec.loader is not None and spec.submodule_search_locations is None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def _show_version(wanted: bool) -> None:
    if wanted:
        from relabel import __version__

        typer.echo(f"relabel {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Renew the 2023 labels of task exposure to language models: label, evaluate, score, export."""


def command_line(words: Sequence[str] = ()) -> typer.Typer:
    """The commands.

    Args:
        words: The words of the command line; if the first names a command, only its module is loaded.
    """
    app = typer.Typer(
        name="relabel",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # plain help starts in half the time
        pretty_exceptions_enable=False,
    )
    app.callback()(options)
    named = [group for group, names in _COMMANDS.items() if words[:1] and words[0] in names]
    sys.meta_path.insert(0, finder := _AtFirstUse())
    try:
        for module, name in (group.split(".") for group in named or _COMMANDS):
            app.add_typer(getattr(import_module(f"relabel.cli.{module}"), name))
    finally:
        sys.meta_path.remove(finder)
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run relabel and exit with its exit code, even if output is lost."""
    open_streams()
    code = run_app(arguments)
    if (reason := lost_output()) and code == 0:
        _say(f"cannot write the output ({reason}); free some space and try again")
        code = 3
    sys.exit(code)


def run_app(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after `relabel`; by default those of this process.

    Returns:
        The exit code; `relabel.errors` lists them.
    """
    from relabel.errors import RelabelError

    pressed = threading.Event()

    def interrupt(*_: object) -> None:
        pressed.set()  # a C library that is running may raise another error in place of this one
        raise KeyboardInterrupt

    words = list(sys.argv[1:] if arguments is None else arguments)
    command = typer.main.get_command(command_line(words))
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)
    try:
        result = command.main(args=_json_file_as_out(_checked(words)), prog_name="relabel", standalone_mode=False)
        if result == 130:  # typer returns this code after Ctrl-C
            _say("interrupted")
        return result if isinstance(result, int) else 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0
    except _WrongUsage as error:
        return _wrongly_used(error)
    except (KeyboardInterrupt, Exception) as error:
        if pressed.is_set() or isinstance(error, (KeyboardInterrupt, typer.Abort)):  # Ctrl-C, or Ctrl-D at a question
            _say("interrupted")
            return 130
        if isinstance(error, RelabelError):
            _say(str(error))
            return error.exit_code
        if os.environ.get("RELABEL_DEBUG"):
            raise
        if isinstance(error, OSError) and error.strerror:
            path = error.filename or "a file"
            _say(f"cannot use {path} ({error.strerror}); check the path, its permissions and the free space")
            return 3
        _say(f"internal error ({type(error).__name__}: {error}); please report it; RELABEL_DEBUG=1 shows where")
        return 1


def _checked(words: list[str]) -> list[str]:
    """Refuse what is not text, and an option with an empty value, as an unset variable gives it: an empty path would be the current folder."""
    from relabel.errors import UsageError

    for word in words:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise UsageError(f"{word!r} is not UTF-8; rename the file or folder, or correct the value")
    for option, value in itertools.pairwise([*words, "-"]):
        if option.startswith("--") and (not value.strip() or (option.endswith("=") and option.count("=") == 1)):
            raise UsageError(f"{option.removesuffix('=')} is empty; give it a value, or leave it out")
    return words


def _json_file_as_out(words: list[str]) -> list[str]:
    """Accept the spelling of version 0.1: `--json FILE.json` means `--out FILE.json`."""
    if "--json" not in words or words[0] not in _TOOK_JSON_FILES:
        return words
    position = words.index("--json")
    file = "".join(words[position + 1 : position + 2])
    if not file.endswith(".json"):
        return words
    _say(f"note: --json {file} is now --out {file}")
    return [*words[:position], "--out", *words[position + 1 :]]


def _wrongly_used(error: Any) -> int:
    context, message = error.ctx, error.format_message()
    if context is not None and message == context.get_help():  # a group was named without a command
        typer.echo(message, err=True)
    else:
        text = " ".join(message.split()).removesuffix(".")
        text = re.sub(r"valid (float|int)\w*( range)?", lambda n: "number" if n[1] == "float" else "whole number", text)
        path = "relabel" if context is None else context.command_path
        _say(f"{text[:1].lower()}{text[1:]}; see `{path} --help`")
    return 2


def _say(message: str) -> None:
    typer.echo(f"relabel: {clean(' '.join(message.splitlines()))}", err=True)
