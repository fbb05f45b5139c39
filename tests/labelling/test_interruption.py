"""A run that is stopped, starved of disk, or kept waiting: what was paid for is there, and one sentence says the rest."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diskcache
import pytest
from pydantic import SecretStr

from job_builders import KEY, FakeTime, label_all, make_job, no_sleep
from relabel.cli.app import run_app
from relabel.errors import ProviderError, RubricError
from relabel.labelling.collector import LabelCollector, Progress
from relabel.labelling.engine import OnlineEngine
from relabel.labelling.job import Stop
from relabel.labelling.leases import Leases
from relabel.labelling.limits import Budget, Limiter
from relabel.labelling.local import serve
from relabel.labelling.providers import Price
from relabel.labelling.request import Prompt, Request, WorkItem, load_prompt
from relabel.labelling.runner import run_job
from relabel.labelling.session import JOURNAL, unfinished
from relabel.labelling.store import Store
from relabel.labelling.transport import Connection, Timeouts
from relabel.labels import Answer
from relabel.redaction import clean
from relabel.run import open_run
from server import FakeProvider, Reply, Seen, chat, judged, provider, refused

WORDS = ["--tasks", "sample", "--sample", "20", "--response-format", "text", "--concurrency", "4", "--out", "r"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("RELABEL_STORE", str(tmp_path / "store"))


def run(fake: FakeProvider, *more: str) -> int:
    return run_app(["run", "--model", "m", "--base-url", fake.base_url, *WORDS, "--quiet", *more])


def start(fake: FakeProvider, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "relabel", "run", "--model", "m", "--base-url", fake.base_url, *WORDS, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def one_sentence(text: str) -> str:
    said = [line for line in text.splitlines() if line.startswith("relabel: ")]
    assert len(said) == 1, text
    assert "Traceback" not in text
    assert KEY not in text
    return said[0]


def test_the_start_after_a_kill_accounts_for_what_the_killed_one_bought_and_had_in_flight(tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        if len(fake.seen) == 13:
            os.kill(child.pid, signal.SIGKILL)
        return Reply(fault="hang") if child.poll() is None and len(fake.seen) in {5, 9, 13} else judged()

    options = ["--price", "1000/1000", "--max-tokens", "100"]
    with provider(script) as fake:
        child = start(fake, *options)
        child.communicate()
        asked, answered = len(fake.seen), len(fake.answered)
        assert run(fake, *options) == 0
        manifest = open_run("r").manifest
        killed, last = manifest.sessions
        assert killed.status == "killed"
        lost = killed.perhaps_charged
        # What the server sent a moment before the kill may not have reached the process: then it was in flight.
        # A request is noted before it is sent, so that one more may be counted for each that could be on the wire.
        assert asked <= killed.counts.fresh + lost.requests <= asked + 4
        assert killed.counts.fresh <= answered
        assert lost.requests <= 4
        assert lost.usd is not None
        assert lost.usd > 0
        assert killed.cost_usd == pytest.approx(0.12 * killed.counts.fresh)
        assert killed.tokens.prompt == 100 * killed.counts.fresh
        assert last.counts.from_store == killed.counts.fresh
        assert last.counts.fresh == 40 - killed.counts.fresh
        assert "was killed" in (manifest.note or "")
        assert not list(Path("r").glob(".journal"))
        assert run(fake, *options) == 0  # a start that came to its end is counted once
        assert len(open_run("r").manifest.sessions) == 3


async def test_a_request_is_in_flight_in_the_journal_until_its_answer_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, seen = Store.put, list[list[str]]()

    def look_and_put(store: Store, request: Request, answer: Answer) -> bool:
        seen.append([line[0] for line in Path("r/.journal").read_text().splitlines() if line.endswith(request.key)])
        return put(store, request, answer)

    monkeypatch.setattr(Store, "put", look_and_put)
    with provider(lambda _: judged()) as fake, Store(tmp_path / "store") as store:
        await label_all(make_job(fake.base_url, 5), store, Path("r"))
    assert seen == [[">"]] * 10  # a process that is killed here has bought an answer that only the journal knows


async def test_an_attempt_of_a_killed_start_that_broke_off_may_be_charged_although_the_next_one_was_answered(
    tmp_path: Path,
) -> None:
    with provider(lambda seen: judged()) as fake, Store(tmp_path / "store") as store:
        endpoint = make_job(fake.base_url).endpoint.model_copy(update={"params": {"max_tokens": 50}})
        job = make_job(fake.base_url, 2, endpoint=endpoint, price=Price(input=1, cached=1, output=1, source="test"))
        await label_all(job, store, tmp_path / "bought")
        first, second, *_ = (item.request.key for item in job.plan())
        lines = [json.dumps({"started_at": "2026-01-01T00:00:00+00:00"})]
        # The first was sent again after it broke off; of the second, the answer was stored just before the kill.
        lines += [f"{mark} {first}" for mark in ">?<><"] + [f"> {second}"]
        (tmp_path / "killed").mkdir()
        (tmp_path / "killed" / JOURNAL).write_text("\n".join(lines) + "\n", encoding="ascii")
        killed = unfinished(job, store, tmp_path / "killed")
    assert killed is not None
    assert (killed.counts.fresh, killed.perhaps_charged.requests) == (2, 1)
    assert killed.perhaps_charged.usd == pytest.approx(Budget(None, job.price).most(next(job.plan()).request.body))


def test_what_a_killed_start_may_have_spent_counts_against_the_cap(tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        if len(fake.seen) == 20:
            os.kill(child.pid, signal.SIGKILL)
        return judged()

    options = ["--price", "1000/1000", "--max-tokens", "20", "--max-cost", "60"]
    with provider(script) as fake:
        child = start(fake, *options)
        child.communicate()
        assert run(fake, *options) in {0, 5}
        sessions = open_run("r").manifest.sessions
        spent = sum((s.cost_usd or 0.0) + (s.perhaps_charged.usd or 0.0) for s in sessions)
        assert len(sessions) == 2
        assert sum((s.cost_usd or 0.0) for s in sessions) == pytest.approx(
            0.12 * len({*map(id, fake.answered)}), abs=0.12 * 4
        )
        assert spent <= 60


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_in_flight_come_in(number: signal.Signals, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        if len(fake.seen) == 12:
            os.kill(child.pid, number)
        return Reply(body=judged().body, delay=0.1 if len(fake.seen) > 8 else 0.0)

    with provider(script) as fake:
        child = start(fake)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 130
        answered = len(fake.answered)
        assert len(fake.seen) == answered <= 12 + 4
    assert "run the same command again to continue" in one_sentence(err)
    assert err.count("stopping: waiting for answers in flight") == 1
    assert out.startswith(f"MISSING  {40 - answered} of 40 labels ({40 - answered} not asked)")
    run_ = open_run("r")
    assert (run_.manifest.status, len(run_.labels), len(run_.failures())) == ("interrupted", answered, 40 - answered)
    with Store(tmp_path / "store") as store:
        assert store.stats().answers == answered
        assert list(store.verify()) == []


@pytest.mark.parametrize("look", ["--quiet", "--log-json"])
def test_a_signal_says_nothing_that_was_not_asked_for(look: str) -> None:
    def script(seen: Seen) -> Reply:
        if len(fake.seen) == 12:
            os.kill(child.pid, signal.SIGTERM)
        return Reply(body=judged().body, delay=0.1 if len(fake.seen) > 8 else 0.0)

    with provider(script) as fake:
        child = start(fake, look)
        _, err = child.communicate(timeout=60)
        assert child.returncode == 130
    one_sentence(err)
    others = [said for said in err.splitlines() if not said.startswith("relabel: ")]
    events = [json.loads(said)["event"] for said in others]
    assert events.count("stopping") == (look == "--log-json")
    assert bool(others) == (look == "--log-json")


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        if len(fake.seen) == 12:
            os.kill(child.pid, signal.SIGINT)
        return judged() if len(fake.seen) <= 8 else Reply(fault="hang")

    with provider(script) as fake:
        child = start(fake)
        assert child.stderr is not None
        first = child.stderr.readline()
        os.kill(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=60)
        assert child.returncode == 130
    assert first.startswith("stopping: ")
    one_sentence(err)
    run_ = open_run("r")
    assert (run_.manifest.status, len(run_.labels), len(run_.failures())) == ("interrupted", 8, 32)
    given_up = [f for f in run_.failures() if f.attempts]
    assert {f.message for f in given_up} == {"the run was stopped while this was in flight"}
    assert 1 <= len(given_up) == run_.manifest.perhaps_charged.requests <= 4
    with Store(tmp_path / "store") as store:
        assert store.stats().answers == 8


async def test_while_missing_labels_are_named_the_display_moves_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relabel.labelling.runner.MAX_BLOCKING_S", 0.0)
    stop, progress, seen = Stop(), Progress(asked=2000), list[tuple[str, int]]()

    async def look() -> None:
        while True:
            seen.append((progress.doing, progress.asked - progress.done))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    stop()
    with provider(lambda seen: judged()) as fake:
        engine = OnlineEngine(Connection(fake.base_url), limiter=Limiter(4))
        outcome = await run_job(
            make_job(fake.base_url, 10, samples=100),
            engine,
            store,
            tmp_path / "run",
            progress=progress,
            stop=stop,
        )
        await engine.close()
        assert fake.seen == []
    looking.cancel()
    left = [count for doing, count in seen if doing == "naming"]
    assert len(set(left)) > 2000 // 64 - 2
    assert left == sorted(left, reverse=True)
    assert "writing" in {doing for doing, _ in seen}
    assert (len(outcome.failures), outcome.manifest.counts.failed) == (2000, 2000)
    names = {(f.task_id, f.setting, f.sample, f.request_key) for f in open_run(str(tmp_path / "run")).failures()}
    planned = make_job(fake.base_url, 10, samples=100).plan()
    assert names == {(p.tasks[0].task_id, p.setting, p.sample, p.request.key) for p in planned}


async def test_who_is_in_a_hurry_need_not_wait_until_all_that_is_missing_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relabel.labelling.runner.MAX_BLOCKING_S", 0.0)
    stop = Stop()
    stop()
    stop()
    outcome = await label_all(make_job("http://127.0.0.1:1/v1", 1000), store, tmp_path / "run", stop=stop)
    run = open_run(str(tmp_path / "run"))
    named = len(run.failures())
    assert 0 < named < 2000
    assert (run.manifest.status, run.manifest.counts.asked, run.manifest.counts.failed) == ("interrupted", 2000, 2000)
    assert outcome.missing == outcome.progress.unasked == 2000
    assert run.manifest.note == f"quit early: failures.jsonl lists {named:,} of 2,000 missing labels"


async def test_a_run_that_is_left_at_once_takes_nothing_away_from_its_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with provider(lambda seen: judged()) as fake:
        job = make_job(fake.base_url, 100)
        await label_all(job, store, tmp_path / "run")
        monkeypatch.setattr("relabel.labelling.runner.MAX_BLOCKING_S", 0.0)
        stop = Stop()
        stop()
        stop()
        outcome = await label_all(job, store, tmp_path / "run", stop=stop)
    assert outcome.interrupted
    assert outcome.manifest.note is not None
    assert outcome.manifest.note.endswith("the folder keeps the 200 labels that it had")
    run = open_run(str(tmp_path / "run"))
    assert (run.manifest.status, len(run.labels)) == ("complete", 200)
    assert [session.status for session in run.manifest.sessions] == ["complete", "interrupted"]


async def test_nothing_more_is_sent_once_a_run_is_stopped(store: Store, tmp_path: Path) -> None:
    stop, loop = Stop(), asyncio.get_running_loop()

    def script(seen: Seen) -> Reply:
        if len(fake.seen) == 4:
            loop.call_soon_threadsafe(stop)
        if len(fake.seen) == 3:
            return Reply(body=chat("not yet"), delay=0.2)
        return Reply(body=judged().body, delay=0.2) if len(fake.seen) != 2 else Reply(503, delay=0.2)

    with provider(script) as fake:
        engine = OnlineEngine(Connection(fake.base_url), limiter=Limiter(None))
        # Hundreds of workers wait for their turn, as they do when the number in flight is being found out.
        # The prompt is too short for a prefix cache, so that no request waits for the first.
        job = make_job(fake.base_url, 200, examples=False)
        outcome = await run_job(job, engine, store, tmp_path / "run", stop=stop)
        await engine.close()
        assert len(fake.seen) == 4
    assert outcome.interrupted
    assert len(outcome.labels) == store.stats().answers == 2
    assert store.stats().rejected == 1
    assert len(outcome.failures) == 398


def mended(template: str, tmp_path: Path) -> Prompt:
    path = tmp_path / "mine.jinja"
    path.write_text(
        f"{{% block system %}}{{{{ setting.question }}}}{{% endblock %}}{{% block user %}}{template}{{% endblock %}}"
    )
    return load_prompt(str(path))


async def test_a_prompt_that_fails_for_one_task_loses_nothing_that_is_paid_for(store: Store, tmp_path: Path) -> None:
    prompt = mended('{% if "number 9." in data[0] %}{{ nosuch }}{% endif %}{{ data[0] }}', tmp_path)
    with provider(lambda seen: Reply(body=judged().body, delay=0.2)) as fake:
        with pytest.raises(RubricError, match="'nosuch' is undefined; correct the template"):
            await label_all(make_job(fake.base_url, 12, prompt=prompt), store, tmp_path / "run")
        assert len(fake.answered) == len(fake.seen) == store.stats().answers
    run = open_run(str(tmp_path / "run"))
    assert (run.manifest.status, len(run.labels)) == ("incomplete", store.stats().answers)
    missing = {(f.task_id, f.setting): f for f in run.failures()}
    assert len(missing) == 24 - len(run.labels)
    assert [missing["9", setting].request_key for setting in ("strict", "with-tools")] == ["", ""]
    assert {f.message for f in missing.values()} == {
        f"prompt {prompt.name}: block user: 'nosuch' is undefined; correct the template"
    }


async def test_a_prompt_that_fails_where_a_task_of_a_pack_is_asked_alone_leaves_no_task_twice(
    store: Store, tmp_path: Path
) -> None:
    prompt = mended('{% if packed %}{{ data | join(" ") }}{% else %}{{ nosuch }}{% endif %}', tmp_path)
    said = chat(json.dumps({"answers": [{"id": "1", "rationale": "x", "label": "exposed"}]}))
    with provider(lambda seen: Reply(body=said)) as fake, pytest.raises(RubricError):
        await label_all(make_job(fake.base_url, 4, prompt=prompt, pack=2), store, tmp_path / "run")
    run = open_run(str(tmp_path / "run"))
    assert (len(run.labels), len(run.failures())) == (0, 8)


async def test_a_fault_of_this_program_loses_nothing_that_is_paid_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(self: LabelCollector, planned: WorkItem) -> list[WorkItem] | None:
        return real(self, planned) if planned.tasks[0].task_id != "9" else {}["nothing"]

    real = LabelCollector.take
    monkeypatch.setattr(LabelCollector, "take", take)
    with provider(lambda seen: Reply(body=judged().body, delay=0.2)) as fake:
        with pytest.raises(KeyError, match="nothing"):
            await label_all(make_job(fake.base_url, 12), store, tmp_path / "run")
        assert len(fake.answered) == len(fake.seen) == store.stats().answers
    run = open_run(str(tmp_path / "run"))
    assert (run.manifest.status, len(run.labels)) == ("incomplete", store.stats().answers)
    assert {f.message for f in run.failures()} == {"internal error (KeyError)"}


async def test_a_run_that_waits_for_another_one_can_be_stopped(store: Store, tmp_path: Path) -> None:
    stop = Stop()
    with provider(lambda seen: judged()) as fake:
        job = make_job(fake.base_url, 2)
        other = Leases(store.folder)
        for planned in job.plan():
            assert other.acquire(planned.request.key)
        asyncio.get_running_loop().call_later(0.05, stop)
        outcome = await label_all(job, store, tmp_path / "run", stop=stop)
        other.close()
        assert fake.seen == []
    assert outcome.interrupted
    assert len(outcome.failures) == 4


def sqlite_error(text: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


FAULTS: dict[str, tuple[Exception, str]] = {
    "full": (sqlite_error("database or disk is full", sqlite3.SQLITE_FULL), "database or disk is full"),
    "a limit of the process": (sqlite_error("disk I/O error", sqlite3.SQLITE_IOERR), "the limit `ulimit -f`"),
    "no space": (OSError(28, "No space left on device"), "No space left on device"),
    "locked": (diskcache.Timeout(), "another program has locked it"),
    "read-only": (sqlite3.OperationalError("attempt to write a readonly database"), "readonly"),
    "damaged": (sqlite3.DatabaseError("database disk image is malformed"), "malformed"),
}


@contextmanager
def failing_after(answers: int, error: Exception) -> Generator[None]:
    real, turns = diskcache.Cache.add, 0

    def add(self: Any, key: Any, *values: Any, **named: Any) -> Any:
        nonlocal turns
        turns += 1
        if turns > answers:
            raise error
        return real(self, key, *values, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diskcache.Cache, "add", add)
        yield


@pytest.mark.parametrize("what", FAULTS)
def test_a_store_that_cannot_be_written_is_one_sentence_and_nothing_is_corrupted(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, words = FAULTS[what]
    with provider(lambda seen: judged()) as fake:
        with failing_after(10, error):
            assert run(fake) == 3
        said = one_sentence(capsys.readouterr().err)
        assert f"cannot use the store {tmp_path / 'store'}" in said
        assert words in said
        with Store(tmp_path / "store") as store:
            assert list(store.verify()) == []
            assert store.stats().answers == 10
        asked = len(fake.seen)
        assert run(fake) == 0
        assert len(fake.seen) == asked + 30
    assert open_run("r").manifest.counts.from_store == 10


def test_a_full_disk_with_store_and_run_folder_counts_the_answers_that_it_could_not_keep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with provider(lambda seen: judged()) as fake:
        with failing_after(10, FAULTS["full"][0]), monkeypatch.context() as patch:
            patch.setattr("relabel.manifest.write_label_table", full)
            assert run(fake) == 3
        said = one_sentence(capsys.readouterr().err)
        assert "cannot use the store" in said
        assert "safe in the store" not in said
        lost = len(fake.seen) - 10
        assert lost > 0
        assert run(fake) == 0
    killed, _ = open_run("r").manifest.sessions
    assert killed.perhaps_charged is not None
    assert (killed.counts.fresh, killed.perhaps_charged.requests) == (10, lost)


def test_leases_that_cannot_be_written_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(self: Any, key: str) -> bool:
        self._db.execute("DROP TABLE IF EXISTS taken")
        return real(self, key)

    real = Leases.acquire
    with provider(lambda seen: judged()) as fake, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Leases, "acquire", broken)
        assert run(fake) == 3
    assert "cannot use the store" in one_sentence(capsys.readouterr().err)


@contextmanager
def tiny_disk(folder: Path, size: str) -> Generator[None]:
    folder.mkdir(mode=0o700)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("only root may mount a disk of its own")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount a disk of its own")
def test_a_disk_that_fills_up_is_one_sentence_and_the_answers_on_it_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELABEL_STORE", str(tmp_path / "disk" / "store"))
    long = judged(rationale="word " * 500)
    with tiny_disk(tmp_path / "disk", "400k"), provider(lambda seen: long) as fake:
        child = start(fake, "--quiet")
        _, err = child.communicate(timeout=60)
        assert child.returncode == 3
        assert "cannot use the store" in one_sentence(err)
        subprocess.run(["mount", "-o", "remount,size=8m", str(tmp_path / "disk")], check=True)
        with Store(tmp_path / "disk" / "store") as store:
            assert list(store.verify()) == []
            kept = store.stats().answers
        assert 0 < kept < 40
        assert len(fake.answered) - kept <= 4 + 1
        assert run(fake) == 0
        assert open_run("r").manifest.counts.from_store == kept


@pytest.mark.parametrize("place", ["/proc/relabel-store", "/dev/null"])
def test_a_store_where_none_can_be_is_one_sentence(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RELABEL_STORE", place)
    with provider(lambda seen: judged()) as fake:
        assert run(fake) == 3
        assert fake.seen == []
    assert f"cannot use the store {place}" in one_sentence(capsys.readouterr().err)


def test_a_run_folder_where_none_can_be_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        assert run(fake, "--out", "/proc/relabel-run") == 3
        assert fake.seen == []
    assert "cannot write into /proc/relabel-run" in one_sentence(capsys.readouterr().err)


@pytest.mark.parametrize("fault", ["hang", "trickle", "drop"])
async def test_requests_that_are_never_answered_do_not_hold_up_the_others(
    fault: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relabel.labelling.provider_errors.ATTEMPTS", 2)

    def script(seen: Seen) -> Reply:
        stuck = "number 3." in seen.prompt or "number 7." in seen.prompt
        return Reply(body=judged().body, fault=fault) if stuck else judged()

    with provider(script) as fake:
        outcome = await label_all(
            make_job(fake.base_url, 20), store, tmp_path / "run", concurrency=4, timeouts=Timeouts(0.3)
        )
        stuck = [seen for seen in fake.seen if "number 3." in seen.prompt or "number 7." in seen.prompt]
        assert len(stuck) == 4 * 2
    assert len(outcome.labels) == 36
    kind = "provider" if fault == "drop" else "timeout"
    assert [(x.kind, x.attempts) for x in outcome.failures] == [(kind, 2)] * 4
    assert {x.task_id for x in outcome.failures} == {"3", "7"}


async def test_a_request_that_is_stuck_once_is_answered_at_the_second_try(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: Reply(fault="hang") if len(fake.seen) in {2, 5} else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 10), store, tmp_path / "run", timeouts=Timeouts(0.3))
    assert outcome.complete
    assert sorted(label.attempts for label in outcome.labels)[-3:] == [1, 2, 2]


async def ask_in_fake_time(fake: FakeProvider, time: FakeTime, limiter: Limiter) -> Answer:
    engine = OnlineEngine(Connection(fake.base_url), limiter=limiter, clock=time, sleep=time.sleep, jitter=lambda: 0.0)
    try:
        return await engine.ask(Request(host="h", body={"model": "m", "messages": [{"role": "user", "content": "Hi"}]}))
    finally:
        await engine.close()


async def test_a_pause_beyond_the_run_s_patience_is_not_waited_for() -> None:
    time = FakeTime()
    reply = refused(429, "come back later", None, **{"retry-after": "4000"})
    with provider(lambda seen: reply) as fake:
        with pytest.raises(ProviderError, match=r"67 min \(come back later\); start the same run again after"):
            await ask_in_fake_time(fake, time, Limiter(1, clock=time, sleep=time.sleep))
        assert len(fake.seen) == 1
    assert time.slept == []


async def test_a_pause_of_hours_ends_the_run_and_keeps_what_was_answered(store: Store, tmp_path: Path) -> None:
    late = refused(429, "come back tomorrow", None, **{"retry-after": "4000"})
    with provider(lambda seen: late if len(fake.seen) == 2 else judged()) as fake:
        with pytest.raises(ProviderError, match="come back tomorrow"):
            await label_all(make_job(fake.base_url, 5), store, tmp_path / "run", concurrency=1)
        assert len(fake.seen) == 2
    assert store.stats().answers == len(open_run(str(tmp_path / "run")).labels) == 1


async def test_waiting_for_a_turn_is_not_counted_against_the_deadline() -> None:
    time = FakeTime()
    with provider(lambda seen: refused(503) if len(fake.seen) < 3 else judged()) as fake:
        answer = await ask_in_fake_time(fake, time, Limiter(1, rpm=0.05, clock=time, sleep=time.sleep))
    assert answer.attempts == 3
    assert time.now > 1000 + 2 * 1199


def test_the_key_is_nowhere_but_in_the_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "hunter2-in-the-address"

    def script(seen: Seen) -> Reply:
        said = seen.headers["authorization"]
        if len(fake.seen) % 3 == 0:
            return refused(400, f"bad key {said}")
        return Reply(body=chat(f"not json {said}")) if len(fake.seen) % 5 == 0 else judged(rationale=said)

    with provider(script) as fake:
        address = fake.base_url.replace("http://", f"http://user:{secret}@")
        child = start(fake, "--base-url", address, "--log-json")
        shown = "".join(child.communicate(timeout=60))
        assert child.returncode == 5
        assert {KEY in seen.headers["authorization"] for seen in fake.seen} == {True}
        fake.script = lambda seen: refused(401, f"Incorrect API key provided: {seen.headers['authorization']}")
        assert run(fake, "--base-url", address, "--tasks", "sample", "--seed", "1", "--out", "other") == 4
    captured = capsys.readouterr()
    for word in (KEY, secret):
        assert word not in shown + captured.out + captured.err
        written = [p for p in tmp_path.rglob("*") if p.is_file()]
        assert len(written) >= 5
        assert [p.name for p in written if word.encode() in p.read_bytes()] == []


@pytest.mark.parametrize(
    "address",
    [
        "user:hunter2@host/v1",
        "ftp://user:hunter2@host",
        "http://user:hunter2@host:99999/v1",
        "http://user:hunter2@[::1/v1",
        "hunter2@",
    ],
)
def test_an_address_that_is_none_is_exit_2_and_does_not_show_its_secret(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["run", "--model", "m", "--tasks", "sample", "--base-url", address]) == 2
    assert "hunter2" not in one_sentence(capsys.readouterr().err)


def test_folders_are_private_to_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = os.umask(0)
    try:
        with provider(lambda seen: judged()) as fake:
            assert run(fake) == 0
    finally:
        os.umask(old)
    capsys.readouterr()
    for name in ("r", "store"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_the_local_servers_command_line_and_environment_hold_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []
    stub = tmp_path / "python"
    stub.write_text(f"#!{sys.executable}\nprint('http://127.0.0.1:1', flush=True)\nimport sys\nsys.stdin.read()\n")
    stub.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(stub))
    with serve(tmp_path / "x.gguf", "alias") as server:
        folder = Path(f"/proc/{server.pid}")
        if not folder.exists():
            pytest.skip("this system shows no processes under /proc")
        seen.append(((folder / "cmdline").read_text(), (folder / "environ").read_text()))
    assert "alias" in seen[0][0]
    assert KEY not in "".join(seen[0])


def test_json_events_are_one_document_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        child = start(fake, "--log-json")
        _, err = child.communicate(timeout=60)
    events = [json.loads(line) for line in err.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["start", "end"]
    assert (events[-1]["asked"], events[-1]["done"], events[-1]["fresh"], events[-1]["in_flight"]) == (40, 40, 40, 0)
    assert events[-1]["prompt_tokens"] == 4000
    assert not re.search(r"Traceback", err)


async def test_a_key_in_an_engine_never_shows(store: Store) -> None:
    engine = OnlineEngine(Connection("http://user:pw@localhost:1/v1", SecretStr(KEY)), sleep=no_sleep)
    assert KEY not in repr(engine)
    assert clean(f"x {KEY} y sk-other-0123456789") == "x [key] y [key]"
    await engine.close()
