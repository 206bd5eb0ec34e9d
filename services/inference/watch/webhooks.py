"""Calls of webhooks: signed, to addresses that were looked at, again until they are taken.

The address is whatever somebody wrote, and this machine sees more of the network than they do: it must be `https://` and
public, the connection goes to the very address that was looked at, and no redirect is followed.
"""

import asyncio
import hashlib
import hmac
import logging
from datetime import timedelta

import httpx

from aios import outside
from aios.errors import InvalidArgument
from aios.records import Database
from aios.runtime.clock import Clock
from services.inference.watch import alert_store
from services.inference.watch.alert_store import Call

SIGNATURE, TIMESTAMP = "x-aios-signature", "x-aios-timestamp"
TRIES_MAX = 10
PAUSE_SECONDS = 5.0
"""Before the second try, which doubles each time: three quarters of an hour in all."""
TIMEOUT_SECONDS = 10.0
LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Webhooks:
    """Calls what is to be called.

    Args:
        inside: Whether addresses that are not public are called too, and over `http://`.
    """

    def __init__(self, db: Database, clock: Clock, *, inside: bool) -> None:
        self._db = db
        self._clock = clock
        self._inside = inside

    async def check(self, url: str) -> None:
        """Refuse an address that would not be called.

        Raises:
            InvalidArgument: says why.
        """
        await asyncio.to_thread(self._pinned, url)

    async def run(self) -> None:
        """Make calls until cancelled."""
        async with httpx.AsyncClient(
            timeout=TIMEOUT_SECONDS, trust_env=False, follow_redirects=False
        ) as http:
            while True:
                due = await self._db.read(lambda tx: alert_store.due_calls(tx, self._clock.now()))
                await asyncio.gather(*(self._make(http, each) for each in due))
                await asyncio.sleep(LOOK_SECONDS)

    async def _make(self, http: httpx.AsyncClient, call: Call) -> None:
        now = self._clock.now()
        timestamp = str(int(now.timestamp()))
        try:
            target, headers, extensions = await asyncio.to_thread(self._pinned, call.url)
            headers |= {
                "content-type": "application/cloudevents+json",
                "user-agent": "aios-alerts",
                TIMESTAMP: timestamp,
                SIGNATURE: signature(call.secret, timestamp, call.body),
            }
            async with asyncio.timeout(TIMEOUT_SECONDS):
                request = http.build_request(
                    "POST", target, content=call.body, headers=headers, extensions=extensions
                )
                answer = await http.send(request, stream=True)  # nobody reads what it says
                await answer.aclose()
            said, taken = f"HTTP {answer.status_code}", answer.is_success
        except InvalidArgument as error:
            said, taken = error.message, False
        except Exception as error:  # noqa: BLE001 - whatever one address makes of it, the calls of others go on
            said, taken = f"no answer: {type(error).__name__}", False
        again = None if taken or call.tries + 1 >= TRIES_MAX else now + pause(call.tries)
        delivery = f"{now:%Y-%m-%d %H:%M:%S} {said}" + (
            "" if taken else ", given up" if again is None else f", try {call.tries + 1} of {TRIES_MAX}"
        )
        if not taken:
            _log.warning("the webhook of %s: %s", call.alert, delivery)
        await self._db.write(lambda tx: alert_store.settle_call(tx, call, delivery, again))

    def _pinned(self, url: str) -> tuple[httpx.URL, dict[str, str], dict[str, object]]:
        if self._inside:
            return outside.pinned(url, ("https", "http"), allow=lambda _: True, field="webhook")
        return outside.pinned(url, ("https",), field="webhook")


def signature(secret: str, timestamp: str, body: str) -> str:
    """What a receiver works out again: `sha256=` and HMAC-SHA-256 of `{timestamp}.{body}`, hexadecimal."""
    made = hmac.new(secret.encode(), f"{timestamp}.{body}".encode(), hashlib.sha256)
    return f"sha256={made.hexdigest()}"


def pause(tries: int) -> timedelta:
    """Until the next try."""
    return timedelta(seconds=PAUSE_SECONDS * 2**tries)
