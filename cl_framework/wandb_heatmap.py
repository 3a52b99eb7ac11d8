"""The accuracy matrix as one page of HTML: a cell for each R[i, j], its colour, its number, and a sentence on hover.

It loads nothing and runs no script, so it shows wherever W&B shows HTML. One hue by lightness, with the number in each
cell, as on the report page.
"""

from __future__ import annotations

import html

from cl_framework.record import StreamRecord
from cl_framework.wandb_keys import HEAT, HEAT_TURN

_STYLE = ("body{font:13px system-ui,sans-serif;margin:8px;color:#1b1b1b;background:#fff}"
          "table{border-collapse:collapse}th{font-weight:normal;color:#555;padding:2px 6px}"
          "td{width:44px;height:26px;text-align:center;border:1px solid #fff}td:hover{outline:2px solid #1b1b1b}"
          "caption{text-align:left;padding-bottom:6px}")


def heatmap(record: StreamRecord, title: str) -> str:
    """R as HTML, in percent; cells that were not measured are empty.

    Args:
        record: what was measured.
        title: what stands above it.
    """
    n, values = record.n_experiences, record.accuracy[: record.n_done].tolist()
    heads = "".join(f'<th scope="col">{column}</th>' for column in range(n))
    rows = "".join(f'<tr><th scope="row">{row}</th>{"".join(_cell(row, at, cell) for at, cell in enumerate(line))}</tr>'
                   for row, line in enumerate(values))
    caption = f"{html.escape(title)}: accuracy in %, row: after learning experience, column: on experience"
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><style>{_STYLE}</style>'
            f"<table><caption>{caption}</caption><tr><td></td>{heads}</tr>{rows}</table></html>")


def _cell(row: int, column: int, value: float) -> str:
    if value != value:
        return "<td></td>"
    colour = ",".join(str(round(255 + value * (part - 255))) for part in HEAT)
    ink = "#fff" if value > HEAT_TURN else "#000"
    sentence = f"after learning experience {row}: {100 * value:.2f} % on experience {column}"
    return f'<td style="background:rgb({colour});color:{ink}" title="{sentence}">{100 * value:.1f}</td>'
