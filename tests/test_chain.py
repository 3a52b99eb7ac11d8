"""A chain against its parts, run by hand."""

import io

import pytest
import torch

from cl_framework.chain import Chain
from cl_framework.errors import CheckpointError, PluginError
from cl_framework.recipe import Recipe
from cl_framework.strategies.er import ER
from cl_framework.strategies.ewc import EWC
from cl_framework.strategies.joint import Joint
from cl_framework.strategies.lwf import LwF
from cl_framework.strategies.psmt import PSMT
from cl_framework.strategy import ADDITIVE, EXCLUSIVE, PERSISTENCE, Strategy
from cl_framework.toys import Toy, toy_model
from cl_framework.types import NOT_YET, Batch, Need, Output


def learn(strategy, stream, *, setup=True, model=None, indices=None):
    model = model or toy_model(stream)
    if setup:
        strategy.setup(model, stream.info)
    for index in indices if indices is not None else range(len(stream)):
        experience = stream[index]
        model.observe(experience.classes, experience.task)
        strategy.before_experience(model, experience)

        def train(data):
            optimizer = strategy.optimizer(model.parameters(), Recipe(optimizer="sgd", lr=0.1))
            model.train()
            for batch in data.batches(10):
                optimizer.zero_grad()
                batch = strategy.prepare_batch(model, batch)
                batch = batch._replace(x=model.preprocess(batch.raw))
                output = model(batch.x)
                (strategy.loss(model, batch, output) + strategy.penalty(model, batch, output)).backward()
                strategy.after_backward(model)
                optimizer.step()
                strategy.after_step(model, batch, output)

        strategy.fit(model, strategy.train_data(experience, experience.train), train)
        strategy.after_experience(model, experience)
    return model


def assert_same(a, b):
    for (name, x), (_, y) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert torch.equal(x, y), name


class Adds(Strategy):
    """Leaves its mark in every additive hook."""

    def __init__(self, mark, log):
        super().__init__()
        self.mark, self.log = mark, log

    def prepare_batch(self, model, batch):
        self.log.append(("prepare_batch", self.mark))
        return batch._replace(y=batch.y * 10 + self.mark)

    def train_data(self, experience, data):
        return [*data, self.mark]

    def penalty(self, model, batch, output):
        return torch.tensor(float(self.mark))

    def after_backward(self, model):
        self.log.append(("after_backward", self.mark))

    def metrics(self):
        return {"memory_bytes": self.mark, "mark": self.mark, f"only_{self.mark}": 1.0}


class Owns(Strategy):
    """Owns every exclusive hook."""

    def fit(self, model, data, train):
        train(data + data)

    def loss(self, model, batch, output):
        return torch.tensor(7.0)

    def optimizer(self, params, recipe):
        return "own"

    def predict(self, model, x, task):
        return "predicted"

    def respond(self, model, prompts):
        return ["answer"]

    def adapt(self, model, x):
        return "adapted"


BATCH = Batch(torch.zeros(1), NOT_YET, torch.tensor([1]))
OUTPUT = Output(torch.zeros(1, 2), torch.zeros(1, 2))


def test_additive_hooks_run_in_order():
    log = []
    chain = Chain(Adds(2, log), Adds(3, log))
    assert chain.prepare_batch(None, BATCH).y.tolist() == [123]
    chain.after_backward(None)
    assert log == [("prepare_batch", 2), ("prepare_batch", 3), ("after_backward", 2), ("after_backward", 3)]
    assert chain.train_data(None, [1]) == [1, 2, 3]
    assert float(chain.penalty(None, BATCH, OUTPUT)) == 5


def test_metrics_are_merged():
    chain = Chain(Adds(2, []), Adds(3, []), Strategy())
    assert chain.metrics() == {"memory_bytes": 5, "adds0/mark": 2, "adds1/mark": 3, "only_2": 1.0, "only_3": 1.0}
    assert Chain(Adds(2, [])).metrics() == {"memory_bytes": 2, "mark": 2, "only_2": 1.0}


