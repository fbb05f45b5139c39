"""What the publishers of a classification say about its groups: descriptions, job titles, and the wider groups above."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from relabel.scoring.files import records
from relabel.scoring.options import SAMPLE
from relabel.scoring.table import ScoreTable
from relabel.sources import onet, ons
from relabel.task import is_onet_release

_MOST_TITLES = 12
_UP: Mapping[int, Literal["major", "sub_major", "minor"]] = {1: "major", 2: "sub_major", 3: "minor"}

Row = dict[str, Any]


def group_texts(table: ScoreTable) -> dict[str, Row]:
    """Texts of the groups of a table, by code. Their files are among the sources of the table already.

    Args:
        table: A score table.

    Returns:
        For each code `description` (None where the publisher has none), `description_by`, `job_titles` (at most
        twelve) and `above` (the wider groups as `major, sub_major, minor`, each `code, title`; empty in flat lists).

    Raises:
        DataError: A source file is not to be had.
    """
    if table.taxonomy == "uk-soc2020" and table.tasks != SAMPLE:
        return _uk()
    if table.taxonomy == "onet-soc" and is_onet_release(table.tasks):
        said = records(onet.read_occupations(table.tasks))
        return {r["onet_soc_code"]: _texts(r["description"], "O*NET") for r in said}
    return {}


def _uk() -> dict[str, Row]:
    titles: dict[str, str] = {}
    found: dict[str, Row] = {}
    for row in records(ons.read_groups()):
        code = row["soc2020"]
        titles[code] = row["title"]
        if row["level"] == "unit":
            found[code] = _texts(row["description"], "Office for National Statistics", row["job_titles"])
    for code, texts in found.items():
        texts["above"] = {
            name: {"code": code[:digits], "title": titles[code[:digits]]}
            for digits, name in _UP.items()
            if code[:digits] in titles
        }
    return found


def _texts(description: str | None, by: str, job_titles: str | None = None) -> Row:
    listed = [line.strip() for line in (job_titles or "").splitlines() if line.strip()]
    return {
        "description": description,
        "description_by": by if description else None,
        "job_titles": listed[:_MOST_TITLES],
        "above": {},
    }
