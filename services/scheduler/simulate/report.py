"""One page for people: policies side by side, how full the pool was, how waits and ends are spread, who ran when.

It stands alone: no script, no font, no picture from elsewhere, and it follows the reader's light or dark preference.
"""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from services.scheduler.engine.snapshot import Floats
from services.scheduler.simulate import charts, metrics
from services.scheduler.simulate.charts import Line, Row, duration
from services.scheduler.simulate.cluster import devices
from services.scheduler.simulate.metrics import Figures
from services.scheduler.simulate.world import Outcome

ROWS_MAX = 120
"""Jobs in a Gantt: as many lines as one can tell apart."""
BUCKETS = 160
POINTS = 200
"""Of a distribution."""


@dataclass(frozen=True)
class Result:
    """What one policy came to."""

    name: str
    line: str
    outcome: Outcome
    figures: Figures


def recommended(results: Sequence[Result]) -> Result:
    """Whose mean completion, last end, longest wait and worst fairness are together nearest to the best of all.

    Each figure is compared with the best that any policy reached; the geometric mean of the four ratios decides.
    """

    def distance(result: Result) -> float:
        logs = [
            np.log((1 + read(result.figures)) / (1 + min(read(other.figures) for other in results)))
            for read in AIMS
        ]
        return float(np.mean(logs))

    return min(results, key=distance)


AIMS: tuple[Callable[[Figures], float], ...] = (
    lambda figures: figures.jct_mean,
    lambda figures: figures.makespan,
    lambda figures: figures.wait_max,
    lambda figures: figures.rho_max,
)
COLUMNS: tuple[tuple[str, Callable[[Figures], float], Callable[[float], str], bool], ...] = (
    ("mean completion", lambda f: f.jct_mean, duration, True),
    ("p50", lambda f: f.jct_p50, duration, True),
    ("p90", lambda f: f.jct_p90, duration, True),
    ("p99", lambda f: f.jct_p99, duration, True),
    ("last end", lambda f: f.makespan, duration, True),
    ("mean wait", lambda f: f.wait_mean, duration, True),
    ("longest wait", lambda f: f.wait_max, duration, True),
    ("worst rho", lambda f: f.rho_max, lambda value: f"{value:.2f}", True),
    ("unfair", lambda f: 100 * f.unfair, lambda value: f"{value:.1f} %", True),
    ("pool in use", lambda f: 100 * f.utilisation, lambda value: f"{value:.1f} %", False),
    ("restarts", lambda f: float(f.restarts), lambda value: f"{value:,.0f}", True),
)
"""Heading, figure, how it is written, whether less is better."""


def page(title: str, subtitle: str, results: Sequence[Result]) -> str:
    """The page of these results, which are of one trace on one cluster."""
    best, last = recommended(results), max(result.figures.makespan for result in results)
    parts = [
        f"<h1>{html.escape(title)}</h1><p class=sub>{html.escape(subtitle)}</p>",
        _advice(best, results),
        _legend(results) if len(results) > 1 else "",
        _table(results),
        "<h2>The pool, and how it was for the jobs</h2><div class=grid2>",
        _utilisation(results),
        _spread("Completion time: part of the jobs that were done by then", results, metrics.completion),
        _spread("Waiting, all waits of a job together", results, metrics.waits),
        _rho(results),
        "</div>",
        _queues(results),
        "<h2>Who ran when</h2><div class=grid2>",
        *(_gantt(n, result, last) for n, result in enumerate(results)),
        "</div>",
        f"<footer>{NOTES}</footer>",
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>\n"
    )


def _advice(best: Result, results: Sequence[Result]) -> str:
    if len(results) < 2:
        return ""
    return (
        f"<p class=advice><b>{html.escape(best.name)}</b> suits this history best: of the policies tried, its mean "
        f"completion, last end, longest wait and worst fairness are together nearest to the best.</p>"
    )


