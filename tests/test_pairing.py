"""Strategies compared on shared pairs: the report's numbers against SciPy's, what is left out, and what is said."""

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from cl_framework import cli
from cl_framework.errors import ConfigError
from cl_framework.metrics import installed_metrics
from cl_framework.pairing import DEFAULT, Measure, pair
from cl_framework.pairing_table import PairingTable, as_markdown
from cl_framework.report import as_text, groups, report
from cl_framework.report_files import as_csv, as_json
from cl_framework.report_files import as_markdown as report_markdown

ACCURACY = {
    "er": [0.71, 0.74, 0.69, 0.75, 0.72, 0.70, 0.77, 0.73],
    "lwf": [0.41, 0.52, 0.44, 0.49, 0.47, 0.40, 0.56, 0.45],
    "naive": [0.42, 0.50, 0.43, 0.48, 0.44, 0.41, 0.51, 0.46],
    "joint": [0.91, 0.90, 0.93, 0.92, 0.94, 0.89, 0.95, 0.905],
}


def write(root, strategy, block, accuracy, **changes):
    """A run folder with a summary."""
    order, seed = block
    folder = root / f"{strategy}-{order}-{seed}-{changes.get('config_hash', '')}".replace("/", "_")
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({
        "scenario": "split_digits", "strategy": strategy, "model": "mlp", "seed": seed, "order_seed": order,
        "phase": "single", "protocol": "single-phase", "config_hash": strategy, "git_commit": "c0ffee",
        "metrics": {"average_accuracy": accuracy, "forgetting/max": 1 - accuracy, "strategy/own": 3.0,
                    "train_seconds": 10 * accuracy},
        "accuracy_matrix": None, "seconds": 1.0, "status": "finished", **changes}))


@pytest.fixture
def eight(tmp_path):
    for strategy, values in ACCURACY.items():
        for seed, value in enumerate(values):
            write(tmp_path, strategy, (None, seed), value)
    return tmp_path


def found_in(path, **keys):
    """The JSON of a report by strategy."""
    return {row["strategy"]: row for row in json.loads(as_json(groups(path), **keys))}


def holm_by_hand(p):
    """All rejections at level a are right iff every intersection hypothesis is by Bonferroni: closed testing."""
    closed = {}
    for name in p:
        subsets = [set(chosen) for size in range(1, len(p) + 1) for chosen in itertools.combinations(p, size)
                   if name in chosen]
        closed[name] = max(min(1.0, len(chosen) * min(p[other] for other in chosen)) for chosen in subsets)
    return closed


def test_the_numbers_of_the_report_are_scipys(eight):
    rows = found_in(eight)
    joint = np.array(ACCURACY["joint"])
    p = {}
    for name in ("er", "lwf", "naive"):
        test, values = rows[name]["compared"]["test"], np.array(ACCURACY[name])
        student = stats.ttest_rel(values, joint)
        assert test["n"] == test["n_pairs"] == 8 and test["left_out"] == 0 and test["is_exact"]
        assert test["mean_difference"] == pytest.approx((values - joint).mean())
        assert test["interval"] == pytest.approx(list(student.confidence_interval(0.95)))
        assert test["d_z"] == pytest.approx(student.statistic / math.sqrt(8))
        assert test["p_wilcoxon"] == pytest.approx(stats.wilcoxon(np.round(values - joint, 12)).pvalue)
        p[name] = stats.permutation_test((np.round(values - joint, 12),), np.sum, permutation_type="samples",
                                         n_resamples=np.inf).pvalue
        assert test["p_permutation"] == pytest.approx(p[name]) and test["smallest_p"] == 2 / 256
        assert test["rank_biserial"] == -1.0
    assert {name: rows[name]["compared"]["test"]["p_holm"] for name in p} == pytest.approx(holm_by_hand(p))
    assert rows["joint"]["compared"]["test"] is None and rows["joint"]["compared"]["reference"] == "joint"
    ranking = rows["er"]["compared"]["ranking"]
    scores = np.array(list(ACCURACY.values()))
    assert ranking["friedman_p"] == pytest.approx(stats.friedmanchisquare(*scores).pvalue)
    expected = stats.rankdata(-scores, axis=0).mean(axis=1)
    assert {name: row["compared"]["mean_rank"] for name, row in rows.items()} == pytest.approx(
        dict(zip(ACCURACY, expected, strict=True)))
    assert ranking["critical_difference"] == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 8)), rel=1e-3)  # Demsar 5a


