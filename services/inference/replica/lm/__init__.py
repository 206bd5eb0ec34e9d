"""Language models: the process beside Triton that holds the weights. Torch lives here and nowhere else in a replica."""
