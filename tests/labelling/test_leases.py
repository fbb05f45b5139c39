"""Two runs on one store: what one has asked, the other waits for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from batch_server import Fate, batch_provider
from batch_workshop import batch, by_number
from relabel.errors import StoreError
from relabel.labelling.batch.state import run_id
from relabel.labelling.job import Stop
from relabel.labelling.leases import HOLD_S, LEASE_S, Leases
from relabel.labelling.store import Store
from relabel.labelling.workers import in_a_batch
from relabel.run import open_run
from server import FakeProvider, Reply, Seen, judged, provider, refused
from workshop import FakeTime, label_all, make_job


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store(tmp_path / "store"):
        return tmp_path / "store"


def test_what_one_has_the_other_does_not_get(folder: Path) -> None:
    one, other = Leases(folder), Leases(folder)
    assert one.take("a")
    assert one.take("a")
    assert not other.take("a")
    assert other.take("b")
    one.give_back("a")
    assert other.take("a")
    one.give_back("a")  # not its own any more
    assert not one.take("a")
    other.close()
    assert one.take("a")
    one.close()


def test_a_lease_that_is_not_renewed_ends(folder: Path) -> None:
    time = FakeTime()
    one, other = Leases(folder, now=time), Leases(folder, now=time)
    assert one.take("a")
    time.now += LEASE_S - 1
    assert not other.take("a")
    one.renew()
    time.now += LEASE_S - 1
    assert not other.take("a")
    time.now += 2
    assert other.take("a")
    one.close()
    other.close()


def test_a_lease_of_a_process_that_is_no_more_ends_at_once(folder: Path) -> None:
    code = "import sys, os; from pathlib import Path; from relabel.labelling.leases import Leases; assert Leases(Path(sys.argv[1])).take('a'); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    leases = Leases(folder)
    assert leases.take("a")
    leases.close()


def test_a_lease_of_another_machine_is_left_until_it_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime()
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    far = Leases(folder, now=time)
    monkeypatch.undo()
    assert far.take("a")
    near = Leases(folder, now=time)
    assert not near.take("a")
    time.now += LEASE_S + 1
    assert near.take("a")
    far.close()
    near.close()


def test_a_folder_that_cannot_hold_leases_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot use the store .*RELABEL_STORE"):
        Leases(tmp_path / "nowhere")


def test_a_lease_file_that_breaks_later_is_one_sentence(folder: Path) -> None:
    leases = Leases(folder)
    leases._db.execute("DROP TABLE lease")  # pyright: ignore[reportPrivateUsage]  damage has to come from somewhere
    with pytest.raises(StoreError, match=r"cannot use the store"):
        leases.take("a")
    leases.close()


CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import relabel.labelling.leases as leases_module
leases_module.LOOK_AGAIN_S = 0.02
from workshop import label_all, make_job
from relabel.labelling.store import Store
with Store(Path(sys.argv[2])) as store:
    asyncio.run(label_all(make_job(sys.argv[1], 40, probe=True), store, Path(sys.argv[3]), concurrency=8))
"""


def start(fake: FakeProvider, store: Path, out: Path) -> subprocess.Popen[bytes]:
    arguments = [fake.base_url, str(store), str(out), str(Path(__file__).parents[1])]
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(CHILD), *arguments])


