"""Requests: prompts, which turn task x rubric x setting into messages; the body that is sent; and the key, which is its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from jinja2 import Template, TemplateSyntaxError
from jinja2.runtime import Context
from pydantic import Field

from relabel.errors import RubricError, UsageError
from relabel.files import read_small
from relabel.labelling.wire import Api, Form, with_messages
from relabel.labelling.wire import body as wire_body
from relabel.labels import answer_schema
from relabel.redaction import api_version, public_url
from relabel.rubric import Order, Rubric, reordered
from relabel.sandbox import Sandbox, plain
from relabel.settings import Frozen, asset_dir
from relabel.task import Task

# A chat message: `role` and `content`.
Message = dict[str, str]
# Maximum size of a template in bytes, and of a rendered message in characters.
_LARGEST = 1_000_000
# Fields of a rubric that are available in templates.
_TEMPLATE_FIELDS = {
    "id", "version", "title", "unit", "definition", "labels", "settings", "examples", "rationale", "codes", "incoherent", "measures",
}  # fmt: skip
Decide = Literal["json", "logprob"]
# Parameters for deciding by log probability: one token, with its alternatives.
ONE_TOKEN: Mapping[str, Any] = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20, "temperature": 0}
# Placeholder for the last message, when the rest of a request is hashed.
_PLACEHOLDER = "\x00the task\x00"
_SPELLING = json.JSONEncoder(ensure_ascii=False)  # `json.dumps` with options would make an encoder for each call

# Increased when the meaning of a key changes; requests with older keys are then sent again.
KEY_VERSION = 1


def canonical_json(value: Any) -> bytes:
    """Canonical JSON for hashing: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def key_of(document: Mapping[str, Any]) -> str:
    """The key of a request: hex sha256 of its canonical JSON, with the version of the key."""
    return hashlib.sha256(canonical_json({"key_version": KEY_VERSION, **document})).hexdigest()


def as_data(**fields: str) -> str:
    """Fields as one line of JSON without angle brackets, so that their text cannot open or close a tag in the prompt."""
    return _SPELLING.encode(fields).replace("<", "\\u003c").replace(">", "\\u003e")


def _facts(rubric: Rubric, title: str, text: str) -> dict[str, str]:
    """What the prompt says about a task; a change here changes every request key."""
    return {"occupation": title, "task" if rubric.unit == "task" else "description": text}


def letters(rubric: Rubric) -> dict[str, str]:
    """A letter for each label, in the rubric's order, for answers of one token."""
    return dict(zip(rubric.labels, ascii_uppercase, strict=False))


@dataclass
class Prompt:
    """A template with two blocks: `system`, the same for all tasks of a setting, and `user`, which contains the tasks.

    Variables of the blocks are `rubric`, `setting`, `packed` (whether several tasks share the request), `decide` (`json` or
    `logprob`) and `letters`; in `system` also `examples`, each with `data`, `answer` and `label`; in `user` also `data`, a
    line of JSON for each task.

    Attributes:
        name: Its name under `prompts/`, or its path.
        sha256: Hash of its text.
        text: The template itself.
    """

    name: str
    sha256: str
    text: str = field(repr=False)
    _template: Template = field(repr=False)
    _sandbox: Sandbox = field(repr=False)
    # The system message, and the context for the user message, for each way of asking; creating a context is slow.
    _cache: dict[tuple[object, ...], tuple[str, Context]] = field(
        default_factory=dict[tuple[object, ...], "tuple[str, Context]"], repr=False
    )

    def messages(
        self, tasks: Sequence[Task], rubric: Rubric, setting: str, *, examples: bool = True, decide: str = "json"
    ) -> list[Message]:
        """The messages for one request under one setting.

        Args:
            tasks: One task, or several that share the request and are numbered from 1.
            rubric: The rubric.
            setting: Name of one of its settings.
            examples: Whether the rubric's worked examples are shown.
            decide: `json`, or `logprob` for an answer of one letter.

        Raises:
            RubricError: The template uses something that does not exist, or fails for this task.
        """
        packed = len(tasks) > 1
        key = (rubric.sha256, setting, examples, decide, packed)
        if key not in self._cache:
            variables: dict[str, Any] = {
                "rubric": (rubric_data := plain(rubric.model_dump(include=_TEMPLATE_FIELDS))),
                "setting": rubric_data["settings"][setting],
                "packed": packed,
                "decide": decide,
                "letters": letters(rubric),
            }
            worked = _worked_examples(rubric, setting) if examples else []
            system = self._render("system", self._template.new_context({**variables, "examples": worked}))
            self._cache[key] = system, self._template.new_context({**variables, "data": []})
        system, context = self._cache[key]
        facts = [_facts(rubric, task.title, task.text) for task in tasks]
        numbered = [{"id": str(n), **task_facts} for n, task_facts in enumerate(facts, start=1)] if packed else facts
        context.parent["data"] = [as_data(**task_facts) for task_facts in numbered]
        return [{"role": "system", "content": system}, {"role": "user", "content": self._render("user", context)}]

    def _render(self, block: str, context: Context) -> str:
        try:
            return self._sandbox.render(self._template.blocks[block](context)).strip()
        except Exception as error:  # a template can raise any exception
            raise RubricError(f"prompt {self.name}: block {block}: {error}; correct the template") from error


