"""Options of `run` that cannot be meant are told in a sentence, before anything is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from relabel.cli.app import run_app

RUN = ["run", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--tasks", "sample", "--dry-run"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run_app(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err.startswith("relabel: ")) == ("", 1, True)
    return err


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(
    "words",
    [
        [*RUN, "--max-tokens", "5", "--price", "1/2", "--max-cost"],
        [*RUN, "--rpm"],
        [*RUN, "--tpm"],
    ],
)
def test_a_limit_that_is_no_number_limits_nothing_and_is_refused(
    words: list[str], value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused([*words, value], capsys)
    assert "give a number of" in said or "is not a finite number" in said


@pytest.mark.parametrize(
    ("option", "value"),
    [("rpm", "0"), ("rpm", "-1"), ("tpm", "0"), ("sample", "0"), ("pack", "101"), ("samples", "1000000000")],
)
def test_a_limit_of_nothing_is_refused_and_not_taken_for_no_limit(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{option} is " in refused([*RUN, f"--{option}", value], capsys)


def test_a_wait_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nan is not a finite number" in refused([*RUN, "--timeout", "nan"], capsys)


@pytest.mark.parametrize("price", ["nan/1", "1/nan", "1/inf", "1/2/nan", "-1/2"])
def test_a_price_that_is_no_number_is_refused(price: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not IN/OUT or IN/OUT/CACHED" in refused([*RUN, "--price", price], capsys)


@pytest.mark.parametrize("value", ["NaN", "1e999", "-Infinity", "[0, 1e999]", '{"a": NaN}', '"\\ud800"'])
def test_a_parameter_that_json_cannot_carry_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be sent as JSON" in refused([*RUN, "--param", f"temperature={value}"], capsys)


@pytest.mark.parametrize(
    "more",
    [
        ["--param", "temperature=0.7"],
        ["--param", "max_completion_tokens=9"],
        ["--param", "logprobs=false", "--max-tokens", "200"],
    ],
)
def test_what_deciding_by_one_token_would_override_is_refused(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused([*RUN, "--decide", "logprob", *more], capsys)
    assert "sets max_tokens, logprobs, top_logprobs, temperature itself; remove" in said
