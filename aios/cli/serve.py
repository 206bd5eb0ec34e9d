"""`aios deploy` and `aios deployment`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from aios.cli import output
from aios.cli import serve_policies as policies
from aios.cli.job import write
from aios.cli.output import Columns, Noun, age, common, connected, leaf, short, state
from aios.cli.progress import Bar

if TYPE_CHECKING:
    from aios.common.v1.resources_pb2 import Resources

DEPLOYMENT: Columns = {
    "NAME": lambda d: leaf(d.name),
    "STATE": state,
    "MODEL": lambda d: short(d.spec.model_version),
    "LIVE": lambda d: leaf(d.live_revision),
    "LATEST": lambda d: leaf(d.latest_revision),
    "TRAFFIC": lambda d: shares(d.traffic),
    "REPLICAS": lambda d: d.spec.replicas or 1,
    "WHY": lambda d: d.state_message,
    "AGE": lambda d: age(d.create_time),
}
REVISION: Columns = {
    "REVISION": lambda r: leaf(r.name),
    "STATE": state,
    "MODEL": lambda r: short(r.spec.model_version),
    "GETS": lambda r: shares([r.traffic]),
    "LIVE SINCE": lambda r: stamp(r.live_time),
    "UNTIL": lambda r: stamp(r.retire_time),
    "REPLICAS": lambda r: " ".join(f"{leaf(each.job)}:{state(each)}" for each in r.replicas),
    "WHY": lambda r: r.state_message,
}
CHANGE: Columns = {
    "SINCE": lambda c: stamp(c.effect_time) or "never",
    "ASKED": lambda c: stamp(c.request_time),
    "TRAFFIC": lambda c: shares(c.shares) or "nobody",
    "WHY": lambda c: c.reason,
}
FIGURES: Columns = {
    "DEPLOYMENT": lambda f: f.revision.split("/")[3],
    "REVISION": lambda f: leaf(f.revision),
    "GETS": lambda f: shares([f.traffic]),
    "REPLICAS": lambda f: f"{f.replicas_ready}/{f.replicas_wanted}",
    "PER SECOND": lambda f: f"{f.requests_per_second:.1f}",
    "FAILED": lambda f: f"{100 * f.errors / f.requests:.1f}%" if f.requests else "",
    "P50 MS": lambda f: f"{f.p50_millis:.3g}",
    "P95 MS": lambda f: f"{f.p95_millis:.3g}",
    "P99 MS": lambda f: f"{f.p99_millis:.3g}",
    "AT ONCE": lambda f: f.in_flight,
    "QUEUE MS": lambda f: f"{f.queue_millis:.3g}",
    "COMPUTE MS": lambda f: f"{f.compute_millis:.3g}",
    "BATCH": lambda f: f"{f.batch_rows:.1f}" if f.batch_rows else "",
    "TOKENS/S": lambda f: f"{f.completion_tokens_per_second:.1f}" if f.completion_tokens_per_second else "",
    "RIGHT": lambda f: right(f),
}
PAYLOADS: Columns = {
    "DEPLOYMENT": lambda s: leaf(s.deployment),
    "KEPT": lambda s: s.rows,
    "DROPPED": lambda s: s.dropped,
    "IN NO VERSION YET": lambda s: s.rows_waiting,
    "NEWEST": lambda s: stamp(s.newest_time),
    "VERSION": lambda s: short(s.latest_version),
}
FIRST = "No deployments yet: `aios deploy MODEL/VERSION --name NAME` makes one."


@click.command()
@click.argument("model_version")
@click.option("--name", required=True, help="What clients call it.")
@click.option("--replicas", default=0, help="How many servers; 1 where not given.")
@click.option("--batch-delay", default=0, metavar="MICROSECONDS", help="Longest wait to fill a batch.")
@click.option("--cpu", default="0", metavar="CORES", help="Of each server; 0.5 where not given.")
@click.option("--memory", default="0", metavar="BYTES", help="Of each server: 3Gi; 512Mi where not given.")
@policies.rollout
@policies.scaling
@policies.payload_log
@click.option("--wait", is_flag=True, help="Return when it answers, or its trial has ended.")
@common
def deploy(
    model_version: str,
    name: str,
    replicas: int,
    batch_delay: int,
    cpu: str,
    memory: str,
    wait: bool,
    **options: Any,
) -> None:
    """Serve MODEL_VERSION (digits/3, digits/@champion) under a name.

    A name that is in use is updated: the new revision takes over once it answers, or after a trial.

    \b
      aios deploy digits/4 --name web --strategy canary --steps 10,50 --step 60s --max-p99 250ms
      aios deploy digits/4 --name web --strategy shadow            (then: aios deployment promote web)
      aios deploy digits/4 --name web --min 0 --max 4              (by load; asleep without requests)
      aios deploy digits/4 --name web --keep 5 --redact input.name (keep 5% of the predictions)
    """
    with connected() as client, Bar() as bar:
        made = client.deployments.deploy(
            model_version,
            name,
            replicas=replicas,
            resources=_resources(cpu, memory),
            batch_delay_micros=batch_delay,
            rollout=policies.rollout_of(options),
            scaling=policies.scaling_of(options),
            payload_log=policies.payload_log_of(options),
            wait=wait,
            progress=lambda d: bar.update(f"{leaf(d.name)} {state(d)}", detail=d.state_message),
        )
    output.emit(made, DEPLOYMENT)


def _resources(cpu: str, memory: str) -> "Resources":
    from aios.client.runspec import amount
    from aios.common.v1.resources_pb2 import Resources

    return Resources(cpu_millis=amount(cpu, "cpu", 1000), memory_bytes=amount(memory, "memory"))


@click.group(cls=Noun)
def deployment() -> None:
    """Deployments: models behind stable names."""


@deployment.command("list")
@common
def list_() -> None:
    """The project's deployments."""
    with connected() as client:
        output.emit_list(client.deployments.list(), DEPLOYMENT, none=FIRST)


