"""Builds the agent from its settings."""

import asyncio
import fcntl
import os
import random
import socket
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from aios.config import Settings
from aios.errors import FailedPrecondition
from aios.names import NodeName
from aios.runtime.app import App
from aios.runtime.channel import service_channel
from aios.scheduler.v1 import agent_service_pb2
from services.scheduler import mapping
from services.scheduler.agent import bounds, capacity, gpus, isolation, sandbox
from services.scheduler.agent.agent import Agent, Outbox
from services.scheduler.agent.attempts import DRAIN_GRACE_MAX, Attempts
from services.scheduler.agent.directory import Directory
from services.scheduler.agent.environments import Environments
from services.scheduler.agent.log_pusher import LogPusher
from services.scheduler.agent.worker_tokens import WorkerTokens
from services.scheduler.signing import Verifier

END_LOOK_SECONDS = 0.05


class AgentRunning(FailedPrecondition):
    """Another agent has this directory. Give each its own AIOS_HOME, or stop the other."""

    reason = "AGENT_RUNNING"


async def build(settings: Settings, stack: AsyncExitStack) -> App:
    """Take over what runs here, connect, and leave nothing running when told to stop."""
    # In a container the setting is the container's name; whoever dials a replica knows only its address.
    host = await asyncio.to_thread(socket.gethostbyname, settings.listen_host)
    settings = replace(settings, listen_host=host)
    root = settings.home / "agent"
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    stack.enter_context(_sole(root))
    settings = replace(settings, node=name_of(root, settings.node, given=bool(os.environ.get("AIOS_NODE"))))
    assert settings.scheduler_public_key_file is not None
    devices = [*gpus.find(), *gpus.declared(settings.node_devices)]
    rng, outbox = random.Random(), Outbox()
    scheduler, gateway = service_channel(settings, "scheduler"), service_channel(settings, "gateway")
    stack.push_async_callback(scheduler.close)
    stack.push_async_callback(gateway.close)
    logs = LogPusher(scheduler)
    tokens = WorkerTokens(gateway)
    jail = await asyncio.to_thread(isolation.find, settings.sandbox)
    groups = await asyncio.to_thread(bounds.find) if settings.sandbox != isolation.OFF else None
    machine = sandbox.Node(
        settings,
        os.environ,
        root / "lease",
        jail,
        groups,
        {gpu.uuid: gpu.node for gpu in devices if gpu.node},
    )
    packages = Environments(root / "environments", settings.address, settings.package_index)
    attempts = Attempts(root, machine, devices, tokens, logs, outbox.report, rng, packages)
    node = agent_service_pb2.Register(
        node=str(NodeName(settings.node)),
        capacity=mapping.resources_to_proto(capacity.measure(settings, devices)),
        labels={**capacity.labels(settings), isolation.LABEL: jail.label},
        host=settings.listen_host,
    )
    verifier = Verifier(settings.scheduler_public_key_file)
    agent = Agent(scheduler, verifier, node, attempts, outbox, root / "lease", rng)
    attempts.adopt()
    tasks = [asyncio.create_task(agent.run()), asyncio.create_task(logs.run())]

    async def stop() -> None:
        # Not among the app's loops, which end first: the ends of attempts are still to be reported.
        await agent.drain()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await attempts.close()

    stack.push_async_callback(stop)
    return App()


def end(settings: Settings) -> None:
    """End every attempt of this machine while no agent runs; the next agent reports them, and they start again.

    Raises:
        AgentRunning: tell that agent to stop instead.
    """
    root = settings.home / "agent"
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _sole(root):
        running = [each for each in Directory.all(root / "attempts") if not each.has("exit")]
        for each in running:
            grace = each.assignment().spec.stop_grace.ToTimedelta()
            each.ask_to_stop(min(grace, DRAIN_GRACE_MAX), "NODE_STOPPED")
        for each in running:
            while not each.has("exit") and not each.declare_dead():
                time.sleep(END_LOOK_SECONDS)


def name_of(root: Path, name: str, *, given: bool) -> str:
    """What this node is called: as it was told, else as it was when the directory was last used.

    A machine's name changes, with the network it is in or because its container was made anew. The attempts in the
    directory are those of the node that ran them, and only that node can say how they ended.
    """
    file = root / "node"
    if given or not file.is_file():
        file.write_text(name)
    return file.read_text()


def _sole(root: Path) -> TextIO:
    """Hold the agent's directory for as long as the file is open."""
    lock = (root / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise AgentRunning(f"Another agent works in {root}.", directory=str(root)) from None
    return lock
