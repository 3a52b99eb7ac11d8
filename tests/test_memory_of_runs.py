"""What runs will hold in memory, what a machine has free, and how many workers that makes."""

import os
from pathlib import Path

import pytest
import torch

from cl_framework import cli, local_pool
from cl_framework.activations import MOST
from cl_framework.config import resolve
from cl_framework.data import Dataset
from cl_framework.launch import open_stream
from cl_framework.machine import available_memory, fitting, resident_bytes
from cl_framework.memory_of_runs import ALIVE, COPIES, WORKING, load_of, need, stream_bytes, training_bytes
from cl_framework.scenario import Part, ResidentStream
from cl_framework.types import Setting, StreamInfo

MIB = 2**20


def machine(root, available=1000 * MIB, group="", **files):
    """A faked /proc and /sys."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {available // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(group)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name.replace("__", "/").replace("-", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(text))
    return root


# The machine

def test_without_a_limit_all_that_is_available_counts(tmp_path):
    assert available_memory(machine(tmp_path)) == 1000 * MIB
    assert available_memory(tmp_path / "nothing") is None


def test_the_narrowest_control_group_counts(tmp_path):
    """Room is the limit less what is used, without file pages that can be dropped; a group around ours counts."""
    root = machine(tmp_path, group="0::/slice/job\n", **{
        "slice__job__memory-max": "max", "slice__job__memory-current": 5, "slice__job__memory-stat": "anon 5\n",
        "slice__memory-max": 600 * MIB, "slice__memory-current": 250 * MIB,
        "slice__memory-stat": f"anon 1\ninactive_file {50 * MIB}\n"})
    assert available_memory(root) == 400 * MIB


def test_a_control_group_of_version_1(tmp_path):
    root = machine(tmp_path, group="4:cpu:/x\n9:memory:/docker/abc\n", **{
        "memory__memory-limit_in_bytes": 300 * MIB, "memory__memory-usage_in_bytes": 100 * MIB,
        "memory__memory-stat": f"total_inactive_file {20 * MIB}\n"})
    assert available_memory(root) == 220 * MIB


def test_a_group_that_is_over_its_limit_leaves_nothing(tmp_path):
    root = machine(tmp_path, group="0::/\n", **{"memory-max": 10, "memory-current": 50, "memory-stat": "anon 50\n"})
    assert available_memory(root) == 0


def test_this_process_holds_what_the_kernel_says():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    assert resident_bytes() == pytest.approx(int(line.split()[1]) * 1024, rel=0.02)


@pytest.mark.parametrize(("room", "n"), [(24, 8), (23, 7), (2, 1), (None, 8)])
def test_how_many_fit(room, n):
    found, note = fitting(8, 3, room)
    assert found == n and (note is None) == (n == 8)


# The runs

def test_the_bytes_of_a_stream_are_its_stores_each_once():
    store = torch.zeros(100, 1, 4, 4, dtype=torch.uint8)
    rows = Dataset(store, torch.zeros(100, dtype=torch.int64))
    other = Dataset(torch.zeros(10, 1, 4, 4, dtype=torch.uint8), torch.zeros(10, dtype=torch.int64))
    parts = [Part(train=rows.subset(torch.arange(k, 50 + k)), test=other, classes=(0,), class_names=("0",))
             for k in (0, 50)]
    info = StreamInfo(n_experiences=2, n_classes=1, input_shape=(1, 4, 4), setting=Setting.DOMAIN, mean=(0.0,),
                      std=(1.0,))
    assert stream_bytes(ResidentStream(info, parts)) == 100 * 16 + 10 * 16 + 24 * (50 + 50 + 10 + 10)


def job_of(**values):
    return resolve({"scenario": "split_digits", "strategy": "naive", **{key.replace("__", "."): value
                                                                        for key, value in values.items()}})


def test_the_bytes_of_training_by_hand():
    """A perceptron with one hidden layer of 32 over 64 pixels: autograd keeps a row's pixels, its 32 features (their
    rectified values serve both layers) and its 10 log-probabilities, which are 4 bytes each."""
    weights = 4 * (64 * 32 + 32 + 32 * 10 + 10)
    stream = open_stream(job_of())
    assert max(len(stream.test(k).data) for k in range(5)) == 72 < MOST
    for batch_size in (16, 128):
        job = job_of(model__hidden=[32], train__batch_size=batch_size)
        expected = 2 * batch_size * 4 * (64 + 32 + 2) + ALIVE * 72 * 4 * 64
        assert training_bytes(job, stream) - COPIES * weights == pytest.approx(expected, rel=0.05)
        buffered = job_of(strategy="er", strategy__er__memory_size=200, model__hidden=[32],
                          train__batch_size=batch_size)
        assert training_bytes(buffered, stream) - training_bytes(job, stream) == 2 * 200 * 64


def test_runs_share_their_streams_and_the_largest_counts():
    small, large = job_of(model__hidden=[8]), job_of(model__hidden=[4000, 4000])
    runs = [(job, open_stream(job)) for job in (small, large, job_of(order_seed=3))]
    stream = runs[0][1]
    assert need(runs) == stream_bytes(stream) + training_bytes(large, stream) + WORKING
    load = load_of([job for job, _ in runs], open_stream)
    assert load.need() == need(runs) and load.gpu() is None


def test_an_estimate_draws_no_random_number():
    before = torch.random.get_rng_state()
    training_bytes(job_of(), open_stream(job_of()))
    assert torch.equal(torch.random.get_rng_state(), before)


# The pool

def test_fewer_workers_than_asked_for_are_said_in_one_line(tmp_path, monkeypatch, capsys):
    """1000 MiB are available, and a worker is 300 MiB and what the runs need: two of four do the runs."""
    root = machine(tmp_path / "machine")
    monkeypatch.setattr(local_pool, "available_memory", lambda: available_memory(root))
    pool = local_pool.Processes()
    monkeypatch.setattr(pool, "base", lambda work: 300 * MIB)
    monkeypatch.setattr(local_pool, "processes", lambda: pool)
    words = ["scenario=split_digits", "strategy=naive", "train.epochs=1", "track.wandb=disabled", "seed=0..2"]
    assert cli.main(["train", *words, "launcher=local", "workers=4", f"out={tmp_path}"]) == 0
    assert pool.room == 900 * MIB
    assert "workers=4: memory suffices for 2 (0.4 GiB each), using 2\n" in capsys.readouterr().err
    assert len(pool._idle) == 2 and len(list(tmp_path.rglob("summary.json"))) == 3
    pool.stop()


def test_a_fresh_worker_is_measured_with_what_its_work_imports():
    pool = local_pool.Processes()
    plain = pool.base(os.getpid)
    assert 5 * MIB < plain < 200 * MIB and pool.base(os.getpid) == plain
    pool.stop()
