"""`clf merge`: the experts of one base, in safetensors files, become one file.

    clf merge base=A experts=B,C,D method=opcm out=E alpha=0.6

A method is a strategy that merges, and its fields are keys. One layer is in memory at a time; merged updates that wait
for the next expert lie beside `out`. The file appears under its name when it is whole.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_framework.errors import ClfError, ConfigError
from cl_framework.grammar import Command
from cl_framework.keys import take

if TYPE_CHECKING:
    from cl_framework.merging import Merging
    from cl_framework.state_dicts import Merge

_KEYS = ("base", "experts", "method", "out", "seed", "keep", "embeddings")


def merge_verb(command: Command) -> int:
    """Merge files and say what was done."""
    from cl_framework.config import filled

    experts = [Path(str(path)) for path in command.values.get("experts", [])]
    needed = {"base": "FILE", "experts": "FILE,FILE", "method": "NAME", "out": "FILE"}
    faults = [f"say {key}={what}" for key, what in needed.items() if key not in command.values]
    if faults:
        raise ConfigError(faults)
    name = str(command.values["method"][0])
    cls = _class_of(name)
    fields = _settings(cls)
    training = [key for key in command.values if key in cls.training_fields]
    if training:
        raise ConfigError(f"{' and '.join(training)} of {name} says how experts are trained; these are finished, "
                          "drop it")
    plain = {key: values for key, values in command.values.items() if key != "experts"}
    given = take(replace(command, values=plain), [*_KEYS, *fields])
    rule: Merging = filled("", cls, {key: value for key, value in given.items() if key in fields})
    seed = given.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed must be a whole number of 0 or more, got {seed}")
    patterns = {key: str(given[key]) for key in ("keep", "embeddings") if key in given}
    out = Path(str(given["out"]))
    merged = merge_files(rule, Path(str(given["base"])), experts, out, seed=seed, method=name, **patterns)
    n_kept = len(merged) - len(merged.sorting.layers) - len(merged.sorting.statistics) - len(merged.sorting.tied)
    print(f"merged {len(experts)} expert{'s' * (len(experts) > 1)} with {name}: {len(merged.sorting.layers)} tensors "
          f"merged, {len(merged.sorting.tied)} tied to them, {len(merged.sorting.statistics)} averaged, {n_kept} of "
          "the base")
    for key, value in {"factor": merged.merger.factor, "mean_update_norm": merged.merger.totals.mean_norm,
                       **merged.merger.notes}.items():
        print(f"  {key:24} {value:.6g}")
    print(f"wrote {out}")
    return 0


def merge_files(rule: Merging, base: Path, experts: list[Path], out: Path, *, method: str, seed: int = 0,
                **patterns: str) -> Merge:
    """Merge the models of some files, each a .safetensors file or a folder of them.

    Args:
        rule: how.
        base: theta_0.
        experts: in the order in which they came.
        out: the file to write; an old one stays whole until the new one is.
        method: what the rule is called, for the metadata of the file.
        seed: for rules that draw.
        patterns: `keep` and `embeddings` of `sort_tensors`.

    Raises:
        ConfigError: every fault of what was given, before anything is written.
        ClfError: the disk is full or cannot be written.
    """
    from cl_framework.state_dicts import Merge
    from cl_framework.tensor_files import Scratch, TensorFiles, disk_faults, write_tensors

    faults, found = list[str](), dict[Path, TensorFiles]()
    for path in dict.fromkeys([base, *experts]):
        try:
            found[path] = TensorFiles(path)
        except ConfigError as error:
            faults += error.faults
        if path.resolve() in (out.resolve(), out.resolve().parent):
            faults.append(f"out={out} would overwrite or join {path}, which is read; choose another place")
    if out.suffix != ".safetensors" or out.is_dir():
        faults.append(f"out={out} must be a file that ends in .safetensors")
    if faults:
        raise ConfigError(faults)
    named = {str(path) if experts.count(path) == 1 else f"{path} ({place})": found[path]
             for place, path in enumerate(experts, 1)}
    with disk_faults(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            merged = Merge(rule, found[base], named, seed=seed, fresh=lambda: Scratch(Path(folder)), **patterns)
            write_tensors(out, merged, found[base].forms, {**found[base].metadata, **_metadata(rule, method, experts)})
    return merged


def _metadata(rule: Merging, method: str, experts: list[Path]) -> dict[str, str]:
    values = {name: value for name, value in vars(rule).items() if name in _settings(type(rule))}
    return {"format": "pt", "merged": json.dumps({"method": method, **values, "experts": [p.name for p in experts]})}


def _settings(cls: Any) -> list[str]:
    """The fields that say how to merge."""
    return [spec.name for spec in dataclasses.fields(cls) if spec.name not in cls.training_fields]


def _class_of(name: str) -> Any:
    """The class of a strategy that merges.

    Raises:
        ConfigError: there is none of this name, or it does not merge.
    """
    from cl_framework.merging import Merging
    from cl_framework.registry import load, plugins

    cls = load("strategy", name)
    if issubclass(cls, Merging) and dataclasses.is_dataclass(cls):
        return cls
    able = []
    for other in plugins("strategy"):
        try:
            able += [other] if issubclass(load("strategy", other), Merging) else []
        except ClfError:
            continue
    raise ConfigError(f"method={name} is no strategy that merges; there are {', '.join(able)}")
