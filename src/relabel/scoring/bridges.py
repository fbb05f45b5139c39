"""Bridges: the way from O*NET-SOC codes to another classification, as tables of links that can be shown.

A bridge is a chain of steps, each a table `source, target, weight`. A target takes the weighted mean of its sources
that have a score. Chained means are linear in the scores of the O*NET-SOC codes, so the chain is first multiplied out
into shares (`Bridge.shares`): which O*NET-SOC code stands for which part of a target. Scores, coverage and the pages of
an occupation all come from these shares.

Links weigh all alike, or by the jobs that a source brings along: a SOC 2018 code starts with its US jobs; at each step the jobs
of a code are split evenly among its targets, because no crosswalk says how they divide, and a target receives the sum of what
flows in. So a code that is split over many targets counts little in each, and no job is counted twice.
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

LINKS = pa.DataFrameSchema(
    {
        "source": pa.Column("str"),
        "target": pa.Column("str"),
        "weight": pa.Column("float64", pa.Check.gt(0)),
    },
    unique=["source", "target"],
    strict=True,
)
"""Links of a step; the weight says how much a source counts among the sources of its target, in any unit."""

_SHOWN = 4
_BROAD = 6
_MILITARY = "55-"
_THREE_DIGITS = "its rows for the three-digit ISCO-08 groups 211 and 315 lead to no group"
_ISCO_UNIT = 4
_FILES = (
    ("onet-taxonomy", "2019-to-soc2018"),
    ("bls-isco08-soc2010", "crosswalk"),
    ("bls-soc2010-soc2018", "crosswalk"),
)
_UK_FILES = (("ons-soc2020", "coding-index"), ("ons-soc2020", "unit-groups"))


@dataclass(frozen=True)
class Step:
    """One step of a bridge.

    Attributes:
        source: Classification that it starts from.
        target: Classification that it leads to.
        links: Table of schema `LINKS`.
        origin: Where the links come from and how they weigh, in words.
        note: What a reader of a reason should know about the codes that the step starts from, or an empty string.
    """

    source: System
    target: System
    links: pd.DataFrame
    origin: str
    note: str = ""

    def __post_init__(self) -> None:
        LINKS.validate(self.links)


@dataclass(frozen=True)
class Bridge:
    """The way from O*NET-SOC 2019 to a taxonomy.

    Attributes:
        name: Short name.
        target: Taxonomy that it leads to.
        steps: Its steps in order, none for O*NET-SOC itself.
        titles: All codes of the taxonomy with their titles: columns `code, title`, in the order of the codes.
        files: Source files that it was made from, as pairs of source id and role.
        lenders: O*NET-SOC codes with task statements. A target that none of them leads to borrows from those of the same
            SOC broad group as what is linked to it, see `same_broad_group`; none, and no target borrows.
    """

    name: str
    target: Taxonomy
    steps: tuple[Step, ...]
    titles: pd.DataFrame
    files: tuple[tuple[str, str], ...] = ()
    lenders: frozenset[str] = frozenset()
    _made: dict[tuple[frozenset[str], bool], pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    def shares(self, scored: Collection[str]) -> pd.DataFrame:
        """What part of each target each O*NET-SOC code stands for, when only these codes have a score.

        At every step weights are taken relative to the sources that have a score. A target that no code with task
        statements leads to takes the shares of its lenders.

        Args:
            scored: O*NET-SOC codes with a score.

        Returns:
            Columns `code, onet_soc_code, share`; shares are above 0 and sum to 1 for each code that is reached.
        """
        return self._multiply_out(scored, relative_to_reached=True)

    def reach(self, listed: Collection[str]) -> pd.DataFrame:
        """What part of each target each O*NET-SOC code stands for, of all that is linked to the target.

        Args:
            listed: O*NET-SOC codes that have tasks, labelled or not.

        Returns:
            As `shares`, but the sum over a code falls short of 1 by the part that no listed code stands for.
        """
        return self._multiply_out(listed, relative_to_reached=False)

    def levels(self, scored: Collection[str]) -> list[tuple[System, pd.DataFrame]]:
        """Shares at each step of the way, what is borrowed left out.

        Args:
            scored: O*NET-SOC codes with a score.

        Returns:
            Classification and shares, as `shares` returns them, in the order of the steps.
        """
        at, found = _started(scored), []
        for step in self.steps:
            at = _carried(at, step.links, relative_to_reached=True)
            found.append((step.target, at))
        return found

    def _multiply_out(self, codes: Collection[str], *, relative_to_reached: bool) -> pd.DataFrame:
        asked = (frozenset(codes), relative_to_reached)
        if asked not in self._made:
            at = _started(codes)
            for number, step in enumerate(self.steps):
                # Codes without task statements have nothing to label: the first step never counts them as missing.
                at = _carried(at, step.links, relative_to_reached=relative_to_reached or number == 0)
            if relative_to_reached and self.lenders:
                at = pd.concat([at, self._borrowed(codes)])
            at = at[_among(at["code"], self.titles["code"])]
            self._made[asked] = at.sort_values(["code", "onet_soc_code"], ignore_index=True)
        return self._made[asked]

    def _borrowed(self, scored: Collection[str]) -> pd.DataFrame:
        """Shares of the targets that no code with task statements leads to, by way of their lenders."""
        titles = self.titles["code"]
        lacking = titles[~_among(titles, self.reach(self.lenders)["code"])]
        first, *others = [step.links for step in self.steps]
        first = pd.concat([first, same_broad_group(first, self.lenders)])
        # Only what leads to them; a step's weights are relative to all sources of a target, so whole targets are kept.
        needed = [lacking]
        for links in reversed(others):
            needed.append(links.loc[_among(links["target"], needed[-1]), "source"])
        at = _started(scored)
        for links, targets in zip((first, *others), reversed(needed), strict=True):
            at = _carried(at, links[_among(links["target"], targets)], relative_to_reached=True)
        return at

    def status_without(self, code: str, listed: Collection[str], *, borrowed: bool = False) -> str:
        """The status of a target that no labelled task of its own leads to, with the reason in words.

        Args:
            code: A code of the taxonomy that `shares` does not reach.
            listed: O*NET-SOC codes that have tasks.
            borrowed: Whether it has borrowed a score.
        """
        at, reached, note = [code], {code}, ""
        for step in reversed(self.steps):
            links = step.links[step.links["target"].isin(reached)]
            if links.empty:
                why = f"no {SYSTEM_NAMES[step.source]} code leads to {SYSTEM_NAMES[step.target]} {listed_names(at, _SHOWN)}{note}"
                break
            note = f" ({step.note})" if step.note else ""
            reached = set(links["source"])
            at = sorted(reached)
        else:
            lacking = "labelled tasks" if reached & set(listed) else "task statements"
            why = f"no {lacking} for {SYSTEM_NAMES['onet-soc']} {listed_names(at, _SHOWN)}"
        if not borrowed:
            return f"unscored: {why}"
        return f"thin: borrowed from the other occupations of the same broad group of US SOC, because {why}"


def onet_occupations(tasks: str, listed: pd.DataFrame) -> pd.DataFrame:
    """Codes and titles that have a place in a table by O*NET-SOC: `onet_soc_code, title`, sorted by code.

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


