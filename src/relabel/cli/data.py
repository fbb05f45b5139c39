"""`relabel data`: source files, which of them are on this machine, how to get the others; `relabel store`: stored answers."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import datetime
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import relabel
from relabel import manifest, settings
from relabel.cli._options import AsJson, Commands, RunArg, give_json
from relabel.cli.terminal import Table, doing, quoted, say, say_next
from relabel.errors import DataError, StoreError, UsageError
from relabel.labelling import maintenance, store
from relabel.redaction import public_url
from relabel.sources import fetch, registry
from relabel.tabular import listed_names

if TYPE_CHECKING:
    from collections.abc import Sequence

app = Commands()
data_app = Commands(name="data", no_args_is_help=True, help="List, fetch and check the source files.")
store_app = Commands(name="store", no_args_is_help=True, help="Manage the store of answers.")
app.add_typer(data_app)
app.add_typer(store_app)

_Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="By default all sources.", show_default=False)
]


@data_app.command("list")
def list_sources(as_json: AsJson = False) -> None:
    """Show every registered source with its release, licence and files."""
    sources = registry.load_registry().values()
    # By the names in the registry, where `copy_status` is `copy`; only its `file`, the name of a table per file, becomes `files`.
    dumped = [source.model_dump(mode="json", by_alias=True) for source in sources]
    if give_json({"sources": [entry | {"files": entry.pop("file")} for entry in dumped]}, as_json=as_json):
        return
    rows: list[list[str | int]] = []
    for source in sources:
        unofficial = sorted({file.copy_status for file in source.files} - {"official"})
        mark = f" [{', '.join(unofficial)} copy]" if unofficial else ""
        rows.append([source.id, source.licence, f"{source.title}; {source.release}{mark}", len(source.files)])
    Table("", ["source", "licence", "title and release", "files"], rows, left=3).show()


@data_app.command()
def pull(ids: _Ids = None, as_json: AsJson = False) -> None:
    """Download missing files from their official addresses.

    Files without a download address are listed with instructions; they are an error only for sources given as ID.
    """
    announced: set[tuple[str, str]] = set()

    def announce(place: str, url: str) -> None:
        source, host = place.partition("/")[0], public_url(url).partition("://")[2].partition("/")[0]
        if (source, host) not in announced:
            announced.add((source, host))
            typer.echo(f"fetching {source} from {host}", err=True)

    checks = fetch.pull(ids, on_fetch=announce)
    _show(checks, as_json=as_json, by_file=bool(ids), pulled=True)
    if bad := [check for check in checks if check.state != "ok" and (ids or check.can_fetch or check.path)]:
        sources = list(dict.fromkeys(check.source_id for check in bad))
        raise DataError(
            bad[0].message
            if len(bad) == 1
            else f"{len(bad)} of {len(checks)} files of {', '.join(sources)} could not be obtained; run `relabel data pull` "
            "again, or download them by hand as described above"
        )


@data_app.command()
def verify(ids: _Ids = None, strict: bool = False, as_json: AsJson = False) -> None:
    """Compare every file on this machine with its registered checksum; fetches nothing.

    Args:
        strict: Treat a missing file as an error, too.
    """
    with doing("computing checksums"):
        checks = fetch.verify(ids)
    _show(checks, as_json=as_json, by_file=bool(ids))
    if bad := [check.message for check in checks if check.state in ("mismatch", "unreadable")]:
        raise DataError("; ".join(bad))
    if strict and (lost := [f"{check.source_id}/{check.file}" for check in checks if check.state == "missing"]):
        named = listed_names(lost, 5)
        raise DataError(f"{len(lost)} of {len(checks)} files are missing: {named}; run `relabel data pull`")


@data_app.command()
def unpin(source: str) -> None:
    """Remove checksums that were pinned at first use, because the registry has none.

    Cached downloads are deleted too, and fetched again by `relabel data pull`.

    Args:
        source (ID): A source.
    """
    for forgotten in fetch.unpin(source):
        typer.echo(f"removed the pinned checksum of {source}/{forgotten}")


def _show(checks: Sequence[fetch.FileCheck], *, as_json: bool, by_file: bool, pulled: bool = False) -> None:
    states = ("ok", "missing", "mismatch", "unreadable")
    counts = {state: sum(check.state == state for check in checks) for state in states}
    files = [check.model_dump(mode="json", by_alias=True) for check in checks]
    if give_json({"files": files, **counts}, as_json=as_json):
        return
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for check in checks:
        copy = f"{check.copy_status}, pinned" if check.pinned else check.copy_status
        rows.setdefault((check.source_id, check.state, check.where or "-", copy), []).append(check.file)
    cells = [
        [name, state, where, copy]
        for (source, state, where, copy), names in rows.items()
        for name in ([f"{source}/{file}" for file in names] if by_file else [f"{len(names)} of {source}"])
    ]
    Table("", ["file" if by_file else "files", "state", "from", "copy"], cells, left=4).show()
    for line in _advice(checks) if pulled else ():
        typer.echo(line)
    if counts["missing"] and not pulled:
        typer.echo("`relabel data pull` fetches what is missing, and says where to get what it cannot fetch")
    typer.echo(", ".join(f"{count} {state}" for state, count in counts.items() if count or state == "ok"))


def _advice(checks: Sequence[fetch.FileCheck]) -> list[str]:
    """Say what to do about files that `pull` could not get.

    Returns:
        Lines: one for each file that is not the registered one; one for each source and reason why its files could not be
        fetched; for each source with files to download by hand, one and, indented, their pages; last, advice for all files.
    """
    sources = registry.load_registry()
    lacking = [check for check in checks if check.state != "ok"]
    by_hand = [check for check in lacking if check.state == "missing" and not check.can_fetch]
    lines = [f"{check.source_id}: {check.message}" for check in lacking if not check.why and check not in by_hand]
    failed = Counter((check.source_id, check.why) for check in lacking if check.why)
    lines += [
        f"{source}: {count} of its files could not be fetched ({reason})" for (source, reason), count in failed.items()
    ]
    for name, group in groupby(by_hand, attrgetter("source_id")):
        lines += _manual_downloads(sources[name], [sources[name].file(check.file) for check in group])
    if failed or by_hand:
        lines.append("files that you already have can be put into the folder RELABEL_DATA_MIRROR, as SOURCE_ID/FILE")
    return lines


def _manual_downloads(source: registry.Source, files: Sequence[registry.SourceFile]) -> list[str]:
    about = f" ({source.use})" if source.use else ""
    lines = [f"{source.id}{about}: put into {fetch.cached_path(source, files[0]).parent}"]
    pages: dict[tuple[str, str], list[str]] = {}
    for file in files:
        page = (file.url, file.note) if file.url else (source.homepage, source.notes)
        pages.setdefault(page, []).append(file.name)
    for (url, note), names in pages.items():
        lines.append(f"  {', '.join(names)}: see {url}")
        lines += [f"    {note}"] if note else []
    return lines


def _store(*, read_only: bool = True) -> store.Store:
    return store.Store(settings.settings().store_dir, read_only=read_only)


@store_app.command()
def stats(as_json: AsJson = False) -> None:
    """Count the answers, by model, with their cost and size."""
    with doing("reading the store"), _store() as opened:
        statistics = opened.stats()
    if give_json(statistics, as_json=as_json):
        return
    size = f"{statistics.bytes / 1e6:.1f} MB"
    typer.echo(f"{statistics.answers} answers and {statistics.rejected} rejected ones in {statistics.folder} ({size})")
    for model, count in statistics.by_model.items():
        typer.echo(f"  {count:>8}  {model}")
    unknown = f", and {statistics.cost_unknown} answers of unknown price" if statistics.cost_unknown else ""
    for pack, count in statistics.from_packs.items():
        typer.echo(f"{count:,} of them came from the pack {pack}, for which only its maker can vouch")
    if statistics.damaged:
        typer.echo(f"damaged and never served: {statistics.damaged:,} (`relabel store verify` names them)")
    if statistics.aside:
        typer.echo(f"damaged and set aside: {statistics.aside:,}")
    typer.echo(f"total cost ${statistics.cost_usd:.4f}{unknown}")


@store_app.command("verify")
def verify_store(set_aside: bool = False) -> None:
    """Read every answer and check it against the request that it belongs to.

    Args:
        set_aside: Move damaged parts out of the way, save what can be read, and keep the damaged parts beside the store.
    """
    folder = settings.settings().store_dir
    for line in maintenance.set_damage_aside(folder) if set_aside else ():
        typer.echo(line)
    with doing("reading the store"), _store() as opened:
        faults = 0
        for fault in opened.verify():
            typer.echo(fault)
            faults += 1
        if faults:
            raise StoreError(
                f"faults in the store {folder}: {faults:,}, listed above; damaged rows are never used: run "
                "`relabel store verify --set-aside` to move them out of the way, or restore the store from a copy"
            )
        typer.echo(f"the store {folder}: no errors found")
        if opened.from_packs:
            note = "answers came from packs; only the makers of the packs can vouch for them"
            typer.echo(f"{opened.from_packs:,} {note}")


@store_app.command()
def prune(
    model: str | None = None,
    before: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])] = None,
    rejected: bool = False,
    dry_run: bool = False,
    yes: bool = False,
    as_json: AsJson = False,
) -> None:
    """Remove stored answers permanently: those that match all of the given options.

    They were paid for, and asking the same questions again costs again: pack them first with `relabel store pack`.

    Args:
        model: Answers of this model, as asked for or as returned.
        before: Answers from before this day, such as 2026-01-31.
        rejected: Only answers that are not labels.
        dry_run: Only say what would be removed.
        yes: Do not ask.
    """
    from dataclasses import asdict

    remove = partial(maintenance.prune, model=model, before=before, rejected=rejected)
    if not dry_run and not yes:
        if not sys.stdin.isatty():
            raise UsageError("nothing was removed; use --dry-run for a preview, or --yes to remove the answers")
        with _store() as opened:
            _say_pruned(remove(opened, dry_run=True), dry_run=True)
        typer.confirm("Remove them permanently?", abort=True, err=True)
    with _store(read_only=dry_run) as opened:
        pruned = remove(opened, dry_run=dry_run)
    if not give_json(asdict(pruned) | {"dry_run": dry_run}, as_json=as_json):
        _say_pruned(pruned, dry_run=dry_run)


def _say_pruned(pruned: maintenance.Pruned, *, dry_run: bool) -> None:
    typer.echo(
        f"{'would remove' if dry_run else 'removed'} {pruned.answers:,} answers and {pruned.rejected:,} rejected ones, which cost "
        f"{pruned.cost_usd:.4f} USD as far as known"
    )
    for name, count in sorted(pruned.by_model.items()):
        typer.echo(f"  {count:>8}  {name}")


@store_app.command()
def notes(drop: bool = False) -> None:
    """List notes about servers, such as the response format that one accepts.

    Args:
        drop: Delete them; each is tested again when needed.
    """
    with _store(read_only=not drop) as opened:
        typer.echo("\n".join(opened.notes()) or "no notes")
        if drop:
            typer.echo(f"{opened.drop_notes():,} notes dropped")


@store_app.command()
def pack(file: Path, run: str | None = None) -> None:
    """Write answers into one portable file, from which anybody can replay the run without a key.

    Args:
        file (F): The file to write, such as answers.jsonl.gz.
        run: Only the answers of this run. By default all that the store holds.
    """
    runs = [] if run is None else [relabel.open_run(run)]
    with doing("reading the store"), _store() as opened:
        count = maintenance.pack(opened, file, *runs)
    typer.echo(f"{count:,} answers in {file} ({file.stat().st_size / 1e6:.1f} MB)")
    say_next(f"relabel store unpack {quoted(file)}")


@store_app.command()
def unpack(file: Path) -> None:
    """Add the answers of a packed file to the store; existing answers are kept.

    Args:
        file (F): A file that `relabel store pack` wrote.
    """
    with _store(read_only=False) as opened:
        added, existing = maintenance.unpack(opened, file)
    typer.echo(f"{added:,} answers added, marked as coming from this pack; {existing:,} were there already")


@app.command()
def answers(run: RunArg, task: list[str] | None = None, rejected: bool = False, as_json: AsJson = False) -> None:
    """Show a run's raw answers, as the model wrote them.

    Args:
        task: Only answers about this task's id; may be given more than once.
        rejected: Show answers that were paid for and are not labels, with the reason.
    """
    wanted: dict[str, tuple[str, str, int]] = {}
    if run not in manifest.PUBLISHED and run != "sample":
        folder, columns = manifest.find_run(run), ("request_key", "task_id", "setting", "sample")
        asked = [tuple(row.values()) for row in manifest.read_label_file(folder, columns).to_pylist()]
        asked += [(row.request_key, row.task_id, row.setting, row.sample) for row in manifest.read_failures(folder)]
        wanted = {key: (name, setting, sample) for key, name, setting, sample in asked if not task or name in task}
    with _store() as opened:
        keys = opened.rejected_keys(wanted) if rejected else [key for key in wanted if opened.has(key)]
        rows = [(wanted[key.partition("/")[0]], row) for key in keys if (row := opened.checked(key)) is not None]
    shown = [
        {"task_id": task_id, "setting": setting, "sample": sample, **row.answer.model_dump()}
        | ({"rejected": row.rejected.model_dump()} if row.rejected else {})
        for (task_id, setting, sample), row in rows
    ]
    if give_json(shown, as_json=as_json):
        return
    for (task_id, setting, sample), row in rows:
        answer = row.answer
        typer.echo(
            f"{task_id} {setting} sample {sample}  {answer.model_returned}, {answer.usage.prompt:,} tokens in, {answer.usage.completion:,} out, "
            f"finish reason {answer.finish_reason}{', repaired' * answer.repaired}"
        )
        if row.rejected:
            say(f"rejected as {row.rejected.kind}: {row.rejected.reason}", indent=2)
        typer.echo("  " + (answer.content or answer.refusal or "(empty)").replace("\n", "\n  "))
    if not rows:
        kind = "rejected answers" if rejected else "answers"
        typer.echo(f"the store has no {kind} of {run}{' about these tasks' if task else ''}", err=True)
