"""What comes from outside runs no code, has an end, fits into memory, and shows no secret: docs/security.md."""

import ast
import csv
import gzip
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cl_framework import cli, markdown, places, presets, report
from cl_framework.checkpoint import Vault, _digest
from cl_framework.configuration import read_configuration
from cl_framework.csv_tables import as_csv, unguarded
from cl_framework.errors import CheckpointError, ClfError, ConfigError, DataError, printable
from cl_framework.grammar import Command, parse
from cl_framework.groups import group
from cl_framework.observer import Observer
from cl_framework.pairing import DEFAULT
from cl_framework.pictures import _paths
from cl_framework.places import NpmPackage, Url, Wheel
from cl_framework.plain_files import from_json, from_yaml, read_text
from cl_framework.protocol import run_stream
from cl_framework.record import AccuracyMatrix
from cl_framework.run_writer import Writer
from cl_framework.runs import RunFolder
from cl_framework.scenarios import _folders, _readers
from cl_framework.scenarios._cifar_c import CifarC
from cl_framework.scenarios._folders import decode, read_npz, read_tiny_imagenet
from cl_framework.scenarios._readers import gunzip, read_cifar
from cl_framework.strategy import Strategy
from cl_framework.study import public
from cl_framework.summaries import read_runs
from cl_framework.toys import Toy, toy_model, toy_recipe
from cl_framework.weight_files import read_weights
from cl_framework.working import _line

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [path for folder in ("cl_framework", "strategies", "scenarios") for path in (ROOT / folder).rglob("*.py")]
SECRET = "s3cr3t-0123456789abcdef0123456789abcdef"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True))


def calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def keywords(call):
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


# the sources

def test_no_source_runs_text_unpickles_or_opens_a_shell():
    faults = []
    for path in SOURCES:
        for call in calls(ast.parse(path.read_bytes())):
            name, given, where = ast.unparse(call.func), keywords(call), f"{path.name}:{call.lineno}"
            if name in ("eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads",
                        "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "marshal.loads", "joblib.load",
                        "torch.hub.load", "OmegaConf.load"):
                faults.append(f"{where} {name}")
            if given.get("shell", "False") != "False":
                faults.append(f"{where} a shell")
            if name == "torch.load" and given.get("weights_only") != "True":
                faults.append(f"{where} torch.load")
            if name == "np.load" and given.get("allow_pickle") != "False":
                faults.append(f"{where} np.load")
            if name == "yaml.load" and path.name != "plain_files.py":
                faults.append(f"{where} yaml.load")
            if name.endswith(".extractall") and given.get("filter") != "'data'":
                faults.append(f"{where} extractall")
    assert SOURCES and not faults


def test_no_source_names_an_address_without_encryption():
    texts = [(path.name, node.value) for path in SOURCES for node in ast.walk(ast.parse(path.read_bytes()))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [(name, text) for name, text in texts if "http://" in text.replace("http://127.0.0.1:", "")]


# plain data

@pytest.mark.parametrize(("text", "said"), [
    (BOMB, "stands for more than"), ("&a [*a]", "contains itself"), ("&a {b: *a}", "contains itself"),
    ("[" * 50_000, "nested deeper"), ("- " * 5_000 + "a", "nested deeper"), ("{a: " * 50_000, "nested deeper"),
    ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    ("a: !!python/name:os.system", "could not determine a constructor"), ("a: 2024-11-21", "holds a date"),
    ("a: 2024-13-45", "month"), ("a: !!bool maybe", "does not fit its tag"), ("a: !!binary aGk=", "holds a bytes"),
    ("a: !!set {b}", "holds a set"), (f"a: {'9' * 5000}", "digits"), (f"a: {'9' * 40}", "64 bits"),
    ("? [a]\n: b", "unhashable"), ("a: *b", "undefined alias"), ("a: \0", "control characters"), ("a: [", "expected")])
def test_yaml_is_plain_and_bounded(text, said):
    begun = time.process_time()
    with pytest.raises(ValueError, match=said) as caught:
        from_yaml(text)
    assert "\n" not in str(caught.value) and time.process_time() - begun < 1


def test_aliases_that_stand_for_little_are_followed():
    assert from_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {d: *a}}") == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}
    again = {"a": [1.5, None, True, "x"], "b": {"c": -3}}
    assert from_yaml(yaml.safe_dump(again)) == again == from_json(json.dumps(again))


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500, "9" * 5000,
                                  "9" * 40, '"\\ud800"', '{"\\udfff": 1}', "", "[1,"])
