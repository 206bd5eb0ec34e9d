"""What all parts of a client share: one gRPC channel, one HTTP client, one project."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cached_property
from typing import Any, TypeVar
from uuid import uuid4

import grpc
import httpx

from aios.client.credentials import Credentials
from aios.errors import InvalidArgument
from aios.names import Name
from aios.runtime.channel import connect

CONNECT_SECONDS = 10.0
TRANSFER_SECONDS = 120.0
"""Without a byte either way: a slow link is not a dead one."""
CONNECTIONS_MAX = 16
PAGE_SIZE = 500

N = TypeVar("N", bound=Name)
M = TypeVar("M")


class Connection:
    """Opened at the first use, closed by `close`."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials

    @property
    def project(self) -> str:
        """`projects/{project}`."""
        return f"projects/{self.credentials.project}"

    @cached_property
    def channel(self) -> grpc.aio.Channel:
        """To the services, through the public door."""
        tls = grpc.ssl_channel_credentials() if self.credentials.secure else None
        return connect(self.credentials.target, self.credentials.current_token, credentials=tls)

    @cached_property
    def http(self) -> httpx.AsyncClient:
        """To the object store and to deployments. Sends no token by itself: presigned URLs carry their own."""
        return httpx.AsyncClient(
            timeout=httpx.Timeout(TRANSFER_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            # SSL_CERT_FILE names whom to believe; no proxy of the environment is asked for this machine.
            mounts={"all://": None} if self.credentials.on_this_machine else None,
        )

    def name(self, kind: type[N], text: str) -> N:
        """A resource name from a full one, one without its project, or ids alone: `datasets/digits`, `digits/3`."""
        collections = kind.PATTERN.split("/")[::2]
        if text.startswith(f"{collections[0]}/"):
            return kind.parse(text)
        if collections[0] != "projects":
            return kind.parse(f"{collections[0]}/{text}")
        if text.startswith(f"{collections[1]}/"):
            return kind.parse(f"{self.project}/{text}")
        ids = (self.credentials.project, *text.split("/"))
        if len(ids) != len(collections):
            wanted = kind.PATTERN.removeprefix("projects/{project}/")
            raise InvalidArgument.of("name", f"must look like {wanted}, not {text!r}")
        return kind.parse("/".join(part for pair in zip(collections, ids, strict=True) for part in pair))

    async def close(self) -> None:
        """Close what was opened."""
        if "channel" in self.__dict__:
            await self.channel.close()
        if "http" in self.__dict__:
            await self.http.aclose()


def request_id() -> str:
    """Makes a create safe to retry."""
    return str(uuid4())


async def pages(
    call: Callable[[Any], Awaitable[Any]], request: Any, field: str, limit: int | None = None
) -> AsyncIterator[Any]:
    """Every resource of a list method, page by page, as far as it is read."""
    left = limit
    while left is None or left > 0:
        request.page_size = min(PAGE_SIZE, left) if left is not None else PAGE_SIZE
        response = await call(request)
        for resource in getattr(response, field):
            yield resource
            if left is not None:
                left -= 1
                if left <= 0:
                    return
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token
