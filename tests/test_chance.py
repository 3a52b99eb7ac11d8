"""Chance: what a learner measures that guesses, in closed form and by guessing."""

import dataclasses

import pytest
import torch

from cl_framework.chance import accuracies, chance_of, is_accuracy
from cl_framework.metrics import compute_all, installed_metrics, metric
from cl_framework.protocol import run_stream
from cl_framework.recipe import Recipe
from cl_framework.scenario import FirstExperiences
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy, toy_model
from cl_framework.types import Need, Setting


@dataclasses.dataclass(kw_only=True)
class Guess(Strategy):
    """Answers at random and learns nothing that counts."""

    def setup(self, model, info):
        """Begin the draws."""
        self.draws = generator(0, "guess")

    def predict(self, model, x, task):
        """Random logits over the classes seen; those of other tasks are out of the question."""
        logits = torch.rand(model(x).logits.shape, generator=self.draws)
        allowed = model.allowed(task)
        return logits if allowed is None else logits.where(allowed, -torch.inf)


class Adapting(Guess):
    """The same for unlabelled rows."""

    needs = frozenset({Need.UNLABELLED})


def test_which_metrics_have_a_chance_level():
    assert {"average_accuracy", "average_incremental_accuracy", "learning_accuracy", "online_accuracy", "stability",
            "task_incremental/average_accuracy"} <= {each.name for each in accuracies()}
    assert {"backward_transfer", "forward_transfer", "intransigence", "forgetting/max", "online_error",
            "n_parameters"} <= {each.name for each in installed_metrics() if not is_accuracy(each)}


def test_a_metric_of_a_plugin_has_a_chance_level_if_it_is_an_accuracy():
    def own(name, function, is_higher_better=True):
        return metric(name=name, axis="stability", higher_is_better=is_higher_better, formula="", source="")(function)

    assert is_accuracy(own("worst", lambda record: float(record.accuracy[record.n_done - 1].min())))
    assert not is_accuracy(own("twice", lambda record: 2 * float(record.accuracy[-1].mean())))
    assert not is_accuracy(own("half", lambda record: 0.25))
    assert not is_accuracy(own("down", lambda record: float(record.accuracy[-1].mean()), False))


def test_chance_in_closed_form():
    chance = chance_of(Toy(sizes=(2, 3, 1)).open())
    assert chance["average_accuracy"] == chance["stability"] == pytest.approx(1 / 6)
    assert chance["average_incremental_accuracy"] == chance["learning_accuracy"] == pytest.approx(
        (1 / 2 + 1 / 5 + 1 / 6) / 3)
    assert chance["task_incremental/average_accuracy"] == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    assert "online_accuracy" not in chance and "backward_transfer" not in chance
    assert "stability" not in chance_of(Toy(sizes=(4,)).open())
    first = chance_of(FirstExperiences(Toy(sizes=(2, 3, 1)).open(), 2))
    assert first["average_accuracy"] == pytest.approx(1 / 5)


@pytest.mark.parametrize("toy", [
    Toy(sizes=(2, 3, 1), n_test=1500), Toy(sizes=(2, 3, 1), n_test=1500, setting=Setting.TASK),
    Toy(sizes=(3, 3), n_test=1500, setting=Setting.DOMAIN),
    Toy(sizes=(2, 3), n_test=800, n_train=800, is_online=True), Toy(sizes=(2, 2), n_test=1500, is_labelled=False)],
    ids=lambda toy: f"{toy.setting}-{'online' if toy.is_online else 'offline'}-{toy.is_labelled}")
def test_a_learner_that_guesses_measures_chance(toy):
    """The largest of a few binomial deviations of 1500 rows or more, sqrt(p q / n) = 0.013, stays below 4 of them."""
    stream = toy.open()
    strategy = Guess() if toy.is_labelled else Adapting()
    recipe = Recipe(epochs=1, batch_size=500)
    measured = compute_all(run_stream(strategy, stream, toy_model(stream), recipe=recipe, seed=0), accuracies())
    chance = chance_of(stream)
    assert set(measured) == set(chance)
    assert all(abs(measured[name] - level) < 0.05 for name, level in chance.items()), (measured, chance)
