"""Engines: what turns requests into answers, from the store alone or over HTTP from any OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic import SecretStr

from relabel.errors import ProviderError
from relabel.label import Answer
from relabel.labelling.limiter import Limiter, Ticket
from relabel.labelling.pricing import Budget, NoBudgetError, Price
from relabel.labelling.providers import OPENAI_URL, UNKNOWN, Provider
from relabel.labelling.refusals import (
    ATTEMPTS,
    NoAnswerError,
    RefusedError,
    RetryPolicy,
    StaleReplyError,
    accepted,
    is_transient,
    refusal,
    speaks_of_the_cache,
)
from relabel.labelling.reply import answer_to, parsed
from relabel.labelling.request import Request
from relabel.labelling.transport import (
    BrokenError,
    HttpReply,
    HttpTransport,
    TimedOutError,
    Timeouts,
    Transport,
    UnreachableError,
    UnreadableError,
)
from relabel.labelling.wire import PATHS, Api, NotAReplyError, messages_of, output_bound, with_messages
from relabel.redaction import clean, public_url


@dataclass(frozen=True, slots=True)
class Repair:
    """A second try: the answer that was no label, and why."""

    answer: str
    reason: str


OnInFlight = Callable[[bool], None]
"""Told True when a request goes on the wire, and False when it is off it again, whatever came of it.

What it raises at True keeps the request from being sent."""


class Engine(Protocol):
    """Turns requests into answers."""

    name: str

    async def ask(
        self, request: Request, repair: Repair | None = None, *, on_in_flight: OnInFlight | None = None
    ) -> Answer:
        """Get the answer to one request.

        Args:
            request: What to ask.
            repair: An earlier answer to it that was no label: the model is shown it with the error.
            on_in_flight: Told when the request is on the wire: before and between, it waits for its turn and nothing is lost
                by leaving it.

        Raises:
            NoAnswerError: This request has no answer.
            ProviderError: No request will have one: key, quota or model are refused.
        """
        ...

    def history(self) -> tuple[tuple[float, int, str], ...]:
        """How the number of requests in flight was found: seconds from the start, the limit, and why it changed."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class ReplayEngine:
    """Refuses every request that the store does not answer, so that a run needs neither network nor key."""

    name = "replay"

    async def ask(
        self, request: Request, repair: Repair | None = None, *, on_in_flight: OnInFlight | None = None
    ) -> Answer:
        """Refuse: the job asks an engine only for what the store lacks."""
        del repair, on_in_flight
        raise NoAnswerError(
            "provider", f"the store has no answer with the key {request.key}, and replay asks nobody", 0
        )

    def history(self) -> tuple[tuple[float, int, str], ...]:
        """None: nothing is asked."""
        return ()

    async def close(self) -> None:
        """Nothing is open."""


MOST_WAITS = 40
"""Times that a request waits for a limit to pass, as its provider asks, before it counts as failed."""
MOST_SPOILED = 2
"""Times that a request is sent again because the provider says that the model spoiled its answer."""
_CHARACTERS_A_TOKEN = 4
_USUAL_ANSWER = 80
"""Tokens; only the pace depends on it, never a cap of cost."""
_SPELLING = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


