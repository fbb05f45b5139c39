"""Runs made without asking a model: from a file of labels made elsewhere, or from a run on an older task list.

Nothing is guessed: unknown labels, duplicate tasks and ambiguous ids are refused with their line. The run's manifest names the
file that the labels come from, and each label its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from relabel import __version__
from relabel.errors import ColumnError, DataError, UsageError
from relabel.files import replacing, require_writable, writing
from relabel.labels import MAX_RATIONALE, Label
from relabel.manifest import LABEL_COLUMNS, TASK_FILE, Counts, Manifest, read_manifest, task_sources, write_run
from relabel.rubric import Rubric, Unit
from relabel.run import Run, changed_rubrics
from relabel.sources import eloundou
from relabel.sources.fetch import SourceUse, sha256_of
from relabel.sources.tables import COLUMN_NAMES, Table, is_table_file, read_table
from relabel.tabular import csv_bytes
from relabel.task import (
    TASK_COLUMNS,
    TASK_KEY,
    TaskDiff,
    diff_lists,
    disputed_titles,
    onet_releases,
    other_statements,
    replaced,
    same_statement,
    task_table,
)

# Engines in the manifests of imported and of carried runs.
ENGINE, CARRY_ENGINE = "import", "carry"
# Name of the list of tasks that are left to label, within the folder of a carried run.
TO_ASK = "to-ask.csv"

# Task lists in which ids are looked up first, before the other releases of O*NET.
_LISTS: Mapping[Unit, tuple[str, ...]] = {
    "task": ("eloundou-2023", "onet-30.2", "sample"),
    "occupation": ("onet-30.2", "sample"),
}

# Fewest labels that are compared with GPT-4's of 2023, and the kappa from which they agree better than chance.
_FEW = 50
_CHANCE = 0.05

# Recognised column names, by what the column holds. `Table.find` also recognises O*NET's `Task ID` and `O*NET-SOC Code`.
_KNOWN_NAMES: Mapping[str, tuple[str, ...]] = {
    "id": COLUMN_NAMES["task_id"],
    "code": COLUMN_NAMES["onet_soc_code"],
    "label": ("label", "code"),
    "setting": ("setting",),
    "sample": ("sample",),
    "rationale": ("rationale", "explanation"),
    "probability": ("probability",),
}


# Columns of a file by what they hold, with the keys of `_KNOWN_NAMES`; if a key is missing or None, the names there are tried.
# `label` may be a mapping from settings to the columns of their labels.
Columns = Mapping[str, str | Mapping[str, str] | None]


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        folder: The run's folder.
        task_list: The task list that the ids belong to.
        labels: Labels imported.
        tasks: Tasks that they belong to.
        mapped: How many labels each mapping changed.
        not_in_list: Tasks that the task list does not hold; they are kept, but match no gold of that list.
        notes: Reasons to doubt the labels or their ids, as sentences.
    """

    folder: Path
    task_list: str
    labels: int
    tasks: int
    mapped: Mapping[str, int]
    not_in_list: int
    notes: tuple[str, ...] = ()


@dataclass
class _Reading:
    """State of reading a file.

    Attributes:
        columns: Columns by what they hold.
        labels: Columns of labels, each with its setting, or with None if another column holds the setting.
        seen: Line of each label so far, by code, task, setting and sample.
        mapped: Number of labels that each mapping `OLD=NEW` has changed.
    """

    file: Table
    rubric: Rubric
    mapping: Mapping[str, str]
    sha256: str
    columns: Mapping[str, str]
    labels: Sequence[tuple[str | None, str]]
    seen: dict[tuple[str, str, str, int], int] = field(default_factory=dict[tuple[str, str, str, int], int])
    mapped: dict[str, int] = field(default_factory=dict[str, int])