def _among(column: pd.Series, codes: Iterable[str]) -> npt.NDArray[np.bool_]:
    """`Series.isin`, which takes longer for texts than a set does."""
    known = frozenset(codes.tolist() if isinstance(codes, pd.Series) else codes)
    return np.fromiter((code in known for code in column.tolist()), dtype=bool, count=len(column))


def _started(codes: Collection[str]) -> pd.DataFrame:
    start = sorted(codes)
    return pd.DataFrame({"code": start, "onet_soc_code": start}, dtype="str").assign(share=1.0)


def _carried(at: pd.DataFrame, links: pd.DataFrame, *, relative_to_reached: bool) -> pd.DataFrame:
    """Shares of the codes that a step leads to, from those of the codes that it starts from."""
    if relative_to_reached:
        links = links[_among(links["source"], at["code"])]
    part = links["weight"] / links.groupby("target")["weight"].transform("sum")
    onwards = links.assign(part=part)[["source", "target", "part"]]
    at = at.merge(onwards, left_on="code", right_on="source")
    at["share"] *= at["part"]
    summed = at.groupby(["target", "onet_soc_code"])["share"].sum().reset_index()
    return summed.set_axis(["code", "onet_soc_code", "share"], axis=1)


def make_bridge(
    method: Method,
    taxonomy: Taxonomy,
    tasks: str,
    occupations: pd.DataFrame,
    *,
    links: Links | None = None,
    lenders: Collection[str] = (),
) -> Bridge:
    """Build the bridge of a method.

    Args:
        method: `site-2026` or `bridge`.
        taxonomy: Where it leads.
        tasks: Task list by name. The sample has a bridge of its own, for `onet-soc` and `uk-soc2020` only.
        occupations: Columns `onet_soc_code, title`: the codes that have a place in a table by O*NET-SOC.
        links: How the method `bridge` weighs its links, by default `DEFAULT_LINKS`; `site-2026` has links of its own.
        lenders: O*NET-SOC codes with task statements, for the targets of the method `bridge` that have none behind them.
            In a table by SOC 2018 such codes stay without a score.

    Raises:
        UsageError: The sample has no bridge to the taxonomy.
        DataError: A source file cannot be obtained.
    """
    if taxonomy == "onet-soc":
        return Bridge("none", taxonomy, (), _titles(occupations, "onet_soc_code", "title"))
    if tasks == SAMPLE:
        return _sample_bridge(taxonomy)
    return _public_bridge(
        method, taxonomy, links or DEFAULT_LINKS, frozenset() if method == "site-2026" else frozenset(lenders)
    )


