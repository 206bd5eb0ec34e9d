"""What the gateway wants Envoy to do, as plain values. Pure: everything else in this package is derived from a `Snapshot`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

# A cluster's name holds these parts and also names its file: no separator and no path can hide in them.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_SEPARATOR = "~"


class Address(NamedTuple):
    """Where a server listens. `host` is an IP address or, for services, a DNS name."""

    host: str
    port: int


class Replica(NamedTuple):
    """One Triton process (or the activator standing in for one). `host` is an IP address."""

    host: str
    http_port: int
    grpc_port: int

    def address(self, protocol: str) -> Address:
        return Address(self.host, self.grpc_port if protocol == "grpc" else self.http_port)


@dataclass(frozen=True)
class Backend:
    """One revision of a deployment and the replicas that serve exactly it.

    `weight` is relative to the other backends of the deployment; 0 keeps the clusters warm without traffic.
    """

    revision: str
    weight: int
    replicas: tuple[Replica, ...]
    asleep: bool = False
    """Has no replica by choice: Envoy holds its requests until it has one."""


@dataclass(frozen=True)
class Mirror:
    """A revision that gets a copy of `percent` of the requests; its answers are thrown away."""

    backend: Backend
    percent: float


@dataclass(frozen=True)
class DeploymentRoute:
    """How predictions for one deployment are routed. Without a backend of positive weight it answers 503."""

    project: str
    name: str
    backends: tuple[Backend, ...] = ()
    mirror: Mirror | None = None
    affinity_header: str = ""
    """Requests with the same value of this header go to the same revision."""

    def __post_init__(self) -> None:
        revisions = [backend.revision for backend in self._all_backends()]
        for part in (self.project, self.name, *revisions):
            if not _ID.fullmatch(part):
                raise ValueError(
                    f"{part!r} cannot name a cluster: use letters, digits, '_' and '-', 63 at most"
                )
        if len(set(revisions)) != len(revisions):
            raise ValueError(f"deployment {self.name!r} lists a revision twice: {revisions}")
        if any(backend.weight < 0 for backend in self.backends):
            raise ValueError(f"deployment {self.name!r} has a negative weight")

    @property
    def key(self) -> tuple[str, str]:
        return (self.project, self.name)

    @property
    def serving(self) -> tuple[Backend, ...]:
        """The backends that get traffic."""
        return tuple(backend for backend in self.backends if backend.weight > 0)

    def clusters(self) -> Iterator[tuple[str, Backend, str]]:
        """(cluster name, backend, protocol) of every cluster this deployment needs."""
        for backend in self._all_backends():
            for protocol in ("http", "grpc"):
                yield self.cluster_name(backend, protocol), backend, protocol

    def cluster_name(self, backend: Backend, protocol: str) -> str:
        return _SEPARATOR.join((self.project, self.name, backend.revision, protocol))

    def _all_backends(self) -> tuple[Backend, ...]:
        return self.backends + ((self.mirror.backend,) if self.mirror else ())


@dataclass(frozen=True)
class Services:
    """Addresses of the control plane, as Envoy reaches them."""

    scheduler: Address
    data: Address
    trainer: Address
    inference: Address
    gateway_grpc: Address
    gateway_http: Address
    collector: Address | None = None
    """OTLP/gRPC receiver of Envoy's spans. None: the gateway's own."""


class Pem(NamedTuple):
    """PEM files of a certificate, as Envoy finds them."""

    certificate: str
    private_key: str

    def as_json(self) -> dict[str, Any]:
        return {
            "certificate_chain": {"filename": self.certificate},
            "private_key": {"filename": self.private_key},
        }


@dataclass(frozen=True)
class Tls:
    """The door to the outside: where it listens, and its certificate."""

    address: Address
    pem: Pem


@dataclass(frozen=True)
class Passage:
    """A door for devices: bytes go through to a listener of NATS's own, which knows who they are."""

    name: str
    """`mqtt` or `edge`; the setting of its address is named after it."""
    address: Address
    upstream: Address
    pem: Pem | None = None
    """None: in plain text, on loopback alone."""


@dataclass(frozen=True)
class Inside:
    """TLS between Envoy and the services, which take calls of peers alone; and at the door that jobs use."""

    pem: Pem
    authority: str
    """PEM of whoever signed the certificates of all peers."""


@dataclass(frozen=True)
class Snapshot:
    """Everything Envoy must know at one moment."""

    services: Services
    jwks: str
    """JSON Web Key Set with the public Ed25519 keys that sign our tokens, at least one: Envoy refuses an empty set."""
    revoked: frozenset[str] = frozenset()
    """Token ids to refuse. One may leave the set CLOCK_SKEW_SECONDS after its token expired."""
    deployments: tuple[DeploymentRoute, ...] = ()
    open_paths: tuple[str, ...] = ()
    """HTTP paths of the gateway's apps that need no token; one that ends in "/" opens everything below it."""
    cors_origins: tuple[str, ...] = ()
    """Exact origins (`https://console.example.org`) whose pages may call us. None by default."""


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """Plain JSON values; `from_json` reads them back."""
    return asdict(snapshot) | {"revoked": sorted(snapshot.revoked)}


def from_json(value: dict[str, Any]) -> Snapshot:
    """Inverse of `to_json`. Raises KeyError, TypeError or ValueError when `value` is not a snapshot."""
    services = {name: Address(*address) if address else None for name, address in value["services"].items()}
    return Snapshot(
        services=Services(**services),  # type: ignore[arg-type]  # only `collector` may be None
        jwks=value["jwks"],
        revoked=frozenset(value["revoked"]),
        deployments=tuple(_deployment(item) for item in value["deployments"]),
        open_paths=tuple(value["open_paths"]),
        cors_origins=tuple(value["cors_origins"]),
    )


def _deployment(value: dict[str, Any]) -> DeploymentRoute:
    mirror = value["mirror"]
    return DeploymentRoute(
        project=value["project"],
        name=value["name"],
        backends=tuple(_backend(item) for item in value["backends"]),
        mirror=Mirror(_backend(mirror["backend"]), mirror["percent"]) if mirror else None,
        affinity_header=value["affinity_header"],
    )


def _backend(value: dict[str, Any]) -> Backend:
    return Backend(
        value["revision"],
        value["weight"],
        tuple(Replica(*replica) for replica in value["replicas"]),
        value["asleep"],
    )
