"""Keys of what is encrypted in the bucket: one for each object, derived from one for each project, which lies in the
bucket wrapped by a master key that does not.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aios.blobs.errors import DataEncrypted, MasterKeyMissing
from aios.sse import KEY_BYTES

KEYS = "keys/"
NONCE_BYTES = 12
_PREFIXES = ("projects/", "staging/")
_PLAIN = json.dumps({"encrypted": False}).encode()

Read = Callable[[str], bytes | None]
PutIfAbsent = Callable[[str, bytes], bool]
IsEmpty = Callable[[str], bool]


class Keyring:
    """Says how each object is encrypted. A project is or is not from its first object on.

    Args:
        master: Holds the master key, 32 bytes as hexadecimal digits; older ones may follow, a line each.
        read: An object's bytes, None where there is none.
        put_if_absent: Stores an object unless one is there.
        is_empty: Whether a project holds nothing yet.
        encrypt_new: Whether projects that hold nothing are encrypted from now on.
    """

    def __init__(
        self,
        master: Path,
        read: Read,
        put_if_absent: PutIfAbsent,
        is_empty: IsEmpty,
        encrypt_new: bool = False,
    ) -> None:
        self._master = master
        self._read = read
        self._put = put_if_absent
        self._is_empty = is_empty
        self._encrypt_new = encrypt_new
        self._projects: dict[str, bytes | None] = {}

    def settle(self, project: str, *, encrypt: bool | None = None) -> bool:
        """Decide, unless it is decided, whether a project is encrypted. Returns whether it is.

        Raises:
            MasterKeyMissing: there is no key to wrap its key with, or none that opens it.
        """
        if not self.load(project):
            wanted = self._encrypt_new if encrypt is None else encrypt
            made = self._wrapped(project) if wanted and self._is_empty(project) else _PLAIN
            self._put(KEYS + project, made)  # of two who decide, the first
            self.load(project)
        return self._projects[project] is not None

    def load(self, project: str) -> bool:
        """Learn how a project is encrypted, if it is decided. Returns whether it is decided."""
        if project in self._projects:
            return True
        stored = self._read(KEYS + project)
        if stored is None:
            return False
        said = json.loads(stored)
        self._projects[project] = self._unwrapped(project, said) if said["encrypted"] else None
        return True

    def is_settled(self, key: str) -> bool:
        """Whether it is known how an object is to be written."""
        project = project_of(key)
        return project is None or project in self._projects

    def key_of(self, key: str) -> bytes | None:
        """What an object is encrypted with; None for one that is not.

        Source: RFC 5869, HKDF.
        """
        secret = self._projects.get(project_of(key) or "")
        if secret is None:
            return None
        info = f"aios/object/{key}".encode()
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)

    def _wrapped(self, project: str) -> bytes:
        master, nonce = self._masters()[0], os.urandom(NONCE_BYTES)
        sealed = AESGCM(master).encrypt(nonce, os.urandom(KEY_BYTES), project.encode())
        return json.dumps(
            {
                "encrypted": True,
                "master": _name(master),
                "key": base64.b64encode(nonce + sealed).decode(),
            }
        ).encode()

    def _unwrapped(self, project: str, said: dict[str, str]) -> bytes:
        sealed = base64.b64decode(said["key"])
        for master in self._masters():
            if _name(master) == said["master"]:
                try:
                    return AESGCM(master).decrypt(
                        sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], project.encode()
                    )
                except InvalidTag:
                    raise MasterKeyMissing(f"The key of {project} was changed in the bucket.") from None
        raise MasterKeyMissing(
            f"The data of {project} is encrypted under the master key {said['master']}, which {str(self._master)!r} "
            "lacks: bring it back from its copy."
        )

    def _masters(self) -> list[bytes]:
        try:
            masters = [bytes.fromhex(line) for line in self._master.read_text().split()]
        except (OSError, ValueError) as error:
            raise MasterKeyMissing(f"The master key cannot be read: {error}.") from None
        if not masters or any(len(each) != KEY_BYTES for each in masters):
            raise MasterKeyMissing(f"The master key must be {2 * KEY_BYTES} hexadecimal digits.")
        return masters


def project_of(key: str) -> str | None:
    """The project that an object belongs to; None for what belongs to none, and is never encrypted."""
    for prefix in _PREFIXES:
        if key.startswith(prefix):
            return key.removeprefix(prefix).partition("/")[0]
    return None


def not_empty(project: str) -> DataEncrypted:
    return DataEncrypted(
        f"projects/{project} holds data already, and not encrypted: make another project, encrypt that, and push."
    )


def _name(master: bytes) -> str:
    return hashlib.sha256(b"aios/master" + master).hexdigest()[:16]
