"""`python -m aios.stack.distribute`: gives each container of a compose stack its secrets, and nobody else's.

The first start makes them; they stay in a volume that no service mounts. Each service has a volume of its own, mounted
here as `/secrets/<service>`, with copies of what it needs. A later start renews tokens and certificates near their end. `--new-authority` makes every
certificate anew, by another authority: nobody believes the former ones any more.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from secrets import token_urlsafe
from types import MappingProxyType

from aios.config import Settings
from aios.runtime import peers
from aios.runtime.peers import Peer
from aios.runtime.tokens import write_secret
from aios.stack import nats, secrets
from aios.stack.authority import Authority
from aios.stack.layout import Layout

VAULT = Path("/var/lib/aios")
VOLUMES = Path("/secrets")
DATA = Path("/data")
"""Where the volumes are mounted in which official images keep their data, each by its service's name."""
USER = 10001
"""Whom every container runs as."""
USERS: Mapping[str, int] = MappingProxyType({"postgres": 70})
"""But these, whose images insist on a user of their own."""

PEER = (peers.CERTIFICATE, peers.KEY, peers.AUTHORITY)
NEEDS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "gateway": (
            "identity.pem",
            "jwks.json",
            "gateway.token",
            "envoy.token",
            "nats.json",
            "pgpass",
            *PEER,
        ),
        "scheduler": ("scheduler.pem", "jwks.json", "scheduler.token", "nats.json", "pgpass", *PEER),
        "data": (
            "jwks.json",
            "data.token",
            "nats.json",
            "s3.json",
            "nats-system.json",
            "devices.pem",
            "pseudonyms.key",
            "data.key",
            "pgpass",
            *PEER,
        ),
        "trainer": ("jwks.json", "trainer.token", "nats.json", "pgpass", *PEER),
        "inference": ("jwks.json", "inference.token", "nats.json", "pgpass", *PEER),
        "worker": ("scheduler.pub", "agent.token", *PEER),
        "envoy": PEER,
        "door": ("tls.crt", "tls.key"),
        "nats": ("nats.json", "nats-system.json", "nats.conf", "health", *PEER),
        "postgres": ("password", "pg_hba.conf", *PEER),
        "object-store": ("user", "password", "s3.json"),
        "operator": ("operator.token", peers.AUTHORITY),
        "grafana": ("grafana.password",),
    }
)
"""What each container reads; the names that official images take from files are theirs."""

NATS_HEALTH_PORT = 8222
NATS_MQTT_PORT, NATS_EDGE_PORT = 1883, 7422
NATS_PEER = Peer(*(Path("/secrets") / file for file in PEER))
DATABASE_CALLERS = """\
local all all trust
hostssl all all all scram-sha-256 clientcert=verify-ca
"""
"""Who PostgreSQL lets in where it speaks TLS: its own container, and peers with the password."""


def distribute(
    settings: Settings, vault: Path = VAULT, volumes: Path = VOLUMES, *, new_authority: bool = False
) -> None:
    """Make what is missing, and copy to every volume that is mounted what belongs there.

    Args:
        new_authority: Make every certificate anew.
    """
    layout = Layout(vault)
    layout.make()
    secrets.prepare(layout)
    certificates = layout.secrets / "peers"
    if new_authority:
        shutil.rmtree(certificates, ignore_errors=True)
    authority = Authority(certificates)
    for name, wanted in NEEDS.items():
        if (volume := volumes / name).is_dir():
            certificate, key = authority.issue(name, settings.certificate_names.split())
            given = {"tls.crt": certificate, "tls.key": key}
            given |= dict(zip(PEER, (certificate, key, authority.certificate), strict=True))
            for file in wanted:
                found = given[file].read_text() if file in given else _content(settings, layout, name, file)
                write_secret(volume / file, found)


def _content(settings: Settings, layout: Layout, service: str, file: str) -> str:
    match service, file:
        case _, "pgpass":
            return f"*:*:*:aios:{_password(layout, 'postgres')}\n"
        case "postgres", "password":
            return _password(layout, service)
        case "grafana", "grafana.password":
            return _password(layout, service)
        case "nats", "nats.conf":
            return nats.server_config(
                config_file=layout.secrets / "nats.conf",
                host="0.0.0.0",  # noqa: S104  # of its own container; the stack's network is its wall
                port=4222,
                store_dir=Path("/data"),
                credentials_file=layout.secrets / "nats.json",
                health_port=NATS_HEALTH_PORT,
                peer=NATS_PEER if settings.mutual_tls else None,
                devices=nats.devices(settings, layout.secrets, NATS_MQTT_PORT, NATS_EDGE_PORT),
            )
        case "postgres", "pg_hba.conf":
            return DATABASE_CALLERS
        case "nats", "health":
            path = nats.health_path(layout.secrets / "nats.json")
            return f"http://127.0.0.1:{NATS_HEALTH_PORT}{path}"
        case "object-store", "user":
            return str(json.loads((layout.secrets / "s3.json").read_text())["access_key"])
        case "object-store", "password":
            return str(json.loads((layout.secrets / "s3.json").read_text())["secret_key"])
        case _:
            return (layout.secrets / file).read_text()


def _password(layout: Layout, service: str) -> str:
    path = layout.secrets / f"{service}.password"
    if not path.exists():
        write_secret(path, token_urlsafe(32))
    return path.read_text()


def main() -> None:
    """Run as root, so that each file and folder can belong to whoever reads it."""
    distribute(Settings.load(), new_authority="--new-authority" in sys.argv[1:])
    for volume in (*VOLUMES.iterdir(), *DATA.iterdir()):
        user = USERS.get(volume.name, USER)
        shutil.chown(volume, user, user)
        if volume.parent == VOLUMES:
            for path in volume.iterdir():
                shutil.chown(path, user, user)


if __name__ == "__main__":
    main()
