"""Metrics against hand-worked matrices, closed forms and Avalanche's own classes."""

import importlib
import io
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import cl_framework._torchvision  # noqa: F401
from cl_framework import PluginError, StreamRecord, metric
from cl_framework.adaptation_metrics import online_error
from cl_framework.metrics import (
    Accuracies,
    AccuracyMatrix,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    compute_all,
    expert_accuracy,
    forgetting_first,
    forgetting_max,
    forward_transfer,
    installed_metrics,
    intransigence,
    learning_accuracy,
    memory_bytes,
    n_parameters,
    online_accuracy,
    stability,
    task_average_accuracy,
    train_seconds,
)

NAN = math.nan


def record_of(rows, **fields):
    """A record whose R is `rows`."""
    record = StreamRecord(n_experiences=len(rows[0]), **fields)
    record.accuracy[: len(rows)] = torch.tensor(rows, dtype=torch.float64)
    return record


def full():
    """Hand-worked below: experience 0 is best after experience 1; experience 1 is forgotten; all entries measured."""
    record = record_of([[0.8, 0.3, 0.1], [0.9, 0.7, 0.25], [0.5, 0.4, 0.6]])
    record.task_accuracy = torch.tensor([[0.9, NAN, NAN], [0.9, 0.9, NAN], [0.6, 0.7, 0.8]], dtype=torch.float64)
    record.expert = torch.tensor([0.9, 0.9, 0.6], dtype=torch.float64)
    record.initial = torch.tensor([0.1, 0.2, 0.15], dtype=torch.float64)
    record.joint = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)
    record.online = torch.tensor([0.2, 0.4, 0.9], dtype=torch.float64)
    record.seconds = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    record.n_parameters, record.memory_bytes = 12, 34
    return record


HAND_WORKED = [
    (average_accuracy, (0.5 + 0.4 + 0.6) / 3),
    (average_incremental_accuracy, (0.8 + 0.8 + 0.5) / 3),
    (stability, 0.45),
    (forgetting_max, ((0.9 - 0.5) + (0.7 - 0.4)) / 2),
    (forgetting_first, ((0.8 - 0.5) + (0.7 - 0.4)) / 2),
    (backward_transfer, -0.3),
    (learning_accuracy, 0.7),
    (expert_accuracy, 0.8),
    (forward_transfer, ((0.3 - 0.2) + (0.25 - 0.15)) / 2),
    (intransigence, (0.1 + 0.1 + 0.1) / 3),
    (online_accuracy, 0.5),
    (task_average_accuracy, 0.7),
    (train_seconds, 7.0),
    (memory_bytes, 34.0),
    (n_parameters, 12.0),
    (online_error, 0.5),
]
OF_ROUNDS = {"source_forgetting", "collapse", "calibration_error", "seconds_per_batch"}
OF_TEXTS = {"perplexity", "perplexity_increase"}  # worked by hand in test_language_evaluation.py


@pytest.mark.parametrize(("each", "expected"), HAND_WORKED, ids=[each.name for each, _ in HAND_WORKED])
def test_three_experiences_by_hand(each, expected):
    assert each(full()) == pytest.approx(expected, abs=1e-12)


def test_two_of_three_experiences_done_by_hand():
    record = record_of([[0.8, 0.3, 0.1], [0.6, 0.7, 0.25]])
    record.initial = torch.tensor([0.1, 0.2, 0.15], dtype=torch.float64)
    record.seconds = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    assert record.n_done == 2
    assert compute_all(record, installed_metrics()) == pytest.approx({
        "average_accuracy": 0.65, "average_incremental_accuracy": 0.725, "stability": 0.6, "forgetting/max": 0.2,
        "forgetting/first": 0.2, "backward_transfer": -0.2, "learning_accuracy": 0.75, "forward_transfer": 0.1,
        "train_seconds": 3.0,
    })


def test_one_experience_has_no_forgetting():
    record = record_of([[0.75]])
    values = compute_all(record, installed_metrics())
    assert values == {"average_accuracy": 0.75, "average_incremental_accuracy": 0.75, "learning_accuracy": 0.75,
                      "train_seconds": 0.0}


