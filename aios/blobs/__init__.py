"""Bytes in an S3 bucket: presigned doors for those who carry them, and the few operations a service needs itself.

Owns one bucket, made at start, and refuses a server on which two writers could both win a conditional PUT. Holds no
blob in memory: content is hashed as it streams. Hands the server the key of each object of a project that is encrypted.
Never anonymous; a presigned URL is a secret and is never logged.
"""

from aios.blobs.blobs import Blobs, Content, Entry
from aios.blobs.errors import BlobChanged, BlobMissing, ObjectStoreUnfit
from aios.blobs.presign import Credentials, Presigned

__all__ = [
    "BlobChanged",
    "BlobMissing",
    "Blobs",
    "Content",
    "Credentials",
    "Entry",
    "ObjectStoreUnfit",
    "Presigned",
]
