"""Models of label noise: what else the labels of a run could have been, as draws of the scores of groups.

Each model says what its draws are draws of (`estimand`); an interval without that says nothing.

`Answers` is about the score itself: what the run would score if it asked all tasks of the list again and again.
`Confusion` and `Raters` are about another figure: the score that the labels of a gold would give, learned where it labelled
some of the same tasks, and the mean score over all raters of which several runs are a sample.

A task without a label is drawn from what the labels of its occupation, and of all others, say about it. That is right where
the labelled tasks were drawn at random; else it assumes that the others are like them. Errors of weights, bridges and pay
are in none of the models: `relabel.scoring.multiverse` shows what choices of these do.

`sampling_error` and `major_groups` are about the drawing of tasks, where they were drawn at random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa
from scipy.special import betaincinv, gammaln

from relabel.errors import DataError, UsageError
from relabel.rubric import MEASURES, Measure, Rubric
from relabel.run import Run, measures_of
from relabel.scoring.calibration import Calibration
from relabel.scoring.measures import ScoreMap, by_sample
from relabel.scoring.table import ScoreTable
from relabel.task import TASK_KEY

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

LEAST_PAIRS = 30
"""Tasks that a run and a gold must share."""
LEAST_RATERS = 3
"""Raters that an interval needs: with two it would be the whole range from 0 to 1."""
_LEAST_SCORE = 0.02

_CHUNK = 100
_FAMILIES = (2,)
"""Characters of an O*NET-SOC code that name a family of occupations: its major group, such as `11`. Minor groups as a
second level moved the coverage of GPT-4's intervals for the human scores by less than .02, at twenty times the cost."""
_LEVELS = (7, 6, 4, 2, 0)
"""Characters of an O*NET-SOC code that name its SOC code, broad, minor and major group; and all occupations."""
_LEAST_SHARE = 0.02
_LEAST_TASKS = 10.0
"""Tasks that the mix of all occupations counts as beside those of a group."""
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
    return Classes(readings, class_values(run.rubric, readings))


def class_values(rubric: Rubric, readings: tuple[str, ...]) -> Floats:
    """Value (0-1) by class of some readings and measure; missing where they do not settle the measure."""
    if len(readings) > 1:
        return measures_of(rubric, _BOTH.astype("boolean"))[list(MEASURES)].to_numpy()
    table = pd.DataFrame({name: pd.array([None, None], dtype="boolean") for name in _BOTH.columns})
    for reading in readings:
        table[reading] = pd.array([False, True], dtype="boolean")
    return measures_of(rubric, table)[list(MEASURES)].to_numpy()


class _TaskNoise:
    """Noise of single tasks: draws of the part of each class, in chunks, so that memory stays bounded."""

    classes: Classes

    def _parts(self, draws: int, rng: np.random.Generator) -> Iterator[list[npt.NDArray[np.float32]]]:
        """Yield chunks: for each class above the lowest, its part (0-1) of each task; tasks by draws of the chunk."""
        raise NotImplementedError

    def draw(self, mapped: ScoreMap, draws: int, seed: int) -> Floats:
        """Draw scores.

        Args:
            mapped: The map from task values to scores.
            draws: Number of draws.
            seed: Seed; the same seed gives the same draws.

        Returns:
            Measures (alpha, beta, gamma) by groups by draws, 0-1; missing where there is no score.
        """
        rng = np.random.default_rng(seed)
        return self._values_of(([mapped.drawn(part) for part in parts] for parts in self._parts(draws, rng)), mapped)

    def _values_of(self, chunks: Iterable[list[Floats]], mapped: ScoreMap) -> Floats:
        """Scores from the parts of the classes above the lowest, in chunks; measures by groups by draws."""
        done: list[Floats] = []
        for parts in chunks:
            above = [np.clip(part, 0, 1) for part in parts]
            by_class = np.stack([np.clip(1 - sum(above), 0, 1), *above])
            done.append(np.einsum("cm,cgd->mgd", self.classes.values, by_class))
        drawn = np.clip(np.concatenate(done, axis=2), 0, 1)
        drawn[:, ~mapped.reached] = np.nan
        return drawn


