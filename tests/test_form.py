"""trainer.channels_last and trainer.compile: the same function in another form, whatever the strategy."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from cl_framework import cli, form
from cl_framework.check_runs import toy_for
from cl_framework.checkpoint import Vault
from cl_framework.companions import check_processes
from cl_framework.config import resolve
from cl_framework.errors import ConfigError, Stopped
from cl_framework.form import Form
from cl_framework.hardware import Hardware
from cl_framework.models import MLP
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


@pytest.fixture
def graphs(monkeypatch):
    """Graphs are run as they were captured, to the same bits, and counted: what is compiled of them costs seconds."""
    captured = []

    def keep(graph, inputs):
        captured.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(form._features, backend=keep)
    monkeypatch.setattr(form, "_compiled", lambda: compiled)
    yield captured
    torch._dynamo.reset()


def learned(hardware, strategy=None, toy=None, model=None, **more):
    """Weights after a toy stream, and its matrix of accuracies."""
    stream = (toy or Toy()).open()
    model = model or toy_model(stream)
    record = run_stream(strategy or Strategy(), stream, model, recipe=toy_recipe(), hardware=hardware, **more)
    return torch.cat([value.flatten() for value in model.state_dict().values() if isinstance(value, torch.Tensor)]), \
        record.accuracy


def test_images_pixel_by_pixel_give_the_same_numbers():
    torch.manual_seed(0)
    model = build_model(SlimResNet18(), INFO, 0).double()
    other, x = copy.deepcopy(model), torch.randn(8, 3, 16, 16, dtype=torch.float64)
    other.form = Form(channels_last=True)
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
            return x

    images, rows, words = torch.rand(2, 3, 4, 4), torch.rand(2, 3), {"ids": torch.ones(2, 3)}
    for x in (images, rows, words):
        Form(channels_last=True)(Body(), x)
    assert torch.equal(seen[0], images) and seen[0].is_contiguous(memory_format=torch.channels_last)
    assert seen[1] is rows and seen[2] is words


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's compiler
def test_a_run_in_either_form_learns_the_same():
    """The compiled one by the compiler that users have; dropout draws the same numbers."""
    stream = Toy().open()
    weights, accuracy = learned(CPU, model=build_model(MLP(hidden=[16], dropout=0.3), stream.info, 0))
    for hardware in (LAID_OUT, COMPILED):
        others, again = learned(hardware, model=build_model(MLP(hidden=[16], dropout=0.3), stream.info, 0))
        torch.testing.assert_close(weights, others, rtol=0, atol=1e-4)
        assert torch.equal(accuracy.nan_to_num(), again.nan_to_num())


@pytest.mark.parametrize("name", ["er", "derpp", "ewc", "packnet", "independent", "mir", "lwf", "psmt", "opcm", "agem"])
def test_every_way_of_learning_is_the_same_compiled(name, graphs):
    """Functional calls, gradients row by row, copies of the model, penalties: to rounding."""
    cls = load("strategy", name)
    expected, found = (learned(hardware, cls(), toy_for(cls()))[0] for hardware in (CPU, COMPILED))
    torch.testing.assert_close(expected, found, rtol=0, atol=1e-6)
    assert 0 < len(graphs) <= 8


def test_a_stream_is_compiled_once(graphs):
    """Not for each experience, each size of the head, each batch size or each seed."""
    learned(COMPILED, toy=Toy(sizes=(2, 2)))
    n = len(graphs)
    learned(COMPILED, toy=Toy(sizes=(2, 2, 2, 2)))
    stream = Toy().open()
    learned(COMPILED, model=toy_model(stream, seed=1))
    assert len(graphs) == n <= 6


def test_a_network_is_one_graph(graphs):
    """A Sequential too, which torch would compile layer by layer."""
    body = build_model(SlimResNet18(), INFO, 0).body
    Form(is_compiled=True)(body, torch.randn(2, 3, 16, 16))
    assert len(graphs) == 1


def test_a_copy_computes_with_its_own_weights(graphs):
    model = toy_model(Toy().open())
    model.observe(range(6))
    model.form = Form(is_compiled=True)
    x = torch.rand(3, 1, 4, 4)
    before = model(x).logits
    other = copy.deepcopy(model)
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(2)
    assert other.form == model.form and torch.equal(model(x).logits, before)
    assert torch.equal(other(x).logits, other.head(other.body(x)))


def test_a_compiled_run_goes_on_to_the_same_bits(tmp_path, graphs):
    class Stop(Observer):
        def stepped(self, cursor, losses):
            if cursor.experience == 1:
                raise Stopped

    expected = learned(COMPILED)[0]
    vault = Vault(tmp_path, "me")
    with pytest.raises(Stopped):
        learned(COMPILED, vault=vault, observer=Stop())
    assert torch.equal(expected, learned(COMPILED, vault=Vault(tmp_path, "me"))[0])


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

    monkeypatch.setattr(form, "_compiled", lambda: fail)
    assert cli.main(["train", "scenario=split_digits", "strategy=naive", "trainer.compile=true",
                     "trainer.accelerator=cpu", f"out={tmp_path}", "track.wandb=disabled"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "trainer.compile=true cannot be used here: No working C++ compiler found; torch.compile needs" in told
    assert "long story" not in told and "set trainer.compile=false" in told


def test_the_form_as_it_is_written_is_what_earlier_runs_had():
    base = {"scenario": "split_digits", "strategy": "er"}
    assert resolve(base).hash == resolve({**base, "trainer.compile": False, "trainer.channels_last": False}).hash
    assert len({resolve({**base, **more}).hash for more in
                ({}, {"trainer.compile": True}, {"trainer.channels_last": True})}) == 3


def test_a_network_of_another_architecture_is_compiled_too(graphs):
    model = build_model(MLP(hidden=[5]), replace(INFO, input_shape=(4,)), 0)
    model.observe(range(6))
    model.form = Form(is_compiled=True)
    assert model(torch.rand(2, 4)).logits.shape == (2, 6) and len(graphs) == 1