def import_labels(
    path: Path,
    *,
    model: str,
    rubric: Rubric,
    out: Path,
    tasks: str | None = None,
    setting: str | None = None,
    columns: Columns | None = None,
    mapping: Mapping[str, str] | None = None,
    random_sample: bool = False,
) -> Imported:
    """Turn a CSV file of labels into a run folder.

    Args:
        path: The file: UTF-8, with or without a byte order mark, any line ends.
        model: Who or what labelled, as the run's model.
        rubric: The rubric whose labels the file uses.
        out: The run's folder.
        tasks: The task list that the ids belong to; by default the first of the lists that holds all of them, or else the
            one that holds most.
        setting: The setting that all labels answer, if the file does not say.
        columns: Which column holds what.
        mapping: Labels to replace, by the label of the file, such as `{"E3": "E2"}`.
        random_sample: Whether the tasks were drawn at random from all of the task list.

    Returns:
        What was imported.

    Raises:
        UsageError: A mapping or setting does not fit the rubric, or `out` holds other things.
        DataError: A line is bad; the message names it and says what to do.
        ColumnError: A column is missing.
    """
    mapping, columns = mapping or {}, columns or {}
    _check_request(rubric, setting, columns.get("label"), mapping)
    if (out / "manifest.json").exists() and read_manifest(out).engine != ENGINE:
        raise UsageError(f"{out} already holds a run; give a new folder to --out")
    file = read_table(path, rows_are="each label", advice="give the path of a CSV or Excel file of labels")
    reading = _Reading(file, rubric, mapping, sha256_of(path), *_find_columns(file, rubric, columns, setting))
    tasks, listed = _task_list(reading, tasks)
    if "code" not in reading.columns:
        _confirm_ids(reading, tasks, listed)
    started = _now()
    labels = list(_labels(reading, tasks, listed, started))
    labelled = {(label.onet_soc_code, label.task_id) for label in labels}
    manifest = Manifest(
        status="complete",
        package_version=__version__,
        model=model,
        engine=ENGINE,
        rubric=rubric,
        rubric_sha256=rubric.sha256,
        sources=(SourceUse(source=ENGINE, file=path.name, sha256=reading.sha256), *task_sources(tasks, rubric.unit)),
        tasks=TASK_FILE if is_table_file(tasks) else tasks,
        settings=tuple(s for s in rubric.settings if any(label.setting == s for label in labels)),
        parameters={
            "imported": True,
            "columns": dict(reading.columns),
            "map": dict(mapping),
            "samples": len({label.sample for label in labels}),
            "sample": len(labelled) if random_sample else None,
        },
        counts=Counts(asked=len(labels), fresh=len(labels)),
        note=f"labels made elsewhere, imported from {path.name}; the rubric shown is the one that they were read by",
        started_at=started,
        ended_at=_now(),
    )
    require_writable(out)
    with writing(out):
        write_run(out, manifest, labels, [])
    unlisted = labelled.difference(listed[TASK_KEY].itertuples(index=False, name=None))
    note = _title_note(reading) if "code" in reading.columns else _chance_note(labels, tasks)
    return Imported(out, tasks, len(labels), len(labelled), reading.mapped, len(unlisted), (note,) if note else ())


def _check_request(
    rubric: Rubric, setting: str | None, labels: str | Mapping[str, str] | None, mapping: Mapping[str, str]
) -> None:
    asked = [*([setting] if setting is not None else []), *(labels if isinstance(labels, Mapping) else ())]
    if unknown := [setting for setting in asked if setting not in rubric.settings]:
        raise UsageError(f"{unknown[0]} is not a setting of the rubric {rubric.id} ({', '.join(rubric.settings)})")
    for old, new in mapping.items():
        if new not in rubric.labels:
            names = ", ".join(rubric.labels)
            raise UsageError(f"--map {old}={new}: {new} is not a label of the rubric {rubric.id} ({names})")


