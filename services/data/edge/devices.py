"""What a device may say, what it may follow, and what may be signed for it. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from aios.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from aios.names import EdgeDeviceName, ModelVersionName
from services.data.manifests import File
from services.data.models import ALIAS_MARK, ModelVersion

MANIFEST_BYTES_MAX = 256 * 1024  # an answer to a device is a message of the bus: 1 MiB at most
PROBLEM_CHARS_MAX = 500
RECORDS_MAX = 256
REPORT_BYTES_MAX = 256 * 1024
COUNT_MAX = 2**40  # of one record: what is beyond is no figure of a device


class EdgeDeviceNotFound(NotFound):
    """The project has no such edge device."""

    reason = "EDGE_DEVICE_NOT_FOUND"


class EdgeDeviceExists(AlreadyExists):
    """The name is taken. Its password cannot be shown again: delete it, then create it."""

    reason = "EDGE_DEVICE_EXISTS"


class EdgeBundleInvalid(FailedPrecondition):
    """What was signed is not this model version, or no device could run it."""

    reason = "EDGE_BUNDLE_INVALID"


@dataclass(frozen=True)
class Ask:
    """What a device tells of itself when it asks what it should run."""

    running: str
    problem: str


@dataclass(frozen=True)
class Record:
    """What a device answered in some seconds, by one version."""

    sequence: int
    version: str
    requests: int
    errors: int
    predictions: int
    micros: int


@dataclass(frozen=True)
class Report:
    """Records of a device, as it keeps them: in one stream, in order."""

    stream: str
    records: Sequence[Record]


def user_of(name: EdgeDeviceName) -> str:
    """What the device says it is, to the bus."""
    return f"{name.project}/{name.edge_device}"


def device_of(user: str) -> EdgeDeviceName | None:
    """Who says to be this user."""
    project, _, device = user.partition("/")
    text = f"projects/{project}/edgeDevices/{device}"
    return EdgeDeviceName.parse(text) if EdgeDeviceName.matches(text) else None


def subject_of(name: EdgeDeviceName) -> str:
    """Below which all that it says and hears lies."""
    return f"edge.{name.project}.{name.edge_device}"


def may(name: EdgeDeviceName) -> dict[str, Any]:
    """What its leaf node may say and hear, as claims of NATS."""
    mine = subject_of(name)
    return {
        "type": "user",
        "version": 2,
        "pub": {"allow": [f"{mine}.ask", f"{mine}.metrics"]},
        "sub": {"allow": [f"{mine}.told", f"{mine}.inbox.>"]},
        "subs": 64,
        "data": -1,
        "payload": REPORT_BYTES_MAX,
        "allowed_connection_types": ["LEAFNODE"],
    }


def check_follows(text: str, project: str, field: str) -> ModelVersionName:
    """What a device may follow: an alias, or a number. `latest` is nobody's decision.

    Raises:
        InvalidArgument
    """
    name = ModelVersionName.parse(text, field)
    if name.project != project:
        raise InvalidArgument.of(field, f"must lie in projects/{project}")
    if not (name.version.startswith(ALIAS_MARK) or name.version.isdecimal()):
        raise InvalidArgument.of(field, "must end in @ and an alias, or in a number")
    return name


def check_bundle(
    manifest: bytes, signature: bytes, key: bytes, version: ModelVersion, files: Sequence[File]
) -> File:
    """The model's one file, once a manifest is known to be of this version and signed by this key.

    Raises:
        EdgeBundleInvalid
    """
    if len(manifest) > MANIFEST_BYTES_MAX:
        raise EdgeBundleInvalid(f"The manifest must be {MANIFEST_BYTES_MAX} bytes at most.")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, manifest)
    except (InvalidSignature, ValueError):
        raise EdgeBundleInvalid("The signature of the manifest does not hold under this key.") from None
    try:
        stated = json.loads(manifest)
        found = str(stated["model_version"]), str(stated["manifest_sha256"])
        sha256 = str(stated["files"][stated["model"]])
    except (ValueError, KeyError, TypeError) as error:
        raise EdgeBundleInvalid(f"The manifest is none: {error!r}.") from None
    if found != (str(version.name), version.manifest_sha256):
        raise EdgeBundleInvalid(f"The manifest is of {found[0]}, not of {version.name}.")
    for file in files:
        if file.sha256 == sha256:
            return file
    raise EdgeBundleInvalid(f"{version.name} has no file with the digest {sha256}.")


def read_ask(data: bytes) -> Ask:
    """What a device told when it asked.

    Raises:
        ValueError: it is none.
    """
    said = _said(data)
    if not isinstance(said, dict):
        raise ValueError("no ask: it must be names with values")
    return Ask(_text(said.get("running", ""), 255), _text(said.get("problem", ""), PROBLEM_CHARS_MAX))


def read_report(data: bytes) -> Report:
    """What a device told of its answers.

    Raises:
        ValueError: it is none.
    """
    said = _said(data)
    try:
        records = [
            Record(version=_text(each["version"], 255), **{name: _count(each, name) for name in _COUNTS})
            for each in said["records"]
        ]
        report = Report(_text(said["stream"], 255), records)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no report: {error!r}") from None
    numbers = [each.sequence for each in records]
    if not 0 < len(records) <= RECORDS_MAX or numbers != sorted(set(numbers)) or len(report.stream) > 64:
        raise ValueError("no report: records must be some, in order")
    return report


def _said(data: bytes) -> Any:
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("lists within lists without end") from None


def _text(value: Any, chars_max: int) -> str:
    """Text that every database can keep: none has a place for half a character, PostgreSQL none for NUL."""
    if not isinstance(value, str):
        raise ValueError("what should be text is none")
    return value[:chars_max].replace("\0", "?").encode(errors="replace").decode()


_COUNTS = ("sequence", "requests", "errors", "predictions", "micros")


def _count(said: Mapping[str, Any], name: str) -> int:
    value = said[name]
    if not isinstance(value, int) or not 0 <= value <= COUNT_MAX:
        raise ValueError(f"{name} must be a whole number of at most {COUNT_MAX}")
    return value
