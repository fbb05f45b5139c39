"""The two API dialects, Chat Completions and Responses: their request bodies, and the parsing of their replies."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from relabel.labels import MAX_RATIONALE, FailureKind, Usage

Api = Literal["chat", "responses"]
# Response formats, from the strictest to none.
Form = Literal["json_schema", "json_object", "text"]

FORMS: tuple[Form, ...] = ("json_schema", "json_object", "text")
# Path of each dialect below the base URL. The Batch API needs `/v1` before it.
PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "responses": "/responses"}


class NotAReplyError(Exception):
    """The document is not a reply in this dialect. `kind` is `content-filter` if it has no choices, as for blocked questions."""

    kind: FailureKind = "provider"


class Reply(NamedTuple):
    """A parsed reply of either dialect, with the names of `Answer`.

    Attributes:
        finish_reason: `stop`, `length`, `content_filter`, or the server's own word, in lower case with underscores.
        logprobs: For each token of the content: its text, its log probability, and the log probabilities of the likeliest
            alternatives; None if the server gives none.
    """

    content: str | None
    refusal: str | None
    finish_reason: str | None
    model_returned: str | None
    usage: Usage
    logprobs: tuple[tuple[str, float, Mapping[str, float]], ...] | None = None


def body(
    api: Api,
    model: str,
    messages: Sequence[Mapping[str, str]],
    form: Form,
    schema: Mapping[str, Any],
    params: Mapping[str, Any],
) -> dict[str, Any]:
    """The document to post.

    Args:
        api: The dialect.
        model: Name of the model at the provider.
        messages: Chat messages.
        form: The response format.
        schema: JSON schema of the answer.
        params: The user's parameters; no others are sent.
    """
    strict = {"name": "answer", "strict": True, "schema": dict(schema)} if form == "json_schema" else {}
    if api == "responses":
        text = {"format": {"type": form, **strict}, **object_of(params.get("text"))}
        response_format = {} if form == "text" else {"text": text}
        return {"model": model, "input": [dict(m) for m in messages], **params, **response_format}
    format_type = {"type": form, "json_schema": strict} if strict else {"type": form}
    response_format = {} if form == "text" else {"response_format": format_type}
    return {"model": model, "messages": [dict(m) for m in messages], **response_format, **params}


def messages_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages in a posted document of either dialect."""
    return document["messages"] if "messages" in document else document["input"]


