"""Charts as SVG text: lines over time, distributions, and bars of a Gantt. Colours are the page's variables."""

import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 10, 40
COLOURS = 10
"""Series that the page has colours for."""
SECOND, MINUTE, HOUR, DAY = 1.0, 60.0, 3600.0, 86400.0
STEPS = (
    *(SECOND * n for n in (1, 2, 5, 10, 15, 30)),
    *(MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(HOUR * n for n in (1, 2, 4, 6, 12)),
    *(DAY * n for n in (1, 2, 5, 7, 14, 30, 60, 90, 180, 365)),
)
"""Distances between marks of an axis of time, that people count in."""

HUNDREDFOLD = 100.0


@dataclass(frozen=True)
class Line:
    """A series: its name, its colour's number, its points in order of x."""

    name: str
    colour: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels, with its marks."""

    low: float
    high: float
    marks: Sequence[float]
    label: Callable[[float], str]
    log: bool = False

    def at(self, value: float, start: float, stop: float) -> float:
        """Where a value lies between two pixels."""
        low, high, here = (
            (math.log(each) if self.log else each)
            for each in (self.low, self.high, max(value, self.low) if self.log else value)
        )
        return start + (stop - start) * (here - low) / ((high - low) or 1.0)


def duration(seconds: float) -> str:
    """A time as people say it: two digits and a unit."""
    for unit, size in (("d", DAY), ("h", HOUR), ("min", MINUTE)):
        if seconds >= size * (2 if unit == "d" else 1):
            return f"{_short(seconds / size)} {unit}"
    return f"{_short(seconds)} s"


def time_axis(high: float) -> Axis:
    """From zero, marked at whole minutes, hours or days."""
    high = max(high, 1.0)
    step = next((each for each in STEPS if high / each <= 7), high / 6)
    return Axis(0.0, high, [n * step for n in range(int(high / step) + 1)], duration)


def log_axis(low: float, high: float, label: Callable[[float], str]) -> Axis:
    """Marked at powers of ten, or where there are few at 1, 2 and 5 of each."""
    low, high = max(low, 1e-9), max(high, low * 1.001)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(powers) > 4 else (1, 2, 5)
    marks = [factor * 10.0**power for power in powers for factor in factors]
    return Axis(low, high, [mark for mark in marks if low <= mark <= high], label, log=True)


def log_time_axis(low: float, high: float) -> Axis:
    """Logarithmic, marked at a second, minute, hour, day and between."""
    low, high = max(low, 1.0), max(high, 2.0)
    few = (1, 10, MINUTE, 10 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY, 180 * DAY)
    many = (2 * MINUTE, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 4 * HOUR, 12 * HOUR, 2 * DAY, 4 * DAY, 14 * DAY)
    usual = few if high / low > HUNDREDFOLD else sorted({*few, *many})
    return Axis(low, high, [mark for mark in usual if low <= mark <= high], duration, log=True)


def percent_axis() -> Axis:
    """From none to all."""
    return Axis(0.0, 1.0, [0, 0.25, 0.5, 0.75, 1.0], lambda value: f"{value:.0%}")


def lines(title: str, x: Axis, y: Axis, series: Sequence[Line], *, steps: bool = False) -> str:
    """A chart of lines."""
    body = list(_frame(x, y, HEIGHT))
    for line in series:
        path: list[str] = []
        previous = 0.0
        for n, (at, value) in enumerate(line.points):
            px, py = x.at(at, LEFT, WIDTH - RIGHT), y.at(value, HEIGHT - BOTTOM, TOP)
            if n and steps:
                path.append(f"L{px:.1f} {previous:.1f}")
            path.append(f"{'L' if n else 'M'}{px:.1f} {py:.1f}")
            previous = py
        body.append(
            f'<path class="line c{line.colour % COLOURS}" d="{"".join(path)}">'
            f"<title>{html.escape(line.name)}</title></path>"
        )
    return _svg(title, HEIGHT, body)


@dataclass(frozen=True)
class Row:
    """A line of a Gantt: what it is, from when on it waits, and when it runs."""

    name: str
    arrival: float
    end: float
    runs: Sequence[tuple[float, float]]


def gantt(title: str, x: Axis, rows: Sequence[Row], colour: int) -> str:
    """One line a job, in order of arrival: pale while it waits, full while it runs."""
    height = max(120, min(520, TOP + BOTTOM + 6 * len(rows)))
    each = (height - TOP - BOTTOM) / max(1, len(rows))
    body = list(_frame(x, None, height))
    for n, row in enumerate(rows):
        top, thick = TOP + n * each, max(0.8, each * 0.8)
        left, right = (x.at(value, LEFT, WIDTH - RIGHT) for value in (row.arrival, row.end))
        waits = sum(stop - start for start, stop in row.runs)
        body.append(
            f'<rect class="waits" x="{left:.1f}" y="{top:.1f}" width="{max(0.5, right - left):.1f}" '
            f'height="{thick:.1f}"><title>{html.escape(row.name)}: {duration(row.end - row.arrival)} in all, '
            f"{duration(max(0.0, row.end - row.arrival - waits))} waiting</title></rect>"
        )
        for start, stop in row.runs:
            left, right = (x.at(value, LEFT, WIDTH - RIGHT) for value in (start, stop))
            body.append(
                f'<rect class="runs f{colour % COLOURS}" x="{left:.1f}" y="{top:.1f}" '
                f'width="{max(0.5, right - left):.1f}" height="{thick:.1f}"/>'
            )
    return _svg(title, height, body)


def _svg(title: str, height: int, body: Sequence[str]) -> str:
    return (
        f'<figure><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{html.escape(title)}">{"".join(body)}</svg></figure>'
    )


def _frame(x: Axis, y: Axis | None, height: int) -> Iterator[str]:
    bottom = height - BOTTOM
    for mark in x.marks:
        at = x.at(mark, LEFT, WIDTH - RIGHT)
        yield f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{bottom}"/>'
        yield f'<text class="mark" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{x.label(mark)}</text>'
    for mark in y.marks if y else ():
        at = y.at(mark, bottom, TOP) if y else 0.0
        yield f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>'
        label = y.label(mark) if y else ""
        yield f'<text class="mark" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{label}</text>'
    yield f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}"/>'


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
