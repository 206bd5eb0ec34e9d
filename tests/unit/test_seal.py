"""Encryption of content by who puts it."""

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given
from hypothesis import strategies as st

from aios import seal, sse

SECRET = bytes(range(32))
KEY = seal.MARK + SECRET


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(1, 100))
def test_any_range_in_pieces_of_any_size_is_opened(data: bytes, start: int, piece: int) -> None:
    closed = seal.cipher(KEY)(data)
    assert closed == Cipher(AES256(SECRET), CTR(bytes(16))).encryptor().update(data)
    opened, wanted = seal.cipher(KEY, start), closed[start:]
    pieces = [opened(wanted[at : at + piece]) for at in range(0, len(wanted), piece)]
    assert b"".join(pieces) == data[start:]


def test_a_key_goes_to_the_store_or_stays_here() -> None:
    assert sse.headers(KEY) == {}
    assert len(sse.headers(SECRET)) == 3
    assert seal.cipher(SECRET)(b"data") == seal.cipher(b"")(b"data") == b"data"
