"""The verbs of `clf` that look and do not train: report, diagnose, list, show, check, data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cl_framework.errors import ClfError, ConfigError
from cl_framework.grammar import Command
from cl_framework.keys import take
from cl_framework.registry import GROUPS, contested, find, plugins, unknown


def report_verb(command: Command) -> int:
    """What runs below a folder say, how they stand beside published numbers, or what a protocol found."""
    from cl_framework.page_parts import PAGE_FORMATS
    from cl_framework.pairing import DEFAULT
    from cl_framework.report import FORMATS, groups, report

    experiments = [str(name) for name in command.values.get("experiment", [])]
    plain = {key: values for key, values in command.values.items() if key != "experiment"}
    given = take(replace(command, values=plain), ["runs", "format", "metric", "against", "out", "protocol",
                                                  "experiment"])
    out = Path(str(given["out"])) if "out" in given else None
    has_page = out is not None and out.suffix == ".html"
    path, style = Path(str(given.get("runs", "runs"))), str(given.get("format", "html" if has_page else "text"))
    if style not in (*FORMATS, *PAGE_FORMATS):
        raise ConfigError(unknown("format", style, [*FORMATS, *PAGE_FORMATS]))
    if out is not None and out.suffix in (".svg", ".pdf", ".png"):
        raise ConfigError(f"out={out} is to be a folder: pictures go into it as .svg, .pdf and .png")
    if "protocol" in given:
        return _report_protocol(Path(str(given["protocol"])), out, [*command.values])
    if experiments:
        if style in PAGE_FORMATS:
            raise ConfigError(f"experiment=NAME has no format={style}; take {', '.join(FORMATS)}")
        strange = [key for key in ("metric", "against", "out") if key in given]
        if strange:
            raise ConfigError(f"experiment=NAME compares with published numbers, it takes no {' or '.join(strange)}")
        from cl_framework.comparison import COMPARISON_FORMATS
        from cl_framework.published import compare, published
        print(COMPARISON_FORMATS[style](compare(published(experiments), groups(path))))
        return 0
    metric, against = str(given.get("metric", DEFAULT.name)), str(given["against"]) if "against" in given else None
    if style in PAGE_FORMATS or has_page:
        _report_page(path, style, metric, against, out)
    else:
        report(path, style, metric, against, out)
    return 0


def _report_page(path: Path, style: str, metric: str, against: str | None, out: Path | None) -> None:
    """Write the page or its pictures, or print LaTeX."""
    from cl_framework.report_page import print_latex, write_page, write_pictures

    has_page = out is not None and out.suffix == ".html"
    if has_page is not (style == "html"):
        raise ConfigError("a page is one file: give format=html with out=report.html, and other formats without it")
    if style == "latex" and out is not None:
        raise ConfigError("format=latex is printed, it takes no out; write it to a file with > table.tex")
    if style == "png" and out is None:
        raise ConfigError("format=png writes a file for each figure; name their folder with out=pictures")
    if out is None:
        print_latex(path, metric, against)
    else:
        files = [write_page(path, out, metric, against)] if has_page else write_pictures(path, out, metric, against)
        print("\n".join(f"wrote {file}" for file in files))


def _report_protocol(path: Path, out: Path | None, keys: list[str]) -> int:
    """Print what a `comparison.json` holds, and draw it beside the file or into a folder."""
    if out is not None and out.suffix == ".html":
        raise ConfigError("protocol=PATH draws pictures into a folder; for a page give: "
                          f"clf report runs=FOLDER out={out}")
    from rich.console import Console

    from cl_framework.compared import draw_comparison, read_comparison
    from cl_framework.contest import comparison_table
    from cl_framework.plain_files import as_written

    strange = [key for key in keys if key not in ("protocol", "out")]
    if strange:
        raise ConfigError(f"protocol=PATH reports on one comparison.json, it takes out=FOLDER and no "
                          f"{' or '.join(strange)}")
    made, folder = read_comparison(path), path if path.is_dir() else path.parent
    with as_written(path):
        for scenario in made["ranks"]:
            Console(markup=False).print(comparison_table(made, scenario))
        for file in draw_comparison(made, folder if out is None else out):
            print(f"wrote {file}")
    return 0


def diagnose_verb(command: Command) -> int:
    """What updates did to the weights of runs, and how that goes with forgetting."""
    from cl_framework.diagnose import FORMATS, diagnose

    given = take(command, ["run", "format", "out"])
    if "run" not in given:
        raise ConfigError("say which run: clf diagnose run=PATH, a run folder or a folder with run folders below it")
    style = str(given.get("format", "text"))
    if style not in FORMATS:
        raise ConfigError(unknown("format", style, FORMATS))
    diagnose(Path(str(given["run"])), style, Path(str(given["out"])) if "out" in given else None)
    return 0


def list_verb(command: Command) -> int:
    """What there is, by kind."""
    from cl_framework.listing import describe
    from cl_framework.presets import NAMED, headline, preset_names

    given = take(command, ["kind"])
    kind = str(given["kind"]) if "kind" in given else None
    if kind in NAMED:
        for name in preset_names(kind):
            print(f"  {name:36} {headline(kind, name)}")
        return 0
    if kind is not None and kind not in GROUPS:
        raise ConfigError(unknown("kind", kind, [*GROUPS, *NAMED]))
    for group in GROUPS if kind is None else [kind]:
        print(f"{group}=")
        lines = {name: f"BROKEN: {reason}" for name, reason in contested(group).items()}
        for name, point in plugins(group).items():
            try:
                lines[name] = describe(point).summary
            except Exception as error:  # whatever the source of a plugin holds, the others are listed
                reason = str(error) if isinstance(error, ClfError) else f"{type(error).__name__}: {error}"
                lines[name] = f"BROKEN: {' '.join(reason.split())}"
        for name in sorted(lines):
            print(f"  {name:30} {lines[name]}")
        print()
    if kind is None:
        for group in NAMED:
            print(f"{group}=\n  {len(preset_names(group))} presets: clf list kind={group}\n")
    return 0


def show_verb(command: Command) -> int:
    """What one plugin is, and its fields."""
    from importlib.metadata import EntryPoint

    from cl_framework.listing import SECTIONS, describe

    given = take(command, [*GROUPS, *SECTIONS])
    if len(given) != 1:
        raise ConfigError("say what to show: clf show strategy=er, or train=recipe, trainer=hardware, track=tracking, "
                          "search=search")
    (kind, name), = given.items()
    for part in str(name).split("+"):
        point = EntryPoint(kind, SECTIONS[kind], "") if kind in SECTIONS else find(kind, part)
        card = describe(point)
        prefix = f"{kind}.{part}." if "+" in str(name) else f"{kind}."
        print(f"{kind}={part}  ({card.path})\n\n{card.text}\n")
        if card.module_text and kind == "strategy":
            print(f"{card.module_text}\n")
        for field in card.fields:
            print(f"  {prefix}{field.name}: {field.kind} = {field.default}")
            print("".join(f"      {line}\n" for line in field.text.splitlines()), end="")
    return 0


def check_verb(command: Command) -> int:
    """Hold a plugin, or a protocol record, against its contract."""
    given = take(command, ["strategy", "scenario", "metric", "protocol"])
    if len(given) != 1:
        raise ConfigError("say what to check: clf check strategy=er (or scenario=..., metric=..., protocol=PATH)")
    (kind, name), = given.items()
    if kind == "protocol":
        return _check_record(Path(str(name)))
    from cl_framework.checks import run_checks

    outcomes = run_checks(kind, str(name))
    for outcome in outcomes:
        print(f"  {outcome.status:8} {outcome.name:36} {outcome.reason}".rstrip())
    failed = sum(not outcome.is_fine for outcome in outcomes)
    print(f"{kind}={name}: {len(outcomes) - failed} of {len(outcomes)} checks hold")
    return 1 if failed else 0


def _check_record(path: Path) -> int:
    from cl_framework.check_record import check_record
    from cl_framework.rules import RULES

    verdicts = check_record(path)
    for verdict in verdicts:
        rule = RULES.get(verdict.rule)
        print(f"  {verdict.word:9} {verdict.rule:7} {'' if rule is None else rule.__doc__}".rstrip())
        print(f"                    {verdict.reason}")
    counts = {word: sum(verdict.word == word for verdict in verdicts) for word in ("kept", "broken", "not shown")}
    print(f"{path}: {', '.join(f'{count} {word}' for word, count in counts.items())}")
    return 1 if counts["broken"] else 0


def data_verb(command: Command) -> int:
    """Where data sets are, or fetch one."""
    from cl_framework.registry import load
    from cl_framework.sources import Source

    name = take(command, ["get"]).get("get")
    if name is not None:
        source: Source = load("dataset", str(name))
        images = source.load()
        print(f"{name}: {len(images.train_y)} training and {len(images.test_y)} test rows, {source.cache_file}")
        return 0
    lines = {known: f"BROKEN: {reason}" for known, reason in contested("dataset").items()}
    for known in plugins("dataset"):
        try:
            lines[known] = str(load("dataset", known).status())
        except Exception as error:  # of one data set; the others are shown
            lines[known] = f"BROKEN: {error}"
    width = max(map(len, lines))
    for known in sorted(lines):
        print(f"  {known:{width}} {lines[known]}")
    return 0
