"""Reports as HTML: of an evaluation, of a comparison of two runs, and of several. Each is one file without a script.

Charts are SVG in the page: lines and text take its colour (`currentColor`) and marks its accent, so that one chart is readable
in light, in dark and in print. Shading is opacity over whatever lies below, not a colour of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import shorten
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from relabel import __version__
from relabel.evaluation.alignment import GOLD, MAIN, AlignedLabels, TaskTexts, match
from relabel.evaluation.compare import CompareDocument, PairwiseDocument
from relabel.evaluation.document import (
    MAJOR_GROUPS,
    EvalDocument,
    ReliabilityBin,
    SettingName,
    SliceFigures,
    label_in_words,
)
from relabel.evaluation.gold import Gold
from relabel.evaluation.suite import SuiteResult
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
    charts, aligned = charts or Charts(), match(run, gold)
    main: SettingName = next(s for s in MAIN if s in document.settings)
    parts: dict[str, list[tuple[str, Any]]] = {
        by: [(part.title, part.settings[main]) for part in found if main in part.settings]
        for by, found in document.slices.items()
    }
    return _render(
        "eval.html.jinja",
        f"{document.run} against the gold {document.gold}"
        + (", on tasks chosen for their doubt" if document.selected else ""),
        charts,
        doc=document,
        suite=suite,
        main=main,
        slices=list(_slices(charts, "accuracy", parts, document.settings[main].accuracy)),
        scatter=_scatter(aligned, charts),
        baseline=comparison,
        flips=[] if comparison is None else _flip_rows(comparison, details, {}),
        differences=_differences(aligned, run, details),
        # A published set was not labelled with the rubric that its codes are read by.
        rubric=None if run.folder is None else run.rubric,
    )


def _slices(
    charts: Charts, what: str, slices: Mapping[str, Sequence[tuple[str, Any]]], overall: float | None
) -> Iterator[dict[str, Any]]:
    """Ways to part the tasks that give more than one figure: parts with their figures, and a chart of one of these."""
    for by, parts in slices.items():
        drawn = [
            (title, value, of.ci95.get(what) if isinstance(of, SliceFigures) else of.agreement_ci95)
            for title, of in parts
            if (value := getattr(of, what)) is not None
        ]
        if len(drawn) > 1:
            svg = charts.ranges(f"{what}-by-{by}", drawn, title=what, mark=overall)
            yield {"title": SLICES[by], "rows": parts, "svg": svg}


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


def _differences(aligned: AlignedLabels, run: Run, details: pd.DataFrame | None) -> dict[str, Any] | None:
    """Tasks where the run's value differs most from the gold's, by their effect on the occupation's mean."""
    measure = aligned.main_measure
    if measure is None:
        return None
    pair = aligned.pair(measure)
    codes = pd.Series(aligned.codes[pair.tasks])
    effect = pd.Series(pair.run - pair.gold) / codes.groupby(codes).transform("size")
    order = effect[effect != 0].sort_values(key=np.abs, ascending=False, kind="stable").index[:SHOWN]
    if not len(order):
        return None
    index = aligned.index().to_list()
    keys: list[tuple[str, str]] = [index[pair.tasks[at]] for at in order]
    first, second = (aligned.words(aligned.main, rater).to_numpy() for rater in (GOLD, 0))
    changed = [
        (key, first[pair.tasks[at]], second[pair.tasks[at]], float(effect[at]))
        for at, key in zip(order, keys, strict=True)
    ]
    return {"rows": _task_rows(changed, details, {"run": run}), "measure": measure}


def compare_page(
    document: CompareDocument,
    runs: Sequence[Run],
    details: pd.DataFrame | None = None,
    charts: Charts | None = None,
) -> str:
    """The report of a comparison of two runs, whose rationales it shows; other arguments as for `eval_page`."""
    charts = charts or Charts()
    parts = {
        by: [(MAJOR_GROUPS.get(value, value), part) for value, part in found.items() if part.n]
        for by, found in document.slices.items()
    }
    return _render(
        "compare.html.jinja",
        f"{document.runs[0]} and {document.runs[1]} compared",
        charts,
        doc=document,
        moves=_moves(document, charts),
        flips=_flip_rows(document, details, dict(zip(("first", "second"), runs, strict=True))),
        slices=list(_slices(charts, "agreement", parts, document.settings[document.main_setting].agreement)),
    )


