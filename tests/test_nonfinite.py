"""Numbers that are not finite: found, named with their step, and answered as `train.on_nonfinite` says."""

import json
import logging
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from cl_framework import cli
from cl_framework.batches import Chunks
from cl_framework.checkpoint import Vault
from cl_framework.data import Dataset
from cl_framework.errors import ConfigError, DataError, Diverged, PluginError
from cl_framework.nonfinite import IN_A_ROW, RESETS
from cl_framework.observer import Cursor, Observer
from cl_framework.protocol import run_stream
from cl_framework.recipe import Recipe
from cl_framework.registry import load
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy, toy_model, toy_recipe
from cl_framework.types import Need

ONE = Toy(sizes=(2,), n_train=40)
KINDS = ["loss", "infinite loss", "gradient", "weight", "moment"]


@dataclass(kw_only=True, eq=False)
class Trap(Strategy):
    """Goes wrong on each batch that holds one of some rows, in one of several ways."""

    rows: tuple[int, ...] = (7,)
    kind: Literal["loss", "infinite loss", "gradient", "weight", "moment"] = "loss"

    def setup(self, model, info):
        self.met = torch.zeros(())

    def _is_sprung(self, batch):
        return any(bool((batch.raw.flatten(1) == row).all(1).any()) for row in self._marked)

    def train_data(self, experience, data):
        self._marked = data.take(torch.tensor(self.rows)).raw.flatten(1)
        return data

    def penalty(self, model, batch, output):
        self._is_bad = self._is_sprung(batch)
        bad = {"loss": torch.nan, "infinite loss": torch.inf}.get(self.kind, 0.0)
        return output.logits.sum() * 0 + (bad if self._is_bad else 0.0)

    def after_backward(self, model):
        if self._is_bad and self.kind in ("gradient", "moment"):
            model.head.bias.grad.fill_(torch.inf if self.kind == "gradient" else 1e25)

    def after_step(self, model, batch, output):
        self.met = self.met + len(batch.y)
        if self._is_bad and self.kind == "weight":
            with torch.no_grad():
                model.head.weight.mul_(torch.nan)

    def state_dict(self):
        return {"met": self.met}

    def load_state_dict(self, model, state):
        self.met = state["met"]


class Stop(Observer):
    """Ends a run after a step of the stream, as a kill would."""

    def __init__(self, at):
        self.at = at

    def stepped(self, cursor, losses):
        if cursor.stream_step >= self.at:
            raise KeyError("stopped")


def learn(strategy, toy=ONE, **options):
    stream = toy.open()
    model = toy_model(stream)
    return model, run_stream(strategy, stream, model, **options)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def bare_loop(recipe, rows):
    """One experience with torch alone, without the batches that hold one of the rows; weights and skipped steps."""
    stream = ONE.open()
    model, data = toy_model(stream), stream[0].train
    model.observe(stream[0].classes)
    optimizer = torch.optim.Adam(model.parameters(), recipe.lr, fused=True)
    chunks, step, skipped = Chunks(data, recipe.batch_size, recipe.epochs, 0, Cursor(), 16), 0, []
    for epoch in range(recipe.epochs):
        for piece in chunks.order(epoch).split(recipe.batch_size):
            step += 1
            if set(piece.tolist()) & set(rows):
                skipped.append(step)
                continue
            batch = data.take(piece)
            optimizer.zero_grad()
            cross_entropy(model(model.preprocess(batch.raw)).logits, batch.y).backward()
            optimizer.step()
    return weights(model), skipped


