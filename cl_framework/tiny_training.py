"""Pretrains the network of model=tiny_lm on rows of its grammar, once: about a minute of one core.

The loss is the mean cross-entropy over the tokens of answers; what stands in a context is read and not learned. One
pass over fresh rows, AdamW with a warm-up and then a linear decay to nothing. Everything is drawn from a fixed seed, so
that one machine always makes the same weights.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import nn

from cl_framework.places import Place
from cl_framework.tiny_grammar import draw_row
from cl_framework.token_rows import answer_log_probs, positions, token_rows
from cl_framework.vocabulary import PAD, Vocabulary

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Course:
    """How the network is pretrained.

    Attributes:
        n_steps: batches.
        batch_size: rows of a batch.
        lr: the highest learning rate.
        n_warm: steps until it is reached.
        seed: of weights, rows and their order.
    """

    n_steps: int
    batch_size: int
    lr: float
    n_warm: int = 30
    seed: int = 0


def train(network: nn.Module, vocabulary: Vocabulary, course: Course) -> None:
    """Pretrain a network in place; torch's global generator is left alone."""
    batches = _batches(vocabulary, course)
    optimizer = torch.optim.AdamW(network.parameters(), course.lr, betas=(0.9, 0.98), weight_decay=0.01)
    network.train()
    bar = track(batches, "pretraining tiny_lm, once", console=Console(stderr=True), transient=True)
    for step, pairs in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = course.lr * min((step + 1) / course.n_warm, 1 - step / course.n_steps)
        x = token_rows(pairs, PAD, torch.device("cpu"))
        n = int(x["is_answer"].any(0).sum())
        length = x["ids"].shape[1]
        logits = network(input_ids=x["ids"], attention_mask=x["is_token"], position_ids=positions(x["is_token"]),
                         use_cache=False, logits_to_keep=torch.arange(length - n - 1, length - 1)).logits
        loss = -answer_log_probs(x, logits)[0].sum() / x["is_answer"].sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()


def _batches(vocabulary: Vocabulary, course: Course) -> list[list[tuple[list[int], list[int]]]]:
    """All rows, those of one length together, in a random order of batches."""
    numbers = random.Random(course.seed)
    rows = [draw_row(numbers) for _ in range(course.n_steps * course.batch_size)]
    pairs = sorted(((vocabulary.context_ids(vocabulary.context(system, prompt)),
                     [*vocabulary.answer_ids(answer), vocabulary.end]) for system, prompt, answer in rows),
                   key=lambda pair: len(pair[0]) + len(pair[1]))
    cut = [pairs[start: start + course.batch_size] for start in range(0, len(pairs), course.batch_size)]
    numbers.shuffle(cut)
    return cut


@dataclass(frozen=True)
class Pretrained(Place):
    """The folder that pretraining makes.

    Attributes:
        make: a fresh network.
        vocabulary: texts to ids.
        course: how it is trained.
    """

    make: Callable[[], Any]
    vocabulary: Vocabulary
    course: Course

    def __str__(self) -> str:
        return "pretraining on this machine"

    def is_there(self) -> bool:
        """Always."""
        return True

    def fetch(self, scratch: Path) -> Path:
        """Train, and write the weights."""
        with torch.random.fork_rng(devices=[]), _one_thread():
            torch.manual_seed(self.course.seed)
            network = self.make()
            train(network, self.vocabulary, self.course)
        save_file({name: value for name, value in network.state_dict().items() if name != "lm_head.weight"},
                  scratch / WEIGHTS)
        return scratch


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums do not depend on the number of threads inside."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n)
