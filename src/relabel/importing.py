"""Runs made without asking a model: from a file of labels made elsewhere, or from a run on an older task list.

Nothing is guessed: unknown labels, duplicate tasks and ambiguous ids are refused with their line. The run's manifest names the
file that the labels come from, and each label its line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from relabel import __version__
from relabel.errors import ColumnError, DataError, UsageError
from relabel.files import require_writable, write_whole, writing
from relabel.labels import MAX_RATIONALE, Label
from relabel.manifest import LABEL_COLUMNS, TASK_FILE, Counts, Manifest, read_manifest, task_sources, write_run
from relabel.rubric import Rubric, Unit
from relabel.run import Run, changed_rubrics
from relabel.sources import eloundou
from relabel.sources.fetch import SourceUse, sha256_of
from relabel.sources.tables import COLUMN_NAMES, Table, is_table_file, plain_id, read_table
from relabel.tabular import csv_bytes, records
from relabel.task import (
    TASK_COLUMNS,
    TASK_KEY,
    TaskDiff,
    diff_lists,
    disputed_titles,
    onet_releases,
    other_statements,
    replaced,
    task_table,
    text_similarity,
)

# Engines in the manifests of imported and of carried runs.
ENGINE, CARRY_ENGINE = "import", "carry"
# Name of the list of tasks that are left to label, within the folder of a carried run.
TO_ASK = "to-ask.csv"

# Task lists in which ids are looked up first, before the other releases of O*NET.
_LISTS = ("eloundou-2023", "onet-30.2", "sample")

# Fewest labels that are compared with GPT-4's of 2023, and the kappa from which they agree better than chance.
_FEW = 50
_CHANCE = 0.05

# Recognised column names, by content. Case, blanks and punctuation do not matter.
_KNOWN_NAMES: Mapping[str, tuple[str, ...]] = {
    **{content: COLUMN_NAMES[content] for content in ("task_id", "onet_soc_code", "title", "text")},
    "label": ("label", "code"),
    "rationale": ("rationale", "explanation"),
    **{content: (content,) for content in ("setting", "sample", "probability")},
}
# A file without anything like an O*NET-SOC code has codes of another classification, such as a review of a user's own list.
_LIKE_ONET_SOC = r"[0-9]{2}\D?[0-9]{4}|^$"
# What makes a label unique in a run.
_LABEL_KEY = (*TASK_KEY, "setting", "sample")

# Columns of a file by content, with the keys of `_KNOWN_NAMES`; if a key is missing or None, the names there are tried.
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


def label_cells(file: Table, columns: Mapping[str, str]) -> pd.DataFrame:
    """Cells of a file of labels as text without blanks around it: a column by content, indexed by line."""
    rows = [[cells[column].strip() for column in columns.values()] for _, cells in file.rows]
    return pd.DataFrame(rows, columns=list(columns), index=[line for line, _ in file.rows], dtype=object)


def require_cells(
    file: Table, cells: pd.Series, valid: pd.Series, expected: str, advice: str = "correct the line"
) -> None:
    """Refuse a column with an invalid cell.

    Raises:
        DataError: A cell is invalid; the message names the line of the first, what the cell must be and what it is.
    """
    if not valid.all():
        place = int(valid.to_numpy().argmin())
        problem = f": {cells.name} must be {expected}, not {cells.iloc[place][:40]!r}; {advice}"
        raise file.fault(int(cells.index[place]), problem)


def read_numbers(file: Table, cells: pd.Series, low: float, high: float, expected: str) -> pd.Series:
    """Parse a column of numbers over `low`, up to `high`; empty cells are missing values.

    Raises:
        DataError: A cell holds something else; see `require_cells`.
    """
    numbers = cells.map(file.number).astype("float64")
    require_cells(file, cells, (cells == "") | ((numbers > low) & (numbers <= high)), expected)
    return numbers


def with_task_keys(file: Table, cells: pd.DataFrame) -> pd.DataFrame:
    """Parse the ids, and the codes if the file has them.

    Raises:
        DataError: An id or code is malformed, or neither codes nor statements confirm ids that may be row numbers.
    """
    own_codes = "onet_soc_code" in cells and not cells["onet_soc_code"].str.contains(_LIKE_ONET_SOC).any()
    parsers = {"task_id": file.task_id, "onet_soc_code": file.occupation_code if own_codes else file.onet_soc_code}
    keys = {name: list(map(parse, cells.index, cells[name])) for name, parse in parsers.items() if name in cells}
    if not {"onet_soc_code", "text"} & set(cells):
        file.refuse_row_numbers(keys["task_id"], "add a column onet_soc_code, or use O*NET's own Task ID")
    return cells.assign(**keys)


def refuse_repeats(file: Table, cells: pd.DataFrame, key: Sequence[str]) -> None:
    """Refuse a file in which two lines have the same values in the columns of a key.

    Raises:
        DataError: Two lines have; the message names both.
    """
    repeated = cells.duplicated(list(key)).to_numpy()
    if repeated.any():
        values = cells[list(key)].iloc[int(repeated.argmax())]
        lines = cells.index[(cells[list(key)] == values).all(axis=1)]
        shown = ", ".join(f"{name} {value}" for name, value in values.items())
        advice = "remove one, or tell them apart by a column onet_soc_code, sample or annotator"
        raise file.fault(int(lines[1]), f" repeats {shown} of line {lines[0]}; {advice}")


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
    _require_known(rubric, setting, columns, mapping)
    if (out / "manifest.json").exists() and read_manifest(out).engine != ENGINE:
        raise UsageError(f"{out} already holds a run; give a new folder to --out")
    file = read_table(path, rows_are="each label", advice="give the path of a CSV or Excel file of labels")
    columns, by_setting = _find_columns(file, rubric, columns, setting)
    cells = with_task_keys(file, label_cells(file, columns))
    tasks, listed = _task_list(set(cells["task_id"]), rubric.unit, tasks)
    note, has_codes = "", "onet_soc_code" in cells
    if not has_codes:
        cells = _with_codes(file, cells, tasks, listed)
    elif "title" in cells:
        note = disputed_titles(zip(cells["onet_soc_code"], cells["title"], strict=True))
    _require_statements(file, cells, tasks, listed)
    rows, mapped = _one_row_per_label(file, cells, by_setting, mapping)
    started, sha256 = _now(), sha256_of(path)
    labels = _labels(file, rows, rubric, f"{ENGINE}:{sha256}", started)
    labelled = {(label.onet_soc_code, label.task_id) for label in labels}
    manifest = Manifest(
        status="complete",
        package_version=__version__,
        model=model,
        engine=ENGINE,
        rubric=rubric,
        rubric_sha256=rubric.sha256,
        sources=(SourceUse(source=ENGINE, file=path.name, sha256=sha256), *task_sources(tasks, rubric.unit)),
        tasks=TASK_FILE if is_table_file(tasks) else tasks,
        settings=tuple(s for s in rubric.settings if any(label.setting == s for label in labels)),
        parameters={
            "imported": True,
            "columns": columns | {f"label {name or ''}".strip(): column for name, column in by_setting.items()},
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
    note = note or ("" if has_codes else _chance_note(labels, tasks))
    return Imported(out, tasks, len(labels), len(labelled), mapped, len(unlisted), (note,) if note else ())


def _require_known(rubric: Rubric, setting: str | None, columns: Columns, mapping: Mapping[str, str]) -> None:
    """Refuse settings and labels in options that the rubric does not have."""
    by_name = columns.get("label")
    for name in filter(None, (setting, *(by_name if isinstance(by_name, Mapping) else ()))):
        if name not in rubric.settings:
            raise UsageError(f"{name} is not a setting of the rubric {rubric.id} ({', '.join(rubric.settings)})")
    for label in mapping.values():
        if label not in rubric.labels:
            raise UsageError(f"--map: {label} is not a label of the rubric {rubric.id} ({', '.join(rubric.labels)})")


def _one_row_per_label(
    file: Table, cells: pd.DataFrame, by_setting: Mapping[str | None, str], mapping: Mapping[str, str]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Cells with the columns `setting` and `label`, labels replaced by the mapping; and how many it changed, by `OLD=NEW`."""
    parts = [
        cells.assign(
            setting=cells["setting"] if fixed is None else fixed, label=label_cells(file, {"label": column})["label"]
        )
        for fixed, column in by_setting.items()
    ]
    rows = pd.concat(parts).sort_index(kind="stable")
    mapped = {f"{old}={new}": int((rows["label"] == old).sum()) for old, new in mapping.items()}
    rows["label"] = [mapping.get(label, label) for label in rows["label"]]
    return rows, {change: count for change, count in mapped.items() if count}