class _Mixes:
    """What is known of the mix of classes in each occupation.

    Args:
        tasks: Columns `onet_soc_code, weight`.
        counts: Labels of each task by class, all 0 for a task without one.

    Attributes:
        occupation: Number of each task's occupation; tasks.
        mean: Expected mix; occupations by classes.
    """

    def __init__(self, tasks: pd.DataFrame, counts: Floats) -> None:
        numbers, names = pd.factorize(tasks["onet_soc_code"], sort=True)
        self.occupation: Ints = np.asarray(numbers, dtype=np.intp)
        size = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, size, out=np.zeros_like(counts), where=size > 0)
        weight = np.where(size[:, 0] > 0, tasks["weight"].to_numpy(dtype="float64"), 0.0)
        mass, squares = (np.bincount(self.occupation, weights=w, minlength=len(names)) for w in (weight, weight**2))
        # The score weighs tasks, so the mix does too; unequal weights count as fewer tasks (Kish).
        effective = np.divide(mass, squares, out=np.zeros(len(names)), where=squares > 0)
        seen = _summed(self.occupation, shares * weight[:, None], len(names)) * effective[:, None]
        # Step by step: above the lowest class or not; if so, above the next or not.
        self._steps = [
            _Step(np.stack([seen[:, step + 1 :].sum(axis=1), seen[:, step]], axis=1), pd.Index(names))
            for step in range(counts.shape[1] - 1)
        ]
        self.mean: Floats = _composed([step.mean for step in self._steps])

    def draw(self, number: int, rng: np.random.Generator, wanted: Ints | None = None) -> Floats:
        """Draw mixes of all or the wanted occupations: occupations by classes by draws; sums to 1 over the classes."""
        return _composed([step.draw(number, rng, wanted)[:, 0] for step in self._steps])


class _Step:
    """How often, by occupation, a label is above a class: beta around its SOC code, which is beta around its broad group, etc.

    What is exposed in one occupation is exposed in its neighbours too; without these levels a group of neighbours would seem
    better known than it is.

    Args:
        seen: Labels above the class and in it; occupations by two.
        codes: O*NET-SOC codes.
    """

    def __init__(self, seen: Floats, codes: pd.Index) -> None:
        self._levels: list[tuple[Ints, float, Floats]] = []
        for length in _LEVELS:
            above, codes = pd.factorize(codes.str[:length])
            parent = np.asarray(above, dtype=np.intp)
            # Of the others alone: a share that its own labels are part of would make them seem more alike than they are.
            every = _LEAST_TASKS * (seen.sum(axis=0) + 0.5) / (seen.sum() + 1)
            others = _summed(parent, seen, len(codes))[parent] - seen + every
            concentration = _concentration(others / others.sum(axis=1, keepdims=True), seen)
            self._levels.append((parent, concentration, seen))
            # What the labels of one say about the share above it: the more, the more alike those below it are.
            worth = (1 + concentration) / (seen.sum(axis=1, keepdims=True) + concentration)
            seen = _summed(parent, seen * worth, len(codes))
        self._top = seen + 0.5

    @property
    def mean(self) -> Floats:
        """Expected share above the class; occupations."""
        mean = self._top
        for parent, concentration, own in reversed(self._levels):
            mean = concentration * _inside(mean / mean.sum(axis=1, keepdims=True))[parent] + own
        return mean[:, 0] / mean.sum(axis=1)

    def draw(self, number: int, rng: np.random.Generator, wanted: Ints | None = None) -> Floats:
        """Draw shares above the class and in it: all or the wanted occupations by two by draws."""
        needed: list[tuple[Ints, Ints]] = []
        at = np.arange(len(self._levels[0][0])) if wanted is None else wanted
        for parent, _, _ in self._levels:
            above, inside = np.unique(parent[at], return_inverse=True)
            needed.append((at, inside))
            at = above
        mix = _dirichlet(np.repeat(self._top[at][:, :, None], number, axis=2), rng)
        for (_, concentration, own), (at, inside) in zip(reversed(self._levels), reversed(needed), strict=True):
            mix = _dirichlet(concentration * _inside(mix)[inside] + own[at][:, :, None], rng)
        return mix


def _composed(above: Sequence[Floats]) -> Floats:
    """Mixes of classes from the shares above each class but the highest; classes become the second axis."""
    left, parts = np.ones_like(above[0]), list[Floats]()
    for share in above:
        parts.append(left * (1 - share))
        left = left * share
    return np.stack([*parts, left], axis=1)


