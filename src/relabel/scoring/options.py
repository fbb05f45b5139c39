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
METHOD_NOTES: Mapping[Method, str] = {
    "site-2026": (
        "The method that the site published in 2026. One ISCO-08 code, the most frequent in the ONS coding index (of "
        "equally frequent ones the lowest), stands for a whole UK group; SOC 2018 codes are matched as if they were "
        "SOC 2010; a task without an importance rating weighs 1.0; shares are rounded half up to two decimals before "
        "anything is made from them."
    ),
    "bridge": (
        "O*NET-SOC 2019 to SOC 2018 to SOC 2010 to ISCO-08, plain means at each step, then to UK SOC 2020 over all "
        "ISCO-08 codes that the ONS coding index has for the group, weighted by index entries; nothing is rounded on "
        "the way; a task without an importance rating takes the mean importance of its occupation."
    ),
}
WEIGHT_NOTES: Mapping[Weights, str] = {
    "importance": "O*NET importance rating (IM, 1-5)",
    "core": "2 for a core task, 1 for a supplemental one or one without a type",
    "equal": "1 for every task",
}
PAY_SOURCES = ("ons-ashe-2024", "ons-ashe-2025-medians")
SAMPLE = "sample"
SAMPLE_NOTE = "SAMPLE: invented tasks, labels, jobs and pay; says nothing about a real occupation"
