"""Which port each listener gets."""

import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.stack import ports
from aios.stack.ports import PortTaken, choose

USUAL = {"envoy": 8080, "nats": 4222, "filer": 0}
PORTS = st.integers(1, 65535)


def numbered(start: int) -> Callable[[], int]:
    numbers = iter(range(start, 65536))
    return lambda: next(numbers)


def test_a_fresh_home_gets_the_usual_ports_and_any_for_the_rest() -> None:
    chosen = choose(USUAL, {}, {}, lambda port: True, numbered(20000))
    assert chosen == {"envoy": 8080, "nats": 4222, "filer": 20000}


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    chosen = choose(USUAL, {}, {}, lambda port: port != 8080, numbered(20000))
    assert chosen["envoy"] == 20000
    assert chosen["nats"] == 4222


def test_a_restart_keeps_the_ports_that_clients_know() -> None:
    chosen = choose(USUAL, {"envoy": 31000, "filer": 31001}, {}, lambda port: True, numbered(20000))
    assert chosen == {"envoy": 31000, "nats": 4222, "filer": 31001}


def test_a_port_that_the_user_set_is_taken_as_it_is_or_refused() -> None:
    assert choose(USUAL, {"envoy": 31000}, {"envoy": 9000}, lambda port: True, numbered(1))["envoy"] == 9000
    with pytest.raises(PortTaken, match="9000, set for envoy"):
        choose(USUAL, {}, {"envoy": 9000}, lambda port: port != 9000, numbered(1))


@given(
    usual=st.dictionaries(st.text("abcdef", min_size=1), st.one_of(st.just(0), PORTS), max_size=8),
    remembered=st.dictionaries(st.text("abcdef", min_size=1), PORTS, max_size=8),
    taken=st.sets(PORTS, max_size=20),
)
def test_every_listener_gets_a_port_of_its_own(
    usual: dict[str, int], remembered: dict[str, int], taken: set[int]
) -> None:
    held = set(taken)

    def take(port: int) -> bool:
        free = port not in held
        held.add(port)
        return free

    def take_any() -> int:
        return next(port for port in range(1024, 65536) if take(port))

    chosen = choose(usual, remembered, {}, take, take_any)
    assert chosen.keys() == usual.keys()
    assert len(set(chosen.values())) == len(chosen)
    assert not taken & set(chosen.values())


def test_the_address_of_a_service_in_the_environment_asks_for_its_port() -> None:
    given_ports = ports.asked(
        {"AIOS_ENVOY_ADDRESS": "127.0.0.1:9000", "AIOS_DATA_ADDRESS": "", "PATH": "/bin"}
    )
    assert given_ports == {"envoy": 9000}


def test_a_port_in_use_cannot_be_claimed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not ports.claim(server.getsockname()[1])


def test_a_claimed_port_is_nobody_elses_before_anyone_listens_and_free_after_its_owners_death() -> None:
    program = "from aios.stack import ports; print(ports.claim_any(), flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    port = int(other.stdout.readline())
    assert ports.is_free(port)
    assert not ports.claim(port)
    other.kill()
    other.communicate()
    assert ports.claim(port)
    assert not ports.claim(port)
