"""`launcher=ray` where there is no cluster, where its head is lost, and where it has no GPU."""

import importlib.util
import os
import sys
import time

import pytest

from cl_framework import cli, ray_pool
from cl_framework.errors import ClfError, ConfigError
from cl_framework.launchers import Launcher, Load

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
FAST = ["scenario=split_digits", "strategy=naive", "train.epochs=1", "track.wandb=disabled", "launcher=ray"]


@pytest.fixture(scope="module", autouse=True)
def _no_ray_left():
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:10001", "nonsense"])
def test_a_cluster_that_is_not_there(address, tmp_path, monkeypatch, capsys):
    assert cli.main(["train", *FAST, f"out={tmp_path}", f"ray_address={address}"]) == 2
    assert f"no Ray cluster answers at ray_address={address}" in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cli.main(["train", *FAST, f"out={tmp_path}"]) == 2


def test_a_lost_head_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_pool, "PATIENCE", 0.0)
    cluster = ray_pool.Cluster(None, 2, has_gpu=False)
    monkeypatch.setattr(cluster, "_doors", [("127.0.0.1", 1)])
    handle = cluster.start(time.sleep, 60)
    with pytest.raises(ClfError, match=r"the Ray cluster is lost.*finished runs are kept"):
        cluster.over([handle])
    cluster.stop()


def test_a_cluster_without_a_gpu():
    with pytest.raises(ConfigError, match="has no GPU"):
        list(Launcher(name="ray", workers=2).run(abs, [1], Load(need=lambda: 0, gpu=lambda: 0)))
    with pytest.raises(ConfigError, match=r"trainer\.device=2 with launcher=ray"):
        list(Launcher(name="ray", workers=2).run(abs, [1], Load(need=lambda: 0, gpu=lambda: 2)))


def test_runs_on_gpus_have_one_each_and_a_process_of_their_own():
    """A cluster that says it has two GPUs and four CPUs."""
    ray = ray_pool._import_ray()
    ray.shutdown()
    ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level=40)
    assert ray_pool.Cluster(None, 4, has_gpu=False).n_places == 4
    assert ray_pool.Cluster(None, 4, has_gpu=True).n_places == 2
    assert ray_pool.Cluster(None, 4, has_gpu=False, cpus=2).n_places == 2
    assert ray_pool.Cluster(None, 4, has_gpu=False, cpus=99).n_places == 1, "of a machine all CPUs, and no more"

    def seen(task):
        return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]

    made = dict(Launcher(name="ray").run(seen, range(4), Load(need=lambda: 0, gpu=lambda: 0)))
    assert len({pid for pid, _ in made.values()}) == 4 and {gpu for _, gpu in made.values()} == {"0", "1"}
    ray.shutdown()
