"""The report of a transform: tables and plots as SVG in one HTML file, without a library or a script."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from aios import html

WIDTH, HEIGHT, LEFT, BOTTOM = 300, 130, 8, 18
BLUE, RED = "#3366cc", "#dc3912"
STYLE = """body{max-width:66em}td{max-width:24em;overflow-wrap:anywhere}
svg{margin:0 1em 1em 0}.row{display:flex;flex-wrap:wrap}"""


def page(title: str, *sections: str) -> str:
    """A whole file."""
    return html.page(title, *sections, style=STYLE)


def heading(text: str) -> str:
    """Of a section."""
    return f"<h2>{escape(text)}</h2>"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows of texts and numbers."""
    return html.table(head, rows, text)


def row(*parts: str) -> str:
    """Plots beside each other."""
    return f'<div class="row">{"".join(parts)}</div>'


def histogram(title: str, edges: Sequence[float], *counts: Sequence[float]) -> str:
    """One or two histograms over the same edges, as shares of their own total."""
    high = max((count / max(1, sum(each)) for each in counts for count in each), default=0) or 1
    low, span = edges[0], (edges[-1] - edges[0]) or 1
    parts = []
    for each, colour in zip(counts, (BLUE, RED), strict=False):
        total = max(1, sum(each))
        for (start, end), count in zip(pairwise(edges), each, strict=True):
            left = LEFT + (start - low) / span * (WIDTH - 2 * LEFT)
            width = max(1.0, (end - start) / span * (WIDTH - 2 * LEFT) - 1)
            parts.append(_bar(left, width, count / total / high, colour))
    ends = f"{_label(LEFT, text(edges[0]))}{_label(WIDTH - LEFT, text(edges[-1]), 'end')}"
    return _figure(title, "".join(parts) + ends)


def bars(title: str, names: Sequence[str], *counts: Sequence[float]) -> str:
    """Counts of a few values by name."""
    high = max((count / max(1, sum(each)) for each in counts for count in each), default=0) or 1
    width = (WIDTH - 2 * LEFT) / max(1, len(names))
    parts = []
    for number, (each, colour) in enumerate(zip(counts, (BLUE, RED), strict=False)):
        share = width / len(counts)
        for index, count in enumerate(each):
            left = LEFT + index * width + number * share
            parts.append(_bar(left, max(1.0, share - 1), count / max(1, sum(each)) / high, colour))
    if len(names) <= 12:
        parts += [_label(LEFT + (i + 0.5) * width, name[:7], "middle") for i, name in enumerate(names)]
    return _figure(title, "".join(parts))


def heat(title: str, names: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    """A matrix of -1 to 1: blue is positive, red negative."""
    size, left, top = max(14, min(34, 560 // max(1, len(names)))), 110, 30
    parts = [f'<text x="0" y="12" font-weight="bold">{escape(title)}</text>']
    for y, line in enumerate(values):
        middle = top + y * size + size / 2 + 4
        parts.append(
            f'<text x="{left - 6}" y="{middle:.0f}" text-anchor="end">{escape(names[y][:16])}</text>'
        )
        for x, value in enumerate(line):
            colour = BLUE if value >= 0 else RED
            parts.append(
                f'<rect x="{left + x * size}" y="{top + y * size}" width="{size}" height="{size}" fill="{colour}" '
                f'fill-opacity="{min(1, abs(value)):.3f}"><title>{escape(names[y])}, {escape(names[x])}: '
                f"{value:.3f}</title></rect>"
            )
    extent = size * len(names)
    return f'<svg width="{left + extent + 10}" height="{top + extent + 10}">{"".join(parts)}</svg>'


def text(value: object) -> str:
    """A cell: numbers short, everything else as it is."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _bar(left: float, width: float, share: float, colour: str) -> str:
    height = share * (HEIGHT - BOTTOM - 18)
    return (
        f'<rect x="{left:.1f}" y="{HEIGHT - BOTTOM - height:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{colour}" fill-opacity=".65"/>'
    )


def _label(x: float, name: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - 4}" text-anchor="{anchor}">{escape(name)}</text>'


def _figure(title: str, body: str) -> str:
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}"><text x="{LEFT}" y="12" font-weight="bold">'
        f"{escape(title[:44])}</text>{body}</svg>"
    )
