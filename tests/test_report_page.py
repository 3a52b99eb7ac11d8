"""The report page, its pictures and its LaTeX: numbers, escaping, what a browser makes of it, and bad input."""

import html.parser
import json
import math
import re
import shutil
import statistics
import sys

import numpy as np
import pytest
import yaml
from scipy import stats

from cl_framework.cli import main
from cl_framework.configuration import hash_of
from cl_framework.page_curves import SO_FAR, points
from cl_framework.page_figures import of_sheet
from cl_framework.page_latex import as_latex
from cl_framework.page_theme import PAPER
from cl_framework.pairing import DEFAULT
from cl_framework.report import groups, measure_named
from cl_framework.seal import sealed
from cl_framework.sheets import sheets
from cl_framework.wandb_keys import HEAT_TURN

PLANTED = '<script>window.planted = 1</script>"\'&é漢Ω</script>'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LABELLED = ("average_accuracy", "average_incremental_accuracy", "forgetting/max", "backward_transfer",
            "learning_accuracy", "stability")


def matrix(rng, n):
    """A lower triangle of accuracies."""
    return [[round(float(rng.uniform(0.1, 1)), 4) if j <= i else None for j in range(n)] for i in range(n)]


def run(root, name, strategy, seed, *, n=4, extra=None, **changes):
    """Write a run folder with random numbers; the content of its summary.json."""
    rng = np.random.default_rng([len(name), len(strategy), seed])
    tree = {"scenario": {"name": "split_digits", "n_experiences": n}, "model": {"name": "mlp", "hidden": [4]},
            "strategy": {"name": strategy, **(extra or {})}, "train": {"lr": 0.01}, "seed": seed, "order_seed": None}
    content = {
        "scenario": "split_digits", "strategy": strategy, "model": "mlp", "seed": seed, "order_seed": None,
        "phase": "single", "protocol": "single-phase", "config_hash": hash_of(tree), "git_commit": "c0ffee0123456789",
        "metrics": {**{key: round(float(rng.uniform(0, 1)), 6) for key in LABELLED}, "memory_bytes": 4000.0,
                    "n_parameters": 85002.0}, "accuracy_matrix": matrix(rng, n), "seconds": 1.5 + seed,
        "status": "finished", **changes}
    folder = root / name / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    (folder / "summary.json").write_text(json.dumps(content))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11.7", "device": "cpu", "wandb_id": "secret",
                                                         "packages": {"torch": "2.13.0"}}))
    return content


def unlabelled(root, strategy, seed):
    """Write a run that adapted to rows without labels."""
    rng = np.random.default_rng([len(strategy), seed])
    error = [round(float(rng.uniform(0.1, 0.9)), 4) for _ in range(3)]
    metrics = {"online_error": statistics.fmean(error), "online_accuracy": 1 - statistics.fmean(error),
               "calibration_error": 0.1, "source_forgetting": 0.02 * seed}
    figures = [{"name": f"digits_c {kind} 5", "online_error": value, "accuracy": 0.9} for kind, value in
               zip(("fog", "snow", "frost"), error, strict=True)]
    square = [[0.9 if i == j else None for j in range(3)] for i in range(3)]
    return run(root, f"corrupted/{strategy}", strategy, seed, scenario="corrupted", metrics=metrics,
               experiences=figures, accuracy_matrix=square)


def comparison(folder):
    """Write what `clf protocol` writes, as far as the page reads it."""
    def row(name, tuned, reported):
        result = {"mean": reported, "std": 0.01, "n": 3, "interval": [reported - 0.02, reported + 0.02]}
        return {"strategy": name, "tuning": {"mean": tuned}, "tuning_cost": {"train_seconds": 12.0},
                "evaluation": {"split_digits": {"result": result, "default": 0.5, "forgetting": None}}}
    content = {"format": 2, "protocol": "gtep", "scenario": "split_digits", "metric": "average_accuracy",
               "rows": [row("er", 0.9, 0.7), row(PLANTED, 0.8, 0.75)], "status": "non-compliant",
               "ranks": {"split_digits": {"kendall_tau": -1.0, "spearman": -1.0,
                                          "ranks": {"er": [1.0, 2.0], PLANTED: [2.0, 1.0]}}},
               "broken": ["R4 er"], "verdicts": [{"rule": "R4 er", "kept": False, "reason": "too few trials"}]}
    folder.mkdir(parents=True)
    (folder / "comparison.json").write_text(json.dumps(sealed(content)))


