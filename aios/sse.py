"""How a request names the key that an object is encrypted with: SSE-C of S3, so that the store sees a key only while it
reads or writes the object, and keeps none.

Pure. Source: Amazon S3 user guide, "Using server-side encryption with customer-provided keys".
"""

import base64
import hashlib

from aios import seal

KEY_BYTES = 32
PREFIX = "x-amz-server-side-encryption-customer-"
SOURCE_PREFIX = "x-amz-copy-source-server-side-encryption-customer-"


def headers(key: bytes | None, prefix: str = PREFIX) -> dict[str, str]:
    """What a request sends beside its own headers; nothing where there is no key, or none that the store may see."""
    if not key or seal.is_ours(key):
        return {}
    # Of the key, against mistakes on the way: S3 knows no other digest here.
    check = base64.b64encode(hashlib.md5(key, usedforsecurity=False).digest()).decode()
    return {
        f"{prefix}algorithm": "AES256",
        f"{prefix}key": base64.b64encode(key).decode(),
        f"{prefix}key-md5": check,
    }
