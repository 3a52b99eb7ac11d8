"""Fills docs/performance.md from the records in runs/reference, between its marks, and draws its figures.

    make page
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from page_scaling import on_paper, scaling, tried

ROOT = Path(__file__).resolve().parent.parent
REFERENCE, PAGE = ROOT / "runs" / "reference", ROOT / "docs" / "performance.md"
MISSING = "not measured yet"


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        limit: what it is measured beside, in the same run.
        holds: whether the goal is reached, and where not, why.
        command: what measures it.
    """

    what: str
    limit: str
    goal: str
    measured: str
    holds: str
    command: str


def read(name: str) -> dict[str, Any] | None:
    """A record, where there is one."""
    path = REFERENCE / f"{name}.json"
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def shown(found: dict[str, float], unit: str = " x") -> str:
    """A ratio with its range."""
    return f"{found['median']:.2f}{unit} ({found['lowest']:.2f} to {found['highest']:.2f})"


def at_most(value: float, goal: float, why: str = "") -> str:
    """Whether a figure is as small as was wanted."""
    return "yes" if value <= goal else f"no{why and ': '}{why}"


def at_least(value: float, goal: float, why: str = "") -> str:
    """Whether a figure is as large as was wanted."""
    return "yes" if value >= goal else f"no{why and ': '}{why}"


def steps() -> list[Row]:
    """Training steps beside a bare loop and Avalanche."""
    record, command, rows = read("throughput"), "python benchmarks/throughput.py", list[Row]()
    cases = {(case["case"], case["batch_size"]): case["paired"] for case in record["cases"]} if record else {}
    for size, most, peer in ((128, 1.10, 10.0), (10, 1.25, 5.0)):
        what, paired = f"training step, MLP 784-100-100-10, batch {size}", cases.get(("mlp 784-100-100-10", size))
        goals = (f"at most {most:.2f} x its time", f"at least {peer:.0f} x faster")
        if paired is None:
            rows += [Row(what, "bare loop", goals[0], MISSING, "-", command),
                     Row(what, "Avalanche Naive", goals[1], MISSING, "-", command)]
            continue
        ours, theirs = paired["ours_over_bare"], paired["avalanche_default_over_ours"]
        bare, silent = (paired[f"avalanche_{way}"]["median"] for way in ("default_over_bare", "classic_over_ours"))
        beyond = f"the bare loop itself is {bare:.1f} x as fast as Avalanche"
        rows += [Row(what, "bare PyTorch loop, same tensors", goals[0], shown(ours), at_most(ours["median"], most),
                     command),
                 Row(what, "Avalanche Naive as its documentation calls it, on its own stream of the same rows; bare "
                     f"loop beside it: {bare:.1f} x", goals[1],
                     f"{shown(theirs)}; without its metrics and logger {silent:.1f} x",
                     at_least(theirs["median"], peer, beyond if bare < peer else ""), command)]
    for words in ("", ", channels_last"):
        found = cases.get((f"slim_resnet18, crop and flip{words}", 32))
        rows.append(Row(f"training step, slim_resnet18, batch 32, crop and flip{words}", "bare loop, same batched "
                        "augmentation", "at most 1.05 x", shown(found["ours_over_bare"]) if found else MISSING,
                        at_most(found["ours_over_bare"]["median"], 1.05) if found else "-", command))
    return rows


def augmentation() -> list[Row]:
    """Crop and mirror."""
    record = read("augmentation_speed")
    found = record["pil_over_ours"] if record else None
    return [Row("crop and mirror on uint8, CIFAR's shape", "PIL, image by image", "at least 10 x",
                shown(found) if found else MISSING, at_least(found["median"], 10) if found else "-",
                "python benchmarks/augmentation_speed.py")]


