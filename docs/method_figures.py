"""Measure what docs/method.md says: `python docs/method_figures.py` prints each of its sentences that holds a figure.

`--check` ends with 1 where the page says anything else. `--simulate` also makes the simulations, which take half an hour; without
it their figures are passed over.

Needs the source files (RELABEL_DATA_MIRROR or `relabel data pull`). The labels are those of GPT-4 of 2023. Two sources
that neither the labels nor the bridge know tell how well a bridge matches occupations:

- pay: US median wages (OEWS), carried over the bridge, against UK medians of the same groups (ASHE);
- words: descriptions of O*NET occupations, carried over the bridge, against those of the UK groups (SOC 2020 volume 1).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from relabel.evaluation.alignment import match
from relabel.evaluation.gold import load_gold
from relabel.rubric import CODES
from relabel.run import Run, open_run
from relabel.scoring.bridges import Bridge, codes_of, index_entries
from relabel.scoring.measures import score_map, scored_codes
from relabel.scoring.multiverse import multiverse, spread_summary, with_spread
from relabel.scoring.noise import Raters
from relabel.scoring.options import Links
from relabel.scoring.pay import read_pay
from relabel.scoring.table import ScoreTable, score_table
from relabel.scoring.uncertainty import with_intervals
from relabel.sources import bls, onet, ons
from relabel.task import TASK_KEY, task_table

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


def word_ranks(shares: pd.DataFrame, alike: pd.DataFrame, groups: pd.Index) -> pd.Series:
    """For each group, the place of its own description among all, by likeness to what stands for the group; 1 is best."""
    shares = shares[shares["code"].isin(groups)]
    mix = shares.pivot(index="code", columns="onet_soc_code", values="share").fillna(0.0)
    found = mix.to_numpy() @ alike.loc[mix.columns].to_numpy()
    own = found[np.arange(len(mix)), alike.columns.get_indexer(mix.index)]
    return pd.Series((found > own[:, None]).sum(axis=1) + 1, index=mix.index)


def agreement(found: Mapping[str, ScoreTable]) -> dict[str, dict[str, Any]]:
    """Agreement of each way with pay and words, over the groups that every way has a score for.

    `better` is the difference from the site's method with its 95% interval, groups drawn again with replacement.
    """
    frames = [t.frame.dropna(subset="alpha").set_index("code").index for t in found.values()]
    groups = frames[0]
    for codes in frames[1:]:
        groups = groups.intersection(codes)
    wages, alike = us_wages(), likeness()
    pairs = {way: pay_pairs(table, wages, groups) for way, table in found.items()}
    paid = pairs["site-2026"].index
    ranks = {way: word_ranks(table.shares, alike, groups).loc[groups] for way, table in found.items()}
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


def detail_rules(table: ScoreTable) -> dict[str, Any]:
    """What 1121 and all groups score where a SOC code's detailed O*NET codes count less than its base code (`.00`).

    `half`: the base code counts as much as its detailed codes together; `base`: it stands alone. Words judge both beside `index`.
    """
    first, *rest = table.bridge.steps
    links, listed = first.links, set(table.task_values["onet_soc_code"])
    base = links["source"].str.endswith(".00") & links["source"].isin(listed)
    has = links["target"].map(base.groupby(links["target"]).any())
    size = links[links["source"].isin(listed)].groupby("target").size()
    part = 1 / (links["target"].map(size).fillna(1) - 1).clip(lower=1)
    rules = {
        "half": links.assign(weight=links["weight"].where(~(has & ~base), part)),
        "base": links[~has | base].reset_index(drop=True),
    }
    detailed = frozenset(links.loc[has & ~base, "source"])
    own = table.shares[table.shares["onet_soc_code"].isin(detailed)].groupby("code")["share"].sum()
    alike, groups = likeness(), table.frame.dropna(subset="alpha").set_index("code").index
    scores, at = table.map.scores(table.task_values), table.map.codes.get_loc("1121")
    before = 1 / word_ranks(table.shares, alike, groups).loc[groups].to_numpy()
    rng = np.random.default_rng(SEED)
    drawn = [rng.integers(0, len(groups), len(groups)) for _ in range(DRAWS)]
    found: dict[str, Any] = {"over half": int((own > 0.5).sum()), "1121": float(scores[2][at])}
    for rule, changed in rules.items():
        bridge = Bridge(
            rule,
            table.taxonomy,
            (dataclasses.replace(first, links=changed), *rest),
            table.bridge.titles,
            donors=table.bridge.donors,
        )
        shares = bridge.shares(scored_codes(table.task_values))
        moved = score_map(table.task_values, shares, table.map.codes).scores(table.task_values)
        gain = 1 / word_ranks(shares, alike, groups).loc[groups].to_numpy() - before
        low, high = np.percentile([gain[rows].mean() for rows in drawn], [2.5, 97.5])
        found[rule] = {
            "1121": moved[2, at],
            "moved": int((np.abs(moved[2] - scores[2]) > 0.1).sum()),
            "gain": gain.mean(),
            "low": low,
            "high": high,
        }
    return found


def shown(value: float, places: int = 3) -> str:
    """A figure as the page writes it: without the nought before the point."""
    text = f"{value:.{places}f}"
    return "0" if float(text) == 0 and places > 2 and value == 0 else re.sub(r"^(-?)0\.", r"\1.", text)


def row(name: str, cells: list[str]) -> str:
    """A line of a table."""
    return f"| {name} | {' | '.join(cells)} |"


def of_the_sources(found: Mapping[str, ScoreTable]) -> Iterator[str]:
    """Counts that follow from tasks, the index and the workbooks of the BLS."""
    table = found["index"]
    tasks, changes = task_table("onet-30.2"), table.release_counts
    yield (
        f"Of the {len(tasks):,} tasks of O*NET 30.2, {tasks['importance'].isna().sum()} have no rating, and "
        f"{table.unrated_occupations} occupations have none at all"
    )
    yield f"({changes['tasks_reworded']} of the 2023 labels;"
    yield f"({changes['tasks_emerging']} in 30.2)"
    entries = index_entries(ons.read_coding_index())
    first = entries.sort_values(["target", "weight", "source"], ascending=[True, False, True]).drop_duplicates("target")
    count = int(first["source"].duplicated(keep=False).sum())
    yield f"Over all {len(first)} groups, scored or not, {count} share their ISCO-08 code"
    codes = onet.read_onet_to_soc2018()["soc2018"].drop_duplicates()
    wages = bls.read_wages()
    rows = wages[(wages["group"] == "detailed") & (wages["employment"] > 0)]["soc2018"]
    lacking = codes[~codes.isin(rows)]
    combined = rows[~rows.isin(codes)]
    held = lacking[lacking.str[:6].isin(combined.str[:6])]
    yield (
        f"{len(lacking)} of the {len(codes)} SOC 2018 codes have no row in OEWS. {len(held)} of them are part of "
        f"{held.str[:6].nunique()} combined rows"
    )
    yield f"The other {len(lacking) - len(held)} (armed forces"
    whole = entries.groupby("target")["weight"].sum()
    military = entries[entries["source"].str.startswith("0")].groupby("target")["weight"].sum()
    yield f"{military['3311']:.0f} of its {whole['3311']:.0f} index entries are military"
    yield f"All {military['1161']:.0f} entries are military"
    covered: Any = found["employment"].frame.set_index("code").loc["4151", "coverage"]
    yield f"{100 * (1 - covered):.0f}% of 4151 (sales administrators) rests on residual codes"


def of_the_bridges(found: Mapping[str, ScoreTable]) -> Iterator[str]:
    """What the ways to bridge do to scores, and what pay and words say of them."""
    told = {way: counts(table) for way, table in found.items()}
    cells = [told[way] for way in WAYS]
    yield row("groups scored, of 412", [str(c["scored"]) for c in cells])
    yield row("thin / without a score", [f"{c['thin']} / {c['unscored']}" for c in cells])
    yield row("groups that share all three measures with another", [str(c["sharing a score"]) for c in cells])
    yield row(
        "groups that share all links to ISCO-08 with another", [str(c["sharing all links to ISCO-08"]) for c in cells]
    )

    def alike(way: str, other: str) -> str:
        both = against(found[way], found[other])
        return f"{shown(both['alpha'])}, {shown(both['gamma'])}"

    yield "| rank correlation with site-2026: alpha, gamma | | " + " | ".join(
        alike(way, "site-2026") for way in WAYS[1:]
    )
    others = [alike("site-2026", "index"), alike("equal", "index"), "", alike("employment", "index")]
    yield row("rank correlation with index: alpha, gamma", others).replace("|  |", "| |")
    for mover in movers(found["index"], found["site-2026"]):
        yield f"({mover['place_old']:.0f} to {mover['place_new']:.0f})"
    measured = agreement(found)
    size = measured["index"]
    yield f"| {size['words']['groups']} groups that every way scores |"
    for source, name in (
        ("pay", f"pay: correlation of logs ({size['pay']['groups']} groups with pay)"),
        ("words", "words: mean reciprocal rank"),
    ):
        yield row(name, [shown(measured[way][source]["value"]) for way in WAYS])
        gains = [measured[way][source] for way in WAYS[1:]]
        yield row(
            "gain on site-2026, 95%",
            ["", *(f"{shown(g['better'])} ({shown(g['low'])} to {shown(g['high'])})" for g in gains)],
        ).replace("|  |", "| |")
    yield row("pay: rank correlation", [shown(measured[way]["pay"]["spearman"]) for way in WAYS])
    yield row("words: own group is the first", [f"{100 * measured[way]['words']['first']:.0f}%" for way in WAYS])
    both = found["index"].frame["alpha"].notna() & found["site-2026"].frame["alpha"].isna()
    yield f"The {both.sum()} groups that only the bridge scores"
    rules = detail_rules(found["index"])
    employed: Any = found["employment"]
    yield (
        f"gamma of 1121 is {shown(rules['1121'])}, and {shown(employed.map.scores(employed.task_values)[2, employed.map.codes.get_loc('1121')])} under `employment`"
    )
    behind = found["index"].shares.set_index(["code", "onet_soc_code"])["share"].loc["1121"]
    plants = behind[[f"11-3051.{n}" for n in ("02", "03", "04", "06")]].sum()
    yield f"{100 * (plants + behind['11-3051.01']):.0f}% of 1121 (production managers in manufacturing)"
    yield f"hydroelectric plants ({100 * plants:.0f}%)"
    yield f"In {rules['over half']} groups detailed codes make up more than half"
    for rule in ("half", "base"):
        of = rules[rule]
        yield f"| {shown(of['1121'])} | {of['moved']} | {shown(of['gain'])} ({shown(of['low'])} to {shown(of['high'])}) |"


def of_the_totals(found: Mapping[str, ScoreTable]) -> Iterator[str]:
    """Pay, the spread over bridges, what people's labels would give, and the multiverse."""
    table, run = found["index"], open_run(RUN)

    def billions(way: str, measure: str) -> str:
        return f"{(found[way].totals or {})[f'wage_exposure_{measure}_gbp'] / 1e9:.1f}"  # pyright: ignore[reportOptionalOperand]  pay is known

    new, old = (dict(found[way].totals or {}) for way in ("index", "site-2026"))
    yield (
        f"{new['groups']} groups, {(new['employees'] or 0) / 1e6:.1f} of {(new['workforce'] or 0) / 1e6:.1f} million jobs "
        f"({100 * (new['coverage'] or 0):.1f}%), alpha {billions('index', 'alpha')}, beta {billions('index', 'beta')} and gamma "
        f"{billions('index', 'gamma')} billion pounds; with site-2026 {old['groups']} groups and "
        f"{100 * (old['coverage'] or 0):.1f}% of the jobs, alpha {billions('site-2026', 'alpha')}, gamma "
        f"{billions('site-2026', 'gamma')} billion"
    )
    pay = read_pay("ons-ashe-2024", dict.fromkeys(codes_of(table.bridge.titles), "")).frame
    jobs = pay["employees"].astype("float64")
    both = pay["median_pay_gbp"].notna() & pay["mean_pay_gbp"].notna() & jobs.notna()
    more = (jobs * pay["mean_pay_gbp"])[both].sum() / (jobs * pay["median_pay_gbp"])[both].sum() - 1
    yield f"Jobs x mean pay is {100 * more:.1f}% more than jobs x median pay"
    spread: Any = spread_summary(with_spread(table)).set_index(["bridge", "measure"])
    yield f"moves gamma by more than .1 in {spread.loc[('employment', 'gamma'), 'moved']} groups"
    most: Any = spread.loc[spread["most"].astype("float64").idxmax()]
    yield f"in {most['code']}, {shown(most['most'], 2)}"
    bounded = with_intervals(table, run).frame.set_index("code")
    chief: Any = bounded.loc["1121"]
    yield f"gamma is {shown(chief['gamma'])}, and people's labels are predicted to give about {shown(chief['gamma_gold'], 2)}"
    human = score_table(open_run("eloundou-2023:human")).frame.set_index("code")
    held = {
        m: human[m].between(bounded[f"{m}_gold_low"], bounded[f"{m}_gold_high"])[human[m].notna()].mean()
        for m in MEASURES
    }
    yield f"the interval contains {', '.join(shown(held[m], 2) for m in MEASURES[:2])} and {shown(held['gamma'], 2)} of the scores"
    others = [open_run(f"eloundou-2023:{who}") for who in ("gpt4-alt", "human")]
    many = multiverse(table, run, others)
    yield f"{len(many.universes)} for the labels of 2023"
    ends: Any = many.headline.set_index("outcome")
    low, high = (
        [f"{ends.loc[f'wage_exposure_{m}_gbp', end] / 1e9:.0f}" for m in ("alpha", "gamma")] for end in ("min", "max")
    )
    yield f"wage exposure is {low[0]} to {high[0]} billion pounds under alpha and {low[1]} to {high[1]} under gamma"
    share = 100 * many.effects.set_index(["outcome", "choice"])["first_order"]
    yield (
        f"variance of mean gamma ({share['mean_gamma', 'labels']:.0f}%), and {share['wage_exposure_gamma_gbp', 'labels']:.0f}% of "
        "that of gamma wages"
    )
    yield f"the bridge makes up {share['wage_exposure_gamma_gbp', 'bridge']:.0f}% of the latter"


