"""Packages with faults beside sound ones: they are listed as broken, with their reason, and take nothing down."""

import json
import os
import subprocess
import sys

import pytest

from cl_framework import looking, metric_plugins, offers, presets, registry
from cl_framework.cli import main
from cl_framework.errors import ConfigError, PluginError
from cl_framework.record import StreamRecord
from cl_framework.registry import GROUPS, contested, find, load, plugins

SOUND = '''"""Nothing, after Nobody (2000)."""
from dataclasses import dataclass
from cl_framework import Strategy

@dataclass(kw_only=True, eq=False)
class Mine(Strategy):
    """Learns as it comes."""
'''


class Site:
    """A folder of installed packages."""

    def __init__(self, path):
        self.path = path

    def add(self, package, points, files=(), raw=None):
        """A package with entry points {kind: {name: value}} and files {path: text}."""
        info = self.path / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"[{GROUPS[kind]}]\n" + "".join(f"{name} = {value}\n" for name, value in found.items())
                 for kind, found in points.items()]
        (info / "entry_points.txt").write_text("\n".join(lines) if raw is None else raw)
        for name, content in dict(files).items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())


def forget():
    for cached in (offers.offers, offers._points, registry.plugins, registry.contested, metric_plugins._installed,
                   presets._roots, presets._home, presets._preset_text, presets.preset_names):
        cached.cache_clear()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / "site")
    forget()
    yield Site(tmp_path / "site")
    forget()


FAULTS = {
    "raises": ("raise RuntimeError('no key')", "Cls", "no 'Cls'", "fails when it is imported: RuntimeError: no key"),
    "exits": ("import sys; sys.exit(3)", "Cls", "no 'Cls'", "fails when it is imported: SystemExit: 3"),
    "misspells": ("class Cls(", "Cls", "cannot be read", "fails when it is imported: SyntaxError"),
    "zero": (b"class Cls: pass\n\0", "Cls", "cannot be read", "fails when it is imported"),
    "needs": ("import no_such_module_at_all", "Cls", "no 'Cls'", "No module named 'no_such_module_at_all'"),
    "lacks": ("", "Cls", "there is no 'Cls' in", "does not exist: module"),
    "number": ("Cls = 5", "Cls", "", "is 5; expected"),
    "function": ("def Cls(): pass", "Cls", "", "expected"),
    "stranger": ("class Cls: pass", "Cls", "", "expected"),
    "attributes": ("from os import nothing_there", "Cls", "no 'Cls'", "fails when it is imported: ImportError"),
    "own_base": ("from os import Cls\nclass Cls(Cls): pass", "Cls", "", "fails when it is imported: ImportError"),
    "latin": ("# -*- coding: latin-1 -*-\n'''Grüße'''\nCls = 1".encode("latin-1"), "Cls", "", "is 1; expected"),
}


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_message(site, kind, fault, capsys):
    source, attribute, listed, loaded = FAULTS[fault]
    module = f"broken_{fault}_{kind}"
    site.add(f"bad-{fault}", {kind: {"bad": f"{module}:{attribute}"}}, {f"{module}.py": source})
    assert main(["list", f"kind={kind}"]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("  bad ")]
    assert ("BROKEN" in line) == bool(listed) and listed in line and module not in sys.modules
    with pytest.raises((ConfigError, PluginError)) as caught:
        load(kind, "bad")
    assert loaded in str(caught.value) and "'bad'" in str(caught.value) and "\n" not in str(caught.value)


def test_a_package_is_not_imported_to_be_listed_also_not_its_parents(site, capsys):
    site.add("noisy", {"strategy": {"noisy": "noisy_package.inside.deep:Mine"}}, {
        "noisy_package/__init__.py": "import sys; sys.exit('listed')", "noisy_package/inside/__init__.py": "1 / 0",
        "noisy_package/inside/deep.py": SOUND})
    assert main(["list", "kind=strategy"]) == 0 and "Learns as it comes." in capsys.readouterr().out
    assert main(["show", "strategy=noisy"]) == 0
    assert not [name for name in sys.modules if name.startswith("noisy_package")]


