"""A job asks for what the store lacks, loses nothing, and says what is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import diskcache
import pytest

from job_builders import KEY, label_all, make_job
from relabel.errors import DataError, ProviderError, StoreError, UsageError
from relabel.labelling.job import Stop
from relabel.labelling.store import Store
from relabel.run import open_run
from server import Reply, Seen, chat, judged, provider, refused


async def test_a_run_labels_every_task_under_both_settings(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged("exposed" if "number 1" in seen.prompt else "not-exposed")) as fake:
        outcome = await label_all(make_job(fake.base_url), store, tmp_path / "run")
    run = open_run(str(tmp_path / "run"))
    assert outcome.complete
    assert len(run.labels) == 10
    assert run.coded().set_index("task_id")["code"].to_dict() == {"0": "E0", "1": "E1", "2": "E0", "3": "E0", "4": "E0"}
    counts = run.manifest.counts
    assert (counts.asked, counts.from_store, counts.fresh, counts.failed) == (10, 0, 10, 0)
    assert (run.manifest.tokens.prompt, run.manifest.tokens.cached, run.manifest.tokens.completion) == (1000, 640, 200)
    assert run.manifest.models_returned == ("test-model-2026",)


async def test_a_second_identical_run_asks_nothing(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged()) as fake:
        first = await label_all(make_job(fake.base_url), store, tmp_path / "run")
        asked = len(fake.seen)
        second = await label_all(make_job(fake.base_url), store, tmp_path / "run")
        assert len(fake.seen) == asked == 10
    assert second.manifest.counts.from_store == 10
    assert second.manifest.tokens.prompt == 0
    assert [x.request_key for x in second.labels] == [x.request_key for x in first.labels] or sorted(
        x.request_key for x in second.labels
    ) == sorted(x.request_key for x in first.labels)
    assert all(x.from_store for x in second.labels)


async def test_every_label_leads_to_its_answer(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged()) as fake:
        await label_all(make_job(fake.base_url), store, tmp_path / "run")
    run = open_run(str(tmp_path / "run"))
    for key, rationale in zip(run.labels["request_key"], run.labels["rationale"], strict=True):
        answer, request = store.get(key), store.request(key)
        assert answer is not None
        assert request is not None
        assert json.loads(answer.content or "")["rationale"] == rationale
        assert "Do the thing" in request["body"]["messages"][-1]["content"]


async def test_more_tasks_buy_only_the_new_ones(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged()) as fake:
        await label_all(make_job(fake.base_url, 3), store, tmp_path / "a")
        outcome = await label_all(make_job(fake.base_url, 5), store, tmp_path / "b")
        assert len(fake.seen) == 10
    assert (outcome.manifest.counts.from_store, outcome.manifest.counts.fresh) == (6, 4)


async def test_the_same_question_twice_is_bought_once(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: Reply(body=judged().body, delay=0.05)) as fake:
        job = make_job(fake.base_url, 1)
        twin = replace(job.tasks[0], task_id="twin")
        both = make_job(fake.base_url, tasks=[job.tasks[0], twin])
        outcome = await label_all(both, store, tmp_path / "run")
        assert len(fake.seen) == 2
    assert len(outcome.labels) == 4


async def test_no_more_requests_than_workers_are_in_flight(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: Reply(body=judged().body, delay=0.01)) as fake:
        await label_all(make_job(fake.base_url, 20), store, tmp_path / "run", concurrency=7)
        assert fake.most_at_once == 7


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "refusal": (chat(None, refusal="I will not."), "refusal"),
    "cut": (chat('{"rationale": "and so', finish_reason="length"), "length"),
    "cut but whole": (chat('{"rationale": "x", "label": "exposed"}', finish_reason="length"), "length"),
    "filtered": (chat("", finish_reason="content_filter"), "content-filter"),
    "empty": (chat(""), "invalid-json"),
    "nothing": (chat(None), "invalid-json"),
    "prose": (chat("The label is exposed."), "invalid-json"),
    "two objects": (
        chat('{"rationale": "x", "label": "exposed"}{"rationale": "x", "label": "not-exposed"}'),
        "invalid-json",
    ),
    "doubled key": (chat('{"rationale": "x", "label": "exposed", "label": "not-exposed"}'), "invalid-json"),
    "not a number": (chat('{"rationale": "x", "label": NaN}'), "invalid-json"),
    "deep": (chat("[" * 100_000), "invalid-json"),
    "a list of two": (
        chat('[{"rationale": "x", "label": "exposed"}, {"rationale": "x", "label": "not-exposed"}]'),
        "invalid-json",
    ),
    "a list of numbers": (chat("[1, 2]"), "invalid-json"),
    "wrong label": (chat('{"rationale": "x", "label": "E1"}'), "schema"),
    "label in other words": (chat('{"rationale": "x", "label": "fully exposed"}'), "schema"),
    "wrong type": (chat('{"rationale": "x", "label": true}'), "schema"),
    "extra key": (chat('{"rationale": "x", "label": "exposed", "sure": true}'), "schema"),
    "no rationale": (chat('{"label": "exposed"}'), "schema"),
    "empty rationale": (chat('{"rationale": "", "label": "exposed"}'), "schema"),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_answer_is_a_failure_of_its_kind_and_kept_as_evidence(
    what: str, store: Store, tmp_path: Path
) -> None:
    body, kind = BAD[what]
    with provider(lambda seen: Reply(body=body) if "number 1" in seen.prompt else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 2), store, tmp_path / "run")
    assert [(f.task_id, f.kind) for f in outcome.failures] == [("1", kind), ("1", kind)]
    assert outcome.manifest.status == "incomplete"
    asked = 2 if kind in {"invalid-json", "schema"} else 1  # such an answer is asked again once, with the error
    assert store.stats().rejected == 2 * asked
    assert len(fake.seen) == 2 + 2 * asked
    lines = (tmp_path / "run" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == [kind, kind]


@pytest.mark.parametrize(
    "content",
    [
        '```json\n{"rationale": "x", "label": "exposed"}\n```',
        '```\n{"label": "exposed", "rationale": "x"}\n```\n',
        '  \n{"rationale": "x\\u2028ünï", "label": "exposed"}  ',
        '{"rationale": "x", "label": "Exposed"}',
        '{"rationale": "x", "label": " EXPOSED\\n"}',
        '{"rationale": "x", "label": "\\"exposed\\""}',
    ],
)
async def test_a_good_answer_in_another_dress_is_a_label(content: str, store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: Reply(body=chat(content))) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
        assert len(fake.seen) == 2
    assert outcome.complete
    assert {label.label for label in outcome.labels} == {"exposed"}
    assert {answer.content for _, row in store.answers() if (answer := row.answer)} == {content}


async def test_a_failed_label_is_asked_again_by_the_next_run(store: Store, tmp_path: Path) -> None:
    answers = [chat("nonsense")]
    with provider(lambda seen: Reply(body=answers[0])) as fake:
        await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
        answers[0] = chat('{"rationale": "x", "label": "exposed"}')
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
    assert outcome.complete
    assert (store.stats().answers, store.stats().rejected) == (2, 4)


async def test_a_fatal_refusal_stops_at_once_and_keeps_what_was_paid_for(store: Store, tmp_path: Path) -> None:
    good = 0

    def script(seen: Seen) -> Reply:
        nonlocal good
        good += 1
        return judged() if good <= 6 else refused(429, "pay first", "insufficient_quota")

    with provider(script) as fake:
        with pytest.raises(ProviderError, match="quota is used up"):
            await label_all(make_job(fake.base_url, 50), store, tmp_path / "run", concurrency=2)
        assert len(fake.seen) <= 6 + 2
    run = open_run(str(tmp_path / "run"))
    assert run.manifest.status == "incomplete"
    assert len(run.labels) == store.stats().answers == 6
    assert len(run.failures()) == 94


async def test_a_server_that_is_not_there_ends_the_run(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged()) as fake:
        pass
    with pytest.raises(ProviderError, match=r"cannot reach .* check --base-url"):
        await label_all(make_job(fake.base_url, 50), store, tmp_path / "run")


async def test_stopping_waits_for_what_is_in_flight(store: Store, tmp_path: Path) -> None:
    stop = Stop()

    def script(seen: Seen) -> Reply:
        if len(fake.seen) == 5:  # the first of a setting is asked alone, then four at once
            stop_soon()
        return Reply(body=judged().body, delay=0.1)

    import asyncio

    loop = asyncio.get_running_loop()

    def stop_soon() -> None:
        loop.call_soon_threadsafe(stop)

    with provider(script) as fake:
        outcome = await label_all(make_job(fake.base_url, 50), store, tmp_path / "run", concurrency=4, stop=stop)
        assert outcome.interrupted
        assert len(fake.answered) == len(outcome.labels) == store.stats().answers == 5
    assert open_run(str(tmp_path / "run")).manifest.status == "interrupted"


async def test_a_folder_with_another_run_is_refused_before_anything_is_asked(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged()) as fake:
        await label_all(make_job(fake.base_url), store, tmp_path / "run")
        asked = len(fake.seen)
        with pytest.raises(DataError, match=r"holds another run \(--model differs: test-model there, other now\)"):
            await label_all(make_job(fake.base_url, model="other"), store, tmp_path / "run")
        assert len(fake.seen) == asked


async def test_a_rerun_never_shrinks_a_run_folder(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged()) as fake:
        await label_all(make_job(fake.base_url, 4), store, tmp_path / "run")
        fake.script = lambda seen: refused(400)
        with Store(tmp_path / "empty") as empty, pytest.raises(DataError, match="already holds 8 labels"):
            await label_all(make_job(fake.base_url, 4), empty, tmp_path / "run")
    run = open_run(str(tmp_path / "run"))
    assert len(run.labels) == 8
    assert [(s.status, s.counts.fresh, s.counts.failed) for s in run.manifest.sessions] == [
        ("complete", 8, 0),
        ("incomplete", 0, 8),
    ]


async def test_a_path_that_is_a_file_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        await label_all(make_job("http://127.0.0.1:1/v1"), store, tmp_path / "run")


async def test_a_planted_key_is_nowhere_in_what_is_written(store: Store, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        said = seen.headers["authorization"]
        if "number 1" in seen.prompt:
            return refused(400, f"bad key {said}")
        if "number 2" in seen.prompt:
            return Reply(body=chat(f"not json {said}"))
        return judged(rationale=said)

    with provider(script) as fake:
        address = fake.base_url.replace("http://", f"http://user:{KEY}@")
        await label_all(make_job(address), store, tmp_path / "run")
        assert all(KEY in seen.headers["authorization"] for seen in fake.seen)
    store.close()
    written = [p for folder in ("run", "store") for p in (tmp_path / folder).rglob("*") if p.is_file()]
    assert len(written) >= 4
    assert [p.name for p in written if KEY.encode() in p.read_bytes()] == []


CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from job_builders import label_all, make_job
from relabel.labelling.store import Store
with Store(Path(sys.argv[2])) as store:
    asyncio.run(label_all(make_job(sys.argv[1], 40), store, Path(sys.argv[3])))
"""


