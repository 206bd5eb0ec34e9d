"""The first program in a sandbox: opens the doors that its job may use, then becomes the job.

    python -I -S inside.py TOLD SAID DOORS

Three descriptors, all of start.py: what to do, marshalled; a pipe, which ends when the command has begun; a unix socket.
The sandbox has a network of its own with nothing on it. Each door listens there on an address that the job knows; the
listening sockets go through DOORS to relay.py, which stays outside and connects each of their connections with the real
address.
"""

# It must start in milliseconds, and running a program is the point.
# ruff: noqa: S606

# Without the enums of `signal` and `socket`, and without `json`, which take longer than all the rest.
import _signal  # type: ignore[import-not-found]
import _socket
import array
import marshal
import os
import resource
import sys

_SIOCSIFADDR = 0x8916
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522


def main(told: int, said: int, doors: int) -> None:
    """Run the command in this process's place; if that fails, say the errno into the pipe."""
    with os.fdopen(told, "rb") as file:
        launch = marshal.load(file)  # noqa: S302  # of our own
    try:
        if launch["doors"]:
            _open(launch["doors"], doors)
        os.close(doors)
        for number in (
            _signal.SIGPIPE,
            _signal.SIGXFSZ,
        ):  # Python ignores them; the command must not inherit that
            _signal.signal(number, _signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # of gigabytes of memory, into the job's scratch
        os.chdir(launch["directory"])
        os.set_inheritable(said, False)
        os.write(said, b"+")
        os.execvpe(launch["command"][0], launch["command"], launch["environment"])
    except OSError as error:
        sys.stderr.write(f"aios: cannot start {launch['command'][0]!r}: {error.strerror}\n")
        sys.stderr.flush()
        os.write(said, str(error.errno).encode())
    finally:
        os._exit(127)


def _open(addresses: list[tuple[str, int]], outside: int) -> None:
    """Listen on each address, and hand the sockets out. Needs the privileges that `open_needs` names; keeps none."""
    listeners = [_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM) for _ in addresses]
    foreign = dict.fromkeys(host for host, _ in addresses if not host.startswith("127."))
    for number, host in enumerate(foreign):
        _have(listeners[0], number, host)
    for listener, address in zip(listeners, addresses, strict=True):
        listener.bind(address)
        listener.listen(256)
    passed = array.array("i", [listener.fileno() for listener in listeners])
    channel = _socket.socket(fileno=os.dup(outside))
    channel.sendmsg([b"doors"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, passed)])
    if open_needs(addresses):
        _renounce()


def open_needs(addresses: list[tuple[str, int]]) -> list[str]:
    """The capabilities, over the sandbox's own network alone, that its doors need."""
    low = any(port < 1024 for _, port in addresses)
    foreign = any(not host.startswith("127.") for host, _ in addresses)
    return ["CAP_NET_BIND_SERVICE"] * low + ["CAP_NET_ADMIN"] * foreign


def _have(listener: _socket.socket, number: int, host: str) -> None:
    """Give the loopback interface one more address."""
    import fcntl
    import struct

    name = f"lo:{number + 1}".encode()
    request = struct.pack("16sHH4s8x", name, _socket.AF_INET, 0, _socket.inet_aton(host))
    fcntl.ioctl(listener.fileno(), _SIOCSIFADDR, request)


def _renounce() -> None:
    """Drop every capability. The command cannot have them again: bubblewrap has set no_new_privs."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
