"""The choices of a score and what they are called; free of heavy imports, so that a command line can name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Method = Literal["site-2026", "bridge"]
Taxonomy = Literal["onet-soc", "soc2018", "isco08", "uk-soc2020"]
Weights = Literal["importance", "core", "equal"]
Links = Literal["equal", "employment", "index"]
"""How a bridge weighs the sources of a code: `equal`, each alike; `employment`, by the US jobs that each brings along, and
ISCO-08 codes by their entries in the ONS coding index; `index`, ISCO-08 codes by index entries and all else alike."""
Unrated = Literal["one", "mean", "drop"]
"""Weight of a task without an importance rating: 1.0, or the mean of its occupation's rated tasks, or none at all."""
Noise = Literal["auto", "repeats", "raters", "confusion"]
"""Where label noise is seen; `relabel.scoring.noise` says what each is."""
System = Literal["onet-soc", "soc2018", "soc2010", "isco08", "uk-soc2020"]
"""A classification that a bridge passes through."""

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
}
DEFAULT_LINKS: Links = "index"
PAY_SOURCES = ("ons-ashe-2024", "ons-ashe-2025-medians")
SAMPLE = "sample"
SAMPLE_NOTE = "SAMPLE: invented tasks, labels, jobs and pay; says nothing about a real occupation"
