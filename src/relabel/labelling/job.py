"""A job: what to label and how, the plan of its requests, and the differences between jobs. Nothing here sends or writes anything."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from textwrap import shorten
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from relabel.labelling.providers import UNKNOWN, Price, Provider
from relabel.labelling.request import Decide, Endpoint, Planner, Prompt, WorkItem, parse_prompt
from relabel.labelling.store import Store
from relabel.labelling.wire import FORMS, Form
from relabel.manifest import Manifest
from relabel.redaction import public_url
from relabel.rubric import Order, Rubric
from relabel.sources.fetch import SourceUse
from relabel.task import Task

# If a replay finds no answer: number of stored answers whose hosts are tried, and number of questions to try at each.
_ANSWERS_TRIED = 2000
_QUESTIONS_TRIED = 20


def _read_prompt(value: Any) -> Prompt:
    match value:
        case {"name": str(name), "text": str(text)}:
            return parse_prompt(name, text.encode())
        case _:
            raise ValueError("a prompt has a name and a text")


@dataclass(frozen=True)
class Job:
    """What to label, and how.

    Attributes:
        tasks_ref: The task list as the user named it.
        sources: The source files of the tasks.
        settings: Settings of the rubric to ask.
        samples: Number of times that each question is asked, in each order.
        orders: Orders of labels and examples in which each question is asked; empty for the rubric's own order alone.
        examples: Whether worked examples are shown.
        decide: `json`, or `logprob` for an answer of one token.
        pack: Number of tasks per request.
        probe: Whether to probe the server for a response format; otherwise the endpoint's form is used.
        model: The model as the user named it.
        base_url: The server's address without credentials; None for OpenAI's.
        parameters: Further options that affect the run, for the manifest.
        provider: The provider of the address.
    """

    tasks: Sequence[Task]
    tasks_ref: str
    sources: tuple[SourceUse, ...]
    rubric: Rubric
    prompt: Annotated[
        Prompt, PlainValidator(_read_prompt), PlainSerializer(lambda prompt: {"name": prompt.name, "text": prompt.text})
    ]
    settings: tuple[str, ...]
    endpoint: Endpoint
    model: str
    base_url: str | None
    price: Price | None
    samples: int = 1
    orders: tuple[Order, ...] = ()
    examples: bool = True
    decide: Decide = "json"
    pack: int = 1
    probe: bool = False
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    provider: Provider = UNKNOWN

    @property
    def size(self) -> int:
        """Number of labels wanted."""
        return len(self.tasks) * len(self.settings) * self.repeats

    @property
    def repeats(self) -> int:
        """Number of labels wanted per task and setting: samples in each order."""
        return self.samples * max(len(self.orders), 1)

    @property
    def all_parameters(self) -> dict[str, Any]:
        """Options that affect the run, for the manifest."""
        own = {"samples": self.samples, "examples": self.examples, "pack": self.pack, "decide": self.decide}
        if self.orders:
            own |= {
                "variants": len(self.orders),
                "orders": [{name: list(part) for name, part in order._asdict().items()} for order in self.orders],
            }
        return {**self.parameters, **own, "params": dict(self.endpoint.params)}

    @property
    def identity(self) -> list[Any]:
        """Everything that identifies a job except its tasks; names of runs contain its hash."""
        prompt, rubric = self.prompt.sha256, self.rubric.sha256
        return [self.endpoint.model_dump(), rubric, prompt, self.settings, self.all_parameters]

    def in_form(self, form: Form) -> Job:
        """The job with this response format, and without a probe."""
        return replace(self, endpoint=self.endpoint.model_copy(update={"form": form}), probe=False)

    @property
    def in_batches(self) -> Job:
        """The job at the provider's price of batches."""
        return replace(self, price=self.price.halved(self.provider.batch_price) if self.price else None)

    @cached_property
    def planner(self) -> Planner:
        """Builds the requests."""
        return Planner(**{entry.name: getattr(self, entry.name) for entry in fields(Planner)})

    @cached_property
    def _repeated_questions(self) -> frozenset[tuple[str, str]]:
        counts = Counter((task.title, task.text) for task in self.tasks)
        return frozenset(question for question, count in counts.items() if count > 1)

    def is_duplicate_question(self, item: WorkItem) -> bool:
        """Whether the plan may contain the same question again, because other tasks have the same text."""
        repeated = self._repeated_questions
        return bool(repeated) and all((task.title, task.text) in repeated for task in item.tasks)

    def items(self) -> Iterator[WorkItem]:
        """Yield all work items, one per request, without their requests.

        All tasks of one setting come before the next setting, so that a prefix cache needs only one prompt at a time.
        """
        for setting in self.settings:
            for start in range(0, len(self.tasks), self.pack):
                tasks = tuple(self.tasks[start : start + self.pack])
                for sample in range(self.repeats):
                    yield WorkItem(tasks, setting, sample)

    def plan(self) -> Iterator[WorkItem]:
        """Yield all work items with their requests.

        Raises:
            RubricError: The prompt fails for a task.
        """
        return map(self.planner.planned, self.items())


def response_format_note(endpoint: Endpoint) -> str:
    """Name of the store's note on the response format; it is valid for one day, because servers change."""
    return f"form/{endpoint.api}/{endpoint.host}/{endpoint.model}@{datetime.now(UTC):%Y-%m-%d}"


def with_known_format(job: Job, store: Store) -> Job:
    """The job in the response format that its server is known to accept, from a note or from a stored answer to the first question.

    If the format is unknown, the job is returned unchanged, and still needs a probe.
    """
    if not job.probe:
        return job
    noted = store.note(response_format_note(job.endpoint))
    for candidate in (job.in_form(form) for form in FORMS if noted in {None, form}):
        first = next(candidate.plan(), None)
        if noted is not None or (first is not None and store.get(first.request.key) is not None):
            return candidate
    return job


