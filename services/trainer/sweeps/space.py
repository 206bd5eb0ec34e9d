"""What is searched: the domain of each hyperparameter. Pure.

Every domain maps to and from the unit interval, so that a sampler that knows numbers alone can search it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random
from types import MappingProxyType

from aios.errors import InvalidArgument

Value = float | int | str | bool
Values = Mapping[str, Value]

GRID_VALUES = 5  # of a range that names no step
PERTURBATIONS = (0.8, 1.25)
"""Factors of a number that a member of a population changes. Source: Jaderberg et al. 2017, and 1/0.8 for balance."""


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included."""

    low: float
    high: float
    log: bool = False
    step: float = 0.0
    whole: bool = False

    def check(self, path: str) -> None:
        """Refuse what holds no numbers.

        Raises:
            InvalidArgument: naming the field below `path`.
        """
        if not (math.isfinite(self.low) and math.isfinite(self.high)) or self.low > self.high:
            raise InvalidArgument.of(
                f"{path}.low", f"must not be above high, as {self.low} to {self.high} is"
            )
        if self.log and self.low <= 0:
            raise InvalidArgument.of(f"{path}.low", "must be above 0 for a logarithmic range")
        if self.step < 0 or not math.isfinite(self.step):
            raise InvalidArgument.of(f"{path}.step", "must not be negative")
        if self.whole and any(end != int(end) for end in (self.low, self.high, self.step)):
            raise InvalidArgument.of(path, "must have whole ends and a whole step")

    def at(self, share: float) -> float | int:
        """The value at a share of the way from low to high."""
        share = min(1.0, max(0.0, share))
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        elif self.whole:
            value = (
                self.low - 0.5 + share * (self.high - self.low + 1)
            )  # each number has as much of the interval
        else:
            value = self.low + share * (self.high - self.low)
        return self.rounded(value)

    def share(self, value: float) -> float:
        """The inverse of `at`."""
        if self.high == self.low:
            return 0.5
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        if self.whole:
            return (value - self.low + 0.5) / (self.high - self.low + 1)
        return (value - self.low) / (self.high - self.low)

    def grid(self) -> list[Value]:
        """Its values on a grid, without repetition."""
        count = GRID_VALUES
        if self.step:
            count = int((self.high - self.low) / self.step + 1e-9) + 1
            return [self.rounded(self.low + index * self.step) for index in range(count)]
        if self.whole and not self.log and self.high - self.low < GRID_VALUES:
            return list(range(int(self.low), int(self.high) + 1))
        if self.low == self.high:
            return [self.rounded(self.low)]
        ends = self.low, self.high
        inner = [
            math.exp(math.log(ends[0]) + index / (count - 1) * math.log(ends[1] / ends[0]))
            if self.log
            else ends[0] + index / (count - 1) * (ends[1] - ends[0])
            for index in range(count)
        ]
        return list(dict.fromkeys(self.rounded(value) for value in inner))

    def rounded(self, value: float) -> float | int:
        """The nearest value of the range."""
        if self.step and not self.log:
            value = self.low + round((value - self.low) / self.step) * self.step
            value = min(value, self.low + math.floor((self.high - self.low) / self.step + 1e-9) * self.step)
        value = min(self.high, max(self.low, value))
        return int(min(self.high, max(self.low, round(value)))) if self.whole else value

    def has(self, value: Value) -> bool:
        """Whether a value is one of it."""
        if isinstance(value, bool | str) or not self.low <= value <= self.high:
            return False
        return not self.whole or value == int(value)

    def changed(self, value: Value, rng: Random) -> Value:
        """A number nearby, by one of the factors."""
        assert not isinstance(value, str)
        factor = rng.choice(PERTURBATIONS)
        near = self.rounded(value * factor)
        if self.whole and near == value:  # a small number does not change by a fifth
            near = self.rounded(value + (1 if factor > 1 else -1))
        return near


