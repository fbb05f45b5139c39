"""What `relabel run` says before and after: the plan of a dry run, and what a run came to."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from relabel.cli.display import money
from relabel.labelling.engines.local import ADVICE, is_local
from relabel.labelling.estimate import estimate
from relabel.labelling.job import Job
from relabel.labelling.outcome import Outcome
from relabel.labelling.store import Store
from relabel.settings import Settings


def show_plan(job: Job, environment: Settings, *, as_json: bool) -> None:
    """Say what a job would ask and what it would cost."""
    if environment.store_dir.exists():
        with Store(environment.store_dir) as store:
            found = estimate(job, store)
    else:
        found = estimate(job, None)
    if as_json:
        typer.echo(json.dumps(found.model_dump(), indent=2))
        return
    typer.echo(
        f"{job.size:,} labels: {len(job.tasks):,} {job.rubric.unit}s x {', '.join(job.settings)} x {job.samples} sample(s)\n"
        f"{found.requests:,} requests, {found.in_store:,} of them in the store; {found.to_ask:,} would be asked of {job.model} at {job.base_url}"
    )
    if not found.to_ask:
        return
    typer.echo(
        f"tokens   {found.prompt_tokens[0]:,} to {found.prompt_tokens[1]:,} in, {found.completion_tokens[0]:,} to {found.completion_tokens[1]:,} out ({found.basis})"
    )
    if found.cost_usd is None:
        typer.echo(f"cost     unknown: no price of {job.model} is known; give it with --price IN/OUT")
    else:
        dated = f", as of {found.price_as_of}" if found.price_as_of else ""
        typer.echo(
            f"cost     {money(found.cost_usd[0])} to {money(found.cost_usd[1])} by {found.price_source}{dated}; a prefix cache may make it less"
        )


def show_outcome(outcome: Outcome, folder: Path, model: str) -> None:
    """Say what a run came to, what is missing first."""
    m = outcome.manifest
    if outcome.failures:
        kinds: dict[str, int] = {}
        for failure in outcome.failures:
            kind = failure.kind if failure.attempts or failure.kind == "budget" else "not asked"
            kinds[kind] = kinds.get(kind, 0) + 1
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        typer.echo(f"MISSING  {len(outcome.failures)} of {m.counts.asked} labels ({said})")
    typer.echo(
        f"labels   {m.counts.from_store + m.counts.fresh} of {m.counts.asked}: {m.counts.from_store} from the store, {m.counts.fresh} fresh"
    )
    by_setting: dict[str, dict[str, int]] = {}
    for row in outcome.labels:
        counts = by_setting.setdefault(row.setting, {})
        counts[row.label] = counts.get(row.label, 0) + 1
    for setting, counts in by_setting.items():
        typer.echo(f"         {setting}: " + ", ".join(f"{label} {count}" for label, count in sorted(counts.items())))
    typer.echo(f"model    {m.model}, answered as {', '.join(m.models_returned) or 'nothing'}")
    typer.echo(
        f"tokens   {m.tokens.prompt:,} in ({m.tokens.cached:,} cached), {m.tokens.completion:,} out; {money(m.cost_usd)}"
    )
    unsure = m.perhaps_charged
    if unsure.requests:
        most = "an unknown sum" if unsure.usd is None else f"up to {money(unsure.usd)}"
        typer.echo(
            f"unsure   {unsure.requests} request(s) were sent and never answered; {most} may be charged for them"
        )
    if m.note:
        typer.echo(f"note     {m.note}")
    typer.echo(f"folder   {folder}")
    if is_local(model):
        typer.echo(ADVICE if model == "local" else "Labels of a model of your own: evaluate them before you use them.")
