"""The choices of a score and what they are called; free of heavy imports, so that a command line can name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Method = Literal["site-2026", "bridge"]
Taxonomy = Literal["onet-soc", "soc2018", "isco08", "uk-soc2020"]
Weights = Literal["importance", "core", "equal"]
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
PAY_SOURCES = ("ons-ashe-2024", "ons-ashe-2025-medians")
SAMPLE = "sample"
SAMPLE_NOTE = "SAMPLE: invented tasks, labels, jobs and pay; says nothing about a real occupation"
