"""Requests over HTTP become messages, or errors that name every wrong field."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google.api
import pytest
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    json_format,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.errors import InvalidArgument
from gateway.http import requests
from gateway.http.problems import MethodNotAllowed, PathNotFound
from gateway.http.rules import Routes

WELL_KNOWN = (any_pb2, duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
"""Loaded so that the pool knows the files that ours imports."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptor:
    out = tmp_path_factory.mktemp("protos") / "everything.pb"
    here, googleapis = Path(__file__).parent, Path(google.api.__path__[0]).parents[1]
    well_known = Path(protoc.__file__).parent / "_proto"
    includes = [f"-I{path}" for path in (here, googleapis, well_known)]
    assert (
        protoc.main(["protoc", *includes, f"--descriptor_set_out={out}", str(here / "everything.proto")]) == 0
    )
    pool = descriptor_pool.Default()
    for proto in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        pool.Add(proto)
    return pool.FindFileByName("everything.proto")


@pytest.fixture(scope="module")
def routes(file: FileDescriptor) -> Routes:
    return Routes(file.services_by_name.values())


def read(
    routes: Routes, method: str, path: str, query: Sequence[tuple[str, str]] = (), body: Any = None
) -> Message:
    binding, values = routes.find(method, path)
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return requests.build(binding, values, query, raw)


def wrong(routes: Routes, body: Any, method: str = "PATCH", path: str = "/v1/things/t") -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        read(routes, method, path, body=body)
    return caught.value.fields


def as_json(message: Message) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def test_the_path_fills_fields_and_nested_fields(routes: Routes) -> None:
    assert as_json(read(routes, "GET", "/v1/things/t")) == {"name": "things/t"}
    assert as_json(read(routes, "GET", "/v1/parts/p/thing")) == {"part": {"part_name": "parts/p"}}


