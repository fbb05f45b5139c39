"""Answers and labels: what comes back from a model, and when it counts as a label."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, ValidationError, create_model

from relabel.rubric import Rubric
from relabel.settings import Frozen, Strict

# Why a label is missing.
FailureKind = Literal["refusal", "length", "content-filter", "invalid-json", "schema", "provider", "timeout", "budget"]

# Characters of a rationale that a label keeps; the store has the whole answer.
MAX_RATIONALE = 4000


class Usage(Frozen):
    """Tokens of one answer.

    Attributes:
        prompt: All of the prompt's; of them `cached` were read from the provider's prefix cache and `written` to it.
        completion: All that are billed as output; of them `reasoning` were hidden thinking.
    """

    prompt: int = Field(default=0, ge=0, lt=2**31)
    cached: int = Field(default=0, ge=0, lt=2**31)
    written: int = Field(default=0, ge=0, lt=2**31)
    completion: int = Field(default=0, ge=0, lt=2**31)
    reasoning: int = Field(default=0, ge=0, lt=2**31)


class Answer(Frozen):
    """A model's raw reply to one request, with all that is needed to trace and to price it.

    Attributes:
        request_key: Key of the request that it answers.
        content: The text of the reply; None when there is none.
        refusal: The model's refusal, where the provider marks it as one.
        finish_reason: The provider's word for why the reply ended.
        model_returned: The model that the provider says answered.
        usage: Tokens.
        attempts: Requests sent for this answer, failed ones included.
        latency_s: Seconds from sending to the reply's end, of the attempt that succeeded.
        created_at: When the answer came, ISO 8601 in UTC.
        cost_usd: What the answer cost when it was bought, as stated by the provider, else by the price table; None if unknown.
        table_usd: What it costs by the price table, if the provider stated a cost of its own.
        upstream: The provider that answered behind a gateway or router, as this reports it.
        service_tier: The provider's service tier, as it reports it.
        repaired: True when an earlier answer was not a label and this one was asked for with the error.
        raw: The provider's reply, whole.
        origin: The pack that it was unpacked from, whose contents relabel cannot verify; None for an answer that this store
            bought itself.
    """

    model_config = ConfigDict(allow_inf_nan=True)  # a gateway's cost of NaN must not make a paid answer unreadable

    request_key: str
    content: str | None
    refusal: str | None = None
    finish_reason: str | None
    model_returned: str | None
    usage: Usage
    attempts: int = Field(ge=1)
    latency_s: float = Field(ge=0)
    created_at: str
    cost_usd: float | None
    table_usd: float | None = None
    upstream: str | None = None
    service_tier: str | None = None
    repaired: bool = False
    raw: dict[str, Any]
    origin: str | None = Field(default=None, exclude=True)


# Fewest characters of a reply that is too long for two equal ones to be made within a second by chance.
_DISTINCTIVE_CHARS = 45
# A larger `created` is a time, in seconds since 1970.
_EARLIEST_TIME = 1_000_000_000
# Part of a fingerprint: the completion was made before its request was sent, so it comes from a cache.
OLD = "old"
# A completion is `OLD` if its time, in whole seconds, lies further before the request; in seconds.
_OLD_S = 1.25


def fingerprint(answer: Answer) -> str:
    """Fingerprint of a completion: up to three parts, joined by hyphens.

    The first is a hash of its id and text, or of the whole reply if it has no id. The second is a hash of its text and the time
    when it was made, because a cache may give a stored reply a new id. The third is `OLD`.
    """
    own_id, created, text = answer.raw.get("id"), answer.raw.get("created"), answer.content or ""
    identity = f"{own_id}\n{answer.content}" if own_id else json.dumps(answer.raw, sort_keys=True, default=str)
    parts = [_short_hash(identity)]
    if isinstance(created, int) and created > _EARLIEST_TIME and len(text) >= _DISTINCTIVE_CHARS:
        parts += [_short_hash(f"{created}\n{text}"), *([OLD] if created < _sent_at(answer) - _OLD_S else [])]
    return "-".join(parts)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _sent_at(answer: Answer) -> float:
    """When the request of an answer was sent, in seconds since 1970."""
    try:
        return datetime.fromisoformat(answer.created_at).timestamp() - answer.latency_s
    except (ValueError, OverflowError, OSError):  # in a pack, it may be any text
        return 0.0


class Label(NamedTuple):
    """An answer that passed validation, for one task, setting and sample: a row of a run's `labels.parquet`.

    Attributes:
        label: A label of the rubric.
        probability: Probability of the label, 0-1; None if it was not measured.
        cost_usd: What the answer cost when it was bought, also when it now comes from the store.
        latency_s: Seconds that the answer took.
        from_store: True when this run did not buy the answer.
        sample: Counts the repeats of a task under a setting, from 0, over all orders of labels and examples.
        repaired: True when an earlier answer was not a label and this one was asked for with the error.
        unwrapped: True when the label was read from within other text, such as prose, a code fence or visible thinking.
        reasoning_tokens: Tokens of hidden thinking, counted in `completion_tokens`.
        upstream: The provider that answered behind a gateway or router, as this reports it.
        service_tier: The provider's service tier, as it reports it.
        variant: Index of the order of labels and examples in the question, from 0; the manifest's parameters list the orders.
        origin: The pack that its answer came from, if any.
        answer_id: Fingerprint of the completion, by which `cached_repeats` finds answers that a cache gave twice; None for
            labels made elsewhere.
    """

    # Pydantic models and dataclasses take longer to create, and a run has 38,000 labels, from answers that were validated before.
    task_id: str
    onet_soc_code: str
    setting: str
    sample: int
    label: str
    rationale: str = ""
    probability: float | None = None
    request_key: str = ""
    model_returned: str | None = None
    finish_reason: str | None = None
    attempts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    latency_s: float = 0.0
    created_at: str = ""
    from_store: bool = False
    variant: int = 0
    origin: str | None = None
    repaired: bool = False
    unwrapped: bool = False
    reasoning_tokens: int = 0
    upstream: str | None = None
    service_tier: str | None = None
    answer_id: str | None = None


def cached_repeats(samples: Sequence[tuple[tuple[str, str, str], int, str, str | None]]) -> list[bool]:
    """Samples that a gateway's cache answered with an earlier answer to the same question; the first sample never counts.

    A repeat has the completion id of an earlier sample, or its text and time, if this time is before the request of the repeat.
    Ids and texts that a server gives to different questions prove nothing, so they do not count. Nor does an equal text made in
    the same second, which a model at temperature 0 may give.

    Args:
        samples: Question (code, task and setting), sample, request key and answer id (None where it is not known) of each.
    """
    fingerprints = [tuple(answer.split("-")) if answer else () for *_, answer in samples]
    hashes, old = [parts[:2] for parts in fingerprints], [OLD in parts for parts in fingerprints]
    # Tasks with identical questions share a request key and its answer. They count as one question, the first.
    first: dict[tuple[str, str | None], tuple[str, str, str]] = {}
    questions: dict[str, set[tuple[str, str, str]]] = {}
    for (question, _, key, answer), own_hashes in zip(samples, hashes, strict=True):
        for digest in own_hashes:
            questions.setdefault(digest, set()).add(first.setdefault((key, answer), question))
    repeated, answered = [False] * len(samples), set[tuple[object, str]]()
    for index in sorted(range(len(samples)), key=lambda index: (old[index], samples[index][1])):
        pairs = [(samples[index][0], digest) for digest in hashes[index]]
        repeated[index] = not answered.isdisjoint(pairs if old[index] else pairs[:1])
        answered.update(pair for pair in pairs if len(questions[pair[1]]) == 1)
    return repeated


class Failure(Frozen):
    """A missing label: a line of a run's `failures.jsonl`.

    Attributes:
        kind: Why it is missing.
        message: What the provider or the validation said last.
        attempts: Requests sent for it.
    """

    task_id: str
    onet_soc_code: str
    setting: str
    sample: int
    kind: FailureKind
    message: str
    attempts: int
    request_key: str


class Judgement(Strict):
    """One task's label and rationale, as parsed from an answer."""

    rationale: str
    label: str


