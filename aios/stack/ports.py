"""Which port each listener gets: the one it had, else the usual one, else any free one."""

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


class PortTaken(Exception):
    """A port that was asked for by name is in use."""


def choose(
    usual: Mapping[str, int],
    remembered: Mapping[str, int],
    asked: Mapping[str, int],
    is_free: Callable[[int], bool],
    any_free: Callable[[], int],
) -> dict[str, int]:
    """A port for every listener of `usual`; no two alike.

    Args:
        usual: Each listener's default; 0 where any port will do.
        remembered: What each had the last time: clients may still know it.
        asked: What the user set. Never replaced by another.

    Raises:
        PortTaken: a port that the user set is in use.
    """
    chosen: dict[str, int] = {}
    for name, port in asked.items():
        if name in usual:
            if not is_free(port) or port in chosen.values():
                raise PortTaken(f"port {port}, set for {name}, is in use")
            chosen[name] = port
    for name, default in usual.items():
        if name in chosen:
            continue
        candidates = [port for port in (remembered.get(name, 0), default) if port]
        usable = (port for port in candidates if port not in chosen.values() and is_free(port))
        port = next(usable, 0)
        while not port or port in chosen.values():
            port = any_free()
        chosen[name] = port
    return chosen


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


def any_free() -> int:
    """A free port of the kernel's choice."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def asked(given: Mapping[str, str]) -> dict[str, int]:
    """The ports that the caller's environment sets by an address."""
    found = {}
    for name in LISTENERS:
        _, _, port = given.get(f"AIOS_{name.upper()}_ADDRESS", "").rpartition(":")
        if port.isdigit():
            found[name] = int(port)
    return found
