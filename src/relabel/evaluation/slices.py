"""Parts of the compared tasks: where a run agrees with the gold, and where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from relabel.evaluation import bootstrap, metrics
from relabel.evaluation.document import SettingName, Slice, SliceBy, SliceFigures, SliceMeans
from relabel.evaluation.gold import Gold
from relabel.evaluation.matching import gold_list, is_at_hand
from relabel.evaluation.sides import Sides, TaskValues, intervals
from relabel.rubric import Measure
from relabel.run import Run
from relabel.task import TASK_KEY, task_table

RATED_BY = "onet-30.2"
"""Release whose importance ratings stand in for a list without any."""

MAJOR_GROUPS: Mapping[str, str] = {
    "11": "Management",
    "13": "Business and finance",
    "15": "Computing and mathematics",
    "17": "Architecture and engineering",
    "19": "Science",
    "21": "Community and social service",
    "23": "Law",
    "25": "Education and libraries",
    "27": "Arts, sport and media",
    "29": "Health care, professional",
    "31": "Health care, support",
    "33": "Protective service",
    "35": "Food preparation and serving",
    "37": "Cleaning and grounds",
    "39": "Personal care and service",
    "41": "Sales",
    "43": "Office support",
    "45": "Farming, fishing, forestry",
    "47": "Construction and extraction",
    "49": "Installation and repair",
    "51": "Production",
    "53": "Transport",
    "55": "Military",
}
"""Major groups of the SOC in short words."""

_IMPORTANCE = (3.0, 3.5, 4.0, 4.5)
_LENGTH = (60, 100, 150)


def task_facts(run: Run, gold: Gold, table: pd.DataFrame) -> pd.DataFrame:
    """What is known of the compared tasks without fetching anything.

    Args:
        run: The run.
        gold: The gold.
        table: As `Match.table`.

    Returns:
        Columns `onet_soc_code` and `major_group`, and where the task list is at hand `text`, `task_type` and `importance` (1-5; of
        `RATED_BY` where the list itself has no ratings); rows as in the table.
    """
    facts = pd.DataFrame({"onet_soc_code": table["onet_soc_code"], "major_group": table["onet_soc_code"].str[:2]})
    name = next((n for n in (run.manifest.tasks, gold_list(gold, run)) if is_at_hand(n)), None)
    if name is None:
        return facts
    keys = pd.MultiIndex.from_frame(table[TASK_KEY])
    tasks = task_table(name).set_index(TASK_KEY)
    if tasks["importance"].isna().all() and is_at_hand(RATED_BY):
        tasks["importance"] = task_table(RATED_BY).set_index(TASK_KEY)["importance"].reindex(tasks.index)
    known = tasks.reindex(keys)
    return facts.assign(**{column: known[column].to_numpy() for column in ("text", "task_type", "importance")})


def slices(
    facts: pd.DataFrame, settings: Mapping[SettingName, Sides], values: Mapping[Measure, TaskValues]
) -> dict[SliceBy, tuple[Slice, ...]]:
    """Figures by parts of the tasks.

    Args:
        facts: As `task_facts` gives them.
        settings: Labels of both sides by setting.
        values: Values of both sides by measure.

    Returns:
        Slices by the way of slicing, each in its own order; a way that the facts do not give is absent.
    """
    ways: dict[SliceBy, tuple[pd.Series, Mapping[str, str]]] = {
        "major-group": (facts["major_group"], MAJOR_GROUPS),
    }
    if "text" in facts:
        kinds = facts["task_type"].str.lower().fillna("none")
        ways["task-type"] = (kinds, {"core": "Core", "supplemental": "Supplemental", "none": "Without a type"})
        if facts["importance"].notna().any():
            ways["importance"] = _banded(facts["importance"], _IMPORTANCE, "importance {}", "Unrated")
        ways["text-length"] = _banded(facts["text"].str.len().astype("float64"), _LENGTH, "{} characters", "No text")
    found: dict[SliceBy, tuple[Slice, ...]] = {}
    for by, (band, titles) in ways.items():
        order = [*titles, *sorted(set(band) - set(titles))]
        present = [value for value in order if (band == value).any()]
        found[by] = tuple(
            _slice(value, titles.get(value, value), facts[band == value], settings, values) for value in present
        )
    return found


def _slice(
    value: str,
    title: str,
    facts: pd.DataFrame,
    settings: Mapping[SettingName, Sides],
    values: Mapping[Measure, TaskValues],
) -> Slice:
    parts: dict[SettingName, Sides] = {
        name: side.part(np.isin(side.tasks, facts.index)) for name, side in settings.items()
    }
    known: dict[Measure, TaskValues] = {
        measure: side.part(np.isin(side.tasks, facts.index)) for measure, side in values.items()
    }
    figures: dict[SettingName, SliceFigures] = {name: _figures(side) for name, side in parts.items() if len(side)}
    means: dict[Measure, SliceMeans] = {measure: _means(side) for measure, side in known.items() if len(side)}
    return Slice(
        value=value,
        title=title,
        n=len(facts),
        occupations=int(facts["onet_soc_code"].nunique()),
        settings=figures,
        measures=means,
    )


def _figures(side: Sides) -> SliceFigures:
    pairs = side.weighted(side.pairs())
    found = {name: metrics.known(formula(pairs.sum(axis=0))) for name, formula in metrics.FIGURES.items()}

    def samples(drawn: bootstrap.Draws) -> dict[str, bootstrap.Array]:
        matrices = drawn.sum(pairs)
        return {name: formula(matrices) for name, formula in metrics.FIGURES.items()}

    return SliceFigures(n=len(side), **found, ci95=intervals(side.drawn, samples))


def _means(side: TaskValues) -> SliceMeans:
    both = np.stack([side.run, side.gold], axis=1)

    def samples(drawn: bootstrap.Draws) -> dict[str, bootstrap.Array]:
        run, gold = bootstrap.means(drawn, both, side.weight).T
        return {"mean": run, "gold_mean": gold}

    mean, gold_mean = np.average(both, axis=0, weights=side.weight)
    return SliceMeans(mean=float(mean), gold_mean=float(gold_mean), ci95=intervals(side.drawn, samples))


def _banded(
    numbers: pd.Series, bounds: tuple[float, ...], words: str, without: str
) -> tuple[pd.Series, Mapping[str, str]]:
    """Each number's band, and the bands' titles in order; a bound belongs to the band above it."""
    names = [f"under-{bounds[0]:g}", *(f"{low:g}-{high:g}" for low, high in pairwise(bounds))]
    names.append(f"from-{bounds[-1]:g}")
    place = np.digitize(numbers.to_numpy(dtype=np.float64), bounds)
    band = pd.Series(np.array(names, dtype=object)[np.minimum(place, len(bounds))], index=numbers.index)
    titles = {name: words.format(name.replace("-", " ") if name[0] in "uf" else name) for name in names}
    return band.where(numbers.notna(), "none"), {name: t[0].upper() + t[1:] for name, t in titles.items()} | {
        "none": without
    }
