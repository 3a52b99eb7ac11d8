"""`clf new`: packages that install, are listed, and pass their own tests as they are written; refusals."""

import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from cl_framework import cli
from cl_framework.checks import parametrize_with_checks
from cl_framework.errors import ConfigError
from cl_framework.new import KINDS, class_name, package, write_package
from cl_framework.new_metric import my_method
from cl_framework.new_scenario import MyMethod as MyScenario
from cl_framework.new_strategy import MyMethod as MyStrategy
from cl_framework.registry import plugins


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Four packages, installed as their authors do into an environment that sees this one's packages."""
    root = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        write_package(kind, f"neat_{kind}", root)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "env"], check=True)
    python = root / "env" / "bin" / "python"
    own = next((root / "env" / "lib").glob("python*/site-packages"))
    outer = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (own / "outer.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in outer))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet",
         "--no-build-isolation", "--no-deps", "--no-index",
         *(word for kind in KINDS for word in ("-e", root / f"neat_{kind}"))], capture_output=True, text=True)
    if done.returncode and "setuptools" in done.stderr and "No module named pip" not in done.stderr:
        pytest.skip("setuptools of the build is not installed here")
    assert done.returncode == 0, done.stderr
    return root, python


def run(installed, *words):
    root, python = installed
    return subprocess.run([python, "-m", *words], cwd=root, capture_output=True, text=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_of_the_documentation_is_free(kind, tmp_path):
    write_package(kind, "my_method", tmp_path)
    assert (tmp_path / "my_method" / "README.md").exists()


def test_they_are_listed_with_their_presets(installed):
    listed = run(installed, "cl_framework.cli", "list").stdout
    assert "neat_strategy                  Pulls every weight" in listed and "BROKEN" not in listed
    assert all(f"neat_{kind} " in listed for kind in KINDS)
    presets = run(installed, "cl_framework.cli", "list", "kind=experiment").stdout
    assert all(f"clf train experiment=neat_{kind}" in presets for kind in KINDS)


def test_their_own_tests_pass(installed):
    """A few of the checks of strategy and scenario; all of them are below, on the templates."""
    files = [f"neat_{kind}/tests/test_neat_{kind}.py" for kind in KINDS]
    done = run(installed, "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--import-mode=importlib", *files,
               "-k", "not conformance or neat_metric or hooks_match or runs_one or documents or tells_the_truth")
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr


def test_a_run_by_the_preset_measures_the_new_metric(installed):
    done = run(installed, "cl_framework.cli", "train", "experiment=neat_strategy", "model=neat_model",
               "train.epochs=1", "track.wandb=disabled")
    assert done.returncode == 0, done.stderr
    summary = next((installed[0] / "runs" / "split_digits" / "neat_strategy").glob("*/seed0/summary.json")).read_text()
    assert '"neat_metric"' in summary and '"model": "neat_model"' in summary


@parametrize_with_checks([MyStrategy(), MyScenario(), my_method])
def test_the_templates_obey_their_contracts(plugin, check):
    check(plugin)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a", "zebra_2", "a_rather_long_name_of_forty_signs_in_all"])
def test_what_is_written_is_clean(kind, name, tmp_path):
    if shutil.which("ruff") is None:
        pytest.skip("ruff is not installed here")
    folder = write_package(kind, name, tmp_path)
    done = subprocess.run(["ruff", "check", "--no-cache", "--select", "E,F,W,I,UP,B,C4,SIM,RUF", folder],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert not [path for path, text in package(kind, name).items() if "my_method" in text or "MyMethod" in text]


@pytest.mark.parametrize(("words", "message"), [
    (["strategy"], "say what to begin, and its name"), (["name=x"], "say what to begin"),
    (["strategi", "name=x"], "unknown kind 'strategi'; did you mean 'strategy'?"),
    (["strategy", "model", "name=x"], "'model' is no KEY=VALUE"),
    (["strategy", "name=my-method"], "cannot name a package"), (["strategy", "name=1x"], "cannot name a package"),
    (["strategy", "name=../x"], "cannot name a package"), (["strategy", "name=class"], "cannot name a package"),
    (["strategy", "name=größe"], "cannot name a package"), (["strategy", "name=null"], "cannot name a package"),
    (["strategy", "name=x_"], "cannot name a package"), (["strategy", "name=" + 41 * "x"], "at most 40"),
    (["model", "name=none"], "would define None"), (["strategy", "name=strategy"], "would define Strategy"),
    (["metric", "name=float"], "would define float"), (["metric", "name=record"], "would define record"),
    (["strategy", "name=er"], "there is a strategy 'er' already"),
    (["metric", "name=forgetting_max"], "there is a metric 'forgetting_max' already"),
    (["strategy", "name=online"], "there is a preset experiment=online already"),
    (["model", "name=numpy"], "there is a module 'numpy' already"),
    (["model", "name=cl_framework"], "there is a module 'cl_framework' already"),
    (["model", "name=x", "out=file"], "cannot write file/x"), (["model", "name=taken"], "taken is there already"),
])
def test_refusals_write_nothing(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "taken").symlink_to("nowhere")
    assert cli.main(["new", *words]) == 2
    assert message in capsys.readouterr().err.replace("\nclf: ", "\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_a_failure_half_way_leaves_nothing(tmp_path, monkeypatch):
    write = Path.write_text

    def full(self, *given, **more):
        if self.name.startswith("test_"):
            raise OSError(28, "No space left on device")
        return write(self, *given, **more)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_package("strategy", "half", tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_of_classes():
    assert [class_name(name) for name in ("my_method", "l2", "a_b2_c")] == ["MyMethod", "L2", "AB2C"]
    assert "my_method" not in plugins("strategy")