def _summed(where: Ints, rows: Floats, number: int) -> Floats:
    total = np.zeros((number, rows.shape[1]))
    np.add.at(total, where, rows)
    return total


def _inside(shares: Floats) -> Floats:
    """Shares of others that leave room for both classes: no share of 0 is certain, however many others have it."""
    return np.clip(shares, _LEAST_SHARE, 1 - _LEAST_SHARE)


def _dirichlet(parameters: Floats, rng: np.random.Generator) -> Floats:
    drawn = rng.standard_gamma(np.maximum(parameters, 1e-3))
    return drawn / np.maximum(drawn.sum(axis=1, keepdims=True), 1e-300)


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
        occupations = pd.Index(sorted(set(own["onet_soc_code"]) | set(tasks["onet_soc_code"])))
        count = len(self.classes.values)
        labels, pairs = np.zeros((len(occupations), count)), np.zeros((len(occupations), count, count))
        np.add.at(labels, (occupations.get_indexer(pd.Index(own["onet_soc_code"])), own["label"]), 1)
        where = occupations.get_indexer(pd.Index(both["onet_soc_code"]))
        np.add.at(pairs, (where, both["label"], both["gold"]), 1)
        families = [pd.factorize(occupations.str[:length])[0] for length in _FAMILIES]
        self._calibration = Calibration(labels, pairs, np.asarray(families, dtype=np.intp))
        self._occupation = occupations.get_indexer(pd.Index(tasks["onet_soc_code"]))
        self._label = np.where(tasks["labelled"], self.classes.of(tasks), -1)
        self._mixes = _Mixes(tasks, np.eye(count)[self._label] * (self._label >= 0)[:, None])
        self.of = gold.ref
        self.estimand = (
            f"the score that the labels of {gold.name} would give, learned from {len(both):,} tasks that both labelled"
        )

    def _parts(self, draws: int, rng: np.random.Generator) -> Iterator[list[npt.NDArray[np.float32]]]:
        chances = self._calibration.draw(draws, rng)
        lacking = np.flatnonzero(self._label < 0)
        classes = len(self.classes.values)
        cell = self._occupation * classes + self._label
        without, mixed_at = np.unique(self._mixes.occupation[lacking], return_inverse=True)
        for start in range(0, draws, _CHUNK):
            chunk = chances[start : start + _CHUNK].cumsum(axis=3)
            number = len(chunk)
            mixed = self._mixes.draw(number, rng, without).cumsum(axis=1)[mixed_at]
            guessed = (rng.random((len(lacking), 1, number)) >= mixed[:, :-1]).sum(axis=1)
            chance = rng.random((len(self._label), number), dtype=np.float32)
            # Class c where the chance falls between the summed chances of the classes below it and its own.
            over: list[npt.NDArray[np.bool_]] = []
            for below in range(classes - 1):
                cells = np.ascontiguousarray(chunk[..., below].reshape(number, -1).T)
                bound = cells[np.maximum(cell, 0)]
                bound[lacking] = chunk[np.arange(number), self._occupation[lacking][:, None], guessed, below]
                over.append(chance >= bound)
            yield [
                (passed & ~over[step + 1] if step + 1 < len(over) else passed).astype(np.float32)
                for step, passed in enumerate(over)
            ]


