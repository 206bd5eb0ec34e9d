"""The configuration of this machine's NATS server.

It imports no client of NATS: the supervisor needs this text and nothing of what services load to speak to the server.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from aios.config import Settings
from aios.runtime import nkeys
from aios.runtime.peers import Peer
from aios.runtime.tokens import read_key

MAX_PAYLOAD_BYTES = 1024 * 1024  # NATS' own default: larger messages belong into the object store
CONNECTIONS_MAX = 256  # services and jobs' helpers of one machine; each costs the server some 50 KiB
DEVICES_MAX = 4096  # connected at once; Envoy lets in no more
# Not left to the server: it would take three quarters of what is free when it starts, and one that starts on a full
# disk would refuse every event until it is restarted. The streams' own bounds are below this (aios/bus/streams.py).
FILE_STORE_BYTES = 1024 * 1024 * 1024
MEMORY_STORE_BYTES = 64 * 1024 * 1024  # our streams are files; this bounds what a mistake could take


@dataclass(frozen=True)
class Devices:
    """The listeners for devices, and what it takes to know them."""

    mqtt_port: int
    """0: none."""
    edge_port: int
    """Of leaf nodes. 0: none."""
    key_file: Path
    """Private key of whoever answers for devices: the data service. The server gets the public half."""
    system_credentials_file: Path
    """JSON with `user` and `password` of the account that may close connections."""


def devices(settings: Settings, secrets: Path, mqtt_port: int, edge_port: int) -> Devices | None:
    """What the settings let in; None where that is nobody."""
    if not (settings.mqtt_address or settings.edge_address):
        return None
    return Devices(
        mqtt_port if settings.mqtt_address else 0,
        edge_port if settings.edge_address else 0,
        secrets / "devices.pem",
        secrets / "nats-system.json",
    )


def server_config(
    *,
    config_file: Path,
    port: int,
    store_dir: Path,
    credentials_file: Path,
    host: str = "127.0.0.1",
    health_port: int = 0,
    peer: Peer | None = None,
    devices: Devices | None = None,
) -> str:
    """The text of the server's configuration.

    Args:
        config_file: Where the text will lie: the server looks for the credentials relative to it.
        credentials_file: JSON with `user` and `password`. The server reads it, so that the secret is in one file only.
        health_port: Where it answers `GET {health_path(credentials_file)}`; nowhere when 0.
        peer: Who the server is, where only peers may connect, over TLS.
        devices: Where devices speak to it. None closes that.
    """
    credentials = os.path.relpath(credentials_file, config_file.parent)
    known = (
        _known(devices, config_file, credentials_file) if devices else f"include {json.dumps(credentials)}"
    )
    monitor = f"""
http: {json.dumps(f"{host}:{health_port}")}
http_base_path: {json.dumps(_monitor_path(credentials_file))}
"""
    return f"""\
server_name: aios
host: {json.dumps(host)}
port: {port}
max_payload: {MAX_PAYLOAD_BYTES}
max_connections: {CONNECTIONS_MAX + (DEVICES_MAX if devices else 0)}

jetstream {{
  store_dir: {json.dumps(str(store_dir))}
  max_memory_store: {MEMORY_STORE_BYTES}
  max_file_store: {FILE_STORE_BYTES}
  # Acknowledged means on disk. The default acknowledges up to two minutes before.
  sync_interval: always
}}

authorization {{
  {known}
}}
{_devices(devices, config_file, host, peer) if devices else ""}{_tls(peer) if peer else ""}{monitor if health_port else ""}"""


def _known(devices: Devices, config_file: Path, credentials_file: Path) -> str:
    """Who is known by a password in a file; of everybody else the data service is asked."""
    credentials = os.path.relpath(credentials_file, config_file.parent)
    named = [
        json.loads(file.read_text())["user"] for file in (credentials_file, devices.system_credentials_file)
    ]
    issuer = nkeys.account(read_key(devices.key_file).public_key())
    return f"""users: [ {_user(credentials)} ]
  auth_callout {{ issuer: {json.dumps(issuer)}, auth_users: {json.dumps(named)}, account: "$G" }}"""


def _devices(devices: Devices, config_file: Path, host: str, peer: Peer | None) -> str:
    system = os.path.relpath(devices.system_credentials_file, config_file.parent)
    mqtt = f"""
mqtt {{
  host: {json.dumps(host)}
  port: {devices.mqtt_port}{_tls(peer) if peer else ""}
}}"""
    # Envoy begins with TLS: it waits for no greeting.
    edge = f"""
leafnodes {{
  host: {json.dumps(host)}
  port: {devices.edge_port}{_tls(peer, "handshake_first: true") if peer else ""}
}}"""
    return f"""
accounts {{ SYS {{ users: [ {_user(system)} ] }} }}
system_account: SYS
{mqtt if devices.mqtt_port else ""}{edge if devices.edge_port else ""}
"""


def _user(credentials: str) -> str:
    """Somebody of the platform: not through the doors that devices come by, whatever leaks."""
    return f"""{{ include {json.dumps(credentials)}
    allowed_connection_types: ["STANDARD"] }}"""


def _tls(peer: Peer, more: str = "") -> str:
    return f"""
tls {{
  cert_file: {json.dumps(str(peer.certificate))}
  key_file: {json.dumps(str(peer.key))}
  ca_file: {json.dumps(str(peer.authority))}
  verify: true
  {more}
}}
"""


def health_path(credentials_file: Path) -> str:
    """Where the server says whether it can store messages: 200, or 503 until it is restarted.

    After a write that failed, such as on a full disk, a stream takes nothing more until then.
    """
    return f"{_monitor_path(credentials_file)}/healthz"


def _monitor_path(credentials_file: Path) -> str:
    # The monitor asks for no password, and shows who is connected: only who could log in finds it.
    password = json.loads(credentials_file.read_text())["password"]
    return "/" + hashlib.sha256(f"monitor {password}".encode()).hexdigest()
