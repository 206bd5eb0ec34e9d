"""The table of processes: what runs, in what order, with which settings. Compose runs the same commands."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from aios.blobs import Credentials, seaweed
from aios.config import Settings
from aios.errors import InvalidArgument
from aios.runtime import turn
from aios.runtime.tokens import write_secret
from aios.stack import nats, probes
from aios.stack.child import Service
from aios.stack.layout import Layout, program
from aios.stack.ports import HOST, LISTENERS, USUAL_PORTS
from aios.stack.probes import Probe

PORTS: Mapping[str, int] = {
    **USUAL_PORTS,
    "nats_health": 0,
    "nats_mqtt": 0,
    "nats_edge": 0,
    **{f"seaweed_{part}": 0 for part in seaweed.PORTS if part != "s3"},
}
"""Every listener: nobody but SeaweedFS itself dials its inner parts, nobody but the supervisor asks for health."""
DRAIN_SECONDS = "3"
"""How long a stopping service waits for calls, where not set: Envoy stops first, so that no caller is left."""
PASSED_ON = (
    *("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
)
"""What services get of the caller's environment: a proxy or a Python path of the shell must not reach them."""


STOP_ORDER: Sequence[Sequence[str]] = (
    # Jobs end first, while everything they report to still answers; then the doors, then what is behind them.
    ("triton", "agent"),
    ("envoy",),
    ("inference", "trainer", "data", "scheduler"),
    # It takes the last spans of the others.
    ("gateway",),
    ("nats", "s3"),
)

RESTART_ORDER: Sequence[str] = ("scheduler", "data", "trainer", "inference", "gateway", "envoy", "agent")
"""An upgrade of everything that is ours: what others ask first, so that a new caller finds a new service."""


DOORS: Sequence[tuple[str, Callable[[Settings], str]]] = (
    ("AIOS_MQTT_ADDRESS", lambda settings: settings.mqtt_address),
    ("AIOS_EDGE_ADDRESS", lambda settings: settings.edge_address),
)
"""Of devices."""


def table(
    settings: Settings, layout: Layout, ports: Mapping[str, int], given: Mapping[str, str]
) -> list[Service]:
    """Every process of this machine. A backing server that the caller's environment names is not among them.

    Raises:
        InvalidArgument: devices are to be let in from elsewhere without TLS.
    """
    for setting, address in DOORS:
        if found := address(settings):
            _require_private(settings, setting, found)
    own = [
        *([] if given.get("AIOS_NATS_URL") else [_nats(settings, layout, ports)]),
        *([] if given.get("AIOS_S3_ENDPOINT") else [_s3(settings, layout, ports)]),
    ]
    backing = frozenset(service.name for service in own)
    python = partial(_python, layout.home)
    return [
        *own,
        python("scheduler", "services.scheduler", _grpc(ports["scheduler"]), backing & {"nats"}),
        python("data", "services.data", _grpc(ports["data"]), backing),
        python("trainer", "services.trainer", _grpc(ports["trainer"]), backing & {"nats"}),
        python("inference", "services.inference", _grpc(ports["inference"]), backing & {"nats"}),
        python(
            "gateway",
            "gateway",
            probes.every(_grpc(ports["gateway"]), probes.tcp(HOST, ports["gateway_http"])),
            backing & {"nats"},
        ),
        _envoy(layout, ports),
        replace(
            python(
                "agent",
                "services.scheduler.agent",
                probes.deadline(layout.data("agent") / "lease"),
                frozenset({"scheduler"}),
            ),
            stop_seconds=25.0,  # its jobs have ten seconds to save what they have
            hand_over_by=signal.SIGKILL,  # they go on, and its successor takes them over
        ),
        Service(
            name="triton",
            command=(sys.executable, "-m", "services.inference.replica.install"),
            probe=None,
            once=True,
        ),
    ]


