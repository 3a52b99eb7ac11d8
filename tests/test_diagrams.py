"""Diagrams of ranks: what is written, what stands in it and where, and that no text covers another."""

import itertools
import math
import re
import zlib

import pytest
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from cl_framework.diagrams import critical_difference_diagram, tuning_evaluation_slope
from cl_framework.errors import ConfigError

LONG = [f"experience_replay_{i}_of_a_balanced_reservoir" for i in range(20)]
SPREAD = {name: 1.0 + i for i, name in enumerate(LONG)}
CROWDED = {name: 9.0 + 0.1 * i for i, name in enumerate(LONG)}
CASES = {
    "two": ({"er": 1.0, "naive": 2.0}, 0.5), "three": ({"er": 1.2, "si": 2.0, "naive": 2.8}, 1.0),
    "eight": ({name: 1.0 + 0.9 * i for i, name in enumerate("abcdefgh")}, 2.5),
    "twenty": (SPREAD, 4.5), "crowded": (CROWDED, 0.35), "one clique": (SPREAD, 30.0), "none": (SPREAD, 0.5),
    "ties": ({"a": 1.5, "b": 1.5, "c": 3.5, "d": 3.5, "e": 5.0}, 1.0), "equal": (dict.fromkeys(LONG, 10.5), 2.0),
    "marks": ({"er $\\alpha$": 1.0, "L_2 & 50%": 2.0, "ΔE": 3.0}, 1.5),
}
FILES = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def check_layout(figure):
    """Every text lies on the page and none covers another."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in figure.axes[0].texts]
    for text, box in boxes:
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
    for (text, box), (other, other_box) in itertools.combinations(boxes, 2):
        overlap = box.intersection(box, other_box)
        assert overlap is None or overlap.width * overlap.height == 0, (text, other)


def thick_bars(figure):
    """Bars over cliques as (left, right, height) in inches."""
    lines = [line for line in figure.axes[0].lines if line.get_linewidth() == 3]
    return [(*line.get_xdata(), line.get_ydata()[0]) for line in lines]


@pytest.mark.parametrize("case", CASES)
def test_critical_difference_diagram_names_everything_once(case, tmp_path):
    ranks, difference = CASES[case]
    figure = critical_difference_diagram(ranks, difference, tmp_path / "cd.svg")
    check_layout(figure)
    shown = texts(figure)
    assert [shown.count(name) for name in ranks] == [1] * len(ranks)
    assert f"critical difference {difference:.2f}" in shown
    assert [text for text in shown if text.isdigit()] == [str(i + 1) for i in range(len(ranks))]
    assert sorted(text for text in shown if re.fullmatch(r"\d+\.\d\d", text)) == sorted(
        f"{rank:.2f}" for rank in ranks.values())


def test_bars_join_the_cliques_and_do_not_cover_one_another(tmp_path):
    ranks, difference = CASES["eight"]
    figure = critical_difference_diagram(ranks, difference, tmp_path / "cd.svg")
    dots = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "o"]
    bars = thick_bars(figure)
    assert len(bars) == 6  # three neighbours 0.9 apart span 1.8, four 2.7
    for i, (left, right, _) in enumerate(bars):
        assert (left, right) == pytest.approx((dots[i], dots[i + 2]), abs=0.05)
    for one, other in itertools.combinations(bars, 2):
        assert one[2] != other[2] or one[1] < other[0] or other[1] < one[0]
    assert min(height for *_, height in bars) > max(
        text.get_position()[1] for text in figure.axes[0].texts if text.get_text() in ranks)


def test_the_axis_is_in_proportion_and_the_best_is_on_the_left(tmp_path):
    figure = critical_difference_diagram({"c": 3.0, "a": 1.0, "b": 1.5}, 0.75, tmp_path / "cd.png")
    a, b, c = (line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "o")
    assert (b - a) / (c - a) == pytest.approx(0.25)
    length = next(line.get_xdata() for line in figure.axes[0].lines if line.get_marker() == "|")
    assert (length[1] - length[0]) / (c - a) == pytest.approx(0.75 / 2)
    assert len(thick_bars(figure)) == 1
    assert thick_bars(critical_difference_diagram({"a": 1.0, "b": 2.0}, 1.0, tmp_path / "cd.png")) == []


@pytest.mark.parametrize(("tuning", "evaluation"), [
    ({"er": 1, "naive": 2}, {"er": 2, "naive": 1}), (SPREAD, dict(zip(LONG, reversed(SPREAD.values()), strict=True))),
    (CROWDED, SPREAD), (dict.fromkeys(LONG, 10.5), SPREAD), (dict.fromkeys(LONG, 10.5), dict.fromkeys(LONG, 10.5)),
    ({"a": 1.5, "b": 1.5, "c": 3, "d": 4}, {"a": 1, "b": 3, "c": 3, "d": 3})])
def test_slope_chart_names_every_strategy_on_both_sides(tuning, evaluation, tmp_path):
    figure = tuning_evaluation_slope(tuning, evaluation, tmp_path / "slope.svg")
    check_layout(figure)
    shown = texts(figure)
    assert [shown.count(name) for name in tuning] == [2] * len(tuning)
    assert shown.count("tuning") == shown.count("evaluation") == 1


def test_slopes_tell_better_from_worse_by_colour_and_by_style(tmp_path):
    """Tau: of six pairs a-b, a-c and b-c are discordant, d agrees with all: 0."""
    figure = tuning_evaluation_slope({"a": 1, "b": 2, "c": 3, "d": 4}, {"c": 1, "b": 2, "a": 3, "d": 4},
                                     tmp_path / "slope.png")
    lines = [line for line in figure.axes[0].lines if line.get_linewidth() == 1.4]
    worse, same, better, _ = lines
    assert worse.get_ydata()[0] > worse.get_ydata()[1] and better.get_ydata()[0] < better.get_ydata()[1]
    assert same.get_ydata()[0] == same.get_ydata()[1]
    assert better.get_linestyle() == "-" and worse.get_linestyle() == "--"
    looks = {(line.get_color(), str(line._dash_pattern)) for line in lines}
    assert len(looks) == 3
    blue, vermilion = (sum(w * c for w, c in zip((0.299, 0.587, 0.114), to_rgb(line.get_color()), strict=True))
                       for line in (better, worse))
    assert abs(blue - vermilion) > 0.05  # greyscale too
    assert "Kendall's tau-b 0.00" in texts(figure)


@pytest.mark.parametrize("suffix", FILES)
def test_files_are_what_their_suffix_says_and_the_same_each_time(suffix, tmp_path):
    before = dict(rcParams)
    for draw in (lambda path: critical_difference_diagram(*CASES["marks"], path),
                 lambda path: tuning_evaluation_slope(SPREAD, CROWDED, path)):
        first, second = tmp_path / f"new/one{suffix}", tmp_path / f"two{suffix}"
        draw(first), draw(second)
        assert first.read_bytes().startswith(FILES[suffix]) and first.read_bytes() == second.read_bytes()
    assert dict(rcParams) == before


def test_fonts_are_embedded_as_type_42(tmp_path):
    critical_difference_diagram(*CASES["three"], tmp_path / "cd.pdf")
    content = (tmp_path / "cd.pdf").read_bytes()
    for packed in re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
        try:
            content += zlib.decompress(packed)
        except zlib.error:
            continue
    assert b"/FontFile2" in content and b"/Type3" not in content


@pytest.mark.parametrize(("draw", "message"), [
    (lambda folder: critical_difference_diagram({"er": 1.0, "si": 2.0}, 1.0, folder / "cd.gif"),
     "cd.gif; expected a file that ends in .png, .svg, .pdf"),
    (lambda folder: critical_difference_diagram({"er": 1.0}, 1.0, folder / "cd.png"),
     "compares two strategies or more, got er"),
    (lambda folder: critical_difference_diagram({"er": 1.0, "si": math.nan}, 1.0, folder / "cd.png"), "is nan at 'si'"),
    (lambda folder: tuning_evaluation_slope({"er": 1.0, "si": 2.0}, {"er": 1.0}, folder / "slope.png"),
     "'second' has no value at 'si'")])
def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(draw, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        draw(tmp_path)
    assert message in str(caught.value) and not list(tmp_path.iterdir())
