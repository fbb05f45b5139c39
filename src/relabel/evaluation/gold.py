"""Golds: reference labels that runs are compared with, and the labels of a run in the same columns."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from relabel.errors import ColumnError, DataError, UsageError
from relabel.evaluation.document import SCALES, GoldRule, Maker, SettingName
from relabel.evaluation.statistics import Ints
from relabel.importing import label_cells, read_numbers, refuse_repeats, require_cells, with_task_keys
from relabel.manifest import PUBLISHED
from relabel.rubric import AUTOMATION, CODES
from relabel.run import Run, open_run
from relabel.settings import asset_dir
from relabel.sources.fetch import SourceUse, file_use, sha256_of
from relabel.sources.tables import COLUMN_NAMES, Table, is_table_file, read_table
from relabel.task import TASK_KEY

# Built-in golds; others are runs or the path of a CSV file.
GOLD_NAMES = (*PUBLISHED, "sample")

# Caveat about a gold whose tasks were selected by `relabel review`, without `--random`.
SELECTED = (
    "The gold's tasks were chosen because they were doubtful: agreement on them, with its intervals, says nothing about "
    "the run as a whole."
)
# Levels of automation, from none to full.
LEVELS = SCALES["automation"]

# Column of each setting's label.
COLUMNS: Mapping[SettingName, str] = {
    "strict": "strict",
    "with-tools": "with_tools",
    "three-way": "code",
    "automation": "automation",
}

# Columns of a gold's table, one row per task; `Run.coded()` has a subset. Labels are the code, exposure in each setting, or
# the level of automation; `weight` and `stratum` describe the sampling design, `text` is the statement.
LABELLED = {
    "task_id": "str",
    "onet_soc_code": "str",
    "code": "string",
    "strict": "boolean",
    "with_tools": "boolean",
    AUTOMATION: "string",
    "weight": "float64",
    "stratum": "string",
    "text": "string",
}

_LABEL_COLUMNS = ("code", "strict", "with_tools")
_DESIGN = (AUTOMATION, "weight", "stratum")
# Columns of a file from `relabel review`, filled in by a person.
_REVIEWER, _REVIEWED_AT = "reviewer", "reviewed_at"
# Column in a file from `relabel review` that lists doubtful tasks, most doubtful first.
_PRIORITY = "priority"
_REVIEW = (_REVIEWER, _REVIEWED_AT, _PRIORITY)
_MADE_BY = "made_by"
_MAKERS: Mapping[str, Maker] = {"people": "people", "human": "people", "model": "model", "unknown": "unknown"}
UNKNOWN_MAKER = (
    "who made the gold {name} is unknown, so its labels are not counted as people's; set it with --gold-by people or "
    "--gold-by model, or in a column made_by"
)
_ANNOTATOR = ("annotator", "annotator_id", "rater", "coder", "worker", "worker_id", "labeler", "labeller")
_EXPOSED: Mapping[str, bool] = {"exposed": True, "not-exposed": False}
_BY_CODE: Mapping[str, tuple[bool, bool]] = {"E0": (False, False), "E1": (True, True), "E2": (False, True)}
# Code of each pair of readings; the incoherent one is E1.
_CODE_OF: Mapping[Any, str] = {pair: code for code, pair in _BY_CODE.items()} | {(True, False): "E1"}


@dataclass(frozen=True)
class Gold:
    """A reference label set.

    Attributes:
        name: How the user named it.
        table: Columns `LABELLED`: `task_id, onet_soc_code` (missing if the file has no codes), `code, strict, with_tools,
            automation` (missing without a label), `weight, stratum, text` (missing if the gold has none).
        sha256: Hash of the labels, weights and strata in canonical form, independent of row order and file layout.
        source: The source file.
        made_by: Who made the labels, as known or declared.
        selected: Whether its tasks were selected because they were doubtful, and are not representative.
        tasks: The task list of its ids; empty for a file, whose ids are those of the run to evaluate.
        run: The run that it was made from; None for a file.
        votes: With several annotators, their labels: like `table`, with a column `annotator`, one row per task and
            annotator.
        rule: How several labels of a task are combined: by majority (a tie gives no label), or as one row each in `table`,
            weighted by its share.
        tied: Number of tasks without a label because of a tie.
    """

    name: str
    table: pd.DataFrame
    sha256: str
    source: SourceUse
    made_by: Maker = "unknown"
    selected: bool = False
    tasks: str = ""
    run: Run | None = None
    votes: pd.DataFrame | None = None
    rule: GoldRule = "majority"
    tied: int = 0

    @property
    def human(self) -> bool:
        """Whether the labels are known to be made by people."""
        return self.made_by == "people"

    def task_list(self, run: Run) -> str:
        """The task list of its ids; for a user's file, that of the run."""
        return self.tasks or run.manifest.tasks

    @property
    def weighted(self) -> bool:
        """Whether its tasks have weights."""
        return bool(self.table["weight"].notna().any())

    def is_run(self, run: Run) -> bool:
        """Whether it was made from this same run or published label set; full agreement is then meaningless."""
        if self.run is None or self.run.folder is None or run.folder is None:
            return run.folder is None and run.ref == self.name
        return run.folder.resolve() == self.run.folder.resolve()

    @property
    def caveats(self) -> list[str]:
        """Caveats that apply to all figures against it."""
        caveats = [SELECTED] if self.selected else []
        if self.table["stratum"].notna().any() and not self.weighted:
            caveats.append(
                "The gold has strata but no weights: if some strata were sampled more densely than others, every figure leans "
                "towards them; add a column weight (one over the chance of each task to be drawn)."
            )
        if self.tied and self.rule == "majority":
            caveats.append(
                f"The gold's annotators tie on {self.tied:,} of its tasks, which are left out: agreement on the others, "
                "which are clearer, is usually higher than on all; --gold-rule distribution keeps them."
            )
        return caveats


