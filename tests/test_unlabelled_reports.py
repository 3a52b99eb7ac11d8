"""What is shown of unlabelled streams: tables, comparison, labels of rows, pictures, and what a run says and writes."""

import csv
import io
import json
import math
import statistics

import pytest
import torch
from matplotlib.colors import to_rgb
from rich.console import Console

from cl_framework import Strategy, cli
from cl_framework.check_runs import Stop, Stopped
from cl_framework.checkpoint import Vault
from cl_framework.config import resolve
from cl_framework.error_curve import error_curve
from cl_framework.error_rows import error_curves, error_rows
from cl_framework.errors import ConfigError, DataError
from cl_framework.experience_figures import Figures, Seen, figures_of, read_figures
from cl_framework.observer import Cursor
from cl_framework.progress import Bars, Lines
from cl_framework.protocol import run_stream
from cl_framework.record import StreamRecord
from cl_framework.report import as_text, groups, report, run_table
from cl_framework.report_files import as_csv, as_json, as_markdown
from cl_framework.run_writer import Writer, summarise
from cl_framework.runs import RunFolder
from cl_framework.summaries import parse_summary, read_runs
from cl_framework.toys import Toy, toy_model, toy_recipe
from cl_framework.tracking import _Tracker
from cl_framework.types import Need, StreamInfo

NAMES = ("gaussian_noise", "contrast", "elastic_transform")
ERRORS = {  # of each seed, by experience
    "source": [[0.5, 0.75, 0.25], [0.625, 0.5, 0.375], [0.25, 1.0, 0.125]],
    "tent": [[0.125, 0.25, 0.375], [0.25, 0.25, 0.0625], [0.375, 0.125, 0.125]],
}


def write(root, strategy, seed, errors, names=NAMES, rounds=1, metrics=(), **changes):
    """A run folder of an unlabelled stream, with a summary written out by hand."""
    a_round = len(errors) // rounds
    experiences = [{"name": f"digits_csim {names[i % len(names)]} 5" + (f", round {i // a_round + 1}" if rounds > 1
                                                                         else ""),
                    "n_classes": 10, "round": i // a_round + 1, "accuracy": 0.9 - i / 100, "online_error": error,
                    "calibration_error": error / 2, "seconds": 1.0} for i, error in enumerate(errors)]
    content = {
        "scenario": "corrupted", "strategy": strategy, "model": "cnn", "seed": seed, "order_seed": None,
        "phase": "single", "protocol": "single-phase", "config_hash": strategy, "git_commit": "c0ffee",
        "metrics": {"online_error": statistics.fmean(errors), "calibration_error": statistics.fmean(errors) / 2,
                    "source_forgetting": 0.02, "learning_accuracy": 0.9, **dict(metrics)},
        "accuracy_matrix": None, "experiences": experiences, "seconds": 3.0, "status": "finished", **changes}
    folder = root / f"{strategy}-{content['config_hash']}-{seed}"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(content))
    return {**content, "path": str(folder)}


@pytest.fixture
def runs(tmp_path):
    for strategy, seeds in ERRORS.items():
        for seed, errors in enumerate(seeds):
            write(tmp_path, strategy, seed, errors)
    return tmp_path


def shown(renderable, width=80):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def percent(values):
    return f"{100 * statistics.fmean(values):.1f}"


# Tables


def test_a_table_without_labels_has_columns_of_its_own_and_no_dashes(runs):
    text = as_text(groups(runs))
    head, tent = text.splitlines()[:3], next(line for line in text.splitlines() if line.startswith("tent"))
    assert "online" in head[1] and "calibration" in head[1] and "source" in head[1] and "accuracy" not in text
    assert "collapse" not in text
    means = [statistics.fmean(errors) for errors in ERRORS["tent"]]
    assert f"{percent(means)} ± {100 * statistics.stdev(means):.1f}" in tent and "2.0 ± 0.0" in tent
    half = 4.30265 * statistics.stdev(means) / math.sqrt(3)  # t of 2 degrees of freedom at 0.975
    assert f"{100 * (statistics.fmean(means) - half):.1f} to {100 * (statistics.fmean(means) + half):.1f}" in tent
    assert "compared on shared (order, seed) pairs: online error less that of tent, the lowest" in text.replace(
        "\n", " ")


