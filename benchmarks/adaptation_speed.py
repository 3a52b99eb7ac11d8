"""What a step of test-time adaptation costs beyond its unavoidable passes.

A step of `psmt` cannot do without a forward pass of the teacher, one of the student, and a backward pass. This measures
whole steps against these passes alone, in turn and in one process on one thread of the processor, and prints the
median of the paired ratios; the target is 1.3 at most.

    python benchmarks/adaptation_speed.py         # writes runs/reference/adaptation_speed.json

Another file is the first argument.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from cl_framework.files import write_json
from cl_framework.models import CNN, Architecture
from cl_framework.protocol import build_model
from cl_framework.resnets import SlimResNet18
from cl_framework.strategies._adaptation import batch_logits
from cl_framework.strategies._teacher import frozen_copy
from cl_framework.strategies.psmt import PSMT
from cl_framework.types import StreamInfo

RECORD = Path(__file__).resolve().parent.parent / "runs" / "reference" / "adaptation_speed.json"
TARGET = 1.3
STEPS = {"paper, no view": PSMT(variant="paper", n_views=0), "paper, one view": PSMT(variant="paper", n_views=1),
         "release": PSMT(variant="release", fisher="stream", n_fisher_batches=1)}


@dataclass(frozen=True)
class Case:
    """A network and a batch of images."""

    name: str
    architecture: Architecture
    batch_size: int
    repeats: int

    def measure(self) -> list[dict[str, object]]:
        """A row for each form of the step."""
        info = StreamInfo(n_experiences=1, n_classes=10, input_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3,
                          is_labelled=False, batch_size=self.batch_size)
        images = torch.rand(self.batch_size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        x = (images - 0.5) / 0.25
        return [{"case": self.name, "batch_size": self.batch_size, "step": name, **self._ratio(step, info, x)}
                for name, step in STEPS.items()]

    def _ratio(self, strategy: PSMT, info: StreamInfo, x: torch.Tensor) -> dict[str, object]:
        model = build_model(self.architecture, info, 0)
        model.observe(range(10))
        model.eval()
        strategy.setup(model, info)
        teacher = frozen_copy(model)

        def passes() -> None:
            with torch.no_grad():
                target = batch_logits(teacher, x).softmax(1)
            (target * batch_logits(model, x).log_softmax(1)).sum().backward()
            model.zero_grad()

        def step() -> None:
            strategy.adapt(model, x)

        pairs = [(seconds(step), seconds(passes)) for _ in range(self.repeats + 1)][1:]
        ratios = sorted(whole / least for whole, least in pairs)
        return {"repeats": self.repeats, "milliseconds_of_passes": round(1000 * median(least for _, least in pairs), 2),
                "median_ratio": round(median(ratios), 3), "lowest_ratio": round(ratios[0], 3),
                "highest_ratio": round(ratios[-1], 3), "is_within_target": median(ratios) <= TARGET}


def seconds(work: Callable[[], None]) -> float:
    """Processor time of a piece of work, which other processes do not lengthen."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main(path: Path) -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    rows = [row for case in (Case("cnn", CNN(), 200, 9), Case("slim_resnet18", SlimResNet18(), 200, 5))
            for row in case.measure()]
    result = {"torch": torch.__version__, "python": platform.python_version(), "target": TARGET, "cases": rows}
    print(json.dumps(result, indent=2))
    write_json(path, result)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORD)
