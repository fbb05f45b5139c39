"""Turns the options of a run into a job, the connection to its model, and the limits that it must keep."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from relabel.errors import UsageError
from relabel.labelling import Asking
from relabel.labelling.batch.state import unaccounted_usd
from relabel.labelling.engine import Engine, OnlineEngine
from relabel.labelling.job import Job
from relabel.labelling.limits import LARGEST_LIMIT, Budget, Limiter
from relabel.labelling.local import SLOTS, is_local, local_endpoint
from relabel.labelling.providers import FREE, OPENAI_URL, Price, find_price, provider_of
from relabel.labelling.request import ONE_TOKEN, Endpoint, canonical_json, host_of, load_prompt
from relabel.labelling.transport import LOCAL_TIMEOUTS, Connection, Timeouts, key_for, most_connections, public_headers
from relabel.labelling.wire import Form, output_bound
from relabel.manifest import task_sources
from relabel.redaction import guard_address
from relabel.rubric import Rubric, orders
from relabel.settings import Settings
from relabel.sources.tables import is_table_file
from relabel.task import Task, disputed_titles, load_tasks

if TYPE_CHECKING:
    from relabel.labelling.ray import ClusterOptions

# Maximum value of `--concurrency`.
MOST_IN_FLIGHT = 4096
# Maximum number of tasks in one request, and of times that a question is asked.
MOST = {"pack": 100, "samples": 10_000}
# Names of fields that may hold a credential, as in JSON.
_CREDENTIALS = re.compile(
    r'"(?:x[-_])?(?:api[-_]?key|authorization|(?:access[-_])?token|secret|password)":', re.IGNORECASE
)
# Fields of a request that relabel sets itself.
_OWN_FIELDS = {"model", "messages", "input", "response_format", "stream", "n", "background"}
_ONE_TOKEN_FIELDS = {*ONE_TOKEN, "max_completion_tokens", "max_output_tokens"}


class Prepared(NamedTuple):
    """A checked run: the user's options, and the connection and job made from them."""

    options: RunOptions
    connection: Connection
    job: Job


