"""Presigned URLs that bind headers too.

The SDK signs the host alone, so a client could leave out `If-None-Match` and overwrite, or send other content. Here
every header given is part of the signature: the server refuses a request that lacks or changes one.

Pure. Source: AWS Signature Version 4, "Authenticating requests: using query parameters".
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit

from aios import redact

ALGORITHM = "AWS4-HMAC-SHA256"
redact.hide_signatures()


@dataclass(frozen=True)
class Credentials:
    """An account of the object store."""

    access_key: str
    secret_key: str = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `{"access_key": ..., "secret_key": ...}`."""
        content = json.loads(path.read_text())
        return cls(content["access_key"], content["secret_key"])


@dataclass(frozen=True)
class Presigned:
    """One request that whoever holds it may make, until it expires."""

    url: str = field(repr=False)
    headers: Mapping[str, str]
    """Exactly these must be sent."""
    expire_time: datetime
    method: str = "GET"


def presign(
    method: str,
    endpoint: str,
    path: str,
    *,
    credentials: Credentials,
    region: str,
    now: datetime,
    lifetime: timedelta,
    headers: Mapping[str, str] | None = None,
    parameters: Mapping[str, str] | None = None,
) -> Presigned:
    """Sign one request.

    Args:
        endpoint: `http://host:port` as the client will dial it: the host is part of the signature.
        path: `/{bucket}/{key}`, not encoded.
        now: UTC.
        parameters: Of the query, such as `partNumber`.
    """
    headers = headers or {}
    time = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{time[:8]}/{region}/s3/aws4_request"
    signed = {"host": urlsplit(endpoint).netloc} | {name.lower(): value for name, value in headers.items()}
    names = sorted(signed)
    query = _query(
        {
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{credentials.access_key}/{scope}",
            "X-Amz-Date": time,
            "X-Amz-Expires": str(int(lifetime.total_seconds())),
            "X-Amz-SignedHeaders": ";".join(names),
            **(parameters or {}),
        }
    )
    target = quote(path, safe="/-_.~")
    lines = [method, target, query, *(f"{name}:{signed[name]}" for name in names), "", ";".join(names)]
    canonical = "\n".join([*lines, "UNSIGNED-PAYLOAD"])
    to_sign = "\n".join([ALGORITHM, time, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    signature = _hmac(_key(credentials.secret_key, scope), to_sign).hex()
    url = f"{endpoint.rstrip('/')}{target}?{query}&X-Amz-Signature={signature}"
    return Presigned(url, dict(headers), now + lifetime, method)


def _query(parameters: Mapping[str, str]) -> str:
    return "&".join(
        f"{quote(name, safe='-_.~')}={quote(parameters[name], safe='-_.~')}" for name in sorted(parameters)
    )


def _key(secret_key: str, scope: str) -> bytes:
    key = b"AWS4" + secret_key.encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