def test_two_runs_at_once_buy_each_answer_once_and_both_finish(tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        if "response_format" in seen.body and seen.body["response_format"]["type"] == "json_schema":
            return refused(400, "no json_schema here")
        return Reply(body=judged().body, delay=0.03)

    with provider(script) as fake:
        both = [start(fake, tmp_path / "store", tmp_path / name) for name in ("a", "b")]
        assert [child.wait(60) for child in both] == [0, 0]
        questions = Counter(str(seen.body) for seen in fake.answered)
        refusals = len(fake.seen) - len(fake.answered)
    assert len(questions) == 80
    assert set(questions.values()) == {1}
    assert refusals == 1  # one process found out what the server takes, the other waited for that
    for name in ("a", "b"):
        run = open_run(str(tmp_path / name))
        assert (run.manifest.status, len(run.labels)) == ("complete", 80)
    fresh = [open_run(str(tmp_path / name)).manifest.counts.fresh for name in ("a", "b")]
    assert sum(fresh) == 80


async def test_what_a_server_takes_is_found_out_once_by_runs_that_begin_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relabel.labelling.leases.LOOK_AGAIN_S", 0.02)

    def script(seen: Seen) -> Reply:
        answer = judged() if "response_format" not in seen.body else refused(400, "plain text only")
        return Reply(answer.status, answer.body, delay=0.1)

    with (
        provider(script) as fake,
        Store(tmp_path / "store") as one,
        Store(tmp_path / "store") as other,
    ):
        job = make_job(fake.base_url, 3, probe=True)
        done = await asyncio.gather(label_all(job, one, tmp_path / "a"), label_all(job, other, tmp_path / "b"))
        # Two forms are refused, each on two different tasks, before plain text is settled on.
        assert (len(fake.seen), len(fake.answered)) == (2 * 2 + 6, 6)
    assert [outcome.complete for outcome in done] == [True, True]
    assert sum(outcome.manifest.counts.fresh for outcome in done) == 6


async def test_a_run_that_was_killed_does_not_block_another(tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        if child.poll() is None and len(fake.seen) > 12:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        return Reply(body=judged().body, delay=0.01)

    with provider(script) as fake:
        child = start(fake, tmp_path / "store", tmp_path / "a")
        assert child.wait(60) == -signal.SIGKILL
        with Store(tmp_path / "store") as store:
            outcome = await label_all(make_job(fake.base_url, 40), store, tmp_path / "b", concurrency=8)
            assert list(store.verify()) == []
    assert outcome.complete
    assert len(fake.answered) <= 80 + 8


def test_what_a_batch_has_in_flight_is_leased_to_nobody_until_it_ends(folder: Path) -> None:
    time = FakeTime()
    one, other = Leases(folder, now=time), Leases(folder, now=time)
    one.hold("run-1", ["a", "b"])
    one.close()  # the batch goes on without its process
    assert not other.take("a")
    assert (other.batch_of("a"), other.batch_of("c")) == ("run-1", None)
    other.hold("run-2", ["a", "c"])
    assert other.batch_of("a") == "run-1"
    other.hold("run-1", ["b"])
    assert other.take("a")
    assert not other.take("b")
    time.now += HOLD_S + 1
    assert other.take("b")
    other.close()


async def test_what_a_batch_has_in_flight_is_not_bought_by_another_run(store: Store, tmp_path: Path) -> None:
    stop = Stop()

    async def sleep(seconds: float) -> None:
        del seconds
        stop()
        await asyncio.Event().wait()

    with provider(lambda seen: judged()) as server, batch_provider(by_number, Fate(looks=5)) as fake:
        job = make_job(server.base_url, 3)
        more, most = make_job(server.base_url, 4), make_job(server.base_url, 5)
        await batch(job, store, tmp_path, base_url=fake.base_url, stop=stop, sleep=sleep)
        online = await label_all(more, store, tmp_path / "online")
        assert [f.message for f in online.failures] == [in_a_batch(run_id(job))] * 6
        assert len(server.seen) == len(online.labels) == 2
        other = await batch(most, store, tmp_path, out="other", base_url=fake.base_url)
        assert {f.message for f in other.failures} == {in_a_batch(run_id(job))}
        assert len(other.labels) == 4
        for wanted, out in ((job, "run"), (most, "other")):
            assert (await batch(wanted, store, tmp_path, out=out, base_url=fake.base_url)).complete
        assert (await label_all(more, store, tmp_path / "online")).complete
        assert len(server.seen) == 2
        assert len(fake.made) == len(set(fake.made)) == 8
    assert list(store.verify()) == []


async def test_what_is_asked_elsewhere_goes_into_no_batch(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        job = make_job(fake.base_url, 2)
        keys = [planned.request.key for planned in job.plan()]
        other = Leases(store.folder)
        assert other.take(keys[0])
        outcome = await batch(job, store, tmp_path)
        assert [(f.request_key, f.kind) for f in outcome.failures] == [(keys[0], "provider")]
        other.close()
        assert (await batch(job, store, tmp_path)).complete
    assert sorted(fake.made) == sorted(keys)
