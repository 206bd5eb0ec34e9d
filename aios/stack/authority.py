"""The stack's own certificate authority: certificates by which its processes know each other (aios.runtime.peers).

Only the vault has the authority's key. Certificates past half of their life are made again, at the next start.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from aios.runtime.tokens import write_secret

AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 365
SKEW = datetime.timedelta(hours=1)
"""Machines whose clocks are late believe a new certificate too."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names that every certificate holds: health checks, and the door as its own machine reaches it."""


class Authority:
    """The authority in `directory`; made at the first use."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self.certificate = directory / "authority.crt"
        key = directory / "authority.key"
        if not (key.exists() and self.certificate.exists()):
            self._make(key)
        loaded = serialization.load_pem_private_key(key.read_bytes(), password=None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        self._key = loaded
        self._own = x509.load_pem_x509_certificate(self.certificate.read_bytes())

    def issue(self, name: str, others: Sequence[str] = ()) -> tuple[Path, Path]:
        """Certificate and key of a process, as the paths of PEM files. What is still good for long is kept.

        Args:
            name: Of the process, as the others dial it.
            others: More names and addresses of it.
        """
        certificate, key = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        names = _names(name, *others, *LOOPBACK)
        if not (key.exists() and self._is_good(certificate, names)):
            made = ec.generate_private_key(ec.SECP256R1())
            builder = _builder(name, self._own.subject, made.public_key(), CERTIFICATE_DAYS)
            builder = (
                builder.add_extension(names, critical=False)
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(
                    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                    critical=False,
                )
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
                )
            )
            _write(key, made)
            _write(certificate, builder.sign(self._key, hashes.SHA256()))
        return certificate, key

    def _make(self, path: Path) -> None:
        for former in self._directory.glob("*.crt"):  # signed by an authority that is no more
            former.unlink()
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        subject = _subject("aios authority")
        builder = _builder("aios authority", subject, key.public_key(), AUTHORITY_DAYS)
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        _write(path, key)
        _write(self.certificate, builder.sign(key, hashes.SHA256()))

    def _is_good(self, path: Path, names: x509.SubjectAlternativeName) -> bool:
        if not path.exists():
            return False
        found = x509.load_pem_x509_certificate(path.read_bytes())
        half = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=CERTIFICATE_DAYS / 2)
        held = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return found.not_valid_after_utc > half and held == names


def _names(*names: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_name(name) for name in dict.fromkeys(names)])


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=_subject(name),
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - SKEW,
        not_valid_after=now + datetime.timedelta(days=days),
    )


def _write(path: Path, made: ec.EllipticCurvePrivateKey | x509.Certificate) -> None:
    if isinstance(made, x509.Certificate):
        text = made.public_bytes(serialization.Encoding.PEM)
    else:
        text = made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    write_secret(path, text.decode())
