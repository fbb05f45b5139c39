"""From what a server sent to an answer: the same way, whether it came by itself or in the file of a batch."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from relabel.label import Answer
from relabel.labelling.pricing import Price
from relabel.labelling.providers import stated_cost, upstream_of
from relabel.labelling.wire import Api, NotAReplyError, read
from relabel.redaction import clean_document, may_hold_secret

DEEPEST = 100
"""Lists and objects in each other; what is deeper can be read but not written again, and no provider sends it."""


def parsed(text: str) -> Any:
    """The document that a server sent, with every secret taken out of everything in it.

    Args:
        text: What was sent.

    Raises:
        NotAReplyError: It is no JSON, or nested too deep.
    """
    try:
        sent = json.loads(text, parse_constant=lambda _: None)  # NaN and Infinity are not JSON, and could not be stored
    except (ValueError, RecursionError) as error:
        raise NotAReplyError("no JSON") from error
    if text.count("[") + text.count("{") > DEEPEST and _is_deep(sent):
        raise NotAReplyError("nested too deep")
    return clean_document(sent) if may_hold_secret(text) else sent


def answer_to(
    key: str,
    api: Api,
    sent: Any,
    price: Price | None,
    *,
    attempts: int,
    latency_s: float,
    came: datetime,
    repaired: bool = False,
) -> Answer:
    """The answer in a reply, with what it cost.

    Args:
        key: The request's key.
        api: The dialect.
        sent: The document that was sent.
        price: The model's price; None when unknown.
        attempts: Times that the request was sent.
        latency_s: Seconds from asking to the answer.
        came: When it came.
        repaired: Whether it was asked for again, with what was wrong with an answer before.

    Raises:
        NotAReplyError: It is no reply in this dialect.
    """
    reply = read(api, sent)
    stated = stated_cost(sent)
    # A server that counts no tokens does not work for nothing: what the answer cost is unknown.
    # What a provider says that it charged is what it charged; the table stands beside it.
    counted = reply.usage.prompt + reply.usage.completion > 0 or price is None or price.input == price.output == 0
    table = price.cost(reply.usage) if price is not None and counted else None
    return Answer(
        request_key=key,
        content=reply.content,
        refusal=reply.refusal,
        finish_reason=reply.finish_reason,
        model_returned=reply.model,
        usage=reply.usage,
        attempts=attempts,
        latency_s=latency_s,
        created_at=came.isoformat(timespec="microseconds"),
        cost_usd=table if stated is None else stated,
        table_usd=None if stated is None else table,
        upstream=upstream_of(sent),
        repaired=repaired,
        raw=sent,
    )


def _is_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(DEEPEST):
        layer = [x for v in layer for x in (v.values() if isinstance(v, dict) else v) if isinstance(x, (dict, list))]
        if not layer:
            return False
    return True
