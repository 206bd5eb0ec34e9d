"""Generated from the protos of package aios.trainer.v1; never edited."""
