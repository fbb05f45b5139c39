"""What `relabel eval` makes of a suite: gates shown, files written, and the error that CI waits for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from relabel.cli._options import require_file, write
from relabel.cli.terminal import workflow_command
from relabel.errors import GateError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from relabel.evaluation.document import EvalDocument
    from relabel.evaluation.gates import SuiteResult
    from relabel.evaluation.gold import Gold
    from relabel.evaluation.suite import Suite
    from relabel.run import Run


@dataclass(frozen=True)
class Wanted:
    """What the command was asked for beside the evaluation itself.

    Attributes:
        suite: A suite's file or name.
        junit: Where JUnit XML goes.
        markdown: Where the Markdown summary goes.
        html: Where the report goes.
        annotate: Whether to print GitHub's annotations; None does where GITHUB_ACTIONS says so.
    """

    suite: str | None = None
    junit: Path | None = None
    markdown: Path | None = None
    html: Path | None = None
    annotate: bool | None = None

    def load(self) -> Suite | None:
        """The suite, if one was asked for; the files that were asked for are looked at first.

        Raises:
            UsageError: An option has no meaning without a suite, or names a folder.
            DataError: The suite is missing or breaks a rule, or a file cannot be written.
        """
        from relabel.evaluation.suite import load_suite

        of_suite = (("--junit", self.junit), ("--markdown", self.markdown))
        for option, path in (*of_suite, ("--html", self.html)):
            if self.suite is None and path is not None and option != "--html":
                raise UsageError(f"{option} writes the outcome of a suite; name one with --suite")
            require_file(path, option)
        if self.suite is None:
            return None
        return load_suite(self.suite)


class GoldRuleOption(StrEnum):
    """What several annotators' labels of a task become."""

    MAJORITY = "majority"
    DISTRIBUTION = "distribution"


def gold_of(suite: Suite | None, gold: str | None, rule: GoldRuleOption, run: Run) -> Gold:
    """The gold: the one given, else the suite's, else the run's own default."""
    from relabel.evaluation.gold import default_gold, load_gold
    from relabel.evaluation.suite import beside

    if gold is None and suite is not None and suite.gold is not None:
        gold = beside(suite, suite.gold)
    return load_gold(gold or default_gold(run), rule.value)


def settle(wanted: Wanted, suite: Suite | None, run: Run, gold: Gold, document: EvalDocument) -> SuiteResult | None:
    """Judge the run by the suite, and write the files that were asked for.

    Args:
        wanted: What was asked for.
        suite: The suite, if any.
        run: The run.
        gold: The gold.
        document: The evaluation.

    Returns:
        The suite's outcome; None without a suite.

    Raises:
        DataError: A pin does not hold, something is not at hand, or a file cannot be written.
    """
    from relabel.evaluation.alignment import task_details

    result: SuiteResult | None = None
    baseline: Run | None = None
    details = task_details(run) if suite is not None or wanted.html is not None else None
    if suite is not None:
        from relabel.evaluation.gates import judge, junit_xml, markdown
        from relabel.evaluation.suite import beside
        from relabel.run import open_run

        baseline = None if suite.baseline is None else open_run(beside(suite, suite.baseline.run))
        result = judge(suite, run, gold, baseline, details)
        if wanted.junit is not None:
            write(wanted.junit, junit_xml(result), "--junit")
        if wanted.markdown is not None:
            write(wanted.markdown, markdown(result, document.verdict), "--markdown")
        _annotate(wanted, result)
    if wanted.html is not None:
        from relabel.evaluation.compare import compare
        from relabel.evaluation.report import eval_page

        change = None if baseline is None else compare(baseline, run, details=details)
        page = eval_page(document, run, gold, suite=result, comparison=change, details=details)
        write(wanted.html, page, "--html")
    for path in (wanted.junit, wanted.markdown, wanted.html):
        if path is not None:
            typer.echo(f"written: {path}", err=True)
    return result


def show_gates(result: SuiteResult, console: Console) -> None:
    """Print the gates, those that failed with their reason."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    console.print()
    console.print(Text(f"Gates of the suite {result.suite}", style="bold"))
    for sentence in result.warnings:
        console.print(Text(sentence))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in ("", "gate", "outcome"):
        table.add_column(name)
    for gate in result.results:
        sign = "ok" if gate.passed else "FAILED" if gate.judged else "?"
        table.add_row(sign, Text(gate.label), Text(gate.message))
    console.print(table)
    console.print(Text(result.family))
    if result.size is not None:
        console.print(Text(result.size))


def fail_if_any(result: SuiteResult | None) -> None:
    """Leave with the gates' exit code.

    Raises:
        GateError: A gate does not hold.
    """
    if result is not None and not result.passed:
        from relabel.evaluation.gates import gate_error

        raise GateError(gate_error(result.failures))


def _annotate(wanted: Wanted, result: SuiteResult) -> None:
    asked = wanted.annotate if wanted.annotate is not None else os.environ.get("GITHUB_ACTIONS") == "true"
    if asked:
        from relabel.evaluation.gates import github_annotations

        for line in github_annotations(result):
            workflow_command(line)
