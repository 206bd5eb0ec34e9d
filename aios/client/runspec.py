"""`run.yaml`: what to train, read strictly. Pure.

Every key is known or refused with the likely one; only `hyperparameters` is free, since the recipe or the command owns
their meaning.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError

from aios.common.v1 import resources_pb2, scheduling_pb2
from aios.errors import InvalidArgument
from aios.scheduling import DEVICE_MILLIS, PLAIN
from aios.trainer.v1 import run_pb2

KEYS = (
    "name", "recipe", "command", "entry", "code", "dataset", "datasets", "environment", "stop_grace", "hyperparameters", "resources", "seed", "model", "checkpoint_steps", "max_restarts",
    "description", "priority", "queue", "scheduling", "launcher", "processes", "replicas", "min_replicas", "hang_timeout", "network", "base_model", "requirements",
    "wheel",
)  # fmt: skip
COMMAND_KEYS = (
    "command", "entry", "code", "datasets", "environment", "launcher", "processes", "replicas", "min_replicas", "hang_timeout", "network", "requirements", "wheel",
)  # fmt: skip
LAUNCHERS = {"torchrun": run_pb2.RunSpec.LAUNCHER_TORCHRUN}
NETWORKS = {"platform": False, "node": True}
SIMPLE_KEYS = ("recipe", "seed", "model", "checkpoint_steps", "max_restarts", "description")
SCHEDULING_KEYS = (
    "weight", "expected_duration", "max_run_time", "preemptible", "min_run_time", "deadline", "node_selector", "node_preference",
    "tolerations", "speeds", "topology",
)  # fmt: skip
COUNT_MAX = 2**31
"""Of devices: more than any pool has."""
RESOURCE_KEYS = ("cpu", "memory", "accelerators", "accelerator_memory", "scratch", "network", "counters")
_UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]i?)?B?")


@dataclass(frozen=True)
class RunFile:
    """One file's content."""

    spec: run_pb2.RunSpec
    run_id: str = ""
    """The run's name; made up by the service when empty."""
    code: str = ""
    """Folder with the command's code, as written: relative to the file."""
    requirements: str = ""
    """File with the lock of its packages, in that folder."""
    wheel: str = ""
    """File with a Python wheel, in that folder: the command's code in place of the folder's."""


