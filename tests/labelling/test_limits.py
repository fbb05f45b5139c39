"""How fast to ask: what is found out, what the provider says, what the user allows."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_builders import FakeTime
from relabel.labelling.limits import Limiter, Ticket, parse_seconds
from relabel.labelling.provider_errors import retry_after
from simulated import Clock, FixedWindow, LeakyBucket, Provider, Traffic, simulate, talk


def made(concurrency: int | None = None, **options: float) -> tuple[Limiter, FakeTime]:
    time = FakeTime()
    given_options = {name: value for name, value in options.items() if name != "largest"}
    largest = int(options.get("largest", 512))
    return Limiter(concurrency, largest=largest, clock=time, sleep=time.sleep, **given_options), time


async def fill(limiter: Limiter, count: int | None = None, tokens: float = 1.0) -> list[Ticket]:
    return [await limiter.acquire(tokens) for _ in range(count or limiter.limit)]


def said(requests: float, reset: str = "60s", limit: float = 100.0) -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(requests),
        "x-ratelimit-reset-requests": reset,
    }


async def test_the_number_in_flight_doubles_until_the_first_sign_and_then_grows_by_one_a_round() -> None:
    limiter, _ = made()
    seen = [limiter.limit]
    for _ in range(3):
        for ticket in await fill(limiter):
            limiter.release(ticket)
        seen.append(limiter.limit)
    assert seen == [4, 8, 16, 32]
    first, *rest = await fill(limiter)
    limiter.limited(first, reason="429")
    assert limiter.limit == 16
    for ticket in rest:
        limiter.release(ticket)
    assert limiter.limit == 16
    for _ in range(2):
        for ticket in await fill(limiter):
            limiter.release(ticket)
    assert limiter.limit == 18


async def test_a_wave_of_refusals_is_one_sign() -> None:
    limiter, _ = made()
    for ticket in await fill(limiter):
        limiter.release(ticket)
    for ticket in await fill(limiter, 8):
        limiter.limited(ticket, reason="429")
    assert limiter.limit == 4
    for ticket in await fill(limiter, 4):
        limiter.limited(ticket, reason="429")
    assert limiter.limit == 2


async def test_the_limit_never_falls_below_one_nor_grows_above_its_bound() -> None:
    limiter, _ = made(largest=10)
    for _ in range(4):
        for ticket in await fill(limiter):
            limiter.release(ticket)
    assert limiter.limit == 10
    for _ in range(6):
        limiter.limited((await fill(limiter, 1))[0], reason="timeout")
    assert limiter.limit == 1


async def test_a_server_error_is_no_sign_of_a_limit() -> None:
    limiter, _ = made()
    for ticket in await fill(limiter):
        limiter.failed(ticket)
    assert (limiter.limit, limiter.in_flight) == (4, 0)


async def test_a_timeout_is_a_sign_of_a_limit() -> None:
    limiter, _ = made()
    limiter.limited((await fill(limiter, 1))[0], reason="timeout")
    assert limiter.limit == 2


async def test_a_fixed_number_never_changes() -> None:
    limiter, _ = made(7)
    for _ in range(3):
        tickets = await fill(limiter)
        for ticket in tickets[:3]:
            limiter.limited(ticket, reason="429")
        for ticket in tickets[3:]:
            limiter.release(ticket)
    assert limiter.limit == 7
    assert [entry[1:] for entry in limiter.history] == [(7, "start")]


async def test_the_history_says_when_the_limit_changed_and_why() -> None:
    limiter, time = made()
    for ticket in await fill(limiter):
        limiter.release(ticket)
    time.now += 2.5
    first, *rest = await fill(limiter)
    limiter.limited(first, reason="429")
    for ticket in rest:
        limiter.failed(ticket)
    for ticket in await fill(limiter, 4):
        limiter.release(ticket)
    assert list(limiter.history) == [
        (0.0, 4, "start"),
        (0.0, 8, "doubled"),
        (2.5, 4, "429"),
        (2.5, 5, "one more"),
    ]


async def test_retry_after_holds_everybody_back() -> None:
    limiter, time = made(4)
    limiter.limited((await fill(limiter, 1))[0], reason="429", retry_after=17.0)
    started = time.now
    assert (await limiter.acquire(1)).sent_at == started + 17
    assert (await limiter.acquire(1)).sent_at == started + 17


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after": "-4"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after-ms": "x"}, 0.0),
        ({"retry-after": ""}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "inf"}, 0.0),
    ],
)
def test_retry_after_is_understood_in_all_its_spellings(headers: dict[str, str], seconds: float) -> None:
    assert (retry_after(headers) or 0.0) == seconds


def test_retry_after_may_be_a_date() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    headers = {"retry-after": format_datetime(at, usegmt=True)}
    assert retry_after(headers, now=lambda: at.timestamp() - 42) == 42
    assert retry_after(headers, now=lambda: at.timestamp() + 42) == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20ms", 0.02), ("1.5s", 1.5), ("6m0s", 360), ("1h2m3s", 3723), ("7", 7), ("0s", 0), ("1d", 86400)],
)
def test_times_are_read_as_providers_write_them(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "5 parsecs", "1m nonsense", "2026-01-01T00:00:00Z"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_seconds(text)


async def test_a_used_up_window_is_waited_for_before_a_429_comes() -> None:
    limiter, time = made(4)
    limiter.release((await fill(limiter, 1))[0], headers=said(2, "30s"))
    began = time.now
    assert [ticket.sent_at - began for ticket in await fill(limiter, 2)] == [0, 0]
    limiter, time = made(4)
    limiter.release((await fill(limiter, 1))[0], headers=said(0, "30s"))
    assert (await limiter.acquire(1)).sent_at == began + 30


async def test_a_used_up_token_window_is_waited_for() -> None:
    limiter, time = made(4)
    headers = {"x-ratelimit-remaining-tokens": "99", "x-ratelimit-reset-tokens": "12s"}
    limiter.release((await fill(limiter, 1))[0], headers=headers)
    began = time.now
    assert (await limiter.acquire(99)).sent_at == began
    limiter, time = made(4)
    limiter.release((await fill(limiter, 1))[0], headers=headers)
    assert (await limiter.acquire(100)).sent_at == began + 12


async def test_what_an_older_reply_says_does_not_overrule_a_newer_one() -> None:
    limiter, time = made(4)
    first, second, third = await fill(limiter, 3)
    limiter.release(third, headers=said(0, "30s"))
    limiter.release(first, headers=said(2, "30s"))
    limiter.release(second, headers=said(1, "30s"))
    began = time.now
    assert (await limiter.acquire(1)).sent_at == began + 30


async def test_what_was_said_before_the_limit_was_granted_anew_is_old() -> None:
    limiter, time = made(4)
    first, late = await fill(limiter, 2)
    limiter.release(first, headers=said(0, "10s"))
    ticket = await limiter.acquire(1)
    granted = time.now
    limiter.release(ticket, headers=said(99, "50s"))
    limiter.release(late, headers=said(0, "50s"))
    assert (await limiter.acquire(1)).sent_at == granted


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-requests": "0"},
        {"x-ratelimit-reset-requests": "60s"},
        said(0) | {"x-ratelimit-remaining-requests": "none"},
        said(0) | {"x-ratelimit-remaining-requests": "nan"},
        said(0) | {"x-ratelimit-remaining-requests": "-1"},
        said(0) | {"x-ratelimit-limit-requests": "0"},
        said(0, "whenever"),
        said(0, "nan"),
        said(0, "inf"),
        said(0, "1893456000"),
        said(0, "6h0m0s"),
        said(0) | {"x-ratelimit-limit-requests": "plenty"},
    ],
)
async def test_malformed_headers_are_ignored(headers: dict[str, str]) -> None:
    limiter, time = made(4)
    limiter.release((await fill(limiter, 1))[0], headers=headers)
    await limiter.acquire(1)
    assert time.slept == []


def test_all_in_flight_failing_after_a_window_was_used_up_is_no_deadlock() -> None:
    async def run(clock: Clock) -> float:
        limiter = Limiter(4, clock=clock, sleep=asyncio.sleep)
        limiter.release(await limiter.acquire(1), headers=said(3, "10s", limit=3))
        for round_ in range(20):
            tickets = [await limiter.acquire(1) for _ in range(3)]
            for ticket in tickets:
                limiter.failed(ticket) if round_ % 2 else limiter.limited(ticket, reason="timeout")
        return clock()

    assert simulate(run) < 60


async def test_a_request_larger_than_a_whole_window_is_sent_all_the_same() -> None:
    limiter, time = made(4)
    headers = {
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": "6s",
    }
    limiter.release((await fill(limiter, 1))[0], headers=headers)
    began = time.now
    assert (await limiter.acquire(5000)).sent_at == began + 6


@pytest.mark.parametrize("concurrency", [None, 16, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("requests", "tokens", "allowed"), [(30, math.inf, 30), (600, math.inf, 600), (6000, 30_000, 300)]
)
@pytest.mark.parametrize("kind", [LeakyBucket, FixedWindow])
def test_a_provider_that_says_its_limits_never_has_to_refuse(
    kind: Callable[[float, float], Provider], requests: float, tokens: float, allowed: int, concurrency: int | None
) -> None:
    async def run(clock: Clock) -> Traffic:
        limiter = Limiter(concurrency, clock=clock, sleep=asyncio.sleep)
        return await talk(limiter, kind(requests, tokens), clock, seconds=300)

    traffic = simulate(run)
    assert [sent for sent in traffic.refused if sent >= traffic.first_headers] == []
    assert traffic.accepted >= 0.9 * allowed * 300 / 60


class _Slots:
    """A provider without headers that takes so many at once."""

    def __init__(self, slots: int) -> None:
        self.slots, self.busy, self.most = slots, 0, 0

    async def ask(self, limiter: Limiter) -> bool:
        ticket = await limiter.acquire(1)
        self.busy += 1
        full = self.busy > self.slots
        try:
            await asyncio.sleep(0.01 if full else 0.2)
        finally:
            self.busy -= 1
        if full:
            limiter.limited(ticket, reason="429", retry_after=0.05)
        else:
            limiter.release(ticket)
        return not full


@pytest.mark.slow
@pytest.mark.parametrize("slots", [3, 40, 200])
def test_what_a_silent_provider_takes_is_found_out(slots: int) -> None:
    async def run(clock: Clock) -> tuple[float, list[int]]:
        limiter, server, good = Limiter(None, clock=clock, sleep=asyncio.sleep), _Slots(slots), 0

        async def worker() -> None:
            nonlocal good
            while clock() < 120:
                answered = await server.ask(limiter)
                good += answered

        async with asyncio.TaskGroup() as group:
            for _ in range(512):
                group.create_task(worker())
        return good * 0.2 / 120, [limit for _, limit, _ in limiter.history]

    used, limits = simulate(run)
    assert used > 0.6 * slots
    assert max(limits[len(limits) // 2 :]) <= 2 * slots + 2


@settings(max_examples=30, deadline=None)
@given(
    limit=st.one_of(st.none(), st.integers(1, 6)),
    plan=st.lists(
        st.tuples(
            st.floats(0, 3),  # when it comes
            st.floats(0, 2),  # how long it takes
            st.sampled_from(["good", "429", "timeout", "error", "cancel"]),
            st.floats(0, 2),  # when it is cancelled, after it came
        ),
        min_size=1,
        max_size=25,
    ),
    rpm=st.one_of(st.none(), st.floats(30, 600)),
)
def test_no_slot_is_leaked_and_no_limit_passed_whatever_happens(
    limit: int | None, plan: list[tuple[float, float, str, float]], rpm: float | None
) -> None:
    async def run(clock: Clock) -> Limiter:
        limiter = Limiter(limit, rpm=rpm, clock=clock, sleep=asyncio.sleep)

        async def one(comes: float, takes: float, how: str) -> None:
            await asyncio.sleep(comes)
            before = limiter.limit
            ticket = await limiter.acquire(10)
            assert limiter.in_flight <= max(before, *(entry[1] for entry in limiter.history))
            if limit is not None:
                assert limiter.in_flight <= limit
            try:
                await asyncio.sleep(takes)
            except asyncio.CancelledError:
                limiter.failed(ticket)
                raise
            if how in {"429", "timeout"}:
                limiter.limited(ticket, reason=how, retry_after=0.3 if how == "429" else 0.0)
            elif how == "error":
                limiter.failed(ticket)
            else:
                limiter.release(ticket, headers=said(5, "1s", limit=9) if how == "good" else None)

        tasks = [asyncio.create_task(one(comes, takes, how)) for comes, takes, how, _ in plan]
        loop = asyncio.get_running_loop()
        for task, (comes, _, how, after) in zip(tasks, plan, strict=True):
            if how == "cancel":
                loop.call_later(comes + after, task.cancel)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(x is None or isinstance(x, asyncio.CancelledError) for x in done), done
        limiter.failed(await limiter.acquire(1))  # there is room again
        return limiter

    assert simulate(run).in_flight == 0


def most_in_a_minute(times: list[float]) -> int:
    first = most = 0
    for last, at in enumerate(times):
        while times[first] <= at - 60 + 1e-9:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.mark.parametrize("rpm", [7.0, 60.0, 333.0])
def test_requests_a_minute_are_kept_by_the_users_word(rpm: float) -> None:
    async def run(clock: Clock) -> Traffic:
        limiter = Limiter(64, rpm=rpm, clock=clock, sleep=asyncio.sleep)
        return await talk(limiter, LeakyBucket(math.inf), clock, seconds=240)

    traffic = simulate(run)
    assert most_in_a_minute(traffic.sent) <= rpm + 1
    assert len(traffic.sent) >= 0.95 * rpm * 4


def test_tokens_a_minute_are_kept_by_what_answers_really_took() -> None:
    async def run(clock: Clock) -> list[tuple[float, float]]:
        limiter, spent = Limiter(32, tpm=6000, clock=clock, sleep=asyncio.sleep), list[tuple[float, float]]()

        async def worker() -> None:
            while clock() < 300:
                ticket = await limiter.acquire(100)
                spent.append((clock(), 200.0))
                await asyncio.sleep(0.1)
                limiter.release(ticket)
                limiter.correct(ticket, 200)

        async with asyncio.TaskGroup() as group:
            for _ in range(32):
                group.create_task(worker())
        return spent

    spent = simulate(run)
    for start in range(0, 240, 5):
        assert sum(tokens for at, tokens in spent if start <= at < start + 60) <= 6000 + 2 * 200
    assert sum(tokens for _, tokens in spent) >= 0.9 * 6000 * 5
