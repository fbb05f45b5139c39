"""The figures of the 2023 paper, made again from its labels."""

from __future__ import annotations

import json

import pytest

from relabel.cli.app import run_app
from relabel.evaluation.paper import Cell, PaperDocument, recompute


@pytest.fixture(scope="module")
def paper() -> PaperDocument:
    return recompute()


def cell(paper: PaperDocument, figure: str) -> Cell:
    return next(c for c in paper.cells if c.figure == figure)


@pytest.mark.mirror
def test_all_but_the_workers_are_reproduced(paper: PaperDocument) -> None:
    missed = [c for c in paper.cells if c.reproduced is False]
    assert (paper.reproduced, paper.not_reproduced) == (40, 3)
    assert all(c.figure.startswith("workers with") and "other jobs" in str(c.reason) for c in missed)
    assert paper.not_compared == sum(c.printed is None for c in paper.cells)


@pytest.mark.mirror
def test_known_figures_are_compared_with_their_printed_digits(paper: PaperDocument) -> None:
    agreement = cell(paper, "agreement, GPT-4 and human, alpha")
    assert (agreement.printed, agreement.tolerance, agreement.reproduced) == (80.8, 0.05, True)
    assert agreement.ours == pytest.approx(80.784, abs=5e-4)
    top = cell(paper, "top 1, human, alpha: Interpreters and Translators")
    assert top.ours == pytest.approx(76.47, abs=5e-3)
    assert top.core_weighted == pytest.approx(80.0)
    assert cell(paper, "occupations fully exposed, GPT-4, gamma").ours == 86
    unprinted = cell(paper, "occupations, mean, human, alpha")
    assert (unprinted.printed, unprinted.reproduced, unprinted.reason) == (None, None, "printed figure not at hand")
    assert unprinted.ours == pytest.approx(0.1441, abs=5e-5)


@pytest.mark.mirror
def test_both_rules_at_one_half_are_shown(paper: PaperDocument) -> None:
    over = cell(paper, "occupations with over half of their tasks, human, alpha")
    least = cell(paper, "occupations with at least half of their tasks, human, alpha")
    assert (over.rule, least.rule) == ("> 0.5", ">= 0.5")
    assert over.ours == pytest.approx(1.84, abs=5e-3)
    assert least.ours == pytest.approx(2.17, abs=5e-3)
    assert (over.printed, least.printed) == (1.8, None)
    assert least.reason == "printed figure not at hand"


@pytest.mark.mirror
def test_the_command_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["eval", "--paper", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["reproduced"] == 40
    assert run_app(["eval", "--paper", "eloundou-2023:gpt4"]) == 2
    assert "--paper stands alone" in capsys.readouterr().err
    assert run_app(["eval"]) == 2
