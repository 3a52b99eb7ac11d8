"""The run folder: same configuration, same folder; `summary.json` is written last and means finished."""

from __future__ import annotations

import platform
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cl_framework.config import from_tree
from cl_framework.configuration import hash_of
from cl_framework.errors import ConfigError
from cl_framework.files import write_atomic, write_json
from cl_framework.holding import Hold, holding
from cl_framework.job import Job
from cl_framework.plain_files import read_json, read_text, read_yaml

_PACKAGES = ("torch", "lightning", "torchmetrics", "avalanche-lib", "omegaconf", "wandb", "numpy", "cl-framework")


class RunFolder:
    """`<out>/<scenario>/<strategy>/<hash>/seed<k>`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hold: Hold | None = None

    @staticmethod
    def of(job: Job, out: Path) -> RunFolder:
        """The folder of a job."""
        names = [job.name(group).replace(":", ".").replace("/", ".") for group in ("scenario", "strategy")]
        return RunFolder(out / names[0] / names[1] / job.hash / f"seed{job.seed}")

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    def summary(self) -> dict[str, Any] | None:
        """What a finished run says of itself; None while it is not finished."""
        try:
            summary = read_json(self.path / "summary.json")
            if not isinstance(summary, dict):
                raise ValueError("it holds no object")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path / 'summary.json'} is damaged ({error}); remove it and give the same "
                              "command again: the run ends from its last checkpoint") from error
        return {**summary, "path": str(self.path)}

    def job(self) -> Job:
        """The job that the folder belongs to.

        Raises:
            ConfigError: there is no readable configuration.
        """
        file = self.path / "config.yaml"
        try:
            tree = read_yaml(file)
        except FileNotFoundError:
            raise ConfigError(f"{self.path} is no run folder: it has no config.yaml; give run=PATH of a folder that "
                              "ends in seed<k>") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read ({error}); remove it and give the run's own command again, its "
                              "checkpoints are kept") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"{file} holds no configuration; remove it and give the run's own command again, its "
                              "checkpoints are kept")
        try:
            return from_tree(tree)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{file} was changed and holds no whole configuration any more ({error!r}); remove it "
                              "and give the run's own command again, its checkpoints are kept") from error

    def was_renumbered(self, job: Job) -> bool:
        """Whether the folder is named after its own configuration, which today's clf reads as another one."""
        own = hash_of(read_yaml(self.path / "config.yaml"))
        return own == self.path.resolve().parent.name != job.hash

    def command(self) -> str:
        """The command that began the run."""
        try:
            return read_text(self.path / "command.txt").strip()
        except (OSError, ValueError):
            return "clf train"

    def prepare(self, job: Job, command: str, device: str, data: Mapping[str, str]) -> str:
        """Write what identifies the run; the W&B run id, which a resumed run keeps.

        Raises:
            ConfigError: the folder belongs to another configuration.
        """
        if (self.path / "config.yaml").exists() and self.job().hash != job.hash:
            raise ConfigError(f"{self.path} holds a run of another configuration (its config.yaml was changed?); "
                              "choose another folder with out=DIR, or remove it")
        self.check_data(data)
        environment = self._environment(device, data)
        write_atomic(self.path / "config.yaml", job.yaml())
        if not (self.path / "command.txt").exists():
            write_atomic(self.path / "command.txt", command + "\n")
        write_json(self.path / "environment.json", environment)
        return str(environment["wandb_id"])

    def check_data(self, data: Mapping[str, str]) -> None:
        """Refuse to go on, or to show numbers, with other data than the run was begun on.

        Raises:
            ConfigError: shows both digests.
        """
        known = self._noted().get("data", data)
        if known != dict(data):
            raise ConfigError(f"{self.path} was begun on other data ({known}, now {dict(data)}); put the old files "
                              "back, or choose another folder with out=DIR")

    def _noted(self) -> dict[str, Any]:
        """What environment.json holds; nothing where there is none."""
        try:
            noted = read_json(self.path / "environment.json")
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def _environment(self, device: str, data: Mapping[str, str]) -> dict[str, Any]:
        run_id = str(self._noted().get("wandb_id") or uuid.uuid4().hex[:12])
        return {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}",
                "device": device, "threads": torch.get_num_threads(), "git_commit": git_commit(),
                "packages": {name: version(name) for name in _PACKAGES}, "data": dict(data), "wandb_id": run_id}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the operating system lets go of it when the process ends, however it ends.

        Raises:
            ConfigError: another process is running it.
        """
        with holding(self.path) as self._hold:
            yield

    def check_held(self) -> None:
        """Refuse to write into a folder that is another one than was locked; nothing where none was.

        Raises:
            ClfError: it was removed or moved since.
        """
        if self._hold is not None:
            self._hold.check()


def git_commit() -> str | None:
    """The commit of this package's sources, with `-dirty` where they differ; None where they are no checkout."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here.parent), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    sources = [str(here.parent), *(str(here.parent.parent / name) for name in ("strategies", "scenarios", "configs"))]
    return f"{commit}-dirty" if commit and git("status", "--porcelain", "--", *sources) else commit
