"""launcher=vector: runs that are trained together end where they end alone, for every way of learning."""

import copy
import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cl_framework import cli
from cl_framework.chain import Chain
from cl_framework.checkpoint import Vault
from cl_framework.errors import Diverged
from cl_framework.hardware import Hardware
from cl_framework.lockstep import Lockstep
from cl_framework.models import CNN, MLP
from cl_framework.observer import Observer
from cl_framework.pool import Joint, parcels
from cl_framework.preprocess import Preprocess
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.registry import load
from cl_framework.resnets import SlimResNet18
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy
from cl_framework.types import Setting
from cl_framework.vector import Vector

SEEDS = 3
TOLERANCE = 1e-9
"""Of weights in float64, whose rounding is 1e-16; a step whose gradient is wrong in one place moves them by 1e-3."""
ADAM = Recipe(batch_size=8, epochs=2, lr=0.01)
SGD = Recipe(batch_size=8, epochs=2, lr=0.05, optimizer="sgd", momentum=0.9, weight_decay=1e-3)


class Exact(Preprocess):
    """Rows in float64."""

    def forward(self, raw):
        return super().forward(raw).double()


def models(architecture, info, n=SEEDS):
    made = []
    for seed in range(n):
        model = build_model(architecture, info, seed)
        model.preprocess = Exact(info.mean, info.std, info.augment)
        made.append(model.double())
    return made


class Counting(Vector):
    """Counts the runs of each answer that was given together."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __call__(self, asks):
        self.sizes.append(len(asks))
        super().__call__(asks)


def learn(strategy, architecture=None, toy=None, recipe=ADAM, together=True, vaults=None, n=SEEDS, observers=None):
    """Learn the toy with seeds 0, 1, ...; models and records."""
    stream = (toy or Toy()).open()
    nets = models(architecture or MLP(hidden=[12, 8]), stream.info, n)
    bodies = [partial(run_stream, copy.deepcopy(strategy), stream, net, recipe=recipe, seed=seed,
                      hardware=Hardware(accelerator="cpu"), vault=vaults[seed] if vaults else None,
                      observer=observers[seed] if observers else None) for seed, net in enumerate(nets)]
    if together:
        vector = Counting()
        records = Lockstep(vector).run(bodies)
        assert vector.sizes and set(vector.sizes) == {n}
    else:
        records = [body() for body in bodies]
    return nets, records


def distance(some, others):
    return max(float((value - other).abs().max()) for net, twin in zip(some, others, strict=True)
               for value, other in zip(net.state_dict().values(), twin.state_dict().values(), strict=True)
               if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel())


def agree(strategy, tolerance=TOLERANCE, **how):
    """The same weights and accuracies, together and alone."""
    (nets, records), (twins, alone) = learn(strategy, **how), learn(strategy, together=False, **how)
    assert distance(nets, twins) < tolerance
    for record, other in zip(records, alone, strict=True):
        assert torch.equal(record.accuracy.nan_to_num(-1), other.accuracy.nan_to_num(-1))
        assert torch.equal(record.online.nan_to_num(-1), other.online.nan_to_num(-1))
    assert distance(nets[:1], nets[1:2]) > 1e-2, "seeds stay apart"


def strategy(name, **fields):
    return load("strategy", name)(**fields)


# The same numbers, together and alone

@pytest.mark.parametrize(("name", "recipe"), [
    ("naive", ADAM), ("er", ADAM), ("ewc", ADAM), ("lwf", SGD), ("si", SGD), ("agem", ADAM), ("mir", SGD),
    ("er_ace", SGD), ("packnet", ADAM), ("rwalk", ADAM),
])
def test_strategies_end_where_they_end_alone(name, recipe):
    made = strategy(name, **({"memory_size": 20} if name in ("er", "mir", "er_ace", "agem") else {}))
    agree(made, recipe=recipe, toy=Toy(setting=Setting.TASK) if name == "packnet" else None)


def test_stored_logits_are_of_single_precision():
    agree(strategy("derpp", memory_size=20), tolerance=1e-5, recipe=SGD)


@pytest.mark.parametrize("recipe", [
    Recipe(batch_size=8, epochs=2, clip=0.3, scheduler="cosine", lr=0.01),
    Recipe(batch_size=8, epochs=2, optimizer="adamw", weight_decay=0.1, reset_optimizer=False),
], ids=["clip, cosine", "adamw, carried on"])
def test_recipes(recipe):
    agree(Chain(strategy("er", memory_size=20), strategy("ewc")), recipe=recipe)


@pytest.mark.parametrize("architecture", [
    MLP(hidden=[12], head="growing"), MLP(hidden=[12], head="full", norm="batch"), MLP(hidden=[12, 8], dropout=0.3),
    CNN(channels=[3, 4]), SlimResNet18(width=2),
], ids=["growing head", "batch norm, full head", "dropout", "cnn", "slim_resnet18"])
def test_networks(architecture):
    agree(strategy("er", memory_size=20), architecture=architecture, toy=Toy(sizes=(2, 1)),
          recipe=Recipe(batch_size=11, optimizer="sgd", lr=0.01))


@pytest.mark.parametrize("toy", [
    Toy(setting=Setting.TASK), Toy(setting=Setting.DOMAIN), Toy(is_online=True), Toy(n_train=9),
], ids=["task", "domain", "online", "a last batch of two"])
def test_settings(toy):
    recipe = Recipe(batch_size=4 if toy.n_train == 9 else 8, optimizer="sgd", lr=0.05)
    agree(strategy("er", memory_size=20), toy=toy, recipe=recipe)


class Meddler(Strategy):
    """Every hook does what it may: draws, other batch sizes, gradients of its own, gradients taken away."""

    def setup(self, model, info):
        self._n = 0

    def prepare_batch(self, model, batch):
        """Drop rows by chance: batches of the runs have other sizes."""
        kept = max(1, int(torch.rand(()) * len(batch.y)))
        return batch._replace(raw=batch.raw[:kept], y=batch.y[:kept])

    def penalty(self, model, batch, output):
        """Of the slope of the loss with respect to the model's own weights: a second derivative."""
        loss = F.cross_entropy(output.logits, batch.y)
        slopes = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        return 0.01 * sum(slope.square().sum() for slope in slopes) + 0.1 * torch.rand(()) * output.features.mean()

    def after_backward(self, model):
        """By chance of the run, one parameter has no gradient."""
        if torch.rand(()) < 0.5:
            model.head.bias.grad = None
        model.body[1].bias.grad = model.body[1].bias.grad * 0.5

    def after_step(self, model, batch, output):
        """Another memory for a weight."""
        self._n += 1
        if self._n % 5 == 0:
            model.body[1].weight.data = model.body[1].weight.data.clone() * 0.99


