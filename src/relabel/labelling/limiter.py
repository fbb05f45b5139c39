"""How fast to ask, how long to wait, and for how much: as fast as the provider lets us, and never more than the user allows.

Three things hold requests back. The number in flight: fixed, or found by doubling until the first sign of a limit and then
by additive increase and multiplicative decrease, as TCP does. The provider's own word: `Retry-After` and the
`x-ratelimit-*` headers. And the user's caps, `--rpm` and `--tpm`, kept by spacing requests evenly.

A 429 and a timeout are signs of a limit. A 5xx is not: the server is ill, not full.

A cap of the cost is kept by reserving the worst case of each request before it is sent.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from relabel.errors import ProviderError
from relabel.labelling.providers import FREE, Price
from relabel.labelling.request import canonical_json
from relabel.labelling.wire import output_bound
from relabel.labels import Usage
from relabel.manifest import PerhapsCharged

FIRST_LIMIT = 4
LARGEST_LIMIT = 512
_HISTORY = 500
_UNHEARD_S = 0.25
"""Pause while all that a provider granted is sent and none of it has come back to say more."""
_LONGEST_RESET_S = 900.0
"""What gives room only later than that, as a day's quota does, is not waited for: the refusal that follows ends the run and says when."""
DURATION = r"(?:\d+(?:\.\d+)?\s*(?:ms|milliseconds?|days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)(?![a-z])[ ,]*(?:and )?)+"
"""How amounts of time are written; letters of either case."""
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milli|d|h|m|s)", re.IGNORECASE)
_UNIT_S = {"ms": 0.001, "milli": 0.001, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass
class _Window:
    """What a provider's headers said about one of its limits. Times are on the clock.

    Replies come back in another order than they were counted in. The least that a reply said was left is the newest
    word until the limit is granted anew, and counts every request that has come back; those under way are taken off
    it by `Limiter`, because they may have been counted or not.
    """

    limit: float | None
    remaining: float
    resets_at: float
    granted_after: int
    """Requests up to this number were sent before the limit was last granted: what their replies say is old."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Permission to send one request.

    Attributes:
        number: Counts up with each permission.
        sent_at: When it was given, on the limiter's clock.
        tokens: Estimate of the request's tokens.
    """

    number: int
    sent_at: float
    tokens: float


class AnswerWait:
    """How long to wait for one answer: a multiple of the latencies seen, never below a floor, never above the timeout.

    A request that hangs is asked anew long before the timeout, where answers otherwise come fast. Each further attempt waits longer, so
    that an answer which really takes long is not cut off for good.

    Args:
        longest_s: The timeout, in seconds.
        adaptive: Whether latencies count; else the wait is the timeout.

    Attributes:
        wait_s: Seconds that a first attempt waits now.
        late_s: Seconds after which an answer is later than nearly all others; None while too few have come.
        cut: Attempts that were given up before the timeout.
    """

    MULTIPLE, FLOOR_S, LONGER = 6.0, 10.0, 3.0
    QUANTILE, FEWEST, EVERY = 0.95, 50, 25

    def __init__(self, longest_s: float, *, adaptive: bool = True) -> None:
        self.longest_s, self._adaptive = longest_s, adaptive
        self.wait_s, self.cut = longest_s, 0
        self.late_s: float | None = None
        self._seen: deque[float] = deque(maxlen=500)
        self._new = 0
        self._open: dict[asyncio.Timeout, tuple[float, float]] = {}
        """Attempts under way: when they began, and how many times the wait they have."""

    def seen(self, latency_s: float) -> None:
        """Count the latency of an answer."""
        self._seen.append(latency_s)
        self._new += 1
        if not self._adaptive or len(self._seen) < self.FEWEST or self._new < self.EVERY:
            return
        self._new = 0
        before, high = self.wait_s, sorted(self._seen)[int(self.QUANTILE * len(self._seen))]
        self.late_s = high
        self.wait_s = min(self.longest_s, max(self.FLOOR_S, self.MULTIPLE * high))
        for timeout, (began, times) in self._open.items() if self.wait_s < before else ():
            if not timeout.expired() and (when := timeout.when()) is not None:
                timeout.reschedule(min(when, began + times * self.wait_s))

    @asynccontextmanager
    async def limit(self, attempt: int, left_s: float) -> AsyncGenerator[None]:
        """Bound the wait for an answer.

        Args:
            attempt: Number of the attempt, from 1.
            left_s: Seconds until the request's deadline.

        Raises:
            TimeoutError: It took too long.
        """
        began, times = asyncio.get_running_loop().time(), self.LONGER ** (attempt - 1)
        longest = min(self.longest_s, left_s)
        try:
            async with asyncio.timeout(max(0.001, min(longest, times * self.wait_s))) as timeout:
                self._open[timeout] = began, times
                try:
                    yield
                finally:
                    del self._open[timeout]
        except TimeoutError:
            if (waited := asyncio.get_running_loop().time() - began) < longest:
                self.cut += 1
                self.seen(waited)
            raise


class Limiter:
    """Hands out permission to send.

    Args:
        concurrency: Requests in flight at most; None: as many as the server takes.
        largest: Most requests in flight, where none are named.
        rpm: Requests a minute at most, by the user's word.
        tpm: Tokens a minute at most, by the user's word.
        clock: Seconds on a clock that never runs back.
        sleep: Waits for some seconds.

    Attributes:
        unreachable: Why the last request could not even be sent; empty when it could.
        answer_wait: How long the engine that asks waits for one answer; None before there is one.
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
        self.rpm, self.tpm = rpm, tpm
        self.unreachable = ""
        self.answer_wait: AnswerWait | None = None
        self._clock, self._sleep = clock, sleep
        self._started = clock()
        self._note("start")
        self._slow_start = True
        self._good = 0
        self._last_cut = 0
        self._not_before = 0.0
        self._next_request = self._next_token = 0.0
        self._windows: dict[str, _Window] = {}
        self._paused_until = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._on_wire = 0
        self._tokens_on_wire = 0.0
        self._numbers = 0

    @property
    def returned(self) -> int:
        """Requests that were sent and have returned, with or without an answer."""
        return self._numbers - self._on_wire

    @property
    def paused_s(self) -> float:
        """Seconds until the next request may be sent, by the provider's word or the user's; 0 when one may be now."""
        return max(0.0, self._paused_until - self._clock()) if self.in_flight > self._on_wire == 0 else 0.0

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
                self._paused_until = self._clock() + pause
                await self._sleep(pause)
        except BaseException:
            self.in_flight -= 1
            self._wake()
            raise
        self._on_wire += 1
        self._tokens_on_wire += tokens
        now = self._clock()
        if self.rpm:
            self._next_request = max(now, self._next_request) + 60 / self.rpm
        if self.tpm:
            self._next_token = max(now, self._next_token) + 60 * tokens / self.tpm
        self._numbers += 1
        return Ticket(self._numbers, now, tokens)

    def correct(self, ticket: Ticket, used: float) -> None:
        """Put the tokens that a request really took in the place of the estimate."""
        if self.tpm:
            self._next_token += 60 * (used - ticket.tokens) / self.tpm

    def release(self, ticket: Ticket, *, headers: Mapping[str, str] | None = None) -> None:
        """A request has come back well.

        Args:
            ticket: Its permission.
            headers: The reply's headers.
        """
        self._leave(ticket, headers or {})
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
        self._leave(ticket, headers or {})
        if retry_after > 0:
            self._not_before = max(self._not_before, self._clock() + retry_after)
        # One wave of refusals is one sign: what was sent before the last cut says nothing new.
        if self.automatic and ticket.number > self._last_cut:
            self._slow_start = False
            self._good = 0
            self._last_cut = self._numbers
            self.limit = max(1, self.limit // 2)
            self._note(why)

    def failed(self, ticket: Ticket, *, unreachable: str = "") -> None:
        """A request failed in a way that says nothing about limits.

        Args:
            ticket: Its permission.
            unreachable: Why it was not even sent; shown until some other request comes through.
        """
        self._leave(ticket, {})
        self.unreachable = unreachable

    def _leave(self, ticket: Ticket, headers: Mapping[str, str]) -> None:
        self.in_flight -= 1
        self._on_wire -= 1
        self._tokens_on_wire = self._tokens_on_wire - ticket.tokens if self._on_wire else 0.0
        self._read_limits(ticket, headers)
        self.unreachable = ""
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
        if self.rpm:
            until = max(until, self._next_request)
        if self.tpm:
            until = max(until, self._next_token)
        for name, need, pending in (("requests", 1.0, float(self._on_wire)), ("tokens", tokens, self._tokens_on_wire)):
            window = self._windows.get(name)
            if window is None or window.remaining - pending >= need:
                continue
            if now < window.resets_at and (self._on_wire or window.resets_at != math.inf):
                # Replies under way may say that there is more room than has to be feared: look again soon.
                until = max(until, min(window.resets_at, now + _UNHEARD_S) if self._on_wire else window.resets_at)
            elif window.limit is None or need > window.limit:
                del self._windows[name]  # nothing is known of what the provider grants now; its next reply will say
            else:
                window.remaining, window.resets_at, window.granted_after = window.limit, math.inf, self._numbers
                if window.remaining - pending < need:
                    until = max(until, now + _UNHEARD_S)
        return max(0.0, until - now)

    def _read_limits(self, ticket: Ticket, headers: Mapping[str, str]) -> None:
        for name, taken in (("requests", 1.0), ("tokens", ticket.tokens)):
            known = self._windows.get(name)
            said = _limit_in_headers(name, headers)
            if said is None or (known is not None and ticket.number <= known.granted_after):
                if known is not None:  # the server may have counted it, and no later reply says so
                    known.remaining -= taken
                continue
            limit, remaining, resets_at = said[0], said[1], self._clock() + said[2]
            if known is None:
                self._windows[name] = _Window(limit, remaining, resets_at, 0)
            elif known.resets_at == math.inf:
                known.limit, known.remaining, known.resets_at = limit, remaining, resets_at
            else:
                known.limit, known.remaining = limit, min(known.remaining, remaining)
                known.resets_at = max(known.resets_at, resets_at)


def _limit_in_headers(name: str, headers: Mapping[str, str]) -> tuple[float | None, float, float] | None:
    """A limit in the headers: the amount granted, the amount left, and the seconds until the reset."""
    try:
        remaining = float(headers[f"x-ratelimit-remaining-{name}"])
        reset = parse_seconds(headers[f"x-ratelimit-reset-{name}"])
        limit = headers.get(f"x-ratelimit-limit-{name}")
        granted = None if limit is None else float(limit)
    except (KeyError, ValueError):
        return None
    # Who sends -1, or grants 0 with an answer, has no limit to tell of.
    known = 0 <= remaining < math.inf and (granted is None or 0 < granted < math.inf)
    return (granted, remaining, reset) if known and 0 <= reset <= _LONGEST_RESET_S else None


def parse_seconds(text: str) -> float:
    """Seconds from words such as `20ms`, `1.5s`, `6m0s`, `2 hours and 5 minutes` or a bare number.

    Raises:
        ValueError: It is none of these.
    """
    try:
        return max(0.0, float(text))
    except ValueError:
        if not re.fullmatch(DURATION, text.strip(), re.IGNORECASE):
            raise
        return sum(float(number) * _UNIT_S[unit.lower()] for number, unit in _AMOUNT.findall(text))


class NoBudgetError(Exception):
    """The cap leaves no room for another request."""


class Budget:
    """Keeps a run's cost below a cap.

    Args:
        cap_usd: The cap; None keeps no cap.
        price: The model's price; needed for a cap.
        before_usd: What earlier starts of the run spent, or may have: the cap is of the run.
    """

    def __init__(self, cap_usd: float | None, price: Price | None, *, before_usd: float = 0.0) -> None:
        self.cap_usd = cap_usd
        self.before_usd = before_usd
        self.spent_usd = 0.0
        self.unconfirmed_usd = 0.0
        self.unconfirmed_requests = 0
        self._bounded = True
        self._price = price
        self._reserved = 0.0
        self._open = 0
        self._settled = asyncio.Event()
        self._hidden = 0
        self._ignored = ""

    @property
    def perhaps_charged(self) -> PerhapsCharged:
        """What was sent and never answered."""
        return PerhapsCharged(requests=self.unconfirmed_requests, usd=self.unconfirmed_usd if self._bounded else None)

    @property
    def _left_usd(self) -> float:
        return (self.cap_usd or 0.0) - self.before_usd - self.spent_usd - self.unconfirmed_usd

    def unconfirmed(self, body: Mapping[str, Any], worst_usd: float) -> None:
        """A request is over, and whether it was charged is not known: the worst counts.

        Args:
            body: What was posted.
            worst_usd: What was reserved for it.
        """
        self.unconfirmed_requests += 1
        if self.cap_usd is not None:
            self.settle(worst_usd, None)
        elif (most := self.most(body)) is None:
            self._bounded = False
        else:
            self.unconfirmed_usd += most

    def dropped(self, cost_usd: float | None) -> None:
        """An answer came second to a request that was sent twice: it was charged all the same."""
        self.unconfirmed_requests += 1
        self.spent_usd -= cost_usd or 0.0
        self.unconfirmed_usd += cost_usd or 0.0
        self._bounded = self._bounded and (cost_usd is not None or self.cap_usd is not None)

    def most(self, body: Mapping[str, Any]) -> float | None:
        """The most that a request can cost, in USD; None where no bound of it is known."""
        if self._price is None or (output_bound(body) is None and self._price.output > 0):
            return None
        return self._worst_case(body)

    def worst_case(self, body: Mapping[str, Any]) -> float:
        """What to reserve for a request, in USD: the most that it can cost; nothing where there is no cap."""
        return 0.0 if self.cap_usd is None else self._worst_case(body)

    def _worst_case(self, body: Mapping[str, Any]) -> float:
        price = self._price or FREE
        prompt = len(canonical_json(body)) + 64  # a token is at least a byte of what is posted
        dearest = max(price.input, price.cached, price.written or 0.0)
        return (prompt * dearest + ((output_bound(body) or 0) + self._hidden) * price.output) / 1e6

    def check_bound(self, body: Mapping[str, Any], usage: Usage) -> None:
        """Learn from an answer whether the bound of answers holds.

        Thinking beyond it is reserved for from then on. Where the server does not know the bound, no cap can be kept, and nothing
        more is sent.
        """
        bound = output_bound(body)
        if self.cap_usd is None or bound is None or usage.completion <= bound:
            return
        if usage.completion - usage.reasoning <= bound:
            self._hidden = max(self._hidden, 2 * (usage.completion - bound))
        else:
            self._ignored = (
                f"the server wrote {usage.completion:,} tokens although at most {bound:,} were allowed, so --max-cost cannot be "
                "guaranteed and the run stops; set the limit by the name that this server uses, such as --param max_tokens=N"
            )

    async def reserve(self, worst_usd: float) -> None:
        """Set money aside, waiting for requests in flight to settle where they might leave room.

        Raises:
            NoBudgetError: The cap leaves too little for this request, and no request in flight can free any of it.
            ProviderError: The server does not keep to the bound on which the reserve rests.
        """
        if self.cap_usd is None:
            return
        while not self._ignored and self._left_usd - self._reserved < worst_usd:
            if not self._open:
                earlier = f", after {self.before_usd:.4f} in earlier starts of this run" if self.before_usd else ""
                raise NoBudgetError(
                    f"the next request may cost up to {worst_usd:.4f} USD, and only {max(0.0, self._left_usd):.4f} USD "
                    f"of the cap of {self.cap_usd:.4f} USD are left{earlier}"
                )
            self._settled.clear()
            await self._settled.wait()
        if self._ignored:
            raise ProviderError(self._ignored)
        self._reserved += worst_usd
        self._open += 1

    def settle(self, worst_usd: float, cost_usd: float | None) -> None:
        """A request is over. `cost_usd` is None where it is unknown whether it was charged: then the worst counts."""
        if self.cap_usd is None:
            self.spent_usd += cost_usd or 0.0
            return
        self._open -= 1
        self._reserved = max(0.0, self._reserved - worst_usd) if self._open else 0.0
        if cost_usd is None:
            self.unconfirmed_usd += worst_usd
        else:
            self.spent_usd += cost_usd
        self._settled.set()
