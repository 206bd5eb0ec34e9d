"""A model version as a signed folder that `run.py` in it runs.

The manifest says what the model takes and gives and has the digest of every file; one Ed25519 signature is over the
manifest. The private key is its owner's and stays with them; devices hold the public one.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aios.data.v1.edge_pb2 import EdgeBundle
from aios.data.v1.model_pb2 import ModelVersion
from aios.edge import run
from aios.errors import FailedPrecondition, InvalidArgument
from aios.runtime.tokens import read_key, write_key

FEATURES = "features.json"
MODEL = "model.onnx"
FORMAT = 1


def key_at(path: Path) -> Ed25519PrivateKey:
    """The private key in a file; a new one where there is no file. Its public half is beside it, as `.pub`.

    Raises:
        InvalidArgument: the file holds no such key, or is where the public half goes.
    """
    if path.suffix == ".pub":
        raise InvalidArgument.of("key", f"must name the private key, such as {path.with_suffix('.pem')}")
    if not path.exists():
        write_key(Ed25519PrivateKey.generate(), path)
    try:
        key = read_key(path)
    except (ValueError, TypeError) as error:
        raise InvalidArgument.of("key", f"{path} holds no private Ed25519 key: {error}") from None
    path.with_suffix(".pub").write_text(public(key) + "\n")
    return key


def public(key: Ed25519PrivateKey) -> str:
    """What devices know the key by: 64 hexadecimal digits."""
    raw, form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return key.public_key().public_bytes(raw, form).hex()


def make(version: ModelVersion, files: Path, key: Ed25519PrivateKey, target: Path) -> None:
    """Write the folder of a model version, whose files are at hand.

    Raises:
        FailedPrecondition: it is no single ONNX file.
        InvalidArgument: the folder is there.
    """
    if target.exists():
        raise InvalidArgument.of("to", f"{target} is there: name another folder, or delete it")
    model = _model_of(version, files)
    target.mkdir(parents=True)
    shutil.copyfile(model, target / MODEL)
    shutil.copyfile(run.__file__, target / "run.py")
    stated = _manifest(version, files, {MODEL: target / MODEL, "run.py": target / "run.py"})
    (target / run.MANIFEST).write_bytes(stated)
    (target / run.SIGNATURE).write_text(key.sign(stated).hex() + "\n")


def signed(version: ModelVersion, files: Path, key: Ed25519PrivateKey) -> EdgeBundle:
    """A model version, whose files are at hand, for devices that have a runner of their own.

    Raises:
        FailedPrecondition: it is no single ONNX file.
    """
    stated = _manifest(version, files, {MODEL: _model_of(version, files)})
    return EdgeBundle(
        manifest=stated, signature=key.sign(stated), public_key=key.public_key().public_bytes_raw()
    )


def _model_of(version: ModelVersion, files: Path) -> Path:
    found = sorted(files.rglob("*.onnx"), key=lambda each: (each.name != MODEL, each))
    if not found or list(files.rglob("*.data")):
        raise FailedPrecondition(
            f"{version.name} is not one ONNX file, which is what a device runs.", reason="NOT_EXPORTABLE"
        )
    return found[0]


def _manifest(version: ModelVersion, files: Path, content: Mapping[str, Path]) -> bytes:
    tensors = {
        kind: [{"name": each.name, "datatype": each.datatype, "shape": list(each.shape)} for each in some]
        for kind, some in (("inputs", version.signature.inputs), ("outputs", version.signature.outputs))
    }
    manifest = {
        "format": FORMAT,
        "model_version": version.name,
        "manifest_sha256": version.manifest_sha256,
        "model": MODEL,
        **tensors,
        "max_batch_size": version.signature.max_batch_size,
        "labels": list(version.signature.labels),
        "features": json.loads((files / FEATURES).read_text()) if (files / FEATURES).is_file() else [],
        "files": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in content.items()},
    }
    return json.dumps(manifest, indent=1, sort_keys=True).encode()
