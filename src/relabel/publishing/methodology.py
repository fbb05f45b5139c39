"""The documentation in an export: texts for scores and bands, the method, caveats, and sources with their licences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any, Literal

import yaml

from relabel.manifest import EMBEDDED, PUBLISHED, Manifest
from relabel.publishing.datapackage import FILES, OCCUPATION_COLUMNS, WORDS
from relabel.run import Run
from relabel.scoring.options import SYSTEM_NAMES, UNRATED_NOTES, WEIGHT_NOTES
from relabel.scoring.table import MIN_COVERAGE, ScoreTable
from relabel.scoring.uncertainty import Estimate
from relabel.sources import registry
from relabel.sources.fetch import SourceUse
from relabel.sources.tables import is_table_file
from relabel.tabular import FORMULA, counted

Reading = Literal["strict", "with_tools"]

# Names of the two readings on pages.
READING_NAMES: dict[Reading, str] = {"strict": "Model alone", "with_tools": "Model with tools"}


def model_name(model: str) -> str:
    """Name of a model for readers; for a published label set, a description of who labelled."""
    return "the embedded model" if model == EMBEDDED else PUBLISHED[model][1] if model in PUBLISHED else model


# Bands of scores, lowest first, with their texts; see `bands.yaml`.
BANDS: Sequence[Mapping[str, Any]] = yaml.safe_load(FILES.joinpath("bands.yaml").read_text(encoding="utf-8"))["bands"]


def band_of(score_10: float) -> Mapping[str, Any]:
    """The band of a score (0-10)."""
    return next(band for band in reversed(BANDS) if score_10 >= band["from"])


def _cut_points() -> list[dict[str, Any]]:
    """The bands without their texts: `id, label, from, below`."""
    ends = [float(band["from"]) for band in BANDS]
    return [
        {"id": band["id"], "label": band["label"], "from": start, "below": end}
        for band, start, end in zip(BANDS, ends, [*ends[1:], None], strict=True)
    ]


def other_words(table: ScoreTable, other: Estimate) -> dict[str, str]:
    """Texts for an estimate by others: `brief`, `words` (to be followed by figure and range), `how_to_read`."""
    names = {"eloundou-2023:human": "labels from people", "sample": "the sample's own labels"}
    labels = names.get(other.of or "", f"labels from {model_name(other.of or '')}")
    return {
        name: text.format(model=_model(table), labels=labels) for name, text in WORDS["estimate"][other.name].items()
    }


def _model(table: ScoreTable) -> str:
    return model_name(table.model).split(",")[0]


def describe_intervals(table: ScoreTable) -> dict[str, Any] | None:
    """The entry on intervals in `methodology.json`; None without intervals."""
    intervals = table.intervals
    if intervals is None:
        return None
    document = intervals.describe()
    document["own"] |= {
        "words": "95% interval",
        "how_to_read": WORDS["interval"][intervals.own.noise].format(model=_model(table)),
    }
    if intervals.other is not None:
        words = other_words(table, intervals.other)
        document["other"] |= {"words": words["brief"], "how_to_read": words["how_to_read"]}
    return document


# Fields of a run's manifest that are copied to `methodology.json`.
_MANIFEST_FIELDS = {
    *("status", "note", "model", "models_returned", "engine", "package_version", "git_commit", "settings", "counts"),
    *("rubric_sha256", "prompt_sha256", "schema_sha256", "started_at", "ended_at"),
}
_PARAMETERS = ("sample", "seed", "occupations", "samples", "examples")
_SOURCE_FIELDS = ("id", "title", "publisher", "release", "licence", "citation", "homepage", "notes")


def describe(table: ScoreTable) -> str:
    """A summary for readers: how many groups are scored, from how many labels, and how."""
    counts = table.describe()["counts"]
    thin = (
        f"; {counts['thin']:,} more have a score that rests on too few labels to be interpreted"
        if counts["thin"]
        else ""
    )
    text = (
        f"{counts['scored']:,} of {counts['groups']:,} groups scored, from {counts['tasks_labelled']:,} labelled tasks of "
        f"{counts['tasks_listed']:,} in {table.tasks}{thin}. {method_text(table)} {_csv_text()}"
    )
    return f"{table.note}. {text}" if table.note else text


def method_text(table: ScoreTable) -> str:
    """The method in words, composed from the bridge, weights and pay of the table."""
    parts = [f"Scored by the method {table.method}"]
    for step in table.bridge.steps:
        note = f" ({step.note})" if step.note else ""
        parts.append(f"{SYSTEM_NAMES[step.source]} to {SYSTEM_NAMES[step.target]}: {step.origin}{note}")
    if not table.bridge.steps:
        parts.append(f"{table.taxonomy_name} codes are scored as they are, without a bridge")
    unrated = "" if table.unrated is None else f", and one without a rating {UNRATED_NOTES[table.unrated]}"
    rounded = "shares are rounded half up to two decimals before anything is made from them"
    parts.append(f"a task weighs {_weights_text(table)}{unrated}")
    parts.append(rounded if table.method == "site-2026" else "nothing is rounded on the way")
    if table.pay is not None:
        parts.append(_pay_text(table, table.pay))
    return "; ".join(parts) + "."


def _weights_text(table: ScoreTable) -> str:
    own = is_table_file(table.tasks) and table.weights == "importance"
    return "its importance in the task list" if own else WEIGHT_NOTES[table.weights]


def _pay_text(table: ScoreTable, pay: str) -> str:
    source = f"given as {pay}"
    if not is_table_file(pay) or table.frame["pay_source"].str.contains(" x ", na=False).any():
        source = " and ".join(sorted(table.frame["pay_source"].dropna().unique()))
    population = f" ({table.population})" if table.population else ""
    return f"jobs and pay: {source}{population}; wage exposure is share x jobs x {table.wage} pay"


def _csv_text() -> str:
    shown = " ".join(sign for sign in FORMULA if sign.strip())
    return (
        f"In the CSV files a text cell that begins with one of {shown}, a tab or a line break carries an apostrophe in "
        "front, so that no spreadsheet runs it as a formula; JSON and Parquet hold the text as it is."
    )


def caveats(table: ScoreTable) -> list[str]:
    """Limitations of the figures; one sentence each."""
    titles = {name: f"{source.title}, release {source.release}" for name, source in registry.load_registry().items()}
    notes = [
        WORDS["copies"][use.copy_status].format(source=titles.get(use.source, use.source))
        for use in table.sources
        if use.copy_status in WORDS["copies"]
    ]
    elsewhere = ("SAMPLE: ", "PARTIAL: ", *(table.intervals.notes if table.intervals else ()))
    notes += [f"{note[0].upper()}{note[1:]}." for note in table.notes if not note.startswith(elsewhere)]
    counts = table.describe()["counts"]
    if counts["thin"]:
        have = "has" if counts["thin"] == 1 else "have"
        notes.append(
            f"{counted(counts['thin'], 'group')} {have} a thin score, without percentile and band: less than {100 * MIN_COVERAGE:.0f}% of what the group stands for "
            "has labels. Each group's own page says why."
        )
    if counts["tasks_half_labelled"]:
        notes.append(f"{counts['tasks_half_labelled']:,} tasks have some of their labels only and count as unlabelled.")
    if table.unrated is not None and (count := table.unrated_occupations):
        have = "has" if count == 1 else "have"
        left = "all of their tasks are left out" if table.unrated == "drop" else "their tasks weigh equally"
        notes.append(f"{counted(count, 'occupation')} {have} no importance rating: {left}.")
    if table.frame["pay_source"].str.match("(median of )?ASHE ").any():
        notes.append("The publisher calls its numbers of jobs indicative only.")
    if table.population is not None:
        notes.append(f"Jobs and pay are those of {table.population}.")
    gaps = {"jobs": "employees", "median pay": "median_pay_gbp"} if table.pay is not None else {}
    for name, column in gaps.items():
        if count := int(table.frame[column].isna().sum()):
            notes.append(f"For {count:,} groups the publisher gives no figure for {name}.")
    return notes


def source_entries(uses: Iterable[SourceUse]) -> list[dict[str, Any]]:
    """Entries of `sources.json`: each source of an export with its licence, citation and files.

    Args:
        uses: The files that were read; duplicates are allowed.

    Raises:
        DataError: The registry cannot be read.
    """
    sources = registry.load_registry()
    notes = {(source.id, file.name): file.note for source in sources.values() for file in source.files}
    files: dict[str, list[dict[str, Any]]] = {}
    once = {(use.source, use.file, use.sha256): use for use in uses}
    for _, use in sorted(once.items()):
        entry = use.model_dump(mode="json", exclude_none=True)
        if note := notes.get((use.source, use.file)):
            entry["note"] = note
        files.setdefault(entry.pop("source"), []).append(entry)
    entries: list[dict[str, Any]] = []
    for source_id in sorted(files):
        source = sources.get(source_id)
        if source is not None:
            fields = source.model_dump(mode="json", include={*_SOURCE_FIELDS})
        else:
            own = {"title": source_id, "publisher": "not stated", "licence": "not stated", "id": source_id}
            fields = dict.fromkeys(_SOURCE_FIELDS, "") | own | WORDS["own_sources"].get(source_id, {})
        entries.append(fields | {"files": files[source_id]})
    return entries


def methodology(run: Run, table: ScoreTable) -> dict[str, Any]:
    """Content of `methodology.json`: how labels and scores were made, and from what."""
    manifest: Manifest = run.manifest
    about = table.describe()
    rubric = manifest.rubric.model_dump(mode="json")
    return about | {
        "caveats": caveats(table),
        "description": describe(table),
        "score": {
            **{name: getattr(table, name) for name in ("method", "taxonomy", "taxonomy_name", "weights")},
            "method_text": method_text(table),
            "weights_text": _weights_text(table),
            "rounded": table.method == "site-2026",
            "bridge": {
                "name": table.bridge.name,
                "steps": [
                    {name: getattr(step, name) for name in ("source", "target", "origin", "note")}
                    | {f"{end}_name": SYSTEM_NAMES[getattr(step, end)] for end in ("source", "target")}
                    | {"links": len(step.links)}
                    for step in table.bridge.steps
                ],
            },
            "columns": {
                name: column["description"]
                for name, column in OCCUPATION_COLUMNS.items()
                if name in table.frame.columns
            },
            "bands": _cut_points(),
            "readings": dict(READING_NAMES),
            "caution": WORDS["caution"],
        },
        "labels": {
            **manifest.model_dump(mode="json", include=_MANIFEST_FIELDS),
            "run": run.name,
            "model_name": model_name(manifest.model),
            "tasks": PureWindowsPath(manifest.tasks).name,
            "rubric": rubric | {name: PureWindowsPath(rubric[name]).name for name in ("source", "prompt")},
            "rubric_validity": [] if run.folder is None else manifest.rubric.validity_in_words(WORDS["validity"]),
            "parameters": {key: manifest.parameters[key] for key in _PARAMETERS if key in manifest.parameters},
        },
    }
