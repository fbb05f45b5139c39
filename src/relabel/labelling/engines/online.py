"""The online engine: one HTTP request an answer, to any OpenAI-compatible server, through the openai client.

This is the only owner of retries: the client's own are off, because the two would multiply.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import openai
import tenacity
from pydantic import SecretStr

from relabel.errors import ProviderError
from relabel.label import Answer, Usage
from relabel.labelling.engines.engine import NoAnswerError
from relabel.labelling.pricing import Price
from relabel.labelling.request import Request, public_url

ATTEMPTS = 6
DEADLINE_S = 300.0
"""Wall clock for one request, all attempts and pauses included."""
ATTEMPT_TIMEOUT_S = 120.0
LONGEST_PAUSE_S = 60.0
_TRANSIENT = {408, 409, 429}
_NO_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "access_terminated"}
_NO_MODEL = {"model_not_found", "invalid_model", "unknown_model"}
_LOOKS_LIKE_A_KEY = re.compile(r"\b(sk|pk|key)-[A-Za-z0-9_*-]{6,}")


class OnlineEngine:
    """Asks a server over HTTP.

    Args:
        base_url: Address of the API; None for OpenAI's own.
        key: The provider's key; None for servers that need none.
        price: The model's price; None when unknown.
        clock: Seconds on a clock that never runs back.
        sleep: Waits for some seconds.
        jitter: A random number in 0-1.
        now: The time of day.
        http_client: The client's transport, for tests.
    """

    name = "online"

    def __init__(
        self,
        base_url: str | None,
        key: SecretStr | None,
        price: Price | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        http_client: Any = None,
    ) -> None:
        self._secret = key.get_secret_value() if key else ""
        self._address = public_url(base_url) if base_url else "https://api.openai.com/v1"
        self._client = openai.AsyncOpenAI(
            api_key=self._secret or "none",
            base_url=self._address if base_url else "https://api.openai.com/v1",
            max_retries=0,
            timeout=ATTEMPT_TIMEOUT_S,
            http_client=http_client,
        )
        self._price = price
        self._clock, self._sleep, self._jitter, self._now = clock, sleep, jitter, now

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, request: Request) -> Answer:
        """Get the answer to one request; see `Engine.ask`."""
        sent = 0
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_is_transient),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=self._pause,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            async with asyncio.timeout(DEADLINE_S):
                async for attempt in retrying:
                    with attempt:
                        sent += 1
                        return await self._once(request, sent)
        except TimeoutError as error:
            raise NoAnswerError("timeout", f"no answer within {DEADLINE_S:.0f} s", sent) from error
        except openai.APITimeoutError as error:
            raise NoAnswerError("timeout", f"no answer within {ATTEMPT_TIMEOUT_S:.0f} s, {sent} times", sent) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            message = f"cannot reach {self._address} ({self.redact(str(cause) or type(cause).__name__)})"
            raise NoAnswerError("provider", message, sent, unreachable=True) from error
        except openai.APIStatusError as error:
            raise self._refusal(error, request, sent) from error
        raise AssertionError("tenacity returns or raises")

    def redact(self, text: str) -> str:
        """Take the key, and whatever looks like one, out of a text."""
        if self._secret:
            text = text.replace(self._secret, "[key]")
        return _LOOKS_LIKE_A_KEY.sub("[key]", text)

    async def _once(self, request: Request, attempts: int) -> Answer:
        started = self._clock()
        response = await self._client.chat.completions.with_raw_response.create(**dict(request.body))
        latency = self._clock() - started
        text = response.content.decode("utf-8", "replace")
        if self._secret and self._secret in text:
            text = text.replace(self._secret, "[key]")
        return self._answer(request, text, attempts, latency)

    def _answer(self, request: Request, text: str, attempts: int, latency: float) -> Answer:
        try:
            raw = json.loads(text)
            choice = raw["choices"][0]
            usage = _usage(raw.get("usage") or {})
            return Answer(
                request_key=request.key,
                content=_text(choice["message"].get("content")),
                refusal=_text(choice["message"].get("refusal")),
                finish_reason=_text(choice.get("finish_reason")),
                model_returned=_text(raw.get("model")),
                usage=usage,
                attempts=attempts,
                latency_s=round(latency, 4),
                created_at=self._now().isoformat(timespec="microseconds"),
                cost_usd=None if self._price is None else self._price.cost(usage),
                raw=raw,
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise NoAnswerError(
                "provider", f"the server's reply is no chat completion: {self.redact(text[:200])!r}", attempts
            ) from error

    def _pause(self, state: tenacity.RetryCallState) -> float:
        wanted = min(LONGEST_PAUSE_S, 0.5 * 2**state.attempt_number) * (0.5 + self._jitter() / 2)
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, openai.APIStatusError):
            wanted = max(wanted, _retry_after(error.response.headers))
        return wanted

    def _refusal(self, error: openai.APIStatusError, request: Request, sent: int) -> Exception:
        status, code = error.status_code, str(error.code or "")
        said = self.redact(_provider_message(error))
        model = request.body.get("model")
        if status == 401:
            return ProviderError(f"{self._address} does not accept the key ({said}); check OPENAI_API_KEY")
        if status == 403:
            return ProviderError(
                f"{self._address} denies access ({said}); check the key's rights and the model's terms"
            )
        if status == 404 or code in _NO_MODEL:
            return ProviderError(f"{self._address} has no model {model!r} ({said}); check --model and --base-url")
        if code in _NO_QUOTA:
            return ProviderError(
                f"{self._address} says that the quota is used up ({said}); add credit, then start the same run again"
            )
        return NoAnswerError("provider", f"HTTP {status}: {said}", sent)


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        if str(error.code or "") in _NO_QUOTA:
            return False
        return error.status_code in _TRANSIENT or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)  # APITimeoutError is one


def _provider_message(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        said = inner.get("message") if isinstance(inner, Mapping) else inner
        if said:
            return " ".join(str(said).split())[:300]
    return " ".join(error.response.text.split())[:200] or f"HTTP {error.status_code}"


def _retry_after(headers: Mapping[str, str]) -> float:
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * scale)
        except (KeyError, ValueError):
            continue
    return 0.0


def _usage(raw: Mapping[str, Any]) -> Usage:
    details = raw.get("prompt_tokens_details") or {}
    return Usage(
        prompt=int(raw.get("prompt_tokens") or 0),
        cached=int(details.get("cached_tokens") or 0),
        completion=int(raw.get("completion_tokens") or 0),
    )


def _text(value: Any) -> str | None:
    # A lone surrogate is valid in JSON and in Python, but in no file: what cannot be stored is replaced, visibly.
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else None
