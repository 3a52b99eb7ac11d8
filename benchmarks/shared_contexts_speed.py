"""What a gradient of answers costs where they share their contexts, beside rows that each read their own: SmolLM2.

4 problems under one system prompt, some 110 tokens together, with 8 answers of up to 16 tokens each, drawn from the
model, whose adapter learns; one thread. Both take the log-probabilities of all 32 answers in one forward pass and go
back through it; they alternate, in seconds of the processor, and their answers are compared. Writes
runs/reference/shared_contexts_speed.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from generation_speed import PROBLEMS, SYSTEMS
from torch import Tensor

from cl_framework.language import LanguageModel
from cl_framework.rollout import Rollout, as_inputs, response_log_probs
from cl_framework.runs import git_commit
from cl_framework.sampling import Sampling, sample
from cl_framework.smollm2 import SmolLM2
from cl_framework.token_rows import answer_log_probs, positions
from cl_framework.types import StreamInfo

OUT = Path(__file__).parents[1] / "runs/reference/shared_contexts_speed.json"
N_ANSWERS, N_TOKENS = 8, 16


def row_by_row(model: LanguageModel, rollouts: Sequence[Rollout]) -> Tensor:
    """Log-probabilities of the answers [N, S], every row with its own context."""
    x = as_inputs(rollouts, model)
    length, n = x["ids"].shape[1], int(x["is_answer"].any(0).sum())
    logits = model.body(input_ids=x["ids"], attention_mask=x["is_token"], position_ids=positions(x["is_token"]),
                        use_cache=False, logits_to_keep=torch.arange(length - n - 1, length - 1)).logits
    return answer_log_probs(x, logits)[0]


def together(model: LanguageModel, rollouts: Sequence[Rollout]) -> Tensor:
    """The same through the model."""
    return response_log_probs(model, rollouts)[0]


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    model = SmolLM2(adapter="lora").build(StreamInfo(n_experiences=1, n_classes=1, input_shape=(1, 1),
                                                     is_language=True))
    contexts = [model.context(SYSTEMS[0], problem) for problem in PROBLEMS]
    drawn = sample(model, contexts, N_ANSWERS, Sampling(max_new_tokens=N_TOKENS), torch.Generator().manual_seed(0), 0)
    rollouts = [rollout for group in drawn for rollout in group]
    seconds: dict[str, list[float]] = {"shared": [], "row_by_row": []}
    largest = 0.0
    for repeat in range(repeats + 1):
        found = []
        for name, way in (("shared", together), ("row_by_row", row_by_row)):
            model.zero_grad()
            began = time.process_time()
            log_probs = way(model, rollouts)
            log_probs.sum().backward()
            seconds[name].append(time.process_time() - began)
            found.append(log_probs.detach())
        largest = max(largest, float((found[0] - found[1]).abs().max()))
        print(f"{repeat}/{repeats}: {seconds['row_by_row'][-1] / seconds['shared'][-1]:.1f} times", flush=True)
    seconds = {name: values[1:] for name, values in seconds.items()}  # the first is a warm-up
    ratios = [slow / fast for fast, slow in zip(*seconds.values(), strict=True)]
    record = {"command": "python benchmarks/shared_contexts_speed.py", "date": datetime.now(UTC).date().isoformat(),
              "git_commit": git_commit(), "threads": 1, "torch": torch.__version__, "model": "smollm2, float32, lora",
              "context_tokens": [len(group[0].context_ids) for group in drawn],
              "answer_tokens": [len(rollout.response_ids) for rollout in rollouts], "seconds": seconds,
              "ratios": ratios, "median_ratio": statistics.median(ratios), "largest_difference": largest}
    OUT.write_text(json.dumps(record, indent=1) + "\n")
    print(f"median ratio {record['median_ratio']:.1f}, log-probabilities differ by {largest:.1e} at most; {OUT}")


if __name__ == "__main__":
    main()
