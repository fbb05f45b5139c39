"""The batch engine, stopped and killed: the next process goes on, and the books still balance."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import signal
from pathlib import Path

import pytest

from batch_builders import PRICE, batch, books_balance, by_number, no_wait, run_and_die
from batch_server import Call, FakeBatches, Fate, batch_provider
from job_builders import make_job
from relabel.labelling.batch.state import BatchFolder, run_id
from relabel.labelling.job import Stop
from relabel.labelling.store import Store
from relabel.run import open_run
from server import Reply, Seen, chat, judged

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["batch_builders"])
TASKS = 6


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that the victims are forked from imports what they need once; it must find it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def fates() -> list[Fate]:
    """A job of three chunks with all kinds of ends: in one piece, expired half-way, with lines left out."""
    return [Fate(looks=2), Fate("expired", answered=2), Fate(silent=1, twice=True, backwards=True), Fate()]


def die(fake: FakeBatches, folder: Path, at: int) -> bool:
    """Run the job in another process; whether it died there."""
    child = _FORKED.Process(target=run_and_die, args=(fake.base_url, str(folder), TASKS, at))
    child.start()
    child.join(60)
    assert child.exitcode in {0, -signal.SIGKILL}
    return child.exitcode != 0


async def test_kill_9_after_any_step_loses_nothing_and_buys_nothing_twice(tmp_path: Path) -> None:
    names: list[str] = []
    with batch_provider(by_number, *fates()) as fake, Store(tmp_path / "whole" / "store") as store:
        whole = await batch(
            make_job(fake.base_url, TASKS), store, tmp_path / "whole", max_requests=4, step=names.append
        )
    assert whole.complete
    assert {"planned", "chunk", "uploaded", "file noted", "intent noted", "created", "batch noted"} <= set(names)
    assert {"status noted", "downloaded", "entered", "taken", "forgotten"} <= set(names)
    for at, name in enumerate(names, 1):
        if name == "entered" and at % 4:
            continue  # one line is like the other
        folder = tmp_path / str(at)
        with batch_provider(by_number, *fates()) as fake:
            assert die(fake, folder, at), name
            with Store(folder / "store") as store:
                outcome = await batch(
                    make_job(fake.base_url, TASKS), store, folder, max_requests=4, sleep=asyncio.sleep
                )
                assert outcome.complete, name
                books_balance(fake, store)
            assert len(fake.made) == 2 * TASKS, name


async def test_the_start_after_a_kill_accounts_for_it(tmp_path: Path) -> None:
    names: list[str] = []
    with batch_provider(by_number, Fate(looks=2), Fate(), Fate()) as fake, Store(tmp_path / "whole" / "store") as store:
        await batch(
            make_job(fake.base_url, TASKS, price=PRICE), store, tmp_path / "whole", max_requests=4, step=names.append
        )
        cost = open_run(str(tmp_path / "whole" / "run")).manifest.cost_usd
    assert cost
    for at in (names.index("batch noted") + 1, names.index("status noted") + 1, names.index("entered") + 3):
        folder = tmp_path / str(at)
        with batch_provider(by_number, Fate(looks=2), Fate(), Fate()) as fake:
            assert die(fake, folder, at)
            with Store(folder / "store") as store:
                outcome = await batch(make_job(fake.base_url, TASKS, price=PRICE), store, folder, max_requests=4)
                books_balance(fake, store)
            sessions = open_run(str(folder / "run")).manifest.sessions
            states = [session.status for session in sessions]
            assert states == ["killed", "complete"]
            assert sum(session.counts.fresh for session in sessions) == len(fake.made) == 2 * TASKS
            assert sum(session.cost_usd or 0.0 for session in sessions) == pytest.approx(cost)
            assert not any(session.perhaps_charged.requests for session in sessions)
            assert "its batches continue" in (outcome.manifest.note or "")


@pytest.mark.parametrize("seed", range(6))
async def test_any_number_of_kills_and_faults_leaves_the_books_in_balance(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    ends = ["completed", "completed", "expired", "cancelled"]
    schedule = [
        Fate(
            dice.choice(ends),
            answered=dice.choice([None, 0, 1, 3]),
            looks=dice.randint(1, 3),
            silent=dice.choice([0, 0, 1]),
            backwards=dice.random() < 0.5,
        )
        for _ in range(dice.randint(0, 6))
    ]

    def trouble(call: Call) -> str | None:
        if dice.random() < 0.85:
            return None
        return "cut" if call.path.endswith("/content") else "lost" if call.method == "POST" else None

    with batch_provider(by_number, *schedule, Fate()) as fake:
        fake.trouble = trouble
        deaths = 0
        while deaths < 6 and die(fake, tmp_path, dice.randint(5, 45)):
            deaths += 1
        with Store(tmp_path / "store") as store:
            for _ in range(3):  # requests that three batches left out are failures, asked for by the next run
                outcome = await batch(make_job(fake.base_url, TASKS), store, tmp_path, max_requests=4)
                if outcome.complete:
                    break
            assert outcome.complete  # pyright: ignore[reportPossiblyUnboundVariable]  the loop runs
            books_balance(fake, store)


async def test_a_kill_within_the_results_keeps_evidence_once_and_asks_nothing_again(tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        return Reply(body=chat(None, refusal="No.")) if "number 1" in seen.prompt else judged()

    names: list[str] = []
    with batch_provider(script) as fake, Store(tmp_path / "whole" / "store") as store:
        await batch(make_job(fake.base_url, TASKS), store, tmp_path / "whole", max_requests=4, step=names.append)
    for at in (i for i, name in enumerate(names, 1) if name in {"entered", "taken"} and i % 3 == 0):
        folder = tmp_path / str(at)
        with batch_provider(script) as fake:
            assert die(fake, folder, at)
            with Store(folder / "store") as store:
                outcome = await batch(
                    make_job(fake.base_url, TASKS), store, folder, max_requests=4, sleep=asyncio.sleep
                )
                assert {(f.task_id, f.kind) for f in outcome.failures} == {("1", "refusal")}
                assert (store.stats().answers, store.stats().rejected) == (10, 2)
            assert len(fake.made) == 12


async def test_stopping_leaves_the_batches_and_the_next_run_takes_them(store: Store, tmp_path: Path) -> None:
    stop = Stop()
    with batch_provider(by_number, Fate(looks=5)) as fake:
        job = make_job(fake.base_url)

        async def sleep(seconds: float) -> None:
            del seconds
            stop()
            await asyncio.Event().wait()

        outcome = await batch(job, store, tmp_path, stop=stop, sleep=sleep)
        assert outcome.interrupted
        assert open_run(str(tmp_path / "run")).manifest.status == "interrupted"
        assert {f.message for f in outcome.failures} == {
            f"it is in the batch batch_1; `relabel batch resume {run_id(job)}` continues"
        }
        again = await batch(job, store, tmp_path)
        assert again.complete
        assert len(fake.batches) == 1
        books_balance(fake, store)


async def test_what_an_earlier_process_has_sent_was_asked(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number, Fate(looks=9)) as fake:
        for _ in range(2):
            stop = Stop()

            async def sleep(seconds: float, stop: Stop = stop) -> None:
                stop()
                await no_wait(seconds)

            outcome = await batch(make_job(fake.base_url), store, tmp_path, stop=stop, sleep=sleep)
            assert outcome.progress.unasked == 0
            assert {f.attempts for f in outcome.failures} == {1}


@pytest.mark.parametrize(("calls", "named"), [(1, 80), (2, 1)])
async def test_a_stop_before_all_of_the_plan_is_looked_at_counts_every_label(
    calls: int, named: int, store: Store, tmp_path: Path
) -> None:
    stop = Stop()
    for _ in range(calls):
        stop()
    with batch_provider(by_number) as fake:
        outcome = await batch(make_job(fake.base_url, 40), store, tmp_path, stop=stop)
        assert outcome.interrupted
        assert len(outcome.failures) >= named
        assert outcome.missing == outcome.manifest.counts.failed == 80
        assert fake.batches == {}


async def test_what_is_written_and_not_sent_was_not_asked(store: Store, tmp_path: Path) -> None:
    stop = Stop()

    def step(name: str) -> None:
        if name == "chunk" and not stop.asked.is_set():
            stop()

    with batch_provider(by_number) as fake:
        outcome = await batch(make_job(fake.base_url, 40), store, tmp_path, stop=stop, step=step, max_requests=50)
        assert len({f.message for f in outcome.failures}) == 2  # in a batch to come, and not even that
        assert {f.attempts for f in outcome.failures} == {0}
        assert outcome.progress.unasked == 80
        assert fake.batches == {}


async def test_taking_only_stops_the_batches_and_asks_for_nothing_more(store: Store, tmp_path: Path) -> None:
    stop = Stop()
    with batch_provider(by_number, Fate(looks=1), Fate(looks=9, answered=1)) as fake:
        job = make_job(fake.base_url, 4)

        async def sleep(seconds: float) -> None:
            stop()
            await no_wait(seconds)

        await batch(job, store, tmp_path, stop=stop, sleep=sleep, max_requests=4)
        outcome = await batch(job, store, tmp_path, submit=False)
        assert len(outcome.labels) == 5
        assert len(outcome.failures) == 3
        assert len(fake.batches) == 2
        state = BatchFolder(tmp_path / "batches", run_id(job)).load()
        assert state is not None
        assert state.open == []
        assert (await batch(job, store, tmp_path)).complete
        books_balance(fake, store)


async def test_an_answer_bought_elsewhere_meanwhile_is_kept_and_said(store: Store, tmp_path: Path) -> None:
    stop = Stop()
    with batch_provider(by_number, Fate(looks=2)) as fake:
        job = make_job(fake.base_url, 1)

        async def sleep(seconds: float) -> None:
            await no_wait(seconds)
            for planned in job.plan() if len(fake.batches) == 2 else ():  # the twin's is looked for first, and gone
                with Store(tmp_path / "twin") as twin:
                    answer = twin.get(planned.request.key)
                    assert answer is not None
                    store.put(planned.request, answer)

        with Store(tmp_path / "twin") as twin:
            await batch(job, twin, tmp_path / "elsewhere", base_url=fake.base_url)
        outcome = await batch(job, store, tmp_path, stop=stop, sleep=sleep)
    assert outcome.complete
    assert (store.stats().answers, store.stats().rejected) == (2, 2)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["tokens"]["prompt"] == 200
