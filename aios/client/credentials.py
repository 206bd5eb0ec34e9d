"""Where the platform is, and who calls it: arguments, then the environment, then `aios login`, then this machine."""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aios.config import Settings
from aios.errors import InvalidArgument, Unauthenticated

PROJECT = "default"


@dataclass(frozen=True)
class Credentials:
    """All that a client needs to know. Made by `resolve`."""

    address: str
    project: str
    token: str = field(repr=False, default="")
    token_file: Path | None = None
    """Read again at each use, where the token may be renewed in place."""

    def current_token(self) -> str:
        """The token to send now.

        Raises:
            Unauthenticated: there is none.
        """
        if self.token_file is not None:
            try:
                return self.token_file.read_text().strip()
            except OSError as error:
                raise Unauthenticated(
                    f"Cannot read the token in {self.token_file}: {error.strerror}.", reason="TOKEN_MISSING"
                ) from None
        if not self.token:
            raise Unauthenticated(
                f"No token for {self.address}: run `aios login {self.address}`.", reason="TOKEN_MISSING"
            )
        return self.token

    @property
    def target(self) -> str:
        """`host:port` for gRPC."""
        parts = urlsplit(self.address)
        return f"{parts.hostname}:{parts.port or (443 if self.secure else 80)}"

    @property
    def secure(self) -> bool:
        """Whether the door speaks TLS."""
        return urlsplit(self.address).scheme == "https"

    @property
    def on_this_machine(self) -> bool:
        """Whether the address is a loopback one: no proxy is asked for it."""
        return urlsplit(self.address).hostname in ("127.0.0.1", "localhost", "::1")


def resolve(
    address: str = "", token: str = "", project: str = "", env: Mapping[str, str] | None = None
) -> Credentials:
    """Fill in what is not given."""
    env = os.environ if env is None else env
    saved = load(path(env))
    home = Settings.load(env).home
    local = local_address(home)
    address = _address(
        address or env.get("AIOS_ADDRESS", "") or saved.get("current", "") or local or Settings().address
    )
    known = saved.get("addresses", {}).get(address, {})
    token = token or env.get("AIOS_TOKEN", "")
    file: Path | None = None
    if not token and env.get("AIOS_TOKEN_FILE"):
        file = Path(env["AIOS_TOKEN_FILE"])
    elif not token and known.get("token"):
        token = known["token"]
    elif not token and address == local:
        file = home / "secrets" / "operator.token"
    project = (
        project or env.get("AIOS_PROJECT", "") or known.get("project", "") or project_in(token) or PROJECT
    )
    return Credentials(address, project, token, file)


def local_address(home: Path) -> str:
    """The address of the stack in this home; empty when there never was one."""
    try:
        state = json.loads((home / "stack.json").read_text())
        return str(state.get("address", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def path(env: Mapping[str, str]) -> Path:
    """Where `aios login` keeps what it learned."""
    base = env.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "aios" / "credentials.json"


def load(file: Path) -> dict[str, Any]:
    """What was saved: `current` and `addresses`. Empty when nothing was."""
    try:
        saved = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidArgument.of(str(file), f"cannot be read ({error}); delete it and log in again") from None
    return saved if isinstance(saved, dict) else {}


def save(file: Path, address: str, token: str, project: str) -> None:
    """Remember a token for an address, and make the address the current one."""
    saved = load(file)
    saved["current"] = address
    saved.setdefault("addresses", {})[address] = (
        {"token": token, "project": project} if token else {"project": project}
    )
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump(saved, out, indent=2)
    scratch.replace(file)


def project_in(token: str) -> str:
    """The project that a token names; empty when it cannot be read. Not a check: the server does that."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return str(claims.get("project", ""))
    except (IndexError, ValueError, binascii.Error, AttributeError):
        return ""


def _address(text: str) -> str:
    text = text if "://" in text else f"http://{text}"
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgument.of("address", f"must look like https://aios.example.org, not {text!r}")
    return f"{parts.scheme}://{parts.netloc}"
