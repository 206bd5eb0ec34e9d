"""What the door and the interceptors add to a unary call, beside a bare gRPC call on the same machine.

Every side answers the same small message (`GetCaller`, which reads no records) in a process of its own:

    bare      a grpc.aio server that checks nothing, one hop
    direct    the gateway's server: interceptors, no Envoy, no span (nobody asked for a trace)
    envoy     through Envoy: token checked twice, routed, traced from end to end
    untraced  the same for a caller that asks not to be traced
    client    the same as `envoy`, by our own client's channel
    http      the same as HTTP/JSON: Envoy, the transcoder, the service
    read      as `envoy`, but a call that reads one row of the records (`GetNode`)

Sides take turns within each round, and a ratio is the median over rounds of what was measured side by side.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import httpx
import psutil

from aios.identity.v1 import identity_pb2
from aios.identity.v1 import identity_service_pb2 as identity
from aios.runtime.channel import connect
from aios.runtime.telemetry import unsampled_traceparent
from aios.scheduler.v1 import node_pb2
from aios.scheduler.v1 import scheduler_service_pb2 as scheduler
from bench import stack
from bench.report import Report, quantile
from bench.stack import Stack

ROUNDS = 9
SECONDS = 15.0  # for all rounds with one number of callers; a slow machine makes fewer, but no fewer than
ROUNDS_MIN = 3
CALLS = 40  # per side, round and caller, when one calls
CALLS_AT_ONCE = 8  # the same when CALLERS do
CALLERS = 16
GET_CALLER = "/aios.identity.v1.IdentityService/GetCaller"
GET_NODE = "/aios.scheduler.v1.SchedulerService/GetNode"

Call = Callable[[], Awaitable[object]]


@dataclass
class Side:
    """One way to make the call, and what was measured of it, by number of callers."""

    call: Call
    servers: Sequence[psutil.Process]
    """The processes that work for it: their CPU time is a figure that a busy machine does not blur."""
    seconds: dict[int, list[list[float]]] = field(default_factory=dict)
    cpu_seconds: dict[int, float] = field(default_factory=dict)

    async def measure(self, callers: int, calls: int) -> None:
        """One round."""
        samples: list[float] = []

        async def caller() -> None:
            for _ in range(calls):
                began = time.perf_counter()
                await self.call()
                samples.append(time.perf_counter() - began)

        before = self._cpu()
        await asyncio.gather(*(caller() for _ in range(callers)))
        self.cpu_seconds[callers] = self.cpu_seconds.get(callers, 0) + self._cpu() - before
        self.seconds.setdefault(callers, []).append(samples)

    def medians(self, callers: int) -> list[float]:
        """The median call of each round, in seconds."""
        return [statistics.median(samples) for samples in self.seconds[callers]]

    def cpu_per_call(self, callers: int) -> float:
        """Seconds that all servers together worked for one call."""
        return self.cpu_seconds[callers] / sum(map(len, self.seconds[callers]))

    def _cpu(self) -> float:
        times = [server.cpu_times() for server in self.servers]
        return sum(each.user + each.system for each in times)


async def main() -> None:
    report = Report("calls")
    report.say("starting a stack")
    with stack.running() as running:
        async with _sides(running) as sides:
            for side in sides.values():
                await side.call()
            for callers, calls in ((1, CALLS), (CALLERS, CALLS_AT_ONCE)):
                report.say(f"{len(sides)} sides x {callers} callers x {calls} calls")
                rounds = await _take_turns(list(sides.values()), callers, calls)
                report.figure(f"rounds_c{callers}", rounds)
            for callers in (1, CALLERS):
                _conclude(report, sides, callers)
    report.finish()


async def _take_turns(sides: Sequence[Side], callers: int, calls: int) -> int:
    """Measure all sides again and again. Returns how often."""
    until = time.monotonic() + SECONDS
    for rounds in range(ROUNDS):
        if rounds >= ROUNDS_MIN and time.monotonic() > until:
            return rounds
        for side in sides:
            await side.measure(callers, calls)
    return ROUNDS


def _conclude(report: Report, sides: Mapping[str, Side], callers: int) -> None:
    bare = sides["bare"].medians(callers)
    for name, side in sides.items():
        medians = side.medians(callers)
        label = f"{name}_c{callers}"
        report.figure(f"{label}_p50_ms", statistics.median(medians) * 1000)
        everything = [sample for samples in side.seconds[callers] for sample in samples]
        report.figure(f"{label}_p99_ms", quantile(everything, 0.99) * 1000)
        report.figure(f"{label}_server_cpu_us", side.cpu_per_call(callers) * 1e6)
        if name != "bare":
            pairs = list(zip(medians, bare, strict=True))
            report.figure(f"{label}_over_bare", statistics.median(ours / theirs for ours, theirs in pairs))
            added = statistics.median(ours - theirs for ours, theirs in pairs)
            report.figure(f"{label}_added_p50_ms", added * 1000)


@asynccontextmanager
async def _sides(running: Stack) -> AsyncIterator[dict[str, Side]]:
    state, token = running.state, running.token
    processes = {name: psutil.Process(one.pid) for name, one in state.services.items() if one.pid}
    gateway, envoy = processes["gateway"], processes["envoy"]
    door = state.address.removeprefix("http://")
    bearer = (("authorization", f"Bearer {token}"),)
    async with AsyncExitStack() as entered:
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.calls", "bare", stdout=asyncio.subprocess.PIPE
        )
        entered.callback(server.kill)
        assert server.stdout is not None
        port = int(await server.stdout.readline())
        addresses = (f"127.0.0.1:{port}", f"127.0.0.1:{state.ports['gateway']}", door)
        channels = [
            await entered.enter_async_context(grpc.aio.insecure_channel(address)) for address in addresses
        ]
        bare, direct, plain = channels
        ours = await entered.enter_async_context(connect(door, lambda: token))
        web = await entered.enter_async_context(httpx.AsyncClient(trust_env=False))
        url, headers = f"{state.address}/v1/caller", {"authorization": f"Bearer {token}"}

        async def http() -> None:
            (await web.get(url, headers=headers)).raise_for_status()

        own = _get_caller(ours)
        node = scheduler.GetNodeRequest(name=await _a_node(plain, bearer))
        get_node = plain.unary_unary(
            GET_NODE, scheduler.GetNodeRequest.SerializeToString, node_pb2.Node.FromString
        )
        yield {
            "bare": Side(_with(_get_caller(bare)), [psutil.Process(server.pid)]),
            "direct": Side(_with(_get_caller(direct), bearer), [gateway]),
            "envoy": Side(_with(_get_caller(plain), bearer), [envoy, gateway]),
            "untraced": Side(
                _with(_get_caller(plain), (*bearer, ("traceparent", unsampled_traceparent()))),
                [envoy, gateway],
            ),
            "client": Side(lambda: own(identity.GetCallerRequest()), [envoy, gateway]),
            "http": Side(http, [envoy, gateway]),
            "read": Side(lambda: get_node(node, metadata=bearer), [envoy, processes["scheduler"], gateway]),
        }


def _get_caller(channel: grpc.aio.Channel) -> Callable[..., Awaitable[identity.Caller]]:
    return channel.unary_unary(
        GET_CALLER, identity.GetCallerRequest.SerializeToString, identity.Caller.FromString
    )


def _with(method: Callable[..., Awaitable[object]], metadata: Sequence[tuple[str, str]] = ()) -> Call:
    return lambda: method(identity.GetCallerRequest(), metadata=metadata)


async def _a_node(channel: grpc.aio.Channel, bearer: Sequence[tuple[str, str]]) -> str:
    list_nodes = channel.unary_unary(
        "/aios.scheduler.v1.SchedulerService/ListNodes",
        scheduler.ListNodesRequest.SerializeToString,
        scheduler.ListNodesResponse.FromString,
    )
    found = await list_nodes(scheduler.ListNodesRequest(), metadata=bearer)
    return str(found.nodes[0].name)


async def serve_bare() -> None:
    """The other side of the ratio: prints its port, answers until killed."""
    answer = identity.Caller(
        subject="operator", project="projects/default", role=identity_pb2.ROLE_ADMIN, operator=True
    )
    answer.expire_time.GetCurrentTime()

    async def get_caller(request: identity.GetCallerRequest, context: object) -> identity.Caller:
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        get_caller,
        identity.GetCallerRequest.FromString,
        identity.Caller.SerializeToString,
    )
    server = grpc.aio.server()
    service, _, method = GET_CALLER.removeprefix("/").partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve_bare() if sys.argv[1:] == ["bare"] else main())
