"""`relabel score`: occupations from a run's labels; `relabel explain`: how one score was computed."""

from __future__ import annotations

from functools import partial
from math import isnan
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import relabel
from relabel.cli import _options
from relabel.cli.terminal import Table, doing, quoted, say, say_next, say_of
from relabel.errors import SourceMissingError
from relabel.scoring import explain as explaining
from relabel.scoring import measures, uncertainty
from relabel.scoring import multiverse as multiverse_analysis
from relabel.scoring import table as tables
from relabel.scoring import us as us_figures
from relabel.scoring.options import Choices, Noise, ScoringOptions, Taxonomy
from relabel.study import results, running
from relabel.tabular import Cell, counted, json_bytes, listed_names, records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd

    from relabel.rubric import Measure

# Rows shown: groups at each end of the scores, and replaced task texts.
_SHOWN = 5
_LISTED = 3
_MEASURES = ("alpha", "beta", "gamma")
# Estimates shown next to a score, by the name of their column.
_ESTIMATES = {
    "mean": "mean over raters",
    "people": "what people's labels would give",
    "gold": "what the gold's would give",
}
_BORROWED = "no task statements map to it; its score is borrowed from the other codes of the same SOC broad group"
# Figures of a score: name, divisor, and number of decimals.
_SHOWN_AS = {
    **{name: (name, 1, 3) for name in _MEASURES},
    **{f"{name}_10": (f"{name.replace('_', ' ')}, 0-10", 1, 1) for name in ("strict", "with_tools")},
    **{f"percentile_{name}": (f"percentile by {name}", 1, 0) for name in ("alpha", "gamma")},
    **{f"wage_exposure_{name}_gbp": (f"wage exposure {name}, GBP m", 1e6, 0) for name in _MEASURES},
}

app = _options.Commands()


@app.command()
def score(
    ctx: typer.Context,
    run: _options.RunArg,
    choices: Choices,
    given: _options.Tables,
    spread: _options.Spread = False,
    us: bool | None = None,
    draws: int = 0,
    seed: int = 0,
    noise: Noise = "auto",
    gold: _options.GoldRun = None,
    rater: list[str] | None = None,
    multiverse: bool = False,
    out: _options.OutTable = None,
) -> None:
    """Score occupations: alpha, beta and gamma by code, with coverage, pay and percentiles.

    Args:
        us: Add US jobs, pay and projections (BLS); onet-soc and soc2018 only, on by default there if the BLS files
            are available.
        draws: Add intervals from this many draws of label noise, such as 1000; 0 adds none. One is of the score, one
            of what other labels would give (--noise).
        seed: Seed of the draws.
        noise: What to estimate beside the score: what a gold's labels would give (confusion), the mean over raters,
            or nothing (repeats). By default raters or gold where given, else people's labels.
        rater (RUN): Another rater, for intervals or --multiverse; may be given more than once.
        multiverse: Score under all choices of rater, rubric, weights, unrated tasks, bridge and comparison.
    """
    if multiverse:
        idle = ["seed", "noise", "gold", "spread", "latex", "markdown", "csv"]
        idle += [name for name, value in (("draws", draws), ("us", us)) if value]
        _options.reject_ineffective_options(ctx, "cannot be combined with --multiverse; remove it", *idle)
    elif not draws:
        _options.reject_ineffective_options(ctx, _options.NEEDS_DRAWS, "seed", "noise", "gold", "rater")
    if Path(run).suffix.lower() in {".yaml", ".yml"}:
        _study(ctx, Path(run), given, out)
        return
    opened, others = relabel.open_run(run), [relabel.open_run(ref) for ref in rater or ()]
    with doing("scoring"), _options.suggest_onet_soc(choices.taxonomy, "--taxonomy onet-soc"):
        table = tables.score_by(opened, choices)
    table = _with_us(table, us)
    if multiverse:
        with doing("scoring under all choices"):
            result = multiverse_analysis.multiverse(table, opened, others or multiverse_analysis.default_raters(opened))
        document = {"table": table.describe()} | dict(multiverse_analysis.multiverse_document(result))
        if not _options.give_table_or_json(
            document, lambda: result.occupations, rows=("occupations",), out=out, as_json=given.as_json
        ):
            _show_multiverse(result, table)
        return
    if spread:
        table = multiverse_analysis.with_spread(table)
    if draws:
        gold_run = None if gold is None else relabel.open_run(gold)
        with doing("drawing intervals"):
            table = uncertainty.with_intervals(
                table, opened, noise=noise, gold=gold_run, raters=others, draws=draws, seed=seed
            )
    _give(table, opened, given, out)