def _legend(results: Sequence[Result]) -> str:
    keys = "".join(
        f"<li><i class=k{n % charts.COLOURS}></i><b>{html.escape(result.name)}</b> {html.escape(result.line)}</li>"
        for n, result in enumerate(results)
    )
    return f"<ul class=legend>{keys}</ul>"


def _table(results: Sequence[Result]) -> str:
    head = "".join(f"<th>{heading}" for heading, *_ in COLUMNS)
    rows: list[str] = []
    for n, result in enumerate(results):
        cells: list[str] = []
        for _, read, write, less in COLUMNS:
            best = (min if less else max)(read(each.figures) for each in results)
            text = write(read(result.figures))
            mark = " class=best" if len(results) > 1 and text == write(best) else ""
            cells.append(f"<td{mark}>{text}")
        rows.append(f"<tr><th><i class=k{n % charts.COLOURS}></i>{html.escape(result.name)}{''.join(cells)}")
    return f"<div class=wide><table><thead><tr><th>policy{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"


def _utilisation(results: Sequence[Result]) -> str:
    last = max(result.figures.makespan for result in results)
    edges = np.linspace(0.0, last, BUCKETS + 1)
    series = [
        Line(
            result.name,
            n,
            list(zip(edges[:-1].tolist(), in_use(result.outcome, edges).tolist(), strict=True)),
        )
        for n, result in enumerate(results)
    ]
    title = "Accelerators in use"
    return charts.lines(title, charts.time_axis(last), charts.percent_axis(), series, steps=True)


def in_use(outcome: Outcome, edges: Floats) -> Floats:
    """Part of the accelerators that is in use on average between each two edges."""
    runs = outcome.runs
    gpus = np.array([metrics.gang_devices(outcome, run) for run in runs])
    used = np.zeros(len(edges))
    for moments, sign in (
        (np.array([run.start for run in runs]), 1.0),
        (np.array([run.stop for run in runs]), -1.0),
    ):
        # Device-seconds up to an edge, as if what had begun never ended; ends are taken off the same way.
        order = np.argsort(moments, kind="stable")
        count = np.concatenate([[0.0], np.cumsum(gpus[order])])
        weighted = np.concatenate([[0.0], np.cumsum((gpus * moments)[order])])
        before = np.searchsorted(moments[order], edges, side="right")
        used += sign * (count[before] * edges - weighted[before])
    spans = np.diff(edges)
    parts: Floats = np.clip(np.diff(used) / (spans * devices(outcome.nodes)), 0.0, 1.0)
    return parts


