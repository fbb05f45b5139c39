"""Whatever the server does and whenever a run is stopped or killed: what was answered is in the store, once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from job_builders import label_all, make_job
from relabel.errors import DataError, ProviderError
from relabel.labelling.job import Stop
from relabel.labelling.rows import NOTE, REJECTED, TEXT
from relabel.labelling.store import Store
from relabel.labelling.transport import Timeouts
from relabel.run import Run, open_run
from server import FakeProvider, Reply, Seen, chat, judged, provider, refused

TASKS = 12
WANTED = sorted((str(n), setting) for n in range(TASKS) for setting in ("strict", "with-tools"))
AT_ONCE = 4
NOT_ANSWERS = (TEXT, NOTE)

FAULTS: dict[str, Reply] = {
    "busy": refused(429, "slow down", None, **{"retry-after": "1"}),
    "ill": refused(500, "oops"),
    "drop": Reply(fault="drop"),
    "hang": Reply(fault="hang"),
    "too long": refused(413, "too long"),
    "prose": Reply(body=chat("Sure! The label is exposed.")),
    "wrong label": Reply(body=chat('{"rationale": "x", "label": "E1"}')),
    "refusal": Reply(body=chat(None, refusal="I will not.")),
    "cut": Reply(body=chat('{"rationale": "and so', finish_reason="length")),
    "filtered": Reply(body=chat("", finish_reason="content_filter")),
    "empty": Reply(body=chat("")),
}


def question(seen: Seen) -> str:
    """What is asked, a repair's extra turns left out."""
    return json.dumps(seen.messages[:2])


def right(seen: Seen) -> Reply:
    """The label that this server gives to a question, always the same."""
    return judged("exposed" if len(seen.prompt) % 3 + len(seen.messages[0]["content"]) % 2 else "not-exposed")


class Schedule:
    """Plays a fault for each request by its number, and the right answer when all are played; acts at some numbers."""

    def __init__(self, plan: Sequence[str]) -> None:
        self.plan = plan
        self.turn = 0
        self.at: set[int] = set()
        self.act = lambda: None

    def __call__(self, seen: Seen) -> Reply:
        self.turn += 1
        if self.turn in self.at:
            self.act()
        what = self.plan[self.turn - 1] if self.turn <= len(self.plan) else "good"
        reply = right(seen) if what == "good" else FAULTS[what]
        # A little time on the wire, so that several are under way at once.
        return Reply(reply.status, reply.body, reply.headers, 0.002, reply.fault)


def whole(run: Run) -> None:
    """Every wanted label is there or named as missing, exactly once, and the counts say the same."""
    there = list(zip(run.labels["task_id"], run.labels["setting"], strict=True))
    missing = [(failure.task_id, failure.setting) for failure in run.failures()]
    assert sorted(there + missing) == WANTED
    counts = run.manifest.counts
    assert counts.from_store + counts.fresh == len(there)
    assert counts.failed == len(missing)


def labels(run: Run) -> list[tuple[str, str, str]]:
    return sorted(zip(run.labels["task_id"], run.labels["setting"], run.labels["label"], strict=True))


def faultless(folder: Path) -> list[tuple[str, str, str]]:
    with provider(right) as fake, Store(folder / "store") as store:
        asyncio.run(label_all(make_job(fake.base_url, TASKS), store, folder / "run"))
    return labels(open_run(str(folder / "run")))


