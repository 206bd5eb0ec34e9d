"""Free TCP ports of the loopback for the jobs of this node."""

import random
import socket
from collections.abc import Iterable

HOST = "127.0.0.1"
RANGE = range(20_000, 30_000)
"""Below the ports that Linux gives to outgoing connections, so that none of those takes one before its job listens."""


class NoPortFree(OSError):
    """Every port of the range is taken."""


def pick(count: int, taken: Iterable[int], rng: random.Random) -> list[int]:
    """Ports that nobody listens on and that no other job of this node was given.

    Raises:
        NoPortFree: there are not so many.
    """
    used, found = set(taken), list[int]()
    start = rng.randrange(len(RANGE))
    for step in range(len(RANGE)):
        if len(found) == count:
            break
        port = RANGE[(start + step) % len(RANGE)]
        if port not in used and _is_free(port):
            found.append(port)
    if len(found) < count:
        raise NoPortFree(f"no {count} free ports between {RANGE.start} and {RANGE.stop}")
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
