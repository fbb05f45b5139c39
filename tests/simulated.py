"""Simulated time: an event loop whose clock jumps to the next thing that is due, and providers that live on it."""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from relabel.labelling.limits import Limiter
from relabel.labelling.provider_errors import retry_after

T = TypeVar("T")
Clock = Callable[[], float]


class _Selector(selectors.DefaultSelector):
    """Never waits: the time that it would have waited has passed when it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everybody waits and nothing will ever happen")
            self.now += max(0.0, timeout)
        self.now += 1e-7  # a clock that stands still would never reach what lies within its resolution
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop in simulated time."""

    def __init__(self) -> None:
        self._simulated = _Selector()
        super().__init__(self._simulated)

    def time(self) -> float:
        return self._simulated.now


def simulate(make: Callable[[Clock], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in simulated time; it is given the clock. A deadlock is an error."""
    loop = SimulatedLoop()
    try:
        return loop.run_until_complete(make(loop.time))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@dataclass
class Said:
    """A simulated reply."""

    status: int
    headers: dict[str, str]


class Provider(Protocol):
    """Grants requests and tokens in its own way."""

    def handle(self, now: float, tokens: float) -> Said: ...


@dataclass
class LeakyBucket:
    """What OpenAI does: a bucket that fills evenly; `reset` is the time until it is full."""

    requests: float
    tokens: float = math.inf
    per: float = 60.0
    _left: dict[str, float] = field(default_factory=dict[str, float])
    _at: float = 0.0

    def handle(self, now: float, tokens: float) -> Said:
        wanted = {"requests": 1.0, "tokens": tokens}
        sizes = {"requests": self.requests, "tokens": self.tokens}
        left = {k: min(v, self._left.get(k, v) + (now - self._at) * v / self.per) for k, v in sizes.items()}
        granted = all(left[name] >= wanted[name] for name in wanted)
        if granted:
            left = {name: left[name] - wanted[name] if math.isfinite(left[name]) else left[name] for name in left}
        self._left, self._at = left, now
        headers: dict[str, str] = {}
        for name, size in sizes.items():
            if math.isfinite(size):
                headers[f"x-ratelimit-limit-{name}"] = str(size)
                headers[f"x-ratelimit-remaining-{name}"] = str(math.floor(left[name]))
                headers[f"x-ratelimit-reset-{name}"] = f"{(size - left[name]) * self.per / size * 1000:.0f}ms"
        return Said(200 if granted else 429, headers)


@dataclass
class FixedWindow:
    """Grants so many a window and starts anew at its end; `reset` is the time until then."""

    requests: float
    tokens: float = math.inf
    per: float = 60.0
    _left: dict[str, float] = field(default_factory=dict[str, float])
    _window: int = -1

    def handle(self, now: float, tokens: float) -> Said:
        sizes = {"requests": self.requests, "tokens": self.tokens}
        if int(now // self.per) != self._window:
            self._window, self._left = int(now // self.per), dict(sizes)
        wanted = {"requests": 1.0, "tokens": tokens}
        granted = all(self._left[name] >= wanted[name] for name in wanted)
        if granted:
            self._left = {name: self._left[name] - wanted[name] for name in wanted}
        reset = self.per - now % self.per
        headers: dict[str, str] = {}
        for name, size in sizes.items():
            if math.isfinite(size):
                headers[f"x-ratelimit-limit-{name}"] = str(size)
                headers[f"x-ratelimit-remaining-{name}"] = str(math.floor(self._left[name]))
                headers[f"x-ratelimit-reset-{name}"] = f"{reset:.3f}s"
        return Said(200 if granted else 429, headers)


@dataclass
class Traffic:
    """What came of a simulated run: when each request was sent, and what was said to it, in the order of replies."""

    sent: list[float] = field(default_factory=list[float])
    accepted: int = 0
    refused: list[float] = field(default_factory=list[float])
    first_headers: float = math.inf
    tokens: float = 0.0
    most: int = 0


async def talk(
    limiter: Limiter,
    server: Provider,
    clock: Clock,
    *,
    seconds: float,
    workers: int = 64,
    tokens: float = 100.0,
    latency: tuple[float, float] = (0.05, 0.6),
    seed: int = 0,
) -> Traffic:
    """Ask a simulated provider for some simulated seconds, with each request under way for a random while."""
    chance = random.Random(seed)
    traffic = Traffic()

    async def one() -> None:
        while clock() < seconds:
            ticket = await limiter.acquire(tokens)
            if clock() >= seconds:
                limiter.failed(ticket)
                return
            traffic.sent.append(clock())
            traffic.most = max(traffic.most, limiter.in_flight)
            there, back = (chance.uniform(*latency) / 2 for _ in range(2))
            await asyncio.sleep(there)
            said = server.handle(clock(), tokens)
            await asyncio.sleep(back)
            if said.status == 200:
                traffic.accepted += 1
                traffic.tokens += tokens
                limiter.release(ticket, headers=said.headers)
            else:
                traffic.refused.append(ticket.sent_at)
                limiter.limited(
                    ticket, reason="429", retry_after=retry_after(said.headers) or 0.0, headers=said.headers
                )
            traffic.first_headers = min(traffic.first_headers, clock())

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(one())
    return traffic