class Own(Strategy):
    """An optimizer of its own, and no plain loss."""

    def loss(self, model, batch, output):
        return F.mse_loss(output.logits, F.one_hot(batch.y, model.n_seen).to(output.logits))

    def optimizer(self, params, recipe):
        return torch.optim.Adagrad(params, 0.05)


@pytest.mark.parametrize(("odd", "recipe"), [
    (Meddler(), ADAM), (Meddler(), Recipe(batch_size=8, epochs=2, optimizer="sgd", lr=0.05, clip=0.2)), (Own(), ADAM),
], ids=["meddler, adam", "meddler, clipped sgd", "own"])
def test_hooks_may_do_what_they_may_do_alone(odd, recipe):
    agree(odd, recipe=recipe)


# Taken up again

class Kill(Observer):
    """Ends a run after so many chunks."""

    def __init__(self, after):
        self.left = after

    def stepped(self, cursor, losses):
        self.left -= 1
        if self.left == 0:
            raise KeyError("killed")


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_a_run_goes_on_with_or_without_the_others(tmp_path, first, second):
    recipe = Recipe(batch_size=2, epochs=2, lr=0.01, checkpoint_every=0)
    made, toy = strategy("er", memory_size=10), Toy(sizes=(2, 2))
    vaults = [Vault(tmp_path / str(seed), "run") for seed in range(SEEDS)]
    with pytest.raises(KeyError):
        learn(made, toy=toy, recipe=recipe, vaults=vaults, observers=[Kill(3)] * SEEDS if not first else
              [Kill(4 if seed == 1 else 5) for seed in range(SEEDS)], together=first)
    for vault in vaults:
        assert all(file.stat().st_size < 60_000 for file in vault.files()), "a slice is written without the others"
    stream = toy.open()
    nets = models(MLP(hidden=[12, 8]), stream.info)
    bodies = [partial(run_stream, copy.deepcopy(made), stream, nets[seed], recipe=recipe, seed=seed,
                      vault=vaults[seed], hardware=Hardware(accelerator="cpu")) for seed in range(SEEDS)]
    vector = Counting()
    if second:
        Lockstep(vector).run(bodies)
        assert vector.sizes[0] < SEEDS and vector.sizes[-1] == SEEDS, "who is behind catches up first"
    else:
        for body in bodies:
            body()
    assert distance(nets, learn(made, toy=toy, recipe=recipe, together=False)[0]) < TOLERANCE


