"""One round of faults on a real platform. `make faults` plays twenty and more, with training and serving among them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults import power_cut
from tests.faults.platform import temporary_platform
from tests.faults.run import Drill
from tests.faults.schedule import ROUND, Fault, schedule

SEED = 11
seeds = st.integers(min_value=0, max_value=2**32 - 1)


@pytest.mark.timeout(300)
async def test_nothing_accepted_is_lost_while_everything_breaks(tmp_path: Path) -> None:
    async with temporary_platform() as platform:
        drill = Drill.of(platform, SEED, tmp_path / "ledger.jsonl")
        report = await drill.play([SEED])
        assert report.violations == []  # inside: the platform's home is kept when this fails
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert len([line for line in lines if "fault" in line]) == ROUND


@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(power_cut.unfit()), reason=power_cut.unfit())
async def test_what_was_acknowledged_survives_a_power_cut() -> None:
    assert await power_cut.cut(SEED) == []


@given(seeds)
def test_a_seed_is_one_round_for_ever(seed: int) -> None:
    assert schedule(seed) == schedule(seed)


@given(seeds)
def test_rounds_are_full_and_in_order(seed: int) -> None:
    injections = schedule(seed)
    assert len(injections) == ROUND
    assert injections == sorted(injections, key=lambda injection: injection.moment)
    assert len([i for i in injections if i.fault is Fault.KILL and i.target == "supervisor"]) <= 1


@given(seeds, st.sets(st.sampled_from(Fault)))
def test_what_cannot_be_broken_here_is_left_alone(seed: int, unable: set[Fault]) -> None:
    capable = (frozenset(Fault) - unable) | {Fault.KILL}
    assert {injection.fault for injection in schedule(seed, capable)} <= capable