def test_collapse_is_a_column_where_some_run_has_it(runs):
    for seed in range(3):
        write(runs, "rotta", seed, [0.25, 0.5] * 3, rounds=3, metrics={"collapse": 0.07})
    table = as_text(groups(runs), width=200).split("\n\n")[0].splitlines()
    assert "collapse" in table[2]
    assert [("7.0 ± 0.0" in line, line.split()[-4] == "-") for line in table[4:]] == [
        (True, False), (False, True), (False, True)]


def test_the_comparison_is_by_online_error_unless_another_metric_is_asked_for(runs, capsys):
    found = {row["strategy"]: row["compared"] for row in json.loads(as_json(groups(runs)))}
    assert (found["source"]["metric"], found["source"]["reference"]) == ("online_error", "tent")
    differences = [statistics.fmean(a) - statistics.fmean(b) for a, b in zip(*ERRORS.values(), strict=True)]
    assert found["source"]["test"]["mean_difference"] == pytest.approx(statistics.fmean(differences))
    assert found["tent"]["mean_rank"] == 1.0
    report(runs, metric="calibration_error", against="source")
    text = capsys.readouterr().out
    assert "calibration error less that of source" in text.replace("\n", " ")


def test_labelled_tables_beside_unlabelled_ones_are_as_ever(runs):
    for seed in range(2):
        write(runs, "er", seed, [0.5], scenario="split_digits", experiences=[], metrics={}, config_hash="er")
        file = runs / f"er-er-{seed}" / "summary.json"
        content = json.loads(file.read_text())
        content["metrics"] = {"average_accuracy": 0.5 + seed / 10, "forgetting/max": 0.25}
        file.write_text(json.dumps(content))
    found = groups(runs)
    text = as_text(found)
    labelled = text[text.index("split_digits"):]
    assert "incremental" in labelled and "online" not in labelled.split("accuracies")[0]
    assert text.count("online error in %") == 1
    markdown = as_markdown(found)
    tables = markdown.split("\n\n")
    assert "average accuracy" in tables[0] and "online error" not in tables[0] and "| er |" in tables[0]
    assert "online error" in tables[1] and "average accuracy" not in tables[1] and "| - |" not in tables[1]
    assert len(list(csv.DictReader(io.StringIO(as_csv(found))))) == 3


def test_the_table_of_papers_is_the_mean_over_seeds_in_percent(runs):
    found = groups(runs)
    lines = as_markdown(found).splitlines()
    for strategy, seeds in ERRORS.items():
        columns = [percent(column) for column in zip(*seeds, strict=True)]
        total = percent([value for seed in seeds for value in seed])
        assert f"| {strategy} | {' | '.join(columns)} | {total} |" in lines
        assert any(line.split() == [strategy, *columns, total] for line in as_text(found, width=120).splitlines())
    assert "| strategy | gaussian_noise | contrast | elastic_transform | mean |" in lines


def test_severities_of_a_corruption_are_averaged_and_rounds_are_columns(tmp_path):
    gradual = [0.125, 0.5, 0.25, 0.75, 1.0, 0.0]  # three corruptions, each at two places of the stream
    names = [name for name in NAMES for _ in range(2)]
    write(tmp_path / "gradual", "tent", 0, gradual, names=names)
    [group] = groups(tmp_path / "gradual")
    rows = error_rows(["tent"], [group])
    assert rows.headings == (*NAMES, "mean") and rows.rows["tent"] == (0.3125, 0.5, 0.5, 0.4375)
    assert "mean of up to 2 experiences each" in as_text([group])

    errors = [0.125, 0.5, 0.25, 0.75, 1.0, 0.0]
    write(tmp_path / "rounds", "tent", 0, errors, names=NAMES, rounds=2)
    [group] = groups(tmp_path / "rounds")
    rows = error_rows(["tent"], [group])
    assert rows.headings == ("round 1", "round 2", "mean")
    assert rows.rows["tent"] == pytest.approx((0.875 / 3, 1.75 / 3, 0.4375))


