"""A run that several processes share learns what one process learns, to rounding, whatever the strategy."""

import contextlib
import json
import multiprocessing
import queue
import subprocess
import sys
import traceback
from dataclasses import replace
from importlib.metadata import entry_points

import pytest
import torch
from torch import nn

from cl_framework import cli, launchers, local_pool, machine
from cl_framework.companions import Borrowed, accompanied, check_processes
from cl_framework.config import resolve
from cl_framework.errors import ClfError, ConfigError
from cl_framework.hardware import Hardware
from cl_framework.launchers import Launcher, Load
from cl_framework.models import MLP, Head, Model
from cl_framework.protocol import run_stream
from cl_framework.resnets import SlimResNet18
from cl_framework.strategy import Strategy
from cl_framework.team import anywhere, joined, team
from cl_framework.toys import Toy, toy_model, toy_recipe
from cl_framework.types import Need, Setting, StreamInfo

RECIPE = replace(toy_recipe(), optimizer="sgd", lr=0.05)
"""Plain steps: Adam makes whole ones of gradients that are 0 but for rounding, as those of a fresh teacher are."""


def _answer(body, rank, size, place, out):
    try:
        torch.set_num_threads(1)
        with joined(rank, size, place):
            out.put((rank, body(rank)))
    except ClfError as error:
        out.put((rank, f"{type(error).__name__}: {error}"))
    except BaseException:
        out.put((rank, traceback.format_exc()))


def together(body, tmp_path, size=2, timeout=120):
    """What `body(rank)` returns in each of some processes that make a team, in plain data."""
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    place = str(tmp_path / "meeting")
    processes = [context.Process(target=_answer, args=(body, rank, size, place, out)) for rank in range(size)]
    for each in processes:
        each.start()
    try:
        found = dict(out.get(timeout=timeout) for _ in processes)
    except queue.Empty:
        pytest.fail("the processes wait for one another")
    finally:
        for each in processes:
            each.join(10)
            each.kill()
    return [found[rank] for rank in range(size)]


def fine(found):
    """No process has failed."""
    assert not [each for each in found if isinstance(each, str)], found
    return found


def network(kind):
    """A model in float64 whose classes are all known."""
    torch.manual_seed(0)
    if kind in ("slim_resnet18", "mlp with batchnorm"):
        info = StreamInfo(n_experiences=1, n_classes=6, input_shape=rows(kind, 1).shape[1:])
        model = (SlimResNet18() if kind == "slim_resnet18" else MLP(hidden=[12], norm="batch")).build(info)
    else:
        stages = {"mlp": [], "batchnorm": [nn.BatchNorm1d(12)], "unaffine": [nn.BatchNorm1d(12, affine=False)],
                  "momentless": [nn.BatchNorm1d(12, track_running_stats=False)]}[kind]
        body = nn.Sequential(nn.Flatten(), nn.Linear(48, 12), *stages, nn.Tanh())
        model = Model(nn.Identity(), body, Head(12, 6))
    model.observe(range(6))
    return model.double().train()


def rows(kind, n):
    shape = (3, 16, 16) if kind == "slim_resnet18" else (3, 4, 4)
    return torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def losses(model, output):
    """Parts that no mean over rows makes up, features, and weights directly."""
    logits, features = output
    spread = torch.pdist(features).logsumexp(0)
    held = sum((value.square().sum() for value in model.parameters()), start=torch.zeros(()))
    return logits.logsumexp((0, 1)) ** 2 + 0.1 * spread + 0.01 * held


def differentiated(kind, n):
    """Gradients and buffers of one step, as lists."""
    model = network(kind)
    x, shared = rows(kind, n), team()
    loss = losses(model, model(x) if shared is None else shared.forward(model, x))
    loss.backward()
    if shared is not None:
        shared.average(list(model.parameters()))
    moments = [value for value in model.buffers() if value.is_floating_point()]
    return [loss.item(), *(value.tolist() for value in (
        torch.cat([each.grad.flatten() for each in model.parameters()]),
        torch.cat([value.flatten() for value in moments]) if moments else torch.zeros(1)))]


