"""The page's part on test-time adaptation: the records that benchmarks/adaptation.py wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from scipy.special import stdtrit

from cl_framework.scenarios._severities import CORRUPTIONS

REFERENCE = Path(__file__).resolve().parent.parent / "runs" / "reference"
NAMES = {"fashion_mnist": "Fashion-MNIST", "mnist": "MNIST"}
SHORT = {"gaussian_noise": "gauss", "shot_noise": "shot", "impulse_noise": "impul", "defocus_blur": "defoc",
         "glass_blur": "glass", "motion_blur": "motio", "zoom_blur": "zoom", "brightness": "brigh",
         "contrast": "contr", "elastic_transform": "elast", "pixelate": "pixel", "jpeg_compression": "jpeg"}
TABLES = {
    "continual_cnn": ("One corruption after another, `cnn`", "5 source models"),
    "gradual_cnn": ("Corruptions that come and go, `cnn`: severities 1, 2, 3, 4, 5, 4, 3, 2, 1 of each",
                    "5 source models"),
    "rounds_cnn": ("Ten rounds of the 15 corruptions, `cnn`", "5 source models"),
    "continual_slim": ("One corruption after another, `slim_resnet18`", "5 orders of the corruptions"),
    "gradual_slim": ("Corruptions that come and go, `slim_resnet18`, batches of 50", "5 orders of the corruptions"),
}
TITLE = "## Test-time adaptation"


def adaptation() -> list[str]:
    """All tables that have been run."""
    lines = [TITLE, "", """The 15 standard corruptions at severity 5, made here from the published definitions with