def test_nothing_measured_gives_nothing():
    assert compute_all(StreamRecord(n_experiences=3), installed_metrics()) == {}


def test_forward_transfer_is_absent_on_a_growing_head():
    record = record_of([[0.8, NAN], [0.5, 0.6]])
    assert "forward_transfer" not in compute_all(record, installed_metrics())
    record.accuracy[0, 1] = 0.3
    assert math.isnan(forward_transfer(record)), "no accuracy before training"


def test_a_hole_in_the_matrix_makes_a_metric_absent_and_not_a_mean_of_the_rest():
    record = record_of([[0.8, NAN, NAN], [NAN, 0.7, NAN], [0.5, 0.4, 0.6]])
    values = compute_all(record, installed_metrics())
    assert "forgetting/max" not in values
    assert "average_incremental_accuracy" not in values
    assert values["backward_transfer"] == pytest.approx(-0.3)


def test_intransigence_needs_a_joint_reference():
    record = full()
    record.joint = None
    assert math.isnan(intransigence(record))


def test_every_entry_point_is_a_documented_metric():
    found = installed_metrics()
    assert {each.name for each in found} == {each.name for each, _ in HAND_WORKED} | OF_ROUNDS | OF_TEXTS
    for each in found:
        assert each.formula and each.source and each.__doc__, each.name


def test_two_rounds_of_an_unlabelled_stream_by_hand():
    record = StreamRecord(n_experiences=4, n_rounds=2)
    record.online = torch.tensor([0.9, 0.7, 0.6, 0.4], dtype=torch.float64)
    record.calibration = torch.tensor([0.1, 0.1, 0.2, 0.4], dtype=torch.float64)
    record.initial[0] = 0.95
    record.accuracy.diagonal().copy_(torch.tensor([0.94, 0.9, 0.85, 0.8]))
    values = compute_all(record, installed_metrics())
    assert values == pytest.approx({
        "online_accuracy": 0.65, "online_error": 0.35, "collapse": 0.8 - 0.5, "source_forgetting": 0.15,
        "calibration_error": 0.2, "learning_accuracy": (0.94 + 0.9 + 0.85 + 0.8) / 4, "train_seconds": 0.0})
    record.accuracy[2:] = torch.nan
    assert "collapse" not in compute_all(record, installed_metrics())


def test_metric_names_and_axes_are_checked():
    with pytest.raises(PluginError, match=r"metric 'x' has axis 'speed'; choose among stability, plasticity"):
        metric(name="x", axis="speed", higher_is_better=True, formula="1", source="none")(lambda record: 1.0)
    with pytest.raises(PluginError, match="two metrics are named 'stability'"):
        compute_all(full(), [stability, stability])


matrices = st.integers(2, 6).flatmap(
    lambda n: arrays.arrays("float64", (n, n), elements=st.floats(0, 1, allow_subnormal=False)))


@settings(deadline=None)
@given(matrices)
def test_relations_between_metrics(matrix):
    record = record_of(matrix.tolist())
    n = len(matrix)
    assert forgetting_max(record) >= forgetting_first(record) - 1e-12
    assert forgetting_first(record) == pytest.approx(-backward_transfer(record))
    total = n * average_accuracy(record)
    assert total == pytest.approx(n * learning_accuracy(record) + (n - 1) * backward_transfer(record))
    assert (n - 1) * stability(record) + record.accuracy[-1, -1] == pytest.approx(total)


@settings(deadline=None)
@given(matrices)
def test_a_metric_that_looks_back_ignores_what_lies_ahead(matrix):
    record, masked = record_of(matrix.tolist()), record_of(matrix.tolist())
    n = len(matrix)
    masked.accuracy[torch.ones(n, n, dtype=torch.bool).triu(1)] = torch.nan
    for each in (average_accuracy, average_incremental_accuracy, forgetting_max, backward_transfer, stability):
        assert each(record) == each(masked)


@settings(deadline=None)
@given(matrices)
def test_a_partly_filled_record_is_a_shorter_stream(matrix):
    n = len(matrix)
    partial = record_of(matrix.tolist()[: n - 1])
    shorter = record_of(matrix[: n - 1, : n - 1].tolist())
    for each in (average_accuracy, average_incremental_accuracy, forgetting_max, backward_transfer, learning_accuracy):
        assert each(partial) == pytest.approx(each(shorter), nan_ok=True)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans(), st.booleans()), max_size=60),
       st.integers(1, 7))
