"""NVIDIA devices of this machine, asked of the driver's own library. None where there is no driver."""

import ctypes
import re
from collections.abc import Iterator
from typing import NamedTuple

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
            yield Gpu(kind_of(name.value.decode()), uuid.value.decode(), f"/dev/nvidia{minor.value}")
