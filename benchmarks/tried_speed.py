"""What was tried to make a small step faster: sizes of the Learner's chunks, forms of the optimizer.

    python benchmarks/tried_speed.py              # writes runs/reference/tried_speed.json

The network of the throughput table at batch 10. Chunks are of the whole framework, over the size that it has;
optimizers are of a bare loop, over the fused form that it and ours use.
"""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import torch
import torch.nn.functional as F
from throughput import LR, Case
from timing import clocked, in_turns, ratio, write

from cl_framework import train_calls
from cl_framework.models import MLP

CHUNKS, N_ROWS, REPEATS = (1, 4, 16, 64, 256), 6_000, 7
FORMS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "plain": {"foreach": False}}


def of_chunk(case: Case, size: int) -> float:
    """An epoch with chunks of another size."""
    usual = train_calls.CHUNK
    train_calls.CHUNK = size
    try:
        return case.ours()
    finally:
        train_calls.CHUNK = usual


def with_form(case: Case, form: dict[str, bool]) -> float:
    """A bare epoch with a form of SGD."""
    model = case.model().train()
    optimizer = torch.optim.SGD(model.parameters(), LR, **form)

    def epoch() -> None:
        for rows in torch.randperm(case.n_rows).split(case.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(model.preprocess(case.raw[rows])).logits, case.y[rows]).backward()
            optimizer.step()

    return clocked(epoch)


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    case = Case("mlp 784-100-100-10", MLP(hidden=[100, 100]), (1, 28, 28), "none", 10, N_ROWS, REPEATS, "cpu")
    chunks = in_turns({str(size): lambda size=size: of_chunk(case, size) for size in CHUNKS}, REPEATS)
    forms = in_turns({name: lambda form=form: with_form(case, form) for name, form in FORMS.items()}, REPEATS)
    usual = str(train_calls.CHUNK)
    write("tried_speed", {"case": case.name, "batch_size": case.batch_size, "chunk": train_calls.CHUNK,
                          "chunks": {size: ratio(chunks, size, usual) for size in chunks},
                          "optimizers": {name: ratio(forms, name, "fused") for name in forms}})


if __name__ == "__main__":
    main()
