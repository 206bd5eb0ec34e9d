"""Whatever is sent, the platform answers, blames the request, and stays as it was: same processes, same memory.

`AIOS_TEST_FUZZ` is the number of random requests for each method and each route; `make fuzz` makes it a long run. They
come in rounds over everything, so that memory is compared between two moments after each of which all was tried.
"""

import base64
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aios.runtime import roles
from tests.doors import malformed
from tests.doors.callers import OTHER_PROJECT, PROJECT, Caller
from tests.doors.doors import OURS
from tests.doors.live import Live
from tests.doors.models import DEPLOYMENT, serve
from tests.doors.rpcs import Rpc, bindings_of, rpcs
from tests.doors.sizes import EXAMPLES

CALL_SECONDS = 30.0
QUIET_SECONDS = 0.05
"""A stream that says nothing for so long stays open."""
ROUNDS = min(4, EXAMPLES)
LONG = EXAMPLES >= 20
"""The short run is the same each time: it looks for what came back. The long one looks for what is new."""
GROWTH, GROWTH_BYTES = 0.05, 16 << 20
"""Of one process, from the end of the first round to the end of the last."""
OUR_PROCESSES = ("scheduler", "data", "trainer", "inference", "gateway", "envoy", "nats", "s3")
pytestmark = pytest.mark.timeout(0 if LONG else 120)
sized = settings(
    max_examples=max(1, EXAMPLES // ROUNDS),
    deadline=None,
    database=None,
    derandomize=not LONG,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Watched:
    """The processes under test, and what was asked of them."""

    live: Live
    answers: Counter[str] = field(default_factory=Counter)
    sizes: list[dict[str, int]] = field(default_factory=list)
    """Resident bytes of each process after each round."""

    def pids(self) -> dict[str, int]:
        """Of every process that must outlive all requests: the platform's, and the model servers."""
        ours = {
            name: one.pid
            for name, one in self.live.stack.state.services.items()
            if one.pid and name != "triton"
        }
        models = self.live.stack.running("tritonserver") + self.live.stack.running(
            "triton_python_backend_stub"
        )
        return ours | {f"{one.name()} {one.pid}": one.pid for one in models}

    def measure(self) -> None:
        ours = {name: pid for name, pid in self.pids().items() if name in OUR_PROCESSES or "triton" in name}
        self.sizes.append({name: psutil.Process(pid).memory_info().rss for name, pid in ours.items()})

    def grown(self) -> dict[str, str]:
        """The processes that took more memory than they may, and how much."""
        first, last = self.sizes[0], self.sizes[-1]
        return {
            name: f"{first[name] >> 20} to {last[name] >> 20} MiB"
            for name in first
            if last[name] > first[name] * (1 + GROWTH) + GROWTH_BYTES
        }

    def report(self) -> str:
        """What was asked and what the memory did, as a table."""
        asked = ", ".join(f"{count} {what}" for what, count in sorted(self.answers.items()))
        lines = [f"{sum(self.answers.values())} requests: {asked}"]
        for name in self.sizes[0]:
            resident = " ".join(f"{size.get(name, 0) / 2**20:8.1f}" for size in self.sizes)
            lines += [f"{name:40} {resident} MiB"]
        return "\n".join(lines)


@pytest.fixture(scope="module")
def watched(live: Live) -> Iterator[Watched]:
    """The platform with a model served in it. None of its processes may end."""
    serve(live, OTHER_PROJECT)
    watched = Watched(live)
    before = watched.pids()
    assert any("tritonserver" in name for name in before)
    yield watched
    print(f"\n{watched.report()}")
    assert watched.pids() == before, "a process of the platform died"
    assert not watched.grown()


@pytest.fixture(scope="module", params=range(ROUNDS), ids=lambda number: f"round {number + 1}", autouse=True)
def one_round(watched: Watched) -> Iterator[None]:
    """All tests below, once more."""
    yield
    watched.measure()


@pytest.fixture(scope="module")
def channels(live: Live) -> Iterator[dict[str, grpc.Channel]]:
    """To each process, and to Envoy."""
    opened = {name: grpc.insecure_channel(target) for name, target in live.targets.items()}
    opened["Envoy"] = grpc.insecure_channel(live.stack.target)
    yield opened
    for channel in opened.values():
        channel.close()


@pytest.fixture(scope="module")
def http(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.address, trust_env=False, timeout=CALL_SECONDS) as client:
        yield client


@pytest.mark.parametrize("rpc", rpcs(), ids=str)
def test_no_message_breaks_a_method(
    watched: Watched, channels: dict[str, grpc.Channel], everyone: dict[str, Caller], rpc: Rpc
) -> None:
    caller = able(everyone, rpc)

    @sized
    @given(
        malformed.requests(rpc.method.input_type, rpc.request(PROJECT)),
        st.sampled_from(["Envoy", rpc.process]),
    )
    def survives(body: bytes, door: str) -> None:
        code, text = grpc_call(channels[door], rpc, body, caller)
        watched.answers[f"gRPC {code.name}"] += 1
        assert code not in OURS, f"{door}: {code} {text}"

    survives()


@pytest.mark.parametrize("rpc", rpcs(), ids=str)
def test_no_frame_breaks_a_method(
    watched: Watched, http: httpx.Client, everyone: dict[str, Caller], rpc: Rpc
) -> None:
    """As bytes of gRPC-web, which the door hands on as they are: no client library makes them well."""
    headers = able(everyone, rpc).headers | {"grpc-timeout": "100m", "accept": "application/grpc-web+proto"}
    odd = st.sampled_from(
        [{}, {}, {"grpc-encoding": "gzip"}, {"grpc-encoding": "none such"}, {"grpc-timeout": "1x"}]
    )
    types = st.sampled_from(["-web+proto", "-web+proto", "-web", "-web-text", "-web+json", ""])

    @sized
    @given(malformed.frames(rpc.method.input_type, rpc.request(PROJECT)), odd, types)
    def survives(body: bytes, more: dict[str, str], kind: str) -> None:
        said = headers | more | {"content-type": f"application/grpc{kind}"}
        content = base64.b64encode(body) if kind == "-web-text" else body
        code = frames_status(http, rpc, content, said)
        watched.answers[f"frames {code}"] += 1
        # A stream stays open until its deadline.
        assert code not in {one.name for one in OURS} - {"DEADLINE_EXCEEDED"}

    survives()


@pytest.mark.parametrize("rpc", [rpc for rpc in rpcs() if bindings_of(rpc.path)], ids=str)
def test_no_body_and_no_query_breaks_a_route(
    watched: Watched, http: httpx.Client, everyone: dict[str, Caller], rpc: Rpc
) -> None:
    caller = able(everyone, rpc)
    kind = rpc.method.input_type
    asked = st.sampled_from(bindings_of(rpc.path)).flatmap(
        lambda binding: st.tuples(st.just(binding), malformed.paths(binding), malformed.queries(kind))
    )
    content = malformed.bodies(kind)

    @sized
    @given(
        asked,
        content,
        st.sampled_from(["application/json"] * 3 + ["text/plain", "", "application/json; charset=x"]),
    )
    def survives(route: Any, body: bytes, content_type: str) -> None:
        binding, path, query = route
        url = http.base_url.copy_with(raw_path=f"{path}?{query}".encode())
        headers = caller.headers | {
            "x-aios-timeout": "0.1" if rpc.method.server_streaming else "20",
            "content-type": content_type,
        }
        sent = body if binding.body else b""
        with http.stream(binding.http_method, url, headers=headers, content=sent) as response:
            said = next(response.iter_text(), "") if response.status_code < 300 else response.read().decode()
        watched.answers[f"HTTP {response.status_code}"] += 1
        # A stream of the caller's own has no HTTP form.
        allowed = (501,) if rpc.method.client_streaming else (504,) if rpc.method.server_streaming else ()
        assert response.status_code < 500 or response.status_code in allowed, f"{url}: {said}"
        if response.status_code >= 400:
            problem = json.loads(said)
            if response.headers["content-type"] == "application/json":  # `..` led to a path of OpenAI's
                assert problem["error"]["code"]
            else:
                assert response.headers["content-type"] == "application/problem+json"
                assert problem["reason"]

    survives()


PATHS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "v1",
                "v2",
                "projects",
                PROJECT,
                "jobs",
                "-",
                "",
                ".",
                "..",
                "%2f",
                "%00",
                "%",
                "a:b",
                "*",
                "models",
            ]
        ),
        st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#?"), max_size=12),
    ),
    max_size=8,
).map(lambda steps: "/" + "/".join(steps))
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "LOCK")
DOORS = st.sampled_from(["Envoy", "gateway"])


