"""What deployments ask of Envoy beyond weights: held requests, sessions that stay with a revision, and counts."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest

from gateway.envoy.admin import Admin
from gateway.envoy.counts import Counts
from gateway.envoy.model import Backend, DeploymentRoute
from tests.service.envoy_stack import Model, Stack, envoy, route

OF = ("vision", "digits", "r1")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with envoy(tmp_path_factory.mktemp("envoy")) as running:
        yield running


@pytest.fixture
def models() -> Iterator[list[Model]]:
    with ExitStack() as cleanup:
        started = [Model(number) for number in (1, 2)]
        for model in started:
            cleanup.callback(model.close)
        yield started


def counted(stack: Stack) -> Counts:
    found = asyncio.run(Admin(stack.files.admin_socket).counts())
    both = [each for key, each in found.items() if key[:3] == OF]
    total = Counts()
    for each in both:
        total.requests += each.requests
        total.errors += each.errors
        total.in_flight += each.in_flight
        total.refused += each.refused
        for bound, count in each.within.items():
            total.within[bound] += count
    return total


def test_a_request_for_a_deployment_at_zero_is_held_until_a_replica_answers(
    stack: Stack, models: list[Model]
) -> None:
    asleep = DeploymentRoute("vision", "digits", (Backend("r1", 100, (), asleep=True),))
    assert stack.deploy(asleep).cold == ()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(stack.predict_http, "digits") for _ in range(2)]
        typed = [pool.submit(stack.predict_grpc, "digits") for _ in range(2)]
        while not counted(stack).refused:
            time.sleep(0.02)
        assert not any(each.done() for each in asked)
        assert not any(each.done() for each in typed)
        awake = Backend("r1", 100, (models[0].replica,))
        stack.deploy(DeploymentRoute("vision", "digits", (awake,)))
        assert {each.result().status_code for each in asked} == {200}
        assert {each.result() for each in typed} == {1.0}
        stack.deploy(asleep)
        held = pool.submit(stack.predict_http, "digits")
        stack.deploy(DeploymentRoute("vision", "digits", (awake,)))
        assert held.result().status_code == 200


def test_a_session_stays_with_its_revision_while_the_newer_ones_share_grows(
    stack: Stack, models: list[Model]
) -> None:
    old, new = models

    def answers(weight: int) -> dict[str, str]:
        one = route("vision", "digits", new, old, weights=(weight, 100 - weight))
        stack.deploy(replace(one, affinity_header="x-session"))
        found = {}
        for session in map(str, range(40)):
            stack.http.headers["x-session"] = session
            revisions = {stack.predict_http("digits").headers["x-aios-revision"] for _ in range(3)}
            (found[session],) = revisions
        del stack.http.headers["x-session"]
        return found

    few, many = answers(20), answers(60)
    moved = [session for session in few if few[session] != many[session]]
    assert 0 < sum(each == "r2" for each in few.values()) < 40
    assert moved
    assert all(many[session] == "r2" for session in moved), "nobody goes back"
    with_none = {stack.predict_http("digits").headers["x-aios-revision"] for _ in range(40)}
    assert with_none == {"r1", "r2"}, "without the header Envoy draws"


def test_envoy_counts_each_revisions_requests_failures_and_times(stack: Stack, models: list[Model]) -> None:
    stack.deploy(route("vision", "digits", models[0]))
    before = counted(stack)
    for _ in range(5):
        stack.predict_grpc("digits")
        stack.predict_http("digits")
    wrong = stack.http.post(f"{stack.url}/v2/models/digits/infer", json={"bad": 1}, headers=stack.bearer())
    until = time.monotonic() + 10
    while (now := counted(stack)).within.get(60_000.0, 0) - before.within.get(60_000.0, 0) < 10:
        assert time.monotonic() < until, now
        time.sleep(0.1)
    assert now.requests - before.requests == 11
    assert now.errors - before.errors == (wrong.status_code >= 400)
    assert now.in_flight == 0
