"""How the links of a bridge weigh: all alike, or by the jobs that a source brings along.

Under employment weights jobs flow along the bridge. A SOC 2018 code starts with its US jobs; at each step the jobs of a
code are split evenly among its targets, because no crosswalk says how they divide, and a target receives the sum of
what flows in. So a code that is split over many targets counts little in each, and no job is counted twice.
"""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from relabel.sources import bls

_BROAD = 6


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


def received(links: pd.DataFrame) -> pd.Series:
    """Jobs by target code, as the weights of `by_jobs` bring them."""
    return links.groupby("target")["weight"].sum()


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
    with_tasks = links[links["source"].isin(set(listed))]
    share = with_tasks["weight"] / with_tasks.groupby("target")["weight"].transform("sum")
    near = with_tasks.assign(weight=share, broad=with_tasks["target"].str[:_BROAD])[["source", "weight", "broad"]]
    lacking = links[["target"]].drop_duplicates()
    lacking = lacking[~lacking["target"].isin(set(with_tasks["target"]))]
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
        DataError: The workbook is not to be had or malformed.
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
