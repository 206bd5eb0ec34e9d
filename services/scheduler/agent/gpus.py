"""NVIDIA devices of this machine, asked of the driver's own library. None where there is no driver."""

import ctypes
import re
from collections.abc import Iterator
from typing import NamedTuple

from aios.errors import InvalidArgument

GPU = "gpu"
_DECLARED = re.compile(
    r"([a-z][a-z0-9_-]{0,31}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,62})?)=([1-9]\d{0,4})(?:x(\d+)(GiB|MiB))?"
)
_UNITS = {"GiB": 2**30, "MiB": 2**20}
_LIBRARY = "libnvidia-ml.so.1"
_TEXT_BYTES = 96  # NVML's own limit for names and ids
_BRANDS = frozenset({"nvidia", "tesla", "geforce", "quadro"})
_VARIANT = re.compile(r"\d+gb|hbm\d\w*|sxm\d?|pcie|nvl|mig.*", re.IGNORECASE)


class Gpu(NamedTuple):
    """One device."""

    kind: str
    """Accelerator type: `gpu/H100`."""
    uuid: str
    """What CUDA_VISIBLE_DEVICES takes; stays with the device across restarts."""
    node: str = ""
    """Its file: `/dev/nvidia0`."""
    memory_bytes: int = 0
    """0 where not known."""


def find() -> list[Gpu]:
    """The devices that the driver shows, in its order."""
    try:
        nvml = ctypes.CDLL(_LIBRARY)
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    try:
        return list(_devices(nvml))
    finally:
        nvml.nvmlShutdown()


def declared(text: str) -> list[Gpu]:
    """Devices that the node is said to have and no driver shows: `gpu/T4=2x16GiB,fpga=1`.

    GPUs among them are known to CUDA by their place in that list, others to their jobs by type and place: `fpga:0`.

    Raises:
        InvalidArgument: It reads otherwise.
    """
    found: list[Gpu] = []
    for each in filter(None, (part.strip() for part in text.split(","))):
        match = _DECLARED.fullmatch(each)
        if match is None:
            raise InvalidArgument.of(
                "AIOS_NODE_DEVICES", f"must look like gpu/T4=2x16GiB,fpga=1, not {each!r}"
            )
        kind, count, size = match[1], int(match[2]), int(match[3] or 0) * _UNITS.get(match[4] or "", 1)
        is_gpu = kind == GPU or kind.startswith(f"{GPU}/")
        before = sum(gpu.uuid.isdigit() if is_gpu else gpu.kind == kind for gpu in found)
        ids = [str(n) if is_gpu else f"{kind}:{n}" for n in range(before, before + count)]
        found += [Gpu(kind, id_, memory_bytes=size) for id_ in ids]
    return found


def is_gpu(device: str) -> bool:
    """Whether an id is one that CUDA takes."""
    return ":" not in device


def kind_of(product: str) -> str:
    """The accelerator type of a product: the model without brand, memory size and form.

    `NVIDIA H100 80GB HBM3` is `gpu/H100`, `NVIDIA GeForce RTX 4090` is `gpu/RTX-4090`.
    """
    words = [word for word in re.split(r"[\s-]+", product) if word.lower() not in _BRANDS]
    model = [word for word in words if not _VARIANT.fullmatch(word)]
    return "gpu/" + (re.sub(r"[^A-Za-z0-9._-]", "", "-".join(model)) or "unknown")


def _devices(nvml: ctypes.CDLL) -> Iterator[Gpu]:
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return
    for index in range(count.value):
        device = ctypes.c_void_p()
        minor = ctypes.c_uint()
        name, uuid = (ctypes.create_string_buffer(_TEXT_BYTES) for _ in range(2))
        if (
            nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0
            and nvml.nvmlDeviceGetName(device, name, _TEXT_BYTES) == 0
            and nvml.nvmlDeviceGetUUID(device, uuid, _TEXT_BYTES) == 0
            and nvml.nvmlDeviceGetMinorNumber(device, ctypes.byref(minor)) == 0
        ):
            memory = _Memory()
            total = memory.total if nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0 else 0
            kind = kind_of(name.value.decode())
            yield Gpu(kind, uuid.value.decode(), f"/dev/nvidia{minor.value}", total)


class _Memory(ctypes.Structure):
    """nvmlMemory_t: bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))
    total: int