class Reading(NamedTuple):
    """A parsed answer.

    Attributes:
        judged: Label and rationale of each task, by the task's position in the request.
        unwrapped: Whether they were extracted from other text.
        label_first: Whether a label precedes its rationale, which then cannot have led to it.
        probability: Probability of the only label, 0-1; None if it was not measured.
    """

    judged: Mapping[int, Judgement]
    unwrapped: bool = False
    label_first: bool = False
    probability: float | None = None


class InvalidAnswerError(Exception):
    """An answer is not a label; `kind` and `reason` say why."""

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: FailureKind = kind
        self.reason = reason


@cache
def _answer_model(labels: tuple[str, ...]) -> type[Judgement]:
    """The model that validates an answer: a rationale, and one of the rubric's labels."""
    fields: dict[str, Any] = {
        "rationale": (str, Field(min_length=1)),
        "label": (Literal[labels], ...),
    }
    return create_model("answer", __base__=Judgement, **fields)


def answer_schema(rubric: Rubric, *, max_chars: int | None = None, packed: bool = False) -> dict[str, Any]:
    """The JSON schema of an answer, as sent to providers.

    Args:
        rubric: The rubric whose labels are allowed.
        max_chars: Most characters of the rationale, for servers that can enforce it. Providers' strict modes refuse the
            keyword, so it is left out by default.
        packed: Whether an answer judges several tasks, each by its id.
    """
    rationale = {"type": "string", **({} if max_chars is None else {"maxLength": max_chars})}
    fields = {"rationale": rationale, "label": {"type": "string", "enum": list(rubric.labels)}}
    if not packed:
        return _object(fields)
    return _object({"answers": {"type": "array", "items": _object({"id": {"type": "string"}, **fields})}})


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


