"""NATS's way of writing Ed25519 keys and claims: base32 with a checksum, and tokens that only its servers read.

Source: github.com/nats-io/nkeys and github.com/nats-io/jwt, version 2 of the claims.
"""

import base64
import json
import time
from binascii import crc_hqx
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from aios.names import new_id

_ACCOUNT = b"\x00"  # an encoded key that begins with A
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


def account(key: Ed25519PublicKey) -> str:
    """The public key of an account: 56 letters and digits."""
    raw = _ACCOUNT + key.public_bytes_raw()
    return base64.b32encode(raw + crc_hqx(raw, 0).to_bytes(2, "little")).decode()


def sign(key: Ed25519PrivateKey, claims: Mapping[str, Any]) -> str:
    """Claims as a token of the account that has this key."""
    stated = {"iss": account(key.public_key()), "iat": int(time.time()), "jti": new_id(), **claims}
    said = f"{_encoded(_HEADER)}.{_encoded(stated)}"
    return f"{said}.{_unpadded(key.sign(said.encode()))}"


def claims(token: bytes) -> dict[str, Any]:
    """What a token of the server says. Its signature proves nothing: servers make their keys when they start.

    Raises:
        ValueError: it is none.
    """
    try:
        body = token.split(b".")[1]
        found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4)))
    except IndexError:
        raise ValueError("no token") from None
    return found


def _encoded(value: Mapping[str, Any]) -> str:
    return _unpadded(json.dumps(value, separators=(",", ":")).encode())


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
