"""`relabel eval`: how far a run agrees with a gold, and whether it passes a suite's gates."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import relabel
from relabel.cli._options import Commands, Draws, GoldBy, GoldRule, OutFile, Results, give_text, write
from relabel.cli.terminal import Table, doing, heading, quoted, say, say_next, show_verdict, workflow_command
from relabel.errors import GateError, UsageError
from relabel.evaluation import alignment, gates
from relabel.evaluation import compare as comparing
from relabel.evaluation import document as documents
from relabel.evaluation import gold as golds
from relabel.evaluation import paper as replication
from relabel.evaluation import report as reports
from relabel.evaluation import suite as suites
from relabel.tabular import Cell, change, counted

_UNMATCHED = {
    "not-in-gold": "in the run but not in the gold",
    "not-in-run": "in the gold but not in the run",
    "no-label-in-run": "without a label in the run",
    "no-label-in-gold": "without a label in the gold",
    "other-text": "left out: their id now belongs to another task",
}
_FIGURES = {
    "tasks": "n",
    "accuracy": "accuracy",
    "kappa": "kappa",
    "quadratic kappa": "kappa_quadratic",
    "Krippendorff, nominal": "krippendorff_nominal",
    "Krippendorff, ordinal": "krippendorff_ordinal",
    "AC1": "ac1",
    "macro F1": "macro_f1",
}
_MEASURES = {
    "tasks": "n",
    "equal values": "agreement",
    "Pearson's r": "pearson",
    "mean of the run": "mean",
    "mean of the gold": "gold_mean",
    "run minus gold": "difference",
}
_OCCUPATIONS = {
    "occupations: Pearson's r": "pearson",
    "occupations: Spearman's rho": "spearman",
    "occupations: mean difference": "mean_abs_difference",
}
_CALIBRATION = {
    "labels": "n",
    "mean probability": "probability",
    "accuracy": "accuracy",
    "Brier score": "brier",
    "calibration error": "ece",
}
# Ids of replaced tasks that are listed.
_LISTED = 10

app = Commands()


@app.command("eval")
def evaluate_run(
    results: Results,
    run: Annotated[str | None, typer.Argument()] = None,
    gold: str | None = None,
    gold_rule: GoldRule = "majority",
    gold_by: GoldBy = None,
    by_model: bool = False,
    draws: Draws = 2000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    no_intervals: bool = False,
    paper: bool = False,
    suite: str | None = None,
    junit: OutFile = None,
) -> None:
    """Evaluate a run's labels against reference labels.

    A gold of your own is a CSV file with the columns task_id, onet_soc_code (where ids repeat over occupations),
    and code or label (E0, E1, E2; T0 to T4 for automation) or strict and with_tools (exposed, not-exposed); the
    estimates use weight and stratum, if present. With a column annotator, a task may have several rows.
    With --suite, --markdown writes the suite's outcome instead of the tables, as a summary for a pull request.

    Args:
        run (RUN): A run folder, a name under runs/, or a published set such as eloundou-2023:gpt4.
        gold (G): Reference labels: eloundou-2023:gpt4 (the default), eloundou-2023:gpt4-alt, eloundou-2023:human,
            eloundou-2023:gpt4-automation, eloundou-2023:human-automation, sample (the default for a run on the
            sample), a run of your own, or a CSV file.
        by_model: Evaluate the labels of each model that answered, too.
        seed: Seed of the draws, and of the trained yardstick.
        no_intervals: Skip the intervals.
        paper: Replicate the figures of the 2023 paper (no RUN argument).
        suite (FILE): Judge the run by this suite of gates; exit 6 when one fails.
        junit (F): Write the suite's outcome as JUnit XML.
    """
    if paper:
        if run is not None or gold is not None or suite is not None:
            raise UsageError("--paper cannot be combined with RUN, --gold or --suite")
        with doing("replicating the paper's figures"):
            recomputed = replication.recompute()
        tables = list(_paper_tables(recomputed))
        if not results.give_all(recomputed, tables):
            _show_paper(recomputed, tables)
        return
    if run is None:
        raise UsageError("name a run: a run folder, a name under runs/, or a published set; or use --paper")
    if suite is None and junit is not None:
        raise UsageError("--junit reports on a suite; add --suite FILE")
    judged_by = None if suite is None else suites.load_suite(suite)
    with doing("reading labels and gold"):
        opened = relabel.open_run(run)
        if gold is None and judged_by is not None and judged_by.gold is not None:
            gold = judged_by.resolve(judged_by.gold)
        truth = relabel.load_gold(gold or golds.default_gold(opened), gold_rule, gold_by)
    with doing("evaluating: agreement, intervals, yardsticks"):
        document = relabel.evaluate(opened, truth, draws=0 if no_intervals else draws, seed=seed, by_model=by_model)
    outcome: suites.SuiteResult | None = None
    baseline: relabel.Run | None = None
    details = alignment.task_details(opened) if suite or results.html or results.figures else None
    if judged_by is not None:
        with doing(f"judging by the suite {judged_by.name}"):
            if judged_by.baseline is not None:
                baseline = relabel.open_run(judged_by.resolve(judged_by.baseline.run))
            outcome = gates.judge(judged_by, opened, truth, baseline, details)
        document = _with_suite_warnings(document, outcome.warnings)

    def page() -> tuple[str, reports.Charts]:
        change = None if baseline is None else comparing.compare(baseline, opened, details=details)
        shown = list(eval_tables(document, page=True))
        return reports.eval_page(document, shown, opened, truth, suite=outcome, comparison=change, details=details)

    results.draw(page)
    printed = False
    if outcome is not None:
        printed = _write_outcome(outcome, document.verdict, junit, results.markdown)
        results = replace(results, markdown=None)
    tables = list(eval_tables(document))
    suite_too = {} if outcome is None else {"suite": outcome.model_dump(mode="json")}
    if not results.give_all(document.model_dump(mode="json") | suite_too, tables) and not printed:
        _show(document, tables, outcome)
        report = f"relabel eval {quoted(run)} --gold {quoted(gold or document.gold)} --html report.html"
        after = f"relabel {'view' if opened.manifest.parameters.get('sample') else 'score'} {quoted(run)}"
        if document.gold not in (run, "sample"):
            say_next(after if results.html else report)
    if outcome is not None and not outcome.passed:
        raise GateError(suites.gate_error(outcome.failures))


def _with_suite_warnings(document: relabel.EvalDocument, sentences: Sequence[str]) -> relabel.EvalDocument:
    """The document with the suite's warnings first, for example about a rubric that differs from the baseline's."""
    new = [sentence for sentence in sentences if sentence not in document.warnings]
    update = {"warnings": (*new, *document.warnings), "verdict": "\n".join([*new, document.verdict])}
    return document.model_copy(update=update)


def _write_outcome(result: suites.SuiteResult, verdict: str, junit: Path | None, markdown: Path | None) -> bool:
    """Write a suite's result for CI; returns whether it was printed, so that nothing else is."""
    if junit is not None:
        write(junit, suites.junit_xml(result), "--junit")
    printed = markdown is not None and give_text(suites.markdown(result, verdict), markdown, "--markdown")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in suites.github_annotations(result):
            workflow_command(line)
    return printed


