from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from relabel.label import Failure, Label
from relabel.rubric import load_rubric
from relabel.run import Counts, Manifest, Run, open_run, write_run

MakeRun = Callable[..., Run]
"""`make_run(labels, ...)` with labels by (occupation, task id) and setting."""

CODE = "11-1011.00"


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run folder and open it, so that each test goes the way of a real run."""

    def make(
        labels: Mapping[tuple[str, str], Mapping[str, str]],
        *,
        rubric: str = "exposure",
        settings: Sequence[str] | None = None,
        failed: Sequence[tuple[str, str, str]] = (),
        model: str = "model-x",
        tasks: str = "tasks.csv",
        name: str = "run",
    ) -> Run:
        loaded = load_rubric(rubric)
        rows = [
            Label(
                task_id=task,
                onet_soc_code=code,
                setting=setting,
                sample=0,
                label=label,
                rationale="because",
                probability=None,
                request_key=f"{code}-{task}-{setting}",
                model_returned=model,
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
            for (code, task), said in labels.items()
            for setting, label in said.items()
        ]
        failures = [
            Failure(
                task_id=task,
                onet_soc_code=code,
                setting=setting,
                sample=0,
                kind="refusal",
                message="no",
                attempts=1,
                request_key=f"{code}-{task}-{setting}",
            )
            for code, task, setting in failed
        ]
        manifest = Manifest(
            status="incomplete" if failures else "complete",
            package_version="0",
            model=model,
            rubric=loaded,
            rubric_sha256=loaded.sha256,
            tasks=tasks,
            settings=tuple(settings or loaded.settings),
            counts=Counts(asked=len(rows) + len(failures), fresh=len(rows), failed=len(failures)),
        )
        write_run(tmp_path / name, manifest, rows, failures)
        return open_run(str(tmp_path / name))

    return make


@pytest.fixture
def coded_run(make_run: MakeRun) -> MakeRun:
    """`coded_run("E0 E1 E2")`: a run of the one-question rubric, tasks 1, 2, ... of one occupation."""

    def make(codes: str, **more: object) -> Run:
        labels = {(CODE, str(i)): {"three-way": code} for i, code in enumerate(codes.split(), 1)}
        return make_run(labels, rubric="eloundou", **more)

    return make


@pytest.fixture
def write_gold(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "gold.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
