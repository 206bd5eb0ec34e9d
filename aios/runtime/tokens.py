"""Bearer tokens: JSON Web Tokens signed with Ed25519. Made by the identity domain, checked at every door.

Claims: iss and aud `aios`, sub, jti, iat, exp, project, role, and for some: platform (operator), job and epoch (worker).
"""

import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from aios.errors import Unauthenticated
from aios.runtime.context import Principal

ISSUER = AUDIENCE = "aios"
ALGORITHM = "EdDSA"
CLOCK_SKEW_SECONDS = 30
TOKEN_BYTES_MAX = 8 * 1024  # far above ours; bounds what an attacker can make us parse
CACHE_ENTRIES_MAX = 4096  # about 4 MiB; a cached token skips the signature check, not expiry or revocation


def new_key() -> Ed25519PrivateKey:
    """A fresh signing key."""
    return Ed25519PrivateKey.generate()


def write_key(key: Ed25519PrivateKey, path: Path) -> None:
    """Store a private key, readable by its owner only."""
    write_secret(
        path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )


def read_key(path: Path) -> Ed25519PrivateKey:
    """Load a private key written by `write_key`."""
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} holds no Ed25519 key")
    return key


def public_pem(key: Ed25519PrivateKey) -> str:
    """The public half, as PEM."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)


def jwks(*keys: Ed25519PublicKey) -> dict[str, Any]:
    """The public key set that verifiers load. Source: RFC 7517, RFC 8037."""
    return {"keys": [_jwk(key) for key in keys]}


def mint(
    key: Ed25519PrivateKey, claims: Mapping[str, Any], *, ttl_seconds: float, now: float | None = None
) -> str:
    """Sign a token. `sub`, `jti`, `project` and `role` must be in `claims`."""
    issued = int(time.time() if now is None else now)
    body = {"iss": ISSUER, "aud": AUDIENCE, "iat": issued, "exp": issued + int(ttl_seconds), **claims}
    return jwt.encode(body, key, algorithm=ALGORITHM, headers={"kid": _kid(key.public_key())})


class Verifier:
    """Checks tokens against the public keys on disk and the ids that were revoked.

    The key file is read again when it changes, so a rotated key needs no restart.
    """

    def __init__(self, jwks_file: Path) -> None:
        self._file = jwks_file
        self._stamp: tuple[int, int] | None = None
        self._keys: dict[str, jwt.PyJWK] = {}
        self._cache: dict[bytes, Principal] = {}
        self.revoked: frozenset[str] = frozenset()

    def verify(self, token: str) -> Principal:
        """Who the token speaks for.

        Raises:
            Unauthenticated: with a reason: TOKEN_INVALID, TOKEN_EXPIRED or TOKEN_REVOKED.
        """
        digest = hashlib.sha256(token.encode()).digest()
        principal = self._cache.get(digest)
        if principal is None:
            principal = self._decode(token)
            if len(self._cache) >= CACHE_ENTRIES_MAX:
                self._cache.clear()
            self._cache[digest] = principal
        if principal.expires + CLOCK_SKEW_SECONDS < time.time():
            raise Unauthenticated("The token has expired: log in again.", reason="TOKEN_EXPIRED")
        if principal.token_id in self.revoked:
            raise Unauthenticated("The token was revoked: ask for a new one.", reason="TOKEN_REVOKED")
        return principal

    def _decode(self, token: str) -> Principal:
        if len(token) > TOKEN_BYTES_MAX:
            raise Unauthenticated("The token is too long to be one of ours.", reason="TOKEN_INVALID")
        try:
            kid = jwt.get_unverified_header(token).get("kid", "")
            claims = jwt.decode(
                token,
                self._key(kid),
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=CLOCK_SKEW_SECONDS,
                options={"require": ["exp", "iat", "sub", "jti"]},
            )
            return Principal(
                subject=str(claims["sub"]),
                project=str(claims["project"]),
                role=str(claims["role"]),
                token_id=str(claims["jti"]),
                operator=claims.get("platform") is True,
                job=claims.get("job"),
                epoch=claims.get("epoch"),
                expires=float(claims["exp"]),
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The token has expired: log in again.", reason="TOKEN_EXPIRED") from None
        except (jwt.PyJWTError, KeyError, ValueError, TypeError):
            raise Unauthenticated(
                "The token is not valid here: log in again with `aios login`.", reason="TOKEN_INVALID"
            ) from None

    def _key(self, kid: str) -> jwt.PyJWK:
        stat = self._file.stat()
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp != self._stamp:
            loaded = jwt.PyJWKSet.from_dict(json.loads(self._file.read_text()))
            self._keys = {key.key_id: key for key in loaded.keys if key.key_id}
            self._stamp = stamp
            self._cache.clear()
        return self._keys[kid]


def _jwk(key: Ed25519PublicKey) -> dict[str, str]:
    return {"kty": "OKP", "crv": "Ed25519", "alg": ALGORITHM, "use": "sig", "x": _x(key), "kid": _kid(key)}


def _x(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _kid(key: Ed25519PublicKey) -> str:
    # The RFC 7638 thumbprint: a key's name follows from the key.
    members = json.dumps(
        {"crv": "Ed25519", "kty": "OKP", "x": _x(key)}, sort_keys=True, separators=(",", ":")
    )
    return base64.urlsafe_b64encode(hashlib.sha256(members.encode()).digest()).rstrip(b"=").decode()
