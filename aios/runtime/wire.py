"""What both ends of our gRPC connections agree on, and nothing else: a client need not load a server for it."""

MESSAGE_BYTES_MAX = 4 * 1024 * 1024  # gRPC's own default, stated: tensors do not pass here
KEEPALIVE_MILLIS = (
    20_000  # a peer that is stopped is noticed within half a minute, whatever the call's deadline
)
