"""Numbers on the command line: `nan` and `inf` are read as numbers, and every limit lets them pass."""

from __future__ import annotations

import math

import typer


def finite(value: float | None) -> float | None:
    """Callback of an option that takes a number.

    Raises:
        typer.BadParameter: It is none that can be reckoned with.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value
