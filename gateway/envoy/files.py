"""The directory Envoy watches. Each file appears whole or not at all, so Envoy can start from it at any moment.

The files hold the tracer's token and the admin socket: directory 0700, files 0600.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gateway.envoy import model
from gateway.envoy.bootstrap import bootstrap
from gateway.envoy.clusters import token_secret

Json = dict[str, Any]

HOT_SOCKETS = "h"
"""How the names of the sockets begin on which an Envoy and its successor meet."""
_LONGEST_SOCKET = f"{HOT_SOCKETS}_udp_parent_{2**31}"
_SOCKET_PATH_MAX = 107  # bytes, without the final zero: sockaddr_un on Linux


class ConfigFiles:
    """Paths and writers of one Envoy's configuration."""

    def __init__(self, root: Path) -> None:
        """Raises ValueError when `root` is too deep for a unix socket in it."""
        self.root = root.absolute()
        self.bootstrap = self.root / "bootstrap.json"
        self.listeners = self.root / "listeners.json"
        self.clusters = self.root / "clusters.json"
        self.routes = self.root / "routes.json"
        self.endpoints = self.root / "endpoints"
        self.token = self.root / "token.json"
        self.admin_socket = self.root / "admin.sock"
        self._snapshot = self.root / "snapshot.json"
        longest = self.root / _LONGEST_SOCKET
        if len(os.fsencode(longest)) > _SOCKET_PATH_MAX:
            raise ValueError(
                f"{longest} is too long for a socket ({_SOCKET_PATH_MAX} bytes): use a shorter home"
            )

    def create(self) -> None:
        """Make the directories."""
        for directory in (self.root, self.endpoints):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write_bootstrap(self, node_id: str) -> None:
        """Write last at the first start: who waits to start Envoy waits for this file."""
        config = bootstrap(
            node_id=node_id,
            admin_socket=str(self.admin_socket),
            listeners_path=str(self.listeners),
            clusters_path=str(self.clusters),
        )
        replace_file(self.bootstrap, json.dumps(config, indent=1))

    def write_token(self, token: str) -> None:
        """Give Envoy's tracer a fresh service token; takes effect without touching a connection."""
        write_resources(self.token, [token_secret(token)])

    def save(self, snapshot: model.Snapshot) -> None:
        """Remember what is in effect, for the next start of the control plane."""
        replace_file(self._snapshot, json.dumps(model.to_json(snapshot), indent=1))

    def load(self) -> model.Snapshot | None:
        """What was in effect when the control plane last wrote. None: never, or by a version that wrote it otherwise."""
        try:
            return model.from_json(json.loads(self._snapshot.read_text()))
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return None

    def drop_endpoints(self, keep: Iterable[str]) -> None:
        """Delete the endpoint files of clusters that are no more."""
        kept = {f"{name}.json" for name in keep}
        for path in self.endpoints.glob("*.json"):
            if path.name not in kept:
                path.unlink()


def write_resources(path: Path, resources: list[Json]) -> str:
    """Write a discovery response unless it is there already. Returns its version: a digest of the content."""
    text = json.dumps(resources, indent=1)
    version = hashlib.sha256(text.encode()).hexdigest()[:16]
    content = f'{{"version_info": "{version}", "resources": {text}}}\n'
    if read(path) != content:
        replace_file(path, content)
    return version


def read(path: Path) -> str | None:
    """The file's text. None: there is no file."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def replace_file(path: Path, content: str) -> None:
    """Atomic, and safe against power loss: Envoy must find a whole file after any crash."""
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
