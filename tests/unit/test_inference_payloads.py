"""What is kept of predictions: what leaves the model's process, and what becomes of it."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aios.errors import InvalidArgument
from services.inference import deployments, policies
from services.inference.deployments import Spec
from services.inference.policies import PayloadLog
from services.inference.replica import keep, payload_table
from services.inference.replica.keep import Keeper
from services.inference.replica.spec import ReplicaSpec, Signature, Tensor

TRACE = "ab" * 16
SPEC = ReplicaSpec(
    "web",
    "projects/p/deployments/web/revisions/1",
    "projects/p/models/m/versions/1",
    Signature(
        (Tensor("image", "FP32", (2, 2)), Tensor("email", "BYTES", (1,)), Tensor("age", "FP32", (1,))),
        (Tensor("scores", "FP32", (3,)),),
        8,
    ),
    0,
    "",
    ("cat", "dog", "owl"),
)
OUTPUTS = {"scores": np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1]], np.float32)}


class Request:
    """What Triton's stub gives."""

    def __init__(self, trace: str = TRACE) -> None:
        self.trace = trace

    def parameters(self) -> str:
        return f'{{"traceparent": "00-{self.trace}-{"cd" * 8}-00"}}' if self.trace else ""

    def request_id(self) -> str:
        return "r-1"


def inputs() -> dict[str, Any]:
    return {
        "image": np.arange(8, dtype=np.float32).reshape(2, 2, 2),
        "email": np.array([[b"ann@example.org"], [b"bob@example.org"]], object),
        "age": np.array([[41], [27]], np.float32),
    }


def keeper(folder: Path, *redact: str) -> Keeper:
    return Keeper(1.0, list(redact), 10, folder, batches=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    [file] = folder.glob("*.kept")
    stored = payload_table.write(file, SPEC)
    assert stored is not None
    table: list[dict[str, Any]] = pq.read_table(stored.path).to_pylist()
    return table


def test_what_was_answered_is_told_beside_the_file_for_feedback_to_be_compared_with(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    kept.keep(Request(), inputs(), OUTPUTS, 1_700_000_000 * 10**9)
    kept.turn(1_700_000_000)
    kept.end()
    [file] = tmp_path.glob("*.kept")
    stored = payload_table.write(file, SPEC)
    assert stored is not None
    assert stored.answers == [(TRACE, "r-1", 0, "dog"), (TRACE, "r-1", 1, "cat")]
    number = pa.table({"trace_id": ["t"], "request_id": [""], "instance": [0], "output.value": [2.5]})
    assert payload_table.answers_of(number) == [("t", "", 0, 2.5)]
    assert payload_table.answers_of(number.append_column("output.other", pa.array([1.0]))) == []


def test_each_instance_of_a_kept_request_is_a_row(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    kept.keep(Request(), inputs(), OUTPUTS, 1_700_000_000_000_000_000)
    kept.turn(1_700_000_000)
    kept.end()
    first, second = rows(tmp_path)
    assert (first["trace_id"], first["request_id"], first["instance"], second["instance"]) == (
        TRACE,
        "r-1",
        0,
        1,
    )
    assert (first["label"], second["label"]) == ("dog", "cat")
    assert second["input.image"] == [4, 5, 6, 7]
    assert (second["input.email"], second["input.age"]) == ("bob@example.org", 27)


def test_what_is_redacted_is_in_no_file(tmp_path: Path) -> None:
    kept = keeper(tmp_path, "input.email#", "input.image[1]", "output.scores", "input.age")
    kept.keep(Request(), inputs(), OUTPUTS, time.time_ns())
    kept.turn(time.time())
    kept.end()
    [file] = tmp_path.glob("*.kept")
    assert b"example.org" not in file.read_bytes()
    first, second = rows(tmp_path)
    assert first["input.image"] == [0, 0, 2, 3]
    assert len(first["input.email"]) == 64
    assert first["input.email"] != second["input.email"]
    assert not {"output.scores", "label", "input.age"} & first.keys()


def test_the_answered_request_keeps_its_own_tensors(tmp_path: Path) -> None:
    given = inputs()
    kept = keeper(tmp_path, "input.image[0]")
    kept.keep(Request(), given, OUTPUTS, time.time_ns())
    given["image"][:] = -1  # Triton uses the memory again
    kept.turn(time.time())
    kept.end()
    assert rows(tmp_path)[1]["input.image"] == [0, 5, 6, 7]


def test_what_there_is_no_room_for_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = keeper(tmp_path)
    kept.keep(Request(), inputs(), OUTPUTS, time.time_ns())
    monkeypatch.setattr(keep, "QUEUE_BYTES_MAX", 100)
    kept.keep(Request(), inputs(), OUTPUTS, time.time_ns())
    kept.turn(time.time())
    kept.end()
    [file] = tmp_path.glob("*.kept")
    assert file.stem.endswith("-1")
    assert len(rows(tmp_path)) == 2


def test_probes_of_the_platform_are_not_kept(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    kept.keep(Request(trace=""), inputs(), OUTPUTS, time.time_ns())
    kept.turn(time.time())
    kept.end()
    assert not list(tmp_path.iterdir())


def test_a_file_ends_with_its_window(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    for second in (100, 109, 110):
        kept.keep(Request(), inputs(), OUTPUTS, second * 1_000_000_000)
    kept.turn(111)
    kept.turn(120)
    assert [each.stem.split("-")[1] for each in sorted(tmp_path.glob("*.kept"))] == ["10", "11"]


def test_a_torn_file_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    kept = keeper(tmp_path)
    for _ in range(2):
        kept.keep(Request(), inputs(), OUTPUTS, time.time_ns())
    kept.turn(time.time())
    torn = tmp_path / "open"
    torn.write_bytes(torn.read_bytes()[:-5])
    assert len(list(payload_table.read(torn))) == 1


@pytest.mark.parametrize(
    "rule", ["input.imag", "image", "input.image[4]", "input.image[x]", "output.scores##"]
)
def test_a_rule_that_would_hide_nothing_is_refused(rule: str) -> None:
    spec = Spec("projects/p/models/m/versions/1", payload_log=PayloadLog(1.0, (rule,)))
    with pytest.raises(InvalidArgument, match=r"payload_log\.redact\[0\]"):
        deployments.check_redaction(spec, {"input.image": (2, 2), "output.scores": (3,)})


def test_what_is_kept_has_bounds() -> None:
    problems = dict(policies.payload_log_problems(PayloadLog(1.5, (), 3)))
    assert problems.keys() == {"sample_rate", "window_seconds"}
    assert dict(policies.payload_log_problems(PayloadLog(0.0, ("input.x",)))).keys() == {"sample_rate"}
    assert policies.complete_payload_log(PayloadLog(0.1)).window_seconds == 300
