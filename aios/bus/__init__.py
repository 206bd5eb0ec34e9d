"""Events between services: NATS JetStream, carrying CloudEvents 1.0.

Events are at-least-once hints; SQL is the truth. A service writes an event with its change (`tx.emit`), the `Relay`
publishes it, and a `Consumer` applies it in the transaction that also remembers having done so. Nothing here is
needed to answer a call: while NATS is away, events wait in the outbox.
"""

from aios.bus.bus import Asked, Bus, BusUnavailable
from aios.bus.consumer import Consumer, Handler
from aios.bus.dead import DeadEvent, DeadEvents
from aios.bus.devices import Connections, Devices, Gap, Published
from aios.bus.relay import Relay

__all__ = [
    "Asked",
    "Bus",
    "BusUnavailable",
    "Connections",
    "Consumer",
    "DeadEvent",
    "DeadEvents",
    "Devices",
    "Gap",
    "Handler",
    "Published",
    "Relay",
]
