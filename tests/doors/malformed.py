"""Requests that nobody should send: built from the descriptors, so that a new method is tried without a word here."""

import json
import struct
from typing import Any
from urllib.parse import quote, urlencode

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as predict_pb2

from gateway.http.rules import Binding
from tests.doors.callers import JOB, OTHER_PROJECT, PROJECT
from tests.doors.rpcs import NOBODY

DEPTH_MAX = 4
MANY = 3000
LARGE = "x" * 70_000
PREDICT = predict_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
IDS = (NOBODY, "a", "digits", "1", "-", "@champion", "latest")
"""Ids of what may exist: `a` is often made by other requests of these tests."""

_F = FieldDescriptor
_INTEGERS = {
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), (-(2**31), 2**31 - 1)),
    **dict.fromkeys((_F.TYPE_UINT32, _F.TYPE_FIXED32), (0, 2**32 - 1)),
    **dict.fromkeys((_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64), (-(2**63), 2**63 - 1)),
    **dict.fromkeys((_F.TYPE_UINT64, _F.TYPE_FIXED64), (0, 2**64 - 1)),
}
_WORDS = (
    *("", "-", "@", "latest", "a", "0", "x" * 64, LARGE, "\0", "é\u202e\U0001f600", "a\nb", "%00", "..", "/"),
    *("' OR 1=1 --", "{}", "../../etc/passwd", "http://169.254.169.254/", "0" * 64, "f" * 64, "FP32", "*"),
    *(f"projects/{PROJECT}", f"projects/{OTHER_PROJECT}", "projects/-", "projects/", JOB, "nodes/none"),
    *(f"projects/{PROJECT}/models/m/versions/latest", f"projects/{PROJECT}/runs/a", "datasets/d", "name"),
    *(
        "image_classifier",
        "spec.replicas",
        "00000000-0000-4000-8000-000000000000",
        "a=b",
        "True",
        "-1",
        "1e999",
    ),
    *("\ud7ff", "\u2028", "\x7f", "a" * 129, "2025-01-31T12:00:00Z", "state=", 'a"', "\\", "${HOME}", "~"),
)
TEXTS = st.one_of(st.sampled_from(_WORDS), st.text(max_size=20))
COUNTS = st.sampled_from([0, 1, 1, 2, 3, MANY])


def messages(kind: Descriptor, depth: int = 0) -> st.SearchStrategy[Message]:
    """Any message of a kind: each field unset, extreme or odd."""

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        message: Any = GetMessageClass(kind)()
        for field in kind.fields:
            if draw(st.booleans()) and (field.message_type is None or depth < DEPTH_MAX):
                _set(draw, message, field, depth)
        return message  # type: ignore[no-any-return]

    return build()


def requests(kind: Descriptor, usual: Message) -> st.SearchStrategy[bytes]:
    """Bytes for a method: odd messages about what exists or not, with fields that nobody knows, and no messages."""

    def named(message: Message) -> Message:
        message.MergeFrom(usual)
        return message

    odd = messages(kind)
    whole = st.one_of(odd.map(named), odd).map(lambda message: message.SerializeToString())
    return st.one_of(
        whole,
        whole,
        st.tuples(whole, UNKNOWN_FIELDS).map(b"".join),
        whole.flatmap(damaged),
        st.binary(max_size=200),
        st.builds(_nested, st.sampled_from(range(1, 8)), st.sampled_from([50, 99, 101, 20_000])),
    )


def predictions(model: str) -> st.SearchStrategy[bytes]:
    """Bytes of a prediction: tensors of any shape and too much, too little or no data for them."""
    sizes = st.one_of(st.sampled_from([0, 1, 64, -1, 2**31, 2**32, 2**62, 2**63 - 1]), st.integers(0, 70))
    shapes = st.one_of(st.just([1, 64]), st.lists(sizes, max_size=4))
    tensors = st.tuples(
        st.sampled_from(["x", "x", "y", ""]), st.sampled_from(["FP32", "FP32", "BYTES", "Z"]), shapes
    )
    data = st.one_of(st.just(bytes(256)), st.binary(max_size=300))
    kind = PREDICT.methods_by_name["ModelInfer"].input_type

    def one(odd: Any, inputs: list[Any], raw: list[bytes], only: bool) -> bytes:
        request = predict_pb2.ModelInferRequest() if only else odd
        request.model_name = model
        for name, datatype, shape in inputs:
            request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.extend(raw)
        return bytes(request.SerializeToString())

    return st.builds(
        one,
        messages(kind),
        st.lists(tensors, max_size=2),
        st.lists(data, max_size=2),
        st.sampled_from([True, True, False]),
    )


