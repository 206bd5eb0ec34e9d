"""`aios job` and `aios node`."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aios.cli import bars, output
from aios.cli.explain import explain_job
from aios.cli.output import Columns, Noun, age, common, connected, leaf, short, size, span, state
from aios.cli.progress import Bar
from aios.scheduler.v1 import job_pb2

if TYPE_CHECKING:
    from aios.client import Client

PLATFORM_FAILED = 125
"""Exit code of what was followed and ended without an exit code of its own."""
INTERRUPTED = 130

STATES = ("queued", "starting", "running", "stopping", "succeeded", "failed", "cancelled")
JOB: Columns = {
    "NAME": lambda j: leaf(j.name),
    "STATE": state,
    "OWNER": lambda j: short(j.spec.owner),
    "NODE": lambda j: where(j.attempt),
    "ATTEMPT": lambda j: j.epoch or "",
    "DONE": lambda j: done(j.progress),
    "WHY": lambda j: j.state_message or j.state_reason,
    "AGE": lambda j: age(j.create_time),
}
NODE: Columns = {
    "NAME": lambda n: leaf(n.name),
    "STATE": lambda n: "draining" if n.draining else "cordoned" if n.cordoned else state(n),
    "CPU": lambda n: f"{n.allocated.cpu_millis / 1000:g}/{n.capacity.cpu_millis / 1000:g}",
    "MEMORY": lambda n: f"{size(n.allocated.memory_bytes)}/{size(n.capacity.memory_bytes)}",
    "ACCELERATORS": lambda n: " ".join(
        f"{kind}:{bars.named(n.allocated).get(kind, 0):g}/{count}"
        for kind, count in sorted(n.capacity.accelerators.items())
    ),
    "SANDBOX": lambda n: n.labels.get("sandbox", ""),
    "LABELS": lambda n: " ".join(
        f"{name}={value}" for name, value in sorted(n.labels.items()) if name != "sandbox"
    ),
    "HEARD": lambda n: age(n.heartbeat_time),
}


@click.group(cls=Noun)
def job() -> None:
    """Jobs: what runs on the pool, training and serving alike."""


@job.command("create")
@click.option("-f", "--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="job.yaml")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Replace a value: resources.cpu=2"
)
@click.option("--name", help="The job's name; one is made up where none is given.")
@click.option("--cpu", help="Cores: 2, or 0.5; 1 where not given.")
@click.option("--memory", help="512MiB, 4Gi; 1Gi where not given.")
@click.option("--gpus", metavar="N", help="Devices of any type, or a share of one: 0.5.")
@click.option("--env", "environment", multiple=True, metavar="NAME=VALUE", help="For the process; repeat it.")
@click.option("--priority", help="-100 to 100; higher goes first under the policies that look at it.")
@click.option("--queue", help="Queue that it is counted in; the project's own otherwise.")
@click.option(
    "--service", is_flag=True, help="It runs until it is cancelled, and is started again when it ends."
)
@click.option("--dry-run", is_flag=True, help="Say whether it would be accepted, and make nothing.")
@click.option("--wait", is_flag=True, help="Follow it to its end, and end with its exit code.")
@click.option("--follow", is_flag=True, help="The same, with what it writes.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@common
def create_job(
    file: Path | None,
    assignments: tuple[str, ...],
    wait: bool,
    follow: bool,
    dry_run: bool,
    environment: tuple[str, ...],
    service: bool,
    command: tuple[str, ...],
    **said: str | None,
) -> int | None:
    """Put a COMMAND on the pool: `aios job create --cpu 2 -- python -c 'print(1)'`, or what job.yaml says.

    It runs as it stands, with no code, data or record of its own: `aios run submit` is for training.
    """
    from aios.cli.run import assigned, load
    from aios.client.runspec import override

    if file is None and not command:
        raise click.UsageError("Give -f job.yaml, or a command: `aios job create -- sleep 60`.")
    spec = load(file, (), {"command": list(command)} if command else {})
    if environment:
        spec["environment"] = {**(spec.get("environment") or {}), **_variables(environment)}
    if service:
        spec["kind"] = "service"
    spec = override(spec, {**_placed(said), **assigned(assignments)})
    with connected() as client:
        made = client.jobs.create(spec, dry_run=dry_run)
        if dry_run:
            output.notice("It would be accepted.")
            return None
        if not (wait or follow):
            output.emit(made, JOB)
            output.notice(f"Follow it with `aios job watch {leaf(made.name)}`.")
            return None
        output.notice(f"Submitted {leaf(made.name)}.")
        if follow:
            write(client.jobs.logs(made.name, follow=True))
        return _watched(client, made.name)


PLACES = {"cpu": "resources.cpu", "memory": "resources.memory", "gpus": "resources.accelerators.gpu"}
"""Options to where a job.yaml says the same; the others have their own name there."""


def _placed(said: Mapping[str, str | None]) -> dict[str, Any]:
    import yaml

    given = {PLACES.get(key, key): value for key, value in said.items() if value is not None}
    return {
        key: value if key in ("name", "queue", "resources.memory") else yaml.safe_load(value)
        for key, value in given.items()
    }


def _variables(given: Iterable[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    for name, sign, value in pairs:
        if not (name and sign):
            raise click.UsageError(f"--env must look like NAME=VALUE, not {name + sign + value!r}.")
    return {name: value for name, _, value in pairs}


@job.command("list")
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@click.option(
    "--state", "states", type=click.Choice(STATES), multiple=True, help="Only jobs in this state; repeat it."
)
@common
def list_jobs(limit: int, states: tuple[str, ...]) -> None:
    """The project's jobs, newest first."""
    from aios.scheduler.v1 import job_pb2

    wanted = [job_pb2.Job.State.Value(f"STATE_{each.upper()}") for each in states]
    with connected() as client:
        found = client.jobs.list(limit, wanted)
        output.emit_list(found, JOB, none="No jobs yet: `aios job create -- COMMAND` makes one.")


