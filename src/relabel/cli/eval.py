"""`relabel eval`: how far a run agrees with a gold, and whether it passes a suite's gates."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relabel.cli._options import RUN_HELP, AsJson, GoldRule, Html, OutJson, give_json, require_file, write
from relabel.cli._render import bounds, figure, heading, say, table
from relabel.errors import GateError, UsageError

if TYPE_CHECKING:
    from relabel.evaluation.document import EvalDocument, SettingMetrics, SettingName, SliceFigures, Yardstick
    from relabel.evaluation.gates import SuiteResult
    from relabel.evaluation.gold import Gold
    from relabel.evaluation.paper import PaperDocument, PaperFigure
    from relabel.evaluation.suite import Suite
    from relabel.run import Run

_UNMATCHED = {
    "not-in-gold": "in the run but not in the gold",
    "not-in-run": "in the gold but not in the run",
    "no-label-in-run": "without a label in the run",
    "no-label-in-gold": "without a label in the gold",
    "other-text": "left out, as their id is now another task's",
}
_FIGURES = {
    "accuracy": "accuracy",
    "kappa": "kappa",
    "kappa_quadratic": "quad.",
    "krippendorff_nominal": "K nom.",
    "krippendorff_ordinal": "K ord.",
    "ac1": "AC1",
    "macro_f1": "F1",
}
_SLICES = {
    "major-group": "SOC major group",
    "task-type": "task type",
    "importance": "importance",
    "text-length": "text length",
}
_LISTED = 10
_SHORT = 46


def register(app: typer.Typer) -> None:
    """Add the command `eval`."""

    @app.command("eval")
    def evaluate_run(
        run: Annotated[str | None, typer.Argument(metavar="RUN", help=RUN_HELP)] = None,
        gold: Annotated[
            str | None,
            typer.Option(
                metavar="G",
                help="Reference labels: eloundou-2023:gpt4 (the default), eloundou-2023:gpt4-alt, eloundou-2023:human, "
                "eloundou-2023:gpt4-automation, eloundou-2023:human-automation, sample (the default for a run on the "
                "sample), a run of your own, or a CSV file.",
            ),
        ] = None,
        gold_rule: GoldRule = "majority",
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
        from relabel.evaluation.evaluate import evaluate
        from relabel.evaluation.gold import default_gold, load_gold
        from relabel.evaluation.suite import beside, load_suite
        from relabel.run import open_run

        require_file(out, "--out", make_folder=True)
        if paper:
            if run is not None or gold is not None or suite is not None:
                raise UsageError("--paper stands alone: it takes no RUN, --gold or --suite")
            from relabel.evaluation.paper import recompute

            recomputed = recompute()
            if not give_json(recomputed, out=out, as_json=as_json):
                _show_paper(recomputed)
            return
        if run is None:
            raise UsageError("say which run: a run folder, a name under runs/, or a published set; or give --paper")
        for option, path in (("--junit", junit), ("--markdown", markdown), ("--html", html)):
            if suite is None and path is not None and option != "--html":
                raise UsageError(f"{option} writes the outcome of a suite; name one with --suite")
            require_file(path, option)
        judged_by = None if suite is None else load_suite(suite)
        opened = open_run(run)
        if gold is None and judged_by is not None and judged_by.gold is not None:
            gold = beside(judged_by, judged_by.gold)
        truth = load_gold(gold or default_gold(opened), gold_rule)
        document = evaluate(opened, truth, draws=0 if no_intervals else draws, seed=seed, by_model=by_model)
        outcome = _judge(judged_by, opened, truth, document, junit, markdown, html)
        if outcome is not None and (
            annotations or (annotations is None and os.environ.get("GITHUB_ACTIONS") == "true")
        ):
            from relabel.cli.terminal import workflow_command
            from relabel.evaluation.gates import github_annotations

            for line in github_annotations(outcome):
                workflow_command(line)
        if not give_json(document, out=out, as_json=as_json):
            _show(document)
            if outcome is not None:
                _show_gates(outcome)
        if outcome is not None and not outcome.passed:
            from relabel.evaluation.gates import gate_error

            raise GateError(gate_error(outcome.failures))


def _judge(
    suite: Suite | None,
    run: Run,
    gold: Gold,
    document: EvalDocument,
    junit: Path | None,
    markdown: Path | None,
    html: Path | None,
) -> SuiteResult | None:
    """Judge the run by the suite, if any, and write the files that were asked for."""
    from relabel.evaluation.alignment import task_details

    result: SuiteResult | None = None
    baseline: Run | None = None
    details = task_details(run) if suite is not None or html is not None else None
    if suite is not None:
        from relabel.evaluation import gates
        from relabel.evaluation.suite import beside
        from relabel.run import open_run

        baseline = None if suite.baseline is None else open_run(beside(suite, suite.baseline.run))
        result = gates.judge(suite, run, gold, baseline, details)
        if junit is not None:
            write(junit, gates.junit_xml(result), "--junit")
        if markdown is not None:
            write(markdown, gates.markdown(result, document.verdict), "--markdown")
    if html is not None:
        from relabel.evaluation.compare import compare
        from relabel.evaluation.report import eval_page

        change = None if baseline is None else compare(baseline, run, details=details)
        write(html, eval_page(document, run, gold, suite=result, comparison=change, details=details), "--html")
    for path in (junit, markdown, html):
        if path is not None:
            typer.echo(f"written: {path}", err=True)
    return result


def _show_gates(result: SuiteResult) -> None:
    heading(f"Gates of the suite {result.suite}")
    for sentence in result.warnings:
        say(sentence, hang=0)
    signs = {(True, True): "ok", (False, True): "FAILED"}
    rows = ((signs.get((g.passed, g.judged), "ok" if g.passed else "?"), g.label, g.message) for g in result.results)
    table(("", "gate", "outcome"), rows, left=3)
    say(result.family, hang=0)
    if result.size is not None:
        say(result.size, hang=0)


def _note(sentence: str) -> None:
    say(sentence, indent=2, hang=0)


def _show(document: EvalDocument) -> None:
    chosen = ", on tasks chosen for their doubt" if document.selected else ""
    say(f"{document.run} against the gold {document.gold}{chosen}", hang=0)
    typer.echo(f"{document.matched:,} tasks matched")
    for reason, count in document.unmatched.items():
        if count:
            typer.echo(f"{count:,} {_UNMATCHED[reason]}")
    if document.texts_replaced:
        listed = ", ".join(row.task_id for row in document.texts_replaced[:_LISTED])
        more = " and others" if len(document.texts_replaced) > _LISTED else ""
        _note(f"their statements share too few words to be the same task: {listed}{more}; all are in --json")
    if document.text_changed:
        typer.echo(f"{document.text_changed:,} of the matched tasks have another text in the gold than in the run")
    for setting, count in document.unanswered.items():
        if count:
            typer.echo(f"{count:,} of {document.asked:,} asked tasks have no {setting} label in the run")
    heading("Verdict")
    for sentence in document.verdict.splitlines():
        _note(sentence)
    _show_settings(document)
    _show_yardsticks(document)
    _show_measures(document)
    _show_slices(document)
    _show_estimates(document)
    coherence = document.coherence
    said = f"{coherence.incoherent:,} of {coherence.of:,}" if coherence.of else "none, its tasks have one answer each"
    typer.echo(f"\nIncoherent pairs of answers in the run: {said}")


def _show_settings(document: EvalDocument) -> None:
    majority = document.yardsticks.majority
    heading("Agreement")
    table(
        ("setting", "n", "accuracy", "majority", "kappa", "quad.", "K nom.", "K ord.", "AC1", "F1"),
        (
            (
                name,
                f"{of.n:,}",
                figure(of.accuracy),
                figure(majority[name].accuracy if name in majority else None),
                *(figure(getattr(of, key)) for key in list(_FIGURES)[1:]),
            )
            for name, of in document.settings.items()
        ),
    )
    _note(
        "majority: accuracy of always answering the gold's most frequent label. kappa: Cohen's, plain and with "
        "quadratic weights. K: Krippendorff's alpha, nominal and ordinal. F1: macro. -: undefined."
    )
    for name, found in document.settings.items():
        typer.echo()
        table(
            (f"{name}: gold", *(f"run {label}" for label in found.confusion), "precision", "recall", "F1"),
            (
                (label, *(f"{n:,}" for n in row.values()), *(figure(x) for x in (of.precision, of.recall, of.f1)))
                for label, row in found.confusion.items()
                for of in (found.labels[label],)
            ),
        )
    method = document.intervals
    if method is not None:
        typer.echo()
        table(
            ("95 % interval", *_FIGURES.values()),
            ((n, *(bounds(of.ci95.get(key)) for key in _FIGURES)) for n, of in document.settings.items()),
        )
        _note(f"{method.draws:,} bootstrap draws of {method.units:,} occupations, seed {method.seed}.")
        if method.note is not None:
            _note(f"Few occupations: {method.note}.")
        if document.selected:
            _note("They are of tasks chosen for their doubt, not of the run as a whole.")
    if document.by_model:
        heading("By model that answered")
        table(
            ("model", "labels", "setting", "n", "accuracy", "95 %", "kappa", "95 %"),
            (
                (model, f"{document.models[model]:,}", setting, f"{of.n:,}", *_accuracy_and_kappa(of))
                for model, settings in document.by_model.items()
                for setting, of in settings.items()
            ),
        )


def _accuracy_and_kappa(of: SettingMetrics | SliceFigures) -> tuple[str, str, str, str]:
    return (
        figure(of.accuracy),
        bounds(of.ci95.get("accuracy")),
        figure(of.kappa),
        bounds(of.ci95.get("kappa")),
    )


def _show_yardsticks(document: EvalDocument) -> None:
    """What the run is compared with besides the gold."""
    found = document.yardsticks
    groups = (
        ("word count", found.text_classifier),
        ("human and GPT-4", found.raters),
        ("annotators", found.annotators),
    )
    rows: list[tuple[str, str, Yardstick]] = [
        (name, str(s), y) for name, group in groups if group is not None for s, y in group.settings.items()
    ]
    if not rows:
        return
    heading("Yardsticks")
    table(
        ("yardstick", "setting", "n", "accuracy", "kappa", "run less this: accuracy", "kappa", "95 %"),
        (
            (
                name,
                setting,
                f"{of.n:,}",
                *(figure(x) for x in (of.accuracy, of.kappa, of.accuracy_difference, of.kappa_difference)),
                bounds(of.ci95.get("kappa_difference")),
            )
            for name, setting, of in rows
        ),
    )


def _show_measures(document: EvalDocument) -> None:
    if not document.measures:
        return
    heading("Measures")
    table(
        ("measure", "agreement", "Pearson", "run mean", "gold mean", "occ. r", "occ. rho", "occ. |diff|"),
        (
            (
                measure,
                *(figure(x) for x in (of.agreement, of.pearson, of.mean, of.gold_mean)),
                *(figure(x) for x in (occ.pearson, occ.spearman, occ.mean_abs_difference)),
            )
            for measure, of in document.measures.items()
            for occ in (getattr(document.occupations, measure),)
        ),
    )
    _note(
        f"occ.: means of {document.occupations.n:,} occupations, all tasks and all occupations weighing the same: "
        "Pearson's r, Spearman's rho, mean absolute difference."
    )


def _show_slices(document: EvalDocument) -> None:
    """Agreement by parts of the tasks, in the setting that says most."""
    order: tuple[SettingName, ...] = ("three-way", "automation", "strict", "with-tools")
    setting: SettingName | None = next((s for s in order if s in document.settings), None)
    if setting is None or not document.slices:
        return
    heading(f"By slice, {setting}")
    for by, parts in document.slices.items():
        table(
            (_SLICES[by], "n", "occ.", "accuracy", "95 %", "kappa", "95 %"),
            (
                (
                    f"{part.value} {part.title}" if part.value.isdigit() else part.title,
                    f"{of.n:,}",
                    f"{part.occupations:,}",
                    *_accuracy_and_kappa(of),
                )
                for part in parts
                for of in (part.settings.get(setting),)
                if of is not None
            ),
        )
        typer.echo()


def _show_estimates(document: EvalDocument) -> None:
    """Mean exposure corrected for the run's errors, and how far the run's probabilities can be trusted."""
    debiased = document.debiased
    rows = (
        []
        if debiased is None
        else [(m, groups[0]) for m, groups in debiased.measures.items() if groups and groups[0].ppi is not None]
    )
    if rows and debiased is not None:
        typer.echo(typer.style("Mean exposure of all tasks of the run", bold=True))
        table(
            ("measure", "gold n", "run n", "naive", "gold alone", "95 %", "PPI++", "95 %"),
            (
                (
                    measure,
                    f"{of.n_gold:,}",
                    f"{of.n_run:,}",
                    figure(of.naive),
                    figure(of.gold),
                    bounds(of.ci95.get("gold")),
                    figure(of.ppi),
                    bounds(of.ci95.get("ppi")),
                )
                for measure, of in rows
            ),
        )
        _note(debiased.note)
    if document.calibration is not None:
        heading("Calibration of the probabilities")
        table(
            ("setting", "n", "probability", "accuracy", "Brier", "95 %", "ECE", "95 %"),
            (
                (
                    name,
                    f"{of.n:,}",
                    *(figure(x) for x in (of.probability, of.accuracy, of.brier)),
                    bounds(of.ci95.get("brier")),
                    figure(of.ece),
                    bounds(of.ci95.get("ece")),
                )
                for name, of in document.calibration.items()
            ),
        )


def _show_paper(document: PaperDocument) -> None:
    """The paper's figures beside ours."""
    typer.echo(typer.style("The figures of the 2023 paper, replicated from its published labels", bold=True))
    say(
        f"{document.reproduced} reproduced, {document.not_reproduced} not, {document.not_compared} recomputed only: their "
        "print was not seen",
        hang=0,
    )
    _note("Printed figures are those of public transcripts of the paper; weights are stated in the document.")
    by_table: dict[str, list[PaperFigure]] = {}
    for cell in document.cells:
        by_table.setdefault(cell.table, []).append(cell)
    reproduced = {True: "yes", False: "no", None: "-"}
    for name, cells in by_table.items():
        typer.echo()
        table(
            (
                f"table {name}" if name.isdigit() else "not printed" if name == "-" else name,
                *("printed", "ours", "rule", "reproduced"),
            ),
            (
                (
                    textwrap.shorten(cell.figure, _SHORT, placeholder=" …"),
                    _number(cell.printed, cell),
                    _number(cell.ours, cell),
                    textwrap.shorten(cell.rule, 28, placeholder=" …"),
                    reproduced[cell.reproduced],
                )
                for cell in cells
            ),
        )
        for cell in cells:
            if cell.reproduced is False:
                _note(f"{cell.figure}: {cell.reason}.")
    typer.echo()
    _note("Weights, tolerances and full rules are in the document: --json.")


def _number(value: float | None, cell: PaperFigure) -> str:
    if value is None:
        return "-"
    digits = {"percent": 1, "share": 2, "correlation": 3, "count": 0}[cell.unit]
    return f"{value:.{digits}f}"
