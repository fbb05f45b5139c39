"""The batch engine against a provider that misbehaves: nothing is lost and nothing is bought twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batch_builders import PRICE, batch, books_balance, by_number, no_wait
from batch_server import Call, FakeBatches, Fate, batch_provider, refuse
from job_builders import KEY, label_all, make_job
from relabel.errors import ProviderError
from relabel.labelling.batch import poller
from relabel.labelling.batch.state import BatchFolder, run_id
from relabel.labelling.providers import Price
from relabel.labelling.request import Endpoint, host_of
from relabel.labelling.store import Store
from relabel.manifest import read_manifest
from relabel.run import open_run
from server import Reply, Seen, chat, judged, provider, refused


async def test_a_download_that_is_cut_is_fetched_again(store: Store, tmp_path: Path) -> None:
    for how in ("cut", "short"):
        with batch_provider(by_number) as fake:
            turns = iter(range(100))

            def trouble(call: Call, turns: Any = turns, how: str = how) -> str | None:
                return how if call.path.endswith("/content") and next(turns) == 0 else None

            fake.trouble = trouble
            outcome = await batch(make_job(fake.base_url), store, tmp_path, out=how)
            assert outcome.complete
            assert len(fake.batches) == 1
            assert fake.count("GET", "/files/.*/content") == 2
            assert len(fake.made) == 10


@pytest.mark.parametrize("what", ["/batches/batch_1", "/files/file-2/content"])
async def test_what_the_provider_does_not_find_at_once_is_looked_for_again(
    what: str, store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number) as fake:
        turns = iter(range(100))
        fake.trouble = lambda call: refuse(404) if call.path == what and next(turns) < 2 else None
        assert (await batch(make_job(fake.base_url), store, tmp_path)).complete
        assert len(fake.batches) == 1


async def test_a_batch_that_is_not_found_now_and_then_is_not_gone(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number, Fate(looks=12)) as fake:
        turns = iter(range(100))
        fake.trouble = lambda call: refuse(404) if call.path == "/batches/batch_1" and next(turns) % 2 else None
        assert (await batch(make_job(fake.base_url), store, tmp_path)).complete
        assert len(fake.batches) == 1


@pytest.mark.parametrize(
    ("status", "answered", "batches"),
    [("done", None, 1), ("ended", None, 1), ("canceled", 4, 2), ("finalized", None, 1), ("aborted", 4, 2)],
)
async def test_other_words_for_the_end_of_a_batch_are_known(
    status: str, answered: int | None, batches: int, store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number, Fate(status, answered=answered), Fate()) as fake:
        assert (await batch(make_job(fake.base_url), store, tmp_path)).complete
        assert len(fake.batches) == batches


class OddTimes(FakeBatches):
    """A provider that tells time in its own way."""

    told: Callable[[int], Any] = staticmethod(lambda seconds: seconds)

    def shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        return super().shown(batch) | {"created_at": self.told(batch["created_at"])}


@pytest.mark.parametrize(
    "told",
    [
        lambda seconds: seconds * 1000,
        lambda seconds: 10**400,
        lambda seconds: -seconds,
        lambda seconds: None,
        lambda seconds: "just now",
    ],
)
async def test_a_batch_is_taken_and_found_again_whatever_its_time(
    told: Callable[[int], Any], store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number, kind=type("Odd", (OddTimes,), {"told": staticmethod(told)})) as fake:
        turns = iter(range(100))
        fake.trouble = lambda call: (
            "lost" if (call.method, call.path) == ("POST", "/batches") and next(turns) == 0 else None
        )
        assert (await batch(make_job(fake.base_url), store, tmp_path)).complete
        assert len(fake.batches) == 1
        books_balance(fake, store)


class Numbered(FakeBatches):
    """A provider whose files and batches have numbers."""

    def path(self, path: str) -> str:
        return re.sub(
            r"/(batches|files)/(\d+)", lambda m: f"/{m[1]}/{'batch_' if m[1] == 'batches' else 'file-'}{m[2]}", path
        )

    def shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        said = super().shown(batch)
        return said | {
            name: int(value.rpartition("_")[2].rpartition("-")[2])
            for name in ("id", "output_file_id")
            if isinstance(value := said[name], str)
        }


async def test_ids_may_be_numbers(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number, Fate(looks=2), kind=Numbered) as fake:
        job = make_job(fake.base_url)
        assert (await batch(job, store, tmp_path)).complete
        assert "file-2" in fake.deleted or "2" in fake.deleted
    state = BatchFolder(tmp_path / "batches", run_id(job)).load()
    assert state is not None
    assert [(chunk.batch_id, chunk.output_file_id) for chunk in state.chunks] == [("1", "2")]


def respelled(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """A change of the first line of the results."""

    def changed(good: bytes) -> bytes:
        first, *rest = good.splitlines()
        row = json.loads(first)
        change(row)
        return b"\n".join([json.dumps(row).encode(), *rest, b""])

    return changed


OVERLOADED = {"error": {"type": "overloaded_error", "message": "Overloaded"}}
TIMED_OUT = {"response": None, "error": {"code": "request_timeout", "message": "This request timed out."}}


@pytest.mark.parametrize(
    ("change", "batches", "said"),
    [
        (lambda row: row["response"].update(status_code="200"), 1, None),
        (lambda row: row["response"].pop("status_code"), 1, None),
        (lambda row: row["response"].update(status_code=None), 1, None),
        (lambda row: row["response"].update(body=json.dumps(row["response"]["body"])), 1, None),
        (lambda row: row.update(response=row["response"]["body"]), 1, None),
        (lambda row: row.update(response={"status_code": 400, "body": "not so"}), 1, 'HTTP 400: "not so"'),
        (lambda row: row["response"].update(body=OVERLOADED), 2, None),
        (lambda row: row.update(TIMED_OUT), 2, None),
        (lambda row: row.update({"response": None, "error": "too long"}), 1, "too long"),
    ],
)
async def test_lines_of_results_are_read_however_they_are_spelled(
    change: Callable[[dict[str, Any]], None], batches: int, said: str | None, store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number) as fake:

        def spoil(call: Call) -> None:
            if call.path == "/files/file-2/content" and not done:
                done.append(1)
                fake.files["file-2"] = respelled(change)(fake.files["file-2"])

        done: list[int] = []
        fake.trouble = spoil
        outcome = await batch(make_job(fake.base_url), store, tmp_path)
        assert len(fake.batches) == batches
    assert [failure.message for failure in outcome.failures] == ([] if said is None else [said])


async def test_a_line_that_asks_for_a_long_wait_goes_into_another_batch(store: Store, tmp_path: Path) -> None:
    limited = Reply(429, {"error": {"message": "Rate limit reached. Please try again in 20m0s."}})
    turns = iter(range(100))
    with batch_provider(lambda seen: by_number(seen) if next(turns) else limited) as fake:
        outcome = await batch(make_job(fake.base_url), store, tmp_path)
    assert outcome.complete
    assert [len(body.splitlines()) for body in fake.bodies] == [10, 1]
    books_balance(fake, store)


async def test_a_line_that_comes_twice_costs_once(store: Store, tmp_path: Path) -> None:
    price = Price(input=2.0, cached=1.0, output=8.0, source="test")
    with batch_provider(by_number, Fate(twice=True)) as fake:
        job = make_job(fake.base_url, price=price)
        outcome = await batch(job, store, tmp_path)
    state = BatchFolder(tmp_path / "batches", run_id(job)).load()
    assert state is not None
    assert state.chunks[0].cost_usd == pytest.approx(outcome.manifest.cost_usd)


async def test_output_that_stays_short_is_taken_as_it_is(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        fake.trouble = lambda call: "short" if call.path == "/files/file-2/content" else None
        outcome = await batch(make_job(fake.base_url), store, tmp_path)
    assert outcome.complete
    assert len(fake.batches) == 2


async def test_what_a_batch_cost_whose_results_are_gone_is_unknown_and_counts_for_a_cap(
    store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number) as fake:
        endpoint = Endpoint(host=host_of(fake.base_url), model="test-model", params={"max_completion_tokens": 100})
        job = make_job(fake.base_url, price=PRICE, endpoint=endpoint)
        fake.trouble = lambda call: refuse(404) if call.path.endswith("/content") else None
        with pytest.raises(ProviderError, match="no results of it"):
            await batch(job, store, tmp_path)
        assert open_run(str(tmp_path / "run")).manifest.cost_usd is None
        outcome = await batch(job, store, tmp_path, submit=False)
        assert outcome.manifest.cost_usd is None
        fake.trouble = lambda call: None
        folder = BatchFolder(tmp_path / "batches", run_id(job))
        state = folder.load()
        assert state is not None
        assert (state.open, state.unaccounted_usd > 0) == ([], True)
        assert (await batch(job, store, tmp_path)).complete


@pytest.mark.parametrize("ahead_h", [0, 13], ids=["right clock", "clock that takes local time for UTC"])
async def test_a_batch_whose_making_got_no_reply_is_found_and_not_made_again(
    ahead_h: int, store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number) as fake:
        turns = iter(range(100))
        fake.trouble = lambda call: (
            "lost" if (call.method, call.path) == ("POST", "/batches") and next(turns) == 0 else None
        )
        ahead = timedelta(hours=ahead_h)
        outcome = await batch(make_job(fake.base_url), store, tmp_path, now=lambda: datetime.now(UTC) + ahead)
    assert outcome.complete
    assert len(fake.batches) == 1
    books_balance(fake, store)


async def test_a_batch_that_was_made_as_the_provider_closed_for_long_is_found_by_the_next_start(
    store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number) as fake:
        fake.trouble = lambda call: (
            "closed" if (call.method, call.path) == ("POST", "/batches") and not fake.batches else None
        )
        with pytest.raises(ProviderError, match="accepts no requests for 60 min"):
            await batch(make_job(fake.base_url), store, tmp_path)
        assert (await batch(make_job(fake.base_url), store, tmp_path)).complete
        assert len(fake.batches) == 1
    books_balance(fake, store)


async def test_a_batch_that_was_not_made_is_made_after_looking(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        turns = iter(range(100))
        fake.trouble = lambda call: (
            refuse(503) if (call.method, call.path) == ("POST", "/batches") and next(turns) < 2 else None
        )
        outcome = await batch(make_job(fake.base_url), store, tmp_path)
    assert outcome.complete
    assert fake.count("POST", "/batches") == 3


async def test_a_lost_state_finds_its_batches_at_the_provider(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        job = make_job(fake.base_url)
        await batch(job, store, tmp_path, max_requests=4)
        for path in (tmp_path / "batches" / run_id(job)).iterdir():
            path.unlink()
        fake.deleted.clear()
        with Store(tmp_path / "empty") as empty:
            outcome = await batch(job, empty, tmp_path, out="other", max_requests=4)
            books_balance(fake, empty)
    assert outcome.complete
    assert len(fake.batches) == 3


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (refuse(401, f"Incorrect key {KEY}"), "check OPENAI_API_KEY"),
        (refuse(403), "denies access"),
        (refuse(404), "has no Files or Batch API .* check --base-url"),
        (Reply(429, {"error": {"message": "pay", "code": "insufficient_quota"}}), "quota is used up"),
        (refuse(400, "no batches here"), "refuses /files"),
        (refuse(500), "failed 6 times at /files .HTTP 500: no"),
    ],
)
async def test_a_refusal_for_good_ends_the_run(trouble: Reply, said: str, store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        fake.trouble = lambda call: trouble if call.method == "POST" else None
        with pytest.raises(ProviderError, match=said) as caught:
            await batch(make_job(fake.base_url), store, tmp_path)
        assert KEY not in str(caught.value)
        run = open_run(str(tmp_path / "run"))
        assert len(run.failures()) == 10
        fake.trouble = lambda call: None
        assert (await batch(make_job(fake.base_url), store, tmp_path)).complete
    books_balance(fake, store)


async def test_a_batch_that_fails_validation_says_why(store: Store, tmp_path: Path) -> None:
    errors = [{"code": "invalid_json_line", "message": "Line 3 is bad", "line": 3}]
    with batch_provider(by_number, Fate("failed", errors=errors)) as fake:
        with pytest.raises(ProviderError, match=r"Line 3 is bad \(line 3\)"):
            await batch(make_job(fake.base_url), store, tmp_path)
        assert len(fake.batches) == 1
        fake.fates = [Fate()]
        assert (await batch(make_job(fake.base_url), store, tmp_path)).complete


async def test_no_quota_within_a_batch_stops_the_run_and_keeps_what_was_answered(store: Store, tmp_path: Path) -> None:
    turns = iter(range(100))
    with batch_provider(
        lambda seen: judged() if next(turns) < 4 else refused(429, "pay", "insufficient_quota")
    ) as fake:
        with pytest.raises(ProviderError, match="quota is used up"):
            await batch(make_job(fake.base_url), store, tmp_path)
        assert len(fake.batches) == 1
        assert store.stats().answers == 4
        fake.answers = by_number
        assert (await batch(make_job(fake.base_url), store, tmp_path)).complete
    books_balance(fake, store)


def no_room(limit: str = "900,000") -> Fate:
    said = f"Enqueued token limit reached for m in organization o. Limit: {limit} enqueued tokens."
    return Fate("failed", errors=[{"code": "token_limit_exceeded", "message": said}])


async def test_a_chunk_that_finds_the_queue_full_waits_for_the_others(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number, Fate(looks=4), no_room(), Fate()) as fake:
        outcome = await batch(make_job(fake.base_url), store, tmp_path, max_requests=5)
    assert outcome.complete
    assert len(fake.batches) == 3
    assert len(fake.bodies) == 2
    books_balance(fake, store)


async def test_a_chunk_too_large_for_the_queue_is_halved(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number, no_room("20,000"), no_room(), Fate()) as fake:
        outcome = await batch(make_job(fake.base_url, 4), store, tmp_path)
    assert outcome.complete
    sizes = [len(body.splitlines()) for body in fake.bodies]
    assert sizes[:3] == [8, 4, 4]
    books_balance(fake, store)


async def test_a_chunk_too_large_for_a_gateway_is_halved(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number, Fate()) as fake:
        turns = iter(range(100))
        page = Reply(413, "<html><title>413 Request Entity Too Large</title></html>")
        fake.trouble = lambda call: page if (call.method, call.path) == ("POST", "/files") and next(turns) < 2 else None
        outcome = await batch(make_job(fake.base_url, 4), store, tmp_path)
        assert outcome.complete
        assert [len(body.splitlines()) for body in fake.bodies] == [4, 2, 2]  # the second was too large too
        books_balance(fake, store)


async def test_a_file_too_large_by_the_words_of_the_provider_is_halved(store: Store, tmp_path: Path) -> None:
    too_many = Fate("failed", errors=[{"code": "too_many_tasks", "message": "The input file has too many requests."}])
    with batch_provider(by_number, too_many, Fate()) as fake:
        turns = iter(range(100))
        large = refuse(400, "File is too large: 250000000 bytes. Maximum size is 209715200 bytes.")
        fake.trouble = lambda call: (
            large if (call.method, call.path) == ("POST", "/files") and next(turns) < 1 else None
        )
        assert (await batch(make_job(fake.base_url, 4), store, tmp_path)).complete
        assert [len(body.splitlines()) for body in fake.bodies] == [4, 4, 2, 2]  # the first batch was too large too
        books_balance(fake, store)


async def test_a_queue_that_others_fill_is_waited_for_with_the_same_file(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number, *[no_room()] * 12, Fate()) as fake:
        outcome = await batch(make_job(fake.base_url, 4), store, tmp_path)
        assert outcome.complete
        assert len(fake.batches) == 13
        assert [len(body.splitlines()) for body in fake.bodies] == [8]
        books_balance(fake, store)


async def test_a_queue_without_any_room_ends_the_run_in_the_end(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "CREATE_TRIES", 3)
    with (
        batch_provider(by_number, no_room()) as fake,
        pytest.raises(ProviderError, match="still does not take batch 1"),
    ):
        await batch(make_job(fake.base_url, 4), store, tmp_path)
    assert fake.made == []
    assert "file-1" in fake.deleted


@pytest.mark.parametrize(
    "fields",
    [
        {"error_file_id": ""},
        {"error_file_id": "", "output_file_id": ""},
        {"request_counts": {"total": None, "completed": -3, "failed": "x"}},
        {"request_counts": [], "created_at": None},
        {"request_counts": {"total": 17, "completed": 17, "failed": 0}},
    ],
)
async def test_a_batch_with_an_empty_file_id_or_odd_counts_is_taken(
    fields: dict[str, Any], store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number, Fate(looks=2, empty=fields)) as fake:
        outcome = await batch(make_job(fake.base_url), store, tmp_path)
        assert outcome.complete
        assert outcome.manifest.note is None
        books_balance(fake, store)


async def test_a_batch_that_ends_before_its_files_appear_is_polled_again(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number, Fate(late=4)) as fake:
        assert (await batch(make_job(fake.base_url), store, tmp_path)).complete
        assert (len(fake.batches), len(fake.made)) == (1, 10)


async def test_a_batch_whose_files_never_appear_is_not_paid_for_again_and_its_cost_is_unknown(
    store: Store, tmp_path: Path
) -> None:
    price = Price(input=2.0, cached=1.0, output=8.0, source="test")
    with batch_provider(by_number, Fate(late=10**9)) as fake:
        job = make_job(fake.base_url, price=price)
        for _ in range(2):
            with pytest.raises(ProviderError, match=r"batch_1 has ended .* its results are not available yet"):
                await batch(job, store, tmp_path)
        assert len(fake.made) == 10
        assert open_run(str(tmp_path / "run")).manifest.sessions[-1].cost_usd is None
        fake.batches["batch_1"]["_"]["fate"].late = 0
        assert (await batch(job, store, tmp_path)).complete
        assert len(fake.made) == 10


async def test_a_file_that_is_still_being_processed_is_waited_for_and_used(store: Store, tmp_path: Path) -> None:
    said = refuse(400, "The file file-1 is not in a valid state: pending. Wait until it has been processed.")
    turns = iter(range(100))
    with batch_provider(by_number) as fake:
        fake.trouble = lambda call: (
            said if (call.method, call.path) == ("POST", "/batches") and next(turns) < 5 else None
        )
        assert (await batch(make_job(fake.base_url), store, tmp_path)).complete
        assert (fake.count("POST", "/files"), len(fake.batches)) == (1, 1)
        books_balance(fake, store)


def failing(call: Call) -> Reply | None:
    return refuse(404) if call.path.startswith("/batches") else None


def redirecting(call: Call) -> Reply | None:
    return Reply(307, {}, {"location": "http://127.0.0.1:9/v1/files"}) if call.path.startswith("/files") else None


def paying(call: Call) -> Reply | None:
    refused = Reply(429, {"error": {"message": "pay", "code": "insufficient_quota"}})
    return refused if (call.method, call.path) == ("POST", "/batches") else None


@pytest.mark.parametrize(
    ("trouble", "said", "uploaded"),
    [
        (failing, "has no Files or Batch API", 0),
        (lambda call: Reply(200, {"error": "Unexpected endpoint or method."}), "has no Files or Batch API", 0),
        (
            redirecting,
            r"redirects \(HTTP 307, to http://127.0.0.1:9/v1/files\), and requests with a key do not follow",
            1,
        ),
        (paying, "quota is used up", 1),
        (
            lambda call: refuse(404, "Not Found") if (call.method, call.path) == ("POST", "/batches") else None,
            "has no Files or Batch API",
            1,
        ),
    ],
)
async def test_a_batch_that_cannot_start_holds_nothing_and_leaves_nothing(
    trouble: Any, said: str, uploaded: int, store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number) as fake, provider(by_number) as online:
        fake.trouble = trouble
        job = make_job(online.base_url)
        with pytest.raises(ProviderError, match=said):
            await batch(job, store, tmp_path, base_url=fake.base_url)
        assert fake.count("POST", "/files") == uploaded
        assert fake.count("POST", "/batches") <= 1
        assert len(fake.deleted) == len(fake.files)
        assert (await label_all(job, store, tmp_path / "online")).complete


async def test_a_listing_without_end_is_cut(store: Store, tmp_path: Path) -> None:
    pages = iter(range(10**6))

    def trouble(call: Call) -> Reply | None:
        if (call.method, call.path) != ("GET", "/batches"):
            return None
        strange = {"id": f"batch-{next(pages)}", "status": "completed", "created_at": 4 * 10**9}
        return Reply(200, {"object": "list", "data": [strange], "has_more": True})

    with batch_provider(by_number) as fake:
        fake.trouble = trouble
        with pytest.raises(ProviderError, match="the listing of batches does not end"):
            await batch(make_job(fake.base_url), store, tmp_path)
        assert next(pages) <= 101


async def test_the_pace_of_looking_slows_down(store: Store, tmp_path: Path) -> None:
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        await no_wait(seconds)

    with batch_provider(by_number, Fate(looks=8)) as fake:
        await batch(make_job(fake.base_url), store, tmp_path, sleep=sleep, poll_s=10)
    assert naps == [10, 15, 22.5, 33.75, 50.625, 60, 60]


async def test_a_network_that_is_away_for_a_while_is_waited_for(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        looks = iter(range(1000))
        fake.trouble = lambda call: (
            refuse(502) if call.method == "GET" and call.path.startswith("/batches/") and next(looks) < 20 else None
        )
        assert (await batch(make_job(fake.base_url), store, tmp_path)).complete
    assert len(fake.batches) == 1


async def test_lines_that_are_no_results_are_passed_over(store: Store, tmp_path: Path) -> None:
    job = make_job("http://h/v1", 1)
    key = next(job.plan()).request.key
    junk = [
        "not json",
        "[]",
        "null",
        '"text"',
        "{}",
        '{"custom_id": 7}',
        f'{{"custom_id": "{key}"}}',
        f'{{"custom_id": "{key}", "response": "gone", "error": "gone"}}',
        f'{{"custom_id": "{key}", "response": {{"status_code": "two hundred", "body": []}}}}',
        f'{{"custom_id": "{key}", "response": {{"status_code": 200, "body": null}}}}',
        f'{{"custom_id": "{key}", "response": {{"status_code": 200, "body": {"[" * 900 + "]" * 900}}}}}',
        f'{{"custom_id": "{key}", "response": {{"status_code": 400, "body": {{"error": {{"message": "\\ud800"}}}}}}}}',
    ]
    with batch_provider(by_number, Fate(junk=junk)) as fake:
        outcome = await batch(job, store, tmp_path, base_url=fake.base_url)
        assert outcome.complete
        assert len(fake.batches) == 1
        books_balance(fake, store)
    with batch_provider(by_number, Fate(junk=junk, answered=0)) as fake, Store(tmp_path / "other") as other:
        outcome = await batch(job, other, tmp_path, out="other-run", base_url=fake.base_url)
    assert {f.message for f in outcome.failures} >= {"HTTP 400: ?"}


async def test_a_server_that_counts_no_tokens_makes_no_answer_free(store: Store, tmp_path: Path) -> None:
    price = Price(input=2.0, cached=1.0, output=8.0, source="test")
    script = chat('{"rationale": "x", "label": "exposed"}', usage=None)
    with batch_provider(lambda seen: Reply(body=script)) as fake:
        outcome = await batch(make_job(fake.base_url, price=price), store, tmp_path)
    assert outcome.complete
    assert outcome.manifest.cost_usd is None


@pytest.mark.parametrize("used", [None, {"prompt_tokens": 100, "completion_tokens": 20}])
async def test_what_an_answer_cost_that_failed_with_tokens_is_unknown(
    used: dict[str, int] | None, store: Store, tmp_path: Path
) -> None:
    broken = {"error": {"message": "The model failed.", "code": "server_error"}, "usage": used}
    price, turns = Price(input=2.0, cached=1.0, output=8.0, source="test"), iter(range(100))
    with batch_provider(lambda seen: by_number(seen) if next(turns) else Reply(body=broken)) as fake:
        job = make_job(fake.base_url, price=price)
        outcome = await batch(job, store, tmp_path)
    state = BatchFolder(tmp_path / "batches", run_id(job)).load()
    assert outcome.complete
    assert state is not None
    assert [chunk.cost_usd is None for chunk in state.chunks] == [used is not None, False]
    assert (outcome.manifest.cost_usd is None) is (used is not None)


async def test_a_refusal_without_a_message_is_told_once(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        fake.trouble = lambda call: Reply(404, "") if call.path == "/batches" else None
        with pytest.raises(ProviderError, match=r"no Files or Batch API at /batches \(HTTP 404\); use --engine"):
            await batch(make_job(fake.base_url), store, tmp_path)


@pytest.mark.parametrize("key", ["e", "EMPTY", "none"])
async def test_a_short_key_is_no_secret_and_changes_no_answer(key: str, store: Store, tmp_path: Path) -> None:
    said = f"The one {key} is tested."
    with batch_provider(lambda seen: judged(rationale=said)) as fake:
        outcome = await batch(make_job(fake.base_url), store, tmp_path, key=key)
        assert outcome.complete
        assert {label.rationale for label in outcome.labels} == {said}
        books_balance(fake, store)


async def test_files_with_lines_that_could_not_be_understood_stay_at_the_provider(store: Store, tmp_path: Path) -> None:
    price = Price(input=2.0, cached=1.0, output=8.0, source="test")
    with batch_provider(by_number, Fate(junk=["{half a li", "[]"]), Fate()) as fake:
        job = make_job(fake.base_url, price=price)
        outcome = await batch(job, store, tmp_path)
        assert outcome.complete
        assert fake.deleted == []
        state = BatchFolder(tmp_path / "batches", run_id(job)).load()
        assert state is not None
        note = "of the batch batch_1 2 line(s) are missing or could not be parsed; the provider keeps them in file-2"
        assert state.chunks[0].note == outcome.manifest.note == note
        assert state.chunks[0].cost_usd is None


async def test_a_line_that_the_server_does_not_do_is_a_failure_and_not_asked_again(
    store: Store, tmp_path: Path
) -> None:
    with batch_provider(lambda seen: refused(501, "not here") if "number 1" in seen.prompt else judged()) as fake:
        outcome = await batch(make_job(fake.base_url), store, tmp_path)
        assert len(fake.batches) == 1
        assert {f.message for f in outcome.failures} == {"HTTP 501: not here"}


@pytest.mark.parametrize("how", ["no completion", "no such question", "too few"])
async def test_an_answer_that_cannot_be_put_away_is_left_where_it_is(how: str, store: Store, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        return Reply(body={"choices": []}) if how == "no completion" and "number 1" in seen.prompt else judged()

    with batch_provider(script, Fate(stranger=how == "no such question")) as fake:
        if how == "too few":
            fake.trouble = lambda call: "short" if call.path == "/files/file-2/content" else None
        await batch(make_job(fake.base_url), store, tmp_path)
        assert not {"file-1", "file-2"} & set(fake.deleted)


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda good: good.replace(b'"custom_id": "', b'"custom_id": "x'),
        lambda good: b"\xff\x00 {no line\n" * 10,
        lambda good: b"\n",
    ],
    ids=["answers to strangers", "no line can be read", "no line at all"],
)
async def test_results_without_one_answer_of_ours_end_the_run_and_are_taken_once_they_are_right(
    spoilt: Any, store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number) as fake:
        job, good = make_job(fake.base_url), list[bytes]()

        def spoil(call: Call) -> None:
            if call.path == "/files/file-2/content" and not good:
                good.append(fake.files["file-2"])
                fake.files["file-2"] = spoilt(good[0])

        fake.trouble = spoil
        with pytest.raises(
            ProviderError, match=r"batch_1 has ended .* in file-2 answers a request of this run; nothing"
        ):
            await batch(job, store, tmp_path)
        assert len(fake.batches) == 1
        assert {f.kind for f in open_run(str(tmp_path / "run")).failures()} == {"provider"}
        fake.files["file-2"] = good[0]
        assert (await batch(job, store, tmp_path)).complete
        assert len(fake.batches) == 1
        books_balance(fake, store)


async def test_results_in_an_unknown_form_are_not_taken_for_errors_nor_deleted(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:

        def spoil(call: Call) -> None:
            if call.path == "/files/file-2/content" and b"result" not in fake.files["file-2"]:
                rows = map(json.loads, fake.files["file-2"].splitlines())
                other = [{"custom_id": row["custom_id"], "result": row["response"], "error": None} for row in rows]
                fake.files["file-2"] = "\n".join(map(json.dumps, other)).encode() + b"\n"

        fake.trouble = spoil
        with pytest.raises(ProviderError, match="answers a request of this run; nothing is asked again"):
            await batch(make_job(fake.base_url, price=PRICE), store, tmp_path)
        assert (len(fake.batches), fake.deleted) == (1, [])
    assert read_manifest(tmp_path / "run").cost_usd is None


async def test_results_without_one_answer_of_ours_are_given_up_by_cancel(store: Store, tmp_path: Path) -> None:
    with batch_provider(by_number) as fake:
        job = make_job(fake.base_url)
        fake.trouble = lambda call: (
            fake.files.update({"file-2": b"{no line\n" * 10}) if "content" in call.path else None
        )
        with pytest.raises(ProviderError, match="`relabel batch cancel"):
            await batch(job, store, tmp_path)
        outcome = await batch(job, store, tmp_path, submit=False)
        assert outcome.manifest.note
        assert (
            "10 line(s) are missing or could not be parsed; the provider keeps them in file-2" in outcome.manifest.note
        )
        assert fake.deleted == []
        fake.trouble = lambda call: None
        assert (await batch(job, store, tmp_path)).complete


async def test_lines_that_cannot_be_read_are_not_waited_for(store: Store, tmp_path: Path) -> None:
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        await no_wait(seconds)

    def spoil(call: Call) -> None:
        if call.path == "/files/file-2/content":
            lines = fake.files["file-2"].splitlines(keepends=True)
            fake.files["file-2"] = b"".join(b"half a line\n" if n % 2 else line for n, line in enumerate(lines))

    with batch_provider(by_number) as fake:
        fake.trouble = spoil
        assert (await batch(make_job(fake.base_url), store, tmp_path, sleep=sleep, poll_s=10)).complete
        assert naps == []
        assert [len(body.splitlines()) for body in fake.bodies] == [10, 5]
