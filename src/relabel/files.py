"""Safe handling of files: written whole or not at all, one writer per folder, folders that only the user can enter.

Folders and files may come from strangers. So paths named in them are resolved with `inside`; files are read with `read_small`,
or after `require_own`; YAML creates nothing but plain values, limited in size; and nothing is written through a symbolic link.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from relabel.errors import DataError, RelabelError, UsageError, model_errors

if TYPE_CHECKING:  # heavy, and only some commands need them
    import yaml
    from pydantic import BaseModel

# On a system without file locks, filelock warns, and treats an existing lock file as held.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from filelock import FileLock, Timeout

M = TypeVar("M", bound="BaseModel")

_LOCK = ".lock"
# Pattern of allowed names in folders from others: no paths, no hidden files, no characters special to terminals or pages.
_NAME = re.compile(r"\w[\w.,()@ +-]{0,199}")
# Most values in a YAML file; values repeated by an alias or a merge count each time.
_MOST_VALUES = 100_000
_OWN_FILES = {_LOCK, ".journal", "manifest.json", "labels.parquet", "failures.jsonl"}


@contextmanager
def os_errors(problem: str, advice: str, *, refuse: type[RelabelError] = DataError) -> Generator[None]:
    """Turn an `OSError` in the block into an error of ours with the message `PROBLEM (REASON); ADVICE`."""
    try:
        yield
    except OSError as error:
        raise refuse(f"{problem} ({error.strerror or error}); {advice}") from error


def entries(folder: Path) -> list[Path]:
    """The paths in a folder, sorted; none if it does not exist. From Python 3.13 on, `Path.glob` hides other errors."""
    with os_errors(f"{folder} cannot be listed", "correct the permissions"), suppress(FileNotFoundError):
        return sorted(folder.iterdir())
    return []


def make_private_dir(folder: Path) -> None:
    """Make a folder, and its missing parents, that only the user can enter; existing folders are left as they are."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):  # the mode of `parents=True` would be the umask's
        path.mkdir(mode=0o700, exist_ok=True)


def inside(root: Path, name: object) -> Path:
    """Resolve a path that is named in a file from others, relative to a folder that it must not leave.

    Args:
        root: The folder.
        name: A relative path with `/` between its parts.

    Raises:
        DataError: It is not such a path, or leads through a symbolic link or a device.
    """
    if not isinstance(name, str) or not all(_NAME.fullmatch(part) for part in name.split("/")):
        raise DataError(f"{root} names {str(name)[:100]!r}, which is not a plain path below it; get the folder again")
    path = root
    for part in name.split("/"):
        path /= part
        require_own(path)
    return path


def require_own(path: Path) -> None:
    """Make sure that a path is a regular file or folder, or missing, and not a symbolic link or a device.

    Raises:
        DataError: It is a symbolic link or a special file, such as a device, or cannot be read.
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


def opened(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe or a device, which may never end, is refused with an `OSError`."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError("it is a pipe or a device")
    return path.open("rb")


def read_small(path: Path, limit: int, *, refuse: type[DataError] = DataError) -> bytes:
    """Read a file of limited size, such as one written by hand.

    Args:
        path: The file.
        limit: Most bytes that it may have.
        refuse: Class of the error to raise.

    Raises:
        DataError: It cannot be read, or is larger.
    """
    with os_errors(f"{path} cannot be read", "check its path and permissions", refuse=refuse), opened(path) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise refuse(f"{path} is larger than {limit:,} bytes; give a smaller file")
    return raw


def writing(folder: Path) -> AbstractContextManager[None]:
    """Lock a run folder, so that only this process writes into it.

    Raises:
        DataError: Another process is writing it, or its lock file is a link or cannot be opened.
    """
    advice = "wait until it ends, or give another --out"
    return locked(folder / _LOCK, f"another process is writing {folder}; {advice}")


@contextmanager
def locked(
    path: Path, busy: str = "another process holds it", *, refuse: type[DataError] = DataError
) -> Generator[None]:
    """Hold a lock on a file, on any system; a lock left by a dead process counts as free.

    Args:
        path: The file.
        busy: Message of the error if another process holds the lock.
        refuse: Class of that error.

    Raises:
        DataError: Another process holds it, or the file is a link or cannot be opened.
    """
    # A lock file is never followed, emptied or waited for: it may be a link to another file of the user, or a pipe.
    require_own(path)
    lock = FileLock(path, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout as error:
        raise refuse(busy) from error
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); remove it, or use another folder") from error
    try:
        yield  # the file is not deleted: a process that has it open and one that creates it again would both hold a lock
    finally:
        lock.release()


def require_writable(folder: Path) -> None:
    """Make sure that a run folder can be written, before anything is paid for.

    Raises:
        UsageError: The path is a file, or a folder that holds other files but no run.
        DataError: The folder cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a folder to --out")
    if folder.is_dir() and not (folder / "manifest.json").exists():
        temporary = (".write-test-", *(f".{name}." for name in _OWN_FILES))
        others = [name for name in {p.name for p in folder.iterdir()} - _OWN_FILES if not name.startswith(temporary)]
        if others:
            raise UsageError(f"{folder} holds other files ({min(others)}) but no run; give a new folder to --out")
    with os_errors(f"cannot write into {folder}", "give another folder to --out"):
        make_private_dir(folder)
        tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-").close()


