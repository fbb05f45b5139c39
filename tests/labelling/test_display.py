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

from relabel.cli.app import run_app
from relabel.cli.display import duration, line, money, panel, paused_until, shown
from relabel.label import Answer, Usage
from relabel.labelling.engines.limits import Limiter
from relabel.labelling.engines.online import OnlineEngine
from relabel.labelling.progress import Progress
from relabel.labelling.running import run_job
from relabel.labelling.store import Store
from server import Reply, Seen, chat, judged, provider, refused
from workshop import make_job


def busy() -> Progress:
    progress = Progress(asked=38_530, from_store=12_000, fresh=2_000, fresh_seconds=100.0)
    progress.failed.update(refusal=3, timeout=40)
    progress.prompt_tokens, progress.cached_tokens, progress.completion_tokens = 1_400_000, 1_200_000, 90_000
    progress.cost_usd = 0.5
    return progress


def drawn(progress: Progress, limiter: Limiter, width: int) -> str:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(panel(progress, limiter))
    return console.export_text()


@pytest.mark.parametrize("width", [60, 100])
def test_the_panel_shows_how_far_how_fast_and_how_dear(width: int) -> None:
    progress = busy()
    progress.flying["k"] = ("8823 strict", time.monotonic() - 95)
    text = drawn(progress, Limiter(None), width)
    flat = " ".join(text.split())
    assert max(len(shown_line) for shown_line in text.splitlines()) <= width
    for words in (
        "14,043 of 38,530",
        "from store 12,000",
        "fresh 2,000",
        "failed 40 timeout, 3 refusal",
        "in flight 1 of 4 (found out)",
        "rate 20.4/s",
        "left 19 min 59 s",
        "1,400,000 in (1,200,000 cached), 90,000 out",
        "$0.5000, $6.6",
        "slowest in flight: 8823 strict 1 min 35 s",
    ):
        assert words in flat, words


def test_the_panel_of_a_job_that_begins_promises_nothing() -> None:
    flat = " ".join(drawn(Progress(asked=10), Limiter(8), 80).split())
    assert "0 of 10" in flat
    assert "failed none" in flat
    assert "in flight 0 of 8 (fixed) rate - left -" in flat
    assert "slowest" not in flat


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
    assert "paused until" in " ".join(drawn(Progress(asked=10), limiter, 100).split())
    waiting.cancel()
    await asyncio.wait({waiting})
    assert paused_until(limiter) is None


def test_the_panel_of_an_empty_job_can_be_drawn() -> None:
    assert "0 of 0" in drawn(Progress(asked=0), Limiter(8), 80)


def test_the_plain_line_says_the_same_in_short() -> None:
    assert line(busy()) == (
        "14043/38530 | 12000 from store | 40 timeout, 3 refusal | 20.4/s | 19 min 59 s left | 1,490,000 tokens | $0.5000"
    )
    assert line(Progress(asked=5)) == "0/5 | 0 tokens | $0.0000"


def test_an_unknown_price_is_said() -> None:
    progress = Progress(asked=5)
    progress.bought(
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
    assert "cost unknown" in line(progress)
    assert progress.cost_at_end is None
    assert money(0.25) == "$0.2500"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3600, "1 h 00 min"), (90_061, "25 h 01 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_what_comes_is_foreseen_from_what_was_bought() -> None:
    progress = Progress(asked=100, from_store=50, fresh=10, fresh_seconds=5.0, cost_usd=1.0)
    progress.failed.update(refusal=10)
    assert progress.done == 70
    assert progress.rate == 4.0
    assert progress.seconds_left == 7.5
    assert progress.cost_at_end == pytest.approx(4.0)


async def test_only_requests_on_the_wire_are_shown_in_flight(store: Store, tmp_path: Path) -> None:
    seen_at_once: list[tuple[int, int]] = []
    progress = Progress(asked=80)
    limiter = Limiter(3)

    def script(seen: Seen) -> Reply:
        seen_at_once.append((len(progress.flying), limiter.limit))
        return Reply(body=judged().body, delay=0.01)

    with provider(script) as fake:
        engine = OnlineEngine(fake.base_url, None, None, limiter=limiter)
        await run_job(make_job(fake.base_url, 40), engine, store, tmp_path / "run", concurrency=50, progress=progress)
        await engine.close()
    assert {limit for _, limit in seen_at_once} == {3}
    assert max(flying for flying, _ in seen_at_once) == 3
    assert progress.flying == {}


async def test_an_answer_that_waits_to_be_entered_is_not_in_flight_any_more(store: Store, tmp_path: Path) -> None:
    """A clump of answers is entered a few at a time; meanwhile others are sent in their place."""
    progress, limiter, rounds = Progress(asked=128), Limiter(32), list[tuple[int, int]]()

    async def look() -> None:
        while True:
            rounds.append((len(progress.flying), limiter.limit))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    with provider(lambda seen: Reply(body=judged().body, delay=0.05)) as fake:
        engine = OnlineEngine(fake.base_url, None, None, limiter=limiter)
        await run_job(make_job(fake.base_url, 64), engine, store, tmp_path / "run", concurrency=64, progress=progress)
        await engine.close()
    looking.cancel()
    assert max(flying for flying, _ in rounds) == 32
    assert progress.flying == {}


async def test_the_first_question_is_in_flight_too(store: Store, tmp_path: Path) -> None:
    progress, seen_flying = Progress(asked=4), list[list[str]]()

    def script(seen: Seen) -> Reply:
        seen_flying.append([what for what, _ in progress.flying.values()])
        return judged()

    with provider(script) as fake:
        engine = OnlineEngine(fake.base_url, None, None, limiter=Limiter(2))
        job = make_job(fake.base_url, 2, probe=True)
        await run_job(job, engine, store, tmp_path / "run", concurrency=2, progress=progress)
        await engine.close()
    assert seen_flying[0] == ["the first question"]
    assert progress.flying == {}


def test_a_limit_that_was_cut_says_that_more_are_still_out() -> None:
    progress = Progress(asked=10)
    progress.flying.update({str(n): (f"{n} strict", time.monotonic()) for n in range(6)})
    flat = " ".join(drawn(progress, Limiter(4), 80).split())
    assert "in flight 6, falling to 4 (fixed)" in flat


async def test_nothing_is_shown_when_quiet_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    async with shown(busy(), Limiter(4), look="quiet"):
        await asyncio.sleep(0)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


async def test_events_begin_and_end_even_when_the_job_fails(capsys: pytest.CaptureFixture[str]) -> None:
    async def failing_job() -> None:
        async with shown(busy(), Limiter(4), look="json"):
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
