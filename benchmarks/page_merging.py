"""The page's part on continual merging: the records that benchmarks/merging.py and the speed benchmarks wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from page_merging_language import merging_language
from scipy.special import stdtrit

REFERENCE = Path(__file__).resolve().parent.parent / "runs" / "reference"
STREAMS = {
    "text": ("Five data sets of text, `minilm`", """20 Newsgroups, Reuters R52, BBC News, sections of Debian, and
spam: at most {n_train} training and {n_test} held-out texts of each, cut to {max_tokens} tokens, {epochs} epochs,
AdamW at {lr}."""),
    "vision": ("Four data sets of images, `efficientnet_lite0`", """MNIST, Fashion-MNIST, glyphs and emoji: at most
{n_train} training and {n_test} held-out images of each, {epochs} epochs, AdamW at {lr}. Kernels are merged as matrices,
depthwise ones too; OPCM projects them, but for its row that leaves them as they are, and `alpha` means nothing there.
Running statistics of batch normalisation are averaged over the experts."""),
}


def merging() -> list[str]:
    """All tables that have been run."""
    title = "## Continual merging"
    found = {name: _read(f"merging_{name}.json") for name in STREAMS}
    lines = [title, "", """An expert a data set is fine-tuned from the same pretrained weights and folded into one
model, with no data kept. Every row but `naive`, `magmax`, `joint` and one of `gcwm` merges the same experts, so that
rows differ in how they merge alone. Each data set is answered among its own classes (task-incremental), by its own rows
of the head.
*ACC* is the mean accuracy over the data sets after the last one, *BWT* the mean over all but the last of accuracy at
the end less accuracy just after the data set was merged, both in percent; intervals are Student's 95 % over the orders
of the data sets. `individual experts` are the models before merging, one a data set: what merging could reach. Nothing
was tuned: fields are the defaults but for those in a row's name; `wudi` takes relative steps of 0.001, as the published
rate for language models moves these updates by nothing. The experts were trained in all of their weights; of `gcwm`,
which merges matrices alone, what they learned elsewhere is dropped. The row `gcwm, experts of its own` has experts of
which the rest was frozen, as that method is meant.""", ""]
    for name, (heading, text) in STREAMS.items():
        record = found[name]
        if record is None:
            continue
        own = {key.rpartition(".")[2]: value for key, value in record["settings"].items()}
        lines += [f"### {heading}", "", text.format(**own), "", *_table(record), "",
                  f"Commits {', '.join(record['git_commits'])}; Python {record['python']}, torch {record['torch']}. "
                  f"Record: `runs/reference/merging_{name}.json` (`{record['command']}`).", ""]
    if not any(found.values()):
        lines = [title, "", "It has not been run yet: `make merging`.", ""]
    return [*lines, *merging_language(), *_cost()]


def _table(record: dict[str, Any]) -> list[str]:
    """A line a method, best first."""
    names = sorted(record["rows"][0]["runs"][0]["experiences"])
    lines = [f"| method | n | ACC | 95 % | BWT | 95 % | {' | '.join(names)} | seconds |",
             "| --- | ---: | ---: | ---: | ---: | ---: |" + " ---: |" * (len(names) + 1)]
    entries = [(mean(run["acc"] for run in row["runs"]), _line(row, names)) for row in record["rows"]]
    entries += [_experts(record["rows"], names)]
    return [*lines, *(line for _, line in sorted(entries, reverse=True))]


def _line(row: dict[str, Any], names: Sequence[str]) -> str:
    runs = row["runs"]
    acc, bwt = [run["acc"] for run in runs], [run["bwt"] for run in runs]
    each = [_percent([run["last"][run["experiences"].index(name)] for run in runs]) for name in names]
    seconds = sorted(run["seconds"] for run in runs)[len(runs) // 2]
    return (f"| {row['row']} | {len(runs)} | {_percent(acc)} | {_interval(acc)} | {100 * mean(bwt):+.1f} | "
            f"{_interval(bwt)} | {' | '.join(each)} | {seconds:.0f} |")


def _experts(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> tuple[float, str]:
    """Each expert on its own data set: the same ones below every row, so one run has them all."""
    run = next(row for row in rows if row["row"] == "weight_average")["runs"][0]
    each = [run["expert"][run["experiences"].index(name)] for name in names]
    return mean(each), (f"| individual experts | 1 | {_percent(each)} | - | - | - | "
                        f"{' | '.join(f'{100 * value:.1f}' for value in each)} | - |")


def _cost() -> list[str]:
    """What merging costs in time and memory."""
    opcm, gcwm = _read("merging_speed.json"), _read("gcwm_speed.json")
    if opcm is None or gcwm is None:
        return []
    lines = ["### What merging costs", "", f"""OPCM: processor time of the projection with the full right basis over
ours with the thin one, a layer of {opcm['shape'][0]} x {opcm['shape'][1]}, median of pairs on one thread; aim: at least
{opcm['time']['target']:.0f}.""", "", "| reading | ratio | lowest | relative difference |",
             "| --- | ---: | ---: | ---: |"]
    lines += [f"| {case['reading']} | {case['median_ratio']:.2f} | {case['lowest_ratio']:.2f} | "
              f"{case['relative_difference']:.0e} |" for case in opcm["time"]["cases"]]
    return [*lines, "", f"""GCWM: one merge of {gcwm['experts']} MiniLM experts ({gcwm['parameters'] / 1e6:.1f} M
parameters) takes {gcwm['seconds']:.0f} s of processor time on one thread ({gcwm['steps']} inner steps; aim: at most
{gcwm['target_seconds']:.0f} s). Peak memory of `clf merge` on files of {gcwm['memory']['model_bytes'] / 2**20:.0f} MiB,
with the libraries:""", "", "| method | 2 experts | 6 experts |", "| --- | ---: | ---: |",
            *(f"| {name} | {' | '.join(f'{value / 2**20:.0f} MiB' for value in peaks.values())} |" for name, peaks in
              {"opcm": opcm["memory"]["peak_bytes"], **{f"gcwm, {memory}": peaks for memory, peaks in
                                                       gcwm["memory"]["peak_bytes"].items()}}.items()), "",
            "`ties`, `wudi` and `pcb` hold one layer of all experts at a time, as `all_history` does; the others add "
            "one expert after another and hold what `opcm` does. Records: "
            "`runs/reference/merging_speed.json`, `runs/reference/gcwm_speed.json`.", ""]


def _read(name: str) -> dict[str, Any] | None:
    path = REFERENCE / name
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _percent(values: Sequence[float]) -> str:
    return f"{100 * mean(values):.1f}"


def _interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "-"
    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    return f"{100 * (mean(values) - half):.1f} to {100 * (mean(values) + half):.1f}"