def _show(document: relabel.EvalDocument, tables: list[Table], outcome: suites.SuiteResult | None) -> None:
    chosen = ", on tasks chosen because they were doubtful" if document.selected else ""
    say(f"{document.run} against the gold {document.gold}{chosen}", hang=0)
    typer.echo(f"{counted(document.matched, 'task')} matched")
    if document.gold_by == "unknown" and document.gold != "sample":
        say(golds.UNKNOWN_MAKER.format(name=document.gold), hang=0)
    for reason, count in document.unmatched.items():
        if count:
            typer.echo(f"{count:,} {_UNMATCHED[reason]}")
    if document.texts_replaced:
        listed = ", ".join(row.task_id for row in document.texts_replaced[:_LISTED])
        more = " and others" if len(document.texts_replaced) > _LISTED else ""
        explanation = "their statements share too few words to be the same task"
        say(f"{explanation}: {listed}{more}; all are in --json", indent=2, hang=0)
    if document.text_changed:
        typer.echo(f"{document.text_changed:,} of the matched tasks have different texts in the run and the gold")
    show_verdict(document.verdict, tables)
    if outcome is None:
        return
    signs = {(True, True): "ok", (False, True): "FAILED", (False, False): "?"}
    rows = [(signs[g.passed, g.judged], g.label, g.message) for g in outcome.results]
    notes = [outcome.family, *([outcome.size] if outcome.size is not None else [])]
    Table(f"Gates of the suite {outcome.suite}", ("", "gate", "outcome"), rows, left=3, notes=notes).show()


