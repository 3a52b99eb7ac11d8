"""What guessing gives: the number that a failed run counts as, for every metric that is an accuracy.

Whoever guesses among k classes is right once in k. After experience i these are the classes seen so far, where the
task is told those of experience j alone:

    R[i, j] = 1 / |C_0 u ... u C_i|,   with task labels   R[i, j] = 1 / |C_j|

(van de Ven and Tolias 2019, Three Scenarios for Continual Learning). Of texts it is what their test set says: whoever
guesses words gets no reward, and one of four ends is right by chance. The chance level of a metric is what it makes of
this record. Differences of accuracies, errors and costs have none that a failed run could count as: guessing forgets
little and costs nothing.
"""

from __future__ import annotations

import math

import torch

from cl_framework.metric_plugins import Metric, compute_all, installed_metrics
from cl_framework.record import StreamRecord
from cl_framework.scenario import Stream
from cl_framework.types import Setting

_RATES = (0.25, 0.75)


def is_accuracy(metric: Metric) -> bool:
    """Whether it averages accuracies: where all of them are c, it is c.

    >>> from cl_framework.metrics import average_accuracy, backward_transfer
    >>> is_accuracy(average_accuracy), is_accuracy(backward_transfer)
    (True, False)
    """
    return metric.higher_is_better and all(math.isclose(metric(_even(rate)), rate) for rate in _RATES)


def accuracies() -> list[Metric]:
    """The installed metrics that have a chance level, in the order of their names."""
    return [metric for metric in installed_metrics() if is_accuracy(metric)]


def chance_of(stream: Stream) -> dict[str, float]:
    """The chance level of every accuracy that is measured on a stream, by name."""
    return compute_all(guessed(stream), accuracies())


def guessed(stream: Stream) -> StreamRecord:
    """What a learner measures that guesses. Entries are there where a run has them.

    Of an unlabelled stream, whose held-out rows are the same for all experiences, that is the diagonal of R; where
    classes arrive, the triangle below it; of domains, all of R.
    """
    info, n = stream.info, len(stream)
    record = StreamRecord(n_experiences=n)
    seen: set[int] = set()
    chances = [stream.test(column).chance for column in range(n)]
    known = torch.tensor([math.nan if chance is None else chance for chance in chances], dtype=torch.float64)
    within = torch.tensor([1 / len(experience.classes) for experience in stream], dtype=torch.float64)
    within = torch.where(known.isnan(), within, known)
    for experience in stream:
        seen |= set(experience.classes)
        now = experience.index
        row = within if info.setting is Setting.TASK else torch.full_like(within, 1 / len(seen))
        first = 0 if info.is_labelled else now
        stop = n if info.is_labelled and info.setting is Setting.DOMAIN else now + 1
        row = torch.where(known.isnan(), row, known)
        record.accuracy[now, first:stop], record.task_accuracy[now, first:stop] = row[first:stop], within[first:stop]
        if (info.is_online and not info.is_language) or not info.is_labelled:
            record.online[now] = row[now]
    return record


def _even(rate: float) -> StreamRecord:
    """A record of three experiences whose accuracies are all the same."""
    record = StreamRecord(n_experiences=3, strategy_metrics=[{}, {}, {}])
    for accuracy in (record.accuracy, record.task_accuracy, record.initial, record.online):
        accuracy.fill_(rate)
    return record
