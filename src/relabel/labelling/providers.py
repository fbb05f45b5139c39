"""Providers: what is known of each, as data in `data/providers.toml`, and what that means for a request."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from relabel.errors import DataError, UsageError
from relabel.labelling.wire import Api, Form, messages_of, with_messages
from relabel.redaction import clean
from relabel.settings import Frozen, asset_dir, settings


class PrefixCache(Frozen):
    """What a provider's prefix cache does for some models.

    Attributes:
        models: Shell patterns of their names, with or without the vendor in front.
        least: Tokens of the shared beginning from which the cache acts; None where no minimum is documented.
        read: Price of a cached token as a share of the price of input, where the price table has none.
        write: Likewise of a token that is written to the cache.
        key: Body field that keeps requests with the same prefix together.
        key_apis: Dialects that have this field.
        mark: How the end of the prefix is marked, where the cache needs a mark.
    """

    models: tuple[str, ...]
    least: int | None = Field(default=None, ge=0)
    read: float | None = Field(default=None, ge=0)
    write: float = Field(default=1.0, ge=0)
    key: str | None = None
    key_apis: tuple[Api, ...] = ("chat", "responses")
    mark: Literal["prompt_cache_breakpoint", "cache_control"] | None = None


class TokenRatio(Frozen):
    """How many tokens some models make of a text: `factor` times its pieces (see `estimate`), give or take `spread`."""

    models: tuple[str, ...]
    factor: float = Field(gt=0)
    spread: float = Field(ge=0, lt=1)
    source: str


class Provider(Frozen):
    """A provider, as far as requests and replies depend on it.

    Attributes:
        hosts: Shell patterns of its host names, with or without a port; an address that matches none belongs to an unknown provider.
        path: Part of the path of its addresses, by which one behind a gateway is recognised.
        base_url: Address of its API.
        key_env: Environment variables that may hold its key; the first that is set counts. None for a server that needs no key of its own.
        key_header: Header that the key is sent in; in `Authorization` it follows the word `Bearer`.
        forms: Forms of structured answers that it takes, from strict to loose.
        bound: Name of the parameter that bounds an answer, in the chat dialect.
        thinking: How its usage counts hidden thinking. Both ways are read at every address.
        notes: What is odd about it.
        cache: Its prefix caches; the first that fits a model counts.
        batch: Whose way its Files and Batch API go, or `none`; unset, they are tried as OpenAI's and probed.
        as_of: The day on which the sources were read.
        sources: Where this comes from.
    """

    id: str
    name: str
    hosts: tuple[str, ...] = ()
    path: str | None = None
    base_url: str | None = None
    key_env: tuple[str, ...] = ()
    key_header: str = "Authorization"
    forms: tuple[Form, ...] = ("json_schema", "json_object")
    bound: str = "max_completion_tokens"
    thinking: Literal["in completion_tokens", "only in total_tokens"] = "in completion_tokens"
    notes: tuple[str, ...] = ()
    cache: tuple[PrefixCache, ...] = ()
    batch: Literal["openai", "azure", "groq", "mistral", "together", "none"] | None = None
    as_of: str | None = None
    sources: tuple[str, ...] = ()

    def in_words(self) -> dict[str, str]:
        """What is known of it, a line each."""
        caches = "; ".join(
            f"{', '.join(rule.models)}: from {f'{rule.least:,} tokens' if rule.least else 'any length'}"
            + (f", at {rule.read:.0%} of the price of input" if rule.read is not None else "")
            + (f", {rule.key}" if rule.key else "")
            + (f", {rule.mark}" if rule.mark else "")
            for rule in self.cache
        )
        return {
            "name": f"{self.name} ({self.id})",
            "address": self.base_url or "of your own",
            "known by": ", ".join([*self.hosts, *([self.path] if self.path else [])]) or f"--provider {self.id}",
            "key": f"{' or '.join(self.key_env)}, sent in {self.key_header}" if self.key_env else "not needed",
            "answers": ", ".join((*self.forms, "text")),
            "bound": f"--max-tokens is sent as {self.bound}",
            "thinking": f"counted {self.thinking}",
            "batch": {None: "tried as OpenAI's", "none": "none that relabel knows"}.get(
                self.batch, f"in {self.batch}'s way"
            ),
            "cache": caches or "none known",
            "notes": "; ".join(self.notes) or "none",
            "sources": f"{', '.join(self.sources) or 'none'} (as of {self.as_of or 'an unknown day'})",
        }

    def headers(self, secret: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Headers that carry the key, and at OpenAI organisation and project as the environment names them."""
        bearer = self.key_header == "Authorization" or secret.startswith("eyJ")  # a token, where others have a key
        found = {"Authorization": f"Bearer {secret}"} if bearer else {self.key_header: secret}
        own = (
            (("OpenAI-Organization", "OPENAI_ORG_ID"), ("OpenAI-Project", "OPENAI_PROJECT_ID"))
            if self.id == "openai"
            else ()
        )
        said = {header: environment.get(name, "").strip() for header, name in own}
        return {**(found if secret else {}), **{header: value for header, value in said.items() if value}}

    def key(self, openai_key: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
        """The key from the environment. `OPENAI_API_KEY` goes to OpenAI, and to addresses that relabel knows nothing of."""
        if not self.key_env:
            return openai_key
        return next((value for name in self.key_env if (value := environment.get(name, "").strip())), None)

    def prefix_cache(self, model: str) -> PrefixCache | None:
        """The prefix cache for a model; None where none is known."""
        return next((rule for rule in self.cache if _fits(model, rule.models)), None)

    def posted(self, api: Api, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """A request's body as it is sent: with the fields that steer a prefix cache.

        They change what a request costs and never what it asks, so that they are no part of its key.
        """
        rule = self.prefix_cache(str(body.get("model", "")))
        if rule is None or len(messages := messages_of(body)) < 2:
            return body
        *fixed, last = messages
        if rule.mark is not None:
            end = {**fixed[-1], "content": [_marked(api, fixed[-1]["content"], rule.mark)]}
            body = with_messages(body, [*fixed[:-1], end, last])
            if rule.mark == "prompt_cache_breakpoint":
                body = {"prompt_cache_options": {"mode": "explicit"}, **body}
        if rule.key is not None and api in rule.key_apis:
            body = {rule.key: _cache_key(str(body.get("model")), fixed[-1]["content"]), **body}
        return body


class _File(Frozen):
    reasoning: tuple[str, ...] = ()
    tokens: tuple[TokenRatio, ...] = ()
    provider: tuple[Provider, ...] = ()


_KEY_PREFIX = "relabel-"
UNKNOWN = Provider(id="unknown", name="an unknown provider")
"""What is taken for granted at an address that no entry names."""


def provider_of(base_url: str, name: str | None = None) -> Provider:
    """The provider behind an address, or the one that the user names.

    Raises:
        UsageError: There is no provider of this name.
        DataError: The user's file is malformed.
    """
    known = _known().provider
    if name is not None:
        for provider in known:
            if provider.id == name:
                return provider
        raise UsageError(f"there is no provider {name!r}; use one of {', '.join(sorted({p.id for p in known}))}")
    try:
        parts = urlsplit(base_url)
        names = ((parts.hostname or "").lower(), f"{parts.hostname}:{parts.port}".lower())
    except ValueError:  # who sends to it says what is wrong with it
        return UNKNOWN
    by_host = (p for p in known if any(fnmatchcase(name, pattern) for name in names for pattern in p.hosts))
    by_path = (p for p in known if p.path is not None and p.path in parts.path)  # behind a gateway of one's own
    return next(by_host, None) or next(by_path, UNKNOWN)


def providers() -> tuple[Provider, ...]:
    """All providers that relabel knows, the user's own first."""
    return _known().provider


def without_cache_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """A posted body without what `Provider.posted` put in: what the request's key is the hash of."""
    ours = {name for name, value in body.items() if isinstance(value, str) and value.startswith(_KEY_PREFIX)}
    plain = {name: value for name, value in body.items() if name not in ours}
    messages = [dict(message) for message in messages_of(body)]
    for message in messages:
        match message.get("content"):
            case [{"prompt_cache_breakpoint": _, "text": str(text)}]:
                plain.pop("prompt_cache_options", None)
                message["content"] = text
            case [{"cache_control": _, "text": str(text)}]:
                message["content"] = text
            case _:
                pass
    return with_messages(plain, messages)


def token_ratio(model: str) -> TokenRatio:
    """How many tokens a model makes of a text."""
    return next(ratio for ratio in _known().tokens if _fits(model, ratio.models))


def reasons(model: str) -> bool:
    """Whether a model is known to think before it answers."""
    return _fits(model, _known().reasoning)


def _known() -> _File:
    own = settings().providers
    shipped = _read(asset_dir("data") / "providers.toml")
    if own is None:
        return shipped
    mine = _read(own)
    return _File(
        reasoning=(*mine.reasoning, *shipped.reasoning),
        tokens=(*mine.tokens, *shipped.tokens),
        provider=(*mine.provider, *shipped.provider),
    )


@cache
def _read(path: Path) -> _File:
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"the provider file {path} cannot be used ({' '.join(str(error).split())[:200]}); data/providers.toml shows the form"
        ) from error


def _fits(model: str, patterns: Sequence[str]) -> bool:
    whole = model.lower()
    return any(fnmatchcase(name, pattern) for name in (whole, whole.rpartition("/")[2]) for pattern in patterns)


def _marked(api: Api, text: str, mark: str) -> dict[str, Any]:
    how = {"mode": "explicit"} if mark == "prompt_cache_breakpoint" else {"type": "ephemeral"}
    return {"type": "input_text" if api == "responses" else "text", "text": text, mark: how}


@cache
def _cache_key(model: str, prefix: str) -> str:
    return _KEY_PREFIX + hashlib.sha256(f"{model}\0{prefix}".encode()).hexdigest()[:32]


ErrorMeaning = Literal[
    "quota", "wait", "key", "access", "model", "content-filter", "bad-answer", "form", "passing", "request"
]
"""What an error is about: credit or quota used up; a limit that passes after a wait; the key; rights or terms; a model that is not there;
a filter that refuses this one request; an answer that the model spoiled; the form of the answer; something that passes by itself;
this request alone."""


@dataclass(frozen=True)
class ErrorReply:
    """An error as a provider sent it, understood.

    Attributes:
        status: HTTP status; where a gateway answers 200 with an error inside, that of the error.
        code: The provider's own word, lower case; empty where it has none.
        message: What it says to people, on one line.
        param: The parameter that it names.
        wait_s: Seconds that it asks to wait; None where it does not.
    """

    meaning: ErrorMeaning
    status: int
    code: str
    message: str
    param: str | None
    wait_s: float | None


def may_be_error(content: bytes) -> bool:
    """Whether a reply of status 200 may be an error all the same, as gateways send them; `read_error` decides."""
    return any(mark in content for mark in (b'"error"', b'"base_resp"', b'"insufficient_system_resource"', b'"failed"'))


def read_error(
    status: int, headers: Mapping[str, str], content: bytes | str, now: Callable[[], float] = time.time
) -> ErrorReply | None:
    """Understand an error of any provider; None where a reply of status 200 turns out to be none.

    Args:
        status: HTTP status.
        headers: Headers of the reply, by lower-case name or without regard to case.
        content: The body.
        now: Seconds since the epoch.
    """
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    inner, status = _innermost(document, status)
    if status < 300 and inner is None:
        return None
    inner = inner or {}
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
    message = _message(inner) or clean(" ".join(text.split()))[:200] or f"HTTP {status}"
    codes = {str(inner.get(name) or "").lower() for name in ("code", "type", "status", "reason")}
    if isinstance(nested := inner.get("innererror"), Mapping):
        codes.add(str(nested.get("code") or "").lower())
    details = [d for d in inner.get("details") or () if isinstance(d, Mapping)]
    codes |= {str(detail.get("reason") or "").lower() for detail in details}
    metadata = inner.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    if metadata.get("reasons") and metadata.get("flagged_input") is not None:
        codes.add("content_filter")
    wait_s = _wait(status, headers, message, details, metadata, now)
    code = str(inner.get("code") or inner.get("type") or "").lower()
    param = inner.get("param")
    return ErrorReply(
        _meaning(status, codes, message, str(details), param if isinstance(param, str) else "", wait_s),
        status,
        code,
        message,
        param if isinstance(param, str) else None,
        wait_s,
    )


_MINIMAX = {1002: 429, 1039: 429, 1004: 401, 1008: 402, 1026: 400, 1027: 400, 2013: 400, 2049: 401}
"""Codes of `base_resp`, as HTTP would say them; others are faults that pass."""
_FAILED = {"rate_limit_exceeded": 429, "insufficient_quota": 429, "invalid_prompt": 400}
"""Codes of a failed response of the Responses API; others are faults that pass."""


def _innermost(document: Any, status: int) -> tuple[Mapping[str, Any] | None, int]:
    """The object that says what is wrong, and the status that it goes with."""
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, Mapping):
        return None, status
    base = document.get("base_resp")
    if isinstance(base, Mapping) and base.get("status_code"):
        said = {"code": base["status_code"], "message": base.get("status_msg")}
        filtered = {"type": "content_filter"} if base["status_code"] in {1026, 1027} else {}
        return {**said, **filtered}, _MINIMAX.get(base["status_code"], 500)
    choices = document.get("choices")
    if status < 300 and isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        error = choices[0].get("error")
        if choices[0].get("finish_reason") not in {"error", "insufficient_system_resource"}:
            return None, status
        error = error if isinstance(error, Mapping) else {"message": "the provider broke off the answer"}
        return error, _status_of(error.get("code"), 502)
    error = document.get("error")
    if status < 300 and document.get("status") == "failed":
        error = error if isinstance(error, Mapping) else {}
        return error, _FAILED.get(str(error.get("code")), 500)
    if isinstance(error, str) and error:
        return {"message": error}, status if status >= 300 else 404
    if isinstance(error, Mapping):
        return error, status if status >= 300 else _status_of(error.get("code"), status)
    return (document if status >= 300 else None), status


