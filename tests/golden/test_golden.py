"""What a release sent, the code of today reads, and sends back unchanged; what a later one may send is no harm."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from aios.trainer.v1 import run_pb2
from tests.golden import messages
from tests.golden.messages import LATER, NEW_VALUE

RECORDED = sorted(Path(__file__).parent.glob("*.jsonl"))


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.stem)
def test_what_a_release_sent_means_the_same_today_and_goes_back_unchanged(recorded: Path) -> None:
    messages.files()
    for vector in map(json.loads, recorded.read_text().splitlines()):
        wire = base64.b64decode(vector["wire"])
        message = _class(vector["type"]).FromString(wire)
        assert not UnknownFieldSet(message), vector["type"]
        assert json_format.MessageToDict(message, preserving_proto_field_name=True) == vector["means"]
        assert message.SerializeToString(deterministic=True) == wire, vector["type"]


def test_fields_of_a_later_release_are_kept_and_passed_on() -> None:
    for message in messages.messages():
        wire = message.SerializeToString(deterministic=True)
        later = type(message).FromString(wire + LATER)
        assert len(UnknownFieldSet(later)) == 1
        assert later.SerializeToString(deterministic=True) == wire + LATER


def test_enum_values_of_a_later_release_are_kept_and_passed_on() -> None:
    tried = 0
    for message in messages.messages():
        for field in message.DESCRIPTOR.fields:
            if field.enum_type is None or field.is_repeated:
                continue
            setattr(message, field.name, NEW_VALUE)
            again = type(message).FromString(message.SerializeToString())
            assert getattr(again, field.name) == NEW_VALUE
            tried += 1
    assert tried > 10


def test_the_json_of_an_enum_value_of_a_later_release_is_its_number() -> None:
    run = run_pb2.Run(name="projects/p/runs/r")
    run.state = NEW_VALUE  # type: ignore[assignment]
    assert json_format.MessageToDict(run)["state"] == NEW_VALUE


def test_every_message_has_a_vector_of_the_last_release_or_is_newer() -> None:
    known = {json.loads(line)["type"] for line in RECORDED[-1].read_text().splitlines()}
    now = {descriptor.full_name for descriptor in _descriptors()}
    assert known <= now, "a released message is gone"


def _descriptors() -> Iterator[Descriptor]:
    for file in messages.files():
        yield from file.message_types_by_name.values()


def _class(name: str) -> type[Message]:
    found: Any = descriptor_pool.Default().FindMessageTypeByName(name)
    return message_factory.GetMessageClass(found)
