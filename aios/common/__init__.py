"""The versions of the common contract."""