def _status_of(code: Any, otherwise: int) -> int:
    return int(code) if str(code).isdigit() and 400 <= int(code) < 600 else otherwise


def _message(inner: Mapping[str, Any]) -> str:
    said = inner.get("message") or inner.get("detail") or inner.get("error")
    if isinstance(said, (Mapping, list)):
        said = json.dumps(said, ensure_ascii=False)
    raw = (inner.get("metadata") or {}).get("raw") if isinstance(inner.get("metadata"), Mapping) else None
    whole = f"{said or ''} {raw if isinstance(raw, str) else ''}"
    return clean(" ".join(whole.split()))[:300]


_QUOTA_CODES = {
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "access_terminated", "insufficient_balance",
    "insufficient_credits", "credit_balance_too_low", "exceeded_current_quota_error", "free_quota_exceeded", "arrearage",
    "payment_required", "billing_error",
}  # fmt: skip
_QUOTA_WORDS = re.compile(
    r"credit balance is too low|insufficient (credits?|balance|funds|quota)|not enough (credits?|balance)|out of credits?"
    r"|(credits?|balance|quota|allowance) (has|have|is|are|was) (been )?(exhausted|depleted|used up|exceeded)"
    r"|(quota|credits?) (used|exhausted|depleted)|add (more )?credits|purchase credits|more credits|billing (hard )?limit"
    r"|spend(ing)? (limit|cap)|no (remaining|more) credits|(recharge|top[ -]up) your",
    re.IGNORECASE,
)
_CURRENT_QUOTA = re.compile(r"exceeded your (current )?quota|quota exceeded", re.IGNORECASE)
_A_DAY = re.compile(r"per ?day|daily|\b[TR]PD\b|per ?month|monthly", re.IGNORECASE)
_A_MINUTE = re.compile(r"per ?minute|\b[TR]PM\b|per ?second|per[- ]min\b", re.IGNORECASE)
_FILTER_CODES = {
    "content_filter", "content_policy_violation", "responsibleaipolicyviolation", "data_inspection_failed", "invalid_prompt",
    "content_filtered", "moderation_blocked", "safety", "prohibited_content", "sensitive_content",
}  # fmt: skip
_FILTER_WORDS = re.compile(
    r"content (management|filter|policy|policies|moderation|exists risk)|(input|prompt|content|request) (was|has been|is) (flagged|blocked|filtered)"
    r"|requires moderation|usage polic|safety (system|filter|setting|polic)|prohibited content|inappropriate content|sensitive content",
    re.IGNORECASE,
)
_BAD_ANSWER_CODES = {"json_validate_failed", "tool_use_failed", "output_parse_failed"}
_MODEL_CODES = {
    "model_not_found", "invalid_model", "unknown_model", "model_not_available", "deploymentnotfound", "model_not_supported",
}  # fmt: skip
_NO_MODEL = re.compile(
    r"not a valid model|no models? loaded|models?\b.{0,80}\b(does not exist|not found|is not found|not available)|no such model"
    r"|no endpoints found",
    re.IGNORECASE,
)
_KEY_CODES = {
    "invalid_api_key",
    "api_key_invalid",
    "authentication_error",
    "unauthenticated",
    "unauthorized",
    "permission_denied_key",
}
_KEY_WORDS = re.compile(
    r"api[ _-]?key (is )?(not valid|invalid|incorrect|expired)|(invalid|incorrect) (x-)?api[ _-]?key", re.IGNORECASE
)
_FORM_WORDS = re.compile(
    r"response_?format|json_?schema|json_?object|json mode|structured outputs?|text\.format|grammar|guided",
    re.IGNORECASE,
)


