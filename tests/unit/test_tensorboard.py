"""Event files of TensorBoard, as torch writes them and byte by byte."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.job.tensorboard import EventFiles, scalars

Taken = list[tuple[int, dict[str, float]]]


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return bytes([number << 3, content])
    return bytes([number << 3 | 2, len(content)]) + content


def event(step: int, tag: str, value: float) -> bytes:
    simple = bytes([2 << 3 | 5]) + struct.pack("<f", value)
    return field(2, step) + field(5, field(1, field(1, tag.encode()) + simple))


def record(message: bytes) -> bytes:
    return struct.pack("<Q", len(message)) + b"crc1" + message + b"crc2"


@pytest.fixture
def taken() -> Taken:
    return []


@pytest.fixture
def files(tmp_path: Path, taken: Taken) -> EventFiles:
    return EventFiles([tmp_path], lambda step, values: taken.append((step, values)))


def test_what_is_appended_is_read_once_it_is_whole(tmp_path: Path, files: EventFiles, taken: Taken) -> None:
    path = tmp_path / "runs" / "one" / "events.out.tfevents.1.host"
    path.parent.mkdir(parents=True)
    first, second = record(event(1, "loss", 0.5)), record(event(2, "loss", 0.25))
    path.write_bytes(first + second[:9])
    files.read(to_the_end=True)
    files.read(to_the_end=True)
    assert taken == [(1, {"loss": 0.5})]
    with path.open("ab") as file:
        file.write(second[9:])
    files.read(to_the_end=True)
    assert taken == [(1, {"loss": 0.5}), (2, {"loss": 0.25})]


def test_two_folders_with_one_name_are_told_apart(tmp_path: Path, files: EventFiles, taken: Taken) -> None:
    for folder, value in (("train", 1.0), ("validation", 2.0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "events.out.tfevents.1").write_bytes(record(event(3, "loss", value)))
    files.read(to_the_end=True)
    assert taken == [(3, {"loss": 1.0}), (3, {"validation/loss": 2.0})]


def test_a_tensor_of_one_number_is_a_scalar() -> None:
    tensor = field(1, 1) + field(4, struct.pack("<f", 0.75))
    assert scalars(field(2, 7) + field(5, field(1, field(1, b"epoch_loss") + field(8, tensor)))) == (
        7,
        {"epoch_loss": 0.75},
    )
    twice = field(1, 1) + field(4, struct.pack("<2f", 0.75, 1.0))
    assert scalars(field(5, field(1, field(1, b"image") + field(8, twice)))) == (0, {})
    assert scalars(event(1, "loss", float("nan"))) == (1, {})


def test_a_file_that_is_none_is_given_up(tmp_path: Path, files: EventFiles, taken: Taken) -> None:
    (tmp_path / "events.out.tfevents.1").write_bytes(b"\xff" * 100)
    files.read(to_the_end=True)
    assert taken == []


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(message: bytes) -> None:
    step, found = scalars(message)
    assert isinstance(step, int)
    assert all(isinstance(value, float) for value in found.values())


def test_what_torch_writes_is_read(tmp_path: Path, files: EventFiles, taken: Taken) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("loss/train", 0.5, 300)
        writer.add_text("words", "hello", 300)
    files.read(to_the_end=True)
    assert taken == [(300, {"loss/train": 0.5})]
