"""The Ray cluster that an operator attached, as the data service knows it: who is told of it, and its token."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aios.config import Settings, variable_of
from aios.errors import InvalidArgument
from services.data.transforms import Spec, type_of

RAY_ADDRESS = variable_of("ray_address")


@dataclass(frozen=True)
class Cluster:
    """One cluster, or none where `address` is empty."""

    address: str
    bytes_min: int
    token_file: Path

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What the settings say.

        Raises:
            InvalidArgument: the address is none of a Ray client server. Jobs are part of no cluster, so that the other
                forms of address lead nowhere.
        """
        if settings.ray_address and not settings.ray_address.startswith("ray://"):
            raise InvalidArgument.of(
                RAY_ADDRESS, f"must look like ray://host:10001, not {settings.ray_address!r}"
            )
        return cls(settings.ray_address, settings.ray_bytes, settings.secret("ray.token"))

    def serves(self, spec: Spec, size_bytes: int) -> bool:
        """Whether a transform that reads so much uses it."""
        return bool(self.address) and type_of(spec.type).by_rows and size_bytes >= self.bytes_min

    def token(self) -> str:
        """Its token, read again at each use; empty where it has none."""
        return self.token_file.read_text().strip() if self.token_file.exists() else ""
