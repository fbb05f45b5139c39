"""What a plan says before anything is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from job_builders import label_all, make_job
from relabel.cli.app import run_app
from relabel.labelling.estimate import estimate
from relabel.labelling.providers import Price
from relabel.labelling.request import Endpoint, host_of
from relabel.labelling.store import Store
from server import Reply, chat, judged, provider

URL = "http://127.0.0.1:1/v1"
PRICE = Price(input=1, cached=0.5, output=10, source="the test", as_of="2026-11-01")


def test_a_plan_counts_labels_and_requests() -> None:
    found = estimate(make_job(URL, 7, samples=3), None)
    assert (found.labels, found.requests, found.in_store, found.to_ask) == (42, 42, 0, 42)
    packed = estimate(make_job(URL, 7, samples=3, pack=5), None)
    assert (packed.labels, packed.requests) == (42, 12)
    assert packed.prompt_tokens[1] < found.prompt_tokens[0]


async def test_what_the_store_knows_costs_nothing_more(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged()) as fake:
        await label_all(make_job(fake.base_url, 4), store, tmp_path / "run")
        found = estimate(make_job(fake.base_url, 6, price=PRICE), store)
        nothing = estimate(make_job(fake.base_url, 4, price=PRICE), store)
    assert (found.in_store, found.to_ask) == (8, 4)
    assert (nothing.to_ask, nothing.prompt_tokens, nothing.cost_usd) == (0, (0, 0), (0.0, 0.0))


def test_a_range_holds_what_an_ordinary_tokenizer_would_count_and_costs_accordingly() -> None:
    job = make_job(URL, 10, price=PRICE)
    found = estimate(job, None)
    characters = sum(sum(len(m["content"]) for m in planned.request.body["messages"]) for planned in job.plan())
    assert found.prompt_tokens[0] <= characters / 4.2 <= found.prompt_tokens[1]
    assert found.completion_tokens[0] <= 20 * 40 <= found.completion_tokens[1]
    low, high = found.cost_usd or (0, 0)
    assert low == pytest.approx((found.prompt_tokens[0] + 10 * found.completion_tokens[0]) / 1e6)
    assert high == pytest.approx((found.prompt_tokens[1] + 10 * found.completion_tokens[1]) / 1e6)
    assert (found.price_source, found.price_as_of) == ("the test", "2026-11-01")


def test_the_bound_of_an_answer_bounds_the_estimate() -> None:
    endpoint = Endpoint(host=host_of(URL), model="m", params={"max_completion_tokens": 12})
    assert estimate(make_job(URL, 10, endpoint=endpoint), None).completion_tokens == (20 * 12, 20 * 12)


def test_one_token_is_one_token() -> None:
    assert estimate(make_job(URL, 10, decide="logprob"), None).completion_tokens == (20, 20)


def test_without_a_price_no_cost_is_guessed() -> None:
    found = estimate(make_job(URL, 2), None)
    assert (found.cost_usd, found.price_source) == (None, None)


async def test_an_estimate_asks_and_changes_nothing(store: Store) -> None:
    with provider(lambda seen: judged()) as fake:
        estimate(make_job(fake.base_url, 5, probe=True), store)
        assert fake.seen == []
    assert store.stats().answers == 0


async def test_rejected_answers_are_asked_again(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: Reply(body=chat("no"))) as fake:
        await label_all(make_job(fake.base_url, 2), store, tmp_path / "run")
        assert estimate(make_job(fake.base_url, 2), store).to_ask == 4


def test_the_commands_dry_run_shows_the_range_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "--model", "gpt-4o-mini", "--tasks", "sample", "--sample", "10", "--dry-run"]
    assert run_app(words) == 0
    text = capsys.readouterr().out
    assert "20 requests, 0 of them in the store; 20 would be sent to gpt-4o-mini" in text
    assert "prices: genai-prices " in text
    assert run_app([*words, "--price", "1/2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["price_source"] == "given with --price"
    assert found["cost_usd"][0] < found["cost_usd"][1]
    assert run_app(["run", "--model", "who", "--base-url", URL, "--tasks", "sample", "--dry-run"]) == 0
    assert "unknown; give the price of who with --price IN/OUT" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
