"""Where a source file is on this machine, and whether it is the right one: mirror, download cache, official address.

No path leaves this module before the file's sha256 has been compared with the registry's, or, where the registry cannot
know it, with the one pinned at first use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from relabel.errors import ChecksumError, DataError, NotAtHandError
from relabel.settings import settings
from relabel.sources.download import (
    cached_path,
    download,
    has_pin,
    how_to_get,
    is_pinned_kind,
    read_pin,
    sha256_of,
    was_fetched,
    write_pin,
)
from relabel.sources.download import unpin as remove_pin
from relabel.sources.registry import CopyStatus, Source, SourceFile, get_source, load_registry

__all__ = [
    "FileCheck",
    "Provenance",
    "Where",
    "is_here",
    "locate",
    "provenance",
    "pull",
    "sha256_of",
    "unpin",
    "verify",
]

Where = Literal["mirror", "cache", "download"]


class Provenance(BaseModel):
    """What a run has to record about one file that it used.

    Attributes:
        source_id: Id of the source.
        file: File name.
        release: Release of the source.
        sha256: Checksum of the very bytes that were used.
        licence: Licence of the source.
        citation: How to cite the source.
        copy_status: `official`, `rebuilt` or `derived`.
        where: `mirror`, `cache`, or `download` when this process fetched it.
        note: The registry's note on the file.
    """

    model_config = ConfigDict(frozen=True)

    source_id: str
    file: str
    release: str
    sha256: str
    licence: str
    citation: str
    copy_status: CopyStatus
    where: Where
    note: str


class FileCheck(BaseModel):
    """The state of one registered file on this machine.

    Attributes:
        source_id: Id of the source.
        file: File name.
        state: `ok`, `missing`, `mismatch`, or `unreadable`.
        where: Where it was found or came from; None when missing.
        path: Its path; None when missing.
        wanted: The sha256 that was asked for; None where it is not known yet.
        found: The sha256 of the file at hand; None when there is none.
        copy_status: What the copy at hand is; when missing, what the registry lists.
        can_fetch: Whether the official file can be fetched automatically.
        pinned: Whether the checksum was pinned at first use, because the registry has none.
        message: What is wrong and what to do, or an empty string.
        why: Why fetching it failed, in a few words, or an empty string.
    """

    model_config = ConfigDict(frozen=True)

    source_id: str
    file: str
    state: Literal["ok", "missing", "mismatch", "unreadable"]
    where: Where | None = None
    path: Path | None = None
    wanted: str | None = None
    found: str | None = None
    copy_status: CopyStatus
    can_fetch: bool
    pinned: bool = False
    message: str = ""
    why: str = ""


def locate(source_id: str, file: str) -> Path:
    """The verified path of a source file: from the mirror, else the download cache, else the official address.

    Args:
        source_id: Id of a registered source.
        file: File name as the registry has it.

    Returns:
        Path of a file whose checksum is the registered or pinned one.

    Raises:
        ChecksumError: The file at hand is changed, cut or another one.
        DataError: There is no such source or file, it cannot be read, or it is not to be had automatically.
    """
    source = get_source(source_id)
    return _resolve(source, source.file(file))[0]


def provenance(source_id: str, file: str) -> Provenance:
    """What a manifest records about a file; locates it first.

    Raises:
        DataError: As `locate`.
    """
    source = get_source(source_id)
    entry = source.file(file)
    path, where, found, status = _resolve(source, entry)
    return Provenance(
        source_id=source.id,
        file=entry.name,
        release=source.release,
        sha256=found,
        licence=source.licence,
        citation=source.citation,
        copy_status=status,
        where="download" if was_fetched(path) else where,
        note=entry.note,
    )


def is_here(source_id: str, role: str) -> bool:
    """Whether the file that plays a role in a source is on this machine, unchecked; fetches nothing."""
    source = get_source(source_id)
    return _at_hand(source, source.with_role(role)) is not None


def verify(source_ids: Iterable[str] | None = None) -> list[FileCheck]:
    """Check every file at hand against the registry; fetches nothing, but pins what is registered without checksum.

    Args:
        source_ids: Sources to check; by default all.

    Returns:
        One check a registered file, in the order of the registry.

    Raises:
        DataError: A source is unknown, or the mirror is not a folder.
    """
    return [_check_at_hand(source, entry) for source in _chosen(source_ids) for entry in source.files]


def unpin(source_id: str, file: str | None = None) -> list[str]:
    """Forget the checksums that were pinned at first use, and the copies in the download cache that can be fetched again.

    Args:
        source_id: The source.
        file: One of its files; by default all.

    Returns:
        Names of the files whose checksums were forgotten.

    Raises:
        DataError: There is no such source or file, or nothing of it is pinned.
    """
    source = get_source(source_id)
    entries = source.files if file is None else (source.file(file),)
    if forgotten := [entry.name for entry in entries if remove_pin(source, entry)]:
        return forgotten
    raise DataError(f"no file of {source_id} is pinned; `relabel data verify` shows what is")


def pull(
    source_ids: Iterable[str] | None = None, *, on_fetch: Callable[[str, str], None] | None = None
) -> list[FileCheck]:
    """Fetch what is missing, and fetch again what is damaged in the download cache.

    Files in the mirror are never touched. Failures do not stop the rest: they come back in the list.

    Args:
        source_ids: Sources to fetch; by default all.
        on_fetch: Called before each attempt with `SOURCE_ID/FILE` and the official address.

    Returns:
        One check a registered file; `where` is `download` for those that were fetched.

    Raises:
        DataError: A source is unknown, or the mirror is not a folder.
    """
    done: list[FileCheck] = []
    failed: dict[str, FileCheck] = {}
    for source in _chosen(source_ids):
        for entry in source.files:
            check = _check_at_hand(source, entry)
            damaged = check.state == "mismatch" and check.where == "cache"
            if check.can_fetch and (check.state == "missing" or damaged):
                url = entry.url or ""
                if (first := failed.get(url)) is not None:  # an archive of several files that is not to be had
                    message = first.message.replace(f"{first.source_id}/{first.file}", f"{source.id}/{entry.name}", 1)
                    done.append(check.model_copy(update={"message": message, "why": first.why}))
                    continue
                if on_fetch is not None:
                    on_fetch(f"{source.id}/{entry.name}", url)
                try:
                    download(source, entry)
                    check = _check_at_hand(source, entry)
                except NotAtHandError as error:
                    check = check.model_copy(update={"message": str(error), "why": error.why})
                    failed[url] = check
                except DataError as error:
                    check = check.model_copy(update={"message": str(error)})
            if check.path is not None and was_fetched(check.path):
                check = check.model_copy(update={"where": "download"})
            done.append(check)
    return done


def _chosen(source_ids: Iterable[str] | None) -> list[Source]:
    wanted = list(source_ids or ())
    return [get_source(source_id) for source_id in wanted] if wanted else list(load_registry().values())


def _mirror() -> Path | None:
    mirror = settings().data_mirror
    if mirror is not None and not mirror.is_dir():
        raise DataError(f"RELABEL_DATA_MIRROR names {mirror}, which is not a folder; correct or unset it")
    return mirror


def _at_hand(source: Source, entry: SourceFile) -> tuple[Path, Where] | None:
    mirror = _mirror()
    path = cached_path(source, entry)
    try:
        if mirror is not None and (path := mirror / source.id / entry.name).exists():
            return path, "mirror"
        if (path := cached_path(source, entry)).exists():
            return path, "cache"
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the permissions of its folder") from error
    return None


def _resolve(source: Source, entry: SourceFile) -> tuple[Path, Where, str, CopyStatus]:
    at_hand = _at_hand(source, entry)
    path, where = at_hand if at_hand is not None else (download(source, entry), "cache")
    found, status = _accept(source, entry, path, where)
    return path, where, found, status


def _accept(source: Source, entry: SourceFile, path: Path, where: Where) -> tuple[str, CopyStatus]:
    """Compare a file at hand with the registry and the pin; returns its sha256 and what kind of copy it is."""
    found = sha256_of(path)
    if found == entry.sha256:
        return found, entry.copy_status
    pin = read_pin(source, entry)
    if is_pinned_kind(entry):
        if found == pin:
            return found, "official"
        if pin is None and entry.sha256 is None:
            write_pin(source, entry, path, str(path))
            return found, "official"
    wanted = pin if pin is not None and (where == "cache" or entry.sha256 is None) else entry.sha256
    raise ChecksumError(path, wanted or "", found, _mismatch_advice(source, entry, path, where, pinned=wanted == pin))


def _mismatch_advice(source: Source, entry: SourceFile, path: Path, where: Where, *, pinned: bool) -> str:
    size = path.stat().st_size
    reason = ""
    if entry.bytes is not None and size < entry.bytes and entry.copy_status == "official":
        reason = f"it has {size:,} of {entry.bytes:,} bytes and looks cut short, "
    if pinned:
        return (
            f"{reason}that checksum was pinned at first use: if this file is the right one, `relabel data unpin {source.id}` "
            "forgets it"
        )
    if where == "mirror":
        return f"{reason}copy the file into the mirror again or register your own release in a RELABEL_SOURCES file"
    if entry.download in ("file", "zip"):
        return f"{reason}run `relabel data pull {source.id}` to fetch it again"
    return f"{reason}delete it and put the registered file in its place"


def _check_at_hand(source: Source, entry: SourceFile) -> FileCheck:
    at_hand = _at_hand(source, entry)
    check = FileCheck(
        source_id=source.id,
        file=entry.name,
        state="missing",
        wanted=entry.sha256,
        copy_status=entry.copy_status,
        can_fetch=entry.download in ("file", "zip"),
        pinned=has_pin(source, entry),
    )
    if at_hand is None:
        return check.model_copy(update={"message": how_to_get(source, entry)})
    path, where = at_hand
    check = check.model_copy(update={"path": path, "where": where})
    try:
        found, status = _accept(source, entry, path, where)
    except ChecksumError as error:
        news = {"state": "mismatch", "wanted": error.wanted, "found": error.found, "message": str(error)}
        return check.model_copy(update=news)
    except DataError as error:
        return check.model_copy(update={"state": "unreadable", "message": str(error)})
    pinned = check.pinned or (is_pinned_kind(entry) and found != entry.sha256)
    news = {"state": "ok", "found": found, "wanted": found, "copy_status": status, "pinned": pinned}
    return check.model_copy(update=news)
