"""The page of one occupation as data: its score, the O*NET codes and tasks behind it, and the answers behind those."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from relabel.run import Run
from relabel.scoring.table import ScoreTable, records

_TASK = ["task_id", "onet_soc_code", "title", "text", "task_type", "importance", "weight", "code"]
_ANSWER = ["setting", "sample", "label", "rationale", "request_key", "model_returned"]
_READING = {True: "exposed", False: "not-exposed"}
READINGS = ("strict", "with_tools")
"""The two readings of a task's code."""

TaskKey = tuple[str, str]


def answers_by_task(run: Run) -> dict[TaskKey, list[dict[str, Any]]]:
    """The run's labels with what they can be traced by, by O*NET-SOC code and task id.

    Returns:
        For each task its labels in the order of settings and samples: `setting, sample, label, rationale, request_key,
        model_returned`; what the run does not have is None.
    """
    order = {setting: rank for rank, setting in enumerate(run.rubric.settings)}
    labels = run.labels.assign(rank=run.labels["setting"].map(order)).sort_values(
        ["onet_soc_code", "task_id", "rank", "sample"], kind="stable"
    )
    found: dict[TaskKey, list[dict[str, Any]]] = defaultdict(list)
    for row in records(labels[["onet_soc_code", "task_id", *_ANSWER]]):
        found[row.pop("onet_soc_code"), row.pop("task_id")].append(row)
    return dict(found)


def task_frame(table: ScoreTable, answers: Mapping[TaskKey, list[dict[str, Any]]]) -> pd.DataFrame:
    """All tasks of the list with their codes and readings, sorted by O*NET-SOC code and place in the list.

    Args:
        table: A score table.
        answers: As `answers_by_task` returns them.

    Returns:
        Columns `task_id, onet_soc_code, title, text, task_type, importance, weight, code, strict, with_tools,
        incoherent, request_keys, note`; readings are `exposed`, `not-exposed`, or missing where unlabelled;
        `request_keys` holds the keys of the answers, separated by spaces, in the order of settings and samples.
    """
    frame = table.task_values[_TASK].copy()
    frame["code"] = frame["code"].astype("object").where(frame["code"].notna(), None).astype("str")
    for reading in READINGS:
        frame[reading] = table.task_values[reading].map(_READING).astype("str")
    frame["incoherent"] = table.task_values["incoherent"].astype(bool)
    keys = zip(frame["onet_soc_code"], frame["task_id"], strict=True)
    traced = [" ".join(a["request_key"] for a in answers.get(key, ()) if a["request_key"]) or None for key in keys]
    frame["request_keys"] = pd.Series(traced, index=frame.index, dtype="str")
    frame["note"] = pd.Series(table.note, index=frame.index, dtype="str")
    return frame.sort_values("onet_soc_code", kind="stable", ignore_index=True)


def occupation_pages(
    table: ScoreTable, tasks: pd.DataFrame, answers: Mapping[TaskKey, list[dict[str, Any]]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """One page for each code of the table, unscored ones included.

    Args:
        table: A score table.
        tasks: As `task_frame` returns them.
        answers: As `answers_by_task` returns them.

    Yields:
        A code, and its page as plain values: `score` (row of the table), `onet` (O*NET codes with the share of the
        score that each stands for, largest first), `tasks` (each with its share of the score, its code and readings,
        and its answers), `counts`.
    """
    by_code: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for task in records(tasks.drop(columns=["title", "request_keys", "note"])):
        by_code[task["onet_soc_code"]].append(task)
    behind: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in records(table.shares):
        behind[row["code"]].append((row["onet_soc_code"], row["share"]))
    occupations = {row["onet_soc_code"]: row for row in records(table.occupations.reset_index())}
    about = {key: value for key, value in table.describe().items() if key not in {"counts", "sources"}}
    for score in records(table.frame):
        parts = sorted(behind.get(score["code"], []), key=lambda part: (-part[1], part[0]))
        listed = [_task(task, share, by_code[code], answers) for code, share in parts for task in by_code[code]]
        yield (
            score["code"],
            about
            | {
                "code": score["code"],
                "title": score["title"],
                "score": score,
                "onet": [
                    occupations[code] | {"title": table.occupation_titles.get(code), "share": share}
                    for code, share in parts
                ],
                "tasks": listed,
                "counts": _counts(listed),
            },
        )


def _task(
    task: dict[str, Any],
    share: float,
    neighbours: list[dict[str, Any]],
    answers: Mapping[TaskKey, list[dict[str, Any]]],
) -> dict[str, Any]:
    """A task with its part of the group's score: the occupation's share times the task's weight among labelled ones."""
    part = 0.0
    if task["code"] is not None:
        part = share * task["weight"] / sum(other["weight"] for other in neighbours if other["code"] is not None)
    return task | {"share": part, "answers": answers.get((task["onet_soc_code"], task["task_id"]), [])}


def _counts(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    labelled = [task for task in tasks if task["code"] is not None]
    counts: dict[str, Any] = {
        "tasks": len(tasks),
        "labelled": len(labelled),
        "incoherent": sum(task["incoherent"] for task in labelled),
        "codes": {code: sum(task["code"] == code for task in labelled) for code in ("E0", "E1", "E2")},
    }
    for reading in READINGS:
        exposed = sum(task[reading] == "exposed" for task in labelled)
        counts[reading] = {"exposed": exposed, "of": len(labelled), "text": f"{exposed} of {len(labelled)}"}
    return counts
