"""What the tests of scoring build with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from relabel.scoring.options import Method
from relabel.scoring.table import ScoreTable
from relabel.tabular import records

Scored = Callable[..., ScoreTable]
BoundsOf = Callable[[Method], ScoreTable]
TaskFile = Callable[[Sequence[Mapping[str, object]]], str]


def by_code(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Rows of a score table as plain values, by code."""
    return {row["code"]: row for row in records(frame)}