def _task_list(ids: Collection[str], unit: Unit, wanted: str | None) -> tuple[str, pd.DataFrame]:
    """The task list by name and as a table; by default the first that holds all ids, or else the one that holds most."""
    if wanted is not None:
        return wanted, task_table(wanted, unit)
    candidates: list[tuple[int, str, pd.DataFrame]] = []
    for name in dict.fromkeys([*_LISTS, *onet_releases()]):
        # A list that is not on this machine can still be named with --tasks; the error then says what is missing.
        with suppress(DataError):
            table = task_table(name, unit)
            candidates.append((len(set(table["task_id"]).intersection(ids)), name, table))
        if candidates and candidates[-1][0] == len(ids):
            break
    return max(candidates, key=lambda entry: entry[0])[1:]


def _with_codes(file: Table, cells: pd.DataFrame, tasks: str, listed: pd.DataFrame) -> pd.DataFrame:
    """Add the codes of the list's tasks to ids given without codes.

    Raises:
        DataError: An id does not belong to exactly one task of the list.
    """
    by_id = listed.groupby("task_id")
    found = cells["task_id"].map(by_id.size()) == 1
    advice = "add a column onet_soc_code, or name another --tasks"
    require_cells(file, cells["task_id"], found, f"the id of one task of {tasks}", advice)
    return cells.assign(onet_soc_code=cells["task_id"].map(by_id["onet_soc_code"].first()))