@pytest.mark.parametrize("width", [30, 45, 60, 80, 120])
def test_every_number_is_shown_at_every_width(tmp_path, width):
    domains = ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
               "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
               "jpeg_compression"]
    errors = [(i + 1) / 100 + 0.1 for i in range(15)]
    write(tmp_path, "tent", 0, errors, names=domains)
    text = as_text(groups(tmp_path), width=width)
    assert max(map(len, text.splitlines())) <= width
    body = text[text.index("online error in %"):].split()
    assert all(f"{100 * error:.1f}" in body for error in errors)


def test_a_run_ends_with_its_errors_by_corruption_or_by_round(tmp_path):
    text = shown(run_table(write(tmp_path, "tent", 0, ERRORS["tent"][0])))
    assert "accuracy in %: on experience" not in text
    rows = [line.split() for line in text.splitlines()]
    assert ["contrast", "5", "25.0", "12.5", "89.0"] in rows and ["source", "forgetting", "2.0", "%"] in rows
    text = shown(run_table(write(tmp_path, "tent", 1, [0.125, 0.25, 0.375, 0.5], names=NAMES[:2], rounds=2)))
    rows = [line.split() for line in text.splitlines()]
    assert ["1", "18.8", "9.4", "89.0"] in rows and ["2", "43.8", "21.9", "87.0"] in rows
    same = shown(run_table(write(tmp_path, "tent", 2, [0.125, 0.375], names=["fog", "fog"])))
    assert [line.split()[2] for line in same.splitlines() if line.startswith("fog")] == ["12.5", "37.5"]


# Labels of rows


def configured(root, strategy, seed=0, **chosen):
    """A run folder with the configuration that `clf train` would leave there."""
    job = resolve({"scenario": "corrupted", "scenario.dataset": "digits", "strategy": strategy, "seed": seed, **chosen})
    write(root, strategy, seed, ERRORS["tent"][seed], config_hash=job.hash)
    (root / f"{strategy}-{job.hash}-{seed}" / "config.yaml").write_text(job.yaml())
    return job


def test_rows_of_one_strategy_are_told_by_the_fields_in_which_they_differ(tmp_path):
    for seed in range(2):
        paper, _ = (configured(tmp_path, "psmt", seed, **{"strategy.psmt.variant": variant})
                    for variant in ("paper", "release"))
        configured(tmp_path, "tent", seed)
    found = groups(tmp_path)
    labels = [row["compared"]["label"] for row in json.loads(as_json(found))]
    assert sorted(labels) == ["psmt variant=paper", "psmt variant=release", "tent"]
    assert "| corrupted | psmt variant=paper |" in as_markdown(found)
    assert "psmt variant=release" in as_text(found, width=120)
    for name in ("psmt variant=paper", f"psmt {paper.hash[:8]}"):
        assert json.loads(as_json(found, against=name))[0]["compared"]["reference"] == "psmt variant=paper"
    with pytest.raises(ConfigError, match="'against=psmt variant=paper', 'against=psmt variant=release'"):
        as_text(found, against="psmt")


