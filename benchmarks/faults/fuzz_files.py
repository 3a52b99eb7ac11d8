"""Files that are nearly right: valid ones of every kind that is read, spoiled in their bytes or in what they say.

    python benchmarks/faults/fuzz_files.py                 # the next thousand seeds
    python benchmarks/faults/fuzz_files.py 0..19999

A reader may take a file or refuse it in a sentence; what a data set's reader says of a file that is not there, its
source tells the user. Digests inside files and in their names are made to fit again, else nothing behind them would be
tried. The counts are kept in runs/reference/fuzz_files.json.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

from data_targets import data_targets, weight_targets
from fuzzing import Watch, run
from record_targets import other_targets, record_targets
from target import Target

from cl_framework.errors import ClfError


def fuzzer(folder: Path) -> Callable[[Watch, int], None]:
    """Prepare the readers in a folder; what tries one seed."""
    os.environ |= {"CLF_DATA": str(folder / "cache"), "CLF_OFFLINE": "1"}
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    found = [*data_targets(folder), *weight_targets(folder), *record_targets(folder), *other_targets(folder)]
    for target in found:  # what is valid is read
        for sample in target.samples:
            target.read(target.place(folder, sample))

    def attempt(watch: Watch, seed: int) -> None:
        target = found[seed % len(found)]
        content = target.spoiled(Random(seed))
        path = target.place(folder, content)
        watch.attempt(seed, f"{target.name} {content[:200]!r}", lambda: f"{target.name}: {_outcome(target, path)}")

    return attempt


def _outcome(target: Target, path: Path) -> str:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            target.read(path)
        except (ClfError, OSError):
            return "refused"
    return "read"


if __name__ == "__main__":
    sys.exit(run("fuzz_files", fuzzer, sys.argv[1:]))