def _first_step() -> tuple[Step, pd.DataFrame]:
    """From O*NET-SOC 2019 to SOC 2018, and the titles of SOC 2018."""
    crosswalk = onet.read_onet_to_soc2018()
    links = plain_links(crosswalk, "onet_soc_code", "soc2018")
    origin = "O*NET-SOC 2019 to SOC 2018 crosswalk; plain mean over the detailed codes"
    return Step("onet-soc", "soc2018", links, origin), _titles(crosswalk, "soc2018", "soc2018_title")


def _public_bridge(method: Method, taxonomy: Taxonomy, links: Links, lenders: frozenset[str]) -> Bridge:
    first, titles = _first_step()
    if taxonomy == "soc2018":
        return Bridge(method, taxonomy, (first,), titles, _FILES[:1])
    published, isco = method == "site-2026", bls.read_isco08_soc2010()
    steps, files = _site_steps(isco) if published else _steps(isco, codes_of(titles), links)
    if taxonomy == "isco08":
        # Two rows of the crosswalk name a three-digit group, which cannot have a score.
        units = isco[isco["isco08"].str.len() == _ISCO_UNIT]
        return Bridge(method, taxonomy, (first, *steps), _titles(units, "isco08", "isco08_title"), files, lenders)
    entries = index_entries(ons.read_coding_index())
    if published:
        entries = most_frequent(entries)
        origin = (
            "the most frequent ISCO-08 code of the group in the ONS coding index; of equally frequent ones the lowest"
        )
    else:
        entries = entries.assign(weight=1.0) if links == "equal" else entries
        how = "all alike" if links == "equal" else "weighted by index entries"
        origin = f"all ISCO-08 codes of the group in the ONS coding index, {how}"
    last = Step("isco08", "uk-soc2020", entries, origin)
    return Bridge(method, taxonomy, (first, *steps, last), _uk_titles(), files + _UK_FILES, lenders)


