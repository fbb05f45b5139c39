"""What an export says about itself: the method in words, caveats, and the sources with their licences."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from relabel.manifest import TASK_FILE, Manifest, SourceUse
from relabel.publishing.datapackage import OCCUPATION_COLUMNS
from relabel.publishing.words import CAUTION, READING_NAMES, load_bands, model_name
from relabel.run import Run
from relabel.scoring.bridges import Step
from relabel.scoring.options import SAMPLE, SYSTEM_NAMES, UNRATED_NOTES, WEIGHT_NOTES
from relabel.scoring.table import ENOUGH, ScoreTable
from relabel.sources import registry
from relabel.sources.tables import is_table_file
from relabel.tabular import FORMULA

_PARAMETERS = ("sample", "seed", "occupations", "samples", "examples")
_OWN = {
    SAMPLE: {
        "title": "The sample of relabel: invented tasks, labels, jobs and pay on real codes",
        "publisher": "relabel",
        "licence": "MIT",
        "citation": "Codes, titles and crosswalks: O*NET, USDOL/ETA (CC BY 4.0); US Bureau of Labor Statistics (public "
        "domain); Office for National Statistics (Open Government Licence v3.0). All else: relabel.",
    },
    TASK_FILE: {
        "title": "Tasks given as a file by the maker of the run or of this export",
        "publisher": "not stated",
        "licence": "not stated",
    },
    "bridge-file": {
        "title": "Bridge from O*NET-SOC to UK SOC 2020 given as a file by the maker of this export",
        "publisher": "not stated",
        "licence": "not stated",
    },
    "pay-file": {
        "title": "Jobs and pay given as a file by the maker of this export",
        "publisher": "not stated",
        "licence": "not stated",
    },
}
_SOURCE_FIELDS = ("id", "title", "publisher", "release", "licence", "citation", "homepage", "notes")
_COPIES = {
    "rebuilt": "One file of {source} is a rebuilt copy, not the publisher's own; the list of sources says which and how it was made.",
    "derived": "One file of {source} is an extract that the publisher does not offer in this form; the list of sources says which.",
}


def describe(table: ScoreTable) -> str:
    """What a reader must know first: how many groups are scored, from how much, and how."""
    counts = table.describe()["counts"]
    thin = f"; {counts['thin']:,} more have a score that rests on too few labels to be read" if counts["thin"] else ""
    text = (
        f"{counts['scored']:,} of {counts['groups']:,} groups scored, from {counts['tasks_labelled']:,} labelled tasks of "
        f"{counts['tasks_listed']:,} in {table.tasks}{thin}. {method_text(table)} {_csv_text()}"
    )
    return f"{table.note}. {text}" if table.note else text


def method_text(table: ScoreTable) -> str:
    """The method in words, put together from the steps, weights and pay that were used."""
    said = [f"Scored by the method {table.method}"]
    for step in table.bridge.steps:
        note = f" ({step.note})" if step.note else ""
        said.append(f"{SYSTEM_NAMES[step.source]} to {SYSTEM_NAMES[step.target]}: {step.origin}{note}")
    if not table.bridge.steps:
        said.append(f"{SYSTEM_NAMES['onet-soc']} codes are scored as they are, without a bridge")
    said.append(f"a task weighs {WEIGHT_NOTES[table.weights]}{_unrated_text(table)}")
    if table.method == "site-2026":
        said.append("shares are rounded half up to two decimals before anything is made from them")
    else:
        said.append("nothing is rounded on the way")
    said.append(_pay_text(table))
    return "; ".join(part for part in said if part) + "."


def _unrated_text(table: ScoreTable) -> str:
    if table.unrated is None:
        return ""
    return f", and one without a rating {UNRATED_NOTES[table.unrated]}"


def _pay_text(table: ScoreTable) -> str:
    if table.pay is None:
        return ""
    source = f"given as {table.pay}"
    if not is_table_file(table.pay) or table.frame["pay_source"].str.contains(" x ", na=False).any():
        source = " and ".join(sorted(table.frame["pay_source"].dropna().unique()))
    whose = f" ({table.population})" if table.population else ""
    return f"jobs and pay: {source}{whose}; wage exposure is share x jobs x {table.wage} pay"


def _csv_text() -> str:
    shown = " ".join(sign for sign in FORMULA if sign.strip())
    return (
        f"In the CSV files a text cell that begins with one of {shown}, a tab or a line break carries an apostrophe in "
        "front, so that no spreadsheet runs it as a formula; JSON and Parquet hold the text as it is."
    )


def caveats(table: ScoreTable) -> list[str]:
    """What limits the figures, one sentence each."""
    titles = {name: f"{source.title} ({source.release})" for name, source in registry.load_registry().items()}
    said = [
        _COPIES[use.copy_status].format(source=titles.get(use.source, use.source))
        for use in table.sources
        if use.copy_status in _COPIES
    ]
    counts = table.describe()["counts"]
    if counts["thin"]:
        noun = "1 group has" if counts["thin"] == 1 else f"{counts['thin']:,} groups have"
        said.append(
            f"{noun} a thin score, without percentile and band: less than {100 * ENOUGH:.0f}% of what the group stands for "
            "has labels. Each group's own page says why."
        )
    if counts["tasks_half_labelled"]:
        said.append(f"{counts['tasks_half_labelled']:,} tasks have some of their labels only and count as unlabelled.")
    if table.unrated is not None and (count := table.unrated_occupations):
        noun = "1 occupation has" if count == 1 else f"{count:,} occupations have"
        left = "all of their tasks are left out" if table.unrated == "drop" else "their tasks weigh equally"
        said.append(f"{noun} no importance rating: {left}.")
    if table.frame["pay_source"].str.match("(median of )?ASHE ").any():
        said.append("The publisher calls its numbers of jobs indicative only.")
    if table.population is not None:
        said.append(f"Jobs and pay are those of {table.population}.")
    if table.pay is not None:
        gaps = {"jobs": "employees", "median pay": "median_pay_gbp"}
        for name, column in gaps.items():
            if count := int(table.frame[column].isna().sum()):
                said.append(f"For {count:,} groups the publisher gives no figure for {name}.")
    return said


def source_entries(uses: Iterable[SourceUse]) -> list[dict[str, Any]]:
    """What `sources.json` says: each source that went into an export with its licence, citation and files.

    Args:
        uses: The files that were read; the same file may be named several times.

    Raises:
        DataError: The registry cannot be read.
    """
    known = registry.load_registry()
    files: dict[str, list[dict[str, Any]]] = {}
    once = {(use.source, use.file, use.sha256): use for use in uses}
    for _, use in sorted(once.items()):
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


def methodology(run: Run, table: ScoreTable) -> dict[str, Any]:
    """What `methodology.json` says: how the labels and the scores were made, and from how much."""
    manifest: Manifest = run.manifest
    about = table.describe()
    rubric = manifest.rubric.model_dump(mode="json")
    return about | {
        "caveats": caveats(table),
        "description": describe(table),
        "score": {
            "method": table.method,
            "method_text": method_text(table),
            "taxonomy": table.taxonomy,
            "taxonomy_name": SYSTEM_NAMES[table.taxonomy],
            "weights": table.weights,
            "weights_text": WEIGHT_NOTES[table.weights],
            "rounded": table.method == "site-2026",
            "bridge": {
                "name": table.bridge.name,
                "steps": [
                    _step_names(s)
                    | {
                        "source": s.source,
                        "target": s.target,
                        "links": len(s.links),
                        "origin": s.origin,
                        "note": s.note,
                    }
                    for s in table.bridge.steps
                ],
            },
            "columns": {
                name: column.description for name, column in OCCUPATION_COLUMNS.items() if name in table.frame.columns
            },
            "bands": load_bands().cut_points(),
            "readings": dict(READING_NAMES),
            "caution": CAUTION,
        },
        "labels": {
            "run": run.name,
            "status": manifest.status,
            "note": manifest.note,
            "model": manifest.model,
            "model_name": model_name(manifest.model),
            "models_returned": list(manifest.models_returned),
            "engine": manifest.engine,
            "package_version": manifest.package_version,
            "git_commit": manifest.git_commit,
            "tasks": _name(manifest.tasks),
            "settings": list(manifest.settings),
            "rubric": rubric | {name: _name(rubric[name]) for name in ("source", "prompt")},
            "rubric_validity": [] if run.folder is None else manifest.rubric.validity_in_words(),
            "rubric_sha256": manifest.rubric_sha256,
            "prompt_sha256": manifest.prompt_sha256,
            "schema_sha256": manifest.schema_sha256,
            "parameters": {key: manifest.parameters[key] for key in _PARAMETERS if key in manifest.parameters},
            "counts": manifest.counts.model_dump(mode="json"),
            "started_at": manifest.started_at,
            "ended_at": manifest.ended_at,
        },
    }


def _step_names(step: Step) -> dict[str, str]:
    return {"source_name": SYSTEM_NAMES[step.source], "target_name": SYSTEM_NAMES[step.target]}


def _name(path: str) -> str:
    """The last part of a path of any system; a name stays as it is."""
    return re.split(r"[/\\]", path)[-1]
