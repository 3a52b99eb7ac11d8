"""What runs will hold in memory, before they begin: their streams, copies of the network, buffers, one step.

    need = sum over scenarios of (stores + labels and rows)
           + max over runs of (8 W + 2 M r + 2 B a + 8 n l) + 64 MiB

W: bytes of the weights, M: rows of the buffers, r: bytes of a stored row, B: batch size, a: bytes that autograd keeps
of one row, l: bytes of the largest layer's output for one row, n: rows that are evaluated at once; a and l are measured
with a forward pass. A replaying strategy doubles the batch. An estimate, not a bound: a strategy may hold what it
likes. On a GPU weights, buffers and steps are in its memory, and the second line is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from cl_framework.activations import kept, rows_at_once
from cl_framework.data import Dataset
from cl_framework.job import Job
from cl_framework.launchers import Load
from cl_framework.models import Model
from cl_framework.protocol import build_model
from cl_framework.scenario import Stream
from cl_framework.seeding import untouched
from cl_framework.types import n_bytes

COPIES = 8
"""Of the weights: themselves, gradients, two moments, three that a strategy keeps (teacher, anchor, importance), and
one in the checkpoint that is being written."""
WORKING = 64 * 2**20
"""What the libraries take beyond that when they first train, bytes; measured: 24 to 50 MiB."""
ALIVE = 8
"""Tensors of the largest layer's size at once while rows are evaluated: inputs, outputs, and what convolutions reorder
and pad; beside those of training, since the allocator keeps what was freed (measured: 4 to 10)."""
_INDEX = 24
"""Bytes of a row's label, its place in the store and its place in an epoch."""


def load_of(jobs: Sequence[Job], opened: Callable[[Job], Stream]) -> Load:
    """What jobs ask of a machine.

    Args:
        jobs: the runs.
        opened: gives the stream of a job.
    """
    distinct = {job.hash: job for job in jobs}.values()
    return Load(need=lambda: need([(job, opened(job)) for job in distinct]), gpu=lambda: _largest_gpu(distinct),
                processes=max((job.hardware.processes for job in distinct), default=1))


def need(runs: Sequence[tuple[Job, Stream]]) -> int:
    """Bytes that one worker takes beyond the libraries, when it may get any of the runs.

    Streams stay open. Orders and phases of one scenario read the same rows, which the system keeps once.
    """
    opened: dict[str, int] = {}
    for job, stream in runs:
        name = json.dumps(job.tree["scenario"], sort_keys=True)
        opened[name] = max(opened.get(name, 0), stream_bytes(stream))
    steps = [training_bytes(job, stream) for job, stream in runs if _gpu(job) is None]
    return sum(opened.values()) + max(steps, default=0) + WORKING


def stream_bytes(stream: Stream) -> int:
    """Bytes of the stores behind a stream, each once, and of the indices into them."""
    stores: dict[int, int] = {}
    n = 0
    for index in range(len(stream)):
        for data in (stream[index].train, stream.test(index).data):
            stores[data.store_id()] = data.store_bytes
            n += len(data)
    return sum(stores.values()) + _INDEX * n


def training_bytes(job: Job, stream: Stream) -> int:
    """Bytes of the network's copies, the buffers and one step."""
    first = stream[0]
    row = first.train.take(torch.arange(min(1, len(first.train)))).raw
    fields: list[Mapping[str, object]] = [vars(part) for part in job.strategy.parts()]
    sizes = [part.get("memory_size", 0) for part in fields]
    n_kept = sum(size for size in sizes if isinstance(size, int))
    with untouched():
        model = build_model(job.architecture, stream.info, job.seed)
        model.observe(first.classes, first.task)
        weights = sum(value.numel() * value.element_size() for value in model.state_dict().values()
                      if isinstance(value, Tensor))
        whole, largest = _one_row(model, first.train)
        n_at_once = rows_at_once(model.eval(), row)
    batch = min(job.recipe.batch_size, max(len(stream[index].train) for index in range(len(stream))))
    tests = [stream.test(index) for index in range(len(stream))]
    asked = max(min(test.n_at_once, n_at_once, len(test.data)) for test in tests)
    return COPIES * weights + 2 * n_kept * n_bytes(row) + 2 * batch * whole + ALIVE * asked * largest


def _one_row(model: Model, data: Dataset) -> tuple[int, int]:
    """Bytes that autograd keeps for one row's backward pass, weights left out, and those of the largest tensor among
    them; measured with two rows."""
    n = max(1, min(2, len(data)))
    batch = data.take(torch.arange(min(2, len(data))))

    def compute() -> Tensor:
        ready = batch._replace(x=model.preprocess(batch.raw))
        return model.loss(ready, model(ready.x))

    total, largest = kept(model, compute)
    return total // n, largest // n


def _largest_gpu(jobs: Iterable[Job]) -> int | None:
    """The largest index of a GPU that the jobs name; None where they all train on a CPU."""
    hardware = {(job.hardware.accelerator, job.hardware.device): job for job in jobs}
    return max((gpu for job in hardware.values() if (gpu := _gpu(job)) is not None), default=None)


def _gpu(job: Job) -> int | None:
    """The index of the GPU that a job trains on; None on a CPU."""
    device = job.hardware.trainer().strategy.root_device
    return device.index or 0 if device.type == "cuda" else None
