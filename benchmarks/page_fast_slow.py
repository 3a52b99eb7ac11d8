"""The page's part on fast and slow weights: the records that benchmarks/fast_slow.py wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cl_framework.fast_slow_metrics import Curve, continual, efficiency, plasticity

REFERENCE = Path(__file__).resolve().parent.parent / "runs" / "reference"
TITLE = "## Fast and slow weights"
TIERS = {
    "smollm2": ("Three tasks, `smollm2`", "SmolLM2-135M-Instruct, quantised to 4 bits and read back, with an adapter "
                "of rank {rank}"),
    "tiny": ("Three hidden forms of sums, `tiny_lm`", "`tiny_lm`, 1.1 M parameters, all of them trained: it shows that "
             "the parts work together, and nothing of language models"),
}
RISE = 0.01
"""Reward that counts as learning."""
SHOWN = {"fst": "FST", "gepa": "GEPA", "rl_then_gepa": "RL, then GEPA"}


def fast_slow() -> list[str]:
    """All tables that have been run."""
    lines = [TITLE, "", """What `fst` and its halves learn from rewards on a stream whose tasks change untold ([the
methods](fast-slow.md)). Prompts are proposed by scripted edits, not by a language model: "FST (scripted reflector)" is
not what the paper calls FST, and no number of it is a result of that paper. *Reward* is mean@k on held-out problems in
percent, ± one deviation over seeds: of all tasks at the end, and of each task just after it was learned. *Samples* are
problems that slow steps learned from, *replies* all that were drawn, so that methods can be compared at equal samples
and at equal replies; *KL* is the divergence from the base at the end, in thousandths of a nat a token, under the seed
prompt and under the best; *efficiency* how many times fewer samples and replies a method needs for RL's own peak on all
tasks. A dash is what is not defined: RL that never rises by a point has no peak to reach. Seconds are of training, on
shared cores under changing load, and tell orders of magnitude. Nothing was tuned.""", ""]
    for tier, (title, text) in TIERS.items():
        path = REFERENCE / f"fast_slow_{tier}.json"
        lines += [f"### {title}", ""]
        if not path.exists():
            lines += [f"It has not been run yet: `python benchmarks/fast_slow.py {tier}`.", ""]
            continue
        record = json.loads(path.read_text())
        lines += [*_settings(record, text), "", *_rewards(record), "", *_tasks(record), "", *_channels(record), "",
                  *_probe(record), "", f"Commits {', '.join(record['git_commits'])}; Python {record['python']}, torch "
                  f"{record['torch']}. Record: `runs/reference/{path.name}` (`{record['command']}`).", ""]
    return [*lines, *_reach()]


def _reach() -> list[str]:
    """What prompts bring SmolLM2; nothing where it has not been measured."""
    path = REFERENCE / "prompt_reach.json"
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    frames = {"template": "chat template", "plain": "plain frame"}
    names = list(record["rows"][0]["plain"])
    head = [f"{name}, {text}" for text in frames.values() for name in names]
    lines = ["### What a prompt can do", "", f"""Reward of SmolLM2 as it comes, in percent, by what its prompt says:
*seed* is "Answer the question.", *rule* adds the rule that the feedback names (where it names one), *example* one
worked example. {record['n_asked']} training problems of each kind, {record['n_replies']} replies at temperature 1. In
the plain frame (`model.frame=plain`) a question looks as the examples do. Where no prompt brings a reward, neither half
of FST has anything to learn from; that is so, but for stray hits, for the tasks of the first language stream that was
planned here (arithmetic in a hidden form, programs, star graphs), and why the stream above has others.""", "",
             f"| kind | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
    for row in record["rows"]:
        cells = [f"{100 * row[frame][name]:.0f}" for frame in frames for name in names]
        lines.append(f"| {row['kind']} | {' | '.join(cells)} |")
    return [*lines, "", f"Commit {record['git_commit']}; Python {record['python']}, torch {record['torch']}. Record: "
            f"`runs/reference/{path.name}` (`{record['command']}`).", ""]


def _settings(record: dict[str, Any], text: str) -> list[str]:
    """What was run, in a paragraph."""
    scenario, model, train = (record["settings"][name] for name in ("scenario", "model", "train"))
    n = max(len(row["runs"]) for row in record["rows"])
    n_steps = len(set(record["kinds"])) * scenario["n_train"] // train["batch_size"]
    return [f"{text.format(rank=model['rank'])}. {scenario['n_train']} training and {scenario['n_test']} held-out "
            f"problems a task, {scenario['n_samples']} replies to each of the latter, answers of at most "
            f"{model['max_new_tokens']} tokens; B = {train['batch_size']}, T = {record['steps_per_cycle']}, G = 8, "
            f"K = 4, 5 passes, AdamW at {train['lr']:g} after 10 steps of warm-up; {n_steps} slow steps a pass over "
            f"the stream where all say something, which is few; {n} seed{'s' * (n > 1)}."]


def _rewards(record: dict[str, Any]) -> list[str]:
    """A line a method, best first."""
    lines = ["| method | n | reward at the end | just after its task | samples | replies | reflector calls | "
             "KL, seed prompt | KL, best prompt | efficiency, samples | efficiency, replies | seconds |",
             "| --- |" + " ---: |" * 11]
    baseline = next((row for row in record["rows"] if row["row"] == "RL"), None)
    for row in sorted(record["rows"], key=lambda row: -mean(_fresh(record, run) for run in row["runs"])):
        runs, costs = row["runs"], [run["costs"][-1] for run in row["runs"]]
        ratios = [_ratio(runs, baseline, cost) for cost in ("samples", "rollouts")]
        lines.append(
            f"| {label_of(row)} | {len(runs)} | {_spread([_last(run) for run in runs])} | "
            f"{_spread([_fresh(record, run) for run in runs])} | {_count(costs, 'samples')} | "
            f"{_count(costs, 'rollouts')} | {_count(costs, 'reflector_calls')} | {_nats(costs, 'kl_seed')} | "
            f"{_nats(costs, 'kl_best')} | {' | '.join(ratios)} | "
            f"{mean(run['seconds'] for run in runs):.0f} |")
    return lines


def _tasks(record: dict[str, Any]) -> list[str]:
    """Each task just after it was learned and at the end, also normalised by the best of all methods there."""
    kinds = record["kinds"]
    names = list(dict.fromkeys(kinds))
    stages = {name: [index for index, kind in enumerate(kinds) if kind == name] for name in names}
    peaks = {name: max(_level(record, row, name, after) for row in record["rows"] for after in stages[name])
             for name in names}
    lines = ["Reward on each task just after it was learned, and at the end; in brackets the latter on a scale where 0 "
             "is the method's own reward when the task began and 100 the best of all methods while it lasted:", "",
             f"| method | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    for row in record["rows"]:
        cells = []
        for name in names:
            begin, fresh, end = (_level(record, row, name, after) for after in
                                 (stages[name][0] - 1, stages[name][-1], len(kinds) - 1))
            share = continual(end, begin, peaks[name])
            cells.append(f"{100 * fresh:.1f}, {100 * end:.1f} ({'-' if math.isnan(share) else f'{share:.0f}'})")
        lines.append(f"| {label_of(row)} | {' | '.join(cells)} |")
    return lines


def _level(record: dict[str, Any], row: dict[str, Any], name: str, after: int) -> float:
    """The reward on a task after an experience, over seeds; after -1 that of the untrained model."""
    return mean(_task(record, run, name, after) for run in row["runs"])


def _channels(record: dict[str, Any]) -> list[str]:
    """Which of weights and prompt carries the gain."""
    lines = ["Weights and prompts taken apart, reward on all tasks at the end:", "",
             "| method | base, seed prompt | base, evolved prompt | trained, seed prompt | trained, evolved prompt | "
             "weights alone add | prompt alone adds | both add beyond that |", "| --- |" + " ---: |" * 7]
    for row in record["rows"]:
        found = [run["channels"] for run in row["runs"]]
        levels = [f"{100 * mean(each[name] for each in found):.1f}" for name in
                  ("base_seed", "base_evolved", "trained_seed", "trained_evolved")]
        gains = [f"{100 * mean(each[name] for each in found):+.1f}" for name in ("slow", "fast", "together")]
        lines.append(f"| {label_of(row)} | {' | '.join([*levels, *gains])} |")
    return lines


def _probe(record: dict[str, Any]) -> list[str]:
    """How well the weights learn a fourth task."""
    probe = record["probe"]
    if not any(probe["curves"].values()):
        return ["The fourth task has not been learned yet."]
    kinds = ", ".join(probe["scenario.kinds"])
    kinds += f" of difficulty {probe['scenario.difficulty']}" if "scenario.difficulty" in probe else ""
    lines = [f"Plasticity: a fresh run of `{probe['strategy']}` on a fourth task ({kinds}), from the weights that each "
             "method left:", "", "| weights | n | at the beginning | at the end | best |",
             "| --- |" + " ---: |" * 4]
    for start, curves in probe["curves"].items():
        if curves:
            found = plasticity(curves)
            lines.append(f"| {start} | {len(curves)} | {_spread([curve[0][1] for curve in curves.values()])} | "
                         f"{_spread([each.final for each in found.values()])} | "
                         f"{_spread([each.peak for each in found.values()])} |")
    return lines


def label_of(row: dict[str, Any]) -> str:
    """A row's name, with who proposed its prompts."""
    if row["strategy"] not in SHOWN or "random edits" in row["row"]:
        return str(row["row"])
    name = SHOWN[row["strategy"]]
    return f"{name} (scripted reflector){str(row['row']).removeprefix(name)}"