def _worked_examples(rubric: Rubric, setting: str) -> list[dict[str, str]]:
    return [
        {
            "data": as_data(**_facts(rubric, example.occupation, example.task or example.description or "")),
            "answer": as_data(rationale=example.rationale[setting], label=example.labels[setting]),
            "label": example.labels[setting],
        }
        for example in rubric.examples
    ]


def load_prompt(ref: str) -> Prompt:
    """Read a prompt template.

    Args:
        ref: A name under `prompts/`, or the path of a Jinja file.

    Raises:
        RubricError: There is no such template, or it is malformed or lacks a block.
    """
    path = Path(ref)
    if path.suffix not in {".jinja", ".j2"}:
        path = asset_dir("prompts") / f"{ref}.jinja"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in asset_dir("prompts").glob("*.jinja")))
        raise RubricError(f"unknown prompt {ref!r}; use one of {names}, or the path of a .jinja file")
    return parse_prompt(ref, read_small(path, _LARGEST, refuse=RubricError))


def parse_prompt(name: str, raw: bytes) -> Prompt:
    """Parse the text of a prompt template.

    Raises:
        RubricError: It is malformed or lacks a block.
    """
    sandbox = Sandbox(steps=1_000_000, seconds=5, chars=_LARGEST, keep_trailing_newline=False)
    try:
        text = raw.decode("utf-8")
        template = sandbox.from_string(text)
    except Exception as error:  # jinja also passes on Python's errors, for example with ten thousand brackets
        line = f" line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise RubricError(f"prompt {name}{line}: {error}; correct the template") from error
    for block in ("system", "user"):
        if block not in template.blocks:
            raise RubricError(f"prompt {name}: has no block {block!r}; a prompt needs the blocks system and user")
    return Prompt(name, hashlib.sha256(raw).hexdigest(), text, template, sandbox)


# Requests.


