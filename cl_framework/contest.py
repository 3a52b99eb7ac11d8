"""`clf protocol`: both phases for several strategies on one budget, and what may be said of them.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP, arXiv 2403.09066). Phases
are compared by ranks, never by their raw difference: their data differ in difficulty.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.table import Table

from cl_framework.compared import FILE, FORMAT, draw_comparison
from cl_framework.configuration import hash_of
from cl_framework.errors import ConfigError
from cl_framework.evaluation import Evaluated, evaluate
from cl_framework.files import write_json
from cl_framework.pairing import Measure, pair
from cl_framework.pairing_table import PairingTable
from cl_framework.plan import Plan
from cl_framework.protocol_record import judged
from cl_framework.ranks import rank_agreement
from cl_framework.reporting_rules import baselines
from cl_framework.rules import check
from cl_framework.seal import digest_of, sealed
from cl_framework.tuning import tune
from cl_framework.tuning_table import percent, time_text
from cl_framework.verdicts import Record, Verdict


def with_baselines(strategies: Sequence[Any], *, is_labelled: bool = True) -> list[Any]:
    """The strategies and those of rule R15 that are not among them.

    >>> with_baselines(["er", "lwf"])
    ['er', 'lwf', 'naive', 'joint']
    """
    return [*strategies, *(name for name in baselines(is_labelled) if name not in strategies)]


def contest(plans: Sequence[Plan], workers: int, command: str, console: Console, *, has_defaults: bool = True
            ) -> tuple[Path, dict[str, Any]]:
    """Tune and evaluate every plan, and write `<out>/tune/<scenario>/comparison/<hash>/comparison.json`, and pictures.

    Raises:
        ConfigError: the strategies have unequal budgets; nothing was run.
        ClfError: a search or an evaluation could not be finished; what is finished is kept.
    """
    refuse_unequal(plans)
    tuned = [tune(plan, workers, command, console) for plan in plans]
    done = [evaluate(each.path, None, workers, command, console, has_defaults=has_defaults) for each in tuned]
    made = compare(done)
    searches = hash_of({plan.strategy: plan.hash for plan in plans})
    path = plans[0].folder.parents[1] / "comparison" / searches / FILE
    write_json(path, made)
    for file in draw_comparison(made, path.parent):
        console.print(f"wrote {file}", highlight=False, soft_wrap=True)
    return path, made


def refuse_unequal(plans: Sequence[Plan]) -> None:
    """One budget for every strategy (rule R4).

    Raises:
        ConfigError: names the budgets.
    """
    budgets = {plan.strategy: f"{plan.n_trials} trials x {plan.search.seeds} seeds" for plan in plans}
    if len(set(budgets.values())) > 1:
        shown = ", ".join(f"{strategy} {budget}" for strategy, budget in budgets.items())
        raise ConfigError(f"the strategies have unequal budgets ({shown}): rule R4 asks for one; take "
                          "search.sampler=random, whose trials are as many as search.trials says for every strategy")


def compare(done: Sequence[Evaluated]) -> dict[str, Any]:
    """Numbers, ranks and claims of records, judged together."""
    records = [each.record for each in done]
    claims = [claim for scenario in _scenarios(records) for claim in claims_on(records, scenario)]
    rows, verdicts = [], []
    for each in done:
        beside = [other for other in records if other is not each.record]
        found = check({**each.record, "claims": claims}, beside)
        verdicts += [Verdict(f"{verdict.rule} {each.record['strategy']}", verdict.kept, verdict.reason)
                     for verdict in found]
        rows.append({"strategy": each.record["strategy"], "record": str(each.path), "digest": digest_of(each.record),
                     "tuning": each.record["tuning"]["result"], "tuning_cost": each.record["costs"]["tuning"],
                     "broken": [verdict.rule for verdict in found if verdict.kept is False],
                     "evaluation": {part["scenario"]: _row(part) for part in each.record["evaluation"]}})
    first = records[0]
    names = dict.fromkeys(record["protocol"] for record in records)
    content = {"format": FORMAT, "protocol": " / ".join(names), "scenario": first["scenario"],
               "metric": first["metric"], "rows": rows, "claims": claims,
               "ranks": {scenario: _ranks(records, scenario) for scenario in _scenarios(records)},
               "tests": {scenario: _tests(records, scenario) for scenario in _scenarios(records)}}
    return sealed(judged(content, verdicts))


def claims_on(records: Sequence[Record], scenario: str) -> list[dict[str, Any]]:
    """Which strategy is above which on an evaluation stream: those whose 95 % intervals do not overlap (rule R13)."""
    results = {record["strategy"]: part["result"] for record in records for part in record["evaluation"]
               if part["scenario"] == scenario and part["result"]["interval"] is not None}
    return [{"better": better, "worse": worse, "scenario": scenario, "phase": "evaluation",
             "intervals": [results[better]["interval"], results[worse]["interval"]]}
            for better, worse in itertools.permutations(results, 2)
            if results[better]["interval"][0] > results[worse]["interval"][1]]


def comparison_table(made: Mapping[str, Any], scenario: str) -> RenderableType:
    """What a reader needs of one evaluation stream; below it, the strategies compared seed by seed."""
    ranks = made["ranks"][scenario]
    agreement = " ".join(f"{name} {'none' if ranks[name] is None else format(ranks[name], '.2f')}"
                         for name in ("kendall_tau", "spearman"))
    title = f"{made['protocol']} · tuned on {made['scenario']} · reported on {scenario}\n{made['metric']} % (rank)"
    status = f"NON-COMPLIANT, not a result of this protocol: {', '.join(made['broken'])} broken"
    caption = f"agreement of the ranks of the phases: {agreement}\n{status if made['broken'] else made['status']}"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=None)
    for heading in ("strategy", "tuned", "reported, 95 %", "defaults", "forgets", "weights", "search"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right", overflow="fold")
    for row in sorted(made["rows"], key=lambda row: ranks["ranks"][row["strategy"]][1]):
        own, (before, after) = row["evaluation"][scenario], ranks["ranks"][row["strategy"]]
        ends = own["result"]["interval"]
        half_width = "" if ends is None else f" ± {50 * (ends[1] - ends[0]):.1f}"
        table.add_row(
            row["strategy"], f"{percent(row['tuning']['mean'])} ({before:g})",
            f"{percent(own['result']['mean'])}{half_width} ({after:g})", percent(own["default"]),
            percent(own["forgetting"]), "" if own["n_parameters"] is None else f"{own['n_parameters'] / 1000:,.0f}k",
            time_text(row["tuning_cost"]["train_seconds"]))
    tests = made.get("tests", {}).get(scenario)
    return table if tests is None else Lines(table, "", PairingTable(tests), "")


def _scenarios(records: Sequence[Record]) -> list[str]:
    """Streams that every record reports on."""
    return [part["scenario"] for part in records[0]["evaluation"]
            if all(part["scenario"] in {own["scenario"] for own in record["evaluation"]} for record in records)]


def _row(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"result": part["result"], "flavour": part["flavour"],
            "default": None if part["default"] is None else part["default"]["result"]["mean"],
            "forgetting": _mean(part, "forgetting/max", "source_forgetting"),
            "n_parameters": _mean(part, "n_parameters"),
            "train_seconds": _mean(part, "train_seconds"), "memory_bytes": _mean(part, "memory_bytes")}


def _mean(part: Mapping[str, Any], *names: str) -> float | None:
    """The mean of whichever of some metrics the runs have."""
    values = [run["metrics"][name] for run in part["runs"] for name in names if name in run["metrics"]]
    return sum(values) / len(values) if values else None


def _ranks(records: Sequence[Record], scenario: str) -> dict[str, Any]:
    tuned = {record["strategy"]: record["tuning"]["result"]["mean"] for record in records}
    reported = {record["strategy"]: part["result"]["mean"] for record in records for part in record["evaluation"]
                if part["scenario"] == scenario}
    found = asdict(rank_agreement(tuned, reported))
    return {**found, "ranks": {name: list(pair) for name, pair in found["ranks"].items()}}


def _tests(records: Sequence[Record], scenario: str) -> dict[str, Any] | None:
    """The strategies compared on their shared (order, seed) pairs; a failed run counts as chance, as in its mean."""
    values = {record["strategy"]: {(run["order_seed"], run["seed"]): run["value"] for run in part["runs"]}
              for record in records for part in record["evaluation"] if part["scenario"] == scenario}
    found = pair(values, Measure(name=records[0]["metric"]))
    return None if found is None else found.plain()
