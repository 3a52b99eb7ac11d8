"""How long strategy=gcwm takes to merge 5 experts of the shapes of MiniLM-L6 (22.7 M parameters), on one thread.

Six blocks, each with four linear layers of 384 x 384, one of 1536 x 384 and one of 384 x 1536, are merged; embeddings
(30522 + 512 + 2 rows of 384) stay at the base. Updates are synthetic: random bases with singular values k^-0.7, of the
size of fine-tuning. The target is 3 minutes of the processor for the whole merge: less than two idle cores have in
that time. Times are those of the processor, which other processes hardly lengthen.

Beside it the algorithm as it is written is timed on one layer of each shape, with 20 steps of Adam: full singular value
decompositions, dense matrix roots of d_in x d_in, and gradients by autograd. Both forms compute the same. In float64
they may differ by 1e-4 of what the operator moves: Adam divides by the size of gradients, also of small ones, and
changing the last bits of the inputs moves the form as written by 2e-5. In float32 rounding leaves about 1 % of that.

Beside that stand the products and decompositions that the thin form cannot do without, and nothing else: the Gram
matrix of each update and its eigenvectors in float64, the singular value decompositions of the basis and of the
barycenter's iterations, as many as it takes, for either branch the Hessian and the constant of the gradient, and for
each of its steps one product and torch's fused Adam. A merge of a layer should take at most 1.3 of their time.

Memory is that of `clf merge` as in merging_speed.py: models of 8 layers of 768 x 3072 are merged from files, 2 experts
and 6, each in a process of its own. With `memory=current_anchor` the target is that four more experts take less than
half a model more. `all_history` reads a layer of all experts at once; it is measured beside it, and has no target. Few
steps of Adam are taken, as their number changes the time alone.

    python benchmarks/gcwm_speed.py

It writes runs/reference/gcwm_speed.json.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from merging_speed import FEW, MANY, MEMORY_TARGET, N_LAYERS, WATCH, write_models
from torch import Tensor, nn

from cl_framework.files import write_json
from cl_framework.merging import Layer, Merger, Totals
from cl_framework.runs import git_commit
from cl_framework.strategies.gcwm import GCWM
from cl_framework.wasserstein import barycenter
from cl_framework.wudi import wudi

RECORD = Path(__file__).resolve().parent.parent / "runs" / "reference" / "gcwm_speed.json"
TARGET_SECONDS = 180.0
BOUND = 1e-4
ARITHMETIC_TARGET, REPEATS = 1.3, 5
N_EXPERTS, N_BLOCKS, COMPARED_STEPS, MEMORY_STEPS = 5, 6, 20, 2
WIDTH, HIDDEN, N_VECTORS = 384, 1536, 30522 + 512 + 2
BLOCK = {"query": (WIDTH, WIDTH), "key": (WIDTH, WIDTH), "value": (WIDTH, WIDTH), "output": (WIDTH, WIDTH),
         "up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN)}


def layers() -> list[Layer]:
    """Embeddings, and six blocks of linear layers."""
    return [Layer(name="body.embeddings.weight"), *(Layer(name=f"body.{i}.{name}.weight", kind="linear")
                                                    for i in range(N_BLOCKS) for name in BLOCK)]


def synthetic(shape: tuple[int, int], draw: torch.Generator) -> Tensor:
    """U diag(k^-0.7) V^T of norm 0.5."""
    k = min(shape)
    left, right = (torch.linalg.qr(torch.randn(n, k, generator=draw)).Q for n in shape)
    values = torch.arange(1, k + 1).float() ** -0.7
    return 0.5 * (left * (values / values.norm())) @ right.mT


def expert(seed: int) -> dict[str, Tensor]:
    """One expert's update."""
    draw = torch.Generator().manual_seed(seed)
    update = {f"body.{i}.{name}.weight": synthetic(shape, draw) for i in range(N_BLOCKS)
              for name, shape in BLOCK.items()}
    return update | {"body.embeddings.weight": 1e-3 * torch.randn(N_VECTORS, WIDTH, generator=draw)}


def plain_operator(updates: Tensor, n_steps: int, lr: float) -> Tensor:
    """Adam from the sum, on the loss as it is written."""
    x = nn.Parameter(updates.sum(0))
    optimizer = torch.optim.Adam([x], lr=lr, eps=1e-8 * lr)
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss = sum((((x - update) @ update.mT).square().sum() / update.square().sum() for update in updates),
                   torch.zeros(()))
        loss.backward()
        optimizer.step()
    return x.detach()