def default_gold(run: Run) -> str:
    """Name of the default gold: `sample` for runs on the sample, otherwise GPT-4's labels of 2023 for the same question."""
    if AUTOMATION in run.rubric.settings:
        return "eloundou-2023:gpt4-automation"
    return "sample" if run.manifest.tasks == "sample" else "eloundou-2023:gpt4"


def load_gold(ref: str | Path, rule: GoldRule = "majority", made_by: Maker | None = None) -> Gold:
    """Load a gold.

    Args:
        ref: A name from `GOLD_NAMES`, a run (its folder, or its name under `runs/`), or the path of a CSV file as for
            `read_gold_csv`.
        rule: How labels of several annotators are combined; see `Gold.rule`.
        made_by: Who made it, if the gold itself does not say.

    Returns:
        The gold.

    Raises:
        DataError: There is no such gold, or its file is missing or malformed.
        UsageError: `made_by` contradicts what is known about the gold, or `ref` is a data frame.
    """
    if hasattr(ref, "to_csv"):
        raise UsageError("a data frame cannot be a gold: write it to a file with to_csv, and give the file's path")
    gold = _load(str(ref), rule)
    if made_by in (None, gold.made_by):
        return gold
    if gold.made_by != "unknown":
        maker = "people" if gold.human else "a model"
        raise UsageError(f"the gold {ref} was made by {maker}; remove --gold-by {made_by}")
    return replace(gold, made_by=made_by)


def _load(ref: str, rule: GoldRule) -> Gold:
    is_run = any((folder / "manifest.json").is_file() for folder in (Path(ref), Path("runs") / ref))
    if ref in GOLD_NAMES or is_run:
        run = open_run(ref)
        if run.folder is not None:
            source = SourceUse(source="run", file=run.name, sha256=sha256_of(run.folder / "labels.parquet"))
        elif run.manifest.sources:
            source = run.manifest.sources[0]
        else:
            source = file_use(asset_dir("data") / "sample" / "gold.csv", "sample")
        made = make_gold(ref, labels_of(run), source, made_by=_maker(run))
        return replace(made, tasks=run.manifest.tasks, run=run)
    if Path(ref).is_file() or is_table_file(ref):
        return read_gold_csv(Path(ref), rule)
    raise DataError(
        f"unknown gold {ref!r}; give one of {', '.join(GOLD_NAMES)}, a run, or the path of a CSV or Excel file"
    )


def _maker(run: Run) -> Maker:
    if run.folder is None and run.ref in PUBLISHED:
        return "people" if ":human" in run.ref else "model"
    # Imported labels may be made by anyone; all others are made by a model.
    return "unknown" if run.manifest.engine in (None, "import", "carry") else "model"


def labels_of(run: Run) -> pd.DataFrame:
    """A run's labels in the columns of a gold.

    Raises:
        UsageError: The run rated occupations.
        DataError: It has no label at all.
    """
    coded = run.coded()
    if coded.empty:
        raise DataError(f"the run {run.ref} has no labels; finish it with the same `relabel run`, or give another run")
    if AUTOMATION not in run.rubric.settings:
        return coded
    return coded.merge(run.decided(), on=["onet_soc_code", "task_id"], validate="one_to_one")


