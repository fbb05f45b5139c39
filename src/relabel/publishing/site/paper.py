"""The sources of a site as a PDF, set by Typst in this process."""

from __future__ import annotations

import json
from datetime import datetime
from importlib import resources
from typing import Any

import typst

Row = dict[str, Any]

_EPOCH = "1970-01-01"


def sources_pdf(title: str, sources: list[Row], about: list[str], date: str | None) -> bytes:
    """Set the list of sources.

    What sources say reaches the template as data, never as markup. The same input gives the same bytes as long as Typst
    stays the same: the document carries the day of the run, not of today.

    Args:
        title: Head of the document.
        sources: Entries of `sources.json`.
        about: What was made from the sources, one paragraph each.
        date: `YYYY-MM-DD`; None where the run does not say.
    """
    document = {"title": title, "sources": sources, "about": about, "date": date or ""}
    template = resources.files("relabel.publishing.site").joinpath("templates/sources.typ").read_bytes()
    return typst.compile(
        template,
        sys_inputs={"document": json.dumps(document, ensure_ascii=False)},
        ignore_system_fonts=True,
        timestamp=int(datetime.fromisoformat(f"{date or _EPOCH}T00:00:00+00:00").timestamp()),
    )
