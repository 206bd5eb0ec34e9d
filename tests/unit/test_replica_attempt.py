"""What a replica reads from the node agent."""

import pytest

from aios.errors import InvalidArgument
from services.inference.replica.app import Attempt
from services.inference.replica.server import Ports

TOLD = {
    "AIOS_JOB": "projects/demo/jobs/j",
    "AIOS_EPOCH": "2",
    "AIOS_PORT_HTTP": "8000",
    "AIOS_PORT_GRPC": "8001",
    "AIOS_PORT_METRICS": "8002",
}


def test_the_agents_words_are_read() -> None:
    attempt = Attempt.load({**TOLD, "OMP_NUM_THREADS": "3", "AIOS_SCRATCH": "/s"})
    assert (attempt.job, attempt.epoch, attempt.ports) == ("projects/demo/jobs/j", 2, Ports(8000, 8001, 8002))
    assert (attempt.threads, attempt.scratch) == (3, "/s")
    assert (Attempt.load(TOLD).threads, Attempt.load(TOLD).scratch) == (1, None)


@pytest.mark.parametrize(
    ("name", "value"), [*((name, "") for name in TOLD), ("AIOS_EPOCH", "many"), ("AIOS_PORT_GRPC", "-1")]
)
def test_what_is_missing_or_wrong_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=name):
        Attempt.load({**TOLD, name: value})