def frames(kind: Descriptor, usual: Message) -> st.SearchStrategy[bytes]:
    """What stands on the wire around a message, or does not: flags, sizes that lie, more or less than one message."""

    def frame(body: bytes, flag: int, more: int, behind: bytes) -> bytes:
        return struct.pack(">BI", flag, max(0, min(2**32 - 1, len(body) + more))) + body + behind

    return st.one_of(
        st.builds(
            frame,
            requests(kind, usual),
            st.sampled_from([0, 0, 1, 2, 255]),
            st.sampled_from([0, 0, 1, -1, 5, 2**31, 2**32]),
            st.one_of(st.just(b""), st.binary(max_size=20), st.just(b"\0\0\0\0\0")),
        ),
        st.binary(max_size=12),
    )


UNKNOWN_FIELDS = st.lists(
    st.tuples(
        st.integers(1, 2**29 - 1), st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7]), st.binary(max_size=12)
    ).map(
        lambda field: (
            _varint(field[0] << 3 | field[1]) + (_varint(len(field[2])) if field[1] == 2 else b"") + field[2]
        )
    ),
    max_size=3,
).map(b"".join)


def bodies(kind: Descriptor) -> st.SearchStrategy[bytes]:
    """JSON for a message: right and wrong types, and what is left of it after an accident."""
    text = json_objects(kind).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
    return st.one_of(
        text,
        text,
        text.flatmap(damaged),
        text.map(_twice),
        st.sampled_from(ODD_JSON),
        st.binary(max_size=100),
    )


ODD_JSON = (
    *(
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"a":1}',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'"' + b"[" * 5000,
        b"1e999",
        b"-0",
        b"NaN",
    ),
    *(
        b"[" * 1_000_000,
        b'{"a":' * 500_000,
        b"1" * 100_000,
        b'{"\\ud800":1}',
        b"{}" * 1000,
        b"\0",
        b'{"":""}',
        b"{}\0",
    ),
    b'{"a":' + b"1" * 5000 + b"}",
)
ODD_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1.5, float("nan"), float("inf"), -1e308]
    ),
    TEXTS,
    st.sampled_from([[], {}, [[]], [None], {"": None}, [{}], {"a": {"b": [1]}}, ["a"] * MANY, "\ud800"]),
)


