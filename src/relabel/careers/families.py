"""Job families: groups of O*NET codes, and the pages of careers that are made of them.

The families are data, in `data/families.toml` or in a file of the user's. `family_pages` puts together what a page shows:
exposure from a score table, jobs, pay and projections of the BLS, ratings of human advantage where a run of them is given,
and the resilience score that follows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError, model_validator

from relabel.careers.figures import FamilyFigures, Inputs, occupation_ratings
from relabel.careers.pages import CutPoints, FamilyPage, Related, load_cut_points, resilience
from relabel.errors import DataError, UsageError, first_error
from relabel.files import read_user_toml
from relabel.run import Run
from relabel.scoring.explain import answers_by_task
from relabel.scoring.table import ScoreTable
from relabel.scoring.us import us_figures, us_files
from relabel.settings import Frozen, asset_dir
from relabel.sources import onet
from relabel.sources.fetch import SourceUse, source_use
from relabel.sources.registry import load_registry

RELATED_FAMILIES = 3
RELATED_CAREERS = 8
LEAST_SIMILAR = 0.05
"""Least similarity (cosine, 0-1) of what a page names as related."""
FRAME_COLUMNS: Mapping[str, tuple[str, Callable[[FamilyPage], Any]]] = {
    "id": ("str", lambda page: page.id),
    "name": ("str", lambda page: page.name),
    "resilience": ("Int64", lambda page: page.resilience.score),
    "points_so_far": ("Int64", lambda page: page.resilience.so_far),
    "points_of": ("Int64", lambda page: page.resilience.of),
    "low_exposure": ("Int64", lambda page: page.resilience.parts[0].points),
    "growing_demand": ("Int64", lambda page: page.resilience.parts[1].points),
    "human_advantage": ("Int64", lambda page: page.resilience.parts[2].points),
    "strict": ("float64", lambda page: page.exposure.strict),
    "with_tools": ("float64", lambda page: page.exposure.with_tools),
    "change_percent": ("float64", lambda page: page.outlook.change_percent),
    "epoch": ("float64", lambda page: page.epoch and page.epoch.total),
    "occupations": ("Int64", lambda page: len(page.roles)),
    "employment_us": ("float64", lambda page: page.pay[0].employment),
    "median_wage_usd": ("float64", lambda page: page.pay[0].weighted["median"]),
    "lowest_median_wage_usd": ("float64", lambda page: page.pay[0].lowest_median),
    "highest_median_wage_usd": ("float64", lambda page: page.pay[0].highest_median),
    "wage_source": ("str", lambda page: f"OEWS {page.pay[0].period}"),
    "words": ("str", lambda page: page.resilience.words),
}
"""Columns of `family_frame`: their type, and what they hold."""
_RELEASE = "onet-30.2"
"""Where job zones and activities come from when the task list is not a release of O*NET that has them."""
_ONET_ROLES = ("job-zones", "tasks-to-dwas", "dwas")
_CODE = re.compile(r"\d{2}-\d{4}(\.\d{2})?", re.ASCII)


class Family(Frozen):
    """A job family.

    Attributes:
        id: Short name, fit for a file name.
        name: Its name on a page.
        description: What its people do, in a sentence.
        codes: O*NET-SOC codes (`51-4121.00`), or six-digit codes that stand for all of their detailed codes.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    name: str = Field(min_length=1)
    description: str = Field(min_length=1)
    codes: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _codes_are_codes(self) -> Self:
        for code in self.codes:
            if not _CODE.fullmatch(code):
                raise ValueError(
                    f"codes: {code!r} is not an O*NET-SOC code; write it like 51-4121.00, or 51-4121 for all"
                )
        return self

    def members(self, codes: Sequence[str]) -> list[str]:
        """Those of some O*NET-SOC codes that belong to the family, in their order."""
        wanted = set(self.codes)
        return [code for code in codes if code in wanted or code[:7] in wanted]


def load_families(path: Path | None = None) -> tuple[Family, ...]:
    """Read job families.

    Args:
        path: A TOML file in the form of `data/families.toml`; by default that file.

    Raises:
        DataError: The file is missing, is not TOML, an entry lacks a key or holds a bad value, or an id or a code is given
            twice.
    """
    path = path or asset_dir("data") / "families.toml"
    document = read_user_toml(path, "data/families.toml")
    entries: object = document.get("family")
    if not isinstance(entries, list) or not entries or set(document) != {"family"}:
        raise DataError(f"the job families {path} must hold [[family]] entries and nothing else; correct the file")
    families = tuple(_parse(path, number, entry) for number, entry in enumerate(cast("list[Any]", entries), start=1))
    _check_once(path, families)
    return families