def test_no_path_breaks_the_door_or_the_gateway(
    watched: Watched, http: httpx.Client, live: Live, everyone: dict[str, Caller]
) -> None:
    @settings(sized, max_examples=5 * sized.max_examples)
    @given(PATHS, st.sampled_from(METHODS), DOORS)
    def survives(path: str, method: str, door: str) -> None:
        url = httpx.URL(address(live, door)).copy_with(raw_path=path.encode())
        response = http.request(method, url, headers=everyone["admin"].headers)
        watched.answers[f"HTTP {response.status_code}"] += 1
        assert response.status_code < 500 or response.status_code == 501, f"{method} {path}: {response.text}"

    survives()


TOKENS = st.one_of(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60),
    # What a client library sends at all.
    st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=60),
    st.lists(st.from_regex(r"[A-Za-z0-9_-]{0,30}", fullmatch=True), min_size=2, max_size=5).map(".".join),
    st.dictionaries(st.sampled_from(["alg", "kid", "typ"]), malformed.TEXTS, max_size=3).map(
        lambda head: (
            base64.urlsafe_b64encode(json.dumps(head).encode()).decode().rstrip("=")[:4000] + ".e30.AA"
        )
    ),
)


def test_no_authorization_breaks_a_door_or_opens_it(watched: Watched, http: httpx.Client, live: Live) -> None:
    @settings(sized, max_examples=5 * sized.max_examples)
    @given(TOKENS, st.sampled_from(["Bearer ", "bearer ", "Basic ", ""]), DOORS)
    def refuses(token: str, scheme: str, door: str) -> None:
        headers = {b"authorization": (scheme + token).strip().encode("latin-1")}
        response = http.get(f"{address(live, door)}/v1/caller", headers=headers)
        watched.answers[f"HTTP {response.status_code}"] += 1
        assert response.status_code in (400, 401), f"{headers}: {response.status_code} {response.text}"

    refuses()


