"""What a batch job may do, how large and how often, and by which clock."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from relabel.labelling.engines.batch_state import MAX_BYTES, MAX_REQUESTS

POLL_S = 10.0
"""Seconds between the first looks at a batch; they grow."""


@dataclass(frozen=True)
class Terms:
    """The terms that a batch job works on. They are no part of what it asks.

    Attributes:
        submit: False takes what batches have, stops those that go on, and asks for nothing more.
        max_cost: Cap of the cost in USD over one attempt, whatever the number of processes; the job's endpoint must bound answers.
        poll_s: Seconds between the first looks at a batch.
        max_requests: Lines of one input file.
        max_bytes: Bytes of one input file.
        clock: Seconds on a clock that never runs back.
        sleep: Waits for some seconds.
        jitter: A random number in 0-1.
        now: The time of day.
        step: Told the name of each step after it is done; tests kill the process there.
    """

    submit: bool = True
    max_cost: float | None = None
    poll_s: float = POLL_S
    max_requests: int = MAX_REQUESTS
    max_bytes: int = MAX_BYTES
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    step: Callable[[str], None] = lambda name: None
