"""What a node finds in itself and what it gives to a job."""

import random
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from aios.config import Settings
from aios.errors import InvalidArgument
from services.scheduler.agent import capacity, ports, sandbox
from services.scheduler.agent.app import name_of
from services.scheduler.agent.gpus import Gpu, declared, kind_of
from services.scheduler.resources import Resources
from services.scheduler.specs import JobSpec, Kind

OWN = {"AIOS_TOKEN": "secret", "PATH": "/evil", "LANG": "C.UTF-8", "http_proxy": "http://proxy"}


def place(tmp_path: Path, *devices: str) -> sandbox.Place:
    return sandbox.Place(tmp_path, "projects/p/jobs/j", 2, "00-aa-bb-01", {"http": 20000}, devices)


@pytest.mark.parametrize(
    ("product", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "gpu/H100"),
        ("NVIDIA H200", "gpu/H200"),
        ("Tesla V100-SXM2-16GB", "gpu/V100"),
        ("NVIDIA A100-PCIE-40GB", "gpu/A100"),
        ("NVIDIA GeForce RTX 4090", "gpu/RTX-4090"),
        ("Tesla K80", "gpu/K80"),
        ("", "gpu/unknown"),
    ],
)
def test_a_device_type_is_the_model_alone(product: str, kind: str) -> None:
    assert kind_of(product) == kind


def test_a_node_keeps_the_name_under_which_its_directory_was_used(tmp_path: Path) -> None:
    assert name_of(tmp_path, "first", given=False) == "first"
    assert name_of(tmp_path, "renamed", given=False) == "first"
    assert name_of(tmp_path, "told", given=True) == "told"
    assert name_of(tmp_path, "renamed", given=False) == "told"


def test_capacity_is_measured_unless_it_is_set() -> None:
    measured = capacity.measure(Settings(), [Gpu("gpu/A", "1"), Gpu("gpu/A", "2")])
    assert measured.cpu_millis >= 1000
    assert measured.memory_bytes > 2**28
    assert measured.accelerators == {"gpu/A": 2}
    given = capacity.measure(Settings(node_cpu_millis=500, node_memory_bytes=7), [])
    assert given == Resources(500, 7)


def test_a_job_inherits_nothing_but_what_is_listed(tmp_path: Path) -> None:
    spec = JobSpec(("python", "-m", "x"), Resources(2000), environment={"AIOS_JOB_X": "1", "PATH": "/mine"})
    env = sandbox.environment(spec, place(tmp_path), Settings(address="http://door"), OWN)
    assert {"AIOS_TOKEN", "http_proxy"}.isdisjoint(env)
    assert (env["LANG"], env["PATH"], env["AIOS_JOB_X"], env["OMP_NUM_THREADS"]) == (
        "C.UTF-8",
        "/mine",
        "1",
        "2",
    )
    assert (env["AIOS_EPOCH"], env["AIOS_PORT_HTTP"], env["TRACEPARENT"]) == ("2", "20000", "00-aa-bb-01")
    assert (env["AIOS_ADDRESS"], env["CUDA_VISIBLE_DEVICES"]) == ("http://door", "")
    assert env["HOME"] == env["TMPDIR"] == env["AIOS_SCRATCH"] == str(tmp_path / "scratch")


def test_devices_are_named_and_only_training_yields_and_is_fenced(tmp_path: Path) -> None:
    for kind, nice, fenced in ((Kind.BATCH, sandbox.BATCH_NICE, True), (Kind.SERVICE, 0, False)):
        spec = JobSpec(("sh",), Resources(1), kind)
        node = sandbox.Node(Settings(), OWN, tmp_path / "lease")
        told = sandbox.launch(spec, place(tmp_path, "GPU-1", "GPU-2"), node)
        assert (told["nice"], told["fenced"]) == (nice, fenced)
        assert told["environment"]["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
        assert told["command"][0].endswith("/sh")


@pytest.mark.parametrize(("asked", "bound"), [(0, 2 << 30), (3 << 30, 6 << 30)])
def test_a_job_that_asks_for_no_memory_is_bounded_too(tmp_path: Path, asked: int, bound: int) -> None:
    node = sandbox.Node(Settings(), OWN, tmp_path / "lease")
    told = sandbox.launch(JobSpec(("sh",), Resources(1, asked)), place(tmp_path), node)
    assert told["bounds"]["memory_bytes"] == bound


def test_ports_are_free_different_and_not_given_twice() -> None:
    rng = random.Random(1)
    with socket.socket() as busy:
        first = ports.RANGE[rng.randrange(len(ports.RANGE))]
        busy.bind((ports.HOST, first))
        found = ports.pick(3, [first + 1], random.Random(1))
    assert len(set(found)) == 3
    assert {first, first + 1}.isdisjoint(found)
    with pytest.raises(ports.NoPortFree):
        ports.pick(1, ports.RANGE, rng)


def test_devices_that_no_driver_shows_are_declared() -> None:
    found = declared("gpu/T4=2x16GiB, fpga=1")
    assert [(each.kind, each.uuid) for each in found] == [
        ("gpu/T4", "0"),
        ("gpu/T4", "1"),
        ("fpga", "fpga:0"),
    ]
    measured = capacity.measure(Settings(), found)
    assert measured.accelerators == {"gpu/T4": 2, "fpga": 1}
    assert measured.device_memory == {"gpu/T4": 16 << 30}
    with pytest.raises(InvalidArgument, match="must look like"):
        declared("gpu/T4")


def test_a_job_is_told_of_its_share_and_of_devices_that_cuda_does_not_know(tmp_path: Path) -> None:
    spec = JobSpec(("python",), Resources(1000))
    here = replace(place(tmp_path, "0", "fpga:0"), memory_fraction=0.25)
    env = sandbox.environment(spec, here, Settings(address="http://door"), OWN)
    assert (env["CUDA_VISIBLE_DEVICES"], env["AIOS_DEVICES"]) == ("0", "fpga:0")
    assert env["AIOS_GPU_MEMORY_FRACTION"] == "0.2500"


def test_what_else_a_node_has_is_said(tmp_path: Path) -> None:
    found = capacity.budgets("scratch=2GiB, network=1.25GB,license.solver=3")
    assert found == {"scratch": 2 << 30, "network": 1_250_000_000, "license.solver": 3}
    for wrong in ("scratch", "solver=3", "scratch=0"):
        with pytest.raises(InvalidArgument, match="AIOS_NODE_BUDGETS"):
            capacity.budgets(wrong)
