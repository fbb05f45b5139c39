"""Locates, downloads and verifies source files: from the mirror, the download cache, or the official address; caches their tables.

Every path that this module returns has been verified: the file's sha256 is the one in the registry or, if the registry
cannot know it, the one pinned at first use.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field

from relabel.errors import ChecksumError, DataError, SourceMissingError
from relabel.files import make_private_dir, os_errors, replacing
from relabel.settings import Frozen, settings
from relabel.sources.registry import CopyStatus, Source, SourceFile, get_source, load_registry
from relabel.sources.tables import plain_name

if TYPE_CHECKING:  # importing a reader must not import it
    import pandas as pd

Where = Literal["mirror", "cache", "download"]


class SourceUse(Frozen):
    """A source file used by a run.

    Attributes:
        sha256: Checksum of the bytes that were used.
        copy_status: `official`, `rebuilt` or `derived`; None for a file outside the registry.
    """

    model_config = ConfigDict(extra="allow")

    source: str
    file: str
    sha256: str
    copy_status: str | None = None


class FileCheck(Frozen):
    """The state of one registered file on this machine.

    Attributes:
        source_id: Id of the source.
        file: File name.
        state: `ok`, `missing`, `mismatch`, or `unreadable`.
        where: Where it was found; None if missing.
        path: Its path; None if missing.
        wanted: The expected sha256; None if not known yet.
        found: The sha256 of the file found; None if there is none.
        copy_status: Kind of the copy found; if missing, of the registered one.
        can_fetch: Whether the official file can be fetched automatically.
        pinned: Whether the checksum was pinned at first use, because the registry has none.
        message: What is wrong and what to do, or an empty string.
        why: Why fetching failed, in a few words, or an empty string.
    """

    source_id: str
    file: str
    state: Literal["ok", "missing", "mismatch", "unreadable"]
    where: Where | None = None
    path: Path | None = None
    wanted: str | None = None
    found: str | None = None
    can_fetch: bool
    pinned: bool = False
    message: str = ""
    why: str = ""
    copy_status: Annotated[CopyStatus, Field(serialization_alias="copy")]


def locate(source_id: str, file: str) -> Path:
    """Get the verified path of a source file: in the mirror, else in the download cache, else after a download.

    Args:
        source_id: Id of a registered source.
        file: File name in the registry.

    Returns:
        Path of a file with the registered or pinned checksum.

    Raises:
        ChecksumError: The file found has another checksum.
        DataError: There is no such source or file, it cannot be read, or it cannot be fetched automatically.
    """
    source = get_source(source_id)
    entry = source.file(file)
    path, where = _obtain(source, entry)
    _verify(source, entry, path, where)
    return path


def locate_role(source_id: str, role: str) -> Path:
    """Get the verified path of the file with a role in a source; see `locate`."""
    return locate(source_id, get_source(source_id).with_role(role).name)


def source_use(source_id: str, role: str) -> SourceUse:
    """Locate the file with a role in a source, and record its checksum and kind of copy."""
    source = get_source(source_id)
    entry = source.with_role(role)
    sha256, status = _verify(source, entry, *_obtain(source, entry))
    return SourceUse(source=source.id, file=entry.name, sha256=sha256, copy_status=status)


def is_available(source_id: str, role: str) -> bool:
    """Whether the file with a role in a source is on this machine; neither fetches nor verifies it."""
    source = get_source(source_id)
    return _local_path(source, source.with_role(role)) is not None


def verify(source_ids: Iterable[str] | None = None, roles: Container[str | None] | None = None) -> list[FileCheck]:
    """Verify the files on this machine; downloads nothing, but pins files that are registered without checksum.

    Args:
        source_ids: Sources to check; by default all.
        roles: Roles of their files to check; by default all.

    Returns:
        One check per registered file, in the order of the registry.
    """
    return [_check_local(*file) for file in _files(source_ids) if roles is None or file[1].role in roles]


def unpin(source_id: str) -> list[str]:
    """Remove a source's checksums pinned at first use, and cached copies of these files that can be fetched again.

    Args:
        source_id: The source.

    Returns:
        Names of the files whose pins were removed.

    Raises:
        DataError: No file was pinned, or a pin cannot be removed.
    """
    source = get_source(source_id)
    pinned = [entry for entry in source.files if _pin_path(source, entry).exists()]
    if not pinned:
        raise DataError(f"no file of {source_id} is pinned; `relabel data verify` shows what is")
    with os_errors(f"the pins of {source_id} cannot be removed", "check their permissions"):
        for entry in pinned:
            if entry.can_fetch:
                cached_path(source, entry).unlink(missing_ok=True)
            _pin_path(source, entry).unlink()
    return [entry.name for entry in pinned]


def pull(
    source_ids: Iterable[str] | None = None, *, on_fetch: Callable[[str, str], None] | None = None
) -> list[FileCheck]:
    """Download missing files, and replace damaged ones in the download cache.

    Files in the mirror are never changed. Failures do not stop the rest; they are reported in the result.

    Args:
        source_ids: Sources to fetch; by default all.
        on_fetch: Called before each download with `SOURCE_ID/FILE` and the official address.

    Returns:
        One check per registered file; `where` is `download` for those that were downloaded.
    """
    checks: list[FileCheck] = []
    failed: dict[str, SourceMissingError] = {}
    for source, entry in _files(source_ids):
        check, url = _check_local(source, entry), entry.url or ""
        damaged = check.state == "mismatch" and check.where == "cache"
        if check.can_fetch and (check.state == "missing" or damaged):
            try:
                if url in failed:  # another file of an archive that could not be fetched
                    raise failed[url]
                if on_fetch is not None:
                    on_fetch(f"{source.id}/{entry.name}", url)
                download(source, entry)
                check = _check_local(source, entry)
            except DataError as error:
                check = check.model_copy(update={"message": str(error), "why": getattr(error, "reason", "")})
                if isinstance(error, SourceMissingError):
                    failed[url] = error
        if check.path in _fetched:
            check = check.model_copy(update={"where": "download"})
        checks.append(check)
    return checks


def _files(source_ids: Iterable[str] | None) -> list[tuple[Source, SourceFile]]:
    wanted = list(source_ids or ()) or list(load_registry())
    return [(source, entry) for source in map(get_source, wanted) for entry in source.files]


def _mirror() -> Path | None:
    mirror = settings().data_mirror
    if mirror is not None and not mirror.is_dir():
        raise DataError(f"RELABEL_DATA_MIRROR names {mirror}, which is not a folder; correct or unset it")
    return mirror


def _local_path(source: Source, entry: SourceFile) -> tuple[Path, Where] | None:
    mirror = _mirror()
    places: list[tuple[Path, Where]] = [(cached_path(source, entry), "cache")]
    if mirror is not None:
        places.insert(0, (mirror / source.id / entry.name, "mirror"))
    for path, where in places:
        with os_errors(f"{path} cannot be read", "check the permissions of its folder"):
            if path.exists():
                return path, where
    return None


def _obtain(source: Source, entry: SourceFile) -> tuple[Path, Where]:
    return _local_path(source, entry) or (download(source, entry), "cache")


def _verify(source: Source, entry: SourceFile, path: Path, where: Where) -> tuple[str, CopyStatus]:
    """Compare a file with the registry and the pin; returns its sha256 and kind of copy.

    If the registry lists a rebuilt copy, a downloaded file is the official one; its checksum is pinned, not registered.
    """
    sha256, fetched = sha256_of(path), where == "download"
    # If the registry lacks the official checksum, the first official file pins it.
    by_pin = entry.sha256 is None or entry.copy_status == "rebuilt"
    if sha256 == entry.sha256 and not (fetched and by_pin):
        return sha256, entry.copy_status
    pin = read_pin(source, entry)
    if by_pin and pin is None and (fetched or entry.sha256 is None):
        pin = write_pin(source, entry, path, str(entry.url if fetched else path))
    if by_pin and sha256 == pin:
        return sha256, "official"
    wanted = pin if pin is not None and (where != "mirror" or entry.sha256 is None) else entry.sha256
    if wanted == pin:
        advice = f"if it is right, `relabel data unpin {source.id}` forgets the checksum that was pinned at first use"
    elif where == "cache" and entry.can_fetch:
        advice = f"run `relabel data pull {source.id}` to fetch it again"
    else:
        advice = "put the registered file in its place, or register this release in a RELABEL_SOURCES file"
    shown = f"{source.id}/{entry.name} from {entry.url}" if fetched else path
    raise ChecksumError(shown, wanted or "", sha256, advice)


def _check_local(source: Source, entry: SourceFile) -> FileCheck:
    local = _local_path(source, entry)
    result: dict[str, Any] = {"state": "missing", "message": missing_file_advice(source, entry)}
    if local is not None:
        path, where = local
        result = {"path": path, "where": where}
        try:
            sha256, status = _verify(source, entry, path, where)
            result |= {"state": "ok", "found": sha256, "wanted": sha256, "copy_status": status}
        except ChecksumError as error:
            result |= {"state": "mismatch", "wanted": error.wanted, "found": error.found, "message": str(error)}
        except DataError as error:
            result |= {"state": "unreadable", "message": str(error)}
    fields: dict[str, Any] = {"wanted": entry.sha256, "copy_status": entry.copy_status, "can_fetch": entry.can_fetch}
    pinned = _pin_path(source, entry).exists()
    return FileCheck(source_id=source.id, file=entry.name, pinned=pinned, **fields | result)


_TIMEOUT_S = 60
# Most bytes of an unpacked file of an archive.
_MOST_BYTES = 1_000_000_000
# Some publishers refuse clients without a user agent.
_HEADERS = {"User-Agent": "relabel (research software; pooch)"}
_fetched: set[Path] = set()


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as 64 hex digits; cached while its modification time and size are unchanged."""
    with os_errors(f"{path} cannot be read", "check that it is a file you may open"):
        status = path.stat()
        return _digest(path, status.st_mtime_ns, status.st_size)


