"""Schedules of faults, kills, two processes, packs, Responses and batches on one store: nothing is lost or bought twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))

import soak

PIECE = 25


@pytest.mark.parametrize("first", range(1, 201, PIECE))
def test_nothing_is_lost_or_bought_twice(first: int) -> None:
    said: list[str] = []
    tally = soak.soak(range(first, first + PIECE), say=said.append)
    assert (tally.lost, tally.twice, tally.faults) == (0, 0, []), "\n".join(said)
    assert tally.answers > 10 * PIECE