@dataclass(frozen=True)
class Choice:
    """One of a few values, without an order."""

    values: tuple[Value, ...]

    def check(self, path: str) -> None:
        """Refuse what is no choice.

        Raises:
            InvalidArgument: naming the field.
        """
        if not self.values:
            raise InvalidArgument.of(f"{path}.values", "must not be empty")
        if len({(type(value), value) for value in self.values}) < len(self.values):
            raise InvalidArgument.of(f"{path}.values", "must differ from each other")

    def at(self, share: float) -> Value:
        """The value at a share of the way through them."""
        return self.values[min(len(self.values) - 1, max(0, int(share * len(self.values))))]

    def index(self, value: Value) -> int:
        """Where a value stands: 1 and true are two values."""
        return next(at for at, each in enumerate(self.values) if type(each) is type(value) and each == value)

    def has(self, value: Value) -> bool:
        """Whether a value is one of them."""
        return any(type(each) is type(value) and each == value for each in self.values)

    def grid(self) -> list[Value]:
        """All of them."""
        return list(self.values)

    def changed(self, value: Value, rng: Random) -> Value:
        """Another one, at times."""
        return rng.choice(self.values)


@dataclass(frozen=True)
class Parameter:
    """One hyperparameter that is searched."""

    name: str
    domain: Range | Choice
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """It exists only where each of these, which stand before it, has one of these values."""

    def exists(self, chosen: Values) -> bool:
        """Whether it exists beside these."""
        return all(chosen.get(name) in values for name, values in self.when.items() if values) and all(
            name in chosen for name in self.when
        )


Space = Sequence[Parameter]


def check(space: Space, path: str = "sweep.spec.parameters") -> None:
    """Refuse a space that cannot be searched.

    Raises:
        InvalidArgument: naming the field.
    """
    if not 1 <= len(space) <= 50:
        raise InvalidArgument.of(path, f"must be 1 to 50, not {len(space)}")
    seen: set[str] = set()
    for index, parameter in enumerate(space):
        at = f"{path}[{index}]"
        if not parameter.name or parameter.name in seen:
            raise InvalidArgument.of(f"{at}.name", f"must be a name of its own, not {parameter.name!r}")
        if unknown := parameter.when.keys() - seen:
            raise InvalidArgument.of(f"{at}.when", f"{min(unknown)} must stand before {parameter.name}")
        seen.add(parameter.name)
        parameter.domain.check(at)


def drawn(space: Space, rng: Random) -> dict[str, Value]:
    """Random values, each evenly over its domain."""
    return from_shares(space, [rng.random() for _ in space])


def completed(space: Space, given: Values, rng: Random) -> dict[str, Value]:
    """The given values, with those drawn that are left out."""
    chosen: dict[str, Value] = {}
    for parameter in space:
        share = rng.random()
        if parameter.exists(chosen):
            chosen[parameter.name] = given.get(parameter.name, parameter.domain.at(share))
    return chosen


def from_shares(space: Space, shares: Sequence[float]) -> dict[str, Value]:
    """Values from a point of the unit cube; those that do not exist are left out."""
    chosen: dict[str, Value] = {}
    for parameter, share in zip(space, shares, strict=True):
        if parameter.exists(chosen):
            chosen[parameter.name] = parameter.domain.at(share)
    return chosen


def grid(space: Space) -> list[dict[str, Value]]:
    """Every combination of the values on each grid, without repetition."""
    found: dict[tuple[tuple[str, Value], ...], dict[str, Value]] = {}
    for values in product(*(parameter.domain.grid() for parameter in space)):
        chosen: dict[str, Value] = {}
        for parameter, value in zip(space, values, strict=True):
            if parameter.exists(chosen):
                chosen[parameter.name] = value
        found.setdefault(tuple(chosen.items()), chosen)
    return list(found.values())


def grid_size(space: Space) -> int:
    """At most so many combinations."""
    return math.prod(len(parameter.domain.grid()) for parameter in space)
