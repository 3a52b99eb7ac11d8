"""Puts the tables of kills, signals, storage, soak and fuzzing into the pages, from the records in runs/reference.

    python benchmarks/faults/reliability_page.py
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl_framework.files import write_atomic
from cl_framework.plain_files import read_json

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE, SECURITY = ROOT / "docs" / "reliability.md", ROOT / "docs" / "security.md"
_RIGHT = " | ---: | ---: | ---: |"


def kills(record: dict[str, Any]) -> list[str]:
    """A row for each kind of run, and where the kills hit."""
    rows = record["results"]
    lines = ["| run | runs | kills | identical |", "| ---" + _RIGHT]
    lines += [f"| {row['kind']} | {row['runs']} | {row['kills']} | {row['identical']} |" for row in rows]
    lines.append(f"| all | {_sum(rows, 'runs')} | {_sum(rows, 'kills')} | {_sum(rows, 'identical')} |")
    hit = sum((Counter(row["kills_while"]) for row in rows), Counter[str]())
    told = ", ".join(f"{phase} {n}" for phase, n in hit.most_common() if phase != "unknown")
    n_whole = _sum(rows, "as_a_user_starts_it")
    return [*lines, "", f"What the forked runs were doing when they were killed: {told}. {n_whole} of the runs started "
            f"in a new interpreter. {_made(record)}"]


def signals(record: dict[str, Any]) -> list[str]:
    """A row for each thing that was interrupted."""
    rows = record["results"]
    lines = ["| what | tried | kills | right |", "| ---" + _RIGHT]
    lines += [f"| {name} | {row['tried']} | {row['kills']} | {row['right']} |" for name, row in rows.items()]
    n_twice, n_saved = (rows["signals"][name] for name in ("twice", "with_a_checkpoint_at_once"))
    return [*lines, "", f"{n_twice} signals came twice; after {n_saved} a checkpoint was written at once, the others "
            f"came before the first step. {_made(record)}"]


def storage(record: dict[str, Any]) -> list[str]:
    """A row for each fault."""
    lines = ["| fault | tried | right |", "| --- | ---: | ---: |"]
    lines += [f"| {row['what'].rstrip('.')} | {row['tried']} | {row['right']} |" for row in record["results"]]
    return [*lines, "", _made(record)]


def soak(record: dict[str, Any]) -> list[str]:
    """What a long run holds, and whether it grows."""
    found = record["results"]
    memory, cpu, whole = found["resident_bytes"], found["cpu_seconds"], found["cpu_seconds_with_evaluation_of_all"]
    rows = {"experiences": f"{found['n_experiences']:,}, the first {found['warm_up']:,} are warm-up",
            "resident memory": f"{memory['after_warm_up'] / 2**20:.0f} MiB after the warm-up, "
                               f"{memory['at_the_end'] / 2**20:.0f} at the end; {_slope(memory, 1 / 1024, 'KiB')}",
            "open files": f"{found['open_files']['least']} to {found['open_files']['most']}",
            "threads": f"{found['threads']['least']} to {found['threads']['most']}",
            "processor time": f"{1000 * cpu['first_tenth']:.0f} ms an experience in the first tenth, "
                              f"{1000 * cpu['last_tenth']:.0f} in the last; {_slope(cpu, 1e6, 'us')}"}
    lines = ["| what | measured |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows.items())]
    return [*lines, "", f"Every {found['evaluate_every']} experiences all are evaluated, which takes "
            f"{whole['first']:.1f} s of the processor at first and {whole['last']:.1f} s at the end. {_made(record)}"]


def _slope(fitted: dict[str, float], factor: float, unit: str) -> str:
    return (f"slope {factor * fitted['per_experience']:.2f} +- {factor * fitted['error_95']:.2f} {unit} an experience "
            "(95 %)")


def fuzzing(commands: dict[str, Any], files: dict[str, Any]) -> list[str]:
    """How nearly valid inputs ended."""
    ends = Counter[str]()
    for outcome, n in files["outcomes"].items():
        ends[outcome.rpartition(": ")[2]] += n
    exits = commands["outcomes"]
    told = {"command lines": (commands, f"{exits['exit 2']:,} refused, {exits['exit 0']:,} done, {exits['exit 1']:,} "
                              "with status 1: the work would begin, or the system refused"),
            "files": (files, f"{ends['refused']:,} refused, {ends['read']:,} read")}
    lines = ["| fuzzer | inputs | how they ended | found in the last run | slowest |",
             "| --- | ---: | --- | ---: | ---: |"]
    for name, (record, text) in told.items():
        n_found, slowest = len(record["findings"]), record["slowest_seconds"]
        lines.append(f"| {name} | {record['tried']:,} | {text} | {n_found} | {slowest:.2f} s |")
    return lines


def _sum(rows: Sequence[dict[str, Any]], name: str) -> int:
    return sum(row[name] for row in rows)


def _made(record: dict[str, Any]) -> str:
    return f"Commit {record['git_commit']}; Python {record['python']}, torch {record['torch']}."


def filled(text: str, name: str, lines: Sequence[str]) -> str:
    """The page with other lines between the marks of a table.

    >>> filled("<!-- a -->old<!-- /a -->", "a", ["new"])
    '<!-- a -->\\nnew\\n<!-- /a -->'
    """
    head, tail = text.split(f"<!-- {name} -->")[0], text.split(f"<!-- /{name} -->")[1]
    return "\n".join([f"{head}<!-- {name} -->", *lines, f"<!-- /{name} -->"]) + tail


def main() -> None:
    """Write each table whose record is there."""
    text = PAGE.read_text()
    records = ROOT / "runs" / "reference"
    for made in (kills, signals, storage, soak):
        place = records / f"{made.__name__}.json"
        if place.exists():
            text = filled(text, made.__name__, made(read_json(place)))
    write_atomic(PAGE, text)
    both = [read_json(records / f"{name}.json") for name in ("fuzz_commands", "fuzz_files")]
    write_atomic(SECURITY, filled(SECURITY.read_text(), "fuzzing", fuzzing(*both)))


if __name__ == "__main__":
    main()
