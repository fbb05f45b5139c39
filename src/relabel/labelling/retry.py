"""When to send again: one policy for every HTTP call, online and batch. The only owner of retries."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

ATTEMPTS = 6
T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with jitter, never shorter than the server asks.

    Attributes:
        is_transient: Whether an error is worth another attempt.
        server_wait: Seconds that the server asked to wait, by its error.
        attempts: Attempts in all.
        longest_pause_s: Upper bound of a pause that the server did not ask for, in seconds.
        clock: Seconds on a monotonic clock.
        sleep: Waits for some seconds.
        jitter: A random number in 0-1.
    """

    is_transient: Callable[[BaseException], bool]
    server_wait: Callable[[BaseException], float] = lambda _: 0.0
    attempts: int = ATTEMPTS
    longest_pause_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random

    async def call(self, once: Callable[[], Awaitable[T]], *, ends_at: Callable[[], float] = lambda: math.inf) -> T:
        """Call until it succeeds, fails for good, or attempts or time run out; the last error is raised.

        Args:
            once: One attempt.
            ends_at: When time runs out, on the clock; an attempt that could only start later is not made.
        """
        try:
            return await once()  # outside of tenacity, which costs more than most requests do
        except Exception as error:
            if not self.is_transient(error):
                raise
            first: Exception | None = error

        async def attempt() -> T:
            nonlocal first
            if first is not None:  # so that tenacity counts the attempt that has failed
                error, first = first, None
                raise error
            return await once()

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(self.is_transient),
            stop=lambda state: (
                state.attempt_number >= self.attempts or self.clock() + state.upcoming_sleep >= ends_at()
            ),
            wait=self._pause,
            sleep=self.sleep,
            reraise=True,
        )
        return await retrying(attempt)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        wanted = min(self.longest_pause_s, 0.5 * 2**state.attempt_number) * (0.5 + self.jitter() / 2)
        error = state.outcome.exception() if state.outcome else None
        return wanted if error is None else max(wanted, self.server_wait(error))