def _study(ctx: typer.Context, path: Path, given: _options.Tables, out: Path | None) -> None:
    """The pooled scores of a study, with their range over models."""
    kept = {"ctx", "run", "out", "latex", "markdown", "csv", "as_json"}
    reason = "has no effect on a study; set it in the study file instead"
    _options.reject_ineffective_options(ctx, reason, *(name for name in ctx.params if name not in kept))
    _give(*results.study_scores(running.open_study(path)), given, out)


def _give(table: relabel.ScoreTable, run: relabel.Run, given: _options.Tables, out: Path | None) -> None:
    """Write and print a score table as the options say."""
    extra: dict[str, Any] = {}
    if table.spread is not None:
        extra["bridges"] = records(table.spread)
    if table.partial and uncertainty.is_random_sample(run):
        begun = set(run.labels["setting"])
        # A stopped run has labelled only the first of its tasks, which are not a random sample.
        if all(failure.attempts or failure.setting not in begun for failure in run.failures()):
            extra["major_groups"] = records(uncertainty.major_groups(table))
    scored = records(table.frame[~table.frame["status"].str.startswith("unscored")])
    labelled = f"{int(table.task_values['labelled'].sum()):,} of {len(table.task_values):,} tasks of {table.tasks}"
    title = f"Exposure (0-1) by {table.taxonomy_name}, labels of {table.run} on {labelled}, method {table.method}"
    notes = [f"{table.note}."] if table.note else []
    if table.thin:
        notes.append("thin: labels cover less than half of what the group stands for; do not interpret such a score.")
    printed = given.give([_scores(title, scored, _MEASURES, bounded=table.intervals is not None, notes=notes)])
    rows = ("rows", "by_rater", *extra)
    document = tables.table_json(table) | extra
    written = _options.give_table_or_json(document, lambda: table.frame, rows=rows, out=out, as_json=given.as_json)
    if not written and not printed:
        _show(table, extra.get("major_groups"))
        say_next(f"relabel explain {quoted(run.ref)} CODE, with the same options")


def _with_us(table: relabel.ScoreTable, wanted: bool | None) -> relabel.ScoreTable:
    """The table with US figures, if wanted. If they were not asked for explicitly and a file is missing, prints a note instead."""
    if wanted is False or (wanted is None and not us_figures.has_us_figures(table)):
        return table
    try:
        return us_figures.with_us_figures(table)
    except SourceMissingError as error:
        if wanted:
            raise
        say(f"scored without US columns: {error}", err=True)
        return table


def _scores(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    measures: Sequence[str],
    *,
    bounded: bool = False,
    other: tuple[str, str] | None = None,
    counts: bool = True,
    notes: Sequence[str] = (),
) -> Table:
    """Scores by code; thin ones are marked.

    Args:
        title: Of the table.
        rows: Rows of a score table, as plain values.
        measures: Measures to show.
        bounded: Whether the rows have intervals.
        other: Suffix of the columns with the scores that other labels would give, and whose labels these are.
        counts: Whether to show the number of tasks and their coverage.
        notes: Sentences below the table.
    """
    columns: list[tuple[str, Callable[[Mapping[str, Any]], Cell]]] = [("code", itemgetter("code")), ("title", _title)]
    for measure in measures:
        columns.append((measure, itemgetter(measure)))
        if bounded:
            columns.append(("95%", partial(_interval, name=measure)))
        if other is not None:
            name = f"{measure}_{other[0]}"
            columns += [(other[1], itemgetter(name)), ("95%", partial(_interval, name=name))]
        if rows and "gamma_models_low" in rows[0]:
            columns.append(("by rater", partial(_by_rater, measure=measure)))
    if counts:
        columns += [("tasks", itemgetter("tasks")), ("coverage", itemgetter("coverage"))]
    cells = [[cell(row) for _, cell in columns] for row in rows]
    return Table(title, [heading for heading, _ in columns], cells, left=2, notes=notes)