def of_raters(worlds: int = 300) -> Iterator[str]:
    """How often an interval over raters holds the mean over endlessly many; raters lean, and err by occupation too."""
    table = score_table(open_run(RUN))
    # One group in eight: raters that lean do so in all of them, so that worlds count and not groups.
    centre = np.clip(np.nan_to_num(table.map.scores(table.task_values)[:, ::8]), 0.01, 0.99)
    odds, rng = np.log(centre / (1 - centre)), np.random.default_rng(SEED)

    def rated(raters: int, lean: float, apart: float) -> npt.NDArray[np.float64]:
        own = rng.standard_normal((raters, *odds.shape)) * apart
        return 1 / (1 + np.exp(-(odds + rng.standard_normal((raters, 1, 1)) * lean + own)))

    told: list[str] = []
    for count in (3, 4, 6):
        covered: list[float] = []
        for lean, apart in ((0.3, 0.1), (0.3, 0.3), (0.1, 0.3)):
            truth = rated(2_000, lean, apart).mean(axis=0)
            held = [
                (np.quantile(drawn, 0.025, axis=2) <= truth) & (truth <= np.quantile(drawn, 0.975, axis=2))
                for world in range(worlds)
                for drawn in [Raters([str(n) for n in range(count)], rated(count, lean, apart)).draw(None, 400, world)]
            ]
            covered.append(float(np.mean(held)))
        told.append(f"{shown(min(covered), 2)} to {shown(max(covered), 2)}")
    yield f"covers {told[0]} of the means with three raters, {told[1]} with four and {told[2]} with six"