@pytest.mark.slow
async def test_kill_9_loses_and_repeats_nothing_but_what_was_in_flight(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    killed_at = 25

    def script(seen: Seen) -> Reply:
        if child.poll() is None and len(fake.answered) >= killed_at:
            os.kill(child.pid, signal.SIGKILL)
        return Reply(body=judged().body, delay=0.002)

    with provider(script) as fake:
        arguments = [fake.base_url, str(folder), str(tmp_path / "run"), str(Path(__file__).parents[1])]
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(CHILD), *arguments])
        assert child.wait(60) == -signal.SIGKILL
        with Store(folder) as store:
            assert list(store.verify()) == []
            saved = store.stats().answers
            assert 0 <= len(fake.answered) - saved <= 4
            outcome = await label_all(make_job(fake.base_url, 40), store, tmp_path / "run")
        assert outcome.complete
        assert outcome.manifest.counts.from_store == saved
        prompts = [seen.prompt + seen.body["messages"][0]["content"] for seen in fake.answered]
        assert len(prompts) - len(set(prompts)) <= 4


@pytest.mark.parametrize("key", ["x", "none", "test", "exposed"])
async def test_a_placeholder_for_a_key_changes_no_answer(key: str, store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged("exposed", "It can test next to none, exactly.")) as fake:
        outcome = await label_all(make_job(fake.base_url, 2), store, tmp_path / "run", key=key)
    assert outcome.complete
    assert {label.rationale for label in outcome.labels} == {"It can test next to none, exactly."}


