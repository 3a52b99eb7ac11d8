"""Metrics of unlabelled streams: pure functions of a `StreamRecord`, beside those of `metrics.py`.

e_i is the share of wrong answers to the rows of experience i, given before they were learned from; T experiences come
in n rounds. What was not measured is NaN and left out of a summary.
"""

from __future__ import annotations

import math

from cl_framework.metric_plugins import metric
from cl_framework.record import StreamRecord

_WANG = "Wang et al. 2022, Continual Test-Time Domain Adaptation (CVPR), section 4"


@metric(name="online_error", axis="drift", higher_is_better=False, formula="mean_{i<k} e_i", source=_WANG)
def online_error(record: StreamRecord) -> float:
    """Share of wrong answers given while the stream goes by, the mean over its experiences."""
    return float(1 - record.online[: max(record.n_done, 1)].mean())


@metric(name="source_forgetting", axis="stability", higher_is_better=False, formula="R[-1, 0] - R[k-1, k-1]",
        source="Niu et al. 2022, Efficient Test-Time Model Adaptation without Forgetting (ICML), section 4.2")
def source_forgetting(record: StreamRecord) -> float:
    """Accuracy on clean rows that adapting cost; R[-1, 0] is the accuracy before. Of unlabelled streams alone."""
    if record.calibration.isnan().all() or not record.n_done:
        return math.nan
    return float(record.initial[0] - record.accuracy[record.n_done - 1, record.n_done - 1])


@metric(name="collapse", axis="stability", higher_is_better=False,
        formula="mean_i e_i of the last round - mean_i e_i of the first",
        source="Press et al. 2023, RDumb: A simple approach that questions our progress in continual test-time "
               "adaptation (NeurIPS), section 4")
def collapse(record: StreamRecord) -> float:
    """How much the online error has grown when the same experiences have come round several times."""
    size = record.n_experiences // record.n_rounds
    if record.n_rounds < 2 or record.n_done < 2 * size:
        return math.nan
    last = record.n_done // size - 1
    return float(record.online[:size].mean() - record.online[last * size: (last + 1) * size].mean())


@metric(name="calibration_error", axis="calibration", higher_is_better=False,
        formula="mean_{i<k} sum_m |B_m| / n |acc(B_m) - conf(B_m)|, 15 bins",
        source="Guo et al. 2017, On Calibration of Modern Neural Networks (ICML), equation 3")
def calibration_error(record: StreamRecord) -> float:
    """Expected calibration error of the answers given while the stream goes by, the mean over its experiences."""
    return float(record.calibration[: max(record.n_done, 1)].mean())


@metric(name="seconds_per_batch", axis="cost", higher_is_better=False,
        formula="sum_{i<k} seconds[i] / sum_{i<k} batches[i]", source="wall-clock time of training, without evaluation")
def seconds_per_batch(record: StreamRecord) -> float:
    """Time that answering a batch and adapting to it takes. Of unlabelled streams alone."""
    return float(record.seconds[: record.n_done].sum() / record.batches[: record.n_done].sum())
