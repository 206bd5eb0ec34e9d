"""Who a process is to the others of its platform, where these speak TLS: every server asks its callers for a
certificate of the stack's own authority, and every caller its server.

It says that somebody belongs to the platform; the token says who calls, and decides. Jobs have none: they call the
public door, which asks for a token alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from aios.config import Settings
from aios.errors import InvalidArgument

if TYPE_CHECKING:  # slow to import: a health check needs the one, a client of plain text neither
    import ssl

    import grpc

CERTIFICATE, KEY, AUTHORITY = "peer.crt", "peer.key", "peers.crt"
"""Names among a process's secrets."""


@dataclass(frozen=True)
class Peer:
    """PEM files of one process, read when a server or a channel is made."""

    certificate: Path
    key: Path
    authority: Path
    """Of whoever signed all of them: nobody else is believed."""

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """This process; None where the platform speaks plain text.

        Raises:
            InvalidArgument: a file is missing, and which.
        """
        if not settings.mutual_tls:
            return None
        peer = cls(settings.secret(CERTIFICATE), settings.secret(KEY), settings.secret(AUTHORITY))
        for path in (peer.certificate, peer.key, peer.authority):
            if not path.is_file():
                raise InvalidArgument.of("AIOS_MUTUAL_TLS", f"needs {path}")
        return peer

    def server_credentials(self) -> "grpc.ServerCredentials":
        """For a gRPC server that refuses plain text, and callers without a certificate of the authority."""
        import grpc

        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], self.authority.read_bytes(), require_client_auth=True)

    def channel_credentials(self) -> "grpc.ChannelCredentials":
        """For a channel to such a server."""
        import grpc

        return grpc.ssl_channel_credentials(
            self.authority.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes()
        )

    def client_context(self) -> "ssl.SSLContext":
        """The same for other protocols."""
        import ssl

        context = ssl.create_default_context(cafile=self.authority)
        context.load_cert_chain(self.certificate, self.key)
        return context