def _meaning(
    status: int, codes: set[str], message: str, details: str, param: str, wait_s: float | None
) -> ErrorMeaning:
    bad = status in {400, 413, 415, 422, 501}
    if status == 402 or codes & _QUOTA_CODES:
        return "quota"
    # Before the words of quota: "no credits were charged" is said of what a filter refused.
    if codes & _FILTER_CODES or (status in {400, 403, 422, 451} and _FILTER_WORDS.search(message)):
        return "content-filter"
    if status in {400, 403, 429} and _QUOTA_WORDS.search(message):
        return "quota"
    if status == 429 or (status == 403 and wait_s):
        daily = _A_DAY.search(f"{message} {details}") and not _A_MINUTE.search(f"{message} {details}")
        spent = _CURRENT_QUOTA.search(message) and not _A_MINUTE.search(f"{message} {details}")
        return "quota" if wait_s is None and (daily or spent) else "wait"
    if codes & _BAD_ANSWER_CODES:
        return "bad-answer"
    if status == 401 or codes & _KEY_CODES or (bad and _KEY_WORDS.search(message)):
        return "key"
    if status == 403:
        return "access"
    if codes & _MODEL_CODES or (status in {400, 404} and _NO_MODEL.search(message)):
        return "model"
    if bad and (_FORM_WORDS.search(message) or param.startswith(("response_format", "text"))):
        return "form"
    if status in {408, 409} or (status >= 500 and status != 501):
        return "passing"
    return "request"


