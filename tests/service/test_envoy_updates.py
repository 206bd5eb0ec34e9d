"""Envoy's configuration changes while requests pass, and survives both processes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from gateway.envoy.model import Address, Backend, DeploymentRoute
from gateway.envoy.publish import ConfigRefused
from tests.service.envoy_stack import LOCAL, Model, Stack, envoy, grpc_input, route


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with envoy(tmp_path_factory.mktemp("envoy")) as running:
        yield running


@pytest.fixture
def models() -> Iterator[list[Model]]:
    """Three replicas, numbered from 1."""
    with ExitStack() as cleanup:
        started = [Model(number) for number in (1, 2, 3)]
        for model in started:
            cleanup.callback(model.close)
        yield started


@contextmanager
def load(stack: Stack, model: str) -> Iterator[Counter[str]]:
    """Two gRPC clients and an HTTP client that predict without a pause. Yields what they got, by answer."""
    answers: Counter[str] = Counter()
    stop = threading.Event()

    def over_grpc() -> None:
        headers, tensor = stack.bearer(), grpc_input(np.zeros(1, np.float32))
        with triton_grpc.InferenceServerClient(f"{LOCAL}:{stack.port}") as client:
            while not stop.is_set():
                try:
                    answers[str(client.infer(model, [tensor], headers=headers).as_numpy("y")[0])] += 1
                except InferenceServerException as error:
                    answers[f"failed: {error}"] += 1

    def over_http() -> None:
        while not stop.is_set():
            reply = stack.predict_http(model)
            ok = reply.status_code == 200
            answers[str(reply.json()["outputs"][0]["data"][0]) if ok else f"failed: {reply.text}"] += 1

    with ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(work) for work in (over_grpc, over_grpc, over_http)]
        try:
            yield answers
        finally:
            stop.set()
    for client in clients:
        client.result()


def test_no_request_fails_while_revisions_replace_each_other(stack: Stack, models: list[Model]) -> None:
    one, two, three = models
    stack.deploy(route("vision", "digits", one))
    with load(stack, "digits") as answers:
        for deployment in (
            route("vision", "digits", one, two, weights=(9, 1)),
            route("vision", "digits", two),
            route("vision", "digits", two, three, weights=(1, 1)),
            route("vision", "digits", three),
            route("vision", "digits", one, mirror=two),
            route("vision", "digits", two),
        ):
            assert stack.deploy(deployment).cold == ()
            time.sleep(0.1)
    assert {"1.0", "2.0", "3.0"} == set(answers), answers
    assert answers.total() > 300


def test_a_replica_moves_within_its_revision_without_a_failed_request(
    stack: Stack, models: list[Model]
) -> None:
    old, new, _ = models
    backend = Backend("r7", 1, (old.replica,))
    stack.deploy(DeploymentRoute("vision", "digits", (backend,)))
    new.ready = False
    threading.Timer(0.3, setattr, (new, "ready", True)).start()
    with load(stack, "digits") as answers:
        moved = replace(backend, replicas=(new.replica,))
        assert stack.deploy(DeploymentRoute("vision", "digits", (moved,))).cold == ()
        assert stack.predict_grpc("digits") == 2.0
    assert {"1.0", "2.0"} == set(answers), answers


def test_a_request_under_way_ends_on_the_revision_it_began_with(stack: Stack, models: list[Model]) -> None:
    slow, fast, _ = models
    slow.delay = 4.0  # longer than any of what follows takes, on a busy machine too
    stack.deploy(route("vision", "digits", slow))
    with ThreadPoolExecutor(2) as pool:
        grpc_answer = pool.submit(stack.predict_grpc, "digits")
        http_answer = pool.submit(stack.predict_http, "digits")
        while len(slow.seen) < 2:
            time.sleep(0.01)
        stack.deploy(route("vision", "digits", fast))
        assert stack.predict_grpc("digits") == 2.0
        assert not grpc_answer.done()
        assert grpc_answer.result() == 1.0
        assert http_answer.result().json()["outputs"][0]["data"] == [1.0]


def test_weights_split_the_traffic(stack: Stack, models: list[Model]) -> None:
    one, two, _ = models
    stack.deploy(route("vision", "digits", one, two, weights=(80, 20)))
    headers, tensor = stack.bearer(), grpc_input(np.zeros(1, np.float32))
    with triton_grpc.InferenceServerClient(f"{LOCAL}:{stack.port}") as client:
        answers = Counter(
            client.infer("digits", [tensor], headers=headers).as_numpy("y")[0] for _ in range(300)
        )
    assert 0.11 < answers[2.0] / answers.total() < 0.29  # four standard deviations


def test_a_mirror_sees_every_request_and_no_client_sees_the_mirror(stack: Stack, models: list[Model]) -> None:
    one, shadow, _ = models
    stack.deploy(route("vision", "digits", one, mirror=shadow))
    assert {stack.predict_grpc("digits") for _ in range(10)} == {1.0}
    assert {stack.predict_http("digits").headers["x-aios-revision"] for _ in range(10)} == {"r1"}
    eventually(lambda: len(shadow.seen) == 20)
    shadow.close()
    assert {stack.predict_grpc("digits") for _ in range(10)} == {1.0}


def test_a_revision_that_never_gets_ready_gets_no_traffic(stack: Stack, models: list[Model]) -> None:
    one, two, _ = models
    stack.deploy(route("vision", "digits", one))
    two.ready = False
    assert stack.deploy(route("vision", "digits", two)).cold == (("vision", "digits"),)
    assert stack.predict_grpc("digits") == 1.0
    two.ready = True
    assert stack.deploy(route("vision", "digits", two)).cold == ()
    assert stack.predict_grpc("digits") == 2.0


def test_a_replica_that_has_died_costs_no_request(stack: Stack, models: list[Model]) -> None:
    one, two, _ = models
    stack.deploy(DeploymentRoute("vision", "digits", (Backend("r5", 1, (one.replica, two.replica)),)))
    assert {stack.predict_grpc("digits") for _ in range(20)} == {1.0, 2.0}
    one.close()
    assert {stack.predict_grpc("digits") for _ in range(20)} == {2.0}
    assert {stack.predict_http("digits").status_code for _ in range(20)} == {200}


def test_a_deployment_that_is_gone_is_not_found_and_in_time_leaves_no_file(
    stack: Stack, models: list[Model]
) -> None:
    stack.deploy(route("vision", "digits", models[0]))
    stack.deploy()
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        stack.predict_grpc("digits")
    stack.skipped_seconds += 61
    stack.deploy()
    assert list(stack.files.endpoints.iterdir()) == []


def test_a_slow_upload_ends_after_its_revision_lost_the_route(stack: Stack, models: list[Model]) -> None:
    one, two, _ = models
    stack.deploy(route("vision", "digits", one))
    half, moved = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield b'{"inputs": [{"data": '
        half.set()
        moved.wait(10)
        yield b"[0.0]}]}"

    with ThreadPoolExecutor(1) as pool:
        url = f"{stack.url}/v2/models/digits/infer"
        upload = pool.submit(httpx.post, url, content=body(), headers=stack.bearer())
        half.wait(10)
        time.sleep(0.1)
        stack.deploy(route("vision", "digits", two))
        moved.set()
        assert upload.result().json()["outputs"][0]["data"] == [1.0]


def test_a_revoked_token_is_refused_and_no_connection_notices(stack: Stack, models: list[Model]) -> None:
    stack.deploy(route("vision", "digits", models[0]))
    headers, tensor = stack.bearer(jti="leaked"), grpc_input(np.zeros(1, np.float32))
    with triton_grpc.InferenceServerClient(f"{LOCAL}:{stack.port}") as client:
        client.infer("digits", [tensor], headers=headers)
        listeners = stack.files.listeners.stat().st_mtime_ns

        began = time.monotonic()
        stack.revoke("leaked")

        assert time.monotonic() - began < 2
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            client.infer("digits", [tensor], headers=headers)
        client.infer("digits", [tensor], headers=stack.bearer(jti="other"))
    refused = stack.get("/v1/x", headers)
    assert (refused.status_code, refused.json()["reason"]) == (401, "TOKEN_REVOKED")
    assert stack.files.listeners.stat().st_mtime_ns == listeners


def test_a_fresh_telemetry_token_is_used_at_once(stack: Stack) -> None:
    stack.files.write_token("fresh")

    def exported() -> bool:
        stack.get("/healthz")
        return "Bearer fresh" in stack.collector.authorizations

    eventually(exported)


def test_a_file_that_envoy_refuses_changes_nothing(stack: Stack, models: list[Model]) -> None:
    stack.deploy(route("vision", "digits", models[0]))
    good = stack.snapshot
    bad = replace(good, services=replace(good.services, data=Address(LOCAL, 70_000)))
    with pytest.raises(ConfigRefused, match=r"clusters\.json"):
        asyncio.run(stack.publisher.apply(bad))
    assert stack.predict_grpc("digits") == 1.0
    assert "70000" not in stack.files.clusters.read_text(), "Envoy can restart from what is there"
    asyncio.run(stack.publisher.apply(good))


def test_envoy_restarts_with_what_it_had_and_a_new_control_plane_takes_over(
    stack: Stack, models: list[Model]
) -> None:
    one, two, _ = models
    stack.deploy(route("vision", "digits", one))
    stack.process.kill()
    stack.process.wait()

    stack.start_envoy()
    eventually(lambda: stack.predict_http("digits").status_code == 200)

    remembered = stack.files.load()
    assert remembered == stack.snapshot
    publisher = stack.new_publisher()
    with load(stack, "digits") as answers:
        asyncio.run(publisher.start(remembered, node_id="test", token="service-token"))
        asyncio.run(publisher.apply(replace(remembered, deployments=(route("vision", "digits", two),))))
    assert {"1.0", "2.0"} == set(answers), answers


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
