"""How a running job looks: a live panel on a terminal, a plain line now and then elsewhere, or JSON events; on standard error."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relabel.labelling.engines.limits import Limiter
from relabel.labelling.progress import Progress

Look = Literal["people", "json", "quiet"]

_PLAIN_EVERY_S = 10.0
_LIVE_EVERY_S = 0.25
_EVENT_EVERY_S = 2.0
_SLOWEST = 3
_WORTH_SAYING_S = 2.0


@asynccontextmanager
async def shown(progress: Progress, limiter: Limiter, *, look: Look = "people") -> AsyncGenerator[None]:
    """Show a job's progress for as long as the block lasts."""
    if look == "quiet":
        yield
        return
    if look == "json":
        way = _events(progress, limiter)
    else:
        way = _live(progress, limiter) if sys.stderr.isatty() else _plain(progress, limiter)
    showing = asyncio.create_task(way)
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait({showing})
        if look == "json":
            _emit("end", progress, limiter)


async def _live(progress: Progress, limiter: Limiter) -> None:
    console = Console(stderr=True)
    with Live(panel(progress, limiter), console=console, transient=True, auto_refresh=False) as live:
        while True:
            live.update(panel(progress, limiter), refresh=True)
            await asyncio.sleep(_LIVE_EVERY_S)


def panel(progress: Progress, limiter: Limiter) -> Group:
    """A job's progress as a few lines for a terminal."""
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=max(1, progress.asked), completed=progress.done, width=30),
        f"{progress.done:,} of {progress.asked:,}",
    )
    lines: list[Any] = [bar]
    failed = ", ".join(f"{count} {kind}" for kind, count in progress.failed.most_common()) or "none"
    lines.append(
        Text(
            f"from store {progress.from_store:,}   fresh {progress.fresh:,}   failed {failed}",
            style="red" if progress.failed else "",
        )
    )
    rate = f"{progress.rate:.1f}/s" if progress.rate else "-"
    left = duration(progress.seconds_left) if progress.seconds_left else "-"
    flying = len(progress.flying)
    # What was sent before the limit was cut is out there still.
    limit = f"of {limiter.limit}" if flying <= limiter.limit else f"falling to {limiter.limit}"
    how = "found out" if limiter.automatic else "fixed"
    lines.append(
        Text(f"in flight {flying}{' ' if flying <= limiter.limit else ', '}{limit} ({how})   rate {rate}   left {left}")
    )
    if (until := paused_until(limiter)) is not None:
        lines.append(Text(f"paused until {until}, as the provider's limits or --rpm and --tpm ask", style="yellow"))
    end = "" if progress.cost_at_end is None else f", {money(progress.cost_at_end)} at the end"
    lines.append(
        Text(
            f"tokens {progress.prompt_tokens:,} in ({progress.cached_tokens:,} cached), {progress.completion_tokens:,} out   "
            f"{money(progress.cost_usd)}{end}"
        )
    )
    now = time.monotonic()
    slowest = sorted(progress.flying.values(), key=lambda item: item[1])[:_SLOWEST]
    if slowest and now - slowest[0][1] > 5:
        said = ", ".join(f"{what} {duration(now - since)}" for what, since in slowest)
        lines.append(Text(f"slowest in flight: {said}", style="dim"))
    return Group(*lines)


async def _plain(progress: Progress, limiter: Limiter) -> None:
    while True:
        await asyncio.sleep(_PLAIN_EVERY_S)
        until = paused_until(limiter)
        _write(line(progress) + (f" | paused until {until}" if until else ""))


async def _events(progress: Progress, limiter: Limiter) -> None:
    _emit("start", progress, limiter)
    while True:
        await asyncio.sleep(_EVENT_EVERY_S)
        _emit("progress", progress, limiter)


def _emit(event: str, progress: Progress, limiter: Limiter) -> None:
    _write(
        json.dumps(
            {
                "event": event,
                "time": time.time(),
                "asked": progress.asked,
                "done": progress.done,
                "from_store": progress.from_store,
                "fresh": progress.fresh,
                "failed": dict(progress.failed),
                "in_flight": len(progress.flying),
                "limit": limiter.limit,
                "paused_s": round(limiter.paused_s, 1),
                "rate": progress.rate,
                "seconds_left": progress.seconds_left,
                "prompt_tokens": progress.prompt_tokens,
                "cached_tokens": progress.cached_tokens,
                "completion_tokens": progress.completion_tokens,
                "cost_usd": progress.cost_usd,
                "cost_at_end_usd": progress.cost_at_end,
            }
        )
    )


def say(event: str, text: str, *, look: Look) -> None:
    """Say that something has happened: as a line, as a JSON event, or not at all.

    Args:
        event: A word for it.
        text: A sentence for people.
        look: How it is said.
    """
    if look == "json":
        _write(json.dumps({"event": event, "time": time.time()}))
    elif look == "people":
        _write(text)


def _write(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201  progress goes to standard error


def line(progress: Progress) -> str:
    """A job's progress in one line."""
    parts = [f"{progress.done}/{progress.asked}"]
    if progress.from_store:
        parts.append(f"{progress.from_store} from store")
    if progress.failed:
        parts.append(", ".join(f"{count} {kind}" for kind, count in progress.failed.most_common()))
    if progress.rate:
        parts.append(f"{progress.rate:.1f}/s")
    if progress.seconds_left:
        parts.append(f"{duration(progress.seconds_left)} left")
    parts.append(f"{progress.prompt_tokens + progress.completion_tokens:,} tokens")
    parts.append(money(progress.cost_usd))
    return " | ".join(parts)


def paused_until(limiter: Limiter) -> str | None:
    """The time of day (HH:MM:SS) at which the next request may be sent; None when that is soon or now."""
    pause = limiter.paused_s
    return None if pause < _WORTH_SAYING_S else time.strftime("%H:%M:%S", time.localtime(time.time() + pause))


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def money(usd: float | None) -> str:
    """Money as people say it; an unknown price is said, not guessed."""
    return "cost unknown" if usd is None else f"${usd:.4f}"
