"""Tokens per second of the sampler beside `generate` called for each rollout by itself: SmolLM2, one thread.

Both draw 8 answers of 16 tokens to each of 4 problems under each of 2 system prompts of some 100 tokens, from the same
weights; neither stops early, so that both make the same number of tokens. Ours draws all 64 in one call; the other
calls transformers' `generate` with one context and one answer, on 4 of the 64. Both are counted by the token, in
seconds of the clock and of the processor, and alternate, so that a busy machine slows both down. Writes
runs/reference/generation_speed.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch

from cl_framework.language import LanguageModel
from cl_framework.sampling import Sampling, sample
from cl_framework.smollm2 import SmolLM2
from cl_framework.types import StreamInfo

OUT = Path(__file__).parents[1] / "runs/reference/generation_speed.json"
SYSTEMS = (
    "Answer the question.\nWrite the number n as <ans>n</ans>.\nQ: What is 3 + 4?\nA: <ans>7</ans>\n"
    "Q: What is 20 + 11?\nA: <ans>31</ans>\nQ: What is 19 - 6?\nA: <ans>13</ans>",
    "Give the answer and nothing else.\nWrite the number n as <ans>n</ans>.\nQ: What is 8 + 5?\nA: <ans>13</ans>\n"
    "Q: What is 40 - 17?\nA: <ans>23</ans>\nQ: What is 6 + 6?\nA: <ans>12</ans>")
PROBLEMS = ("What is 17 + 5?", "What is 40 - 2?", "What is 23 + 24?", "What is 9 + 31?")
N_ANSWERS, N_TOKENS, N_SINGLE = 8, 16, 4


class Cost(NamedTuple):
    """Seconds a token, of the clock and of the processor."""

    wall: float
    processor: float


def ours(model: LanguageModel, contexts: list[str], seed: int) -> int:
    """Tokens of one call for all rollouts."""
    settings = Sampling(max_new_tokens=N_TOKENS)
    found = sample(model, contexts, N_ANSWERS, settings, torch.Generator().manual_seed(seed), 0)
    return sum(len(rollout.response_ids) for group in found for rollout in group)


def one_by_one(model: LanguageModel, contexts: list[str], seed: int) -> int:
    """Tokens of `generate` for some of the rollouts, each by itself."""
    torch.manual_seed(seed)
    n = 0
    for context in contexts[:: len(contexts) // N_SINGLE]:
        ids = torch.tensor([model.vocabulary.context_ids(context)])
        with torch.no_grad():
            answer = model.body.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, top_p=1.0,
                                         temperature=1.0, max_new_tokens=N_TOKENS, min_new_tokens=N_TOKENS)
        n += answer.shape[1] - ids.shape[1]
    return n


def measured(run: Callable[[LanguageModel, list[str], int], int], model: LanguageModel, contexts: list[str],
             seed: int) -> Cost:
    """What a token costs."""
    wall, processor = time.perf_counter(), time.process_time()
    n = run(model, contexts, seed)
    return Cost((time.perf_counter() - wall) / n, (time.process_time() - processor) / n)


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    info = StreamInfo(n_experiences=1, n_classes=1, input_shape=(1, 1), is_language=True)
    model = SmolLM2().build(info).eval()
    contexts = [model.context(system, problem) for system in SYSTEMS for problem in PROBLEMS]
    lengths = [len(model.vocabulary.context_ids(context)) for context in contexts]
    model.vocabulary.end = -1  # no answer ends before its budget
    measured(ours, model, contexts, 0)
    measured(one_by_one, model, contexts, 0)
    pairs = []
    for seed in range(repeats):
        pairs.append((measured(ours, model, contexts, seed), measured(one_by_one, model, contexts, seed)))
        packed, single = pairs[-1]
        print(f"{seed + 1}/{repeats}: {1 / packed.processor:.1f} and {1 / single.processor:.1f} tokens a second of the "
              f"processor, ratio {single.processor / packed.processor:.1f}; by the clock "
              f"{single.wall / packed.wall:.1f}", flush=True)
    ratios = {"wall": [single.wall / packed.wall for packed, single in pairs],
              "processor": [single.processor / packed.processor for packed, single in pairs]}
    record = {
        "command": "python benchmarks/generation_speed.py", "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__,
        "model": "smollm2, float32", "contexts": len(contexts), "context_tokens": lengths, "answers_each": N_ANSWERS,
        "tokens_an_answer": N_TOKENS,
        "seconds_a_token": {"sample": [packed._asdict() for packed, _ in pairs],
                            "generate": [single._asdict() for _, single in pairs]},
        "ratios": ratios, "median_ratio": {name: statistics.median(values) for name, values in ratios.items()}}
    OUT.write_text(json.dumps(record, indent=1) + "\n")
    print(f"median ratio {record['median_ratio']}; {OUT}")


if __name__ == "__main__":
    main()
