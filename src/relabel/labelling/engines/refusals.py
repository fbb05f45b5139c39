"""What a server says when it gives no answer: which errors pass, which end the run, and in which words the user is told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import httpx2
import openai

from relabel.errors import ProviderError
from relabel.labelling.engines.engine import NoAnswerError
from relabel.labelling.engines.transport import UnreachableError
from relabel.labelling.request import public_url

SHORTEST_SECRET = 12
"""Characters."""
_PERHAPS_CHARGED = {408, 502, 504, 524}
"""A gateway gave up waiting; whether the provider went on and charged, nobody knows."""
_TRANSIENT = {408, 409, 429}
_NOT_IMPLEMENTED = 501
_NO_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "access_terminated"}
_NO_MODEL = {"model_not_found", "invalid_model", "unknown_model"}
_LOOKS_LIKE_A_KEY = re.compile(r"\b(sk|pk|key)-[A-Za-z0-9_*-]{6,}")
_SAYS_ERROR = re.compile(rb'\s*\{\s*"error"\s*:\s*\{').match


class TimedOutError(Exception):
    """One attempt took too long."""


def accepted(response: httpx2.Response) -> httpx2.Response:
    """A response that holds what was asked for.

    Raises:
        openai.APIStatusError: It is an error, by its status or by its body.
    """
    if response.status_code == 200 and not _SAYS_ERROR(response.content):
        return response
    try:
        said: Any = json.loads(response.content)
    except (ValueError, RecursionError):
        said = None
    inner = said.get("error", said) if isinstance(said, Mapping) else said
    if response.status_code == 200:
        response = _as_meant(response, inner)
        if response.status_code == 200:
            return response
    raise openai.APIStatusError(f"HTTP {response.status_code}", response=response, body=inner)


def _as_meant(response: httpx2.Response, error: Any) -> httpx2.Response:
    """A reply whose status is good and whose body is an error, as gateways send it, under the status in the body."""
    code = error.get("code") if isinstance(error, Mapping) else None
    if type(code) is not int or not 400 <= code < 600:
        return response
    return httpx2.Response(code, headers=response.headers, content=response.content, request=response.request)


def may_have_been_charged(error: openai.APIStatusError) -> bool:
    """Whether the provider may have worked, and charged, for a request that it gave no answer to."""
    return error.status_code in _PERHAPS_CHARGED or error.status_code < 300


def is_out_of_quota(error: openai.APIStatusError) -> bool:
    """Whether the provider's quota is used up, which waiting does not cure."""
    return str(error.code or "") in _NO_QUOTA


def refusal(
    error: openai.APIStatusError, sent: int, *, address: str, path: str, model: str | None, secret: str
) -> ProviderError | NoAnswerError:
    """What a refusal means: for all requests, or for this one.

    Args:
        error: The refusal.
        sent: Times that the request was sent.
        address: The provider's address, without credentials.
        path: What was asked for below the address.
        model: The model that was asked for.
        secret: The key, which must not be told.
    """
    status, said = error.status_code, without_keys(provider_message(error), secret)
    if 300 <= status < 400:
        where = public_url(error.response.headers.get("location", ""))[:200]
        return ProviderError(
            f"{address} sends elsewhere (HTTP {status}, to {without_keys(where, secret) or 'nowhere'}), and requests with a key are not "
            "sent on; if you trust that address, give it to --base-url"
        )
    fatal = fatal_refusal(status, str(error.code or ""), said, address=address, path=path, model=model)
    refused = f", parameter {error.param!r}" if error.param else ""
    return fatal or NoAnswerError("provider", f"HTTP {status}{refused}: {said}", sent, status=status)


def fatal_refusal(
    status: int | None, code: str, said: str, *, address: str, path: str, model: str | None
) -> ProviderError | None:
    """What to tell the user when no request will have an answer; None when the refusal is of one request only.

    Args:
        status: HTTP status; None where there is none, or it says nothing of the others.
        code: The provider's word for the error.
        said: What the provider said, without keys.
        address: The provider's address, without credentials.
        path: What was asked for below the address.
        model: The model that was asked for.
    """
    if status == 401:
        return ProviderError(f"{address} does not accept the key ({said}); check OPENAI_API_KEY")
    if status == 403:
        return ProviderError(f"{address} denies access ({said}); check the key's rights and the model's terms")
    if code in _NO_MODEL or (status == 404 and "model" in said.lower()):
        return ProviderError(f"{address} has no model {model!r} ({said}); check --model and --base-url")
    if status == 404:
        return ProviderError(f"{address} has no {path} ({said}); check --base-url, --model and --api")
    if code in _NO_QUOTA:
        return ProviderError(
            f"{address} says that the quota is used up ({said}); add credit, then start the same run again"
        )
    return None


def without_keys(text: str, secret: str) -> str:
    """Take the key, and whatever looks like one, out of a text."""
    if len(secret) >= SHORTEST_SECRET:
        text = text.replace(secret, "[key]")
    return _LOOKS_LIKE_A_KEY.sub("[key]", text)


def passes(status: int) -> bool:
    """Whether an HTTP status speaks of something that passes."""
    return status in _TRANSIENT or (status >= 500 and status != _NOT_IMPLEMENTED)


def is_transient(error: BaseException) -> bool:
    """Whether asking again may help."""
    if isinstance(error, openai.APIStatusError):
        if is_out_of_quota(error):
            return False
        return passes(error.status_code)
    return isinstance(error, (openai.APIConnectionError, TimedOutError, UnreachableError))


def provider_message(error: openai.APIStatusError) -> str:
    """What the provider said, in one line."""
    body = error.body
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        said = inner.get("message") if isinstance(inner, Mapping) else inner
        if said:
            return " ".join(str(said).encode("utf-8", "replace").decode().split())[:300]
    return " ".join(error.response.text.split())[:200] or f"HTTP {error.status_code}"
