"""What W&B is given, read from the files that it writes offline: keys, axes, tables, artifacts, also after a resume."""

import csv
import json
import os
import re
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from wandb.proto.wandb_internal_pb2 import Record

from cl_framework.metrics import StreamRecord, compute_all, installed_metrics
from cl_framework.wandb_about import study_of, tags
from cl_framework.wandb_content import numbers
from cl_framework.wandb_heatmap import heatmap
from cl_framework.wandb_keys import CELLS, EXPERIENCE, EXPERIENCES, HEATMAP, MATRIX, PLANE, SECTIONS, STREAM_STEP

_BLOCK, _HEAD = 32768, 7
_FULL, _FIRST, _LAST = 1, 2, 4


def luminance(colour):
    """Relative luminance of red, green and blue from 0 to 255 (WCAG 2.2)."""
    parts = [part / 255 for part in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def records(file):
    """The messages of a .wandb file: W&B's own, in the framing of LevelDB's log, with checksums."""
    data, at, whole = file.read_bytes(), _HEAD, b""
    assert data.startswith(b":W&B")
    while at + _HEAD <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEAD:
            at += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, at)
        body = data[at + _HEAD: at + _HEAD + length]
        assert zlib.crc32(bytes([kind]) + body) == checksum
        at += _HEAD + length
        whole = body if kind in (_FULL, _FIRST) else whole + body
        if kind in (_FULL, _LAST):
            yield Record.FromString(whole)


def read(file):
    """One run file: the run, its axes, its lines by step, its summary, its artifacts."""
    found = SimpleNamespace(run=None, axes={}, lines={}, summary={}, artifacts=[], folder=file.parent)
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
        elif kind == "metric":
            found.axes[record.metric.glob_name] = record.metric.step_metric
        elif kind == "history":
            found.lines[record.history.step.num] = _items(record.history.item)
        elif kind == "summary":
            found.summary |= _items(record.summary.update)
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
    found.config = {item.key: json.loads(item.value_json) for item in found.run.config.update}
    return found


