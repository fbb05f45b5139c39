"""Scores as a linear map of task values, for all that scores many variants of one table.

A score is a weighted mean over a bridge of weighted means over tasks, so with labels in place it is one sparse matrix of
groups by tasks: each row sums to 1, or is empty where no labelled task leads to the group. A thousand draws of the task
values are then one product of a sparse matrix with a dense one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from relabel.errors import DataError
from relabel.rubric import MEASURES
from relabel.run import Run
from relabel.scoring.bridges import Bridge
from relabel.scoring.measures import coded_tasks
from relabel.scoring.options import Repeats
from relabel.scoring.table import ScoreTable

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScoreMap:
    """The map from task values to the scores of groups.

    Attributes:
        codes: Codes of the groups, in the order of the table.
        matrix: Groups by tasks, in the order of `ScoreTable.task_values`: the part of a group's score that each task
            stands for. A row sums to 1, or to 0 where the group has no score.
    """

    codes: pd.Index
    matrix: sparse.csr_array

    @property
    def reached(self) -> npt.NDArray[np.bool_]:
        """Whether a group has a score; groups."""
        return np.diff(self.matrix.indptr) > 0

    def scores(self, values: Floats) -> Floats:
        """Scores of the groups.

        Args:
            values: Values (0-1) of the tasks; tasks, or tasks by draws. Those of unlabelled tasks do not count.

        Returns:
            Groups, or groups by draws; missing where a group has no score.
        """
        means = self.matrix @ np.nan_to_num(values)
        means[~self.reached] = np.nan
        return means

    def row(self, code: str) -> Floats:
        """The part of one group's score that each task stands for; tasks.

        Raises:
            KeyError: There is no such group.
        """
        number = self.codes.get_loc(code)
        assert isinstance(number, int)  # codes are unique
        return self.matrix[[number], :].toarray()[0]


def score_map(table: ScoreTable) -> ScoreMap:
    """The map behind a score table."""
    return map_over(table.task_values, table.shares, pd.Index(table.frame["code"]))


def full_map(table: ScoreTable) -> ScoreMap:
    """The map that a score table would have, were all tasks of its list labelled."""
    return map_of(table.task_values.assign(labelled=True), table.bridge, pd.Index(table.frame["code"]))


def map_of(tasks: pd.DataFrame, bridge: Bridge, codes: pd.Index) -> ScoreMap:
    """The map that other labels, weights or another bridge lead to.

    Args:
        tasks: Columns `onet_soc_code, labelled, weight`.
        bridge: The bridge; only what is labelled counts on its way, as in a score table.
        codes: Codes of the groups.
    """
    return map_over(tasks, bridge.shares(counted(tasks)), codes)


def counted(tasks: pd.DataFrame) -> frozenset[str]:
    """O*NET-SOC codes with a labelled task of some weight, of columns `onet_soc_code, labelled, weight`."""
    return frozenset(tasks["onet_soc_code"][tasks["labelled"] & (tasks["weight"] > 0)])


def map_over(tasks: pd.DataFrame, shares: pd.DataFrame, codes: pd.Index) -> ScoreMap:
    """The map over tasks whose occupations stand for groups by known shares.

    Args:
        tasks: As for `map_of`.
        shares: As `Bridge.shares` returns them, for the occupations with a labelled task of some weight.
        codes: Codes of the groups.
    """
    numbers, occupations = pd.factorize(tasks["onet_soc_code"])
    inside = task_parts(
        numbers,
        tasks["weight"].to_numpy(dtype="float64"),
        tasks["labelled"].to_numpy(dtype=bool),
        len(occupations),
    )
    return ScoreMap(codes, share_matrix(shares, codes, pd.Index(occupations)) @ inside)


def relabelled(tasks: pd.DataFrame, run: Run, repeats: Repeats) -> pd.DataFrame:
    """The same tasks with the labels of another run.

    Args:
        tasks: As `ScoreTable.task_values`.
        run: The other run.
        repeats: Value of a task that was asked several times.

    Returns:
        The tasks in the same order, with the run's readings, measures and `labelled`; other columns stay.

    Raises:
        DataError: The run labelled none of the tasks.
    """
    coded = coded_tasks(run, repeats)
    labels = [name for name in coded.columns if name not in ("onet_soc_code", "task_id")]
    bare = tasks.drop(columns=[*labels, "labelled"], errors="ignore")
    joined = bare.merge(coded, how="left", on=["onet_soc_code", "task_id"], validate="1:1")
    lacks = run.missing_measures()
    given = [measure for measure in MEASURES if measure not in lacks]
    joined["labelled"] = joined[given].notna().all(axis=1) & bool(given)
    if not joined["labelled"].any():
        raise DataError(
            f"none of the labelled tasks of {run.ref} is in the task list of the scores; name a run on the same tasks"
        )
    return joined


def task_scores(mapped: ScoreMap, tasks: pd.DataFrame) -> Floats:
    """Scores of the groups in all measures.

    Args:
        mapped: A map over these tasks.
        tasks: Columns `alpha, beta, gamma`.

    Returns:
        Measures by groups; missing where a group has no score or the labels do not give the measure.
    """
    values = tasks[list(MEASURES)].to_numpy(dtype="float64")
    scores = mapped.scores(values).T
    scores[np.isnan(values).all(axis=0)] = np.nan
    return scores


def task_parts(
    occupation: npt.NDArray[np.integer], weight: Floats, labelled: npt.NDArray[np.bool_], occupations: int
) -> sparse.csr_array:
    """The part of each occupation's score that each of its labelled tasks stands for.

    Args:
        occupation: Number of each task's occupation; tasks.
        weight: Weights of the tasks; tasks.
        labelled: Whether a task counts; tasks.
        occupations: Number of occupations.

    Returns:
        Occupations by tasks; rows sum to 1, or are empty.
    """
    counts = np.flatnonzero(labelled & (weight > 0))
    of, mass = occupation[counts], weight[counts]
    total = np.bincount(of, weights=mass, minlength=occupations)
    return sparse.csr_array((mass / total[of], (of, counts)), shape=(occupations, len(weight)))


def share_matrix(shares: pd.DataFrame, codes: pd.Index, occupations: pd.Index) -> sparse.csr_array:
    """Shares of a bridge as a matrix.

    Args:
        shares: As `Bridge.shares` returns them.
        codes: Codes of the groups.
        occupations: O*NET-SOC codes.

    Returns:
        Groups by occupations.
    """
    at = (codes.get_indexer(pd.Index(shares["code"])), occupations.get_indexer(pd.Index(shares["onet_soc_code"])))
    return sparse.csr_array((shares["share"].to_numpy(dtype="float64"), at), shape=(len(codes), len(occupations)))


def exact_scores(table: ScoreTable) -> pd.DataFrame:
    """The scores of a table before any rounding.

    Returns:
        Columns `alpha, beta, gamma` (0-1) by code; missing where a group has no score or the run cannot give the measure.
    """
    mapped = score_map(table)
    return pd.DataFrame(task_scores(mapped, table.task_values).T, index=mapped.codes, columns=list(MEASURES))
