"""Spans that are too narrow are told wide enough, once it was seen how wide that is."""

import numpy as np
import pytest

from services.scheduler.engine.calibrate import FLOOR_SECONDS, LEAST, Calibration
from services.scheduler.engine.forecast import Basis, Forecast

WAIT = 1000.0


def told(now: float, latest: float | None = 1.2) -> Forecast:
    late = None if latest is None else now + latest * WAIT
    return Forecast(now + WAIT, now + 0.8 * WAIT, late, Basis.TOLD)


@pytest.mark.parametrize("bias", [1.0, 2.0])
def test_spans_hold_as_often_as_they_say(bias: float) -> None:
    """Waits that differ by far more than was drawn, and are longer on average than was thought."""
    rng, calibration, held = np.random.default_rng(1), Calibration(preempts=False), []
    for number in range(600):
        now = 1e6 + number
        at = now + bias * WAIT * float(np.exp(0.6 * rng.standard_normal()))
        said = calibration.widened(now, told(now))
        assert said.earliest is not None
        assert said.latest is not None
        assert said.start == now + WAIT
        held.append(said.earliest <= at <= said.latest)
        calibration.told(f"j{number}", now, told(now))
        calibration.started(f"j{number}", [now - 5.0, at, at + 10.0])
    assert np.mean(held[100:]) == pytest.approx(0.92, abs=0.04)


def test_what_always_held_is_widened_by_the_least() -> None:
    calibration = Calibration(preempts=False)
    early, late = LEAST[False]
    for number in range(100):
        calibration.told(f"j{number}", 0.0, told(0.0))
        calibration.started(f"j{number}", [WAIT])
    said = calibration.widened(0.0, told(0.0))
    assert said.earliest == pytest.approx((0.8 * WAIT + FLOOR_SECONDS) * np.exp(-early) - FLOOR_SECONDS)
    assert said.latest == pytest.approx((1.2 * WAIT + FLOOR_SECONDS) * np.exp(late) - FLOOR_SECONDS)


def test_a_start_before_it_was_told_is_another_one_and_who_is_gone_is_forgotten() -> None:
    calibration = Calibration(preempts=False)
    calibration.told("a", 100.0, told(100.0))
    calibration.started("a", [50.0])
    calibration.told("b", 100.0, Forecast(None))
    assert list(calibration.open) == ["a"]
    calibration.started("a", None)
    assert not calibration.open


def test_where_nobody_can_tell_the_latest_it_stays_so() -> None:
    assert Calibration(preempts=False).widened(0.0, told(0.0, None)).latest is None
