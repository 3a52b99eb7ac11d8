"""`clf merge`: the experts of one base, in safetensors files, become one file.

    clf merge base=A experts=B,C,D method=opcm out=E alpha=0.6

A method is a strategy that merges, and its fields are keys. One layer is in memory at a time; merged updates that wait
for the next expert lie beside `out`. The file appears under its name when it is whole.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_framework.errors import ClfError, ConfigError
from cl_framework.grammar import Command
from cl_framework.keys import take
from cl_framework.stopping import heeding

if TYPE_CHECKING:
    from cl_framework.merging import Merging
    from cl_framework.state_dicts import Merge

_NEEDED = {"base": "FILE", "experts": "FILE,FILE", "method": "NAME", "out": "FILE"}
_PATTERNS = {"keep": "to merge every tensor", "embeddings": "for the usual names"}
"""Regular expressions, and what leaving one out is for."""


def merge_verb(command: Command) -> int:
    """Merge files and say what was done."""
    from cl_framework.sections import filled

    values = dict(command.values)
    values["experts"] = [path for paths in values.get("experts", []) for path in
                         (paths if isinstance(paths, list) else [paths])]
    faults = [f"say {key}={what}" for key, what in _NEEDED.items() if not values.get(key) or None in values[key]]
    if faults:
        raise ConfigError(faults)
    experts = [Path(str(path)) for path in values.pop("experts")]
    name = str(values["method"][0])
    cls = _class_of(name)
    fields = _settings(cls)
    training = [key for key in values if key in cls.training_fields]
    if training:
        raise ConfigError(f"{' and '.join(training)} of {name} says how experts are trained; these are finished, "
                          "drop it")
    given = take(replace(command, values=values), [*_NEEDED, "seed", *_PATTERNS, *fields])
    rule: Merging = filled("", cls, {key: value for key, value in given.items() if key in fields})
    seed = given.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed must be a whole number of 0 or more, got {'null' if seed is None else seed}")
    patterns, out = _patterns(given), Path(str(given["out"]))
    with heeding():
        merged = merge_files(rule, Path(str(given["base"])), experts, out, seed=seed, method=name, **patterns)
    n_kept = len(merged) - len(merged.sorting.layers) - len(merged.sorting.statistics) - len(merged.sorting.tied)
    still = f" ({merged.merger.n_still} of them without an update that is left)" if merged.merger.n_still else ""
    print(f"merged {len(experts)} expert{'s' * (len(experts) > 1)} with {name}: {len(merged.sorting.layers)} tensors "
          f"merged{still}, {len(merged.sorting.tied)} tied to them, {len(merged.sorting.statistics)} averaged, "
          f"{n_kept} of the base")
    for key, value in {"factor": merged.merger.factor, "mean_update_norm": merged.merger.totals.mean_norm,
                       **merged.merger.notes}.items():
        print(f"  {key:24} {value:.6g}")
    print(f"wrote {out}")
    if not merged.merger.factor * merged.merger.totals.norm:
        print("note: no update is left, the merged weights are those of the base; raise density or coefficient where "
              "the method has it", file=sys.stderr)
    return 0


def _patterns(given: dict[str, Any]) -> dict[str, str]:
    """The regular expressions that are given; a number is one."""
    found = {key: given[key] for key in _PATTERNS if key in given}
    faults = [f"{key} must be a regular expression, got {'null' if value is None else value}; leave it out "
              f"{_PATTERNS[key]}" for key, value in found.items()
              if isinstance(value, bool) or not isinstance(value, str | int)]
    if faults:
        raise ConfigError(faults)
    return {key: str(value) for key, value in found.items()}


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
        Diverged: a merged tensor does not fit its type; nothing is written.
        ClfError: the disk is full or cannot be written.
    """
    from cl_framework.state_dicts import Merge
    from cl_framework.tensor_files import Scratch, TensorFiles, disk_faults, made_folder, workplace, write_tensors

    faults, found = list[str](), dict[Path, TensorFiles]()
    for path in dict.fromkeys([base, *experts]):
        try:
            found[path] = TensorFiles(path)
        except ConfigError as error:
            faults += error.faults
            continue
        with disk_faults(out):
            if (out.exists() and _place_of(out) in found[path].places) or (
                    any(place.exists() and path.samefile(place) for place in (out, out.parent))):
                faults.append(f"out={out} would overwrite or join {path}, which is read; choose another place")
    for path, other in itertools.combinations(experts, 2):
        if path in found and other in found and found[path].places == found[other].places:
            faults.append(f"expert {path} is given twice{'' if path == other else f', once as {other}'}; give each "
                          "expert once")
    if out.suffix != ".safetensors" or out.is_dir():
        faults.append(f"out={out} must be a file that ends in .safetensors")
    if faults:
        raise ConfigError(faults)
    named = {str(path): found[path] for path in experts}
    with disk_faults(out), made_folder(out.parent), workplace(out) as folder:
        merged = Merge(rule, found[base], named, seed=seed, fresh=lambda: Scratch(folder), **patterns)
        write_tensors(out, merged, found[base].forms, {**found[base].metadata, **_metadata(rule, method, experts)},
                      folder)
    return merged


def _place_of(path: Path) -> tuple[int, int]:
    """Device and inode."""
    found = path.stat()
    return found.st_dev, found.st_ino


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
    from cl_framework.registry import load, plugins, unknown

    is_known = ":" in name or name in plugins("strategy")
    if is_known:
        cls = load("strategy", name)
        if issubclass(cls, Merging) and dataclasses.is_dataclass(cls):
            return cls
    able = []
    for other in plugins("strategy"):
        try:
            able += [other] if issubclass(load("strategy", other), Merging) else []
        except ClfError:
            continue
    raise ConfigError(f"method={name} is no strategy that merges; there are {', '.join(able)}" if is_known else
                      unknown("strategy that merges", name, able))
