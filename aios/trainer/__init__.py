"""The versions of the trainer contract."""
