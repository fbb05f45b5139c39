"""Probabilities: from one token, from the tokens of a written label, and from repeats."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job_builders import label_all, make_job
from relabel.cli.app import run_app
from relabel.errors import ProviderError
from relabel.labelling.collector import label_probability, letter_probabilities, likeliest
from relabel.labelling.request import Endpoint, host_of
from relabel.labelling.store import Store
from relabel.labels import Answer, InvalidAnswerError, Usage
from relabel.rubric import load_rubric
from relabel.run import open_run
from server import Reply, Seen, chat, provider, responses

RUBRIC = load_rubric("exposure")  # A = exposed, B = not-exposed


def token(text: str, probability: float, **others: float) -> dict[str, Any]:
    likely = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in {text: probability, **others}.items()]
    return {"token": text, "logprob": math.log(probability), "top_logprobs": likely}


def spoken(content: str, tokens: list[dict[str, Any]] | None, finish: str = "stop") -> dict[str, Any]:
    raw = chat(content, finish_reason=finish)
    raw["choices"][0]["logprobs"] = None if tokens is None else {"content": tokens}
    return raw


def answer(raw: dict[str, Any], content: str | None, finish: str = "stop") -> Answer:
    return Answer(
        request_key="k",
        content=content,
        finish_reason=finish,
        model_returned="m",
        usage=Usage(),
        attempts=1,
        latency_s=0,
        created_at="",
        cost_usd=None,
        raw=raw,
    )


def letters_of(tokens: list[dict[str, Any]] | None, finish: str = "length") -> dict[str, float]:
    return letter_probabilities(answer(spoken("A", tokens, finish), "A", finish), RUBRIC, "chat")


def test_each_letters_share_is_read_from_the_first_token() -> None:
    assert letters_of([token("B", 0.6, A=0.2, C=0.1)]) == pytest.approx({"exposed": 0.25, "not-exposed": 0.75})


def test_spellings_of_a_letter_count_together() -> None:
    tokens = [token(" A", 0.3, **{"A": 0.3, " B": 0.1, "B\n": 0.1, "The": 0.2})]
    assert letters_of(tokens) == pytest.approx({"exposed": 0.75, "not-exposed": 0.25})
    tokens = [token("b", 0.5, **{"A": 0.1, " a": 0.1, "B": 0.1, "The": 0.2})]
    assert letters_of(tokens) == pytest.approx({"exposed": 0.25, "not-exposed": 0.75})


def test_a_letter_that_is_not_among_the_likely_ones_is_less_likely_than_they() -> None:
    found = letters_of([token("A", 0.99, x=0.001)])
    assert 0 < found["not-exposed"] < 0.0011


def test_one_token_more_than_was_asked_does_no_harm() -> None:
    assert letters_of([token("A", 0.5, B=0.5), token("!", 1.0)], "stop") == pytest.approx(
        {"exposed": 0.5, "not-exposed": 0.5}
    )


@pytest.mark.parametrize("tokens", [None, []])
def test_a_server_without_log_probabilities_is_said_with_the_way_out(tokens: list[Any] | None) -> None:
    with pytest.raises(InvalidAnswerError, match=r"no log probabilities; use --decide json"):
        letters_of(tokens)


def test_no_letter_at_all_is_said() -> None:
    with pytest.raises(InvalidAnswerError, match=r"none of the letters .* 'The'"):
        letters_of([token("The", 0.9, a=0.1)])
    with pytest.raises(InvalidAnswerError, match=r"none of the letters .* '<think>'"):
        letters_of([token("<think>", 0.99, A=0.001)])


def test_a_refusal_is_a_refusal_whatever_its_tokens() -> None:
    raw = spoken("", [token("A", 0.9)])
    with pytest.raises(InvalidAnswerError) as caught:
        letter_probabilities(answer(raw, None).model_copy(update={"refusal": "no"}), RUBRIC, "chat")
    assert caught.value.kind == "refusal"


@pytest.mark.parametrize("value", [1e9, float("inf"), -1e9, float("-inf")])
def test_absurd_log_probabilities_never_end_a_run(value: float) -> None:
    tokens = [token("A", 0.5, B=0.2)]
    tokens[0]["top_logprobs"][1]["logprob"] = value
    found = letters_of(tokens)
    assert sum(found.values()) == pytest.approx(1)
    assert all(0 <= share <= 1 for share in found.values())


@pytest.mark.parametrize("value", [float("nan"), None, "x", {}])
def test_log_probabilities_that_are_no_numbers_are_refused(value: Any) -> None:
    tokens = [token("A", 0.5, B=0.2)]
    tokens[0]["logprob"] = value
    with pytest.raises(InvalidAnswerError):
        letters_of(tokens)


@given(row=st.fixed_dictionaries({"a": st.floats(0, 1), "b": st.floats(0, 1), "c": st.floats(0, 1)}))
def test_the_likeliest_label_is_taken(row: Mapping[str, float]) -> None:
    assert row[likeliest(row)] == pytest.approx(max(row.values()), abs=1e-9)


def test_a_tie_goes_to_the_less_exposed_label() -> None:
    assert likeliest({"exposed": 0.5, "not-exposed": 0.5}) == "not-exposed"


WRITTEN = '{"rationale": "The \\"label\\": none", "label": "exposed"}'


def pieces(content: str, cut: int, probability: float) -> list[dict[str, Any]]:
    return [token(content[at : at + cut], probability) for at in range(0, len(content), cut)]


def test_a_written_labels_probability_is_that_of_its_tokens() -> None:
    start = WRITTEN.rindex("exposed")
    tokens = [token(WRITTEN[:start], 0.1), token("ex", 0.9), token("posed", 0.8), token('"}', 0.2)]
    assert label_probability(answer(spoken(WRITTEN, tokens), WRITTEN), "exposed", "chat") == pytest.approx(0.72)
    in_capitals = WRITTEN[:start] + "EXPOSED" + WRITTEN[start + 7 :]
    tokens[1:3] = [token("EX", 0.9), token("POSED", 0.8)]
    found = label_probability(answer(spoken(in_capitals, tokens), in_capitals), "exposed", "chat")
    assert found == pytest.approx(0.72)


def test_a_written_labels_probability_in_the_other_dialect() -> None:
    raw = responses(WRITTEN)
    start = WRITTEN.rindex("exposed")
    raw["output"][1]["content"][0]["logprobs"] = [token(WRITTEN[:start], 1.0), token(WRITTEN[start:], 0.5)]
    assert label_probability(answer(raw, WRITTEN), "exposed", "responses") == pytest.approx(0.5)


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_tokens_that_straddle_the_label_count(cut: int) -> None:
    found = label_probability(answer(spoken(WRITTEN, pieces(WRITTEN, cut, 0.5)), WRITTEN), "exposed", "chat")
    assert found is not None
    assert 0.5**8 <= found <= 0.5


@pytest.mark.parametrize("tokens", [None, [token("something else", 0.5)]])
def test_without_fitting_tokens_there_is_no_probability(tokens: list[Any] | None) -> None:
    assert label_probability(answer(spoken(WRITTEN, tokens), WRITTEN), "exposed", "chat") is None


def by_number(seen: Seen) -> int:
    return int(seen.prompt.split("number ")[1].split(".")[0])


def biased(seen: Seen) -> Reply:
    """A model that always says A, a little less so for even tasks."""
    share = 0.80 if by_number(seen) % 2 == 0 else 0.95
    return Reply(body=spoken("A", [token("A", share, B=1 - share)], "length"))


async def test_a_run_decided_by_one_token_takes_the_likeliest_label(store: Store, tmp_path: Path) -> None:
    with provider(biased) as fake:
        outcome = await label_all(make_job(fake.base_url, 6, decide="logprob"), store, tmp_path / "run")
        asked = {
            json.dumps({k: v for k, v in seen.body.items() if k != "messages"}, sort_keys=True) for seen in fake.seen
        }
        assert len(fake.seen) == 12
    assert asked == {
        json.dumps({"logprobs": True, "max_tokens": 1, "model": "test-model", "temperature": 0, "top_logprobs": 20})
    }
    assert {label.label for label in outcome.labels} == {"exposed"}
    assert {round(label.probability or 0, 6) for label in outcome.labels} == {0.8, 0.95}
    assert outcome.manifest.note is None
    assert open_run(str(tmp_path / "run")).manifest.parameters["decide"] == "logprob"


async def test_a_server_without_log_probabilities_ends_a_run_with_the_way_out(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: Reply(body=spoken("A", None, "length"))) as fake:
        with pytest.raises(ProviderError, match=r"first 10 requests failed with the same error: .*use --decide json"):
            await label_all(make_job(fake.base_url, 20, decide="logprob"), store, tmp_path / "run")
        assert len(fake.seen) <= 10 + 4


async def test_probabilities_of_written_labels_reach_the_table(store: Store, tmp_path: Path) -> None:
    content = '{"rationale": "x", "label": "exposed"}'
    tokens = [token('{"rationale": "x", "label": "', 0.3), token("exposed", 0.7), token('"}', 0.9)]
    with provider(lambda seen: Reply(body=spoken(content, tokens))) as fake:
        endpoint = Endpoint(host=host_of(fake.base_url), model="m", params={"logprobs": True})
        await label_all(make_job(fake.base_url, 2, endpoint=endpoint), store, tmp_path / "run")
    assert open_run(str(tmp_path / "run")).labels["probability"].tolist() == pytest.approx([0.7] * 4)


@pytest.mark.parametrize(("of_token", "of_other", "known"), [(None, 0.0, False), ("x", 0.0, False), (-0.5, None, True)])
async def test_odd_log_probabilities_lose_no_label(
    of_token: Any, of_other: Any, known: bool, store: Store, tmp_path: Path
) -> None:
    one = token('{"rationale": "x", "label": "exposed"}', 0.3, other=0.1)
    one["logprob"], one["top_logprobs"][1]["logprob"] = of_token, of_other
    with provider(lambda seen: Reply(body=spoken(one["token"], [one]))) as fake:
        endpoint = Endpoint(host=host_of(fake.base_url), model="m", params={"logprobs": True})
        outcome = await label_all(make_job(fake.base_url, 1, endpoint=endpoint), store, tmp_path / "run")
        assert len(fake.seen) == 2
    assert [row.probability is not None for row in outcome.labels] == [known] * 2


async def test_repeats_are_distinct_questions_and_their_share_is_the_probability(store: Store, tmp_path: Path) -> None:
    counts: dict[str, int] = {}

    def script(seen: Seen) -> Reply:
        question = str(seen.messages)
        counts[question] = counts.get(question, 0) + 1
        said = "exposed" if counts[question] == 1 else "not-exposed"
        return Reply(body=chat(json.dumps({"rationale": "x", "label": said})))

    with provider(script) as fake:
        outcome = await label_all(make_job(fake.base_url, 3, samples=4), store, tmp_path / "run")
        again = await label_all(make_job(fake.base_url, 3, samples=4), store, tmp_path / "run")
        assert len(fake.seen) == 24
    assert len({label.request_key for label in outcome.labels}) == 24
    assert sorted((label.label, label.probability) for label in outcome.labels) == sorted(
        [("exposed", 0.25)] * 6 + [("not-exposed", 0.75)] * 18
    )
    assert again.manifest.counts.from_store == 24


@pytest.mark.parametrize("more", [["--pack", "2"], ["--api", "responses"]])
def test_what_one_token_cannot_do_is_exit_2(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["run", "--model", "m", "--tasks", "sample", "--decide", "logprob", *more]) == 2
    assert "--decide logprob" in capsys.readouterr().err
