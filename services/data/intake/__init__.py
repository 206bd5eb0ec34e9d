"""What devices publish over MQTT, as rows of datasets: a version for each window of time.

NATS's own listener takes messages into a stream; each becomes a row here or a dead message, once, in the transaction
that notes how far the stream was read. Windows are closed by pure rules and committed like anybody's versions.
"""
