"""The attempts of this node: started, followed, stopped, and taken over from an agent that died."""

import asyncio
import logging
import random
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aios.common.v1 import resources_pb2
from aios.errors import AiosError
from aios.names import JobName, NodeName
from aios.runtime import peers, telemetry
from aios.scheduler.v1 import agent_service_pb2, job_pb2
from aios.scheduling import DEVICE_MILLIS
from services.scheduler import mapping
from services.scheduler.agent import isolation, ports, sandbox
from services.scheduler.agent.directory import Directory
from services.scheduler.agent.environments import Environments
from services.scheduler.agent.gpus import Gpu
from services.scheduler.agent.log_pusher import LogPusher, Tail
from services.scheduler.agent.worker_tokens import WorkerTokens
from services.scheduler.attempts import RENDEZVOUS, Attempt, AttemptState

STARTING_LOOK_SECONDS = 0.01
LOOK_SECONDS = 0.1  # how late an exit is seen
ALIVE_SECONDS = 1.0  # how late a killed shim is seen
SHIM_SECONDS = 5.0  # a shim that was started but has not begun by then never will
LOG_SECONDS = (
    2.0  # an end is reported this much later at most, so that a job's log is whole when the job is over
)
DRAIN_GRACE_MAX = timedelta(
    seconds=15
)  # a machine that goes down waits no longer, whatever a job was promised
TOKEN_RETRY = timedelta(seconds=10)
DISK_SECONDS = 0.5  # between looks whether the disk takes files again

_log = logging.getLogger(__name__)
Key = tuple[str, int, int]
"""A job's name, an epoch, and a rank: 0 where it is no gang."""


@dataclass(eq=False)
class Running:
    """One attempt that this agent answers for, from its assignment until the scheduler has stored its end."""

    assignment: agent_service_pb2.AssignmentSpec
    directory: Directory
    tail: Tail
    state: AttemptState = AttemptState.ASSIGNED
    ports: Mapping[str, int] = field(default_factory=dict)
    devices: Sequence[str] = ()
    packages: Path | None = None
    adopted: bool = False
    shim: subprocess.Popen[bytes] | None = None
    renew_time: datetime | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> Key:
        return key_of(self.assignment)


def key_of(assignment: agent_service_pb2.AssignmentSpec) -> Key:
    """What an assignment is known by."""
    return assignment.job, assignment.epoch, assignment.gang.rank