def test_fields_of_the_recipe_tell_rows_apart_and_many_fields_are_a_hash(tmp_path):
    for lr in (0.25, 0.5):
        configured(tmp_path / "two", "tent", **{"train.lr": lr, "strategy.tent.lr": lr})
    assert "tent lr=0.25 train.lr=0.25" in as_markdown(groups(tmp_path / "two"))
    jobs = [configured(tmp_path / "many", "tent", **{"train.lr": lr, "strategy.tent.lr": lr, "train.epochs": n})
            for lr, n in ((0.25, 1), (0.5, 2))]
    text = as_text(groups(tmp_path / "many"), width=120)
    assert all(f"tent {job.hash[:8]}" in text for job in jobs) and "lr=" not in text


def test_an_edited_configuration_gives_no_label(tmp_path):
    jobs = [configured(tmp_path, "tent", **{"strategy.tent.lr": lr}) for lr in (0.25, 0.5)]
    file = tmp_path / f"tent-{jobs[0].hash}-0" / "config.yaml"
    file.write_text(file.read_text().replace("lr: 0.25", "lr: 0.125"))
    text = as_text(groups(tmp_path), width=120)
    assert all(f"tent {job.hash[:8]}" in text for job in jobs) and "lr=" not in text


def test_fields_away_from_their_defaults_stand_below_the_table_unless_the_label_tells(tmp_path):
    write(tmp_path, "psmt", 0, [0.5, 0.25], strategy_fields={"psmt.variant": "paper", "psmt.lr": 0.125})
    text = as_text(groups(tmp_path))
    assert "psmt: variant=paper, lr=0.125" in text
    run = write(tmp_path / "one", "psmt", 0, [0.5, 0.25], strategy_fields={"psmt.variant": "paper"})
    assert "psmt: variant=paper" in shown(run_table(run))
    assert "- psmt: variant=paper, lr=0.125" in as_markdown(groups(tmp_path / f"psmt-psmt-{0}"))


# What a run writes


def test_figures_are_those_of_the_record():
    record = StreamRecord(n_experiences=4, n_rounds=2)
    record.online[:3] = torch.tensor([0.75, 0.5, 0.125])
    record.calibration[:2] = torch.tensor([0.25, 0.375])
    for index, value in enumerate((0.875, 0.75, 0.625)):
        record.accuracy[index, index] = value
    record.seconds[:3] = torch.tensor([1.0, 2.0, 4.0])
    found = figures_of(record, {0: Seen("a", 3), 2: Seen(None, 2)}, range(record.n_done))
    assert found == [
        Figures(name="a", n_classes=3, round=1, accuracy=0.875, online_error=0.25, calibration_error=0.25, seconds=1.0),
        Figures(round=1, accuracy=0.75, online_error=0.5, calibration_error=0.375, seconds=2.0),
        Figures(n_classes=2, round=2, accuracy=0.625, online_error=0.875, seconds=4.0)]


@pytest.mark.parametrize("experiences", [3, [3], [{"online_error": "x"}], [{"name": 3}], [{"online_error": True}]])
def test_damaged_experiences_are_named(tmp_path, experiences):
    with pytest.raises(ValueError, match=r"is no list|holds"):
        read_figures(experiences)
    content = write(tmp_path, "tent", 0, [0.5])
    with pytest.raises(DataError, match="'experiences'"):
        parse_summary({**content, "experiences": experiences}, tmp_path)
    assert parse_summary({**content, "experiences": []}, tmp_path).experiences == ()


@pytest.mark.parametrize(("change", "fault"), [
    ({"experiences": [{"online_error": 1.5}]}, r"'experiences' holds online_error=1.5"),
    ({"experiences": [{"accuracy": -0.25}]}, r"'experiences' holds accuracy=-0.25"),
    ({"accuracy_matrix": [[2.0]]}, "'accuracy_matrix' has values outside 0 to 1"),
    ({"metrics": {"online_error": 55.0}}, "metric 'online_error' is 55.0"),
    ({"metrics": {"source_forgetting": -1.5}}, "metric 'source_forgetting' is -1.5"),
    ({"experiences": [{"name": "a"}, {"name": "a"}], "accuracy_matrix": [[0.5]]}, "are 2, and 'accuracy_matrix' has 1"),
])
def test_what_was_not_measured_is_damage(tmp_path, change, fault):
    content = write(tmp_path, "tent", 0, [0.5])
    with pytest.raises(DataError, match=fault):
        parse_summary({**content, **change}, tmp_path)
    parse_summary({**content, "metrics": {"source_forgetting": -1.0, "online_error": 1.0, "own": 55.0}}, tmp_path)


