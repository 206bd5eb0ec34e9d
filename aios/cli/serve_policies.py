"""Options of `aios deploy` and `aios deployment scale`: how a revision takes over, and how many servers there are."""

import re
from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from aios.inference.v1 import deployment_pb2

STRATEGIES = ("rolling", "blue-green", "canary", "shadow")
Command = Callable[..., Any]
_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A time: `250ms`, `30s`, `5m`, `2h`; seconds without a unit."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", str(value))
        if found is None:
            self.fail(f"{value!r} is no time: write 250ms, 30s or 5m", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


class Steps(click.ParamType):  # type: ignore[type-arg]
    """Shares in percent: `10,50`."""

    name = "shares"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part.strip().removesuffix("%")) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} are no shares: write 10,50", param, ctx)


def rollout(command: Command) -> Command:
    """Add the options of `rollout_of`."""
    return _with(
        command,
        click.option("--strategy", type=click.Choice(STRATEGIES), help="Rolling where not given."),
        click.option("--steps", type=Steps(), default=(), help="Of a canary: its shares in percent: 10,50."),
        click.option("--step", "step_seconds", type=Seconds(), default=0, help="A step's least time."),
        click.option("--mirror", default=0, metavar="PERCENT", help="Of a shadow: how much is copied."),
        click.option("--affinity", default="", metavar="HEADER", help="Same value, same revision."),
        click.option("--requests", default=0, help="How many a step must have answered."),
        click.option("--max-errors", default=0.0, metavar="PERCENT", help="Above the live one's; 1."),
        click.option("--max-p99", type=Seconds(), default=0, help="Its 99th percentile, such as 250ms."),
        click.option(
            "--max-slowdown", default=0.0, metavar="TIMES", help="Of the live one's 99th percentile."
        ),
        click.option("--min-quality", multiple=True, metavar="NAME=FIGURE", help="See `deployment quality`."),
    )


def scaling(command: Command) -> Command:
    """Add the options of `scaling_of`."""
    return _with(
        command,
        click.option("--min", "least", type=int, help="Servers at the least; 0 sleeps without requests."),
        click.option("--max", "most", type=int, help="Servers at the most."),
        click.option("--concurrency", default=0.0, help="Requests at a time for one server; 8."),
        click.option(
            "--scale-p99", type=Seconds(), default=0, help="Add servers above this 99th percentile."
        ),
        click.option("--idle", type=Seconds(), default=0, help="Without requests until it sleeps; 5m."),
    )


def payload_log(command: Command) -> Command:
    """Add the options of `payload_log_of`."""
    return _with(
        command,
        click.option(
            "--keep", "keep_percent", default=0.0, metavar="PERCENT", help="Of the predictions, as a dataset."
        ),
        click.option(
            "--redact",
            multiple=True,
            metavar="TENSOR",
            help="Never kept: input.age; one element: input.x[3]; as a digest: input.email#.",
        ),
        click.option(
            "--keep-window", type=Seconds(), default=0, help="What one version of the dataset holds; 5m."
        ),
    )


def payload_log_of(options: Mapping[str, Any]) -> "deployment_pb2.PayloadLog | None":
    """The policy that the options say; None where nothing is kept."""
    if not options["keep_percent"] and not options["redact"] and not options["keep_window"]:
        return None
    from aios.inference.v1 import deployment_pb2 as pb

    return pb.PayloadLog(
        sample_rate=options["keep_percent"] / 100,
        redact=options["redact"],
        window_seconds=round(options["keep_window"]),
    )


def rollout_of(options: Mapping[str, Any]) -> "deployment_pb2.RolloutPolicy | None":
    """The policy that the options say; None where they name no strategy."""
    if options["strategy"] is None:
        return None
    from aios.inference.v1 import deployment_pb2 as pb

    kind = f"KIND_{options['strategy'].replace('-', '_').upper()}"
    return pb.RolloutPolicy(
        kind=pb.RolloutPolicy.Kind.Value(kind),
        steps=options["steps"],
        step_seconds=round(options["step_seconds"]),
        mirror_percent=options["mirror"],
        affinity_header=options["affinity"],
        gates=pb.Gates(
            requests_min=options["requests"],
            errors_percent_max=options["max_errors"],
            p99_millis_max=1000 * options["max_p99"],
            slowdown_max=options["max_slowdown"],
            quality_min=dict(quality_figure(each) for each in options["min_quality"]),
        ),
    )


def scaling_of(options: Mapping[str, Any]) -> "deployment_pb2.ScalingPolicy | None":
    """The policy that the options say; None where they say no number."""
    least, most = options["least"], options["most"]
    if least is None and most is None:
        return None
    from aios.inference.v1 import deployment_pb2 as pb

    if least is None:
        least = min(1, most)
    return pb.ScalingPolicy(
        min_replicas=least,
        max_replicas=max(1, least) if most is None else most,
        target_concurrency=options["concurrency"],
        target_p99_millis=1000 * options["scale_p99"],
        idle_seconds=round(options["idle"]),
    )


def quality_figure(text: str) -> tuple[str, float]:
    """`accuracy=0.97` as a name and a figure."""
    name, _, figure = text.partition("=")
    try:
        return name, float(figure)
    except ValueError:
        raise click.UsageError(f"{text!r} is no NAME=FIGURE, such as accuracy=0.97.") from None


def _with(command: Command, *options: Callable[[Command], Command]) -> Command:
    return reduce(lambda made, option: option(made), reversed(options), command)