def _learned_at(record: dict[str, Any], name: str) -> int:
    """The last experience of a task."""
    return max(index for index, kind in enumerate(record["kinds"]) if kind == name)


def _task(record: dict[str, Any], run: dict[str, Any], name: str, after: int) -> float:
    """The reward on a task after an experience; after -1 that of the untrained model under the seed prompt."""
    row = run["channels"]["base_rewards"] if after < 0 else run["accuracy_matrix"][after]
    return mean(value for value, kind in zip(row, record["kinds"], strict=True) if kind == name)


def _last(run: dict[str, Any]) -> float:
    return mean(run["accuracy_matrix"][-1])


def _fresh(record: dict[str, Any], run: dict[str, Any]) -> float:
    """Mean over tasks of the reward just after each was learned."""
    return mean(_task(record, run, name, _learned_at(record, name)) for name in dict.fromkeys(record["kinds"]))


def _curve(runs: Sequence[dict[str, Any]], cost: str) -> Curve:
    """Mean reward on all tasks by a cost, from the beginning on, averaged over seeds."""
    begin = (0.0, mean(run["channels"]["base_seed"] for run in runs))
    points = [(mean(run["costs"][index].get(cost, 0) for run in runs),
               mean(mean(run["accuracy_matrix"][index]) for run in runs)) for index in range(len(runs[0]["costs"]))]
    return [begin, *points]


def _ratio(runs: Sequence[dict[str, Any]], baseline: dict[str, Any] | None, cost: str) -> str:
    """The ratio of efficiency, where both have that cost and RL rises above its beginning by more than stray hits."""
    if baseline is None:
        return "-"
    own, other = _curve(runs, cost), _curve(baseline["runs"], cost)
    if own[-1][0] == 0 or max(value for _, value in other) < other[0][1] + RISE:
        return "-"
    return f"{efficiency(own, other):.1f}"


def _spread(values: Sequence[float]) -> str:
    return f"{100 * mean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")


def _count(costs: Sequence[dict[str, Any]], name: str) -> str:
    return f"{mean(each.get(name, 0) for each in costs):.0f}"


def _nats(costs: Sequence[dict[str, Any]], name: str) -> str:
    return f"{round(1000 * mean(each[name] for each in costs))}" if all(name in each for each in costs) else "-"
