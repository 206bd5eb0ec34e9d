"""Traces: takes spans from every process as OTLP over gRPC, keeps the newest, and gives traces back.

Owns one bounded file of spans, which is a cache and no record: it may be deleted at any time. Emits nothing, and passes
spans on to a collector where an operator names one.
"""
