"""An export: the folder of tables and JSON pages that a site is built from.

    DIR/occupations.csv|json|parquet    the score table
    DIR/occupations/CODE.json           one page per group: score, O*NET-SOC codes behind it, shares of their tasks
    DIR/onet/CODE.json                  one page per O*NET-SOC code: tasks with readings, rationales, request keys
    DIR/tasks.csv|parquet               all tasks with their codes and readings
    DIR/families.csv|json|parquet       job families with exposure, pay, outlook and resilience, if there are any
    DIR/families/ID.json                one page per job family
    DIR/changes.csv                     changes since the baseline, if there is one
    DIR/sources.json                    files, checksums, licences, citations
    DIR/methodology.json                method, weights, bridge, rubric, prompt, model, counts
    DIR/datapackage.json                description of all files (Frictionless)

With the same versions of pandas and pyarrow, the same run gives the same bytes: dates are those of the run, not of today.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from relabel.careers.families import family_pages
from relabel.careers.pages import FamilyPage, family_frame
from relabel.errors import DataError, IncompleteRunError, SourceMissingError
from relabel.publishing import datapackage
from relabel.publishing.methodology import describe, describe_intervals, methodology, model_name, source_entries
from relabel.publishing.occupation import PageBuilder, onet_path, task_frame
from relabel.run import Run
from relabel.scoring.decomposition import PARTS, Decomposition, decompose
from relabel.scoring.explain import answers_by_task
from relabel.scoring.multiverse import with_spread
from relabel.scoring.options import Choices
from relabel.scoring.table import MIN_EXPORT_COVERAGE, ScoreTable, is_partial, score_by, table_json
from relabel.scoring.uncertainty import DRAWS, with_intervals, with_raters
from relabel.sources.tables import is_table_file
from relabel.tabular import csv_bytes, json_bytes, parquet_bytes, records

Row = dict[str, Any]

_PROFILE = "https://datapackage.org/profiles/2.0/datapackage.json"


@dataclass(frozen=True)
class Export:
    """A written export.

    Attributes:
        folder: Its folder.
        files: Number of files.
        size: Total size in bytes.
        table: Its score table.
    """

    folder: Path
    files: int
    size: int
    table: ScoreTable


def export_run(
    run: Run,
    out: Path,
    choices: Choices | None = None,
    *,
    allow_partial: bool = False,
    raters: Sequence[Run] = (),
    draws: int = DRAWS,
    spread: bool = False,
    baseline: Run | None = None,
    families: bool = True,
    epoch_run: Run | None = None,
) -> Export:
    """Score a run and write its export.

    The folder is written atomically, see `written_atomically`.

    Args:
        run: The run.
        out: Folder to write: new, empty, or an earlier export without other files.
        choices: Options of the scores; by default `Choices()`.
        allow_partial: Export even if the run is incomplete or labelled only a part of the task list; every file says so.
        raters: For a run of pooled labels, the runs of its raters; scores then have their range over raters.
        draws: Number of draws behind the intervals, at least 100; 0 for no intervals.
        spread: Whether to show how scores differ between bridges, and to widen the intervals by these differences.
        baseline: An earlier run, scored in the same way, to list changes since then.
        families: Whether to make pages of job families, if the task list is O*NET's or the sample.
        epoch_run: A run that rates occupations by the rubric `epoch`, for those pages.

    Raises:
        IncompleteRunError: The run is incomplete or labelled only a part of the list, and `allow_partial` is not set.
        UsageError: The folder is used for something else, or the choices cannot be combined.
        DataError: The folder cannot be written, or labels or sources are missing or malformed.
    """
    choices = choices or Choices()
    if is_partial(run) and not allow_partial:
        raise IncompleteRunError(
            f"the run {run.ref} is {run.manifest.status}, so its scores would rest on a part of its labels; finish it "
            "with the same `relabel run`, or export it as it is with --allow-partial"
        )
    with datapackage.written_atomically(out, "export", datapackage.files_of_export) as building:
        table = score_by(run, choices)
        if table.task_values["labelled"].mean() < MIN_EXPORT_COVERAGE and not allow_partial:
            labelled, listed = int(table.task_values["labelled"].sum()), len(table.task_values)
            raise IncompleteRunError(
                f"the run {run.ref} labelled {labelled:,} of the {listed:,} tasks of {table.tasks}, which is too few "
                "for a table of all occupations; label the rest with `relabel run`, or export it as it is with "
                "--allow-partial"
            )
        if spread:
            table = with_spread(table)
        if raters:
            table = with_raters(table, run, raters, draws)
        elif draws:
            table = with_intervals(table, run, draws=draws)
        earlier = None if baseline is None else (baseline, score_by(baseline, choices))
        careers: list[FamilyPage] = []
        if families and not is_table_file(table.tasks):
            try:
                careers = family_pages(table, run, epoch_run)
            except SourceMissingError as error:
                raise SourceMissingError(f"{error}; or use --no-families") from error
        files, size = _build(building, run, table, earlier, careers)
    return Export(out, files, size, table)


def _build(
    folder: Path,
    run: Run,
    table: ScoreTable,
    earlier: tuple[Run, ScoreTable] | None,
    careers: list[FamilyPage],
) -> tuple[int, int]:
    """Write all files; returns their number and total size in bytes."""
    entries: list[Row] = []
    marks = {"sample": table.sample, "partial": table.partial, "note": table.note}

    def write(path: str, content: bytes, title: str, schema: Row | None = None) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
        entries.append(datapackage.resource(path, content, title, schema))

    about = table.describe()

    def write_table(
        name: str, frame: pd.DataFrame, title: str, schema: Row, json: tuple[bytes, str] | None = None
    ) -> None:
        write(f"{name}.csv", csv_bytes(frame), title, schema)
        if json is not None:
            write(f"{name}.json", *json, schema)
        write(f"{name}.parquet", parquet_bytes(frame, about), title, schema)

    document = json_bytes(table_json(table), indent=None), "Score table, with what it was made from"
    scores = datapackage.table_schema(table.frame, datapackage.OCCUPATION_COLUMNS, ["code"])
    write_table("occupations", table.frame, "Score table", scores, document)
    answers = {key: rows for key, rows in answers_by_task(run).items() if key not in table.without_own_label}
    tasks = task_frame(table, answers)
    columns = {**datapackage.TASK_COLUMNS}
    if is_table_file(table.tasks):
        rated = {"type": "number", "title": "Importance", "description": "Importance as the task list rates it."}
        columns["importance"] = {**rated, "constraints": {"minimum": 0}}
    labelled = datapackage.table_schema(tasks, columns, ["onet_soc_code", "task_id"])
    write_table("tasks", tasks, "Tasks with codes and readings", labelled)
    uses = [*table.sources, *(use for page in careers for use in page.sources)]
    baseline = None
    changes: dict[str, list[Row]] = {}
    if earlier is not None:
        uses += earlier[1].sources
        frame, moved = changes_frame(earlier[1], table)
        baseline = describe_baseline(*earlier, moved, frame)
        schema = datapackage.table_schema(frame, datapackage.CHANGE_COLUMNS, ["code", "measure"])
        write("changes.csv", csv_bytes(frame), "What moved since the baseline, and what moved it", schema)
        for row in records(frame.drop(columns=["title", "note"])):
            changes.setdefault(row.pop("code"), []).append(row)
    if careers:
        listed = family_frame(careers).assign(note=pd.Series([table.note] * len(careers), dtype="str"))
        schema = datapackage.table_schema(listed, datapackage.FAMILY_COLUMNS, ["id"])
        title, rows = "Job families: exposure, outlook, resilience", marks | {"rows": records(listed)}
        write_table("families", listed, title, schema, (json_bytes(rows), title))
        for page in careers:
            write(f"families/{page.id}.json", json_bytes(page.model_dump(mode="json"), indent=None), page.name)
    sources = source_entries(uses)
    write("sources.json", json_bytes(marks | {"sources": sources}), "Sources: files, checksums, licences, citations")
    method = methodology(run, table) | {"intervals": describe_intervals(table), "baseline": baseline}
    write("methodology.json", json_bytes(method), "Method, weights, bridge, rubric, model, counts")
    pages = PageBuilder(table, tasks, answers)
    for code, page in pages.groups():
        _require_code(code)
        page["changes"] = changes.get(code)
        write(f"occupations/{code}.json", json_bytes(page, indent=None), f"{code} {page['title']}")
    for code, page in pages.occupations():
        _require_code(code)
        write(onet_path(code), json_bytes(page, indent=None), f"{code} {page['title']}")
    package = _package(run, table, sources, tasks) | {
        "resources": entries,
        "relabel": marks | {"export_format": datapackage.EXPORT_FORMAT, "counts": about["counts"]},
    }
    content = json_bytes(package)
    (folder / datapackage.PACKAGE).write_bytes(content)
    return len(entries) + 1, sum(entry["bytes"] for entry in entries) + len(content)


def _package(run: Run, table: ScoreTable, sources: Sequence[Row], tasks: pd.DataFrame) -> Row:
    """The data package without its files; its version is the format's, plus a checksum of the task codes."""
    labels = tasks[["onet_soc_code", "task_id", "code", "strict", "with_tools"]]
    licences = {entry["name"]: entry for source in sources if (entry := datapackage.licence(source["licence"]))}
    links = ({"path": source["homepage"]} if source["homepage"] else {} for source in sources)
    created = run.manifest.ended_at or run.manifest.started_at
    return {
        "$schema": _PROFILE,
        "name": datapackage.package_name(f"relabel-{run.name}-{table.taxonomy}-{table.method}").strip("-"),
        "title": f"Exposure of occupations ({table.taxonomy_name}) to language models, labels by {model_name(table.model)}",
        "description": describe(table),
        "version": f"{datapackage.EXPORT_FORMAT}.0.0+{hashlib.sha256(csv_bytes(labels)).hexdigest()[:12]}",
        "licenses": [licences[key] for key in sorted(licences)],
        "sources": [{"title": source["title"]} | link for source, link in zip(sources, links, strict=True)],
    } | ({} if created is None else {"created": created})


