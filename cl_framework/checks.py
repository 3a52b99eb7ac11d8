"""The conformance suite: hold a strategy, a scenario or a metric against its contract before trusting its numbers.

    from cl_framework.checks import parametrize_with_checks

    @parametrize_with_checks([MyStrategy()])
    def test_conformance(plugin, check):
        check(plugin)

Each check is a function whose docstring is the rule. A known failure is declared on the class with its reason,
`known_failures = {"beats_chance": "a deliberate lower bound"}`; one that passes after all is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_framework.adaptation_checks import ADAPTATION_CHECKS
from cl_framework.errors import PluginError
from cl_framework.language_checks import language_checks
from cl_framework.metric_checks import METRIC_CHECKS
from cl_framework.metric_plugins import Metric
from cl_framework.registry import load
from cl_framework.reward_checks import REWARD_CHECKS
from cl_framework.scenario import Scenario
from cl_framework.scenario_checks import SCENARIO_CHECKS
from cl_framework.strategy import Strategy
from cl_framework.strategy_checks import STRATEGY_CHECKS
from cl_framework.types import Need

if TYPE_CHECKING:
    import pytest

Plugin = Strategy | Scenario | Metric
Check = Callable[[Any], None]


@dataclass(frozen=True)
class Outcome:
    """How one check ended: `holds`, `known` (a declared failure), `FAILS`, or `STALE` (a declared one passes)."""

    name: str
    status: str
    reason: str = ""

    @property
    def is_fine(self) -> bool:
        """Whether the plugin may be trusted on this point."""
        return self.status in ("holds", "known")


def checks_of(plugin: Plugin) -> Sequence[Check]:
    """The checks that a plugin must pass.

    Raises:
        PluginError: it is neither a strategy, a scenario nor a metric.
    """
    if isinstance(plugin, Strategy) and Need.UNLABELLED in plugin.needs:
        return ADAPTATION_CHECKS
    if isinstance(plugin, Strategy) and Need.VERIFIER in plugin.needs:
        return REWARD_CHECKS
    if isinstance(plugin, Scenario):
        return (*SCENARIO_CHECKS, *language_checks(plugin))
    for kind, checks in ((Strategy, STRATEGY_CHECKS), (Metric, METRIC_CHECKS)):
        if isinstance(plugin, kind):
            return checks
    raise PluginError(f"{plugin!r} is no strategy, scenario or metric; give an instance, e.g. MyStrategy()")


def known_failures(plugin: Plugin) -> Mapping[str, str]:
    """The failures that a plugin's class declares, with their reasons."""
    return {} if isinstance(plugin, Metric) else plugin.known_failures


def outcome_of(plugin: Plugin, check: Check) -> Outcome:
    """Run one check."""
    known = known_failures(plugin).get(check.__name__)
    try:
        check(plugin)
    except (Exception, SystemExit) as error:
        if known is not None:
            return Outcome(check.__name__, "known", known)
        reason = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return Outcome(check.__name__, "FAILS", reason)
    if known is not None:
        return Outcome(check.__name__, "STALE", f"it passes, though declared as failing: {known}")
    return Outcome(check.__name__, "holds")


def _check_all(plugin: Plugin) -> None:
    outcomes = [outcome_of(plugin, check) for check in checks_of(plugin)]
    faults = [f"{outcome.name}: {outcome.reason}" for outcome in outcomes if not outcome.is_fine]
    if faults:
        raise PluginError(f"{_label(plugin)} breaks its contract:\n  " + "\n  ".join(faults))


def check_strategy(strategy: Strategy) -> None:
    """Hold a strategy against its contract, on toy streams of a few seconds.

    Raises:
        PluginError: lists every check that fails.
    """
    _check_all(strategy)


def check_scenario(scenario: Scenario) -> None:
    """Hold a scenario against its contract; its data must be there.

    Raises:
        PluginError: lists every check that fails.
    """
    _check_all(scenario)


def check_metric(metric: Metric) -> None:
    """Hold a metric against its contract.

    Raises:
        PluginError: lists every check that fails.
    """
    _check_all(metric)


def run_checks(kind: str, name: str) -> list[Outcome]:
    """The outcomes for a plugin by name, `a+b` for a chain; what `clf check` prints."""
    if kind == "metric":
        plugin: Plugin = load(kind, name)
    elif "+" in name:
        from cl_framework.chain import Chain

        plugin = Chain(*(load(kind, part)() for part in name.split("+")))
    else:
        plugin = load(kind, name)()
    return [outcome_of(plugin, check) for check in checks_of(plugin)]


def parametrize_with_checks(plugins: Iterable[Plugin]) -> pytest.MarkDecorator:
    """A pytest decorator: one test for each plugin and check, with arguments `plugin` and `check`."""
    import pytest

    cases = []
    for plugin in plugins:
        for check in checks_of(plugin):
            reason = known_failures(plugin).get(check.__name__)
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason is not None else []
            cases.append(pytest.param(plugin, check, id=f"{_label(plugin)}-{check.__name__}", marks=marks))
    return pytest.mark.parametrize(("plugin", "check"), cases)


def _label(plugin: Plugin) -> str:
    if isinstance(plugin, Metric):
        return plugin.name
    if isinstance(plugin, Strategy):
        return "+".join(type(part).__name__ for part in plugin.parts())
    return type(plugin).__name__
