"""The versions of the telemetry contract."""
