"""`clf diagnose`: its numbers, its tables and picture, and what it says where there is nothing to diagnose."""

import csv
import dataclasses
import io
import json
import math
import shutil

import numpy as np
import pytest
from scipy import stats

from cl_framework.cli import main
from cl_framework.diagnosis import Diagnosis, Step, read_diagnoses
from cl_framework.diagnosis_tables import shared_ends
from cl_framework.seal import sealed
from cl_framework.signal_correlations import correlations, spearman
from cl_framework.signal_curves import signal_curves

FAST = ("scenario=split_digits", "train.epochs=1", "track.wandb=disabled", "model.hidden=[16]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Real runs: three strategies, two seeds each."""
    folder = tmp_path_factory.mktemp("diagnosed") / "runs"
    assert main(["train", *FAST, "strategy=naive,er,opcm", "seed=0,1", "track.diagnostics=true", f"out={folder}"]) == 0
    return folder


def said(capsys, *words):
    capsys.readouterr()
    status = main(["diagnose", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_tables_of_real_runs(runs, capsys):
    status, out, err = said(capsys, f"run={runs}")
    assert status == 0 and not err
    for words in ("er · split_digits · mlp · mean of 2 runs", "naive · ", "opcm · ", "what learning did to the weights",
                  "all updates so far", "the most telling layers", "body.1.weight", "state_gap", "pair/conflict"):
        assert words in out
    assert "…" not in out and max(map(len, out.splitlines())) <= 80


def test_one_run_has_no_correlations(runs, capsys):
    status, out, _ = said(capsys, f"run={next(runs.glob('split_digits/opcm/*/seed1'))}")
    assert status == 0 and "opcm · split_digits · mlp · seed 1" in out and "rank correlation" not in out


def test_json_and_csv_hold_every_number(runs, capsys):
    content = json.loads(said(capsys, f"run={runs}", "format=json")[1])
    assert [run["label"] for run in content["runs"]] == ["er", "er", "naive", "naive", "opcm", "opcm"]
    rows = list(csv.DictReader(io.StringIO(said(capsys, f"run={runs}", "format=csv")[1])))
    for run in content["runs"]:
        folder = run["folder"]
        kept = json.loads((runs / folder / "diagnostics.json").read_text())["experiences"]
        matrix = json.loads((runs / folder / "summary.json").read_text())["accuracy_matrix"]
        for ours, theirs in zip(run["experiences"], kept, strict=True):
            assert ours["signals"] == theirs["signals"]
            for layer, values in theirs["layers"].items():
                assert ours["layers"][layer]["signals"] == values["signals"]
            for pair in ours["pairs"]:
                t, i = ours["experience"], pair["earlier"]
                assert pair["lost"] == matrix[t - 1][i] - matrix[t][i]
        place = {"folder": folder, "experience": "4", "layer": "body.1.weight"}
        found = {row["signal"]: row["value"] for row in rows if place.items() <= row.items() and row["earlier"] == "2"}
        expected = kept[4]["layers"]["body.1.weight"]["pairs"][2]
        assert {name: float(value) for name, value in found.items()} == {
            name: value for name, value in expected.items() if name != "earlier"}


def test_the_picture(runs, tmp_path, capsys):
    file = tmp_path / "signals.svg"
    status, out, _ = said(capsys, f"run={runs}", f"out={file}")
    assert status == 0 and f"wrote {file}" in out.replace("\n", "")
    first = file.read_bytes()
    assert first.count(b"<!-- opcm -->") == 1 and first.count(b"id=\"axes_") == 8
    assert said(capsys, f"run={runs}", f"out={file}")[0] == 0 and file.read_bytes() == first
    status, _, err = said(capsys, f"run={runs}", f"out={tmp_path / 'signals.jpg'}")
    assert status == 2 and ".png" in err


def test_runs_without_diagnostics(runs, tmp_path, capsys):
    assert main(["train", *FAST, "strategy=naive", f"out={tmp_path}"]) == 0
    folder = next(tmp_path.glob("split_digits/naive/*/seed0"))
    status, _, err = said(capsys, f"run={folder}")
    assert status == 2 and "has no diagnostics.json" in err and "track.diagnostics=true" in err
    (tmp_path / "with").symlink_to(next(runs.glob("split_digits/er/*")))
    assert said(capsys, f"run={tmp_path}")[0] == 2
    other = tmp_path / "copied" / "seed0"
    other.mkdir(parents=True)
    for file in next(runs.glob("split_digits/er/*/seed0")).glob("*.*"):
        if file.is_file():
            (other / file.name).write_bytes(file.read_bytes())
    status, out, _ = said(capsys, f"run={tmp_path}")
    assert status == 0 and "1 of 2 runs have no diagnostics" in out.replace("\n", " ")
    (other / "diagnostics.json").write_text('{"experiences": [{}]}')
    status, _, err = said(capsys, f"run={other}")
    assert status == 2 and "is damaged" in err
    (other / "summary.json").write_text("{}")
    status, _, err = said(capsys, f"run={other}")
    assert status == 2 and "summary.json is damaged" in " ".join(err.split())


def test_diagnostics_of_other_experiences_or_beyond_numbers(runs, tmp_path, capsys):
    one = next(runs.rglob("diagnostics.json")).parent
    other = shutil.copytree(one, tmp_path / "other")
    content = json.loads((one / "diagnostics.json").read_text())
    last = content["experiences"][-1]
    (other / "diagnostics.json").write_text(json.dumps({"experiences": [*content["experiences"], last]}))
    status, _, err = said(capsys, f"run={other}")
    assert status == 2 and "experiences, and summary.json has" in " ".join(err.split())
    last["signals"]["update_norm"] = math.inf
    (other / "diagnostics.json").write_text(json.dumps(content))
    status, out, _ = said(capsys, f"run={other}", "format=json")
    assert status == 0 and json.loads(out)["runs"][0]["experiences"][-1]["signals"]["update_norm"] is None
    (other / "diagnostics.json").write_text('{"experiences": []}')
    assert "no experience has been diagnosed yet" in said(capsys, f"run={other}")[1]


def test_mistakes_are_told(runs, tmp_path, capsys):
    for words, expected in (([], "clf diagnose run=PATH"), ([f"run={tmp_path / 'none'}"], "run=PATH"),
                            ([f"run={runs}", "format=jsno"], "did you mean 'json'"),
                            (["runs=x"], "did you mean 'run'")):
        status, _, err = said(capsys, *words)
        assert status == 2 and expected in err


def test_a_run_that_is_not_finished(runs, tmp_path, capsys):
    folder = tmp_path / "seed0"
    folder.mkdir()
    source = next(runs.glob("split_digits/naive/*/seed0"))
    for name in ("config.yaml", "diagnostics.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    status, out, _ = said(capsys, f"run={folder}")
    assert status == 0 and "(not finished)" in " ".join(out.split()) and "lost" not in out


def test_long_names_of_layers_lose_what_all_share():
    names = [f"body.model.layers.{i}.{part}.weight" for i in (0, 1, 11) for part in ("mlp.up", "mlp.down")]
    assert shared_ends(names) == ("body.model.layers.", ".weight")
    assert shared_ends(names[:2]) == ("body.model.layers.0.mlp.", ".weight")
    assert shared_ends(["body.1.weight", "body.3.weight", "head.weight"]) == ("", "")
    assert shared_ends(["body.encoder.a_rather_long_name.weight"]) == ("", "")
    assert shared_ends(["body.a_rather_long_name.bias", "head.a_rather_long_name.weight"]) == ("", "")


# correlations


def test_spearman_is_that_of_scipy_also_with_ties_and_gaps():
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 6, (4, 30)).astype(float), generator.normal(size=(4, 30))
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(spearman(x, y), expected)
    gaps = generator.random((4, 30)) < 0.3
    x[gaps], y[gaps] = np.nan, np.nan
    expected = [stats.spearmanr(a[~gap], b[~gap]).statistic for a, b, gap in zip(x, y, gaps, strict=True)]
    np.testing.assert_allclose(spearman(x, y), expected)
    assert math.isnan(spearman(np.ones(5), np.arange(5.0)))


def made(tmp_path, n_runs, noise):
    """Runs of three experiences whose signal `told` is what the pair's older experience loses, up to noise."""
    generator, found = np.random.default_rng(1), []
    for _ in range(n_runs):
        lost = generator.random(3)
        told = lost + noise * generator.normal(size=3)
        accuracy = ((1.0, math.nan, math.nan), (1 - lost[0], 1.0, math.nan), (1 - lost[0] - lost[1], 1 - lost[2], 1.0))
        pairs = ((), ({"told": told[0]},), ({"told": told[1]}, {"told": told[2]}))
        steps = tuple(Step({"same": 1.0, "noise": float(generator.normal())}, pair, {}) for pair in pairs)
        found.append(Diagnosis(folder=tmp_path, label="x", run=None, steps=steps, accuracy=accuracy,
                               task_accuracy=accuracy))
    return found, told


def test_a_signal_that_tells_forgetting_is_found(tmp_path):
    runs, _ = made(tmp_path, 20, 0.05)
    found = {each.signal: each for each in correlations(runs)}
    samples = [(pair["told"], run.lost(i, t)) for run in runs for t, step in enumerate(run.steps)
               for i, pair in enumerate(step.pairs)]
    assert found["pair/told"].rho == pytest.approx(stats.spearmanr(*zip(*samples, strict=True)).statistic)
    assert (found["pair/told"].n, found["pair/told"].n_runs) == (60, 20)
    low, high = found["pair/told"].interval
    assert 0.9 < low <= found["pair/told"].rho <= high <= 1
    low, high = found["noise"].interval
    assert low < 0 < high
    assert "same" not in found


def test_whole_runs_are_drawn(tmp_path):
    """Samples that are the same in each run are no new evidence: ten copies leave the interval of the run itself."""
    [run], _ = made(tmp_path, 1, 0.8)
    [copies, *_] = [each for each in correlations([run] * 10) if each.signal == "pair/told"]
    assert copies.interval == pytest.approx((copies.rho, copies.rho))


def test_few_runs_have_no_interval(tmp_path):
    assert correlations(made(tmp_path, 4, 0.1)[0])[0].interval is None
    assert correlations(made(tmp_path, 5, 0.1)[0])[0].interval is not None
    assert correlations([]) == []


def test_lost_is_measured_between_two_rows(runs):
    for run in read_diagnoses(runs).runs:
        assert run.lost(0, 1) == run.accuracy[0][0] - run.accuracy[1][0]
        assert run.lost(1, 3, "within") == run.task_accuracy[2][1] - run.task_accuracy[3][1]


# texts


@pytest.fixture
def texts(runs, tmp_path):
    """The same runs with perplexities, as of a stream of texts: in nats 1 + 0.1 t (i + 1)."""
    folder = tmp_path / "texts"
    shutil.copytree(runs, folder)
    for file in folder.rglob("summary.json"):
        summary = json.loads(file.read_text())
        n = len(summary["accuracy_matrix"])
        summary["perplexity_matrix"] = [[math.exp(1 + 0.1 * t * (i + 1)) for i in range(n)] for t in range(n)]
        file.write_text(json.dumps(sealed(summary)))
    return folder


def test_what_texts_lost_is_told_in_nats(texts, capsys):
    run = read_diagnoses(texts).runs[0]
    assert run.lost(1, 3, "nats") == pytest.approx(0.2) and run.loss[2][1] == pytest.approx(1.4)
    status, out, _ = said(capsys, f"run={next(texts.glob('split_digits/opcm/*/seed1'))}")
    assert status == 0 and "lost in points and nats a token" in " ".join(out.split())
    assert "lost within" not in out and "0.25" in out  # the mean over four at the end
    _, out, _ = said(capsys, f"run={texts}")
    assert "rank correlation of signals with forgetting in nats a token" in " ".join(out.split())
    content = json.loads(said(capsys, f"run={texts}", "format=json")[1])
    pair = content["runs"][0]["experiences"][3]["pairs"][1]
    assert pair["lost_nats"] == pytest.approx(0.2) and content["correlations"]["forgetting_within_classes"] == []
    assert {each["signal"] for each in content["correlations"]["forgetting_nats"]} > {"update_norm", "pair/conflict"}


def test_losses_are_drawn_where_all_runs_have_texts(runs, texts, tmp_path):
    def titles(folder):
        figure = signal_curves(read_diagnoses(folder).by_label(), tmp_path / "curves.svg")
        return [axes.get_title() for axes in figure.axes]

    assert titles(texts)[-1] == "lost by earlier ones (nats a token)"
    assert titles(runs)[-1] == "lost by earlier ones (points)"


def test_signals_go_with_losses_too(tmp_path):
    runs, _ = made(tmp_path, 6, 0.05)
    texts = [dataclasses.replace(run, loss=tuple(tuple(3 - 2 * value for value in row) for row in run.accuracy))
             for run in runs]
    plain, nats = (correlations(texts, kind) for kind in ("all", "nats"))
    assert [(each.signal, each.rho, each.interval) for each in plain] == [
        (each.signal, each.rho, each.interval) for each in nats]