def _site_steps(isco: pd.DataFrame) -> tuple[tuple[Step, ...], tuple[tuple[str, str], ...]]:
    """From SOC 2018 to ISCO-08 as the site had it, and the files behind it."""
    step = Step(
        "soc2018",
        "isco08",
        plain_links(isco, "soc2010", "isco08"),
        "BLS crosswalk of ISCO-08 and SOC 2010, its SOC 2010 codes read as SOC 2018; plain mean over the codes of an "
        f"ISCO-08 code; {_THREE_DIGITS}",
        note="SOC 2010 codes are read as SOC 2018",
    )
    return (step,), _FILES[:2]


def _steps(
    isco: pd.DataFrame, soc2018: Collection[str], links: Links
) -> tuple[tuple[Step, ...], tuple[tuple[str, str], ...]]:
    """From SOC 2018 by way of SOC 2010 to ISCO-08, and the files behind it."""
    to_2010 = plain_links(_military_apart(bls.read_soc2010_soc2018()), "soc2018", "soc2010")
    to_isco = plain_links(isco, "soc2010", "isco08")
    mean, files = "plain mean", _FILES
    if links == "split":
        to_2010, to_isco = split_links(to_2010), split_links(to_isco)
        mean = "mean weighted by 1/n, where n is the number of codes that a source leads to,"
    if links == "employment":
        # The rows for three-digit groups lead nowhere: jobs must not flow into them.
        to_isco = to_isco[to_isco["target"].str.len() == _ISCO_UNIT].reset_index(drop=True)
        wages = bls.wage_releases()[0].source
        to_2010 = by_jobs(to_2010, us_jobs(soc2018, wages))
        to_isco = by_jobs(to_isco, to_2010.groupby("target")["weight"].sum())
        mean, files = f"mean weighted by US jobs ({wages})", (*_FILES, (wages, "wages"))
    steps = (
        Step(
            "soc2018",
            "soc2010",
            to_2010,
            f"BLS crosswalk of SOC 2010 and SOC 2018; {mean} over the SOC 2018 codes of a SOC 2010 code",
            note="links from military SOC 2010 codes (55-) to civilian SOC 2018 codes are dropped",
        ),
        Step(
            "soc2010",
            "isco08",
            to_isco,
            f"BLS crosswalk of ISCO-08 and SOC 2010; {mean} over the SOC 2010 codes of an ISCO-08 code; {_THREE_DIGITS}",
        ),
    )
    return steps, files


_ONET_COLUMNS = ("onet_soc_code", "O*NET-SOC Code", "onetsoc_code", "code")
_UK_COLUMNS = ("uk_soc2020", "soc2020", "SOC2020 Unit Group")


def read_bridge(path: Path, occupations: Collection[str]) -> Bridge:
    """A user's own bridge from O*NET-SOC 2019 to UK SOC 2020.

    Args:
        path: A CSV or Excel file with a column of O*NET-SOC codes, one of UK unit groups and perhaps `weight` (how much an
            O*NET-SOC code counts among those of its group; all alike where it is missing). A row
            without both codes is left out. Of an Excel file the first sheet is read.
        occupations: O*NET-SOC codes that have a place in the table.

    Raises:
        DataError: The file is missing or malformed, or names a code that is none, or a pair twice; the message names the line.
    """
    advice = "give a CSV or Excel file with columns onet_soc_code, uk_soc2020 and perhaps weight"
    file = read_table(path, rows_are="each link", advice=advice)
    source, target = file.find(*_ONET_COLUMNS), file.find(*_UK_COLUMNS)
    if source is None or target is None:
        raise ColumnError(path, "onet_soc_code" if source is None else "uk_soc2020", file.header, advice=advice)
    weight, titles = file.find("weight"), _uk_titles()
    known = {source: frozenset(occupations), target: frozenset(codes_of(titles))}
    lines: dict[tuple[str, str], tuple[int, float]] = {}
    for line, cells in file.rows:
        pair = (cells[source].strip(), plain_id(cells[target]))
        if not all(pair):
            continue
        for column, code in zip((source, target), pair, strict=True):
            if code not in known[column]:
                raise DataError(
                    f"{path} line {line}, column {column}: unknown code {code[:40]!r}; correct or remove the line"
                )
        if pair in lines:
            raise DataError(
                f"{path} line {line}: {' to '.join(pair)} is already in line {lines[pair][0]}; remove one of them"
            )
        count = 1.0 if weight is None else file.number(cells[weight].strip())
        if not count:
            raise DataError(
                f"{path} line {line}, column {weight}: the weight must be a number above 0, such as 1 or 0.25"
            )
        lines[pair] = (line, count)
    if not lines:
        raise DataError(f"{path} has no row with both codes; {advice}")
    links = pd.DataFrame([(*pair, count) for pair, (_, count) in lines.items()], columns=["source", "target", "weight"])
    step = Step("onet-soc", "uk-soc2020", links.astype({"source": "str", "target": "str"}), f"the file {path.name}")
    return Bridge(f"file {path.name}", "uk-soc2020", (step,), titles, _UK_FILES[1:])


