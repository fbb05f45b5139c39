"""Runs and task files of the tests' own making."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from relabel.label import Label
from relabel.rubric import load_rubric
from relabel.run import Counts, Manifest, Run, open_run, write_run
from relabel.scoring.table import ScoreTable, records

Scored = Callable[..., ScoreTable]
TaskFile = Callable[[Sequence[Mapping[str, object]]], str]
MakeRun = Callable[..., Run]


def by_code(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Rows of a score table as plain values, by code."""
    return {row["code"]: row for row in records(frame)}


def made_run(
    folder: Path,
    readings: Mapping[tuple[str, str], Mapping[str, bool]],
    *,
    tasks: str = "tasks.csv",
    status: str = "complete",
    settings: Sequence[str] = ("strict", "with-tools"),
) -> Run:
    """A run from (occupation, task) -> setting -> exposed."""
    labels = [
        Label(
            task_id=task_id,
            onet_soc_code=code,
            setting=setting,
            sample=0,
            label="exposed" if exposed else "not-exposed",
            rationale="because",
            probability=None,
            request_key=f"key-{code}-{task_id}-{setting}",
            model_returned="m-1",
            finish_reason="stop",
            attempts=1,
            prompt_tokens=1,
            cached_tokens=0,
            completion_tokens=1,
            cost_usd=None,
            latency_s=0.0,
            created_at="2026-01-01T00:00:00Z",
            from_store=False,
        )
        for (code, task_id), answers in readings.items()
        for setting, exposed in answers.items()
    ]
    rubric = load_rubric("exposure")
    manifest = Manifest.model_validate(
        {
            "status": status,
            "package_version": "0",
            "model": "m",
            "rubric": rubric,
            "rubric_sha256": rubric.sha256,
            "tasks": tasks,
            "settings": tuple(settings),
            "counts": Counts(asked=len(labels), fresh=len(labels)),
            "ended_at": "2026-01-01T00:00:00Z",
        }
    )
    write_run(folder, manifest, labels, [])
    return open_run(str(folder))
