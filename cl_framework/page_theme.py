"""How figures look: on the page, where the style sheet knows light, dark and print, and on paper.

Colours are those of Okabe & Ito (2008), the two lightest darkened until they have a contrast of 3 with white (WCAG 2.2,
criterion 1.4.11); every strategy has a mark and a line style of its own, too. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right", "triangle-left")
_DASHES = ((1, 0), (6, 3), (2, 2), (8, 2, 2, 2), (4, 1), (1, 3))
_LONGEST_NAME = 240
_SIGN, _SWATCH = 7, 28
"""The width of a letter and of a mark in a legend, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours by what they are for.

    Attributes:
        ink, soft, line: text, text that steps back, rules.
        series: of strategies, in turn.
        heat, on_heat, on_pale: the largest value of a heat map, and text on large values and on small ones.
        background: of the picture.
    """

    ink: str
    soft: str
    line: str
    series: tuple[str, ...]
    heat: str
    on_heat: str
    on_pale: str
    background: str

    def config(self, labels: Sequence[str] = ()) -> dict[str, Any]:
        """The section `config` of a Vega-Lite specification; its legends have as many columns as labels leave room for.

        Args:
            labels: what is in the legends.
        """
        wide = min(_SIGN * max(map(len, labels), default=0), _LONGEST_NAME) + _SWATCH
        words = {"labelColor": self.soft, "titleColor": self.ink, "labelFontSize": 12, "titleFontSize": 12,
                 "titleFontWeight": "normal"}
        return {
            "background": self.background, "font": "system-ui, sans-serif", "view": {"stroke": None},
            "axis": {**words, "gridColor": self.line, "domainColor": self.soft, "tickColor": self.soft,
                     "labelOverlap": "greedy", "labelSeparation": 8},
            "axisXQuantitative": {"tickCount": {"expr": "max(ceil(width / 90), 2)"}},
            "axisYQuantitative": {"tickCount": 6},
            "legend": {**words, "orient": "top", "title": None, "columns": {"expr": f"max(floor(width / {wide}), 1)"},
                       "symbolSize": 90, "symbolStrokeWidth": 2, "symbolOpacity": 1, "labelLimit": _LONGEST_NAME},
            "text": {"color": self.ink}, "rule": {"color": self.ink},
        }

    def series_of(self, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Scales that give each strategy its colour, mark and line style, by channel."""
        def turn(values: Sequence[Any]) -> dict[str, Any]:
            return {"domain": [*labels], "range": [values[place % len(values)] for place in range(len(labels))]}

        return {"color": turn(self.series), "shape": turn(_MARKS), "strokeDash": turn([[*each] for each in _DASHES])}


PAGE = Theme(ink="var(--ink)", soft="var(--soft)", line="var(--line)", series=tuple(f"var(--c{i})" for i in range(7)),
             heat="var(--heat)", on_heat="var(--on-heat)", on_pale="var(--on-pale)", background="transparent")
"""The colours of the style sheet: figures follow it without being drawn again."""
PAPER = Theme(ink="#1a1a1a", soft="#555555", line="#dddddd", heat="#08519c", on_heat="#ffffff",
              on_pale="#000000", background="#ffffff",
              series=("#0072B2", "#D55E00", "#00855F", "#B5508B", "#A87000", "#2E86B8", "#333333"))
"""Black on white."""