def parse(given: Mapping[str, Any]) -> RunFile:
    """Read a run as a mapping.

    Raises:
        InvalidArgument: naming every wrong key at once.
    """
    problems: dict[str, str] = {}
    unknown(given, KEYS, "", problems)
    command = _command(given, problems)
    if given.get("recipe"):
        problems |= {
            key: "is for a command, and this names a recipe" for key in COMMAND_KEYS if given.get(key)
        }
    elif not command and not problems.keys() & {"command", "entry"}:
        problems["recipe"] = "is required, or a command: `command: python train.py`, `entry: train.py`"
    for key in (
        "name",
        "recipe",
        "dataset",
        "model",
        "description",
        "code",
        "queue",
        "base_model",
        "requirements",
        "wheel",
    ):
        if given.get(key) is not None and not isinstance(given[key], str):
            problems[key] = f"must be text, not {given[key]!r}"
    if given.get("wheel") and given.get("code"):
        problems["code"] = "is one way to say what the command's code is, `wheel` the other: keep one"
    for key in ("seed", "checkpoint_steps", "max_restarts", "processes", "replicas", "min_replicas"):
        value = given.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            problems[key] = f"must be a whole number of 0 or more, not {value!r}"
    datasets, environment = _texts(given, "datasets", problems), _texts(given, "environment", problems)
    grace = given.get("stop_grace")
    if grace is not None and (isinstance(grace, bool) or not isinstance(grace, int | float) or grace < 0):
        problems["stop_grace"] = f"must be seconds, not {grace!r}"
    for key, known in (("launcher", LAUNCHERS), ("network", NETWORKS)):
        if given.get(key) is not None and given[key] not in known:
            problems[key] = f"must be {' or '.join(known)}, not {given[key]!r}"
    hang = None
    if given.get("hang_timeout") is not None:
        try:
            hang = span(given["hang_timeout"], "hang_timeout")
        except InvalidArgument as error:
            problems |= error.fields
    hyperparameters = given.get("hyperparameters") or {}
    if not isinstance(hyperparameters, Mapping):
        problems["hyperparameters"] = "must be keys with values"
    resources = _resources(given.get("resources") or {}, problems)
    scheduling = _scheduling(given.get("scheduling") or {}, problems)
    priority = given.get("priority", 0)
    if not isinstance(priority, int) or isinstance(priority, bool):
        problems["priority"] = f"must be a whole number, not {priority!r}"
    if problems:
        raise refusal(problems)
    simple = {key: given[key] for key in SIMPLE_KEYS if given.get(key) is not None}
    spec = run_pb2.RunSpec(
        **simple,
        dataset=dataset_name(given["dataset"]) if given.get("dataset") else "",
        datasets={key: dataset_name(name) for key, name in datasets.items()},
        environment=environment,
        command=command,
        priority=priority,
        queue=queue_name(given.get("queue") or ""),
        scheduling=scheduling,
        base_model=model_version_name(given.get("base_model") or ""),
        launcher=LAUNCHERS.get(given.get("launcher") or "", run_pb2.RunSpec.LAUNCHER_UNSPECIFIED),
        processes=given.get("processes") or 0,
        replicas=given.get("replicas") or 0,
        min_replicas=given.get("min_replicas") or 0,
        node_network=NETWORKS.get(given.get("network") or "", False),
    )
    if hang is not None:
        spec.hang_timeout.FromTimedelta(hang)
    if grace is not None:
        spec.stop_grace.FromMilliseconds(round(grace * 1000))
    try:
        ParseDict(dict(hyperparameters), spec.hyperparameters)
    except (ParseError, ValueError, TypeError) as error:
        raise InvalidArgument.of("hyperparameters", f"cannot be sent: {error}") from None
    if resources is not None:
        spec.resources.CopyFrom(resources)
    texts = {key: given.get(key) or "" for key in ("code", "requirements", "wheel")}
    return RunFile(spec, given.get("name") or "", **texts)


def dataset_name(text: str) -> str:
    """`digits` and `digits/{version}` as the contract spells them; longer names are left as they are."""
    dataset, *version = text.split("/")
    if len(version) > 1 or dataset in ("datasets", "projects"):
        return text
    return f"datasets/{dataset}" + "".join(f"/versions/{each}" for each in version)


def model_version_name(text: str) -> str:
    """`digits/3` and `digits/@champion` as the contract spells them; longer names are left as they are."""
    model, slash, version = text.partition("/")
    if not slash or model in ("models", "projects") or "/" in version:
        return text
    return f"models/{model}/versions/{version}"


def queue_name(text: str) -> str:
    """`research` as the contract spells it: `queues/research`."""
    return text if not text or text.startswith("queues/") else f"queues/{text}"


def override(given: dict[str, Any], assignments: Mapping[str, Any]) -> dict[str, Any]:
    """The same with values at dotted paths replaced: `{"hyperparameters.lr": 0.1}`."""
    result = dict(given)
    for path, value in assignments.items():
        *parents, last = path.split(".")
        inner = result
        for part in parents:
            below = inner.get(part)
            if below is not None and not isinstance(below, Mapping):
                raise InvalidArgument.of(path, f"{part} holds one value, not keys")
            inner[part] = dict(below or {})
            inner = inner[part]
        inner[last] = value
    return result


