"""Projects and members as values. Pure."""

from dataclasses import dataclass
from datetime import datetime

from aios.errors import AlreadyExists, NotFound

PROJECT_ID_CHARS_MAX = 40  # part of every name and every event subject
MEMBER_ID_CHARS_MAX = 63
DISPLAY_NAME_CHARS_MAX = 200


class ProjectExists(AlreadyExists):
    """The id is taken. Choose another one."""

    reason = "PROJECT_EXISTS"


class ProjectNotFound(NotFound):
    """There is no such project, or the caller does not belong to it."""

    reason = "PROJECT_NOT_FOUND"


class MemberNotFound(NotFound):
    """The project has no such member."""

    reason = "MEMBER_NOT_FOUND"


@dataclass(frozen=True)
class Project:
    """A team's space."""

    id: str
    display_name: str
    create_time: datetime


@dataclass(frozen=True)
class Member:
    """Who belongs to a project, and as what."""

    project: str
    id: str
    role: str
    create_time: datetime
