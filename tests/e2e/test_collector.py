"""An operator's collector gets every trace and every figure that the dashboards plot."""

from typing import Any

import pytest

from aios.client import Client
from tests.collector import Receiver
from tests.e2e import stack
from tools import dashboards

EXPORTED_SECONDS = 60.0
"""For what is looked up every fifteen, and sent every fifteen."""

pytestmark = pytest.mark.timeout(300)  # whoever comes first waits for the stack, a run and a deployment too


def test_every_figure_of_the_dashboards_arrives(deployment: dict[str, Any], collector: Receiver) -> None:
    wanted = {figure for figure in dashboards.figures() if figure.startswith(("aios_", "rpc_server_"))}
    stack.eventually(lambda: wanted <= collector.figures(), "every figure", EXPORTED_SECONDS)
    assert {"gateway", "scheduler", "data", "trainer", "inference"} <= collector.metrics.keys()


def test_the_trace_of_a_run_arrives_whole(client: Client, run: dict[str, Any], collector: Receiver) -> None:
    kept = {span.span_id for span in client.traces.get(run["traceId"]).spans}
    assert kept
    stack.eventually(lambda: kept <= collector.of(run["traceId"]), "every span that is kept here")