@pytest.mark.parametrize("kind", ["mlp", "batchnorm", "unaffine", "momentless", "mlp with batchnorm", "slim_resnet18"])
@pytest.mark.parametrize(("size", "n"), [(2, 8), (2, 2), (2, 3), (2, 4), (3, 7), (3, 2)])
def test_gradients_and_moments_are_those_of_one_process(tmp_path, kind, size, n):
    expected = differentiated(kind, n)
    for found in fine(together(lambda rank: differentiated(kind, n), tmp_path, size)):
        for one, other in zip(expected, found, strict=True):
            one, other = (torch.tensor(each, dtype=torch.float64) for each in (one, other))
            assert torch.allclose(one, other, rtol=1e-8, atol=1e-9)


def test_a_parameter_that_learns_in_one_process_alone_has_a_gradient_in_all(tmp_path):
    def body(rank):
        weights = [nn.Parameter(torch.ones(2)) for _ in range(3)]
        (weights[0].sum() + (3 * weights[1].sum() if rank == 0 else 0)).backward()
        team().average(weights)
        return [None if weight.grad is None else weight.grad.tolist() for weight in weights]

    assert together(body, tmp_path) == [[[1.0, 1.0], [1.5, 1.5], None]] * 2


def learned(cls, setting, **fields):
    """The weights that a strategy ends with, and its last accuracies."""
    stream = Toy(setting=setting, **fields).open()
    model = toy_model(stream)
    record = run_stream(cls(), stream, model, recipe=replace(RECIPE, epochs=1) if fields else RECIPE)
    return torch.cat([value.detach().flatten() for value in model.parameters()]).tolist(), record.accuracy[-1].tolist()


def all_of_them():
    """Every strategy that learns from labels, where it may learn."""
    for point in sorted(entry_points(group="cl_framework.strategies"), key=lambda point: point.name):
        cls = point.load()
        if not {Need.UNLABELLED, Need.VERIFIER} & set(cls.needs) and not point.name.startswith("test_"):
            yield point.name, cls, Setting.TASK if Need.TASK_LABELS in cls.needs else Setting.CLASS


def test_every_strategy_learns_with_two_processes_what_it_learns_with_one(tmp_path):
    """34 of them, among others with buffers, teachers, importances, projected gradients and merged experts."""
    found = {name: learned(cls, setting) for name, cls, setting in all_of_them()}
    shared = together(lambda rank: {name: learned(cls, setting) for name, cls, setting in all_of_them()}, tmp_path,
                      timeout=400)
    assert isinstance(shared[0], dict), shared[0]
    assert len(found) > 30 and shared[0] == shared[1], "to the bit, both processes are the same"
    for name, (weights, accuracy) in found.items():
        others, measured = shared[0][name]
        gap = (torch.tensor(weights) - torch.tensor(others)).abs().max()
        assert gap < 2e-4 * torch.tensor(weights).abs().max() and measured == accuracy, name


def test_online_streams_and_adam_too(tmp_path):
    ER = next(cls for name, cls, _ in all_of_them() if name == "er")
    weights, accuracy = learned(ER, Setting.CLASS, is_online=True)
    for others, measured in together(lambda rank: learned(ER, Setting.CLASS, is_online=True), tmp_path):
        assert torch.allclose(torch.tensor(weights), torch.tensor(others), atol=1e-5) and measured == accuracy


class Wilful(Strategy):
    """Learns something else in each process."""

    def penalty(self, model, batch, output):
        return model.head.weight.sum() * team().rank


def test_processes_that_part_are_stopped(tmp_path):
    for found in together(lambda rank: learned(Wilful, Setting.CLASS), tmp_path):
        assert "no longer compute the same losses" in found and "set trainer.processes=1" in found


class Dropping(Strategy):
    """Puts dropout below the head."""

    def setup(self, model, info):
        model.body.append(nn.Dropout(0.5))


def test_dropout_is_refused_in_words(tmp_path):
    for found in together(lambda rank: learned(Dropping, Setting.CLASS), tmp_path):
        assert "ConfigError: the network draws random numbers in its forward pass" in found


def test_who_loses_the_other_says_so(tmp_path):
    def body(rank):
        if rank == 1:
            raise SystemExit
        anywhere(False)

    found = together(body, tmp_path)
    assert "another process of this run has ended" in found[0] and "give the same command again" in found[0]


