"""The options of a score table and which of them can be combined; imports little, so that the command line starts fast."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args, get_type_hints

from relabel.errors import UsageError

Method = Literal["site-2026", "bridge"]
Taxonomy = Literal["onet-soc", "soc2018", "isco08", "uk-soc2020"]
Weights = Literal["importance", "core", "equal"]
# How a bridge weights the sources of a code. `equal`: equally; `index`: ISCO-08 codes by their entries in the ONS coding
# index, others equally; `split`: as `index`, but a US code linked to n codes counts 1/n in each; `employment`: as `split`,
# times the US jobs of the code.
Links = Literal["equal", "employment", "index", "split"]
# Value of a task that was asked several times: the mean over its samples, or the value of the most frequent label.
Repeats = Literal["mean", "majority"]
# Pay that wage exposure is computed from.
Wage = Literal["median", "mean"]
# Weight of a task without an importance rating: 1.0, the mean of its occupation's rated tasks, or 0.
Unrated = Literal["one", "mean", "drop"]
# What the interval beside the score estimates; see `relabel.scoring.uncertainty.with_intervals`.
Noise = Literal["auto", "repeats", "raters", "confusion"]
# A classification at some step of a bridge.
System = Literal["onet-soc", "soc2018", "soc2010", "isco08", "uk-soc2020"]

SYSTEM_NAMES: Mapping[System, str] = {
    "onet-soc": "O*NET-SOC 2019",
    "soc2018": "US SOC 2018",
    "soc2010": "US SOC 2010",
    "isco08": "ISCO-08",
    "uk-soc2020": "UK SOC 2020",
}
WEIGHT_NOTES: Mapping[Weights, str] = {
    "importance": "its O*NET importance rating (IM, 1-5)",
    "core": "2 if core, 1 if supplemental or without a type",
    "equal": "1 like every other",
}
UNRATED_NOTES: Mapping[Unrated, str] = {
    "one": "weighs 1, as on the site",
    "mean": "weighs the mean of the rated tasks of its occupation, 1 where none is rated",
    "drop": "is left out",
}
LINK_NOTES: Mapping[Links, str] = {
    "equal": "all sources of a code count alike",
    "employment": "sources count by the US jobs (OEWS) that they bring along, a code's jobs split evenly among its "
    "targets; ISCO-08 codes count by their entries in the ONS coding index",
    "index": "ISCO-08 codes count by their entries in the ONS coding index, all other sources alike",
    "split": "a US code that leads to n codes counts 1/n in each; ISCO-08 codes count by their entries in the ONS coding "
    "index",
}
DEFAULT_LINKS: Links = "index"
# Taxonomies in which sources always have equal weights, whatever the links.
UNWEIGHTED: Collection[Taxonomy] = ("onet-soc", "soc2018")
SAMPLE = "sample"
SAMPLE_NOTE = "SAMPLE: invented tasks, labels, jobs and pay; says nothing about a real occupation"


@dataclass(frozen=True)
class ScoringOptions:
    """How an occupation's score is computed from labels. These texts are also the help of the command-line options.

    Attributes:
        method: bridge, or site-2026: the older published method, kept for comparison.
        weights: How tasks weigh within their occupation.
        links: How the bridge weighs the sources of a code. By default index. employment takes the latest US jobs
            (OEWS), or those of RELABEL_US_RELEASES.
        unrated: How to weigh tasks that lack an importance rating: one (1.0; the default of site-2026), mean (of their
            occupation; the default of bridge), or drop.
        tasks: Task list for types and importance: onet-30.2, eloundou-2023 or FILE.csv. By default the run's own; onet-30.2
            if that is outdated or has no weights.
        pay: ons-ashe-2024 (the default), ons-ashe-2025-medians, a source of your own with the role pay, or
            FILE.csv; uk-soc2020 only.
        bridge (FILE): Your own mapping of O*NET-SOC to UK SOC 2020 (CSV or Excel: codes, perhaps weights).
        repeats: Value of a task with several samples: their mean, or the most frequent label's.
        wage: Pay that wage exposure is computed from; uk-soc2020 only.
    """

    method: Method = "bridge"
    weights: Weights = "importance"
    links: Links | None = None
    unrated: Unrated | None = None
    tasks: str | None = None
    pay: str | None = None
    bridge: str | None = None
    repeats: Repeats = "mean"
    wage: Wage = "median"


@dataclass(frozen=True)
class Choices(ScoringOptions):
    """All options of a score table. An unknown value, or two that cannot be combined, are a `UsageError`.

    Attributes:
        taxonomy: Classification of the scored codes.
    """

    taxonomy: Taxonomy = "uk-soc2020"

    def __post_init__(self) -> None:
        """Check values and combinations.

        Raises:
            UsageError: A value is unknown, or two options cannot be combined.
        """
        for name, hint in get_type_hints(type(self)).items():
            choices = [word for part in (hint, *get_args(hint)) for word in get_args(part) if isinstance(word, str)]
            value = getattr(self, name)
            if choices and value is not None and value not in choices:
                raise UsageError(f"{name} has no {value!r}; choose one of {', '.join(choices)}")
        uk_only = {"pay": self.pay is not None, "bridge": self.bridge is not None, "wage": self.wage == "mean"}
        if self.taxonomy != "uk-soc2020" and (given := [name for name, chosen in uk_only.items() if chosen]):
            raise UsageError(f"--{given[0]} applies to uk-soc2020 only, not to {self.taxonomy}; remove it")
        check_links(self.links, self.method, self.taxonomy, self.tasks)
        if self.bridge is not None and (self.method != "bridge" or self.links is not None or self.tasks == SAMPLE):
            raise UsageError(
                "--bridge replaces the whole bridge; remove --links, --method site-2026 and --tasks sample"
            )
        if self.unrated is not None and self.weights != "importance":
            raise UsageError(f"--weights {self.weights} uses no ratings; remove --unrated, or use --weights importance")

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self:
        """Parse options written as `NAME=VALUE`; the others have their defaults.

        Raises:
            UsageError: An option or a value is unknown, or options cannot be combined.
        """
        pairs = (word.partition("=") for word in words)
        options: dict[str, Any] = {name: value for name, _, value in pairs}
        names = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in names]:
            raise UsageError(f"a score has no option {unknown[0]!r}; write NAME=VALUE with one of {', '.join(names)}")
        return cls(**options)


def check_links(links: Links | None, method: Method, taxonomy: Taxonomy, tasks: str | None) -> None:
    """Check that the option `links` has an effect.

    Args:
        links: The option; None if not given.
        method: The method.
        taxonomy: The taxonomy.
        tasks: The task list, if known; the sample has its own bridge.

    Raises:
        UsageError: It would have none.
    """
    own_links = {
        "--method site-2026": method == "site-2026",
        f"--taxonomy {taxonomy}": taxonomy in UNWEIGHTED,
        "the sample": tasks == SAMPLE,
    }
    if links is not None and (given := [choice for choice, chosen in own_links.items() if chosen]):
        raise UsageError(f"--links does not apply to {given[0]}; remove it")
