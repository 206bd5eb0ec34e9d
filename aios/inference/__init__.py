"""The versions of the inference contract."""