def test_what_one_is_asked_all_are(tmp_path):
    assert together(lambda rank: [anywhere(rank == 1), anywhere(False)], tmp_path) == [[True, False]] * 2
    assert not anywhere(False) and anywhere(True) and team() is None


def test_a_companion_that_ends_before_it_began_says_why(tmp_path):
    part = {"tree": {"nonsense": 1}, "protocol": None, "experiences": 0, "checkpoints": str(tmp_path)}
    with pytest.raises(ClfError, match=r"process 1 of this run ended before it began .*it said: \w+Error"), \
            accompanied(2, part):
        pytest.fail("the run goes on")


def test_a_companion_writes_no_checkpoint(tmp_path):
    borrowed = Borrowed(tmp_path / "checkpoints", "me")
    borrowed.save({}, 0, 0)
    borrowed.clear()
    assert not (tmp_path / "checkpoints").exists() and borrowed.load() is None


@pytest.mark.parametrize(("change", "why"), [
    ({"is_labelled": False}, "one small batch after another"), ({"is_language": True}, "no common length")])
def test_several_processes_are_refused_where_they_would_do_something_else(change, why):
    info = StreamInfo(n_experiences=1, n_classes=2, input_shape=(4,), **change)
    with pytest.raises(ConfigError, match=rf"trainer.processes=2 is not offered here: .*{why}"):
        check_processes(Hardware(processes=2, accelerator="cpu"), info)
    check_processes(Hardware(accelerator="cpu"), info)


def test_one_process_is_what_earlier_runs_had():
    base = {"scenario": "split_digits", "strategy": "er"}
    assert resolve(base).hash == resolve({**base, "trainer.processes": 1}).hash == "70030b8936"
    assert resolve({**base, "trainer.processes": 2}).hash != "70030b8936"


def test_a_command_with_two_processes(tmp_path):
    """Accuracies are those of one process."""
    found = []
    for n in (2, 1):
        with contextlib.chdir(tmp_path):
            assert cli.main(["train", "scenario=split_digits", "strategy=er", "train.epochs=1", "train.optimizer=sgd",
                             "model.norm=batch", "train.batch_size=7", f"trainer.processes={n}",
                             f"out={tmp_path / str(n)}", "track.wandb=disabled"]) == 0
        found.append([json.loads(path.read_text())["accuracy_matrix"]
                      for path in sorted((tmp_path / str(n)).rglob("summary.json"), key=lambda path: path.parent.name)])
    assert found[0] == found[1] and len(found[0]) == 1


def test_runs_side_by_side_with_two_processes_each(tmp_path):
    """Workers have companions too, and what lies in the current folder is not taken for a library's module."""
    (tmp_path / "json.py").write_text("raise SystemExit('a module of the user was imported')")
    (tmp_path / "mine.py").write_text("from cl_framework.strategy import Strategy\nclass Mine(Strategy):\n    pass\n")
    command = [sys.executable, "-P", "-m", "cl_framework.cli", "train", "scenario=split_digits", "strategy=mine:Mine",
               "train.epochs=1", "launcher=local", "workers=1", "seed=0,1", "trainer.processes=2",
               "track.wandb=disabled"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").rglob("summary.json"))) == 2


@pytest.mark.parametrize(("processes", "workers", "n"), [(1, None, 6), (2, None, 3), (4, None, 1), (8, None, 1),
                                                         (2, 5, 5)])
def test_runs_with_companions_share_the_machine(monkeypatch, processes, workers, n):
    """Without `workers` as many runs go on at once as there are CPUs for, and memory is counted for companions too."""
    asked = []

    class Pool:
        room = 10**9

        def base(self, work):
            return 100

        def keep(self, n):
            asked.append(n)

    monkeypatch.setattr(launchers, "n_cpus", lambda: 6)
    monkeypatch.setattr(local_pool, "processes", Pool)
    monkeypatch.setattr(launchers, "through", lambda pool, n, work, tasks: iter(()))
    monkeypatch.setattr(machine, "fitting", lambda n, need, room: asked.append(need) or (n, None))
    load = Load(need=lambda: 7, gpu=lambda: None, processes=processes)
    assert list(Launcher(name="local", workers=workers).run(abs, [], load)) == []
    assert asked == [107 * processes, n]
