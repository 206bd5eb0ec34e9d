"""The table of processes, and what they are told."""

from pathlib import Path

import pytest

from aios.config import Settings, unknown_variables
from aios.errors import InvalidArgument
from aios.stack import secrets
from aios.stack.child import Service
from aios.stack.layout import Layout
from aios.stack.services import PORTS, STOP_ORDER, environment, settings_of, table

NUMBERED = {name: 20000 + index for index, name in enumerate(PORTS)}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    made.make()
    secrets.prepare(made)
    return made


def services(layout: Layout, given: dict[str, str]) -> dict[str, Service]:
    settings = Settings.load(settings_of(NUMBERED, layout.home, given))
    return {service.name: service for service in table(settings, layout, NUMBERED, given)}


def test_every_service_has_its_place_in_the_order_of_the_end(layout: Layout) -> None:
    assert set(services(layout, {})) == {name for rank in STOP_ORDER for name in rank}


def test_what_a_service_waits_for_is_in_the_table_and_stops_after_it(layout: Layout) -> None:
    found = services(layout, {})
    rank = {name: index for index, names in enumerate(STOP_ORDER) for name in names}
    for name, service in found.items():
        assert service.after <= set(found)
        assert all(rank[name] <= rank[needed] for needed in service.after - {"gateway"})


def test_a_backing_server_with_an_address_is_not_started(layout: Layout) -> None:
    found = services(
        layout, {"AIOS_NATS_URL": "nats://elsewhere:4222", "AIOS_S3_ENDPOINT": "http://elsewhere:9000"}
    )
    assert not {"nats", "s3"} & set(found)
    assert all(not {"nats", "s3"} & service.after for service in found.values())


def test_nats_takes_devices_where_they_have_a_door_and_nowhere_else(layout: Layout) -> None:
    def config(given: dict[str, str]) -> str:
        services(layout, given)
        return (layout.data("nats") / "nats.conf").read_text()

    layout.data("nats").mkdir()
    assert "mqtt" not in config({})
    assert f"port: {NUMBERED['nats_mqtt']}" in config({"AIOS_MQTT_ADDRESS": "127.0.0.1:1883"})
    with pytest.raises(InvalidArgument, match="AIOS_TLS_CERTIFICATE_FILE"):
        config({"AIOS_MQTT_ADDRESS": "0.0.0.0:8883"})


def test_services_are_told_each_others_addresses_and_not_who_the_caller_is(layout: Layout) -> None:
    given = {"AIOS_TOKEN": "secret", "AIOS_PROJECT": "mine", "AIOS_LOG_LEVEL": "DEBUG"}
    told = settings_of(NUMBERED, layout.home, given)
    settings = Settings.load(told)
    assert settings.scheduler_address == f"127.0.0.1:{NUMBERED['scheduler']}"
    assert settings.address == f"http://127.0.0.1:{NUMBERED['envoy']}"
    assert settings.log_level == "DEBUG"
    assert not {"AIOS_TOKEN", "AIOS_PROJECT"} & set(told)
    assert unknown_variables(told) == {}


def test_the_shells_proxy_and_python_path_do_not_reach_services() -> None:
    given = {"http_proxy": "http://proxy", "PYTHONPATH": "/elsewhere", "HOME": "/home/me", "PATH": "/bin"}
    told = environment({}, given)
    assert not {"http_proxy", "PYTHONPATH"} & set(told)
    assert told["HOME"] == "/home/me"
    assert told["PATH"].endswith(":/bin")


def test_no_command_line_carries_a_secret(layout: Layout) -> None:
    held = [file.read_text().strip() for file in layout.secrets.glob("*.token")]
    held += [(layout.secrets / "s3.json").read_text(), (layout.secrets / "nats.json").read_text()]
    words = {part for text in held for part in text.split('"') if len(part) > 12}
    for service in services(layout, {}).values():
        assert not any(word in " ".join(map(str, service.command)) for word in words)