def _task_list(reading: _Reading, wanted: str | None) -> tuple[str, pd.DataFrame]:
    """The task list by name and as a table."""
    unit = reading.rubric.unit
    if wanted is not None:
        return wanted, task_table(wanted, unit)
    column = reading.columns["id"]
    ids = {reading.file.task_id(line, cells[column].strip()) for line, cells in reading.file.rows}
    candidates: list[tuple[int, str, pd.DataFrame]] = []
    lists = tuple(dict.fromkeys([*_LISTS[unit], *onet_releases()]))
    for name in lists:
        # A list that is not on this machine can still be named with --tasks; the error then says what is missing.
        with suppress(DataError):
            table = task_table(name, unit)
            candidates.append((len(ids.intersection(table["task_id"])), name, table))
        if candidates and candidates[-1][0] == len(ids):
            break
    if not candidates:
        raise DataError(
            f"none of the lists {', '.join(lists)} is on this machine to look up the ids; name one with --tasks"
        )
    return max(candidates, key=lambda entry: entry[0])[1:]


def _confirm_ids(reading: _Reading, tasks: str, listed: pd.DataFrame) -> None:
    """Check that ids given without codes belong to the list's tasks: row numbers may coincide with ids.

    Raises:
        DataError: The statements differ from the list's, or there are none and the ids are consecutive numbers.
    """
    file, column = reading.file, reading.columns["id"]
    ids = [(line, file.task_id(line, cells[column]), cells) for line, cells in file.rows]
    advice = "add a column of O*NET-SOC codes (--code-column), or name the column of O*NET's Task ID with --id-column"
    if (text := file.column("text")) is None:
        file.refuse_row_numbers([task for _, task, _ in ids], advice)
        return
    statements = _by_id(listed, "text")
    rows = [(line, task, cells[text]) for line, task, cells in ids if task in statements and cells[text].strip()]
    others = [row for row in rows if not any(same_statement(row[2], statement) for statement in statements[row[1]])]
    if 2 * len(others) > len(rows):
        line, task, _ = others[0]
        raise DataError(
            f"{file.path} line {line}: the task {task} of {tasks} is another statement than the one in the column {text!r}, "
            f"and so are {len(others):,} of {len(rows):,}: the ids are not those of {tasks}; {advice}"
        )


def _by_id(listed: pd.DataFrame, column: str) -> dict[str, list[str]]:
    """The values of a task list's column by task id; one id may belong to tasks of several occupations."""
    values_by_id: dict[str, list[str]] = {}
    for task, value in zip(listed["task_id"], listed[column], strict=True):
        values_by_id.setdefault(str(task), []).append(str(value))
    return values_by_id


def _title_note(reading: _Reading) -> str:
    """A warning, if titles in the file disagree with their codes."""
    title, code = reading.file.column("title"), reading.columns["code"]
    return disputed_titles((row[code].strip(), row[title].strip()) for _, row in reading.file.rows) if title else ""


def _chance_note(labels: Sequence[Label], tasks: str) -> str:
    """A warning if labels with unconfirmed ids agree with GPT-4's labels of 2023 no better than chance."""
    rows = [(label.onet_soc_code, label.task_id, label.label) for label in labels]
    ours = pd.DataFrame(rows, columns=[*TASK_KEY, "ours"])
    try:
        gpt4 = eloundou.read_labels()[[*TASK_KEY, "gpt4"]]
    except DataError:
        return ""
    joined = ours[ours["ours"].isin(gpt4["gpt4"])].merge(gpt4, on=TASK_KEY)
    shares = [joined[column].value_counts(normalize=True) for column in ("ours", "gpt4")]
    expected = float(shares[0].mul(shares[1], fill_value=0).sum())
    if len(joined) < _FEW or expected >= 1:
        return ""
    kappa = (float((joined["ours"] == joined["gpt4"]).mean()) - expected) / (1 - expected)
    if kappa >= _CHANCE:
        return ""
    return (
        f"the labels agree with GPT-4's of 2023 no better than chance (kappa {kappa:.2f} on {len(joined):,} tasks): the "
        f"file has neither codes nor statements that confirm its ids; check that they are the Task IDs of {tasks}"
    )


