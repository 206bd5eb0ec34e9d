"""What the path of an `mlflow-artifacts` URI means. Pure.

{experiment}/{run}/artifacts/...              what a tracked run leaves
{experiment}/models/{logged model}/artifacts/...
registry/{model}/{version}/...                a version of the data service, to be read
"""

import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from aios.errors import InvalidArgument, NotFound, PermissionDenied

SCHEME = "mlflow-artifacts:"
PATH_BYTES_MAX, SEGMENT_BYTES_MAX = 512, 255  # as the data service takes them
_JOINERS = "\u200c\u200d"  # invisible, but part of words


class ArtifactNotFound(NotFound):
    """Nothing lies at this path."""

    reason = "ARTIFACT_NOT_FOUND"


class ArtifactReadOnly(PermissionDenied):
    """What lies here was made otherwise, and stays as it is."""

    reason = "ARTIFACT_READ_ONLY"


class Kind(StrEnum):
    """Whose files they are."""

    RUN = "run"
    MODEL = "model"
    REGISTRY = "registry"


@dataclass(frozen=True)
class Place:
    """One owner of artifacts, and a path among them."""

    kind: Kind
    holder: str
    """Experiment, or registered model."""
    id: str
    """Run, logged model, or version."""
    path: str = ""
    """Below the root; empty is the root itself."""

    @property
    def root(self) -> str:
        """Everything before `path`."""
        match self.kind:
            case Kind.RUN:
                return f"{self.holder}/{self.id}/artifacts"
            case Kind.MODEL:
                return f"{self.holder}/models/{self.id}/artifacts"
            case Kind.REGISTRY:
                return f"registry/{self.holder}/{self.id}"

    @property
    def uri(self) -> str:
        """As MLflow says it."""
        return f"{SCHEME}/{self.root}" + (f"/{self.path}" if self.path else "")


def place(text: str) -> Place:
    """What a path names.

    Raises:
        ArtifactNotFound: it is below none of the roots.
        InvalidArgument: its rest may not be a file's path.
    """
    match text.strip("/").split("/"):
        case ["registry", model, version, *rest]:
            found = Place(Kind.REGISTRY, model, version, "/".join(rest))
        case [experiment, "models", model, "artifacts", *rest]:
            found = Place(Kind.MODEL, experiment, model, "/".join(rest))
        case [experiment, run, "artifacts", *rest]:
            found = Place(Kind.RUN, experiment, run, "/".join(rest))
        case _:
            raise ArtifactNotFound(
                f"No artifacts lie at {text[:200]!r}: paths begin with an experiment and a run."
            )
    if found.path and (problem := _problem(found.path)):
        raise InvalidArgument.of("path", problem)
    return found


def of_uri(uri: str) -> Place:
    """What a source names.

    Raises:
        InvalidArgument: it is no place of the platform.
    """
    if not uri.startswith(f"{SCHEME}/"):
        raise InvalidArgument.of(
            "source",
            f"must be artifacts that the platform has ({SCHEME}/...), not {uri[:100]!r}: log them first",
        )
    return place(uri.removeprefix(SCHEME))


def below(paths: dict[str, int], folder: str) -> list[tuple[str, bool, int]]:
    """What lies right in a folder: name, whether it is a folder, size. The file itself where the path is one."""
    if folder in paths:
        return [(folder.rpartition("/")[2], False, paths[folder])]
    found: dict[str, tuple[bool, int]] = {}
    start = f"{folder}/" if folder else ""
    for path, size in paths.items():
        if path.startswith(start):
            name, _, more = path[len(start) :].partition("/")
            found[name] = (True, 0) if more else (False, size)
    return [(name, *found[name]) for name in sorted(found)]


def _problem(path: str) -> str:
    """Why a path may not be a file's; the data service's own rules, so that what is taken can be kept."""
    segments = path.split("/")
    if len(path.encode(errors="replace")) > PATH_BYTES_MAX:
        return f"must not be longer than {PATH_BYTES_MAX} bytes"
    if any(each in ("", ".", "..") for each in segments):
        return "must have no empty segment, no `.` and no `..`"
    if any(len(each.encode(errors="replace")) > SEGMENT_BYTES_MAX for each in segments):
        return f"must have no segment longer than {SEGMENT_BYTES_MAX} bytes"
    if "\\" in path or ":" in segments[0]:
        return "must use `/` and name no drive"
    if any(unicodedata.category(each) in ("Cc", "Cf", "Cs") and each not in _JOINERS for each in path):
        return "must have no control or invisible characters"
    return ""
