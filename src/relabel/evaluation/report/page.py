"""What all reports are set in: the frame of a page, how figures are written, how much is listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from relabel import __version__
from relabel.evaluation.verdict import figure

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


def render(template: str, title: str, sections: Iterable[tuple[str, str, bool]], context: Mapping[str, Any]) -> str:
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


def _fig(value: float | None) -> str:
    return "–" if value is None else figure(value)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _count(value: int) -> str:
    return f"{value:,}"


def _p(value: float) -> str:
    return "under 0.001" if value < 0.001 else f"{value:.3f}"
