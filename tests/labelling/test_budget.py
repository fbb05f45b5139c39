"""The cap of a run's cost is never passed, whatever the answers cost."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from job_builders import KEY, make_job, no_sleep
from relabel.cli.app import run_app
from relabel.labelling.engine import OnlineEngine
from relabel.labelling.job import Job
from relabel.labelling.limits import Budget, Limiter, NoBudgetError
from relabel.labelling.providers import Price
from relabel.labelling.request import Endpoint, host_of
from relabel.labelling.runner import run_job
from relabel.labelling.session import Outcome
from relabel.labelling.store import Store
from relabel.labelling.transport import Connection
from relabel.labels import Usage
from relabel.run import open_run
from server import Reply, Seen, chat, judged, provider, refused
from simulated import Clock, simulate

PRICE = Price(input=10, cached=1, output=100, source="the test")


@settings(max_examples=60, deadline=None)
@given(
    cap=st.floats(0, 50),
    requests=st.lists(
        st.tuples(st.floats(0.001, 10), st.one_of(st.none(), st.floats(0, 1)), st.floats(0, 3)), max_size=25
    ),
    scale=st.sampled_from([1.0, 1e-6, 1e6]),
)
def test_the_cap_is_never_passed_and_nobody_gives_up_while_others_may_leave_room(
    cap: float, requests: list[tuple[float, float | None, float]], scale: float
) -> None:
    budget = Budget(cap * scale, PRICE)
    spent = 0.0
    flying = 0

    async def one(worst: float, share: float | None, takes: float) -> None:
        nonlocal spent, flying
        try:
            await budget.reserve(worst)
        except NoBudgetError:
            assert flying == 0
            assert budget.spent_usd + budget.unconfirmed_usd + worst > cap * scale
            return
        flying += 1
        await asyncio.sleep(takes)
        spent += worst if share is None else worst * share
        flying -= 1
        budget.settle(worst, None if share is None else worst * share)

    async def all_of_them(clock: Clock) -> None:
        del clock
        async with asyncio.TaskGroup() as group:
            for worst, share, takes in requests:
                group.create_task(one(worst * scale, share, takes))

    simulate(all_of_them)
    assert spent <= cap * scale * (1 + 1e-9)
    assert budget.spent_usd + budget.unconfirmed_usd == pytest.approx(spent)


async def test_a_request_waits_for_others_to_settle() -> None:
    budget = Budget(1.0, PRICE)
    await budget.reserve(0.8)
    waiting = asyncio.create_task(budget.reserve(0.8))
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.settle(0.8, 0.1)
    await waiting


async def test_what_may_have_been_charged_counts_at_its_worst() -> None:
    budget = Budget(1.0, PRICE)
    await budget.reserve(0.6)
    budget.settle(0.6, None)
    with pytest.raises(NoBudgetError, match=r"up to 0\.5000 USD, and only 0\.4000 USD of the cap of 1\.0000"):
        await budget.reserve(0.5)


async def test_what_a_provider_states_beyond_its_price_is_reserved_for_from_then_on() -> None:
    budget, body = Budget(1.0, PRICE), {"messages": [], "max_tokens": 10}
    worst = budget.worst_case(body)
    await budget.reserve(worst)
    budget.settle(worst, 3 * worst)
    assert budget.worst_case(body) == pytest.approx(3 * worst)


async def test_without_a_cap_costs_are_only_counted() -> None:
    budget = Budget(None, None)
    await budget.reserve(1e9)
    budget.settle(1e9, 5.0)
    assert budget.spent_usd == 5.0


def test_the_worst_case_is_a_token_a_byte_and_the_longest_answer() -> None:
    body = {"messages": [{"role": "user", "content": "ä" * 50}], "max_completion_tokens": 500}
    worst = Budget(1.0, PRICE).worst_case(body)
    assert worst >= PRICE.cost(Usage(prompt=100, completion=500))
    dear = Price(input=10, cached=40, output=100, source="cached tokens cost more here")
    assert Budget(1.0, dear).worst_case(body) >= dear.cost(Usage(prompt=100, cached=100, completion=500))


def capped_job(url: str, count: int, **changes: Any) -> Job:
    endpoint = Endpoint(host=host_of(url), model="test-model", params={"max_completion_tokens": 50})
    return make_job(url, count, endpoint=endpoint, price=PRICE, **changes)


async def label_capped(job: Job, store: Store, out: Path, cap: float) -> tuple[Outcome, Budget]:
    budget = Budget(cap, job.price)
    engine = OnlineEngine(
        Connection(job.base_url, SecretStr(KEY), job.price),
        limiter=Limiter(8),
        budget=budget,
        sleep=no_sleep,
        jitter=lambda: 0.0,
    )
    return await run_job(job, engine, store, out), budget


async def test_rows_and_rejected_answers_sum_to_what_the_run_cost(store: Store, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        return (
            Reply(body=chat("I would rather not say."))
            if len(seen.messages) == 2 and len(seen.prompt) % 3
            else judged()
        )

    with provider(script) as fake:
        outcome, _ = await label_capped(capped_job(fake.base_url, 10), store, tmp_path / "run", 5.0)
    m, rows = outcome.manifest, sum(label.cost_usd or 0.0 for label in outcome.labels)
    assert m.rejected == m.counts.repaired > 0
    assert rows + (m.rejected_usd or 0.0) == pytest.approx(m.cost_usd)
    assert rows < (m.cost_usd or 0.0)


async def test_a_run_stops_buying_below_its_cap_and_names_what_is_missing(store: Store, tmp_path: Path) -> None:
    turn = 0

    def script(seen: Seen) -> Reply:
        nonlocal turn
        turn += 1
        return [judged(), refused(500), Reply(fault="drop"), judged(), judged()][turn % 5]

    with provider(script) as fake:
        outcome, budget = await label_capped(capped_job(fake.base_url, 60), store, tmp_path / "run", 0.5)
    costs = [label.cost_usd or 0.0 for label in outcome.labels]
    assert sum(costs) == pytest.approx(outcome.manifest.cost_usd)
    assert 0 < sum(costs) <= budget.spent_usd + budget.unconfirmed_usd <= 0.5
    assert len(outcome.labels) + len(outcome.failures) == 120
    assert {failure.kind for failure in outcome.failures} == {"budget"}


async def test_an_answer_without_usage_has_no_known_cost_and_counts_at_its_worst(store: Store, tmp_path: Path) -> None:
    body = chat(json.dumps({"rationale": "x", "label": "exposed"}))
    del body["usage"]
    with provider(lambda seen: Reply(body=body)) as fake:
        outcome, budget = await label_capped(capped_job(fake.base_url, 30), store, tmp_path / "run", 0.5)
    assert [label.cost_usd for label in outcome.labels if label.cost_usd is not None] == []
    assert outcome.manifest.cost_usd is None
    assert 0 < budget.unconfirmed_usd <= 0.5
    assert "budget" in {failure.kind for failure in outcome.failures}


async def test_stored_answers_cost_nothing_now_and_keep_what_they_cost(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged()) as fake:
        job = capped_job(fake.base_url, 5)
        first, _ = await label_capped(job, store, tmp_path / "a", 10.0)
        second, budget = await label_capped(job, store, tmp_path / "b", 0.0)
    assert second.complete
    assert budget.spent_usd == second.manifest.cost_usd == 0.0
    assert sum(label.cost_usd or 0 for label in second.labels) == pytest.approx(first.manifest.cost_usd)
    assert [label.cost_usd for label in second.labels] == [
        pytest.approx(PRICE.cost(Usage(prompt=100, cached=64, completion=20)))
    ] * 10


def command(url: str, *more: str) -> list[str]:
    words = ["run", "--model", "m", "--base-url", url, "--tasks", "sample", "--sample", "20", "--quiet"]
    return [*words, "--response-format", "json_schema", "--concurrency", "4", *more]


def test_a_cap_that_is_reached_is_exit_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with provider(lambda seen: judged()) as fake:
        words = command(fake.base_url, "--max-tokens", "50", "--price", "10/100", "--max-cost", "0.08", "--out", "r")
        assert run_app(words) == 5
        bought = len(fake.answered)
    assert 0 < bought < 40
    captured = capsys.readouterr()
    assert captured.out.startswith(f"MISSING  {40 - bought} of 40 labels ({40 - bought} budget)")
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["cost_usd"] == pytest.approx(bought * (100 * 10 + 20 * 100) / 1e6)
    assert manifest["cost_usd"] <= 0.08


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--max-cost", "1", "--max-tokens", "50"], "--max-cost needs a price"),
        (["--max-cost", "1", "--price", "1/2"], "--max-cost needs --max-tokens"),
        (["--price", "cheap"], "--price 'cheap' is not IN/OUT"),
        (["--price", "1"], "is not IN/OUT"),
        (["--price", "1/2/3/4"], "is not IN/OUT"),
        (["--price", "1/-2"], "is not IN/OUT"),
        (["--price", "nan/1"], "is not IN/OUT"),
        (["--price", "1/inf"], "is not IN/OUT"),
    ],
)
def test_a_cap_that_cannot_be_kept_and_a_price_that_is_none_are_exit_2(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with provider(lambda seen: judged()) as fake:
        assert run_app(command(fake.base_url, *words)) == 2
        assert fake.seen == []
    assert sentence in capsys.readouterr().err


async def test_what_may_have_been_charged_without_an_answer_is_in_the_manifest(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: Reply(504) if "number 1" in seen.prompt else judged()) as fake:
        job = make_job(fake.base_url, 2, price=PRICE)
        for endpoint, out, known in (
            (job.endpoint, "unbounded", False),
            (job.endpoint.model_copy(update={"params": {"max_tokens": 50}}), "bounded", True),
        ):
            budget = Budget(None, PRICE)
            engine = OnlineEngine(
                Connection(fake.base_url, price=PRICE), budget=budget, sleep=no_sleep, jitter=lambda: 0.0
            )
            asked = replace(job, endpoint=endpoint)
            outcome = await run_job(asked, engine, store, tmp_path / out)
            await engine.close()
            unconfirmed = outcome.manifest.perhaps_charged
            assert unconfirmed.requests == sum(f.attempts for f in outcome.failures) == 12
            assert outcome.manifest.sessions[-1].perhaps_charged == unconfirmed
            body = next(p.request.body for p in asked.plan() if "number 1" in str(p.request.body))
            worst = Budget(1.0, PRICE).worst_case(body)
            assert unconfirmed.usd == (pytest.approx(12 * worst, rel=0.02) if known else None)


async def test_the_same_question_twice_is_paid_for_on_one_row(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: judged()) as fake:
        task = make_job(fake.base_url, 1).tasks[0]
        twins = [replace(task, task_id=str(n)) for n in range(3)]
        job = make_job(fake.base_url, tasks=twins, price=PRICE)
        engine = OnlineEngine(Connection(fake.base_url, price=PRICE))
        first = await run_job(job, engine, store, tmp_path / "run")
        again = await run_job(job, engine, store, tmp_path / "again")
        await engine.close()
    assert len(fake.seen) == 2
    assert (first.manifest.counts.fresh, first.manifest.counts.from_store) == (6, 0)
    assert first.manifest.cost_usd is not None
    assert first.manifest.cost_usd > 0
    for outcome in (first, again):
        paid = [x for x in outcome.labels if x.cost_usd]
        assert sum(x.cost_usd or 0.0 for x in outcome.labels) == pytest.approx(first.manifest.cost_usd)
        assert len(paid) == 2
        assert sum(x.prompt_tokens for x in outcome.labels) == first.manifest.tokens.prompt
    assert {x.from_store for x in again.labels} == {True}


def test_the_cap_holds_over_all_starts_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with provider(lambda seen: judged()) as fake:
        words = command(fake.base_url, "--max-tokens", "50", "--price", "10/100", "--max-cost", "0.08", "--out", "r")
        for _ in range(3):
            assert run_app(words) == 5
        assert len(fake.answered) * (100 * 10 + 20 * 100) / 1e6 <= 0.08
        bought = len(fake.answered)
        assert "in earlier starts of this run" in (tmp_path / "r" / "failures.jsonl").read_text()
        words[words.index("0.08")] = "0.12"
        assert run_app(words) == 5
        assert bought < len(fake.answered) <= 40
    capsys.readouterr()


def test_odd_usage_is_counted_and_said_and_its_cost_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = iter(
        [{"prompt_tokens": -5, "completion_tokens": 20}, {"prompt_tokens": float("nan"), "completion_tokens": 20}]
    )

    def script(seen: Seen) -> Reply:
        usage = next(odd, {"prompt_tokens": 100, "completion_tokens": 20})
        return Reply(body=chat(json.dumps({"rationale": "r", "label": "exposed"}), usage=usage))

    with provider(script) as fake:
        assert run_app(command(fake.base_url, "--price", "10/100", "--out", "r")) == 0
    run = open_run("r")
    assert run.manifest.cost_usd is None
    assert run.labels["cost_usd"].isna().sum() == 2
    assert run.labels["prompt_tokens"].sum() == run.manifest.tokens.prompt == 100 * (len(run.labels) - 2)
    assert "2 answers came without usable token counts: their cost is unknown" in str(run.manifest.note)
    capsys.readouterr()
