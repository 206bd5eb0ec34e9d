"""A picture for people: who ran when under each policy, one small panel beside the other, as one SVG that stands alone."""

import html
from collections.abc import Iterator, Sequence

from services.scheduler.simulate.charts import duration
from services.scheduler.simulate.report import Result

COLUMNS = 3
WIDTH, PLOT, HEAD, GAP, MARGIN = 300, 132, 34, 14, 12
"""Of a panel, in pixels: its width, the height of its plot and of the words above it, and what is between panels."""
STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#24292f}.b{font-weight:600;font-size:12px}.s{fill:#57606a}"
    "path{fill:none}.w{stroke:#d5dbe3}.r{stroke:#2f6fb5}rect{fill:#fff}.f{fill:#f6f8fa}"
)


def panels(results: Sequence[Result]) -> str:
    """One line for each job in order of arrival: pale while it waits, dark while it runs. All panels have one scale."""
    last = max(result.figures.makespan for result in results)
    rows = -(-len(results) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * WIDTH + (COLUMNS - 1) * GAP
    height = 2 * MARGIN + rows * (HEAD + PLOT) + (rows - 1) * GAP
    body = "".join(
        f'<g transform="translate({MARGIN + n % COLUMNS * (WIDTH + GAP)},{MARGIN + n // COLUMNS * (HEAD + PLOT + GAP)})">'
        f"{''.join(_panel(result, last))}</g>"
        for n, result in enumerate(results)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="Who ran when under each policy"><style>{STYLE}</style>'
        f'<rect width="{width}" height="{height}"/>{body}</svg>\n'
    )


def _panel(result: Result, last: float) -> Iterator[str]:
    outcome, figures = result.outcome, result.figures
    each, scale = PLOT / len(outcome.jobs), WIDTH / last
    thick = f'stroke-width="{0.7 * each:.1f}"'

    def line(job: int, start: float, stop: float) -> str:
        return f"M{start * scale:.1f} {HEAD + (job + 0.5) * each:.1f}h{max(0.4, (stop - start) * scale):.1f}"

    waits = (line(n, job.arrival, float(outcome.ends[n])) for n, job in enumerate(outcome.jobs))
    runs = (line(run.job, run.start, run.stop) for run in outcome.runs)
    yield f'<text class="b" y="11">{html.escape(result.name)}</text>'
    yield (
        f'<text class="s" y="26">mean {duration(figures.jct_mean)}, last end {duration(figures.makespan)}, '
        f"worst rho {figures.rho_max:.1f}</text>"
    )
    yield f'<rect class="f" y="{HEAD}" width="{WIDTH}" height="{PLOT}"/>'
    yield f'<path class="w" {thick} d="{"".join(waits)}"/>'
    yield f'<path class="r" {thick} d="{"".join(runs)}"/>'
