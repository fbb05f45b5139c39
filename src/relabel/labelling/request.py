"""A request: everything that goes over the wire for one answer, and the key that is the hash of exactly that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field

from relabel.errors import UsageError
from relabel.label import answer_schema
from relabel.labelling.prompt import Prompt
from relabel.rubric import Rubric
from relabel.task import Task

KEY_VERSION = 1
"""Counts up when the meaning of a key changes; answers under older keys are then asked anew."""


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value that is hashed: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


class Endpoint(BaseModel):
    """A model behind an address, as far as answers depend on it.

    Attributes:
        host: Host, port and path of the API without scheme and credentials; `local` for the embedded server, whose
            port changes from start to start.
        model: The model's name on the wire.
        params: Sampling parameters that somebody asked for; nothing else is sent.
        rationale_chars: Bound of the rationale in the schema, for servers whose grammar can hold one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    model: str
    params: Mapping[str, Any] = Field(default_factory=dict)
    rationale_chars: int | None = None


class Request(BaseModel):
    """One question to one model.

    Attributes:
        host: As in `Endpoint`.
        body: The JSON document that is posted.
        sample: Counts repeats of the same question, from 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    body: Mapping[str, Any]
    sample: int = Field(default=0, ge=0)

    @cached_property
    def key(self) -> str:
        """sha256, in hex, of the canonical JSON of all of it and of the key's format version."""
        wire = {"key_version": KEY_VERSION, "host": self.host, "body": self.body, "sample": self.sample}
        return hashlib.sha256(canonical_json(wire)).hexdigest()


class Planned(BaseModel):
    """A label that is wanted: for which task, setting and sample, and the request that gets it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    setting: str
    sample: int
    request: Request


def response_format(rubric: Rubric, rationale_chars: int | None = None) -> dict[str, Any]:
    """The `response_format` that makes a server hold to the rubric's answer schema."""
    schema = answer_schema(rubric, max_chars=rationale_chars)
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def plan(
    tasks: Sequence[Task],
    rubric: Rubric,
    prompt: Prompt,
    endpoint: Endpoint,
    *,
    settings: Sequence[str],
    samples: int = 1,
    examples: bool = True,
) -> Iterator[Planned]:
    """Yield every wanted label, one at a time.

    All tasks of one setting come before the next setting, so that a prefix cache keeps one prompt at a time.

    Args:
        tasks: The tasks.
        rubric: The rubric.
        prompt: The template.
        endpoint: The model.
        settings: Names of settings of the rubric.
        samples: Times that each question is asked.
        examples: Whether worked examples are shown.
    """
    form = response_format(rubric, endpoint.rationale_chars)
    for setting in settings:
        for task in tasks:
            messages = prompt.messages(task, rubric, setting, examples=examples)
            body = {"model": endpoint.model, "messages": messages, "response_format": form, **endpoint.params}
            for sample in range(samples):
                request = Request(host=endpoint.host, body=body, sample=sample)
                yield Planned(task=task, setting=setting, sample=sample, request=request)


def host_of(base_url: str) -> str:
    """Host, port and path of an API address: what tells one endpoint from another.

    Raises:
        UsageError: It is no http or https address.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"{public_url(base_url)!r} is no address of an API; give one such as http://localhost:8000/v1")
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname}{port}{parts.path.rstrip('/')}"


def public_url(base_url: str) -> str:
    """An address without user, password and query: fit for manifests, logs and messages."""
    parts = urlsplit(base_url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
