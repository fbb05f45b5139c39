"""A job: what is to be labelled, how, and the plan that follows. Nothing here asks or writes anything."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, PlainSerializer, PlainValidator, TypeAdapter

from relabel.labelling.pricing import Price
from relabel.labelling.prompt import Prompt, parse_prompt
from relabel.labelling.providers import UNKNOWN, Provider
from relabel.labelling.request import Decide, Endpoint, Planned, Planner, Wanted, wanted
from relabel.redaction import public_url
from relabel.rubric import Order, Rubric
from relabel.run import SourceUse
from relabel.task import Task


class _StoredPrompt(BaseModel):
    name: str
    text: str


def _read_prompt(value: Any) -> Prompt:
    stored = _StoredPrompt.model_validate(value)
    return parse_prompt(stored.name, stored.text.encode())


@dataclass(frozen=True)
class Job:
    """What is to be labelled, and how.

    Attributes:
        tasks_ref: The task list as the user named it.
        sources: The files that the tasks come from.
        settings: Settings of the rubric to ask.
        samples: Times that each question is asked, in each order.
        orders: Orders of labels and examples that each question is asked in; none for the rubric's own alone.
        examples: Whether worked examples are shown.
        decide: `json`, or `logprob` for an answer of one token.
        pack: Tasks in one request.
        probe: Whether to find out how the server can be held to the answer's shape; else the endpoint's form stands.
        model: The model as the user named it.
        base_url: The server's address without credentials; None for OpenAI's own.
        parameters: Options that shape the run, for the manifest.
        provider: Whose address it is.
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
        """Labels wanted."""
        return len(self.tasks) * len(self.settings) * self.repeats

    @property
    def repeats(self) -> int:
        """Labels wanted of a task under a setting: samples in each order."""
        return self.samples * max(len(self.orders), 1)

    @property
    def all_parameters(self) -> dict[str, Any]:
        """Options that shape the run, with those that every job has."""
        own = {"samples": self.samples, "examples": self.examples, "pack": self.pack, "decide": self.decide}
        if self.orders:
            own |= {
                "variants": len(self.orders),
                "orders": [{name: list(part) for name, part in order._asdict().items()} for order in self.orders],
            }
        return {**self.parameters, **own, "params": dict(self.endpoint.params)}

    @cached_property
    def planner(self) -> Planner:
        """Makes the requests."""
        return Planner(
            self.rubric,
            self.prompt,
            self.endpoint,
            examples=self.examples,
            decide=self.decide,
            orders=self.orders,
            samples=self.samples,
        )

    @cached_property
    def _twins(self) -> frozenset[tuple[str, str]]:
        seen = Counter((task.title, task.text) for task in self.tasks)
        return frozenset(words for words, times in seen.items() if times > 1)

    def asks_twice(self, planned: Planned) -> bool:
        """Whether the plan may hold the same question again, because other tasks have the very same words."""
        return all((task.title, task.text) in self._twins for task in planned.tasks)

    def wanted(self) -> Iterator[Wanted]:
        """Yield every wanted label."""
        return wanted(self.tasks, settings=self.settings, samples=self.repeats, pack=self.pack)

    def plan(self) -> Iterator[Planned]:
        """Yield every wanted label with its request.

        Raises:
            RubricError: The prompt fails for a task.
        """
        return map(self.planner.planned, self.wanted())

    def alone(self, task: Task, setting: str, sample: int) -> Planned:
        """The plan entry that asks about one task by itself."""
        return self.planner.planned(Wanted((task,), setting, sample))


def job_to_json(job: Job) -> bytes:
    """The job as data, complete but for credentials: nothing else is needed to go on with it."""
    return TypeAdapter(Job).dump_json(replace(job, base_url=public_url(job.base_url) if job.base_url else None))


def job_from_json(data: bytes) -> Job:
    """A job from its data.

    Raises:
        ValueError: It is not a job, or one of another version.
        RubricError: Its prompt cannot be used.
    """
    return TypeAdapter(Job).validate_json(data)


class Stop:
    """Tells a job to stop: once to send no more and wait for what is in flight, twice to leave at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()

    def __call__(self) -> None:
        """Ask to stop; a second call means at once."""
        (self.at_once if self.asked.is_set() else self.asked).set()
