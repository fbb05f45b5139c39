"""Reports as HTML: of an evaluation, of a comparison of two runs, and of several. Each is one file without a script.

Charts are SVG in the page: lines and text take its colour (`currentColor`) and marks its accent, so that one chart is readable
in light, in dark and in print. Shading is opacity over whatever lies below, not a colour of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from textwrap import shorten
from typing import Any

import altair as alt
import pandas as pd
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from relabel import __version__
from relabel.evaluation.alignment import GOLD, MAIN, AlignedLabels, TaskTexts, match
from relabel.evaluation.compare import CompareDocument, PairwiseDocument, label_in_words
from relabel.evaluation.document import MAJOR_GROUPS, EvalDocument, SettingName
from relabel.evaluation.gates import SuiteResult
from relabel.evaluation.gold import Gold
from relabel.run import Run
from relabel.tabular import Table, cell_text, figure, signed
from relabel.task import TASK_KEY

SHOWN = 25
"""Rows of tasks and of occupations that a page lists; the JSON document has all of them."""

SLICES = {
    "major-group": "major group",
    "task-type": "task type",
    "importance": "importance",
    "text-length": "length of the statement",
    "soc_major": "major group",
    "task_type": "task type",
}
"""Names of the ways to part the tasks."""


_INK, _ACCENT, _OTHER = "currentColor", "var(--accent)", "var(--other)"
_FONT = "system-ui, sans-serif"
_ID = re.compile(r'(\bid="|url\(#|href="#)([\w-]+)')
_SPOKEN = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')

Interval = tuple[float, float] | None

_WIDEST = 7.2
"""Pixels that a character of a label may take in the reader's own font, which cannot be measured here."""


