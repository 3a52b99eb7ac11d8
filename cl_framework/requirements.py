"""What must go together before a stream is learned: its setting, the strategy's needs, and the recipe."""

from __future__ import annotations

from cl_framework.errors import ConfigError
from cl_framework.models import Architecture
from cl_framework.recipe import Recipe
from cl_framework.strategy import Strategy
from cl_framework.types import Need, Setting, StreamInfo


def check_needs(strategy: Strategy, info: StreamInfo) -> None:
    """Refuse a strategy, or a part of a chain, on a stream that does not offer what it needs.

    Raises:
        ConfigError: names each part, its need and what to do.
    """
    faults = [fault for part in strategy.parts() for fault in _faults(part, info)]
    if faults:
        raise ConfigError(faults)


def _faults(part: Strategy, info: StreamInfo) -> list[str]:
    name = type(part).__name__
    if not info.is_labelled and Need.UNLABELLED not in part.needs:
        return [f"{name} learns from labels, and this stream has none; choose a strategy that adapts at test time, "
                "such as strategy=psmt strategy.psmt.variant=paper, or another scenario"]
    missing = sorted(need for need in part.needs if need not in info.offers)
    if Need.UNLABELLED in missing:
        return [f"{name} adapts to test rows without labels, and the rows of this stream have labels; choose "
                "scenario=corrupted, or a strategy that learns from labels, such as strategy=psmt "
                "strategy.psmt.variant=supervised"]
    if missing:
        return [f"{name} needs {', '.join(missing)}, which the scenario does not offer; choose another scenario (task "
                "labels: scenario.incremental=task) or another strategy"]
    return []


def check_recipe(recipe: Recipe, info: StreamInfo, architecture: Architecture | None = None) -> None:
    """Refuse several epochs on an online stream, and an optimizer that is carried to a head that has grown.

    Raises:
        ConfigError: says what to set.
    """
    if not recipe.reset_optimizer and architecture is not None and architecture.head == "growing" and \
            info.setting is not Setting.DOMAIN:
        raise ConfigError("train.reset_optimizer=false carries the optimizer's state to the next experience, which a "
                          "growing head does not fit; set model.head=whole or train.reset_optimizer=true")
    if info.is_online and recipe.epochs != 1:
        raise ConfigError(f"an online stream shows every row once, but train.epochs is {recipe.epochs}; "
                          "set train.epochs=1 or scenario.is_online=false")