class Reader(html.parser.HTMLParser):
    """Tables by caption as rows of (text, value); scripts by type; every attribute that could load something."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.scripts, self.links, self.words, self._rows, self._in = {}, [], [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [value for key, value in given.items() if key in ("src", "href", "action", "data", "srcset")]
        if tag == "table":
            self._rows = []
        elif tag == "caption":
            self._in, self._caption = "caption", ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._in = "cell"
            self._rows[-1].append(["", None])
        elif tag == "data":
            self._rows[-1][-1][1] = float(given["value"])
        elif tag == "script":
            self.scripts.append([given.get("type"), ""])
            self._in = "script"

    def handle_endtag(self, tag):
        if tag == "caption":
            self.tables.setdefault(self._caption, []).append(self._rows)
        if tag in ("caption", "td", "th", "script"):
            self._in = None

    def handle_data(self, data):
        self.words.append(data)
        if self._in == "caption":
            self._caption += data
        elif self._in == "cell":
            self._rows[-1][-1][0] += data
        elif self._in == "script":
            self.scripts[-1][1] += data

    def rows(self, caption, place=0):
        """Row name -> heading -> (text, value)."""
        head, *rows = self.tables[caption][place]
        return {row[0][0]: {name[0]: tuple(cell) for name, cell in zip(head, row, strict=True)} for row in rows}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of three strategies, one with planted texts, two without labels, a comparison; and the page on them."""
    pytest.importorskip("vl_convert", reason="the extra `report` is not installed")
    pytest.importorskip("jinja2", reason="the extra `report` is not installed")
    root = tmp_path_factory.mktemp("report") / "runs"
    known = [run(root, 'split/er "quoted" é', "er", seed, extra={"er": {"memory_size": 200}}) for seed in range(3)]
    known += [run(root, "split/naive", "naive", 0, extra={"naive": {}})]
    known += [run(root, "split/planted<b>", PLANTED, seed, extra={"note": PLANTED}) for seed in range(2)]
    for strategy in ("tent", "source"):
        known += [unlabelled(root, strategy, seed) for seed in range(3)]
    comparison(root / "tune" / "split_digits" / "comparison" / "0123456789")
    (root / "split" / "damaged").mkdir()
    (root / "split" / "damaged" / "summary.json").write_text('{"scenario": "<img src=x onerror=alert(1)>"')
    page = root.parent / "report.html"
    assert main(["report", f"runs={root}", f"out={page}"]) == 0
    return root, page, known


@pytest.fixture(scope="module")
def read(made):
    return Reader(made[1].read_text())


def chosen(known, strategy):
    return [content for content in known if content["strategy"] == strategy]


@pytest.mark.parametrize("strategy", ["er", "naive", PLANTED])
def test_the_leaderboard_holds_the_means_of_summary_json(made, read, strategy):
    row = read.rows("leaderboard", 1)[strategy]
    values = [content["metrics"]["average_accuracy"] for content in chosen(made[2], strategy)]
    assert row["average accuracy"][1] == statistics.fmean(values)
    assert row["n"][1] == len(values)
    if len(values) > 1:
        low, high = stats.t.interval(0.95, len(values) - 1, statistics.fmean(values), stats.sem(values))
        assert row["95 %"][0] == f"{100 * low:.1f} to {100 * high:.1f}"
        assert row["average accuracy"][0] == f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"
    means = [cells["average accuracy"][1] for cells in read.rows("leaderboard", 1).values()]
    assert means == sorted(means, reverse=True)


def test_every_run_has_the_numbers_of_its_summary(made, read):
    for place, scenario in enumerate(("corrupted", "split_digits")):
        head, *rows = read.tables["every run, numbers as in summary.json (shares are fractions)"][place]
        names = [heading for heading, _ in head]
        shown = {(row[0][0], row[2][1]): dict(zip(names, (value for _, value in row), strict=True)) for row in rows}
        for content in (each for each in made[2] if each["scenario"] == scenario):
            own = shown[content["strategy"], content["seed"]]
            assert {name: own[name] for name in content["metrics"]} == content["metrics"]
            assert own["seconds"] == content["seconds"]


