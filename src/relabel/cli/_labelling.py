"""From the options of `relabel run` to a job, from the job to its end, and what is said before and after.

What is heavy to import is here, so that `relabel run --help` starts at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from relabel.cli._render import wrapped
from relabel.cli.display import Look, money, say, shown
from relabel.errors import IncompleteRunError, RunInterruptedError, UsageError
from relabel.files import require_writable
from relabel.labelling.connection import Connection, LazyEngine
from relabel.labelling.engine import Engine, ReplayEngine
from relabel.labelling.estimate import Estimate, cost_at_a_glance, estimate, limits
from relabel.labelling.job import Job, Stop
from relabel.labelling.limiter import LARGEST_LIMIT, Limiter
from relabel.labelling.local import ADVICE, SLOTS, is_local
from relabel.labelling.pricing import Budget
from relabel.labelling.progress import Progress
from relabel.labelling.prompt import load_prompt
from relabel.labelling.request import ONE_TOKEN, Decide, canonical_json
from relabel.labelling.runner import run_job
from relabel.labelling.session import Outcome, labels_there
from relabel.labelling.store import Store
from relabel.labelling.wire import Api, Form, output_bound
from relabel.manifest import Tokens, task_sources
from relabel.rubric import Rubric, orders
from relabel.settings import Settings
from relabel.sources.tables import is_table_file
from relabel.task import disputed_titles, load_tasks

if TYPE_CHECKING:
    from relabel.labelling.ray import ClusterOptions

_CREDENTIALS = {"api_key", "apikey", "authorization", "token", "access_token", "secret", "password"}
_OURS = {"model", "messages", "input", "response_format", "stream", "n"}
"""Fields of a request that relabel sets itself."""


def settings_of(rubric: Rubric, given: Sequence[str] | None) -> tuple[str, ...]:
    """The settings to ask: those that were given, or all.

    Raises:
        UsageError: The rubric has no such setting.
    """
    asked = tuple(dict.fromkeys(given or rubric.settings))
    for name in asked:
        if name not in rubric.settings:
            raise UsageError(f"the rubric {rubric.id} has no setting {name!r}; use one of {', '.join(rubric.settings)}")
    return asked


def parameters(
    given: Sequence[str],
    max_tokens: int | None,
    model: str,
    *,
    api: Api,
    decide: Decide,
    bound: str = "max_completion_tokens",
) -> dict[str, Any]:
    """What is sent beside the question, by the user's word.

    Args:
        given: Values of `--param`.
        max_tokens: Value of `--max-tokens`.
        model: The model as the user named it.
        api: The dialect, which has its own name for the bound of an answer.
        decide: How an answer says its label; one token leaves little to choose.
        bound: What the provider calls the bound of an answer in the chat dialect.

    Raises:
        UsageError: One is not a parameter, cannot be sent, or would be overridden.
    """
    found: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if name.lower().replace("-", "_") in _CREDENTIALS:
            raise UsageError(f"--param {name} would write a credential into the store; set OPENAI_API_KEY instead")
        if not equals or not name or name in _OURS:
            raise UsageError(f"--param {item!r} is not NAME=VALUE with a sampling parameter, such as temperature=0")
        found[name] = value = _value(item, name, text)
        if name == "text" and not (isinstance(value, dict) and "format" not in value):
            raise UsageError(
                '--param text takes an object without `format`, such as text={"verbosity":"low"}: the format is relabel\'s'
            )
    if decide == "logprob":
        _leave_to_one_token(found, max_tokens)
    if max_tokens is not None:
        at_home = "max_tokens" if is_local(model) else bound
        found["max_output_tokens" if api == "responses" else at_home] = max_tokens
    return found


def _value(item: str, name: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    except RecursionError:
        raise UsageError(f"--param {name} is nested too deep to be sent; give a simpler value") from None
    try:
        canonical_json({name: value})
    except ValueError:  # what JSON has no word for: NaN, what is beyond all numbers, half a character
        raise UsageError(
            f"--param {item!r} cannot be sent as JSON; give a finite number, or text that is whole"
        ) from None
    return value


def _leave_to_one_token(params: dict[str, Any], max_tokens: int | None) -> None:
    """Refuse parameters that `--decide logprob` would override, so that the manifest says what was sent."""
    against = [f"--param {n}" for n, value in params.items() if n in ONE_TOKEN and value != ONE_TOKEN[n]]
    against += [f"--param {n}" for n in params if n not in ONE_TOKEN and output_bound({n: 1}) is not None]
    if max_tokens is not None:
        against.append("--max-tokens")
    if against:
        fixed = ", ".join(f"{name}={json.dumps(value)}" for name, value in ONE_TOKEN.items())
        raise UsageError(f"--decide logprob requests one token with {fixed}; remove {' and '.join(against)}")


def make_job(
    model: str,
    described: Connection,
    rubric: Rubric,
    settings: tuple[str, ...],
    tasks: str,
    *,
    prompt: str | None = None,
    examples: bool = True,
    sample: int | None = None,
    seed: int = 0,
    occupations: Sequence[str] = (),
    samples: int = 1,
    variants: int = 1,
    decide: Decide = "json",
    pack: int = 1,
    form: Form | None = None,
) -> Job:
    """The job that the options ask for.

    Args:
        model: The model as the user named it.
        described: The model.
        rubric: The rubric.
        settings: Settings of the rubric to ask.
        tasks: The task list as the user named it.
        prompt: A prompt's name or path; by default the rubric's.
        examples: Whether worked examples are shown.
        sample: Draw this many tasks at random.
        seed: Seed of the draw.
        occupations: Only tasks of these codes.
        samples: Times that each question is asked, in each order.
        variants: Orders of the rubric's labels and examples that each question is asked in, drawn with the same seed.
        decide: How an answer says its label.
        pack: Tasks in one request.
        form: How the server is held to the answer's shape; None finds it out.

    Raises:
        UsageError: The rubric has fewer orders than variants.
        DataError: A task list, or a prompt, cannot be used.
    """
    if variants > 1 and decide == "logprob":
        raise UsageError(
            "--variants needs --decide json: with one token a label's letter moves with the order of labels"
        )
    template = load_prompt(prompt or rubric.prompt)
    chosen = load_tasks(tasks, unit=rubric.unit, occupations=occupations, sample=sample, seed=seed)
    if is_table_file(tasks) and (disputed := disputed_titles((task.onet_soc_code, task.title) for task in chosen)):
        typer.echo(wrapped(f"warning: {disputed}; correct the list before you pay for labels"), err=True)
    return Job(
        tasks=chosen,
        tasks_ref=tasks,
        sources=task_sources(tasks, rubric.unit),
        rubric=rubric,
        prompt=template,
        settings=settings,
        endpoint=described.endpoint.model_copy(update={"form": form or "json_schema"}),
        model=model,
        base_url=described.shown_url,
        price=described.price,
        provider=described.provider,
        samples=samples,
        orders=orders(rubric, variants, seed=seed, examples=examples) if variants > 1 else (),
        examples=examples,
        decide=decide,
        pack=pack,
        probe=form is None and decide == "json" and not is_local(model),
        parameters={
            "sample": sample,
            "seed": seed if sample else None,
            "occupations": list(occupations),
            "wire_model": described.endpoint.model,
            **({"variant_seed": seed} if variants > 1 else {}),
        },
    )


def default_name(job: Job) -> str:
    """A name for a run that tells what was asked; the same command gives the same name."""
    parts = [job.model, job.rubric.id, Path(job.tasks_ref).stem if is_table_file(job.tasks_ref) else job.tasks_ref]
    if job.parameters["sample"]:
        parts.append(f"n{job.parameters['sample']}-s{job.parameters['seed']}")
    whole: list[Any] = [
        job.endpoint.model_dump(),
        job.rubric.sha256,
        job.prompt.sha256,
        job.settings,
        job.all_parameters,
        [source.sha256 for source in job.sources],
    ]
    digest = hashlib.sha256(canonical_json(whole)).hexdigest()[:6]
    return re.sub(r"[^a-z0-9.]+", "-", "-".join([*parts, digest]).lower()).strip("-")


@dataclass(frozen=True)
class Caps:
    """What a run may not exceed.

    Attributes:
        concurrency: Requests in flight at once; None finds it out.
        rpm: Requests a minute at most.
        tpm: Tokens a minute at most.
        max_cost: Cap of the cost, in USD.
    """

    concurrency: int | None
    rpm: float | None = None
    tpm: float | None = None
    max_cost: float | None = None


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
    if concurrency == "auto":
        at_once = SLOTS if is_local(model) else None
        if at_once and cluster:  # a server for each worker; how many there are is known once the cluster is joined
            at_once = SLOTS * cluster.workers if cluster.workers else LARGEST_LIMIT
    elif concurrency.isdecimal() and 1 <= int(concurrency) <= 4096:
        at_once = int(concurrency)
    else:
        raise UsageError(f"--concurrency must be 'auto' or an integer from 1 to 4096; got {concurrency!r}")
    if max_cost is not None:
        if described.price is None:
            raise UsageError(f"--max-cost needs a price, and none is known for {model}; give it with --price IN/OUT")
        if not one_token and output_bound(described.endpoint.params) is None:
            raise UsageError(
                "--max-cost needs --max-tokens: without a bound of the answer the worst case of a request is not known"
            )
    return Caps(at_once, rpm, tpm, max_cost)


def label(
    job: Job,
    folder: Path,
    model: str,
    described: Connection,
    environment: Settings,
    caps: Caps,
    *,
    replay: bool = False,
    cluster: ClusterOptions | None = None,
    look: Look = "people",
) -> Outcome:
    """Run a job to its end.

    Args:
        job: What to label.
        folder: The run folder.
        model: The model as the user named it.
        described: The model.
        environment: Settings from the environment.
        caps: What it may not exceed.
        replay: Whether answers come from the store alone.
        cluster: The Ray cluster whose workers ask; None asks from this process.
        look: How progress looks.
    """
    require_writable(folder)
    limiter = Limiter(caps.concurrency, rpm=caps.rpm, tpm=caps.tpm)
    budget = Budget(caps.max_cost, described.price)
    with Store(environment.store_dir) as store:
        engine: Engine
        if replay:
            engine = ReplayEngine()
        elif cluster is not None:
            from relabel.labelling.ray import RayEngine

            engine = RayEngine(model, described, limiter, budget, cluster)
        else:
            engine = LazyEngine(model, described, environment, limiter, budget)
        return asyncio.run(_work(job, engine, store, folder, limiter, budget, look=look))


async def _work(
    job: Job, engine: Engine, store: Store, folder: Path, limiter: Limiter, budget: Budget, *, look: Look
) -> Outcome:
    stop, progress = Stop(), Progress(asked=job.size)
    try:
        with stopping_on_signals(stop, "waiting for the answers in flight", look=look):
            async with shown(progress, limiter, look=look):
                return await run_job(
                    job,
                    engine,
                    store,
                    folder,
                    concurrency=limiter.largest,
                    budget=budget,
                    progress=progress,
                    stop=stop,
                )
    finally:
        await engine.close()


@contextmanager
def stopping_on_signals(stop: Stop, meanwhile: str, *, look: Look) -> Generator[None]:
    """Let Ctrl-C, SIGTERM and a terminal that closes (SIGHUP) stop a job for as long as the block lasts.

    A second one makes it leave at once.

    Args:
        stop: Stops the job.
        meanwhile: What happens until it has stopped, in words.
        look: How it is said.
    """
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        again = stop.asked.is_set()
        stop()
        if again:
            say("leaving", "leaving at once", look=look)
        else:
            say("stopping", f"stopping: {meanwhile}; once more to leave at once", look=look)

    before: dict[signal.Signals, Any] = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number: signal.Signals | None = getattr(signal, name, None)
        # Under nohup a terminal that closes is no reason to stop.
        if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
            before[number] = signal.signal(number, lambda *_: loop.call_soon_threadsafe(interrupt))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


MUCH_USD = 100.0
MANY = 100_000
"""Labels; all tasks under two settings are some 38,000."""


def get_consent(job: Job, folder: Path) -> None:
    """Say what a large run may cost before it begins, and on a terminal ask whether it is meant.

    A run that has labels already is not asked about again.

    Raises:
        UsageError: It was not meant.
    """
    most = cost_at_a_glance(job)
    if (job.size < MANY if most is None else most < MUCH_USD) or labels_there(folder):
        return
    price = "at a price that is not known" if most is None else f"for up to {money(most)}"
    repeats = f", each asked {job.samples:,} times" if job.samples > 1 else ""
    typer.echo(f"{job.size:,} labels: {len(job.tasks):,} {job.rubric.unit}s{repeats}, {price}", err=True)
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    if asks and not typer.confirm("Go on? (--yes does not ask, --max-cost caps the cost)", err=True):
        raise UsageError("nothing was sent; --sample N draws N tasks, --samples N asks each question N times")


_COLUMN = 9
"""Columns before what a line of the summary says."""


def show_plan(
    job: Job, environment: Settings, engine: str, rpm: float | None, tpm: float | None, *, as_json: bool
) -> None:
    """Say what a job would ask, what it would cost, and how long it takes at least."""
    if environment.store_dir.exists():
        with Store(environment.store_dir) as store:
            found = estimate(job, store)
    else:
        found = estimate(job, None)
    bounds = limits(found, engine, rpm=rpm, tpm=tpm)
    hours = max(limit.hours[0] for limit in bounds), bounds[0].hours[1]
    if as_json:
        timing = {"hours": hours, "bottleneck": bounds[0].name, "limits": [limit.model_dump() for limit in bounds]}
        typer.echo(json.dumps({**found.model_dump(), **timing}, indent=2))
        return
    orders = f" x {len(job.orders)} orders" if job.orders else ""
    typer.echo(
        f"{job.size:,} labels: {len(job.tasks):,} {job.rubric.unit}s x {', '.join(job.settings)} x {job.samples} sample(s){orders}\n"
        f"{found.requests:,} requests, {found.in_store:,} of them in the store; {found.to_ask:,} would be sent to {job.model} at {job.base_url}"
    )
    if not found.to_ask:
        return
    typer.echo(
        f"tokens   {found.prompt_tokens[0]:,} to {found.prompt_tokens[1]:,} in, {found.completion_tokens[0]:,} to {found.completion_tokens[1]:,} out ({found.basis})"
    )
    _show_prefixes(found)
    if found.cost_usd is None:
        typer.echo(f"cost     unknown: no price of {job.model} is known; give it with --price IN/OUT")
    else:
        dated = f", as of {found.price_as_of}" if found.price_as_of else ""
        hits = found.cost_cached_usd
        cheaper = (
            ""
            if hits is None
            else f", {money(hits[0])} to {money(hits[1])} if all requests of a setting but the first hit"
        )
        typer.echo(
            f"cost     {money(found.cost_usd[0])} to {money(found.cost_usd[1])} without cache hits{cheaper} (by {found.price_source}{dated})"
        )
    if engine == "batch" or rpm or tpm:
        shown = " to ".join(f"{end:,.0f}" if end >= 10 else f"{end:.2g}" for end in dict.fromkeys(hours))
        typer.echo(f"hours    {shown}; bottleneck: {bounds[0].name} ({bounds[0].rate})")
    else:
        typer.echo("hours    not known; give the provider's limits with --rpm and --tpm")


def _show_prefixes(found: Estimate) -> None:
    by_setting = {
        prefix.setting: prefix for prefix in found.prefixes
    }  # orders of the examples have much the same length
    each = ", ".join(f"{name} {prefix.tokens:,}" for name, prefix in by_setting.items())
    least, short = found.cache_least, [name for name, prefix in by_setting.items() if prefix.passes is False]
    if found.cache_source is None:
        said = "no prefix cache of this model is known"
    elif least is None:
        said = f"the prefix cache has no documented minimum ({found.cache_source})"
    elif short:
        said = f"too short for the prefix cache, which acts from {least:,} ({found.cache_source}): {', '.join(short)}"
    else:
        said = f"long enough for the prefix cache, which acts from {least:,} ({found.cache_source})"
    _say("prefix", f"{each} tokens are the same in every request; {said}")


def show_outcome(outcome: Outcome, folder: Path, model: str) -> None:
    """Say what a run came to, what is missing first."""
    m, missing = outcome.manifest, outcome.missing
    if missing.total:
        said = ", ".join(f"{count:,} {kind}" for kind, count in sorted(missing.kinds.items()))
        _say("MISSING", f"{missing.total:,} of {m.counts.asked:,} labels ({said})")
        for run, count in sorted(missing.held.items()):
            _say("", f"{count:,} of them were not asked: batch job {run} is processing them")
        if others := missing.unasked - sum(missing.held.values()):
            _say("", f"{others:,} of them were not asked")
    there = m.counts.from_store + m.counts.fresh
    _say("labels", f"{there:,} of {m.counts.asked:,}: {m.counts.from_store:,} from the store, {m.counts.fresh:,} fresh")
    _show_settings(outcome)
    _say("model", f"{m.model}, answered as {', '.join(m.models_returned) or 'nothing'}")
    if len(m.labels_by_model) > 1:
        parts = ", ".join(f"{name}: {count:,}" for name, count in m.labels_by_model.items())
        _say(
            "",
            f"WARNING: {len(m.labels_by_model)} models answered ({parts}); compare them with `relabel eval --by-model`",
        )
    if m.repeats_from_cache:
        _say(
            "repeats",
            f"WARNING: {m.repeats_from_cache:,} of {there:,} samples are an earlier answer that a cache on the way to the "
            "model gave again; they do not count as repeats. Switch the gateway's cache off and label again",
        )
    thinking = f", {m.tokens.reasoning:,} of them thinking" if m.tokens.reasoning else ""
    cost = money(m.cost_usd)
    if m.table_cost_usd is not None:
        cost += f" as the provider states it, {money(m.table_cost_usd)} by the price table"
    _say("tokens", f"{m.tokens.prompt:,} in ({_cached(m.tokens)}), {m.tokens.completion:,} out{thinking}; {cost}")
    if m.counts.repaired or m.counts.unwrapped:
        _say("answers", f"{m.counts.repaired:,} repaired, {m.counts.unwrapped:,} read from within other text")
    if m.upstreams:
        _say("upstream", ", ".join(m.upstreams))
    unsure = m.perhaps_charged
    if unsure.requests:
        most = "an unknown sum" if unsure.usd is None else f"up to {money(unsure.usd)}"
        free = unsure.usd == 0  # a request has a prompt, so that only a model without a price can come to nothing
        charged = "" if free else f"; {most} may be charged for them"
        _say("unsure", f"{unsure.requests:,} request(s) were sent and never answered{charged}")
    if "variants" in m.parameters and there:
        from relabel.evaluation.trial import variance
        from relabel.run import open_run

        for setting, share in variance(open_run(str(folder))).items():
            _say("orders", f"{setting}: {share.in_words()}")
    if m.note:
        _say("note", m.note)
    _say("folder", str(folder))
    if is_local(model):
        typer.echo(ADVICE if model == "local" else "Labels of a model of your own: evaluate them before you use them.")


def _cached(tokens: Tokens) -> str:
    share = "" if tokens.cached_share is None else f", {tokens.cached_share:.0%}"
    return f"{tokens.cached:,} cached{share}"


def report(outcome: Outcome, folder: Path, model: str, go_on: str, *, as_json: bool) -> None:
    """Show what a run came to; an incomplete one ends with an error.

    Raises:
        RunInterruptedError: It was stopped.
        IncompleteRunError: Labels are missing.
    """
    if as_json:
        typer.echo(outcome.manifest.model_dump_json(indent=2))
    else:
        show_outcome(outcome, folder, model)
    missing = outcome.missing.total
    if outcome.interrupted and missing:
        asked = outcome.manifest.counts.asked
        raise RunInterruptedError(f"stopped with {missing:,} of {asked:,} labels missing; {go_on}")
    if missing:
        raise IncompleteRunError(still_missing(outcome, folder))


def _say(what: str, text: str) -> None:
    typer.echo(f"{what:<{_COLUMN}}{wrapped(text, indent=_COLUMN, hang=0)[_COLUMN:]}")


def _show_settings(outcome: Outcome) -> None:
    m = outcome.manifest
    by_setting: dict[str, Counter[str]] = {setting: Counter() for setting in m.settings}
    for row in outcome.labels:
        by_setting[row.setting][row.label] += 1
    each = m.counts.asked // max(1, len(m.settings))
    for setting, counts in by_setting.items():
        total = counts.total()
        parts = [] if total == each else [f"{f'{total:,}' if total else 'none'} of {each:,}"]
        parts += [", ".join(f"{label} {count:,}" for label, count in sorted(counts.items()))] if counts else []
        _say("", f"{setting}: {': '.join(parts)}")
    none = [setting for setting, counts in by_setting.items() if not counts]
    if none and len(none) < len(by_setting):
        _say(
            "",
            f"{' and '.join(none)} {'has' if len(none) == 1 else 'have'} no label yet: until the run is finished nothing can be "
            "judged three-way, and no measure that needs it scored",
        )


def still_missing(outcome: Outcome, folder: Path) -> str:
    """The sentence that an incomplete run ends with: what is missing, and how to get each part of it."""
    m, missing = outcome.manifest, outcome.missing
    ways: list[str] = []
    rest = missing.total - missing.kinds.get("budget", 0) - sum(missing.held.values())
    for run, count in sorted(missing.held.items()):
        ways.append(
            f"batch job {run} is still processing {'all' if count == missing.total else f'{count:,}'} of them: `relabel batch resume {run}` "
            f"takes their answers, `relabel batch cancel {run}` lets others ask"
        )
    if missing.kinds.get("budget"):
        ways.append("raise --max-cost to label the tasks that it left out")
    if rest and m.engine == "replay":
        ways.append("replay sends no request: remove --engine replay to request them")
    elif rest:
        ways.append("the same command asks for the others again" if ways else "the same command asks for them again")
    return (
        f"{missing.total:,} of {m.counts.asked:,} labels are missing, {folder / 'failures.jsonl'} says which and why; "
        + "; ".join(ways)
    )
