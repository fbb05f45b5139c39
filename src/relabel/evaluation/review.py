"""Selects the tasks of a run that most need review by a person, with the reasons.

A task's priority is its doubt times its weight. Doubt (0-1) is the likelihood that its label is wrong, from repeats or raters
that disagree, a different label in a gold, contradictory answers, a low probability, or a missing label; doubts of several
kinds are combined as independent probabilities. Weight is the task's share of its occupation's mean, times the occupation's
jobs, if known.

Tasks selected by doubt are not representative. For figures of the run as a whole, `random_review` draws tasks with equal
probability, to be reviewed in the same kind of file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from relabel.errors import DataError, UsageError
from relabel.evaluation.alignment import align, rationales
from relabel.evaluation.gold import Gold, asked_tasks, labels_of
from relabel.run import Run
from relabel.sources import bls, fetch
from relabel.tabular import spreadsheet_safe
from relabel.task import TASK_KEY

_TASK = ("task_id", "onet_soc_code", "title", "text")
_TO_FILL = ("label", "reviewer", "reviewed_at", "comment")
_RUN_COLUMNS = ("run_code", "run_strict", "run_with_tools", "gold_code", "rationale", "jobs")
# Columns of the file; the last four are for the reviewer to fill.
COLUMNS = ("priority", "reasons", *_TASK, *_RUN_COLUMNS, *_TO_FILL)

# Columns of a file of random tasks; without the run's labels, so that they do not influence the reviewer.
RANDOM_COLUMNS = ("drawn", "weight", *_TASK, *_TO_FILL)

# Fewest labels in a gold to estimate how well a run predicts it, and fewest labels to ask for.
_PILOT = 20


@dataclass(frozen=True)
class Review:
    """Tasks to review.

    Attributes:
        table: Columns `COLUMNS`, highest priority first, `jobs` missing if unknown; of a random sample `RANDOM_COLUMNS`, in the
            order drawn, so that the first rows are a random sample too, `weight` being the number of the run's tasks that each
            row represents. Cells are not escaped.
        of: Number of tasks that they are chosen from: those with any doubt, of a random sample all of the run.
        jobs_from: Source of the jobs; None if they are unknown and not used in weights.
    """

    table: pd.DataFrame
    of: int
    jobs_from: str | None = None


def review(
    run: Run,
    gold: Gold | None = None,
    raters: Sequence[Run] = (),
    *,
    details: pd.DataFrame | None = None,
    most: int | None = None,
) -> Review:
    """Select the tasks that most need review.

    Args:
        run: The run.
        gold: A gold, used as another opinion.
        raters: Other runs on the same tasks, used as other opinions.
        details: Titles and texts of the tasks, schema `relabel.task.task_schema`; without them these cells are empty.
        most: Maximum number of tasks; by default all with any doubt.

    Returns:
        The tasks, highest priority first, each with its reasons in words.

    Raises:
        DataError: No task of the run is doubtful, or it has no label at all.
    """
    table = _labels(run)
    incoherent = "exposed by the model alone, yet not with tools: one of the answers is wrong"
    doubts = [
        (table["failed"] != "", "no label: " + table["failed"]),
        (table["incoherent"], pd.Series(incoherent, index=table.index)),
        _repeats(run, table.index),
        _unsure(run, table.index),
    ]
    if gold is not None:
        run_labels, gold_labels = (side.reindex(table.index) for side in _two_labels(run, gold))
        table["gold_code"] = gold_labels
        words = "the gold says " + gold_labels.astype("string") + ", the run " + run_labels.astype("string")
        # One of the two is wrong, but it is unknown which.
        doubts.append(((run_labels.notna() & gold_labels.notna() & (run_labels != gold_labels)) * 0.5, words))
    if raters:
        doubts.append(_against_raters(run, raters, table.index))
    no_doubt = np.ones(len(table))
    reasons: list[list[str]] = [[] for _ in range(len(table))]
    for doubt, words in doubts:
        no_doubt *= 1 - np.clip(doubt.to_numpy(dtype=np.float64), 0, 1)
        for place in np.flatnonzero(doubt.to_numpy() > 0):
            reasons[place].append(str(words.iloc[place]))
    table["doubt"] = 1 - no_doubt
    jobs, jobs_from = _jobs(table.index)
    table["jobs"] = jobs
    size = _codes(table.index).groupby(level=0).transform("size")
    # An occupation with unknown jobs gets the median number.
    scale = jobs.fillna(jobs.median()) / jobs.median() if jobs.notna().any() else pd.Series(1.0, index=table.index)
    table["priority"] = table["doubt"] * scale / size
    table["reasons"] = ["; ".join(texts) for texts in reasons]
    table = table[table["doubt"] > 0]
    if table.empty:
        raise DataError(
            f"no task of {run.ref} needs a review: none lacks a label, contradicts itself or has a low "
            "probability; give --gold or --rater to see where others disagree"
        )
    doubtful = len(table)
    table = table.sort_values("priority", ascending=False, kind="stable").head(most or doubtful)
    table = table.assign(rationale=rationales(run, table.index).reindex(table.index))
    return Review(_review_rows(table, details, COLUMNS), doubtful, jobs_from)


def random_review(run: Run, count: int, *, details: pd.DataFrame | None = None, seed: int = 0) -> Review:
    """Draw a simple random sample of a run's tasks, without replacement.

    Args:
        run: The run.
        count: Number of tasks to draw; all if the run has fewer.
        details: As for `review`.
        seed: Seed of the draw, which does not depend on the order or labels of the tasks.

    Returns:
        The tasks. The completed file is a gold for figures of the run as a whole.
    """
    index = _labels(run).sort_index().index
    drawn = np.random.default_rng(seed).choice(len(index), size=min(count, len(index)), replace=False)
    table = pd.DataFrame(index=index[drawn])
    # Text, so that it is not rounded.
    table["weight"] = f"{len(index) / len(drawn):.12g}"
    table["drawn"] = "at random"
    return Review(_review_rows(table, details, RANDOM_COLUMNS), len(index))


def labels_for(run: Run, width: float, gold: Gold | None = None) -> int:
    """Number of random tasks needed for a 95% interval of a given full width, for the mean of the main measure (0-1).

    Without a gold, labels are assumed to have the largest possible variance. From a small random gold, their residual variance
    given the run's labels is estimated, which determines the interval of the prediction-powered mean in `relabel eval`.

    Args:
        run: The run.
        width: Width of the interval, between 0 and 1.
        gold: Labels of a random sample of its tasks.

    Raises:
        UsageError: The width is not between 0 and 1.
        DataError: The gold has fewer than 20 labels of the run's tasks.
    """
    if not 0 < width < 1:
        raise UsageError(f"--size-for {width:g} is not a width between 0 and 1; give one such as 0.05")
    variance = 0.25
    if gold is not None:
        aligned = align([run], gold)
        pair = None if aligned.main_measure is None else aligned.pair(aligned.main_measure)
        if pair is None or len(pair) < _PILOT:
            raise DataError(
                f"the gold {gold.name} has labels for fewer than {_PILOT} of the run's tasks; remove --gold, or label more"
            )
        actual, guessed = pair.gold - pair.gold.mean(), pair.run - pair.run.mean()
        slope = float((actual * guessed).sum() / max((guessed**2).sum(), 1e-12))
        variance = float(((actual - np.clip(slope, 0, 1) * guessed) ** 2).sum() / (len(pair) - 2))
    total = len(_labels(run))
    # Sample size for an infinite population, then finite population correction (Cochran 1977, Sampling Techniques, 4.4).
    infinite = (2 * NormalDist().inv_cdf(0.975) / width) ** 2 * variance
    return min(max(math.ceil(infinite / (1 + infinite / total)), min(_PILOT, total)), total)


def review_csv(review: Review) -> str:
    """The review as CSV for a spreadsheet; the caller adds a byte order mark.

    A cell that looks like a formula gets a leading apostrophe, which spreadsheets hide; the reader of golds removes it from
    ids.
    """
    return review.table.map(_csv_cell).to_csv(index=False, lineterminator="\r\n")


def _labels(run: Run) -> pd.DataFrame:
    """The run's labels and failures, for each task that it was asked to label."""
    coded = labels_of(run).set_index(TASK_KEY)
    coded = coded.astype(object).reindex(asked_tasks(run, coded.index))
    failed: dict[tuple[str, str], str] = {}
    for failure in run.failures():
        failed.setdefault((failure.onet_soc_code, failure.task_id), f"{failure.kind} in {failure.setting}")
    readings = {
        f"run_{name}": coded[name].map({True: "exposed", False: "not-exposed"}) for name in ("strict", "with_tools")
    }
    return coded.assign(
        run_code=coded["code"],
        **readings,
        incoherent=coded["incoherent"].astype("boolean").fillna(False),
        failed=[failed.get(key, "") for key in coded.index],
        gold_code=None,
    )


