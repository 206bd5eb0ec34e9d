"""What a deployment's spec may say, and how it is changed."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import InvalidArgument
from aios.names import DeploymentName
from services.inference import deployments
from services.inference.deployments import (
    Deployment,
    DeploymentDeleting,
    EtagMismatch,
    Resources,
    Spec,
    State,
    complete,
    edit,
)
from services.inference.policies import Gates, Kind, Rollout, Scaling

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "projects/demo/models/m/versions/"
SPEC = Spec(f"{MODEL}1", 2, Resources(100, 200, {"gpu": 1}), 50)
OTHER = Spec(f"{MODEL}2", 3, Resources(300, 400, {"gpu": 2}), 60)


def test_what_a_spec_leaves_out_gets_its_default_and_what_it_says_stays() -> None:
    filled = complete(Spec(f"{MODEL}latest"))
    assert (filled.replicas, filled.resources.cpu_millis, filled.resources.memory_bytes) == (
        1,
        500,
        512 << 20,
    )
    assert complete(SPEC) == SPEC
    assert complete(filled) == filled


def test_every_wrong_field_is_named_at_once() -> None:
    wrong = Spec("models/m", 17, Resources(-1, 0, {"gpu": -2}), 2_000_000)
    with pytest.raises(InvalidArgument) as refused:
        complete(wrong)
    assert set(refused.value.fields) == {
        "deployment.spec.model_version",
        "deployment.spec.replicas",
        "deployment.spec.batch_delay_micros",
        "deployment.spec.resources.cpu_millis",
        "deployment.spec.resources.accelerators['gpu']",
    }


@pytest.mark.parametrize(
    ("mask", "changed"),
    [
        ([], OTHER),
        (["*"], OTHER),
        (["spec"], OTHER),
        (["spec.replicas"], replace(SPEC, replicas=3)),
        (["spec.replicas", "spec.model_version"], replace(SPEC, replicas=3, model_version=f"{MODEL}2")),
        (["spec.resources"], replace(SPEC, resources=OTHER.resources)),
        (["spec.resources.memory_bytes"], replace(SPEC, resources=Resources(100, 400, {"gpu": 1}))),
        (["state", "etag", "name"], SPEC),
        (["update_time", "spec.batch_delay_micros"], replace(SPEC, batch_delay_micros=60)),
    ],
)
def test_a_mask_says_what_is_changed(mask: list[str], changed: Spec) -> None:
    assert edit(SPEC, OTHER, mask) == changed


@given(st.text())
def test_a_mask_with_a_path_that_no_field_has_is_refused(path: str) -> None:
    known = ("*", "spec", *(f"spec.{name}" for name in vars(SPEC)))
    if path in (*known, *deployments.OUTPUT_ONLY) or path.startswith("spec.resources."):
        return
    with pytest.raises(InvalidArgument):
        edit(SPEC, OTHER, [path])


def test_an_edit_of_what_somebody_else_changed_meanwhile_is_refused() -> None:
    deployment = Deployment(DeploymentName("demo", "web"), SPEC, 3, NOW, NOW)
    changed = deployments.update(deployment, OTHER, deployment.etag, 4, NOW)
    assert (changed.spec, changed.latest) == (OTHER, 4)
    with pytest.raises(EtagMismatch):
        deployments.update(changed, SPEC, deployment.etag, 5, NOW)
    assert deployments.update(changed, SPEC, "", 5, NOW).latest == 5
    with pytest.raises(DeploymentDeleting):
        deployments.update(replace(changed, state=State.DELETING), SPEC, "", 5, NOW)


def test_a_policy_gets_its_defaults_and_every_wrong_field_of_it_is_named() -> None:
    filled = complete(replace(SPEC, rollout=Rollout(Kind.CANARY), scaling=Scaling(0, 4)))
    assert (filled.rollout.steps, filled.rollout.step_seconds) == ((10, 50), 30)
    assert (filled.rollout.gates.requests_min, filled.rollout.gates.errors_percent_max) == (50, 1.0)
    assert (filled.scaling.concurrency, filled.scaling.idle_seconds) == (8.0, 300)
    assert complete(filled) == filled
    wrong = Rollout(Kind.CANARY, (50, 10), -1, Gates(-1, 101.0, -1.0, 0.5), 101, "no header")
    with pytest.raises(InvalidArgument) as refused:
        complete(replace(SPEC, rollout=wrong, scaling=Scaling(5, 4, -1.0, -1.0, -1)))
    assert set(refused.value.fields) == {
        *(f"deployment.spec.rollout.{each}" for each in ("steps", "step_seconds", "mirror_percent")),
        "deployment.spec.rollout.affinity_header",
        *(
            f"deployment.spec.rollout.gates.{each}"
            for each in ("requests_min", "errors_percent_max", "p99_millis_max", "slowdown_max")
        ),
        *(
            f"deployment.spec.scaling.{each}"
            for each in ("min_replicas", "target_concurrency", "target_p99_millis", "idle_seconds")
        ),
    }
