"""What a run may ask for."""

from datetime import UTC, datetime

import pytest

from aios.errors import InvalidArgument
from aios.trainer.v1 import run_pb2
from services.trainer import catalog, mapping, metrics
from services.trainer.metrics import Point

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_every_setting_is_filled_in() -> None:
    settings = catalog.hyperparameters("image_classifier", {"epochs": 3})
    assert settings["epochs"] == 3
    assert set(settings) == set(catalog.RECIPES["image_classifier"].settings)


def test_whole_numbers_stay_whole_after_json() -> None:
    assert catalog.hyperparameters("image_classifier", {"epochs": 3.0})["epochs"] == 3


@pytest.mark.parametrize(
    ("name", "given", "field", "part"),
    [
        ("image_clasifier", {}, "spec.recipe", "did you mean image_classifier"),
        ("image_classifier", {"epoch": 1}, "spec.hyperparameters.epoch", "did you mean epochs"),
        ("image_classifier", {"epochs": 0}, "spec.hyperparameters.epochs", "between 1 and"),
        ("image_classifier", {"epochs": 1.5}, "spec.hyperparameters.epochs", "whole number"),
        ("image_classifier", {"epochs": True}, "spec.hyperparameters.epochs", "whole number"),
        ("image_classifier", {"learning_rate": "fast"}, "spec.hyperparameters.learning_rate", "number"),
        (
            "image_classifier",
            {"learning_rate": float("nan")},
            "spec.hyperparameters.learning_rate",
            "between",
        ),
        ("image_classifier", {"optimizer": "adm"}, "spec.hyperparameters.optimizer", "one of sgd, momentum"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_takes(
    name: str, given: dict[str, object], field: str, part: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        catalog.hyperparameters(name, given)
    assert list(refused.value.fields) == [field]
    assert part in refused.value.message


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("datasets/d", "projects/p/datasets/d/versions/latest"),
        ("datasets/d/versions/0123", "projects/p/datasets/d/versions/0123"),
        ("projects/p/datasets/d", "projects/p/datasets/d/versions/latest"),
    ],
)
def test_a_dataset_may_be_named_short_or_whole(text: str, name: str) -> None:
    assert str(mapping.dataset_version_asked("p", text)) == name


@pytest.mark.parametrize(
    "text", ["", "d", "models/m", "projects/other/datasets/d", "datasets/../d", "datasets/d/versions/"]
)
def test_what_is_no_dataset_of_the_project_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        mapping.dataset_version_asked("p", text)
    assert "spec.dataset" in refused.value.fields


def test_a_spec_survives_its_way_out_and_in() -> None:
    asked = run_pb2.RunSpec(recipe="image_classifier", dataset="datasets/d", model="m", seed=7)
    spec = mapping.spec_from_proto(asked, {"dataset": "projects/p/datasets/d/versions/v"})
    assert spec.max_restarts == 2
    assert mapping.spec_from_proto(mapping._spec_to_proto(spec), {"dataset": spec.dataset_version}) == spec


@pytest.mark.parametrize(
    ("point", "field"),
    [
        (Point("", 1.0, 0, NOW), "points[0].key"),
        (Point("a\nb", 1.0, 0, NOW), "points[0].key"),
        (Point("loss", float("nan"), 0, NOW), "points[0].value"),
        (Point("loss", 1.0, -1, NOW), "points[0].step"),
    ],
)
def test_a_point_that_cannot_be_drawn_is_refused(point: Point, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        metrics.check([point])
    assert list(refused.value.fields) == [field]


def test_the_newest_value_is_that_of_the_greatest_step() -> None:
    points = [Point("loss", 1.0, 2, NOW), Point("loss", 2.0, 1, NOW), Point("accuracy", 0.5, 1, NOW)]
    assert metrics.newest(points) == {"loss": 1.0, "accuracy": 0.5}
