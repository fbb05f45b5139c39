"""`relabel compare`: what changed between runs, in their labels or in the scores that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relabel.cli._options import (
    AsJson,
    GoldRule,
    Html,
    OutJson,
    give_json,
    require_file,
    suggest_onet_soc,
    write,
)
from relabel.cli._render import bounds, cut, figure, heading, say, signed, table
from relabel.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from relabel.evaluation.compare import CompareDocument, Difference, PairwiseDocument
    from relabel.run import Run
    from relabel.scoring.decomposition import Moved
    from relabel.scoring.table import ScoreTable

_TOP = 10
_TASKS = 5
_TEXT = 58


def register(app: typer.Typer) -> None:
    """Add the command `compare`."""

    @app.command("compare")
    def compare_runs(
        runs: Annotated[
            list[str],
            typer.Argument(
                metavar="RUN RUN...", help="Two or more runs: folders, names under runs/, or published sets."
            ),
        ],
        gold: Annotated[
            str | None,
            typer.Option(metavar="G", help="Also compare each run with these reference labels; as for `relabel eval`."),
        ] = None,
        gold_rule: GoldRule = "majority",
        as_json: AsJson = False,
        out: OutJson = None,
        html_file: Html = None,
        draws: Annotated[
            int, typer.Option(min=200, max=100_000, help="Draws of the bootstrap over occupations.")
        ] = 2000,
        seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
        scores: Annotated[
            bool, typer.Option("--scores", help="Compare the scores of two runs instead, and split what moved.")
        ] = False,
        before: Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME=VALUE", help="With --scores: a choice for the first run, such as method=site-2026."
            ),
        ] = None,
        after: Annotated[
            list[str] | None, typer.Option(metavar="NAME=VALUE", help="With --scores: a choice for the second run.")
        ] = None,
    ) -> None:
        """Compare runs, paired by task: what changed, by how much, and whether it is more than noise.

        Differences are the second run less the first. With more than two runs, each pair's agreement, the majority and
        the tasks of most disagreement are shown.
        """
        from relabel.evaluation.alignment import task_details
        from relabel.evaluation.compare import compare, compare_several
        from relabel.evaluation.gold import load_gold
        from relabel.run import open_run

        if len(runs) < 2:
            raise UsageError("compare needs two runs or more; give another run")
        require_file(out, "--out", make_folder=True)
        require_file(html_file, "--html")
        opened = [open_run(run) for run in runs]
        if scores:
            if len(opened) > 2 or gold is not None or html_file is not None:
                raise UsageError("--scores compares two runs, without --gold and --html; remove the others")
            _compare_scores(opened[0], opened[1], out=out, as_json=as_json, before=before or (), after=after or ())
            return
        if before or after:
            raise UsageError("--before and --after apply to scores only; add --scores or remove them")
        truth = None if gold is None else load_gold(gold, gold_rule)
        details = task_details(opened[0])
        if len(opened) == 2:
            pair = compare(opened[0], opened[1], truth, details=details, draws=draws, seed=seed)
            several = None
        else:
            pair, several = None, compare_several(opened, truth, draws=draws, seed=seed)
        if html_file is not None:
            from relabel.evaluation.report import compare_page, several_page

            if pair is not None:
                write(html_file, compare_page(pair, opened, details), "--html")
            elif several is not None:
                write(html_file, several_page(several, details), "--html")
            typer.echo(f"report written to {html_file}", err=True)
        if give_json(pair or several, out=out, as_json=as_json):
            return
        if pair is not None:
            _show_pair(pair)
        elif several is not None:
            _show_several(several)


def _note(sentence: str) -> None:
    say(sentence, indent=2, hang=0)


def _change(of: Difference) -> tuple[str, str, str, str]:
    return figure(of.first), figure(of.second), signed(of.difference), bounds(of.ci95, change=True)


def _show_pair(document: CompareDocument) -> None:
    typer.echo(f"{document.runs[0]} and {document.runs[1]}: {document.common:,} common tasks")
    for run, alone in zip(document.runs, document.only, strict=True):
        if alone:
            typer.echo(f"{alone:,} tasks only in {run}")
    _verdict(document)
    for setting, found in document.settings.items():
        if not found.n:
            continue
        heading(f"{setting}: first run by second")
        table(
            ("first", *(f"second {label}" for label in found.transitions), "share", "then", "change", "95 %"),
            (
                (label, *(f"{n:,}" for n in row.values()), *_change(found.prevalence[label]))
                for label, row in found.transitions.items()
            ),
        )
        typer.echo(
            f"  agreement {figure(found.agreement)} ({bounds(found.agreement_ci95, to=True)}), kappa {figure(found.kappa)} "
            f"({bounds(found.kappa_ci95, to=True)}), {found.changed:,} changed"
        )
    heading("Means")
    table(
        ("measure", "tasks", "first", "second", "change", "95 %"),
        ((measure, f"{of.n:,}", *_change(of)) for measure, of in document.measures.items()),
    )
    for setting, against in document.against_gold.items():
        heading(f"{setting} against the gold {document.gold}, {against.n:,} tasks")
        table(
            ("figure", "first", "second", "change", "95 %"),
            ((metric, *_change(of)) for metric, of in against.metrics.items()),
        )
        typer.echo(f"  {against.mended:,} now right, {against.broken:,} now wrong")
    _show_moves(document)
    from relabel.evaluation.document import MAJOR_GROUPS

    for by, slices in document.slices.items():
        heading(f"Agreement by {by.replace('_', ' ')} ({document.main_setting})")
        table(
            ("part", "tasks", "agreement", "95 %", "kappa", "change of mean", "95 %"),
            (
                (
                    f"{value} {MAJOR_GROUPS[value]}" if value in MAJOR_GROUPS else value,
                    f"{part.n:,}",
                    figure(part.agreement),
                    bounds(part.agreement_ci95, to=True),
                    figure(part.kappa),
                    signed(part.difference),
                    bounds(part.difference_ci95, change=True),
                )
                for value, part in slices.items()
                if part.n
            ),
        )


def _verdict(document: CompareDocument | PairwiseDocument) -> None:
    heading("Verdict")
    for sentence in document.verdict.splitlines():
        _note(sentence)


def _show_moves(document: CompareDocument) -> None:
    measure = document.main_measure
    if measure is None or not document.occupations:
        return
    heading(f"Occupations that move most, by mean {measure} ({len(document.occupations):,} in all)")
    table(
        ("occupation", "tasks", "changed", "first", "second", "move"),
        (
            (
                of.onet_soc_code,
                f"{of.tasks:,}",
                f"{of.flips:,}",
                *(figure(x) for x in of.measures[measure]),
                signed(of.move),
            )
            for of in document.occupations[:_TOP]
        ),
    )
    heading(f"Flips of most effect on an occupation's mean {measure} ({len(document.flips):,} in all)")
    table(
        ("task", "occupation", "first", "second", "effect"),
        (
            (
                flip.task_id,
                flip.onet_soc_code,
                *(
                    side.get("three-way") or ", ".join(label or "-" for label in side.values())
                    for side in (flip.first, flip.second)
                ),
                signed(flip.effect),
            )
            for flip in document.flips[:_TOP]
        ),
    )


def _show_several(document: PairwiseDocument) -> None:
    typer.echo(f"{len(document.runs)} runs, {document.common:,} common tasks")
    _verdict(document)
    heading("Runs")
    table(
        ("run", *(f"mean {measure}" for measure in document.means), "not common"),
        (
            (
                f"{place + 1} {run}",
                *(figure(by_run[place]) for by_run in document.means.values()),
                f"{document.alone[place]:,}",
            )
            for place, run in enumerate(document.runs)
        ),
    )
    gold = ("gold accuracy", "gold kappa") if document.gold else ()
    for setting, found in document.settings.items():
        if not found.n:
            continue
        heading(f"{setting}: {found.n:,} tasks with a label in all runs")
        table(
            ("pair", "agreement", "95 %", "kappa", "95 %", "quadratic"),
            (
                (
                    f"{pair.first + 1} and {pair.second + 1}",
                    figure(pair.agreement),
                    bounds(pair.agreement_ci95, to=True),
                    figure(pair.kappa),
                    bounds(pair.kappa_ci95, to=True),
                    figure(pair.kappa_quadratic),
                )
                for pair in found.pairs
            ),
        )
        table(
            ("run", *(f"share {x}" for x in found.majority.labels), "with others", *gold),
            (
                (
                    str(place + 1),
                    *(figure(x) for x in (*run.prevalence.values(), run.with_others)),
                    *(figure(x) for x in ((run.gold_accuracy, run.gold_kappa) if gold else ())),
                )
                for place, run in enumerate(found.runs)
            ),
        )
        of_gold = f", accuracy {figure(found.majority.gold_accuracy)} against {document.gold}" if gold else ""
        typer.echo(
            f"  majority: {found.majority.tied:,} tasks without one, {figure(found.majority.unanimous)} unanimous{of_gold}"
        )
    heading(f"Tasks with most disagreement ({len(document.disputed):,} with several labels)")
    table(
        ("task", "occupation", *(f"run {n + 1}" for n in range(len(document.runs))), "spread"),
        (
            (task.task_id, task.onet_soc_code, *(label or "-" for label in task.labels), figure(task.spread))
            for task in document.disputed[:_TOP]
        ),
    )


def _compare_scores(
    a: Run, b: Run, *, out: Path | None, as_json: bool, before: Sequence[str] = (), after: Sequence[str] = ()
) -> None:
    """Show how the scores of two runs differ, and write all of it where asked.

    Args:
        a: The first run.
        b: The second run.
        out: Where one JSON document goes.
        as_json: Whether to print it, and nothing else.
        before: Choices of the first table as `NAME=VALUE`, named as the options of `relabel score`; by default its
            defaults.
        after: Choices of the second table.

    Raises:
        UsageError: A choice is not known, or the tables cannot be compared.
    """
    from relabel.scoring.decomposition import what_moved
    from relabel.scoring.files import json_bytes
    from relabel.scoring.options import Choices
    from relabel.scoring.table import score_by

    chosen = Choices.of_words(before), Choices.of_words(after)
    with suggest_onet_soc(chosen[0].taxonomy, "--before taxonomy=onet-soc --after taxonomy=onet-soc"):
        tables = score_by(a, chosen[0]), score_by(b, chosen[1])
    moved = what_moved(*tables)
    if give_json(json_bytes(_document(moved, tables)), out=out, as_json=as_json):
        return
    _show_moved(moved, tables)


def _document(moved: Moved, tables: tuple[ScoreTable, ScoreTable]) -> dict[str, Any]:
    from relabel.scoring.files import records

    return {
        "before": tables[0].describe(),
        "after": tables[1].describe(),
        "changes": [row | {"carriers": _carriers(moved, row)} for row in records(moved.frame)],
        "appeared": records(moved.appeared),
        "disappeared": records(moved.disappeared),
        "missing_measures": dict(moved.missing),
    }


def _carriers(moved: Moved, row: dict[str, Any]) -> list[dict[str, Any]]:
    from relabel.scoring.files import records

    return records(moved.carriers(row["code"], row["measure"]).head(_TASKS)) if row["change"] else []


def _show_moved(moved: Moved, tables: tuple[ScoreTable, ScoreTable]) -> None:
    from relabel.scoring.decomposition import PARTS

    for which, of in zip(("before", "after"), tables, strict=True):
        choices = [f"method {of.method}", f"weights {of.weights}", f"tasks {of.tasks}"]
        choices += [f"{name} {value}" for name, value in (("links", of.links), ("unrated", of.unrated)) if value]
        typer.echo(f"{which + ':':<8}{of.run}: {', '.join(choices)}")
    for why in dict.fromkeys(moved.missing.values()):
        typer.echo(f"not compared: {', '.join(m for m in moved.missing if moved.missing[m] == why)}: {why}")
    if moved.frame.empty:
        typer.echo("no group has a score in both")
    shown = [part for part in PARTS if moved.frame[part].abs().max() > 0] or ["labels"]
    for measure, rows in moved.frame.groupby("measure", sort=False):
        changed = int((rows["change"].abs() > 1e-12).sum())
        typer.echo(f"\n{measure}: {changed:,} of {len(rows):,} groups moved; means over groups")
        typer.echo(f"{'':<9}{'before':>8}{'after':>8}{'change':>8}" + "".join(f"{part:>11}" for part in shown))
        means = rows[["before", "after", "change", *shown]].mean()
        sizes = rows[["change", *shown]].abs().mean()
        typer.echo(
            f"{'mean':<9}{means['before']:>8.3f}{means['after']:>8.3f}" + _signed_cells(means, ["change", *shown])
        )
        typer.echo(f"{'size':<9}{'':>16}{sizes['change']:>8.3f}" + "".join(f"{sizes[p]:>11.3f}" for p in shown))
        most = rows.assign(size=rows["change"].abs()).sort_values(["size", "code"], ascending=[False, True])
        for row in most.head(_TOP).to_dict("records"):
            if row["size"] <= 1e-12:
                break
            numbers = f"{row['before']:>8.3f}{row['after']:>8.3f}" + _signed_cells(row, ["change", *shown])
            typer.echo(f"{row['code']:<9}{numbers}")
            typer.echo(f"         {row['title'][:80]}")
            top = moved.carriers(str(row["code"]), row["measure"]).head(1)
            for task in top.to_dict("records"):
                labels = f"{task['label_before'] or 'none'} to {task['label_after'] or 'none'}"
                typer.echo(
                    f"         most by {task['onet_soc_code']} {task['change']:+.3f} {labels}: {cut(str(task['text']), _TEXT)}"
                )
    for which, alone in (("scored after only", moved.appeared), ("scored before only", moved.disappeared)):
        if len(alone):
            typer.echo(f"\n{which}: {len(alone):,} groups")
            for row in alone.head(_TOP).to_dict("records"):
                typer.echo(f"{row['code']:<9}{str(row['title'])[:90]}")
                typer.echo(f"         {str(row['reason'])[:88]}")
            if len(alone) > _TOP:
                typer.echo(f"and {len(alone) - _TOP:,} more (--json has all)")


def _signed_cells(row: pd.Series | dict[Any, Any], names: Sequence[str]) -> str:
    widths = [8, *[11] * (len(names) - 1)]
    # Adding 0 turns a negative zero into a plain one.
    return "".join(f"{round(float(row[name]), 3) + 0:>+{width}.3f}" for name, width in zip(names, widths, strict=True))