def stored_elsewhere(job: Job, store: Store) -> str:
    """Advice for a replay that found no answer: other addresses with stored answers, as the address is part of the key."""
    hosts = {row.request.host for _, row in store.newest(_ANSWERS_TRIED)} - {job.endpoint.host}

    def answers(host: str, form: Form) -> bool:
        job_at_host = replace(job, endpoint=job.endpoint.model_copy(update={"host": host})).in_form(form)
        return any(store.has(item.request.key) for item in islice(job_at_host.plan(), _QUESTIONS_TRIED))

    found = [host for host in sorted(hosts) if any(answers(host, form) for form in FORMS)]
    schemes = ("http" if host.startswith(("localhost", "127.", "[")) else "https" for host in found)
    urls = [f"--base-url {scheme}://{host}" for scheme, host in zip(schemes, found, strict=True)]
    return f"the store has answers to these questions for {' and '.join(urls)}" if urls else ""


def job_to_json(job: Job) -> bytes:
    """The job as JSON, complete except for credentials, so that it can be resumed from this alone."""
    return TypeAdapter(Job).dump_json(replace(job, base_url=public_url(job.base_url) if job.base_url else None))


def job_from_json(data: bytes) -> Job:
    """Read a job that `job_to_json` wrote.

    Raises:
        ValueError: It is not a job, or one of another version.
        RubricError: Its prompt cannot be used.
    """
    return TypeAdapter(Job).validate_json(data)


# Seconds for which an interrupted job waits for answers in flight, because they are paid for.
DRAIN_S = 30.0


class Stop:
    """Stops a job: after the first call, it sends nothing more and waits for requests in flight; after the second, it quits at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()

    def __call__(self) -> None:
        """Stop the job."""
        (self.at_once if self.asked.is_set() else self.asked).set()

    async def supervise(
        self, work: Sequence[asyncio.Future[Any]], *, drain: bool = True, stopping: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until the work is done or, after a stop, for at most `DRAIN_S`; then cancel what still runs.

        Args:
            work: The tasks to wait for.
            drain: Whether they may go on for a while after a stop.
            stopping: Called when the work is done or a stop is asked for, before any such wait.
        """
        try:
            await self._wait(work)
            stopping()
            if drain:
                await self._wait(work, at_once=True)
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work)

    async def _wait(self, work: Iterable[asyncio.Future[Any]], *, at_once: bool = False) -> None:
        """Wait until the work is done or a stop is asked for; with `at_once`, until a second stop or the end of `DRAIN_S`."""
        stop_asked = asyncio.create_task((self.at_once if at_once else self.asked).wait())
        done = asyncio.create_task(asyncio.wait({*work}))
        try:
            seconds = DRAIN_S if at_once else None
            await asyncio.wait({stop_asked, done}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop_asked.cancel()
            done.cancel()
            await asyncio.wait({stop_asked, done})


# Names of parameters in messages, where they are not `--` and the parameter's own name.
_PARAMETER_NAMES: Mapping[str, str] = {
    "occupations": "--occupation",
    "variant_seed": "--seed",
    "wire_model": "the model's name at the server",
    "headers": "--header",
}
# Names of `--max-tokens` in requests.
_BOUNDS = {"max_tokens", "max_completion_tokens", "max_output_tokens"}
# Maximum number of characters of a value in a message.
_LONGEST_VALUE = 60


def differences(existing: Manifest, now: Manifest) -> list[str]:
    """Differences between the run in a folder and the one to be started there; empty for the same run.

    Args:
        existing: The manifest in the folder.
        now: The manifest of the new run.
    """
    before, after = _options(existing), _options(now)
    changes = [
        f"{name} differs: {_value_in_words(before.get(name))} there, {_value_in_words(after.get(name))} now"
        for name in before | after
        if before.get(name) != after.get(name)
    ]
    contents, contents_now = ({(use.file, use.sha256) for use in manifest.sources} for manifest in (existing, now))
    if not changes and contents != contents_now:
        changes.append(f"{', '.join(sorted({file for file, _ in contents ^ contents_now}))} changed since")
    if not changes and existing.schema_sha256 != now.schema_sha256:
        changes.append(
            f"the requests differ: relabel {existing.package_version}, which made that run, worded them differently"
        )
    return changes


def _options(manifest: Manifest) -> dict[str, Any]:
    """Everything that the user chose for a run, by its name in messages."""
    rubric = manifest.rubric
    # The orders follow from the rubric and the seed.
    parameters = {name: value for name, value in manifest.parameters.items() if name not in ("params", "orders")}
    sent = manifest.parameters.get("params") or {}
    return {
        "--model": manifest.model,
        "--base-url": manifest.base_url,
        "--api": manifest.api,
        "--tasks": manifest.tasks,
        "--setting": manifest.settings,
        "--rubric": f"{rubric.id} version {rubric.version} (sha256 {manifest.rubric_sha256[:12]})",
        "--prompt": f"sha256 {(manifest.prompt_sha256 or '')[:12]}",
        "--response-format": manifest.response_form,
        **{_PARAMETER_NAMES.get(name, f"--{name}"): value for name, value in parameters.items()},
        **{"--max-tokens" if name in _BOUNDS else f"--param {name}": value for name, value in sent.items()},
    }


def _value_in_words(value: Any) -> str:
    if value is None or value in ([], ()):
        return "none"
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return shorten(text, _LONGEST_VALUE, placeholder="…")
