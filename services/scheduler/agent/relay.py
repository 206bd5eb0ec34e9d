"""The way out of a sandbox: connects what comes in at its doors with the real addresses, byte for byte.

A process outside of the sandbox, within the bounds of its job, that dies with shim.py, which forks it. The listening
sockets come from inside.py.
"""

import contextlib
import socket
import threading

CONNECTIONS_MAX = 256
"""At once. A job that wants more waits for one of its own to end."""
PIECE_BYTES = 256 * 1024
DIAL_SECONDS = 10.0


def serve(doors: int, addresses: list[tuple[str, int]]) -> None:
    """Serve until killed. `doors` is the descriptor that the sockets come on; each leads to one of the addresses."""
    with socket.socket(fileno=doors) as channel:
        _, listeners, _, _ = socket.recv_fds(channel, 16, len(addresses))
    free = threading.BoundedSemaphore(CONNECTIONS_MAX)
    threads = [
        threading.Thread(target=_serve, args=(socket.socket(fileno=listener), address, free))
        for listener, address in zip(
            listeners, addresses, strict=False
        )  # none where the sandbox did not come up
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _serve(listener: socket.socket, address: tuple[str, int], free: threading.BoundedSemaphore) -> None:
    while True:
        free.acquire()
        try:
            inner, _ = listener.accept()
            threading.Thread(target=_connect, args=(inner, address, free), daemon=True).start()
        except (OSError, RuntimeError):  # no descriptor or no thread left: those under way give theirs back
            free.release()


def _connect(inner: socket.socket, address: tuple[str, int], free: threading.BoundedSemaphore) -> None:
    """Both directions of one connection, until both have ended."""
    try:
        with inner, socket.create_connection(address, DIAL_SECONDS) as outer:
            outer.settimeout(None)
            for each in (inner, outer):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=_copy, args=(outer, inner), daemon=True)
            back.start()
            _copy(inner, outer)
            back.join()
    except (OSError, RuntimeError):
        pass  # nobody is there: the job sees its connection end
    finally:
        free.release()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """One direction. An end is passed on; what cannot be delivered ends both."""
    try:
        while piece := source.recv(PIECE_BYTES):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