def run_settings(run: Run) -> tuple[SettingName, ...]:
    """Settings in which a run can be compared.

    For a rubric with two questions, those that were asked, and the code if both were. For a rubric with one question, its
    codes, and the settings that they determine.
    """
    rubric = run.rubric
    if AUTOMATION in rubric.settings:
        return ("automation",)
    if {"strict", "with-tools"} <= set(rubric.settings):
        asked: tuple[SettingName, ...] = tuple(s for s in SCALES if s in run.manifest.settings)
        return (*asked, "three-way") if len(asked) == 2 else asked
    if set(rubric.codes) == set(CODES):
        return ("strict", "with-tools", "three-way")
    # Codes E0 and E1 alone say nothing about tools; E0 and E2 alone say nothing about the model without tools.
    return ("strict",) if "E1" in rubric.codes else ("with-tools",)


def coded_table(run: Run) -> pd.DataFrame:
    """A run's labelled tasks in the columns of a gold, indexed by code and id; settings that were not asked are missing."""
    unasked = {column for setting, column in COLUMNS.items() if setting not in run_settings(run)}
    table = labelled(labels_of(run).drop(columns=unasked, errors="ignore"))
    return table.assign(code=full_codes(table)).set_index(TASK_KEY)


def positions(column: pd.Series, setting: SettingName) -> Ints:
    """A column of labels as positions on the setting's scale; -1 if missing."""
    scale = SCALES[setting]
    labels = pd.Index((False, True) if len(scale) == 2 else scale, dtype=object)
    return labels.get_indexer(pd.Index(column.astype(object)))


