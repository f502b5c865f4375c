"""Curves of recordings of `growth` as an SVG, one panel for each file, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from html import escape
from typing import Any

# Readable on white and on black.
COLOURS = ("#d1495b", "#3a86d4", "#2a9d6f", "#d98a1f", "#8f63c9", "#1fa6b0", "#b0679a", "#8a8d3c")
STYLE = """\
text { font: 12px sans-serif; fill: #24292f } .grid { stroke: #d0d7de } .frame { stroke: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #d0d7de } .grid { stroke: #30363d } .frame { stroke: #6e7681 }
}"""
WIDTH, HEIGHT = 400, 260  # of the plot of one panel, pixels
LEFT, TOP, GAP = 56, 34, 44  # room for numbers on the left, a title, the iterations below
COLUMNS = 2
HEADROOM = 1e4  # times the largest median: what diverges leaves the panel at the top
DEFAULT_LINES = 6

Points = list[tuple[int, float]]


def names(recording: Mapping[str, Any]) -> dict[str, list[Any]]:
    """All rows of a recording by the names that can be drawn."""
    rows = {**recording["losses"], **recording["sizes"], **recording["numbers"]}
    return {**rows, **{f"gradient of {n}": row for n, row in recording["gradients"].items()}}


def chosen(recordings: Sequence[Mapping[str, Any]], patterns: Sequence[str]) -> list[str]:
    """Names to draw: those that match, else the loss and what grew first where something grew.

    Raises:
        ValueError: nothing matches a pattern.
    """
    known = list(dict.fromkeys(name for recording in recordings for name in names(recording)))
    if not patterns:
        first = next((r["first_to_grow"] for r in recordings if r["first_to_grow"]), [])
        grown = [s.partition(" from ")[0].removeprefix("the ") for s in first]
        return ["total_loss", *grown[: DEFAULT_LINES - 1]]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"Nothing in the recordings is named {pattern!r}.")
    return [n for n in known if any(fnmatchcase(n, pattern) for pattern in patterns)]


def draw(recordings: Mapping[str, Mapping[str, Any]], patterns: Sequence[str] = ()) -> str:
    """The SVG.

    Args:
        recordings: by title.
        patterns: what to draw, see `chosen`.

    Raises:
        ValueError: nothing matches a pattern, or nothing can be drawn.
    """
    lines = chosen(list(recordings.values()), patterns)
    panels = {title: _panel_points(r, lines) for title, r in recordings.items()}
    points = [p for panel in panels.values() for p in panel.values() if p]
    if not points:
        raise ValueError("The recordings have no numbers above 0 to draw.")
    end = max(i for line in points for i, _ in line) or 1
    low, high = _decades(points)
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = columns * (LEFT + WIDTH + 16)
    below = rows * (TOP + HEIGHT + GAP)
    height = below + 20 * len(lines) + 8
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">',
        f"<style>{STYLE}</style>",
        f'<clipPath id="plot"><rect width="{WIDTH}" height="{HEIGHT}"/></clipPath>',
    ]
    for k, (title, panel) in enumerate(panels.items()):
        x = LEFT + (k % columns) * (LEFT + WIDTH + 16)
        y = TOP + (k // columns) * (TOP + HEIGHT + GAP)
        body += [f'<g transform="translate({x} {y})">', *_axes(title, end, low, high)]
        for name, line in panel.items():
            body += _curve(line, _stroke(lines.index(name)), end, low, high)
        body.append("</g>")
    for k, name in enumerate(lines):
        y = below + 20 * k + 4
        body.append(f'<path d="M{LEFT} {y}h24" {_stroke(k)} stroke-width="3"/>')
        body.append(f'<text x="{LEFT + 32}" y="{y + 4}">{escape(name)}</text>')
    return "\n".join([*body, "</svg>", ""])


def _panel_points(recording: Mapping[str, Any], lines: Sequence[str]) -> dict[str, Points]:
    """Of each line (iteration, value), without what is missing, not finite or not above 0."""
    rows = names(recording)
    return {
        name: [
            (i, value)
            for i, value in zip(recording["iterations"], rows.get(name, ()), strict=False)
            if isinstance(value, (int, float)) and value > 0
        ]
        for name in lines
    }


def _decades(points: Sequence[Points]) -> tuple[int, int]:
    """Exponents of the lower and the upper end of the scale."""
    medians = [sorted(v for _, v in line)[len(line) // 2] for line in points]
    values = [v for line in points for _, v in line]
    low = max(min(values), min(medians) / HEADROOM)
    high = min(max(values), max(medians) * HEADROOM)
    bottom = math.floor(math.log10(low))
    return bottom, max(bottom + 1, math.ceil(math.log10(high)))


def _axes(title: str, end: int, low: int, high: int) -> Iterator[str]:
    step = -(-(high - low) // 8)
    for exponent in range(low, high + 1, step):
        y = HEIGHT * (high - exponent) / (high - low)
        yield f'<path class="grid" d="M0 {y:.1f}h{WIDTH}"/>'
        yield f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">1e{exponent}</text>'
    for k in range(5):
        x = WIDTH * k / 4
        anchor = "end" if k == 4 else "middle"
        yield f'<text x="{x:.0f}" y="{HEIGHT + 16}" text-anchor="{anchor}">{end * k / 4:.0f}</text>'
    yield f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT + 32}" text-anchor="middle">iteration</text>'
    yield f'<rect class="frame" width="{WIDTH}" height="{HEIGHT}" fill="none"/>'
    yield f'<text x="0" y="-10" font-weight="bold">{escape(title)}</text>'


def _stroke(number: int) -> str:
    """How a line looks; after all colours they come again, dashed."""
    dashes = "" if number < len(COLOURS) else ' stroke-dasharray="6 3"'
    return f'stroke="{COLOURS[number % len(COLOURS)]}"{dashes}'


def _curve(line: Points, stroke: str, end: int, low: int, high: int) -> Iterator[str]:
    if not line:
        return
    corners = " ".join(
        f"{WIDTH * i / end:.1f},{HEIGHT * (high - math.log10(v)) / (high - low):.1f}"
        for i, v in line
    )
    yield (
        f'<polyline points="{corners}" fill="none" {stroke} stroke-width="1.5" '
        'clip-path="url(#plot)"/>'
    )
