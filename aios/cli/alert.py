"""`aios alert`: rules on deployments that tell when they are broken."""

import click

from aios.cli import output
from aios.cli.output import Columns, Noun, common, connected, leaf, state
from aios.cli.serve import stamp
from aios.cli.serve_policies import Seconds

BOUNDS = {
    "errors": "{:g}%",
    "p99": "{:g} ms",
    "drift": "PSI {:g}",
    "live_accuracy": "{:.1%}",
    "no_replica": "",
}
ALERT: Columns = {
    "NAME": lambda a: leaf(a.name),
    "STATE": state,
    "DEPLOYMENT": lambda a: leaf(a.deployment),
    "RULE": lambda a: rule(a),
    "SINCE": lambda a: stamp(a.state_time),
    "WHY": lambda a: a.state_message,
    "WEBHOOK": lambda a: a.webhook,
    "LAST CALL": lambda a: a.delivery,
}


@click.group(cls=Noun)
def alert() -> None:
    """Alerts: rules on deployments that tell when they are broken."""


@alert.command()
@click.argument("name")
@click.option("--on", "deployment", required=True, metavar="DEPLOYMENT", help="What is watched.")
@click.option("--errors", type=float, metavar="PERCENT", help="More of the last minute's requests failed.")
@click.option("--p99", type=Seconds(), help="The last minute's 99th percentile is above this, such as 250ms.")
@click.option("--drift", type=float, metavar="PSI", help="A drift report finds more, such as 0.2.")
@click.option(
    "--accuracy", type=float, metavar="SHARE", help="Fewer of the newest answers were right, such as 0.9."
)
@click.option("--no-replica", is_flag=True, help="None answers.")
@click.option("--for", "for_seconds", type=Seconds(), default=0, help="How long, before it fires.")
@click.option("--every", "every_seconds", type=Seconds(), default=0, help="Between drift reports; 1h.")
@click.option("--webhook", default="", metavar="URL", help="https:// address that is told.")
@common
def create(
    name: str,
    deployment: str,
    errors: float | None,
    p99: float | None,
    drift: float | None,
    accuracy: float | None,
    no_replica: bool,
    for_seconds: float,
    every_seconds: float,
    webhook: str,
) -> None:
    """Add a rule: exactly one of --errors, --p99, --drift, --accuracy and --no-replica.

    \b
      aios alert create web-slow --on web --p99 250ms --for 1m --webhook https://chat.example.org/hooks/7
      aios alert create web-drifts --on web --drift 0.2 --every 6h
    """
    asked = {
        "errors": errors,
        "p99": None if p99 is None else 1000 * p99,
        "drift": drift,
        "live_accuracy": accuracy,
        "no_replica": 0.0 if no_replica else None,
    }
    given = [(metric, bound) for metric, bound in asked.items() if bound is not None]
    if len(given) != 1:
        raise click.UsageError("Say exactly one of --errors, --p99, --drift, --accuracy and --no-replica.")
    with connected() as client:
        made = client.monitoring.create_alert(
            name,
            deployment,
            *given[0],
            for_seconds=round(for_seconds),
            every_seconds=round(every_seconds),
            webhook=webhook,
        )
    output.emit(made, ALERT)
    if made.secret:
        output.notice(f"Calls are signed with {made.secret}: it is told only now.")


@alert.command("list")
@common
def list_() -> None:
    """The project's alerts, newest first."""
    with connected() as client:
        output.emit_list(
            client.monitoring.alerts(),
            ALERT,
            none="No alerts yet: `aios alert create NAME --on DEPLOYMENT --errors 5` makes one.",
        )


@alert.command()
@click.argument("name")
@common
def get(name: str) -> None:
    """One alert."""
    with connected() as client:
        output.emit(client.monitoring.alert(name), ALERT)


@alert.command()
@click.argument("name")
@common
def delete(name: str) -> None:
    """Remove an alert, and calls that are still to be made."""
    with connected() as client:
        client.monitoring.delete_alert(name)
    output.notice(f"{name} is removed.")


def rule(alert: object) -> str:
    """`errors 5% for 60 s`."""
    from aios.inference.v1.monitoring_pb2 import Alert

    assert isinstance(alert, Alert)
    metric = Alert.Metric.Name(alert.metric).removeprefix("METRIC_").lower()
    lasting = f"for {output.span(alert.for_seconds)}" if alert.for_seconds else ""
    return " ".join(filter(None, [metric.replace("_", " "), BOUNDS[metric].format(alert.threshold), lasting]))
