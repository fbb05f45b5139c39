"""`--variants`: one question asked in several orders of labels and examples, as repeats of another kind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from relabel.cli.app import run_app
from relabel.errors import UsageError
from relabel.evaluation.alignment import match
from relabel.evaluation.gold import asked, load_gold
from relabel.evaluation.trial import Variance
from relabel.labelling.request import Endpoint, Planner, load_prompt
from relabel.rubric import load_rubric, orders, reordered
from relabel.run import open_run
from relabel.task import load_tasks
from server import FakeProvider, Reply, Seen, judged, provider


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


def run(fake: FakeProvider, *more: str, out: str = "r") -> int:
    words = ["--model", "m", "--base-url", fake.base_url, "--tasks", "sample", "--sample", "6", "--seed", "2"]
    return run_app(["run", *words, "--quiet", "--out", out, *more])


def first_example(seen: Seen) -> str:
    return seen.messages[0]["content"].partition("Examples:\n")[2][:40]


@pytest.mark.slow
def test_each_question_is_asked_in_each_order_and_the_rows_say_which(capsys: pytest.CaptureFixture[str]) -> None:
    order: dict[str, int] = {}

    def by_order(seen: Seen) -> Reply:
        return judged("exposed" if order.setdefault(first_example(seen), len(order)) % 2 else "not-exposed")

    with provider(by_order) as fake:
        assert run(fake, "--variants", "3", "--samples", "2") == 0
        system = {seen.messages[0]["content"] for seen in fake.seen}
        assert "between orders" in capsys.readouterr().out
        requests = len(fake.seen)
        assert run(fake, "--variants", "3", "--samples", "2") == 0
        assert len(fake.seen) == requests
        # The first order is the rubric's own: a run without variants finds its answers in the store.
        assert run(fake, out="plain") == 0
        assert len(fake.seen) == requests
    assert len(system) == 2 * 3  # settings x orders
    made = open_run("r")
    labels = made.labels
    assert len(labels) == 6 * 2 * 3 * 2
    assert sorted(map(tuple, labels[["variant", "sample"]].drop_duplicates().to_numpy())) == [
        (0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)
    ]  # fmt: skip
    assert labels["request_key"].is_unique
    parameters = made.manifest.parameters
    assert (parameters["variants"], parameters["samples"], parameters["variant_seed"]) == (3, 2, 2)
    rubric = load_rubric("exposure")
    assert [tuple(o["examples"]) for o in parameters["orders"]] == [o.examples for o in orders(rubric, 3, seed=2)]
    plain = open_run("plain").labels
    assert set(plain["request_key"]) <= set(labels[labels["sample"] == 0]["request_key"])
    assert asked(made)[0] == len(match(made, load_gold("sample"))) == 6


def test_an_order_changes_the_request_and_so_its_key_and_nothing_else() -> None:
    rubric, task = load_rubric("exposure"), load_tasks("sample")[0]
    known = orders(rubric, 4, seed=0)
    planner = Planner(rubric, load_prompt("task"), Endpoint(host="h", model="m"), orders=known, samples=2)
    plain = Planner(rubric, load_prompt("task"), Endpoint(host="h", model="m"))
    requests = [planner.request((task,), "strict", sample) for sample in range(8)]
    assert requests[0].key == plain.request((task,), "strict", 0).key
    assert requests[1].key == plain.request((task,), "strict", 1).key
    assert [request.sample for request in requests] == [0, 1] * 4
    assert len({request.key for request in requests}) == 8
    for order, request in zip(known, requests[::2], strict=True):
        of_order = Planner(reordered(rubric, order), load_prompt("task"), Endpoint(host="h", model="m"))
        assert of_order.request((task,), "strict").key == request.key
        words = [sorted(re.findall(r"[\w-]+", r.body["messages"][0]["content"])) for r in (request, requests[0])]
        assert words[0] == words[1]


def test_more_orders_begin_with_the_same_ones_and_none_comes_twice() -> None:
    rubric = load_rubric("exposure")
    assert orders(rubric, 20, seed=3)[:5] == orders(rubric, 5, seed=3)
    assert len(set(orders(rubric, 20, seed=3))) == 20
    assert orders(rubric, 20, seed=3) != orders(rubric, 20, seed=4)
    ratings = load_rubric("epoch")
    assert {order.labels for order in orders(ratings, 5, seed=0)} == {tuple(ratings.labels)}
    with pytest.raises(UsageError, match="has 2 orders; give at most --variants 2"):
        orders(rubric, 3, seed=0, examples=False)


def test_one_token_has_no_variants(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        assert run(fake, "--variants", "2", "--decide", "logprob") == 2
        assert fake.seen == []
    assert "--variants needs --decide json" in capsys.readouterr().err


def test_a_run_from_before_there_were_orders_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    with provider(lambda seen: judged()) as fake:
        assert run(fake) == 0
    path = Path("r/labels.parquet")
    pd.read_parquet(path).drop(columns="variant").to_parquet(path)
    assert list(open_run("r").labels["variant"].unique()) == [0]
    capsys.readouterr()


def test_a_trial_reports_what_the_order_does(capsys: pytest.CaptureFixture[str]) -> None:
    order: dict[str, int] = {}

    def by_order(seen: Seen) -> Reply:
        return judged("exposed" if order.setdefault(first_example(seen), len(order)) else "not-exposed")

    with provider(by_order) as fake:
        words = ["rubric", "try", "exposure", "--model", "m", "--base-url", fake.base_url, "--tasks", "sample"]
        assert run_app([*words, "--variants", "2", "--quiet", "--json", "--out", "t"]) == 0
    document = json.loads(capsys.readouterr().out)
    shares = document["rubrics"][0]["variance"]["strict"]
    assert (shares["task"], shares["order"], shares["repeat"]) == (0, 1, None)
    # Ordinary scatter would look the same.
    said = Variance.model_validate(shares).in_words()
    assert "100.0% between orders and repeats together (--samples 2 tells them apart)" in said
    assert "between repeats" not in said
