"""GCWM: merge in a metric shared by all experts, the more so the more their input geometries conflict.

For each linear layer, with updates Delta_i of weights w_i and their leading right singular vectors V_i and values S_i:

    Q = orth [V_1 ... V_m],    B_i = (Q^T V_i) diag(S_i^2) (Q^T V_i)^T + lambda I        projected geometry
    g = mean over pairs of d^2(B_i, B_j) / (tr B_i + tr B_j)                             conflict, in [0, 1]
    alpha = alpha_min + (alpha_max - alpha_min) sigmoid(kappa (g - tau))                 gate
    B = argmin_B sum_i w_i d^2(B, B_i),    F = Q B Q^T + lambda (I - Q Q^T)              shared metric
    M = alpha U({Delta_i F^{-1/2}}) F^{1/2} + (1 - alpha) U({Delta_i})                   merged update
    theta = theta_0 + eta M,

d being the Bures-Wasserstein distance and U the operator of WUDI (arXiv 2503.08099). A step of eta (M_t - M_{t-1})
an experience, as published, is the same as the last line. Wang et al., "Geometry Conflict: Explaining and Controlling
Forgetting in LLM Continual Post-Training", 2026, arXiv 2605.09608, section 4, appendix B and algorithm 1. alpha_min,
alpha_max, the skipped branches, lambda and the steps of U come from the released program alone.

`numerics=released` computes as that program does: roots floor eigenvalues at lambda = 1e-6, so small updates look
compatible. `exact` takes the conflict from singular values and lambda relative to the mean eigenvalue. At an absolute
learning rate of 1e-5 the whitened branch hardly moves from sum_i Delta_i, so the gate blends task arithmetic with WUDI.
The default rate is relative, a choice of ours: c rms(Delta) in the plain branch, c rms(Delta) (d / tr F)^{1/2} in the
whitened one, so that a step moves either result, in its own units, by about the share c. (A share of the whitened
updates' size would not do: F^{-1/2} enlarges what lies outside Q a thousandfold, and F^{1/2} would then enlarge such
steps within Q.) The profile of the program is `numerics=released lr_mode=absolute lr=1e-5 kappa=12
coefficient=0.2`. Ablations: `gate=none`, `metric=mean`, and plain WUDI with `alpha_min=0 alpha_max=0`.

What is no matrix (biases, normalisation, embeddings) stays at theta_0, as in the program; see `rest`. A head that all
experts train is averaged. Kernels are merged as matrices over patches, a reading of ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.fields import bounded, tunable
from cl_framework.geometry import conflict, layer_conflict
from cl_framework.merging import Layer, Merged, Totals
from cl_framework.models import Model
from cl_framework.spectra import leading_spectrum, projected_covariance, union_basis
from cl_framework.types import StreamInfo
from cl_framework.wasserstein import Metric, barycenter, bures_distance
from cl_framework.wudi import wudi

from ._experts import Experts, layers_of
from ._matrices import as_matrices, is_matrix


@dataclass(kw_only=True, eq=False)
class GCWM(Experts):
    """Merges in a Wasserstein barycenter's metric, gated by the conflict of geometries."""

    coefficient: float = tunable(0.3, 0.1, 0.2, 0.3, 0.5, 1.0, low=0.0)
    """The step eta. M begins at the sum of updates, so it plays the part of task arithmetic's coefficient; the paper
    has 0.1 for language models."""
    memory: Literal["all_history", "current_anchor"] = "all_history"
    """What is merged with the new update: the updates before it, or the last merged update in their place."""
    n_recent: int | None = bounded(None, low=1)
    """How many of the newest updates `all_history` merges; all where null."""
    numerics: Literal["exact", "released"] = "exact"
    """Formulas, or the released program's floors."""
    rank: int = tunable(16, 8, 16, 32, low=1)
    """Most singular vectors of an update."""
    energy: float = tunable(0.9, 0.9, 0.95, 0.99, low=0.0, high=1.0)
    """Share of an update's squared norm that its singular vectors must carry."""
    covariance: Literal["truncated", "full"] = "truncated"
    """Whether B_i is that of the leading vectors (algorithm 1) or of the whole update seen in Q (equation 3)."""
    ridge: float = bounded(1e-6, low=1e-12)
    """lambda: itself, or with exact numerics times the mean of tr B_i / q."""
    gate: Literal["sigmoid", "none"] = "sigmoid"
    """How alpha follows from the conflict; "none" is alpha = 1."""
    tau: float = tunable(0.12, 0.08, 0.12, 0.18, low=0.0, high=1.0)
    """The conflict at which the gate is half open."""
    kappa: float = tunable(10.0, 5.0, 10.0, 20.0, low=0.0)
    """Steepness of the gate."""
    alpha_min: float = bounded(0.15, low=0.0, high=1.0)
    """The gate at no conflict is a little above this."""
    alpha_max: float = bounded(0.95, low=0.0, high=1.0)
    """The gate never exceeds this."""
    skip: float = bounded(0.05, low=0.0, high=0.5)
    """A branch whose share is at most this is left out."""
    metric: Literal["barycenter", "mean"] = "barycenter"
    """The shared metric B: Wasserstein barycenter or arithmetic mean of the B_i."""
    n_metric_steps: int = bounded(50, low=1)
    """Most iterations of the barycenter."""
    damping: float = bounded(1.0, low=0.01, high=1.0)
    """Share of the new iterate of the barycenter."""
    n_steps: int = tunable(100, 50, 100, 200, 300, low=0)
    """Steps of WUDI's Adam a branch."""
    lr: float = tunable(1e-3, 3e-4, 1e-3, 3e-3, 1e-2, low=0.0)
    """Learning rate of Adam: absolute, or as a share c of the updates' root mean square."""
    lr_mode: Literal["absolute", "relative"] = "relative"
    """What `lr` is measured in."""
    old_weight: float = bounded(1.0, low=0.0)
    """Weight w of each update but the newest."""
    new_weight: float = bounded(1.0, low=1e-6)
    """Weight w of the newest update."""
    rest: Literal["frozen", "dropped", "mean"] = "frozen"
    """What is no matrix: not trained, trained and thrown away, or trained and averaged, whatever `coefficient` is.
    Where finished experts are merged, the first two are the same."""
    exclude: list[str] = field(default_factory=lambda: ["embed", "lm_head"])
    """Layers whose name contains one of these are no matrices; list depthwise convolutions here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha_min > self.alpha_max:
            raise ConfigError(f"GCWM.alpha_min must be at most alpha_max, got {self.alpha_min} and {self.alpha_max}; "
                              "lower alpha_min or raise alpha_max")

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Note what is not trained.

        Raises:
            ConfigError: nothing would be.
        """
        super().setup(model, info)
        layers = layers_of(model, ("body",))
        self._frozen = {layer.name for layer in layers
                        if self.rest == "frozen" and not is_matrix(layer, self.exclude)}
        if layers and len(self._frozen) == len(layers):
            raise ConfigError("gcwm merges the weights of linear and convolutional layers, and the body of this model "
                              "has none that strategy.exclude leaves; take rest=mean, or another strategy")

    def after_backward(self, model: Model) -> None:
        """An optimizer leaves what has no gradient as it is."""
        for name, param in model.named_parameters() if self._frozen else ():
            if name in self._frozen:
                param.grad = None

    @property
    def n_kept(self) -> int | None:
        """All or the newest updates; none where the merged one stands for them."""
        return 0 if self.memory == "current_anchor" else self.n_recent

    def factor(self, totals: Totals) -> float:
        """eta."""
        return self.coefficient

    def merge(self, layer: Layer, updates: Sequence[Tensor], totals: Totals) -> Merged:
        """One layer; figures are conflict, gate, rank of Q, norms, and how far the branches lie apart in the metric."""
        if not is_matrix(layer, self.exclude):
            return Merged(self._rest(layer, updates, totals))
        matrices = torch.stack([as_matrices(layer, update) for update in updates], 1)
        merged, notes = zip(*[self._matrix(each) for each in matrices], strict=True)
        said = {key: [note[key] for note in notes if key in note] for key in {key for note in notes for key in note}}
        return Merged(torch.stack(merged).view_as(updates[0]),
                      {key: sum(values) / len(values) for key, values in sorted(said.items())})

    def _rest(self, layer: Layer, updates: Sequence[Tensor], totals: Totals) -> Tensor:
        """Nothing, or the mean of all experts, divided by eta, with which it will be multiplied."""
        if self.coefficient == 0 or (self.rest != "mean" and not layer.name.startswith("head.")):
            return torch.zeros_like(updates[0])
        if self.memory == "all_history":
            return torch.stack([*updates]).mean(0) / self.coefficient
        new = updates[-1] / self.coefficient
        return torch.lerp(updates[0], new, 1 / (totals.n_experts + 1)) if totals.n_experts else new

    def _matrix(self, updates: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The merged update [p, d] of updates [m, p, d], and figures about it."""
        weights = [self.old_weight] * (len(updates) - 1) + [self.new_weight]
        spectra = [leading_spectrum(update, self.rank, self.energy) for update in updates]
        basis = union_basis(spectra)
        factors = [update.double() @ basis for update in updates] if self.covariance == "full" else \
                  [spectrum.factor @ basis for spectrum in spectra]
        score = self._conflict(factors, weights)
        alpha = self._gate(score)
        notes = {"conflict": score, "gate": alpha, "union_rank": float(basis.shape[1])}
        if alpha <= self.skip or basis.shape[1] == 0:
            plain = self._operator(updates, weights, self.lr)
            return plain, notes | _norms({"plain": plain, "merged": plain})
        metric = self._metric(factors, basis, weights)
        geometric = self._geometric(updates, metric, weights)
        if alpha >= 1 - self.skip:
            return geometric, notes | _norms({"geometric": geometric, "merged": geometric})
        plain = self._operator(updates, weights, self.lr)
        merged = torch.lerp(plain, geometric, alpha)
        displacement = float(metric.norm((geometric - plain).double()))
        return merged, notes | {"displacement": displacement} | _norms(
            {"plain": plain, "geometric": geometric, "merged": merged})

    def _conflict(self, factors: Sequence[Tensor], weights: Sequence[float]) -> float:
        """g of factors [., q]."""
        n = len(factors)
        table = torch.zeros(n, n, dtype=torch.float64)
        identity = torch.eye(factors[0].shape[1]).to(factors[0])
        for i in range(n):
            for j in range(i):
                if self.numerics == "exact":
                    table[j, i] = conflict(factors[i], factors[j])
                else:
                    a, b = (projected_covariance(factors[k], identity, self.ridge) for k in (i, j))
                    table[j, i] = bures_distance(a, b, self.ridge) / (a.trace() + b.trace() + self.ridge)
        return layer_conflict(table, weights)

    def _gate(self, score: float) -> float:
        """alpha of g."""
        if self.gate == "none":
            return 1.0
        opening = (1 + math.tanh(self.kappa * (score - self.tau) / 2)) / 2
        return self.alpha_min + (self.alpha_max - self.alpha_min) * opening

    def _metric(self, factors: Sequence[Tensor], basis: Tensor, weights: Sequence[float]) -> Metric:
        """The shared metric of factors [., q] in a basis [d, q]."""
        identity = torch.eye(basis.shape[1]).to(basis)
        floor = 0.0 if self.numerics == "exact" else self.ridge
        energies = [float(factor.square().sum()) for factor in factors]
        ridge = floor or self.ridge * sum(energies) / len(energies) / basis.shape[1]
        covariances = [projected_covariance(factor, identity, ridge) for factor in factors]
        if self.metric == "mean":
            shared = sum((w * c for w, c in zip(weights, covariances, strict=True)), 0 * identity) / sum(weights)
        else:
            shared = barycenter(covariances, weights, floor=floor, n_steps=self.n_metric_steps, damping=self.damping)
        return Metric.of(shared, basis, ridge, floor)

    def _geometric(self, updates: Tensor, metric: Metric, weights: Sequence[float]) -> Tensor:
        """U({Delta_i F^{-1/2}}) F^{1/2} of updates [m, p, d]."""
        whitened = metric.whitened(updates.double())
        share = updates.double().square().mean() / whitened.square().mean() * updates.shape[-1] / metric.trace
        lr = self.lr if self.lr_mode == "absolute" else self.lr * math.sqrt(float(share))
        return metric.recoloured(self._operator(whitened.to(updates.dtype), weights, lr).double()).to(updates.dtype)

    def _operator(self, updates: Tensor, weights: Sequence[float], lr: float) -> Tensor:
        """U of updates [m, p, d]."""
        return wudi(updates, weights, n_steps=self.n_steps, lr=lr, is_relative=self.lr_mode == "relative")


def _norms(branches: Mapping[str, Tensor]) -> dict[str, float]:
    """Frobenius norms of a layer's branches."""
    return {f"{name}_norm": float(torch.linalg.matrix_norm(value)) for name, value in branches.items()}
