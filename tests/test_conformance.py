"""Every built-in plugin through every check, found through the entry points like anyone's."""

from pathlib import Path

import pytest

from cl_framework.chain import Chain
from cl_framework.checks import checks_of, outcome_of, parametrize_with_checks
from cl_framework.errors import ClfError
from cl_framework.metrics import installed_metrics
from cl_framework.registry import load, plugins
from cl_framework.strategy import Strategy

STRATEGIES = [load("strategy", name)() for name in plugins("strategy")]
PAIRS = [("er", "lwf"), ("er", "ewc"), ("agem", "lwf"), ("derpp", "lwf")]
CHAINS = [Chain(load("strategy", first)(), load("strategy", second)()) for first, second in PAIRS]
SCENARIOS = [load("scenario", name)() for name in plugins("scenario")
             if name not in {"custom", "avalanche"}]


def available(scenario):
    try:
        scenario.open("single", None)
    except ClfError as error:
        return str(error).splitlines()[0]
    return None


@parametrize_with_checks([Strategy(), *STRATEGIES, *CHAINS])
def test_strategy(plugin, check):
    check(plugin)


@parametrize_with_checks(SCENARIOS)
def test_scenario(plugin, check, no_downloads):
    reason = available(plugin)
    if reason:
        pytest.skip(f"its data is not here: {reason}")
    check(plugin)


@pytest.mark.parametrize("incremental", ["task", "domain"])
@pytest.mark.parametrize("is_online", [False, True])
def test_split_digits_in_every_setting(incremental, is_online):
    plugin = load("scenario", "split_digits")(incremental=incremental, is_online=is_online)
    failed = {outcome.name: outcome.reason for outcome in (outcome_of(plugin, check) for check in checks_of(plugin))
              if not outcome.is_fine}
    if incremental == "domain":
        assert "leaves nothing to tell apart there; take fewer experiences" in failed.pop("phases_are_disjoint")
    assert not failed


@parametrize_with_checks(installed_metrics())
def test_metric(plugin, check):
    check(plugin)


def test_the_guide_to_these_checks_names_each():
    text = Path(__file__).with_name("..").resolve().joinpath("docs", "authoring.md").read_text()
    from cl_framework.metric_checks import METRIC_CHECKS
    from cl_framework.scenario_checks import SCENARIO_CHECKS
    from cl_framework.strategy_checks import STRATEGY_CHECKS

    for check in (*STRATEGY_CHECKS, *SCENARIO_CHECKS, *METRIC_CHECKS):
        assert f"`{check.__name__}`" in text
