"""A manifest: what one version is, in one canonical form, whose digest names the version.

The form is JSON with sorted keys and no spaces. It lists the files, or names the index that does (a Parquet table:
`aios.trees`), and says where they came from: parents, run, code, inputs. What is empty is left out, so a field can be
added without another name for old content. It holds no time, no author and no message: those belong to the commit.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Self

from aios.errors import DataLoss, InvalidArgument

FORMAT = 1
FORMAT_INDEXED = 2  # its files are in an index
VERSION_ID_CHARS = 16  # 64 bits of the digest: enough within one dataset, short enough to type
PATH_BYTES_MAX = 512
SEGMENT_BYTES_MAX = 255  # what file systems take as one name
MANIFEST_BYTES_MAX = 3 * 1024 * 1024  # so that a version with its files fits into one message of 4 MiB
BLOB_BYTES_MAX = 5 * 1024**4  # what S3 takes in one object
ORIGIN_BYTES_MAX = 64 * 1024  # with its schema and parameters: a page, not a document

_JOINERS = "\u200c\u200d"  # invisible too, but part of words and emoji; the others hide what a name is
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Kind(StrEnum):
    """What the files are a version of."""

    DATASET = "dataset"
    MODEL = "model"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, order=True)
class File:
    """One file: where it goes, and what it holds."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Index:
    """The table of a version's files, a blob like any other."""

    sha256: str
    file_count: int
    size_bytes: int
    """Sum over the files."""
    content: str
    """Digest of what the files hold, however they are stored."""


@dataclass(frozen=True)
class Origin:
    """Where a version came from and how it may be used."""

    run: str = ""
    code_sha256: str = ""
    transform: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    """Names of dataset versions."""
    schema: str = ""
    licence: str = ""
    privacy: Sequence[str] = ()
    label_project: str = ""


@dataclass(frozen=True)
class Manifest:
    """What one version is. Make it with `of` or `indexed`, which check, or with `decode`."""

    kind: Kind
    files: Sequence[File] = ()
    """By path; none where there is an index."""
    index: Index | None = None
    parents: Sequence[str] = ()
    """Digests of the manifests that this version follows."""
    origin: Origin = Origin()

    @classmethod
    def of(cls, kind: Kind, files: Iterable[File], field: str, origin: Origin = Origin()) -> Self:
        """A manifest of what a caller sent.

        Args:
            field: Where the files stood in the request, for errors.

        Raises:
            InvalidArgument: naming each file that may not be in a version, or that none is left.
        """
        listed = list(files)
        problems: dict[str, str] = {}
        for index, file in enumerate(listed):
            problems |= _problems(file, f"{field}[{index}]")
        if not listed:
            problems[field] = "needs at least one file"
        if not problems:
            problems = _clashes(listed, field)
        made = cls(kind, tuple(sorted(listed)), origin=origin)
        if not problems and len(made.encoded) > MANIFEST_BYTES_MAX:
            problems[field] = (
                f"{len(listed)} files are too many for one version (their list exceeds {MANIFEST_BYTES_MAX} bytes): "
                "pack small ones together"
            )
        if problems:
            first = next(iter(problems.items()))
            raise InvalidArgument(f"{first[0]}: {first[1]}", fields=problems)
        return made

    @classmethod
    def decode(cls, data: bytes, sha256: str) -> Self:
        """Read a stored manifest.

        Raises:
            DataLoss: these are not the bytes that were stored.
        """
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DataLoss(f"Manifest {sha256} is damaged.", sha256=sha256)
        body = json.loads(data)
        files = (File(each["path"], each["sha256"], each["size_bytes"]) for each in body.get("files", ()))
        index = Index(**body["index"]) if "index" in body else None
        origin: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in body.get("origin", {}).items()
        }
        return cls(Kind(body["kind"]), tuple(files), index, tuple(body.get("parents", ())), Origin(**origin))

    @cached_property
    def encoded(self) -> bytes:
        """The canonical bytes."""
        files = [
            {"path": each.path, "sha256": each.sha256, "size_bytes": each.size_bytes} for each in self.files
        ]
        body: dict[str, Any] = {
            "kind": self.kind,
            "parents": list(self.parents),
            "origin": _filled(self.origin),
        }
        listed = {"index": asdict(self.index)} if self.index else {"files": files}
        stated = {key: value for key, value in body.items() if value}
        return _canonical({"format": FORMAT_INDEXED if self.index else FORMAT, **stated, **listed})

    @cached_property
    def sha256(self) -> str:
        """Digest of the canonical bytes: what the manifest is stored under."""
        return hashlib.sha256(self.encoded).hexdigest()

    @property
    def version_id(self) -> str:
        """The short form that names a dataset version."""
        return self.sha256[:VERSION_ID_CHARS]

    @property
    def size_bytes(self) -> int:
        """Sum over its files; one that stands at two paths counts twice."""
        return self.index.size_bytes if self.index else sum(file.size_bytes for file in self.files)

    @property
    def file_count(self) -> int:
        return self.index.file_count if self.index else len(self.files)

    @cached_property
    def meaning(self) -> str:
        """Digest of content and origin: what makes a commit another one than the last, whatever it follows."""
        content = self.index.content if self.index else content_of(self.files)
        origin = _filled(self.origin)
        return hashlib.sha256(content.encode() + _canonical(origin)).hexdigest() if origin else content

    def following(self, parents: Sequence[str]) -> "Manifest":
        """The same content after other versions."""
        return replace(self, parents=tuple(parents))


