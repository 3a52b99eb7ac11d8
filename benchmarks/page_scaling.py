"""The performance page's figures of scaling, what many runs would need on paper, and what was tried without gain.

Colours are of Okabe & Ito (2008), each with a line style and a mark of its own, on a white ground that stays readable
where a page is dark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.typing import LineStyleType

from cl_framework.diagrams import written

RUNS, GPUS, EXPERIENCES, MINUTES, ON_A_NODE = 10_000, 64, 20, (1, 10, 60), 8
WRITES = 5
"""Files that an experience opens for writing: tests/test_counts_commands.py."""
_LOOKS: tuple[tuple[str, LineStyleType, str], ...] = (("#0072B2", "-", "o"), ("#D55E00", (0, (5, 2)), "s"))
_TEXT, _SMALL = 9, 8


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """A record, where there is one."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def page(width: float, height: float) -> Figure:
    """A white figure, in inches."""
    figure = Figure(figsize=(width, height), dpi=300, layout="constrained", facecolor="white")
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(w_pad=0.1, h_pad=0.1)
    return figure


def draw(path: Path, x: Sequence[float], lines: Mapping[str, Sequence[float]], words: tuple[str, str]) -> None:
    """A line for each way, over a logarithmic axis.

    Args:
        path: a .svg file.
        x: what grows.
        lines: by label.
        words: what the axes are.
    """
    figure = page(5.2, 2.9)
    axes = figure.add_subplot()
    for (label, values), (colour, style, mark) in zip(lines.items(), _LOOKS, strict=False):
        axes.plot(x, values, color=colour, linestyle=style, marker=mark, linewidth=1.6, markersize=4.5, label=label)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.1 * max(max(values) for values in lines.values()))
    axes.set_xticks(x, [f"{value:,}" for value in x])
    axes.minorticks_off()
    axes.set_xlabel(words[0], fontsize=_TEXT)
    axes.set_ylabel(words[1], fontsize=_TEXT)
    axes.tick_params(labelsize=_SMALL)
    axes.grid(axis="y", color="0.9", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=_SMALL, frameon=False, loc="best", handlelength=3.2)
    written(figure, path)


