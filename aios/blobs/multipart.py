"""Uploads in parts, as S3 has them: begun, put part by part in any order, listed, made one object.

The SDK has these calls inside alone, and none whose headers are bound, so they are signed here and their XML is read.

Source: Amazon S3 API reference, CreateMultipartUpload, ListParts, CompleteMultipartUpload, AbortMultipartUpload.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Xml

import urllib3

from aios.blobs.errors import BlobMissing, ObjectStoreUnavailable
from aios.blobs.presign import Presigned

Headers = Mapping[str, str]
Sign = Callable[[str, str, Mapping[str, str], Headers], Presigned]
"""Method, key, query parameters and headers to a request that we send ourselves."""


@dataclass(frozen=True)
class PartEntry:
    """A part that the server has."""

    number: int
    """From 1."""
    size_bytes: int
    etag: str


def begin(http: urllib3.PoolManager, sign: Sign, key: str, headers: Headers) -> str:
    """Begin an upload, with what says how it is encrypted. Returns the server's name of it."""
    answer = _call(http, sign("POST", key, {"uploads": ""}, headers), key)
    return _text(answer, "UploadId")


def parts(http: urllib3.PoolManager, sign: Sign, key: str, upload: str) -> list[PartEntry]:
    """What is there of an upload, by number.

    Raises:
        BlobMissing: the server knows no such upload.
    """
    found: list[PartEntry] = []
    marker = "0"
    while True:
        query = {"uploadId": upload, "max-parts": "1000", "part-number-marker": marker}
        answer = _call(http, sign("GET", key, query, {}), key)
        found += [
            PartEntry(
                int(_text(part, "PartNumber")), int(_text(part, "Size")), _text(part, "ETag").strip('"')
            )
            for part in answer
            if _tag(part) == "Part"
        ]
        if _text(answer, "IsTruncated", "false") != "true":
            return found
        marker = _text(answer, "NextPartNumberMarker")


def complete(
    http: urllib3.PoolManager, sign: Sign, key: str, upload: str, entries: Sequence[PartEntry]
) -> None:
    """Make the parts one object under `key`, in the order of their numbers.

    Raises:
        BlobMissing: the server knows no such upload.
    """
    root = Xml.Element("CompleteMultipartUpload")
    for entry in entries:
        part = Xml.SubElement(root, "Part")
        Xml.SubElement(part, "PartNumber").text = str(entry.number)
        Xml.SubElement(part, "ETag").text = f'"{entry.etag}"'
    answer = _call(http, sign("POST", key, {"uploadId": upload}, {}), key, Xml.tostring(root))
    # The status is sent before the work is done: an error may come behind it.
    if _tag(answer) == "Error":
        raise ObjectStoreUnavailable(f"The object store refused: {_text(answer, 'Code', '')}.", key=key)


def abort(http: urllib3.PoolManager, sign: Sign, key: str, upload: str) -> None:
    """Throw away what is there of an upload. One that is not there is no error."""
    try:
        _call(http, sign("DELETE", key, {"uploadId": upload}, {}), key)
    except BlobMissing:
        return


def _call(http: urllib3.PoolManager, request: Presigned, key: str, body: bytes = b"") -> Xml.Element:
    answer = http.request(request.method, request.url, body=body, headers=dict(request.headers))
    if answer.status == 404:
        raise BlobMissing(f"The object store knows no such upload of {key}.", key=key)
    if answer.status >= 300:
        raise ObjectStoreUnavailable(
            f"The object store refused an upload in parts: HTTP {answer.status}.", key=key
        )
    # It comes from our own store, over a connection that it was signed for.
    return Xml.fromstring(answer.data) if answer.data else Xml.Element("Empty")  # noqa: S314


def _tag(element: Xml.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: Xml.Element, name: str, default: str | None = None) -> str:
    for child in element:
        if _tag(child) == name:
            return child.text or ""
    if default is None:
        raise ObjectStoreUnavailable(f"The object store's answer lacks {name}.")
    return default
