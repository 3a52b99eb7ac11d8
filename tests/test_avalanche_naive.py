"""Fine-tuning gives the weights of Avalanche's Naive on the same stream, weights and batch order."""

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import warnings

import pytest
import torch

from cl_framework.batches import Chunks
from cl_framework.observer import Cursor
from cl_framework.protocol import run_stream
from cl_framework.recipe import Recipe
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy, toy_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.models import IncrementalClassifier
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive


class Rows(torch.utils.data.Dataset):
    """Preprocessed rows in a fixed order, with the targets that Avalanche asks for."""

    def __init__(self, x, y):
        self.x, self.targets = x, y.tolist()

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.x[index], self.targets[index]


class Theirs(torch.nn.Module):
    """Our body below Avalanche's masked head, with the same initial weights."""

    def __init__(self, model, n_classes):
        super().__init__()
        self.body = model.body
        self.head = IncrementalClassifier(16, initial_out_features=n_classes, masking=True)
        with torch.no_grad():
            self.head.classifier.weight.copy_(model.head.weight)
            self.head.classifier.bias.copy_(model.head.bias)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_same_weights_after_two_experiences(momentum):
    stream, recipe = Toy(sizes=(2, 2)).open(), Recipe(optimizer="sgd", lr=0.05, momentum=momentum, batch_size=4)
    ours, source = toy_model(stream), toy_model(stream)
    run_stream(Strategy(), stream, ours, recipe=recipe, seed=7)

    theirs, sets = Theirs(source, 4), []
    for experience in stream:
        order = Chunks(experience.train, 4, 1, 7, Cursor(experience.index), 1).order(0)
        batch = experience.train.take(order)
        sets.append(as_classification_dataset(Rows(source.preprocess(batch.raw), batch.y)))
    for experience in with_classes_timeline(benchmark_from_datasets(train=sets)).train_stream:
        optimizer = torch.optim.SGD(theirs.parameters(), 0.05, momentum)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            silent = EvaluationPlugin(loggers=[])
        naive = Naive(model=theirs, optimizer=optimizer, criterion=torch.nn.CrossEntropyLoss(), train_epochs=1,
                      train_mb_size=4, evaluator=silent)
        naive.train(experience, shuffle=False)

    for mine, other in zip(ours.body.parameters(), theirs.body.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
    torch.testing.assert_close(ours.head.weight, theirs.head.classifier.weight)
    torch.testing.assert_close(ours.head.bias, theirs.head.classifier.bias)
