"""Models of label noise: what else the labels of a run could have been, as draws of the scores of groups.

Each model says what its draws are draws of (`estimand`); an interval without that says nothing.

`Answers` is about the score itself: what the run would score if it asked all tasks of the list again and again.
`Confusion` and `Raters` are about another figure: the score that the labels of a gold would give, learned where it labelled
some of the same tasks, and the mean score over all raters of which several runs are a sample.

A task without a label is drawn from what the labels of its occupation, and of all others, say about it. That is right where
the labelled tasks were drawn at random; else it assumes that the others are like them. Errors of weights, bridges and pay
are in none of the models: `relabel.scoring.multiverse` shows what choices of these do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, gammaln, logsumexp

from relabel.errors import DataError, UsageError
from relabel.run import Run
from relabel.scoring.measures import Classes, Floats, Ints, ScoreMap, by_sample, classes_of
from relabel.task import TASK_KEY

LEAST_PAIRS = 30
"""Tasks that a run and a gold must share."""
LEAST_RATERS = 3
"""Raters that an interval needs: with two it would be the whole range from 0 to 1."""
_LEAST_SCORE = 0.02

_CHUNK = 100
_FAMILY = 2
"""Characters of an O*NET-SOC code that name a family of occupations: its major group, such as `11`. Minor groups as a
second level moved the coverage of GPT-4's intervals for the human scores by less than .02, at twenty times the cost."""
_LEVELS = (7, 6, 4, 2, 0)
"""Characters of an O*NET-SOC code that name its SOC code, broad, minor and major group; and all occupations."""
_LEAST_SHARE = 0.02
_LEAST_TASKS = 10.0
"""Tasks that the mix of all occupations counts as beside those of a group."""
_EFFECT_SD = 2.5
"""Prior standard deviation of a coefficient, in log odds."""
_SPREAD = 0.7
"""Prior median of the standard deviations between families and between the occupations of one, in log odds; their logarithms
have a standard deviation of 1."""
_NODES = 15
_ROUNDS = 50
_WIDTH = 0.1


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
        done: list[Floats] = []
        for parts in self._of_groups(mapped, draws, np.random.default_rng(seed)):
            above = [np.clip(part, 0, 1) for part in parts]
            by_class = np.stack([np.clip(1 - sum(above), 0, 1), *above])
            done.append(np.einsum("cm,cgd->mgd", self.classes.values, by_class))
        drawn = np.clip(np.concatenate(done, axis=2), 0, 1)
        drawn[:, ~mapped.reached] = np.nan
        return drawn

    def _of_groups(self, mapped: ScoreMap, draws: int, rng: np.random.Generator) -> Iterable[list[Floats]]:
        """Yield the parts of the classes above the lowest in each group, in chunks: groups by draws."""
        return ([mapped.drawn(part) for part in parts] for parts in self._parts(draws, rng))


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


