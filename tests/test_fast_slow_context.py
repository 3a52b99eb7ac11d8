"""The analogue of FST for labelled rows: slow loss, reductions, isolation, lookahead, resume."""

import dataclasses
import itertools
import math

import pytest
import torch
from double_contexts import contexts_of, in_double

from cl_framework import Recipe, run_stream
from cl_framework.chain import Chain
from cl_framework.check_runs import Stop, Stopped, same
from cl_framework.checkpoint import Vault
from cl_framework.errors import ConfigError, PluginError
from cl_framework.models import CNN, MLP
from cl_framework.protocol import build_model
from cl_framework.registry import load
from cl_framework.resnets import SlimResNet18
from cl_framework.seeding import capture
from cl_framework.strategies._contexts import different
from cl_framework.strategies._label_rewards import reinforced
from cl_framework.strategies.fast_slow_context import FastSlowContext
from cl_framework.toys import Toy, toy_model
from cl_framework.types import Setting

RECIPE = Recipe(optimizer="adamw", lr=0.01, batch_size=4, checkpoint_every=0.0)
SHORT = {"steps_per_cycle": 2, "n_contexts": 2, "minibatch": 4}
STILL = {"jitter": 0.0, "dropout": 0.0}


def _run(strategy, *, sizes=(2, 2), n_train=10, recipe=RECIPE, vault=None, observer=None, architecture=None, **toy):
    stream = Toy(sizes=sizes, n_train=n_train, **toy).open()
    model = build_model(architecture, stream.info, 0) if architecture else toy_model(stream)
    record = run_stream(strategy, stream, model, recipe=recipe, vault=vault, observer=observer)
    return model, record


def _ready(strategy, setting=Setting.CLASS, architecture=None):
    """A strategy and a model before their first experience, and its rows."""
    stream = Toy(sizes=(3, 2), setting=setting, n_train=8).open()
    model = build_model(architecture or MLP(hidden=[6]), stream.info, 0)
    model.observe(stream[0].classes, stream[0].task)
    strategy.setup(model, dataclasses.replace(stream.info, batch_size=4))
    strategy.before_experience(model, stream[0])
    return model, stream[0].train


# the slow loss

@pytest.mark.parametrize("setting", [Setting.CLASS, Setting.TASK])
def test_the_slow_loss_is_cross_entropy_averaged_over_contexts(setting):
    strategy = FastSlowContext(**STILL)
    model, rows = _ready(strategy, setting)
    in_double(model)
    model.observe((3, 4), None if setting is Setting.CLASS else 1)
    strategy._population = contexts = contexts_of(3, 6)
    batch = next(rows.batches(7))
    batch = batch._replace(x=model.preprocess(batch.raw))
    output = model(batch.x)
    n_known = 5 if setting is Setting.CLASS else 3
    total = 0.0
    for context, (features, y) in itertools.product(contexts, zip(output.features, batch.y, strict=True)):
        logits = (model.head.weight @ ((1 + context[0]) * features + context[1]) + model.head.bias)[:n_known]
        total += float(logits.detach().logsumexp(0) - logits[y].detach())
    assert float(strategy.loss(model, batch, output).detach()) == pytest.approx(total / 21, rel=1e-12)


def test_a_dropped_row_is_learned_without_a_context_and_jitter_moves_contexts():
    strategy = FastSlowContext(dropout=1.0)
    model, rows = _ready(strategy)
    strategy._population = contexts_of(2, 6).float()
    batch = next(rows.batches(5))
    output = model(model.preprocess(batch.raw))
    assert torch.allclose(strategy.loss(model, batch, output), model.loss(batch, output))
    features = output.features.detach()
    moved = dataclasses.replace(strategy, dropout=0.0, jitter=0.5)
    moved._population = torch.zeros(400, 2, 6)
    found = moved._learned_under(torch.ones_like(features), torch.Generator().manual_seed(0))[:, 0] - 1
    assert float(found.std()) == pytest.approx(0.5 * math.sqrt(2), rel=0.05) and abs(float(found.mean())) < 0.05
    half = dataclasses.replace(strategy, dropout=0.3, jitter=0.0)
    half._population = torch.ones(400, 2, 6)
    is_seed = (half._learned_under(features, torch.Generator().manual_seed(0)) == features).all(2)
    assert float(is_seed.float().mean()) == pytest.approx(0.3, abs=0.05)


# labels as answers

