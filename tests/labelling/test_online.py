"""The online engine against a real server that misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any, cast

import pytest
from pydantic import SecretStr

from job_builders import KEY, FakeTime, no_sleep
from relabel.errors import ProviderError
from relabel.labelling.engine import UNREACHED_S, OnlineEngine
from relabel.labelling.limits import Limiter
from relabel.labelling.provider_errors import ATTEMPTS, NoAnswerError
from relabel.labelling.providers import find_price
from relabel.labelling.request import Endpoint, Planner, Request, load_prompt
from relabel.labelling.transport import Connection, Http, HttpReply, Timeouts
from relabel.labelling.wire import Api
from relabel.labels import Answer
from relabel.rubric import load_rubric
from relabel.task import load_tasks
from server import FakeProvider, Reply, Seen, chat, judged, provider, refused
from simulated import Clock, simulate


async def ask(
    fake: FakeProvider, pauses: list[float] | None = None, *, time: FakeTime | None = None, **options: Any
) -> Answer:
    time = time or FakeTime()

    async def sleep(seconds: float) -> None:
        if pauses is not None:
            pauses.append(seconds)
        await time.sleep(seconds)

    limiter = Limiter(16, clock=time, sleep=time.sleep)
    connection = Connection(fake.base_url, SecretStr(KEY), **options)
    engine = OnlineEngine(connection, limiter=limiter, clock=time, sleep=sleep, jitter=lambda: 1.0)
    request = Request(host="h", body={"model": "test-model", "messages": [{"role": "user", "content": "Hi"}]})
    try:
        return await engine.ask(request)
    finally:
        await engine.close()


def in_turn(*replies: Reply) -> Callable[[Seen], Reply]:
    turn = count()
    return lambda seen: replies[min(next(turn), len(replies) - 1)]


async def test_an_answer_has_what_the_server_said() -> None:
    with provider(lambda seen: judged()) as fake:
        answer = await ask(fake)
    assert (answer.model_returned, answer.finish_reason, answer.attempts) == ("test-model-2026", "stop", 1)
    assert (answer.usage.prompt, answer.usage.cached, answer.usage.completion) == (100, 64, 20)
    assert answer.raw["id"].startswith("chatcmpl-")


async def test_the_body_goes_over_the_wire_as_it_was_hashed() -> None:
    with provider(lambda seen: judged()) as fake:
        await ask(fake)
    assert fake.seen[0].body == {"model": "test-model", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
async def test_a_passing_fault_is_tried_again(status: int) -> None:
    with provider(in_turn(refused(status), refused(status), judged())) as fake:
        answer = await ask(fake)
    assert (answer.attempts, len(fake.seen)) == (3, 3)


async def test_a_dropped_connection_is_tried_again() -> None:
    with provider(in_turn(Reply(fault="drop"), judged())) as fake:
        assert (await ask(fake)).attempts == 2


@pytest.mark.parametrize("length", [1, 50, -1])
async def test_a_reply_that_broke_off_unnoticed_is_asked_for_again(length: int) -> None:
    cut = Reply(body=json.dumps(chat("yes"))[:length])  # as in a body without a length, or in one that is compressed
    with provider(in_turn(cut, judged())) as fake:
        assert (await ask(fake)).attempts == 2
    with provider(lambda seen: cut) as fake, pytest.raises(NoAnswerError, match="its reply broke off"):
        await ask(fake)
    assert len(fake.seen) == ATTEMPTS


async def test_attempts_are_bounded_and_one_owner_has_them() -> None:
    with (
        provider(lambda seen: refused(503, "busy")) as fake,
        pytest.raises(NoAnswerError, match="HTTP 503: busy") as caught,
    ):
        await ask(fake)
    assert (caught.value.kind, caught.value.attempts, len(fake.seen)) == ("provider", ATTEMPTS, ATTEMPTS)


class Silent:
    """Takes the place of HTTP: a provider that answers so many requests a minute, and refuses others, by default without naming a time."""

    def __init__(self, clock: Clock, a_minute: int, named_s: int = 0) -> None:
        self._clock, self._a_minute = clock, a_minute
        self._headers = {"retry-after": str(named_s)} if named_s else {}
        self.sent = Counter[int]()

    async def send(self, api: Api, content: bytes) -> HttpReply:
        await asyncio.sleep(0.05)
        minute = int(self._clock() // 60)
        self.sent[minute] += 1
        if self.sent[minute] > self._a_minute:
            return HttpReply(429, self._headers, b'{"message": "Requests rate limit exceeded"}')
        return HttpReply(200, {}, json.dumps(chat("x")).encode())

    def leave_connections(self) -> None: ...

    async def close(self) -> None: ...


def ask_silent(
    a_minute: int, concurrency: int | None, questions: int = 30, named_s: int = 0
) -> tuple[list[Answer | BaseException], Silent, float]:
    """Ask a silent provider some questions at once: what comes of them, the provider, and the seconds that it takes."""

    async def run(clock: Clock) -> tuple[list[Answer | BaseException], Silent, float]:
        limiter = Limiter(concurrency, clock=clock)
        engine = OnlineEngine(Connection("http://localhost:1/v1"), limiter=limiter, clock=clock, jitter=lambda: 0.5)
        silent = Silent(clock, a_minute, named_s)
        engine._transport = cast(Http, silent)  # pyright: ignore[reportPrivateUsage]  HTTP takes real time
        bodies = [{"model": "m", "messages": [{"role": "user", "content": str(n)}]} for n in range(questions)]
        asked = [engine.ask(Request(host="h", body=body)) for body in bodies]
        return await asyncio.gather(*asked, return_exceptions=True), silent, clock()

    return simulate(run)


@pytest.mark.parametrize(("concurrency", "questions"), [(16, 30), (None, 30), (None, 300)])
def test_a_limit_a_minute_that_names_no_time_loses_no_answer(concurrency: int | None, questions: int) -> None:
    outcomes, silent, seconds = ask_silent(10, concurrency, questions)
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    assert seconds < 60 * questions / 10 + 20
    assert max(silent.sent.values()) < 10 + 8 * 16


def test_a_provider_that_only_refuses_is_left_within_minutes() -> None:
    outcomes, silent, seconds = ask_silent(0, None)
    assert all(isinstance(outcome, NoAnswerError) for outcome in outcomes)
    assert 180 < seconds < 300
    assert silent.sent.total() < 300


@pytest.mark.parametrize(("named_s", "least", "most"), [(5, 600, 660), (60, 600, 660), (300, 1500, 1560)])
def test_a_provider_that_only_refuses_is_left_although_it_names_a_time(named_s: int, least: float, most: float) -> None:
    outcomes, silent, seconds = ask_silent(0, None, named_s=named_s)
    assert all(isinstance(outcome, NoAnswerError) for outcome in outcomes)
    assert least < seconds < most
    assert silent.sent.total() < 400
    outcomes, _, seconds = ask_silent(10, None, questions=200, named_s=named_s)
    assert all(isinstance(outcome, Answer) for outcome in outcomes)


async def test_pauses_grow_and_retry_after_is_obeyed() -> None:
    pauses: list[float] = []
    time = FakeTime()
    with provider(
        in_turn(refused(503), refused(503), refused(429, "slow", None, **{"retry-after": "17"}), judged())
    ) as fake:
        await ask(fake, pauses, time=time)
    assert pauses == [1.0, 2.0]  # the 17 seconds are the limiter's wait, for everybody
    assert time.now - 1000 == pytest.approx(1 + 2 + 17)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (refused(401, "Incorrect API key provided: " + KEY), "does not accept the key"),
        (refused(403, "no access"), "denies access"),
        (refused(404, "no such model", "model_not_found"), "has no model 'test-model'"),
        (refused(400, "no such model", "model_not_found"), "has no model 'test-model'"),
        (refused(429, "pay first", "insufficient_quota"), "quota is used up"),
    ],
)
async def test_a_refusal_for_good_is_not_tried_again_and_never_shows_the_key(reply: Reply, words: str) -> None:
    with provider(lambda seen: reply) as fake, pytest.raises(ProviderError, match=words) as caught:
        await ask(fake)
    assert len(fake.seen) == 1
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_bad_request_fails_alone(status: int) -> None:
    with (
        provider(lambda seen: refused(status, "prompt too long")) as fake,
        pytest.raises(NoAnswerError, match=f"HTTP {status}: prompt too long"),
    ):
        await ask(fake)
    assert len(fake.seen) == 1


async def test_a_server_that_never_answers_is_left() -> None:
    with provider(lambda seen: Reply(fault="hang")) as fake, pytest.raises(NoAnswerError) as caught:
        await ask(fake, timeouts=Timeouts(0.05))
    assert caught.value.kind == "timeout"
    assert "no answer within 0.05 s, asked 6 times; a model that thinks for longer" in str(caught.value)


async def test_a_trickling_body_ends_at_the_deadline() -> None:
    with (
        provider(lambda seen: Reply(body=chat("x" * 500), fault="trickle")) as fake,
        pytest.raises(NoAnswerError) as caught,
    ):
        await ask(fake, timeouts=Timeouts(90, 0.2))
    assert caught.value.kind == "timeout"


async def test_no_server_at_all_is_said() -> None:
    with provider(lambda seen: judged()) as fake:
        pass
    pauses: list[float] = []
    with pytest.raises(
        ProviderError, match=r"cannot reach http://127\.0\.0\.1.* check --base-url and that the server runs"
    ):
        await ask(fake, pauses)
    assert 5 < sum(pauses) < UNREACHED_S


async def test_a_server_that_was_there_is_waited_for() -> None:
    time = FakeTime()
    with provider(lambda seen: judged()) as fake:
        engine = OnlineEngine(Connection(fake.base_url), clock=time, sleep=time.sleep, jitter=lambda: 1.0)
        request = Request(host="h", body={"model": "test-model", "messages": [{"role": "user", "content": "Hi"}]})
        await engine.ask(request)
    with pytest.raises(NoAnswerError, match="cannot reach") as caught:
        await engine.ask(request)
    assert caught.value.status == 0
    assert sum(time.slept) > 2 * UNREACHED_S
    await engine.close()


@pytest.mark.parametrize(
    "body", ["", "hello", "[]", "{}", '{"choices": []}', '{"choices": [{"message": null}]}', '{"choices": 5}']
)
async def test_a_reply_that_is_no_completion_is_a_failure(body: str) -> None:
    with provider(lambda seen: Reply(body=body)) as fake, pytest.raises(NoAnswerError, match="is not a completion"):
        await ask(fake)


async def test_comments_that_keep_a_connection_alive_are_passed_over() -> None:
    waits = ": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n"
    with provider(lambda seen: Reply(body=waits + json.dumps(chat("yes")))) as fake:
        assert (await ask(fake)).content == "yes"
    spent = Reply(body=waits + '{"error": {"message": "No credit", "code": 402}}')
    with provider(lambda seen: spent) as fake, pytest.raises(ProviderError, match="quota is used up"):
        await ask(fake)


async def test_the_key_is_taken_out_of_what_the_server_says() -> None:
    with provider(lambda seen: Reply(body=chat(f"your header was {seen.headers['authorization']}"))) as fake:
        answer = await ask(fake)
    assert KEY not in answer.model_dump_json()
    assert "[key]" in (answer.content or "")


async def test_a_lone_surrogate_does_no_harm() -> None:
    with provider(
        lambda seen: Reply(
            body='{"model": "m", "choices": [{"finish_reason": "stop", "message": {"content": "a\\ud800b"}}]}'
        )
    ) as fake:
        answer = await ask(fake)
    assert (answer.content or "").encode() == b"a?b"


async def test_a_known_price_is_charged_with_the_cache_discount() -> None:
    price = find_price("gpt-4o-mini", None)
    assert price is not None
    with provider(lambda seen: judged()) as fake:
        engine = OnlineEngine(Connection(fake.base_url, SecretStr(KEY), price), sleep=no_sleep)
        answer = await engine.ask(Request(host="h", body={"model": "gpt-4o-mini", "messages": []}))
        await engine.close()
    assert answer.cost_usd == pytest.approx((36 * 0.15 + 64 * 0.075 + 20 * 0.6) / 1e6)


def test_an_unknown_price_is_none() -> None:
    assert find_price("no-such-model-at-all", "http://localhost:1/v1") is None


async def test_the_schema_on_the_wire_asks_for_the_reason_before_the_label() -> None:
    planner = Planner(load_rubric("exposure"), load_prompt("task"), Endpoint(host="h", model="m"))
    request = planner.request(load_tasks("sample", sample=1), "strict")
    with provider(lambda seen: judged()) as fake:
        engine = OnlineEngine(Connection(fake.base_url))
        await engine.ask(request)
        await engine.close()
    sent = fake.seen[0].body["response_format"]["json_schema"]["schema"]
    assert list(sent["properties"]) == sent["required"] == ["rationale", "label"]
    assert [message["role"] for message in fake.seen[0].messages] == ["system", "user"]