@job.command("get")
@click.argument("name")
@common
def get_job(name: str) -> None:
    """One job."""
    with connected() as client:
        output.emit(client.jobs.get(name), JOB)


job.add_command(explain_job, "explain")


@job.command("logs")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--attempt", default=0, help="An earlier attempt.")
@click.option("--rank", default=0, help="Of a gang: whose output, the first's unless it is said.")
@common
def job_logs(name: str, follow: bool, attempt: int, rank: int) -> None:
    """What a job wrote."""
    with connected() as client:
        write(client.jobs.logs(name, follow=follow, epoch=attempt, rank=rank))


@job.command("watch")
@click.argument("name")
@common
def watch_job(name: str) -> int:
    """Follow a job to its end; ends with 0 where it succeeded, else with its exit code. Ctrl-C leaves it running."""
    with connected() as client:
        return _watched(client, name)


def _watched(client: "Client", name: str) -> int:
    last = job_pb2.Job()
    try:
        with Bar() as bar:
            for last in client.jobs.follow(name):
                why = last.state_message or last.state_reason
                bar.update(
                    f"{leaf(last.name)} {state(last)}",
                    last.progress.step,
                    last.progress.total_steps or None,
                    done(last.progress) or why,
                )
    except KeyboardInterrupt:
        output.notice(f"\nIt goes on. Follow it again with `aios job watch {leaf(name)}`.")
        return INTERRUPTED
    output.emit(last, JOB)
    return 0 if state(last) == "succeeded" else last.attempt.exit_code or PLATFORM_FAILED


@job.command("cancel")
@click.argument("name")
@common
def cancel_job(name: str) -> None:
    """Ask a job to stop."""
    with connected() as client:
        output.emit(client.jobs.cancel(name), JOB)


@click.group(cls=Noun)
def node() -> None:
    """The machines of the pool."""


@node.command("list")
@common
def list_nodes() -> None:
    """The machines, by name."""
    with connected() as client:
        output.emit_list(
            client.jobs.nodes(), NODE, none="No machine has joined yet: `aios status` shows the agent."
        )


@node.command("get")
@click.argument("name")
@common
def get_node(name: str) -> None:
    """One machine."""
    with connected() as client:
        output.emit(client.jobs.node(name), NODE)


@node.command("cordon")
@click.argument("name")
@common
def cordon(name: str) -> None:
    """Give a machine no new jobs; what runs there goes on. Operators only."""
    _operate(name, "cordoned", cordoned=True)


@node.command("uncordon")
@click.argument("name")
@common
def uncordon(name: str) -> None:
    """Give a machine jobs again, also after a drain."""
    _operate(name, "cordoned", "draining")


@node.command("drain")
@click.argument("name")
@common
def drain(name: str) -> None:
    """Give a machine no new jobs, and move those that run there: each is asked to save its work and starts elsewhere."""
    _operate(name, "draining", draining=True)


@node.command("taint")
@click.argument("name")
@click.argument("taints", nargs=-1, required=True)
@common
def taint(name: str, taints: tuple[str, ...]) -> None:
    """Keep away jobs that do not tolerate it: `aios node taint a dedicated=lab`; `dedicated-` ends that."""
    from aios.scheduler.v1 import node_pb2

    with connected() as client:
        found = dict(client.jobs.node(name).taints)
        for each in taints:
            key, equals, value = each.partition("=")
            if equals and key and value:
                found[key] = value
            elif not equals and each.endswith("-") and each[:-1] in found:
                del found[each[:-1]]
            else:
                known = ", ".join(sorted(found)) or "none"
                raise click.UsageError(
                    f"{each!r} is neither name=value nor a taint with `-`; it has {known}."
                )
        node = node_pb2.Node(name=f"nodes/{leaf(name)}", taints=found)
        output.emit(client.jobs.operate(node, "taints"), NODE)


def _operate(name: str, *fields: str, cordoned: bool = False, draining: bool = False) -> None:
    from aios.scheduler.v1 import node_pb2

    with connected() as client:
        node = node_pb2.Node(name=f"nodes/{leaf(name)}", cordoned=cordoned, draining=draining)
        output.emit(client.jobs.operate(node, *fields), NODE)


def where(attempt: job_pb2.Attempt) -> str:
    """Where it runs: of a gang each node, with how many replicas it has of it."""
    if not attempt.replicas:
        return leaf(attempt.node)
    counts = Counter(leaf(each.node) for each in attempt.replicas)
    return " ".join(f"{name}x{count}" if count > 1 else name for name, count in counts.items())


def done(progress: job_pb2.JobProgress) -> str:
    """How far a job is, and what it needs to the end at the speed of late."""
    if not progress.total_steps:
        return str(progress.step or "")
    share = f"{min(1.0, progress.step / progress.total_steps):.0%}"
    left = progress.total_steps - progress.step
    if left <= 0 or not progress.steps_per_second:
        return share
    return f"{share}, {span(left / progress.steps_per_second)} left"


def write(pieces: Iterable[bytes]) -> None:
    """Copy log bytes to stdout as they come."""
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