@contextmanager
def replacing(target: Path) -> Generator[Path]:
    """Write a file whole or not at all.

    Yields a path beside the target to write to. That file replaces the target when the block ends, or is removed if the block
    fails.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    except OSError as error:
        error.filename = str(target)  # a full disk names no file, and a folder that is gone the temporary one
        raise
    finally:
        temporary.unlink(missing_ok=True)  # after success it no longer exists


def write_whole(target: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(target) as temporary:
        temporary.write_bytes(content)


# Most bytes of a YAML or TOML file.
LARGEST_TEXT = 5_000_000
# Most characters of a whole number: one in base 60, such as 1:30, takes time by their square.
_LONGEST_INT = 500


def read_user_toml(path: Path, form: str) -> dict[str, Any]:
    """Read a TOML file in UTF-8.

    Args:
        path: The file.
        form: Name of a file that shows the form, for messages.

    Raises:
        DataError: The file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_small(path, LARGEST_TEXT).decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid TOML: {error}; {form} shows the form") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply; {form} shows the form") from error


def read_user_entries(path: Path, name: str, model: type[M], form: str) -> dict[str, M]:
    """Read the entries `[[name]]` of a TOML file that holds nothing else, by their `id`.

    Raises:
        DataError: The file cannot be read or is not TOML, or an entry lacks a key, has a bad value or occurs twice.
    """
    document = read_user_toml(path, form)
    entries = document.get(name)
    if not isinstance(entries, list) or set(document) != {name}:
        raise DataError(f"{path} must hold [[{name}]] entries and nothing else; {form} shows the form")
    entries_by_id: dict[str, M] = {}
    for number, entry in enumerate(cast("list[Any]", entries), start=1):
        entry_id = str(entry.get("id", number) if isinstance(entry, dict) else number)
        with model_errors(f"{path}, entry {entry_id!r}: ", "; correct the file"):
            validated = model.model_validate(entry)
        if entry_id in entries_by_id:
            raise DataError(f"{path} has two entries with the id {entry_id!r}; keep one")
        entries_by_id[entry_id] = validated
    return entries_by_id


def read_user_yaml(
    path: Path, form: str, *, refuse: type[DataError] = DataError, ships: bool = False
) -> tuple[dict[str, Any], bytes]:
    """Read a mapping from a YAML file in UTF-8, with or without a byte order mark; tags create nothing but plain values.

    Args:
        path: The file.
        form: What the file should contain, for the message if it is not a mapping.
        refuse: Class of the error to raise.
        ships: Whether the file ships with relabel; it is then read without the checks for others' files, in a tenth of the time.

    Returns:
        The content, which is cached and must not be changed; and the file's bytes, for a hash.

    Raises:
        DataError: The file cannot be read, is not valid YAML or not a mapping; the message names the line if it is known.
    """
    import yaml

    try:
        raw = read_small(path, LARGEST_TEXT, refuse=refuse)
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse(f"{path} is not in UTF-8 (byte {error.start}); save it again in UTF-8") from error
    try:
        data = _yaml_parser(checked=not ships)(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise refuse(f"{path} line {line} holds a control character; correct the file") from error
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f" line {error.problem_mark.line + 1}"
        problem = error.problem or "it is not YAML"
        if problem.startswith("but "):  # PyYAML begins this sentence in the context
            problem = f"{error.context}, {problem}"
        raise refuse(f"{path}{where}: {problem}; correct the file") from error
    except RecursionError as error:
        raise refuse(f"{path}: it is nested too deeply; correct the file") from error
    if not isinstance(data, dict):
        raise refuse(f"{path}: {form}")
    return cast("dict[str, Any]", data), raw


def yaml_line(raw: bytes, place: Sequence[int | str]) -> int:
    """The line of a value in a YAML file that has been read; of what should hold it, if it is missing."""
    import yaml

    found = node = cast("yaml.Node", yaml.compose(raw, Loader=yaml.SafeLoader))
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found, node = next((pair for pair in node.value if pair[0].value == part), (node, node))
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = node = node.value[part]
    return found.start_mark.line + 1


@cache
def _yaml_parser(*, checked: bool) -> Callable[[str], Any]:
    import yaml

    def fault(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
        return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    class StrictLoader(yaml.SafeLoader):
        """SafeLoader that refuses duplicate keys, as the YAML standard demands, and names the line of a value it cannot read."""

        def __init__(self, text: str) -> None:
            super().__init__(text)
            self._sizes: dict[int, int] = {}

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            alias = self.check_event(yaml.AliasEvent)
            node = super().compose_node(parent, index)
            if node is None or id(node) in self._sizes:
                return node
            if alias:
                raise fault("an alias refers to itself", node)
            parts: list[Any] = [] if isinstance(node, yaml.ScalarNode) else node.value
            inside = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
            self._sizes[id(node)] = size = 1 + sum(self._sizes[id(part)] for part in inside)
            if size > _MOST_VALUES:
                raise fault(f"its aliases expand to more than {_MOST_VALUES:,} values", node)
            return node

        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            try:
                if node.tag.endswith(":int") and len(node.value) > _LONGEST_INT:
                    raise ValueError
                value = super().construct_object(node, deep)
                if isinstance(value, str):
                    value.encode()  # half of a surrogate pair, which no file can hold
                return value
            except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
                # PyYAML's own readers of dates, numbers and tags fail on values such as the 30th of February.
                about = f"{node.value[:40]!r}" if isinstance(node, yaml.ScalarNode) else "this"
                kind = node.tag.rpartition(":")[2]
                raise fault(f"{about} cannot be read as {kind}: put text in quotes", node) from error

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise fault("a key is a list or a mapping: put text with brackets or braces in quotes", key)
                if key.value in seen:
                    raise fault(f"the key {key.value!r} occurs twice", key)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    # Cached, because a command reads its rubric several times, which would take 30 ms each time.
    loader = StrictLoader if checked else getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return lru_cache(maxsize=32)(partial(yaml.load, Loader=loader))
