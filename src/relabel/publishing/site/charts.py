"""Places of marks in charts: a squarified treemap, and the axes of a scatter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle: left, top, width and height, in the unit of the area that was divided."""

    x: float
    y: float
    width: float
    height: float


def squarified(values: Sequence[float], area: Box) -> list[Box]:
    """Divide an area among values, keeping each part as near to a square as may be.

    The layout of Bruls, Huizing and van Wijk (2000): parts are laid in rows along the shorter side, and a row is closed
    when another part would make its worst one longer.

    Args:
        values: Above 0, largest first.
        area: What is divided.

    Returns:
        A box for each value, in their order; its area is its part of the whole.
    """
    left = [value * area.width * area.height / sum(values) for value in values]
    boxes: list[Box] = []
    free = area
    while left:
        side = min(free.width, free.height)
        count = 1
        while count < len(left) and _worst(left[: count + 1], side) <= _worst(left[:count], side):
            count += 1
        row, left = left[:count], left[count:]
        placed, free = _lay(row, free)
        boxes += placed
    return boxes


def _worst(row: Sequence[float], side: float) -> float:
    total = sum(row)
    return max(side**2 * max(row) / total**2, total**2 / (side**2 * min(row)))


def _lay(row: Sequence[float], free: Box) -> tuple[list[Box], Box]:
    total = sum(row)
    boxes: list[Box] = []
    if free.width >= free.height:
        width = total / free.height if free.height else 0
        y = free.y
        for value in row:
            height = value / width if width else 0
            boxes.append(Box(free.x, y, width, height))
            y += height
        return boxes, Box(free.x + width, free.y, max(free.width - width, 0), free.height)
    height = total / free.width if free.width else 0
    x = free.x
    for value in row:
        width = value / height if height else 0
        boxes.append(Box(x, free.y, width, height))
        x += width
    return boxes, Box(free.x, free.y + height, free.width, max(free.height - height, 0))


class Axis(NamedTuple):
    """A logarithmic axis.

    Attributes:
        low: Value at its start.
        high: Value at its end.
        length: Its length.
        ticks: Round values on it.
    """

    low: float
    high: float
    length: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Place of a value on the axis, from its start."""
        return self.length * math.log(value / self.low) / math.log(self.high / self.low)


def log_axis(values: Sequence[float], length: float) -> Axis:
    """A logarithmic axis around values.

    Args:
        values: Above 0, at least one.
        length: Its length.
    """
    low, high = min(values) * 0.92, max(values) * 1.08
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10**decade for decade in decades for step in (1, 2, 3, 5, 7)]
    return Axis(low, high, length, tuple(tick for tick in ticks if low <= tick <= high))
