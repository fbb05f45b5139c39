"""The report of an evaluation as HTML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from relabel.evaluation.comparison.document import CompareDocument
from relabel.evaluation.document import EvalDocument, SettingName
from relabel.evaluation.gates.outcome import SuiteResult
from relabel.evaluation.gold import Gold
from relabel.evaluation.report.charts import Charts
from relabel.evaluation.report.page import SHOWN, SLICES, render
from relabel.evaluation.report.task_rows import Known, flip_rows, rationales
from relabel.evaluation.side_by_side import GOLD, side_by_side
from relabel.run import Run


def eval_page(
    document: EvalDocument,
    run: Run,
    gold: Gold,
    *,
    suite: SuiteResult | None = None,
    comparison: CompareDocument | None = None,
    details: pd.DataFrame | None = None,
) -> str:
    """The report of an evaluation.

    Args:
        document: The evaluation.
        run: The run, for rationales and the occupations' means.
        gold: The gold.
        suite: The outcome of a suite, if one was run.
        comparison: The suite's baseline against the run.
        details: Task table (`relabel.task.TASKS`) for statements and titles; without it these are left out.

    Returns:
        One HTML document.
    """
    charts = Charts()
    differences = _differences(run, gold, details)
    context: dict[str, Any] = {
        "doc": document,
        "suite": suite,
        "yardsticks": _yardsticks(document),
        "matrices": {
            name: charts.matrix(found.confusion, rows="gold", columns="run")
            for name, found in document.settings.items()
            if found.n
        },
        "slices": list(_eval_slices(document, charts)),
        "scatter": _scatter(run, gold, charts),
        "calibration": [
            (
                name,
                {
                    "doc": found,
                    "svg": charts.reliability(
                        [(b.probability, b.accuracy, b.n, b.ci95.get("accuracy")) for b in found.bins]
                    ),
                },
            )
            for name, found in (document.calibration or {}).items()
        ],
        "flips": None if comparison is None else _baseline(comparison, charts, details),
        "differences": differences,
        # A published set was not labelled with the rubric that its codes are read by.
        "rubric": None if run.folder is None else run.rubric,
    }
    sections = [
        ("verdict", "Verdict", True),
        ("gates", "Gates", suite is not None),
        ("agreement", "Agreement", True),
        ("confusion", "Confusion", bool(context["matrices"])),
        ("slices", "Parts of the tasks", bool(context["slices"])),
        ("measures", "Measures", bool(document.measures)),
        ("calibration", "Calibration", bool(context["calibration"])),
        ("flips", "Changes against the baseline", comparison is not None),
        ("differences", "Differences", differences is not None),
        ("rubric", "Rubric", run.folder is not None),
    ]
    title = f"{document.run} against the gold {document.gold}"
    if document.selected:
        title += ", on tasks chosen for their doubt"
    return render("eval.html.jinja", title, sections, context)


def _yardsticks(document: EvalDocument) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    marks = document.yardsticks
    for name, found in marks.majority.items():
        rows.append(
            {
                "name": f"always {found.label}",
                "setting": name,
                "n": document.settings[name].n,
                "accuracy": found.accuracy,
                "kappa": found.kappa,
                "lead": found.difference,
                "lead_ci": found.ci95.get("difference"),
                "kappa_lead": None,
                "kappa_lead_ci": None,
            }
        )
    others = (("word count", marks.text_classifier), ("people against GPT-4, 2023", marks.raters))
    for title, group in others:
        for name, found in (group.settings if group is not None else {}).items():
            rows.append(
                {
                    "name": title,
                    "setting": name,
                    "n": found.n,
                    "accuracy": found.accuracy,
                    "kappa": found.kappa,
                    "lead": found.accuracy_difference,
                    "lead_ci": found.ci95.get("accuracy_difference"),
                    "kappa_lead": found.kappa_difference,
                    "kappa_lead_ci": found.ci95.get("kappa_difference"),
                }
            )
    return rows


def _eval_slices(document: EvalDocument, charts: Charts) -> Iterable[dict[str, Any]]:
    order: tuple[SettingName, ...] = ("three-way", "automation", "with-tools", "strict")
    there: list[SettingName] = [s for s in order if s in document.settings]
    if not there:
        return
    setting = there[0]
    for by, parts in document.slices.items():
        rows: list[dict[str, Any]] = [
            {
                "title": part.title,
                "n": part.settings[setting].n,
                "accuracy": part.settings[setting].accuracy,
                "ci": part.settings[setting].ci95.get("accuracy"),
                "kappa": part.settings[setting].kappa,
            }
            for part in parts
            if setting in part.settings
        ]
        drawn = [(row["title"], row["accuracy"], row["ci"]) for row in rows if row["accuracy"] is not None]
        if len(drawn) > 1:
            svg = charts.ranges(drawn, title="accuracy", mark=document.settings[setting].accuracy)
            yield {"title": SLICES[by], "setting": setting, "rows": rows, "svg": svg}


def _scatter(run: Run, gold: Gold, charts: Charts) -> dict[str, Any] | None:
    raters = side_by_side([run], gold)
    if raters.main_measure is None:
        return None
    means = raters.values[raters.main_measure].dropna().groupby(level=0).mean()
    if len(means) < 3:
        return None
    table = pd.DataFrame({"x": means[GOLD], "y": means[0]})
    measure = raters.main_measure
    return {
        "svg": charts.scatter(table, x=f"mean {measure} by the gold", y=f"mean {measure} by the run"),
        "measure": measure,
        "n": len(means),
    }


def _baseline(document: CompareDocument, charts: Charts, details: pd.DataFrame | None) -> dict[str, Any]:
    found = document.settings[document.main_setting]
    flips = flip_rows(document.flips, document, details, {}) or {"rows": [], "measure": document.main_measure or ""}
    return {
        **flips,
        "verdict": document.verdict.splitlines(),
        "matrix": charts.matrix(found.transitions, rows="baseline", columns="run"),
    }


def _differences(run: Run, gold: Gold, details: pd.DataFrame | None) -> dict[str, Any] | None:
    """Tasks where the run's value differs most from the gold's, by their effect on the occupation's mean."""
    raters = side_by_side([run], gold)
    if raters.main_measure is None:
        return None
    values = raters.values[raters.main_measure].dropna()
    effect = (values[0] - values[GOLD]) / values.groupby(level=0)[0].transform("size")
    order = effect[effect != 0].abs().sort_values(ascending=False, kind="stable").index[:SHOWN]
    if not len(order):
        return None
    labels = raters.labels[raters.main]
    known, said = Known(details), rationales({"run": run}, order)
    rows = [
        {
            "task_id": task,
            "onet_soc_code": code,
            "first": labels.at[(code, task), GOLD],
            "second": labels.at[(code, task), 0],
            "effect": by,
            "rationales": said.get((code, task), []),
            **known.task(code, task),
        }
        for (code, task), by in zip(order, effect.loc[order].tolist(), strict=True)
    ]
    return {"rows": rows, "measure": raters.main_measure}
