"""Addresses that somebody wrote, looked at before anything connects to them.

The machine that connects sees more of the network than whoever wrote the address. So a scheme must be known, a host must
have public addresses alone, and the connection goes to the very address that was looked at.
"""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from aios.errors import InvalidArgument

URL_CHARS_MAX = 8192
_PORTS = {"https": 443, "http": 80}

Resolve = Callable[[str, int], Sequence[str]]
Allow = Callable[[str], bool]


def resolve(host: str, port: int) -> Sequence[str]:
    """Every address of a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def is_public(address: str) -> bool:
    """Whether an address belongs to nobody's inside: no loopback, private, link-local, shared or reserved one, nor one
    that means such a one.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None and not is_public(str(inner)):
            return False
        if any(ip in each for each in _INSIDE):
            return False
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_INSIDE = [ipaddress.IPv6Network(each) for each in ("fec0::/10", "64:ff9b:1::/48", "::/96")]
"""Site-local, translation of a network's own, and IPv4 written as IPv6: global by the library, and somebody's inside."""


def pinned(
    url: str,
    schemes: Sequence[str],
    resolve: Resolve = resolve,
    allow: Allow = is_public,
    *,
    field: str = "source",
) -> tuple[httpx.URL, dict[str, str], dict[str, Any]]:
    """The same request to an address that was looked at: a name that means another one a moment later does not matter.

    Returns:
        What to connect to, with headers and extensions that have the host's name. Redirects are the caller's to follow.

    Raises:
        InvalidArgument: the URL is refused.
    """
    parts = split(url, field)
    if parts.scheme not in schemes:
        raise refused(url, f"has a scheme that is not taken: only {', '.join(schemes)}", field)
    try:
        target = httpx.URL(url)  # its host as it is sent: in ASCII
        host, port = target.raw_host.decode("ascii"), parts.port or _PORTS[parts.scheme]
    except httpx.InvalidURL:
        raise refused(url, "is no URL", field) from None
    except ValueError:
        raise refused(url, "names no port", field) from None
    if not host or parts.username is not None:
        raise refused(url, "must name a host, and no user", field)
    try:
        addresses = resolve(host, port)
    except (OSError, UnicodeError):
        raise refused(url, "names a host that is not known", field) from None
    if not addresses or not all(map(allow, addresses)):
        raise refused(url, "names a host with an address that is not public", field)
    address = addresses[0]
    literal = f"[{address}]" if ":" in address else address
    at = target.copy_with(netloc=f"{literal}:{port}".encode(), fragment=None)
    return at, {"host": target.netloc.decode("ascii")}, {"sni_hostname": host}


def split(url: str, field: str = "source") -> Any:
    """The parts of a URL."""
    if len(url) > URL_CHARS_MAX or any(ord(each) <= 32 or ord(each) == 127 for each in url):
        raise refused(url, "is no URL", field)
    try:
        return urlsplit(url)
    except ValueError:
        raise refused(url, "is no URL", field) from None


def shown(url: str) -> str:
    """A URL without its query, which may be a secret."""
    return repr(url.partition("?")[0][:200])


def refused(url: str, why: str, field: str = "source") -> InvalidArgument:
    """The error that names a URL and what is wrong with it."""
    return InvalidArgument.of(field, f"{shown(url)} {why}")