def test_matrices_are_the_means_of_the_runs(made, read):
    [rows] = read.tables["er"]
    expected = np.mean([np.array(content["accuracy_matrix"], dtype=float) for content in chosen(made[2], "er")], axis=0)
    found = np.array([[math.nan if value is None else value for _, value in row[1:]] for row in rows[1:]])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_curves_are_the_means_of_the_lower_rows(made):
    root, _, known = made
    [sheet] = [sheet for sheet in sheets(groups(root), DEFAULT, None) if sheet.rows[0].scenario == "split_digits"]
    found = {(point.place, point.on): point.stat for point in points(sheet) if point.label == "er"}
    r = np.array([content["accuracy_matrix"] for content in chosen(known, "er")], dtype=float)
    for i in range(4):
        rows = r[:, i, :i + 1].mean(axis=1)
        assert found[i, SO_FAR].mean == pytest.approx(rows.mean(), abs=1e-12)
        assert found[i, SO_FAR].std == pytest.approx(rows.std(ddof=1), abs=1e-12)
        assert found[i, "experience 0"].mean == pytest.approx(r[:, i, 0].mean(), abs=1e-12)
    assert (0, "experience 1") not in found


def test_unlabelled_runs_have_columns_of_their_own(made, read):
    rows = read.rows("leaderboard", 0)
    assert {"online error", "calibration error", "source forgetting"} <= {*rows["tent"]}
    assert "average accuracy" not in rows["tent"]
    errors = read.rows("online error in %, the mean over runs")
    for strategy in ("tent", "source"):
        own = [content["experiences"][1]["online_error"] for content in chosen(made[2], strategy)]
        assert errors[strategy]["snow"][1] == pytest.approx(statistics.fmean(own), abs=1e-12)


def test_configurations_differ_in_exactly_these_keys(read):
    rows = read.rows("what configurations differ in")
    assert {*rows} == {"strategy.er.memory_size", "strategy.naive", "strategy.note"}
    assert rows["strategy.er.memory_size"]["er"][0] == "200"
    assert rows["strategy.er.memory_size"]["naive"][0] == "-"
    assert rows["strategy.note"][PLANTED][0] == PLANTED
    assert read.rows("what all configurations share", 1)["train.lr"]["value"][0] == "0.01"


def test_planted_texts_are_text(made, read):
    assert [kind for kind, _ in read.scripts if kind != "application/json"] == ["module", "module"]
    assert PLANTED in read.rows("leaderboard", 1)
    assert "planted = 1</script" not in made[1].read_text()
    assert any("planted<b>" in word for word in read.words)
    assert any("summary.json cannot be read" in word for word in read.words)
    for kind, text in read.scripts:
        if kind == "application/json":
            json.loads(text)


def test_the_page_loads_nothing(read):
    assert {link for link in read.links if not link.startswith("#")} == {"data:,"}


def test_the_reader_is_warned(read):
    text = "".join(read.words)
    for sentence in ("naive on split_digits (n=1)", "were chosen by whoever gave the command", "cannot be read",
                     "breaks R4 of its protocol", "R4 is broken by er: too few trials"):
        assert sentence in text
    assert "secret" not in text


def test_tuning_and_evaluation_stand_beside_each_other(read):
    row = read.rows("tuning and evaluation")["er"]
    assert (row["tuned"][1], row["reported"][1]) == (0.9, 0.7)
    assert read.tables["tuning and evaluation"][0][2][0][0] == "er", "the best evaluation comes first"


