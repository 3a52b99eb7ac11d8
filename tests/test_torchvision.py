"""The guard for PyPI's torchvision beside a CPU build of torch."""

import subprocess
import sys

GUARDED = "import cl_framework._torchvision, torchvision, torchmetrics, lightning; print('ok')"


def run(code):
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)


def test_lightning_imports_behind_the_guard():
    assert run(GUARDED).stdout.strip() == "ok"


def test_nothing_is_declared_where_torchvision_is_absent():
    code = "import importlib.util as u; u.find_spec = lambda name: None; import cl_framework._torchvision as t; " \
           "print(t.mend(), t._LIBRARIES)"
    assert run(code).stdout.strip() == "False []"


def test_another_failure_is_not_hidden():
    code = ("import sys, types, importlib.abc\n"
            "class Broken(importlib.abc.MetaPathFinder):\n"
            "    def find_spec(self, name, path, target=None):\n"
            "        if name == 'torchvision': raise RuntimeError('something else')\n"
            "sys.meta_path.insert(0, Broken())\n"
            "import cl_framework._torchvision")
    assert "something else" in run(code).stderr
