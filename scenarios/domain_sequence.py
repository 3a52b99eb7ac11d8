"""Several data sets of one shape and number of classes, one after the other under the same labels.

Literature: Bulatov, notMNIST dataset, 2011 (A to J in the shape of MNIST); Ebrahimi et al., Adversarial continual
learning, ECCV 2020, section 5 (a sequence of five data sets).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cl_framework import ConfigError, Phase

from ._cut import Labelled
from ._domains import Domains, registered


@dataclass(kw_only=True)
class DomainSequence(Domains):
    """Each data set is an experience; label i is its i-th class.

    Mean and deviation are those of the first data set of the order, as later rows are the future.

    Literature: Ebrahimi et al., ECCV 2020, section 5; van de Ven and Tolias, arXiv 1904.07734.
    """

    sources: list[str] = field(default_factory=lambda: ["mnist", "fashion_mnist", "glyphs_letters"])
    """Data sets that `clf data` lists, in their natural order; rows of one shape, and equally many classes."""

    def domains(self, phase: Phase) -> Mapping[str, Labelled]:
        """One data set after the other."""
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise ConfigError(f"scenario.sources={self.sources} must name at least one data set, and none twice")
        domains = {name: registered(name) for name in self.sources}
        kinds = {name: (tuple(data.images.train_x.shape[1:]), len(data.class_names)) for name, data in domains.items()}
        if len(set(kinds.values())) > 1:
            found = ", ".join(f"{name} {shape} with {n_classes} classes" for name, (shape, n_classes) in kinds.items())
            raise ConfigError("scenario.sources must have rows of one shape and equally many classes; these are "
                              f"{found}")
        return domains
