"""What run and gold say about the same tasks, as arrays, with the bootstrap draws that go with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from relabel.coding import measures_of
from relabel.evaluation.bootstrap import Array, Draws, interval
from relabel.evaluation.document import SCALES, Intervals95, SettingName
from relabel.evaluation.matching import sides
from relabel.rubric import MEASURES, Measure, Rubric

Places = npt.NDArray[np.intp]

NEEDS: Mapping[Measure, SettingName] = {"alpha": "strict", "beta": "three-way", "gamma": "with-tools"}
"""Setting without which a measure cannot be compared."""


@dataclass(frozen=True)
class Sides:
    """Labels of run and gold in one setting, for n tasks.

    Attributes:
        scale: The k labels, in order of exposure.
        tasks: Positions of the tasks in the table of matched tasks, shape (n,).
        gold: Place of the gold's labels on the scale, shape (n,).
        run: Place of the run's labels on the scale, shape (n,).
        weight: Weight of each task, shape (n,), 1 on average.
        drawn: Draws for these tasks; None where no intervals are asked for.
    """

    scale: tuple[str, ...]
    tasks: Places
    gold: Places
    run: Places
    weight: Array
    drawn: Draws | None

    def __len__(self) -> int:
        return len(self.tasks)

    def pairs(self) -> Array:
        """Pairs of labels as matrices with a single 1, rows gold, columns run; shape (n, k, k)."""
        return one_hot(self.gold, self.run, len(self.scale))

    def weighted(self, values: Array) -> Array:
        """Values of the tasks times the tasks' weights, shape (n, ...)."""
        return values * self.weight.reshape(-1, *([1] * (values.ndim - 1)))

    def part(self, keep: npt.ArrayLike) -> Sides:
        """The same for some of the tasks, by a mask over (n,)."""
        at = np.asarray(keep)
        drawn = None if self.drawn is None else self.drawn.of(at)
        return Sides(self.scale, self.tasks[at], self.gold[at], self.run[at], even(self.weight[at]), drawn)


@dataclass(frozen=True)
class TaskValues:
    """A measure's values (0-1) of run and gold, for n tasks; attributes as those of `Sides`."""

    tasks: Places
    run: Array
    gold: Array
    weight: Array
    drawn: Draws | None

    def __len__(self) -> int:
        return len(self.tasks)

    def part(self, keep: npt.ArrayLike) -> TaskValues:
        """The same for some of the tasks, by a mask over (n,)."""
        at = np.asarray(keep)
        drawn = None if self.drawn is None else self.drawn.of(at)
        return TaskValues(self.tasks[at], self.run[at], self.gold[at], even(self.weight[at]), drawn)


def compare_setting(table: pd.DataFrame, setting: SettingName, drawn: Draws | None) -> Sides:
    """Labels of the tasks that both sides have one for.

    Args:
        table: As `Match.table`, with positions for an index.
        setting: The setting.
        drawn: Draws for the table's rows.
    """
    both, scale = sides(table, setting), SCALES[setting]
    place = {label: index for index, label in enumerate(scale)}
    gold, run = (np.asarray(both[side].map(place), dtype=np.intp) for side in ("gold", "run"))
    tasks = both.index.to_numpy(dtype=np.intp)
    weight = even(table["weight"].to_numpy(dtype=np.float64)[tasks])
    return Sides(scale, tasks, gold, run, weight, None if drawn is None else drawn.of(tasks))


def compare_measures(
    table: pd.DataFrame, rubric: Rubric, settings: Mapping[SettingName, Sides], drawn: Draws | None
) -> dict[Measure, TaskValues]:
    """Values of the tasks known on both sides, by measure.

    Both sides take the values that the run's rubric gives to codes.

    Args:
        table: As `Match.table`, with positions for an index.
        rubric: The run's rubric.
        settings: Settings that are compared; a measure whose setting is not among them is left out.
        drawn: Draws for the table's rows.
    """
    by_side = {
        side: measures_of(
            rubric, table[[f"strict_{side}", f"with_tools_{side}"]].set_axis(["strict", "with_tools"], axis=1)
        )
        for side in ("run", "gold")
    }
    found: dict[Measure, TaskValues] = {}
    for measure in MEASURES:
        if NEEDS[measure] not in settings:
            continue
        both = pd.DataFrame({side: values[measure] for side, values in by_side.items()}).dropna()
        tasks = both.index.to_numpy(dtype=np.intp)
        weight = even(table["weight"].to_numpy(dtype=np.float64)[tasks])
        run, gold = (both[side].to_numpy(dtype=np.float64) for side in ("run", "gold"))
        found[measure] = TaskValues(tasks, run, gold, weight, None if drawn is None else drawn.of(tasks))
    return found


def intervals(drawn: Draws | None, samples: Callable[[Draws], Mapping[str, Array]]) -> Intervals95:
    """Intervals of what some tasks give in each draw; none without draws or tasks.

    Args:
        drawn: Draws for the tasks.
        samples: Makes figures by draw, each of shape (draws,), by name.
    """
    if drawn is None or not len(drawn.place):
        return {}
    return {name: interval(x, occupations=drawn.occupations) for name, x in samples(drawn).items()}


def one_hot(rows: Places, columns: Places, size: int) -> Array:
    """Pairs of labels as matrices with a single 1; shape (n, size, size)."""
    found = np.zeros((len(rows), size, size))
    found[np.arange(len(rows)), rows, columns] = 1
    return found


def even(weight: Array) -> Array:
    """Weights scaled to 1 on average, so that weighted counts add up to the number of tasks."""
    return weight / weight.mean() if len(weight) else weight
