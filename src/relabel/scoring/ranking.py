"""Rounding and ranking, as the score table does them."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

import pandas as pd

CLEAN = 12
"""Decimal places beyond which a binary fraction is noise."""


def half_up(value: float, places: int) -> float:
    """Round half up, as people do; noise of binary fractions beyond twelve places does not decide.

    Args:
        value: A finite number.
        places: Decimal places to keep.
    """
    exact = Decimal(repr(round(float(value), CLEAN)))
    return float(exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP))


def to_places(places: int) -> Callable[[float], float]:
    """A function that rounds half up and leaves missing values missing."""
    return lambda value: value if math.isnan(value) else half_up(value, places)


def percentiles(values: pd.Series, codes: pd.Series, *, ties: Literal["shared", "by-code"]) -> pd.Series:
    """Percentile of each value among those that are not missing.

    Args:
        values: Shares.
        codes: Their codes.
        ties: `shared`: the part of the values that are strictly smaller. `by-code`: the position, counted from 1, equal
            values in the order of their codes, which is how the site numbered its groups in 2026.

    Returns:
        Percent, rounded half up to a whole number; missing stays missing.
    """
    order = pd.DataFrame({"value": values.round(CLEAN), "code": codes}).dropna(subset="value")
    order = order.sort_values(["value", "code"], kind="stable")
    places = range(1, len(order) + 1)
    if ties == "shared":
        places = [int(rank) - 1 for rank in order["value"].rank(method="min")]
    place = [int(half_up(100 * number / len(order), 0)) for number in places]
    return pd.Series(place, index=order.index, dtype="Int64").reindex(values.index)
