"""Figures as people read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from relabel.careers.pages import Resilience
from relabel.careers.resilience import shown_percent

NONE = "–"
"""Stands where there is no figure."""

_ADVICE = re.compile(r" \(make them with `[^`]*`\)")
_UNITS = ((1_000_000_000, "bn"), (1_000_000, "m"))
_LARGE = 100
"""From so many billions on, one decimal is enough."""


def money(value: float | None, sign: str = "£") -> str:
    """An amount: `£52,885`, `£126m`, `£1.77bn`, `£346.8bn`; a dash where it is missing."""
    if value is None:
        return NONE
    minus, size = ("−" if value < 0 else ""), abs(value)
    for unit, name in _UNITS:
        # Judged after rounding, so that 999.6 million is 1.00bn and no 1000m.
        if round(size / (unit / 1000)) >= 1000:
            places = 0 if name == "m" else 2 if _half_up(size / unit, 2) < _LARGE else 1
            return f"{minus}{sign}{_half_up(size / unit, places):,.{places}f}{name}"
    return f"{minus}{sign}{_half_up(size, 0):,.0f}"


def whole(value: float | None) -> str:
    """A count with separators: `479,000`; a dash where it is missing."""
    return NONE if value is None else f"{_half_up(value, 0):,.0f}"


def tenth(value: float | None) -> str:
    """One decimal, half up: `4.6`; a dash where it is missing."""
    return NONE if value is None else f"{_half_up(value, 1):.1f}"


def percent(share: float | None) -> str:
    """A share (0-1) in whole percent; `under 1 %` where it would read as none; a dash where it is missing."""
    if share is None:
        return NONE
    if 0 < share < 0.005:
        return "under 1 %"
    return f"{_half_up(100 * share, 0):.0f} %"


def signed(value: float | None, places: int = 1) -> str:
    """A change with its sign: `+0.4`, `−1.2`, `0.0`; a dash where it is missing."""
    if value is None:
        return NONE
    rounded = _half_up(abs(value), places)
    sign = "" if rounded == 0 else ("+" if value > 0 else "−")
    return f"{sign}{rounded:,.{places}f}"


def change(percent: float | None) -> str:
    """A change in percent: `+3.1 %`, `−0.04 %`; with more than one decimal where one would hide it; a dash where it is missing."""
    return NONE if percent is None else f"{shown_percent(percent).replace('-', '−')} %"


def resilience(score: Mapping[str, Any]) -> str:
    """A resilience score of an export: `2 of 6`, or `2 of 4 so far` while a part is missing."""
    return Resilience.model_validate(score).brief


def plain(text: str) -> str:
    """A remark as a sentence of a page: without the advice on commands that it ends with, and with a full stop."""
    said = _ADVICE.sub("", text).strip()
    return said if said.endswith(".") else f"{said}."


def reason(text: str) -> str:
    """What a remark says after its subject and a colon, as a sentence: `Growing demand gives 2 of 2: employment …`."""
    return first_upper(plain(text.split(": ", 1)[-1]))


def first_upper(text: str) -> str:
    """A remark with its first letter in upper case and all others as they are."""
    return text[:1].upper() + text[1:]


def _half_up(value: float, places: int) -> Decimal:
    return Decimal(repr(round(float(value), 12))).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
