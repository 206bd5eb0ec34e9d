"""A short storm; `python -m tests.faults.storm` is the long one."""

from pathlib import Path

import pytest

from tests.faults.storm import storm


@pytest.mark.timeout(240)
async def test_no_job_is_lost_doubled_or_given_what_another_has(tmp_path: Path) -> None:
    made = await storm(tmp_path, 20, 1)
    assert made.jobs > 50
    assert not made.violations
