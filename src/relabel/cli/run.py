"""`relabel run`: label tasks with a model."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relabel.cli.numbers import finite

if TYPE_CHECKING:
    from relabel.cli.edge import Caps
    from relabel.labelling.connection import Connection
    from relabel.labelling.engines.ray import ClusterOptions


class EngineName(StrEnum):
    """The engines that a run can take."""

    online = "online"
    batch = "batch"
    replay = "replay"
    ray = "ray"


class ApiName(StrEnum):
    """The dialects that a server may speak."""

    chat = "chat"
    responses = "responses"


class FormName(StrEnum):
    """How a server is held to the answer's shape."""

    auto = "auto"
    json_schema = "json_schema"
    json_object = "json_object"
    text = "text"


class DecideName(StrEnum):
    """How an answer says its label."""

    json = "json"
    logprob = "logprob"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    model: Annotated[
        str,
        typer.Option(
            help="A model's name at the provider; `local` for the embedded one; `local:FILE.gguf` for your own weights."
        ),
    ],
    base_url: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible API. By default OPENAI_BASE_URL, else OpenAI.")
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(help="The provider's name, where the address does not tell it; `relabel providers` lists them."),
    ] = None,
    api: Annotated[ApiName, typer.Option(help="Chat Completions or the Responses API.")] = ApiName.chat,
    rubric: Annotated[str, typer.Option(help="A rubric's name, or the path of a YAML file.")] = "exposure",
    setting: Annotated[
        list[str] | None, typer.Option(help="A setting of the rubric; may be given more than once. By default all.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="A prompt's name, or the path of a .jinja file. By default the rubric's.")
    ] = None,
    examples: Annotated[
        bool, typer.Option("--examples/--no-examples", help="Show the rubric's worked examples to the model.")
    ] = True,
    tasks: Annotated[
        str, typer.Option(help="onet-30.2, onet-29.1, eloundou-2023, sample, or the path of a CSV file.")
    ] = "onet-30.2",
    sample: Annotated[int | None, typer.Option(min=1, help="Draw this many tasks at random.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    occupation: Annotated[
        list[str] | None, typer.Option(help="Only tasks of this O*NET-SOC code; may be given more than once.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Times that each question is asked.")] = 1,
    variants: Annotated[
        int,
        typer.Option(
            min=1, max=100, help="Orders of labels and examples that each question is asked in; drawn with --seed."
        ),
    ] = 1,
    decide: Annotated[
        DecideName, typer.Option(help="json: a rationale and a label; logprob: one token, whose probabilities decide.")
    ] = DecideName.json,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="With --decide logprob: take the model's bias for a letter out, over the run.",
        ),
    ] = True,
    pack: Annotated[
        int,
        typer.Option(
            min=1, max=100, help="Tasks in one request. More than one is cheaper and changes labels: compare first."
        ),
    ] = 1,
    response_format: Annotated[
        FormName, typer.Option(help="How the server is held to the answer's shape; auto finds out by one question.")
    ] = FormName.auto,
    param: Annotated[
        list[str] | None, typer.Option(help="A sampling parameter as NAME=VALUE, sent as it is. None is sent unasked.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most tokens of one answer; sent as max_completion_tokens (chat) or max_output_tokens."
        ),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="online asks the model; batch sends files to the provider's Batch API (OpenAI, Azure, Groq, Mistral, Together), for half the price within a day; replay takes answers from the store alone; ray asks as online does, from the workers of a Ray cluster."
        ),
    ] = EngineName.online,
    concurrency: Annotated[
        str,
        typer.Option(help="Requests in flight at once, or auto to find out what the provider takes. Local models: 4."),
    ] = "auto",
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="With --engine ray: HOST:PORT of the cluster, or auto. By default RAY_ADDRESS, else Ray is started on this machine."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="With --engine ray: worker processes. By default one a node.")
    ] = None,
    worker_cpus: Annotated[
        int | None,
        typer.Option(min=1, help="With --engine ray: cores that a worker reserves, and uses for a local model."),
    ] = None,
    rpm: Annotated[float | None, typer.Option(min=0.001, callback=finite, help="Requests a minute at most.")] = None,
    tpm: Annotated[float | None, typer.Option(min=1, callback=finite, help="Tokens a minute at most.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=3600,
            callback=finite,
            help="Seconds to wait for one answer before it is asked for again. By default 90; 900 for local models. What is given up may be charged: a model that thinks for long needs more.",
        ),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(min=0, callback=finite, help="Most that this run may cost, in USD; needs --max-tokens."),
    ] = None,
    price: Annotated[
        str | None, typer.Option(help="The model's price as IN/OUT or IN/OUT/CACHED, in USD per million tokens.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show requests, tokens, cost, duration and bottleneck; send nothing.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask at a terminal before a run for over $100, or of 100,000 labels.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The run folder. By default a name under runs/ that tells what was asked.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Write progress as JSON events, one a line, to standard error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as one JSON document.")] = False,
) -> None:
    """Label tasks with a language model.

    Each task is asked under each setting. Answers go into the store as they come: a run that was stopped, killed or refused goes
    on where it was when the same command is given again, and nothing is paid for twice.
    """
    from relabel.cli.job import default_name, make_job, parameters, settings_of
    from relabel.errors import UsageError
    from relabel.labelling.connection import describe
    from relabel.labelling.engines.local import is_local
    from relabel.labelling.pricing import given_price
    from relabel.rubric import load_rubric
    from relabel.settings import settings

    if not model.strip() or model == "local:":
        raise UsageError("--model is empty; name a model at the provider, local, or local:FILE.gguf")
    environment = settings()
    loaded = load_rubric(rubric)
    asked = settings_of(loaded, setting)
    if engine is EngineName.batch and is_local(model):
        raise UsageError(f"--engine batch needs a provider with a Batch API, and {model} runs here; leave --engine out")
    one_token = decide is DecideName.logprob
    if one_token and (pack > 1 or api is ApiName.responses):
        raise UsageError("--decide logprob asks one token about one task by chat; leave --pack and --api out")
    described = describe(
        model,
        base_url,
        environment,
        parameters(param or (), max_tokens, model, api=api.value, decide=decide.value),
        api=api.value,
        price=given_price(price) if price else None,
        timeout=timeout,
        provider=provider,
    )
    cluster = _cluster(engine, ray_address, workers, worker_cpus)
    caps = caps_of(concurrency, rpm, tpm, max_cost, model, described, cluster, one_token=one_token)
    job = make_job(
        model,
        described,
        loaded,
        asked,
        tasks,
        prompt=prompt,
        examples=examples,
        sample=sample,
        seed=seed,
        occupations=occupation or (),
        samples=samples,
        variants=variants,
        decide=decide.value,
        calibrate=calibrate,
        pack=pack,
        form=None if response_format is FormName.auto else response_format.value,
    )
    folder = out or Path("runs") / default_name(job)
    priced = replace(job, price=job.price.halved()) if engine is EngineName.batch and job.price else job
    if dry_run:
        from relabel.cli.summary import show_plan

        show_plan(priced, environment, engine.value, rpm, tpm, as_json=as_json)
        return
    if not yes and max_cost is None and engine is not EngineName.replay:
        from relabel.cli.consent import get_consent

        get_consent(priced, folder)
    look = "quiet" if quiet else "json" if log_json else "people"
    go_on = "the same command goes on where it was"
    if engine is EngineName.batch:
        from relabel.cli.batch import label_by_batch

        outcome, go_on = label_by_batch(
            job, folder, environment, base_url=described.base_url, max_cost=max_cost, look=look
        )
    else:
        from relabel.cli.edge import label

        replay = engine is EngineName.replay
        outcome = label(job, folder, model, described, environment, caps, replay=replay, cluster=cluster, look=look)
    from relabel.cli.summary import report

    report(outcome, folder, model, go_on, as_json=as_json)