# The marks of most models, of Mistral, of Cohere and Gemma, and of gpt-oss.
_END_OF_THOUGHT = re.compile(
    r"(?i)</(?:\w+:)?(?:think(?:ing)?|thoughts?|reasoning)>|\[/THINK\]|<(?:\|END_THINKING|channel)\|>|<\|channel\|>final[^{]{0,40}<\|message\|>"
)
_THOUGHT = re.compile(
    r"(?i)<(?:\w+:)?(?:think(?:ing)?|thoughts?|reasoning)>|\[THINK\]|<\|(?:START_THINKING\||channel)>|<\|channel\|>analysis<\|message\|>"
)
# Characters of an invalid answer in the message of a failure.
_EXCERPT = 120
# Fields in which a server may return an answer that it mistook for something else.
_BESIDE_CONTENT = ("reasoning_content", "reasoning", "tool_calls", "function_call")


def read_answer(answer: Answer, rubric: Rubric, count: int = 1) -> Reading:
    """Parse and validate an answer.

    Nothing is guessed: an answer is one JSON object with exactly the requested keys and a known label, which may be in another
    case. The object may follow visible thinking, or be in a code fence, within prose or within other JSON, as long as there is
    only one.

    Args:
        answer: The answer.
        rubric: The rubric.
        count: Number of tasks in the request. Several are numbered from 1. An entry that is invalid, or whose number is unknown
            or occurs twice, is left out; its task must be asked about alone.

    Raises:
        InvalidAnswerError: The answer is a refusal, was cut or filtered, is not JSON, or does not fit the schema.
    """
    data, unwrapped = _document(answer)
    if count == 1:
        return Reading({0: _judgement(data, rubric)}, unwrapped, _is_label_first(data))
    entries = data.get("answers")
    if not isinstance(entries, list):
        raise InvalidAnswerError("schema", "the reply has no list of answers")
    entries_by_id: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if isinstance(entry, Mapping):
            entries_by_id.setdefault(str(entry.get("id")), []).append(entry)
    judged: dict[int, Judgement] = {}
    for position in range(count):
        matches = entries_by_id.get(str(position + 1), [])
        if len(matches) == 1:
            with suppress(InvalidAnswerError):
                judged[position] = _judgement({k: v for k, v in matches[0].items() if k != "id"}, rubric)
    if not judged:
        raise InvalidAnswerError("schema", "no entry of the answer matches a task")
    return Reading(judged, unwrapped, _is_label_first(entries_by_id[str(min(judged) + 1)][0]))


def _is_label_first(data: Mapping[str, Any]) -> bool:
    return next(key for key in data if key != "id") == "label"


def check_whole(answer: Answer) -> None:
    """Check that an answer was not refused, filtered or cut off.

    Raises:
        InvalidAnswerError: It was.
    """
    if answer.refusal or answer.finish_reason == "refusal":
        text = (answer.refusal or answer.content or "")[:300]
        raise InvalidAnswerError("refusal", f"the model refused: {text}" if text else "the model refused")
    if answer.finish_reason == "content_filter":
        raise InvalidAnswerError("content-filter", "the provider's content filter stopped the answer")
    if answer.finish_reason == "length":
        raise InvalidAnswerError("length", f"the answer was cut after {answer.usage.completion} tokens")


