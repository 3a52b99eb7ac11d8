"""Digests of the source files of a run's plugins: which code was used, where a commit does not say it.

A plugin of the user's own lies outside this checkout, and two uncommitted states of one commit have one name.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path

from cl_framework.job import Job
from cl_framework.models import Architecture
from cl_framework.scenario import Scenario
from cl_framework.strategy import Strategy

Code = Mapping[str, Mapping[str, str]]
"""Of each plugin, `strategy er`, the digests of its modules' files: its class, and those that it is made from."""


def code_of(job: Job) -> dict[str, dict[str, str]]:
    """The code of the scenario, the model and each part of the strategy, up to the contract that they fulfil."""
    parts = zip(job.name("strategy").split("+"), job.strategy.parts(), strict=True)
    made: list[tuple[str, type, type]] = [
        (f"scenario {job.name('scenario')}", type(job.scenario), Scenario),
        (f"model {job.name('model')}", type(job.architecture), Architecture),
        *((f"strategy {name}", type(part), Strategy) for name, part in parts)]
    return {name: dict(_files(cls, contract)) for name, cls, contract in made}


def own_code(code: Code) -> dict[str, dict[str, str]]:
    """What the hash of a run takes from the code: the modules that are named by their path, `module:Class`."""
    own = {module: digest for name, files in code.items() for module, digest in files.items()
           if name.partition(" ")[2].startswith(f"{module}:")}
    return {"code": own} if own else {}


def changed_code(before: Code, now: Code) -> list[str]:
    """The plugins whose source is another one, with the modules that differ."""
    found = []
    for name in sorted({*before, *now}):
        then, here = before.get(name, {}), now.get(name, {})
        modules = sorted(module for module in {*then, *here} if then.get(module) != here.get(module))
        found += [f"{name} ({', '.join(modules)})"] if modules else []
    return found


def _files(cls: type, contract: type) -> Iterator[tuple[str, str]]:
    for each in takewhile(lambda base: base is not contract, cls.__mro__):
        try:
            file = Path(inspect.getfile(each))
        except (TypeError, OSError):  # written at a prompt
            continue
        yield each.__module__, hashlib.sha256(file.read_bytes()).hexdigest()