def test_no_bytes_on_a_connection_break_a_door(
    watched: Watched, live: Live, everyone: dict[str, Caller]
) -> None:
    token = everyone["admin"].headers["authorization"].encode()
    head = b"POST /v1/projects/doors/jobs HTTP/1.1\r\nhost: a\r\nauthorization: " + token + b"\r\n"
    whole = head + b"content-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
    chunked = head + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    odd = st.sampled_from(
        [
            *(
                chunked + part
                for part in (b"5\r\n{}\r\n0\r\n\r\n", b"zz\r\n", b"-1\r\n{}", b"ffffffffffffffff\r\n{}")
            ),
            *(
                chunked + part
                for part in (b"2;a=b\r\n{}\r\n0\r\nx: y\r\n\r\n", b"2\r\n{}", b"1\r\n{\r\n" * 3000)
            ),
            *(
                head + b"content-length: " + size + b"\r\n\r\n{}"
                for size in (b"-1", b"a", b"9" * 30, b"1\r\ncontent-length: 2")
            ),
            head + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
            head + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
            head + b"x: y\r\n" * 2000 + b"\r\n",
            head + b"\0: \xff\r\n\r\n",
            head + b"x-aios-timeout: " + b"9" * 400 + b"\r\n\r\n",
            head + b"traceparent: 00-zz\r\ncontent-length: 2\r\n\r\n{}",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\5\1\4\0\0\0\1" + b"\xff" * 5,
            b"GET /v1/\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
            b"GET http://[::1/v1 HTTP/1.1\r\n\r\n",
            b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ]
    )

    @settings(sized, max_examples=5 * sized.max_examples)
    @given(
        st.one_of(odd, malformed.damaged(whole), malformed.damaged(chunked + b"2\r\n{}\r\n0\r\n\r\n")), DOORS
    )
    def survives(sent: bytes, door: str) -> None:
        status = raw_status(address(live, door), sent)
        watched.answers[f"bytes {status}"] += 1
        # Not implemented is what HTTP says to a transfer encoding that nobody knows; 505 to its next version.
        assert status < 500 or status in (501, 505), (status, sent[:300])

    survives()


