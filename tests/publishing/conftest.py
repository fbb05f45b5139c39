from __future__ import annotations

from pathlib import Path

import pytest
from site_builders import sample_answers

from browser import browser, page
from relabel.run import Run
from run_builders import MakeRun

__all__ = ["browser", "page"]  # fixtures


@pytest.fixture
def sample_run(tmp_path: Path) -> MakeRun:
    """A run folder with the sample's gold as its answers, keys and rationales."""

    def make(
        *,
        status: str = "complete",
        without: tuple[str, ...] = (),
        thin: tuple[str, ...] = (),
        folder: str = "made-run",
    ) -> Run:
        return sample_answers(tmp_path / folder, status=status, without=without, thin=thin)

    return make
