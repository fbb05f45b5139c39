"""The figures that the paper of 2023 prints, made again from its published labels.

Each printed figure stands beside ours, with the rule of comparison, the weights, and the tolerance: half a unit of the last
printed digit, or a point where the paper says "around". A figure that cannot be reproduced says why. A figure counts as
printed only where the print was seen; the others are recomputed alone, and never filled in.

Printed figures: Eloundou, Manning, Mishkin and Rock, "GPTs are GPTs", arXiv:2303.10130 (v5, August 2023), tables 2 and 4,
section 4 and abstract; and the abstract in Science 384 (2024) 1306-1308. They were taken from public transcripts, because the paper
itself could not be opened while this was written; what no transcript holds was not seen. The paper calls gamma zeta.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import pandas as pd

from relabel.errors import DataError
from relabel.evaluation.document import Frozen
from relabel.rubric import CODES, MEASURES, Measure
from relabel.run import SourceUse, task_sources
from relabel.sources import bls, eloundou

EMPLOYMENT = "bls-oews-2023"
"""Jobs by occupation, the earliest release in the registry; the paper used those of 2020 and 2021."""

_WORTH: Mapping[Measure, Mapping[str, float]] = {
    "alpha": {"E0": 0, "E2": 0, "E1": 1},
    "beta": {"E0": 0, "E2": 0.5, "E1": 1},
    "gamma": {"E0": 0, "E2": 1, "E1": 1},
}
_NAMES = {"gpt4": "GPT-4", "gpt4_alt": "GPT-4 alt", "human": "human"}
_NOT_SEEN = "the printed figure was not seen; recomputed only"

# Table 2: agreement in percent and Pearson's r, by raters and measure.
_AGREEMENT: Mapping[tuple[str, str], Mapping[Measure, tuple[float | None, float | None]]] = {
    ("gpt4", "human"): {"alpha": (80.8, 0.223), "beta": (65.6, 0.591), "gamma": (82.1, 0.654)},
    ("gpt4_alt", "human"): {"alpha": (None, 0.221), "beta": (65.6, None), "gamma": (None, None)},
    ("gpt4", "gpt4_alt"): {"alpha": (None, None), "beta": (None, None), "gamma": (None, None)},
}
# Table 4: percent of exposed tasks, in the printed order.
_TOP: Mapping[tuple[str, Measure], tuple[tuple[str, float], ...]] = {
    ("human", "alpha"): (
        ("Interpreters and Translators", 76.5),
        ("Survey Researchers", 75.0),
        ("Poets, Lyricists and Creative Writers", 68.8),
        ("Animal Scientists", 66.7),
        ("Public Relations Specialists", 66.7),
    ),
    ("human", "beta"): (
        ("Survey Researchers", 84.4),
        ("Writers and Authors", 82.5),
        ("Interpreters and Translators", 82.4),
        ("Public Relations Specialists", 80.6),
        ("Animal Scientists", 77.8),
    ),
    ("human", "gamma"): (
        ("Mathematicians", 100.0),
        ("Tax Preparers", 100.0),
        ("Financial Quantitative Analysts", 100.0),
        ("Writers and Authors", 100.0),
        ("Web and Digital Interface Designers", 100.0),
    ),
    ("gpt4", "alpha"): (
        ("Mathematicians", 100.0),
        ("Correspondence Clerks", 95.2),
        ("Blockchain Engineers", 94.1),
        ("Court Reporters and Simultaneous Captioners", 92.9),
        ("Proofreaders and Copy Markers", 90.9),
    ),
    ("gpt4", "beta"): (),
    ("gpt4", "gamma"): (
        ("Accountants and Auditors", 100.0),
        ("News Analysts, Reporters, and Journalists", 100.0),
        ("Legal Secretaries and Administrative Assistants", 100.0),
        ("Clinical Data Managers", 100.0),
        ("Climate Change Policy Analysts", 100.0),
    ),
}


class Cell(Frozen):
    """A figure of the paper.

    Attributes:
        table: Where the paper prints it.
        figure: What it is.
        printed: The printed figure; null where the print was not seen.
        ours: The figure from the published labels; null where it cannot be made.
        unit: `percent`, `share` (0-1), `correlation` or `count`.
        rule: How labels, values or thresholds are compared.
        weights: How tasks, occupations or jobs weigh.
        tolerance: Largest difference that counts as reproduced, in the unit.
        reproduced: Whether the two agree; null where there is nothing to compare.
        reason: Why it is not reproduced or not compared.
        core_weighted: For means over occupations, the same with the weights of the published `occ_level.csv` (core tasks
            2, others 1), which the paper's tables do not use.
    """

    table: str
    figure: str
    printed: float | None
    ours: float | None
    unit: Literal["percent", "share", "correlation", "count"]
    rule: str
    weights: str
    tolerance: float
    reproduced: bool | None
    reason: str | None = None
    core_weighted: float | None = None


class PaperDocument(Frozen):
    """The paper's figures: what `relabel eval --paper --json` writes.

    Attributes:
        cells: The figures, in the paper's order.
        reproduced: How many agree with ours.
        not_reproduced: How many do not, each with its reason.
        not_compared: How many have no printed figure that was seen, or none of ours.
        sources: The files that ours come from.
    """

    cells: tuple[Cell, ...]
    reproduced: int
    not_reproduced: int
    not_compared: int
    sources: tuple[SourceUse, ...]


def recompute() -> PaperDocument:
    """Make the paper's figures again from its published labels.

    Raises:
        DataError: The labels of 2023 cannot be read.
    """
    labels = eloundou.read_labels()
    equal, core = (_occupations(labels, core=core) for core in (1.0, 2.0))
    titles = labels.drop_duplicates("onet_soc_code").set_index("onet_soc_code")["title"]
    cells = (
        *_agreement(labels),
        *_summary(labels, equal, core),
        *_top(equal.set_axis(titles.reindex(equal.index), axis=0), core.set_axis(titles.reindex(core.index), axis=0)),
        *_shares(labels, equal, core),
        *_workers(equal),
    )
    return PaperDocument(
        cells=cells,
        reproduced=sum(cell.reproduced is True for cell in cells),
        not_reproduced=sum(cell.reproduced is False for cell in cells),
        not_compared=sum(cell.reproduced is None for cell in cells),
        sources=task_sources("eloundou-2023"),
    )


def _values(labels: pd.DataFrame, who: str, measure: Measure) -> pd.Series:
    return labels[who].map(dict(_WORTH[measure])).astype("float64")


def _occupations(labels: pd.DataFrame, *, core: float) -> pd.DataFrame:
    """Means by O*NET-SOC code, columns by (who, measure); core tasks weigh `core`, all others 1."""
    weight = pd.Series(np.where(labels["task_type"] == "Core", core, 1.0), index=labels.index)
    code = labels["onet_soc_code"]
    total = weight.groupby(code).sum()
    return pd.DataFrame(
        {
            (who, measure): (_values(labels, who, measure) * weight).groupby(code).sum() / total
            for who in _NAMES
            for measure in MEASURES
        }
    )


def _agreement(labels: pd.DataFrame) -> Iterator[Cell]:
    for (first, second), by_measure in _AGREEMENT.items():
        for measure, (share, correlation) in by_measure.items():
            one, other = _values(labels, first, measure), _values(labels, second, measure)
            who = f"{_NAMES[first]} and {_NAMES[second]}, {measure}"
            ours = 100 * float((one == other).mean())
            yield _cell("2", f"agreement, {who}", share, ours, "percent", "equal task values", "tasks equal", 0.05)
            ours = float(np.corrcoef(one, other)[0, 1])
            yield _cell(
                "2", f"Pearson's r, {who}", correlation, ours, "correlation", "task values", "tasks equal", 5e-4
            )


def _summary(labels: pd.DataFrame, equal: pd.DataFrame, core: pd.DataFrame) -> Iterator[Cell]:
    for who in ("human", "gpt4"):
        for measure in MEASURES:
            for word, how in (("mean", "mean"), ("standard deviation", "std")):
                yield _cell(
                    "3",
                    f"occupations, {word}, {_NAMES[who]}, {measure}",
                    None,
                    float(getattr(equal[who, measure], how)()),
                    "share",
                    "means by O*NET-SOC code",
                    "tasks equal within an occupation, occupations equal",
                    5e-3,
                    core_weighted=float(getattr(core[who, measure], how)()),
                )
            values = _values(labels, who, measure)
            for word, ours in (("mean", values.mean()), ("standard deviation", values.std())):
                figure = f"tasks, {word}, {_NAMES[who]}, {measure}"
                yield _cell("3", figure, None, float(ours), "share", "task values", "tasks equal", 5e-3)
    for who, name in _NAMES.items():
        for code in CODES:
            ours = 100 * float((labels[who] == code).mean())
            yield _cell("-", f"tasks labelled {code}, {name}", None, ours, "percent", "=", "tasks equal", 0.05)


def _top(equal: pd.DataFrame, core: pd.DataFrame) -> Iterator[Cell]:
    weights = "tasks equal within an occupation"
    for (who, measure), printed in _TOP.items():
        scores, other = equal[who, measure] * 100, core[who, measure] * 100
        for place, (title, value) in enumerate(printed or _ours_first(scores), 1):
            ours = float(scores.loc[title])
            # Ties stand in the paper in an order of its own: an occupation is in place when fewer than that many beat it.
            ahead = int((scores > ours + 1e-9).sum())
            cell = _cell(
                "4",
                f"top {place}, {_NAMES[who]}, {measure}: {title}",
                value,
                ours,
                "percent",
                f"fewer than {place} occupations above",
                weights,
                0.05,
                core_weighted=float(other.loc[title]),
            )
            if value is not None and ahead >= place:
                cell = cell.model_copy(update={"reproduced": False, "reason": f"{ahead} occupations lie above it"})
            yield cell
    for who, printed in (("human", 15), ("gpt4", 86)):
        ours = float((equal[who, "gamma"] >= 1 - 1e-12).sum())
        yield _cell("4", f"occupations fully exposed, {_NAMES[who]}, gamma", printed, ours, "count", ">= 1", weights, 0)
    none = float((equal[["human", "gpt4"]] == 0).all(axis=1).sum())
    yield _cell(
        "appendix", "occupations without an exposed task", None, none, "count", "= 0 in all six scores", weights, 0
    )


def _ours_first(scores: pd.Series) -> list[tuple[str, None]]:
    """Our own first five, where the printed ones were not seen."""
    return [(str(title), None) for title in scores.sort_values(ascending=False, kind="stable").index[:5]]


def _shares(labels: pd.DataFrame, equal: pd.DataFrame, core: pd.DataFrame) -> Iterator[Cell]:
    faster: tuple[tuple[str, Measure, float, str], ...] = (
        ("human", "alpha", 15, "a model alone"),
        ("human", "gamma", 47, "with software, lower figure"),
        ("gpt4", "gamma", 56, "with software, upper figure"),
    )
    for who, measure, printed, words in faster:
        ours = 100 * float(_values(labels, who, measure).mean())
        figure = f"tasks done significantly faster, {words} ({_NAMES[who]}, {measure})"
        yield _cell("abstract", figure, printed, ours, "percent", "mean of task values", "tasks equal", 0.5)
    for who in ("human", "gpt4"):
        for measure in MEASURES:
            scores, other = equal[who, measure], core[who, measure]
            printed = {("human", "alpha"): 1.8, ("human", "gamma"): 46}.get((who, measure))
            for rule, over, over_core in ((">", scores > 0.5, other > 0.5), (">=", scores >= 0.5, other >= 0.5)):
                yield _cell(
                    "Science abstract" if printed is not None and rule == ">" else "-",
                    f"occupations with {'over' if rule == '>' else 'at least'} half of their tasks, {_NAMES[who]}, {measure}",
                    printed if rule == ">" else None,
                    100 * float(over.mean()),
                    "percent",
                    f"{rule} 0.5",
                    "tasks equal, occupations equal",
                    0.05 if measure == "alpha" else 0.5,
                    core_weighted=100 * float(over_core.mean()),
                )


def _workers(equal: pd.DataFrame) -> Iterator[Cell]:
    wanted: tuple[tuple[str, Measure, float, str, float], ...] = (
        ("abstract", "beta", 0.1, ">=", 80),
        ("abstract", "beta", 0.5, ">=", 19),
        ("section 4", "alpha", 0.5, ">", 3),
        ("section 4", "gamma", 0.5, ">=", 49),
    )
    weights = f"jobs by six-digit SOC ({EMPLOYMENT}); tasks equal, detailed codes equal within a SOC"
    try:
        jobs = bls.read_wages(EMPLOYMENT)
        jobs = jobs[jobs["group"] == "detailed"].set_index("soc2018")["employment"].dropna()
        missing = None
    except DataError as error:
        jobs, missing = None, f"no employment figures: {error}"
    for table, measure, bound, rule, printed in wanted:
        share = "10 %" if bound < 0.5 else "50 %"
        figure = f"workers with {'over' if rule == '>' else 'at least'} {share} of their tasks, human, {measure}"
        if jobs is None:
            yield _cell(table, figure, printed, None, "percent", f"{rule} {bound}", weights, 1, reason=missing)
            continue
        soc = equal["human", measure].groupby(equal.index.str[:7]).mean()
        both = pd.DataFrame({"score": soc, "jobs": jobs}).dropna()
        score = both["score"].round(12)
        by_rule = {
            sign: 100 * float((both["jobs"] * over).sum() / both["jobs"].sum())
            for sign, over in ((">", score > bound), (">=", score >= bound))
        }
        ours, other = by_rule[rule], ">=" if rule == ">" else ">"
        covered = both["jobs"].sum() / jobs.sum()
        why = (
            f"other jobs: those of {EMPLOYMENT}, {100 * covered:.0f} % of which have a score under the same code; the "
            f"paper used jobs of 2020 and 2021; with {other} instead of {rule} it would be {by_rule[other]:.1f}"
        )
        yield _cell(table, figure, printed, ours, "percent", f"{rule} {bound}", weights, 1, reason=why)


def _cell(
    table: str,
    figure: str,
    printed: float | None,
    ours: float | None,
    unit: Literal["percent", "share", "correlation", "count"],
    rule: str,
    weights: str,
    tolerance: float,
    *,
    core_weighted: float | None = None,
    reason: str | None = None,
) -> Cell:
    if printed is None:
        reproduced, reason = None, _NOT_SEEN
    elif ours is None:
        reproduced = None
    else:
        # A hair more than half a unit, since the printed figure was rounded from one with more digits.
        reproduced = abs(ours - printed) <= tolerance * (1 + 1e-9) + 1e-12
        reason = None if reproduced else reason or "the published labels give another figure; the cause is not known"
    return Cell(
        table=table,
        figure=figure,
        printed=printed,
        ours=ours,
        unit=unit,
        rule=rule,
        weights=weights,
        tolerance=tolerance,
        reproduced=reproduced,
        reason=reason,
        core_weighted=core_weighted,
    )
