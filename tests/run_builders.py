"""Run folders of the tests' own making, for every room that reads runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relabel.labels import Failure, Label
from relabel.manifest import Counts, Manifest, write_run
from relabel.rubric import Rubric, load_rubric
from relabel.run import Run, open_run

MakeRun = Callable[..., Run]

Answers = Mapping[tuple[str, str], Mapping[str, str | bool]]
"""Labels by (occupation, task id) and setting; True and False stand for exposed and not-exposed."""

WHEN = "2026-01-01T00:00:00Z"


def a_label(task: str, setting: str, label: str, sample: int = 0, *, code: str = "11-1011.00", **changes: Any) -> Label:
    values: dict[str, Any] = {
        "task_id": task,
        "onet_soc_code": code,
        "setting": setting,
        "sample": sample,
        "label": label,
        "rationale": f"because of {task}",
        "probability": None,
        "request_key": f"key-{task}-{setting}",
        "model_returned": "m-1",
        "finish_reason": "stop",
        "attempts": 1,
        "prompt_tokens": 1,
        "cached_tokens": 0,
        "completion_tokens": 1,
        "cost_usd": None,
        "latency_s": 0.0,
        "created_at": WHEN,
        "from_store": False,
    }
    return Label(**{**values, **changes})


def a_failure(code: str, task: str, setting: str) -> Failure:
    return Failure(
        task_id=task,
        onet_soc_code=code,
        setting=setting,
        sample=0,
        kind="refusal",
        message="no\nnever",
        attempts=1,
        request_key=f"key-{task}-{setting}",
    )


def a_run(
    folder: Path,
    labels: Sequence[Label],
    failures: Sequence[Failure] = (),
    *,
    rubric: str | Rubric = "exposure",
    **changes: Any,
) -> Run:
    """Write a run folder and open it, so that each test goes the way of a real run."""
    loaded = load_rubric(rubric) if isinstance(rubric, str) else rubric
    values: dict[str, Any] = {
        "status": "incomplete" if failures else "complete",
        "package_version": "0",
        "model": "m",
        "rubric": loaded,
        "rubric_sha256": loaded.sha256,
        "tasks": "tasks.csv",
        "settings": tuple(loaded.settings),
        "counts": Counts(asked=len(labels) + len(failures), fresh=len(labels), failed=len(failures)),
        "ended_at": WHEN,
    }
    write_run(folder, Manifest.model_validate({**values, **changes}), labels, failures)
    return open_run(str(folder))


def answered(folder: Path, answers: Answers, *, failed: Sequence[tuple[str, str, str]] = (), **changes: Any) -> Run:
    """A run from what was answered, and what was not."""
    words = {True: "exposed", False: "not-exposed"}
    labels = [
        a_label(task, setting, words[said] if isinstance(said, bool) else said, code=code)
        for (code, task), settings in answers.items()
        for setting, said in settings.items()
    ]
    return a_run(folder, labels, [a_failure(*gap) for gap in failed], **changes)


def one_sided_rubric(folder: Path, *, without: str) -> Rubric:
    """The 2023 rubric without one of its codes: what was that code is E0."""
    codes = [code for code in ("E1", "E2", "E0") if code != without]
    lines = [
        "id: one-sided",
        "version: 1",
        "title: One side",
        "unit: task",
        "prompt: task",
        "definition: It is.",
        "labels:",
        *(f"  {code}: meaning" for code in codes),
        "settings:",
        "  three-way: {question: Which one, scope: All.}",
        "rationale: {max_words: 10}",
        "codes:",
        *(f"  {code}: {{three-way: {code}}}" for code in codes),
        "measures:",
        "  alpha: {E0: 0, E1: 1, E2: 0}",
        "  beta: {E0: 0, E1: 1, E2: 0.5}",
        "  gamma: {E0: 0, E1: 1, E2: 1}",
    ]
    path = folder / "one-sided.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_rubric(str(path))