def as_written(rule: GCWM, updates: Tensor) -> Tensor:
    """Algorithm 1 with full decompositions and dense roots."""
    kept = []
    for update in updates.double():
        _, values, vectors = torch.linalg.svd(update, full_matrices=True)
        share = values.square().cumsum(0) / values.square().sum()
        r = min(rule.rank, int((share < rule.energy).sum()) + 1)
        kept.append((vectors[:r].mT, values[:r]))
    basis = torch.linalg.qr(torch.cat([vectors for vectors, _ in kept], 1)).Q
    inner = [(basis.mT @ v * s.square()) @ (basis.mT @ v).mT for v, s in kept]
    ridge = rule.ridge * float(sum(b.trace() for b in inner)) / len(inner) / basis.shape[1]
    identity = torch.eye(basis.shape[1]).double()

    def root(matrix: Tensor, exponent: float = 0.5) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        result: Tensor = (vectors * values.clamp_min(0) ** exponent) @ vectors.mT
        return result

    conflicts = []
    for i in range(len(inner)):
        for j in range(i):
            half, total = root(inner[i]), float(inner[i].trace() + inner[j].trace())
            conflicts.append((total - 2 * float(root(half @ inner[j] @ half).trace())) / total)
    score = sum(conflicts) / len(conflicts)
    alpha = rule.alpha_min + (rule.alpha_max - rule.alpha_min) / (1 + math.exp(-rule.kappa * (score - rule.tau)))
    shared = barycenter([b + ridge * identity for b in inner], [1.0] * len(inner))
    full = basis @ shared @ basis.mT + ridge * (torch.eye(len(basis)).double() - basis @ basis.mT)
    lr = rule.lr * float(updates.square().mean().sqrt())
    whitened = (updates.double() @ root(full, -0.5)).to(updates)
    geometric = plain_operator(whitened, rule.n_steps, lr * math.sqrt(len(full) / float(full.trace())))
    return torch.lerp(plain_operator(updates, rule.n_steps, lr), (geometric.double() @ root(full)).to(updates), alpha)


def arithmetic(updates: Tensor, n_steps: int, shapes: Sequence[torch.Size]) -> Tensor:
    """What cannot be left out of a merge with both branches; what it makes is no merge.

    Args:
        updates: [m, p, d].
        n_steps: of Adam.
        shapes: of the matrices whose singular value decomposition is taken in float64.
    """
    for shape in shapes:
        torch.linalg.svd(torch.rand(shape, dtype=torch.float64), full_matrices=False)
    for wide in updates.double():
        torch.linalg.eigh(wide @ wide.mT if wide.shape[0] < wide.shape[1] else wide.mT @ wide)
    total, made = updates.sum(0), torch.zeros_like(updates[0])
    for _ in ("plain", "geometric"):
        constant, hessian = torch.zeros_like(total), updates.new_zeros(total.shape[1], total.shape[1])
        for update in updates:
            own = update.mT @ update
            constant.addmm_(total - update, own)
            hessian += own
        offset = nn.Parameter(torch.zeros_like(total))
        optimizer = torch.optim.Adam([offset], lr=1e-5, fused=True)
        for _ in range(n_steps):
            offset.grad = torch.addmm(constant, offset.detach(), hessian)
            optimizer.step()
        made += offset.detach()
    return made


def over_arithmetic(name: str, experts: list[dict[str, Tensor]]) -> dict[str, float]:
    """How many times longer one layer takes than its unavoidable arithmetic, in turns."""
    rule, layer = GCWM(), Layer(name=f"body.0.{name}.weight", kind="linear")
    updates = [each[layer.name] for each in experts]
    stacked, ratios, shapes = torch.stack(updates), list[float](), list[torch.Size]()

    def noted(matrix: Tensor, **options: Any) -> Any:
        shapes.append(matrix.shape)
        return svd(matrix, **options)

    svd = torch.linalg.svd
    with patch("torch.linalg.svd", noted):
        rule.merge(layer, updates, Totals())
    for _ in range(REPEATS):
        ours, _ = seconds(lambda: rule.merge(layer, updates, Totals()).update)
        ratios.append(ours / seconds(lambda: arithmetic(stacked, rule.n_steps, shapes))[0])
    return {"median": round(median(ratios), 3), "lowest": round(min(ratios), 3), "highest": round(max(ratios), 3)}