def test_a_batch_that_says_nothing_leaves_weights_and_optimizer():
    """With a single class every label is right: nothing moves, decay of weights included."""
    recipe = dataclasses.replace(RECIPE, weight_decay=0.5)
    model, _ = _run(FastSlowContext(slow="cispo", **SHORT), sizes=(1,), recipe=recipe)
    begun = toy_model(Toy(sizes=(1,)).open())
    assert same(dict(model.named_parameters()), dict(begun.named_parameters()))
    assert reinforced(torch.zeros(2, 3, 1), torch.zeros(3, dtype=torch.int64), 4, 4.0, torch.Generator()) is None


# the fast phase

def test_a_fast_phase_changes_nothing_but_contexts():
    for fast in ("evolution", "gradient"):
        strategy = FastSlowContext(fast=fast)
        model, rows = _ready(strategy, architecture=CNN(channels=[4]))
        for mode in (True, False):
            model.train(mode)
            model.body[1].eval()
            before = ({name: value.clone() for name, value in model.state_dict().items() if name != "_extra_state"},
                      capture(), [module.training for module in model.modules()])
            strategy._improve(model, rows, 0)
            after = ({name: value for name, value in model.state_dict().items() if name != "_extra_state"},
                     capture(), [module.training for module in model.modules()])
            assert same(before, after) and all(value.grad is None for value in model.parameters())
        assert len(strategy._population) == 4 and strategy.metrics()["reaction"] > 0


# reductions

@pytest.mark.parametrize("architecture", [MLP(hidden=[8]), CNN(channels=[4])], ids=["mlp", "cnn"])
def test_without_a_fast_half_it_is_naive_to_the_bit(architecture):
    plain, first = _run(load("strategy", "naive")(), architecture=architecture)
    for fields in ({"n_contexts": 1}, {"n_contexts": 8, "dropout": 0.5}):
        alone, second = _run(FastSlowContext(passes=0.0, jitter=0.0, **fields), architecture=architecture)
        assert same(plain.state_dict(), alone.state_dict()) and same(first.accuracy, second.accuracy)


def test_without_a_learning_rate_only_contexts_learn():
    class FastAlone(FastSlowContext):
        def fit(self, model, data, train):
            super().fit(model, data, lambda rows: None)

    strategy, alone = FastSlowContext(**SHORT), FastAlone(**SHORT)
    model, _ = _run(strategy, recipe=dataclasses.replace(RECIPE, lr=0.0, weight_decay=0.0))
    other, _ = _run(alone)
    assert same(model.state_dict(), other.state_dict())
    assert same(strategy._population, alone._population) and strategy._population.abs().sum() > 0


def test_with_one_cycle_it_is_a_search_and_then_steps_under_what_it_found():
    strategy = Noting(**{**SHORT, "steps_per_cycle": 99})
    _run(strategy, sizes=(2,))
    assert len(strategy.looked_at) == 1 and all(same(each, strategy._population) for each in strategy.populations)


def test_without_noise_on_children_contexts_stay_the_seed_and_are_inert():
    strategy = FastSlowContext(sigma=0.0, **SHORT)
    _run(strategy)
    assert float(strategy._population.abs().sum()) == 0 and strategy.metrics()["reaction"] == 0.0
    assert strategy.metrics()["accepted"] == 0 and strategy.metrics()["contexts"] == 1


# look ahead, carry on

class Noting(FastSlowContext):
    """Notes what both halves see."""

    def setup(self, model, info):
        super().setup(model, info)
        self.looked_at, self.learned, self.populations, self.begun = [], [], [], []

    def _improve(self, model, rows, cycle):
        self.looked_at.append(rows.raw.flatten(1).tolist())
        self.begun.append(self._population)
        super()._improve(model, rows, cycle)
        self.learned.append([])

    def prepare_batch(self, model, batch):
        self.learned[-1] += batch.raw.flatten(1).tolist()
        self.populations.append(self._population)
        return batch