class Attempts:
    """Everything that runs here.

    Args:
        root: The agent's directory.
        changed: Called with the report of each change.
    """

    def __init__(
        self,
        root: Path,
        node: sandbox.Node,
        gpus: Sequence[Gpu],
        tokens: WorkerTokens,
        logs: LogPusher,
        changed: Callable[[job_pb2.Attempt], None],
        rng: random.Random,
        environments: Environments,
    ) -> None:
        self._root = root / "attempts"
        self._node = node
        self._settings = node.settings
        self._gpus = gpus
        self._tokens = tokens
        self._logs = logs
        self._changed = changed
        self._rng = rng
        self._environments = environments
        self._running: dict[Key, Running] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def adopt(self) -> None:
        """Take over what an earlier agent of this node left, dead or alive."""
        for directory in Directory.all(self._root):
            assignment = directory.assignment()
            chosen = directory.read("node") or {"ports": {}, "devices": []}
            tail = self._logs.follow(*key_of(assignment), directory.log)
            attempt = Running(assignment, directory, tail, ports=chosen["ports"], devices=chosen["devices"])
            attempt.packages = Path(chosen["packages"]) if chosen.get("packages") else None
            attempt.adopted, attempt.renew_time = True, datetime.now(UTC)
            self._follow(attempt)
            _log.info("took over attempt %s of %s", assignment.epoch, assignment.job)

    def start(self, assignment: agent_service_pb2.AssignmentSpec) -> None:
        """Start an attempt. One already known is only reported again."""
        known = self._running.get(key_of(assignment))
        if known is not None:
            self._changed(self._report(known))
            return
        try:
            directory = Directory.make(self._root, assignment)
        except OSError as error:
            _log.error("attempt %s of %s cannot start: %s", assignment.epoch, assignment.job, error)
            self.refuse(assignment, "NOT_STARTED")
            return
        tail = self._logs.follow(*key_of(assignment), directory.log)
        self._follow(Running(assignment, directory, tail))

    def refuse(self, assignment: agent_service_pb2.AssignmentSpec, reason: str) -> None:
        """Report an attempt that cannot be started here."""
        self._changed(self._never_started(key_of(assignment), reason))

    def stop(self, key: Key, grace: timedelta, reason: str = "") -> None:
        """End an attempt. One that is not known is reported as never started."""
        attempt = self._running.get(key)
        if attempt is None:
            self._changed(self._never_started(key, "NOT_STARTED"))
        elif attempt.state is not AttemptState.ENDED:
            attempt.directory.ask_to_stop(grace, reason)

    def forget(self, key: Key) -> None:
        """The scheduler has stored its end."""
        attempt = self._running.get(key)
        if attempt is not None and attempt.state is AttemptState.ENDED:
            attempt.acknowledged.set()

    def reports(self) -> list[job_pb2.Attempt]:
        """Where every attempt stands."""
        return [self._report(attempt) for attempt in self._running.values()]

    async def drain(self, reason: str, patience: timedelta) -> None:
        """End everything, each with its own grace, then give the scheduler `patience` to store the ends."""
        graces = [timedelta()]
        for attempt in list(self._running.values()):
            graces.append(min(attempt.assignment.spec.stop_grace.ToTimedelta(), DRAIN_GRACE_MAX))
            self.stop(attempt.key, graces[-1], reason)
        ends = [asyncio.ensure_future(attempt.over.wait()) for attempt in self._running.values()]
        if ends:
            await asyncio.wait(ends, timeout=(max(graces) + patience).total_seconds())
            for end in ends:
                end.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=patience.total_seconds())

    async def close(self) -> None:
        """Stop following. What runs goes on."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _follow(self, attempt: Running) -> None:
        self._running[attempt.key] = attempt
        task = asyncio.create_task(self._live(attempt), name=f"attempt {attempt.key}")
        task.add_done_callback(_say_failure)
        self._tasks[attempt.key] = task

    async def _live(self, attempt: Running) -> None:
        """The whole life of one attempt."""
        if not attempt.adopted:
            await self._start(attempt)
        await self._watch_on(attempt)
        attempt.tail.closed = True
        try:
            async with asyncio.timeout(LOG_SECONDS):
                await attempt.tail.done.wait()
        except TimeoutError:
            _log.info("the log of %s is still on its way", attempt.assignment.job)
        attempt.state = AttemptState.ENDED
        attempt.over.set()
        self._changed(self._report(attempt))
        await attempt.acknowledged.wait()
        await attempt.tail.done.wait()
        await asyncio.to_thread(attempt.directory.remove)
        del self._running[attempt.key], self._tasks[attempt.key]

    async def _start(self, attempt: Running) -> None:
        """Prepare the directory and start the shim; what goes wrong is written as the attempt's end."""
        assignment = attempt.assignment
        with telemetry.span(
            "start process",
            traceparent=assignment.traceparent,
            attributes={
                "aios.project": JobName.parse(assignment.job).project,
                "aios.job": assignment.job,
                "aios.owner": assignment.spec.owner,
                "aios.epoch": assignment.epoch,
                "aios.node": self._settings.node,
            },
        ):
            try:
                await self._launch(attempt)
            except AiosError as error:
                _cannot_start(attempt.directory, error.message, error.reason)
            except OSError as error:
                # The node's trouble and not the job's: a full disk, a device that is gone.
                _cannot_start(attempt.directory, str(error), "NOT_STARTED")
            else:
                await _until_started(attempt.directory)

    async def _launch(self, attempt: Running) -> None:
        assignment, directory = attempt.assignment, attempt.directory
        spec = mapping.spec_from_proto(assignment.spec)
        taken = [port for other in self._running.values() for port in other.ports.values()]
        gang = _gang(assignment, self._settings.listen_host)
        names = (*spec.ports, RENDEZVOUS) if gang and gang.rank == 0 else spec.ports
        attempt.ports = dict(zip(names, ports.pick(len(names), taken, self._rng), strict=True))
        attempt.devices = self._devices(assignment.granted)
        self._note(attempt)
        token = await self._tokens.issue(assignment.job, assignment.epoch)
        await asyncio.to_thread(directory.write_token, token.secret)
        attempt.renew_time = token.renew_time
        if spec.requirements:
            attempt.packages = await self._packages(attempt, spec.requirements)
            self._note(attempt)  # so that a later agent keeps them, too
        place = sandbox.Place(
            directory.path,
            assignment.job,
            assignment.epoch,
            assignment.traceparent,
            attempt.ports,
            attempt.devices,
            gang,
            self._memory_fraction(assignment.granted, attempt.devices),
            attempt.packages,
        )
        (directory.path / "hosts").write_text(isolation.hosts(isolation.doors(self._settings)))
        if self._settings.mutual_tls:
            authority = await asyncio.to_thread(self._settings.secret(peers.AUTHORITY).read_bytes)
            place.authority_file.write_bytes(authority)
        directory.write("launch", sandbox.launch(spec, place, self._node))
        if directory.has("stop"):
            directory.write("exit", {"end_reason": "NOT_STARTED"})
        else:
            attempt.shim = await asyncio.to_thread(directory.start)

    def _used_packages(self) -> list[str]:
        return [str(each.packages) for each in self._running.values() if each.packages]

    def _note(self, attempt: Running) -> None:
        """What the node gave it, for an agent that takes it over."""
        packages = str(attempt.packages) if attempt.packages else ""
        given = {"ports": attempt.ports, "devices": attempt.devices, "packages": packages}
        attempt.directory.write("node", given)

    async def _packages(self, attempt: Running, version: str) -> Path | None:
        """The environment of its packages, made where this node has none yet; None where it is asked to stop first."""
        directory = attempt.directory
        with directory.log.open("a") as log:
            log.write("aios: preparing its packages\n")
        token = directory.path / "token"
        making = asyncio.ensure_future(
            self._environments.of_version(version, attempt.assignment.job, token, self._used_packages)
        )
        try:
            while not making.done() and not directory.has("stop"):
                await asyncio.wait([making], timeout=LOOK_SECONDS)
            return making.result() if making.done() else None
        finally:
            making.cancel()

    async def _watch_on(self, attempt: Running) -> None:
        """Watch, also over times in which the disk takes no files."""
        while True:
            try:
                await self._watch(attempt)
                return
            except OSError as error:
                _log.warning("attempt %s: %s; looking again", attempt.key, error)
                await asyncio.sleep(DISK_SECONDS)

    async def _watch(self, attempt: Running) -> None:
        """Report the start, keep the token fresh, and return once every process is gone."""
        clock = asyncio.get_running_loop().time
        begun, looked = clock(), clock()
        while not attempt.directory.has("exit"):
            started = attempt.directory.has("started")
            if started and attempt.state is AttemptState.ASSIGNED:
                attempt.state = AttemptState.RUNNING
                self._changed(self._report(attempt))
            if attempt.renew_time and attempt.renew_time < datetime.now(UTC):
                await self._renew(attempt)
            if clock() - looked > ALIVE_SECONDS and (started or clock() - begun > SHIM_SECONDS):
                looked = clock()
                await asyncio.to_thread(attempt.directory.declare_dead)
            await asyncio.sleep(LOOK_SECONDS)
        if attempt.shim is not None:
            await asyncio.to_thread(attempt.shim.wait)

    async def _renew(self, attempt: Running) -> None:
        try:
            token = await self._tokens.issue(attempt.assignment.job, attempt.assignment.epoch)
        except AiosError as error:
            _log.warning("the token of %s is not renewed yet: %s", attempt.assignment.job, error.message)
            attempt.renew_time = datetime.now(UTC) + TOKEN_RETRY
        else:
            await asyncio.to_thread(attempt.directory.write_token, token.secret)
            attempt.renew_time = token.renew_time

    def _devices(self, granted: resources_pb2.Resources) -> list[str]:
        """Devices for an attempt: who shares one has that of the others with the same number, the first of them any."""
        for kind in granted.accelerator_millis:
            for other in self._running.values():
                theirs = other.assignment.granted
                same = theirs.shared_device == granted.shared_device and kind in theirs.accelerator_millis
                if same and other.devices:
                    return list(other.devices)
        return self._free_devices({**granted.accelerators, **dict.fromkeys(granted.accelerator_millis, 1)})

    def _memory_fraction(self, granted: resources_pb2.Resources, devices: Sequence[str]) -> float | None:
        """Of its device's memory that an attempt with a share may use."""
        for kind, millis in granted.accelerator_millis.items():
            asked = granted.accelerator_memory_bytes.get(kind, 0)
            has = next((gpu.memory_bytes for gpu in self._gpus if gpu.uuid in devices), 0)
            return min(1.0, asked / has) if asked and has else millis / DEVICE_MILLIS
        return None

    def _free_devices(self, counts: Mapping[str, int]) -> list[str]:
        used = {device for other in self._running.values() for device in other.devices}
        chosen: list[str] = []
        for kind, count in counts.items():
            free = [gpu.uuid for gpu in self._gpus if gpu.kind == kind and gpu.uuid not in used]
            if len(free) < count:
                raise OSError(f"{count} {kind} were granted and {len(free)} are free")
            chosen += free[:count]
        return chosen

    def _report(self, attempt: Running) -> job_pb2.Attempt:
        started = attempt.directory.read("started") or {}
        ended = attempt.directory.read("exit") or {} if attempt.state is AttemptState.ENDED else {}
        return mapping.attempt_to_proto(
            Attempt(
                job=JobName.parse(attempt.assignment.job),
                epoch=attempt.assignment.epoch,
                rank=attempt.assignment.gang.rank,
                node=NodeName.parse(attempt.assignment.node).node,
                state=attempt.state,
                host=self._settings.listen_host,
                ports=attempt.ports,
                exit_code=ended.get("exit_code"),
                end_reason=ended.get("end_reason", ""),
                start_time=_moment(started.get("start_time")),
                end_time=_moment(ended.get("end_time")),
            )
        )

    def _never_started(self, key: Key, reason: str) -> job_pb2.Attempt:
        job, epoch, rank = key
        node = self._settings.node
        return mapping.attempt_to_proto(
            Attempt(JobName.parse(job), epoch, node, AttemptState.ENDED, end_reason=reason, rank=rank)
        )


def _gang(assignment: agent_service_pb2.AssignmentSpec, host: str) -> sandbox.Gang | None:
    """An assignment's place in its gang; the first process is met at this node's own address."""
    if not assignment.HasField("gang"):
        return None
    said = assignment.gang
    return sandbox.Gang(said.rank, said.replicas, said.host or host, said.port)


def _say_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s is no longer followed", task.get_name(), exc_info=error)


async def _until_started(directory: Directory) -> None:
    try:
        async with asyncio.timeout(SHIM_SECONDS):
            while not (directory.has("started") or directory.has("exit")):  # noqa: ASYNC110  # another process's
                await asyncio.sleep(STARTING_LOOK_SECONDS)
    except TimeoutError:
        _log.warning("%s has not begun within %s s", directory.path.name, SHIM_SECONDS)


def _cannot_start(directory: Directory, why: str, reason: str) -> None:
    try:
        with directory.log.open("a") as log:
            log.write(f"aios: cannot start: {why}\n")
        directory.write("exit", {"end_reason": reason, "end_time": datetime.now(UTC).timestamp()})
    except OSError as error:  # whoever watches it finds that no shim came
        _log.warning("%s cannot start, nor say so: %s", directory.path.name, error)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
