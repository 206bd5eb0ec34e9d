"""Our parsers, each as a function of bytes: it may refuse them with the error that it promises, and do nothing else."""

import base64
import hashlib
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.sdk.resources import Resource

from aios import names
from aios.client import runspec
from aios.errors import AiosError, InvalidArgument, Unauthenticated
from aios.records import pages
from aios.runtime import telemetry, tokens
from aios.scheduler.v1 import scheduler_service_pb2
from gateway.http import app, json_values, requests, streams
from gateway.http.rules import Routes
from gateway.http.templates import PathTemplate
from gateway.telemetry import otlp
from services.data.manifests import File, Kind, Manifest
from services.inference.replica import spans

Target = Callable[[bytes], None]


def json_body(data: bytes) -> None:
    """A body of any bytes for any route."""
    routes = _bindings()
    binding = routes[data[0] % len(routes)] if data else routes[0]
    try:
        requests.build(binding, {}, [], data[1:])
    except InvalidArgument as error:
        json.dumps([error.message, *error.fields], ensure_ascii=False).encode()


def query(data: bytes) -> None:
    """Query parameters, in lines of key and value."""
    routes = _bindings()
    binding = routes[data[0] % len(routes)] if data else routes[0]
    pairs = [line.partition("=")[::2] for line in _text(data[1:]).split("\n")]
    with suppress(InvalidArgument):
        requests.build(binding, {}, [(key, value) for key, value in pairs], b"")


def path(data: bytes) -> None:
    """A path, as it is sent."""
    method, _, raw = _text(data).partition(" ")
    with suppress(AiosError):
        _routes().find(method, raw)


def template(data: bytes) -> None:
    """A rule's template, and a path for it."""
    text, _, raw = _text(data).partition("\n")
    with suppress(ValueError, InvalidArgument):
        PathTemplate.parse(text).match(raw)


def name(data: bytes) -> None:
    """A resource name of every kind; one that is read is written as it was."""
    text = _text(data)
    names.project_of(text)
    for kind in names.Name.__subclasses__():
        with suppress(InvalidArgument):
            assert str(kind.parse(text)) == text


def page_token(data: bytes) -> None:
    """A page token as it comes, and one whose checksum is right."""
    for token in (_text(data), _as_page_token(data)):
        with suppress(InvalidArgument):
            pages.Page.of(scheduler_service_pb2.ListJobsRequest(page_token=token))


def manifest(data: bytes) -> None:
    """Files of a version, in lines of path, digest and size."""
    files = []
    for line in _text(data).split("\n"):
        where, _, rest = line.partition("\t")
        sha256, _, size = rest.partition("\t")
        files.append(File(where, sha256 or "0" * 64, int(size) if size.isascii() and size.isdecimal() else 0))
    with suppress(InvalidArgument):
        made = Manifest.of(Kind.DATASET, files, "files")
        assert Manifest.decode(made.encoded, made.sha256) == made


def run_file(data: bytes) -> None:
    """A run.yaml."""
    try:
        given = yaml.safe_load(_text(data))
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    if isinstance(given, dict):
        with suppress(InvalidArgument):
            runspec.parse(given)


def traceparent(data: bytes) -> None:
    """The header that names a caller's trace."""
    text = data.decode("latin-1")
    found = telemetry.trace_id_of(text)
    with telemetry.span("fuzz", traceparent=text), telemetry.within(text):
        assert not found or found in text


def token(data: bytes) -> None:
    """A bearer token: any text, and a header and claims of any JSON."""
    head, _, claims = data.partition(b"\n")
    for text in (_text(data), f"{_base64(head)}.{_base64(claims)}.{_base64(b'signature')}"):
        with suppress(Unauthenticated):
            _verifier().verify(text)
            raise AssertionError("a token that nobody signed was accepted")


def replica_spans(data: bytes) -> None:
    """A datagram of the model's process."""
    with suppress(ValueError, KeyError, TypeError):
        spans.parse(data, Resource.get_empty())


