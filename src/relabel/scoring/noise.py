"""Models of label noise, which draw group scores.

Each model states what it estimates (`estimand`); an interval means nothing without that.

`ResponseNoise` estimates the score itself: its expected value if the run asked all tasks of the list again and again.
`Confusion` estimates the score that the labels of a gold would give, learned from tasks that both labelled. `Raters`
estimates the mean score over all raters, of which several runs are a sample.

Labels of unlabelled tasks are drawn from the distribution of labels in their occupation, shrunk towards related ones. This is
right if the labelled tasks were drawn at random, and otherwise assumes that the unlabelled tasks are similar. No model covers
errors in weights, bridges and pay: `relabel.scoring.multiverse` shows the effect of those choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, gammaln, logsumexp, stdtrit

from relabel.errors import DataError, UsageError
from relabel.run import Run, by_sample
from relabel.scoring.measures import Classes, Floats, Ints, ScoreMap, classes_of
from relabel.task import TASK_KEY

# Fewest tasks that a run and a gold must share.
MIN_PAIRS = 30
# Fewest raters for an interval: with two it would span the whole range from 0 to 1.
MIN_RATERS = 3
_MIN_SCORE = 0.02

_CHUNK = 100
# Characters of an O*NET-SOC code that name a family of occupations: its major group, such as `11`. Adding minor groups as
# a second level changed the coverage of GPT-4's intervals for the human scores by less than .02, at twenty times the cost.
_FAMILY_LENGTH = 2
# Characters of an O*NET-SOC code that name its SOC code, its broad, minor and major group, and all occupations.
_LEVEL_LENGTHS = (7, 6, 4, 2, 0)
_MIN_SHARE = 0.02
# Weight of the class shares over all occupations, as a number of tasks that is added to those of a group.
_PRIOR_TASKS = 10.0
# Prior standard deviation of a coefficient, in log odds.
_COEFFICIENT_SD = 2.5
# Prior median of the standard deviations between families and between the occupations of a family, in log odds; their
# logarithms have a standard deviation of 1.
_PRIOR_SD = 0.7
_QUADRATURE_NODES = 15
_MAX_NEWTON_STEPS = 50
_DIFFERENCE_STEP = 0.1


class _TaskNoise:
    """Noise in single tasks: draws of class shares, in chunks that bound memory."""

    classes: Classes

    def _task_parts(self, draws: int, rng: np.random.Generator) -> Iterator[list[npt.NDArray[np.float32]]]:
        """Yield chunks: for each class above the lowest, its share of each task (0-1); tasks x draws of the chunk."""
        raise NotImplementedError

    def draw(self, mapped: ScoreMap, draws: int, seed: int) -> Floats:
        """Draw scores.

        Args:
            mapped: The map from task values to scores.
            draws: Number of draws.
            seed: Seed; the same seed gives the same draws.

        Returns:
            Scores (0-1), measures (alpha, beta, gamma) x groups x draws; NaN where there is no score.
        """
        done: list[Floats] = []
        for parts in self._group_parts(mapped, draws, np.random.default_rng(seed)):
            above = [np.clip(part, 0, 1) for part in parts]
            by_class = np.stack([np.clip(1 - sum(above), 0, 1), *above])
            done.append(np.einsum("cm,cgd->mgd", self.classes.values, by_class))
        drawn = np.clip(np.concatenate(done, axis=2), 0, 1)
        drawn[:, ~mapped.reached] = np.nan
        return drawn

    def _group_parts(self, mapped: ScoreMap, draws: int, rng: np.random.Generator) -> Iterable[list[Floats]]:
        """Yield chunks: for each class above the lowest, its share of each group (0-1); groups x draws of the chunk."""
        return ([mapped.draw_scores(part) for part in parts] for parts in self._task_parts(draws, rng))


class _OccupationMixes:
    """Posterior distribution of the class shares (the mix of classes) in each occupation.

    Args:
        tasks: Columns `onet_soc_code, weight`.
        counts: Number of labels, tasks x classes; all 0 for a task without labels.

    Attributes:
        occupation: Occupation number of each task; tasks.
        mean: Posterior mean; occupations x classes.
    """

    def __init__(self, tasks: pd.DataFrame, counts: Floats) -> None:
        numbers, names = pd.factorize(tasks["onet_soc_code"], sort=True)
        self.occupation: Ints = np.asarray(numbers, dtype=np.intp)
        size = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, size, out=np.zeros_like(counts), where=size > 0)
        weight = np.where(size[:, 0] > 0, tasks["weight"].to_numpy(dtype="float64"), 0.0)
        mass, squares = (np.bincount(self.occupation, weights=w, minlength=len(names)) for w in (weight, weight**2))
        # Tasks are weighted as in the score; unequal weights reduce the effective number of tasks (Kish).
        effective = np.divide(mass, squares, out=np.zeros(len(names)), where=squares > 0)
        seen = _sum_rows(self.occupation, shares * weight[:, None], len(names)) * effective[:, None]
        # Sequential classes: above the lowest or not; if so, above the next or not.
        self._steps = [
            _ClassStep(np.stack([seen[:, step + 1 :].sum(axis=1), seen[:, step]], axis=1), pd.Index(names))
            for step in range(counts.shape[1] - 1)
        ]
        self.mean: Floats = _combine_steps([step.mean for step in self._steps])

    def draw(self, number: int, rng: np.random.Generator, wanted: Ints | None = None) -> Floats:
        """Draw class shares of all or the wanted occupations; occupations x classes x draws, sums to 1 over classes."""
        return _combine_steps([step.draw(number, rng, wanted)[:, 0] for step in self._steps])


class _ClassStep:
    """Hierarchical beta model of the share of labels above a class, by occupation.

    Each occupation is beta around its SOC code, which is beta around its broad group, and so on. Exposure is similar in
    neighbouring occupations; without these levels, groups of neighbours would seem more certain than they are.

    Args:
        seen: Number of labels above the class and in it; occupations x 2.
        codes: O*NET-SOC codes.
    """

    def __init__(self, seen: Floats, codes: pd.Index) -> None:
        self._levels: list[tuple[Ints, float, Floats]] = []
        for length in _LEVEL_LENGTHS:
            above, codes = pd.factorize(codes.str[:length])
            parent = np.asarray(above, dtype=np.intp)
            # Leave-one-out: if a unit's own labels were included, units would seem more alike than they are.
            every = _PRIOR_TASKS * (seen.sum(axis=0) + 0.5) / (seen.sum() + 1)
            others = _sum_rows(parent, seen, len(codes))[parent] - seen + every
            concentration = _concentration(others / others.sum(axis=1, keepdims=True), seen)
            self._levels.append((parent, concentration, seen))
            # Effective number of labels for the level above: larger if the units of this level are more alike.
            worth = (1 + concentration) / (seen.sum(axis=1, keepdims=True) + concentration)
            seen = _sum_rows(parent, seen * worth, len(codes))
        self._top = seen + 0.5

    @property
    def mean(self) -> Floats:
        """Expected share above the class; occupations."""
        mean = self._top
        for parent, concentration, own in reversed(self._levels):
            mean = concentration * _clip_shares(mean / mean.sum(axis=1, keepdims=True))[parent] + own
        return mean[:, 0] / mean.sum(axis=1)

    def draw(self, number: int, rng: np.random.Generator, wanted: Ints | None = None) -> Floats:
        """Draw shares above the class and in it, for all or the wanted occupations; occupations x 2 x draws."""
        needed: list[tuple[Ints, Ints]] = []
        index = np.arange(len(self._levels[0][0])) if wanted is None else wanted
        for parent, _, _ in self._levels:
            above, inside = np.unique(parent[index], return_inverse=True)
            needed.append((index, inside))
            index = above
        mix = _dirichlet(np.repeat(self._top[index][:, :, None], number, axis=2), rng)
        for (_, concentration, own), (index, inside) in zip(reversed(self._levels), reversed(needed), strict=True):
            mix = _dirichlet(concentration * _clip_shares(mix)[inside] + own[index][:, :, None], rng)
        return mix


def _combine_steps(shares_above: Sequence[Floats]) -> Floats:
    """Class shares from the shares above each class except the highest; classes become axis 1."""
    remaining, parts = np.ones_like(shares_above[0]), list[Floats]()
    for share in shares_above:
        parts.append(remaining * (1 - share))
        remaining = remaining * share
    return np.stack([*parts, remaining], axis=1)


def _sum_rows(where: Ints, rows: Floats, number: int) -> Floats:
    total = np.zeros((number, rows.shape[1]))
    np.add.at(total, where, rows)
    return total


def _clip_shares(shares: Floats) -> Floats:
    """Keep shares away from 0 and 1, which would make a class impossible or certain."""
    return np.clip(shares, _MIN_SHARE, 1 - _MIN_SHARE)


def _dirichlet(parameters: Floats, rng: np.random.Generator) -> Floats:
    drawn = rng.standard_gamma(np.maximum(parameters, 1e-3))
    return drawn / np.maximum(drawn.sum(axis=1, keepdims=True), 1e-300)


class _Calibration:
    """Probabilities of a gold label given a run's label, learned from tasks with both.

    A sequential logit: is the gold label above the lowest class; if so, is it above the next. Each step is a logistic
    regression on the run's own label and on the class shares of the run's labels in the occupation, with a random effect
    of each occupation, because errors are not independent: a rater that misjudges one task of an occupation tends to
    misjudge its others.

    The class shares matter: where nearly all tasks are labelled E0, another E0 is more often right. From the label alone,
    every occupation would get average errors, and the scores of extreme occupations would shrink to the middle.

    Args:
        labels: Number of tasks by label of the run; occupations x classes, lowest class first.
        pairs: Number of tasks that both labelled; occupations x labels of the run x labels of the gold.
        families: Family number of each occupation, from 0.
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

        Coefficients and standard deviations vary between draws, so a small gold gives wide intervals; so do the effects of
        families and occupations.

        Args:
            draws: Number of draws.
            rng: Random generator.

        Returns:
            Draws x occupations x classes of the run's label x classes of the gold's label; sums to 1 over the last axis.
        """
        occupations, classes = len(self._families), len(self._steps) + 1
        drawn = np.empty((draws, occupations, classes, classes), dtype=np.float32)
        remaining = np.ones((draws, occupations, classes))
        for number, (mode, covariance) in enumerate(self._steps):
            parameters = rng.multivariate_normal(mode, covariance, size=draws, method="eigh")
            spread = np.exp(parameters[:, -2:])
            shift = rng.standard_normal((draws, occupations)) * spread[:, 1:]
            shift += (rng.standard_normal((draws, int(self._families.max()) + 1)) * spread[:, :1])[:, self._families]
            above = expit(np.einsum("olp,dp->dol", self._design, parameters[:, :-2]) + shift[:, :, None])
            drawn[..., number] = remaining * (1 - above)
            remaining *= above
        drawn[..., classes - 1] = remaining
        return drawn


class _Regression:
    """One step of `_Calibration`: a logistic regression with random intercepts of families and of occupations within them.

    The effects of occupations, some with only one or two tasks, are integrated out by Gauss-Hermite quadrature; those of
    families, together with the coefficients, by Laplace's method, because the posterior of a large family is too narrow
    for the quadrature nodes.

    Args:
        design: Occupations x cells x coefficients.
        hits: Occupations x cells.
        trials: Occupations x cells.
        families: Family number of each occupation.
    """

    def __init__(self, design: Floats, hits: Floats, trials: Floats, families: Ints) -> None:
        seen = trials.sum(axis=1) > 0
        self._design, self._hits, self._trials = design[seen], hits[seen], trials[seen]
        self._family = (families[seen][:, None] == np.unique(families[seen])).astype("float64")
        self._coefficients = design.shape[2]
        self._mode = np.zeros(self._coefficients + self._family.shape[1])
        nodes, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE_NODES)
        self._nodes, self._weights = nodes, np.log(weights / weights.sum())

    def posterior(self) -> tuple[Floats, Floats]:
        """Posterior mode and covariance of the coefficients and the log standard deviations."""
        from scipy import optimize

        start = np.full(2, np.log(_PRIOR_SD))
        spread = optimize.minimize(self._loss, start, method="Nelder-Mead", options={"xatol": 0.03, "fatol": 0.03}).x
        curvature = np.empty((2, 2))
        for row, one in enumerate(_DIFFERENCE_STEP * np.eye(2)):
            for column, other in enumerate(_DIFFERENCE_STEP * np.eye(2)):
                corners = [(1, 1), (-1, -1), (1, -1), (-1, 1)]
                values = [self._loss(spread + up * one + right * other) for up, right in corners]
                curvature[row, column] = (values[0] + values[1] - values[2] - values[3]) / (4 * _DIFFERENCE_STEP**2)
        self._loss(spread)
        _, _, information = self._log_density(self._mode, np.exp(spread))
        size = self._coefficients
        covariance = np.zeros((size + 2, size + 2))
        covariance[:size, :size] = _inverse(information, least=1 / _COEFFICIENT_SD**2)[:size, :size]
        # The prior alone has curvature 1; less is an artefact of finite differences.
        covariance[size:, size:] = _inverse(curvature, least=1.0)
        return np.append(self._mode[:size], spread), covariance

    def _loss(self, log_spread: Floats) -> float:
        """Negative log posterior density of the log standard deviations, with all other parameters integrated out."""
        spread = np.exp(log_spread)
        density, slope, information = self._log_density(self._mode, spread)
        for _ in range(_MAX_NEWTON_STEPS):
            step = np.linalg.solve(information, slope)
            scale = 1.0
            trial = self._log_density(self._mode + step, spread)
            while trial[0] < density - 1e-9 and scale > 1e-3:
                scale /= 2
                trial = self._log_density(self._mode + scale * step, spread)
            self._mode = self._mode + scale * step
            (density, slope, information), before = trial, density
            if abs(density - before) < 1e-6:
                break
        deviation = log_spread - np.log(_PRIOR_SD)
        determinant = np.linalg.slogdet(information)[1]
        families = float(np.full(self._family.shape[1], log_spread[0]).sum())
        return -(density - determinant / 2 - families - float(deviation @ deviation) / 2)

    def _log_density(self, point: Floats, spread: Floats) -> tuple[float, Floats, Floats]:
        """Log density of coefficients and family effects, its gradient, and its negative Hessian."""
        size = self._coefficients
        coefficients, effects = point[:size], point[size:]
        odds = (self._design @ coefficients + (self._family @ effects)[:, None])[..., None] + spread[-1] * self._nodes
        trials = self._trials[..., None]
        by_node = (self._hits[..., None] * odds - trials * np.logaddexp(0, odds)).sum(axis=1) + self._weights
        by_occupation: Floats = np.asarray(logsumexp(by_node, axis=1))
        weight = np.exp(by_node - by_occupation[:, None])[:, None, :]
        probability = expit(odds)
        residual = self._hits[..., None] - trials * probability
        mean = (residual * weight).sum(axis=2)
        # Negative Hessian of each occupation's log density in the log odds of its cells.
        curvature = -np.einsum("ocu,odu->ocd", residual * weight, residual) + mean[:, :, None] * mean[:, None, :]
        cells = range(mean.shape[1])
        curvature[:, cells, cells] += (trials * probability * (1 - probability) * weight).sum(axis=2)
        value = float(by_occupation.sum()) - float(coefficients @ coefficients) / (2 * _COEFFICIENT_SD**2)
        precision = np.full(len(effects), 1 / spread[0] ** 2)
        value -= float(precision @ effects**2) / 2
        slope = np.concatenate(
            [
                np.einsum("oc,ocp->p", mean, self._design) - coefficients / _COEFFICIENT_SD**2,
                mean.sum(axis=1) @ self._family - precision * effects,
            ]
        )
        information = np.zeros((len(point), len(point)))
        curved = curvature @ self._design
        information[:size, :size] = np.einsum("ocp,ocq->pq", self._design, curved) + np.eye(size) / _COEFFICIENT_SD**2
        crossed = self._family.T @ curved.sum(axis=1)
        information[size:, :size], information[:size, size:] = crossed, crossed.T
        by_family = self._family * curvature.sum(axis=(1, 2))[:, None]
        information[size:, size:] = self._family.T @ by_family + np.diag(precision)
        return value, slope, information


def _inverse(curvature: Floats, *, least: float) -> Floats:
    """Inverse of a symmetric matrix, its eigenvalues raised to at least a bound."""
    values, vectors = np.linalg.eigh(curvature)
    return (vectors / np.maximum(values, least)) @ vectors.T


class Confusion(_TaskNoise):
    """Label errors measured against a gold.

    It draws the score that the gold's labels would give, predicted from the run's labels alone: gold labels train the model
    but do not replace its predictions. Draws are centred on the bias-corrected score.

    Args:
        run: The run.
        gold: The gold, ideally on a random sample of the tasks that the run labelled.
        tasks: `ScoreTable.task_values`.

    Raises:
        DataError: Run and gold share too few tasks, or the gold lacks a reading that the run has.
    """

    name = "confusion"

    def __init__(self, run: Run, gold: Run, tasks: pd.DataFrame) -> None:
        self.classes = classes_of(run)
        run_labels, gold_labels = run.coded(), gold.coded()
        if gold_labels[list(self.classes.readings)].isna().all().any():
            raise DataError(
                f"the gold {gold.name} lacks a reading that {run.name} has; give a gold with both with --gold"
            )
        run_labels = run_labels.assign(label=self.classes.numbers(run_labels))[[*TASK_KEY, "label"]].query("label >= 0")
        gold_labels = gold_labels.assign(gold=self.classes.numbers(gold_labels))[[*TASK_KEY, "gold"]].query("gold >= 0")
        joint = run_labels.merge(gold_labels, on=TASK_KEY)
        if len(joint) < MIN_PAIRS:
            raise DataError(
                f"the gold {gold.name} shares {len(joint):,} labelled tasks with {run.name}, and it takes at least "
                f"{MIN_PAIRS} to learn how labels err; give another with --gold, or other noise with --noise"
            )
        occupations = pd.Index(sorted(set(run_labels["onet_soc_code"]) | set(tasks["onet_soc_code"])))
        count = len(self.classes.values)
        labels, pairs = np.zeros((len(occupations), count)), np.zeros((len(occupations), count, count))
        np.add.at(labels, (occupations.get_indexer(pd.Index(run_labels["onet_soc_code"])), run_labels["label"]), 1)
        where = occupations.get_indexer(pd.Index(joint["onet_soc_code"]))
        np.add.at(pairs, (where, joint["label"], joint["gold"]), 1)
        families = pd.factorize(occupations.str[:_FAMILY_LENGTH])[0]
        self._calibration = _Calibration(labels, pairs, np.asarray(families, dtype=np.intp))
        self._occupation = occupations.get_indexer(pd.Index(tasks["onet_soc_code"]))
        self._label = np.where(tasks["labelled"], self.classes.numbers(tasks), -1)
        self._mixes = _OccupationMixes(tasks, np.eye(count)[self._label] * (self._label >= 0)[:, None])
        self.gold, self.labels_of = gold, gold.ref
        self.estimand = (
            f"the score that the labels of {gold.name} would give, learned from {len(joint):,} tasks that both labelled"
        )

    def _task_parts(self, draws: int, rng: np.random.Generator) -> Iterator[list[npt.NDArray[np.float32]]]:
        chances = self._calibration.draw(draws, rng)
        lacking = np.flatnonzero(self._label < 0)
        classes = len(self.classes.values)
        cell = self._occupation * classes + self._label
        occupations, row_of_task = np.unique(self._mixes.occupation[lacking], return_inverse=True)
        for start in range(0, draws, _CHUNK):
            chunk = chances[start : start + _CHUNK].cumsum(axis=3)
            number = len(chunk)
            shares = self._mixes.draw(number, rng, occupations).cumsum(axis=1)[row_of_task]
            guessed = (rng.random((len(lacking), 1, number)) >= shares[:, :-1]).sum(axis=1)
            chance = rng.random((len(self._label), number), dtype=np.float32)
            # Inverse transform sampling: class c if the random number is between the cumulative probabilities of c-1 and c.
            passed_by_class: list[npt.NDArray[np.bool_]] = []
            for below in range(classes - 1):
                cells = np.ascontiguousarray(chunk[..., below].reshape(number, -1).T)
                bound = cells[np.maximum(cell, 0)]
                bound[lacking] = chunk[np.arange(number), self._occupation[lacking][:, None], guessed, below]
                passed_by_class.append(chance >= bound)
            yield [
                (above & ~passed_by_class[step + 1] if step + 1 < len(passed_by_class) else above).astype(np.float32)
                for step, above in enumerate(passed_by_class)
            ]


class ResponseNoise(_TaskNoise):
    """The expected score of the run itself, if it asked all tasks of the list again and again.

    Each task has its own distribution over classes, and its samples are draws of that distribution. The distribution is drawn
    from its posterior, a Dirichlet distribution around the class shares of the occupation, whose concentration is estimated
    from the run: if samples of a task mostly agree, five equal answers leave little room for another.

    With one answer per task, the variation of answers is unknown and set close to its largest value, as if tasks of an
    occupation differed by chance alone. Such an interval is too wide rather than too narrow, except where they do differ so.

    Args:
        run: The run.
        tasks: `ScoreTable.task_values`.
    """

    def __init__(self, run: Run, tasks: pd.DataFrame) -> None:
        self.classes = classes_of(run)
        coded = by_sample(run)
        label = self.classes.numbers(coded)
        counted = coded.loc[label >= 0, TASK_KEY].assign(label=label[label >= 0])
        counted = counted.value_counts([*TASK_KEY, "label"]).unstack(fill_value=0)
        counted = counted.reindex(columns=range(len(self.classes.values)), fill_value=0)
        keys = pd.MultiIndex.from_frame(tasks[TASK_KEY])
        counts = counted.reindex(keys, fill_value=0).to_numpy(dtype="float64")
        self._counts = counts * tasks["labelled"].to_numpy(dtype=bool)[:, None]
        repeats = self._counts.sum(axis=1)
        self._mixes = _OccupationMixes(tasks, self._counts)
        self.repeated = bool(repeats.max(initial=0) > 1)
        self._within = 0.0
        if self.repeated:
            self._within = _concentration(self._mixes.mean[self._mixes.occupation], self._counts)
        expected = self._mixes.mean[self._mixes.occupation]
        stretch = np.ones(len(tasks))
        has, size = repeats > 0, np.maximum(repeats, 1)[:, None]
        if self.repeated:
            expected = (self._within * expected + self._counts) / (self._within + repeats[:, None])
            # Widen the draws: the mean of a task's own labels varies more than its shrunken posterior.
            stretch[has] = np.sqrt((repeats[has] + self._within) / repeats[has])
        shift = np.where(has[:, None], self._counts / size - expected * stretch[:, None], 0.0)
        self._stretch = stretch.astype(np.float32)[:, None, None]
        self._shift = shift.astype(np.float32)[:, :, None]
        self.name = "repeats" if self.repeated else "single"
        asked = repeats[repeats > 0]
        self.estimand = (
            f"the expected score over repeated sampling, from {np.median(asked):.0f} samples a task"
            if self.repeated
            else "the expected score over repeated sampling; each task was asked once, so the variation of answers is unknown and set close to its largest value"
        )
        if lacking := int((repeats == 0).sum()):
            self.estimand += f"; {lacking:,} tasks without a label are drawn like the labelled ones of their occupation"

    def _group_parts(self, mapped: ScoreMap, draws: int, rng: np.random.Generator) -> Iterable[list[Floats]]:
        if self.repeated:
            return super()._group_parts(mapped, draws, rng)
        # With one answer per task, draw the tasks of an occupation together, and centre labelled ones on their own label.
        shift = [
            mapped.shares @ np.nan_to_num(mapped.means(column)) for column in self._shift[:, 1:, 0].T.astype("float64")
        ]
        mixes = (self._mixes.draw(min(_CHUNK, draws - start), rng) for start in range(0, draws, _CHUNK))
        return (
            [mapped.shares @ drawn[:, label + 1] + moved[:, None] for label, moved in enumerate(shift)]
            for drawn in mixes
        )

    def _task_parts(self, draws: int, rng: np.random.Generator) -> Iterator[list[npt.NDArray[np.float32]]]:
        for start in range(0, draws, _CHUNK):
            drawn = self._mixes.draw(min(_CHUNK, draws - start), rng)[self._mixes.occupation]
            drawn = _sparse_dirichlet(self._within * drawn + self._counts[:, :, None], rng)
            # Centre labelled tasks on their own labels, as the score is, and not on their posterior mean.
            drawn = drawn.astype(np.float32) * self._stretch + self._shift
            yield [np.ascontiguousarray(drawn[:, label]) for label in range(1, drawn.shape[1])]


def _sparse_dirichlet(shapes: Floats, rng: np.random.Generator) -> Floats:
    """Draw Dirichlet shares along axis 1, in logarithms, because gamma variates with a shape near 0 underflow."""
    shapes = np.maximum(shapes, 1e-12)
    logs = np.log(rng.standard_gamma(shapes + 1)) - rng.standard_exponential(shapes.shape) / shapes
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def _concentration(centre: Floats, counts: Floats) -> float:
    """Maximum-likelihood concentration of Dirichlet-multinomial counts around known centres, with a weak prior."""
    from scipy import optimize

    size = counts.sum(axis=1)

    def loss(log_concentration: float) -> float:
        total = float(np.exp(log_concentration))
        alpha = total * centre
        rows = (gammaln(alpha + counts) - gammaln(alpha)).sum(axis=1) + gammaln(total) - gammaln(total + size)
        # The prior decides if all labels are equal and the likelihood is flat.
        return ((log_concentration - np.log(5.0)) / 1.5) ** 2 / 2 - float(rows.sum())

    optimum = optimize.minimize_scalar(loss, bounds=(np.log(0.01), np.log(1000.0)), method="bounded")
    return float(np.exp(optimum.x))


class Raters:
    """Differences between raters.

    Each rater errs systematically over all tasks, so the rater is the sampling unit: a few raters say little, however many
    tasks they labelled. Draws are t-distributed around the pooled score (the mean over raters), with one degree of freedom
    fewer than raters, jointly for all groups; clipped to 0-1.

    A few raters can agree on a group by chance, especially where exposure is low. The variance of a group is therefore the
    mean of two: its own variance between raters, and the one typical for its score, `typical` times score x (1 - score).

    Args:
        names: Names of the raters.
        scores: Their scores; raters x measures x groups, NaN where a rater gives none.
        error: Standard errors of task sampling (measures x groups), if the draws should include it.
        joint: Whether the draws are for figures of many groups, as a regression: what the raters have in common over groups
            then keeps its whole variance, because the typical variance, drawn by group, cancels out there.

    Raises:
        UsageError: There are fewer than `MIN_RATERS`.
    """

    name = "raters"

    def __init__(
        self, names: Sequence[str], scores: Floats, error: Floats | None = None, *, joint: bool = False
    ) -> None:
        if len(names) < MIN_RATERS:
            raise UsageError(
                f"an interval over raters needs {MIN_RATERS} or more, and these are {len(names)}; name others with --rater RUN"
            )
        self.names, self.scores, self.error, self.joint = tuple(names), scores, error, joint
        self.labels_of = ", ".join(names)
        self.estimand = f"the mean score over raters like these {len(names)} ({', '.join(names)})"

    @cached_property
    def pooled(self) -> Floats:
        """Mean over raters; measures x groups, NaN where a rater gives no score."""
        return self.scores.mean(axis=0)

    def half_width(self, weights: Floats, measure: int, error: float) -> float:
        """Half the 95% t interval of a weighted sum over groups (weights 0 where a rater has no score).

        `error` is its standard error from the sampling of tasks, which is normal and independent of the raters.
        """
        sums = np.nan_to_num(self.scores[:, measure]) @ weights
        between = stdtrit(len(sums) - 1, 0.975) * sums.std(ddof=1) / np.sqrt(len(sums))
        return float(np.hypot(between, 1.96 * error))

    def draw(self, mapped: ScoreMap | None, draws: int, seed: int) -> Floats:
        """Draw scores, as the other models do; the map is not used."""
        rng, count = np.random.default_rng(seed), len(self.names)
        deviation = self.scores - self.pooled
        # Keep some variance even if all raters agree on 0 or 1.
        centre = np.clip(self.pooled, _MIN_SCORE, 1 - _MIN_SCORE)
        spread = centre * (1 - centre)
        own = (deviation**2).sum(axis=0) / (count - 1)
        typical = np.nansum(own, axis=1) / np.maximum(np.nansum(np.where(np.isnan(own), np.nan, spread), axis=1), 1e-12)
        # The sum over raters of (score - pooled) x normal has the covariance of the raters' scores times (count - 1).
        normal = rng.standard_normal((count, draws))
        scale = np.sqrt(count - 1) / np.sqrt(rng.chisquare(count - 1, size=draws))
        between = np.einsum("rmg,rd->mgd", deviation, normal) / np.sqrt((1 if self.joint else 2) * count * (count - 1))
        extra = rng.standard_normal((*own.shape, draws)) * np.sqrt(typical[:, None] * spread / (2 * count))[:, :, None]
        drawn = self.pooled[:, :, None] + scale * (between + extra)
        if self.error is not None:
            drawn += self.error[:, :, None] * rng.standard_normal(drawn.shape)
        return np.clip(drawn, 0, 1)


# A model of label noise, with its `name`, its `estimand` (what the draws estimate, in words) and `draw`.
Noise = ResponseNoise | Confusion | Raters