def file_use(path: Path, source: str) -> SourceUse:
    """A file outside the registry: its name without the folder, which is private, and its checksum."""
    return SourceUse(source=source, file=path.name, sha256=sha256_of(path))


@cache
def _digest(path: Path, mtime_ns: int, size: int) -> str:  # pyright: ignore[reportUnusedParameter]  # in the cache key
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached_path(source: Source, entry: SourceFile) -> Path:
    """Path of the file in the download cache, whether or not it exists."""
    return settings().download_dir / source.id / entry.name


def missing_file_advice(source: Source, entry: SourceFile) -> str:
    """A clause that says how to obtain a missing file."""
    place = f"{source.id}/{entry.name}"
    if entry.can_fetch:
        return f"set RELABEL_DATA_MIRROR to a folder that holds {place}, or run `relabel data pull {source.id}`"
    about = f" ({source.use})" if source.use else ""
    folder = cached_path(source, entry).parent
    return (
        f"{place} cannot be fetched automatically: get it by hand, see {entry.url or source.homepage}, and put it "
        f"into {folder}, or set RELABEL_DATA_MIRROR{about}"
    )


def download(source: Source, entry: SourceFile) -> Path:
    """Download a file to the download cache, together with other files in the same archive.

    Args:
        source: The source.
        entry: Its file.

    Returns:
        The path in the cache; only a verified file is ever put there.

    Raises:
        ChecksumError: The publisher sent another file.
        SourceMissingError: The file cannot be fetched automatically, or the download failed.
        DataError: The archive lacks the file.
    """
    if entry.url is None or not entry.can_fetch:
        raise SourceMissingError(missing_file_advice(source, entry))
    import pooch

    folder = cached_path(source, entry).parent
    advice = "correct its permissions, or set RELABEL_HOME"
    with os_errors(f"{folder} cannot be written", advice, refuse=SourceMissingError):
        make_private_dir(folder)
        temporary = tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder)
    try:
        with temporary as scratch:
            downloaded = Path(scratch) / "download"
            pooch.HTTPDownloader(timeout=_TIMEOUT_S, headers=_HEADERS)(entry.url, str(downloaded), None)
            if entry.download == "file":
                _move_to_cache(source, entry, downloaded)
            else:
                _unpack(source, entry, downloaded)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        reason = _failure_reason(error) if isinstance(error, OSError) else "the reply is not a readable zip archive"
        raise SourceMissingError(
            f"{source.id}/{entry.name} could not be fetched from {entry.url} ({reason}); "
            "try again or put it into a folder named by RELABEL_DATA_MIRROR",
            reason=reason,
        ) from error
    return cached_path(source, entry)