def with_messages(document: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same document with other messages."""
    return {**document, ("messages" if "messages" in document else "input"): [dict(m) for m in messages]}


def repaired(body: Mapping[str, Any], answer: str, reason: str) -> dict[str, Any]:
    """The document to post in a second attempt: it shows the model its invalid answer, and why it is invalid."""
    message = (
        f"That answer cannot be used: {reason}. Answer again, with the JSON object that was asked for and nothing else."
    )
    answer = answer.strip()[:MAX_RATIONALE] or "(no answer)"  # several providers refuse an empty turn
    turns = [*messages_of(body), {"role": "assistant", "content": answer}, {"role": "user", "content": message}]
    return with_messages(body, turns)


def object_of(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, otherwise an empty one."""
    return value if isinstance(value, Mapping) else {}


# NaN and Infinity become null: they are not JSON and could not be stored.
_READER = json.JSONDecoder(parse_constant=lambda _: None)


def document_in(text: str) -> Any:
    """The JSON document of a reply, which some gateways send as an event stream, unasked.

    Raises:
        ValueError, TypeError, AttributeError, RecursionError: There is none.
    """
    text = text.removeprefix("\ufeff").lstrip()
    return _unstreamed(text) if text.startswith(("data:", "event:", "id:", "retry:")) else _READER.decode(text)


def _unstreamed(text: str) -> Mapping[str, Any]:
    chunks = [object_of(_READER.decode(line)) for line in re.findall(r"(?m)^data:(.*\{.*)", text)]
    whole = {name: value for chunk in chunks for name, value in chunk.items() if value}
    if object_of(whole.get("response")).get("status") in {"completed", "incomplete", "failed"}:
        return whole["response"]
    choices = [choice for chunk in chunks for choice in chunk.get("choices") or () if not choice.get("index")]
    if error := object_of(whole.get("error")):
        return {**whole, "choices": [{"error": error}]} if choices else {"error": error}
    contents = [object_of(choice.get("delta") or choice.get("message")).get("content") or "" for choice in choices]
    ends = [end for choice in choices if (end := choice.get("finish_reason"))]
    if not ends:
        raise ValueError("the stream broke off")
    return {**whole, "choices": [{"finish_reason": ends[-1], "message": {"content": "".join(contents)}}]}


def output_bound(document: Mapping[str, Any]) -> int | None:
    """The maximum number of output tokens in a posted document; None if it sets none."""
    bounds = [document.get(name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens")]
    # If there are several, servers differ in which one they apply: the largest may be charged.
    return max((bound for bound in bounds if type(bound) is int), default=None)


def read(api: Api, raw: Any) -> Reply:
    """Parse a reply.

    Raises:
        NotAReplyError: It is not a reply in this dialect.
    """
    try:
        return _read_responses(raw) if api == "responses" else _read_chat(raw)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise NotAReplyError(str(error)) from error


# OpenAI's finish reasons, by other providers' words for them in lower case.
_FINISH: Mapping[str, str] = {
    **dict.fromkeys(("eos", "end_turn", "stop_sequence", "complete"), "stop"),
    **dict.fromkeys(("max_tokens", "model_length", "max_output_tokens", "model_context_window_exceeded"), "length"),
    **dict.fromkeys(
        ("safety", "recitation", "blocklist", "prohibited_content", "spii", "sensitive", "guardrail_intervened"),
        "content_filter",
    ),
}  # fmt: skip


def _finish(word: Any) -> str | None:
    reason = re.sub(r"(?<=[a-z])(?=[A-Z])|[ -]+", "_", _text(word) or "").lower()
    return "content_filter" if reason.startswith("content_filter") else _FINISH.get(reason, reason or None)


def _read_chat(raw: Any) -> Reply:
    usage = raw.get("usage")
    # The reply to a prompt that a safety filter refuses. Gemini may leave the field out.
    if not (raw.get("choices") if raw.get("object") == "chat.completion" else raw["choices"]):
        if usage:
            return Reply(None, None, "content_filter", _text(raw.get("model")), _usage(usage))
        blocked = NotAReplyError("no choices")
        blocked.kind = "content-filter"
        raise blocked
    choice = raw["choices"][0]
    message = choice.get("message") or choice.get("delta") or ({} if choice.get("finish_reason") else choice["message"])
    content, calls = message.get("content"), message.get("tool_calls") or [{"function": message.get("function_call")}]
    if not content and len(calls) == 1:  # some gateways ask for JSON by way of a tool
        content = object_of(object_of(calls[0]).get("function")).get("arguments")
    if isinstance(content, Mapping):  # the answer itself, parsed
        content = json.dumps(content, ensure_ascii=False)
    content = _text_of(_parts(content))
    return Reply(
        content=content,
        refusal=_text(message.get("refusal")),
        finish_reason=_finish(choice.get("finish_reason")),
        model_returned=_text(raw.get("model")),
        usage=_usage(usage, wrote=bool(content)),
        logprobs=_logprobs((choice.get("logprobs") or {}).get("content")),
    )


def _parts(content: Any) -> list[Mapping[str, Any]]:
    """The parts of a message, whose content may also be a text, or have texts among its parts."""
    parts = content if isinstance(content, list) else [content]
    return [{"text": part} if isinstance(part, str) else object_of(part) for part in parts if part]


def _text_of(parts: Sequence[Mapping[str, Any]]) -> str | None:
    """The text of the parts that have text, without any thinking."""
    texts = [part["text"] or "" for part in parts if part.get("type", "text") in {"text", "output_text"}]
    return _text("".join(texts)) if texts else None


def _read_responses(raw: Any) -> Reply:
    messages = [item for item in raw["output"] if item.get("type", "message") == "message"]
    # From GPT-5.4 on, remarks before the answer may come as messages of their own.
    parts = [part for item in messages if item.get("phase") != "commentary" for part in _parts(item.get("content"))]
    refusals = [part.get("refusal") or "" for part in parts if part.get("type") == "refusal"]
    tokens = [token for part in parts for token in part.get("logprobs") or ()]
    reason = (raw.get("incomplete_details") or {}).get("reason")
    status, content = raw.get("status"), _text_of(parts)
    return Reply(
        content=content,
        refusal=_text("".join(refusals)) or None,
        finish_reason=_finish(reason or ("stop" if status == "completed" else status)),
        model_returned=_text(raw.get("model")),
        usage=_usage(raw.get("usage"), wrote=bool(content)),
        logprobs=_logprobs(tokens or None),
    )


# Names for the number of cached tokens, if it is not in the details.
_CACHED = ("prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens", "cache_read_input_tokens")


def _usage(usage: Any, *, wrote: bool = False) -> Usage:
    """Token counts; all 0, which means unknown, if one of them is missing or impossible, because costs are never guessed.

    Args:
        usage: The counts, by the names of either dialect.
        wrote: Whether there is an answer, so that neither the prompt nor the answer can have 0 tokens.
    """
    usage = object_of(usage)
    input_name, output_name = ("prompt", "completion") if "prompt_tokens" in usage else ("input", "output")
    details, output_details = (object_of(usage.get(f"{name}_tokens_details")) for name in (input_name, output_name))
    cached = details.get("cached_tokens") or next(filter(None, map(usage.get, _CACHED)), None)
    written = details.get("cache_write_tokens") or usage.get("cache_creation_input_tokens")
    completion, total = usage.get(f"{output_name}_tokens"), usage.get("total_tokens")
    completion = 0 if completion is None and total else completion  # what only the total counts is added below
    reasoning = output_details.get("reasoning_tokens")
    counts = (usage.get(f"{input_name}_tokens"), cached, written, completion, reasoning, total)
    if counts[0] is None or counts[3] is None or not all(count is None or _is_count(count) for count in counts):
        return Usage()
    prompt, cached, written, completion, reasoning, total = (int(count or 0) for count in counts)
    # Anthropic counts tokens of its cache separately.
    if cached + written > prompt or total == prompt + cached + written + completion:
        prompt += cached + written
    # Some providers bill thinking as output, but count it only in the total, or beside the output instead of within it.
    hidden = max(0, total - prompt - completion, reasoning if reasoning > completion else 0)
    hidden = hidden if prompt or completion else 0
    completion += hidden
    if wrote and not (prompt and completion):
        return Usage()
    return Usage(prompt=prompt, cached=cached, written=written, completion=completion, reasoning=max(reasoning, hidden))


def _is_count(value: Any) -> bool:
    return type(value) in {int, float} and 0 <= value < 2**31 and value == int(value)


def _logprobs(tokens: Any) -> tuple[tuple[str, float, Mapping[str, float]], ...] | None:
    logprobs: list[tuple[str, float, Mapping[str, float]]] = []
    try:
        for token in tokens or ():
            # A log probability of None means minus infinity.
            others = [other for other in token.get("top_logprobs") or () if other["logprob"] is not None]
            likely = {str(other["token"]): _logprob(other["logprob"]) for other in others}
            logprobs.append((str(token["token"]), _logprob(token["logprob"]), likely))
    except (KeyError, TypeError, AttributeError, ValueError):  # the answer is usable without them
        return None
    return tuple(logprobs) or None


def _logprob(value: Any) -> float:
    number = float(value)
    if math.isnan(number):
        raise ValueError("a log probability is not a number")
    return min(0.0, number)


def _text(value: Any) -> str | None:
    # Lone surrogates are valid in JSON and in Python, but cannot be encoded in a file: replace them.
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else None
