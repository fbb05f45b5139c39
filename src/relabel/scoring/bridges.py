"""Bridges from O*NET-SOC codes to another classification, built from tables of weighted links.

A bridge is a chain of steps, each a table `source, target, weight`. The score of a target is the weighted mean of its
scored sources. Chained means are linear in the scores of the O*NET-SOC codes, so the chain is first multiplied out into
shares (`Bridge.shares`): how much each O*NET-SOC code contributes to a target. Scores, coverage and the occupation pages
are all computed from these shares.

Links have equal weights, or are weighted by entries of the ONS coding index or by US jobs, see `options.Links`. With weights
by jobs, the jobs of a code are split evenly among its targets at each step, because no crosswalk says how they divide: a code
with many targets counts little in each, and no job is counted twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa

from relabel.errors import ColumnError, DataError, UsageError
from relabel.scoring.options import DEFAULT_LINKS, SAMPLE, SYSTEM_NAMES, Links, Method, System, Taxonomy
from relabel.settings import asset_dir
from relabel.sources import bls, eloundou, onet, ons
from relabel.sources.tables import plain_id, read_table
from relabel.tabular import listed_names
from relabel.task import is_onet_release

# Links of a step. Weights are relative to the other sources of the same target, in any unit.
LINKS = pa.DataFrameSchema(
    {
        "source": pa.Column("str"),
        "target": pa.Column("str"),
        "weight": pa.Column("float64", pa.Check.gt(0)),
    },
    unique=["source", "target"],
    strict=True,
)

_MAX_CODES_SHOWN = 4
_BROAD_GROUP = 6  # characters of a SOC code that name its broad group, such as 13-102
_MILITARY = "55-"  # prefix of military SOC codes
_THREE_DIGIT_NOTE = "its rows for the three-digit ISCO-08 groups 211 and 315 lead to no group"
_ISCO_UNIT = 4  # digits of an ISCO-08 unit group
_ISCO_FILE = ("bls-isco08-soc2010", "crosswalk")
_UK_FILE = ("ons-soc2020", "unit-groups")


@dataclass(frozen=True)
class Step:
    """One step of a bridge.

    Attributes:
        source: Classification of the source codes.
        target: Classification of the target codes.
        links: Table of schema `LINKS`.
        origin: Where the links come from and how they are weighted, in words.
        note: A remark on the source codes for statuses that explain why a code has no score; may be empty.
        files: Source files, as pairs of source id and role.
    """

    source: System
    target: System
    links: pd.DataFrame
    origin: str
    note: str = ""
    files: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        LINKS.validate(self.links)


@dataclass(frozen=True)
class Bridge:
    """A mapping from O*NET-SOC 2019 to a taxonomy.

    Attributes:
        name: Short name.
        target: The taxonomy.
        steps: The steps in order; empty if the taxonomy is O*NET-SOC itself.
        titles: All codes of the taxonomy with their titles: columns `code, title`, sorted by code.
        donors: O*NET-SOC codes with task statements. A target without a link from any of them borrows the shares of donors
            in the same SOC broad group, see `same_broad_group`. If empty, no target borrows.
    """

    name: str
    target: Taxonomy
    steps: tuple[Step, ...]
    titles: pd.DataFrame
    donors: frozenset[str] = frozenset()
    _cache: dict[tuple[frozenset[str], bool], pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Source files of all steps, as pairs of source id and role."""
        return tuple(file for step in self.steps for file in step.files)

    def shares(self, scored: Collection[str]) -> pd.DataFrame:
        """The share of each O*NET-SOC code in each target, when only these codes have a score.

        At every step, weights are relative to the sources that have a score. Targets without a link from a code with task
        statements borrow shares, see `donors`.

        Args:
            scored: O*NET-SOC codes with a score.

        Returns:
            Columns `code, onet_soc_code, share`; shares are above 0 and sum to 1 for each target that is reached.
        """
        return self._multiply_out(scored, relative_to_reached=True)

    def reach(self, listed: Collection[str]) -> pd.DataFrame:
        """The share of each O*NET-SOC code in each target, relative to everything that is linked to the target.

        Args:
            listed: O*NET-SOC codes that have tasks, labelled or not.

        Returns:
            As `shares`, but shares of a target sum to less than 1 where linked codes have no tasks.
        """
        return self._multiply_out(listed, relative_to_reached=False)

    def _multiply_out(self, codes: Collection[str], *, relative_to_reached: bool) -> pd.DataFrame:
        key = (frozenset(codes), relative_to_reached)
        if key not in self._cache:
            shares = _initial_shares(codes)
            for number, step in enumerate(self.steps):
                # The first step ignores codes without task statements, because they have nothing to label.
                shares = _next_shares(shares, step.links, relative_to_reached=relative_to_reached or number == 0)
            if relative_to_reached and self.donors:
                shares = pd.concat([shares, self._borrowed(codes)])
            shares = shares[_isin(shares["code"], self.titles["code"])]
            self._cache[key] = shares.sort_values(["code", "onet_soc_code"], ignore_index=True)
        return self._cache[key]

    def _borrowed(self, scored: Collection[str]) -> pd.DataFrame:
        """Shares of the targets without a link from a code with task statements, borrowed from donors."""
        titles = self.titles["code"]
        lacking = titles[~_isin(titles, self.reach(self.donors)["code"])]
        first, *others = [step.links for step in self.steps]
        first = pd.concat([first, same_broad_group(first, self.donors)])
        # Keep only links that lead to these targets, but all links of a kept target: their weights are relative to each other.
        needed = [lacking]
        for links in reversed(others):
            needed.append(links.loc[_isin(links["target"], needed[-1]), "source"])
        shares = _initial_shares(scored)
        for links, targets in zip((first, *others), reversed(needed), strict=True):
            shares = _next_shares(shares, links[_isin(links["target"], targets)], relative_to_reached=True)
        return shares

    def status_without(self, code: str, listed: Collection[str], *, borrowed: bool = False) -> str:
        """The status, with its reason, of a target without labelled tasks of its own.

        Args:
            code: A code of the taxonomy that is missing from `shares`.
            listed: O*NET-SOC codes that have tasks.
            borrowed: Whether it has borrowed a score.
        """
        lacking, reached, note = [code], {code}, ""
        for step in reversed(self.steps):
            links = step.links[step.links["target"].isin(reached)]
            if links.empty:
                reason = f"no {SYSTEM_NAMES[step.source]} code leads to {SYSTEM_NAMES[step.target]} {listed_names(lacking, _MAX_CODES_SHOWN)}{note}"
                break
            note = f" ({step.note})" if step.note else ""
            reached = set(links["source"])
            lacking = sorted(reached)
        else:
            missing = "labelled tasks" if reached & set(listed) else "task statements"
            reason = f"no {missing} for {SYSTEM_NAMES['onet-soc']} {listed_names(lacking, _MAX_CODES_SHOWN)}"
        if not borrowed:
            return f"unscored: {reason}"
        return f"thin: borrowed from the other occupations of the same broad group of US SOC, because {reason}"


