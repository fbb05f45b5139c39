"""The path of one code over a bridge, step by step: back from a group to O*NET-SOC codes, and forward from one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from relabel.errors import DataError
from relabel.scoring.bridges import Bridge, codes_of, make_bridge, same_broad_group
from relabel.scoring.options import SAMPLE, SYSTEM_NAMES, Links, Method, System, Taxonomy, check_links
from relabel.sources import bls, onet
from relabel.task import is_onet_release, task_table

_DOTTED = "."


@dataclass(frozen=True)
class Path:
    """The path of one code.

    Attributes:
        system: Classification of the code.
        code: The code.
        title: Its title.
        bridge: The bridge.
        borrowed: Whether the code takes the shares of other codes, because no task statements lead to it.
        back: For a group: one row a link on the way back, columns `system, code, title, target_system, target, weight,
            part, share, with_tasks`, nearest step first. `weight` is that of the link, `part` (0-1) what the code counts
            among the codes of its target that task statements lead to, `share` (0-1) what the group owes to the link.
            Codes without task statements behind them have neither. Empty for an O*NET-SOC code.
        forward: One row an O*NET-SOC code of the path and a code that it counts in, columns `onet_soc_code,
            onet_soc_title, system, code, title, share` (0-1, of that code): of a group its own share and those of the
            other groups that its O*NET-SOC codes count in; of an O*NET-SOC code every step of its way.
    """

    system: System
    code: str
    title: str
    bridge: Bridge
    borrowed: bool
    back: pd.DataFrame
    forward: pd.DataFrame

    def describe(self) -> dict[str, Any]:
        """The path as plain values."""
        return {
            "system": self.system,
            "system_name": SYSTEM_NAMES[self.system],
            "code": self.code,
            "title": self.title,
            "method": self.bridge.name,
            "taxonomy": self.bridge.target,
            "borrowed": self.borrowed,
            "steps": [
                {"source": step.source, "target": step.target, "origin": step.origin, "note": step.note}
                for step in self.bridge.steps
            ],
            "back": _records(self.back),
            "forward": _records(self.forward),
        }


def find_path(
    code: str,
    *,
    method: Method = "bridge",
    taxonomy: Taxonomy = "uk-soc2020",
    links: Links | None = None,
    tasks: str = "onet-30.2",
) -> Path:
    """The path of one code.

    Args:
        code: A code of the taxonomy, such as `1121`, or an O*NET-SOC code, such as `11-1011.00`.
        method: `bridge` or `site-2026`.
        taxonomy: Where the bridge leads.
        links: How the bridge weighs its links, by default as `score_table` does.
        tasks: Task list that says which O*NET-SOC codes have task statements.

    Raises:
        DataError: There is no such code, or a file is not to be had.
        UsageError: The sample has no bridge to the taxonomy, or the bridge has no links to weigh.
    """
    check_links(links, method, taxonomy, tasks)
    known = _occupations(tasks)
    listed = sorted(set(codes_of(task_table(tasks), "onet_soc_code")))
    bridge = make_bridge(method, taxonomy, tasks, known, links=links, lenders=listed)
    return path_in(bridge, code, listed, known, sample=tasks == SAMPLE)


def path_in(bridge: Bridge, code: str, listed: list[str], known: pd.DataFrame, *, sample: bool) -> Path:
    """The path of one code over a bridge that is at hand.

    Args:
        bridge: The bridge.
        code: A code of its target, or an O*NET-SOC code.
        listed: O*NET-SOC codes with task statements.
        known: Columns `onet_soc_code, title`.
        sample: Whether it is the sample's bridge.

    Raises:
        DataError: There is no such code.
    """
    titles = _titles(bridge, known, sample=sample)
    target = bridge.target
    if code in titles[target] and (target == "onet-soc" or _DOTTED not in code):
        shares = bridge.shares(listed)
        own = shares[shares["code"] == code]
        found = shares[shares["onet_soc_code"].isin(own["onet_soc_code"])]
        found = found.assign(own=found["code"] == code).sort_values(
            ["onet_soc_code", "own", "share", "code"], ascending=[True, False, False, True]
        )
        forward = _forward(found.assign(system=target), titles)
        borrowed = not own.empty and code not in set(bridge.reach(listed)["code"])
        back = _trace_back(bridge, code, listed, titles, borrowed=borrowed)
        return Path(target, code, titles[target][code], bridge, borrowed, back, forward)
    if code in titles["onet-soc"]:
        levels = [level.assign(system=system) for system, level in bridge.levels(listed)]
        mine = pd.concat(levels)
        mine = mine[mine["onet_soc_code"] == code]
        title = titles["onet-soc"][code]
        return Path("onet-soc", code, title, bridge, False, _NO_LINKS, _forward(mine, titles))
    raise DataError(
        f"{code!r} is no code of {SYSTEM_NAMES[target]} or of O*NET-SOC 2019; codes look like "
        f"{bridge.titles['code'].iloc[0]} and {known['onet_soc_code'].iloc[0]}"
    )


_NO_LINKS = pd.DataFrame(
    columns=["system", "code", "title", "target_system", "target", "weight", "part", "share", "with_tasks"]
)


def _trace_back(
    bridge: Bridge, code: str, listed: list[str], titles: Mapping[System, Mapping[str, str]], *, borrowed: bool
) -> pd.DataFrame:
    reached: list[set[str]] = [set(listed)]
    tables: list[pd.DataFrame] = []
    for number, step in enumerate(bridge.steps):
        links = step.links
        if number == 0 and borrowed:
            links = pd.concat([links, same_broad_group(links, listed)], ignore_index=True)
        tables.append(links)
        reached.append(set(links.loc[links["source"].isin(reached[-1]), "target"]))
    owed = {code: 1.0}
    rows: list[pd.DataFrame] = []
    for step, links, alive in reversed(list(zip(bridge.steps, tables, reached[:-1], strict=True))):
        here = links[links["target"].isin(owed)].copy()
        here["with_tasks"] = here["source"].isin(alive)
        counted = here["weight"].where(here["with_tasks"])
        here["part"] = counted / counted.groupby(here["target"]).transform("sum")
        here["share"] = here["part"] * here["target"].map(owed).astype("float64")
        here = here.assign(system=step.source, target_system=step.target, code=here["source"])
        here["title"] = here["code"].map(titles[step.source])
        rows.append(here.sort_values(["share", "code"], ascending=[False, True])[list(_NO_LINKS.columns)])
        owed = {str(source): float(share) for source, share in here.groupby("source")["share"].sum().items()}
    return pd.concat(rows, ignore_index=True) if rows else _NO_LINKS


def _forward(shares: pd.DataFrame, titles: Mapping[System, Mapping[str, str]]) -> pd.DataFrame:
    told = shares.assign(
        onet_soc_title=shares["onet_soc_code"].map(titles["onet-soc"]),
        title=[titles[system].get(code, "") for system, code in zip(shares["system"], shares["code"], strict=True)],
    )
    return told[["onet_soc_code", "onet_soc_title", "system", "code", "title", "share"]].reset_index(drop=True)


def _occupations(tasks: str) -> pd.DataFrame:
    if is_onet_release(tasks):
        return onet.read_occupations(tasks)[["onet_soc_code", "title"]]
    own = task_table(tasks)[["onet_soc_code", "title"]].drop_duplicates("onet_soc_code")
    return own.sort_values("onet_soc_code", ignore_index=True)


def _titles(bridge: Bridge, occupations: pd.DataFrame, *, sample: bool) -> dict[System, dict[str, str]]:
    """Titles of the codes of all classifications on the way."""
    tables: dict[System, tuple[pd.DataFrame, str, str]] = {}
    if not sample:
        crosswalk, isco = onet.read_onet_to_soc2018(), bls.read_isco08_soc2010()
        tables = {
            "soc2018": (crosswalk, "soc2018", "soc2018_title"),
            "soc2010": (bls.read_soc2010_soc2018(), "soc2010", "soc2010_title"),
            "isco08": (isco, "isco08", "isco08_title"),
        }
    tables |= {"onet-soc": (occupations, "onet_soc_code", "title")}
    if bridge.target != "onet-soc":
        tables |= {bridge.target: (bridge.titles, "code", "title")}
    return {
        system: dict(zip(codes_of(table, code), codes_of(table, title), strict=True))
        for system, (table, code, title) in tables.items()
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in plain.to_dict("records")]
