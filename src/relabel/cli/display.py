"""Displays a running job on standard error: a live panel on a terminal, occasional plain lines elsewhere, or JSON events."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

from relabel.cli.terminal import clean_text, make_console
from relabel.labelling.collector import Progress, RateEstimator
from relabel.labelling.limits import Limiter

if TYPE_CHECKING:
    from rich.console import Group

Look = Literal["people", "json", "quiet"]

# Seconds between estimates, lines if something has changed, lines if nothing has, updates of the panel, and JSON events.
_LOOK_EVERY_S = 1.0
_PLAIN_EVERY_S = 10.0
_AT_LEAST_EVERY_S = 60.0
_LIVE_EVERY_S = 0.25
_EVENT_EVERY_S = 2.0
# Requests in flight that the panel names, and the seconds from which it does.
_SLOWEST = 3
_SLOW_S = 5.0
# Seconds from which a pause is shown.
_WORTH_SAYING_S = 2.0
# Columns of the progress bar.
_BAR = 30


@asynccontextmanager
async def shown(progress: Progress, limiter: Limiter | None, *, look: Look = "people") -> AsyncGenerator[None]:
    """Show a job's progress for as long as the block lasts.

    Args:
        progress: The job's.
        limiter: Limits the requests in flight; None if relabel does not limit them.
        look: How it is shown.
    """
    if look == "quiet":
        yield
        return
    estimator = RateEstimator(progress, limiter)
    display = _events if look == "json" else _live if sys.stderr.isatty() else _plain
    showing = asyncio.create_task(display(estimator))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait({showing})
        if look == "json":
            _emit("end", estimator)


async def _live(estimator: RateEstimator) -> None:
    from rich.live import Live

    console = make_console(stderr=True, wide=True)
    with Live(panel(estimator), console=console, transient=True, auto_refresh=False) as live:
        while True:
            estimator.look()
            live.update(panel(estimator), refresh=True)
            await asyncio.sleep(_LIVE_EVERY_S)


def panel(estimator: RateEstimator) -> Group:
    """A job's progress as a few lines for a terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Column, Table

    progress, limiter = estimator.progress, estimator.limiter
    bar = Table.grid(Column(width=_BAR), "", padding=(0, 1))
    bar.add_row(ProgressBar(max(1, progress.asked), progress.done), f"{progress.done:,} of {progress.asked:,}")
    rate = "-" if estimator.rate is None else speed(estimator.rate)
    time_left = "-" if estimator.seconds_left is None else duration(estimator.seconds_left)
    counts = f"from store {progress.from_store:,}   fresh {progress.fresh:,}   failed {_failed(progress) or 'none'}"
    flight = f"in flight {len(progress.in_flight)}"
    if limiter is not None:
        # Some requests may have been sent before the limit was lowered.
        falling = "falling to " if len(progress.in_flight) > limiter.limit else ""
        flight += f", concurrency {falling}{limiter.limit} ({'auto' if limiter.automatic else 'fixed'})"
    lines = [(counts, "red" if progress.failed else ""), (f"{flight}   rate {rate}   left {time_left}", "")]
    if (wait := limiter.answer_wait if limiter else None) is not None and wait.wait_s < wait.longest_s:
        waited = f"answers time out after {duration(wait.wait_s)}, as others came fast; {wait.cut:,} sent again"
        lines.append((waited, "dim"))
    lines += [(text, "yellow") for text in _notices(estimator).values()]
    end = "" if estimator.cost_at_end is None else f", {money(estimator.cost_at_end)} at the end"
    used = progress.tokens
    tokens = f"tokens {used.prompt:,} in ({used.cached:,} cached), {used.completion:,} out"
    lines.append((f"{tokens}   {money(progress.cost_usd)}{end}", ""))
    now = time.monotonic()
    slowest = sorted(progress.in_flight.values(), key=lambda item: item[1])[:_SLOWEST]
    if slowest and now - slowest[0][1] > _SLOW_S:
        waiting = ", ".join(f"{request} {duration(now - since)}" for request, since in slowest)
        lines.append((f"slowest in flight: {waiting}", "dim"))
    return Group(bar, *(clean_text(text, style) for text, style in lines))


async def _plain(estimator: RateEstimator) -> None:
    lines = PlainLines(estimator, time.monotonic())
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        estimator.look()
        if (text := lines.due(time.monotonic())) is not None:
            _write(text)