def asked(run: Run) -> tuple[int, Mapping[SettingName, int]]:
    """Number of tasks that the run was asked to label, and of those without a label by setting.

    Tasks that a stopped run never reached are only known from the count in the manifest.
    """
    table = coded_table(run)
    repeats = [int(run.manifest.parameters.get(name) or 1) for name in ("samples", "variants")]
    labels = len(run.manifest.settings) * repeats[0] * repeats[1]
    total = len(asked_tasks(run, table.index))
    total = max(total, -(-run.manifest.counts.asked // labels) if labels else 0)
    return total, {s: total - int(table[COLUMNS[s]].notna().sum()) for s in run_settings(run)}


def missing_in_words(total: int, unanswered: Mapping[SettingName, int], run: str = "") -> list[str]:
    """A warning that figures do not describe all tasks, from `asked`; `run` is named where there are several."""
    lacking = [
        f"{count:,} ({f'{100 * count / total:.0f}%' if count >= total / 100 else 'under 1%'}) have no {setting} label"
        for setting, count in unanswered.items()
        if count
    ]
    where = f" in {run}" if run else ""
    described = f"Of the {total:,} tasks asked{where}, {', '.join(lacking)}: the figures describe the rest only."
    return [described] if lacking else []


def incoherent_pairs(run: Run) -> tuple[int, int]:
    """Number of tasks that are exposed without tools but not with them, and of tasks with both answers."""
    coded = run.coded()
    answered = coded["strict"].notna() & coded["with_tools"].notna()
    return int((coded["incoherent"] & answered).sum()), int(answered.sum())


def asked_tasks(run: Run, done: pd.Index) -> pd.Index:
    """Code and id of the tasks with a label, followed by those of failed tasks without one."""
    failed = {(f.onet_soc_code, f.task_id) for f in run.failures()}
    failed = sorted(failed.difference(done)) if failed else []
    return done.append(pd.MultiIndex.from_tuples(failed, names=TASK_KEY)) if failed else done


def full_codes(table: pd.DataFrame) -> pd.Series:
    """The codes of tasks; missing unless both readings are known."""
    return table["code"].where(table["strict"].notna() & table["with_tools"].notna())


def make_gold(
    name: str, table: pd.DataFrame, source: SourceUse, *, made_by: Maker = "unknown", selected: bool = False
) -> Gold:
    """Make a gold from a table.

    Args:
        name: Name of the gold.
        table: One row per task, columns as in `LABELLED`; others are dropped.
        source: The source file.
        made_by: Who made the labels.
        selected: Whether its tasks were selected because they were doubtful.
    """
    table = labelled(table)
    return Gold(name, table, labels_hash(table), source, made_by, selected)


def _combine_votes(votes: pd.DataFrame, rule: GoldRule) -> tuple[pd.DataFrame, int]:
    """Combine the labels of several annotators, one row per task and annotator; also returns the number of ties."""
    labels = [*_LABEL_COLUMNS, AUTOMATION]
    task = votes.groupby(TASK_KEY, sort=False, dropna=False).ngroup()
    by_task = votes.groupby(task, sort=False)
    first = by_task.head(1).set_index(task[by_task.head(1).index]).drop(columns=["annotator", *labels])
    decided = pd.DataFrame({column: _majority(votes[column], task).reindex(first.index) for column in labels})
    coded = by_task["code"].count().reindex(first.index) > 0
    for place, column in enumerate(("strict", "with_tools")):
        # Derive readings from the majority code: separate majorities could form a code that no annotator gave.
        derived = decided["code"].map({code: pair[place] for code, pair in _BY_CODE.items()})
        decided[column] = decided[column].mask(coded, derived)
    pairs = zip(decided["strict"], decided["with_tools"], strict=True)
    decided["code"] = decided["code"].where(coded, [_CODE_OF.get(pair) for pair in pairs])
    voted = by_task[labels].count().sum(axis=1).reindex(first.index) > 0
    tied = int((decided.isna().all(axis=1) & voted).sum())
    table = first.join(decided)
    if rule == "distribution":
        size = by_task[labels].transform("count").max(axis=1)
        table = votes[size > 0].assign(weight=(votes["weight"].fillna(1.0) / size)[size > 0])
    return table, tied


def _majority(column: pd.Series, task: pd.Series) -> pd.Series:
    """The most frequent value of each task; missing if tied."""
    counts = column.groupby([task, column]).size()
    counts.index.names = ["task", "label"]
    most = counts[counts == counts.groupby(level=0).transform("max")]
    single = most[~most.index.get_level_values(0).duplicated(keep=False)].reset_index("label")["label"]
    return single.astype(object)


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """A table of labelled tasks with exactly the columns of `LABELLED`; absent columns become missing values."""
    return table.reindex(columns=list(LABELLED)).astype(LABELLED).reset_index(drop=True)


def read_gold_csv(path: Path, rule: GoldRule = "majority") -> Gold:
    """Read a gold of the user's own.

    The file is a table as for `relabel.sources.tables.read_table`, with these columns:

    - `task_id` (or `id`, or O*NET's `Task ID`), and `onet_soc_code` (or `O*NET-SOC Code`) if ids are not unique over
      occupations.
    - `code` or `label` (E0, E1, E2), `strict`, `with_tools` (exposed, not-exposed), or several of these; or levels of
      automation (T0 to T4) as `automation` or `label`. An empty cell means that the gold has no label there.
    - Optionally `weight` (a number above 0, used in all estimates), `stratum` (of the sample) and `text` (the statement).
    - `reviewer` and `reviewed_at` of a file from `relabel review`. Rows without a label are not reviewed yet: they are left
      out, and the gold's source gives their number, the reviewers and the dates. A `priority` in a row with a label means
      that tasks were selected because they were doubtful, as `relabel review` does without `--random`.
    - `annotator`, if several annotators labelled a task, each in a row of its own.
    - `made_by`: `people` or `model`. Without it, people made the labels of a review, and the maker of any other file is
      unknown.

    Args:
        path: The file.
        rule: How labels of several annotators are combined; see `Gold.rule`.

    Returns:
        The gold. `code` is derived from `strict` and `with_tools`, or these from `code`; `code` is missing if only one of
        the two is known.

    Raises:
        DataError: The file cannot be read, or a row is invalid; the message names the line and what is wrong.
        ColumnError: A column is missing.
    """
    advice = f"give the path of a CSV or Excel file, or one of {', '.join(GOLD_NAMES)}"
    file = read_table(path, rows_are="each labelled task", advice=advice)
    cells = label_cells(file, _columns(file))
    has_label = (cells[[name for name in (*_LABEL_COLUMNS, AUTOMATION) if name in cells]] != "").any(axis=1)
    selected = bool(_PRIORITY in cells and (cells.loc[has_label, _PRIORITY] != "").any())
    source, made_by = file_use(path, "file"), _declared_maker(file, cells)
    if _REVIEWER in cells:
        cells, made_by = cells[has_label], made_by or "people"
        source = _reviewed_source(path, source, cells, total=len(file.rows))
    cells = with_task_keys(file, cells)
    refuse_repeats(file, cells, [name for name in (*TASK_KEY, "annotator") if name in cells])
    absent = {name: "" for name in LABELLED if name not in cells}
    table = _parse(file, cells.assign(**absent)).reset_index(drop=True)
    if "annotator" not in cells:
        return make_gold(str(path), table, source, made_by=made_by or "unknown", selected=selected)
    require_cells(file, cells["annotator"], cells["annotator"] != "", "the name of an annotator")
    table["annotator"] = cells["annotator"].to_numpy()
    combined, tied = _combine_votes(table, rule)
    made = make_gold(str(path), combined, source, made_by=made_by or "unknown", selected=selected)
    return replace(made, votes=labelled(table).assign(annotator=table["annotator"]), rule=rule, tied=tied)


def _declared_maker(file: Table, cells: pd.DataFrame) -> Maker | None:
    """Who made the labels, from the column `made_by`; None if it is absent or empty."""
    filled = cells.loc[cells[_MADE_BY] != "", _MADE_BY] if _MADE_BY in cells else pd.Series(dtype=object)
    if filled.empty:
        return None
    makers = filled.str.lower().map(_MAKERS)
    expected = "people, model or unknown, and the same on each line"
    require_cells(file, filled, makers.notna() & (makers == makers.iloc[0]), expected)
    return makers.iloc[0]


def _reviewed_source(path: Path, source: SourceUse, cells: pd.DataFrame, *, total: int) -> SourceUse:
    """The source, with reviewers, dates and numbers of rows from a review file."""
    if cells.empty:
        raise DataError(f"{path} has no row with a label; fill the column label (E0, E1 or E2) in some")
    when = sorted(set(cells.get(_REVIEWED_AT, ())) - {""})
    review = {"reviewers": sorted(set(cells[_REVIEWER]) - {""}), "reviewed_at": [when[0], when[-1]] if when else []}
    counts = {"rows_reviewed": len(cells), "rows_not_filled_in": total - len(cells)}
    return SourceUse.model_validate(source.model_dump() | review | counts)


def _columns(file: Table) -> dict[str, str]:
    """Columns of a gold by their content.

    Raises:
        ColumnError: There are no ids.
        DataError: There are no labels, or two columns could hold the codes.
    """
    names = {**COLUMN_NAMES, "annotator": _ANNOTATOR}
    contents = ("task_id", "onet_soc_code", *LABELLED, "label", "annotator", *_REVIEW, _MADE_BY)
    found = {content: file.find(*names.get(content, (content,))) for content in contents}
    columns = {content: column for content, column in found.items() if column is not None}
    if "task_id" not in columns:
        raise ColumnError(file.path, "task_id", file.header)

    def has_levels(content: str) -> bool:
        return content in columns and any(cells[columns[content]].strip() in LEVELS for _, cells in file.rows)

    if not has_levels(AUTOMATION):
        columns.pop(AUTOMATION, None)  # the file of 2023 has a column of this name that holds no levels
    if "label" in columns:
        content = AUTOMATION if has_levels("label") else "code"
        if content in columns:
            raise DataError(f"{file.path} has the columns {columns[content]!r} and 'label'; remove one")
        columns[content] = columns.pop("label")
    if not columns.keys() & {*_LABEL_COLUMNS, AUTOMATION}:
        wanted = "code or label (E0, E1, E2), or strict and/or with_tools (exposed, not-exposed)"
        raise DataError(f"{file.path} has no column of labels; it needs {wanted}")
    return columns


def _parse(file: Table, cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of a gold as values in the columns of `LABELLED`."""
    words = {"code": _BY_CODE, "strict": _EXPOSED, "with_tools": _EXPOSED, AUTOMATION: LEVELS}
    for name, known in words.items():
        require_cells(file, cells[name], cells[name].isin(["", *known]), f"{', '.join(known)} or empty")
    weight = read_numbers(file, cells["weight"], 0, math.inf, "a number above 0")
    if weight.notna().any():
        require_cells(file, cells["weight"], weight.notna(), "a number above 0 on each line")
    table = cells.replace("", None).assign(weight=weight)
    for place, name in enumerate(("strict", "with_tools")):
        from_code = cells["code"].map({code: pair[place] for code, pair in _BY_CODE.items()})
        stated = cells[name].map(_EXPOSED)
        table[name] = stated.where(stated.notna(), from_code)
    pairs = zip(table["strict"], table["with_tools"], strict=True)
    table["code"] = [_CODE_OF.get(pair) for pair in pairs]
    agrees = (cells["code"] == "") | (cells["code"] == table["code"])
    require_cells(file, cells["code"], agrees, "the code that strict and with_tools give")
    return table


def labels_hash(table: pd.DataFrame) -> str:
    """Hash of the rows `[onet_soc_code, task_id, code, strict, with_tools]` as sorted lines of JSON.

    Automation, weight and stratum are added only if the gold has them, so that hashes of other golds have not changed.
    """
    columns = ["onet_soc_code", "task_id", *_LABEL_COLUMNS]
    columns += [column for column in _DESIGN if table[column].notna().any()]
    rows = table[columns].astype(object).where(table[columns].notna(), None).to_numpy().tolist()
    lines = sorted(map(json.JSONEncoder(separators=(",", ":")).encode, rows))
    return hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()
