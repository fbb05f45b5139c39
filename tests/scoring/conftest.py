from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import pandas as pd
import pytest
from score_builders import BoundsOf, Scored, TaskFile

from relabel.run import open_run
from relabel.scoring.options import Links, Method, Taxonomy, Unrated, Weights
from relabel.scoring.table import ScoreTable, score_table
from relabel.scoring.uncertainty import with_intervals
from relabel.sources import ons
from run_builders import MakeRun, answered


@pytest.fixture(autouse=True)
def _sheets_are_read_once(_own_home: None, shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been read of a workbook is kept by the checksum of its file, so tests of scoring can share it."""
    monkeypatch.setenv("RELABEL_HOME", str(shared_home))


@pytest.fixture(scope="session")
def scored() -> Scored:
    """Scores from the real data; the coding index and each run are read once, and so is each table made."""
    read_once, opened = cache(ons.read_coding_index), cache(open_run)

    @cache
    def score(
        ref: str = "eloundou-2023:gpt4",
        method: Method = "bridge",
        taxonomy: Taxonomy = "uk-soc2020",
        weights: Weights = "importance",
        tasks: str | None = None,
        pay: str | None = None,
        links: Links | None = None,
        unrated: Unrated | None = None,
        **more: str,
    ) -> ScoreTable:
        with pytest.MonkeyPatch.context() as patch:  # other tests read other indexes
            patch.setattr(ons, "read_coding_index", read_once)
            return score_table(
                opened(ref),
                method=method,
                taxonomy=taxonomy,
                weights=weights,
                links=links,
                unrated=unrated,
                tasks=tasks,
                pay=pay,
                **more,
            )

    return score


@pytest.fixture(scope="session")
def bounds_of(scored: Scored) -> BoundsOf:
    """Scores from GPT-4's labels with intervals and what people's labels would give, by method; each is simulated once."""

    @cache
    def simulated(method: Method) -> ScoreTable:
        return with_intervals(scored(method=method), open_run("eloundou-2023:gpt4"), draws=300)

    return simulated


@pytest.fixture
def task_file(tmp_path: Path) -> TaskFile:
    def write(rows: Sequence[Mapping[str, object]]) -> str:
        path = tmp_path / "tasks.csv"
        defaults = {"title": "", "text": "Do it.", "task_type": "Core", "importance": 3}
        pd.DataFrame([defaults | dict(row) for row in rows]).to_csv(path, index=False)
        return str(path)

    return write


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    return partial(answered, tmp_path / "a-run")
