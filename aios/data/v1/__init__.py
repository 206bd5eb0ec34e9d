"""Generated from the protos of package aios.data.v1; never edited."""