def _cluster(
    engine: EngineName, address: str | None, workers: int | None, worker_cpus: int | None
) -> ClusterOptions | None:
    from relabel.errors import UsageError
    from relabel.labelling.engines.ray import ClusterOptions

    if engine is EngineName.ray:
        options = ClusterOptions(address, workers, worker_cpus)
        options.check()
        return options
    given = {"--ray-address": address, "--workers": workers, "--worker-cpus": worker_cpus}
    for option, value in given.items():
        if value is not None:
            raise UsageError(f"{option} says how a cluster is used, and --engine {engine} uses none; add --engine ray")
    return None


def caps_of(
    concurrency: str,
    rpm: float | None,
    tpm: float | None,
    max_cost: float | None,
    model: str,
    described: Connection,
    cluster: ClusterOptions | None,
    *,
    one_token: bool,
) -> Caps:
    """What a run may not exceed, from the options that say it.

    Raises:
        UsageError: One cannot be kept.
    """
    from relabel.cli.edge import Caps
    from relabel.errors import UsageError
    from relabel.labelling.engines.limits import LARGEST_LIMIT
    from relabel.labelling.engines.local import SLOTS, is_local
    from relabel.labelling.wire import output_bound

    if concurrency == "auto":
        at_once = SLOTS if is_local(model) else None
        if at_once and cluster:  # a server for each worker; how many there are is known once the cluster is joined
            at_once = SLOTS * cluster.workers if cluster.workers else LARGEST_LIMIT
    elif concurrency.isdecimal() and 1 <= int(concurrency) <= 4096:
        at_once = int(concurrency)
    else:
        raise UsageError(f"--concurrency {concurrency!r} is neither auto nor a whole number from 1 to 4096")
    if max_cost is not None:
        if described.price is None:
            raise UsageError(f"--max-cost needs a price, and none is known for {model}; give it with --price IN/OUT")
        if not one_token and output_bound(described.endpoint.params) is None:
            raise UsageError(
                "--max-cost needs --max-tokens: without a bound of the answer the worst case of a request is not known"
            )
    return Caps(at_once, rpm, tpm, max_cost)