def _require_code(code: str) -> None:
    # A code from a user's file must not name a path outside the folder.
    if not datapackage.PAGE_CODE.fullmatch(code):
        raise DataError(
            f"{code[:80]!r} cannot name a file of an export; correct the code in the list that it comes from"
        )


# Figures of a score table that are derived from each measure.
_DERIVED_FIGURES = {
    "score_10": {"alpha": "strict_10", "gamma": "with_tools_10"},
    "percentile": {"alpha": "percentile_alpha", "gamma": "percentile_gamma"},
    "wage_exposure_gbp": {m: f"wage_exposure_{m}_gbp" for m in ("alpha", "beta", "gamma")},
}
# Smaller changes are floating-point noise.
_NOISE = 1e-12


def changes_frame(before: ScoreTable, after: ScoreTable) -> tuple[pd.DataFrame, Decomposition]:
    """Every score of two tables with its change, and the decomposition of the change.

    Args:
        before: The baseline's table.
        after: The table of the export.

    Returns:
        One row per group and measure in either table, sorted by code: `code, title, measure, before, after, change` (0-1),
        the parts of the change (`labels, tasks, weights, bridge, rounding, undivided`, which add up to it), the derived
        figures before and after (`score_10, percentile, wage_exposure_gbp`), `reason` (why a score is missing on one side)
        and `note`; and the decomposition itself.

    Raises:
        UsageError: The tables cannot be compared.
    """
    moved = decompose(before, after)
    frame = moved.frame.copy()
    frame["reason"] = pd.Series(None, index=frame.index, dtype="str")
    measures = [str(m) for m in frame["measure"].unique()]
    for alone, side, table in ((moved.appeared, "after", after), (moved.disappeared, "before", before)):
        scores = alone.merge(table.frame[["code", *measures]], on="code")
        rows = scores.melt(["code", "title", "reason"], measures, "measure", side)
        frame = pd.concat([frame, rows], ignore_index=True) if len(rows) else frame
    parts = ["change", *PARTS]
    frame[parts] = frame[parts].mask(frame[parts].abs() < _NOISE, 0.0)
    for figure, by_measure in _DERIVED_FIGURES.items():
        for side, table in (("before", before), ("after", after)):
            scores = table.frame.set_index("code")
            frame[f"{figure}_{side}"] = float("nan")
            for measure, column in by_measure.items():
                if column in scores:
                    of_measure = frame["measure"] == measure
                    values = frame.loc[of_measure, "code"].map(scores[column].astype("float64"))
                    frame.loc[of_measure, f"{figure}_{side}"] = values
    frame["note"] = pd.Series(after.note, index=frame.index, dtype="str")
    frame = frame.sort_values(["code", "measure"], ignore_index=True)
    last = ["reason", "note"]
    return frame[[*(c for c in frame.columns if c not in last), *last]], moved


def describe_baseline(run: Run, table: ScoreTable, moved: Decomposition, frame: pd.DataFrame) -> Row:
    """The entry on the baseline in `methodology.json`."""
    changed = frame[frame["change"].fillna(0) != 0]
    return {
        **{name: getattr(table, name) for name in ("run", "model", "tasks", "note")},
        "model_name": model_name(table.model),
        "partial": table.partial or is_partial(run),
        "missing_measures": dict(moved.missing),
        "counts": {
            "compared": int(moved.frame["code"].nunique()),
            "changed": int(changed["code"].nunique()),
            "appeared": len(moved.appeared),
            "disappeared": len(moved.disappeared),
        },
    }