@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_step_was_never_taken(kind, caplog):
    """The oracle is a loop of torch's own that leaves the batches out."""
    recipe = toy_recipe(epochs=3)
    strategy = Trap(rows=(7, 50), kind=kind)
    expected, steps = bare_loop(recipe, strategy.rows)
    with caplog.at_level(logging.WARNING):
        model, record = learn(strategy, recipe=replace(recipe, on_nonfinite="skip"))
    assert record.skipped_steps == steps and 3 <= len(steps) <= 6
    assert torch.equal(weights(model), expected)
    assert float(strategy.met) == 3 * 80 - 4 * len(steps), "what the strategy counts was put back, too"
    assert f"at step {steps[0]} of the stream (experience 0); the step is left out" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_the_run_stops_and_names_the_step(kind):
    recipe = toy_recipe(epochs=3)
    _, steps = bare_loop(recipe, (7,))
    with pytest.raises(Diverged, match=r"at step (\d+) of the stream \(experience 0\)") as caught:
        learn(Trap(kind=kind), recipe=recipe)
    step = int(str(caught.value).partition("at step ")[2].split()[0])
    if kind == "moment":
        assert step == 60 and "the gradients exploded" in str(caught.value)
    else:
        assert step == steps[0] + (kind in ("gradient", "weight")), "what a step breaks is seen at the next one"


@pytest.mark.parametrize("name", ["naive", "er", "derpp", "ewc", "psmt"])
def test_without_a_fault_the_reactions_are_one(name):
    runs = [learn(load("strategy", name)(), toy=Toy(), recipe=toy_recipe(), seed=1)]
    for reaction in ("skip", "reset"):
        runs.append(learn(load("strategy", name)(), toy=Toy(), recipe=replace(toy_recipe(), on_nonfinite=reaction),
                          seed=1))
    first = runs[0]
    for model, record in runs[1:]:
        assert torch.equal(weights(model), weights(first[0])) and record.skipped_steps == [] and record.resets == 0
        assert torch.equal(record.accuracy.nan_to_num(), first[1].accuracy.nan_to_num())


@pytest.mark.parametrize("at", [16, 20, 36, 60])
def test_skips_outlive_a_kill(at, tmp_path):
    recipe = toy_recipe(epochs=4, checkpoint_every=0.0)
    recipe.on_nonfinite = "skip"
    whole, expected = learn(Trap(rows=(7, 50)), recipe=recipe)
    vault = Vault(tmp_path, "run")
    with pytest.raises(KeyError):
        learn(Trap(rows=(7, 50)), recipe=recipe, vault=vault, observer=Stop(at))
    model, record = learn(Trap(rows=(7, 50)), recipe=recipe, vault=vault)
    assert torch.equal(weights(model), weights(whole)) and record.skipped_steps == expected.skipped_steps


def test_skipping_gives_up_where_nothing_is_left():
    with pytest.raises(Diverged, match=rf"has left out {IN_A_ROW} steps in a row and gives up"):
        learn(Trap(rows=tuple(range(80))), recipe=replace(toy_recipe(), on_nonfinite="skip"))


def test_online_rows_are_answered_though_they_are_not_learned():
    toy = Toy(sizes=(2,), n_train=40, is_online=True)
    _, record = learn(Trap(), toy=toy, recipe=replace(toy_recipe(epochs=1), on_nonfinite="skip"))
    assert len(record.skipped_steps) == 1 and 0.5 < float(record.online[0]) <= 1.0
    assert (float(record.online[0]) * 80) % 1 == pytest.approx(0, abs=1e-9), "80 rows were answered"


@dataclass(kw_only=True, eq=False)
class Bowl(Strategy):
    """alpha/2 |theta|^2 alone. Gradient descent multiplies theta by 1 - lr alpha: it diverges where lr alpha > 2."""

    alpha: float = 6.0

    def loss(self, model, batch, output):
        return output.logits.sum() * 0 + self.alpha / 2 * sum(value.square().sum() for value in model.parameters())


def bowl(**changes):
    return Recipe(optimizer="sgd", lr=1.0, epochs=10, batch_size=4, on_nonfinite="reset", **changes)