class OnlineEngine:
    """Asks a server over HTTP.

    Args:
        base_url: Address of the API; None for OpenAI's own.
        key: The provider's key; None for servers that need none.
        price: The model's price; None when unknown.
        limiter: How fast to ask; by default 16 requests in flight.
        budget: Cap of the cost; by default none.
        transport: Carries requests; by default HTTP from this process.
        patience: How long to wait for an answer.
        provider: Whose address it is.
        clock: Seconds on a clock that never runs back.
        sleep: Waits for some seconds.
        jitter: A random number in 0-1.
        now: The time of day.
    """

    name = "online"

    def __init__(
        self,
        base_url: str | None,
        key: SecretStr | None,
        price: Price | None,
        *,
        limiter: Limiter | None = None,
        budget: Budget | None = None,
        transport: Transport | None = None,
        timeouts: Timeouts | None = None,
        provider: Provider = UNKNOWN,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._secret = key.get_secret_value() if key else ""
        self._address = public_url(base_url) if base_url else OPENAI_URL
        self.limiter = limiter or Limiter(16)
        self.budget = budget or Budget(None, price)
        self._transport = transport or HttpTransport(base_url, self._secret, None if provider is UNKNOWN else provider)
        self._price, self._provider = price, provider
        self._timeouts = timeouts or Timeouts()
        self._replies = _Replies()
        self._clock, self._now = clock, now
        self._retry = RetryPolicy(
            is_transient, _server_wait, attempts=ATTEMPTS, clock=clock, sleep=sleep, jitter=jitter
        )

    def history(self) -> tuple[tuple[float, int, str], ...]:
        """See `Engine.history`."""
        return tuple(self.limiter.history)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def ask(
        self, request: Request, repair: Repair | None = None, *, on_in_flight: OnInFlight | None = None
    ) -> Answer:
        """Get the answer to one request; see `Engine.ask`."""
        body = request.body if repair is None else _repaired(request.body, repair)
        tokens = len(str(messages_of(body))) / _CHARACTERS_A_TOKEN + min(
            output_bound(body) or _USUAL_ANSWER, _USUAL_ANSWER
        )
        sent = 0
        ends_at: float | None = None
        spoiled = unsteered = 0

        async def once() -> Answer:
            nonlocal spoiled, unsteered
            while True:
                try:
                    return await attempt()
                except RefusedError as error:
                    if speaks_of_the_cache(error.reply) and unsteered < 2:
                        # The provider does not know the fields that steer its cache (any more): without them the request is the same.
                        unsteered += 1
                        self._provider = self._provider.model_copy(update={"cache": ()})
                        continue
                    spoiled += error.reply.meaning == "bad-answer"
                    again = (
                        is_transient(error)
                        and error.reply.meaning == "wait"
                        and error.reply.wait_s
                        and sent < MOST_WAITS
                    )
                    # What the provider asks to wait for passes by its own word: it is waited for and does not count as a failure.
                    if not again and not (error.reply.meaning == "bad-answer" and spoiled <= MOST_SPOILED):
                        raise

        async def attempt() -> Answer:
            nonlocal sent, ends_at
            waiting_since = self._clock()
            ticket, worst = await self._turn(body, tokens)
            try:
                if on_in_flight is not None:
                    on_in_flight(True)
            except BaseException:
                self.limiter.failed(ticket)
                self.budget.settle(worst, 0.0)
                raise
            sent += 1
            now = self._clock()
            ends_at = now + self._timeouts.deadline_s if ends_at is None else ends_at + now - waiting_since
            try:
                response, latency = await self._once(request, body, ticket, worst, ends_at)
            finally:
                if on_in_flight is not None:
                    on_in_flight(False)
            return self._answer(request, response, sent, latency, ticket, worst, repaired=repair is not None)

        try:
            return await self._retry.call(once, ends_at=lambda: math.inf if ends_at is None else ends_at)
        except NoBudgetError as error:
            raise NoAnswerError("budget", str(error), sent) from error
        except TimedOutError as error:
            raise NoAnswerError("timeout", self._too_late(sent), sent) from error
        except UnreachableError as error:
            if error.lasting:
                raise ProviderError(self._unreachable(error)) from error
            raise NoAnswerError("provider", self._unreachable(error), sent, status=0) from error
        except UnreadableError as error:
            message = f"{self._address} sent a reply in an encoding that was not offered ({error}); turn compression off there"
            raise NoAnswerError("provider", clean(message)[:300], sent) from error
        except StaleReplyError as error:
            raise NoAnswerError("provider", f"{self._address} sent the reply to another request", sent) from error
        except BrokenError as error:
            raise NoAnswerError(
                "provider", f"the connection to {self._address} broke ({str(error)[:300]})", sent
            ) from error
        except RefusedError as error:
            where, model = PATHS[request.api], request.body.get("model")
            raise refusal(error, sent, address=self._address, path=where, model=model) from error

    def _unreachable(self, error: UnreachableError) -> str:
        return f"cannot reach {self._address} ({error})"

    def _too_late(self, sent: int) -> str:
        return f"no answer within {self._timeouts.attempt_s:g} s, asked {sent} times; a model that thinks for longer needs a larger --timeout"

    async def _turn(self, body: Mapping[str, Any], tokens: float) -> tuple[Ticket, float]:
        worst = self.budget.worst_case(body)
        await self.budget.reserve(worst)
        try:
            return await self.limiter.acquire(tokens), worst
        except BaseException:
            self.budget.settle(worst, 0.0)
            raise

    async def _once(
        self, request: Request, body: Mapping[str, Any], ticket: Ticket, worst: float, ends_at: float
    ) -> tuple[HttpReply, float]:
        started = self._clock()
        try:
            # The client's own timeout starts anew with each byte that trickles in; this one does not.
            async with asyncio.timeout(max(0.001, min(self._timeouts.attempt_s, ends_at - started))):
                response = accepted(await self._transport.send(request.api, self._posted(request.api, body)))
        except UnreachableError as error:
            self.limiter.missed(ticket, self._unreachable(error))
            self.budget.settle(worst, 0.0)
            raise
        except (TimeoutError, TimedOutError) as error:
            self.limiter.limited(ticket, why="timeout")
            self.budget.unconfirmed(body, worst)  # it may have been charged all the same
            raise TimedOutError from error
        except RefusedError as error:
            if error.may_have_been_charged:
                self.budget.unconfirmed(body, worst)
            else:
                self.budget.settle(worst, 0.0)
            if is_transient(error) and error.reply.meaning == "wait":
                headers = error.response.headers
                self.limiter.limited(ticket, why="429", retry_after=error.reply.wait_s or 0.0, headers=headers)
            else:
                self.limiter.failed(ticket)
            raise
        except BrokenError:
            self.limiter.failed(ticket)
            self.budget.unconfirmed(body, worst)
            raise
        except BaseException:
            self.limiter.failed(ticket)
            self.budget.unconfirmed(body, worst)
            raise
        latency = self._clock() - started
        self.limiter.release(ticket, headers=response.headers)
        return response, latency

    def _posted(self, api: Api, body: Mapping[str, Any]) -> bytes:
        # In the order in which it was made: models with strict schemas write in the schema's order, and the reason must
        # come before the label.
        return _SPELLING.encode(self._provider.posted(api, body)).encode()

    def _answer(
        self,
        request: Request,
        response: HttpReply,
        attempts: int,
        latency: float,
        ticket: Ticket,
        worst: float,
        *,
        repaired: bool,
    ) -> Answer:
        text = response.content.decode("utf-8", "replace")
        try:
            document = parsed(text)
            if self._replies.is_stale(document, text, request.key, reused=response.reused):
                self._transport.leave_connections()
                self.budget.unconfirmed(request.body, worst)
                raise StaleReplyError
            answer = answer_to(
                request.key,
                request.api,
                document,
                self._price,
                attempts=attempts,
                latency_s=round(latency, 4),
                came=self._now(),
                repaired=repaired,
            )
        except NotAReplyError as error:
            self.budget.unconfirmed(request.body, worst)
            message = f"the server's reply is no completion: {clean(text)[:200]!r}"
            raise NoAnswerError("provider", message, attempts) from error
        self.budget.heed(request.body, answer.usage)
        self.budget.settle(worst, answer.cost_usd)
        self.limiter.correct(ticket, answer.usage.prompt + answer.usage.completion)
        return answer


class _Replies:
    """Replies of late: one that comes again under another key came too late, and is not the answer to that question."""

    _most = 100_000

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, int]] = {}
        self._repeat = False

    def is_stale(self, document: Any, text: str, key: str, *, reused: bool) -> bool:
        """Whether a reply was seen under another key. A server that sends it over a new connection means it."""
        name = document.get("id") if isinstance(document, dict) else None
        if self._repeat or not isinstance(name, str) or not name:
            return False
        earlier, seen = self._seen.setdefault(name, (key, hash(text)))
        if len(self._seen) > self._most:
            del self._seen[next(iter(self._seen))]
        if earlier == key:
            return False
        if not reused or seen != hash(text):  # its names tell nothing apart, or a cache before it repeats answers
            self._repeat = True
            return False
        return True


def _server_wait(error: BaseException) -> float:
    """Seconds that a reply asks to wait. A 429's wait is the limiter's, for everybody, and does not count against the deadline."""
    if isinstance(error, RefusedError) and error.reply.meaning == "passing":
        return error.reply.wait_s or 0.0
    return 0.0


def _repaired(body: Mapping[str, Any], repair: Repair) -> dict[str, Any]:
    said = f"That answer cannot be used: {repair.reason}. Answer again, with the JSON object that was asked for and nothing else."
    answer = repair.answer if repair.answer.strip() else "(no answer)"  # several providers refuse an empty turn
    turns = [*messages_of(body), {"role": "assistant", "content": answer}, {"role": "user", "content": said}]
    return with_messages(body, turns)
