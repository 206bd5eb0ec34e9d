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


class DataEncrypted(FailedPrecondition):
    """Whether a project's data is encrypted is decided when its first object is stored, and stays."""

    reason = "DATA_ENCRYPTION_DECIDED"


class MasterKeyMissing(FailedPrecondition):
    """The key that opens the keys of projects is not here, or is another one."""

    reason = "MASTER_KEY_MISSING"


class ObjectStoreUnavailable(Unavailable):
    """The object store does not answer, or refuses our credentials."""

    reason = "OBJECT_STORE_UNAVAILABLE"
