"""Metrics of language streams: pure functions of a `StreamRecord`, beside those of `metrics.py`.

L[i, j] is the mean -log p of a token of the held-out texts of experience j after learning experience i, in nats; rows
and columns as R's. Where a stream has problems and a judge, R[i, j] is the mean reward, and no metric of its own is
needed: `average_accuracy` is the average reward.
"""

from __future__ import annotations

import math

from torch import Tensor

from cl_framework.metric_plugins import metric
from cl_framework.record import StreamRecord


def _done(record: StreamRecord) -> Tensor:
    """The rows of L that are in, [k, T]; k >= 1, one row of NaN when none is."""
    return record.loss[: max(record.n_done, 1)]


@metric(name="perplexity", axis="stability", higher_is_better=False, is_share=False,
        formula="exp(mean_{j<k} L[k-1, j])",
        source="Jelinek et al. 1977, Perplexity: a measure of the difficulty of speech recognition tasks (JASA 62)")
def perplexity(record: StreamRecord) -> float:
    """Perplexity over all experiences so far, after the last of them: exp(mean_{j<k} L[k-1, j]); each experience counts
    once. Absent without texts.

    >>> record = StreamRecord(n_experiences=1)
    >>> record.accuracy[0, 0], record.loss[0, 0] = 0.5, math.log(8.0)
    >>> round(perplexity(record), 6)
    8.0
    """
    done = _done(record)
    return _exp(float(done[-1, : len(done)].mean()))


@metric(name="perplexity_increase", axis="stability", higher_is_better=False, is_share=False,
        formula="exp(mean_{j<k-1} (L[k-1, j] - L[j, j]))",
        source="backward transfer (Lopez-Paz and Ranzato 2017), of losses and as a factor")
def perplexity_increase(record: StreamRecord) -> float:
    """The factor by which later learning changed the perplexity of the old: exp(mean_{j<k-1} (L[k-1, j] - L[j, j])),
    above 1 for forgetting; absent for k = 1.

    >>> record = StreamRecord(n_experiences=2)
    >>> record.accuracy[1, 1] = 0.5
    >>> record.loss[0, 0], record.loss[1, 0] = math.log(4.0), math.log(6.0)
    >>> round(perplexity_increase(record), 6)
    1.5
    """
    done = _done(record)
    return _exp(float((done[-1, : len(done) - 1] - done.diagonal()[: len(done) - 1]).mean()))


def _exp(loss: float) -> float:
    """exp, NaN where a mean is so high that no float holds it."""
    return math.exp(loss) if loss < 700 else math.nan