def test_json_is_plain_and_bounded(text):
    with pytest.raises(ValueError):
        from_json(text)


def test_a_pipe_or_a_device_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(ValueError, match="pipe or a device"):
            read_text(tmp_path / name)


# run folders of others

def run_folder(out, seed=0, config=None, **changes):
    folder = out / "s" / "t" / "0123456789" / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({
        "scenario": "split_digits", "strategy": "er", "model": "mlp", "seed": seed, "order_seed": None,
        "phase": "single", "protocol": "single-phase", "config_hash": "0123456789", "git_commit": None,
        "seconds": 1.0, "status": "finished", "metrics": {"average_accuracy": 0.5 + 0.1 * seed},
        "accuracy_matrix": [[0.5]], **changes}))
    if config is not None:
        (folder / "config.yaml").write_text(config)
    return folder


@pytest.mark.parametrize("config", [BOMB, "[" * 50_000, "scenario: {1: a, b: c}\ntrain: 5",
                                    "scenario: {}\nstrategy: 5"])
def test_a_report_survives_a_configuration_of_whatever_kind(tmp_path, config):
    folder = run_folder(tmp_path, config=config)
    assert len(read_runs(tmp_path).finished) == 1
    assert read_configuration(folder, "0123456789").digest is None
    with pytest.raises(ConfigError):
        RunFolder(folder).job()


def test_a_report_does_not_wait_for_a_pipe(tmp_path):
    run_folder(tmp_path)
    other = run_folder(tmp_path, seed=1)
    (other / "summary.json").unlink()
    os.mkfifo(other / "summary.json")
    runs = read_runs(tmp_path)
    assert len(runs.finished) == 1 and "pipe or a device" in runs.damaged[0]


def test_a_report_imports_nothing_that_a_run_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "__init__.py").write_text("open('ran', 'w')")
    (tmp_path / "planted" / "inner.py").write_text("open('ran', 'w')")
    run_folder(tmp_path / "runs", config="scenario: {name: s, n: 1}\nstrategy: {name: 'planted.inner:X'}\n")
    assert cli.main(["report", "runs=runs"]) == 0
    assert not (tmp_path / "ran").exists() and "planted" not in sys.modules