def test_runs_that_do_not_tell_of_their_experiences_are_noted(runs):
    assert not read_runs(runs).notes()
    write(runs, "cotta", 0, [0.5, 0.25, 0.25], experiences=[])
    assert "1 run not in the error of each experience" in " ".join(read_runs(runs).notes())


def test_seeds_begun_on_other_data_are_not_averaged(runs):
    for seed, digest in enumerate(["a", "b", "a"]):
        (runs / f"tent-tent-{seed}" / "environment.json").write_text(json.dumps({"data": {"source weights": digest}}))
    found = groups(runs)
    tent = next(each for each in found if each.strategy == "tent")
    assert tent.seeds == (0, 2) and next(each for each in found if each.strategy == "source").seeds == (0, 1, 2)
    assert "tent-tent-1 was begun on other data than" in " ".join(read_runs(runs).notes())


def test_a_folder_in_the_place_of_a_summary_is_said(tmp_path):
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(ConfigError, match=r"is damaged .*remove it"):
        RunFolder(tmp_path).summary()


class Watched(Strategy):
    """Answers as it is, and lets answers be counted beside the framework."""

    needs = frozenset({Need.UNLABELLED})

    def adapt(self, model, x):
        return model(x).logits.detach()


def test_names_survive_a_run_that_was_stopped(tmp_path):
    stream, recipe = Toy(is_labelled=False).open(), toy_recipe()
    job = resolve({"scenario": "split_digits", "strategy": "naive"})
    vault = Vault(tmp_path / "checkpoints", "toy")

    class Both(Writer):
        def evaluated(self, index, record, own):
            super().evaluated(index, record, own)
            stop.evaluated(index, record, own)

    stop = Stop(after_experience=1)
    with pytest.raises(Stopped):
        run_stream(Watched(), stream, toy_model(stream), recipe=recipe, vault=vault, observer=Both(
            RunFolder(tmp_path), 1))
    model = toy_model(stream)
    record = run_stream(Watched(), stream, model, recipe=recipe, vault=vault, observer=Writer(RunFolder(tmp_path), 1))
    experiences = summarise(job, record)["experiences"]
    assert [each["name"] for each in experiences] == ["darker 0", "darker 1", "darker 2"]
    model.eval()
    for index, each in enumerate(experiences):
        data = stream[index].train
        wrong = model(model.preprocess(data.raw)).logits.argmax(1) != data.y
        assert each["online_error"] == pytest.approx(float(wrong.double().mean()))
    rows = list(csv.DictReader((tmp_path / "experiences.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["darker 0", "darker 1", "darker 2"]
    assert [float(row["online_error"]) for row in rows] == [each["online_error"] for each in experiences]
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and json.loads(text.splitlines()[1])["average_accuracy"] is None


def test_the_fields_away_from_their_defaults_are_in_the_summary():
    record = StreamRecord(n_experiences=1, strategy_metrics=[{}])
    record.accuracy[0, 0] = 1.0
    job = resolve({"scenario": "split_digits", "strategy": "er+lwf", "strategy.er.memory_size": 77})
    assert summarise(job, record)["strategy_fields"] == {"er.memory_size": 77}
    assert summarise(resolve({"scenario": "split_digits", "strategy": "er"}), record)["strategy_fields"] == {}
    job = resolve({"scenario": "split_digits", "strategy": "psmt"})
    assert summarise(job, record)["strategy_fields"] == {"psmt.variant": "supervised"}


# What a run says


def measured(index=1):
    """An unlabelled stream of three experiences after some of them."""
    record = StreamRecord(n_experiences=3)
    for i in range(index + 1):
        record.online[i], record.calibration[i] = (0.75, 0.25)[i], 0.125
        record.accuracy[i, i] = 0.984
    return record


INFO = StreamInfo(n_experiences=3, n_classes=10, input_shape=(1, 8, 8), is_labelled=False, batch_size=6)


def told(observer, stream):
    """Tell an observer of two experiences."""
    observer.started(INFO, StreamRecord(n_experiences=3), Cursor())
    for index in range(2):
        observer.experience_started(stream[index], 8)
        observer.stepped(Cursor(experience=index, step=8, stream_step=8 * (index + 1)), [0.5, 0.25])
        observer.evaluated(index, measured(index), {})


def test_lines_say_the_error_of_what_was_met():
    console = Console(width=300, file=io.StringIO(), color_system=None)
    told(Lines(console, "corrupted tent seed 0"), Toy(is_labelled=False).open())
    first, *lines = console.file.getvalue().splitlines()
    assert first == "corrupted tent seed 0: adapts to 3 experiences, 10 classes"
    assert "experience 1/3  darker 0: error 25.0 %, mean so far 25.0 %, clean rows 98.4 % right" in lines[0]
    assert "experience 2/3  darker 1: error 75.0 %, mean so far 50.0 %, clean rows 98.4 % right" in lines[1]
    assert "nan" not in console.file.getvalue()


def test_a_name_is_shown_without_the_data():
    console = Console(width=300, file=io.StringIO(), color_system=None)
    observer = Lines(console, "run")
    observer.started(INFO, StreamRecord(n_experiences=3), Cursor())
    observer._name = "fashion_mnist_csim gaussian_noise 5, round 2"
    observer.evaluated(0, measured(0), {})
    assert "experience 1/3  gaussian_noise 5, round 2: error 25.0 %" in console.file.getvalue()


@pytest.mark.parametrize("before", ["", "cnn"])
def test_bars_say_error_and_not_loss(before):
    console = Console(width=200, file=io.StringIO(), force_terminal=True, color_system=None)
    bars = Bars(console, "run", before)
    told(bars, Toy(is_labelled=False).open())
    bars._bars.refresh()
    bars.close()
    text = console.file.getvalue()
    assert "experience 2/3  darker 1" in text and "error 25.0 %" in text and "loss" not in text and "nan" not in text
    assert "error 75.0 %, mean so far 50.0 %, clean rows 98.4 % right" in text
    assert ("run: trains cnn before the stream" in text) is bool(before)


class Kept(_Tracker):
    """Keeps what would be logged."""

    label = "kept"

    def __init__(self):
        super().__init__(resolve({"scenario": "split_digits", "strategy": "naive", "track.every": 1}))
        self.values = []

    def open(self):
        pass

    def put(self, values, step):
        self.values.append((step, dict(values)))


def test_trackers_log_errors_and_nothing_that_is_nan():
    tracker = Kept()
    told(tracker, Toy(is_labelled=False).open())
    steps = [values for _, values in tracker.values if "stream/step" in values]
    assert [values["train/online_error"] for values in steps] == [0.375, 0.375]
    rows = [values for _, values in tracker.values if "experience/index" in values]
    assert rows == [
        {"experience/online_error": error, "experience/calibration_error": 0.125, "experience/clean_accuracy": 0.984,
         "experience/index": index} for index, error in enumerate((0.25, 0.75))]
    unmeasured = StreamRecord(n_experiences=3)
    unmeasured.online[0] = 0.5
    tracker.evaluated(0, unmeasured, {})
    assert tracker.values[-1][1] == {"experience/online_error": 0.5, "experience/index": 0}


# Pictures


def test_a_line_a_strategy_with_a_band_of_one_deviation(runs, tmp_path):
    found = groups(runs)
    labels = [each.strategy for each in found]
    curves = error_curves(labels, found)
    file = tmp_path / "curve.png"
    figure = error_curve(curves, file)
    axes, = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(NAMES)
    for line, band, label in zip(axes.lines, axes.collections, labels, strict=True):
        columns = [*zip(*ERRORS[label], strict=True)]
        means = [100 * statistics.fmean(column) for column in columns]
        widths = [100 * statistics.stdev(column) for column in columns]
        assert list(line.get_ydata()) == pytest.approx(means)
        corners = band.get_paths()[0].vertices
        for place, (mean, width) in enumerate(zip(means, widths, strict=True)):
            heights = corners[corners[:, 0] == place][:, 1]
            assert (heights.min(), heights.max()) == pytest.approx((max(mean - width, 0), min(mean + width, 100)))
        assert to_rgb(band.get_facecolor()[0][:3]) == pytest.approx(to_rgb(line.get_color()))
    first = file.read_bytes()
    error_curve(curves, file)
    assert file.read_bytes() == first
    with pytest.raises(ConfigError, match="expected a file that ends in"):
        error_curve(curves, tmp_path / "curve.gif")


def test_runs_that_met_other_orders_are_drawn_by_number(tmp_path):
    write(tmp_path, "tent", 0, [0.5, 0.25, 0.125])
    write(tmp_path, "tent", 1, [0.5, 0.25, 0.125], names=NAMES[::-1])
    found = groups(tmp_path)
    curves = error_curves(["tent"], found)
    assert curves["tent"].names == (None, "digits_csim contrast 5", None)
    axes, = error_curve(curves, tmp_path / "curve.svg").axes
    assert axes.get_xlabel() == "experience"
    rows = error_rows(["tent"], found)
    assert rows.rows["tent"] == (0.3125, 0.25, 0.3125, pytest.approx(0.875 / 3))


def test_out_writes_the_picture_and_its_numbers(runs, tmp_path, capsys):
    report(runs, out=tmp_path / "pictures")
    assert "online_error.csv" in capsys.readouterr().out
    assert {file.suffix for file in (tmp_path / "pictures").glob("online_error.*")} == {".svg", ".pdf", ".png", ".csv"}
    rows = list(csv.DictReader((tmp_path / "pictures" / "online_error.csv").read_text().splitlines()))
    assert len(rows) == 6 and rows[1]["name"] == "digits_csim contrast 5"
    column = [errors[1] for errors in ERRORS["source"]]
    assert float(rows[1]["online_error"]) == pytest.approx(statistics.fmean(column))
    assert float(rows[1]["std"]) == pytest.approx(statistics.stdev(column)) and rows[1]["n"] == "3"


# The whole


def test_the_command_line_shows_no_nan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLF_DATA", str(tmp_path / "data"))
    code = cli.main(["train", "scenario=corrupted", "scenario.dataset=digits", "track.wandb=disabled",
                     "scenario.corruptions=[contrast,brightness]", "strategy=source,psmt",
                     "strategy.psmt.variant=release", "model=mlp", "model.norm=batch", "train.epochs=1", "seed=0..1"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "trains mlp before the stream" in said.err and "contrast 5: error" in said.err
    assert "psmt: variant=release" in said.out and "nan" not in said.out + said.err
    for file in tmp_path.glob("runs/corrupted/*/*/seed*/summary.json"):
        content = json.loads(file.read_text())
        assert [each["name"] for each in content["experiences"]] == [
            "digits_csim contrast 5", "digits_csim brightness 5"]
        for name in ("online_error", "calibration_error"):
            mean = statistics.fmean(each[name] for each in content["experiences"])
            assert content["metrics"][name] == pytest.approx(mean)
    assert cli.main(["report", "format=csv"]) == 0
    rows = {row["strategy"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert float(rows["source"]["source_forgetting"]) == 0.0 and "average_accuracy" not in rows["source"]