def test_classes_in_a_circle_end(site, capsys):
    site.add("circle", {"strategy": {"circle": "circle_a.x:Mine"}}, {
        "circle_a/__init__.py": "", "circle_b/__init__.py": "",
        "circle_a/x.py": "from circle_b.y import Base\nclass Mine(Base):\n    a: int = 1\n    '''A.'''\n",
        "circle_b/y.py": "from circle_a.x import Base\n"})
    assert main(["show", "strategy=circle"]) == 0 and "strategy.a: int = 1" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["not a path!", "only_a_module", "a-b:C", ":C", "m:C.inner"])
def test_an_entry_point_that_names_nothing(site, value, capsys):
    site.add("odd", {"strategy": {"odd": value}})
    assert main(["list", "kind=strategy"]) == 0
    assert f"  {'odd':30} BROKEN: " in capsys.readouterr().out
    with pytest.raises((ConfigError, PluginError), match="strategy 'odd'"):
        load("strategy", "odd")


@pytest.mark.parametrize("raw", ["[cl_framework.strategies]\nno equals sign\n", "[cl_framework.strategies]\n= = =\n\0"])
def test_a_damaged_list_of_entry_points(site, raw, caplog):
    site.add("damaged", {}, raw=raw)
    assert "er" in plugins("strategy") and load("strategy", "er").__name__ == "ER"


@pytest.mark.parametrize("kind", GROUPS)
def test_two_packages_with_one_name(site, kind, capsys):
    built_in = sorted(plugins(kind))[0]
    forget()
    site.add("one", {kind: {"same": "module_one:Mine", built_in: "module_one:Mine"}}, {"module_one.py": SOUND})
    site.add("two", {kind: {"same": "module_two:Mine"}}, {"module_two.py": SOUND})
    assert main(["list", f"kind={kind}"]) == 0
    assert f"BROKEN: two packages offer the {kind} 'same': one (module_one:Mine) and two" in capsys.readouterr().out
    for name, packages in (("same", ["one (module_one:Mine)", "two (module_two:Mine)"]),
                           (built_in, ["cl-framework (cl_framework.", "one (module_one:Mine)"])):
        with pytest.raises(PluginError) as caught:
            find(kind, name)
        assert all(package in str(caught.value) for package in packages) and name in contested(kind)
    others = [name for name in plugins(kind) if name != built_in]
    assert others and load(kind, others[0]) is not None


def test_what_an_import_prints_is_no_output(site, capsys):
    site.add("talks", {"strategy": {"talks": "talks:Mine"}}, {"talks.py": "print('hello')\n" + SOUND})
    assert load("strategy", "talks").__name__ == "Mine"
    said = capsys.readouterr()
    assert said.out == "" and said.err == "hello\n"


METRIC = '''from cl_framework import metric
@metric(name="{name}", axis="cost", higher_is_better=False, formula="1", source="nobody")
def it(record):
    """One."""
    return {value}
'''


def test_metrics_that_cannot_be_had_are_left_out_with_a_warning(site, caplog):
    before = [metric.name for metric in metric_plugins.installed_metrics()]
    forget()
    site.add("metrics", {"metric": {"m_fails": "m_fails:it", "m_exits": "m_exits:it", "m_none": "m_none:it",
                                    "m_fine": "m_fine:it", "m_twin": "m_twin:it", "stability": "m_fine:it"}}, {
        "m_fails.py": METRIC.format(name="m_fails", value="1 / 0"), "m_exits.py": "import sys; sys.exit()",
        "m_none.py": "it = 3", "m_fine.py": METRIC.format(name="m_fine", value="1.0"),
        "m_twin.py": METRIC.format(name="average_accuracy", value="1.0")})
    found = metric_plugins.installed_metrics()
    assert {metric.name for metric in found} == {*before, "m_fails", "m_fine"}
    record = StreamRecord(n_experiences=1)
    record.accuracy[0, 0] = 0.5
    values = metric_plugins.compute_all(record, found)
    assert values["m_fine"] == 1.0 and values["average_accuracy"] == 0.5 and "m_fails" not in values
    said = " ".join(caplog.messages)
    for part in ("metric 'm_exits' fails when it is imported", "metric 'm_none' is 3", "it fails: ZeroDivisionError",
                 "'m_twin' calls itself 'average_accuracy'", "two packages offer the metric 'stability'"):
        assert part in said, part


