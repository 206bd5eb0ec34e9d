"""The versions of the identity contract."""
