"""Where things lie in the bucket.

Keys are built from project ids and digests, both checked before, never from names or paths that a caller chose. A
project is a prefix: nothing is shared between two, so knowing a digest opens nothing.
"""

PROJECTS = "projects/"
STAGING = "staging/"
"""What clients put, before it is checked. Nothing under it is ever read back to a client."""


AUDIT = "audit/"
"""Who did what, of all projects: objects of many lines each, written once."""


def audit(first: str, last: str) -> str:
    """Lines of an audit, from one id to another."""
    return f"{AUDIT}{first}-{last}"


def audited(key: str) -> tuple[str, str]:
    """First and last id of such an object."""
    first, _, last = key.removeprefix(AUDIT).partition("-")
    return first, last


def blob(project: str, sha256: str) -> str:
    """Checked content. Never changes."""
    return f"projects/{project}/blobs/sha256/{sha256[:2]}/{sha256}"


def manifest(project: str, sha256: str) -> str:
    """A list of files, under the digest of its own bytes. Never changes."""
    return f"projects/{project}/manifests/{sha256}"


def logs(project: str) -> str:
    """Everything that happened in a project: the truth that the index is made from."""
    return f"{PROJECTS}{project}/logs/"


def entry(project: str, log: str, sequence: int) -> str:
    """One entry of a log such as `datasets/digits`. Written once, never changed; numbers leave no gap."""
    return f"{logs(project)}{log}/{sequence:020}"


def entry_of(key: str) -> tuple[str, str, int]:
    """Project, log and number of an entry's key."""
    project, _, rest = key.removeprefix(PROJECTS).partition("/logs/")
    log, _, sequence = rest.rpartition("/")
    return project, log, int(sequence)


def blobs(project: str) -> str:
    """All checked content of a project."""
    return f"{PROJECTS}{project}/blobs/sha256/"


def staging(project: str, sha256: str) -> str:
    """Content on its way in."""
    return f"{STAGING}{project}/{sha256}"


def staged(key: str) -> tuple[str, str]:
    """Project and digest of a staging key."""
    project, _, sha256 = key.removeprefix(STAGING).partition("/")
    return project, sha256
