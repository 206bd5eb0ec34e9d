"""Every service is restarted in turn under a steady load, and not one call of it fails."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from aios.client import Client
from aios.scheduler.v1 import job_pb2
from aios.stack import control
from aios.stack.layout import Layout
from aios.stack.services import RESTART_ORDER
from bench.steady import steady as calls
from tests.e2e import digits
from tests.e2e.stack import Stack
from tests.e2e.steady import steady as predictions

pytestmark = pytest.mark.timeout(300)


async def test_a_rolling_restart_fails_no_call_and_ends_no_job(
    aios: Stack, client: Client, deployment: dict[str, Any], folder: Path
) -> None:
    layout = Layout(aios.home)
    before = control.status(layout).services
    replica = next(iter(client.deployments.history("digits"))).replicas[0]

    with predictions(aios, "digits", digits.held_out(folder)[0][:1]) as predicted:
        async with calls(aios, predictions=False) as called:
            await asyncio.to_thread(aios.aios, "restart")
        predicted.wait(time.monotonic())

    assert not [answer for answer in called.answers if answer.error]
    assert len(called.answers) > 100
    assert not predicted.failures
    after = control.status(layout).services
    for name in RESTART_ORDER:
        assert after[name].pid != before[name].pid, f"{name} is another process"
        assert after[name].restarts == before[name].restarts, "a restart that was asked for is no death"
    job = client.jobs.get(replica.job)
    assert (job.state, job.epoch) == (job_pb2.Job.STATE_RUNNING, replica.epoch), "what the agent ran goes on"


def test_a_service_that_is_not_there_cannot_be_restarted(aios: Stack) -> None:
    refused = aios.aios("restart", "schedular", code=1)
    assert "Did you mean 'scheduler'?" in refused.err
