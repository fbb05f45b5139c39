"""`relabel compare`: what changed between runs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from relabel.cli._options import AsJson, Html, OutJson, give_json, require_file, write
from relabel.cli.outcome import GoldRuleOption
from relabel.cli.terminal import make_console
from relabel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.table import Table

    from relabel.evaluation.compare import CompareDocument, Interval, PairwiseDocument
    from relabel.evaluation.document import SettingName

_TOP = 10


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
        gold_rule: Annotated[
            GoldRuleOption,
            typer.Option(
                "--gold-rule", help="What several annotators' labels of a task become; as for `relabel eval`."
            ),
        ] = GoldRuleOption.MAJORITY,
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
            from relabel.cli.moved import show_scores

            if len(opened) > 2 or gold is not None or html_file is not None:
                raise UsageError("--scores compares two runs, without --gold and --html; leave the others out")
            show_scores(opened[0], opened[1], out=out, as_json=as_json, before=before or (), after=after or ())
            return
        if before or after:
            raise UsageError("--before and --after choose scores; give --scores too, or leave them out")
        truth = None if gold is None else load_gold(gold, gold_rule.value)
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
        console = make_console()
        if pair is not None:
            _show_pair(pair, console)
        elif several is not None:
            _show_several(several, console)


def _show_pair(document: CompareDocument, console: Console) -> None:
    console.print(f"{document.runs[0]} and {document.runs[1]}: {document.common:,} common tasks")
    for run, alone in zip(document.runs, document.only, strict=True):
        if alone:
            console.print(f"{alone:,} tasks only in {run}")
    _heading("Verdict", console)
    for sentence in document.verdict.splitlines():
        _indented(sentence, console)
    for setting, found in document.settings.items():
        if not found.n:
            continue
        _heading(f"{setting}: first run by second", console)
        table = _table("first", *(f"second {label}" for label in found.transitions), "share", "then", "change", "95 %")
        for label, row in found.transitions.items():
            share = found.prevalence[label]
            table.add_row(
                label,
                *(f"{n:,}" for n in row.values()),
                *(_figure(x) for x in (share.first, share.second)),
                _signed(share.difference),
                _bounds(share.ci95, signed=True),
            )
        console.print(table)
        console.print(
            f"  agreement {_figure(found.agreement)} ({_bounds(found.agreement_ci95)}), kappa {_figure(found.kappa)} "
            f"({_bounds(found.kappa_ci95)}), {found.changed:,} changed"
        )
    _heading("Means", console)
    table = _table("measure", "tasks", "first", "second", "change", "95 %")
    for measure, change in document.measures.items():
        table.add_row(
            measure,
            f"{change.n:,}",
            *(_figure(x) for x in (change.first, change.second)),
            _signed(change.difference),
            _bounds(change.ci95, signed=True),
        )
    console.print(table)
    for setting, against in document.against_gold.items():
        _heading(f"{setting} against the gold {document.gold}, {against.n:,} tasks", console)
        table = _table("figure", "first", "second", "change", "95 %")
        for metric, change in against.metrics.items():
            table.add_row(
                metric,
                *(_figure(x) for x in (change.first, change.second)),
                _signed(change.difference),
                _bounds(change.ci95, signed=True),
            )
        console.print(table)
        console.print(f"  {against.mended:,} now right, {against.broken:,} now wrong")
    _show_moves(document, console)
    from relabel.evaluation.document import MAJOR_GROUPS

    for by, slices in document.slices.items():
        _heading(f"Agreement by {by.replace('_', ' ')} ({document.main_setting})", console)
        table = _table("part", "tasks", "agreement", "95 %", "kappa", "change of mean", "95 %")
        for value, part in slices.items():
            if part.n:
                table.add_row(
                    f"{value} {MAJOR_GROUPS[value]}" if value in MAJOR_GROUPS else value,
                    f"{part.n:,}",
                    _figure(part.agreement),
                    _bounds(part.agreement_ci95),
                    _figure(part.kappa),
                    _signed(part.difference),
                    _bounds(part.difference_ci95, signed=True),
                )
        console.print(table)


def _show_moves(document: CompareDocument, console: Console) -> None:
    measure = document.main_measure
    if measure is None or not document.occupations:
        return
    _heading(f"Occupations that move most, by mean {measure} ({len(document.occupations):,} in all)", console)
    table = _table("occupation", "tasks", "changed", "first", "second", "move")
    for move in document.occupations[:_TOP]:
        first, second = move.measures[measure]
        row = (f"{move.tasks:,}", f"{move.flips:,}", _figure(first), _figure(second), _signed(move.move))
        table.add_row(move.onet_soc_code, *row)
    console.print(table)
    _heading(f"Flips of most effect on an occupation's mean {measure} ({len(document.flips):,} in all)", console)
    table = _table("task", "occupation", "first", "second", "effect")
    for flip in document.flips[:_TOP]:
        said = [_labels(side) for side in (flip.first, flip.second)]
        table.add_row(flip.task_id, flip.onet_soc_code, *said, _signed(flip.effect))
    console.print(table)


def _show_several(document: PairwiseDocument, console: Console) -> None:
    console.print(f"{len(document.runs)} runs, {document.common:,} common tasks")
    _heading("Verdict", console)
    for sentence in document.verdict.splitlines():
        _indented(sentence, console)
    _heading("Runs", console)
    table = _table("run", *(f"mean {measure}" for measure in document.means), "not common")
    for place, run in enumerate(document.runs):
        means = (_figure(by_run[place]) for by_run in document.means.values())
        table.add_row(f"{place + 1} {run}", *means, f"{document.alone[place]:,}")
    console.print(table)
    for setting, found in document.settings.items():
        if not found.n:
            continue
        _heading(f"{setting}: {found.n:,} tasks with a label in all runs", console)
        table = _table("pair", "agreement", "95 %", "kappa", "95 %", "quadratic")
        for pair in found.pairs:
            table.add_row(
                f"{pair.first + 1} and {pair.second + 1}",
                _figure(pair.agreement),
                _bounds(pair.agreement_ci95),
                _figure(pair.kappa),
                _bounds(pair.kappa_ci95),
                _figure(pair.kappa_quadratic),
            )
        console.print(table)
        table = _table("run", *(f"share {x}" for x in found.majority.labels), "with others", *_gold_columns(document))
        for place, run in enumerate(found.runs):
            row = [*run.prevalence.values(), run.with_others]
            row += [run.gold_accuracy, run.gold_kappa] if document.gold else []
            table.add_row(str(place + 1), *(_figure(x) for x in row))
        console.print(table)
        said = f"  majority: {found.majority.tied:,} tasks without one, {_figure(found.majority.unanimous)} unanimous"
        if document.gold:
            said += f", accuracy {_figure(found.majority.gold_accuracy)} against {document.gold}"
        console.print(said)
    _heading(f"Tasks with most disagreement ({len(document.disputed):,} with several labels)", console)
    table = _table("task", "occupation", *(f"run {n + 1}" for n in range(len(document.runs))), "spread")
    for task in document.disputed[:_TOP]:
        labels = (label or "-" for label in task.labels)
        table.add_row(task.task_id, task.onet_soc_code, *labels, _figure(task.spread))
    console.print(table)


def _gold_columns(document: PairwiseDocument) -> tuple[str, ...]:
    return ("gold accuracy", "gold kappa") if document.gold else ()


def _indented(sentence: str, console: Console) -> None:
    for line in textwrap.wrap(sentence, console.width - 2, break_on_hyphens=False):
        console.print(f"  {line}")


def _heading(text: str, console: Console) -> None:
    from rich.text import Text

    console.print()
    console.print(Text(text, style="bold"))


def _table(first: str, *rest: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for name in rest:
        table.add_column(name, justify="right")
    return table


def _labels(said: Mapping[SettingName, str | None]) -> str:
    return said.get("three-way") or ", ".join(label or "-" for label in said.values())


def _figure(value: float | None) -> str:
    from relabel.evaluation.verdict import figure

    return figure(value)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _bounds(bounds: Interval, *, signed: bool = False) -> str:
    if bounds is None:
        return "-"
    return " to ".join(_signed(x) if signed else _figure(x) for x in bounds)