def _document(answer: Answer) -> tuple[Mapping[str, Any], bool]:
    """The JSON document in an answer, and whether it is surrounded by other text."""
    check_whole(answer)
    content = (answer.content or "").strip()
    if not content:
        return _misplaced(answer), True
    problem = ""
    try:
        document: Any = _DECODER.decode(content)
    except (ValueError, RecursionError) as error:
        document, problem = content, f": {error}"
    if _is_document(document):
        return document, False
    documents = _within(document if isinstance(document, str) else content)
    documents = documents or ([document] if isinstance(document, Mapping) else [])
    if len(documents) != 1:
        many = f"holds {len(documents)} different JSON objects" if documents else f"is not one JSON object{problem}"
        raise InvalidAnswerError("invalid-json", f"the answer {many}; it reads {_excerpt(content)}")
    return documents[0], True


def _misplaced(answer: Answer) -> Mapping[str, Any]:
    """The document that the server took for thinking, if it is all that came: https://github.com/vllm-project/vllm/issues/48863.

    Raises:
        InvalidAnswerError: There is none.
    """
    others: dict[str, Any] = {}
    with suppress(KeyError, IndexError, TypeError, AttributeError):
        message = answer.raw["choices"][0]["message"]
        others = {name: message[name] for name in _BESIDE_CONTENT if message.get(name)}
    for text in others.values():
        with suppress(ValueError, AttributeError, RecursionError):
            if _is_document(document := _DECODER.decode(text.strip())):
                return document
    instead = f": all that came is {' and '.join(others)}; a setting of the server puts it there" if others else ""
    raise InvalidAnswerError("invalid-json", f"the answer is empty{instead}")


def _is_document(data: Any) -> bool:
    """Whether a JSON value is an answer, and not a schema or an object around the answer."""
    return isinstance(data, Mapping) and isinstance(data.get("label", data.get("answers")), (str, int, list))


def _within(content: str) -> list[Mapping[str, Any]]:
    """The distinct JSON answers within a text, after any visible thinking; thinking that was cut off contains none."""
    text = _THOUGHT.split(_END_OF_THOUGHT.split(content)[-1])[0]
    documents: list[Mapping[str, Any]] = []
    end = 0
    for brace in re.finditer("{", text):
        if brace.start() >= end:
            with suppress(ValueError, RecursionError):
                data, after = _DECODER.raw_decode(text, brace.start())
                if _is_document(data):  # otherwise it may hold the answer
                    end = after
                    documents += [] if data in documents else [data]
    return documents


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}...")


# Characters that may stand around a label without changing it.
_AROUND_LABEL = " \t\r\n\"'`\u2018\u2019\u201c\u201d"


def _known_label(written: Any, labels: Collection[str]) -> Any:
    """The one label that a spelling means, regardless of case, hyphens, and quotes around it; unchanged without exactly one."""
    text = str(written) if type(written) is int else written
    if text in labels or not isinstance(text, str):
        return text
    text = text.strip(_AROUND_LABEL)
    alike = [text] if text in labels else [label for label in labels if _folded(label) == _folded(text)]
    return alike[0] if len(alike) == 1 else written


def _folded(label: str) -> str:
    return re.sub(r"[\s_-]+", "-", label.casefold())


def _judgement(data: Mapping[str, Any], rubric: Rubric) -> Judgement:
    labels = tuple(rubric.labels)
    known = {key: _known_label(value, labels) if key == "label" else value for key, value in data.items()}
    if isinstance(rationale := known.get("rationale"), str):  # no file takes half of a surrogate pair, few a NUL
        known["rationale"] = rationale.replace("\0", "").encode("utf-8", "replace").decode("utf-8")[:MAX_RATIONALE]
    try:
        return _answer_model(labels).model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "answer"
        excerpt = _excerpt(json.dumps(data, ensure_ascii=False))
        raise InvalidAnswerError("schema", f"{where}: {first['msg']}; the answer reads {excerpt}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key occurs twice")
    return mapping


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# Created once, because `json.loads` with arguments creates one for each answer. `strict=False` because models leave line breaks
# in strings unescaped.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, strict=False)
