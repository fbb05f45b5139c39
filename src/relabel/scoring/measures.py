"""From labels to scores: task values, task weights, and the linear map from tasks to group scores."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa

from relabel.errors import DataError, UsageError
from relabel.rubric import MEASURES, Measure, Rubric
from relabel.run import Run, mean_measures, measures_of
from relabel.scoring.options import SAMPLE, Repeats, Taxonomy, Unrated, Weights
from relabel.sources import onet
from relabel.tabular import records
from relabel.task import TASK_KEY, is_onet_release, other_statements, replaced, task_table

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

# The measure of each reading.
READING_MEASURES: Mapping[str, Measure] = {"strict": "alpha", "with_tools": "gamma"}
# Columns that weights are computed from.
WEIGHT_COLUMNS: Mapping[Weights, str] = {"importance": "importance", "core": "task_type"}
_RATED_LIST = "onet-30.2"
_CORE_WEIGHT = 2.0
_ROUNDING = 1e-12
_READING_PAIRS = pd.DataFrame({"strict": [False, False, True], "with_tools": [False, True, True]})

# A task list joined with labels and weights.
TASKS = pa.DataFrameSchema(
    {
        "task_id": pa.Column("str"),
        "onet_soc_code": pa.Column("str"),
        "importance": pa.Column("float64", pa.Check.gt(0), nullable=True),
        "code": pa.Column("string", pa.Check.isin(["E0", "E1", "E2"]), nullable=True),
        "labelled": pa.Column("bool"),
        "replaced": pa.Column("bool"),
        **{measure: pa.Column("float64", pa.Check.in_range(0, 1), nullable=True) for measure in MEASURES},
        "weight": pa.Column("float64", pa.Check.ge(0)),
    },
    unique=["onet_soc_code", "task_id"],
    strict=False,
)

# Scores by O*NET-SOC code.
OCCUPATIONS = pa.DataFrameSchema(
    {
        **{measure: pa.Column("float64", pa.Check.in_range(0, 1 + _ROUNDING), nullable=True) for measure in MEASURES},
        "tasks": pa.Column("int64", pa.Check.ge(0)),
        "listed": pa.Column("int64", pa.Check.ge(0)),
        "coverage": pa.Column("float64", pa.Check.in_range(0, 1 + _ROUNDING)),
    },
    index=pa.Index("str", unique=True, name="onet_soc_code"),
    strict=True,
)


def default_tasks(run: Run, weights: Weights, taxonomy: Taxonomy) -> str:
    """The task list used to score a run when none is named.

    Normally the list that the run labelled. The labels of 2023 use their own list only under core weights and by O*NET-SOC
    code, as the paper did; otherwise O*NET 30.2, because the list of 2023 is outdated and has no importance ratings. O*NET
    30.2 also stands in if the run's list lacks what the weights need, or its file is gone.
    """
    own = run.own_task_list()
    if own == "eloundou-2023":
        return own if weights == "core" and taxonomy == "onet-soc" else _RATED_LIST
    if own is None or own == SAMPLE:
        return own or _RATED_LIST
    needed = WEIGHT_COLUMNS.get(weights)
    return _RATED_LIST if needed is not None and task_table(own)[needed].isna().all() else own


def coded_tasks(run: Run, repeats: Repeats = "mean") -> pd.DataFrame:
    """The fully labelled tasks of a run, with their codes, readings and measures.

    A task with only one of two readings would have a known value only if that reading determines it, which would bias every
    mean. Such tasks are left out, unless the whole run has only one reading.

    Returns:
        The columns of `Run.coded` (majority over samples), and `alpha, beta, gamma`. Under `mean` these are means over
        samples, which are unbiased; a majority resolves ties to the less exposed label. Measures in `Run.missing_measures`
        are missing.
    """
    table = run.coded()
    values = mean_measures(run, majority=repeats == "majority")
    return table.join(values, on=TASK_KEY)[_fully_labelled(run, table)].reset_index(drop=True)


def count_left_out(run: Run, tasks: pd.DataFrame) -> tuple[int, int]:
    """Count tasks that have labels but are not used.

    Args:
        run: The run.
        tasks: As `labelled_tasks` returns them.

    Returns:
        Number of tasks in the list with only some of the run's labels, and of labelled tasks outside the list.
    """
    table = run.coded()
    whole = _fully_labelled(run, table)
    listed = pd.MultiIndex.from_frame(table[TASK_KEY]).isin(pd.MultiIndex.from_frame(tasks[TASK_KEY]))
    return int((~whole & listed).sum()), int((whole & ~listed).sum())


def changed_tasks(tasks: pd.DataFrame, name: str) -> dict[str, int | None]:
    """Count differences between a task list and the one that a run labelled.

    Args:
        tasks: As `labelled_tasks` returns them.
        name: Name of the list.

    Returns:
        `tasks_new`, and among labelled tasks `tasks_reworded` and `tasks_replaced`; None if the run's list cannot be read.
        `tasks_emerging` (tasks without id and rating); None if the list has no such tasks.
    """
    counts: dict[str, int | None] = dict.fromkeys(("tasks_new", "tasks_reworded", "tasks_replaced", "tasks_emerging"))
    has_text = tasks["text_labelled"].notna()
    if has_text.any():
        pairs = tasks[has_text & tasks["labelled"] & ~tasks["replaced"] & (tasks["text"] != tasks["text_labelled"])]
        before, after = (pairs[text].str.split().str.join(" ") for text in ("text_labelled", "text"))
        counts["tasks_new"] = int((~has_text).sum())
        counts["tasks_reworded"] = int((before != after).sum())
        counts["tasks_replaced"] = int(tasks["replaced"].sum())
    if is_onet_release(name):
        with contextlib.suppress(DataError):
            counts["tasks_emerging"] = onet.count_emerging_tasks(name)
    return counts


def replaced_texts(tasks: pd.DataFrame) -> list[dict[str, Any]]:
    """Tasks whose id belonged to another statement when the run labelled it, least similar first.

    Args:
        tasks: As `labelled_tasks` returns them.

    Returns:
        Dicts with code, id, `similarity` (0-1), and the statements `labelled` and `scored`.
    """
    rows = tasks[tasks["replaced"]].sort_values("similarity", kind="stable")
    texts = rows[[*TASK_KEY, "similarity", "text_labelled", "text"]]
    return records(texts.set_axis([*TASK_KEY, "similarity", "labelled", "scored"], axis=1))


def _readings(run: Run) -> tuple[str, ...]:
    """The readings that a run gives: `strict`, `with_tools`, or both."""
    lacks = run.missing_measures()
    return tuple(reading for reading, measure in READING_MEASURES.items() if measure not in lacks)


def _fully_labelled(run: Run, table: pd.DataFrame) -> pd.Series:
    readings = list(_readings(run))
    return table[readings].notna().all(axis=1) & bool(readings)


@dataclass(frozen=True)
class Classes:
    """The exposure classes of a run's labels, lowest first.

    Attributes:
        readings: Readings that define the class: `strict`, `with_tools`, or both.
        values: Value (0-1), classes x measures; NaN where the run cannot give the measure.
    """

    readings: tuple[str, ...]
    values: Floats

    def numbers(self, coded: pd.DataFrame) -> Ints:
        """Class number of each task; -1 if a reading is missing. An incoherent pair is in the highest class."""
        readings = coded[list(self.readings)].astype("boolean")
        number = np.where(readings.iloc[:, 0].fillna(False), len(self.values) - 1, 0)
        if len(self.readings) > 1:
            number = np.where((number == 0) & readings["with_tools"].fillna(False), 1, number)
        return np.where(readings.notna().all(axis=1), number, -1).astype(np.intp)


def classes_of(run: Run) -> Classes:
    """The classes of a run: E0, E2 and E1; for a run with only one reading, not exposed and exposed."""
    readings = _readings(run)
    return Classes(readings, class_values(run.rubric, readings))


def class_values(rubric: Rubric, readings: tuple[str, ...]) -> Floats:
    """Values (0-1), classes x measures; NaN where the readings do not determine the measure."""
    single = {name: [False, True] if name in readings else [None, None] for name in _READING_PAIRS}
    pairs = _READING_PAIRS if len(readings) > 1 else pd.DataFrame(single)
    return measures_of(rubric, pairs.astype("boolean"))[list(MEASURES)].to_numpy()


def labelled_tasks(
    run: Run, tasks: str, weights: Weights, *, unrated: Unrated, repeats: Repeats = "mean", by_id: bool = False
) -> pd.DataFrame:
    """Join a run's labels to a task list by occupation code and task id.

    A task counts as labelled if it has a label for each setting that the run labelled, see `coded_tasks`. A label of
    another statement under the same id (`relabel.task.replaced`) does not count.

    Args:
        run: The run.
        tasks: A task list, as for `relabel.task.task_table`; it provides types and importance.
        weights: How tasks are weighted within their occupation.
        unrated: Weight of a task without a rating, under `importance`.
        repeats: Value of a task that was asked several times.
        by_id: Match labels by id alone, whatever statement the id has now.

    Returns:
        One row per task of the list, schema `TASKS`: the columns of the list, `code, strict, with_tools, incoherent`,
        `labelled`, `replaced` (the run's label under this id is of another statement), `text_labelled` (the statement that
        the run labelled; missing if its list is gone), `similarity` of the two, `alpha, beta, gamma` (0-1; missing if
        unlabelled or if the run cannot give the measure) and `weight` (above 0; 0 if dropped as unrated).

    Raises:
        UsageError: The list lacks what the weights need, or the sample is mixed with other lists.
        DataError: The run has no labels to score, or none of them belongs to a task of the list.
    """
    if (run.manifest.tasks == SAMPLE) != (tasks == SAMPLE):
        raise UsageError(
            f"the run {run.ref} labelled the task list {run.manifest.tasks} and cannot be scored by {tasks}: the "
            "built-in sample cannot be mixed with other lists; remove --tasks"
        )
    lacks = run.missing_measures()
    if len(lacks) == len(MEASURES):
        raise DataError(f"the run {run.ref} gives no measure to score: {next(iter(lacks.values()))}")
    listed = task_table(tasks).reset_index(drop=True)
    column = WEIGHT_COLUMNS.get(weights)
    if column is not None and listed[column].isna().all():
        raise UsageError(
            f"the task list {tasks} has no values of {column}, which --weights {weights} needs; choose other --weights, such as "
            "equal, or --tasks onet-30.2"
        )
    given = coded_tasks(run, repeats)
    joined = _join_labels(listed, given, run, by_id=by_id)
    if not joined["labelled"].any():
        others = int(joined["replaced"].sum())
        raise DataError(
            f"none of the {len(given):,} labelled tasks of {run.ref} is in the task list {tasks} (of the ids there, {others:,} are "
            f"of other statements); the run labelled {run.manifest.tasks}, so give the list that fits with --tasks"
        )
    joined["code"] = joined["code"].astype("string")
    joined["incoherent"] = joined["incoherent"].astype("boolean").fillna(False).astype(bool)
    joined["weight"] = task_weights(joined, weights, unrated=unrated)
    return TASKS.validate(joined)


def task_weights(tasks: pd.DataFrame, weights: Weights, *, unrated: Unrated) -> pd.Series:
    """Weight of each task within its occupation.

    Args:
        tasks: Columns `onet_soc_code, task_type, importance`.
        weights: `importance` (IM), `core` (2 for core, 1 for supplemental or no type) or `equal`.
        unrated: Under `importance`, the weight of a task without a rating: `one` is 1.0; `mean` is the mean rating in its
            occupation, or 1.0 if no task there is rated; `drop` is 0.

    Returns:
        Weights (0 or more), indexed as `tasks`.
    """
    if weights == "equal":
        return pd.Series(1.0, index=tasks.index)
    if weights == "core":
        return pd.Series(np.where(tasks["task_type"] == "Core", _CORE_WEIGHT, 1.0), index=tasks.index)
    rated = tasks["importance"].astype("float64")
    if unrated == "mean":
        rated = rated.fillna(rated.groupby(tasks["onet_soc_code"]).transform("mean"))
    return rated.fillna(0.0 if unrated == "drop" else 1.0)


@dataclass(frozen=True)
class ScoreMap:
    """The linear map from task values to scores, used by tables, intervals, explanations, multiverse and comparisons.

    The score of an occupation is the weighted mean of its labelled tasks; that of a group is the mean of its occupations,
    weighted by the shares of a bridge. Array shapes are given as `tasks`, `occupations` and `groups`.

    Attributes:
        codes: Codes of the groups, in the order of their table.
        occupations: O*NET-SOC codes, sorted.
        group: Group number of each share.
        source: Occupation number of each share.
        share: Shares (above 0); those of a group sum to 1. A group without shares has no score.
        occupation: Occupation number of each task; tasks.
        weight: Weight of each task, 0 without a label; tasks.
    """

    codes: pd.Index
    occupations: pd.Index
    group: Ints
    source: Ints
    share: Floats
    occupation: Ints
    weight: Floats

    @cached_property
    def mass(self) -> Floats:
        """Total weight of the labelled tasks; occupations."""
        return np.bincount(self.occupation, weights=self.weight, minlength=len(self.occupations)).astype("float64")

    @cached_property
    def part(self) -> Floats:
        """Weight of each task in the score of its occupation (0-1); tasks."""
        mass = self.mass[self.occupation]
        return np.divide(self.weight, mass, out=np.zeros_like(self.weight), where=mass > 0)

    @cached_property
    def reached(self) -> npt.NDArray[np.bool_]:
        """Whether a group has a score; groups."""
        return np.bincount(self.group, minlength=len(self.codes)) > 0

    @cached_property
    def shares(self) -> Floats:
        """Shares as a matrix; groups x occupations."""
        matrix = np.zeros((len(self.codes), len(self.occupations)))
        matrix[self.group, self.source] = self.share
        return matrix

    def means(self, values: Floats) -> Floats:
        """Scores of the occupations; occupations. NaN without a labelled task."""
        # Sum all measures in the same order, so that alpha <= beta <= gamma holds exactly.
        products = self.weight * np.where(self.weight > 0, values, 0.0)
        total = np.bincount(self.occupation, weights=products, minlength=len(self.mass))
        return np.divide(total, self.mass, out=np.full(len(self.mass), np.nan), where=self.mass > 0)

    def group_scores(self, means: Floats) -> Floats:
        """Scores of the groups from those of their occupations; groups. NaN where a group has no score."""
        total = np.bincount(self.group, weights=self.share * means[self.source], minlength=len(self.codes))
        return np.where(self.reached, total, np.nan)

    def scores(self, tasks: pd.DataFrame | Floats) -> Floats:
        """Exact scores of the groups in all measures.

        Args:
            tasks: Columns `alpha, beta, gamma`, or an array of them; values of tasks with weight 0 are ignored.

        Returns:
            Measures x groups; NaN where a group has no score or the labels do not give the measure.
        """
        values = tasks[list(MEASURES)].to_numpy(dtype="float64") if isinstance(tasks, pd.DataFrame) else tasks
        return np.stack([self.group_scores(self.means(column)) for column in values.T])

    def draw_scores(self, values: npt.NDArray[np.float32]) -> Floats:
        """Scores of the groups in many draws.

        Args:
            values: Values of all tasks; tasks x draws.

        Returns:
            Groups x draws; 0 for a group without a score.
        """
        order, starts, present = self._task_order
        weighed = values * self.part.astype(np.float32)[:, None]
        weighed = weighed if order is None else weighed[order]
        means = np.zeros((len(self.occupations), values.shape[1]))
        means[present] = np.add.reduceat(weighed, starts, axis=0)
        return self.shares @ means

    @cached_property
    def _task_order(self) -> tuple[Ints | None, Ints, Ints]:
        """Order that sorts tasks by occupation (None if sorted), where each occupation starts, and its number."""
        order = np.argsort(self.occupation, kind="stable")
        present, starts = np.unique(self.occupation[order], return_index=True)
        return None if (np.diff(order) == 1).all() else order, starts, present

    def task_parts(self, code: str) -> Floats:
        """Weight of each task in the score of one group (0-1); tasks.

        Raises:
            KeyError: There is no such group.
        """
        number = self.codes.get_loc(code)
        assert isinstance(number, int)  # codes are unique
        return self.shares[number][self.occupation] * self.part


def score_map(tasks: pd.DataFrame, shares: pd.DataFrame, codes: pd.Index) -> ScoreMap:
    """Build the map from tasks, through the shares of a bridge, to groups.

    Args:
        tasks: Columns `onet_soc_code, labelled, weight`.
        shares: As `Bridge.shares` returns them for `scored_codes(tasks)`.
        codes: Codes of the groups.
    """
    numbers, names = pd.factorize(tasks["onet_soc_code"], sort=True)
    occupations = pd.Index(names, dtype="str", name="onet_soc_code")
    group, source = (
        codes.get_indexer(pd.Index(shares["code"])),
        occupations.get_indexer(pd.Index(shares["onet_soc_code"])),
    )
    inside = (group >= 0) & (source >= 0)
    weight = np.where(tasks["labelled"], tasks["weight"], 0.0).astype("float64")
    share = shares["share"].to_numpy(dtype="float64")
    return ScoreMap(
        codes, occupations, group[inside], source[inside], share[inside], np.asarray(numbers, np.intp), weight
    )


def scored_codes(tasks: pd.DataFrame) -> frozenset[str]:
    """O*NET-SOC codes with a labelled task of non-zero weight, from columns `onet_soc_code, labelled, weight`."""
    return frozenset(tasks["onet_soc_code"][tasks["labelled"] & (tasks["weight"] > 0)].unique())


def with_labels_of(tasks: pd.DataFrame, run: Run, repeats: Repeats, *, by_id: bool) -> pd.DataFrame:
    """The same tasks with the labels of another run.

    Args:
        tasks: As `ScoreTable.task_values`.
        run: The other run.
        repeats: Value of a task that was asked several times.
        by_id: As in `labelled_tasks`.

    Returns:
        The tasks in the same order, with the run's readings, measures and `labelled`; other columns are unchanged.

    Raises:
        DataError: The run labelled none of the tasks.
    """
    coded = coded_tasks(run, repeats)
    labels = [name for name in coded.columns if name not in TASK_KEY]
    joined = _join_labels(tasks.drop(columns=[*labels, "labelled"], errors="ignore"), coded, run, by_id=by_id)
    if not joined["labelled"].any():
        raise DataError(
            f"none of the labelled tasks of {run.ref} is in the task list of the scores; name a run on the same tasks"
        )
    return joined


def _join_labels(tasks: pd.DataFrame, coded: pd.DataFrame, run: Run, *, by_id: bool) -> pd.DataFrame:
    """Join a run's labels to tasks; `labelled` says whether a task has all measures that the run gives."""
    keys, given_keys = pd.MultiIndex.from_frame(tasks[TASK_KEY]), pd.MultiIndex.from_frame(coded[TASK_KEY])
    before = other_statements(tasks, run.own_task_list() or run.manifest.tasks)
    other = replaced(before["similarity"]) & keys.isin(given_keys)
    tasks = tasks.assign(replaced=other, text_labelled=before["text"], similarity=before["similarity"])
    if not by_id:
        coded = coded[~given_keys.isin(keys[other])]
    joined = tasks.merge(coded, how="left", on=TASK_KEY, validate="1:1")
    given = [measure for measure in MEASURES if measure not in run.missing_measures()]
    joined["labelled"] = joined[given].notna().all(axis=1) & bool(given)
    return joined


