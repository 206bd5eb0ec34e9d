"""The streams on the NATS server."""

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

MESSAGE_BYTES_MAX = (
    1024 * 1024
)  # what a NATS server takes by default: larger ones belong into the object store
DAY_SECONDS = 24 * 3600.0

MAX_DELIVERIES = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"
EVENTS_NAME, DEAD_NAME, ADVISORIES_NAME = "AIOS_EVENTS", "AIOS_DEAD", "AIOS_ADVISORIES"

DEVICES_NAME, DEVICES_SUBJECTS = "$MQTT_msgs", "$MQTT.msgs."

EVENTS = StreamConfig(
    name=EVENTS_NAME,
    description="Every event of AIOS.",
    subjects=["aios.>"],
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    discard=DiscardPolicy.OLD,
    # Consumers that were away longer re-read their source. ~200,000 events.
    max_age=7 * DAY_SECONDS,
    max_bytes=256 * 1024 * 1024,
    max_msg_size=MESSAGE_BYTES_MAX,
    # A relay that crashed before it noted what it sent sends that again: well within this.
    duplicate_window=10 * 60.0,
)
DEAD = StreamConfig(
    name=DEAD_NAME,
    description="Messages that a consumer gave up, for a person to look at.",
    subjects=["dead.>"],
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    discard=DiscardPolicy.OLD,
    # Longer than a holiday. What is older than that is forgotten, oldest first when there are very many.
    max_age=30 * DAY_SECONDS,
    max_bytes=64 * 1024 * 1024,
    duplicate_window=10 * 60.0,
)
ADVISORIES = StreamConfig(
    name=ADVISORIES_NAME,
    description="What JetStream says about deliveries that failed for good: without it nobody would know.",
    # Not all advisories: there is one for every request to JetStream.
    subjects=[MAX_DELIVERIES],
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    discard=DiscardPolicy.OLD,
    max_age=7 * DAY_SECONDS,
    max_bytes=16 * 1024 * 1024,
)
# The stream in which the server itself keeps what MQTT clients publish with QoS 1 or 2, before it acknowledges that. It
# would drop what no other MQTT client asks for; made by us, it keeps all, and when it is full nothing is acknowledged.
DEVICES = StreamConfig(
    name=DEVICES_NAME,
    description="What devices publish, until it is taken in.",
    subjects=[f"{DEVICES_SUBJECTS}>"],
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    discard=DiscardPolicy.NEW,
    max_bytes=256 * 1024 * 1024,
)