def _parse(path: Path, number: int, entry: object) -> Family:
    try:
        return Family.model_validate(entry)
    except ValidationError as error:
        fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        about = f"entry {fields.get('id', number)!r}: {first_error(error)}"
        raise DataError(f"the job families {path}, {about}; correct the file") from error


def _check_once(path: Path, families: Sequence[Family]) -> None:
    ids: set[str] = set()
    owner: dict[str, str] = {}
    for family in families:
        if family.id in ids:
            raise DataError(f"the job families {path} have two entries with the id {family.id!r}; keep one")
        ids.add(family.id)
        for code in family.codes:
            # A six-digit code holds its detailed ones, so both of them would count an occupation twice.
            clash = next((c for c in owner if c == code or c == code[:7] or c[:7] == code), None)
            if clash is not None:
                raise DataError(
                    f"the job families {path} have {code} twice, in {owner[clash]!r} and in {family.id!r}; an occupation "
                    "belongs to one family, so keep one"
                )
            owner[code] = family.id


def family_pages(
    table: ScoreTable,
    run: Run,
    epoch_run: Run | None = None,
    *,
    families: Sequence[Family] | None = None,
    cuts: CutPoints | None = None,
) -> list[FamilyPage]:
    """Put together the pages of job families.

    Args:
        table: A score table of any taxonomy; its scores by O*NET-SOC code count.
        run: The run that it was made from, by which tasks are traced to answers.
        epoch_run: A run that rates occupations by the rubric `epoch`; without one the part human advantage is missing.
        families: The families; by default those that ship with relabel.
        cuts: Cut-points of resilience; by default those that ship with relabel.

    Returns:
        A page for each family with an occupation in the table, in the order of the families.

    Raises:
        UsageError: `epoch_run` rates no occupations, or rates the sample's for a table of others, or the reverse.
        DataError: A source file cannot be obtained.
    """
    chosen = load_families() if families is None else families
    cuts = cuts or load_cut_points()
    if epoch_run is not None and (epoch_run.manifest.tasks == "sample") != table.sample:
        raise UsageError(
            f"the run {epoch_run.ref} rates {epoch_run.manifest.tasks} and the scores are of {table.tasks}: the built-in "
            "sample cannot be mixed with other lists; use another --epoch"
        )
    # Codes without tasks have jobs too, and share published figures with the others, as in a score table.
    codes = sorted(table.occupation_titles)
    members = {family.id: family.members(codes) for family in chosen}
    with_tasks = set(table.occupations.index)
    members = {name: own for name, own in members.items() if with_tasks & set(own)}
    own = load_registry().get(table.tasks)
    release = table.tasks if own is not None and all(own.find_role(role) for role in _ONET_ROLES) else _RELEASE
    # The sample's tasks are invented: what is published about real occupations says nothing about them.
    real = not table.sample
    zones = onet.read_job_zones(release) if real else None
    inputs = Inputs(
        table=table,
        us=us_figures(codes) if real else None,
        ratings=None if epoch_run is None else occupation_ratings(epoch_run).to_dict("index"),  # pyright: ignore[reportArgumentType]  codes are text
        job_zones={} if zones is None else dict(zip(zones["onet_soc_code"], map(int, zones["job_zone"]), strict=True)),
        request_keys={
            task: tuple(dict.fromkeys(answer["request_key"] for answer in answers if answer["request_key"] is not None))
            for task, answers in answers_by_task(run, set(itertools.chain.from_iterable(members.values()))).items()
        },
    )
    related = _related(chosen, members, table, release) if real else {}
    uses = (*table.sources, *_sources(release, epoch_run, real=real))
    return [
        _page(family, FamilyFigures(inputs, members[family.id]), table, epoch_run, cuts, related, uses)
        for family in chosen
        if family.id in members
    ]


def family_frame(pages: Sequence[FamilyPage]) -> pd.DataFrame:
    """The figures of some pages as a table, a row a family.

    Returns:
        Columns `id, name, resilience` (0-6; missing while a part is), `points_so_far, points_of`, the points of the parts,
        `strict, with_tools` (shares, 0-1), `change_percent`, `epoch` (5-25), `occupations`, and of the latest release
        `employment_us` (jobs), `median_wage_usd` (mean of the medians weighted by jobs), `lowest_median_wage_usd,
        highest_median_wage_usd, wage_source` (such as `OEWS May 2024`); `words` says what is missing.
    """
    columns = {name: pd.Series([of(page) for page in pages], dtype=kind) for name, (kind, of) in FRAME_COLUMNS.items()}
    return pd.DataFrame(columns)


