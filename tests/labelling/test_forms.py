"""Response formats, what happens to an invalid answer, and when a run gives up."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from job_builders import label_all, make_job
from relabel.cli.app import run_app
from relabel.errors import ProviderError
from relabel.labelling.job import Stop, response_format_note, with_known_format
from relabel.labelling.store import Store
from relabel.run import open_run
from server import FakeProvider, Reply, Seen, chat, judged, provider, refused

ORDER = ("json_schema", "json_object", "text")


def form_of(seen: Seen) -> str:
    return seen.body["response_format"]["type"] if "response_format" in seen.body else "text"


def taking(*forms: str, status: int = 400) -> Any:
    return lambda seen: judged() if form_of(seen) in forms else refused(status, "response_format is not supported")


@pytest.mark.parametrize("status", [400, 415, 422, 501])
@pytest.mark.parametrize("best", ORDER)
async def test_what_a_server_takes_is_found_by_one_question(
    best: str, status: int, store: Store, tmp_path: Path
) -> None:
    with provider(taking(*ORDER[ORDER.index(best) :], status=status)) as fake:
        outcome = await label_all(make_job(fake.base_url, 4, probe=True), store, tmp_path / "run")
        refusals = [form_of(seen) for seen in fake.seen if seen not in fake.answered]
        assert refusals == list(ORDER[: ORDER.index(best)])
        assert {form_of(seen) for seen in fake.answered} == {best}
        assert len(fake.answered) == 8
        asked = len(fake.seen)
        again = await label_all(make_job(fake.base_url, 4, probe=True), store, tmp_path / "run")
        more = await label_all(make_job(fake.base_url, 6, probe=True), store, tmp_path / "more")
        assert len(fake.seen) == asked + 4
    assert outcome.complete
    assert (outcome.manifest.counts.fresh, outcome.manifest.counts.from_store) == (8, 0)
    assert outcome.manifest.tokens.prompt == 800
    assert (again.manifest.counts.fresh, again.manifest.counts.from_store) == (0, 8)
    assert (more.manifest.counts.fresh, more.manifest.counts.from_store) == (4, 8)
    assert open_run(str(tmp_path / "run")).manifest.response_form == best


async def test_an_answer_to_the_probe_that_is_no_label_is_repaired_and_not_asked_anew(
    store: Store, tmp_path: Path
) -> None:
    with provider(lambda seen: judged() if len(seen.messages) > 2 else Reply(body=chat("Sure!"))) as fake:
        outcome = await label_all(make_job(fake.base_url, 1, probe=True), store, tmp_path / "run")
        assert len(fake.seen) == 4
    assert outcome.complete
    assert {label.attempts for label in outcome.labels} == {2}
    assert store.stats().rejected == 2
    assert outcome.manifest.tokens.prompt == 400


async def test_a_refusal_of_the_probe_is_a_failure_and_not_asked_again(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: Reply(body=chat(None, refusal="No."))) as fake:
        outcome = await label_all(make_job(fake.base_url, 1, probe=True), store, tmp_path / "run")
        assert len(fake.seen) == 2
    assert [failure.kind for failure in outcome.failures] == ["refusal"] * 2


async def test_a_server_that_is_ill_is_not_taken_for_one_without_forms(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: refused(503)) as fake:
        await label_all(make_job(fake.base_url, 2, probe=True), store, tmp_path / "run")
        assert {form_of(seen) for seen in fake.seen} == {"json_schema"}
        fake.script = taking("text")
        outcome = await label_all(make_job(fake.base_url, 2, probe=True), store, tmp_path / "later")
    assert outcome.complete
    assert outcome.manifest.response_form == "text"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refused(401, "who are you"), "does not accept the key"),
        (refused(429, "no credit", "insufficient_quota"), "the quota is used up"),
        (refused(404, "no such model", "model_not_found"), "has no model 'test-model'"),
    ],
)
async def test_a_run_that_ends_at_its_first_question_leaves_a_folder_that_says_so(
    reply: Reply, said: str, store: Store, tmp_path: Path
) -> None:
    with provider(lambda seen: reply) as fake:
        with pytest.raises(ProviderError, match=said):
            await label_all(make_job(fake.base_url, 3, probe=True), store, tmp_path / "run")
        assert len(fake.seen) == 1
        run = open_run(str(tmp_path / "run"))
        assert (run.manifest.status, run.manifest.counts.failed, len(run.labels)) == ("incomplete", 6, 0)
        assert all(said in failure.message for failure in run.failures())
        assert len(run.failures()) == 6
        fake.script = taking("text")
        outcome = await label_all(make_job(fake.base_url, 3, probe=True), store, tmp_path / "run")
    assert outcome.complete
    assert [session.status for session in outcome.manifest.sessions] == ["incomplete", "complete"]


async def test_what_ends_a_run_at_its_first_question_is_said_whatever_form_its_folder_was_asked_in(
    store: Store, tmp_path: Path
) -> None:
    with provider(taking("json_object")) as fake:
        await label_all(make_job(fake.base_url, 3, probe=True), store, tmp_path / "run")
        fake.script = lambda seen: refused(401, "who are you")
        with Store(tmp_path / "empty") as other, pytest.raises(ProviderError, match="does not accept the key"):
            await label_all(make_job(fake.base_url, 3, probe=True), other, tmp_path / "run")
        assert open_run(str(tmp_path / "run")).manifest.status == "complete"


async def test_stopping_during_the_probe_ends_the_run(store: Store, tmp_path: Path) -> None:
    stop, loop = Stop(), asyncio.get_running_loop()

    def script(seen: Seen) -> Reply:
        loop.call_soon_threadsafe(stop)
        loop.call_soon_threadsafe(stop)
        return Reply(fault="hang")

    with provider(script) as fake:
        outcome = await label_all(make_job(fake.base_url, 2, probe=True), store, tmp_path / "run", stop=stop)
        assert len(fake.seen) == 1
    assert outcome.interrupted
    assert outcome.manifest.counts.failed == 4


async def test_an_answer_to_the_probe_that_is_in_flight_when_the_run_is_stopped_is_kept(
    store: Store, tmp_path: Path
) -> None:
    stop, loop = Stop(), asyncio.get_running_loop()

    def script(seen: Seen) -> Reply:
        loop.call_soon_threadsafe(stop)
        return Reply(body=judged().body, delay=0.1)

    with provider(script) as fake:
        outcome = await label_all(make_job(fake.base_url, 2, probe=True), store, tmp_path / "run", stop=stop)
        assert len(fake.seen) == 1
    assert outcome.interrupted
    assert (len(outcome.labels), outcome.manifest.counts.fresh, len(outcome.failures)) == (1, 1, 3)


def run(fake: FakeProvider, *more: str) -> int:
    words = ["run", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--sample", "6", "--quiet"]
    return run_app([*words, "--out", "r", *more])


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_here")
def test_after_a_run_a_dry_run_knows_its_answers_whatever_form_they_have(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(taking("json_object", "text")) as fake:
        assert run(fake) == 0
        capsys.readouterr()
        assert run(fake, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["in_store"], plan["to_ask"]) == (12, 0)


@pytest.mark.usefixtures("_here")
def test_a_refused_parameter_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    message = "Unsupported value: 'temperature' does not support 0 with this model."
    error = {"error": {"message": message, "code": "unsupported_value", "param": "temperature"}}
    with provider(lambda seen: Reply(400, error)) as fake:
        assert run(fake, "--param", "temperature=0") == 4
        assert len(fake.seen) <= 3 + 10 + 16
    said = capsys.readouterr().err
    assert "the first 10 requests failed with the same error: HTTP 400, parameter 'temperature'" in said
    assert message in said


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (refused(400, "context too long"), "HTTP 400: context too long"),
        (Reply(body=chat("Sure!")), "the answer is not one JSON object"),
    ],
)
def test_when_the_first_ten_all_fail_alike_the_run_stops_and_says_so(
    reply: Reply, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with provider(lambda seen: reply) as fake:
        assert run(fake, "--response-format", "text", "--concurrency", "1") == 4
        assert len(fake.seen) in {10, 20}
    said = capsys.readouterr().err
    assert said.startswith("relabel: the first 10 requests failed with the same error: ")
    assert words in said
    found = open_run("r")
    assert (found.manifest.status, len(found.failures())) == ("incomplete", 12)


@pytest.mark.usefixtures("_here")
def test_refusals_are_about_the_tasks_and_stop_nothing() -> None:
    with provider(lambda seen: Reply(body=chat(None, refusal="No."))) as fake:
        assert run(fake, "--response-format", "text", "--concurrency", "1") == 5
        assert len(fake.seen) == 12


async def test_when_one_in_five_succeeds_the_run_goes_on(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged() if len(fake.seen) % 5 == 2 else refused(400, "no")) as fake:
        outcome = await label_all(make_job(fake.base_url, 20), store, tmp_path / "run", concurrency=1)
        assert len(fake.seen) == 40
    assert (len(outcome.labels), len(outcome.failures)) == (8, 32)


async def test_different_failures_are_not_alike(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: refused(400 if len(fake.seen) % 2 else 422, "no")) as fake:
        outcome = await label_all(make_job(fake.base_url, 10), store, tmp_path / "run", concurrency=1)
        assert len(fake.seen) == 20
    assert len(outcome.failures) == 20


async def test_every_missing_label_is_named_once_when_the_run_gives_up(store: Store, tmp_path: Path) -> None:
    with (
        provider(lambda seen: refused(422, "no")) as fake,
        pytest.raises(ProviderError, match="failed with the same error"),
    ):
        await label_all(make_job(fake.base_url, 10), store, tmp_path / "run", concurrency=5)
    missing = [(x.task_id, x.setting) for x in open_run(str(tmp_path / "run")).failures()]
    assert sorted(missing) == sorted((str(n), s) for n in range(10) for s in ("strict", "with-tools"))


async def test_an_invalid_answer_is_asked_again_once_with_the_error(store: Store, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        return judged() if len(seen.messages) > 2 else Reply(body=chat('{"rationale": "x", "label": "E1"}'))

    with provider(script) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run", concurrency=1)
        again = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run", concurrency=1)
        assert len(fake.seen) == 4
    system, user, wrong, told = fake.seen[1].messages
    assert [system, user] == fake.seen[0].messages
    assert wrong == {"role": "assistant", "content": '{"rationale": "x", "label": "E1"}'}
    assert told["role"] == "user"
    assert "That answer cannot be used: label: Input should be 'exposed' or 'not-exposed'" in told["content"]
    assert outcome.complete
    assert {label.attempts for label in outcome.labels} == {2}
    assert outcome.manifest.tokens.prompt == 400  # both answers are paid for
    for label in outcome.labels:
        kept = store.get(label.request_key)
        assert kept is not None
        assert kept.repaired
    assert (store.stats().answers, store.stats().rejected) == (2, 2)
    assert again.manifest.counts.from_store == 2


async def test_an_answer_that_stays_invalid_is_a_failure_of_its_last_kind(store: Store, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        return Reply(body=chat("{}" if len(seen.messages) > 2 else "Sure!"))

    with provider(script) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
        assert len(fake.seen) == 4
    assert [(x.kind, x.attempts) for x in outcome.failures] == [("schema", 2)] * 2
    assert store.stats().rejected == 4


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (chat(None, refusal="No."), "refusal"),
        (chat('{"rat', finish_reason="length"), "length"),
        (chat("", finish_reason="content_filter"), "content-filter"),
    ],
)
async def test_what_asking_again_would_not_mend_is_not_asked_again(
    reply: dict[str, Any], kind: str, store: Store, tmp_path: Path
) -> None:
    with provider(lambda seen: Reply(body=reply)) as fake:
        outcome = await label_all(make_job(fake.base_url, 2), store, tmp_path / "run")
        assert len(fake.seen) == 4
    assert [(x.kind, x.attempts) for x in outcome.failures] == [(kind, 1)] * 4


async def test_a_repair_that_finds_the_server_down_is_a_failure_that_counts_all_attempts(
    store: Store, tmp_path: Path
) -> None:
    def script(seen: Seen) -> Reply:
        return refused(422, "too long now") if len(seen.messages) > 2 else Reply(body=chat("Sure!"))

    with provider(script) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
        assert len(fake.seen) == 4
    assert [(x.kind, x.attempts) for x in outcome.failures] == [("provider", 2)] * 2
    assert store.stats().rejected == 2


@pytest.mark.parametrize(
    "odd",
    [
        refused(400, "Failed to generate JSON", "json_validate_failed"),
        refused(400, "The response was filtered", "content_filter"),
        refused(400, "this one is too long", "context_length_exceeded"),
    ],
)
async def test_one_odd_refusal_of_the_first_question_says_nothing_about_the_form(
    odd: Reply, store: Store, tmp_path: Path
) -> None:
    with provider(lambda seen: odd if "number 0." in seen.prompt else judged()) as fake:
        outcome = await label_all(make_job(fake.base_url, 4, probe=True), store, tmp_path / "run")
        assert {form_of(seen) for seen in fake.seen} == {"json_schema"}
    assert (outcome.manifest.response_form, len(outcome.labels)) == ("json_schema", 6)


async def test_two_tasks_that_are_refused_alike_step_the_form_down(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged() if form_of(seen) == "text" else refused(422, "bad request")) as fake:
        outcome = await label_all(make_job(fake.base_url, 4, probe=True), store, tmp_path / "run")
        assert [form_of(seen) for seen in fake.seen[:4]] == ["json_schema"] * 2 + ["json_object"] * 2
    assert outcome.complete


async def test_what_was_known_of_a_form_is_asked_anew_on_another_day(store: Store, tmp_path: Path) -> None:
    job = make_job("http://127.0.0.1:9/v1", 2, probe=True)
    assert with_known_format(job, store).probe
    store.put_note(response_format_note(job.endpoint), "text")
    assert with_known_format(job, store).endpoint.form == "text"
    store.drop_notes()
    store.put_note(f"{response_format_note(job.endpoint).partition('@')[0]}@2026-01-01", "text")
    assert with_known_format(job, store).probe
