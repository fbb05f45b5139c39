from __future__ import annotations

from pathlib import Path

import pytest

from relabel.run import Run, open_run
from relabel.scoring.files import records
from run_workshop import MakeRun, a_label, a_run


@pytest.fixture
def sample_run(tmp_path: Path) -> MakeRun:
    """A run folder with the sample's gold as its answers, keys and rationales."""

    def make(*, status: str = "complete", without: tuple[str, ...] = (), folder: str = "made-run") -> Run:
        gold = open_run("sample")
        labels = [
            a_label(row["task_id"], row["setting"], row["label"], code=row["onet_soc_code"])
            for row in records(gold.labels)
            if row["onet_soc_code"] not in without
        ]
        parameters = {"sample": 60, "seed": 7, "secret": "no business of a reader"}
        return a_run(
            tmp_path / folder,
            labels,
            status=status,
            tasks="sample",
            prompt_sha256="0" * 64,
            parameters=parameters,
        )

    return make
