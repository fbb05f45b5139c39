"""Errors of providers: their meaning, whether to retry, and the message for the user."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from relabel.errors import ProviderError
from relabel.labelling.limits import DURATION, LONGEST_WAIT_S, limit_in_headers, parse_seconds
from relabel.labelling.providers import provider_of
from relabel.labelling.transport import BrokenError, HttpReply, UnreachableError
from relabel.labelling.wire import document_in, object_of
from relabel.labels import FailureKind
from relabel.redaction import clean, public_url

if TYPE_CHECKING:
    import tenacity

Clock = Callable[[], float]  # returns seconds since the epoch
# Cause of an error. `quota`: credit or quota is used up; `wait`: a temporary limit; `key`: the key is refused; `access`: rights or
# terms are missing; `model`: it does not exist; `content-filter`: the request is blocked; `bad-answer`: the model's answer is
# malformed; `form`: the response format is not supported; `passing`: a temporary fault; `request`: this request only.
ErrorMeaning = Literal[
    "quota", "wait", "key", "access", "model", "content-filter", "bad-answer", "form", "passing", "request"
]


@dataclass(eq=False)
class RefusedError(Exception):
    """An error that a provider sent as its reply, parsed.

    Attributes:
        meaning: Cause of the error.
        status: HTTP status; that of the error itself if a gateway wraps it in a reply of status 200.
        message: The provider's message, on one line; for a redirect, where it leads.
        code: The provider's code, lower case; may be empty.
        param: The parameter that it refers to, if any.
        wait_s: Seconds that it asks to wait; None if it does not.
        headers: Headers of the reply.
        used: Whether the reply counts tokens.
    """

    meaning: ErrorMeaning
    status: int
    message: str
    code: str = ""
    param: str | None = None
    wait_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    used: bool = False

    @property
    def with_status(self) -> str:
        """The message with the HTTP status and the parameter, if there are any."""
        if not self.status or self.message == f"HTTP {self.status}":  # there was no message, or no status
            return self.message
        return f"HTTP {self.status}{f', parameter {self.param!r}' if self.param else ''}: {self.message}"

    @property
    def passes(self) -> bool:
        """Whether a retry may help, after a wait that is not too long for a run."""
        return self.meaning in {"passing", "wait"} and (self.wait_s or 0.0) <= MAX_RETRY_AFTER_S

    @property
    def may_have_been_charged(self) -> bool:
        """Whether the provider may have processed and charged the request, although it gave no answer."""
        # xAI charges a fee for a blocked question: https://docs.x.ai/developers/pricing
        fee = self.status == 403 and "usage guidelines" in self.message
        return self.used or fee or self.status in _PERHAPS_CHARGED or self.status < 300 or self.meaning == "bad-answer"

    @property
    def kind(self) -> FailureKind:
        """The kind of failure of a label with this error."""
        kinds: dict[ErrorMeaning, FailureKind] = {"content-filter": "content-filter", "bad-answer": "invalid-json"}
        return kinds.get(self.meaning, "provider")


# Finish reasons of answers that the provider broke off.
_BROKEN_OFF = {"error", "network_error", "insufficient_system_resource", "abort"}
# Strings in possible errors of status 200, as gateways send them, and in answers; `read_error` decides.
_ERROR_MARKS = (b'"base_resp"', b'"failed"', b'"cancelled"', *(f'"{word}"'.encode() for word in _BROKEN_OFF))
_ANSWER_MARKS = (b'"choices"', b'"output"')


def read_error(
    status: int, headers: Mapping[str, str], content: bytes | str, now: Clock = time.time
) -> RefusedError | None:
    """Parse an error of any provider; None if a reply of status 200 is not an error.

    Args:
        status: HTTP status.
        headers: Headers of the reply, by lower-case name, or case-insensitive.
        content: The body.
        now: Returns seconds since the epoch.
    """
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
    try:
        document: Any = document_in(text)
    except (ValueError, TypeError, AttributeError, RecursionError):
        document = None
    inner, status = _error_object(document, status)
    if status < 300 and inner is None:
        return None
    inner = inner or {}
    text = text[:_MOST_READ]
    title = _search(_TITLE, text)  # of a proxy's page
    message = _message(inner) or clean(" ".join((title[1] if title else text).split()))[:200] or f"HTTP {status}"
    if 300 <= status < 400:
        message = f"to {public_url(headers.get('location', ''))[:200] or 'nowhere'}"
    details = inner["details"] if isinstance(inner.get("details"), list) else [inner.get("details")]
    parts, names = (inner, inner.get("innererror"), *details), ("code", "type", "status", "reason", "error_code")
    codes = {str(object_of(part).get(name) or "").lower() for part in parts for name in names}
    metadata = object_of(inner.get("metadata"))
    # OpenRouter's; its `invalid_prompt` is a malformed one.
    codes |= {str(metadata.get(name) or "") for name in ("reason", "limit_source", "error_type")} - {"invalid_prompt"}
    if metadata.get("patterns") or (metadata.get("reasons") and metadata.get("flagged_input") is not None):
        codes.add("content_filter")
    wait_s = _wait(status, headers, message, text, metadata, now)
    wait_s = None if (wait_s or 0.0) > LONGEST_WAIT_S else wait_s
    code = str(inner.get("code") or inner.get("type") or "").lower()
    param = inner["param"] if isinstance(inner.get("param"), str) else None
    meaning = _meaning(status, codes, message, text, param or "", wait_s)
    if 200 <= status < 300 and meaning == "request":  # not a known error: the reply is only malformed
        return None
    counts = object_of(object_of(document).get("usage")).values()
    used = any(isinstance(count, (int, float)) and count > 0 for count in counts)
    return RefusedError(meaning, status, message, code, param, wait_s, headers, used)


_TITLE = r"<title\b[^>]{0,200}>\s*([^<\s][^<]{0,200})"
# HTTP status by MiniMax code in `base_resp`; other codes are temporary faults.
# https://platform.minimax.io/docs/api-reference/errorcode
_MINIMAX = {
    1002: 429, 1004: 401, 1008: 402, 1026: 400, 1027: 400, 1039: 429, 1041: 429, 1042: 400, 2013: 400, 2045: 429, 2049: 401, 2056: 402,
}  # fmt: skip
# HTTP status by code or type of errors that come with a status below 300.
_STATUS_BY_CODE = {
    "rate_limit_exceeded": 429, "rate_limit_error": 429, "insufficient_quota": 429, "overloaded_error": 529, "server_error": 500,
    "invalid_prompt": 400, "request_timeout": 408,
}  # fmt: skip


def _error_object(document: Any, status: int) -> tuple[Mapping[str, Any] | None, int]:
    """The error object in a document, None if there is none, and the status of the error."""
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, Mapping):
        return None, status
    base = object_of(document.get("base_resp"))
    if isinstance(number := base.get("status_code"), int) and number:
        filtered = {"type": "content_filter"} if number in {1026, 1027} else {}
        return {"code": number, "message": base.get("status_msg"), **filtered}, _MINIMAX.get(number, 500)
    choices = document.get("choices")
    if status < 300 and isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        error = object_of(choices[0].get("error"))
        error = error if any(error.values()) else {}  # some gateways send an empty error with each answer
        if not error and str(choices[0].get("finish_reason")) not in _BROKEN_OFF:
            return None, status
        return error or {"message": "the provider broke off the answer"}, _status_of(error, 502)
    error = document.get("error")
    if status < 300 and document.get("status") in ("failed", "cancelled"):
        error = object_of(error) or {"message": "the response failed"}
        return error, _status_of(error, 500)
    otherwise = status
    if isinstance(error, str) and error:
        error, otherwise = {"message": error}, 404 if _search(_NO_PATH, error) else 400
    if isinstance(error, Mapping) and error:
        return error, status if status >= 300 else _status_of(error, otherwise)
    if status < 300 and "choices" not in document and any(isinstance(document.get(name), str) for name in _MESSAGE):
        return document, _status_of(document, status)  # some gateways send their own errors like this
    return (document if status >= 300 else None), status


def _search(pattern: str, text: str) -> re.Match[str] | None:
    """Search without regard to case; patterns are compiled when an error is first read, as most runs meet none."""
    return re.search(pattern, text, re.IGNORECASE)


# Words of transient faults, in errors of status 200 without a code.
_BUSY = (
    r"overload|temporar|(again|try) later|(at|no|exceeded) capacity|\bbusy\b|(service|currently) unavailable|rate[ _-]?limit"
    r"|too many requests|timed?[ -]?out|internal (server )?error"
)
# Words of errors that concern the path of a request.
_NO_PATH = r"endpoint|method|path|route|not found|no such"


def _status_of(error: Mapping[str, Any], otherwise: int) -> int:
    code, kind = (str(error.get(name)) for name in ("code", "type"))
    if re.fullmatch("[45][0-9]{2}", code):
        return int(code)
    busy = otherwise < 500 and _search(_BUSY, _message(error))
    return _STATUS_BY_CODE.get(code) or _STATUS_BY_CODE.get(kind) or (503 if busy else otherwise)


# Fields with the message of an error.
_MESSAGE = ("message", "detail", "msg", "error_msg")


def _message(inner: Mapping[str, Any]) -> str:
    message = next(filter(None, map(inner.get, (*_MESSAGE, "error"))), None)
    if isinstance(message, (Mapping, list)):
        message = json.dumps(message, ensure_ascii=False)
    raw = object_of(inner.get("metadata")).get("raw")
    text = f"{message or ''} {raw if isinstance(raw, str) else ''}"
    return clean(" ".join(text.split()))[:300]


_QUOTA_CODES = {
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "access_terminated", "insufficient_balance",
    "insufficient_credits", "credit_balance_too_low", "exceeded_current_quota_error", "free_quota_exceeded", "arrearage",
    "payment_required", "billing_error", "budget_exceeded", "insufficient_user_quota", "pre_consume_token_quota_failed",
    # Z.ai's
    "1113", "1304", "1308", "1309", "1310", "billing_disabled", "credit_limit", "insufficient_funds", "readonlydisabledsubscription",
    "credit_balance_exhausted", "organization_spend_limit_exceeded", "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded", "enforced_spend_limit_reached", "openrouter_credits", "openrouter_key_limit", "openrouter_guardrail_budget", "openrouter_workspace_budget",
}  # fmt: skip
_QUOTA_WORDS = (
    r"balance (is|was|has been) .{0,20}(low|negative|insufficient|zero)|negative balance|(no|insufficient) (account )?(balance|funds)"
    r"|insufficient[ _](credits?|quota|balance)|not enough (credits?|balance)|out of (credits?|funds|extra usage|call volume quota)"
    r"|no (remaining|more|available) credits?|no credits? (left|remaining|available)|have any credits"
    r"|(credits?|balance|quota|allowance) (has|have|is|are|was) (been )?(exhausted|depleted|used up|exceeded)"
    r"|key (usage )?limit exceeded|(quota|credits?) (used|exhausted|depleted)|add (more )?credits|purchase credits|more credits|billing (hard )?limit"
    r"|spend(ing)? (limit|cap)|(recharge|top[ -]?up) your|please (recharge|top[ -]?up)"
    r"|budget .{0,20}(exceeded|reached|exhausted|used up)|(over|crossed|(exceeded|reached|hit) ?(its|the|your)?) ?budget|account .{0,60}(is|was) suspended|free tier .{0,40}exhausted"
    r"|overdue (balance|bill)|quota for the (day|month) was reached|exhausted (its|your) .{0,20}quota|reached the set .{0,20}limit"
    r"|credit limit exceeded|payment required|billing (is not|to be) enabled|enable billing|trial (has|is) (expired|over)|余额不足|额度(不足|已?用尽)"
)
_CURRENT_QUOTA = r"exceeded your (current )?quota|quota exceeded|(reached|exceeded|hit|over|used up) (your|the|this) .{0,30}usage (limit|cap|quota)|usage limit reached"
_RATE = r"rate[ _-]?limit|too many requests|resource[ _]exhausted"
_TOO_LARGE = r"request too large|tokens must be reduced"
_A_DAY = (
    r"(per|/|an?|this)[ _-]?(day|week|month)(?![a-z])|per ?day|daily|weekly|\b[TR]PD\b|per ?month|monthly|\blimit: 0\b"
)
# Google's words for a daily or monthly quota, also inside a gateway's message.
_QUOTA_OF_A_DAY = r"quota_?id\W{1,8}\w*per_?(day|month)|\blimit: 0,"
_A_MINUTE = r"(per|/)[ _-]?(minute|min|second)(?![a-z])|per ?minute|\b[TR]PM\b|per ?second|\bthrottling\."
_FILTER_CODES = {
    "content_filter", "content_policy_violation", "responsibleaipolicyviolation", "data_inspection_failed", "invalid_prompt",
    "content_filtered", "moderation_blocked", "safety", "refusal", "image_content_policy_violation", "prohibited_content", "sensitive_content", "sensitivecontentdetected", "1301",
}  # fmt: skip
_FILTER_WORDS = (
    r"content[ _]?(management|filter|policy|policies|moderation|exists risk)|(input|prompt|content|request) (was|has been|is) (flagged|blocked|filtered)|(prompt|response) blocked"
    r"|usage (polic|guideline)|guardrails?[ _].{0,40}(triggered|intervened|block|violat|failed)|(by|violat\w*) .{0,20}guardrail|\bunsafe\b|harmful|敏感"
    r"|moderation (policy|layer|system|filter|service|check)|(by|requires|failed) (our |the )?moderation|violat.{0,40}polic|safety[ _](check|system|filter|setting|polic)|prohibited content|inappropriate content|sensitive (content|information)"
)
# Words of a refusal that concerns a parameter or an account, even if it also contains words of content filters.
_NOT_THE_QUESTION = (
    r"(unknown|unrecognized|unsupported|invalid) (name|param|field|arg)|extra inputs"
    r"|\b(account|organi[sz]ation|team|project|key|token|signature)\b.{0,80}(suspend|disabled|banned|deactivated|terminated|permission|verif|expired|leaked|revoked)"
    r"|\byour (resource|account|subscription|(api )?access|organi[sz]ation|project)\b.{0,40}(blocked|restricted)"
)
_BAD_ANSWER_CODES = {"json_validate_failed", "tool_use_failed", "output_parse_failed"}
_MODEL_CODES = {
    "model_not_found", "invalid_model", "unknown_model", "model_not_available", "deploymentnotfound", "model_not_supported",
    "model_decommissioned",
}  # fmt: skip
_NO_MODEL = (
    r"not a valid model|invalid model name|no models? loaded|models?\b.{0,80}\b(does not exist|not found|is not found|not available|not exist|decommissioned)|no such model"
    r"|no endpoints found"
)
_KEY_CODES = {"invalid_api_key", "api_key_invalid", "authentication_error", "unauthenticated", "unauthorized"}
_KEY_WORDS = r"api[ _-]?key (is )?(not valid|invalid|incorrect|expired)|(invalid|incorrect) (x-)?api[ _-]?key"
_FORM_WORDS = r"response_?(format|schema)|json[_ ]?schema|json_?object|json mode|structured outputs?|text\.format|output_config\.format|output[_ ]format|grammar|guided|required for format"


def _meaning(status: int, codes: set[str], message: str, text: str, param: str, wait_s: float | None) -> ErrorMeaning:
    invalid = status in {400, 413, 415, 422, 501}
    # A 402 that asks to wait, such as OpenRouter's: requests in flight hold the credit, until they are charged.
    if status == 402 and (wait_s is not None or "in_flight_budget_exhausted" in codes):
        return "wait"
    if "error-code#token-limit" in text:  # Alibaba's limit per minute; only this link tells it from a used-up quota
        return "wait"
    if status in {402, 412} or codes & _QUOTA_CODES:  # 412: Portkey's budgets, accounts that Fireworks suspended
        return "quota"
    # Check for filters before quotas: a filter's message may say that no credits were charged.
    filtered = status in {400, 403, 422, 424, 451, 498} and _search(_FILTER_WORDS, message)
    if status == 446 or codes & _FILTER_CODES or (filtered and not _search(_NOT_THE_QUESTION, message)):
        return "content-filter"
    # Exclude statuses whose messages may quote the question.
    if status not in {404, 413, 415, 422} and _search(_QUOTA_WORDS, message):
        return "quota"
    changed_status = status != 422 and (
        _search(_CURRENT_QUOTA, message) or (not 300 <= status < 500 and _search(_RATE, message))
    )
    if status == 429 and _search(_TOO_LARGE, message):
        return "request"
    if status == 429 or (status == 403 and wait_s) or changed_status:
        # Google asks to wait only seconds even if a daily quota is used up: check the names of the quotas.
        short_wait = wait_s is None or wait_s <= MAX_RETRY_AFTER_S
        if short_wait and _search(_QUOTA_OF_A_DAY, text):
            return "quota"
        daily = _search(_A_DAY, message) and not _search(_A_MINUTE, message)
        spent = _search(_CURRENT_QUOTA, message) and not _search(_A_MINUTE, text)
        return "quota" if wait_s is None and (daily or spent) else "wait"
    if codes & _BAD_ANSWER_CODES:
        return "bad-answer"
    if status == 401 or codes & _KEY_CODES or (invalid and _search(_KEY_WORDS, message)):
        return "key"
    if status == 403:
        return "access"
    if codes & _MODEL_CODES or (status in {400, 404} and _search(_NO_MODEL, message)):
        return "model"
    # Ollama and others refuse a format with status 500.
    if (invalid or status == 500) and (_search(_FORM_WORDS, message) or param.startswith(("response_format", "text"))):
        return "form"
    return "passing" if status in {408, 409, 424, 425, 498, 499} or (status >= 500 and status != 501) else "request"


_RETRY_IN = rf"(?:try again|retry|wait|resets?)(?: your request)?(?: in| after| for)?[: ]+({DURATION})"
_FIELD = r'retry[_-]?(?:delay|after)(_?ms)?(?:_?s(?:ec(?:onds)?)?)?\\*"\s*:\s*(?:\{\s*\\*"seconds\\*"\s*:\s*)?\\*"?(\d+(?:\.\d+)?)\s*(ms|s)?(?=[\\"\s,}])'
# Maximum number of characters of an error that are searched.
_MOST_READ = 20_000


def _wait(
    status: int, headers: Mapping[str, str], message: str, text: str, metadata: Mapping[str, Any], now: Clock
) -> float | None:
    """Seconds to wait, from headers, a field such as Google's `retryDelay`, the message, or the reset of a limit; None without these."""
    if (wait_s := retry_after(headers, now)) is not None:
        return wait_s
    if (field_match := _search(_FIELD, text)) is not None:
        return float(field_match[2]) * (0.001 if field_match[1] or field_match[3] == "ms" else 1.0)
    if status >= 300 and (message_match := _search(_RETRY_IN, message)) is not None:
        return parse_seconds(message_match[1])
    limits = filter(None, (limit_in_headers(name, headers) for name in ("requests", "tokens")))
    reset_s = max((reset_s for _, remaining, reset_s in limits if remaining == 0), default=0.0)
    if status == 429 and reset_s > MAX_RETRY_AFTER_S:
        return reset_s
    upstream = {str(name).lower(): str(value) for name, value in object_of(metadata.get("headers")).items()}
    reset = {**headers, **upstream}.get("x-ratelimit-reset", "")
    if status == 429 and reset.isdecimal() and headers.get("x-ratelimit-remaining", "0") == "0":
        reset_at = int(reset) / (1000 if len(reset) > 11 else 1)  # a time, or the seconds until then
        return max(0.0, reset_at - (now() if reset_at > 1e9 else 0.0))
    return None


