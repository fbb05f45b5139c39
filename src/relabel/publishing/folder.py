"""Folders that are written completely or not at all, and never over a user's own files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Generator, Set
from contextlib import contextmanager
from pathlib import Path

from relabel.errors import DataError, UsageError
from relabel.files import inside

PACKAGE = "datapackage.json"
EXPORT_FORMAT = 7
"""Counts up when the layout of an export changes."""

FilesOf = Callable[[Path], Set[str] | None]
"""Names the files that an earlier writing left in a folder; None when the folder is something else."""


@contextmanager
def written_whole(out: Path, kind: str, files_of: FilesOf) -> Generator[Path]:
    """Hand out a folder beside the one wanted, and move it into place when all went well.

    An earlier folder in its place is moved aside first and deleted last, so a machine that fails between the two moves
    leaves it beside, as `.NAME.NUMBER.old`.

    Args:
        out: Folder to write: new, empty, or an earlier one of the same kind without other files.
        kind: What is written, in a word, for messages: `export`, `site`.
        files_of: Tells what an earlier one consists of.

    Raises:
        UsageError: The folder is in use for something else.
        DataError: The folder cannot be written.
    """
    folder = out.resolve()
    if not folder.name:
        raise UsageError(f"{out} is the root of the file system; give a folder of its own to --out")
    building = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        _require_free(folder, out, kind, files_of)
        building.mkdir(parents=True)
        try:
            yield building
            _move_into_place(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"cannot write the {kind} to {out} ({error.strerror or error}); free space or give another folder to --out"
        ) from error


def files_of_export(folder: Path) -> set[str] | None:
    """Files that the data package of an earlier export names; None when there is none.

    Raises:
        DataError: It names a file outside the folder, or one that is a symbolic link.
    """
    try:
        package = json.loads(inside(folder, PACKAGE).read_text(encoding="utf-8"))
        if "export_format" not in package["relabel"]:
            return None
        names = [entry["path"] for entry in package["resources"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    for name in names:
        inside(folder, name)
    return {PACKAGE, *names}


def _require_free(folder: Path, shown: Path, kind: str, files_of: FilesOf) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{shown} is a file; give a folder to --out")
    if not any(folder.iterdir()):
        return
    known = files_of(folder)
    if known is None:
        raise UsageError(f"{shown} holds files other than an earlier {kind}; give an empty or new folder to --out")
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    if strange := sorted(there - known):
        raise UsageError(
            f"{shown} is an earlier {kind} but also holds {strange[0]}, which writing it again would delete; "
            "move that file away or give another folder to --out"
        )


def _move_into_place(building: Path, folder: Path) -> None:
    if not folder.exists():
        building.replace(folder)
        return
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    folder.replace(aside)
    try:
        building.replace(folder)
    except OSError:
        aside.replace(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
