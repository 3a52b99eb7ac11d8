"""The part of docs/results.md on the two-phase protocol, from the records in runs/reference/protocols."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).resolve().parent.parent / "runs" / "reference"
_TITLE = "## Tuned on one data set, reported on others"
NAMES = {"split_fashion": "Fashion-MNIST", "split_mnist": "MNIST", "split_glyphs_letters": "glyphs A to J"}


def two_phase() -> list[str]:
    """Both protocols side by side, and the comparison with both kinds of transfer."""
    overstated = REFERENCE / "protocols" / "overstatement.json"
    comparison = REFERENCE / "protocols" / "fashion_to_mnist_lite" / "comparison.json"
    if not overstated.exists() or not comparison.exists():
        return [_TITLE, "", "It has not been run yet: `make protocol`.", ""]
    record, made = json.loads(overstated.read_text()), json.loads(comparison.read_text())
    lines = [_TITLE, "", """The two-phase protocol tunes on Fashion-MNIST (10 random trials of 3 seeds over the
grids that `clf show` prints, average incremental accuracy) and reports 5 seeds of the winner on MNIST and on the
glyphs A to J, which tuning never opened. The conventional protocol runs the same search on the reported data set
itself, and reports the winner's number in its own search. *Overstates* is the conventional number less the two-phase
one on the same stream and the same seeds, with Student's 95 % interval over 3 seeds. The budget is small: the
published protocol takes 30 trials of 5 seeds. All networks are MLPs of two hidden layers, one epoch an experience,
and each seed has its own order of classes.""", ""]
    for scenario in dict.fromkeys(row["scenario"] for row in record["rows"]):
        lines += [f"### Reported on {NAMES[scenario]}", "",
                  "| strategy | tuned on Fashion-MNIST (rank) | two-phase, 5 seeds | 95 % (rank) | defaults | "
                  "conventional | overstates | 95 % |", "| --- |" + " ---: |" * 7]
        rows = [row for row in record["rows"] if row["scenario"] == scenario]
        ranks = made["ranks"][scenario]["ranks"]
        for row in sorted(rows, key=lambda row: ranks[row["strategy"]][1]):
            before, after = ranks[row["strategy"]]
            all_seeds, claimed = _mean(row["two_phase_all_seeds"]), _mean(row["conventional"])
            lines.append(
                f"| {row['strategy']} | {_percent(row['tuning_stream_number'])} ({before:g}) | {_percent(all_seeds)} | "
                f"{_range(row['two_phase_interval'])} ({after:g}) | {_percent(_mean(row['default']))} | "
                f"{_percent(claimed)} | {100 * row['overstates']:+.1f} | {_range(row['interval'], signed=True)} |")
        agreement = made["ranks"][scenario]
        mean = _mean([row["overstates"] for row in rows])
        lines += ["", f"Mean overstatement {100 * mean:+.1f} points. Agreement of the ranks in tuning and here: "
                  f"Kendall's tau-b {agreement['kendall_tau']:.2f}, Spearman {agreement['spearman']:.2f}.", ""]
    return [*lines, *_commands([made["command"], *record["commands"]]), *_status(made), *_both_kinds()]


def _both_kinds() -> list[str]:
    path = REFERENCE / "protocols" / "grey_lite" / "comparison.json"
    if not path.exists():
        return []
    made = json.loads(path.read_text())
    streams = list(made["ranks"])
    lines = ["### Both kinds of transfer", "", """Tuned on five classes of Fashion-MNIST, reported on its other
five, and on five of MNIST and of the glyphs: three experiences of 2, 2 and 1 classes. Average incremental accuracy,
mean and Student's 95 % interval over 5 seeds.""", "",
             f"| strategy | tuned | {' | '.join(f'{NAMES[name]} (rank)' for name in streams)} |",
             "| --- |" + " ---: |" * (1 + len(streams))]
    for row in sorted(made["rows"], key=lambda row: made["ranks"][streams[0]]["ranks"][row["strategy"]][1]):
        cells = [f"{_percent(row['evaluation'][name]['result']['mean'])}, "
                 f"{_range(row['evaluation'][name]['result']['interval'])} "
                 f"({made['ranks'][name]['ranks'][row['strategy']][1]:g})" for name in streams]
        lines.append(f"| {row['strategy']} | {_percent(row['tuning']['mean'])} | {' | '.join(cells)} |")
    return [*lines, "", *_commands([made["command"]]), *_status(made)]


def _status(made: dict[str, Any]) -> list[str]:
    broken = sorted({f"{verdict['rule'].split()[0]} ({verdict['reason']})" for verdict in made["verdicts"]
                     if verdict["kept"] is False})
    said = f"`clf` calls this comparison *{made['status']}*"
    return [f"{said}; broken: {'; '.join(broken)}." if broken else f"{said}: all 15 rules are kept.", "",
            "Records: `runs/reference/protocols`, one file a strategy (`clf check protocol=PATH`).", ""]


def speed() -> list[str]:
    """How long the whole protocol takes."""
    path = REFERENCE / "protocol_speed.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    return ["## The protocol's own speed", "",
            f"{found['runs']} runs of `er` on halves of Fashion-MNIST, from command to record: "
            f"{found['wall_seconds']:.0f} s on two cores, of which {100 * found['share_of_two_cores']:.0f} % were busy "
            f"(aim: 300 s, 90 %). Load of the machine before it began: {found['load_before']}.", "",
            *_commands([found["command"]]),
            f"Commit {found['git_commit']}; Python {found['python']}, torch {found['torch']}. Record: "
            "`runs/reference/protocol_speed.json` (`python benchmarks/protocol_speed.py`).", ""]


def _commands(words: list[str]) -> list[str]:
    return ["```", *words, "```", ""]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _range(ends: list[float] | None, *, signed: bool = False) -> str:
    if ends is None:
        return "-"
    return " to ".join(f"{100 * end:+.1f}" if signed else f"{100 * end:.1f}" for end in ends)
