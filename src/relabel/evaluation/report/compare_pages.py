"""Reports of comparisons as HTML: of two runs, and of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from relabel.evaluation.comparison.document import CompareDocument
from relabel.evaluation.comparison.several import PairwiseDocument
from relabel.evaluation.report.charts import Charts
from relabel.evaluation.report.page import SHOWN, SLICES, render
from relabel.evaluation.report.task_rows import Known, flip_rows
from relabel.evaluation.slices import MAJOR_GROUPS
from relabel.run import Run


def compare_page(document: CompareDocument, runs: Sequence[Run], details: pd.DataFrame | None = None) -> str:
    """The report of a comparison of two runs.

    Args:
        document: The comparison.
        runs: The two runs, for rationales.
        details: Task table for statements and titles; without it these are left out.

    Returns:
        One HTML document.
    """
    charts = Charts()
    context: dict[str, Any] = {
        "doc": document,
        "matrices": {
            name: charts.matrix(found.transitions, rows="first", columns="second")
            for name, found in document.settings.items()
            if found.n
        },
        "moves": _moves(document, charts, details),
        "flips": flip_rows(document.flips, document, details, dict(zip(("first", "second"), runs, strict=True))),
        "slices": list(_compare_slices(document, charts)),
    }
    sections = [
        ("verdict", "Verdict", True),
        ("measures", "Measures", True),
        ("transitions", "Transitions", bool(context["matrices"])),
        ("gold", "Against the gold", bool(document.against_gold)),
        ("occupations", "Occupations", context["moves"] is not None),
        ("flips", "Flips", context["flips"] is not None),
        ("slices", "Parts of the tasks", bool(context["slices"])),
    ]
    return render("compare.html.jinja", f"{document.runs[0]} and {document.runs[1]} compared", sections, context)


def several_page(document: PairwiseDocument, details: pd.DataFrame | None = None) -> str:
    """The report of a comparison of several runs; arguments as for `compare_page`."""
    charts, known = Charts(), Known(details)
    context: dict[str, Any] = {
        "doc": document,
        "pairs": {
            name: charts.ranges(
                [
                    (f"{pair.first + 1} and {pair.second + 1}", pair.kappa, pair.kappa_ci95)
                    for pair in found.pairs
                    if pair.kappa is not None
                ],
                title="kappa",
            )
            for name, found in document.settings.items()
            if found.n
        },
        "disputed": [
            task.model_dump() | known.task(task.onet_soc_code, task.task_id) for task in document.disputed[:SHOWN]
        ],
    }
    sections = [
        ("verdict", "Verdict", True),
        ("runs", "Runs", True),
        ("pairs", "Who agrees with whom", bool(context["pairs"])),
        ("disputed", "Disagreement", bool(context["disputed"])),
    ]
    return render("several.html.jinja", f"{len(document.runs)} runs compared", sections, context)


def _moves(document: CompareDocument, charts: Charts, details: pd.DataFrame | None) -> dict[str, Any] | None:
    measure = document.main_measure
    if measure is None or not document.occupations:
        return None
    known = Known(details)
    rows: list[dict[str, Any]] = [
        {
            "code": move.onet_soc_code,
            "title": known.title(move.onet_soc_code),
            "tasks": move.tasks,
            "flips": move.flips,
            "first": move.measures[measure][0],
            "second": move.measures[measure][1],
            "move": move.move,
        }
        for move in document.occupations[:SHOWN]
    ]
    named = [(_short(f"{row['code']} {row['title']}".strip()), row["first"], row["second"]) for row in rows]
    return {"rows": rows, "svg": charts.moves(named, title=f"mean {measure}")}


def _short(name: str, most: int = 42) -> str:
    return name if len(name) <= most else f"{name[: most - 1].rstrip()}…"


def _compare_slices(document: CompareDocument, charts: Charts) -> Iterable[dict[str, Any]]:
    for by, parts in document.slices.items():
        named = [(MAJOR_GROUPS.get(value, value), part) for value, part in parts.items() if part.n]
        drawn = [(name, part.agreement, part.agreement_ci95) for name, part in named if part.agreement is not None]
        if len(drawn) > 1:
            overall = document.settings[document.main_setting].agreement
            svg = charts.ranges(drawn, title="agreement", mark=overall)
            yield {"title": SLICES[by], "rows": named, "svg": svg}
