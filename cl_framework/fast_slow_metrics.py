"""What is asked of fast and slow weights beside accuracy: pure functions of curves and of finished measurements.

    efficiency      samples until the baseline first has its own peak / samples until the method first has that value
    asymptote       R(C) = R_0 + (A - R_0) / (1 + (C_mid / C)^B); A is where a curve would end
    channels        accuracy of {base, trained weights} x {seed, evolved prompt}: which of both carries a gain
    continual       100 (a - a_0) / (best of all methods in the stage - a_0), a_0 when the stage began
    plasticity      what a fresh run on the next task reaches from weights that have learned this one

Tiwari et al., "Learning, Fast and Slow", 2026, arXiv 2605.12484, section 4; the curve is that of Khatri et al. 2025,
arXiv 2510.13786. That a normalised accuracy counts from where its stage began is read off the paper's figures, and an
assumption. Samples are problems that slow steps learned from; replies that prompts were judged by do not count among
them, so a ratio of samples is to be read beside one of all replies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

Curve = Sequence[tuple[float, float]]
"""Pairs of a cost and the accuracy there, in the order of cost."""


def running_peak(curve: Curve) -> list[tuple[float, float]]:
    """The best accuracy up to each cost.

    >>> running_peak([(1, 0.2), (2, 0.1), (3, 0.4)])
    [(1, 0.2), (2, 0.2), (3, 0.4)]
    """
    best, found = -math.inf, []
    for cost, value in curve:
        best = max(best, value)
        found.append((cost, best))
    return found


def reached_at(curve: Curve, value: float) -> float:
    """The cost at which a curve first has a value, linear between its points; infinite where it never has.

    >>> reached_at([(0, 0.0), (10, 1.0)], 0.5), reached_at([(0, 0.0)], 0.5)
    (5.0, inf)
    """
    before: tuple[float, float] | None = None
    for cost, height in curve:
        if height >= value:
            if before is None or height == before[1]:
                return float(cost)
            return before[0] + (cost - before[0]) * (value - before[1]) / (height - before[1])
        before = (cost, height)
    return math.inf


def efficiency(method: Curve, baseline: Curve) -> float:
    """How many times fewer samples a method needs for the baseline's peak; 0 where it never gets there.

    >>> efficiency([(0, 0.0), (10, 0.8)], [(0, 0.0), (20, 0.4), (40, 0.3)])
    4.0
    """
    peak = max(value for _, value in baseline)
    own = reached_at(running_peak(method), peak)
    if own == 0:
        return math.inf
    return reached_at(running_peak(baseline), peak) / own


@dataclass(frozen=True)
class Saturation:
    """A fitted curve R(C) = start + (asymptote - start) / (1 + (midpoint / C)^exponent)."""

    asymptote: float
    start: float
    midpoint: float
    exponent: float

    def at(self, cost: float) -> float:
        """R(C); its start where nothing was spent."""
        if cost <= 0:
            return self.start
        return self.start + (self.asymptote - self.start) / (1 + math.pow(self.midpoint / cost, self.exponent))


def saturation(curve: Curve) -> Saturation | None:
    """The curve of least squares through at least five points; None where there are fewer, or they do not differ.

    Midpoint and exponent are fitted as logarithms from several beginnings, so that both stay positive.
    """
    points = [(float(cost), float(value)) for cost, value in curve if cost > 0]
    costs, values = np.array([cost for cost, _ in points]), np.array([value for _, value in points])
    if len(points) < 5 or np.ptp(values) < 1e-12:
        return None

    def residuals(fitted: np.ndarray) -> np.ndarray:
        top, start, middle, power = fitted
        rise = 1 / (1 + np.exp(np.clip(np.exp(power) * (middle - np.log(costs)), -50, 50)))
        return np.asarray(start + (top - start) * rise - values)

    begins = [(values.max(), values.min(), float(np.log(np.quantile(costs, q))), power)
              for q in (0.25, 0.5, 0.75) for power in (0.0, 1.0)]
    fits = [least_squares(residuals, begin, xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=200) for begin in begins]
    top, start, middle, power = min(fits, key=lambda fit: float(fit.cost)).x
    return Saturation(float(top), float(start), math.exp(middle), math.exp(power))


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Accuracy by weights and prompt.

    Attributes:
        base_seed, base_evolved: of the weights before the stream, under the seed prompt and under the evolved one.
        trained_seed, trained_evolved: of the trained weights.
    """

    base_seed: float
    base_evolved: float
    trained_seed: float
    trained_evolved: float

    @property
    def slow(self) -> float:
        """What the weights add under the seed prompt."""
        return self.trained_seed - self.base_seed

    @property
    def fast(self) -> float:
        """What the prompt adds before the base weights."""
        return self.base_evolved - self.base_seed

    @property
    def together(self) -> float:
        """What both add beyond the sum of each."""
        return self.trained_evolved - self.trained_seed - self.base_evolved + self.base_seed


def channels(measure: Callable[[bool, bool], float]) -> Channels:
    """The table of four measurements.

    Args:
        measure: the accuracy, given whether the weights are the trained ones and whether the prompt is the evolved.
    """
    return Channels(base_seed=measure(False, False), base_evolved=measure(False, True),
                    trained_seed=measure(True, False), trained_evolved=measure(True, True))


def continual(accuracy: float, start: float, peak: float) -> float:
    """An accuracy in one stage, 0 where its method began it and 100 at the stage's peak over all methods; NaN where
    none has risen above that beginning.

    >>> continual(0.25, 0.125, 0.625)
    25.0
    """
    return 100 * (accuracy - start) / (peak - start) if peak > start else math.nan


@dataclass(frozen=True)
class Plasticity:
    """What a fresh run reaches: its last accuracy and its best one."""

    final: float
    peak: float


def plasticity(curves: Mapping[str, Curve]) -> dict[str, Plasticity]:
    """What fresh runs on one task reach, by what their weights had learned before."""
    return {name: Plasticity(curve[-1][1], max(value for _, value in curve)) for name, curve in curves.items()}