def _repeats(run: Run, index: pd.Index) -> tuple[pd.Series, pd.Series]:
    """Doubt from repeats that disagree: twice the share outside the majority, so that an even split is full doubt."""
    counts = run.labels.groupby([*TASK_KEY, "setting", "label"]).size()
    votes = counts.groupby(level=[0, 1, 2]).agg(total="sum", most="max")
    votes["doubt"] = 2 * (1 - votes["most"] / votes["total"])
    split = votes[votes["doubt"] > 0].sort_values("doubt", ascending=False).reset_index("setting")
    split = split[~split.index.duplicated()].reindex(index)
    most, total = (split[name].astype("Int64").astype("string") for name in ("most", "total"))
    words = "repeats disagree in " + split["setting"].astype("string") + " (" + most + " of " + total + " say the same)"
    return split["doubt"].fillna(0.0), words


def _unsure(run: Run, index: pd.Index) -> tuple[pd.Series, pd.Series]:
    """Doubt from a low probability: .5 is full doubt, 1 is none."""
    sure = run.labels.groupby(TASK_KEY)["probability"].min().astype(float).reindex(index)
    # Ignore doubts up to 0.1: confident answers have them too.
    doubt = (2 * (1 - sure)).clip(0, 1).where(sure < 0.95, 0.0).fillna(0.0)
    return doubt, "probability " + sure.round(2).astype("string")


