"""Bring a source file from its official address into the download cache, and pin what the registry cannot know.

A pin is a line in the format of `sha256sum`, in the download cache, in `SOURCE_ID/FILE.sha256`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any, cast

import pooch

from relabel.errors import ChecksumError, DataError, NotAtHandError
from relabel.settings import settings
from relabel.sources.registry import Source, SourceFile
from relabel.sources.tables import plain_name

_TIMEOUT_S = 60
# Some publishers refuse clients that do not say who they are.
_HEADERS = {"User-Agent": "relabel (research software; pooch)"}
_fetched: set[Path] = set()


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as 64 hex digits; remembered as long as the file's time and size stay.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        status = path.stat()
        return _digest(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check that it is a file you may open") from error


@cache
def _digest(path: Path, mtime_ns: int, size: int) -> str:  # pyright: ignore[reportUnusedParameter]  # key of the cache
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached_path(source: Source, entry: SourceFile) -> Path:
    """Where the file lies in the download cache, whether or not it is there."""
    return settings().download_dir / source.id / entry.name


def was_fetched(path: Path) -> bool:
    """Whether this process has fetched the file itself."""
    return path in _fetched


def is_pinned_kind(entry: SourceFile) -> bool:
    """Whether the registry cannot know the official checksum, so that the first official file sets it."""
    return entry.sha256 is None or entry.copy_status == "rebuilt"


def how_to_get(source: Source, entry: SourceFile) -> str:
    """One clause that says how a missing file is to be had."""
    place = f"{source.id}/{entry.name}"
    if entry.download in ("file", "zip"):
        return f"set RELABEL_DATA_MIRROR to a folder that holds {place}, or run `relabel data pull {source.id}`"
    if entry.download == "page":
        return (
            f"download {entry.name!r} by hand from {entry.url} and put it into {cached_path(source, entry).parent}, "
            "or set RELABEL_DATA_MIRROR"
        )
    about = f" ({source.use})" if source.use else ""
    kind = "what it was taken from is at" if entry.copy_status == "derived" else "see"
    folder = cached_path(source, entry).parent
    return (
        f"no address gives {place}{about}: {kind} {source.homepage}; put it into {folder}, or set RELABEL_DATA_MIRROR"
    )


def _why_not(entry: SourceFile) -> str:
    if entry.download == "page":
        return "cannot be fetched automatically"
    if entry.copy_status == "derived":
        return "is a derived extract that the publisher does not offer"
    return "has no official address"


def download(source: Source, entry: SourceFile) -> Path:
    """Fetch a file into the download cache, together with its neighbours of the same archive.

    Args:
        source: The source.
        entry: Its file.

    Returns:
        The path in the cache; a file that is not the registered or pinned one never gets there.

    Raises:
        ChecksumError: The publisher sent another file.
        NotAtHandError: The file is not to be had automatically, or the download failed.
        DataError: What was sent is no archive, or lacks the file.
    """
    if entry.url is None or entry.download in ("page", "none"):
        raise NotAtHandError(f"{source.id}/{entry.name} {_why_not(entry)}; {how_to_get(source, entry)}")
    folder = cached_path(source, entry).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            got = _retrieve(entry.url, Path(scratch))
            if entry.download == "file":
                _keep(source, entry, got)
            else:
                _unpack(source, entry, got)
    except OSError as error:
        raise NotAtHandError(
            f"{source.id}/{entry.name} could not be fetched from {entry.url} ({_reason(error)}); "
            f"try again or put it into a folder named by RELABEL_DATA_MIRROR",
            why=_reason(error),
        ) from error
    return cached_path(source, entry)


def _retrieve(url: str, folder: Path) -> Path:
    logger = pooch.get_logger()
    level = logger.level
    # pooch would print the checksum and advise to note it down, which is this module's work.
    logger.setLevel(logging.WARNING)
    try:
        # pooch's own protocol names the arguments otherwise than its own downloaders do.
        downloader = cast("Any", pooch.HTTPDownloader(timeout=_TIMEOUT_S, headers=_HEADERS))
        return Path(pooch.retrieve(url, known_hash=None, fname="download", path=folder, downloader=downloader))
    finally:
        logger.setLevel(level)


def _unpack(source: Source, entry: SourceFile, archive: Path) -> None:
    """Keep every member of the archive that the source lists and lacks; complain about the wanted one only."""
    refused: ChecksumError | None = None
    try:
        with zipfile.ZipFile(archive) as bundle:
            for other in source.files:
                if other.url != entry.url or other.download != "zip":
                    continue
                if other != entry and cached_path(source, other).exists():
                    continue
                member = _member(bundle, other.member or other.name)
                if member is None:
                    if other == entry:
                        inside = ", ".join(bundle.namelist()[:8])
                        raise DataError(
                            f"the archive at {entry.url} has no member {other.member!r} (it has {inside}); "
                            f"correct the member of {source.id!r} in a RELABEL_SOURCES file"
                        )
                    continue
                # A path of its own each, because checksums are remembered by path, time and size.
                unpacked = archive.parent / "members" / other.name
                unpacked.parent.mkdir(exist_ok=True)
                with bundle.open(member) as inside_file, unpacked.open("wb") as out:
                    shutil.copyfileobj(inside_file, out)
                try:
                    _keep(source, other, unpacked)
                except ChecksumError as error:
                    refused = error if other == entry else refused
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise NotAtHandError(
            f"{source.id}/{entry.name} could not be fetched: what {entry.url} sent is not a readable zip archive ({error}); "
            "try again later",
            why="what came is no zip archive",
        ) from error
    if refused is not None:
        raise refused


def _member(bundle: zipfile.ZipFile, wanted: str) -> str | None:
    """The member's name in the archive; publishers rename the folder around a member, but not the file."""
    names = bundle.namelist()
    if wanted in names:
        return wanted
    same = [name for name in names if name.rsplit("/", 1)[-1] == wanted.rsplit("/", 1)[-1]]
    return same[0] if len(same) == 1 else None