def test_what_is_looked_at_is_what_is_learned_and_contexts_stand_still_meanwhile():
    strategy = Noting(**SHORT)
    _run(strategy)
    assert [len(seen) for seen in strategy.looked_at] == [8, 8, 4] * 2
    for seen, learned in zip(strategy.looked_at, strategy.learned, strict=True):
        assert sorted(seen) == sorted(learned), "each once"
    stored = [row for experience in Toy(sizes=(2, 2), n_train=10).open()
              for row in experience.train.raw.flatten(1).tolist()]
    assert sorted(row for seen in strategy.looked_at for row in seen) == sorted(stored)
    labels = {tuple(row) for row in stored[:10]}
    assert 0 < sum(tuple(row) in labels for row in strategy.looked_at[0]) < 8, "classes are mixed"
    steps = iter(strategy.populations)
    for size in [8, 8, 4] * 2:
        first, *others = [next(steps) for _ in range(size // 4)]
        assert all(same(first, other) for other in others)
    ends = [strategy.populations[place] for place in (1, 3, 4, 6, 8)]
    assert same(strategy.begun[1:], ends), "carried from cycle to cycle and from experience to experience"
    assert float(strategy.begun[0].abs().sum()) == 0 and len(strategy.begun[0]) == 1
    carried = sum(len(different(begun)) * len(seen)
                  for begun, seen in zip(strategy.begun, strategy.looked_at, strict=True))
    assert strategy.metrics()["carried_calls"] == carried and strategy.metrics()["samples"] == 40


def test_rows_of_an_online_stream_are_answered_without_having_been_looked_at():
    class Watching(FastSlowContext):
        pairs = ()

        def adapt(self, model, x):
            found = super().adapt(model, x)
            self.pairs += ((self._cycle, self._before, found, model(x).logits.detach()),)
            return found

    strategy = Watching(**SHORT)
    _run(strategy, sizes=(2,), is_online=True)
    first = [pair for pair in strategy.pairs if pair[0] == 0]
    assert first and all(torch.equal(found, plain) for _, _, found, plain in first)
    assert float(strategy.pairs[-1][1].abs().sum()) > 0, "later ones under what the cycle before led to"


def test_rows_are_answered_under_the_best_context_or_none():
    for name in ("best", "seed"):
        strategy = FastSlowContext(**SHORT, evaluation_context=name)
        model, _ = _run(strategy)
        x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            plain, answer = model(x).logits, strategy.predict(model, x, None)
        assert torch.equal(plain, answer) == (name == "seed")
        assert any(same(strategy._best[0], each) for each in strategy._population) == (name == "best")


# resume

class _Killed(FastSlowContext):
    """Is killed in the fast phase of its second cycle, after it is done."""

    def _improve(self, model, rows, cycle):
        super()._improve(model, rows, cycle)
        if cycle == 1 and self._experience == 1:
            raise Stopped


@pytest.mark.parametrize(("fields", "kind", "step"), [
    ({}, FastSlowContext, 6), ({"fast": "gradient"}, FastSlowContext, 12), ({"slow": "cispo"}, FastSlowContext, 16),
    ({}, _Killed, -1)], ids=["evolution", "gradient", "cispo", "in a fast phase"])
def test_a_run_that_is_killed_in_a_cycle_or_a_fast_phase_ends_with_the_same_bits(tmp_path, fields, kind, step):
    recipe = dataclasses.replace(RECIPE, epochs=2)
    whole, again = FastSlowContext(**SHORT, **fields), FastSlowContext(**SHORT, **fields)
    model, record = _run(whole, recipe=recipe)
    vault = Vault(tmp_path, "run")
    with pytest.raises(Stopped):
        _run(kind(**SHORT, **fields), recipe=recipe, vault=vault, observer=Stop(after_step=step))
    resumed, other = _run(again, recipe=recipe, vault=vault)
    assert same(model.state_dict(), resumed.state_dict()) and same(record.accuracy, other.accuracy)
    assert same(whole.state_dict(), again.state_dict()) and whole.metrics() == again.metrics()


# what it goes together with

@pytest.mark.parametrize("architecture", [CNN(channels=[4, 8]), SlimResNet18(width=2), MLP(hidden=[8], norm="batch")])
def test_it_takes_any_body(architecture):
    strategy = FastSlowContext(**SHORT)
    model, record = _run(strategy, architecture=architecture, n_train=5)
    assert strategy._population.shape == (2, 2, model.head.weight.shape[1]) and record.n_done == 2
    assert strategy.metrics()["memory_bytes"] == 4 * 4 * 2 * model.head.weight.shape[1]


def test_it_chains_with_replay_and_not_with_another_loss():
    chain = Chain(load("strategy", "er")(memory_size=10), FastSlowContext(**SHORT))
    model, record = _run(chain, sizes=(1, 1))
    assert record.n_done == 2 and all(value.isfinite().all() for value in model.parameters())
    with pytest.raises(PluginError, match="each defines `loss`"):
        Chain(load("strategy", "er_ace")(), FastSlowContext())


def test_a_group_that_contexts_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="8 labels for a row cannot be shared evenly by 3 contexts; set group_size"):
        FastSlowContext(slow="cispo", n_contexts=3)


def test_it_is_called_an_analogue_wherever_it_is_described():
    import cl_framework.strategies.fast_slow_context as module
    assert "an analogue of FST" in module.__doc__ and "It is not FST" in module.__doc__
    assert "analogue of FST, not FST" in FastSlowContext.__doc__
