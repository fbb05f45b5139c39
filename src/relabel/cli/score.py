"""`relabel score`: occupations from a run's labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relabel.cli._options import require_file
from relabel.cli._render import row, wrapped
from relabel.scoring.options import Choices, Links, Method, Noise, Repeats, Taxonomy, Unrated, Wage, Weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from relabel.scoring.table import ScoreTable
    from relabel.scoring.uncertainty import Estimate

_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add `score` to the command line."""
    app.command("score")(score)


def score(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a name under runs/, or a published set.")],
    *,
    method: Annotated[
        Method, typer.Option(help="site-2026 repeats the published method with its faults; bridge cures them.")
    ] = "bridge",
    taxonomy: Annotated[Taxonomy, typer.Option(help="Classification of the scored codes.")] = "uk-soc2020",
    weights: Annotated[Weights, typer.Option(help="How tasks weigh within their occupation.")] = "importance",
    links: Annotated[
        Links | None, typer.Option(help="How the bridge weighs the sources of a code. By default index.")
    ] = None,
    unrated: Annotated[
        Unrated | None,
        typer.Option(
            help="Weight of a task without importance rating: 1 as on the site, its occupation's mean, or left out."
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Task list for types and importance: onet-30.2, eloundou-2023 or FILE.csv. By default what fits."
        ),
    ] = None,
    pay: Annotated[
        str | None,
        typer.Option(
            help="ons-ashe-2024 (the default), ons-ashe-2025-medians, a source of your own with the role pay, or FILE.csv; uk-soc2020 only."
        ),
    ] = None,
    bridge: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Your own mapping of O*NET-SOC to UK SOC 2020 (CSV or Excel: codes, perhaps weights)."
        ),
    ] = None,
    repeats: Annotated[
        Repeats, typer.Option(help="Value of a task with several samples: their mean, or the most frequent label's.")
    ] = "mean",
    wage: Annotated[Wage, typer.Option(help="Pay that wage exposure is made of; uk-soc2020 only.")] = "median",
    spread: Annotated[
        bool,
        typer.Option(
            "--spread", help="Add the lowest and highest score over several bridges, and add that to the intervals."
        ),
    ] = False,
    us: Annotated[
        bool | None,
        typer.Option(
            "--us/--no-us",
            help="Add US jobs, pay and projections (BLS); onet-soc and soc2018 only, where it is the default if the files are to be had.",
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
    gold: Annotated[
        str | None, typer.Option(metavar="RUN", help="Estimate what these labels would give, with intervals.")
    ] = None,
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
    out: Annotated[Path | None, typer.Option(help="Write the table to a .csv, .parquet or .json file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as one JSON document.")] = False,
) -> None:
    """Score occupations: alpha, beta and gamma by code, with coverage, pay and percentiles."""
    from relabel.cli._options import reject_ineffective_options, suggest_onet_soc
    from relabel.errors import UsageError
    from relabel.run import open_run
    from relabel.scoring.files import json_bytes, records, require_suffix, table_json, write_table
    from relabel.scoring.score import score_by

    if out is not None:
        require_suffix(out)
        require_file(out, "--out", make_folder=True)
    if multiverse and draws:
        raise UsageError("a multiverse has no draws; leave --draws or --multiverse out")
    if multiverse:
        reject_ineffective_options(
            ctx, "shapes intervals, and a multiverse has none; leave it out", "seed", "noise", "gold"
        )
        if us:
            raise UsageError("a multiverse has no US figures; leave --us or --multiverse out")
        if spread:
            raise UsageError("--multiverse scores over all bridges; remove --spread")
    elif not draws:
        reject_ineffective_options(
            ctx, "shapes intervals; give --draws 1000 too, or leave it out", "seed", "noise", "gold", "rater"
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
    with suggest_onet_soc(taxonomy, "--taxonomy onet-soc"):
        table = score_by(opened, choices)
    table = _with_us(table, us)
    if multiverse:
        from relabel.cli.universes import show_multiverse

        show_multiverse(table, opened, [open_run(ref) for ref in rater or ()], out=out, as_json=as_json)
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
    if as_json:
        typer.echo(json_bytes(table_json(table) | extra), nl=False)
        return
    _show(table)
    if means is not None:
        _show_means(table, means)
    if out is not None:
        typer.echo(f"written: {out}")


def _with_us(table: ScoreTable, wanted: bool | None) -> ScoreTable:
    """The table with US figures, where they are wanted; without, and said so, where nobody asked and a file lacks."""
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
        f"{'' if table.links is None else f', links {table.links}'}"
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

    whose = "mean over raters" if other.name == "pooled" else "people's labels" if other.of == PEOPLE else "by the gold"
    return f"\n{'':<{wide}}" + 2 * f"{'score, 95 %':<19}{whose:<19}".rstrip().ljust(38)


def _bounded_head(other: Estimate | None) -> str:
    widths = (19, 19) if other is not None else (19,)
    return "".join(f"{measure:<{sum(widths)}}" for measure in ("alpha", "gamma")) + "title"


def _figures(score: Mapping[Any, Any]) -> str:
    shown = "".join(f"{_figure(score[measure]):>7}" for measure in ("alpha", "beta", "gamma"))
    return f"{shown}{score['tasks']:>7,}{score['coverage']:>10.0%}"


def _bounded_figures(score: Mapping[Any, Any], other: Estimate | None) -> str:
    names = [f"{m}{suffix}" for m in ("alpha", "gamma") for suffix in ("", *(("_" + other.name,) if other else ()))]
    return "".join(f"{_with_interval(score, name):<19}" for name in names)


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
