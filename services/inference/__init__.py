"""Deployments: which model answers under which name, by how many replicas, and since when.

Emits `deployment` events. Replicas are jobs of the scheduler (`services.inference.replica`), and requests reach them
from Envoy directly: nothing here stands in the way of a prediction, and what was routed last stays routed while this
service is away.
"""