def test_the_lock_of_a_run_spoils_no_file_that_it_links_to(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed0" / ".lock").symlink_to(tmp_path / "precious")
    with RunFolder(tmp_path / "seed0").locked():
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_what_a_run_is_taken_up_from_is_a_file(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    os.mkfifo(tmp_path / "checkpoints" / "00000-0000000001-0123456789abcdef.pt")
    assert Vault(tmp_path / "checkpoints", "me").load() is None
    os.mkfifo(tmp_path / "command.txt")
    assert RunFolder(tmp_path).command() == "clf train"
    (tmp_path / "weights.pt").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="a pipe or a device"):
        read_weights(tmp_path / "weights.pt")


def test_tables_of_an_earlier_process_may_hold_anything(tmp_path):
    for text in ("x\n" + "a" * 200_000, f"x\n{'9' * 5000},1,1,1", "x\n\0,\xff", "x\n٣,1,1,0.5"):
        (tmp_path / "steps.csv").write_text(text)
        stream = Toy().open()
        run_stream(Strategy(), stream, toy_model(stream), recipe=toy_recipe(epochs=1),
                   observer=Writer(RunFolder(tmp_path), 1))
        lines = (tmp_path / "steps.csv").read_text().splitlines()
        assert lines[0].startswith("stream_step") and lines[1:]
        assert all(len(line) < 100 and line.isascii() for line in lines)


def test_pictures_stay_in_their_folder(tmp_path):
    for stem in ("../../x", "/etc/x", "a\0b", "a b/../../c"):
        assert {path.resolve().parent for path in _paths(tmp_path, stem)} == {tmp_path.resolve()}


# names in reports

HOSTILE = "[/red]=a|b<script>alert(1)</script>[x](http://evil)"


@pytest.mark.parametrize("name", ["[/red]", "[bold]er[/bold]", "[link=file:///etc/passwd]er", HOSTILE])
def test_names_are_shown_as_they_are(tmp_path, capsys, name):
    run_folder(tmp_path, strategy=name, strategy_fields={"a": name})
    found = group(read_runs(tmp_path).finished)
    assert name in report.as_text(found, width=400) or name in report.as_text(found, width=400).replace("\n", "")
    assert json.loads(report.as_json(found))[0]["strategy"] == name
    row = next(csv.DictReader(io.StringIO(report.as_csv(found))))
    assert row["strategy"] == name
    lines = report.as_markdown(found, DEFAULT, None).splitlines()
    assert not any("<script" in line.replace("\\<script", "") or "](http" in line for line in lines)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1"])
def test_no_cell_is_a_formula(tmp_path, name):
    assert as_csv([[name, -1.5, None]]).startswith(("'", '"\''))
    assert unguarded(next(csv.reader(io.StringIO(as_csv([[name]]))))[0]) == name
    if name.isprintable():
        run_folder(tmp_path, strategy=name)
        row = next(csv.DictReader(io.StringIO(report.as_csv(group(read_runs(tmp_path).finished)))))
        assert row["strategy"] == f"'{name}" and row["average_accuracy"] == "0.5"


def test_a_cell_of_markdown_stays_one():
    assert markdown.row(["a|b", "c\\|d", "<0.0001", "<img src=x>"]) == "| a\\|b | c\\\\\\|d | <0.0001 | \\<img src=x> |"


def test_a_page_escapes_names(tmp_path):
    pytest.importorskip("jinja2")
    from cl_framework.report_page import write_page

    for seed in (0, 1):
        run_folder(tmp_path / "runs", seed=seed, strategy=HOSTILE)
    page = write_page(tmp_path / "runs", tmp_path / "report.html", DEFAULT.name, None).read_text()
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("change", [
    {"strategy": "er\x1b[2J"}, {"scenario": "a\nb"}, {"model": "a\u202eb"}, {"metrics": {"a\x07": 1.0}},
    {"strategy_fields": {"a": "\x1b]0;x\x07"}}, {"experiences": [{"name": "\x9b2J"}]}])
def test_names_that_would_move_a_cursor_are_damage(tmp_path, change):
    run_folder(tmp_path, **change)
    runs = read_runs(tmp_path)
    assert not runs.finished and "holds signs that are not shown" in runs.damaged[0] and "\x1b" not in runs.damaged[0]


def test_errors_move_no_cursor(tmp_path, capsys):
    assert cli.main(["report", f"runs={tmp_path}/\x1b[2J"]) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert printable("é\x1b\x9b\u202e") == "é\\x1b\\x9b\\u202e"


def test_bytes_that_are_no_text_are_refused():
    for word in ("out=\udcff", "strategy=a\0b"):
        with pytest.raises(ConfigError, match="no UTF-8"):
            parse(["train", word])


# secrets

ADDRESS = f"postgresql://me:{SECRET}@host/trials"


@pytest.mark.parametrize("address", [ADDRESS, f"postgresql://me:a/b@{SECRET}@host/x", f"mysql://h/x?password={SECRET}"])
def test_an_address_is_shown_without_its_password(address):
    assert SECRET not in public(address)


@pytest.mark.parametrize("verb", ["tune", "protocol", "train"])
def test_a_recorded_command_has_no_address(verb):
    assert _line(Command(verb, {"strategy": ["er"], "search.storage": [ADDRESS]})) == f"clf {verb} strategy=er"


def test_a_database_that_is_not_there_is_named_without_its_password(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status = cli.main(["tune", "scenario=split_digits", "strategy=naive", "search.trials=1", "search.seeds=1",
                       "search.space.train.lr=[0.1,0.2]", f"search.storage={ADDRESS}"])
    said = "".join(capsys.readouterr())
    assert status == 2 and "***@host" in said and SECRET not in said
    assert not _holding(tmp_path, SECRET)


def test_wandb_does_not_see_the_address(monkeypatch):
    from cl_framework.tracking import _public_words

    words = ["clf", "tune", f"search.storage={ADDRESS}", "seed=1"]
    monkeypatch.setattr(sys, "argv", words)
    with _public_words():
        assert sys.argv == ["clf", "tune", "seed=1"]
    assert sys.argv is words


def test_a_run_writes_and_shows_no_secret_of_the_environment(tmp_path, monkeypatch, capsys):
    for name in ("WANDB_API_KEY", "OPENAI_API_KEY", "DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "RAY_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "scenario=split_digits", "strategy=naive", "train.epochs=1", "track.wandb=disabled"]) == 0
    assert cli.main(["report", "runs=runs", "format=json"]) == 0
    assert list(tmp_path.rglob("environment.json")) and not _holding(tmp_path, SECRET)
    assert SECRET not in "".join(capsys.readouterr())


def _holding(folder, secret):
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


# data files

def cifar(folder, content):
    (folder / "c").mkdir(exist_ok=True)
    (folder / "c" / "b").write_bytes(content)
    return read_cifar(folder, archive="c.tar.gz", inner="c", train=("b",), test=("b",), labels="labels", md5={})


ROWS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize("content", [
    b"\x80\x02}r\xff\xff\xff\x7f.", b"\x80\x02}p2147483647\n.",  # a memo of 2^31 entries
    pickle.dumps({"data": np.array([None]), "labels": [0]}), pickle.dumps({"data": np.zeros((1, 3072)), "labels": [0]}),
    pickle.dumps({"data": np.zeros(1, [("a", "u1"), ("b", "O")]), "labels": [0]}), pickle.dumps({"data": ROWS}),
    pickle.dumps({"data": ROWS, "labels": [[0], [1]]}), pickle.dumps({"data": ROWS, "labels": ["a", "b"]}),
    pickle.dumps([1]), pickle.dumps({"data": bytes(6144), "labels": [0, 1]}), b"cos\nsystem\n(S'true'\ntR.",
    b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93(J\xff\xff\xff\x7ftR.", b"\x80\x02\x8a\xff" + b"\xff" * 200 + b".", b""])
def test_pickles_make_plain_arrays_alone(tmp_path, content):
    begun = time.process_time()
    with pytest.raises(DataError):
        cifar(tmp_path, content)
    assert time.process_time() - begun < 1


def test_a_pickle_with_a_nested_bomb_of_labels_is_refused(tmp_path):
    bomb = [0] * 10
    for _ in range(12):
        bomb = [bomb] * 10
    with pytest.raises(DataError, match="no list of whole numbers"):
        cifar(tmp_path, pickle.dumps({"data": ROWS, "labels": bomb}))


def test_what_is_unpacked_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(_readers, "_MOST_BYTES", 1 << 16)
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(DataError, match="unpacks to more than 65,536 bytes"):
        gunzip(tmp_path / "a.gz")
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("other")
        entry.size = 1 << 20
        tar.addfile(entry, io.BytesIO(bytes(1 << 20)))
    with pytest.raises(DataError, match="other unpacks to 1,048,576 bytes"):
        read_cifar(tmp_path, archive="c.tar.gz", inner="c", train=("b",), test=("b",), labels="labels", md5={})
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 1000)), y=np.zeros(1000, int))
    monkeypatch.setattr(_folders, "available_memory", lambda: 1 << 20)
    with pytest.raises(DataError, match=r"unpacks to 8,008,\d+ bytes, and 1,048,576 bytes of memory are free"):
        read_npz(tmp_path / "a.npz")
    monkeypatch.setattr(_folders, "_MOST_OF_MEMBER", 100)
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t/wnids.txt", "n" * 1000)
    with pytest.raises(DataError, match=r"t/wnids\.txt unpacks to 1,000 bytes"):
        read_tiny_imagenet(tmp_path, archive="t.zip", inner="t", md5={})


@pytest.mark.parametrize("change", [(b"(5,", b"(5("), (b"(5,", b"(-1"), (b"|u1", b"|O4"), (b"(5,", b"(5" + b"9" * 17)])
def test_an_array_file_has_a_plain_header(tmp_path, change):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "fog.npy", np.zeros((5, 32, 32, 3), np.uint8))
    content = (tmp_path / "in" / "fog.npy").read_bytes()
    (tmp_path / "in" / "fog.npy").write_bytes(content.replace(*change, 1))
    with pytest.raises(DataError, match=r"fog\.npy of in is"):
        CifarC(folder=tmp_path, inner="in", archive="a.tar", md5="").images("fog", 1, 1)


