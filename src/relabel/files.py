"""Writing with care: whole files or none, one writer a folder, folders that only the user can enter."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from relabel.errors import DataError, UsageError

_LOCK = ".lock"
_OWN_FILES = {_LOCK, "manifest.json", "labels.parquet", "failures.jsonl"}


def make_private_dir(folder: Path) -> None:
    """Make a folder that only the user can enter; one that exists is left as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def writing(folder: Path) -> Generator[None]:
    """Hold a run folder for one writer.

    Raises:
        DataError: Another process is writing it.
    """
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f"another relabel is writing {folder}; wait until it has ended, or give another --out"
            ) from error
        yield  # the file stays: one who waits for it and one who makes it anew would both hold "the" lock


def require_writable(folder: Path) -> None:
    """Make sure that a run folder can be written, before anything is paid for.

    Raises:
        UsageError: The path is a file, or a folder that holds other things than a run.
        DataError: The folder cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a folder to --out")
    if folder.is_dir() and not (folder / "manifest.json").exists():
        others = [
            p.name
            for p in folder.iterdir()
            if p.name not in _OWN_FILES
            and not p.name.startswith((".write-test-", *(f".{name}." for name in _OWN_FILES)))
        ]
        if others:
            raise UsageError(
                f"{folder} holds other things ({sorted(others)[0]}) and no run; give a new folder to --out"
            )
    try:
        make_private_dir(folder)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-"):
            pass
    except OSError as error:
        raise DataError(f"cannot write into {folder} ({error.strerror}); give another folder to --out") from error


class replacing:  # noqa: N801  reads as a verb at the call
    """Write a file at once or not at all: `with replacing(path) as temporary: ...`.

    Hands out a path beside the target; moves it there when all went well, removes it otherwise.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._temporary = target.with_name(f".{target.name}.{os.getpid()}.part")

    def __enter__(self) -> Path:
        return self._temporary

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                with self._temporary.open("rb+") as written:
                    os.fsync(written.fileno())
                self._temporary.replace(self._target)
        finally:
            self._temporary.unlink(missing_ok=True)  # nothing is left of it after all went well
