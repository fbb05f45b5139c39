"""Models of label noise: what else the labels of a run could have been, as draws of the scores of groups.

Each model says what its draws are draws of (`Noise.estimand`); an interval without that is no statement.

`repeats`: the run asked each task several times. Drawn is the score that endless repeats would give.
`confusion`: a gold labelled some of the same tasks. Drawn is the score that the gold's own labels would give.
`raters`: several runs labelled the tasks. Drawn is the mean score over all raters of which these are a sample.

What none of them knows: tasks without a label (they are taken to be like the labelled ones), and errors of weights,
bridges and pay. `relabel.scoring.multiverse` shows what choices of these do.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize
from scipy.special import gammaln

from relabel.errors import DataError, UsageError
from relabel.rubric import MEASURES, Measure, Rubric
from relabel.run import Run, measures_of
from relabel.scoring.calibration import Calibration
from relabel.scoring.linear import ScoreMap
from relabel.task import TASK_KEY

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

LEAST_PAIRS = 30
"""Tasks that a run and a gold must share."""
LEAST_RATERS = 2

_CHUNK = 100
_FAMILIES = (2,)
"""Characters of an O*NET-SOC code that name a family of occupations: its major group, such as `11`. Minor groups as a
second level moved the coverage of GPT-4's intervals for the human scores by less than .02, at twenty times the cost."""
_BOTH = pd.DataFrame({"strict": [False, False, True], "with_tools": [False, True, True]})


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes that a run's labels fall into, lowest exposure first.

    Attributes:
        readings: Readings that make the class: `strict`, `with_tools`, or both.
        values: Value (0-1) by class and measure; missing where the run cannot give the measure.
    """

    readings: tuple[str, ...]
    values: Floats

    def of(self, coded: pd.DataFrame) -> Ints:
        """Class number of each task; -1 while a reading is missing. An incoherent pair is of the highest class."""
        given = coded[list(self.readings)].astype("boolean")
        number = np.where(given.iloc[:, 0].fillna(False), len(self.values) - 1, 0)
        if len(self.readings) > 1:
            number = np.where((number == 0) & given["with_tools"].fillna(False), 1, number)
        return np.where(given.notna().all(axis=1), number, -1).astype(np.intp)


def classes_of(run: Run) -> Classes:
    """The classes of a run: E0, E2 and E1, or not exposed and exposed where it has one reading alone."""
    lacks = run.missing_measures()
    pairs: tuple[tuple[str, Measure], ...] = (("strict", "alpha"), ("with_tools", "gamma"))
    readings = tuple(reading for reading, measure in pairs if measure not in lacks)
    return Classes(readings, _values(run.rubric, readings))


def _values(rubric: Rubric, readings: tuple[str, ...]) -> Floats:
    if len(readings) > 1:
        return measures_of(rubric, _BOTH.astype("boolean"))[list(MEASURES)].to_numpy()
    table = pd.DataFrame({name: pd.array([None, None], dtype="boolean") for name in _BOTH.columns})
    for reading in readings:
        table[reading] = pd.array([False, True], dtype="boolean")
    return measures_of(rubric, table)[list(MEASURES)].to_numpy()


class Noise(ABC):
    """A model of label noise.

    Attributes:
        name: Short name.
        estimand: What the draws are draws of, in words.
    """

    name: str
    estimand: str

    @abstractmethod
    def draw(self, mapped: ScoreMap, draws: int, seed: int) -> Floats:
        """Draw scores.

        Args:
            mapped: The map from task values to scores.
            draws: Number of draws.
            seed: Seed; the same seed gives the same draws.

        Returns:
            Measures (alpha, beta, gamma) by groups by draws, 0-1; missing where there is no score.
        """


class _TaskNoise(Noise):
    """Noise of single tasks: draws of the part of each class, in chunks, so that memory stays bounded."""

    classes: Classes

    @abstractmethod
    def _parts(self, draws: int, rng: np.random.Generator) -> Iterator[list[npt.NDArray[np.float32]]]:
        """Yield chunks: for each class above the lowest, its part (0-1) of each task; tasks by draws of the chunk."""

    def draw(self, mapped: ScoreMap, draws: int, seed: int) -> Floats:
        """Draw scores; see `Noise.draw`."""
        rng = np.random.default_rng(seed)
        light = dataclasses.replace(mapped, matrix=mapped.matrix.astype(np.float32))
        values = self.classes.values
        chunks: list[Floats] = []
        for parts in self._parts(draws, rng):
            above = [np.clip(light.matrix @ part, 0, 1).astype("float64") for part in parts]
            by_class = np.stack([np.clip(1 - sum(above), 0, 1), *above])
            chunks.append(np.einsum("cm,cgd->mgd", values, by_class))
        drawn = np.clip(np.concatenate(chunks, axis=2), 0, 1)
        drawn[:, ~mapped.reached] = np.nan
        return drawn


class Confusion(_TaskNoise):
    """Errors as measured against a gold.

    Drawn is the score that the gold's labels would give, predicted from the run's labels and from nothing else: where
    the gold has labelled a task, that label has taught the model but is not put in its place. Draws are centred on the
    corrected score, because a run that labels too high does so in every draw too.

    Args:
        run: The run.
        gold: The gold, on some of the same tasks. They should be a fair sample of those that the run labelled.
        tasks: `ScoreTable.task_values`.

    Raises:
        DataError: Run and gold share too few tasks, or the gold lacks a reading that the run has.
    """

    name = "confusion"

    def __init__(self, run: Run, gold: Run, tasks: pd.DataFrame) -> None:
        self.classes = classes_of(run)
        own, theirs = run.coded(), gold.coded()
        if theirs[list(self.classes.readings)].isna().all().any():
            raise DataError(
                f"the gold {gold.name} lacks a reading that {run.name} has; give a gold with both with --gold"
            )
        own = own.assign(label=self.classes.of(own))[[*TASK_KEY, "label"]].query("label >= 0")
        theirs = theirs.assign(gold=self.classes.of(theirs))[[*TASK_KEY, "gold"]].query("gold >= 0")
        both = own.merge(theirs, on=TASK_KEY)
        if len(both) < LEAST_PAIRS:
            raise DataError(
                f"the gold {gold.name} shares {len(both):,} labelled tasks with {run.name}, and it takes at least "
                f"{LEAST_PAIRS} to learn how labels err; give another with --gold, or other noise with --noise"
            )
        occupations = pd.Index(sorted(set(own["onet_soc_code"])))
        count = len(self.classes.values)
        labels, pairs = np.zeros((len(occupations), count)), np.zeros((len(occupations), count, count))
        np.add.at(labels, (occupations.get_indexer(pd.Index(own["onet_soc_code"])), own["label"]), 1)
        where = occupations.get_indexer(pd.Index(both["onet_soc_code"]))
        np.add.at(pairs, (where, both["label"], both["gold"]), 1)
        families = [pd.factorize(occupations.str[:length])[0] for length in _FAMILIES]
        self._calibration = Calibration(labels, pairs, np.asarray(families, dtype=np.intp))
        self._occupation = occupations.get_indexer(pd.Index(tasks["onet_soc_code"]))
        self._label = np.where(tasks["labelled"], self.classes.of(tasks), -1)
        self.estimand = (
            f"the score that the labels of {gold.name} would give, learned from {len(both):,} tasks that both labelled; "
            "centred on the corrected score, so that the score shown may lie outside"
        )

    def _parts(self, draws: int, rng: np.random.Generator) -> Iterator[list[npt.NDArray[np.float32]]]:
        chances = self._calibration.draw(draws, rng)
        used = np.flatnonzero(self._label >= 0)
        occupation, label = self._occupation[used], self._label[used]
        for start in range(0, draws, _CHUNK):
            chunk = chances[start : start + _CHUNK].cumsum(axis=3)
            number = len(chunk)
            chance = rng.random((len(used), number), dtype=np.float32)
            # Class c where the chance falls between the summed chances of the classes below it and its own.
            bounds = [chunk[:, occupation, label, below].T for below in range(len(self.classes.values) - 1)]
            over = [chance >= bound for bound in bounds]
            parts: list[npt.NDArray[np.float32]] = []
            for step, passed in enumerate(over):
                is_class = passed & ~over[step + 1] if step + 1 < len(over) else passed
                part = np.zeros((len(self._label), number), dtype=np.float32)
                part[used] = is_class
                parts.append(part)
            yield parts


class Repeats(_TaskNoise):
    """Differences between the samples of one run.

    Each task has its own mix of answers, of which its samples are a few. Mixes are drawn from their posterior: Dirichlet
    around the mix of the occupation. How alike the samples of a task are, and how alike occupations are, is learned from
    the run, so that five equal answers out of five hardly leave room for another, where that is how this model answers.

    Args:
        run: A run with several samples.
        tasks: `ScoreTable.task_values`.

    Raises:
        UsageError: The run has one sample a task.
    """

    name = "repeats"

    def __init__(self, run: Run, tasks: pd.DataFrame) -> None:
        self.classes = classes_of(run)
        # Each sample stands as a run of its own on tasks that are named apart.
        apart = run.answers()["task_id"] + "\n" + run.answers()["sample"].astype("str")
        coded = dataclasses.replace(run, labels=run.answers().assign(task_id=apart, sample=0)).coded()
        label = self.classes.of(coded)
        keys = pd.DataFrame(
            {"onet_soc_code": coded["onet_soc_code"], "task_id": coded["task_id"].str.rpartition("\n")[0]}
        )
        counted = (
            keys[label >= 0].assign(label=label[label >= 0]).value_counts([*TASK_KEY, "label"]).unstack(fill_value=0)
        )
        counted = counted.reindex(columns=range(len(self.classes.values)), fill_value=0)
        repeats = counted.sum(axis=1)
        if repeats.empty or repeats.max() < 2:
            raise UsageError(
                f"{run.name} has one answer a task, so its repeats tell nothing; run it with --samples 5, or use "
                "--noise confusion --gold G, or --rater RUN"
            )
        at = pd.MultiIndex.from_frame(tasks[TASK_KEY])
        counts = counted.reindex(at, fill_value=0).to_numpy(dtype="float64")
        counts = counts * tasks["labelled"].to_numpy(dtype=bool)[:, None]
        self._used = np.flatnonzero(counts.sum(axis=1) > 0)
        self._counts = counts[self._used]
        codes, _ = pd.factorize(tasks["onet_soc_code"].iloc[self._used])
        self._occupation = np.asarray(codes, dtype=np.intp)
        self._tasks = len(tasks)
        self._learn()
        self.estimand = (
            f"the score of endless repeats, from {repeats.median():.0f} samples a task; centred on the mean over "
            "samples, where the score shown takes the most frequent answer"
        )

    def _learn(self) -> None:
        counts, size = self._counts, self._counts.sum(axis=1, keepdims=True)
        shares = counts / size
        by_occupation = np.zeros((int(self._occupation.max()) + 1, counts.shape[1]))
        np.add.at(by_occupation, self._occupation, shares)
        mean = (shares.sum(axis=0) + 0.5) / (len(shares) + 0.5 * counts.shape[1])
        between = _concentration(np.broadcast_to(mean, by_occupation.shape), by_occupation)
        self._around = between * mean + by_occupation
        centre = self._around / self._around.sum(axis=1, keepdims=True)
        self._within = _concentration(centre[self._occupation], counts)

    def _parts(self, draws: int, rng: np.random.Generator) -> Iterator[list[npt.NDArray[np.float32]]]:
        for start in range(0, draws, _CHUNK):
            number = min(_CHUNK, draws - start)
            mix = rng.standard_gamma(self._around[:, :, None], size=(*self._around.shape, number))
            mix /= mix.sum(axis=1, keepdims=True)
            shape = self._within * mix[self._occupation] + self._counts[:, :, None]
            drawn = rng.standard_gamma(shape.astype(np.float32), dtype=np.float32)
            drawn /= drawn.sum(axis=1, keepdims=True)
            parts: list[npt.NDArray[np.float32]] = []
            for label in range(1, self._counts.shape[1]):
                part = np.zeros((self._tasks, number), dtype=np.float32)
                part[self._used] = drawn[:, label]
                parts.append(part)
            yield parts


def _concentration(centre: Floats, counts: Floats) -> float:
    """The concentration of Dirichlet-multinomial counts around known centres that makes the counts most likely."""
    size = counts.sum(axis=1)

    def loss(log_concentration: float) -> float:
        total = float(np.exp(log_concentration))
        alpha = total * centre
        rows = (gammaln(alpha + counts) - gammaln(alpha)).sum(axis=1) + gammaln(total) - gammaln(total + size)
        return -float(rows.sum())

    found = optimize.minimize_scalar(loss, bounds=(np.log(0.01), np.log(1000.0)), method="bounded")
    return float(np.exp(found.x))


class Raters(Noise):
    """Differences between raters.

    Raters err each in a way of their own over all tasks, so the rater is the unit: a few raters say little, however many
    tasks they labelled. The draws are t-distributed around the pooled score, the mean over raters, with one degree of
    freedom fewer than raters, jointly for all groups; cut off at 0 and 1. A group's interval is the usual t interval.

    Args:
        names: Names of the raters.
        scores: Their scores: raters by measures by groups; missing where a rater gives none.

    Raises:
        UsageError: There are fewer than two raters.
    """

    name = "raters"

    def __init__(self, names: Sequence[str], scores: Floats) -> None:
        if len(names) < LEAST_RATERS:
            raise UsageError("it takes two raters or more to see how they differ; name others with --rater RUN")
        self.names, self.scores = tuple(names), scores
        self.estimand = (
            f"the mean score over raters like these {len(names)} ({', '.join(names)}); centred on the pooled score, the "
            "mean over them"
        )

    @cached_property
    def pooled(self) -> Floats:
        """Mean over the raters that score a group; measures by groups, missing where one of them gives none."""
        return self.scores.mean(axis=0)

    def draw(self, mapped: ScoreMap, draws: int, seed: int) -> Floats:
        """Draw scores; see `Noise.draw`."""
        rng, count = np.random.default_rng(seed), len(self.names)
        apart = self.scores - self.pooled
        # The sum over raters of (score - pooled) x normal has the covariance of the raters' scores, times (count - 1).
        normal = rng.standard_normal((count, draws))
        spread = np.sqrt(rng.chisquare(count - 1, size=draws) / (count - 1) * count * (count - 1))
        drawn = self.pooled[:, :, None] + np.einsum("rmg,rd->mgd", apart, normal / spread)
        return np.clip(drawn, 0, 1)
