"""Devices that run models where no platform is: which version each is to run, signed by people, and what it answered.

Devices speak over a leaf node of the event bus, below `edge.{project}.{device}`, and are let in by the door that knows
all devices (services/data/intake/door.py). Bytes go by presigned URL, figures are added up here, each once.
"""
