"""The run loop: seeds, steps, splits and resume, each against a defect that other frameworks shipped."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from cl_framework.batches import Chunks
from cl_framework.checkpoint import Vault
from cl_framework.errors import ConfigError, DataLeak, Diverged
from cl_framework.hardware import Hardware
from cl_framework.observer import Cursor, Observer
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.registry import load
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy, toy_model, toy_recipe
from cl_framework.types import Need, Setting


class Stop(Observer):
    """Stops after a step of the stream, as a kill would, and notes every step before it."""

    def __init__(self, at=-1):
        self.at, self.steps, self.losses = at, [], []

    def stepped(self, cursor, losses):
        self.steps.append(cursor.stream_step)
        self.losses += losses
        if 0 <= self.at <= cursor.stream_step:
            raise KeyError("stopped")


def learn(strategy=None, toy=None, seed=0, model_seed=0, **options):
    stream = (toy or Toy(n_train=40)).open()
    model = toy_model(stream, model_seed)
    options.setdefault("recipe", toy_recipe())
    return model, run_stream(strategy or Strategy(), stream, model, seed=seed, **options)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# seeds (PyCIL: `torch.manual_seed(1)` whatever the seed; a template: `seed=0` does not seed)


def test_each_seed_gives_other_initial_weights():
    stream = Toy().open()
    flat = [weights(toy_model(stream, seed)) for seed in (0, 1, 2)]
    assert not torch.equal(flat[0], flat[1]) and not torch.equal(flat[1], flat[2])
    assert torch.equal(flat[0], weights(toy_model(stream, 0)))


def test_each_seed_gives_another_order_of_rows():
    data = Toy().open()[0].train
    orders = [Chunks(data, 4, 1, seed, Cursor(), 16).order(0).tolist() for seed in (0, 1)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == list(range(len(data)))


def test_each_epoch_and_experience_has_its_own_order():
    data = Toy().open()[0].train
    orders = {tuple(Chunks(data, 4, 2, 0, Cursor(experience), 16).order(epoch).tolist())
              for experience in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_the_seed_is_no_order_of_classes_and_the_order_seed_no_training_seed():
    scenario = load("scenario", "split_digits")()
    assert [e.class_names for e in scenario.open("single", 1)] != [e.class_names for e in scenario.open("single", 2)]


def test_a_run_leaves_the_callers_generators_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    learn()
    assert torch.equal(torch.rand(2), expected)


# steps (clarena: the trainer's global_step restarts with every experience)


def test_the_streams_step_never_restarts():
    watch = Stop()
    learn(observer=watch)
    assert watch.steps == sorted(set(watch.steps)) and watch.steps[-1] == 3 * 2 * 20 == len(watch.losses)


def test_every_row_is_seen_once_an_epoch_and_the_last_batch_is_short():
    sizes, rows = [], []

    @dataclass(kw_only=True, eq=False)
    class Count(Strategy):
        def after_step(self, model, batch, output):
            sizes.append(len(batch.y))
            rows.append(batch.raw)

    stream = Toy(sizes=(2,), n_train=9).open()
    run_stream(Count(), stream, toy_model(stream), recipe=toy_recipe(epochs=1))
    assert sizes == [4, 4, 4, 4, 2]
    seen, given = torch.cat(rows).flatten(1), stream[0].train.raw.flatten(1)
    assert torch.equal(seen.double().sort(0).values, given.double().sort(0).values)


# resume (Mammoth: optimizer, scheduler and generators are not restored)


@pytest.mark.parametrize("recipe", [
    Recipe(optimizer="adam", lr=0.01, epochs=3, batch_size=4, checkpoint_every=0.0),
    Recipe(optimizer="sgd", lr=0.05, momentum=0.9, epochs=3, batch_size=4, scheduler="cosine", checkpoint_every=0.0),
    Recipe(optimizer="adamw", lr=0.01, weight_decay=0.1, epochs=3, batch_size=4, scheduler="step", milestones=[0.5],
           clip=0.5, checkpoint_every=0.0),
], ids=["adam", "sgd-momentum-cosine", "adamw-step-clip"])
@pytest.mark.parametrize("at", [16, 20, 60, 76, 170])
def test_resume_restores_optimizer_schedule_and_place(tmp_path, recipe, at):
    whole, record = learn(recipe=recipe)
    vault = Vault(tmp_path, "run")
    with pytest.raises(KeyError):
        learn(recipe=recipe, vault=vault, observer=Stop(at))
    resumed, again = learn(recipe=recipe, vault=vault)
    assert torch.equal(weights(whole), weights(resumed))
    assert torch.equal(record.accuracy.nan_to_num(), again.accuracy.nan_to_num())


def test_resume_restores_dropout_and_augmentation(tmp_path):
    from cl_framework.models import MLP

    def go(**options):
        stream = Toy(n_train=40).open()
        stream.info = dataclasses.replace(stream.info, augment="crop_flip")
        model = build_model(MLP(hidden=[16], dropout=0.5), stream.info, 0)
        run_stream(Strategy(), stream, model, recipe=toy_recipe(checkpoint_every=0.0), **options)
        return weights(model)

    vault = Vault(tmp_path, "run")
    with pytest.raises(KeyError):
        go(vault=vault, observer=Stop(56))
    assert torch.equal(go(), go(vault=vault))


def test_resume_with_a_growing_head(tmp_path):
    from cl_framework.models import MLP

    def go(**options):
        stream = Toy(sizes=(2, 1, 3), n_train=40).open()
        model = build_model(MLP(hidden=[16], head="growing"), stream.info, 0)
        run_stream(Strategy(), stream, model, recipe=toy_recipe(checkpoint_every=0.0), **options)
        return weights(model)

    for at in (16, 50, 70):
        vault = Vault(tmp_path / str(at), "run")
        with pytest.raises(KeyError):
            go(vault=vault, observer=Stop(at))
        assert torch.equal(go(), go(vault=vault))


def test_resume_of_an_online_stream_keeps_its_count(tmp_path):
    toy = Toy(is_online=True, n_train=40)
    recipe = toy_recipe(epochs=1, checkpoint_every=0.0)
    _, whole = learn(toy=toy, recipe=recipe)
    vault = Vault(tmp_path, "run")
    with pytest.raises(KeyError):
        learn(toy=toy, recipe=recipe, vault=vault, observer=Stop(36))
    _, resumed = learn(toy=toy, recipe=recipe, vault=vault)
    assert torch.equal(whole.online, resumed.online) and not whole.online.isnan().any()


@dataclass(kw_only=True, eq=False)
class Twice(Strategy):
    """Calls `train` twice, with work of its own between."""

    def setup(self, model, info):
        self.n = 0

    def fit(self, model, data, train):
        train(data)
        with torch.no_grad():
            model.head.bias.mul_(0.5)
        self.n += 1
        train(data)

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, model, state):
        self.n = state["n"]


@pytest.mark.parametrize("at", [16, 40, 56, 80, 96, 136, 239])
def test_resume_inside_the_second_call_of_train(tmp_path, at):
    recipe = toy_recipe(checkpoint_every=0.0)
    whole, _ = learn(Twice(), recipe=recipe)
    vault, strategy = Vault(tmp_path, "run"), Twice()
    with pytest.raises(KeyError):
        learn(Twice(), recipe=recipe, vault=vault, observer=Stop(at))
    resumed, _ = learn(strategy, recipe=recipe, vault=vault)
    assert torch.equal(weights(whole), weights(resumed)) and strategy.n == 3


# settings


def test_task_incremental_trains_and_answers_within_the_task():
    _, record = learn(toy=Toy(setting=Setting.TASK), recipe=toy_recipe(epochs=5))
    assert torch.equal(record.accuracy.nan_to_num(), record.task_accuracy.nan_to_num())
    assert record.accuracy[-1].min() > 0.5


def test_domain_incremental_evaluates_every_experience_from_the_start():
    _, record = learn(toy=Toy(setting=Setting.DOMAIN))
    assert not record.accuracy.isnan().any() and not record.initial.isnan().any()


def test_class_incremental_leaves_the_future_unmeasured():
    _, record = learn()
    assert record.accuracy.isnan().tolist() == [[j > i for j in range(3)] for i in range(3)]
    assert record.initial.isnan().all()


def test_an_online_row_is_answered_before_it_is_learned():
    answers = []

    @dataclass(kw_only=True, eq=False)
    class Order(Strategy):
        def predict(self, model, x, task):
            answers.append("predict")
            return Strategy.predict(self, model, x, task)

        def loss(self, model, batch, output):
            answers.append("learn")
            return Strategy.loss(self, model, batch, output)

    learn(Order(), toy=Toy(sizes=(2,), is_online=True), recipe=toy_recipe(epochs=1))
    assert answers[:6] == ["predict", "learn"] * 3


def test_online_with_several_epochs_is_refused():
    with pytest.raises(ConfigError, match=r"shows every row once, but train.epochs is 2; set train.epochs=1"):
        learn(toy=Toy(is_online=True), recipe=toy_recipe(epochs=2))


# leaks and faults


def test_history_without_the_need_is_a_leak():
    @dataclass(kw_only=True, eq=False)
    class Curious(Strategy):
        def before_experience(self, model, experience):
            experience.history  # noqa: B018

    with pytest.raises(DataLeak, match="add `needs = frozenset"):
        learn(Curious())


def test_a_need_that_is_not_offered_is_refused():
    @dataclass(kw_only=True, eq=False)
    class Needy(Strategy):
        needs: ClassVar = frozenset({Need.TEXT})

    with pytest.raises(ConfigError, match="Needy needs text, which the scenario does not offer"):
        learn(Needy())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    @dataclass(kw_only=True, eq=False)
    class Spoils(Strategy):
        def after_experience(self, model, experience):
            if experience.index == 1:
                with torch.no_grad():
                    model.head.bias.fill_(torch.nan)

    vault = Vault(tmp_path, "run")
    with pytest.raises(Diverged, match="the weights are no longer finite"):
        learn(Spoils(), vault=vault)
    assert [file.name[:5] for file in vault.files()] == ["00001"]


def test_a_nan_loss_names_its_step():
    @dataclass(kw_only=True, eq=False)
    class Breaks(Strategy):
        def setup(self, model, info):
            self.n = 0

        def penalty(self, model, batch, output):
            self.n += 1
            return output.logits.sum() * (float("nan") if self.n == 27 else 0.0)

    with pytest.raises(Diverged, match=r"the loss is nan at step 27 of the stream \(experience 0\)"):
        learn(Breaks())


def test_bfloat16_autocast():
    model, _ = learn(hardware=Hardware(accelerator="cpu", precision="bf16-mixed"))
    assert weights(model).isfinite().all()
