"""Grafana's dashboards of the platform, written out: `python tools/dashboards.py [check]`.

A dashboard is a title and panels; a panel is a title, what it plots and in which unit. The JSON beside the compose files
is made from this, so that every panel looks alike and every figure can be checked to be one that we measure.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "compose" / "observability" / "dashboards"
COLUMNS, WIDTH, HEIGHT = 2, 12, 8
CALLS = "rpc_server_call_duration_seconds"


@dataclass(frozen=True)
class Panel:
    """One plot: PromQL expressions with the legend of each."""

    title: str
    plots: tuple[tuple[str, str], ...]
    unit: str = "short"


def _by(metric: str, label: str, where: str = "") -> tuple[tuple[str, str], ...]:
    return ((f"sum by ({label}) ({metric}{{{where}}})", f"{{{{{label}}}}}"),)


def _of_revisions(figure: str, where: str = "") -> tuple[tuple[str, str], ...]:
    by = "project, deployment, revision"
    return (
        (f"sum by ({by}) (aios_revision_{figure}{{{where}}})", "{{project}}/{{deployment}} {{revision}}"),
    )


def _full(resource: str, pattern: str) -> tuple[tuple[str, str], ...]:
    held = f'sum by (node) (aios_node_held{{resource{pattern}"{resource}"}})'
    there = f'sum by (node) (aios_node_capacity{{resource{pattern}"{resource}"}})'
    return ((f"{held} / {there}", "{{node}}"),)


def _calls(where: str, by: str = "rpc_method") -> tuple[tuple[str, str], ...]:
    return ((f"sum by ({by}) (rate({CALLS}_count{{{where}}}[1m]))", f"{{{{{by}}}}}"),)


def _slow(where: str, by: str = "rpc_method") -> tuple[tuple[str, str], ...]:
    rate = f"sum by (le, {by}) (rate({CALLS}_bucket{{{where}}}[5m]))"
    return ((f"histogram_quantile(0.99, {rate})", f"{{{{{by}}}}}"),)


DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "cluster": (
        "Cluster",
        (
            Panel("Nodes", _by("aios_nodes", "state")),
            Panel("Jobs", _by("aios_jobs", "state", 'state!~"succeeded|failed|cancelled"')),
            Panel("CPU held", _full("cpu", "="), "percentunit"),
            Panel("Memory held", _full("memory", "="), "percentunit"),
            Panel("Accelerators held", _full("cpu|memory", "!~"), "percentunit"),
            Panel("Jobs ended, an hour", (('sum by (state) (delta(aios_jobs{state=~"succeeded|failed|cancelled"}[1h]))', "{{state}}"),)),
        ),
    ),
    "queues": (
        "Queues",
        (
            Panel("Waiting", _by("aios_queue_jobs", "queue", 'state="queued"')),
            Panel("Running", _by("aios_queue_jobs", "queue", 'state="running"')),
            Panel("CPU held, cores", (('aios_queue_used{resource="cpu"} / 1000', "{{queue}}"),)),
            Panel("Accelerators held", _by("aios_queue_used", "queue", 'resource!~"cpu|memory"')),
        ),
    ),
    "runs": (
        "Runs",
        (
            Panel("Under way", _by("aios_runs", "state", 'state!~"succeeded|failed|cancelled"')),
            Panel("Ended, an hour", (('sum by (state) (delta(aios_runs{state=~"succeeded|failed|cancelled"}[1h]))', "{{state}}"),)),
            Panel("Reports of metrics a second", _calls('rpc_method="ReportMetrics"')),
            Panel("99th percentile of a report", _slow('rpc_method="ReportMetrics"'), "s"),
        ),
    ),
    "deployments": (
        "Deployments",
        (
            Panel("Deployments", _by("aios_deployments", "state")),
            Panel("Replicas", _by("aios_replicas", "state")),
            Panel("Predictions a second", _of_revisions("requests_per_second"), "reqps"),
            Panel("Predictions that failed", _of_revisions("failed_ratio"), "percentunit"),
            Panel("99th percentile of a prediction", _of_revisions("time_seconds", 'quantile="0.99"'), "s"),
            Panel("Predictions under way", _of_revisions("in_flight")),
            Panel("Wait for the model", _of_revisions("queue_seconds"), "s"),
            Panel("The model's own time", _of_revisions("compute_seconds"), "s"),
            Panel("Predictions made at once", _of_revisions("batch")),
            Panel("Tokens generated a second", _of_revisions("tokens_generated_per_second")),
            Panel("Calls of the inference service a second", _calls('job="inference"')),
            Panel("99th percentile of a call", _slow('job="inference"'), "s"),
        ),
    ),
    "gateway": (
        "Gateway",
        (
            Panel("Calls a second", _calls("", "job"), "reqps"),
            Panel("99th percentile", _slow("", "job"), "s"),
            Panel("Calls that did not end well, a second", _calls('rpc_response_status_code!="OK"', "rpc_response_status_code"), "reqps"),
            Panel("The door answers in", (('httpcheck_duration_milliseconds{http_url=~".*envoy.*"}', "healthz"),), "ms"),
        ),
    ),
    "health": (
        "Health",
        (
            Panel("Services that answer (PostgreSQL included)", (("aios_serving", "{{job}}"),)),
            Panel("Event bus (NATS), as each service sees it", (("aios_bus_connected", "{{job}}"),)),
            Panel("Object store and door", (('httpcheck_status{http_status_class="2xx"}', "{{http_url}}"),)),
            Panel("Object store answers in", (('httpcheck_duration_milliseconds{http_url=~".*object-store.*"}', "ready"),), "ms"),
        ),
    ),
}  # fmt: skip


def dashboard(uid: str, title: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """One dashboard as Grafana reads it. Source: grafana.com/docs, dashboard JSON model."""
    return {
        "uid": f"aios-{uid}",
        "title": title,
        "tags": ["aios"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["aios"], "title": "AIOS", "asDropdown": False}],
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "gridPos": {"x": number % COLUMNS * WIDTH, "y": number // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.plots)
        ],
    }


def figures() -> set[str]:
    """Every figure that a panel plots, as Prometheus names it."""
    found = set()
    for _, panels in DASHBOARDS.values():
        for expression in (plot for panel in panels for plot, _ in panel.plots):
            found |= set(re.findall(r"\b(?:aios|rpc|httpcheck)_\w+(?=[{\[)]|$)", expression))
    return found


def files() -> dict[Path, str]:
    """What each file holds."""
    return {
        FOLDER / f"{uid}.json": json.dumps(dashboard(uid, title, panels), indent=1) + "\n"
        for uid, (title, panels) in DASHBOARDS.items()
    }


def main() -> None:
    """Write the files, or with `check` see that they are as they would be written."""
    stale = [path.name for path, text in files().items() if not path.exists() or path.read_text() != text]
    if sys.argv[1:] == ["check"]:
        if stale:
            sys.exit(f"not as tools/dashboards.py makes them: {', '.join(stale)}")
        return
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
