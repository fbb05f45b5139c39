"""How a running job looks: a live line on a terminal, a plain line now and then elsewhere, on standard error."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from relabel.labelling.progress import Progress

_PLAIN_EVERY_S = 10.0
_LIVE_EVERY_S = 0.25


@asynccontextmanager
async def shown(progress: Progress, *, quiet: bool) -> AsyncGenerator[None]:
    """Show a job's progress for as long as the block lasts."""
    if quiet:
        yield
        return
    showing = asyncio.create_task(_live(progress) if sys.stderr.isatty() else _plain(progress))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def _live(progress: Progress) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    def panel() -> Table:
        row = Table.grid(padding=(0, 1))
        row.add_row(ProgressBar(total=max(1, progress.asked), completed=progress.done, width=20), line(progress))
        return row

    with Live(panel(), console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(panel(), refresh=True)
                await asyncio.sleep(_LIVE_EVERY_S)
        finally:
            live.update(panel(), refresh=True)


async def _plain(progress: Progress) -> None:
    while True:
        await asyncio.sleep(_PLAIN_EVERY_S)
        print(line(progress), file=sys.stderr, flush=True)  # noqa: T201  progress goes to standard error


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
