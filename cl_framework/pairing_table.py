"""What a `Pairing` looks like: a table in a terminal, or Markdown, with what its numbers mean below it.

It is read as plain data, as `Pairing.plain` gives it and `comparison.json` keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cl_framework import markdown
from cl_framework.pairing import ALPHA

_HEADINGS = {"strategy": "strategy", "n": "n", "mean d": "mean d", "95 %": "95 %", "p": "p", "Holm": "Holm",
             "Wilcoxon": "Wil-\ncoxon", "d_z": "d_z", "rank-biserial": "rank-\nbiserial", "mean rank": "mean\nrank"}
"""What a column is called, and how that is broken in a terminal."""
_LONGEST_NAME = 24


class PairingTable:
    """Title, table and sentences; a list where the table does not fit."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self._plain = plain

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield Text(title(self._plain))
        rows = _rows(self._plain)
        for gap, sign in ((" ", "="), ("\n", "="), ("\n", "=\n")):
            table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
            for place, heading in enumerate(_HEADINGS.values()):
                table.add_column(heading, justify="right" if place else "left", overflow="fold",
                                 max_width=None if place else _LONGEST_NAME)
            for name, *cells in rows:
                broken = (Text(cell.replace(" to ", f"{gap}to ")) for cell in cells)
                table.add_row(Text(name.replace(" ", gap).replace("=", sign)), *broken)
            if Measurement.get(console, options.update(max_width=10_000), table).maximum <= options.max_width:
                yield table
                break
        else:
            for name, *cells in rows:
                yield Text(name)
                yield from (Text(f"  {heading}: {cell}") for heading, cell in
                            zip([*_HEADINGS][1:], cells, strict=True) if cell)
        yield from map(Text, sentences(self._plain))


def as_markdown(plain: Mapping[str, Any]) -> list[str]:
    """The lines of a Markdown table, with its title above and its sentences below."""
    rows = [[*_HEADINGS], ["---"] + ["---:"] * (len(_HEADINGS) - 1), *_rows(plain)]
    return [title(plain) + ".", "", *map(markdown.row, rows), "",
            *(f"- {markdown.escaped(line)}" for line in sentences(plain))]


def title(plain: Mapping[str, Any]) -> str:
    """What is compared with what."""
    why = "" if plain["is_chosen"] else (", the best mean" if plain["is_higher_better"] else ", the lowest mean")
    return (f"compared on shared (order, seed) pairs: {plain['metric'].replace('_', ' ')} less that of "
            f"{plain['reference']}{why}")


def sentences(plain: Mapping[str, Any]) -> list[str]:
    """What the numbers are, what was left out, and whether there are enough pairs to show anything."""
    return [*_legend(plain), *_left_out(plain), *_too_few(plain), *_ranked(plain)]


def _legend(plain: Mapping[str, Any]) -> list[str]:
    is_exact = all(each["is_exact"] for each in plain["contrasts"])
    test = "exact permutation test" if is_exact else "permutation test, by 65536 drawn flips where n is above 16"
    lines = [f"d: differences of pairs{' in points' if plain['is_percent'] else ''}; 95 %: Student's interval of their "
             f"mean; p: {test}; Holm: that p, adjusted for all rows; d_z: mean / deviation of d"]
    if plain["unit"] == "order":
        lines.append("pairs of one order are not independent: they are averaged, and n counts orders")
    return lines


def _left_out(plain: Mapping[str, Any]) -> list[str]:
    lost = [f"{each['strategy']} {each['left_out']}" for each in plain["contrasts"] if each["left_out"]]
    lines = [f"pairs that only one of the two has are left out: {', '.join(lost)}"] if lost else []
    if plain["apart"]:
        lines.append(f"not compared, as fewer than two pairs are shared with {plain['reference']}: "
                     f"{', '.join(plain['apart'])}")
    return lines


def _too_few(plain: Mapping[str, Any]) -> list[str]:
    m, n = len(plain["contrasts"]), max(each["n"] for each in plain["contrasts"])
    smallest = min(each["smallest_p"] for each in plain["contrasts"])
    if m * smallest <= ALPHA:
        return [f"the smallest p that {n} {plain['unit']}s can give is {smallest:.2g}"]
    holm = f", {min(1.0, m * smallest):.4g} after Holm over {m} strategies" if m > 1 else ""
    takes = [f"{_fewest(1)} {plain['unit']}s"] if smallest > ALPHA else []
    takes += [f"{_fewest(m)} after Holm"] if m > 1 else []
    return [f"{n} {plain['unit']}s cannot show a difference at {ALPHA}, however large: the smallest p that they can "
            f"give is {smallest:.4g}{holm}; it takes {', '.join(takes)}"]


def _fewest(m: int) -> int:
    """The fewest pairs of which all signs alike give an adjusted p of at most ALPHA."""
    n = 1
    while m * 2.0 ** (1 - n) > ALPHA:
        n += 1
    return n


def _ranked(plain: Mapping[str, Any]) -> list[str]:
    ranking = plain["ranking"]
    if ranking is None:
        return ["no mean ranks: fewer than two pairs have runs of all of them"]
    friedman = "" if ranking["friedman_p"] is None else f"Friedman's p {_p(ranking['friedman_p'])}; "
    groups = [" = ".join(group) for group in ranking["cliques"]]
    told = f"not told apart: {'; '.join(groups)}" if groups else "all are told apart"
    lost = f" ({ranking['left_out']} pairs that not all have are left out)" if ranking["left_out"] else ""
    return [f"mean ranks over {ranking['n']} {plain['unit']}s{lost}: {friedman}critical difference "
            f"{ranking['critical_difference']:.2f} (Nemenyi, {ALPHA}); {told}"]


def _rows(plain: Mapping[str, Any]) -> list[list[str]]:
    """The reference first, then the others."""
    ranks: Mapping[str, float] = {} if plain["ranking"] is None else plain["ranking"]["mean_ranks"]

    def rank(name: str) -> str:
        return f"{ranks[name]:.2f}" if name in ranks else ""

    scale, digits = (100, 1) if plain["is_percent"] else (1, 3)

    def number(value: float) -> float:
        return round(scale * value, digits) + 0.0  # never -0.0

    reference = plain["reference"]
    rows = [[reference, *[""] * (len(_HEADINGS) - 2), rank(reference)]]
    for each in plain["contrasts"]:
        ends: Sequence[float] | None = each["interval"]
        rows.append([
            each["strategy"], str(each["n"]), f"{number(each['mean_difference']):+.{digits}f}",
            "" if ends is None else f"{number(ends[0]):.{digits}f} to {number(ends[1]):.{digits}f}",
            _p(each["p_permutation"]), _p(each["p_holm"]), _p(each["p_wilcoxon"]),
            "" if each["d_z"] is None else f"{each['d_z']:.2f}",
            "" if each["rank_biserial"] is None else f"{each['rank_biserial']:.2f}", rank(each["strategy"])])
    return rows


def _p(value: float | None) -> str:
    """Three digits, no more than four places: what is smaller is said to be."""
    return "" if value is None else "<0.0001" if value < 1e-4 else f"{value:.4f}"