def _title(row: Mapping[str, Any]) -> str:
    return f"{row['title']} (thin)" if row["status"].startswith("thin") else row["title"]


def _interval(row: Mapping[str, Any], name: str) -> Cell:
    low = row[f"{name}_low"]
    return None if low is None else (low, row[f"{name}_high"])


def _by_rater(row: Mapping[str, Any], measure: str) -> Cell:
    """The range of the score over the raters of a study, such as `1.2 to 4.6`."""
    low, high = row[f"{measure}_models_low"], row[f"{measure}_models_high"]
    return None if low is None else f"{10 * low:.1f} to {10 * high:.1f}"


def headline(table: relabel.ScoreTable) -> str:
    """One line on what a table has scored."""
    counts = table.describe()["counts"]
    thin = f" and {counts['thin']:,} thin" if counts["thin"] else ""
    bridge = f" by {table.bridge_file}" if table.bridge_file else ""
    return (
        f"{table.run}, method {table.method}{bridge}, {table.taxonomy_name}: {counts['scored']:,} of "
        f"{counts['groups']:,} codes scored{thin} from {counts['tasks_labelled']:,} of {counts['tasks_listed']:,} tasks"
    )


def _about(table: relabel.ScoreTable) -> Iterator[str]:
    """What a table has scored, and what to know before reading it."""
    counts = table.describe()["counts"]
    choices = {"weights": table.weights, "unrated": table.unrated, "links": table.links}
    chosen = "".join(f", {name} {value}" for name, value in choices.items() if value is not None)
    yield f"{headline(table)} of {table.tasks}{chosen}{f' ({table.us_jobs})' if table.us_jobs else ''}"
    if table.note:
        yield table.note
    if table.labels_unmatched:
        yield f"{table.labels_unmatched:,} labelled tasks of the run are not in {table.tasks}; they are left out"
    # By the lists' names, as either may be the newer one.
    changes = {
        "tasks_new": f"are not in {table.labelled_list}, which the run labelled, and have no label",
        "tasks_reworded": f"are worded differently in {table.labelled_list} and keep that label",
        "tasks_emerging": "are emerging tasks without id or rating, which are not scored",
    }
    if notes := [f"{counts[name]:,} {change}" for name, change in changes.items() if counts[name]]:
        yield f"of the tasks of {table.tasks} {'; '.join(notes)}"
    if counts["tasks_replaced"] is None:
        yield f"{table.labelled_list}, the list of the run, cannot be read: labels are matched by task id only"
    for row in measures.replaced_texts(table.task_values)[:_LISTED]:
        yield f"  {row['task_id']} of {row['onet_soc_code']}: {row['scored']!r}, labelled as {row['labelled']!r}"
    if table.half_labelled:
        yield f"{table.half_labelled:,} tasks have some of their labels only and count as unlabelled"
    if "wage_status" in table.frame:
        yield us_figures.us_summary(table.frame)


