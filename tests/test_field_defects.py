"""Defects that other frameworks shipped in their metrics; each test is named after what it guards."""

import csv
import io
import itertools

import numpy as np
import pytest
import torch

from cl_framework import StreamRecord
from cl_framework.metrics import (
    AccuracyMatrix,
    average_accuracy,
    backward_transfer,
    forgetting_first,
    forgetting_max,
    forward_transfer,
)


def record_of(rows):
    """A record whose R is `rows`."""
    record = StreamRecord(n_experiences=len(rows))
    record.accuracy = torch.tensor(rows, dtype=torch.float64)
    return record


def lower(n, value):
    """A matrix with value(i, j) on and below the diagonal, not measured above."""
    return [[value(i, j) if j <= i else torch.nan for j in range(n)] for i in range(n)]


def forgetting_of_sorted_names(rows, classes_each):
    """What the trainer of PyCIL makes of R: the columns of each row in the order of names such as "100-119"."""
    n = len(rows)
    table = np.zeros((n, n))
    for i in range(n):
        names = [f"{j * classes_each:02d}-{(j + 1) * classes_each - 1:02d}" for j in range(i + 1)]
        table[i, : i + 1] = [rows[i][names.index(name)] for name in sorted(names)]
    table = table.T
    return float(np.mean((table.max(axis=1) - table[:, n - 1])[: n - 1]))


@pytest.mark.parametrize("n", [10, 12])
def test_columns_stay_in_stream_order_from_100_classes_on(n):
    rows = lower(n, lambda i, j: 0.05 * j + (0.30 if i == j else 0.15))
    assert abs(forgetting_of_sorted_names(rows, 20) - 0.15) > 0.02, "the case shows the defect"
    assert forgetting_max(record_of(rows)) == pytest.approx(0.15)
    assert forgetting_first(record_of(rows)) == pytest.approx(0.15)


def test_table_columns_stay_in_stream_order_from_10_experiences_on():
    rows = lower(12, lambda i, j: (10 * i + j) / 200)
    file = io.StringIO()
    csv.writer(file).writerows(record_of(rows).rows())
    header, *lines = list(csv.reader(file.getvalue().splitlines()))
    assert header == ["after", *map(str, range(12))]
    for i, line in enumerate(lines):
        assert line == [str(i), *(str((10 * i + j) / 200) for j in range(i + 1)), *[""] * (11 - i)]


def test_counted_columns_stay_in_stream_order_with_12_experiences_of_200_classes():
    matrix = AccuracyMatrix(12)
    for i, j in itertools.product(range(12), range(12)):
        hits = torch.arange(12) < j
        matrix.update(i + 1, torch.full((12,), j), hits, hits)
    assert matrix.compute().accuracy.tolist() == [[j / 12 for j in range(12)]] * 12


def test_a_short_last_batch_does_not_weigh_more():
    matrix = AccuracyMatrix(1)
    for hits in torch.tensor([True] * 10 + [False]).split(10):
        matrix.update(1, torch.zeros(len(hits), dtype=torch.int64), hits, hits)
    assert matrix.compute().accuracy.item() == pytest.approx(10 / 11), "the mean of batch means is 0.5"


def test_backward_transfer_counts_every_experience_but_the_last():
    losses = [0.4, 0.2, 0.1]
    rows = lower(4, lambda i, j: 0.9 - (losses[j] if i == 3 and j < 3 else 0.0))
    assert backward_transfer(record_of(rows)) == pytest.approx(-0.7 / 3)


def test_forgetting_divides_by_the_number_of_terms():
    rows = lower(5, lambda i, j: 0.9 if i == j else 0.6)
    assert forgetting_max(record_of(rows)) == pytest.approx(0.3)
    assert forgetting_first(record_of(rows)) == pytest.approx(0.3)
    assert backward_transfer(record_of(rows)) == pytest.approx(-0.3)


def test_the_maximum_excludes_the_last_row_so_that_improvement_shows():
    rows = lower(3, lambda i, j: 0.5 + 0.1 * i)
    assert forgetting_max(record_of(rows)) == pytest.approx(-0.1), "with the last row it would be 0"


def test_the_maximum_excludes_rows_before_the_experience_was_learned():
    rows = [[0.9, 0.95, 0.99], [0.8, 0.7, 0.99], [0.8, 0.7, 0.6]]
    assert forgetting_max(record_of(rows)) == pytest.approx((0.1 + 0.0) / 2)


def test_average_accuracy_gives_each_experience_the_same_weight():
    matrix = AccuracyMatrix(2)
    for column, n_right, n in ((0, 90, 100), (1, 1, 10)):
        hits = torch.arange(n) < n_right
        matrix.update(2, torch.full((n,), column), hits, hits)
    record = StreamRecord(n_experiences=2)
    record.accuracy = matrix.compute().accuracy
    assert average_accuracy(record) == pytest.approx(0.5), "pooled over rows it would be 91/110"


def test_average_accuracy_leaves_out_experiences_not_learned_yet():
    record = record_of([[0.8, 0.1, 0.0], [0.6, 0.7, 0.0], [torch.nan] * 3])
    assert record.n_done == 2
    assert average_accuracy(record) == pytest.approx(0.65)


def test_two_streams_with_the_same_experience_numbers_do_not_mix():
    validation, test = AccuracyMatrix(1), AccuracyMatrix(1)
    column = torch.zeros(1, dtype=torch.int64)
    validation.update(1, column, torch.tensor([True]), torch.tensor([True]))
    test.update(1, column, torch.tensor([False]), torch.tensor([False]))
    assert (validation.compute().accuracy.item(), test.compute().accuracy.item()) == (1.0, 0.0)


def test_evaluation_before_training_is_a_row_of_its_own():
    matrix = AccuracyMatrix(2)
    columns, none = torch.tensor([0, 1]), torch.tensor([False, False])
    matrix.update(0, columns, none, none)
    matrix.update(1, columns, torch.tensor([True, True]), none)
    measured = matrix.compute()
    record = StreamRecord(n_experiences=2)
    record.accuracy, record.initial = measured.accuracy, measured.initial
    assert record.n_done == 1
    record.accuracy[1] = 0.5
    assert forward_transfer(record) == 1.0