def retry_after(headers: Mapping[str, str], now: Clock = time.time) -> float | None:
    """Seconds to wait, from the headers `retry-after-ms` or `retry-after` (seconds or a date); None without these."""
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        elif (text := headers["retry-after"].strip())[:1].isalpha():  # a date
            seconds = parsedate_to_datetime(text).timestamp() - now()
        else:
            seconds = parse_seconds(text)
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds) if seconds <= LONGEST_WAIT_S else None


def is_about_prefix_cache(error: RefusedError) -> bool:
    """Whether a refusal is about fields that control a prefix cache."""
    return error.status in {400, 422} and bool(_search("prompt_cache_|cache_control", f"{error.param} {error.message}"))


@dataclass(eq=False)
class NoAnswerError(Exception):
    """A request has no answer; the run continues.

    Attributes:
        kind: The kind of failure.
        message: What is wrong.
        attempts: Number of requests sent.
        status: HTTP status of the provider's error; 0 if the server could not be reached; None if neither is the problem.
        meaning: Cause of the provider's error, if there was one.
    """

    kind: FailureKind
    message: str
    attempts: int
    status: int | None = None
    meaning: ErrorMeaning | None = None

    def __str__(self) -> str:
        return clean(self.message)


# Maximum wait in seconds; if a provider asks for a longer one, the run ends with a message that says when to continue.
MAX_RETRY_AFTER_S = 900.0
# With these statuses, a gateway gave up waiting or could not use the reply, but the provider may have worked and charged.
_PERHAPS_CHARGED = {408, 424, 499, 502, 504, 520, 524}