def json_objects(kind: Descriptor, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """A tree with a message's fields, in either spelling, each of its type or of any other."""

    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        tree = {}
        for field in kind.fields:
            if draw(st.booleans()):
                name = draw(st.sampled_from([field.json_name, field.json_name, field.name]))
                tree[name] = draw(_json_value(field, depth))
        if draw(st.integers(0, 9)) == 0:
            tree[draw(TEXTS)] = draw(ODD_VALUES)
        return tree

    return build()


def queries(kind: Descriptor) -> st.SearchStrategy[str]:
    """What may stand behind the question mark."""
    keys = st.one_of(
        st.sampled_from([*(field.json_name for field in kind.fields), "spec.kind", "x", "a.b.c", "", "."]),
        TEXTS,
    )
    pairs = st.lists(st.tuples(keys, TEXTS.map(lambda text: text[:4000])), max_size=3)
    encoded = pairs.map(
        lambda found: urlencode([(key[:4000], value) for key, value in found], errors="replace")
    )
    raw = st.sampled_from(
        ["&&&", "=", "%", "%zz", "a=%ff%fe", "a&a&a", "pageSize=" + "9" * 400, "=" * 500, "?a=b", "a;b"]
    )
    return st.one_of(st.just(""), encoded, raw)


def paths(binding: Binding) -> st.SearchStrategy[str]:
    """A route's path, filled with names that are right, wrong or hardly any."""

    @st.composite
    def build(draw: st.DrawFn) -> str:
        wild = draw(st.integers(0, 3)) == 0
        steps: list[str] = []
        for segment in binding.template.segments:
            if segment.text in ("*", "**"):
                first = steps[-1:] == ["projects"]
                plain = PROJECT if first else draw(st.sampled_from(IDS))
                steps.append(quote(draw(TEXTS)[:200], safe="%", errors="replace") if wild else plain)
            else:
                steps.append(segment.text)
        verb = f":{binding.template.verb}" if binding.template.verb else ""
        return "/" + "/".join(steps) + verb

    return build()


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """Cut off, or with some bytes changed."""
    at = st.integers(0, max(0, len(data) - 1))
    cut = at.map(lambda end: data[:end])
    changed = st.tuples(at, st.binary(min_size=1, max_size=4)).map(
        lambda change: data[: change[0]] + change[1] + data[change[0] + 1 :]
    )
    return st.one_of(cut, changed)


def _json_value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is None:
        right: st.SearchStrategy[Any] = _json_scalar(field)
    elif field.message_type.GetOptions().map_entry or depth >= DEPTH_MAX:
        right = st.dictionaries(TEXTS, ODD_VALUES, max_size=2)
    else:
        right = json_objects(field.message_type, depth + 1)
    if field.is_repeated and not (field.message_type and field.message_type.GetOptions().map_entry):
        right = st.lists(right, max_size=3)
    return st.one_of(right, right, ODD_VALUES)


def _json_scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([*(value.name for value in field.enum_type.values), 99, -1, "STATE_"])
    if field.type == _F.TYPE_BYTES:
        return st.sampled_from(["", "aGk=", "aGk", "a", "!", "a" * 4001])
    return scalars(field)


def _set(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _set_map(draw, getattr(message, field.name), field.message_type, depth)
    elif field.is_repeated:
        value = draw(
            scalars(field) if field.message_type is None else messages(field.message_type, depth + 1)
        )
        size = (
            1
            if isinstance(value, bool | int | float)
            else len(value if isinstance(value, str | bytes) else value.SerializeToString())
        )
        # Many of something small: a message that is too large is another test's.
        count = min(draw(COUNTS), 1 + 300_000 // (size + 1))
        getattr(message, field.name).extend([value] * count)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(draw(messages(field.message_type, depth + 1)))
    else:
        setattr(message, field.name, draw(scalars(field)))


def _set_map(draw: st.DrawFn, target: Any, entry: Descriptor, depth: int) -> None:
    value = entry.fields_by_name["value"]
    for _ in range(draw(st.integers(0, 3))):
        key = draw(scalars(entry.fields_by_name["key"]))
        if value.message_type is not None:
            target[key].CopyFrom(draw(messages(value.message_type, depth + 1)))
        else:
            target[key] = draw(scalars(value))


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of a field that is no message: the edges of its type, and any."""
    if field.type in _INTEGERS:
        low, high = _INTEGERS[field.type]
        return st.one_of(st.sampled_from([0, 1, 2, low, high]), st.integers(low, high))
    if field.enum_type is not None:
        known = [value.number for value in field.enum_type.values]
        return st.sampled_from([*known, 99, 2**31 - 1, -(2**31)])
    return {
        _F.TYPE_STRING: TEXTS,
        _F.TYPE_BYTES: st.binary(max_size=40),
        _F.TYPE_BOOL: st.booleans(),
        _F.TYPE_FLOAT: st.floats(width=32),
        _F.TYPE_DOUBLE: st.floats(),
    }[field.type]


def _nested(field: int, depth: int) -> bytes:
    """A message in a message in a message: the depth's innermost first. The sizes grow, so no deeper than asked."""
    body = b""
    for _ in range(depth):
        if len(body) > 200_000:
            break
        body = _varint(field << 3 | 2) + _varint(len(body)) + body
    return body


def _twice(body: bytes) -> bytes:
    """The same keys again."""
    return body[:-1] + b"," + body[1:] if len(body) > 2 else b"{},{}"


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