def _labels(reading: _Reading, tasks: str, listed: pd.DataFrame, created: str) -> Iterator[Label]:
    file, codes, settings = reading.file, _by_id(listed, "onet_soc_code"), reading.rubric.settings
    columns = {name: reading.columns.get(name) for name in _KNOWN_NAMES}
    for line, cells in file.rows:
        row = {name: cells[column].strip() if column else "" for name, column in columns.items()}
        where = f"{file.path} line {line}"
        task = file.task_id(line, row["id"])
        code = file.onet_soc_code(line, row["code"]) if row["code"] else _only_code(codes, where, task, tasks)
        sample = file.number(row["sample"] if columns["sample"] else "0")
        if sample is None or not sample.is_integer() or sample >= 10_000:
            raise DataError(f"{where}: sample must be a whole number from 0, not {row['sample'][:40]!r}")
        if len(row["rationale"]) > MAX_RATIONALE:
            raise DataError(f"{where}: the rationale is over {MAX_RATIONALE:,} characters; shorten it")
        probability = file.number(row["probability"])
        if row["probability"] and (probability is None or probability > 1):
            raise DataError(f"{where}: probability must be from 0 to 1 or empty, not {row['probability'][:40]!r}")
        for fixed, column in reading.labels:
            if (setting := fixed or row["setting"]) not in settings:
                names = ", ".join(settings)
                raise DataError(f"{where}: {setting[:40]!r} is not a setting of the rubric; use {names}")
            label = _label(reading, where, cells[column].strip())
            first = reading.seen.setdefault((code, task, setting, int(sample)), line)
            if first != line:
                again = f"repeats the task {task} of {code} in the setting {setting} of line {first}"
                raise DataError(f"{where} {again}; remove one, or number repeats in a column sample")
            yield Label(
                task_id=task,
                onet_soc_code=code,
                setting=setting,
                sample=int(sample),
                label=label,
                rationale=row["rationale"],
                probability=probability,
                request_key=f"{ENGINE}:{reading.sha256}:{line}",
                created_at=created,
            )


def _find_columns(
    file: Table, rubric: Rubric, given: Columns, setting: str | None
) -> tuple[dict[str, str], Sequence[tuple[str | None, str]]]:
    """The fields `columns` and `labels` of `_Reading`."""
    names: dict[str, Sequence[str]] = {}
    for holds, spellings in _KNOWN_NAMES.items():
        if isinstance(wanted := given.get(holds), Mapping):
            names |= {f"label {answered}": (column,) for answered, column in wanted.items()}
        else:
            names[holds] = (wanted,) if wanted else spellings
    columns = {holds: column for holds, any_of in names.items() if (column := file.find(*any_of)) is not None}
    for holds in names.keys() - columns.keys():
        if names[holds] is not _KNOWN_NAMES.get(holds):
            raise ColumnError(file.path, names[holds][0], file.header)
    if "label" in names and "label" not in columns and setting is None:
        by_setting = {f"label {name}": column for name in rubric.settings if (column := file.find(name)) is not None}
        columns |= by_setting if len(by_setting) == len(rubric.settings) else {}
    labels = [(holds.removeprefix("label "), column) for holds, column in columns.items() if holds.startswith("label ")]
    for holds in ("id" if rubric.unit == "task" else "code", *([] if labels else ["label"])):
        if holds not in columns:
            advice = f"name the column with --{holds}-column"
            if holds == "label":
                advice += f"{_like_labels(file, rubric)}, or the rubric of the labels with --rubric"
            raise ColumnError(file.path, _KNOWN_NAMES[holds][0], file.header, advice=advice)
    if rubric.unit == "occupation":
        columns["id"] = columns["code"]
    if labels or setting is not None:
        columns.pop("setting", None)
    elif "setting" not in columns and len(rubric.settings) > 1:
        raise UsageError(
            f"the rubric {rubric.id} has the settings {', '.join(rubric.settings)}: say which one the labels answer with "
            "--setting, or name a column with --setting-column, or give --label-column SETTING=COLUMN for each"
        )
    fixed = None if "setting" in columns else setting or next(iter(rubric.settings))
    return columns, labels or [(fixed, columns["label"])]