def _page(
    family: Family,
    figures: FamilyFigures,
    table: ScoreTable,
    epoch_run: Run | None,
    cuts: CutPoints,
    related: Mapping[str, tuple[tuple[Related, ...], tuple[Related, ...]]],
    sources: tuple[SourceUse, ...],
) -> FamilyPage:
    exposure, outlook = figures.exposure(), figures.outlook()
    epoch, no_epoch = figures.epoch()
    near, careers = related.get(family.id, ((), ()))
    score = resilience(
        cuts,
        exposure=exposure.strict if cuts.low_exposure.reading == "strict" else exposure.with_tools,
        change_percent=outlook.change_percent,
        ratings=None if epoch is None else epoch.total,
        span=f"from {outlook.start} to {outlook.end}",
        why_missing={"low-exposure": exposure.words, "growing-demand": outlook.status, "human-advantage": no_epoch},
    )
    return FamilyPage(
        **family.model_dump(exclude={"codes"}),
        **{name: getattr(table, name) for name in ("run", "model", "tasks", "sample", "partial", "note")},
        epoch_run=None if epoch_run is None else epoch_run.name,
        exposure=exposure,
        outlook=outlook,
        pay=figures.pay(),
        preparation=figures.preparation(),
        epoch=epoch,
        resilience=score,
        responsibilities=figures.responsibilities(),
        roles=figures.roles(),
        related_families=near,
        related_careers=careers,
        sources=sources,
    )


def _related(
    families: Sequence[Family], members: Mapping[str, Sequence[str]], table: ScoreTable, release: str
) -> dict[str, tuple[tuple[Related, ...], tuple[Related, ...]]]:
    """By family the nearest other families, and the nearest occupations that are not in it."""
    titles = table.occupation_titles
    codes = [str(code) for code in table.occupations.index]
    groups = {family.id: members[family.id] for family in families if family.id in members}
    occupations = {code: [code] for code in codes}
    cosines = activity_similarity(groups, {**groups, **occupations}, onet.read_dwas(release))
    alike = cast("dict[str, dict[str, float]]", cosines.to_dict("index"))
    names = {family.id: family.name for family in families} | {code: titles[code] for code in codes}

    def nearest(family: str, among: Sequence[str], most: int) -> tuple[Related, ...]:
        near = [name for name in among if alike[family][name] >= LEAST_SIMILAR]
        near.sort(key=lambda name: (-alike[family][name], name))
        return tuple(Related(id=name, name=names[name], similarity=alike[family][name]) for name in near[:most])

    return {
        family: (
            nearest(family, [other for other in groups if other != family], RELATED_FAMILIES),
            nearest(family, sorted(set(codes).difference(own)), RELATED_CAREERS),
        )
        for family, own in groups.items()
    }


def _sources(release: str, epoch_run: Run | None, *, real: bool) -> list[SourceUse]:
    uses = list(epoch_run.manifest.sources) if epoch_run is not None else []
    if real:
        uses += [source_use(*file) for file in us_files()]
        uses += [source_use(release, role) for role in _ONET_ROLES]
    return uses


def activity_similarity(
    groups: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]], activities: pd.DataFrame
) -> pd.DataFrame:
    """Cosine between groups of occupations, by the activities that their tasks ask for.

    An occupation is a vector of length 1 over O*NET's detailed work activities: how many of its tasks ask for each, times
    the logarithm of how rare the activity is among occupations, so that what nearly all do tells little. A group is the
    mean of its occupations.

    Args:
        groups: O*NET-SOC codes by name; the rows.
        others: O*NET-SOC codes by name; the columns.
        activities: Columns `onet_soc_code, dwa_id`, one row a task and activity.

    Returns:
        Cosines, 0-1; 0 for a group without activities.
    """
    counts = activities.groupby(["onet_soc_code", "dwa_id"]).size().rename("count").reset_index()
    codes, code_names = pd.factorize(counts["onet_soc_code"], sort=True)
    kinds, _ = pd.factorize(counts["dwa_id"], sort=True)
    matrix = np.zeros((len(code_names), int(kinds.max(initial=-1)) + 1))
    matrix[codes, kinds] = counts["count"].to_numpy(dtype="float64")
    rarity = np.log(max(len(code_names), 1) / np.maximum((matrix > 0).sum(axis=0), 1))
    vectors = _unit(matrix * rarity)
    place = {str(code): row for row, code in enumerate(code_names)}

    def means(named: Mapping[str, Sequence[str]]) -> np.ndarray:
        rows = [[place[code] for code in codes if code in place] for codes in named.values()]
        found = [vectors[row].mean(axis=0) if row else np.zeros(matrix.shape[1]) for row in rows]
        return _unit(np.array(found).reshape(len(named), matrix.shape[1]))

    cosine = np.clip(means(groups) @ means(others).T, 0.0, 1.0)
    return pd.DataFrame(cosine, index=list(groups), columns=list(others))


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