class StaleReplyError(BrokenError):
    """The server sent the reply to another request."""


def raise_for_error(response: HttpReply) -> None:
    """Check that a reply is not an error.

    Raises:
        RefusedError: It is one.
    """
    answers = any(mark in response.content for mark in _ANSWER_MARKS)
    suspect = response.status != 200 or not answers or any(mark in response.content for mark in _ERROR_MARKS)
    if suspect and (error := read_error(response.status, response.headers, response.content)) is not None:
        raise error


def fatal_refusal(
    error: RefusedError, *, address: str, path: str, model: str | None, answered: bool = False
) -> ProviderError | None:
    """The error to raise if a refusal holds for all requests; None if it holds for one request only.

    Args:
        error: The refusal.
        address: The provider's address, without credentials.
        path: Path of the request below the address.
        model: The model of the request.
        answered: Whether the provider has answered other requests: a 403 or 404 then probably concerns this one only, such as
            that of a firewall because of a task's text.
    """
    detail = error.message
    alone = error.meaning == "access" or (error.status, error.meaning) == (404, "request")
    if answered and alone and not _search(_NOT_THE_QUESTION, detail):
        return None
    match error.meaning:
        case _ if 300 <= error.status < 400:
            message = (
                f"{address} redirects (HTTP {error.status}, {detail}), and requests with a key do not follow; "
                "if you trust that address, set it with --base-url"
            )
        case "wait" | "passing" if not error.passes and (seconds := error.wait_s):
            resume_at = datetime.now(UTC) + timedelta(seconds=seconds)
            span = f"{seconds / 3600:.1f} h" if seconds >= 7200 else f"{seconds / 60:.0f} min"
            message = f"{address} accepts no requests for {span} ({detail}); start the same run again after {resume_at:%H:%M} UTC on {resume_at:%d %B}"
        case _ if error.status == 407:
            message = f"the proxy for {address} refuses requests ({detail}); check its user and password"
        case "key":
            variable = (provider_of(address).key_env or ("OPENAI_API_KEY",))[0]
            message = f"{address} does not accept the key ({detail}); check {variable}"
        case "access":
            message = f"{address} denies access ({detail}); check the key's rights and the model's terms"
        case "model":
            message = f"{address} has no model {model!r} ({detail}); check --model and --base-url"
        case "quota":
            message = f"{address} says that the quota is used up ({detail}); add credit or wait until it is renewed, then start the same run again"
        case _ if error.status in {404, 410}:
            message = f"{address} has no {path} ({detail}); check --base-url, --model and --api"
        case _:
            return None
    return ProviderError(message)


