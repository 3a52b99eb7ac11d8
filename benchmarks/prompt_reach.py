"""How often SmolLM2 is right on each kind of problem by what its prompt says: what a prompt can reach at all.

    python benchmarks/prompt_reach.py

Weights as they come, temperature 1, the settings of the SmolLM2 stream of fast_slow.py; training problems alone, of
which the first three serve as examples. The reward of a fast half is the reward of its best prompt: where none of these
brings one, neither it nor a slow half that draws under it has anything to learn from.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from cl_framework.config import resolve
from cl_framework.files import write_json
from cl_framework.launch import open_stream
from cl_framework.policy import ModelPolicy
from cl_framework.problems import RULE, Problem
from cl_framework.protocol import build_model
from cl_framework.runs import git_commit
from cl_framework.scenarios._problems import Kind, drawn
from cl_framework.scenarios.verifiable import _KINDS
from cl_framework.types import Phase

OUT = Path(__file__).resolve().parent.parent / "runs" / "reference" / "prompt_reach.json"
SEED_PROMPT = "Answer the question."
FRAMES = ("template", "plain")
N_EXAMPLES, N_ASKED, N_REPLIES = 3, 12, 4


def kinds() -> list[Kind]:
    """Every kind in its first variant, and those whose variants differ in more than names in each."""
    return [kind(variant=variant, difficulty=1) for name, kind in _KINDS.items()
            for variant in range(len(kind.variants) if name in ("transform", "topic") else 1)]


def prompts(kind: Kind, examples: Sequence[Problem]) -> dict[str, str]:
    """What the prompt says, by a name."""
    remarks = kind.check(examples[0], "").feedback.splitlines()
    rule = "\n".join([SEED_PROMPT, *(line.removeprefix(RULE) for line in remarks if line.startswith(RULE))])
    shown = [f"Q: {problem.prompt}\nA: {problem.answer}" for problem in examples]
    return {"seed": SEED_PROMPT, "rule": rule, "rule, example": "\n".join([rule, shown[0]]),
            f"{N_EXAMPLES} examples": "\n".join([SEED_PROMPT, *shown])}


def main() -> None:
    """Write the record."""
    torch.set_num_threads(1)
    models = {}
    for frame in FRAMES:
        job = resolve({"scenario": "verifiable", "strategy": "rl", "model": "smollm2", "model.frame": frame,
                       "model.stop": "line", "model.max_tokens": 1024, "track.wandb": "disabled"})
        models[frame] = build_model(job.architecture, open_stream(job).info, 0)
    rows = []
    for kind in kinds():
        examples = (problems := drawn(kind, N_EXAMPLES + N_ASKED, "train", Phase.SINGLE, 0))[:N_EXAMPLES]
        asked = problems[N_EXAMPLES:]
        row = {"kind": f"{kind.name} ({kind.variants[kind.variant]})", "example": examples[0]._asdict()}
        for frame, model in models.items():
            policy = ModelPolicy(model, model.sampling)
            row[frame] = {}
            for name, prompt in prompts(kind, examples).items():
                drawn_replies = policy.sample([policy.context(prompt, problem.prompt) for problem in asked], N_REPLIES,
                                              torch.Generator().manual_seed(0), "")
                rewards = [kind.check(problem, reply.text).reward
                           for problem, own in zip(asked, drawn_replies, strict=True) for reply in own]
                row[frame][name] = sum(rewards) / len(rewards)
        rows.append(row)
        print(row["kind"], *(f"{name} {100 * value:.0f}" for frame in FRAMES for name, value in row[frame].items()),
              flush=True)
    write_json(OUT, {"command": "python benchmarks/prompt_reach.py", "git_commit": git_commit(),
                     "python": platform.python_version(), "torch": torch.__version__, "n_asked": N_ASKED,
                     "n_replies": N_REPLIES, "rows": rows})


if __name__ == "__main__":
    main()
