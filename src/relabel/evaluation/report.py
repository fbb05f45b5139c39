"""HTML reports: of an evaluation, of a comparison of two runs, and of several. Each is one file without scripts.

Charts are inline SVG. Lines and text take the page's text colour (`currentColor`) and marks its accent colour, so a chart is
readable in light mode, in dark mode and in print. Shading is opacity over the background, not a colour of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import shorten
from typing import Any, cast

import altair as alt
import pandas as pd
import vl_convert
from markupsafe import Markup

from relabel.evaluation.alignment import GOLD, MAIN, AlignedLabels, TaskTexts, match, rationales
from relabel.evaluation.compare import CompareDocument, Flip, PairwiseDocument, flips_of
from relabel.evaluation.document import Bounds, EvalDocument, ReliabilityBin, SettingName, label_in_words
from relabel.evaluation.gold import Gold
from relabel.evaluation.suite import SuiteResult, render
from relabel.rubric import Measure
from relabel.run import Run
from relabel.tabular import Cell, Signed, Table, counted
from relabel.task import TASK_KEY

# Most tasks that a page lists; the JSON document has all of them.
SHOWN = 25

_INK, _ACCENT = "currentColor", "var(--accent)"
_FONT = "system-ui, sans-serif"
_AXIS: Mapping[str, Any] = {
    **dict.fromkeys(("labelColor", "titleColor", "domainColor", "tickColor", "gridColor"), _INK),
    **dict.fromkeys(("domainOpacity", "tickOpacity"), 0.5),
    "gridOpacity": 0.12,
    **dict.fromkeys(("labelFontSize", "titleFontSize"), 12),
    "titleFontWeight": "normal",
}
_ID = re.compile(r'(\bid="|url\(#|href="#)([\w-]+)')
_ARIA = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')

# Pixels reserved for each character of a label; the reader's font is unknown, so its real width cannot be measured.
_CHARACTER_WIDTH = 7.2


def eval_page(
    document: EvalDocument,
    tables: Sequence[Table],
    run: Run,
    gold: Gold,
    *,
    suite: SuiteResult | None = None,
    comparison: CompareDocument | None = None,
    details: pd.DataFrame | None = None,
) -> tuple[str, Charts]:
    """The report of an evaluation, as one HTML document, and its charts.

    Args:
        document: The evaluation.
        tables: Its figures as tables; the key of a table decides which chart it gets.
        run: The evaluated run, for rationales and the means of occupations.
        gold: The gold that it was evaluated against.
        suite: The result of a suite, if one was run.
        comparison: The comparison of the suite's baseline with the run.
        details: Task table (`relabel.task.task_schema`) for statements and titles; without it these are left out.
    """
    charts, aligned = Charts(), match(run, gold)
    main: SettingName = next(s for s in MAIN if s in document.settings)
    sections = list[tuple[str, Table, Markup | None]]()
    for table in tables:
        kind, _, name = table.key.partition("-")
        svg = None
        if kind == "confusion":
            counts = document.settings[cast("SettingName", name)].confusion
            svg = charts.matrix(table.key, counts, rows="gold", columns="run")
        elif kind == "slices" and len(ranges := table.ranges(3)) > 1:
            overall = document.settings[main].accuracy
            svg = charts.ranges(f"accuracy-by-{name}", ranges, title="accuracy", mark=overall)
        elif kind == "measures":
            svg = _scatter(aligned, charts)
        sections.append((table.key, table, svg))
    for setting, figures in (document.calibration or {}).items():
        curve = Table(f"Reliability of the probabilities, {setting}", (), ())
        sections.append((f"calibration-{setting}", curve, charts.reliability(f"calibration-{setting}", figures.bins)))
    if comparison is not None:
        flips = _flip_table(comparison.flips, ("baseline", "run"), {}, comparison.main_measure)
        notes = [*comparison.verdict.splitlines(), *flips.notes]
        counts = comparison.settings[comparison.main_setting].transitions
        svg = charts.matrix("changes-against-baseline", counts, rows="baseline", columns="run")
        sections.append(("flips", replace(flips, title="Changes against the baseline", notes=notes), svg))
    if differences := [flip for flip in flips_of(aligned, GOLD, 0, TaskTexts(details)) if flip.effect]:
        difference_table = _flip_table(differences, ("gold", "run"), {"run": run}, aligned.main_measure)
        sections.append(("differences", replace(difference_table, title="Where run and gold differ most"), None))
    text = render(
        "eval.html.jinja",
        title=f"{document.run} against the gold {document.gold}"
        + (", on tasks chosen because they were doubtful" if document.selected else ""),
        verdict=document.verdict.splitlines(),
        parts_of=sections,
        doc=document,
        suite=suite,
        # A published set was not labelled with the rubric that relabel reads its codes with.
        rubric=None if run.folder is None else run.rubric,
    )
    return text, charts


def _scatter(aligned: AlignedLabels, charts: Charts) -> Markup | None:
    """Means of occupations, gold against run; None without a main measure or with fewer than 3 occupations."""
    measure = aligned.main_measure
    if measure is None:
        return None
    pair = aligned.pair(measure)
    means = pd.DataFrame({"x": pair.gold, "y": pair.run}).groupby(aligned.codes[pair.tasks]).mean()
    if len(means) < 3:
        return None
    return charts.scatter("occupations", means, x=f"mean {measure} by the gold", y=f"mean {measure} by the run")


def compare_page(
    document: CompareDocument | PairwiseDocument, tables: Sequence[Table], runs: Sequence[Run]
) -> tuple[str, Charts]:
    """The report of a comparison, as one HTML document, and its charts; for two runs with the rationales for changed tasks.

    Args:
        document: The comparison.
        tables: Its figures as tables; the key of a table decides which chart it gets.
        runs: The compared runs, in the order of the document.
    """
    charts, sections = Charts(), list[tuple[str, Table, Markup | None]]()
    for table in tables:
        kind, _, name = table.key.partition("-")
        svg = None
        if isinstance(document, CompareDocument):
            if kind == "transitions":
                counts = document.settings[cast("SettingName", name)].transitions
                svg = charts.matrix(table.key, counts, rows="first", columns="second")
            elif kind == "agreement" and len(ranges := table.ranges()) > 1:
                overall = document.settings[document.main_setting].agreement
                svg = charts.ranges(table.key, ranges, title="agreement", mark=overall)
            elif kind == "occupations":
                moved = [(shorten(str(row[0]), 42, placeholder="…"), *row[3:5]) for row in table.rows]
                ends: list[Any] = [(name, second, (first, second)) for name, first, second in moved]
                title = f"mean {document.main_measure}, from the first run to the second (point)"
                svg = charts.ranges(table.key, ends, title=title)
            elif kind == "flips":
                with_words = {"first": runs[0], "second": runs[1]}
                whole = _flip_table(document.flips, ("first", "second"), with_words, document.main_measure)
                table = replace(whole, title=table.title, key=kind)  # noqa: PLW2901  the same, with rationales
        elif kind == "pairs":
            svg = charts.ranges(table.key, table.ranges(3), title="kappa")
        sections.append((table.key, table, svg))
    numbered = enumerate(zip(document.runs, document.models, strict=True), 1)
    about = [f"{counted(document.common, 'common task')}."]
    about += [f"{n}: {run if run == model else f'{run} ({model})'}." for n, (run, model) in numbered]
    many = f"{len(document.runs)} runs" if len(document.runs) > 2 else " and ".join(document.runs)
    foot = f"Intervals: {document.bootstrap.draws:,} draws of occupations, seed {document.bootstrap.seed}."
    return tables_page(f"{many} compared", document.verdict.splitlines(), sections, " ".join(about), foot), charts


def _flip_table(
    flips: Sequence[Flip], names: tuple[str, str], runs: Mapping[str, Run], measure: Measure | None
) -> Table:
    """A table of the first `SHOWN` flips with their statements, and with rationales from `runs` (by the name to show)."""
    most = flips[:SHOWN]
    index = pd.MultiIndex.from_tuples([(flip.onet_soc_code, flip.task_id) for flip in most], names=TASK_KEY)
    reasons, rows = [rationales(run, index, name) for name, run in runs.items()], list[Sequence[Cell]]()
    for flip in most:
        lines = [flip.text or "(statement not on this machine)", *([flip.title] if flip.title else [])]
        lines += [series[key] for series in reasons if (key := (flip.onet_soc_code, flip.task_id)) in series.index]
        labels = (label_in_words(flip.first), label_in_words(flip.second))
        rows.append([f"{flip.task_id}\n{flip.onet_soc_code}", *labels, "\n".join(lines), Signed(flip.effect)])
    note = f"Effect: change of the occupation's mean {measure} that this task alone makes, all its tasks weighing the same."
    return Table("", ("task", *names, "statement", "effect"), rows, left=4, notes=[note])


def tables_page(
    title: str, verdict: Sequence[str], sections: Sequence[tuple[str, Table, Markup | None]], about: str, foot: str = ""
) -> str:
    """A page of tables that begins with the result in words.

    Args:
        title: Title of the page.
        verdict: The result, one sentence per item.
        sections: For each section its key, its table, and its chart or None.
        about: What the figures are based on.
        foot: Text below the last section.

    Returns:
        One HTML document.
    """
    return render("tables.html.jinja", title=title, verdict=verdict, parts_of=sections, about=about, foot=foot)


_TAG = re.compile(r"<[a-zA-Z][^>]*>")
_OPACITY = re.compile(r' (?:(fill|stroke)-)?opacity="([\d.]+)"')
_PAINT = re.compile(r'(fill|stroke)="#([0-9a-f]{6})"')


def _opaque(tag: str) -> str:
    """A tag with colours mixed with white instead of transparency, which a PDF would store in a different order each time."""
    parts = {"": 1.0, "fill": 1.0, "stroke": 1.0} | {kind: float(part) for kind, part in _OPACITY.findall(tag)}

    def mixed(paint: re.Match[str]) -> str:
        part, (red, green, blue) = parts[""] * parts[paint[1]], bytes.fromhex(paint[2])
        return f'{paint[1]}="#' + "".join(f"{round(255 - (255 - x) * part):02x}" for x in (red, green, blue)) + '"'

    return _PAINT.sub(mixed, _OPACITY.sub("", tag))


def _name_axis(order: Sequence[str]) -> alt.Axis:
    """An axis of names with room for the longest one."""
    room = max((len(name) for name in order), default=0) * _CHARACTER_WIDTH
    return alt.Axis(labelLimit=room, minExtent=room)


class Charts:
    """Draws the charts of one page and keeps the ids inside their SVG unique on it."""

    def __init__(self) -> None:
        self._drawn: dict[str, str] = {}

    def files(self) -> dict[str, bytes]:
        """The charts as SVG and PDF files for a paper, by file name; in black and blue on white."""
        files: dict[str, bytes] = {}
        for name, spec in self._drawn.items():
            for ink, colour in {_INK: "#1a1a1a", _ACCENT: "#0b5cad", "transparent": "white"}.items():
                spec = spec.replace(f'"{ink}"', f'"{colour}"')  # noqa: PLW2901  one colour after another
            svg = _TAG.sub(lambda tag: _opaque(tag[0]), vl_convert.vegalite_to_svg(spec))
            files |= {f"{name}.svg": svg.encode(), f"{name}.pdf": vl_convert.svg_to_pdf(svg)}
        return files

    def matrix(self, name: str, counts: Mapping[str, Mapping[str, int]], *, rows: str, columns: str) -> Markup:
        """A confusion or transition matrix, each cell shaded by its share of the row.

        Args:
            name: File name of the chart, without suffix.
            counts: Counts by row label, then by column label.
            rows: Title of the rows.
            columns: Title of the columns.
        """
        cells = pd.DataFrame(
            [(row, col, n, n / max(sum(line.values()), 1)) for row, line in counts.items() for col, n in line.items()],
            columns=["row", "column", "text", "share"],
        )
        labels = list(counts)
        base = alt.Chart(cells).encode(
            x=alt.X("column:N", sort=labels, title=columns, axis=alt.Axis(orient="top", labelAngle=0)),
            y=alt.Y("row:N", sort=labels, title=rows),
        )
        # At full opacity, the number in a cell could not be read.
        shades = alt.Scale(domain=[0, 1], range=[0.02, 0.55])
        squares = base.mark_rect(color=_ACCENT, stroke=_INK, strokeOpacity=0.25).encode(
            fillOpacity=alt.FillOpacity("share:Q", scale=shades, legend=None)
        )
        numbers = base.mark_text(color=_INK, fontSize=13).encode(text=alt.Text("text:Q", format=","))
        height = (62 if len(labels) < 5 else 46) * len(labels)
        return self._svg(name, (squares + numbers).properties(width=1.3 * height, height=height))

    def ranges(
        self, name: str, rows: Sequence[tuple[str, float, Bounds | None]], *, title: str, mark: float | None = None
    ) -> Markup:
        """Figures with their intervals, one per line.

        Args:
            name: As for `matrix`.
            rows: Name, figure, and interval or None.
            title: What the figure is.
            mark: Figure at which to draw a line for comparison.
        """
        spread = [(name, value, *(ci or (value, value))) for name, value, ci in rows]
        table = pd.DataFrame(spread, columns=["name", "value", "low", "high"])
        order = [name for name, *_ in rows]
        y = alt.Y("name:N", sort=order, title=None, axis=_name_axis(order))
        x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(tickCount=5))
        base = alt.Chart(table)
        lines = base.mark_rule(color=_ACCENT, strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q", y=y)
        layers = lines + base.mark_point(color=_ACCENT, filled=True, size=45, opacity=1).encode(x=x, y=y)
        if mark is not None:
            whole = alt.Chart(pd.DataFrame({"at": [mark]}))
            layers = whole.mark_rule(color=_INK, strokeDash=[4, 3], opacity=0.6).encode(x="at:Q") + layers
        return self._svg(name, layers.properties(width=320, height=alt.Step(19)))

    def scatter(self, name: str, table: pd.DataFrame, *, x: str, y: str) -> Markup:
        """Occupations by two scores (0-1), with the line of equality.

        Args:
            name: As for `matrix`.
            table: Columns `x, y`, one row per occupation.
            x: Title of the x axis.
            y: Title of the y axis.
        """
        scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(tickCount=5)
        points = alt.Chart(table.astype(float)).mark_circle(color=_ACCENT, size=26, opacity=0.4)
        points = points.encode(
            x=alt.X("x:Q", title=x, scale=scale, axis=axis), y=alt.Y("y:Q", title=y, scale=scale, axis=axis)
        )
        return self._square(name, points)

    def reliability(self, name: str, bins: Sequence[ReliabilityBin]) -> Markup:
        """A reliability curve: the share of correct labels against the mean probability of each bin, with intervals of the shares."""
        rows = [(b.probability, b.accuracy, b.n, *(b.ci95.get("accuracy") or (b.accuracy,) * 2)) for b in bins]
        table = pd.DataFrame(rows, columns=["x", "y", "n", "low", "high"])
        scale = alt.Scale(domain=[0, 1])
        x = alt.X("x:Q", title="probability of the label", scale=scale, axis=alt.Axis(tickCount=5))
        base = alt.Chart(table).encode(x=x, y=alt.Y("y:Q", scale=scale))
        bars = base.mark_rule(color=_ACCENT, strokeWidth=2).encode(
            y=alt.Y("low:Q", title="share that is right", scale=scale), y2="high:Q"
        )
        size = alt.Size("n:Q", legend=None, scale=alt.Scale(range=[30, 220]))
        points = base.mark_circle(color=_ACCENT, opacity=1).encode(size=size)
        return self._square(name, bars, base.mark_line(color=_ACCENT, opacity=0.6), points)

    def _square(self, name: str, *layers: alt.Chart) -> Markup:
        """Layers on two axes from 0 to 1, drawn over the line of equality."""
        equal = alt.Chart(pd.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0]}))
        dashed = equal.mark_line(color=_INK, strokeDash=[4, 3], opacity=0.5).encode(x="x:Q", y="y:Q")
        return self._svg(name, alt.layer(dashed, *layers).properties(width=340, height=340))

    def _svg(self, name: str, chart: alt.LayerChart | alt.FacetChart) -> Markup:
        view, axis = alt.ViewConfig(stroke=None), alt.AxisConfig(**_AXIS)
        whole = chart.configure(background="transparent", font=_FONT, padding=4, view=view, axis=axis)
        self._drawn[name] = spec = whole.to_json()
        svg = _ARIA.sub("", vl_convert.vegalite_to_svg(spec))
        prefix = f"c{len(self._drawn)}-"
        svg = _ID.sub(lambda occurrence: f"{occurrence[1]}{prefix}{occurrence[2]}", svg)
        # Hide the inside of the chart from screen readers: the page names the picture, and tables hold its figures.
        return Markup(svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))  # noqa: S704  made here
