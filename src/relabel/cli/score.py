"""`relabel score`: occupations from a run's labels."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relabel.cli import _options as o
from relabel.cli._render import row, width, wrapped
from relabel.scoring.options import Choices, Noise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from relabel.cli._render import Table
    from relabel.run import Run
    from relabel.scoring.multiverse import Multiverse
    from relabel.scoring.table import ScoreTable
    from relabel.scoring.uncertainty import Estimate
    from relabel.tabular import Cell

_SHOWN = 5
_MOST = 10


def register(app: typer.Typer) -> None:
    """Add `score` to the command line."""
    app.command("score")(score)


def score(
    ctx: typer.Context,
    run: o.RunArg,
    *,
    method: o.ScoreMethod = "bridge",
    taxonomy: o.ScoreTaxonomy = "uk-soc2020",
    weights: o.TaskWeights = "importance",
    links: o.BridgeLinks = None,
    unrated: o.UnratedTasks = None,
    tasks: o.ScoreTasks = None,
    pay: o.Pay = None,
    bridge: o.OwnBridge = None,
    repeats: o.RepeatsRule = "mean",
    wage: o.WageOf = "median",
    spread: o.Spread = False,
    us: Annotated[
        bool | None,
        typer.Option(
            "--us/--no-us",
            help="Add US jobs, pay and projections (BLS); onet-soc and soc2018 only, on by default there if the BLS files are available.",
        ),
    ] = None,
    draws: Annotated[
        int,
        typer.Option(
            help="Add intervals from this many draws of label noise, such as 1000; 0 adds none. The score's own, and what "
            "other labels would give (--noise)."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    noise: Annotated[
        Noise,
        typer.Option(
            help="What to estimate beside the score: what a gold's labels would give (confusion), the mean over raters, or "
            "nothing (repeats). By default raters or gold where given, else people's labels."
        ),
    ] = "auto",
    gold: o.GoldRun = None,
    rater: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="Another rater, for intervals or --multiverse; may be repeated."),
    ] = None,
    multiverse: Annotated[
        bool,
        typer.Option(
            "--multiverse",
            help="Score under all choices of rater, rubric, weights, unrated tasks, bridge and comparison.",
        ),
    ] = False,
    out: o.OutTable = None,
    latex: o.Latex = None,
    markdown: o.Markdown = None,
    csv: o.Csv = None,
    as_json: o.AsJson = False,
) -> None:
    """Score occupations: alpha, beta and gamma by code, with coverage, pay and percentiles."""
    from relabel.errors import UsageError
    from relabel.run import open_run
    from relabel.scoring.files import json_bytes, records, require_suffix, table_json, write_table
    from relabel.scoring.table import score_by

    if out is not None:
        require_suffix(out)
        o.require_file(out, "--out", make_folder=True)
    for option, path in {"--latex": latex, "--markdown": markdown, "--csv": csv}.items():
        o.require_file(path, option)
    if multiverse and draws:
        raise UsageError("a multiverse has no draws; remove --draws or --multiverse")
    if multiverse:
        o.reject_ineffective_options(
            ctx, "shapes intervals, and a multiverse has none; remove it", "seed", "noise", "gold"
        )
        o.reject_ineffective_options(ctx, "is not for a multiverse; remove it", "latex", "markdown", "csv")
        if us:
            raise UsageError("a multiverse has no US figures; remove --us or --multiverse")
        if spread:
            raise UsageError("--multiverse scores over all bridges; remove --spread")
    elif not draws:
        o.reject_ineffective_options(
            ctx,
            "shapes intervals and has no effect without --draws; add --draws 1000 or remove it",
            "seed",
            "noise",
            "gold",
            "rater",
        )
    choices = Choices(
        method=method,
        taxonomy=taxonomy,
        weights=weights,
        links=links,
        unrated=unrated,
        tasks=tasks,
        pay=pay,
        bridge=bridge,
        repeats=repeats,
        wage=wage,
    )
    opened = open_run(run)
    with o.suggest_onet_soc(taxonomy, "--taxonomy onet-soc"):
        table = score_by(opened, choices)
    table = _with_us(table, us)
    if multiverse:
        _multiverse(table, opened, [open_run(ref) for ref in rater or ()], out=out, as_json=as_json)
        return
    if spread:
        from relabel.scoring.multiverse import with_spread

        table = with_spread(table)
    if draws:
        from relabel.scoring.uncertainty import with_intervals

        known = None if gold is None else open_run(gold)
        others = [open_run(ref) for ref in rater or ()]
        table = with_intervals(table, opened, noise=noise, gold=known, raters=others, draws=draws, seed=seed)
    extra: dict[str, Any] = {}
    if table.spread is not None:
        extra["bridges"] = records(table.spread)
    means = None
    if table.partial:
        from relabel.scoring.uncertainty import is_random_sample, major_groups

        if is_random_sample(opened):
            means = major_groups(table)
            extra["major_groups"] = records(means)
    if out is not None:
        write_table(table, out, extra)
    printed = o.give_tables([_for_paper(table)], latex=latex, markdown=markdown, csv=csv)
    if as_json:
        typer.echo(json_bytes(table_json(table) | extra), nl=False)
        return
    if printed:
        return
    _show(table)
    if means is not None:
        _show_means(table, means)
    if out is not None:
        typer.echo(f"written: {out}")


def _for_paper(table: ScoreTable) -> Table:
    """The scores as a table for a paper: all codes with a score, with their intervals where there are any."""
    from relabel.cli._render import Table
    from relabel.scoring.files import records
    from relabel.scoring.options import SYSTEM_NAMES

    bounded = table.intervals is not None
    columns = ["code", "title"]
    for measure in ("alpha", "beta", "gamma"):
        columns += [measure, "95 %"] if bounded else [measure]
    rows: list[list[Cell]] = []
    for score in records(table.frame[~table.frame["status"].str.startswith("unscored")]):
        cells: list[Cell] = [score["code"], score["title"]]
        for measure in ("alpha", "beta", "gamma"):
            cells.append(score[measure])
            if bounded:
                low = score[f"{measure}_low"]
                cells.append(None if low is None else (low, score[f"{measure}_high"]))
        rows.append([*cells, score["tasks"], score["coverage"]])
    title = f"Exposure by {SYSTEM_NAMES[table.taxonomy]}, labels of {table.run} on {table.tasks}, method {table.method}"
    return Table(title, [*columns, "tasks", "coverage"], rows, left=2)


def _with_us(table: ScoreTable, wanted: bool | None) -> ScoreTable:
    """The table with US figures, where they are wanted; without, and said so, where it was not asked for and a file is missing."""
    from relabel.errors import NotAtHandError
    from relabel.scoring.us import has_us_figures, with_us_figures

    if wanted:
        return with_us_figures(table)
    if wanted is False or not has_us_figures(table):
        return table
    try:
        return with_us_figures(table)
    except NotAtHandError as error:
        typer.echo(wrapped(f"scored without US columns: {error}"), err=True)
        return table


def _show(table: ScoreTable) -> None:
    from relabel.scoring.files import records
    from relabel.scoring.options import SYSTEM_NAMES
    from relabel.scoring.us import us_summary

    def say(text: str) -> None:
        typer.echo(wrapped(text))

    counts = table.describe()["counts"]
    thin = f" and {counts['thin']:,} thin" if counts["thin"] else ""
    say(
        f"{table.run}, method {table.method}, {SYSTEM_NAMES[table.taxonomy]}: {counts['scored']:,} of "
        f"{counts['groups']:,} codes scored{thin} from {counts['tasks_labelled']:,} of {counts['tasks_listed']:,} tasks "
        f"of {table.tasks}, weights {table.weights}"
        f"{'' if table.unrated is None else f', unrated {table.unrated}'}"
        f"{'' if table.links is None else f', links {table.links}'}{f' ({table.us_jobs})' if table.us_jobs else ''}"
    )
    if table.note:
        say(table.note)
    if table.labels_unmatched:
        say(f"{table.labels_unmatched:,} labelled tasks of the run are not in {table.tasks} and left out")
    # By the lists' names, as either may be the newer one.
    changes = {
        "tasks_new": f"are not in {table.labelled_list}, which the run labelled, and have no label",
        "tasks_reworded": f"have another wording in {table.labelled_list} and keep the label of that",
        "tasks_emerging": "are emerging, without id and rating, and not scored",
    }
    if said := [f"{counts[name]:,} {what}" for name, what in changes.items() if counts[name]]:
        say(f"of the tasks of {table.tasks} {'; '.join(said)}")
    if table.half_labelled:
        say(f"{table.half_labelled:,} tasks have some of their labels only and count as unlabelled")
    if "wage_status" in table.frame:
        say(us_summary(table.frame))
    _show_totals(table)
    _show_spread(table)
    rows = table.frame[table.frame["status"].str.startswith("scored")]
    rows = rows.sort_values(["gamma", "alpha", "code"], ascending=[False, False, True])
    found = table.intervals
    if found is not None and not found.by_rater.empty:
        _show_raters(found.by_rater, frozenset(str(code) for code in rows["code"]))
    wide = 1 + max([4, *rows["code"].str.len()])
    other = found and found.other
    if len(rows):
        if found is not None:
            typer.echo(_whose(wide, other))
        typer.echo(f"{'' if found else chr(10)}{'code':<{wide}}{_bounded_head(other) if found else _HEAD}")
    for number, score in enumerate(records(rows)):
        if _SHOWN <= number < len(rows) - _SHOWN:
            if number == _SHOWN:
                typer.echo("...")
            continue
        figures = _bounded_figures(score, other) if found else _figures(score)
        typer.echo(row(f"{score['code']:<{wide}}{figures}  ", str(score["title"])))
    for kind in ("thin", "unscored"):
        codes = [str(code) for code in table.frame.loc[table.frame["status"].str.startswith(kind), "code"]]
        if codes:
            more = f" and {len(codes) - 8:,} more" if len(codes) > 8 else ""
            typer.echo("")
            say(f"{kind}: {', '.join(codes[:8])}{more} (the column status says why)")


_HEAD = f"{'alpha':>7}{'beta':>7}{'gamma':>7}{'tasks':>7}{'coverage':>10}  title"


def _whose(wide: int, other: Estimate | None) -> str:
    """The line above the head of the table: whose labels the columns are for."""
    if other is None:
        return ""
    from relabel.scoring.uncertainty import PEOPLE

    whose, short = ("by the gold", "gold")
    if other.name == "pooled":
        whose, short = ("mean over raters", "mean")
    elif other.of == PEOPLE:
        whose, short = ("people's labels", "people")
    shown = f"{'score, 95 %':<19}{whose if _room() else short:<{_room() or 8}}"
    return f"\n{'':<{wide}}" + 2 * shown


def _room() -> int:
    """Characters for what other labels would give, with its interval; 0 in a narrow terminal, which shows it without."""
    return 19 if width() >= 100 else 0


def _bounded_head(other: Estimate | None) -> str:
    wide = 19 + (0 if other is None else _room() or 8)
    return "".join(f"{measure:<{wide}}" for measure in ("alpha", "gamma")) + "title"


def _figures(score: Mapping[Any, Any]) -> str:
    shown = "".join(f"{_figure(score[measure]):>7}" for measure in ("alpha", "beta", "gamma"))
    return f"{shown}{score['tasks']:>7,}{score['coverage']:>10.0%}"


def _bounded_figures(score: Mapping[Any, Any], other: Estimate | None) -> str:
    cells = ""
    for measure in ("alpha", "gamma"):
        cells += f"{_with_interval(score, measure):<19}"
        if other is not None:
            name = f"{measure}_{other.name}"
            cells += f"{_with_interval(score, name):<19}" if _room() else f"{_figure(score[name]):<8}"
    return cells


def _with_interval(score: Mapping[Any, Any], name: str) -> str:
    if score[name] is None:
        return "-"
    return f"{_figure(score[name])} {_between(_figure(score[f'{name}_low']), _figure(score[f'{name}_high']))}"


def _between(low: str, high: str) -> str:
    return "-" if low == "-" else f"{low}-{high}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _show_raters(by_rater: pd.DataFrame, codes: frozenset[str]) -> None:
    """The mean score of each rater alone, over the groups that count as scored, beside the pooled one."""
    from relabel.scoring.files import records

    measures = ["alpha", "beta", "gamma"]
    rows = by_rater[by_rater["code"].isin(codes)]
    typer.echo(f"\n{'mean over groups by rater':<36}{'alpha':>7}{'beta':>7}{'gamma':>7}")
    for mean in records(rows.groupby("rater", sort=False)[measures].mean().reset_index()):
        typer.echo(f"{mean['rater'][:35]:<36}" + "".join(f"{_figure(mean[measure]):>7}" for measure in measures))


def _show_totals(table: ScoreTable) -> None:
    totals = table.totals
    if totals is None:
        return
    thin = f"; {totals['thin_groups']:,} thin groups are left out" if totals["thin_groups"] else ""
    said = [
        f"{measure} GBP {value / 1e9:,.1f}bn{_total_interval(table, measure)}"
        for measure in ("alpha", "beta", "gamma")
        if (value := totals[f"wage_exposure_{measure}_gbp"]) is not None
    ]
    if not said:
        typer.echo(wrapped(f"no total: no scored group has jobs and {table.wage} pay in {table.pay}{thin}"))
        return
    jobs = f"{totals['employees']:,} jobs"
    if totals["coverage"] is not None:
        jobs = f"{totals['employees']:,} of {totals['workforce']:,} jobs ({totals['coverage']:.1%})"
    over = f"{totals['groups']:,} groups with {jobs}; {table.wage} pay {table.pay}{thin}"
    typer.echo(wrapped(f"wage exposure a year: {', '.join(said)}, over {over}"))
    if table.population is not None:
        typer.echo(wrapped(f"jobs and pay are those of {table.population}"))
    other = table.intervals and table.intervals.other
    if other is not None and other.totals:
        bounds = [
            f"{measure} {known['mid'] / 1e9:,.1f} ({known['low'] / 1e9:,.1f} to {known['high'] / 1e9:,.1f}) bn"
            for measure in ("alpha", "beta", "gamma")
            if (known := other.totals.get(f"wage_exposure_{measure}_gbp")) is not None
        ]
        whose = "the mean over raters" if other.name == "pooled" else f"the labels of {other.of}"
        typer.echo(wrapped(f"by {whose} it would be: {', '.join(bounds)}"))


def _total_interval(table: ScoreTable, measure: str) -> str:
    known = table.intervals and table.intervals.own.totals.get(f"wage_exposure_{measure}_gbp")
    return f" ({known['low'] / 1e9:,.1f} to {known['high'] / 1e9:,.1f})" if known else ""


def _show_spread(table: ScoreTable) -> None:
    if table.spread is None:
        return
    from relabel.scoring.multiverse import spread_summary

    own = table.spread["bridge"].iloc[0]
    for pair in spread_summary(table).to_dict("records"):
        if pair["measure"] != "beta":
            text = f"{pair['moved']:,} groups differ by over .1, most {pair['code']} by {pair['most']:.2f}"
            typer.echo(wrapped(f"bridge {own} against {pair['bridge']}, {pair['measure']}: {text}"))


def _show_means(table: ScoreTable, means: pd.DataFrame) -> None:
    """What a random sample can tell: means by major group, with sampling error."""
    from relabel.scoring.files import records

    typer.echo("")
    typer.echo(
        wrapped(
            f"the tasks were drawn at random, so means over groups can be estimated (with 95 % sampling error; {table.run} "
            "labelled too few for single groups)"
            if table.scored < len(table.frame) / 2
            else "the tasks were drawn at random: means over groups, with 95 % sampling error"
        )
    )
    typer.echo(f"{'major group':<13}{'groups':>7}{'tasks':>7}   {'alpha':<19}{'gamma':<19}")
    for mean in records(means):
        cells = "".join(f"{_with_interval(mean, measure):<19}" for measure in ("alpha", "gamma"))
        typer.echo(f"{mean['major_group']:<13}{mean['groups']:>7,}{mean['tasks']:>7,}   {cells}".rstrip())


def _multiverse(table: ScoreTable, run: Run, raters: Sequence[Run], *, out: Path | None, as_json: bool) -> None:
    """Score in all universes and show how far they lie apart.

    Args:
        table: A score table of the run.
        run: The run.
        raters: Other raters; none takes those of this set.
        out: Where to write: the whole as `.json`, the ranges by occupation as `.csv` or `.parquet`.
        as_json: Whether to print the whole as JSON instead.
    """
    from relabel.scoring.files import json_bytes
    from relabel.scoring.multiverse import default_raters, multiverse, multiverse_document

    found = multiverse(table, run, raters or default_raters(run))
    document = {"table": table.describe()} | dict(multiverse_document(found))
    if out is not None:
        o.write_table_or_json(out, document, lambda: found.occupations, rows="occupations")
    if as_json:
        typer.echo(json_bytes(document), nl=False)
        return
    _show_multiverse(found, table)
    if out is not None:
        typer.echo(f"written: {out}")


def _show_multiverse(found: Multiverse, table: ScoreTable) -> None:
    from relabel.scoring.multiverse import CHOICES

    universes = found.universes
    typer.echo(wrapped(f"{len(universes):,} universes on {table.tasks}, {universes['labels'].nunique()} label sets:"))
    for choice in CHOICES:
        levels = "; ".join(str(level) for level in universes[choice].unique())
        typer.echo(f"  {choice:<11}{wrapped(levels, indent=13, hang=0).lstrip()}")
    for why in found.left_out:
        typer.echo(wrapped(f"left out: {why}"))
    typer.echo("\nheadline figures; means and shares are of jobs, wage exposure in GBP billion")
    typer.echo(f"{'':<26}{'chosen':>9}{'min':>9}{'max':>9}  most by")
    for of in found.headline.to_dict("records"):
        money = str(of["outcome"]).startswith("wage")
        numbers = [float(of[name]) for name in ("chosen", "min", "max")]
        shown = [("-" if isnan(x) else f"{x / 1e9:,.1f}" if money else f"{x:.3f}") for x in numbers]
        name = str(of["outcome"]).removesuffix("_gbp").replace("_", " ")
        typer.echo(f"{name:<26}{shown[0]:>9}{shown[1]:>9}{shown[2]:>9}  {of['most'] or 'nothing'}")
    typer.echo("")
    typer.echo(wrapped("part of the variance that each choice alone accounts for (labels: rater and rubric together)"))
    choices = {choice: max(7, len(choice) + 1) for choice in ("labels", *CHOICES)}
    typer.echo(f"{'':<22}" + "".join(f"{choice:>{wide}}" for choice, wide in choices.items()))
    parts = found.effects.pivot(index="outcome", columns="choice", values="first_order")
    for outcome in dict.fromkeys(found.effects["outcome"]):
        cells = [(float(parts.loc[outcome].get(choice, float("nan"))), wide) for choice, wide in choices.items()]
        name = str(outcome).removesuffix("_gbp").replace("_", " ").replace("wage exposure", "wages")
        typer.echo(f"{name:<22}" + "".join(f"{'-' if isnan(x) else format(x, '.0%'):>{wide}}" for x, wide in cells))
    for measure in ("alpha", "gamma"):
        ranges = found.occupations.dropna(subset=[f"{measure}_range"])
        if ranges.empty:
            continue
        widths = ranges[f"{measure}_range"]
        typer.echo(
            f"\n{measure}: a group's score ranges over {widths.median():.3f} (median), {widths.max():.3f} (most)"
        )
        typer.echo(f"{'code':<11}{'score':>7}{'min':>7}{'max':>7}  {'most by':<9}title")
        wide = ranges.sort_values([f"{measure}_range", "code"], ascending=[False, True]).head(_MOST)
        for of in wide.to_dict("records"):
            numbers = [float(of[name]) for name in (measure, f"{measure}_min", f"{measure}_max")]
            shown = "".join(f"{'-' if isnan(x) else format(x, '.3f'):>7}" for x in numbers)
            typer.echo(row(f"{of['code']:<11}{shown}  {of[f'{measure}_most']:<9}", str(of["title"])))
