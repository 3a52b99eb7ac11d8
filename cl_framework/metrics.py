"""Continual-learning metrics: pure functions of a `StreamRecord`, each with its formula and source.

R[i, j] is the accuracy on experience j after learning experience i, both from 0. On a record that is partly filled the
k rows that are in count as the whole stream (k = T at its end). A metric that was not measured, or that has no meaning
yet (forgetting after one experience), is NaN and left out of a summary; it is never 0.
Means over experiences are unweighted: each experience counts once, whatever the size of its test set.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cl_framework.metric_plugins import Axis as Axis
from cl_framework.metric_plugins import Metric as Metric
from cl_framework.metric_plugins import compute_all as compute_all
from cl_framework.metric_plugins import installed_metrics as installed_metrics
from cl_framework.metric_plugins import metric as metric
from cl_framework.record import Accuracies as Accuracies
from cl_framework.record import AccuracyMatrix as AccuracyMatrix
from cl_framework.record import StreamRecord as StreamRecord


def _done(record: StreamRecord) -> Tensor:
    """The rows that are in, [k, T]; k >= 1, one row of NaN when none is."""
    return record.accuracy[: max(record.n_done, 1)]


def _change(record: StreamRecord) -> float:
    """Mean over j < k-1 of R[k-1, j] - R[j, j]; NaN for k < 2."""
    done = _done(record)
    return float((done[-1, : len(done) - 1] - done.diagonal()[:-1]).mean())


_CHAUDHRY = "Chaudhry et al. 2018, Riemannian Walk for Incremental Learning (ECCV), section 3"
_LOPEZ_PAZ = "Lopez-Paz and Ranzato 2017, Gradient Episodic Memory for Continual Learning (NeurIPS), section 2"


@metric(name="average_accuracy", axis="stability", higher_is_better=True, formula="mean_{j<k} R[k-1, j]",
        source=_LOPEZ_PAZ)
def average_accuracy(record: StreamRecord) -> float:
    """Accuracy over all experiences so far, after the last of them: mean_{j<k} R[k-1, j].

    >>> record = StreamRecord(n_experiences=2)
    >>> record.accuracy = torch.tensor([[0.9, torch.nan], [0.5, 0.8]], dtype=torch.float64)
    >>> average_accuracy(record)
    0.65
    """
    done = _done(record)
    return float(done[-1, : len(done)].mean())


@metric(name="average_incremental_accuracy", axis="stability", higher_is_better=True,
        formula="mean_{i<k} mean_{j<=i} R[i, j]",
        source="Rebuffi et al. 2017, iCaRL: Incremental Classifier and Representation Learning (CVPR), section 4")
def average_incremental_accuracy(record: StreamRecord) -> float:
    """Average accuracy, averaged over the moments after each experience: mean_{i<k} mean_{j<=i} R[i, j].

    >>> record = StreamRecord(n_experiences=2)
    >>> record.accuracy = torch.tensor([[1.0, torch.nan], [0.5, 0.5]], dtype=torch.float64)
    >>> average_incremental_accuracy(record)
    0.75
    """
    return float(torch.stack([row[: index + 1].mean() for index, row in enumerate(_done(record))]).mean())


@metric(name="stability", axis="stability", higher_is_better=True, formula="mean_{j<k-1} R[k-1, j]",
        source="average accuracy over the old experiences alone; papers differ in what they call stability")
def stability(record: StreamRecord) -> float:
    """Accuracy over the old experiences, after the last one: mean_{j<k-1} R[k-1, j]; absent for k = 1.

    >>> record = StreamRecord(n_experiences=2)
    >>> record.accuracy = torch.tensor([[0.9, torch.nan], [0.5, 0.8]], dtype=torch.float64)
    >>> stability(record)
    0.5
    """
    done = _done(record)
    return float(done[-1, : len(done) - 1].mean())


@metric(name="forgetting/max", axis="stability", higher_is_better=False,
        formula="mean_{j<k-1} (max_{j<=l<k-1} R[l, j] - R[k-1, j])", source=_CHAUDHRY)
def forgetting_max(record: StreamRecord) -> float:
    """What was lost from the best so far: mean_{j<k-1} (max_{j<=l<k-1} R[l, j] - R[k-1, j]); absent for k = 1.

    The maximum is over the rows from learning experience j to the last but one, so it can be negative: an experience
    may end better than it ever was.

    >>> record = StreamRecord(n_experiences=2)
    >>> record.accuracy = torch.tensor([[0.75, torch.nan], [0.5, 0.8]], dtype=torch.float64)
    >>> forgetting_max(record)
    0.25
    """
    done = _done(record)
    old = len(done) - 1
    if old == 0:
        return math.nan
    learned = torch.ones(old, old, dtype=torch.bool).tril()
    best = torch.where(learned, done[:-1, :old], -torch.inf).amax(0)
    return float((best - done[-1, :old]).mean())


@metric(name="forgetting/first", axis="stability", higher_is_better=False, formula="mean_{j<k-1} (R[j, j] - R[k-1, j])",
        source="Avalanche's StreamForgetting (Lomonaco et al. 2021, CVPR workshops)")
def forgetting_first(record: StreamRecord) -> float:
    """What was lost since it was first learned: mean_{j<k-1} (R[j, j] - R[k-1, j]); absent for k = 1.

    >>> record = StreamRecord(n_experiences=2)
    >>> record.accuracy = torch.tensor([[0.75, torch.nan], [0.5, 0.8]], dtype=torch.float64)
    >>> forgetting_first(record)
    0.25
    """
    return 0.0 - _change(record)


@metric(name="backward_transfer", axis="stability", higher_is_better=True, formula="mean_{j<k-1} (R[k-1, j] - R[j, j])",
        source=_LOPEZ_PAZ)
def backward_transfer(record: StreamRecord) -> float:
    """What later learning did to the old: mean_{j<k-1} (R[k-1, j] - R[j, j]), negative for loss; absent for k = 1.

    >>> record = StreamRecord(n_experiences=2)
    >>> record.accuracy = torch.tensor([[0.75, torch.nan], [0.5, 0.8]], dtype=torch.float64)
    >>> backward_transfer(record)
    -0.25
    """
    return _change(record)


@metric(name="learning_accuracy", axis="plasticity", higher_is_better=True, formula="mean_{j<k} R[j, j]",
        source="Riemer et al. 2019, Learning to Learn without Forgetting (ICLR), section 5")
def learning_accuracy(record: StreamRecord) -> float:
    """Accuracy on each experience just after learning it: mean_{j<k} R[j, j].

    >>> record = StreamRecord(n_experiences=2)
    >>> record.accuracy = torch.tensor([[0.75, torch.nan], [0.5, 0.25]], dtype=torch.float64)
    >>> learning_accuracy(record)
    0.5
    """
    return float(_done(record).diagonal().mean())


@metric(name="expert_accuracy", axis="plasticity", higher_is_better=True, formula="mean_{j<k} E[j]",
        source="Tang et al. 2025, Merging Models on the Fly Without Retraining (NeurIPS), section 5")
def expert_accuracy(record: StreamRecord) -> float:
    """Accuracy of each expert on its own experience, within its classes, before it was merged: mean_{j<k} E[j].

    Of strategies that make experts alone.

    >>> record = StreamRecord(n_experiences=2)
    >>> record.accuracy[1, 1], record.expert[:] = 0.5, torch.tensor([0.75, 1.0])
    >>> expert_accuracy(record)
    0.875
    """
    return float(record.expert[: max(record.n_done, 1)].mean())


@metric(name="forward_transfer", axis="transfer", higher_is_better=True,
        formula="mean_{1<=j<k} (R[j-1, j] - initial[j])", source=_LOPEZ_PAZ)
def forward_transfer(record: StreamRecord) -> float:
    """What was known of an experience before learning it: mean_{1<=j<k} (R[j-1, j] - initial[j]); absent for k = 1.

    Absent, too, where an entry was not measured: a head that grows cannot answer for classes it has not seen.

    >>> record = StreamRecord(n_experiences=2)
    >>> record.accuracy = torch.tensor([[0.75, 0.5], [0.5, 0.8]], dtype=torch.float64)
    >>> record.initial = torch.tensor([0.5, 0.25], dtype=torch.float64)
    >>> forward_transfer(record)
    0.25
    """
    done = _done(record)
    ahead = done[:, : len(done)].diagonal(1)
    return float((ahead - record.initial[1 : 1 + len(ahead)]).mean())


@metric(name="intransigence", axis="plasticity", higher_is_better=False, formula="mean_{j<k} (joint[j] - R[j, j])",
        source=_CHAUDHRY)
def intransigence(record: StreamRecord) -> float:
    """What could not be learned: mean_{j<k} (joint[j] - R[j, j]); absent without a joint reference.

    >>> record = StreamRecord(n_experiences=1, joint=torch.tensor([0.75], dtype=torch.float64))
    >>> record.accuracy[0, 0] = 0.5
    >>> intransigence(record)
    0.25
    """
    if record.joint is None:
        return math.nan
    reached = _done(record).diagonal()
    return float((record.joint[: len(reached)] - reached).mean())


@metric(name="online_accuracy", axis="plasticity", higher_is_better=True, formula="mean_{j<k} online[j]",
        source="prequential accuracy: Gama et al. 2013, On Evaluating Stream Learning Algorithms (Machine Learning)")
def online_accuracy(record: StreamRecord) -> float:
    """Accuracy of answers given before learning them: mean_{j<k} online[j]; absent for an offline stream.

    >>> record = StreamRecord(n_experiences=1)
    >>> record.accuracy[0, 0], record.online[0] = 0.5, 0.25
    >>> online_accuracy(record)
    0.25
    """
    return float(record.online[: max(record.n_done, 1)].mean())


@metric(name="task_incremental/average_accuracy", axis="stability", higher_is_better=True,
        formula="mean_{j<k} R[k-1, j], logits restricted to the classes of j",
        source="van de Ven and Tolias 2019, Three Scenarios for Continual Learning")
def task_average_accuracy(record: StreamRecord) -> float:
    """Average accuracy with the answer picked among the classes of the row's own experience.

    >>> record = StreamRecord(n_experiences=1)
    >>> record.accuracy[0, 0], record.task_accuracy[0, 0] = 0.5, 0.75
    >>> task_average_accuracy(record)
    0.75
    """
    stop = max(record.n_done, 1)
    return float(record.task_accuracy[stop - 1, :stop].mean())


@metric(name="train_seconds", axis="cost", higher_is_better=False, formula="sum_{i<k} seconds[i]",
        source="wall-clock time of training, without evaluation")
def train_seconds(record: StreamRecord) -> float:
    """Time spent in training: sum_{i<k} seconds[i]; absent before the first experience is done."""
    return float(record.seconds[: record.n_done].sum()) if record.n_done else math.nan


@metric(name="memory_bytes", axis="cost", higher_is_better=False, formula="bytes kept by the strategy",
        source="what the strategy reports")
def memory_bytes(record: StreamRecord) -> float:
    """Bytes that the strategy keeps between experiences: exemplars, anchors, importances."""
    return math.nan if record.memory_bytes is None else float(record.memory_bytes)


@metric(name="n_parameters", axis="cost", higher_is_better=False, formula="number of parameters of the model",
        source="counted after the last experience learned")
def n_parameters(record: StreamRecord) -> float:
    """Parameters of the model, trainable or not."""
    return math.nan if record.n_parameters is None else float(record.n_parameters)
