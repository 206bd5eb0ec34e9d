"""Runs that somebody else runs, and experiments: what an unmodified MLflow client calls.

A tracked run is a row of the same table as every run, with its points in the same curves; beside it lies what only MLflow
knows: experiment, name, parameters, tags. Owns no loop and emits what runs emit.
"""