def test_intervals_stand_in_every_format_and_are_scipys(eight):
    values = ACCURACY["er"]
    low, high = stats.t.interval(0.95, 7, loc=np.mean(values), scale=stats.sem(values))
    stat = found_in(eight)["er"]["metrics"]["average_accuracy"]
    assert stat["t_interval"] == pytest.approx([low, high]) and stat["values"] == values
    drawn = stats.bootstrap((values,), np.mean, random_state=np.random.default_rng(5)).confidence_interval
    assert stat["bootstrap_interval"] == pytest.approx([drawn.low, drawn.high], abs=2e-3)
    shown = f"{100 * low:.1f} to {100 * high:.1f}"
    assert shown in as_text(groups(eight), width=120) and shown in " ".join(as_text(groups(eight), width=80).split())
    assert f"| {shown} |" in report_markdown(groups(eight))
    header, line = (each.split(",") for each in as_csv(groups(eight)).splitlines()[:2])
    written = dict(zip(header, line, strict=True))
    assert written["strategy"] == "er" and float(written["average_accuracy/t_low"]) == pytest.approx(low)
    assert float(written["average_accuracy/bootstrap_high"]) == stat["bootstrap_interval"][1]


def test_runs_of_one_order_are_averaged_and_the_order_counts_once(tmp_path):
    """Three orders of two seeds: the tests are those of three means, and the deviation has two sources."""
    table = {"er": [0.7, 0.8, 0.5, 0.54, 0.9, 0.96], "naive": [0.2, 0.24, 0.25, 0.21, 0.3, 0.2]}
    blocks = list(itertools.product((0, 1, 2), (0, 1)))
    for strategy, values in table.items():
        for block, value in zip(blocks, values, strict=True):
            write(tmp_path, strategy, block, value)
    row = found_in(tmp_path)["naive"]
    means = {name: np.reshape(values, (3, 2)).mean(axis=1) for name, values in table.items()}
    test = row["compared"]["test"]
    assert (test["n"], test["n_pairs"], row["compared"]["unit"], row["compared"]["ranking"]["n"]) == (3, 6, "order", 3)
    assert test["interval"] == pytest.approx(
        list(stats.ttest_rel(means["naive"], means["er"]).confidence_interval(0.95)))
    stat = found_in(tmp_path)["er"]["metrics"]["average_accuracy"]
    assert stat["t_interval"] == pytest.approx(
        stats.t.interval(0.95, 2, loc=np.mean(means["er"]), scale=stats.sem(means["er"])))
    within = math.sqrt(np.mean(np.var(np.reshape(table["er"], (3, 2)), axis=1, ddof=1)))
    assert stat["std_within_order"] == pytest.approx(within)
    assert stat["std_between_orders"] == pytest.approx(math.sqrt(np.var(means["er"], ddof=1) - within**2 / 2))
    text = " ".join(as_text(groups(tmp_path)).split())
    assert f"er: deviation of average accuracy {100 * stat['std_between_orders']:.1f} between orders, " \
           f"{100 * within:.1f} within an order (training seed); 3 orders, 6 runs" in text
    assert "pairs of one order are not independent: they are averaged, and n counts orders" in text
    assert "split_digits · mlp · 3 order seeds · single-phase" in text


def table(**rows):
    """Strategy -> values at seeds 0, 1, ... of the natural order; None is no run."""
    return {name: {(None, seed): value for seed, value in enumerate(values) if value is not None}
            for name, values in rows.items()}


