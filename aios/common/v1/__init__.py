"""Generated from the protos of package aios.common.v1; never edited."""
