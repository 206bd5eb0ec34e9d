"""Generated from the protos of package aios.telemetry.v1; never edited."""
