"""The rules of Envoy's configuration that need no Envoy."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from gateway.envoy import routes
from gateway.envoy.files import ConfigFiles, write_resources
from gateway.envoy.listener import listeners, predict_descriptors
from gateway.envoy.model import (
    Address,
    Backend,
    DeploymentRoute,
    Mirror,
    Passage,
    Pem,
    Replica,
    Services,
    Snapshot,
    Tls,
    from_json,
    to_json,
)

SERVICES = Services(*(Address("127.0.0.1", 7001 + i) for i in range(6)))

ids = st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True)
ports = st.integers(1, 65535)
replicas = st.builds(Replica, st.just("127.0.0.1"), ports, ports)
backends = st.builds(Backend, ids, st.integers(0, 100), st.lists(replicas, max_size=3).map(tuple))
deployments = st.builds(
    DeploymentRoute,
    ids,
    ids,
    st.lists(backends, max_size=3, unique_by=lambda backend: backend.revision).map(tuple),
    st.none() | st.builds(Mirror, st.builds(Backend, st.just("0-shadow"), st.just(0)), st.floats(0, 100)),
)
snapshots = st.builds(
    Snapshot,
    st.just(SERVICES) | st.just(replace(SERVICES, collector=Address("otel", 4317))),
    st.just('{"keys": []}'),
    st.frozensets(st.text(max_size=20), max_size=5),
    st.lists(deployments, max_size=4).map(tuple),
    st.just(("/openapi.json",)),
)


def all_routes(snapshot: Snapshot) -> list[dict[str, Any]]:
    (host,) = routes.routes(snapshot)["virtual_hosts"]
    found: list[dict[str, Any]] = host["routes"]
    return found


@given(snapshots)
def test_a_snapshot_survives_its_file(snapshot: Snapshot) -> None:
    assert from_json(json.loads(json.dumps(to_json(snapshot)))) == snapshot


@given(snapshots)
def test_every_route_to_a_replica_is_bound_to_its_project(snapshot: Snapshot) -> None:
    projects = {
        name: deployment.project
        for deployment in snapshot.deployments
        for name, _, _ in deployment.clusters()
    }
    for route in all_routes(snapshot):
        for cluster in route.get("route", {}).get("weighted_clusters", {}).get("clusters", ()):
            bound = {header["name"]: header["string_match"]["exact"] for header in route["match"]["headers"]}
            assert bound[routes.PROJECT_HEADER] == projects[cluster["name"]]


@given(snapshots)
def test_no_token_is_needed_only_where_it_is_said(snapshot: Snapshot) -> None:
    opened = [
        route["match"]
        for route in all_routes(snapshot)
        if route.get("typed_per_filter_config", {}).get("envoy.filters.http.jwt_authn")
    ]
    assert opened == [{"path": "/healthz"}, {"prefix": "/grpc.health.v1.Health/"}, {"path": "/openapi.json"}]


def test_a_backend_of_no_weight_is_warm_but_gets_no_traffic() -> None:
    replica = Replica("127.0.0.1", 1, 2)
    deployment = DeploymentRoute("p", "d", (Backend("r1", 5, (replica,)), Backend("r2", 0, (replica,))))
    assert len(list(deployment.clusters())) == 4
    text = json.dumps(all_routes(Snapshot(SERVICES, "{}", deployments=(deployment,))))
    assert "p~d~r1~grpc" in text
    assert "p~d~r2~grpc" not in text


@pytest.mark.parametrize("name", ["", "a~b", "../b", "a/b", "a b", "é", "a" * 64])
def test_a_name_that_could_mean_another_cluster_or_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a cluster"):
        DeploymentRoute("p", name)


def test_a_revision_appears_once_and_weighs_nothing_negative() -> None:
    with pytest.raises(ValueError, match="twice"):
        DeploymentRoute("p", "d", (Backend("r", 1, ()), Backend("r", 1, ())))
    with pytest.raises(ValueError, match="negative"):
        DeploymentRoute("p", "d", (Backend("r", -1, ()),))


def test_only_loopback_is_served_without_tls() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(ValueError, match="needs TLS"):
            listeners(address=Address(host, 8080), jwks="{}", routes_path="/r.json")
    outside = Tls(Address("0.0.0.0", 8443), Pem("c.pem", "k.pem"))
    inner, outer = listeners(address=Address("127.0.0.1", 80), jwks="{}", routes_path="/r", tls=outside)
    assert "transport_socket" not in inner["filter_chains"][0]
    assert outer["filter_chains"][0]["transport_socket"]


def test_passwords_of_devices_leave_the_machine_only_over_tls() -> None:
    def door(host: str, pem: Pem | None = None) -> Any:
        mqtt = Passage("mqtt", Address(host, 8883), Address("127.0.0.1", 1883), pem)
        return listeners(address=Address("127.0.0.1", 80), jwks="{}", routes_path="/r", passages=[mqtt])[-1]

    for host in ("0.0.0.0", "192.0.2.1", "envoy"):
        with pytest.raises(ValueError, match="needs TLS"):
            door(host)
        assert door(host, Pem("c.pem", "k.pem"))["filter_chains"][0]["transport_socket"]
    assert "transport_socket" not in door("127.0.0.1")["filter_chains"][0]


def test_in_a_container_envoy_listens_on_all_addresses() -> None:
    [made] = listeners(address=Address("envoy", 8080), jwks="{}", routes_path="/r.json")
    assert made["address"]["socket_address"]["address"] == "0.0.0.0"


def test_what_routing_reads_of_a_prediction_is_what_the_protocol_says() -> None:
    (described,) = predict_descriptors().file
    real = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    messages = {message.name: message for message in described.message_type}
    assert {method.name for method in described.service[0].method} == set(routes.PREDICT_METHODS)
    for method in described.service[0].method:
        request = real[method.name].input_type
        (field,) = messages[method.input_type.rpartition(".")[2]].field
        assert method.input_type == f".{request.full_name}"
        assert request.fields_by_name[routes.PREDICT_METHODS[method.name]].number == field.number
        assert field.type == request.fields_by_name[field.name].type


@pytest.fixture
def files(tmp_path: Path) -> ConfigFiles:
    created = ConfigFiles(tmp_path / "envoy")
    created.create()
    return created


def test_files_are_private_whole_and_written_only_when_they_change(files: ConfigFiles) -> None:
    files.write_token("secret")
    first = files.token.stat()
    assert stat.S_IMODE(first.st_mode) == 0o600
    assert stat.S_IMODE(files.root.stat().st_mode) == 0o700

    files.write_token("secret")
    assert files.token.stat().st_ino == first.st_ino
    files.write_token("fresh")
    assert files.token.stat().st_ino != first.st_ino, "replaced, not written over"
    assert [path.name for path in files.root.iterdir() if path.suffix == ".tmp"] == []


def test_a_version_names_its_content(files: ConfigFiles) -> None:
    one = write_resources(files.routes, [{"a": 1}])
    assert write_resources(files.routes, [{"a": 2}]) != one
    assert write_resources(files.routes, [{"a": 1}]) == one
    assert json.loads(files.routes.read_text()) == {"version_info": one, "resources": [{"a": 1}]}


def test_a_snapshot_of_another_version_is_none(files: ConfigFiles) -> None:
    assert files.load() is None
    files.save(Snapshot(SERVICES, "{}"))
    assert files.load() == Snapshot(SERVICES, "{}")
    (files.root / "snapshot.json").write_text('{"services": {"other": 1}}')
    assert files.load() is None


def test_a_home_too_deep_for_a_socket_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter home"):
        ConfigFiles(tmp_path / ("x" * 100))