def test_counts_are_exact_whatever_the_batches(answers, batch_size):
    matrix = AccuracyMatrix(3)
    for row in range(4):
        mine = [answer for answer in answers if answer[0] == row]
        for start in range(0, len(mine), batch_size):
            _, columns, hits, task_hits = zip(*mine[start : start + batch_size], strict=True)
            matrix.update(row, torch.tensor(columns), torch.tensor(hits), torch.tensor(task_hits))
    measured = matrix.compute() if answers else None
    for row in range(4 if answers else 0):
        for column in range(3):
            mine = [answer for answer in answers if answer[:2] == (row, column)]
            for index, pair in ((2, (measured.initial, measured.accuracy)),
                                (3, (measured.task_initial, measured.task_accuracy))):
                got = float(pair[0][column] if row == 0 else pair[1][row - 1, column])
                expected = sum(answer[index] for answer in mine) / len(mine) if mine else NAN
                assert got == pytest.approx(expected, nan_ok=True, abs=0, rel=1e-15)


def test_the_matrix_survives_its_state_dict():
    matrix, other = AccuracyMatrix(2), AccuracyMatrix(2)
    right = torch.tensor([True, False, True, True])
    columns = torch.tensor([0, 0, 1, 1])
    matrix.update(2, columns, right, right)
    file = io.BytesIO()
    torch.save(matrix.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for each in (matrix, other):
        each.update(2, columns, ~right, right)
    assert other.compute().accuracy[1].tolist() == matrix.compute().accuracy[1].tolist() == [0.5, 0.5]
    assert other.compute().task_accuracy[1].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("row", [-1, 3])
def test_the_matrix_refuses_a_row_that_is_not_there(row):
    none = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(IndexError, match=f"row {row} is not between 0"):
        AccuracyMatrix(2).update(row, none, none.bool(), none.bool())


def test_a_record_survives_its_state_dict():
    record = full()
    record.strategy_metrics = [{"penalty": 0.5}, {}]
    file = io.BytesIO()
    torch.save(record.state_dict(), file)
    file.seek(0)
    other = StreamRecord.from_state_dict(torch.load(file, weights_only=True))
    other.take(counted(record))
    assert compute_all(other, installed_metrics()) == compute_all(record, installed_metrics())
    assert other.strategy_metrics == [{"penalty": 0.5}, {}]
    other.expert[0] = 7.0
    assert record.expert[0] != 7, "a copy"


def counted(record):
    return Accuracies(record.initial, record.accuracy, record.initial, record.task_accuracy, record.initial_loss,
                      record.loss)


def test_a_record_of_an_earlier_version_holds_its_tables():
    record = full()
    known = (~record.accuracy.flatten().isnan()).nonzero().squeeze(1)
    tables = {"accuracy": {"shape": [3, 3], "at": known, "values": record.accuracy.flatten()[known]},
              "task_accuracy": record.task_accuracy}  # packed, and older still
    other = StreamRecord.from_state_dict({**record.state_dict(), **tables})
    for name in tables:
        assert torch.equal(getattr(other, name).nan_to_num(-1), getattr(record, name).nan_to_num(-1))


def test_a_record_of_another_length_is_refused():
    state = {**full().state_dict(), "n_experiences": 2}
    with pytest.raises(ValueError, match=r"a record of 2 experiences must have shape \(2,\), got \(3,\)"):
        StreamRecord.from_state_dict(state)


def test_rows_are_exact_and_empty_where_not_measured():
    record = record_of([[1 / 3, NAN], [0.5, 0.25]])
    assert record.rows() == [["after", "0", "1"], ["0", repr(1 / 3), ""], ["1", "0.5", "0.25"]]


@pytest.fixture(scope="module")
def avalanche():
    """Avalanche's metric modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SimpleNamespace(
            forgetting=importlib.import_module("avalanche.evaluation.metrics.forgetting_bwt"),
            forward=importlib.import_module("avalanche.evaluation.metrics.forward_transfer"))


def answers_of(seed):
    """Random answers [(row, column, logits, y)] on test sets of unequal size; row 0 is before training."""
    generator = torch.Generator().manual_seed(seed)
    n = int(torch.randint(2, 7, (), generator=generator))
    sizes = torch.randint(1, 40, (n,), generator=generator).tolist()
    return n, [(row, column, torch.randn(sizes[column], 3, generator=generator),
                torch.randint(0, 3, (sizes[column],), generator=generator))
               for row in range(n + 1) for column in range(n)]


def recorded(n, answers):
    """Our record of the answers, counted in batches of seven."""
    matrix = AccuracyMatrix(n)
    for row, column, logits, y in answers:
        for hits in (logits.argmax(1) == y).split(7):
            matrix.update(row, torch.full((len(hits),), column), hits, hits)
    measured = matrix.compute()
    record = StreamRecord(n_experiences=n)
    record.accuracy, record.initial = measured.accuracy, measured.initial
    return record


def played(plugin, n, answers):
    """Avalanche's plugin metric driven through its own callbacks; what it says after the last experience."""
    stream = SimpleNamespace(name="test")
    for row in range(n + 1):
        trained = SimpleNamespace(experience=SimpleNamespace(current_experience=row - 1))
        if row > 0:
            plugin.before_training_exp(trained)
        step = SimpleNamespace(is_training=False, is_eval=True, clock=SimpleNamespace(train_iterations=row),
                               experience=None, eval_every=0)
        plugin.before_eval(step)
        for _, column, logits, y in (answer for answer in answers if answer[0] == row):
            step.experience = SimpleNamespace(current_experience=column, task_label=0, task_labels=[0],
                                              origin_stream=stream)
            plugin.before_eval_exp(step)
            for part, labels in zip(logits.split(5), y.split(5), strict=True):
                step.mb_output, step.mb_y = part, labels
                plugin.after_eval_iteration(step)
            plugin.after_eval_exp(step)
        values = plugin.after_eval(step)
        if row > 0:
            plugin.after_training_exp(trained)
    return values[0].value


@pytest.mark.parametrize("seed", range(25))
def test_against_avalanches_plugins(avalanche, seed):
    n, answers = answers_of(seed)
    record = recorded(n, answers)
    assert forgetting_first(record) == pytest.approx(played(avalanche.forgetting.StreamForgetting(), n, answers))
    assert backward_transfer(record) == pytest.approx(played(avalanche.forgetting.StreamBWT(), n, answers))
    assert forward_transfer(record) == pytest.approx(played(avalanche.forward.StreamForwardTransfer(), n, answers))


@pytest.mark.parametrize("seed", range(25))
def test_against_avalanches_standalone_classes(avalanche, seed):
    n, answers = answers_of(100 + seed)
    record = recorded(n, answers)
    forgetting, bwt = avalanche.forgetting.Forgetting(), avalanche.forgetting.BWT()
    forward = avalanche.forward.ForwardTransfer()
    for j in range(n):
        forward.update(j, float(record.initial[j]), initial=True)
        if j > 0:
            forward.update(j, float(record.accuracy[j - 1, j]))
        for each in (forgetting, bwt):
            each.update(j, float(record.accuracy[j, j]), initial=True)
            if j < n - 1:
                each.update(j, float(record.accuracy[-1, j]))
    for ours, theirs in ((forgetting_first, forgetting), (backward_transfer, bwt), (forward_transfer, forward)):
        values = list(theirs.result().values())
        assert len(values) == n - 1
        assert ours(record) == pytest.approx(sum(values) / len(values))


def test_counts_of_two_processes_are_summed():
    here, there = AccuracyMatrix(1), AccuracyMatrix(1)
    for matrix, hits in ((here, [True, True, True]), (there, [False])):
        right = torch.tensor(hits)
        matrix.update(1, torch.zeros(len(hits), dtype=torch.int64), right, right)
    waiting = [there.hits, there.task_hits, there.totals]
    here.distributed_available_fn = lambda: True
    here.dist_sync_fn = lambda state, group: [state, waiting.pop(0)]
    assert here.compute().accuracy.item() == 0.75
    assert here.totals.sum() == 3, "what this process counted is put back"