def content_of(files: Iterable[File]) -> str:
    """Digest of what files by path hold; equal to the `content` of an index of them."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(b"%b\0%b%d\n" % (file.path.encode(), bytes.fromhex(file.sha256), file.size_bytes))
    return digest.hexdigest()


def check_origin(origin: Origin, field: str) -> Origin:
    """Return an origin that can be stored.

    Raises:
        InvalidArgument: naming `field`.
    """
    if origin.code_sha256:
        check_sha256(origin.code_sha256, f"{field}.code_sha256")
    if len(_canonical(_filled(origin))) > ORIGIN_BYTES_MAX:
        raise InvalidArgument.of(field, f"must not be longer than {ORIGIN_BYTES_MAX} bytes")
    return origin


def _filled(origin: Origin) -> dict[str, Any]:
    return {key: value for key, value in asdict(origin).items() if value}


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def check_sha256(text: str, field: str) -> str:
    """Return a digest in the one form we store.

    Raises:
        InvalidArgument: naming `field`.
    """
    if not _SHA256.fullmatch(text):
        raise InvalidArgument.of(field, "must be a SHA-256 as 64 lower-case hexadecimal digits")
    return text


def check_size(size_bytes: int, field: str) -> int:
    """Return the size of a blob that can be stored.

    Raises:
        InvalidArgument: naming `field`.
    """
    if not 0 <= size_bytes <= BLOB_BYTES_MAX:
        raise InvalidArgument.of(field, f"must be 0 to {BLOB_BYTES_MAX} bytes: split larger files")
    return size_bytes


def path_problem(path: str) -> str | None:
    """Why a path may not stand in a manifest; None when it may.

    The rules are those under which the path can be written on any machine inside any folder, and nowhere else.
    """
    segments = path.split("/")
    if not path:
        return "must not be empty"
    if path.startswith("/"):
        return "must be relative"
    if len(path.encode(errors="replace")) > PATH_BYTES_MAX:
        return f"must not be longer than {PATH_BYTES_MAX} bytes"
    if any(segment in ("", ".", "..") for segment in segments):
        return "must have no empty segment, no `.` and no `..`"
    if any(len(segment.encode(errors="replace")) > SEGMENT_BYTES_MAX for segment in segments):
        return f"must have no segment longer than {SEGMENT_BYTES_MAX} bytes"
    if "\\" in path or ":" in segments[0]:
        return "must use `/` and name no drive"
    if any(unicodedata.category(each) in ("Cc", "Cf", "Cs") and each not in _JOINERS for each in path):
        return "must have no control or invisible characters"
    return None


def _problems(file: File, field: str) -> dict[str, str]:
    problem = path_problem(file.path)
    found = {f"{field}.path": problem} if problem else {}
    for check in (
        lambda: check_sha256(file.sha256, f"{field}.sha256"),
        lambda: check_size(file.size_bytes, f"{field}.size_bytes"),
    ):
        try:
            check()
        except InvalidArgument as error:
            found |= error.fields
    return found


def _clashes(files: Sequence[File], field: str) -> dict[str, str]:
    """Paths that could not lie in one folder: twice the same, or one a folder of another."""
    found: dict[str, str] = {}
    first: dict[str, int] = {}
    for index, file in enumerate(files):
        if file.path in first:
            found[f"{field}[{index}].path"] = f"{file.path!r} is already {field}[{first[file.path]}].path"
        first.setdefault(file.path, index)
    for index, file in enumerate(files):
        folder = file.path
        while folder := folder.rpartition("/")[0]:
            if folder in first:
                found[f"{field}[{index}].path"] = (
                    f"{folder!r} is a file of this version, so it cannot be a folder"
                )
                break
    return found