def _items(items):
    named = {"\n".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
    flat = {name.partition("\n")[0]: {} for name in named if "\n" in name}
    for name, value in named.items():
        key, _, inner = name.partition("\n")
        flat = {**flat, key: {**flat[key], inner: value}} if inner else {**flat, key: value}
    return {key: value for key, value in flat.items() if not key.startswith("_")}


def files(folder):
    return sorted(folder.rglob("*.wandb"), key=lambda file: file.stat().st_mtime_ns)


def table(found, key):
    """The last version of a table: its columns, its rows."""
    content = json.loads((found.folder / "files" / found.summary[key]["path"]).read_text())
    return content["columns"], content["data"]


def matrix(run):
    """R from the run folder, as W&B never saw it."""
    with (run / "accuracy.csv").open() as file:
        return [[float(cell) if cell else None for cell in line[1:]] for line in [*csv.reader(file)][1:]]


SCRIPT = textwrap.dedent("""
    import pytest
    from importlib.util import find_spec
    from pathlib import Path
    from cl_framework import cli
    from cl_framework.observer import Observer

    class Stop(Observer):
        def evaluated(self, index, record, own):
            if index == 2:
                raise KeyboardInterrupt

    fast = ["scenario=split_digits", "train.epochs=1", "track.every=1", "track.wandb=offline"]
    er = ["train", *fast, "strategy=er", "strategy.memory_size=50"]
    assert cli.main([*er, "track.checkpoints=true", "out=whole"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cl_framework.launch.progress_for", lambda console, label: Stop())
        assert cli.main([*er, "out=resumed"]) == 130
    assert cli.main([*er, "out=resumed"]) == 0
    search = ["scenario.sizes=[2,3]", "search.trials=1", "search.seeds=1"]
    assert cli.main(["tune", *fast, *search, "strategy=naive", "out=two"]) == 0
    (best,) = Path("two").rglob("best.yaml")
    assert cli.main(["evaluate", f"tuned={best}", "defaults=false"]) == 0
    if find_spec("wandb_workspaces"):
        assert cli.main(["dashboard", "entity=team", "mode=offline", "runs=two", "out=records.json"]) == 0
""")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Runs that W&B recorded offline: a whole one, one that was interrupted, and both phases of a search."""
    folder = tmp_path_factory.mktemp("wandb")
    home = {**os.environ, "HOME": str(folder), "WANDB_DATA_DIR": str(folder), "WANDB_SILENT": "true"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, env=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "W&B" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def whole(here):
    (run,) = here.glob("whole/*/*/*/seed0")
    return SimpleNamespace(path=run, **vars(read(files(run)[0])))


def test_every_key_has_the_axis_of_its_section(whole):
    assert whole.axes == {f"{section}/*": axis for section, axis in SECTIONS.items()}
    assert whole.lines
    for line in whole.lines.values():
        for key in line.keys() - {STREAM_STEP, EXPERIENCE}:
            assert whole.axes[f"{key.partition('/')[0]}/*"] in line, key


def test_group_job_type_tags_and_what_the_run_is(whole):
    summary = json.loads((whole.path / "summary.json").read_text())
    assert (whole.run.run_group, whole.run.job_type) == (summary["config_hash"], "single")
    assert list(whole.run.tags) == ["split_digits", "er"]
    about = whole.config["about"]
    assert about["config_hash"] == whole.path.parent.name and about["chosen_by"] == "the command"
    assert about["git_commit"] == json.loads((whole.path / "environment.json").read_text())["git_commit"]
    tree = yaml.safe_load((whole.path / "config.yaml").read_text())
    assert {key: whole.config[key] for key in tree} == tree
    assert {name: whole.summary[name] for name in about} == about
    for name, value in summary["metrics"].items():
        if not name.startswith("strategy/"):
            assert whole.summary[name] == pytest.approx(value), name


def test_curves_are_those_of_the_matrix(whole):
    r = matrix(whole.path)
    lines = [line for line in whole.lines.values() if EXPERIENCE in line]
    assert [line[EXPERIENCE] for line in lines] == list(range(len(r)))
    for i, line in enumerate(lines):
        assert [line[f"experience/accuracy/{j}"] for j in range(i + 1)] == r[i][:i + 1]
        forgotten = {f"forgetting/{j}": max(r[row][j] for row in range(j, i)) - r[i][j] for j in range(i)}
        assert {key: value for key, value in line.items() if key.startswith("forgetting/")} == pytest.approx(forgotten)
        assert line["plasticity/learning_accuracy"] == pytest.approx(sum(r[j][j] for j in range(i + 1)) / (i + 1))
        if i:
            assert line["stability/stability"] == pytest.approx(sum(r[i][:i]) / i)
        assert line["experience/strategy/memory_bytes"] > 0 and line["cost/seconds"] > 0
    assert sum("train/loss" in line for line in whole.lines.values()) >= len(r)
    assert [line[STREAM_STEP] for line in whole.lines.values()] == sorted(
        line[STREAM_STEP] for line in whole.lines.values())


def test_tables_hold_the_matrix_the_experiences_and_the_point_of_the_plane(whole):
    r = matrix(whole.path)
    columns, rows = table(whole, MATRIX)
    assert columns == ["after", "0", "1", "2", "3", "4"] and rows == [[i, *row] for i, row in enumerate(r)]
    columns, rows = table(whole, CELLS)
    assert columns == ["after", "on", "accuracy"]
    assert {(i, j): value for i, j, value in rows} == {
        (i, j): value for i, row in enumerate(r) for j, value in enumerate(row) if value is not None}
    summary = json.loads((whole.path / "summary.json").read_text())
    columns, (row,) = table(whole, PLANE)
    assert dict(zip(columns, row, strict=True)) == {
        "group": summary["config_hash"], "scenario": "split_digits", "strategy": "er", "seed": 0, "order_seed": None,
        **{name: pytest.approx(summary["metrics"][name]) for name in ("stability", "learning_accuracy",
                                                                      "average_accuracy")}}
    columns, rows = table(whole, EXPERIENCES)
    assert [dict(zip(columns[1:], row[1:], strict=True)) for row in rows] == summary["experiences"]


def test_the_heat_map_has_a_cell_for_each_number(whole):
    page = (whole.folder / "files" / whole.summary[HEATMAP]["path"]).read_text()
    told = re.findall(r'title="after learning experience (\d): ([\d.]+) % on experience (\d)"', page)
    r = matrix(whole.path)
    assert {(int(i), int(j)): float(value) for i, value, j in told} == {
        (i, j): pytest.approx(100 * value, abs=0.005) for i, row in enumerate(r) for j, value in enumerate(row)
        if value is not None}
    assert "http" not in page and "<script" not in page
    assert "&lt;script&gt;" in heatmap(StreamRecord(n_experiences=1), "<script>")


def test_every_number_of_the_heat_map_can_be_read():
    record = StreamRecord(n_experiences=101)
    record.accuracy[0] = torch.linspace(0, 1, 101)
    cells = re.findall(r"background:rgb\((\d+),(\d+),(\d+)\);color:#(fff|000)", heatmap(record, ""))
    assert len(cells) == 101 and {ink for *_, ink in cells} == {"fff", "000"}
    for *paper, ink in cells:
        low, high = sorted((luminance(map(int, paper)), float(ink == "fff")))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_record_and_checkpoints_are_artifacts(whole):
    kept = {artifact.type: artifact for artifact in whole.artifacts}
    assert {"config.yaml", "command.txt", "environment.json", "accuracy.csv"} <= {
        entry.path for entry in kept["record"].manifest.contents}
    aliases = [set(artifact.aliases) for artifact in whole.artifacts if artifact.type == "checkpoint"]
    assert aliases == [{"latest", f"experience-{index}"} for index in range(5)]


def test_a_resumed_run_is_the_same_run_line_by_line(here, whole):
    (run,) = here.glob("resumed/*/*/*/seed0")
    first, second = (read(file) for file in files(run))
    assert first.run.run_id == second.run.run_id and first.axes == second.axes == whole.axes
    assert not any(artifact.type == "checkpoint" for artifact in first.artifacts + second.artifacts)
    lines = {**first.lines, **second.lines}
    assert list(lines) == list(whole.lines)

    def measured(line):
        return {key: value for key, value in line.items() if "seconds" not in key and not isinstance(value, dict)}

    assert [measured(line) for line in lines.values()] == [measured(line) for line in whole.lines.values()]
    assert table(second, MATRIX) == table(whole, MATRIX) and table(second, PLANE) == table(whole, PLANE)
    assert {"record"} == {artifact.type for artifact in second.artifacts if artifact.type != "run_table"}


def test_the_runs_of_both_phases_say_which_search_they_belong_to(here):
    (best,) = here.glob("two/**/best.yaml")
    made = yaml.safe_load(best.read_text())
    (tuning,), (evaluation,) = (files(best.parent / kind) for kind in ("runs", "evaluation"))
    first, second = read(tuning), read(evaluation)
    assert (first.run.job_type, second.run.job_type) == ("tuning", "evaluation")
    assert first.config["about"]["chosen_by"] == "clf tune"
    assert second.config["about"]["chosen_by"] == "phase 1 of two-phase"
    assert first.summary["study_hash"] == second.summary["study_hash"] == made["study_hash"]
    assert (second.summary["space_hash"], second.summary["winner_hash"]) == (made["space_hash"], made["winner"]["hash"])
    (kept,) = (artifact for artifact in second.artifacts if artifact.type == "record")
    assert "best.yaml" in {entry.path for entry in kept.manifest.contents}


def test_a_protocol_record_is_logged_as_summary_tables_and_artifact(here):
    pytest.importorskip("wandb_workspaces", reason="the extra dashboard is not installed")
    (path,) = here.glob("two/**/protocol.json")
    record = json.loads(path.read_text())
    found = read(files(path.parent / "wandb")[0])
    assert (found.run.run_group, found.run.job_type) == (record["hashes"]["study"], "protocol")
    assert found.run.run_id == record["digest"][:12] and found.summary["status"] == record["status"]
    for name in ("scenario", "space", "winner", "study", "code", "tuning"):
        assert found.summary[f"{name}_hash"] == record["hashes"][name]
    assert table(found, "tables/verdicts")[1] == [
        [each["rule"], each["kept"], each["reason"]] for each in record["verdicts"]]
    (kept,) = (artifact for artifact in found.artifacts if artifact.type == "protocol")
    assert {entry.path for entry in kept.manifest.contents} == {"protocol.json", "best.yaml"}


def test_a_stream_without_labels_forgets_nothing_experience_by_experience():
    record = StreamRecord(n_experiences=2)
    record.accuracy[0, 0], record.accuracy[1, 1] = 0.9, 0.8
    record.online = torch.tensor([0.5, 0.25], dtype=torch.float64)
    metrics = installed_metrics()
    found = numbers(1, record, compute_all(record, metrics), metrics, 7, is_labelled=False)
    axis = next(metric.axis for metric in metrics if metric.name == "online_error")
    assert found[f"{axis}/online_error"] == 0.625 and found[STREAM_STEP] == 7
    assert not any(key.startswith("forgetting/") for key in found)


@pytest.mark.parametrize(("content", "found"), [
    (None, "0123456789"), ("winner: 3", None), ("[1, 2]", "0123456789"), ("{", "0123456789"), ("study_hash: a", "a")])
def test_a_search_that_says_nothing_is_no_fault(tmp_path, content, found):
    study = tmp_path / "tune" / "split_digits" / "er" / "0123456789"
    run = study / "runs" / "split_digits" / "er" / "aaaa" / "seed0"
    run.mkdir(parents=True)
    if content is not None:
        (study / "best.yaml").write_text(content)
    assert study_of(run) == ({} if found is None else {"study_hash": found})
    assert study_of(tmp_path) == study_of(Path("/")) == {}


def test_tags_are_short_and_there_once(monkeypatch):
    job = SimpleNamespace(name=lambda group: {"scenario": "split_digits", "strategy": f"{'m' * 80}:Mine+er"}[group])
    assert tags(job) == ["split_digits", "m" * 64, "er"]
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    assert tags(job)[-1] == "tuned elsewhere"