def test_a_link_in_an_archive_leads_nowhere(tmp_path):
    (tmp_path / "secret").write_bytes(pickle.dumps({"data": ROWS, "labels": [0, 1]}))
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("c/b")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        tar.addfile(entry)
    with pytest.raises(DataError, match=r"c\.tar\.gz lacks b"):
        read_cifar(tmp_path, archive="c.tar.gz", inner="c", train=("b",), test=("b",), labels="labels", md5={})


@pytest.mark.parametrize("name", ["p/d/../../../../escaped", "p/d//etc/escaped"])
def test_a_wheel_is_unpacked_into_its_folder(tmp_path, monkeypatch, name):
    monkeypatch.setattr(places, "_run", lambda *_: None)
    scratch = tmp_path / "a" / "b"
    scratch.mkdir(parents=True)
    with zipfile.ZipFile(scratch / "p-1.whl", "w") as archive:
        archive.writestr(name, "x")
    Wheel("p", "1", "p/d").fetch(scratch)
    assert all((scratch / "files") in path.parents for path in tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize("kind", ["outside", "link", "device"])
def test_a_package_of_npm_is_unpacked_into_its_folder(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(places, "_run", lambda *_: None)
    scratch = tmp_path / "a"
    scratch.mkdir()
    with tarfile.open(scratch / "p-1.tgz", "w:gz") as tar:
        entry = tarfile.TarInfo("package/d/../../../../escaped" if kind == "outside" else "package/d")
        entry.type = {"outside": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "device": tarfile.CHRTYPE}[kind]
        entry.linkname = "/etc"
        tar.addfile(entry)
    with pytest.raises(DataError, match="is no npm package"):
        NpmPackage("p", "1", ("d",)).fetch(scratch)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.name != "files") == ["a", "p-1.tgz"]


def test_archives_that_declare_too_much_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_run", lambda *_: None)
    monkeypatch.setattr(places, "_MOST_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "p-1.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("p/d/a", bytes(2000))
    with pytest.raises(DataError, match="unpacks to 2,000 bytes"):
        Wheel("p", "1", "p/d").fetch(tmp_path)
    with tarfile.open(tmp_path / "p-1.tgz", "w:gz") as tar:
        entry = tarfile.TarInfo("package/d/a")
        entry.size = 2000
        tar.addfile(entry, io.BytesIO(bytes(2000)))
    with pytest.raises(DataError, match="unpacks to 2,000 bytes"):
        NpmPackage("p", "1", ("d",)).fetch(tmp_path)
    (tmp_path / "big").write_bytes(bytes(2000))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(DataError, match="big unpacks to"):
        Url(tmp_path.as_uri() + "/", ("big",)).fetch(tmp_path / "scratch")


def png(width, height):
    head = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + bytes(4)


def test_pictures_of_other_formats_or_of_any_size_are_refused(monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", refused)
    eps = io.BytesIO()
    Image.new("RGB", (4, 4)).save(eps, "EPS")
    for content in (eps.getvalue(), png(60_000, 60_000), png(9_000, 9_000), b"%!PS-Adobe", b""):
        with pytest.raises(DataError, match="is no readable image"):
            decode(content, "a.png")


def test_downloads_stay_encrypted(tmp_path):
    with pytest.raises(DataError, match="is not https"):
        Url("http://example.org/", ("a",)).fetch(tmp_path)
    for address in ("ftp://example.org/", "gopher://example.org/"):
        with pytest.raises(DataError, match="is not https"):
            Url(address, ("a",)).fetch(tmp_path)


def test_a_download_follows_no_redirection_away_from_https(tmp_path):
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/other")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(ConnectionError, match="which is not https"):
            Url(f"http://127.0.0.1:{server.server_port}/", ("a",)).fetch(tmp_path)
        thread.join()


# checkpoints and presets

class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def put(folder, state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    folder.mkdir(exist_ok=True)
    (folder / f"00003-0000000009-{_digest(buffer.getvalue())}.pt").write_bytes(buffer.getvalue())


@pytest.mark.parametrize("state", [{"owner": "me", "x": "attack"}, {}, [1], torch.zeros(2)])
def test_a_checkpoint_runs_no_code_and_is_whole(tmp_path, state):
    if isinstance(state, dict) and "x" in state:
        state = {**state, "x": Attack(tmp_path / "owned")}
    put(tmp_path / "c", state)
    with pytest.raises(CheckpointError, match="can be read"):
        Vault(tmp_path / "c", "me").load()
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("state", [{}, {"record": 5}, {"record": {}}])
def test_a_checkpoint_of_somebody_else_is_refused_in_a_sentence(tmp_path, state):
    put(tmp_path / "c", {"owner": "me", **state})
    stream = Toy().open()
    with pytest.raises(CheckpointError, match="does not fit the run"):
        run_stream(Strategy(), stream, toy_model(stream), recipe=toy_recipe(), vault=Vault(tmp_path / "c", "me"))


@pytest.mark.parametrize("change", [
    lambda state: state["record"].update(joint=5), lambda state: state.pop("rng"),
    lambda state: state.update(optimizer=5),
    lambda state: state["record"].update(n_experiences=1), lambda state: state["matrix"].clear(),
    lambda state: state.update(matrix=AccuracyMatrix(1).state_dict()), lambda state: state.update(cursor={"x": 1}),
    lambda state: state.update(carried=5, is_inside=False)])
def test_a_spoiled_checkpoint_ends_in_a_sentence(tmp_path, change):
    class Stop(Observer):
        def stepped(self, cursor, losses):
            if cursor.experience == 1:
                raise KeyboardInterrupt

    stream, recipe = Toy().open(), toy_recipe(checkpoint_every=0)
    with pytest.raises(KeyboardInterrupt):
        run_stream(Strategy(), stream, toy_model(stream), recipe=recipe, vault=Vault(tmp_path / "a", "me"),
                   observer=Stop())
    state = Vault(tmp_path / "a", "me").load()
    assert state["is_inside"]
    change(state)
    put(tmp_path / "b", {**state, "owner": "me"})
    with pytest.raises(CheckpointError, match="does not fit the run"):
        run_stream(Strategy(), stream, toy_model(stream), recipe=replace(recipe, reset_optimizer=False),
                   vault=Vault(tmp_path / "b", "me"))


def test_a_kind_is_a_word(capsys):
    assert cli.main(["list", "kind=[1]"]) == 2
    assert "unknown kind '[1]'" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["published: 5", "published: er", "published: [1, a]", BOMB, "[" * 50_000, "5",
                                     "a: 2024-11-21"])
def test_a_preset_is_plain_data(tmp_path, monkeypatch, content):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "planted.yaml").write_text(content)
    monkeypatch.setattr(presets, "_roots", lambda: (tmp_path,))
    for kept in (presets._home, presets._preset_text, presets.preset_names):
        kept.cache_clear()
    try:
        with pytest.raises(ClfError):
            presets.published_section("planted")
    finally:
        for kept in (presets._home, presets._preset_text, presets.preset_names):
            kept.cache_clear()
