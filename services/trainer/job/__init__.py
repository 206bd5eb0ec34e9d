"""The training process: a command that a node runs, with the recipe that its run names. Here torch is at home."""