def settings_of(ports: Mapping[str, int], home: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The AIOS_* variables that every process gets: those given, and the address of each listener.

    Args:
        given: The caller's environment. What it sets of AIOS_*, services see too, but not who the caller is.
    """
    env = {name: value for name, value in given.items() if name.startswith("AIOS_")}
    for caller in ("AIOS_TOKEN", "AIOS_TOKEN_FILE", "AIOS_PROJECT"):
        env.pop(caller, None)
    env["AIOS_HOME"] = str(home)
    env["AIOS_ADDRESS"] = f"http://{HOST}:{ports['envoy']}"
    for name in LISTENERS:
        env[f"AIOS_{name.upper()}_ADDRESS"] = f"{HOST}:{ports[name]}"
    if not env.get("AIOS_NATS_URL"):
        env["AIOS_NATS_URL"] = f"nats://{HOST}:{ports['nats']}"
        env["AIOS_NATS_MQTT_ADDRESS"] = f"{HOST}:{ports['nats_mqtt']}"
        env["AIOS_NATS_EDGE_ADDRESS"] = f"{HOST}:{ports['nats_edge']}"
    if not env.get("AIOS_S3_ENDPOINT"):
        env["AIOS_S3_ENDPOINT"] = f"http://{HOST}:{ports['s3']}"
        env["AIOS_S3_DIRECTORY"] = str(seaweed.data_directory(Layout(home).data("s3")))
    env.setdefault("AIOS_DRAIN_SECONDS", DRAIN_SECONDS)
    return env


def environment(settings: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """What every process finds in its environment. Secrets are never in it."""
    kept = {name: given[name] for name in PASSED_ON if name in given}
    binaries = str(Path(sys.executable).parent)
    return {
        **kept,
        "PATH": os.pathsep.join((binaries, given.get("PATH", os.defpath))),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        # Two heaps instead of eight a core: services are mostly idle threads.
        "MALLOC_ARENA_MAX": "2",
        **settings,
    }


def _require_private(settings: Settings, setting: str, address: str) -> None:
    """Refuse a door for devices that would take their passwords in plain text from elsewhere."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise InvalidArgument.of(setting, f"must be HOST:PORT, not {address!r}")
    if host != HOST and None in (settings.tls_certificate_file, settings.tls_key_file):
        needs = f"needs AIOS_TLS_CERTIFICATE_FILE and AIOS_TLS_KEY_FILE, or must be {HOST}:PORT"
        raise InvalidArgument.of(setting, needs)


def _nats(settings: Settings, layout: Layout, ports: Mapping[str, int]) -> Service:
    config = layout.data("nats") / "nats.conf"
    assert settings.nats_credentials_file is not None
    text = nats.server_config(
        config_file=config,
        port=ports["nats"],
        store_dir=layout.data("nats") / "store",
        credentials_file=settings.nats_credentials_file,
        health_port=ports["nats_health"],
        devices=nats.devices(settings, layout.secrets, ports["nats_mqtt"], ports["nats_edge"]),
    )
    write_secret(config, text)
    return Service(
        name="nats",
        command=(program("nats-server"), "-c", str(config)),
        probe=probes.every(
            probes.nats(HOST, ports["nats"]),
            probes.http(
                HOST, ports["nats_health"], nats.health_path(settings.nats_credentials_file), 200, broken=503
            ),
        ),
    )


def _s3(settings: Settings, layout: Layout, ports: Mapping[str, int]) -> Service:
    assert settings.s3_credentials_file is not None
    credentials = Credentials.load(settings.s3_credentials_file)
    directory = layout.data("s3")
    seaweed.prepare(directory, credentials)
    listeners = {part: ports["s3" if part == "s3" else f"seaweed_{part}"] for part in seaweed.PORTS}
    return Service(
        name="s3",
        command=seaweed.weed_command(Path(program("weed")), directory, listeners),
        environment=seaweed.weed_environment(directory, credentials),
        # It refuses a caller without a signature: that is an answer.
        probe=probes.http(HOST, ports["s3"], "/", 200, 403),
        stop_seconds=seaweed.STOP_SECONDS,
        killed_at_end=True,
    )


def _envoy(layout: Layout, ports: Mapping[str, int]) -> Service:
    directory = layout.data("envoy")
    admin = directory / "admin.sock"
    return Service(
        name="envoy",
        command=(sys.executable, "-m", "gateway.envoy", str(directory)),
        probe=probes.every(probes.http_socket(admin, "/ready", 200), probes.tcp(HOST, ports["envoy"])),
        after=frozenset({"gateway"}),
        hand_over=admin,
        hand_over_by=None,
    )


def _python(home: Path, name: str, module: str, probe: Probe | None, after: frozenset[str]) -> Service:
    return Service(
        name=name,
        command=(sys.executable, "-m", module),
        probe=probe,
        after=after,
        hand_over=turn.sign(home, name),
    )


def _grpc(port: int) -> Probe:
    return probes.grpc_health(HOST, port)
