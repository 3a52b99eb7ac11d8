"""Unlabelled streams: what the evaluator counts, what reaches a strategy, and models that were trained before."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from cl_framework import Strategy
from cl_framework.adaptation import Tally
from cl_framework.adaptation_metrics import seconds_per_batch
from cl_framework.chain import Chain
from cl_framework.check_runs import Stop, Stopped
from cl_framework.checkpoint import Vault
from cl_framework.errors import ConfigError, Diverged
from cl_framework.evaluate import answer_online
from cl_framework.models import MLP
from cl_framework.pretraining import give_weights
from cl_framework.protocol import run_stream
from cl_framework.recipe import Recipe
from cl_framework.record import StreamRecord
from cl_framework.strategies.er import ER
from cl_framework.strategies.source import Source
from cl_framework.strategies.tent import Tent
from cl_framework.toys import Toy, toy_model
from cl_framework.types import Need

# isort: split
from torchmetrics.functional.classification import multiclass_calibration_error  # after the guard of torchvision

RECIPE = Recipe(epochs=3, batch_size=8, lr=0.01)


@dataclass(kw_only=True, eq=False)
class Nudge(Strategy):
    """Moves the bias of the head towards what it answers, and remembers what it was shown."""

    needs = frozenset({Need.UNLABELLED, Need.SOURCE_DATA})
    rate: float = 0.01

    def setup(self, model, info):
        self.shown, self.past, self.seen = [], [], torch.zeros(())

    def before_experience(self, model, experience):
        self.past.append(experience.past)

    def adapt(self, model, x):
        logits = model(x).logits.detach()
        self.shown.append(x)
        self.seen += len(x)
        with torch.no_grad():
            model.head.bias += self.rate * logits.softmax(1).mean(0)
        return logits

    def metrics(self):
        return {"memory_bytes": 4.0}

    def state_dict(self):
        return {"seen": self.seen.clone()}

    def load_state_dict(self, model, state):
        self.seen = state["seen"].clone()


def prepared(stream, seed=0):
    """A model with the weights that the stream's begins with."""
    model = toy_model(stream, seed)
    give_weights(model, stream, MLP(hidden=[16], norm="batch"), RECIPE, seed=seed)
    return model


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CLF_DATA", str(tmp_path / "data"))


def test_the_tally_is_that_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(500, 7, generator=generator) * 3, torch.randint(7, (500,), generator=generator)
    tally = Tally()
    for start in range(0, 500, 64):
        tally.add(logits[start:start + 64], y[start:start + 64])
    assert tally.accuracy == pytest.approx(float((logits.argmax(1) == y).double().mean()), abs=1e-12)
    expected = multiclass_calibration_error(logits.softmax(1), y, 7, n_bins=15, norm="l1")
    assert tally.calibration == pytest.approx(float(expected), abs=1e-5)


def test_answers_are_counted_before_the_update_and_labels_stay_with_the_evaluator():
    stream = Toy(is_labelled=False).open()
    strategy, model = Nudge(rate=0.5), prepared(stream)
    reference = {name: value.clone() for name, value in model.state_dict().items() if name != "_extra_state"}
    record = run_stream(strategy, stream, model, recipe=RECIPE)
    bias, hits = reference["head.bias"].clone(), []
    frozen = prepared(stream)
    for index in range(len(stream)):
        data, right = stream[index].train, 0
        for start in range(0, len(data), 6):
            batch = data.take(torch.arange(start, min(start + 6, len(data))))
            frozen.eval()
            frozen.head.bias.data.copy_(bias)
            logits = frozen(frozen.preprocess(batch.raw)).logits.detach()
            right += int((logits.argmax(1) == batch.y).sum())
            bias += 0.5 * logits.softmax(1).mean(0)
        hits.append(right / len(data))
    assert record.online.tolist() == pytest.approx(hits)
    assert strategy.past[0] is not None and len(strategy.past[0][0]) == len(stream.pretraining.data)
    assert len({len(x) for x in strategy.shown}) == 1 and len(strategy.shown) == 3 * 8


def test_labels_of_the_stream_change_nothing_but_the_score():
    stream, garbled = Toy(is_labelled=False).open(), Toy(is_labelled=False).open()
    for part in garbled._parts:
        part.train.y.zero_()
    models = [prepared(stream), prepared(garbled)]
    records = [run_stream(Nudge(), each, model, recipe=RECIPE)
               for each, model in zip((stream, garbled), models, strict=True)]
    assert torch.equal(models[0].head.bias, models[1].head.bias)
    assert not torch.equal(records[0].online, records[1].online)