class PlainLines:
    """Decides when to write a line of progress, and what it says.

    A line is due every ten seconds if something has changed, otherwise every minute, with what the job is waiting for. The
    first pause, the first time that a server cannot be reached and the last steps of a job are reported at once.

    Args:
        estimator: The job's numbers.
        now: Current time in seconds, on the monotonic clock by which requests in flight are timed.
    """

    def __init__(self, estimator: RateEstimator, now: float) -> None:
        self._estimator, self._last = estimator, now
        self._last_state: object = None
        self._shown_notices: set[str] = set()

    def due(self, now: float) -> str | None:
        """The line to write now, if any."""
        progress, notices = self._estimator.progress, _notices(self._estimator)
        state = (progress.done, progress.tokens.prompt, progress.cost_usd)
        wait = _PLAIN_EVERY_S if state != self._last_state else _AT_LEAST_EVERY_S
        if now - self._last < wait and self._shown_notices.issuperset(notices):
            return None
        parts = [line(self._estimator)]
        if state == self._last_state and progress.in_flight:
            since = min(since for _, since in progress.in_flight.values())
            answers = "an answer" if len(progress.in_flight) == 1 else f"{len(progress.in_flight)} answers, the slowest"
            parts.append(f"waiting for {answers} for {duration(now - since)}")
        self._last_state, self._last = state, now
        self._shown_notices.update(notices)
        return " | ".join([*parts, *notices.values()])


def _notices(estimator: RateEstimator) -> dict[str, str]:
    """What delays a job, or that it is about to end, as sentences by kind."""
    progress, limiter = estimator.progress, estimator.limiter
    notices: dict[str, str] = {}
    if progress.doing == "naming":
        notices["naming"] = f"listing {progress.asked - progress.done:,} missing labels; Ctrl-C quits now"
    elif progress.doing:
        notices["writing"] = "writing the run folder"
    if limiter and limiter.unreachable:
        notices["unreachable"] = f"{limiter.unreachable}, trying again"
    if (until := paused_until(limiter)) is not None:
        notices["paused"] = f"paused until {until}, by the provider's limits or --rpm and --tpm"
    return notices


async def _events(estimator: RateEstimator) -> None:
    _emit("start", estimator)
    while True:
        await asyncio.sleep(_EVENT_EVERY_S)
        estimator.look()
        _emit("progress", estimator)


def _emit(event: str, estimator: RateEstimator) -> None:
    progress, limiter = estimator.progress, estimator.limiter

    def named(source: object, names: str) -> dict[str, object]:
        return {name: getattr(source, name) for name in names.split()}

    document = {
        "event": event,
        "time": time.time(),
        **named(progress, "asked done from_store fresh"),
        "failed": dict(progress.failed),
        "in_flight": len(progress.in_flight),
        "limit": limiter.limit if limiter else None,
        "paused_s": round(limiter.paused_s, 1) if limiter else 0.0,
        "answer_wait_s": limiter.answer_wait.wait_s if limiter and limiter.answer_wait else None,
        "unreachable": (limiter.unreachable or None) if limiter else None,
        "doing": progress.doing or "asking",
        **named(estimator, "rate seconds_left"),
        "prompt_tokens": progress.tokens.prompt,
        "cached_tokens": progress.tokens.cached,
        "completion_tokens": progress.tokens.completion,
        "cost_usd": progress.cost_usd,
        "cost_at_end_usd": estimator.cost_at_end,
    }
    _write(json.dumps(document))


def announce(event: str, text: str, *, look: Look) -> None:
    """Announce an event: as a line, as a JSON event, or not at all.

    Args:
        event: Its name in JSON.
        text: A sentence for people.
        look: How it is announced.
    """
    if look == "json":
        _write(json.dumps({"event": event, "time": time.time()}))
    elif look == "people":
        _write(text)


def _write(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201  progress goes to standard error


def line(estimator: RateEstimator) -> str:
    """A job's progress in one line."""
    progress = estimator.progress
    parts = [f"{progress.done}/{progress.asked}"]
    if progress.from_store:
        parts.append(f"{progress.from_store} from store")
    if progress.failed:
        parts.append(_failed(progress))
    if estimator.rate is not None:
        parts.append(speed(estimator.rate))
    if estimator.seconds_left:
        parts.append(f"{duration(estimator.seconds_left)} left")
    parts.append(f"{progress.tokens.prompt + progress.tokens.completion:,} tokens")
    parts.append(money(progress.cost_usd))
    return " | ".join(parts)


def _failed(progress: Progress) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in progress.failed.most_common())


def paused_until(limiter: Limiter | None) -> str | None:
    """The time of day (HH:MM:SS) at which the next request may be sent; None when that is soon or now."""
    pause = limiter.paused_s if limiter else 0.0
    return None if pause < _WORTH_SAYING_S else time.strftime("%H:%M:%S", time.localtime(time.time() + pause))


def speed(a_second: float) -> str:
    """A rate of labels in words: per second or, if slow, per minute."""
    return f"{a_second:.1f}/s" if a_second >= 1 else f"{60 * a_second:.1f}/min"


def duration(seconds: float) -> str:
    """A duration in words."""
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole_seconds:02d} s" if minutes else f"{whole_seconds} s"


def money(usd: float | None) -> str:
    """An amount of money in words; says so if it is unknown."""
    return "cost unknown" if usd is None else f"${usd:.4f}"
