"""Leases: on the monotonic clock, longer on the scheduler's side than on the node's."""

from services.scheduler.nodes import MARGIN, Leases


def test_a_silent_node_is_given_up_only_after_it_has_given_up_itself() -> None:
    leases = Leases(10.0)
    leases.heard("a", 100.0)
    assert leases.expired(["a"], 100.0 + 10.0) == []
    assert leases.expired(["a"], 100.0 + 10.0 * MARGIN) == []
    assert leases.expired(["a"], 100.1 + 10.0 * MARGIN) == ["a"]


def test_after_a_restart_every_node_has_a_whole_lease_to_come_back() -> None:
    leases = Leases(10.0)
    assert leases.expired(["a", "b"], 5000.0) == []
    leases.heard("b", 5010.0)
    assert leases.expired(["a", "b"], 5016.0) == ["a"]


def test_a_forgotten_node_starts_anew() -> None:
    leases = Leases(1.0)
    leases.heard("a", 0.0)
    leases.forget("a")
    assert leases.expired(["a"], 100.0) == []
