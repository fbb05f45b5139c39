"""Measure what docs/method.md says about the ways to bridge: run `python docs/method_figures.py`.

Needs the source files (RELABEL_DATA_MIRROR or `relabel data pull`). The labels are those of GPT-4 of 2023. Two sources
that neither the labels nor the bridge know are asked how well a bridge matches occupations:

- pay: US median wages (OEWS), carried over the bridge, against UK medians of the same groups (ASHE);
- words: descriptions of O*NET occupations, carried over the bridge, against those of the UK groups (SOC 2020 volume 1).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from relabel.run import open_run
from relabel.scoring.options import Links
from relabel.scoring.table import ScoreTable, score_table
from relabel.sources import bls, onet, ons

RUN = "eloundou-2023:gpt4"
WAYS = ("site-2026", "equal", "index", "employment")
MEASURES = ("alpha", "beta", "gamma")
DRAWS, SEED = 2_000, 20260101


def tables() -> dict[str, ScoreTable]:
    """The scores by each way to bridge."""
    run = open_run(RUN)
    found = {"site-2026": score_table(run, method="site-2026")}
    choices: tuple[Links, ...] = ("equal", "index", "employment")
    for links in choices:
        found[links] = score_table(run, links=links)
    return found


def counts(table: ScoreTable) -> dict[str, int]:
    """Groups scored, and how many of those with a score share all three measures, or their bridge, with another."""
    done = table.frame.dropna(subset="alpha")
    last = table.bridge.steps[-1].links
    last = last[last["target"].isin(done["code"])].sort_values(["target", "source"])
    part = last["weight"] / last.groupby("target")["weight"].transform("sum")
    way = (last["source"] + ":" + part.round(9).astype(str)).groupby(last["target"]).agg(" ".join)
    return {
        "scored": table.scored,
        "thin": table.thin,
        "unscored": len(table.frame) - table.scored - table.thin,
        "sharing a score": int(done.duplicated(list(MEASURES), keep=False).sum()),
        "sharing all links to ISCO-08": int(way.duplicated(keep=False).sum()),
    }


def against(one: ScoreTable, other: ScoreTable) -> dict[str, float]:
    """Spearman's correlation of the groups that both have a score for."""
    a, b = (t.frame.set_index("code")[list(MEASURES)] for t in (one, other))
    return {m: float(a[m].corr(b[m], method="spearman")) for m in MEASURES}


def movers(new: ScoreTable, old: ScoreTable, count: int = 5) -> list[dict[str, Any]]:
    """The groups whose place by gamma changed most, in percent of the groups that both have scored."""
    both = old.frame[["code", "title", "gamma"]].merge(
        new.frame[["code", "gamma"]], on="code", suffixes=("_old", "_new")
    )
    both = both.dropna()
    for side in ("old", "new"):
        both[f"place_{side}"] = 100 * both[f"gamma_{side}"].rank(pct=True)
    both["moved"] = both["place_new"] - both["place_old"]
    both = both.sort_values("moved", key=lambda moved: -moved.abs()).head(count)
    return [{str(k): v for k, v in row.items()} for row in both.to_dict("records")]


def us_wages() -> pd.Series:
    """US median wage of 2024 by O*NET-SOC code: that of its SOC 2018 code, or of the combined code that holds it."""
    wages = bls.read_wages()
    wages = wages[wages["group"] == "detailed"].set_index("soc2018")
    median = wages["annual_median_usd"].where(wages["annual_median_flag"] != "top-coded", 239_200.0).dropna()
    soc = onet.read_onet_to_soc2018().set_index("onet_soc_code")["soc2018"]
    combined = median[~median.index.isin(soc)]
    broad = combined.groupby(combined.index.str[:6]).first()
    return soc.map(median).fillna(soc.str[:6].map(broad)).dropna()


def pay_pairs(table: ScoreTable, wages: pd.Series, groups: pd.Index) -> pd.DataFrame:
    """Logarithms of pay by group: columns `us` (carried over the bridge) and `uk`."""
    shares = table.shares[table.shares["onet_soc_code"].isin(wages.index) & table.shares["code"].isin(groups)]
    logs = shares["onet_soc_code"].map(wages).map(math.log) * shares["share"]
    us = logs.groupby(shares["code"]).sum() / shares["share"].groupby(shares["code"]).sum()
    ashe = ons.read_ashe()
    uk = ashe[ashe["level"] == "unit"].set_index("code")["median_pay_gbp"]
    return pd.DataFrame({"us": us, "uk": np.log(uk)}).dropna()