def test_only_shared_pairs_are_compared_and_the_others_are_counted():
    values = table(a=[0.9, 0.8, 0.7, 0.9, None], b=[0.5, None, 0.4, 0.6, 0.1], c=[0.2, 0.3, 0.1, None, 0.2],
                   alone=[None, None, None, None, 0.99])
    found = pair(values, DEFAULT)
    assert found.reference == "a" and found.apart == ("alone",)
    assert [(each.strategy, each.n_pairs, each.left_out) for each in found.contrasts] == [("b", 3, 2), ("c", 3, 2)]
    assert found.contrasts[0].test.mean_difference == pytest.approx(-(0.4 + 0.3 + 0.3) / 3)
    assert (found.ranking.n, found.ranking.left_out) == (2, 3)  # seeds 0 and 2 have runs of a, b and c
    text = " ".join(shown(found).split())
    assert "pairs that only one of the two has are left out: b 2, c 2" in text
    assert "not compared, as fewer than two pairs are shared with a: alone" in text
    assert "mean ranks over 2 pairs (3 pairs that not all have are left out)" in text


def test_no_ranks_where_no_two_pairs_are_everyones():
    found = pair(table(a=[0.9, 0.8, 0.7, 0.6], b=[0.5, 0.4, None, None], c=[None, None, 0.2, 0.3]), DEFAULT)
    assert len(found.contrasts) == 2 and found.ranking is None
    assert "no mean ranks: fewer than two pairs have runs of all of them" in " ".join(shown(found).split())


def shown(found, width=100):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(PairingTable(found.plain()))
    return capture.get()


@pytest.mark.parametrize(("n", "m", "sentence"), [
    (5, 1, "5 pairs cannot show a difference at 0.05, however large: the smallest p that they can give is 0.0625; "
           "it takes 6 pairs"),
    (5, 2, "5 pairs cannot show a difference at 0.05, however large: the smallest p that they can give is 0.0625, "
           "0.125 after Holm over 2 strategies; it takes 6 pairs, 7 after Holm"),
    (6, 4, "6 pairs cannot show a difference at 0.05, however large: the smallest p that they can give is 0.03125, "
           "0.125 after Holm over 4 strategies; it takes 8 after Holm"),
    (8, 4, "the smallest p that 8 pairs can give is 0.0078")])
def test_it_is_said_where_there_are_too_few_pairs(n, m, sentence):
    """Needed: m 2^(1 - n) <= 0.05, so n = 6 for one, 7 for two (0.03125) and 8 for four (0.03125)."""
    values = table(best=[0.9] * n, **{f"s{i}": [0.1 * i + 0.01 * seed for seed in range(n)] for i in range(m)})
    found = pair(values, DEFAULT)
    assert sentence in " ".join(shown(found).split())
    assert min(each.p_holm for each in found.contrasts) >= min(1.0, m * 2.0 ** (1 - n))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_number_is_lost_at_any_width(width):
    values = table(**{f"a_strategy_with_a_long_name_{i}": [
        0.9 - 0.1 * i + 0.01 * (seed * (i + 1) % 5) for seed in range(6)] for i in range(4)})
    found = pair(values, DEFAULT)
    text = shown(found, width)
    assert "…" not in text and max(len(line.rstrip()) for line in text.splitlines()) <= width
    for each in found.contrasts:
        assert f"{100 * each.test.mean_difference:+.1f}" in text and f"{each.test.d_z:.2f}" in text
        assert f"{each.p_holm:.4f}" in text


def test_markdown_keeps_its_columns_and_escapes_names():
    lines = as_markdown(pair(table(**{"a|b": [0.9, 0.8], "c": [0.1, 0.3]}), DEFAULT).plain())
    rows = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1 and "a\\|b" in "".join(lines)


