"""The key that signs tokens, and the public set that every door checks them with."""

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aios.runtime.tokens import jwks, new_key, read_key, write_key, write_secret


def load(key_file: Path, jwks_file: Path) -> Ed25519PrivateKey:
    """The signing key, made at the first start, with its public half in the published set.

    Keys already in the set stay: tokens that an earlier key signed are good until they expire.
    """
    if not key_file.exists():
        write_key(new_key(), key_file)
    key = read_key(key_file)
    (mine,) = jwks(key.public_key())["keys"]
    published: list[dict[str, Any]] = json.loads(jwks_file.read_text())["keys"] if jwks_file.exists() else []
    if mine not in published:
        write_secret(jwks_file, json.dumps({"keys": [mine, *published]}, indent=2))
    return key