class Answers(_TaskNoise):
    """The score of the run itself, had it asked all tasks of the list again and again: its expected value.

    Each task has its own mix of answers, of which its samples are a few. Mixes are drawn from their posterior: Dirichlet
    around the mix of the occupation. How alike the samples of a task are, and how alike occupations are, is learned from
    the run, so that five equal answers out of five hardly leave room for another, where that is how this model answers.

    With one answer a task, its scatter cannot be seen. It is then taken at its largest: as if tasks of one occupation
    differed by chance alone. Such an interval is rather too wide than too narrow.

    Args:
        run: The run.
        tasks: `ScoreTable.task_values`.
    """

    def __init__(self, run: Run, tasks: pd.DataFrame) -> None:
        self.classes = classes_of(run)
        coded = by_sample(run)
        label = self.classes.of(coded)
        counted = coded.loc[label >= 0, TASK_KEY].assign(label=label[label >= 0])
        counted = counted.value_counts([*TASK_KEY, "label"]).unstack(fill_value=0)
        counted = counted.reindex(columns=range(len(self.classes.values)), fill_value=0)
        at = pd.MultiIndex.from_frame(tasks[TASK_KEY])
        counts = counted.reindex(at, fill_value=0).to_numpy(dtype="float64")
        self._counts = counts * tasks["labelled"].to_numpy(dtype=bool)[:, None]
        repeats = self._counts.sum(axis=1)
        self._mixes = _Mixes(tasks, self._counts)
        self.repeated = bool(repeats.max(initial=0) > 1)
        self._within = 0.0
        if self.repeated:
            self._within = _concentration(self._mixes.mean[self._mixes.occupation], self._counts)
        expected = self._mixes.mean[self._mixes.occupation]
        stretch = np.ones(len(tasks))
        has, size = repeats > 0, np.maximum(repeats, 1)[:, None]
        if self.repeated:
            expected = (self._within * expected + self._counts) / (self._within + repeats[:, None])
            # Own labels without help of the others are less sure.
            stretch[has] = np.sqrt((repeats[has] + self._within) / repeats[has])
        shift = np.where(has[:, None], self._counts / size - expected * stretch[:, None], 0.0)
        self._stretch = stretch.astype(np.float32)[:, None, None]
        self._shift = shift.astype(np.float32)[:, :, None]
        self.name = "repeats" if self.repeated else "single"
        asked = repeats[repeats > 0]
        self.estimand = (
            f"the expected score over repeated sampling, from {np.median(asked):.0f} samples a task"
            if self.repeated
            else "the expected score over repeated sampling; each task was asked once, so the scatter of answers is taken at its largest"
        )
        if lacking := int((repeats == 0).sum()):
            self.estimand += f"; {lacking:,} tasks without a label are drawn like the labelled ones of their occupation"

    def draw(self, mapped: ScoreMap, draws: int, seed: int) -> Floats:
        """Draw scores; see `_TaskNoise.draw`."""
        if self.repeated:
            return super().draw(mapped, draws, seed)
        # With one answer a task, the tasks of an occupation are drawn as one; a labelled one is shifted to its own label.
        rng = np.random.default_rng(seed)
        shift = [
            mapped.shares @ np.nan_to_num(mapped.means(column)) for column in self._shift[:, 1:, 0].T.astype("float64")
        ]
        mixes = (self._mixes.draw(min(_CHUNK, draws - start), rng) for start in range(0, draws, _CHUNK))
        chunks = (
            [mapped.shares @ drawn[:, label + 1] + moved[:, None] for label, moved in enumerate(shift)]
            for drawn in mixes
        )
        return self._values_of(chunks, mapped)

    def _parts(self, draws: int, rng: np.random.Generator) -> Iterator[list[npt.NDArray[np.float32]]]:
        for start in range(0, draws, _CHUNK):
            drawn = self._mixes.draw(min(_CHUNK, draws - start), rng)[self._mixes.occupation]
            drawn = _sparse_dirichlet(self._within * drawn + self._counts[:, :, None], rng)
            # Labelled tasks scatter around their own labels, which the score is made of, and not around what is likely.
            drawn = drawn.astype(np.float32) * self._stretch + self._shift
            yield [np.ascontiguousarray(drawn[:, label]) for label in range(1, drawn.shape[1])]


def _sparse_dirichlet(shapes: Floats, rng: np.random.Generator) -> Floats:
    """Draw shares along axis 1, in logarithms: gamma variates of a shape near 0, where samples agree, underflow."""
    shapes = np.maximum(shapes, 1e-12)
    logs = np.log(rng.standard_gamma(shapes + 1)) - rng.standard_exponential(shapes.shape) / shapes
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def _concentration(centre: Floats, counts: Floats) -> float:
    """The concentration of Dirichlet-multinomial counts around known centres that makes the counts most likely."""
    from scipy import optimize

    size = counts.sum(axis=1)

    def loss(log_concentration: float) -> float:
        total = float(np.exp(log_concentration))
        alpha = total * centre
        rows = (gammaln(alpha + counts) - gammaln(alpha)).sum(axis=1) + gammaln(total) - gammaln(total + size)
        # A weak prior decides where labels are all equal and say nothing.
        return ((log_concentration - np.log(5.0)) / 1.5) ** 2 / 2 - float(rows.sum())

    found = optimize.minimize_scalar(loss, bounds=(np.log(0.01), np.log(1000.0)), method="bounded")
    return float(np.exp(found.x))


