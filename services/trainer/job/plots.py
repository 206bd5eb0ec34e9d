"""Plots as SVG inside one HTML file: no library, no script, readable in ten years."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aios import html

Array = NDArray[Any]
COLOURS = "#3366cc #dc3912 #ff9900 #109618 #990099 #0099c6 #dd4477 #66aa00 #b82e2e #316395".split()
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 360, 280, 46, 34, 24
STYLE = "svg{margin:0 1em 1em 0}"


def page(title: str, *parts: str) -> str:
    """A whole HTML file."""
    return html.page(title, *parts, style=STYLE)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows of text and numbers."""
    return html.table(head, rows, _text)


def lines(
    title: str,
    x_label: str,
    y_label: str,
    curves: Sequence[tuple[str, Array, Array]],
    *,
    diagonal: bool = False,
) -> str:
    """Curves of y over x, with their names."""
    axes = _Axes(title, x_label, y_label, [x for _, x, _ in curves], [y for _, _, y in curves])
    if diagonal:
        axes.add(f'<path d="{axes.path(np.array([0, 1]), np.array([0, 1]))}" stroke="#bbb" fill="none"/>')
    for number, (name, x, y) in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        axes.add(f'<path d="{axes.path(x, y)}" stroke="{colour}" stroke-width="1.5" fill="none"/>')
        if name:
            axes.legend(number, name, colour)
    return axes.done()


def points(title: str, x_label: str, y_label: str, x: Array, y: Array, group: Array | None = None) -> str:
    """Dots, coloured by group; at most 2,000 of them."""
    chosen = np.linspace(0, len(x) - 1, min(len(x), 2000)).astype(int)
    axes = _Axes(title, x_label, y_label, [x], [y])
    for index in chosen:
        colour = (
            COLOURS[int(group[index]) % len(COLOURS)] if group is not None and group[index] >= 0 else "#999"
        )
        if group is None:
            colour = COLOURS[0]
        left, top = axes.at(x[index], y[index])
        axes.add(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="2" fill="{colour}" fill-opacity=".6"/>')
    return axes.done()


def heat(title: str, counts_CC: Array, names: Sequence[str]) -> str:
    """A matrix with its counts: rows are the truth, shares of a row its colour."""
    size = max(18, min(42, 600 // len(names)))
    shares = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    left, top = 90, 40
    parts = [f'<text x="{left}" y="14" font-weight="bold">{escape(title)}</text>']
    for row, name in enumerate(names):
        middle = top + row * size + size / 2 + 4
        parts.append(f'<text x="{left - 6}" y="{middle}" text-anchor="end">{escape(name[:12])}</text>')
        parts.append(
            f'<text x="{left + row * size + size / 2}" y="{top - 6}" text-anchor="middle">{escape(name[:4])}</text>'
        )
        for column in range(len(names)):
            share = shares[row, column]
            x, y = left + column * size, top + row * size
            parts.append(
                f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="#3366cc" fill-opacity="{share:.3f}"/>'
            )
            ink = "#fff" if share > 0.6 else "#333"
            parts.append(
                f'<text x="{x + size / 2}" y="{y + size / 2 + 4}" text-anchor="middle" fill="{ink}">'
                f"{int(counts_CC[row, column])}</text>"
            )
    extent = size * len(names)
    return f'<svg width="{left + extent + 10}" height="{top + extent + 10}">{"".join(parts)}</svg>'


class _Axes:
    def __init__(
        self, title: str, x_label: str, y_label: str, xs: Sequence[Array], ys: Sequence[Array]
    ) -> None:
        self._x0, self._x1 = _range(xs)
        self._y0, self._y1 = _range(ys)
        right, bottom = WIDTH - 10, HEIGHT - BOTTOM
        middle = (TOP + bottom) / 2
        turned = f"rotate(-90 12 {middle})"
        self._parts = [
            f'<text x="{LEFT}" y="14" font-weight="bold">{escape(title)}</text>',
            f'<path d="M{LEFT} {TOP}V{bottom}H{right}" stroke="#888" fill="none"/>',
            f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>',
            f'<text x="12" y="{middle}" text-anchor="middle" transform="{turned}">{escape(y_label)}</text>',
        ]
        for share in (0.0, 0.5, 1.0):
            x, y = self._x0 + share * (self._x1 - self._x0), self._y0 + share * (self._y1 - self._y0)
            left, top = self.at(x, y)
            self.add(f'<text x="{left:.1f}" y="{bottom + 14}" text-anchor="middle">{x:.3g}</text>')
            self.add(f'<text x="{LEFT - 4}" y="{top + 4:.1f}" text-anchor="end">{y:.3g}</text>')

    def at(self, x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - self._x0) / (self._x1 - self._x0) * (WIDTH - 10 - LEFT),
            HEIGHT - BOTTOM - (y - self._y0) / (self._y1 - self._y0) * (HEIGHT - BOTTOM - TOP),
        )

    def path(self, x: Array, y: Array) -> str:
        return "M" + "L".join("{:.1f} {:.1f}".format(*self.at(*each)) for each in zip(x, y, strict=True))

    def legend(self, number: int, name: str, colour: str) -> None:
        self.add(f'<text x="{LEFT + 8}" y="{TOP + 12 + 13 * number}" fill="{colour}">{escape(name)}</text>')

    def add(self, part: str) -> None:
        self._parts.append(part)

    def done(self) -> str:
        return f'<svg width="{WIDTH}" height="{HEIGHT}">{"".join(self._parts)}</svg>'


def _range(values: Sequence[Array]) -> tuple[float, float]:
    low = min(float(np.min(each)) for each in values if len(each))
    high = max(float(np.max(each)) for each in values if len(each))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _text(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
