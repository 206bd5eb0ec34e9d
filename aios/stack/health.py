"""`python -m aios.stack.health SERVICE`: exit 0 once that service of this container answers. For `HEALTHCHECK`.

It asks again and again for a while before it gives up: a new process for every look would take from a service that
starts the processor that it starts with.
"""

import asyncio
import sys
import time

from aios.config import Settings
from aios.stack import probes
from aios.stack.probes import NotReady, Probe

PATIENCE_SECONDS = 10.0
"""Less than the timeout of the images' HEALTHCHECK, by one probe at least."""
PAUSE_SECONDS = 0.25


async def wait(probe: Probe, seconds: float = PATIENCE_SECONDS) -> None:
    """Return with the first answer.

    Raises:
        NotReady: none came in this time; what was seen last.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return await probe()
        except NotReady:
            if time.monotonic() > end:
                raise
        await asyncio.sleep(PAUSE_SECONDS)


def probe_of(service: str, settings: Settings) -> Probe:
    """How that service is asked from beside it."""
    if service == "agent":
        return probes.deadline(settings.home / "agent" / "lease")
    host, _, port = settings.address_of(service).rpartition(":")
    tls = None
    if settings.mutual_tls:
        from aios.runtime.peers import Peer

        peer = Peer.of(settings)
        assert peer is not None
        tls = peer.client_context()
        tls.set_alpn_protocols(["h2"])
    return probes.grpc_health(host, int(port), tls)


def main() -> None:
    """Say why not, in one line."""
    try:
        asyncio.run(wait(probe_of(sys.argv[1], Settings.load())))
    except NotReady as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