def _part(run: Run, share: float, rng: np.random.Generator, *, within: bool) -> Run:
    """A run that labelled a random part of the tasks, of all or within each occupation."""
    labels = run.labels
    if within:
        place = labels.assign(u=rng.random(len(labels))).groupby("onet_soc_code")["u"].rank(pct=True)
        kept = labels[place <= share]
    else:
        kept = labels[rng.random(len(labels)) < share]
    manifest = run.manifest.model_copy(update={"parameters": {"sample": len(kept)}})
    return dataclasses.replace(run, ref="part", labels=kept.reset_index(drop=True), manifest=manifest)


def of_parts(runs: int = 2) -> Iterator[str]:
    """How often the score's own interval holds the score of all labels, where a part of the tasks was labelled."""
    run, rng = open_run(RUN), np.random.default_rng(SEED)
    whole = score_table(run).frame.set_index("code")
    names = {False: "one answer a task, truth: the score of all labels", True: "the same, drawn within occupations"}
    for within, name in names.items():
        cells: list[str] = []
        for share in (0.1, 0.3, 0.6, 0.9):
            held: dict[str, list[float]] = {measure: [] for measure in MEASURES}
            for _ in range(runs):
                part = _part(run, share, rng, within=within)
                frame = with_intervals(score_table(part), part, gold=part, draws=400).frame.set_index("code")
                for measure in MEASURES:
                    known = frame[measure].notna() & whole[measure].notna()
                    low, high = frame[f"{measure}_low"] - 1e-9, frame[f"{measure}_high"] + 1e-9
                    held[measure].append(float(whole[measure].between(low, high)[known].mean()))
            cells.append(" ".join(shown(float(np.mean(held[m])), 2) for m in MEASURES))
        yield row(name, cells)


