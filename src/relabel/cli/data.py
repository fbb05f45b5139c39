"""`relabel data`: which source files there are, which of them are at hand, and where the rest comes from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relabel.cli.terminal import make_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relabel.sources.fetch import FileCheck

app = typer.Typer(no_args_is_help=True, help="List, fetch and check the source files.")

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Sources; by default all.", show_default=False)
]


@app.command("list")
def list_sources(as_json: _Json = False) -> None:
    """Show every registered source with its release, licence and files."""
    from relabel.sources.registry import load_registry

    sources = load_registry().values()
    if as_json:
        _print_json({"sources": [_renamed(source.model_dump(mode="json", by_alias=True)) for source in sources]})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("ID", no_wrap=True)
    table.add_column("Files", justify="right")
    table.add_column("Licence", overflow="fold")
    table.add_column("Title and release", overflow="fold")
    for source in sources:
        odd = sorted({file.copy_status for file in source.files} - {"official"})
        mark = f" [{', '.join(odd)} copy]" if odd else ""
        table.add_row(source.id, str(len(source.files)), source.licence, f"{source.title}; {source.release}{mark}")
    _print_table(table)


@app.command()
def pull(ids: _Ids = None, as_json: _Json = False) -> None:
    """Fetch the files that are missing here from their official addresses.

    Files that no address gives are listed with what to do; they are an error only for sources that were named.
    """
    from relabel.errors import DataError
    from relabel.sources import fetch

    announced: set[tuple[str, str]] = set()

    def announce(place: str, url: str) -> None:
        source, host = place.partition("/")[0], url.split("/")[2]
        if (source, host) not in announced:
            announced.add((source, host))
            typer.echo(f"fetching {source} from {host}", err=True)

    checks = fetch.pull(ids, on_fetch=announce)
    _show(checks, as_json=as_json, by_file=bool(ids), tried=True)
    if bad := [check for check in checks if check.state != "ok" and (ids or check.can_fetch or check.path)]:
        sources = list(dict.fromkeys(check.source_id for check in bad))
        raise DataError(
            bad[0].message
            if len(bad) == 1
            else f"{len(bad)} of {len(checks)} files are still not to be had, of {', '.join(sources)}; run `relabel data pull` "
            "again, or fetch them by hand as said for each source"
        )


@app.command()
def verify(
    ids: _Ids = None,
    strict: Annotated[bool, typer.Option("--strict", help="Take a missing file as an error, too.")] = False,
    as_json: _Json = False,
) -> None:
    """Compare every file at hand with its registered checksum; fetches nothing."""
    from relabel.errors import DataError
    from relabel.sources import fetch

    checks = fetch.verify(ids)
    _show(checks, as_json=as_json, by_file=bool(ids))
    if bad := [check for check in checks if check.state in ("mismatch", "unreadable")]:
        raise _mismatch(bad)
    if strict and (lost := [check for check in checks if check.state == "missing"]):
        raise DataError(f"{len(lost)} of {len(checks)} files are missing: {_names(lost)}; run `relabel data pull`")


@app.command()
def unpin(
    source: Annotated[str, typer.Argument(metavar="ID[/FILE]", help="A source, or one of its files.")],
) -> None:
    """Forget the checksum of files that was pinned at their first use, because the registry has none.

    Copies in the download cache that an address gives go too, and are fetched anew by `relabel data pull`.
    """
    from relabel.sources import fetch

    name, _, file = source.partition("/")
    for forgotten in fetch.unpin(name, file or None):
        typer.echo(f"forgotten: the pinned checksum of {name}/{forgotten}")


def _mismatch(bad: Sequence[FileCheck]) -> Exception:
    """The error for damaged files: the file's own when it is one, else one that names each with its checksums."""
    from relabel.errors import DataError

    if len(bad) == 1:
        return DataError(bad[0].message)
    each = "; ".join(f"{check.path} (wanted sha256 {check.wanted}, found {check.found})" for check in bad)
    return DataError(f"{len(bad)} files are not the registered ones: {each}; replace them or run `relabel data pull`")


def _show(checks: Sequence[FileCheck], *, as_json: bool, by_file: bool, tried: bool = False) -> None:
    counts = {
        state: sum(check.state == state for check in checks) for state in ("ok", "missing", "mismatch", "unreadable")
    }
    if as_json:
        _print_json({"files": [_renamed(check.model_dump(mode="json")) for check in checks], **counts})
        return
    from rich.table import Table

    from relabel.sources.fetch import advice, to_fetch

    table = Table(box=None, pad_edge=False)
    table.add_column("State", no_wrap=True)
    table.add_column("From", no_wrap=True)
    table.add_column("Copy", no_wrap=True)
    table.add_column("Source/file" if by_file else "Files", overflow="fold")
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for check in checks:
        copy = f"{check.copy_status}, pinned" if check.pinned else check.copy_status
        place = check.source_id, check.state, check.where or "-", copy
        rows.setdefault(place, []).append(check.file)
    for (source, state, where, copy), files in rows.items():
        names = [f"{source}/{file}" for file in files] if by_file else [f"{len(files)} of {source}"]
        for name in names:
            table.add_row(state, where, copy, name)
    _print_table(table)
    for line in advice(checks, tried=tried):
        typer.echo(line)
    if not tried and (sources := to_fetch(checks)):
        typer.echo(f"to fetch: relabel data pull {' '.join(sources)}")
    typer.echo(", ".join(f"{count} {state}" for state, count in counts.items() if count or state == "ok"))


def _names(checks: Sequence[FileCheck]) -> str:
    names = [f"{check.source_id}/{check.file}" for check in checks]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _renamed(document: dict[str, Any]) -> dict[str, Any]:
    """Field names of the registry file, where a word is taken in Python."""
    if "copy_status" in document:
        document["copy"] = document.pop("copy_status")
    if "file" in document and isinstance(document["file"], list):
        document["files"] = document.pop("file")
    return document


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))


def _print_table(table: Any) -> None:
    make_console(wide=True).print(table)