def _show(table: relabel.ScoreTable, major_groups: Sequence[Mapping[str, Any]] | None) -> None:
    for sentence in _about(table):
        say(sentence)
    if table.totals is not None:
        _show_totals(table, table.totals)
    if table.spread is not None:
        pairs = records(multiverse_analysis.spread_summary(table))
        title = f"Scores by the bridge {table.spread['bridge'].iloc[0]} against another bridge (0-1)"
        columns = ["bridge", "measure", "groups that differ by over .1", "largest difference", "code"]
        Table(title, columns, [list(pair.values()) for pair in pairs], left=2).show()
    rows = table.frame[table.frame["status"].str.startswith("scored")]
    rows = rows.sort_values(["gamma", "alpha", "code"], ascending=[False, False, True])
    if len(rows):
        if table.intervals is not None and table.intervals.by_rater:
            _show_raters(table.intervals.by_rater, frozenset(rows["code"]))
        _highest_and_lowest(rows, table).show()
    for kind in ("thin", "unscored"):
        codes = table.frame.loc[table.frame["status"].str.startswith(kind), "code"].tolist()
        if codes:
            typer.echo("")
            say(f"{kind}: {listed_names(codes, 8)} (the column status says why)")
    if major_groups is not None:
        note = f"; {table.run} has too few labels for single groups" if table.scored < len(table.frame) / 2 else ""
        Table(
            f"Means over groups, estimated from tasks drawn at random (95%: sampling error{note})",
            ["major group", "groups", "tasks", "alpha", "95%", "gamma", "95%"],
            [
                [
                    *(row[name] for name in ("major_group", "groups", "tasks")),
                    *(cell for name in ("alpha", "gamma") for cell in (row[name], _interval(row, name))),
                ]
                for row in major_groups
            ],
        ).show()


def _highest_and_lowest(rows: pd.DataFrame, table: relabel.ScoreTable) -> Table:
    """The groups with the highest and the lowest scores."""
    ends = records(rows if len(rows) <= 2 * _SHOWN else rows.iloc[[*range(_SHOWN), *range(-_SHOWN, 0)]])
    both_ends = f"The {_SHOWN} highest and the {_SHOWN} lowest of {len(rows):,} groups"
    title = f"{'All groups' if len(rows) <= 2 * _SHOWN else both_ends}, by gamma (scores 0-1)"
    if table.intervals is None:
        return _scores(title, ends, _MEASURES)
    if (other := table.intervals.other) is None:
        by_rater = "gamma_models_low" in table.frame
        title += "; by rater: lowest to highest score, 0-10" if by_rater else ""
        return _scores(title, ends, ("alpha", "gamma"), bounded=True, counts=not by_rater)
    title = f"{title}; {other.whose}: {_ESTIMATES[other.whose]}"
    return _scores(title, ends, ("alpha", "gamma"), bounded=True, other=(other.name, other.whose), counts=False)


def _show_raters(by_rater: Sequence[Mapping[str, Any]], codes: frozenset[str]) -> None:
    """The mean score by each rater alone, and pooled, over the groups that are scored for all raters."""
    import pandas as pd

    rows = pd.DataFrame([row for row in by_rater if row["code"] in codes]).astype(dict.fromkeys(_MEASURES, "float64"))
    lacking = set(rows.loc[rows[list(_MEASURES)].isna().all(axis=1), "code"])
    rows = rows[~rows["code"].isin(lacking)]
    over = f"the groups that all raters score ({rows['code'].nunique():,})" if lacking else "groups"
    means = records(rows.groupby("rater", sort=False)[list(_MEASURES)].mean().reset_index())
    Table(f"Means over {over}, by rater (0-1)", ["rater", *_MEASURES], [list(mean.values()) for mean in means]).show()


def _show_totals(table: relabel.ScoreTable, totals: Mapping[str, Any]) -> None:
    """The wage exposure of all scored groups together, and what other labels would give."""
    jobs = f"{totals['employees']:,} jobs"
    if totals["coverage"] is not None:
        jobs = f"{totals['employees']:,} of {totals['workforce']:,} jobs ({totals['coverage']:.1%})"
    notes = [f"Over {counted(totals['groups'], 'group')} with {jobs}; {table.wage} pay: {table.pay}."]
    if totals["thin_groups"]:
        notes.append(f"Thin groups left out: {totals['thin_groups']}.")
    if table.population is not None:
        notes.append(f"Jobs and pay are those of {table.population}.")
    names = [f"wage_exposure_{measure}_gbp" for measure in _MEASURES]
    columns: list[tuple[str, Sequence[Cell]]] = [
        ("measure", _MEASURES),
        ("total", [_billions(totals[x]) for x in names]),
    ]
    estimates = [] if table.intervals is None else [table.intervals.own, table.intervals.other]
    for estimate in filter(None, estimates):
        ends = [estimate.totals.get(name, {}) for name in names]
        if estimate.name:
            columns.append((estimate.whose, [_billions(end.get("mid")) for end in ends]))
            notes.append(f"{estimate.whose}: {_ESTIMATES[estimate.whose]} ({estimate.of}).")
        columns.append(("95%", [_billions(end.get("low"), end.get("high")) for end in ends]))
    headings, cells = zip(*columns, strict=True)
    Table("Wage exposure of all groups, GBP billion a year", headings, [*zip(*cells, strict=True)], notes=notes).show()