def _figure_table(title: str, figures: Mapping[str, str], columns: Mapping[Any, Any], **more: Any) -> Table:
    """A table with one row per figure; each column is followed by its interval, if there are intervals."""
    bounded = any(metrics.ci95 for metrics in columns.values())
    heads = [head for column in columns for head in ((column, "95%") if bounded else (column,))]
    rows: list[list[Cell]] = []
    for words, key in figures.items():
        pairs = [(getattr(metrics, key), metrics.ci95.get(key)) for metrics in columns.values()]
        if key == "difference":
            pairs = [change(*pair) for pair in pairs]
        rows.append([words, *(cell for pair in pairs for cell in (pair if bounded else pair[:1]))])
    return Table(title, ("figure", *heads), rows, **more)


def eval_tables(document: relabel.EvalDocument, *, page: bool = False) -> Iterator[Table]:
    """All figures of a document, for a terminal or, with more of them, for a page."""
    gold_text = f"with the gold {document.gold}"
    settings, majority, method = document.settings, document.yardsticks.majority, document.intervals
    counts = {figures.n for figures in (*settings.values(), *document.measures.values())}
    occupations_text = "at most " * (len(counts) > 1) + counted(
        document.occupations.n, "occupation"
    )  # labels are missing
    notes = ["-: undefined. majority label: always giving the gold's most frequent label. kappa: Cohen's. AC1: Gwet's."]
    if method is not None:
        notes.append(f"95%: {method.draws:,} bootstrap draws of {occupations_text}, seed {method.seed}.")
        notes += [f"Few occupations: {method.note}."] if method.note else []
        notes += ["They describe doubtful tasks only, not the run as a whole."] if document.selected else []
    table = _figure_table(f"Agreement {gold_text}, by setting", _FIGURES, settings, notes=notes, key="agreement")
    step = 2 if "95%" in table.columns else 1
    always = [x for name in settings for x in (majority[name].accuracy, None)[:step]]
    rows = [*table.rows[:2], ["majority label", *always], *table.rows[2:]]
    yield replace(table, rows=rows)
    for name, entry in settings.items():
        columns = ("gold", *(f"run {label}" for label in entry.confusion), "precision", "recall", "F1", *["95%"] * page)
        labels = [
            [
                *(label, *row.values(), *(getattr(entry.labels[label], key) for key in ("precision", "recall", "f1"))),
                *[entry.ci95.get(f"f1:{label}")] * page,
            ]
            for label, row in entry.confusion.items()
        ]
        yield Table(f"Tasks by label, {name}", columns, labels, key=f"confusion-{name}")
    for number, (model, by_setting) in enumerate((document.by_model or {}).items(), 1):
        yield _figure_table(
            f"Labels by {model} ({document.models[model]:,})", _FIGURES, by_setting, key=f"model-{number}"
        )
    yield from _yardstick_tables(document, page=page)
    if document.measures:
        occupations = {measure: getattr(document.occupations, measure) for measure in document.measures}
        note = f"Means of {occupations_text}; tasks and occupations weigh the same."
        title = f"Values of tasks (0-1) {gold_text}, by measure"
        table = _figure_table(title, _MEASURES, document.measures, notes=[note], key="measures")
        yield replace(table, rows=[*table.rows, *_figure_table("", _OCCUPATIONS, occupations).rows])
    yield from _slice_tables(document)
    if (debiased := document.debiased) is not None:
        estimates = {m: groups[0] for m, groups in debiased.measures.items() if groups and groups[0].ppi is not None}
        parts = {"gold tasks": "n_gold", "run tasks": "n_run", "run": "naive", "gold alone": "gold", "PPI++": "ppi"}
        if estimates:
            title = "Mean exposure of all tasks of the run (0-1)"
            yield _figure_table(title, parts, estimates, notes=[debiased.note], key="debiased")
    if document.calibration is not None:
        title = "Calibration of the probabilities, by setting"
        yield _figure_table(title, _CALIBRATION, document.calibration, key="calibration")


