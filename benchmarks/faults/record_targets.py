"""Run folders, records, presets, packages and the ledger of a search, and what reads them."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from fuzzing import REFERENCE
from target import Target, tar, zipped_up

from cl_framework import groups, report, summaries
from cl_framework.pairing import DEFAULT
from cl_framework.seal import sealed


def record_targets(home: Path) -> list[Target]:
    """What runs, searches and comparisons leave."""
    from cl_framework import check_record, compared, looking
    from cl_framework.config import resolve
    from cl_framework.frozen import read_tuned
    from cl_framework.runs import RunFolder
    from cl_framework.verdicts import Verdict

    protocols = REFERENCE / "protocols" / "grey_lite"
    records = [json.loads((protocols / f"{name}.json").read_text()) for name in ("er", "naive")]
    tuned = [yaml.safe_dump(sealed({**record["tuned"], "format": 2, "opened": [], "code": {}})).encode()
             for record in records]
    configs = [resolve({"scenario": "split_digits", "strategy": name, "order_seed": 1}).yaml().encode()
               for name in ("er", "er+lwf", "psmt")]
    finished = [json.dumps(_summary(seed)).encode() for seed in (0, 1)]
    check_record._splits = lambda _: Verdict("splits", None, "")  # it opens data sets
    compared.draw_ranks = compared.draw_slopes = lambda *_: []
    as_json = (json.loads, lambda tree: json.dumps(tree).encode())
    as_yaml = (yaml.safe_load, lambda tree: yaml.safe_dump(tree).encode())
    sealed_json = (json.loads, lambda tree: json.dumps(_sealed(tree)).encode())
    sealed_yaml = (yaml.safe_load, lambda tree: yaml.safe_dump(_sealed(tree)).encode())

    def reported(path: Path) -> None:
        runs = summaries.read_runs(path.parent)
        runs.notes()
        for write in report.FORMATS.values() if runs.finished else ():
            write(groups.group(runs.finished), DEFAULT, None)

    for name in ("config", "environment"):
        (home / f"{name}_reported").mkdir()
        (home / f"{name}_reported" / "summary.json").write_bytes(finished[0])
    return [
        Target(name="summary", file="seed0/summary.json", samples=finished, read=reported, tree=as_json),
        Target(name="config", file="config.yaml", samples=configs, read=lambda path: RunFolder(path.parent).job(),
               tree=as_yaml),
        Target(name="config_reported", file="config.yaml", samples=configs, read=reported, tree=as_yaml),
        Target(name="environment_reported", file="environment.json", samples=[b'{"data": {"digits": "0123"}}'],
               read=reported, tree=as_json),
        Target(name="best", file="best.yaml", samples=tuned, read=read_tuned, tree=sealed_yaml),
        Target(name="protocol", file="protocol.json", samples=[json.dumps(record).encode() for record in records],
               read=check_record.check_record, tree=sealed_json),
        Target(name="comparison", file="comparison.json", samples=[(protocols / "comparison.json").read_bytes()],
               read=lambda path: _silently(lambda: looking._report_protocol(path, None, ["protocol"])),
               tree=sealed_json),
    ]


def _sealed(tree: Any) -> Any:
    """With a digest that fits, as whoever edits on purpose would do."""
    try:
        return sealed(tree)
    except (TypeError, ValueError, AttributeError):
        return tree


def _silently(action: Callable[[], object]) -> object:
    with contextlib.redirect_stdout(io.StringIO()):
        return action()


def _summary(seed: int) -> dict[str, Any]:
    return {"scenario": "split_digits", "strategy": "er", "model": "mlp", "seed": seed, "order_seed": None,
            "phase": "single", "protocol": "single-phase", "config_hash": "0123456789", "git_commit": "abc",
            "metrics": {"average_accuracy": 0.5, "stability": 0.4, "strategy/rows": 100}, "status": "finished",
            "accuracy_matrix": [[0.9, None], [0.5, 0.7]], "task_accuracy_matrix": [[0.9, None], [0.9, 0.9]],
            "strategy_fields": {"er.memory_size": 100}, "strategy_config": {"er": {"memory_size": 100}},
            "experiences": [{"name": None, "n_classes": 2, "round": 1, "accuracy": 0.9, "online_error": None,
                             "calibration_error": None, "seconds": 1.0}] * 2, "seconds": 2.0}


def other_targets(home: Path) -> list[Target]:
    """Presets, packages with plugins, archives of package registries, the ledger of a search."""
    from cl_framework import offers, places, presets, registry
    from cl_framework.listing import describe
    from cl_framework.search import Space
    from cl_framework.study import Ledger

    preset = b"# clf train experiment=x\n" + yaml.safe_dump({
        "scenario": {"name": "split_digits"}, "strategy": {"name": "er", "er": {"memory_size": 5}},
        "train": {"lr": 0.1}, "published": {"mean": 1.0}}).encode()
    points = b"[cl_framework.strategies]\nmine = json.decoder:JSONDecoder\n[cl_framework.metrics]\nm = a.b:c\n"
    folder = home / "entry_points"
    info = folder / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    space = Space({"train.lr": (0.1, 0.2)})
    ledger = Ledger("s", space, home, None, "me")
    ledger.put_down([{"train.lr": 0.1}])
    journal = (home / "study.journal").read_bytes()

    def resolved(path: Path) -> object:
        presets._preset_text.cache_clear()
        presets._home.cache_clear()
        presets.preset_names.cache_clear()
        before, presets._roots = presets._roots, lambda: (path.parent.parent,)
        try:
            presets.published_section("x")
            return presets.preset("experiment", "x", must_exist=True)
        finally:
            presets._roots = before

    def offered(path: Path) -> None:
        for kept in (offers.offers, offers._points, registry.plugins, registry.contested):
            kept.cache_clear()
        sys.path.insert(0, str(folder))
        try:
            for kind in registry.GROUPS:
                registry.contested(kind)
                for name, point in registry.plugins(kind).items():
                    if not point.value.startswith("cl_framework."):
                        _refusable(lambda point=point: describe(point))
                        _refusable(lambda kind=kind, name=name: registry.load(kind, name))
        finally:
            sys.path.remove(str(folder))

    def unpacked(path: Path) -> object:
        before, places._run = places._run, lambda *_: None
        try:
            place: places.Place = places.Wheel("p", "1", "p/d") if path.suffix == ".whl" else places.NpmPackage(
                "p", "1", ("d",))
            return place.fetch(path.parent)
        finally:
            places._run = before

    return [
        Target(name="preset", file="experiment/x.yaml", samples=[preset], read=resolved, tree=(
            yaml.safe_load, lambda tree: yaml.safe_dump(tree).encode())),
        Target(name="entry_points", file="mine-1.0.dist-info/entry_points.txt", samples=[points], read=offered),
        Target(name="wheel", file="p-1.whl", samples=[zipped_up({"p/d/a": b"a", "p/x.py": b""})], read=unpacked),
        Target(name="npm", file="p-1.tgz", samples=[tar({"package/d/a": b"a", "package/x": b""}, "w:gz")],
               read=unpacked),
        Target(name="journal", file="study.journal", samples=[journal],
               read=lambda path: Ledger("s", space, path.parent, None, "me").trials()),
    ]


def _refusable(action: Callable[[], object]) -> None:
    """One plugin of several may be refused."""
    from cl_framework.errors import ClfError

    with contextlib.suppress(ClfError):
        action()
