"""The versions of the scheduler contract."""
