"""A batch run beside other runs on one store: whoever asks first, each question is bought once."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batch_builders import batch, books_balance, by_number, no_wait
from batch_server import Fate, batch_provider
from job_builders import label_all, make_job
from relabel.labelling.batch.state import BatchFolder, run_id
from relabel.labelling.job import Job, Stop
from relabel.labelling.leases import Leases
from relabel.labelling.request import Endpoint
from relabel.labelling.runner import in_a_batch
from relabel.labelling.session import Outcome
from relabel.labelling.store import Store
from server import FakeProvider, provider


def job_at(url: str, count: int, **changes: Any) -> Job:
    """A job whose requests are the same wherever the server listens."""
    return make_job(url, count, endpoint=Endpoint(host="h", model="test-model"), **changes)


def keys_of(job: Job) -> list[str]:
    return [planned.request.key for planned in job.plan()]


def online_meanwhile(fake: FakeProvider, count: int, folder: Path) -> Outcome:
    """A whole online run, from within something that cannot wait: on the store as another process has it."""

    def run() -> Outcome:
        with Store(folder / "store") as store:
            return asyncio.run(label_all(job_at(fake.base_url, count), store, folder / "online"))

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result(60)


async def test_what_an_online_run_bought_while_the_batch_waited_is_taken_and_not_asked(
    store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number, Fate(looks=2), Fate()) as fake, provider(by_number) as online:
        job, small = job_at(fake.base_url, 6), job_at(online.base_url, 2)
        others = Leases(store.folder)
        assert all(others.acquire(key) for key in keys_of(small))

        async def sleep(seconds: float) -> None:
            await no_wait(seconds)
            if not online.answered:
                others.close()
                with Store(store.folder) as beside:
                    assert (await label_all(small, beside, tmp_path / "online")).complete

        outcome = await batch(job, store, tmp_path, sleep=sleep)
        assert outcome.complete
        assert len(online.answered) == 4
        assert sorted(fake.made) == sorted(set(keys_of(job)) - set(keys_of(small)))
    assert (store.stats().answers, store.stats().rejected) == (12, 0)


async def test_what_a_batch_asks_is_held_before_its_chunk_is_noted(store: Store, tmp_path: Path) -> None:
    during: list[Outcome] = []
    with batch_provider(by_number) as fake, provider(by_number) as online:
        job = job_at(fake.base_url, 3)

        def step(name: str) -> None:
            if name == "chunk":
                during.append(online_meanwhile(online, 3, tmp_path))

        assert (await batch(job, store, tmp_path, step=step)).complete
        assert [f.message for f in during[0].failures] == [in_a_batch(run_id(job))] * 6
        assert online.seen == []
        books_balance(fake, store)


async def test_what_is_written_and_not_yet_noted_is_leased(store: Store, tmp_path: Path) -> None:
    free: list[set[str]] = []
    with batch_provider(by_number) as fake:
        job = job_at(fake.base_url, 4)

        def step(name: str) -> None:
            if name == "chunk":
                other = Leases(store.folder)
                free.append({key for key in keys_of(job) if other.acquire(key)})
                other.close()

        assert (await batch(job, store, tmp_path, step=step, max_requests=3)).complete
        # The line that found the chunk full is written, too.
        assert [len(keys) for keys in free] == [8 - 4, 8 - 7, 0]
        books_balance(fake, store)


async def test_a_chunk_with_a_request_whose_lease_was_lost_is_written_anew_without_it(
    store: Store, tmp_path: Path
) -> None:
    """A process that sleeps for longer than a lease lasts, as a laptop does."""
    with batch_provider(by_number) as fake, provider(by_number) as online:
        job = job_at(fake.base_url, 3)
        lost: list[Outcome] = []

        def step(name: str) -> None:
            if name == "chunk" and not lost:
                with sqlite3.connect(store.folder / "leases.db") as leases:
                    leases.execute("DELETE FROM taken")
                leases.close()
                lost.append(online_meanwhile(online, 3, tmp_path))

        assert (await batch(job, store, tmp_path, step=step, max_requests=2)).complete
        assert len(online.answered) == len(lost[0].labels) == 4  # all but the two of the chunk that was noted
        assert sorted(fake.made) == sorted(lost[0].failures[n].request_key for n in range(2))
        assert fake.count("POST", "/batches") == 1


class _DiedError(Exception):
    pass


async def test_a_chunk_that_was_noted_and_neither_held_nor_sent_is_not_sent_later(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake, provider(by_number) as online:
        job = job_at(fake.base_url, 3)

        def die(name: str) -> None:
            if name == "chunk":
                raise _DiedError

        with pytest.raises(_DiedError):
            await batch(job, store, tmp_path, step=die)
        with sqlite3.connect(store.folder / "leases.db") as leases:
            leases.execute("DELETE FROM held")
        leases.close()
        assert len((await label_all(job_at(online.base_url, 2), store, tmp_path / "online")).labels) == 4
        outcome = await batch(job, store, tmp_path)
        assert outcome.complete
        assert (outcome.manifest.counts.from_store, outcome.manifest.counts.fresh) == (4, 2)
        assert len(fake.made) == 2
        state = BatchFolder(tmp_path / "batches", run_id(job)).load()
        assert state is not None
        assert [(chunk.requests, chunk.status) for chunk in state.chunks] == [(6, "not sent"), (2, "completed")]


async def test_a_chunk_that_may_have_been_sent_is_looked_for_before_it_is_given_up(
    store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number) as fake, provider(by_number) as online:
        job = job_at(fake.base_url, 2)

        def die(name: str) -> None:
            if name == "created":
                raise _DiedError

        with pytest.raises(_DiedError):
            await batch(job, store, tmp_path, step=die)
        with sqlite3.connect(store.folder / "leases.db") as leases:
            leases.execute("DELETE FROM held")  # somebody has lost them
        leases.close()
        assert len((await label_all(job_at(online.base_url, 1), store, tmp_path / "online")).labels) == 2
        assert (await batch(job, store, tmp_path)).complete
        assert (len(fake.batches), len(fake.made)) == (1, 4)


async def test_what_is_answered_while_a_batch_run_was_away_is_not_in_its_next_batch(
    store: Store, tmp_path: Path
) -> None:
    stop = Stop()
    with batch_provider(by_number) as fake, provider(by_number) as online:
        job = job_at(fake.base_url, 4)

        def step(name: str) -> None:
            if name == "chunk":
                stop()

        first = await batch(job, store, tmp_path, stop=stop, step=step)
        assert first.interrupted
        with Store(tmp_path / "elsewhere") as elsewhere:  # answers that come without asking: unpacked from a file
            assert (await label_all(job_at(online.base_url, 1), elsewhere, tmp_path / "online")).complete
            for planned in job_at(online.base_url, 1).plan():
                answer = elsewhere.get(planned.request.key)
                assert answer is not None
                store.put(planned.request, answer)
        assert (await batch(job, store, tmp_path)).complete
        assert len(fake.made) == 6


async def test_the_question_that_finds_out_the_form_is_not_asked_while_another_run_asks_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with provider(by_number) as online:
        job = job_at(online.base_url, 2)
        with Store(tmp_path / "elsewhere") as elsewhere:
            await label_all(job, elsewhere, tmp_path / "first")
            first = next(job.plan()).request
            answer = elsewhere.get(first.key)
        assert answer is not None
        online.answered.clear()
        other = Leases(store.folder)
        assert other.acquire(first.key)

        async def pause(leases: Leases) -> None:
            del leases
            store.put(first, answer)
            other.close()

        monkeypatch.setattr(Leases, "pause", pause)
        assert (await label_all(job_at(online.base_url, 2, probe=True), store, tmp_path / "second")).complete
        assert len(online.answered) == 3
    assert store.stats().rejected == 0


async def test_a_batch_takes_answers_in_whichever_form_they_were_asked(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake, provider(by_number) as online:
        plain = make_job(online.base_url, 3, endpoint=Endpoint(host="h", model="test-model", form="json_object"))
        assert (await label_all(plain, store, tmp_path / "online")).complete
        outcome = await batch(job_at(fake.base_url, 3, probe=True), store, tmp_path)
        assert outcome.complete
        assert outcome.manifest.response_form == "json_object"
        assert fake.calls == []


async def test_a_form_that_is_found_out_while_batches_wait_does_not_make_them_other_questions(
    store: Store, tmp_path: Path
) -> None:
    stop = Stop()

    async def sleep(seconds: float) -> None:
        stop()
        await no_wait(seconds)

    with batch_provider(by_number, Fate(looks=2)) as fake, provider(by_number) as online:
        job = job_at(fake.base_url, 3, probe=True)
        assert (await batch(job, store, tmp_path, stop=stop, sleep=sleep)).interrupted
        plain = make_job(online.base_url, 1, endpoint=Endpoint(host="h", model="test-model", form="json_object"))
        assert (await label_all(plain, store, tmp_path / "online")).complete
        assert (await batch(job, store, tmp_path)).complete
        assert len(fake.made) == 6


def test_a_lease_passes_to_a_batch_run_only_from_who_has_it(tmp_path: Path) -> None:
    one, other = Leases(tmp_path), Leases(tmp_path)
    assert one.acquire("a")
    assert one.acquire("b")
    assert other.acquire("c")
    assert one.transfer("run-1", ["a", "c", "d"]) == {"c", "d"}
    assert one.transfer("run-1", ["a"]) == set()
    assert (other.batch_of("a"), other.batch_of("b"), other.batch_of("c")) == ("run-1", None, None)
    assert not one.acquire("a")  # what it passed on is the batch's
    assert not other.acquire("b")
    assert other.transfer("run-2", ["a", "c"]) == {"a"}
    one.release("b")
    assert other.acquire("b")
    assert one.transfer("run-1", ["b"]) == {"b"}
    one.close()
    other.close()


def test_what_is_to_be_sent_is_held_on_but_not_taken_anew(tmp_path: Path) -> None:
    one = Leases(tmp_path)
    assert one.acquire("a")
    assert one.transfer("run-1", ["a"]) == set()
    one.reserve("run-1", ["sent"], still=["a", "b"])
    assert [one.batch_of(key) for key in ("a", "b", "sent")] == ["run-1", None, "run-1"]
    one.reserve("run-1", ["sent"])
    assert [one.batch_of(key) for key in ("a", "sent")] == [None, "run-1"]
    one.close()


@pytest.mark.slow
async def test_what_a_dead_process_had_leased_goes_into_the_batch(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        job = job_at(fake.base_url, 2)
        code = (
            "import os, sys; from pathlib import Path; from relabel.labelling.leases import Leases;"
            "leases = Leases(Path(sys.argv[1])); [leases.acquire(key) for key in sys.argv[2:]]; os._exit(0)"
        )
        subprocess.run([sys.executable, "-c", code, str(store.folder), *keys_of(job)], check=True)  # noqa: ASYNC221  nothing else runs
        assert (await batch(job, store, tmp_path, sleep=asyncio.sleep)).complete
        books_balance(fake, store)
