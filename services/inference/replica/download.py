"""Fetch a model version's files from presigned URLs, checked against their digests."""

from collections.abc import Sequence
from pathlib import Path

from aios import transfer
from aios.errors import InvalidArgument
from services.inference.replica.repository import artifact_path
from services.inference.replica.spec import Download

MODEL_BYTES_MAX = 64 << 30
"""Of all files together: more than any model that one machine serves, less than its disk."""


async def fetch(downloads: Sequence[Download], into: Path) -> int:
    """Write the files below `into` and return their bytes. Each is there whole and right, or it raises.

    Raises:
        DataLoss: The bytes are not those that were registered.
        FailedPrecondition: The URL is refused.
        Unavailable: The object store did not deliver.
    """
    total = sum(each.size_bytes for each in downloads)
    if total > MODEL_BYTES_MAX:
        raise InvalidArgument(
            f"the model version has {total} bytes; a replica takes {MODEL_BYTES_MAX} at most"
        )
    async with transfer.client() as http:
        for each in downloads:
            target = into / artifact_path(each.path)
            await transfer.download(
                http, each.url, each.sha256, each.size_bytes, target, key=each.encryption_key
            )
    return total
