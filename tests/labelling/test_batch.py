"""The batch engine: the labels of an online run for half the price, whatever becomes of the batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_builders import batch, books_balance, by_number
from batch_server import Fate, batch_provider
from job_builders import KEY, label_all, make_job
from relabel.errors import DataError
from relabel.labelling.batch.state import BatchFolder, run_id, unaccounted_usd
from relabel.labelling.job import Job, Stop
from relabel.labelling.limits import Budget
from relabel.labelling.providers import Price
from relabel.labelling.request import Endpoint, canonical_json, host_of
from relabel.labelling.session import spent_before
from relabel.labelling.store import Store
from relabel.labelling.wire import PATHS
from relabel.labels import Label
from relabel.run import open_run
from server import Reply, Seen, chat, judged, provider, refused

PRICE = Price(input=2.0, cached=1.0, output=8.0, source="test")


def job_at(url: str, count: int, **changes: Any) -> Job:
    """A job whose requests are the same wherever the server listens."""
    return make_job(url, count, endpoint=Endpoint(host="h", model="test-model"), **changes)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def bare(labels: Sequence[Label]) -> list[tuple[Any, ...]]:
    return sorted((x.task_id, x.setting, x.sample, x.label, x.rationale, x.request_key) for x in labels)


async def test_a_batch_labels_every_task_for_half_the_price(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        outcome = await batch(make_job(fake.base_url, price=PRICE), store, tmp_path)
    assert outcome.complete
    assert len(fake.batches) == 1
    books_balance(fake, store)
    manifest = open_run(str(tmp_path / "run")).manifest
    assert manifest.engine == "batch"
    assert (manifest.counts.from_store, manifest.counts.fresh) == (0, 10)
    assert manifest.cost_usd == pytest.approx(10 * (36 * 2 + 64 * 1 + 20 * 8) / 2 / 1e6)
    assert {x.cost_usd for x in outcome.labels} == {(36 * 2 + 64 * 1 + 20 * 8) / 2 / 1e6}
    assert manifest.price is not None
    assert manifest.price["input"] == 1.0


async def test_its_labels_are_those_of_an_online_run(store: Store, tmp_path: Path) -> None:
    with provider(by_number) as fake, Store(tmp_path / "other") as other:
        online = await label_all(job_at(fake.base_url, 12), other, tmp_path / "online")
    with batch_provider(by_number) as batches:
        outcome = await batch(job_at(batches.base_url, 12), store, tmp_path)
    assert bare(outcome.labels) == bare(online.labels)
    sent = [json.loads(line)["body"] for line in batches.bodies[0].splitlines()]
    assert sorted(map(canonical_json, sent)) == sorted(canonical_json(seen.body) for seen in fake.seen)


async def test_a_line_asks_for_the_rationale_before_the_label(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        await batch(make_job(fake.base_url, 1), store, tmp_path)
    for line in fake.bodies[0].splitlines():
        schema = json.loads(line)["body"]["response_format"]["json_schema"]["schema"]
        assert list(schema["properties"]) == ["rationale", "label"]  # a model writes in the order of the schema


async def test_a_run_goes_on_from_online_to_batch_and_back(store: Store, tmp_path: Path) -> None:
    turns = iter(range(100))
    with provider(lambda seen: judged() if next(turns) < 4 else refused(400)) as fake:
        job = job_at(fake.base_url, 4)
        first = await label_all(job, store, tmp_path / "run", concurrency=1)
    assert len(first.labels) == 4
    with batch_provider(by_number) as batches:
        second = await batch(job, store, tmp_path, base_url=batches.base_url)
    assert second.complete
    assert (second.manifest.counts.from_store, second.manifest.counts.fresh) == (4, 4)
    assert len(batches.made) == 4
    third = await label_all(job, store, tmp_path / "run")
    assert third.complete
    assert third.manifest.counts.from_store == 8


async def test_what_the_store_has_needs_no_provider(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        await batch(make_job(fake.base_url), store, tmp_path)
        calls = len(fake.calls)
        outcome = await batch(make_job(fake.base_url), store, tmp_path)
        assert len(fake.calls) == calls
    assert outcome.manifest.counts.from_store == 10


async def test_the_same_question_twice_is_asked_once(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        task = make_job(fake.base_url, 1).tasks[0]
        twin = replace(task, task_id="twin")
        outcome = await batch(make_job(fake.base_url, tasks=[task, twin]), store, tmp_path)
    assert len(fake.made) == 2
    assert len(outcome.labels) == 4


async def test_chunks_are_bounded_by_requests_and_by_bytes(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        await batch(make_job(fake.base_url, 5), store, tmp_path, max_requests=4)
        assert [len(body.splitlines()) for body in fake.bodies] == [4, 4, 2]
        line = max(len(x) + 1 for body in fake.bodies for x in body.splitlines())
        await batch(make_job(fake.base_url, 5, samples=2), store, tmp_path, out="more", max_bytes=3 * line)
        assert all(len(body) <= 3 * line for body in fake.bodies[3:])
        assert max(len(body.splitlines()) for body in fake.bodies[3:]) == 3
    books_balance(fake, store)


async def test_the_responses_api_goes_to_its_own_path(store: Store, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        assert seen.path == "/v1" + PATHS["responses"]
        said = json.dumps({"rationale": "x", "label": "exposed"})
        item = {"type": "message", "content": [{"type": "output_text", "text": said}]}
        return Reply(body={"status": "completed", "model": "m", "output": [item]})

    with batch_provider(script) as fake:
        endpoint = Endpoint(host=host_of(fake.base_url), model="test-model", api="responses")
        assert (await batch(make_job(fake.base_url, 2, endpoint=endpoint), store, tmp_path)).complete


async def test_tasks_that_a_packed_answer_leaves_out_are_asked_alone_in_another_batch(
    store: Store, tmp_path: Path
) -> None:
    def script(seen: Seen) -> Reply:
        if "answers" not in json.dumps(seen.body["response_format"]):
            return judged()
        entries = [{"id": str(n), "rationale": "x", "label": "exposed"} for n in (1, 3)]
        return Reply(body=chat(json.dumps({"answers": entries})))

    with batch_provider(script) as fake:
        outcome = await batch(make_job(fake.base_url, 3, pack=3), store, tmp_path)
    assert outcome.complete
    assert [len(body.splitlines()) for body in fake.bodies] == [2, 2]
    books_balance(fake, store)


@pytest.mark.parametrize(
    "refused",
    [Reply(body=chat(None, refusal="No.")), Reply(400, {"error": {"message": "x", "code": "content_filter"}})],
)
async def test_a_pack_with_a_refused_task_is_asked_again_task_by_task(
    refused: Reply, store: Store, tmp_path: Path
) -> None:
    with batch_provider(lambda seen: refused if "number 1" in seen.prompt else judged()) as fake:
        outcome = await batch(make_job(fake.base_url, 3, pack=3), store, tmp_path)
    assert {x.task_id for x in outcome.labels} == {"0", "2"}
    assert {x.task_id for x in outcome.failures} == {"1"}
    assert [len(body.splitlines()) for body in fake.bodies] == [2, 6]
    assert store.stats().answers == 4


async def test_what_was_asked_alone_after_a_filtered_pack_is_collected_by_the_next_start(
    store: Store, tmp_path: Path
) -> None:
    stop = Stop()

    def step(name: str) -> None:
        if name == "batch noted" and len(fake.batches) == 2:
            stop()

    filtered = Reply(400, {"error": {"message": "x", "code": "content_filter"}})
    with batch_provider(
        lambda seen: filtered if "number 1" in seen.prompt else judged(), Fate(), Fate(looks=3)
    ) as fake:
        job = make_job(fake.base_url, 3, pack=3)
        assert (await batch(job, store, tmp_path, stop=stop, step=step)).interrupted
        outcome = await batch(job, store, tmp_path)
        assert [len(body.splitlines()) for body in fake.bodies] == [2, 6]  # no pack again
        books_balance(fake, store)
    assert {x.task_id for x in outcome.labels} == {"0", "2"}
    assert outcome.manifest.note is None


@pytest.mark.parametrize(
    "fate",
    [
        Fate(backwards=True),
        Fate(twice=True),
        Fate(stranger=True),
        Fate(looks=9),
        Fate(backwards=True, twice=True, stranger=True),
    ],
    ids=str,
)
async def test_odd_output_is_understood(fate: Fate, store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number, fate) as fake:
        outcome = await batch(make_job(fake.base_url), store, tmp_path)
    assert outcome.complete
    assert {x.label for x in outcome.labels if x.task_id == "1"} == {"exposed"}
    assert {x.label for x in outcome.labels if x.task_id == "2"} == {"not-exposed"}
    books_balance(fake, store)


@pytest.mark.parametrize(
    "fate",
    [Fate("expired", answered=3), Fate("cancelled", answered=0), Fate(silent=4), Fate("expired", silent=10)],
    ids=str,
)
async def test_only_what_is_missing_is_asked_again(fate: Fate, store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number, fate, Fate()) as fake:
        outcome = await batch(make_job(fake.base_url), store, tmp_path)
    assert outcome.complete
    assert len(fake.batches) == 2
    assert len(fake.made) == 10
    books_balance(fake, store)


async def test_a_line_that_failed_in_passing_is_asked_again(store: Store, tmp_path: Path) -> None:
    turns = iter(range(100))
    with batch_provider(lambda seen: refused(500, "oops") if next(turns) < 3 else judged()) as fake:
        outcome = await batch(make_job(fake.base_url), store, tmp_path)
    assert outcome.complete
    assert [len(body.splitlines()) for body in fake.bodies] == [10, 3]
    books_balance(fake, store)


async def test_what_is_never_answered_ends_as_a_failure(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number, Fate("expired", answered=0)) as fake:
        outcome = await batch(make_job(fake.base_url, 1), store, tmp_path)
        assert len(fake.batches) == 3
        assert {(f.kind, f.attempts) for f in outcome.failures} == {("provider", 3)}
        assert "could not be executed in time" in outcome.failures[0].message
        fake.fates = [Fate()]
        assert (await batch(make_job(fake.base_url, 1), store, tmp_path)).complete


async def test_a_line_that_is_refused_is_a_failure_and_asked_again_only_by_the_next_run(
    store: Store, tmp_path: Path
) -> None:
    with batch_provider(lambda seen: refused(400, "too long") if "number 2" in seen.prompt else judged()) as fake:
        outcome = await batch(make_job(fake.base_url), store, tmp_path)
        assert len(fake.batches) == 1
        assert [(f.task_id, f.kind, f.message) for f in outcome.failures] == [
            ("2", "provider", "HTTP 400: too long")
        ] * 2
        fake.answers = by_number
        again = await batch(make_job(fake.base_url), store, tmp_path)
    assert again.complete
    assert len(fake.bodies[1].splitlines()) == 2
    books_balance(fake, store)


async def test_a_bad_answer_is_kept_as_evidence(store: Store, tmp_path: Path) -> None:
    bad = {"number 1": chat(None, refusal="No."), "number 2": chat("{", finish_reason="length"), "number 3": chat("hm")}

    def script(seen: Seen) -> Reply:
        return next((Reply(body=body) for what, body in bad.items() if what in seen.prompt), judged())

    with batch_provider(script) as fake:
        outcome = await batch(make_job(fake.base_url, price=PRICE), store, tmp_path)
    kinds = {f.task_id: f.kind for f in outcome.failures}
    assert kinds == {"1": "refusal", "2": "length", "3": "invalid-json"}
    stats = store.stats()
    assert (stats.answers, stats.rejected) == (4, 6)
    assert stats.cost_usd == pytest.approx(outcome.manifest.cost_usd)
    assert len(fake.made) == 10


async def test_the_cap_is_never_passed(store: Store, tmp_path: Path) -> None:
    def job(url: str) -> Any:
        endpoint = Endpoint(host=host_of(url), model="test-model", params={"max_completion_tokens": 100})
        return make_job(url, 10, price=PRICE, endpoint=endpoint)

    with batch_provider(by_number) as fake:
        worst = Budget(1.0, PRICE.halved()).worst_case(next(job(fake.base_url).plan()).request.body)
        cap = worst + 8 * (36 * 2 + 64 * 1 + 20 * 8) / 2 / 1e6  # what eight answers cost, and room for one more
        outcome = await batch(job(fake.base_url), store, tmp_path, max_cost=cap)
        assert 0 < len(outcome.labels) < 20
        assert {f.kind for f in outcome.failures} == {"budget"}
        assert f"of the cap of {cap:.4f} USD" in outcome.failures[0].message
        spent = sum(x.cost_usd or 0 for x in outcome.labels)
        assert spent <= cap
        assert len(fake.batches) > 1  # what earlier batches left over was spent
    books_balance(fake, store)


class _DiedError(Exception):
    pass


async def test_the_cap_is_of_the_run_over_all_its_starts_killed_ones_and_online_ones_too(
    store: Store, tmp_path: Path
) -> None:
    price = PRICE.halved()
    one = (36 * 2 + 64 * 1 + 20 * 8) / 1e6 / 2

    def job(url: str, count: int) -> Any:
        endpoint = Endpoint(host="h", model="test-model", params={"max_completion_tokens": 100})
        return make_job(url, count, price=PRICE, endpoint=endpoint)

    def die(name: str) -> None:
        if name == "taken":
            raise _DiedError

    with batch_provider(by_number, Fate(answered=6, status="expired")) as fake:
        most = Budget(1.0, price).worst_case(next(job(fake.base_url, 6).plan()).request.body)
        cap = 12 * most
        with pytest.raises(_DiedError):
            await batch(job(fake.base_url, 6), store, tmp_path, max_cost=cap, step=die)
        assert len(fake.made) == 6
        # The killed start wrote no manifest, and what it bought counts all the same.
        outcome = await batch(job(fake.base_url, 6), store, tmp_path, max_cost=cap / 12 + 6 * one)
        assert len(fake.made) == 7
        assert {f.kind for f in outcome.failures} == {"budget"}
        assert unaccounted_usd(tmp_path / "batches", job(fake.base_url, 6)) == 0
        before = fake.made.copy()
        assert not (await batch(job(fake.base_url, 6), store, tmp_path, max_cost=7 * one)).complete
        assert fake.made == before
        assert spent_before(tmp_path / "run") == pytest.approx(7 * one)
        budget = Budget(7 * one, PRICE)
        calls = len(fake.calls)
        again = await label_all(job(fake.base_url, 6), store, tmp_path / "run", budget=budget)
        assert {f.kind for f in again.failures} == {"budget"}
        assert len(fake.calls) == calls


async def test_nothing_that_is_written_holds_the_key(store: Store, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        if "number 1" in seen.prompt:
            return refused(400, f"bad key {KEY}")
        return judged(rationale=f"said {KEY}")

    seen_files: set[Path] = set()

    def step(name: str) -> None:
        for path in (tmp_path / "batches").rglob("*"):
            if path.is_file() and not path.name.startswith("chunk"):
                seen_files.add(path)
                assert KEY.encode() not in path.read_bytes()

    with batch_provider(script) as fake:
        address = fake.base_url.replace("http://", f"http://user:{KEY}@")
        await batch(make_job(address), store, tmp_path, step=step)
        assert {call.authorization for call in fake.calls} == {f"Bearer {KEY}"}
    store.close()
    assert seen_files
    written = [path for path in files_below(tmp_path) if KEY.encode() in path.read_bytes()]
    assert written == []


async def test_files_are_removed_here_and_there_once_they_are_taken(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        job = make_job(fake.base_url)
        await batch(job, store, tmp_path)
    assert sorted(fake.deleted) == sorted(fake.files)
    assert sorted(p.name for p in (tmp_path / "batches" / run_id(job)).iterdir()) == ["job.json", "lock", "state.json"]
    assert (tmp_path / "batches" / run_id(job)).stat().st_mode & 0o077 == 0


async def test_two_processes_cannot_work_on_one_job(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        job = make_job(fake.base_url)
        with (
            BatchFolder(tmp_path / "batches", run_id(job)).locked(),
            pytest.raises(DataError, match="another process is working on"),
        ):
            await batch(job, store, tmp_path)
        assert fake.calls == []
        assert (await batch(job, store, tmp_path)).complete
