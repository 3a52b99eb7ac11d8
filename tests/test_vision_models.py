"""Pretrained networks of images: resizing beside Pillow, EfficientNet-Lite0 beside its definition, timm's own names."""

from __future__ import annotations

import copy
import json
import math
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import cl_framework._torchvision  # noqa: F401  (before timm, which imports torchvision)
from cl_framework import ConfigError, DataError, cli
from cl_framework.efficientnet import FILES, EfficientNetLite0, in_order
from cl_framework.protocol import build_model
from cl_framework.resized import Resized
from cl_framework.timm_models import Timm
from cl_framework.types import StreamInfo

timm = pytest.importorskip("timm", reason="timm is not installed")

INFO = StreamInfo(n_experiences=1, n_classes=3, input_shape=(3, 64, 64))
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))
"""EfficientNet-B0's repeats, kernel, stride, expansion and channels (Tan and Le 2019, table 1); lite networks repeat
neither the first stage nor the last more often."""


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "size"), [(28, 64), (97, 40)])
def test_images_are_resized_as_pillow_does(name: str, side: int, size: int) -> None:
    raw = images(2, 1, side, side) // 2 + 64  # far from 0 and 255, where Pillow clips between its two passes
    seen = 255 * Resized(size, (0.0,) * 3, (1.0,) * 3, filter=name)(raw)  # type: ignore[arg-type]
    assert seen.shape == (2, 3, size, size) and torch.equal(seen[:, 0], seen[:, 2])
    for row, own in zip(raw, seen, strict=True):
        picture = Image.fromarray(row[0].numpy()).resize((size, size), Image.Resampling[name.upper()])
        assert np.abs(np.asarray(picture, np.float32) - own[0].numpy()).max() < 1.6  # Pillow rounds twice


def test_normalisation_and_augmentation() -> None:
    prepare = Resized(32, (0.1, 0.2, 0.3), (0.5, 0.25, 1.0), "crop_flip")
    raw = torch.full((1, 3, 32, 32), 51, dtype=torch.uint8)
    assert torch.allclose(prepare.eval()(raw)[0, :, 0, 0], torch.tensor([0.2, 0.0, -0.1]), atol=1e-6)
    raw = images(64, 3, 32, 32)
    kept = prepare(raw)
    assert torch.equal(prepare(raw), kept) and not torch.equal(prepare.train()(raw), kept)
    with pytest.raises(ConfigError, match="store the images as uint8"):
        prepare(raw.float())


def test_efficientnet_takes_x_minus_127_over_128() -> None:
    prepare = EfficientNetLite0(weights="random").build(INFO).preprocess
    values = torch.tensor([127, 255, 0], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 64, 64)
    assert torch.allclose(prepare(values)[:, 0, 5, 5], torch.tensor([0.0, 1.0, -127 / 128]), atol=1e-6)


def blocks() -> Iterator[tuple[str, int, int, int, int, int]]:
    """Name, kernel, stride, channels in, within and out of each block."""
    index, n_in = 0, 32
    for repeats, kernel, stride, expansion, n_out in STAGES:
        for repeat in range(repeats):
            yield f"_blocks.{index}.", kernel, stride if repeat == 0 else 1, n_in, n_in * expansion, n_out
            index, n_in = index + 1, n_out