def test_less_may_be_better(eight):
    rows = found_in(eight, measure=Measure(name="forgetting/max", is_higher_better=False))
    assert rows["er"]["compared"]["reference"] == "joint" and rows["joint"]["compared"]["mean_rank"] == 1.0
    assert rows["er"]["compared"]["test"]["mean_difference"] > 0
    default, = (each for each in installed_metrics() if each.name == DEFAULT.name)
    assert default.higher_is_better == DEFAULT.is_higher_better


def test_the_command_line_names_metric_and_reference(eight, capsys):
    assert cli.main(["report", f"runs={eight}", "metric=forgetting/max", "against=naive"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "forgetting/max less that of naive " in text and "forgetting/max less that of naive," not in text
    assert cli.main(["report", f"runs={eight}", "metric=train_seconds", "format=markdown"]) == 0
    assert "train seconds less that of naive, the lowest mean" in capsys.readouterr().out


@pytest.mark.parametrize(("word", "message"), [
    ("metric=average_acuracy", "unknown metric 'average_acuracy'; did you mean 'average_accuracy'?"),
    ("metric=strategy/own", "nothing says whether more of 'strategy/own' is better"),
    ("against=jont", "unknown strategy 'jont'; did you mean 'joint'?"),
    ("out=cd.png", "out=cd.png is to be a folder"),
    ("protocol=nowhere", "there is no nowhere; `clf protocol` writes it")])
def test_bad_input_is_explained(eight, capsys, word, message, monkeypatch):
    monkeypatch.chdir(eight)
    keys = [] if word.startswith("protocol") else [f"runs={eight}"]
    assert cli.main(["report", *keys, word]) == 2
    assert message in capsys.readouterr().err


def test_a_reference_that_is_there_twice_must_be_told_by_its_hash(eight):
    for seed in range(8):
        write(eight, "er", (None, seed), 0.5, config_hash="0" * 10)
    with pytest.raises(ConfigError, match=r"'er' has several .*'against=er 00000000', 'against=er er"):
        as_text(groups(eight), against="er")
    assert found_in(eight, against="er 00000000")["joint"]["compared"]["reference"] == "er 00000000"


def test_strategies_without_shared_pairs_are_not_compared(tmp_path):
    for seed in range(3):
        write(tmp_path, "er", (None, seed), 0.5)
        write(tmp_path, "naive", (None, seed + 2), 0.3)
    assert "not compared: no two strategies share 2 (order, seed) pairs" in as_text(groups(tmp_path))
    assert "no strategy shares 2 (order, seed) pairs with er" in as_text(groups(tmp_path), against="er")
    assert found_in(tmp_path)["er"]["compared"] is None


def test_tables_with_other_orders_say_which_each_strategy_has(tmp_path):
    for order in range(3):
        write(tmp_path, "er", (order, 0), 0.5)
    write(tmp_path, "naive", (1, 0), 0.3)
    text = as_text(groups(tmp_path))
    assert "3 order seeds" in text and "order seeds: er 0, 1, 2; naive 1" in text


def test_pictures_are_written_and_their_names_hold_no_strange_sign(eight, tmp_path, capsys):
    for seed in range(3):
        for strategy in ("er", "my:Own$x$"):
            write(eight, strategy, (None, seed), 0.3 + seed / 10, scenario="../a b:C", config_hash=f"x{strategy}")
    report(eight, out=tmp_path / "pictures")
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    stems = {"critical_difference_.._a_b_C_mlp_natural_order_single-phase",
             "critical_difference_split_digits_mlp_natural_order_single-phase"}
    assert names == {stem + suffix for stem in stems for suffix in (".svg", ".pdf", ".png")}
    assert f"wrote {tmp_path / 'pictures'}" in capsys.readouterr().out
    report(eight, "json", out=tmp_path / "again")
    out, err = capsys.readouterr()
    json.loads(out)
    assert err.count("clf: wrote") == 6


def test_a_report_imports_neither_torch_nor_without_pictures_matplotlib(eight):
    code = (f"import sys; from cl_framework import cli; assert cli.main(['report', {f'runs={eight}'!r}]) == 0; "
            "assert not {'torch', 'matplotlib'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
