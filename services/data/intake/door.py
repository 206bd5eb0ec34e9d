"""Which devices may speak to NATS, and say what: the server asks at each connection (its auth callout).

One that speaks MQTT gets leave to publish to its own topic and to hear nothing; the leaf node of an edge device, to speak
below its own subject (services/data/edge). Whoever was deleted is found among those that are
connected, and shut out: a loop, so that nothing that goes wrong between a deletion and its effect leaves a door open.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aios.bus import BusUnavailable, Connections
from aios.config import Settings
from aios.errors import AiosError
from aios.records import Database, Tx
from aios.runtime import nkeys
from services.data.edge import devices as edge_devices
from services.data.edge import store as edge_store
from services.data.intake import store
from services.data.intake.sources import MESSAGE_BYTES_MAX, device_of

ACCOUNT = "$G"
LOOK_SECONDS = 1.5  # a device that was deleted is cut off within 5 s: three looks
SUBSCRIPTIONS_MAX = 1  # the server's own, for its answers: they are denied anyway
TOO_LARGE_BYTES = (
    2 * MESSAGE_BYTES_MAX
)  # what is beyond MESSAGE_BYTES_MAX is told of; beyond this, the server hangs up

_log = logging.getLogger(__name__)


class Door:
    """Answers the server, and closes what is to be closed."""

    def __init__(self, settings: Settings, db: Database, key: Ed25519PrivateKey) -> None:
        self._settings = settings
        self._db = db
        self._key = key

    async def answer(self, request: bytes) -> bytes:
        """Whether a caller may come in, signed."""
        asked = nkeys.claims(request)["nats"]
        answer: dict[str, Any] = {"type": "authorization_response", "version": 2}
        subject = str(asked["user_nkey"])
        try:
            user, leave = await self._known(asked)
        except AiosError as error:
            _log.warning("no device can be let in: %s", error)
            user, leave = "", {}
        if user:
            answer["jwt"] = nkeys.sign(
                self._key, {"sub": subject, "aud": ACCOUNT, "name": user, "nats": leave}
            )
        else:
            answer["error"] = "not a device, or not its password"
        said = {"sub": subject, "aud": str(asked["server_id"]["id"]), "nats": answer}
        return nkeys.sign(self._key, said).encode()

    async def shut_out(self) -> None:
        """Close connections of devices that are no more, again and again. Runs until cancelled."""
        while True:
            try:
                await self._watch()
            except BusUnavailable as error:
                _log.debug("connections of devices are looked at again: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def _watch(self) -> None:
        connections = await Connections.open(self._settings)
        try:
            while True:
                found = await connections.all()
                known = await self._db.read(lambda tx, users=[each.user for each in found]: _known(tx, users))  # type: ignore[misc]
                for each in found:
                    # One that was deleted and created again has another password than it came in with.
                    if each.user not in known or each.since < known[each.user]:
                        _log.info("%s is shut out", each.user)
                        await connections.end(each)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await connections.close()

    async def _known(self, asked: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The user name of a device that said its password, and its leave; nothing for anybody else."""
        said, client = asked["connect_opts"], asked["client_info"]
        user, password = str(said.get("user", "")), str(said.get("pass", ""))
        if client.get("kind") == "Leafnode":
            edge = edge_devices.device_of(user)
            # The server's name is the device's own: NATS closes the older of two leaf nodes of one name.
            if edge is None or said.get("name") != user:
                return "", {}
            known = await self._db.read(lambda tx: edge_store.lets_in(tx, edge, password))
            return (user, edge_devices.may(edge)) if known else ("", {})
        name = device_of(user)
        # The client id is the device's own: NATS closes the older of two clients of one id, whosever they are.
        if name is None or client.get("type") != "mqtt" or client.get("mqtt_id") != user:
            return "", {}
        known = await self._db.read(lambda tx: store.lets_in(tx, name, password))
        return (user, may(user)) if known else ("", {})


def _known(tx: Tx, users: Sequence[str]) -> dict[str, datetime]:
    """When each was created, of those users that are devices."""
    speaking = {name: user for user in users if (name := device_of(user))}
    alone = {edge: user for user in users if (edge := edge_devices.device_of(user))}
    found = {speaking[name]: since for name, since in store.known(tx, speaking).items()}
    return found | {alone[name]: since for name, since in edge_store.known(tx, alone).items()}


def may(user: str) -> dict[str, Any]:
    """What a device may do, as claims of NATS."""
    return {
        "type": "user",
        "version": 2,
        "pub": {"allow": [f"ingest.{user.replace('/', '.')}"]},
        "sub": {"deny": [">"]},
        "subs": SUBSCRIPTIONS_MAX,
        "data": -1,
        "payload": TOO_LARGE_BYTES,
        "allowed_connection_types": ["MQTT"],
    }
