"""How an AIOS process talks: gRPC server and channel, who is calling, traces, logs, start and drain.

Adapters only; no domain rule lives here.
"""
