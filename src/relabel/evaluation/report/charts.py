"""Static charts as SVG that stand in a page: no script, no network, colours of the page around them.

Lines and text take the page's colour (`currentColor`) and marks its accent, so that one chart is readable in light, in dark
and in print. Shading is opacity over whatever lies below, not a colour of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import altair as alt
import pandas as pd
import vl_convert
from markupsafe import Markup

_INK, _ACCENT, _OTHER = "currentColor", "var(--accent)", "var(--other)"
_FONT = "system-ui, sans-serif"
_ID = re.compile(r'(\bid="|url\(#|href="#)([\w-]+)')
_SPOKEN = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')

Interval = tuple[float, float] | None

_WIDEST = 7.2
"""Pixels that a character of a label may take in the reader's own font, which cannot be measured here."""


def _names(order: Sequence[str]) -> alt.Axis:
    """An axis of names with room for the longest of them."""
    room = max((len(name) for name in order), default=0) * _WIDEST
    return alt.Axis(labelLimit=room, minExtent=room)


class Charts:
    """Draws the charts of one page; ids inside their SVG stay unique on it."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def matrix(self, counts: Mapping[str, Mapping[str, int]], *, rows: str, columns: str) -> Markup:
        """A confusion or transition matrix, each cell shaded by its share of the row.

        Args:
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
            (squares + base.mark_text(color=_INK, fontSize=13).encode(text="text:N")).properties(
                width=side * len(labels) * 1.3, height=side * len(labels)
            )
        )

    def ranges(self, rows: Sequence[tuple[str, float, Interval]], *, title: str, mark: float | None = None) -> Markup:
        """Figures with their intervals, one a line.

        Args:
            rows: Name, figure and interval.
            title: What the figure is.
            mark: Where to draw a line for comparison.
        """
        table = pd.DataFrame(
            [
                {
                    "name": name,
                    "value": value,
                    "low": value if ci is None else ci[0],
                    "high": value if ci is None else ci[1],
                }
                for name, value, ci in rows
            ]
        )
        order = [name for name, *_ in rows]
        y = alt.Y("name:N", sort=order, title=None, axis=_names(order))
        x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(tickCount=5))
        base = alt.Chart(table)
        lines = base.mark_rule(color=_ACCENT, strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q", y=y)
        layers = lines + base.mark_point(color=_ACCENT, filled=True, size=45, opacity=1).encode(x=x, y=y)
        if mark is not None:
            whole = alt.Chart(pd.DataFrame({"at": [mark]}))
            layers = whole.mark_rule(color=_INK, strokeDash=[4, 3], opacity=0.6).encode(x="at:Q") + layers
        return self._svg(layers.properties(width=320, height=alt.Step(19)))

    def scatter(self, table: pd.DataFrame, *, x: str, y: str) -> Markup:
        """Occupations by two scores on 0-1, with the line of equality.

        Args:
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
        return self._svg((self._diagonal(equal) + points).properties(width=340, height=340))

    def reliability(self, bins: Sequence[tuple[float, float, int, Interval]]) -> Markup:
        """A reliability curve: share of right labels by mean probability.

        Args:
            bins: Mean probability, share of right labels, labels, and interval of the share.
        """
        table = pd.DataFrame(
            [
                {"x": p, "y": a, "n": n, "low": a if ci is None else ci[0], "high": a if ci is None else ci[1]}
                for p, a, n, ci in bins
            ]
        )
        scale = alt.Scale(domain=[0, 1])
        x = alt.X("x:Q", title="probability of the label", scale=scale, axis=alt.Axis(tickCount=5))
        base = alt.Chart(table).encode(x=x)
        spread = base.mark_rule(color=_ACCENT, strokeWidth=2).encode(
            y=alt.Y("low:Q", title="share that is right", scale=scale), y2="high:Q"
        )
        curve = base.mark_line(color=_ACCENT, opacity=0.6).encode(y=alt.Y("y:Q", scale=scale))
        points = base.mark_circle(color=_ACCENT, opacity=1).encode(
            y=alt.Y("y:Q", scale=scale), size=alt.Size("n:Q", legend=None, scale=alt.Scale(range=[30, 220]))
        )
        equal = alt.Chart(pd.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0]}))
        return self._svg((self._diagonal(equal) + spread + curve + points).properties(width=340, height=340))

    def moves(self, rows: Sequence[tuple[str, float, float]], *, title: str) -> Markup:
        """Where occupations were and where they are, one a line.

        Args:
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
        return self._svg((lines + ends).properties(width=360, height=alt.Step(20)))

    @staticmethod
    def _diagonal(chart: alt.Chart) -> alt.Chart:
        return chart.mark_line(color=_INK, strokeDash=[4, 3], opacity=0.5).encode(x="x:Q", y="y:Q")

    def _svg(self, chart: alt.LayerChart | alt.FacetChart) -> Markup:
        spec: dict[str, Any] = chart.configure(
            background="transparent",
            font=_FONT,
            padding=4,
            view=alt.ViewConfig(stroke=None),
            axis=alt.AxisConfig(
                labelColor=_INK,
                titleColor=_INK,
                domainColor=_INK,
                tickColor=_INK,
                gridColor=_INK,
                gridOpacity=0.12,
                domainOpacity=0.5,
                tickOpacity=0.5,
                labelFontSize=12,
                titleFontSize=12,
                titleFontWeight="normal",
            ),
        ).to_dict()
        drawn = _SPOKEN.sub("", vl_convert.vegalite_to_svg(spec))
        mark = f"c{next(self._numbers)}-"
        drawn = _ID.sub(lambda found: f"{found[1]}{mark}{found[2]}", drawn)
        # Its words are repeated in the table beside it: to a screen reader the chart is one picture with a name.
        return Markup(drawn.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))  # noqa: S704  made here