def _unpack(source: Source, entry: SourceFile, archive: Path) -> None:
    """Move all registered members of an archive that are not cached yet to the cache; raise errors only for `entry`."""
    with zipfile.ZipFile(archive) as bundle:
        for other in source.files:
            in_archive = (other.url, other.download) == (entry.url, "zip")
            if in_archive and other != entry and not cached_path(source, other).exists():
                with suppress(DataError):
                    _unpack_member(source, other, bundle, archive.parent)
        _unpack_member(source, entry, bundle, archive.parent)


def _unpack_member(source: Source, entry: SourceFile, bundle: zipfile.ZipFile, scratch: Path) -> None:
    names, wanted = bundle.namelist(), entry.member or entry.name
    # Publishers rename folders, but not files.
    same_name = [name for name in names if name.rpartition("/")[2] == wanted.rpartition("/")[2]]
    member = same_name[0] if len(same_name) == 1 else wanted
    problem = "" if member in names else f"no member {member!r} (it has {', '.join(names[:8])})"
    if not problem and bundle.getinfo(member).file_size > _MOST_BYTES:
        problem = f"a member {member!r} that unpacks to more than {_MOST_BYTES:,} bytes"
    if problem:
        advice = f"correct the member of {source.id!r} in a RELABEL_SOURCES file"
        raise DataError(f"the archive at {entry.url} has {problem}; {advice}")
    # Use a separate path for each member, because checksums are cached by path, time and size.
    unpacked = scratch / "members" / entry.name
    unpacked.parent.mkdir(exist_ok=True)
    with bundle.open(member) as inside_file, unpacked.open("wb") as out:
        shutil.copyfileobj(inside_file, out)
    _move_to_cache(source, entry, unpacked)


