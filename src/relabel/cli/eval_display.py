"""What `relabel eval` shows besides agreement: intervals, yardsticks, slices, estimates, and the paper's figures."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from relabel.evaluation.verdict import figure

if TYPE_CHECKING:
    from rich.console import Console

    from relabel.evaluation.document import Bounds, EvalDocument, Yardstick
    from relabel.evaluation.paper import Cell, PaperDocument

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
_SHORT = 46


def show_intervals(document: EvalDocument, console: Console) -> None:
    """Show the intervals of the settings' figures, with a warning where occupations are few."""
    method = document.intervals
    if method is None:
        return
    console.print()
    table = table_of("95 % interval", *_FIGURES.values())
    for name, found in document.settings.items():
        table.add_row(name, *(bounds(found.ci95.get(key)) for key in _FIGURES))
    console.print(table)
    _print(f"{method.draws:,} bootstrap draws of {method.units:,} occupations, seed {method.seed}.", console)
    if method.note is not None:
        _print(f"Few occupations: {method.note}.", console)
    if document.selected:
        _print("They are of tasks chosen for their doubt, not of the run as a whole.", console)


def show_yardsticks(document: EvalDocument, console: Console) -> None:
    """Show what the run is compared with besides the gold."""
    found = document.yardsticks
    rows: list[tuple[str, str, Yardstick]] = []
    if found.text_classifier is not None:
        rows += [("word count", str(s), y) for s, y in found.text_classifier.settings.items()]
    if found.raters is not None:
        rows += [("human and GPT-4", str(s), y) for s, y in found.raters.settings.items()]
    if found.annotators is not None:
        rows += [("annotators", str(s), y) for s, y in found.annotators.settings.items()]
    if not rows:
        return
    console.print()
    console.print(Text("Yardsticks", style="bold"))
    table = table_of("yardstick", "setting", "n", "accuracy", "kappa", "run less this: accuracy", "kappa", "95 %")
    for name, setting, of in rows:
        table.add_row(
            name,
            setting,
            f"{of.n:,}",
            figure(of.accuracy),
            figure(of.kappa),
            figure(of.accuracy_difference),
            figure(of.kappa_difference),
            bounds(of.ci95.get("kappa_difference")),
        )
    console.print(table)


def show_models(document: EvalDocument, console: Console) -> None:
    """Show the labels of each model that answered, where that was asked for."""
    if not document.by_model:
        return
    console.print()
    console.print(Text("By model that answered", style="bold"))
    table = table_of("model", "labels", "setting", "n", "accuracy", "95 %", "kappa", "95 %")
    for model, settings in document.by_model.items():
        for setting, of in settings.items():
            cells = (
                figure(of.accuracy),
                bounds(of.ci95.get("accuracy")),
                figure(of.kappa),
                bounds(of.ci95.get("kappa")),
            )
            table.add_row(model, f"{document.models[model]:,}", setting, f"{of.n:,}", *cells)
    console.print(table)


def show_slices(document: EvalDocument, console: Console) -> None:
    """Show agreement by parts of the tasks, in the setting that says most."""
    setting = next((s for s in ("three-way", "automation", "strict", "with-tools") if s in document.settings), None)
    if setting is None or not document.slices:
        return
    console.print()
    console.print(Text(f"By slice, {setting}", style="bold"))
    for by, parts in document.slices.items():
        table = table_of(_SLICES[by], "n", "occ.", "accuracy", "95 %", "kappa", "95 %")
        for part in parts:
            of = part.settings.get(setting)  # pyright: ignore[reportArgumentType]  one of the settings' names
            if of is not None:
                table.add_row(
                    part.title if part.value == "none" or not part.value.isdigit() else f"{part.value} {part.title}",
                    f"{of.n:,}",
                    f"{part.occupations:,}",
                    figure(of.accuracy),
                    bounds(of.ci95.get("accuracy")),
                    figure(of.kappa),
                    bounds(of.ci95.get("kappa")),
                )
        console.print(table)
        console.print()


