"""The OpenAPI document is true: what it says is asked of the live API, and the answers are as it says."""

from collections.abc import Iterable
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.http.streams import JsonLines
from tests.doors.callers import PROJECT, Caller
from tests.doors.live import Live
from tests.doors.rpcs import bindings_of, rpcs
from tests.doors.sizes import EXAMPLES

STREAM_SECONDS, CALL_SECONDS = "0.5", "10"  # one that says nothing by then is a timeout
"""The deadlines that calls are made with: a watch ends by its own, and its answer is whole. Others answer before."""
CHECKS: Any = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="session")
def document(live: Live, everyone: dict[str, Caller]) -> dict[str, Any]:
    """The document, as anyone with a token reads it."""
    reply = httpx.get(f"{live.address}/v1/openapi.json", headers=everyone["viewer"].headers, trust_env=False)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    found: dict[str, Any] = reply.json()
    return found


def test_the_api_answers_as_its_document_says(
    document: dict[str, Any], live: Live, everyone: dict[str, Caller]
) -> None:
    failures: list[str] = []
    operations: Iterable[Any] = schemathesis.openapi.from_dict(document).get_all_operations()
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.ok().as_strategy())
        def answers(case: Case[Any]) -> None:
            if "project" in case.path_parameters:
                case.path_parameters["project"] = PROJECT
            seconds = STREAM_SECONDS if streams(document, case.operation) else CALL_SECONDS
            headers = everyone["admin"].headers | {"x-aios-timeout": seconds}
            case.call_and_validate(base_url=live.address, headers=headers, checks=CHECKS)

        try:
            answers()
        except (AssertionError, BaseExceptionGroup) as error:
            failures.append(f"{operation.ok().label}: {error} {getattr(error, 'exceptions', '')}")
    assert not failures, "\n\n".join(failures)


def streams(document: dict[str, Any], operation: Any) -> bool:
    """Whether an operation's answer is described as a stream of records."""
    described = document["paths"][operation.path][operation.method.lower()]
    return JsonLines.media_type in described["responses"]["200"]["content"]


def test_every_method_that_http_can_carry_is_described_with_its_permission(document: dict[str, Any]) -> None:
    described = {
        operation["operationId"].replace("_", ".", 1): operation["x-aios-permission"]
        for item in document["paths"].values()
        for operation in item.values()
    }
    for rpc in rpcs():
        if bindings_of(rpc.path) and not rpc.method.client_streaming:
            assert described.get(str(rpc)) == rpc.permission


def test_every_reference_and_every_comment_is_there(document: dict[str, Any]) -> None:
    def references(value: Any) -> set[str]:
        match value:
            case {"$ref": str(target)}:
                return {target}
            case dict():
                return set().union(*map(references, value.values()))
            case list():
                return set().union(*map(references, value))
        return set()

    for target in references(document):
        found: Any = document
        for step in target.removeprefix("#/").split("/"):
            found = found[step]
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert all(operation["description"] and operation["summary"] for operation in operations)
