"""Who may speak MQTT to NATS, and say what: the server asks at each connection (its auth callout).

A device gets leave to publish to its own topic and to hear nothing. Whoever was deleted is found among those that are
connected, and shut out: a loop, so that nothing that goes wrong between a deletion and its effect leaves a door open.
"""

import asyncio
import logging
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aios.bus import BusUnavailable, Connections
from aios.config import Settings
from aios.errors import AiosError
from aios.records import Database
from aios.runtime import nkeys
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
            user = await self._known(asked)
        except AiosError as error:
            _log.warning("no device can be let in: %s", error)
            user = ""
        if user:
            answer["jwt"] = nkeys.sign(
                self._key, {"sub": subject, "aud": ACCOUNT, "name": user, "nats": may(user)}
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
                found = {each: device_of(each.user) for each in await connections.all()}
                names = [name for name in found.values() if name is not None]
                known = await self._db.read(lambda tx, names=names: store.known(tx, names))  # type: ignore[misc]
                for each, name in found.items():
                    # One that was deleted and created again has another password than it came in with.
                    if name not in known or each.since < known[name]:
                        _log.info("%s is shut out", each.user)
                        await connections.end(each)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await connections.close()

    async def _known(self, asked: dict[str, Any]) -> str:
        """The user name of a device that said its password; empty for anybody else."""
        said, client = asked["connect_opts"], asked["client_info"]
        user = str(said.get("user", ""))
        name = device_of(user)
        # The client id is the device's own: NATS closes the older of two clients of one id, whosever they are.
        if name is None or client.get("type") != "mqtt" or client.get("mqtt_id") != user:
            return ""
        password = str(said.get("pass", ""))
        return user if await self._db.read(lambda tx: store.lets_in(tx, name, password)) else ""


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
