"""Two runs on one store: what one has asked, the other waits for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batch_builders import batch, by_number
from batch_server import Fate, batch_provider
from job_builders import label_all, make_job
from relabel.errors import StoreError
from relabel.labelling.batch.state import run_id
from relabel.labelling.job import Stop
from relabel.labelling.leases import GONE_BEATS, STUCK_BEATS, Leases
from relabel.labelling.maintenance import set_damage_aside
from relabel.labelling.runner import in_a_batch
from relabel.labelling.store import Store
from relabel.run import open_run
from server import FakeProvider, Reply, Seen, judged, provider, refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store(tmp_path / "store"):
        return tmp_path / "store"


def test_what_one_has_the_other_does_not_get(folder: Path) -> None:
    one, other = Leases(folder), Leases(folder)
    assert one.acquire("a")
    assert one.acquire("a")
    assert not other.acquire("a")
    assert other.acquire("b")
    one.release("a")
    assert other.acquire("a")
    one.release("a")  # not its own any more
    assert not one.acquire("a")
    other.close()
    assert one.acquire("a")
    one.close()


def test_a_process_that_stands_still_loses_its_leases_and_no_clock_matters(folder: Path) -> None:
    one, other = (Leases(folder, beat_s=None) for _ in range(2))
    assert one.acquire("a")
    for _ in range(3):
        for _ in range(STUCK_BEATS):
            assert not other.acquire("a")
            other.beat()
        one.beat()
    assert not other.acquire("a")
    for _ in range(STUCK_BEATS):
        assert not other.acquire("a")
        other.beat()
    assert other.acquire("a")
    assert not one.acquire("a")
    one.beat()  # it goes on, and has to begin anew
    assert one.acquire("b")
    assert not other.acquire("b")
    one.close()
    other.close()


def test_what_a_dead_process_had_is_free_after_a_few_heartbeats(folder: Path) -> None:
    code = "import sys, os; from pathlib import Path; from relabel.labelling.leases import Leases; assert Leases(Path(sys.argv[1])).acquire('a'); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    leases = Leases(folder, beat_s=None)
    for _ in range(GONE_BEATS):
        assert not leases.acquire("a")
        leases.beat()
    assert leases.acquire("a")
    leases.close()
    assert list((folder / "processes").iterdir()) == []


def test_a_dead_process_is_noticed_where_no_open_file_can_be_deleted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys, os; from pathlib import Path; from relabel.labelling.leases import Leases; assert Leases(Path(sys.argv[1])).acquire('a'); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    delete = Path.unlink

    def unlink(path: Path, *, missing_ok: bool = False) -> None:  # as on Windows
        if path.suffix == ".lock" and path.name[:-5] != leases._id:  # pyright: ignore[reportPrivateUsage]  this one is closed
            raise PermissionError(13, "used by another process")
        delete(path, missing_ok=missing_ok)

    leases = Leases(folder, beat_s=None)
    monkeypatch.setattr(Path, "unlink", unlink)
    for _ in range(GONE_BEATS):
        assert not leases.acquire("a")
        leases.beat()
    assert leases.acquire("a")
    leases.close()
    assert list(set_damage_aside(folder)) == ["0 damaged rows set aside"]


def test_a_folder_that_cannot_hold_leases_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot use the store .*RELABEL_STORE"):
        Leases(tmp_path / "nowhere")


def test_processes_that_open_a_new_store_at_the_same_time_all_get_their_leases(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def opened(folder: Path) -> Leases:
        together.wait()
        return Leases(folder, beat_s=None)

    with ThreadPoolExecutor(8) as threads:
        for number in range(60):  # unprotected, about one of 60 openings failed
            (folder := tmp_path / str(number)).mkdir()
            for leases in threads.map(opened, [folder] * 8):
                leases.close()


def test_a_lease_file_that_breaks_later_is_one_sentence(folder: Path) -> None:
    leases = Leases(folder)
    leases._db.execute("DROP TABLE taken")  # pyright: ignore[reportPrivateUsage]  damage has to come from somewhere
    with pytest.raises(StoreError, match=r"cannot use the store"):
        leases.acquire("a")
    leases.close()


CHILD = """
import asyncio, os, platform, sys, time
from pathlib import Path
if ahead := float(sys.argv[5]):
    clock = time.time
    time.time = lambda: clock() + ahead
    os.getpid = lambda: 1
    platform.node = lambda: "container"
sys.path.insert(0, sys.argv[4])
import relabel.labelling.leases as leases_module
leases_module.LOOK_AGAIN_S = 0.02
from job_builders import label_all, make_job
from relabel.labelling.store import Store
with Store(Path(sys.argv[2])) as store:
    asyncio.run(label_all(make_job(sys.argv[1], 40, probe=True), store, Path(sys.argv[3]), concurrency=8))
"""


def start(
    fake: FakeProvider, store: Path, out: Path, *, prefix: tuple[str, ...] = (), ahead_s: float = 0
) -> subprocess.Popen[bytes]:
    arguments = [fake.base_url, str(store), str(out), str(Path(__file__).parents[1]), str(ahead_s)]
    return subprocess.Popen([*prefix, sys.executable, "-c", textwrap.dedent(CHILD), *arguments])


@pytest.mark.parametrize(
    ("prefix", "ahead_s"),
    [
        (("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"), 0),
        ((), 3600),
        ((), -3600),
        ((), 400 * 86400),
    ],
    ids=["containers", "an hour ahead", "an hour behind", "a year ahead"],
)
def test_two_containers_and_two_clocks_buy_each_answer_once(
    tmp_path: Path, prefix: tuple[str, ...], ahead_s: float
) -> None:
    if prefix and subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("only root may make a PID namespace")
    with provider(lambda seen: Reply(body=judged().body, delay=0.05)) as fake:
        one = start(fake, tmp_path / "store", tmp_path / "a", prefix=prefix)
        other = start(fake, tmp_path / "store", tmp_path / "b", prefix=prefix, ahead_s=ahead_s)
        assert [child.wait(60) for child in (one, other)] == [0, 0]
        assert len(fake.answered) == len({str(seen.body) for seen in fake.answered}) == 80


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
    one, other = Leases(folder), Leases(folder)
    one.reserve("run-1", ["a", "b"])
    one.close()  # the batch goes on without its process
    assert not other.acquire("a")
    assert (other.batch_of("a"), other.batch_of("c")) == ("run-1", None)
    other.reserve("run-2", ["a", "c"])
    assert other.batch_of("a") == "run-1"
    other.reserve("run-1", ["b"])
    assert other.acquire("a")
    assert not other.acquire("b")
    assert other.reserve("run-1", ["b"]) == 1
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
        assert other.acquire(keys[0])
        outcome = await batch(job, store, tmp_path)
        assert [(f.request_key, f.kind) for f in outcome.failures] == [(keys[0], "provider")]
        other.close()
        assert (await batch(job, store, tmp_path)).complete
    assert sorted(fake.made) == sorted(keys)