def _billions(*values: float | None) -> Cell:
    return " to ".join(f"{value / 1e9:,.1f}" for value in values if value is not None) or None


def _show_multiverse(result: multiverse_analysis.Multiverse, table: relabel.ScoreTable) -> None:
    """Show how far the scores of all universes lie apart."""

    def named(outcome: object) -> str:
        return str(outcome).removesuffix("_gbp").replace("_", " ")

    say(f"{len(result.universes):,} universes on {table.tasks}, {result.universes['labels'].nunique()} label sets:")
    for choice in multiverse_analysis.CHOICES:
        say_of(f"  {choice}", "; ".join(str(level) for level in result.universes[choice].unique()), column=13)
    for reason in result.left_out:
        say(f"left out: {reason}")
    fewest, most = int(result.universes["scored"].min()), int(result.universes["scored"].max())
    if fewest < most:
        say(
            f"{fewest:,} to {most:,} groups are scored; figures are over these, so ranges also show differences in coverage"
        )
    rows: list[list[Cell]] = []
    for row in records(result.headline):
        figures = [row[name] for name in ("chosen", "min", "max")]
        shown = map(_billions, figures) if row["outcome"].startswith("wage") else figures
        rows.append([named(row["outcome"]), row["most"] or "nothing", *shown])
    title = "Headline figures (means and shares are of jobs, wage exposure in GBP billion)"
    Table(title, ["figure", "most by", "chosen", "min", "max"], rows, left=2).show()
    choices = ["labels", *multiverse_analysis.CHOICES]
    parts = result.effects.pivot(index="outcome", columns="choice", values="first_order").reindex(columns=choices)
    rows = [
        [named(outcome), *("-" if isnan(x) else f"{x:.0%}" for x in parts.loc[outcome])]
        for outcome in dict.fromkeys(result.effects["outcome"])
    ]
    title = "Part of the variance that each choice alone accounts for (labels: rater and rubric together)"
    Table(title, ["figure", *choices], rows).show()
    say("--out FILE writes the range of each group")