def amount(text: str | float, field: str, unit: int = 1) -> int:
    """`2Gi`, `512MiB`, `1.5` in units of `unit`, as a whole number.

    Raises:
        InvalidArgument: naming `field`.
    """
    match = _AMOUNT.fullmatch(str(text).strip())
    if match is None or match[2] not in (None, *_UNITS):
        raise InvalidArgument.of(field, f"must look like 2 or 512MiB, not {text!r}")
    return round(float(match[1]) * _UNITS[match[2] or ""] * unit)


def span(text: object, field: str) -> timedelta:
    """`90`, `90s`, `15m`, `1.5h`, `2d` as a length of time.

    Raises:
        InvalidArgument: naming `field`.
    """
    match = _SPAN.fullmatch(str(text).strip())
    if match is None or isinstance(text, bool):
        raise InvalidArgument.of(field, f"must look like 90s, 15m, 2h or 1d, not {text!r}")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2] or "s"])


def _scheduling(given: object, problems: dict[str, str]) -> scheduling_pb2.Scheduling | None:
    if not isinstance(given, Mapping):
        problems["scheduling"] = f"must be keys with values: {', '.join(SCHEDULING_KEYS)}"
        return None
    unknown(given, SCHEDULING_KEYS, "scheduling.", problems)
    proto = scheduling_pb2.Scheduling()
    for name in ("expected_duration", "max_run_time", "min_run_time"):
        if given.get(name) is not None:
            try:
                getattr(proto, name).FromTimedelta(span(given[name], f"scheduling.{name}"))
            except InvalidArgument as error:
                problems.update(error.fields)
    if "deadline" in given:
        try:
            proto.deadline.FromDatetime(_moment(given["deadline"]))
        except ValueError:
            problems["scheduling.deadline"] = (
                f"must be a time such as 2030-01-31 18:00+01:00, not {given['deadline']!r}"
            )
    if "topology" in given:
        try:
            proto.topology.CopyFrom(_topology(given["topology"]))
        except ValueError:
            problems["scheduling.topology"] = (
                f"must look like {{key: rack, mode: required}} (or preferred), not {given['topology']!r}"
            )
    plain = {name: given[name] for name in _WANTED if name in given}
    for name, value in plain.items():
        try:
            ParseDict({name: value}, proto)
        except (ParseError, ValueError, TypeError):
            problems[f"scheduling.{name}"] = _WANTED[name] + f", not {value!r}"
    return proto


def _topology(given: object) -> scheduling_pb2.Topology:
    if (
        not isinstance(given, Mapping)
        or not isinstance(given.get("key"), str)
        or given.keys() - {"key", "mode"}
    ):
        raise ValueError
    mode = str(given.get("mode", "required")).upper()
    return scheduling_pb2.Topology(key=given["key"], mode=scheduling_pb2.Topology.Mode.Value(f"MODE_{mode}"))


_WANTED = {
    "weight": "must be a number",
    "preemptible": "must be true or false",
    "node_selector": "must be labels with text, such as {zone: a}",
    "node_preference": "must be labels with text, such as {disk: ssd}",
    "tolerations": "must be names of taints with text, such as {dedicated: lab}",
    "speeds": "must be types with steps a second, such as {gpu/H100: 4.5}",
}