@dataclass(frozen=True)
class RunOptions(Asking):
    """The user's choices for a run, by the options of `relabel run`; `seed` also draws the orders of variants.

    Attributes:
        model: `local`, `local:FILE.gguf`, or a model's name at the provider.
        base_url, provider, key_env, headers: Address, provider, variable of the key (defaults depend on each other), and
            additional headers.
        rubric: The rubric.
        settings: Settings of the rubric to ask; by default all.
        chosen: The tasks, if they are not to be determined from `tasks`, `sample`, `seed` and `occupations`.
        occupations: Only tasks of these codes.
        samples: Number of times that each question is asked, in each order.
        variants: Number of orders of the rubric's labels and examples in which each question is asked.
        form: The response format; None for the strictest that the server accepts.
        params: Further request parameters, passed on unchanged.
        max_tokens: Maximum tokens of an answer.
        timeout: Seconds to wait for one answer.
        price: The user's price; by default from the price table.
        concurrency: Maximum number of requests in flight; None to adapt it to the server.
        max_cost: Cost cap, in USD.
        cluster: The Ray cluster whose workers send the requests.
    """

    model: str
    rubric: Rubric
    base_url: str | None = None
    provider: str | None = None
    key_env: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    settings: tuple[str, ...] = ()
    chosen: Sequence[Task] | None = None
    occupations: tuple[str, ...] = ()
    samples: int = 1
    variants: int = 1
    form: Form | None = None
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    max_tokens: int | None = None
    timeout: float | None = None
    price: Price | None = None
    concurrency: int | None = None
    max_cost: float | None = None
    cluster: ClusterOptions | None = None

    def __post_init__(self) -> None:
        whole = {"samples": 1, "variants": 1, "pack": 1, "sample": 1, "max_tokens": 1, "concurrency": 1}
        for name, least in {**whole, "timeout": 0, "rpm": 0.001, "tpm": 1, "max_cost": 0}.items():
            value = getattr(self, name)
            most = MOST.get(name, sys.float_info.max)
            fits = isinstance(value, int if name in whole else int | float) and least <= float(value) <= most
            if value is not None and not fits:  # nan is not at least anything
                kind = "a whole number" if name in whole else "a number"
                span = f"from {least} to {most:,}" if name in MOST else f"of {least} or more"
                raise UsageError(f"{name} is {value!r}; give {kind} {span}")

    def asked_settings(self) -> tuple[str, ...]:
        """The settings to ask: those that were given, or all.

        Raises:
            UsageError: The rubric has no such setting.
        """
        rubric = self.rubric
        asked = tuple(dict.fromkeys(self.settings or rubric.settings))
        for name in asked:
            if name not in rubric.settings:
                names = ", ".join(rubric.settings)
                raise UsageError(f"the rubric {rubric.id} has no setting {name!r}; use one of {names}")
        return asked

    def prepare(self, environment: Settings, *, capped: bool | None = None) -> Prepared:
        """Check the options, and make connection and job, without sending anything. For errors, see `connection` and `job`.

        Args:
            environment: Settings from the environment.
            capped: Whether the cost has a cap; by default, whether `max_cost` is set.
        """
        connection = self.connection(environment)
        self.require_bounds(connection, capped)
        return Prepared(self, connection, self.job(connection))

    def connection(self, environment: Settings) -> Connection:
        """The model, without starting or asking anything.

        Raises:
            UsageError: The address is invalid, a parameter cannot be sent or would be overridden, or options contradict each other.
            DataError: The user's own weights are missing.
        """
        if not self.model.strip() or self.model == "local:":
            raise UsageError("--model is empty; name a model at the provider, local, or local:FILE.gguf")
        # Probably an unset variable: tasks must not be sent to OpenAI instead.
        if any(value is not None and not value.strip() for value in (self.base_url, self.provider)):
            raise UsageError("--base-url or --provider is empty; name one, or leave the option out")
        if self.decide == "logprob" and (self.pack > 1 or self.api == "responses"):
            raise UsageError("--decide logprob needs one task per request and --api chat; remove --pack and --api")
        named = provider_of("", self.provider) if self.provider else None
        default = named.base_url if named else environment.openai_base_url or OPENAI_URL
        url = (self.base_url or default or "").strip()  # on Windows, `set NAME=VALUE && relabel` adds a space
        provider, local = named or provider_of(url), is_local(self.model)
        params = dict(self.params)
        if self.decide == "logprob" and (params.keys() & _ONE_TOKEN_FIELDS or self.max_tokens is not None):
            raise UsageError(
                f"--decide logprob sets {', '.join(ONE_TOKEN)} itself; remove --max-tokens and --param with one of these"
            )
        if self.max_tokens is not None:
            bound = "max_tokens" if local else provider.bound
            params["max_output_tokens" if self.api == "responses" else bound] = self.max_tokens
        timeouts = Timeouts.for_attempt(self.timeout) if self.timeout else LOCAL_TIMEOUTS if local else Timeouts()
        if local:
            endpoint = local_endpoint(self.model)
            endpoint = endpoint.model_copy(update={"api": self.api, "params": {**endpoint.params, **params}})
            return Connection(None, price=FREE, timeouts=timeouts, model=self.model, endpoint=endpoint)
        if not url:
            raise UsageError(f"{provider.name} has a different address for each user; give yours with --base-url")
        guard_address(url)
        host = host_of(url, public_headers(self.headers))
        endpoint = Endpoint(host=host, model=self.model, api=self.api, params=params)
        key, price = key_for(provider, environment, self.key_env), self.price or find_price(self.model, url)
        return Connection(url, key, price, timeouts, provider, self.headers, self.model, endpoint)

    def job(self, connection: Connection) -> Job:
        """The job.

        Raises:
            UsageError: The rubric has fewer orders than variants.
            DataError: A task list, or a prompt, cannot be used.
        """
        rubric, settings = self.rubric, self.asked_settings()
        if self.variants > 1 and self.decide == "logprob":
            raise UsageError(
                "--variants needs --decide json: with logprob, the letter of a label depends on the order of labels"
            )
        tasks = self.chosen
        if tasks is None:
            tasks = load_tasks(
                self.tasks, unit=rubric.unit, occupations=self.occupations, sample=self.sample, seed=self.seed
            )
        return Job(
            tasks=tasks,
            tasks_ref=self.tasks,
            sources=task_sources(self.tasks, rubric.unit),
            rubric=rubric,
            prompt=load_prompt(self.prompt or rubric.prompt),
            settings=settings,
            endpoint=connection.endpoint.model_copy(update={"form": self.form or "json_schema"}),
            model=self.model,
            base_url=connection.shown_url,
            price=connection.price,
            provider=connection.provider,
            samples=self.samples,
            orders=orders(rubric, self.variants, seed=self.seed, examples=self.examples) if self.variants > 1 else (),
            examples=self.examples,
            decide=self.decide,
            pack=self.pack,
            probe=self.form is None and self.decide == "json" and not is_local(self.model),
            parameters={
                "sample": self.sample,
                "seed": self.seed if self.sample else None,
                "occupations": list(self.occupations),
                "wire_model": connection.endpoint.model,
                **({"variant_seed": self.seed} if self.variants > 1 else {}),
                **({"headers": headers} if (headers := public_headers(connection.headers)) else {}),
            },
        )

    def doubts(self, job: Job) -> str | None:
        """A warning to show before labels are paid for: titles in a user's list that do not match their codes."""
        if not is_table_file(self.tasks):
            return None
        disputed = disputed_titles((task.onet_soc_code, task.title) for task in job.tasks)
        return f"{disputed}; correct the list before you pay for labels" if disputed else None

    def limiter(self) -> Limiter:
        """The limiter for these options."""
        at_once = self.concurrency
        if at_once is None and is_local(self.model):  # the engine of a cluster lowers it to the slots of its workers
            at_once = LARGEST_LIMIT if self.cluster else SLOTS
        most = MOST_IN_FLIGHT if self.cluster else most_connections()
        return Limiter(at_once and min(at_once, most), largest=min(LARGEST_LIMIT, most), rpm=self.rpm, tpm=self.tpm)

    def budget(self, connection: Connection, job: Job, environment: Settings) -> Budget:
        """The budget; the maximum cost of the job's batches counts as spent."""
        in_batches = 0.0 if self.max_cost is None else unaccounted_usd(environment.batches_dir, job)
        return Budget(self.max_cost, connection.price, before_usd=in_batches)

    def engine(self, connection: Connection, budget: Budget, *, replay: bool) -> Engine:
        """The engine, with a budget; in a replay, one that sends nothing."""
        if replay:
            return Engine(self.limiter(), budget)
        if self.cluster is None:
            return OnlineEngine(connection, limiter=self.limiter(), budget=budget, hedge=self.hedge)
        from relabel.labelling.ray import RayEngine

        return RayEngine(connection, self.limiter(), budget, self.cluster)

    def require_bounds(self, connection: Connection, capped: bool | None = None) -> None:
        """Check that the cost cap, if any, can be kept.

        Raises:
            UsageError: No price is known, or the cost of an answer has no bound.
        """
        if not (self.max_cost is not None if capped is None else capped):
            return
        if connection.price is None:
            raise UsageError(
                f"--max-cost needs a price, and none is known for {self.model}; give it with --price IN/OUT"
            )
        if self.decide != "logprob" and output_bound(connection.endpoint.params) is None:
            raise UsageError(
                "--max-cost needs --max-tokens: without a limit on the answer, the most that a request can cost is unknown"
            )


