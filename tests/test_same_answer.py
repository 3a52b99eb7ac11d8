"""The same answer wherever and however a run is done: to the bit where that is promised, else within a stated bound."""

import multiprocessing
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from cl_framework import cli
from cl_framework.hardware import Hardware
from cl_framework.metrics import AccuracyMatrix
from cl_framework.models import CNN, MLP
from cl_framework.protocol import build_model, run_stream
from cl_framework.registry import load
from cl_framework.toys import Toy, toy_recipe

BOUND = 1e-4
"""Largest difference of a weight, relative to the largest weight, after a stream with other numbers of threads."""


@pytest.fixture
def threads():
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def weights(architecture, strategy):
    stream = Toy(n_train=8).open()
    model = build_model(architecture, stream.info, 0)
    record = run_stream(load("strategy", strategy)(), stream, model, recipe=toy_recipe(epochs=1),
                        hardware=Hardware(accelerator="cpu"))
    return torch.cat([value.detach().flatten() for value in model.parameters()]), record.accuracy.nan_to_num()


@pytest.mark.parametrize(("architecture", "strategy"), [(MLP(hidden=[512, 512]), "er"), (CNN(), "ewc")])
def test_two_threads_repeat_themselves_and_stay_near_one(architecture, strategy, threads):
    """Sums over threads are added in another order: float32 rounds each to 6e-8, and training carries that on."""
    threads(1)
    alone, accuracy = weights(architecture, strategy)
    threads(2)
    first, _ = weights(architecture, strategy)
    again, _ = weights(architecture, strategy)
    assert torch.equal(first, again)
    assert float((first - alone).abs().max() / alone.abs().max()) < BOUND and bool(accuracy.any())


def _count(rank, address, out):
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    matrix = AccuracyMatrix(2)
    right = torch.arange(10) % 3 == 0
    mine = torch.arange(10) % 2 == rank
    matrix.update(1, torch.zeros(10, dtype=torch.int64)[mine], right[mine], ~right[mine])
    if rank == 0:  # the other process has no rows of the second experience
        matrix.update(2, torch.ones(7, dtype=torch.int64), torch.arange(7) < 3, torch.arange(7) < 4)
    computed = matrix.compute()
    out.put((rank, computed.accuracy.tolist(), computed.task_accuracy.tolist()))
    dist.destroy_process_group()


def test_two_processes_count_as_one(tmp_path):
    """The counts are whole numbers and are summed by gloo: 4 of 10 and 3 of 7, whoever met the rows."""
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    both = [context.Process(target=_count, args=(rank, f"file://{tmp_path / 'meet'}", out)) for rank in (0, 1)]
    for each in both:
        each.start()
    found = [out.get(timeout=60) for _ in both]
    for each in both:
        each.join(60)
    for _, accuracy, within in found:
        assert accuracy[0][0] == 0.4 and within[0][0] == 0.6 and accuracy[1][1] == 3 / 7 and within[1][1] == 4 / 7


@pytest.mark.parametrize("key", ["trainer.devices=2", "trainer.num_nodes=2", "trainer.strategy=ddp"])
def test_one_run_on_several_devices_is_refused_in_words(key, capsys):
    assert cli.main(["train", "scenario=split_digits", "strategy=er", key]) == 2
    error = capsys.readouterr().err
    assert f"{key.partition('=')[0]} is not offered: a run trains on one device" in error and "launcher=local" in error
