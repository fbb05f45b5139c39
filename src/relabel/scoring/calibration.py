"""What a gold label is likely to be, given a run's label: learned where both are known, predicted everywhere.

The classes of a label are ordered by exposure and taken apart step by step: is the gold label above the lowest class; if
so, is it above the next. Each step is a logistic regression on the run's own label and on the mix of the run's labels in
the occupation, with a random effect for each occupation, because mistakes are not independent: a rater that misjudges one
task of an occupation misjudges its neighbours too.

The mix of labels matters. From the label alone every occupation would be given the errors of the average one, and all
extreme occupations would move to the middle: where nearly all tasks are labelled E0, another E0 is more often right.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logsumexp

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

_EFFECT_SD = 2.5
"""Prior standard deviation of a coefficient, in log odds."""
_SPREAD = 0.7
"""Prior median of the standard deviations between families and between the occupations of one, in log odds; their logarithms
have a standard deviation of 1."""
_NODES = 15
_ROUNDS = 50
_WIDTH = 0.1


class Calibration:
    """From a run's labels to the probabilities of gold labels.

    Args:
        labels: Number of tasks by occupation and label of the run; occupations by classes, lowest class first.
        pairs: Number of tasks that both labelled, by occupation, label of the run and label of the gold.
        families: For each level, widest first, the number of each occupation's family, from 0; levels by occupations.
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
            _Step(
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
        occupations, classes = self._families.shape[1], len(self._steps) + 1
        drawn = np.empty((draws, occupations, classes, classes), dtype=np.float32)
        left = np.ones((draws, occupations, classes))
        for number, (mode, covariance) in enumerate(self._steps):
            parameters = rng.multivariate_normal(mode, covariance, size=draws, method="eigh")
            spreads = len(self._families) + 1
            spread = np.exp(parameters[:, -spreads:])
            shift = rng.standard_normal((draws, occupations)) * spread[:, -1:]
            for level, family in enumerate(self._families):
                shift += (rng.standard_normal((draws, int(family.max()) + 1)) * spread[:, [level]])[:, family]
            above = expit(np.einsum("olp,dp->dol", self._design, parameters[:, :-spreads]) + shift[:, :, None])
            drawn[..., number] = left * (1 - above)
            left *= above
        drawn[..., classes - 1] = left
        return drawn


class _Step:
    """One step: a logistic regression with random intercepts of families and of the occupations in them.

    The effects of occupations, which may have a task or two, are integrated out by Gauss-Hermite quadrature; those of
    families, together with the coefficients, by Laplace's method, because a large family would fall between the nodes.

    Args:
        design: Occupations by cells by coefficients.
        hits: Occupations by cells.
        trials: Occupations by cells.
        families: For each level, the number of each occupation's family; levels by occupations.
    """

    def __init__(self, design: Floats, hits: Floats, trials: Floats, families: Ints) -> None:
        seen = trials.sum(axis=1) > 0
        self._design, self._hits, self._trials = design[seen], hits[seen], trials[seen]
        # Which family of which level each occupation is in, as columns of 0 and 1.
        inside = [level[seen][:, None] == np.unique(level[seen]) for level in families]
        self._inside = np.concatenate(inside, axis=1).astype("float64")
        self._level = np.repeat(np.arange(len(inside)), [one.shape[1] for one in inside])
        self._coefficients = design.shape[2]
        self._mode = np.zeros(self._coefficients + len(self._level))
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        self._nodes, self._weights = nodes, np.log(weights / weights.sum())

    def posterior(self) -> tuple[Floats, Floats]:
        """What the labels say of the coefficients and of the logs of the spreads: mode and covariance."""
        from scipy import optimize

        spreads = int(self._level.max()) + 2
        start = np.full(spreads, np.log(_SPREAD))
        spread = optimize.minimize(self._loss, start, method="Nelder-Mead", options={"xatol": 0.03, "fatol": 0.03}).x
        curvature = np.empty((spreads, spreads))
        for row, one in enumerate(_WIDTH * np.eye(spreads)):
            for column, other in enumerate(_WIDTH * np.eye(spreads)):
                corners = [(1, 1), (-1, -1), (1, -1), (-1, 1)]
                values = [self._loss(spread + up * one + right * other) for up, right in corners]
                curvature[row, column] = (values[0] + values[1] - values[2] - values[3]) / (4 * _WIDTH**2)
        of_spread = _inverse(curvature, least=1.0)  # the prior alone gives 1; less is an artefact of differences
        self._loss(spread)
        _, _, information = self._at(self._mode, np.exp(spread))
        size = self._coefficients
        covariance = np.zeros((size + spreads, size + spreads))
        covariance[:size, :size] = _inverse(information, least=1 / _EFFECT_SD**2)[:size, :size]
        covariance[size:, size:] = of_spread
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
        return -(at - determinant / 2 - float(log_spread[self._level].sum()) - float(away @ away) / 2)

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
        precision = 1 / spread[self._level] ** 2
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