parameters for small images (so these are not the figures of any published set). A model trained on clean images answers
batches of 100 rows (where nothing else is said) once, before it learns from them; it is told neither labels nor where a
corruption ends. The hyperparameters are the defaults, those of the papers, which were chosen for larger networks:
nothing was tuned. *Error* is the mean share of wrong answers in percent, with Student's 95 % interval; *calibration*
the expected calibration error; *forgets* what clean images lose in accuracy; *time* is beside `source`, which learns
nothing, the median run on shared cores under changing load, so that it tells orders of magnitude;
*keeps* is what a strategy stores, as a multiple of the network's own weights. Rows with a dash are parts of `psmt
paper`. `cotta` and `psmt paper` average their teacher over 4 random views of an image where the papers have 32; these
networks were trained without shifts and mirroring, so views change brightness, contrast and sharpness alone.""", ""]
    for name, (title, over) in TABLES.items():
        path = REFERENCE / f"adaptation_{name}.json"
        if path.exists():
            lines += [f"### {title}", "", *_table(json.loads(path.read_text()), over, path.name)]
    if len(lines) == 4:
        return [TITLE, "", "It has not been run yet: `make adaptation`.", ""]
    return [*lines, *tuned(), *step_cost()]


def _table(record: dict[str, Any], over: str, file: str) -> list[str]:
    lines = []
    for data in dict.fromkeys(row["dataset"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["dataset"] == data]
        lines += [f"{NAMES[data]}, {over}:", "", *_figures(rows), "", *_parts(rows), ""]
    environment = record["environment"]
    return [*lines, "```", *record["commands"], "```", "", f"Commit {', '.join(record['git_commits'])}; Python "
            f"{environment['python']}, torch {environment['packages']['torch']}, {environment['device']}. Record: "
            f"`runs/reference/{file}` (`make adaptation`).", ""]


def _figures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line a strategy, best first."""
    has_rounds = any(len(row["rounds"]) > 1 for row in rows)
    still = median(next(row for row in rows if row["row"] == "source")["metrics"]["train_seconds"])
    heads = ["error", "95 %", *(["last round less first"] if has_rounds else []), "calibration", "forgets", "time",
             "keeps"]
    lines = [f"| strategy | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    for row in sorted(rows, key=lambda row: mean(row["metrics"]["online_error"])):
        own = row["metrics"]
        cells = [_percent(own["online_error"]), _interval(own["online_error"]),
                 *([f"{100 * mean(own['collapse']):+.1f}"] if has_rounds else []), _percent(own["calibration_error"]),
                 f"{100 * mean(own['source_forgetting']):+.1f}", f"{median(own['train_seconds']) / still:.1f}",
                 f"{mean(own['memory_bytes']) / (4 * mean(own['n_parameters'])):.1f}"]
        lines.append(f"| {row['row']} | {' | '.join(cells)} |")
    return lines


def _parts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The error in each round, or under each corruption."""
    has_rounds = any(len(row["rounds"]) > 1 for row in rows)
    domains = sorted(rows[0]["domains"], key=CORRUPTIONS.index)
    heads = ([f"round {number + 1}" for number in range(len(rows[0]["rounds"]))] if has_rounds
             else [SHORT.get(name, name) for name in domains])
    lines = [f"| strategy | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    for row in sorted(rows, key=lambda row: mean(row["metrics"]["online_error"])):
        values = row["rounds"] if has_rounds else [row["domains"][name] for name in domains]
        lines.append(f"| {row['row']} | {' | '.join(f'{100 * value:.1f}' for value in values)} |")
    return lines


def tuned() -> list[str]:
    """What tuning on the hold-out corruptions changes."""
    folder = REFERENCE / "protocols" / "ctta_lite"
    if not (folder / "rows.json").exists():
        return []
    rows = json.loads((folder / "rows.json").read_text())
    records = {label: json.loads((folder / row["record"]).read_text()) for label, row in rows.items()}
    lines = ["### Tuned on the four hold-out corruptions, reported on the fifteen", "", """Fashion-MNIST, `cnn`, 300
images of each corruption: 10 random trials of 3 seeds on speckle noise, gaussian blur, spatter and saturate, then 5
seeds of the winner on the 15 others, which the search never opened. *Defaults* is the error without tuning.""", "",
             "| strategy | error on hold-outs | reported error | 95 % | defaults | winner |",
             "| --- | ---: | ---: | ---: | ---: | --- |"]
    for label, record in sorted(records.items(), key=lambda item: -_reported(item[1])["result"]["mean"]):
        own = _reported(record)
        low, high = (1 - end for end in reversed(own["result"]["interval"]))
        winner = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in record["winner"].items())
        lines.append(f"| {label} | {100 * (1 - record['tuning']['result']['mean']):.1f} | "
                     f"{100 * (1 - own['result']['mean']):.1f} | {100 * low:.1f} to {100 * high:.1f} | "
                     f"{100 * (1 - own['default']['result']['mean']):.1f} | {winner or '-'} |")
    return [*lines, "", *_what_psmt_adds(records), "```", *(row["command"] for row in rows.values()), "```", "",
            "Records: `runs/reference/protocols/ctta_lite` (`clf check protocol=PATH`).", ""]


def _what_psmt_adds(records: dict[str, dict[str, Any]]) -> list[str]:
    """Tuned `psmt paper` beside its tuned mean teacher alone, seed by seed."""
    if not {"psmt paper", "- mean teacher alone"} <= records.keys():
        return []
    whole, part = ({run["seed"]: run["value"] for run in _reported(records[label])["runs"]}
                   for label in ("psmt paper", "- mean teacher alone"))
    gains = [whole[seed] - part[seed] for seed in sorted(whole)]
    return [f"""What selection and anchor add to the mean teacher, both tuned: {100 * mean(gains):+.2f} points of
accuracy (95 % {_interval(gains, 2)}, {len(gains)} seeds). Tried for `psmt paper`: lr 0.0001, 0.0003, 0.001, 0.003;
momentum 0.99, 0.995, 0.999; penalty_strength 0, 50, 500, 5000; selected_fraction 0.01, 0.03, 0.1, 0.3 (10 of these
192 at random).""", ""]


def step_cost() -> list[str]:
    """What a step of psmt costs beside its passes."""
    path = REFERENCE / "adaptation_speed.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    lines = ["### What a step costs", "", f"""Processor time of a step of `psmt` over that of the passes it cannot do
without (teacher forward, student forward and backward), batches of 200 images of 3x32x32, one thread: median of pairs
in one process, beside other work. Aim: at most {found['target']}.""", "",
             "| network | step | ratio | lowest | highest | pairs |", "| --- | --- |" + " ---: |" * 4]
    lines += [f"| `{case['case']}` | {case['step']} | {case['median_ratio']:.2f} | {case['lowest_ratio']:.2f} | "
              f"{case['highest_ratio']:.2f} | {case['repeats']} |" for case in found["cases"]]
    return [*lines, "", f"Python {found['python']}, torch {found['torch']}. Record: "
            "`runs/reference/adaptation_speed.json` (`python benchmarks/adaptation_speed.py FILE`).", "",
            *beside_source()]


def beside_source() -> list[str]:
    """What each strategy costs beside the frozen source."""
    path = REFERENCE / "adaptation_cost.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    lines = ["### What a strategy costs beside the frozen source", "", f"""Processor time of answering a batch and
adapting to it, and memory at its peak (weights, what the strategy keeps, and all tensors of the step), as multiples of
`source`: `{found['network']}`, batches of {found['batch_size']} images of 3x32x32, one thread; time is the median of
{found['pairs']} pairs, memory is counted to the byte. `source` takes {found['source_peak_bytes'] / 2**20:.0f} MiB.""",
             "", "| strategy | time | lowest | highest | memory |", "| --- |" + " ---: |" * 4]
    lines += [f"| {row['strategy']} | {row['time']:.1f} | {row['lowest']:.1f} | {row['highest']:.1f} | "
              f"{row['memory']:.2f} |" for row in found["rows"]]
    return [*lines, "", f"Commit {found['git_commit']}; Python {found['python']}, torch {found['torch']}. Record: "
            f"`runs/reference/adaptation_cost.json` (`{found['command']}`).", ""]


def _reported(record: dict[str, Any]) -> dict[str, Any]:
    """The number that the protocol reports."""
    part: dict[str, Any] = record["evaluation"][0]
    return part


def _percent(values: Sequence[float]) -> str:
    return f"{100 * mean(values):.1f}"


def _interval(values: Sequence[float], digits: int = 1) -> str:
    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    return f"{100 * (mean(values) - half):.{digits}f} to {100 * (mean(values) + half):.{digits}f}"
