"""Which port each listener gets: the one it had, else the usual one, else any free one."""

import random
import socket
from collections.abc import Callable, Mapping

HOST = "127.0.0.1"
"""Everything listens here and nowhere else."""
USUAL_PORTS: Mapping[str, int] = {
    "envoy": 8080,
    "scheduler": 7001,
    "data": 7002,
    "trainer": 7003,
    "inference": 7004,
    "gateway": 7005,
    "gateway_http": 7006,
    "nats": 4222,
    "s3": 8333,
}
LISTENERS = tuple(name for name in USUAL_PORTS if name not in ("nats", "s3"))
"""Those whose address is a setting, AIOS_<NAME>_ADDRESS."""
OTHERS = range(11_000, 20_000)
"""Where ports without a usual number come from: below those that the kernel gives to outgoing connections."""

_claims: dict[int, socket.socket] = {}


class PortTaken(Exception):
    """A port that was asked for by name is in use."""


def choose(
    usual: Mapping[str, int],
    remembered: Mapping[str, int],
    asked: Mapping[str, int],
    take: Callable[[int], bool],
    take_any: Callable[[], int],
) -> dict[str, int]:
    """A port for every listener of `usual`; no two alike.

    Args:
        usual: Each listener's default; 0 where any port will do.
        remembered: What each had the last time: clients may still know it.
        asked: What the user set. Never replaced by another.
        take: Makes a port ours if it is free; says whether it did.

    Raises:
        PortTaken: a port that the user set is in use.
    """
    chosen: dict[str, int] = {}
    for name, port in asked.items():
        if name in usual:
            if port in chosen.values() or not take(port):
                raise PortTaken(f"port {port}, set for {name}, is in use")
            chosen[name] = port
    for name, default in usual.items():
        if name in chosen:
            continue
        candidates = [port for port in (remembered.get(name, 0), default) if port]
        usable = (port for port in candidates if port not in chosen.values() and take(port))
        chosen[name] = next(usable, 0) or take_any()
    return chosen


def claim(port: int) -> bool:
    """Whether a server could listen on the port now; if so it is this process's among all stacks of the machine.

    Services listen seconds after their ports are chosen. Until then, and while one of them restarts, a name in the
    abstract socket namespace keeps other stacks away: like ports it belongs to one network namespace, and it goes
    with this process.
    """
    if port in _claims:
        return False
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0aios-port-{port}")
    except OSError:
        mark.close()
        return False
    if not is_free(port):
        mark.close()
        return False
    _claims[port] = mark
    return True


def claim_any() -> int:
    """Claim a free port."""
    for port in random.sample(OTHERS, len(OTHERS)):
        if claim(port):
            return port
    raise PortTaken(f"no port from {OTHERS.start} to {OTHERS.stop - 1} is free")


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def asked(given: Mapping[str, str]) -> dict[str, int]:
    """The ports that the caller's environment sets by an address."""
    found = {}
    for name in LISTENERS:
        _, _, port = given.get(f"AIOS_{name.upper()}_ADDRESS", "").rpartition(":")
        if port.isdigit():
            found[name] = int(port)
    return found
