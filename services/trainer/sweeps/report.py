"""What a sweep has found, as one HTML file: figures, a table, and plots as SVG. No script, no library.

`importance` is the share of the objective's variance that a parameter alone explains: trials are put into groups of
equal size by its value, and ε² corrects the share for what groups of so few would explain by chance (Kelley 1935).
"""

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from aios.html import page, table
from services.trainer.sweeps.rules import Sweep, Trial, TrialState, best, counts
from services.trainer.sweeps.space import Choice, Parameter, Value

ROWS_MAX = 100
LINES_MAX = 500
GROUPS = 4
WIDTH, HEIGHT, LEFT, TOP = 860, 300, 60, 30


def html(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """The whole file."""
    scored = [trial for trial in trials if len(trial.scores) == len(sweep.spec.objectives)]
    title = f"Sweep {sweep.name.sweep}"
    said = ", ".join(f"{count} {state.lower()}" for state, count in counts(trials).items()) or "none yet"
    goals = ", ".join(f"{'most' if o.maximize else 'least'} {o.metric}" for o in sweep.spec.objectives)
    steps = sum(trial.steps for trial in trials)
    found = f"Trials: {said}; {steps} steps. {escape(sweep.message)}"
    how = f"{escape(sweep.spec.sampler.kind)} and pruner {escape(sweep.spec.pruner.kind)}"
    parts = [f"<p>Looks for {escape(goals)} with {how}. {found}</p>"]
    if scored:
        parts += ["<h2>Best</h2>", _table(sweep, best(sweep.spec, trials))]
        parts += ["<h2>Parallel coordinates</h2>", _coordinates(sweep, scored)]
        parts += ["<h2>What mattered</h2>", _bars(importance(sweep, scored))]
        parts += ["<h2>In the order of their start</h2>", _history(sweep, scored)]
    if len(sweep.spec.objectives) > 1 and scored:
        parts += ["<h2>Pareto front of the first two objectives</h2>", _pareto(sweep, scored)]
    parts += [f"<h2>Trials</h2>{'' if len(trials) <= ROWS_MAX else f'<p>The first {ROWS_MAX}.</p>'}"]
    parts += [_table(sweep, trials[:ROWS_MAX])]
    return page(title, *parts)


def importance(sweep: Sweep, trials: Sequence[Trial]) -> list[tuple[str, float]]:
    """The share of the first objective's variance that each parameter alone explains, greatest first."""
    found = []
    for parameter in sweep.spec.space:
        having = [trial for trial in trials if parameter.name in trial.values]
        y = np.array([trial.scores[0] for trial in having])
        groups = _groups(parameter, [trial.values[parameter.name] for trial in having])
        share, total = 0.0, float(((y - y.mean()) ** 2).sum()) if len(y) else 0.0
        count = len(set(groups))
        if total > 0 and len(y) > count > 1:
            within = sum(
                float(((y[groups == each] - y[groups == each].mean()) ** 2).sum()) for each in set(groups)
            )
            share = max(0.0, 1 - within / (len(y) - count) * (len(y) - 1) / total)
        found.append((parameter.name, share))
    return sorted(found, key=lambda each: -each[1])


def _groups(parameter: Parameter, values: Sequence[Value]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    if isinstance(parameter.domain, Choice):
        return np.array([parameter.domain.index(value) for value in values], dtype=np.int64)
    ranks = np.argsort(np.argsort(np.array([float(value) for value in values]), kind="stable"), kind="stable")
    return (ranks * GROUPS // max(1, len(values))).astype(np.int64)


def _table(sweep: Sweep, trials: Sequence[Trial]) -> str:
    names = [parameter.name for parameter in sweep.spec.space]
    metrics = [objective.metric for objective in sweep.spec.objectives]
    rows = []
    for trial in trials:
        scores = [_text(score) for score in trial.scores] or [""] * len(metrics)
        cells = [str(trial.number), trial.state.value.lower(), *scores]
        cells += [_text(trial.values[name]) if name in trial.values else "" for name in names]
        rows.append([*cells, str(trial.reports)])
    return table(["trial", "state", *metrics, *names, "reports"], rows)


def _coordinates(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """One line per trial over all parameters, the better the darker."""
    objective = sweep.spec.objectives[0]
    axes: list[tuple[str, Callable[[Trial], float | None], str, str]] = []
    for parameter in sweep.spec.space:
        low, high = _ends(parameter)
        axes.append((parameter.name, _placed(parameter), low, high))
    scores = [trial.scores[0] for trial in trials]
    low_score, high_score = min(scores), max(scores)
    spread = (high_score - low_score) or 1.0
    axes.append(
        (
            objective.metric,
            lambda trial: (trial.scores[0] - low_score) / spread,
            _text(low_score),
            _text(high_score),
        )
    )
    gap = (WIDTH - 2 * LEFT) / max(1, len(axes) - 1)
    bottom = HEIGHT - 25
    parts = []
    for trial in sorted(trials, key=lambda trial: objective.better(trial.scores[0]))[-LINES_MAX:]:
        goodness = (trial.scores[0] - low_score) / spread
        goodness = goodness if objective.maximize else 1 - goodness
        points = [
            f"{LEFT + index * gap:.1f} {bottom - share * (bottom - TOP):.1f}"
            for index, (_, place, _, _) in enumerate(axes)
            if (share := place(trial)) is not None
        ]
        colour = f"hsl({220 - 210 * goodness:.0f} 70% 45%)"
        parts.append(
            f'<path d="M{"L".join(points)}" stroke="{colour}" stroke-opacity="{0.15 + 0.75 * goodness**3:.2f}" '
            f'fill="none"><title>trial {trial.number}: {_text(trial.scores[0])}</title></path>'
        )
    for index, (name, _, low, high) in enumerate(axes):
        x = LEFT + index * gap
        parts.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#888"/>')
        for y, text in ((TOP - 16, name), (TOP - 4, high), (bottom + 13, low)):
            weight = ' font-weight="bold"' if text is name else ""
            parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle"{weight}>{escape(text[:18])}</text>')
    return _svg(parts)


def _placed(parameter: Parameter) -> Callable[[Trial], float | None]:
    domain = parameter.domain

    def place(trial: Trial) -> float | None:
        value = trial.values.get(parameter.name)
        if value is None:
            return None
        if isinstance(domain, Choice):
            return domain.index(value) / max(1, len(domain.values) - 1)
        return domain.share(float(value))

    return place


def _ends(parameter: Parameter) -> tuple[str, str]:
    domain = parameter.domain
    if isinstance(domain, Choice):
        return _text(domain.values[0]), _text(domain.values[-1])
    return _text(domain.low), _text(domain.high)


def _bars(shares: Sequence[tuple[str, float]]) -> str:
    parts = []
    for index, (name, share) in enumerate(shares):
        y = 8 + index * 22
        parts.append(f'<text x="150" y="{y + 12}" text-anchor="end">{escape(name[:24])}</text>')
        parts.append(f'<rect x="158" y="{y}" width="{share * 500:.1f}" height="16" fill="#3366cc"/>')
        parts.append(f'<text x="{164 + share * 500:.1f}" y="{y + 12}">{share:.0%}</text>')
    return _svg(parts, 16 + 22 * len(shares)) + "<p>Share of the variance that each alone explains.</p>"


def _history(sweep: Sweep, trials: Sequence[Trial]) -> str:
    objective = sweep.spec.objectives[0]
    dots = [(float(trial.number), trial.scores[0], trial.state is TrialState.SUCCEEDED) for trial in trials]
    line, top = [], None
    for number, score, _ in dots:
        top = score if top is None or objective.better(score) > objective.better(top) else top
        line.append((number, top))
    return _scatter("trial", objective.metric, dots, line)


def _pareto(sweep: Sweep, trials: Sequence[Trial]) -> str:
    first, second = sweep.spec.objectives[:2]
    dots = [(trial.scores[0], trial.scores[1], trial.state is TrialState.SUCCEEDED) for trial in trials]
    front = sorted((trial.scores[0], trial.scores[1]) for trial in best(sweep.spec, trials))
    return _scatter(first.metric, second.metric, dots, front)


def _scatter(
    x_label: str, y_label: str, dots: Sequence[tuple[float, float, bool]], line: Sequence[tuple[float, float]]
) -> str:
    bottom, right = HEIGHT - 35, WIDTH - 20
    xs, ys = [dot[0] for dot in dots], [dot[1] for dot in dots]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x0) / ((x1 - x0) or 1) * (right - LEFT),
            bottom - (y - y0) / ((y1 - y0) or 1) * (bottom - TOP),
        )

    path = "L".join("{:.1f} {:.1f}".format(*at(*point)) for point in line)
    parts = [
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" stroke="#888" fill="none"/>',
        f'<path d="M{path}" stroke="#dc3912" fill="none"/>',
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="{LEFT}" y="{TOP - 12}">{escape(y_label)}</text>',
    ]
    for x, y, whole in dots:
        left, top = at(x, y)
        fill = "#3366cc" if whole else "#aaa"
        parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="{fill}" fill-opacity=".7"/>')
    for x, y in ((x0, y0), (x1, y1)):
        left, top = at(x, y)
        parts.append(f'<text x="{left:.1f}" y="{bottom + 14}" text-anchor="middle">{_text(x)}</text>')
        parts.append(f'<text x="{LEFT - 4}" y="{top + 4:.1f}" text-anchor="end">{_text(y)}</text>')
    return _svg(parts) + "<p>Grey: ended early.</p>"


def _svg(parts: Sequence[str], height: int = HEIGHT) -> str:
    return f'<svg width="{WIDTH}" height="{height}">{"".join(parts)}</svg>'


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
