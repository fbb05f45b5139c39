"""What people see while a job runs, and at its end."""

from __future__ import annotations

import asyncio
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from job_builders import FakeTime, make_job
from relabel.cli.app import run_app
from relabel.cli.terminal import PlainLines, duration, line, money, panel, paused_until, shown
from relabel.errors import ProviderError
from relabel.labelling.collector import Progress, RateEstimator
from relabel.labelling.engine import OnlineEngine
from relabel.labelling.limits import Limiter
from relabel.labelling.request import Request
from relabel.labelling.runner import run_job
from relabel.labelling.store import Store
from relabel.labelling.transport import Connection
from relabel.labels import Answer, Usage
from server import Reply, Seen, chat, judged, provider, refused


def busy(limiter: Limiter | None = None) -> RateEstimator:
    """A job that has had 2,043 answers in 100 seconds, and labels of the store at its start."""
    now = FakeTime()
    progress = Progress(asked=38_530, from_store=12_000)
    progress.in_flight["k"] = ("8823 strict", time.monotonic() - 95)
    estimator = RateEstimator(progress, limiter or Limiter(None), clock=now)
    now.now += 100
    progress.fresh = 2_000
    progress.failed.update(refusal=3, timeout=40)
    progress.bought_tokens.update(prompt=1_400_000, cached=1_200_000, completion=90_000)
    progress.cost_usd = 0.5
    estimator.look()
    return estimator


def new(asked: int, limiter: Limiter | None = None) -> RateEstimator:
    return RateEstimator(Progress(asked=asked), limiter or Limiter(8))


def drawn(estimator: RateEstimator, width: int) -> str:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(panel(estimator))
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_panel_shows_how_far_how_fast_and_how_dear(width: int) -> None:
    text = drawn(busy(), width)
    flat = " ".join(text.split())
    assert max(len(shown_line) for shown_line in text.splitlines()) <= width
    for words in (
        "14,043 of 38,530",
        "from store 12,000",
        "fresh 2,000",
        "failed 40 timeout, 3 refusal",
        "in flight 1, concurrency 4 (auto)",
        "rate 20.4/s",
        "left 19 min 59 s",
        "1,400,000 in (1,200,000 cached), 90,000 out",
        "$0.5000, $6.6",
        "slowest in flight: 8823 strict 1 min 35 s",
    ):
        assert words in flat, words


