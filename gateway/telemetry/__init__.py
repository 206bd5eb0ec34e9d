"""Traces: takes spans from every process as OTLP over gRPC, keeps the newest, and gives traces back.

Owns one bounded file of spans, which is a cache and no record: it may be deleted at any time. Emits nothing. Where a
collector is set, processes send their spans there instead and this stays empty.
"""
