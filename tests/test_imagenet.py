"""ImageNet's folders, its lists of classes, and the presets of GTEP's scenarios, on generated files of the layouts."""

import hashlib
import json
import pickle
import re
import warnings
from dataclasses import fields
from importlib.metadata import distribution

import numpy as np
import pytest
import torch
from PIL import Image

import cl_framework._torchvision  # noqa: F401  (before torchvision)
from cl_framework import ConfigError, DataError, Phase, cli, launch
from cl_framework.checks import check_scenario
from cl_framework.config import resolve, without_strangers
from cl_framework.evaluation import overlap_faults
from cl_framework.fingerprint import fingerprint
from cl_framework.presets import preset, preset_names
from cl_framework.registry import load, plugins
from cl_framework.scenarios import _imagenet_lists as lists
from cl_framework.scenarios._imagenet import middle, read_imagenet
from cl_framework.scenarios.imagenet import SplitImageNet
from cl_framework.scenarios.tiny_imagenet32 import SplitTinyImageNet32, means_of_pairs
from cl_framework.winner import targets

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchvision import transforms

WNIDS = ("n01", "n02", "n03", "n04")
PRESETS = sorted(name for name in preset_names("protocol") if name.startswith("gtep/"))


def write_imagenet(root, wnids, per_class=None):
    """Noise around a level that names the class and the part; the last training image is grey."""
    rng = np.random.default_rng(0)
    for label, wnid in enumerate(wnids):
        for part, n in (per_class or {"train": 2, "val": 1}).items():
            (root / part / wnid).mkdir(parents=True)
            for number in range(n):
                size = ((60, 44), (44, 60))[number % 2]
                level = 8 + label % 16 * 15 + (4 if part == "val" else 0)
                pixels = np.clip(rng.normal(level, 12, (*size[::-1], 3)), 0, 255).astype(np.uint8)
                image = Image.fromarray(pixels if (part, number) != ("train", n - 1) else pixels[..., 0])
                image.save(root / part / wnid / f"{wnid}_{number}.JPEG", quality=95)


def write_cifar100(root):
    rng = np.random.default_rng(1)
    (root / "cifar-100-python").mkdir(parents=True)
    for part, n in (("train", 200), ("test", 100)):
        rows = {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), "fine_labels": [row % 100 for row in range(n)]}
        (root / "cifar-100-python" / part).write_bytes(pickle.dumps(rows))