def occupation_scores(tasks: pd.DataFrame, mapped: ScoreMap) -> pd.DataFrame:
    """Scores by occupation: weighted means over labelled tasks.

    Args:
        tasks: As `labelled_tasks` returns them.
        mapped: A map over them.

    Returns:
        One row per O*NET-SOC code of the list, sorted, schema `OCCUPATIONS`: `alpha, beta, gamma` (0-1; missing without
        a labelled task, or where the tasks have no value), `tasks` (number labelled), `listed` (number of all) and
        `coverage` (labelled share of the task weight, 0-1). Tasks of weight 0 are not counted.
    """
    frame = pd.DataFrame(index=mapped.occupations)
    for measure in MEASURES:
        frame[measure] = mapped.means(tasks[measure].to_numpy(dtype="float64"))
    weight, size = tasks["weight"].to_numpy(dtype="float64"), len(frame)
    frame["tasks"] = np.bincount(mapped.occupation[mapped.weight > 0], minlength=size).astype("int64")
    frame["listed"] = np.bincount(mapped.occupation[weight > 0], minlength=size).astype("int64")
    total = np.bincount(mapped.occupation, weights=weight, minlength=size)
    frame["coverage"] = np.divide(mapped.mass, total, out=np.zeros(size), where=total > 0)
    return OCCUPATIONS.validate(frame)
