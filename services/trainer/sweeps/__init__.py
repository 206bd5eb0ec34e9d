"""Searches for good hyperparameters: which trials there are, what each runs next, and when enough is known.

Trials are ordinary runs. What a sweep decides is a function of what is stored, so it decides the same after a crash:
all is pure here but `store`, `service`, `servicer` and `loop`, which applies a decision in one transaction with the
runs that it concerns.

Emits `sweep` events. Holds no study, no pickle and no thread of its own between two decisions.
"""