def test_the_query_fills_the_other_fields(routes: Routes) -> None:
    query = [
        ("flag", "true"),
        ("small", "-7"),
        ("large", "9007199254740993"),
        ("ratio", "0.5"),
        ("colour", "COLOUR_RED"),
        ("tags", "a"),
        ("tags", "b"),
        ("colours", "2"),
        ("part.partName", "p"),
        ("part.inner.count", "3"),
        ("start_time", "2025-01-31T12:00:00Z"),
        ("grace", "1.5s"),
        ("updateMask", "part.part_name,small"),
        ("wrapped", "5"),
        ("wrapped_flag", "false"),
        ("snakeCaseName", "x"),
    ]
    assert as_json(read(routes, "GET", "/v1/things/t", query)) == {
        "name": "things/t",
        "flag": True,
        "small": -7,
        "large": "9007199254740993",
        "ratio": 0.5,
        "colour": "COLOUR_RED",
        "tags": ["a", "b"],
        "colours": ["COLOUR_DARK_BLUE"],
        "part": {"part_name": "p", "inner": {"count": 3}},
        "start_time": "2025-01-31T12:00:00Z",
        "grace": "1.500s",
        "update_mask": "part.partName,small",
        "wrapped": "5",
        "wrapped_flag": False,
        "snake_case_name": "x",
    }


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("smal", "1", "did you mean small?"),
        ("part.counts", "1", "did you mean count?"),
        ("snakeCasName", "1", "did you mean snakeCaseName?"),
        ("small", "1.5", "must be an integer"),
        ("small", "3000000000", "must be -2147483648 to 2147483647"),
        ("flag", "yes", "must be true or false"),
        ("counts", "1", "a map cannot be said in a query"),
        ("name", "things/u", "is said by the path"),
        ("small.x", "1", "has no fields of its own"),
        ("grace", "soon", "must be seconds with an s"),
        ("part", "x", "must be an object"),
    ],
)
def test_a_wrong_query_parameter_is_named(routes: Routes, key: str, value: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(routes, "GET", "/v1/things/t", [(key, value)])
    assert says in caught.value.fields[key]
    assert key in caught.value.message


def test_a_query_parameter_given_twice_is_refused(routes: Routes) -> None:
    with pytest.raises(InvalidArgument, match="small: given twice"):
        read(routes, "GET", "/v1/things/t", [("small", "1"), ("small", "2")])


def test_the_body_is_one_field_and_the_query_the_rest(routes: Routes) -> None:
    message = read(routes, "POST", "/v1/things/t:setPart", [("small", "1")], {"partName": "p"})
    assert as_json(message) == {"name": "things/t", "small": 1, "part": {"part_name": "p"}}
    with pytest.raises(InvalidArgument, match=r"part\.count: belongs in the body"):
        read(routes, "POST", "/v1/things/t:setPart", [("part.count", "1")], {})


def test_a_field_of_the_body_is_named_by_its_path_in_the_request(routes: Routes) -> None:
    fields = wrong(routes, {"partNam": "p"}, "POST", "/v1/things/t:setPart")
    assert fields == {"part.partNam": "unknown field: did you mean partName?"}


def test_an_absent_body_leaves_its_field_unset(routes: Routes) -> None:
    assert as_json(read(routes, "POST", "/v1/things/t:setPart")) == {"name": "things/t"}
    assert as_json(read(routes, "PATCH", "/v1/things/t", body=b"  ")) == {"name": "things/t"}


def test_a_method_without_a_body_refuses_one(routes: Routes) -> None:
    with pytest.raises(InvalidArgument, match="takes no body"):
        read(routes, "GET", "/v1/things/t", body={})


def test_the_body_may_repeat_what_the_path_says_but_not_contradict_it(routes: Routes) -> None:
    assert as_json(read(routes, "PATCH", "/v1/things/t", body={"name": "things/t"})) == {"name": "things/t"}
    assert "in the path" in wrong(routes, {"name": "things/u"})["name"]


@pytest.mark.parametrize(
    ("body", "path", "says"),
    [
        ({"taags": []}, "taags", "did you mean tags?"),
        ({"cuonts": 1}, "cuonts", "did you mean counts?"),
        ({"partName": 1}, "partName", "did you mean part.partName?"),
        ({"zzz": 1}, "zzz", "there are: name, flag"),
        ({"snake_case_name": "a", "snakeCaseName": "b"}, "snakeCaseName", "two spellings"),
        ({"name": 1}, "name", "must be a string, not a number"),
        ({"name": ["things/t"]}, "name", "must be a string, not an array"),
        ({"flag": "true"}, "flag", 'must be true or false, not "true"'),
        ({"flag": 1}, "flag", "must be true or false"),
        ({"small": "x"}, "small", "must be an integer"),
        ({"small": True}, "small", "must be an integer"),
        ({"small": 1.5}, "small", "must be an integer"),
        ({"small": 2**31}, "small", "must be -2147483648"),
        ({"size": -1}, "size", "must be 0 to 4294967295"),
        ({"large": 2**63}, "large", "must be"),
        ({"ratio": "much"}, "ratio", "must be a number"),
        ({"ratio": 1e39}, "ratio", "is too large"),
        ({"data": "%%%"}, "data", "must be base64"),
        ({"data": 7}, "data", "must be a string in base64"),
        ({"colour": "RED"}, "colour", "did you mean COLOUR_RED?"),
        ({"colour": "COLOUR_DARKBLUE"}, "colour", "did you mean COLOUR_DARK_BLUE?"),
        ({"colour": 9}, "colour", "is no Colour"),
        ({"colour": []}, "colour", "must be one of"),
        ({"part": []}, "part", "must be an object, not an array"),
        ({"part": {"inner": {"count": "x"}}}, "part.inner.count", "must be an integer"),
        ({"tags": "a"}, "tags", "must be an array, not a string"),
        ({"tags": ["a", 2]}, "tags[1]", "must be a string, not a number"),
        ({"tags": [None]}, "tags[0]", "must be a string, not null"),
        ({"parts": [{}, {"cont": 1}]}, "parts[1].cont", "did you mean count?"),
        ({"counts": {"a": "b"}}, "counts.a", "must be an integer"),
        ({"counts": []}, "counts", "must be an object"),
        ({"numbered": {"x": {}}}, "numbered.x", "must be an integer"),
        ({"numbered": {"1": {"cont": 2}}}, "numbered.1.cont", "did you mean count?"),
        ({"switches": {"yes": "a"}}, "switches.yes", "must be true or false"),
        ({"left": "a", "right": {}}, "right", "excludes left"),
        ({"startTime": "yesterday"}, "startTime", "must be an RFC 3339 time"),
        ({"grace": 5}, "grace", "must be seconds with an s"),
        ({"free": []}, "free", "must be an object"),
        ({"wrapped": "x"}, "wrapped", "must be an integer"),
        ({"name": "\ud800"}, "name", "half of a surrogate pair"),
        ([1], "body", "must be an object, not an array"),
    ],
)
def test_a_wrong_body_is_named_by_its_field_path(routes: Routes, body: Any, path: str, says: str) -> None:
    fields = wrong(routes, body)
    assert list(fields) == [path]
    assert says in fields[path]


def test_every_wrong_field_is_told_at_once(routes: Routes) -> None:
    assert set(wrong(routes, {"small": "x", "flag": 1, "nope": 1})) == {"small", "flag", "nope"}


def test_what_is_told_is_bounded(routes: Routes) -> None:
    assert len(wrong(routes, {f"unknown{i}": i for i in range(50_000)})) == 20


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nope",
        b'{"small": NaN}',
        b'{"small": 1, "small": 2}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"small": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_not_json_is_told_apart(routes: Routes, body: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(routes, "PATCH", "/v1/things/t", body=body)
    assert caught.value.reason == "MALFORMED_JSON"


def test_deep_nesting_is_refused_with_its_limit(routes: Routes) -> None:
    body: dict[str, Any] = {}
    for _ in range(80):
        body = {"inner": body}
    assert "nested deeper than 64 levels" in next(iter(wrong(routes, {"part": body}).values()))


json_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
part = st.fixed_dictionaries({}, optional={"part_name": json_text, "count": st.integers(-(2**31), 2**31 - 1)})
everything = st.fixed_dictionaries(
    {},
    optional={
        "flag": st.booleans(),
        "small": st.integers(-(2**31), 2**31 - 1),
        "large": st.integers(-(2**63), 2**63 - 1),
        "total": st.integers(0, 2**64 - 1),
        # JSON has one NaN: its sign and payload are not kept.
        "ratio": st.floats(width=32, allow_nan=False) | st.just(math.nan),
        "exact": st.floats(allow_nan=False) | st.just(math.nan),
        "data": st.binary(max_size=8),
        "colour": st.sampled_from([0, 1, 2]),
        "tags": st.lists(json_text, max_size=3),
        "counts": st.dictionaries(json_text, st.integers(0, 9), max_size=3),
    },
)


@settings(max_examples=50)
@given(values=everything, pieces=st.lists(part, max_size=2), snake=st.booleans())
def test_whatever_protobuf_writes_as_json_is_read_back(
    routes: Routes, file: FileDescriptor, values: dict[str, Any], pieces: list[dict[str, Any]], snake: bool
) -> None:
    message = GetMessageClass(file.message_types_by_name["Everything"])(
        name="things/t", parts=pieces, **values
    )
    text = json_format.MessageToJson(message, preserving_proto_field_name=snake)
    assert read(routes, "PATCH", "/v1/things/t", body=text.encode()).SerializeToString(
        deterministic=True
    ) == message.SerializeToString(deterministic=True)


def test_an_unknown_path_and_a_wrong_method_are_told_apart(routes: Routes) -> None:
    with pytest.raises(PathNotFound):
        routes.find("GET", "/v1/other/t")
    with pytest.raises(MethodNotAllowed) as caught:
        routes.find("DELETE", "/v1/things/t")
    assert caught.value.metadata == {"allow": "GET, PATCH"}


def test_custom_methods_and_response_bodies_are_read_from_the_rules(routes: Routes) -> None:
    assert routes.find("PROBE", "/v1/things")[0].rpc == "/aios.test.v1.EverythingService/Probe"
    assert routes.find("GET", "/v1/things/t/tags")[0].response_body == "tags"