@pytest.mark.parametrize("parts", [(Owns(), Strategy()), (Strategy(), Owns()), (Adds(1, []), Owns())])
def test_an_exclusive_hook_is_its_owners(parts):
    chain, trained = Chain(*parts), []
    chain.fit(None, [1], trained.append)
    assert trained == [[1, 1]]
    assert float(chain.loss(None, BATCH, OUTPUT)) == 7
    assert chain.optimizer([], Recipe()) == "own"
    assert (chain.predict(None, None, None), chain.respond(None, []), chain.adapt(None, None)) == (
        "predicted", ["answer"], "adapted")


def test_the_default_adapt_goes_through_the_owner_of_predict():
    class Predicts(Strategy):
        def predict(self, model, x, task):
            return "mine"

    assert Chain(Strategy(), Predicts()).adapt(None, None) == "mine"


def test_two_owners_are_refused_by_name():
    class Answers(Strategy):
        def predict(self, model, x, task):
            return "mine"

    with pytest.raises(PluginError) as error:
        Chain(Answers(), ER(), Owns())
    assert str(error.value) == ("'answers' and 'owns' cannot be chained: each defines `predict`, which only one "
                                "part may; use one of them")


def test_chains_within_chains_dissolve_and_needs_add_up():
    a, b, c = ER(), LwF(), Joint()
    chain = Chain(Chain(a, Chain(b)), c)
    assert chain.parts() == (a, b, c)
    assert chain.needs == {Need.HISTORY}
    assert Chain(a, b).needs == frozenset() == Strategy.needs
    assert repr(Chain(Strategy())) == "Chain(Strategy())"


def test_every_hook_is_handed_on():
    assert all(hook in vars(Chain) for hook in (*ADDITIVE, *EXCLUSIVE, *PERSISTENCE, "parts"))


@pytest.mark.parametrize("make", [lambda: ER(memory_size=20), EWC, LwF, PSMT, Joint])
@pytest.mark.parametrize("wrap", [lambda s: Chain(s), lambda s: Chain(s, Strategy()), lambda s: Chain(Strategy(), s)])
def test_a_chain_with_fine_tuning_is_the_strategy(make, wrap):
    stream = Toy().open()
    alone, chain = make(), wrap(make())
    plain, chained = learn(alone, stream), learn(chain, stream)
    assert_same(plain, chained)
    assert chain.metrics() == alone.metrics()
    x = plain.preprocess(stream.test(0).data.raw)
    assert torch.equal(alone.predict(plain, x, None), chain.predict(chained, x, None))


def test_parts_do_what_they_do_alone():
    stream = Toy().open()
    er_ewc = learn(Chain(ER(memory_size=20), EWC(importance=0.0)), stream)
    assert_same(er_ewc, learn(ER(memory_size=20), stream))
    # rows that er appends are distilled too: both parts together differ from either alone
    together = learn(Chain(ER(memory_size=20), LwF()), stream)
    assert not torch.equal(together.head.weight, er_ewc.head.weight)


def test_state_goes_through_a_file_and_part_by_part():
    stream = Toy().open()
    chain = Chain(ER(memory_size=12), EWC())
    model = learn(chain, stream, indices=[0, 1])
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "chain": chain.state_dict()}, file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert list(state["chain"]) == ["0.ER", "1.EWC"]
    learn(chain, stream, setup=False, model=model, indices=[2])
    resumed, again = Chain(ER(memory_size=12), EWC()), toy_model(stream, seed=5)
    resumed.setup(again, stream.info)
    again.load_state_dict(state["model"])
    resumed.load_state_dict(again, state["chain"])
    assert_same(learn(resumed, stream, setup=False, model=again, indices=[2]), model)
    with pytest.raises(CheckpointError, match=r"written by the chain 0\.ER, 1\.EWC, but this one is 0\.ER"):
        Chain(ER()).load_state_dict(model, state["chain"])
