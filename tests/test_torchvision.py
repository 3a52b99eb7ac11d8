"""The guard for PyPI's torchvision beside a CPU build of torch, and torchmetrics imported as far as it is needed."""

import subprocess
import sys

import pytest

HEAVY = ("transformers", "scipy", "torchvision", "torchmetrics.text", "torchmetrics.functional")


def run(code):
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)


def told(code):
    """What some code prints, which must end well."""
    done = run(code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_and_what_needs_it_import_behind_the_guard():
    assert told("import cl_framework._torchvision as t, importlib.util as u; assert u.find_spec('torchvision')\n"
                "import torchvision; from torchvision.transforms import v2; import torchmetrics, lightning\n"
                "from torchvision.ops import nms; assert type(torchvision.__loader__).__name__ == 'SourceFileLoader'\n"
                "print(torchmetrics.Accuracy.__name__)") == "Accuracy"


def test_nothing_is_declared_where_torchvision_is_absent():
    assert told("import importlib.machinery as m\n"
                "own = m.PathFinder.find_spec\n"
                "m.PathFinder.find_spec = lambda name, *rest: None if name == 'torchvision' else own(name, *rest)\n"
                "import cl_framework._torchvision as t\n"
                "try: import torchvision\n"
                "except ModuleNotFoundError: print(t._LIBRARIES)") == "[]"


def test_another_failure_is_not_hidden():
    code = ("import sys, importlib.abc, importlib.machinery\n"
            "class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):\n"
            "    def find_spec(self, name, path, target=None):\n"
            "        return importlib.machinery.ModuleSpec(name, self) if name == 'torchvision' else None\n"
            "    def exec_module(self, module): raise RuntimeError('something else')\n"
            "sys.meta_path.insert(0, Broken())\n"
            "import cl_framework._torchvision as t\n"
            "try: import torchvision\n"
            "except RuntimeError as error: print(error, t._LIBRARIES, 'torchvision' in sys.modules)")
    assert told(code) == "something else [] False"


def test_a_run_imports_two_classes_of_torchmetrics():
    assert told("import sys, cl_framework.protocol\n"
                f"print([name for name in {HEAVY} if name in sys.modules])\n"
                "import torchmetrics, lightning.pytorch.core.module as own\n"
                "print(issubclass(torchmetrics.MetricCollection, object), own.Metric is torchmetrics.Metric)"
                ) == "[]\nTrue True"


WAYS = {
    "a module": """
import importlib.util
assert importlib.util.find_spec("torchmetrics.aggregation").origin.endswith("aggregation.py")
assert "torchmetrics.text" not in sys.modules
import torchmetrics.aggregation as m
f = m.MeanMetric
assert f is torchmetrics.MeanMetric and m is torchmetrics.aggregation
assert type(m.__spec__.loader).__name__ == "SourceFileLoader"
""",
    "a second attempt": """
sys.modules["torchmetrics.aggregation"] = None
try: torchmetrics.Accuracy
except ImportError: del sys.modules["torchmetrics.aggregation"]
f = torchmetrics.Accuracy
""",
    "threads": """
import pickle, threading
assert pickle.loads(pickle.dumps(torchmetrics)) is torchmetrics
found = []
threads = [threading.Thread(target=lambda: found.append(torchmetrics.Accuracy)) for _ in range(3)]
for each in threads: each.start()
for each in threads: each.join()
assert len(found) == 3
from torchmetrics import *
f = Accuracy
assert "Accuracy" in dir(torchmetrics)
"""}


@pytest.mark.parametrize("way", WAYS)
def test_all_of_torchmetrics_is_there_for_whoever_asks(way):
    assert told(f"import sys, cl_framework._torchmetrics, torchmetrics\n{WAYS[way]}\n"
                "assert type(torchmetrics).__name__ == 'module', type(torchmetrics)\n"
                "print(issubclass(f, torchmetrics.Metric), torchmetrics.text is sys.modules['torchmetrics.text'])"
                ) == "True True"


def test_a_torchmetrics_of_another_build_is_imported_whole():
    assert told("import sys, types\n"
                "import cl_framework._torchvision\n"
                "sys.modules['torchmetrics.collections'] = types.ModuleType('empty')\n"
                "import cl_framework._torchmetrics, torchmetrics\n"
                "print(type(torchmetrics).__name__, torchmetrics.Accuracy.__name__)") == "module Accuracy"
