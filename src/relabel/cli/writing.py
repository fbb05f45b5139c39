"""Files that commands write: looked at before any work is done, then written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from relabel.errors import DataError, UsageError

PRINT = "-"
"""What stands for standard output where a file is asked for."""


class JsonCommand(TyperCommand):
    """A command whose `--json` takes a file, and prints where none is given, as it does in commands that only print."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the command; a `--json` without a file becomes `--json -`."""
        words: list[str] = []
        for word, following in zip(args, [*args, "--"][1:], strict=True):
            words.append(word)
            if word == "--json" and following.startswith("-") and following != PRINT:
                words.append(PRINT)
        return super().parse_args(ctx, words)


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
    if path is None or str(path) == PRINT:
        return
    path = Path(path)
    try:
        if path.is_dir():
            raise UsageError(f"{option} {path} is a folder; name a file, such as {path / _example(option)}")
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


def _example(option: str) -> str:
    return {"--html": "report.html", "--junit": "gates.xml", "--markdown": "gates.md", "--json": "result.json"}.get(
        option, "scores.csv"
    )