def _move_to_cache(source: Source, entry: SourceFile, got: Path) -> None:
    """Verify, and if necessary pin, a downloaded file, and then move it to the cache."""
    _verify(source, entry, got, "download")
    got.replace(cached_path(source, entry))
    _fetched.add(cached_path(source, entry))


def _pin_path(source: Source, entry: SourceFile) -> Path:
    return cached_path(source, entry).with_name(f"{entry.name}.sha256")


def read_pin(source: Source, entry: SourceFile) -> str | None:
    """The pinned sha256 of a file, or None."""
    path = _pin_path(source, entry)
    with os_errors(f"the pin {path} cannot be read", "check its permissions"):
        return path.read_text(encoding="utf-8").partition(" ")[0] if path.exists() else None


_MAGIC_BYTES = {
    ".xlsx": b"PK\x03\x04",
    ".xls": b"\xd0\xcf\x11\xe0",
    ".json": (b"{", b"["),
}
_TEXT = (".txt", ".csv", ".tsv")
# Columns that every text file with a role has, whatever its publisher or release.
_REQUIRED_COLUMNS = {
    "tasks": ("Task ID",),
    "task-ratings": ("Task ID", "Data Value"),
    "occupations": ("Title",),
    "emerging-tasks": ("Task",),
    "labels": ("Task ID",),
}


def _check_content(entry: SourceFile, path: Path, origin: str) -> None:
    """Check the first bytes and the header row of a file before its unknown checksum is pinned."""
    suffix = Path(entry.name).suffix.lower()
    with path.open("rb") as stream:
        start = stream.read(4096)
    head = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    problem = ""
    if head[:1] == b"<" and suffix not in (".html", ".htm", ".xml"):
        problem = "a web page"
    elif suffix in _MAGIC_BYTES and not head.startswith(_MAGIC_BYTES[suffix]):
        problem = f"not {suffix[1:]} by its first bytes"
    elif suffix in _TEXT:
        line = head.splitlines()[0].decode("utf-8", "replace") if head else ""
        columns = [plain_name(cell) for cell in re.split("[\t,;]", line)]
        lacks = [name for name in _REQUIRED_COLUMNS.get(entry.role or "", ()) if plain_name(name) not in columns]
        if b"\0" in start:
            problem = "not text"
        elif len(columns) < 2 or lacks:
            missing = f" with the column {lacks[0]!r}" if lacks else ""
            problem = f"not a table{missing} (its first line is {line[:60]!r})"
    if problem:
        raise DataError(
            f"what {origin} gave for {entry.name} is {problem}; nothing was kept or pinned: open the address in a browser, correct "
            "the entry in your RELABEL_SOURCES file, or put the right file in place"
        )


