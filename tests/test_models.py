"""Networks: heads, initial weights and normalisation."""

import math

import pytest
import torch
from torch import nn

from cl_framework import Strategy
from cl_framework.check_runs import learn
from cl_framework.models import MLP
from cl_framework.preprocess import crop_flip
from cl_framework.protocol import build_model, run_stream
from cl_framework.toys import Toy, toy_recipe


def test_a_full_head_answers_for_every_class_from_the_beginning():
    stream = Toy(sizes=(2, 2)).open()
    model = build_model(MLP(hidden=[8], head="full"), stream.info, 0)
    assert model.n_seen == 4 and model(torch.zeros(3, 1, 4, 4)).logits.shape == (3, 4)
    model.observe((0, 1))
    assert model.n_seen == 4
    record = run_stream(Strategy(), stream, model, recipe=toy_recipe())
    assert record.n_done == 2


def test_classes_to_come_take_part_in_the_softmax_of_a_full_head():
    stream = Toy(sizes=(2, 2)).open()
    full, whole = (build_model(MLP(hidden=[8], head=head), stream.info, 0) for head in ("full", "whole"))
    whole.observe((0, 1))
    x, y = torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 0, 1, 1])
    assert torch.equal(full(x).logits[:, :2], whole(x).logits)
    assert nn.functional.cross_entropy(full(x).logits, y) > nn.functional.cross_entropy(whole(x).logits, y)


def test_a_full_head_is_put_back_from_its_state():
    stream = Toy(sizes=(2, 2)).open()
    first, second = (build_model(MLP(hidden=[8], head="full"), stream.info, seed) for seed in (0, 1))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(torch.ones(1, 1, 4, 4)).logits, first(torch.ones(1, 1, 4, 4)).logits)


def test_glorot_weights_have_their_bounds_and_no_biases():
    info = Toy(sizes=(2, 2)).open().info
    model = build_model(MLP(hidden=[100], init="xavier"), info, 0)
    for weight, fan_in, fan_out in ((model.body[1].weight, 16, 100), (model.head.weight, 100, 4)):
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert weight.abs().max() <= bound and weight.abs().max() > 0.9 * bound
    assert not model.body[1].bias.any() and not model.head.bias.any()


def test_batch_normalisation_stands_before_each_relu():
    body, _ = MLP(hidden=[8, 6], norm="batch").body((1, 4, 4))
    kinds = [type(layer).__name__ for layer in body]
    assert kinds == ["Flatten", "Linear", "BatchNorm", "ReLU", "Linear", "BatchNorm", "ReLU"]


@pytest.mark.parametrize("flips", [True, False])
def test_crops_alone_never_mirror(flips):
    """An image that rises from left to right falls only when it was mirrored."""
    ramp = torch.arange(1, 33, dtype=torch.float32).expand(64, 1, 32, 32).contiguous()
    torch.manual_seed(0)
    middle = crop_flip(ramp, flips=flips)[:, 0, 16, 8:24]
    falls = (middle[:, -1] < middle[:, 0]).sum()
    assert (falls > 0) == flips


def test_an_online_stream_without_training_has_no_online_accuracy():
    """A strategy that never calls `train` answers no row before learning it: the figure is absent, not 0."""

    class Idle(Strategy):
        """Learns nothing."""

        def fit(self, model, data, train):
            """Do nothing."""

    record = learn(Idle(), Toy(is_online=True).open(), recipe=toy_recipe(epochs=1)).record
    assert record is not None and record.online.isnan().all()
    trained = learn(Strategy(), Toy(is_online=True).open(), recipe=toy_recipe(epochs=1)).record
    assert trained is not None and not trained.online.isnan().any()
