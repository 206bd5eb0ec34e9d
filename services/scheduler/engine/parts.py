"""Devices that several jobs share: which part of which device each has. Pure.

In the snapshot's matrices a type of accelerator is counted in thousandths of a device, so sums, quotas and shares need
no more than the numbers. What sums do not tell is kept here: a share lies on one device, and a device of which a share
is used is not there for who asks for whole ones. Shared devices of a node have numbers of the scheduler's choosing; the
node finds a device for a number when its first job comes, and keeps it until the last has gone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aios.scheduling import DEVICE_MILLIS as DEVICE

Place = tuple[int, int]
"""Row of a node, column of a type."""


class Part(NamedTuple):
    """What a job has of a shared device, in thousandths."""

    number: int
    """Which of its node's shared devices of the type: from 1."""
    share: int
    memory: int


@dataclass
class _Device:
    share: int = DEVICE
    """That is free."""
    memory: int = DEVICE
    jobs: int = 0


@dataclass
class Parts:
    """The shared devices of all nodes."""

    _devices: dict[Place, dict[int, _Device]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._devices)

    def copy(self) -> "Parts":
        """One that changes by itself."""
        return Parts(
            {
                place: {number: _Device(each.share, each.memory, each.jobs) for number, each in there.items()}
                for place, there in self._devices.items()
            }
        )

    def take(self, place: Place, part: Part) -> None:
        """A job gets its part; the first of a number opens a device."""
        device = self._devices.setdefault(place, {}).setdefault(part.number, _Device())
        device.share -= part.share
        device.memory -= part.memory
        device.jobs += 1

    def give(self, place: Place, part: Part) -> None:
        """A job gives it back; after the last of a number the device is whole again."""
        device = self._devices[place][part.number]
        device.share += part.share
        device.memory += part.memory
        device.jobs -= 1
        if not device.jobs:
            del self._devices[place][part.number]
            if not self._devices[place]:
                del self._devices[place]

    def is_open(self, place: Place, number: int) -> bool:
        """Whether a device of that number is shared now."""
        return number in self._devices.get(place, ())

    def has_room(self, place: Place, part: Part) -> bool:
        """Whether a part is left of a device that is shared already."""
        device = self._devices.get(place, {}).get(part.number)
        return device is not None and device.share >= part.share and device.memory >= part.memory

    def fullest(self, place: Place, share: int, memory: int) -> tuple[int, int] | None:
        """Of the shared devices there with room, the number of that with least left, and what would be left of it."""
        found = [
            (each.share - share, number)
            for number, each in self._devices.get(place, {}).items()
            if each.share >= share and each.memory >= memory
        ]
        return min(found)[::-1] if found else None

    def unused_number(self, place: Place) -> int:
        """The least that no shared device there has."""
        taken = self._devices.get(place, {})
        return next(number for number in range(1, len(taken) + 2) if number not in taken)

    def at(self, column: int) -> Iterator[int]:
        """Rows of nodes with shared devices of a type."""
        return (row for row, of in self._devices if of == column)

    def lost(self, rows: int, columns: int) -> NDArray[np.int64]:
        """What is free of shared devices, by node and type: no whole device can be made of it."""
        found = np.zeros((rows, columns), np.int64)
        for place, there in self._devices.items():
            found[place] = sum(each.share for each in there.values())
        return found

    def lost_at(self, place: Place) -> int:
        """The same of one node and type."""
        return sum(each.share for each in self._devices.get(place, {}).values())
