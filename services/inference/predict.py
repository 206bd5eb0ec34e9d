"""Plain values to the tensors that a model takes, and what it gives to labelled predictions. Needs no other service."""

import base64
import binascii
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from aios.errors import FailedPrecondition, InvalidArgument
from aios.tensors import BYTES, DTYPES

Array = NDArray[Any]

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
IMAGE_PIXELS_MAX = 64_000_000
"""A photograph has half of that. What a small file unpacks to must not fill the memory."""
MISTAKES_MAX = 20
EXACT_MAX = 2**53
"""Up to here a double, which JSON's numbers become, is every integer."""
PROBABILITIES_TOLERANCE = 1e-3

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Tensor(Protocol):
    """One input or output. `shape` leaves the batch dimension out; -1 is any size."""

    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...


class NoPlainForm(FailedPrecondition):
    """The model's tensors have no plain form. Ask it by the Open Inference Protocol."""

    reason = "NO_PLAIN_FORM"


def to_tensors(
    instances: Sequence[Any], inputs: Sequence[Tensor], max_batch_size: int
) -> dict[str, tuple[str, Array]]:
    """Datatype and array by input, with the instances along the first dimension where the model has one.

    Args:
        instances: As JSON has them.
        max_batch_size: 0 for a model without a batch dimension.

    Raises:
        InvalidArgument: naming each wrong value.
        NoPlainForm: the model takes what JSON cannot say.
    """
    most = max(max_batch_size, 1)
    if not 1 <= len(instances) <= most:
        raise InvalidArgument.of("instances", f"must be 1 to {most}, not {len(instances)}")
    for each in inputs:
        if each.datatype != BYTES and each.datatype not in DTYPES:
            raise NoPlainForm(f"Input {each.name} has datatype {each.datatype}: send tensors instead.")
    wrong: dict[str, str] = {}
    rows = [_row(value, inputs, f"instances[{index}]", wrong) for index, value in enumerate(instances)]
    if not wrong:
        for tensor in inputs:
            shapes = {row[tensor.name].shape for row in rows}
            if len(shapes) > 1:
                told = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
                wrong["instances"] = f"differ in shape at {tensor.name}: {told}; send them one by one"
    if wrong:
        raise InvalidArgument.of_all(dict(list(wrong.items())[:MISTAKES_MAX]))
    return {
        tensor.name: (
            tensor.datatype,
            np.stack([row[tensor.name] for row in rows]) if max_batch_size else rows[0][tensor.name],
        )
        for tensor in inputs
    }