def _uk_titles() -> pd.DataFrame:
    return _titles(ons.read_unit_groups(), "soc2020", "title")


def _military_apart(crosswalk: pd.DataFrame) -> pd.DataFrame:
    """The crosswalk without links between military and civilian codes.

    SOC 2018 moved radar and sonar technicians (55-3017) into a civilian residual group, 17-3029. The armed forces would
    be scored by that one link, as engineering technologists, because no military code has task statements.
    """
    military = [crosswalk[column].str.startswith(_MILITARY) for column in ("soc2010", "soc2018")]
    return crosswalk[military[0] == military[1]]


def index_entries(index: pd.DataFrame) -> pd.DataFrame:
    """Count the entries of the ONS coding index by ISCO-08 code and UK unit group.

    Args:
        index: Columns `isco08, soc2020`; entries that lack either (references to other entries) are left out.

    Returns:
        Links of schema `LINKS`, weighted by entries.
    """
    known = index.dropna(subset=["isco08", "soc2020"])
    counted = known.groupby(["soc2020", "isco08"]).size().astype("float64").rename("weight").reset_index()
    return counted.rename(columns={"isco08": "source", "soc2020": "target"})[["source", "target", "weight"]]


def most_frequent(entries: pd.DataFrame) -> pd.DataFrame:
    """Keep one ISCO-08 code for each UK unit group: the one with most index entries, of equal ones the lowest code.

    In version 13 of the index a tie decides for two groups, 2435 and 3112.

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
    path = asset_dir("data") / SAMPLE / "bridge.csv"
    try:
        table = pd.read_csv(path, dtype="str").astype({"weight": "float64"})
        links = table[["onet_soc_code", "uk_soc2020", "weight"]].set_axis(["source", "target", "weight"], axis=1)
        titles = _titles(table, "uk_soc2020", "uk_title")
        step = Step("onet-soc", taxonomy, links, "the sample's own bridge, shares of a UK group in one step")
    except (OSError, ValueError, KeyError, pa.errors.SchemaError) as error:
        raise DataError(f"the sample's bridge {path} is damaged; install relabel again") from error
    return Bridge(SAMPLE, taxonomy, (step,), titles)


def _titles(table: pd.DataFrame, code: str, title: str) -> pd.DataFrame:
    """Each code of a table with its title: columns `code, title`, in the order of the codes."""
    titles = table[[code, title]].set_axis(["code", "title"], axis=1)
    return titles.drop_duplicates("code").sort_values("code", ignore_index=True)


def codes_of(table: pd.DataFrame, column: str = "code") -> list[str]:
    """The values of a text column as a list of strings."""
    return [str(code) for code in table[column]]


def plain_links(table: pd.DataFrame, source: str, target: str) -> pd.DataFrame:
    """Links that weigh alike.

    Args:
        table: A crosswalk.
        source: Its column of source codes.
        target: Its column of target codes.

    Returns:
        Columns `source, target, weight`, each pair once, weight 1.
    """
    pairs = table[[source, target]].drop_duplicates().set_axis(["source", "target"], axis=1)
    return pairs.assign(weight=1.0).reset_index(drop=True)


def split_links(links: pd.DataFrame) -> pd.DataFrame:
    """The links with `weight` 1/n, where n is the number of targets of the source."""
    return links.assign(weight=1 / links.groupby("source")["target"].transform("size"))


def by_jobs(links: pd.DataFrame, jobs: pd.Series) -> pd.DataFrame:
    """Weigh links by the jobs that flow along them.

    Args:
        links: Columns `source, target`.
        jobs: Jobs (above 0) by source code. A source without any takes the smallest count, as in `us_jobs`.

    Returns:
        The links with `weight`: the jobs of the source, split evenly among its targets.
    """
    part = links["source"].map(jobs).fillna(float(jobs.min())) * split_links(links)["weight"]
    return links.assign(weight=part.astype("float64"))


def same_broad_group(links: pd.DataFrame, listed: Collection[str]) -> pd.DataFrame:
    """Lenders to SOC 2018 codes without task statements: the O*NET-SOC codes of the same broad group that have some.

    Codes without task statements are mostly those named "All Other", which O*NET does not survey. A broad group holds the
    detailed codes that share the first five digits.

    Args:
        links: Links from O*NET-SOC to SOC 2018, columns `source, target, weight`.
        listed: O*NET-SOC codes that have tasks.

    Returns:
        Columns `source, target, weight`, for those SOC 2018 codes that no listed code leads to. Each detailed code of the
        broad group counts alike, and its O*NET-SOC codes share that.
    """
    with_tasks = links[_among(links["source"], listed)]
    share = with_tasks["weight"] / with_tasks.groupby("target")["weight"].transform("sum")
    near = with_tasks.assign(weight=share, broad=with_tasks["target"].str[:_BROAD])[["source", "weight", "broad"]]
    lacking = links[["target"]].drop_duplicates()
    lacking = lacking[~_among(lacking["target"], with_tasks["target"])]
    found = lacking.assign(broad=lacking["target"].str[:_BROAD]).merge(near, on="broad")
    return found[["source", "target", "weight"]].reset_index(drop=True)


def us_jobs(codes: Collection[str], release: str) -> pd.Series:
    """US jobs by SOC 2018 code, from the national wage statistics (OEWS).

    A code without a row of its own takes an even part of the jobs of the combined row that stands for it: a row of the
    same broad group whose code SOC 2018 does not have, such as 13-1020 for 13-1021, 13-1022 and 13-1023. A code that
    OEWS does not cover at all (the armed forces; fishing and hunting) takes the smallest count of the codes that it does
    cover, so that it decides only where nothing else is linked.

    Args:
        codes: All codes of SOC 2018.
        release: Id of a source with a wages workbook.

    Returns:
        Jobs (persons, above 0), one value a code, sorted by code.

    Raises:
        DataError: The workbook cannot be obtained or is malformed.
    """
    wages = bls.read_wages(release)
    detailed = wages[wages["group"] == "detailed"].set_index("soc2018")["employment"].dropna()
    detailed = detailed[detailed > 0]
    known = pd.Index(sorted(codes), dtype="str")
    jobs = detailed.reindex(known)
    combined = detailed[~detailed.index.isin(known)]
    lacking = known[jobs.isna()]
    # OEWS names one combined row a broad group, so the broad group tells which codes share it.
    shared = pd.Series(lacking.str[:_BROAD], index=lacking)
    whole = shared.map(combined.groupby(combined.index.str[:_BROAD]).sum())
    jobs = jobs.fillna(whole / shared.map(shared.value_counts()))
    return jobs.fillna(float(detailed.min())).rename("jobs")
