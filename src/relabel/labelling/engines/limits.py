"""How fast to ask: as fast as the provider lets us, and never faster than the user allows.

Three things hold requests back. The number in flight: fixed, or found by doubling until the first sign of a limit and then
by additive increase and multiplicative decrease, as TCP does. The provider's own word: `Retry-After` and the
`x-ratelimit-*` headers. And the user's caps, `--rpm` and `--tpm`, kept by spacing requests evenly.

A 429 and a timeout are signs of a limit. A 5xx is not: the server is ill, not full.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

FIRST_LIMIT = 4
LARGEST_LIMIT = 512
_HISTORY = 500
_UNHEARD_S = 0.25
"""Pause while all that a provider granted is sent and none of it has come back to say more."""
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass
class _Window:
    """What a provider's headers said about one of its limits, less what was sent since. Times are on the clock."""

    limit: float | None
    remaining: float
    resets_at: float
    heard: int
    """Number of the request whose reply said so."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Permission to send one request.

    Attributes:
        number: Counts up with each permission.
        sent_at: When it was given, on the limiter's clock.
        tokens: Estimate of the request's tokens.
        tokens_before: Tokens of all permissions up to this one.
    """

    number: int
    sent_at: float
    tokens: float
    tokens_before: float


class Limiter:
    """Hands out permission to send.

    Args:
        concurrency: Requests in flight at most; None finds it out.
        largest: Bound of what is found out.
        rpm: Requests a minute at most, by the user's word.
        tpm: Tokens a minute at most, by the user's word.
        clock: Seconds on a clock that never runs back.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        concurrency: int | None,
        *,
        largest: int = LARGEST_LIMIT,
        rpm: float | None = None,
        tpm: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.automatic = concurrency is None
        self.limit = min(FIRST_LIMIT, largest) if concurrency is None else concurrency
        self.largest = largest if concurrency is None else concurrency
        self.in_flight = 0
        self.history: deque[tuple[float, int, str]] = deque(maxlen=_HISTORY)
        self._rpm, self._tpm = rpm, tpm
        self._clock, self._sleep = clock, sleep
        self._started = clock()
        self._note("start")
        self._slow_start = True
        self._good = 0
        self._last_cut = 0
        self._not_before = 0.0
        self._next_request = self._next_token = 0.0
        self._windows: dict[str, _Window] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._flying = 0
        self._numbers = 0
        self._tokens = 0.0

    async def acquire(self, tokens: float) -> Ticket:
        """Wait until a request may be sent.

        Args:
            tokens: Estimate of the request's tokens, prompt and answer.
        """
        while self.in_flight >= self.limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()  # pass the turn on
                raise
        self.in_flight += 1
        try:
            while (pause := self._pause(tokens)) > 0:
                await self._sleep(pause)
        except BaseException:
            self.in_flight -= 1
            self._wake()
            raise
        self._flying += 1
        now = self._clock()
        if self._rpm:
            self._next_request = max(now, self._next_request) + 60 / self._rpm
        if self._tpm:
            self._next_token = max(now, self._next_token) + 60 * tokens / self._tpm
        for name, need in (("requests", 1.0), ("tokens", tokens)):
            if name in self._windows:
                self._windows[name].remaining -= need
        self._numbers += 1
        self._tokens += tokens
        return Ticket(self._numbers, now, tokens, self._tokens)

    def correct(self, ticket: Ticket, used: float) -> None:
        """Put the tokens that a request really took in the place of the estimate."""
        if self._tpm:
            self._next_token += 60 * (used - ticket.tokens) / self._tpm

    def release(self, ticket: Ticket, *, headers: Mapping[str, str] | None = None) -> None:
        """A request has come back well.

        Args:
            ticket: Its permission.
            headers: The reply's headers.
        """
        self._leave()
        if headers:
            self._listen(ticket, headers)
        if self.automatic and ticket.number > self._last_cut:
            self._good += 1
            if self._good >= self.limit:
                self._good = 0
                self._grow()

    def limited(
        self, ticket: Ticket, *, why: str, retry_after: float = 0.0, headers: Mapping[str, str] | None = None
    ) -> None:
        """A request met a limit: 429, or no answer in time.

        Args:
            ticket: Its permission.
            why: A word for the history.
            retry_after: Seconds that the provider asks everybody to wait.
            headers: The reply's headers.
        """
        self._leave()
        if headers:
            self._listen(ticket, headers)
        if retry_after > 0:
            self._not_before = max(self._not_before, self._clock() + retry_after)
        # One wave of refusals is one sign: what was sent before the last cut says nothing new.
        if self.automatic and ticket.number > self._last_cut:
            self._slow_start = False
            self._good = 0
            self._last_cut = self._numbers
            self.limit = max(1, self.limit // 2)
            self._note(why)

    def failed(self, ticket: Ticket) -> None:
        """A request failed in a way that says nothing about limits."""
        del ticket
        self._leave()

    def _leave(self) -> None:
        self.in_flight -= 1
        self._flying -= 1
        self._wake()

    def _wake(self) -> None:
        free = self.limit - self.in_flight
        while free > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1

    def _grow(self) -> None:
        if self.limit >= self.largest:
            return
        self.limit = min(self.largest, self.limit * 2 if self._slow_start else self.limit + 1)
        self._note("doubled" if self._slow_start else "one more")
        self._wake()

    def _note(self, why: str) -> None:
        self.history.append((round(self._clock() - self._started, 3), self.limit, why))

    def _pause(self, tokens: float) -> float:
        now = self._clock()
        until = self._not_before
        if self._rpm:
            until = max(until, self._next_request)
        if self._tpm:
            until = max(until, self._next_token)
        for name, need in (("requests", 1.0), ("tokens", tokens)):
            window = self._windows.get(name)
            if window is None or window.remaining >= need:
                continue
            if now < window.resets_at and (window.resets_at != float("inf") or self._flying):
                until = max(until, window.resets_at)
            elif window.limit is not None and need <= window.limit:
                window.remaining, window.resets_at = window.limit, float("inf")
            else:  # nothing is known of what the provider grants now; its next reply will say
                del self._windows[name]
        return max(0.0, until - now) if until != float("inf") else _UNHEARD_S

    def _listen(self, ticket: Ticket, headers: Mapping[str, str]) -> None:
        for name, sent_since in (
            ("requests", float(self._numbers - ticket.number)),
            ("tokens", self._tokens - ticket.tokens_before),
        ):
            known = self._windows.get(name)
            if known is not None and known.heard > ticket.number:
                continue  # a later request has already told more
            try:
                remaining = float(headers[f"x-ratelimit-remaining-{name}"])
                resets_at = self._clock() + parse_seconds(headers[f"x-ratelimit-reset-{name}"])
                limit = headers.get(f"x-ratelimit-limit-{name}")
                granted = None if limit is None else float(limit)
            except (KeyError, ValueError):
                continue
            self._windows[name] = _Window(granted, remaining - sent_since, resets_at, ticket.number)


def parse_seconds(text: str) -> float:
    """Seconds from a header such as `20ms`, `1.5s`, `6m0s` or a bare number.

    Raises:
        ValueError: It is none of these.
    """
    try:
        return max(0.0, float(text))
    except ValueError:
        parts = _PART.findall(text.strip())
        if "".join(number + unit for number, unit in parts) != text.strip() or not parts:
            raise
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float:
    """Seconds that a reply's headers ask to wait; 0 when they do not.

    Args:
        headers: The reply's headers; `retry-after-ms`, and `retry-after` in seconds or as an HTTP date.
        now: Seconds since the epoch.
    """
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        if "retry-after" in headers:
            text = headers["retry-after"]
            try:
                return parse_seconds(text)
            except ValueError:
                return max(0.0, parsedate_to_datetime(text).timestamp() - now())
    except (ValueError, TypeError):
        pass
    return 0.0
