"""`comparison.json`, read back and drawn: what `clf protocol` found, without its runs.

Phases are compared by ranks, never by their raw difference: their data differ in difficulty.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl_framework.errors import ConfigError
from cl_framework.pictures import draw_ranks, draw_slopes
from cl_framework.plain_files import read_json
from cl_framework.seal import digest_of

FORMAT = 2
"""Fields may be added; none changes its meaning without a new number."""
FORMATS = (1, FORMAT)
"""Those that are read."""
FILE = "comparison.json"
"""Its name, in a folder of its own for each set of searches, beside the studies."""
_WHOLE = ("format", "protocol", "scenario", "metric", "rows", "ranks", "status", "digest")


def is_comparison(path: Path) -> bool:
    """Whether a file, or what a folder has, is a comparison and no record of one strategy."""
    if path.is_dir():
        return (path / FILE).exists()
    try:
        made = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(made, dict) and "rows" in made and "ranks" in made


def read_comparison(path: Path, *, is_sealed: bool = True) -> dict[str, Any]:
    """Read a `comparison.json`, or that of a folder.

    Args:
        path: of the file or its folder.
        is_sealed: refuse one whose content does not give its digest.

    Raises:
        ConfigError: it is not there, no comparison, or not what was written.
    """
    file = path / FILE if path.is_dir() else path
    try:
        made = read_json(file)
    except FileNotFoundError:
        raise ConfigError(f"there is no {file}; `clf protocol` writes it") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); give the command of its `clf protocol` again, finished "
                          "runs are kept") from error
    missing = [name for name in _WHOLE if not isinstance(made, dict) or name not in made]
    if missing:
        raise ConfigError(f"{file} is no comparison: missing {', '.join(missing)}; name a comparison.json that "
                          "`clf protocol` wrote")
    if made["format"] not in FORMATS:
        raise ConfigError(f"{file} has format {made['format']}, this clf reads {FORMAT}; give the command of its "
                          "`clf protocol` again")
    if is_sealed and digest_of(made) != made["digest"]:
        raise ConfigError(f"{file} was changed after it was written: its digest is not that of its content; give the "
                          "command of its `clf protocol` again, finished runs are kept")
    whole: dict[str, Any] = made
    return whole


def draw_comparison(made: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the slope plot of each evaluation stream, and the critical-difference diagram where there are ranks.

    The stream is part of the file's name where there are several.
    """
    files = []
    for scenario, agreement in made["ranks"].items():
        end = "" if len(made["ranks"]) == 1 else f" {scenario}"
        pairing = made.get("tests", {}).get(scenario)
        if len(agreement["ranks"]) > 1:
            files += draw_slopes(agreement["ranks"], folder, f"slope{end}")
        if pairing is not None and pairing["ranking"] is not None:
            files += draw_ranks(pairing["ranking"]["mean_ranks"], pairing["ranking"]["critical_difference"], folder,
                                f"critical_difference{end}")
    return files
