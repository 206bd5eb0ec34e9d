"""Rules of what is watched in production: alerts, live quality, figures of drift, signatures of webhooks."""

import hashlib
import hmac
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios import outside
from aios.errors import InvalidArgument
from aios.inference.v1 import monitoring_pb2
from services.inference.watch import figures, rules, webhooks
from services.inference.watch.rules import Metric, Rule, Standing
from services.inference.watch.truth import Quality, Said, Verdict, judge

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SLOW = Rule(Metric.P99, 250.0, 60)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_an_alert_fires_once_its_rule_was_broken_for_long_enough() -> None:
    doubted = rules.step(Standing(), SLOW, 300.0, NOW)
    assert doubted == Standing(False, NOW)
    assert rules.step(doubted, SLOW, 300.0, at(59)) == doubted
    assert rules.step(doubted, SLOW, 200.0, at(59)) == Standing()
    assert rules.step(doubted, SLOW, 300.0, at(60)) == Standing(True)


def test_an_alert_is_over_once_its_rule_held_as_long() -> None:
    doubted = rules.step(Standing(True), SLOW, 200.0, NOW)
    assert doubted == Standing(True, NOW)
    assert rules.step(doubted, SLOW, 200.0, at(61)) == Standing(False)


@given(st.booleans(), st.floats(allow_nan=False), st.sampled_from(Metric))
def test_without_a_time_a_figure_decides_at_once(firing: bool, value: float, metric: Metric) -> None:
    rule = Rule(metric, 1.0, 0)
    assert rules.step(Standing(firing), rule, value, NOW).firing == rules.is_broken(rule, value)


def test_what_nobody_knows_changes_nothing() -> None:
    assert rules.step(Standing(True, NOW), SLOW, None, at(900)) == Standing(True)


def test_accuracy_and_replicas_are_broken_from_below() -> None:
    assert rules.is_broken(Rule(Metric.LIVE_ACCURACY, 0.9, 0), 0.89)
    assert not rules.is_broken(Rule(Metric.LIVE_ACCURACY, 0.9, 0), 0.9)
    assert rules.is_broken(Rule(Metric.NO_REPLICA, 0.0, 0), 0.0)
    assert (
        rules.told(Rule(Metric.ERRORS, 5.0, 0), 7.25) == "7.2% of the last minute's requests failed, above 5%"
    )


def test_classes_are_right_or_wrong_and_numbers_are_off() -> None:
    assert judge(Said(label="7"), Said(label="7")) == Verdict(correct=True)
    assert judge(Said(label="7"), Said(value=7.0)) == Verdict(correct=True)
    assert judge(Said(label="7"), Said(label="1")) == Verdict(correct=False)
    assert judge(Said(value=2.0), Said(value=5.0)) == Verdict(off=3.0)
    assert judge(Said(value=2.0), Said(label="1.5")) == Verdict(off=0.5)
    assert judge(Said(value=2.0), Said(label="cat")) == Verdict()
    assert judge(Said(value=math.nan), Said(value=1.0)) == Verdict()
    assert not Quality(49, 1.0).sure
    assert Quality(50, 1.0).sure
    assert not Quality(50, None, 0.1).sure


def test_a_report_says_what_drifted_and_leaves_out_what_few_rows_explain() -> None:
    made = monitoring_pb2.DriftReport()
    figures.read_report(
        made,
        {
            "rows": {"input": 30.0, "baseline": 900.0},
            "drift": {
                "age": {"psi": 0.5, "psi_by_chance": 0.7, "ks": 0.1, "ks_p": 0.3, "drifted": False},
                "image": {"mmd": 0.2, "mmd_p": 0.005, "drifted": True},
                "town": {"psi": 0.3, "psi_by_chance": 0.1, "drifted": True},
            },
        },
    )
    assert (made.rows, made.baseline_rows, made.psi_max) == (30, 900, 0.3)
    assert [(each.column, each.drifted) for each in made.columns] == [
        ("age", False),
        ("image", True),
        ("town", True),
    ]
    assert not made.columns[1].HasField("psi")


def test_a_model_was_trained_on_what_its_run_was_given_and_on_no_code() -> None:
    data, code, more = (f"projects/p/datasets/{name}/versions/{'a' * 16}" for name in ("d", "run-code", "e"))
    run, tuned = "projects/p/runs/r", "projects/p/runs/s"
    model, small = "projects/p/models/m/versions/1", "projects/p/models/m/versions/2"
    edges = [(data, run), (code, run), (run, model), (model, tuned), (tuned, small)]
    assert figures.trained_on(model, edges) == [data]
    assert figures.trained_on(small, edges) == [data], "made of a model that was trained on it"
    assert figures.trained_on(model, [*edges, (more, run)]) == [data, more]
    assert figures.trained_on("projects/p/models/m/versions/3", edges) == []


def test_a_receiver_works_the_signature_out_again() -> None:
    wanted = hmac.new(b"secret", b"1700000000.{}", hashlib.sha256).hexdigest()
    assert webhooks.signature("secret", "1700000000", "{}") == f"sha256={wanted}"
    assert [webhooks.pause(tries).seconds for tries in (0, 1, 8)] == [5, 10, 1280]


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "::ffff:10.0.0.7"])
def test_a_webhook_leads_outside(address: str) -> None:
    with pytest.raises(InvalidArgument, match="not public"):
        outside.pinned("https://hooks.example.org/7", ("https",), lambda host, port: [address])
    with pytest.raises(InvalidArgument, match="scheme"):
        outside.pinned("http://hooks.example.org/7", ("https",), lambda host, port: ["93.184.216.34"])
    target, headers, extensions = outside.pinned(
        "https://hooks.example.org/7?k=1", ("https",), lambda host, port: ["93.184.216.34"]
    )
    assert str(target) == "https://93.184.216.34/7?k=1"
    assert (headers["host"], extensions["sni_hostname"]) == ("hooks.example.org", "hooks.example.org")
