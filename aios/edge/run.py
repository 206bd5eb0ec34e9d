"""Run the model of this folder. Needs numpy and onnxruntime, and nothing else.

    python run.py --key edge.pub --input instances.json      answers as JSON
    python run.py --key edge.pub --input batch.npy           of a model with one input
    python run.py --key edge.pub --check                     only look whether the folder is what was signed

Nothing of the folder is used before its signature holds under the key that you have, which must come to this machine by
another way than the folder. The same is true of this file: copy it here once, and use it for later folders by --bundle.

Exit codes: 0 done, 1 the input is wrong, 2 usage, 3 the folder is not what was signed.
"""

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8", "INT8": "i1", "INT16": "i2",
    "INT32": "i4", "INT64": "i8", "FP16": "f2", "FP32": "f4", "FP64": "f8", "BYTES": "O",
}  # fmt: skip
PROBABILITIES_TOLERANCE = 1e-3


class NotSigned(Exception):
    """The folder is not what was signed by the key."""


class WrongInput(Exception):
    """What the model cannot take."""


def main() -> int:
    """Check the folder, then answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--key", required=True, help="file with the public key, or the key: 64 hexadecimal digits"
    )
    parser.add_argument("--bundle", type=Path, default=Path(__file__).resolve().parent, help="this folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--input", type=Path, help="JSON with instances, or NPY with a batch")
    what.add_argument("--check", action="store_true", help="answer nothing")
    asked = parser.parse_args()
    try:
        path = Path(asked.key)
        key = bytes.fromhex((path.read_text() if path.is_file() else asked.key).strip())
        manifest, content = opened(asked.bundle, key)
        if asked.check:
            print(f"{manifest['model_version']} is what was signed")
            return 0
        print(json.dumps(answers(manifest, content, asked.input)))
    except NotSigned as error:
        print(f"refused: {error}", file=sys.stderr)
        return 3
    except (WrongInput, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def opened(folder: Path, key: bytes) -> tuple[dict[str, Any], bytes]:
    """The manifest, and the model's bytes, once both are known to be what was signed.

    Raises:
        NotSigned
    """
    try:
        stated = (folder / MANIFEST).read_bytes()
        signature = bytes.fromhex((folder / SIGNATURE).read_text().strip())
    except (OSError, ValueError) as error:
        raise NotSigned(f"no manifest with a signature: {error}") from None
    if not verify(key, stated, signature):
        raise NotSigned("the signature of the manifest does not hold under this key")
    manifest: dict[str, Any] = json.loads(stated)
    if manifest.get("format") != 1:
        raise NotSigned(f"format {manifest.get('format')} is of another release")
    model = b""
    for name, sha256 in manifest["files"].items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise NotSigned(f"{name} is missing: {error}") from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise NotSigned(f"{name} has other content")
        if name == manifest["model"]:
            model = content
    return manifest, model


def answers(manifest: dict[str, Any], content: bytes, source: Path) -> dict[str, Any]:
    """What the model makes of a file of inputs: for each instance its outputs, and of classes the likeliest."""
    return answered(manifest, session_of(content), read(manifest, source))


def session_of(content: bytes) -> Any:
    """The model, loaded."""
    import onnxruntime

    return onnxruntime.InferenceSession(content, providers=onnxruntime.get_available_providers())


def answered(manifest: dict[str, Any], session: Any, feed: dict[str, Any]) -> dict[str, Any]:
    """What a loaded model makes of arrays by input, rows first."""
    import numpy as np

    batches = bool(manifest["max_batch_size"])
    names = [each["name"] for each in manifest["outputs"]]
    rows = len(next(iter(feed.values())))
    if batches:
        outputs = session.run(names, feed)
    else:
        each = [session.run(names, {name: array[row] for name, array in feed.items()}) for row in range(rows)]
        outputs = [np.stack([some[index] for some in each]) for index in range(len(names))]
    predictions = []
    for row in range(rows):
        found = {name: output[row] for name, output in zip(names, outputs, strict=True)}
        made = likeliest(found, manifest["labels"])
        predictions.append(
            {**made, "outputs": {name: plain(value.tolist()) for name, value in found.items()}}
        )
    return {"predictions": predictions, "model_version": manifest["model_version"]}


def read(manifest: dict[str, Any], source: Path) -> dict[str, Any]:
    """Arrays by input, rows first."""
    import numpy as np

    inputs = manifest["inputs"]
    if source.suffix == ".npy":
        if len(inputs) != 1:
            raise WrongInput(f"the model has {len(inputs)} inputs: give JSON")
        return {inputs[0]["name"]: shaped(inputs[0], np.load(source, allow_pickle=False))}
    return arrays(manifest, json.loads(source.read_text()))


def arrays(manifest: dict[str, Any], said: Any) -> dict[str, Any]:
    """Arrays by input of instances as JSON has them."""
    import numpy as np

    inputs = manifest["inputs"]
    instances = said.get("instances") if isinstance(said, dict) else said
    if not isinstance(instances, list) or not instances:
        raise WrongInput('must be a list of instances, or {"instances": [...]}')
    features = manifest["features"]
    columns: dict[str, list[Any]] = {each["name"]: [] for each in inputs}
    for number, instance in enumerate(instances):
        if isinstance(instance, dict) and set(instance) == set(columns):
            values = instance
        elif len(inputs) == 1:
            named = isinstance(instance, dict) and features
            values = {inputs[0]["name"]: vector(instance, features) if named else instance}
        else:
            raise WrongInput(f"instances[{number}] must have exactly {', '.join(columns)}")
        for name, value in values.items():
            columns[name].append(value)
    try:
        return {
            each["name"]: shaped(each, np.array(columns[each["name"]], DTYPES[each["datatype"]]))
            for each in inputs
        }
    except (TypeError, ValueError) as error:
        raise WrongInput(f"instances are not what the model takes: {error}") from None


def vector(instance: dict[str, Any], features: list[str]) -> list[float]:
    """Columns as the vector that the model was trained on: a number, or 1 for the text of `column=value`."""
    known = {feature.partition("=")[0] if feature not in instance else feature for feature in features}
    if set(instance) != known:
        raise WrongInput(f"an instance must have {', '.join(sorted(known))}")
    made = []
    for feature in features:
        column, _, value = feature.partition("=")
        made.append(float(instance[feature]) if feature in instance else float(instance[column] == value))
    return made


def shaped(tensor: dict[str, Any], array: Any) -> Any:
    """An array in the type and shape that the signature says."""
    shape = tuple(tensor["shape"])
    fits = array.ndim == len(shape) + 1 and all(
        wanted in (-1, found) for wanted, found in zip(shape, array.shape[1:], strict=True)
    )
    if not fits:
        raise WrongInput(f"{tensor['name']} has the shape {list(array.shape[1:])}, not {list(shape)}")
    return array.astype(DTYPES[tensor["datatype"]])


def likeliest(outputs: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """Label and probability, of the first output that has a number for each class."""
    for array in outputs.values() if labels else ():
        scores = [float(each) for each in array.ravel()] if array.dtype.kind == "f" else []
        if len(scores) == len(labels):
            if min(scores) < 0 or abs(sum(scores) - 1) > PROBABILITIES_TOLERANCE:
                powers = [math.exp(each - max(scores)) for each in scores]
                scores = [each / sum(powers) for each in powers]
            best = max(range(len(scores)), key=scores.__getitem__)
            return {"label": labels[best], "probability": scores[best]}
    return {}


def plain(value: Any) -> Any:
    """What JSON has: a number that is none is null."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Ed25519, to verify alone: nothing here is secret, so nothing needs to take the same time. Source: RFC 8032, section 5.1.
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]
ZERO: Point = (0, 1, 1, 0)


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature is that of the key's owner: S·B = R + SHA-512(R, A, message)·A."""
    if len(key) != 32 or len(signature) != 64:
        return False
    a, r, s = _point(key), _point(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= ORDER:
        return False
    hashed = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % ORDER
    base = _point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))
    assert base is not None
    return _same(_times(s, base), _add(r, _times(hashed, a)))


def _point(encoded: bytes) -> Point | None:
    """A point of the curve; None where the bytes are none."""
    y = int.from_bytes(encoded, "little")
    odd, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (not x and odd):
        return None
    x = P - x if x & 1 != odd else x
    return x, y, 1, x * y % P


def _add(one: Point, other: Point) -> Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % P
    b = (one[1] + one[0]) * (other[1] + other[0]) % P
    c, d = 2 * one[3] * other[3] * D % P, 2 * one[2] * other[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(number: int, point: Point) -> Point:
    made = ZERO
    while number:
        if number & 1:
            made = _add(made, point)
        point, number = _add(point, point), number >> 1
    return made


def _same(one: Point, other: Point) -> bool:
    return not (one[0] * other[2] - other[0] * one[2]) % P and not (one[1] * other[2] - other[1] * one[2]) % P


if __name__ == "__main__":
    sys.exit(main())