PREDICT = f"/v2/models/{DEPLOYMENT}"
VERBS = ("/infer", "/infer", "/infer", "/generate", "/generate_stream", "/ready", "/config", "/stats", "")
DATATYPES = ("FP32", "FP64", "BYTES", "INT8", "BOOL", "FP99", "")
SIZES = st.one_of(st.sampled_from([0, 1, 64, -1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1]), st.integers(0, 70))
TENSORS = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "x", "x", "", "y"])},
    optional={
        "shape": st.one_of(st.just([1, 64]), st.lists(SIZES, max_size=4), malformed.ODD_VALUES),
        "datatype": st.one_of(st.just("FP32"), st.sampled_from(DATATYPES), malformed.ODD_VALUES),
        "data": st.one_of(
            st.just([0.5] * 64), st.lists(malformed.ODD_VALUES, max_size=5), malformed.ODD_VALUES
        ),
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "classification", "shared_memory_region", "x"]),
            malformed.ODD_VALUES,
        ),
    },
)
PREDICTIONS = st.fixed_dictionaries(
    {"inputs": st.one_of(st.lists(TENSORS, min_size=1, max_size=2), malformed.ODD_VALUES)},
    optional={
        "outputs": st.one_of(st.lists(TENSORS, max_size=2), malformed.ODD_VALUES),
        "id": malformed.ODD_VALUES,
        "parameters": st.one_of(
            st.dictionaries(
                st.sampled_from(["sequence_id", "priority", "timeout", "x"]), malformed.ODD_VALUES
            ),
            malformed.ODD_VALUES,
        ),
    },
)
PREDICT_BODIES = st.one_of(
    PREDICTIONS.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    PREDICTIONS.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")).flatmap(
        malformed.damaged
    ),
    st.sampled_from(malformed.ODD_JSON),
)


def test_no_prediction_over_http_breaks_a_model_server(
    watched: Watched, http: httpx.Client, everyone: dict[str, Caller]
) -> None:
    caller = everyone["others' admin"]

    @settings(sized, max_examples=20 * sized.max_examples)
    @given(
        PREDICT_BODIES,
        st.sampled_from(VERBS),
        st.sampled_from([None, None, None, "0", "10", "-1", "a", "9" * 30]),
    )
    def survives(body: bytes, verb: str, length: str | None) -> None:
        headers = caller.headers | ({} if length is None else {"inference-header-content-length": length})
        for method in ("POST", "GET") if verb in VERBS[5:] else ("POST",):
            response = http.request(method, PREDICT + verb, headers=headers, content=body)
            watched.answers[f"predict {response.status_code}"] += 1
            assert response.status_code < 500, f"{response.text} to {method} {verb} {length} {body[:500]!r}"

    survives()


