"""`relabel eval`: how far a run agrees with a gold."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relabel.cli._options import AsJson, Html, OutJson, give_json, require_file
from relabel.cli.outcome import GoldRuleOption
from relabel.cli.terminal import make_console
from relabel.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from relabel.evaluation.document import EvalDocument

_UNMATCHED = {
    "not-in-gold": "in the run but not in the gold",
    "not-in-run": "in the gold but not in the run",
    "no-label-in-run": "without a label in the run",
    "no-label-in-gold": "without a label in the gold",
    "other-text": "left out, as their id is now another task's",
}
_LISTED = 10


def register(app: typer.Typer) -> None:
    """Add the command `eval`."""

    @app.command("eval")
    def evaluate_run(
        run: Annotated[
            str | None,
            typer.Argument(
                metavar="RUN", help="A run folder, a name under runs/, or a published set such as eloundou-2023:gpt4."
            ),
        ] = None,
        gold: Annotated[
            str | None,
            typer.Option(
                metavar="G",
                help="Reference labels: eloundou-2023:gpt4 (the default), eloundou-2023:gpt4-alt, eloundou-2023:human, "
                "eloundou-2023:gpt4-automation, eloundou-2023:human-automation, sample (the default for a run on the "
                "sample), a run of your own, or a CSV file.",
            ),
        ] = None,
        gold_rule: Annotated[
            GoldRuleOption,
            typer.Option(
                "--gold-rule",
                help="What several annotators' labels of a task become: their majority, or all of them, each with its "
                "share as weight.",
            ),
        ] = GoldRuleOption.MAJORITY,
        by_model: Annotated[
            bool, typer.Option("--by-model", help="Evaluate the labels of each model that answered, too.")
        ] = False,
        as_json: AsJson = False,
        out: OutJson = None,
        draws: Annotated[int, typer.Option(min=200, max=100_000, help="Bootstrap draws behind the intervals.")] = 2000,
        seed: Annotated[int, typer.Option(min=0, help="Seed of the draws, and of the trained yardstick.")] = 0,
        no_intervals: Annotated[bool, typer.Option("--no-intervals", help="Leave the intervals out.")] = False,
        paper: Annotated[
            bool, typer.Option("--paper", help="Replicate the figures of the 2023 paper (no RUN argument).")
        ] = False,
        suite: Annotated[
            str | None,
            typer.Option(metavar="FILE", help="Judge the run by this suite of gates; exit 6 when one fails."),
        ] = None,
        junit: Annotated[Path | None, typer.Option(metavar="F", help="Write the suite's outcome as JUnit XML.")] = None,
        markdown: Annotated[
            Path | None, typer.Option(metavar="F", help="Write the suite's outcome as a summary for a pull request.")
        ] = None,
        html: Html = None,
        annotations: Annotated[
            bool | None,
            typer.Option(
                "--annotations/--no-annotations",
                help="Print failed gates as GitHub annotations; by default where GITHUB_ACTIONS is true.",
            ),
        ] = None,
    ) -> None:
        """Evaluate a run's labels against reference labels.

        A gold of your own is a CSV file with the columns task_id, onet_soc_code (where ids repeat over occupations),
        and code or label (E0, E1, E2; T0 to T4 for automation) or strict and with_tools (exposed, not-exposed); weight
        and stratum, if there are any, count in the estimates. With a column annotator, a task may have several rows.
        """
        from relabel.cli.outcome import Wanted, fail_if_any, gold_of, settle, show_gates
        from relabel.evaluation.evaluate import evaluate
        from relabel.run import open_run

        console = make_console()
        require_file(out, "--out", make_folder=True)
        if paper:
            if run is not None or gold is not None or suite is not None:
                raise UsageError("--paper stands alone: it takes no RUN, --gold or --suite")
            _paper(out, console, as_json=as_json)
            return
        if run is None:
            raise UsageError("say which run: a run folder, a name under runs/, or a published set; or give --paper")
        wanted = Wanted(suite, junit, markdown, html, annotations)
        gates = wanted.load()
        opened = open_run(run)
        truth = gold_of(gates, gold, gold_rule, opened)
        document = evaluate(opened, truth, draws=0 if no_intervals else draws, seed=seed, by_model=by_model)
        outcome = settle(wanted, gates, opened, truth, document)
        if not give_json(document, out=out, as_json=as_json):
            _show(document, console)
            if outcome is not None:
                show_gates(outcome, console)
        fail_if_any(outcome)


def _paper(out: Path | None, console: Console, *, as_json: bool) -> None:
    from relabel.cli.eval_display import show_paper
    from relabel.evaluation.paper import recompute

    document = recompute()
    if not give_json(document, out=out, as_json=as_json):
        show_paper(document, console)


def _show(document: EvalDocument, console: Console) -> None:
    from rich.text import Text

    from relabel.cli.eval_display import (
        show_calibration,
        show_estimates,
        show_intervals,
        show_models,
        show_slices,
        show_yardsticks,
    )

    chosen = ", on tasks chosen for their doubt" if document.selected else ""
    console.print(Text.assemble((document.run, "bold"), " against the gold ", (document.gold, "bold"), chosen))
    console.print(f"{document.matched:,} tasks matched")
    for reason, count in document.unmatched.items():
        if count:
            console.print(f"{count:,} {_UNMATCHED[reason]}")
    if document.texts_replaced:
        listed = ", ".join(row.task_id for row in document.texts_replaced[:_LISTED])
        more = " and others" if len(document.texts_replaced) > _LISTED else ""
        console.print(f"  their statements share too few words to be the same task: {listed}{more}; all are in --json")
    if document.text_changed:
        console.print(f"{document.text_changed:,} of the matched tasks have another text in the gold than in the run")
    for setting, count in document.unanswered.items():
        if count:
            console.print(f"{count:,} of {document.asked:,} asked tasks have no {setting} label in the run")
    console.print()
    console.print(Text("Verdict", style="bold"))
    for sentence in document.verdict.splitlines():
        _print_indented(sentence, console)
    _show_settings(document, console)
    show_intervals(document, console)
    show_models(document, console)
    show_yardsticks(document, console)
    _show_measures(document, console)
    show_slices(document, console)
    show_estimates(document, console)
    show_calibration(document, console)
    coherence = document.coherence
    console.print()
    if coherence.of:
        console.print(f"Incoherent pairs of answers in the run: {coherence.incoherent:,} of {coherence.of:,}")
    else:
        console.print("Incoherent pairs of answers in the run: none, its tasks have one answer each")


def _show_settings(document: EvalDocument, console: Console) -> None:
    from rich.text import Text

    from relabel.cli.eval_display import table_of
    from relabel.evaluation.verdict import figure

    summary = table_of("setting", "n", "accuracy", "majority", "kappa", "quad.", "K nom.", "K ord.", "AC1", "F1")
    for name, found in document.settings.items():
        majority = document.yardsticks.majority.get(name)
        figures = (
            found.accuracy,
            majority.accuracy if majority else None,
            found.kappa,
            found.kappa_quadratic,
            found.krippendorff_nominal,
            found.krippendorff_ordinal,
            found.ac1,
            found.macro_f1,
        )
        summary.add_row(name, f"{found.n:,}", *(figure(x) for x in figures))
    console.print()
    console.print(Text("Agreement", style="bold"))
    console.print(summary)
    _print_indented(
        "majority: accuracy of always answering the gold's most frequent label. kappa: Cohen's, plain and with "
        "quadratic weights. K: Krippendorff's alpha, nominal and ordinal. F1: macro. -: undefined.",
        console,
    )
    for name, found in document.settings.items():
        table = table_of(f"{name}: gold", *(f"run {label}" for label in found.confusion), "precision", "recall", "F1")
        for label, row in found.confusion.items():
            of = found.labels[label]
            shown = (figure(x) for x in (of.precision, of.recall, of.f1))
            table.add_row(label, *(f"{count:,}" for count in row.values()), *shown)
        console.print()
        console.print(table)


def _show_measures(document: EvalDocument, console: Console) -> None:
    from rich.text import Text

    from relabel.cli.eval_display import table_of
    from relabel.evaluation.verdict import figure

    if not document.measures:
        return
    table = table_of("measure", "agreement", "Pearson", "run mean", "gold mean", "occ. r", "occ. rho", "occ. |diff|")
    for measure, found in document.measures.items():
        occupation = getattr(document.occupations, measure)
        figures = (found.agreement, found.pearson, found.mean, found.gold_mean)
        of = (occupation.pearson, occupation.spearman, occupation.mean_abs_difference)
        table.add_row(measure, *(figure(x) for x in (*figures, *of)))
    console.print()
    console.print(Text("Measures", style="bold"))
    console.print(table)
    _print_indented(
        f"occ.: means of {document.occupations.n:,} occupations, all tasks and all occupations weighing the same: "
        "Pearson's r, Spearman's rho, mean absolute difference.",
        console,
    )


def _print_indented(sentence: str, console: Console) -> None:
    from rich.text import Text

    # rich's own padding would fill each line with blanks to the full width.
    for line in textwrap.wrap(sentence, console.width - 2, break_on_hyphens=False):
        console.print(Text(f"  {line}"))
