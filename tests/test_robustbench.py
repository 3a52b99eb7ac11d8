"""RobustBench's networks as source models, with a package of the same interface in its place."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from cl_framework import cli, launch
from cl_framework.errors import ConfigError
from cl_framework.models import MLP
from cl_framework.pretraining import give_weights
from cl_framework.protocol import build_model
from cl_framework.recipe import Recipe
from cl_framework.robustbench import RobustBench
from cl_framework.toys import Toy
from cl_framework.types import StreamInfo

from .test_corrupted_published import write_cifar

INFO = StreamInfo(n_experiences=1, n_classes=10, input_shape=(3, 32, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2),
                  is_labelled=False, batch_size=8)


class Net(nn.Module):
    """As the zoo's networks: it normalises itself, and its classifier is not its last child."""

    def __init__(self, is_linear: bool = True) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(6 * 8 * 8, 10)
        self.after: nn.Module = nn.Identity() if is_linear else nn.Softmax(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.after(self.fc(self.net((x - 0.5) / 0.25)))
        return logits


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What `robustbench.utils.load_model` was asked for, and what it gives."""
    torch.manual_seed(3)
    asked: dict[str, object] = {"net": Net()}

    def load_model(**words: object) -> nn.Module:
        asked.update(words)
        if words["model_name"] == "Nobody":
            raise KeyError("Nobody")
        if words["model_name"] == "Offline":
            raise OSError("no route to host")
        net = asked["net"]
        assert isinstance(net, nn.Module)
        return copy.deepcopy(net)

    package, utils = ModuleType("robustbench"), ModuleType("robustbench.utils")
    utils.load_model = load_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    return asked


def test_the_network_answers_as_the_original(zoo: dict[str, object]) -> None:
    raw = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    net = zoo["net"]
    assert isinstance(net, nn.Module)
    with torch.no_grad():
        expected = net.eval()(raw.float() / 255)
    model = RobustBench(network="Standard").build(INFO)
    model.observe(range(10))
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(model.preprocess(raw)).logits, expected, atol=1e-5)
    assert (zoo["model_name"], zoo["dataset"], zoo["threat_model"]) == ("Standard", "cifar10", "corruptions")
    assert str(zoo["model_dir"]).endswith("robustbench")
    assert RobustBench().body((3, 32, 32))[1] == 6 * 8 * 8


def test_it_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robustbench", None)
    with pytest.raises(ConfigError, match=r"pip install robustbench"):
        RobustBench().build(INFO)


@pytest.mark.parametrize(("name", "words"), [("Nobody", "RobustBench has no network Nobody for cifar10"),
                                             ("Offline", "cannot be had .no route to host.")])
def test_what_the_zoo_does_not_give(zoo: dict[str, object], name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RobustBench(network=name).build(INFO)


def test_other_classes_and_no_linear_end(zoo: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="answers for 10 classes, the stream has 100"):
        RobustBench().build(StreamInfo(n_experiences=1, n_classes=100, input_shape=(3, 32, 32)))
    zoo["net"] = Net(is_linear=False)
    with pytest.raises(ConfigError, match="does not end in a linear classifier"):
        RobustBench().build(INFO)
    zoo["net"] = nn.Sequential(nn.Conv2d(3, 10, 32), nn.Flatten())
    with pytest.raises(ConfigError, match="does not end in a linear classifier"):
        RobustBench().build(INFO)
    with pytest.raises(ConfigError, match="takes images"):
        RobustBench().build(StreamInfo(n_experiences=1, n_classes=10, input_shape=(7,)))


def test_who_brings_weights_and_who_does_not() -> None:
    stream = Toy(is_labelled=False).open()
    assert stream.pretraining is not None
    object.__setattr__(stream.pretraining, "is_brought", True)
    model = build_model(MLP(), stream.info, 0)
    with pytest.raises(ConfigError, match="starts with random weights"):
        give_weights(model, stream, MLP(), Recipe(), seed=0)
    before = {name: value.clone() for name, value in model.named_parameters()}

    class Trained(MLP):
        brings_weights = True

    give_weights(model, stream, Trained(), Recipe(), seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert model.n_seen == stream.info.n_classes
    object.__setattr__(stream.pretraining, "is_brought", False)
    with pytest.raises(ConfigError, match=r"trained already; use scenario\.source=model"):
        give_weights(model, stream, Trained(), Recipe(), seed=0)


def test_random_weights_are_refused_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["train", "scenario=corrupted", "scenario.dataset=digits", "scenario.corruptions=[contrast]",
                     "scenario.source=model", "strategy=source", "model=cnn", "track.wandb=disabled",
                     f"out={tmp_path}"])
    assert code != 0 and "starts with random weights" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cifar10c/source", "cifar10c/bn_stats", "cifar10c/tent", "cifar10c/eata",
                                  "cifar10c/sar", "cifar10c/cotta", "cifar10c/rotta", "cifar10c/roid",
                                  "cifar10c_mixed/tent"])
def test_each_preset_of_the_published_table_runs(zoo: dict[str, object], tmp_path: Path, name: str,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLF_DATA", str(tmp_path))
    write_cifar(tmp_path)
    launch._STREAMS.clear()
    out = tmp_path / "runs"
    assert cli.main(["train", f"experiment={name}", "scenario.is_official=false", "track.wandb=disabled",
                     f"out={out}"]) == 0
    found = json.loads(next(out.rglob("summary.json")).read_text())
    assert 0.5 < found["metrics"]["online_error"] <= 1.0  # noise under noise: near chance, 0.9
