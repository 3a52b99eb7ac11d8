"""What goes wrong in a merge: numbers that do not fit, tensors and keys that mean nothing, signals; nothing is left."""

import errno
import fcntl
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cl_framework import tensor_files
from cl_framework.cli import main
from cl_framework.errors import ConfigError, Diverged
from cl_framework.mergeable import sort_tensors
from cl_framework.merging import Layer, Merger, norm_of
from cl_framework.state_dicts import merge_state_dicts
from cl_framework.strategies.opcm import OPCM
from cl_framework.strategies.task_arithmetic import TaskArithmetic
from cl_framework.strategies.ties import TIES
from cl_framework.strategies.weight_average import WeightAverage


def weights(shift=0.0, dtype=torch.float32):
    """Matrices of a line and a lookup, and running statistics, all moved by one number."""
    draw = torch.Generator().manual_seed(0)
    sizes = {"a.weight": (3, 2), "emb.weight": (4, 2), "bn.running_mean": (3,), "bn.running_var": (3,)}
    return {name: torch.rand(size, generator=draw).to(dtype) + shift for name, size in sizes.items()}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A base A, experts B and C."""
    monkeypatch.chdir(tmp_path)
    for name, shift in (("A", 0.0), ("B", 1.0), ("C", 2.0)):
        save_file(weights(shift), f"{name}.safetensors")
    return tmp_path


def merge(*words):
    given = {"base": "A.safetensors", "experts": "B.safetensors,C.safetensors", "method": "opcm",
             "out": "new/deep/E.safetensors"} | dict(word.split("=", 1) for word in words)
    return main(["merge", *(f"{key}={value}" for key, value in given.items())])


def said(capsys, *words):
    """What a refused merge says; it leaves no file and no folder."""
    before = sorted(os.walk("."))
    status = merge(*words)
    assert status and sorted(os.walk(".")) == before
    return status, capsys.readouterr().err


# numbers that do not fit


@pytest.mark.parametrize(("rule", "shifts", "dtype"), [
    (TaskArithmetic(coefficient=1e300), (1.0, 2.0), torch.float32),
    (TaskArithmetic(coefficient=1.0), (60_000.0, 50_000.0), torch.float16),
    (TIES(coefficient=50.0, reduction="sum"), (2_000.0, 3_000.0), torch.float16),
    (TaskArithmetic(coefficient=1.0), (3e38, 3e38), torch.float32),
])
def test_a_merged_weight_beyond_its_type_is_refused(rule, shifts, dtype):
    base, experts = weights(dtype=dtype), [weights(shift, dtype) for shift in shifts]
    with pytest.raises(Diverged, match=rf"^the merged a\.weight does not fit {str(dtype).removeprefix('torch.')}; "
                                       "lower coefficient where the method has one, or convert base and experts"):
        merge_state_dicts(rule, base, experts)


def test_a_projected_update_beyond_its_type_is_refused():
    base, up, side = (torch.zeros(2, 2, dtype=torch.float16) for _ in range(3))
    base[1, 0], up[0, 0], side[1, 0] = 60_000, 60_000, 5_000
    experts = [{"a.weight": base + up}, {"a.weight": base + side}]
    with pytest.raises(Diverged, match=r"the merged a\.weight does not fit float16"):
        merge_state_dicts(OPCM(), {"a.weight": base}, [*experts, *experts[1:] * 9])


def test_statistics_beyond_their_type_are_refused():
    base, one, other = weights(), weights(1.0), weights(2.0)
    one["bn.running_mean"].fill_(3e38)
    other["bn.running_mean"].fill_(-3e38)
    with pytest.raises(Diverged, match=r"the merged bn\.running_mean does not fit float32"):
        merge_state_dicts(WeightAverage(), base, [one, other])


def test_nothing_is_written_where_a_weight_does_not_fit(files, capsys):
    status, text = said(capsys, "method=task_arithmetic", "coefficient=1e300")
    assert status == 1 and text.startswith("clf: the merged a.weight does not fit float32; ")
    save_file(weights(7.0), "E.safetensors")
    said(capsys, "method=task_arithmetic", "coefficient=1e300", "out=E.safetensors")
    assert torch.equal(load_file("E.safetensors")["a.weight"], weights(7.0)["a.weight"])


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1.0])
def test_norms_neither_overflow_nor_vanish(scale):
    layers = [Layer(name=name, kind="linear" if name == "c" else "other") for name in "abc"]
    update = {"a": torch.tensor([3.0, 0.0]).double() * scale, "b": torch.tensor([[4.0]]).double() * scale,
              "c": torch.zeros(0, 2)}
    assert norm_of(update, layers) == pytest.approx(5 * scale, rel=1e-15, abs=0)
    merger = Merger(OPCM(), layers)
    merger.absorb([update, {name: -value for name, value in update.items()}])
    assert merger.totals.mean_norm == pytest.approx(5 * scale, rel=1e-15, abs=0)
    assert norm_of({name: torch.zeros(2) for name in "abc"}, layers) == 0


@pytest.mark.parametrize("rule", [WeightAverage(), TaskArithmetic(coefficient=0.5), TIES(density=1.0)])
def test_large_numbers_in_float64_merge(rule):
    base, experts = weights(dtype=torch.float64), [weights(shift, torch.float64) for shift in (1e200, 3e200)]
    merged = merge_state_dicts(rule, base, experts)
    torch.testing.assert_close(merged["a.weight"] / 1e200, torch.full((3, 2), 2.0, dtype=torch.float64))


# tensors that mean nothing


def test_tensors_without_entries_are_the_bases():
    models = [{"w.weight": torch.zeros(0, 4), "v.weight": torch.eye(2) * i} for i in range(3)]
    merged = merge_state_dicts(OPCM(), models[0], models[1:])
    assert merged["w.weight"].shape == (0, 4)
    torch.testing.assert_close(merged["v.weight"], torch.eye(2) * 1.5)  # the mean norm, in one direction
    assert [layer.name for layer in sort_tensors(models[0], {"x": models[1]}).layers] == ["v.weight"]


def test_negative_variances_are_refused():
    broken = weights(2.0)
    broken["bn.running_var"][1] = -0.5
    with pytest.raises(ConfigError, match=r"expert 2 has negative variances in bn\.running_var; save the expert anew"):
        merge_state_dicts(WeightAverage(), weights(), [weights(1.0), broken])


def test_complex_numbers_are_called_so():
    models = [{**weights(i), "c": torch.full((2,), 1j * i), "scalar": torch.tensor(1j * i)} for i in range(3)]
    with pytest.raises(ConfigError) as error:
        merge_state_dicts(WeightAverage(), models[0], models[1:])
    assert error.value.faults == [f"expert {i} has complex numbers other than the base's in c, scalar; they cannot be "
                                  "merged; take the base's with keep=REGEX" for i in (1, 2)]
    merged = merge_state_dicts(WeightAverage(), models[0], models[1:], keep="^c$|scalar")
    assert torch.equal(merged["c"], models[0]["c"])


# keys that mean nothing


@pytest.mark.parametrize(("words", "text"), [
    (["keep=null"], "keep must be a regular expression, got null; leave it out to merge every tensor"),
    (["embeddings=null"], "embeddings must be a regular expression, got null; leave it out for the usual names"),
    (["keep=[a]"], "keep must be a regular expression, got ['a']"),
    (["base=null"], "say base=FILE"),
    (["experts=null"], "say experts=FILE,FILE"),
    (["experts=[]"], "say experts=FILE,FILE"),
    (["experts=B.safetensors,null"], "say experts=FILE,FILE"),
    (["out=null"], "say out=FILE"),
    (["base=null", "method=null"], "say base=FILE\nclf: say method=NAME"),
    (["experts=B.safetensors,./B.safetensors"], "expert B.safetensors is given twice; give each expert once"),
    (["experts=B.safetensors,D.safetensors"], "expert B.safetensors is given twice, once as D.safetensors"),
    (["experts=loop.safetensors"], "there is no file loop.safetensors"),
    (["out=loop.safetensors/x/E.safetensors"], "cannot write loop.safetensors/x/E.safetensors"),
    ([f"out={'E' * 300}.safetensors"], "File name too long; choose another place"),
    (["experts=B.safetensors,wrong.safetensors"], "wrong.safetensors has no a.weight"),
])
def test_what_was_asked_for_is_told_and_leaves_nothing(files, capsys, words, text):
    (files / "loop.safetensors").symlink_to("loop.safetensors")
    (files / "D.safetensors").symlink_to("B.safetensors")
    save_file({"x": torch.ones(2)}, "wrong.safetensors")
    assert text in said(capsys, *words)[1]


def test_experts_may_be_a_list(files):
    assert merge("experts=[B.safetensors,C.safetensors]", "method=weight_average") == 0
    torch.testing.assert_close(load_file("new/deep/E.safetensors")["a.weight"], weights(1.5)["a.weight"])


@pytest.mark.parametrize("words", [["method=ties", "density=0"], ["method=task_arithmetic", "coefficient=0"]])
def test_a_merge_of_nothing_is_told(files, capsys, words):
    assert merge(*words) == 0
    assert "note: no update is left, the merged weights are those of the base" in capsys.readouterr().err
    assert torch.equal(load_file("new/deep/E.safetensors")["a.weight"], weights()["a.weight"])


def test_an_error_without_a_text_is_told_by_its_name(files, capsys, monkeypatch):
    def broken(*_):
        raise OSError

    monkeypatch.setattr(tensor_files, "safe_open", broken)
    assert "A.safetensors is no safetensors file that can be read (OSError)" in said(capsys)[1]


# signals


@pytest.mark.parametrize(("number", "status", "word"), [(signal.SIGTERM, 143, "stopped by SIGTERM"),
                                                         (signal.SIGINT, 130, "interrupted")])
def test_a_signal_leaves_nothing_and_says_what_to_do(files, capsys, monkeypatch, number, status, word):
    original, calls = OPCM.merge, []

    def killed(*given):
        calls.append(0)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return original(*given)

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(OPCM, "merge", killed)
    found, text = said(capsys)
    assert found == status and text == f"clf: {word}; nothing was written; give the same command again\n"
    assert signal.getsignal(signal.SIGTERM) is handler


# files that are one file, and files that change


def test_an_expert_that_is_given_twice_is_seen_in_folders(files, capsys):
    for name, source in (("D", "B"), ("F", "C")):
        Path(name).mkdir()
        os.link(f"{source}.safetensors", f"{name}/model.safetensors")
    assert "expert B.safetensors is given twice, once as D; give each" in said(capsys, "experts=B.safetensors,D")[1]
    assert merge("experts=D,F", "out=one.safetensors") == merge("out=two.safetensors") == 0
    one, two = load_file("one.safetensors"), load_file("two.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_shard_that_experts_share_is_no_expert_given_twice(files):
    for name in "AB":
        Path(name).mkdir()
        save_file({"a.weight": torch.eye(2) * (name == "B")}, f"{name}/1.safetensors")
    save_file({"frozen.weight": torch.eye(3)}, "A/2.safetensors")
    os.link("A/2.safetensors", "B/2.safetensors")
    shutil.copytree("B", "D")
    Path("D/2.safetensors").unlink()
    os.link("A/2.safetensors", "D/2.safetensors")
    assert merge("base=A", "experts=B,D", "method=weight_average") == 0
    torch.testing.assert_close(load_file("new/deep/E.safetensors"),
                               {"a.weight": torch.eye(2), "frozen.weight": torch.eye(3)})


def test_out_may_not_be_a_file_that_a_folder_points_to(files, capsys):
    Path("D").mkdir()
    Path("D/model.safetensors").symlink_to("../C.safetensors")
    text = said(capsys, "experts=B.safetensors,D", "out=C.safetensors")[1]
    assert "out=C.safetensors would overwrite or join D, which is read; choose another place" in text


@pytest.mark.parametrize(("name", "change", "reason"), [
    ("C", lambda path: path.unlink(), "No such file"),
    ("C", lambda path: path.write_bytes(b"short"), "header too small"),
    ("C", lambda path: save_file({"a.weight": torch.ones(3, 2)}, path), ""),
    ("A", lambda path: save_file(weights(dtype=torch.float16), path), "it is another one"),
    ("A", lambda path: save_file(weights(5.0), path), "it is another one"),
])
def test_a_file_that_changes_while_it_is_read_is_told(files, capsys, monkeypatch, name, change, reason):
    original, calls = OPCM.merge, []

    def changed(*given):
        if not calls:
            change(Path(f"{name}.safetensors"))
        calls.append(0)
        return original(*given)

    monkeypatch.setattr(OPCM, "merge", changed)
    assert merge() == 1
    text = capsys.readouterr().err
    assert text.startswith(f"clf: {name}.safetensors has changed since it was first read (") and reason in text
    assert text.endswith("; put it back and give the same command again\n") and not Path("new").exists()


# processes that are killed, and disks


def child(work):
    """The number of a process that does some work, as `clf` would, and says nothing."""
    number = os.fork()
    if number:
        return number
    try:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        work()
    finally:
        os._exit(0)


def names_here():
    return sorted(path.name for path in Path().iterdir())


def test_a_merge_that_is_killed_at_any_moment_leaves_the_old_file(files):
    draw = torch.Generator().manual_seed(0)
    for name in "ABC":
        save_file({f"{i}.weight": torch.randn(96, 96, generator=draw) for i in range(12)}, f"{name}.safetensors")
    assert merge("method=weight_average", "out=E.safetensors") == 0
    old, started = Path("E.safetensors").read_bytes(), time.monotonic()
    assert merge("out=new.safetensors") == 0
    lasts, new = time.monotonic() - started, Path("new.safetensors").read_bytes()
    moments, killed = random.Random(0), 0
    for _ in range(20):
        number = child(lambda: merge("out=E.safetensors"))
        time.sleep(lasts * moments.random())
        os.kill(number, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(number, 0)[1])
        assert Path("E.safetensors").read_bytes() in (old, new)
        Path("E.safetensors").write_bytes(old)
    assert killed > 5
    assert merge("out=E.safetensors") == 0 and Path("E.safetensors").read_bytes() == new
    assert names_here() == sorted(f"{name}.safetensors" for name in ("A", "B", "C", "E", "new"))


def test_what_a_living_merge_has_made_stays(files):
    for name in (".E.safetensors.dead", ".E.safetensors.alive", ".F.safetensors.dead"):
        Path(name, "deep").mkdir(parents=True)
    held = os.open(".E.safetensors.alive", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert merge("out=E.safetensors") == 0
    os.close(held)
    assert names_here() == [".E.safetensors.alive", ".F.safetensors.dead", "A.safetensors", "B.safetensors",
                            "C.safetensors", "E.safetensors"]


def test_a_disk_that_takes_no_more_updates_is_told(files, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "the disk of E.safetensors is full; what was there before is intact" in said(capsys, "out=E.safetensors")[1]