def eval_page(
    document: EvalDocument,
    run: Run,
    gold: Gold,
    *,
    suite: SuiteResult | None = None,
    comparison: CompareDocument | None = None,
    details: pd.DataFrame | None = None,
    charts: Charts | None = None,
) -> str:
    """The report of an evaluation.

    Args:
        document: The evaluation.
        run: The run, for rationales and the occupations' means.
        gold: The gold.
        suite: The outcome of a suite, if one was run.
        comparison: The suite's baseline against the run.
        details: Task table (`relabel.task.TASKS`) for statements and titles; without it these are left out.
        charts: What draws the charts, and keeps them for `Charts.files`.

    Returns:
        One HTML document.
    """
    charts = charts or Charts()
    aligned = match(run, gold)
    differences = _differences(aligned, run, details)
    context: dict[str, Any] = {
        "doc": document,
        "suite": suite,
        "yardsticks": _yardsticks(document),
        "matrices": {
            name: charts.matrix(f"confusion-{name}", found.confusion, rows="gold", columns="run")
            for name, found in document.settings.items()
            if found.n
        },
        "slices": list(_eval_slices(document, charts)),
        "scatter": _scatter(aligned, charts),
        "calibration": [
            (
                name,
                {
                    "doc": of,
                    "svg": charts.reliability(
                        f"calibration-{name}",
                        [(b.probability, b.accuracy, b.n, b.ci95.get("accuracy")) for b in of.bins],
                    ),
                },
            )
            for name, of in (document.calibration or {}).items()
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
    return _render("eval.html.jinja", title, sections, context)


def _yardsticks(document: EvalDocument) -> list[dict[str, Any]]:
    marks = document.yardsticks
    rows: list[dict[str, Any]] = []
    for setting, of in marks.majority.items():
        lead = {"lead": of.difference, "lead_ci": of.ci95.get("difference"), "kappa_lead": None, "kappa_lead_ci": None}
        shown = {"name": f"always {of.label}", "setting": setting, "n": document.settings[setting].n}
        rows.append({**shown, "accuracy": of.accuracy, "kappa": of.kappa, **lead})
    others = (
        ("word count", marks.text_classifier),
        ("people against GPT-4, 2023", marks.raters),
        ("the gold's annotators", marks.annotators),
    )
    for title, group in others:
        for setting, of in (group.settings if group is not None else {}).items():
            lead = {"lead": of.accuracy_difference, "lead_ci": of.ci95.get("accuracy_difference")}
            lead |= {"kappa_lead": of.kappa_difference, "kappa_lead_ci": of.ci95.get("kappa_difference")}
            shown = {"name": title, "setting": setting, "n": of.n}
            rows.append({**shown, "accuracy": of.accuracy, "kappa": of.kappa, **lead})
    return rows


def _eval_slices(document: EvalDocument, charts: Charts) -> Iterable[dict[str, Any]]:
    setting: SettingName | None = next((s for s in MAIN if s in document.settings), None)
    if setting is None:
        return
    for by, parts in document.slices.items():
        told = [(part.title, part.settings[setting]) for part in parts if setting in part.settings]
        rows: list[dict[str, Any]] = [
            {"title": title, "n": of.n, "accuracy": of.accuracy, "ci": of.ci95.get("accuracy"), "kappa": of.kappa}
            for title, of in told
        ]
        drawn = [(row["title"], row["accuracy"], row["ci"]) for row in rows if row["accuracy"] is not None]
        if len(drawn) > 1:
            svg = charts.ranges(f"accuracy-by-{by}", drawn, title="accuracy", mark=document.settings[setting].accuracy)
            yield {"title": SLICES[by], "setting": setting, "rows": rows, "svg": svg}


def _scatter(aligned: AlignedLabels, charts: Charts) -> dict[str, Any] | None:
    measure = aligned.main_measure
    if measure is None:
        return None
    pair = aligned.pair(measure)
    means = pd.DataFrame({"x": pair.gold, "y": pair.run}).groupby(aligned.codes[pair.tasks]).mean()
    if len(means) < 3:
        return None
    svg = charts.scatter("occupations", means, x=f"mean {measure} by the gold", y=f"mean {measure} by the run")
    return {"svg": svg, "measure": measure, "n": len(means)}


def _baseline(document: CompareDocument, charts: Charts, details: pd.DataFrame | None) -> dict[str, Any]:
    found = document.settings[document.main_setting]
    flips = _flip_rows(document, details, {}) or {"rows": [], "measure": document.main_measure or ""}
    return {
        **flips,
        "verdict": document.verdict.splitlines(),
        "matrix": charts.matrix("changes-against-baseline", found.transitions, rows="baseline", columns="run"),
    }


def _differences(aligned: AlignedLabels, run: Run, details: pd.DataFrame | None) -> dict[str, Any] | None:
    """Tasks where the run's value differs most from the gold's, by their effect on the occupation's mean."""
    measure = aligned.main_measure
    if measure is None:
        return None
    pair = aligned.pair(measure)
    codes = pd.Series(aligned.codes[pair.tasks])
    effect = pd.Series(pair.run - pair.gold) / codes.groupby(codes).transform("size")
    order = effect[effect != 0].abs().sort_values(ascending=False, kind="stable").index[:SHOWN]
    if not len(order):
        return None
    index = aligned.index().to_list()
    keys: list[tuple[str, str]] = [index[pair.tasks[at]] for at in order]
    first, second = (aligned.words(aligned.main, rater).to_numpy() for rater in (GOLD, 0))
    changed = [
        (key, first[pair.tasks[at]], second[pair.tasks[at]], float(effect[at]))
        for at, key in zip(order, keys, strict=True)
    ]
    rows = _task_rows(changed, details, {"run": run})
    return {"rows": rows, "measure": measure}


def compare_page(
    document: CompareDocument,
    runs: Sequence[Run],
    details: pd.DataFrame | None = None,
    charts: Charts | None = None,
) -> str:
    """The report of a comparison of two runs, whose rationales it shows; other arguments as for `eval_page`."""
    charts = charts or Charts()
    context: dict[str, Any] = {
        "doc": document,
        "matrices": {
            name: charts.matrix(f"transitions-{name}", found.transitions, rows="first", columns="second")
            for name, found in document.settings.items()
            if found.n
        },
        "moves": _moves(document, charts),
        "flips": _flip_rows(document, details, dict(zip(("first", "second"), runs, strict=True))),
        "slices": list(_compare_slices(document, charts)),
    }
    sections = [
        ("verdict", "Verdict", True),
        ("measures", "Measures", True),
        ("transitions", "Transitions", bool(context["matrices"])),
        ("gold", "Against the gold", bool(document.against_gold)),
        ("occupations", "Occupations", context["moves"] is not None),
        ("flips", "Changed tasks", context["flips"] is not None),
        ("slices", "Parts of the tasks", bool(context["slices"])),
    ]
    return _render("compare.html.jinja", f"{document.runs[0]} and {document.runs[1]} compared", sections, context)


def several_page(document: PairwiseDocument, charts: Charts | None = None) -> str:
    """The report of a comparison of several runs; arguments as for `eval_page`."""
    charts = charts or Charts()
    pairs: dict[str, Markup] = {}
    for name, found in document.settings.items():
        rows = [
            (f"{p.first + 1} and {p.second + 1}", p.kappa, p.kappa_ci95) for p in found.pairs if p.kappa is not None
        ]
        if found.n:
            pairs[name] = charts.ranges(f"pairs-{name}", rows, title="kappa")
    context: dict[str, Any] = {"doc": document, "pairs": pairs, "disputed": document.disputed[:SHOWN]}
    sections = [
        ("verdict", "Verdict", True),
        ("runs", "Runs", True),
        ("pairs", "Who agrees with whom", bool(pairs)),
        ("disputed", "Disagreement", bool(document.disputed)),
    ]
    return _render("several.html.jinja", f"{len(document.runs)} runs compared", sections, context)


def _moves(document: CompareDocument, charts: Charts) -> dict[str, Any] | None:
    measure = document.main_measure
    if measure is None or not document.occupations:
        return None
    shown = document.occupations[:SHOWN]
    named = [(shorten(f"{m.onet_soc_code} {m.title}", 42, placeholder="…"), *m.measures[measure]) for m in shown]
    return {"rows": shown, "measure": measure, "svg": charts.moves("occupations", named, title=f"mean {measure}")}


def _compare_slices(document: CompareDocument, charts: Charts) -> Iterable[dict[str, Any]]:
    for by, parts in document.slices.items():
        named = [(MAJOR_GROUPS.get(value, value), part) for value, part in parts.items() if part.n]
        drawn = [(name, part.agreement, part.agreement_ci95) for name, part in named if part.agreement is not None]
        if len(drawn) > 1:
            overall = document.settings[document.main_setting].agreement
            svg = charts.ranges(f"agreement-by-{by}", drawn, title="agreement", mark=overall)
            yield {"title": SLICES[by], "rows": named, "svg": svg}


def _rationales(
    runs: Mapping[str, Run], keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """What each run said about some tasks: by task, who in which setting, and the words."""
    wanted = pd.MultiIndex.from_tuples(list(keys), names=TASK_KEY)
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, run in runs.items():
        if "rationale" not in run.labels or not len(wanted):
            continue
        labels = run.labels[run.labels["sample"] == 0].set_index(TASK_KEY)
        said = labels.loc[labels.index.isin(wanted), ["setting", "rationale"]].dropna()
        for (code, task), setting, words in zip(said.index, said["setting"], said["rationale"], strict=True):
            who = name if len(run.rubric.settings) == 1 else f"{name}, {setting}"
            found.setdefault((str(code), str(task)), []).append((who, str(words)))
    return found


def _flip_rows(
    document: CompareDocument, details: pd.DataFrame | None, runs: Mapping[str, Run]
) -> dict[str, Any] | None:
    """Rows of the changed tasks that move most, and the measure that they move; None where there are none.

    Args:
        document: The comparison.
        details: Task table for statements and titles; without it these are left out.
        runs: The runs by the names under which their rationales are shown.
    """
    if not document.flips or document.main_measure is None:
        return None
    changed = [
        ((flip.onet_soc_code, flip.task_id), label_in_words(flip.first), label_in_words(flip.second), flip.effect)
        for flip in document.flips[:SHOWN]
    ]
    return {"rows": _task_rows(changed, details, runs), "measure": document.main_measure}


def _task_rows(
    changed: Sequence[tuple[tuple[str, str], str, str, float]], details: pd.DataFrame | None, runs: Mapping[str, Run]
) -> list[dict[str, Any]]:
    """Rows of tasks: key, first and second label, effect; with statement, title and rationales."""
    known, said = TaskTexts(details), _rationales(runs, [key for key, *_ in changed])
    return [
        {
            "first": first,
            "second": second,
            "effect": effect,
            "rationales": said.get(key, []),
            **known.about(*key),
        }
        for key, first, second, effect in changed
    ]


def tables_page(
    title: str, verdict: Sequence[str], sections: Sequence[tuple[str, Table, Markup | None]], about: str
) -> str:
    """A page of tables, the result in words first.

    Args:
        title: Its title.
        verdict: Sentences.
        sections: Key, table, and the chart of its figures where there is one.
        about: What the page rests on.

    Returns:
        One HTML document.
    """
    context = {"verdict": verdict, "parts_of": sections, "about": about, "cell": cell_text}
    named = [("verdict", "Verdict", True), *((key, table.title, True) for key, table, _ in sections)]
    return _render("tables.html.jinja", title, named, context)


_TAG = re.compile(r"<[a-zA-Z][^>]*>")
_OPACITY = re.compile(r' (?:(fill|stroke)-)?opacity="([\d.]+)"')
_PAINT = re.compile(r'(fill|stroke)="#([0-9a-f]{6})"')


def _opaque(tag: str) -> str:
    """A tag with colours mixed with white instead of transparency, which PDF files would hold in another order each time."""
    parts = {"": 1.0, "fill": 1.0, "stroke": 1.0} | {kind: float(part) for kind, part in _OPACITY.findall(tag)}

    def mixed(found: re.Match[str]) -> str:
        part, (red, green, blue) = parts[""] * parts[found[1]], bytes.fromhex(found[2])
        return f'{found[1]}="#' + "".join(f"{round(255 - (255 - x) * part):02x}" for x in (red, green, blue)) + '"'

    return _PAINT.sub(mixed, _OPACITY.sub("", tag))


def _render(template: str, title: str, sections: Iterable[tuple[str, str, bool]], context: Mapping[str, Any]) -> str:
    """Make a page of a template.

    Args:
        template: Its file in this folder.
        title: Title of the page.
        sections: Sections in order: key, name, and whether there is anything to show.
        context: What the template shows.

    Returns:
        One HTML document.
    """
    environment = Environment(
        loader=PackageLoader("relabel.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(fig=figure, signed=signed, count="{:,}".format)
    shown = [(key, name) for key, name, there in sections if there]
    page = environment.get_template(template)
    return page.render(title=title, sections=shown, version=__version__, **context).strip() + "\n"


def _names(order: Sequence[str]) -> alt.Axis:
    """An axis of names with room for the longest of them."""
    room = max((len(name) for name in order), default=0) * _WIDEST
    return alt.Axis(labelLimit=room, minExtent=room)


class Charts:
    """Draws the charts of one page; ids inside their SVG stay unique on it."""

    def __init__(self) -> None:
        self._drawn: dict[str, str] = {}

    def files(self) -> dict[str, bytes]:
        """The charts as files for a paper, SVG and PDF, by name; black and blue on white."""
        found: dict[str, bytes] = {}
        for name, spec in self._drawn.items():
            for ink, colour in {_INK: "#1a1a1a", _ACCENT: "#0b5cad", _OTHER: "#777777", "transparent": "white"}.items():
                spec = spec.replace(f'"{ink}"', f'"{colour}"')  # noqa: PLW2901  one colour after another
            svg = _TAG.sub(lambda tag: _opaque(tag[0]), vl_convert.vegalite_to_svg(spec))
            found |= {f"{name}.svg": svg.encode(), f"{name}.pdf": vl_convert.svg_to_pdf(svg)}
        return found

    def matrix(self, name: str, counts: Mapping[str, Mapping[str, int]], *, rows: str, columns: str) -> Markup:
        """A confusion or transition matrix, each cell shaded by its share of the row.

        Args:
            name: Name of the chart's file, as for all charts.
            counts: Counts by row label, then by column label.
            rows: What the rows are.
            columns: What the columns are.
        """
        cells = pd.DataFrame(
            [
                {"row": row, "column": column, "n": n, "share": n / max(sum(by.values()), 1), "text": f"{n:,}"}
                for row, by in counts.items()
                for column, n in by.items()
            ]
        )
        labels = list(counts)
        base = alt.Chart(cells).encode(
            x=alt.X("column:N", sort=labels, title=columns, axis=alt.Axis(orient="top", labelAngle=0)),
            y=alt.Y("row:N", sort=labels, title=rows),
        )
        # Full opacity would swallow the ink on it.
        shades = alt.Scale(domain=[0, 1], range=[0.02, 0.55])
        squares = base.mark_rect(color=_ACCENT, stroke=_INK, strokeOpacity=0.25).encode(
            fillOpacity=alt.FillOpacity("share:Q", scale=shades, legend=None)
        )
        side = 62 if len(labels) < 5 else 46
        return self._svg(
            name,
            (squares + base.mark_text(color=_INK, fontSize=13).encode(text="text:N")).properties(
                width=side * len(labels) * 1.3, height=side * len(labels)
            ),
        )

    def ranges(
        self, name: str, rows: Sequence[tuple[str, float, Interval]], *, title: str, mark: float | None = None
    ) -> Markup:
        """Figures with their intervals, one a line.

        Args:
            name: As for `matrix`.
            rows: Name, figure and interval.
            title: What the figure is.
            mark: Where to draw a line for comparison.
        """
        spread = [(name, value, *(ci or (value, value))) for name, value, ci in rows]
        table = pd.DataFrame(spread, columns=["name", "value", "low", "high"])
        order = [name for name, *_ in rows]
        y = alt.Y("name:N", sort=order, title=None, axis=_names(order))
        x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(tickCount=5))
        base = alt.Chart(table)
        lines = base.mark_rule(color=_ACCENT, strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q", y=y)
        layers = lines + base.mark_point(color=_ACCENT, filled=True, size=45, opacity=1).encode(x=x, y=y)
        if mark is not None:
            whole = alt.Chart(pd.DataFrame({"at": [mark]}))
            layers = whole.mark_rule(color=_INK, strokeDash=[4, 3], opacity=0.6).encode(x="at:Q") + layers
        return self._svg(name, layers.properties(width=320, height=alt.Step(19)))

    def scatter(self, name: str, table: pd.DataFrame, *, x: str, y: str) -> Markup:
        """Occupations by two scores on 0-1, with the line of equality.

        Args:
            name: As for `matrix`.
            table: Columns `x, y`.
            x: What `x` is.
            y: What `y` is.
        """
        scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(tickCount=5)
        points = (
            alt.Chart(table[["x", "y"]].astype(float))
            .mark_circle(color=_ACCENT, size=26, opacity=0.4)
            .encode(x=alt.X("x:Q", title=x, scale=scale, axis=axis), y=alt.Y("y:Q", title=y, scale=scale, axis=axis))
        )
        equal = alt.Chart(pd.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0]}))
        return self._svg(name, (self._diagonal(equal) + points).properties(width=340, height=340))

    def reliability(self, name: str, bins: Sequence[tuple[float, float, int, Interval]]) -> Markup:
        """A reliability curve: share of right labels by mean probability.

        Args:
            name: As for `matrix`.
            bins: Mean probability, share of right labels, labels, and interval of the share.
        """
        spread = [(p, a, n, *(ci or (a, a))) for p, a, n, ci in bins]
        table = pd.DataFrame(spread, columns=["x", "y", "n", "low", "high"])
        scale = alt.Scale(domain=[0, 1])
        x = alt.X("x:Q", title="probability of the label", scale=scale, axis=alt.Axis(tickCount=5))
        base = alt.Chart(table).encode(x=x)
        bars = base.mark_rule(color=_ACCENT, strokeWidth=2).encode(
            y=alt.Y("low:Q", title="share that is right", scale=scale), y2="high:Q"
        )
        curve = base.mark_line(color=_ACCENT, opacity=0.6).encode(y=alt.Y("y:Q", scale=scale))
        points = base.mark_circle(color=_ACCENT, opacity=1).encode(
            y=alt.Y("y:Q", scale=scale), size=alt.Size("n:Q", legend=None, scale=alt.Scale(range=[30, 220]))
        )
        equal = alt.Chart(pd.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0]}))
        return self._svg(name, (self._diagonal(equal) + bars + curve + points).properties(width=340, height=340))

    def moves(self, name: str, rows: Sequence[tuple[str, float, float]], *, title: str) -> Markup:
        """Where occupations were and where they are, one a line.

        Args:
            name: As for `matrix`.
            rows: Name, first and second value.
            title: What the value is.
        """
        order = [name for name, *_ in rows]
        table = pd.DataFrame([{"name": name, "a": a, "b": b} for name, a, b in rows])
        y = alt.Y("name:N", sort=order, title=None, axis=_names(order))
        base = alt.Chart(table).encode(y=y)
        lines = base.mark_rule(color=_INK, opacity=0.5).encode(
            x=alt.X("a:Q", title=title, scale=alt.Scale(domain=[0, 1])), x2="b:Q"
        )
        ends = (
            alt.Chart(table.melt("name", var_name="side"))
            .mark_point(filled=True, size=60, opacity=1)
            .encode(
                x="value:Q",
                y=y,
                shape=alt.Shape("side:N", scale=alt.Scale(domain=["a", "b"], range=["circle", "diamond"]), legend=None),
                color=alt.Color("side:N", scale=alt.Scale(domain=["a", "b"], range=[_OTHER, _ACCENT]), legend=None),
            )
        )
        return self._svg(name, (lines + ends).properties(width=360, height=alt.Step(20)))

    @staticmethod
    def _diagonal(chart: alt.Chart) -> alt.Chart:
        return chart.mark_line(color=_INK, strokeDash=[4, 3], opacity=0.5).encode(x="x:Q", y="y:Q")

    def _svg(self, name: str, chart: alt.LayerChart | alt.FacetChart) -> Markup:
        inked: dict[str, Any] = dict.fromkeys(
            ("labelColor", "titleColor", "domainColor", "tickColor", "gridColor"), _INK
        )
        inked |= {"gridOpacity": 0.12, "domainOpacity": 0.5, "tickOpacity": 0.5}
        words: dict[str, Any] = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
        view, axis = alt.ViewConfig(stroke=None), alt.AxisConfig(**inked, **words)
        whole = chart.configure(background="transparent", font=_FONT, padding=4, view=view, axis=axis)
        self._drawn[name] = spec = whole.to_json()
        drawn = _SPOKEN.sub("", vl_convert.vegalite_to_svg(spec))
        mark = f"c{len(self._drawn)}-"
        drawn = _ID.sub(lambda found: f"{found[1]}{mark}{found[2]}", drawn)
        # Its words are repeated in the table beside it: to a screen reader the chart is one picture with a name.
        return Markup(drawn.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))  # noqa: S704  made here
