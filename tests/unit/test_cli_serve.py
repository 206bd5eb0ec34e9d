"""What `aios deploy` makes of its options."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from aios.cli import serve_policies
from aios.cli.serve import shares
from aios.inference.v1 import deployment_pb2 as pb


def parsed(*arguments: str) -> Any:
    """Both policies as the command line says them, or how click refuses it."""
    found = []

    @click.command()
    @serve_policies.rollout
    @serve_policies.scaling
    def command(**options: Any) -> None:
        found.append((serve_policies.rollout_of(options), serve_policies.scaling_of(options)))

    done = CliRunner().invoke(command, arguments)
    return found[0] if found else done.output


def test_a_canary_with_its_gates() -> None:
    rollout, scaling = parsed(
        *("--strategy", "canary", "--steps", "5,25%", "--step", "2m", "--affinity", "x-session"),
        *("--max-errors", "0.5", "--max-p99", "250ms", "--min-quality", "accuracy=0.9", "--requests", "20"),
    )
    gates = pb.Gates(
        requests_min=20, errors_percent_max=0.5, p99_millis_max=250, quality_min={"accuracy": 0.9}
    )
    assert rollout == pb.RolloutPolicy(
        kind=pb.RolloutPolicy.KIND_CANARY,
        steps=[5, 25],
        step_seconds=120,
        affinity_header="x-session",
        gates=gates,
    )
    assert scaling is None


def test_a_rule_for_how_many() -> None:
    assert parsed()[1] is None
    assert parsed("--max", "4")[1] == pb.ScalingPolicy(min_replicas=1, max_replicas=4)
    assert parsed("--min", "0", "--idle", "5m")[1] == pb.ScalingPolicy(max_replicas=1, idle_seconds=300)
    assert parsed("--max", "0")[1] == pb.ScalingPolicy()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--step", "soon"), "write 250ms, 30s or 5m"),
        (("--steps", "a,b"), "write 10,50"),
        (("--strategy", "canary", "--min-quality", "accuracy"), "NAME=FIGURE"),
    ],
)
def test_what_cannot_be_read_says_how_to_write_it(arguments: tuple[str, ...], says: str) -> None:
    assert says in parsed(*arguments)


def test_shares_are_told_by_number() -> None:
    found = [
        pb.TrafficShare(revision="projects/p/deployments/d/revisions/7", percent=90),
        pb.TrafficShare(revision="projects/p/deployments/d/revisions/8", mirror_percent=40),
        pb.TrafficShare(revision="projects/p/deployments/d/revisions/6"),
    ]
    assert shares(found) == "7:90% 8:copies of 40%"