class _Calibration:
    """What a gold label is likely to be, given a run's label: learned where both are known, predicted everywhere.

    The classes of a label are taken apart step by step: is the gold label above the lowest class; if so, is it above the
    next. Each step is a logistic regression on the run's own label and on the mix of the run's labels in the occupation, with
    a random effect for each occupation, because mistakes are not independent: a rater that misjudges one task of an
    occupation misjudges its neighbours too.

    The mix of labels matters. From the label alone every occupation would be given the errors of the average one, and all
    extreme occupations would move to the middle: where nearly all tasks are labelled E0, another E0 is more often right.

    Args:
        labels: Number of tasks by occupation and label of the run; occupations by classes, lowest class first.
        pairs: Number of tasks that both labelled, by occupation, label of the run and label of the gold.
        families: The number of each occupation's family, from 0.
    """

    def __init__(self, labels: Floats, pairs: Floats, families: Ints) -> None:
        self._families = families
        classes = labels.shape[1]
        mix = (labels.sum(axis=0) + 0.5) / (labels.sum() + 0.5 * classes)
        smooth = np.log(labels + 2 * mix)
        context = smooth[:, 1:] - smooth[:, :1]
        context = context - context.mean(axis=0)
        self._design = np.zeros((*labels.shape, 2 * classes - 1))
        self._design[:, range(classes), range(classes)] = 1.0
        self._design[:, :, classes:] = context[:, None, :]
        self._steps = [
            _Regression(
                self._design, pairs[:, :, step + 1 :].sum(axis=2), pairs[:, :, step:].sum(axis=2), families
            ).posterior()
            for step in range(classes - 1)
        ]

    def draw(self, draws: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Draw probabilities of the gold's classes.

        Each draw has its own coefficients and spread, so that a small gold shows, and its own effects of families and occupations.

        Args:
            draws: Number of draws.
            rng: Source of randomness.

        Returns:
            Draws by occupations by classes of the run's label by classes of the gold's label; sums to 1 over the last.
        """
        occupations, classes = len(self._families), len(self._steps) + 1
        drawn = np.empty((draws, occupations, classes, classes), dtype=np.float32)
        left = np.ones((draws, occupations, classes))
        for number, (mode, covariance) in enumerate(self._steps):
            parameters = rng.multivariate_normal(mode, covariance, size=draws, method="eigh")
            spread = np.exp(parameters[:, -2:])
            shift = rng.standard_normal((draws, occupations)) * spread[:, 1:]
            shift += (rng.standard_normal((draws, int(self._families.max()) + 1)) * spread[:, :1])[:, self._families]
            above = expit(np.einsum("olp,dp->dol", self._design, parameters[:, :-2]) + shift[:, :, None])
            drawn[..., number] = left * (1 - above)
            left *= above
        drawn[..., classes - 1] = left
        return drawn


class _Regression:
    """One step: a logistic regression with random intercepts of families and of the occupations in them.

    The effects of occupations, which may have a task or two, are integrated out by Gauss-Hermite quadrature; those of
    families, together with the coefficients, by Laplace's method, because a large family would fall between the nodes.

    Args:
        design: Occupations by cells by coefficients.
        hits: Occupations by cells.
        trials: Occupations by cells.
        families: The number of each occupation's family.
    """

    def __init__(self, design: Floats, hits: Floats, trials: Floats, families: Ints) -> None:
        seen = trials.sum(axis=1) > 0
        self._design, self._hits, self._trials = design[seen], hits[seen], trials[seen]
        self._inside = (families[seen][:, None] == np.unique(families[seen])).astype("float64")
        self._coefficients = design.shape[2]
        self._mode = np.zeros(self._coefficients + self._inside.shape[1])
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        self._nodes, self._weights = nodes, np.log(weights / weights.sum())

    def posterior(self) -> tuple[Floats, Floats]:
        """What the labels say of the coefficients and of the logs of the spreads: mode and covariance."""
        from scipy import optimize

        start = np.full(2, np.log(_SPREAD))
        spread = optimize.minimize(self._loss, start, method="Nelder-Mead", options={"xatol": 0.03, "fatol": 0.03}).x
        curvature = np.empty((2, 2))
        for row, one in enumerate(_WIDTH * np.eye(2)):
            for column, other in enumerate(_WIDTH * np.eye(2)):
                corners = [(1, 1), (-1, -1), (1, -1), (-1, 1)]
                values = [self._loss(spread + up * one + right * other) for up, right in corners]
                curvature[row, column] = (values[0] + values[1] - values[2] - values[3]) / (4 * _WIDTH**2)
        self._loss(spread)
        _, _, information = self._at(self._mode, np.exp(spread))
        size = self._coefficients
        covariance = np.zeros((size + 2, size + 2))
        covariance[:size, :size] = _inverse(information, least=1 / _EFFECT_SD**2)[:size, :size]
        # The prior alone gives a curvature of 1; less is an artefact of differences.
        covariance[size:, size:] = _inverse(curvature, least=1.0)
        return np.append(self._mode[:size], spread), covariance

    def _loss(self, log_spread: Floats) -> float:
        """Negative log density of the spreads, with all else integrated out."""
        spread = np.exp(log_spread)
        at, slope, information = self._at(self._mode, spread)
        for _ in range(_ROUNDS):
            move = np.linalg.solve(information, slope)
            scale = 1.0
            there = self._at(self._mode + move, spread)
            while there[0] < at - 1e-9 and scale > 1e-3:
                scale /= 2
                there = self._at(self._mode + scale * move, spread)
            self._mode = self._mode + scale * move
            (at, slope, information), before = there, at
            if abs(at - before) < 1e-6:
                break
        away = log_spread - np.log(_SPREAD)
        determinant = np.linalg.slogdet(information)[1]
        families = float(np.full(self._inside.shape[1], log_spread[0]).sum())
        return -(at - determinant / 2 - families - float(away @ away) / 2)

    def _at(self, point: Floats, spread: Floats) -> tuple[float, Floats, Floats]:
        """Log density of coefficients and effects of families, its slope, and its negative curvature."""
        size = self._coefficients
        coefficients, effects = point[:size], point[size:]
        odds = (self._design @ coefficients + (self._inside @ effects)[:, None])[..., None] + spread[-1] * self._nodes
        trials = self._trials[..., None]
        by_node = (self._hits[..., None] * odds - trials * np.logaddexp(0, odds)).sum(axis=1) + self._weights
        by_occupation: Floats = np.asarray(logsumexp(by_node, axis=1))
        weight = np.exp(by_node - by_occupation[:, None])[:, None, :]
        chance = expit(odds)
        residual = self._hits[..., None] - trials * chance
        mean = (residual * weight).sum(axis=2)
        # Negative curvature of each occupation's density in the log odds of its cells.
        bend = -np.einsum("ocu,odu->ocd", residual * weight, residual) + mean[:, :, None] * mean[:, None, :]
        cells = range(mean.shape[1])
        bend[:, cells, cells] += (trials * chance * (1 - chance) * weight).sum(axis=2)
        value = float(by_occupation.sum()) - float(coefficients @ coefficients) / (2 * _EFFECT_SD**2)
        precision = np.full(len(effects), 1 / spread[0] ** 2)
        value -= float(precision @ effects**2) / 2
        slope = np.concatenate(
            [
                np.einsum("oc,ocp->p", mean, self._design) - coefficients / _EFFECT_SD**2,
                mean.sum(axis=1) @ self._inside - precision * effects,
            ]
        )
        information = np.zeros((len(point), len(point)))
        bent = bend @ self._design
        information[:size, :size] = np.einsum("ocp,ocq->pq", self._design, bent) + np.eye(size) / _EFFECT_SD**2
        crossed = self._inside.T @ bent.sum(axis=1)
        information[size:, :size], information[:size, size:] = crossed, crossed.T
        weighted = self._inside * bend.sum(axis=(1, 2))[:, None]
        information[size:, size:] = self._inside.T @ weighted + np.diag(precision)
        return value, slope, information


def _inverse(curvature: Floats, *, least: float) -> Floats:
    """Inverse of a symmetric matrix whose eigenvalues cannot be less than a bound."""
    values, vectors = np.linalg.eigh(curvature)
    return (vectors / np.maximum(values, least)) @ vectors.T


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
        families = pd.factorize(occupations.str[:_FAMILY])[0]
        self._calibration = _Calibration(labels, pairs, np.asarray(families, dtype=np.intp))
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
            else "the expected score over repeated sampling; each task was asked once, so the variation of answers is unknown and set to its largest value"
        )
        if lacking := int((repeats == 0).sum()):
            self.estimand += f"; {lacking:,} tasks without a label are drawn like the labelled ones of their occupation"

    def _of_groups(self, mapped: ScoreMap, draws: int, rng: np.random.Generator) -> Iterable[list[Floats]]:
        if self.repeated:
            return super()._of_groups(mapped, draws, rng)
        # With one answer a task, the tasks of an occupation are drawn as one; a labelled one is shifted to its own label.
        shift = [
            mapped.shares @ np.nan_to_num(mapped.means(column)) for column in self._shift[:, 1:, 0].T.astype("float64")
        ]
        mixes = (self._mixes.draw(min(_CHUNK, draws - start), rng) for start in range(0, draws, _CHUNK))
        return (
            [mapped.shares @ drawn[:, label + 1] + moved[:, None] for label, moved in enumerate(shift)]
            for drawn in mixes
        )

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