class Raters:
    """Differences between raters.

    Raters err each in a way of their own over all tasks, so the rater is the unit: a few raters say little, however many
    tasks they labelled. The draws are t-distributed around the pooled score, the mean over raters, with one degree of
    freedom fewer than raters, jointly for all groups; cut off at 0 and 1.

    Few raters can agree on a group by chance, above all where little is exposed. So the variance between raters of a group is
    the mean of its own and of what is usual between them for groups of such a score: `usual` times score x (1 - score).

    Args:
        names: Names of the raters.
        scores: Their scores: raters by measures by groups; missing where a rater gives none.
        error: Standard errors (measures by groups) by the drawing of tasks, where that is part of the draws.

    Raises:
        UsageError: There are fewer than `LEAST_RATERS`.
    """

    name = "raters"

    def __init__(self, names: Sequence[str], scores: Floats, error: Floats | None = None) -> None:
        if len(names) < LEAST_RATERS:
            raise UsageError(
                f"an interval over raters needs {LEAST_RATERS} or more, and these are {len(names)}; name others with --rater RUN"
            )
        self.names, self.scores, self.error = tuple(names), scores, error
        self.of = ", ".join(names)
        self.estimand = f"the mean score over raters like these {len(names)} ({', '.join(names)})"

    @cached_property
    def pooled(self) -> Floats:
        """Mean over the raters that score a group; measures by groups, missing where one of them gives none."""
        return self.scores.mean(axis=0)

    def draw(self, mapped: ScoreMap | None, draws: int, seed: int) -> Floats:
        """Draw scores, as the other models do. The raters' scores need no map."""
        rng, count = np.random.default_rng(seed), len(self.names)
        apart = self.scores - self.pooled
        # A group on which all agree at 0 or 1 may still be off by what half a task makes of its raters.
        centre = np.clip(self.pooled, _LEAST_SCORE, 1 - _LEAST_SCORE)
        spread = centre * (1 - centre)
        own = (apart**2).sum(axis=0) / (count - 1)
        usual = np.nansum(own, axis=1) / np.maximum(np.nansum(np.where(np.isnan(own), np.nan, spread), axis=1), 1e-12)
        # The sum over raters of (score - pooled) x normal has the covariance of the raters' scores, times (count - 1).
        normal = rng.standard_normal((count, draws))
        scale = np.sqrt(count - 1) / np.sqrt(rng.chisquare(count - 1, size=draws))
        between = np.einsum("rmg,rd->mgd", apart, normal) / np.sqrt(2 * count * (count - 1))
        extra = rng.standard_normal((*own.shape, draws)) * np.sqrt(usual[:, None] * spread / (2 * count))[:, :, None]
        drawn = self.pooled[:, :, None] + scale * (between + extra)
        if self.error is not None:
            drawn += self.error[:, :, None] * rng.standard_normal(drawn.shape)
        return np.clip(drawn, 0, 1)


Noise = Answers | Confusion | Raters
"""A model of label noise: its `name`, its `estimand` (what the draws are draws of, in words), and how it draws."""


def sampling_error(table: ScoreTable) -> Floats:
    """Standard errors of the scores (measures by groups) by the design, where tasks were drawn at random.

    Each occupation is a stratum of a finite population of tasks: its weighted mean has the linearised variance of a ratio,
    times the part of its tasks that has no label. An occupation with fewer than two labels takes the variance of the tasks
    of its major group (collapsed strata), as if it had one.
    """
    full, tasks = table.full_map, table.task_values
    major, majors = pd.factorize(full.occupations.str[:2])
    drawn = tasks["labelled"].to_numpy(dtype=bool) & (full.weight > 0)
    weight = full.weight * drawn

    def summed(what: npt.NDArray[Any]) -> Floats:
        return np.bincount(full.occupation, weights=what, minlength=len(full.occupations)).astype("float64")

    labelled, mass = summed(drawn), np.maximum(summed(weight), 1e-12)
    left = 1 - labelled / np.maximum(summed(full.weight > 0), 1)
    rows: list[Floats] = []
    for measure in MEASURES:
        values = np.nan_to_num(tasks[measure].to_numpy(dtype="float64"))
        mean = summed(weight * values) / mass
        own = summed((weight * (values - mean[full.occupation])) ** 2) / mass**2
        own *= labelled / np.maximum(labelled - 1, 1)
        of_major = major[full.occupation][drawn]
        count = np.maximum(np.bincount(of_major, minlength=len(majors)), 1)
        first, second = (
            np.bincount(of_major, weights=values[drawn] ** power, minlength=len(majors)) / count for power in (1, 2)
        )
        variance = np.where(labelled > 1, own, (second - first**2)[major])
        rows.append(np.sqrt(full.shares**2 @ (left * variance)))
    return np.stack(rows)


