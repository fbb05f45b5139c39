"""A run as evaluation, scoring and publishing read it; `relabel.manifest` has its folder.

Labels are checked against the rubric, decided between samples, and given the published code and measures of each task.
Published label sets such as `eloundou-2023:gpt4` are read as runs too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow

from relabel import __version__
from relabel.errors import ColumnError, DataError, RelabelError, UsageError
from relabel.labels import Failure, cached_repeats
from relabel.manifest import (
    LABEL_COLUMNS,
    PUBLISHED,
    TASK_FILE,
    Counts,
    Manifest,
    find_run,
    parquet_schema,
    read_failures,
    read_label_file,
    read_manifest,
)
from relabel.rubric import AUTOMATION, MEASURES, Measure, Rubric, load_rubric
from relabel.settings import asset_dir
from relabel.sources import eloundou, fetch
from relabel.sources.fetch import SourceUse
from relabel.sources.tables import is_table_file

if TYPE_CHECKING:
    from relabel import EvalDocument, Gold, ScoreTable


_OF_OLD = {"variant": 0, "repaired": False, "unwrapped": False, "reasoning_tokens": 0}
"""What columns hold that a run was made before."""


LABELS = ("task_id", "onet_soc_code", "setting", "sample", "label", "request_key")
"""What every label table must hold, none but `request_key` with gaps; other columns of `Label` may be missing values."""
_LABEL_KEY = ["onet_soc_code", "task_id", "setting", "sample"]


def checked_label_table(table: pyarrow.Table, rubric: Rubric, path: Path | str) -> pd.DataFrame:
    """Labels of a run folder as a table.

    Args:
        table: The labels as they stand in the file.
        rubric: The rubric that they were given under.
        path: The file, or what to call the labels, for messages.

    Returns:
        One row a label, the columns of `Label`; what the file lacks beside the columns of `LABELS` is missing.

    Raises:
        DataError: It is not a table of labels, or holds a label or setting that the rubric lacks.
    """
    labels = _whole(table, path)
    if (labels["sample"] < 0).any():
        raise _no_table(path, f"its column sample holds {labels['sample'].min()}, which is below 0")
    for row in labels[labels.duplicated(_LABEL_KEY)].head(1).to_dict("records"):
        twice_as = f"in the setting {row['setting']} as sample {row['sample']}"
        raise _no_table(path, f"{_unit(row, rubric)} has two labels {twice_as}")
    # What reads labels asks whether they are the ones it knows: all else would count as their opposite.
    known = labels["label"].isin(list(rubric.labels)) & labels["setting"].isin(list(rubric.settings))
    for row in labels[~known].head(1).to_dict("records"):
        setting, unit = row["setting"], _unit(row, rubric)
        said = f"{unit} in the setting {setting!r}, which is not a setting"
        if setting in rubric.settings:
            said = f"{unit} {row['label']!r} in the setting {setting}, which is not a label"
        names = ", ".join(rubric.labels if setting in rubric.settings else rubric.settings)
        raise DataError(f"{path} labels {said} of the rubric {rubric.id} ({names}); fix the file or label again")
    return labels


def _whole(table: pyarrow.Table, path: Path | str) -> pd.DataFrame:
    """The columns of `Label`, of the types that a run is written with; those that `LABELS` does not ask for may lack."""
    columns: dict[str, pyarrow.ChunkedArray | pyarrow.Array] = {}
    for field in parquet_schema():
        name = field.name
        if name not in table.column_names:
            if name in LABELS:
                raise ColumnError(path, name, table.column_names)
            columns[name] = pyarrow.repeat(pyarrow.scalar(_OF_OLD.get(name), field.type), len(table))
            continue
        column = table[name]
        if name in LABELS and name != "request_key" and column.null_count:
            raise _no_table(path, f"its column {name} is empty in {column.null_count} of {len(table)} rows")
        # Texts that all rests on are taken as they are: an id that became a number would match no task.
        taken = str(column.type) in ("string", "large_string", "null")
        if name in LABELS and field.type == pyarrow.string() and not taken:
            raise _no_table(path, f"its column {name} holds {column.type}, not text")
        try:
            columns[name] = column.cast(field.type)
        except pyarrow.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise _no_table(path, f"its column {name} holds no {field.type} ({reason})") from error
    return pyarrow.table(columns).to_pandas().astype({"sample": "int64"})


def _unit(row: Mapping[Any, Any] | pd.Series, rubric: Rubric) -> str:
    code = row["onet_soc_code"]
    return f"the task {row['task_id']} of {code}" if rubric.unit == "task" else f"the occupation {code}"


def _no_table(where: Path | str, why: str) -> DataError:
    return DataError(f"{where} is not a label table: {why}; fix the file or run the labelling again")


_READINGS = {"strict": "strict", "with_tools": "with-tools"}


_NEEDS: Mapping[Measure, set[str]] = {"alpha": {"E1"}, "beta": {"E1", "E2"}, "gamma": {"E2"}}
"""Codes that a rubric must have for a measure to say anything: without E2, gamma would repeat alpha."""


def is_cached_repeat(labels: pd.DataFrame) -> pd.Series:
    """Samples of a question that a gateway's cache answered with an earlier one of them.

    See `relabel.labels.cached_repeats`.

    Args:
        labels: Table of labels, `relabel.labels.LABELS`.

    Returns:
        True for each such sample but the first, index of the table.
    """
    if "answer_id" not in labels or labels["answer_id"].isna().all() or not (labels["sample"] > 0).any():
        return pd.Series(False, index=labels.index)
    answers = labels["answer_id"].astype(object).where(labels["answer_id"].notna(), None)
    questions = zip(labels["onet_soc_code"], labels["task_id"], labels["setting"], strict=True)
    samples = list(zip(questions, labels["sample"], labels["request_key"], answers, strict=True))
    return pd.Series(cached_repeats(samples), index=labels.index, dtype=bool)


def decided(rubric: Rubric, labels: pd.DataFrame) -> pd.DataFrame:
    """One label per task and setting: the most frequent over samples.

    A tie takes the label that comes later in the rubric, which is the less exposed one.

    Args:
        rubric: The rubric that the labels were given under.
        labels: Table of labels, `relabel.labels.LABELS`.

    Returns:
        Columns `task_id, onet_soc_code`, and one column a setting with its label, missing where there is none.
    """
    order = {label: rank for rank, label in enumerate(rubric.labels)}
    keys = ["onet_soc_code", "task_id", "setting"]
    if labels.duplicated(keys).any():
        votes = labels.groupby([*keys, "label"], sort=False).size().rename("votes").reset_index()
        votes["rank"] = votes["label"].map(order)
        # A label without a rank, in tables that were put together by hand, wins no tie.
        labels = votes.sort_values([*keys, "votes", "rank"], na_position="first").drop_duplicates(keys, keep="last")
    wide = labels.pivot(index=keys[:2], columns="setting", values="label")
    wide = wide.reindex(columns=list(rubric.settings))
    wide.columns.name = None
    return wide.reset_index()


def coded(rubric: Rubric, labels: pd.DataFrame) -> pd.DataFrame:
    """The published code of each task, and both readings of it.

    Args:
        rubric: The rubric that the labels were given under; it labels tasks.
        labels: Table of labels, `relabel.labels.LABELS`.

    Returns:
        One row a task, sorted by code and id: `task_id, onet_soc_code, code` (E0, E1, E2; missing while any of the
        rubric's settings has no label, because codes of half-answered tasks would all be E1), `strict` and
        `with_tools` (nullable booleans; those of the answers themselves, so that an incoherent pair shows; a
        rubric without the code E2 gives no `with_tools`, one without E1 no `strict`), `incoherent` (bool).
    """
    table = decided(rubric, labels)
    answers = [table[setting].astype(object).where(table[setting].notna(), None) for setting in rubric.settings]
    rows = list(zip(*answers, strict=True))
    patterns = {row: dict(zip(rubric.settings, row, strict=True)) for row in set(rows)}
    codes = {row: rubric.code(pattern) for row, pattern in patterns.items() if None not in row}
    code = pd.Series([codes.get(row) for row in rows], index=table.index, dtype="string")
    out = table[["task_id", "onet_soc_code"]].assign(code=code)
    if {"strict", "with-tools"} <= set(rubric.settings):
        for column, setting in _READINGS.items():
            out[column] = (table[setting] == "exposed").astype("boolean").where(table[setting].notna())
    else:
        # Without E2 among its codes a rubric says nothing about tools, without E1 nothing about the model alone.
        for column, known, exposed in (("strict", "E1", ["E1"]), ("with_tools", "E2", ["E1", "E2"])):
            out[column] = code.isin(exposed).astype("boolean").where(code.notna() & (known in rubric.codes))
    clash = rubric.incoherent
    out["incoherent"] = [clash is not None and dict(clash) == patterns[row] for row in rows]
    return out.sort_values(["onet_soc_code", "task_id"], ignore_index=True)


def missing_measures(rubric: Rubric, answered: Collection[str]) -> dict[Measure, str]:
    """The measures that labels cannot give for any task, each with the reason in words.

    Args:
        rubric: The rubric; it labels tasks.
        answered: Settings that have labels.
    """
    unasked = [setting for setting in rubric.settings if setting not in answered]
    missing: dict[Measure, str] = {}
    for code, about in (("E1", "the model alone"), ("E2", "the model with tools")):
        if code not in rubric.codes:
            why = f"the rubric {rubric.id} has no code {code}, so it says nothing about {about}"
            missing |= {m: why for m in MEASURES if code in _NEEDS[m] and m not in missing}
    if unasked:
        # What one setting alone settles, whatever the other answers would be.
        known = {name: setting in answered and setting in rubric.settings for name, setting in _READINGS.items()}
        either = {name: pd.array([True, False] if there else [None] * 2, "boolean") for name, there in known.items()}
        settled = measures_of(rubric, pd.DataFrame(either)).notna().all()
        why = f"the run has no labels for the setting {' or '.join(unasked)}"
        missing |= {measure: why for measure in MEASURES if measure not in missing and not settled[measure]}
    return missing


def measures_of(rubric: Rubric, table: pd.DataFrame) -> pd.DataFrame:
    """The values (0-1) of the measures by task, as the rubric gives them to codes.

    Both readings make a code, and an incoherent pair is E1. One reading alone settles a measure where all coherent codes
    that share the reading have one value: the strict reading alpha, the reading with tools gamma.

    Args:
        rubric: The rubric.
        table: Nullable booleans `strict` and `with_tools`.

    Returns:
        Columns `alpha, beta, gamma`, float64, missing where the readings do not settle them; index of the table.
    """
    no_yes_unknown = [table[name].astype("boolean").to_numpy(dtype=np.intp, na_value=2) for name in _READINGS]
    values: dict[str, np.ndarray] = {}
    for measure in MEASURES:
        found = np.full((3, 3), np.nan)
        if _NEEDS[measure] <= set(rubric.codes):
            by_code = {str(code): float(rubric.measures[measure][code]) for code in rubric.codes}
            neither, tools, both = (by_code.get(code, np.nan) for code in ("E0", "E2", "E1"))
            found[:2, :2] = [[neither, tools], [both, both]]
            alone = {"alpha": ("E0 E2", "E1"), "gamma": ("E0", "E1 E2")}.get(measure, ())
            worth = [{by_code[code] for code in codes.split() if code in by_code} for codes in alone]
            if worth and all(len(value) == 1 for value in worth):
                by_reading = found[:2] if measure == "alpha" else found[:, :2].T
                ends = np.array([[value.pop()] for value in worth])
                by_reading[:] = np.where(np.isnan(by_reading), ends, by_reading)
        values[measure] = found[*no_yes_unknown]
    return pd.DataFrame(values, index=table.index)


@dataclass(frozen=True)
class Run:
    """A run that has been read.

    Attributes:
        ref: How the user named it.
        folder: Its folder; None for a published set.
        manifest: What was done.
        labels: Table of labels, `relabel.labels.LABELS`.
    """

    ref: str
    folder: Path | None
    manifest: Manifest
    labels: pd.DataFrame

    @property
    def name(self) -> str:
        """Its name, the same on every machine: that of its folder, or of the published set."""
        return self.ref if self.folder is None else self.folder.resolve().name

    @property
    def rubric(self) -> Rubric:
        """The rubric that the labels were given under."""
        return self.manifest.rubric

    def failures(self) -> list[Failure]:
        """The missing labels that the run folder names.

        Raises:
            DataError: A line of them is damaged.
        """
        return [] if self.folder is None else read_failures(self.folder)

    def own_task_list(self) -> str | None:
        """The task list that the run was made from, as for `relabel.task.task_table`; None for a file that is gone.

        A user's own file counts only if it is still the file that the run was made from: under the path that the run was
        given, or under its name alone, which is all that a run of imported labels keeps.
        """
        if self.manifest.tasks != TASK_FILE and not is_table_file(self.manifest.tasks):
            return self.manifest.tasks
        paths = [self.manifest.tasks, *(use.file for use in self.manifest.sources if use.source == TASK_FILE)]
        return next((path for path in paths if self.is_own_list(Path(path))), None)

    def is_own_list(self, path: Path) -> bool:
        """Whether a file is, byte for byte, the user's own task list that the run was made from."""
        known = {use.sha256 for use in self.manifest.sources if use.source == TASK_FILE}
        return path.is_file() and fetch.sha256_of(path) in known

    @property
    def list_name(self) -> str:
        """What its task list is called; for a user's own file its name where the manifest keeps no path."""
        names = [self.manifest.tasks, *(use.file for use in self.manifest.sources if use.source == TASK_FILE)]
        return next((name for name in names if name != TASK_FILE), TASK_FILE)

    def require_tasks(self) -> None:
        """Make sure that the run labelled tasks, and did not rate occupations.

        Raises:
            UsageError: It rated occupations.
        """
        if self.rubric.unit != "task":
            raise UsageError(
                f"the run {self.ref} rates occupations (rubric {self.rubric.id}) and has no labels of tasks; give a run of "
                "a task rubric here, and this one to `relabel resilience RUN --epoch`"
            )

    def answers(self) -> pd.DataFrame:
        """Its labels without samples that a gateway's cache answered with an earlier one; see `is_cached_repeat`."""
        return self.labels[~self._cached_repeats] if self._cached_repeats.any() else self.labels

    @property
    def repeats_from_cache(self) -> int:
        """Samples that a gateway's cache answered with an earlier one."""
        return int(self._cached_repeats.sum())

    @cached_property
    def _cached_repeats(self) -> pd.Series:
        return is_cached_repeat(self.labels)

    def models(self) -> dict[str, int]:
        """Labels by the model that the provider says answered, most first; empty where it says nothing."""
        if "model_returned" not in self.labels or self.labels["model_returned"].isna().all():
            return {}
        found = self.labels["model_returned"].fillna("unknown").value_counts()
        return {str(model): int(count) for model, count in found.items()}

    def warnings(self) -> list[str]:
        """What must be known before the run's figures are read, one sentence each; empty for most runs."""
        said: list[str] = []
        # A carried run has the labels of several on purpose.
        if len(models := self.models()) > 1:
            parts = "labels by model: " + ", ".join(f"{model}: {count:,}" for model, count in models.items())
            said.append(f"{len(models)} models answered this run ({parts}); see `relabel eval --by-model`.")
        if self.repeats_from_cache:
            said.append(
                f"{self.repeats_from_cache:,} of {len(self.labels):,} samples are an earlier answer again, as a cache on the "
                "way to the model gives it: they count once, and say nothing about how steady the model is; switch the "
                "gateway's cache off and label again."
            )
        return said

    def frame(self) -> pd.DataFrame:
        """Its labels: one row a task, setting and sample."""
        return self.answers().copy()

    def wide(self) -> pd.DataFrame:
        """One row a task: the label in each setting, and `code`, what they come to, for a rubric that labels tasks."""
        table = self.decided()
        if self.rubric.unit != "task":
            return table
        keys = ["onet_soc_code", "task_id"]
        return table.merge(self.coded()[[*keys, "code"]], on=keys, how="left")

    def evaluate(self, gold: Gold | str | None = None, **options: Any) -> EvalDocument:
        """How far it agrees with a gold, by default the one for its tasks; options and errors as of `relabel.evaluate`."""
        import relabel

        return relabel.evaluate(self, gold, **options)

    def score(self, **choices: Any) -> ScoreTable:
        """Its scores of occupations; choices and errors as of `relabel.score_table`."""
        import relabel

        return relabel.score_table(self, **choices)

    def _repr_html_(self) -> str:
        """For notebooks: whose labels they are, and how often each was given."""
        made = self.manifest
        facts = {
            "run": self.name,
            "model": made.model,
            "rubric": made.rubric.id,
            "tasks": made.tasks,
            "state": made.status,
        }
        counts = self.labels.groupby(["setting", "label"]).size().rename("labels").reset_index()
        return pd.Series(facts).to_frame().to_html(header=False) + counts.to_html(index=False)

    def decided(self) -> pd.DataFrame:
        """One label per task and setting: the most frequent over samples; see `decided`."""
        return decided(self.rubric, self.answers())

    def coded(self) -> pd.DataFrame:
        """The published code of each task, and both readings of it; see `coded`.

        Returns:
            One row a task, sorted by code and id: `task_id, onet_soc_code, code, strict, with_tools, incoherent`.

        Raises:
            UsageError: The run rated occupations.
        """
        self.require_tasks()
        return self._coded.copy(deep=False)

    @cached_property
    def _coded(self) -> pd.DataFrame:
        return coded(self.rubric, self.answers())

    def missing_measures(self) -> dict[Measure, str]:
        """The measures that this run cannot give for any task, each with the reason in words.

        Raises:
            UsageError: The run rated occupations.
        """
        self.require_tasks()
        return missing_measures(self.rubric, set(self.labels["setting"].unique()))


def changed_rubrics(*given: Run | None) -> list[str]:
    """What must be said first of runs whose rubric was changed without a new id or version, if anything.

    Rubrics are told apart by the hash of their file. Each run's is compared with the other runs' and with the one that is
    shipped under its id.
    """
    said: list[str] = []
    runs = [run for run in given if run is not None]
    for at, run in enumerate(runs):
        mine = run.manifest
        for other in (r for r in runs[:at] if _rubric_changed(r, run)):
            said.append(
                f"The rubric {mine.rubric.id} was changed under its old version {mine.rubric.version}: {other.ref} was "
                f"labelled under the text {other.manifest.rubric_sha256[:12]}, {run.ref} under {mine.rubric_sha256[:12]}; "
                "a difference between them may be the rubric's."
            )
        if run.folder is None or any(_rubric_changed(r, run) for r in runs[:at]):
            continue
        try:
            shipped = load_rubric(mine.rubric.id)
        except RelabelError:
            continue
        if shipped.version == mine.rubric.version and shipped.sha256 != mine.rubric_sha256:
            said.append(
                f"{run.ref} was labelled under another text of the rubric {mine.rubric.id}, version {mine.rubric.version}, "
                f"than relabel has now ({mine.rubric_sha256[:12]}, now {shipped.sha256[:12]}): compare it with runs under "
                "the same text only."
            )
    return said


def _rubric_changed(first: Run, second: Run) -> bool:
    a, b = first.manifest, second.manifest
    same = (a.rubric.id, a.rubric.version) == (b.rubric.id, b.rubric.version)
    return same and a.rubric_sha256 != b.rubric_sha256 and bool(a.rubric_sha256) and bool(b.rubric_sha256)


def open_run(ref: str, *, runs_dir: Path = Path("runs")) -> Run:
    """Open a run.

    Args:
        ref: A folder, a name under `runs/`, or a published set from `PUBLISHED`, or `sample` (the sample's gold).
        runs_dir: Where names are looked up.

    Raises:
        DataError: There is no such run, or its folder is damaged, or holds a label or setting that its rubric lacks.
    """
    if ref in PUBLISHED or ref == "sample":
        return _published(ref)
    folder = find_run(ref, runs_dir)
    manifest, table = read_manifest(folder), read_label_file(folder)
    return Run(ref, folder, manifest, checked_label_table(table, manifest.rubric, folder / "labels.parquet"))


def _published(ref: str) -> Run:
    uses: tuple[SourceUse, ...] = ()
    if ref == "sample":
        gold = pd.read_csv(asset_dir("data") / "sample" / "gold.csv", dtype=str)
        rubric, tasks = load_rubric("exposure"), "sample"
        note = "gold of the built-in sample, made up by the authors of relabel"
        columns = {setting: gold[setting.replace("-", "_")] for setting in rubric.settings}
        parts = [gold.assign(setting=s, label=column, rationale=gold["note"]) for s, column in columns.items()]
        labels = pd.concat(parts, ignore_index=True)
    else:
        column, who = PUBLISHED[ref]
        automation = ref.endswith("-automation")
        source = eloundou.read_automation() if automation else eloundou.read_labels()
        rubric, tasks = load_rubric(AUTOMATION if automation else "eloundou"), "eloundou-2023"
        note = f"published labels: {who}; the rubric shown is relabel's own wording of that question"
        labels = source.assign(setting=next(iter(rubric.settings)), label=source[column], rationale=None)
        labels = labels[labels["label"].isin(list(rubric.labels))]
        known = fetch.source_use("eloundou-2023", "automation-labels" if automation else "labels")
        uses = (known.model_copy(update={"copy_status": None}),)
    manifest = Manifest(
        status="published",
        package_version=__version__,
        model=ref,
        rubric=rubric,
        rubric_sha256=rubric.sha256,
        sources=uses,
        tasks=tasks,
        settings=tuple(rubric.settings),
        counts=Counts(asked=len(labels)),
        note=note,
    )
    labels = labels[[name for name in LABEL_COLUMNS if name in labels]].assign(sample=0, request_key=None)
    table = pyarrow.Table.from_pandas(labels, preserve_index=False)
    return Run(ref, None, manifest, _whole(table, ref))
