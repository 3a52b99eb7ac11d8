"""Held-out rows are answered in parts that fit near the processor, and the answers are those of all rows at once."""

import pytest
import torch
from torch import nn

from cl_framework.activations import CACHE, FEWEST, MOST, in_parts, kept, rows_at_once
from cl_framework.data import Dataset, TestSet
from cl_framework.evaluate import answer, evaluate
from cl_framework.metrics import AccuracyMatrix
from cl_framework.models import CNN, MLP
from cl_framework.protocol import build_model
from cl_framework.strategy import Strategy
from cl_framework.types import StreamInfo


def network(architecture, side=32):
    info = StreamInfo(n_experiences=1, n_classes=4, input_shape=(3, side, side), mean=(0.5,) * 3, std=(0.25,) * 3)
    model = build_model(architecture, info, 0)
    model.observe(range(4))
    return model


def images(n, side=32):
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_largest_tensor_is_counted_and_weights_are_not():
    layer = nn.Linear(10, 7)
    model = network(MLP(hidden=[8]))
    model.body, x = layer, torch.randn(1, 10, requires_grad=True)
    total, largest = kept(model, lambda: torch.relu(layer(x)).square().sum())
    assert (total, largest) == (10 * 4 + 7 * 4, 10 * 4), "the input and one output of seven numbers, both float32"


def test_wide_layers_answer_few_rows_at_once():
    assert rows_at_once(network(MLP(hidden=[8]), 48), images(2, 48)) == CACHE // (3 * 48 * 48 * 4)
    assert rows_at_once(network(MLP(hidden=[8]), 8), images(2, 8)) == MOST
    assert FEWEST <= rows_at_once(network(CNN()), images(2)) < 256
    assert rows_at_once(network(CNN(), 96), images(2, 96)) == FEWEST


def test_answers_in_parts_are_those_of_all_rows_at_once():
    model, strategy = network(CNN()), Strategy()
    (batch,) = Dataset(images(300), torch.zeros(300, dtype=torch.int64)).batches(1024)
    sizes = []

    def answered(part):
        sizes.append(len(part.y))
        return answer(strategy, model, part)

    found = in_parts(model, batch, answered)
    n = rows_at_once(model, batch.raw)
    assert sizes == [n] * (300 // n) + [300 % n] * bool(300 % n)
    assert torch.allclose(found, answer(strategy, model, batch), atol=1e-6)


def test_task_labels_stay_with_their_rows():
    model, n = network(MLP(hidden=[8])), 700
    tasks = torch.arange(n)
    data = Dataset(images(n), torch.arange(n), task=tasks)
    (batch,) = data.batches(1024)
    assert torch.equal(in_parts(model, batch, lambda part: torch.stack([part.task, part.y], 1)),
                       torch.stack([tasks, tasks], 1))


@pytest.mark.parametrize("is_training", [True, False])
def test_evaluation_leaves_the_mode_as_it_was(is_training):
    model = network(CNN())
    model.train(is_training)
    modes = []

    class Watching(Strategy):
        def predict(self, model, x, task):
            modes.append([module.training for module in model.modules()])
            return super().predict(model, x, task)

    test = TestSet(Dataset(images(9), torch.zeros(9, dtype=torch.int64)), (0,))
    evaluate(Watching(), model, [(0, test)], AccuracyMatrix(1), 1)
    assert modes and not any(any(each) for each in modes)
    assert all(module.training == is_training for module in model.modules())
