"""What `relabel run` says before and after: the plan of a dry run, and what a run came to."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import typer

from relabel.cli.display import money
from relabel.cli.lines import wrapped
from relabel.errors import IncompleteRunError, RunInterruptedError
from relabel.evaluation.trial import variance
from relabel.labelling.engines.local import ADVICE, is_local
from relabel.labelling.estimate import Estimate, estimate, limits
from relabel.labelling.job import Job
from relabel.labelling.outcome import Outcome
from relabel.labelling.store import Store
from relabel.run import Tokens, open_run
from relabel.settings import Settings

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
    typer.echo(
        f"{job.size:,} labels: {len(job.tasks):,} {job.rubric.unit}s x {', '.join(job.settings)} x {job.samples} sample(s){f' x {len(job.orders)} orders' if job.orders else ''}\n"
        f"{found.requests:,} requests, {found.in_store:,} of them in the store; {found.to_ask:,} would be asked of {job.model} at {job.base_url}"
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
            _say("", f"{count:,} of them were not asked: the batch run {run} has them in flight")
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
    """The sentence that an incomplete run ends with: what is missing, and how each part of it can be had."""
    m, missing = outcome.manifest, outcome.missing
    ways: list[str] = []
    rest = missing.total - missing.kinds.get("budget", 0) - sum(missing.held.values())
    for run, count in sorted(missing.held.items()):
        ways.append(
            f"the batch run {run} has {'all' if count == missing.total else f'{count:,}'} of them in flight: `relabel batch resume {run}` "
            f"takes their answers, `relabel batch cancel {run}` lets others ask"
        )
    if missing.kinds.get("budget"):
        ways.append("raise --max-cost to have those asked for that the cap left no room for")
    if rest and m.engine == "replay":
        ways.append("replay asks nobody: leave --engine replay out to have them asked for")
    elif rest:
        ways.append("the same command asks for the others again" if ways else "the same command asks for them again")
    return (
        f"{missing.total:,} of {m.counts.asked:,} labels are missing, {folder / 'failures.jsonl'} says which and why; "
        + "; ".join(ways)
    )
