"""What only this machine's stack knows: keys, credentials and tokens, in files that only their owner can read.

Keys and credentials are made once. Tokens are made again long before they end, in place: their readers open the file
at each use.
"""

import json
import secrets
import time
from pathlib import Path

import jwt

from aios.runtime.tokens import jwks, mint, new_key, public_pem, read_key, write_key, write_secret
from aios.stack.layout import Layout

TOKEN_SECONDS = 365 * 24 * 3600
RENEW_SECONDS = TOKEN_SECONDS // 2
"""A token with less life than this is made again."""
SERVICES = ("scheduler", "data", "trainer", "inference", "gateway", "envoy")
"""Each speaks with a token of its own, so that each can be told apart and revoked."""
PROJECT = "default"
"""The project that tokens of the platform name. Operators, services and agents may act in every one."""


def prepare(layout: Layout) -> None:
    """Make what is missing. A second call changes nothing but tokens near their end."""
    directory = layout.secrets
    _key(directory / "identity.pem")
    _key(directory / "scheduler.pem")
    _key(directory / "devices.pem")
    identity, scheduler = read_key(directory / "identity.pem"), read_key(directory / "scheduler.pem")
    _once(directory / "jwks.json", json.dumps(jwks(identity.public_key()), indent=2))
    _once(directory / "scheduler.pub", public_pem(scheduler))
    _once(directory / "nats.json", json.dumps({"user": "aios", "password": secrets.token_urlsafe(32)}))
    _once(
        directory / "nats-system.json",
        json.dumps({"user": "system", "password": secrets.token_urlsafe(32)}),
    )
    _once(
        directory / "s3.json",
        json.dumps({"access_key": f"aios{secrets.token_hex(8)}", "secret_key": secrets.token_urlsafe(32)}),
    )
    _once(directory / "pseudonyms.key", secrets.token_urlsafe(48))
    _once(directory / "data.key", secrets.token_hex(32))
    renew_tokens(layout)


def renew_tokens(layout: Layout) -> None:
    """Make again every token that is missing or past half of its life."""
    key = read_key(layout.secrets / "identity.pem")

    def write(name: str, role: str, *, operator: bool = False) -> None:
        path = layout.secrets / f"{name}.token"
        if _seconds_left(path) > RENEW_SECONDS:
            return
        claims = {"sub": name, "jti": secrets.token_urlsafe(16), "project": PROJECT, "role": role}
        extra = {"platform": True} if operator else {}
        write_secret(path, mint(key, {**claims, **extra}, ttl_seconds=TOKEN_SECONDS))

    write("operator", "admin", operator=True)
    for service in SERVICES:
        write(service, "service")
    write("agent", "node")


def _key(path: Path) -> None:
    if not path.exists():
        write_key(new_key(), path)


def _once(path: Path, content: str) -> None:
    if not path.exists():
        write_secret(path, content)


def _seconds_left(path: Path) -> float:
    try:
        claims = jwt.decode(path.read_text(), options={"verify_signature": False, "verify_exp": False})
        return float(claims["exp"]) - time.time()
    except (OSError, jwt.PyJWTError, KeyError):
        return 0