def _moment(value: object) -> datetime:
    """As YAML reads a time or a date, or as text; without a zone in UTC."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        value = datetime.fromisoformat(str(value))
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _command(given: Mapping[str, Any], problems: dict[str, str]) -> list[str]:
    """`command` as a list, or as one line split as a shell would; `entry` is the file that python runs."""
    command, entry = given.get("command"), given.get("entry")
    if command and entry:
        problems["entry"] = "is one way to say what `command` says too: keep one"
    elif entry:
        if isinstance(entry, str):
            return ["python", *shlex.split(entry)]
        problems["entry"] = f"must be a file, such as train.py, not {entry!r}"
    elif isinstance(command, str):
        try:
            return shlex.split(command)
        except ValueError as error:
            problems["command"] = f"cannot be split into words: {error}"
    elif isinstance(command, list) and all(isinstance(word, str | int | float) for word in command):
        return [str(word) for word in command]
    elif command:
        problems["command"] = "must be words: `python train.py --lr 0.1`, or a list of them"
    return []


def _texts(given: Mapping[str, Any], key: str, problems: dict[str, str]) -> dict[str, str]:
    """Keys with text or numbers."""
    found = given.get(key) or {}
    if isinstance(found, Mapping) and all(isinstance(value, str | int | float) for value in found.values()):
        return {str(name): str(value) for name, value in found.items()}
    problems[key] = "must be names with text"
    return {}


def _resources(given: object, problems: dict[str, str]) -> resources_pb2.Resources | None:
    if not isinstance(given, Mapping):
        problems["resources"] = "must be keys with values: cpu, memory, accelerators ..."
        return None
    if not given:
        return None
    unknown(given, RESOURCE_KEYS, "resources.", problems)
    resources = resources_pb2.Resources()
    try:
        if "cpu" in given:
            resources.cpu_millis = amount(given["cpu"], "resources.cpu", 1000)
        if "memory" in given:
            resources.memory_bytes = amount(given["memory"], "resources.memory")
        for key in ("scratch", "network"):
            if key in given:
                resources.budgets[key] = amount(given[key], f"resources.{key}")
    except InvalidArgument as error:
        problems.update(error.fields)
    counters = given.get("counters") or {}
    if isinstance(counters, Mapping) and all(type(count) is int for count in counters.values()):
        resources.budgets.update({str(name): count for name, count in counters.items()})
    else:
        problems["resources.counters"] = "must be names with whole numbers, such as {license.solver: 1}"
    _accelerators(given, resources, problems)
    return resources


def _accelerators(
    given: Mapping[str, Any], resources: resources_pb2.Resources, problems: dict[str, str]
) -> None:
    """Whole devices, or a share of one and what it takes of the device's memory."""
    accelerators, memory = given.get("accelerators") or {}, given.get("accelerator_memory")
    if not isinstance(accelerators, Mapping):
        problems["resources.accelerators"] = "must be types with counts, such as {gpu: 1}"
        return
    for kind, count in accelerators.items():
        field = f"resources.accelerators.{kind}"
        if kind in PLAIN:
            problems[field] = f"is no accelerator: say `{kind}` beside `accelerators`"
        elif isinstance(count, bool) or not isinstance(count, int | float) or not 0 < count < COUNT_MAX:
            problems[field] = (
                f"must be a number of devices, such as 2, or a share of one such as 0.5, not {count!r}"
            )
        elif count != int(count) and count > 1:
            problems[field] = (
                f"must be a share of one device or whole ones, not {count}: say {int(count) + 1}, or less than 1"
            )
        elif count == int(count):
            resources.accelerators[kind] = int(count)
        elif not (millis := round(count * DEVICE_MILLIS)):
            problems[field] = f"must be at least {1 / DEVICE_MILLIS} of a device"
        else:
            resources.accelerator_millis[kind] = min(millis, DEVICE_MILLIS - 1)
    if memory is None:
        return
    if len(resources.accelerator_millis) != 1:
        problems["resources.accelerator_memory"] = "goes with a share of a device: `accelerators: {gpu: 0.5}`"
        return
    try:
        [kind] = resources.accelerator_millis
        resources.accelerator_memory_bytes[kind] = amount(memory, "resources.accelerator_memory")
    except InvalidArgument as error:
        problems.update(error.fields)


def unknown(given: Mapping[str, Any], known: tuple[str, ...], prefix: str, problems: dict[str, str]) -> None:
    """Note every key that is not known, with the likely one."""
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, 1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            problems[f"{prefix}{key}"] = f"unknown key; {advice}"


def refusal(problems: Mapping[str, str]) -> InvalidArgument:
    """All of them in one error."""
    lines = [f"{field}: {problem}" for field, problem in problems.items()]
    return InvalidArgument("; ".join(lines), fields=problems)