def test_a_reset_halves_the_rate_until_it_converges(caplog):
    """1 - 6 lr is -5, then -2, then -0.5: two resets, and theta ends at 0.5^200 of where it began, which is 0."""
    with caplog.at_level(logging.WARNING):
        model, record = learn(Bowl(), recipe=bowl())
    alone, _ = learn(Bowl(), recipe=replace(bowl(), lr=0.25, on_nonfinite="stop"))
    assert record.resets == 2 and torch.equal(weights(model), weights(alone))
    assert float(weights(model).abs().max()) < 1e-38
    assert "begins anew at 0.5 times its learning rate, try 1 of 3" in caplog.text
    assert "begins anew at 0.25 times its learning rate, try 2 of 3" in caplog.text


def test_a_reset_puts_the_carried_optimizer_back():
    recipe = replace(bowl(), momentum=0.5, reset_optimizer=False)
    toy = Toy(sizes=(2, 2), n_train=40)
    model, record = learn(Bowl(alpha=4.5), toy=toy, recipe=recipe)
    again, _ = learn(Bowl(alpha=4.5), toy=toy, recipe=recipe)
    assert record.resets and torch.equal(weights(model), weights(again)) and weights(model).isfinite().all()


def test_resets_are_bounded():
    with pytest.raises(Diverged, match="the loss is"):
        learn(Bowl(alpha=6.0 * 2**RESETS), recipe=bowl())


@pytest.mark.parametrize("at", [16, 200])
def test_resets_outlive_a_kill(at, tmp_path):
    """Stopped in the first try, and in the last."""

    class Later(Stop):
        def stepped(self, cursor, losses):
            if cursor.stream_step >= self.at and (self.at == 16 or losses[-1] < 1):
                raise KeyError("stopped")

    recipe, vault = bowl(checkpoint_every=0.0), Vault(tmp_path, "run")
    whole, expected = learn(Bowl(), recipe=recipe)
    with pytest.raises(KeyError):
        learn(Bowl(), recipe=recipe, vault=vault, observer=Later(at))
    model, record = learn(Bowl(), recipe=recipe, vault=vault)
    assert torch.equal(weights(model), weights(whole)) and record.resets == expected.resets == 2


@pytest.mark.parametrize("toy", [Toy(is_online=True), Toy(is_labelled=False)])
def test_rows_that_are_shown_once_are_not_learned_twice(toy):
    strategy = Strategy() if toy.is_labelled else load("strategy", "source")()
    with pytest.raises(ConfigError, match=r"shows every row once; set train\.on_nonfinite=skip or stop"):
        learn(strategy, toy=toy, recipe=Recipe(on_nonfinite="reset"))


@dataclass(kw_only=True, eq=False)
class Shift(Strategy):
    """Adds to the bias what a batch says; one batch says infinity."""

    needs = frozenset({Need.UNLABELLED})
    is_bad: bool = True

    def setup(self, model, info):
        self.n = 0

    def adapt(self, model, x):
        logits = self.predict(model, x, None).detach()
        self.n += 1
        with torch.no_grad():
            shift = torch.full((6,), torch.inf if self.is_bad else 0.0)
            model.head.bias += shift if float(x.sum()) == self._marked else logits.softmax(1).mean(0)
        return logits

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, model, state):
        self.n = state["n"]


