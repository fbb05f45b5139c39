"""What a server says when it gives no answer: which errors pass, which end the run, and in which words the user is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from relabel.errors import ProviderError
from relabel.label import FailureKind
from relabel.labelling.engines.engine import NoAnswerError
from relabel.labelling.engines.transport import BrokenError, HttpReply, TimedOutError, UnreachableError
from relabel.labelling.providers import ErrorMeaning, ErrorReply, may_be_error, meaning_of, provider_of, read_error
from relabel.redaction import public_url

LONGEST_OBEYED_S = 900.0
"""Seconds; who asks for a longer wait ends the run, which says when to come back."""
_PERHAPS_CHARGED = {408, 502, 504, 524}
"""A gateway gave up waiting; whether the provider went on and charged, nobody knows."""
_NOT_IMPLEMENTED = 501


class RefusedError(Exception):
    """A reply that is an error, by its status or by its body.

    Attributes:
        reply: The error, understood.
        response: As it came.
    """

    def __init__(self, response: HttpReply, reply: ErrorReply) -> None:
        super().__init__(f"HTTP {reply.status}")
        self.response, self.reply = response, reply

    @property
    def may_have_been_charged(self) -> bool:
        """Whether the provider may have worked, and charged, for a request that it gave no answer to."""
        return self.reply.status in _PERHAPS_CHARGED or self.reply.status < 300


class StaleReplyError(Exception):
    """What came is the reply to another request."""


def accepted(response: HttpReply) -> HttpReply:
    """A response that holds what was asked for.

    Raises:
        RefusedError: It is an error.
    """
    if response.status == 200 and not may_be_error(response.content):
        return response
    reply = read_error(response.status, response.headers, response.content)
    if reply is None:
        return response
    raise RefusedError(response, reply)


def refusal(
    error: RefusedError, sent: int, *, address: str, path: str, model: str | None
) -> ProviderError | NoAnswerError:
    """What a refusal means: for all requests, or for this one.

    Args:
        error: The refusal.
        sent: Times that the request was sent.
        address: The provider's address, without credentials.
        path: What was asked for below the address.
        model: The model that was asked for.
    """
    reply = error.reply
    status, said = reply.status, reply.message
    if 300 <= status < 400:
        where = public_url(error.response.headers.get("location", ""))[:200]
        return ProviderError(
            f"{address} sends elsewhere (HTTP {status}, to {where or 'nowhere'}), and requests with a key are not "
            "sent on; if you trust that address, give it to --base-url"
        )
    if reply.meaning == "wait" and reply.wait_s is not None and reply.wait_s > LONGEST_OBEYED_S:
        back = datetime.now(UTC) + timedelta(seconds=reply.wait_s)
        return ProviderError(
            f"{address} takes no more requests for {_hours(reply.wait_s)} ({said}); start the same run again after {back:%H:%M} UTC on "
            f"{back:%d %B}"
        )
    fatal = fatal_refusal(status, reply.code, said, address=address, path=path, model=model, meaning=reply.meaning)
    if fatal is not None:
        return fatal
    refused = f", parameter {reply.param!r}" if reply.param else ""
    kinds: dict[ErrorMeaning, FailureKind] = {"content-filter": "content-filter", "bad-answer": "invalid-json"}
    return NoAnswerError(
        kinds.get(reply.meaning, "provider"),
        f"HTTP {status}{refused}: {said}",
        sent,
        status=status,
        meaning=reply.meaning,
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 7200 else f"{seconds / 60:.0f} min"


def fatal_refusal(
    status: int | None,
    code: str,
    said: str,
    *,
    address: str,
    path: str,
    model: str | None,
    meaning: ErrorMeaning | None = None,
) -> ProviderError | None:
    """What to tell the user when no request will have an answer; None when the refusal is of one request only.

    Args:
        status: HTTP status; None where there is none, or it says nothing of the others.
        code: The provider's word for the error.
        said: What the provider said, without keys.
        address: The provider's address, without credentials.
        path: What was asked for below the address.
        model: The model that was asked for.
        meaning: What the error is about; by default told by the words.
    """
    meaning = meaning or meaning_of(status or 400, code, said)
    match meaning:
        case _ if status == 407:
            return ProviderError(f"the proxy on the way to {address} refuses ({said}); check its user and password")
        case "key":
            variable = (provider_of(address).key_env or ("OPENAI_API_KEY",))[0]
            return ProviderError(f"{address} does not accept the key ({said}); check {variable}")
        case "access":
            return ProviderError(f"{address} denies access ({said}); check the key's rights and the model's terms")
        case "model":
            return ProviderError(f"{address} has no model {model!r} ({said}); check --model and --base-url")
        case "quota":
            return ProviderError(
                f"{address} says that the quota is used up ({said}); add credit or wait until it is renewed, then start the same run again"
            )
        case _ if status == 404:
            return ProviderError(f"{address} has no {path} ({said}); check --base-url, --model and --api")
        case _:
            return None


def passes(status: int) -> bool:
    """Whether an HTTP status speaks of something that passes."""
    return status in {408, 409, 429} or (status >= 500 and status != _NOT_IMPLEMENTED)


def is_transient(error: BaseException) -> bool:
    """Whether asking again may help."""
    if isinstance(error, RefusedError):
        reply = error.reply
        soon = reply.wait_s is None or reply.wait_s <= LONGEST_OBEYED_S
        return reply.meaning == "passing" or (reply.meaning == "wait" and soon)
    if isinstance(error, UnreachableError):
        return not error.lasting
    return isinstance(error, (BrokenError, TimedOutError, StaleReplyError))