def test_the_same_runs_give_the_same_bytes(made, tmp_path):
    root, page, _ = made
    assert main(["report", f"runs={root}", f"out={tmp_path / 'again.html'}"]) == 0
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_a_folder_with_a_comparison_alone_has_a_page(tmp_path, made):
    comparison(tmp_path / "runs" / "tune" / "comparison")
    (tmp_path / "runs" / "tune" / "other").mkdir()
    (tmp_path / "runs" / "tune" / "other" / "comparison.json").write_text("{")
    assert main(["report", f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'p.html'}"]) == 0
    read = Reader((tmp_path / "p.html").read_text())
    assert "leaderboard" not in read.tables
    assert "er" in read.rows("tuning and evaluation")
    assert any("cannot be read" in word for word in read.words)


def test_pictures_are_written_for_every_figure(tmp_path, capsys):
    pytest.importorskip("vl_convert", reason="the extra `report` is not installed")
    from PIL import Image

    for strategy in ("er x", "er$x"):
        for seed in range(2):
            run(tmp_path / "runs", f"long/{strategy}", strategy, seed, n=22)
    assert main(["report", f"runs={tmp_path / 'runs'}", "format=png", f"out={tmp_path / 'pictures'}"]) == 0
    names = {file.stem for file in (tmp_path / "pictures").iterdir()}
    assert names == {"intervals", "curves", "cost", "stability_and_plasticity", "matrix_er_x", "matrix_er_x~2"}
    assert len(capsys.readouterr().out.splitlines()) == len(names)
    with Image.open(tmp_path / "pictures" / "matrix_er_x.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 20)
        assert max(colours)[1] == (255, 255, 255)
        assert len(colours) > 100, "a heat map of 22 x 22 shares"


@pytest.mark.parametrize(("metric", "corner"), [("average_accuracy", "upper left"), ("forgetting/max", "lower left")])
def test_the_best_corner_is_where_the_metric_is_best(tmp_path, metric, corner):
    run(tmp_path, "a", "er", 0)
    found = groups(tmp_path)
    [sheet] = sheets(found, measure_named(metric, found), None)
    [cost] = [figure for figure in of_sheet(sheet, points(sheet), PAPER) if figure.name == "cost"]
    assert f"The {corner} corner is the best." in cost.notes


def test_latex_is_escaped_and_holds_the_numbers(tmp_path, capsys):
    known = [run(tmp_path, "a", "er_ace & 5 % {x}\\y~^#$", seed) for seed in range(3)]
    known += [run(tmp_path, "b", "naive", seed) for seed in range(3)]
    text = as_latex(groups(tmp_path))
    assert r"er\_ace \& 5 \% \{x\}\textbackslash{}y\textasciitilde{}\textasciicircum{}\#\$" in text
    values = [content["metrics"]["average_accuracy"] for content in known[3:]]
    mean, std = 100 * np.mean(values), 100 * np.std(values, ddof=1)
    line = next(line for line in text.splitlines() if line.startswith("naive &"))
    assert line.split(" & ")[2] == rf"{mean:.1f} $\pm$ {std:.1f}"
    columns = re.search(r"begin\{tabular\}\{(l r*|lr*)\}", text)
    assert len(columns[1]) == len(line.split(" & "))
    assert main(["report", f"runs={tmp_path}", "format=latex"]) == 0
    assert capsys.readouterr().out.strip() == text


@pytest.mark.parametrize(("words", "message"), [
    (["out={}/p.html", "runs={}/nothing"], "there is no folder"),
    (["out={}/p.html", "runs={}"], "there are no runs below"),
    (["out={}/missing/p.html"], "there is no folder {}/missing for out="),
    (["format=png", "out={}/missing/pictures"], "there is no folder {}/missing for out="),
    (["format=htm"], "unknown format 'htm'; did you mean 'html'?"),
    (["format=html"], "give format=html with out=report.html"),
    (["format=json", "out={}/p.html"], "a page is one file"),
    (["format=png"], "name their folder with out=pictures"),
    (["format=latex", "out={}"], "format=latex is printed"),
    (["format=latex", "experiment=hsu2018/class"], "experiment=NAME has no format=latex"),
    (["protocol={}", "out={}/p.html"], "for a page give: clf report runs=FOLDER"),
])
def test_bad_input_is_one_clear_error(tmp_path, capsys, words, message):
    if not any(word.startswith(("format", "protocol")) for word in words):
        pytest.importorskip("vl_convert", reason="the extra `report` is not installed")
    assert main(["report", *(word.format(tmp_path, tmp_path) for word in words)]) == 2
    assert message.format(tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()


def test_without_the_extra_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    run(tmp_path, "a", "er", 0)
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert main(["report", f"runs={tmp_path}", f"out={tmp_path / 'p.html'}"]) == 2
    assert "pip install 'cl-framework[report]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    with driver.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=[("light", 1200), ("dark", 380)], ids=["light-desk", "dark-phone"])
def view(request, browser, made):
    """The page in a browser; the colour scheme, and what it said or asked for."""
    scheme, width = request.param
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}, offline=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda asked: said.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None)
    page.goto(made[1].as_uri())
    page.wait_for_selector("html[data-drawn]", state="attached")
    yield page, scheme, said
    context.close()


def test_a_browser_draws_it_in_silence(view, made):
    page, scheme, said = view
    assert page.locator("figure").count() == page.locator("figure svg").count() == 9
    assert page.evaluate("window.planted") is None
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert said == []
    paper = [int(part) for part in re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))]
    ink = [int(part) for part in re.findall(r"\d+", page.evaluate(
        "getComputedStyle(document.querySelector('figure svg .role-axis-label text')).fill"))]
    assert (sum(paper[:3]) > 600, sum(ink[:3]) < 300) == ((True, True) if scheme == "light" else (False, False))
    page.click("#theme")
    other = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert other != f"rgb({', '.join(map(str, paper))})"