def check_ledger(fake: FakeProvider, store: Store, *, lost: int) -> None:
    """The store against what the server knows it answered."""
    assert list(store.verify()) == []
    stats = store.stats()
    assert 0 <= len(fake.answered) - (stats.answers + stats.rejected) <= lost
    answered = Counter(question(seen) for seen in fake.answered)
    kept: Counter[str] = Counter()
    for key in store.keys():  # noqa: SIM118  a store is no mapping
        row, request = store.row(key), None if key.startswith(NOT_ANSWERS) else store.request(key)
        if row is None or request is None:
            continue
        # An answer that is no label says why; an accepted one stands alone under its key.
        assert (REJECTED in key) == ("rejected" in row)
        assert row.get("rejected", {}).get("kind") != "duplicate"
        kept[json.dumps(request["body"]["messages"])] += 1
    assert not kept - answered
    assert sum((answered - kept).values()) <= lost


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    plan=st.lists(st.sampled_from(["good", "good", "good", *sorted(set(FAULTS) - {"hang"})]), max_size=60),
    hangs=st.sets(st.integers(0, 59), max_size=1),
    stops=st.sets(st.integers(1, 50), max_size=3),
)
@example(plan=["refusal"] * 30, hangs=set(), stops=set())
@example(plan=["prose", "prose"] * 15, hangs=set(), stops={9})
@example(plan=["busy", "ill", "drop", "good"] * 12, hangs={3}, stops={2, 7, 8})
@example(plan=["cut", "refusal", "good"], hangs=set(), stops={10, 11, 34})
def test_nothing_that_was_answered_is_lost_or_bought_again(plan: list[str], hangs: set[int], stops: set[int]) -> None:
    plan = ["hang" if n in hangs else what for n, what in enumerate(plan)]
    schedule = Schedule(plan)
    schedule.at = stops
    with (
        tempfile.TemporaryDirectory() as name,
        provider(schedule) as fake,
        Store(Path(name) / "store") as store,
    ):
        folder = Path(name) / "run"

        async def once() -> bool:
            stop, loop = Stop(), asyncio.get_running_loop()
            # One stop a start: a second one quits at once, and what is on the wire then is lost, as it says.
            schedule.act = lambda: loop.call_soon_threadsafe(stop.asked.set) and None
            try:
                outcome = await label_all(
                    make_job(fake.base_url, TASKS),
                    store,
                    folder,
                    concurrency=AT_ONCE,
                    stop=stop,
                    timeouts=Timeouts(8.0),  # long enough that on a busy machine only a request that hangs takes it
                )
            except ProviderError as error:
                if "failed with the same error" not in str(error):
                    raise
                return False
            finally:
                schedule.act = lambda: None
            return outcome.complete

        for _ in range(30):
            done = asyncio.run(once())
            whole(open_run(str(folder)))
            check_ledger(fake, store, lost=0)
            if done:
                break
        run = open_run(str(folder))
        assert run.manifest.status == "complete"
        assert sum(session.tokens.prompt for session in run.manifest.sessions) == 100 * len(fake.answered)
        assert labels(run) == faultless(Path(name) / "plain")
        asked = len(fake.seen)
        assert asyncio.run(once())
        assert len(fake.seen) == asked


CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from job_builders import label_all, make_job
from relabel.labelling.store import Store
with Store(Path(sys.argv[2])) as store:
    asyncio.run(label_all(make_job(sys.argv[1], int(sys.argv[5])), store, Path(sys.argv[3]), concurrency=int(sys.argv[6])))
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kill_9_at_random_moments_loses_no_more_than_what_was_in_flight(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    faults = [name for name in FAULTS if name != "hang"]
    schedule = Schedule([chance.choice(["good"] * 6 + faults) for _ in range(50)])
    kills = sorted(chance.sample(range(3, 28), 2))
    child: subprocess.Popen[bytes] | None = None

    def kill() -> None:
        if child is not None and child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)

    schedule.act = kill
    with provider(schedule) as fake:
        killed = 0
        for at in kills:
            schedule.at = {max(at, schedule.turn + 2)}
            words = [fake.base_url, str(tmp_path / "store"), str(tmp_path / "run"), str(Path(__file__).parents[1])]
            words += [str(TASKS), str(AT_ONCE)]
            child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(CHILD), *words], stderr=subprocess.DEVNULL)
            killed += child.wait(60) == -signal.SIGKILL
            with pytest.raises(DataError, match=r"was killed; start the same `relabel run` again"):
                open_run(str(tmp_path / "run"))
            with Store(tmp_path / "store") as store:
                check_ledger(fake, store, lost=killed * AT_ONCE)
        assert killed == 2
        with Store(tmp_path / "store") as store:
            for _ in range(30):
                try:
                    done = asyncio.run(label_all(make_job(fake.base_url, TASKS), store, tmp_path / "run"))
                except ProviderError:
                    continue
                whole(open_run(str(tmp_path / "run")))
                if done.complete:
                    break
            check_ledger(fake, store, lost=killed * AT_ONCE)
    assert labels(open_run(str(tmp_path / "run"))) == faultless(tmp_path / "plain")