@app.command()
def explain(
    ctx: typer.Context,
    run: _options.RunArg,
    code: str,
    scoring: ScoringOptions,
    taxonomy: Taxonomy | None = None,
    gold: _options.GoldRun = None,
    rater: list[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
    show: Annotated[int, typer.Option(min=0)] = 10,
    as_json: _options.AsJson = False,
    out: _options.OutJson = None,
) -> None:
    """Explain a score: its crosswalk, its tasks with label, rationale and key, and how much each label matters.

    Args:
        code (CODE): Such as 1121 (UK SOC 2020), 11-1011 (SOC 2018), 11-1011.00 (O*NET).
        taxonomy: Classification of the code; by default inferred from its form; 1121 is UK SOC. For an O*NET code, also
            another classification, to show whose scores it counts in.
        rater (RUN): Another rater, for the intervals; may be given more than once.
        draws: Draws of label noise behind the intervals; 0 for none.
        seed: Seed of the draws.
        show: Number of tasks to show; --json has all.
    """
    if not draws:
        _options.reject_ineffective_options(ctx, _options.NEEDS_DRAWS, "seed", "gold", "rater")
    if as_json:
        _options.reject_ineffective_options(ctx, "has no effect with --json, which prints all tasks; remove it", "show")
    choices = Choices(**vars(scoring), taxonomy=taxonomy or explaining.taxonomy_of(code) or "uk-soc2020")
    opened = relabel.open_run(run)
    with doing("scoring"):
        table = tables.score_by(opened, choices)
    if choices.taxonomy != "onet-soc" and code in table.occupation_titles:
        reason = f"has no effect on the {table.taxonomy_name} codes of an O*NET code; remove it"
        _options.reject_ineffective_options(ctx, reason, "gold", "rater", "draws", "seed", "show")
        title, groups = table.occupation_titles[code], explaining.groups_of(table, code)
        document = {"code": code, "title": title, "counts_in": groups, "about": table.about()}
        if not _options.give_json(json_bytes(document), out=out, as_json=as_json):
            say(f"{code} {title} counts in the scores of {counted(len(groups), 'code')} of {table.taxonomy_name}")
            rows: list[list[Cell]] = [[row["code"], row["title"], f"{row['share']:.1%}"] for row in groups]
            if rows:
                Table("Its share in each score", ["code", "title", "share"], rows, left=2).show()
        return
    with doing("explaining"):
        if draws and opened.is_pooled and not rater:
            say("no intervals: those of pooled labels need the runs of the raters, each with --rater RUN", err=True)
        elif draws and code in set(table.frame["code"]):
            others = [relabel.open_run(ref) for ref in rater or ()]
            gold_run = None if gold is None else relabel.open_run(gold)
            table = uncertainty.with_intervals(table, opened, gold=gold_run, raters=others, draws=draws, seed=seed)
        explained = explaining.explain(table, opened, code)
    if not _options.give_json(explained, out=out, as_json=as_json):
        _show_explanation(explained, show, table.taxonomy_name)


def _show_explanation(explained: explaining.Explanation, show: int, taxonomy: str) -> None:
    about = explained.about
    say(f"{explained.code} {explained.title} ({taxonomy})")
    names = ("method", "bridge", "weights", "links", "unrated")
    choices = ", ".join(f"{name} {about[name]}" for name in names if about[name] is not None)
    say(f"labels of {about['run']} on {about['tasks']}; {choices}")
    say(f"status: {explained.status}; coverage {explained.score['coverage']:.1%}")
    if explained.note:
        say(explained.note)
    if explained.exact["alpha"] is not None or explained.exact["gamma"] is not None:
        _show_figures(explained)
    _show_crosswalk(explained)
    _show_tasks(explained, show)


def _show_figures(explained: explaining.Explanation) -> None:
    estimate_name = explained.estimates_name
    others = (estimate_name, "low", "high") if estimate_name else ()
    rows: list[list[Cell]] = []
    for name, (words, unit, places) in _SHOWN_AS.items():
        if name.startswith("wage") and explained.score.get(name) is None:
            continue
        estimate = explained.estimates.get(name, (None,) * len(others))
        figures = (explained.score.get(name), *explained.intervals.get(name, (None, None)), *estimate)
        rows.append([words, *(None if x is None else f"{x / unit:,.{places}f}" for x in figures)])
    notes = [f"{estimate_name}: {_ESTIMATES[estimate_name]} ({explained.estimates_of})"] if estimate_name else ()
    Table("Score, with 95% intervals", ["figure", "score", "low", "high", *others], rows, notes=notes).show()


def _show_crosswalk(explained: explaining.Explanation) -> None:
    for step in reversed(explained.steps):
        target, _, source = step.partition(" to ")
        source, _, origin = source.partition(": ")
        links = [link for link in explained.path if link.system == target]
        large = [link for link in links if link.share is None or link.share >= 0.01]
        shares = ["no tasks" if link.share is None else f"{link.share:.1%}" for link in large]
        rows = [
            [link.code, link.target, link.title or "", f"{link.weight:,.4g}", share]
            for link, share in zip(large, shares, strict=True)
        ]
        small = len(links) - len(large)
        notes = [origin, *([f"and {counted(small, 'link')} of under 1%"] if small else [])]
        columns = ["code", "for", "title", "weight", "share"]
        Table(f"From {source} back to {target}", columns, rows, left=3, notes=notes).show()
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
