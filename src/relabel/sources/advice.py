"""What to do about source files that are not here, by source, however many files it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from relabel.sources.download import cached_path
from relabel.sources.fetch import FileCheck
from relabel.sources.registry import Source, SourceFile, load_registry


def advice(checks: Sequence[FileCheck], *, tried: bool) -> list[str]:
    """Say what to do about files that are missing or wrong.

    Args:
        checks: Checks of `verify`, or of `pull`.
        tried: Whether they are of `pull`. What can be fetched and was not tried is left out: `to_fetch` has it.

    Returns:
        A line for each file that is not the registered one, a line for each source whose files could not be fetched, and
        for each source with files that a person must fetch a line and, indented, the pages; what goes for all comes last.
    """
    registry = load_registry()
    missing = [check for check in checks if check.state == "missing"]
    lines = [
        f"{check.source_id}: {check.message}"
        for check in checks
        if check.state not in ("ok", "missing") or (tried and check in missing and check.can_fetch and not check.why)
    ]
    failed = [check for check in missing if check.why]
    by_hand = [check for check in missing if not check.can_fetch]
    for group in _by_source(failed):
        source = registry[group[0].source_id]
        urls = list(dict.fromkeys(source.file(check.file).url or "" for check in group))
        them = group[0].file if len(group) == 1 else f"{len(group)} files"
        place = urls[0] if len(urls) == 1 else " and ".join(dict.fromkeys(url.split("/")[2] for url in urls))
        why = ", ".join(dict.fromkeys(check.why for check in group))
        lines.append(f"{source.id}: {them} could not be fetched from {place} ({why})")
    for group in _by_source(by_hand):
        source = registry[group[0].source_id]
        lines += _by_hand(source, [source.file(check.file) for check in group])
    if failed:
        lines.append("to do: run `relabel data pull` again when the addresses answer; it fetches what is missing only")
    if failed or by_hand:
        lines.append("what you have already may lie in a folder that RELABEL_DATA_MIRROR names, as SOURCE_ID/FILE")
    return lines


def to_fetch(checks: Iterable[FileCheck]) -> list[str]:
    """Sources with missing files that `relabel data pull` can fetch."""
    return list(dict.fromkeys(check.source_id for check in checks if check.state == "missing" and check.can_fetch))


def _by_source(checks: Iterable[FileCheck]) -> list[list[FileCheck]]:
    groups: dict[str, list[FileCheck]] = {}
    for check in checks:
        groups.setdefault(check.source_id, []).append(check)
    return list(groups.values())


def _by_hand(source: Source, files: Sequence[SourceFile]) -> list[str]:
    about = f" ({source.use})" if source.use else ""
    lines = [f"{source.id}{about}: put into {cached_path(source, files[0]).parent}"]
    pages: dict[tuple[str | None, str], list[str]] = {}
    for file in files:
        note = "" if file.download == "none" and file.copy_status == "official" else file.note
        pages.setdefault((file.url, note), []).append(file.name)
    for (url, note), names in pages.items():
        lines.append(f"  {', '.join(names)}: {f'from {url}' if url else f'no address gives it; see {source.homepage}'}")
        lines += [f"    {note}"] if note else []
    if any(file.url is None for file in files) and source.notes:
        lines.append(f"    {source.notes}")
    return lines
