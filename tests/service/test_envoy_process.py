"""`python -m gateway.envoy`: the process, and its door over TLS."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.envoy.admin import Admin
from gateway.envoy.files import ConfigFiles
from gateway.envoy.model import Address, Pem, Services, Snapshot, Tls
from gateway.envoy.publish import Publisher
from tests.servers import free_port
from tests.service.envoy_stack import LOCAL, jwks

NOBODY = Services(*(Address(LOCAL, 1) for _ in range(6)))


def certificate(directory: Path, port: int) -> Tls:
    """A self-signed certificate for the loopback address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOCAL))]), False)
        .sign(key, hashes.SHA256())
    )
    pem, traditional = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    (directory / "cert.pem").write_bytes(signed.public_bytes(pem))
    (directory / "key.pem").write_bytes(key.private_bytes(pem, traditional, serialization.NoEncryption()))
    return Tls(Address("0.0.0.0", port), Pem(str(directory / "cert.pem"), str(directory / "key.pem")))


def test_envoy_waits_for_its_files_and_serves_both_protocols_over_tls(tmp_path: Path) -> None:
    port, inner = free_port(), free_port()
    tls = certificate(tmp_path, port)
    files = ConfigFiles(tmp_path / "envoy")
    publisher = Publisher(files, Admin(files.admin_socket), listen=Address(LOCAL, inner), tls=tls)
    process = subprocess.Popen([sys.executable, "-m", "gateway.envoy", str(files.root)])
    try:
        asyncio.run(
            publisher.start(Snapshot(NOBODY, jwks(Ed25519PrivateKey.generate())), node_id="test", token="t")
        )

        trusted = ssl.create_default_context(cafile=tls.pem.certificate)
        with httpx.Client(verify=trusted) as client:
            assert healthz(client, port) == "ok\n"
            assert client.get(f"http://{LOCAL}:{inner}/healthz").text == "ok\n"

        roots = grpc.ssl_channel_credentials(Path(tls.pem.certificate).read_bytes())
        with grpc.secure_channel(f"{LOCAL}:{port}", roots) as channel:
            get: Any = channel.unary_unary("/aios.data.v1.DataService/GetDataset")
            with pytest.raises(grpc.RpcError) as refusal:
                get(b"", timeout=10)
        assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        process.terminate()
        process.wait()


def healthz(client: httpx.Client, port: int) -> str:
    deadline = time.monotonic() + 10
    while True:
        try:
            return client.get(f"https://{LOCAL}:{port}/healthz").text
        except httpx.TransportError:
            assert time.monotonic() < deadline, "Envoy did not start"
            time.sleep(0.02)