def read_parameters(items: Sequence[str]) -> dict[str, Any]:
    """Values of `--param NAME=VALUE`, by name.

    Raises:
        UsageError: One is malformed or cannot be sent, or relabel sets it itself.
    """
    parameters: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--param {item!r} is not NAME=VALUE with a sampling parameter, such as temperature=0")
        try:
            parameters[name] = json.loads(text)
        except (ValueError, RecursionError):
            parameters[name] = text
    return checked_parameters(parameters)


def checked_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Check additional request parameters.

    Raises:
        UsageError: One may hold a credential, is not JSON, or relabel sets it itself.
    """
    for name, value in parameters.items():
        try:
            canonical_json({name: value})
        except (ValueError, TypeError, RecursionError):  # NaN, infinity, a lone surrogate, a date of YAML
            problem = f"--param {str(name)[:100]!r} cannot be sent as JSON; use a finite number, valid text, or a simpler value"
            raise UsageError(problem) from None
        if _CREDENTIALS.search(json.dumps({name: value})):
            raise UsageError(f"--param {name} would write a credential into the store; set OPENAI_API_KEY instead")
        if not name or name in _OWN_FIELDS:
            raise UsageError(
                f"--param {name!r} is not a sampling parameter, such as temperature: relabel sets it itself"
            )
        if name == "text" and not (isinstance(value, dict) and "format" not in value):
            raise UsageError(
                '--param text takes an object without `format`, such as text={"verbosity":"low"}: relabel sets the format'
            )
    return dict(parameters)


def read_concurrency(text: str) -> int | None:
    """Value of `--concurrency`: the maximum number of requests in flight, or None for `auto`.

    Raises:
        UsageError: It is neither `auto` nor such a number.
    """
    if text == "auto":
        return None
    if text.isdecimal() and 1 <= int(text) <= MOST_IN_FLIGHT:
        return int(text)
    raise UsageError(f"--concurrency must be 'auto' or an integer from 1 to {MOST_IN_FLIGHT}; got {text!r}")


def default_name(job: Job) -> str:
    """A descriptive name for a run, which is the same for the same command."""
    parts = [job.model, job.rubric.id, Path(job.tasks_ref).stem if is_table_file(job.tasks_ref) else job.tasks_ref]
    if job.parameters["sample"]:
        parts.append(f"n{job.parameters['sample']}-s{job.parameters['seed']}")
    identity = [*job.identity, [source.sha256 for source in job.sources]]
    digest = hashlib.sha256(canonical_json(identity)).hexdigest()[:6]
    return re.sub(r"[^a-z0-9.]+", "-", "-".join([*parts, digest]).lower()).strip("-")
