"""Every limit of the public door, with its reason. Seconds and bytes."""

from __future__ import annotations

MIB = 1024 * 1024

JSON_BODY_BYTES_MAX = 4 * MIB  # gRPC's own default for a message: the JSON of one request cannot need more.
TENSOR_BODY_BYTES_MAX = 64 * MIB  # 100 float32 images of 3x224x224; larger input belongs in the blob store.
JSON_DEPTH_MAX = (
    64  # of a prediction's JSON, as of every other: Triton reads it by recursion, and a tensor has eight.
)
CONNECTION_BUFFER_BYTES = 64 * 1024  # per direction and stream; flow control, not a limit on messages.
HTTP2_STREAM_WINDOW_BYTES = 1 * MIB  # a slow upstream holds at most this of a stream in Envoy.
HTTP2_CONNECTION_WINDOW_BYTES = 16 * MIB  # sixteen such streams on one connection.
SERVICE_STREAM_WINDOW_BYTES = (
    64 * 1024
)  # RFC 9113's own: what a watcher that does not read may hold in Envoy.
# All streams of a service share a connection: those that nobody reads must not use up its window for the others.
SERVICE_CONNECTION_WINDOW_BYTES = 512 * MIB
HTTP2_STREAMS_MAX = 1024  # concurrent requests of one client connection.
HEADERS_KIB_MAX = 32  # a JWT is about 1 KiB; gRPC metadata is 8 KiB by default.
HEADERS_MAX = 100  # number of headers.
CONNECTIONS_MAX = 10_000  # file descriptors: each may need one upstream, and 2^16 is a common hard limit.
DEVICES_MAX = 4096  # connections of devices: what NATS takes of them beside the services' own.
# Between two packets of a device: NATS closes one that misses its own keep-alive long before.
DEVICE_IDLE_SECONDS = 24 * 3600
UPSTREAM_CONNECTIONS_MAX = 4096  # to one cluster, HTTP/1.1 included: one request each.
UPSTREAM_REQUESTS_MAX = 8192  # of one cluster, watches included: eight full client connections.
CALLS_AT_ONCE = (
    256  # of people, unary, in one service: what seconds of a restart hold up fits (aios.runtime.gate)
)
# The same while calls are refused: as many as are worked on (aios.runtime.gate), so that nobody waits behind others.
CALLS_AT_ONCE_BUSY = 4
PREDICTIONS_AT_ONCE = (
    256  # of one deployment, on all its replicas: more only wait inside Triton, and all for longer.
)
HEAP_BYTES_MAX = 1024 * MIB  # sixteen full tensor bodies; beyond it requests are refused, not Envoy killed.

CALLS_PER_SECOND = 2000  # of one token, where not set: one busy client makes fewer.
CALLS_TOKENS_MAX = (
    10_000  # tokens whose calls are counted at once; the ones silent for longest are forgotten.
)
RATE_RETRY_SECONDS = 1  # what a client over its rate is told to wait.

HEADERS_SECONDS = 10  # to send the request's headers: a slow-loris client holds a connection no longer.
CONNECTION_IDLE_SECONDS = 3600  # keep-alive between requests.
STREAM_IDLE_SECONDS = 900  # a stream without a byte either way is dead: watches send progress far more often.
PREDICT_SECONDS = 300  # one HTTP prediction, activation of a sleeping deployment included.
CONNECT_SECONDS = 2  # to a service or replica on the same machine or network.
APP_IDLE_SECONDS = (
    1  # below uvicorn's 5 s keep-alive: a connection is closed by Envoy, never under a request.
)
TOKENS_CACHED_MAX = 1024  # verified ones, about 2 MiB: a check is a quarter of Envoy's work for a small call.
CLOCK_SKEW_SECONDS = 5  # between the machine that signs tokens and this one.

HEALTH_INTERVAL_SECONDS = 2  # a dead replica leaves after two misses; retries cover the gap.
HEALTH_RETRY_SECONDS = 0.5  # while a replica is not ready, or not yet used.
HEALTH_TIMEOUT_SECONDS = 2  # a busy two-core machine answers late, not never.
EJECTION_SECONDS = 5  # how long a replica that refuses connections rests, times its number of ejections.
RETRIES = 2  # of a prediction: another replica answers.
RETRY_BUDGET_PERCENT = 20  # of the active requests, so that retries cannot double an overload.
RETRIES_CONCURRENT_MIN = 8  # allowed whatever the budget says: at low traffic 20 % is less than one.

# A call to a service that restarts waits here, and was never sent: about 8 s, below the 10 s that our clients wait.
HOLD_RETRIES = 32
HOLD_BACKOFF_SECONDS, HOLD_BACKOFF_SECONDS_MAX = (
    0.1,
    0.5,
)  # doubles, with full jitter: who waited comes back spread.
# A prediction for a deployment at zero: about 60 s in all, by half of these on average.
ACTIVATION_SECONDS = (
    30  # of a prediction for a deployment at zero, in the gateway; it lets go a little before.
)
WAKE_RETRIES = 1200
WAKE_BACKOFF_SECONDS = 0.1
HELD_MAX = 2048  # such calls of one service at once; beyond them the service is reported as away.
