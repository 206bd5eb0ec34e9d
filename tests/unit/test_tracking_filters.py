"""Filters in MLflow's words are read as they are meant, and everything else is refused."""

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import InvalidArgument
from services.trainer.metrics import Point
from services.trainer.tracking import experiments
from services.trainer.tracking.experiments import Experiment
from services.trainer.tracking.filters import Condition, Order, conditions, orders

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = ("start_time",)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("metrics.acc > 0.9", Condition("metric", "acc", ">", (0.9,))),
        ("metric.`a b` <= -1e-3", Condition("metric", "a b", "<=", (-0.001,))),
        ('params."model.name" = "cnn"', Condition("param", "model.name", "=", ("cnn",))),
        ("tags.mlflow.source.type != 'it''s'", Condition("tag", "mlflow.source.type", "!=", ("it's",))),
        ("status = 'FINISHED'", Condition("attribute", "status", "=", ("FINISHED",))),
        ("attributes.start_time >= 17", Condition("attribute", "start_time", ">=", (17.0,))),
        ("params.lr in ('1', '2')", Condition("param", "lr", "IN", ("1", "2"))),
        ("run_id NOT IN ('a')", Condition("attribute", "run_id", "NOT IN", ("a",))),
        ("tags.a ilike '%X%'", Condition("tag", "a", "ILIKE", ("%X%",))),
    ],
)
def test_a_comparison_is_read(text: str, meant: Condition) -> None:
    assert conditions(text, TIMES) == [meant]
    assert conditions(f"{text} AND {text} and {text}", TIMES) == [meant] * 3


@pytest.mark.parametrize(
    "text",
    [
        "metrics.acc",
        "metrics.acc >",
        "metrics.acc > 'high'",
        "metrics.acc LIKE 'a'",
        "params.lr > '1'",
        "params.lr = 1",
        "params.lr = `1`",
        "params.lr IN ()",
        "params.lr IN ('1'",
        "status = 'A' OR status = 'B'",
        "status = 'A' status = 'B'",
        "secrets.key = 'a'",
        "= 'a'",
        "a; drop table runs",
        "x" * 10_001,
        " AND ".join(["metrics.a > 1"] * 51),
    ],
)
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        conditions(text, TIMES)


@given(st.text(alphabet="metricsparams.tags`'\"<>=!() ,ANDLIKEIN01e-%_\\\n", max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        conditions(text, TIMES)


def test_an_order_is_a_name_and_a_way() -> None:
    found = orders(["metrics.acc DESC", "start_time", "params.`a b` asc"])
    assert found == [
        Order("metric", "acc", True),
        Order("attribute", "start_time", False),
        Order("param", "a b", False),
    ]
    for wrong in ("metrics.acc DOWN", "metrics.acc DESC DESC", ""):
        with pytest.raises(InvalidArgument):
            orders([wrong])


def test_experiments_are_found_by_name_and_tag_and_put_in_order() -> None:
    found = [
        Experiment(str(number), name, NOW, NOW, {"team": team}, deleted)
        for number, (name, team, deleted) in enumerate(
            [("Beta", "a", False), ("alpha", "b", False), ("gamma", "a", True)]
        )
    ]

    def names(text: str = "", order: str = "name", view: str = "ALL") -> list[str]:
        asked = conditions(text, experiments.TIMES)
        return [each.name for each in experiments.matching(found, asked, orders([order]), view)]

    assert names() == ["Beta", "alpha", "gamma"]
    assert names(order="experiment_id DESC") == ["gamma", "alpha", "Beta"]
    assert names(view="ACTIVE_ONLY") == ["Beta", "alpha"]
    assert names(view="DELETED_ONLY") == ["gamma"]
    assert names("name ILIKE '%A'") == ["Beta", "alpha", "gamma"]
    assert names("name LIKE 'B_ta'") == ["Beta"]
    assert names("tags.team = 'a' AND name != 'Beta'") == ["gamma"]
    assert names("creation_time > 0") == ["Beta", "alpha", "gamma"]
    with pytest.raises(InvalidArgument):
        names("size > 1")


def test_what_is_no_number_becomes_a_tag() -> None:
    points = [Point("loss", value, step, NOW) for step, value in enumerate((1.0, float("nan"), 2.0))]
    said = experiments.said(points)
    assert [point.step for point in said.points] == [0, 2]
    assert said.tags == {"aios.metric.loss": "nan at step 1"}


def test_what_is_said_twice_or_too_long_is_refused() -> None:
    assert experiments.said(params=[("a", "1"), ("a", "1")]).params == {"a": "1"}
    for wrong in (
        [("a", "1"), ("a", "2")],
        [("", "1")],
        [("k" * 251, "1")],
        [("a", "v" * 6001)],
        [(str(number), "") for number in range(101)],
    ):
        with pytest.raises(InvalidArgument):
            experiments.said(params=wrong)
