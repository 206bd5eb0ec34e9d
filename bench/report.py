"""What a benchmark says: progress, then one JSON object."""

import json
import math
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

NOISE_SECONDS = 1.0


@dataclass
class Report:
    """Collects figures and bars. Times are in milliseconds unless a name says otherwise."""

    bench: str
    figures: dict[str, Any] = field(default_factory=dict)
    bars: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Before the benchmark itself makes any load: how far its figures can be trusted.
        busy = psutil.cpu_percent(NOISE_SECONDS) / 100
        self.figures["cores"] = os.cpu_count()
        self.figures["cores_busy_before"] = round(busy * (os.cpu_count() or 1), 2)
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Progress, for people."""
        print(f"[{time.monotonic() - self._began:5.1f} s] {text}", flush=True)

    def figure(self, name: str, value: float) -> None:
        """One measured number."""
        self.figures[name] = _rounded(value)
        self.say(f"{name}: {self.figures[name]}")

    def bar(
        self, name: str, value: float, at_most: float = math.inf, *, at_least: float | None = None
    ) -> None:
        """A figure with the promise it must keep: a ceiling, or a floor."""
        if at_least is None:
            self.bars[name] = {"value": _rounded(value), "bar": at_most, "ok": value <= at_most}
        else:
            self.bars[name] = {"value": _rounded(value), "at_least": at_least, "ok": value >= at_least}
        self.figure(name, value)

    def finish(self) -> None:
        """Print the last line."""
        self.figures["took_seconds"] = round(time.monotonic() - self._began, 1)
        print(json.dumps({"bench": self.bench, "figures": self.figures, "bars": self.bars}), flush=True)


def quantile(samples: Iterable[float], share: float) -> float:
    """The smallest sample that at least `share` of all do not exceed: always one that was seen; NaN where none was."""
    ordered = sorted(samples) or [math.nan]
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def millis(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile of samples in seconds, in milliseconds."""
    return {
        "p50": statistics.median(seconds) * 1000,
        "p95": quantile(seconds, 0.95) * 1000,
        "p99": quantile(seconds, 0.99) * 1000,
    }


def _rounded(value: float) -> float:
    return round(value) if 1000 <= abs(value) < math.inf else float(f"{value:.3g}")
