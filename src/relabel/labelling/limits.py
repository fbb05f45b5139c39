"""Limits on speed, waiting time and cost: as fast as the provider allows, and never more than the user allows.

Requests are limited in three ways. By number in flight: fixed, or found as in TCP, by doubling until the first sign of a
limit and then additive increase and multiplicative decrease. By the provider: `Retry-After` and `x-ratelimit-*` headers. By
the user: `--rpm` and `--tpm`, kept by spacing requests evenly.

A 429 or a timeout is a sign of a limit. A 5xx is not: it means that the server is broken, not full.

A cost cap is kept by reserving the worst case of each request before it is sent.
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
# Pause before checking again, in seconds, if the allowance is used up but replies in flight may report a larger one.
_RECHECK_S = 0.25
# Resets later than this, such as those of a daily quota, are not waited for: the provider will refuse, which ends the run.
_LONGEST_RESET_S = 900.0
# Seconds without an answer after which refusals are no longer waited for: if they name no time, and if they name one, which may
# be asked for so many times.
_ONLY_REFUSALS_S, _ONLY_NAMED_S, _NAMED_TIMES = 180.0, 600.0, 5
# Longest plausible wait, in seconds; a longer one is ignored.
LONGEST_WAIT_S = 32 * 86400.0
# Regular expression for a duration, regardless of case.
DURATION = r"(?:\d+(?:\.\d+)?\s*(?:ms|milliseconds?|days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)(?![a-z])[ ,]*(?:and )?)+"
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milli|d|h|m|s)", re.IGNORECASE)
_UNIT_S = {"ms": 0.001, "milli": 0.001, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass
class _Window:
    """One of the provider's limits, from its headers. Times are on the limiter's clock.

    Replies may arrive in another order than the provider counted the requests, so `remaining` is the lowest value reported
    since the last reset. `Limiter` also subtracts requests in flight, which the provider may not have counted yet.
    """

    limit: float | None
    remaining: float
    resets_at: float
    # Replies to requests up to this number are outdated, because these were sent before the last reset.
    granted_after: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """Permission to send one request.

    Attributes:
        number: Consecutive number.
        sent_at: When it was granted, on the limiter's clock.
        tokens: Estimate of the request's tokens.
    """

    number: int
    sent_at: float
    tokens: float


class AnswerWait:
    """Adaptive timeout for one answer: a multiple of recent latencies, between a floor and the timeout.

    If answers are usually fast, a request that hangs is retried long before the timeout. Each further attempt may take longer,
    so that a slow answer still arrives.

    Args:
        longest_s: The timeout, in seconds.
        adaptive: Whether to use latencies; otherwise the wait is the timeout.

    Attributes:
        wait_s: Current wait of a first attempt, in seconds.
        late_s: The 95th percentile of latencies, in seconds; None with too few answers.
        cut: Number of attempts abandoned before the timeout.
    """

    MULTIPLE, FLOOR_S, LONGER = 6.0, 10.0, 3.0
    QUANTILE, FEWEST, EVERY = 0.95, 50, 25

    def __init__(self, longest_s: float, *, adaptive: bool = True) -> None:
        self.longest_s, self._adaptive = longest_s, adaptive
        self.wait_s, self.cut = longest_s, 0
        self.late_s: float | None = None
        self._seen: deque[float] = deque(maxlen=500)
        self._new = 0
        # For each attempt in progress: when it began, and its multiple of the wait.
        self._open: dict[asyncio.Timeout, tuple[float, float]] = {}

    def seen(self, latency_s: float) -> None:
        """Record the latency of an answer, in seconds."""
        self._seen.append(latency_s)
        self._new += 1
        if not self._adaptive or len(self._seen) < self.FEWEST or self._new < self.EVERY:
            return
        self._new = 0
        before, self.late_s = self.wait_s, sorted(self._seen)[int(self.QUANTILE * len(self._seen))]
        self.wait_s = min(self.longest_s, max(self.FLOOR_S, self.MULTIPLE * self.late_s))
        for timeout, (began, multiple) in self._open.items() if self.wait_s < before else ():
            if not timeout.expired() and (ends_at := timeout.when()) is not None:
                timeout.reschedule(min(ends_at, began + multiple * self.wait_s))

    @asynccontextmanager
    async def limit(self, attempt: int, left_s: float) -> AsyncGenerator[None]:
        """Limit the wait for an answer.

        Args:
            attempt: Number of the attempt, from 1.
            left_s: Seconds until the request's deadline.

        Raises:
            TimeoutError: The block took too long.
        """
        began, multiple = asyncio.get_running_loop().time(), self.LONGER ** (attempt - 1)
        longest = min(self.longest_s, left_s)
        try:
            async with asyncio.timeout(max(0.001, min(longest, multiple * self.wait_s))) as timeout:
                self._open[timeout] = began, multiple
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
    """Grants permission to send requests.

    Args:
        concurrency: Maximum number of requests in flight; None to adapt it to the server.
        largest: Maximum when adapting.
        rpm: The user's maximum of requests per minute.
        tpm: The user's maximum of tokens per minute.
        clock: Monotonic clock, in seconds.
        sleep: Waits for a number of seconds.

    Attributes:
        unreachable: Why the last request could not be sent; empty if it could.
        to_repeat: Requests that wait to be sent again, by key, with the HTTP status of their last error, or `no answer`.
        answer_wait: The engine's adaptive timeout; None before there is an engine.
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
        self.to_repeat: dict[str, int | str] = {}
        self.answer_wait: AnswerWait | None = None
        self._clock, self._sleep = clock, sleep
        self._started = clock()
        self._note("start")
        self._slow_start = True
        self._successes = self._last_reduction = 0
        self._refused_since = math.inf  # when the present series of refusals began
        self._next_request = self._next_token = 0.0
        self._windows: dict[str, _Window] = {}
        self._not_before = self._paused_until = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._on_wire = 0
        self._tokens_on_wire = 0.0
        self._granted = 0

    @property
    def paused_s(self) -> float:
        """Seconds until the limits of provider and user allow a request, if all requests wait for that; otherwise 0."""
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
        self._granted += 1
        return Ticket(self._granted, now, tokens)

    def correct(self, ticket: Ticket, used: float) -> None:
        """Replace the estimate of a request's tokens by the number used."""
        if self.tpm:
            self._next_token += 60 * (used - ticket.tokens) / self.tpm

    def release(self, ticket: Ticket, *, headers: Mapping[str, str] | None = None) -> None:
        """Return a ticket after a successful request.

        Args:
            ticket: The ticket.
            headers: The reply's headers.
        """
        self._leave(ticket, headers or {})
        self._refused_since = math.inf
        if self.automatic and ticket.number > self._last_reduction:
            self._successes += 1
            if self._successes >= self.limit:
                self._successes = 0
                self._grow()

    def wait_after(self, named_s: float | None) -> float | None:
        """Seconds to wait after a 429: those that it names, or as long as there have been only refusals, up to the usual minute.

        None if there have been only refusals for so long that waiting seems pointless.
        """
        now = self._clock()
        self._refused_since = min(self._refused_since, now)
        refused_s = now - self._refused_since
        if refused_s > (max(_ONLY_NAMED_S, _NAMED_TIMES * named_s) if named_s else _ONLY_REFUSALS_S):
            return None
        return named_s or (min(refused_s, 60.0) if refused_s >= 0.5 else 0.0)

    def limited(
        self, ticket: Ticket, *, reason: str, retry_after: float = 0.0, headers: Mapping[str, str] | None = None
    ) -> None:
        """Return a ticket after a sign of a limit: a 429, or a timeout.

        Args:
            ticket: The ticket.
            reason: A word for the history.
            retry_after: Seconds that the provider asks to wait; this applies to all requests.
            headers: The reply's headers.
        """
        self._leave(ticket, headers or {})
        if retry_after > 0:
            self._not_before = max(self._not_before, self._clock() + retry_after)
        # Many refusals at once count as one sign: ignore those of requests sent before the last reduction.
        if self.automatic and ticket.number > self._last_reduction:
            self._slow_start = False
            self._successes = 0
            self._last_reduction = self._granted
            self.limit = max(1, self.limit // 2)
            self._note(reason)

    def failed(self, ticket: Ticket, *, unreachable: str = "") -> None:
        """Return a ticket after a failure that is not a sign of a limit.

        Args:
            ticket: The ticket.
            unreachable: Why the request could not be sent; shown until another request succeeds.
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

    def _note(self, reason: str) -> None:
        self.history.append((round(self._clock() - self._started, 3), self.limit, reason))

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
                # Replies in flight may report a larger allowance: check again soon.
                until = max(until, min(window.resets_at, now + _RECHECK_S) if self._on_wire else window.resets_at)
            elif window.limit is None or need > window.limit:
                del self._windows[name]  # the allowance is unknown until the next reply
            else:
                window.remaining, window.resets_at, window.granted_after = window.limit, math.inf, self._granted
                if window.remaining - pending < need:
                    until = max(until, now + _RECHECK_S)
        return max(0.0, until - now)

    def _read_limits(self, ticket: Ticket, headers: Mapping[str, str]) -> None:
        for name, taken in (("requests", 1.0), ("tokens", ticket.tokens)):
            window = self._windows.get(name)
            reported = limit_in_headers(name, headers)
            outdated = window is not None and ticket.number <= window.granted_after
            if reported is None or reported[2] > _LONGEST_RESET_S or outdated:
                if window is not None:  # the server may have counted this request, although no later reply says so
                    window.remaining -= taken
                continue
            limit, remaining, resets_at = reported[0], reported[1], self._clock() + reported[2]
            if window is not None and window.resets_at != math.inf:
                remaining, resets_at = min(window.remaining, remaining), max(window.resets_at, resets_at)
            self._windows[name] = _Window(limit, remaining, resets_at, window.granted_after if window else 0)


def limit_in_headers(name: str, headers: Mapping[str, str]) -> tuple[float | None, float, float] | None:
    """A limit in the headers: the amount granted (None if not given), the amount left, and the seconds until the reset."""
    try:
        remaining = float(headers[f"x-ratelimit-remaining-{name}"])
        reset = parse_seconds(headers[f"x-ratelimit-reset-{name}"])
        limit = headers.get(f"x-ratelimit-limit-{name}")
        granted = None if limit is None else float(limit)
    except (KeyError, ValueError):
        return None
    # Some servers send -1, or 0 with an answer, if there is no limit.
    has_limit = 0 <= remaining < math.inf and (granted is None or 0 < granted < math.inf)
    return (granted, remaining, reset) if has_limit and 0 <= reset <= LONGEST_WAIT_S else None


def parse_seconds(text: str) -> float:
    """Parse a duration such as `20ms`, `1.5s`, `6m0s`, `2 hours and 5 minutes` or a number, in seconds.

    Raises:
        ValueError: It is none of these.
    """
    try:
        return max(0.0, float(text))
    except ValueError:
        if not re.fullmatch(DURATION, text.lstrip(), re.IGNORECASE):
            raise
        return sum(float(number) * _UNIT_S[unit.lower()] for number, unit in _AMOUNT.findall(text))


class NoBudgetError(Exception):
    """The cap leaves no room for another request."""


class Budget:
    """Keeps a run's cost below a cap.

    Args:
        cap_usd: The cap for all starts of the run; None for no cap.
        price: The model's price; required for a cap.
        before_usd: What earlier starts of the run spent, or may have spent.
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
        self._hidden = 0  # tokens to reserve for hidden thinking, beyond the maximum of an answer
        self._dearest = 0.0  # the costs that a provider states may exceed those by the price table
        self._ignored = ""

    @property
    def perhaps_charged(self) -> PerhapsCharged:
        """Requests that were sent but never answered, and their maximum cost."""
        return PerhapsCharged(requests=self.unconfirmed_requests, usd=self.unconfirmed_usd if self._bounded else None)

    @property
    def _left_usd(self) -> float:
        return (self.cap_usd or 0.0) - self.before_usd - self.spent_usd - self.unconfirmed_usd

    def unconfirmed(self, body: Mapping[str, Any], worst_usd: float) -> None:
        """Settle a request that may have been charged, at its worst case.

        Args:
            body: The posted document.
            worst_usd: The amount reserved for it.
        """
        self.unconfirmed_requests += 1
        if self.cap_usd is not None:
            self.settle(worst_usd, None)
        elif (most := self.most(body)) is None:
            self._bounded = False
        else:
            self.unconfirmed_usd += most

    def dropped(self, cost_usd: float | None) -> None:
        """Count the second answer to a request that was sent twice: it is charged, but not used."""
        self.unconfirmed_requests += 1
        self.spent_usd -= cost_usd or 0.0
        self.unconfirmed_usd += cost_usd or 0.0
        self._bounded = self._bounded and (cost_usd is not None or self.cap_usd is not None)

    def most(self, body: Mapping[str, Any]) -> float | None:
        """The maximum cost of a request, in USD; None if it is not bounded."""
        if self._price is None or (output_bound(body) is None and self._price.output > 0):
            return None
        return self._worst_case(body)

    def worst_case(self, body: Mapping[str, Any]) -> float:
        """The amount to reserve for a request, in USD: its maximum cost, or 0 without a cap."""
        return 0.0 if self.cap_usd is None else max(self._worst_case(body), self._dearest)

    def _worst_case(self, body: Mapping[str, Any]) -> float:
        price = self._price or FREE
        prompt = len(canonical_json(body)) + 64  # a token is at least one byte of the body
        dearest = max(price.input, price.cached, price.written or 0.0)
        return (prompt * dearest + ((output_bound(body) or 0) + self._hidden) * price.output) / 1e6

    def check_bound(self, body: Mapping[str, Any], usage: Usage) -> None:
        """Check whether an answer kept to its maximum number of tokens.

        If hidden thinking exceeds the maximum, more is reserved from then on. If the server ignores the maximum, the cap
        cannot be kept, and nothing more is sent.
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
        """Reserve an amount; waits if requests in flight may free some of the budget.

        Raises:
            NoBudgetError: Too little of the cap is left for this request, and no request in flight can free more.
            ProviderError: The server ignores the maximum number of tokens, so the cap cannot be kept.
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
        """Settle a request at its cost, or at the worst case if the cost is None (unknown)."""
        if self.cap_usd is None:
            self.spent_usd += cost_usd or 0.0
            return
        self._open -= 1
        self._reserved = max(0.0, self._reserved - worst_usd) if self._open else 0.0
        if cost_usd is None:
            self.unconfirmed_usd += worst_usd
        else:
            self.spent_usd += cost_usd
            self._dearest = max(self._dearest, cost_usd)
        self._settled.set()
