"""Files with care: written whole or not at all, one writer a folder, folders that only the user can enter.

Folders and files may come from strangers. Names within them are resolved with `inside`, their files are read with
`read_small` or a reader that uses it, or after `require_own`, and nothing is written through a symbolic link.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import tempfile
import tomllib
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from relabel.errors import DataError, UsageError

with warnings.catch_warnings():  # where the system has no locks, filelock says so and takes a file's existence for one
    warnings.simplefilter("ignore")
    from filelock import FileLock, Timeout

_LOCK = ".lock"
_NAME = re.compile(r"\w[\w.,()@ +-]{0,199}")
"""Pattern of allowed names in folders from others: no paths, no hidden files, no characters special to terminals or pages."""
_OWN_FILES = {_LOCK, ".journal", "manifest.json", "labels.parquet", "failures.jsonl"}


@contextmanager
def os_errors(what: str, advice: str) -> Generator[None]:
    """Let a failure of the file system be a `DataError`: `WHAT (REASON); ADVICE`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{what} ({error.strerror or error}); {advice}") from error


def make_private_dir(folder: Path) -> None:
    """Make a folder that only the user can enter; one that exists is left as it is."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):  # the mode of `parents=True` would be the umask's
        path.mkdir(mode=0o700, exist_ok=True)


def inside(root: Path, name: object) -> Path:
    """Resolve a path named in a file from others, below the folder of that file.

    Args:
        root: The folder.
        name: A relative path with `/` between its parts.

    Raises:
        DataError: It is not such a path, or leads through a symbolic link.
    """
    if not isinstance(name, str) or not all(_NAME.fullmatch(part) for part in name.split("/")):
        raise DataError(f"{root} names {str(name)[:100]!r}, which is not a plain path below it; get the folder again")
    path = root
    for part in name.split("/"):
        path /= part
        require_own(path)
    return path


def require_own(path: Path) -> None:
    """Make sure that a file in a folder is the folder's own, and not a link to elsewhere or a device.

    Raises:
        DataError: It is; a file that is missing is not.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({getattr(error, 'strerror', error)}); check the folder") from error
    if stat.S_ISLNK(mode):
        raise DataError(f"{path} is a symbolic link, which is not followed; put the file itself in its place")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(f"{path} is not a regular file; put one in its place")


def read_small(path: Path, limit: int, *, refuse: type[DataError] = DataError) -> bytes:
    """Read a file that a person wrote.

    Args:
        path: The file.
        limit: Bytes that it may have.
        refuse: The error to raise.

    Raises:
        DataError: It cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise refuse(f"{path} cannot be read ({error.strerror}); check its path and permissions") from error
    if len(raw) > limit:
        raise refuse(f"{path} is larger than {limit:,} bytes; give a smaller file")
    return raw


@contextmanager
def writing(folder: Path) -> Generator[None]:
    """Hold a run folder for one writer.

    Raises:
        DataError: Another process is writing it, or its lock is a link.
    """
    try:
        with locked(folder / _LOCK):
            yield
    except BlockedError as error:
        raise DataError(f"another process is writing {folder}; wait until it ends, or give another --out") from error


class BlockedError(Exception):
    """Another process holds a lock."""


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold a lock file for one process, on any system; one that a dead process left is free.

    Raises:
        BlockedError: Another process holds it.
        DataError: The file is a link or cannot be opened.
    """
    # A lock is never followed, emptied or waited for: it may be a link to a file of the user's, or a pipe.
    require_own(path)
    lock = FileLock(path, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockedError from error
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); remove it, or use another folder") from error
    try:
        yield  # the file stays: a process that waits for it and one that creates it again would both hold "the" lock
    finally:
        lock.release()


def require_writable(folder: Path) -> None:
    """Make sure that a run folder can be written, before anything is paid for.

    Raises:
        UsageError: The path is a file, or a folder that holds other things than a run.
        DataError: The folder cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a folder to --out")
    if folder.is_dir() and not (folder / "manifest.json").exists():
        halves = (".write-test-", *(f".{name}." for name in _OWN_FILES))
        others = [name for name in {p.name for p in folder.iterdir()} - _OWN_FILES if not name.startswith(halves)]
        if others:
            raise UsageError(f"{folder} holds other files ({min(others)}) but no run; give a new folder to --out")
    with os_errors(f"cannot write into {folder}", "give another folder to --out"):
        make_private_dir(folder)
        tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-").close()


@contextmanager
def replacing(target: Path) -> Generator[Path]:
    """Write a file at once or not at all.

    Hands out a path beside the target; moves it there when all went well, removes it otherwise.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)  # nothing is left of it after all went well


LARGEST_TEXT = 5_000_000
"""Bytes of a YAML or TOML file."""


def read_user_toml(path: Path, form: str) -> dict[str, Any]:
    """Read a TOML file in UTF-8.

    Args:
        path: The file.
        form: A file that shows what it should look like.

    Raises:
        DataError: The file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_small(path, LARGEST_TEXT).decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid TOML: {error}; {form} shows the form") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply; {form} shows the form") from error
