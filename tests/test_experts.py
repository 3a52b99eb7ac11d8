"""Experts are tested once, on their own experience, before a strategy makes one model of all."""

from __future__ import annotations

import pytest
import torch

from cl_framework import Strategy
from cl_framework.chain import Chain
from cl_framework.checkpoint import Vault
from cl_framework.metrics import compute_all, expert_accuracy, installed_metrics
from cl_framework.models import MLP
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.toys import Toy


class Plain(Strategy):
    makes_experts = True


class Forgets(Strategy):
    makes_experts = True

    def after_experience(self, model, experience):
        with torch.no_grad():
            model.head.weight.zero_()
            model.head.bias.zero_()


def learned(strategy, **fields):
    stream = Toy().open()
    model = build_model(MLP(hidden=[16]), stream.info, 0)
    return run_stream(strategy, stream, model, recipe=Recipe(epochs=3), **fields)


def test_an_expert_that_stays_is_the_model_within_its_classes():
    record = learned(Plain())
    assert torch.equal(record.expert, record.task_accuracy.diagonal())
    assert expert_accuracy(record) == pytest.approx(float(record.task_accuracy.diagonal().mean()))


def test_it_is_measured_before_the_experience_ends():
    plain, forgets = learned(Plain()), learned(Forgets())
    assert forgets.expert[0] == plain.expert[0] > forgets.accuracy[0, 0]


def test_without_experts_there_is_no_such_number():
    record = learned(Strategy())
    assert record.expert.isnan().all() and "expert_accuracy" not in compute_all(record, installed_metrics())


def test_a_chain_with_one_makes_experts():
    assert Chain(Strategy(), Plain()).makes_experts and not Chain(Strategy(), Strategy()).makes_experts


def test_it_outlives_a_checkpoint(tmp_path):
    whole = learned(Plain(), vault=Vault(tmp_path / "a", "x"))
    assert torch.equal(learned(Plain(), vault=Vault(tmp_path / "a", "x")).expert, whole.expert)
