"""`aios job` and `aios node`."""

import sys
from collections.abc import Iterable

import click

from aios.cli import output
from aios.cli.explain import explain_job
from aios.cli.output import Columns, Noun, age, common, connected, leaf, short, size, span, state
from aios.cli.progress import Bar
from aios.scheduler.v1 import job_pb2

PLATFORM_FAILED = 125
"""Exit code of what was followed and ended without an exit code of its own."""
INTERRUPTED = 130

STATES = ("queued", "starting", "running", "stopping", "succeeded", "failed", "cancelled")
JOB: Columns = {
    "NAME": lambda j: leaf(j.name),
    "STATE": state,
    "OWNER": lambda j: short(j.spec.owner),
    "NODE": lambda j: leaf(j.attempt.node),
    "ATTEMPT": lambda j: j.epoch or "",
    "DONE": lambda j: done(j.progress),
    "WHY": lambda j: j.state_message or j.state_reason,
    "AGE": lambda j: age(j.create_time),
}
NODE: Columns = {
    "NAME": lambda n: leaf(n.name),
    "STATE": state,
    "CPU": lambda n: f"{n.allocated.cpu_millis / 1000:g}/{n.capacity.cpu_millis / 1000:g}",
    "MEMORY": lambda n: f"{size(n.allocated.memory_bytes)}/{size(n.capacity.memory_bytes)}",
    "ACCELERATORS": lambda n: " ".join(
        f"{kind}:{n.allocated.accelerators.get(kind, 0)}/{count}"
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
        output.emit_list(found, JOB, none="No jobs yet: `aios run submit` makes one.")


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
@common
def job_logs(name: str, follow: bool, attempt: int) -> None:
    """What a job wrote."""
    with connected() as client:
        write(client.jobs.logs(name, follow=follow, epoch=attempt))


@job.command("watch")
@click.argument("name")
@common
def watch_job(name: str) -> int:
    """Follow a job to its end; ends with 0 where it succeeded, else with its exit code. Ctrl-C leaves it running."""
    last = job_pb2.Job()
    with connected() as client:
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