@deployment.command()
@click.argument("name")
@common
def get(name: str) -> None:
    """One deployment."""
    with connected() as client:
        output.emit(client.deployments.get(name), DEPLOYMENT)


@deployment.command()
@click.argument("name")
@common
def status(name: str) -> None:
    """Where a deployment stands: who gets which share and why, and what its revisions do now."""
    with connected() as client:
        found = client.deployments.get(name)
        running = [
            each for each in client.deployments.figures() if each.revision.startswith(f"{found.name}/")
        ]
    if output.shared().output != "table":
        output.emit_data(
            {"deployment": output.to_data(found), "figures": [output.to_data(each) for each in running]}, []
        )
        return
    output.emit(found, {**DEPLOYMENT, "SINCE": lambda d: d.traffic_reason})
    if running:
        output.emit_list(iter(running), FIGURES, none="")


@deployment.command()
@click.argument("name")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait for it at the most.")
@common
def watch(name: str, timeout: float) -> None:
    """Follow a deployment until its newest revision answers, or cannot."""
    with connected() as client, Bar() as bar:
        found = client.deployments.wait(
            name,
            seconds=timeout,
            progress=lambda d: bar.update(f"{leaf(d.name)} {state(d)}", detail=d.state_message),
        )
    output.emit(found, DEPLOYMENT)


@deployment.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until its server has ended.")
@click.option("--revision", default=0, help="The newest where not given.")
@click.option("--replica", default=0, show_default=True, help="Which of its servers, from 0.")
@common
def logs(name: str, follow: bool, revision: int, replica: int) -> None:
    """What a server of a deployment wrote."""
    from aios.errors import NotFound

    with connected() as client:
        for found in client.deployments.history(name):
            if revision in (0, int(leaf(found.name))):
                break
        else:
            raise NotFound(
                f"{name} has no revision {revision or 'yet'}: see `aios deployment history {name}`."
            )
        if replica >= len(found.replicas):
            raise NotFound(
                f"Revision {leaf(found.name)} of {name} has {len(found.replicas)} servers now: "
                f"see `aios deployment history {name}`; `aios job logs` shows those that have ended."
            )
        write(client.jobs.logs(found.replicas[replica].job, follow=follow))


@deployment.command()
@click.argument("name")
@click.option("--traffic", is_flag=True, help="Every change of who gets which share, with times and reasons.")
@common
def history(name: str, traffic: bool) -> None:
    """The revisions of a deployment, or its traffic: what was live when."""
    with connected() as client:
        if traffic:
            output.emit_list(client.deployments.traffic(name), CHANGE, none="No traffic yet.")
        else:
            output.emit_list(client.deployments.history(name), REVISION, none="No revision yet.")


