"""A request: everything that goes over the wire for one answer, and the key that is the hash of exactly that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from relabel.errors import UsageError
from relabel.labelling.prompt import Message, Prompt
from relabel.labelling.wire import Api, Form, with_messages
from relabel.labelling.wire import body as wire_body
from relabel.labels import answer_schema
from relabel.redaction import api_version, public_url
from relabel.rubric import Order, Rubric, reordered
from relabel.settings import Frozen
from relabel.task import Task

Decide = Literal["json", "logprob"]
ONE_TOKEN: Mapping[str, Any] = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20, "temperature": 0}
"""What deciding by log probability asks for: one token, and how likely the others were."""
_MARK = "\x00the task\x00"
_SPELLING = json.JSONEncoder(ensure_ascii=False)  # made once: `json.dumps` with arguments makes one each time

KEY_VERSION = 1
"""Raised when the meaning of a key changes; requests with older keys are then sent again."""


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value that is hashed: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def key_of(document: Mapping[str, Any]) -> str:
    """The key of a request: sha256, in hex, of the canonical JSON of all of it and of the key's format version."""
    return hashlib.sha256(canonical_json({"key_version": KEY_VERSION, **document})).hexdigest()


class Endpoint(Frozen):
    """A model behind an address, as far as answers depend on it.

    Attributes:
        host: Host, port and path of the API without scheme and credentials; `local` for the embedded server, whose
            port changes from start to start.
        model: The model's name on the wire.
        api: The dialect that the server speaks.
        form: The response format.
        params: Sampling parameters that somebody asked for; nothing else is sent.
        rationale_chars: Bound of the rationale in the schema, for servers whose grammar can hold one.
    """

    host: str
    model: str
    api: Api = "chat"
    form: Form = "json_schema"
    params: Mapping[str, Any] = Field(default_factory=dict)
    rationale_chars: int | None = None


@dataclass(frozen=True)
class Request:
    """One question to one model.

    Attributes:
        host: As in `Endpoint`.
        body: The JSON document that is posted.
        sample: Counts repeats of the same question, from 0.
        api: The dialect.
        key: As `key_of` makes it.
    """

    host: str
    body: Mapping[str, Any]
    sample: int = 0
    api: Api = "chat"
    key: str = ""

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", key_of(self.document))

    @property
    def document(self) -> dict[str, Any]:
        """All of it but the key."""
        return {"api": self.api, "host": self.host, "body": self.body, "sample": self.sample}


UNPLANNED = Request("", {})
"""Stands for the request of a work item whose prompt is not filled in yet, or cannot be; it has no key."""
object.__setattr__(UNPLANNED, "key", "")


@dataclass(frozen=True, slots=True)
class WorkItem:
    """Labels that one request gets: the unit of work from the plan to the rows of `labels.parquet`.

    Attributes:
        tasks: One task, or several that share a request.
        setting: Name of the setting.
        sample: Counts repeats, from 0, over all orders of labels and examples.
        request: What is sent; `UNPLANNED` until the prompt is filled in.
    """

    tasks: tuple[Task, ...]
    setting: str
    sample: int
    request: Request = UNPLANNED