def several_page(document: PairwiseDocument, charts: Charts | None = None) -> str:
    """The report of a comparison of several runs; arguments as for `eval_page`."""
    charts, pairs = charts or Charts(), dict[str, Markup]()
    for name, found in document.settings.items():
        rows = [
            (f"{p.first + 1} and {p.second + 1}", p.kappa, p.kappa_ci95) for p in found.pairs if p.kappa is not None
        ]
        if found.n:
            pairs[name] = charts.ranges(f"pairs-{name}", rows, title="kappa")
    return _render("several.html.jinja", f"{len(document.runs)} runs compared", charts, doc=document, pairs=pairs)


def _moves(document: CompareDocument, charts: Charts) -> Markup | None:
    measure = document.main_measure
    if measure is None or not document.occupations:
        return None
    named = [
        (shorten(f"{m.onet_soc_code} {m.title}", 42, placeholder="…"), *m.measures[measure])
        for m in document.occupations[:SHOWN]
    ]
    return charts.moves("occupations", named, title=f"mean {measure}")


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
) -> list[dict[str, Any]]:
    """Rows of the changed tasks that move most, with the rationales of runs by the names under which they are shown."""
    changed = [
        ((flip.onet_soc_code, flip.task_id), label_in_words(flip.first), label_in_words(flip.second), flip.effect)
        for flip in document.flips[:SHOWN]
    ]
    return _task_rows(changed, details, runs)


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
    return _render("tables.html.jinja", title, None, verdict=verdict, parts_of=sections, about=about, cell=cell_text)


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


def _render(template: str, title: str, charts: Charts | None, **context: Any) -> str:
    """Make a page, one HTML document, of a template in this folder and what it shows."""
    environment = Environment(
        loader=PackageLoader("relabel.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(fig=figure, signed=signed, count="{:,}".format)
    page = environment.get_template(template)
    return page.render(title=title, charts=charts, most=SHOWN, version=__version__, **context).strip() + "\n"


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
        return self._square(name, points)

    def reliability(self, name: str, bins: Sequence[ReliabilityBin]) -> Markup:
        """A reliability curve: share of right labels by mean probability, with the intervals of the shares."""
        ends = [(of.accuracy, of.accuracy) if (ci := of.ci95.get("accuracy")) is None else ci for of in bins]
        table = pd.DataFrame([(of.probability, of.accuracy, of.n, *ci) for of, ci in zip(bins, ends, strict=True)])
        table.columns = ["x", "y", "n", "low", "high"]
        scale = alt.Scale(domain=[0, 1])
        x = alt.X("x:Q", title="probability of the label", scale=scale, axis=alt.Axis(tickCount=5))
        base = alt.Chart(table).encode(x=x, y=alt.Y("y:Q", scale=scale))
        bars = base.mark_rule(color=_ACCENT, strokeWidth=2).encode(
            y=alt.Y("low:Q", title="share that is right", scale=scale), y2="high:Q"
        )
        size = alt.Size("n:Q", legend=None, scale=alt.Scale(range=[30, 220]))
        return self._square(
            name,
            bars,
            base.mark_line(color=_ACCENT, opacity=0.6),
            base.mark_circle(color=_ACCENT, opacity=1).encode(size=size),
        )

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

    def _square(self, name: str, *layers: alt.Chart) -> Markup:
        """Layers on two scales from 0 to 1, over the line of equality."""
        equal = alt.Chart(pd.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0]}))
        dashed = equal.mark_line(color=_INK, strokeDash=[4, 3], opacity=0.5).encode(x="x:Q", y="y:Q")
        return self._svg(name, alt.layer(dashed, *layers).properties(width=340, height=340))

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
