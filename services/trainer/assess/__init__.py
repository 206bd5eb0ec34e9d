"""What may go wrong with a classifier: inputs chosen against it, training data read back from it, data that was poisoned."""
