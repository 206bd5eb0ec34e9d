"""The credential of each attempt: asked of the identity domain, renewed long before it ends."""

import asyncio
from datetime import UTC, datetime
from typing import NamedTuple

import grpc

from aios.errors import AiosError, DeadlineExceeded, Unavailable
from aios.identity.v1 import identity_service_pb2, identity_service_pb2_grpc

PATIENCE_SECONDS = 10.0  # a gateway that restarts is back by then
RETRY_SECONDS = 0.5


class TokenUnavailable(Unavailable):
    """The identity domain gave no token for an attempt. The job is tried again."""

    reason = "TOKEN_UNAVAILABLE"


class WorkerToken(NamedTuple):
    """A secret and when to have another."""

    secret: str
    renew_time: datetime


class WorkerTokens:
    """Issues tokens over the node's own credential."""

    def __init__(self, gateway: grpc.aio.Channel) -> None:
        self._identity = identity_service_pb2_grpc.IdentityServiceStub(gateway)

    async def issue(self, job: str, epoch: int) -> WorkerToken:
        """A token for one attempt. Waits a little for a gateway that is away.

        Raises:
            TokenUnavailable: it stayed away, or refused.
        """
        request = identity_service_pb2.IssueWorkerTokenRequest(job=job, epoch=epoch)
        clock = asyncio.get_running_loop().time
        deadline = clock() + PATIENCE_SECONDS
        while True:
            try:
                issued = await self._identity.IssueWorkerToken(request, timeout=PATIENCE_SECONDS)
            except AiosError as error:
                if not isinstance(error, (Unavailable, DeadlineExceeded)) or clock() > deadline:
                    raise TokenUnavailable(f"no token for the job: {error.message}") from error
                await asyncio.sleep(RETRY_SECONDS)
            else:
                now, end = datetime.now(UTC), issued.expire_time.ToDatetime(UTC)
                return WorkerToken(issued.secret, now + (end - now) / 2)