def test_a_run_that_ends_early_holds_nobody_up():
    stream = Toy().open()
    nets = models(MLP(hidden=[12]), stream.info)
    nets[1].head.weight.data.fill_(torch.nan)

    def body(seed):
        try:
            return run_stream(Strategy(), stream, nets[seed], recipe=SGD, seed=seed)
        except Diverged as fault:
            return fault

    outcomes = Lockstep(Vector()).run([partial(body, seed) for seed in range(SEEDS)])
    twins = models(MLP(hidden=[12]), stream.info)
    for seed in (0, 2):
        run_stream(Strategy(), stream, twins[seed], recipe=SGD, seed=seed)
    assert isinstance(outcomes[1], Diverged) and distance([nets[0], nets[2]], [twins[0], twins[2]]) < TOLERANCE


# From the command line

class Letters(Joint):
    def group(self, task):
        return task[0]

    def together(self, tasks):
        return tasks


def test_groups_are_cut_evenly():
    tasks = ["a0", "a1", "b0", "a2", "a3", "a4"]
    assert parcels(Letters(), tasks, 1) == [("a0", "a1", "a2", "a3", "a4"), ("b0",)]
    assert parcels(Letters(), tasks, 2) == [("a0", "a1"), ("a2", "a3", "a4"), ("b0",)]


FAST = ["scenario=split_digits", "strategy=er", "train.epochs=1", "track.wandb=disabled", "train.batch_size=256",
        "seed=0..1"]


def summaries(folder):
    return {path.parent.name: json.loads(path.read_text()) for path in folder.rglob("summary.json")}


def test_the_command_gives_the_same_tables(tmp_path, capsys):
    for launcher in ("sequential", "vector"):
        assert cli.main(["train", *FAST, f"out={tmp_path / launcher}", f"launcher={launcher}"]) == 0
    told = capsys.readouterr()
    assert told.err.count("experience 5/5") == 4 and "one by one" not in told.err
    alone, together = summaries(tmp_path / "sequential"), summaries(tmp_path / "vector")
    assert set(together) == {"seed0", "seed1"}
    for seed, summary in together.items():
        assert summary["accuracy_matrix"] == alone[seed]["accuracy_matrix"]
        assert summary["config_hash"] == alone[seed]["config_hash"]
    assert cli.main(["train", *FAST, f"out={tmp_path / 'vector'}", "launcher=vector"]) == 0
    assert capsys.readouterr().err.count("finished before") == 2


@pytest.mark.parametrize(("more", "why"), [
    (["seed=0"], "there is one seed"), (["train.on_nonfinite=skip"], "takes each run back by itself"),
    (["trainer.precision=bf16-mixed"], "bf16-mixed has no batched form"),
])
def test_runs_that_do_not_go_together_are_done_one_by_one_with_a_note(tmp_path, capsys, more, why):
    keys = {text.partition("=")[0]: text for text in [*FAST, "scenario.n_experiences=2", *more]}
    assert cli.main(["train", *keys.values(), f"out={tmp_path}", "launcher=vector"]) == 0
    assert [why in line for line in capsys.readouterr().err.splitlines()].count(True) == 1