def otlp_spans(data: bytes) -> None:
    """Spans that a job exports."""
    try:
        request = trace_service_pb2.ExportTraceServiceRequest.FromString(data)
    except DecodeError:
        return
    list(otlp.read(request, "a"))


def accept(data: bytes) -> None:
    """The header that says how a stream is written."""
    streams.wanted(data.decode("latin-1"))


def json_text(data: bytes) -> None:
    """JSON is what the standard library reads, without its extensions."""
    with suppress(InvalidArgument):
        json.dumps(json_values.parse(data), allow_nan=False)


TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (
        *(json_body, json_text, query, path, template, name, page_token, manifest, run_file),
        *(traceparent, token, replica_spans, otlp_spans, accept),
    )
}

SEEDS: dict[str, tuple[bytes, ...]] = {
    "json_body": (
        b'\x02{"\\ud800":1}',
        b'\x02{"name":"a","files":[{"path":"x","sizeBytes":"1"}]}',
        b'\x10{"spec":{"command":["a"],"timeout":"1s"}}',
    ),
    "json_text": (
        b'{"a":[1,2.5e3,null,true,"\\u00e9"]}',
        b"[" * 100,
        b"1e999",
        b'{"a":1,"a":2}',
        b'["\\ud800"]',
    ),
    "query": (b"\x05pageSize=5\npageToken=x", b"\x09filter=a\nfilter=b", b"\x01spec.kind=1"),
    "path": (
        b"GET /v1/projects/a/jobs/b",
        b"POST /v1/projects/a%2Fb/jobs",
        b"GET /v1/projects/%ff/jobs:watch",
    ),
    "template": (
        b"/v1/{name=projects/*/jobs/*}:cancel\n/v1/projects/a/jobs/b:cancel",
        b"/v1/{a=**}\n/v1/x/y",
    ),
    "name": (b"projects/a/jobs/b", b"projects/-/models/m/versions/@champion", b"nodes/a.b_c"),
    "page_token": (
        b'["0000000000000000",["a"]]',
        b'["0",[{"time":"2025-01-31T12:00:00+00:00"}]]',
        b"[1",
        b"5",
        b"[[],[{}]]",
    ),
    "manifest": (b"a/b.png\t" + b"0" * 64 + b"\t5\na/c", b"a\na/b", b"../x"),
    "run_file": (
        b"recipe: mlp\ndataset: digits\nhyperparameters: {lr: 0.1}\nresources: {cpu: 1.5, memory: 2Gi}",
        b"a: &x [*x]",
    ),
    "traceparent": (b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"00-0-0-0"),
    "token": (b'{"alg":"EdDSA","kid":"a"}\n{"sub":"a","exp":1}', b'{"alg":"none"}\n{}', b"{}\n[]", b"[]\n{}"),
    "replica_spans": (
        b'{"start":1,"end":2,"attributes":"a","error":"","spans":[]}',
        b'{"start":1e999,"end":2,"attributes":{},"error":"","spans":[]}',
        b"[" * 100_000,
        b'{"start":1,"end":2,"attributes":{"a":1},"error":"","spans":[["'
        + b"a" * 32
        + b'","'
        + b"b" * 16
        + b'"]]}',
    ),
    "otlp_spans": (b"", b"\x0a\x10\x12\x0e\x12\x0c\x0a\x04abcd\x12\x02ef\x2a\x01x"),
    "accept": (b"text/event-stream, application/json;q=0.1", b"*/*", b";;,,q=1"),
}
"""Where the search begins, and what once broke something."""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _as_page_token(body: bytes) -> str:
    return _base64(hashlib.blake2b(body, digest_size=8, person=b"aios-page").digest() + body)


@cache
def _routes() -> Routes:
    return Routes(app.services())


@cache
def _bindings() -> tuple[Any, ...]:
    return tuple(_routes())


@cache
def _verifier() -> tokens.Verifier:
    file = Path(tempfile.mkdtemp()) / "jwks.json"
    file.write_text(json.dumps(tokens.jwks(tokens.new_key().public_key())))
    return tokens.Verifier(file)
