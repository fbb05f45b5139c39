"""`relabel explain`: how one score was computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import relabel
from relabel.cli import _options
from relabel.cli.score import ESTIMATES
from relabel.cli.terminal import Table, say
from relabel.errors import UsageError
from relabel.scoring import explain as explaining
from relabel.scoring import table as tables
from relabel.scoring import uncertainty
from relabel.scoring.options import SAMPLE, SYSTEM_NAMES, UNWEIGHTED, Choices, ScoringOptions, Taxonomy
from relabel.tabular import Cell, json_bytes, listed_names

if TYPE_CHECKING:
    from relabel.rubric import Measure

# Other groups shown for an O*NET-SOC code.
_ELSEWHERE = 3
_BORROWED = "no task statements map to it; its score is borrowed from the other codes of the same SOC broad group"
_MEASURES = ("alpha", "beta", "gamma")
# Figures of a score: name, divisor, and number of decimals.
_SHOWN_AS = {
    **{name: (name, 1, 3) for name in _MEASURES},
    **{f"{name}_10": (f"{name.replace('_', ' ')}, 0-10", 1, 1) for name in ("strict", "with_tools")},
    **{f"percentile_{name}": (f"percentile by {name}", 1, 0) for name in ("alpha", "gamma")},
    **{f"wage_exposure_{name}_gbp": (f"wage exposure {name}, GBP m", 1e6, 0) for name in _MEASURES},
}

app = _options.Commands()


@app.command()
def explain(
    ctx: typer.Context,
    run: _options.RunArg,
    scoring: ScoringOptions,
    code: Annotated[str | None, typer.Argument()] = None,
    taxonomy: Taxonomy | None = None,
    gold: _options.GoldRun = None,
    rater: list[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
    show: Annotated[int, typer.Option(min=0)] = 10,
    path: bool = False,
    as_json: _options.AsJson = False,
    out: _options.OutJson = None,
) -> None:
    """Explain a score: its crosswalk, its tasks with label, rationale and key, and how much each label matters.

    Args:
        code (CODE): Such as 1121 (UK SOC 2020), 11-1011 (SOC 2018), 11-1011.00 (O*NET).
        taxonomy: Classification of the code; by default inferred from its form; 1121 is UK SOC.
        rater (RUN): Another rater, for the intervals; may be repeated.
        draws: Draws of label noise behind the intervals; 0 for none.
        seed: Seed of the draws.
        show: Number of tasks to show; --json has all.
        path: Show only the crosswalk of the code, forward and back; needs no RUN.
    """
    if path:
        idle = ("weights", "unrated", "pay", "bridge", "repeats", "wage", "gold", "rater", "draws", "seed", "show")
        _options.reject_ineffective_options(ctx, "has no effect with --path; remove it", *idle)
        crosswalk = _path(code or run, scoring, taxonomy or "uk-soc2020")
        if not _options.give_json(json_bytes(crosswalk.describe()), out=out, as_json=as_json):
            _show_path(crosswalk)
        return
    if code is None:
        raise UsageError("give a RUN and a CODE; or a CODE and --path for its bridge only")
    if not draws:
        _options.reject_ineffective_options(ctx, _options.NEEDS_DRAWS, "seed", "gold", "rater")
    if as_json:
        _options.reject_ineffective_options(ctx, "has no effect with --json, which prints all tasks; remove it", "show")
    choices = Choices(**vars(scoring), taxonomy=taxonomy or explaining.taxonomy_of(code) or "uk-soc2020")
    opened = relabel.open_run(run)
    table = tables.score_by(opened, choices)
    if code in set(table.frame["code"]) and draws:
        others = [relabel.open_run(ref) for ref in rater or ()]
        gold_run = None if gold is None else relabel.open_run(gold)
        table = uncertainty.with_intervals(table, opened, gold=gold_run, raters=others, draws=draws, seed=seed)
    explained = explaining.explain(table, opened, code)
    if not _options.give_json(explained, out=out, as_json=as_json):
        _show(explained, show, table.taxonomy_name)


def _show(explained: explaining.Explanation, show: int, taxonomy: str) -> None:
    about = explained.about
    say(f"{explained.code} {explained.title} ({taxonomy})")
    names = ("method", "bridge", "weights", "links", "unrated")
    choices = ", ".join(f"{name} {about[name]}" for name in names if about[name] is not None)
    say(f"labels of {about['run']} on {about['tasks']}; {choices}")
    say(f"status: {explained.status}; coverage {explained.score['coverage']:.1%}")
    if explained.note:
        say(explained.note)
    if explained.exact["alpha"] is not None or explained.exact["gamma"] is not None:
        _show_scores(explained)
    _show_crosswalk(explained)
    _show_tasks(explained, show)


def _show_scores(explained: explaining.Explanation) -> None:
    estimate_name = explained.estimates_name
    others = (estimate_name, "low", "high") if estimate_name else ()
    rows: list[list[Cell]] = []
    for name, (words, unit, places) in _SHOWN_AS.items():
        if name.startswith("wage") and explained.score.get(name) is None:
            continue
        estimate = explained.estimates.get(name, (None,) * len(others))
        figures = (explained.score.get(name), *explained.intervals.get(name, (None, None)), *estimate)
        rows.append([words, *(None if x is None else f"{x / unit:,.{places}f}" for x in figures)])
    notes = [f"{estimate_name}: {ESTIMATES[estimate_name]} ({explained.estimates_of})"] if estimate_name else ()
    Table("Score, with 95% intervals", ["figure", "score", "low", "high", *others], rows, notes=notes).show()


def _show_crosswalk(explained: explaining.Explanation) -> None:
    for step in reversed(explained.steps):
        target, _, source = step.partition(" to ")
        source, _, origin = source.partition(": ")
        links = [link for link in explained.path if link.system == target]
        large = [link for link in links if link.share is None or link.share >= 0.01]
        rows = [
            [link.code, link.target, link.title or "", "no tasks" if link.share is None else f"{link.share:.1%}"]
            for link in large
        ]
        small = len(links) - len(large)
        notes = [origin, *([f"and {small} {'link' if small == 1 else 'links'} of under 1%"] if small else [])]
        Table(f"From {source} back to {target}", ["code", "for", "title", "share"], rows, left=3, notes=notes).show()
    if explained.borrowed:
        say(_BORROWED)
    largest = [f"{row.title or row.onet_soc_code} ({row.share:.1%})" for row in explained.occupations[:3] if row.share]
    if equal := sum(f"{row.share:.6f}" == f"{explained.occupations[2].share:.6f}" for row in explained.occupations[3:]):
        largest.append(f"{equal} more with the same share")
    notes = [f"It depends most on {', '.join(largest[:-1])} and {largest[-1]}."] if len(largest) > 1 else []
    rows: list[list[Cell]] = []
    for row in explained.occupations:
        figures = row.alpha, row.beta, row.gamma
        rows.append([row.onet_soc_code, row.title or "", f"{row.share:.1%}", *figures, f"{row.tasks} of {row.listed}"])
    columns = ["code", "title", "share", *_MEASURES, "labelled"]
    Table("O*NET-SOC codes behind the score (0-1)", columns, rows, left=2, notes=notes).show()


def _show_tasks(explained: explaining.Explanation, show: int) -> None:
    total, shown = len(explained.tasks), explained.tasks[:show]
    if not shown:
        return
    typer.echo("")
    which = f"the {len(shown)} of {total} tasks that weigh most" if len(shown) < total else f"all {total} tasks"
    say(f"{which}; after ->, the score if the label flipped (alpha: strict, gamma: with tools)")
    for task in shown:
        typer.echo("")
        _show_task(task, explained)
    if len(shown) < total:
        typer.echo("")
        say(f"{total - len(shown)} more tasks: see --show {total}, or --json")


def _show_task(task: explaining.ExplainedTask, explained: explaining.Explanation) -> None:
    rated = "unrated" if task.importance is None else f"importance {task.importance:.2f}"
    kind = (task.task_type or "no type").lower()
    label = f"{task.code or 'no code'}{', incoherent' if task.incoherent else ''}"
    say(f"{task.onet_soc_code} task {task.task_id}: {label}; {task.part:.2%} of the score; {kind}, {rated}")
    say(task.text, indent=2)
    flips: dict[tuple[Measure, str], float | None] = {
        ("alpha", "strict"): task.alpha_if_flipped,
        ("gamma", "with tools"): task.gamma_if_flipped,
    }
    changes = [
        f"{name} {before:.3f} -> {after:.3f} ({scale} {explained.ten(before):.1f} -> {explained.ten(after):.1f})"
        for (name, scale), after in flips.items()
        if (before := explained.exact[name]) is not None and after is not None
    ]
    if changes:
        say("if flipped: " + "; ".join(changes), indent=2)
    for label in task.given:
        if label.rationale is None and label.request_key is None:
            continue
        sample = f" (sample {label.sample})" if label.sample else ""
        rationale = f": {label.rationale}" if label.rationale else ""
        say(f"{label.setting}{sample} {label.label}{rationale}", indent=2)
        if label.request_key is not None:
            typer.echo(f"    key {label.request_key}")
    for reason in task.missing:
        say(f"no label, {reason}", indent=2)


def _path(unit: str, scoring: ScoringOptions, taxonomy: Taxonomy) -> explaining.CodePath:
    """The crosswalk of a code: the O*NET-SOC codes behind a group, or the groups of an O*NET-SOC code."""
    tasks = scoring.tasks or "onet-30.2"
    if scoring.method == "site-2026" and (taxonomy in UNWEIGHTED or tasks == SAMPLE):
        where = "over the sample" if tasks == SAMPLE else f"to {taxonomy}"
        raise UsageError(f"there is only one bridge {where}, the same for every method; remove --method")
    return explaining.find_path(unit, method=scoring.method, taxonomy=taxonomy, links=scoring.links, tasks=tasks)


def _show_path(path: explaining.CodePath) -> None:
    say(f"{SYSTEM_NAMES[path.system]} {path.code} {path.title}")
    if path.system == path.bridge.target:
        _show_back(path)
        _show_others(path)
        return
    if path.forward.empty:
        typer.echo("it has no task statements or no link")
    for step in path.bridge.steps:
        led = path.forward[path.forward["system"] == step.target]
        led = led.sort_values(["share", "code"], ascending=[False, True])
        rows = [[row["code"], str(row["title"]), f"{row['share']:.1%}"] for row in led.to_dict("records")]
        Table(f"Forward to {SYSTEM_NAMES[step.target]}", ["code", "title", "share"], rows, left=2).show()


def _show_back(path: explaining.CodePath) -> None:
    if path.borrowed:
        say(_BORROWED)
    for step in reversed(path.bridge.steps):
        links = path.back[path.back["system"] == step.source].to_dict("records")
        rows: list[list[Cell]] = []
        for link in links:
            has_tasks = bool(link["with_tasks"])
            share, part = (f"{link['share']:.1%}", f"{link['part']:.1%}") if has_tasks else ("no tasks", None)
            rows.append([link["code"], link["target"], str(link["title"]), share, f"{link['weight']:,.4g}", part])
        title, columns = f"Back to {SYSTEM_NAMES[step.source]}", ["code", "for", "title", "share", "weight", "part"]
        Table(title, columns, rows, left=3, notes=[step.origin]).show()


def _show_others(path: explaining.CodePath) -> None:
    rows: list[list[Cell]] = []
    for code, led in sorted(path.forward.groupby("onet_soc_code"), key=lambda x: -float(x[1]["share"].iloc[0])):
        first, *others = led.to_dict("records")
        named = listed_names([f"{other['code']} {other['share']:.0%}" for other in others], _ELSEWHERE)
        rows.append([str(code), str(first["onet_soc_title"]), named or "-", f"{first['share']:.1%}"])
    columns = ["code", "title", "elsewhere", "here"]
    Table("Forward: what its O*NET-SOC codes count here, and most elsewhere", columns, rows, left=3).show()