_MAJOR: Mapping[str, int] = {"uk-soc2020": 1, "isco08": 1, "soc2018": 2, "onet-soc": 2}
"""Characters of a code that name its major group."""
MAJOR_GROUPS = pa.DataFrameSchema(
    {
        "major_group": pa.Column("str", unique=True),
        "groups": pa.Column("int64", pa.Check.ge(1)),
        "tasks": pa.Column("int64", pa.Check.ge(0)),
        **{
            f"{measure}{end}": pa.Column("float64", pa.Check.in_range(0, 1), nullable=True)
            for measure in MEASURES
            for end in ("", "_se", "_low", "_high")
        },
    },
    strict=True,
)
"""Means (0-1) over the groups of a major group, each group alike, with standard error and 95% interval."""


def major_groups(table: ScoreTable) -> pd.DataFrame:
    """What a random sample of tasks says: the mean score by major group, and over all groups, that all tasks would give.

    The design is that of simple random sampling from the task list: a ratio estimator, its variance linearised and with
    the correction for a finite population, and the interval of Korn and Graubard (Clopper-Pearson with the effective
    number of tasks), which stays within 0 and 1 and does not shrink to nothing where all labels are equal.

    Args:
        table: The score table of a run whose tasks were drawn at random, see `is_random_sample`.

    Returns:
        Table of schema `MAJOR_GROUPS`; the last row is `all`.
    """
    full = table.full_map
    codes, reached = table.frame["code"].str[: _MAJOR[table.taxonomy]].to_numpy(), full.reached
    tasks = table.task_values
    drawn = tasks["labelled"].to_numpy(dtype=bool)
    left = 1 - drawn.mean()
    rows: list[dict[str, Any]] = []
    for name in [*sorted(set(codes[reached])), "all"]:
        inside = reached & ((codes == name) | (name == "all"))
        part = (full.shares[inside].sum(axis=0)[full.occupation] * full.part)[drawn]
        used = part > 0
        row: dict[str, Any] = {"major_group": name, "groups": int(inside.sum()), "tasks": int(used.sum())}
        for measure in MEASURES:
            values = tasks[measure].to_numpy(dtype="float64")[drawn]
            row |= dict(
                zip(
                    (measure, *(f"{measure}_{e}" for e in ("se", "low", "high"))),
                    _ratio(part[used], values[used], left),
                    strict=True,
                )
            )
        rows.append(row)
    return MAJOR_GROUPS.validate(pd.DataFrame(rows).astype({"major_group": "str"}))


def _ratio(weight: Floats, values: Floats, left: float) -> tuple[float, float, float, float]:
    """Weighted mean of a random sample, its standard error, and its interval."""
    number = len(values)
    if number < 2 or np.isnan(values).any():
        return float("nan"), float("nan"), float("nan"), float("nan")
    mean = min(1.0, float(weight @ values / weight.sum()))  # the sum of weights is rounded
    apart = weight * (values - mean) / weight.sum()
    variance = float(left * number / (number - 1) * (apart**2).sum())
    # Equal labels have no variance; Kish's effective number keeps them from seeming certain.
    kish = float(weight.sum() ** 2 / (weight**2).sum())
    effective = min(mean * (1 - mean) / variance, number / max(left, 1e-9)) if variance > 0 else kish / max(left, 1e-9)
    low = float(betaincinv(mean * effective, (1 - mean) * effective + 1, 0.025)) if mean > 0 else 0.0
    high = float(betaincinv(mean * effective + 1, (1 - mean) * effective, 0.975)) if mean < 1 else 1.0
    return mean, variance**0.5, low, high