class Endpoint(Frozen):
    """The part of a model's configuration on which its answers depend.

    Attributes:
        host: Host, port and path of the API without scheme and credentials; `local` for the embedded server, whose port
            varies.
        model: Name of the model at the provider.
        api: The dialect of the server.
        form: The response format.
        params: The user's sampling parameters; no others are sent.
        rationale_chars: Maximum length of the rationale, in the schema; for servers whose grammar supports one.
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
        host: See `Endpoint`.
        body: The posted JSON document.
        sample: Number of the repeat of the same question, from 0.
        api: The dialect.
        key: See `key_of`; computed if not given.
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
        """Everything except the key."""
        return {"api": self.api, "host": self.host, "body": self.body, "sample": self.sample}


# Placeholder for the request of a work item whose prompt has not been rendered, or cannot be; without a key.
UNPLANNED = Request("", {})
object.__setattr__(UNPLANNED, "key", "")


class WorkItem(NamedTuple):
    """One request and the tasks and setting that it asks about: the unit of work from the plan to `labels.parquet`.

    Attributes:
        tasks: One task, or several that share a request.
        setting: Name of the setting.
        sample: Number of the repeat, from 0, over all orders of labels and examples.
        request: The request; `UNPLANNED` until the prompt is rendered.
    """

    tasks: tuple[Task, ...]
    setting: str
    sample: int
    request: Request = UNPLANNED


@dataclass
class Planner:
    """Turns tasks into requests.

    Attributes:
        rubric: The rubric.
        prompt: The template.
        endpoint: The model.
        examples: Whether worked examples are shown.
        decide: `json` for a rationale and a label; `logprob` for one letter with its probability.
        orders: Orders of labels and examples; a task's samples use the first order, then the next.
        samples: Number of samples in each order.
    """

    rubric: Rubric
    prompt: Prompt
    endpoint: Endpoint
    examples: bool = True
    decide: Decide = "json"
    orders: Sequence[Order] = ()
    samples: int = 1

    def __post_init__(self) -> None:
        self._variants = [reordered(self.rubric, order) for order in self.orders] or [self.rubric]
        self._hashers: dict[tuple[str, bool, int], tuple[Any, bytes]] = {}
        self._last: tuple[Sequence[Task], str, int, dict[str, Any], Any] | None = None

    @property
    def empty_body(self) -> dict[str, Any]:
        """A request's body without messages, for the schema hash in the manifest."""
        return self._body("", [], packed=False)

    def planned(self, item: WorkItem) -> WorkItem:
        """A work item with its request.

        Raises:
            RubricError: The prompt fails for these tasks.
        """
        return WorkItem(item.tasks, item.setting, item.sample, self.request(item.tasks, item.setting, item.sample))

    def request(self, tasks: Sequence[Task], setting: str, sample: int = 0) -> Request:
        """The request for one or several tasks under one setting."""
        variant = 0
        if len(self._variants) > 1:
            variant, sample = divmod(sample, self.samples)
        last = self._last
        # Requests for samples of the same question differ only in the sample's number.
        if last is None or last[0] is not tasks or last[1:3] != (setting, variant):
            last = self._last = (tasks, setting, variant, *self._body_and_hash(tasks, setting, variant))
        *_, body, hasher = last
        digest = hasher.copy()
        digest.update(b'"sample":%d}' % sample)
        return Request(self.endpoint.host, body, sample, self.endpoint.api, digest.hexdigest())

    def _body_and_hash(self, tasks: Sequence[Task], setting: str, variant: int) -> tuple[dict[str, Any], Any]:
        """The body of a request, and the hash of its canonical JSON up to the sample's number, which comes last."""
        packed = len(tasks) > 1
        rubric = self._variants[variant]
        messages = self.prompt.messages(tasks, rubric, setting, examples=self.examples, decide=self.decide)
        body = self._body(setting, messages, packed=packed, rubric=rubric)
        # Only the last message varies between tasks: hash everything before it once.
        user = _SPELLING.encode(messages[-1]["content"]).encode()
        if (setting, packed, variant) not in self._hashers:
            template = with_messages(body, [*messages[:-1], {**messages[-1], "content": _PLACEHOLDER}])
            all_but_key = Request(self.endpoint.host, template, 0, self.endpoint.api, key="-").document
            document = canonical_json({"key_version": KEY_VERSION, **all_but_key})
            head, _, tail = document.partition(json.dumps(_PLACEHOLDER).encode())
            self._hashers[setting, packed, variant] = (hashlib.sha256(head), tail.removesuffix(b'"sample":0}'))
        hasher, tail = self._hashers[setting, packed, variant]
        digest = hasher.copy()
        digest.update(user + tail)
        return body, digest

    def _body(
        self, setting: str, messages: Sequence[Message], *, packed: bool, rubric: Rubric | None = None
    ) -> dict[str, Any]:
        endpoint = self.endpoint
        if self.decide == "logprob":
            return wire_body(endpoint.api, endpoint.model, messages, "text", {}, {**endpoint.params, **ONE_TOKEN})
        schema = answer_schema(rubric or self.rubric, max_chars=endpoint.rationale_chars, packed=packed)
        return wire_body(endpoint.api, endpoint.model, messages, endpoint.form, schema, endpoint.params)


def host_of(base_url: str, headers: Mapping[str, str] | None = None) -> str:
    """Identity of an endpoint: host, port, path and API version of its address, and the user's headers.

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