def replay() -> list[Row]:
    """er and derpp."""
    record, command, rows = read("rehearsal_speed"), "python benchmarks/rehearsal_speed.py", list[Row]()
    cases = {case["strategy"]: case for case in record["cases"]} if record else {}
    for name in ("er", "derpp"):
        case = cases.get(name)
        rows.append(Row(f"`{name}`, reservoir, batch 10 online", "bare loop with a tensor as buffer, which answers "
                        "each batch first as every online run does", "at most 1.25 x",
                        f"{shown(case['ours_over_answered'])}; without answering {case['ours_over_bare']['median']:.2f}"
                        if case else MISSING, at_most(case["ours_over_answered"]["median"], 1.25) if case else "-",
                        command))
    case = cases.get("er")
    if case:
        peers = {"online": "Avalanche's replay with its reservoir on its online stream of 10 rows an experience, whose "
                           "cost of an experience is counted",
                 "halves": "Avalanche's replay as it is by default, on two experiences, of which the second replays"}
        for peer, words in peers.items():
            found, bare = (case[f"avalanche_{peer}_over_{way}"] for way in ("ours", "bare"))
            why = f"the bare loop itself is {bare['median']:.1f} x as fast" if bare["median"] < 8 else ""
            rows.append(Row("`er`, reservoir, batch 10 online", f"{words}; it answers nothing before it learns; bare "
                            f"loop beside it: {bare['median']:.1f} x", "at least 8 x", shown(found),
                            at_least(found["median"], 8, why), command))
    else:
        rows.append(Row("`er`, batch 10 online", "Avalanche's replay", "at least 8 x", MISSING, "-", command))
    long = (read("scaling") or {}).get("experiences", [])
    last = long[-1]["last_tenth_over_second"] if long else None
    rows.append(Row(f"`er` while the stream grows, {long[-1]['experiences']:,} experiences" if long else
                    "`er` while the stream grows", "its own second tenth", "flat", f"{last:.2f} x" if last else MISSING,
                    at_most(last, 1.1) if last else "-", "python benchmarks/scaling.py"))
    return rows


def evaluation() -> list[Row]:
    """Held-out rows."""
    record = read("evaluation_speed")
    return [Row(f"evaluation of 20 experiences, {case['case']}", "one pass over the same rows", "at most 1.1 x",
                shown(case["ours_over_bare"]), at_most(case["ours_over_bare"]["median"], 1.1),
                "python benchmarks/evaluation_speed.py") for case in (record["cases"] if record else ())]


def startup() -> list[Row]:
    """What surrounds the steps."""
    record, command = read("startup_speed"), "python benchmarks/startup_speed.py"
    whole, listed = "split_fashion, `er`, from command to table, less its steps and evaluations", "`clf list`"
    if record is None:
        return [Row(whole, "-", "under 4 s", MISSING, "-", command), Row(listed, "-", "under 0.4 s", MISSING, "-",
                                                                        command)]
    around, names = record["seconds"]["around"], record["list"]
    imports = record["imports"]
    why = (f"imports take {imports['a run']['lowest_processor']:.1f} s, of which torch has "
           f"{imports['torch']['lowest_processor']:.1f}")
    return [Row(whole, "the steps and evaluations of the same run", "under 4 s", f"{around['processor']:.1f} s of the "
                f"processor (lowest {around['lowest_processor']:.1f}), {around['clock']:.1f} s on the clock at a load "
                f"of {record['load_before']:.1f}", at_most(around["processor"], 4, why), command),
            Row(listed, "-", "under 0.4 s", f"{names['processor']:.2f} s of the processor (lowest "
                f"{names['lowest_processor']:.2f}); {names['modules']} modules of {names['packages']} packages besides "
                "Python's own", at_most(names["processor"], 0.4, f"at that load; the lowest is "
                                        f"{names['lowest_processor']:.2f} s"), command)]


def seeds() -> list[Row]:
    """launcher=vector."""
    record, what = read("vector_speed"), "ten seeds of one small model, `launcher=vector`"
    command = "python benchmarks/vector_speed.py"
    if record is None:
        return [Row(what, "the same seeds one after another", "at least 2.5 x on two cores", MISSING, "-", command)]
    cases = record["cases"]
    enough = sum(case["two_cores"]["median"] >= 2.5 for case in cases)
    named = "; ".join(f"{case['strategy']} {case['side']}x{case['side']}, width {case['width']}, batch "
                      f"{case['batch_size']}, {case['optimizer']}: {case['two_cores']['median']:.1f}" for case in cases)
    return [Row(what, "the same seeds one after another", "at least 2.5 x on two cores", named,
                f"in {enough} of {len(cases)} cases" + ("" if enough == len(cases) else
                                                        ": where products of matrices take the time there is less to "
                                                        "gain"), command)]


