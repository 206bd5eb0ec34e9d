"""Sources on the network: `https://` files and `s3://` prefixes, fetched into a folder before anything reads them.

What a URL names is chosen by whoever wrote it, and the machine that fetches sees more of the network than they do. So a
scheme must be known, a host must have public addresses alone, the connection goes to the very address that was looked
at, and each redirect is looked at like the first URL. How much comes is bounded.
"""

import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urljoin
from xml.etree import ElementTree as Xml

import httpx

from aios.blobs.presign import Credentials, presign
from aios.errors import Unavailable
from aios.outside import Allow, Resolve, is_public, pinned, refused, resolve, shown, split

REDIRECTS_MAX = 5
TIMEOUT = httpx.Timeout(30.0)
CHUNK_BYTES = 1 << 20
LIST_BYTES_MAX = 16 << 20
SIGNED_FOR = timedelta(minutes=15)


@dataclass(frozen=True)
class Limits:
    """How much is taken from the network."""

    bytes_max: int = 64 << 30
    files_max: int = 100_000


@dataclass(frozen=True)
class Bucket:
    """How an S3 server is reached.

    Without credentials, requests are not signed: what is public can be read.
    """

    endpoint: str = ""
    region: str = "us-east-1"
    credentials: Credentials | None = field(default=None, repr=False)

    def url(self, path: str, parameters: Mapping[str, str]) -> str:
        """A GET of `/{bucket}` or `/{bucket}/{key}`."""
        endpoint = self.endpoint or f"https://s3.{self.region}.amazonaws.com"
        if self.credentials is not None:
            signed = presign(
                "GET",
                endpoint,
                path,
                credentials=self.credentials,
                region=self.region,
                now=datetime.now(UTC),
                lifetime=SIGNED_FOR,
                parameters=parameters,
            )
            return signed.url
        query = "&".join(
            f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in parameters.items()
        )
        return f"{endpoint}{quote(path)}" + (f"?{query}" if query else "")


class Fetcher:
    """Gets what lies behind URLs.

    Args:
        schemes: Of URLs that are followed.
        allow: Whether an address may be connected to.
        trust: Whose certificates are believed; everybody's that the system believes where None.
    """

    def __init__(
        self,
        limits: Limits = Limits(),
        *,
        schemes: Sequence[str] = ("https",),
        resolve: Resolve = resolve,
        allow: Allow = is_public,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = limits
        self._left = limits.bytes_max
        self._schemes = schemes
        self._resolve = resolve
        self._allow = allow
        # Proxies of the environment would connect for us, to wherever they please.
        self._http = httpx.Client(
            timeout=TIMEOUT,
            trust_env=False,
            follow_redirects=False,
            verify=trust or ssl.create_default_context(),
        )

    def close(self) -> None:
        self._http.close()

    def fetch(self, source: str, folder: Path, bucket: Bucket = Bucket()) -> Path:
        """Fetch a file, or all objects below an `s3://bucket/prefix`, into a folder.

        Returns:
            The file, or the folder that holds the objects.

        Raises:
            InvalidArgument: the URL is refused, or brings more than is taken.
            Unavailable: nothing answers there.
        """
        address = split(source)
        if address.scheme != "s3":
            name = PurePosixPath(unquote(address.path)).name or "download"
            target = folder / _name(name, source)
            self.file(source, target)
            return target
        if not address.netloc or "@" in address.netloc:
            raise refused(source, "must be s3://BUCKET/PREFIX")
        name, prefix = address.netloc, unquote(address.path.lstrip("/"))
        keys = self._keys(bucket, name, prefix, source)
        if keys == [prefix]:
            target = folder / _name(PurePosixPath(prefix).name, source)
            self.file(bucket.url(f"/{name}/{prefix}", {}), target)
            return target
        base = prefix if prefix.endswith("/") or not prefix else prefix.rpartition("/")[0] + "/"
        for key in keys:
            target = folder / _below(key.removeprefix(base), source)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.file(bucket.url(f"/{name}/{key}", {}), target)
        if not keys:
            raise refused(source, "holds nothing")
        return folder

    def file(self, url: str, target: Path) -> None:
        """Fetch one file."""
        chunks = self._chunks(url)
        first = next(chunks, b"")  # what is refused leaves no file
        with target.open("wb") as out:
            out.write(first)
            for chunk in chunks:
                out.write(chunk)

    def _keys(self, bucket: Bucket, name: str, prefix: str, source: str) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            query = {"list-type": "2", "prefix": prefix} | ({"continuation-token": token} if token else {})
            listed = b""
            for chunk in self._chunks(bucket.url(f"/{name}", query)):
                listed += chunk
                if len(listed) > LIST_BYTES_MAX:
                    raise refused(source, "is listed at a length that is not taken")
            if b"<!" in listed:  # entities, which unfold to anything
                raise refused(source, "is listed by something that is no S3 server")
            try:
                root = Xml.fromstring(listed)  # noqa: S314 - without entities, above
            except Xml.ParseError:
                raise refused(source, "is listed by something that is no S3 server") from None
            texts = [(each.tag.rpartition("}")[2], each) for each in root.iter()]
            keys = [each.text or "" for tag, each in texts if tag == "Key"]
            found += [key for key in keys if not key.endswith("/")]
            if len(found) > self._limits.files_max:
                raise refused(source, f"holds more than {self._limits.files_max} files")
            token = next((each.text or "" for tag, each in texts if tag == "NextContinuationToken"), "")
            if not token or not keys:
                return found

    def _chunks(self, url: str) -> Iterator[bytes]:
        for _ in range(REDIRECTS_MAX + 1):
            try:
                pinned, options = self._pinned(url)
                with self._http.stream("GET", pinned, **options) as answer:
                    if answer.is_redirect:
                        url = urljoin(url, answer.headers.get("location", ""))
                        continue
                    if answer.status_code != httpx.codes.OK:
                        raise refused(url, f"answers HTTP {answer.status_code}")
                    for chunk in answer.iter_raw(CHUNK_BYTES):
                        self._left -= len(chunk)
                        if self._left < 0:
                            raise refused(url, f"brings more than {self._limits.bytes_max} bytes")
                        yield chunk
                    return
            except (httpx.RemoteProtocolError, httpx.InvalidURL, UnicodeError):
                raise refused(url, "leads to what is no URL, or does not speak HTTP") from None
            except httpx.TransportError as error:
                raise Unavailable(f"{shown(url)} does not answer: {type(error).__name__}.") from None
        raise refused(url, f"redirects more than {REDIRECTS_MAX} times")

    def _pinned(self, url: str) -> tuple[httpx.URL, dict[str, Any]]:
        target, headers, extensions = pinned(url, self._schemes, self._resolve, self._allow)
        headers |= {"accept-encoding": "identity", "user-agent": "aios-import"}
        return target, {"headers": headers, "extensions": extensions}


def is_remote(source: str) -> bool:
    """Whether a source is a URL and no path."""
    return "://" in source


def _name(name: str, source: str) -> str:
    if name in ("", ".", "..") or any(each in name for each in "/\\\0") or len(name.encode()) > 255:
        raise refused(source, "ends in no file name")
    return name


def _below(key: str, source: str) -> PurePosixPath:
    path = PurePosixPath(key)
    if not key or path.is_absolute() or ".." in path.parts or "\\" in key or "\0" in key:
        raise refused(source, f"holds {key[:200]!r}, which leads out of the folder")
    return path
