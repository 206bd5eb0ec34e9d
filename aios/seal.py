"""How content is encrypted where the object store does not do it (aios.sse): AES-256 in counter mode, by who puts it.

Sizes, ranges, parts and offsets stay what they are. A key belongs to one content, which its digest names, so its counter
may begin at zero; and whoever reads content holds it against that digest, which is why no tag is needed here. Bytes that
are put under a digest that is not theirs, such as those of a file that is written to meanwhile, share that key until they
are refused: do not let a store keep versions of what was refused.

Pure. Source: NIST SP 800-38A, 6.5.
"""

from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

MARK = b"\x01"
"""In front of such a key. One without it is 32 bytes, and goes to the store."""
KEY_BYTES = len(MARK) + 32
_BLOCK = 16


def is_ours(key: bytes | None) -> bool:
    """Whether content under this key is encrypted here, and the store never sees the key."""
    return bool(key) and len(key or b"") == KEY_BYTES


def cipher(key: bytes | None, offset: int = 0) -> Callable[[bytes], bytes]:
    """What turns content from an offset on, piece by piece, into what lies in the store, and back.

    Changes nothing where the store encrypts, or nobody does.
    """
    if key is None or not is_ours(key):
        return bytes
    counter = (offset // _BLOCK).to_bytes(_BLOCK, "big")
    stream = Cipher(AES256(key.removeprefix(MARK)), CTR(counter)).encryptor()
    stream.update(bytes(offset % _BLOCK))
    return stream.update