def write_pin(source: Source, entry: SourceFile, path: Path, origin: str) -> str:
    """Check that a file looks as registered, and pin its checksum.

    Args:
        source: The source.
        entry: Its file, registered without the official checksum.
        path: The first copy of the file.
        origin: Address or path of that copy, for the message.

    Returns:
        The checksum.

    Raises:
        DataError: The file does not look as registered, or the pin cannot be written.
    """
    _check_content(entry, path, origin)
    sha256, path = sha256_of(path), _pin_path(source, entry)
    with os_errors(f"the pin {path} cannot be written", "check RELABEL_HOME"):
        make_private_dir(path.parent)
        with replacing(path) as scratch:
            scratch.touch(mode=0o600)
            scratch.write_text(f"{sha256}  {entry.name}\n", encoding="utf-8")
    return sha256


def _failure_reason(error: OSError) -> str:
    """Why a download failed, in a few words; the message of a network error is long and technical."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"the server answered {status}"
    return error.strerror or "no connection, or it was interrupted"


def cached_frame(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table in the download cache, made if it is missing or damaged; a failure to write it is ignored."""
    import pyarrow
    import pyarrow.parquet as pq

    with suppress(pyarrow.ArrowException, OSError):
        return pq.read_table(path, page_checksum_verification=True).to_pandas()
    frame = make().reset_index(drop=True)
    with suppress(pyarrow.ArrowException, OSError):
        make_private_dir(path.parent)
        with replacing(path) as temporary:
            temporary.touch(mode=0o600)
            table = pyarrow.Table.from_pandas(frame, preserve_index=False)
            pq.write_table(table, temporary, write_page_checksum=True)
    return frame


_TABLES = ".tables"


Reader = Callable[..., "pd.DataFrame"]


def cached(*roles: str, source: str) -> Callable[[Reader], Reader]:
    """Decorator that gives a reader its file, and caches its result as parquet in the download cache.

    The reader is called with the path of the file of the first role and, if it has such a parameter, the release. What it
    becomes takes only the release: the id of a source, by default `source`.

    The cache key covers the checksums of the files, the source's registry entry and the code of the readers. Entries that
    cannot be read are replaced; failure to write one is ignored.

    Args:
        roles: Roles of the files that the reader reads; those that the source lacks are ignored.
        source: Id of the source that is read by default.
    """

    def decorate(read: Reader) -> Reader:
        needs_release = "release" in inspect.signature(read).parameters

        @wraps(read)
        def once(release: str = source, /) -> pd.DataFrame:
            entry = get_source(release)
            known = [role for role in roles if entry.find_role(role) is not None]
            files = [locate_role(release, role) for role in known or roles[:1]]
            key = json.dumps([entry.model_dump_json(), [sha256_of(file) for file in files], _code_checksum()])
            name = f"{read.__module__.rpartition('.')[2]}.{read.__name__}.{entry.id}"
            path = settings().download_dir / _TABLES / f"{name}.{hashlib.sha256(key.encode()).hexdigest()}.parquet"
            was_cached = path.exists()
            frame = cached_frame(path, lambda: read(files[0], *[release] * needs_release))
            with suppress(OSError):
                for old in () if was_cached else path.parent.glob(f"{name}.*.parquet"):
                    if old != path:
                        old.unlink(missing_ok=True)
            return frame

        return once

    return decorate


@cache
def _code_checksum() -> str:
    """Checksum of the code of this package."""
    return hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    ).hexdigest()