def _require_statements(file: Table, cells: pd.DataFrame, tasks: str, listed: pd.DataFrame) -> None:
    """Refuse a file in which most statements differ from the list's, as when only some of its columns were sorted.

    Raises:
        DataError: They do.
    """
    if "text" not in cells:
        return
    given = cells[cells["text"] != ""]
    statements = listed.set_index(TASK_KEY)["text"].reindex(pd.MultiIndex.from_frame(given[TASK_KEY]))
    alike = text_similarity(statements.set_axis(given.index), given["text"])
    others = alike.index[replaced(alike)]
    if 2 * len(others) > alike.count():
        raise file.fault(
            int(others[0]),
            f": the task is another statement in {tasks}, and so are {len(others):,} of {alike.count():,}: the ids are not "
            f"those of {tasks}; correct the rows, use O*NET's own Task ID, or name another --tasks",
        )


def _chance_note(labels: Sequence[Label], tasks: str) -> str:
    """A warning if labels with unconfirmed ids agree with GPT-4's labels of 2023 no better than chance."""
    rows = [(label.onet_soc_code, label.task_id, label.label) for label in labels]
    ours = pd.DataFrame(rows, columns=[*TASK_KEY, "ours"])
    try:
        gpt4 = eloundou.read_labels()[[*TASK_KEY, "gpt4"]]
    except DataError:
        return ""
    joined = ours[ours["ours"].isin(gpt4["gpt4"])].merge(gpt4, on=TASK_KEY)
    if len(joined) < _FEW or joined["gpt4"].nunique() == 1:
        return ""
    from sklearn.metrics import cohen_kappa_score

    kappa = cohen_kappa_score(joined["ours"], joined["gpt4"])
    return (
        ""
        if kappa >= _CHANCE
        else (
            f"the labels agree with GPT-4's of 2023 no better than chance (kappa {kappa:.2f} on {len(joined):,} tasks): the "
            f"file has neither codes nor statements that confirm its ids; check that they are the Task IDs of {tasks}"
        )
    )


