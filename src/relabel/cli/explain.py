"""`relabel explain`: what one score was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relabel.cli import _options as o
from relabel.cli._render import row, wrapped
from relabel.errors import UsageError
from relabel.scoring.options import Choices, Links, Method, Taxonomy

if TYPE_CHECKING:
    from relabel.scoring.bridges import CodePath as BridgePath
    from relabel.scoring.explain import ExplainedTask, Explanation

_ELSEWHERE = 3
_TITLE = 44


def register(app: typer.Typer) -> None:
    """Add `explain` to the command line."""
    app.command("explain")(explain)


def explain(
    ctx: typer.Context,
    run: o.RunArg,
    code: Annotated[
        str | None,
        typer.Argument(metavar="CODE", help="Such as 1121 (UK SOC 2020), 11-1011 (SOC 2018), 11-1011.00 (O*NET)."),
    ] = None,
    *,
    taxonomy: Annotated[
        Taxonomy | None, typer.Option(help="Classification of the code; by default what its form says, 1121 is UK SOC.")
    ] = None,
    method: o.ScoreMethod = "bridge",
    weights: o.TaskWeights = "importance",
    links: o.BridgeLinks = None,
    unrated: o.UnratedTasks = None,
    tasks: o.ScoreTasks = None,
    pay: o.Pay = None,
    bridge: o.OwnBridge = None,
    repeats: o.RepeatsRule = "mean",
    gold: o.GoldRun = None,
    rater: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Another rater, for the intervals; may be repeated.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws of label noise behind the intervals; 0 for none.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    show: Annotated[int, typer.Option(min=0, help="Number of tasks to show; --json has all.")] = 10,
    path: Annotated[
        bool,
        typer.Option("--path", help="Show only the way of the code over the bridge, forward and back; needs no RUN."),
    ] = False,
    as_json: o.AsJson = False,
    out: o.OutJson = None,
) -> None:
    """Explain a score: the way of its codes, its tasks with label, reason and key, and what each could change."""
    from relabel.run import open_run
    from relabel.scoring.explain import explain, taxonomy_of
    from relabel.scoring.table import score_by
    from relabel.scoring.uncertainty import with_intervals

    o.require_file(out, "--out", make_folder=True)
    if path:
        idle = ("weights", "unrated", "pay", "bridge", "repeats", "gold", "rater", "draws", "seed", "show")
        o.reject_ineffective_options(ctx, "has no effect with --path; remove it", *idle)
        _show_bridge(
            code or run, method, taxonomy or "uk-soc2020", links, tasks or "onet-30.2", out=out, as_json=as_json
        )
        return
    if code is None:
        raise UsageError("give a RUN and a CODE; for the way of a code over the bridge alone, a CODE and --path")
    if not draws:
        o.reject_ineffective_options(
            ctx,
            "shapes intervals and has no effect without --draws; add --draws 1000 or remove it",
            "seed",
            "gold",
            "rater",
        )
    if as_json:
        o.reject_ineffective_options(ctx, "has no effect with --json, which prints all tasks; remove it", "show")
    chosen = taxonomy or taxonomy_of(code) or "uk-soc2020"
    choices = Choices(
        method=method,
        taxonomy=chosen,
        weights=weights,
        links=links,
        unrated=unrated,
        tasks=tasks,
        pay=pay,
        bridge=bridge,
        repeats=repeats,
    )
    opened = open_run(run)
    table = score_by(opened, choices)
    if code in set(table.frame["code"]) and draws:
        others = [open_run(ref) for ref in rater or ()]
        known = None if gold is None else open_run(gold)
        table = with_intervals(table, opened, gold=known, raters=others, draws=draws, seed=seed)
    explained = explain(table, opened, code)
    if not o.give_json(explained, out=out, as_json=as_json):
        _show(explained, show)


def _show(explained: Explanation, show: int) -> None:
    from relabel.scoring.options import SYSTEM_NAMES

    about = explained.about
    _wrapped(f"{explained.code} {explained.title} ({SYSTEM_NAMES[explained.taxonomy]})")
    choices = [f"method {about['method']}", f"weights {about['weights']}"]
    choices += [f"{name} {about[name]}" for name in ("links", "unrated") if about[name] is not None]
    _wrapped(f"labels of {about['run']} on {about['tasks']}; {', '.join(choices)}")
    _wrapped(f"status: {explained.status}; coverage {explained.score['coverage']:.1%}")
    if explained.exact["alpha"] is not None or explained.exact["gamma"] is not None:
        _show_scores(explained)
    if explained.note:
        _wrapped(explained.note)
    _show_way(explained)
    _show_tasks(explained, show)


def _show_scores(explained: Explanation) -> None:
    of = explained.estimates_of
    typer.echo(f"\n{'':<28}{'score':>8}{'low':>10}{'high':>10}" + (f"   {of[:36]}: estimate, low, high" if of else ""))
    for name in ("alpha", "beta", "gamma", "strict_10", "with_tools_10", "percentile_alpha", "percentile_gamma"):
        score = explained.score.get(name)
        low, high = explained.intervals.get(name, (None, None))
        places = 3 if name in ("alpha", "beta", "gamma") else 1 if name.endswith("_10") else 0
        cells = [
            ("-" if x is None else f"{x:.{places}f}") for x in (score, low, high, *explained.estimates.get(name, ()))
        ]
        typer.echo(f"{name:<28}{cells[0]:>8}" + "".join(f"{cell:>10}" for cell in cells[1:]))
    for measure in ("alpha", "beta", "gamma"):
        name = f"wage_exposure_{measure}_gbp"
        if explained.score.get(name) is not None:
            bounds = explained.intervals.get(name, (None, None))
            figures = (explained.score[name], *bounds, *explained.estimates.get(name, ()))
            cells = ["-" if x is None else f"{x / 1e6:,.0f}" for x in figures]
            typer.echo(f"{f'wage exposure {measure}, GBP m':<28}{cells[0]:>8}" + "".join(f"{c:>10}" for c in cells[1:]))


def _show_way(explained: Explanation) -> None:
    for step in reversed(explained.steps):
        target, _, source = step.partition(" to ")
        typer.echo("")
        _wrapped(f"from {source.partition(':')[0]} back to {target}: {step.partition(': ')[2]}")
        rows = [link for link in explained.path if link.system == target]
        shown = [link for link in rows if link.share is None or link.share >= 0.01]
        for link in shown:
            share = "no tasks" if link.share is None else f"{link.share:.1%}"
            typer.echo(row(f"  {link.code:<11}{share:>9}  for {link.target:<11} ", link.title or ""))
        if len(shown) < len(rows):
            count = len(rows) - len(shown)
            typer.echo(f"  and {count} {'link' if count == 1 else 'links'} of under 1 %")
    if explained.borrowed:
        _wrapped("no task statements lead here; it borrows from the other codes of the same SOC broad group")
    typer.echo(f"\n{'O*NET-SOC':<12}{'share':>7}{'alpha':>7}{'beta':>7}{'gamma':>7}{'labelled':>11}  title")
    for one in explained.occupations:
        means = "".join(f"{'-' if x is None else format(x, '.3f'):>7}" for x in (one.alpha, one.beta, one.gamma))
        counted = f"{one.tasks} of {one.listed}"
        typer.echo(row(f"{one.onet_soc_code:<12}{one.share:>7.1%}{means}{counted:>11}  ", one.title or ""))


def _show_tasks(explained: Explanation, show: int) -> None:
    total = len(explained.tasks)
    if not total or not show:
        return
    typer.echo("")
    shown = explained.tasks[:show]
    which = f"the {len(shown)} of {total} tasks that weigh most" if len(shown) < total else f"all {total} tasks"
    _wrapped(f"{which}; after ->, the score if the label flipped (alpha: strict, gamma: with tools)")
    for task in shown:
        typer.echo("")
        _show_task(task, explained)
    if len(shown) < total:
        typer.echo("")
        _wrapped(f"{total - len(shown)} more tasks: see --show {total}, or --json")


def _show_task(task: ExplainedTask, explained: Explanation) -> None:
    rated = "unrated" if task.importance is None else f"importance {task.importance:.2f}"
    kind = (task.task_type or "no type").lower()
    clash = ", incoherent" if task.incoherent else ""
    label = f"{task.code or 'no code'}{clash}"
    _wrapped(f"{task.onet_soc_code} task {task.task_id}: {label}; {task.part:.2%} of the score; {kind}, {rated}")
    _wrapped(task.text, indent=2)
    flips = [
        f"{name} {before:.3f} -> {after:.3f} ({scale} {explained.ten(before):.1f} -> {explained.ten(after):.1f})"
        for name, scale, before, after in (
            ("alpha", "strict", explained.exact["alpha"], task.alpha_if_flipped),
            ("gamma", "with tools", explained.exact["gamma"], task.gamma_if_flipped),
        )
        if before is not None and after is not None
    ]
    if flips:
        _wrapped("if flipped: " + "; ".join(flips), indent=2)
    for label in task.given:
        if label.rationale is None and label.request_key is None:
            continue
        sample = f" (sample {label.sample})" if label.sample else ""
        why = f": {label.rationale}" if label.rationale else ""
        _wrapped(f"{label.setting}{sample} {label.label}{why}", indent=2)
        if label.request_key is not None:
            typer.echo(f"    key {label.request_key}")
    for why in task.missing:
        _wrapped(f"no label, {why}", indent=2)


def _wrapped(text: str, *, indent: int = 0) -> None:
    typer.echo(wrapped(text, indent=indent))


def _show_bridge(
    unit: str,
    method: Method,
    taxonomy: Taxonomy,
    links: Links | None,
    tasks: str,
    *,
    out: Path | None,
    as_json: bool,
) -> None:
    """Show which O*NET-SOC codes stand for a group and by which way, or where an O*NET-SOC code leads."""
    from relabel.scoring.bridges import find_path
    from relabel.scoring.files import json_bytes
    from relabel.scoring.options import ONE_WAY, SAMPLE

    if method == "site-2026" and (taxonomy in ONE_WAY or tasks == SAMPLE):
        where = "over the sample" if tasks == SAMPLE else f"to {taxonomy}"
        raise UsageError(f"there is one way only {where}, the same by every method; remove --method")
    path = find_path(unit, method=method, taxonomy=taxonomy, links=links, tasks=tasks)
    if o.give_json(json_bytes(path.describe()), out=out, as_json=as_json):
        return
    from relabel.scoring.options import SYSTEM_NAMES

    typer.echo(wrapped(f"{SYSTEM_NAMES[path.system]} {path.code} {path.title}"))
    if path.system == path.bridge.target:
        _show_back(path)
        _show_others(path)
    else:
        _show_forward(path)


def _show_back(path: BridgePath) -> None:
    from relabel.scoring.options import SYSTEM_NAMES

    if path.borrowed:
        typer.echo(wrapped("no task statements lead here; it borrows from the other codes of the same SOC broad group"))
    for step in reversed(path.bridge.steps):
        links = path.back[path.back["system"] == step.source]
        typer.echo("\n" + wrapped(f"back to {SYSTEM_NAMES[step.source]}: {step.origin}"))
        typer.echo(f"{'code':<11}{'share':>8}  {'for':<11}{'weight':>10}{'part':>8}  title")
        for link in links.to_dict("records"):
            part = f"{link['part']:.1%}" if link["with_tasks"] else "-"
            share = f"{link['share']:.1%}" if link["with_tasks"] else "no tasks"
            cells = f"{link['code']:<11}{share:>8}  {link['target']:<11}{link['weight']:>10,.4g}{part:>8}  "
            typer.echo(row(cells, str(link["title"])))


def _show_others(path: BridgePath) -> None:
    typer.echo("\nforward: what its O*NET-SOC codes count here, and most elsewhere")
    for code, rows in sorted(path.forward.groupby("onet_soc_code"), key=lambda x: -float(x[1]["share"].iloc[0])):
        others = [f"{other['code']} {other['share']:.0%}" for other in rows.iloc[1 : 1 + _ELSEWHERE].to_dict("records")]
        more = f" and {len(rows) - 1 - _ELSEWHERE} more" if len(rows) - 1 > _ELSEWHERE else ""
        first = rows.iloc[0]
        elsewhere = f"; in {', '.join(others)}{more}" if others else ""
        said = wrapped(f"{str(first['onet_soc_title'])[:_TITLE]}{elsewhere}", indent=21, hang=2).lstrip()
        typer.echo(f"{code:<11}{first['share']:>8.1%}  {said}")


def _show_forward(path: BridgePath) -> None:
    from relabel.scoring.options import SYSTEM_NAMES

    if path.forward.empty:
        typer.echo("it has no task statements, or leads nowhere")
    for step in path.bridge.steps:
        rows = path.forward[path.forward["system"] == step.target]
        typer.echo(f"\nforward to {SYSTEM_NAMES[step.target]}")
        for led in rows.sort_values(["share", "code"], ascending=[False, True]).to_dict("records"):
            typer.echo(row(f"{led['code']:<11}{led['share']:>8.1%}  ", str(led["title"])))
