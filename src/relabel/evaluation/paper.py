"""Replication of the figures printed in the paper of 2023, from its published labels.

Each printed figure is compared with ours, under a stated rule, weights and tolerance: half a unit of the last printed digit, or
one percentage point where the paper says "around". A figure that is not reproduced has a reason. Only figures that were seen in
print count as printed; for the others, the printed value is left empty and only ours is computed.

Printed figures: Eloundou, Manning, Mishkin and Rock, "GPTs are GPTs", arXiv:2303.10130 (v5, August 2023), tables 2 and 4,
section 4 and abstract; and the abstract in Science 384 (2024) 1306-1308. They were taken from public transcripts, because the paper
itself could not be opened when this was written; a figure in no transcript counts as not seen. The paper calls gamma zeta.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from relabel.errors import DataError
from relabel.manifest import task_sources
from relabel.rubric import CODES, MEASURES, Measure
from relabel.settings import Frozen
from relabel.sources import bls, eloundou
from relabel.sources.fetch import SourceUse

# Source of jobs by occupation, the earliest release in the registry; the paper used jobs of 2020 and 2021.
EMPLOYMENT = "bls-oews-2023"

# Value of each code by measure.
_VALUES = pd.DataFrame({"alpha": [0.0, 0, 1], "beta": [0, 0.5, 1], "gamma": [0.0, 1, 1]}, index=["E0", "E2", "E1"])
_NAMES = {"gpt4": "GPT-4", "gpt4_alt": "GPT-4 alt", "human": "human"}
_NOT_SEEN = "the printed figure was not available; recomputed only"
_TASKS_EQUAL = "tasks equal"
_WITHIN = "tasks equal within an occupation"

# Table 2: agreement in percent and Pearson's r, by pair of raters, for alpha, beta and gamma.
_AGREEMENT: Mapping[tuple[str, str], tuple[tuple[float | None, float | None], ...]] = {
    ("gpt4", "human"): ((80.8, 0.223), (65.6, 0.591), (82.1, 0.654)),
    ("gpt4_alt", "human"): ((None, 0.221), (65.6, None), (None, None)),
    ("gpt4", "gpt4_alt"): ((None, None),) * 3,
}
# Table 4: percent of exposed tasks, in the printed order; the list for GPT-4 under beta was not seen.
_TOP_OCCUPATIONS = """
human alpha: Interpreters and Translators 76.5; Survey Researchers 75.0; Poets, Lyricists and Creative Writers 68.8; Animal Scientists 66.7; Public Relations Specialists 66.7
human beta: Survey Researchers 84.4; Writers and Authors 82.5; Interpreters and Translators 82.4; Public Relations Specialists 80.6; Animal Scientists 77.8
human gamma: Mathematicians 100; Tax Preparers 100; Financial Quantitative Analysts 100; Writers and Authors 100; Web and Digital Interface Designers 100
gpt4 alpha: Mathematicians 100; Correspondence Clerks 95.2; Blockchain Engineers 94.1; Court Reporters and Simultaneous Captioners 92.9; Proofreaders and Copy Markers 90.9
gpt4 beta:
gpt4 gamma: Accountants and Auditors 100; News Analysts, Reporters, and Journalists 100; Legal Secretaries and Administrative Assistants 100; Clinical Data Managers 100; Climate Change Policy Analysts 100
"""

# Abstract: percent of tasks done significantly faster.
_FASTER: tuple[tuple[str, Measure, float, str], ...] = (
    ("human", "alpha", 15, "a model alone"),
    ("human", "gamma", 47, "with software, lower figure"),
    ("gpt4", "gamma", 56, "with software, upper figure"),
)
# Place in the paper, measure, share of exposed tasks (0-1), comparison, and percent of workers with such a share.
_WORKERS: tuple[tuple[str, Measure, float, str, float], ...] = (
    ("abstract", "beta", 0.1, ">=", 80),
    ("abstract", "beta", 0.5, ">=", 19),
    ("section 4", "alpha", 0.5, ">", 3),
    ("section 4", "gamma", 0.5, ">=", 49),
)


class PaperFigure(Frozen):
    """A figure of the paper.

    Attributes:
        table: Where the paper prints it: the number of a table, or a part of the paper; `-` if no place is known.
        figure: What it is, in words.
        printed: The printed figure; null if it was not seen in print.
        ours: The figure computed from the published labels; null if it cannot be computed.
        unit: `percent`, `share` (0-1), `correlation` or `count`.
        rule: How labels, values or thresholds are compared.
        weights: How tasks, occupations or jobs are weighted.
        tolerance: Largest difference that counts as reproduced, in `unit`.
        reproduced: Whether the two agree; null if either is missing.
        reason: Why it is not reproduced or not compared.
    """

    table: str
    figure: str
    printed: float | None
    ours: float | None
    unit: Literal["percent", "share", "correlation", "count"] = "percent"
    rule: str
    weights: str
    tolerance: float
    reproduced: bool | None
    reason: str | None = None


class PaperDocument(Frozen):
    """The paper's figures: what `relabel eval --paper --json` writes.

    Attributes:
        cells: The figures by topic: agreement, means, most exposed occupations, shares, workers.
        reproduced: Number of printed figures that agree with ours.
        not_reproduced: Number that do not agree; each has its reason.
        not_compared: Number without a printed figure that was seen, or without one of ours.
        sources: The files that ours are computed from.
    """

    cells: tuple[PaperFigure, ...]
    reproduced: int
    not_reproduced: int
    not_compared: int
    sources: tuple[SourceUse, ...]


def recompute() -> PaperDocument:
    """Replicate the paper's figures from its published labels.

    Raises:
        DataError: The labels of 2023 cannot be read.
    """
    labels = eloundou.read_labels()
    values = pd.DataFrame({(rater, m): labels[rater].map(_VALUES[m]) for rater in _NAMES for m in MEASURES})
    # Means by O*NET-SOC code, columns (rater, measure); tasks weigh the same.
    equal = values.groupby(labels["onet_soc_code"]).mean()
    titles = labels.drop_duplicates("onet_soc_code").set_index("onet_soc_code")["title"]
    cells = (
        *_agreement(values),
        *_summary(values, equal),
        *_top(equal.set_axis(titles.reindex(equal.index), axis=0)),
        *_shares(values, equal),
        *_codes(labels),
        *_workers(equal),
    )
    count = Counter(cell.reproduced for cell in cells)
    counts = {"reproduced": count[True], "not_reproduced": count[False], "not_compared": count[None]}
    return PaperDocument(cells=cells, **counts, sources=task_sources("eloundou-2023"))


def _agreement(values: pd.DataFrame) -> Iterator[PaperFigure]:
    for (first, second), printed in _AGREEMENT.items():
        for measure, (share, correlation) in zip(MEASURES, printed, strict=True):
            one, other = values[first, measure], values[second, measure]
            pair = f"{_NAMES[first]} and {_NAMES[second]}, {measure}"
            equal, r = 100 * float((one == other).mean()), float(np.corrcoef(one, other)[0, 1])
            yield _cell("2", f"agreement, {pair}", share, equal, "equal task values", tolerance=0.05)
            yield _cell("2", f"Pearson's r, {pair}", correlation, r, "task values", unit="correlation", tolerance=5e-4)


def _summary(values: pd.DataFrame, equal: pd.DataFrame) -> Iterator[PaperFigure]:
    share: dict[str, Any] = {"unit": "share", "tolerance": 5e-3}
    words = {"mean": "mean", "standard deviation": "std"}
    for rater, measure in product(("human", "gpt4"), MEASURES):
        about, weights = f"{_NAMES[rater]}, {measure}", f"{_WITHIN}, occupations equal"
        for word, method in words.items():
            ours = float(getattr(equal[rater, measure], method)())
            rule, figure = "means by O*NET-SOC code", f"occupations, {word}, {about}"
            yield _cell("3", figure, None, ours, rule, weights, **share)
        for word, method in words.items():
            ours = float(getattr(values[rater, measure], method)())
            yield _cell("3", f"tasks, {word}, {about}", None, ours, "task values", **share)


def _codes(labels: pd.DataFrame) -> Iterator[PaperFigure]:
    for (rater, name), code in product(_NAMES.items(), CODES):
        ours = 100 * float((labels[rater] == code).mean())
        yield _cell("-", f"tasks labelled {code}, {name}", None, ours, "=", tolerance=0.05)


def _top(equal: pd.DataFrame) -> Iterator[PaperFigure]:
    for line in _TOP_OCCUPATIONS.strip().splitlines():
        about, _, listed = line.partition(":")
        rater, measure = cast("tuple[str, Measure]", about.split())
        scores = equal[rater, measure] * 100
        named = [entry.strip().rpartition(" ") for entry in listed.split(";") if entry.strip()]
        # Our own first five if the printed ones were not seen.
        ours_first = scores.sort_values(ascending=False, kind="stable").index[:5]
        printed = [(title, float(value)) for title, _, value in named] or [(str(title), None) for title in ours_first]
        for place, (title, value) in enumerate(printed, 1):
            ours = float(scores.loc[title])
            # The paper's order of ties is unknown: place n is reproduced if fewer than n occupations have a higher score.
            higher = int((scores > ours + 1e-9).sum())
            figure, rule = f"top {place}, {_NAMES[rater]}, {measure}: {title}", f"at most {place - 1} higher"
            cell = _cell("4", figure, value, ours, rule, _WITHIN, tolerance=0.05)
            if value is not None and higher >= place:
                cell = cell.model_copy(update={"reproduced": False, "reason": f"{higher} occupations lie above it"})
            yield cell
    for rater, count in (("human", 15), ("gpt4", 86)):
        ours = float((equal[rater, "gamma"] >= 1 - 1e-12).sum())
        figure = f"occupations fully exposed, {_NAMES[rater]}, gamma"
        yield _cell("4", figure, count, ours, ">= 1", _WITHIN, unit="count")
    unexposed, figure = float((equal[["human", "gpt4"]] == 0).all(axis=1).sum()), "occupations without an exposed task"
    yield _cell("appendix", figure, None, unexposed, "= 0 in all six scores", _WITHIN, unit="count")


def _shares(values: pd.DataFrame, equal: pd.DataFrame) -> Iterator[PaperFigure]:
    for rater, measure, printed, words in _FASTER:
        figure = f"tasks done significantly faster, {words} ({_NAMES[rater]}, {measure})"
        ours = 100 * float(values[rater, measure].mean())
        yield _cell("abstract", figure, printed, ours, "mean of task values", tolerance=0.5)
    for rater, measure in product(("human", "gpt4"), MEASURES):
        printed = {("human", "alpha"): 1.8, ("human", "gamma"): 46}.get((rater, measure))
        ours = 100 * float((equal[rater, measure] > 0.5).mean())
        figure = f"occupations with over half of their tasks, {_NAMES[rater]}, {measure}"
        table, weights = "-" if printed is None else "Science abstract", f"{_TASKS_EQUAL}, occupations equal"
        yield _cell(table, figure, printed, ours, "> 0.5", weights, tolerance=0.05 if measure == "alpha" else 0.5)


def _workers(equal: pd.DataFrame) -> Iterator[PaperFigure]:
    weights = f"jobs by six-digit SOC ({EMPLOYMENT}); tasks equal, detailed codes equal within a SOC"
    jobs, reason = None, ""
    try:
        wages = bls.read_wages(EMPLOYMENT)
        jobs = wages[wages["group"] == "detailed"].set_index("soc2018")["employment"].dropna()
    except DataError as error:
        reason = f"no employment figures: {error}"
    for table, measure, bound, rule, printed in _WORKERS:
        ours = None
        if jobs is not None:
            soc = equal["human", measure].groupby(equal.index.str[:7]).mean()
            rows = pd.DataFrame({"score": soc.round(12), "jobs": jobs}).dropna()
            above = rows["score"] > bound if rule == ">" else rows["score"] >= bound
            total = rows["jobs"].sum()
            ours = 100 * float(rows["jobs"][above].sum() / total)
            reason = (
                f"other jobs: those of {EMPLOYMENT}, {100 * total / jobs.sum():.0f}% of which have a score under the same "
                "code; the paper used jobs of 2020 and 2021"
            )
        over = "over" if rule == ">" else "at least"
        figure = f"workers with {over} {100 * bound:.0f}% of their tasks, human, {measure}"
        yield _cell(table, figure, printed, ours, f"{rule} {bound}", weights, tolerance=1, reason=reason)


def _cell(
    table: str,
    figure: str,
    printed: float | None,
    ours: float | None,
    rule: str,
    weights: str = _TASKS_EQUAL,
    *,
    tolerance: float = 0,
    reason: str | None = None,
    **more: Any,
) -> PaperFigure:
    reproduced = None
    if printed is None:
        reason = _NOT_SEEN
    elif ours is not None:
        # Slightly more than the tolerance, so that a difference of exactly half a unit passes in floating point.
        reproduced = abs(ours - printed) <= tolerance * (1 + 1e-9) + 1e-12
        reason = None if reproduced else reason or "the published labels give another figure; the cause is not known"
    fields = {"table": table, "figure": figure, "printed": printed, "ours": ours, "rule": rule, "weights": weights}
    return PaperFigure(**fields, tolerance=tolerance, reproduced=reproduced, reason=reason, **more)
