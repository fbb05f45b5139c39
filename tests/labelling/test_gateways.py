"""What gateways and routers add: headers of the user's, stated costs, upstreams, tiers, reordered keys, hanging requests."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from job_builders import KEY, make_job, no_sleep
from relabel.cli.app import run_app
from relabel.labelling.engine import OnlineEngine
from relabel.labelling.limits import AnswerWait, Budget, Limiter
from relabel.labelling.providers import Price, stated_cost
from relabel.labelling.runner import run_job
from relabel.labelling.store import Store
from relabel.labelling.transport import Connection, Timeouts, parse_headers, public_headers
from relabel.labels import Usage
from relabel.run import open_run
from server import FakeProvider, Reply, Seen, chat, judged, provider

PRICE = Price(input=1, cached=1, output=1, source="test")
SECRET = "zq7Hk29fLmW3xT8vB1nR"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("RELABEL_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("RELABEL_HOME", str(tmp_path / "home"))


def run(fake: FakeProvider, *more: str) -> int:
    words = ["--tasks", "sample", "--sample", "4", "--response-format", "text", "--out", "r", "--quiet"]
    return run_app(["run", "--model", "m", "--base-url", fake.base_url, *words, *more])


def written(folder: Path) -> str:
    return "".join(p.read_bytes().decode("utf-8", "replace") for p in folder.rglob("*") if p.is_file())


def test_headers_reach_the_wire_and_credentials_among_them_no_file_and_no_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(seen: Seen) -> Reply:
        if len(fake.seen) == 1:  # a gateway that echoes what it was sent
            return Reply(400, {"error": {"message": f"team {SECRET} is not known, {seen.headers['x-gateway-auth']}"}})
        return judged(rationale=f"Because {SECRET} says so.")

    with provider(script) as fake:
        code = run(
            fake,
            "--header",
            f"X-Gateway-Auth=Bearer {SECRET}",
            "--header",
            f"X-Team={SECRET}",
            "--header",
            "X-Model-Route=eu",
        )
    assert code == 5
    assert {seen.headers["x-gateway-auth"] for seen in fake.seen} == {f"Bearer {SECRET}"}
    assert {seen.headers["x-model-route"] for seen in fake.seen} == {"eu"}
    manifest = open_run("r").manifest
    assert manifest.parameters["headers"] == {"x-model-route": "eu"}
    shown = capsys.readouterr()
    assert SECRET not in written(tmp_path) + shown.out + shown.err


def test_a_header_that_may_change_answers_is_part_of_the_key_and_a_credential_is_not() -> None:
    with provider(lambda seen: judged()) as fake:
        assert run(fake) == 0
        assert run(fake, "--out", "auth", "--header", f"X-Api-Key={SECRET}") == 0
        assert len(fake.seen) == 8
        assert run(fake, "--out", "eu", "--header", "X-Model-Route=eu") == 0
        assert len(fake.seen) == 16
        assert run(fake, "--out", "eu2", "--header", "x-model-route=eu") == 0
        assert len(fake.seen) == 16
        assert run(fake, "--header", "X-Model-Route=eu") == 3  # another run than the folder holds


@pytest.mark.parametrize(
    "given", ["X-Team", "X Team=1", "=1", "X-Team=a\nb", "Host=example.org", "Content-Length=1", "X=ü"]
)
def test_what_is_no_header_is_refused_before_anything_is_sent(given: str) -> None:
    with provider(lambda seen: judged()) as fake:
        assert run(fake, "--header", given) == 2
        assert not fake.seen


def test_dated_versions_are_told_and_keys_are_not() -> None:
    given = parse_headers(
        [
            "anthropic-beta=output-128k-2025-02-19",
            "X-Org=acme",
            "X-Id=sk-abcdef123456",
            f"X-Trace={SECRET}",
            "Cookie=a=b",
        ]
    )
    assert public_headers(given) == {"anthropic-beta": "output-128k-2025-02-19", "x-org": "acme"}


@pytest.mark.parametrize(
    ("headers", "cost", "table"),
    [
        ({"x-litellm-response-cost": "0.0123"}, 4 * 2 * 0.0123, 8 * 0.00012),
        ({"x-litellm-response-cost": "None"}, 8 * 0.00012, None),
        ({"x-litellm-response-cost": "0.0"}, 8 * 0.00012, None),
        ({}, 8 * 0.00012, None),
    ],
)
def test_a_cost_in_a_gateways_header_counts_and_the_tables_stands_beside_it(
    headers: dict[str, str], cost: float, table: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(seen: Seen) -> Reply:
        reply = judged()
        return Reply(
            body=reply.body, headers={**headers, "x-litellm-model-api-base": "https://user:pw@eu.example.org/v1"}
        )

    with provider(script) as fake:
        assert run(fake, "--price", "1/1") == 0
    opened = open_run("r")
    assert opened.manifest.cost_usd == pytest.approx(cost) == pytest.approx(opened.labels["cost_usd"].sum())
    assert opened.manifest.table_cost_usd == (None if table is None else pytest.approx(table))
    assert opened.manifest.upstreams == ("https://eu.example.org/v1",)
    assert ("by the price table" in " ".join(capsys.readouterr().out.split())) == (table is not None)


@pytest.mark.parametrize("header", [False, True])
def test_the_tier_that_answered_is_kept(header: bool) -> None:
    def script(seen: Seen) -> Reply:
        body: dict[str, Any] = chat(json.dumps({"rationale": "Because.", "label": "exposed"}))
        tier = "flex" if len(fake.seen) % 2 else "default"
        # Gemini states it in a header: https://ai.google.dev/gemini-api/docs/priority-inference
        return (
            Reply(body=body, headers={"x-gemini-service-tier": tier})
            if header
            else Reply(body={**body, "service_tier": tier})
        )

    with provider(script) as fake:
        assert run(fake, "--concurrency", "1") == 0
    opened = open_run("r")
    assert opened.manifest.service_tiers == {"flex": 4, "default": 4}
    assert opened.labels["service_tier"].value_counts().to_dict() == {"flex": 4, "default": 4}


def test_labels_that_stand_before_their_reason_are_counted_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    def script(seen: Seen) -> Reply:
        said = '{"label": "exposed", "rationale": "It has a \\"label\\"."}'
        return judged(rationale='The "label" comes last.') if len(fake.seen) % 2 else Reply(body=chat(said))

    with provider(script) as fake:
        assert run(fake, "--concurrency", "1") == 0
    assert open_run("r").manifest.counts.label_first == 4
    assert "4 answers gave the label before the rationale" in " ".join(capsys.readouterr().out.split())


async def test_the_wait_for_one_answer_follows_the_latencies_seen() -> None:
    wait = AnswerWait(90.0)
    for _ in range(AnswerWait.FEWEST - 1):
        wait.seen(0.2)
    assert wait.wait_s == 90.0  # too few to tell
    wait.seen(0.2)
    assert wait.wait_s == AnswerWait.FLOOR_S
    for _ in range(500):
        wait.seen(5.0)
    assert wait.wait_s == AnswerWait.MULTIPLE * 5.0
    for _ in range(500):
        wait.seen(40.0)
    assert wait.wait_s == 90.0  # never above the timeout
    local = AnswerWait(900.0, adaptive=False)
    for _ in range(500):
        local.seen(0.1)
    assert local.wait_s == 900.0


async def test_a_request_that_hangs_is_asked_anew_long_before_the_timeout(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AnswerWait, "FLOOR_S", 0.5)
    monkeypatch.setattr(AnswerWait, "MULTIPLE", 1.0)
    hung: list[Seen] = []

    def script(seen: Seen) -> Reply:
        if len(fake.seen) in {3, 70} and len(hung) < 2:  # before enough is known, and after
            hung.append(seen)
            return Reply(fault="hang")
        return judged()

    with provider(script) as fake:
        engine = OnlineEngine(Connection(fake.base_url), limiter=Limiter(4), sleep=no_sleep)
        job = make_job(fake.base_url, 120)
        async with asyncio.timeout(60):  # the timeout of one answer is 90 s
            outcome = await run_job(job, engine, store, tmp_path / "run")
        await engine.close()
    assert (outcome.complete, len(hung)) == (True, 2)
    wait = outcome.manifest.answer_wait
    assert wait is not None
    assert (wait["timeout_s"], wait["cut"]) == (90.0, 2)
    assert wait["wait_s"] < 90.0


@pytest.mark.parametrize("cap", [None, 1.0])
async def test_a_late_answer_is_asked_for_once_more_and_what_that_may_cost_is_recorded(
    store: Store, tmp_path: Path, cap: float | None
) -> None:
    hung: list[str] = []

    def script(seen: Seen) -> Reply:
        # Never both copies of a request: then none would be answered.
        if len(hung) < 2 and len(fake.seen) >= 70 + 20 * len(hung) and seen.prompt not in hung:
            hung.append(seen.prompt)
            return Reply(fault="hang")
        return judged()

    with provider(script) as fake:
        job = make_job(fake.base_url, 120, price=PRICE)
        endpoint = job.endpoint.model_copy(update={"params": {"max_completion_tokens": 100}})
        job = replace(job, endpoint=endpoint)
        budget = Budget(cap, PRICE)
        connection = Connection(fake.base_url, price=PRICE)
        engine = OnlineEngine(connection, limiter=Limiter(4), budget=budget, sleep=no_sleep, hedge=True)
        async with asyncio.timeout(60):  # the shortest wait for one answer is 10 s, and both requests hang for ever
            outcome = await run_job(job, engine, store, tmp_path / "run")
        await engine.close()
    wait, charged = outcome.manifest.answer_wait, outcome.manifest.perhaps_charged
    assert outcome.complete
    assert wait is not None
    assert wait["cut"] == 0
    assert wait["hedged"] == charged.requests
    assert charged.requests >= len(fake.seen) - 240 >= len(hung) == 2, "one that is stopped before it leaves counts too"
    assert {x.attempts for x in outcome.labels} == {1, 2}
    assert charged.usd is not None
    assert charged.usd > 0
    assert budget.spent_usd == pytest.approx(outcome.manifest.cost_usd)


async def test_a_cap_leaves_no_room_for_a_second_request(store: Store, tmp_path: Path) -> None:
    with provider(lambda seen: Reply(fault="hang") if len(fake.seen) == 4 else judged()) as fake:
        job = make_job(fake.base_url, 2, price=PRICE)
        job = replace(job, endpoint=job.endpoint.model_copy(update={"params": {"max_completion_tokens": 100}}))
        worst = Budget(1, PRICE).worst_case(next(iter(job.plan())).request.body)
        budget = Budget(3 * PRICE.cost(Usage(prompt=100, completion=20)) + 1.5 * worst, PRICE)
        connection = Connection(fake.base_url, price=PRICE, timeouts=Timeouts(3, 3))
        engine = OnlineEngine(connection, limiter=Limiter(1), budget=budget, sleep=no_sleep, hedge=True)
        engine.wait.late_s = 1.5
        outcome = await run_job(job, engine, store, tmp_path / "run")
        await engine.close()
    assert len(fake.seen) == 4
    assert outcome.progress.failed == {"timeout": 1}


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"cost": 0.5}, 0.5),
        ({"cost": 0.0}, 0.0),
        ({"cost": 0.1, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.4}}, 0.5),
        ({"estimated_cost": 0.25}, 0.25),
        ({"cost": {"input_tokens_cost": 0.1, "total_cost": 0.3}}, 0.3),
        ({"cost_in_usd_ticks": 5_000_000_000}, 0.5),
        ({"cost": "0.0125"}, 0.0125),
        ({"cost": {"total_cost": "$0.3"}}, 0.3),
        ({"cost": True}, None),
        ({"cost": -1}, None),
        ({"cost": "much"}, None),
        ({"cost": 0.1, "is_byok": True, "cost_details": {"upstream_inference_cost": "0.4"}}, 0.5),
        *(
            ({"cost": 0.1, "is_byok": True, "cost_details": {"upstream_inference_cost": odd}}, None)
            for odd in (None, -1, True, float("inf"), float("nan"), "free", [0.4])
        ),
        ({"cost": 0.1, "is_byok": True, "cost_details": None}, None),
        ({"cost_in_usd_ticks": 5_000_000}, 0.0005),
        ({"cost_in_usd_ticks": 10**400}, None),
        ({"cost_in_usd_ticks": True}, None),
        (None, None),
    ],
)
def test_costs_are_read_in_the_words_of_each_provider(usage: Any, cost: float | None) -> None:
    assert stated_cost({"usage": usage}) == (None if cost is None else pytest.approx(cost))