def onet_occupations(tasks: str, listed: pd.DataFrame) -> pd.DataFrame:
    """The rows of a score table by O*NET-SOC: columns `onet_soc_code, title`, sorted by code.

    Args:
        tasks: Name of a task list.
        listed: Its tasks, columns `onet_soc_code, title`.
    """
    if tasks == "eloundou-2023":
        return eloundou.read_occupations()[["onet_soc_code", "title"]]
    if is_onet_release(tasks):
        return onet.read_occupations(tasks)[["onet_soc_code", "title"]]
    own = listed[["onet_soc_code", "title"]].drop_duplicates("onet_soc_code")
    return own.sort_values("onet_soc_code", ignore_index=True)


def _isin(column: pd.Series, codes: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Like `Series.isin`, but faster for strings."""
    members = frozenset(codes.tolist() if isinstance(codes, pd.Series) else codes)
    return np.fromiter((code in members for code in column.tolist()), dtype=bool, count=len(column))


def _initial_shares(codes: Collection[str]) -> pd.DataFrame:
    start = sorted(codes)
    return pd.DataFrame({"code": start, "onet_soc_code": start}, dtype="str").assign(share=1.0)


def _next_shares(shares: pd.DataFrame, links: pd.DataFrame, *, relative_to_reached: bool) -> pd.DataFrame:
    """Carry shares of source codes over one step, to its target codes."""
    if relative_to_reached:
        links = links[_isin(links["source"], shares["code"])]
    part = links["weight"] / links.groupby("target")["weight"].transform("sum")
    onwards = links.assign(part=part)[["source", "target", "part"]]
    shares = shares.merge(onwards, left_on="code", right_on="source")
    shares["share"] *= shares["part"]
    summed = shares.groupby(["target", "onet_soc_code"])["share"].sum().reset_index()
    return summed.set_axis(["code", "onet_soc_code", "share"], axis=1)


def make_bridge(
    method: Method,
    taxonomy: Taxonomy,
    tasks: str,
    occupations: pd.DataFrame,
    *,
    links: Links | None = None,
    donors: Collection[str] = (),
) -> Bridge:
    """Build the bridge of a method.

    Args:
        method: `site-2026` or `bridge`.
        taxonomy: The target.
        tasks: Name of the task list. The sample has its own bridge, to `onet-soc` and `uk-soc2020` only.
        occupations: The codes of a table by O*NET-SOC: columns `onet_soc_code, title`.
        links: How the method `bridge` weights its links, by default `DEFAULT_LINKS`; `site-2026` has its own links.
        donors: See `Bridge.donors`; used by the method `bridge` only. In a table by SOC 2018, codes without task
            statements stay without a score.

    Raises:
        UsageError: The sample has no bridge to the taxonomy.
        DataError: A source file cannot be obtained.
    """
    if taxonomy == "onet-soc":
        return Bridge("none", taxonomy, (), _titles(occupations, "onet_soc_code", "title"))
    if tasks == SAMPLE:
        return _sample_bridge(taxonomy)
    links, published = links or DEFAULT_LINKS, method == "site-2026"
    crosswalk = onet.read_onet_to_soc2018()
    origin = "O*NET-SOC 2019 to SOC 2018 crosswalk; plain mean over the detailed codes"
    links_to_soc = equal_links(crosswalk, "onet_soc_code", "soc2018")
    first = Step("onet-soc", "soc2018", links_to_soc, origin, files=(("onet-taxonomy", "2019-to-soc2018"),))
    titles = _titles(crosswalk, "soc2018", "soc2018_title")
    if taxonomy == "soc2018":
        return Bridge(method, taxonomy, (first,), titles)
    isco, bridge_donors = bls.read_isco08_soc2010(), frozenset[str]() if published else frozenset(donors)
    steps = (first, *([_site_step(isco)] if published else _steps(isco, codes_of(titles), links)))
    if taxonomy == "isco08":
        # Two rows of the crosswalk name a three-digit group, which cannot have a score.
        units = isco[isco["isco08"].str.len() == _ISCO_UNIT]
        return Bridge(method, taxonomy, steps, _titles(units, "isco08", "isco08_title"), bridge_donors)
    entries = index_entries(ons.read_coding_index())
    if published:
        entries = most_frequent(entries)
        origin = (
            "the most frequent ISCO-08 code of the group in the ONS coding index; of equally frequent ones the lowest"
        )
    else:
        entries = entries.assign(weight=1.0) if links == "equal" else entries
        weighting = "all alike" if links == "equal" else "weighted by index entries"
        origin = f"all ISCO-08 codes of the group in the ONS coding index, {weighting}"
    last = Step("isco08", "uk-soc2020", entries, origin, files=(("ons-soc2020", "coding-index"), _UK_FILE))
    return Bridge(method, taxonomy, (*steps, last), _uk_titles(), bridge_donors)


def _site_step(isco: pd.DataFrame) -> Step:
    """The step from SOC 2018 to ISCO-08 as the site of 2026 published it."""
    return Step(
        "soc2018",
        "isco08",
        equal_links(isco, "soc2010", "isco08"),
        "BLS crosswalk of ISCO-08 and SOC 2010, its SOC 2010 codes read as SOC 2018; plain mean over the codes of an "
        f"ISCO-08 code; {_THREE_DIGIT_NOTE}",
        note="SOC 2010 codes are read as SOC 2018",
        files=(_ISCO_FILE,),
    )


def _steps(isco: pd.DataFrame, soc2018: Collection[str], links: Links) -> tuple[Step, Step]:
    """The steps from SOC 2018 through SOC 2010 to ISCO-08."""
    to_2010 = equal_links(_without_military_links(bls.read_soc2010_soc2018()), "soc2018", "soc2010")
    to_isco = equal_links(isco, "soc2010", "isco08")
    mean, files = "plain mean", [("bls-soc2010-soc2018", "crosswalk")]
    if links == "split":
        to_2010, to_isco = split_links(to_2010), split_links(to_isco)
        mean = "mean weighted by 1/n, where n is the number of codes that a source leads to,"
    if links == "employment":
        # Rows for three-digit groups have no further links, so no jobs may be assigned to them.
        to_isco = to_isco[to_isco["target"].str.len() == _ISCO_UNIT].reset_index(drop=True)
        wages = bls.wage_releases()[0].source
        to_2010 = weight_by_jobs(to_2010, us_jobs(soc2018, wages))
        to_isco = weight_by_jobs(to_isco, to_2010.groupby("target")["weight"].sum())
        mean, files = f"mean weighted by US jobs ({wages})", [*files, (wages, "wages")]
    return (
        Step(
            "soc2018",
            "soc2010",
            to_2010,
            f"BLS crosswalk of SOC 2010 and SOC 2018; {mean} over the SOC 2018 codes of a SOC 2010 code",
            note="links from military SOC 2010 codes (55-) to civilian SOC 2018 codes are dropped",
            files=tuple(files),
        ),
        Step(
            "soc2010",
            "isco08",
            to_isco,
            f"BLS crosswalk of ISCO-08 and SOC 2010; {mean} over the SOC 2010 codes of an ISCO-08 code; {_THREE_DIGIT_NOTE}",
            files=(_ISCO_FILE,),
        ),
    )


_ONET_COLUMNS = ("onet_soc_code", "O*NET-SOC Code", "onetsoc_code", "code")
_UK_COLUMNS = ("uk_soc2020", "soc2020", "SOC2020 Unit Group")


def read_bridge(path: Path, occupations: Collection[str]) -> Bridge:
    """Read a user's own bridge from O*NET-SOC 2019 to UK SOC 2020.

    Args:
        path: A CSV or Excel file (first sheet) with a column of O*NET-SOC codes, one of UK unit groups and optionally
            `weight`, relative to the other codes of the group; without it, weights are equal. Rows that lack a code are
            skipped.
        occupations: Known O*NET-SOC codes.

    Raises:
        DataError: The file is missing or malformed, or has an unknown code or a duplicate pair; the message names the line.
    """
    advice = "give a CSV or Excel file with columns onet_soc_code, uk_soc2020 and perhaps weight"
    file = read_table(path, rows_are="each link", advice=advice)
    source, target = file.find(*_ONET_COLUMNS), file.find(*_UK_COLUMNS)
    if source is None or target is None:
        raise ColumnError(path, "onet_soc_code" if source is None else "uk_soc2020", file.header, advice=advice)
    weight, titles = file.find("weight"), _uk_titles()
    codes_by_column = {source: frozenset(occupations), target: frozenset(codes_of(titles))}
    lines: dict[tuple[str, str], tuple[int, float]] = {}
    for line, cells in file.rows:
        pair = (cells[source].strip(), plain_id(cells[target]))
        if not all(pair):
            continue
        for column, code in zip((source, target), pair, strict=True):
            if code not in codes_by_column[column]:
                raise file.fault(line, f": unknown code {code[:40]!r}; correct or remove the line", column)
        if pair in lines:
            raise file.fault(line, f": {' to '.join(pair)} is already in line {lines[pair][0]}; remove one of them")
        count = 1.0 if weight is None else file.number(cells[weight].strip())
        if not count:
            raise file.fault(line, ": the weight must be a number above 0, such as 1 or 0.25", weight)
        lines[pair] = (line, count)
    if not lines:
        raise DataError(f"{path} has no row with both codes; {advice}")
    links = pd.DataFrame([(*pair, count) for pair, (_, count) in lines.items()], columns=["source", "target", "weight"])
    links, name = links.astype({"source": "str", "target": "str"}), f"file {path.name}"
    return Bridge(
        name, "uk-soc2020", (Step("onet-soc", "uk-soc2020", links, f"the {name}", files=(_UK_FILE,)),), titles
    )


def _uk_titles() -> pd.DataFrame:
    return _titles(ons.read_unit_groups(), "soc2020", "title")


def _without_military_links(crosswalk: pd.DataFrame) -> pd.DataFrame:
    """The crosswalk without links between military and civilian codes.

    SOC 2018 moved radar and sonar technicians (55-3017) into a civilian residual group, 17-3029. Because no military code has
    task statements, that single link would give the whole armed forces the score of engineering technologists.
    """
    military = [crosswalk[column].str.startswith(_MILITARY) for column in ("soc2010", "soc2018")]
    return crosswalk[military[0] == military[1]]


def index_entries(index: pd.DataFrame) -> pd.DataFrame:
    """Count the entries of the ONS coding index by ISCO-08 code and UK unit group.

    Args:
        index: Columns `isco08, soc2020`; entries that lack either (references to other entries) are left out.

    Returns:
        Links of schema `LINKS`, weighted by number of entries.
    """
    entries = index.dropna(subset=["isco08", "soc2020"])
    counted = entries.groupby(["soc2020", "isco08"]).size().astype("float64").rename("weight").reset_index()
    return counted.rename(columns={"isco08": "source", "soc2020": "target"})[["source", "target", "weight"]]


def most_frequent(entries: pd.DataFrame) -> pd.DataFrame:
    """Keep one ISCO-08 code for each UK unit group: the one with the most index entries; among ties, the lowest code.

    Version 13 of the index has ties in two groups, 2435 and 3112.

    Args:
        entries: As `index_entries` returns them.

    Returns:
        Links of schema `LINKS`, each of weight 1.
    """
    ranked = entries.sort_values(["target", "weight", "source"], ascending=[True, False, True])
    return ranked.drop_duplicates("target").assign(weight=1.0).reset_index(drop=True)


def _sample_bridge(taxonomy: Taxonomy) -> Bridge:
    if taxonomy != "uk-soc2020":
        raise UsageError(f"the sample has no bridge to {taxonomy}; choose --taxonomy onet-soc or uk-soc2020")
    table = pd.read_csv(asset_dir("data") / SAMPLE / "bridge.csv", dtype="str").astype({"weight": "float64"})
    links = table[["onet_soc_code", "uk_soc2020", "weight"]].set_axis(["source", "target", "weight"], axis=1)
    titles = _titles(table, "uk_soc2020", "uk_title")
    step = Step("onet-soc", taxonomy, links, "the sample's own bridge, shares of a UK group in one step")
    return Bridge(SAMPLE, taxonomy, (step,), titles)


def _titles(table: pd.DataFrame, code: str, title: str) -> pd.DataFrame:
    """Each code of a table with its title: columns `code, title`, sorted by code."""
    titles = table[[code, title]].set_axis(["code", "title"], axis=1)
    return titles.drop_duplicates("code").sort_values("code", ignore_index=True)


def codes_of(table: pd.DataFrame, column: str = "code") -> list[str]:
    """The values of a column as strings."""
    return [str(code) for code in table[column]]


def equal_links(table: pd.DataFrame, source: str, target: str) -> pd.DataFrame:
    """Links of equal weight.

    Args:
        table: A crosswalk.
        source: Its column of source codes.
        target: Its column of target codes.

    Returns:
        Links of schema `LINKS`, each pair once, all of weight 1.
    """
    pairs = table[[source, target]].drop_duplicates().set_axis(["source", "target"], axis=1)
    return pairs.assign(weight=1.0).reset_index(drop=True)


def split_links(links: pd.DataFrame) -> pd.DataFrame:
    """Weight each link by 1/n, where n is the number of targets of its source."""
    return links.assign(weight=1 / links.groupby("source")["target"].transform("size"))


def weight_by_jobs(links: pd.DataFrame, jobs: pd.Series) -> pd.DataFrame:
    """Weight links by jobs, those of a source split evenly among its targets.

    Args:
        links: Columns `source, target`.
        jobs: Jobs (above 0) by source code. A source that is missing gets the smallest count, as in `us_jobs`.

    Returns:
        Links of schema `LINKS`.
    """
    part = links["source"].map(jobs).fillna(float(jobs.min())) * split_links(links)["weight"]
    return links.assign(weight=part.astype("float64"))


def same_broad_group(links: pd.DataFrame, listed: Collection[str]) -> pd.DataFrame:
    """Links to SOC 2018 codes without task statements, from O*NET-SOC codes of the same broad group with task statements.

    Codes without task statements are mostly those named "All Other", which O*NET does not survey. The codes of a broad
    group share their first five digits.

    Args:
        links: Links from O*NET-SOC to SOC 2018, schema `LINKS`.
        listed: O*NET-SOC codes that have tasks.

    Returns:
        Links of schema `LINKS`, for SOC 2018 codes that no listed code is linked to. The SOC 2018 codes of a broad group
        have equal weight, divided among their O*NET-SOC codes.
    """
    with_tasks = links[_isin(links["source"], listed)]
    share = with_tasks["weight"] / with_tasks.groupby("target")["weight"].transform("sum")
    near = with_tasks.assign(weight=share, broad=with_tasks["target"].str[:_BROAD_GROUP])[["source", "weight", "broad"]]
    lacking = links[["target"]].drop_duplicates()
    lacking = lacking[~_isin(lacking["target"], with_tasks["target"])]
    borrowed = lacking.assign(broad=lacking["target"].str[:_BROAD_GROUP]).merge(near, on="broad")
    return borrowed[["source", "target", "weight"]].reset_index(drop=True)


def us_jobs(codes: Collection[str], release: str) -> pd.Series:
    """US jobs by SOC 2018 code, from the national wage statistics (OEWS).

    A code without its own row gets an equal part of the jobs of a combined row: one in the same broad group whose code is
    not in SOC 2018, such as 13-1020 for 13-1021, 13-1022 and 13-1023. A code outside OEWS (the armed forces; fishing and
    hunting) gets the smallest count in OEWS, so that it matters only where nothing else is linked.

    Args:
        codes: All codes of SOC 2018.
        release: Id of a source with a wages workbook.

    Returns:
        Jobs (persons, above 0) by code, sorted by code.

    Raises:
        DataError: The workbook cannot be obtained or is malformed.
    """
    wages = bls.read_wages(release)
    wages = wages[(wages["group"] == "detailed") & (wages["employment"] > 0)]
    titles = dict(zip(codes_of(wages, "soc2018"), wages["title"], strict=True))
    matches = bls.match_codes(sorted(codes), titles, frozenset(codes))
    rows = pd.Series({code: row for code, (row, _) in matches.items()}, dtype="str")
    jobs = wages.set_index("soc2018")["employment"]
    # The codes of a combined row share its jobs.
    part = (rows.map(jobs) / rows.map(rows.value_counts())).reindex(sorted(codes))
    return part.fillna(float(jobs.min())).rename("jobs")