def _like_labels(file: Table, rubric: Rubric) -> str:
    """Names the columns that hold only labels of the rubric, for a message; empty if there are none."""
    cells = {name: {row[name].strip() for _, row in file.rows} - {""} for name in file.header}
    named = [repr(name) for name, values in cells.items() if values and values <= set(rubric.labels)]
    return f" ({' and '.join(named)} hold such labels)" if named else ""


def _only_code(codes_by_id: Mapping[str, Sequence[str]], where: str, task: str, tasks: str) -> str:
    """The code of a task for which the file gives none: the only occupation that has a task with its id."""
    codes = codes_by_id.get(task, [])
    if len(codes) == 1:
        return codes[0]
    add = "add a column onet_soc_code with O*NET-SOC codes"
    if codes:
        raise DataError(f"{where}: the task id {task} stands for {len(codes)} tasks of {tasks}; {add}")
    raise DataError(f"{where}: the task id {task[:40]!r} is not in {tasks}; {add}, name another --tasks, or drop it")


def _label(reading: _Reading, where: str, written: str) -> str:
    rubric = reading.rubric
    if (new := reading.mapping.get(written)) is not None:
        reading.mapped[f"{written}={new}"] = reading.mapped.get(f"{written}={new}", 0) + 1
        return new
    if written in rubric.labels:
        return written
    if not written:
        raise DataError(f"{where} has no label; fill it or remove the line")
    raise DataError(
        f"{where}: {written[:40]!r} is not a label of the rubric {rubric.id} ({', '.join(rubric.labels)}); correct the line, say "
        "what it stands for with --map OLD=NEW, or name the rubric that it is of with --rubric"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Carried:
    """A run that was carried.

    Attributes:
        diff: What changed between the two task lists.
        carried: Labels kept from the run.
        filled: Labels taken from the second run.
        to_ask: Tasks of the newer list that lack labels and are listed in `to-ask.csv`.
        tasks: Tasks of the newer list.
        warnings: What to know before the missing tasks are labelled, such as a changed rubric.
    """

    diff: TaskDiff
    carried: int
    filled: int
    to_ask: int
    tasks: int
    warnings: tuple[str, ...] = ()


def carry_run(run: Run, to: str, out: Path, *, old: str | None = None, fill: Run | None = None) -> Carried:
    """Write a run on a newer task list from the labels of a run on an older one.

    Args:
        run: The run.
        to: The newer task list, as for `relabel.task.task_table`.
        out: Folder of the carried run.
        old: The list that the run labelled; by default the one that its manifest names.
        fill: A run under the same rubric that labelled tasks of the newer list; its labels fill what is not carried.

    Returns:
        What was carried. The new run is `complete` if every task of the newer list has a label in each setting and sample.

    Raises:
        UsageError: The two runs are not under one rubric, or the folder holds other things.
        DataError: A list cannot be read, or nothing can be carried.
    """
    if run.rubric.unit != "task":
        raise UsageError(f"{run.ref} rates occupations, which cannot be carried between task lists; rate them again")
    if fill is not None and fill.manifest.rubric_sha256 != run.manifest.rubric_sha256:
        raise UsageError(
            f"{run.ref} and {fill.ref} were labelled under different rubrics; fill with a run under the rubric "
            f"{run.rubric.id} (sha256 {run.manifest.rubric_sha256[:12]})"
        )
    if run.labels.empty:
        raise DataError(f"the run {run.ref} has no labels to carry; finish it with the same `relabel run`")
    diff = diff_lists(old or run.manifest.tasks, to)
    listed = task_table(to)
    unchanged = [task.new for task in diff.tasks if task.change == "unchanged" and task.new]
    keys = [(task.onet_soc_code, task.task_id) for task in unchanged]
    kept = _labels_of_tasks(run.labels, pd.DataFrame(keys, columns=TASK_KEY, dtype="str"))
    if kept.empty:
        raise DataError(f"no label of {run.ref} belongs to a task that is unchanged in {to}; name its list with --from")
    settings, repeats = run.manifest.settings, _sample_numbers(run)
    parts = [kept]
    if fill is not None:
        answer = [*TASK_KEY, "setting", "sample"]
        other = replaced(other_statements(listed, fill.own_task_list() or fill.manifest.tasks)["similarity"])
        fresh = _labels_of_tasks(fill.labels, listed[~other])
        fresh = fresh[fresh["setting"].isin(settings) & fresh["sample"].isin(repeats)]
        done = pd.MultiIndex.from_frame(kept[answer])
        parts.append(fresh[~pd.MultiIndex.from_frame(fresh[answer]).isin(done)])
    labels = pd.concat(parts, ignore_index=True)
    whole = len(settings) * len(repeats)
    answered = labels.groupby(TASK_KEY).size().reindex(pd.MultiIndex.from_frame(listed[TASK_KEY]), fill_value=0)
    missing = listed[answered.to_numpy() < whole]
    require_writable(out)
    if (out / "manifest.json").is_file() and read_manifest(out).engine != CARRY_ENGINE:
        raise UsageError(f"{out} holds a run that was not carried, whose labels would be lost; give another --out")
    counts = Counts(asked=len(listed) * whole, from_store=len(labels), failed=len(listed) * whole - len(labels))
    manifest = _carried_manifest(run, fill, diff, to, counts, len(repeats))
    rows = labels.reindex(columns=list(LABEL_COLUMNS)).astype(object)
    rows = rows.where(rows.notna(), None).assign(from_store=True)
    with writing(out):
        write_run(out, manifest, [Label(*row) for row in rows.itertuples(index=False, name=None)], [])
        with replacing(out / TO_ASK) as temporary:
            temporary.write_bytes(csv_bytes(missing[list(TASK_COLUMNS)]))
    filled = len(labels) - len(kept)
    warnings = tuple(changed_rubrics(run))
    return Carried(diff, len(kept), filled, len(missing), len(listed), warnings)


def _labels_of_tasks(labels: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    wanted = pd.MultiIndex.from_frame(tasks[TASK_KEY])
    return labels[pd.MultiIndex.from_frame(labels[TASK_KEY]).isin(wanted)]


def _sample_numbers(run: Run) -> set[int]:
    """The sample numbers of a run, including samples of which all labels are missing."""
    seen, samples = set(run.labels["sample"]), int(run.manifest.parameters.get("samples") or 1)
    return seen if len(seen) >= samples else seen | set(range(samples))


def _carried_manifest(run: Run, fill: Run | None, diff: TaskDiff, to: str, counts: Counts, samples: int) -> Manifest:
    runs = [run] if fill is None else [run, fill]
    models = list(dict.fromkeys(r.manifest.model for r in runs))
    returned = [model for r in runs for model in (r.manifest.models_returned or (r.manifest.model,))]
    uses = [use for r in runs for use in r.manifest.sources]
    origin = " and ".join(dict.fromkeys(r.ref for r in runs))
    return Manifest(
        status="incomplete" if counts.failed else "complete",
        package_version=__version__,
        model=" and ".join(models),
        models_returned=tuple(dict.fromkeys(returned)),
        engine=CARRY_ENGINE,
        rubric=run.manifest.rubric,
        rubric_sha256=run.manifest.rubric_sha256,
        prompt_sha256=run.manifest.prompt_sha256,
        schema_sha256=run.manifest.schema_sha256,
        sources=tuple(dict.fromkeys([*uses, *task_sources(to)])),
        tasks=to,
        settings=run.manifest.settings,
        parameters={
            "carried_from": [_carried_from(r) for r in runs],
            "old_tasks": diff.old,
            "changes": dict(diff.counts),
            "samples": samples,
        },
        counts=counts,
        note=f"labels of {origin}, carried from the task list {diff.old}; tasks that changed are labelled again",
    )


def _carried_from(run: Run) -> dict[str, Any]:
    """Where carried labels come from: the run and the checksum of its labels."""
    origin: dict[str, Any] = {"run": run.ref, "model": run.manifest.model, "tasks": run.manifest.tasks}
    if run.folder is not None:
        origin |= {"run": run.folder.resolve().name, "labels_sha256": sha256_of(run.folder / "labels.parquet")}
    return origin
