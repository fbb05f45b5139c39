"""Batches of other providers than OpenAI, each against a fake that follows its public reference."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from batch_builders import batch, books_balance, by_number, no_wait
from batch_server import Azure, Call, FakeBatches, Fate, Mistral, Together, batch_provider
from job_builders import KEY, make_job
from relabel.cli.app import run_app
from relabel.labelling.job import Stop
from relabel.labelling.store import Store
from relabel.run import open_run
from relabel.settings import settings
from server import Reply, provider

KINDS = [("groq", FakeBatches), ("mistral", Mistral), ("together", Together)]


@pytest.mark.parametrize(("way", "kind"), KINDS)
@pytest.mark.parametrize(
    "fate", [Fate(looks=3), Fate("expired", answered=3), Fate(late=3), Fate(backwards=True)], ids=str
)
async def test_each_labels_every_task_and_buys_nothing_twice(
    way: str, kind: type[FakeBatches], fate: Fate, store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number, fate, Fate(), kind=kind) as fake:
        outcome = await batch(make_job(fake.base_url), store, tmp_path, way=way, max_requests=6)
        assert outcome.complete
        books_balance(fake, store)
        assert {x.label for x in outcome.labels if x.task_id == "1"} == {"exposed"}
        assert sorted(fake.deleted) == sorted(fake.files)


@pytest.mark.parametrize(("way", "kind"), KINDS)
async def test_a_creation_without_reply_is_found(
    way: str, kind: type[FakeBatches], store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number, kind=kind) as fake:
        turns = iter(range(100))
        fake.trouble = lambda call: (
            "lost" if (call.method, call.path) == ("POST", "/batches") and next(turns) == 0 else None
        )
        assert (await batch(make_job(fake.base_url), store, tmp_path, way=way)).complete
        assert len(fake.batches) == 1
        books_balance(fake, store)


@pytest.mark.parametrize(("way", "kind"), KINDS)
async def test_one_that_was_stopped_goes_on_and_can_be_cancelled(
    way: str, kind: type[FakeBatches], store: Store, tmp_path: Path
) -> None:
    with batch_provider(by_number, Fate(looks=10**9, answered=4), kind=kind) as fake:
        stop = Stop()

        async def sleep(seconds: float) -> None:
            stop()
            await no_wait(seconds)

        outcome = await batch(make_job(fake.base_url), store, tmp_path, way=way, stop=stop, sleep=sleep)
        assert outcome.interrupted
        outcome = await batch(make_job(fake.base_url), store, tmp_path, way=way, submit=False)
        assert len(outcome.labels) == 4
        books_balance(fake, store)


def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, more: str = "") -> None:
    """Take loopback for a provider that is known."""
    mine = tmp_path / "providers.toml"
    mine.write_text(f'[[provider]]\nid = "mine"\nname = "Mine"\nhosts = ["127.0.0.1"]\nbatch = "{way}"\n{more}')
    monkeypatch.setenv("RELABEL_PROVIDERS", str(mine))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("relabel.labelling.batch.state.POLL_S", 0.0)


WORDS = ["run", "--model", "m", "--engine", "batch", "--tasks", "sample", "--sample", "2", "--out", "r", "--quiet"]


@pytest.mark.parametrize(
    ("form", "endpoint", "version"),
    [("/openai/v1", "/v1/chat/completions", None), ("/openai/deployments/mine", "/chat/completions", "2024-10-21")],
)
def test_azure_by_both_forms_of_its_address(
    form: str, endpoint: str, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(tmp_path, monkeypatch, "azure", 'key_header = "api-key"\n')
    with batch_provider(by_number, Fate(looks=10**9), kind=Azure) as fake:

        def trouble(call: Call) -> None:
            if call.method == "GET" and call.path.startswith("/batches/"):
                os.kill(os.getpid(), signal.SIGINT)

        fake.trouble = trouble
        query = f"?api-version={version}" if version else ""
        address = fake.base_url.removesuffix("/v1") + form + query
        assert run_app([*WORDS, "--base-url", address]) == 130
        (made,) = fake.batches.values()
        made["_"]["fate"].looks = 0
        fake.trouble = lambda call: None
        assert run_app(["batch", "resume", "r", "--quiet"]) == 0
        assert made["endpoint"] == endpoint
        assert {call.headers.get("api-key") for call in fake.calls} == {KEY}
        assert {call.authorization for call in fake.calls} == {""}
        assert all(
            call.url.startswith("/openai/") and ("api-version=" in call.url) == bool(version) for call in fake.calls
        )
        assert all(f"api-version={version}" in call.url for call in fake.calls if version)
    assert len(open_run("r").labels) == 4


def test_a_prompt_that_azure_filters_is_that_labels_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named(tmp_path, monkeypatch, "azure", 'key_header = "api-key"\n')
    said = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
    filtered = Reply(400, {"error": {"message": said, "code": "content_filter", "param": "prompt", "type": None}})
    turns = iter(range(100))
    with batch_provider(lambda seen: filtered if next(turns) == 1 else by_number(seen), kind=Azure) as fake:
        assert run_app([*WORDS, "--base-url", fake.base_url.removesuffix("/v1") + "/openai/v1"]) == 5
        assert [failure.kind for failure in open_run("r").failures()] == ["content-filter"]


@pytest.mark.parametrize(
    ("way", "share", "more"),
    [
        ("openai", 0.5, ""),
        ("openai", 0.6, "batch_price = 0.6\n"),  # as at https://platform.kimi.ai/docs/pricing/batch
        ("together", 1.0, None),  # https://docs.together.ai/docs/inference/pricing: half for selected models only
    ],
)
def test_a_batch_costs_what_its_provider_asks_for_batches(
    way: str,
    share: float,
    more: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", KEY)
    kind = Together if way == "together" else FakeBatches
    with batch_provider(by_number, kind=kind) as fake:
        named(tmp_path, monkeypatch, way, more or "")
        words = [*WORDS, "--base-url", fake.base_url, "--price", "1/10", *(["--provider", way] if more is None else [])]
        assert run_app([*words, "--json", "--dry-run", "--max-tokens", "100"]) == 0
        low, *_ = json.loads(capsys.readouterr().out)["cost_usd"]
        assert low == pytest.approx(share * 0.005981)
        assert run_app(words) == 0
    opened = open_run("r")
    tokens = opened.manifest.tokens
    usual = (tokens.prompt + 10 * tokens.completion) / 1e6
    assert opened.manifest.cost_usd == pytest.approx(share * usual) == pytest.approx(opened.labels["cost_usd"].sum())


@pytest.mark.parametrize(
    ("way", "more", "said"),
    [
        ("none", [], "relabel does not support batches at Mine"),
        ("mistral", ["--api", "responses"], "Chat Completions only"),
    ],
)
def test_a_provider_without_batches_is_told_before_anything_is_asked(
    way: str,
    more: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named(tmp_path, monkeypatch, way)
    with batch_provider(by_number) as fake:
        assert run_app([*WORDS, "--base-url", fake.base_url, *more]) == 4
        assert said in capsys.readouterr().err
        assert fake.calls == []
    assert not (settings().home / "batches").exists()


def test_an_azure_deployment_behind_any_host_gets_its_key_in_the_header_that_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    with provider(by_number) as fake:
        address = fake.base_url.removesuffix("/v1") + "/openai/deployments/mine?api-version=2024-10-21"
        words = ["run", "--model", "m", "--tasks", "sample", "--sample", "1", "--out", "r", "--quiet"]
        assert run_app([*words, "--base-url", address]) == 0
        assert {seen.headers.get("api-key") for seen in fake.seen} == {KEY}
        assert not any({"authorization", "openai-organization"} & set(seen.headers) for seen in fake.seen)
    assert open_run("r").manifest.base_url == address
