"""From what a server sent to an answer, and to the probability of a label: the same way, whether it came by itself or in the file of a batch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from relabel.labelling.pricing import Price
from relabel.labelling.prompt import letters
from relabel.labelling.providers import stated_cost, tier_of, upstream_of
from relabel.labelling.wire import Api, NotAReplyError, read
from relabel.labels import Answer, InvalidAnswerError, check_whole
from relabel.redaction import clean_document, may_hold_secret
from relabel.rubric import Rubric

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
    headers: Mapping[str, str] | None = None,
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
        headers: Headers that came with it, by lower-case name.

    Raises:
        NotAReplyError: It is no reply in this dialect.
    """
    reply = read(api, sent)
    stated = stated_cost(sent, headers or {})
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
        upstream=upstream_of(sent, headers or {}),
        service_tier=tier_of(sent),
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


def letter_logprobs(answer: Answer, rubric: Rubric, api: Api) -> dict[str, float]:
    """How likely each label's letter was as the first token.

    Args:
        answer: An answer to a request that asked for one token with its alternatives.
        rubric: The rubric; its labels go by the letters A, B, C...
        api: The dialect of the raw reply.

    Returns:
        Natural logarithm of the probability by label, normalised over the labels. A letter that is not among the
        alternatives gets the least likely of them as its upper bound.

    Raises:
        InvalidAnswerError: The server gave no log probabilities, or no letter is among the alternatives.
    """
    if answer.finish_reason != "length":  # one token is asked for, so being cut is as it should be
        check_whole(answer)
    try:
        tokens = read(api, answer.raw).logprobs
    except NotAReplyError as error:
        raise InvalidAnswerError("schema", f"the reply cannot be read again: {error}") from error
    if not tokens:
        raise InvalidAnswerError("schema", "the server gave no log probabilities; use --decide json with this server")
    token, logprob, likely = tokens[0]
    masses: dict[str, float] = {}
    for text, value in {token: logprob, **likely}.items():
        masses[text.strip()] = masses.get(text.strip(), 0.0) + math.exp(value)
    by_letter = {label: masses.get(letter) for label, letter in letters(rubric).items()}
    if all(mass is None for mass in by_letter.values()):
        raise InvalidAnswerError(
            "schema", f"none of the letters is among the likely tokens; the likeliest is {token!r}"
        )
    least = min(masses.values())
    known = {label: max(mass if mass is not None else least, 1e-300) for label, mass in by_letter.items()}
    total = sum(known.values())
    return {label: math.log(mass / total) for label, mass in known.items()}


def label_probability(answer: Answer, label: str, api: Api) -> float | None:
    """Probability of the label within a written answer, where the server gave log probabilities.

    It is the product over the tokens that spell the label's value: how sure the model was of the word, given the
    rationale that it had written before. None where the server gave none or the tokens do not spell the content.
    """
    try:
        tokens = read(api, answer.raw).logprobs
    except NotAReplyError:
        return None
    content = answer.content or ""
    if not tokens or "".join(token for token, _, _ in tokens) != content:
        return None
    key = content.rfind('"label"')
    start = content.find(json.dumps(label), key + 7) + 1
    if key < 0 or start <= 0:
        return None
    end, at, total = start + len(label), 0, 0.0
    for token, logprob, _ in tokens:
        if at < end and at + len(token) > start:
            total += logprob
        at += len(token)
    return math.exp(total)


def decided(row: Mapping[str, float]) -> tuple[str, float]:
    """Decide by log probability.

    Args:
        row: Log probability by label.

    Returns:
        The likeliest label and its probability (0-1) among the labels.
    """
    top = max(row.values())
    total = math.fsum(math.exp(value - top) for value in row.values())
    # In a tie the later label counts: rubrics list labels from the most to the least exposed.
    label = max(reversed(list(row)), key=lambda name: round(row[name], 9))
    return label, math.exp(row[label] - top) / total
