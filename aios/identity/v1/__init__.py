"""Generated from the protos of package aios.identity.v1; never edited."""
