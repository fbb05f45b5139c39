"""Numbers and texts formatted for readers, and the geometry of charts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import accumulate
from typing import Any, NamedTuple

from relabel.manifest import EMBEDDED_ADVICE
from relabel.tabular import half_up

# Shown for a missing figure.
NONE = "–"

_ADVICE = re.compile(r" \(rate them with `[^`]*`\)")
_UNITS = ((1_000_000_000, "bn"), (1_000_000, "m"))
# Amounts of this many billions or more have one decimal instead of two.
_ONE_DECIMAL_FROM = 100


def money(value: float | None, sign: str = "£") -> str:
    """An amount: `£52,885`, `£126m`, `£1.77bn`, `£346.8bn`; a dash if missing."""
    if value is None:
        return NONE
    minus, size = ("−" if value < 0 else ""), abs(value)
    for unit, name in _UNITS:
        # Choose the unit after rounding, so that 999.6 million becomes 1.00bn, not 1000m.
        if round(size / (unit / 1000)) >= 1000:
            places = 0 if name == "m" else 2 if half_up(size / unit, 2) < _ONE_DECIMAL_FROM else 1
            return f"{minus}{sign}{half_up(size / unit, places):,.{places}f}{name}"
    return f"{minus}{sign}{half_up(size, 0):,.0f}"


def whole(value: float | None) -> str:
    """A count with separators: `479,000`; a dash if missing."""
    return NONE if value is None else f"{half_up(value, 0):,.0f}"


def tenth(value: float | None) -> str:
    """One decimal, rounded half up: `4.6`; a dash if missing."""
    return NONE if value is None else f"{half_up(value, 1):.1f}"


def weighs(task: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """How much one label matters: its share of the score, and the score if its reading were reversed."""
    flipped = ((names["strict"], task["alpha_if_flipped"]), (names["with_tools"], task["gamma_if_flipped"]))
    scores = ", ".join(f"{name.lower()} {tenth(10 * value)}" for name, value in flipped if value is not None)
    return f"{tenth(100 * task['share'])}% of the score" + (f"; if labelled the other way: {scores}" if scores else "")


def percent(share: float | None) -> str:
    """A share (0-1) in whole percent; `under 1%` instead of `0%` unless it is 0; a dash if missing."""
    if share is None:
        return NONE
    if 0 < share < 0.005:
        return "under 1%"
    return f"{half_up(100 * share, 0):.0f}%"


def signed(value: float | None, places: int = 1) -> str:
    """A change with its sign: `+0.4`, `−1.2`, `0.0`; a dash if missing."""
    if value is None:
        return NONE
    rounded = half_up(abs(value), places)
    sign = "" if rounded == 0 else ("+" if value > 0 else "−")
    return f"{sign}{rounded:,.{places}f}"


def change(percent: float | None) -> str:
    """A projected change of jobs: `+3.1%`; `level` if it rounds to zero; a dash if missing."""
    if percent is None:
        return NONE
    return f"{signed(percent)}%" if round(percent, 1) else "level"


def plain(text: str) -> str:
    """A remark as a sentence on a page: without advice on commands at its end, and with a full stop."""
    sentence = _ADVICE.sub("", text).strip()
    return sentence if sentence.endswith(".") else f"{sentence}."


def reason(text: str) -> str:
    """The part of a remark after its first colon, as a sentence: `employment …` of `Growing demand gives 2 of 2: employment …`."""
    return first_upper(plain(text.split(": ", 1)[-1]))


def warning(note: str | None, subject: str = "These scores") -> str | None:
    """The warning at the top of a document, from its note: that it is of the sample, of the embedded model, or partial; None for neither."""
    sentences = ["SAMPLE: the tasks, labels, jobs and pay are invented and say nothing about a real occupation."]
    sentences = sentences if "SAMPLE: " in (note or "") else []
    if EMBEDDED_ADVICE.rstrip(".") in (note or ""):
        sentences.append(EMBEDDED_ADVICE)
    if rests := re.search(r"PARTIAL: .*?rests on ([\d,]+ of [\d,]+) tasks", note or ""):
        sentences.append(f"{subject} are partial: they rest on {rests[1]} tasks, and the others have no label.")
    return " ".join(sentences) or None


def for_readers(text: str) -> str:
    """A remark for a page: without a space before percent signs, and without names of columns."""
    text = re.sub(r"\bp(\d\d)\b", r"\1th percentile", re.sub(r"columns _\w+: ", "", text))
    return re.sub(r"(\d) %", r"\1%", text)


def long_date(day: str) -> str:
    """A date in words: `3 April 2026`."""
    read = date.fromisoformat(day[:10])
    return f"{read.day} {read:%B %Y}"


def printable(text: str) -> str:
    """A text with unprintable characters, which XML does not allow, replaced by spaces."""
    return "".join(char if char.isprintable() else " " for char in text)


def first_upper(text: str) -> str:
    """A text with its first letter in upper case, and all others unchanged."""
    return text[:1].upper() + text[1:]


class Box(NamedTuple):
    """A rectangle: left, top, width and height, in the unit of the whole area."""

    x: float
    y: float
    width: float
    height: float


def squarified(values: Sequence[float], area: Box) -> list[Box]:
    """Divide an area among values, with parts as close to squares as possible.

    The squarified treemap of Bruls, Huizing and van Wijk (2000): parts are placed in rows along the shorter side, and a row
    ends when another part would worsen its worst aspect ratio.

    Args:
        values: Above 0, largest first.
        area: The area to divide.

    Returns:
        A box for each value, in the same order; its area is proportional to the value.
    """
    left = [value * area.width * area.height / sum(values) for value in values]
    boxes: list[Box] = []
    free = area
    while left:
        side = min(free.width, free.height)
        count = 1
        while count < len(left) and _worst_ratio(left[: count + 1], side) <= _worst_ratio(left[:count], side):
            count += 1
        row, left = left[:count], left[count:]
        placed, free = _place_row(row, free)
        boxes += placed
    return boxes


def _worst_ratio(row: Sequence[float], side: float) -> float:
    total = sum(row)
    return max(side**2 * max(row) / total**2, total**2 / (side**2 * min(row)))


def _place_row(row: Sequence[float], free: Box) -> tuple[list[Box], Box]:
    """Place a row along the shorter side; returns its boxes and the remaining area."""
    x, y, width, height = free
    if width < height:  # swap the axes, place the row, and swap them back
        boxes, rest = _place_row(row, Box(y, x, height, width))
        return [Box(b.y, b.x, b.height, b.width) for b in boxes], Box(rest.y, rest.x, rest.height, rest.width)
    depth = sum(row) / height if height else 0
    lengths = [value / depth if depth else 0 for value in row]
    boxes = [Box(x, top, depth, length) for top, length in zip(accumulate(lengths, initial=y), lengths, strict=False)]
    return boxes, Box(x + depth, y, max(width - depth, 0), height)
