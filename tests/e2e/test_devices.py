"""Devices that speak MQTT through the TLS door: what they say becomes versions, once; what they may not say, nothing."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import nats
import nats.errors
import paho.mqtt.client as mqtt
import pyarrow as pa
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from aios.client import Client
from aios.data.v1 import ingest_pb2
from aios.stack.authority import Authority
from tests.e2e.stack import Stack, eventually

pytestmark = pytest.mark.timeout(180)

SECONDS = 20.0
CUT_OFF_SECONDS = 5.0
MESSAGES, EACH_BAD = 200, 10
COLUMNS = ("n:int64:required:min=0", "celsius:double:required:min=-90:max=60", "note:string")


class Device:
    """A real client of MQTT."""

    def __init__(self, address: str, authority: Authority, user: str, password: str, client_id: str) -> None:
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, reconnect_on_failure=False
        )
        self.client.username_pw_set(user, password)
        self.client.tls_set(ca_certs=str(authority.certificate))
        self.answered, self.gone = threading.Event(), threading.Event()
        self.refused: str | None = None
        self.heard: list[Any] = []
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = lambda *_: self.gone.set()
        self.client.on_subscribe = lambda _, __, ___, codes, ____: self.heard.extend(codes)
        host, _, port = address.rpartition(":")
        self.client.connect(host, int(port))
        self.client.loop_start()
        assert self.answered.wait(SECONDS)

    def say(self, topic: str, body: object, qos: int = 1) -> None:
        """Publish, and wait until it is acknowledged."""
        data = body if isinstance(body, bytes) else json.dumps(body)
        self.client.publish(topic, data, qos).wait_for_publish(SECONDS)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.refused = str(reason) if reason.is_failure else None
        self.answered.set()


@contextmanager
def connected(
    aios: Stack, authority: Authority, made: dict[str, Any], password: str = "", client_id: str = ""
) -> Iterator[Device]:
    device = Device(
        aios.variables["AIOS_MQTT_ADDRESS"],
        authority,
        made["user"],
        password or made["password"],
        client_id or made["user"],
    )
    with closing(device):
        yield device


def source(aios: Stack, name: str, *options: object) -> None:
    columns = [each for column in COLUMNS for each in ("-c", column)]
    aios.aios("ingest", "mqtt", "create", name, "-d", f"{name}-rows", *columns, *options)


def device(aios: Stack, of: str, name: str) -> dict[str, Any]:
    made: dict[str, Any] = aios.aios("ingest", "device", "create", of, name, "--json").json
    return made


def test_each_good_message_is_in_the_dataset_once_whatever_was_killed_meanwhile(
    aios: Stack, client: Client, authority: Authority, tmp_path: Path
) -> None:
    source(aios, "weather", "--window-seconds", 2, "--window-rows", 40)
    made = [device(aios, "weather", name) for name in ("roof", "cellar")]
    with connected(aios, authority, made[0]) as roof, connected(aios, authority, made[1]) as cellar:
        for n in range(MESSAGES):
            if n in (MESSAGES // 4, MESSAGES // 2):
                aios.kill("data")
            sender, mine = ((roof, made[0]), (cellar, made[1]))[n % 2]
            good = {"n": n, "celsius": n / 10}
            sender.say(mine["topic"], {**good, "celsius": 1000} if n % EACH_BAD == 3 else good)
        cellar.say(made[1]["topic"], b"\xff\x00 no json")

    def all_in() -> ingest_pb2.IngestSource | None:
        now = client.ingest.get("weather")
        return now if now.accepted_count == MESSAGES * 9 // 10 and not now.open_count else None

    ended = eventually(all_in, "every good message is in a version")
    assert ended is not None
    assert ended.rejected_count == MESSAGES // EACH_BAD + 1
    pulled = client.datasets.pull("weather-rows", tmp_path / "rows")
    tables = [pa.ipc.open_file(path).read_all() for path in pulled]
    rows = pa.concat_tables(tables).sort_by("n").to_pylist()
    assert [row["n"] for row in rows] == [n for n in range(MESSAGES) if n % EACH_BAD != 3]
    assert all(row["device"] == ("roof", "cellar")[row["n"] % 2] for row in rows)

    versions = list(client.datasets.versions("weather-rows"))
    assert len(versions) == ended.window_count >= 5
    origins = [dict(client.datasets.version(each.name).origin.parameters) for each in versions]
    assert sum(int(float(str(origin["rows"]))) for origin in origins) == len(rows)
    dead = list(client.ingest.dead("weather"))
    assert dead[0].reason == "NOT_JSON"
    assert {each.detail for each in dead[1:]} == {"celsius must be at least -90 at most 60, not 1000"}


async def test_a_device_may_publish_to_its_own_topic_and_do_nothing_else(
    aios: Stack, client: Client, authority: Authority
) -> None:
    source(aios, "meters")
    mine, other = device(aios, "meters", "one"), device(aios, "meters", "two")
    with connected(aios, authority, mine, password="guessed") as stranger:
        assert stranger.refused == "Not authorized"
    with connected(aios, authority, mine, client_id=other["user"]) as pretender:
        assert pretender.refused == "Not authorized"
    with pytest.raises(nats.errors.Error):
        await nats.connect(
            f"nats://{aios.service_target('nats')}",
            user=mine["user"],
            password=mine["password"],
            allow_reconnect=False,
        )
    with connected(aios, authority, mine) as one:
        assert one.refused is None
        one.client.subscribe(other["topic"], 1)
        one.client.subscribe("#", 0)
        eventually(lambda: len(one.heard) == 2, "both subscriptions are answered")
        assert all(code.is_failure for code in one.heard)
        one.say(other["topic"], {"n": 1, "celsius": 1})
        one.say("$MQTT/msgs/" + other["topic"], {"n": 2, "celsius": 1})
        for qos in (0, 1, 2):
            one.say(mine["topic"], {"n": 3, "celsius": 1}, qos)
        eventually(lambda: client.ingest.get("meters").accepted_count >= 3, "its own messages are taken in")
    assert client.ingest.get("meters").accepted_count == 3


def test_a_device_that_is_deleted_is_cut_off(aios: Stack, authority: Authority) -> None:
    source(aios, "gates")
    made = device(aios, "gates", "north")
    with connected(aios, authority, made) as north:
        aios.aios("ingest", "device", "delete", "gates", "north")
        assert north.gone.wait(CUT_OFF_SECONDS)
    with connected(aios, authority, made) as again:
        assert again.refused == "Not authorized"
