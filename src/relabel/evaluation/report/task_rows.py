"""Rows of tasks in a report: the statement, who labelled it how, and in which words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from relabel.evaluation.comparison.document import CompareDocument, Flip
from relabel.evaluation.document import SettingName
from relabel.evaluation.report.page import SHOWN
from relabel.run import Run
from relabel.task import TASK_KEY


class Known:
    """What is known of tasks by code and id: their statements and their occupations' titles."""

    def __init__(self, details: pd.DataFrame | None) -> None:
        self._tasks: dict[tuple[str, str], str] = {}
        self._titles: dict[str, str] = {}
        if details is not None:
            keys = zip(details["onet_soc_code"], details["task_id"], strict=True)
            self._tasks = dict(zip(keys, details["text"], strict=True))
            self._titles = dict(zip(details["onet_soc_code"], details["title"], strict=True))

    def task(self, code: str, task_id: str) -> dict[str, str]:
        """Statement (`text`) and occupation (`title`) of a task, empty where unknown."""
        return {"text": self._tasks.get((code, task_id), ""), "title": self.title(code)}

    def title(self, code: str) -> str:
        """Title of an occupation, empty where unknown."""
        return self._titles.get(code, "")


def rationales(
    runs: Mapping[str, Run], keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """What each run said about some tasks: by task, who in which setting, and the words."""
    wanted = pd.MultiIndex.from_tuples(list(keys), names=TASK_KEY)
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, run in runs.items():
        if "rationale" not in run.labels or not len(wanted):
            continue
        labels = run.labels[run.labels["sample"] == 0].set_index(TASK_KEY)
        said = labels.loc[labels.index.isin(wanted), ["setting", "rationale"]].dropna()
        for (code, task), setting, words in zip(said.index, said["setting"], said["rationale"], strict=True):
            who = name if len(run.rubric.settings) == 1 else f"{name}, {setting}"
            found.setdefault((str(code), str(task)), []).append((who, str(words)))
    return found


def flip_rows(
    flips: Sequence[Flip], document: CompareDocument, details: pd.DataFrame | None, runs: Mapping[str, Run]
) -> dict[str, Any] | None:
    """Rows of the first flips of a comparison, and the measure that they move; None where there are none.

    Args:
        flips: The flips, those that move most first.
        document: The comparison.
        details: Task table for statements and titles; without it these are left out.
        runs: The runs by the names under which their rationales are shown.
    """
    if not flips or document.main_measure is None:
        return None
    top, known = flips[:SHOWN], Known(details)
    said = rationales(runs, ((flip.onet_soc_code, flip.task_id) for flip in top))
    rows = [
        {
            "task_id": flip.task_id,
            "onet_soc_code": flip.onet_soc_code,
            "first": _labels(flip.first),
            "second": _labels(flip.second),
            "effect": flip.effect,
            "rationales": said.get((flip.onet_soc_code, flip.task_id), []),
            **known.task(flip.onet_soc_code, flip.task_id),
        }
        for flip in top
    ]
    return {"rows": rows, "measure": document.main_measure}


def _labels(said: Mapping[SettingName, str | None]) -> str:
    if said.get("three-way"):
        return str(said["three-way"])
    return ", ".join(f"{setting}: {label or '–'}" for setting, label in said.items())
