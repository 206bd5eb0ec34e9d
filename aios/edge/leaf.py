"""The leaf node of the event bus that a device runs beside its agent: it is there when the platform is not."""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from aios.errors import InvalidArgument
from aios.runtime.tokens import write_secret
from aios.stack import ports, probes
from aios.stack.child import Child, Pace, Service
from aios.stack.layout import program

HOST = "127.0.0.1"
STORE_BYTES = 128 * 1024 * 1024
MEMORY_BYTES = 16 * 1024 * 1024  # nothing of ours is kept in memory alone
RECONNECT_SECONDS = 2


@dataclass(frozen=True)
class Identity:
    """Who a device is, and where its platform is."""

    server: str
    """`tls://aios.example.org:7422`, or `nats-leaf://127.0.0.1:7422` for one on this machine."""
    user: str
    password: str
    authority: str = ""
    """PEM file of who signed the server's certificate; the system's authorities where empty."""

    @classmethod
    def read(cls, path: Path, server: str, authority: str) -> "Identity":
        """Of what `aios edge device create --json` printed.

        Raises:
            InvalidArgument
        """
        try:
            made = json.loads(path.read_text())
            user, password = str(made["user"]), str(made["password"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"{path} must be what `aios edge device create NAME --json` printed: {error!r}"
            raise InvalidArgument.of("credentials", problem) from None
        at = urlsplit(server)
        if at.scheme not in ("tls", "nats-leaf") or not at.hostname or not at.port:
            raise InvalidArgument.of("server", "must be tls://HOST:PORT, or nats-leaf://127.0.0.1:PORT")
        if at.scheme != "tls" and at.hostname != HOST:
            raise InvalidArgument.of("server", "must be tls://HOST:PORT: the password travels there")
        return cls(server, user, password, authority)

    @property
    def subject(self) -> str:
        """Below which all that it says and hears lies."""
        return f"edge.{self.user.replace('/', '.')}"


class Leaf:
    """A NATS server of this device, for its agent alone."""

    def __init__(self, identity: Identity, home: Path) -> None:
        self.user, self.password = "agent", secrets.token_urlsafe(24)
        self.port = ports.claim_any()
        home.mkdir(parents=True, exist_ok=True)
        config = home / "leaf.conf"
        write_secret(config, _config(identity, self.port, home / "store", self.user, self.password))
        service = Service(
            name="leaf",
            command=[program("nats-server"), "-c", str(config)],
            probe=probes.nats(HOST, self.port),
            stop_seconds=5.0,
        )
        self._child = Child(service, {}, home / "leaf.log", lambda: None, Pace())

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    async def run(self) -> None:
        """Keep it running until `stop`."""
        await self._child.run([])

    def stop(self) -> None:
        self._child.stop()


def _config(identity: Identity, port: int, store: Path, user: str, password: str) -> str:
    at = urlsplit(identity.server)
    url = f"{at.scheme}://{quote(identity.user, '')}:{quote(identity.password, '')}@{at.netloc}"
    # Envoy takes no bytes before TLS has begun.
    authority = (
        f"ca_file: {json.dumps(str(Path(identity.authority).resolve()))}, " if identity.authority else ""
    )
    tls = f", tls {{ {authority}handshake_first: true }}" if at.scheme == "tls" else ""
    return f"""\
server_name: {json.dumps(identity.user)}
host: {HOST}
port: {port}
authorization {{ user: {user}, password: {json.dumps(password)} }}
jetstream {{
  domain: edge
  store_dir: {json.dumps(str(store))}
  max_memory_store: {MEMORY_BYTES}
  max_file_store: {STORE_BYTES}
  sync_interval: always
}}
leafnodes {{
  reconnect: {RECONNECT_SECONDS}
  remotes: [ {{ url: {json.dumps(url)}{tls} }} ]
}}
"""
