"""Generated from the protos of package aios.inference.v1; never edited."""
