"""Probabilities: of a label in a written answer, and of each label where one token decides."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from relabel.label import Answer, InvalidAnswerError, check_whole
from relabel.labelling.prompt import letters
from relabel.labelling.wire import Api, NotAReplyError, read
from relabel.rubric import Rubric


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