async def test_leftover_failures_do_not_stop_a_later_start(store: Store, tmp_path: Path) -> None:
    bad = {f"number {n}." for n in range(12)}

    def script(seen: Seen) -> Reply:
        refuses = any(text in seen.prompt for text in bad)
        return Reply(body=chat(None, refusal="No.")) if refuses else judged()

    with provider(lambda seen: refused(400) if "number 15." in seen.prompt else script(seen)) as fake:
        # The good ones first, so that the first start is past its first ten.
        job = make_job(fake.base_url, 20)
        turned = make_job(fake.base_url, tasks=list(reversed(job.tasks)))
        await label_all(turned, store, tmp_path / "run", concurrency=1)
        fake.script = script
        outcome = await label_all(job, store, tmp_path / "run", concurrency=1)
    assert len(outcome.failures) == 24
    assert {failure.kind for failure in outcome.failures} == {"refusal"}


async def test_an_unreadable_row_ends_the_run_and_loses_nothing_in_flight(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: Reply(body=judged().body, delay=0.05)) as fake:
        job = make_job(fake.base_url, 20)
        planned = list(job.plan())
        with diskcache.Cache(str(store.folder)) as plain:
            plain[planned[12].request.key] = {"a": "pickle"}
        with pytest.raises(StoreError, match="could run code"):
            await label_all(job, store, tmp_path / "run", concurrency=8)
    run = open_run(str(tmp_path / "run"))
    assert run.manifest.status == "incomplete"
    assert len(run.labels) == len(fake.answered) > 0