@deployment.command()
@click.argument("name")
@click.argument("replicas", type=int, required=False)
@policies.scaling
@common
def scale(name: str, replicas: int | None, **options: Any) -> None:
    """Set how many servers there are now, or by which rule (--max 0 ends one). No new revision is made."""
    rule = policies.scaling_of(options)
    if replicas is None and rule is None:
        raise click.UsageError("Say how many, or --min and --max.")
    with connected() as client:
        output.emit(client.deployments.scale(name, replicas, scaling=rule), DEPLOYMENT)


@deployment.command()
@click.argument("name")
@common
def promote(name: str) -> None:
    """Give the revision on trial all requests now."""
    with connected() as client:
        output.emit(client.deployments.promote(name), DEPLOYMENT)


@deployment.command()
@click.argument("name")
@click.option("--to", "revision", default=0, metavar="REVISION", help="The one before where not given.")
@click.option("--reason", default="", help="For the history.")
@common
def rollback(name: str, revision: int, reason: str) -> None:
    """End a trial at once; without one, let a former revision's spec take over again."""
    with connected() as client:
        output.emit(client.deployments.rollback(name, revision, reason), DEPLOYMENT)


@deployment.command()
@click.argument("name")
@common
def pause(name: str) -> None:
    """Keep a trial at its step. Its gates still roll it back."""
    with connected() as client:
        output.emit(client.deployments.pause(name), DEPLOYMENT)


@deployment.command()
@click.argument("name")
@common
def resume(name: str) -> None:
    """Let trials go on by themselves again."""
    with connected() as client:
        output.emit(client.deployments.resume(name), DEPLOYMENT)


@deployment.command()
@click.argument("name")
@click.argument("revision", type=int)
@click.argument("figures", nargs=-1, required=True, metavar="NAME=FIGURE...")
@common
def quality(name: str, revision: int, figures: tuple[str, ...]) -> None:
    """Say how good a revision's answers are: what `aios deploy --min-quality` is compared with."""
    reported = dict(policies.quality_figure(each) for each in figures)
    with connected() as client:
        output.emit(client.deployments.report_quality(name, revision, reported), REVISION)


@deployment.command()
@click.argument("name")
@common
def payloads(name: str) -> None:
    """How many predictions were kept (`aios deploy --keep`), where, and how many there was no room for."""
    with connected() as client:
        output.emit(client.monitoring.payload_log(name), PAYLOADS)


@deployment.command()
@click.argument("name")
@click.argument("truths", nargs=-1, required=True, metavar="PREDICTION=TRUTH...")
@click.option("--instance", default=0, help="Which instance of each request, from 0.")
@common
def feedback(name: str, truths: tuple[str, ...], instance: int) -> None:
    """Say what predictions should have been, by trace id or the request's own: the right class, or the right number."""
    said: dict[str, str | float] = {}
    for each in truths:
        prediction, sign, truth = each.rpartition("=")
        if not sign or not prediction or not truth:
            raise click.UsageError(f"{each!r} is no PREDICTION=TRUTH.")
        said[prediction] = truth
    with connected() as client:
        answer = client.monitoring.feedback(name, said, instance=instance)
    output.emit_data(
        output.to_data(answer), [("compared", answer.joined), ("waiting for their answers", answer.waiting)]
    )


@deployment.command()
@click.argument("name")
@common
def delete(name: str) -> None:
    """Take a deployment down: routes first, then its servers."""
    with connected() as client:
        client.deployments.delete(name)
    output.notice(f"{name} is being taken down.")


deployment.add_command(deploy, "create")


def right(found: Any) -> str:
    """Live quality: `97.5% of 200`, or `off by 0.31 of 200` where answers are numbers."""
    if found.HasField("live_accuracy"):
        return f"{100 * found.live_accuracy:.1f}% of {found.feedback}"
    return f"off by {found.live_mae:.3g} of {found.feedback}" if found.HasField("live_mae") else ""


def shares(found: Iterable[Any]) -> str:
    """Who gets what: `2:10% 1:90%`, and copies as `2:copies of 100%`."""
    return " ".join(
        f"{leaf(each.revision)}:"
        + (f"copies of {each.mirror_percent}%" if each.mirror_percent else f"{each.percent}%")
        for each in found
        if each.percent or each.mirror_percent
    )


def stamp(time: Any) -> str:
    """A Timestamp, in UTC."""
    return time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S") if time.seconds else ""
