"""What is fetched from the network: only what is asked for, from public hosts, and no more than is taken."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import AiosError, InvalidArgument, Unavailable
from aios.formats.remote import Bucket, Fetcher, Limits
from aios.outside import is_public

LISTED = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</ListBucketResult>'


@contextmanager
def serving(
    pages: dict[str, tuple[int, dict[str, str], bytes]], tls: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.headers['host']} {self.path}")
            status, headers, body = pages.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetcher(**more: object) -> Fetcher:
    """One for which this machine is public, under the name data.example."""
    addresses = {
        "data.example": ["127.0.0.1"],
        "inside.example": ["10.0.0.7"],
        "both.example": ["127.0.0.1", "10.0.0.7"],
    }
    options = {
        "schemes": ("http",),
        "resolve": lambda host, port: addresses.get(host, [host]),
        "allow": lambda address: address == "127.0.0.1",
        **more,
    }
    return Fetcher(**options)  # type: ignore[arg-type]


def certificate(folder: Path, name: str) -> Path:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / f"{name}.pem"
    path.write_bytes(secret + made.public_bytes(pem))
    return path


@pytest.mark.parametrize("name", ["data.example", "other.example"])
def test_the_host_that_was_named_must_prove_itself(tmp_path: Path, name: str) -> None:
    pem = certificate(tmp_path, name)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    trust = ssl.create_default_context(cafile=pem)
    with serving({"/a": (200, {}, b"1")}, tls) as (port, _):
        asked = fetcher(schemes=("https",), trust=trust)
        if name == "data.example":
            assert asked.fetch(f"https://data.example:{port}/a", tmp_path).read_bytes() == b"1"
        else:
            with pytest.raises(Unavailable):
                asked.fetch(f"https://data.example:{port}/a", tmp_path)


def test_a_file_is_fetched_under_its_name_from_the_address_that_was_looked_at(tmp_path: Path) -> None:
    with serving({"/a/b.csv?x=1": (200, {}, b"id\n1\n")}) as (port, asked):
        found = fetcher().fetch(f"http://data.example:{port}/a/b.csv?x=1", tmp_path)
    assert (found.name, found.read_bytes()) == ("b.csv", b"id\n1\n")
    assert asked == [f"data.example:{port} /a/b.csv?x=1"]


@pytest.mark.parametrize(
    "target",
    ["http://inside.example/", "http://both.example/", "file:///etc/passwd", "ftp://data.example/", "//:x"],
)
def test_each_redirect_is_looked_at(tmp_path: Path, target: str) -> None:
    with serving({"/a": (302, {"location": target}, b"")}) as (port, _), pytest.raises(InvalidArgument):
        fetcher().fetch(f"http://data.example:{port}/a", tmp_path)


def test_redirects_end(tmp_path: Path) -> None:
    here = serving({"/a": (302, {"location": "/a"}, b"")})
    with here as (port, asked), pytest.raises(InvalidArgument, match="redirects more than"):
        fetcher().fetch(f"http://data.example:{port}/a", tmp_path)
    assert len(asked) == 6


def test_no_more_is_taken_than_the_limit(tmp_path: Path) -> None:
    few = Limits(bytes_max=99)
    here = serving({"/a": (200, {}, b"x" * 100)})
    with here as (port, _), pytest.raises(InvalidArgument, match="more than 99 bytes"):
        fetcher(limits=few).fetch(f"http://data.example:{port}/a", tmp_path)


def test_a_prefix_of_a_bucket_becomes_a_folder(tmp_path: Path) -> None:
    keys = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in ("d/cat/1.png", "d/dog/2.png", "d/"))
    pages: dict[str, tuple[int, dict[str, str], bytes]] = {
        "/b?list-type=2&prefix=d%2F": (200, {}, LISTED.format(keys).encode()),
        "/b/d/cat/1.png": (200, {}, b"1"),
        "/b/d/dog/2.png": (200, {}, b"2"),
    }
    with serving(pages) as (port, _):
        found = fetcher().fetch("s3://b/d/", tmp_path, Bucket(f"http://data.example:{port}"))
    assert {path.relative_to(found).as_posix() for path in found.rglob("*.png")} == {"cat/1.png", "dog/2.png"}


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        (LISTED.format("<Contents><Key>d/../../x</Key></Contents>"), "leads out"),
        (LISTED.format("<Contents><Key>d/1</Key></Contents>" * 3), "more than 2 files"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", "no S3 server"),
        ("<", "no S3 server"),
        (LISTED.format(""), "holds nothing"),
    ],
)
def test_a_hostile_list_is_told(tmp_path: Path, listed: str, told: str) -> None:
    few = Limits(files_max=2)
    here = serving({"/b?list-type=2&prefix=d%2F": (200, {}, listed.encode())})
    with here as (port, _), pytest.raises(InvalidArgument, match=told):
        fetcher(limits=few).fetch("s3://b/d/", tmp_path / "in", Bucket(f"http://data.example:{port}"))
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *(
            "::1",
            "fe80::1%eth0",
            "fd00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "255.255.255.255",
        ),
    ],
)
def test_inner_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_others_are() -> None:
    assert is_public("93.184.216.34")
    assert is_public("2606:2800:220:1:248:1893:25c8:1946")


@pytest.mark.parametrize(
    "source", ["http://data.example/x", "https://127.0.0.1/x", "https://u@data.example/x", "s3://"]
)
def test_without_leave_nothing_inside_is_dialled(tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidArgument):
        Fetcher(resolve=lambda host, port: ["127.0.0.1"]).fetch(source, tmp_path)


@given(st.text(max_size=40))
def test_whatever_a_url_is_it_is_told(text: str) -> None:
    with pytest.raises(AiosError):
        Fetcher(resolve=lambda host, port: ["10.0.0.1"]).fetch(f"https://{text}", Path("/nonexistent"))
