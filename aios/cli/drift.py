"""`aios drift`: how what a deployment is asked differs from what its model was trained on."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, common, connected, figure, leaf, short, state
from aios.cli.serve import stamp
from aios.cli.serve_policies import Seconds


def _figure(name: str, column: Any) -> str:
    return figure(getattr(column, name)) if column.HasField(name) else ""


REPORT: Columns = {
    "NAME": lambda r: leaf(r.name),
    "STATE": state,
    "MODEL": lambda r: short(r.model_version),
    "AGAINST": lambda r: short(r.against),
    "ROWS": lambda r: r.rows,
    "DRIFTED": lambda r: " ".join(each.column for each in r.columns if each.drifted),
    "PSI": lambda r: f"{r.psi_max:.3g}",
    "MADE": lambda r: stamp(r.create_time),
    "WHY": lambda r: r.state_message,
}
FIGURES = ("psi", "ks", "ks_p", "mmd", "mmd_p", "outliers")
COLUMN: Columns = {
    "COLUMN": lambda c: c.column,
    "DRIFTED": lambda c: "yes" if c.drifted else "",
    **{name.upper().replace("_", " "): partial(_figure, name) for name in FIGURES},
}


@click.group(cls=Noun)
def drift() -> None:
    """Drift: what a deployment is asked, beside what its model was trained on."""


@drift.command()
@click.argument("deployment")
@click.option("--since", type=Seconds(), help="The predictions of the last 30m, 2h ...; all that are kept.")
@click.option("--against", default="", metavar="VERSION", help="Not what it was trained on: flights/@v1.")
@click.option("--psi", "psi_limit", default=0.0, help="From which a column has drifted; 0.2.")
@click.option(
    "--to", type=click.Path(dir_okay=False, path_type=Path), help="File of the page; drift-NAME.html."
)
@common
def report(
    deployment: str, since: float | None, against: str, psi_limit: float, to: Path | None
) -> int | None:
    """Compare the kept predictions of DEPLOYMENT (`aios deploy --keep`) with what its model was trained on.

    \b
      aios drift report web --since 6h
      aios drift report web --against titanic/@v2
    """
    from aios.inference.v1.monitoring_pb2 import DriftReport

    oldest = datetime.now(UTC) - timedelta(seconds=since) if since else None
    with connected() as client:
        made = client.monitoring.report_drift(deployment, since=oldest, against=against, psi_limit=psi_limit)
        output.notice(f"{leaf(made.name)} compares {short(made.model_version)} with {short(made.against)}.")
        found = client.monitoring.drift_report(made.name, wait=True)
        if found.state != DriftReport.STATE_SUCCEEDED:
            output.emit(found, REPORT)
            return 1
        page = client.transforms.page(found.version, to or Path(f"{leaf(found.name)}.html"))
    show(found)
    output.notice(f"Look at {page}.")
    return None


@drift.command("list")
@click.argument("deployment")
@common
def list_(deployment: str) -> None:
    """The drift reports of a deployment, newest first."""
    with connected() as client:
        output.emit_list(
            client.monitoring.drift_reports(deployment),
            REPORT,
            none=f"None yet: `aios drift report {deployment}` makes one.",
        )


def show(found: Any) -> None:
    """A report with its columns, those that drifted first."""
    output.emit(found, REPORT)
    if output.shared().output == "table":
        ordered = sorted(found.columns, key=lambda each: (not each.drifted, -each.psi))
        output.emit_list(iter(ordered), COLUMN, none="")
