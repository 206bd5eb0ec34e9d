"""Protos to sweeps and back."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import ListValue, Struct
from google.protobuf.timestamp_pb2 import Timestamp

from aios.errors import InvalidArgument
from aios.runtime.telemetry import trace_id_of
from aios.trainer.v1 import run_pb2, sweep_pb2
from services.trainer import catalog
from services.trainer import mapping as run_mapping
from services.trainer.runs import RunSpec
from services.trainer.sweeps import rules, space
from services.trainer.sweeps.rules import Budget, Objective, Pruner, Sampler, Sweep, SweepSpec, Trial
from services.trainer.sweeps.space import Choice, Parameter, Range, Values

PATH = "sweep.spec"
POPULATION = 8


def spec_from_proto(asked: sweep_pb2.SweepSpec) -> SweepSpec:
    """The search with every default filled in.

    Raises:
        InvalidArgument: naming the wrong field.
    """
    sampler, pruner, budget = asked.sampler, asked.pruner, asked.budget
    kind = sampler.kind or "tpe"
    time = budget.time.ToTimedelta() if budget.HasField("time") else None
    limited = budget.steps or time is not None
    spec = SweepSpec(
        space=[_parameter(each, index) for index, each in enumerate(asked.parameters)],
        objectives=[
            Objective(each.metric, each.goal != sweep_pb2.Objective.GOAL_MINIMIZE)
            for each in asked.objectives
        ],
        sampler=Sampler(
            kind=kind,
            seed=sampler.seed,
            startup=sampler.startup or (POPULATION if kind == "population" else 10),
            interval=sampler.interval or 5,
            quantile=sampler.quantile or 0.25,
        ),
        pruner=Pruner(
            kind=pruner.kind or "none",
            first=pruner.first or 1,
            reduction=pruner.reduction or 3,
            last=pruner.last,
            startup=pruner.startup or 5,
        ),
        parallelism=asked.parallelism or rules.PARALLELISM,
        first=[run_mapping.whole_numbers(MessageToDict(each)) for each in asked.first],
        budget=Budget(budget.trials or (rules.TRIALS_MAX if limited else rules.TRIALS), budget.steps, time),
    )
    rules.check(spec, PATH)
    return spec


def run_spec(asked: sweep_pb2.SweepSpec, values: Values) -> RunSpec:
    """What a trial with these values runs.

    Args:
        asked: With full versions, as they are stored.

    Raises:
        InvalidArgument: a value that the recipe refuses.
    """
    run = run_pb2.RunSpec()
    run.CopyFrom(asked.run)
    run.hyperparameters.update(dict(values))
    return run_mapping.spec_from_proto(run, _versions(run))


def last_spec(asked: sweep_pb2.SweepSpec, outputs: Mapping[str, str]) -> RunSpec:
    """What runs after all trials, with what the best of them left."""
    made = run_mapping.spec_from_proto(asked.last, _versions(asked.last))
    return replace(made, dataset_versions={**made.dataset_versions, **outputs})


def _versions(run: run_pb2.RunSpec) -> dict[str, str]:
    named = {each: getattr(run, each) for each in ("dataset", "code", "base_model", "requirements")}
    named |= {f"datasets.{key}": version for key, version in run.datasets.items()}
    return {field: version for field, version in named.items() if version}


def check_values(asked: sweep_pb2.SweepSpec, spec: SweepSpec) -> None:
    """Refuse hyperparameters that the recipe does not have, and ends of ranges that it refuses.

    Raises:
        InvalidArgument: naming the parameter.
    """
    if not asked.run.recipe:
        return
    known = catalog.recipe(asked.run.recipe).settings
    for index, parameter in enumerate(spec.space):
        path = f"{PATH}.parameters[{index}]"
        if parameter.name not in known:
            near = catalog.likely(parameter.name, known)
            raise InvalidArgument.of(f"{path}.name", f"{asked.run.recipe} has no such setting{near}")
        domain = parameter.domain
        ends = domain.values if isinstance(domain, Choice) else (domain.at(0.0), domain.at(1.0))
        for value in ends:
            known[parameter.name].read(f"{path}.{parameter.name}", value)


def _parameter(asked: sweep_pb2.Parameter, index: int) -> Parameter:
    path = f"{PATH}.parameters[{index}]"
    domain: Range | Choice
    if asked.WhichOneof("domain") == "range":
        given = asked.range
        domain = Range(given.low, given.high, given.log, given.step, given.whole)
    elif asked.WhichOneof("domain") == "values":
        domain = Choice(_plain(asked.values, f"{path}.values"))
    else:
        raise InvalidArgument.of(path, "needs a range or values")
    when = {name: _plain(values, f"{path}.when.{name}") for name, values in asked.when.items()}
    return Parameter(asked.name, domain, MappingProxyType(when))


def _plain(values: ListValue, path: str) -> tuple[space.Value, ...]:
    found = tuple(run_mapping.whole_numbers(MessageToDict(values)))
    for value in found:
        if not isinstance(value, bool | int | float | str) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise InvalidArgument.of(path, f"must be numbers, texts or truths, not {value!r}")
    return found


def sweep_to_proto(sweep: Sweep, trials: Iterable[Trial]) -> sweep_pb2.Sweep:
    """The sweep as callers see it."""
    known = list(trials)
    return sweep_pb2.Sweep(
        name=str(sweep.name),
        spec=_shown(sweep),
        state=sweep_pb2.Sweep.State.Value(f"STATE_{sweep.state.value}"),
        state_reason=sweep.reason,
        state_message=sweep.message,
        trials=rules.counts(known),
        best=[trial_to_proto(sweep, trial) for trial in rules.best(sweep.spec, known)],
        steps=sum(trial.steps for trial in known),
        last_run=f"runs/{sweep.last_run.run}" if sweep.last_created else "",
        trace_id=trace_id_of(sweep.traceparent),
        create_time=_stamp(sweep.create_time),
        update_time=_stamp(sweep.update_time),
        end_time=_stamp(sweep.end_time),
        creator=sweep.creator,
    )


def trial_to_proto(sweep: Sweep, trial: Trial) -> sweep_pb2.Trial:
    """One trial."""
    values = Struct()
    values.update(dict(trial.values))
    return sweep_pb2.Trial(
        name=f"{sweep.name}/trials/{trial.number}",
        number=trial.number,
        hyperparameters=values,
        state=sweep_pb2.Trial.State.Value(f"STATE_{trial.state.value}"),
        state_message=trial.message,
        values=trial.scores,
        reports=trial.reports,
        runs=[f"runs/{sweep.run_of(trial.number, each).run}" for each in range(1, trial.runs + 1)],
        steps=trial.steps,
        create_time=_stamp(trial.create_time),
        end_time=_stamp(trial.end_time),
    )


def _shown(sweep: Sweep) -> sweep_pb2.SweepSpec:
    """What was asked for, with every default of the search filled in and names without their project."""
    asked, spec = sweep_pb2.SweepSpec.FromString(sweep.asked), sweep.spec
    asked.sampler.CopyFrom(sweep_pb2.Sampler(**vars(spec.sampler)))
    asked.pruner.CopyFrom(sweep_pb2.Pruner(**vars(spec.pruner)))
    asked.parallelism = spec.parallelism
    asked.budget.trials = spec.budget.trials
    for run in (asked.run, asked.last):
        run.dataset, run.code = _in_project(run.dataset), _in_project(run.code)
        run.base_model, run.requirements = _in_project(run.base_model), _in_project(run.requirements)
        for key, version in run.datasets.items():
            run.datasets[key] = _in_project(version)
    if not asked.last.ByteSize():
        asked.ClearField("last")
    return asked


def _in_project(version: str) -> str:
    return version.split("/", 2)[2] if version.startswith("projects/") else version


def _stamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
