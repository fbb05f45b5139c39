"""The tables of docs/scale.md, by the estimate behind `relabel run --dry-run`: `python docs/scale_figures.py [--check]`.

Needs O*NET 30.2 (RELABEL_DATA_MIRROR or the download cache).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from relabel.labelling.estimate import Estimate, estimate, limits
from relabel.labelling.options import RunOptions
from relabel.labelling.providers import given_price
from relabel.rubric import load_rubric
from relabel.settings import settings

PAGE = Path(__file__).parent / "scale.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
PRICE = "0.15/0.60"
MAX_TOKENS = 300
QUOTAS = ((500, 200_000), (5_000, 2_000_000), (10_000, 10_000_000), (30_000, 150_000_000))
GPUS = ((1_000, 1), (1_000, 8), (2_500, 8), (2_500, 64))
REPEATS = (1, 5, 100)
GPU_USD_H = 2.0
Range = tuple[float, float]


def once() -> Estimate:
    """What all tasks under both settings take, asked once."""
    options = RunOptions(
        "any", load_rubric("exposure"), base_url="http://any/v1", max_tokens=MAX_TOKENS, price=given_price(PRICE)
    )
    return estimate(options.job(options.connection(settings())), None)


def tables(asked: Estimate) -> Iterator[str]:
    """The lines of both tables."""
    low, high = asked.prompt_tokens
    few, many = asked.completion_tokens
    yield f"All {asked.requests:,} requests once: {low / 1e6:.1f} to {high / 1e6:.1f} million tokens in, {few / 1e6:.1f} to {many / 1e6:.1f} million out."
    yield ""
    assert asked.cost_usd is not None
    yield "| requests a minute | tokens a minute | repeats | requests | hours | USD | bottleneck |"
    yield "|---:|---:|---:|---:|---:|---:|---|"
    for rpm, tpm in QUOTAS:
        bounds = limits(asked, "online", rpm=rpm, tpm=tpm)
        hours = max(limit.hours[0] for limit in bounds), bounds[0].hours[1]
        for repeats in REPEATS:
            yield f"| {rpm:,} | {tpm:,} | {_end(asked, repeats, hours, asked.cost_usd)} {bounds[0].name} |"
    yield ""
    yield "| tokens a second a GPU | GPUs | repeats | requests | hours | USD of GPUs |"
    yield "|---:|---:|---:|---:|---:|---:|"
    for speed, gpus in GPUS:
        hours = few / speed / gpus / 3600, many / speed / gpus / 3600
        money = hours[0] * gpus * GPU_USD_H, hours[1] * gpus * GPU_USD_H
        for repeats in REPEATS:
            yield f"| {speed:,} | {gpus} | {_end(asked, repeats, hours, money)}"


def _end(asked: Estimate, repeats: int, hours: Range, money: Range) -> str:
    times = f"{repeats} | {asked.requests * repeats:,}"
    return f"{times} | {_range((hours[0] * repeats, hours[1] * repeats))} | {_range((money[0] * repeats, money[1] * repeats))} |"


def _range(value: Range) -> str:
    low, high = (f"{number:,.0f}" if number >= 10 else f"{number:.2g}" for number in value)
    return low if low == high else f"{low} to {high}"


def renewed(page: str) -> str:
    """The page with figures as they are now."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n" + "\n".join(tables(once())) + f"\n{END}{tail}"


def main() -> int:
    """Write the tables, or check them."""
    page = PAGE.read_text(encoding="utf-8")
    new = renewed(page)
    if "--check" in sys.argv:
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
