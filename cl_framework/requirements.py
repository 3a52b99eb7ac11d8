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
    if info.is_language and not part.speaks:
        return [f"{name} works on classes, and the rows of this stream are texts; choose a strategy that works on "
                "texts, such as strategy=naive, er, joint, task_arithmetic or fst, or another scenario"]
    missing = sorted(need for need in part.needs if need not in info.offers)
    if Need.UNLABELLED in missing:
        return [f"{name} adapts to test rows without labels, and the rows of this stream have labels; choose "
                "scenario=corrupted, or a strategy that learns from labels, such as strategy=psmt "
                "strategy.psmt.variant=supervised"]
    if Need.VERIFIER in missing:
        return [f"{name} learns from rewards, and nothing checks replies to this stream; choose scenario=verifiable, "
                "or a strategy that learns from labels"]
    if missing:
        return [f"{name} needs {', '.join(missing)}, which the scenario does not offer; choose another scenario (task "
                "labels: scenario.incremental=task) or another strategy"]
    return []


def check_recipe(recipe: Recipe, info: StreamInfo, architecture: Architecture | None = None) -> None:
    """Refuse several epochs or a second try on an online stream, an optimizer carried to a head that has grown, and a
    model that does not take the stream's rows.

    Raises:
        ConfigError: says what to set.
    """
    if architecture is not None and architecture.speaks is not info.is_language:
        name = type(architecture).__name__
        raise ConfigError(f"the rows of this stream are texts to answer, which {name} does not take; set "
                          "model=smollm2, tiny_lm or causal_lm" if info.is_language else
                          f"{name} answers prompts, and the rows of this stream are none; take scenario=verifiable or "
                          "scenario=text_domains, or another model")
    if not recipe.reset_optimizer and architecture is not None and architecture.head == "growing" and \
            info.setting is not Setting.DOMAIN:
        raise ConfigError("train.reset_optimizer=false carries the optimizer's state to the next experience, which a "
                          "growing head does not fit; set model.head=whole or train.reset_optimizer=true")
    if recipe.on_nonfinite == "reset" and (info.is_online or not info.is_labelled):
        raise ConfigError("train.on_nonfinite=reset learns an experience anew, but this stream shows every row once; "
                          "set train.on_nonfinite=skip or stop")
    if info.is_online and recipe.epochs != 1:
        raise ConfigError(f"an online stream shows every row once, but train.epochs is {recipe.epochs}; "
                          "set train.epochs=1 or scenario.is_online=false")