def seconds(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Processor time, and what was made."""
    start = time.process_time()
    made = work()
    return time.process_time() - start, made


def beside(name: str, experts: list[dict[str, Tensor]]) -> dict[str, object]:
    """One layer in both forms: seconds, and in either precision their distance as a share of that from the sum of
    updates."""
    rule, layer = GCWM(n_steps=COMPARED_STEPS), Layer(name=f"body.0.{name}.weight", kind="linear")
    updates = [each[layer.name] for each in experts]
    ours_seconds, ours = seconds(lambda: rule.merge(layer, updates, Totals()).update)
    plain_seconds, theirs = seconds(lambda: as_written(rule, torch.stack(updates)))
    n = N_BLOCKS * sum(shape == BLOCK[name] for shape in BLOCK.values())
    rounded = apart(ours, theirs, updates)
    updates = [update.double() for update in updates]
    exact = apart(rule.merge(layer, updates, Totals()).update, as_written(rule, torch.stack(updates)), updates)
    return {"shape": BLOCK[name], "layers": n, "seconds": round(ours_seconds, 2),
            "as_written_seconds": round(plain_seconds, 2), "ratio": round(plain_seconds / ours_seconds, 2),
            "difference_float32": rounded, "difference": exact, "is_within_bound": exact < BOUND,
            "over_arithmetic": over_arithmetic(name, experts)}


def apart(ours: Tensor, theirs: Tensor, updates: list[Tensor]) -> float:
    """Distance of two merges as a share of the distance from the sum of updates."""
    return float((ours - theirs).norm() / (ours - sum(updates)).norm())


def batched(experts: list[dict[str, Tensor]]) -> Mapping[str, float]:
    """Ten steps of the operator on six layers of 384 x 384: one after the other, and side by side."""
    stacked = torch.stack([torch.stack([each[f"body.{i}.query.weight"] for i in range(N_BLOCKS)]) for each in experts])
    alone, _ = seconds(lambda: torch.stack([wudi(stacked[:, i], n_steps=10) for i in range(N_BLOCKS)]))
    together, _ = seconds(lambda: wudi(stacked, n_steps=10))
    return {"one_by_one_seconds": round(alone, 3), "side_by_side_seconds": round(together, 3)}


def peak_bytes(folder: Path, n_experts: int, memory: str) -> int:
    """The largest resident set of a `clf merge` of its own (Linux, where it is counted in KiB)."""
    experts = ",".join(f"{i}.safetensors" for i in range(n_experts))
    merge = [sys.executable, "-m", "cl_framework.cli", "merge", "base=base.safetensors", f"experts={experts}",
             "method=gcwm", f"memory={memory}", f"n_steps={MEMORY_STEPS}", "out=merged.safetensors"]
    done = subprocess.run([sys.executable, "-c", WATCH, *merge], cwd=folder, stdout=subprocess.PIPE, text=True,
                          check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return int(done.stdout) * 1024


def peaks() -> dict[str, object]:
    """Peak memory with few and with many experts, for both kinds of memory."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_models(Path(folder), N_LAYERS)
        found = {memory: {str(n): peak_bytes(Path(folder), n, memory) for n in (FEW, MANY)}
                 for memory in ("current_anchor", "all_history")}
    more = {memory: (peak[str(MANY)] - peak[str(FEW)]) / model for memory, peak in found.items()}
    return {"layers": N_LAYERS, "model_bytes": model, "steps": MEMORY_STEPS, "peak_bytes": found,
            "more_models": {memory: round(value, 3) for memory, value in more.items()}, "target": MEMORY_TARGET,
            "is_within_target": more["current_anchor"] <= MEMORY_TARGET}


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    memory = peaks()
    experts = [expert(seed) for seed in range(N_EXPERTS)]
    rows = [beside(name, experts) for name in ("query", "up", "down")]
    one_shape = batched(experts)
    rule = GCWM()
    merger, started, processor = Merger(rule, layers()), time.perf_counter(), time.process_time()
    merger.absorb(experts)
    wall, busy = time.perf_counter() - started, time.process_time() - processor
    result = {"command": "python benchmarks/gcwm_speed.py", "git_commit": git_commit(), "torch": torch.__version__,
              "python": platform.python_version(), "threads": 1, "memory": memory,
              "experts": N_EXPERTS, "parameters": sum(value.numel() for value in experts[0].values()),
              "steps": rule.n_steps, "seconds": round(busy, 1), "wall_seconds": round(wall, 1),
              "target_seconds": TARGET_SECONDS, "is_within_target": busy <= TARGET_SECONDS,
              "arithmetic_target": ARITHMETIC_TARGET,
              "compared_steps": COMPARED_STEPS, "bound": BOUND, "cases": rows, "layers_of_one_shape": one_shape,
              "notes": merger.notes}
    print(json.dumps(result, indent=2))
    write_json(RECORD, result)


if __name__ == "__main__":
    main()