def _yardstick_tables(document: relabel.EvalDocument, *, page: bool) -> Iterator[Table]:
    """What the run is compared with besides the gold; on a page by accuracy, too, and with the majority's label."""
    yardsticks, bounded = document.yardsticks, document.intervals is not None
    others = {
        "word count": yardsticks.text_classifier,
        "people and GPT-4, 2023": yardsticks.raters,
        "annotators": yardsticks.annotators,
    }

    def difference_cells(metrics: Any, name: str) -> Sequence[Cell]:
        return change(getattr(metrics, name, None), metrics.ci95.get(name))[: 2 if bounded else 1]

    rows: list[list[Cell]] = []
    for setting, metrics in yardsticks.majority.items() if page else ():
        about = (f"always {metrics.label}", setting, document.settings[setting].n, metrics.accuracy, metrics.kappa)
        rows.append([*about, *difference_cells(metrics, "difference"), *[None] * (1 + bounded)])
    for name, group in others.items():
        for setting, metrics in (group.settings if group is not None else {}).items():
            apart = difference_cells(metrics, "accuracy_difference") if page else ()
            about = (name, setting, metrics.n, metrics.accuracy, metrics.kappa)
            rows.append([*about, *apart, *difference_cells(metrics, "kappa_difference")])
    ends = ["95%"] * bounded
    by_accuracy = ["run minus this, accuracy", *ends] if page else []
    columns = ["yardstick", "setting", "tasks", "accuracy", "kappa", *by_accuracy, "run minus this, kappa", *ends]
    notes = ["annotators: two of a task; the run is compared with one of them."] if yardsticks.annotators else []
    if rows:
        yield Table("Yardsticks", columns, rows, left=2, notes=notes, key="yardsticks")


def _slice_tables(document: relabel.EvalDocument) -> Iterator[Table]:
    """Agreement by slices of the tasks, in the most informative setting."""
    setting: documents.SettingName = next(s for s in alignment.MAIN if s in document.settings)
    columns = ("part", "tasks", "occupations", "accuracy", "95%", "kappa", "95%")
    for dimension, parts in document.slices.items():
        rows = [
            [
                *(f"{part.value} {part.title}" if part.value.isdigit() else part.title, metrics.n),
                part.occupations if metrics.n == part.n else None,
                *(metrics.accuracy, metrics.ci95.get("accuracy"), metrics.kappa, metrics.ci95.get("kappa")),
            ]
            for part in parts
            if (metrics := part.settings.get(setting)) is not None
        ]
        part = dimension.replace("-", " ").replace("major", "SOC major")
        yield Table(f"Agreement in {setting}, by {part}", columns, rows, key=f"slices-{dimension}")


def _show_paper(document: replication.PaperDocument, tables: list[Table]) -> None:
    """The paper's figures and ours."""
    heading("The figures of the 2023 paper, replicated from its published labels")
    counts = f"{document.reproduced} reproduced, {document.not_reproduced} not, {document.not_compared} recomputed only"
    say(f"{counts}: the printed figure was not available", hang=0)
    note = "Printed figures are taken from public transcripts of the paper; weights and full rules are in --json."
    say(note, indent=2, hang=0)
    for table in tables:
        table.show()


def _paper_tables(document: replication.PaperDocument) -> Iterator[Table]:
    by_table: dict[str, list[replication.PaperFigure]] = {}
    for cell in document.cells:
        by_table.setdefault(cell.table, []).append(cell)
    for name, cells in by_table.items():
        title = f"Table {name}" if name.isdigit() else "Not printed" if name == "-" else name.capitalize()
        rows = [[c.figure, _number(c.printed, c), _number(c.ours, c), c.rule, _REPRODUCED[c.reproduced]] for c in cells]
        notes = [f"{c.figure}: {c.reason}." for c in cells if c.reproduced is False]
        yield Table(title, ("figure", "printed", "ours", "rule", "reproduced"), rows, notes=notes)


_REPRODUCED = {True: "yes", False: "no", None: "-"}


def _number(value: float | None, cell: replication.PaperFigure) -> str:
    digits = {"percent": 1, "share": 2, "correlation": 3, "count": 0}[cell.unit]
    return "-" if value is None else f"{value:.{digits}f}"