def test_a_batch_that_would_break_an_adapting_model_is_answered_alone(caplog):
    stream = Toy(is_labelled=False, n_test=30).open()
    data = stream[1].train
    models, records, strategies = [], [], []
    for is_bad in (True, False):  # adding nothing is what leaving the step out means here
        strategy, model = Shift(is_bad=is_bad), toy_model(stream)
        strategy._marked = float(model.eval().preprocess(data.take(torch.arange(6, 12)).raw).sum())
        with caplog.at_level(logging.WARNING):
            records.append(run_stream(strategy, stream, model, recipe=Recipe(on_nonfinite="skip")))
        models.append(model)
        strategies.append(strategy)
    n_batches = -(-len(stream[0].train) // 6)
    assert records[0].skipped_steps == [n_batches + 2] and records[1].skipped_steps == []
    assert torch.equal(models[0].head.bias, models[1].head.bias) and torch.equal(records[0].online, records[1].online)
    assert strategies[0].n == strategies[1].n - 1
    assert f"after step {n_batches + 2} of the stream (experience 1); the step is left out" in caplog.text
    with pytest.raises(Diverged, match="its last good checkpoint is kept"):
        strategy = Shift()
        strategy._marked = strategies[0]._marked
        run_stream(strategy, stream, toy_model(stream), recipe=Recipe())


def test_an_empty_batch_is_the_strategys_fault():
    @dataclass(kw_only=True, eq=False)
    class Picky(Strategy):
        def prepare_batch(self, model, batch):
            is_kept = batch.y == 0
            return batch._replace(raw=batch.raw[is_kept], y=batch.y[is_kept])

    with pytest.raises(PluginError, match=r"prepare_batch of Picky leaves an empty batch at step \d+ .*experience 0"):
        learn(Picky(), recipe=toy_recipe())


def changed(**changes):
    """A toy stream whose second experience has other rows."""
    stream = Toy().open()
    stream._parts = tuple(replace(part, **changes) if index == 1 else part for index, part in enumerate(stream._parts))
    return stream


def test_a_class_without_held_out_rows_is_named(caplog):
    test = Toy().open()._parts[1].test
    stream = changed(test=test.subset((test.y == 3).nonzero().squeeze(1)))
    with caplog.at_level(logging.WARNING):
        record = run_stream(Strategy(), stream, toy_model(stream), recipe=toy_recipe())
    assert "experience 1 has no held-out row of the class 2: its accuracy is that of its other classes" in caplog.text
    assert caplog.text.count("no held-out row") == 1 and not record.accuracy.tril().isnan().any()


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_experience_without_rows_is_refused(part):
    empty = Dataset(torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    stream = changed(**{part: empty})
    with pytest.raises(DataError, match=f"experience 1 has no {'held-out' if part == 'test' else 'training'} rows"):
        run_stream(Strategy(), stream, toy_model(stream), recipe=toy_recipe())


@pytest.mark.parametrize("kind", ["vectors", "images"])
def test_a_feature_that_never_changes_harms_nobody(kind, tmp_path, monkeypatch, capsys):
    """A channel of one value, and one that is constant but for its last bits."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 30)
    x = rng.normal(size=(120, 3, 4, 4) if kind == "images" else (120, 3)).astype(np.float32)
    x[:, 0] = 7.25
    x[:, 1] = 1.0 + rng.integers(0, 2, size=x[:, 1].shape) * np.float32(2**-23)
    np.savez("data.npz", x=x, y=y)
    assert cli.main(["train", "scenario=custom", "scenario.path=data.npz", "scenario.n_experiences=2", "strategy=naive",
                     "track.wandb=disabled"]) == 0
    summary = json.loads(next(tmp_path.glob("runs/**/summary.json")).read_text())
    assert all(np.isfinite(value) for value in summary["metrics"].values())
    assert summary["nonfinite"] == {"skipped_steps": [], "resets": 0}
    assert "nan" not in capsys.readouterr().out.lower()


def test_half_precision_that_needs_a_scale_is_refused(capsys):
    assert cli.main(["train", "scenario=split_digits", "strategy=er", "trainer.precision=16-mixed"]) == 2
    assert "trainer.precision=16-mixed" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_what_a_type_cannot_hold_is_found(precision):
    """3e38 is the largest number of both; ten times that is infinite."""
    from cl_framework.hardware import Hardware

    @dataclass(kw_only=True, eq=False)
    class Large(Strategy):
        def loss(self, model, batch, output):
            return output.logits.sum().square() * 1e38 * 1e5

    with pytest.raises(Diverged, match=r"the loss is inf at step 1 of the stream"):
        learn(Large(), recipe=toy_recipe(), hardware=Hardware(accelerator="cpu", precision=precision))