def show_estimates(document: EvalDocument, console: Console) -> None:
    """Show mean exposure with the run's errors taken out, for all tasks; groups are in the document."""
    if document.debiased is None:
        return
    rows = [(m, groups[0]) for m, groups in document.debiased.measures.items() if groups and groups[0].ppi is not None]
    if not rows:
        return
    console.print(Text("Mean exposure of all tasks of the run", style="bold"))
    table = table_of("measure", "gold n", "run n", "naive", "gold alone", "95 %", "PPI++", "95 %")
    for measure, of in rows:
        shown = [(of.gold, "gold"), (of.ppi, "ppi")]
        cells = [text for value, name in shown for text in (figure(value), bounds(of.ci95.get(name)))]
        table.add_row(measure, f"{of.n_gold:,}", f"{of.n_run:,}", figure(of.naive), *cells)
    console.print(table)
    _print(document.debiased.note, console)


def show_calibration(document: EvalDocument, console: Console) -> None:
    """Show how far the run's probabilities can be trusted."""
    if document.calibration is None:
        return
    console.print()
    console.print(Text("Calibration of the probabilities", style="bold"))
    table = table_of("setting", "n", "probability", "accuracy", "Brier", "95 %", "ECE", "95 %")
    for name, of in document.calibration.items():
        cells = (figure(of.probability), figure(of.accuracy), figure(of.brier), bounds(of.ci95.get("brier")))
        table.add_row(name, f"{of.n:,}", *cells, figure(of.ece), bounds(of.ci95.get("ece")))
    console.print(table)


def show_paper(document: PaperDocument, console: Console) -> None:
    """Show the paper's figures beside ours."""
    console.print(Text("The figures of the 2023 paper, made again from its published labels", style="bold"))
    console.print(
        f"{document.reproduced} reproduced, {document.not_reproduced} not, {document.not_compared} recomputed only: their "
        "print was not seen"
    )
    _print("Printed figures are those of public transcripts of the paper; weights are stated in the document.", console)
    by_table: dict[str, list[Cell]] = {}
    for cell in document.cells:
        by_table.setdefault(cell.table, []).append(cell)
    for name, cells in by_table.items():
        console.print()
        words = f"table {name}" if name.isdigit() else "not printed" if name == "-" else name
        table = table_of(words, "printed", "ours", "rule", "reproduced")
        for cell in cells:
            said = {True: "yes", False: "no", None: "-"}[cell.reproduced]
            short = textwrap.shorten(cell.figure, _SHORT, placeholder=" …")
            rule = textwrap.shorten(cell.rule, 28, placeholder=" …")
            table.add_row(short, _number(cell.printed, cell), _number(cell.ours, cell), rule, said)
        console.print(table)
        for cell in cells:
            if cell.reproduced is False:
                _print(f"{cell.figure}: {cell.reason}.", console)
    console.print()
    _print("Weights, tolerances and full rules are in the document: --json.", console)


def bounds(pair: Bounds | None) -> str:
    """An interval for people; `-` where there is none."""
    if pair is None:
        return "-"
    # A dash before a minus would be misread; without one it lets seven intervals stand side by side.
    return (" to " if pair[0] < 0 else "-").join(figure(x) for x in pair)


def table_of(first: str, *rest: str) -> Table:
    """A table in the style of the command."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for name in rest:
        table.add_column(name, justify="right")
    return table


def _number(value: float | None, cell: Cell) -> str:
    if value is None:
        return "-"
    digits = {"percent": 1, "share": 2, "correlation": 3, "count": 0}[cell.unit]
    return f"{value:.{digits}f}"


def _print(sentence: str, console: Console) -> None:
    for line in textwrap.wrap(sentence, console.width - 2, break_on_hyphens=False):
        console.print(Text(f"  {line}"))