def test_no_prediction_over_grpc_breaks_a_model_server(
    watched: Watched, channels: dict[str, grpc.Channel], everyone: dict[str, Caller]
) -> None:
    caller = everyone["others' admin"]
    by_name = {method.name: method for method in malformed.PREDICT.methods}
    unary: Any = channels["Envoy"].unary_unary

    @settings(sized, max_examples=20 * sized.max_examples)
    @given(
        st.one_of(
            malformed.predictions(DEPLOYMENT), malformed.predictions(DEPLOYMENT).flatmap(malformed.damaged)
        ),
        st.sampled_from(["ModelInfer"] * 5 + sorted(by_name)),
    )
    def survives(body: bytes, name: str) -> None:
        try:
            unary(f"/{malformed.PREDICT.full_name}/{name}")(
                body, metadata=caller.metadata, timeout=CALL_SECONDS
            )
            code, text = grpc.StatusCode.OK, ""
        except grpc.RpcError as error:
            code, text = error.code(), str(error.details())
        watched.answers[f"predict {code.name}"] += 1
        assert code not in OURS, f"{name}: {code} {text}"

    survives()


def able(everyone: dict[str, Caller], rpc: Rpc) -> Caller:
    """A caller whose request is not refused for who it is."""
    for name in ("admin", "worker", "service", "node"):
        if roles.allows(name, rpc.permission):
            return everyone[name]
    return everyone["admin"]


def address(live: Live, door: str) -> str:
    return live.address if door == "Envoy" else live.http_behind


def grpc_call(channel: grpc.Channel, rpc: Rpc, body: bytes, caller: Caller) -> tuple[grpc.StatusCode, str]:
    """Status and message of one call; a stream that stays open is fine."""
    method = rpc.method
    options: Any = {"metadata": caller.metadata, "timeout": CALL_SECONDS}
    if not (method.client_streaming or method.server_streaming):
        unary: Any = channel.unary_unary(rpc.path)
        try:
            unary(body, **options)
        except grpc.RpcError as error:
            return error.code(), str(error.details())
        return grpc.StatusCode.OK, ""
    options["timeout"] = QUIET_SECONDS
    make: Any = channel.stream_stream if method.client_streaming else channel.unary_stream
    call = make(rpc.path)(iter([body, body]) if method.client_streaming else body, **options)
    try:
        next(call)
    except StopIteration:
        pass
    except grpc.RpcError as error:
        if call.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            return call.code(), str(error)
    finally:
        call.cancel()
    return grpc.StatusCode.OK, ""


def frames_status(http: httpx.Client, rpc: Rpc, content: bytes, headers: dict[str, str]) -> str:
    """What gRPC-web says to a body, in its headers or behind its messages; HTTP's status where it is no gRPC."""
    read = b""
    with http.stream("POST", rpc.path, content=content, headers=headers) as response:
        try:
            for part in response.iter_bytes():
                read += part
        except httpx.RemoteProtocolError:
            assert rpc.method.server_streaming, "cut off"
            return "DEADLINE_EXCEEDED"
        if response.status_code == 504:
            # Less than a message is waited for until the caller's own deadline, which gRPC-web calls UNAVAILABLE.
            return "DEADLINE_EXCEEDED"
        found = response.headers.get("grpc-status")
        if found is None and headers["content-type"].endswith("-text"):
            # One after another, each with an end of its own.
            with suppress(ValueError):  # a refusal of Envoy's is plain
                read = b"".join(map(base64.b64decode, re.findall(rb"[A-Za-z0-9+/]+={0,2}", read)))
        if found is None and b"grpc-status:" in read:
            found = read.rpartition(b"grpc-status:")[2].split(b"\r\n")[0].decode().strip()
        assert found is not None or response.status_code < 500, read
        return f"HTTP {response.status_code}" if found is None else grpc_code(int(found)).name


def grpc_code(number: int) -> grpc.StatusCode:
    return next(code for code in grpc.StatusCode if code.value[0] == number)


def raw_status(url: str, sent: bytes) -> int:
    """The status that a door says to these bytes; 0 where it closes the connection or waits for more."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=CALL_SECONDS) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(64)
        except OSError:
            return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0
