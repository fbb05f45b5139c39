"""`relabel plan`: hours and money of a labelling, and what limits it."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relabel.cli.numbers import finite
from relabel.cli.writing import JsonCommand, require_file, write

if TYPE_CHECKING:
    from relabel.labelling.throughput import Outlook, Range


class PlanEngine(StrEnum):
    """The engines that ask."""

    online = "online"
    batch = "batch"
    ray = "ray"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", cls=JsonCommand)(plan)


def plan(
    model: Annotated[
        str, typer.Option(help="A model's name at the provider; `local` or `local:FILE.gguf` for one of your own.")
    ],
    base_url: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible API. By default OPENAI_BASE_URL, else OpenAI.")
    ] = None,
    rubric: Annotated[str, typer.Option(help="A rubric's name, or the path of a YAML file.")] = "exposure",
    setting: Annotated[
        list[str] | None, typer.Option(help="A setting of the rubric; may be given more than once. By default all.")
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="onet-30.2, onet-29.1, eloundou-2023, sample, or the path of a CSV file.")
    ] = "onet-30.2",
    sample: Annotated[
        int | None, typer.Option(min=1, help="Plan for this many tasks drawn at random, as `relabel run` draws them.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    occupation: Annotated[
        list[str] | None, typer.Option(help="Only tasks of this O*NET-SOC code; may be given more than once.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Times that each question is asked.")] = 1,
    pack: Annotated[int, typer.Option(min=1, max=100, help="Tasks in one request.")] = 1,
    engine: Annotated[PlanEngine, typer.Option(help="How requests are asked.")] = PlanEngine.online,
    rpm: Annotated[
        float | None, typer.Option(min=0.001, callback=finite, help="Requests a minute that the provider grants.")
    ] = None,
    tpm: Annotated[
        float | None, typer.Option(min=1, callback=finite, help="Tokens a minute that the provider grants.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Requests in flight at once; needs --latency.")
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(min=0.001, callback=finite, help="Seconds that one answer takes; with 512 in flight by default."),
    ] = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            min=0.001, callback=finite, help="Answer tokens a second of one GPU, or one server, that is kept full."
        ),
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs or servers. By default one a worker.")] = None,
    gpu_price: Annotated[
        float | None, typer.Option(min=0, callback=finite, help="What a GPU costs an hour, in USD.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="With --engine ray: worker processes.")] = 1,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of one answer.")] = None,
    price: Annotated[
        str | None, typer.Option(help="The model's price as IN/OUT or IN/OUT/CACHED, in USD per million tokens.")
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="F", help="Write the plan to this file as JSON; alone or with - print it."),
    ] = None,
) -> None:
    """Say how long a labelling takes, what it costs, and which limit binds. Nothing is asked.

    A limit that is not given limits nothing: give the provider's quota, or the speed of your GPUs.
    """
    from relabel.cli.job import make_job, settings_of
    from relabel.errors import UsageError
    from relabel.labelling.connection import describe
    from relabel.labelling.engines.limits import LARGEST_LIMIT
    from relabel.labelling.engines.local import SLOTS, is_local
    from relabel.labelling.estimate import estimate
    from relabel.labelling.pricing import given_price
    from relabel.labelling.throughput import Pace, outlook
    from relabel.rubric import load_rubric
    from relabel.settings import settings

    require_file(json_file, "--json")
    if concurrency is not None and latency is None:
        raise UsageError("--concurrency says how long a run takes only together with --latency; add it")
    if engine is PlanEngine.batch and is_local(model):
        raise UsageError(f"--engine batch needs a provider with a Batch API, and {model} runs here; leave --engine out")
    for option, value in {"--gpus": gpus, "--gpu-price": gpu_price}.items():
        if value is not None and tokens_per_second is None:
            raise UsageError(f"{option} needs --tokens-per-second: how much one GPU gives")
    if workers > 1 and engine is not PlanEngine.ray:
        raise UsageError(f"--workers is of --engine ray, and --engine {engine} has none; add --engine ray")
    servers = workers if is_local(model) else 1
    at_once = concurrency or (SLOTS * servers if is_local(model) else LARGEST_LIMIT)
    loaded = load_rubric(rubric)
    described = describe(
        model,
        base_url,
        settings(),
        {} if max_tokens is None else {"max_completion_tokens": max_tokens},
        price=given_price(price) if price else None,
    )
    job = make_job(
        model,
        described,
        loaded,
        settings_of(loaded, setting),
        tasks,
        sample=sample,
        seed=seed,
        occupations=occupation or (),
        pack=pack,
    )
    if engine is PlanEngine.batch and job.price:
        job = replace(job, price=job.price.halved())
    pace = Pace(
        engine=engine.value,
        rpm=rpm,
        tpm=tpm,
        concurrency=at_once,
        latency_s=latency,
        gpu_tokens_s=tokens_per_second,
        gpus=gpus or workers,
        gpu_usd_h=gpu_price,
    )
    found = outlook(estimate(job, None), samples, pace)
    if json_file is None:
        typer.echo(_said(found, model))
    elif json_file == "-":
        typer.echo(found.model_dump_json(indent=2))
    else:
        write(Path(json_file), found.model_dump_json(indent=2) + "\n", "--json")


def _said(found: Outlook, model: str) -> str:
    lines = [
        f"{found.labels:,} labels by {found.requests:,} requests to {model}, engine {found.engine}",
        f"tokens   {found.prompt_tokens[0]:,} to {found.prompt_tokens[1]:,} in, {found.completion_tokens[0]:,} to {found.completion_tokens[1]:,} out",
        f"hours    {_range(found.hours)}; what binds: {found.binds}",
    ]
    width = max(len(limit.name) for limit in found.limits)
    for number, limit in enumerate(found.limits):
        lines.append(
            f"{'limits' if number == 0 else '':<8} {limit.name:<{width}}  {_range(limit.hours)} h ({limit.rate})"
        )
    if found.gpu_usd is not None:
        lines.append(f"GPUs     {_range(found.gpu_usd, dollars=True)}")
    if found.tokens_usd is None:
        lines.append("money    unknown: no price of the model is known; give it with --price IN/OUT")
    else:
        lines.append(f"money    {_range(found.tokens_usd, dollars=True)} by {found.price_source}, without cache hits")
    return "\n".join([*lines, f"Tokens: {found.basis}. Repairs and retries are not counted."])


def _range(value: Range, *, dollars: bool = False) -> str:
    low, high = (
        f"${number:,.2f}" if dollars else f"{number:,.0f}" if number >= 10 else f"{number:.2g}" for number in value
    )
    return low if low == high else f"{low} to {high}"
