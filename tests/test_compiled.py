"""trainer.channels_last and trainer.compile: the same function in another form, whatever the strategy."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from cl_framework import cli, compiled
from cl_framework.check_runs import toy_for
from cl_framework.checkpoint import Vault
from cl_framework.companions import check_processes
from cl_framework.compiled import Compiled
from cl_framework.config import resolve
from cl_framework.errors import ConfigError, Stopped
from cl_framework.hardware import Hardware
from cl_framework.models import CNN, MLP, Head, Model
from cl_framework.observer import Observer
from cl_framework.protocol import build_model, run_stream
from cl_framework.registry import load
from cl_framework.resnets import SlimResNet18
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy, toy_model, toy_recipe
from cl_framework.types import StreamInfo
from cl_framework.vector_runs import hindrance

CPU = Hardware(accelerator="cpu")
LAID_OUT, COMPILED = replace(CPU, channels_last=True), replace(CPU, compile=True)
INFO = StreamInfo(n_experiences=1, n_classes=6, input_shape=(3, 16, 16), mean=(0.5,), std=(0.25,))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's compiler


@pytest.fixture
def sizes(monkeypatch):
    """Batches that a graph answers, in order; what is compiled of graphs costs seconds, so they are run as captured."""
    seen = []

    def counted(graph, inputs):
        def run(*args):
            seen.append(max((len(value) for value in args if value.dim() == 4), default=0))
            return graph.forward(*args)
        return run

    own = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: own(f, backend=counted, dynamic=options.get("dynamic")))
    return seen


@pytest.fixture
def graphs(monkeypatch):
    """Graphs that are captured, compiled by torch up to its code generator."""
    from torch._dynamo.backends.debugging import aot_eager

    captured = []

    def keep(graph, inputs):
        captured.append(graph)
        return aot_eager(graph, inputs)

    own = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: own(f, backend=keep, dynamic=options.get("dynamic")))
    monkeypatch.setattr(compiled, "_prove", lambda device: None)
    return captured


def learned(hardware, strategy=None, toy=None, model=None, recipe=None, **more):
    """Weights after a toy stream, and its matrix of accuracies."""
    stream = (toy or Toy()).open()
    model = model or toy_model(stream)
    record = run_stream(strategy or Strategy(), stream, model, recipe=recipe or toy_recipe(), hardware=hardware, **more)
    return torch.cat([value.flatten() for value in model.state_dict().values() if isinstance(value, torch.Tensor)]), \
        record.accuracy.nan_to_num()


def test_images_pixel_by_pixel_give_the_same_numbers():
    torch.manual_seed(0)
    model = build_model(SlimResNet18(), INFO, 0).double()
    other, x = copy.deepcopy(model), torch.randn(8, 3, 16, 16, dtype=torch.float64)
    other.channels_last = True
    found = []
    for each in (model, other):
        each.observe(range(6))
        logits = each(x).logits
        logits.square().sum().backward()
        found.append([logits, *(value.grad for value in each.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_the_body_sees_them_laid_out_and_other_rows_as_they_are():
    seen = []

    class Body(nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(2, 3)

    model = Model(nn.Identity(), Body(), Head(3, 2, is_full=True))
    model.channels_last = True
    images, rows, words = torch.rand(2, 3, 4, 4), torch.rand(2, 3), {"ids": torch.ones(2, 3)}
    for x in (images, rows, words):
        model(x)
    assert torch.equal(seen[0], images) and seen[0].is_contiguous(memory_format=torch.channels_last)
    assert seen[1] is rows and seen[2] is words


def test_a_run_in_either_form_learns_the_same():
    """The compiled one by the compiler that users have, twice the same bits; dropout draws the same numbers."""
    toy, network = Toy(sizes=(2, 2)), MLP(hidden=[16], dropout=0.3, norm="batch")
    recipe = replace(toy_recipe(), optimizer="sgd", lr=0.05)  # Adam makes whole steps of rounding errors
    found = [learned(hardware, toy=toy, model=build_model(network, toy.open().info, 0), recipe=recipe)
             for hardware in (CPU, LAID_OUT, COMPILED, COMPILED)]
    for weights, accuracy in found[1:]:
        torch.testing.assert_close(weights, found[0][0], rtol=0, atol=1e-4)
        assert torch.equal(accuracy, found[0][1])
    assert torch.equal(found[2][0], found[3][0])


@pytest.mark.parametrize("name", ["er", "derpp", "ewc", "mas", "packnet", "independent", "mir", "lwf", "psmt", "opcm",
                                  "agem", "icarl"])
def test_every_way_of_learning_is_the_same_compiled(name, graphs):
    """Hooks, functional calls, gradients row by row, copies of the model, penalties: to rounding."""
    cls = load("strategy", name)
    expected, found = (learned(hardware, cls(), toy_for(cls()))[0] for hardware in (CPU, COMPILED))
    torch.testing.assert_close(expected, found, rtol=0, atol=1e-6)
    n = len(graphs)
    assert n <= 3
    learned(COMPILED)
    assert len(graphs) > n  # what a strategy did leaves later runs of the process compiled


@pytest.mark.parametrize("name", ["ewc", "mas", "packnet"])
def test_networks_that_are_looked_into_are_the_same_compiled(name, graphs):
    """Dropout and batch normalisation under hooks."""
    cls, found = load("strategy", name), []
    for hardware in (CPU, COMPILED):
        toy = toy_for(cls())
        model = build_model(MLP(hidden=[16], dropout=0.2, norm="batch"), toy.open().info, 0)
        found.append(learned(hardware, cls(), toy, model)[0])
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_whole_batches_are_compiled_for_once(sizes):
    """Not for each experience, and none that the data end in: 44 rows are 6 batches of 7 and one of 2."""
    learned(COMPILED, toy=Toy(sizes=(2, 2, 2)), recipe=replace(toy_recipe(epochs=1), batch_size=7))
    assert [size for size in sizes if size] == [7] * 18


@pytest.mark.parametrize("step", [3, 6, 13, 20])
def test_a_compiled_run_goes_on_to_the_same_bits(tmp_path, graphs, step):
    """From any step, also from a short batch, with normalisation over the batch."""
    class Stop(Observer):
        def stepped(self, cursor, losses):
            if cursor.stream_step >= step:
                raise Stopped

    def run(**more):
        recipe = replace(toy_recipe(epochs=1, checkpoint_every=0), batch_size=7)
        model = build_model(CNN(channels=[4]), Toy().open().info, 0)
        return learned(COMPILED, load("strategy", "er")(), model=model, recipe=recipe, **more)[0]

    expected = run()
    with pytest.raises(Stopped):
        run(vault=Vault(tmp_path, "me"), observer=Stop())
    assert torch.equal(expected, run(vault=Vault(tmp_path, "me")))


def test_a_network_is_one_graph(graphs):
    """A Sequential too, which torch would compile layer by layer."""
    model = build_model(SlimResNet18(), INFO, 0)
    model.observe(range(6))
    Compiled(model)(torch.randn(2, 3, 16, 16))
    assert len(graphs) == 1


def test_only_the_step_itself_is_compiled(graphs):
    """The model, its copies, and a body that somebody watches compute as they are written."""
    model, seen = toy_model(Toy().open()), []
    model.observe(range(6))
    answering, x = Compiled(model), torch.rand(3, 1, 4, 4)
    assert torch.equal(answering(x).logits, model(x).logits) and model.graph is None and len(graphs) == 1
    assert copy.deepcopy(model)(x).logits.shape == (3, 6)
    handle = model.body[1].register_forward_hook(lambda *args: seen.append(args))
    answering(x)
    handle.remove()
    answering(x)
    assert len(seen) == 1 and len(graphs) == 1


def test_gradients_of_gradients_are_refused_in_words(graphs):
    class Smooth(Strategy):
        def loss(self, model, batch, output):
            loss = super().loss(model, batch, output)
            slopes = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
            return loss + sum(slope.square().sum() for slope in slopes)

    learned(CPU, Smooth())
    with pytest.raises(ConfigError, match=r"differentiates gradients.*set trainer.compile=false"):
        learned(COMPILED, Smooth())


def test_what_has_no_other_form_is_refused():
    stream = Toy().open()
    model = toy_model(stream)
    model.__class__ = type("Own", (type(model),), {"forward": lambda self, x: None})
    for hardware, key in ((LAID_OUT, "channels_last"), (COMPILED, "compile")):
        with pytest.raises(ConfigError, match=rf"trainer.{key}=true is not offered for this model.*set trainer.{key}"):
            hardware.check_form(model, INFO)
    CPU.check_form(model, INFO)
    with pytest.raises(ConfigError, match="may compute otherwise from batch to batch"):
        COMPILED.check_form(toy_model(stream), replace(INFO, is_labelled=False))
    with pytest.raises(ConfigError, match="a network that shares out its rows is not compiled"):
        check_processes(replace(COMPILED, processes=2), INFO)
    job = resolve({"scenario": "split_digits", "strategy": "er", "trainer.compile": True, "track.wandb": "disabled"})
    assert "have no batched form" in hindrance(job, stream, 2)


def test_a_machine_that_cannot_compile_says_what_to_do(monkeypatch, capsys, tmp_path):
    def fail(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found\nand a long story")

    monkeypatch.setattr(torch, "compile", fail)
    assert cli.main(["train", "scenario=split_digits", "strategy=naive", "trainer.compile=true",
                     "trainer.accelerator=cpu", f"out={tmp_path}", "track.wandb=disabled"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "trainer.compile=true cannot be used here: No working C++ compiler found; torch.compile needs" in told
    assert "long story" not in told and "set trainer.compile=false" in told


def test_the_form_as_it_is_written_is_what_earlier_runs_had():
    base = {"scenario": "split_digits", "strategy": "er"}
    assert resolve(base).hash == resolve({**base, "trainer.compile": False, "trainer.channels_last": False}).hash
    assert resolve(base).hash == "70030b8936"
    assert len({resolve({**base, **more}).hash for more in
                ({}, {"trainer.compile": True}, {"trainer.channels_last": True})}) == 3