def test_clean_rows_are_answered_before_and_after():
    stream = Toy(is_labelled=False).open()
    record = run_stream(Nudge(), stream, prepared(stream), recipe=RECIPE)
    assert record.initial[0] > 0.8 and record.initial[1:].isnan().all()
    measured = record.accuracy.isnan().logical_not()
    assert torch.equal(measured, torch.eye(3, dtype=torch.bool))
    assert record.calibration.isfinite().all() and record.n_done == 3


def test_the_time_of_a_batch():
    record = StreamRecord(n_experiences=3)
    record.seconds[:2], record.batches[:2] = torch.tensor([3.0, 1.0]), torch.tensor([8.0, 2.0])
    assert math.isnan(seconds_per_batch(record))
    record.accuracy[:2] = 0.5
    assert seconds_per_batch(record) == 0.4
    stream = Toy(is_labelled=False).open()
    run = run_stream(Nudge(), stream, prepared(stream), recipe=RECIPE)
    assert run.batches.tolist() == [-(-len(stream[index].train) // 6) for index in range(3)]
    assert math.isnan(seconds_per_batch(run_stream(Strategy(), Toy().open(), prepared(Toy().open()), recipe=RECIPE)))


def test_who_does_not_learn_keeps_no_graph():
    stream = Toy(is_labelled=False).open()
    model, seen = prepared(stream), []
    model.head.register_forward_hook(lambda module, given, made: seen.append(torch.is_grad_enabled()))
    for strategy in (Strategy(), Source()):
        strategy.setup(model, stream.info)
        answer_online(strategy, model, stream[0].train.take(torch.arange(6)))
    assert seen == [False, False]


@pytest.mark.parametrize("stop", [Stop(after_step=16), Stop(after_experience=1)])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(stop, tmp_path):
    recipe = replace(RECIPE, checkpoint_every=0.0)
    stream = Toy(is_labelled=False, n_test=40).open()
    whole = prepared(stream)
    expected = run_stream(Nudge(), stream, whole, recipe=recipe)
    vault = Vault(tmp_path / "vault", "toy")
    with pytest.raises(Stopped):
        run_stream(Nudge(), stream, prepared(stream), recipe=recipe, vault=vault, observer=stop)
    model, strategy = prepared(stream), Nudge()
    record = run_stream(strategy, stream, model, recipe=recipe, vault=vault)
    assert torch.equal(model.head.bias, whole.head.bias)
    for name in ("online", "calibration", "accuracy"):
        assert torch.equal(vars(record)[name].nan_to_num(-1), vars(expected)[name].nan_to_num(-1)), name
    assert float(strategy.seen) == sum(len(stream[index].train) for index in range(3))


def test_an_answer_that_is_not_finite_ends_the_run():
    stream = Toy(is_labelled=False).open()
    with pytest.raises(Diverged, match=r"an answer is not finite at step 2 of the stream.*a lower learning rate"):
        run_stream(Nudge(rate=1e39), stream, prepared(stream), recipe=RECIPE)
    with pytest.raises(Diverged, match=r"lower strategy\.tent\.lr$"):
        run_stream(Tent(lr=1e38), stream, prepared(stream), recipe=RECIPE)


def test_weights_that_explode_and_stay_finite_end_the_run():
    stream = Toy(is_labelled=False).open()
    with pytest.raises(Diverged, match=r"times those of the source after step 1 of the stream.*strategy\.tent\.lr"):
        run_stream(Tent(lr=1e10), stream, prepared(stream), recipe=RECIPE)
    largest = max(float(value.detach().abs().max()) for value in prepared(stream).parameters())
    run_stream(Nudge(rate=largest * 1e4), stream, prepared(stream), recipe=RECIPE)  # 24 steps, at most 1 each
    with pytest.raises(Diverged, match="times those of the source"):
        run_stream(Nudge(rate=max(largest, 1.0) * 8e6), stream, prepared(stream), recipe=RECIPE)


def test_explosion_is_measured_from_the_source_after_a_stop(tmp_path):
    stream, recipe = Toy(is_labelled=False, n_test=40).open(), replace(RECIPE, checkpoint_every=0.0)
    vault, strategy = Vault(tmp_path / "vault", "toy"), Nudge(rate=1e4)
    with pytest.raises(Stopped):
        run_stream(strategy, stream, prepared(stream), recipe=recipe, vault=vault, observer=Stop(after_step=16))
    with pytest.raises(Diverged, match="times those of the source"):
        run_stream(Nudge(rate=2e6), stream, prepared(stream), recipe=recipe, vault=vault)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("is_labelled", [True, False])
def test_held_out_answers_that_are_not_finite_end_the_run(bad, is_labelled):
    @dataclass(kw_only=True, eq=False)
    class Broken(Strategy):
        needs = frozenset() if is_labelled else frozenset({Need.UNLABELLED})
        lr: float = 0.1

        def predict(self, model, x, task):
            return super().predict(model, x, task).index_fill(0, torch.tensor([0]), bad)

        def adapt(self, model, x):
            return super().predict(model, x, None)

    stream = Toy(is_labelled=is_labelled).open()
    key = r"train\.lr" if is_labelled else r"strategy\.broken\.lr"
    with pytest.raises(Diverged, match=rf"held-out rows.*after experience 0.*{key}"):
        run_stream(Broken(), stream, toy_model(stream) if is_labelled else prepared(stream), recipe=RECIPE)


def test_answers_may_rule_classes_out():
    @dataclass(kw_only=True, eq=False)
    class Masked(Strategy):
        def predict(self, model, x, task):
            return super().predict(model, x, task).index_fill(1, torch.tensor([0]), -torch.inf)

    stream = Toy().open()
    assert run_stream(Masked(), stream, toy_model(stream), recipe=RECIPE).n_done == 3


def test_a_model_whose_clean_answers_are_not_finite_does_not_begin():
    stream = Toy(is_labelled=False).open()
    model = prepared(stream)
    model.head.bias.data.fill_(torch.nan)
    with pytest.raises(Diverged, match=r"held-out rows.*before the stream.*scenario\.source"):
        run_stream(Nudge(), stream, model, recipe=RECIPE)


def test_strategies_and_streams_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="Strategy learns from labels, and this stream has none"):
        run_stream(Strategy(), stream := Toy(is_labelled=False).open(), toy_model(stream))
    with pytest.raises(ConfigError, match=r"Nudge adapts to test rows without labels.*variant=supervised"):
        run_stream(Nudge(), stream := Toy().open(), toy_model(stream))


@pytest.mark.parametrize("parts", [(ER(), Tent()), (Tent(), ER())])
def test_every_part_of_a_chain_must_fit(parts):
    with pytest.raises(ConfigError, match=r"^ER learns from labels, and this stream has none"):
        run_stream(Chain(*parts), stream := Toy(is_labelled=False).open(), toy_model(stream))
    with pytest.raises(ConfigError, match=r"^Tent adapts to test rows without labels"):
        run_stream(Chain(*parts), stream := Toy().open(), toy_model(stream))


def test_the_weights_are_trained_once_and_shared(tmp_path):
    stream = Toy(is_labelled=False).open()
    first, second = prepared(stream), prepared(stream)
    files = sorted((tmp_path / "data" / "pretrained").glob("*.safetensors"))
    assert len(files) == 1 and torch.equal(first.head.weight, second.head.weight) and first.n_seen == 6
    prepared(stream, seed=1)
    assert len(list((tmp_path / "data" / "pretrained").glob("*.safetensors"))) == 2
    stream.pretraining = replace(stream.pretraining, seed=0)
    assert torch.equal(prepared(stream, seed=5).head.weight, first.head.weight)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state}, lambda state:
                                  {"state_dict": state}])
def test_weights_may_be_given_as_a_file(wrap, tmp_path):
    stream = Toy(is_labelled=False).open()
    trained = prepared(stream)
    torch.save(wrap({name: value for name, value in trained.state_dict().items() if name != "_extra_state"}),
               tmp_path / "weights.pt")
    stream.pretraining = replace(stream.pretraining, path=str(tmp_path / "weights.pt"))
    assert torch.equal(prepared(stream, seed=9).head.weight, trained.head.weight)


def test_bad_files_of_weights(tmp_path):
    stream = Toy(is_labelled=False).open()
    for name, content, message in (
            ("missing.pt", None, "there are no weights at"), ("empty.safetensors", b"", "is empty"),
            ("text.pt", b"hello", "holds"), ("other.pt", {"w": torch.zeros(2)}, "weights of another network: no "),
            ("object.pt", {"w": Toy()}, "holds more than weights")):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        stream.pretraining = replace(stream.pretraining, path=str(path))
        with pytest.raises(ConfigError, match=message):
            prepared(stream)
