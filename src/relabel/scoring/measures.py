"""From labels to occupations: the value of each task, the weight of each task, and their means by O*NET-SOC code."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pandera.pandas as pa

from relabel.errors import DataError, UsageError
from relabel.label_table import coded, measures_of
from relabel.rubric import MEASURES
from relabel.run import Run
from relabel.scoring.options import SAMPLE, Repeats, Taxonomy, Unrated, Weights
from relabel.sources import onet
from relabel.task import TASK_KEY, is_onet_release, task_table

_RATED = "onet-30.2"
_CORE = 2.0
_ROUNDING = 1e-12

TASKS = pa.DataFrameSchema(
    {
        "task_id": pa.Column("str"),
        "onet_soc_code": pa.Column("str"),
        "importance": pa.Column("float64", pa.Check.in_range(1, 5), nullable=True),
        "code": pa.Column("string", pa.Check.isin(["E0", "E1", "E2"]), nullable=True),
        "labelled": pa.Column("bool"),
        **{measure: pa.Column("float64", pa.Check.in_range(0, 1), nullable=True) for measure in MEASURES},
        "weight": pa.Column("float64", pa.Check.ge(0)),
    },
    unique=["onet_soc_code", "task_id"],
    strict=False,
)
"""A task list joined with labels and weights."""

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
"""Scores by O*NET-SOC code."""


def default_tasks(run: Run, weights: Weights, taxonomy: Taxonomy) -> str:
    """The task list that a run is scored by when none is named.

    A run is scored by the list that it was made from. The labels of 2023 are an exception: by their own list under core
    weights and by O*NET-SOC code, which is how the paper did it, else by O*NET 30.2, for that list has no importance ratings
    and its tasks are not those of today. Where the run's list has no ratings but weights need them, or its file is gone,
    it is O*NET 30.2 as well.
    """
    own = run.own_task_list()
    if own == "eloundou-2023":
        return own if weights == "core" and taxonomy == "onet-soc" else _RATED
    if own is None or own == SAMPLE:
        return own or _RATED
    lacks = {"importance": "importance", "core": "task_type"}.get(weights)
    return _RATED if lacks is not None and task_table(own)[lacks].isna().all() else own


def coded_tasks(run: Run, repeats: Repeats = "mean") -> pd.DataFrame:
    """The tasks of a run that have all labels that the run gives, with their codes, readings and measures.

    With one reading alone, the half that is exposed could be told and the other half could not, which would tilt every
    mean; such tasks are left out, unless the whole run has one reading.

    Returns:
        The columns of `Run.coded` (majority over samples), and `alpha, beta, gamma`: under `mean` the means over samples,
        which are unbiased where a majority pulls ties to the less exposed label. Those of `Run.missing_measures` are missing.
    """
    table = run.coded()
    table = table.join(measures_of(run.rubric, table))[_whole(run, table)].reset_index(drop=True)
    if repeats == "majority" or run.answers()["sample"].nunique() < 2:
        return table
    samples = by_sample(run)
    means = samples[_whole(run, samples)].groupby(TASK_KEY)[list(MEASURES)].mean()
    keyed = table.set_index(TASK_KEY)
    # A task none of whose samples has both readings keeps the values of its majority.
    keyed.update(means)
    return keyed.reset_index()[list(table.columns)]


def by_sample(run: Run) -> pd.DataFrame:
    """Each sample of each task by itself: the columns of `Run.coded`, the measures, and `sample`."""
    # Each sample stands as a task of its own, named apart.
    answers = run.answers()
    apart = answers["task_id"] + "\n" + answers["sample"].astype("str")
    table = coded(run.rubric, answers.assign(task_id=apart, sample=0))
    ids = table["task_id"].str.rpartition("\n")
    table = table.assign(task_id=ids[0], sample=ids[2].astype("int64"))
    return table.join(measures_of(run.rubric, table))


def half_labelled(run: Run, tasks: pd.DataFrame) -> int:
    """Number of tasks of a list that have some of the run's labels but not all, and so count as unlabelled.

    Args:
        run: The run.
        tasks: Columns `onet_soc_code, task_id`.
    """
    table = run.coded()
    half = table[~_whole(run, table)]
    return len(half.merge(tasks[["onet_soc_code", "task_id"]], on=["onet_soc_code", "task_id"]))


def changed_tasks(tasks: pd.DataFrame, labelled_list: str) -> dict[str, int | None]:
    """How a task list differs from the one that a run labelled.

    Args:
        tasks: Columns `onet_soc_code, task_id, text, labelled`.
        labelled_list: The list that the run labelled, as for `relabel.task.task_table`.

    Returns:
        `tasks_new` and `tasks_reworded` (labelled ones), None where the run's list cannot be read any more.
    """
    try:
        before = task_table(labelled_list)
    except DataError:
        return {"tasks_new": None, "tasks_reworded": None}
    keys = ["onet_soc_code", "task_id"]
    both = tasks[[*keys, "text", "labelled"]].merge(before[[*keys, "text"]], how="left", on=keys, suffixes=("", "_old"))
    known = both["text_old"].notna()
    same = both["text"].str.split().str.join(" ") == both["text_old"].str.split().str.join(" ")
    return {"tasks_new": int((~known).sum()), "tasks_reworded": int((known & ~same & both["labelled"]).sum())}


def emerging_tasks(tasks: str) -> int | None:
    """Number of emerging tasks of a release of O*NET, which have no id and no rating; None where it names none.

    Args:
        tasks: Name of a task list.
    """
    try:
        return len(onet.read_emerging_tasks(tasks)) if is_onet_release(tasks) else None
    except DataError:
        return None


def _whole(run: Run, table: pd.DataFrame) -> pd.Series:
    lacks = run.missing_measures()
    readings = [column for column, measure in (("strict", "alpha"), ("with_tools", "gamma")) if measure not in lacks]
    return table[readings].notna().all(axis=1) & bool(readings)


def labelled_tasks(
    run: Run, tasks: str, weights: Weights, *, unrated: Unrated, repeats: Repeats = "mean"
) -> pd.DataFrame:
    """Join a run's labels to a task list by occupation code and task id.

    A task counts as labelled once each setting that the run labelled has a label, see `coded_tasks`.

    Args:
        run: The run.
        tasks: A task list, as for `relabel.task.task_table`; it gives types and importance.
        weights: How tasks weigh within their occupation.
        unrated: Weight of a task without a rating, under `importance`.
        repeats: Value of a task that was asked several times.

    Returns:
        One row a task of the list, schema `TASKS`: the columns of the list, `code, strict, with_tools, incoherent`,
        `labelled`, `alpha, beta, gamma` (0-1; missing where unlabelled, and throughout where the run cannot give the
        measure) and `weight` (above 0; 0 for a task that is dropped because it is unrated).

    Raises:
        UsageError: The list has no importance ratings, or the sample is mixed with other lists.
        DataError: The run has no labels to score, or none of them belongs to a task of the list.
    """
    _check_choice(run, tasks)
    lacks = run.missing_measures()
    if len(lacks) == len(MEASURES):
        raise DataError(f"the run {run.ref} gives no measure to score: {next(iter(lacks.values()))}")
    listed = task_table(tasks).reset_index(drop=True)
    if weights == "importance" and listed["importance"].isna().all():
        raise UsageError(
            f"the task list {tasks} has no importance ratings; choose --weights core or equal, or --tasks onet-30.2"
        )
    if weights == "core" and listed["task_type"].isna().all():
        raise UsageError(
            f"the task list {tasks} has no task types (a column task_type with Core or Supplemental); choose --weights equal or "
            "importance, or --tasks onet-30.2"
        )
    given = coded_tasks(run, repeats)
    joined = listed.merge(given, how="left", on=["onet_soc_code", "task_id"], validate="1:1")
    joined["labelled"] = joined[[m for m in MEASURES if m not in lacks]].notna().all(axis=1)
    if not joined["labelled"].any():
        raise DataError(
            f"none of the {len(given):,} labelled tasks of {run.ref} is in the task list {tasks}; the run labelled "
            f"{run.manifest.tasks}, so give the list that fits with --tasks"
        )
    joined["code"] = joined["code"].astype("string")
    joined["incoherent"] = joined["incoherent"].astype("boolean").fillna(False).astype(bool)
    joined["weight"] = task_weights(joined, weights, unrated=unrated)
    return TASKS.validate(joined)


def _check_choice(run: Run, tasks: str) -> None:
    if (run.manifest.tasks == SAMPLE) != (tasks == SAMPLE):
        raise UsageError(
            f"the run {run.ref} labelled the task list {run.manifest.tasks} and cannot be scored by {tasks}: the "
            "sample goes with the sample only; leave --tasks out"
        )


def task_weights(tasks: pd.DataFrame, weights: Weights, *, unrated: Unrated) -> pd.Series:
    """Weight of each task within its occupation.

    Args:
        tasks: Columns `onet_soc_code, task_type, importance`.
        weights: `importance` (IM), `core` (2 for core, 1 for supplemental or no type) or `equal`.
        unrated: Under `importance`, the weight of a task without a rating: `one` is 1.0; `mean` is the mean rating of
            its occupation's rated tasks, and 1.0 where none of them is rated; `drop` is 0.

    Returns:
        Weights of 0 or more, on the index of `tasks`.
    """
    if weights == "equal":
        return pd.Series(1.0, index=tasks.index)
    if weights == "core":
        return pd.Series(np.where(tasks["task_type"] == "Core", _CORE, 1.0), index=tasks.index)
    rated = tasks["importance"].astype("float64")
    if unrated == "mean":
        rated = rated.fillna(rated.groupby(tasks["onet_soc_code"]).transform("mean"))
    return rated.fillna(0.0 if unrated == "drop" else 1.0)


def occupation_scores(tasks: pd.DataFrame) -> pd.DataFrame:
    """Weighted means by occupation over its labelled tasks.

    Args:
        tasks: As `labelled_tasks` returns them.

    Returns:
        One row an O*NET-SOC code of the list, sorted, schema `OCCUPATIONS`: `alpha, beta, gamma` (0-1; missing without
        a labelled task, or where the tasks have no value), `tasks` (labelled), `listed` (all) and `coverage` (labelled
        share of the task weight, 0-1). Tasks of weight 0 count nowhere.
    """
    codes, names = pd.factorize(tasks["onet_soc_code"], sort=True)
    weight = tasks["weight"].to_numpy()
    labelled = tasks["labelled"].to_numpy() & (weight > 0)
    n = len(names)
    # Plain sums in one order for all measures: alpha <= beta <= gamma then holds to the last bit.
    total = np.bincount(codes, weights=weight, minlength=n)
    got = np.bincount(codes[labelled], weights=weight[labelled], minlength=n)
    frame = pd.DataFrame(index=pd.Index(names, name="onet_soc_code", dtype="str"))
    for measure in MEASURES:
        value = tasks[measure].to_numpy()[labelled]
        summed = np.bincount(codes[labelled], weights=weight[labelled] * value, minlength=n)
        frame[measure] = np.divide(summed, got, out=np.full(n, np.nan), where=got > 0)
    frame["tasks"] = np.bincount(codes[labelled], minlength=n).astype("int64")
    frame["listed"] = np.bincount(codes[weight > 0], minlength=n).astype("int64")
    frame["coverage"] = np.divide(got, total, out=np.zeros(n), where=total > 0)
    return OCCUPATIONS.validate(frame)
