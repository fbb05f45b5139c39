"""Reports as HTML: an evaluation, a comparison of two runs, a comparison of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from relabel import __version__
from relabel.evaluation.comparison.document import CompareDocument, Flip
from relabel.evaluation.comparison.several import PairwiseDocument
from relabel.evaluation.document import EvalDocument, SettingName
from relabel.evaluation.gates.outcome import SuiteResult
from relabel.evaluation.gold import Gold
from relabel.evaluation.report.charts import Charts
from relabel.evaluation.side_by_side import GOLD, side_by_side
from relabel.evaluation.slices import MAJOR_GROUPS
from relabel.evaluation.verdict import figure
from relabel.run import Run

SHOWN = 25
"""Rows of tasks and of occupations that a page lists; the JSON document has all of them."""

_SLICES = {
    "major-group": "major group",
    "task-type": "task type",
    "importance": "importance",
    "text-length": "length of the statement",
    "soc_major": "major group",
    "task_type": "task type",
}


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
    ]
    return _page("eval.html.jinja", f"{document.run} against the gold {document.gold}", sections, context)


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
        "flips": _flips(document.flips, document, details, dict(zip(("first", "second"), runs, strict=True))),
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
    return _page("compare.html.jinja", f"{document.runs[0]} and {document.runs[1]} compared", sections, context)


def several_page(document: PairwiseDocument, details: pd.DataFrame | None = None) -> str:
    """The report of a comparison of several runs; arguments as for `compare_page`."""
    charts, known = Charts(), _Known(details)
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
    return _page("several.html.jinja", f"{len(document.runs)} runs compared", sections, context)


def _page(template: str, title: str, sections: Iterable[tuple[str, str, bool]], context: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("relabel.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(fig=_fig, signed=_signed, count=_count, p=_p)
    shown = [(key, name) for key, name, there in sections if there]
    page = environment.get_template(template)
    return page.render(title=title, sections=shown, version=__version__, **context).strip() + "\n"


class _Known:
    """What is known of tasks by code and id: their statements and their occupations' titles."""

    def __init__(self, details: pd.DataFrame | None) -> None:
        self._tasks: dict[tuple[str, str], str] = {}
        self._titles: dict[str, str] = {}
        if details is not None:
            keys = zip(details["onet_soc_code"], details["task_id"], strict=True)
            self._tasks = dict(zip(keys, details["text"], strict=True))
            self._titles = dict(zip(details["onet_soc_code"], details["title"], strict=True))

    def task(self, code: str, task_id: str) -> dict[str, str]:
        return {"text": self._tasks.get((code, task_id), ""), "title": self.title(code)}

    def title(self, code: str) -> str:
        return self._titles.get(code, "")


def _rationales(
    runs: Mapping[str, Run], keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """What each run said about some tasks: by task, who in which setting, and the words."""
    wanted = pd.MultiIndex.from_tuples(list(keys), names=["onet_soc_code", "task_id"])
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, run in runs.items():
        if "rationale" not in run.labels or not len(wanted):
            continue
        labels = run.labels[run.labels["sample"] == 0].set_index(["onet_soc_code", "task_id"])
        said = labels.loc[labels.index.isin(wanted), ["setting", "rationale"]].dropna()
        for (code, task), setting, words in zip(said.index, said["setting"], said["rationale"], strict=True):
            who = name if len(run.rubric.settings) == 1 else f"{name}, {setting}"
            found.setdefault((str(code), str(task)), []).append((who, str(words)))
    return found


def _flips(
    flips: Sequence[Flip], document: CompareDocument, details: pd.DataFrame | None, runs: Mapping[str, Run]
) -> dict[str, Any] | None:
    if not flips or document.main_measure is None:
        return None
    top, known = flips[:SHOWN], _Known(details)
    said = _rationales(runs, ((flip.onet_soc_code, flip.task_id) for flip in top))
    rows = [
        {
            "task_id": flip.task_id,
            "onet_soc_code": flip.onet_soc_code,
            "first": _labels(flip.first),
            "second": _labels(flip.second),
            "effect": flip.effect,
            "rationales": said.get((flip.onet_soc_code, flip.task_id), []),
            **known.task(flip.onet_soc_code, flip.task_id),
        }
        for flip in top
    ]
    return {"rows": rows, "measure": document.main_measure}


def _labels(said: Mapping[SettingName, str | None]) -> str:
    if said.get("three-way"):
        return str(said["three-way"])
    return ", ".join(f"{setting}: {label or '–'}" for setting, label in said.items())


def _baseline(document: CompareDocument, charts: Charts, details: pd.DataFrame | None) -> dict[str, Any]:
    found = document.settings[document.main_setting]
    flips = _flips(document.flips, document, details, {}) or {"rows": [], "measure": document.main_measure or ""}
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
    known, said = _Known(details), _rationales({"run": run}, order)
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


def _moves(document: CompareDocument, charts: Charts, details: pd.DataFrame | None) -> dict[str, Any] | None:
    measure = document.main_measure
    if measure is None or not document.occupations:
        return None
    known = _Known(details)
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
            yield {"title": _SLICES[by], "setting": setting, "rows": rows, "svg": svg}


def _compare_slices(document: CompareDocument, charts: Charts) -> Iterable[dict[str, Any]]:
    for by, parts in document.slices.items():
        named = [(MAJOR_GROUPS.get(value, value), part) for value, part in parts.items() if part.n]
        drawn = [(name, part.agreement, part.agreement_ci95) for name, part in named if part.agreement is not None]
        if len(drawn) > 1:
            overall = document.settings[document.main_setting].agreement
            svg = charts.ranges(drawn, title="agreement", mark=overall)
            yield {"title": _SLICES[by], "rows": named, "svg": svg}


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
    others = (("text classifier", marks.text_classifier), ("people against GPT-4, 2023", marks.raters))
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


def _fig(value: float | None) -> str:
    return "–" if value is None else figure(value)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _count(value: int) -> str:
    return f"{value:,}"


def _p(value: float) -> str:
    return "under 0.001" if value < 0.001 else f"{value:.3f}"
