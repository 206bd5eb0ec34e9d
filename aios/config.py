"""The one table of settings. Each is read from `AIOS_<NAME>`; nothing else in the code reads the environment."""

import dataclasses
import os
import socket
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from aios.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set, with what is used where it is not."""

    home: Path = Path("~/.local/share/aios")
    """Where this machine keeps state, logs and secrets."""
    address: str = "http://127.0.0.1:8080"
    """The public door: Envoy's address as clients and jobs dial it."""
    project: str = "default"
    """Project of a command that names none."""
    token_file: Path | None = None
    """The caller's own token. Read again at each use, so that it can be renewed in place."""

    mutual_tls: bool = False
    """Whether the platform's processes speak TLS alone and know each other by certificates: `peer.crt`, `peer.key` and
    `peers.crt` among the secrets."""
    certificate_names: str = ""
    """More names and addresses, with a space between, that those certificates are made for."""

    listen_host: str = "127.0.0.1"
    """Address that servers bind. Anything but loopback needs TLS in front."""
    envoy_address: str = "127.0.0.1:8080"
    """Where Envoy listens."""
    tls_address: str = ""
    """Where Envoy listens for the outside as well, with TLS: `0.0.0.0:8443`. Nowhere when empty."""
    tls_certificate_file: Path | None = None
    """PEM with the certificate of that listener, its chain after it. Read when Envoy starts."""
    tls_key_file: Path | None = None
    """PEM with its private key."""
    mqtt_address: str = ""
    """Where Envoy listens for devices that speak MQTT: `0.0.0.0:8883`. Nowhere when empty. With the certificate above
    it is TLS; without one it must be loopback."""
    edge_address: str = ""
    """Where Envoy listens for leaf nodes of edge devices: `0.0.0.0:7422`. As `mqtt_address` otherwise."""
    scheduler_address: str = "127.0.0.1:7001"
    """gRPC of the scheduler."""
    data_address: str = "127.0.0.1:7002"
    """gRPC of the data service."""
    trainer_address: str = "127.0.0.1:7003"
    """gRPC of the trainer service."""
    inference_address: str = "127.0.0.1:7004"
    """gRPC of the inference service."""
    gateway_address: str = "127.0.0.1:7005"
    """gRPC of the gateway: identity, traces, OTLP."""
    gateway_http_address: str = "127.0.0.1:7006"
    """HTTP applications of the gateway, behind Envoy."""

    webhooks_inside: bool = False
    """Whether webhooks of alerts may lead to addresses that are not public, and over `http://`."""
    calls_per_second: int = 2000
    """Of one token through the door, predictions included. What is beyond is refused: RESOURCE_EXHAUSTED, 429."""
    cors_origins: str = ""
    """Web pages that may call the door, as origins with a space between: `https://console.example.org`."""

    nats_url: str = "nats://127.0.0.1:4222"
    """Event bus. When set, `aios up` starts no NATS of its own."""
    nats_credentials_file: Path | None = None
    """JSON with `user` and `password`. `secrets/nats.json` under home where unset."""
    nats_mqtt_address: str = "127.0.0.1:1883"
    """NATS's own MQTT listener, behind Envoy's."""
    nats_edge_address: str = "127.0.0.1:7422"
    """NATS's own listener for leaf nodes, behind Envoy's."""
    s3_endpoint: str = "http://127.0.0.1:8333"
    """Object store. When set, `aios up` starts none of its own."""
    s3_public_endpoint: str = ""
    """Address that presigned URLs carry, where clients reach the object store by another one."""
    s3_bucket: str = "aios"
    """Bucket that holds everything."""
    s3_directory: Path | None = None
    """Where an object store of this machine keeps its files: they are synced before anything is accepted. Unset for a
    store that syncs by itself."""
    s3_region: str = "us-east-1"
    """Region that requests are signed for."""
    s3_credentials_file: Path | None = None
    """JSON with `access_key` and `secret_key`. `secrets/s3.json` under home where unset."""
    encrypt_data: bool = False
    """Whether projects that hold nothing yet are encrypted in the object store, by keys that `data.key` opens."""
    audit_days: float = 365.0
    """How long it is known who read and changed data."""
    data_grace_seconds: float = 86_400.0
    """How long the bytes of what was deleted are kept."""
    ray_address: str = ""
    """A Ray cluster of the operator's own, as `ray://host:10001`, for transforms of large versions. Its token lies in
    `secrets/ray.token` of the data service. None where unset."""
    ray_bytes: int = 64 << 20
    """Size of a version from which a transform uses it: connecting takes as long as smaller ones do here."""
    database_url: str = ""
    """SQLAlchemy URL of a PostgreSQL; empty keeps one SQLite file per service under home."""

    jwks_file: Path | None = None
    """Public keys that tokens are checked with. `secrets/jwks.json` under home where unset."""
    identity_key_file: Path | None = None
    """Private Ed25519 key that signs tokens; the gateway's alone. `secrets/identity.pem` where unset."""
    scheduler_key_file: Path | None = None
    """Private Ed25519 key that signs assignments; the scheduler's alone. `secrets/scheduler.pem` where unset."""
    scheduler_public_key_file: Path | None = None
    """Public half, which agents check assignments with. `secrets/scheduler.pub` where unset."""

    node: str = ""
    """Name of this machine in the pool; the host name where unset."""
    node_cpu_millis: int = 0
    """Cores that jobs may use, in thousandths; 0 offers all."""
    node_memory_bytes: int = 0
    """Memory that jobs may use; 0 offers nine tenths of what the machine has."""
    node_devices: str = ""
    """Accelerators of this machine that no driver of ours shows: `gpu/T4=2x16GiB,fpga=1`."""
    node_budgets: str = ""
    """What else jobs may count on: `scratch=500GiB,network=1.25GB,license.solver=3`, network in bytes a second."""
    node_labels: str = ""
    """What jobs may select this machine by, beside `os` and `arch`: `zone=a,disk=ssd`."""
    sandbox: str = "auto"
    """Whether jobs are isolated: `auto` where this machine can, `require` (the agent does not start where it cannot), `off`."""
    package_index: str = ""
    """Where a node finds the packages of jobs that bring a lock of them: the address of an index, or a folder of wheels.
    PyPI when empty."""
    sandbox_paths: str = ""
    """More folders of this machine that jobs may read, with a colon between."""
    sandbox_writable: str = ""
    """More that they may write, such as storage that the nodes share: what one job leaves there another one finds."""
    lease_seconds: float = 10.0
    """How long a silent node keeps its jobs. Five heartbeats."""

    otlp_endpoint: str = ""
    """Where spans go, as `host:port` of an OTLP/gRPC receiver; the gateway's own where unset."""
    collector_address: str = ""
    """An OpenTelemetry Collector, as `host:port` of its OTLP/gRPC receiver: services send their metrics there, and the
    gateway passes every span on. None where unset."""
    telemetry: bool = True
    """Whether spans are sent at all."""
    triton_home: Path | None = None
    """Where the Triton server lies unpacked. `triton` under home where unset."""
    triton_server: Path | None = None
    """A `tritonserver` installed by other means, such as the official image's."""
    drain_seconds: float = 10.0
    """How long a stopping server waits for calls under way."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None) -> Self:
        """Read every setting from `AIOS_*`.

        Raises:
            InvalidArgument: for a value of the wrong type, naming the variable.
        """
        env = os.environ if env is None else env
        hints = typing.get_type_hints(cls)
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            variable = variable_of(field.name)
            if env.get(variable):
                values[field.name] = _convert(variable, env[variable], hints[field.name])
        return cls(**values)._resolved()

    def _resolved(self) -> Self:
        home = self.home.expanduser().absolute()
        secret = home / "secrets"
        return dataclasses.replace(
            self,
            home=home,
            nats_credentials_file=self.nats_credentials_file or secret / "nats.json",
            s3_credentials_file=self.s3_credentials_file or secret / "s3.json",
            jwks_file=self.jwks_file or secret / "jwks.json",
            identity_key_file=self.identity_key_file or secret / "identity.pem",
            scheduler_key_file=self.scheduler_key_file or secret / "scheduler.pem",
            scheduler_public_key_file=self.scheduler_public_key_file or secret / "scheduler.pub",
            node=self.node or socket.gethostname().split(".")[0].lower(),
            triton_home=self.triton_home or home / "triton",
        )

    def secret(self, name: str) -> Path:
        """Path of a file under `secrets/`."""
        return self.home / "secrets" / name

    def address_of(self, service: str) -> str:
        """gRPC address of a service by its name."""
        return str(getattr(self, f"{service}_address"))


def variable_of(field: str) -> str:
    """The environment variable of a setting."""
    return f"AIOS_{field.upper()}"


NOT_SETTINGS = (
    *("AIOS_PORT_", "AIOS_JOB", "AIOS_EPOCH", "AIOS_SCRATCH", "AIOS_TOKEN", "AIOS_TEST_"),
    *(
        "AIOS_RUN_",
        "AIOS_HPARAMS",
        "AIOS_DATA_",
        "AIOS_CHECKPOINT_",
        "AIOS_OUTPUT_",
        "AIOS_METRICS_",
        "AIOS_SEED",
    ),
    "AIOS_RESTORED_",
)
"""What the node agent tells a job and what tests read: part of the environment, not of this table."""


def unknown_variables(env: Mapping[str, str]) -> dict[str, str | None]:
    """Variables that look like settings and are none, each with the likely one."""
    known = [variable_of(field.name) for field in dataclasses.fields(Settings)]
    return {
        name: next(iter(get_close_matches(name, known, 1)), None)
        for name in env
        if name.startswith("AIOS_") and name not in known and not name.startswith(NOT_SETTINGS)
    }


def _convert(variable: str, text: str, hint: Any) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = next(option for option in options if option is not type(None))
    if kind is bool:
        if text.lower() not in ("1", "0", "true", "false", "yes", "no"):
            raise InvalidArgument.of(variable, f"must be true or false, not {text!r}")
        return text.lower() in ("1", "true", "yes")
    try:
        return kind(text)
    except ValueError:
        raise InvalidArgument.of(variable, f"must be a {kind.__name__}, not {text!r}") from None