def of_single_answers(runs: int = 2) -> Iterator[str]:
    """How often the interval of single answers holds the expected score, by the part of the variance between the tasks of an occupation."""
    run, rng = open_run(RUN), np.random.default_rng(SEED)
    labels, told = run.labels, list[str]()
    mixes = pd.crosstab(labels["onet_soc_code"], labels["label"])[list(CODES)]
    mixes += 2 * labels["label"].value_counts(normalize=True)[list(CODES)]
    mixes = mixes.div(mixes.sum(axis=1), axis=0).loc[labels["onet_soc_code"]].to_numpy()
    for between in (0, 0.2, 0.5):
        held: list[float] = []
        for _ in range(runs):
            drawn = rng.standard_gamma(np.maximum(mixes * (1 / between - 1), 1e-3)) if between else mixes
            chances = drawn / drawn.sum(axis=1, keepdims=True)
            place = (rng.random((len(labels), 1)) > chances.cumsum(axis=1)[:, :-1]).sum(axis=1)
            anew = dataclasses.replace(run, ref="anew", labels=labels.assign(label=np.array(CODES)[place]))
            table = score_table(anew)
            of_code = dict(zip(CODES, chances.T, strict=True))
            gamma = of_code["E1"] + of_code["E2"]
            worth = labels[[*TASK_KEY]].assign(alpha=of_code["E1"], beta=(of_code["E1"] + gamma) / 2, gamma=gamma)
            truth = table.map.scores(table.task_values[TASK_KEY].merge(worth, how="left", on=TASK_KEY))
            frame = with_intervals(table, anew, gold=anew, draws=400).frame
            for measure, true in zip(MEASURES, truth, strict=True):
                low, high = frame[f"{measure}_low"] - 1e-9, frame[f"{measure}_high"] + 1e-9
                held.append(float(pd.Series(true).between(low, high)[frame[measure].notna()].mean()))
        told.append(f"{shown(min(held), 2)} to {shown(max(held), 2)}")
    yield (
        f"holds the expected score of {told[0]} of the UK groups; of {told[1]} if a fifth of the variance lies between the tasks "
        f"of an occupation, and of {told[2]} if half does"
    )