async def test_an_absurd_count_of_tokens_loses_no_label(store: Store, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 10**20, "completion_tokens": 1}
    with provider(lambda seen: Reply(body=chat('{"rationale": "x", "label": "exposed"}', usage=usage))) as fake:
        outcome = await label_all(make_job(fake.base_url, 2), store, tmp_path / "run")
    assert outcome.complete
    assert set(open_run(str(tmp_path / "run")).labels["prompt_tokens"]) == {0}


async def test_a_server_that_was_still_starting_does_not_spoil_the_folder(store: Store, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        if not up:
            return refused(400, "starting")
        return refused(400, "no json_schema") if seen.body["response_format"]["type"] == "json_schema" else judged()

    up = False
    with provider(script) as fake:
        job = make_job(fake.base_url, 8, probe=True)
        with pytest.raises(ProviderError, match="failed with the same error"):
            await label_all(job, store, tmp_path / "run")
        up = True
        outcome = await label_all(job, store, tmp_path / "run")
    assert outcome.complete
    assert outcome.manifest.response_form == "json_object"


async def test_missing_repeats_agree_with_nobody(store: Store, tmp_path: Path) -> None:
    answers = iter([judged(), *[Reply(body=chat(None, refusal="No."))] * 4])
    with provider(lambda seen: next(answers)) as fake:
        job = make_job(fake.base_url, 1, settings=("strict",), samples=5)
        outcome = await label_all(job, store, tmp_path / "run", concurrency=1)
    assert [label.probability for label in outcome.labels] == [pytest.approx(0.2)]


@pytest.mark.parametrize("path", ["", "/nowhere"])
async def test_a_checkout_without_git_is_labelled_all_the_same(
    path: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkout" / ".git").mkdir(parents=True)
    monkeypatch.setattr("relabel.labelling.runner.__file__", str(tmp_path / "checkout" / "src" / "a" / "b" / "c.py"))
    monkeypatch.setenv("PATH", path)
    with provider(lambda seen: judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
    assert (outcome.complete, outcome.manifest.git_commit) == (True, None)
