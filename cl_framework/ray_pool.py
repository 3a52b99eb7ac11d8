"""`launcher=ray`: the same tasks on a Ray cluster, or on a Ray that is started here. Ray is used here alone.

Source: Moritz et al., Ray: A Distributed Framework for Emerging AI Applications, OSDI 2018. Ray places tasks and tells
of dead workers; what is taken up again, and how often, is decided in `pool`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_framework.errors import ClfError, ConfigError
from cl_framework.pool import Died, Work
from cl_framework.registry import see_current_folder
from cl_framework.stopping import leave

PATIENCE = 20.0
"""Seconds without an answer after which the head of a cluster is given up."""
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
          "RAY_DEDUP_LOGS_SKIP_REGEX": "(?s).*"}
"""No statistics to its makers, a run without a GPU sees none, and no line of a worker's log on our output."""


@dataclass(frozen=True)
class Place:
    """Where the user stands. A worker goes there first; the folder is on a file system that all machines share."""

    folder: str
    variables: Mapping[str, str]

    @staticmethod
    def here() -> Place:
        """This process's folder, and the variables that say where data lies."""
        return Place(str(Path.cwd()), {name: value for name, value in os.environ.items() if name.startswith("CLF_")})

    def enter(self) -> None:
        """Stand there.

        Raises:
            ClfError: this machine does not have the folder.
        """
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ClfError(f"{socket.gethostname()} cannot enter {self.folder}: {error.strerror}; launcher=ray needs "
                           "a folder that all machines of the cluster share") from error
        os.environ.update(self.variables)
        see_current_folder()


class Cluster:
    """Tasks of one or more CPUs each, on request with one GPU, on a Ray cluster.

    A process does many tasks, but one alone where it has a GPU: CUDA keeps the first GPU that it has seen and memory on
    it, and Ray may give the next task another.

    Args:
        address: host:port of the head, or auto for the one on this machine; a Ray of our own is started when None.
        workers: how many CPUs a Ray of our own has.
        has_gpu: each task gets a GPU.
        cpus: how many CPUs each task gets, at most all of one machine.

    Raises:
        ConfigError: Ray is not installed, nothing answers at the address, or the cluster has no GPU.
    """

    def __init__(self, address: str | None, workers: int, has_gpu: bool, cpus: int = 1) -> None:
        self._ray = _import_ray()
        if not self._ray.is_initialized():
            with _own_signals():
                _connect(self._ray, address, workers)
        found = self._ray.cluster_resources()
        if has_gpu and found.get("GPU", 0) < 1:
            self._ray.shutdown()
            raise ConfigError("the Ray cluster has no GPU; set trainer.accelerator=cpu, or start its machines with "
                              "--num-gpus")
        cpus = min(cpus, max((int(own["Resources"].get("CPU", 1)) for own in self._ray.nodes()), default=1))
        n_fit = int(found.get("CPU", 1)) // max(1, cpus)
        self.n_places = max(1, min(n_fit, int(found["GPU"])) if has_gpu else n_fit)
        """How many tasks the whole cluster does at once."""
        self._task = self._ray.remote(num_cpus=cpus, num_gpus=int(has_gpu), max_retries=0,
                                      max_calls=int(has_gpu))(_there)
        self._doors = _doors(self._ray)
        self._under_way: set[Hashable] = set()

    def start(self, work: Work, task: Any) -> Hashable:
        """Hand a task to the cluster, which begins it when a CPU is free."""
        handle: Hashable = self._task.remote(Place.here(), work, task)
        self._under_way.add(handle)
        return handle

    def over(self, handles: Collection[Hashable]) -> Collection[Hashable]:
        """Those of the handles that are over; at least one.

        Raises:
            ClfError: the head of the cluster is gone.
        """
        heard = time.monotonic()
        while True:
            try:
                done: list[Hashable] = self._ray.wait(list(handles), num_returns=1, timeout=1.0)[0]
            except SystemExit:  # Ray makes a plain one of what the handler of SIGTERM raises
                leave(is_saved=False)
            if done:
                return done
            if all(_answers(door) for door in self._doors):
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE:
                raise ClfError("the Ray cluster is lost: its head or this machine's part of it does not answer; start "
                               "it again and give the same command again, finished runs are kept and others go on "
                               "from their checkpoints")

    def outcome(self, handle: Hashable) -> Any:
        """What the task returned or raised."""
        self._under_way.discard(handle)
        try:
            return self._ray.get(handle)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise Died from error

    def stop(self) -> None:
        """Kill the workers that have a task of ours, and leave the cluster."""
        handles = list(self._under_way)
        self._under_way.clear()
        with suppress(Exception):  # a cluster that is lost has nothing left to end
            for handle in handles:
                self._ray.cancel(handle, force=True)
            if handles and all(_answers(door) for door in self._doors):
                self._ray.wait(handles, num_returns=len(handles), timeout=5.0)
        with suppress(Exception):
            self._ray.shutdown()


def _import_ray() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"launcher=ray needs Ray, which cannot be imported ({error}); install it with "
                          "pip install cl-framework[ray], or take launcher=local") from error
    return ray


def _connect(ray: Any, address: str | None, workers: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        ray.init(address="local", num_cpus=workers, include_dashboard=False, **quiet)
        return
    door = _door(address)
    if address != "auto" and (door is None or not _answers(door)):
        raise ConfigError(f"no Ray cluster answers at ray_address={address}; expected host:port of its head, or auto "
                          "on one of its machines, where `ray start` has been given")
    try:
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"the Ray cluster at ray_address={address} cannot be joined: {reason}; give `ray start` on "
                          "this machine first, with the same versions of Ray and Python, and set RAY_AUTH_MODE=token "
                          "if the cluster asks for a token") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; it stays ours."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _doors(ray: Any) -> list[tuple[str, int]]:
    """Where the head and this machine's part of the cluster listen."""
    context = ray.get_runtime_context()
    own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    head = _door(context.gcs_address)
    return [*([] if head is None else [head]), (own["NodeManagerAddress"], own["NodeManagerPort"])]


def _door(address: str) -> tuple[str, int] | None:
    """Host and port; None where it is no such address.

    >>> _door("head:6379"), _door("ray://head:10001"), _door("auto")
    (('head', 6379), None, None)
    """
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() and "/" not in host else None


def _answers(door: tuple[str, int]) -> bool:
    try:
        socket.create_connection(door, timeout=5.0).close()
    except OSError:
        return False
    return True


def _there(place: Place, work: Work, task: Any) -> Any:
    """Do a task on whatever machine this is."""
    place.enter()
    return work(task)
