"""`python -m aios.stack.health SERVICE`: exit 0 when that service of this container answers. For `HEALTHCHECK`."""

import asyncio
import sys

from aios.config import Settings
from aios.stack import probes


async def check(service: str, settings: Settings) -> None:
    """Ask once.

    Raises:
        probes.NotReady: it does not answer, and why.
    """
    if service == "agent":
        await probes.deadline(settings.home / "agent" / "lease")()
        return
    host, _, port = settings.address_of(service).rpartition(":")
    tls = None
    if settings.mutual_tls:
        from aios.runtime.peers import Peer

        peer = Peer.of(settings)
        assert peer is not None
        tls = peer.client_context()
        tls.set_alpn_protocols(["h2"])
    await probes.grpc_health(host, int(port), tls)()


def main() -> None:
    """Say why not, in one line."""
    try:
        asyncio.run(check(sys.argv[1], Settings.load()))
    except probes.NotReady as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