def test_every_number_of_a_matrix_can_be_read(view):
    """Contrast of 4.5 or more, WCAG 2.2, for every accuracy; the sheet mixes colours, the template chooses."""
    page = view[0]
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    least = page.evaluate("""turn => {
        const pen = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
        const luminance = colour => {
            pen.fillStyle = colour;
            pen.fillRect(0, 0, 1, 1);
            const part = k => {
                const c = pen.getImageData(0, 0, 1, 1).data[k] / 255;
                return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
            };
            return 0.2126 * part(0) + 0.7152 * part(1) + 0.0722 * part(2);
        };
        const cell = document.querySelector(".matrix td[style]");
        return Math.min(...Array.from({length: 201}, (_, k) => {
            cell.style.setProperty("--v", k / 200);
            cell.classList.toggle("high", k / 200 > turn);
            const style = getComputedStyle(cell);
            const [low, high] = [luminance(style.color), luminance(style.backgroundColor)].sort((a, b) => a - b);
            return (high + 0.05) / (low + 0.05);
        }));
    }""", HEAT_TURN)
    assert least >= 4.5
    shown = page.locator(".matrix td[style]:not([style*='--v: '])").evaluate_all(
        "cells => cells.map(cell => [Number(cell.textContent), cell.classList.contains('high')])")
    assert shown and all(is_high == (value > 100 * HEAT_TURN) for value, is_high in shown)


def test_marks_carry_the_numbers_and_planted_names(view, made):
    page = view[0]
    labels = page.locator("#runs-2-figure-1 svg path").evaluate_all(
        "paths => paths.map(path => path.getAttribute('aria-label')).filter(label => label !== null)")
    mean = 100 * statistics.fmean(content["metrics"]["average_accuracy"] for content in chosen(made[2], "er"))
    assert any("strategy: er;" in label and f"mean: {mean:.2f}" in label for label in labels)
    assert any(PLANTED in label for label in labels)
    assert page.locator("#runs-2-figure-1 svg text", has_text="<script>").count() == 1


def test_it_is_used_from_the_keyboard(view):
    page = view[0]
    reached = []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.tagName + ' ' + document.activeElement.className"))
    assert {"A ", "BUTTON ", "SELECT ", "SUMMARY ", "DIV scroll"} <= {*reached}
    button = page.locator("#runs-2 table.sortable thead button").nth(2)
    column = "rows => rows.map(row => Number(row.cells[2].querySelector('data').value))"
    rows = page.locator("#runs-2 table.sortable").first.locator("tbody tr")
    before = rows.evaluate_all(column)
    button.focus()
    page.keyboard.press("Enter")
    assert rows.evaluate_all(column) == sorted(before)
    page.keyboard.press("Enter")
    assert rows.evaluate_all(column) == sorted(before, reverse=True)
    assert button.locator("..").get_attribute("aria-sort") == "descending"


def test_a_choice_changes_the_curves(view):
    page = view[0]
    drawing = page.locator("#runs-2-figure-2")
    before = drawing.locator("svg").inner_html()
    drawing.locator("select").nth(1).select_option(label="experience 0")
    page.wait_for_function("before => document.querySelector('#runs-2-figure-2 svg').innerHTML !== before", arg=before)
    marks = drawing.locator("svg path[aria-label*='measured on: experience 0']")
    assert marks.count() > 0
