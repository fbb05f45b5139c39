"""An export: the folder of tables and pages that a site takes, made whole or not at all.

    DIR/occupations.csv|json|parquet    the score table
    DIR/occupations/CODE.json           one page a group: score, O*NET codes, tasks, answers
    DIR/tasks.csv|parquet               all tasks with their codes and readings
    DIR/sources.json                    files, checksums, licences, citations
    DIR/methodology.json                method, weights, bridge, rubric, prompt, model, counts
    DIR/datapackage.json                all of it described (Frictionless)

The same run gives the same bytes: nothing here asks the clock, and dates are those of the run.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from relabel.errors import DataError, IncompleteRunError, UsageError
from relabel.publishing.datapackage import (
    OCCUPATION_COLUMNS,
    TASK_COLUMNS,
    data_package,
    resource,
    table_schema,
)
from relabel.publishing.occupation import answers_by_task, occupation_pages, task_frame
from relabel.run import Manifest, Run
from relabel.scoring.options import METHOD_NOTES, SAMPLE, SYSTEM_NAMES, WEIGHT_NOTES, Method, Taxonomy, Weights
from relabel.scoring.table import (
    ScoreTable,
    csv_bytes,
    is_partial,
    json_bytes,
    parquet_bytes,
    run_name,
    score_table,
    table_json,
)
from relabel.sources import registry

EXPORT_FORMAT = 1
"""Counts up when the layout of an export changes."""

_PACKAGE = "datapackage.json"
_PARAMETERS = ("sample", "seed", "occupations", "samples", "examples")
_OWN = {
    SAMPLE: {
        "title": "The sample of relabel: invented tasks, labels, jobs and pay on real codes",
        "publisher": "relabel",
        "licence": "MIT",
        "citation": "Codes, titles and crosswalks: O*NET, USDOL/ETA (CC BY 4.0); US Bureau of Labor Statistics (public "
        "domain); Office for National Statistics (Open Government Licence v3.0). All else: relabel.",
    },
    "pay-file": {
        "title": "Jobs and pay given as a file by the maker of this export",
        "publisher": "not stated",
        "licence": "not stated",
    },
}


@dataclass(frozen=True)
class Export:
    """An export that has been written.

    Attributes:
        folder: Where it lies.
        files: Number of files.
        size: Bytes in all.
        table: The score table in it.
    """

    folder: Path
    files: int
    size: int
    table: ScoreTable


def export_run(
    run: Run,
    out: Path,
    *,
    method: Method = "bridge",
    taxonomy: Taxonomy = "uk-soc2020",
    weights: Weights = "importance",
    tasks: str | None = None,
    pay: str | None = None,
    allow_partial: bool = False,
) -> Export:
    """Score a run and write its export.

    The folder is built beside its place and moved there when it is whole; an earlier export in its place goes.

    Args:
        run: The run.
        out: Folder to write: new, empty, or an earlier export without other files.
        method: As for `score_table`, and so are `taxonomy`, `weights`, `tasks` and `pay`.
        taxonomy: Classification of the pages.
        weights: How tasks weigh within their occupation.
        tasks: Task list that gives texts, types and importance.
        pay: Source of pay.
        allow_partial: Export a run that is not complete; every file then says so.

    Raises:
        IncompleteRunError: The run is not complete and `allow_partial` is not set.
        UsageError: The folder is in use for something else, or the choices do not go together.
        DataError: The folder cannot be written, or labels or sources are missing or malformed.
    """
    if is_partial(run) and not allow_partial:
        raise IncompleteRunError(
            f"the run {run.ref} is {run.manifest.status}, so its scores would rest on a part of its labels; finish it "
            "with the same `relabel run`, or export it as it is with --allow-partial"
        )
    folder = out.resolve()
    building = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        _require_free(folder, out)
        building.mkdir(parents=True)
        try:
            table = score_table(run, method=method, taxonomy=taxonomy, weights=weights, tasks=tasks, pay=pay)
            files, size = _build(building, run, table)
            _move_into_place(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"cannot write the export to {out} ({error.strerror or error}); free space or give another folder to --out"
        ) from error
    return Export(out, files, size, table)


def _require_free(folder: Path, shown: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{shown} is a file; give a folder to --out")
    if not any(folder.iterdir()):
        return
    known = _files_of_export(folder)
    if known is None:
        raise UsageError(f"{shown} holds files that are no earlier export; give an empty or new folder to --out")
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    if strange := sorted(there - known):
        raise UsageError(
            f"{shown} is an earlier export but also holds {strange[0]}, which writing it again would delete; "
            "move that file away or give another folder to --out"
        )


def _files_of_export(folder: Path) -> set[str] | None:
    """Files that the data package of an earlier export names; None when there is none."""
    try:
        package = json.loads((folder / _PACKAGE).read_text(encoding="utf-8"))
        if "export_format" not in package["relabel"]:
            return None
        return {_PACKAGE, *(PurePosixPath(entry["path"]).as_posix() for entry in package["resources"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _move_into_place(building: Path, folder: Path) -> None:
    if not folder.exists():
        building.replace(folder)
        return
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    folder.replace(aside)
    try:
        building.replace(folder)
    except OSError:
        aside.replace(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _build(folder: Path, run: Run, table: ScoreTable) -> tuple[int, int]:
    """Write all files; returns their number and their bytes."""
    entries: list[dict[str, Any]] = []
    marks = {"sample": table.sample, "partial": table.partial, "note": table.note}

    def write(path: str, content: bytes, title: str, schema: dict[str, Any] | None = None) -> None:
        target = folder / path
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
        entries.append(resource(path, content, title, schema))

    about = table.describe()
    scores = table_schema(table.frame, OCCUPATION_COLUMNS, ["code"])
    write("occupations.csv", csv_bytes(table.frame), "Score table", scores)
    write("occupations.json", json_bytes(table_json(table)), "Score table, with what it was made from", scores)
    write("occupations.parquet", parquet_bytes(table.frame, about), "Score table", scores)
    answers = answers_by_task(run)
    tasks = task_frame(table, answers)
    labelled = table_schema(tasks, TASK_COLUMNS, ["onet_soc_code", "task_id"])
    write("tasks.csv", csv_bytes(tasks), "Tasks with codes and readings", labelled)
    write("tasks.parquet", parquet_bytes(tasks, about), "Tasks with codes and readings", labelled)
    sources = source_entries(table)
    write("sources.json", json_bytes(marks | {"sources": sources}), "Sources: files, checksums, licences, citations")
    method = methodology(run, table)
    write("methodology.json", json_bytes(method), "Method, weights, bridge, rubric, model, counts")
    for code, page in occupation_pages(table, tasks, answers):
        write(f"occupations/{code}.json", json_bytes(page, indent=None), f"{code} {page['title']}")
    package = data_package(
        name=f"relabel-{run_name(run)}-{table.taxonomy}-{table.method}",
        title=f"Exposure of occupations ({SYSTEM_NAMES[table.taxonomy]}) to language models, labels by {table.model}",
        description=_description(table),
        created=run.manifest.ended_at or run.manifest.started_at,
        sources=sources,
        resources=entries,
        about=marks | {"export_format": EXPORT_FORMAT, "counts": about["counts"]},
    )
    content = json_bytes(package)
    (folder / _PACKAGE).write_bytes(content)
    return len(entries) + 1, sum(entry["bytes"] for entry in entries) + len(content)


def _description(table: ScoreTable) -> str:
    counts = table.describe()["counts"]
    text = (
        f"{counts['scored']:,} of {counts['groups']:,} groups scored, from {counts['tasks_labelled']:,} labelled tasks "
        f"of {counts['tasks_listed']:,} in {table.tasks}. {_method_text(table)}"
    )
    return f"{table.note}. {text}" if table.note else text


def _method_text(table: ScoreTable) -> str:
    if table.sample:
        return f"Method {table.method} by the sample's own bridge, in one step from O*NET-SOC codes to UK groups."
    return METHOD_NOTES[table.method]


def source_entries(table: ScoreTable) -> list[dict[str, Any]]:
    """What `sources.json` says: each source that went into the table with its licence, citation and files.

    Raises:
        DataError: The registry cannot be read.
    """
    known = registry.load_registry()
    files: dict[str, list[dict[str, Any]]] = {}
    for use in table.sources:
        entry = use.model_dump(mode="json", exclude_none=True)
        source = known.get(use.source)
        note = next((f.note for f in source.files if f.name == use.file), "") if source else ""
        if note:
            entry["note"] = note
        files.setdefault(entry.pop("source"), []).append(entry)
    entries: list[dict[str, Any]] = []
    for source_id in sorted(files):
        source = known.get(source_id)
        if source is not None:
            fields = source.model_dump(mode="json", include={*_SOURCE_FIELDS})
        else:
            own = _OWN.get(source_id, {"title": source_id, "publisher": "not stated", "licence": "not stated"})
            fields = dict.fromkeys(_SOURCE_FIELDS, "") | own | {"id": source_id}
        entries.append(fields | {"files": files[source_id]})
    return entries


_SOURCE_FIELDS = ("id", "title", "publisher", "release", "licence", "citation", "homepage", "notes")


def methodology(run: Run, table: ScoreTable) -> dict[str, Any]:
    """What `methodology.json` says: how the labels and the scores were made, and from how much."""
    manifest: Manifest = run.manifest
    about = table.describe()
    rebuilt = [use.file for use in table.sources if use.copy_status not in {None, "official"}]
    caveats = [
        f"{name} is not the publisher's own file but a copy put together again; see sources.json" for name in rebuilt
    ]
    if table.taxonomy == "uk-soc2020" and not table.sample:
        caveats.append("The publisher of the pay calls its counts of jobs indicative only.")
    return about | {
        "caveats": caveats,
        "description": _description(table),
        "score": {
            "method": table.method,
            "method_text": _method_text(table),
            "taxonomy": table.taxonomy,
            "taxonomy_name": SYSTEM_NAMES[table.taxonomy],
            "weights": table.weights,
            "weights_text": WEIGHT_NOTES[table.weights],
            "rounded": table.method == "site-2026",
            "bridge": {
                "name": table.bridge.name,
                "steps": [
                    {"source": s.source, "target": s.target, "links": len(s.links), "origin": s.origin}
                    for s in table.bridge.steps
                ],
            },
            "columns": {name: column.description for name, column in OCCUPATION_COLUMNS.items()},
        },
        "labels": {
            "run": run_name(run),
            "status": manifest.status,
            "note": manifest.note,
            "model": manifest.model,
            "models_returned": list(manifest.models_returned),
            "engine": manifest.engine,
            "package_version": manifest.package_version,
            "git_commit": manifest.git_commit,
            "tasks": Path(manifest.tasks).name,
            "settings": list(manifest.settings),
            "rubric": manifest.rubric.model_dump(mode="json"),
            "rubric_sha256": manifest.rubric_sha256,
            "prompt_sha256": manifest.prompt_sha256,
            "schema_sha256": manifest.schema_sha256,
            "parameters": {key: manifest.parameters[key] for key in _PARAMETERS if key in manifest.parameters},
            "counts": manifest.counts.model_dump(mode="json"),
            "started_at": manifest.started_at,
            "ended_at": manifest.ended_at,
        },
    }
