"""Keeps a share of the predictions: copied beside `model.py` and imported as `keep`, in Triton's stub process.

A request that is kept costs a copy of its tensors and nothing else: a thread of its own, which no request wakes or waits
for, redacts and writes them to files below the working directory, where the supervisor fetches them. Both what waits in
memory and what waits on disk are bounded; what there is no room for is dropped and counted.

A file is a row of records: sizes of head and body (two little-endian uint32), the head as JSON, the body as the tensors'
bytes one after the other. Files that are whole end in `.kept`: `{number}-{window}-{dropped}.kept`.
"""

import hashlib
import json
import random
import re
import struct
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

FOLDER = "payloads"
"""In the working directory of the server, as the spans' socket is."""
QUEUE_BYTES_MAX = 16 << 20
SPOOL_BYTES_MAX = 64 << 20
"""Of files that the supervisor has not fetched."""
FILE_BYTES_MAX = 8 << 20
LOOK_SECONDS = 0.25
"""Between looks at the queue: nobody wakes the writer, so that it does not take the interpreter from a request."""
SIZES = struct.Struct("<II")
_RULE = re.compile(r"((?:input|output)\..+?)(?:(#)|\[(\d+)\])?")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

Tensors = dict[str, Any]


class Keeper:
    """Takes what is to be kept, and writes it when there is time.

    Args:
        rate: Share of the requests.
        redact: See `PayloadLog` in the contract.
        batches: Whether the first dimension of tensors is the batch.
    """

    def __init__(
        self, rate: float, redact: list[str], window_seconds: int, folder: Path, *, batches: bool
    ) -> None:
        self._rate = rate
        self._rules = [rule.groups() for text in redact if (rule := _RULE.fullmatch(text))]
        self._window_seconds = window_seconds
        self._folder = folder
        self._batches = batches
        self._queue: deque[tuple[int, str, str, int, Tensors]] = deque()
        self._queued = 0
        self._dropped = 0
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._window = 0
        self._number = 0

    @classmethod
    def of(cls, parameters: Mapping[str, str], *, batches: bool) -> "Keeper | None":
        """The one that a model's configuration asks for, at work."""
        if "payload_log" not in parameters:
            return None
        asked = json.loads(parameters["payload_log"])
        made = cls(
            asked["sample_rate"], asked["redact"], asked["window_seconds"], Path(FOLDER), batches=batches
        )
        threading.Thread(target=made._work, name="payloads", daemon=True).start()
        return made

    def wants(self) -> bool:
        """Whether the next request is one that is kept."""
        return random.random() < self._rate

    def keep(self, request: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any], began: int) -> None:
        """Copy the tensors of an answered request, or count it as dropped. `began` is nanoseconds since the epoch."""
        size = sum(_bytes_of(each) for some in (inputs, outputs) for each in some.values())
        with self._lock:
            if self._queued + size > QUEUE_BYTES_MAX:
                self._dropped += 1
                return
            self._queued += size
        tensors = {f"input.{name}": np.array(each) for name, each in inputs.items()}
        tensors |= {f"output.{name}": np.array(each) for name, each in outputs.items()}
        # Triton's memory of the request is gone later: what is needed of it is read now.
        self._queue.append((began, request.parameters() or "{}", request.request_id() or "", size, tensors))

    def turn(self, now: float) -> None:
        """Write what waits, and end the file of a window that is over."""
        while self._queue:
            began, parameters, request_id, size, tensors = self._queue.popleft()
            self._write(began, trace_id(parameters), request_id, tensors)
            with self._lock:
                self._queued -= size
        if self._file is not None and int(now) // self._window_seconds != self._window:
            self.end()

    def end(self) -> None:
        """Let the supervisor have the present file."""
        if self._file is None:
            return
        self._file.close()
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        name = f"{self._number:08}-{self._window}-{dropped}.kept"
        Path(self._file.name).rename(self._folder / name)
        self._file = None
        self._number += 1

    def _work(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                self.turn(time.time())
            except Exception:  # noqa: BLE001  # a full disk, or whatever: predictions go on
                with self._lock:
                    self._dropped += 1

    def _write(self, began: int, trace: str, request_id: str, tensors: Tensors) -> None:
        if not trace:
            return  # every request of a client has one; the supervisor's probes and Triton's warm-up have none
        window = began // 1_000_000_000 // self._window_seconds
        if self._file is not None and window != self._window:
            self.end()
        if self._file is None:
            if sum(each.stat().st_size for each in self._folder.iterdir()) > SPOOL_BYTES_MAX:
                with self._lock:
                    self._dropped += 1
                return
            self._window = window
            self._file = (self._folder / "open").open("wb")
        heads, bodies = [], []
        for name, array in redacted(tensors, self._rules, batches=self._batches).items():
            kind, body = encoded(array)
            heads.append([name, kind, list(array.shape), len(body)])
            bodies.append(body)
        head = json.dumps({"time": began, "trace": trace, "request": request_id, "tensors": heads}).encode()
        body = b"".join(bodies)
        self._file.write(SIZES.pack(len(head), len(body)) + head + body)
        self._file.flush()
        if self._file.tell() >= FILE_BYTES_MAX:
            self.end()


def redacted(tensors: Tensors, rules: Any, *, batches: bool) -> Tensors:
    """What may leave this process."""
    made = dict(tensors)
    for name, hashed, element in rules:
        if name not in made:
            continue
        if hashed:
            made[name] = _digests(made[name], batches=batches)
        elif element is None:
            del made[name]
        else:
            array = made[name]
            rows = array.reshape(len(array), -1) if batches else array.reshape(1, -1)
            if int(element) < rows.shape[1]:
                rows[:, int(element)] = b"" if array.dtype == object else 0
            made[name] = rows.reshape(array.shape)
    return made


def encoded(array: Any) -> tuple[str, bytes]:
    """Kind and bytes of a tensor. Texts (kind `O`) are each their size and their bytes."""
    if array.dtype != object:
        return array.dtype.str, np.ascontiguousarray(array).tobytes()
    texts = [each.encode() if isinstance(each, str) else bytes(each) for each in array.ravel()]
    return "O", b"".join(struct.pack("<I", len(each)) + each for each in texts)


def trace_id(parameters: str) -> str:
    """Of the request, whether or not its trace is sampled."""
    for key, value in json.loads(parameters).items():
        if key.lower() == "traceparent" and isinstance(value, str):
            match = _TRACEPARENT.fullmatch(value)
            return match[1] if match else ""
    return ""


def _digests(array: Any, *, batches: bool) -> Any:
    rows = array if batches else array[None]
    made = [hashlib.sha256(encoded(row)[1]).hexdigest() for row in rows]
    return np.array([*made, None], object)[:-1].reshape(-1 if batches else ())


def _bytes_of(array: Any) -> int:
    if array.dtype != object:
        return int(array.nbytes)
    return sum(len(each) + 64 for each in array.ravel())
