"""`sweep.yaml`: what to search, read strictly. Pure. The run inside it is a run.yaml: see `runspec`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError

from aios.client import runspec
from aios.errors import InvalidArgument
from aios.trainer.v1 import sweep_pb2

KEYS = (
    "name", "run", "space", "metric", "goal", "objectives", "sampler", "pruner", "parallelism", "budget", "first",
    "last", "description",
)  # fmt: skip
RANGE_KEYS = ("low", "high", "log", "step", "whole", "when")
CHOICE_KEYS = ("values", "when")
BUDGET_KEYS = ("trials", "steps", "time")
GOALS = {"maximize": sweep_pb2.Objective.GOAL_MAXIMIZE, "minimize": sweep_pb2.Objective.GOAL_MINIMIZE}


@dataclass(frozen=True)
class SweepFile:
    """One file's content."""

    spec: sweep_pb2.SweepSpec
    sweep_id: str = ""
    """The sweep's name; made up by the service when empty."""
    code: str = ""
    """Folder with the code of the run's command, as written: relative to the file."""
    requirements: str = ""
    """File with the lock of its packages, in that folder."""


def parse(given: Mapping[str, Any]) -> SweepFile:
    """Read a sweep as a mapping.

    Raises:
        InvalidArgument: naming the wrong keys.
    """
    problems: dict[str, str] = {}
    runspec.unknown(given, KEYS, "", problems)
    if not isinstance(given.get("run"), Mapping):
        problems["run"] = "is required: what a run.yaml says, such as {recipe: mlp, dataset: digits}"
    if not isinstance(given.get("space"), Mapping) or not given["space"]:
        problems["space"] = (
            "is required: hyperparameters with {low: 0.001, high: 0.1, log: true} or [1, 2, 4]"
        )
    for key in ("name", "metric", "description"):
        if given.get(key) is not None and not isinstance(given[key], str):
            problems[key] = f"must be text, not {given[key]!r}"
    parallelism = given.get("parallelism", 0)
    if not isinstance(parallelism, int) or isinstance(parallelism, bool) or parallelism < 0:
        problems["parallelism"] = f"must be a whole number, not {parallelism!r}"
    if problems:
        raise runspec.refusal(problems)
    run = runspec.parse(given["run"])
    spec = sweep_pb2.SweepSpec(
        run=run.spec,
        parameters=[_parameter(str(name), domain, problems) for name, domain in given["space"].items()],
        objectives=_objectives(given, problems),
        parallelism=parallelism,
        description=given.get("description") or "",
    )
    for key, message in (("sampler", spec.sampler), ("pruner", spec.pruner)):
        found = given.get(key)
        _read({"kind": found} if isinstance(found, str) else found or {}, message, key, problems)
    _budget(given.get("budget") or {}, spec.budget, problems)
    for index, values in enumerate(given.get("first") or []):
        _read(values, spec.first.add(), f"first[{index}]", problems)
    if given.get("last"):
        spec.last.CopyFrom(runspec.parse(given["last"]).spec)
    if problems:
        raise runspec.refusal(problems)
    return SweepFile(spec, given.get("name") or "", run.code, run.requirements)


def _parameter(name: str, domain: object, problems: dict[str, str]) -> sweep_pb2.Parameter:
    parameter = sweep_pb2.Parameter(name=name)
    if isinstance(domain, list):
        domain = {"values": domain}
    if not isinstance(domain, Mapping) or ("values" in domain) is ("low" in domain or "high" in domain):
        problems[f"space.{name}"] = "must be a list of values, or {low: ..., high: ...}"
        return parameter
    for other, values in (domain.get("when") or {}).items():
        _read(
            values if isinstance(values, list) else [values],
            parameter.when[other],
            f"space.{name}.when",
            problems,
        )
    if "values" in domain:
        runspec.unknown(domain, CHOICE_KEYS, f"space.{name}.", problems)
        _read(domain["values"], parameter.values, f"space.{name}.values", problems)
        return parameter
    runspec.unknown(domain, RANGE_KEYS, f"space.{name}.", problems)
    ends = {key: domain.get(key) for key in ("low", "high")}
    for key, end in ends.items():
        if isinstance(end, bool) or not isinstance(end, int | float):
            problems[f"space.{name}.{key}"] = f"must be a number, not {end!r}"
            return parameter
    whole = domain.get(
        "whole", all(isinstance(each, int) for each in (*ends.values(), domain.get("step", 0)))
    )
    given = {**ends, "whole": whole, **{key: domain[key] for key in ("log", "step") if key in domain}}
    _read(given, parameter.range, f"space.{name}", problems)
    return parameter


def _objectives(given: Mapping[str, Any], problems: dict[str, str]) -> list[sweep_pb2.Objective]:
    several = given.get("objectives")
    if bool(several) is bool(given.get("metric")):
        problems["metric"] = "is required, or `objectives`: [{metric: accuracy, goal: maximize}, ...]"
        return []
    found = several if several else [{"metric": given["metric"], "goal": given.get("goal", "maximize")}]
    made = []
    for index, each in enumerate(found):
        goal = each.get("goal", "maximize") if isinstance(each, Mapping) else None
        if goal not in GOALS or not isinstance(each.get("metric"), str):
            problems[f"objectives[{index}]"] = "must be like {metric: accuracy, goal: maximize or minimize}"
        else:
            made.append(sweep_pb2.Objective(metric=each["metric"], goal=GOALS[goal]))
    return made


def _budget(given: object, budget: sweep_pb2.Budget, problems: dict[str, str]) -> None:
    if not isinstance(given, Mapping):
        problems["budget"] = f"must be keys with values: {', '.join(BUDGET_KEYS)}"
        return
    runspec.unknown(given, BUDGET_KEYS, "budget.", problems)
    plain = {key: given[key] for key in ("trials", "steps") if key in given}
    _read(plain, budget, "budget", problems)
    if given.get("time") is not None:
        try:
            budget.time.FromTimedelta(runspec.span(given["time"], "budget.time"))
        except InvalidArgument as error:
            problems.update(error.fields)


def _read(given: Any, message: Any, path: str, problems: dict[str, str]) -> None:
    try:
        ParseDict(given, message)
    except (ParseError, ValueError, TypeError, AttributeError) as error:
        problems[path] = f"cannot be read: {' '.join(str(error).split())}"
