"""Trials, scaling and sleep, over real gRPC and SQLite; the gateway that routes and counts is played here."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aios.errors import FailedPrecondition, InvalidArgument, NotFound
from aios.inference.v1 import deployment_pb2
from aios.inference.v1 import inference_service_pb2 as pb
from tests.service.neighbours import until
from tests.service.test_inference import MODEL, PARENT, WEB, Deployment, Revision, World, live, update, world

Policy = deployment_pb2.RolloutPolicy
CANARY = Policy(
    kind=Policy.KIND_CANARY, steps=[10], step_seconds=1, gates=deployment_pb2.Gates(requests_min=5)
)


class Gateway:
    """Puts every routing table into force, and counts what a test says it has served."""

    def __init__(self, w: World) -> None:
        self._w = w
        self.routes: dict[str, pb.RevisionRoute] = {}
        self.served = {1: 0, 2: 0}
        self.failed = {1: 0, 2: 0}
        self.held = 0

    async def confirm(self) -> None:
        async for table in self._w.gateway.WatchRoutes(pb.WatchRoutesRequest()):
            shares = table.deployments[0].revisions if table.deployments else ()
            self.routes = {each.revision.rpartition("/")[2]: each for each in shares}
            await self._w.gateway.ConfirmRoutes(pb.ConfirmRoutesRequest(revision=table.revision))

    async def count(self) -> None:
        while True:
            counts = [
                pb.TrafficCount(
                    revision=f"{WEB}/revisions/{number}",
                    requests=self.served[number],
                    errors=self.failed[number],
                    held=self.held,
                    bounds_millis=[10, 100],
                    within=[self.served[number]] * 2,
                )
                for number in self.served
            ]
            await self._w.gateway.ReportTraffic(pb.ReportTrafficRequest(counts=counts))
            await asyncio.sleep(0.05)

    async def serve(self, number: int, *, failing: bool = False) -> None:
        """Requests from now on, until the test ends."""
        while True:
            self.served[number] += 5
            self.failed[number] += 5 * failing
            await asyncio.sleep(0.05)


@asynccontextmanager
async def gateway(w: World) -> AsyncIterator[Gateway]:
    one = Gateway(w)
    tasks = [asyncio.create_task(one.confirm()), asyncio.create_task(one.count())]
    try:
        yield one
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def serving() -> Iterator[set[asyncio.Task[None]]]:
    tasks: set[asyncio.Task[None]] = set()
    yield tasks
    for task in tasks:
        task.cancel()


async def on_trial(w: World, policy: deployment_pb2.RolloutPolicy = CANARY) -> None:
    await live(w)
    await w.editor.UpdateDeployment(
        update("spec.model_version", "spec.rollout", model_version=f"{MODEL}/2", rollout=policy)
    )
    await w.job("web-r2-0")
    await w.report("web-r2-0", port=9000)
    assert (await w.history())[0].state == Revision.STATE_TRIAL


async def reasons(w: World) -> list[str]:
    found = await w.editor.ListTrafficChanges(pb.ListTrafficChangesRequest(parent=WEB))
    assert all(each.HasField("effect_time") for each in found.changes)
    return [each.reason for each in found.changes]


async def test_a_canary_whose_gates_hold_is_promoted_by_itself(
    tmp_path: Path, serving: set[asyncio.Task[None]]
) -> None:
    async with world(tmp_path) as w, gateway(w) as played:
        await on_trial(w)
        assert [(each.percent, each.revision[-1]) for each in (await w.get()).traffic] == [
            (90, "1"),
            (10, "2"),
        ]
        serving |= {asyncio.create_task(played.serve(number)) for number in (1, 2)}
        ready = await w.until_state(Deployment.STATE_READY)
        assert ready.live_revision == f"{WEB}/revisions/2"
        last, before, first = await reasons(w)
        assert last.startswith("revision 2 is promoted: its gates held for ")
        assert before == "revision 2 goes on trial with 10% of the requests"
        assert first == "revision 1 answers with all of its replicas"
        figures = await w.editor.ListFigures(pb.ListFiguresRequest(parent=PARENT))
        assert figures.figures[-1].requests > 0
        assert 0 < figures.figures[-1].p99_millis <= 10


async def test_a_canary_that_fails_is_rolled_back_and_the_reason_stays(
    tmp_path: Path, serving: set[asyncio.Task[None]]
) -> None:
    async with world(tmp_path) as w, gateway(w) as played:
        await on_trial(w)
        await w.editor.PauseDeployment(pb.PauseDeploymentRequest(name=WEB))
        serving |= {asyncio.create_task(played.serve(1)), asyncio.create_task(played.serve(2, failing=True))}
        degraded = await w.until_state(Deployment.STATE_DEGRADED)
        assert "revision 2 was rolled back: 100.0% of" in degraded.state_message
        assert [each.percent for each in degraded.traffic] == [100]


async def test_people_promote_hold_and_end_trials(tmp_path: Path) -> None:
    async with world(tmp_path) as w, gateway(w) as played:
        with pytest.raises(NotFound):
            await w.editor.PromoteDeployment(pb.PromoteDeploymentRequest(name=WEB))
        with pytest.raises(NotFound):
            await w.editor.ListTrafficChanges(pb.ListTrafficChangesRequest(parent=WEB))
        await on_trial(w, Policy(kind=Policy.KIND_SHADOW, mirror_percent=50))
        await until(lambda: _is(played.routes["2"].mirror_percent == 50 and played.routes["2"].weight == 0))
        assert (await w.editor.PauseDeployment(pb.PauseDeploymentRequest(name=WEB))).paused
        assert not (await w.editor.ResumeDeployment(pb.ResumeDeploymentRequest(name=WEB))).paused
        await w.editor.PromoteDeployment(pb.PromoteDeploymentRequest(name=WEB))
        await w.until_state(Deployment.STATE_READY)
        with pytest.raises(FailedPrecondition, match="on trial"):
            await w.editor.PromoteDeployment(pb.PromoteDeploymentRequest(name=WEB))
        back = await w.editor.RollbackDeployment(pb.RollbackDeploymentRequest(name=WEB, reason="odd answers"))
        assert (back.latest_revision[-1], back.spec.model_version) == ("3", f"{MODEL}/1")
        await w.job("web-r3-0")
        await w.report("web-r3-0", port=9100)
        assert (await w.until_state(Deployment.STATE_READY)).live_revision[-1] == "3"


async def test_a_quality_that_is_reported_too_low_ends_a_trial(tmp_path: Path) -> None:
    gates = deployment_pb2.Gates(quality_min={"accuracy": 0.9})
    policy = Policy(kind=Policy.KIND_CANARY, step_seconds=600, gates=gates)
    async with world(tmp_path) as w, gateway(w):
        await on_trial(w, policy)
        request = pb.ReportQualityRequest(name=f"{WEB}/revisions/2", quality={"accuracy": 0.7})
        assert (await w.editor.ReportQuality(request)).quality["accuracy"] == 0.7
        degraded = await w.until_state(Deployment.STATE_DEGRADED)
        assert "accuracy is 0.7, below 0.9" in degraded.state_message
        request.name = f"{WEB}/revisions/9"
        with pytest.raises(NotFound):
            await w.editor.ReportQuality(request)


async def test_replicas_come_and_go_without_a_new_revision(tmp_path: Path) -> None:
    async with world(tmp_path) as w, gateway(w) as played:
        await live(w)
        scaled = await w.editor.ScaleDeployment(pb.ScaleDeploymentRequest(name=WEB, replicas=2))
        assert (scaled.latest_revision[-1], scaled.spec.replicas) == ("1", 2)
        await w.job("web-r1-1")
        await w.report("web-r1-1", port=9000)
        await until(lambda: _is(len(played.routes["1"].replicas) == 2))
        await w.editor.ScaleDeployment(pb.ScaleDeploymentRequest(name=WEB, replicas=1))
        await until(lambda: _is([each.http_port for each in played.routes["1"].replicas] == [8000]))
        assert not w.scheduler.cancelled, "its last requests still run"
        await _drained(w)
        await until(lambda: _stopped(w, "web-r1-1"))
        with pytest.raises(InvalidArgument, match="between 0 and"):
            await w.editor.ScaleDeployment(pb.ScaleDeploymentRequest(name=WEB, replicas=99))


async def test_a_deployment_without_requests_sleeps_and_the_next_one_wakes_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w, gateway(w) as played:
        await live(w)
        rule = deployment_pb2.ScalingPolicy(min_replicas=0, max_replicas=2, idle_seconds=1)
        await w.editor.ScaleDeployment(pb.ScaleDeploymentRequest(name=WEB, scaling=rule))
        await w.until_state(Deployment.STATE_ASLEEP)
        await until(lambda: _is(played.routes["1"].asleep and played.routes["1"].weight == 100))
        await _drained(w)
        await until(lambda: _stopped(w, "web-r1-0"))
        played.held += 1
        await w.job("web-r1-1")
        await w.report("web-r1-1", port=9000)
        await until(lambda: _is(not played.routes["1"].asleep))
        assert (await w.get()).state == Deployment.STATE_READY


async def _drained(w: World) -> None:
    """The time that last requests have passes."""
    await asyncio.sleep(1.2)  # the reconciler has seen who leaves
    w.clock.ahead += w.settings.drain_seconds + 1


async def _is(value: bool) -> bool:
    return value


async def _stopped(w: World, job: str) -> bool:
    return f"{PARENT}/jobs/{job}" in w.scheduler.cancelled