def bars(path: Path, values: Mapping[str, float], words: tuple[str, str]) -> None:
    """A bar for each, with its number."""
    figure = page(5.2, 2.0)
    axes = figure.add_subplot()
    drawn = axes.barh(list(values), list(values.values()), color=_LOOKS[0][0], height=0.55)
    axes.bar_label(drawn, fmt="%.0f", padding=3, fontsize=_SMALL)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(values.values()))
    axes.set_xlabel(words[0], fontsize=_TEXT)
    axes.set_ylabel(words[1], fontsize=_TEXT)
    axes.tick_params(labelsize=_SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    written(figure, path)


def scaling(folder: Path, images: Path) -> list[str]:
    """Four figures with what they show."""
    record = read(folder, "scaling")
    if record is None:
        return ["It has not been measured yet: `python benchmarks/scaling.py`."]
    streams, heads, buffers, processes = (record[name] for name in ("experiences", "classes", "memory", "processes"))
    draw(images / "scaling-experiences.svg", [each["experiences"] for each in streams],
         {"whole run": [each["milliseconds_in_all"] for each in streams],
          "training": [each["milliseconds_of_training"] for each in streams]},
         ("experiences of one batch", "milliseconds an experience"))
    draw(images / "scaling-classes.svg", [each["classes"] for each in heads],
         {name: [each["microseconds"][way] / 1e3 for each in heads] for name, way in (("ours", "ours"),
                                                                                      ("bare loop", "bare"))},
         ("classes of the head", "milliseconds a step"))
    draw(images / "scaling-memory.svg", [each["capacity"] for each in buffers],
         {name: [each["microseconds"][way] / 1e3 for each in buffers] for name, way in (("ours", "ours"),
                                                                                        ("bare tensors", "bare"))},
         ("rows of the buffer", "milliseconds a step"))
    bars(images / "scaling-processes.svg", {f"{workers} worker{'s' * (workers != '1')}": seconds
                                            for workers, seconds in processes["seconds"].items()},
         (f"seconds on the clock for {processes['runs']} runs", ""))
    first, last = streams[0], streams[-1]
    largest, gain = buffers[-1], processes["one_over_two"]
    ratios = [each["ours_over_bare"]["median"] for each in heads]
    return [
        "![milliseconds an experience, over the number of experiences](images/scaling-experiences.svg)", "",
        f"An experience of one batch costs {last['milliseconds_of_training']:.1f} ms of training in a stream of "
        f"{last['experiences']:,}, beside {first['milliseconds_of_training']:.1f} ms in one of "
        f"{first['experiences']:,}; its last tenth takes {last['last_tenth_over_second']:.2f} of the time of its "
        "second. Nearly all of it is the fresh Lightning Trainer of each experience, not the step. The whole run, with "
        "the newest experience evaluated after each and all of them at the end, costs "
        f"{last['milliseconds_in_all']:.1f} ms an experience.", "",
        "![milliseconds a step, over the number of classes](images/scaling-classes.svg)", "",
        f"With more classes the head's own arithmetic takes over; beside a bare loop with the same head a step costs "
        f"{min(ratios):.2f} to {max(ratios):.2f} x.", "",
        "![milliseconds a step, over the rows of the buffer](images/scaling-memory.svg)", "",
        f"Ten rows offered and ten drawn at batch 10. With {largest['capacity']:,} rows ours takes "
        f"{largest['ours_over_bare']['median']:.1f} x the time of Vitter's algorithm R on bare tensors, which grows, "
        "too: it permutes all places for a draw. Ours keeps its keys in a heap: a uniform sample that does not "
        "depend on how rows were cut into batches.", "",
        "![seconds on the clock, with one worker and two](images/scaling-processes.svg)", "",
        f"Two workers are {gain['median']:.2f} x as fast as one ({gain['lowest']:.2f} to {gain['highest']:.2f}), at a "
        f"load of {record['load_before']:.1f} of other work before it began.", "", *_shared(folder)]


def _shared(folder: Path) -> list[str]:
    """What `trainer.processes=2` gains."""
    record = read(folder, "team_speed")
    if record is None:
        return ["One run in two processes: `python benchmarks/team_speed.py` has not been run yet."]
    lines = ["One run whose rows two processes share (`trainer.processes=2`), by the clock, one thread each, images of "
             "32 x 32 in color; losses of both drift apart as rounding grows over the steps:", "",
             "| network | batch | one process | two | two are faster by | losses differ by |",
             "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for case in record["cases"]:
        gain, taken = case["one_over_two"], case["milliseconds_a_step"]
        lines.append(f"| {case['model']} | {case['batch_size']} | {taken['1']:.1f} ms | {taken['2']:.1f} ms | "
                     f"{gain['median']:.2f} x ({gain['lowest']:.2f} to {gain['highest']:.2f}) | "
                     f"{case['largest_relative_difference_of_a_loss']:.0e} |")
    return lines


def on_paper(folder: Path) -> list[str]:
    """What many runs would need."""
    start, disk, peak = (read(folder, name) for name in ("startup_speed", "disk_use", "memory_peak"))
    if start is None or disk is None:
        return ["It needs `python benchmarks/startup_speed.py` and `python benchmarks/disk_use.py`."]
    around = start["seconds"]["around"]["lowest_processor"]
    few, many = disk["study"]
    trials = RUNS // disk["seeds"]
    slope = (many["milliseconds_a_trial"] - few["milliseconds_a_trial"]) / (many["trials"] - few["trials"])
    last = many["milliseconds_a_trial"] + slope * (trials - many["trials"])
    lines = [f"{RUNS:,} runs on {GPUS} GPUs, computed from figures measured here. Assumed: a GPU does one run at a "
             "time, each run is a process of its own (as `launcher=ray` has it on GPUs), start-up and shutdown take at "
             f"least {around:.1f} s as on this processor, and a stream has {EXPERIENCES} experiences.", "",
             "| minutes a run computes | hours in all | start-up's share | files written a second |",
             "| ---: | ---: | ---: | ---: |"]
    for minutes in MINUTES:
        seconds = 60 * minutes + around
        lines.append(f"| {minutes} | {RUNS / GPUS * seconds / 3600:.1f} | {100 * around / seconds:.1f} % | "
                     f"{GPUS * EXPERIENCES * WRITES / seconds:.1f} |")
    lines += ["", "| kind of run | checkpoint | run folder | files | all folders |", "| --- |" + " ---: |" * 4]
    lines += [f"| {name} | {run['checkpoint_bytes'] / 1e6:.1f} MB | {run['bytes'] / 1e6:.1f} MB | {run['files']} | "
              f"{RUNS * run['bytes'] / 1e9:.0f} GB in {RUNS * run['files']:,} files |"
              for name, run in disk["runs"].items()]
    lines += ["", f"A study of {trials:,} trials of {disk['seeds']} seeds takes "
              f"{trials * many['bytes_a_trial'] / 1e6:.0f} MB in the journal. A trial costs "
              f"{few['milliseconds_a_trial']:.0f} ms after {few['trials']} trials and "
              f"{many['milliseconds_a_trial']:.0f} ms after {many['trials']:,}, since all trials are read each time; "
              f"along a straight line, {last:.0f} ms after {trials:,}."]
    if peak is not None:
        used = peak["libraries_bytes"]["used"]
        lines += ["", f"A machine with {ON_A_NODE} GPUs holds {ON_A_NODE} x {used / 2**20:.0f} MiB of libraries; a "
                  "cached data set is mapped, so that its pages are there once for all processes."]
    return lines


def tried(folder: Path) -> list[str]:
    """What was measured and left as it is."""
    lines = list[str]()
    small, gcwm = (read(folder, name) for name in ("tried_speed", "gcwm_speed"))
    seeds = read(folder, "vector_speed")
    if small is not None:
        best = min(found["median"] for found in small["chunks"].values())
        sizes = ", ".join(f"{size}: {found['median']:.2f}" for size, found in small["chunks"].items())
        forms = ", ".join(f"{name}: {found['median']:.2f}" for name, found in small["optimizers"].items())
        lines += [f"- Other sizes of the Learner's chunks than {small['chunk']}, batch {small['batch_size']}, time "
                  f"over that of {small['chunk']}: {sizes}. The best would gain "
                  f"{100 * (1 - best):.0f} %, and larger ones let a run that is stopped end later.",
                  f"- Other forms of SGD in a bare loop, time over the fused one: {forms}."]
    if gcwm is not None:
        found = gcwm["layers_of_one_shape"]
        lines.append("- Layers of one shape side by side in `gcwm`, as one batched product: "
                     f"{found['side_by_side_seconds']:.3f} s beside {found['one_by_one_seconds']:.3f} s one by one.")
    if seeds is not None:
        worst = min(seeds["cases"], key=lambda case: float(case["one_process"]["median"]))
        lines.append(f"- Seeds together where the arithmetic is large: {worst['strategy']}, {worst['side']}x"
                     f"{worst['side']}, width {worst['width']}, batch {worst['batch_size']}: "
                     f"{worst['one_process']['median']:.2f} x in one process.")
    return lines or ["It has not been measured yet: `python benchmarks/tried_speed.py`."]
