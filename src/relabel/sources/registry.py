"""The registry of sources: their files, publishers, licences and checksums.

The built-in registry is `data/sources.toml`. Entries of a user's TOML file with the same layout, named in
`RELABEL_SOURCES`, add to it or replace entries, so that a newer release needs no change of code.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from relabel.errors import WEB_ADDRESS, DataError
from relabel.files import read_user_entries
from relabel.settings import Frozen, asset_dir, settings

CopyStatus = Literal["official", "rebuilt", "derived"]

_Text = Annotated[str, Field(min_length=1)]
_PlainName = Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$", description="a file name without folders")]


class SourceFile(Frozen):
    """One file of a source.

    Attributes:
        name: Official file name; also its name in a mirror and in the download cache.
        role: Name by which readers request the file, because file names may change between releases.
        sha256: Checksum of the registered copy, 64 hex digits; None if unknown, and then pinned at first use.
        bytes: Size of the registered copy in bytes, or None.
        copy_status: `official` (the publisher's bytes), `rebuilt` (the same file, reconstructed from another release or
            layout) or `derived` (a form that the publisher does not offer). Called `copy` in TOML.
        download: How to get the official file: `file` (the address is the file), `zip` (it is `member` of the archive at
            the address), `page` (a person must select it on the page at the address) or `none`.
        url: Official address, or None.
        member: Path of the file inside the archive; only with `download = "zip"`.
        note: A caveat for users of this file, or an empty string.
    """

    model_config = ConfigDict(populate_by_name=True)

    name: _PlainName
    role: str | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    bytes: Annotated[int, Field(ge=0)] | None = None
    copy_status: Annotated[CopyStatus, Field(alias="copy")] = "official"
    download: Literal["file", "zip", "page", "none"] = "none"
    url: Annotated[str, Field(pattern=WEB_ADDRESS)] | None = None
    member: str | None = None
    note: str = ""

    @model_validator(mode="after")
    def _download_is_complete(self) -> Self:
        if self.download != "none" and not self.url:
            raise ValueError(f"download = {self.download!r} needs the key 'url'")
        if self.download == "zip" and not self.member:
            raise ValueError("download = 'zip' needs the key 'member'")
        if self.copy_status != "official" and self.sha256 is None:
            raise ValueError(f"copy = {self.copy_status!r} needs the key 'sha256'")
        return self

    @property
    def can_fetch(self) -> bool:
        """Whether it can be fetched automatically."""
        return self.download in ("file", "zip")


class Source(Frozen):
    """One release of a data set.

    Attributes:
        id: Short name, also the folder name in a mirror.
        title: Full name of the data set.
        publisher: Who publishes it.
        release: Version or period.
        licence: Short name of the licence.
        citation: How to cite it.
        homepage: Address of a page about it.
        files: Its files, at least one.
        use: What it is needed for, in words, or an empty string.
        notes: Caveats for users of the source, or an empty string.
    """

    model_config = ConfigDict(populate_by_name=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    title: _Text
    publisher: _Text
    release: _Text
    licence: _Text
    citation: _Text
    homepage: _Text
    files: Annotated[tuple[SourceFile, ...], Field(alias="file", min_length=1)]
    use: str = ""
    notes: str = ""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for key in ("name", "role"):
            seen = [value for file in self.files if (value := getattr(file, key)) is not None]
            if doubles := sorted({value for value in seen if seen.count(value) > 1}):
                raise ValueError(f"two files share the {key} {doubles[0]!r}")
        return self

    def file(self, name: str) -> SourceFile:
        """The file of that name.

        Raises:
            DataError: The source has no such file.
        """
        if (found := next((file for file in self.files if file.name == name), None)) is not None:
            return found
        names = ", ".join(repr(file.name) for file in self.files)
        raise DataError(f"source {self.id!r} has no file {name!r}; it has {names}")

    def with_role(self, role: str) -> SourceFile:
        """The file with a role, such as `coding-index`.

        Raises:
            DataError: No file of the source has that role.
        """
        if (file := self.find_role(role)) is not None:
            return file
        roles = ", ".join(sorted(file.role for file in self.files if file.role)) or "none"
        raise DataError(
            f"source {self.id!r} has no file with the role {role!r} (its roles: {roles}); "
            "name another source or add the file to the entry in your RELABEL_SOURCES file"
        )

    def find_role(self, role: str) -> SourceFile | None:
        """The file with a role, or None."""
        return next((file for file in self.files if file.role == role), None)


def load_registry(extra: Path | None = None) -> dict[str, Source]:
    """Read the built-in registry and the user's entries.

    A user's entry with the id of a built-in one replaces it completely.

    Args:
        extra: The user's TOML file; by default the one named in `RELABEL_SOURCES`, if any.

    Returns:
        Sources by id, built-in ones first.

    Raises:
        DataError: A file cannot be read or is not TOML, or an entry lacks a key or has a bad value.
    """
    extra = extra or settings().sources
    built_in = _read(asset_dir("data") / "sources.toml")
    return {**built_in, **(_read(extra) if extra is not None else {})}


def get_source(source_id: str) -> Source:
    """Get a source of the registry.

    Raises:
        DataError: There is no such source; the message lists the known ones.
    """
    registry = load_registry()
    if source_id not in registry:
        raise DataError(f"unknown source {source_id!r}; known: {', '.join(sorted(registry))}")
    return registry[source_id]


def _read(path: Path) -> Mapping[str, Source]:
    stat = path.stat() if path.is_file() else None
    return _parsed(path, stat and (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=8)
def _parsed(path: Path, version: tuple[int, int] | None) -> Mapping[str, Source]:
    del version  # part of the cache key, so that a changed file is read again
    return read_user_entries(path, "source", Source, "data/sources.toml")
