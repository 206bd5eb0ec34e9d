"""Who may read what, and who did."""

from collections.abc import AsyncIterator

from aios.client.connection import Connection, pages
from aios.data.v1 import privacy_service_pb2 as pb
from aios.data.v1 import privacy_service_pb2_grpc


class Privacy:
    """`client.privacy`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = privacy_service_pb2_grpc.PrivacyServiceStub(connection.channel)

    async def audit(
        self, *, resource: str = "", subject: str = "", denied: bool = False, limit: int | None = None
    ) -> AsyncIterator[pb.AuditEntry]:
        """Who read and changed data of the project, and who was refused, newest first.

        Args:
            resource: Only this and what lies below it: a full name, or one without its project.
            subject: Only what this caller did.
            denied: Only what was refused.
        """
        if resource and not resource.startswith("projects/"):
            resource = f"{self._connection.project}/{resource}"
        request = pb.ListAuditEntriesRequest(
            parent=self._connection.project, resource=resource, subject=subject, denied=denied
        )
        async for each in pages(self._stub.ListAuditEntries, request, "entries", limit):
            yield each

    async def encrypt(self) -> pb.DataEncryption:
        """Have everything of the project encrypted in the object store. Operators only.

        Raises:
            FailedPrecondition: it holds something, or the object store cannot.
        """
        return await self._stub.EncryptData(pb.EncryptDataRequest(parent=self._connection.project))