def meaning_of(status: int, code: str, message: str) -> ErrorMeaning:
    """What an error is about, where no more is known of it than these."""
    return _meaning(status, {code.lower()}, message, "", "", None)


_RETRY_IN = re.compile(
    r"(?:try again|retry|wait|resets?)(?: your request)?(?: in| after| for)?[: ]+((?:\d+(?:\.\d+)?\s*(?:ms|milliseconds?|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)\b[ ,]*(?:and )?)+"
    r"|(?:\d+(?:\.\d+)?(?:ms|h|m|s))+)",
    re.IGNORECASE,
)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milli|h|m|s)", re.IGNORECASE)
_LONGEST_WAIT_S = 32 * 86400.0
"""Seconds; a header that asks for a longer wait is taken for a fault."""
_UNIT_S = {"ms": 0.001, "milli": 0.001, "h": 3600.0, "m": 60.0, "s": 1.0}


def _wait(
    status: int,
    headers: Mapping[str, str],
    message: str,
    details: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, Any],
    now: Callable[[], float],
) -> float | None:
    """Seconds to wait, by header, by Google's `retryDelay`, by the words of the message, or by when a window ends."""
    if (asked := retry_after(headers, now)) is not None:
        return asked
    for detail in details:
        if (delay := _seconds(str(detail.get("retryDelay") or ""))) is not None:
            return delay
    if status >= 300 and (said := _RETRY_IN.search(message)) is not None:
        return _seconds(said[1])
    inner = metadata.get("headers")
    if status == 429 and isinstance(inner, Mapping):
        reset = {str(name).lower(): value for name, value in inner.items()}.get("x-ratelimit-reset")
        if str(reset).isdigit():
            ends = int(str(reset)) / (1000 if len(str(reset)) > 11 else 1)
            return max(0.0, ends - now())
    return None


