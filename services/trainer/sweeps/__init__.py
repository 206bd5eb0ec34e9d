"""Searches for good hyperparameters: which trials there are, what each runs next, and when enough is known.

Trials are ordinary runs. What a sweep decides is a function of what is stored, so it decides the same after a crash:
`space`, `rules`, `sampling`, `halving`, `population` and `advance` are pure, `loop` applies what they say in one
transaction with the runs it concerns.

Emits `sweep` events. Holds no study, no pickle and no thread of its own between two decisions.
"""
