from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from relabel.label import Label
from relabel.run import Manifest, Run, open_run, write_run
from relabel.scoring.table import records

MakeSampleRun = Callable[..., Run]


@pytest.fixture
def sample_run(tmp_path: Path) -> MakeSampleRun:
    """A run folder with the sample's gold as its answers, keys and rationales."""

    def make(*, status: str = "complete", without: tuple[str, ...] = (), folder: str = "made-run") -> Run:
        gold = open_run("sample")
        labels = [
            Label(
                task_id=row["task_id"],
                onet_soc_code=row["onet_soc_code"],
                setting=row["setting"],
                sample=0,
                label=row["label"],
                rationale=f"because of {row['task_id']}",
                probability=None,
                request_key=f"key-{row['task_id']}-{row['setting']}",
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
            for row in records(gold.labels)
            if row["onet_soc_code"] not in without
        ]
        manifest = gold.manifest.model_dump() | {
            "status": status,
            "model": "m",
            "prompt_sha256": "0" * 64,
            "parameters": {"sample": 60, "seed": 7, "secret": "no business of a reader"},
            "ended_at": "2026-01-01T00:00:00Z",
        }
        write_run(tmp_path / folder, Manifest.model_validate(manifest), labels, [])
        return open_run(str(tmp_path / folder))

    return make
