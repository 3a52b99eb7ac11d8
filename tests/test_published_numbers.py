"""A subset of the published tables on real MNIST, two-sided, in about a minute: a number that drifts up fails too.

Each row runs two seeds through the same entry as `clf train`. The mean must lie within two standard errors of the
difference to the published one, whose deviation is taken for both. Skipped where MNIST is not on this machine.
"""

import math
import statistics

import pytest

from cl_framework.config import resolve
from cl_framework.errors import DataError
from cl_framework.launch import open_stream
from cl_framework.protocol import build_model, run_stream
from cl_framework.published import published
from cl_framework.registry import load

SEEDS = (0, 1)
ROWS = ("hsu2018/class/sgd", "hsu2018/class/rehearsal", "hsu2018/task/sgd", "gdumb2020/mlp100_memory300")


@pytest.fixture
def mnist(no_downloads):
    try:
        load("dataset", "mnist").load()
    except DataError as error:
        pytest.skip(f"MNIST is not on this machine: {str(error).splitlines()[0]}")


@pytest.mark.parametrize("experiment", ROWS)
def test_our_mean_is_the_published_one(mnist, experiment):
    (row,) = published([experiment])
    values = []
    for seed in SEEDS:
        job = resolve({"experiment": experiment, "seed": seed})
        stream = open_stream(job)
        record = run_stream(job.strategy, stream, build_model(job.architecture, stream.info, seed),
                            recipe=job.recipe, seed=seed)
        values.append(100 * float(record.accuracy[-1].mean()))
    assert row.std is not None and row.n is not None
    error = row.std * math.sqrt(1 / row.n + 1 / len(values))
    assert abs(statistics.fmean(values) - row.mean) <= 2 * error, f"{values} against {row.mean} ± {row.std}"
