from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from browser import browser, page
from relabel.run import Run
from run_builders import Answers, MakeRun, answered

__all__ = ["browser", "page"]  # fixtures of tests that open pages

CODE = "11-1011.00"


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run(labels, ...)` with labels by (occupation, task id) and setting."""

    def make(labels: Answers, *, name: str = "run", model: str = "model-x", **more: Any) -> Run:
        return answered(tmp_path / name, labels, model=model, **more)

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