def _labels(file: Table, rows: pd.DataFrame, rubric: Rubric, source: str, created: str) -> list[Label]:
    """Validate the rows, one per label, and make labels of them; `source` begins their request keys."""
    for name, known, advice in (
        ("setting", rubric.settings, "correct the line, or name the rubric of the labels with --rubric"),
        ("label", rubric.labels, "correct the line, replace it with --map OLD=NEW, or name its rubric with --rubric"),
    ):
        require_cells(file, rows[name], rows[name].isin(list(known)), f"one of {', '.join(known)}", advice)
    rows = rows.assign(**{name: "0" if name == "sample" else "" for name in _KNOWN_NAMES.keys() - set(rows)})
    samples = rows["sample"].map(plain_id)
    require_cells(file, rows["sample"], samples.str.fullmatch(r"[0-9]{1,4}"), "a whole number from 0 to 9999")
    probabilities = read_numbers(file, rows["probability"], -1, 1, "from 0 to 1 or empty")
    short = rows["rationale"].str.len() <= MAX_RATIONALE
    require_cells(file, rows["rationale"], short, f"at most {MAX_RATIONALE:,} characters long")
    rows = rows.assign(sample=samples.astype(int), probability=probabilities, created_at=created)
    refuse_repeats(file, rows, _LABEL_KEY)
    return _of_rows(rows.assign(request_key=[f"{source}:{line}" for line in rows.index]))


def _of_rows(rows: pd.DataFrame) -> list[Label]:
    """Labels from a table of them, whose other columns are dropped."""
    return [Label(**row) for row in records(rows[[name for name in LABEL_COLUMNS if name in rows]])]


def _find_columns(
    file: Table, rubric: Rubric, given: Columns, setting: str | None
) -> tuple[dict[str, str], dict[str | None, str]]:
    """Columns by content, and those of labels by setting, which is None if the column `setting` holds it."""
    wanted = given.get("label")
    by_setting = wanted if isinstance(wanted, Mapping) else {}
    names = {content: column for content, column in given.items() if isinstance(column, str)}
    columns: dict[str, str] = {}
    for content, known in _KNOWN_NAMES.items():
        if content in names:
            columns[content] = _required(file, names[content])
        elif (column := file.find(*known)) is not None:
            columns[content] = column
    if not by_setting and "label" not in columns and setting is None and all(map(file.find, rubric.settings)):
        by_setting = {name: name for name in rubric.settings}
    label = columns.pop("label", None)
    if rubric.unit == "occupation":
        columns["task_id"] = columns["onet_soc_code"] = columns.get("onet_soc_code") or _required(file, "onet_soc_code")
    elif "task_id" not in columns:
        raise ColumnError(file.path, "task_id", file.header, advice="name the column with --id-column")
    if by_setting or setting is not None:
        columns.pop("setting", None)
    if by_setting:
        return columns, {name: _required(file, column) for name, column in by_setting.items()}
    if label is None:
        advice = "name the column with --label-column, or the rubric of the labels with --rubric"
        raise ColumnError(file.path, "label", file.header, advice=advice)
    if setting is None and "setting" not in columns and len(rubric.settings) > 1:
        raise UsageError(
            f"the rubric {rubric.id} has the settings {', '.join(rubric.settings)}: say which one the labels answer with "
            "--setting, or name a column with --setting-column, or give --label-column SETTING=COLUMN for each"
        )
    return columns, {None if "setting" in columns else setting or next(iter(rubric.settings)): label}


def _required(file: Table, name: str) -> str:
    if (column := file.find(name)) is None:
        raise ColumnError(file.path, name, file.header, advice="name the column that is meant")
    return column


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
    with writing(out):
        write_run(out, manifest, _of_rows(labels.assign(from_store=True)), [])
        # As `code`, because the list may have codes of another classification; and without importance on its scale.
        asked = missing[list(TASK_COLUMNS[:5])].rename(columns={"onet_soc_code": "code"})
        write_whole(out / TO_ASK, csv_bytes(asked))
    filled, warnings = len(labels) - len(kept), tuple(changed_rubrics(run))
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
