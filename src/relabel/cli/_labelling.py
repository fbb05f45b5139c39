"""Runs the job of `relabel run`, with its messages before and after.

The heavy imports are in this module, so that `relabel run --help` stays fast.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer

import relabel
from relabel.cli._options import Showing, give_json
from relabel.cli.terminal import Look, announce, money, say, say_of, shown
from relabel.errors import IncompleteRunError, RunInterruptedError, UsageError
from relabel.files import require_writable
from relabel.labelling import transport
from relabel.labelling.batch.state import BatchFolder, BatchOptions, BatchState, run_id
from relabel.labelling.collector import Progress
from relabel.labelling.estimate import Estimate, cost_at_a_glance, estimate, limits
from relabel.labelling.job import Job, Stop
from relabel.labelling.local import is_local
from relabel.labelling.options import Prepared
from relabel.labelling.runner import run_job
from relabel.labelling.session import Outcome, count_labels
from relabel.labelling.store import Store, store_so_far
from relabel.manifest import EMBEDDED_ADVICE, answer_warnings
from relabel.settings import Settings, settings
from relabel.tabular import counted

Result = TypeVar("Result")


async def label_until(
    stop: Stop, prepared: Prepared, folder: Path, environment: Settings, *, replay: bool = False, look: Look
) -> Outcome:
    """Run a job to its end, or until it is stopped.

    Args:
        stop: Stops the job.
        prepared: Which model is asked which questions.
        folder: The run folder.
        environment: Settings from the environment.
        replay: Whether answers come from the store alone.
        look: How progress looks.
    """
    require_writable(folder)
    options, connection, job = prepared
    progress, budget = Progress(asked=job.size), options.budget(connection, job, environment)
    engine = options.engine(connection, budget, replay=replay)
    with Store(environment.store_dir, read_only=replay) as store:
        async with shown(progress, engine.limiter, look=look):
            return await run_job(job, engine, store, folder, progress=progress, stop=stop)


def run_until_stopped(
    work: Coroutine[Any, Any, Result], stop: Stop, meanwhile: str = "answers in flight", *, look: Look
) -> Result:
    """Run a job to its end, or until Ctrl-C, SIGTERM or a terminal that closes (SIGHUP) stops it.

    A second signal ends it at once.

    Args:
        work: The job.
        stop: Stops it.
        meanwhile: What a stopped job still waits for, in words.
        look: How the user is told.
    """

    def interrupt() -> None:
        is_second = stop.asked.is_set()
        stop()
        if is_second:
            announce("leaving", "quitting now", look=look)
        else:
            announce("stopping", f"stopping: waiting for {meanwhile}; press Ctrl-C again to quit now", look=look)

    async def stoppable() -> Result:
        loop, before = asyncio.get_running_loop(), dict[signal.Signals, Any]()
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number: signal.Signals | None = getattr(signal, name, None)
            # nohup ignores SIGHUP, so that the run goes on when the terminal closes.
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                before[number] = signal.signal(number, lambda *_: loop.call_soon_threadsafe(interrupt))
        try:
            return await work
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    transport.alone = True
    return asyncio.run(stoppable())


def label_by_batch(
    job: Job,
    folder: Path,
    environment: Settings,
    *,
    options: BatchOptions,
    base_url: str | None,
    headers: Mapping[str, str] | None = None,
    look: Look,
) -> tuple[Outcome, str]:
    """Run a job by batches to its end.

    Args:
        job: What to label.
        folder: The run folder.
        environment: Settings from the environment.
        options: Options of the batches; without `submit` they are cancelled, and the answers that are ready are collected.
        base_url: The provider's address.
        headers: The user's own headers for each request; by default those of the first start, without credentials.
        look: How progress looks.

    Returns:
        The outcome, and how to resume if it was interrupted.
    """
    from relabel.labelling.batch.provider import batch_provider
    from relabel.labelling.batch.runner import run_batch

    provider = batch_provider(job, base_url, environment, options.key_env, headers)
    name, home = run_id(job), environment.batches_dir
    advice = f"`relabel batch resume {name}` continues the run; batches already submitted go on at the provider"
    if look == "people" and options.submit:
        typer.echo(f"batch run {name}, state in {home / name}; after a stop, {advice}", err=True)

    stop, progress = Stop(), Progress(asked=job.size)

    async def work(store: Store) -> Outcome:
        async with shown(progress, None, look=look):  # the provider's queue bounds the batches in flight
            return await run_batch(job, store, folder, provider, home, options=options, progress=progress, stop=stop)

    with Store(environment.store_dir) as store:
        return run_until_stopped(work(store), stop, "uploads in progress", look=look), advice


def resume_batches(state: BatchState, *, submit: bool, showing: Showing) -> None:
    """Resume a stored job."""
    environment = settings()
    job = BatchFolder(environment.batches_dir, state.run_id).load_job()
    folder, options = Path(state.out), BatchOptions(submit=submit, max_cost=state.max_cost, key_env=state.key_env)
    outcome, advice = label_by_batch(
        job, folder, environment, options=options, base_url=state.base_url, look=showing.look
    )
    report(outcome, folder, job.model, advice, as_json=showing.as_json)


MUCH_USD = 100.0
# Labels; all tasks under two settings are some 38,000.
MANY = 100_000


def get_consent(job: Job, folder: Path, environment: Settings) -> None:
    """Show the maximum cost of a large run before it begins, and on a terminal ask for confirmation.

    A run that already has labels was confirmed before.

    Raises:
        UsageError: The user declined.
    """
    # Without a price, an estimate is not worth reading the store for.
    if count_labels(folder) or (job.price is None and job.size < MANY):
        return
    with store_so_far(environment.store_dir) as store:
        most = cost_at_a_glance(job, store)
    if job.size < MANY if most is None else most < MUCH_USD:
        return
    price = "at an unknown price" if most is None else f"for up to {money(most)}"
    repeats = f", each asked {job.samples:,} times" if job.samples > 1 else ""
    typer.echo(f"{job.size:,} labels: {len(job.tasks):,} {job.rubric.unit}s{repeats}, {price}", err=True)
    can_ask = sys.stdin.isatty() and sys.stderr.isatty()
    if can_ask and not typer.confirm("Continue? (--yes skips this question, --max-cost caps the cost)", err=True):
        raise UsageError("nothing was sent; --sample N draws N tasks, --samples N asks each question N times")


# Width of the labels in the summary.
_COLUMN = 9


def show_plan(
    job: Job, environment: Settings, engine: str, rpm: float | None, tpm: float | None, *, as_json: bool
) -> None:
    """Show what a job would send, its cost, and its minimum duration."""
    with store_so_far(environment.store_dir) as store:
        plan = estimate(job, store)
    bounds = limits(plan, engine, rpm=rpm, tpm=tpm)
    hours = max(limit.hours[0] for limit in bounds), bounds[0].hours[1]
    if as_json:
        timing = {"hours": hours, "bottleneck": bounds[0].name, "limits": [limit.model_dump() for limit in bounds]}
        give_json({**plan.model_dump(), **timing})
        return
    orders = f" x {len(job.orders)} orders" if job.orders else ""
    say(
        f"{job.size:,} labels: {counted(len(job.tasks), job.rubric.unit)} x {', '.join(job.settings)} x {counted(job.samples, 'sample')}{orders}",
    )
    say(
        f"{plan.requests:,} requests, {plan.in_store:,} of them in the store; {plan.to_ask:,} would be sent to {job.model} at {job.base_url}",
    )
    if not plan.to_ask:
        return
    (low, high), (least, most) = plan.prompt_tokens, plan.completion_tokens
    _say("tokens", f"{low:,} to {high:,} in, {least:,} to {most:,} out ({plan.basis})")
    prefixes = {prefix.setting: prefix for prefix in plan.prefixes}  # orders of the examples have much the same length
    lengths = ", ".join(f"{name} {prefix.tokens:,}" for name, prefix in prefixes.items())
    short = [name for name, prefix in prefixes.items() if prefix.passes is False]
    _say("prefix", f"all requests of a setting share their first tokens ({lengths}); {_cache_in_words(plan, short)}")
    if plan.cost_usd is None:
        _say("cost", f"unknown; give the price of {job.model} with --price IN/OUT")
    else:
        dated = f", as of {plan.price_as_of}" if plan.price_as_of else ""
        hits, bounds_usd = plan.cost_cached_usd, f"{money(plan.cost_usd[0])} to {money(plan.cost_usd[1])}"
        cheaper = f", {money(hits[0])} to {money(hits[1])} if all but the first of a setting hit" if hits else ""
        _say("cost", f"{bounds_usd} without cache hits{cheaper} (prices: {plan.price_source}{dated})")
    if engine == "batch" or rpm or tpm:
        shown = " to ".join(f"{end:,.0f}" if end >= 10 else f"{end:.2g}" for end in dict.fromkeys(hours))
        _say("hours", f"{shown}; bottleneck: {bounds[0].name} ({bounds[0].rate})")
    else:
        _say("hours", "unknown; give the provider's limits with --rpm and --tpm")


def _cache_in_words(plan: Estimate, short: Sequence[str]) -> str:
    if plan.cache_source is None:
        return "this model has no known prefix cache"
    if plan.cache_least is None:
        return f"the prefix cache has no documented minimum ({plan.cache_source})"
    size, named = ("too short", f": {', '.join(short)}") if short else ("long enough", "")
    return f"{size} for the prefix cache, which needs at least {plan.cache_least:,} ({plan.cache_source}){named}"


def show_outcome(outcome: Outcome, folder: Path, model: str) -> None:
    """Summarise a run, starting with what is missing."""
    manifest, progress, counts = outcome.manifest, outcome.progress, outcome.manifest.counts
    if outcome.missing:
        kinds = Counter[str](progress.failed)
        if outcome.interrupted:
            asked = sum(failure.kind != "provider" or failure.attempts > 0 for failure in outcome.failures)
            kinds.update({"not asked": outcome.missing - asked, "provider": asked - outcome.missing})
        listed = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()) if count)
        _say("MISSING", f"{outcome.missing:,} of {counts.asked:,} labels ({listed})")
    labelled = counts.from_store + counts.fresh
    _say("labels", f"{labelled:,} of {counts.asked:,}: {counts.from_store:,} from the store, {counts.fresh:,} fresh")
    _show_settings(outcome)
    _say("model", f"{manifest.model}, reported as {', '.join(manifest.models_returned) or 'not yet known'}")
    for sentence in answer_warnings(manifest.labels_by_model, manifest.repeats_from_cache, labelled):
        _say("", f"WARNING: {sentence}")
    if manifest.service_tiers:
        _say("tier", ", ".join(f"{name} {count:,}" for name, count in manifest.service_tiers.items()))
    thinking = f", {manifest.tokens.reasoning:,} of them reasoning" if manifest.tokens.reasoning else ""
    unsure = not manifest.cost_usd and manifest.perhaps_charged.requests and manifest.perhaps_charged.usd is None
    cost = money(None if unsure else manifest.cost_usd)
    if manifest.table_cost_usd is not None:
        billed = "" if manifest.cost_usd is None else " as billed by the provider"
        cost += f"{billed}, {money(manifest.table_cost_usd)} by the price table"
    if manifest.rejected:
        rejected_cost = f", {money(manifest.rejected_usd)} of it" if manifest.rejected_usd else ""
        cost += f"; rejected answers: {manifest.rejected:,}{rejected_cost}"
    costs = [start.cost_usd for start in manifest.sessions]
    in_all = None if None in costs else sum(cost or 0.0 for cost in costs)
    if len(costs) > 1 and in_all != manifest.cost_usd:
        cost += f"; {money(in_all)} over all {len(costs)} starts"
    share = "" if manifest.tokens.cached_share is None else f", {manifest.tokens.cached_share:.0%}"
    read = f"{manifest.tokens.prompt:,} in ({manifest.tokens.cached:,} cached{share})"
    _say("tokens", f"{read}, {manifest.tokens.completion:,} out{thinking}; {cost}")
    if counts.repaired or counts.unwrapped:
        _say("answers", f"{counts.repaired:,} repaired, {counts.unwrapped:,} extracted from surrounding text")
    if manifest.upstreams:
        _say("upstream", ", ".join(manifest.upstreams))
    waits = manifest.answer_wait or {}
    if cut := waits.get("cut"):
        wait = f"{waits['wait_s']:g} s or more, because other answers came much faster"
        _say("waits", f"{cut:,.0f} attempt(s) were aborted after {wait}, and sent again")
    if hedged := waits.get("hedged"):
        _say("hedged", f"{hedged:,.0f} request(s) were sent a second time, because their answers were late")
    charged = manifest.perhaps_charged
    if charged.requests:
        most = "an unknown sum" if charged.usd is None else f"up to {money(charged.usd)}"
        charge = f"; {most} may be charged for them" if charged.usd != 0 else ""  # only a free model can cost nothing
        _say("lost", f"{charged.requests:,} request(s) ended without a usable answer{charge}")
    if "variants" in manifest.parameters and labelled:
        from relabel.evaluation.trial import variance

        for setting, share in variance(relabel.open_run(str(folder))).items():
            _say("orders", f"{setting}: {share.in_words()}")
    if manifest.note:
        _say("note", manifest.note)
    _say("folder", str(folder))
    if is_local(model):
        typer.echo(EMBEDDED_ADVICE if model == "local" else "Labels of your own model: evaluate them before use.")


def report(outcome: Outcome, folder: Path, model: str, advice: str, *, as_json: bool, elsewhere: str = "") -> None:
    """Show the result of a run; an incomplete one ends with an error.

    Raises:
        RunInterruptedError: It was stopped.
        IncompleteRunError: Labels are missing.
    """
    if not give_json(outcome.manifest, as_json=as_json):
        show_outcome(outcome, folder, model)
    missing = outcome.missing
    if outcome.interrupted and missing:
        asked = outcome.manifest.counts.asked
        raise RunInterruptedError(f"stopped with {missing:,} of {asked:,} labels missing; {advice}")
    if missing:
        raise IncompleteRunError(still_missing(outcome, folder, elsewhere))


def _say(label: str, text: str) -> None:
    say_of(label, text, column=_COLUMN)


def _show_settings(outcome: Outcome) -> None:
    settings = outcome.manifest.settings
    asked = outcome.manifest.counts.asked // max(1, len(settings))
    for setting in settings:
        counts = Counter(row.label for row in outcome.labels if row.setting == setting)
        total, listed = counts.total(), ", ".join(f"{label} {count:,}" for label, count in sorted(counts.items()))
        _say("", f"{setting}: {'' if total == asked else f'{total:,} of {asked:,}: '}{listed or 'no labels'}")


def still_missing(outcome: Outcome, folder: Path, elsewhere: str = "") -> str:
    """The final message of an incomplete run: what is missing, and how to get each part."""
    manifest, missing, progress = outcome.manifest, outcome.missing, outcome.progress
    others = missing - progress.failed["budget"] - progress.failed["length"] - progress.held_by_run.total()
    advice = [
        f"batch job {run} is still processing {count:,} of them: `relabel batch resume {run}` collects their answers, "
        f"`relabel batch cancel {run}` releases them"
        for run, count in sorted(progress.held_by_run.items())
    ]
    if progress.failed["budget"]:
        reason = next((x.message for x in outcome.failures if x.kind == "budget"), "the cap is reached")
        advice.append(f"{reason}: raise --max-cost to label the remaining tasks")
    if cut := progress.failed["length"]:
        advice.append(f"{cut:,} answers were cut off, as they would be again: raise --max-tokens, with another --out")
    if elsewhere:
        advice.append(elsewhere)
    elif others and manifest.engine == "replay":
        advice.append("replay sends no request: remove --engine replay to request them")
    elif others:
        reasons = {failure.message for failure in outcome.failures}
        advice += [f"all failed with the same error: {reasons.pop()}"] if len(reasons) == 1 and missing > 1 else []
        advice.append("run the same command again to request what is missing")
    return f"{missing:,} of {manifest.counts.asked:,} labels are missing (see {folder / 'failures.jsonl'}); {'; '.join(advice)}"