def write_tiny(root):
    rng = np.random.default_rng(2)
    root = root / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    wnids = [f"n{label:08}" for label in rng.permutation(200)]
    (root / "wnids.txt").write_text("\n".join(wnids))
    for wnid in wnids:
        (root / "train" / wnid / "images").mkdir(parents=True)
        for name in (*(f"train/{wnid}/images/{number}.JPEG" for number in range(2)), f"val/images/{wnid}.JPEG"):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / name)
    (root / "val" / "val_annotations.txt").write_text("".join(f"{wnid}.JPEG\t{wnid}\t0\t0\t1\t1\n" for wnid in wnids))
    return wnids


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Both lists of ImageNet, CIFAR-100 and Tiny-ImageNet, a few small images of each class."""
    root = tmp_path_factory.mktemp("data")
    write_imagenet(root / "imagenet", lists.IMAGENET100 + lists.IMAGENET100_2)
    write_cifar100(root / "cifar100")
    (root / "wnids.json").write_text(json.dumps(write_tiny(root / "tiny_imagenet")))
    return root


@pytest.fixture
def home(files, monkeypatch, no_downloads):
    monkeypatch.setenv("CLF_DATA", str(files))
    monkeypatch.setattr(launch, "_STREAMS", {})
    return files


def sha256(ids):
    return hashlib.sha256("".join(f"{wnid}\n" for wnid in ids).encode()).hexdigest()


def test_the_lists_are_the_published_ones():
    text = distribution("avalanche-lib").locate_file("avalanche/benchmarks/datasets/imagenet_data.py").read_text()
    assert list(lists.CLASSES) == sorted(set(re.findall(r"n\d{8}", text))) and len(lists.CLASSES) == 1000
    assert len(lists.IMAGENET100) == 100 and set(lists.IMAGENET100) < set(lists.CLASSES)
    # sort imagenet100.txt | sha256sum, of github.com/HobbitLong/CMC
    assert sha256(lists.IMAGENET100) == "5ee5db69d488bb799a286d8e181801c3d02798776c1ce9203e5450f64e086e07"


def test_the_second_list_is_drawn_from_the_other_classes():
    others = np.array([wnid for wnid in lists.CLASSES if wnid not in lists.IMAGENET100])
    assert tuple(np.sort(others[np.random.RandomState(1993).permutation(900)[:100]])) == lists.IMAGENET100_2
    assert len(set(lists.IMAGENET100 + lists.IMAGENET100_2)) == 200


@pytest.mark.parametrize(("side", "shorter"), [(224, 256), (64, 73), (32, 37)])
@pytest.mark.parametrize("size", [(301, 400), (500, 375), (40, 41)])
def test_the_view_is_the_usual_one(side, shorter, size):
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8))
    usual = transforms.Compose([transforms.Resize(shorter), transforms.CenterCrop(side)])
    np.testing.assert_array_equal(middle(image, side), np.asarray(usual(image)).transpose(2, 0, 1))


def test_labels_follow_the_list_and_rows_the_names(home, tmp_path):
    write_imagenet(tmp_path, WNIDS)
    arrays = read_imagenet(tmp_path, classes=WNIDS[::-1], side=24, counts={})
    assert arrays["train_y"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and arrays["test_y"].tolist() == [0, 1, 2, 3]
    assert arrays["train_x"].shape == (8, 3, 24, 24) and arrays["train_x"].dtype == np.uint8
    for part, n in (("train", 2), ("val", 1)):
        rows = iter(arrays[f"{part.replace('val', 'test')}_x"])
        for wnid in WNIDS[::-1]:
            for number in range(n):
                with Image.open(tmp_path / part / wnid / f"{wnid}_{number}.JPEG") as image:
                    np.testing.assert_array_equal(next(rows), middle(image, 24))


def test_what_is_missing_is_named(home, tmp_path):
    write_imagenet(tmp_path, WNIDS[:2])
    with pytest.raises(DataError, match=r"train has no \.JPEG files of 2 of the 4 classes, such as n03; put them into"):
        read_imagenet(tmp_path, classes=WNIDS, side=24, counts={})
    with pytest.raises(DataError, match=r"val.n01 holds 1 \.JPEG files, the published classes hold 50; unpack"):
        read_imagenet(tmp_path, classes=WNIDS[:2], side=24, counts={"val": (50, 50)})
    with pytest.raises(DataError, match=r"train.n01 holds 2 \.JPEG files, the published classes hold 732 to 1300"):
        read_imagenet(tmp_path, classes=WNIDS[:2], side=24, counts={"train": (732, 1300)})
    (tmp_path / "val" / "n02" / "n02_0.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"n02_0\.JPEG is no readable image"):
        read_imagenet(tmp_path, classes=WNIDS[:2], side=24, counts={})


def test_no_data_says_what_to_put_where(tmp_path, monkeypatch, no_downloads):
    monkeypatch.setenv("CLF_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"put ImageNet's images as train/<class>/\*\.JPEG and val/.*imagenet, or take"):
        SplitImageNet().open(Phase.SINGLE, None)


def test_the_generated_folder_passes_every_check(home):
    check_scenario(SplitImageNet(subset="imagenet100", side=16, is_official=False))


def test_published_counts_are_asked_for(home):
    with pytest.raises(DataError, match="the published classes hold 732 to 1300"):
        SplitImageNet(side=16).open(Phase.SINGLE, None)


def test_images_are_decoded_once_and_kept(home):
    scenario = SplitImageNet(side=12, is_official=False)
    first = scenario.open(Phase.SINGLE, None)
    (home / "imagenet").rename(home / "elsewhere")
    try:
        again = scenario.open(Phase.SINGLE, None)
    finally:
        (home / "elsewhere").rename(home / "imagenet")
    assert (home / "imagenet100-12-altered.safetensors").stat().st_size > 300 * 3 * 12 * 12
    assert first.provenance == again.provenance and first.info.input_shape == (3, 12, 12)
    assert fingerprint(first) == fingerprint(again)


def names(stream):
    return [name for experience in stream for name in experience.class_names]


def test_one_list_tunes_and_the_other_is_reported_on(home):
    both = SplitImageNet(subset="imagenet100_both", side=16, is_official=False)
    tuning, evaluation = (both.open(phase, None) for phase in (Phase.TUNING, Phase.EVALUATION))
    assert names(tuning) == list(lists.IMAGENET100) and names(evaluation) == list(lists.IMAGENET100_2)
    halves = SplitImageNet(side=16, is_official=False)
    assert names(halves.open(Phase.EVALUATION, None)) == list(lists.IMAGENET100[50:])
    alone = SplitImageNet(subset="imagenet100_2", side=16, is_official=False).open(Phase.SINGLE, None)
    for index, experience in enumerate(evaluation):
        assert torch.equal(experience.train.take(torch.arange(20)).raw, alone[index].train.take(torch.arange(20)).raw)


def test_tiny_imagenet_in_the_shape_of_cifar100(home):
    stream = SplitTinyImageNet32(is_official=False).open(Phase.SINGLE, None)
    assert [len(experience.classes) for experience in stream] == [10] * 10 and stream.info.input_shape == (3, 32, 32)
    wnids = json.loads((home / "wnids.json").read_text())
    root = home / "tiny_imagenet" / "tiny-imagenet-200" / "train"
    for label in (0, 99):
        with Image.open(root / wnids[label] / "images" / "1.JPEG") as image:
            pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).astype(np.float64))
        means = torch.nn.functional.avg_pool2d(pixels, 2)
        data = stream[label // 10].train
        row = data.take(torch.nonzero(data.y == label).flatten()[1:2]).raw[0]
        assert torch.equal(row, (means + 0.5).floor().to(torch.uint8))
    check_scenario(SplitTinyImageNet32(is_official=False))


def test_means_are_taken_in_whole_numbers_without_overflow():
    assert means_of_pairs(np.full((1, 3, 4, 4), 255, np.uint8)).tolist() == np.full((1, 3, 2, 2), 255).tolist()


EXPECTED = {
    "gtep/cifar50": ([5] * 10, 1000), "gtep/cifar50_base": ([25, 5, 5, 5, 5, 5], 1000),
    "gtep/cifar100_to_tiny": ([5] * 10, 1000),
    "gtep/imagenet50": ([5] * 10, 1000), "gtep/imagenet50_base": ([25, 5, 5, 5, 5, 5], 1000),
    "gtep/imagenet100": ([10] * 10, 2000), "gtep/imagenet100_base": ([50, 10, 10, 10, 10, 10], 2000)}
"""Classes of each experience and exemplars, as in the released code of GTEP (github.com/csm9493/GTEP)."""


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_opens_both_phases(home, name):
    sizes, memory = EXPECTED[name]
    layer = preset("protocol", name)
    search = {key.removeprefix("search."): value for key, value in layer.items() if key.startswith("search.")}
    assert (search["trials"], search["seeds"], search["sampler"], search["spaces"]) == (30, 5, "random", "gtep")
    own = {"strategy": "er", "scenario.is_official": False} | ({"scenario.side": 16} if "imagenet" in name else {})
    chosen = {key: value for key, value in without_strangers(layer, own).items() if not key.startswith("search.")}
    job = resolve({**chosen, **own}, frozenset({"er"}))
    assert job.tree["strategy"]["er"]["memory_size"] == memory and job.name("model") == "resnet18"
    assert (job.tree["train"]["optimizer"], job.tree["train"]["momentum"]) == ("sgd", 0.9)
    chosen = {key: value for key, value in job.tree["scenario"].items() if key != "name"}
    tuning = job.scenario.open(Phase.TUNING, 0)
    assert [len(experience.classes) for experience in tuning] == sizes
    for target in targets({"scenario": job.name("scenario"), "evaluate": search.get("evaluate", [])}):
        evaluation = load("scenario", target.scenario)(**chosen).open(Phase(target.phase), 0)
        assert target.phase == "evaluation" and [len(each.classes) for each in evaluation] == sizes
        assert evaluation.info.input_shape == tuning.info.input_shape
        assert overlap_faults(fingerprint(tuning), fingerprint(evaluation), target.scenario) == []


def test_every_preset_gives_every_strategy_with_exemplars_its_budget():
    assert sorted(EXPECTED) == PRESETS
    owners = [name for name in plugins("strategy")
              if "memory_size" in {spec.name for spec in fields(load("strategy", name))}]
    for name in PRESETS:
        memories = {key: value for key, value in preset("protocol", name).items() if key.endswith(".memory_size")}
        assert memories == {f"strategy.{owner}.memory_size": EXPECTED[name][1] for owner in owners}


def test_both_kinds_of_transfer_from_the_command_line(home, tmp_path):
    assert cli.main(["protocol", "protocol=gtep/cifar100_to_tiny", "strategy=naive", "baselines=false", "model=mlp",
                     "scenario.is_official=false", "train.epochs=1", "search.trials=1", "search.seeds=1",
                     f"out={tmp_path}"]) == 0
    (path,) = tmp_path.rglob("protocol.json")
    record = json.loads(path.read_text())
    assert [(part["scenario"], part["flavour"]) for part in record["evaluation"]] == [
        ("split_cifar100", "other classes of the same data set"), ("split_tiny_imagenet32", "across data sets")]
    verdicts = {verdict["rule"]: verdict["kept"] for verdict in record["verdicts"]}
    assert verdicts["R1"] and verdicts["R2"] and verdicts["R11"]


def test_increments_that_do_not_divide_a_list_are_refused(home):
    with pytest.raises(ConfigError, match=r"first=25 scenario\.step=7 does not add up to the 100 classes"):
        SplitImageNet(subset="imagenet100_both", side=16, is_official=False, first=25, step=7).open(Phase.TUNING, 0)
