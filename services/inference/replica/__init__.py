"""One replica of a deployment's revision: a `tritonserver` process and its supervisor.

Owns: the Triton installation of this machine (`install`), the model repository of one revision, the
server process and every process below it, the liveness probe, and the compute spans.
Emits: the replica's state to the inference service, and spans over OTLP.
Never: decides which revision is served, holds more than one, or listens beyond loopback.
"""
