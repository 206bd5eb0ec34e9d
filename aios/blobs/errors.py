"""What can go wrong with the object store."""

from aios.errors import Aborted, FailedPrecondition, NotFound, Unavailable


class BlobMissing(NotFound):
    """Nothing is stored under the key."""

    reason = "BLOB_MISSING"


class BlobChanged(Aborted):
    """The object is no longer the one that was read. Read it again."""

    reason = "BLOB_CHANGED"


class ObjectStoreUnfit(FailedPrecondition):
    """The server does not do what the platform relies on. Use another one, or a newer release."""

    reason = "OBJECT_STORE_UNFIT"


class ObjectStoreUnavailable(Unavailable):
    """The object store does not answer, or refuses our credentials."""

    reason = "OBJECT_STORE_UNAVAILABLE"
