"""Signed assignments: an agent runs what its scheduler signed, and nothing else."""

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from aios.errors import PermissionDenied
from aios.runtime.tokens import read_key
from aios.scheduler.v1 import agent_service_pb2


class BadSignature(PermissionDenied):
    """Not signed by this pool's scheduler: check that the agent has the scheduler's current public key."""

    reason = "BAD_SIGNATURE"


class Signer:
    """The scheduler's side."""

    def __init__(self, key_file: Path) -> None:
        self._key = read_key(key_file)

    def sign(self, spec: agent_service_pb2.AssignmentSpec) -> agent_service_pb2.Assignment:
        """Seal what an agent is to run. The bytes are signed, so that both sides read the same ones."""
        sealed = spec.SerializeToString(deterministic=True)
        return agent_service_pb2.Assignment(spec=sealed, signature=self._key.sign(sealed))


class Verifier:
    """The agent's side. The key file is read at each use: a rotated key needs no restart."""

    def __init__(self, public_key_file: Path) -> None:
        self._file = public_key_file

    def open(self, assignment: agent_service_pb2.Assignment) -> agent_service_pb2.AssignmentSpec:
        """What is to be run.

        Raises:
            BadSignature: not ours.
        """
        key = serialization.load_pem_public_key(self._file.read_bytes())
        if not isinstance(key, Ed25519PublicKey):
            raise BadSignature(f"{self._file} holds no Ed25519 key.")
        try:
            key.verify(assignment.signature, assignment.spec)
        except InvalidSignature:
            raise BadSignature("The assignment is not signed by this pool's scheduler.") from None
        return agent_service_pb2.AssignmentSpec.FromString(assignment.spec)
