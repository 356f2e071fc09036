"""The chart of a comparison with lost packets: one panel per metric, one line per codec, as SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from codecvq.escaping import printable
from codecvq.evaluation.charts import format_tick, ticks

if TYPE_CHECKING:
    from codecvq.evaluation.result import Column

Curves = Mapping[str, Sequence[tuple[float, float]]]  # codec -> (percent, mean) of each point

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 220, 50, 16, 26, 34  # of a panel
PER_ROW = 3
COLORS = ("#2a78b5", "#d2691e", "#2e8b57", "#b03060", "#7a5cc4", "#808000", "#008b8b", "#8b4513")
STYLE = (
    "text{font:11px sans-serif;fill:#606060}.title{font-weight:bold}"
    ".grid{stroke:#d0d0d0;stroke-width:1}polyline{fill:none;stroke-width:2}"
)


def loss_svg(panels: Sequence[tuple[Column, Curves]]) -> str:
    """Return an SVG of the mean of each column over the percentage of lost packets."""
    names = list(panels[0][1]) if panels else []
    rows = -(-len(panels) // PER_ROW)
    width, legend = WIDTH * min(PER_ROW, max(1, len(panels))), 18 * len(names) + 12
    body = "".join(
        f'<g transform="translate({WIDTH * (n % PER_ROW)} {HEIGHT * (n // PER_ROW)})">{_panel(*panel)}</g>'
        for n, panel in enumerate(panels)
    )
    keys = "".join(
        f'<line x1="{LEFT}" x2="{LEFT + 24}" y1="{y}" y2="{y}" stroke="{_color(n)}" stroke-width="2"/>'
        f'<text x="{LEFT + 30}" y="{y + 4}">{_text(name)}</text>'
        for n, name in enumerate(names)
        for y in [HEIGHT * rows + 14 + 18 * n]
    )
    height = HEIGHT * rows + legend
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}"><style>{STYLE}</style><rect width="100%" height="100%" fill="white"/>'
        f"{body}{keys}</svg>\n"
    )


def _panel(column: Column, curves: Curves) -> str:
    """Return one panel; only its title if no codec has a value."""
    better = "higher" if column.higher_is_better else "lower"
    unit = f" ({column.unit})" if column.unit else ""
    title = (
        f'<text class="title" x="{LEFT}" y="16">{_text(f"{column.name}{unit}, {better} is better")}</text>'
    )
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return title
    xs, ys = (
        ticks(0.0, max(x for x, _ in points)),
        ticks(min(y for _, y in points), max(y for _, y in points)),
    )

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT)
        down = (ys[-1] - y) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM)
        return LEFT + right, TOP + down

    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{h:.1f}" y2="{h:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{h + 4:.1f}" text-anchor="end">{format_tick(y)}</text>'
        for y in ys
        for _, h in [place(xs[0], y)]
    )
    foot = "".join(
        f'<text x="{place(x, ys[0])[0]:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">'
        f"{format_tick(x)}</text>"
        for x in xs
    )
    label = f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">lost packets (%)</text>'
    lines = "".join(
        f'<polyline stroke="{_color(n)}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in places)}"/>'
        + "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{_color(n)}"/>' for a, b in places)
        for n, curve in enumerate(curves.values())
        for places in [[place(*point) for point in curve]]
    )
    return title + grid + foot + label + lines


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _text(text: str) -> str:
    return html.escape(printable(text))
