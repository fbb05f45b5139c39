"""A run as evaluation, scoring and publishing read it; `relabel.manifest` reads and writes its folder.

Labels are checked against the rubric; several samples of a task are reduced to one label; labels are turned into published codes
and measures. Published label sets such as `eloundou-2023:gpt4` are read as runs too.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
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
    EMBEDDED,
    EMBEDDED_ADVICE,
    LABEL_COLUMNS,
    PUBLISHED,
    TASK_FILE,
    Counts,
    Manifest,
    answer_warnings,
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
from relabel.tabular import counted

if TYPE_CHECKING:
    from relabel import EvalDocument, Gold, ScoreTable


# Values of columns that runs of earlier versions of relabel lack.
_DEFAULTS = {"variant": 0, "repaired": False, "unwrapped": False, "reasoning_tokens": 0}


# Engine of a run that pools the labels of several raters; its parameter `raters` names them, and its sample n is of rater n modulo
# their number.
POOLED = "pooled"

# Columns that every label table must have, without gaps except in `request_key`; other columns of `Label` may be absent.
LABELS = ("task_id", "onet_soc_code", "setting", "sample", "label", "request_key")
_LABEL_KEY = ["onet_soc_code", "task_id", "setting", "sample"]


def checked_label_table(table: pyarrow.Table, rubric: Rubric, path: Path | str) -> pd.DataFrame:
    """Labels of a run folder as a table, checked against their rubric.

    Args:
        table: The labels as read from the file.
        rubric: The rubric that they were given under.
        path: The file, or a name for the labels in messages.

    Returns:
        One row per label with the columns of `Label`. Columns that the file lacks have missing values, or the values that a
        run of an earlier version implies.

    Raises:
        DataError: It is not a table of labels, labels something twice, or holds a label or setting that is not in the
            rubric.
    """
    labels = _whole(table, path)
    if (labels["sample"] < 0).any():
        raise _no_table(path, f"its column sample holds {labels['sample'].min()}, which is below 0")
    for value in labels["probability"][~labels["probability"].fillna(0).between(0, 1 + 1e-6)].head(1):
        raise _no_table(path, f"its column probability holds {value:g}, which is not from 0 to 1")
    for row in labels[labels.duplicated(_LABEL_KEY)].head(1).to_dict("records"):
        twice_as = f"in the setting {row['setting']} as sample {row['sample']}"
        raise _no_table(path, f"{_unit(row, rubric)} has two labels {twice_as}")
    # Other code only tests for labels that it knows, so an unknown label would count as their opposite.
    valid = labels["label"].isin(list(rubric.labels)) & labels["setting"].isin(list(rubric.settings))
    for row in labels[~valid].head(1).to_dict("records"):
        names = f"labels {', '.join(rubric.labels)}; settings {', '.join(rubric.settings)}"
        raise DataError(
            f"{path} labels {_unit(row, rubric)} {row['label']!r} in the setting {row['setting']!r}, which the rubric {rubric.id} does "
            f"not have ({names}); fix the file or label again"
        )
    return labels


def _whole(table: pyarrow.Table, path: Path | str) -> pd.DataFrame:
    """The columns of `Label`, with the types that a run is written with; only those in `LABELS` must be in `table`."""
    columns: dict[str, pyarrow.ChunkedArray | pyarrow.Array] = {}
    for field in parquet_schema():
        name = field.name
        if name not in table.column_names:
            if name in LABELS:
                raise ColumnError(path, name, table.column_names)
            columns[name] = pyarrow.repeat(pyarrow.scalar(_DEFAULTS.get(name), field.type), len(table))
            continue
        column = table[name]
        if name in LABELS and name != "request_key" and column.null_count:
            raise _no_table(path, f"its column {name} is empty in {column.null_count} of {len(table)} rows")
        # Required texts are not converted: an id that was read as a number would match no task.
        is_text = str(column.type) in ("string", "large_string", "null")
        if name in LABELS and field.type == pyarrow.string() and not is_text:
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


def _no_table(where: Path | str, reason: str) -> DataError:
    return DataError(f"{where} is not a label table: {reason}; fix the file or run the labelling again")


_READINGS = {"strict": "strict", "with_tools": "with-tools"}


# Codes that a rubric must have for a measure to be meaningful: without E2, gamma would equal alpha.
_NEEDS: Mapping[Measure, set[str]] = {"alpha": {"E1"}, "beta": {"E1", "E2"}, "gamma": {"E2"}}


def is_cached_repeat(labels: pd.DataFrame) -> pd.Series:
    """Samples that a gateway's cache answered with an earlier answer to the same question; see `relabel.labels.cached_repeats`.

    Args:
        labels: Table of labels with the columns `LABELS`.

    Returns:
        True for each sample that repeats an earlier one, with the index of the table.
    """
    if "answer_id" not in labels or labels["answer_id"].isna().all() or not (labels["sample"] > 0).any():
        return pd.Series(False, index=labels.index)
    answers = labels["answer_id"].astype(object).where(labels["answer_id"].notna(), None)
    questions = zip(labels["onet_soc_code"], labels["task_id"], labels["setting"], strict=True)
    samples = list(zip(questions, labels["sample"], labels["request_key"], answers, strict=True))
    return pd.Series(cached_repeats(samples), index=labels.index, dtype=bool)


def decided(rubric: Rubric, labels: pd.DataFrame) -> pd.DataFrame:
    """One label per task and setting: the most frequent over samples.

    In a tie, the label that comes later in the rubric is taken, for tasks the less exposed one.

    Args:
        rubric: The rubric that the labels were given under.
        labels: Table of labels with the columns `LABELS`; with a column `vote`, the weight of each label, 1 by default.

    Returns:
        Columns `onet_soc_code, task_id`, and one column per setting with the label, missing where there is none.
    """
    order = {label: rank for rank, label in enumerate(rubric.labels)}
    keys = ["onet_soc_code", "task_id", "setting"]
    if labels.duplicated(keys).any():
        labels = labels.assign(vote=labels.get("vote", 1.0))
        votes = labels.groupby([*keys, "label"], sort=False)["vote"].sum().round(9).rename("votes").reset_index()
        votes["rank"] = votes["label"].map(order)
        # A label without a rank, which only a hand-made table can have, wins no tie.
        labels = votes.sort_values([*keys, "votes", "rank"], na_position="first").drop_duplicates(keys, keep="last")
    wide = labels.pivot(index=keys[:2], columns="setting", values="label")
    wide = wide.reindex(columns=list(rubric.settings))
    wide.columns.name = None
    return wide.reset_index()


def coded(rubric: Rubric, labels: pd.DataFrame) -> pd.DataFrame:
    """The published code of each task, and its two readings: exposed to the model alone, and to the model with tools.

    Args:
        rubric: The rubric that the labels were given under; its unit is the task.
        labels: Table of labels with the columns `LABELS`.

    Returns:
        One row per task, sorted by occupation code and id: `task_id, onet_soc_code`; `code` (E0, E1 or E2; missing if any
        of the rubric's settings has no label, because the codes of half-answered tasks would all be E1); `strict` and
        `with_tools` (nullable booleans, taken from the answers themselves, so that an incoherent pair remains visible; a
        rubric without the code E2 gives no `with_tools`, one without E1 no `strict`); `incoherent` (bool).
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
        # A rubric without the code E2 says nothing about tools; one without E1, nothing about the model alone.
        for column, needed, exposed in (("strict", "E1", ["E1"]), ("with_tools", "E2", ["E1", "E2"])):
            out[column] = code.isin(exposed).astype("boolean").where(code.notna() & (needed in rubric.codes))
    clash = rubric.incoherent
    out["incoherent"] = [clash is not None and dict(clash) == patterns[row] for row in rows]
    return out.sort_values(["onet_soc_code", "task_id"], ignore_index=True)


def measures_of(rubric: Rubric, table: pd.DataFrame) -> pd.DataFrame:
    """The values (0-1) of the measures by task, as the rubric assigns them to codes.

    The two readings together determine the code; an incoherent pair is E1. One reading alone determines a measure if all
    coherent codes with that reading have the same value: the strict reading alpha, the reading with tools gamma.

    Args:
        rubric: The rubric.
        table: Nullable booleans `strict` and `with_tools`, one row per task.

    Returns:
        Columns `alpha, beta, gamma`, float64, missing where the readings do not determine them; index of the table.
    """
    no_yes_unknown = [table[name].astype("boolean").to_numpy(dtype=np.intp, na_value=2) for name in _READINGS]
    values: dict[str, np.ndarray] = {}
    for measure in MEASURES:
        # Value by the strict reading and the reading with tools, each no, yes or unknown.
        grid = np.full((3, 3), np.nan)
        if _NEEDS[measure] <= set(rubric.codes):
            by_code = {str(code): float(rubric.measures[measure][code]) for code in rubric.codes}
            unexposed, tools_only, exposed = (by_code.get(code, np.nan) for code in ("E0", "E2", "E1"))
            grid[:2, :2] = [[unexposed, tools_only], [exposed, exposed]]
            alone = {"alpha": ("E0 E2", "E1"), "gamma": ("E0", "E1 E2")}.get(measure, ())
            worth = [{by_code[code] for code in codes.split() if code in by_code} for codes in alone]
            if worth and all(len(value) == 1 for value in worth):
                by_reading = grid[:2] if measure == "alpha" else grid[:, :2].T
                ends = np.array([[value.pop()] for value in worth])
                by_reading[:] = np.where(np.isnan(by_reading), ends, by_reading)
        values[measure] = grid[*no_yes_unknown]
    return pd.DataFrame(values, index=table.index)


@dataclass(frozen=True)
class Run:
    """A run that has been read.

    Attributes:
        ref: How the user named it.
        folder: Its folder; None for a published set.
        manifest: What was done.
        labels: Table of labels with the columns `LABELS`.
    """

    ref: str
    folder: Path | None
    manifest: Manifest
    labels: pd.DataFrame

    @property
    def name(self) -> str:
        """Its name, which is the same on every machine: the name of its folder or of the published set."""
        return self.ref if self.folder is None else self.folder.resolve().name

    @property
    def rubric(self) -> Rubric:
        """The rubric that the labels were given under."""
        return self.manifest.rubric

    def failures(self) -> list[Failure]:
        """The missing labels, as listed in the run folder; none for a published set.

        Raises:
            DataError: A line of the list is damaged.
        """
        return [] if self.folder is None else read_failures(self.folder)

    def own_task_list(self) -> str | None:
        """The task list that the run was made from, as for `relabel.task.task_table`; None if it was a file that is now missing.

        A user's own file counts only if it is unchanged. It is looked for under the path that the run was given, or under
        its name alone, which is all that a run of imported labels keeps.
        """
        if self.manifest.tasks != TASK_FILE and not is_table_file(self.manifest.tasks):
            return self.manifest.tasks
        return next((name for name in self._list_names if self.is_own_list(Path(name))), None)

    def is_own_list(self, path: Path) -> bool:
        """Whether a file is, byte for byte, the user's own task list that the run was made from."""
        hashes = {use.sha256 for use in self.manifest.sources if use.source == TASK_FILE}
        return path.is_file() and fetch.sha256_of(path) in hashes

    @property
    def list_name(self) -> str:
        """The name or path of its task list; for a user's own file, only its name if the manifest keeps no path."""
        return next((name for name in self._list_names if name != TASK_FILE), TASK_FILE)

    @property
    def _list_names(self) -> list[str]:
        return [self.manifest.tasks, *(use.file for use in self.manifest.sources if use.source == TASK_FILE)]

    def require_tasks(self) -> None:
        """Make sure that the run labelled tasks.

        Raises:
            UsageError: It rated occupations.
        """
        if self.rubric.unit != "task":
            raise UsageError(
                f"the run {self.ref} rates occupations (rubric {self.rubric.id}) and has no labels of tasks; give a run of "
                "a task rubric here, and this one to `relabel resilience RUN --epoch`"
            )

    def answers(self) -> pd.DataFrame:
        """Its labels without samples for which a gateway's cache repeated an earlier answer; see `is_cached_repeat`."""
        return self.labels[~self._cached_repeats] if self._cached_repeats.any() else self.labels

    @property
    def repeats_from_cache(self) -> int:
        """Number of samples for which a gateway's cache repeated an earlier answer."""
        return int(self._cached_repeats.sum())

    @cached_property
    def _cached_repeats(self) -> pd.Series:
        return is_cached_repeat(self.labels)

    def models(self) -> dict[str, int]:
        """Number of labels by the model that the provider names in its replies, largest first; empty if it names none."""
        if "model_returned" not in self.labels or self.labels["model_returned"].isna().all():
            return {}
        counts = self.labels["model_returned"].fillna("unknown").value_counts()
        return {str(model): int(count) for model, count in counts.items()}

    def warnings(self) -> list[str]:
        """Warnings for readers of the run's figures, one or more sentences each; most runs have none."""
        embedded = [EMBEDDED_ADVICE] if self.manifest.model == EMBEDDED else []
        return [*embedded, *answer_warnings(self.models(), self.repeats_from_cache, len(self.labels))]

    @cached_property
    def tied(self) -> int:
        """Number of labels for which a task's answers tie, so that the less exposed label counts; see `decided`."""
        votes = self._votes.groupby([*_LABEL_KEY[:3], "label"])["vote"].sum().round(9)
        most = votes == votes.groupby(level=_LABEL_KEY[:3]).transform("max")
        return int(most.groupby(level=_LABEL_KEY[:3]).sum().gt(1).sum())

    def ties_in_words(self) -> list[str]:
        """A warning for figures of the most frequent labels, if answers tie; measures and scores are means of all answers."""
        if not self.tied:
            return []
        return [
            f"{counted(self.tied, 'label')} of {self.name} {'is a tie' if self.tied == 1 else 'are ties'} between a task's "
            "answers and count as the less exposed label, so shares of exposed labels are too low; an odd number of --samples "
            "has fewer ties."
        ]

    def frame(self) -> pd.DataFrame:
        """Its labels, one row per task, setting and sample, without samples repeated by a gateway's cache."""
        return self.answers().copy()

    def wide(self) -> pd.DataFrame:
        """One row per task: its label in each setting, also that of each sample if there are several.

        For a rubric that labels tasks, also their published `code`, and whether their labels are `incoherent`.
        """
        task, answers = _LABEL_KEY[:2], self.answers()
        table = self.decided().set_index(task)
        if answers["sample"].nunique() > 1:
            names = answers["setting"] + "_" + (answers["sample"] + 1).astype(str)
            table = table.join(answers.assign(name=names).pivot(index=task, columns="name", values="label"))
        if self.rubric.unit == "task":
            table = table.join(self.coded().set_index(task)[["code", "incoherent"]])
        return table.sort_index().reset_index()

    def evaluate(self, gold: Gold | Run | str | Path | None = None, **options: Any) -> EvalDocument:
        """Its agreement with a gold, by default the one for its tasks; options and errors as for `relabel.evaluate`."""
        import relabel

        return relabel.evaluate(self, gold, **options)

    def score(self, **choices: Any) -> ScoreTable:
        """Its scores of occupations; choices and errors as for `relabel.score_table`."""
        import relabel

        return relabel.score_table(self, **choices)

    def _repr_html_(self) -> str:
        """For notebooks: what the run is, and how often each label was given."""
        manifest = self.manifest
        facts = {
            "run": self.name,
            "model": manifest.model,
            "rubric": manifest.rubric.id,
            "tasks": manifest.tasks,
            "state": manifest.status,
        }
        counts = self.labels.groupby(["setting", "label"]).size().rename("labels").reset_index()
        return pd.Series(facts).to_frame().to_html(header=False) + counts.to_html(index=False)

    def decided(self) -> pd.DataFrame:
        """One label per task and setting: the most frequent over samples; see `decided`."""
        return decided(self.rubric, self._votes)

    def coded(self) -> pd.DataFrame:
        """The published code of each task, and its two readings; see `coded`.

        Returns:
            One row per task, sorted by occupation code and id: `task_id, onet_soc_code, code, strict, with_tools, incoherent`.

        Raises:
            UsageError: The run rated occupations.
        """
        self.require_tasks()
        return self._coded.copy(deep=False)

    @cached_property
    def _coded(self) -> pd.DataFrame:
        return coded(self.rubric, self._votes)

    @property
    def is_pooled(self) -> bool:
        """Whether it pools the labels of several raters."""
        return self.manifest.engine == POOLED

    @cached_property
    def _votes(self) -> pd.DataFrame:
        """The answers with their `vote`; that of a rater of a pooled run is shared by its samples."""
        answers = self.answers()
        if not self.is_pooled:
            return answers.assign(vote=1.0)
        keys = [*(answers[name] for name in _LABEL_KEY[:3]), self.rater(answers["sample"])]
        return answers.assign(vote=1 / answers.groupby(keys)["label"].transform("size"))

    def rater(self, samples: pd.Series) -> pd.Series:
        """The rater of each sample: its number in a pooled run; in any other, each sample stands for itself."""
        return samples % len(self.manifest.parameters["raters"]) if self.is_pooled else samples

    def missing_measures(self) -> dict[Measure, str]:
        """The measures that this run cannot give for any task, each with the reason in words.

        Raises:
            UsageError: The run rated occupations.
        """
        self.require_tasks()
        rubric, answered = self.rubric, set(self.labels["setting"].unique())
        unasked = [setting for setting in rubric.settings if setting not in answered]
        missing: dict[Measure, str] = {}
        for code, about in (("E1", "the model alone"), ("E2", "the model with tools")):
            if code not in rubric.codes:
                reason = f"the rubric {rubric.id} has no code {code}, so it says nothing about {about}"
                missing |= {m: reason for m in MEASURES if code in _NEEDS[m] and m not in missing}
        if unasked:
            # Some measures are determined by one setting alone, whatever the other answers would be.
            readings = {name: setting in answered and setting in rubric.settings for name, setting in _READINGS.items()}
            either = {
                name: pd.array([True, False] if asked else [None] * 2, "boolean") for name, asked in readings.items()
            }
            settled = measures_of(rubric, pd.DataFrame(either)).notna().all()
            reason = f"the run has no labels for the setting {' or '.join(unasked)}"
            missing |= {measure: reason for measure in MEASURES if measure not in missing and not settled[measure]}
        return missing


def changed_rubrics(*runs: Run | None) -> list[str]:
    """Warnings about rubrics that were changed without a new id or version; empty if there are none.

    Rubrics are compared by the hash of their file: those of the runs with each other, and with the one that relabel ships
    under their id.
    """
    users_by_rubric: dict[tuple[str, int], dict[str, list[str]]] = {}
    for run in runs:
        if run is not None and (sha256 := run.manifest.rubric_sha256):
            users_by_rubric.setdefault((run.rubric.id, run.rubric.version), {}).setdefault(sha256, []).append(run.ref)
    warnings: list[str] = []
    for (name, version), users in users_by_rubric.items():
        with suppress(RelabelError):  # a rubric of the user's own
            if (shipped := load_rubric(name)).version == version:
                users.setdefault(shipped.sha256, []).append("relabel itself")
        if len(users) > 1:
            versions = ", ".join(f"{sha[:12]} in {' and '.join(dict.fromkeys(refs))}" for sha, refs in users.items())
            warnings.append(
                f"The rubric {name} was changed under its old version {version}: its text is {versions}; a "
                "difference between labels under these texts may be the rubric's."
            )
    return warnings


def open_run(ref: str, *, runs_dir: Path = Path("runs")) -> Run:
    """Open a run.

    Args:
        ref: A folder, a name under `runs_dir`, a published set from `PUBLISHED`, or `sample` (the sample's gold).
        runs_dir: Folder in which names are looked up.

    Raises:
        DataError: There is no such run, its folder is damaged, or it holds a label or setting that is not in its rubric.
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
        column, rater = PUBLISHED[ref]
        automation = ref.endswith("-automation")
        source = eloundou.read_automation() if automation else eloundou.read_labels()
        rubric, tasks = load_rubric(AUTOMATION if automation else "eloundou"), "eloundou-2023"
        note = f"published labels: {rater}; the rubric shown is relabel's own wording of that question"
        labels = source.assign(setting=next(iter(rubric.settings)), label=source[column], rationale=None)
        labels = labels[labels["label"].isin(list(rubric.labels))]
        use = fetch.source_use("eloundou-2023", "automation-labels" if automation else "labels")
        uses = (use.model_copy(update={"copy_status": None}),)
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


def by_sample(run: Run) -> pd.DataFrame:
    """One row per sample of a task: the columns of `Run.coded`, the measures, and `sample`."""
    # Code each sample as if it were a task of its own.
    answers = run.answers()
    sample_ids = answers["task_id"] + "\n" + answers["sample"].astype("str")
    table = coded(run.rubric, answers.assign(task_id=sample_ids, sample=0))
    ids = table["task_id"].str.rpartition("\n")
    table = table.assign(task_id=ids[0], sample=ids[2].astype("int64"))
    return table.join(measures_of(run.rubric, table))


def mean_measures(run: Run, *, majority: bool = False) -> pd.DataFrame:
    """The measures by task: means over samples; a task without any sample that has all readings keeps its majority values.

    In a pooled run, they are means over raters of the means over each rater's samples.

    Args:
        run: The run.
        majority: Whether to use the most frequent labels for all tasks.

    Returns:
        Columns `alpha, beta, gamma`, indexed by code and id, in the order of `Run.coded`.
    """
    table = run.coded()
    values = measures_of(run.rubric, table).set_index(pd.MultiIndex.from_frame(table[_LABEL_KEY[:2]]))
    if not majority and run.answers()["sample"].nunique() > 1:
        samples = by_sample(run)
        whole = samples[list(_READINGS)].dropna(axis=1, how="all").notna().all(axis=1)
        samples = samples[whole].assign(rater=run.rater(samples["sample"]))
        by_rater = samples.groupby([*_LABEL_KEY[:2], "rater"])[list(MEASURES)].mean()
        values.update(by_rater.groupby(level=_LABEL_KEY[:2]).mean())
    return values
