"""The hash of a configuration, and what the `config.yaml` of a run says whatever the order of its classes.

The hash of a run stands for its order seed, too. The digest of a `Configuration` is that hash of the same configuration
without the order seed. It is known only where the file gives back the run's own hash: where the source of a plugin that
is named by its path has changed since, or the file was edited, the configuration of the run is no longer known. Imports
no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_framework.later_fields import counted
from cl_framework.listing import spec_of
from cl_framework.plain_files import read_yaml
from cl_framework.registry import see_current_folder

_NO_HASH = (("seed",), ("track",), ("train", "checkpoint_every"))


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What is known of a run's configuration.

    Attributes:
        digest: equal for runs that differ in seed, order seed, tracking or checkpoint interval alone; None: not known.
        scenario: the fields of the scenario, without its name, as JSON; empty where they are not known.
        fields: those of all else that counts, by their keys on the command line, as JSON; empty where not known.
    """

    digest: str | None = None
    scenario: str = ""
    fields: str = ""


UNKNOWN = Configuration()
"""Where there is no file that says it."""


def read_configuration(folder: Path, config_hash: str) -> Configuration:
    """The configuration in a run folder.

    Args:
        folder: the run folder.
        config_hash: the hash that its `summary.json` states.
    """
    try:
        tree = read_yaml(folder / "config.yaml")
    except (OSError, ValueError):
        return UNKNOWN
    if not isinstance(tree, dict) or not isinstance(tree.get("scenario"), dict):
        return UNKNOWN
    fields = {name: value for name, value in tree["scenario"].items() if name != "name"}
    try:
        scenario = json.dumps(fields, sort_keys=True) if fields else ""
        rest = {key: value for key, value in tree.items() if isinstance(value, dict) and key != "scenario"}
        tree |= _code(tree)
        own = hash_of(tree)
    except TypeError:  # keys of several kinds, which no configuration of ours has
        return UNKNOWN
    if own != config_hash:
        return Configuration(scenario=scenario)
    return Configuration(scenario=scenario, fields=json.dumps(dict(_flat(_counted(rest), "")), sort_keys=True),
                         digest=hash_of({key: value for key, value in tree.items() if key != "order_seed"}))


def hash_of(tree: Mapping[str, Any]) -> str:
    """The hash of a configuration without what does not change a run's group."""
    return hashlib.sha256(json.dumps(_counted(tree), sort_keys=True).encode()).hexdigest()[:10]


def _counted(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of what counts."""
    copy: dict[str, Any] = json.loads(json.dumps(tree))
    for *path, last in _NO_HASH:
        branch = copy
        for key in path:
            branch = branch.get(key, {})
        if isinstance(branch, dict):
            branch.pop(last, None)
    return copy | {name: counted(copy[name]) for name in ("train", "trainer", "model")
                   if isinstance(copy.get(name), dict)}


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The leaves below a key, by dotted keys."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _code(tree: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Digests of the files of plugins that are named by their path, as they are now; they are not imported."""
    names = [str(tree[group]["name"]) for group in ("scenario", "strategy", "model") if "name" in tree.get(group, {})]
    modules = {part.partition(":")[0] for name in names for part in name.split("+") if ":" in part}
    files = {module: file for module in sorted(modules) if (file := _file(module)) is not None}
    return {"code": {module: hashlib.sha256(file.read_bytes()).hexdigest() for module, file in files.items()}
            } if files else {}


def _file(module: str) -> Path | None:
    see_current_folder()
    try:
        spec = spec_of(module)
    except Exception:  # whatever a finder makes of a name that a file gives it
        return None
    return None if spec is None or spec.origin is None or not Path(spec.origin).is_file() else Path(spec.origin)