def _spread(title: str, results: Sequence[Result], read: Callable[[Outcome], Floats]) -> str:
    samples = [np.sort(read(result.outcome)) for result in results]
    low = min(float(each[len(each) // 100]) for each in samples)
    high = max(float(each[-1]) for each in samples)
    series = [Line(result.name, n, _points(samples[n])) for n, result in enumerate(results)]
    return charts.lines(title, charts.log_time_axis(low, high), charts.percent_axis(), series)


def _rho(results: Sequence[Result]) -> str:
    samples = [np.sort(metrics.rhos(result.outcome)) for result in results]
    low, high = min(float(each[0]) for each in samples), max(float(each[-1]) for each in samples)
    series = [Line(result.name, n, _points(samples[n])) for n, result in enumerate(results)]
    axis = charts.log_axis(low, high, lambda value: f"{value:g}")
    return charts.lines(
        "Finish-time fairness rho: above 1 a job lost by sharing", axis, charts.percent_axis(), series
    )


def _points(ordered: Floats) -> list[tuple[float, float]]:
    ranks = np.unique(np.linspace(0, len(ordered) - 1, min(POINTS, len(ordered))).astype(int))
    return [(float(ordered[rank]), (rank + 1) / len(ordered)) for rank in ranks.tolist()]


def _gantt(number: int, result: Result, last: float) -> str:
    outcome = result.outcome
    every = max(1, -(-len(outcome.jobs) // ROWS_MAX))
    runs: dict[int, list[tuple[float, float]]] = {}
    for run in outcome.runs:
        if run.job % every == 0:
            runs.setdefault(run.job, []).append((run.start, run.stop))
    rows = [
        Row(
            f"{outcome.jobs[job].name} ({outcome.jobs[job].replicas})",
            outcome.jobs[job].arrival,
            float(outcome.ends[job]),
            spans,
        )
        for job, spans in sorted(runs.items())
    ]
    which = "every job" if every == 1 else f"one job of {every}"
    title = f"{result.name}: {which} in order of arrival; pale: waits, full: runs"
    return charts.gantt(title, charts.time_axis(last), rows, number)


def _queues(results: Sequence[Result]) -> str:
    if not results[0].figures.queues:
        return ""
    head = "".join(f"<th colspan=2>{html.escape(result.name)}" for result in results)
    under = "<th>share<th>mean wait" * len(results)
    rows: list[str] = []
    for n, queue in enumerate(results[0].figures.queues):
        cells = "".join(
            f"<td>{result.figures.queues[n].device_share:.1%}<td>{duration(result.figures.queues[n].mean_wait)}"
            for result in results
        )
        rows.append(f"<tr><th>{html.escape(queue.name or '(root)')}<td>{queue.jobs:,}{cells}")
    return (
        f"<h2>Queues</h2><div class=wide><table><thead><tr><th rowspan=2>queue<th rowspan=2>jobs{head}<tr>{under}"
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


NOTES = (
    "Completion: from arrival to end. Waiting: of that, without devices. Rho: completion over what the job would take "
    "with an equal part of the cluster (alone on its devices, times jobs over accelerators where that is above 1); "
    "unfair: the part of the jobs above 1.05. In use: device time held, restarts included, of all that there was."
)
STYLE = """
:root{color-scheme:light dark;--bg:#fcfcfb;--fg:#1d2125;--dim:#5c6670;--rule:#dfe3e6;--pale:#d5dade;--best:#e4f3ea;
--c0:#2563a8;--c1:#c8571b;--c2:#2c8a5b;--c3:#a03b7f;--c4:#8a7000;--c5:#3f8fa8;--c6:#b0353a;--c7:#6a55b0;--c8:#5f6b2d;--c9:#7a7f85}
@media(prefers-color-scheme:dark){:root{--bg:#15181b;--fg:#e6e9ec;--dim:#9aa4ad;--rule:#2c3237;--pale:#3a4147;--best:#1d3a2a;
--c0:#6aa9ec;--c1:#f0935c;--c2:#63c592;--c3:#e083bf;--c4:#d8bd45;--c5:#74c7de;--c6:#f0787c;--c7:#ab98ee;--c8:#b3c26a;--c9:#a5abb1}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}h1{font-size:24px;margin:0}h2{font-size:17px;margin:34px 0 8px}
.sub,footer{color:var(--dim)}.sub{margin:2px 0 18px}footer{margin-top:36px;font-size:13px}
.advice{border-left:4px solid var(--c2);padding:6px 12px;margin:0 0 16px}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 20px;margin:0 0 12px;padding:0;color:var(--dim);font-size:13px}
.legend b{color:var(--fg)}i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13.5px;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:5px 9px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child{text-align:left}thead th{color:var(--dim);font-weight:500}thead tr+tr th{text-align:right}tbody th{font-weight:600}.best{background:var(--best);font-weight:600}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(520px,100%),1fr));gap:18px 26px}
figure{margin:0}figcaption{font-size:13px;color:var(--dim);margin-bottom:4px}svg{width:100%;height:auto;display:block}
.grid{stroke:var(--rule);stroke-width:1}.axis{stroke:var(--dim);stroke-width:1}.mark{fill:var(--dim);font-size:11px}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.waits{fill:var(--pale)}
""" + "".join(
    f".c{n}{{stroke:var(--c{n})}}.f{n}{{fill:var(--c{n})}}.k{n}{{background:var(--c{n})}}"
    for n in range(charts.COLOURS)
)
