"""Generated from the protos of package aios.scheduler.v1; never edited."""
