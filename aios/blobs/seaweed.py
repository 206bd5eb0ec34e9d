"""How one machine's S3 server is started: SeaweedFS, on loopback, closed to everyone without our credentials.

SeaweedFS is four servers in one process, and its inner three would serve anybody on the machine, sandboxed jobs
included. So their HTTP administration is off, their reads and writes need a signed token, and their gRPC needs a client
certificate; only the S3 port speaks to callers, who sign with the generated key.

Measured with 4.48 on two cores: answers S3 requests 2.2 s after its start, new or with data; 160 MB of memory.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aios.blobs.presign import Credentials
from aios.runtime.tokens import write_secret

HOST = "127.0.0.1"
PORTS = ("s3", "s3_grpc", "master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc")
"""Every listener. Only `s3` has callers; all must be given, since their defaults belong to other programs."""
VOLUME_MIB = 1024  # a volume file grows to this; a small one wastes least when it is compacted
STOP_SECONDS = 2.0
"""Until SIGKILL is due: it spends 15 s closing its own subscriptions. Accepted writes are with the kernel by then."""
MEMORY = "320MiB"  # of Go's heap: without it a large upload leaves a gigabyte behind
CERTIFICATE_DAYS = 3650  # it proves one process to itself; a new home makes a new one
_COMPONENTS = ("MASTER", "VOLUME", "FILER", "S3", "CLIENT")


def prepare(directory: Path, credentials: Credentials) -> None:
    """Make the folders and secret files that `weed_command` names. A second call renews nothing but the account."""
    data_directory(directory).mkdir(parents=True, exist_ok=True, mode=0o700)
    write_secret(_account_file(directory), json.dumps(account(credentials), indent=2))
    if not _certificate_file(directory).exists():
        write_secret(_certificate_file(directory), _certificate())


def data_directory(directory: Path) -> Path:
    """Where it keeps everything that it stores."""
    return directory / "data"


def account(credentials: Credentials) -> dict[str, object]:
    """The server's table of accounts: ours, and nobody else."""
    keys = {"accessKey": credentials.access_key, "secretKey": credentials.secret_key}
    return {"identities": [{"name": "aios", "credentials": [keys], "actions": ["Admin"]}]}


def weed_command(
    binary: Path, directory: Path, ports: Mapping[str, int], volume_mib: int = VOLUME_MIB
) -> Sequence[str]:
    """The command line. Pure, and without secrets: others can read it.

    Args:
        directory: As given to `prepare`.
        ports: One for each of PORTS.
        volume_mib: Every bucket has volumes of its own, of this size at most, and there are as many as the disk has
            room for: smaller ones let more buckets be.
    """
    listeners = {
        "master.port": ports["master"],
        "master.port.grpc": ports["master_grpc"],
        "volume.port": ports["volume"],
        "volume.port.grpc": ports["volume_grpc"],
        "filer.port": ports["filer"],
        "filer.port.grpc": ports["filer_grpc"],
        "s3.port": ports["s3"],
        "s3.port.grpc": ports["s3_grpc"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
    }
    options = {
        "dir": data_directory(directory),
        "ip": HOST,
        "ip.bind": HOST,
        **listeners,
        "s3.config": _account_file(directory),
        # The account is in the file; no API may add another.
        "s3.iam": "false",
        # No election on a single machine: with one, a restart takes 20 s.
        "master.peers": "none",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": volume_mib,
        # As many volumes as the disk holds; files grow, nothing is taken in advance.
        "volume.max": 0,
        "volume.preStopSeconds": 1,
    }
    switches = ["-filer", "-s3", "-disableHttp"]
    # Log to stderr only, instead of also to files under /tmp.
    return [
        str(binary),
        "-logtostderr=true",
        "server",
        *switches,
        *(f"-{name}={value}" for name, value in options.items()),
    ]


def weed_environment(directory: Path, credentials: Credentials) -> dict[str, str]:
    """What the process gets by environment: keys of its inner doors, derived so that no more files are needed."""
    certificate = str(_certificate_file(directory))
    keys = {
        f"WEED_JWT_{purpose}_KEY": _derived(credentials, purpose)
        for purpose in ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
    }
    certificates = {
        f"WEED_GRPC_{component}_{kind}": certificate for component in _COMPONENTS for kind in ("CERT", "KEY")
    }
    # One volume at a time: the default makes seven files per bucket at once.
    other = {"WEED_GRPC_CA": certificate, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1", "GOMEMLIMIT": MEMORY}
    return keys | certificates | other


def _account_file(directory: Path) -> Path:
    return directory / "account.json"


def _certificate_file(directory: Path) -> Path:
    return directory / "grpc.pem"


def _derived(credentials: Credentials, purpose: str) -> str:
    return hmac.new(credentials.secret_key.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def _certificate() -> str:
    """A key and its self-signed certificate, which is also the only authority that the process trusts."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aios object store")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (pem + certificate.public_bytes(serialization.Encoding.PEM)).decode()
