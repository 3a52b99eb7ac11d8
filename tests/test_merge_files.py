"""`clf merge`: files that are read and written one tensor at a time, and what happens when something is wrong."""

import errno
import gc
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cl_framework import tensor_files
from cl_framework.errors import ClfError, ConfigError
from cl_framework.grammar import parse
from cl_framework.merge_files import merge_files, merge_verb
from cl_framework.merging import Merging
from cl_framework.registry import load, plugins
from cl_framework.state_dicts import merge_state_dicts
from cl_framework.strategies.gcwm import GCWM
from cl_framework.strategies.opcm import OPCM
from cl_framework.strategies.ties import TIES
from cl_framework.strategies.weight_average import WeightAverage
from cl_framework.tensor_files import Scratch, TensorFiles, write_tensors

METHODS = [name for name in plugins("strategy") if issubclass(load("strategy", name), Merging)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(seed):
    return {"fc.weight": draw(6, 5, seed=seed), "fc.bias": draw(6, seed=seed + 1),
            "emb.weight": draw(7, 5, seed=seed + 2), "conv.weight": draw(4, 3, 2, 2, seed=seed + 3).to(torch.bfloat16),
            "norm.running_mean": draw(5, seed=seed + 4), "norm.num_batches_tracked": torch.tensor(seed),
            "odd": draw(3, seed=seed + 5).to(torch.bfloat16)}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A base A and experts B, C, D, in the folder that the test stands in."""
    monkeypatch.chdir(tmp_path)
    base = weights(0)
    for i, name in enumerate("ABCD"):
        moved = {key: value + (0.1 * weights(10 * i)[key]).to(value) if value.is_floating_point() else value + i
                 for key, value in base.items()}
        save_file(base if i == 0 else moved, f"{name}.safetensors", {"format": "pt", "name": name})
    return tmp_path


def merge(*words):
    given = {"base": "A.safetensors", "experts": "B.safetensors,C.safetensors,D.safetensors", "method": "opcm",
             "out": "E.safetensors"}
    given |= dict(word.split("=", 1) for word in words)
    return merge_verb(parse(["merge", *(f"{key}={value}" for key, value in given.items() if value)]))


def faults_of(*words):
    with pytest.raises(ConfigError) as error:
        merge(*words)
    return error.value.faults


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# what is written


@pytest.mark.parametrize("method", METHODS)
def test_files_merge_like_state_dicts(files, method, capsys):
    assert merge(f"method={method}", "seed=3") == 0
    ours = load_file("E.safetensors")
    base, *experts = (load_file(f"{name}.safetensors") for name in "ABCD")
    expected = merge_state_dicts(load("strategy", method)(), base, experts, seed=3)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) and ours[name].dtype == base[name].dtype for name in ours)
    still = {"dare": " (2 of them without an update that is left)",
             "gcwm": " (3 of them without an update that is left)"}.get(method, "")
    assert f"merged 3 experts with {method}: 5 tensors merged{still}, 0 tied to them, 1 averaged, 1 of the base" in \
        capsys.readouterr().out
    assert leftovers(files) == []


def test_the_file_says_how_it_was_made(files):
    merge("alpha=0.7", "projection=paper")
    with safe_open("E.safetensors", "pt") as file:
        metadata = file.metadata()
    made = json.loads(metadata.pop("merged"))
    assert metadata == {"format": "pt", "name": "A"}
    assert (made["method"], made["alpha"], made["projection"]) == ("opcm", 0.7, "paper")
    assert made["experts"] == ["B.safetensors", "C.safetensors", "D.safetensors"]


def test_a_model_may_lie_in_shards(files):
    (files / "shards").mkdir()
    base = load_file("A.safetensors")
    for i, names in enumerate((list(base)[:3], list(base)[3:])):
        save_file({name: base[name] for name in names}, files / "shards" / f"model-{i}.safetensors")
    merge()
    whole = load_file("E.safetensors")
    merge("base=shards", "out=F.safetensors")
    assert all(torch.equal(value, load_file("F.safetensors")[name]) for name, value in whole.items())
    save_file({"odd": torch.ones(1)}, files / "shards" / "model-2.safetensors")
    assert faults_of("base=shards") == ["shards has odd in two files; give one file, or the shards of one model"]


def test_tensors_are_written_as_the_library_writes_them(tmp_path):
    tensors = {"b": draw(3, 2), "a": torch.tensor(5), "c": draw(3).to(torch.bfloat16), "e": torch.zeros(0, 4),
               "d": torch.tensor([True, False])}
    save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    write_tensors(tmp_path / "ours", tensors, TensorFiles(tmp_path / "theirs").forms, {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


# what is refused, before anything is written


@pytest.mark.parametrize(("words", "said"), [
    (["method=er"], "method=er is no strategy that merges; there are"),
    (["method=opcn"], "unknown strategy that merges 'opcn'; did you mean 'opcm'?"),
    (["method=OPCM"], "unknown strategy that merges 'OPCM'; there are dare, gcwm, magmax, opcm, pcb, task_arithmetic"),
    (["alpah=0.5"], "unknown key 'alpah'; did you mean 'alpha'?"),
    (["alpha=2"], "alpha must be at most 1.0, got 2"),
    (["start=merged"], "start of opcm says how experts are trained"),
    (["base="], "say base=FILE"),
    (["seed=-1"], "seed must be a whole number of 0 or more, got -1"),
    (["experts=B.safetensors,no.safetensors"], "there is no file no.safetensors; give a .safetensors file"),
    (["out=E.bin"], "out=E.bin must be a file that ends in .safetensors"),
    (["out=A.safetensors"], "out=A.safetensors would overwrite or join A.safetensors, which is read"),
    (["experts=A.safetensors"], "A.safetensors is the base itself"),
])
def test_what_was_asked_for_is_checked(files, words, said):
    assert any(said in fault for fault in faults_of(*words)), faults_of(*words)
    assert not (files / "E.safetensors").exists() and leftovers(files) == []


def test_damaged_files_are_told_with_all_others(files):
    (files / "B.safetensors").write_bytes((files / "B.safetensors").read_bytes()[:100])
    (files / "C.safetensors").unlink()
    torch.save({"a": torch.ones(1)}, "D.safetensors")
    faults = faults_of()
    assert len(faults) == 3
    assert faults[0].startswith("B.safetensors is no safetensors file that can be read")
    assert faults[1].startswith("there is no file C.safetensors")


def test_experts_that_do_not_fit_are_all_told_by_their_file(files):
    wrong = load_file("B.safetensors")
    del wrong["fc.bias"]
    wrong["odd"][0] = torch.nan
    save_file(wrong, "B.safetensors")
    save_file(load_file("C.safetensors") | {"fc.weight": torch.ones(2, 2)}, "C.safetensors")
    assert [fault.partition(";")[0] for fault in faults_of()] == [
        "B.safetensors has no fc.bias", "B.safetensors has values that are not finite in odd",
        "C.safetensors has shapes of another architecture: fc.weight (2, 2) for (6, 5)"]
    assert merge("keep=fc.bias|fc.weight|odd") == 0


# a merge that is interrupted


class Killed(BaseException):
    """Stands in for an interruption."""


@pytest.mark.parametrize("place", ["merge", "write"])
def test_an_interrupted_merge_leaves_the_old_file(files, monkeypatch, place):
    merge("method=weight_average")
    before = (files / "E.safetensors").read_bytes()
    calls = []

    def killed(*_):
        calls.append(0)
        if len(calls) == 4:
            raise Killed
        return original(*_)

    if place == "merge":
        original = OPCM.merge
        monkeypatch.setattr(OPCM, "merge", killed)
    else:
        original = tensor_files._bytes_of
        monkeypatch.setattr(tensor_files, "_bytes_of", killed)
    with pytest.raises(Killed):
        merge()
    assert (files / "E.safetensors").read_bytes() == before and leftovers(files) == []
    monkeypatch.undo()
    os.chdir(files)
    merge()
    assert (files / "E.safetensors").read_bytes() != before


def test_a_full_disk_is_told_and_leaves_the_old_file(files, monkeypatch):
    merge()
    before = (files / "E.safetensors").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_files, "_bytes_of", full)
    with pytest.raises(ClfError, match=r"the disk of E\.safetensors is full; what was there before is intact"):
        merge("method=weight_average")
    assert (files / "E.safetensors").read_bytes() == before and leftovers(files) == []


# memory


def most_at_once(rule, folder, n_layers, n_experts, monkeypatch):
    """Matrices that exist, at most, whenever one is read."""
    paths = [folder / f"{n_layers}-{n_experts}-{i}.safetensors" for i in range(n_experts + 1)]
    for i, path in enumerate(paths):
        save_file({f"{k}.weight": draw(128, 128, seed=10 * i + k) for k in range(n_layers)}, path)
    seen, original = [], TensorFiles.__getitem__

    def watched(self, name):
        value = original(self, name)
        seen.append(sum(type(each) is torch.Tensor and each.numel() == 128 * 128 for each in gc.get_objects()))
        return value

    gc.collect()
    gc.freeze()
    with monkeypatch.context() as patch:
        patch.setattr(TensorFiles, "__getitem__", watched)
        merge_files(rule, paths[0], paths[1:], folder / "out.safetensors", method="opcm")
    gc.unfreeze()
    return max(seen)


@pytest.mark.parametrize("rule", [OPCM(), WeightAverage(), TIES(memory="current_anchor"),
                                  GCWM(memory="current_anchor", n_steps=2)])
def test_no_more_than_a_layer_is_in_memory(tmp_path, monkeypatch, rule):
    counts = [most_at_once(rule, tmp_path, *size, monkeypatch) for size in ((3, 2), (3, 5), (9, 2))]
    assert counts[0] == counts[1] == counts[2] <= 8


def test_rules_that_see_all_experts_hold_one_layer_of_each(tmp_path, monkeypatch):
    few, many, deep = (most_at_once(TIES(), tmp_path, *size, monkeypatch) for size in ((3, 2), (3, 5), (9, 2)))
    assert few == deep and many - few <= 2 * 3


def test_scratch_lies_on_disk_and_goes_with_its_object(tmp_path):
    scratch = Scratch(tmp_path)
    scratch["a"], scratch["b"] = draw(2, 3), draw(1)
    assert torch.equal(scratch["a"], draw(2, 3)) and list(scratch) == ["a", "b"]
    for value in (torch.zeros(0, 3), torch.tensor(1.5, dtype=torch.float64), draw(3, 2).to(torch.bfloat16).mT):
        scratch["c"] = value
        assert scratch["c"].dtype == value.dtype and torch.equal(scratch["c"], value)
    del scratch["a"], scratch["c"]
    scratch["d"] = draw(4)
    assert torch.equal(scratch["b"], draw(1)) and torch.equal(scratch["d"], draw(4))
    assert len(scratch) == 2 and sum(path.is_file() for path in tmp_path.rglob("*")) == 2
    del scratch
    assert not list(tmp_path.iterdir())


def test_the_verb_imports_no_torch():
    code = "import sys, cl_framework.merge_files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
