"""The score table: one row a code of a taxonomy, scored or with the reason why not, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from relabel.rubric import Measure
from relabel.run import SourceUse
from relabel.scoring.bridges import Bridge
from relabel.scoring.measures import changed_tasks, emerging_tasks
from relabel.scoring.options import (
    LINK_NOTES,
    UNRATED_NOTES,
    WEIGHT_NOTES,
    Links,
    Method,
    Repeats,
    Taxonomy,
    Unrated,
    Wage,
    Weights,
)
from relabel.scoring.pay import wage_totals

if TYPE_CHECKING:  # scipy waits until intervals are asked for
    from relabel.scoring.uncertainty import Intervals

WHOLE = 0.9
"""Least part (0-1) of the listed tasks that must have labels; a table with less is exported on request only."""


@dataclass(frozen=True)
class ScoreTable:
    """Scores of all codes of a taxonomy, with what they were made from.

    Attributes:
        frame: The table, schema `SCORES`.
        run: Name of the run.
        model: Model, or label set, that the labels come from.
        method: Method.
        taxonomy: Taxonomy of the codes.
        weights: How tasks weigh within their occupation.
        links: How the bridge weighs the sources of a code; None where it has no such choice: under `site-2026`, by
            O*NET-SOC code and SOC 2018, and for the sample.
        unrated: What a task without an importance rating weighs; None under other weights.
        tasks: Task list that gave types and importance.
        repeats: Value of a task that was asked several times.
        pay: Source of pay; None in taxonomies without one.
        population: Whose jobs and pay these are; None where that is not known.
        wage: Pay that wage exposure is made of.
        workforce: All jobs that the groups are a part of; None where the source of pay does not say.
        sample: True when made from the built-in sample.
        partial: True when a task of the list has no label, or the run is incomplete.
        notes: What every reader of the table must know, one remark each.
        missing_measures: Measures that the run cannot give, with the reason.
        half_labelled: Tasks of the list with some of the run's labels but not all, which count as unlabelled.
        bridge: The bridge.
        shares: Which part of a code each O*NET-SOC code stands for: columns `code, onet_soc_code, share`.
        occupations: Scores by O*NET-SOC code, schema `measures.OCCUPATIONS`.
        task_values: Tasks with labels and weights, schema `measures.TASKS`.
        occupation_titles: Titles by O*NET-SOC code.
        value_range: Least and greatest value that a task can have, by measure that the rubric gives.
        labels_unmatched: Labelled tasks of the run that are not in the task list, and so in no score.
        labelled_list: Task list that the run labelled.
        sources: Files that the scores and the run were made from.
        intervals: What the interval columns of the frame are for; None where it has none.
        spread: Scores over other bridges (`code, bridge, alpha, beta, gamma`); None where they were not asked for.
    """

    frame: pd.DataFrame
    run: str
    model: str
    method: Method
    taxonomy: Taxonomy
    weights: Weights
    links: Links | None
    unrated: Unrated | None
    tasks: str
    repeats: Repeats
    pay: str | None
    population: str | None
    wage: Wage
    workforce: int | None
    sample: bool
    partial: bool
    notes: tuple[str, ...]
    missing_measures: Mapping[Measure, str]
    half_labelled: int
    bridge: Bridge
    shares: pd.DataFrame
    occupations: pd.DataFrame
    task_values: pd.DataFrame
    occupation_titles: Mapping[str, str]
    value_range: Mapping[Measure, tuple[float, float]]
    labels_unmatched: int
    labelled_list: str
    sources: tuple[SourceUse, ...]
    intervals: Intervals | None = None
    spread: pd.DataFrame | None = None

    @property
    def wage_bill(self) -> pd.Series:
        """Jobs x pay (pounds a year) of each group, which its score is multiplied with; missing where either is."""
        return self.frame["employees"].astype("float64") * self.frame[f"{self.wage}_pay_gbp"]

    def flipped(self, measure: Measure, score: float | None, part: float, value: float | None) -> float | None:
        """A score with the answers to one task the other way round.

        Args:
            measure: `alpha` or `gamma`.
            score: The exact score.
            part: Part of the score that the task stands for.
            value: Value of the task.
        """
        if score is None or value is None:
            return None
        low, high = self.value_range[measure]
        return min(max(score + part * (low + high - 2 * value), 0.0), 1.0)

    @property
    def scored(self) -> int:
        """Number of codes with a score that rests on enough."""
        return int(self.frame["status"].str.startswith("scored").sum())

    @property
    def thin(self) -> int:
        """Number of codes with a score that rests on too little."""
        return int(self.frame["status"].str.startswith("thin").sum())

    @property
    def unrated_occupations(self) -> int:
        """Number of O*NET-SOC codes of the list without any importance rating."""
        return int(self.task_values["importance"].isna().groupby(self.task_values["onet_soc_code"]).all().sum())

    @property
    def totals(self) -> dict[str, float | int | None] | None:
        """Wage exposure over all groups with pay, and how much of the workforce that is; None without pay."""
        return None if self.pay is None else wage_totals(self.frame, self.workforce)

    @cached_property
    def release_counts(self) -> dict[str, int | None]:
        """How the tasks that the run labelled differ from those that are scored; None where a list cannot be read.

        Returns:
            `tasks_new` (listed, but not in the list that the run labelled: they have no label and count in no mean),
            `tasks_reworded` (another statement under the same id: they keep their label) and `tasks_emerging` (proposed by
            O*NET without an id and a rating: never scored).
        """
        return changed_tasks(self.task_values, self.labelled_list) | {"tasks_emerging": emerging_tasks(self.tasks)}

    @property
    def note(self) -> str | None:
        """What every reader of the table must know; None where there is nothing."""
        return "; ".join(self.notes) or None

    def describe(self) -> dict[str, Any]:
        """All but the rows, as plain values: what was scored, how, from what, and how many."""
        labelled = int(self.task_values["labelled"].sum())
        return {
            "run": self.run,
            "model": self.model,
            "method": self.method,
            "taxonomy": self.taxonomy,
            "weights": self.weights,
            "weights_note": WEIGHT_NOTES[self.weights],
            "links": self.links,
            "links_note": None if self.links is None else LINK_NOTES[self.links],
            "unrated": self.unrated,
            "unrated_note": None if self.unrated is None else UNRATED_NOTES[self.unrated],
            "tasks": self.tasks,
            "repeats": self.repeats,
            "pay": self.pay,
            "pay_population": self.population,
            "wage": self.wage,
            "sample": self.sample,
            "partial": self.partial,
            "note": self.note,
            "missing_measures": dict(self.missing_measures),
            "counts": {
                "groups": len(self.frame),
                "scored": self.scored,
                "thin": self.thin,
                "unscored": len(self.frame) - self.scored - self.thin,
                "tasks_listed": len(self.task_values),
                "tasks_labelled": labelled,
                "tasks_half_labelled": self.half_labelled,
                "tasks_unrated": int(self.task_values["importance"].isna().sum()),
                **self.release_counts,
                "labels_unmatched": self.labels_unmatched,
                "incoherent": int(self.task_values["incoherent"].sum()),
            },
            "totals": self.totals,
            "sources": [use.model_dump(mode="json", exclude_none=True) for use in self.sources],
        }