class Planner:
    """Turns tasks into requests.

    Args:
        rubric: The rubric.
        prompt: The template.
        endpoint: The model.
        examples: Whether worked examples are shown.
        decide: `json` asks for a rationale and a label; `logprob` for one letter, and reads its probability.
        orders: Orders of labels and examples; a task's samples run through the first order, then the next.
        samples: Samples under each order.
    """

    def __init__(
        self,
        rubric: Rubric,
        prompt: Prompt,
        endpoint: Endpoint,
        *,
        examples: bool = True,
        decide: Decide = "json",
        orders: Sequence[Order] = (),
        samples: int = 1,
    ) -> None:
        self._rubric, self._prompt, self._endpoint = rubric, prompt, endpoint
        self._examples, self._decide = examples, decide
        self._variants = [reordered(rubric, order) for order in orders] or [rubric]
        self._samples = samples
        self._hashers: dict[tuple[str, bool, int], tuple[Any, bytes]] = {}
        self._last: tuple[Sequence[Task], str, int, dict[str, Any], Any] | None = None

    @property
    def shape(self) -> dict[str, Any]:
        """All of a request but the tasks: what a manifest's schema hash covers."""
        return self._body("", [], packed=False)

    def planned(self, item: WorkItem) -> WorkItem:
        """A work item with its request.

        Raises:
            RubricError: The prompt fails for these tasks.
        """
        return WorkItem(item.tasks, item.setting, item.sample, self.request(item.tasks, item.setting, item.sample))

    def request(self, tasks: Sequence[Task], setting: str, sample: int = 0) -> Request:
        """The request for some tasks, one or several, under one setting."""
        variant = 0
        if len(self._variants) > 1:
            variant, sample = divmod(sample, self._samples)
        last = self._last
        # The samples of one question differ by their number.
        if last is None or last[0] is not tasks or last[1:3] != (setting, variant):
            last = self._last = (tasks, setting, variant, *self._made(tasks, setting, variant))
        *_, body, hasher = last
        digest = hasher.copy()
        digest.update(b'"sample":%d}' % sample)
        return Request(self._endpoint.host, body, sample, self._endpoint.api, digest.hexdigest())

    def _made(self, tasks: Sequence[Task], setting: str, variant: int) -> tuple[dict[str, Any], Any]:
        """What is posted, and the hash of all of the request but the number of the sample."""
        packed = len(tasks) > 1
        rubric = self._variants[variant]
        messages = self._prompt.messages(tasks, rubric, setting, examples=self._examples, decide=self._decide)
        body = self._body(setting, messages, packed=packed, rubric=rubric)
        # Only the last message differs from task to task: the hash of all before it is made once.
        user = _SPELLING.encode(messages[-1]["content"]).encode()
        if (setting, packed, variant) not in self._hashers:
            marked = with_messages(body, [*messages[:-1], {**messages[-1], "content": _MARK}])
            all_but_key = Request(self._endpoint.host, marked, 0, self._endpoint.api, key="-").document
            whole = canonical_json({"key_version": KEY_VERSION, **all_but_key})
            head, _, tail = whole.partition(json.dumps(_MARK).encode())
            self._hashers[setting, packed, variant] = (hashlib.sha256(head), tail.removesuffix(b'"sample":0}'))
        hasher, tail = self._hashers[setting, packed, variant]
        digest = hasher.copy()
        digest.update(user + tail)
        return body, digest

    def _body(
        self, setting: str, messages: Sequence[Message], *, packed: bool, rubric: Rubric | None = None
    ) -> dict[str, Any]:
        endpoint = self._endpoint
        if self._decide == "logprob":
            return wire_body(endpoint.api, endpoint.model, messages, "text", {}, {**endpoint.params, **ONE_TOKEN})
        schema = answer_schema(rubric or self._rubric, max_chars=endpoint.rationale_chars, packed=packed)
        return wire_body(endpoint.api, endpoint.model, messages, endpoint.form, schema, endpoint.params)


def host_of(base_url: str, headers: Mapping[str, str] | None = None) -> str:
    """Host, port, path and API version of an address, and headers that the user adds: what tells one endpoint from another.

    Raises:
        UsageError: It is not an http or https address.
    """
    try:
        parts = urlsplit(base_url)
        port = f":{parts.port}" if parts.port else ""
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("it lacks http:// or a host")
        parts.hostname.encode("idna")
    except ValueError as error:
        raise UsageError(
            f"{public_url(base_url)!r} is not the address of an API ({error}); give one such as http://localhost:8000/v1"
        ) from None
    version = api_version(parts.query)
    added = "".join(f" {name}={value}" for name, value in (headers or {}).items())
    return f"{parts.hostname}{port}{parts.path.rstrip('/')}{'?' + version if version else ''}{added}"
