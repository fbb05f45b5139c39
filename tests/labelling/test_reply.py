"""What a server sent becomes an answer: once for both ways in which it may come."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from job_builders import KEY
from relabel.labelling.engine import answer_to, parsed
from relabel.labelling.providers import Price
from relabel.labelling.wire import NotAReplyError, read
from relabel.labels import InvalidAnswerError, Usage, read_answer
from relabel.redaction import guard
from relabel.rubric import load_rubric
from server import chat, responses

PRICE = Price(input=2.0, cached=1.0, output=8.0, source="test")
FREE = Price(input=0.0, cached=0.0, output=0.0, source="test")
CAME = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)


def test_the_key_is_taken_out_of_everything() -> None:
    guard(KEY)
    sent = {"said": f"It is {KEY}.", f"x-{KEY}": [KEY, 1, None, {"a": KEY}]}
    assert parsed(json.dumps(sent)) == {"said": "It is [key].", "x-[key]": ["[key]", 1, None, {"a": "[key]"}]}


@pytest.mark.parametrize("secret", ["", "e", "EMPTY", "none", "placeholder"])
def test_a_placeholder_is_no_secret(secret: str) -> None:
    guard(secret)
    sent = {"said": f"This placeholder is EMPTY, none else: {secret}"}
    assert parsed(json.dumps(sent)) == sent


@pytest.mark.parametrize("text", ["", "{", "no", "[" * 5000, "[" * 200 + "]" * 200])
def test_what_is_no_json_or_cannot_be_written_again_is_no_reply(text: str) -> None:
    with pytest.raises(NotAReplyError):
        parsed(text)


def stream(*chunks: Any, end: str = "\n\n") -> str:
    return (
        "".join(f"event: e{end[: len(end) // 2]}data: {json.dumps(chunk)}{end}" for chunk in chunks)
        + f"data: [DONE]{end}"
    )


def piece(text: str | None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "one", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **fields}


def test_a_stream_that_nobody_asked_for_is_read_once_it_is_whole() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 3}
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    chunks = [
        piece("{", model="m"),
        piece('"a": "data: {x}"'),
        other,
        piece("}", "stop"),
        {"choices": [], "usage": usage},
    ]
    for end in ("\n\n", "\r\n\r\n"):
        reply = read("chat", parsed("\ufeff\n" + stream(*chunks, end=end)))
        assert (reply.content, reply.finish_reason) == ('{"a": "data: {x}"}', "stop")
        assert (reply.model_returned, reply.usage) == ("m", Usage(prompt=10, completion=3))
    events = [{"response": {**responses("x"), "status": "in_progress", "output": []}}, {"response": responses("x")}]
    assert read("responses", parsed(stream(*events))).content == "x"
    for cut in (chunks[:2], [7, [], None], [{"choices": 7}], events[:1]):
        with pytest.raises(NotAReplyError):
            parsed(stream(*cut))
    with pytest.raises(NotAReplyError):
        parsed(stream(*chunks)[:150])


def test_many_brackets_side_by_side_are_not_deep() -> None:
    sent = [[]] * 200
    assert parsed(json.dumps(sent)) == sent


@pytest.mark.parametrize(
    ("usage", "price", "cost"),
    [
        ("counted", PRICE, (36 * 2 + 64 * 1 + 20 * 8) / 1e6),
        ("counted", None, None),
        (None, PRICE, None),  # tokens that are not counted are not free
        (None, FREE, 0.0),
    ],
)
def test_what_an_answer_costs_is_known_or_said_to_be_unknown(
    usage: str | None, price: Price | None, cost: float | None
) -> None:
    sent: dict[str, Any] = chat("x") if usage else chat("x", usage=None)
    answer = answer_to("k", "chat", sent, price, attempts=2, latency_s=1.5, received_at=CAME)
    assert answer.cost_usd == (None if cost is None else pytest.approx(cost))
    assert (answer.request_key, answer.content, answer.attempts, answer.latency_s) == ("k", "x", 2, 1.5)
    assert answer.created_at == "2026-01-02T03:04:05.000006+00:00"
    assert answer.raw == sent
    assert not answer.repaired


def test_what_is_no_completion_is_no_answer() -> None:
    with pytest.raises(NotAReplyError):
        answer_to("k", "chat", {"choices": []}, None, attempts=1, latency_s=0.0, received_at=CAME)


@pytest.mark.parametrize(
    ("content", "unwrapped", "label_first"),
    [
        ('{"rationale": "r", "label": "exposed"}', False, False),
        ('{"label": "exposed", "rationale": "r"}', False, True),
        ('The "label" is: {"rationale": "r", "label": "exposed"}', True, False),
        ('{"note": 1} {"rationale": "r", "label": "exposed"}', True, False),
        ('```json\n{"label": "exposed", "rationale": "r"}\n```', True, True),
    ],
)
def test_an_answer_tells_how_it_was_read(content: str, unwrapped: bool, label_first: bool) -> None:
    answer = answer_to("k", "chat", chat(content), PRICE, attempts=1, latency_s=1.0, received_at=CAME)
    found = read_answer(answer, load_rubric("exposure"))
    assert (found.judged[0].label, found.unwrapped, found.label_first) == ("exposed", unwrapped, label_first)


@pytest.mark.parametrize(
    ("labels", "written", "read_as"),
    [
        (("E1", "E2"), "e1", "E1"),
        (("E1", "E2"), " e2. ", None),
        (("Direct", "direct"), "direct", "direct"),
        (("Direct", "direct"), "'Direct' ", "Direct"),
        (("Direct", "direct"), "DIRECT", None),
        (("Direct", "direct", "None"), "none", "None"),
        (("1", "2"), 2, "2"),
        (("1", "2"), True, None),
        (("1", "2"), 1.0, None),
        (("1", "2"), ["1"], None),
        (("1", "2"), None, None),
        (("Straße", "Weg"), "STRASSE", "Straße"),
        (("exposed", "not-exposed"), "not exposed", "not-exposed"),
        (("exposed", "not-exposed"), "NOT_EXPOSED", "not-exposed"),
        (("exposed", "not-exposed"), "unexposed", None),
        (("not exposed", "not-exposed"), "not_exposed", None),
    ],
)
def test_a_label_is_known_in_any_case_if_only_one_can_be_meant(
    labels: tuple[str, ...], written: Any, read_as: str | None
) -> None:
    content = json.dumps({"rationale": "r", "label": written})
    answer = answer_to("k", "chat", chat(content), PRICE, attempts=1, latency_s=1.0, received_at=CAME)
    rubric = load_rubric("eloundou").model_copy(update={"labels": dict.fromkeys(labels, "means")})
    if read_as is None:
        with pytest.raises(InvalidAnswerError) as caught:
            read_answer(answer, rubric)
        assert caught.value.kind == "schema"
    else:
        assert read_answer(answer, rubric).judged[0].label == read_as


@pytest.mark.parametrize(
    ("written", "kept"),
    [("half \ud83d of an emoji", "half ? of an emoji"), ("word " * 1000, "word " * 800), ("a\0b", "ab")],
)
def test_an_odd_rationale_costs_no_label(written: str, kept: str) -> None:
    content = json.dumps({"rationale": written, "label": "exposed"})
    answer = answer_to("k", "chat", chat(content), PRICE, attempts=1, latency_s=1.0, received_at=CAME)
    judged = read_answer(answer, load_rubric("exposure")).judged[0]
    assert (judged.label, judged.rationale) == ("exposed", kept)


def test_a_missing_label_is_called_missing() -> None:
    content = json.dumps({"rationale": "r"})
    answer = answer_to("k", "chat", chat(content), PRICE, attempts=1, latency_s=1.0, received_at=CAME)
    with pytest.raises(InvalidAnswerError, match=r"label: Field required"):
        read_answer(answer, load_rubric("exposure"))
