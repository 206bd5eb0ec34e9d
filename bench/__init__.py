"""Benchmarks against the promises, each a command: `python -m bench.calls`; all of them: `python -m bench`.

A benchmark prints its progress, then one JSON object as its last line: its figures, and its bars with the value seen.
Ratios are of things measured in turns in one run, so that a busy machine slows both sides.
"""
