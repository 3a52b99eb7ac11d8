"""PSMT: a mean teacher that keeps its crucial weights, on unlabelled streams and, adapted, on labelled ones.

Tian & Lyu, "Parameter-Selective Continual Test-Time Adaptation", ACCV 2024, arXiv 2407.02253. For each unlabelled
batch the teacher theta' answers with z_t and the student theta with z_s; the answer is z_t + z_s. `variant=paper`
takes a step of

    L = -(1/B) sum_b sum_c p_c(z_t) log p_c(z_s) + lambda sum_i F_i (theta_i - A_i)^2,
    theta' <- m theta' + (1 - m) e,    e = a theta' + (1 - a) theta,    m_i = 1[f_i > Q_{1 - rho}(f)],

f being the squared gradient of the first term, z_t the mean over views, A the student one batch earlier and F the f of
that batch (momentum `fisher_momentum`): a brake on the last displacement. `variant=release` is what the authors' code
does: SCE for the first term, no views, A the source and F its batch-Fisher on source rows, f of the whole loss, and the
least sensitive weights, m_i = 1[f_i < Q_rho(f)], go back to the source:

    theta' <- e,    theta <- m theta_0 + (1 - m) theta,    theta' <- m theta + (1 - m) e,

e with the weights of the moment.

The paper's factor 1/C of the first term is left out (`has_class_factor=true` puts it back). Where the paper is silent,
the answer is the released sum, only weights and biases learn, networks normalise with the statistics of the batch (also
on held-out rows), and nothing is reset. Released views and their confidence gate have no effect, and are left out.

`variant=supervised` is *our adaptation* to labelled experiences; no number from it is a result of the paper:

    L = CE(z_s, y) + kappa SCE(z_s[old], z_t[old]) + lambda sum_i F_i (theta_i - A_i)^2,

SCE over the classes seen before the experience, A the student at the end of the last experience, F the mean over
experiences of their batch-Fisher: the squared gradient of a batch's mean loss, labels the student's own answers, in
eval mode. The first experience has neither of the last two terms. The teacher moves as in the paper, and answers.
Choices:

- *Scale of F* (all variants). A batch's Fisher shrinks like 1/B, and the release sets lambda = 500 at B = 200. A batch
  of B rows counts B/200 times its squared gradient, which amounts to lambda B/200 and holds for a short last one too.
- *New is free.* Rows of the head for new classes are copied from the student when the experience begins, are in no
  penalty and no mask, and follow it with momentum min(a, 1 - 1/(n + 1)) at step n = 0, 1, ...: the mean of the
  student's weights so far, later the running one. In the first experience everything is new in this
  sense: a mask would freeze weights at their random start.
- *f* is the gradient that the optimizer sees before clipping, the penalty's share included.
- Running statistics of normalisation layers are averaged like weights that are never crucial.

Ablations: `selected_fraction=0 penalty_strength=0` is a plain mean teacher; `selected_fraction=0` the Fisher-weighted
anchor alone and `penalty_strength=0` the selective average alone (supervised: with `kappa=0`); `mask=crucial` or
`mask=least` turns the direction around.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.fields import bounded, told, tunable
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Inputs, Need, Output, StreamInfo

from ._adaptation import several_rows, unlabelled
from ._psmt_labelled import LabelledPSMT, LabelledRules
from ._psmt_stream import Rules, StreamPSMT
from ._psmt_variants import faults_of_variant
from ._statistics import BESIDE


@dataclass(kw_only=True, eq=False)
class PSMT(Strategy):
    """Trains a student; a teacher averages all but its crucial weights, and answers."""

    neutral: ClassVar[Mapping[str, object]] = {"kappa": 0.0, "penalty_strength": 0.0, "predict_with": "student"}

    variant: Literal["supervised", "paper", "release"] = told("supervised")
    """Which form: the adaptation to labelled experiences, or the paper's or its release's on an unlabelled stream."""
    kappa: float = tunable(1.0, 0.1, 0.3, 1.0, 3.0, low=0.0)
    """Weight of the teacher's answer on the old classes, of `supervised`."""
    penalty_strength: float = tunable(500.0, 50.0, 500.0, 5000.0, low=0.0)
    """Strength lambda of the penalty, for a batch-Fisher of 200 rows."""
    momentum: float | None = tunable(None, 0.9, 0.99, 0.999, low=0.0, high=1.0)
    """Momentum a of the teacher; null is 0.999, and for the first 2000 steps of a labelled experience 0.99."""
    selected_fraction: float = tunable(0.03, 0.0, 0.01, 0.03, 0.1, 0.3, low=0.0, high=1.0)
    """Fraction rho of weights that a step selects."""
    mask: Literal["auto", "crucial", "least"] = "auto"
    """Select the weights with the largest squared gradients, or the smallest; auto is least of `release` alone."""
    mask_scope: Literal["global", "layer"] = "global"
    """One quantile over all weights, or one for each parameter."""
    predict_with: Literal["auto", "teacher", "student", "sum"] = "auto"
    """Who answers; auto is the sum of both, and the teacher of `supervised`."""
    n_samples: int = bounded(10_000, low=1)
    """Rows of an experience, or of the source, on which a batch-Fisher is measured."""
    fisher_batch_size: int = bounded(200, low=1)
    """Rows of one batch of that batch-Fisher."""
    lr: float = bounded(1e-3, low=0.0)
    """Learning rate on an unlabelled stream; `train.lr` is that of a labelled one. So for the fields below."""
    update_rule: Literal["adam", "sgd", "nesterov"] = "adam"
    """Update rule; nesterov is sgd that looks ahead."""
    beta: float = bounded(0.9, low=0.0, high=0.999)
    """beta_1 of Adam, momentum of sgd and nesterov."""
    weight_decay: float = bounded(0.0, low=0.0)
    """Weight decay of these updates."""
    n_steps: int = bounded(1, low=1)
    """Steps on each batch."""
    consistency: Literal["auto", "cross_entropy", "symmetric"] = "auto"
    """The student's distance from the teacher; auto is symmetric of `release` alone."""
    has_class_factor: bool = False
    """Divide the cross-entropy by the number of classes."""
    anchor: Literal["auto", "previous", "segment", "source"] = "auto"
    """A: the student one batch earlier, at the start of a segment, or the source; auto is source of `release` alone."""
    segment: int = bounded(50, low=1)
    """Batches of a segment."""
    fisher: Literal["auto", "previous", "source", "stream"] = "auto"
    """F: of the batches so far, of source rows before the stream, or of the stream's first batches with the student's
    own answers as labels, where there are no source rows; auto is source of `release` alone."""
    fisher_momentum: float = bounded(0.0, low=0.0, high=1.0)
    """How much of F stays with each batch, of `fisher=previous`."""
    n_fisher_batches: int = bounded(10, low=1)
    """Batches that F is measured on, of `fisher=stream`."""
    n_views: int | None = bounded(None, low=0)
    """Views that the teacher's logits are averaged over; 0 shows it the batch as it is. Null is 32, of `release` 0."""
    confidence_gate: float | None = bounded(None, low=0.0, high=1.0)
    """Views only where the source's mean confidence is below this (CoTTA: 0.92); null always."""
    statistics: Literal["batch", "source"] = "batch"
    """With which statistics batch normalisation works."""

    def __post_init__(self) -> None:
        super().__post_init__()
        faults = faults_of_variant(self, self.variant)
        if faults:
            raise ConfigError(faults)
        if self.variant == "supervised":
            return
        asks_source = self._rules().fisher == "source" and self.penalty_strength > 0
        self.needs = frozenset({Need.UNLABELLED, *([Need.SOURCE_DATA] if asks_source else [])})  # type: ignore[misc]
        if self.statistics == "batch":
            self.known_failures = BESIDE  # type: ignore[misc]

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Take the form that the variant has. There is no teacher of a labelled stream yet; on an unlabelled one it is
        a copy of the model."""
        if self.variant == "supervised":
            self._form: Strategy = LabelledPSMT(self._labelled_rules(), info)
            return
        unlabelled(f"psmt with variant={self.variant}", info)
        if self.statistics == "batch":
            several_rows("psmt", info)
        self._form = StreamPSMT(self._rules(), model, info, is_measured=Need.SOURCE_DATA in self.needs)

    def before_experience(self, model: Model, experience: Experience) -> None:
        """The teacher's head gets the student's rows for new classes. An unlabelled stream begins with the batch-Fisher
        of source rows, and learns nothing more from boundaries."""
        self._form.before_experience(model, experience)

    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """The logits before the step, and on an unlabelled stream the step of student and teacher."""
        return self._form.adapt(model, x)

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """Agreement with the teacher on old classes, and the anchor."""
        return self._form.penalty(model, batch, output)

    def after_backward(self, model: Model) -> None:
        """Choose which weights the teacher takes over from this step."""
        self._form.after_backward(model)

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Move the teacher."""
        self._form.after_step(model, batch, output)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Anchor the student, and merge the experience's batch-Fisher into the mean."""
        self._form.after_experience(model, experience)

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """The teacher's logits, the student's, or their sum."""
        return self._form.predict(model, x, task)

    def metrics(self) -> Mapping[str, float]:
        """Bytes of teacher, Fisher and anchor; of an unlabelled stream also the mean entropy of the answers and the
        part of weights that a step selects."""
        return self._form.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Teacher, Fisher, anchor, counts and generators."""
        return self._form.state_dict()

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._form.load_state_dict(model, state)

    def _labelled_rules(self) -> LabelledRules:
        """The fields that a labelled stream reads, with their defaults filled in."""
        return LabelledRules(
            kappa=self.kappa, penalty_strength=self.penalty_strength, momentum=self.momentum,
            selected_fraction=self.selected_fraction, mask=self._rules().mask, mask_scope=self.mask_scope,
            answer="teacher" if self.predict_with == "auto" else self.predict_with, n_samples=self.n_samples,
            fisher_batch_size=self.fisher_batch_size)

    def _rules(self) -> Rules:
        """The fields with the defaults of the variant filled in."""
        is_release = self.variant == "release"
        auto: Any = {"mask": "least" if is_release else "crucial", "anchor": "source" if is_release else "previous",
                     "fisher": "source" if is_release else "previous", "predict_with": "sum",
                     "consistency": "symmetric" if is_release else "cross_entropy"}
        chosen: Any = {name: own if own != "auto" else auto[name] for name, own in (
            ("mask", self.mask), ("anchor", self.anchor), ("fisher", self.fisher), ("consistency", self.consistency),
            ("predict_with", self.predict_with))}
        return Rules(
            is_restored=is_release, sees_penalty=is_release, is_symmetric=chosen["consistency"] == "symmetric",
            mask=chosen["mask"], anchor=chosen["anchor"], fisher=chosen["fisher"], answer=chosen["predict_with"],
            momentum=0.999 if self.momentum is None else self.momentum, segment=self.segment,
            n_views=self.n_views if self.n_views is not None else 0 if is_release else 32,
            fisher_momentum=self.fisher_momentum, n_fisher_batches=self.n_fisher_batches, n_samples=self.n_samples,
            fisher_batch_size=self.fisher_batch_size, penalty_strength=self.penalty_strength,
            selected_fraction=self.selected_fraction, mask_scope=self.mask_scope,
            confidence_gate=self.confidence_gate, has_class_factor=self.has_class_factor, statistics=self.statistics,
            update_rule=self.update_rule, lr=self.lr, beta=self.beta, weight_decay=self.weight_decay,
            n_steps=self.n_steps)
