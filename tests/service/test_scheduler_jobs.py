"""Jobs from submit to end, on a real scheduler and a real agent."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from aios.scheduler.v1 import job_pb2
from tests.service.pool import Pool, running_pool


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    async with running_pool(tmp_path_factory.mktemp("pool")) as made:
        yield made


async def test_a_job_runs_and_its_output_can_be_read(pool: Pool) -> None:
    name = await pool.python("print('hello'); import sys; sys.exit(3)")
    job = await pool.until_final(name)
    assert job.state == job_pb2.Job.STATE_FAILED, job
    assert job.attempt.exit_code == 3
    assert await pool.log(name) == b"hello\n"