def is_transient(error: BaseException) -> bool:
    """Whether a retry may help."""
    if isinstance(error, RefusedError):
        return error.passes
    if isinstance(error, UnreachableError):
        return not error.lasting
    return isinstance(error, (BrokenError, TimeoutError))


ATTEMPTS = 6
# Longest pause in seconds between attempts, unless the server asks for more.
LONGEST_PAUSE_S = 60.0
T = TypeVar("T")


def _is_last(state: tenacity.RetryCallState) -> bool:
    """Whether an attempt is the last; those that met a rate limit say little of the request, and it gets twice as many."""
    error = state.outcome.exception() if state.outcome else None
    limited = isinstance(error, RefusedError) and error.meaning == "wait" and error.wait_s is not None
    return state.attempt_number >= ATTEMPTS * (2 if limited else 1)


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with jitter; no pause is shorter than the server asks.

    Attributes:
        limits: Whether to wait as long as a rate limit asks; otherwise, the caller makes all requests wait for it.
        clock: Monotonic clock, in seconds.
        sleep: Waits for a number of seconds.
        jitter: Returns a random number in 0-1.
    """

    limits: bool = True
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random

    async def call(self, once: Callable[[], Awaitable[T]], *, ends_at: Callable[[], float] = lambda: math.inf) -> T:
        """Make attempts until one succeeds or fails permanently, or until attempts or time run out; then the last error is raised.

        Args:
            once: Makes one attempt.
            ends_at: Returns the deadline, on the clock, after which no attempt starts.
        """
        try:
            return await once()  # without tenacity, to save its overhead
        except Exception as error:
            if not is_transient(error):
                raise
            failed = [error]
        import tenacity

        async def attempt() -> T:
            if failed:  # let tenacity count the first attempt, which was made without it
                raise failed.pop()
            return await once()

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_transient),
            stop=lambda state: _is_last(state) or self.clock() + state.upcoming_sleep >= ends_at(),
            wait=self._pause,
            sleep=self.sleep,
            reraise=True,
        )
        return await retrying(attempt)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        backoff = min(LONGEST_PAUSE_S, 0.5 * 2**state.attempt_number) * (0.5 + self.jitter() / 2)
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, RefusedError) and (self.limits or error.meaning != "wait"):
            return max(backoff, error.wait_s or 0.0)
        return backoff