def test_the_bar_can_be_read_without_colour() -> None:
    for encoding, sign in (("utf-8", "━"), ("ascii", "-")):
        plain = Console(record=True, width=80, file=io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        plain.print(panel(busy()))
        assert plain.export_text().split()[0].count(sign) == 10, encoding


def test_the_panel_of_a_job_that_begins_promises_nothing() -> None:
    flat = " ".join(drawn(new(10), 80).split())
    assert "0 of 10" in flat
    assert "failed none" in flat
    assert "in flight 0, concurrency 8 (fixed) rate - left -" in flat
    assert "slowest" not in flat


def test_the_panel_of_a_batch_job_names_no_limit_of_ours() -> None:
    assert "in flight 0 rate - left -" in " ".join(drawn(RateEstimator(Progress(asked=10), None), 80).split())


async def test_the_events_of_a_batch_job_name_no_limit_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    async with shown(Progress(asked=10), None, look="json"):
        await asyncio.sleep(0)
    events = [json.loads(said) for said in capsys.readouterr().err.splitlines()]
    assert [(event["event"], event["limit"], event["paused_s"]) for event in events] == [
        ("start", None, 0),
        ("end", None, 0),
    ]


async def test_a_long_pause_is_said_with_its_end() -> None:
    asleep = asyncio.Event()

    async def sleep(seconds: float) -> None:
        del seconds
        asleep.set()
        await asyncio.Event().wait()

    limiter = Limiter(8, sleep=sleep)
    assert paused_until(limiter) is None
    first = await limiter.acquire(100)
    limiter.release(first, headers={"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m30s"})
    waiting = asyncio.create_task(limiter.acquire(100))
    await asleep.wait()
    assert 85 < limiter.paused_s <= 90
    assert "paused until" in " ".join(drawn(new(10, limiter), 100).split())
    waiting.cancel()
    await asyncio.wait({waiting})
    assert paused_until(limiter) is None


def test_the_panel_of_an_empty_job_can_be_drawn() -> None:
    assert "0 of 0" in drawn(new(0), 80)


def test_the_plain_line_says_the_same_in_short() -> None:
    assert line(busy()) == (
        "14043/38530 | 12000 from store | 40 timeout, 3 refusal | 20.4/s | 19 min 59 s left | 1,490,000 tokens | $0.5000"
    )
    assert line(new(5)) == "0/5 | 0 tokens | $0.0000"


def test_an_unknown_price_is_said() -> None:
    estimator = new(5)
    estimator.progress.bought(
        Answer(
            request_key="k",
            content="",
            finish_reason="stop",
            model_returned="m",
            usage=Usage(prompt=7),
            attempts=1,
            latency_s=0,
            created_at="",
            cost_usd=None,
            raw={},
        )
    )
    assert "cost unknown" in line(estimator)
    assert estimator.cost_at_end is None
    assert money(0.25) == "$0.2500"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3600, "1 h 00 min"), (90_061, "25 h 01 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def plain_lines(estimator: RateEstimator, now: FakeTime, seconds: int) -> list[tuple[int, str]]:
    """What plain progress says while nothing but the clock moves, and after how many seconds."""
    lines, begun = PlainLines(estimator, now.now), now.now
    said: list[tuple[int, str]] = []
    for _ in range(seconds):
        now.now += 1
        if (text := lines.due(now.now)) is not None:
            said.append((round(now.now - begun), text))
    return said


def test_plain_progress_repeats_itself_once_a_minute_and_says_what_it_waits_for() -> None:
    now, estimator = FakeTime(), new(120)
    estimator.progress.in_flight.update({str(n): (f"{n} strict", now.now - 20 * (n == 3)) for n in range(4)})
    assert plain_lines(estimator, now, 200) == [
        (10, "0/120 | 0 tokens | $0.0000"),
        (70, "0/120 | 0 tokens | $0.0000 | waiting for 4 answers, the slowest for 1 min 30 s"),
        (130, "0/120 | 0 tokens | $0.0000 | waiting for 4 answers, the slowest for 2 min 30 s"),
        (190, "0/120 | 0 tokens | $0.0000 | waiting for 4 answers, the slowest for 3 min 30 s"),
    ]


def test_plain_progress_says_what_has_changed_every_ten_seconds() -> None:
    now, estimator = FakeTime(), new(120)
    lines = PlainLines(estimator, now.now)
    said = 0
    for second in range(1, 101):
        now.now += 1
        estimator.progress.from_store = second
        said += lines.due(now.now) is not None
    assert said == 10


def test_a_server_that_cannot_be_reached_is_said_at_once_and_once() -> None:
    now, limiter = FakeTime(), Limiter(4)
    estimator = new(120, limiter)
    limiter.unreachable = "cannot reach http://h/v1 (connection refused)"
    words = "cannot reach http://h/v1 (connection refused), trying again"
    assert plain_lines(estimator, now, 5) == [(1, f"0/120 | 0 tokens | $0.0000 | {words}")]
    assert words in " ".join(drawn(estimator, 80).split())


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:9/v1", "http://localhost:9/v1"])
async def test_the_limiter_knows_that_nobody_is_there_before_the_request_is_given_up(base_url: str) -> None:
    limiter = Limiter(4)
    seen: list[str] = []

    async def sleep(seconds: float) -> None:
        del seconds
        seen.append(limiter.unreachable)

    engine = OnlineEngine(Connection(base_url), limiter=limiter, sleep=sleep)
    request = Request(host="h", body={"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
    with pytest.raises(ProviderError, match=r"cannot reach .*: connection refused\)"):
        await engine.ask(request)
    await engine.close()
    host = base_url.split("/")[2]
    assert set(seen) == {f"cannot reach {base_url} ({host}: connection refused)"}


async def test_a_server_that_answers_is_not_said_to_be_out_of_reach() -> None:
    limiter = Limiter(4)
    limiter.failed(await limiter.acquire(1), unreachable="cannot reach it")
    assert limiter.unreachable
    limiter.failed(await limiter.acquire(1))
    assert not limiter.unreachable


async def test_the_end_of_a_pause_is_no_news() -> None:
    time_ = FakeTime()

    async def sleep(seconds: float) -> None:
        del seconds
        await asyncio.Event().wait()

    limiter = Limiter(4, rpm=6, clock=time_, sleep=sleep)
    estimator = new(6, limiter)
    limiter.release(await limiter.acquire(100))
    waiting = asyncio.create_task(limiter.acquire(100))
    await asyncio.sleep(0)
    lines, now = PlainLines(estimator, 0.0), 1.0
    assert "paused until" in (lines.due(now) or "")
    time_.now += 20
    assert [lines.due(now + second) for second in range(1, 59)] == [None] * 58
    waiting.cancel()
    await asyncio.wait({waiting})


def test_what_is_done_at_the_end_of_a_run_is_said() -> None:
    now, estimator = FakeTime(), new(1_000_000)
    estimator.progress.doing = "naming"
    words = "listing 1,000,000 missing labels; Ctrl-C quits now"
    assert plain_lines(estimator, now, 5) == [(1, f"0/1000000 | 0 tokens | $0.0000 | {words}")]
    assert words in " ".join(drawn(estimator, 80).split())
    estimator.progress.doing = "writing"
    assert "writing the run folder" in drawn(estimator, 80)


def come(estimator: RateEstimator, now: FakeTime, seconds: float, *, fresh: int = 0, from_store: int = 0) -> None:
    now.now += seconds
    estimator.progress.fresh += fresh
    estimator.progress.from_store += from_store
    estimator.look()


def begun(asked: int, limiter: Limiter | None = None) -> tuple[RateEstimator, FakeTime]:
    now = FakeTime()
    progress = Progress(asked=asked)
    progress.in_flight["k"] = ("1 strict", now.now)
    return RateEstimator(progress, limiter or Limiter(8), clock=now), now


def test_what_comes_is_foreseen_from_the_last_answers() -> None:
    estimator, now = begun(100)
    estimator.progress.cost_usd = 1.0
    come(estimator, now, 5, fresh=10)
    estimator.progress.failed.update(refusal=10)
    come(estimator, now, 5)
    assert estimator.rate == 2.0
    assert estimator.seconds_left == 40
    assert estimator.cost_at_end == pytest.approx(9.0)


def test_nothing_is_foreseen_before_some_answers_have_come() -> None:
    estimator, now = begun(100)
    come(estimator, now, 5, fresh=2)
    assert (estimator.rate, estimator.seconds_left, estimator.cost_at_end) == (None, None, None)


def test_the_start_of_a_model_is_not_taken_for_slowness() -> None:
    now = FakeTime()
    estimator = RateEstimator(Progress(asked=100), Limiter(8), clock=now)
    come(estimator, now, 600)
    estimator.progress.in_flight["k"] = ("1 strict", now.now)
    come(estimator, now, 10, fresh=10)
    assert estimator.rate == 1.0


def test_labels_of_the_store_do_not_make_a_job_fast() -> None:
    estimator, now = begun(10_000)
    for _ in range(10):
        come(estimator, now, 1, fresh=10, from_store=890)
    assert estimator.rate == pytest.approx(10)
    assert estimator.seconds_left == pytest.approx(1_000 / 10)


def test_labels_that_nobody_is_asked_for_do_not_make_a_job_fast() -> None:
    estimator, now = begun(10_000)
    come(estimator, now, 5, fresh=10)
    estimator.progress.failed.update(provider=5000)
    estimator.progress.unasked += 5000
    come(estimator, now, 1)
    assert (estimator.rate, estimator.seconds_left) == (2.0, (10_000 - 5_010) / 2.0)


async def test_the_first_pause_is_said_at_once() -> None:
    limiter = Limiter(4, rpm=6)
    estimator = new(6, limiter)
    limiter.release(await limiter.acquire(100))
    waiting = asyncio.create_task(limiter.acquire(100))
    await asyncio.sleep(0)
    said = plain_lines(estimator, FakeTime(), 3)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert [when for when, _ in said] == [1]
    assert "paused until " in said[0][1]


async def test_only_requests_on_the_wire_are_shown_in_flight(store: Store, tmp_path: Path) -> None:
    seen_at_once: list[tuple[int, int]] = []
    progress = Progress(asked=80)
    limiter = Limiter(50)
    limiter.limit = 3

    def script(seen: Seen) -> Reply:
        seen_at_once.append((len(progress.in_flight), limiter.limit))
        return Reply(body=judged().body, delay=0.01)

    with provider(script) as fake:
        engine = OnlineEngine(Connection(fake.base_url), limiter=limiter)
        await run_job(make_job(fake.base_url, 40), engine, store, tmp_path / "run", progress=progress)
        await engine.close()
    assert {limit for _, limit in seen_at_once} == {3}
    assert max(in_flight for in_flight, _ in seen_at_once) == 3
    assert progress.in_flight == {}


async def test_an_answer_that_waits_to_be_entered_is_not_in_flight_any_more(store: Store, tmp_path: Path) -> None:
    """A clump of answers is entered a few at a time; meanwhile others are sent in their place."""
    progress, limiter, rounds = Progress(asked=128), Limiter(64), list[tuple[int, int]]()
    limiter.limit = 32

    async def look() -> None:
        while True:
            rounds.append((len(progress.in_flight), limiter.limit))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    with provider(lambda seen: Reply(body=judged().body, delay=0.05)) as fake:
        engine = OnlineEngine(Connection(fake.base_url), limiter=limiter)
        await run_job(make_job(fake.base_url, 64), engine, store, tmp_path / "run", progress=progress)
        await engine.close()
    looking.cancel()
    assert max(in_flight for in_flight, _ in rounds) == 32
    assert progress.in_flight == {}


async def test_the_first_question_is_in_flight_too(store: Store, tmp_path: Path) -> None:
    progress, seen_in_flight = Progress(asked=4), list[list[str]]()

    def script(seen: Seen) -> Reply:
        seen_in_flight.append([what for what, _ in progress.in_flight.values()])
        return judged()

    with provider(script) as fake:
        engine = OnlineEngine(Connection(fake.base_url), limiter=Limiter(2))
        job = make_job(fake.base_url, 2, probe=True)
        await run_job(job, engine, store, tmp_path / "run", progress=progress)
        await engine.close()
    assert seen_in_flight[0] == ["0 strict"]
    assert progress.in_flight == {}


async def test_requests_that_wait_to_be_sent_again_are_shown_with_the_error(store: Store, tmp_path: Path) -> None:
    progress, limiter, texts = Progress(asked=4), Limiter(2), list[str]()

    async def look(seconds: float) -> None:
        texts.append(" ".join(drawn(RateEstimator(progress, limiter), 80).split()))

    with provider(lambda seen: refused(503, "busy") if len(fake.seen) == 1 else judged()) as fake:
        engine = OnlineEngine(Connection(fake.base_url), limiter=limiter, sleep=look)
        await run_job(make_job(fake.base_url, 2, probe=True), engine, store, tmp_path / "run", progress=progress)
    assert ["waiting to be sent again: 1 (503)" in text for text in texts] == [True]
    assert limiter.to_repeat == {}


def test_a_limit_that_was_cut_says_that_more_are_still_out() -> None:
    estimator = new(10, Limiter(4))
    estimator.progress.in_flight.update({str(n): (f"{n} strict", time.monotonic()) for n in range(6)})
    flat = " ".join(drawn(estimator, 80).split())
    assert "in flight 6, concurrency falling to 4 (fixed)" in flat


async def test_nothing_is_shown_when_quiet_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    async with shown(Progress(asked=5), Limiter(4), look="quiet"):
        await asyncio.sleep(0)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


async def test_events_begin_and_end_even_when_the_job_fails(capsys: pytest.CaptureFixture[str]) -> None:
    async def failing_job() -> None:
        async with shown(progress := Progress(asked=5), Limiter(4), look="json"):
            progress.failed.update(refusal=3, timeout=40)
            await asyncio.sleep(0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing_job()
    events = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["start", "end"]
    assert events[1]["failed"] == {"refusal": 3, "timeout": 40}
    assert events[1]["limit"] == 4


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def words(url: str, *more: str) -> list[str]:
    return ["run", "--model", "m", "--base-url", url, "--tasks", "sample", "--sample", "5", "--out", "r", *more]


@pytest.mark.usefixtures("_here")
def test_a_quiet_run_says_nothing_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        assert run_app(words(fake.base_url, "--quiet")) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("_here")
def test_the_summary_leads_with_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    def script(seen: Seen) -> Reply:
        replies: dict[int, Reply] = {
            2: refused(400, "no"),
            3: Reply(body=chat(None, refusal="No.")),
            4: refused(413, "no"),
        }
        return replies.get(len(fake.seen), judged())

    with provider(script) as fake:
        assert run_app(words(fake.base_url, "--quiet", "--concurrency", "1", "--response-format", "text")) == 5
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == "MISSING  3 of 10 labels (2 provider, 1 refusal)"
    assert captured.out.splitlines()[1] == "labels   7 of 10: 0 from the store, 7 fresh"
    assert captured.err.count("\n") == 1


@pytest.mark.usefixtures("_here")
def test_the_history_of_the_limit_is_in_the_manifest() -> None:
    with provider(lambda seen: judged()) as fake:
        assert run_app(words(fake.base_url, "--quiet", "--json")) == 0
    history: list[Any] = json.loads(Path("r/manifest.json").read_text())["history"]
    assert history[0][1:] == [4, "start"]
    assert history[1][1:] == [8, "doubled"]
