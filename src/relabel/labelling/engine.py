"""Engines turn requests into answers, over HTTP from any OpenAI-compatible server. In a replay, the engine refuses every request.

Retries happen only here; retries in the HTTP client would multiply them. Replies are parsed here and not by the openai client,
which would lose completions that do not validate, and take most of a run's processor time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from relabel.errors import ProviderError
from relabel.labelling.limits import AnswerWait, Budget, Limiter, NoBudgetError, Ticket
from relabel.labelling.local import find_weights, is_local, serve
from relabel.labelling.provider_errors import (
    NoAnswerError,
    RefusedError,
    RetryPolicy,
    StaleReplyError,
    fatal_refusal,
    is_about_prefix_cache,
    raise_for_error,
)
from relabel.labelling.providers import Price, stated_cost, tier_of, upstream_of
from relabel.labelling.request import Request
from relabel.labelling.transport import (
    BrokenError,
    Connection,
    Http,
    HttpReply,
    TransportError,
    UnreachableError,
    require_key,
)
from relabel.labelling.wire import PATHS, Api, NotAReplyError, document_in, messages_of, output_bound, read
from relabel.labels import Answer
from relabel.redaction import clean, clean_document, may_hold_secret
from relabel.settings import settings

if TYPE_CHECKING:
    from relabel.labelling.ray import RayTransport

# Maximum number of times that a request waits for a rate limit at the provider's request, before it fails.
MOST_WAITS = 40
# Maximum number of retries if the provider reports that the model's answer is malformed.
MOST_SPOILED = 2
# Seconds for which to try a server that has never been reached: it may not exist.
UNREACHED_S = 12.0
_CHARACTERS_A_TOKEN = 4
# Tokens of a typical answer; used for pacing only, never for a cost cap.
_USUAL_ANSWER = 80
_BODY = TypeAdapter(Mapping[str, Any])


# Called with True before a request is sent (which an exception prevents), and with False when it has ended, in whatever way.
OnInFlight = Callable[[bool], None]


class Engine:
    """Turns requests into answers. This base class serves replays: it sends nothing, and refuses every request.

    Args:
        limiter: Limits of speed; by default 16 requests in flight.
        budget: Cost cap; by default none.

    Attributes:
        answered: Whether the provider has answered this run, now or at an earlier start; a 403 or 404 then concerns one request.
    """

    name = "replay"
    answered = False

    def __init__(self, limiter: Limiter | None = None, budget: Budget | None = None) -> None:
        self.limiter, self.budget = limiter or Limiter(16), budget or Budget(None, None)

    async def ask(
        self, request: Request, repair: Mapping[str, Any] | None = None, *, on_in_flight: OnInFlight | None = None
    ) -> Answer:
        """Get the answer to one request.

        Args:
            request: The request.
            repair: The document to post in a second attempt; see `wire.repaired`.
            on_in_flight: Called when the request is sent and when it ends. While it waits to be sent, it can be cancelled
                without loss.

        Raises:
            NoAnswerError: There is no answer to this request.
            ProviderError: No request will be answered, because the key, the quota or the model is refused.
        """
        del repair, on_in_flight
        raise NoAnswerError(
            "provider", f"the store has no answer with the key {request.key}, and replay sends no request", 0
        )

    def record(self) -> Mapping[str, Any]:
        """Fields of the manifest on how requests were sent: `perhaps_charged`, `history` and `answer_wait`."""
        return {"perhaps_charged": self.budget.perhaps_charged}

    async def close(self) -> None:
        """Close connections."""


@dataclass
class _Sending:
    """A request in progress: the posted body, and the state of its attempts.

    Attributes:
        tokens: Estimate of its tokens, prompt and answer.
        sent: Number of times that it was sent.
        spoiled: Number of malformed answers of the model.
        cache_refusals: Number of times that the provider rejected the fields for its prefix cache.
        stale: Whether it got the reply to another request once.
        ends_at: When its deadline is, on the clock; infinity until it is first sent.
        posted: Done once the first of two copies is sent, if the request may be sent twice.
        hedged: Whether it is sent twice.
    """

    request: Request
    body: Mapping[str, Any]
    tokens: float
    repaired: bool
    on_in_flight: OnInFlight
    sent: int = 0
    spoiled: int = 0
    cache_refusals: int = 0
    stale: bool = False
    ends_at: float = math.inf
    posted: asyncio.Future[None] | None = None
    hedged: bool = False


class OnlineEngine(Engine):
    """Asks a server over HTTP. It connects at the first request, so a run answered by the store needs no server and no key.

    Args:
        connection: Model, address, key and timeouts.
        limiter: Limits of speed; by default 16 requests in flight.
        budget: Cost cap; by default none.
        hedge: Whether to send a request again if its answer takes longer than 95% of the others; the first answer is used.
        policy: Fields of the retry policy: `clock`, `sleep` and `jitter`.
    """

    name = "online"

    def __init__(
        self,
        connection: Connection,
        *,
        limiter: Limiter | None = None,
        budget: Budget | None = None,
        hedge: bool = False,
        **policy: Any,
    ) -> None:
        super().__init__(limiter, budget or Budget(None, connection.price))
        self.connection = connection
        self.wait = AnswerWait(connection.timeouts.attempt_s, adaptive=not is_local(connection.model))
        self.limiter.answer_wait = self.wait
        self._address = connection.shown_url
        self._provider = connection.provider
        self._transport: Http | RayTransport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._send_once = self._hedged if hedge else self._send
        self._hedges, self._reached = 0, False
        self._exit = ExitStack()
        self._replies = _Replies()
        self._retry = RetryPolicy(limits=False, **policy)
        self._clock = self._retry.clock

    def record(self) -> Mapping[str, Any]:
        """See `Engine.record`."""
        wait, waits = self.wait, {"timeout_s": self.wait.longest_s, "wait_s": round(self.wait.wait_s, 3)}
        return {
            **super().record(),
            "history": tuple(self.limiter.history),
            "answer_wait": {**waits, "cut": wait.cut, "hedged": self._hedges},
        }

    async def close(self) -> None:
        """Close the connections and stop the local server."""
        try:
            if self._opening is not None:
                self._opening.cancel()
                await asyncio.gather(self._opening, return_exceptions=True)
            if self._transport is not None:
                await self._transport.close()
        finally:
            await asyncio.to_thread(self._exit.close)

    async def _open(self) -> None:
        self._transport = await self._connect()

    async def _connect(self) -> Http | RayTransport:
        connection, base_url = self.connection, self.connection.base_url
        if is_local(connection.model):
            base_url = await asyncio.to_thread(self._serve)
        else:
            require_key(connection.provider, connection.key)
        return Http(base_url, connection.secret, connection.provider, connection.headers)

    def _serve(self) -> str:
        weights = find_weights(self.connection.model, settings().home / "models")
        return self._exit.enter_context(serve(weights, self.connection.endpoint.model)).base_url

    async def ask(
        self, request: Request, repair: Mapping[str, Any] | None = None, *, on_in_flight: OnInFlight | None = None
    ) -> Answer:
        """Get the answer to one request; see `Engine.ask`.

        Raises:
            DataError: The embedded model's weights cannot be fetched.
        """
        if self._transport is None:
            self._opening = self._opening or asyncio.create_task(self._open())
            await asyncio.shield(self._opening)  # if it fails, it fails for all waiting requests
        body = repair or request.body
        characters = sum(len(message["content"]) for message in messages_of(body))
        tokens = characters / _CHARACTERS_A_TOKEN + min(output_bound(body) or _USUAL_ANSWER, _USUAL_ANSWER)
        sending = _Sending(request, body, tokens, repair is not None, on_in_flight or (lambda _: None))
        try:
            return await self._retry.call(lambda: self._attempt(sending), ends_at=lambda: sending.ends_at)
        except NoBudgetError as error:
            raise NoAnswerError("budget", str(error), sending.sent) from error
        except TimeoutError as error:
            message = (
                f"no answer within {self.connection.timeouts.attempt_s:g} s, asked {sending.sent} times; a model that thinks for longer "
                "needs a larger --timeout"
            )
            raise NoAnswerError("timeout", message, sending.sent) from error
        except UnreachableError as error:
            if error.lasting:
                raise ProviderError(self._unreachable(error)) from error
            if not self._reached:
                raise ProviderError(f"{self._unreachable(error)}; check --base-url and that the server runs") from error
            raise NoAnswerError("provider", self._unreachable(error), sending.sent, status=0) from error
        except TransportError as error:
            raise NoAnswerError("provider", clean(f"{self._address}: {error}")[:400], sending.sent) from error
        except RefusedError as error:
            path, model = PATHS[request.api], request.body.get("model")
            fatal = fatal_refusal(error, address=self._address, path=path, model=model, answered=self.answered)
            missing = NoAnswerError(error.kind, error.with_status, sending.sent, error.status, error.meaning)
            raise fatal or missing from error
        finally:
            self.limiter.to_repeat.pop(request.key, None)

    async def _attempt(self, sending: _Sending) -> Answer:
        """Send until there is an answer or an error; a rate limit is not an error if the provider asks to wait for it."""
        while True:
            try:
                return await self._send_once(sending)
            except RefusedError as error:
                if is_about_prefix_cache(error) and sending.cache_refusals < 2:
                    # The provider rejects the fields that control its cache; they are not part of the request's key.
                    sending.cache_refusals += 1
                    self._provider = self._provider.model_copy(update={"cache": ()})
                    continue
                sending.spoiled += error.meaning == "bad-answer"
                limited = error.passes and error.meaning == "wait" and error.wait_s
                spoiled = error.meaning == "bad-answer" and sending.spoiled <= MOST_SPOILED
                if not (limited and sending.sent < MOST_WAITS) and not spoiled:
                    raise
            except StaleReplyError:
                if sending.stale:
                    raise
                sending.stale = True  # the next attempt uses a new connection, so there is no need to wait

    async def _hedged(self, sending: _Sending) -> Answer:
        """Send, and send again if the answer is late; the first answer is used, and the other request may be charged too."""
        posted = sending.posted = asyncio.get_running_loop().create_future()
        tries = [asyncio.create_task(self._send(sending))]
        stopped: asyncio.CancelledError | None = None
        try:
            await asyncio.wait({posted, *tries}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(tries, timeout=self.wait.late_s)
            if not tries[0].done() and not sending.hedged:
                sending.hedged = True
                tries.append(asyncio.create_task(self._send(sending)))
            pending = set(tries)
            while pending and not any(map(_has_answer, tries)):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as error:
            stopped = error
        for task in tries:
            task.cancel()
        await asyncio.wait(tries)
        answers = [task.result() for task in tries if _has_answer(task)]
        for answer in answers[1:]:
            self.budget.dropped(answer.cost_usd)
        if not answers and stopped is not None:
            raise stopped
        # A paid answer is recorded even while the run is being stopped.
        return answers[0] if answers else tries[0].result()

    async def _send(self, sending: _Sending) -> Answer:
        """Send once, within limits and budget, and settle both whatever happens."""
        assert self._transport is not None
        body, api, waiting_since = sending.body, sending.request.api, self._clock()
        worst = self.budget.worst_case(body)
        await self.budget.reserve(worst)
        try:
            ticket = await self.limiter.acquire(sending.tokens)
        except BaseException:
            self.budget.settle(worst, 0.0)
            raise
        on_wire = charged = False  # `charged`: the provider may charge for it, even if no answer arrives
        hand_back: Callable[[Ticket], None] = self.limiter.failed
        try:
            sending.on_in_flight(True)
            self.limiter.to_repeat.pop(sending.request.key, None)
            on_wire = charged = True
            sending.sent += 1
            started = self._clock()
            if sending.posted is not None and not sending.posted.done():
                sending.posted.set_result(None)
            elif sending.hedged:
                self._hedges += 1
            # Waiting for a turn does not count against the deadline.
            deadline_s = self.connection.timeouts.deadline_s
            left_s = deadline_s if sending.ends_at == math.inf else sending.ends_at - waiting_since
            sending.ends_at = started + left_s
            try:
                async with self.wait.limit(sending.sent, left_s):
                    # Keep the order of keys: with a strict schema, a model writes in the schema's order, in which the rationale
                    # comes before the label.
                    reply = await self._transport.send(api, _BODY.dump_json(self._provider.posted(api, body)))
                    self._reached = True
                    raise_for_error(reply)
            except UnreachableError as error:
                if not self._reached and sending.sent == 1:
                    sending.ends_at = started + min(left_s, UNREACHED_S)
                charged, hand_back = False, partial(self.limiter.failed, unreachable=self._unreachable(error))
                raise
            except TimeoutError:
                hand_back = partial(self.limiter.limited, reason="timeout")
                raise
            except RefusedError as error:
                charged = error.may_have_been_charged
                if error.passes and error.meaning == "wait":
                    error.wait_s = self.limiter.wait_after(error.wait_s)
                    wait_s = error.wait_s or 0.0
                    hand_back = partial(self.limiter.limited, reason="429", retry_after=wait_s, headers=error.headers)
                raise
            latency = self._clock() - started
            self.wait.seen(latency)
            hand_back = partial(self.limiter.release, headers=reply.headers)
            answer = self._answer(sending, reply, latency)
        except BaseException as error:
            self.limiter.to_repeat[sending.request.key] = getattr(error, "status", None) or "no answer"
            if charged:
                self.budget.unconfirmed(body, worst)
            else:
                self.budget.settle(worst, 0.0)
            raise
        finally:
            hand_back(ticket)
            if on_wire:
                sending.on_in_flight(False)
        self.answered = True
        self.budget.check_bound(body, answer.usage)
        self.budget.settle(worst, answer.cost_usd)
        self.limiter.correct(ticket, answer.usage.prompt + answer.usage.completion)
        return answer

    def _unreachable(self, error: UnreachableError) -> str:
        return f"cannot reach {self._address} ({error})"

    def _answer(self, sending: _Sending, reply: HttpReply, latency: float) -> Answer:
        text, request = reply.content.decode("utf-8", "replace"), sending.request
        try:
            document = parsed(text)
            if self._replies.is_stale(document, text, request.key, reply.connection):
                assert self._transport is not None
                self._transport.leave_connections()
                raise StaleReplyError("it sent the reply to another request")
            return answer_to(
                request.key,
                request.api,
                document,
                self.connection.price,
                attempts=sending.sent,
                latency_s=round(latency, 4),
                received_at=datetime.now(UTC),
                repaired=sending.repaired,
                headers=reply.headers,
            )
        except NotAReplyError as error:
            if text.lstrip().startswith("{") and text.count("{") > text.count("}"):
                raise BrokenError(f"its reply broke off: {clean(text)[:200]!r}") from error
            message = f"the server's reply is not a completion: {clean(text)[:200]!r}"
            raise NoAnswerError(error.kind, message, sending.sent) from error


def _has_answer(task: asyncio.Task[Answer]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


class _Replies:
    """Recent replies, to detect a late reply that belongs to another request."""

    _most = 100_000

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, tuple[int, int]]] = {}
        self._repeat = False

    def is_stale(self, document: Any, text: str, key: str, connection: int) -> bool:
        """Whether a reply was already received for another key over the same connection.

        A server that repeats a reply over another connection does so on purpose (its ids are not unique, or a cache answers).
        Ids of fewer than 8 characters, which some servers give to all replies, cannot tell replies apart.
        """
        name = document.get("id") if isinstance(document, dict) else None
        if self._repeat or not isinstance(name, str) or len(name) < 8:
            return False
        fingerprint = hash(text), connection
        earlier, seen = self._seen.setdefault(name, (key, fingerprint))
        if len(self._seen) > self._most:
            del self._seen[next(iter(self._seen))]
        if earlier == key:
            return False
        if seen != fingerprint:  # ids are not unique, or a cache repeats answers: stop checking
            self._repeat = True
            return False
        return True


# Maximum nesting of lists and objects: a deeper document could be parsed but not stored, and no provider sends one.
DEEPEST = 100


def parsed(text: str) -> Any:
    """Parse a server's document, and remove all secrets from it.

    Args:
        text: The body of the reply.

    Raises:
        NotAReplyError: It is not JSON, or nested too deeply.
    """
    try:
        document = document_in(text)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise NotAReplyError("no JSON") from error
    if text.count("[") + text.count("{") > DEEPEST and _is_deep(document):
        raise NotAReplyError("nested too deep")
    return clean_document(document) if may_hold_secret(text) else document


def _is_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(DEEPEST):
        layer = [x for v in layer for x in (v.values() if isinstance(v, dict) else v) if isinstance(x, (dict, list))]
        if not layer:
            return False
    return True


def answer_to(
    key: str,
    api: Api,
    document: Any,
    price: Price | None,
    *,
    attempts: int,
    latency_s: float,
    received_at: datetime,
    repaired: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Parse the answer in a reply, and compute its cost.

    Args:
        key: The request's key.
        api: The dialect.
        document: The parsed body of the reply.
        price: The model's price; None if unknown.
        attempts: Number of times that the request was sent.
        latency_s: Seconds from request to reply.
        received_at: Time of the reply.
        repaired: Whether this is a second attempt after an invalid answer.
        headers: Headers of the reply, by lower-case name.

    Raises:
        NotAReplyError: It is not a reply in this dialect.
    """
    reply = read(api, document)
    # The cost stated by the provider is used; that by the price table is recorded too.
    stated, tier = stated_cost(document, headers or {}), tier_of(document, headers or {})
    # If the server reports no tokens, the cost is unknown, not 0.
    counted = reply.usage.prompt + reply.usage.completion > 0 or price is None or price.input == price.output == 0
    table = price.cost(reply.usage) if price is not None and counted and price.holds_in(tier) else None
    fields = {name: value for name, value in reply._asdict().items() if name != "logprobs"}
    return Answer(
        request_key=key,
        **fields,
        attempts=attempts,
        latency_s=latency_s,
        created_at=received_at.isoformat(timespec="microseconds"),
        cost_usd=table if stated is None else stated,
        table_usd=None if stated is None else table,
        upstream=upstream_of(document, headers or {}),
        service_tier=tier,
        repaired=repaired,
        raw=document,
    )