def memory() -> list[Row]:
    """Peak memory, and data that is larger."""
    record, larger = read("memory_peak"), read("mapped_speed")
    over = record["over_data_and_model"] if record else None
    rows = [Row("peak memory, split_mnist, `naive`", "bytes of data and model, and the libraries", "at most 1.3 x",
                f"{over['used']:.2f} x beyond libraries in use, {over['imported']:.2f} x beyond libraries imported"
                if over else MISSING,
                at_most(over["used"], 1.3, "the optimizer's moments, batches of training and evaluation and the "
                        "checkpoint come on top") if over else "-",
                "python benchmarks/memory_peak.py")]
    what, command = "data larger than memory, through a mapped file", "python benchmarks/mapped_speed.py"
    if larger is None:
        return [*rows, Row(what, "the same rows in memory", "keeps working", MISSING, "-", command)]
    return [*rows, Row(what, "the same rows in memory", "keeps working",
                       f"{shown(larger['mapped_over_resident'])}, {larger['cold_over_resident']:.2f} x in the first "
                       f"epoch; a file of {larger['file_bytes'] / 2**30:.0f} GiB on a machine with "
                       f"{larger['memory_bytes'] / 2**30:.0f}", "yes: the data cache maps its files", command)]


def merging() -> list[Row]:
    """Steps whose arithmetic can be counted."""
    opcm, gcwm, psmt = read("merging_speed"), read("gcwm_speed"), read("adaptation_speed")
    rows, limit, goal = list[Row](), "its unavoidable arithmetic", "within 1.3 x"
    for case in opcm["time"]["cases"] if opcm else ():
        over = case.get("over_arithmetic")
        rows.append(Row(f"projection of `opcm`, {' x '.join(map(str, opcm['shape']))}, {case['reading']}", limit, goal,
                        f"{over:.2f} x" if over else MISSING, at_most(over, 1.3) if over else "-",
                        "python benchmarks/merging_speed.py"))
    for case in gcwm["cases"] if gcwm else ():
        over = case.get("over_arithmetic")
        rows.append(Row(f"merge of a layer by `gcwm`, {' x '.join(map(str, case['shape']))}, 5 experts", limit, goal,
                        f"{shown(over)}; {case['ratio']:.1f} x as fast as it is written" if over else MISSING,
                        at_most(over["median"], 1.3) if over else "-", "python benchmarks/gcwm_speed.py"))
    if psmt:
        worst = max(psmt["cases"], key=lambda case: float(case["median_ratio"]))
        rows.append(Row("a step of `psmt`", "two forward passes and one backward", goal,
                        f"{worst['median_ratio']:.2f} x ({worst['lowest_ratio']:.2f} to {worst['highest_ratio']:.2f}) "
                        f"at most, of {len(psmt['cases'])} cases", at_most(worst["median_ratio"], 1.3),
                        "python benchmarks/adaptation_speed.py"))
    return rows


def gpu() -> list[Row]:
    """On CUDA."""
    record, goal = read("gpu_throughput"), "at least 0.95 x its samples/s; no host sync a step"
    what = "resnet18, CIFAR's shape, bf16, channels_last, compiled, on a GPU"
    command = "python benchmarks/gpu_throughput.py"
    if record is None:
        return [Row(what, "best bare compiled loop", goal, "no GPU was at hand", "not measured; the script is there",
                    command)]
    found, waits = record["rate_ours_over_bare"], record["waits"]
    return [Row(what, f"best bare compiled loop, {record['name']}", goal,
                f"{shown(found)}; the host waits {waits['of_an_epoch']} times in {waits['steps']} steps; "
                f"{record['utilisation_percent']} % in use", at_least(found["median"], 0.95), command)]


def table() -> list[str]:
    """All rows."""
    rows = [*steps(), *augmentation(), *replay(), *evaluation(), *startup(), *seeds(), *memory(), *merging(), *gpu()]
    return ["| what | limit or peer, same run | goal | measured | holds | command |", "|" + " --- |" * 6,
            *("| " + " | ".join([*row[:-1], f"`{row.command}`"]) + " |" for row in rows)]


def main() -> None:
    """Write the page."""
    text = PAGE.read_text()
    for name, lines in {"table": table(), "scaling": scaling(REFERENCE, ROOT / "docs" / "images"),
                        "paper": on_paper(REFERENCE), "tried": tried(REFERENCE)}.items():
        text, n = re.subn(rf"(<!-- {name} -->\n).*?(\n<!-- end of {name} -->)",
                          lambda found, lines=lines: found[1] + "\n" + "\n".join(lines) + "\n" + found[2], text,
                          flags=re.DOTALL)
        assert n == 1, f"docs/performance.md has no place for {name}"
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