def _seconds(text: str) -> float | None:
    amounts = _AMOUNT.findall(text)
    return sum(float(number) * _UNIT_S[unit.lower()] for number, unit in amounts) if amounts else None


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds that a reply's headers ask to wait, by `retry-after-ms` or `retry-after` (seconds or a date); None where they do not."""
    try:
        if "retry-after-ms" in headers:
            wanted = float(headers["retry-after-ms"]) / 1000
        elif "retry-after" in headers:
            text = headers["retry-after"].strip()
            try:
                wanted = float(text)
            except ValueError:
                told = _seconds(text) if text[:1].isdigit() else None
                wanted = parsedate_to_datetime(text).timestamp() - now() if told is None else told
        else:
            return None
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, wanted) if wanted <= _LONGEST_WAIT_S else None


def speaks_of_the_cache(reply: ErrorReply) -> bool:
    """Whether a refusal is about the fields that steer a prefix cache."""
    return reply.status in {400, 422} and any(
        f in f"{reply.param} {reply.message}" for f in ("prompt_cache_", "cache_control")
    )


def stated_cost(reply: Mapping[str, Any]) -> float | None:
    """What a reply says that it cost, in USD; None where it does not say."""
    usage = reply.get("usage")
    cost = usage.get("cost") if isinstance(usage, Mapping) else None
    if not isinstance(cost, (int, float)) or isinstance(cost, bool) or not 0 <= cost < 1e6:
        return None
    details = usage.get("cost_details") if isinstance(usage, Mapping) and usage.get("is_byok") else None
    # With a key of one's own at the provider behind the router, what that one charges comes on top of the router's fee.
    behind = details.get("upstream_inference_cost") if isinstance(details, Mapping) else None
    return float(cost) + (float(behind) if isinstance(behind, (int, float)) else 0.0)


def upstream_of(reply: Mapping[str, Any]) -> str | None:
    """Who answered behind a router, as its reply says."""
    name = reply.get("provider")
    return name[:100] if isinstance(name, str) and name else None