def of_occupations(samples: int = 300) -> Iterator[str]:
    """How often intervals of agreement hold the figure over all occupations, where few of them were drawn."""
    whole = match(open_run(RUN), load_gold("eloundou-2023:human"))
    labels = ("accuracy", "kappa", "kappa_quadratic", "macro_f1")
    values = ("mean", "difference", "pearson")
    truth = {name: whole.pair("three-way").figure(name).value for name in labels}
    truth |= {name: whole.pair("beta").figure(name).value for name in values}
    codes = np.unique(whole.codes.astype(str))
    place, rng = np.searchsorted(codes, whole.codes.astype(str)), np.random.default_rng(SEED)
    covered: dict[int, dict[str, float]] = {}
    useless: dict[int, float] = {}
    for size in range(2, 16):
        held, wide = {name: [] for name in truth}, []
        for draw in range(samples):
            chosen = np.isin(place, rng.choice(len(codes), size, replace=False))
            part = whole.part(chosen).with_draws(400, draw)
            of = part.pair("three-way")
            found = of.with_ci95(labels)["ci95"] | part.pair("beta").with_ci95(values)["ci95"]
            wide.append(of.figure("accuracy").is_uninformative())
            for name, bounds in found.items():
                held[name].append(bounds is None or bounds[0] <= truth[name] <= bounds[1])
        covered[size] = {name: float(np.mean(each)) for name, each in held.items()}
        useless[size] = float(np.mean(wide))
    for name, sizes in (("2 to 9", range(2, 10)), ("10 to 15", range(10, 16))):
        ends = [(min(covered[n][of] for n in sizes), max(covered[n][of] for n in sizes)) for of in truth]
        yield row(name, [f"{shown(low, 2)} to {shown(high, 2)}" for low, high in ends])
    yield f"in {100 * useless[2]:.0f}% of samples, with three in {100 * useless[3]:.0f}%, with five in {'none' if useless[5] == 0 else f'{100 * useless[5]:.0f}%'}"


SIMULATED = (of_raters, of_parts, of_single_answers, of_occupations)


def fragments(*, simulate: bool = False) -> list[str]:
    """The parts of docs/method.md that hold figures, as measured now."""
    found = tables()
    told = [text for part in (of_the_sources, of_the_bridges, of_the_totals) for text in part(found)]
    return told + ([text for part in SIMULATED for text in part()] if simulate else [])


def missing(told: list[str], page: str) -> list[str]:
    """Those that the page does not say."""
    text = " ".join(page.split())
    return [fragment for fragment in told if " ".join(fragment.split()) not in text]


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--check", action="store_true")
    asked.add_argument("--simulate", action="store_true")
    chosen = asked.parse_args()
    said = fragments(simulate=chosen.simulate)
    print("\n".join(said))
    wrong = missing(said, (Path(__file__).parent / "method.md").read_text(encoding="utf-8")) if chosen.check else []
    for fragment in wrong:
        print(f"NOT IN method.md: {fragment}", file=sys.stderr)
    sys.exit(1 if wrong else 0)