def _keep(source: Source, entry: SourceFile, got: Path) -> None:
    """Move a fetched file into the cache if it is the registered one, or pin it if it is the first."""
    found = sha256_of(got)
    target = cached_path(source, entry)
    if is_pinned_kind(entry):
        pin = read_pin(source, entry)
        if pin is None:
            # Before the file, so that no file ever lies in the cache without its checksum.
            write_pin(source, entry, got, str(entry.url))
            pin = found
        wanted = pin
    else:
        wanted = entry.sha256 or ""
    if found != wanted:
        raise ChecksumError(
            Path(source.id) / entry.name,
            wanted,
            found,
            f"it came from {entry.url}, where the publisher may have replaced it: "
            + (
                f"`relabel data unpin {source.id}` forgets the checksum that was pinned at first use"
                if is_pinned_kind(entry)
                else "register it as your own release in a RELABEL_SOURCES file"
            ),
        )
    got.replace(target)
    _fetched.add(target)


def _pin_path(source: Source, entry: SourceFile) -> Path:
    return settings().download_dir / source.id / f"{entry.name}.sha256"


def has_pin(source: Source, entry: SourceFile) -> bool:
    """Whether a checksum of the file was pinned."""
    return _pin_path(source, entry).exists()


def read_pin(source: Source, entry: SourceFile) -> str | None:
    """The pinned sha256 of a file, or None.

    Raises:
        DataError: The pin is unreadable or holds no checksum.
    """
    path = _pin_path(source, entry)
    try:
        words = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"the pin {path} cannot be read ({error.strerror}); check its permissions") from error
    if not words or len(words[0]) != 64:
        raise DataError(f"the pin {path} holds no sha256; delete it and run `relabel data pull {source.id}`")
    return words[0]


_BINARY = {
    ".xlsx": b"PK\x03\x04",
    ".zip": b"PK\x03\x04",
    ".xls": b"\xd0\xcf\x11\xe0",
    ".parquet": b"PAR1",
    ".pdf": b"%PDF",
}
_TEXT = (".txt", ".csv", ".tsv")
_HEADS = {
    "tasks": ("Task ID",),
    "task-ratings": ("Task ID", "Data Value"),
    "occupations": ("Title",),
    "emerging-tasks": ("Task",),
    "labels": ("Task ID",),
}
"""Columns that a text file of a role has, whatever its publisher or release."""


def _require_data(entry: SourceFile, path: Path, came_from: str) -> None:
    """Look at a file without a known checksum before it is pinned: its kind by its first bytes, its header row.

    Raises:
        DataError: It is a web page, or not of the kind that its name says.
    """
    suffix = Path(entry.name).suffix.lower()
    with path.open("rb") as stream:
        start = stream.read(4096)
    head = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    problem = ""
    if head[:1] == b"<" and suffix not in (".html", ".htm", ".xml"):
        problem = "a web page"
    elif suffix in _BINARY and not head.startswith(_BINARY[suffix]):
        problem = f"no {suffix[1:]} file by its first bytes"
    elif suffix == ".json" and head[:1] not in b"{[":
        problem = "no JSON by its first character"
    elif suffix in _TEXT:
        line = head.splitlines()[0].decode("utf-8", "replace") if head else ""
        columns = [plain_name(cell) for cell in re.split("[\t,;]", line)]
        lacks = [name for name in _HEADS.get(entry.role or "", ()) if plain_name(name) not in columns]
        if b"\0" in start:
            problem = "no text"
        elif len(columns) < 2 or lacks:
            missing = f" without the column {lacks[0]!r}" if lacks else ""
            problem = f"no table{missing} (its first line is {line[:60]!r})"
    if problem:
        raise DataError(
            f"what {came_from} gave for {entry.name} is {problem}; nothing was kept or pinned: open the address in a browser, correct "
            "the entry in your RELABEL_SOURCES file, or put the right file in place"
        )


def write_pin(source: Source, entry: SourceFile, path: Path, came_from: str) -> None:
    """Pin the checksum of a file that looks like what its entry says, in one step.

    Args:
        source: The source.
        entry: Its file, of which the registry knows no checksum.
        path: The first copy of it.
        came_from: Where that copy is from, in words.

    Raises:
        DataError: It is a web page or another kind of file, or the download cache cannot be written.
    """
    _require_data(entry, path, came_from)
    found, path = sha256_of(path), _pin_path(source, entry)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=".pin-", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(f"{found}  {entry.name}\n")
        Path(scratch).replace(path)
    except OSError as error:
        raise DataError(f"the pin {path} cannot be written ({error.strerror}); check RELABEL_HOME") from error


def unpin(source: Source, entry: SourceFile) -> bool:
    """Forget the pinned checksum of a file, and its copy in the download cache where it can be fetched again.

    Returns:
        Whether there was a pin.

    Raises:
        DataError: They cannot be removed.
    """
    try:
        pinned = has_pin(source, entry)
        if pinned and entry.download in ("file", "zip"):
            cached_path(source, entry).unlink(missing_ok=True)
        _pin_path(source, entry).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"the pin of {source.id}/{entry.name} cannot be removed ({error.strerror})") from error
    return pinned


def _reason(error: OSError) -> str:
    """A failed download in a few words; the text of a network error is a chain of internals."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"the server answered {status}"
    return error.strerror or {
        "ConnectionError": "no connection",
        "ConnectTimeout": "no connection in time",
        "ReadTimeout": "no answer in time",
        "ChunkedEncodingError": "the connection broke off",
    }.get(type(error).__name__, type(error).__name__)