def _against_raters(run: Run, raters: Sequence[Run], index: pd.Index) -> tuple[pd.Series, pd.Series]:
    others, against = pd.Series(0, index=index), pd.Series(0, index=index)
    for rater in raters:
        own, rater_labels = (side.reindex(index) for side in _two_labels(run, rater))
        common = own.notna() & rater_labels.notna()
        others, against = others + common, against + (common & (own != rater_labels))
    doubt = (against / others.where(others > 0)).fillna(0.0) * 0.9
    return doubt, against.astype("string") + " of " + others.astype("string") + " other raters disagree"


def _two_labels(run: Run, other: Gold | Run) -> tuple[pd.Series, pd.Series]:
    """Labels of a run, and of another run or a gold, in the main setting; by code and id, one per task."""
    aligned = align([run], other) if isinstance(other, Gold) else align([run, other])
    once = ~aligned.index().duplicated()
    first, second = (pd.Series(aligned.words(aligned.main, n).to_numpy(), index=aligned.index())[once] for n in (0, -1))
    return first, second


def _codes(index: pd.Index) -> pd.Series:
    return pd.Series(index.get_level_values(0), index=index)


def _jobs(index: pd.Index) -> tuple[pd.Series, str | None]:
    """Jobs of each task's occupation, split evenly among the O*NET occupations of a SOC code; nothing is downloaded."""
    with suppress(DataError):
        source = bls.wage_releases()[0].source
        if all(check.state == "ok" for check in fetch.verify([source])):
            wages = bls.read_wages(source)
            detailed = wages[wages["group"] == "detailed"].set_index("soc2018")["employment"]
            codes = _codes(index)
            soc = codes.str[:7]
            several = codes.groupby(soc.to_numpy()).transform("nunique")
            jobs = soc.map(detailed).astype("float64") / several
            if jobs.notna().any():
                return jobs, source
    return pd.Series(np.nan, index=index, dtype="float64"), None


def _review_rows(table: pd.DataFrame, details: pd.DataFrame | None, columns: Sequence[str]) -> pd.DataFrame:
    """A table of tasks with titles, texts, and empty cells for the reviewer."""
    named = table.assign(title=None, text=None)
    if details is not None:
        named.update(details.set_index(TASK_KEY)[["title", "text"]])
    return named.reset_index().assign(**dict.fromkeys(_TO_FILL, ""))[list(columns)]


def _csv_cell(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
    return spreadsheet_safe(str(value))
