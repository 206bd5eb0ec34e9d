"""The secrets that pseudonyms are made with: one for each project and key name, all derived from one file that only the
data service reads.
"""

from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aios.errors import FailedPrecondition

KEY_BYTES = 32


class KeyMissing(FailedPrecondition):
    """This installation has no secret to derive keys from: `aios up` makes it."""

    reason = "KEY_MISSING"


class ProjectKeys:
    """Derives keys.

    Args:
        file: Holds the secret, at least 32 bytes; opened when a key is asked for.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def derive(self, project: str, key: str) -> bytes:
        """The secret of one key name in one project: always the same, and no help in finding another.

        Raises:
            KeyMissing
        Source: RFC 5869, HKDF.
        """
        try:
            secret = self._file.read_bytes().strip()
        except OSError as error:
            raise KeyMissing(f"The secret for pseudonyms cannot be read: {error.strerror}.") from None
        if len(secret) < KEY_BYTES:
            raise KeyMissing("The secret for pseudonyms is shorter than 32 bytes.")
        info = f"aios/pseudonyms/{project}/{key}".encode()
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)