def likeness() -> pd.DataFrame:
    """Cosine of the words of each O*NET occupation (rows) and each UK group (columns)."""
    tasks = onet.read_tasks().groupby("onet_soc_code")["text"].agg(" ".join)
    known = onet.read_occupations().set_index("onet_soc_code").loc[tasks.index]
    us = [" ".join(parts) for parts in zip(known["title"], known["description"], tasks, strict=True)]
    groups = ons.read_unit_groups().set_index("soc2020")
    texts = (groups["title"], groups["description"], groups["tasks"].fillna(""))
    uk = [" ".join(parts) for parts in zip(*texts, strict=True)]
    words: Any = TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=2).fit([*us, *uk])
    cosine = (words.transform(us) @ words.transform(uk).T).toarray()
    return pd.DataFrame(cosine, index=tasks.index, columns=groups.index)


def word_ranks(table: ScoreTable, alike: pd.DataFrame, groups: pd.Index) -> pd.Series:
    """For each group, the place of its own description among all, by likeness to what stands for the group; 1 is best."""
    shares = table.shares[table.shares["code"].isin(groups)]
    mix = shares.pivot(index="code", columns="onet_soc_code", values="share").fillna(0.0)
    found = mix.to_numpy() @ alike.loc[mix.columns].to_numpy()
    own = found[np.arange(len(mix)), alike.columns.get_indexer(mix.index)]
    return pd.Series((found > own[:, None]).sum(axis=1) + 1, index=mix.index)


def agreement(found: Mapping[str, ScoreTable]) -> dict[str, dict[str, Any]]:
    """Agreement of each way with pay and words, over the groups that every way has a score for.

    `better` is the difference from the site's method with its 95 % interval, groups drawn again with replacement.
    """
    frames = [t.frame.dropna(subset="alpha").set_index("code").index for t in found.values()]
    groups = frames[0]
    for codes in frames[1:]:
        groups = groups.intersection(codes)
    wages, alike = us_wages(), likeness()
    pairs = {way: pay_pairs(table, wages, groups) for way, table in found.items()}
    paid = pairs["site-2026"].index
    ranks = {way: word_ranks(table, alike, groups).loc[groups] for way, table in found.items()}
    rng = np.random.default_rng(SEED)
    draws = [rng.integers(0, len(paid), len(paid)) for _ in range(DRAWS)]
    drawn = [rng.integers(0, len(groups), len(groups)) for _ in range(DRAWS)]

    def pearson(way: str, rows: npt.NDArray[np.int64]) -> float:
        both = pairs[way].loc[paid].to_numpy()[rows]
        return float(np.corrcoef(both[:, 0], both[:, 1])[0, 1])

    def reciprocal(way: str, rows: npt.NDArray[np.int64]) -> float:
        return float((1 / ranks[way].to_numpy()[rows]).mean())

    told: dict[str, dict[str, Any]] = {}
    for way in found:
        told[way] = {}
        for name, measure, samples, size in (
            ("pay", pearson, draws, len(paid)),
            ("words", reciprocal, drawn, len(groups)),
        ):
            gains = [measure(way, rows) - measure("site-2026", rows) for rows in samples]
            everyone = np.arange(size)
            told[way][name] = {
                "groups": size,
                "value": measure(way, everyone),
                "better": measure(way, everyone) - measure("site-2026", everyone),
                "low": float(np.percentile(gains, 2.5)),
                "high": float(np.percentile(gains, 97.5)),
            }
        told[way]["pay"]["spearman"] = pairs[way]["us"].loc[paid].corr(pairs[way]["uk"], method="spearman")
        told[way]["words"]["first"] = float((ranks[way] == 1).mean())
        told[way]["words"]["first five"] = float((ranks[way] <= 5).mean())
    return told


def figures() -> dict[str, Any]:
    """All figures of docs/method.md."""
    found = tables()
    site = found["site-2026"]
    return {
        "counts": {way: counts(table) for way, table in found.items()},
        "spearman with the site": {way: against(found[way], site) for way in WAYS[1:]},
        "spearman with index": {way: against(found[way], found["index"]) for way in ("equal", "employment")},
        "movers, index against the site": movers(found["index"], site),
        "agreement": agreement(found),
        "totals": {way: table.totals for way, table in found.items()},
    }


if __name__ == "__main__":
    print(json.dumps(figures(), indent=1, ensure_ascii=False))
