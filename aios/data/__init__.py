"""The versions of the data contract."""
