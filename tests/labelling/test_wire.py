"""Two dialects, the same labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from job_builders import label_all, make_job
from relabel.cli.app import run_app
from relabel.labelling.request import Endpoint, host_of
from relabel.labelling.store import Store
from relabel.labelling.wire import Api, NotAReplyError, body, output_bound, read
from relabel.labels import Usage
from relabel.run import open_run
from server import Reply, Seen, chat, provider, responses

GOOD = '{"rationale": "Because.", "label": "exposed"}'
BAD = '{"rationale": "x", "label": "maybe"}'

SAID: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "good": (chat(GOOD), responses(GOOD), None),
    "refused": (chat(None, refusal="I will not."), responses(None, refusal="I will not."), "refusal"),
    "cut": (chat('{"rat', finish_reason="length"), responses('{"rat', reason="max_output_tokens"), "length"),
    "filtered": (chat("", finish_reason="content_filter"), responses(None, reason="content_filter"), "content-filter"),
    "silent": (chat(None), responses(None), "invalid-json"),
    "wrong": (chat(BAD), responses(BAD), "schema"),
}


@pytest.mark.parametrize("what", SAID)
async def test_both_dialects_lead_to_the_same_labels_and_failures(what: str, tmp_path: Path) -> None:
    found: list[Any] = []
    dialects: list[tuple[Api, Any]] = [("chat", SAID[what][0]), ("responses", SAID[what][1])]
    for api, reply in dialects:
        with Store(tmp_path / f"store-{api}") as store, provider(lambda seen, reply=reply: Reply(body=reply)) as fake:
            endpoint = Endpoint(host=host_of(fake.base_url), model="m", api=api)
            outcome = await label_all(make_job(fake.base_url, 2, endpoint=endpoint), store, tmp_path / api)
            assert {seen.path for seen in fake.seen} == {"/v1/chat/completions" if api == "chat" else "/v1/responses"}
        labels = [
            (x.task_id, x.setting, x.label, x.prompt_tokens, x.cached_tokens, x.completion_tokens)
            for x in outcome.labels
        ]
        failures = [(x.task_id, x.setting, x.kind, x.attempts) for x in outcome.failures]
        found.append((sorted(labels), sorted(failures), outcome.manifest.tokens, len(fake.seen)))
    assert found[0] == found[1]
    kind = SAID[what][2]
    assert {failure[2] for failure in found[0][1]} == ({kind} if kind else set())


def test_a_whole_run_through_the_command_gives_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def script(seen: Seen) -> Reply:
        said = json.dumps({"rationale": "r", "label": "exposed" if len(seen.prompt) % 2 else "not-exposed"})
        return Reply(body=chat(said) if "messages" in seen.body else responses(said))

    with provider(script) as fake:
        words = ["run", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--sample", "8", "--quiet"]
        assert run_app([*words, "--out", "chat"]) == 0
        assert run_app([*words, "--api", "responses", "--max-tokens", "200", "--out", "responses"]) == 0
        asked = [seen.body for seen in fake.seen if "input" in seen.body]
    assert {request["max_output_tokens"] for request in asked} == {200}
    assert {request["text"]["format"]["type"] for request in asked} == {"json_schema"}
    one, other = (
        open_run(name).labels.sort_values(["task_id", "setting"])[["task_id", "setting", "label", "rationale"]]
        for name in ("chat", "responses")
    )
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True))
    assert open_run("responses").manifest.api == "responses"
    capsys.readouterr()


def test_the_schema_is_strict_in_both_dialects_and_nothing_unasked_is_sent() -> None:
    schema = {"type": "object"}
    messages = [{"role": "user", "content": "Hi"}]
    assert body("chat", "m", messages, "json_schema", schema, {}) == {
        "model": "m",
        "messages": messages,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}},
    }
    assert body("responses", "m", messages, "json_schema", schema, {}) == {
        "model": "m",
        "input": messages,
        "text": {"format": {"type": "json_schema", "name": "answer", "strict": True, "schema": schema}},
    }
    assert body("chat", "m", messages, "json_object", schema, {})["response_format"] == {"type": "json_object"}
    assert body("responses", "m", messages, "json_object", schema, {})["text"] == {"format": {"type": "json_object"}}
    assert set(body("chat", "m", messages, "text", schema, {"seed": 1})) == {"model", "messages", "seed"}
    assert set(body("responses", "m", messages, "text", schema, {})) == {"model", "input"}


def test_the_text_of_several_output_items_is_one_answer() -> None:
    raw = responses(None)
    raw["output"] += [
        {"type": "message", "content": [{"type": "output_text", "text": '{"rationale": "x",'}]},
        {"type": "web_search_call", "id": "ws_1"},
        {"type": "message", "content": [{"type": "output_text", "text": ' "label": "exposed"}'}, {"type": "extra"}]},
        {"type": "message", "content": None},
    ]
    reply = read("responses", raw)
    assert reply.content == '{"rationale": "x", "label": "exposed"}'
    assert reply.finish_reason == "stop"
    assert (reply.usage.prompt, reply.usage.cached, reply.usage.completion) == (100, 64, 20)


# https://openrouter.ai/docs/cookbook/evaluate-and-optimize/model-migrations/gpt-5-4
def test_remarks_before_the_answer_are_no_part_of_it() -> None:
    raw = responses(None)
    for phase, text in ("commentary", 'A draft: {"label": "exposed"}'), ("final_answer", '{"label": "not-exposed"}'):
        raw["output"].append({"type": "message", "phase": phase, "content": [{"type": "output_text", "text": text}]})
    assert read("responses", raw).content == '{"label": "not-exposed"}'


@pytest.mark.parametrize("status", ["failed", "cancelled", "in_progress"])
def test_a_response_that_did_not_end_well_says_so(status: str) -> None:
    assert read("responses", responses(None, status=status)).finish_reason == status


@pytest.mark.parametrize(
    "content",
    [
        [GOOD],
        [None, {"type": "text", "text": GOOD}],
        [GOOD[:9], {"text": GOOD[9:]}, {"type": "text", "text": None}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": GOOD}],
    ],
)
def test_a_text_is_read_from_whatever_parts_it_comes_in(content: list[Any]) -> None:
    raw = chat(None)
    raw["choices"][0]["message"]["content"] = content
    assert read("chat", raw).content == GOOD
    for message in ({"role": "assistant", "content": content}, {"type": "message", "content": GOOD}):
        assert read("responses", {**responses(None), "output": [message]}).content == GOOD


def test_an_answer_in_place_of_which_a_tool_is_called_is_read() -> None:
    call = {"name": "answer", "arguments": GOOD}
    for fields in (
        {"tool_calls": [{"id": "c", "type": "function", "function": call}]},
        {"tool_calls": [{"function": {**call, "arguments": json.loads(GOOD)}}], "content": ""},
        {"function_call": call, "tool_calls": None},
    ):
        raw = chat(None, finish_reason="tool_calls")
        raw["choices"][0]["message"] |= fields
        assert json.loads(read("chat", raw).content or "") == json.loads(GOOD)
    for calls in ([], [{}], [{"function": call}] * 2, [{"function": None}]):  # of two, neither is the answer
        raw["choices"][0]["message"] = {"content": None, "tool_calls": calls}
        assert read("chat", raw).content is None


HOSTILE: list[tuple[Api, Any]] = [
    ("chat", None),
    ("chat", []),
    ("chat", {"choices": []}),
    ("chat", {"choices": {"0": 1}}),
    ("chat", {"choices": [{"message": "hello"}]}),
    ("responses", {}),
    ("responses", {"output": None}),
    ("responses", {"output": ["hello"]}),
    ("responses", {"output": [{"type": "message", "content": [{"type": "output_text"}]}]}),
]


@pytest.mark.parametrize(("api", "raw"), HOSTILE)
def test_what_is_no_reply_is_refused_and_never_a_crash(api: Api, raw: Any) -> None:
    with pytest.raises(NotAReplyError):
        read(api, raw)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        json.dumps(chat(GOOD))[:-1] + ', "deep": ' + "[" * 500 + "]" * 500 + "}",
        json.dumps(chat(GOOD)).replace("100", "1e999"),
        json.dumps(chat(GOOD)).replace('"stop"', '["stop"]').replace('"test-model-2026"', "7"),
        '{"choices": [{"message": {"content": "' + "\\ud83d" + '"}, "finish_reason": "\\udc00"}], "model": "\\ud800"}',
    ],
)
async def test_hostile_replies_never_end_a_run(text: str, store: Store, tmp_path: Path) -> None:
    good = json.dumps(chat(GOOD))
    with provider(lambda seen: Reply(body=text if "number 1" in seen.prompt else good)) as fake:
        outcome = await label_all(make_job(fake.base_url, 3), store, tmp_path / "run")
    assert len(outcome.labels) + len(outcome.failures) == 6
    assert {label.task_id for label in outcome.labels} >= {"0", "2"}
    assert list(store.verify()) == []


async def test_a_reply_too_deep_to_be_kept_is_none(store: Store, tmp_path: Path) -> None:
    deep = json.dumps(chat(GOOD))[:-1] + ', "deep": ' + "[" * 200 + "]" * 200 + "}"
    with provider(lambda seen: Reply(body=deep)) as fake:
        outcome = await label_all(make_job(fake.base_url, 1), store, tmp_path / "run")
    assert {failure.kind for failure in outcome.failures} == {"provider"}


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_hostile_errors_never_end_a_run(status: int, store: Store, tmp_path: Path) -> None:
    errors = iter(
        [
            '{"error": {"message": "\\ud800 no", "code": 7, "param": ["x"]}}',
            "[" * 100_000,
            '{"error": "\\udfff"}',
            "\x00",
            '"\\ud800"',
        ]
        * 20
    )
    with provider(
        lambda seen: Reply(status, next(errors)) if "number 1" in seen.prompt else Reply(body=chat(GOOD))
    ) as fake:
        outcome = await label_all(make_job(fake.base_url, 3), store, tmp_path / "run")
    assert (len(outcome.labels), {failure.kind for failure in outcome.failures}) == (4, {"provider"})
    assert len((tmp_path / "run" / "failures.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "content",
    [
        '{"rationale": "x", "label": "exposed", "\\ud800": 1}',
        '{"rationale": "x", "label": "\\ud800"}',
        '{"rationale": "x", "label": ' + "[" * 2000 + "}",
    ],
)
async def test_hostile_answers_are_failures_with_a_message_that_can_be_written(
    content: str, store: Store, tmp_path: Path
) -> None:
    with provider(lambda seen: Reply(body=chat(content if "number 1" in seen.prompt else GOOD))) as fake:
        outcome = await label_all(make_job(fake.base_url, 3), store, tmp_path / "run")
    assert len(outcome.labels) == 4
    assert {failure.kind for failure in outcome.failures} <= {"schema", "invalid-json"}
    assert len((tmp_path / "run" / "failures.jsonl").read_text().splitlines()) == 2
    assert store.stats().rejected == 4


def test_the_bound_of_an_answer_is_found_under_every_name() -> None:
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        assert output_bound({name: 7}) == 7
    assert output_bound({"max_tokens": "7"}) is None
    assert output_bound({}) is None


@pytest.mark.parametrize("odd", [None, "many", "12", -5, float("nan"), float("inf"), 1.5, True, 2**40, [1], {"a": 1}])
@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens"])
def test_a_count_that_cannot_be_true_makes_usage_unknown_and_keeps_the_answer(field: str, odd: Any) -> None:
    reply = read("chat", chat(GOOD, usage={"prompt_tokens": 100, "completion_tokens": 20, field: odd}))
    assert (reply.content, reply.usage) == (GOOD, Usage())
    for usage in (
        odd,
        {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": odd}},
    ):
        reply = read("chat", chat(GOOD, usage=usage))
        assert reply.content == GOOD


def test_counts_that_no_answer_can_have_are_unknown_and_those_of_the_other_dialect_are_read() -> None:
    def tokens(content: str | None, **usage: int) -> Usage:
        return read("chat", chat(content, usage=usage)).usage

    assert tokens(GOOD, prompt_tokens=0, completion_tokens=20) == tokens(GOOD, prompt_tokens=100, completion_tokens=0)
    assert tokens(GOOD, prompt_tokens=0, completion_tokens=20) == Usage()
    assert tokens(None, prompt_tokens=100, completion_tokens=0) == Usage(prompt=100)
    assert tokens(None, prompt_tokens=100, total_tokens=100) == Usage(prompt=100)  # Gemini, of an answer without text
    assert tokens(None, prompt_tokens=100, total_tokens=160) == Usage(prompt=100, completion=60, reasoning=60)
    assert tokens(GOOD, input_tokens=100, output_tokens=20) == Usage(prompt=100, completion=20)


@pytest.mark.parametrize(
    ("prompt", "total", "cached"),
    [
        (100, 120, {"num_cached_tokens": 90}),
        (100, 120, {"cache_read_input_tokens": 90}),
        (10, 30, {"cache_read_input_tokens": 90}),
        (10, 120, {"cache_read_input_tokens": 90}),
        (60, 120, {"cache_read_input_tokens": 40}),
    ],
)
def test_cached_tokens_are_read_whether_or_not_the_prompts_hold_them(
    prompt: int, total: int, cached: dict[str, int]
) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": 20, "total_tokens": total, **cached}
    (count,) = cached.values()
    assert read("chat", chat(GOOD, usage=usage)).usage == Usage(prompt=100, cached=count, completion=20)


def test_a_reply_without_choices_or_message_is_a_blocked_question() -> None:
    for choices in ([], None):
        with pytest.raises(NotAReplyError) as caught:
            read("chat", {"choices": choices, "promptFeedback": {"blockReason": "SAFETY"}})
        assert caught.value.kind == "content-filter"
    # Gemini: https://github.com/agentgateway/agentgateway/pull/977
    usage = {"prompt_tokens": 100, "completion_tokens": 0, "total_tokens": 100}
    reply = read("chat", {"object": "chat.completion", "model": "m", "usage": usage})
    assert (reply.finish_reason, reply.usage.prompt) == ("content_filter", 100)
    reply = read("chat", {"choices": [{"finish_reason": "SAFETY"}]})
    assert (reply.content, reply.finish_reason) == (None, "content_filter")