def to_predictions(
    outputs: Mapping[str, Array], labels: Sequence[str], count: int, *, batched: bool
) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Label, its probability, and the outputs as JSON has them, of each instance.

    Args:
        labels: Of the classes; empty for a model that is no classifier.
    """
    for index in range(count):
        row = {name: array[index] if batched else array for name, array in outputs.items()}
        label, probability = likeliest(row.values(), labels)
        yield label, probability, {name: _plain(array.tolist()) for name, array in row.items()}


def _row(value: Any, inputs: Sequence[Tensor], path: str, wrong: dict[str, str]) -> dict[str, Array]:
    names = [each.name for each in inputs]
    alone = len(inputs) == 1 and not (isinstance(value, Mapping) and names[0] in value)
    if alone and isinstance(value, Mapping) and "b64" not in value:
        alone = False
    values = {names[0]: value} if alone else value
    if not isinstance(values, Mapping):
        wrong[path] = f"must be an object with: {', '.join(names)}"
        return {}
    for name in values:
        if name not in names:
            wrong[f"{path}.{name[:80]}"] = f"unknown input; the model has: {', '.join(names)}"
    found: dict[str, Array] = {}
    for tensor in inputs:
        where = path if alone else f"{path}.{tensor.name}"
        if tensor.name not in values:
            wrong[where] = f"is missing: {_described(tensor)}"
            continue
        try:
            found[tensor.name] = _array(values[tensor.name], tensor)
        except ValueError as error:
            wrong[where] = str(error)
    return found


def _array(value: Any, tensor: Tensor) -> Array:
    """
    Raises:
        ValueError: it is not what the input takes, and why.
    """
    if isinstance(value, Mapping):
        return _from_bytes(value, tensor)
    flat: list[Any] = []
    shape = _flatten(value, flat)
    wanted = tuple(tensor.shape)
    if wanted == (1,) and shape == ():
        shape = (1,)
    fits = len(shape) == len(wanted) and all(
        size in (-1, has) for size, has in zip(wanted, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"must have the shape {_shape(wanted)}, not {_shape(shape)}")
    return _typed(flat, tensor.datatype).reshape(shape)


def _flatten(value: Any, into: list[Any]) -> tuple[int, ...]:
    """The elements of nested lists in order; returns their shape."""
    if not isinstance(value, list):
        into.append(value)
        return ()
    shapes = {_flatten(each, into) for each in value}
    if len(shapes) > 1:
        raise ValueError("lists beside each other must be of the same length")
    return (len(value), *(shapes.pop() if shapes else ()))


def _typed(flat: list[Any], datatype: str) -> Array:
    kind = "O" if datatype == BYTES else np.dtype(DTYPES[datatype]).kind
    match kind:
        case "O":
            _all(flat, lambda each: isinstance(each, str), "a text")
            return np.array([each.encode() for each in flat] + [None], "O")[:-1]
        case "b":
            _all(flat, lambda each: isinstance(each, bool), "true or false")
            return np.array(flat, "?")
        case "f":
            _all(flat, lambda each: isinstance(each, int | float) and not isinstance(each, bool), "a number")
            with np.errstate(over="ignore"):
                array = np.array(flat, np.float64).astype(DTYPES[datatype])
            if not np.isfinite(array).all():
                raise ValueError(f"must be numbers that {datatype} can hold")
            return array
    limits = np.iinfo(DTYPES[datatype])
    integers = [_integer(each) for each in flat]
    _all(integers, lambda each: each is not None and limits.min <= each <= limits.max,
         f"an integer of {limits.min} to {limits.max}, as text beyond 2^53")  # fmt: skip
    return np.array(integers, DTYPES[datatype])


def _integer(value: Any) -> int | None:
    if isinstance(value, str) and len(value) <= 20 and value.removeprefix("-").isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if math.isfinite(value) and value == int(value) and abs(value) <= EXACT_MAX else None


def _all(values: Iterable[Any], right: Any, wanted: str) -> None:
    for position, value in enumerate(values):
        if not right(value):
            raise ValueError(f"must be {wanted}: element {position} is not")


def _from_bytes(value: Mapping[str, Any], tensor: Tensor) -> Array:
    text = value.get("b64")
    if list(value) != ["b64"] or not isinstance(text, str):
        raise ValueError('must be a value, or bytes as {"b64": "..."}')
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("b64 must be base64") from None
    if tensor.datatype == BYTES:
        if tuple(tensor.shape) not in ((), (1,), (-1,)):
            raise ValueError(f"must have the shape {_shape(tensor.shape)}")
        return np.array([data, None], "O")[:-1].reshape(tuple(1 for _ in tensor.shape))
    return _pixels(data, tensor)


def _pixels(data: bytes, tensor: Tensor) -> Array:
    """An image as [H, W], [C, H, W] or [H, W, C], whichever the input has."""
    shape = tuple(tensor.shape)
    size: tuple[int, ...]
    channels_first = len(shape) == 3 and shape[0] in _MODES
    if len(shape) == 2:
        channels, size = 1, shape[:2]
    elif channels_first:
        channels, size = shape[0], shape[1:]
    elif len(shape) == 3 and shape[2] in _MODES:
        channels, size = shape[2], shape[:2]
    else:
        raise ValueError(f"takes no image: its shape is {_shape(shape)}")
    image = _opened(data).convert(_MODES[channels])
    height, width = (image.height if size[0] < 0 else size[0]), (image.width if size[1] < 0 else size[1])
    if (image.height, image.width) != (height, width):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    if len(shape) == 3:
        pixels = pixels.reshape(height, width, channels)
        pixels = pixels.transpose(2, 0, 1) if channels_first else pixels
    dtype = np.dtype(DTYPES[tensor.datatype])
    if dtype.kind == "f":
        return (pixels / np.float32(255)).astype(dtype)
    if dtype.kind not in "iu" or np.iinfo(dtype).max < 255:
        raise ValueError(f"takes no image: its datatype is {tensor.datatype}")
    return pixels.astype(dtype)


def _opened(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        if image.width * image.height > IMAGE_PIXELS_MAX:
            raise ValueError(f"the image must have at most {IMAGE_PIXELS_MAX} pixels")
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(f"b64 must be a whole image: {', '.join(IMAGE_FORMATS)}") from None
    return image


def likeliest(outputs: Iterable[Array], labels: Sequence[str]) -> tuple[str, float]:
    """Of the first output that has a number for each class."""
    for array in outputs if labels else ():
        if array.dtype.kind == "f" and array.size == len(labels):
            scores = array.ravel().astype(np.float64)
            best = int(scores.argmax())
            if scores.min() < 0 or abs(scores.sum() - 1) > PROBABILITIES_TOLERANCE:
                powers = np.exp(scores - scores[best])
                scores = powers / powers.sum()
            return labels[best], float(scores[best]) if math.isfinite(scores[best]) else 0.0
    return "", 0.0


def _plain(value: Any) -> Any:
    """Lists of what JSON has."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    return str(value) if isinstance(value, int) and abs(value) > EXACT_MAX else value


def _described(tensor: Tensor) -> str:
    return f"{tensor.datatype} of shape {_shape(tensor.shape)}"


def _shape(shape: Iterable[int]) -> str:
    return "[" + ", ".join("any" if size < 0 else str(size) for size in shape) + "]"
