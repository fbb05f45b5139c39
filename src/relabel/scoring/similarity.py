"""How alike the work of two groups of occupations is, by the detailed work activities of their tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


def activity_similarity(
    groups: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]], activities: pd.DataFrame
) -> pd.DataFrame:
    """Cosine between groups of occupations, by the activities that their tasks ask for.

    An occupation is a vector of length 1 over O*NET's detailed work activities: how many of its tasks ask for each, times
    the logarithm of how rare the activity is among occupations, so that what nearly all do tells little. A group is the
    mean of its occupations.

    Args:
        groups: O*NET-SOC codes by name; the rows.
        others: O*NET-SOC codes by name; the columns.
        activities: Columns `onet_soc_code, dwa_id`, one row a task and activity.

    Returns:
        Cosines, 0-1; 0 for a group without activities.
    """
    counts = activities.groupby(["onet_soc_code", "dwa_id"]).size().rename("count").reset_index()
    codes, code_names = pd.factorize(counts["onet_soc_code"], sort=True)
    kinds, _ = pd.factorize(counts["dwa_id"], sort=True)
    matrix = np.zeros((len(code_names), int(kinds.max(initial=-1)) + 1))
    matrix[codes, kinds] = counts["count"].to_numpy(dtype="float64")
    rarity = np.log(max(len(code_names), 1) / np.maximum((matrix > 0).sum(axis=0), 1))
    vectors = _unit(matrix * rarity)
    place = {str(code): row for row, code in enumerate(code_names)}

    def means(named: Mapping[str, Sequence[str]]) -> np.ndarray:
        rows = [[place[code] for code in codes if code in place] for codes in named.values()]
        found = [vectors[row].mean(axis=0) if row else np.zeros(matrix.shape[1]) for row in rows]
        return _unit(np.array(found).reshape(len(named), matrix.shape[1]))

    cosine = np.clip(means(groups) @ means(others).T, 0.0, 1.0)
    return pd.DataFrame(cosine, index=list(groups), columns=list(others))


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