def drawn() -> dict[str, Tensor]:
    """Random weights under the names, and in the order, of the published file."""
    torch.manual_seed(0)
    found: dict[str, Tensor] = {}

    def conv(name: str, *shape: int) -> None:
        found[f"{name}.weight"] = torch.randn(shape) / math.sqrt(math.prod(shape[1:]))

    def norm(name: str, n: int) -> None:
        found.update({f"{name}.weight": 1 + 0.1 * torch.randn(n), f"{name}.bias": 0.5 + 0.1 * torch.randn(n),
                      f"{name}.running_mean": 0.1 * torch.randn(n), f"{name}.running_var": 0.2 + torch.rand(n),
                      f"{name}.num_batches_tracked": torch.tensor(7)})

    conv("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    for name, kernel, _, n_in, n_within, n_out in blocks():
        if n_within != n_in:
            conv(f"{name}_expand_conv", n_within, n_in, 1, 1)
            norm(f"{name}_bn0", n_within)
        conv(f"{name}_depthwise_conv", n_within, 1, kernel, kernel)
        norm(f"{name}_bn1", n_within)
        conv(f"{name}_project_conv", n_out, n_within, 1, 1)
        norm(f"{name}_bn2", n_out)
    conv("_conv_head", 1280, 320, 1, 1)
    norm("_bn1", 1280)
    conv("_fc", 1000, 1280)
    found["_fc.bias"] = torch.randn(1000)
    return found


def defined(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """EfficientNet-Lite0 by its definition: features of normalised images."""

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        kernel, side = weight.shape[-1], x.shape[-1]
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)  # "same", the odd pixel at the end
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (weights[f"{name}.{leaf}"].view(-1, 1, 1)
                                   for leaf in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / (var + 1e-3).sqrt() * weight + bias

    x = norm(conv(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    for name, _, stride, n_in, n_within, n_out in blocks():
        start = x
        if n_within != n_in:
            x = norm(conv(x, f"{name}_expand_conv"), f"{name}_bn0").clamp(0, 6)
        x = norm(conv(x, f"{name}_depthwise_conv", stride, n_within), f"{name}_bn1").clamp(0, 6)
        x = norm(conv(x, f"{name}_project_conv"), f"{name}_bn2")
        x = x + start if stride == 1 and n_in == n_out else x
    return norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))


@pytest.mark.parametrize("source", ["random", "pretrained"])
def test_efficientnet_is_what_its_definition_says(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = FILES.folder / next(iter(FILES.sha256))
    if source == "pretrained" and not file.exists():
        pytest.skip(f"the weights are not in {FILES.folder}")
    weights = drawn() if source == "random" else torch.load(file, weights_only=True)
    model = EfficientNetLite0(weights="random").build(INFO)
    model.body.load_state_dict(in_order(weights, model.body))
    if source == "pretrained":
        model = EfficientNetLite0().build(INFO)
    model.eval().double()
    raw = images(3, 3, 64, 64)
    expected = defined({name: value.double() for name, value in weights.items()}, (raw.double() - 127) / 128)
    with torch.no_grad():
        found = model.body((raw.double() - 127) / 128)
    assert found.shape == (3, 1280) and torch.allclose(found, expected, rtol=0, atol=1e-9) and expected.std() > 0.1


def test_weights_of_another_network_are_refused() -> None:
    network = EfficientNetLite0(weights="random").body((3, 64, 64))[0]
    weights = drawn()
    weights["_conv_head.weight"] = weights["_conv_head.weight"][:1000]
    with pytest.raises(DataError, match="of another network than this version of timm builds"):
        in_order(weights, network)
    with pytest.raises(DataError, match="are 2 tensors of another network"):
        in_order(dict(list(drawn().items())[:2]), network)


@pytest.mark.parametrize("architecture", [EfficientNetLite0(weights="random"),
                                          Timm(network="test_vit", weights="random", image_size=32)])
def test_they_take_images_and_nothing_else(architecture: EfficientNetLite0 | Timm,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"takes images .*use model=mlp"):
        architecture.body((300,))
    with pytest.raises(ConfigError, match=r"of 1 or 3 channels, and the scenario's have 4"):
        architecture.body((4, 32, 32))
    model = build_model(architecture, StreamInfo(n_experiences=1, n_classes=3, input_shape=(1, 8, 8)), 0)
    model.observe(range(3))
    raw = images(1, 1, 8, 8)
    assert model.train()(model.preprocess(raw)).logits.isfinite().all()  # a batch of one row
    model.eval()
    expected = model(model.preprocess(raw)).features
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(same(same.preprocess(raw)).features, expected)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'cl-framework\[vision\]'"):
        architecture.body((3, 32, 32))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network; the folder for the weights of a tiny transformer."""
    monkeypatch.setenv("CLF_DATA", str(tmp_path))
    monkeypatch.setenv("CLF_OFFLINE", "1")
    folder = tmp_path / "pretrained" / "test_vit.r160_in1k"
    folder.mkdir(parents=True)
    return folder


def test_weights_put_there_by_hand_are_those_of_the_network(home: Path) -> None:
    torch.manual_seed(3)
    theirs: nn.Module = timm.create_model("test_vit", pretrained=False).eval()
    save_file(theirs.state_dict(), home / "model.safetensors")
    model = build_model(Timm(network="test_vit"), INFO, 0).eval()
    raw = images(2, 3, 160, 160)
    mean, std = (torch.tensor(theirs.pretrained_cfg[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features((raw / 255 - mean) / std), pre_logits=True)
        assert torch.allclose(model(model.preprocess(raw)).features, expected, atol=1e-5)
    (home / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match=rf"are damaged .*remove {home / 'model.safetensors'}"):
        Timm(network="test_vit").build(INFO)


def test_weights_that_cannot_be_had(home: Path) -> None:
    with pytest.raises(DataError) as caught:
        Timm(network="test_vit.r160_in1k").build(INFO)
    assert str(caught.value).splitlines()[-1] == (
        f"put model.safetensors into {home} by hand: https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/"
        "model.safetensors gives it where there is a network; or take model.weights=random")


@pytest.mark.parametrize(("fields", "words"), [
    ({"network": "vit_tinny_patch16_224"}, "no network 'vit_tinny_patch16_224'; did you mean 'vit_tiny_patch16_224'"),
    ({"network": "zzzz"}, "timm.list_models.. lists them"),
    ({"network": "test_vit.openai"}, "no weights 'openai' for test_vit; it has r160_in1k"),
    ({"network": "vit_giant_patch14_224"}, "no pretrained weights for vit_giant_patch14_224"),
    ({"network": "test_vit", "image_size": 10, "weights": "random"}, "cannot be built for images of side 10")])
def test_networks_that_are_not_there(home: Path, fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Timm(**fields).build(INFO)  # type: ignore[arg-type]


def test_a_stream_is_learned_and_merged(tmp_path: Path) -> None:
    assert cli.main(["train", "scenario=split_digits", "strategy=opcm", "model=timm", "model.network=test_vit",
                     "model.weights=random", "model.image_size=32", "train.epochs=1", "train.batch_size=64",
                     "track.wandb=disabled", f"out={tmp_path}"]) == 0
    summary = json.loads(next(tmp_path.rglob("summary.json")).read_text())
    assert summary["status"] == "finished" and summary["model"] == "timm"
