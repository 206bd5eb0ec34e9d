"""A deployment changes under a steady stream of predictions, and not one of them fails."""

import secrets
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from aios.client import Client
from aios.inference.v1 import deployment_pb2
from tests.e2e import digits, models
from tests.e2e.stack import Stack, eventually
from tests.e2e.steady import Answer, Steady, steady

pytestmark = pytest.mark.timeout(240)

SHIFT = 1000.0
"""Added to every logit of the second version."""


@pytest.fixture
def rolling(aios: Stack, client: Client, run: dict[str, Any]) -> Iterator[str]:
    """A deployment of the first version, for one test to change."""
    name = f"rolling-{secrets.token_hex(2)}"
    aios.aios("deploy", "digits/1", "--name", name, "--wait")
    yield name
    aios.aios("deployment", "delete", name)
    eventually(lambda: name not in str(list(client.deployments.list())), f"{name} is gone")


def test_a_rolling_update_fails_no_prediction(
    aios: Stack, client: Client, rolling: str, folder: Path, tmp_path: Path
) -> None:
    version = models.register(aios, models.shifted(aios, tmp_path, SHIFT))

    with steady(aios, rolling, digits.held_out(folder)[0][:1]) as predictions:
        predictions.wait(0.0)
        asked = time.monotonic()
        updated = aios.json("deploy", short(version), "--name", rolling, "--wait")
        predictions.wait(time.monotonic())
        eventually(lambda: retired(client, rolling), "the first revision retires")
        predictions.wait(time.monotonic())

    assert not predictions.failures, predictions.failures[:3]
    first, second = in_order(predictions, "http")
    assert {answer.revision for answer in first} == {"1"}
    assert {answer.revision for answer in second} == {"2"}
    assert all(in_order(predictions, "grpc")), "both revisions answered over gRPC too"
    assert second[0].at > asked

    new, old = aios.json("deployment", "history", rolling)
    assert (updated["state"], updated["liveRevision"]) == ("STATE_READY", new["name"])
    assert (new["state"], old["state"]) == ("STATE_LIVE", "STATE_RETIRED")
    assert new["spec"]["modelVersion"] == version
    assert when(old["liveTime"]) < when(new["liveTime"]) <= when(old["retireTime"])
    job = aios.json("job", "get", f"{rolling}-r1-0")
    assert when(job["endTime"]) > when(new["liveTime"]), "the old replica ended after the new one answered"


def test_a_broken_version_leaves_the_old_one_answering(aios: Stack, rolling: str, folder: Path) -> None:
    version = models.register(aios, b"this is no ONNX file")

    with steady(aios, rolling, digits.held_out(folder)[0][:1]) as predictions:
        predictions.wait(0.0)
        refused = aios.aios("deploy", short(version), "--name", rolling, "--wait", code=1)
        predictions.wait(time.monotonic())

    assert not predictions.failures, predictions.failures[:3]
    assert {answer.revision for answer in predictions.answers if answer.door == "http"} == {"1"}
    assert "revisions/2 cannot start" in refused.err
    degraded = aios.json("deployment", "get", rolling)
    assert (degraded["state"], degraded["liveRevision"].rpartition("/")[2]) == ("STATE_DEGRADED", "1")
    assert "revision 2 could not start" in degraded["stateMessage"]
    assert "revision 1 answers" in degraded["stateMessage"]
    assert "model.onnx" in degraded["stateMessage"], "the reason is the model's, not the platform's"

    mended = aios.json("deploy", "digits/1", "--name", rolling, "--wait")
    assert mended["state"] == "STATE_READY"


def test_a_canary_is_promoted_under_load_and_then_rolled_back_and_no_prediction_fails(
    aios: Stack, rolling: str, folder: Path
) -> None:
    canary = ("--strategy", "canary", "--steps", "50", "--step", "1s", "--requests", "5", "--max-errors", "5")
    with steady(aios, rolling, digits.held_out(folder)[0][:1]) as predictions:
        predictions.wait(0.0)
        ready = aios.json("deploy", "digits/1", "--name", rolling, "--batch-delay", "100", *canary, "--wait")
        predictions.wait(time.monotonic())
        back = aios.json("deployment", "rollback", rolling, "--reason", "as it was")
        eventually(lambda: answers(aios, rolling, back["latestRevision"]), "the former spec answers again")

    assert not predictions.failures, predictions.failures[:3]
    assert leaf(ready["liveRevision"]) == "2"
    by_http = [answer.revision for answer in predictions.answers if answer.door == "http"]
    first, last = by_http.index("2"), len(by_http) - by_http[::-1].index("1")
    assert first < last, "for a while both answered"
    changes = aios.json("deployment", "history", rolling, "--traffic")
    whys = [each["reason"] for each in changes]
    assert whys[-1] == "revision 1 answers with all of its replicas"
    assert whys[-2] == "revision 2 goes on trial with 50% of the requests"
    assert whys[-3].startswith("revision 2 is promoted: its gates held for")
    times = [when(each["effectTime"]) for each in changes]
    assert times == sorted(times, reverse=True)


def answers(aios: Stack, deployment: str, revision: str) -> bool:
    """Whether that revision is live."""
    return bool(aios.json("deployment", "get", deployment).get("liveRevision") == revision)


def leaf(name: str) -> str:
    return name.rpartition("/")[2]


def short(version: str) -> str:
    """`digits/2`, as people type it."""
    return version.partition("/models/")[2].replace("/versions/", "/")


def retired(client: Client, deployment: str) -> bool:
    """Whether all but the newest revision hold nothing."""
    _, *older = client.deployments.history(deployment)
    return all(each.state == deployment_pb2.Revision.STATE_RETIRED for each in older)


def in_order(predictions: Steady, door: str) -> tuple[list[Answer], list[Answer]]:
    """What a door answered before and after the change; one old answer after a new one is a failure."""
    answers = [answer for answer in predictions.answers if answer.door == door]
    change = next(index for index, answer in enumerate(answers) if answer.logit > SHIFT / 2)
    first, second = answers[:change], answers[change:]
    assert all(answer.logit > SHIFT / 2 for answer in second)
    return first, second


def when(text: str) -> datetime:
    return datetime.fromisoformat(text)