def test_presets_of_packages(site):
    site.add("brings", {"strategy": {"brings": "brings:Mine"}}, {
        "brings/__init__.py": SOUND,
        "brings/configs/experiment/mine/one.yaml": "# clf train experiment=mine/one\nseed: 3",
        "brings/configs/experiment/_shared.yaml": "train: {epochs: 7}", "brings/configs/experiment/bad.yaml": "{",
        "brings/configs/experiment/list.yaml": "[1]", "brings/configs/experiment/online.yaml": "seed: 9"})
    assert presets.preset("experiment", "mine/one") == {"train.epochs": 7, "seed": 3}
    assert presets.headline("experiment", "mine/one") == "clf train experiment=mine/one"
    assert presets.preset("experiment", "online")["scenario.is_online"] is True  # ours, and without another's _shared
    assert "train.epochs" not in presets.preset("experiment", "online")
    for name in ("bad", "list"):
        with pytest.raises(ConfigError, match=f"{name}.yaml"):
            presets.preset("experiment", name)
    assert main(["list", "kind=experiment"]) == 0 and "brings" not in sys.modules


HOOKED = '''from dataclasses import dataclass
from cl_framework import Strategy

@dataclass(kw_only=True, eq=False)
class Mine(Strategy):
    """With a fault."""
    {line}
'''


@pytest.mark.parametrize(("line", "said"), [
    ("def after_experiance(self, model, experience): pass", "did you mean after_experience?"),
    ("def adpat(self, model, x): pass", "did you mean adapt?"),
    ("def predcit(self, model, x, task): pass", "did you mean predict?"),
    ("def losses(self, model, batch, output): pass", "did you mean loss?"),
    ("def on_after_step(self, model, batch, output): pass", "did you mean after_step?"),
    ("@staticmethod\n    def penality(model, batch, output): pass", "did you mean penalty?"),
    ("@property\n    def metric(self): return {}", "did you mean metrics?"),
    ("loss: float = 0.5", "loss is a hook, and here it is 0.5; make it a method loss(self, model, batch, output)"),
    ("penalty = None", "penalty is a hook, and here it is None"),
    ("@staticmethod\n    def setup(model, info): pass", "setup is a hook"),
    ("def penalty(self, model, output, batch): pass", "does not match the contract penalty(self, model, batch"),
])
def test_a_fault_in_a_hook_is_caught_at_load(site, line, said, request):
    name = f"hooked_{request.node.callspec.indices['line']}"
    site.add(name, {"strategy": {"hooked": f"{name}:Mine"}}, {f"{name}.py": HOOKED.format(line=line)})
    with pytest.raises(PluginError, match="strategy 'hooked'") as caught:
        load("strategy", "hooked")
    assert said in str(caught.value)


def test_names_that_begin_with_an_underscore_are_ones_own(site):
    line = "def _metrics(self): pass\n    def _losses(self): pass"
    site.add("under", {"strategy": {"under": "under:Mine"}}, {"under.py": HOOKED.format(line=line)})
    assert load("strategy", "under")


def test_a_broken_data_set_leaves_the_others(site, capsys):
    site.add("rows", {"dataset": {"rows": "rows:it"}}, {"rows.py": "it = 3"})
    assert looking.data_verb.__doc__ and main(["data"]) == 0
    said = capsys.readouterr().out
    assert "BROKEN: dataset 'rows' is 3" in said and "  digits " in said


def test_a_run_of_another_strategy_goes_through(tmp_path):
    """The whole command, in a process of its own, beside packages with every fault."""
    site = Site(tmp_path / "site")
    for fault, (source, attribute, _, _) in FAULTS.items():
        module = f"broken_{fault}"
        site.add(f"bad-{fault}", {kind: {f"bad_{fault}": f"{module}:{attribute}"} for kind in GROUPS},
                 {f"{module}.py": source})
    site.add("er-too", {kind: {"er": "er_too:Mine", "average_accuracy": "er_too:Mine"} for kind in GROUPS},
             {"er_too.py": SOUND})
    words = [sys.executable, "-m", "cl_framework.cli", "train", "scenario=split_digits", "strategy=naive",
             "train.epochs=1", "track.wandb=disabled"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(tmp_path / "site")})
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    summary = json.loads(next(tmp_path.glob("runs/*/*/*/seed0/summary.json")).read_text())
    assert summary["metrics"]["average_accuracy"] > 0
    assert done.stderr.count("two packages offer the metric 'average_accuracy'") == 1
