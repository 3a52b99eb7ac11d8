"""The page's part on merging a language model: the record that benchmarks/merging_language.py wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

REFERENCE = Path(__file__).resolve().parent.parent / "runs" / "reference"
FILE = "merging_language.json"
WEIGHTS = {"lora": "Experts with an adapter (LoRA of rank 8, learning rate {rate})",
           "none": "Experts with all weights trained (learning rate {rate})"}


def merging_language(folder: Path = REFERENCE) -> list[str]:
    """Both tables; nothing where it has not been run."""
    if not (folder / FILE).exists():
        return []
    record = json.loads((folder / FILE).read_text())
    own = {key.rpartition(".")[2]: value for key, value in record["settings"].items()}
    lines = [f"### Topics of BBC News, `{own['model']}`", "", f"""The topics {', '.join(own['topics'])}: at most
{own['n_train']} training and {own['n_test']} held-out passages of each, the first {own['n_bytes']} bytes of an article,
{own['epochs']} epochs, AdamW. *Perplexity* is exp of the mean over topics of -log p of a token, of all topics after the
last one; *increase* the factor by which it grew since each topic but the last was merged. *Choice*: the true second
half of a passage among 4 of its topic, by the mean log p of its tokens; one more or less right is
{100 / own['n_test'] / len(own['topics']):.1f} points, so that small differences say nothing. One seed and one order:
most of these methods end alike in any.""", ""]
    for adapter, title in WEIGHTS.items():
        rows = [row for row in record["rows"] if row["adapter"] == adapter]
        if rows:
            lines += [f"{title.format(rate=record['rates'][adapter])}:", "", *_table(rows), ""]
    waiting = record.get("not_run_yet", [])
    lines += [f"Not run yet (none stands for all weights): {', '.join(waiting)}.", ""] if waiting else []
    return [*lines, f"Commits {', '.join(record['git_commits'])}; Python {record['python']}, torch {record['torch']}. "
                    f"Record: `runs/reference/{FILE}` (`{record['command']}`).", ""]


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line a method, least perplexity first, with the base and the experts before merging."""
    topics = sorted(rows[0]["runs"][0]["topics"])
    first = rows[0]["runs"][0]
    entries = [_entry("weights before the stream", [first], "before", topics)]
    experts = {expert["topic"]: expert for expert in rows[0]["experts"]}
    if experts.keys() >= set(topics):
        alone = {"topics": topics, **{name: {"last": [experts[topic][name] for topic in topics]}
                                      for name in ("loss", "choice")}}
        entries.append(_entry("individual experts", [alone], "last", topics))
    entries += [_entry(row["row"], row["runs"], "last", topics) for row in rows]
    return [f"| method | perplexity | increase | choice | {' | '.join(topics)} | seconds |",
            f"| --- | ---: | ---: | ---: |{' ---: |' * (len(topics) + 1)}",
            *(line for _, line in sorted(entries))]


def _entry(name: str, runs: Sequence[dict[str, Any]], moment: str, topics: Sequence[str]) -> tuple[float, str]:
    """The perplexity that lines are sorted by, and the line; means over orders."""
    losses = {topic: mean(run["loss"][moment][run["topics"].index(topic)] for run in runs) for topic in topics}
    perplexity = math.exp(mean(losses.values()))
    grown = [later - own for run in runs if "own" in run["loss"] and moment == "last"
             for later, own in list(zip(run["loss"]["last"], run["loss"]["own"], strict=True))[:-1]]
    choice = mean(value for run in runs for value in run["choice"][moment])
    seconds = [run["seconds"] for run in runs if "seconds" in run and moment == "last"]
    return perplexity, (f"| {name} | {perplexity:.1f} | {f'{math.exp(mean(grown)):.3f}' if grown else '-'} | "
                        f"{100 * choice:.1f} | {' | '.join(f'{math.exp(losses[topic]):.1f}' for topic in topics)} | "
                        f"{f'{mean(seconds):.0f}' if seconds else '-'} |")
