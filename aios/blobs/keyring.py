"""Keys of what is encrypted in the bucket: one for each object, derived from one for each project, which lies in the
bucket wrapped by a master key that does not.

The store encrypts, by keys that each request hands it, where it can. Elsewhere content is encrypted by who puts it
(aios.seal), and what the data service writes by itself, logs and manifests, here, by AES-256-GCM.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aios import seal
from aios.blobs.errors import DataEncrypted, MasterKeyMissing
from aios.errors import DataLoss
from aios.sse import KEY_BYTES

KEYS = "keys/"
NONCE_BYTES = 12
_PREFIXES = ("projects/", "staging/")
_CONTENT = re.compile(r"(?:projects/[^/]+/blobs/sha256/[0-9a-f]{2}|staging/[^/]+)/([0-9a-f]{64})")
"""Keys of content that is named by its digest. It has one key of its own, checked or not: a copy needs no other."""
_PLAIN = json.dumps({"encrypted": False}).encode()
_STORE, _CLIENTS = "store", "clients"

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
        store_encrypts: Whether the store encrypts by keys that it is handed; asked when a project is to be encrypted.
        encrypt_new: Whether projects that hold nothing are encrypted from now on.
    """

    def __init__(
        self,
        master: Path,
        read: Read,
        put_if_absent: PutIfAbsent,
        is_empty: IsEmpty,
        store_encrypts: Callable[[], bool],
        encrypt_new: bool = False,
    ) -> None:
        self._master = master
        self._read = read
        self._put = put_if_absent
        self._is_empty = is_empty
        self._store_encrypts = store_encrypts
        self._encrypt_new = encrypt_new
        self._projects: dict[str, bytes | None] = {}
        self._by_clients: set[str] = set()

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
        if said.get("by") == _CLIENTS:
            self._by_clients.add(project)
        self._projects[project] = self._unwrapped(project, said) if said["encrypted"] else None
        return True

    def is_settled(self, key: str) -> bool:
        """Whether it is known how an object is to be written."""
        project = project_of(key)
        return project is None or project in self._projects

    def key_of(self, key: str) -> bytes | None:
        """What an object is encrypted with, by the store or (`aios.seal`) by who puts it; None for one that is not.

        Source: RFC 5869, HKDF.
        """
        project = project_of(key) or ""
        secret = self._projects.get(project)
        if secret is None:
            return None
        if project not in self._by_clients:
            return _derived(secret, f"aios/object/{key}")
        content = _CONTENT.fullmatch(key)
        return seal.MARK + _derived(secret, f"aios/content/{content[1]}") if content else None

    def close(self, key: str, data: bytes) -> bytes:
        """A small object as it is put into the store."""
        content, secret = self.key_of(key), self._own_key(key)
        if secret is None:
            return seal.cipher(content)(data)
        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(secret).encrypt(nonce, data, key.encode())

    def open(self, key: str, stored: bytes) -> bytes:
        """A small object as it was before `close`.

        Raises:
            DataLoss: it was changed in the bucket.
        """
        content, secret = self.key_of(key), self._own_key(key)
        if secret is None:
            return seal.cipher(content)(stored)
        try:
            return AESGCM(secret).decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], key.encode())
        except InvalidTag:
            raise DataLoss(f"{key} was changed in the bucket.", key=key) from None

    def _own_key(self, key: str) -> bytes | None:
        """Of an object that the data service writes, where the store does not encrypt it."""
        project = project_of(key) or ""
        secret = self._projects.get(project) if project in self._by_clients else None
        if secret is None or _CONTENT.fullmatch(key):
            return None
        return _derived(secret, f"aios/object/{key}")

    def _wrapped(self, project: str) -> bytes:
        master, nonce = self._masters()[0], os.urandom(NONCE_BYTES)
        sealed = AESGCM(master).encrypt(nonce, os.urandom(KEY_BYTES), project.encode())
        return json.dumps(
            {
                "encrypted": True,
                "by": _STORE if self._store_encrypts() else _CLIENTS,
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


def _derived(secret: bytes, info: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info.encode()).derive(secret)


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
